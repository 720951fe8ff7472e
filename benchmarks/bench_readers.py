"""Readers beside a writer: what snapshots cost who reads, and who writes; LMDB beside them.

    python benchmarks/bench_readers.py table 100000            all of it, with LMDB if it is there
    python benchmarks/bench_readers.py --fast                  ours alone, with pyperf

What a row compares takes turns, in both orders: what else the machine does meets all of them. A
row has the medians of the rounds, and that of their ratios. Records are 24 + 100 bytes. LMDB
"process" is sync=False, "power" as it is.

"beside" of a row is the writer's own call, a heap that lets no readers in, or LMDB; "at most" what
was hoped for. A reader and a writer of one row live in one process, so that they can take turns:
the heap is opened twice, and its snapshot goes on before each turn. Those of the last rows are
processes of their own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pyperf

from pmemheap import Heap
from pmemheap.containers import SortedMap
from pmemheap.file.locks import LEASE
from pmemheap.heap.readers import recycle
from pmemheap.heap.space import space_of
from pmemheap.units import GiB

lmdb: Any = importlib.import_module("lmdb") if importlib.util.find_spec("lmdb") else None

ROUNDS = 31
ATTACHES = 7
CALLS = 4000
DURABLE_CALLS = 60
BATCH = 256
SCAN = 25
SECONDS = 1.5
GETS = 100
"""Of a snapshot, before it goes on."""
PROCESSES = (1, 2, 4, 8)
Call = Callable[[bytes], object]


def key_of(number: int) -> bytes:
    return b"user:%019d" % number


def value_of(number: int) -> bytes:
    return (b"%020d" % number) * 5


# ---------------------------------------------------------------- stores


class Ours:
    """A heap with a map, open to be changed; open to be read as well, if it is to be."""

    def __init__(
        self, path: Path, count: int, *,
        durability: Any, readers: bool = False, is_read: bool = False,
    ) -> None:  # fmt: skip
        self.heap = Heap.create(path, durability=durability, readers=readers)
        self.table = SortedMap(self.heap, "table")
        self.put_many(0, count)
        self.path, self.count = path, count
        self.reader = Heap.open(path, readonly=True) if is_read else None
        self.snap = self.reader.read() if self.reader is not None else None
        self.last = SortedMap(self.reader, "table") if self.reader is not None else None

    @property
    def shown(self) -> SortedMap:
        assert self.snap is not None
        return SortedMap(self.snap, "table")

    def put_many(self, first: int, count: int) -> None:
        self.table.put_many((key_of(n), value_of(n)) for n in range(first, first + count))

    def put_batch(self, key: bytes) -> None:
        first = int(key[5:]) % max(self.count - BATCH, 1)
        self.put_many(first, BATCH)

    def put(self, key: bytes) -> None:
        self.table[key] = key * 4

    def read_alone(self, key: bytes) -> bytes:
        assert self.reader is not None
        with self.reader.read() as snap:
            return SortedMap(snap, "table")[key]

    def look_up(self, key: bytes) -> bytes:
        assert self.last is not None
        return self.last[key]

    def pair(self, _: bytes) -> None:
        self.heap.free(self.heap.malloc(64))

    def commit(self, key: bytes) -> None:
        with self.heap.transaction() as tx:
            name = key[-1:].decode()
            if name in tx.roots:
                tx.free(tx.roots[name])
            tx.roots[name] = tx.malloc(64)

    def attach(self, _: bytes) -> None:
        with Heap.open(self.path, readonly=True) as heap:
            heap.read()

    def close(self) -> None:
        if self.reader is not None:
            self.snap = self.last = None
            self.reader.close()
        self.heap.close()


def opened(path: Path, count: int, **options: Any) -> contextlib.closing[Ours]:
    """Return such a heap, which the end of a block closes."""
    return contextlib.closing(Ours(path, count, **options))


class Lmdb:
    """The same records in LMDB."""

    def __init__(self, path: Path, count: int, *, sync: bool) -> None:
        self.path, self.count = path, count
        self.env = lmdb.open(str(path), map_size=8 * GiB, sync=sync, max_readers=64)
        self.put_many(0, count)

    def put_many(self, first: int, count: int) -> None:
        with self.env.begin(write=True) as txn:
            for n in range(first, first + count):
                txn.put(key_of(n), value_of(n))

    def put_batch(self, key: bytes) -> None:
        self.put_many(int(key[5:]) % max(self.count - BATCH, 1), BATCH)

    def put(self, key: bytes) -> None:
        with self.env.begin(write=True) as txn:
            txn.put(key, key * 4)

    def read_alone(self, key: bytes) -> Any:
        txn = self.env.begin()
        found = txn.get(key)
        txn.abort()
        return found

    def close(self) -> None:
        self.env.close()


# ---------------------------------------------------------------- one process


@dataclass
class Line:
    """A row: microseconds, or reads a second."""

    title: str
    ours: float
    beside: float | None = None
    what: str = ""
    most: float | None = None
    ratio: float | None = None
    """None: that of the two."""

    def __str__(self) -> str:
        beside = "" if self.beside is None else f"{self.beside:,.2f}"
        ratio = self.ratio or self.ours / (self.beside or 1)
        shown = "" if self.beside is None else f"{ratio:.2f}"
        most = "" if self.most is None else f"{self.most:g}{' missed' if ratio > self.most else ''}"
        return f"| {self.title} | {self.ours:,.2f} | {beside} | {self.what} | {shown} | {most} |"


class Turns(NamedTuple):
    """What calls have taken that took turns, in microseconds; what the first is of each."""

    taken: list[float]
    ratios: list[float]

    def line(self, title: str, index: int, what: str, most: float | None = None) -> Line:
        """Return the row of the first beside another; alone if there is no such one."""
        if index >= len(self.taken):
            return Line(title, self.taken[0], None, what, most)
        return Line(title, self.taken[0], self.taken[index], what, most, self.ratios[index])


def keys_of(count: int, calls: int, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    return [key_of(rng.randrange(count)) for _ in range(calls)]


def microseconds(call: Call, keys: list[bytes]) -> float:
    start = time.perf_counter()
    for key in keys:
        call(key)
    return 1e6 * (time.perf_counter() - start) / len(keys)


def in_turns(
    calls: list[Call], count: int, number: int, before: Callable[[], object] = bool
) -> Turns:
    """Return the medians of each, in microseconds, and what the first is of the others."""
    rounds = []
    for turn in range(ROUNDS):
        before()
        keys = keys_of(count, number, turn)
        order = range(len(calls))[:: -1 if turn % 2 else 1]
        taken = {index: microseconds(calls[index], keys) for index in order}
        rounds.append([taken[index] for index in range(len(calls))])
    each = list(zip(*rounds, strict=True))
    return Turns(
        [median(one) for one in each],
        [median(map(truediv, each[0], one)) for one in each],
    )


def refreshed(store: Ours, change: Callable[[], object], number: int) -> float:
    """Return the microseconds of a refresh after a change: the median, without those of a clock."""
    snap, clock = store.snap, time.perf_counter_ns
    assert snap is not None
    taken = []
    for _ in range(number):
        change()
        start = clock()
        snap.refresh()
        middle = clock()
        taken.append(middle - start - (clock() - middle))
    return sorted(taken)[len(taken) // 2] / 1000


def refreshes(store: Ours) -> Iterator[Line]:
    snap = store.snap
    assert snap is not None

    space = space_of(store.heap)

    def commit() -> None:
        store.put(key_of(0))

    def era() -> None:
        commit()
        space.serve(recycle, space.shared)

    nothing, empty = in_turns(
        [lambda _: snap.refresh(), lambda _: None], store.count, CALLS * 5
    ).taken
    yield Line("refresh, nothing new", nothing - empty, most=0.06)
    yield Line("refresh after a commit", refreshed(store, commit, CALLS // 4), most=0.3)
    yield Line("refresh after a commit and an era", refreshed(store, era, 50), most=2.5)


def reads(store: Ours, other: Lmdb | None) -> Iterator[Line]:
    own, shown = store.table, store.shown
    pairs: list[tuple[str, Call, Call]] = [
        ("get", shown.__getitem__, own.__getitem__),
        ("view", shown.view, own.view),
        ("scan of 25", lambda k: shown.scan(k, SCAN), lambda k: own.scan(k, SCAN)),
    ]
    for title, ours, beside in pairs:
        found = in_turns([ours, beside], store.count, CALLS)
        yield found.line(f"{title} in a snapshot", 1, "the writer's own", 1.15)
    for title, call, most in (
        ("get outside of a snapshot", store.look_up, 1.3),
        ("snapshot, get, close", store.read_alone, None),
    ):
        calls: list[Call] = [call, *([] if other is None else [other.read_alone])]
        yield in_turns(calls, store.count, CALLS).line(title, 1, "LMDB", most)


def writes(kind: str, store: Ours, plain: Ours, other: Lmdb | None) -> Iterator[Line]:
    """Puts beside a heap that lets no readers in, and beside LMDB."""
    durable = kind == "power"
    number = DURABLE_CALLS if durable else CALLS
    snap = store.snap
    assert snap is not None
    for title, name, calls, most in (
        (f"put, {kind}", "put", number, 1.3 if durable else 3.5),
        (f"batch of {BATCH}, {kind}", "put_batch", max(number // 100, 5), 2.0),
    ):
        stores: list[Any] = [store, plain, *([] if other is None else [other])]
        found = in_turns(
            [getattr(each, name) for each in stores], store.count, calls, before=snap.refresh
        )
        yield found.line(title, 1, "no readers", most)
        if other is not None:
            yield found.line(title, 2, "LMDB")


def unread(home: Path, count: int, kind: str) -> Iterator[Line]:
    """What a writer pays that lets readers in while there is none."""
    number = DURABLE_CALLS if kind == "power" else CALLS
    with (
        opened(home / f"{kind}-unread", count, durability=kind, readers=True) as store,
        opened(home / f"{kind}-alone", count, durability=kind) as plain,
    ):
        for title, name, calls, most in (
            ("put", "put", number, 1.02),
            ("malloc and free", "pair", CALLS, 1.03),
            ("commit of a block", "commit", number, 1.02),
        ):
            found = in_turns([getattr(each, name) for each in (store, plain)], count, calls)
            yield found.line(f"{title}, {kind}, nobody reads", 1, "no readers", most)
        if kind == "process":
            yield first_attach(store)


def first_attach(store: Ours) -> Line:
    """Return what the first reader waits for, whose writer has edited in place until then."""
    taken = []
    for number in range(ATTACHES):
        time.sleep(20 * LEASE)  # the writer has found somebody, and looks again after a while
        store.put(key_of(number))
        taken.append(microseconds(store.attach, [b""]))
    return Line("attach, while the writer edits in place", min(taken), most=30_000)


def lines_of(home: Path, count: int) -> Iterator[Line]:
    for kind in "process", "power":
        with contextlib.ExitStack() as stack:
            own = [
                stack.enter_context(opened(
                    home / f"{kind}-{is_read}", count, durability=kind, readers=is_read,
                    is_read=is_read,
                ))
                for is_read in (True, False)
            ]  # fmt: skip
            other = None
            if lmdb is not None:
                made = Lmdb(home / f"{kind}-lmdb", count, sync=kind == "power")
                other = stack.enter_context(contextlib.closing(made))
            if kind == "process":
                yield from refreshes(own[0])
                yield from reads(own[0], other)
                attached = in_turns([own[0].attach], count, 20)
                yield attached.line("attach, first snapshot, close", 1, "", 1000)
            yield from writes(kind, own[0], own[1], other)
        yield from unread(home, count, kind)


# ---------------------------------------------------------------- several processes


def read_ours(path: Path, count: int, seed: int, seconds: float) -> int:
    with Heap.open(path, readonly=True) as heap, heap.read() as snap:

        def go_on() -> Call:
            snap.refresh()
            return SortedMap(snap, "table").__getitem__

        return read_for(go_on, count, seed, seconds)


def read_lmdb(path: Path, count: int, seed: int, seconds: float) -> int:
    env = lmdb.open(str(path), map_size=8 * GiB, readonly=True, max_readers=64)
    newest: list[Any] = []

    def go_on() -> Call:
        while newest:
            newest.pop().abort()
        newest.append(env.begin())
        get: Call = newest[0].get
        return get

    done = read_for(go_on, count, seed, seconds)
    newest.pop().abort()
    env.close()
    return done


def read_for(go_on: Callable[[], Call], count: int, seed: int, seconds: float) -> int:
    """Read the newest that there is, for a while; return how many records were read."""
    keys, done = keys_of(count, 100 * GETS, seed), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        get, first = go_on(), done % len(keys)
        for key in keys[first : first + GETS]:
            get(key)
        done += GETS
    return done


def write_for(put: Call, count: int, seconds: float) -> int:
    keys, done = keys_of(count, 10_000, 0), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        put(keys[done % len(keys)])
        done += 1
    return done


def beside_a_writer(
    read: Any, path: Path, put: Call, count: int, processes: int
) -> tuple[float, float]:
    """Return the records that were read, and written, in a second."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        pool.map(os.getpgid, [0] * processes)  # they have started
        asked = [pool.apply_async(read, (path, count, seed, SECONDS)) for seed in range(processes)]
        written = write_for(put, count, SECONDS)
        return sum(each.get() for each in asked) / SECONDS, written / SECONDS


