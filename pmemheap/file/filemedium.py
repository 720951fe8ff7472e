"""File medium: the segments of a heap file, as the memory of a region.

    grow     a SPARE segment that fits, or the end of the file; blocks are allocated before mapping
    return   slot SPARE, blocks punched; at the end of the file also cut

    file     | header | log | DATA | SPARE | DATA | DATA | ...
    slot                 0      1      2      3      4       `first_unit` says where it is mapped

A power heap keeps its tables twice. What the core works on, `bits` and `entries`, are private maps
of the file, the *shadow*; their *home* is mapped as `home_bits` and `home_entries`, and stored to
when the redo log has what is stored [R5].

What is handed out has real blocks: a store to it cannot fail for want of space. The tables of a
segment get them at once, its data what was asked for; the rest, and what was punched, when `back`
is called for units that are about to be handed out. Which they are, `holes` knows.
"""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cached_property
from operator import attrgetter
from typing import Any

from pmemheap import native
from pmemheap.dataclass import replace
from pmemheap.errors import OutOfSpaceError, Pmem2Error, UsageError
from pmemheap.file import blocks, holes, locks, shownspace
from pmemheap.file.headerfile import Journal
from pmemheap.file.heapfile import HeapFile
from pmemheap.file.logmaps import LogMaps
from pmemheap.file.parts import PARTS, READ_AHEAD_BELOW
from pmemheap.file.shownspace import ShownSpace
from pmemheap.format import filespace, layout
from pmemheap.format.header import as_spare
from pmemheap.format.layout import ArenaSlot, SegmentKind, SegmentSlot, SlotImage, Table
from pmemheap.native import Allocate, NativeError
from pmemheap.native.rules import Rule, omitted
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.pmem2.source import Options
from pmemheap.refusals import map_refusal, refusal, refusals
from pmemheap.space.medium import Piece
from pmemheap.space.region import Region
from pmemheap.units import UNIT, MiB, format_bytes

__all__ = ["LOG_LEAST", "LOG_MOST", "FileMedium"]

LOG_LEAST = UNIT
LOG_MOST = 64 * MiB
_AHEAD_SHARE, _AHEAD_MOST = 64, MiB
_PLACE = attrgetter("slot.file_off")


