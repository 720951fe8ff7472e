"""The model of what is where, over random heaps: it says what a naive count says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pictures import UNIT, require_whole

from pmemheap import Heap
from pmemheap.pictures.model import read_arenas

SIZES = st.one_of(st.integers(1, 600), st.integers(1, 40_000), st.just(1 << 20))
STEPS = st.lists(st.tuples(st.integers(0, 9), SIZES), min_size=1, max_size=60)


def owners(heap: Heap) -> set[int]:
    """Return the units in which live blocks lie."""
    return {
        unit
        for offset, size in heap.blocks()
        for unit in range(offset // UNIT, (offset + size - 1) // UNIT + 1)
    }


@pytest.mark.slow
@given(STEPS, st.integers(64, 200), st.integers(0, 59))
def test_pieces_of_random_heaps_add_up(steps: list[tuple[int, int]], most: int, place: int) -> None:
    with Heap.anonymous(decay=None) as heap:
        live: list[int] = []
        for what, size in steps:
            if what < 7 or not live:
                live.append(heap.malloc(size))
            elif what == 9:
                heap.trim()
            else:
                heap.free(live.pop(size % len(live)))
        at = live[place % len(live)] if live else None
        used = owners(heap)
        [exact] = read_arenas(heap)
        require_whole([exact], heap)
        free = {u for p in exact.pieces if p.free == p.nunits for u in range(p.start, p.stop)}
        assert not used & free
        [cells] = read_arenas(heap, most=most, at=at)
        require_whole([cells], heap)
        for name in ("run", "large", "free", "bare", "allocated", "asked"):
            assert cells.total(name) == exact.total(name)
