"""Fill: what is in blocks when they are made, and what is left of those that were freed."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pmemheap import Count, Heap, OutOfSpaceError, UsageError
from pmemheap.layers import Fill, Passing

SIZES = (1, 100, 3000, 70_000, 400_000)
MADE, FREED = 0xAA, 0xDD


@pytest.fixture
def settled() -> Iterator[Heap]:
    """A heap that gives nothing back by itself, so that what was freed can be looked at."""
    with Heap.anonymous(decay=None) as heap:
        yield heap


def held(heap: Any, offset: int) -> bytes:
    return bytes(heap.view(offset))


def soil(heap: Any) -> None:
    """Leave memory that is not zero."""
    offsets = [heap.malloc(size) for size in SIZES for _ in range(3)]
    for offset in offsets:
        with heap.view(offset) as view:
            view[:] = b"x" * len(view)
    heap.free_many(offsets)


def of_one(byte: int, data: bytes) -> bool:
    return data == bytes([byte]) * len(data)


def left_at(address: int, length: int) -> bytes:
    """Return the bytes at an address."""
    return ctypes.string_at(address, length)


# ---------------------------------------------------------------- made


@pytest.mark.parametrize("size", SIZES)
def test_new_blocks_are_zeros(heap: Heap, size: int) -> None:
    soil(heap)
    with heap.install(Fill()):
        for offset in (heap.malloc(size), *heap.malloc_many(size, 3)):
            assert of_one(0, held(heap, offset))


@pytest.mark.parametrize("freed", [None, FREED])
@pytest.mark.parametrize("size", SIZES)
def test_a_block_of_another_size_is_filled_from_where_it_ended(
    heap: Heap, size: int, freed: int | None
) -> None:
    soil(heap)
    with heap.install(Fill(malloc=MADE, free=freed)):
        for to in SIZES:
            offset = heap.malloc(size)
            usable = heap.usable_size(offset)
            heap.view(offset)[:] = b"y" * usable
            offset = heap.realloc(offset, to)
            data = held(heap, offset)
            kept = len(data) - len(data.lstrip(b"y"))
            assert kept >= min(usable, to)
            assert of_one(MADE, data[kept:])
            heap.free(offset)


def test_what_a_block_expands_by_is_filled(heap: Heap) -> None:
    soil(heap)
    with heap.install(Fill(malloc=MADE)):
        offset = heap.malloc(70_000)
        usable = heap.usable_size(offset)
        heap.view(offset)[:] = b"y" * usable
        assert heap.expand(offset, 90_000)
        data = held(heap, offset)
        assert data[:usable] == b"y" * usable
        assert len(data) >= 90_000
        assert of_one(MADE, data[usable:])


def test_none_leaves_new_blocks_as_they_are(settled: Heap) -> None:
    offset = settled.malloc(100)
    settled.view(offset)[:] = b"x" * 112
    settled.free(offset)
    with settled.install(Fill(malloc=None)):
        assert settled.malloc(100) == offset
        assert held(settled, offset) == b"x" * 112


# ---------------------------------------------------------------- freed


@pytest.mark.parametrize("size", SIZES)
def test_freed_blocks_are_poisoned(settled: Heap, size: int) -> None:
    with settled.install(Fill(free=FREED)):
        offsets = [settled.malloc(size), *settled.malloc_many(size, 3)]
        places = [(settled.address(o), settled.usable_size(o)) for o in offsets]
        settled.free(offsets[0])
        settled.free_many(offsets[1:])
    assert all(of_one(FREED, left_at(*place)) for place in places)


def test_the_place_that_a_block_leaves_is_poisoned(settled: Heap) -> None:
    with settled.install(Fill(free=FREED)):
        for size, to in ((100, 5000), (5000, 400_000), (400_000, 100)):
            offset = settled.malloc(size)
            place = settled.address(offset), settled.usable_size(offset)
            blocker = settled.malloc(size)
            assert settled.realloc(offset, to) != offset
            assert of_one(FREED, left_at(*place))
            settled.free(blocker)


def test_a_shrink_without_room_for_a_new_block_stays(settled: Heap) -> None:
    class Full(Passing):
        def malloc(self, size: int, align: int = 16) -> int:
            raise OutOfSpaceError("full: no block expected")

    offset = settled.malloc(5000)
    settled.view(offset)[:3] = b"abc"
    with settled.install(Full()), settled.install(Fill(free=FREED)):
        assert settled.realloc(offset, 100) == offset
        with pytest.raises(OutOfSpaceError, match="full"):
            settled.realloc(offset, 1 << 20)
    assert held(settled, offset)[:3] == b"abc"


def test_a_free_that_is_refused_changes_nothing(heap: Heap) -> None:
    with heap.install(Fill(free=FREED)):
        viewed, rooted, pinned = (heap.malloc(100) for _ in range(3))
        heap.roots["r"] = rooted
        view = heap.view(viewed)
        with heap.transaction() as tx:
            tx.write(pinned, b"data")
            for offset in (viewed, rooted, pinned):
                before = held(heap, offset)
                for free in (heap.free, lambda o: heap.free_many([heap.malloc(10), o])):
                    with pytest.raises((BufferError, UsageError), match="free"):
                        free(offset)
                assert held(heap, offset) == before
        with pytest.raises(BufferError):
            heap.realloc(viewed, 400_000)
        assert bytes(view) == bytes(112)
        with pytest.raises(UsageError, match="each block once"):
            heap.free_many([pinned, pinned])
        assert held(heap, pinned)[:4] == b"data"
        with pytest.raises(UsageError, match="free: offset of a live block expected"):
            heap.free(pinned + 16)
        with pytest.raises(UsageError, match="realloc: offset of a live block expected"):
            heap.realloc(pinned + 16, 10)
        view.release()
        heap.free(viewed)


def test_a_layer_below_that_refuses_gets_its_bytes_back(memory: Heap) -> None:
    class Keeping(Passing):
        def free(self, offset: int, deferred: bool = False) -> None:
            raise UsageError("kept: no free expected")

    offset = memory.malloc(100)
    memory.view(offset)[:3] = b"abc"
    with memory.install(Keeping()), memory.install(Fill(free=FREED)):
        with pytest.raises(UsageError, match="kept"):
            memory.free(offset)
        blocks = list(memory.blocks())
        with pytest.raises(UsageError, match="kept"):
            memory.realloc(offset, 5000)
    assert held(memory, offset)[:4] == b"abc\0"
    assert len(blocks) == 1


def test_a_deferred_free_lets_its_viewers_read(heap: Heap) -> None:
    with heap.install(Fill(free=FREED)):
        offset = heap.malloc(100)
        view = heap.view(offset)
        view[:3] = b"abc"
        heap.free(offset, deferred=True)
        assert bytes(view[:4]) == b"abc\0"
        view.release()


def test_blocks_of_other_arenas_stay_in_them(heap: Heap) -> None:
    arena = heap.arena("side")
    with heap.install(Fill(malloc=MADE, free=FREED)), heap.install(Count()) as count:
        offset = heap.realloc(arena.malloc(100), 5000)
        assert dict(arena.blocks()).keys() == {offset}
        heap.free(offset)
        assert count.blocks == 0
    with arena.install(Fill(malloc=MADE)):
        assert of_one(MADE, held(heap, arena.malloc(100)))


# ---------------------------------------------------------------- over any allocator


class Toy:
    """Blocks of 64 bytes of a bytearray; views do not keep them."""

    def __init__(self) -> None:
        self.data, self.live = bytearray(b"x" * 6400), set[int]()

    def malloc(self, size: int, align: int = 16) -> int:
        offset = next(o for o in range(0, 6400, 64) if o not in self.live)
        self.live.add(offset)
        return offset

    def free(self, offset: int) -> None:
        self.usable_size(offset)
        self.live.remove(offset)

    def usable_size(self, offset: int) -> int:
        if offset not in self.live:
            raise UsageError(f"toy: a live block expected, {offset} found")
        return 64

    def view(self, offset: int, length: int | None = None) -> memoryview:
        return memoryview(self.data)[offset : offset + (length or self.usable_size(offset))]


def test_it_stands_over_any_allocator_with_view() -> None:
    toy = Toy()
    fill = Fill(toy, malloc=MADE, free=FREED)
    assert not hasattr(fill, "realloc")
    first, second = fill.malloc(10), fill.malloc(10)
    assert of_one(MADE, held(toy, first))
    fill.free(first)
    assert of_one(FREED, bytes(toy.data[first : first + 64]))
    with pytest.raises(UsageError, match="toy: a live block"):
        fill.free(first)
    assert of_one(MADE, held(toy, second))
    with pytest.raises(UsageError, match="an allocator with view expected"):
        Fill(object())  # type: ignore[arg-type]


def test_another_allocator_that_refuses_has_its_bytes_back() -> None:
    class Stubborn(Toy):
        def free(self, offset: int) -> None:
            raise BufferError("toy: no free expected")

    toy = Stubborn()
    fill = Fill(toy, free=FREED)
    offset = fill.malloc(10)
    toy.view(offset)[:4] = b"kept"
    with pytest.raises(BufferError, match="toy"):
        fill.free(offset)
    assert held(toy, offset)[:5] == b"kept\0"


def test_a_block_that_cannot_be_filled_is_freed_again() -> None:
    class Blind(Toy):
        def view(self, offset: int, length: int | None = None) -> memoryview:
            raise MemoryError("toy: no memory for views")

    toy = Blind()
    with pytest.raises(MemoryError, match="no memory for views"):
        Fill(toy).malloc(10)
    assert toy.live == set()


@pytest.mark.parametrize("bad", [-1, 256, "0", b"\0", 1.5])
def test_what_is_no_byte_is_refused(bad: Any) -> None:
    for name in ("malloc", "free"):
        with pytest.raises(UsageError, match=f"Fill: {name}: a byte from 0 to 255"):
            Fill(**{name: bad})


def test_a_reader_takes_nothing(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        offset = heap.malloc(100)
    with Heap.open(tmp_path / "heap", readonly=True) as heap, heap.install(Fill(free=FREED)):
        with pytest.raises(UsageError, match="writable"):
            heap.free(offset)
        assert of_one(0, held(heap, offset))


def test_the_first_free_of_a_heap_that_was_opened_is_poisoned(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        offset = heap.malloc(400_000)
    with Heap.open(tmp_path / "heap", decay=None) as heap, heap.install(Fill(free=FREED)):
        place = heap.address(offset), 400_000
        heap.free(offset)
        assert of_one(FREED, left_at(*place))


def test_a_process_that_is_killed_leaves_a_sound_heap(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    Heap.create(path, durability="process").close()
    child = os.fork()
    if child == 0:
        heap = Heap.open(path)
        heap.install(Fill(free=FREED))
        kept = heap.malloc(100)
        heap.view(kept)[:4] = b"kept"
        heap.free(heap.realloc(heap.malloc(100), 5000))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with Heap.open(path) as heap:
        assert heap.check()
        assert [held(heap, offset)[:4] for offset, _ in heap.blocks()] == [b"kept"]
