"""Layout: where everything lies in a heap file, and the slots of its tables. Format 1.

    0x00000  superblock A     one sector of a page, checksummed; the copy with the greater
    0x01000  superblock B     generation counts, and the other one is written next
    0x02000  shared page      words for other processes
    0x03000  lock page        byte locks only
    0x04000  segment table    1024 slots of 64 bytes
    0x14000  arena table       256 slots of 64 bytes
    0x18000  root table       1024 slots of 64 bytes
    0x28000  segments         log, then data segments and what was given back, end to end

A data segment of ``n`` units (a multiple of 256) is ``16 n`` bytes of unit entries, ``32 n`` of
allocation bits and ``4096 n`` of data. Integers are little-endian; every record carries a CRC-32C
of its other bytes. This module packs and unpacks, it does no input or output.
"""

from __future__ import annotations

import math
import struct
from typing import ClassVar, Self

from pmemheap.dataclass import dataclass, replace
from pmemheap.errors import CorruptHeapError
from pmemheap.native import crc32c, crc32c_but
from pmemheap.native.constants import (
    ROW_MOST,
    ArenaState,
    Durability,
    Format,
    HeapState,
    SegmentKind,
    StrategyCode,
    Table,
    place,
    width,
)
from pmemheap.units import GRANULE, UNIT

__all__ = [
    "ARENA_BITS",
    "ARENA_NAME_BYTES",
    "ARENA_SLOTS",
    "ARENA_TABLE",
    "ARENA_UNITS_MOST",
    "BACKED_UNITS",
    "BACKUP_NAME_BYTES",
    "BITS_WIDTH",
    "DATA_WIDTH",
    "ENTRY_WIDTH",
    "HAS_PACKED",
    "HAS_ROWS",
    "HEADER_BYTES",
    "LOCK_FOLLOWER",
    "LOCK_READER",
    "LOCK_WRITER",
    "LOG_BYTES",
    "MAGIC",
    "PINS",
    "PIN_ERA_SHIFT",
    "ROOT_NAME_BYTES",
    "ROOT_SLOTS",
    "ROOT_TABLE",
    "SEGMENT_SLOTS",
    "SEGMENT_TABLE",
    "SEGMENT_UNITS",
    "SHARED_PAGE",
    "SHARED_WORDS",
    "SHARED_WRITER_PID",
    "SLOT_BYTES",
    "SUPERBLOCKS",
    "SUPERBLOCK_BYTES",
    "UNDER_REPAIR",
    "UNIT_BYTES_IN_FILE",
    "VERSION",
    "ArenaSlot",
    "ArenaState",
    "Durability",
    "FileIdentity",
    "HeapState",
    "RootSlot",
    "SegmentKind",
    "SegmentSlot",
    "SlotImage",
    "Table",
    "damaged",
    "is_strategy",
    "packed_strategy",
    "row_units",
    "slot_offset",
    "spare_slot",
]

MAGIC = b"PMEMHEAP"
VERSION = Format.VERSION
SUPERBLOCKS = Format.SUPERBLOCKS
SUPERBLOCK_BYTES = width("ph_superblock")
SHARED_PAGE = Format.SHARED
SHARED_WRITER_PID = SHARED_PAGE + place("ph_shared_page", "writer_pid")
SHARED_WORDS = {
    name: slice(
        SHARED_PAGE + place("ph_shared_page", name),
        SHARED_PAGE + place("ph_shared_page", name) + length,
    )
    for name, length in {
        "commit_seq": 8, "layout_seq": 8, "era": 8, "gate": 4, "roots_used": 8, "floor": 8,
    }.items()
}  # fmt: skip
"""Where the words of the shared page lie by which readers go."""
PINS = 1 << 62
"""A pin is a lock on byte ``PINS + (era << PIN_ERA_SHIFT | process)``."""
PIN_ERA_SHIFT = Format.PIN_ERA_SHIFT
LOCK_WRITER, LOCK_READER = Format.LOCK_WRITER, Format.LOCK_READER
LOCK_FOLLOWER = Format.LOCK_FOLLOWER
SEGMENT_TABLE, SEGMENT_SLOTS = Format.SEGMENTS, Format.SEGMENT_SLOTS
ARENA_TABLE, ARENA_SLOTS = Format.ARENAS, Format.ARENA_SLOTS
ROOT_TABLE, ROOT_SLOTS = Format.ROOTS, Format.ROOT_SLOTS
HEADER_BYTES = Format.HEADER
SLOT_BYTES = Format.SLOT
ROOT_NAME_BYTES = SLOT_BYTES - place("ph_root_slot", "name")
LOG_BYTES = Format.LOG
BACKED_UNITS = 16
"""Units of a file that get blocks together, at the least: 64 KiB."""
ARENA_NAME_BYTES = place("ph_arena_slot", "zeros") - place("ph_arena_slot", "name")
ARENA_BITS = Format.ARENA_BITS
ARENA_UNITS_MOST = (1 << ARENA_BITS) // UNIT
BACKUP_NAME_BYTES = place("ph_superblock", "zeros") - place("ph_superblock", "backup")
UNDER_REPAIR = Format.UNDER_REPAIR
"""Feature of a superblock: a repair is at work; its backup has the bytes that it changes."""
HAS_ROWS = Format.HAS_ROWS
"""Feature of a superblock: there are, or were, arenas of rows."""
HAS_PACKED = Format.HAS_PACKED
"""The same of chunks of pieces: of rings."""

