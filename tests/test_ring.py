"""Rings: arenas whose blocks lie in the order in which they came, and whose head goes back."""

from __future__ import annotations

import os
import random
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import pmemheap
from pmemheap import General, Heap, OutOfSpaceError, Ring, UsageError
from pmemheap.heap.ring import RingArena
from pmemheap.testing import AllocatorContract
from pmemheap.units import UNIT, KiB, MiB


@pytest.fixture
def heap() -> Iterator[Heap]:
    with Heap.anonymous() as heap:
        yield heap


def ring_of(heap: Heap, name: str = "queue") -> RingArena:
    return heap.arena(name, strategy=Ring())


def consume(items: Iterator[object]) -> None:
    deque(items, maxlen=0)


class TestRing(AllocatorContract):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap:
            yield ring_of(heap)


# ---------------------------------------------------------------- what it is


def test_blocks_lie_in_the_order_in_which_they_came(heap: Heap) -> None:
    ring = ring_of(heap)
    sizes = random.Random(3).choices([1, 20, 300, 5000, 70_000, 400_000], k=500)
    offsets = [ring.malloc(size) for size in sizes]
    assert offsets == sorted(offsets)
    assert [offset for offset, _ in ring.blocks()] == offsets
    assert all(have >= size for (_, have), size in zip(ring.blocks(), sizes, strict=True))
    assert ring.check()


def test_first_is_the_oldest_block(heap: Heap) -> None:
    ring = ring_of(heap)
    assert ring.first() is None
    offsets = [ring.malloc(size) for size in (30, 100_000, 30, 30, 5000, 200_000, 16)]
    ring.free(offsets[2])
    for offset in (*offsets[:2], *offsets[3:]):
        assert ring.first() == offset
        ring.free(offset)
    assert ring.first() is None
    assert ring.malloc(30) > offsets[-2]


def test_a_block_is_aligned_as_it_is_asked_for(heap: Heap) -> None:
    ring = ring_of(heap)
    offsets = []
    for align in (16, 64, 4096, 64 * KiB, 2 * MiB, 16):
        for size in (1, 100, 9000, 100_000):
            offsets.append(ring.malloc(size, align))
            assert ring.address(offsets[-1]) % align == 0
    assert offsets == sorted(offsets)
    assert ring.check()


def test_nearly_all_that_it_holds_is_blocks(heap: Heap) -> None:
    """The default arena has 0.91 of it, since blocks of a class are rounded up."""
    ring, rng = ring_of(heap), random.Random(1)
    sizes = [min(60_000, int(rng.lognormvariate(6, 1)) + 1) for _ in range(60_000)]
    live: list[int] = []
    for number, size in enumerate(sizes):
        live.append(ring.malloc(size))
        if number >= 20_000:
            ring.free(live[number - 20_000])
    assert sum(sizes[-20_000:]) / ring.stats().active >= 0.95


def test_the_head_goes_back_by_itself(heap: Heap) -> None:
    """A queue that runs for ever holds about what is in it: no call of `trim`."""
    ring = ring_of(heap)
    live = [ring.malloc(10_000) for _ in range(1000)]
    for number in range(30_000):
        live.append(ring.malloc(10_000))
        ring.free(live[number])
        if number % 997 == 0:
            ring.view(live[-1])[:] = b"x" * ring.usable_size(live[-1])
    stats = ring.stats()
    assert stats.shrinks > 10
    assert stats.mapped < 40 * MiB
    assert ring.check()


def test_memory_that_was_written_is_given_back(heap: Heap) -> None:
    ring, live = ring_of(heap), []
    for number in range(20_000):
        live.append(ring.malloc(8000))
        ring.view(live[-1])[:] = b"x" * 8000
        if number >= 1000:
            ring.free(live[number - 1000])
    assert ring.stats().touched < 1.5 * 1000 * 8000


def test_a_limit_is_for_what_is_there_at_a_time() -> None:
    with Heap.anonymous(limit=32 * MiB) as heap:
        ring, live = ring_of(heap), []
        for number in range(5000):
            live.append(ring.malloc(100_000))
            if number >= 100:
                ring.free(live[number - 100])
        with pytest.raises(OutOfSpaceError):
            consume(ring.malloc(100_000) for _ in range(1000))
        assert ring.check()
        told = ring.explain(100_000)
        assert (told.rounded, told.possible) == (25 * UNIT, False)
        assert [ring.explain(size).rounded for size in (1, 33, 65_536)] == [32, 48, 65_536]
        assert ring.first() == live[4900]


