"""Header: the tables at the start of a heap file, read from their bytes, checked and changed.

    image (0x28000 bytes) --> superblock --> segments, arenas, roots

It is handed bytes, not a file: recovery reads an image to which the log has been applied. What a
killed process may leave behind, without being damage, comes back in `Tables.strays`: segments that
belong to no arena's range, and logs that the superblock does not name [R28]. They count as SPARE.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TypeVar

from pmemheap.dataclass import dataclass, field
from pmemheap.errors import CorruptHeapError, OutOfSpaceError
from pmemheap.format import layout
from pmemheap.format.layout import (
    ArenaSlot,
    ArenaState,
    RootSlot,
    SegmentKind,
    SegmentSlot,
    SlotImage,
    Table,
    slot_offset,
    spare_slot,
)
from pmemheap.format.superblock import Superblock, newest_superblock
from pmemheap.native import all_sealed
from pmemheap.units import UNIT

__all__ = [
    "HeaderImage",
    "Tables",
    "as_spare",
    "other_superblock",
    "read_superblock",
    "read_tables",
]

T = TypeVar("T")
Slot = TypeVar("Slot", SegmentSlot, ArenaSlot, RootSlot)

HeaderImage = bytes | bytearray

_SLOTS = {
    Table.SEGMENTS: layout.SEGMENT_SLOTS,
    Table.ARENAS: layout.ARENA_SLOTS,
    Table.ROOTS: layout.ROOT_SLOTS,
}
_GROUP = 64  # slots that are looked at together: most of them are empty
_NO_UNITS = (0, 0)
_EMPTY_SLOT = bytes(layout.SLOT_BYTES)
_EMPTY_GROUP = bytes(_GROUP * layout.SLOT_BYTES)
_EMPTY_RESTS = {table: bytes((n - _GROUP) * layout.SLOT_BYTES) for table, n in _SLOTS.items()}
"""All of a table but its first group."""
_EMPTY_HALVES = tuple(bytes(n * layout.SLOT_BYTES) for n in (32, 16, 8, 4, 2, 1))  # of a group


@dataclass()
class Tables:
    """The slots in use, by index.

    Attributes
    ----------
    strays : dict of int to SegmentSlot
        What the segment table should say instead of what it does; `segments` says it already.
    """

    segments: dict[int, SegmentSlot] = field(default_factory=dict)
    arenas: dict[int, ArenaSlot] = field(default_factory=dict)
    roots: dict[int, RootSlot] = field(default_factory=dict)
    strays: dict[int, SegmentSlot] = field(default_factory=dict)

    def data_segments(self, arena: int) -> list[tuple[int, SegmentSlot]]:
        """Return index and slot of the data segments of an arena, by their units."""
        found = [
            (index, slot)
            for index, slot in self.segments.items()
            if slot.kind == SegmentKind.DATA and slot.arena == arena
        ]
        return sorted(found, key=lambda each: each[1].first_unit)

    def pages(self) -> set[int]:
        """Return the file offsets of the pages of the header that slots lie in."""
        tables = (
            (layout.SEGMENT_TABLE, self.segments), (layout.SEGMENT_TABLE, self.strays),
            (layout.ARENA_TABLE, self.arenas), (layout.ROOT_TABLE, self.roots),
        )  # fmt: skip
        return {
            (start + index * layout.SLOT_BYTES) // UNIT * UNIT
            for start, slots in tables
            for index in slots
        }

    @property
    def end(self) -> int:
        """Bytes of the file that belong to the heap."""
        return _end_of(self.segments)

    def end_after(self, slots: Iterable[SlotImage]) -> int:
        """Return what `end` will be with these slots."""
        after = dict(self.segments)
        for table, index, image in slots:
            if table == Table.SEGMENTS:
                _put(after, index, SegmentSlot.unpack(image, slot_offset(table, index)))
        return _end_of(after)

    def adopt(self, slots: Iterable[SlotImage]) -> None:
        """Take slots over that have become part of the heap."""
        for table, index, image in slots:
            offset = slot_offset(table, index)
            if table == Table.SEGMENTS:
                _put(self.segments, index, SegmentSlot.unpack(image, offset))
            elif table == Table.ARENAS:
                _put(self.arenas, index, ArenaSlot.unpack(image, offset))
            else:
                _put(self.roots, index, RootSlot.unpack(image, offset))

    def root_changes(
        self, puts: dict[str, RootSlot], drops: set[str], name: str
    ) -> list[SlotImage]:
        """Return the slots to change for some roots of the heap file `name`, changing nothing.

        Raises
        ------
        KeyError
            There is no root of a name in `drops`.
        OutOfSpaceError
            The table has too few free slots.
        """
        places = {root.name: index for index, root in self.roots.items()}
        changes = {places[root]: _EMPTY_SLOT for root in drops}
        vacated = set(changes)
        free = (i for i in range(layout.ROOT_SLOTS) if i not in self.roots or i in vacated)
        for root, slot in puts.items():
            index = places[root] if root in places and root not in drops else next(free, None)
            if index is None:
                raise OutOfSpaceError(
                    f"root table of {name!r}: a free slot expected, all {layout.ROOT_SLOTS} in use"
                )
            changes[index] = slot.pack()
        return [(Table.ROOTS, index, image) for index, image in changes.items()]


def read_superblock(image: HeaderImage) -> tuple[Superblock, int]:
    """Return the newest valid superblock, and which of the two copies it is.

    Raises
    ------
    CorruptHeapError
        Neither is valid.
    """
    first, second = (bytes(image[at : at + layout.SUPERBLOCK_BYTES]) for at in layout.SUPERBLOCKS)
    return newest_superblock((first, second))


def other_superblock(image: HeaderImage, copy: int) -> Superblock:
    """Return the copy that is not number `copy`; CorruptHeapError if it is not valid."""
    at = layout.SUPERBLOCKS[1 - copy]
    return Superblock.unpack(bytes(image[at : at + layout.SUPERBLOCK_BYTES]), at)


def read_tables(image: HeaderImage, superblock: Superblock, name: str) -> Tables:
    """Read the three tables of the heap file `name`.

    Raises
    ------
    CorruptHeapError
        A slot is damaged, or slots contradict each other; place, expected, found.
    """
    tables = Tables(_used(image, Table.SEGMENTS, SegmentSlot))
    _check_places(tables, name)
    _check_log(tables, superblock, name)
    tables.arenas = _used(image, Table.ARENAS, ArenaSlot)
    _set_aside_strays(tables)
    _check_arenas(tables, name)
    tables.roots = _used(image, Table.ROOTS, RootSlot)
    return tables


def _end_of(segments: dict[int, SegmentSlot]) -> int:
    last = max(segments.values(), key=attrgetter("file_off"), default=None)
    return layout.HEADER_BYTES if last is None else last.file_stop


def _put(slots: dict[int, T], index: int, slot: T | None) -> None:
    if slot is None:
        slots.pop(index, None)
    else:
        slots[index] = slot


def as_spare(slot: SegmentSlot) -> SegmentSlot:
    """Return the slot of a segment whose units have all left, or of a log that is not used."""
    return spare_slot(slot.file_off, slot.file_bytes)


def _used(image: HeaderImage, table: Table, kind: type[Slot]) -> dict[int, Slot]:
    """Read the slots of a table that are in use, by index."""
    used: dict[int, Slot] = {}
    width, start = layout.SLOT_BYTES, slot_offset(table, 0)
    has_more = not image.startswith(_EMPTY_RESTS[table], start + _GROUP * width)
    for first in range(0, _SLOTS[table] if has_more else _GROUP, _GROUP):
        at = start + first * width
        if image.startswith(_EMPTY_GROUP, at):
            continue
        group = bytes(image[at : at + len(_EMPTY_GROUP)])
        read = kind.read if all_sealed(group, width, kind.SEAL_AT) else kind.unpack
        end = len(group)
        for empty in _EMPTY_HALVES:
            if group.endswith(empty, 0, end):
                end -= len(empty)
        for number in range(end // width):
            slot = group[number * width : (number + 1) * width]
            if slot != _EMPTY_SLOT:
                index = first + number
                found = read(slot, start + index * width)
                assert found is not None
                used[index] = found
    return used


def _check_places(tables: Tables, name: str) -> None:
    """Check that the segments lie end to end behind the header, and are what they can be."""
    reached = layout.HEADER_BYTES
    for slot in sorted(tables.segments.values(), key=attrgetter("file_off")):
        nbytes = slot.file_bytes
        if slot.file_off != reached or not nbytes or not _is_sound(slot):
            raise CorruptHeapError(
                f"segment table of {name!r}: a segment at file offset {reached:#x} "
                f"expected, found {slot}"
            )
        reached += nbytes


def _is_sound(slot: SegmentSlot) -> bool:
    """Tell whether the numbers of a slot agree with each other [R25]."""
    if slot.kind == SegmentKind.DATA:
        return (
            0 < slot.nunits <= slot.capacity
            and slot.capacity % layout.SEGMENT_UNITS == slot.nunits % layout.SEGMENT_UNITS == 0
            and slot.arena < layout.ARENA_SLOTS
        )
    return slot.kind == SegmentKind.LOG or slot.capacity % layout.SEGMENT_UNITS == 0


def _check_log(tables: Tables, superblock: Superblock, name: str) -> None:
    """Find the log that the superblock names; all others are strays [R28]."""
    named = False
    for index, slot in tables.segments.items():
        if slot.kind != SegmentKind.LOG:
            continue
        if slot.file_off == superblock.log_off and slot.file_bytes == superblock.log_size:
            named = True
        else:
            tables.strays[index] = as_spare(slot)
    if not named:
        raise CorruptHeapError(
            f"segment table of {name!r}: a log of {superblock.log_size} bytes at file offset "
            f"{superblock.log_off:#x} expected, none found"
        )


def _set_aside_strays(tables: Tables) -> None:
    """Take segments outside of their arena's range for SPARE ones.

    A growth or a cut that a killed process did not end leaves them.
    """
    ranges: dict[int, tuple[int, int]] = {}
    for index, arena in tables.arenas.items():
        if arena.state == ArenaState.LIVE:
            ranges[index] = arena.first_unit, arena.end_unit
    for index, slot in tables.segments.items():
        if slot.kind == SegmentKind.DATA:
            first, end = ranges.get(slot.arena, _NO_UNITS)
            if slot.first_unit >= end or slot.first_unit + slot.nunits <= first:
                tables.strays[index] = as_spare(slot)
    tables.segments.update(tables.strays)


def _check_arenas(tables: Tables, name: str) -> None:
    if 0 not in tables.arenas or tables.arenas[0].state != ArenaState.LIVE:
        raise CorruptHeapError(f"arena table of {name!r}: the default arena expected, none")
    names: set[str] = set()
    for index, arena in tables.arenas.items():
        if arena.state == ArenaState.LIVE:
            _check_range(tables, index, arena, name)
            if arena.name in names:
                raise CorruptHeapError(
                    f"arena table of {name!r}: names expected once each, found {arena.name!r} again"
                )
            names.add(arena.name)


def _check_range(tables: Tables, index: int, arena: ArenaSlot, name: str) -> None:
    """Check that the segments of an arena follow each other through its range of units."""
    slots = [slot for _, slot in tables.data_segments(index)]
    expected = slots[0].first_unit if slots else -1
    for slot in slots:
        if slot.first_unit != expected:
            raise CorruptHeapError(
                f"segment table of {name!r}: a segment from unit {expected} expected, "
                f"found one from {slot.first_unit}"
            )
        expected = slot.first_unit + slot.nunits
    first = slots[0] if slots else None
    if (
        first is None
        or expected != arena.end_unit
        or not (first.first_unit <= arena.first_unit < first.first_unit + first.nunits)
    ):
        found = [(slot.first_unit, slot.first_unit + slot.nunits) for slot in slots]
        raise CorruptHeapError(
            f"arena table of {name!r}: segments for units {arena.first_unit} to "
            f"{arena.end_unit} of arena {index} expected, found {found}"
        )
