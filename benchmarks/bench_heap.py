"""heap: allocate and free, single and in batches, beside a running thread; views and handles."""

from __future__ import annotations

import contextlib
import time
from functools import cache
from typing import Any

import pyperf
from workloads import KiB, anonymous_heap, batch, file_heap, pair, spinning

SIZES = {"16B": 16, "64B": 64, "1KiB": KiB, "16KiB": 16 * KiB, "256KiB": 256 * KiB}
KINDS = {"anonymous": anonymous_heap, "process": file_heap}
OPENED = contextlib.ExitStack()


@cache
def opened(kind: str) -> Any:
    """Open a heap when the first benchmark wants it, for a worker runs only one of them."""
    return OPENED.enter_context(KINDS[kind]())


def malloc_free(loops: int, kind: str, size: int) -> float:
    heap = opened(kind)
    return pair(loops, heap.malloc, heap.free, size)


def malloc_free_beside_thread(loops: int, kind: str, size: int) -> float:
    heap = opened(kind)
    with spinning():
        return pair(loops, heap.malloc, heap.free, size)


def malloc_free_many(loops: int, kind: str, size: int, count: int) -> float:
    return batch(loops, opened(kind), size, count)


def view(loops: int, kind: str, size: int) -> float:
    heap = opened(kind)
    offset = heap.malloc(size)
    make = heap.view
    began = time.perf_counter()
    for _ in range(loops):
        make(offset)
    seconds = time.perf_counter() - began
    heap.free(offset)
    return seconds


def block(loops: int, kind: str, size: int) -> float:
    make = opened(kind).alloc
    began = time.perf_counter()
    for _ in range(loops):
        make(size).free()
    return time.perf_counter() - began


def main() -> None:
    runner = pyperf.Runner(metadata={"layer": "heap"})
    with OPENED:
        for kind in KINDS:
            for label, size in SIZES.items():
                runner.bench_time_func(f"heap/malloc_free/{label}/{kind}", malloc_free, kind, size)
            runner.bench_time_func(
                f"heap/malloc_free/64B/{kind}/thread=spinning", malloc_free_beside_thread, kind, 64
            )
            for count in (10, 100, 1_000):
                runner.bench_time_func(
                    f"heap/malloc_free_many/64B/{kind}/count={count}",
                    *(malloc_free_many, kind, 64, count),
                    inner_loops=count,
                )
            runner.bench_time_func(f"heap/view/64B/{kind}", view, kind, 64)
            runner.bench_time_func(f"heap/block/64B/{kind}", block, kind, 64)


if __name__ == "__main__":
    main()
