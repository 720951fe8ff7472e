"""A placed arena beside a dictionary: random calls, bare and in transactions, over each Space."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_placed import SPACES, Told

from pmemheap import Heap, OutOfSpaceError, Placed
from pmemheap.units import MiB

SIZES = st.sampled_from([1, 32, 33, 500, 4096, 9000, 16_384, 16_385, 200_000])
ALIGNS = st.sampled_from([16, 16, 32, 256, 4096, 8192])


class Model(RuleBasedStateMachine):
    """What lives, and the bytes that stand in it; what was freed while it was viewed."""

    @initialize(kind=st.sampled_from([Told, *SPACES]), limit=st.sampled_from([None, 4 * MiB]))
    def begin(self, kind: Any, limit: int | None) -> None:
        self.heap = Heap.anonymous(limit=limit, decay=None)
        self.arena = self.heap.arena("mine", strategy=Placed(kind()))
        self.live: dict[int, bytes] = {}
        self.views: dict[int, memoryview] = {}
        self.count = 0

    def enter(self, offset: int, size: int, align: int = 16) -> None:
        usable = self.arena.usable_size(offset)
        assert usable >= size
        assert offset % align == 0
        for start, view in self.views.items():
            assert offset + usable <= start or start + len(view) <= offset
        self.count += 1
        self.live[offset] = self.count.to_bytes(8, "little")
        self.arena.view(offset, 8)[:] = self.live[offset]

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.live)))

    @rule(size=SIZES, align=ALIGNS, count=st.integers(1, 20))
    def malloc(self, size: int, align: int, count: int) -> None:
        for _ in range(count):
            try:
                self.enter(self.arena.malloc(size, align), size, align)
            except OutOfSpaceError:
                return

    @precondition(lambda self: self.live)
    @rule(data=st.data(), every=st.integers(1, 4))
    def free_some(self, data: st.DataObject, every: int) -> None:
        offsets = data.draw(st.permutations(sorted(self.live)))[::every]
        self.arena.free_many(offsets)
        for offset in offsets:
            del self.live[offset]

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free_a_viewed_one(self, data: st.DataObject) -> None:
        offset = self.pick(data)
        self.views[offset] = self.arena.view(offset)
        self.arena.free(offset, deferred=True)
        del self.live[offset]

    @rule()
    def let_views_go(self) -> None:
        self.views.clear()

    @precondition(lambda self: self.live)
    @rule(data=st.data(), size=SIZES)
    def realloc(self, data: st.DataObject, size: int) -> None:
        offset = self.pick(data)
        try:
            to = self.arena.realloc(offset, max(size, 8))
        except OutOfSpaceError:
            return
        self.live[to] = self.live.pop(offset)
        assert self.arena.usable_size(to) >= size

    @rule(sizes=st.lists(SIZES, max_size=10), frees=st.integers(0, 5), commits=st.booleans())
    def transaction(self, sizes: list[int], frees: int, commits: bool) -> None:
        gone, made = sorted(self.live)[:frees], list[int]()
        try:
            with self.heap.transaction() as tx:
                made.extend(tx.malloc(size, arena=self.arena) for size in sizes)
                for offset in gone + made[1::2]:
                    tx.free(offset)
                if not commits:
                    raise InterruptedError
        except (OutOfSpaceError, InterruptedError):
            return
        for offset in gone:
            del self.live[offset]
        for offset, size in list(zip(made, sizes, strict=True))[::2]:
            self.enter(offset, size)

    @rule()
    def trim(self) -> None:
        self.arena.trim()

    @invariant()
    def all_is_there(self) -> None:
        if not hasattr(self, "live"):
            return
        assert [offset for offset, _ in self.arena.blocks()] == sorted(self.live)
        for offset, stamp in self.live.items():
            assert self.arena.view(offset, 8) == stamp
        report = self.arena.check()
        assert report, str(report)

    def teardown(self) -> None:
        if hasattr(self, "heap"):
            self.views.clear()
            self.heap.close()


TestModel = pytest.mark.slow(Model.TestCase)
TestModel.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
