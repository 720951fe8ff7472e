"""A heap that was opened a moment ago answers as the one that made it.

What is read lazily is read before a request is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmemheap import DurabilityName, Heap, PmemHeapError
from pmemheap.containers import SortedMap, Vector
from pmemheap.heap.arena import Arena
from pmemheap.kvstore.store import KVStore
from pmemheap.units import UNIT, KiB, MiB

Grow = Callable[[Heap, int, int], bool]


def expand(heap: Heap, offset: int, size: int) -> bool:
    return heap.expand(offset, size)


def realloc_beside_a_view(heap: Heap, offset: int, size: int) -> bool:
    """A block that is viewed must not move."""
    with heap.view(offset):
        return heap.realloc(offset, size) == offset


def with_gap(path: Path, durability: DurabilityName, size: int, gap: int) -> None:
    """Make a heap of a block under the root "a", with `gap` free bytes behind it, and others."""
    with Heap.create(path, durability=durability, decay=None) as heap:
        block = heap.roots["a"] = heap.malloc(size + gap)
        for others in (UNIT, 300 * KiB):
            heap.malloc(others)
        assert heap.realloc(block, size) == block


@pytest.mark.parametrize("grow", [expand, realloc_beside_a_view])
@pytest.mark.parametrize("gap", [2 * UNIT, 63 * UNIT, 64 * UNIT, 100 * UNIT])
@pytest.mark.parametrize("size", [2 * UNIT, 300 * KiB])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_block_grows_over_the_space_behind_it(
    tmp_path: Path, durability: DurabilityName, size: int, gap: int, grow: Grow
) -> None:
    with_gap(tmp_path / "heap", durability, size, gap)
    with Heap.open(tmp_path / "heap", decay=None) as heap:
        block = heap.roots["a"]
        assert grow(heap, block, size + gap)
        assert heap.usable_size(block) == size + gap
        assert heap.stats().growths == 0
        assert heap.check()


@pytest.mark.parametrize("grow", [expand, realloc_beside_a_view])
def test_a_block_grows_over_what_was_freed_since(tmp_path: Path, grow: Grow) -> None:
    size, gap = 300 * KiB, 100 * UNIT
    with Heap.create(tmp_path / "heap", durability="process", decay=None) as heap:
        heap.roots["a"] = heap.malloc(size + gap)
        heap.malloc(UNIT)
    with Heap.open(tmp_path / "heap", decay=None) as heap:
        heap.realloc(heap.roots["a"], size)
        assert grow(heap, heap.roots["a"], size + gap)
        assert heap.check()


@pytest.mark.parametrize("grow", [expand, realloc_beside_a_view])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_the_last_block_grows_with_the_heap(
    tmp_path: Path, durability: DurabilityName, grow: Grow
) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        heap.roots["a"] = heap.malloc(300 * KiB)
    with Heap.open(tmp_path / "heap", decay=None) as heap:
        assert grow(heap, heap.roots["a"], 5 * MiB)
        assert heap.stats().growths >= 1
        assert heap.check()


@pytest.mark.parametrize("count", [0, 9_000, 130_000])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_vector_grows_in_place(tmp_path: Path, durability: DurabilityName, count: int) -> None:
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        Vector(heap, "v", "f8").extend(np.arange(count))
    for opening in range(3):
        with Heap.open(tmp_path / "heap") as heap:
            v = Vector(heap, "v")
            v.extend(np.zeros(v.statistics().capacity - len(v)))
            v.append(opening)
            assert v[-1] == opening
            assert v.check()
            assert heap.check()


@pytest.mark.parametrize("grow", [expand, realloc_beside_a_view])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_block_grows_over_a_run_without_a_block(
    tmp_path: Path, durability: DurabilityName, grow: Grow
) -> None:
    """A size class keeps one in service; read by who only looks, it is no obstacle later."""
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        block = heap.roots["a"] = heap.malloc(2 * UNIT)
        in_run = heap.malloc(3000)
        assert in_run == block + 2 * UNIT
        heap.malloc(300 * KiB)
        heap.free(in_run)
    with Heap.open(tmp_path / "heap", decay=None) as heap:
        heap.stats()
        assert grow(heap, block, 5 * UNIT)
        assert heap.check()


# ---------------------------------------------------------------- every answer, as after stats()

Answer = Callable[[Heap], Any]


def scattered(path: Path, durability: DurabilityName) -> None:
    """Make a heap with room in pieces of many lengths, an arena, a vector, a map, and a limit."""
    with Heap.create(path, durability=durability, decay=None, limit=8 * MiB) as heap:
        Vector(heap, "v", "f8").extend(np.arange(9_000))
        SortedMap(heap, "map").update({b"%03d" % key: bytes(100) for key in range(300)})
        for space in (heap, heap.arena("side")):
            sizes = [UNIT, 3000, 64 * UNIT, 16, 100, 300 * KiB, 5000, 63 * UNIT, 1000, 2 * UNIT] * 2
            blocks = [space.malloc(size) for size in sizes]
            for number, offset in enumerate(blocks):
                if number % 3 == 0:
                    heap.roots[f"{space is heap} {number:02}"] = offset
                else:
                    space.free(offset)


def each_root(call: Callable[..., Any]) -> Answer:
    def call_all(heap: Heap) -> list[Any]:
        named = [name for name in sorted(heap.roots) if name[0] in "TF"]
        return [answer(heap, partial(call, offset=heap.roots[name])) for name in named]

    return call_all


def answer(heap: Heap, call: Answer) -> Any:
    """Return what a call says, or how it refuses."""
    try:
        return call(heap)
    except (PmemHeapError, BufferError) as error:
        return type(error).__name__, str(error).partition(" [")[0]


def take(heap: Heap, size: int) -> None:
    """Allocate, wherever: what was read first may be given first."""
    heap.malloc(size)


def take_in_arena(heap: Heap, size: int) -> None:
    heap.arena("side").malloc(size)


def explained(heap: Heap | Arena, size: int) -> Any:
    return replace(heap.explain(size), disk_free=None)


def commit(heap: Heap, size: int) -> None:
    with heap.transaction() as tx:
        tx.malloc(size)


def store_in(heap: Heap, size: int) -> None:
    SortedMap(heap, "map")[b"new"] = bytes(size)


def grown_vector(heap: Heap, count: int) -> int:
    v = Vector(heap, "v", capacity=count)
    v.extend(np.zeros(max(count - len(v), 1)))
    v.append(1.0)
    return len(v)


SIZES = (5000, 64 * UNIT, 3 * MiB, 40 * MiB)
ANSWERS: dict[str, Answer] = {
    "expand": each_root(lambda heap, offset: [
        heap.expand(offset, heap.usable_size(offset) + more)
        for more in (40 * MiB, 64 * UNIT, UNIT)
    ]),
    "realloc": each_root(lambda heap, offset: [
        heap.realloc(offset, heap.usable_size(offset) + more) == offset for more in (UNIT, MiB)
    ]),
    **{f"malloc {size}": partial(take, size=size) for size in SIZES},
    **{f"commit {size}": partial(commit, size=size) for size in SIZES},
    **{f"map {size}": partial(store_in, size=size) for size in SIZES},
    **{f"arena {size}": partial(take_in_arena, size=size) for size in SIZES},
    "explain": lambda heap: [explained(heap, size) for size in SIZES],
    "explain in an arena": lambda heap: [explained(heap.arena("side"), size) for size in SIZES],
    "malloc_many": lambda heap: len(heap.malloc_many(3000, 200)),
    "trim": lambda heap: heap.trim() is None,
    "trim of an arena": lambda heap: heap.arena("side").trim() is None,
    "drop": lambda heap: heap.arena("side").drop(),
    **{f"vector {count}": partial(grown_vector, count=count)
       for count in (9_000, 200_000, 5_000_000)},
    "compact": lambda heap: SortedMap(heap, "map").compact(),
    "clear": lambda heap: SortedMap(heap, "map").clear(),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_a_heap_says_when_it_was_opened_is_what_it_says_after_stats(
    tmp_path: Path, durability: DurabilityName
) -> None:
    scattered(tmp_path / "made", durability)
    for name, call in ANSWERS.items():
        said = []
        for first in (lambda _: None, Heap.stats):
            shutil.copyfile(tmp_path / "made", tmp_path / "heap")
            with Heap.open(tmp_path / "heap", decay=None) as heap:
                first(heap)
                found = answer(heap, call)
                stats = heap.stats()
            length = (tmp_path / "heap").stat().st_size
            said.append((found, stats.growths, stats.mapped, stats.blocks, length))
        assert said[0] == said[1], name


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("size", [5000, 300 * KiB, 4 * MiB])
def test_a_store_that_was_opened_has_the_room_that_it_had(
    tmp_path: Path, durability: DurabilityName, size: int
) -> None:
    def filled(store: KVStore) -> int:
        count = 0
        try:
            while True:
                store[b"%06d" % count] = bytes(size)
                count += 1
        except PmemHeapError:
            return count

    path = tmp_path / "a.kv"
    with KVStore(path, durability, limit=6 * MiB) as store:
        filled(store)
        for key in list(store)[::2]:
            del store[key]
    counts = []
    for look in (False, True):
        shutil.copyfile(path, tmp_path / "b.kv")
        with KVStore(tmp_path / "b.kv", durability) as store:
            if look:
                store.stats()
            counts.append(filled(store))
            store.check()
    assert counts[0] == counts[1] > 0


def test_a_handle_to_a_block_of_an_arena(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        offset = heap.arena("arena").malloc(100)
    with Heap.open(tmp_path / "heap") as heap:
        assert heap.block(offset).size == 112
