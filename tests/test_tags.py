"""What is freed while there may be readers of snapshots waits, with a tag, for a recycle."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from heap_world import answer, named, python

from pmemheap import Heap, Ring, Rows
from pmemheap.containers import SortedMap
from pmemheap.heap.space import space_of
from pmemheap.native import LogCore
from pmemheap.units import UNIT, KiB

KINDS = ["process", "power"]
SIZES = [64, 10_000, 300_000]
COUNT = {64: 400, 10_000: 40, 300_000: 8}
FOREVER = (1 << 64) - 1


def log_of(heap: Heap) -> LogCore:
    """Return the log of a heap."""
    return space_of(heap).shared.log


def made(kind: str, path: Path) -> Heap:
    """Make a heap that may have readers, in era 1."""
    heap = Heap.create(path, durability=named(kind), decay=None)
    log_of(heap)._set_copies(1, 1)
    return heap


@pytest.fixture(params=KINDS)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    with made(request.param, tmp_path / "heap") as heap:
        yield heap
        assert heap.check()


class Freed:
    """Blocks that are about to be freed, and the bytes in them."""

    def __init__(self, place: Any, offsets: Iterable[int]) -> None:
        self.space = space_of(place)
        self.spans = {offset: place.usable_size(offset) for offset in sorted(offsets)}
        for offset in self.spans:
            place.view(offset)[:8] = offset.to_bytes(8, "little")

    @property
    def nbytes(self) -> int:
        return sum(self.spans.values())

    def are_kept(self) -> bool:
        """Tell whether they have the bytes that they had."""
        return all(
            ctypes.string_at(self.space.address_of(offset), 8) == offset.to_bytes(8, "little")
            for offset in self.spans
        )

    def under(self, place: Any, offsets: Iterable[int]) -> set[int]:
        """Return those of which live blocks have a byte."""
        starts, found = list(self.spans), set()
        for offset in offsets:
            end = offset + place.usable_size(offset)
            first = max(bisect_right(starts, offset) - 1, 0)
            for start in starts[first : bisect_right(starts, end - 1)]:
                if start + self.spans[start] > offset:
                    found.add(start)
        return found


def more(place: Any, size: int) -> list[int]:
    """Allocate as many blocks as the test had, and more."""
    return [place.malloc(size) for _ in range(COUNT[size] * 2)]


# ---------------------------------------------------------------- each way to free


def one_by_one(heap: Heap, place: Any, offsets: Sequence[int]) -> None:
    for offset in offsets:
        place.free(offset)


def at_once(heap: Heap, place: Any, offsets: Sequence[int]) -> None:
    place.free_many(offsets)


def deferred(heap: Heap, place: Any, offsets: Sequence[int]) -> None:
    for offset in offsets:
        with place.view(offset):
            place.free(offset, deferred=True)


def by_handles(heap: Heap, place: Any, offsets: Sequence[int]) -> None:
    for offset in offsets:
        place.block(offset).free()


def by_a_collector(heap: Heap, place: Any, offsets: Sequence[int]) -> None:
    """Free in finalizers, which the collector calls."""

    class Owner:
        def __init__(self, offset: int) -> None:
            self.offset, self.circle = offset, self

        def __del__(self) -> None:
            place.free(self.offset)

    for offset in offsets:
        Owner(offset)
    gc.collect()


def in_a_transaction(heap: Heap, place: Any, offsets: Sequence[int]) -> None:
    with heap.transaction() as tx:
        for offset in offsets:
            tx.free(offset)


def in_transactions(heap: Heap, place: Any, offsets: Sequence[int]) -> None:
    for offset in offsets:
        with heap.transaction(durable=False) as tx, place.view(offset):
            tx.free(offset, deferred=True)


def by_moves(heap: Heap, place: Any, offsets: Sequence[int]) -> None:
    for offset in offsets:
        assert place.realloc(offset, 2 * place.usable_size(offset)) != offset


FREEING = [
    one_by_one,
    at_once,
    deferred,
    by_handles,
    by_a_collector,
    in_a_transaction,
    in_transactions,
]
PLACES: dict[str, Callable[[Heap, int], Any]] = {
    "default": lambda heap, size: heap,
    "named": lambda heap, size: heap.arena("named"),
    "rows": lambda heap, size: heap.arena("rows", strategy=Rows(size)),
}


@pytest.mark.parametrize(
    ("where", "size", "free"),
    [
        *(("default", size, free) for free in FREEING for size in SIZES),
        *(("named", size, in_a_transaction) for size in SIZES),
        *(("rows", 64, free) for free in (one_by_one, at_once, deferred, in_a_transaction)),
    ],
)
def test_what_is_freed_waits_for_a_recycle(
    heap: Heap, where: str, size: int, free: Callable[[Heap, Any, Sequence[int]], None]
) -> None:
    place, log = PLACES[where](heap, size), log_of(heap)
    offsets = [place.malloc(size) for _ in range(COUNT[size])]
    freed = Freed(place, offsets[::2])
    free(heap, place, list(freed.spans))
    heap.sync()
    assert log._tagged()[0] == place.stats().quarantined == freed.nbytes
    assert not freed.under(place, more(place, size))
    log._set_era(9)  # others end by themselves
    assert log._recycle(1) == 0
    heap.trim()
    assert freed.are_kept()
    assert not freed.under(place, more(place, size))
    assert heap.check()
    assert log._recycle(9) == freed.nbytes
    assert log._tagged() == (0, 0, 0)
    assert place.stats().quarantined == 0
    assert freed.under(place, more(place, size)) == set(freed.spans)


@pytest.mark.parametrize("size", [64, 10_000])
def test_the_place_that_a_block_has_left_waits(heap: Heap, size: int) -> None:
    offsets = [heap.malloc(size) for _ in range(COUNT[size])]
    freed = Freed(heap, offsets[::2])
    by_moves(heap, heap, list(freed.spans))
    heap.sync()
    assert log_of(heap)._tagged()[0] == freed.nbytes
    assert not freed.under(heap, more(heap, size))
    assert freed.are_kept()
    assert log_of(heap)._recycle(2) == freed.nbytes
    assert freed.under(heap, more(heap, size)) == set(freed.spans)


@pytest.mark.parametrize("size", [UNIT + 1, 100_000])
def test_the_end_that_a_block_loses_in_place_waits(heap: Heap, size: int) -> None:
    log, block = log_of(heap), heap.malloc(300_000)
    view = heap.view(block)
    view[:] = b"x" * len(view)
    nbytes = len(view)
    view.release()
    assert heap.realloc(block, size) == block
    heap.sync()
    kept = heap.usable_size(block)
    assert log._tagged() == (nbytes - kept, 1, 1)
    heap.expand(block, nbytes)  # not over what waits
    assert heap.usable_size(block) == kept
    heap.trim()
    address = space_of(heap).address_of(block)
    assert ctypes.string_at(address, nbytes) == b"x" * nbytes
    assert heap.check()
    assert log._recycle(2) == nbytes - kept
    assert heap.expand(block, nbytes)


def test_no_block_moves_over_itself(heap: Heap) -> None:
    """It would, in memory: down over free units in front of it."""
    before, block = heap.malloc(10 * UNIT), heap.malloc(10 * UNIT)
    behind = heap.malloc(UNIT)
    log_of(heap)._set_copies(0, 0)
    heap.free(before)
    heap.sync()
    log_of(heap)._set_copies(1, 1)
    freed = Freed(heap, [block])
    heap.realloc(block, 15 * UNIT)
    heap.sync()
    assert freed.are_kept()
    assert log_of(heap)._tagged()[0] == freed.nbytes
    assert heap.usable_size(behind) == UNIT


def test_maps_free_with_tags(heap: Heap) -> None:
    stock = SortedMap(heap, "stock")
    for number in range(300):
        stock[b"%d" % number] = b"v" * (number * 50)
    heap.sync()
    log_of(heap)._recycle(FOREVER)
    live = dict(heap.blocks())
    for number in range(300):
        del stock[b"%d" % number]
    heap.sync()
    gone = sum(live.values()) - sum(size for offset, size in heap.blocks() if offset in live)
    assert log_of(heap)._tagged()[0] >= gone > 300 * KiB
    assert heap.check()


# ---------------------------------------------------------------- what is free at once


def test_what_a_transaction_made_itself_is_free_at_once(heap: Heap) -> None:
    tx = heap.transaction()
    made = [tx.malloc(size) for size in SIZES]
    tx.abort()
    with heap.transaction() as tx:
        again = [tx.malloc(size) for size in SIZES]
        for offset in again:
            tx.free(offset)
    with heap.transaction() as tx:
        inner = heap.transaction()
        last = [tx.malloc(size) for size in SIZES]
        inner.abort()
    assert made == again == last
    assert log_of(heap)._tagged() == (0, 0, 0)
    assert heap.stats().quarantined == 0


def test_what_was_freed_before_there_were_readers_is_free(heap: Heap) -> None:
    log = log_of(heap)
    log._set_copies(0, 0)
    offset = heap.malloc(64)
    heap.free(offset)
    heap.sync()
    log._set_copies(1, 1)
    assert log._tagged() == (0, 0, 0)
    assert heap.malloc(64) == offset


# ---------------------------------------------------------------- views of this process


def test_own_views_are_asked_after_the_tag(heap: Heap) -> None:
    offsets = [heap.malloc(size) for size in SIZES]
    freed = Freed(heap, offsets)
    views = [heap.view(offset) for offset in offsets]
    for offset in offsets:
        heap.free(offset, deferred=True)
    heap.sync()
    assert log_of(heap)._recycle(2) == freed.nbytes
    assert heap.stats().quarantined == freed.nbytes
    for size in SIZES:
        assert not freed.under(heap, more(heap, size))
    for view in views:
        view.release()
    assert heap.stats().quarantined == 0
    again = [offset for size in reversed(SIZES) for offset in more(heap, size)]
    assert freed.under(heap, again) == set(offsets)


def test_a_view_that_ends_first_frees_nothing(heap: Heap) -> None:
    offset = heap.malloc(10_000)
    freed = Freed(heap, [offset])
    with heap.view(offset):
        heap.free(offset, deferred=True)
        heap.sync()
    assert log_of(heap)._tagged()[0] == freed.nbytes
    assert not freed.under(heap, more(heap, 10_000))


# ---------------------------------------------------------------- rings, regions, arenas


@pytest.mark.parametrize("free", [one_by_one, at_once, in_a_transaction])
def test_the_head_of_a_ring_waits(
    heap: Heap, free: Callable[[Heap, Any, Sequence[int]], None]
) -> None:
    ring = heap.arena("ring", strategy=Ring())
    freed = Freed(ring, [ring.malloc(size) for size in (64, 5000, 70_000) for _ in range(40)])
    first = space_of(ring).core.bounds[0]
    last = ring.malloc(2_000_000)
    free(heap, ring, list(freed.spans))
    heap.sync()
    ring.trim()
    assert freed.are_kept()
    assert log_of(heap)._tagged()[0] == ring.stats().quarantined == freed.nbytes
    assert space_of(ring).core.bounds[0] == first
    assert ring.check()
    log_of(heap)._recycle(2)
    ring.trim()
    assert ring.stats().quarantined == 0
    assert space_of(ring).core.bounds[0] > first
    assert ring.usable_size(last) >= 2_000_000
    assert ring.check()


def test_what_a_region_rewinds_over_waits(heap: Heap) -> None:
    region = heap.region()
    region.malloc(100)
    mark = region.mark()
    freed = Freed(heap, [region.malloc(size) for size in (64, 900, 8000) for _ in range(30)])
    region.rewind(mark)
    heap.sync()
    assert log_of(heap)._tagged()[0] == freed.nbytes
    again = [region.malloc(size) for size in (64, 900, 8000) for _ in range(60)]
    assert not freed.under(heap, [*again, *more(heap, 10_000)])
    assert freed.are_kept()
    assert heap.check()
    assert log_of(heap)._recycle(2) == freed.nbytes
    assert heap.check()


@pytest.mark.parametrize("dropped", [True, False])
def test_the_chunks_of_a_region_wait(heap: Heap, dropped: bool) -> None:
    before = heap.stats().free
    region = heap.region()
    offsets = [region.malloc(size) for size in (64, 900, 8000) for _ in range(30)]
    freed = Freed(heap, offsets)
    if not dropped:
        for offset in offsets:
            region.free(offset)
    region.drop()
    heap.sync()
    assert log_of(heap)._tagged()[0] == heap.stats().quarantined == freed.nbytes + 32
    assert not freed.under(heap, more(heap, 10_000))
    assert freed.are_kept()
    assert heap.check()
    log_of(heap)._recycle(2)
    heap.trim()
    assert heap.stats().quarantined == heap.stats().reserved == 0
    assert freed.under(heap, [*more(heap, 10_000), *more(heap, 300_000)])
    for offset, _ in list(heap.blocks()):
        heap.free(offset)
    log_of(heap)._set_copies(0, 0)
    heap.sync()
    heap.trim()
    assert heap.stats().active == 0
    assert heap.stats().free == before


def test_tags_go_with_their_arena(heap: Heap) -> None:
    arena = heap.arena("a")
    offsets = [arena.malloc(size) for size in SIZES]
    outside = heap.malloc(64)
    other = Freed(heap, [outside])
    for offset in offsets:
        arena.free(offset)
    heap.free(outside)
    heap.sync()
    arena.drop()
    assert log_of(heap)._tagged()[:2] == (other.nbytes, 1)
    assert log_of(heap)._recycle(2) == other.nbytes
    arena = heap.arena("a")
    arena.free(arena.malloc(64))
    heap.sync()
    assert log_of(heap)._tagged()[0] == 64
    assert arena.check()


# ---------------------------------------------------------------- eras


def test_eras_ascend(heap: Heap) -> None:
    log, sizes = log_of(heap), {}
    for era in (1, 2, 5, 3):
        log._set_era(era)
        offset = heap.malloc(1000 * era)
        sizes[era] = heap.usable_size(offset)
        heap.free(offset)
        heap.sync()
    assert log._tagged() == (sum(sizes.values()), 4, 1)
    assert [log._recycle(bound) for bound in (1, 2, 3, 5)] == [0, sizes[1], sizes[2], 0]
    assert log._tagged()[2] == 5
    assert log._recycle(6) == sizes[5] + sizes[3]


def test_without_readers_nothing_waits(heap: Heap) -> None:
    log = log_of(heap)
    offsets = [heap.malloc(size) for size in SIZES]
    for offset in offsets:
        heap.free(offset)
    heap.sync()
    log._set_copies(0, 9)
    assert log._tagged() == (0, 0, 0)
    assert heap.stats().quarantined == 0
    assert sorted(heap.malloc(size) for size in SIZES) == sorted(offsets)
    heap.free(offsets[0])
    heap.sync()
    assert heap.stats().quarantined == 0
    log._set_copies(1, 9)
    heap.free(offsets[1])
    heap.sync()
    assert log._tagged()[1:] == (1, 9)


def test_frees_that_wait_for_their_record_get_a_tag_then(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="power", decay=None) as heap:
        log = log_of(heap)
        offsets = [heap.malloc(64) for _ in range(2000)]
        heap.sync()
        heap.free_many(offsets[::4])
        with heap.transaction(durable=False) as tx:
            for offset in offsets[1::4]:
                tx.free(offset)
        log._set_copies(1, 3)
        heap.free_many(offsets[2::4])
        assert log._tagged()[0] == 0
        log._set_era(4)
        heap.sync()
        assert log._tagged() == (64 * 1500, 1500, 4)
        assert heap.check()
        assert log._recycle(5) == 64 * 1500


# ---------------------------------------------------------------- ends


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_leaves_free_what_waited(kind: str, tmp_path: Path) -> None:
    code = """
