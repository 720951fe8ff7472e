"""Place: what the core knows of an offset, in one answer."""

from __future__ import annotations

from typing import NamedTuple

from pmemheap.native import HeapDoors

__all__ = ["Place", "place_of"]


class Place(NamedTuple):
    """What covers the unit of an offset, as far as it is read, and the block that begins there."""

    state: int
    """Of the unit, or of a reserved or quarantined block: a `UnitState`; 0 outside."""
    unit: int
    """First unit of what covers the offset."""
    units: int
    size_class: int
    """Number of its size class, if it is a run."""
    size: int
    """Bytes that the block can hold; 0 if there is none."""
    views: int
    refusal: int
    """Why a free of the block would be refused; 0 if it would not."""
    room: int
    """Free units of the pool behind a large block."""


def place_of(core: HeapDoors, offset: int) -> Place:
    """Ask the core."""
    return Place(*core.place_of(offset))