SEGMENT_UNITS = Format.SEGMENT_UNITS
"""Capacities of data segments are multiples of this."""

ENTRY_WIDTH, BITS_WIDTH, DATA_WIDTH = Format.ENTRY, Format.BITS, UNIT
"""Bytes that one unit takes in each of the three parts of a segment."""

UNIT_BYTES_IN_FILE = ENTRY_WIDTH + BITS_WIDTH + DATA_WIDTH


SlotImage = tuple[Table, int, bytes]
"""A change of one slot of the header: table, index, and all 64 bytes of it."""

_TABLE_OFFSETS = {Table.ROOTS: ROOT_TABLE, Table.SEGMENTS: SEGMENT_TABLE, Table.ARENAS: ARENA_TABLE}


def slot_offset(table: Table, index: int) -> int:
    """Return the file offset of a slot of the root, segment or arena table."""
    return _TABLE_OFFSETS[table] + index * SLOT_BYTES


def damaged(
    thing: str, offset: int, what: str, expected: object, found: object
) -> CorruptHeapError:
    """Return what to raise for something that lies at an offset of the file."""
    return CorruptHeapError(
        f"{thing} at file offset {offset:#x}: {what} {expected} expected, {found} found"
    )


@dataclass(frozen=True)
class FileIdentity:
    """Which file it is: when it was made, in nanoseconds since 1970, its inode, and its device.

    A copy of a file is another file, in spite of all that its maker takes over. All zero: unknown.
    """

    birth: int = 0
    inode: int = 0
    device: int = 0

    def may_be(self, other: FileIdentity, *, same_boot: bool) -> bool:
        """Tell whether both may be the same file.

        A file keeps its inode and the time at which it was made, whatever the machine calls its
        device later; so does a snapshot of a whole file system. Where the file system does not
        tell that time, inode and device decide within one run of the machine; then nothing does.
        """
        if self.birth and other.birth:
            return (self.birth, self.inode) == (other.birth, other.inode)
        if not same_boot or not self.inode or not other.inode:
            return True
        return (self.inode, self.device) == (other.inode, other.device)


# ---------------------------------------------------------------- slots


def _seal(image: bytearray, at: int) -> bytes:
    """Store the checksum of all other bytes of a slot at `at`."""
    struct.pack_into("<I", image, at, 0)
    struct.pack_into("<I", image, at, crc32c(image))
    return bytes(image)


def _verify(image: bytes, at: int, thing: str, offset: int) -> None:
    stored = struct.unpack_from("<I", image, at)[0]
    crc = crc32c_but(image, at)
    if stored != crc:
        raise damaged(thing, offset, "crc32c", f"{crc:#010x}", f"{stored:#010x}")