import sys
from pmemheap import Heap
heap = Heap.create(sys.argv[2], durability=sys.argv[1])
heap._space.shared.log._set_copies(1, 1)
kept = heap.malloc(100)
heap.view(kept)[:5] = b"hello"
offsets = [heap.malloc(size) for size in (64, 10_000, 300_000) for _ in range(20)]
heap.free_many(offsets[::2])
with heap.transaction() as tx:
    for offset in offsets[1::2]:
        tx.free(offset)
    tx.roots["kept"] = kept
print(heap._space.shared.log._tagged()[0], flush=True)
sys.stdin.read()
"""
    process = python(code, kind, tmp_path / "heap")
    assert process.stdout is not None
    assert int(process.stdout.readline()) > 20 * 310_000
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with Heap.open(tmp_path / "heap") as heap:
        assert [offset for offset, _ in heap.blocks()] == [heap.roots["kept"]]
        assert bytes(heap.view(heap.roots["kept"], 5)) == b"hello"
        assert heap.stats().quarantined == 0
        assert heap.check()


def test_a_forked_child_recycles_nothing(heap: Heap) -> None:
    heap.free(heap.malloc(64))
    heap.sync()
    child = os.fork()
    if child == 0:
        os._exit(log_of(heap)._recycle(2))
    assert os.waitpid(child, 0)[1] == 0
    assert log_of(heap)._recycle(2) == 64


@pytest.mark.slow
@pytest.mark.unsanitized
@pytest.mark.parametrize("how", ["bare", "many", "transaction"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_memory_for_a_tag_changes_nothing(kind: str, how: str, tmp_path: Path) -> None:
    code = """
