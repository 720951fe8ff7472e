"""Traces of Track against a model of them, while layers, tracemalloc and blocks come and go."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pmemheap import Heap, Track

SIZES = st.sampled_from((1, 100, 3000, 70_000))


class TracingMachine(RuleBasedStateMachine):
    """Each layer traces what is made while it is on and tracemalloc runs; a stop forgets all."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = Heap.anonymous()
        self.tracks: dict[Track, set[int]] = {}
        self.live: set[int] = set()
        self.traced: dict[int, int] = {}

    def teardown(self) -> None:
        self.heap.close()
        if tracemalloc.is_tracing():
            assert self.sizes() == []
            tracemalloc.stop()

    def sizes(self) -> list[int]:
        traces = tracemalloc.take_snapshot().traces
        return sorted(trace.size for trace in traces if trace.domain == Track.domain)

    def made(self, offset: int, size: int) -> None:
        self.live.add(offset)
        if tracemalloc.is_tracing() and self.tracks:
            self.traced[offset] = size
            for offsets in self.tracks.values():
                offsets.add(offset)

    def freed(self, offset: int) -> None:
        self.live.remove(offset)
        self.traced.pop(offset, None)
        for offsets in self.tracks.values():
            offsets.discard(offset)

    def any(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.live)))

    @rule()
    def start_or_stop(self) -> None:
        if tracemalloc.is_tracing():
            tracemalloc.stop()
            self.traced.clear()
        else:
            tracemalloc.start()

    @precondition(lambda self: len(self.tracks) < 3)
    @rule()
    def install(self) -> None:
        self.tracks[self.heap.install(Track()).layer] = set()

    @precondition(lambda self: self.tracks)
    @rule(data=st.data())
    def uninstall(self, data: st.DataObject) -> None:
        track = data.draw(st.sampled_from(list(self.tracks)))
        self.heap.uninstall(track)
        for offset in self.tracks.pop(track):
            if not any(offset in offsets for offsets in self.tracks.values()):
                self.traced.pop(offset, None)

    @rule(size=SIZES)
    def malloc(self, size: int) -> None:
        self.made(self.heap.malloc(size), size)

    @rule(size=SIZES, count=st.integers(1, 4))
    def malloc_many(self, size: int, count: int) -> None:
        for offset in self.heap.malloc_many(size, count):
            self.made(int(offset), size)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), size=SIZES)
    def realloc(self, data: st.DataObject, size: int) -> None:
        offset = self.any(data)
        to = self.heap.realloc(offset, size)
        self.freed(offset)
        self.made(to, size)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset = self.any(data)
        self.heap.free(offset)
        self.freed(offset)

    @invariant()
    def traces_are_those_of_the_model(self) -> None:
        if tracemalloc.is_tracing():
            assert self.sizes() == sorted(self.traced.values())


TestTracing = pytest.mark.slow(TracingMachine.TestCase)
