"""A budget over several heaps at random: nothing grows beyond it, and no block is lost."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pmemheap import Buddy, Budget, Heap, OutOfSpaceError
from pmemheap.units import KiB, MiB

SIZES = (100, 3 * KiB, 60 * KiB, 400 * KiB, 3 * MiB)


class EvictError(Exception):
    """What an evict raises that was told to."""


class BudgetMachine(RuleBasedStateMachine):
    """The model: the blocks of each heap, oldest first, with the bytes that they hold."""

    @initialize(limit=st.integers(3, 12))
    def begin(self, limit: int) -> None:
        self.budget = Budget(limit * MiB, self.evict)
        self.heaps = [
            Heap.anonymous(decay=None, budget=self.budget),
            Heap.anonymous(decay=None, extents=Buddy(), budget=self.budget),
            Heap.shared(decay=None, budget=self.budget),
        ]
        self.order: list[tuple[Heap, int]] = []
        self.live: dict[tuple[int, int], bytes] = {}
        self.may_evict, self.raises, self.before = 0, False, self.budget.held

    def evict(self, nbytes: int) -> bool:
        assert nbytes > 0
        if self.raises:
            raise EvictError
        if not self.order or not self.may_evict:
            return False
        self.may_evict -= 1
        self.drop(0)
        return True

    def drop(self, index: int) -> None:
        heap, offset = self.order.pop(index)
        data = self.live.pop((id(heap), offset))
        assert bytes(heap.view(offset, 8)) == data
        heap.free(offset)

    @rule(
        index=st.integers(0, 2),
        size=st.sampled_from(SIZES),
        evictions=st.integers(0, 30),
        raises=st.booleans(),
        data=st.binary(min_size=8, max_size=8),
    )
    def malloc(self, index: int, size: int, evictions: int, raises: bool, data: bytes) -> None:
        heap = self.heaps[index]
        self.may_evict, self.raises = evictions, raises
        try:
            offset = heap.malloc(size)
        except OutOfSpaceError:
            assert not self.may_evict or not self.order
        except EvictError:
            assert raises
        else:
            heap.view(offset, 8)[:] = data
            self.live[id(heap), offset] = data
            self.order.append((heap, offset))

    @precondition(lambda self: self.order)
    @rule(index=st.integers(0))
    def free(self, index: int) -> None:
        self.drop(index % len(self.order))

    @rule(limit=st.integers(0, 12))
    def set_limit(self, limit: int) -> None:
        self.budget.limit = limit * MiB

    @rule(index=st.integers(0, 2))
    def leave_and_join(self, index: int) -> None:
        held = self.budget.held
        self.heaps[index].budget = None
        assert self.budget.held < held
        self.heaps[index].budget = self.budget
        assert self.budget.held == held

    @rule(index=st.integers(0, 2))
    def trim(self, index: int) -> None:
        self.heaps[index].trim()

    @invariant()
    def nothing_grows_beyond_it(self) -> None:
        if hasattr(self, "budget"):
            held = self.budget.held
            assert held <= max(self.budget.limit, self.before)
            assert held == sum(share.nbytes for share in self.budget.report().shares)
            self.before = held

    @rule()
    def check(self) -> None:
        for heap in self.heaps:
            assert heap.check(), str(heap.check())
            assert {offset for offset, _ in heap.blocks()} == {
                offset for each, offset in self.order if each is heap
            }

    def teardown(self) -> None:
        if hasattr(self, "heaps"):
            self.check()
            for heap in self.heaps:
                heap.close()
            assert self.budget.held == 0


TestBudget = pytest.mark.slow(BudgetMachine.TestCase)
