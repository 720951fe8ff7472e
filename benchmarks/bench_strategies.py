"""Strategies: each on the load that it is for, beside the general heap.

    python benchmarks/bench_strategies.py --fast

`FACTORS` has what each must win by; a test fails when one is missed.
"""

from __future__ import annotations

import pickle
import random
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyperf

from pmemheap import Count, Heap, Record, Ring, Rows, Track
from pmemheap.heap.strategies import Strategy

BLOCKS = 1000
WARM = 50
SIZES = [random.Random(5).choice((24, 40, 100, 300, 1000)) for _ in range(BLOCKS)]

Load = Callable[[int], float]


# ---------------------------------------------------------------- blocks that die together


def mixed_then_gone(loops: int) -> float:
    """Allocate 1000 blocks of mixed sizes, then free them all, one by one."""
    with Heap.anonymous() as heap:
        malloc, free = heap.malloc, heap.free
        start = time.perf_counter()
        for _ in range(loops):
            for offset in [malloc(size) for size in SIZES]:
                free(offset)
        return time.perf_counter() - start


def mixed_then_gone_in_region(loops: int) -> float:
    """Do the same in a scratch region, which needs no list of what it has to free."""
    with Heap.anonymous() as heap:
        start = time.perf_counter()
        for _ in range(loops):
            with heap.scratch() as scratch:
                malloc = scratch.malloc
                for size in SIZES:
                    malloc(size)
        return time.perf_counter() - start


def batch_then_gone(loops: int) -> float:
    """Allocate 1000 blocks of mixed sizes, and free them in one call."""
    with Heap.anonymous() as heap:
        malloc = heap.malloc
        start = time.perf_counter()
        for _ in range(loops):
            heap.free_many([malloc(size) for size in SIZES])
        return time.perf_counter() - start


def region_without_blocks(loops: int) -> float:
    """Begin and end a region of one block."""
    with Heap.anonymous() as heap:
        start = time.perf_counter()
        for _ in range(loops):
            with heap.scratch() as scratch:
                scratch.malloc(100)
        return time.perf_counter() - start


# ---------------------------------------------------------------- queues

QUEUE, STEP = 20_000, 1000
QUEUED = [min(60_000, int(random.Random(n).lognormvariate(6, 1)) + 1) for n in range(QUEUE)]


def _queue(arena: Any, loops: int) -> float:
    """Put and take 1000 blocks, so often, with 20,000 in the queue; then take all."""
    malloc, free = arena.malloc, arena.free
    queue = deque(malloc(size) for size in QUEUED)
    put, take = queue.append, queue.popleft
    start = time.perf_counter()
    for _ in range(loops):
        for size in QUEUED[:STEP]:
            put(malloc(size))
            free(take())
    end = time.perf_counter()
    for offset in queue:
        free(offset)
    return end - start


def queue_in_arena(loops: int) -> float:
    """Use the default strategy as a queue."""
    with Heap.anonymous() as heap:
        return _queue(heap.arena("queue"), loops)


def queue_in_ring(loops: int) -> float:
    """Do the same in a ring."""
    with Heap.anonymous() as heap:
        return _queue(heap.arena("queue", strategy=Ring()), loops)


def _written(arena: Any, loops: int) -> float:
    """Do the same with blocks that are written."""
    malloc, free, view = arena.malloc, arena.free, arena.view
    data = memoryview(bytes(max(QUEUED)))
    queue = deque(malloc(size) for size in QUEUED)
    start = time.perf_counter()
    for _ in range(loops):
        for size in QUEUED[:STEP]:
            offset = malloc(size)
            view(offset, size)[:] = data[:size]
            queue.append(offset)
            free(queue.popleft())
    return time.perf_counter() - start


def written_queue_in_arena(loops: int) -> float:
    """Use the default strategy as a queue of blocks that are written."""
    with Heap.anonymous() as heap:
        return _written(heap.arena("queue"), loops)


def written_queue_in_ring(loops: int) -> float:
    """Do the same in a ring."""
    with Heap.anonymous() as heap:
        return _written(heap.arena("queue", strategy=Ring()), loops)


def payload(strategy: Strategy) -> float:
    """Return the payload of a queue, by the memory of the units in use, after three rounds."""
    with Heap.anonymous() as heap:
        arena = heap.arena("queue", strategy=strategy)
        queue = deque(arena.malloc(size) for size in QUEUED)
        for size in QUEUED * 3:
            queue.append(arena.malloc(size))
            arena.free(queue.popleft())
        return sum(QUEUED) / arena.stats().active


# ---------------------------------------------------------------- rows

ROWS = 4_000
VECTOR = ("f4", 128)


def sums_of_arrays(loops: int) -> float:
    """Sum each of 4,000 vectors that are blocks of their own."""
    with Heap.anonymous() as heap:
        vectors = [heap.ndarray(128, "f4") for _ in range(ROWS)]
        start = time.perf_counter()
        for _ in range(loops):
            [vector.sum() for vector in vectors]
        end = time.perf_counter()
        del vectors
        return end - start


def sums_of_rows(loops: int) -> float:
    """Sum each of as many that are rows."""
    with Heap.anonymous() as heap:
        table = heap.arena("table", strategy=Rows(VECTOR))
        table.malloc_many(512, ROWS)
        table.rows[:] = 0
        start = time.perf_counter()
        for _ in range(loops):
            table.rows.sum(axis=1)
        return time.perf_counter() - start