import ctypes, resource, sys
from pathlib import Path
from pmemheap import Heap

libc = ctypes.CDLL(None)
libc.mallopt(M_MMAP_THRESHOLD := -3, 1 << 16)  # what is long is not taken from what was freed

def free(offset):
    if how == "bare":
        heap.free(offset)
    elif how == "many":
        heap.free_many([offset])
    else:
        with heap.transaction(durable=False) as tx:
            tx.free(offset)

_, kind, path, how = sys.argv
heap = Heap.create(path, durability=kind, decay=None)
log = heap._space.shared.log
log._set_copies(1, 1)
offsets = list(heap.malloc_many(16, 80_000))[::2]
heap.sync()
libc.malloc_trim(0)

def leave_256_kib():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 18), resource.RLIM_INFINITY))

count = 0
try:
    while True:
        if count % 64 == 0:  # the log may have given something back
            leave_256_kib()
        free(offsets[count])
        count += 1
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert heap.usable_size(offsets[count]) == 16
assert heap.check()
heap.sync()
assert log._tagged()[:2] == (16 * count, count), (log._tagged(), count)
free(offsets[count])
heap.sync()
assert log._recycle(2) == 16 * (count + 1)
assert heap.check()
print(count)
"""
    assert 200 < int(answer(python(code, kind, tmp_path / "heap", how))) < 40_000
