"""Commits a second and bytes written for each, beside SQLite, LMDB and libpmemobj, in one run.

    python benchmarks/compare.py --only commits,recovery,bare      commits, recovery, bare calls
    python benchmarks/compare.py --only commits,recovery,bare --quick      that they run

All contenders keep the same table on the same file system and promise the same: in the durable
section that a commit which has returned survives a power failure, in the lazy one that it survives
the end of its process. They take turns in each round; medians and their ratios are what counts.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator

from contenders import Contender
from peers import PeerUnavailableError
from plan import Log, Plan, Values, rows
from results import Results
from stores import GROUPS, TABLE_ENTRY_BYTES, VALUE_BYTES, Timed, Turn, power_refusal

DURABLE, LAZY = "commits, durable", "commits, lazy"
LOGGED, SYNCED, WRITTEN = "log bytes", "syncs of the log", "bytes to the disk"  # A commit.
SYNCED_ALONE = "syncs of the log, nothing else due"
SECTION_OF = {"durable": DURABLE, "lazy": LAZY}
OURS, SQLITE, LMDB, LMDB_MAPPED = "pmemheap", "SQLite WAL, FULL", "LMDB", "LMDB, writemap"
OURS_LAZY, SQLITE_LAZY = "pmemheap, process", "SQLite WAL, NORMAL"
OPERATIONS = (1, 10, 100)
PAYLOAD_BYTES = VALUE_BYTES + TABLE_ENTRY_BYTES
SECONDS_OF = {"durable": 10, "lazy": 2}  # Times those of a loop: the time of a sync varies.


def case_of(operations: int) -> str:
    return f"{operations} operation{'s' if operations > 1 else ''}"


def commits(plan: Plan, results: Results, log: Log) -> None:
    """Measure commits of 1, 10 and 100 operations, durable and lazy."""
    refused = power_refusal()
    if refused is not None:
        results.skipped["commits"] = refused
        return
    for group, section in SECTION_OF.items():
        with contextlib.ExitStack() as opened:
            contenders = dict(_opened(group, results, opened))
            turns = _turns(plan, contenders, plan.seconds * SECONDS_OF[group], log, section)
        _add(results, section, turns)


def _opened(
    group: str, results: Results, opened: contextlib.ExitStack
) -> Iterator[tuple[str, Contender]]:
    for name in GROUPS[group]:
        try:
            yield name, opened.enter_context(contextlib.closing(Contender(Timed, group, name)))
        except PeerUnavailableError as refused:
            results.skipped[f"{SECTION_OF[group]} on {name}"] = str(refused)


Turns = dict[tuple[str, str], list[Turn]]


def _turns(
    plan: Plan, contenders: dict[str, Contender], seconds: float, log: Log, section: str
) -> Turns:
    turns: Turns = defaultdict(list)
    for number in range(plan.rounds):
        log(f"{section}: round {number + 1} of {plan.rounds}")
        for operations in OPERATIONS[: 2 if plan.quick else None]:
            for name, contender in contenders.items():
                turns[case_of(operations), name].append(contender.turn((operations, seconds)))
    return turns


def _add(results: Results, section: str, turns: Turns) -> None:
    rates: Values = {}
    logged: Values = {}
    synced: Values = {}
    alone: Values = {}
    written: Values = {}
    for (case, name), taken in turns.items():
        rates[case, name] = [turn.commits / turn.seconds for turn in taken]
        place = case, name
        if any(turn.disk_bytes for turn in taken):
            written[place] = [turn.disk_bytes / turn.commits for turn in taken]
        if any(turn.log_bytes for turn in taken):
            logged[place] = [turn.log_bytes / turn.commits for turn in taken]
            synced[place] = [turn.syncs / turn.commits for turn in taken]
            alone[place] = [float(turn.fewest_syncs) for turn in taken]
    results.add(rows(section, "commits/s", rates))
    results.add(rows(f"{section}: {WRITTEN}", "bytes", written))
    results.add(rows(f"{section}: {LOGGED}", "bytes", logged))
    results.add(rows(f"{section}: {SYNCED}", "syncs", synced))
    results.add(rows(f"{section}: {SYNCED_ALONE}", "syncs", alone))
