"""Heap file: the header and the locks of a heap that lies in a file or a memfd.

    create   temporary name -> header, log and first segment written -> synced -> IN_USE -> linked
    open     writer's lock -> newest superblock -> segment and arena tables -> IN_USE
    close    everything synced -> CLEAN

Segments, arenas and roots are dictionaries here, and slots in the header of the file. They change
by one door, `HeapFile.change`, which hands all slots of one structural change to the *journal* at
once: a redo log makes them one atomic record. Without a journal they are stored in place. What a
returned call has stored survives the end of the process, whatever ends it.

`FileMedium` adds what a region asks of it: segments that come and go.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

from pmemheap import layout, native
from pmemheap.errors import (
    CorruptHeapError,
    DurabilityError,
    HeapBusyError,
    HeapFileError,
    OutOfSpaceError,
    UsageError,
)
from pmemheap.file import identity, locks
from pmemheap.file.headerfile import Header, next_epoch
from pmemheap.file.naming import give_name, place_of, require_place, temporary_name
from pmemheap.format.header import Tables
from pmemheap.format.superblock import Superblock
from pmemheap.layout import (
    ArenaSlot,
    Durability,
    FileIdentity,
    HeapState,
    RootSlot,
    SegmentKind,
    SegmentSlot,
    SlotImage,
    Table,
)
from pmemheap.native import NativeError
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.pmem2.row import file_row
from pmemheap.pmem2.source import FileSource, Options, Pieces
from pmemheap.refusals import refusal, refusals
from pmemheap.space.medium import Piece
from pmemheap.units import UNIT, format_bytes

__all__ = [
    "HeapFile",
    "Journal",
    "write_zeros",
]

_UNKNOWN_SIZE = 1 << 64
"""Longer than any file."""
_FILE_LEAST = layout.HEADER_BYTES + UNIT
_VOLATILE_FILE_SYSTEMS = {native.TMPFS: "tmpfs", 0x858458F6: "ramfs"}
_KEEP_BLOCKS = {native.TMPFS, 0xEF53, 0x58465342}
"""File systems, tmpfs, ext4 and xfs, on which only holes have no blocks: others may compress."""
_FIRST_UNITS = layout.SEGMENT_UNITS
_ZEROS = UNIT  # written at a time: what is written at once, the page cache may sync at once


class Journal(Protocol):
    """How changes of the header become part of the heap."""

    def change(self, slots: list[SlotImage], file_end: int, durable: bool) -> None:
        """Make slots part of the heap, all or none, and `file_end` the length that it needs.

        If it raises they are no part of it, or the heap is dead.
        """

    def sync(self) -> None:
        """Wait until every change so far is durable and in its place."""


class HeapFile:
    """An open heap file.

    Made by `create`, `create_memory` and `open`. It owns its descriptor.

    Attributes
    ----------
    header : Header
        Its superblock and tables; the tables are changed by `change` only.
    journal : Journal, optional
        What `change` hands the slots to; set before the first change of a heap with a log.
    private : bool
        Whether what is mapped is a copy of this process that it may store to, also in a file
        opened read-only: set by the recovery of such a file.
    beside : bool
        Whether it is read beside a writer, in another process, that may change it.
    in_doubt : bool
        Whether an interrupt has torn a change out: the next change repairs the heap first.
    identity : FileIdentity
        Which file it is.
    number : int
        That of the file among those of this process; see `native.register_file`.
    taken : str
        What somebody else has done to the file, as far as it was noticed; see `require_ours`.
    has_views : bool
        Whether the file is to be closed while memory of it is viewed; set by the heap.
    """

    fd = -1
    number = 0
    _lock_fd = -1
    _temporary: Path | None = None
    _destination: Path
    _has_begun = False
    has_views = False
    beside = False

    def __init__(
        self,
        fd: int,
        name: str,
        *,
        readonly: bool,
        limit: int | None = None,
        path: Path | None = None,
    ) -> None:
        self.header = Header(name)
        self.fd = fd
        self.name = name
        self.readonly = readonly
        self.limit = limit
        try:
            again = None if path is None else str(path)
            status = native.fstat(fd)
            self._is_named = status.links > 0
            self.identity = identity.identity_of(status)
            self.number, self._lock_fd = native.register_file(fd, again, readonly=readonly)
            file_system = native.filesystem_type(fd)
            self.on_memory = file_system in _VOLATILE_FILE_SYSTEMS
            self._keeps_blocks = file_system in _KEEP_BLOCKS
        except BaseException:
            self._let_go()
            raise
        self.private = False
        self.journal: Journal | None = None
        self._expected: dict[int, ArenaSlot] = {}
        self.maybe_holes = False
        self.sync_failed = False
        self.taken = ""
        self._source: FileSource | None = None  # of `fd`, once something has been mapped
        self._size_seen = (_UNKNOWN_SIZE, 0)  # by a thread that asked last whether it is ours
        self._asked_by = 0  # the thread whose next `require_ours` need not, as it has just asked
        self._is_new = False
        self.in_doubt = False

    # ------------------------------------------------------------ making and opening

    @classmethod
    def create(
        cls,
        path: Path,
        durability: Durability | None,
        *,
        limit: int | None,
        replace_file: bool,
        log_bytes: int = layout.LOG_BYTES,
    ) -> Self:
        """Make a heap file under a temporary name; `link_name` gives it its own.

        Raises
        ------
        HeapExistsError, HeapNotFoundError, HeapPermissionError
            The path exists; its directory does not; no permission.
        HeapBusyError
            Somebody has the heap open that is to be replaced.
        UsageError
            Power durability on a memory file system; the file to replace is no regular one.
        OutOfSpaceError
            No room for 1.3 MiB, or a smaller limit.
        """
        with refusals(f"heap file {str(path)!r}: creation", str(path)):
            require_place("heap file", path, replace_file=replace_file)
            place = place_of(path)
            temporary = temporary_name(place)
            medium: Self | None = None
            try:
                fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                medium = cls(fd, str(path), readonly=False, limit=limit, path=temporary)
                medium._format(medium._durability_for(durability), log_bytes)
                with medium.noting_failed_sync("creation"):
                    native.fsync(fd)
                medium._begin()
                medium._temporary, medium._destination = temporary, place
            except BaseException:
                if medium is None or medium.is_own:
                    with suppress(OSError):
                        os.unlink(temporary)
                if medium is not None:
                    medium._let_go()
                raise
        return medium

    def link_name(self, *, replace_file: bool) -> None:
        """Give a file that was created its name: all of the heap exists from now on, or nothing.

        Raises
        ------
        HeapExistsError
            Meanwhile there is a file of that name.
        HeapBusyError
            Meanwhile somebody has the heap open that is to be replaced.
        DurabilityError
            The directory could not be synced.
        """
        assert self._temporary is not None
        self._require_own()
        with refusals(f"heap file {self.name!r}: creation", self.name):
            give_name("heap file", self._temporary, self._destination, replace_file=replace_file)
            self._temporary = None

    @classmethod
    def create_memory(cls, name: str, *, limit: int | None) -> Self:
        """Make a heap in a memfd; OutOfSpaceError without memory."""
        with refusals(f"memfd:{name}: creation"):
            fd = native.memfd_create(name)
            medium = cls(fd, f"memfd:{name}", readonly=False, limit=limit)
            try:
                medium._format(Durability.PROCESS, layout.LOG_BYTES)
                medium._begin()
            except BaseException:
                medium._let_go()
                raise
        return medium

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        readonly: bool,
        limit: int | None,
        recover: Callable[[Self], None] | None = None,
    ) -> Self:
        """Open a heap file; `recover` as in `adopt`.

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
        return cls.adopt(fd, str(path), readonly=readonly, limit=limit, recover=recover, path=path)

    @classmethod
    def adopt(  # noqa: PLR0913 -- what is opened, and how
        cls,
        fd: int,
        name: str,
        *,
        readonly: bool,
        limit: int | None = None,
        beside: bool = False,
        recover: Callable[[Self], None] | None = None,
        path: Path | None = None,
    ) -> Self:
        """Open the heap behind a descriptor, which belongs to the medium from now on.

        Parameters
        ----------
        beside : bool
            Let a reader in beside a living writer, as an attached reader of shared memory is.
        recover : callable, optional
            Called under the lock when `superblock` is known and nothing is mapped yet. It may bring
            the file to its committed state, read the header anew, or change its `image`.
        path : Path, optional
            By which the file was opened.
        """
        with refusals(f"heap file {name!r}: open", name):
            medium = cls(fd, name, readonly=readonly, limit=limit, path=path)
            medium.beside = beside and readonly
            try:
                medium._require_regular()
                medium._lock(beside=beside)
                medium.header.read(fd)
                identity.require_original(
                    medium.header.superblock, medium.identity, fd, name, readonly=readonly
                )
                if recover is not None:
                    recover(medium)
                medium._read(recovered=recover is not None)
                if not readonly:
                    medium._begin()
            except BaseException:
                medium._let_go()
                raise
        return medium

    def _require_regular(self) -> None:
        status = native.fstat(self.fd)
        if not stat.S_ISREG(status.mode):
            kind = "a directory" if stat.S_ISDIR(status.mode) else "a device, pipe or socket"
            number = errno.EISDIR if stat.S_ISDIR(status.mode) else errno.EINVAL
            raise HeapFileError(
                f"heap file {self.name!r}: a regular file expected, found {kind}", number, self.name
            )
        if status.size < _FILE_LEAST:
            raise CorruptHeapError(
                f"heap file {self.name!r}: at least {_FILE_LEAST} bytes expected, "
                f"{status.size} found"
            )

    def _lock(self, *, beside: bool) -> None:
        """Become the writer, or one of the readers."""
        if not self.readonly:
            locks.require_sole_writer(self._lock_fd, self.name)
            return
        locks.become_reader(self._lock_fd)
        if not beside:
            locks.require_no_writer(self._lock_fd, self.name)

    def has_writer(self) -> bool:
        """Tell whether somebody else has the heap open for writing."""
        return locks.has_writer(self._lock_fd)

    def _has_readers(self) -> bool:
        return locks.has_readers(self._lock_fd)

    def _durability_for(self, wanted: Durability | None) -> Durability:
        """Return what the file system can keep of a wish; None wishes for the best it can."""
        kind = _VOLATILE_FILE_SYSTEMS.get(native.filesystem_type(self.fd))
        if kind is None:
            return Durability.POWER if wanted is None else wanted
        if wanted == Durability.POWER:
            raise UsageError(
                f"heap file {self.name!r}: a file system that outlives the power expected for "
                f"durability 'power', {kind} found; use durability='process'"
            )
        return Durability.PROCESS

    # ------------------------------------------------------------ header

    def _format(self, durability: Durability, log_bytes: int) -> None:
        """Write header area and log as zeros, and the first superblock."""
        self._is_new = True
        stop = layout.HEADER_BYTES + log_bytes
        first = stop + _FIRST_UNITS * layout.UNIT_BYTES_IN_FILE
        if self.limit is not None and self.limit < first:
            raise UsageError(f"limit: at least {first} bytes expected, {self.limit} found")
        with self._as_out_of_space(stop):
            native.fallocate(self.fd, 0, stop)
            write_zeros(self.fd, 0, stop)
        self.header.superblock = Superblock(
            generation=1, uuid=secrets.token_bytes(16), durability=durability,
            state=HeapState.CLEAN, file_end=first, log_off=layout.HEADER_BYTES,
            log_size=log_bytes, tail_lsn=64, epoch=1 << 32 | secrets.randbits(32),
            boot_id=identity.boot_id(), limit=self.limit or 0,
        )  # fmt: skip
        self.header.current = (0, self.header.superblock.pack())
        native.pwrite(self.fd, self.header.current[1], layout.SUPERBLOCKS[0])
        log = SegmentSlot(SegmentKind.LOG, layout.HEADER_BYTES, log_bytes // UNIT)
        data = SegmentSlot(SegmentKind.DATA, stop, _FIRST_UNITS, nunits=_FIRST_UNITS)
        with self._as_out_of_space(data.file_bytes):
            self._allocate_blocks(data)
        arena = ArenaSlot(0, data.nunits)
        native.pwrite(self.fd, log.pack() + data.pack(), layout.SEGMENT_TABLE)
        native.pwrite(self.fd, arena.pack(), layout.ARENA_TABLE)
        self.header.slots = Tables({0: log, 1: data}, {0: arena})
        if not locks.become_writer(self._lock_fd):
            raise HeapBusyError(
                f"heap file {self.name!r}: the writer's lock expected, refused", filename=self.name
            )

    def _read(self, *, recovered: bool) -> None:
        """Check what the header says."""
        if not (recovered and self.is_power):
            identity.require_same_boot(self.header.superblock, self.name)
        self.header.read_tables()
        self.header.image = bytearray()
        if self.limit is None:
            self.limit = self.header.superblock.limit or None
        status = native.fstat(self.fd)
        end = self.header.slots.end
        if status.size < end:
            raise CorruptHeapError(
                f"heap file {self.name!r}: {end} bytes expected for its segments, "
                f"{status.size} found"
            )
        self.maybe_holes = status.allocated < status.size  # some may lie behind the end

    def _begin(self) -> None:
        """Say in the file that a writer is at work.

        A heap that was closed says so until the first change; till then its header is not mapped.
        """
        try:
            self._cut_surplus()
            self._say_writer(os.getpid())
            self._has_begun = True
            epoch = next_epoch(self.header.superblock, opened=True)
            self.header.superblock = replace(
                self.header.superblock, boot_id=identity.boot_id(), epoch=epoch
            )
            if self._can_wait():
                return
            self.map_header()
            self._write_superblock(
                state=HeapState.IN_USE, file_end=self.header.slots.end, file=self.identity
            )
            if self.is_power or not self.on_memory:  # a power failure is to be noticed
                self._sync("open")
        except BaseException:
            self._has_begun = False
            self.header.unmap()
            raise

    def _say_writer(self, process: int) -> None:
        """Say who writes, for the messages that others get; 0 for nobody."""
        with suppress(NativeError):
            native.pwrite(self.fd, struct.pack("<I", process), layout.SHARED_WRITER_PID)

    def _can_wait(self) -> bool:
        """Tell whether the first change may say that the heap is in use."""
        block = self.header.superblock
        was_closed = self.is_clean and block.file == FileIdentity()  # not left so by a sync alone
        as_closed = was_closed and block.file_end == self.header.slots.end
        return as_closed and not (self._is_new or self.header.slots.strays)

    @property
    def is_unattached(self) -> bool:
        """Whether it is as it was closed, and may be until the first change."""
        return self.is_clean and not self.readonly

    @property
    def is_clean(self) -> bool:
        """Whether the file says that it was closed, and nothing has changed since."""
        return self.header.superblock.state == HeapState.CLEAN

    def begin_use(self) -> None:
        """Say in the file that it is in use, before the first change since it was closed."""
        if self.is_clean:
            self.require_ours("first change")
            self.write_superblock(sync=True, state=HeapState.IN_USE, file=self.identity)

    def map_header(self) -> None:
        """Map the header to store to it, if it is not mapped yet; the file was looked at."""
        self.header.map(self.map_looked_at)

    def map_pieces(
        self, reservation: VMReservation, offset: int, pieces: Pieces, options: Options
    ) -> list[Map]:
        """Map pieces of the file, one behind the other: the one way to do it.

        They are entered before they are mapped: so a child that is forked meanwhile knows of them.

        Raises
        ------
        DurabilityError
            The file has been cut.
        Pmem2Error
            The system refuses.
        """
        self.look_at_source(max(at + length for at, length in pieces))
        return self.map_looked_at(reservation, offset, pieces, options)

    def map_looked_at(
        self, reservation: VMReservation, offset: int, pieces: Pieces, options: Options
    ) -> list[Map]:
        """Do what `map_pieces` does, of pieces that are known to be there."""
        source = self._source = self._source or FileSource(self.fd)
        native.file_will_map(
            self.number, reservation.address + offset, pieces,
            shared=options.shared, readonly=options.readonly,
        )  # fmt: skip
        return file_row(source, reservation, offset, pieces, options)

    def look_at_source(self, length: int) -> None:
        """Look at the file to be mapped: it is asked once what it is, and each time how long.

        Raises
        ------
        DurabilityError
            It has not the bytes that its tables, as they were read, speak of.
        Pmem2Error
            The system does not tell what it is.
        """
        source = self._source
        if source is None:
            source = self._source = FileSource(self.fd)
        else:
            try:
                source.size = native.fstat(self.fd).size
            except NativeError as error:
                raise source.refusal(error.errno or errno.EIO, "a file to be looked at") from error
        if source.size < length and not (self.readonly and self.has_writer()):
            self.taken = f"cut to {source.size} bytes"
            raise self.failure()

    def _note_size(self, size: int) -> None:
        """Note that the file has become at least so long."""
        if self._source is not None:
            self._source.size = max(self._source.size, size)

    def _cut_surplus(self) -> None:
        """Cut off what a growth or a cut that did not end has left behind the last segment."""
        if native.fstat(self.fd).size > self.header.slots.end:
            native.ftruncate(self.fd, self.header.slots.end)

    # ------------------------------------------------------------ superblock

    def write_superblock(
        self, *, both: bool = False, sync: bool = False, **changes: object
    ) -> None:
        """Write a new superblock over the copy that is not current; copies alternate [R9].

        Parameters
        ----------
        both : bool
            Write the other copy as well, as a further generation.
        sync : bool
            Wait until each copy is durable, before the next one is written.
        **changes
            Fields of `Superblock` that differ from the current one.

        Raises
        ------
        DurabilityError
            A sync failed; either copy may be the newest now.
        """
        for each in ({"file_end": self.header.slots.end, **changes}, {})[: 1 + both]:
            self._write_superblock(**each)
            if sync:
                self.sync_all("superblock")

    def _write_superblock(self, **changes: object) -> None:
        if not self.header.write(**changes):
            self.taken, self.sync_failed = self.taken or "written over", True
            raise self.failure("superblock")

    def sync_superblock(self) -> None:
        """Wait until the copy that is current is durable; in a power heap."""
        if self.is_power:
            self.sync_all("superblock")

    # ------------------------------------------------------------ changes of the header

    def change(self, slots: list[SlotImage], *, durable: bool = False) -> None:
        """Change slots of the header: all that belongs together in one call.

        Parameters
        ----------
        slots : list of (Table, index, image)
            New images of slots of the segment, arena and root tables.
        durable : bool
            Return when they are durable; in a process heap when they are stored.
        """
        if not slots:
            return
        if self.journal is not None:
            self.journal.change(slots, self.header.slots.end_after(slots), durable)
        else:
            for each in slots:
                self.header.store_slot(*each)
            if durable and self.is_power:
                self.sync_all("change")
        self.header.slots.adopt(slots)

    def mark_strays_spare(self) -> None:
        """Say in the segment table that what a crash has left without an owner is SPARE."""
        strays, self.header.slots.strays = self.header.slots.strays, {}
        self.change([(Table.SEGMENTS, index, spare.pack()) for index, spare in strays.items()])

    def sync_memory(self, address: int, nbytes: int, during: str) -> None:
        """Wait until the bytes of a shared map of the file are durable; DurabilityError if not."""
        first = address // UNIT * UNIT
        with self.noting_failed_sync(during):
            native.msync(first, address + nbytes - first)

    def _allocate_blocks(self, slot: SegmentSlot) -> None:
        """Real blocks for a segment, its tables zero; the file reaches at least its end."""
        try:
            native.fallocate(self.fd, slot.file_off, slot.file_bytes)
        except NativeError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            write_zeros(self.fd, slot.file_off, slot.file_bytes)

    # ------------------------------------------------------------ what it is

    @property
    def is_own(self) -> bool:
        """Whether this process has opened the file, and not one that it is a fork of."""
        return self.number == 0 or native.file_is_own(self.number)

    def _require_own(self) -> None:
        if not self.is_own:
            raise UsageError(
                f"heap file {self.name!r}: a file of this process expected, it belongs to the "
                "parent process; open it anew in this one"
            )

    @property
    def segments(self) -> dict[int, SegmentSlot]:
        """The slots of the segment table in use, by index; changed by `change` only."""
        return self.header.slots.segments

    @property
    def arenas(self) -> dict[int, ArenaSlot]:
        """Those of the arena table."""
        return self.header.slots.arenas

    @property
    def roots(self) -> dict[int, RootSlot]:
        """Those of the root table."""
        return self.header.slots.roots

    @property
    def is_power(self) -> bool:
        """Whether what is closed or synced must survive a power failure."""
        return self.header.superblock.durability == Durability.POWER

    @property
    def file_end(self) -> int:
        """Bytes of the file that belong to the heap."""
        return self.header.slots.end

    def allocated(self) -> tuple[int, int]:
        """Return the length of the file and the bytes of its blocks."""
        with refusals(f"heap file {self.name!r}", self.name):
            status = native.fstat(self.fd)
        return status.size, status.allocated

    def pieces(self, arena: int = 0) -> list[Piece]:
        """Return the data segments of an arena by their units."""
        return [
            Piece(slot.first_unit, slot.nunits, slot, index, arena)
            for index, slot in self.header.slots.data_segments(arena)
        ]

    # ------------------------------------------------------------ roots

    def change_roots(self, puts: dict[str, RootSlot], drops: set[str]) -> None:
        """Store some roots and remove others, in one change; exceptions as of `root_changes`."""
        self.change(self.root_changes(puts, drops))

    def root_changes(self, puts: dict[str, RootSlot], drops: set[str]) -> list[SlotImage]:
        """Return the slots to change for some roots, without changing them.

        Raises
        ------
        KeyError
            There is no root of a name in `drops`.
        OutOfSpaceError
            The table has too few free slots.
        """
        return self.header.slots.root_changes(puts, drops, self.name)

    # ------------------------------------------------------------ durability, end

    def sync(self) -> None:
        """Wait until everything stored so far is durable.

        Raises
        ------
        DurabilityError
            The system could not write it back; what is on the medium is unknown.
        """
        if self.journal is None:
            self.sync_all("sync")
        else:
            self.journal.sync()

    def sync_all(self, during: str) -> None:
        """Wait until data, length and blocks of the file are durable; DurabilityError if not.

        The kernel tells the failure of a write-back once to each open file description. That of the
        maps is synced by all threads; that of the locks by nobody but who has the heap's lock.
        """
        with self.noting_failed_sync(during):
            native.fdatasync(self._lock_fd)

    def _sync(self, during: str) -> None:
        with self.noting_failed_sync(during):
            native.fsync(self._lock_fd)

    def sync_beside(self, during: str) -> None:
        """Do what `sync_all` does, for a thread that does not have the lock of the heap."""
        with self.noting_failed_sync(during):
            native.fdatasync(self.fd)

    def require_ours(self, during: str) -> None:
        """Raise if somebody else has cut the file, written it over or removed it.

        Costs two system calls. The file of a heap that has changed nothing since it was
        opened may be removed meanwhile.

        Raises
        ------
        DurabilityError
            It is not what it was. Nothing is written any more.
        UsageError
            It was opened by a process of which this is a fork.
        """
        self._require_own()
        if self.fd < 0:
            return  # another thread has closed it, which has asked
        if self._asked_by == threading.get_ident() and not (self.taken or self.sync_failed):
            self._asked_by = 0
            return
        self.taken = self.taken or self._found_taken() or self.taken  # another thread may find it
        if self.taken:
            self.sync_failed = True
            raise self.failure(during)

    def _found_taken(self) -> str:
        """Say what has become of the file, if it is not what it was, as far as the system tells.

        The caller need not have the heap's lock. While another thread changes what is expected, a
        look is not believed; nor is the first of two that differ.
        """
        before = None
        while True:
            expected = self._expectation()
            found = self._look(*expected)
            if not found or (found, expected) == before:
                return found
            before = (found, expected) if self._expectation() == expected else None

    def _expectation(self) -> tuple[tuple[int, bytes], int, bool]:
        """Return the current superblock, the length of the file, whether it has no holes."""
        return (
            self.header.current,
            self.header.slots.end,
            self._keeps_blocks and not self.maybe_holes,
        )

    def _look(self, current: tuple[int, bytes], file_end: int, is_whole: bool) -> str:
        """Do what `_found_taken` does, with what is expected of the file."""
        copy, expected = current
        self._size_seen = (_UNKNOWN_SIZE, 0)
        try:
            status = native.fstat(self.fd)
            stored = native.pread(self.fd, len(expected), layout.SUPERBLOCKS[copy])
        except NativeError:
            return ""
        self._size_seen = (status.size, threading.get_ident())
        if status.size < file_end:
            return f"cut to {status.size} bytes"
        if is_whole and status.allocated < file_end:
            return "cut, and grown again"
        if stored != expected or native.file_is_lost(self.number):
            return "written over"
        if self._is_named and status.links == 0 and not self.is_clean:
            return "removed"
        return ""

    @property
    def is_lost(self) -> bool:
        """Whether what is mapped may not be what the heap has stored."""
        return self.taken not in {"", "removed"} or native.file_is_lost(self.number)

    def failure(self, during: str = "") -> DurabilityError:
        """Return what to raise of a heap whose file cannot be trusted to keep anything."""
        if self.is_lost and not self.taken:
            self.taken = self._found_taken()
        where = f"heap file {self.name!r}:" + (f" {during}:" if during else "")
        if not self.taken:
            return DurabilityError(
                errno.EIO, f"{where} a heap whose syncs succeed expected, one failed; reopen it"
            )
        return DurabilityError(
            errno.ESTALE,
            f"{where} {self.file_end} bytes that only this heap changes expected, found the file "
            f"{self.taken}; nothing is written any more",
        )

    @contextmanager
    def noting_failed_sync(self, during: str) -> Iterator[None]:
        """Raise DurabilityError if a sync fails, and note that nothing may be written any more."""
        try:
            yield
        except NativeError as error:
            self.sync_failed = True
            raise DurabilityError(
                error.errno, f"heap file {self.name!r}: {during}: {error}"
            ) from error

    def close(self) -> None:
        """Sync, say in the file that it was closed, and let it go.

        After a failed sync it is only let go: another one would succeed and mean nothing.
        """
        if self.fd < 0:
            return
        try:
            if self._has_begun and self.is_own and not self.sync_failed:
                self.require_ours("close")
                self._say_writer(0)
                was_closed = self.is_clean and self.header.superblock.file == FileIdentity()
                if was_closed or not self.header.address:  # an interrupt came after all of this
                    return
                self._sync("close")
                self._write_superblock(
                    state=HeapState.CLEAN, file_end=self.header.slots.end, file=FileIdentity()
                )
                self._sync("close")
                self.require_ours("close")
        finally:
            self._let_go()

    def __del__(self) -> None:
        """Let go of a file that an interrupt has left without an owner."""
        if self.fd >= 0:
            self._let_go()

    def _let_go(self) -> None:
        """Close the descriptors, without a sync; a file that has not got its name goes.

        Of a file that the parent process has opened a forked child has no descriptors, and nothing
        of it is its own.

        The locks go now, even if a map could not be undone.
        """
        self.header.unmap()
        if not self.is_own:
            self.fd = -1
            return
        if self._temporary is not None:
            with suppress(OSError):
                os.unlink(self._temporary)
        locks.leave(self._lock_fd)
        native.release_file(self.number, keep=self.has_views)
        fd, self.fd = self.fd, -1  # no signal is looked for between this and the next call
        os.close(fd)

    @contextmanager
    def _as_out_of_space(self, wanted: int) -> Iterator[None]:
        try:
            yield
        except NativeError as error:
            raise OutOfSpaceError(
                f"heap file {self.name!r} cannot grow by {format_bytes(wanted)}: {error}"
            ) from error


def write_zeros(fd: int, offset: int, length: int) -> None:
    """Write zeros to a range of a file, where the system cannot allocate or clear it."""
    chunk = bytes(_ZEROS)
    for at in range(offset, offset + length, _ZEROS):
        native.pwrite(fd, chunk[: offset + length - at], at)
