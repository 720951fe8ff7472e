"""Checked: a map of extents that asks a `Space` of the user where, and checks each answer.

    allocate ──► what the Space was not told yet ──► its `allocate` ──► free? ──► taken
    the rest ──► the map itself, and noted for the Space

The map is an `ExtentMap`, and always right: what it says is free is free. The Space is told of it
only in `allocate`, where a request may fail. Whatever goes wrong there, the map is as it was, and
the Space *stale*: an empty copy takes its place with the next request, and is told what is free.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import NoReturn

from sortedcontainers import SortedList

from pmemheap.errors import StrategyError, UsageError
from pmemheap.protocols import SPACE_MARGIN, Space
from pmemheap.space.extents import Extent, ExtentMap

__all__ = ["CheckedMap", "Prototype", "prototype_of"]


class Prototype:
    """What the arenas of a heap get their `Space` from: the first the user's own, others copies."""

    def __init__(self, space: Space) -> None:
        if isinstance(space, type) or not isinstance(space, Space):
            raise UsageError(
                "extents: an object with allocate and deallocate expected, as "
                f"pmemheap.BestFit(), found {space!r}"
            )
        if isinstance(space, Iterable) and (found := list(space)):
            raise UsageError(f"extents: no free range in a new Space expected, found {found[0]}")
        self._first: Space | None = space
        try:
            self._empty = copy.deepcopy(space)
        except TypeError as error:
            raise UsageError(
                f"extents: a Space that copy.deepcopy copies expected, found {space!r}: {error}"
            ) from error

    def made(self) -> Space:
        """Return a Space that has no free range."""
        first, self._first = self._first, None
        return copy.deepcopy(self._empty) if first is None else first


def prototype_of(space: Space | None) -> Prototype | None:
    """Return what a heap keeps of the `Space` that it is given, if it is given one.

    Raises
    ------
    UsageError
        It is none, has a free range already, or cannot be copied.
    """
    return None if space is None else Prototype(space)


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

    __slots__ = ("_found_at", "_is_stale", "_prototype", "_space", "_starts", "_untold")

    def __init__(
        self,
        prototype: Prototype,
        found_at: Callable[[int, int], str],
        wilderness: int = 0,
        end: int = 0,
    ) -> None:
        super().__init__(wilderness, end)
        self._prototype, self._found_at = prototype, found_at
        self._space, self._is_stale = prototype.made(), False
        self._starts: SortedList[int] = SortedList()
        self._untold: list[tuple[bool, int, int]] = []  # is it free, start, length
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
        try:
            self._tell()
            start = self._space.allocate(length, align)
            have = self._checked(start, length, align)
        except BaseException:
            self._is_stale = True
            raise
        if start is not None and have is not None:
            self._carve(*have, start, length)
        return start

    def refusal(self, length: int, align: int) -> str:
        """Say that the Space has no room, and how much is free."""
        return (
            f"{self._call(length, align)}: None found, with {self.free_units} units free, the "
            f"longest range of {self.longest_merged()}"
        )

    def _tell(self) -> None:
        """Tell the Space what has become free or was taken since it was asked the last time."""
        untold, self._untold = self._untold, []
        if self._is_stale:
            self._feed()
            return
        for is_free, start, length in untold:
            if is_free:
                self._space.deallocate(start, length)
            elif not self._taken(start, length):
                self._feed()
                return

    def _taken(self, start: int, length: int) -> bool:
        take = getattr(self._space, "take", None)
        return take is not None and bool(take(start, length))

    def _feed(self) -> None:
        """Put an empty Space in the place of this one, and tell it all that is free. O(n log n)."""
        self._space = self._prototype.made()
        for start, length in self:
            self._space.deallocate(start, length)
        self._is_stale = False

    # ------------------------------------------------------------ checking what it says

    def _call(self, length: int, align: int) -> str:
        return f"{type(self._space).__name__}.allocate({length}, {align})"

    def _checked(self, start: int | None, length: int, align: int) -> Extent | None:
        """Return the extent that an answer lies in. O(log n); O(n) for None."""
        if start is None:
            self._require_no_room(length, align)
            return None
        if type(start) is not int:
            self._refuse(length, align, "a unit, an int, or None", repr(start))
        if start % align:
            self._refuse(length, align, f"a multiple of {align}", str(start))
        index = self._starts.bisect_right(start) - 1
        first = self._starts[index] if index >= 0 else start
        have = self._length.get(first, 0)
        if start + length > first + have:
            where = f"free space at unit {start}"
            self._refuse(length, align, where, self._found_at(start, length))
        return first, have

    def _require_no_room(self, length: int, align: int) -> None:
        most = SPACE_MARGIN * max(length, align)
        if self.longest_merged() >= most:
            start = next(start for start, have in self if have >= most)
            found = f"None, with {self._length[start]} free units at unit {start}"
            self._refuse(length, align, "the first of free units", found)

    def _refuse(self, length: int, align: int, expected: str, found: str) -> NoReturn:
        raise StrategyError(f"{self._call(length, align)}: {expected} expected, {found} found")

    def check(self) -> None:
        """Verify the map, and that the Space has the same units for free; raises AssertionError."""
        super().check()
        assert list(self._starts) == sorted(self._length), "starts of extents in order"
        if self._is_stale or self._untold:
            return
        name = type(self._space).__name__
        if isinstance(self._space, Iterable):
            found = ExtentMap()
            found.deallocate_many(self._space)
            assert list(found) == list(self), f"{name}: {list(self)} expected free, {list(found)}"
        verify = getattr(self._space, "check", None)
        if verify is not None:
            verify()

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
