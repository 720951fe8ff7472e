"""Region: memory that grows without moving. Tables that run beside the data, each in a reservation.

    logical unit      first_unit                                end_unit
    segments          |  1 MiB   |  1 MiB   |   ...   |  a part of it |
    data              [==========|==========|=========|=============]......... headroom
    bits              [==|==|==|====]......................................... headroom
    units             [==|==|==|====]......................................... headroom
    entries (files)   [=|=|=|==]...........................................   headroom
    home_bits, home_entries (power heaps): the same parts of the file once more

A unit has 4096 bytes in the data table, 32 in the bits and in the units table, 16 in the entries
table. Each table is one reservation, so that each is contiguous and none can be reached by an
overrun of another. The region grows by whole *segments* at the end and gives whole segments back at
both ends; inside, the pages of free units are given back by punching.

`Table.base` is the one place where a logical unit becomes an address: the address that unit 0 would
have. It never changes in the life of a region.

What stands behind the tables is the *medium*: `AnonymousMedium`, or a file in `filemedium`. A
failed growth leaves everything as it was. Not thread-safe: the heap locks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial

from pmemheap import native
from pmemheap.errors import DurabilityError, OutOfSpaceError, Pmem2Error, PmemHeapError
from pmemheap.format.layout import DATA_WIDTH, SEGMENT_UNITS
from pmemheap.native import AddressRange, Advice
from pmemheap.native.rules import Rule, omitted
from pmemheap.pmem2 import Map, space
from pmemheap.pmem2.row import anonymous_row
from pmemheap.space.ledger import Ledger
from pmemheap.space.medium import Medium, Piece
from pmemheap.space.segments import Segment, closed, runs_of
from pmemheap.space.tables import WIDTHS, Reserved, Table
from pmemheap.units import MiB, TiB, align_up, format_bytes

__all__ = ["DEFAULT_HEADROOM", "Region"]

DEFAULT_HEADROOM: int = TiB
"""Address space that is kept free behind a heap, unless something else is asked for."""
_HUGE_TABLE_LEAST = 16 * MiB
"""A volatile table of this size is filled at once when a heap is read: huge pages save faults."""


class Region:
    """The growing memory of one arena.

    Parameters
    ----------
    medium : Medium
        Where bytes come from.
    headroom : int, optional
        Bytes of address space to keep free behind the data; a wish, see `VMReservation`. None:
        `usual`, as far as a limit on address space leaves room for the program.
    arena : int
        Number of the arena.
    first_unit : int
        Where its first segment begins, if it has none yet.
    beside : callable
        Returns those of the same heap.

    Attributes
    ----------
    ledger : Ledger or None
        Of the budget that the heap is in, which is asked for each growth.
    """

    def __init__(  # noqa: PLR0913 -- what, where, and how much room there is to be
        self,
        medium: Medium,
        headroom: int | None = None,
        *,
        usual: int = DEFAULT_HEADROOM,
        arena: int = 0,
        first_unit: int = 0,
        beside: Callable[[], Iterable[Region]] = tuple,
    ) -> None:
        self._medium = medium
        self._arena = arena
        self._origin = first_unit
        self.headroom_wish = headroom
        self._segments: list[Segment] = []
        self._starts: list[int] = []  # of the segments: always changed together with them
        self._to_unmap: list[list[Map]] = []
        self.tables: dict[str, Table] = {}
        self.ledger: Ledger | None = None
        self._reserved = Reserved(self._affordable(headroom, usual, beside) // DATA_WIDTH)
        self.growths: int = 0
        self.shrinks: int = 0

    # ------------------------------------------------------------ what it is

    @property
    def first_unit(self) -> int:
        """The first unit that is mapped."""
        return self._segments[0].piece.first_unit

    @property
    def end_unit(self) -> int:
        """The unit behind the last."""
        return self._segments[-1].piece.stop if self._segments else self._origin

    @property
    def nunits(self) -> int:
        """Units that are mapped."""
        segments = self._segments  # which another thread may change, if it is asked for a budget
        return segments[-1].piece.stop - segments[0].piece.first_unit if segments else 0

    @property
    def mapped_bytes(self) -> int:
        """Bytes of all tables that are mapped."""
        return self.nunits * sum(table.width for table in self.tables.values())

    @property
    def headroom(self) -> int:
        """Bytes of data that fit into the address space kept free behind the region."""
        return min(
            table.reservation.headroom // table.width * DATA_WIDTH for table in self.tables.values()
        )

    @property
    def headroom_bytes(self) -> int:
        """Bytes of address space that are kept free behind all tables together."""
        kept = sum(table.reservation.headroom for table in self.tables.values())
        return kept + self._reserved.headroom_bytes

    @property
    def address_ranges(self) -> tuple[AddressRange, ...]:
        """The objects that keep the tables mapped."""
        return tuple([table.address_range for table in self.tables.values()])

    @property
    def pieces(self) -> list[Piece]:
        """The segments, by address."""
        return [segment.piece for segment in self._segments]

    def base(self, table: str) -> int:
        """Address that unit 0 would have in a table; 0 if the region has no such table."""
        return self.tables[table].base if table in self.tables else 0

    # ------------------------------------------------------------ growing

    def adopt(self, pieces: list[Piece], only: tuple[str, ...] = ()) -> None:
        """Map the segments of a heap that exists already, in order of their units.

        Parameters
        ----------
        only : tuple of str
            The tables to map, if not all: `complete` does the rest.
        """
        if only:
            self._append(pieces, only)
        elif pieces:
            self._append(pieces, self._names)
            self._prepare_units()

    def complete(self) -> None:
        """Map the tables that `adopt` has left out, or an interrupt before; all or none."""
        self._unmap_strays()
        missing = [name for name in self._names if name not in self._segments[0].maps]
        self._fill(self._segments, missing)
        self._prepare_units()

    @property
    def _names(self) -> tuple[str, ...]:
        """The tables it should have."""
        return (*self._medium.tables, "units")

    def _affordable(
        self, wish: int | None, usual: int, beside: Callable[[], Iterable[Region]]
    ) -> int:
        """Return for how many bytes of data address space is to be kept free.

        What is asked for is tried if the process may have as much. What is not asked for, or is
        too much, must leave room for the rest of the program.
        """
        width = sum(map(WIDTHS.__getitem__, self._names))
        if wish is not None and wish // DATA_WIDTH * width <= space.left():
            return wish
        held = partial(_headroom_of, beside)
        affordable = space.affordable_headroom(held) // width * DATA_WIDTH
        return min(usual if wish is None else wish, affordable)

    def _prepare_units(self) -> None:
        units = self.tables["units"]
        if units.reservation.size >= _HUGE_TABLE_LEAST:
            with suppress(native.NativeError):
                native.madvise(units.reservation.address, units.reservation.size, Advice.HUGEPAGE)

    def grow(self, nunits: int, at_least: int) -> Piece:
        """Append a segment of `nunits` units, or of fewer, down to `at_least`.

        Raises
        ------
        OutOfSpaceError
            There is no space, no address space or no budget for `at_least` units; nothing has
            changed.
        """
        unit = 1 if omitted(Rule.R25) else SEGMENT_UNITS
        wish = align_up(max(nunits, at_least), unit)
        least = align_up(at_least, unit)
        grow_by = self._grow_by
        if self.ledger is not None:
            grow_by = self._grow_in_budget
            wish = max(least, self._modest(wish) // unit * unit)
        while True:
            try:
                return grow_by(wish, at_least)
            except OutOfSpaceError:
                if wish == least:
                    raise
                wish = max(least, align_up(wish // 2, SEGMENT_UNITS))

    def _modest(self, nunits: int) -> int:
        """Return for how much to ask a budget: an eighth, for others want to grow as well."""
        room = 0 if self.ledger is None else self.ledger.room() // DATA_WIDTH
        return min(nunits, self.nunits // 8, room)

    def could_grow(self, at_least: int) -> bool:
        """Tell whether a segment of `at_least` units could be had now. Changes nothing."""
        nunits = align_up(at_least, SEGMENT_UNITS)
        stop = self.end_unit + nunits
        return (
            (self.ledger is None or nunits * DATA_WIDTH <= self.ledger.room())
            and self._medium.could_allocate(self.end_unit, nunits, self._arena, at_least)
            and all(table.could_stretch(stop) for table in self.tables.values())
        )

    def _grow_in_budget(self, nunits: int, at_least: int) -> Piece:
        if self.ledger is None:
            return self._grow_by(nunits, at_least)
        with self.ledger.growth(nunits * DATA_WIDTH):
            return self._grow_by(nunits, at_least)

    def _grow_by(self, nunits: int, at_least: int) -> Piece:
        piece = self._medium.allocate(self.end_unit, nunits, self._arena, at_least)
        try:
            self._append([piece], self._names, new=True)
        except BaseException:
            self._medium.abandon(piece)
            raise
        try:
            self._medium.publish(piece, piece.stop)
        except PmemHeapError as error:  # after an interrupt `mend` finds out what became of it
            self._retract()
            if not isinstance(error, DurabilityError):  # else it may be part of the heap
                self._medium.abandon(piece)
            raise
        self.growths += 1
        return piece

    def _retract(self) -> None:
        """Undo the latest `_append`."""
        last = self._segments[-1]
        self._segments, self._starts = self._segments[:-1], self._starts[:-1]
        self._unmap([last])
        self._narrow_tables()

    def _append(self, pieces: list[Piece], names: Collection[str], *, new: bool = False) -> None:
        """Extend tables and map the parts of pieces; all or nothing.

        Parameters
        ----------
        new : bool
            Their space was allocated just now: it is there.
        """
        self._unmap([])
        segments = [Segment(piece, {}) for piece in pieces]
        self._fill(segments, names, new=new)
        starts = [piece.first_unit for piece in pieces]
        self._segments, self._starts = [*self._segments, *segments], [*self._starts, *starts]

    def _fill(self, segments: list[Segment], names: Collection[str], *, new: bool = False) -> None:
        """Extend tables and map the parts of segments there; all or nothing."""
        pieces = [segment.piece for segment in segments]
        try:
            if not new:
                self._medium.look_at(pieces, names)
            if not self.tables:
                first, stop = pieces[0].first_unit, pieces[-1].stop
                self._reserved.begin(self._names, first, stop - first)
            for name in names:
                table = self._table_up_to(name, pieces)
                for segment, part in zip(segments, self._map_row(table, pieces), strict=True):
                    segment.maps[name] = part
        except BaseException as error:
            self._unmap(segments, names)
            self._narrow_tables()
            if isinstance(error, Pmem2Error):
                raise _no_address_space(pieces, error, own=bool(self._to_unmap)) from error
            raise

    def _table_up_to(self, name: str, pieces: list[Piece]) -> Table:
        """Return a table with room for pieces at its end; the first ones make it."""
        first, stop = pieces[0].first_unit, pieces[-1].stop
        table = self.tables.get(name)
        if table is None:
            table = self._reserved.take(name, first, stop - first)
            self.tables[name] = table
        else:
            table.stretch(stop)
        return table

    def _map_row(self, table: Table, pieces: list[Piece]) -> list[Map]:
        line = table.reservation
        offset = table.base + pieces[0].first_unit * table.width - table.address_range.start
        if table.name == "units":
            lengths = [piece.nunits * table.width for piece in pieces]
            return anonymous_row(line, offset, lengths)
        return self._medium.map_row(pieces, table.name, line, offset)

    def _narrow_tables(self) -> None:
        """Let no table reserve more than the segments need.

        What the kernel refuses to take stays reserved, harmless, until the next time.
        """
        for name, table in list(self.tables.items()):
            with suppress(Pmem2Error):
                if self._segments:
                    table.narrow(self.first_unit, self.end_unit)
                else:
                    table.reservation.close()
                    del self.tables[name]
        if not self.tables:
            self._reserved.clear()

    def _unmap(self, segments: list[Segment], names: Iterable[str] | None = None) -> None:
        """Unmap the parts of segments, in all tables or some.

        What the kernel refuses to unmap stays mapped, harmless, until the next time.
        """
        names = list(self.tables if names is None else names)
        for run in runs_of(segments):
            for name in names:
                row = [segment.maps.pop(name) for segment in run if name in segment.maps]
                self._to_unmap.append(row)
        self._to_unmap = [left for row in self._to_unmap if (left := closed(row))]

    # ------------------------------------------------------------ giving back

    def droppable_tail(self, from_unit: int) -> int:
        """Return the first unit of the whole segments at the end that lie behind `from_unit`.

        The first segment stays: a reservation cannot shrink to nothing.
        """
        stop = self.end_unit
        for segment in self._segments[:0:-1]:
            if segment.piece.first_unit < from_unit:
                break
            stop = segment.piece.first_unit
        return stop

    def droppable_head(self, to_unit: int) -> int:
        """Return the unit behind the whole segments at the start that end before `to_unit`."""
        first = self.first_unit
        for segment in self._segments[:-1]:
            if segment.piece.stop > to_unit:
                break
            first = segment.piece.stop
        return first

    def can_sink(self) -> bool:
        """Tell whether a new segment would lie lower in the file than all there are."""
        return all(self._medium.has_spare_below(piece) for piece in self.pieces)

    def cheapest_segment(self) -> tuple[int, int]:
        """Return the segment to keep of an empty region: lowest in the file, or shortest."""
        pieces = self.pieces
        best = min(pieces, key=lambda p: (p.slot.file_stop if p.slot else p.nunits, p.first_unit))
        return best.first_unit, best.stop

    def cut(self, first_unit: int, end_unit: int) -> None:
        """Keep only ``[first_unit, end_unit)``: borders of segments, at least one between them.

        Raises
        ------
        OutOfSpaceError, DurabilityError
            The medium could not take space back. The region ends where it was told to all the same,
            and the next cut tries again.
        """
        head = [s for s in self._segments if s.piece.stop <= first_unit]
        tail = [s for s in self._segments if s.piece.first_unit >= end_unit]
        gone = head + tail
        pieces = [segment.piece for segment in gone]
        if gone:
            self._medium.withdraw(pieces, first_unit, end_unit)
            self._keep([segment for segment in self._segments if segment not in gone])
            self.shrinks += len(gone)
        self._unmap(gone)
        self._narrow_tables()
        self._medium.release(pieces)

    def _keep(self, segments: list[Segment]) -> None:
        starts = [segment.piece.first_unit for segment in segments]
        self._segments, self._starts = segments, starts

    def mend(self) -> None:
        """After an interrupt: unmap what is no part of the heap, and what no segment knows of."""
        self._keep([each for each in self._segments if self._medium.is_published(each.piece)])
        self._unmap_strays()
        self._narrow_tables()

    def _unmap_strays(self) -> None:
        """Unmap what no segment knows of."""
        known = {id(part) for segment in self._segments for part in segment.maps.values()}
        parts = [part for table in self.tables.values() for part in table.reservation.maps()]
        self._to_unmap = [[part] for part in parts if id(part) not in known]
        self._unmap([])

    def punch(self, start: int, nunits: int) -> None:
        """Give the pages of free units back; they read zero afterwards."""
        for piece, first, count in self._parts(start, nunits):
            self._medium.punch(piece, self.tables["data"].address(first), first, count)

    def back(self, start: int, nunits: int) -> None:
        """Make sure that stores to the units find space; OutOfSpaceError if they would not."""
        for piece, first, count in self._parts(start, nunits):
            self._medium.back(piece, first, count)

    def _parts(self, start: int, nunits: int) -> list[tuple[Piece, int, int]]:
        """Split a range of units at the borders of the segments."""
        parts = []
        index = bisect_right(self._starts, start) - 1
        while index < len(self._segments) and self._starts[index] < start + nunits:
            piece = self._segments[index].piece
            first, stop = max(start, piece.first_unit), min(start + nunits, piece.stop)
            parts.append((piece, first, stop - first))
            index += 1
        return parts

    # ------------------------------------------------------------ insight, end

    def residency(
        self, listing: Callable[[], bytes] = native.list_mappings
    ) -> dict[str, native.Residency]:
        """Return what the kernel counts behind each table.

        Parameters
        ----------
        listing : callable, optional
            As `native.residencies` has it.

        Raises
        ------
        OSError
            It cannot be counted: there is no file descriptor left.
        """
        lines = {name: table.address_range for name, table in self.tables.items()}
        ranges = {name: (line.start, line.end) for name, line in lines.items()}
        return native.residencies(ranges, listing)

    def check(self) -> None:
        """Verify that segments and tables agree; raises AssertionError."""
        expected = self._segments[0].piece.first_unit
        for segment in self._segments:
            assert segment.piece.first_unit == expected, "segments are contiguous"
            assert segment.piece.nunits % SEGMENT_UNITS == 0
            assert segment.maps.keys() == self.tables.keys()
            expected = segment.piece.stop
            for name, part in segment.maps.items():
                table = self.tables[name]
                assert part.address == table.address(segment.piece.first_unit)
                assert part.length == segment.piece.nunits * table.width
        for table in self.tables.values():
            assert table.offset(self.first_unit) >= 0
            assert table.offset(self.end_unit) <= table.reservation.size

    def close(self) -> None:
        """Unmap everything. Views of the memory must be gone: they keep the address ranges."""
        self._unmap(self._segments)
        self._keep([])
        self._reserved.clear()
        for table in self.tables.values():
            with suppress(Pmem2Error):  # it goes with the last reference to its addresses
                table.reservation.close()


def _headroom_of(regions: Callable[[], Iterable[Region]]) -> int:
    return sum(region.headroom_bytes for region in regions())


def _no_address_space(pieces: list[Piece], error: Pmem2Error, *, own: bool) -> OutOfSpaceError:
    wanted = format_bytes(sum(piece.nunits for piece in pieces) * DATA_WIDTH)
    if error.name == "PMEM2_E_MAPPING_EXISTS" and not own:  # but of what could not be unmapped
        why = (
            "the headroom is used up and another mapping of the process lies behind it; "
            "a larger headroom= when the heap is opened would help"
        )
    else:
        why = "the process has no address space or no mappings left (RLIMIT_AS, vm.max_map_count)"
    return OutOfSpaceError(
        f"heap cannot grow by {wanted} at unit {pieces[0].first_unit}: {why}: {error}"
    )
