"""Loads of strategies: the one that each is for, beside the default arena and beside others.

A load does a number of rounds and returns the seconds that they took. Those of one section do the
same work with the same Python calls, except for what the docstring says. What none of the others
has: offsets that outlive the process, refused double frees, views that hold their block, statistics
and `check`. Their calls are methods of a C type that keep the GIL, as ours: see `peers`.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from peers import JemallocMethods, Obstack, Peer

from pmemheap import Heap, Ring, Rows

BLOCKS = 1000
SIZES = random.Random(5).choices((24, 40, 100, 300, 1000), k=BLOCKS)

Load = Callable[[int], float]


# ---------------------------------------------------------------- blocks that die together


def mixed_then_gone(loops: int) -> float:
    """Allocate 1000 blocks of mixed sizes, then free them all, one by one."""
    with Heap.anonymous() as heap:
        return _mixed_then_gone(heap, loops)


def mixed_then_gone_in_jemalloc(loops: int) -> float:
    """Do the same in jemalloc, whose blocks have addresses."""
    with JemallocMethods() as peer:
        return _mixed_then_gone(peer, loops)


def _mixed_then_gone(allocator: Heap | Peer, loops: int) -> float:
    malloc, free = allocator.malloc, allocator.free
    start = time.perf_counter()
    for _ in range(loops):
        for block in [malloc(size) for size in SIZES]:
            free(block)
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


def mixed_then_gone_in_obstack(loops: int) -> float:
    """Bump a pointer in C, which frees a block and all that came later, and no single one."""
    with Obstack() as peer:
        malloc, free = peer.malloc, peer.free
        start = time.perf_counter()
        for _ in range(loops):
            first = malloc(1)
            for size in SIZES:
                malloc(size)
            free(first)
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
    """Begin and end a region of one block, in a heap that has grown for one."""
    with Heap.anonymous() as heap:
        with heap.scratch() as first:
            first.malloc(100)
        start = time.perf_counter()
        for _ in range(loops):
            with heap.scratch() as scratch:
                scratch.malloc(100)
        return time.perf_counter() - start


# ---------------------------------------------------------------- queues

QUEUE, STEP = 20_000, 1000
_DRAWN = random.Random(6)
QUEUED = [min(60_000, int(_DRAWN.lognormvariate(6, 1)) + 1) for _ in range(QUEUE)]


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


def queue_in_jemalloc(loops: int) -> float:
    """Do the same in jemalloc, where order is what the deque knows."""
    with JemallocMethods() as peer:
        return _queue(peer, loops)


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


def written_queue_in_jemalloc(loops: int) -> float:
    """Do the same in jemalloc; a block is filled by one call, since an address has no view."""
    with JemallocMethods() as peer:
        malloc, free, fill = peer.malloc, peer.free, peer.touch
        queue = deque(malloc(size) for size in QUEUED)
        start = time.perf_counter()
        for _ in range(loops):
            for size in QUEUED[:STEP]:
                block = malloc(size)
                fill(block, size)
                queue.append(block)
                free(queue.popleft())
        end = time.perf_counter()
        for block in queue:
            free(block)
        return end - start


def written_queue_of_bytes(loops: int) -> float:
    """Do the same with bytes, which are copies: of no address, and of this process alone."""
    data = memoryview(bytes(max(QUEUED)))
    queue = deque(bytes(data[:size]) for size in QUEUED)
    start = time.perf_counter()
    for _ in range(loops):
        for size in QUEUED[:STEP]:
            queue.append(bytes(data[:size]))
            queue.popleft()
    return time.perf_counter() - start


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


def sums_of_array(loops: int) -> float:
    """Sum each row of an array of numpy, whose length is given once and for all."""
    table = np.zeros((ROWS, 128), "f4")
    start = time.perf_counter()
    for _ in range(loops):
        table.sum(axis=1)
    return time.perf_counter() - start


def sums_of_plain_arrays(loops: int) -> float:
    """Sum each of 4,000 arrays of numpy."""
    vectors = [np.zeros(128, "f4") for _ in range(ROWS)]
    start = time.perf_counter()
    for _ in range(loops):
        [vector.sum() for vector in vectors]
    return time.perf_counter() - start
