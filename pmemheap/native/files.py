"""Files: their bytes, blocks, locks and syncs, and the table of the heap files of this process."""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from pmemheap._core._sys import ffi, lib
from pmemheap.native.failures import check

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "HUGETLBFS",
    "OVERLAY",
    "TMPFS",
    "Allocate",
    "FileStatus",
    "Lock",
    "cached",
    "fallocate",
    "fdatasync",
    "file_flags",
    "file_is_lost",
    "file_is_own",
    "filesystem_type",
    "find_lock",
    "fstat",
    "fsync",
    "ftruncate",
    "is_dax",
    "late_clock",
    "lock_byte",
    "memfd_create",
    "pread",
    "pread_into",
    "probe_lock",
    "pwrite",
    "register_file",
    "release_file",
    "sync_part",
]


HUGETLBFS = 0x958458F6
TMPFS = 0x01021994
OVERLAY = 0x794C7630
_NO_LOCK = (1 << 63) - 1
_NOT_TOLD = (-errno.ENOSYS, -errno.EOPNOTSUPP, -errno.EPERM)


class Allocate(IntEnum):
    """Modes of `fallocate` for a range of a file."""

    EXTEND = lib.PH_ALLOCATE_EXTEND
    KEEP_SIZE = lib.PH_ALLOCATE_KEEP_SIZE
    PUNCH_HOLE = lib.PH_ALLOCATE_PUNCH_HOLE
    ZERO_RANGE = lib.PH_ALLOCATE_ZERO_RANGE


class Lock(IntEnum):
    """How one byte of a file is locked by an open file description."""

    NONE = lib.PH_LOCK_NONE
    READ = lib.PH_LOCK_READ
    WRITE = lib.PH_LOCK_WRITE


class FileStatus(NamedTuple):
    """The result of `fstat`: sizes in bytes, `special_device` as (major, minor) of a device file.

    `links` is the number of names; `birth` is when the file was made, in nanoseconds since 1970, 0
    where the file system does not know.
    """

    size: int
    allocated: int
    device: int
    inode: int
    links: int
    birth: int
    mode: int
    block_size: int
    special_device: tuple[int, int]


def fstat(fd: int) -> FileStatus:
    """Return size, allocated bytes and identity of an open file."""
    raw = ffi.new("struct ph_stat *")
    check(lib.ph_stat(fd, raw), "fstat")
    special_device = divmod(raw.special_device, 1 << 32)
    return FileStatus(
        raw.size, raw.blocks, raw.device, raw.inode, raw.links, raw.birth, raw.mode, raw.block_size,
        special_device,
    )  # fmt: skip


def is_dax(fd: int) -> bool:
    """Tell whether the file's pages are its storage: whether MAP_SYNC has a chance."""
    return bool(check(lib.ph_is_dax(fd), "is_dax"))


def filesystem_type(fd: int) -> int:
    """Return the magic number of the file's file system: `TMPFS` for tmpfs and memfd."""
    return check(lib.ph_filesystem_type(fd), "filesystem_type")


def file_flags(fd: int) -> int:
    """Return the flags a file was opened with: ``flags & os.O_ACCMODE`` is the access."""
    return check(lib.ph_file_flags(fd), "file_flags")


def fallocate(fd: int, offset: int, length: int, mode: Allocate = Allocate.EXTEND) -> None:
    """Give a range of a file its blocks, or take them.

    Raises
    ------
    NativeError
        ENOSPC: no room, EOPNOTSUPP: not by this file system. The size is as before; blocks may have
        been added.
    """
    check(lib.ph_allocate(fd, offset, length, mode), "fallocate")


def ftruncate(fd: int, length: int) -> None:
    """Set the size of a file; what is new reads zero and has no blocks."""
    check(lib.ph_truncate(fd, length), "ftruncate")


def sync_part(fd: int, offset: int, length: int) -> None:
    """Wait until whole pages of a file are durable, and until the file reaches so far."""
    check(lib.ph_sync_part(fd, offset, length), "msync")


def fsync(fd: int) -> None:
    """Wait until data, size and all else that `fstat` tells of a file are durable."""
    check(lib.ph_sync_all(fd), "fsync")


def fdatasync(fd: int) -> None:
    """Wait until the data of a file are durable, and the size if it is needed to read them."""
    check(lib.ph_sync_data(fd), "fdatasync")


