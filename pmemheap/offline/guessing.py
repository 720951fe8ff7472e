"""Guessing: how well the bytes of a file read like the tables of a segment.

    right capacity   | entries | bits | data |      entries and bits agree with each other
    wrong capacity   | entries bi|ts dat|a   |      they contradict each other nearly everywhere

What lies where a segment could be is read as entries and bits of some capacity; the capacity with
the greatest agreement is the likely one. Without blocks all are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pmemheap.format import layout
from pmemheap.format.layout import ArenaSlot, SegmentKind, SegmentSlot
from pmemheap.offline.findings import Findings
from pmemheap.offline.image import Image
from pmemheap.offline.places import Places
from pmemheap.offline.strategies import strategy_of
from pmemheap.offline.units import UnitWalk

__all__ = ["best_capacity", "is_likely", "looks_used", "places_of_one"]

_SEGMENTS_TRIED = 64


def places_of_one(slot: SegmentSlot, strategy: bytes = bytes(7)) -> Places:
    """Return where the units of an arena lie that has one segment and nothing else."""
    arena = ArenaSlot(slot.first_unit, slot.first_unit + slot.nunits, strategy=strategy)
    return Places({0: slot}, {slot.arena: arena})


def _score(image: Image, slot: SegmentSlot) -> int:
    """Return a number that is the greater, the better entries and bits of a segment agree."""
    findings = Findings()
    places = places_of_one(slot, strategy_of(image, [slot]))
    walk = UnitWalk(image, places, findings, image.size)
    return sum(1 + bool(extent.bits) for extent in walk.extents()) - 2 * findings.damage


def _capacities(room: int) -> set[int]:
    """Return the capacities, in units, to be tried in `room` bytes of a file; at least one."""
    least = layout.SEGMENT_UNITS
    most = max(room // layout.UNIT_BYTES_IN_FILE // least * least, least)
    return {most, *range(least, min(most, _SEGMENTS_TRIED * least) + 1, least)}


def _plain(at: int, units: int) -> SegmentSlot:
    return SegmentSlot(SegmentKind.DATA, at, units, nunits=units)


def looks_used(image: Image, at: int, stop: int) -> bool:
    """Tell whether a piece of a file reads like a segment with blocks, of whatever capacity."""
    return any(_score(image, _plain(at, units)) > 0 for units in _capacities(stop - at))


def best_capacity(image: Image, at: int, stop: int, usual: int) -> int:
    """Return the capacity of the segment that begins at `at`; on a tie the one nearest `usual`."""
    tried = _capacities(stop - at)
    tried.add(min(usual, max(tried)))
    scored = [(_score(image, _plain(at, units)), -abs(units - usual), units) for units in tried]
    best: int = max(scored)[2]
    return best


def is_likely(slot: SegmentSlot, view_under: Callable[[SegmentSlot], Image]) -> bool:
    """Tell whether no smaller capacity fits what lies at a segment's place better than its own.

    Parameters
    ----------
    view_under : callable
        Returns the file as it is if that segment is there.
    """
    own = _score(view_under(slot), slot)
    for units in _capacities(slot.file_bytes) - {slot.capacity}:
        other = replace(slot, capacity=units, nunits=units)
        if _score(view_under(other), other) > own:
            return False
    return True
