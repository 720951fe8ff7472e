"""File space: which part of a heap file a segment gets, and what the segment table says then.

    place    | DATA | SPARE          | DATA |   -->  | DATA | new | SPARE | DATA |
    tidy     | DATA | SPARE | SPARE  | DATA | SPARE |  -->  | DATA | SPARE | DATA |

Plain functions over the slots, by index. They change nothing: they return the slots to change,
None for one that becomes empty.
"""

from __future__ import annotations

from itertools import pairwise

from pmemheap.format.layout import (
    BACKED_UNITS,
    SEGMENT_SLOTS,
    SEGMENT_UNITS,
    SegmentKind,
    SegmentSlot,
    SlotImage,
    Table,
    spare_slot,
)
from pmemheap.units import UNIT, MiB

__all__ = [
    "SlotChanges",
    "backed_bytes",
    "fitting_spare",
    "free_index",
    "images",
    "placed",
    "step",
    "tidied",
    "unsynced",
]

_HALF_MOST, _IN_MEMORY_MOST = 16 * MiB // UNIT, 64 * MiB // UNIT

SlotChanges = dict[int, SegmentSlot | None]


def step(nunits: int, segments: dict[int, SegmentSlot], *, in_memory: bool) -> int:
    """Return the units by which an arena of so many grows.

    Each segment is a map at open: what is small gets half of it, the rest a fifth; twice a fifth
    when half of the slots are used. On a disk, units get blocks when they are taken; a file system
    in memory fills every page that it allocates. A SPARE segment in which a fifth fits goes first.
    """
    fifth = max(SEGMENT_UNITS, nunits // 5)
    if len(segments) > SEGMENT_SLOTS // 2:
        return 2 * fifth
    if in_memory:
        return min(fifth, _IN_MEMORY_MOST)
    half = min(nunits // 2, _HALF_MOST)
    if half <= fifth:
        return fifth
    wanted = SegmentSlot(SegmentKind.DATA, 0, fifth, 0, 0, fifth).file_bytes
    return half if fitting_spare(segments, wanted) is None else fifth


def fitting_spare(segments: dict[int, SegmentSlot], file_bytes: int) -> int | None:
    """Return the SPARE segment that lies lowest in the file, so that its end can be cut off."""
    fitting = [
        (slot.file_off, index)
        for index, slot in segments.items()
        if slot.kind == SegmentKind.SPARE and slot.file_bytes >= file_bytes
    ]
    return min(fitting)[1] if fitting else None


def free_index(segments: dict[int, SegmentSlot], *taken: int) -> int | None:
    """Return the first index that no slot has; None if the table is full."""
    return next((i for i in range(SEGMENT_SLOTS) if i not in segments and i not in taken), None)


def placed(segments: dict[int, SegmentSlot], index: int, slot: SegmentSlot) -> SlotChanges:
    """Return the changes by which a new segment takes its place; what it leaves stays SPARE.

    There is a free slot for the rest, or the new segment takes all.
    """
    changes: SlotChanges = {index: slot}
    old = segments.get(index)
    if old is not None and old.file_bytes > slot.file_bytes:
        rest = free_index(segments)
        assert rest is not None, "a segment that leaves something has a slot for it"
        changes[rest] = spare_slot(slot.file_stop, old.file_bytes - slot.file_bytes)
    return changes


def tidied(segments: dict[int, SegmentSlot], *, cut: bool) -> SlotChanges:
    """Return the changes that merge neighbouring SPARE segments, and drop one at the end.

    Parameters
    ----------
    cut : bool
        Whether the end of the file may go.
    """
    changes: SlotChanges = {}
    places = {number: segment.file_off for number, segment in segments.items()}
    by_place = sorted(places, key=places.__getitem__)
    for left, right in pairwise(by_place):
        before, after = changes.get(left) or segments[left], segments[right]
        if before.kind == after.kind == SegmentKind.SPARE:
            changes[left] = None
            changes[right] = spare_slot(before.file_off, before.file_bytes + after.file_bytes)
    if cut and by_place and segments[by_place[-1]].kind == SegmentKind.SPARE:
        changes[by_place[-1]] = None
    return changes


def images(changes: SlotChanges) -> list[SlotImage]:
    """Return changes of the segment table as the images of slots."""
    empty = SegmentSlot(SegmentKind.NONE, 0, 0)
    return [(Table.SEGMENTS, index, (slot or empty).pack()) for index, slot in changes.items()]


def unsynced(slot: SegmentSlot, used: bool) -> tuple[int, int]:
    """Return from where to where a new segment has to be durable before the heap has it.

    The zeros of a log; tables of zeros, where data was before; or all of it, so that the file is as
    long, and where it was as long before, nothing comes back.
    """
    is_taken_over = used and slot.kind == SegmentKind.DATA
    return slot.file_off, slot.data_off if is_taken_over else slot.file_stop


def backed_bytes(slot: SegmentSlot, nunits: int) -> int:
    """Return for how many bytes of a new segment blocks are allocated: tables and some units."""
    if slot.kind == SegmentKind.LOG:
        return slot.file_bytes
    least = max(nunits, BACKED_UNITS)
    return min(slot.data_off - slot.file_off + least * UNIT, slot.file_bytes)
