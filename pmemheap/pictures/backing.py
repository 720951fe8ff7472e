"""Backing: which free units of a file have nothing behind them, as its file system tells.

    file     | header | tables | data ................ | tables | data ......... |
    holes                          ......    .........             ....
    units                       first unit of the segment + place in it

The core knows this of memory alone. A file system counts as a hole also what was allocated and
never written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from pmemheap.file.parts import PARTS
from pmemheap.pictures.pieces import Piece
from pmemheap.space import medium
from pmemheap.units import UNIT

__all__ = ["Gap", "gaps_of", "without_backing"]

Gap = tuple[int, int]
"""First unit, and the unit behind the last one."""


def gaps_of(fd: int, segments: Iterable[medium.Piece]) -> list[Gap]:
    """Return which units of an arena lie in holes of its file, by unit. O(holes)."""
    gaps: list[Gap] = []
    for segment in segments:
        offset, nbytes = PARTS["data"](segment)
        for start, stop in _holes(fd, offset, offset + nbytes):
            first = segment.first_unit + -(-(start - offset) // UNIT)
            end = segment.first_unit + (stop - offset) // UNIT
            if first < end:
                gaps.append((first, end))
    return sorted(gaps)


def _holes(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the holes of a part of a file; none where the file system does not tell."""
    while start < end:
        hole = _sought(fd, start, os.SEEK_HOLE, end)
        if hole >= end:
            return
        start = min(_sought(fd, hole, os.SEEK_DATA, end), end)
        yield hole, start


def _sought(fd: int, start: int, what: int, end: int) -> int:
    try:
        return os.lseek(fd, start, what)
    except OSError as error:
        if error.errno not in {errno.ENXIO, errno.EINVAL}:  # nothing more; it cannot tell
            raise
    return end


def without_backing(pieces: Iterable[Piece], gaps: list[Gap]) -> list[Piece]:
    """Return pieces that say how many of their free units lie in gaps. O(pieces + gaps)."""
    told, at = [], 0
    for piece in pieces:
        while at < len(gaps) and gaps[at][1] <= piece.start:
            at += 1
        told.append(piece._replace(bare=_bare(piece, gaps, at)) if piece.free else piece)
    return told


def _bare(piece: Piece, gaps: list[Gap], at: int) -> int:
    """Return the units of a piece that lie in gaps from one on; at most those that are free."""
    inside = 0
    while at < len(gaps) and gaps[at][0] < piece.stop:
        inside += min(gaps[at][1], piece.stop) - max(gaps[at][0], piece.start)
        at += 1
    return min(inside, piece.free)
