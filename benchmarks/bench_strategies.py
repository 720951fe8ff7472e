"""Strategies: each on the load that it is for, beside the general heap.

    python benchmarks/bench_strategies.py --fast

`FACTORS` has what each must win by; a test fails when one is missed.
"""

from __future__ import annotations

import pickle
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyperf

from pmemheap import Count, Heap, Record

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
    "counted / not, pair of 64 bytes": (pairs_counted, pairs, 1.15),
    "load / pickle.loads, 20 arrays of 1 MB": (loaded, unpickled, 1 / 10),
}  # fmt: skip
"""Of a load and another one the ratio that it must not exceed."""

SECONDS: dict[str, tuple[Load, float]] = {
    "a region of one block": (region_without_blocks, 2e-6),
    "1000 pairs of 64 bytes, recorded: 100 ns an event more": (pairs_recorded, 240e-6),
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
    loads = {load for ours, other, _ in FACTORS.values() for load in (ours, other)}
    loads |= {load for load, _ in SECONDS.values()}
    for load in sorted(loads, key=lambda load: load.__name__):
        inner = BLOCKS if load in {pairs, pairs_counted, pairs_recorded} else 1
        runner.bench_time_func(f"strategies/{load.__name__}", load, inner_loops=inner)


if __name__ == "__main__":
    main()
