"""Placed: arenas in which a `Space` of the user says where each block lies."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmemheap import (
    BestFit,
    Buddy,
    Count,
    Fail,
    Fill,
    FirstFit,
    Heap,
    NextFit,
    OutOfSpaceError,
    Placed,
    Ring,
    UsageError,
)
from pmemheap.containers import SortedMap, Vector
from pmemheap.heap.arena import Arena
from pmemheap.testing import AllocatorContract
from pmemheap.units import UNIT, KiB, MiB

SPACES: Any = (FirstFit, NextFit, BestFit, Buddy)
LONGEST = 16 * KiB


@pytest.fixture
def heap() -> Iterator[Heap]:
    with Heap.anonymous() as heap:
        yield heap


def placed_in(heap: Heap, space: Any = None) -> Arena:
    return heap.arena("mine", strategy=Placed(FirstFit() if space is None else space))


class TestPlaced(AllocatorContract):
    @pytest.fixture(autouse=True, params=SPACES)
    def kind(self, request: pytest.FixtureRequest) -> None:
        self.space = request.param

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap:
            yield placed_in(heap, self.space())


class TestPlacedHeap(AllocatorContract):
    steps = 100

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous(strategy=Placed(BestFit())) as heap:
            yield heap


# ---------------------------------------------------------------- where blocks lie


class Told:
    """A first fit that remembers what it was asked and told, and can do no more than it must."""

    def __init__(self) -> None:
        self.inner, self.calls = FirstFit(), list[tuple[Any, ...]]()

    def allocate(self, length: int, align: int) -> int | None:
        start = self.inner.allocate(length, align)
        self.calls.append(("allocate", length, align, start))
        return start

    def deallocate(self, start: int, length: int) -> None:
        self.calls.append(("deallocate", start, length))
        self.inner.deallocate(start, length)

    def taken(self) -> list[tuple[Any, ...]]:
        calls, self.calls = self.calls, []
        return calls


def test_a_space_is_asked_in_steps_and_told_what_comes_free(heap: Heap) -> None:
    space = Told()
    mine = placed_in(heap, space)
    first = mine.malloc(100)
    assert space.taken() == [
        ("allocate", 4, 1, None),
        ("deallocate", 0, 127),  # a chunk of one unit: its last step is the core's
        ("allocate", 4, 1, 0),
    ]
    second = mine.malloc(1, 256)
    mine.free(first)
    assert space.taken() == [("allocate", 1, 8, 8)]  # a free is told with the next request
    assert mine.malloc(70) == first
    assert space.taken() == [("deallocate", 0, 4), ("allocate", 3, 1, 0)]
    assert second == first + 256
    assert [size for _, size in mine.blocks()] == [96, 32]


def test_first_fit_fills_the_lowest_gap(heap: Heap) -> None:
    mine = placed_in(heap, FirstFit())
    offsets = [mine.malloc(size) for size in (320, 64, 64, 64)]
    mine.free(offsets[0])
    mine.free(offsets[2])
    assert mine.malloc(64) == offsets[0]


def test_next_fit_goes_on_where_it_was(heap: Heap) -> None:
    mine = placed_in(heap, NextFit())
    offsets = [mine.malloc(64) for _ in range(4)]
    mine.free(offsets[0])
    assert mine.malloc(64) == offsets[-1] + 64


def test_best_fit_takes_the_tightest_gap(heap: Heap) -> None:
    mine = placed_in(heap, BestFit())
    offsets = [mine.malloc(size) for size in (320, 64, 64, 64)]
    mine.free(offsets[0])
    mine.free(offsets[2])
    assert mine.malloc(64) == offsets[2]


def test_buddies_lie_at_multiples_of_their_size(heap: Heap) -> None:
    mine = placed_in(heap, Buddy())
    for size in (32, 64, 500, 2000, 9000):
        assert mine.malloc(size) % (1 << (size - 1).bit_length()) == 0


@pytest.mark.parametrize("kind", [FirstFit, BestFit, Buddy])
def test_a_freed_block_comes_together_with_its_neighbours(heap: Heap, kind: Any) -> None:
    mine = placed_in(heap, kind())
    offsets = [mine.malloc(1024) for _ in range(12)]
    for offset in offsets[1::2] + offsets[::2]:
        mine.free(offset)
        assert mine.check()
    before = mine.stats().active
    assert {mine.malloc(2048) for _ in range(3)} <= set(offsets)
    assert mine.stats().active == before
    assert mine.check()


def test_long_and_widely_aligned_blocks_have_units_of_their_own(heap: Heap) -> None:
    mine = placed_in(heap)
    assert mine.usable_size(mine.malloc(LONGEST)) == LONGEST
    assert mine.usable_size(mine.malloc(LONGEST + 1)) == LONGEST + UNIT
    assert mine.malloc(100, 64 * KiB) % (64 * KiB) == 0
    assert mine.malloc(3 * MiB) % UNIT == 0
    assert mine.check()


@pytest.mark.parametrize("kind", SPACES)
def test_every_chunk_has_room_for_what_it_was_made_for(heap: Heap, kind: Any) -> None:
    """Also where a Space is at its worst: an aligned block in a range that is not."""
    mine = placed_in(heap, kind())
    for size in (32, 4064, 4096, 4128, LONGEST - 32, LONGEST):
        for align in (16, 32, 512, 4096):
            for _ in range(5):
                assert mine.malloc(size, align) % align == 0
    assert mine.check()


# ---------------------------------------------------------------- the calls of other arenas


def test_a_block_that_grows_moves_to_where_the_space_says(heap: Heap) -> None:
    mine = placed_in(heap)
    gap = mine.malloc(3000)
    block = mine.malloc(100)
    mine.view(block)[:3] = b"abc"
    mine.free(gap)
    assert not mine.expand(block, 200)
    assert mine.expand(block, 128)
    assert mine.realloc(block, 50) == block
    assert mine.realloc(block, 2000) == gap
    block = mine.realloc(gap, 100_000)
    for size in (10, 8000, 90_000):
        block = mine.realloc(block, size)
        assert mine.usable_size(block) >= size
        assert bytes(mine.view(block, 3)) == b"abc"
    small = mine.malloc(32)
    with mine.view(small), pytest.raises(BufferError):
        mine.realloc(small, 64)
    mine.free(small)
    with pytest.raises(UsageError):
        mine.realloc(small, 64)
    assert mine.check()


def test_a_freed_block_is_nobodys_as_long_as_it_is_viewed(heap: Heap) -> None:
    mine = placed_in(heap)
    block = mine.malloc(100)
    view = mine.view(block)
    view[:3] = b"abc"
    with pytest.raises(BufferError):
        mine.free(block)
    mine.free(block, deferred=True)
    with pytest.raises(UsageError):
        mine.free(block)
    others = [mine.malloc(100) for _ in range(50)]
    assert block not in others
    assert bytes(view[:3]) == b"abc"
    assert mine.check()
    del view
    assert mine.malloc(100) == block


def test_transactions_reserve_and_free_in_it(heap: Heap) -> None:
    mine = placed_in(heap)
    kept = mine.malloc(100)
    tx = heap.transaction()
    for size in (100, 100_000, 16):
        heap.view(tx.malloc(size, arena=mine))[:1] = b"x"
        assert mine.check()
    tx.free(kept)
    tx.abort()
    assert [offset for offset, _ in mine.blocks()] == [kept]
    with heap.transaction() as tx:
        made = [tx.malloc(size, arena=mine) for size in (100, 100_000, 16, 3)]
        tx.free(made[2])
        tx.free(kept)
        assert mine.malloc(100) not in {kept, *made}
        assert mine.check()
    mine.free(max(offset for offset, _ in mine.blocks() if offset not in made))
    assert {offset for offset, _ in mine.blocks()} == {made[0], made[1], made[3]}
    assert mine.malloc(100) == kept
    assert mine.check()


def test_handles_arrays_and_pickles_are_blocks_of_it(heap: Heap) -> None:
    mine = placed_in(heap)
    handle, array = mine.alloc(100), mine.ndarray(1000)
    value = {"one": [1, 2, 3], "array": np.arange(500)}
    assert mine.load(mine.dump(value))["array"].sum() == 500 * 499 // 2
    assert {handle.offset, heap.offset_of(array)} < {offset for offset, _ in mine.blocks()}
    handle.free()
    del array
    assert mine.check()


def test_arrays_of_numpy_lie_in_it() -> None:
    with Heap.anonymous(strategy=Placed(BestFit())) as heap:
        with heap.numpy_allocator():
            kept = np.arange(1000) + 1
            gone = kept * 2
        assert heap.stats().reserved >= 16_000
        offset = heap.keep(kept)
        del kept, gone
        gc.collect()
        assert [each for each, _ in heap.blocks()] == [offset]
        assert heap.ndarray_at(offset, 1000, int).sum() == 1000 * 1001 // 2
        assert heap.check()


def test_many_blocks_at_once(heap: Heap) -> None:
    mine = placed_in(heap)
    offsets = mine.malloc_many(100, 300)
    assert len({*offsets}) == 300
    with pytest.raises(UsageError, match=r"offsets\[2\]"):
        mine.free_many([offsets[0], offsets[1], offsets[1]])
    mine.free_many(offsets)
    assert list(mine.blocks()) == []
    assert mine.check()


def test_layers_see_its_blocks(heap: Heap) -> None:
    mine = placed_in(heap)
    with mine.install(Count()) as count, mine.install(Fill(malloc=0xAA)):
        offset = mine.malloc(100)
        assert bytes(mine.view(offset)) == b"\xaa" * 128
        assert (count.blocks, count.total) == (1, 128)
        offset = mine.realloc(offset, 5000)
        with heap.transaction() as tx:
            tx.malloc(100, arena=mine)
        assert (count.blocks, count.moved) == (2, 1)
        with mine.install(Fail(nth=1)), pytest.raises(OutOfSpaceError):
            mine.malloc(10)
        mine.free(offset)
        assert count.blocks == 1
    assert mine.check()


def test_stats_and_explain_know_its_chunks(heap: Heap) -> None:
    mine = placed_in(heap)
    offsets = [mine.malloc(100) for _ in range(40)]
    stats = mine.stats()
    assert (stats.allocated, stats.blocks, stats.active) == (40 * 128, 40, 3 * UNIT)
    told = mine.explain(33)
    assert (told.rounded, told.possible, told.fits) == (64, True, True)
    assert [mine.explain(size).rounded for size in (LONGEST, LONGEST + 1)] == [16384, 20480]
    with heap.transaction() as tx:
        tx.malloc(100, arena=mine)
        assert mine.stats().reserved == 128
    mine.free_many(offsets)
    assert mine.stats().blocks == 1


@pytest.mark.parametrize("kind", [Told, *SPACES])
def test_empty_chunks_go_back(heap: Heap, kind: Any) -> None:
    mine = placed_in(heap, kind())
    for _ in range(2):
        offsets = [mine.malloc(1000) for _ in range(3000)]
        kept = offsets.pop(1500)
        mine.view(kept)[:3] = b"abc"
        mine.free_many(offsets)
        before = mine.stats()
        mine.trim()
        stats = mine.stats()
        assert stats.mapped <= before.mapped
        assert stats.active <= 32 * UNIT < before.active
        assert mine.check()
        assert bytes(mine.view(kept, 3)) == b"abc"
        mine.malloc(5000)  # after which the Space was told all
        assert mine.check()
        mine.free_many([offset for offset, _ in mine.blocks()])
    mine.trim()
    assert mine.stats().active == 0


def test_a_space_that_cannot_take_is_made_anew(heap: Heap) -> None:
    space = Told()
    mine = placed_in(heap, space)
    mine.free(mine.malloc(100))
    mine.trim()
    space.taken()
    mine.malloc(100)
    assert space.taken() == [("deallocate", 0, 4)], "a copy of it was asked"


def test_after_many_frees_it_is_made_anew(heap: Heap) -> None:
    space = Told()
    mine = placed_in(heap, space)
    mine.free_many(mine.malloc_many(32, (1 << 14) + 1))
    space.taken()
    mine.malloc(32)
    assert space.taken() == []
    assert mine.stats().blocks == 1
    assert mine.check()


def test_a_limit_leaves_what_is_there() -> None:
    with Heap.anonymous(limit=4 * MiB) as heap:
        mine = placed_in(heap, BestFit())
        live: list[int] = []
        message = r"limit .*BestFit.allocate\(32, 1\): None found, .* longest range of 31"
        with pytest.raises(OutOfSpaceError, match=message):
            live.extend(iter(lambda: mine.malloc(1000), None))
        assert sorted(live) == [offset for offset, _ in mine.blocks()]
        assert not mine.explain(1000).possible
        mine.free_many(live[:100])
        assert mine.explain(1000).fits
        assert mine.malloc(1000) in live[:100]
        assert mine.check()


def test_threads_allocate_and_free(heap: Heap) -> None:
    mine = placed_in(heap, BestFit())
    lost: list[object] = []

    def work(seed: int) -> None:
        rng, own = random.Random(seed), []
        try:
            for _ in range(500):
                own.append(mine.malloc(rng.choice((20, 500, 9000, 100_000))))
                mine.view(own[-1], 1)[:] = bytes([seed])
                if len(own) > 30:
                    offset = own.pop(rng.randrange(len(own)))
                    assert bytes(mine.view(offset, 1)) == bytes([seed])
                    mine.free(offset)
            mine.free_many(own)
        except BaseException as error:
            lost.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost
    assert list(mine.blocks()) == []
    assert mine.check()


# ---------------------------------------------------------------- what it refuses


def test_an_arena_keeps_its_space(heap: Heap) -> None:
    strategy = Placed(BestFit())
    mine = heap.arena("mine", strategy=strategy)
    assert type(mine) is Arena
    assert heap.arena("mine") is mine
    assert heap.arena("mine", strategy=strategy) is mine
    for other in (Placed(BestFit()), Ring()):
        with pytest.raises(UsageError, match=r"its strategy Placed\(.*\) expected, found"):
            heap.arena("mine", strategy=other)
    mine.malloc(100)
    mine.drop()
    again = heap.arena("mine", strategy=strategy)  # with a copy of the Space, which is empty
    again.malloc(100)
    assert again.check()


def test_two_arenas_of_one_strategy_have_a_space_each(heap: Heap) -> None:
    space = Told()
    strategy = Placed(space)
    one, other = (heap.arena(name, strategy=strategy) for name in ("one", "other"))
    other.malloc(100)
    assert space.calls == []
    one.malloc(100)
    assert len(space.calls) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "Placed: an object with allocate and deallocate expected"),
        (FirstFit, "Placed: an object with"),
        ("BestFit", "Placed: an object with"),
    ],
)
def test_what_is_no_space_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Placed(given)
    space = FirstFit()
    space.deallocate(3, 4)
    with pytest.raises(UsageError, match=r"Placed: no free range in a new Space expected"):
        Placed(space)


def test_files_and_shared_memory_cannot_have_it(tmp_path: Path) -> None:
    message = r"Rows\(\.\.\.\) expected in a file or in shared memory, found Placed"
    with pytest.raises(UsageError, match=message):
        Heap.create(tmp_path / "heap", strategy=Placed(BestFit()))
    with pytest.raises(UsageError, match=message):
        Heap.shared(strategy=Placed(BestFit()))
    assert list(tmp_path.iterdir()) == []
    makers: list[Callable[[], Heap]] = [Heap.shared, lambda: Heap.create(tmp_path / "heap")]
    for make in makers:
        with make() as heap:
            with pytest.raises(UsageError, match=message):
                placed_in(heap)
            assert heap.arenas() == []
    with pytest.raises(UsageError, match=message):
        Heap.open(tmp_path / "heap", strategy=Placed(BestFit()))


def test_regions_and_maps_need_another_heap() -> None:
    with Heap.anonymous(strategy=Placed(BestFit())) as heap:
        with pytest.raises(UsageError, match=r"General\(\) expected for regions, found Placed"):
            heap.region()
        with pytest.raises(UsageError, match="map 'm': a heap without a Space for its blocks"):
            SortedMap(heap, "m")
        assert dict(heap.roots) == {}
        assert list(heap.blocks()) == []
        vector: Any = Vector(heap, "v", "f8")  # in an arena of its own
        vector.extend(range(10))
        with heap.scratch() as scratch:
            scratch.malloc(100)
        assert heap.check()
        del vector
