"""Checked: a map of extents that asks a `Space` of the user where, and checks each answer.

    allocate ──► Asked: the Space ──► free? ──► taken
    the rest ──► the map itself, and noted for the Space

The map is an `ExtentMap`, and always right: what it says is free is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sortedcontainers import SortedList

from pmemheap.space.asked import Asked, Change, Prototype
from pmemheap.space.extents import Extent, ExtentMap

__all__ = ["CheckedMap"]


class CheckedMap(ExtentMap):
    """The free extents of a heap, from which a `Space` of the user chooses.

    Parameters
    ----------
    prototype : Prototype
        Where the Space comes from.
    found_at : callable
        Says what lies in a range that is not free.
    wilderness, end : int
        As `ExtentMap` has them; there is no wilderness here, these units are free as others are.
    """

    __slots__ = ("_asked", "_starts", "_untold", "found_at")

    noun = "unit"

    found_at: Callable[[int, int], str]

    def __init__(
        self,
        prototype: Prototype,
        found_at: Callable[[int, int], str],
        wilderness: int = 0,
        end: int = 0,
    ) -> None:
        super().__init__(wilderness, end)
        self._asked, self.found_at = Asked(prototype), found_at
        self._starts: SortedList[int] = SortedList()
        self._untold: list[Change] = []
        self.end_wilderness()

    # ------------------------------------------------------------ asking the Space

    def allocate(self, length: int, align: int = 1, *, roomy: bool = False) -> int | None:
        """Take `length` units from where the Space says; None if it has no room for them.

        Raises
        ------
        StrategyError
            Its answer cannot be. The map is as it was.
        """
        self.coalesce()
        return self._asked.allocate(self, length, align, lambda start: self._cut(start, length))

    def _cut(self, start: int, length: int) -> bool:
        """Take just these units, wherever in an extent they lie. O(log n)."""
        index = self._starts.bisect_right(start) - 1
        first = self._starts[index] if index >= 0 else start
        have = self._length.get(first, 0)
        if start + length > first + have:
            return False
        self._carve(first, have, start, length)
        return True

    def refusal(self, length: int, align: int) -> str:
        """Say that the Space has no room, and how much is free."""
        return (
            f"{self._asked.call(length, align)}: None found, with {self.free_units} units free, "
            f"the longest range of {self.longest_merged()}"
        )

    def changes(self) -> list[Change]:
        """Take what has become free or was taken since the Space was asked the last time."""
        untold, self._untold = self._untold, []
        return untold

    def tell_all(self) -> Iterable[Extent]:
        """Return what is free; nothing more is to be told."""
        self._untold = []
        return self

    def longest_told(self) -> Extent:
        """Return the longest extent."""
        self.coalesce()
        return self._longest(1) or (0, 0)

    def check(self) -> None:
        """Verify the map, and that the Space has the same units for free; raises AssertionError."""
        super().check()
        assert list(self._starts) == sorted(self._length), "starts of extents in order"
        if not self._untold:
            self._asked.check(self)

    # ------------------------------------------------------------ what it is told later

    def deallocate(self, start: int, length: int) -> None:
        """Give a range back."""
        super().deallocate(start, length)
        self._untold.append((True, start, length))

    def deallocate_many(self, extents: Iterable[Extent]) -> None:
        """Give extents back."""
        for start, length in extents:
            self.deallocate(start, length)

    def take(self, start: int, length: int) -> bool:
        """Take just these units, if an extent that has them begins there."""
        is_taken = super().take(start, length)
        if is_taken:
            self._untold.append((False, start, length))
        return is_taken

    def take_ending(self, stop: int, most: int) -> int:
        """Take the free units that end at `stop`, at most `most`; return how many."""
        length = super().take_ending(stop, most)
        if length:
            self._untold.append((False, stop - length, length))
        return length

    def take_shortest(self, count: int, most: int) -> list[Extent]:
        """Take nothing: it is for the Space to choose."""
        return []

    def grow(self, end: int) -> None:
        """Let the units up to `end` be free."""
        super().grow(end)
        self.end_wilderness()

    # ------------------------------------------------------------ extents by their start

    def _insert(self, start: int, length: int) -> None:
        super()._insert(start, length)
        self._starts.add(start)

    def _remove(self, start: int, length: int) -> None:
        super()._remove(start, length)
        self._starts.remove(start)
