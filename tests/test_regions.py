"""Scratch regions: against a model of their pieces, at their edges, and in a heap of each kind."""

from __future__ import annotations

import gc
import os
import random
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmemheap import Heap, OutOfSpaceError, UsageError
from pmemheap.heap import units
from pmemheap.heap.insight import check
from pmemheap.heap.regions import Mark, Region
from pmemheap.layers import Count
from pmemheap.testing import AllocatorContract
from pmemheap.units import KiB, MiB

SIZES = (1, 16, 17, 33, 100, 500, 1008, 4000, 8192, 8193, 20_000, 300_000)
ALIGNS = (16, 16, 16, 32, 64, 256, 4096, 65_536)


def require_sound(region: Region) -> None:
    space = region._space
    report = space.look(check, space)
    assert report, str(report)


def live_in(region: Region) -> dict[int, int]:
    return dict(units.blocks(region._space))


class TestRegion(AllocatorContract):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap, heap.scratch() as scratch:
            yield scratch


class TestRegionInFile(AllocatorContract):
    @pytest.fixture(autouse=True, params=["process", "power"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.path, self.durability = tmp_path / "heap", request.param

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with (
            Heap.create(self.path, durability=self.durability) as heap,
            heap.scratch() as scratch,
        ):
            yield scratch


class Model:
    """A region beside what should be in it, in the order in which it came."""

    def __init__(self, heap: Heap, seed: int) -> None:
        self.heap, self.chance = heap, random.Random(seed)
        self.region = heap.scratch()
        self.live: list[tuple[int, bytes]] = []
        self.marks: list[tuple[Mark, int]] = []
        self.made = 0

    def step(self) -> None:
        call = self.chance.choice((self.malloc, self.malloc, self.malloc, self.free, self.other))
        call()

    def malloc(self) -> None:
        size, align = self.chance.choice(SIZES), self.chance.choice(ALIGNS)
        offset = self.region.malloc(size, align)
        assert offset % align == 0
        self.made += 1
        data = self.made.to_bytes(4, "little") * (min(size, 64) // 4)
        self.region.view(offset)[: len(data)] = data
        assert self.region.usable_size(offset) >= size
        self.live.append((offset, data))

    def free(self) -> None:
        if self.live:
            at = self.chance.randrange(len(self.live))
            offset, data = self.live.pop(at)
            assert bytes(self.region.view(offset, len(data))) == data
            self.chance.choice((self.region.free, self.heap.free))(offset)
            self.marks = [(mark, n - (n > at)) for mark, n in self.marks]
            with pytest.raises(UsageError):
                self.heap.free(offset)

    def other(self) -> None:
        self.chance.choice((self.mark, self.mark, self.rewind, self.realloc, self.deferred))()

    def mark(self) -> None:
        self.marks.append((self.region.mark(), len(self.live)))

    def rewind(self) -> None:
        if self.marks:
            at = self.chance.randrange(len(self.marks))
            mark, count = self.marks[at]
            del self.marks[at + 1 :]
            self.region.rewind(mark)
            del self.live[count:]

    def realloc(self) -> None:
        if self.live:
            at = self.chance.randrange(len(self.live))
            offset, data = self.live.pop(at)
            to = self.region.realloc(offset, self.chance.choice(SIZES) + len(data))
            assert bytes(self.region.view(to, len(data))) == data
            if to != offset:
                self.marks = [(mark, n - (n > at)) for mark, n in self.marks]
            self.live.insert(at if to == offset else len(self.live), (to, data))

    def deferred(self) -> None:
        if self.live:
            at = self.chance.randrange(len(self.live))
            offset, data = self.live.pop(at)
            self.marks = []  # while it is viewed none can be rewound to
            view = self.region.view(offset, len(data))
            self.heap.free(offset, deferred=True)
            assert bytes(view) == data
            with pytest.raises(UsageError):
                self.heap.free(offset)
            view.release()

    def require(self) -> None:
        assert sorted(live_in(self.region)) == sorted(offset for offset, _ in self.live)
        for offset, data in self.live:
            assert bytes(self.region.view(offset, len(data))) == data
        require_sound(self.region)


@given(seed=st.integers(0, 1 << 32))
def test_a_region_agrees_with_its_model(seed: int) -> None:
    with Heap.anonymous() as heap:
        model = Model(heap, seed)
        for _ in range(6):
            for _ in range(40):
                model.step()
            model.require()
        model.region.drop()
        require_sound(model.region)
        assert live_in(model.region) == {}


def test_the_end_of_with_frees_everything(heap: Heap) -> None:
    before = heap.stats().blocks
    with heap.scratch() as scratch:
        offsets = [scratch.malloc(size) for size in SIZES * 20]
        assert heap.stats().blocks == before, "they are none of the heap's file"
    for offset in offsets:
        with pytest.raises(UsageError, match="offset of a live block"):
            heap.view(offset)
    assert live_in(scratch) == {}
    assert scratch._space.core.usage()[0]["packed_units"] == 0
    require_sound(scratch)
    scratch.drop()
    with pytest.raises(UsageError, match="that was not dropped expected"):
        scratch.malloc(10)
    with pytest.raises(UsageError, match="that was not dropped expected"):
        scratch.mark()


def test_regions_of_one_heap_do_not_meet(heap: Heap) -> None:
    one, other = heap.scratch(), heap.scratch()
    of_one = [one.malloc(100) for _ in range(500)]
    of_other = [other.malloc(100) for _ in range(500)]
    for offset in of_other:
        heap.view(offset)[:3] = b"abc"
    one.drop()
    assert all(bytes(heap.view(offset, 3)) == b"abc" for offset in of_other)
    assert sorted(live_in(other)) == sorted(of_other)
    for offset in of_one[::7]:
        with pytest.raises(UsageError):
            heap.usable_size(offset)
    other.drop()


def test_a_view_keeps_its_region(heap: Heap) -> None:
    scratch = heap.scratch()
    mark = scratch.mark()
    small, large = scratch.malloc(50), scratch.malloc(100_000)
    for offset in (small, large):
        view = heap.view(offset)
        view[:4] = b"kept"
        with pytest.raises(BufferError, match="no live views of blocks that go"):
            scratch.drop()
        with pytest.raises(BufferError, match="no live views of blocks that go"):
            scratch.rewind(mark)
        with pytest.raises(BufferError, match="no live views"):
            heap.close()
        assert bytes(view[:4]) == b"kept"
        assert len(live_in(scratch)) == 2, "nothing has changed"
        view.release()
    scratch.rewind(mark)
    assert live_in(scratch) == {}


def test_an_exception_of_the_block_is_not_replaced(memory: Heap) -> None:
    scratch = memory.scratch()
    view = scratch.view(scratch.malloc(10))
    with pytest.raises(ZeroDivisionError) as raised, scratch:
        raise ZeroDivisionError
    assert "no live views" in raised.value.__notes__[0]
    view.release()
    scratch.drop()


def test_a_mark_of_another_region_is_refused(memory: Heap) -> None:
    one, other = memory.scratch(), memory.scratch()
    one.malloc(100)
    mark = one.mark()
    with pytest.raises(UsageError, match="a mark of <Region"):
        other.rewind(mark)
    with pytest.raises(UsageError, match="a mark of <Region"):
        one.rewind((1, 2, 3))  # type: ignore[arg-type]
    early = one.mark()
    for _ in range(3):
        one.malloc(5000)
    late = one.mark()
    one.rewind(early)
    with pytest.raises(UsageError, match="rewound to before"):
        one.rewind(late)


def test_rewinding_again_and_again_costs_no_space(memory: Heap) -> None:
    scratch = memory.scratch()
    scratch.malloc(100)
    mark = scratch.mark()
    for i in range(2000):
        for size in (40, 3000, 20_000):
            scratch.malloc(size)
        scratch.rewind(mark)
        if i == 10:
            mapped = scratch._space.region.nunits
    assert scratch._space.region.nunits == mapped
    require_sound(scratch)


def test_what_is_freed_in_the_middle_goes_with_its_chunk(memory: Heap) -> None:
    scratch = memory.scratch()
    offsets = [scratch.malloc(1000) for _ in range(5000)]
    counters = scratch._space.core.usage
    most = counters()[0]["packed_units"]
    for offset in offsets[:-1]:
        scratch.free(offset)
    assert counters()[0]["packed_units"] <= 33, "the first chunk, and the one in service"
    assert most >= 5000 * 1000 / 4096
    assert list(live_in(scratch)) == offsets[-1:]
    require_sound(scratch)


def test_the_scratch_arena_is_no_slot_of_the_heap(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path) as heap:
        size = path.stat().st_size
        with heap.scratch() as scratch:
            offset = scratch.malloc(100)
            scratch.malloc(10 * MiB)
            assert heap.arenas() == []
            with pytest.raises(UsageError, match="root 'x'"):
                heap.roots["x"] = offset
            with heap.transaction() as tx, pytest.raises(UsageError, match="transaction: free"):
                tx.free(offset)
            with heap.transaction() as tx, pytest.raises(UsageError):
                tx.write(offset, b"bytes")
        assert path.stat().st_size == size
    with Heap.open(path, readonly=True) as reader, reader.scratch() as scratch:
        scratch.view(scratch.malloc(10))[:1] = b"x"


def test_arenas_and_scratch_share_the_numbers(memory: Heap) -> None:
    with memory.scratch() as scratch:
        number = scratch.malloc(10) >> 55
        arenas = [memory.arena(f"a{i}", headroom=0) for i in range(1, 255)]
        with pytest.raises(OutOfSpaceError, match="at most 255 named arenas"):
            memory.arena("one too many", headroom=0)
    assert number not in {arena.malloc(10) >> 55 for arena in arenas}
    with Heap.anonymous() as other:
        for i in range(1, 40):
            other.arena(f"a{i}", headroom=0)
        assert other.scratch().malloc(10) >> 55 == 255


def test_without_a_number_there_is_no_scratch(memory: Heap) -> None:
    for i in range(1, 256):
        memory.arena(f"a{i}", headroom=0)
    with pytest.raises(OutOfSpaceError, match="scratch: at most 254 named arenas"):
        memory.scratch()
    assert memory.malloc(10) >= 0


def test_a_heap_that_is_full_says_so_and_goes_on() -> None:
    with Heap.anonymous(limit=8 * MiB) as heap, heap.scratch() as scratch:
        with pytest.raises(OutOfSpaceError) as raised:
            [scratch.malloc(1000) for _ in range(100_000)]
        assert raised.value.explanation.size == 1000  # type: ignore[attr-defined]
        count = len(live_in(scratch))
        assert count * 1008 > 6 * MiB
        require_sound(scratch)
        with pytest.raises(OutOfSpaceError):
            scratch.malloc(64 * MiB)
        scratch.rewind(Mark(id(scratch), 0, 0, 0))
        assert [scratch.malloc(1000) for _ in range(count)]


def test_a_closed_heap_has_closed_regions(memory: Heap) -> None:
    scratch = memory.scratch()
    mark, offset = scratch.mark(), scratch.malloc(100)
    memory.close()
    for call, arguments in (
        (scratch.malloc, (10,)),
        (scratch.free, (offset,)),
        (scratch.view, (offset,)),
        (scratch.usable_size, (offset,)),
        (scratch.realloc, (offset, 1000)),
        (scratch.rewind, (mark,)),
        (scratch.mark, ()),
        (memory.scratch, ()),
    ):
        with pytest.raises(UsageError, match="it is closed"):
            call(*arguments)
    scratch.drop()


def test_a_close_that_is_refused_leaves_the_regions(memory: Heap) -> None:
    scratch = memory.scratch()
    offset = scratch.malloc(100)
    scratch.view(offset)[:4] = b"kept"
    block = memory.malloc(100)
    for view in (memory.view(block), scratch.view(offset)):
        with pytest.raises(BufferError, match="no live views expected at close"):
            memory.close()
        assert bytes(scratch.view(offset, 4)) == b"kept"
        scratch.malloc(10)
        view.release()
    memory.close()
    assert scratch._space.closed


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_region_that_another_thread_drops_takes_nothing_more(
    size: int, memory: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = memory.scratch()
    scratch.malloc(10)
    serve = scratch._space.serve

    def dropped_before(space: Any, *arguments: Any) -> Any:
        scratch._drop()
        return serve(*arguments)

    monkeypatch.setattr(type(scratch._space), "serve", dropped_before)
    with pytest.raises(UsageError, match="not dropped"):
        [scratch.malloc(size) for _ in range(10_000)]
    assert live_in(scratch) == {}


def test_a_view_outlives_heap_and_region() -> None:
    heap = Heap.anonymous()
    scratch = heap.scratch()
    view = scratch.view(scratch.malloc(100))
    view[:4] = b"kept"
    del heap, scratch
    gc.collect()
    assert bytes(view[:4]) == b"kept"


def test_a_heap_that_is_dropped_takes_its_regions_along_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        for is_closed in (False, True):
            heap = Heap.anonymous()
            scratch = heap.scratch()
            scratch.malloc(100)
            gone = [
                weakref.ref(each)
                for each in (heap, heap._space.shared.scratch, scratch._space.shared)
            ]
            if is_closed:
                heap.close()
            del heap, scratch
            assert [each() for each in gone] == [None] * 3
    finally:
        gc.enable()


def test_a_region_keeps_its_heap() -> None:
    scratch = Heap.anonymous().scratch()
    gc.collect()
    scratch.view(scratch.malloc(100))[:1] = b"x"


def test_a_forked_child_has_no_region_of_its_parent(memory: Heap) -> None:
    scratch = memory.scratch()
    offset = scratch.malloc(100)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            scratch.malloc(10)
        except UsageError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert scratch.usable_size(offset) == 112


def test_threads_have_regions_of_their_own(memory: Heap) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            model = Model(memory, seed)
            for _ in range(300):
                model.step()
            for offset, data in model.live:
                assert bytes(model.region.view(offset, len(data))) == data
            model.region.drop()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    scratch = memory.scratch()
    assert live_in(scratch) == {}
    require_sound(scratch)


def test_memory_of_regions_goes_back() -> None:
    with Heap.anonymous(decay=None) as heap:
        with heap.scratch() as scratch:
            for _ in range(40):
                scratch.view(scratch.malloc(MiB))[:] = bytes(MiB)
        assert heap.trim() > 30 * MiB


def test_a_count_that_wraps_a_region_counts_it(memory: Heap) -> None:
    with memory.scratch() as scratch:
        count = Count(scratch)
        offsets = [count.malloc(100) for _ in range(10)]
        count.free(offsets[3])
        assert count.blocks == 9
        assert count.bytes == sum(live_in(scratch).values())


def test_bad_sizes_and_alignments_are_refused(memory: Heap) -> None:
    with memory.scratch() as scratch:
        for bad in (0, -1, "x", 1.5, 1 << 60):
            with pytest.raises((UsageError, TypeError, OutOfSpaceError)):
                scratch.malloc(bad)  # type: ignore[arg-type]
        for bad in (0, 3, -16, 1 << 40):
            with pytest.raises(UsageError):
                scratch.malloc(16, bad)
        with pytest.raises(UsageError):
            scratch.realloc(scratch.malloc(10) + 16, 100)
        with pytest.raises(TypeError):
            scratch.malloc()  # type: ignore[call-arg]
        scratch.malloc(size=10, align=64)
        with pytest.raises(UsageError, match="its own realloc moves it"):
            memory.realloc(scratch.malloc(10), 10 * KiB)
        large = scratch.malloc(100 * KiB)
        assert memory.realloc(large, 50 * KiB) == large