@dataclass(frozen=True)
class SegmentSlot:
    """One slot of the segment table; `capacity`, `first_unit` and `nunits` count units.

    A log has `capacity` pages of the file and no tables. A SPARE segment has the bytes of
    `capacity` units with their tables, and `nunits` pages more.
    """

    kind: SegmentKind
    file_off: int
    capacity: int
    arena: int = 0
    first_unit: int = 0
    nunits: int = 0

    SEAL_AT: ClassVar = place("ph_segment_slot", "crc")
    _FORMAT = struct.Struct("<BxH4xQQQQ")

    @property
    def file_bytes(self) -> int:
        """Bytes of the file that belong to it."""
        if self.kind == SegmentKind.LOG:
            return self.capacity * UNIT
        pages = self.nunits if self.kind == SegmentKind.SPARE else 0
        return self.capacity * UNIT_BYTES_IN_FILE + pages * UNIT

    @property
    def file_stop(self) -> int:
        """File offset behind it."""
        return self.file_off + self.file_bytes

    @property
    def entries_off(self) -> int:
        """File offset of its unit entries."""
        return self.file_off

    @property
    def bits_off(self) -> int:
        """File offset of its allocation bits."""
        return self.file_off + self.capacity * ENTRY_WIDTH

    @property
    def data_off(self) -> int:
        """File offset of its data."""
        return self.file_off + self.capacity * (ENTRY_WIDTH + BITS_WIDTH)

    def pack(self) -> bytes:
        """Return the 64 bytes of it; all zero for an empty slot."""
        image = bytearray(SLOT_BYTES)
        if self.kind == SegmentKind.NONE:
            return bytes(image)
        self._FORMAT.pack_into(
            image, 0, self.kind, self.arena, self.file_off, self.capacity, self.first_unit,
            self.nunits,
        )  # fmt: skip
        return _seal(image, self.SEAL_AT)

    @classmethod
    def unpack(cls, image: bytes, offset: int) -> Self | None:
        """Read the slot at `offset` of the file; None if it is empty.

        Raises
        ------
        CorruptHeapError
            Checksum or kind is wrong.
        """
        if not any(image):
            return None
        _verify(image, cls.SEAL_AT, "segment slot", offset)
        return cls.read(image, offset)

    @classmethod
    def read(cls, image: bytes, offset: int) -> Self:
        """Read the slot at `offset` of the file, which is in use and whose seal is right."""
        number, arena, file_off, capacity, first_unit, nunits = cls._FORMAT.unpack_from(image)
        kind = _KINDS.get(number)
        if kind is None:
            raise damaged("segment slot", offset, "kind", "1, 2 or 3", number)
        return cls(kind, file_off, capacity, arena, first_unit, nunits)


_KINDS = {int(kind): kind for kind in SegmentKind if kind != SegmentKind.NONE}
_SEGMENT_BYTES_LEAST = SEGMENT_UNITS * UNIT_BYTES_IN_FILE


