"""Figures: the numbers of a page beside its map: sizes, free ranges, who made what.

HeapStats ──► classes          pieces ──► large blocks, free ranges
Track     ──► sites
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pmemheap.heap.heap import Heap
from pmemheap.heap.insight import HeapStats
from pmemheap.layers.track import SiteBlocks, Track
from pmemheap.pictures.model import ArenaMap
from pmemheap.units import UNIT, format_bytes

__all__ = ["Bar", "class_bars", "free_bars", "large_bars", "sites_of"]


class Bar(NamedTuple):
    """A row of a table with a bar.

    Attributes
    ----------
    label : str
        What it counts.
    cells : tuple of str
        The other columns.
    share : float
        Length of the bar, of the longest one: 0 to 1.
    """

    label: str
    cells: tuple[str, ...]
    share: float


def _with_bars(rows: Sequence[tuple[str, tuple[str, ...], int]]) -> list[Bar]:
    longest = max((amount for _, _, amount in rows), default=0) or 1
    return [Bar(label, cells, amount / longest) for label, cells, amount in rows]


def class_bars(stats: HeapStats) -> list[Bar]:
    """Return the size classes in use: blocks, bytes, runs and how full those are."""
    rows = [
        (
            f"{each.size:,}",
            (
                f"{each.blocks:,}", format_bytes(each.size * each.blocks), f"{each.runs:,}",
                f"{each.fullness:.0%}",
            ),
            each.size * each.blocks,
        )
        for each in stats.classes
        if each.runs
    ]  # fmt: skip
    return _with_bars(rows)


def _by_power(lengths: Iterable[tuple[int, int]]) -> list[Bar]:
    """Return how many lengths there are by powers of two: each a number of units, and how often."""
    counts: Counter[int] = Counter()
    units: Counter[int] = Counter()
    for length, often in lengths:
        power = length.bit_length() - 1
        counts[power] += often
        units[power] += length * often
    rows = [
        (
            f"{format_bytes(UNIT << power)} to {format_bytes(UNIT << power + 1)}",
            (f"{counts[power]:,}", format_bytes(units[power] * UNIT)),
            units[power],
        )
        for power in sorted(counts)
    ]
    return _with_bars(rows)


def free_bars(maps: Sequence[ArenaMap]) -> list[Bar]:
    """Return the free ranges by length; of cells those in which all is free."""
    return _by_power((length, 1) for each in maps for _, length in each.free_ranges())


def large_bars(maps: Sequence[ArenaMap]) -> list[Bar]:
    """Return the blocks of whole units by length; those of a cell count with their mean."""
    return _by_power(_large(maps))


def _large(maps: Sequence[ArenaMap]) -> Iterator[tuple[int, int]]:
    for each in maps:
        for piece in each.pieces:
            if piece.large and not (piece.run or piece.packed):
                yield max(piece.large // piece.live, 1), piece.live


def sites_of(heap: Heap) -> list[SiteBlocks]:
    """Return which lines made what lives, by the `Track` that is on the heap; [] without one."""
    for layer in heap.layers:
        if isinstance(layer, Track):
            return layer.report()
    return []