# ---------------------------------------------------------------- layers


def pairs(loops: int) -> float:
    """Allocate a block and free it, without a layer."""
    with Heap.anonymous() as heap:
        return _pairs(heap, loops)


def pairs_counted(loops: int) -> float:
    """Do the same while a Count is on the heap."""
    with Heap.anonymous() as heap, heap.install(Count()):
        return _pairs(heap, loops)


def pairs_recorded(loops: int) -> float:
    """Do the same while a Record writes down each of the two, and where it comes from."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Heap.anonymous() as heap,
        Record(Path(folder) / "trace") as record,
        heap.install(record),
    ):
        return _pairs(heap, loops)


def pairs_tracked(loops: int) -> float:
    """Do the same while a Track knows which line has made what lives."""
    with Heap.anonymous() as heap, heap.install(Track()):
        return _pairs(heap, loops)


def pairs_tracked_in_file(loops: int) -> float:
    """Do the same while it also writes that to a file."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Heap.anonymous() as heap,
        heap.install(Track(sites=Path(folder) / "sites")),
    ):
        return _pairs(heap, loops)


def pairs_traced(loops: int) -> float:
    """Do the same, without a file, while tracemalloc runs."""
    tracemalloc.start()
    try:
        return pairs_tracked(loops)
    finally:
        tracemalloc.stop()


def _pairs(heap: Heap, loops: int) -> float:
    malloc, free = heap.malloc, heap.free
    start = time.perf_counter()
    for _ in range(loops * BLOCKS):
        free(malloc(64))
    return time.perf_counter() - start


# ---------------------------------------------------------------- objects


def arrays() -> list[np.ndarray[Any, Any]]:
    """Return twenty arrays of 1 MB."""
    return [np.full(1 << 17, i, "f8") for i in range(20)]


def unpickled(loops: int) -> float:
    """Load a pickle of them."""
    data = pickle.dumps(arrays(), 5)
    start = time.perf_counter()
    for _ in range(loops):
        pickle.loads(data)
    return time.perf_counter() - start


def loaded(loops: int) -> float:
    """Load them as one object of a heap."""
    with Heap.anonymous() as heap:
        offset = heap.dump(arrays())
        start = time.perf_counter()
        for _ in range(loops):
            heap.load(offset)
        return time.perf_counter() - start


# ---------------------------------------------------------------- what is promised

FACTORS: dict[str, tuple[Load, Load, float]] = {
    "region / heap, 1000 mixed blocks, then all gone": (
        mixed_then_gone_in_region, mixed_then_gone, 1 / 2,
    ),
    "region / heap, the same freed in one call": (
        mixed_then_gone_in_region, batch_then_gone, 1 / 2,
    ),
    "rows / blocks, sums of 4,000 vectors": (sums_of_rows, sums_of_arrays, 1 / 10),
    "counted / not, pair of 64 bytes": (pairs_counted, pairs, 1.15),
    "load / pickle.loads, 20 arrays of 1 MB": (loaded, unpickled, 1 / 10),
}  # fmt: skip
"""Of a load and another one the ratio that it must not exceed."""

COSTS: dict[str, tuple[Load, Load, float]] = {
    "ring / default arena, queue of 20,000 blocks": (queue_in_ring, queue_in_arena, 1.7),
    "ring / default arena, the same, written": (written_queue_in_ring, written_queue_in_arena, 2.5),
}
"""The same of what a strategy is slower at: it is to get no dearer."""

PAYLOADS: dict[str, tuple[Strategy, float]] = {
    "queue in a ring": (Ring(), 0.95),
}
"""Of a strategy the share of payload in the memory in use that it must reach."""

SECONDS: dict[str, tuple[Load, float]] = {
    "a region of one block": (region_without_blocks, 2e-6),
    "1000 pairs of 64 bytes, recorded: 100 ns an event more": (pairs_recorded, 240e-6),
    "1000 pairs of 64 bytes, tracked": (pairs_tracked, 150e-6),
    "1000 pairs of 64 bytes, tracked while tracemalloc runs": (pairs_traced, 1000e-6),
    "load of 20 arrays of 1 MB": (loaded, 50e-6),
}
"""Of a load the time of one round that it must not exceed."""


def ratio(ours: Load, other: Load, rounds: int) -> float:
    """Return ours / other, of the least of each, measured by turns; each in memory that is warm."""
    times = [(ours(WARM), other(WARM)) for _ in range(rounds)]
    return min(mine for mine, _ in times) / min(theirs for _, theirs in times)


def main() -> None:
    """Measure all loads with pyperf."""
    runner = pyperf.Runner(metadata={"layer": "strategies"})
    compared = [*FACTORS.values(), *COSTS.values()]
    loads = {load for ours, other, _ in compared for load in (ours, other)}
    loads |= {load for load, _ in SECONDS.values()} | {pairs_tracked_in_file}
    for load in sorted(loads, key=lambda load: load.__name__):
        inner = BLOCKS if load.__name__.startswith("pairs") else 1
        runner.bench_time_func(f"strategies/{load.__name__}", load, inner_loops=inner)


if __name__ == "__main__":
    main()
