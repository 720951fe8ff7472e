"""Segments: what a region maps of one piece of its medium, a map in each table."""

from __future__ import annotations

from pmemheap.dataclass import dataclass, field
from pmemheap.errors import Pmem2Error
from pmemheap.pmem2 import Map
from pmemheap.pmem2.mapping import close_row
from pmemheap.space.medium import Piece

__all__ = ["Segment", "closed", "runs_of"]


@dataclass(eq=False)
class Segment:
    """A piece, and its maps by the names of the tables."""

    piece: Piece
    maps: dict[str, Map] = field(default_factory=dict)


def runs_of(segments: list[Segment]) -> list[list[Segment]]:
    """Return segments by runs: those that lie next to each other, in the order given."""
    runs: list[list[Segment]] = []
    for segment in segments:
        if runs and runs[-1][-1].piece.stop == segment.piece.first_unit:
            runs[-1].append(segment)
        else:
            runs.append([segment])
    return runs


def closed(row: list[Map]) -> list[Map]:
    """Close maps that lie next to each other, as a rule; return those that are refused."""
    if len(row) > 1 and close_row(row):
        return []
    left = []
    for part in row:
        try:
            part.close()
        except Pmem2Error:
            left.append(part)
    return left
