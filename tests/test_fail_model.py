"""Fail against plain counters, while layers come and go among the calls."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pmemheap import Count, Heap, OutOfSpaceError
from pmemheap.layers import Fail, Passing

SIZES = st.sampled_from((1, 16, 100, 600, 3000, 9000, 70_000))


class Expected:
    """What a layer should have seen."""

    def __init__(self, layer: Any, nth: int | None = None, share: float = 0, seed: int = 0) -> None:
        self.layer, self.nth, self.share = layer, nth, share
        self.chance, self.calls, self.failed = random.Random(seed), 0, 0

    def fails(self) -> bool:
        self.calls += 1
        by_chance = bool(self.share) and self.chance.random() < self.share
        self.failed += by_chance or self.calls == self.nth
        return by_chance or self.calls == self.nth


class FailMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.heap = Heap.anonymous()
        self.on: list[Expected] = []  # top first
        self.live: dict[int, int] = {}

    def teardown(self) -> None:
        for each in self.on[::2]:
            self.heap.uninstall(each.layer)
        self.heap.free_many(list(self.live))
        assert not list(self.heap.blocks())
        self.heap.close()

    # ------------------------------------------------------------ layers

    @precondition(lambda self: len(self.on) < 3)
    @rule(
        nth=st.one_of(st.none(), st.integers(1, 8)),
        share=st.sampled_from((0, 0, 0.3, 1)),
        seed=st.integers(0, 9),
    )
    def install_fail(self, nth: int | None, share: float, seed: int) -> None:
        layer = self.heap.install(Fail(nth=nth, share=share, seed=seed)).layer
        self.on.insert(0, Expected(layer, nth, share, seed))

    @precondition(lambda self: len(self.on) < 3)
    @rule(kind=st.sampled_from((Count, Passing)))
    def install_another(self, kind: Any) -> None:
        self.on.insert(0, Expected(self.heap.install(kind()).layer))

    @precondition(lambda self: self.on)
    @rule(data=st.data())
    def uninstall(self, data: st.DataObject) -> None:
        each = self.on.pop(data.draw(st.integers(0, len(self.on) - 1)))
        self.heap.uninstall(each.layer)

    # ------------------------------------------------------------ calls

    def attempt(self, is_one: bool, call: Callable[[], Any]) -> Any:
        """Make a call, which fails as the first layer has it whose turn it is; None then."""
        fails = is_one and any(each.fails() for each in self.on if type(each.layer) is Fail)
        if not fails:
            return call()
        with pytest.raises(OutOfSpaceError, match="Fail: allocation"):
            call()
        return None

    def any(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.live)))

    def made(self, *offsets: int) -> None:
        self.live.update((offset, self.heap.usable_size(offset)) for offset in offsets)

    @rule(size=SIZES)
    def malloc(self, size: int) -> None:
        offset = self.attempt(True, lambda: self.heap.malloc(size))
        if offset is not None:
            self.made(offset)

    @rule(size=SIZES, count=st.integers(0, 3))
    def malloc_many(self, size: int, count: int) -> None:
        self.made(*self.attempt(count > 0, lambda: self.heap.malloc_many(size, count)) or ())

    @precondition(lambda self: self.live)
    @rule(data=st.data(), size=SIZES)
    def realloc(self, data: st.DataObject, size: int) -> None:
        offset = self.any(data)
        grows = size > self.live[offset]
        to = self.attempt(grows, lambda: self.heap.realloc(offset, size))
        if to is not None:
            del self.live[offset]
            self.made(to)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), more=st.sampled_from((0, 1, 5000, 200_000)))
    def expand(self, data: st.DataObject, more: int) -> None:
        offset = self.any(data)
        fails = more > 0 and any(each.fails() for each in self.on if type(each.layer) is Fail)
        done = self.heap.expand(offset, self.live[offset] + more)
        assert not (fails and done)
        self.made(offset)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset = self.any(data)
        self.heap.free(offset)
        del self.live[offset]

    @invariant()
    def nothing_else_has_changed(self) -> None:
        assert dict(self.heap.blocks()) == self.live
        for each in self.on:
            if type(each.layer) is Fail:
                assert (each.layer.calls, each.layer.failed) == (each.calls, each.failed)


TestFail = pytest.mark.slow(FailMachine.TestCase)