def throughputs(home: Path, count: int) -> Iterator[Line]:
    """Reads of several processes beside a writer that does not stop."""
    ours = Ours(home / "many", count, durability="process", readers=True, is_read=True)
    assert ours.snap is not None
    ours.snap.close()  # nobody keeps an old commit, in either
    other = None if lmdb is None else Lmdb(home / "many-lmdb", count, sync=False)
    for processes in PROCESSES:
        title = f"{processes} process{'es' if processes > 1 else ''} and a writer"
        found = [beside_a_writer(read_ours, ours.path, ours.put, count, processes)]
        if other is not None:
            found.append(beside_a_writer(read_lmdb, other.path, other.put, count, processes))
        for index, what in enumerate(("reads", "puts")):
            theirs = found[1][index] if found[1:] else None
            yield Line(f"{title}: {what} a second", found[0][index], theirs, "LMDB")
    ours.close()
    if other is not None:
        other.close()


def print_table(count: int) -> None:
    """Print what was measured, row by row."""
    if lmdb is None:
        print("not installed: lmdb")  # noqa: T201
    print("| | ours, us | beside | | ratio | at most |\n|---|--:|--:|---|--:|--:|")  # noqa: T201
    with tempfile.TemporaryDirectory(dir=".") as directory:
        for lines in lines_of, throughputs:
            for line in lines(Path(directory), count):
                print(line, flush=True)  # noqa: T201


