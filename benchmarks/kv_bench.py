"""What is done to a key-value store, in its own process: loads, reads, mixes, churn, reopenings.

    Scale    how much of it
    Bench    a store, what is in it, and the workloads
    PHASES   each workload by its name

`kv.py` starts the processes and asks for one phase at a time.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, cycle, islice
from pathlib import Path
from typing import Any

from kv_stores import Kv, Make, Pairs
from peers import PeerUnavailableError
from plan import Plan, calibrated
from stores import settle
from workloads import KiB, MiB

TIMES, DURABLE, DISK, MEMORY = "kv, process", "kv, power", "kv, disk", "kv, memory"
DURABLE_DISK, WRITTEN = "kv, power: disk", "kv, power: bytes written"
SECTIONS = (TIMES, DISK, MEMORY, DURABLE, DURABLE_DISK, WRITTEN)
DISK_OF = {TIMES: DISK, DURABLE: DURABLE_DISK}
LOAD, GET, VIEW, UPDATE, CHURN = "load", "get", "view", "update", "churn: delete + insert"
REOPEN = "reopen and get"

KEY_BYTES, VALUE_BYTES = 24, 100
VALUES = 997  # Different ones; what a key gets next is another one than it has.
LEAST_BYTES, MOST_BYTES = 16, 16 * KiB  # Of values of many sizes.
SIZED = "16 B-16 KiB"
SCANNED = 25
SCANS = (1, 10, SCANNED, 100)
SCAN, SCAN_BACK = f"scan of {SCANNED}", f"scan of {SCANNED}, back"
MOST_SCANNED = 100  # In mix E.
BATCH = 100
COMMIT, COMMIT_MANY = "commit of 1", f"commit of {BATCH}"
COMPACTED = "churned, compacted"
SPREAD = 0x9E37_79B9_7F4A_7C15  # Odd: numbers times this, modulo 2**64, come in no order.
ZIPF = 0.99
BIG_BYTES = MiB
BIG = "1 MiB"
LONGS = {"4 KiB": (4 * KiB, 32), "64 KiB": (64 * KiB, 8), BIG: (BIG_BYTES, 1)}
"""Length of a value, and how many there are for each of 1 MiB."""
PATCH_BYTES = 4 * KiB
PATCH = f"{BIG}: patch of {PATCH_BYTES // KiB} KiB"
PATCHES = 8  # Of each long value: one would show little but what the first one costs.
READS_TIMES, COMMITS_TIMES = 4, 10  # Times the least duration of a loop.
LARGE_BATCH = 1000  # Records of a commit that makes a store large.
LONGEST_LOAD = 30.0  # Seconds.
BLOCK_BYTES = 512  # Of st_blocks, whatever the file system has.

READ, WRITE, RANGE, MODIFY = range(4)
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
        Of 100 bytes, in the store.
    sized : int
        Records with values of many sizes.
    large : int
        Records of 100 bytes in the store that is only reopened, and in that of the last batches.
    operations, scans, bigs, reopenings : int
        Of one turn: single ones, scans, values of 1 MiB, and closings with an opening each.
    seconds : float
        Least duration of a loop that only reads.
    """

    records: int
    sized: int
    large: int
    operations: int
    scans: int
    bigs: int
    reopenings: int
    seconds: float


def scale_of(plan: Plan) -> Scale:
    if plan.quick:
        return Scale(300, 60, 500, 60, 10, 2, 3, plan.seconds)
    return Scale(100_000, 8_500, 1_000_000, 20_000, 2_000, 64, 9, plan.seconds)


def reopen_of(records: int) -> str:
    """Return the case of reopening the large store."""
    return f"{REOPEN}, {records:,}"


def key_of(number: int) -> bytes:
    """Return the key of the record that was inserted as the number-th."""
    return b"user%020d" % (number * SPREAD % 2**64)


def ordered_key_of(number: int) -> bytes:
    """Return a key that is greater than those of lesser numbers."""
    return b"user%020d" % number


ORDERS = {"in order": ordered_key_of, "in no order": key_of}
"""Keys of records that are put in batches."""


