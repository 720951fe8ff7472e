"""Heap file: the header and the locks of a heap that lies in a file or a memfd.

    begin    a writer is at work: IN_USE, or at the first change of a file that was closed
    change   slots of the header, by the journal
    sync     what was stored is durable, or nothing is written any more
    close    everything synced -> CLEAN

Segments, arenas and roots are dictionaries here, and slots in the header of the file. They change
by one door, `HeapFile.change`, which hands all slots of one structural change to the *journal* at
once: a redo log makes them one atomic record. Without a journal they are stored in place. What a
returned call has stored survives the end of the process, whatever ends it.

`FileMedium` adds what a region asks of it: segments that come and go.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pmemheap import native
from pmemheap.dataclass import replace
from pmemheap.errors import DurabilityError, UsageError
from pmemheap.file import identity, locks
from pmemheap.file.filemaps import FileMaps
from pmemheap.file.headerfile import Header, Journal, next_epoch
from pmemheap.file.holes import Holes
from pmemheap.file.naming import give_name
from pmemheap.file.watch import Expected, Watch
from pmemheap.format import layout
from pmemheap.format.layout import (
    ArenaSlot,
    Durability,
    FileIdentity,
    HeapState,
    RootSlot,
    SegmentSlot,
    SlotImage,
)
from pmemheap.native import NativeError
from pmemheap.refusals import refusals
from pmemheap.space.medium import Piece
from pmemheap.units import UNIT

__all__ = ["MEMORY_FILE_SYSTEMS", "HeapFile"]

MEMORY_FILE_SYSTEMS = {native.TMPFS: "tmpfs", 0x858458F6: "ramfs"}


class HeapFile:
    """An open heap file.

    Made and opened by `openfile`. It owns its descriptor.

    Attributes
    ----------
    header : Header
        Its superblock and tables; the tables are changed by `change` only.
    journal : Journal, optional
        What `change` hands the slots to; set before the first change of a heap with a log.
    private : bool
        Whether what is mapped is a copy of this process that it may store to, also in a file
        opened read-only: set by the recovery of such a file.
    beside, follows : bool
        Whether it is read beside a writer, in another process, that may change it; that copies.
    layout : int
        Number of the segments and arenas that a reader which follows has seen last.
    in_doubt : bool
        Whether an interrupt has torn a change out: the next change repairs the heap first.
    number : int
        That of the file among those of this process; see `native.register_file`.
    watch : Watch
        Looks whether somebody else has changed the file; see `require_ours`.
    maps : FileMaps
        Maps it.
    pending_name : tuple of Path and Path, optional
        The temporary name of a new file, and the one that `link_name` is to give it.
    expected_arenas : dict of int to ArenaSlot
        New arenas, until the change that brings their first segment.
    holes : Holes
        Which of its bytes may have no blocks.
    lock_fd : int
        A descriptor that is never mapped, for the locks.
    has_views : bool
        Whether the file is to be closed while memory of it is viewed; set by the heap.
    said_in_use : bool
        Whether the file says that it is in use since it was opened: a recovery has written it.
    """

    fd: int = -1
    number: int = 0
    lock_fd: int = -1
    pending_name: tuple[Path, Path] | None = None
    _has_begun = False
    has_views = False
    said_in_use: bool = False
    beside = follows = False
    layout: int = 0

    def __init__(
        self,
        fd: int,
        name: str,
        *,
        readonly: bool,
        limit: int | None = None,
        path: Path | None = None,
    ) -> None:
        self.header: Header = Header(name)
        self.fd = fd
        self.name = name
        self.readonly = readonly
        self.limit = limit
        try:
            again = None if path is None else str(path)
            status = native.fstat(fd)
            self.identity: FileIdentity = identity.identity_of(status)
            self.number, self.lock_fd = native.register_file(fd, again, readonly=readonly)
            file_system = native.filesystem_type(fd)
            self.on_memory: bool = file_system in MEMORY_FILE_SYSTEMS
            self.watch: Watch = Watch(self.number, file_system, is_named=status.links > 0)
            self.maps: FileMaps = FileMaps(fd, self.number)
        except BaseException:
            self.let_go()
            raise
        self.private = False
        self.journal: Journal | None = None
        self.expected_arenas: dict[int, ArenaSlot] = {}
        self.holes: Holes = Holes()
        self.sync_failed: bool = False
        self.is_new = False
        self.in_doubt = False

    # ------------------------------------------------------------ name, first stores

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
        assert self.pending_name is not None
        temporary, place = self.pending_name
        self._require_own()
        with refusals(f"heap file {self.name!r}: creation", self.name):
            give_name("heap file", temporary, place, replace_file=replace_file)
            self.pending_name = None

    def begin(self) -> None:
        """Say in the file that a writer is at work.

        A heap that was closed says so until the first change; till then its header is not mapped.
        """
        try:
            self.cut_surplus()
            self._say_writer(os.getpid())
            self._has_begun = True
            if self.said_in_use:
                return
            if not self._can_wait():
                self.say_in_use()
            else:
                block, epoch = self.header.superblock, self._new_epoch()
                self.header.superblock = replace(block, boot_id=identity.boot_id(), epoch=epoch)
        except BaseException:
            self._has_begun = False
            self.header.unmap()
            raise

    def _new_epoch(self) -> int:
        return next_epoch(self.header.superblock, opened=True)

    def say_in_use(self, **changes: object) -> None:
        """Say in the file that it is in use again; `changes` as of `write_superblock`."""
        self.header.map(self.maps.place)
        self._write_superblock(
            state=HeapState.IN_USE, file_end=self.header.slots.end, file=self.identity,
            boot_id=identity.boot_id(), epoch=self._new_epoch(), **changes,
        )  # fmt: skip
        if self.is_power or not self.on_memory:  # a power failure is to be noticed
            self.sync_file("open")
        self.said_in_use = True

    def _say_writer(self, process: int) -> None:
        """Say who writes, for the messages that others get; 0 for nobody."""
        with suppress(NativeError):
            native.pwrite(self.fd, struct.pack("<I", process), layout.SHARED_WRITER_PID)

    def _can_wait(self) -> bool:
        """Tell whether the first change may say that the heap is in use."""
        block = self.header.superblock
        was_closed = self.is_clean and block.file == FileIdentity()  # not left so by a sync alone
        as_closed = was_closed and block.file_end == self.header.slots.end
        return as_closed and not (self.is_new or self.header.slots.strays)

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

    def require_length(self, length: int) -> None:
        """Look at the file to be mapped.

        Raises
        ------
        DurabilityError
            It has not the bytes that its tables, as they were read, speak of.
        Pmem2Error
            The system does not tell what it is.
        """
        size = self.maps.look()
        if size < length and not (self.readonly and locks.has_writer(self.lock_fd)):
            self.watch.taken = f"cut to {size} bytes"
            raise self.failure()

    def cut_surplus(self) -> None:
        """Cut off what a growth or a cut that did not end has left behind the last segment."""
        size, end = native.fstat(self.fd).size, self.header.slots.end
        if size > end:
            self.holes.cut(end, size - end)
            native.ftruncate(self.fd, end)

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
            self.watch.taken, self.sync_failed = self.watch.taken or "written over", True
            raise self.failure("superblock")

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
        self.header.back(slots, self.fd, self.holes)
        if self.journal is not None:
            self.journal.change(slots, self.header.slots.end_after(slots), durable)
        else:
            for each in slots:
                self.header.store_slot(*each)
            if durable and self.is_power:
                self.sync_all("change")
        self.header.slots.adopt(slots)

    # ------------------------------------------------------------ what it is

    @property
    def maybe_holes(self) -> bool:
        """Whether some of its bytes may have no blocks."""
        return self.holes.nbytes > 0

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
        """Return the slots to change for some roots, as `Tables.root_changes` does, backed."""
        slots = self.header.slots.root_changes(puts, drops, self.name)
        self.header.back(slots, self.fd, self.holes)
        return slots

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
            native.fdatasync(self.lock_fd)

    def sync_file(self, during: str) -> None:
        """Do what `sync_all` does, and wait for all else that the system tells of the file."""
        with self.noting_failed_sync(during):
            native.fsync(self.lock_fd)

    def sync_memory(self, address: int, nbytes: int, during: str) -> None:
        """Wait until the bytes of a shared map of the file are durable; DurabilityError if not."""
        first = address // UNIT * UNIT
        with self.noting_failed_sync(during):
            native.msync(first, address + nbytes - first)

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
        watch = self.watch
        if watch.asked_by == threading.get_ident() and not (watch.taken or self.sync_failed):
            watch.asked_by = 0
        elif watch.look(self.fd, self._expectation, self.header.stored):
            self.sync_failed = True
            raise self.failure(during)

    def _expectation(self) -> Expected:
        """Return what the file should be, for a look at it."""
        header = self.header
        is_clean = header.superblock.state == HeapState.CLEAN
        end = header.slots.end
        return header.current, end, self.holes.blocks_least(end), is_clean

    def failure(self, during: str = "") -> DurabilityError:
        """Return what to raise of a heap whose file cannot be trusted to keep anything."""
        watch = self.watch
        if watch.is_lost and not watch.taken:
            watch.look(self.fd, self._expectation, self.header.stored)
        where = f"heap file {self.name!r}:" + (f" {during}:" if during else "")
        return watch.failure(where, self.file_end)

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
                self.header.settle()
                self.sync_file("close")
                self._write_superblock(
                    state=HeapState.CLEAN, file_end=self.header.slots.end, file=FileIdentity()
                )
                self.sync_file("close")
                self.require_ours("close")
        finally:
            self.let_go()

    def __del__(self) -> None:
        """Let go of a file that an interrupt has left without an owner."""
        if self.fd >= 0:
            self.let_go()

    def let_go(self) -> None:
        """Close the descriptors, without a sync; a file that has not got its name goes.

        Of a file that the parent process has opened a forked child has no descriptors, and nothing
        of it is its own.

        The locks go now, even if a map could not be undone.
        """
        self.header.unmap()
        if self.is_own:
            self._let_go()
        self.fd = -1

    def _let_go(self) -> None:
        if self.pending_name is not None:
            with suppress(OSError):
                os.unlink(self.pending_name[0])
        locks.leave(self.lock_fd)
        native.release_file(self.number, keep=self.has_views)
        fd, self.fd = self.fd, -1  # no signal is looked for between this and the next call
        os.close(fd)
