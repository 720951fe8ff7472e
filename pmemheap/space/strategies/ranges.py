"""Ranges: free space in order of addresses, neighbours merged. What three strategies stand on.

unit       0   4     10    14
space      ####......####......        # in use   . free
_length    {4: 6, 14: 6}               start -> length, sorted by start
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sortedcontainers import SortedDict

__all__ = ["Ranges", "place_in"]


def place_in(start: int, have: int, length: int, align: int) -> int | None:
    """Return the first multiple of `align` from which `length` fits in a range, None if none."""
    first = start + -start % align
    return first if first + length <= start + have else None


class Ranges:
    """Free ranges, no two of which overlap or touch. A subclass says which one to `allocate` from.

    It may follow what comes and goes by the two methods `_insert` and `_remove`.
    """

    def __init__(self) -> None:
        self._length: SortedDict[int, int] = SortedDict()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield ``(start, length)`` by start."""
        return iter(list(self._length.items()))

    def deallocate(self, start: int, length: int) -> None:
        """Give a range back, merged with its neighbours. O(log n)."""
        before = self._at_or_before(start)
        if before is not None and sum(before) == start:
            self._remove(*before)
            start, length = before[0], before[1] + length
        after = self._length.get(start + length)
        if after is not None:
            self._remove(start + length, after)
            length += after
        self._insert(start, length)

    def take(self, start: int, length: int) -> bool:
        """Take just this range; return False and change nothing if it is not all free. O(log n)."""
        found = self._at_or_before(start)
        if found is None or sum(found) < start + length:
            return False
        self._remove(*found)
        if found[0] < start:
            self._insert(found[0], start - found[0])
        if start + length < sum(found):
            self._insert(start + length, sum(found) - start - length)
        return True

    def longest(self) -> int:
        """Return the length of the longest range, 0 for none. O(n)."""
        return max(self._length.values(), default=0)

    def check(self) -> None:
        """Verify that no two ranges overlap or touch; raises AssertionError."""
        for (start, length), (following, _) in pairwise(self):
            assert start + length < following, f"ranges at {start} and {following} meet"

    def _at_or_before(self, start: int) -> tuple[int, int] | None:
        """Return the last range that begins at `start` or before it."""
        index = self._length.bisect_right(start) - 1
        return self._length.peekitem(index) if index >= 0 else None

    def _insert(self, start: int, length: int) -> None:
        self._length[start] = length

    def _remove(self, start: int, length: int) -> None:
        del self._length[start]
