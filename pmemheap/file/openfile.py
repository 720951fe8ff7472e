"""Open file: how a heap file is made or opened, and who may.

    create   temporary name -> header, log and first segment written -> synced -> IN_USE -> linked
    open     lock -> newest superblock -> recovery -> tables -> IN_USE, or at the first change

What raises leaves no file that was not there before, no lock and no descriptor. A process heap in
use under another boot of the machine is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pmemheap import native
from pmemheap.errors import CorruptHeapError, HeapBusyError, HeapFileError, UsageError
from pmemheap.file import blocks, identity, locks
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.following import follow_layout
from pmemheap.file.headerfile import TABLE_PAGES
from pmemheap.file.heapfile import MEMORY_FILE_SYSTEMS
from pmemheap.file.holes import Holes, blocks_known
from pmemheap.file.naming import place_of, require_place, temporary_name
from pmemheap.file.recovery import needs_no_recovery
from pmemheap.file.takingover import take_over
from pmemheap.format import layout
from pmemheap.format.header import Tables
from pmemheap.format.layout import ArenaSlot, Durability, HeapState, SegmentKind, SegmentSlot
from pmemheap.format.superblock import Superblock
from pmemheap.native.rules import Rule, omitted
from pmemheap.refusals import refusal, refusals
from pmemheap.units import UNIT, KiB

__all__ = ["LOG_FIRST", "adopt", "create", "create_memory", "open_path"]

LOG_FIRST = 32 * KiB
"""Bytes of its log for which a new process heap has blocks: see `logblocks`."""

_FILE_LEAST = layout.HEADER_BYTES + UNIT
_FIRST_UNITS = layout.SEGMENT_UNITS
_FIRST_PAGES = *layout.SUPERBLOCKS, layout.SHARED_PAGE, layout.SEGMENT_TABLE, layout.ARENA_TABLE


# ---------------------------------------------------------------- a new file


def create(  # noqa: PLR0913 -- what a file is to be
    path: Path,
    durability: Durability | None,
    *,
    limit: int | None,
    replace_file: bool,
    log_bytes: int = layout.LOG_BYTES,
    strategy: bytes = bytes(7),
) -> FileMedium:
    """Make a heap file under a temporary name; `FileMedium.link_name` gives it its own.

    Raises
    ------
    HeapExistsError, HeapNotFoundError, HeapPermissionError
        The path exists; its directory does not; no permission.
    HeapBusyError
        Somebody has the heap open that is to be replaced.
    UsageError
        Power durability on a memory file system; the file to replace is no regular one.
    OutOfSpaceError
        No room for 228 KiB, 132 of a process heap, or a limit below 1.3 MiB.
    """
    with refusals(f"heap file {str(path)!r}: creation", str(path)):
        require_place("heap file", path, replace_file=replace_file)
        place = place_of(path)
        temporary = temporary_name(place)
        medium: FileMedium | None = None
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            medium = FileMedium(fd, str(path), readonly=False, limit=limit, path=temporary)
            _format(medium, _durability_for(medium, durability), log_bytes, strategy)
            with medium.noting_failed_sync("creation"):
                native.fsync(fd)
            medium.begin()
            medium.pending_name = temporary, place
        except BaseException:
            if medium is None or medium.is_own:
                with suppress(OSError):
                    os.unlink(temporary)
            if medium is not None:
                medium.let_go()
            raise
    return medium


def create_memory(name: str, *, limit: int | None, strategy: bytes = bytes(7)) -> FileMedium:
    """Make a heap in a memfd; OutOfSpaceError without memory."""
    with refusals(f"memfd:{name}: creation"):
        fd = native.memfd_create(name)
        medium = FileMedium(fd, f"memfd:{name}", readonly=False, limit=limit)
        try:
            _format(medium, Durability.PROCESS, layout.LOG_BYTES, strategy)
            medium.begin()
        except BaseException:
            medium.let_go()
            raise
    return medium


def _durability_for(medium: FileMedium, wanted: Durability | None) -> Durability:
    """Return what the file system can keep of a wish; None wishes for the best it can."""
    kind = MEMORY_FILE_SYSTEMS.get(native.filesystem_type(medium.fd))
    if kind is None:
        return Durability.POWER if wanted is None else wanted
    if wanted == Durability.POWER:
        raise UsageError(
            f"heap file {medium.name!r}: a file system that outlives the power expected for "
            f"durability 'power', {kind} found; use durability='process'"
        )
    return Durability.PROCESS


def _format(medium: FileMedium, durability: Durability, log_bytes: int, strategy: bytes) -> None:
    """Write header area and log as zeros, the first superblock and the first segment."""
    medium.is_new = True
    fd, name, limit = medium.fd, medium.name, medium.limit
    stop = layout.HEADER_BYTES + log_bytes
    first = stop + _FIRST_UNITS * layout.UNIT_BYTES_IN_FILE
    if limit is not None and limit < first:
        raise UsageError(f"limit: at least {first} bytes expected, {limit} found")
    medium.header.zero_pages = set(TABLE_PAGES) - set(_FIRST_PAGES)
    medium.holes = Holes(medium.header.holes(0, 0))
    with blocks.as_out_of_space(name, stop):
        is_power = durability == Durability.POWER
        backed = stop if is_power else min(layout.HEADER_BYTES + LOG_FIRST, stop)
        blocks.extend(fd, layout.HEADER_BYTES, backed, stop, medium.holes)
        if is_power:
            blocks.write_zeros(fd, layout.HEADER_BYTES, log_bytes)
        for page in _FIRST_PAGES:
            blocks.write_zeros(fd, page, UNIT)
    arena = ArenaSlot(0, _FIRST_UNITS, strategy=strategy)
    superblock = Superblock(
        generation=1, uuid=os.urandom(16), durability=durability,
        state=HeapState.CLEAN, file_end=first, log_off=layout.HEADER_BYTES,
        log_size=log_bytes, tail_lsn=64, epoch=1 << 32 | int.from_bytes(os.urandom(4)),
        boot_id=identity.boot_id(), limit=limit or 0,
        features_incompat=arena.feature,
    )  # fmt: skip
    medium.header.superblock, medium.header.current = superblock, (0, superblock.pack())
    native.pwrite(fd, medium.header.current[1], layout.SUPERBLOCKS[0])
    log = SegmentSlot(SegmentKind.LOG, layout.HEADER_BYTES, log_bytes // UNIT)
    data = SegmentSlot(SegmentKind.DATA, stop, _FIRST_UNITS, nunits=_FIRST_UNITS)
    backed = data.data_off + layout.BACKED_UNITS * UNIT
    with blocks.as_out_of_space(name, backed - data.file_off):
        blocks.extend(fd, data.file_off, backed, data.file_stop, medium.holes)
    native.pwrite(fd, log.pack() + data.pack(), layout.SEGMENT_TABLE)
    native.pwrite(fd, arena.pack(), layout.ARENA_TABLE)
    medium.header.slots = Tables({0: log, 1: data}, {0: arena})
    if not locks.become_writer(medium.lock_fd):
        raise HeapBusyError(
            f"heap file {name!r}: the writer's lock expected, refused", filename=name
        )


# ---------------------------------------------------------------- a file that is there


def open_path(  # noqa: PLR0913 -- what is opened, and how
    path: Path,
    *,
    readonly: bool,
    limit: int | None,
    recover: Callable[[FileMedium], None] | None = None,
    readers: bool = False,
    timeout: float = 0,
) -> FileMedium:
    """Open a heap file; `recover`, `readers` and `timeout` as in `adopt`.

    Raises
    ------
    HeapNotFoundError, HeapPermissionError, HeapBusyError
        No such file; no permission; somebody else has it open.
    HeapFileError
        A directory or device, or what else the system refuses.
    CorruptHeapError
        Not a sound heap.
    OutOfSpaceError
        No memory, address space or descriptor for it.
    DurabilityError
        The system could not read it, or not write it.
    """
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        raise refusal(f"heap file {str(path)!r}", error) from error
    return adopt(
        fd, str(path), readonly=readonly, limit=limit, recover=recover, readers=readers,
        timeout=timeout, path=path,
    )  # fmt: skip


def adopt(  # noqa: PLR0913 -- what is opened, and how
    fd: int,
    name: str,
    *,
    readonly: bool,
    limit: int | None = None,
    beside: bool = False,
    follow: bool = True,
    recover: Callable[[FileMedium], None] | None = None,
    readers: bool = False,
    timeout: float = 0,
    path: Path | None = None,
) -> FileMedium:
    """Open the heap behind a descriptor, which belongs to the medium from now on.

    Parameters
    ----------
    beside : bool
        Let a reader in beside a living writer, as an attached reader of shared memory is.
    follow : bool
        Let a reader follow a writer that copies what snapshots may show.
    recover : callable, optional
        Called under the lock when `header.superblock` is known and nothing is mapped yet. It may
        bring the file to its committed state, read the header anew, or change its `image`.
    readers : bool
        Of a writer: let those go on who have come before. Of a reader without a writer: let one
        come, and follow it.
    timeout : float
        Of a reader: seconds for a writer that is opening the heap, to let readers in.
    path : Path, optional
        By which the file was opened.
    """
    with refusals(f"heap file {name!r}: open", name):
        medium = FileMedium(fd, name, readonly=readonly, limit=limit, path=path)
        medium.beside = beside and readonly
        try:
            _require_regular(fd, name)
            _lock(medium, beside=beside, follow=follow, timeout=timeout)
            if not medium.follows:
                medium.header.read(fd)
                if readonly and readers and not medium.beside:
                    _wait_for_writer(medium)
            if medium.follows:
                medium.layout = follow_layout(medium)
                return medium
            if not readonly:
                gate = int.from_bytes(medium.header.image[layout.SHARED_WORDS["gate"]], "little")
                locks.require_no_readers(medium.lock_fd, name, gate, followers=readers)
                if readers and locks.has_followers(medium.lock_fd):
                    take_over(medium, gate)
            identity.require_original(
                medium.header.superblock, medium.identity, fd, name, readonly=readonly
            )
            if recover is not None:
                recover(medium)
            _read_tables(medium, recovered=recover is not None)
            if not readonly:
                medium.begin()
        except BaseException:
            medium.let_go()
            raise
    return medium


def _require_regular(fd: int, name: str) -> None:
    status = native.fstat(fd)
    if not stat.S_ISREG(status.mode):
        kind = "a directory" if stat.S_ISDIR(status.mode) else "a device, pipe or socket"
        number = errno.EISDIR if stat.S_ISDIR(status.mode) else errno.EINVAL
        raise HeapFileError(
            f"heap file {name!r}: a regular file expected, found {kind}", number, name
        )
    if status.size < _FILE_LEAST:
        raise CorruptHeapError(
            f"heap file {name!r}: at least {_FILE_LEAST} bytes expected, {status.size} found"
        )


def _lock(medium: FileMedium, *, beside: bool, follow: bool, timeout: float) -> None:
    """Become the writer, or one of the readers."""
    if native.IS_CHECKED and omitted(Rule.Q1):
        os.dup2(medium.fd, medium.lock_fd)
    if not medium.readonly:
        locks.require_writer(medium.lock_fd, medium.name)
        return
    if follow and locks.follow(medium.lock_fd, medium.name, timeout):
        medium.beside = medium.follows = True
        return
    locks.become_reader(medium.lock_fd)
    if not beside:
        locks.require_no_writer(medium.lock_fd, medium.name)


def _wait_for_writer(medium: FileMedium) -> None:
    """Become a reader that follows, though there is no writer yet.

    Raises
    ------
    HeapBusyError
        The last writer was killed: the next one has to recover the heap first.
    """
    if not needs_no_recovery(medium):
        raise HeapBusyError(
            f"heap file {medium.name!r}: a writer expected that recovers it, found none; without "
            "readers=True it is read as it is, and no writer may come meanwhile",
            filename=medium.name,
        )
    medium.beside = medium.follows = True
    locks.become_follower(medium.lock_fd)


def _read_tables(medium: FileMedium, *, recovered: bool) -> None:
    """Take the tables from the header, and check them against the file."""
    header = medium.header
    if not (recovered and medium.is_power):
        identity.require_same_boot(header.superblock, medium.name)
    header.read_tables()
    if medium.limit is None:
        medium.limit = header.superblock.limit or None
    status = native.fstat(medium.fd)
    end = header.slots.end
    if status.size < end:
        raise CorruptHeapError(
            f"heap file {medium.name!r}: {end} bytes expected for its segments, {status.size} found"
        )
    allocated = status.allocated if medium.watch.counts_blocks else 0
    medium.holes = Holes(
        medium.header.holes(layout.HEADER_BYTES, end), known=blocks_known(allocated)
    )
