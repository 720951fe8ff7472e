"""The model of what is where, over random heaps: it says what a naive count says."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pictures import UNIT, require_whole

import pmemheap
from pmemheap import Heap
from pmemheap.format.layout import ARENA_BITS
from pmemheap.pictures.model import read_arenas

SIZES = st.one_of(st.integers(1, 600), st.integers(1, 40_000), st.just(1 << 20))
STEPS = st.lists(st.tuples(st.integers(0, 9), SIZES), min_size=1, max_size=60)
KINDS = st.sampled_from(["anonymous", "placed", "process", "power"])
Kind: TypeAlias = Literal["anonymous", "placed", "process", "power"]
WITHIN = (1 << ARENA_BITS) - 1


def made(kind: Kind, folder: str) -> Heap:
    if kind == "anonymous":
        return Heap.anonymous(decay=None)
    if kind == "placed":
        return Heap.anonymous(decay=None, strategy=pmemheap.Placed(pmemheap.FirstFit()))
    return Heap.create(Path(folder, "a.heap"), durability=kind, decay=None)


def places_of(heap: Heap, kind: Kind) -> list[Any]:
    """Return what blocks can be had from: the heap twice, arenas, a region."""
    rows = heap.arena("rows", strategy=pmemheap.Rows(48))
    queue = heap.arena("queue", strategy=pmemheap.Ring())
    return [heap, heap, rows, queue, heap if kind == "placed" else heap.region()]


def used(heap: Heap, arena: int) -> set[int]:
    """Return the units of an arena in which live blocks lie."""
    return {
        unit
        for offset, size in heap.blocks()
        if offset >> ARENA_BITS == arena
        for unit in range((offset & WITHIN) // UNIT, ((offset & WITHIN) + size - 1) // UNIT + 1)
    }


def change(heap: Heap, places: list[Any], live: list[int], what: int, size: int) -> None:
    """Make, free or trim."""
    if what < 7 or not live:
        place = places[what % len(places)]
        most = 48 if what % len(places) == 2 else 4000 if what % len(places) == 4 else size
        live.append(place.malloc(min(size, most)))
    elif what == 9:
        heap.trim()
    else:
        heap.free(live.pop(size % len(live)))


@pytest.mark.slow
@settings(max_examples=max(10, settings().max_examples // 4))
@given(KINDS, STEPS, st.integers(64, 200), st.integers(0, 59))
def test_pieces_of_random_heaps_add_up(
    kind: Kind, steps: list[tuple[int, int]], most: int, place: int
) -> None:
    with TemporaryDirectory() as folder, made(kind, folder) as heap:
        places = places_of(heap, kind)
        live: list[int] = []
        for what, size in steps:
            change(heap, places, live, what, size)
        with heap.transaction() as tx:
            tx.malloc(300)
            tx.malloc(30_000)
            exact = read_arenas(heap)
            require_whole(exact, heap)
            for arena in exact:
                empty = {
                    unit
                    for piece in arena.pieces
                    if piece.free + piece.unused == piece.nunits
                    for unit in range(piece.start, piece.stop)
                }
                assert not used(heap, arena.arena) & empty
            at = live[place % len(live)] if live else None
            cells = read_arenas(heap, most=most, at=at)
            require_whole(cells, heap)
            for name in ("run", "packed", "large", "free", "bare", "allocated", "regions"):
                assert [each.total(name) for each in cells] == [each.total(name) for each in exact]
