"""Supply: who gets units from where. The policy between the C pool, the extents and the region.

                 units                               bytes
    pool (C) <-- refill --+                 +-- grow --> region --> medium
                          supply -- extents +
    large blocks <--------+                 +-- trim, decay --> region --> medium

A request is served by, in this order: an extent that was freed; units that were never used; a piece
of the heap that has not been read since it was opened; what the C pool can spare; growth. The
units of the *wilderness* at the end are kept out of the extents, so that they are touched last.

All calls are made under the heap's lock, except for what the C core says of itself. `rebuild` makes
the volatile half anew from what the core describes, after an interrupt left it in doubt.
"""

from __future__ import annotations

from contextlib import suppress
from operator import itemgetter

from pmemheap.errors import CorruptHeapError, OutOfSpaceError, PmemHeapError
from pmemheap.native import HeapDoors
from pmemheap.native.constants import POOL_MOST
from pmemheap.space.extents import ExtentMap
from pmemheap.space.medium import Medium
from pmemheap.space.region import Region

__all__ = ["Supply"]

_REFILL_LEAST = 64
_REFILL_MOST = 1024
_REFILL_SHARE = 64
_FRAGMENTS_MOST = 32
_READ_UNITS = 1 << 16
_STEPS_READ_AT_ONCE = 16
_PUNCHED_AT_ONCE = 4096
_INTERVALS_TO_OLD = 2


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
    """

    def __init__(self, core: HeapDoors, region: Region, medium: Medium, *, fresh: bool) -> None:
        self._core = core
        self._medium = medium
        self.region = region
        self.extents = ExtentMap()
        self.wilderness = region.first_unit if fresh else region.end_unit
        self._wilderness_before = -1
        self._freed_units = 0
        self._unchanged = 0
        self._all_read = fresh
        scanned_to = region.end_unit if fresh else region.first_unit
        core.set_bounds(region.first_unit, region.end_unit, scanned_to)

    # ------------------------------------------------------------ serving

    def refill(self, nunits: int) -> None:
        """Bring the pool nearer to a free range of `nunits` units (at most 63).

        One step at a time: the caller asks the pool again and comes back until it is served.

        Raises
        ------
        OutOfSpaceError
            Nothing is left and the region cannot grow.
        """
        self._drain_returned()
        wish = max(nunits, min(self.region.nunits // _REFILL_SHARE, _REFILL_MOST), _REFILL_LEAST)
        if self._donate_extent(nunits, wish):
            self._donate_fragments()
        elif self._wilderness_room() >= nunits:
            self._donate_wilderness(min(wish, self.region.end_unit - self.wilderness))
        elif not self.read_on():
            self._grow_or_scrape(nunits)

    def _donate_extent(self, nunits: int, wish: int) -> bool:
        extent = self.extents.shortest(nunits)
        if extent is None:
            return False
        start, length = extent[0], min(extent[1], wish)
        self._hand_out(start, length)
        self.extents.take(start, length)
        self._core.donate(start, length, False)
        return True

    def _donate_fragments(self, most: int = _FRAGMENTS_MOST) -> None:
        """Give the pool some short extents as well, while we are here."""
        for _ in range(most):
            extent = self.extents.shortest(1)
            if extent is None or extent[1] > POOL_MOST:
                return
            self._hand_out(*extent)
            self.extents.take(*extent)
            self._core.donate(*extent, False)

    def _wilderness_room(self) -> int:
        """Units at the end that are free in one piece, the last extent included."""
        room = self.region.end_unit - self.wilderness
        return room + self.extents.room_before(self.wilderness) if room else 0

    def _donate_wilderness(self, length: int) -> None:
        self._hand_out(self.wilderness, length)
        before = self.extents.take_ending(self.wilderness, POOL_MOST)
        if before:
            self._back_or_return(self.wilderness - before, before)
            self._core.donate(self.wilderness - before, before, False)
        self._core.donate(self.wilderness, length, True)
        self.wilderness += length

    def _back_or_return(self, start: int, length: int) -> None:
        """Make sure that an extent which was taken has real space, or give it back and raise."""
        try:
            self._hand_out(start, length)
        except OutOfSpaceError:
            self.extents.deallocate(start, length)
            raise

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
        self._drain_returned()
        while True:
            start = self.extents.find(nunits, align, roomy=roomy)
            if start < 0:
                start = self._take_wilderness(nunits, align)
            if start < 0:
                try:
                    self._find_more(nunits + align - 1)
                    continue
                except OutOfSpaceError:  # all is merged by now, and may do for just this
                    start = self.extents.find(nunits, align, roomy=roomy)
                    if start < 0:
                        raise
            self._back_or_return(start, nunits)
            return start

    def _take_wilderness(self, nunits: int, align: int) -> int:
        """Take never used units, with the extent in front of them; -1 if they do not suffice."""
        end = self.region.end_unit
        if align == 1 and self.wilderness < end:
            before = min(self.extents.room_before(self.wilderness), nunits)
        else:
            before = 0
        first = self.wilderness - before
        start = first + -first % align
        if start + nunits > end:
            return -1
        if before:
            self.extents.take_ending(self.wilderness, before)
        if start > self.wilderness:
            self.extents.deallocate(self.wilderness, start - self.wilderness)
        self.wilderness = start + nunits
        return start

    def extend(self, stop: int, nunits: int) -> bool:
        """Take just ``[stop, stop + nunits)`` for a block that ends at `stop`, growing if need be.

        Returns
        -------
        bool
            Whether it was taken.
        """
        self._drain_returned()
        room = self.extents.room_at(stop)
        if room < nunits and stop + room == self.wilderness:
            if self.region.end_unit - stop < nunits:
                while self.read_on():  # growth takes all below it for known
                    pass
                try:
                    self._grow(nunits - (self.region.end_unit - stop), exactly=True)
                except OutOfSpaceError:
                    return False
        elif room < nunits:
            return False
        try:
            self._hand_out(stop, nunits)
        except OutOfSpaceError:
            return False
        taken = min(room, nunits)
        if taken:
            self.extents.take(stop, taken)
        self.wilderness += nunits - taken
        return True

    def _hand_out(self, start: int, nunits: int) -> None:
        """Make sure that the units have real space before anybody gets them."""
        if self._medium.maybe_holes:
            self.region.back(start, nunits)

    # ------------------------------------------------------------ reading, fetching

    def read_on(self) -> bool:
        """Read a further piece of a heap that was opened; False if all of it is known.

        What was read while the heap was only looked at may have runs without a block: they are
        given back here, where space is wanted.

        Raises
        ------
        CorruptHeapError
            An entry is impossible.
        """
        if self._reaches_end():
            return self._core.release_idle_runs()
        pool_below = 0 if self._medium.maybe_holes else POOL_MOST + 1
        gaps = self._core.scan_step(_READ_UNITS, pool_below)
        if gaps is None:
            raise _impossible_entry(self._core.bounds()[2])
        for start, length in gaps:
            self.extents.deallocate(start, length)
        self._reaches_end()
        return True

    def _reaches_end(self) -> bool:
        """Tell whether all is read; from then on what was freed in C is taken back."""
        if not self._all_read:
            _, end, scanned_to, _ = self._core.bounds()
            self._all_read = scanned_to >= end
        return self._all_read

    def read_all(self) -> None:
        """Find all free space, and make the core's records of everything else. O(units), once."""
        while self.read_on():
            pass
        self._adopt_all()

    def _adopt_all(self) -> None:
        while (more := self._core.adopt_step(_READ_UNITS)) is not False:
            if more is None:
                raise _impossible_entry(self._core.bounds()[3])

    def merge_freed(self) -> None:
        """Take back and merge what was freed in C: now and then, lest one call has to do it all."""
        self._drain_returned()
        self.extents.coalesce()

    def _drain_returned(self) -> None:
        """Take back what was freed in C. Not before all is read, or it would be found twice."""
        if not self._all_read:
            return
        while (extent := self._core.pop_returned()) is not None:
            self.extents.deallocate(*extent)

    def _find_more(self, nunits: int) -> None:
        """Read on, fetch from the pool, grow, or in need empty the pool: until one helps."""
        if not (self.read_on() or self._fetch_from_pool()):
            self._grow_or_scrape(nunits)

    def _fetch_from_pool(self) -> bool:
        """Take the long ranges out of the pool; tell whether there was one."""
        fetched = False
        while (extent := self._core.reclaim(POOL_MOST + 1)) is not None:
            self.extents.deallocate(*extent)
            fetched = True
        return fetched

    def _grow_or_scrape(self, nunits: int) -> None:
        """Grow; where that is refused, merge all that is free, and grow by what is missing then."""
        try:
            return self._grow(nunits)
        except OutOfSpaceError:
            self.take_all_back()
            self._retire_wilderness()
        if self.extents.longest_merged() >= nunits:
            return None
        try:
            return self._grow(nunits)
        except OutOfSpaceError:
            self._donate_fragments(len(self.extents))
            raise

    def take_all_back(self) -> None:
        """Take every free unit out of the pool, empty runs included."""
        self._drain_returned()
        self._core.release_empties()
        while (extent := self._core.reclaim(1)) is not None:
            self.extents.deallocate(*extent)

    # ------------------------------------------------------------ growing

    def _grow(self, nunits: int, *, exactly: bool = False) -> None:
        """Let the region grow so that `nunits` more units are free in one piece at its end."""
        have = 0 if exactly else self._room_at_end()
        at_least = max(nunits - have, 1)
        region = self.region
        region.grow(self._medium.step(region.nunits), at_least)
        end = region.end_unit
        self._core.set_bounds(region.first_unit, end, end)

    def could_grow(self, nunits: int) -> bool:
        """Tell whether `nunits` units in one piece are to be had by growth. Changes nothing."""
        return self.region.could_grow(max(nunits - self._room_at_end(), 1))

    def _room_at_end(self) -> int:
        return self.region.end_unit - self.wilderness + self.extents.room_before(self.wilderness)

    # ------------------------------------------------------------ giving back

    def trim(self) -> None:
        """Give back whatever is free: whole segments at both ends, pages in between. O(units)."""
        self.read_all()
        self.take_all_back()
        self._retire_wilderness()
        self._cut_ends()
        for start, length in self.extents:
            self._punch(start, length)

    def _punch(self, start: int, length: int) -> None:
        self.region.punch(start, length)
        self._core.given_back(start, length)

    def _retire_wilderness(self) -> None:
        """Let the never used units be an extent like others, since they may have file blocks."""
        end = self.region.end_unit
        if self.wilderness < end:
            self.extents.deallocate(self.wilderness, end - self.wilderness)
            self.wilderness = end

    def _cut_ends(self) -> None:
        """Cut off the whole segments at both ends in which all is free."""
        self._sink()
        region, free = self.region, list(self.extents)
        first, end = region.first_unit, region.end_unit
        if not free:
            return
        if free == [(first, end - first)]:
            first, end = region.cheapest_segment()
        else:
            start, length = free[-1]
            end = region.droppable_tail(start) if start + length == end else end
            start, length = free[0]
            first = region.droppable_head(length + start) if start == first else first
        self._cut(first, end)

    def _sink(self) -> None:
        """Of a heap in which all is free, let the segment that stays lie low in the file."""
        region = self.region
        if self.extents.free_units < region.nunits or not region.can_sink():
            return
        end = region.end_unit
        with suppress(OutOfSpaceError):
            region.grow(1, 1)
            self._core.set_bounds(region.first_unit, region.end_unit, region.end_unit)
            self.extents.deallocate(end, region.end_unit - end)
            self.wilderness = region.end_unit

    def _cut(self, first: int, end: int) -> None:
        bounds = first, end
        old_first, old_end = self.region.first_unit, self.region.end_unit
        self._core.append_pending()  # words that are cut off have no place in a record any more
        self._core.set_bounds(first, end, end)  # before: offsets in there are looked up at any time
        if first > old_first:
            self.extents.take(old_first, first - old_first)
        if end < old_end:
            self.extents.take_ending(old_end, old_end - end)
            self.wilderness = end
        try:
            self.region.cut(first, end)
        except PmemHeapError:
            first, end = self.region.first_unit, self.region.end_unit
            if (first, end) != bounds:  # refused
                self._core.set_bounds(first, end, end)
                self.rebuild()
            raise

    def decay(self, share: float, *, is_idle: bool = False, can_change: bool = True) -> None:
        """End a decay interval: give back what was free through all of the one before.

        Each unit has an age of its own: a range that is handed out and freed again all the time
        makes nothing young that it is merged with.

        Parameters
        ----------
        share : float
            Of the heap: if less than this has been free for so long, it is kept.
        is_idle : bool
            Nothing was called for as long: all that is free is old, empty runs included.
        can_change : bool
            Header and tables may be changed: empty runs and whole segments may go too.
        """
        self._read_some()
        self.merge_freed()
        if is_idle:
            self._begin_interval()
        try:
            is_much = self._old_units() > share * self.region.nunits
            if is_much:
                if self._all_read:  # reading on would find again what lies beyond
                    self._fetch_old(with_runs=is_idle and can_change)
                self._punch_old()
            if can_change and (is_much or is_idle):
                self._cut_old_tail(0 if is_much else share)
        finally:
            self._begin_interval()

    def _begin_interval(self) -> None:
        self._core.next_interval()
        self._wilderness_before = self.wilderness

    def _read_some(self) -> None:
        """Read some more of a heap that was opened: what is free there may be given back too."""
        for _ in range(_STEPS_READ_AT_ONCE):
            if not self.read_on():
                return
            self._unchanged = 0

    def _old_units(self) -> int:
        """Count the free units that are old; 0 as well when nothing can have become old lately."""
        freed = self._core.freed_units()
        self._unchanged = self._unchanged + 1 if freed == self._freed_units else 0
        self._freed_units = freed
        if self._unchanged > _INTERVALS_TO_OLD:
            return 0
        parts = [*self._core.old_pool(), *self._old_parts()]
        return sum(old for _, _, old in parts)

    def _old_parts(self) -> list[tuple[int, int, int]]:
        """List the old parts of the extents: start, units, old units among them."""
        return [part for extent in self.extents for part in self._core.old_parts(*extent)]

    def _fetch_old(self, *, with_runs: bool) -> None:
        """Take the free ranges that are old in part out of the pool, or all, with empty runs.

        Where another thread has merged one with what lies in front of it meanwhile, it stays.
        """
        if with_runs:
            self.take_all_back()
            self._core.next_interval()
        for start, _, _ in self._core.old_pool():
            length = self._core.reclaim_range(start)
            if length:
                self.extents.deallocate(start, length)

    def _punch_old(self) -> None:
        """Give the pages of old units back, the longest parts first; the rest the next time."""
        parts = sorted(self._old_parts(), key=itemgetter(1), reverse=True)
        self._unchanged = 0 if len(parts) > _PUNCHED_AT_ONCE else self._unchanged
        for start, length, _ in parts[:_PUNCHED_AT_ONCE]:
            self._punch(start, length)

    def _cut_old_tail(self, share: float) -> None:
        """Cut off the whole segments at the end in which all is free, and nothing young.

        Never used units are young while some are taken from them. Less than a share of the heap is
        not worth the sync.
        """
        end = self.region.end_unit
        if self.wilderness < end and self.wilderness != self._wilderness_before:
            return
        free = list(self.extents)
        at_end = free and sum(free[-1]) == self.wilderness
        start = self._core.young_end(*free[-1]) if at_end else self.wilderness
        tail = self.region.droppable_tail(start)
        if end - tail > share * self.region.nunits:
            self._retire_wilderness()
            self.extents.coalesce()
            self._cut(self.region.first_unit, tail)

    def pieces(self) -> list[tuple[int, int, int]]:
        """All that the core describes: start, units, state. O(units)."""
        cursor = self.region.first_unit
        pieces = []
        while (piece := self._core.walk(cursor)) is not None:
            cursor, start, nunits, state, _, _, _ = piece
            pieces.append((start, nunits, state))
        return pieces

    # ------------------------------------------------------------ after an interrupt

    def rebuild(self) -> None:
        """Make the extents anew: what the core does not describe is free. O(units)."""
        _, end, read_to, _ = self._core.bounds()
        if read_to == end:  # all was read; what a growth has added since is free
            read_to = self.region.end_unit
        read_to = min(read_to, self.region.end_unit)
        self._core.set_bounds(self.region.first_unit, self.region.end_unit, read_to)
        self._adopt_all()
        self.extents = ExtentMap()
        self.wilderness = self.region.end_unit
        reached = self.region.first_unit
        for start, nunits, _ in self.pieces():
            if reached < min(start, read_to):
                self.extents.deallocate(reached, min(start, read_to) - reached)
            reached = max(reached, start + nunits)
        if reached < read_to:
            self.extents.deallocate(reached, read_to - reached)

    # ------------------------------------------------------------ insight

    def free_units(self) -> int:
        """Units that belong to nobody: extents, wilderness, and the pool's. O(1)."""
        counters = self._core.counters()
        return (
            self.extents.free_units
            + self.region.end_unit
            - self.wilderness
            + counters["pool_free_units"]
            + counters["returned_units"]
            + counters["wilderness_units"]
        )

    def longest(self) -> int:
        """Units of the longest range that is free outside of the pool. O(log n)."""
        return max(self.extents.longest(), self._wilderness_room())

    def check(self) -> None:
        """Verify that every unit is described by the core or free here, and none by both."""
        self.read_all()
        self.extents.check()
        described = memoryview(self._core.described()).cast("Q")  # in one step: threads go on
        ranges = list(zip(described[::2], described[1::2], strict=True))
        ranges += list(self.extents)
        if self.wilderness < self.region.end_unit:
            ranges.append((self.wilderness, self.region.end_unit - self.wilderness))
        reached = self.region.first_unit
        for start, nunits in sorted(ranges):
            assert start == reached, (
                f"unit {reached}: one owner expected, found the next at {start}"
            )
            reached = start + nunits
        assert reached == self.region.end_unit, f"units end at {reached}"


def _impossible_entry(unit: int) -> CorruptHeapError:
    return CorruptHeapError(
        f"unit entries: a run or block that fits its neighbours expected at unit {unit}, "
        f"found another"
    )