def spare_slot(file_off: int, file_bytes: int) -> SegmentSlot:
    """Return the slot of whole pages of the file that belong to nobody."""
    segments, rest = divmod(file_bytes, _SEGMENT_BYTES_LEAST)
    return SegmentSlot(SegmentKind.SPARE, file_off, segments * SEGMENT_UNITS, nunits=rest // UNIT)


def packed_strategy(code: StrategyCode, row_bytes: int = 0) -> bytes:
    """Return what the slot of an arena says of its strategy: its bytes 1 to 7."""
    return bytes([code, 0, 0]) + (row_bytes // GRANULE).to_bytes(4, "little")


def row_units(row_bytes: int) -> int:
    """Return the units of a run of rows: as many as begin and end with one."""
    granules = row_bytes // GRANULE
    return granules // math.gcd(granules, UNIT // GRANULE)


def is_strategy(strategy: bytes) -> bool:
    """Tell whether there is an arena of that strategy."""
    granules = int.from_bytes(strategy[3:], "little")
    if strategy[:3] == bytes([StrategyCode.ROWS, 0, 0]):
        return 0 < granules <= ROW_MOST // GRANULE
    return strategy in map(packed_strategy, (StrategyCode.GENERAL, StrategyCode.RING))


@dataclass(frozen=True)
class ArenaSlot:
    """One slot of the arena table: the live units ``[first_unit, end_unit)`` of an arena."""

    first_unit: int
    end_unit: int
    name: str = ""
    strategy: bytes = bytes(7)
    state: ArenaState = ArenaState.LIVE

    @property
    def row_bytes(self) -> int:
        """Bytes of a row; 0 in an arena without rows."""
        return int.from_bytes(self.strategy[3:], "little") * GRANULE

    @property
    def feature(self) -> int:
        """What the superblock of a file has to say that has such an arena."""
        features = {StrategyCode.RING: HAS_PACKED, StrategyCode.ROWS: HAS_ROWS}
        return features.get(StrategyCode(self.strategy[0]), 0)

    def dropped(self) -> Self:
        """Return the slot of the arena when it is dropped: its next life begins behind it [R24]."""
        return replace(
            self, first_unit=self.end_unit, name="", strategy=bytes(7), state=ArenaState.DROPPED
        )

    SEAL_AT: ClassVar = place("ph_arena_slot", "crc")
    _FORMAT = struct.Struct("<B7sQQB31s")

    def pack(self) -> bytes:
        """Return the 64 bytes of it."""
        image = bytearray(SLOT_BYTES)
        name = self.name.encode()
        self._FORMAT.pack_into(
            image, 0, self.state, self.strategy, self.first_unit, self.end_unit, len(name), name
        )
        return _seal(image, self.SEAL_AT)

    @classmethod
    def unpack(cls, image: bytes, offset: int) -> Self | None:
        """Read the slot at `offset` of the file; None if it is empty.

        Raises
        ------
        CorruptHeapError
            Checksum, range or name is wrong.
        """
        if not any(image):
            return None
        _verify(image, cls.SEAL_AT, "arena slot", offset)
        return cls.read(image, offset)

    @classmethod
    def read(cls, image: bytes, offset: int) -> Self:
        """Read the slot at `offset` of the file, which is in use and whose seal is right."""
        state, strategy, first_unit, end_unit, length, name = cls._FORMAT.unpack_from(image)
        if first_unit > end_unit or end_unit > ARENA_UNITS_MOST:
            raise damaged("arena slot", offset, "a unit range", "ascending", (first_unit, end_unit))
        if state not in {ArenaState.LIVE, ArenaState.DROPPED}:
            raise damaged("arena slot", offset, "state", "1 or 2", state)
        if any(strategy) and not is_strategy(strategy):
            expected = (
                f"zeros, {StrategyCode.RING:02x} and zeros, or {StrategyCode.ROWS:02x}0000 and "
                "granules of a row"
            )
            raise damaged("arena slot", offset, "strategy", expected, strategy.hex())
        name = _decode(name[:length], "arena slot", offset)
        return cls(first_unit, end_unit, name, strategy, ArenaState(state))


@dataclass(frozen=True)
class RootSlot:
    """One slot of the root table: a named heap offset.

    `copy` is the offset of a block with the bytes of the named one as of the last commit, which is
    there as long as the heap has readers in other processes; 0 without one.
    """

    name: str
    off: int
    copy: int = 0

    SEAL_AT: ClassVar = place("ph_root_slot", "crc")
    _FORMAT = struct.Struct("<QQIB43s")

    def pack(self) -> bytes:
        """Return the 64 bytes of it."""
        image = bytearray(SLOT_BYTES)
        name = self.name.encode()
        self._FORMAT.pack_into(image, 0, self.off, self.copy, 0, len(name), name)
        return _seal(image, self.SEAL_AT)

    @classmethod
    def unpack(cls, image: bytes, offset: int) -> Self | None:
        """Read the slot at `offset` of the file; None if it is empty.

        Raises
        ------
        CorruptHeapError
            Checksum or name is wrong.
        """
        if not any(image):
            return None
        _verify(image, cls.SEAL_AT, "root slot", offset)
        return cls.read(image, offset)

    @classmethod
    def read(cls, image: bytes, offset: int) -> Self:
        """Read the slot at `offset` of the file, which is in use and whose seal is right."""
        off, copy, _, name_length, name = cls._FORMAT.unpack_from(image)
        if copy % GRANULE or copy >> ARENA_BITS:
            raise damaged("root slot", offset, "copy", "a block of the default arena", hex(copy))
        return cls(_decode(name[:name_length], "root slot", offset), off, copy)


def _decode(name: bytes, thing: str, offset: int) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise damaged(thing, offset, "a name", "UTF-8", name) from None