class FileMedium(HeapFile):
    """An open heap file that a region can lie in.

    Attributes
    ----------
    shadowed : bool
        Whether a region maps the tables privately beside their homes; set before it maps anything.
    region : Region or None
        The default arena, of which a recovery has mapped the homes.
    is_shown, shown : callable, ShownSpace, optional
        As `Medium` has it; which SPARE segments others may show.
    """

    shadowed = False
    is_shown: Callable[[], bool] | None = None
    shown: ShownSpace | None = None
    recovery: Any = None
    region: Region | None = None

    @cached_property
    def logs(self) -> LogMaps:
        """Where its log is mapped."""
        return LogMaps(self.name, self.header, self.maps)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that a region maps."""
        tables = ("data", "bits", "entries")
        return (*tables, "home_bits", "home_entries") if self.shadowed else tables

    @property
    def homes(self) -> tuple[str, str, str]:
        """Names of the tables that data, bits and entries are stored to in the file."""
        shadowed = "data", "home_bits", "home_entries"
        return shadowed if self.shadowed else ("data", "bits", "entries")

    @property
    def may_fault_ahead(self) -> bool:
        """Whether pages may be faulted in before they are stored to."""
        return self.on_memory and not self.private

    def step(self, nunits: int) -> int:
        """Return units to grow by."""
        return filespace.step(nunits, self.segments, in_memory=self.on_memory)

    def allocate(
        self, first_unit: int, nunits: int, arena: int = 0, at_least: int | None = None
    ) -> Piece:
        """Get a part of the file: a SPARE segment that fits, else behind the end.

        The tables have blocks then, and the first `at_least` units, or all.

        Raises
        ------
        OutOfSpaceError
            Disk, quota, limit, the segment table or the arena is full; the file is as it was.
        """
        index, slot = self._place_data(first_unit, nunits, arena)
        piece = Piece(first_unit, slot.nunits, slot, index, arena)
        self._obtain(index, slot, nunits if at_least is None else at_least)
        return piece

    def could_allocate(
        self, first_unit: int, nunits: int, arena: int = 0, at_least: int | None = None
    ) -> bool:
        """Tell whether file, limit and disk have room for them."""
        try:
            _, slot = self._place_data(first_unit, nunits, arena)
        except OutOfSpaceError:
            return False
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        fits = most == resource.RLIM_INFINITY or slot.file_stop <= most
        free = self.disk_free()
        needed = filespace.backed_bytes(slot, nunits if at_least is None else at_least)
        return fits and (free is None or needed <= free)

    def allocated(self) -> tuple[int, int]:
        """Return the length of the file and the bytes of its blocks."""
        with refusals(f"heap file {self.name!r}", self.name):
            status = native.fstat(self.fd)
        return status.size, status.allocated

    def disk_free(self) -> int | None:
        """Return the bytes that the file system has for this user; None where nobody can tell."""
        status = os.fstatvfs(self.fd)
        blocks = status.f_bavail if os.geteuid() else status.f_bfree
        free = [status.f_frsize * blocks] if status.f_blocks else []
        if self.on_memory:
            free += native.free_memory()
        return min(free, default=None)

    @cached_property
    def _memory(self) -> blocks.FreeMemory:
        """What it may fill, if it lies in memory."""
        return blocks.FreeMemory(self.name, self.disk_free)

    def _place_data(self, first_unit: int, nunits: int, arena: int) -> tuple[int, SegmentSlot]:
        """Choose index and file offset for a new segment of an arena."""
        if first_unit + nunits > layout.ARENA_UNITS_MOST:
            raise OutOfSpaceError(
                f"heap file {self.name!r} cannot grow by {format_bytes(nunits * UNIT)}: offsets "
                f"below 2^{layout.ARENA_BITS} expected in an arena, all used since it was made"
            )
        return self._place(SegmentSlot(SegmentKind.DATA, 0, nunits, arena, first_unit, nunits))

    def _place(self, slot: SegmentSlot) -> tuple[int, SegmentSlot]:
        """Choose index and file offset for a new segment.

        A DATA segment takes all of a SPARE one when half of the slots are used.
        """
        segments = self.header.slots.segments
        free = segments if self.shown is None else self.shown.spares(self)
        index = filespace.fitting_spare(free, slot.file_bytes)
        if index is None:
            slot = replace(slot, file_off=self.header.slots.end)
            index = filespace.free_index(segments)
        else:
            old = segments[index]
            slot = replace(slot, file_off=old.file_off)
            if slot.kind == SegmentKind.DATA and len(segments) > layout.SEGMENT_SLOTS // 2:
                slot = replace(slot, capacity=old.capacity, nunits=old.capacity)
            if old.file_bytes > slot.file_bytes and filespace.free_index(segments) is None:
                index = None
        if index is None:
            raise OutOfSpaceError(
                f"segment table of {self.name!r}: a free slot expected, "
                f"all {layout.SEGMENT_SLOTS} in use"
            )
        if self.limit is not None and slot.file_stop > self.limit:
            raise OutOfSpaceError(
                f"heap file {self.name!r} cannot grow by {format_bytes(slot.file_bytes)}: "
                f"limit {self.limit} bytes expected to hold, {slot.file_stop} would be needed"
            )
        return index, slot

    def _obtain(self, index: int, slot: SegmentSlot, at_least: int) -> None:
        """Get a segment, what is not data reading zero; durable in a power heap."""
        needed = filespace.backed_bytes(slot, at_least)
        if self.on_memory:
            self._memory.require(needed)
        self.require_ours("growth")  # a file that was cut must not become long again
        try:
            with blocks.as_out_of_space(self.name, needed):
                size, thread = self.watch.size_seen
                if thread != threading.get_ident() or size > self.header.slots.end:
                    self.cut_surplus()  # which could not be cut before; it has old tables
                used = index in self.segments
                start, stop = slot.file_off, slot.file_stop
                if used:
                    self._take_spare(slot, needed)
                else:
                    blocks.extend(self.fd, start, start + needed, stop, self.holes)
                if slot.kind == SegmentKind.LOG and (used or self.is_power):
                    # Written, even where it reads zero: else each sync commits an extent.
                    blocks.write_zeros(self.fd, slot.file_off, slot.file_bytes)
            if self.is_power and not (omitted(Rule.R16) or (used and omitted(Rule.SPARE_SYNC))):
                with self.noting_failed_sync("growth"):  # [R16]
                    blocks.sync_new(self.lock_fd, *filespace.unsynced(slot, used), self.watch)
            self.maps.note_size(stop)
        except BaseException:
            self.give_up(index, slot)
            raise

    def _take_spare(self, slot: SegmentSlot, needed: int) -> None:
        """Get blocks for a SPARE segment; its tables read zero: they may lie where data was."""
        self.holes.add(slot.file_off, slot.file_stop)
        if slot.kind == SegmentKind.DATA and not omitted(Rule.SPARE_TABLES):
            self.holes.punched(slot.data_off - slot.file_off)
            blocks.clear(self.fd, slot.file_off, slot.data_off - slot.file_off)
        blocks.back(self.fd, self.name, slot.file_off, slot.file_off + needed, self.holes)

    def abandon(self, piece: Piece) -> None:
        """Give the blocks of a piece back that never became part of the heap."""
        assert piece.slot is not None
        self.give_up(piece.index, piece.slot)

    def give_up(self, index: int, slot: SegmentSlot) -> None:
        """Give the blocks of a segment, or of a log, back that never became part of the file."""
        if self.sync_failed:  # a record that names the segment may be durable [R7]
            return
        with suppress(NativeError):
            if index in self.segments:
                self.holes.add(slot.file_off, slot.file_stop)
                self.holes.punched(slot.file_bytes)
                native.fallocate(self.fd, slot.file_off, slot.file_bytes, Allocate.PUNCH_HOLE)
            else:
                native.ftruncate(self.fd, self.header.slots.end)
                self.holes.cut(self.header.slots.end)

    def look_at(self, pieces: list[Piece], tables: Collection[str]) -> None:
        """Ask once how long the file is, before tables of segments are mapped, and the log."""
        block = self.header.superblock
        last = max(pieces, key=_PLACE).slot  # behind it nothing of the others lies
        assert last is not None
        stop = last.file_stop if "data" in tables else last.data_off
        try:
            self.require_length(max(stop, block.log_off + block.log_size))
        except Pmem2Error as error:
            raise map_refusal(f"heap file {self.name!r}: segments", error) from error

    def map_row(
        self, pieces: list[Piece], table: str, reservation: VMReservation, offset: int
    ) -> list[Map]:
        """Place one table's parts of some segments, one behind the other.

        How new ones are faulted in, `READ_AHEAD_BELOW` says.
        """
        own = self.private or (self.shadowed and table in {"bits", "entries"})
        places = list(map(PARTS[table], pieces))
        is_new = self.is_new or pieces[-1].index not in self.segments
        gains_by_more = self.shadowed and table == "data" and places[-1][0] < READ_AHEAD_BELOW
        by_page = is_new and not gains_by_more
        readonly = self.readonly and not self.private
        options = Options(shared=not own, readonly=readonly, by_page=by_page)
        return self.maps.place(reservation, offset, places, options)

    def publish(self, piece: Piece, end_unit: int) -> None:
        """Make a piece part of its arena, in one change [R30]."""
        assert piece.slot is not None
        expected = self.expected_arenas.get(piece.arena) or self.arenas[piece.arena]
        arena = replace(expected, end_unit=end_unit)
        slots = filespace.images(filespace.placed(self.segments, piece.index, piece.slot))
        slots.append((Table.ARENAS, piece.arena, arena.pack()))
        if omitted(Rule.R30):
            self.header.slots.adopt(slots)
        else:
            self.watch.asked_by = threading.get_ident()  # before its blocks were allocated
            try:
                self.change(slots)
            finally:
                self.watch.asked_by = 0
        self.expected_arenas.pop(piece.arena, None)

    def is_published(self, piece: Piece) -> bool:
        """Tell whether a piece is part of the heap."""
        return self.segments.get(piece.index) == piece.slot

    def keep_only(self, pieces: list[Piece]) -> None:
        """Do nothing: the next growth cuts the file behind its last segment."""

    def expect_arena(self, index: int, slot: ArenaSlot) -> None:
        """Keep the slot of a new arena for the change that brings its first segment."""
        self.expected_arenas[index] = slot

    def withdraw(self, pieces: list[Piece], first_unit: int, end_unit: int) -> None:
        """Take segments from their arena, in one change that is durable when this returns [R17].

        They become SPARE, merge with their neighbours, and leave the table at the end of the file.
        """
        slot = self.arenas[pieces[0].arena]
        self._withdraw(pieces, replace(slot, first_unit=first_unit, end_unit=end_unit))

    def drop_arena(self, pieces: list[Piece]) -> None:
        """Take an arena with all its segments out of the heap, as `withdraw` does [R17, R24]."""
        self._withdraw(pieces, self.arenas[pieces[0].arena].dropped())
        self.shown = shownspace.after_drop(self, pieces)

    def _withdraw(self, pieces: list[Piece], arena: ArenaSlot) -> None:
        spares = {piece.index: as_spare(piece.slot) for piece in pieces if piece.slot is not None}
        changes: filespace.SlotChanges = {**spares, **self._tidied({**self.segments, **spares})}
        image = Table.ARENAS, pieces[0].arena, arena.pack()
        self.change([image, *filespace.images(changes)], durable=True)

    def _tidied(self, segments: dict[int, SegmentSlot]) -> filespace.SlotChanges:
        """Return the changes that leave no SPARE segment at the end, unless a reader maps it."""
        try:
            cut = not locks.has_readers(self.lock_fd)
        except NativeError:  # the next give-back asks again
            cut = False
        return filespace.tidied(segments, cut=cut)

    def release(self, pieces: list[Piece]) -> None:
        """Cut the file behind its last segment in use, punch the SPARE ones.

        All of them, not just `pieces`: what was refused before is tried again.

        Raises
        ------
        OutOfSpaceError, DurabilityError
            The file system refused; the heap is sound, and larger than it need be.
        """
        self.require_ours("give-back")
        with refusals(f"heap file {self.name!r}: give-back"):
            self.change(filespace.images(self._tidied(self.segments)), durable=True)
            if not locks.has_readers(self.lock_fd):
                self.cut_surplus()
        for slot in (self.segments if self.shown is None else self.shown.spares(self)).values():
            if slot.kind == SegmentKind.SPARE:
                self._punch(slot.file_off, slot.file_bytes)

    def has_spare_below(self, piece: Piece) -> bool:
        """Tell whether a segment could lie lower in the file than this one."""
        assert piece.slot is not None
        least = layout.SEGMENT_UNITS * layout.UNIT_BYTES_IN_FILE
        return shownspace.is_spare_below(self, piece.slot.file_off, least)

    def punch(self, piece: Piece, address: int, start: int, nunits: int) -> None:
        """Give file blocks of units back."""
        self._punch(*self._data_range(piece, start, nunits))

    def _punch(self, offset: int, length: int) -> None:
        self.require_ours("give-back")
        self.holes.add(offset, offset + length)  # before: an interrupt may come
        self.holes.punched(length)
        try:
            blocks.changed(self.fd, offset, length, Allocate.PUNCH_HOLE)
        except NativeError as error:
            raise refusal(f"heap file {self.name!r}: give-back", error) from error

    def back(self, piece: Piece, start: int, nunits: int, *, known: bool = True) -> None:
        """Allocate file blocks for units that may have none, and some ahead; `holes` knows them."""
        offset, length = self._data_range(piece, start, nunits)
        stop = offset + length
        if not known:
            self.holes.add(offset, stop)
        else:
            ahead = min(self.file_end // _AHEAD_SHARE, _AHEAD_MOST)
            found = self.holes.within(offset, stop + ahead)
            if not found or found[0][0] >= stop:
                return
            if self.on_memory:
                self._memory.require(length)
            elif found[0][0] <= offset and found[0][1] > stop:
                assert piece.slot is not None
                end = min(found[0][1], piece.slot.file_stop)
                with suppress(OutOfSpaceError):  # then without what lies behind
                    blocks.fill(self.fd, self.name, [(offset, end)], self.holes)
                    return
        blocks.back(self.fd, self.name, offset, stop, self.holes)

    def doubt_blocks(self) -> None:
        """After an interrupt: anything may be a hole, as in a file that was opened."""
        ranges = self.header.holes(layout.HEADER_BYTES, self.header.slots.end)
        self.holes: holes.Holes = self.holes.doubted(ranges)

    @staticmethod
    def _data_range(piece: Piece, start: int, nunits: int) -> tuple[int, int]:
        """Return where units of a piece lie in the file, and how many bytes they are."""
        assert piece.slot is not None
        return piece.slot.data_off + (start - piece.first_unit) * UNIT, nunits * UNIT

    def places(self, arena: int, table: str, start: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield where bytes of a table of an arena, or of its data, lie in the file.

        Parameters
        ----------
        table : {"entries", "bits", "data"}
            Which part of the segments.
        start, length : int
            Bytes, from unit 0 on; what is in no segment is left out.

        Yields
        ------
        tuple of int and int
            Offset in the file, and bytes.
        """
        for piece in self.pieces(arena):
            offset, nbytes = PARTS[table](piece)
            begin = nbytes // piece.nunits * piece.first_unit
            first, stop = max(start, begin), min(start + length, begin + nbytes)
            if first < stop:
                yield offset + first - begin, stop - first

    def mark_strays_spare(self) -> None:
        """Say in the segment table that what a crash has left without an owner is SPARE."""
        strays, self.header.slots.strays = self.header.slots.strays, {}
        slots = [(Table.SEGMENTS, index, spare.pack()) for index, spare in strays.items()]
        self.change(slots, durable=True)

    # ------------------------------------------------------------ the log

    def log_slot(self) -> SegmentSlot:
        """Return the segment of the log that the superblock names."""
        place = self.header.superblock.log_off
        return next(
            slot
            for slot in self.header.slots.segments.values()
            if slot.kind == SegmentKind.LOG and slot.file_off == place
        )

    def map_log(self) -> Map:
        """Map the log in use to store to it; `look_at` has looked at the file."""
        return self.logs.map(self.log_slot())

    def allocate_log(self, nbytes: int) -> tuple[int, SegmentSlot]:
        """Make a further log of zeros, of which the segment table knows nothing yet [R28].

        Parameters
        ----------
        nbytes : int
            `LOG_LEAST` to `LOG_MOST`, whole pages.

        Returns
        -------
        tuple of int and SegmentSlot
            What `log_slots` and `give_up` want.

        Raises
        ------
        OutOfSpaceError, DurabilityError
            As `allocate`.
        """
        if not LOG_LEAST <= nbytes <= LOG_MOST or nbytes % UNIT:
            raise UsageError(
                f"log: whole pages, {LOG_LEAST} to {LOG_MOST} bytes, expected, {nbytes} found"
            )
        index, slot = self._place(SegmentSlot(SegmentKind.LOG, 0, nbytes // UNIT))
        self._obtain(index, slot, 0)
        return index, slot

    def log_slots(self, index: int, slot: SegmentSlot) -> list[SlotImage]:
        """Return the slots to change to make a new log part of the file."""
        return filespace.images(filespace.placed(self.segments, index, slot))

    def drop_logs(self) -> None:
        """Turn every log that the superblock does not name into SPARE, durably [R28]; punch it."""
        spares = {
            index: as_spare(slot)
            for index, slot in self.segments.items()
            if slot.kind == SegmentKind.LOG and slot.file_off != self.header.superblock.log_off
        }
        changes: filespace.SlotChanges = {**spares, **self._tidied({**self.segments, **spares})}
        self.change(filespace.images(changes), durable=True)
        with suppress(OutOfSpaceError):  # the next give-back asks again
            for index in spares.keys() & self.segments.keys():
                self._punch(spares[index].file_off, spares[index].file_bytes)

    # ------------------------------------------------------------ end

    def close(self) -> None:
        """Unmap the log, sync, say in the file that it was closed, and let it go."""
        self.logs.unmap()
        super().close()
        self.journal: Journal | None = None  # which holds the medium

    def let_go(self) -> None:
        """Unmap what a recovery has mapped, and close the descriptors, as `HeapFile.let_go`."""
        region, self.region = self.region, None
        if region is not None:
            region.close()
        super().let_go()
