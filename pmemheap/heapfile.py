"""Heap file: the header and the locks of a heap that lies in a file or a memfd.

    create   temporary name -> header, log and first segment written -> synced -> IN_USE -> linked
    open     writer's lock -> newest superblock -> segment and arena tables -> IN_USE
    close    everything synced -> CLEAN

The header is mapped and stored to in place: what a returned call has stored survives the end of the
process, whatever ends it. Power failure is another matter until the redo log exists: a file whose
superblock says IN_USE, written under another boot of the machine, is refused.

`FileMedium` adds what a region asks of it: segments that come and go.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from pmemheap import layout, native
from pmemheap.errors import (
    CorruptHeapError,
    DurabilityError,
    OutOfSpaceError,
    Pmem2Error,
    PmemHeapError,
    UsageError,
)
from pmemheap.layout import (
    ArenaSlot,
    Durability,
    HeapState,
    RootSlot,
    SegmentKind,
    SegmentSlot,
    Superblock,
)
from pmemheap.native import Lock, NativeError
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.region import Piece, refusal
from pmemheap.units import UNIT, KiB, format_bytes

__all__ = ["HeapFile", "as_spare", "refusals", "write_zeros"]

_FIRST_SEGMENT = layout.HEADER_BYTES + layout.LOG_BYTES
_VOLATILE_FILE_SYSTEMS = {native.TMPFS: "tmpfs", 0x858458F6: "ramfs"}
_LOG_UNITS = layout.LOG_BYTES // UNIT
_FIRST_UNITS = layout.SEGMENT_UNITS
_NAME_CHARACTERS_KEPT = 40
_ZEROS = 16 * KiB  # written at a time: few, or the process would keep them as its own memory


class HeapFile:
    """An open heap file.

    Made by `create`, `create_memory` and `open`. It owns its descriptor.
    """

    def __init__(self, fd: int, name: str, *, readonly: bool, limit: int | None = None) -> None:
        self.fd = fd
        self.name = name
        self.readonly = readonly
        self.limit = limit
        self.on_memory = native.filesystem_type(fd) in _VOLATILE_FILE_SYSTEMS
        self.segments: dict[int, SegmentSlot] = {}
        self.roots: dict[int, RootSlot] = {}
        self.arena = ArenaSlot(0, 0)
        self.superblock: Superblock
        self._strays: dict[int, SegmentSlot] = {}
        self.maybe_holes = False
        self.sync_failed = False
        self._copy = 0
        self._is_new = False
        self._temporary: Path | None = None
        self._reservation: VMReservation | None = None
        self._header: Map | None = None

    # ------------------------------------------------------------ making and opening

    @classmethod
    def create(
        cls, path: Path, durability: Durability | None, *, limit: int | None, replace_file: bool
    ) -> Self:
        """Make a heap file under a temporary name; `appear` gives it its own.

        Raises
        ------
        UsageError
            The path exists, or its directory does not; power durability on a memory file system;
            the file to replace is no regular one, or a heap that somebody has open.
        OutOfSpaceError
            No room for 1.3 MiB, or a smaller limit.
        """
        with refusals(f"heap file {str(path)!r}: creation"):
            _require_place(path, replace_file=replace_file)
            if path.exists():
                cls._require_unused(path)
            temporary = path.parent / f".{path.name[:_NAME_CHARACTERS_KEPT]}.{secrets.token_hex(8)}"
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                medium = cls(fd, str(path), readonly=False, limit=limit)
                medium._format(medium._durability_for(durability))
                with medium._as_durability_error("creation"):
                    native.fsync(fd)
                medium._begin()
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                _close(fd)
                raise
        medium._temporary = temporary
        return medium

    @classmethod
    def _require_unused(cls, path: Path) -> None:
        """Raise UsageError if somebody writes to the heap that is to be replaced."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            cls(fd, str(path), readonly=True)._refuse_writer()
        finally:
            os.close(fd)

    def appear(self, *, replace_file: bool) -> None:
        """Give a file that was created its name: all of the heap exists from now on, or nothing.

        Raises
        ------
        UsageError
            Meanwhile there is a file of that name.
        DurabilityError
            The directory could not be synced.
        """
        assert self._temporary is not None
        path = Path(self.name)
        with refusals(f"heap file {self.name!r}: creation"):
            _link(self._temporary, path, replace_file=replace_file)
            self._temporary = None
            try:
                _sync_directory(path.parent)
            except BaseException:
                if not replace_file:
                    with suppress(OSError):
                        os.unlink(path)
                raise

    @classmethod
    def create_memory(cls, name: str, *, limit: int | None) -> Self:
        """Make a heap in a memfd; OutOfSpaceError without memory."""
        with refusals(f"memfd:{name}: creation"):
            fd = native.memfd_create(name)
            try:
                medium = cls(fd, f"memfd:{name}", readonly=False, limit=limit)
                medium._format(Durability.PROCESS)
                medium._begin()
            except BaseException:
                _close(fd)
                raise
        return medium

    @classmethod
    def open(cls, path: Path, *, readonly: bool, limit: int | None) -> Self:
        """Open a heap file.

        Raises
        ------
        UsageError
            No file, a directory or device, no permission; another process has it open.
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
        return cls.adopt(fd, str(path), readonly=readonly, limit=limit)

    @classmethod
    def adopt(
        cls, fd: int, name: str, *, readonly: bool, limit: int | None = None, beside: bool = False
    ) -> Self:
        """Open the heap behind a descriptor, which belongs to the medium from now on.

        Parameters
        ----------
        beside : bool
            Let a reader in beside a living writer, as an attached reader of shared memory is.
        """
        try:
            with refusals(f"heap file {name!r}: open"):
                medium = cls(fd, name, readonly=readonly, limit=limit)
                medium._require_regular()
                medium._lock(beside=beside)
                medium._read()
                if not readonly:
                    medium._begin()
        except BaseException:
            _close(fd)
            raise
        return medium

    def _require_regular(self) -> None:
        status = native.fstat(self.fd)
        if not stat.S_ISREG(status.mode):
            kind = "a directory" if stat.S_ISDIR(status.mode) else "a device, pipe or socket"
            raise UsageError(f"heap file {self.name!r}: a regular file expected, found {kind}")
        if status.size < _FIRST_SEGMENT:
            raise CorruptHeapError(
                f"heap file {self.name!r}: at least {_FIRST_SEGMENT} bytes expected, "
                f"{status.size} found"
            )

    def _lock(self, *, beside: bool) -> None:
        """Become the writer, or one of the readers."""
        if not self.readonly:
            if not native.lock_byte(self.fd, layout.LOCK_WRITER, Lock.WRITE):
                raise UsageError(
                    f"heap file {self.name!r}: no other writer expected, "
                    f"process {self._holder()} has it open"
                )
            if self._has_readers():
                raise UsageError(
                    f"heap file {self.name!r}: no reader expected, one or more have it open"
                )
            return
        native.lock_byte(self.fd, layout.LOCK_READER, Lock.READ)  # before the look at the other
        if not beside:
            self._refuse_writer()

    def _refuse_writer(self) -> None:
        if native.probe_lock(self.fd, layout.LOCK_WRITER, Lock.READ) != Lock.NONE:
            raise UsageError(
                f"heap file {self.name!r}: no writer expected, process {self._holder()} has it open"
            )

    def _has_readers(self) -> bool:
        return native.probe_lock(self.fd, layout.LOCK_READER, Lock.WRITE) != Lock.NONE

    def _holder(self) -> int:
        return int.from_bytes(native.pread(self.fd, 4, layout.SHARED_WRITER_PID), "little")

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

    def _format(self, durability: Durability) -> None:
        """Write header area and log as zeros, and the first superblock."""
        self._is_new = True
        stop = _FIRST_SEGMENT
        first = stop + _FIRST_UNITS * layout.UNIT_BYTES_IN_FILE
        if self.limit is not None and self.limit < first:
            raise UsageError(f"limit: at least {first} bytes expected, {self.limit} found")
        with self._as_out_of_space(stop):
            native.fallocate(self.fd, 0, stop)
            write_zeros(self.fd, 0, stop)
        self.superblock = Superblock(
            generation=1, uuid=secrets.token_bytes(16), durability=durability,
            state=HeapState.CLEAN, file_end=first, log_off=layout.HEADER_BYTES,
            log_size=layout.LOG_BYTES, tail_lsn=64, epoch=1 << 32 | secrets.randbits(32),
            boot_id=_boot_id(),
        )  # fmt: skip
        native.pwrite(self.fd, self.superblock.pack(), layout.SUPERBLOCKS[0])
        log = SegmentSlot(SegmentKind.LOG, layout.HEADER_BYTES, _LOG_UNITS)
        data = SegmentSlot(SegmentKind.DATA, stop, _FIRST_UNITS, nunits=_FIRST_UNITS)
        with self._as_out_of_space(data.file_bytes):
            self._allocate_blocks(data)
        self.arena = ArenaSlot(0, data.nunits)
        native.pwrite(self.fd, log.pack() + data.pack(), layout.SEGMENT_TABLE)
        native.pwrite(self.fd, self.arena.pack(), layout.ARENA_TABLE)
        self.segments = {0: log, 1: data}
        if not native.lock_byte(self.fd, layout.LOCK_WRITER, Lock.WRITE):
            raise UsageError(f"heap file {self.name!r}: the writer's lock expected, refused")

    def _read(self) -> None:
        """Read and check the header."""
        images = tuple(
            native.pread(self.fd, layout.SUPERBLOCK_BYTES, at) for at in layout.SUPERBLOCKS
        )
        self.superblock, self._copy = layout.newest_superblock((images[0], images[1]))
        self._require_same_boot()
        self._read_segments()
        self._read_arena()
        self._read_roots()
        status = native.fstat(self.fd)
        end = self.file_end
        if status.size < end:
            raise CorruptHeapError(
                f"heap file {self.name!r}: {end} bytes expected for its segments, "
                f"{status.size} found"
            )
        self.maybe_holes = status.allocated < end

    def _require_same_boot(self) -> None:
        if self.superblock.state == HeapState.IN_USE and self.superblock.boot_id != _boot_id():
            raise CorruptHeapError(
                f"heap file {self.name!r}: a closed heap expected, but the machine went down while "
                "it was in use, and what it wrote since the last sync is unknown"
            )

    def _read_segments(self) -> None:
        table = native.pread(
            self.fd, layout.SEGMENT_SLOTS * layout.SLOT_BYTES, layout.SEGMENT_TABLE
        )
        for index, (offset, image) in enumerate(_slots(table, layout.SEGMENT_TABLE)):
            slot = SegmentSlot.unpack(image, offset)
            if slot is not None:
                self.segments[index] = slot
        reached = layout.HEADER_BYTES
        for slot in sorted(self.segments.values(), key=lambda each: each.file_off):
            sound = slot.kind == SegmentKind.LOG or (
                slot.capacity % layout.SEGMENT_UNITS == 0
                and slot.nunits % layout.SEGMENT_UNITS == 0
                and bool(slot.nunits) == (slot.kind == SegmentKind.DATA)
                and slot.nunits <= slot.capacity
                and slot.arena == 0
            )
            if slot.file_off != reached or not slot.capacity or not sound:
                raise CorruptHeapError(
                    f"segment table of {self.name!r}: a segment at file offset {reached:#x} "
                    f"expected, found {slot}"
                )
            reached = slot.file_stop

    def _read_arena(self) -> None:
        image = native.pread(self.fd, layout.SLOT_BYTES, layout.ARENA_TABLE)
        arena = ArenaSlot.unpack(image, layout.ARENA_TABLE)
        if arena is None:
            raise CorruptHeapError(
                f"arena table of {self.name!r}: the default arena expected, none"
            )
        self.arena = arena
        self._set_aside_strays()
        pieces = self.pieces()
        expected = pieces[0].first_unit if pieces else -1
        for piece in pieces:
            if piece.first_unit != expected:
                raise CorruptHeapError(
                    f"segment table of {self.name!r}: a segment from unit {expected} expected, "
                    f"found one from {piece.first_unit}"
                )
            expected = piece.stop
        if (
            not pieces
            or expected != arena.end_unit
            or not (pieces[0].first_unit <= arena.first_unit < pieces[0].stop)
        ):
            raise CorruptHeapError(
                f"arena table of {self.name!r}: segments for units {arena.first_unit} to "
                f"{arena.end_unit} expected, found {[(p.first_unit, p.stop) for p in pieces]}"
            )

    def _set_aside_strays(self) -> None:
        """Take segments outside of the arena's range for SPARE ones.

        A growth or a cut that a killed process did not end leaves them; `_begin` stores it.
        """
        for index, slot in self.segments.items():
            inside = slot.first_unit < self.arena.end_unit and (
                slot.first_unit + slot.nunits > self.arena.first_unit
            )
            if slot.kind == SegmentKind.DATA and not inside:
                self._strays[index] = as_spare(slot)
        self.segments.update(self._strays)

    def _read_roots(self) -> None:
        table = native.pread(self.fd, layout.ROOT_SLOTS * layout.SLOT_BYTES, layout.ROOT_TABLE)
        for index, (offset, image) in enumerate(_slots(table, layout.ROOT_TABLE)):
            root = RootSlot.unpack(image, offset)
            if root is not None:
                self.roots[index] = root

    def _begin(self) -> None:
        """Say in the file that a writer is at work, and map the header."""
        try:
            self._cut_surplus()
            self._reservation = VMReservation(layout.HEADER_BYTES)
            self._header = Map.file(self.fd, self._reservation, 0, layout.HEADER_BYTES)
            self._store(layout.SHARED_WRITER_PID, struct.pack("<I", os.getpid()))
            for index, spare in self._strays.items():
                self._put_segment(index, spare)
            opened = self.superblock.epoch >> 32
            self._write_superblock(
                state=HeapState.IN_USE, boot_id=_boot_id(),
                epoch=(opened + 1) << 32 | secrets.randbits(32), file_end=self.file_end,
            )  # fmt: skip
            if not self.on_memory:  # whatever the durability: a crash is to be noticed
                self._sync("open")
        except BaseException:
            self._unmap_header()
            raise

    def _cut_surplus(self) -> None:
        """Cut off what a growth or a cut that did not end has left behind the last segment."""
        if native.fstat(self.fd).size > self.file_end:
            native.ftruncate(self.fd, self.file_end)

    def _write_superblock(self, **changes: object) -> None:
        successor = self.superblock.successor(**changes)
        self._store(layout.SUPERBLOCKS[1 - self._copy], successor.pack())
        self.superblock = successor
        self._copy = 1 - self._copy

    def _store(self, offset: int, data: bytes) -> None:
        """Store to the header: the one way by which Python changes persistent bytes."""
        assert self._header is not None
        self._header.view[offset : offset + len(data)] = data

    def _put_segment(self, index: int, slot: SegmentSlot | None) -> None:
        if slot is None:
            del self.segments[index]
        else:
            self.segments[index] = slot
        image = bytes(layout.SLOT_BYTES) if slot is None else slot.pack()
        self._store(layout.SEGMENT_TABLE + index * layout.SLOT_BYTES, image)

    def _put_arena(self, first_unit: int, end_unit: int) -> None:
        self.arena = replace(self.arena, first_unit=first_unit, end_unit=end_unit)
        self._store(layout.ARENA_TABLE, self.arena.pack())

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
    def is_power(self) -> bool:
        """Whether what is closed or synced must survive a power failure."""
        return self.superblock.durability == Durability.POWER

    @property
    def file_end(self) -> int:
        """Bytes of the file that belong to the heap."""
        return max((slot.file_stop for slot in self.segments.values()), default=_FIRST_SEGMENT)

    def allocated(self) -> tuple[int, int]:
        """Return the length of the file and the bytes of its blocks."""
        with refusals(f"heap file {self.name!r}"):
            status = native.fstat(self.fd)
        return status.size, status.allocated

    def pieces(self) -> list[Piece]:
        """Return the data segments by their units."""
        return sorted(
            (
                Piece(slot.first_unit, slot.nunits, slot, index)
                for index, slot in self.segments.items()
                if slot.kind == SegmentKind.DATA
            ),
            key=lambda piece: piece.first_unit,
        )

    # ------------------------------------------------------------ roots

    def put_root(self, root: RootSlot) -> None:
        """Store a root under its name."""
        index = self._root_index(root.name)
        if index is None:
            index = next((i for i in range(layout.ROOT_SLOTS) if i not in self.roots), None)
        if index is None:
            raise OutOfSpaceError(
                f"root table of {self.name!r}: a free slot expected, all {layout.ROOT_SLOTS} in use"
            )
        self.roots[index] = root
        self._store(layout.ROOT_TABLE + index * layout.SLOT_BYTES, root.pack())

    def drop_root(self, name: str) -> None:
        """Remove a root; KeyError if there is none of that name."""
        index = self._root_index(name)
        if index is None:
            raise KeyError(name)
        del self.roots[index]
        self._store(layout.ROOT_TABLE + index * layout.SLOT_BYTES, bytes(layout.SLOT_BYTES))

    def _root_index(self, name: str) -> int | None:
        return next((i for i, root in self.roots.items() if root.name == name), None)

    # ------------------------------------------------------------ durability, end

    def sync(self) -> None:
        """Wait until everything stored so far is durable.

        Raises
        ------
        DurabilityError
            The system could not write it back; what is on the medium is unknown.
        """
        self._sync("sync")

    def _sync(self, during: str) -> None:
        try:
            with self._as_durability_error(during):
                native.fsync(self.fd)
        except DurabilityError:
            self.sync_failed = True
            raise

    def close(self) -> None:
        """Sync, say in the file that it was closed, and let it go.

        After a failed sync it is only let go: another one would succeed and mean nothing.
        """
        if self.fd < 0:
            return
        try:
            if not self.readonly and self._header is not None and not self.sync_failed:
                self._sync("close")
                self._store(layout.SHARED_WRITER_PID, bytes(4))
                self._write_superblock(state=HeapState.CLEAN, file_end=self.file_end)
                self._sync("close")
        finally:
            self._unmap_header()
            if self._temporary is not None:
                with suppress(OSError):
                    os.unlink(self._temporary)
            _close(self.fd)
            self.fd = -1

    def detach_in_child(self) -> None:
        """After a fork: open the file anew, read-only, and let the parent's header go.

        Descriptors and maps that were inherited belong to the parent's open file description. Its
        lock would outlive the parent for as long as the child has any of them.
        """
        inherited, self.fd = self.fd, -1
        try:
            self._unmap_header()
            if inherited >= 0:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
                self.fd = os.open(f"/proc/self/fd/{inherited}", flags)
        finally:
            if inherited >= 0:
                os.close(inherited)

    def abandon_in_child(self) -> None:
        """After a fork: let the descriptor go, which has served to map everything privately."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _unmap_header(self) -> None:
        with suppress(Pmem2Error):  # refused: it goes with the last reference to its lifeline
            if self._header is not None:
                self._header.close()
            if self._reservation is not None:
                self._reservation.close()
        self._header = self._reservation = None

    @contextmanager
    def _as_out_of_space(self, wanted: int) -> Iterator[None]:
        try:
            yield
        except NativeError as error:
            raise OutOfSpaceError(
                f"heap file {self.name!r} cannot grow by {format_bytes(wanted)}: {error}"
            ) from error

    @contextmanager
    def _as_durability_error(self, during: str) -> Iterator[None]:
        try:
            yield
        except NativeError as error:
            raise DurabilityError(
                error.errno, f"heap file {self.name!r}: {during}: {error}"
            ) from error


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Raise an exception of ours for whatever the system refuses."""
    try:
        yield
    except Pmem2Error as error:
        raise OutOfSpaceError(f"{what}: {error}") from error
    except PmemHeapError:
        raise
    except OSError as error:
        raise refusal(what, error) from error


def _require_place(path: Path, *, replace_file: bool) -> None:
    """Check that a file of this name can be made, or replaced."""
    what = f"heap file {str(path)!r}"
    if not path.parent.is_dir():
        raise UsageError(f"{what}: directory {str(path.parent)!r} expected, not there")
    if path.is_dir():
        raise UsageError(f"{what}: a file expected, found a directory")
    if path.exists() and not path.is_file():
        raise UsageError(f"{what}: a regular file expected, found a device, pipe or socket")
    if path.exists() and not replace_file:
        raise UsageError(f"{what}: no such file expected, one is there")


def _close(fd: int) -> None:
    """Close a descriptor; its locks go now, even if a map could not be undone, which keeps them."""
    for place in (layout.LOCK_WRITER, layout.LOCK_READER):
        with suppress(NativeError):
            native.lock_byte(fd, place, Lock.NONE)
    os.close(fd)


def as_spare(slot: SegmentSlot) -> SegmentSlot:
    """Return the slot of a segment whose units have all left."""
    return replace(slot, kind=SegmentKind.SPARE, first_unit=0, nunits=0)


def _slots(table: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(table), layout.SLOT_BYTES):
        yield place + at, table[at : at + layout.SLOT_BYTES]


def _boot_id() -> bytes:
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return bytes.fromhex(text.strip().replace("-", ""))


def write_zeros(fd: int, offset: int, length: int) -> None:
    """Write zeros to a range of a file, where the system cannot allocate or clear it."""
    chunk = bytes(_ZEROS)
    for at in range(offset, offset + length, _ZEROS):
        native.pwrite(fd, chunk[: offset + length - at], at)


def _link(temporary: Path, path: Path, *, replace_file: bool) -> None:
    """Give a finished file its name."""
    if replace_file:
        os.rename(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise UsageError(f"heap file {str(path)!r}: no such file expected, one is there") from None
    os.unlink(temporary)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
