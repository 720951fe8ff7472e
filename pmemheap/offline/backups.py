"""Backups: the bytes that a repair changes, as they were, in a file beside the heap.

    header   magic, crc, size of the heap file, uuid, generations before and after, how many ranges
    range    offset, length, crc, bytes        the superblocks are the first two

    repair   backup durable -> superblock "under repair", with its name -> all else -> superblocks
    undo     superblock "under repair" -> all else -> superblocks as they were

While a file is under repair nobody opens it: what it was before is in the backup as a whole. So
kills and power failures leave the file as it was, as it is to be, or with what takes it back. The
mark goes over the copy of the superblock that did not count before, so that one that counts is
whole at every instant.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pmemheap.errors import CorruptHeapError
from pmemheap.file.naming import new_file
from pmemheap.format import layout
from pmemheap.format.superblock import Superblock, newest_superblock
from pmemheap.native import crc32c, fsync, pwrite
from pmemheap.offline.findings import Edit
from pmemheap.offline.image import Disk, Image, disk_of

__all__ = ["Backup", "backup_of", "newest_copy", "unfinished"]

_MAGIC = b"PMEMUNDO"
_HEADER = struct.Struct("<8sI4xQ16sQQQ")
_CHECKED_FROM = 12
_RANGE = struct.Struct("<QII")
_SUPERBLOCK_RANGES = [(at, layout.SUPERBLOCK_BYTES) for at in layout.SUPERBLOCKS]


@dataclass(frozen=True)
class Backup:
    """The bytes of a heap file before a repair.

    Attributes
    ----------
    size : int
        Length of the file.
    uuid : bytes
        Of the heap.
    before, after : int
        Generation of its superblock before the repair, and of the first one after it.
    ranges : tuple of Edit
        What the repair changes, as it was; both superblocks come first.
    """

    size: int
    uuid: bytes
    before: int
    after: int
    ranges: tuple[Edit, ...]

    @classmethod
    def of(
        cls, disk: Disk, before: Superblock, after: int, ranges: Iterable[tuple[int, int]]
    ) -> Backup:
        """Return the backup of ranges of a file, ``(offset, length)``."""
        places = [*_SUPERBLOCK_RANGES, *ranges]
        kept = tuple(Edit(offset, disk.read(offset, length)) for offset, length in places)
        return cls(disk.size, before.uuid, before.generation, after, kept)

    @property
    def mark_place(self) -> int:
        """Which copy of the superblock did not count: the place for the mark."""
        first, second = self.ranges[:2]
        return 1 - newest_superblock((first.data, second.data))[1]

    def is_for(self, superblock: Superblock) -> bool:
        """Tell whether a file is as this repair has left it, or in the middle of it or its undo."""
        if superblock.uuid != self.uuid:
            return False
        if superblock.is_under_repair:
            return superblock.generation in {self.before + 1, self.after + 2}
        return superblock.generation in {self.after, self.after + 1}

    def is_undone(self, disk: Disk) -> bool:
        """Tell whether a file is what it was."""
        ranges = self.ranges
        return disk.size == self.size and all(
            disk.read(edit.offset, len(edit.data)) == edit.data for edit in ranges
        )

    def write(self, path: Path) -> None:
        """Make the file, with its name as the last step; OSError with nothing left."""
        with new_file("backup", path) as temporary:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                self._write_all(fd)
                fsync(fd)
            finally:
                os.close(fd)

    def _write_all(self, fd: int) -> None:
        fields = (self.size, self.uuid, self.before, self.after, len(self.ranges))
        crc = crc32c(_HEADER.pack(_MAGIC, 0, *fields)[_CHECKED_FROM:])
        pwrite(fd, _HEADER.pack(_MAGIC, crc, *fields), 0)
        at = _HEADER.size
        for edit in self.ranges:
            pwrite(fd, _RANGE.pack(edit.offset, len(edit.data), crc32c(edit.data)) + edit.data, at)
            at += _RANGE.size + len(edit.data)

    @classmethod
    def read(cls, path: Path) -> Backup:
        """Read a whole backup.

        Raises
        ------
        CorruptHeapError
            It is damaged, cut, or no backup.
        OSError
            It cannot be read.
        """
        data, name = path.read_bytes(), str(path)
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise CorruptHeapError(
                f"backup {name!r}: magic {_MAGIC!r} expected, {data[:8]!r} found"
            )
        _, crc, size, uuid, before, after, count = _HEADER.unpack_from(data)
        if crc32c(data[_CHECKED_FROM : _HEADER.size]) != crc:
            raise CorruptHeapError(f"backup {name!r}: a header with its checksum expected, none")
        at = _HEADER.size
        ranges: list[Edit] = []
        for _ in range(count):
            edit = _range_at(data, at)
            if edit is None:
                raise CorruptHeapError(
                    f"backup {name!r}: {count} whole ranges expected, {len(ranges)} found before "
                    f"offset {at}"
                )
            ranges.append(edit)
            at += _RANGE.size + len(edit.data)
        return cls(size, uuid, before, after, tuple(ranges))


def _range_at(data: bytes, at: int) -> Edit | None:
    if len(data) - at < _RANGE.size:
        return None
    offset, length, crc = _RANGE.unpack_from(data, at)
    start = at + _RANGE.size
    old = data[start : start + length]
    return Edit(offset, old) if len(old) == length and crc32c(old) == crc else None


# ---------------------------------------------------------------- files under repair


def newest_copy(image: Image) -> Superblock | None:
    """Return the superblock that counts, also of a file under repair; None without one."""
    copies = []
    for at in layout.SUPERBLOCKS:
        try:
            copies.append(Superblock.unpack_any(image.read(at, layout.SUPERBLOCK_BYTES), at))
        except CorruptHeapError:
            continue
    return max(copies, key=lambda copy: copy.generation, default=None)


def unfinished(image: Image) -> Superblock | None:
    """Return the superblock of a file that says that it is under repair."""
    newest = newest_copy(image)
    return newest if newest is not None and newest.is_under_repair else None


def backup_of(image: Image, mark: Superblock) -> Backup | None:
    """Return the backup that a file under repair names, if it lies beside it and is whole."""
    disk = disk_of(image)
    if disk is None or disk.path is None or os.path.basename(mark.backup) != mark.backup:
        return None
    try:
        backup = Backup.read(disk.path.with_name(mark.backup))
    except (CorruptHeapError, OSError, ValueError):
        return None
    return backup if backup.is_for(mark) else None
