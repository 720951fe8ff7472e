"""Layout: where everything lies in a heap file, and what its fixed records look like. Format 1.

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

import os
import struct
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pmemheap.errors import CorruptHeapError
from pmemheap.native import crc32c, crc32c_but
from pmemheap.native.constants import (
    ArenaState,
    Durability,
    Format,
    HeapState,
    SegmentKind,
    Table,
    place,
    width,
)
from pmemheap.units import UNIT

__all__ = [
    "ARENA_BITS",
    "ARENA_NAME_BYTES",
    "ARENA_SLOTS",
    "ARENA_TABLE",
    "ARENA_UNITS_MOST",
    "BACKUP_NAME_BYTES",
    "BITS_WIDTH",
    "COUNTS_END",
    "DATA_WIDTH",
    "ENTRY_WIDTH",
    "HEADER_BYTES",
    "LOCK_READER",
    "LOCK_WRITER",
    "LOG_BYTES",
    "MAGIC",
    "ROOT_NAME_BYTES",
    "ROOT_SLOTS",
    "ROOT_TABLE",
    "SEGMENT_SLOTS",
    "SEGMENT_TABLE",
    "SEGMENT_UNITS",
    "SHARED_WRITER_PID",
    "SLOT_BYTES",
    "SUPERBLOCKS",
    "SUPERBLOCK_BYTES",
    "UNDER_REPAIR",
    "UNIT_BYTES_IN_FILE",
    "ArenaSlot",
    "ArenaState",
    "Durability",
    "FileIdentity",
    "HeapState",
    "RootSlot",
    "SegmentKind",
    "SegmentSlot",
    "SlotImage",
    "Superblock",
    "Table",
    "newest_superblock",
    "slot_offset",
    "spare_slot",
]

MAGIC = b"PMEMHEAP"
VERSION = Format.VERSION
SUPERBLOCKS = Format.SUPERBLOCKS
SUPERBLOCK_BYTES = width("ph_superblock")
SHARED_PAGE = Format.SHARED
SHARED_WRITER_PID = SHARED_PAGE + place("ph_shared_page", "writer_pid")
LOCK_WRITER, LOCK_READER = Format.LOCK_WRITER, Format.LOCK_READER
SEGMENT_TABLE, SEGMENT_SLOTS = Format.SEGMENTS, Format.SEGMENT_SLOTS
ARENA_TABLE, ARENA_SLOTS = Format.ARENAS, Format.ARENA_SLOTS
ROOT_TABLE, ROOT_SLOTS = Format.ROOTS, Format.ROOT_SLOTS
HEADER_BYTES = Format.HEADER
SLOT_BYTES = Format.SLOT
ROOT_NAME_BYTES = SLOT_BYTES - place("ph_root_slot", "name")
LOG_BYTES = Format.LOG
ARENA_NAME_BYTES = place("ph_arena_slot", "zeros") - place("ph_arena_slot", "name")
ARENA_BITS = Format.ARENA_BITS
ARENA_UNITS_MOST = (1 << ARENA_BITS) // UNIT
BACKUP_NAME_BYTES = place("ph_superblock", "zeros") - place("ph_superblock", "backup")
UNDER_REPAIR = Format.UNDER_REPAIR
"""Feature of a superblock: a repair is at work; its backup has the bytes that it changes."""

SEGMENT_UNITS = Format.SEGMENT_UNITS
"""Capacities of data segments are multiples of this."""

ENTRY_WIDTH, BITS_WIDTH, DATA_WIDTH = Format.ENTRY, Format.BITS, UNIT
"""Bytes that one unit takes in each of the three parts of a segment."""

UNIT_BYTES_IN_FILE = ENTRY_WIDTH + BITS_WIDTH + DATA_WIDTH


SlotImage = tuple[Table, int, bytes]
"""A change of one slot of the header: table, index, and all 64 bytes of it."""

_TABLE_OFFSETS = {
    Table.ROOTS: ROOT_TABLE,
    Table.SEGMENTS: SEGMENT_TABLE,
    Table.ARENAS: ARENA_TABLE,
}


def slot_offset(table: Table, index: int) -> int:
    """Return the file offset of a slot of the root, segment or arena table."""
    return _TABLE_OFFSETS[table] + index * SLOT_BYTES


def _damaged(
    thing: str, offset: int, what: str, expected: object, found: object
) -> CorruptHeapError:
    return CorruptHeapError(
        f"{thing} at file offset {offset:#x}: {what} {expected} expected, {found} found"
    )


# ---------------------------------------------------------------- superblock

COUNTS_END = 1 << 62
"""Generation and epoch lie below it: both count, and would not get there."""

_SUPERBLOCK = struct.Struct("<8sIIQ16sIIQQQQQQ")
_IDENTITY = struct.Struct("<QQQ")
_IDENTITY_AT = place("ph_superblock", "birth")
_LOG_POSITION = struct.Struct("<QQII16s")
_LOG_POSITION_AT = place("ph_superblock", "tail_lsn")
_BACKUP = struct.Struct(f"<B{BACKUP_NAME_BYTES}s")
_BACKUP_AT = place("ph_superblock", "backup_length")
_CRC_AT = place("ph_superblock", "crc")
_DURABILITIES, _STATES = frozenset(map(int, Durability)), frozenset(map(int, HeapState))


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


@dataclass(frozen=True)
class Superblock:
    """One copy of the superblock; offsets and sizes in bytes of the file.

    `file` is the one in which the heap is open; unknown, if it was closed. `limit` is the length
    that the file may grow to, 0 without one. `backup` is the name of the file that undoes a repair,
    while that is at work.
    """

    generation: int
    uuid: bytes
    durability: Durability
    state: HeapState
    file_end: int
    log_off: int
    log_size: int
    tail_lsn: int
    epoch: int
    boot_id: bytes
    chain_seed: int = 0
    features_incompat: int = 0
    features_compat: int = 0
    limit: int = 0
    backup: str = ""
    file: FileIdentity = FileIdentity()

    def pack(self) -> bytes:
        """Return the 512 bytes of it, checksum included."""
        image = bytearray(SUPERBLOCK_BYTES)
        _SUPERBLOCK.pack_into(
            image, 0, MAGIC, VERSION, 0, self.generation, self.uuid, self.durability, self.state,
            self.features_incompat, self.features_compat, self.file_end, self.log_off,
            self.log_size, self.limit,
        )  # fmt: skip
        identity = self.file
        _IDENTITY.pack_into(image, _IDENTITY_AT, identity.birth, identity.inode, identity.device)
        _LOG_POSITION.pack_into(
            image, _LOG_POSITION_AT, self.tail_lsn, self.epoch, self.chain_seed, 0, self.boot_id
        )
        name = os.fsencode(self.backup)
        _BACKUP.pack_into(image, _BACKUP_AT, len(name), name)
        struct.pack_into("<I", image, _CRC_AT, crc32c(image))
        return bytes(image)

    @classmethod
    def unpack(cls, image: bytes, offset: int) -> Self:
        """Read the copy at `offset` of the file.

        Raises
        ------
        CorruptHeapError
            Magic, version, checksum or a field is wrong, or it has features that are unknown here.
        """
        found = cls.unpack_any(image, offset)
        found.require_known_features(offset)
        return found

    @classmethod
    def unpack_any(cls, image: bytes, offset: int) -> Self:
        """Read the copy at `offset` of the file, whatever features it has; errors as `unpack`."""
        thing = "superblock"
        if len(image) < SUPERBLOCK_BYTES:
            raise _damaged(thing, offset, "length", SUPERBLOCK_BYTES, len(image))
        fields = _SUPERBLOCK.unpack_from(image)
        if fields[0] != MAGIC:
            raise _damaged(thing, offset, "magic", MAGIC, fields[0])
        if fields[1] != VERSION:
            raise _damaged(thing, offset, "version", VERSION, _other_version(fields[1]))
        crc = crc32c_but(image[:SUPERBLOCK_BYTES], _CRC_AT)
        if fields[2] != crc:
            raise _damaged(thing, offset, "crc32c", f"{crc:#010x}", f"{fields[2]:#010x}")
        if fields[5] not in _DURABILITIES or fields[6] not in _STATES:
            raise _damaged(thing, offset, "durability and state", "0 or 1", fields[5:7])
        tail_lsn, epoch, seed, _, boot_id = _LOG_POSITION.unpack_from(image, _LOG_POSITION_AT)
        if max(fields[3], epoch) >= COUNTS_END:
            raise _damaged(thing, offset, "generation and epoch", "below 2^62", (fields[3], epoch))
        length, name = _BACKUP.unpack_from(image, _BACKUP_AT)
        return cls(
            generation=fields[3], uuid=fields[4], durability=Durability(fields[5]),
            state=HeapState(fields[6]), features_incompat=fields[7], features_compat=fields[8],
            file_end=fields[9], log_off=fields[10], log_size=fields[11], limit=fields[12],
            tail_lsn=tail_lsn, epoch=epoch, chain_seed=seed, boot_id=boot_id,
            backup=os.fsdecode(name[:length]),
            file=FileIdentity(*_IDENTITY.unpack_from(image, _IDENTITY_AT)),
        )  # fmt: skip

    @property
    def unknown_features(self) -> int:
        """Features that a reader has to know, and this one does not."""
        return self.features_incompat & ~UNDER_REPAIR

    def require_known_features(self, offset: int) -> None:
        """Raise CorruptHeapError for features that a reader has to know, and this one does not."""
        if self.unknown_features:
            found = f"{self.features_incompat:#x}"
            raise _damaged("superblock", offset, "incompatible features", 0, found)

    @property
    def is_under_repair(self) -> bool:
        """Whether a repair had begun when it was written, and had not ended."""
        return bool(self.features_incompat & UNDER_REPAIR)

    def successor(self, **changes: object) -> Self:
        """Return the next generation of it, for the other copy.

        Raises
        ------
        CorruptHeapError
            Generation or epoch are as great as no heap makes them: nobody could read the next.
        """
        made = replace(self, generation=self.generation + 1, **changes)  # type: ignore[arg-type]
        if max(made.generation, made.epoch) >= COUNTS_END:
            raise CorruptHeapError(
                "superblock: generation and epoch that can be counted on, below 2^62, expected, "
                f"found {self.generation} and {self.epoch}"
            )
        return made


def _other_version(version: int) -> str:
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    return f"{version} (a file of the other byte order)" if swapped == VERSION else str(version)


def newest_superblock(images: tuple[bytes, bytes]) -> tuple[Superblock, int]:
    """Return the valid copy with the greater generation, and which of the two it is.

    Raises
    ------
    CorruptHeapError
        Neither is valid; the message is that of the first copy. Or the file has features that are
        not known here, or parts of an unfinished repair.
    """
    found: list[tuple[Superblock, int]] = []
    problem: CorruptHeapError | None = None
    for index, image in enumerate(images):
        try:
            found.append((Superblock.unpack_any(image, SUPERBLOCKS[index]), index))
        except CorruptHeapError as error:
            problem = problem or error
    if not found:
        assert problem is not None
        raise problem
    newest, index = max(found, key=lambda copy: copy[0].generation)
    _require_usable(newest, SUPERBLOCKS[index])
    return newest, index


def _require_usable(newest: Superblock, offset: int) -> None:
    """Refuse a file that has to be read otherwise, or not yet: the older copy is no way around."""
    newest.require_known_features(offset)
    if newest.is_under_repair:
        raise CorruptHeapError(
            f"superblock at file offset {offset:#x}: a heap that is not under repair expected, a "
            f"repair found that was ended in the middle; its backup is {newest.backup!r}: "
            "`pmemheap repair --undo` takes it back with that, `--apply` does it again"
        )


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
        raise _damaged(thing, offset, "crc32c", f"{crc:#010x}", f"{stored:#010x}")


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
        return self.bits_off + self.capacity * BITS_WIDTH

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
            raise _damaged("segment slot", offset, "kind", "1, 2 or 3", number)
        return cls(kind, file_off, capacity, arena, first_unit, nunits)


_KINDS = {int(kind): kind for kind in SegmentKind if kind != SegmentKind.NONE}
_SEGMENT_BYTES_LEAST = SEGMENT_UNITS * UNIT_BYTES_IN_FILE


def spare_slot(file_off: int, file_bytes: int) -> SegmentSlot:
    """Return the slot of whole pages of the file that belong to nobody."""
    segments, rest = divmod(file_bytes, _SEGMENT_BYTES_LEAST)
    return SegmentSlot(SegmentKind.SPARE, file_off, segments * SEGMENT_UNITS, nunits=rest // UNIT)


@dataclass(frozen=True)
class ArenaSlot:
    """One slot of the arena table: the live units ``[first_unit, end_unit)`` of an arena."""

    first_unit: int
    end_unit: int
    name: str = ""
    strategy: bytes = bytes(7)
    state: ArenaState = ArenaState.LIVE

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
            raise _damaged(
                "arena slot", offset, "a unit range", "ascending", (first_unit, end_unit)
            )
        if state not in {ArenaState.LIVE, ArenaState.DROPPED}:
            raise _damaged("arena slot", offset, "state", "1 or 2", state)
        name = _decode(name[:length], "arena slot", offset)
        return cls(first_unit, end_unit, name, strategy, ArenaState(state))


@dataclass(frozen=True)
class RootSlot:
    """One slot of the root table: a named heap offset."""

    name: str
    off: int
    len: int = 0

    SEAL_AT: ClassVar = place("ph_root_slot", "crc")
    _FORMAT = struct.Struct("<QQIB43s")

    def pack(self) -> bytes:
        """Return the 64 bytes of it."""
        image = bytearray(SLOT_BYTES)
        name = self.name.encode()
        self._FORMAT.pack_into(image, 0, self.off, self.len, 0, len(name), name)
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
        off, length, _, name_length, name = cls._FORMAT.unpack_from(image)
        return cls(_decode(name[:name_length], "root slot", offset), off, length)


def _decode(name: bytes, thing: str, offset: int) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise _damaged(thing, offset, "a name", "UTF-8", name) from None
