"""What layers learn of regions: each block of a scratch region, as of any other; and no call."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_record_model import offsets_of

from pmemheap import Count, Heap, Record, Track, UsageError, traces
from pmemheap.cli import main
from pmemheap.heap.regions import Region
from pmemheap.layers import Fail, Fill, Passing
from pmemheap.layers.sites import read_sites
from pmemheap.native.constants import Format
from pmemheap.units import KiB

SIZES = (10, 100, 8 * KiB, 8 * KiB + 1, 300_000)


@pytest.fixture(params=["scratch", "region"])
def made(heap: Heap, request: pytest.FixtureRequest) -> Callable[[], Region]:
    """How a heap of each kind makes a region of each kind."""
    return {"scratch": heap.scratch, "region": heap.region}[request.param]


def here() -> str:
    """Return the line of the caller as a site."""
    frame = sys._getframe(1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


# ---------------------------------------------------------------- those who are told


def test_a_count_is_told_of_each_block_and_of_each_end(heap: Heap) -> None:
    with heap.install(Count()) as count:
        with heap.scratch() as scratch:
            offsets = [scratch.malloc(size) for size in SIZES]
            usable = sum(map(heap.usable_size, offsets))
            assert (count.blocks, count.bytes, count.total) == (len(SIZES), usable, usable)
            assert count.slack == usable - sum(SIZES)
            mark = scratch.mark()
            for _ in range(1000):
                scratch.malloc(50)
            scratch.malloc(200_000)
            assert count.blocks == len(SIZES) + 1001
            scratch.rewind(mark)
            assert (count.blocks, count.bytes) == (len(SIZES), usable)
            scratch.free(offsets[0])
            heap.free(offsets[-1])
            with heap.view(offsets[1]):
                heap.free(offsets[1], deferred=True)
            assert count.bytes == sum(map(heap.usable_size, offsets[2:4]))
        assert (count.blocks, count.bytes) == (0, 0)


def test_a_change_of_a_size_is_told(made: Callable[[], Region], heap: Heap) -> None:
    region = made()
    with heap.install(Count()) as count, heap.install(Track()) as track:
        first = region.malloc(100)
        assert region.realloc(first, 105) == first
        same = here().replace(f":{sys._getframe().f_lineno}", f":{sys._getframe().f_lineno - 1}")
        assert (count.in_place, count.moved, count.blocks) == (1, 0, 1)
        assert track.report() == [(same, 1, 105)]
        to, line = region.realloc(first, 5000), here()
        assert (count.in_place, count.moved, count.blocks) == (1, 1, 1)
        assert count.bytes == region.usable_size(to)
        assert track.live() == {to: line}
        assert track.report() == [(line, 1, 5000)]
    region.drop()


def test_a_track_names_the_lines(heap: Heap) -> None:
    scratch = heap.scratch()
    before = scratch.malloc(100)
    with heap.install(Track()) as track:
        small, line = scratch.malloc(100), here()
        mark = scratch.mark()
        large, other = scratch.malloc(100_000), here()
        assert track.live() == {small: line, large: other}
        assert track.report() == [(other, 1, 100_000), (line, 1, 100)]
        scratch.rewind(mark)
        scratch.free(before)
        assert track.live() == {small: line}
        scratch.drop()
        assert track.live() == {}


def test_a_trace_has_their_frees(heap: Heap, tmp_path: Path) -> None:
    with Record(tmp_path / "trace") as record, heap.install(record):
        with heap.scratch() as scratch:
            first = scratch.malloc(100)
            scratch.realloc(first, 5000)
            mark = scratch.mark()
            for size in SIZES:
                scratch.malloc(size)
            scratch.rewind(mark)
        heap.malloc(20)
    trace = traces.load(tmp_path / "trace")
    assert trace.blocks == len(SIZES) + 2
    assert trace.live_at_end == (len(SIZES) + 1,)
    assert trace.peak_live_bytes == 5000 + sum(SIZES)
    assert {event.site for event in traces.read_events(record.path)} <= {
        f"{__file__}:{line}" for line in range(100, 125)
    }


def test_tracemalloc_has_them_as_long_as_they_live(memory: Heap) -> None:
    def traced() -> list[int]:
        ours = [tracemalloc.DomainFilter(True, Track.domain)]
        found = tracemalloc.take_snapshot().filter_traces(ours).traces
        return sorted(trace.size for trace in found)

    tracemalloc.start()
    try:
        with memory.install(Track()):
            scratch = memory.scratch()
            for size in SIZES:
                scratch.malloc(size)
            assert traced() == sorted(SIZES)
        assert traced() == []
        memory.install(Track())
        scratch.malloc(77)
        memory.scratch().malloc(88)
        assert traced() == [77, 88]
        scratch.drop()
        assert traced() == [88]
        memory.close()
        assert traced() == [], "the memory is gone"
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- on and off


def test_layers_come_and_go_while_regions_live(heap: Heap) -> None:
    early = heap.scratch()
    early.malloc(100)
    outer = heap.install(Count()).layer
    late = heap.scratch()
    early.malloc(100)
    with heap.install(Count()) as inner:
        late.malloc(100)
        assert (outer.blocks, inner.blocks) == (2, 1)
        early.drop()
        assert (outer.blocks, inner.blocks) == (0, -1)
    late.drop()
    assert (outer.blocks, inner.blocks) == (-1, -1)
    heap.uninstall(outer)
    heap.scratch().malloc(100)
    assert outer.blocks == -1


def test_the_layer_of_an_arena_is_told_of_no_region(heap: Heap) -> None:
    with heap.arena("one").install(Count()) as count, heap.scratch() as scratch:
        scratch.malloc(100)
        assert count.total == 0


def test_what_lives_when_the_heap_is_closed_counts_as_alive() -> None:
    heap = Heap.anonymous()
    count = heap.install(Count()).layer
    scratch = heap.scratch()
    scratch.malloc(100)
    heap.malloc(100)
    heap.close()
    scratch.drop()
    assert count.blocks == 2


def test_a_forked_child_tells_nothing(memory: Heap) -> None:
    count = memory.install(Count()).layer
    scratch = memory.scratch()
    scratch.malloc(100)
    child = os.fork()
    if child == 0:
        with suppress(UsageError):
            scratch.drop()
        with suppress(UsageError):
            scratch.malloc(100)
        os._exit(count.blocks)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    scratch.drop()
    assert count.blocks == 0


class Holder:
    """What has a region, which goes with it."""

    def __init__(self, heap: Heap) -> None:
        self.scratch = heap.scratch()
        weakref.finalize(self, self.scratch.drop)
        self.me = self  # only the collector finds it


def test_a_finalizer_drops_in_the_middle_of_other_calls(memory: Heap, tmp_path: Path) -> None:
    count, track = memory.install(Count()).layer, memory.install(Track()).layer
    with Record(tmp_path / "trace") as record, memory.install(record):
        for _ in range(300):
            holder = Holder(memory)
            for size in (10, 100, 9000):
                holder.scratch.malloc(size)
            with memory.scratch() as scratch:
                _ = [(scratch.malloc(40), [], {}) for _ in range(30)]
        del holder
        gc.collect()
        assert (count.blocks, count.bytes, track.live()) == (0, 0, {})
    assert traces.load(record.path).live_at_end == ()


def test_a_count_is_exact_while_threads_have_regions(memory: Heap) -> None:
    count, track = memory.install(Count()).layer, memory.install(Track()).layer
    done = threading.Event()

    def work(number: int) -> None:
        for turn in range(60):
            with memory.scratch() as scratch:
                for size in range(1, 60):
                    scratch.malloc(size * (number + 1))
                mark = scratch.mark()
                scratch.realloc(scratch.malloc(30_000), 40_000)
                if turn % 2:
                    scratch.rewind(mark)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    switcher = threading.Thread(target=lambda: switch(memory, done))
    for thread in (*threads, switcher):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    switcher.join()
    assert (count.blocks, count.bytes, track.live(), track.report()) == (0, 0, {}, [])


def switch(heap: Heap, done: threading.Event) -> None:
    """Put layers on and take them off."""
    while not done.is_set():
        with heap.install(Count()), heap.install(Track()):
            done.wait(0.001)


# ---------------------------------------------------------------- files


def test_a_file_of_sites_has_what_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, sites = tmp_path / "shop", tmp_path / "shop.sites"
    for _ in range(2):  # the scratch regions of both runs have the same offsets
        heap = Heap.create(path) if not path.exists() else Heap.open(path)
        with heap, heap.install(Track(sites=sites)) as track:
            kept, scratch = heap.malloc(100), heap.scratch()
            gone = scratch.malloc(5000)
            assert {kept, gone} <= track.live().keys()
            assert gone not in read_sites(sites)
            scratch.realloc(gone, 9000)
            scratch.malloc(10)
    assert len(read_sites(sites)) == 2
    assert main(["leaks", str(path)]) == 0
    assert "2  224 B" in capsys.readouterr().out


def test_each_heap_has_its_own_blocks_left_out(tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    with Heap.anonymous() as one, Heap.anonymous() as other:
        track = one.install(Track(sites=sites)).layer
        number = one.scratch().malloc(100) >> Format.ARENA_BITS
        one.uninstall(track)
        other.install(track)
        arenas = [other.arena(f"{n}") for n in range(number)]
        offset = arenas[-1].malloc(100)
        assert offset >> Format.ARENA_BITS == number, "what one heap has for its regions"
        other.scratch().malloc(100)
        assert read_sites(sites).keys() == {offset}


# ---------------------------------------------------------------- no call passes a layer


class Listening(Passing):
    """A layer that writes down the calls that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def malloc(self, size: int, align: int = 16) -> int:
        self.calls.append("malloc")
        return super().malloc(size, align)

    def free(self, offset: int, deferred: bool = False) -> None:
        self.calls.append("free")
        super().free(offset, deferred)

    def usable_size(self, offset: int) -> int:
        self.calls.append("usable_size")
        return super().usable_size(offset)

    def over_view(self, offset: int, length: int | None = None) -> memoryview:
        self.calls.append("view")
        view: memoryview = self.below.view(offset, length)
        return view


