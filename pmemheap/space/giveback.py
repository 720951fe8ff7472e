"""Giving back: free memory goes back to the system, by `trim` at once and by `decay` bit by bit.

    segments   |  all free  |  ###....#..##  |  ##......####  |  all free  |  all free  |
                  cut            punched          punched            cut          cut

Whole segments in which all is free are cut off, `trim` does it at both ends and `decay` at the end;
in between, the pages of free units are punched. Each unit has an age of its own, in C, so that
a range that is handed out and freed again all the time makes nothing young that it is merged with.

All calls are made under the heap's lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from operator import itemgetter

from pmemheap.errors import OutOfSpaceError, PmemHeapError
from pmemheap.native import HeapDoors
from pmemheap.native.constants import TAKE_OLD
from pmemheap.progress import Progress, Steps
from pmemheap.space.extents import Extent
from pmemheap.space.supply import Supply

__all__ = ["GiveBack"]

_STEPS_READ_AT_ONCE = 16
_PUNCHED_AT_ONCE = 4096
_INTERVALS_TO_OLD = 2


class GiveBack:
    """What gives the free units of one arena back.

    Parameters
    ----------
    core : HeapDoors
        The C half of the heap, which knows the ages.
    supply : Supply
        The units.
    """

    def __init__(self, core: HeapDoors, supply: Supply) -> None:
        self._core = core
        self._supply = supply
        self._wilderness_before = -1
        self._freed_units = 0
        self._unchanged = 0

    def trim(self, progress: Progress | None = None) -> None:
        """Give back whatever is free: whole segments at both ends, pages in between. O(units)."""
        self.cut_ends()
        extents = self._supply.extents
        self._punch(list(extents), Steps(progress, extents.free_units))

    def cut_ends(self) -> None:
        """Give back whole segments at both ends in which all is free. O(units)."""
        supply, region = self._supply, self._supply.region
        if supply.shown is not None and supply.is_shown():
            return
        supply.read_all()
        supply.take_all_back()
        supply.extents.end_wilderness()  # it may have file blocks as well
        self._sink()
        free = list(supply.extents)
        first, end = region.first_unit, region.end_unit
        if free == [(first, end - first)]:
            self._cut(*region.cheapest_segment())
        elif free:
            start, length = free[-1]
            end = region.droppable_tail(start) if start + length == end else end
            start, length = free[0]
            first = region.droppable_head(length + start) if start == first else first
            self._cut(first, end)

    def _punch(self, extents: Iterable[Extent], steps: Steps) -> None:
        punched, done = [], 0
        try:
            for start, length in extents:
                self._supply.region.punch(start, length)
                punched.append((start, length))
                done += length
                steps.reached(done)
            steps.end()
        finally:
            if punched:
                self._core.given_back(punched)

    def _sink(self) -> None:
        """Of a heap in which all is free, let the segment that stays lie low in the file."""
        supply = self._supply
        if supply.extents.free_units < supply.region.nunits or not supply.region.can_sink():
            return
        with suppress(OutOfSpaceError):
            supply.append(1, 1)
            supply.extents.end_wilderness()

    def _cut(self, first: int, end: int) -> None:
        """Let the heap be what lies in ``[first, end)``; the rest is free, and no wilderness."""
        if self._supply.shown is not None:
            return
        bounds = first, end
        region, extents = self._supply.region, self._supply.extents
        old_first, old_end = region.first_unit, region.end_unit
        self._core.append_pending()  # words that are cut off have no place in a record any more
        self._core.set_bounds(first, end, end)  # before: at any time offsets are looked up there
        if first > old_first:
            extents.take(old_first, first - old_first)
        if end < old_end:
            extents.take_ending(old_end, old_end - end)
            extents.wilderness = extents.end = end
        try:
            region.cut(first, end)
        except PmemHeapError:
            first, end = region.first_unit, region.end_unit
            if (first, end) != bounds:  # refused
                self._core.set_bounds(first, end, end)
                self._supply.rebuild()
            raise

    def recede(self) -> None:
        """Cut off the whole segments at the head in which all is free.

        The core has no units to take from: all that is free is among the extents.
        """
        region, free = self._supply.region, next(iter(self._supply.extents), (0, 0))
        if free[0] == region.first_unit:
            first = region.droppable_head(sum(free))
            if first > region.first_unit:
                self._cut(first, region.end_unit)

    def decay(self, share: float, *, is_idle: bool = False, can_change: bool = True) -> None:
        """End a decay interval: give back what was free through all of the one before.

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
        self._supply.merge_freed()
        if is_idle:
            self._begin_interval()
        try:
            is_much = self._old_units() > share * self._supply.region.nunits
            if is_much:
                self._take_old(with_runs=is_idle and can_change)
                self._punch_old()
            if can_change and (is_much or is_idle):
                self._cut_old_tail(0 if is_much else share)
        finally:
            self._begin_interval()

    def _begin_interval(self) -> None:
        self._core.next_interval()
        self._wilderness_before = self._supply.extents.wilderness

    def _read_some(self) -> None:
        """Read some more of a heap that was opened: what is free there may be given back too."""
        for _ in range(_STEPS_READ_AT_ONCE):
            if not self._supply.read_on():
                return
            self._unchanged = 0

    def _old_units(self) -> int:
        """Count the free units that are old; 0 as well when nothing can have become old lately."""
        freed = self._core.freed_units
        self._unchanged = self._unchanged + 1 if freed == self._freed_units else 0
        self._freed_units = freed
        if self._unchanged > _INTERVALS_TO_OLD:
            return 0
        return sum(old for _, _, old in [*self._core.old_parts(None), *self._old_parts()])

    def _old_parts(self) -> list[tuple[int, int, int]]:
        """List the old parts of the extents: start, units, old units among them."""
        return self._core.old_parts(list(self._supply.extents))

    def _take_old(self, *, with_runs: bool) -> None:
        """Take the free ranges that are old in part out of the pool, or all, with empty runs."""
        if with_runs:
            self._supply.take_all_back()
            self._core.next_interval()
        self._supply.extents.deallocate_many(self._core.allocate_units(TAKE_OLD))

    def _punch_old(self) -> None:
        """Give the pages of old units back, the longest parts first; the rest the next time."""
        parts = sorted(self._old_parts(), key=itemgetter(1), reverse=True)
        self._unchanged = 0 if len(parts) > _PUNCHED_AT_ONCE else self._unchanged
        chosen = [(start, length) for start, length, _ in parts[:_PUNCHED_AT_ONCE]]
        self._punch(chosen, Steps(None, 0))

    def _cut_old_tail(self, share: float) -> None:
        """Cut off the whole segments at the end in which all is free, and nothing young.

        Never used units are young while some are taken from them. Less than a share of the heap is
        not worth the sync.
        """
        region, extents = self._supply.region, self._supply.extents
        end, wilderness = region.end_unit, extents.wilderness
        if wilderness < end and wilderness != self._wilderness_before:
            return
        free = list(extents)
        at_end = free and sum(free[-1]) == wilderness
        start = self._core.young_end(*free[-1]) if at_end else wilderness
        tail = region.droppable_tail(start)
        if end - tail > share * region.nunits:
            extents.end_wilderness()
            extents.coalesce()
            self._cut(region.first_unit, tail)
