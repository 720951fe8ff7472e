"""Strategies against a set of free units, and a heap over each of them against its blocks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pmemheap import BestFit, Buddy, FirstFit, Heap, NextFit
from pmemheap.space.extents import ExtentMap
from pmemheap.testing.spaces import SpaceModel
from pmemheap.units import UNIT

KINDS = (FirstFit, NextFit, BestFit, Buddy, ExtentMap)


class SpaceMachine(RuleBasedStateMachine):
    """All kinds with the same calls, each beside a model of its own."""

    models: list[SpaceModel]

    @initialize(units=st.integers(1, 100))
    def begin(self, units: int) -> None:
        self.models = [SpaceModel(kind()) for kind in KINDS]
        self.end = 0
        self.grow(units, 3)

    @rule(units=st.integers(1, 60), gap=st.integers(0, 5))
    def grow(self, units: int, gap: int) -> None:
        for model in self.models:
            model.bring(self.end + gap, units)
        self.end += gap + units

    @rule(length=st.integers(1, 40), shift=st.integers(0, 5))
    def allocate(self, length: int, shift: int) -> None:
        for model in self.models:
            model.allocate(length, 1 << shift)

    @rule(index=st.integers(0), cut=st.integers(0, 20))
    def deallocate(self, index: int, cut: int) -> None:
        for model in self.models:
            if model.taken:
                model.deallocate(index % len(model.taken), cut)

    @rule(start=st.integers(0, 200), length=st.integers(1, 20))
    def take(self, start: int, length: int) -> None:
        for model in self.models:
            is_free = model.free.issuperset(range(start, start + length))
            is_taken = model.take(start, length)
            assert is_taken == is_free or isinstance(model.space, ExtentMap)

    @invariant()
    def all_say_the_same(self) -> None:
        for model in getattr(self, "models", []):
            model.require_same()


TestSpaces = pytest.mark.slow(SpaceMachine.TestCase)


class HeapMachine(RuleBasedStateMachine):
    """A heap with a Space: blocks keep their bytes, and every unit has one owner."""

    @initialize(kind=st.sampled_from(KINDS))
    def begin(self, kind: Any) -> None:
        self.heap = Heap.anonymous(extents=kind(), limit=64 << 20, decay=None)
        self.live: dict[int, bytes] = {}

    def store(self, offset: int, mark: int) -> None:
        self.live[offset] = mark.to_bytes(4, "little")
        self.heap.view(offset, 4)[:] = self.live[offset]

    @rule(units=st.integers(1, 300), shift=st.integers(0, 3), mark=st.integers(0, 1 << 31))
    def malloc(self, units: int, shift: int, mark: int) -> None:
        offset = self.heap.malloc(units * UNIT, UNIT << shift)
        assert offset % (UNIT << shift) == 0
        assert offset not in self.live
        self.store(offset, mark)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0))
    def free(self, index: int) -> None:
        offset = list(self.live)[index % len(self.live)]
        assert bytes(self.heap.view(offset, 4)) == self.live.pop(offset)
        self.heap.free(offset)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0), units=st.integers(1, 500))
    def realloc(self, index: int, units: int) -> None:
        offset = list(self.live)[index % len(self.live)]
        mark = self.live.pop(offset)
        to = self.heap.realloc(offset, units * UNIT)
        assert bytes(self.heap.view(to, 4)) == mark
        self.live[to] = mark

    @rule()
    def trim(self) -> None:
        self.heap.trim()

    @rule()
    def check(self) -> None:
        assert self.heap.check(), str(self.heap.check())
        assert {offset for offset, _ in self.heap.blocks()} == set(self.live)

    def teardown(self) -> None:
        if hasattr(self, "heap"):
            self.check()
            self.heap.close()


TestHeap = pytest.mark.slow(HeapMachine.TestCase)
