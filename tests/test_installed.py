"""Layers on a heap that is in use: counters against the heap's own numbers, and layers of users."""

from __future__ import annotations

import gc
import os
import random
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from heap_world import named
from hypothesis import given, settings
from hypothesis import strategies as st

import pmemheap
from pmemheap import Count, Heap, UsageError
from pmemheap.containers import SortedMap
from pmemheap.layers import Fail, Fill, Passing, Track
from pmemheap.protocols import Allocator, Layer

SIZES = (1, 16, 40, 100, 600, 3000, 9000, 70_000, 400_000)


class Noted(Passing):
    """Notes which calls come, and lets them pass."""

    def __init__(self, name: str, notes: list[str]) -> None:
        super().__init__()
        self.name, self.notes = name, notes

    def malloc(self, size: int, align: int = 16) -> int:
        self.notes.append(f"{self.name}.malloc({size}, {align})")
        return super().malloc(size, align)

    def free(self, offset: int, deferred: bool = False) -> None:
        self.notes.append(f"{self.name}.free")
        super().free(offset, deferred)


class Bare:
    """The least that a layer can be."""

    upstream: Any = None

    def malloc(self, size: int, align: int = 16) -> int:
        return int(self.upstream.malloc(size, align))

    def free(self, offset: int) -> None:
        self.upstream.free(offset)

    def usable_size(self, offset: int) -> int:
        return int(self.upstream.usable_size(offset))


# ---------------------------------------------------------------- counters


class World:
    """Random calls of a heap, and what they come to by the heap's own counters."""

    def __init__(self, heap: Heap, seed: int) -> None:
        self.heap, self.chance = heap, random.Random(seed)
        self.live: list[int] = [heap.malloc(size) for size in SIZES]
        self.moved = self.in_place = 0
        self.calls: list[Callable[[], None]] = [
            self.malloc, self.malloc, self.free, self.many, self.free_many, self.realloc,
            self.realloc, self.expand, self.deferred, self.commit, self.abort, self.put,
        ]  # fmt: skip
        self.map = SortedMap(heap, "map")

    def size(self) -> int:
        return max(1, int(self.chance.choice(SIZES) * self.chance.uniform(0.5, 1.5)))

    def take(self) -> int:
        return self.live.pop(self.chance.randrange(len(self.live)))

    def step(self) -> None:
        call = self.chance.choice(self.calls)
        if self.live or call in {self.malloc, self.many, self.put}:
            call()

    def malloc(self) -> None:
        self.live.append(self.heap.malloc(self.size(), self.chance.choice((16, 16, 256, 8192))))

    def many(self) -> None:
        self.live += self.heap.malloc_many(self.size(), self.chance.randrange(40)).tolist()

    def free(self) -> None:
        self.heap.free(self.take())

    def free_many(self) -> None:
        count = min(len(self.live), self.chance.randrange(30))
        self.heap.free_many(sorted(self.take() for _ in range(count)))

    def realloc(self) -> None:
        """Where the capacity stays as it is the block may not have been touched at all."""
        offset, size = self.take(), self.size()
        before = self.heap.usable_size(offset)
        to = self.heap.realloc(offset, size)
        self.moved += to != offset
        self.in_place += to == offset and before != self.heap.usable_size(to)
        self.live.append(to)

    def expand(self) -> None:
        offset = self.chance.choice(self.live)
        before = self.heap.usable_size(offset)
        self.heap.expand(offset, before + self.size())
        self.in_place += before != self.heap.usable_size(offset)

    def deferred(self) -> None:
        offset = self.take()
        view = self.heap.view(offset)
        self.heap.free(offset, deferred=True)
        view.release()

    def commit(self) -> None:
        with self.heap.transaction() as tx:
            made = [tx.malloc(self.size()) for _ in range(3)]
            tx.free(made.pop())
            tx.free(self.take())
        self.live += made

    def abort(self) -> None:
        with self.heap.transaction() as tx:
            tx.malloc(self.size())
            tx.free(self.chance.choice(self.live))
            tx.abort()

    def put(self) -> None:
        self.map[b"%d" % self.chance.randrange(50)] = b"v" * self.chance.choice((10, 500, 20_000))


