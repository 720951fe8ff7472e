"""First fit: the lowest range that is long enough."""

from __future__ import annotations

from pmemheap.space.strategies.ranges import Ranges, place_in

__all__ = ["FirstFit"]


class FirstFit(Ranges):
    """Take from the lowest range that is long enough.

    What is in use gathers at the low end, and what is free at the high one, where a heap can give
    it back. The low end fills with small ranges, though, and each search goes over them: O(n).

    References
    ----------
    Knuth, "The Art of Computer Programming", vol. 1, section 2.5, algorithm A.

    Examples
    --------
    >>> space = FirstFit()
    >>> space.deallocate(0, 8)
    >>> space.deallocate(20, 100)
    >>> space.allocate(6, 1), space.allocate(6, 1), space.allocate(2, 1)
    (0, 20, 6)
    """

    def allocate(self, length: int, align: int) -> int | None:
        """Take units from the lowest range with room; return the first. O(n)."""
        for start, have in self._length.items():
            first = place_in(start, have, length, align)
            if first is not None:
                self.take(first, length)
                return first
        return None