def test_stats_say_what_holds_memory_back(heap: Heap) -> None:
    ring = ring_of(heap)
    assert (ring.stats().held_by, ring.stats().held_back) == (None, 0)
    first = ring.malloc(100)
    rest = [ring.malloc(1000) for _ in range(5000)]
    assert ring.stats().held_back < 100 * KiB
    for offset in rest[:-1]:
        ring.free(offset)
    stats = ring.stats()
    assert stats.held_by == first
    assert 4990 * 1008 < stats.held_back < 5100 * 1024
    ring.trim()
    assert ring.stats().touched < 400 * KiB
    ring.free(first)
    assert ring.stats().held_by == rest[-1]


def test_a_block_that_grows_moves_to_the_end(heap: Heap) -> None:
    ring = ring_of(heap)
    block, other = ring.malloc(100), ring.malloc(100)
    ring.view(block)[:3] = b"abc"
    assert ring.realloc(block, 50) == block
    for size in (1000, 100_000, 2 * MiB):
        before, block = block, ring.realloc(block, size)
        assert block > other
        assert bytes(ring.view(block, 3)) == b"abc"
        assert before == block or ring.first() == other
    ring.malloc(16)  # no room behind it
    with ring.view(block), pytest.raises(BufferError):
        ring.realloc(block, 80 * MiB)
    assert ring.check()


def test_a_freed_block_is_gone_and_its_views_stay(heap: Heap) -> None:
    ring = ring_of(heap)
    block, large = ring.malloc(100), ring.malloc(100_000)
    views = [ring.view(each) for each in (block, large)]
    for each, view in zip((block, large), views, strict=True):
        view[:3] = b"abc"
        with pytest.raises(BufferError):
            ring.free(each)
        ring.free(each, deferred=True)
        with pytest.raises(UsageError):
            ring.free(each)
    for _ in range(300):
        ring.malloc(10_000)
    assert [bytes(view[:3]) for view in views] == [b"abc"] * 2
    assert ring.check()
    del view, views
    assert ring.check()


def test_transactions_reserve_and_free_in_it(heap: Heap) -> None:
    ring = ring_of(heap)
    kept = ring.malloc(100)
    tx = heap.transaction()
    for size in (100, 100_000, 16):
        heap.view(tx.malloc(size, arena=ring))[:1] = b"x"
        assert ring.check()
    tx.free(kept)
    tx.abort()
    assert [offset for offset, _ in ring.blocks()] == [kept]
    with heap.transaction() as tx:
        made = [tx.malloc(size, arena=ring) for size in (100, 100_000, 16, 3)]
        assert ring.first() == kept
        tx.free(made[2])
        tx.free(kept)
        assert ring.check()
    assert [offset for offset, _ in ring.blocks()] == [made[0], made[1], made[3]]
    assert ring.first() == made[0]
    assert ring.check()


def test_handles_arrays_and_pickles_are_blocks_of_it(heap: Heap) -> None:
    ring = ring_of(heap)
    handle = ring.alloc(100)
    array = ring.ndarray(1000)
    assert ring.load(ring.dump({"one": [1, 2, 3]})) == {"one": [1, 2, 3]}
    assert [offset for offset, _ in ring.blocks()][:2] == [handle.offset, heap.offset_of(array)]
    offset = heap.offset_of(array)
    del array
    handle.free()
    assert ring.first() == offset
    assert heap.check()


# ---------------------------------------------------------------- what it refuses


def test_an_arena_keeps_its_strategy(heap: Heap) -> None:
    ring = ring_of(heap)
    assert heap.arena("queue") is ring
    assert heap.arena("queue", strategy=Ring()) is ring
    assert repr(ring).endswith("Ring()>")
    with pytest.raises(UsageError, match=r"its strategy Ring\(\) expected, found General\(\)"):
        heap.arena("queue", strategy=General())
    assert heap.arena("other").strategy == General()
    with pytest.raises(UsageError, match=r"its strategy General\(\) expected"):
        ring_of(heap, "other")
    ring.drop()
    assert heap.arena("queue").strategy == General()


@pytest.mark.parametrize("strategy", [Ring, "ring", 1, pmemheap.heap.strategies.Strategy()])
def test_what_is_no_strategy_is_refused(heap: Heap, strategy: Any) -> None:
    with pytest.raises(UsageError, match=r"Rows\(\.\.\.\) or Placed\(\.\.\.\) expected"):
        heap.arena("queue", strategy=strategy)
    assert heap.arenas() == []


