"""Superblock: the record from which the rest of a heap file is found, in two copies.

    0x00000  copy A     one sector each; the valid one with the greater generation counts,
    0x01000  copy B     and the next generation is written to the other one

It says what the file is, where its log lies, and for whom it is open.
"""

from __future__ import annotations

import os
import struct
from typing import Self

from pmemheap.dataclass import dataclass, replace
from pmemheap.errors import CorruptHeapError
from pmemheap.format.layout import (
    BACKUP_NAME_BYTES,
    HAS_PACKED,
    HAS_ROWS,
    MAGIC,
    SUPERBLOCK_BYTES,
    SUPERBLOCKS,
    UNDER_REPAIR,
    VERSION,
    Durability,
    FileIdentity,
    HeapState,
    damaged,
)
from pmemheap.native import crc32c, crc32c_but
from pmemheap.native.constants import place

__all__ = ["COUNTS_END", "Superblock", "newest_superblock"]

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
_UNKNOWN_FILE = FileIdentity()


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
    file: FileIdentity = _UNKNOWN_FILE

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
        """Return the copy at `offset` of the file.

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
        """Return the copy at `offset` of the file, whatever features it has; errors as `unpack`."""
        thing = "superblock"
        if len(image) < SUPERBLOCK_BYTES:
            raise damaged(thing, offset, "length", SUPERBLOCK_BYTES, len(image))
        fields = _SUPERBLOCK.unpack_from(image)
        if fields[0] != MAGIC:
            raise damaged(thing, offset, "magic", MAGIC, fields[0])
        if fields[1] != VERSION:
            raise damaged(thing, offset, "version", VERSION, _other_version(fields[1]))
        crc = crc32c_but(image[:SUPERBLOCK_BYTES], _CRC_AT)
        if fields[2] != crc:
            raise damaged(thing, offset, "crc32c", f"{crc:#010x}", f"{fields[2]:#010x}")
        if fields[5] not in _DURABILITIES or fields[6] not in _STATES:
            raise damaged(thing, offset, "durability and state", "0 or 1", fields[5:7])
        tail_lsn, epoch, seed, _, boot_id = _LOG_POSITION.unpack_from(image, _LOG_POSITION_AT)
        if max(fields[3], epoch) >= COUNTS_END:
            raise damaged(thing, offset, "generation and epoch", "below 2^62", (fields[3], epoch))
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
        return self.features_incompat & ~(UNDER_REPAIR | HAS_ROWS | HAS_PACKED)

    def require_known_features(self, offset: int) -> None:
        """Raise CorruptHeapError for features that a reader has to know, and this one does not."""
        if self.unknown_features:
            found = f"{self.features_incompat:#x}"
            raise damaged("superblock", offset, "incompatible features", 0, found)

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
        made = replace(self, generation=self.generation + 1, **changes)
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
