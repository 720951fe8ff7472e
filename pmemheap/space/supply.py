"""Supply: who gets units from where. The policy between the C pool, the extents and the region.

                  units                               bytes
    pool (C) <-- refill -----+                 +-- grow --> region --> medium
                             supply -- extents +
    large blocks <- allocate +                 +-- `giveback` --> region --> medium

A request is served by, in this order: an extent that was freed; units that were never used; a piece
of the heap that has not been read since it was opened; what the C pool can spare; growth.

All calls are made under the heap's lock, except for what the C core says of itself. Ranges cross
into C many at a time. `rebuild` makes the volatile half anew from what the core describes, after an
interrupt left it in doubt.
"""

from __future__ import annotations

from collections.abc import Callable

from pmemheap.errors import CorruptHeapError, OutOfSpaceError
from pmemheap.format.layout import BACKED_UNITS
from pmemheap.native import HeapDoors
from pmemheap.native.constants import POOL_MOST, TAKE_ALL, TAKE_RETURNED
from pmemheap.space.extents import Extent, ExtentMap
from pmemheap.space.ledger import OverBudgetError
from pmemheap.space.medium import Medium
from pmemheap.space.region import Region

__all__ = ["Supply"]

_REFILL_LEAST = 64
_REFILL_MOST = 1024
_BACKED_SHARE = 16
_REFILL_SHARE = 64
_ROW, _ROW_SHARE = 16, 16  # so many of one length come soon, as long as that is little of all
_END_LEAST, _END_MOST, _END_SHARE = 1024, 16384, 8
_FAULTED_SHARE = 64
_FRAGMENTS_MOST = 32
_READ_UNITS = 1 << 16


