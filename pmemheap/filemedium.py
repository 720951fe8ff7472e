"""File medium: the segments of a heap file, as the memory of a region.

    grow     a SPARE segment that fits, or the end of the file; blocks are allocated before mapping
    return   slot SPARE, blocks punched; at the end of the file also cut

    file     | header | log | DATA | SPARE | DATA | DATA | ...
    slot                 0      1      2      3      4       `first_unit` says where it is mapped

What is allocated here has real blocks: a store to it cannot fail for want of space. Where blocks
may be missing, after a punch or in a file that was copied, `back` gets them before units are handed
out.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

from pmemheap import layout, native
from pmemheap.errors import OutOfSpaceError
from pmemheap.heapfile import HeapFile, as_spare, refusals, write_zeros
from pmemheap.layout import SegmentKind, SegmentSlot
from pmemheap.native import Advice, Allocate, NativeError
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.pmem2.mapping import Access
from pmemheap.region import Piece, refusal
from pmemheap.units import UNIT, MiB, format_bytes

__all__ = ["FileMedium"]

_MEMORY_STEP_MOST = 64 * MiB // UNIT


class FileMedium(HeapFile):
    """An open heap file that a region can lie in."""

    tables: tuple[str, ...] = ("data", "bits", "entries")

    def step(self, nunits: int) -> int:
        """Return units to grow by: an eighth, so that the slots last; more when half are used.

        A memory file system fills every page it allocates: no more than 64 MiB at a time there.
        """
        step = max(layout.SEGMENT_UNITS, nunits // 8)
        if len(self.segments) > layout.SEGMENT_SLOTS // 2:
            return 2 * step
        return min(step, _MEMORY_STEP_MOST) if self.on_memory else step

    def allocate(self, first_unit: int, nunits: int) -> Piece:
        """Get file blocks: of a SPARE segment that fits, else behind the end.

        Raises
        ------
        OutOfSpaceError
            Disk, quota, limit or the segment table is full; the file is as it was.
        """
        spare = self._fitting_spare(nunits)
        index = spare if spare is not None else self._free_index()
        if spare is not None:
            old = self.segments[spare]
            taken = nunits if len(self.segments) <= layout.SEGMENT_SLOTS // 2 else old.capacity
            slot = SegmentSlot(SegmentKind.DATA, old.file_off, taken, 0, first_unit, taken)
        else:
            slot = SegmentSlot(SegmentKind.DATA, self.file_end, nunits, 0, first_unit, nunits)
        if self.limit is not None and slot.file_stop > self.limit:
            raise OutOfSpaceError(
                f"heap file {self.name!r} cannot grow by {format_bytes(slot.file_bytes)}: "
                f"limit {self.limit} bytes expected to hold, {slot.file_stop} would be needed"
            )
        piece = Piece(first_unit, slot.nunits, slot, index)
        try:
            with self._as_out_of_space(slot.file_bytes):
                if spare is not None:
                    self._clear_tables(slot)
                self._allocate_blocks(slot)
            if self.is_power:
                self._sync("growth")
        except BaseException:
            self.abandon(piece)
            raise
        return piece

    def _clear_tables(self, slot: SegmentSlot) -> None:
        """Let the tables of a segment read zero: they may lie where unpunched data was."""
        length = slot.data_off - slot.file_off
        try:
            native.fallocate(self.fd, slot.file_off, length, Allocate.PUNCH_HOLE)
        except NativeError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            write_zeros(self.fd, slot.file_off, length)

    def _fitting_spare(self, nunits: int) -> int | None:
        """Return the lowest in the file, so that its end can be cut off."""
        fitting = [
            (slot.file_off, index)
            for index, slot in self.segments.items()
            if slot.kind == SegmentKind.SPARE and slot.capacity >= nunits
        ]
        return min(fitting)[1] if fitting else None

    def _free_index(self) -> int:
        for index in range(layout.SEGMENT_SLOTS):
            if index not in self.segments:
                return index
        raise OutOfSpaceError(
            f"segment table of {self.name!r}: a free slot expected, "
            f"all {layout.SEGMENT_SLOTS} in use"
        )

    def abandon(self, piece: Piece) -> None:
        """Give the blocks of a piece back that never became part of the heap."""
        assert piece.slot is not None
        with suppress(NativeError):
            if piece.index in self.segments:
                native.fallocate(
                    self.fd, piece.slot.file_off, piece.slot.file_bytes, Allocate.PUNCH_HOLE
                )
            else:
                native.ftruncate(self.fd, self.file_end)

    def map(self, piece: Piece, table: str, reservation: VMReservation, offset: int) -> Map:
        """Place one table's part of a segment.

        The tables of a new segment are told to fault in single pages: with read-ahead the first
        store to fresh blocks makes ext4 fill a folio of 2 MiB, which takes 2 ms (Linux 6.18).
        """
        file_offset, length = _part_of(piece, table)
        access: Access = "r" if self.readonly else "rw"
        part = Map.file(self.fd, reservation, offset, length, file_offset, access=access)
        if table != "data" and (self._is_new or piece.index not in self.segments):
            with suppress(NativeError):
                native.madvise(part.address, length, Advice.RANDOM)
        return part

    def privatize(self, piece: Piece, table: str, address: int) -> None:
        """Map a part again, privately: what a forked child stores does not reach the file."""
        file_offset, length = _part_of(piece, table)
        native.map_file(self.fd, file_offset, address, length, shared=False)

    def publish(self, piece: Piece, end_unit: int) -> None:
        """Store slot and arena range."""
        assert piece.slot is not None
        spare = self.segments.get(piece.index)
        self._put_segment(piece.index, piece.slot)
        if spare is not None and spare.capacity > piece.slot.capacity:
            rest = spare.capacity - piece.slot.capacity
            slot = SegmentSlot(SegmentKind.SPARE, piece.slot.file_stop, rest)
            self._put_segment(self._free_index(), slot)
        self._put_arena(self.arena.first_unit, end_unit)

    def withdraw(self, pieces: list[Piece], first_unit: int, end_unit: int) -> None:
        """Turn segments into SPARE ones and store the smaller range."""
        self._put_arena(first_unit, end_unit)
        for piece in pieces:
            assert piece.slot is not None
            self._put_segment(piece.index, as_spare(piece.slot))

    def release(self, pieces: list[Piece]) -> None:
        """Merge neighbouring SPARE segments, cut the file behind the last other, punch the rest.

        All of them, not just `pieces`: what was refused before is tried again.

        Raises
        ------
        OutOfSpaceError, DurabilityError
            The file system refused; the heap is sound, and larger than it need be.
        """
        self._merge_spares()
        with refusals(f"heap file {self.name!r}: give-back"):
            self._cut_end()
        for slot in self.segments.values():
            if slot.kind == SegmentKind.SPARE:
                self._punch(slot.file_off, slot.file_bytes)

    def has_spare_below(self, piece: Piece) -> bool:
        """Tell whether a segment could lie lower in the file than this one."""
        assert piece.slot is not None
        spare = self._fitting_spare(layout.SEGMENT_UNITS)
        return spare is not None and self.segments[spare].file_off < piece.slot.file_off

    def _cut_end(self) -> None:
        """Cut the file behind its last segment in use, unless a reader has the rest mapped."""
        if self._has_readers():
            return
        last = max(self.segments, key=lambda index: self.segments[index].file_off)
        slot = self.segments[last]
        is_spare = slot.kind == SegmentKind.SPARE
        if is_spare:
            self._put_segment(last, None)
        try:
            self._cut_surplus()
        except BaseException:
            if is_spare:
                self._put_segment(last, slot)
            raise

    def _merge_spares(self) -> None:
        by_place = sorted(self.segments, key=lambda index: self.segments[index].file_off)
        for left, right in pairwise(by_place):
            first, second = self.segments[left], self.segments[right]
            if first.kind == second.kind == SegmentKind.SPARE:
                self._put_segment(left, None)
                merged = replace(first, capacity=first.capacity + second.capacity)
                self._put_segment(right, merged)

    def punch(self, piece: Piece, address: int, start: int, nunits: int) -> None:
        """Give file blocks of units back."""
        self._punch(*self._data_range(piece, start, nunits))

    def _punch(self, offset: int, length: int) -> None:
        try:
            native.fallocate(self.fd, offset, length, Allocate.PUNCH_HOLE)
        except NativeError as error:
            if error.errno == errno.EOPNOTSUPP:
                return
            raise refusal(f"heap file {self.name!r}: give-back", error) from error
        self.maybe_holes = True

    def back(self, piece: Piece, start: int, nunits: int) -> None:
        """Allocate file blocks for units that may have none."""
        if not self.maybe_holes:
            return
        offset, length = self._data_range(piece, start, nunits)
        with self._as_out_of_space(length):
            try:
                native.fallocate(self.fd, offset, length, Allocate.KEEP_SIZE)
            except NativeError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise

    @staticmethod
    def _data_range(piece: Piece, start: int, nunits: int) -> tuple[int, int]:
        assert piece.slot is not None
        return piece.slot.data_off + (start - piece.first_unit) * UNIT, nunits * UNIT


def _part_of(piece: Piece, table: str) -> tuple[int, int]:
    """Return file offset and length of one table's part of a segment."""
    slot = piece.slot
    assert slot is not None
    offset, width = {
        "entries": (slot.entries_off, layout.ENTRY_WIDTH),
        "bits": (slot.bits_off, layout.BITS_WIDTH),
        "data": (slot.data_off, layout.DATA_WIDTH),
    }[table]
    return offset, piece.nunits * width
