"""Track while tracemalloc runs: its blocks stand in the snapshots, as long as they live."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator

import pytest

import pmemheap
from pmemheap import Heap, Track


@pytest.fixture
def tracing() -> Iterator[None]:
    tracemalloc.start(3)
    yield
    tracemalloc.stop()


def traced() -> list[tuple[int, int]]:
    """Return line and size of each block that tracemalloc knows of, in the order of both."""
    snapshot = tracemalloc.take_snapshot()
    ours = snapshot.filter_traces([tracemalloc.DomainFilter(True, Track.domain)])
    assert all(trace.traceback[-1].filename == __file__ for trace in ours.traces)
    return sorted((trace.traceback[-1].lineno, trace.size) for trace in ours.traces)


def line() -> int:
    return sys._getframe(1).f_lineno


@pytest.mark.usefixtures("tracing")
def test_blocks_are_traced_where_they_were_made_until_they_are_freed(heap: Heap) -> None:
    with heap.install(Track()):
        small, first = heap.malloc(100), line()
        large, second = heap.malloc(100_000), line()
        many, third = heap.malloc_many(40, 3), line()
        assert traced() == [(first, 100), (second, 100_000), *[(third, 40)] * 3]
        heap.free(small)
        heap.free_many(many)
        assert traced() == [(second, 100_000)]
        moved, fourth = heap.realloc(large, 10), line()
        assert traced() == [(fourth, 10)]
        with heap.transaction() as tx:
            tx.free(moved)
        assert traced() == []


@pytest.mark.usefixtures("tracing")
def test_a_traceback_reaches_from_the_call_to_its_callers(memory: Heap) -> None:
    def inner() -> int:
        return memory.malloc(100)

    with memory.install(Track()):
        _, called = inner(), line()
        (trace,) = [
            trace
            for trace in tracemalloc.take_snapshot().traces
            if trace.domain == pmemheap.Track.domain
        ]
        assert [frame.lineno for frame in trace.traceback][-2:] == [
            called, inner.__code__.co_firstlineno + 1,
        ]  # fmt: skip


def test_what_was_made_before_tracemalloc_or_the_layer_is_unknown_to_it(memory: Heap) -> None:
    before = memory.malloc(100)
    with memory.install(Track()) as track:
        first = memory.malloc(100)
        tracemalloc.start()
        try:
            second, here = memory.malloc(100), line()
            assert traced() == [(here, 100)]
            memory.free(before)
            memory.free(first)
            assert traced() == [(here, 100)]
            memory.free(second)
            assert traced() == []
            third = memory.malloc(100)
        finally:
            tracemalloc.stop()
        memory.free(third)
        assert track.live() == {}


@pytest.mark.usefixtures("tracing")
def test_what_was_traced_before_a_stop_is_freed_after_it(memory: Heap) -> None:
    with memory.install(Track()):
        first = memory.malloc(100)
        tracemalloc.stop()
        tracemalloc.start()
        assert traced() == []
        memory.free(first)
        again, here = memory.malloc(100), line()
        assert again == first
        assert traced() == [(here, 100)]


@pytest.mark.usefixtures("tracing")
def test_a_layer_that_comes_off_takes_its_traces_along(memory: Heap) -> None:
    arena = memory.arena("mine")
    with memory.install(Track()) as track:
        memory.malloc(100)
        arena.malloc(100)
        assert len(traced()) == 2
    assert traced() == []
    assert len(track.live()) == 2


@pytest.mark.usefixtures("tracing")
def test_the_last_of_two_takes_them_along(memory: Heap) -> None:
    first, second = memory.install(Track()).layer, memory.install(Track()).layer
    both, shared = memory.malloc(100), line()
    memory.uninstall(first)
    one, own = memory.malloc(30), line()
    assert traced() == [(shared, 100), (own, 30)]
    memory.uninstall(second)
    assert traced() == []
    memory.free_many([both, one])


@pytest.mark.usefixtures("tracing")
def test_a_dropped_arena_takes_its_traces_along(heap: Heap) -> None:
    with heap.install(Track()):
        arena = heap.arena("gone")
        for size in (100, 100_000):
            arena.malloc(size)
        kept, here = heap.malloc(100), line()
        arena.drop()
        assert traced() == [(here, 100)]
        heap.free(kept)


@pytest.mark.usefixtures("tracing")
def test_a_heap_that_closes_takes_its_traces_along() -> None:
    """Its addresses are soon those of another heap, whose traces stay when its layers go."""
    heap = Heap.anonymous()
    heap.install(Track())
    heap.arena("other").malloc(100)
    offset = heap.malloc(100)
    address = heap.address(offset)
    heap.close()
    assert traced() == []
    with Heap.anonymous() as other, other.install(Track()):
        places = [other.malloc(100) for _ in range(3)]
        assert address in {other.address(place) for place in places}, "the same address again"
        assert len(traced()) == 3
        del heap
        assert len(traced()) == 3


@pytest.mark.usefixtures("tracing")
def test_a_heap_that_is_dropped_takes_its_traces_along() -> None:
    heap = Heap.anonymous()
    heap.install(Track())
    heap.malloc(100)
    assert len(traced()) == 1
    del heap
    assert traced() == []


@pytest.mark.usefixtures("tracing")
def test_over_another_allocator_nothing_is_traced(memory: Heap) -> None:
    track = Track(memory)
    track.free(track.malloc(100))
    track.malloc(100)
    assert traced() == []
