"""Snapshotting: a copy of a heap file while the heap is open, which opens as a closed heap.

    live file    | header | log | entries | bits | data ....   . hole . |    nobody stores to it now
    temporary    clone, or range by range, holes stay holes
                 both superblocks: state CLEAN, a new epoch; blocks for header, log and tables
    path         synced, given its name, the directory synced

The caller keeps changes out and has brought everything home: after a checkpoint, under the commit
lock. A copy keeps the identity of its heap, as a copy made by ``cp`` would, unless a new one
is asked for.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from pmemheap import native
from pmemheap.dataclass import replace
from pmemheap.errors import UsageError
from pmemheap.file.headerfile import next_epoch
from pmemheap.file.naming import give_name, place_of, require_place, temporary_name
from pmemheap.format import layout
from pmemheap.format.header import read_superblock
from pmemheap.format.layout import FileIdentity, HeapState, SegmentKind, SegmentSlot
from pmemheap.format.superblock import Superblock
from pmemheap.native import NativeError
from pmemheap.progress import Progress, Steps

__all__ = ["CopyMethod", "copy_heap_file"]

_FICLONE = 0x40049409
_COPIED_AT_ONCE = 1 << 20
_COPIED_BY_KERNEL = 1 << 26
_ATTEMPTS = 3
_CANNOT = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
)


class CopyMethod(StrEnum):
    """How the bytes were copied."""

    CLONE = "clone"
    RANGES = "ranges"
    BYTES = "bytes"


def copy_heap_file(  # noqa: PLR0913 -- what the heap is, and how
    fd: int,
    path: Path,
    superblock: Superblock,
    segments: Collection[SegmentSlot],
    file_end: int,
    *,
    require_ours: Callable[[str], None],
    recover: Callable[[Path], None] | None = None,
    new_identity: bool = False,
    replace_file: bool = False,
    progress: Progress | None = None,
) -> CopyMethod:
    """Copy an open heap file to `path`.

    Parameters
    ----------
    fd : int
        The file; nobody stores to it until this returns, and the log is empty.
    superblock, segments, file_end
        What its header says.
    require_ours : callable
        Raises if somebody else has changed the file, so that the copy is none.
    recover : callable, optional
        Opens the heap in a file, and closes it: for the copy of one whose log is not empty.
    new_identity : bool
        Give the copy a uuid of its own.
    replace_file : bool
        Put it in the place of a file that is there.
    progress : Progress, optional
        Is told of the bytes of the file.

    Raises
    ------
    HeapExistsError, HeapNotFoundError, HeapBusyError
        A file is there; its directory is not; somebody has the heap open that is to be replaced.
    OSError
        No room, or the medium failed; nothing is left at `path` that was not there before.
    """
    require_place("snapshot", path, replace_file=replace_file)
    place = place_of(path)
    temporary = temporary_name(place)
    mode = os.fstat(fd).st_mode & 0o777
    target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode or 0o600)
    try:
        try:
            method = _copy_quietly(fd, target, file_end, [*segments], progress)
            require_ours("snapshot")
            if recover is not None:
                superblock = _recovered(target, temporary, superblock, recover)
                file_end = superblock.file_end
            _close_heap(target, superblock, file_end, new_identity=new_identity)
            _back(target, _stored_in_place(segments), cloned=method == CopyMethod.CLONE)
            native.fsync(target)
        finally:
            os.close(target)
        give_name("snapshot", temporary, place, replace_file=replace_file)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return method


# ---------------------------------------------------------------- bytes


def _copy_quietly(
    source: int, target: int, length: int, segments: Collection[SegmentSlot],
    progress: Progress | None,
) -> CopyMethod:  # fmt: skip
    """Copy, again if somebody has allocated or freed meanwhile."""
    for _ in range(_ATTEMPTS):
        steps = Steps(progress, length)
        method = _copy_bytes(source, target, length, steps)
        steps.end()
        if all(_are_equal(source, target, *part) for part in _tables(segments)):
            return method
        native.ftruncate(target, 0)
    raise UsageError("a heap that nobody changes expected, it was changed all the time")


def _are_equal(source: int, target: int, offset: int, length: int) -> bool:
    return all(
        native.pread(source, size, at) == native.pread(target, size, at)
        for start, stop in _data_ranges(source, offset + length, offset)
        for at in range(start, stop, _COPIED_AT_ONCE)
        for size in [min(_COPIED_AT_ONCE, stop - at)]
    )


def _copy_bytes(source: int, target: int, length: int, steps: Steps) -> CopyMethod:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    else:
        native.ftruncate(target, length)
        return CopyMethod.CLONE
    native.ftruncate(target, length)
    method = CopyMethod.RANGES
    for start, stop in _data_ranges(source, length):
        at = start
        if method == CopyMethod.RANGES:
            at = _copy_range(source, target, start, stop, steps)
        if at < stop:
            method = CopyMethod.BYTES
            _transfer(source, target, at, stop, steps)
    return method


def _data_ranges(fd: int, end: int, at: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file up to `end` that are no holes."""
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            start, stop = at, end
        if start >= end:
            return
        yield start, min(stop, end)
        at = stop


