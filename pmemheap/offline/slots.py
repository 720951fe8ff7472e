"""Slots: the three tables of the header as they were read, sound slots apart from bad ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pmemheap.errors import CorruptHeapError
from pmemheap.format import layout
from pmemheap.format.layout import (
    ArenaSlot,
    ArenaState,
    RootSlot,
    SegmentKind,
    SegmentSlot,
    Table,
    slot_offset,
)
from pmemheap.offline.image import Image
from pmemheap.units import UNIT

__all__ = [
    "BadSlot",
    "Slots",
    "is_possible",
    "raw_slots",
    "read_arenas",
    "read_segments",
    "segments_inside",
]

_EMPTY = bytes(layout.SLOT_BYTES)
_SLOTS = {
    Table.SEGMENTS: layout.SEGMENT_SLOTS,
    Table.ARENAS: layout.ARENA_SLOTS,
    Table.ROOTS: layout.ROOT_SLOTS,
}


@dataclass
class Slots:
    """The tables, mended as far as their parts tell: what is derived stands beside what was read.

    Attributes
    ----------
    unexplained : list of (int, int)
        Pieces of the file, first offset and the one behind, of which nothing tells what they are.
    sound_arenas : dict of int to ArenaSlot
        Those arenas whose slots were read, and are contradicted by nothing.
    live : dict of int to ArenaSlot
        The arenas that hold blocks.
    """

    segments: dict[int, SegmentSlot] = field(default_factory=dict)
    arenas: dict[int, ArenaSlot] = field(default_factory=dict)
    sound_arenas: dict[int, ArenaSlot] = field(default_factory=dict)
    roots: dict[int, RootSlot] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    unexplained: list[tuple[int, int]] = field(default_factory=list)

    @property
    def live(self) -> dict[int, ArenaSlot]:
        """The arenas that hold blocks."""
        return {i: each for i, each in self.arenas.items() if each.state == ArenaState.LIVE}

    @property
    def arenas_without_slot(self) -> list[int]:
        """Numbers of arenas that have segments, or must be there, but no live slot."""
        used = {slot.arena for slot in self.segments.values() if slot.kind == SegmentKind.DATA}
        has_default = 0 in self.arenas and self.arenas[0].state == ArenaState.LIVE
        return sorted((used - self.arenas.keys()) | ({0} if not has_default else set()))

    @property
    def file_end(self) -> int:
        """File offset behind the last segment, or behind what may be one."""
        stops = [slot.file_stop for slot in self.segments.values()]
        return max(stops + [stop for _, stop in self.unexplained], default=0)


@dataclass(frozen=True)
class BadSlot:
    """A slot that cannot be believed: what stands there, and why not."""

    index: int
    image: bytes
    reason: str


def raw_slots(image: Image, table: Table) -> Iterator[tuple[int, int, bytes]]:
    """Yield index, file offset and bytes of every slot of a table that is not empty."""
    start, count = slot_offset(table, 0), _SLOTS[table]
    length = count * layout.SLOT_BYTES
    data = image.read(start, length).ljust(length, b"\0")
    for index in range(count):
        at = index * layout.SLOT_BYTES
        slot = data[at : at + layout.SLOT_BYTES]
        if slot != _EMPTY:
            yield index, start + at, slot


def read_segments(image: Image, slots: Slots, end: int) -> list[BadSlot]:
    """Take the sound slots that do not overlap and lie below `end`, lowest in the file first."""
    found: dict[int, tuple[SegmentSlot, bytes]] = {}
    bad: list[BadSlot] = []
    for index, offset, data in raw_slots(image, Table.SEGMENTS):
        try:
            slot = SegmentSlot.unpack(data, offset)
        except CorruptHeapError as error:
            bad.append(BadSlot(index, data, str(error)))
            continue
        assert slot is not None
        if not is_possible(slot) or slot.file_stop > end:
            bad.append(BadSlot(index, data, f"a segment that cannot be: {slot}"))
        else:
            found[index] = slot, data
    taken = {*found, *(each.index for each in bad)}
    slots.free = [index for index in range(layout.SEGMENT_SLOTS) if index not in taken]
    reached = layout.HEADER_BYTES
    for index in sorted(found, key=lambda each: (found[each][0].file_off, each)):
        slot, data = found[index]
        if slot.file_off < reached:
            bad.append(BadSlot(index, data, f"a segment that overlaps another: {slot}"))
            continue
        slots.segments[index] = slot
        reached = slot.file_stop
    return bad


def is_possible(slot: SegmentSlot) -> bool:
    """Tell whether the numbers of a segment slot agree with each other [R25]."""
    if slot.file_off < layout.HEADER_BYTES or slot.file_off % UNIT or slot.file_stop >> 62:
        return False
    if slot.kind == SegmentKind.LOG:
        return slot.capacity > 0
    if slot.capacity % layout.SEGMENT_UNITS or not slot.file_bytes:
        return False
    if slot.kind == SegmentKind.SPARE:
        return True
    return (
        0 < slot.nunits <= slot.capacity
        and slot.nunits % layout.SEGMENT_UNITS == 0
        and slot.arena < layout.ARENA_SLOTS
        and slot.first_unit + slot.nunits <= layout.ARENA_UNITS_MOST
    )


def read_arenas(image: Image, slots: Slots) -> list[BadSlot]:
    """Take the sound slots; return the others."""
    bad = []
    for index, offset, data in raw_slots(image, Table.ARENAS):
        try:
            slot = ArenaSlot.unpack(data, offset)
        except CorruptHeapError as error:
            bad.append(BadSlot(index, data, str(error)))
            continue
        if slot is not None:
            slots.arenas[index] = slots.sound_arenas[index] = slot
    return bad


def segments_inside(
    segments: Iterable[SegmentSlot], index: int, arena: ArenaSlot
) -> Iterator[SegmentSlot]:
    """Yield the data segments that hold live units of an arena."""
    for slot in segments:
        if (
            slot.kind == SegmentKind.DATA
            and slot.arena == index
            and slot.first_unit < arena.end_unit
            and slot.first_unit + slot.nunits > arena.first_unit
        ):
            yield slot