def test_a_closed_ring_has_no_first(heap: Heap) -> None:
    ring = ring_of(heap)
    ring.malloc(10)
    child = os.fork()
    if child == 0:
        try:
            ring.first()
        except UsageError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    heap.close()
    with pytest.raises(UsageError):
        ring.first()


def test_threads_put_and_take(heap: Heap) -> None:
    ring = ring_of(heap)
    done = threading.Barrier(4)
    lost: list[object] = []

    def work(seed: int) -> None:
        rng, mine = random.Random(seed), []
        done.wait()
        try:
            for _ in range(3000):
                mine.append(ring.malloc(rng.choice((20, 500, 9000, 100_000))))
                if len(mine) > 30:
                    ring.free(mine.pop(0))
            for offset in mine:
                ring.free(offset)
        except BaseException as error:
            lost.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost
    assert ring.first() is None
    assert ring.check()


# ---------------------------------------------------------------- against a model


class Model(RuleBasedStateMachine):
    """A ring beside a dictionary in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.begin()
        self.live: OrderedDict[int, bytes] = OrderedDict()
        self.views: list[memoryview] = []
        self.count = 0

    def begin(self) -> None:
        self.heap = Heap.anonymous(limit=64 * MiB)
        self.ring = ring_of(self.heap)

    def stamp(self, offset: int) -> None:
        self.count += 1
        stamp = self.count.to_bytes(8, "little")
        self.heap.view(offset, 8)[:] = stamp
        self.live[offset] = stamp

    @rule(
        size=st.sampled_from([8, 16, 33, 500, 4096, 30_000, 65_536, 65_537, 300_000]),
        align=st.sampled_from([16, 16, 256, 4096, 32_768]),
        count=st.integers(1, 30),
    )
    def malloc(self, size: int, align: int, count: int) -> None:
        for _ in range(count):
            self.stamp(self.ring.malloc(size, align))

    @precondition(lambda self: self.live)
    @rule(share=st.floats(0, 1))
    def take(self, share: float) -> None:
        for _ in range(int(share * len(self.live))):
            offset, _ = self.live.popitem(last=False)
            assert self.ring.first() == offset
            self.ring.free(offset)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), deferred=st.booleans())
    def free_any(self, data: st.DataObject, deferred: bool) -> None:
        offset = data.draw(st.sampled_from(sorted(self.live)))
        if deferred:
            self.views.append(self.ring.view(offset))
        self.ring.free(offset, deferred)
        del self.live[offset]

    @rule()
    def let_views_go(self) -> None:
        self.views.clear()

    @precondition(lambda self: self.live)
    @rule(data=st.data(), size=st.sampled_from([8, 600, 70_000, 500_000]))
    def realloc(self, data: st.DataObject, size: int) -> None:
        offset = data.draw(st.sampled_from(sorted(self.live)))
        to = self.ring.realloc(offset, size)
        stamp = self.live[offset]
        if to != offset:
            del self.live[offset]
            self.live[to] = stamp

    @rule(
        sizes=st.lists(st.sampled_from([8, 100, 5000, 80_000]), max_size=20),
        frees=st.integers(0, 10),
        commits=st.booleans(),
    )
    def transaction(self, sizes: list[int], frees: int, commits: bool) -> None:
        gone = list(self.live)[:frees]
        made: list[int] = []
        try:
            with self.heap.transaction() as tx:
                made = [tx.malloc(size, arena=self.ring) for size in sizes]
                for offset in gone:
                    tx.free(offset)
                if not commits:
                    raise RuntimeError
        except RuntimeError:
            return
        for offset in gone:
            del self.live[offset]
        for offset in made:
            self.stamp(offset)

    @rule()
    def trim(self) -> None:
        self.ring.trim()

    @invariant()
    def all_is_there(self) -> None:
        assert [offset for offset, _ in self.ring.blocks()] == list(self.live)
        assert list(self.live) == sorted(self.live)
        assert self.ring.first() == next(iter(self.live), None)
        for offset, stamp in self.live.items():
            assert self.heap.view(offset, 8) == stamp
        assert self.ring.check()

    def teardown(self) -> None:
        self.views.clear()
        self.heap.close()


TestModel = pytest.mark.slow(Model.TestCase)
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