def _copy_range(source: int, target: int, start: int, stop: int, steps: Steps) -> int:
    """Let the kernel copy a range; return how far it came."""
    at = start
    while at < stop:
        try:
            wanted = min(_COPIED_BY_KERNEL, stop - at)
            count = os.copy_file_range(source, target, wanted, at, at)
        except OSError as error:
            if error.errno in _CANNOT:
                return at
            raise
        if count == 0:
            return at
        at += count
        steps.reached(at)
    return at


def _transfer(source: int, target: int, start: int, stop: int, steps: Steps | None = None) -> None:
    for at in range(start, stop, _COPIED_AT_ONCE):
        data = native.pread(source, min(_COPIED_AT_ONCE, stop - at), at)
        native.pwrite(target, data, at)
        if steps is not None:
            steps.reached(at)


# ---------------------------------------------------------------- the heap in it


def _close_heap(fd: int, superblock: Superblock, file_end: int, *, new_identity: bool) -> None:
    """Say in both superblocks of a copy that it is closed, in a new epoch [R15]."""
    closed = superblock.successor(
        state=HeapState.CLEAN, file_end=file_end,
        epoch=next_epoch(superblock, opened=True),
        uuid=os.urandom(16) if new_identity else superblock.uuid, file=FileIdentity(),
    )  # fmt: skip
    native.pwrite(fd, bytes(4), layout.SHARED_WRITER_PID)
    native.pwrite(fd, closed.pack(), layout.SUPERBLOCKS[0])
    native.pwrite(
        fd, replace(closed, generation=closed.generation + 1).pack(), layout.SUPERBLOCKS[1]
    )


def _recovered(
    fd: int, path: Path, superblock: Superblock, recover: Callable[[Path], None]
) -> Superblock:
    """Let the heap in a copy be recovered, and return the superblock that it has then."""
    taken = superblock.successor(file=FileIdentity())
    for at in layout.SUPERBLOCKS:
        native.pwrite(fd, taken.pack(), at)
        taken = replace(taken, generation=taken.generation + 1)
    native.fsync(fd)
    recover(path)
    return read_superblock(native.pread(fd, layout.HEADER_BYTES, 0))[0]


def _stored_in_place(segments: Collection[SegmentSlot]) -> Iterator[tuple[int, int]]:
    """Yield the ranges that are stored to without another look at the disk: header, log, tables."""
    yield 0, layout.HEADER_BYTES
    for slot in segments:
        if slot.kind == SegmentKind.LOG:
            yield slot.file_off, slot.file_bytes
    yield from _tables(segments)


def _tables(segments: Collection[SegmentSlot]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of unit entries and allocation bits."""
    for slot in segments:
        if slot.kind == SegmentKind.DATA:
            yield slot.entries_off, slot.data_off - slot.entries_off


def _back(fd: int, ranges: Iterable[tuple[int, int]], *, cloned: bool) -> None:
    """Give ranges blocks of their own, so that no store to them can fail for want of space.

    What a clone shares is written over with itself: not every file system that clones can unshare.
    """
    for offset, length in ranges:
        try:
            native.fallocate(fd, offset, length, native.Allocate.KEEP_SIZE)
        except NativeError as error:
            if error.errno not in _CANNOT:
                raise
        if cloned:
            for start, stop in _data_ranges(fd, offset + length, offset):
                _transfer(fd, fd, start, stop)
