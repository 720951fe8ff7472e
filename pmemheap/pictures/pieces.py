"""Pieces: what units are, and how many of each kind."""

from __future__ import annotations

import struct
from enum import Enum
from typing import NamedTuple, Self

__all__ = ["AGELESS", "PIECE", "Kind", "Piece"]

AGELESS = (1 << 64) - 1
"""The age of a piece without free units that have memory behind them."""


class Kind(Enum):
    """What units are; the value says it in words."""

    RUN = "runs of small blocks"
    PACKED = "chunks of rings and regions"
    LARGE = "large blocks"
    WITHHELD = "withheld: of open transactions, or freed and not yet free"
    FREE = "free"
    UNUSED = "never used"


class Piece(NamedTuple):
    """Units that are one thing, or that begin in one cell.

    Attributes
    ----------
    start : int
        First unit.
    size : int
        Bytes of a block of its runs, as rounded up; 0 without runs, and where they differ.
    young : int
        Intervals of `decay` since the last of its free units became free, of those that have memory
        behind them, as far as this process knows: they may be older. `AGELESS` without such units.
    nunits, pieces : int
        Units, and pieces: more than one if it is what begins in a cell.
    run, packed, large, withheld, free, unused : int
        Units by kind.
    bare : int
        Free units with nothing behind them: given back, or never stored to.
    regions : int
        Kept regions that begin in it.
    live, room : int
        Blocks that live, and blocks that there is room for in its runs, those that live included.
    allocated, asked : int
        Bytes of the blocks that live; what was asked for, which is known of blocks of whole units.
    """

    start: int
    size: int
    young: int
    nunits: int
    pieces: int
    run: int
    packed: int
    large: int
    withheld: int
    free: int
    unused: int
    bare: int
    regions: int
    live: int
    room: int
    allocated: int
    asked: int

    @classmethod
    def whole(cls, start: int, nunits: int, kind: Kind) -> Self:
        """Return a piece of one kind, of which nothing else is known."""
        units = [nunits if each is kind else 0 for each in Kind]
        return cls(*(start, 0, AGELESS, nunits, 1, *units, *[0] * 6))

    @property
    def units(self) -> tuple[int, ...]:
        """Units by kind, in the order of `Kind`."""
        return self[5:11]

    @property
    def kind(self) -> Kind:
        """What most of its units are."""
        units = self.units
        return _KINDS[units.index(max(units))]

    @property
    def stop(self) -> int:
        """The unit behind it."""
        return self.start + self.nunits


_KINDS = tuple(Kind)
PIECE = struct.Struct(f"={len(Piece.__annotations__)}Q")
"""A piece as the C core tells it: struct ph_surveyed."""
