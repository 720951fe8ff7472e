"""Shadows: what another allocator would hold, told without touching a block of it."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from pmemheap import Heap, traces
from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.heap.shadowed import held_bytes, let_be_untouched, touched_bytes
from pmemheap.layers import Shadow
from pmemheap.testing import AllocatorContract
from pmemheap.traces import ALLOCATE, FREE, Trace


def mixed(seed: int = 3, operations: int = 1500) -> Trace:
    """Return a trace of all three operations, of blocks small and large."""
    rng = random.Random(seed)
    live: dict[int, int] = {}
    lines, made, peak = [], 0, 0
    for _ in range(operations):
        what = rng.random()
        size = int(rng.lognormvariate(6, 1.5)) + 1
        if what < 0.55 or not live:
            live[made] = size
            lines.append(f"a {made} {size}")
            made += 1
        elif what < 0.65:
            block = rng.choice(list(live))
            live[block] = size
            lines.append(f"r {block} {size}")
        else:
            block = rng.choice(list(live))
            del live[block]
            lines.append(f"f {block}")
        peak = max(peak, sum(live.values()))
    return traces.parse([f"# mixed {len(lines)} {peak}", *lines], "mixed")


def really_held(trace: Trace, events: set[int]) -> list[int]:
    """Replay with every byte written; return the bytes of units in use after some operations."""
    handles = [0] * trace.blocks
    held = []
    with Heap.anonymous() as heap:
        for number, (kind, block, size) in enumerate(trace.operations, 1):
            if kind == FREE:
                heap.free(handles[block])
            else:
                old = handles[block]
                handles[block] = heap.malloc(size) if kind == ALLOCATE else heap.realloc(old, size)
                ctypes.memset(heap.address(handles[block]), 0xA5, size)
            if number in events:
                held.append(heap.stats().active)
    return held


def test_a_shadow_holds_the_units_that_a_real_replay_holds() -> None:
    trace = mixed()
    samples = traces.shadow(trace)
    real = really_held(trace, {each.event for each in samples})
    assert [each.held for each in samples] == pytest.approx(real, rel=0.01)
    assert max(each.live for each in samples) == trace.peak_live_bytes


def test_fragmentation_is_the_share_that_nobody_asked_for() -> None:
    trace = traces.parse(["# two 3 60000", "a 0 20000", "a 1 40000", "f 1"], "two")
    shown = [(each.held, each.fragmentation) for each in traces.shadow(trace)]
    assert shown == [
        (20480, 1 - 20000 / 20480),
        (61440, 1 - 60000 / 61440),
        (20480, 1 - 20000 / 20480),
    ]


def test_no_block_of_a_shadow_is_touched() -> None:
    with Heap.anonymous(decay=None) as heap:
        let_be_untouched(heap)
        offsets = [heap.malloc(100 + n % 5000) for n in range(5000)]
        for offset in offsets[::2]:
            heap.free(offset)
        found = heap.stats()
        assert found.touched == found.metadata_resident < found.active // 10


# ----------------------------------------------------------------------- beside a heap that is used


@pytest.fixture
def heap() -> Heap:
    return Heap.anonymous()


def test_a_shadow_of_the_default_follows_its_heap(heap: Heap) -> None:
    rng = random.Random(5)
    with heap, heap.shadow() as shadow:
        live = [heap.malloc(rng.randrange(1, 9000)) for _ in range(300)]
        live += [int(each) for each in heap.malloc_many(500, 20)]
        for _ in range(200):
            heap.free(live.pop(rng.randrange(len(live))))
        heap.free_many(live[:50])
        live = [heap.realloc(offset, rng.randrange(1, 9000)) for offset in live[50:]]
        assert shadow.error is None
        assert shadow.sample().held == pytest.approx(heap.stats().active, rel=0.01)
        assert shadow.events == 300 + 20 + 200 + 50 + len(live)


def test_a_shadow_tells_what_a_region_would_hold(heap: Heap) -> None:
    with heap:
        with heap.shadow(Heap.scratch) as shadow:
            offsets = [heap.malloc(1040) for _ in range(5000)]
        assert shadow.peak is not None
        assert shadow.peak.live == 5_200_000
        assert shadow.peak.held < heap.stats().active
        assert heap.layers == ()
        heap.free_many(offsets)
        assert shadow.live == 5_200_000


def test_blocks_of_before_have_no_part_in_it(heap: Heap) -> None:
    with heap:
        before = heap.malloc(100)
        with heap.shadow() as shadow:
            heap.free(before)
            kept = heap.malloc(50)
            assert heap.expand(kept, 60)
        assert (shadow.live, shadow.error) == (60, None)


def test_a_block_that_was_freed_unseen_ends_when_its_place_is_used_again(heap: Heap) -> None:
    with heap, heap.shadow() as shadow:
        offset = heap.malloc(100)
        with heap.transaction() as transaction:
            transaction.free(offset)
        assert shadow.live == 100
        others = {heap.malloc(100) for _ in range(500)}
        assert offset in others
        assert shadow.live == 500 * 100


class TestUnderAShadow(AllocatorContract):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap, heap.shadow() as shadow:
            yield heap
        assert shadow.error is None


class TestBesideAShadow(AllocatorContract):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap, Heap.anonymous(decay=None) as other:
            yield Shadow(other, lambda: held_bytes(other), heap)


def test_no_argument_of_a_caller_upsets_it(heap: Heap) -> None:
    with heap, heap.shadow() as shadow:
        wrong: list[Any] = [[], "x", -1, 1 << 70, None]
        for each in wrong:
            with pytest.raises((UsageError, TypeError)):
                heap.free(each)
        assert (shadow.live, shadow.events, shadow.error) == (0, 0, None)


def test_a_free_that_is_refused_leaves_the_twin(heap: Heap) -> None:
    with heap, heap.shadow() as shadow:
        offset = heap.malloc(100)
        view = heap.view(offset)
        with pytest.raises(BufferError):
            heap.free(offset)
        with pytest.raises(UsageError):
            heap.free(offset + 16)
        assert shadow.live == 100
        view.release()
        with pytest.raises(UsageError):
            heap.free_many([offset, offset])
        assert shadow.live == 100
        heap.free(offset)
        assert shadow.live == 0


def test_what_the_shadow_is_refused_does_not_reach_the_program() -> None:
    class Full:
        def malloc(self, size: int, align: int = 16) -> int:
            raise OutOfSpaceError("full")

        def free(self, offset: int, deferred: bool = False) -> None:
            raise AssertionError("a block was never made")

        def usable_size(self, offset: int) -> int:
            raise AssertionError("a block was never made")

    with Heap.anonymous() as heap, heap.install(Shadow(Full(), lambda: 0)) as shadow:
        heap.free(heap.malloc(100))
        assert str(shadow.error) == "full"
        assert shadow.samples == []


def test_samples_are_evenly_spread_and_not_too_many(heap: Heap) -> None:
    with heap, heap.shadow() as shadow:
        for _ in range(1000):
            heap.free(heap.malloc(100))
    *events, last = [each.event for each in shadow.samples]
    assert last == 2000
    assert 128 <= len(events) <= 256
    assert len({after - before for before, after in pairwise(events)}) == 1


def test_a_closed_heap_has_no_shadow(heap: Heap) -> None:
    heap.close()
    with pytest.raises(UsageError), heap.shadow():
        pass


def test_the_memory_of_a_heap_has_its_regions(heap: Heap) -> None:
    with heap:
        held, touched = held_bytes(heap), touched_bytes(heap)
        with heap.scratch() as scratch:
            for _ in range(1000):
                heap.view(scratch.malloc(1000))[:1000] = bytes(1000)
            assert held_bytes(heap) >= held + 1_000_000
            assert touched_bytes(heap) >= touched + 1_000_000
