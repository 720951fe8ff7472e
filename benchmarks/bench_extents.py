"""extents: large blocks in heaps with many free extents, through the heap and on the bare map."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

import pyperf
from workloads import (
    EXTENT_SIZE,
    HOLES,
    PAGE,
    anonymous_heap,
    churn,
    fragment,
    fragmented_map,
    map_pair,
    map_settled_pair,
    pair,
)

from pmemheap.space.extents import ExtentMap

OPENED = contextlib.ExitStack()


@cache
def fragmented(holes: int) -> Any:
    heap = OPENED.enter_context(anonymous_heap())
    fragment(heap, holes)
    return heap


def malloc_free(loops: int, holes: int) -> float:
    heap = fragmented(holes)
    return pair(loops, heap.malloc, heap.free, EXTENT_SIZE)


def replace(loops: int, holes: int) -> float:
    return churn(loops, fragmented(holes))


@cache
def bare(holes: int) -> ExtentMap:
    return fragmented_map(holes)


def map_malloc_free(loops: int, holes: int) -> float:
    return map_pair(loops, bare(holes), EXTENT_SIZE // PAGE)


def map_malloc_free_settled(loops: int, holes: int) -> float:
    return map_settled_pair(loops, bare(holes), EXTENT_SIZE // PAGE)


CASES = {
    "extents/heap/malloc_free/256KiB": malloc_free,
    "extents/heap/replace/256-768KiB": replace,
    "extents/map/malloc_free/256KiB": map_malloc_free,
    "extents/map/malloc_free_settle/256KiB": map_malloc_free_settled,
}


def main() -> None:
    runner = pyperf.Runner(metadata={"layer": "extents"})
    with OPENED:
        for holes in HOLES[::2]:
            for name, case in CASES.items():
                runner.bench_time_func(f"{name}/holes={holes}", case, holes)


if __name__ == "__main__":
    main()