class Supply:
    """Units for one arena.

    Parameters
    ----------
    core : HeapDoors
        The C half of the heap.
    region : Region
        Its memory, with at least one segment.
    fresh : bool
        Whether nothing has ever been allocated in it.

    Attributes
    ----------
    shown : callable, optional
        As `Medium.is_shown`, until it has said no.
    """

    def __init__(self, core: HeapDoors, region: Region, medium: Medium, *, fresh: bool) -> None:
        self._core = core
        self._medium = medium
        self.region = region
        first, end = region.first_unit, region.end_unit
        self.extents: ExtentMap = self._map(first if fresh else end, end)
        core.set_bounds(first, end, end if fresh else first)
        self.shown: Callable[[], bool] | None = None if fresh else medium.is_shown
        self._shown_to: int = end if self.shown else first
        if self.shown is not None:
            core.set_is_shown(True)

    def _map(self, wilderness: int, end: int) -> ExtentMap:
        """Return a map in which the units from `wilderness` on are free, and no others."""
        return ExtentMap(wilderness, end)

    # ------------------------------------------------------------ serving

    def refill(self, nunits: int) -> None:
        """Bring the pool nearer to a free range of `nunits` units (at most 63).

        One step at a time: the caller asks the pool again and comes back until it is served.

        Raises
        ------
        OutOfSpaceError
            Nothing is left and the region cannot grow.
        """
        self._take_returned()
        extents, wish = self.extents, self._wish(nunits)
        extent = extents.shortest(nunits)
        if extent is not None:
            start, length = extent[0], min(extent[1], wish)
            extents.take(start, length)
            ranges = self._backed_as_far([(start, length)], nunits)
            self._core.deallocate_units(ranges + self._fragments(_FRAGMENTS_MOST), False)
        elif extents.room_at_end() >= nunits:
            start, length = extents.wilderness, min(wish, extents.end - extents.wilderness)
            before = extents.take_ending(start, POOL_MOST)
            extents.take(start, length)
            taken = [(start - before, before), (start, length)] if before else [(start, length)]
            ranges = self._backed_as_far(taken, max(nunits - before, 1))
            self._fault_in(*ranges[-1])
            self._core.deallocate_units(ranges, ranges == taken)
        elif not self.read_on():
            self._grow_or_gather(nunits)

    def refill_end(self, nunits: int) -> None:
        """Bring units to the end of the core's: `nunits` in one piece, and some more.

        All that the core has freed was taken back before.

        Raises
        ------
        OutOfSpaceError
            The region cannot grow.
        """
        extents = self.extents
        if extents.room_at_end() < nunits:
            self._grow(nunits)
        wish = max(nunits, min(self.region.nunits // _END_SHARE, _END_MOST), _END_LEAST)
        before = extents.room_before(extents.wilderness)
        start, border = extents.wilderness - before, extents.wilderness
        stop = min(start + wish, extents.end)
        if before:
            extents.take(start, min(stop, border) - start)
        if stop > border:
            extents.take(border, stop - border)
        ranges = self._backed_as_far([(start, stop - start)], nunits)
        self._core.deallocate_units(ranges, True)

    def _fault_in(self, start: int, nunits: int) -> None:
        """Let the pages of new units be there, if they are little of what the heap has.

        A call for many takes two thirds of what a fault for each takes.
        """
        if nunits * _FAULTED_SHARE <= self.region.nunits and self._medium.may_fault_ahead:
            self.region.tables["data"].fault_in(start, nunits)

    def _wish(self, nunits: int) -> int:
        """Return how many units the pool is given when it has to have `nunits`."""
        least = _REFILL_LEAST
        if self._medium.maybe_holes:
            least = max(BACKED_UNITS, min(self.region.nunits // _BACKED_SHARE, least))
        share = min(self.region.nunits // _REFILL_SHARE, _REFILL_MOST)
        row = min(nunits * _ROW, self.region.nunits // _ROW_SHARE)
        return max(nunits, share, row, least)

    def _fragments(self, count: int) -> list[Extent]:
        """Take some short extents for the pool as well, while we are here."""
        try:
            return self._backed(self.extents.take_shortest(count, POOL_MOST))
        except OutOfSpaceError:
            return []

    def allocate(self, nunits: int, align: int = 1, *, roomy: bool = False) -> int:
        """Take units for a large block; they belong to nobody until the caller describes them.

        Parameters
        ----------
        nunits, align : int
            Units.
        roomy : bool
            The block is likely to grow.

        Raises
        ------
        OutOfSpaceError
            Nothing is left and the region cannot grow.
        """
        self._take_returned()
        has_grown = False
        while (start := self.extents.allocate(nunits, align, roomy=roomy)) is None:
            try:
                if not self.read_on(POOL_MOST + 1):
                    has_grown = self._grow_or_gather(nunits + align - 1)
            except OutOfSpaceError:  # all is merged by now, and may do for just this
                start = self.extents.allocate(nunits, align, roomy=roomy)
                if start is None:
                    raise
                break
        if not (has_grown and align == 1):  # else it is what the growth has got blocks for
            self._backed([(start, nunits)])
        return start

    def deallocate(self, start: int, nunits: int) -> None:
        """Take back units that `allocate` or `extend` gave, of which nothing was described."""
        self.extents.deallocate(start, nunits)

    def extend(self, stop: int, nunits: int) -> bool:
        """Take just ``[stop, stop + nunits)`` for a block that ends at `stop`, growing if need be.

        Returns
        -------
        bool
            Whether it was taken.
        """
        self._take_returned()
        room = self.extents.room_at(stop)
        try:
            if room < nunits and stop + room == self.region.end_unit:
                while self.read_on():  # growth takes all below it for known
                    pass
                self._back(stop, room)
                self._grow(nunits - room, exactly=True)
            if not self.extents.take(stop, nunits):
                return False
            self._backed([(stop, nunits)])
        except OverBudgetError:
            raise
        except OutOfSpaceError:
            return False
        return True

    def _back(self, start: int, nunits: int) -> None:
        """Make sure that free units have real space, before a growth that is to go with them."""
        if nunits and self._medium.maybe_holes:
            self.region.back(start, nunits)

    def _backed(self, ranges: list[Extent]) -> list[Extent]:
        """Make sure that taken units have real space before anybody gets them, or give all back."""
        if self._medium.maybe_holes:
            try:
                for start, nunits in ranges:
                    self.region.back(start, nunits)
            except OutOfSpaceError:
                self.extents.deallocate_many(ranges)
                raise
        return ranges

    def _backed_as_far(self, ranges: list[Extent], least: int) -> list[Extent]:
        """Do the same; where that is refused, with no more than `least` units of the last range."""
        start, length = ranges[-1]
        try:
            return self._backed(ranges)
        except OutOfSpaceError:
            if least >= length:
                raise
        ranges = [*ranges[:-1], (start, least)]
        for each in ranges:
            self.extents.take(*each)
        return self._backed(ranges)

    # ------------------------------------------------------------ reading, taking back

    def read_on(self, at_least: int = 0) -> bool:
        """Take over what the core knows, or finds, to be free; False if that was nothing more.

        A heap that was opened is read piece by piece. What was read of it while it was only looked
        at may have runs without a block: they are given back here, where space is wanted.

        Parameters
        ----------
        at_least : int
            Once all is read, take ranges of so many units out of the pool; 0 for none.

        Raises
        ------
        CorruptHeapError
            An entry is impossible.
        """
        if self.shown is not None and self.is_shown():
            return False
        pool_below = 0 if self._medium.maybe_holes else POOL_MOST + 1
        found = self._core.find_units(_READ_UNITS, pool_below, at_least)
        if found is None:
            raise _impossible_entry(self._core.bounds[2])
        if found:
            self.extents.deallocate_many(found)
        return found is not False

    def read_all(self) -> None:
        """Find all free space, and make the core's records of everything else. O(units), once."""
        while self.read_on():
            pass
        self._adopt_all()

    def _adopt_all(self) -> None:
        while (more := self._core.adopt_step(_READ_UNITS)) is not False:
            if more is None:
                raise _impossible_entry(self._core.bounds[3])

    def is_shown(self) -> bool:
        """Tell whether snapshots of before the heap was opened may show what is free in it.

        Then it is not read, and nothing of it is used: the heap grows.
        """
        if self.shown is not None and not self.shown():
            self.shown = None
            self._core.set_is_shown(False)
        return self.shown is not None

    def merge_freed(self) -> None:
        """Take back and merge what was freed in C: now and then, lest one call has to do it all."""
        self._take_returned()
        self.extents.coalesce()

    def _take_returned(self) -> None:
        """Take back what was freed in C."""
        if returned := self._core.allocate_units(TAKE_RETURNED):
            self.extents.deallocate_many(returned)

    def take_all_back(self) -> None:
        """Take every free unit out of the pool, empty runs included."""
        self._take_returned()
        self.extents.deallocate_many(self._core.allocate_units(TAKE_ALL))

    # ------------------------------------------------------------ growing

    def _grow_or_gather(self, nunits: int) -> bool:
        """Grow; where that is refused, merge all that is free, and grow by what is missing then.

        Returns
        -------
        bool
            Whether it has grown without a merge.
        """
        try:
            self._grow(nunits)
            return True
        except OverBudgetError:  # others are asked first
            raise
        except OutOfSpaceError:
            self.take_all_back()
            self.extents.end_wilderness()
        if self.extents.longest_merged() >= nunits:
            return False
        try:
            self._grow(nunits)
            return False
        except OutOfSpaceError:
            self._core.deallocate_units(self._fragments(len(self.extents)), False)
            raise

    def _grow(self, nunits: int, *, exactly: bool = False) -> None:
        """Let the region grow so that `nunits` more units are free in one piece at its end."""
        have = 0 if exactly else self.extents.room_at_end()
        self._back(self.region.end_unit - have, have)  # or it is refused when the heap has grown
        region = self.region
        used = region.nunits if self.shown is None else region.end_unit - self._shown_to
        self.append(self._medium.step(used), max(nunits - have, 1))

    def append(self, nunits: int, at_least: int) -> None:
        """Let the region grow, as `Region.grow` does, in a heap of which all is known."""
        region = self.region
        read_to = None if self.shown is None else self._core.bounds[2]
        region.grow(nunits, at_least)
        end = region.end_unit
        self._core.set_bounds(region.first_unit, end, end if read_to is None else read_to)
        self.extents.grow(end)

    def could_grow(self, nunits: int) -> bool:
        """Tell whether `nunits` units in one piece are to be had by growth. Changes nothing."""
        return self.region.could_grow(max(nunits - self.extents.room_at_end(), 1))

    # ------------------------------------------------------------ after an interrupt

    def rebuild(self) -> None:
        """Make the extents anew: what the core does not describe is free. O(units)."""
        first, end = self.region.first_unit, self.region.end_unit
        _, known_end, read_to, _ = self._core.bounds
        if read_to == known_end:  # all was read; what a growth has added since is free
            read_to = end
        read_to = min(read_to, end)
        self._core.set_bounds(first, end, read_to)
        self._adopt_all()
        self.extents = self._map(end, end)
        reached = first
        for start, nunits, _ in self.pieces():
            if reached < min(start, read_to):
                self.extents.deallocate(reached, min(start, read_to) - reached)
            reached = max(reached, start + nunits)
        if reached < read_to:
            self.extents.deallocate(reached, read_to - reached)

    # ------------------------------------------------------------ insight

    def pieces(self) -> list[tuple[int, int, int]]:
        """All that the core describes: start, units, state, of one moment. O(units)."""
        numbers = memoryview(self._core.described()).cast("Q")
        return list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))

    def free_units(self) -> int:
        """Units that belong to nobody: extents, wilderness, and the pool's. O(1)."""
        counters = self._core.usage()[0]
        return (
            self.extents.free_units
            + counters["pool_free_units"]
            + counters["returned_units"]
            + counters["wilderness_units"]
        )

    def longest(self) -> int:
        """Units of the longest range that is free outside of the pool. O(log n)."""
        extents = self.extents
        wild = extents.room_at_end() if extents.wilderness < extents.end else 0
        return max(extents.longest(), wild)

    def check(self) -> None:
        """Verify that every unit is described by the core or free here, and none by both.

        What was free before a new writer came belongs to nobody as long as it may be shown.
        """
        self.read_all()
        unread_to = self._shown_to if self.is_shown() else 0
        extents = self.extents
        extents.check()
        ranges = [(start, nunits) for start, nunits, _ in self.pieces()] + list(extents)
        if extents.wilderness < extents.end:
            ranges.append((extents.wilderness, extents.end - extents.wilderness))
        reached = self.region.first_unit
        for start, nunits in sorted(ranges):
            assert start == reached or reached < start <= unread_to, (
                f"unit {reached}: one owner expected, found the next at {start}"
            )
            reached = start + nunits
        assert max(reached, unread_to) == self.region.end_unit, f"units end at {reached}"


def _impossible_entry(unit: int) -> CorruptHeapError:
    return CorruptHeapError(
        f"unit entries: a run or block that fits its neighbours expected at unit {unit}, "
        f"found another"
    )