@settings(max_examples=max(10, settings().max_examples // 4))
@given(seed=st.integers(0, 1 << 32))
def test_a_count_agrees_with_the_heaps_own_numbers(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind = ("anonymous", "process", "power")[seed % 3]
    path = tmp_path_factory.mktemp("counted") / "heap"
    made = Heap.anonymous() if kind == "anonymous" else Heap.create(path, durability=named(kind))
    with made as heap:
        world = World(heap, seed)
        before = heap.stats()
        count, peak = Count(), 0
        with heap.install(count):
            for _ in range(20):
                for _ in range(8):
                    world.step()
                    peak = max(peak, count.bytes)
                now = heap.stats()
                assert count.blocks == now.blocks - before.blocks
                assert count.bytes == now.allocated - before.allocated
        assert peak <= count.peak <= peak + 40 * max(SIZES) * 2  # of a batch, before it was freed
        assert count.total >= count.bytes
        assert (count.moved, count.in_place >= world.in_place) == (world.moved, True)
        told = count.blocks, count.bytes
        world.malloc()
        assert (count.blocks, count.bytes) == told, "nothing is counted after the end"


def test_each_of_several_counts_has_its_own_beginning(heap: Heap) -> None:
    with heap.install(Count()) as outer:
        first = heap.malloc(100)
        with heap.install(Count()) as inner:
            heap.free(first)
            second = heap.malloc(1000)
        assert (inner.blocks, inner.peak, inner.total) == (0, 912, 1024)
        heap.uninstall(outer)
        heap.free(second)
    assert (outer.blocks, outer.bytes, outer.total, outer.slack) == (1, 1024, 1136, 36)


def test_a_count_on_a_heap_counts_all_of_its_arenas(heap: Heap) -> None:
    early = heap.arena("early")
    with heap.install(Count()) as count, early.install(Count()) as of_early:
        late = heap.arena("late")
        offsets = [early.malloc(100), late.malloc(100), heap.malloc(100)]
        assert (count.blocks, of_early.blocks) == (3, 1)
        for offset in offsets[:2]:
            heap.free(offset)
        assert (count.blocks, of_early.blocks) == (1, 0)
        for size in SIZES:
            late.malloc(size)
        assert count.blocks == 1 + len(SIZES)
        late.drop()
        assert (count.blocks, count.bytes) == (1, 112)


def test_a_count_wraps_any_allocator() -> None:
    class Toy:
        def __init__(self) -> None:
            self.sizes: dict[int, int] = {}

        def malloc(self, size: int, align: int = 16) -> int:
            self.sizes[len(self.sizes) * 4096] = size + 7
            return (len(self.sizes) - 1) * 4096

        def free(self, offset: int) -> None:
            self.sizes[offset] = -1

        def usable_size(self, offset: int) -> int:
            return self.sizes[offset]

    count = Count(Toy())
    offsets = [count.malloc(10), count.malloc(20)]
    count.free(offsets[0])
    assert (count.blocks, count.bytes, count.peak, count.total, count.slack) == (1, 27, 44, 44, 14)
    assert not hasattr(count, "view")
    assert not hasattr(count, "realloc")


def test_a_count_that_wraps_a_heap_counts_what_goes_through_it(heap: Heap) -> None:
    count = Count(heap)
    offset = count.malloc(100)
    heap.malloc(100)
    assert count.blocks == 1
    assert bytes(count.view(offset, 0)) == b""
    offset = count.realloc(offset, 5000)
    assert (count.blocks, count.moved) == (1, 1)
    assert count.expand(offset, heap.usable_size(offset))
    assert count.in_place == 1
    offsets = count.malloc_many(64, 10)
    assert (count.blocks, count.bytes) == (11, 640 + heap.usable_size(offset))
    count.free_many(offsets)
    count.free(offset)
    assert (count.blocks, count.bytes) == (0, 0)


# ---------------------------------------------------------------- layers of users


def test_calls_go_through_the_layers_from_the_top(heap: Heap) -> None:
    notes: list[str] = []
    lower, upper = Noted("lower", notes), Noted("upper", notes)
    with heap.install(lower), heap.install(upper):
        assert list(heap.layers) == [upper, lower]
        offset = heap.malloc(100, align=64)
        heap.free(offset)
        heap.free_many(heap.malloc_many(10, 3))
    assert notes == [
        "upper.malloc(100, 64)", "lower.malloc(100, 64)", "upper.free", "lower.free",
    ]  # fmt: skip
    assert heap.layers == ()
    heap.free(heap.malloc(100))
    assert len(notes) == 4


def test_layers_go_in_any_order_and_blocks_live_on(heap: Heap) -> None:
    notes: list[str] = []
    layers = [Noted(name, notes) for name in "abc"]
    offsets = [heap.malloc(10)]
    for layer in layers:
        heap.install(layer)
        offsets.append(heap.malloc(10))
    for layer in (layers[1], layers[2], layers[0]):
        heap.uninstall(layer)
        offsets.append(heap.malloc(10))
    assert "".join(note[0] for note in notes) == "abacba" + "ca" + "a"
    for offset in offsets:
        heap.free(offset)
    assert heap.check()
    assert not list(heap.blocks())


def test_what_a_layer_does_not_have_passes_by(heap: Heap) -> None:
    with heap.install(Bare()) as layer:
        assert isinstance(layer, Layer)
        assert isinstance(layer.upstream, Allocator)
        offset = heap.malloc(100)
        heap.view(offset)[:2] = b"hi"
        offset = heap.realloc(offset, 5000)
        assert bytes(heap.view(offset, 2)) == b"hi"
        assert heap.usable_size(offset) >= 5000
        heap.free_many(heap.malloc_many(10, 3))
        with pytest.raises(UsageError, match="offset of a live block expected"):
            heap.free(offset + 16)
        with pytest.raises(UsageError):
            heap.malloc(0)
        with pytest.raises(UsageError):
            heap.malloc(100, 3)


def test_a_layer_may_answer_by_itself_and_refuse(memory: Heap) -> None:
    class Full(Bare):
        def malloc(self, size: int, align: int = 16) -> int:
            raise pmemheap.OutOfSpaceError("full: no block expected")

    with memory.install(Full()), pytest.raises(pmemheap.OutOfSpaceError, match="full"):
        memory.malloc(10)
    memory.free(memory.malloc(10))


def test_each_arena_has_layers_of_its_own(heap: Heap) -> None:
    notes: list[str] = []
    arena = heap.arena("side")
    with arena.install(Noted("side", notes)):
        offset = arena.malloc(10)
        heap.free(heap.malloc(10))
        heap.free(offset)  # it goes to the arena, and so through its layers
    assert notes == ["side.malloc(10, 16)", "side.free"]


def test_a_layer_that_goes_in_the_middle_of_its_call_ends_it(heap: Heap) -> None:
    notes: list[str] = []

    class Going(Bare):
        def malloc(self, size: int, align: int = 16) -> int:
            heap.uninstall(self)
            heap.uninstall(below)
            return super().malloc(size, align)

    below = Noted("below", notes)
    heap.install(below)
    heap.install(Going())
    heap.free(heap.malloc(10))
    assert notes == ["below.malloc(10, 16)"], "the call goes on where it was to go"
    assert heap.layers == ()


def test_containers_go_through_the_heap_that_they_are_given(memory: Heap) -> None:
    notes: list[str] = []
    with memory.install(Noted("n", notes)), memory.install(Count()) as count:
        table = SortedMap(memory, "m")
        table[b"k"] = b"v" * 20_000
    assert count.blocks >= 3
    assert notes == [], "they work in transactions, which are only counted"


def use(heap: Heap, seed: int, until: float) -> None:
    """Allocate and free at random, and free all in the end."""
    chance = random.Random(seed)
    live: list[int] = []
    while time.monotonic() < until:
        live.append(heap.malloc(chance.choice(SIZES)))
        if len(live) > 20:
            heap.free(live.pop(chance.randrange(len(live))))
    for offset in live:
        heap.free(offset)


def change_layers(heap: Heap, until: float) -> None:
    """Put layers on a heap and take them off, in any order."""
    chance = random.Random(7)
    notes: list[str] = []
    on: list[Layer] = []
    kinds: tuple[Callable[[], Layer], ...] = (
        Bare, lambda: Noted("n", notes), Count, Fail, Track, lambda: Fill(free=0xDD),
    )  # fmt: skip
    while time.monotonic() < until:
        if len(on) < 4 and chance.random() < 0.6:
            on.append(chance.choice(kinds)())
            heap.install(on[-1])
        elif on:
            heap.uninstall(on.pop(chance.randrange(len(on))))


def test_layers_come_and_go_beside_threads(heap: Heap) -> None:
    """Everything that is made is freed, whatever it goes through; the count is exact."""
    until = time.monotonic() + 0.7
    with heap.install(Count()) as count, ThreadPoolExecutor(3) as pool:
        users = [pool.submit(use, heap, seed, until) for seed in range(3)]
        change_layers(heap, until)
        for user in users:
            user.result()
        assert (count.blocks, count.bytes) == (0, 0)
    assert heap.check()


def test_threads_that_take_layers_off_bring_none_back(memory: Heap) -> None:
    """Each looks at the layers of a moment, and sets what is left of them."""

    def work(_: int) -> None:
        for _ in range(5000):
            layers = [Bare(), Bare()]
            for layer in layers:
                memory.install(layer)
            for layer in layers:
                memory.uninstall(layer)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert memory.layers == ()


def test_a_forked_child_may_take_layers_off(memory: Heap) -> None:
    layer = Bare()
    memory.install(layer)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            memory.uninstall(layer)
            code = len(memory.layers)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert memory.layers == (layer,)


# ---------------------------------------------------------------- bad input


def test_what_is_no_layer_is_refused(heap: Heap) -> None:
    class Half:
        def malloc(self, size: int, align: int = 16) -> int:
            return 0

    for bad, missing in ((None, "malloc"), (Half(), "free"), (object(), "malloc")):
        with pytest.raises(UsageError, match=f"has no '{missing}'"):
            heap.install(bad)  # type: ignore[type-var]
    assert heap.layers == ()


def test_a_layer_is_on_one_heap_once(heap: Heap, memory: Heap) -> None:
    count = Count()
    with heap.install(count):
        for again in (heap, memory):
            with pytest.raises(UsageError, match="is on one"):
                again.install(count)
    with memory.install(count):
        memory.malloc(10)
    assert count.blocks == 1
    with pytest.raises(UsageError, match="stands over"):
        heap.install(Count(memory))
    with pytest.raises(UsageError, match="that is on it expected"):
        heap.uninstall(count)


def test_a_layer_over_nothing_says_so() -> None:
    with pytest.raises(UsageError, match="Count: a layer over an allocator expected"):
        Count().malloc(10)
    assert not hasattr(Passing(), "view")


def test_a_closed_heap_takes_no_layer_and_lets_them_go() -> None:
    heap = Heap.anonymous()
    count, layer = Count(), Bare()
    with heap.install(count), heap.install(layer):
        heap.close()
        with pytest.raises(UsageError, match="it is closed"):
            heap.malloc(10)
    assert heap.layers == ()
    with pytest.raises(UsageError, match="it is closed"):
        heap.install(count)
    with Heap.anonymous() as other, other.install(count), other.install(layer):
        other.malloc(10)
    assert count.blocks == 1


@pytest.mark.parametrize("layer", [Count, Fill, pmemheap.Guard])
def test_a_heap_stays_until_its_layer_is_taken_off(layer: Callable[[], Any]) -> None:
    with Heap.anonymous().install(layer()) as installed:
        gc.collect()
        below = installed.upstream
        below.free(below.malloc(10))
    gc.collect()
    with pytest.raises(UsageError, match="closed and gone"):
        below.malloc(10)


def test_a_heap_that_goes_with_its_layers_leaves_nothing() -> None:
    heap, layer, count = Heap.anonymous(), Bare(), Count()
    heap.install(layer)
    heap.install(count)
    gone = weakref.ref(heap)
    del heap
    gc.collect()
    assert gone() is None
    with pytest.raises(UsageError, match="closed and gone"):
        layer.malloc(10)
    with Heap.anonymous() as other, other.install(layer), other.install(count):
        other.malloc(10)
    left = weakref.ref(layer)
    del layer, count  # which stood over the layer when it was taken off
    gc.collect()
    assert left() is None


def test_no_layer_keeps_a_name_that_it_was_not_asked_for(memory: Heap) -> None:
    """Other attributes of a layer are its own: nothing of the heap shows through."""
    with memory.install(Passing()) as layer:
        assert hasattr(layer, "view")
        assert not hasattr(layer, "close")
