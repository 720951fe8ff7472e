from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pmemheap import Heap, OutOfSpaceError, UsageError
from pmemheap.units import UNIT, KiB, MiB

SIZES = st.one_of(
    st.integers(1, 300),
    st.integers(300, 20 * KiB),
    st.integers(20 * KiB, 400 * KiB),
    st.sampled_from([1, 16, 17, 2048, 2049, UNIT, UNIT + 1, 15 * KiB, 63 * UNIT, MiB]),
)
ALIGNMENTS = st.sampled_from([16, 16, 16, 64, 2048, UNIT, 1 << 16, 1 << 20])
LIMIT = 24 * MiB
PROBES = 40


class Twin:
    """What a block holds by the model: its size, and bytes at its ends and some places between."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        source = random.Random(seed)
        middle = (source.randrange(size) for _ in range(PROBES))
        self.bytes = {at: source.randrange(256) for at in (0, size - 1, *middle)}

    def write(self, view: memoryview) -> None:
        for at, value in self.bytes.items():
            view[at] = value

    def verify(self, view: memoryview) -> None:
        wrong = {at: view[at] for at, value in self.bytes.items() if view[at] != value}
        assert not wrong

    def cut(self, size: int) -> None:
        self.size = size
        self.bytes = {at: value for at, value in self.bytes.items() if at < size}


class HeapMachine(RuleBasedStateMachine):
    """The model: a dict of offset to Twin, views that are held, names. No code shared."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = 0
        self.live: dict[int, Twin] = {}
        self.views: list[tuple[int, memoryview, Twin]] = []
        self.waiting: set[int] = set()
        self.roots: dict[str, int] = {}
        self.handles: list[tuple[Any, int]] = []
        self.stale: list[Any] = []
        self.begin()

    def begin(self) -> None:
        self.heap = Heap.anonymous(limit=LIMIT, decay=0)

    # ------------------------------------------------------------ the model

    def pick(self, number: int) -> int | None:
        offsets = list(self.live)
        return offsets[number % len(offsets)] if offsets else None

    def is_viewed(self, offset: int) -> bool:
        return any(at == offset for at, _, _ in self.views)

    def born(self, offset: int, size: int) -> None:
        """A new block lies where nothing lives, and may be filled."""
        usable = self.heap.usable_size(offset)
        assert usable >= size
        self.refuse_overlap(offset, usable)
        self.seed += 1
        twin = Twin(size, self.seed)
        twin.write(self.heap.view(offset, size))
        self.live[offset] = twin

    def refuse_overlap(self, offset: int, usable: int) -> None:
        waiting = {at: twin.size for at, _, twin in self.views if at in self.waiting}
        for at, size in [*((at, twin.size) for at, twin in self.live.items()), *waiting.items()]:
            assert at + size <= offset or offset + usable <= at, "two blocks overlap"

    def died(self, offset: int) -> None:
        del self.live[offset]
        self.stale += [handle for handle, at in self.handles if at == offset]
        self.handles = [(handle, at) for handle, at in self.handles if at != offset]

    # ------------------------------------------------------------ rules

    @rule(size=SIZES, align=ALIGNMENTS)
    def malloc(self, size: int, align: int) -> None:
        try:
            offset = self.heap.malloc(size, align)
        except OutOfSpaceError:
            assert sum(twin.size for twin in self.live.values()) + size + align > LIMIT // 8
            return
        assert offset % align == 0
        self.born(offset, size)

    @rule(size=st.integers(1, 5000), count=st.integers(0, 60))
    def malloc_many(self, size: int, count: int) -> None:
        for offset in self.heap.malloc_many(size, count):
            self.born(offset, size)

    @rule(number=st.integers(0), deferred=st.booleans())
    def free(self, number: int, deferred: bool) -> None:
        offset = self.pick(number)
        if offset is None:
            return
        if offset in self.roots.values():
            with pytest.raises(UsageError, match="no root that names it"):
                self.heap.free(offset, deferred)
            return
        if not self.is_viewed(offset):
            self.heap.free(offset, deferred)
        elif deferred:
            self.heap.free(offset, deferred=True)
            self.waiting.add(offset)
        else:
            with pytest.raises(BufferError):
                self.heap.free(offset)
            return
        self.died(offset)
        with pytest.raises(UsageError):
            self.heap.free(offset)

    @rule(numbers=st.lists(st.integers(0), max_size=30))
    def free_many(self, numbers: list[int]) -> None:
        batch = {self.pick(number) for number in numbers} - {None, *self.roots.values()}
        if any(self.is_viewed(offset) for offset in batch if offset is not None):
            with pytest.raises(BufferError):
                self.heap.free_many(list(batch))
            return
        self.heap.free_many(list(batch))
        for offset in batch:
            assert offset is not None
            self.died(offset)

    @rule(number=st.integers(0), size=SIZES)
    def realloc(self, number: int, size: int) -> None:
        offset = self.pick(number)
        if offset is None:
            return
        shrinks = size <= self.live[offset].size
        try:
            to = self.heap.realloc(offset, size)
        except OutOfSpaceError:
            assert not shrinks
            return
        except BufferError:
            assert self.is_viewed(offset)
            assert not shrinks
            return
        except UsageError:
            assert offset in self.roots.values()
            assert not shrinks
            return
        twin = self.live[offset]
        if to == offset:
            del self.live[offset]
        else:
            assert not self.is_viewed(offset)
            assert offset not in self.roots.values()
            self.died(offset)
        self.refuse_overlap(to, self.heap.usable_size(to))
        twin.cut(min(size, twin.size))
        twin.verify(self.heap.view(to))
        twin.size = size
        self.live[to] = twin

    @rule(number=st.integers(0), size=SIZES)
    def expand(self, number: int, size: int) -> None:
        offset = self.pick(number)
        if offset is None:
            return
        if self.heap.expand(offset, size):
            twin = self.live.pop(offset)
            assert self.heap.usable_size(offset) >= size
            self.refuse_overlap(offset, self.heap.usable_size(offset))
            twin.size = max(size, twin.size)
            self.live[offset] = twin

    @rule(units=st.lists(st.integers(64, 100), min_size=3, max_size=6), which=st.integers(0, 5))
    def leave_a_hole_behind_an_extent_and_grow_into_it(self, units: list[int], which: int) -> None:
        offsets = []
        for each in units:
            try:
                offsets.append(self.heap.malloc(each * UNIT))
            except OutOfSpaceError:
                return
            self.born(offsets[-1], each * UNIT)
        hole = offsets[which % len(offsets)]
        self.heap.free(hole)
        self.died(hole)
        before = max((offset for offset in self.live if offset < hole), default=None)
        if before is not None:
            self.expand(list(self.live).index(before), self.live[before].size + 10 * UNIT)
            self.realloc(list(self.live).index(before), self.live[before].size + 30 * UNIT)

    @rule(number=st.integers(0), sliced=st.booleans())
    def hold_a_view(self, number: int, sliced: bool) -> None:
        offset = self.pick(number)
        if offset is None:
            return
        view = self.heap.view(offset)
        self.views.append((offset, view[:] if sliced else view, self.live[offset]))

    @precondition(lambda self: self.views)
    @rule(number=st.integers(0))
    def let_a_view_go(self, number: int) -> None:
        offset, view, twin = self.views.pop(number % len(self.views))
        twin.verify(view)
        del view
        if not self.is_viewed(offset):
            self.waiting.discard(offset)

    @rule(number=st.integers(0))
    def hold_a_handle(self, number: int) -> None:
        offset = self.pick(number)
        if offset is not None:
            self.handles.append((self.heap.block(offset), offset))

    @rule(name=st.sampled_from("abcdef"), number=st.integers(0))
    def name_a_root(self, name: str, number: int) -> None:
        offset = self.pick(number)
        if offset is not None:
            self.roots[name] = self.heap.roots[name] = offset

    @rule(name=st.sampled_from("abcdef"))
    def drop_a_root(self, name: str) -> None:
        assert self.heap.roots.pop(name, None) == self.roots.pop(name, None)

    @rule()
    def trim(self) -> None:
        assert self.heap.trim() >= 0

    @rule(offset=st.integers(-20, LIMIT).map(lambda number: number * 8))
    def ask_about_anything(self, offset: int) -> None:
        if offset not in self.live:
            with pytest.raises(UsageError):
                self.heap.usable_size(offset)

    # ------------------------------------------------------------ what always holds

    @invariant()
    def the_heap_is_sound(self) -> None:
        assert self.heap.check(), self.heap.check().findings
        stats = self.heap.stats()
        assert stats.allocated <= stats.active <= stats.mapped <= LIMIT + 2 * MiB
        assert stats.blocks == len(self.live)
        assert bool(stats.quarantined) == bool(self.waiting)
        assert stats.live_views == len({id(view.obj) for _, view, _ in self.views})

    @invariant()
    def every_byte_is_there(self) -> None:
        for offset, twin in self.live.items():
            twin.verify(self.heap.view(offset))
        for _, view, twin in self.views:
            for at, value in twin.bytes.items():
                assert at >= len(view) or view[at] == value

    @invariant()
    def blocks_and_roots_agree(self) -> None:
        assert {offset for offset, _ in self.heap.blocks()} == set(self.live)
        assert dict(self.heap.roots) == self.roots

    @invariant()
    def handles_know_their_block(self) -> None:
        assert all(handle.offset == offset for handle, offset in self.handles)
        assert not any(handle.is_live for handle in self.stale)

    def teardown(self) -> None:
        self.views.clear()
        self.waiting.clear()
        self.the_heap_is_sound()
        self.heap.close()


class FileHeapMachine(HeapMachine):
    """The same in a file, which is closed and opened again now and then."""

    def begin(self) -> None:
        memory = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.path = self.directory / "a.heap"
        self.heap = Heap.create(self.path, durability="process", limit=LIMIT, decay=0)

    @rule(readonly_between=st.booleans())
    def reopen(self, readonly_between: bool) -> None:
        if self.views:
            with pytest.raises(BufferError):
                self.heap.close()
            return
        self.heap.close()
        self.stale += [handle for handle, _ in self.handles]
        self.handles.clear()
        if readonly_between:
            with Heap.open(self.path, readonly=True) as heap:
                assert {offset for offset, _ in heap.blocks()} == set(self.live)
        self.heap = Heap.open(self.path, limit=LIMIT, decay=0)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.directory)


SETTINGS = settings(
    max_examples=max(10, settings().max_examples // 4),
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)

TestHeap = pytest.mark.slow(HeapMachine.TestCase)
TestFileHeap = pytest.mark.slow(FileHeapMachine.TestCase)
TestHeap.settings = SETTINGS
TestFileHeap.settings = SETTINGS