@dataclass(frozen=True)
class Kind:
    """Records of one kind.

    Attributes
    ----------
    label : str
        In front of each case.
    records, churned : int
        How many are loaded, and how many of them are replaced by others.
    values : iterator of bytes
        Without an end.
    """

    label: str
    records: int
    churned: int
    values: Iterator[bytes]


class Bench:
    """A store, what is in it, and what is done to it; the same for each store by the same seed."""

    store: Kv

    def __init__(self, make: Make, home: Path, scale: Scale, section: str) -> None:
        self._make, self._home, self._scale, self._section = make, home, scale, section
        self._rng = random.Random(1)
        same = cycle([self._rng.randbytes(VALUE_BYTES) for _ in range(VALUES)])
        churned = max(scale.operations, scale.records // 2)
        self._small = Kind("", scale.records, churned, same)
        self._sized = Kind(f"{SIZED}: ", scale.sized, scale.sized, self._values_of_many_sizes())
        self._weights = list(accumulate((rank + 1) ** -ZIPF for rank in range(scale.records)))
        self._live: list[bytes] = []
        self._bytes: dict[bytes, int] = {}  # Of each live record, key and value.
        self._inserted = 0
        self._stores = 0
        self._begin(self._small)

    def _begin(self, kind: Kind) -> None:
        """Begin with an empty store, which will have records of a kind."""
        self._kind = kind
        self._live.clear()
        self._bytes.clear()
        self._stores += 1
        self.directory = self._home / str(self._stores)
        self.directory.mkdir()
        self.store = self._make(self.directory)

    def close(self) -> None:
        self.store.close()
        del self.store
        gc.collect()  # Some are cycles: the next store is not to pay for this one.

    def _remove(self) -> None:
        self.close()
        shutil.rmtree(self.directory)

    def _renew(self, kind: Kind) -> None:
        self._remove()
        self._begin(kind)

    def _values_of_many_sizes(self) -> Iterator[bytes]:
        """Yield values of which there are as many from 16 to 32 bytes as from 8 to 16 KiB."""
        least, most = math.log(LEAST_BYTES), math.log(MOST_BYTES)
        while True:
            yield self._rng.randbytes(round(math.exp(self._rng.uniform(least, most))))

    def _fresh(self, count: int) -> list[tuple[bytes, bytes]]:
        """Return records that were never there; they are from now on."""
        first, self._inserted = self._inserted, self._inserted + count
        keys = [key_of(number) for number in range(first, self._inserted)]
        records = list(zip(keys, self._kind.values, strict=False))
        self._live += keys
        self._bytes.update((key, len(key) + len(value)) for key, value in records)
        return records

    def _some(self, count: int) -> list[bytes]:
        return self._rng.choices(self._live, k=count)

    def _popular(self, count: int) -> list[int]:
        """Return places in the list of records, the first ones most often."""
        return self._rng.choices(range(len(self._weights)), cum_weights=self._weights, k=count)

    def _time(self, case: str, took: float) -> tuple[str, str, float]:
        return self._section, self._kind.label + case, took

    # ------------------------------------------------------------ writing

    def fill(self) -> Figures:
        """Insert all records, in commits of 100."""
        self._renew(self._small)
        apply = self.store.apply
        if apply is None:
            return []
        records = self._fresh(self._scale.records)
        batches = [records[start : start + BATCH] for start in range(0, len(records), BATCH)]
        took = _each(apply, [(batch,) for batch in batches])
        time = self._time(f"load, {BATCH} a commit", took * len(batches) / len(records))
        return [time, self._disk(f"loaded, {BATCH} a commit")]

    def load(self) -> Figures:
        return self._load(self._small)

    def load_sized(self) -> Figures:
        return self._load(self._sized)

    def _load(self, kind: Kind) -> Figures:
        self._renew(kind)
        took = _each(self.store.put, self._fresh(kind.records))
        return [self._time(LOAD, took), self._disk("loaded")]

    def update(self) -> Figures:
        keys = self._some(self._scale.operations)
        pairs = list(zip(keys, self._kind.values, strict=False))
        return [self._time(UPDATE, _each(self.store.put, pairs))]

    def churn(self) -> Figures:
        """Replace records by others."""
        drawn = [self._replacement() for _ in range(self._kind.churned)]
        delete, put = self.store.delete, self.store.put

        def replace(victim: bytes, key: bytes, value: bytes) -> None:
            delete(victim)
            put(key, value)

        return [self._time(CHURN, _each(replace, drawn)), *self._churned()]

    def churn_many(self) -> Figures:
        """The same, a hundred a commit."""
        change = self.store.change
        if change is None:
            return []
        drawn = [self._replacement() for _ in range(self._kind.churned)]
        batches = [(drawn[start : start + BATCH],) for start in range(0, len(drawn), BATCH)]
        took = _each(change, batches) * len(batches) / len(drawn)
        return [self._time(f"{CHURN}, {BATCH} a commit", took), *self._churned()]

    def _churned(self) -> Figures:
        """What the disk has then, and when the store is closed."""
        opened = self._disk("churned")
        self.close()
        closed = self._disk("churned, closed")
        self.store = self._make(self.directory)
        return [opened, closed]

    def _replacement(self) -> tuple[bytes, bytes, bytes]:
        """Return the key of a record that has to go, and a fresh record."""
        live = self._live
        place = self._rng.randrange(len(live))
        victim, live[place] = live[place], live[-1]
        live.pop()
        del self._bytes[victim]
        return victim, *self._fresh(1)[0]

    def compact(self) -> Figures:
        self.store.compact()
        self._verify()
        return [self._disk(COMPACTED)]

    def empty(self) -> Figures:
        """Delete everything; what the disk has then, for each byte that was stored before."""
        self._rng.shuffle(self._live)
        took = _each(self.store.delete, [(key,) for key in self._live])
        figures = [self._time("delete", took), self._disk("all deleted")]
        self.store.compact()
        return [*figures, self._disk("all deleted, compacted")]

    # ------------------------------------------------------------ reading

    def get(self) -> Figures:
        return [self._time(GET, self._reads(self.store.get))]

    def view(self) -> Figures:
        if self.store.view is None:
            return []
        return [self._time(VIEW, self._reads(self.store.view))]

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
        """Read neighbours from some key on, and back from there."""
        scan, back = self.store.scan, self.store.scan_back
        if scan is None:
            return []
        figures = []
        for count in SCANS:
            starts = [(key, count) for key in self._some(self._scale.scans)]
            figures.append(self._time(f"scan of {count}", _each(scan, starts)))
        if back is not None:
            starts = [(key, SCANNED) for key in self._some(self._scale.scans)]
            figures.append(self._time(SCAN_BACK, _each(back, starts)))
        return figures

    def _verify(self) -> None:
        """Make sure that it keeps what it was given: no store wins by losing records."""
        for key in self._some(BATCH):
            found = self.store.get(key)
            assert found is not None, key
            assert len(key) + len(found) == self._bytes[key], key
        if self.store.scan is not None:
            entries = self.store.scan(b"", SCANNED)
            assert [key for key, _ in entries] == sorted(self._live)[:SCANNED]

    # ------------------------------------------------------------ mixes

    def mix(self, name: str) -> Figures:
        operations = self._operations(name)
        return [self._time(f"mix {name}", self._run(operations))] if operations else []

    def _operations(self, name: str) -> list[Operation]:
        """Return a mix, drawn; nothing where the store cannot do it."""
        shares, count = MIXES[name], self._scale.operations
        if "scan" in shares:
            count = self._scale.scans if self.store.scan is not None else 0
        return list(self._drawn(shares, count))

    def _drawn(self, shares: dict[str, int], count: int) -> Iterator[Operation]:
        kinds = self._rng.choices(list(shares), weights=list(shares.values()), k=count)
        for kind, place in zip(kinds, self._popular(count), strict=True):
            match kind:
                case "read":
                    yield READ, self._live[place], None
                case "latest":
                    yield READ, self._live[-1 - place], None
                case "update":
                    yield WRITE, self._live[place], next(self._kind.values)
                case "insert":
                    yield WRITE, *self._fresh(1)[0]
                case "scan":
                    yield RANGE, self._live[place], self._rng.randint(1, MOST_SCANNED)
                case _:
                    yield MODIFY, self._live[place], next(self._kind.values)

    def _run(self, operations: list[Operation]) -> float:
        get, put, scan = self.store.get, self.store.put, self.store.scan
        began = time.perf_counter()
        for kind, key, what in operations:
            if kind == READ:
                get(key)
            elif kind == WRITE:
                put(key, what)
            elif kind == RANGE:
                assert scan is not None
                scan(key, what)
            else:
                get(key)
                put(key, what)
        return (time.perf_counter() - began) / len(operations) * 1e6

    # ------------------------------------------------------------ reopening

    def reopen(self) -> Figures:
        return [self._time(REOPEN, self._reopenings())]

    def grow(self) -> Figures:
        """Make it large, in commits of 1000; nothing of that is measured.

        Raises
        ------
        PeerUnavailableError
            It has no such commits, or takes too long.
        """
        self._renew(self._small)
        if self.store.apply is None:
            raise PeerUnavailableError("it cannot put many records in one commit")
        most = time.perf_counter() + LONGEST_LOAD
        for start in range(0, self._scale.large, LARGE_BATCH):
            if time.perf_counter() > most:
                raise PeerUnavailableError(f"loading took more than {LONGEST_LOAD:.0f} s")
            self.store.apply(self._fresh(min(LARGE_BATCH, self._scale.large - start)))
        return []

    def reopen_large(self) -> Figures:
        return [self._time(reopen_of(self._scale.large), self._reopenings())]

    def _reopenings(self) -> float:
        return statistics.median(self._reopening() for _ in range(self._scale.reopenings))

    def _reopening(self) -> float:
        """Change it, close it, and time the way from there to the first value.

        A store that was not changed may have nothing to do, neither when it closes nor after.
        """
        changed, asked = self._some(2)
        self.store.put(changed, next(self._kind.values))
        self.close()
        began = time.perf_counter()
        self.store = self._make(self.directory)
        found = self.store.get(asked)
        took = time.perf_counter() - began
        assert found is not None
        return took * 1e6

    # ------------------------------------------------------------ long values

    def long(self, label: str) -> Figures:
        """Put and get values of one length, in a store that has nothing else; patch the longest."""
        nbytes, share = LONGS[label]
        self._renew(self._small)
        self._live += [key_of(number) for number in range(self._scale.bigs * share)]
        pairs = [(key, self._rng.randbytes(nbytes)) for key in self._live]
        put = _each(self.store.put_long, pairs)
        settle(self.directory)
        get = _each(self.store.get_long, [(key,) for key in self._live])
        figures = [self._time(f"{label}: put", put), self._time(f"{label}: get", get)]
        if label != BIG or self._section != TIMES:
            return figures
        if self.store.view is not None:
            figures.append(self._time(f"{BIG}: view", self._reads(self.store.view)))
        return [*figures, self._time(PATCH, self._patches())]

    def _patches(self) -> float:
        places = [
            (key, self._rng.randrange(BIG_BYTES - PATCH_BYTES), self._rng.randbytes(PATCH_BYTES))
            for _ in range(PATCHES)
            for key in self._live
        ]
        took = _each(self.store.patch, places)
        key, offset, data = places[-1]
        assert self.store.get_long(key)[offset : offset + PATCH_BYTES] == data
        return took

    # ------------------------------------------------------------ commits

    def batches(self, count: int, order: str) -> Figures:
        """Put so many records into an empty store, in commits of 100.

        Raises
        ------
        PeerUnavailableError
            It takes too long.
        """
        self._renew(self._small)
        apply, key = self.store.apply, ORDERS[order]
        if apply is None:
            return []
        began = time.perf_counter()
        for start in range(0, count, BATCH):
            if time.perf_counter() - began > LONGEST_LOAD:
                raise PeerUnavailableError(f"loading took more than {LONGEST_LOAD:.0f} s")
            numbers = range(start, min(start + BATCH, count))
            apply(list(zip(map(key, numbers), self._kind.values, strict=False)))
        took = (time.perf_counter() - began) / count * 1e6
        return [self._time(f"{BATCH} a commit, {count:,} {order}", took)]

    def commit_one(self) -> Figures:
        put = self.store.put

        def commit(pairs: Pairs) -> None:
            put(*pairs[0])

        return self._commits(COMMIT, commit, 1)

    def commit_many(self) -> Figures:
        apply = self.store.apply
        if apply is None:
            return []
        return self._commits(COMMIT_MANY, apply, BATCH)

    def _commits(self, case: str, commit: Callable[[Pairs], None], operations: int) -> Figures:
        """Return the microseconds of a commit, and the bytes that the disk gets for each put."""
        batches = [
            list(zip(self._some(operations), self._kind.values, strict=False)) for _ in range(BATCH)
        ]
        done, limit = 0, self._scale.seconds * COMMITS_TIMES
        before, began = written_bytes(), time.perf_counter()
        while (took := time.perf_counter() - began) < limit:
            commit(batches[done % BATCH])
            done += 1
        written = (written_bytes() - before) / done / operations
        return [self._time(case, took / done * 1e6), (WRITTEN, case, written)]

    # ------------------------------------------------------------ the disk and memory

    def _disk(self, case: str) -> tuple[str, str, float]:
        settle(self.directory)
        taken = 0
        for path in self.directory.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # Some stores clean up by themselves.
                taken += path.stat().st_blocks * BLOCK_BYTES if path.is_file() else 0
        return DISK_OF[self._section], self._kind.label + case, taken / sum(self._bytes.values())

    def memory(self) -> Figures:
        """Load it and run all mixes: the memory of the process, beyond what it had before.

        All that is put is made before. Code is not counted: an empty store has loaded it by then.
        """
        records = self._fresh(self._scale.records)
        operations = [operation for name in MIXES for operation in self._operations(name)]
        self._remove()
        self.directory.mkdir()
        anonymous, mapped = _resident_mib()
        self.store = self._make(self.directory)
        _each(self.store.put, records)
        self._run(operations)
        gc.collect()
        anonymous_after, mapped_after = _resident_mib()
        return [
            (MEMORY, "anonymous", max(0.0, anonymous_after - anonymous)),
            (MEMORY, "of files", max(0.0, mapped_after - mapped)),
        ]


def _each(call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> float:
    """Return the microseconds of a call."""
    began = time.perf_counter()
    for words in arguments:
        call(*words)
    return (time.perf_counter() - began) / len(arguments) * 1e6


def written_bytes() -> int:
    """Return what this process has had written; a page of a file counts when it is dirtied."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def _resident_mib() -> tuple[float, float]:
    """Return the resident memory of this process: anonymous, and of files that it has mapped."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    anonymous, files, shared = (
        int(fields[name].split()[0]) / KiB for name in ("RssAnon", "RssFile", "RssShmem")
    )
    return anonymous, files + shared  # A file in memory, as in /dev/shm, is of the latter.


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
    "load sized": Bench.load_sized,
    "churn many": Bench.churn_many,
    **{label: partial(Bench.long, label=label) for label in LONGS},
    "commit one": Bench.commit_one,
    "commit many": Bench.commit_many,
    "grow": Bench.grow,
    "reopen large": Bench.reopen_large,
    "memory": Bench.memory,
}


def batches_of(count: int, order: str) -> str:
    """Return the name of the phase that puts so many records in commits of 100."""
    return f"batches: {count} {order}"


def phase_of(name: str) -> Callable[[Bench], Figures]:
    """Return a workload by its name."""
    kind, _, what = name.partition(": ")
    if kind != "batches":
        return PHASES[name]
    count, _, order = what.partition(" ")
    return lambda bench: bench.batches(int(count), order)
