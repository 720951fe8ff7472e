"""growth: one step of 1 GiB, at heap sizes over decades, in private memory and in files.

On tmpfs the kernel clears every page when it is reserved, so that a step costs what the memory
does; a step there also takes that much memory, so the heaps stay small.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import pyperf
from peers import SHM
from workloads import GiB, MiB, anonymous_heap, file_heap, grow, raw_growth

ANONYMOUS_SIZES = {"1MiB": MiB, "1GiB": GiB, "10GiB": 10 * GiB}
FILE_SIZES = {"1MiB": MiB, "1GiB": GiB, "4GiB": 4 * GiB}
STEP = GiB


def growth(loops: int, make: Callable[[], Any], size: int, step: int) -> float:
    seconds = 0.0
    for _ in range(loops):
        with make() as heap:
            heap.malloc(size)
            seconds += grow(heap, step)
    return seconds


def growth_in(loops: int, directory: str, size: int, step: int) -> float:
    return growth(loops, lambda: file_heap(directory), size, step)


def fallocate_and_sync(loops: int, directory: str, size: int, step: int) -> float:
    return sum(raw_growth(directory, size, step) for _ in range(loops))


def main() -> None:
    runner = pyperf.Runner(metadata={"layer": "region"})
    temporary = tempfile.gettempdir()
    for label, size in ANONYMOUS_SIZES.items():
        runner.bench_time_func(
            f"growth/anonymous/1GiB/heap={label}", growth, anonymous_heap, size, STEP
        )
    for label, size in FILE_SIZES.items():
        runner.bench_time_func(f"growth/file/1GiB/heap={label}", growth_in, temporary, size, STEP)
        name = f"growth/fallocate+fsync/1GiB/file={label}"
        runner.bench_time_func(name, fallocate_and_sync, temporary, size, STEP)
    if SHM.is_dir():
        runner.bench_time_func("growth/tmpfs/1GiB/heap=1MiB", growth_in, str(SHM), MiB, STEP)


if __name__ == "__main__":
    main()
