"""Places: where the live blocks of some pieces lie, those nearest to a place first.

run that is full or empty     nothing to ask: every block lives, or none
run in part, chunk            asked, until as many are known as a picture can hold
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from operator import attrgetter

from pmemheap.native import HeapDoors
from pmemheap.pictures.pieces import Kind, Piece
from pmemheap.units import GRANULE, UNIT

__all__ = ["Places", "places_of"]

Places = dict[int, tuple[tuple[int, int], ...]]
"""By the first unit of a piece: bytes from its start, and usable bytes, of each live block."""


def places_of(core: HeapDoors, origin: int, pieces: list[Piece], unit: int, most: int) -> Places:
    """Return where blocks lie, of about `most` blocks that there is room for.

    Parameters
    ----------
    core : HeapDoors
        Of the arena.
    origin : int
        The offset at which its unit 0 would lie.
    pieces : list of Piece
        All of it, by unit.
    unit : int
        What lies near to it comes first.
    """
    known: Places = {}
    found = _Found(core, origin)
    for piece in sorted(_nearest(pieces, unit, most), key=attrgetter("start")):
        known[piece.start] = tuple(found.between(piece.start * UNIT, piece.stop * UNIT))
    return known


def _nearest(pieces: list[Piece], unit: int, most: int) -> Iterable[Piece]:
    """Yield the pieces in part, from a unit on to both sides."""
    high = bisect_right(pieces, unit, key=attrgetter("start"))
    low, end = high - 1, len(pieces)
    while most > 0 and (low >= 0 or high < end):
        if high == len(pieces) or (
            low >= 0 and unit - pieces[low].stop < pieces[high].start - unit
        ):
            piece, low = pieces[low], low - 1
        else:
            piece, high = pieces[high], high + 1
        if _is_in_part(piece):
            most -= piece.room
            yield piece


def _is_in_part(piece: Piece) -> bool:
    if piece.pieces > 1 or not piece.live:
        return False
    return piece.kind is Kind.PACKED or (piece.kind is Kind.RUN and piece.live < piece.room)


class _Found:
    """Live blocks of an arena, asked for by ascending ranges."""

    def __init__(self, core: HeapDoors, origin: int) -> None:
        self._core, self._origin = core, origin
        self._cursor = 0
        self._blocks: deque[tuple[int, int]] = deque()

    def between(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the blocks of a range of bytes, from its start on."""
        while self._blocks and self._first() < start:
            self._blocks.popleft()
        if not self._blocks:
            self._cursor = max(self._cursor, start // GRANULE)
        while self._has_more(stop) and (at := self._first()) < stop:
            yield at - start, self._blocks.popleft()[1]

    def _first(self) -> int:
        return self._blocks[0][0] ^ self._origin

    def _has_more(self, stop: int) -> bool:
        if not self._blocks and self._cursor < stop // GRANULE:
            self._cursor, more = self._core.blocks(self._cursor)
            self._blocks.extend(more)
        return bool(self._blocks)
