"""Extents: which units belong to nobody. Large blocks and the pool of the C core get theirs here.

    unit          0   4   8     14        24
    heap          ####....######..........####     # somebody's     . free
    _length       {4: 4, 14: 10}                   first unit -> length
    _first        {8: 4, 24: 14}                   unit behind the end -> first unit
    _by_size      [4 << 44 | 4, 10 << 44 | 14]     one bisection is best fit, lowest on a tie
    _recent       {64: [128, 4096]}                length -> extents freed lately, not merged yet
    wilderness    24                               from here to `end`: never used

What is freed goes on a stack for its length and is taken from there by the next request of that
length: two dictionary operations. Only when a request finds its stack empty are the stacks
*coalesced*: every extent on them is merged with its neighbours through the two boundary maps and
enters the sorted list. The *wilderness* at the end is no extent: it is taken from when no extent is
long enough, so that it is touched last, together with the extent in front of it.

Invariants, checked by `ExtentMap.check`:
  1. extents never overlap, and coalesced ones never touch;
  2. `_length`, `_first` and `_by_size` hold the same extents;
  3. `free_units` is the sum of all lengths, that of the wilderness included.

Not persistent: the heap builds the map again from what the entries leave free. Not thread-safe: the
heap locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from sortedcontainers import SortedList

from pmemheap.dataclass import dataclass

__all__ = ["Extent", "ExtentMap", "ExtentStatistics"]

Extent = tuple[int, int]
"""``(start, length)`` in units."""

_SHIFT = 44
_MASK = (1 << _SHIFT) - 1
_RECENT_MOST = 4096
_ALIGNED_TRIES = 32


@dataclass(frozen=True)
class ExtentStatistics:
    """Counts of an `ExtentMap`.

    Attributes
    ----------
    free_units : int
        Units in all extents, and in the wilderness.
    extents : int
        Settled extents.
    recent : int
        Extents on the stacks, not merged yet.
    longest : int
        Units of the longest extent; the stacks are looked at, but not merged.
    """

    free_units: int
    extents: int
    recent: int
    longest: int


class ExtentMap:
    """The free extents of a heap.

    Parameters
    ----------
    wilderness, end : int
        The units ``[wilderness, end)`` were never used.

    Examples
    --------
    >>> extents = ExtentMap()
    >>> extents.deallocate(0, 100)
    >>> extents.allocate(30), extents.allocate(8, align=16)
    (0, 32)
    >>> list(extents)
    [(30, 2), (40, 60)]
    """

    __slots__ = (
        "_by_size",
        "_first",
        "_length",
        "_recent",
        "_recent_count",
        "end",
        "free_units",
        "wilderness",
    )

    end: int
    wilderness: int

    def __init__(self, wilderness: int = 0, end: int = 0) -> None:
        self._length: dict[int, int] = {}
        self._first: dict[int, int] = {}
        self._by_size: SortedList[int] = SortedList()
        self._recent: dict[int, list[int]] = {}
        self._recent_count = 0
        self.wilderness, self.end = wilderness, end
        self.free_units: int = end - wilderness

    def __iter__(self) -> Iterator[Extent]:
        """Yield the free extents, merged, by address. O(n log n)."""
        self.coalesce()
        return iter(sorted(self._length.items()))

    def __len__(self) -> int:
        """Return the number of free extents, those not merged yet counted one by one."""
        return len(self._length) + self._recent_count

    # ------------------------------------------------------------ taking

    def allocate(self, length: int, align: int = 1, *, roomy: bool = False) -> int | None:
        """Take `length` units: the tightest extent, lowest address on a tie; or never used ones.

        Parameters
        ----------
        length : int
            Units, at least 1.
        align : int
            A power of two: the first unit is a multiple of it.
        roomy : bool
            For a block that is likely to grow: take the start of the longest extent instead.

        Returns
        -------
        int or None
            The first unit; None if no free extent is long enough, and then nothing has changed
            except that neighbours were merged. O(1) if an extent of just this length was freed
            lately, else O(log n); an alignment above 1 may look at more candidates.

        References
        ----------
        Wilson et al., "Dynamic Storage Allocation: A Survey and Critical Review", 1995: best fit
        with address-ordered ties, and deferred coalescing.
        """
        stack = self._recent.get(length)
        if stack and align == 1 and not roomy:
            self._recent_count -= 1
            self.free_units -= length
            return stack.pop()
        self.coalesce()
        if align != 1:
            extent = self._fitting_aligned(length, align)
        elif roomy:
            extent = self._longest(length)
        else:
            extent = self._fitting(length)
        if extent is None:
            return self._allocate_wild(length, align)
        start, have = extent
        first = start + -start % align
        self._carve(start, have, first, length)
        return first

    def _allocate_wild(self, length: int, align: int) -> int | None:
        """Take never used units, with the extent in front of them; None if they do not suffice."""
        before = 0
        if align == 1 and self.wilderness < self.end:
            before = min(self.room_before(self.wilderness), length)
        first = self.wilderness - before
        start = first + -first % align
        if start + length > self.end:
            return None
        if before:
            self.take_ending(self.wilderness, before)
        self.free_units -= start + length - self.wilderness
        gap, self.wilderness = self.wilderness, start + length
        if start > gap:
            self.deallocate(gap, start - gap)
        return start

    def take(self, start: int, length: int) -> bool:
        """Take just ``[start, start + length)``, if all of it is free from an extent's start on.

        Returns
        -------
        bool
            Whether it was taken.
        """
        have = self.room_at(start)
        if have < length:
            return False
        extent = self._length.get(start, 0)
        taken = min(extent, length)
        if taken:
            self._carve(start, extent, start, taken)
        self.wilderness += length - taken
        self.free_units -= length - taken
        return True

    def take_shortest(self, count: int, most: int) -> list[Extent]:
        """Take up to `count` of the shortest extents, of at most `most` units each."""
        self.coalesce()
        keys = list(self._by_size.islice(0, count))
        extents = [(key & _MASK, key >> _SHIFT) for key in keys if key >> _SHIFT <= most]
        for start, length in extents:
            self._remove(start, length)
            self.free_units -= length
        return extents

    def take_ending(self, stop: int, most: int) -> int:
        """Take the free units that end at `stop`, at most `most`; return how many."""
        have = self.room_before(stop)
        length = min(have, most)
        if length:
            self._carve(stop - have, have, stop - length, length)
        return length

    def shortest(self, at_least: int) -> Extent | None:
        """Return the shortest extent of at least `at_least` units, without taking it."""
        self.coalesce()
        return self._fitting(at_least)

    def room_at(self, start: int) -> int:
        """Return the free units from `start` on, if an extent or the wilderness begins there."""
        self.coalesce()
        room = self._length.get(start, 0)
        return room + self.end - self.wilderness if start + room == self.wilderness else room

    def room_before(self, stop: int) -> int:
        """Return the length of the free extent that ends at `stop`, 0 if there is none."""
        self.coalesce()
        start = self._first.get(stop)
        return 0 if start is None else stop - start

    def room_at_end(self) -> int:
        """Return the units at the end that are free in one piece, the last extent included."""
        return self.end - self.wilderness + self.room_before(self.wilderness)

    def longest(self) -> int:
        """Return the length of the longest extent, 0 for none; what is recent is not merged."""
        recent = max((length for length, stack in self._recent.items() if stack), default=0)
        return max(recent, self._by_size[-1] >> _SHIFT if self._by_size else 0)

    def longest_merged(self) -> int:
        """Return the length of the longest extent once neighbours are merged."""
        self.coalesce()
        return self.longest()

    # ------------------------------------------------------------ growing

    def grow(self, end: int) -> None:
        """Let the wilderness reach up to `end`."""
        self.free_units += end - self.end
        self.end = end

    def end_wilderness(self) -> None:
        """Let the never used units be an extent like others."""
        start, self.wilderness = self.wilderness, self.end
        if start < self.end:
            self.free_units -= self.end - start
            self.deallocate(start, self.end - start)

    # ------------------------------------------------------------ giving back

    def deallocate(self, start: int, length: int) -> None:
        """Give ``[start, start + length)`` back. O(1); merging is put off."""
        stack = self._recent.get(length)
        if stack is None:
            stack = self._recent[length] = []
        stack.append(start)
        self._recent_count += 1
        self.free_units += length
        if self._recent_count > _RECENT_MOST:
            self.coalesce()

    def deallocate_many(self, extents: Iterable[Extent]) -> None:
        """Give extents back."""
        recent = self._recent
        for start, length in extents:
            recent.setdefault(length, []).append(start)
            self._recent_count += 1
            self.free_units += length
        if self._recent_count > _RECENT_MOST:
            self.coalesce()

    def coalesce(self) -> None:
        """Merge everything freed lately with its neighbours. O(log n) for each such extent."""
        if not self._recent_count:
            return
        recent, self._recent, self._recent_count = self._recent, {}, 0
        for length, starts in recent.items():
            for start in starts:
                self._merge(start, length)

    # ------------------------------------------------------------ insight

    def statistics(self) -> ExtentStatistics:
        """Return counts. O(number of different lengths freed lately)."""
        return ExtentStatistics(
            self.free_units, len(self._by_size), self._recent_count, self.longest()
        )

    def check(self) -> None:
        """Verify the invariants; raises AssertionError. O(n log n)."""
        extents = list(self)
        assert {length << _SHIFT | start for start, length in extents} == set(self._by_size)
        assert len(self._by_size) == len(extents)
        assert self._first == {start + length: start for start, length in extents}
        wild = self.end - self.wilderness
        assert wild >= 0
        assert self.free_units == wild + sum(length for _, length in extents)
        for (start, length), (following, _) in pairwise(extents):
            assert start + length < following, f"extents at {start} and {following} meet"

    # ------------------------------------------------------------ inside

    def _fitting(self, length: int) -> Extent | None:
        """Find the tightest extent with `length` units."""
        by_size = self._by_size
        index = by_size.bisect_left(length << _SHIFT)
        if index == len(by_size):
            return None
        key = by_size[index]
        return key & _MASK, key >> _SHIFT

    def _fitting_aligned(self, length: int, align: int) -> Extent | None:
        """Find a tight extent with `length` units from a multiple of `align` on."""
        by_size = self._by_size
        index = by_size.bisect_left(length << _SHIFT)
        for key in by_size.islice(index, index + _ALIGNED_TRIES):
            start, have = key & _MASK, key >> _SHIFT
            if -start % align + length <= have:
                return start, have
        return self._fitting(length + align - 1)

    def _longest(self, length: int) -> Extent | None:
        if not self._by_size or self._by_size[-1] >> _SHIFT < length:
            return None
        return self._by_size[-1] & _MASK, self._by_size[-1] >> _SHIFT

    def _carve(self, start: int, have: int, first: int, length: int) -> None:
        """Take ``[first, first + length)`` out of the extent ``[start, start + have)``."""
        self._remove(start, have)
        if first > start:
            self._insert(start, first - start)
        if first + length < start + have:
            self._insert(first + length, start + have - first - length)
        self.free_units -= length

    def _merge(self, start: int, length: int) -> None:
        before = self._first.get(start)
        if before is not None:
            self._remove(before, start - before)
            length += start - before
            start = before
        after = self._length.get(start + length)
        if after is not None:
            self._remove(start + length, after)
            length += after
        self._insert(start, length)

    def _insert(self, start: int, length: int) -> None:
        self._length[start] = length
        self._first[start + length] = start
        self._by_size.add(length << _SHIFT | start)

    def _remove(self, start: int, length: int) -> None:
        del self._length[start]
        del self._first[start + length]
        self._by_size.remove(length << _SHIFT | start)
