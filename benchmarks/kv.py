"""`pmemheap.kvstore` beside LMDB, RocksDB, LevelDB, SQLite, diskcache and GNU dbm.

    python benchmarks/compare.py --only kv                  everything
    python benchmarks/compare.py --only kv --quick          that it runs
    python benchmarks/compare.py --only kv

100 000 records of 24 + 100 bytes; 8 500 with values from 16 bytes to 16 KiB; 64 values of 1 MiB;
and 1 000 000 records to reopen. Each store lives in a process of its own; they take turns at each
workload of each round, and before a turn the files of the store are synced. Times are microseconds
of an operation, which outside of `apply` is a commit of its own:

    kv, process    no commit waits for the disk. pmemheap: a process store; LMDB: sync=False;
                   SQLite, diskcache: synchronous=OFF; RocksDB, LevelDB: writes without sync
    kv, power      every commit that has returned survives a power failure. pmemheap: a power store;
                   LMDB: as it is; SQLite, diskcache: synchronous=FULL; RocksDB, LevelDB: sync
    kv, disk       bytes that the disk has for each byte of keys and values that was stored
    kv, memory     what a process has resident after the mixes beyond what it had before the store

Values are random, so nobody gains by compression. The mixes are those of YCSB, where few keys are
asked for often: A 50 % updates, B 5 % updates, C reads alone, D 5 % inserts and reads of what is
new, E scans of 1 to 100 records and 5 % inserts, F 50 % read and written back.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from contenders import Contender
from kv_bench import (
    COMMITS_TIMES,
    DISK,
    DURABLE,
    DURABLE_DISK,
    LONGS,
    MEMORY,
    ORDERS,
    TIMES,
    WRITTEN,
    Bench,
    Figures,
    Scale,
    batches_of,
    phase_of,
    reopen_of,
    scale_of,
)
from kv_stores import GROUPS, OURS
from peers import PeerUnavailableError
from plan import Log, Plan, Values, rows
from results import Results
from stores import power_refusal, settle
from workloads import KiB

SECTION_OF = {"process": TIMES, "power": DURABLE}
TURNS = {
    "process": (
        *("fill", "load", "get", "view", "update", "scan"),
        *("mix A", "mix B", "mix C", "mix D", "mix E", "mix F"),
        *("churn", "compact", "reopen", "empty"),
        *("load sized", "churn", "compact", "empty"),
        *LONGS,
    ),
    "power": ("fill", "commit one", "commit many", "churn many", "reopen", *LONGS),
}
"""What each contender does in each round."""
UNITS = {DISK: "x", DURABLE_DISK: "x", MEMORY: "MiB", WRITTEN: "B"}  # Others are times.
BATCHED = {False: (10_000, 100_000), True: (100, 200)}
"""By whether it is quick: records that are put in batches; as many as a large store has, once."""
ONE_SYNC, FILE = "one sync of the disk", "file"
SYNCED_BYTES = 4 * KiB


# ---------------------------------------------------------------------------------------- processes


class _Served:
    """A store; it is asked for phases."""

    def __init__(self, group: str, name: str, scale: Scale, home: Path) -> None:
        self._bench = Bench(GROUPS[group][name], home, scale, SECTION_OF[group])
        self.close = self._bench.close

    def answer(self, phase: str) -> Figures:
        settle(self._bench.directory)
        return phase_of(phase)(self._bench)


# ------------------------------------------------------------------------------------------ section

Contenders = dict[str, Contender]
Taken = dict[str, Values]
"""By section."""


def kv(plan: Plan, results: Results, log: Log) -> None:
    """Measure all workloads without durability, memory, and durable commits and reopenings."""
    _measure("process", plan, results, log)
    _measure_memory(plan, results, log)
    refused = power_refusal()
    if refused is None:
        _measure("power", plan, results, log)
    else:
        results.skipped[DURABLE] = refused


def _measure(group: str, plan: Plan, results: Results, log: Log) -> None:
    taken: Taken = defaultdict(lambda: defaultdict(list))
    scale = scale_of(plan)
    with contextlib.ExitStack() as opened:
        contenders = dict(_opened(group, scale, results, opened))
        for number in range(plan.rounds):
            log(f"kv, {group}: round {number + 1} of {plan.rounds}")
            order = dict(list(contenders.items())[:: -1 if number % 2 else 1])
            _put_batches(BATCHED[plan.quick], order, taken, results)
            for phase in TURNS[group]:
                _take_turns(phase, order, taken)
            if group == "power":
                taken[DURABLE][ONE_SYNC, FILE].append(_sync_us(plan.seconds * COMMITS_TIMES))
        log(f"kv, {group}: {scale.large} records")
        _put_batches((scale.large,), contenders, taken, results)
        grown = _grown(group, scale, contenders, results)
        for _ in range(plan.rounds):
            _take_turns("reopen large", grown, taken)
    _add(taken, results)


def _measure_memory(plan: Plan, results: Results, log: Log) -> None:
    """Measure it once, in processes that have done nothing else."""
    log(MEMORY)
    taken: Taken = defaultdict(lambda: defaultdict(list))
    with contextlib.ExitStack() as opened:
        contenders = dict(_opened("process", scale_of(plan), results, opened))
        _take_turns("memory", contenders, taken)
    _add(taken, results)


def _opened(
    group: str, scale: Scale, results: Results, opened: contextlib.ExitStack
) -> Iterator[tuple[str, Contender]]:
    for name in GROUPS[group]:
        try:
            contender = Contender(_Served, group, name, scale)
        except PeerUnavailableError as refused:
            results.skipped[f"kv, {group} on {name}"] = str(refused)
        else:
            yield name, opened.enter_context(contextlib.closing(contender))


def _take_turns(phase: str, contenders: Contenders, taken: Taken) -> None:
    for name, contender in contenders.items():
        for section, case, value in contender.turn(phase):
            taken[section][case, name].append(value)


def _put_batches(
    counts: Sequence[int], contenders: Contenders, taken: Taken, results: Results
) -> None:
    """Let all put so many records, in order and in none, into an empty store."""
    for count, order in itertools.product(counts, ORDERS):
        for name, contender in contenders.items():
            try:
                _take_turns(batches_of(count, order), {name: contender}, taken)
            except PeerUnavailableError as refused:
                results.skipped[f"kv, {count:,} {order} on {name}"] = str(refused)


def _grown(group: str, scale: Scale, contenders: Contenders, results: Results) -> Contenders:
    """Let all make a large store; return who could."""
    grown = {}
    for name, contender in contenders.items():
        try:
            contender.turn("grow")
        except PeerUnavailableError as refused:
            case = f"{SECTION_OF[group]}, {reopen_of(scale.large)}"
            results.skipped[f"{case} on {name}"] = str(refused)
        else:
            grown[name] = contender
    return grown


def _sync_us(seconds: float) -> float:
    """Return the microseconds of the least that makes bytes last: a write into a file, a sync."""
    page, done = os.urandom(SYNCED_BYTES), 0
    with tempfile.NamedTemporaryFile() as file:
        fd = file.fileno()
        os.pwrite(fd, page, 0)
        os.fsync(fd)  # The file has its length and its block.
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            os.pwrite(fd, page, 0)
            os.fdatasync(fd)
            done += 1
    return took / done * 1e6


def _add(taken: Taken, results: Results) -> None:
    for section, values in taken.items():
        results.add(rows(section, UNITS.get(section, "us"), values))


# ---------------------------------------------------------------------------------------- judgement


def best_peer(
    results: Results, section: str, case: str, names: Sequence[str] | None = None
) -> float:
    """Return the least median of others, or of these names; NaN where nobody did it."""
    chosen = [name for name in results.contenders(section) if name != OURS]
    taken = [results.median(section, case, name) for name in (chosen if names is None else names)]
    return min((each for each in taken if not math.isnan(each)), default=math.nan)


def ratio_to_best_peer(
    results: Results, section: str, case: str, names: Sequence[str] | None = None
) -> float:
    """Return our median by theirs; NaN where one is missing, or theirs is nothing."""
    theirs = best_peer(results, section, case, names)
    return results.median(section, case, OURS) / theirs if theirs else math.nan
