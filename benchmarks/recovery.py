"""Recovery: opening a heap whose log was not checkpointed, by its records; and a closed one.

The whole log is read, in search of damage, whatever it holds: so its size stands beside them.

A child makes the heap and ends without closing it, as if killed. Each round opens a copy of what it
left, since opening recovers; the copy is synced first, or the first of our syncs would do that.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from peers import heap_class
from plan import Log, Plan, Values, rows
from results import Results
from stores import power_refusal
from workloads import GiB, KiB, MiB

from pmemheap.testing import copy_as_crashed

RECOVERY, OPENING = "open after a crash", "open after close"
LOGS = {100: 128 * KiB, 1_000: MiB, 10_000: 8 * MiB, 100_000: 64 * MiB}
SIZES = {"1 MiB": MiB, "16 MiB": 16 * MiB, "128 MiB": 128 * MiB, "1 GiB": GiB}
DURABILITIES = ("process", "power")
BLOCK_BYTES = 1000


def recovery(plan: Plan, results: Results, log: Log) -> None:
    """Measure opening, by records in the log and by size of a full heap."""
    durabilities = list(DURABILITIES)
    if (refused := power_refusal()) is not None:
        durabilities.remove("power")
        results.skipped[f"{RECOVERY}, power"] = refused
    crashed: Values = defaultdict(list)
    closed: Values = defaultdict(list)
    with tempfile.TemporaryDirectory() as home:
        for durability in durabilities:
            for records in list(LOGS)[: 2 if plan.quick else None]:
                log(f"recovery: {records} records, {durability}")
                path = Path(home) / f"{durability}-{records}"
                _in_child("crash", path, durability, records)
                case = f"{records} records, log of {LOGS[records] // KiB} KiB"
                taken = crashed[case, f"pmemheap, {durability}"]
                taken += [_open_copy(path) for _ in range(plan.rounds)]
                path.unlink()
            for label, size in list(SIZES.items())[: 2 if plan.quick else None]:
                log(f"recovery: closed heap of {label}, {durability}")
                path = Path(home) / f"{durability}-{size}"
                _in_child("close", path, durability, size)
                for _ in range(plan.rounds):
                    opened, allocated = _open(path)
                    closed[label, f"pmemheap, {durability}"].append(opened)
                    closed[f"{label}, and malloc", f"pmemheap, {durability}"].append(allocated)
                path.unlink()
    results.add(rows(RECOVERY, "ms", crashed))
    results.add(rows(OPENING, "ms", closed))


def _open(path: Path) -> tuple[float, float]:
    """Return the milliseconds until the heap is open, and until the first allocation.

    The heaps are full: that allocation looks through all tables before it grows.
    """
    began = time.perf_counter()
    with contextlib.closing(heap_class().open(path)) as heap:
        opened = time.perf_counter() - began
        offset = heap.malloc(64)
        allocated = time.perf_counter() - began
        heap.free(offset)
    return opened * 1e3, allocated * 1e3


def _open_copy(path: Path) -> float:
    with _copy_of(path) as copy:
        return _open(copy)[0]


@contextlib.contextmanager
def _copy_of(path: Path) -> Iterator[Path]:
    copy = path.with_suffix(".copy")
    copy_as_crashed(path, copy)
    fd = os.open(copy, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    yield copy
    copy.unlink()


# --------------------- in the child


def _in_child(what: str, path: Path, durability: str, number: int) -> None:
    command = [sys.executable, __file__, what, str(path), durability, str(number)]
    subprocess.run(command, check=True)


def crash(path: Path, durability: str, records: int) -> None:
    """Make a heap, commit `records` transactions, and end in the middle of its life."""
    heap = heap_class().create(path, durability=durability)
    if heap._space.shared.log.size < LOGS[records]:
        heap._space.serve(heap._space.shared.log.move, LOGS[records])
    before = heap._space.shared.log.counters()[0], heap._space.shared.log.checkpoints
    transaction, last = heap.transaction, heap.malloc(BLOCK_BYTES // 10)
    for _ in range(records):
        with transaction(durable=False) as tx:
            tx.free(last)
            last = tx.malloc(BLOCK_BYTES // 10)
    assert heap._space.shared.log.counters()[0] >= before[0] + records
    assert heap._space.shared.log.checkpoints == before[1], "the log was checkpointed meanwhile"
    heap._space.shared.log.sync_log()
    os._exit(0)


def close(path: Path, durability: str, size: int) -> None:
    """Make a heap with blocks of `size` bytes together."""
    with contextlib.closing(heap_class().create(path, durability=durability)) as heap:
        heap.malloc_many(BLOCK_BYTES, size // BLOCK_BYTES)


if __name__ == "__main__":
    word, *rest = sys.argv[1:]
    {"crash": crash, "close": close}[word](Path(rest[0]), rest[1], int(rest[2]))