def test_calls_of_a_region_pass_no_layer(heap: Heap, made: Callable[[], Region]) -> None:
    region = made()
    with heap.install(Listening()) as layer:
        first = region.malloc(100)
        region.usable_size(first)
        region.view(first, 10).release()
        region.free(region.realloc(first, 10_000))
        region.drop()
        assert layer.calls == []


def test_calls_of_the_heap_on_its_blocks_pass_them(heap: Heap, made: Callable[[], Region]) -> None:
    region = made()
    offset = region.malloc(100)
    with heap.install(Listening()) as layer:
        heap.usable_size(offset)
        heap.view(offset, 10).release()
        heap.free(offset)
        assert layer.calls == ["usable_size", "view", "free"]
    region.drop()


def test_fail_and_fill_leave_regions_as_they_are(made: Callable[[], Region], heap: Heap) -> None:
    region = made()
    with heap.install(Fail(nth=1)) as fail, heap.install(Fill(malloc=0xAA, free=0xDD)):
        offset = region.malloc(100)
        assert bytes(region.view(offset, 4)) == bytes(4)
        region.view(offset)[:4] = b"left"
        address = heap.address(offset)
        region.free(offset)
        assert ctypes.string_at(address, 4) == b"left"
        assert fail.calls == 0
    region.drop()


