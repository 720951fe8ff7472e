"""Workloads: the timed loops and the prepared heaps, shared by the pyperf files and `compare.py`.

Every loop takes `loops` first and returns the seconds that the loops took, setup excluded: what
`pyperf.Runner.bench_time_func` wants. Preparation is seeded: two runs measure the same heap.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from peers import heap_class

from pmemheap.space.extents import ExtentMap

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

EXTENT_SIZE = 256 * KiB  # The smallest that the extent layer serves.
HOLES = (10, 100, 1_000, 10_000, 100_000)
HOLE_PAGES = (64, 192)  # Least and most pages of a hole: none too small for that layer.
CHURN_SIZES = (256 * KiB, 768 * KiB)
CHURN_LIVE = 64
PAGE = 4096
READ_BACK = b"first read after open"


# ------------------------------------------------------------------------------------- timed loops


def pair(loops: int, malloc: Callable[[int], Any], free: Callable[[Any], Any], size: int) -> float:
    """Allocate and free one block, again and again."""
    rounds = range(loops)
    began = time.perf_counter()
    for _ in rounds:
        free(malloc(size))
    return time.perf_counter() - began


def empty_pair(loops: int) -> float:
    """The loop of `pair` without its calls."""
    rounds = range(loops)
    began = time.perf_counter()
    for _ in rounds:
        pass
    return time.perf_counter() - began


def batch(loops: int, peer: Any, size: int, count: int) -> float:
    """Allocate `count` blocks in one call and free them in another."""
    malloc_many, free_many = peer.malloc_many, peer.free_many
    began = time.perf_counter()
    for _ in range(loops):
        free_many(malloc_many(size, count))
    return time.perf_counter() - began


def churn(loops: int, heap: Any) -> float:
    """Keep `CHURN_LIVE` blocks of varied sizes alive; replace the oldest, again and again.

    `pair` frees what it just got, which a stack of recently freed extents serves best. Here the
    sizes vary and each block outlives the next 63, so that the search does its real work.
    """
    rng = random.Random(11)
    sizes = [rng.randrange(*CHURN_SIZES) for _ in range(loops + CHURN_LIVE)]
    live = [heap.malloc(size) for size in sizes[:CHURN_LIVE]]
    malloc, free = heap.malloc, heap.free
    slots = [number % CHURN_LIVE for number in range(loops)]
    began = time.perf_counter()
    for slot, size in zip(slots, sizes[CHURN_LIVE:], strict=True):
        free(live[slot])
        live[slot] = malloc(size)
    seconds = time.perf_counter() - began
    for offset in live:
        free(offset)
    return seconds


def map_pair(loops: int, extents: ExtentMap, length: int) -> float:
    """Take and give back one extent of a bare map: a stack serves it from the second time on."""
    allocate, deallocate = cast("Callable[[int], int]", extents.allocate), extents.deallocate
    began = time.perf_counter()
    for _ in range(loops):
        deallocate(allocate(length), length)
    return time.perf_counter() - began


def map_settled_pair(loops: int, extents: ExtentMap, length: int) -> float:
    """Do the same, merging what is free each time: the sorted list serves all of it."""
    allocate, deallocate = cast("Callable[[int], int]", extents.allocate), extents.deallocate
    coalesce = extents.coalesce
    began = time.perf_counter()
    for _ in range(loops):
        deallocate(allocate(length), length)
        coalesce()
    return time.perf_counter() - began


@contextlib.contextmanager
def spinning() -> Iterator[None]:
    """Run a Python thread beside, that does nothing but run Python and wants the GIL always."""
    stopped = threading.Event()

    def spin() -> None:
        while not stopped.is_set():
            for _ in range(10_000):
                pass

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


# ---------------------------------------------------------------------------------- prepared heaps


@contextlib.contextmanager
def anonymous_heap() -> Iterator[Any]:
    """A heap in private memory."""
    heap = heap_class().anonymous()
    try:
        yield heap
    finally:
        heap.close()


@contextlib.contextmanager
def file_heap(directory: str | None = None) -> Iterator[Any]:
    """A heap in a file that survives the process; the file goes with the context."""
    with tempfile.TemporaryDirectory(dir=directory) as home:
        heap = heap_class().create(Path(home) / "heap", durability="process")
        try:
            yield heap
        finally:
            heap.close()


def fragment(heap: Any, holes: int) -> None:
    """Leave `holes` free extents of varied sizes in a heap, each between two live blocks.

    Blocks are shrunk to their first page, which stays where it is and keeps the space behind it
    from merging with the next. To free every second of many blocks would leave fewer: the blocks
    do not lie in the order in which they came.
    """
    rng = random.Random(holes)
    offsets = [heap.malloc((1 + rng.randint(*HOLE_PAGES)) * PAGE) for _ in range(holes)]
    heap.malloc(PAGE * HOLE_PAGES[1])
    rng.shuffle(offsets)
    for offset in offsets:
        moved = heap.realloc(offset, PAGE)
        assert moved == offset
    assert gaps(heap) >= holes
    heap.free(heap.malloc(HOLE_PAGES[1] * PAGE))  # What was freed lately is merged by this request.


def gaps(heap: Any) -> int:
    """Count the places between live blocks where something is free, by the heap's own list."""
    return sum(
        offset + size < following for (offset, size), (following, _) in pairwise(heap.blocks())
    )


