"""Arrays: what numpy makes in a heap, beside its own memory.

    python benchmarks/bench_arrays.py --fast

`ratios()` measures both by turns, so that what else the machine does meets both; it is what
`python benchmarks/bench_arrays.py ratios` prints. `RATIOS` has what a test demands.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyperf

from pmemheap import DurabilityName, Heap

SIZES = (10, 1000, 100_000)
USUAL = 1000
ROUNDS = 31
ELEMENTS = 2_000_000  # of one measurement
MOST = 5000

Array = np.ndarray[Any, Any]
Memory = Callable[[], AbstractContextManager[object]]
Load = Callable[[Array], object]


# ---------------------------------------------------------------- loads: one round each


def empty(array: Array) -> object:
    """Make an array, and let it go: all of it is allocation."""
    return np.empty(len(array))


def zeros(array: Array) -> object:
    """Make one of zeros."""
    return np.zeros(len(array))


def add(array: Array) -> object:
    """One temporary."""
    return array + array


def ones_and_add(array: Array) -> object:
    """Two, and an array of the number 1."""
    return np.ones(len(array)) + array


LOADS: tuple[Load, ...] = (empty, zeros, add, ones_and_add)

RATIOS: dict[tuple[Load, int], float] = {
    (ones_and_add, 1000): 1.35,
    (add, 1000): 1.25,
    (add, 100_000): 1.15,
}
"""Of a load and a number of elements what heap / numpy must not exceed, with room for noise."""


# ---------------------------------------------------------------- where


@contextmanager
def in_memory() -> Iterator[None]:
    """In a heap in memory."""
    with Heap.anonymous() as heap, heap.numpy_allocator():
        yield


@contextmanager
def in_file(durability: DurabilityName) -> Iterator[None]:
    """In a heap in a file."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Heap.create(Path(folder) / "heap", durability=durability) as heap,
        heap.numpy_allocator(),
    ):
        yield


MEMORIES: dict[str, Memory] = {
    "numpy": nullcontext,
    "heap": in_memory,
    "process": partial(in_file, "process"),
    "power": partial(in_file, "power"),
}


def measured(loops: int, load: Load, size: int, memory: Memory) -> float:
    """Return the seconds of so many rounds."""
    array = np.ones(size)
    with memory():
        load(array)  # what is made for the first time
        start = time.perf_counter()
        for _ in range(loops):
            load(array)
        return time.perf_counter() - start


def ratio(load: Load, size: int, memory: Memory = in_memory, rounds: int = ROUNDS) -> float:
    """Return heap / numpy, the median of rounds of which each measures both."""
    loops = min(MOST, ELEMENTS // size)
    both = [
        (measured(loops, load, size, memory), measured(loops, load, size, nullcontext))
        for _ in range(rounds)
    ]
    return statistics.median(mine / theirs for mine, theirs in both)


def ratios() -> Iterator[str]:
    """Yield a line for each load and size: heap / numpy, of each kind of heap."""
    yield f"{'':24}" + "".join(f"{name:>9}" for name in MEMORIES if name != "numpy")
    for load in LOADS:
        for size in SIZES:
            found = [
                ratio(load, size, memory) for name, memory in MEMORIES.items() if name != "numpy"
            ]
            yield f"{load.__name__:14}{size:>10,}" + "".join(f"{one:9.2f}" for one in found)


def main() -> None:
    """Measure all loads with pyperf."""
    runner = pyperf.Runner(metadata={"layer": "arrays"})
    for load in LOADS:
        for name, memory in MEMORIES.items():
            label = f"arrays/{load.__name__}/{USUAL}/{name}"
            runner.bench_time_func(label, measured, load, USUAL, memory)


if __name__ == "__main__":
    if sys.argv[1:] == ["ratios"]:
        sys.stdout.writelines(f"{line}\n" for line in ratios())
    else:
        main()