# ---------------------------------------------------------------- pyperf


def looped(loops: int, call_of: Callable[[Ours], Call]) -> float:
    """Return the seconds of so many calls."""
    with tempfile.TemporaryDirectory() as home:
        store = Ours(Path(home) / "heap", 1000, durability="process", readers=True, is_read=True)
        call, keys = call_of(store), keys_of(1000, 1000, 0)
        start = time.perf_counter()
        for number in range(loops):
            call(keys[number % 1000])
        taken = time.perf_counter() - start
        del call
        store.close()
    return taken


def refresh_of(store: Ours) -> Call:
    snap = store.snap
    assert snap is not None
    return lambda _: snap.refresh()


CALLS_OF: dict[str, Callable[[Ours], Call]] = {
    "refresh": refresh_of,
    "get": lambda store: store.shown.__getitem__,
    "get_outside": lambda store: store.look_up,
    "read_get_close": lambda store: store.read_alone,
    "put": lambda store: store.put,
}


def main() -> None:
    """Measure ours with pyperf."""
    runner = pyperf.Runner(metadata={"layer": "readers"})
    for name, call_of in CALLS_OF.items():
        runner.bench_time_func(f"readers/{name}/process", looped, call_of)


if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        print_table(int(sys.argv[2]) if sys.argv[2:] else 100_000)
    else:
        main()
