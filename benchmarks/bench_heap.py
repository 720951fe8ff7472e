"""heap: allocate and free, single, in batches, beside a running thread; views, arrays, handles."""

from __future__ import annotations

import contextlib
import time
from functools import cache
from typing import Any

import numpy as np
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


def free_loop(loops: int, kind: str, size: int, count: int) -> float:
    """Free the blocks of a list one by one: what `free_list` is compared with."""
    heap = opened(kind)
    seconds = 0.0
    for _ in range(loops):
        offsets = [heap.malloc(size) for _ in range(count)]
        began = time.perf_counter()
        for offset in offsets:
            heap.free(offset)
        seconds += time.perf_counter() - began
    return seconds


def free_list(loops: int, kind: str, size: int, count: int) -> float:
    heap = opened(kind)
    seconds = 0.0
    for _ in range(loops):
        offsets = [heap.malloc(size) for _ in range(count)]
        began = time.perf_counter()
        heap.free_many(offsets)
        seconds += time.perf_counter() - began
    return seconds


def ndarray_at(loops: int, kind: str, shape: int | tuple[int, ...]) -> float:
    heap = opened(kind)
    offset = heap.malloc(8 * KiB)
    make = heap.ndarray_at
    began = time.perf_counter()
    for _ in range(loops):
        make(offset, shape, "f8")
    seconds = time.perf_counter() - began
    heap.free(offset)
    return seconds


def frombuffer(loops: int, kind: str) -> float:
    """Make an array of a view by numpy alone: what `ndarray_at` is compared with."""
    heap = opened(kind)
    offset = heap.malloc(8 * KiB)
    make, view_of = np.frombuffer, heap.view
    began = time.perf_counter()
    for _ in range(loops):
        make(view_of(offset), "f8", 1000)
    seconds = time.perf_counter() - began
    heap.free(offset)
    return seconds


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
            for name, way in {"free_loop": free_loop, "free_many_list": free_list}.items():
                runner.bench_time_func(
                    f"heap/{name}/64B/{kind}/count=1000", way, kind, 64, 1_000, inner_loops=1_000
                )
            runner.bench_time_func(f"heap/view/64B/{kind}", view, kind, 64)
            runner.bench_time_func(f"heap/frombuffer/8KiB/{kind}", frombuffer, kind)
            runner.bench_time_func(f"heap/ndarray_at/8KiB/{kind}", ndarray_at, kind, 1000)
            runner.bench_time_func(f"heap/ndarray_at/8KiB/{kind}/2d", ndarray_at, kind, (10, 100))
            runner.bench_time_func(f"heap/block/64B/{kind}", block, kind, 64)


if __name__ == "__main__":
    main()
