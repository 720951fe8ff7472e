"""Best fit: the tightest range that is long enough."""

from __future__ import annotations

from sortedcontainers import SortedList

from pmemheap.space.strategies.ranges import Ranges, place_in

__all__ = ["BestFit"]


class BestFit(Ranges):
    """Take from the shortest range that is long enough, the lowest one of several.

    Long ranges stay whole for long requests, and little is wasted on real programs. What is left of
    a range is as short as can be, often too short to be of use.

    References
    ----------
    Wilson et al., "Dynamic Storage Allocation: A Survey and Critical Review", 1995, section 3.4.

    Examples
    --------
    >>> space = BestFit()
    >>> space.deallocate(0, 100)
    >>> space.deallocate(200, 8)
    >>> space.allocate(7, 1), space.allocate(7, 1)
    (200, 0)
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_length: SortedList[tuple[int, int]] = SortedList()

    def allocate(self, length: int, align: int) -> int | None:
        """Take from the tightest range with room; return the first. O(log n), aligned ones O(n)."""
        for have, start in self._by_length.irange((length, 0)):
            first = place_in(start, have, length, align)
            if first is not None:
                self.take(first, length)
                return first
        return None

    def longest(self) -> int:
        """Return the length of the longest range, 0 for none. O(log n)."""
        return self._by_length[-1][0] if self._by_length else 0

    def check(self) -> None:
        """Verify that both orders have the same ranges; raises AssertionError."""
        super().check()
        assert sorted((length, start) for start, length in self) == list(self._by_length)

    def _insert(self, start: int, length: int) -> None:
        super()._insert(start, length)
        self._by_length.add((length, start))

    def _remove(self, start: int, length: int) -> None:
        super()._remove(start, length)
        self._by_length.remove((length, start))