def test_fill_over_a_region_fills_its_blocks(memory: Heap) -> None:
    with memory.scratch() as scratch:
        over = Fill(scratch, malloc=0xAA)
        assert bytes(scratch.view(over.malloc(100), 4)) == b"\xaa" * 4


# ---------------------------------------------------------------- a model of it all


class Told:
    """Layers of each kind, and what they should know: the blocks since they came."""

    def __init__(self, heap: Heap, path: Path) -> None:
        self.heap = heap
        self.count, self.track, self.record = Count(), Track(), Record(path)
        self.made: set[int] = set()
        self.tracked: set[int] = set()
        self.balance = 0
        self.put_on()

    def put_on(self) -> None:
        for layer in (self.count, self.track, self.record):
            self.heap.install(layer)

    def take_off(self) -> None:
        for layer in (self.count, self.track, self.record):
            self.heap.uninstall(layer)

    def end(self) -> None:
        self.record.close()
        assert self.record.error is None
        assert offsets_of(self.record.path) == self.made
        assert len(traces.load(self.record.path).live_at_end) == len(self.made)


class RegionsMachine(RuleBasedStateMachine):
    """Blocks of the heap, an arena, scratch and kept regions; layers that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.heap = self.new_heap()
        self.regions: list[tuple[Region, list[int]]] = []
        self.marks: dict[int, tuple[Any, int]] = {}
        self.others: list[int] = []
        self.on: list[Told] = []
        self.traces = 0

    def new_heap(self) -> Heap:
        return Heap.anonymous(decay=0)

    def teardown(self) -> None:
        for region, _ in self.regions:
            region.drop()
        self.heap.free_many([at for at in self.others if not at >> Format.ARENA_BITS])
        self.heap.arena("beside").drop()
        self.freed(*self.others, *(at for _, blocks in self.regions for at in blocks))
        self.each_knows_what_it_saw()
        self.heap.close()
        for told in self.on:
            told.end()
        self.folder.cleanup()

    # ------------------------------------------------------------ layers

    @precondition(lambda self: len(self.on) < 3)
    @rule()
    def install(self) -> None:
        self.traces += 1
        self.on.append(Told(self.heap, Path(self.folder.name) / f"trace{self.traces}"))

    @precondition(lambda self: self.on)
    @rule(number=st.integers(0, 9))
    def uninstall(self, number: int) -> None:
        told = self.on.pop(number % len(self.on))
        told.take_off()
        told.end()

    def made(self, *offsets: int) -> None:
        for told in self.on:
            told.made.update(offsets)
            told.tracked.update(offsets)
            told.balance += len(offsets)

    def freed(self, *offsets: int) -> None:
        for told in self.on:
            told.made.difference_update(offsets)
            told.tracked.difference_update(offsets)
            told.balance -= len(offsets)

    # ------------------------------------------------------------ blocks

    @precondition(lambda self: len(self.regions) < 4)
    @rule(kept=st.booleans())
    def begin(self, kept: bool) -> None:
        if kept:
            region = self.heap.region()
            self.regions.append((region, [region.offset]))
            self.made(region.offset)
        else:
            self.regions.append((self.heap.scratch(), []))

    def region(self, number: int) -> tuple[Region, list[int]]:
        return self.regions[number % len(self.regions)]

    @precondition(lambda self: self.regions)
    @rule(
        number=st.integers(0, 9),
        sizes=st.lists(st.sampled_from((10, 700, 9000, 90_000)), max_size=20),
    )
    def malloc(self, number: int, sizes: list[int]) -> None:
        region, blocks = self.region(number)
        offsets = [region.malloc(size) for size in sizes]
        blocks.extend(offsets)
        self.made(*offsets)

    @precondition(lambda self: self.regions)
    @rule(number=st.integers(0, 9), which=st.integers(0, 99), by_heap=st.booleans())
    def free(self, number: int, which: int, by_heap: bool) -> None:
        region, blocks = self.region(number)
        offset = self.taken(region, blocks, which)
        if offset:
            (self.heap if by_heap else region).free(offset)
            self.freed(offset)

    def taken(self, region: Region, blocks: list[int], which: int) -> int:
        """Take a block out that may go alone, and forget the mark behind it; 0: there is none."""
        first = len(blocks) and blocks[0] == getattr(region, "offset", None)
        if len(blocks) == first:
            return 0
        at = first + which % (len(blocks) - first)
        self.marks.pop(id(region), None)
        return blocks.pop(at)

    @precondition(lambda self: self.regions)
    @rule(
        number=st.integers(0, 9), which=st.integers(0, 99), size=st.sampled_from((5, 104, 20_000))
    )
    def realloc(self, number: int, which: int, size: int) -> None:
        region, blocks = self.region(number)
        offset = self.taken(region, blocks, which)
        if not offset:
            return
        to = region.realloc(offset, size)
        blocks.append(to)
        if to != offset:
            self.freed(offset)
            self.made(to)
        for told in self.on:  # a Track says that it was made here, wherever it is
            told.tracked.add(to)

    @precondition(lambda self: self.regions)
    @rule(number=st.integers(0, 9))
    def mark(self, number: int) -> None:
        region, blocks = self.region(number)
        self.marks[id(region)] = region.mark(), len(blocks)

    @precondition(lambda self: self.regions)
    @rule(number=st.integers(0, 9))
    def rewind(self, number: int) -> None:
        region, blocks = self.region(number)
        if id(region) in self.marks:
            mark, count = self.marks[id(region)]
            region.rewind(mark)
            self.freed(*blocks[count:])
            del blocks[count:]

    @precondition(lambda self: self.regions)
    @rule(number=st.integers(0, 9))
    def drop(self, number: int) -> None:
        region, blocks = self.regions.pop(number % len(self.regions))
        region.drop()
        self.marks.pop(id(region), None)
        self.freed(*blocks)

    @rule(size=st.sampled_from((10, 3000, 90_000)), in_arena=st.booleans())
    def malloc_beside(self, size: int, in_arena: bool) -> None:
        offset = (self.heap.arena("beside") if in_arena else self.heap).malloc(size)
        self.others.append(offset)
        self.made(offset)

    @precondition(lambda self: self.others)
    @rule(which=st.integers(0, 99))
    def free_beside(self, which: int) -> None:
        offset = self.others.pop(which % len(self.others))
        self.heap.free(offset)
        self.freed(offset)

    @rule()
    def trim(self) -> None:
        self.heap.trim()

    # ------------------------------------------------------------ what they know

    @invariant()
    def each_knows_what_it_saw(self) -> None:
        for told in self.on:
            assert told.count.blocks == told.balance
            assert told.track.live().keys() == told.tracked


class InFileMachine(RegionsMachine):
    def new_heap(self) -> Heap:
        return Heap.create(Path(self.folder.name) / "heap", decay=0)


RegionsMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
InFileMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=30, deadline=None)
TestRegions = pytest.mark.slow(RegionsMachine.TestCase)
TestInFile = pytest.mark.slow(InFileMachine.TestCase)
