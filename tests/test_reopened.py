"""A heap that was opened a moment ago answers as the one that made it.

What is read lazily is read before a request is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pmemheap import Heap
from pmemheap.containers import Vector
from pmemheap.units import UNIT, KiB, MiB

Grow = Callable[[Heap, int, int], bool]


def expand(heap: Heap, offset: int, size: int) -> bool:
    return heap.expand(offset, size)


def realloc_beside_a_view(heap: Heap, offset: int, size: int) -> bool:
    """A block that is viewed must not move."""
    with heap.view(offset):
        return heap.realloc(offset, size) == offset


def with_gap(path: Path, durability: str, size: int, gap: int) -> None:
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
    tmp_path: Path, durability: str, size: int, gap: int, grow: Grow
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
def test_the_last_block_grows_with_the_heap(tmp_path: Path, durability: str, grow: Grow) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        heap.roots["a"] = heap.malloc(300 * KiB)
    with Heap.open(tmp_path / "heap", decay=None) as heap:
        assert grow(heap, heap.roots["a"], 5 * MiB)
        assert heap.stats().growths >= 1
        assert heap.check()


@pytest.mark.parametrize("count", [0, 9_000, 130_000])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_vector_grows_in_place(tmp_path: Path, durability: str, count: int) -> None:
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