def fragmented_map(holes: int) -> ExtentMap:
    """Return a bare map with `holes` merged extents, none of which touches another."""
    rng = random.Random(holes)
    extents = ExtentMap()
    start = 0
    for _ in range(holes):
        length = rng.randint(*HOLE_PAGES)
        extents.deallocate(start, length)
        start += length + 1
    extents.coalesce()
    return extents


def mixed_sizes(count: int) -> list[int]:
    """Return sizes as of a store: 90 % of 16-256 B, 9 % to 4 KiB, 1 % to 64 KiB, shuffled."""
    rng = random.Random(count)
    bands = ((16, 256, 90), (257, 4 * KiB, 9), (4 * KiB + 1, 64 * KiB, 1))
    sizes = [
        rng.randint(low, high) for low, high, share in bands for _ in range(share * count // 100)
    ]
    rng.shuffle(sizes)
    return sizes


def build_store(path: Path, blocks: int) -> None:
    """Make a heap file of `blocks` live blocks of `mixed_sizes`, and one to read under a root."""
    sizes = mixed_sizes(min(blocks, 100_000))
    with contextlib.closing(heap_class().create(path, durability="process")) as heap:
        malloc = heap.malloc
        for done in range(0, blocks, len(sizes)):
            for size in sizes[: blocks - done]:
                malloc(size)
        offset = malloc(len(READ_BACK))
        with heap.view(offset) as view:
            view[: len(READ_BACK)] = READ_BACK
        heap.roots["first"] = offset
        heap.sync()  # What the system still writes back would disturb the opening.


def open_store(loops: int, path: Path) -> float:
    """Open a heap file, allocate, and read the block under the root; close off the clock."""
    kind = heap_class()
    seconds = 0.0
    for _ in range(loops):
        began = time.perf_counter()
        heap = kind.open(path)
        offset = heap.malloc(64)
        with heap.view(heap.roots["first"]) as view:
            first = bytes(view[: len(READ_BACK)])
        seconds += time.perf_counter() - began
        assert first == READ_BACK
        heap.free(offset)
        heap.close()
    return seconds


# ------------------------------------------------------------------------------------------- growth


def grow(heap: Any, length: int) -> float:
    """Return the seconds of one allocation that made the heap grow by `length` bytes or more.

    The request is greater by all that is free already, so that no free extent can serve it or
    shorten the growth.
    """
    stats = heap.stats()
    request = length + stats.free
    began = time.perf_counter()
    heap.malloc(request)
    seconds = time.perf_counter() - began
    assert heap.stats().mapped - stats.mapped >= length
    return seconds


def raw_growth(directory: str, size: int, length: int) -> float:
    """Return the seconds the file system itself takes to lengthen a file of `size` by `length`."""
    with tempfile.TemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        os.fsync(file.fileno())
        began = time.perf_counter()
        os.posix_fallocate(file.fileno(), size, length)
        os.fsync(file.fileno())
        return time.perf_counter() - began
