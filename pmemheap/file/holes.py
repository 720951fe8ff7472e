"""Holes: which ranges of a file may have no blocks of the file system, as far as is known.

    file    | header | log | tables | data ............ | tables | data ......................... |
    blocks   ######## ##### ######## ####  ######         ######## ##
    holes                                ..      .......            ..............................

A range is none when its blocks were allocated by this process, or are known to be there since it
was opened. To take one for a hole that is none costs a system call, the reverse the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import get_ident
from typing import cast

from sortedcontainers import SortedDict

__all__ = ["Holes", "blocks_known"]

_SLACK = 64 * 1024
_SLACK_SHARE = 256
"""Bytes, and a share of all, that a file system may need for its records of a file, and free."""


class Holes:
    """Ranges of one file, in bytes. O(log n) for each of n ranges.

    Parameters
    ----------
    ranges : iterable of tuple of int and int
        The first ones, apart from each other.
    known : int
        Bytes of blocks that the file has, wherever they are, as of `blocks_known`.

    Examples
    --------
    >>> holes = Holes()
    >>> holes.add(0, 4096)
    >>> holes.remove(1024, 2048)
    >>> list(holes.within(512, 1 << 20)), holes.nbytes
    ([(512, 1024), (2048, 4096)], 3072)
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = (), known: int = 0) -> None:
        self._first = list(ranges)  # sorted when one is asked for
        self._sorted: SortedDict[int, int] | None = None
        self._changed_by = 0
        self._known = known
        self.nbytes: int = sum(stop - start for start, stop in self._first)

    def _stops(self) -> SortedDict[int, int]:
        """Return the ends of the ranges by their starts.

        An interrupt in the middle of a change leaves the dictionary and its sorted list different:
        the thread that had it sorts once more. What was lost then, `doubted` brings back.
        """
        stops = self._sorted
        if stops is None or self._changed_by == get_ident():
            ranges = self._first if stops is None else dict.items(cast("dict[int, int]", stops))
            self._sorted = stops = SortedDict(ranges)
            self._changed_by = 0
        return stops

    def within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return what of a range may have no blocks, by offset."""
        stops = self._stops()
        found = []
        for low in stops.islice(max(stops.bisect_right(start) - 1, 0)):
            if low >= stop:
                break
            if stops[low] > start:
                found.append((max(low, start), min(stops[low], stop)))
        return found

    def add(self, start: int, stop: int) -> None:
        """Note that a range may have no blocks."""
        stops = self._stops()
        self.nbytes += stop - start  # first: others look at it, to whom it may be too much
        if stops and stops.peekitem(-1)[1] > start:
            self.remove(start, stop)
        index = stops.bisect_left(start)
        if index and stops.peekitem(index - 1)[1] == start:
            start = stops.peekitem(index - 1)[0]
        self._changed_by = get_ident()
        stops[start] = stops.pop(stop, stop)
        self._changed_by = 0

    def remove(self, start: int, stop: int) -> None:
        """Note that a range has blocks."""
        stops = self._stops()
        for low, high in self.within(start, stop):
            first = stops.keys()[stops.bisect_right(low) - 1]
            self._changed_by = get_ident()
            last = stops.pop(first)
            self.nbytes -= high - low
            if first < low:
                stops[first] = low
            if high < last:
                stops[high] = last
            self._changed_by = 0

    def cut(self, end: int, nbytes: int = 0) -> None:
        """Forget what lies beyond the end of the file, of which so many bytes are cut off next."""
        self._known = max(0, self._known - nbytes)
        stops = self._stops()
        if stops and stops.peekitem(-1)[1] > end:
            self.remove(end, stops.peekitem(-1)[1])

    def doubted(self, ranges: Iterable[tuple[int, int]]) -> Holes:
        """Return holes of the same file of which nothing is known but that they lie in ranges."""
        return Holes(ranges, self._known)

    # ------------------------------------------------------------ how many blocks there must be

    def punched(self, nbytes: int) -> None:
        """Note that a range has gone, which may have had blocks."""
        self._known = max(0, self._known - nbytes)

    def blocks_least(self, end: int) -> int:
        """Return the bytes of blocks that a file of `end` bytes has at least."""
        return max(self._known, end - self.nbytes)


def blocks_known(allocated: int) -> int:
    """Return how many bytes of blocks a file keeps of those that it had when it was opened."""
    return max(0, allocated - _SLACK - allocated // _SLACK_SHARE)
