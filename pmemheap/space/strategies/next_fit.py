"""Next fit: first fit, from where the last search ended."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from pmemheap.space.strategies.ranges import Ranges, place_in

__all__ = ["NextFit"]


class NextFit(Ranges):
    """Search on from where the last range was taken, and from the lowest one when none is left.

    Searches are short, and neighbours are of one age. It spreads what is in use over all of space,
    though, and fragments it more than first fit and best fit do.

    References
    ----------
    Knuth, "The Art of Computer Programming", vol. 1, section 2.5, exercise 6: the roving pointer.

    Examples
    --------
    >>> space = NextFit()
    >>> space.deallocate(0, 100)
    >>> space.allocate(10, 1), space.allocate(10, 1)
    (0, 10)
    >>> space.deallocate(0, 10)
    >>> space.allocate(10, 1)
    20
    """

    def __init__(self) -> None:
        super().__init__()
        self._reached = 0

    def allocate(self, length: int, align: int) -> int | None:
        """Take units from the next range with room; return the first. O(n), but mostly O(log n)."""
        for start, have in chain(self._from(self._reached), self._length.items()):
            first = place_in(start, have, length, align)
            if first is not None:
                self.take(first, length)
                self._reached = first + length
                return first
        return None

    def _from(self, unit: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges from a unit on; of the one that it lies in, what is left of it."""
        index = max(self._length.bisect_right(unit) - 1, 0)
        for start in self._length.islice(index):
            stop = start + self._length[start]
            if unit < stop:
                yield max(start, unit), stop - max(start, unit)