def cached(fd: int, offset: int, length: int = 0) -> int | None:
    """Return how many pages of a range of a file are in memory, or None if that is not told.

    Parameters
    ----------
    offset, length : int
        Multiples of a page. A length of 0 reaches to the end: that an older system, or a file
        system over others, does not tell.
    """
    result = -errno.ENOSYS
    if filesystem_type(fd) != OVERLAY:  # whose files have their pages elsewhere
        result = lib.ph_cached(fd, offset, length)
    if result in _NOT_TOLD and length:
        result = lib.ph_cached_by_map(fd, offset, length)
    return None if result in _NOT_TOLD else check(result, "cached")


def pread_into(fd: int, buffer: Buffer, offset: int) -> int:
    """Fill `buffer` from a file; return the bytes read, fewer than asked only at the file's end."""
    with ffi.from_buffer(buffer, require_writable=True) as raw:
        return check(lib.ph_read(fd, raw, len(raw), offset), "pread")


def pread(fd: int, length: int, offset: int) -> bytes:
    """Return `length` bytes of a file, fewer only at its end."""
    buffer = bytearray(length)
    return bytes(buffer[: pread_into(fd, buffer, offset)])


def pwrite(fd: int, data: Buffer, offset: int) -> None:
    """Write all of `data` to a file at `offset`.

    Raises
    ------
    NativeError
        Part of it may have been written.
    """
    with ffi.from_buffer(data) as raw:
        check(lib.ph_write(fd, raw, len(raw), offset), "pwrite")


def lock_byte(fd: int, position: int, lock: Lock) -> bool:
    """Take, change or drop the lock of an open file description on one byte, without waiting.

    Returns
    -------
    bool
        False when another open file description holds a lock that stands in the way; nothing has
        changed.
    """
    result = lib.ph_lock_byte(fd, position, lock)
    if result in {-errno.EAGAIN, -errno.EACCES}:
        return False
    check(result, "lock_byte")
    return True


def probe_lock(fd: int, position: int, lock: Lock = Lock.WRITE) -> Lock:
    """Return the lock of others that stands in the way of `lock` on a byte, or ``Lock.NONE``."""
    return Lock(check(lib.ph_probe_lock(fd, position, lock), "probe_lock"))


def find_lock(fd: int, position: int, length: int) -> int | None:
    """Return where a lock of others begins that touches a range of bytes; None: there is none."""
    found = check(lib.ph_find_lock(fd, position, length), "find_lock")
    return None if found == _NO_LOCK else found


def late_clock() -> float:
    """Return seconds of the clock by which writers count leases; it is late, the same for all."""
    return float(lib.ph_now()) * 1e-9


def memfd_create(name: str) -> int:
    """Return a descriptor of a new memory file of size 0 that can be sealed; closed on exec."""
    return check(lib.ph_memory_file(name.encode()), "memfd_create")


def register_file(fd: int, path: str | None, *, readonly: bool) -> tuple[int, int]:
    """Enter an open file that will be mapped: a fork gives it up in the child.

    Parameters
    ----------
    fd : int
        The caller closes it, after `release_file`.
    path : str, optional
        Where the file may be found where there is no /proc.

    Returns
    -------
    tuple of (int, int)
        The number of the file, which no other one gets, and a descriptor to lock it by, which is
        never mapped and belongs to the table; `fd` itself if no other one could be had.

    Raises
    ------
    NativeError
        No descriptor or no memory is left.
    """
    lock_fd = ffi.new("int32_t *")
    flags = os.O_RDONLY if readonly else os.O_RDWR
    name = ffi.NULL if path is None else os.fsencode(path)
    number = check(lib.ph_file_register(fd, flags, name, lock_fd), "register_file")
    return number, fd if lock_fd[0] < 0 else lock_fd[0]


def release_file(number: int, *, keep: bool) -> None:
    """Let the locks of a file go, before its descriptor is closed.

    Parameters
    ----------
    keep : bool
        Views are left: keep a duplicate of the descriptor until they have gone, so that a child can
        have what they show for itself.
    """
    lib.ph_file_release(number, keep)


def file_is_own(number: int) -> bool:
    """Tell whether this process has entered a file, and not one that it is a fork of."""
    return bool(lib.ph_file_is_own(number))


def file_is_lost(number: int) -> bool:
    """Tell whether a map of a file has met a page that the file does not have any more."""
    return bool(lib.ph_file_is_lost(number))
