"""The key-value store of the examples beside LMDB, RocksDB, LevelDB, SQLite, diskcache and GNU dbm.

    python benchmarks/kv.py                  everything
    python benchmarks/kv.py --quick          that it runs
    python benchmarks/compare.py --only kv

100 000 records of 24 + 100 bytes. Each store lives in a process of its own; they take turns at each
workload of each round, and before a turn the files of the store are synced. Figures are
microseconds of an operation, which outside of `apply` is a commit of its own:

    kv, process    no commit waits for the disk. pmemheap: a process store; LMDB: sync=False;
                   SQLite, diskcache: synchronous=OFF; RocksDB, LevelDB: writes without sync
    kv, power      every commit that has returned survives a power failure. pmemheap: a power store;
                   LMDB: as it is; SQLite, diskcache: synchronous=FULL; RocksDB, LevelDB: sync
    kv, disk       bytes that the disk has for each byte of keys and values that was stored

Values are random, so nobody gains by compression. The mixes are those of YCSB, where few keys are
asked for often: A 50 % updates, B 5 % updates, C reads alone, D 5 % inserts and reads of what is
new, E scans of 1 to 100 records and 5 % inserts, F 50 % read and written back.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kv_stores import GROUPS, OURS, Kv, Make, Pairs
from peers import PeerUnavailableError
from plan import Log, Plan, Values, calibrated, rows
from results import Results
from stores import power_refusal, settle
from workloads import KiB, MiB

TIMES, DURABLE, DISK = "kv, process", "kv, power", "kv, disk"
SECTIONS = (TIMES, DURABLE, DISK)
KEY_BYTES, VALUE_BYTES = 24, 100
RECORD_BYTES = KEY_BYTES + VALUE_BYTES
VALUES = 997  # Different ones; what a key gets next is another one than it has.
SCANNED = 25
MOST_SCANNED = 100  # In mix E.
BATCH = 100
SPREAD = 0x9E37_79B9_7F4A_7C15  # Odd: numbers times this, modulo 2**64, come in no order.
ZIPF = 0.99
BIG_BYTES = MiB
PATCH_BYTES = 4 * KiB
READS_TIMES, COMMITS_TIMES = 4, 10  # Times the least duration of a loop.
BLOCK_BYTES = 512  # Of st_blocks, whatever the file system has.

READ, WRITE, SCAN, MODIFY = range(4)
MIXES = {
    "A": {"read": 50, "update": 50},
    "B": {"read": 95, "update": 5},
    "C": {"read": 100},
    "D": {"latest": 95, "insert": 5},
    "E": {"scan": 95, "insert": 5},
    "F": {"read": 50, "modify": 50},
}
Operation = tuple[int, bytes, Any]
Figures = list[tuple[str, str, float]]
"""Section, case, value."""


@dataclass(frozen=True)
class Scale:
    """How much is done in one turn.

    Attributes
    ----------
    records : int
        In the store.
    operations, scans, bigs : int
        Of one turn: single ones, scans, and values of 1 MiB.
    seconds : float
        Least duration of a loop that only reads.
    """

    records: int
    operations: int
    scans: int
    bigs: int
    seconds: float


def scale_of(plan: Plan) -> Scale:
    if plan.quick:
        return Scale(300, 60, 10, 2, plan.seconds)
    return Scale(100_000, 20_000, 2_000, 64, plan.seconds)


def key_of(number: int) -> bytes:
    """Return the key of the record that was inserted as the number-th."""
    return b"user%020d" % (number * SPREAD % 2**64)


# ------------------------------------------------------------------------------------ one contender


class Bench:
    """A store, what is in it, and what is done to it; the same for each store by the same seed."""

    def __init__(self, make: Make, home: Path, scale: Scale) -> None:
        self._make, self._home, self._scale = make, home, scale
        self._rng = random.Random(1)
        self._values = cycle([self._rng.randbytes(VALUE_BYTES) for _ in range(VALUES)])
        self._weights = list(accumulate((rank + 1) ** -ZIPF for rank in range(scale.records)))
        self._live: list[bytes] = []
        self._inserted = 0
        self._stores = 0
        self._open()

    def _open(self) -> None:
        self.directory = self._home / str(self._stores)
        self.directory.mkdir(exist_ok=True)
        self.store: Kv = self._make(self.directory)

    def close(self) -> None:
        self.store.close()

    def _renew(self) -> None:
        """Begin with an empty store."""
        self.store.close()
        shutil.rmtree(self.directory)
        self._live.clear()
        self._stores += 1
        self._open()

    def _fresh(self, count: int) -> list[tuple[bytes, bytes]]:
        """Return records that were never there; they are from now on."""
        first, self._inserted = self._inserted, self._inserted + count
        keys = [key_of(number) for number in range(first, self._inserted)]
        self._live += keys
        return list(zip(keys, self._values, strict=False))

    def _some(self, count: int) -> list[bytes]:
        return self._rng.choices(self._live, k=count)

    def _popular(self, count: int) -> list[int]:
        """Return places in the list of records, the first ones most often."""
        return self._rng.choices(range(len(self._weights)), cum_weights=self._weights, k=count)

    # ------------------------------------------------------------ writing

    def fill(self) -> Figures:
        """Insert all records, in commits of 100."""
        self._renew()
        apply = self.store.apply
        if apply is None:
            return []
        records = self._fresh(self._scale.records)
        batches = [records[start : start + BATCH] for start in range(0, len(records), BATCH)]
        took = _each(apply, [(batch,) for batch in batches])
        return [(TIMES, f"load, {BATCH} a commit", took * len(batches) / len(records))]

    def load(self) -> Figures:
        self._renew()
        took = _each(self.store.put, self._fresh(self._scale.records))
        return [(TIMES, "load", took), self._disk("loaded")]

    def update(self) -> Figures:
        pairs = list(zip(self._some(self._scale.operations), self._values, strict=False))
        return [(TIMES, "update", _each(self.store.put, pairs))]

    def churn(self) -> Figures:
        """Replace records by others; half as many as there are, at least."""
        live, drawn = self._live, []
        count = max(self._scale.operations, self._scale.records // 2)
        for _ in range(count):
            place = self._rng.randrange(len(live))
            victim, live[place] = live[place], live[-1]
            live.pop()
            drawn.append((victim, *self._fresh(1)[0]))
        delete, put = self.store.delete, self.store.put

        def replace(victim: bytes, key: bytes, value: bytes) -> None:
            delete(victim)
            put(key, value)

        return [(TIMES, "churn: delete + insert", _each(replace, drawn)), self._disk("churned")]

    def compact(self) -> Figures:
        self.store.compact()
        self._verify()
        return [self._disk("churned, compacted")]

    def empty(self) -> Figures:
        """Delete everything; what the disk has then, for each byte that was stored before."""
        stored = len(self._live)
        self._rng.shuffle(self._live)
        took = _each(self.store.delete, [(key,) for key in self._live])
        figures = [(TIMES, "delete", took), self._disk("all deleted", stored)]
        self.store.compact()
        return [*figures, self._disk("all deleted, compacted", stored)]

    # ------------------------------------------------------------ reading

    def get(self) -> Figures:
        return [(TIMES, "get", self._reads(self.store.get))]

    def view(self) -> Figures:
        if self.store.view is None:
            return []
        return [(TIMES, "view", self._reads(self.store.view))]

    def _reads(self, read: Callable[[bytes], Any]) -> float:
        keys = self._some(self._scale.operations)

        def loop(loops: int) -> float:
            asked = list(islice(cycle(keys), loops))
            began = time.perf_counter()
            for key in asked:
                read(key)
            return time.perf_counter() - began

        return calibrated(loop, self._scale.seconds * READS_TIMES) * 1e6

    def scan(self) -> Figures:
        if self.store.scan is None:
            return []
        starts = [(key, SCANNED) for key in self._some(self._scale.scans)]
        return [(TIMES, f"scan of {SCANNED}", _each(self.store.scan, starts))]

    def reopen(self) -> Figures:
        """Close it, and time the way from there to the first value."""
        key = self._some(1)[0]
        self.store.close()
        began = time.perf_counter()
        self._open()
        found = self.store.get(key)
        took = time.perf_counter() - began
        assert found is not None
        return [(TIMES, "reopen and get", took * 1e6)]

    def _verify(self) -> None:
        """Make sure that it keeps what it was given: no store wins by losing records."""
        for key in self._some(BATCH):
            found = self.store.get(key)
            assert found is not None, key
            assert len(found) == VALUE_BYTES, key
        if self.store.scan is not None:
            entries = self.store.scan(b"", SCANNED)
            assert [key for key, _ in entries] == sorted(self._live)[:SCANNED]

    # ------------------------------------------------------------ mixes

    def mix(self, name: str) -> Figures:
        shares = MIXES[name]
        scan = self.store.scan
        if "scan" in shares and scan is None:
            return []
        count = self._scale.scans if "scan" in shares else self._scale.operations
        took = self._run(list(self._drawn(shares, count)))
        return [(TIMES, f"mix {name}", took)]

    def _drawn(self, shares: dict[str, int], count: int) -> Iterator[Operation]:
        kinds = self._rng.choices(list(shares), weights=list(shares.values()), k=count)
        for kind, place in zip(kinds, self._popular(count), strict=True):
            match kind:
                case "read":
                    yield READ, self._live[place], None
                case "latest":
                    yield READ, self._live[-1 - place], None
                case "update":
                    yield WRITE, self._live[place], next(self._values)
                case "insert":
                    yield WRITE, *self._fresh(1)[0]
                case "scan":
                    yield SCAN, self._live[place], self._rng.randint(1, MOST_SCANNED)
                case _:
                    yield MODIFY, self._live[place], next(self._values)

    def _run(self, operations: list[Operation]) -> float:
        get, put, scan = self.store.get, self.store.put, self.store.scan
        began = time.perf_counter()
        for kind, key, what in operations:
            if kind == READ:
                get(key)
            elif kind == WRITE:
                put(key, what)
            elif kind == SCAN:
                assert scan is not None
                scan(key, what)
            else:
                get(key)
                put(key, what)
        return (time.perf_counter() - began) / len(operations) * 1e6

    # ------------------------------------------------------------ long values

    def big(self) -> Figures:
        """Put, get and patch values of 1 MiB, in a store that has nothing else."""
        self._renew()
        pairs = [
            (key_of(number), self._rng.randbytes(BIG_BYTES)) for number in range(self._scale.bigs)
        ]
        put = _each(self.store.put_long, pairs)
        settle(self.directory)
        get = _each(self.store.get_long, [(key,) for key, _ in pairs])
        places = [
            (key, self._rng.randrange(BIG_BYTES - PATCH_BYTES), self._rng.randbytes(PATCH_BYTES))
            for key, _ in pairs
        ]
        patch = _each(self.store.patch, places)
        for key, offset, data in places[:2]:
            assert self.store.get_long(key)[offset : offset + PATCH_BYTES] == data
        times = {"put": put, "get": get, f"patch of {PATCH_BYTES // KiB} KiB": patch}
        return [(TIMES, f"1 MiB: {what}", took) for what, took in times.items()]

    # ------------------------------------------------------------ commits

    def commit_one(self) -> Figures:
        put = self.store.put

        def commit(pairs: Pairs) -> None:
            put(*pairs[0])

        return [(DURABLE, "commit of 1", self._commits(commit, 1))]

    def commit_many(self) -> Figures:
        apply = self.store.apply
        if apply is None:
            return []
        return [(DURABLE, f"commit of {BATCH}", self._commits(apply, BATCH))]

    def _commits(self, commit: Callable[[Pairs], None], operations: int) -> float:
        """Return the microseconds of a commit."""
        batches = [
            list(zip(self._some(operations), self._values, strict=False)) for _ in range(BATCH)
        ]
        done, limit = 0, self._scale.seconds * COMMITS_TIMES
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < limit:
            commit(batches[done % BATCH])
            done += 1
        return took / done * 1e6

    # ------------------------------------------------------------ the disk

    def _disk(self, case: str, records: int | None = None) -> tuple[str, str, float]:
        settle(self.directory)
        taken = 0
        for path in self.directory.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # Some stores clean up by themselves.
                taken += path.stat().st_blocks * BLOCK_BYTES if path.is_file() else 0
        stored = (len(self._live) if records is None else records) * RECORD_BYTES
        return DISK, case, taken / stored


def _each(call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> float:
    """Return the microseconds of a call."""
    began = time.perf_counter()
    for words in arguments:
        call(*words)
    return (time.perf_counter() - began) / len(arguments) * 1e6


# ---------------------------------------------------------------------------------------- processes

PHASES: dict[str, Callable[[Bench], Figures]] = {
    "fill": Bench.fill,
    "load": Bench.load,
    "get": Bench.get,
    "view": Bench.view,
    "update": Bench.update,
    "scan": Bench.scan,
    "mix A": lambda bench: bench.mix("A"),
    "mix B": lambda bench: bench.mix("B"),
    "mix C": lambda bench: bench.mix("C"),
    "mix D": lambda bench: bench.mix("D"),
    "mix E": lambda bench: bench.mix("E"),
    "mix F": lambda bench: bench.mix("F"),
    "churn": Bench.churn,
    "compact": Bench.compact,
    "reopen": Bench.reopen,
    "empty": Bench.empty,
    "big": Bench.big,
}
COMMITS: dict[str, Callable[[Bench], Figures]] = {
    "one": Bench.commit_one,
    "many": Bench.commit_many,
}


class Contender:
    """A store in a process of its own.

    Raises
    ------
    PeerUnavailableError
        It cannot be had here; with what to install.
    """

    def __init__(self, group: str, name: str, scale: Scale) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        words = (group, name, scale, theirs)
        self._process = context.Process(target=_serve, args=words, daemon=True)
        self._process.start()
        theirs.close()
        refused = self._pipe.recv()
        if refused is not None:
            self._process.join()
            raise PeerUnavailableError(refused)

    def turn(self, phase: str) -> Figures:
        """Let it do one phase; its files are synced before."""
        self._pipe.send(phase)
        figures: Figures = self._pipe.recv()
        return figures

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(None)
        self._process.join()


def _serve(group: str, name: str, scale: Scale, pipe: Connection) -> None:
    with tempfile.TemporaryDirectory() as home:
        try:
            bench = Bench(GROUPS[group][name], Path(home), scale)
        except (PeerUnavailableError, ValueError) as refused:
            pipe.send(str(refused))
            return
        pipe.send(None)
        phases = PHASES | COMMITS
        while (asked := pipe.recv()) is not None:
            settle(bench.directory)
            pipe.send(phases[asked](bench))
        bench.close()


# ------------------------------------------------------------------------------------------ section


def kv(plan: Plan, results: Results, log: Log) -> None:
    """Measure all workloads without durability, and durable commits of 1 and 100 operations."""
    _measure("process", (), tuple(PHASES), plan, results, log)
    refused = power_refusal()
    if refused is not None:
        results.skipped[DURABLE] = refused
        return
    _measure("power", ("fill",), tuple(COMMITS), plan, results, log)


def _measure(
    group: str, before: Sequence[str], phases: Sequence[str], plan: Plan, results: Results, log: Log
) -> None:
    values: dict[str, Values] = {section: defaultdict(list) for section in SECTIONS}
    scale = scale_of(plan)
    with contextlib.ExitStack() as opened:
        contenders = dict(_opened(group, scale, results, opened))
        for phase in before:
            log(f"kv, {group}: {phase}")
            for contender in contenders.values():
                contender.turn(phase)
        for number in range(plan.rounds):
            log(f"kv, {group}: round {number + 1} of {plan.rounds}")
            for phase in phases:
                for name, contender in contenders.items():
                    for section, case, value in contender.turn(phase):
                        values[section][case, name].append(value)
    for section, taken in values.items():
        results.add(rows(section, "x" if section == DISK else "us", taken))


def _opened(
    group: str, scale: Scale, results: Results, opened: contextlib.ExitStack
) -> Iterator[tuple[str, Contender]]:
    for name in GROUPS[group]:
        try:
            contender = Contender(group, name, scale)
        except PeerUnavailableError as refused:
            results.skipped[f"kv, {group} on {name}"] = str(refused)
        else:
            yield name, opened.enter_context(contextlib.closing(contender))


def ratio_to_best_peer(results: Results, section: str, case: str) -> float:
    """Return our median by the least median of the others; NaN where one is missing."""
    ours = results.median(section, case, OURS)
    theirs = [
        row.median
        for row in results.rows
        if (row.section, row.case) == (section, case) and row.contender != OURS
    ]
    return ours / min(theirs, default=float("nan"))


if __name__ == "__main__":
    from compare import main

    main(["--only", "kv", *sys.argv[1:]])
