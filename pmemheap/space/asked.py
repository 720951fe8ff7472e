"""Asked: a `Space` of the user, who is told what is free and whose answers are looked at.

    allocate ──► what the Space was not told yet ──► its `allocate` ──► free? ──► taken

What is free somebody else knows, `FreeRanges`, who is always right. The Space is told of changes
only when it is asked, where a request may fail. Whatever goes wrong there, nothing was taken, and
the Space is *stale*: an empty copy takes its place with the next request, and is told what is free.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import NoReturn, Protocol

from pmemheap.errors import StrategyError, UsageError
from pmemheap.protocols import SPACE_MARGIN, Space
from pmemheap.units import merged

__all__ = ["Asked", "Change", "FreeRanges", "Prototype", "prototype_of"]

Change = tuple[bool, int, int]
"""Whether a range became free or was taken elsewhere, where it begins, its length."""


class Prototype:
    """What arenas get their `Space` from: the first one the user's own, others copies."""

    def __init__(self, space: Space, what: str) -> None:
        if isinstance(space, type) or not isinstance(space, Space):
            raise UsageError(
                f"{what}: an object with allocate and deallocate expected, as "
                f"pmemheap.BestFit(), found {space!r}"
            )
        if isinstance(space, Iterable) and (found := list(space)):
            raise UsageError(f"{what}: no free range in a new Space expected, found {found[0]}")
        self._first: Space | None = space
        try:
            self._empty = copy.deepcopy(space)
        except TypeError as error:
            raise UsageError(
                f"{what}: a Space that copy.deepcopy copies expected, found {space!r}: {error}"
            ) from error

    def made(self) -> Space:
        """Return a Space that has no free range."""
        first, self._first = self._first, None
        return copy.deepcopy(self._empty) if first is None else first


def prototype_of(space: Space | None) -> Prototype | None:
    """Return what a heap keeps of the `Space` that it is given for its units, if it is given one.

    Raises
    ------
    UsageError
        It is none, has a free range already, or cannot be copied.
    """
    return None if space is None else Prototype(space, "extents")


class FreeRanges(Protocol):
    """Who knows what is free."""

    noun: str
    """What a range is counted in."""

    def changes(self) -> list[Change] | None:
        """Take what the Space was not told yet; None: that is not known."""

    def tell_all(self) -> Iterable[tuple[int, int]]:
        """Return what is free, of which nothing is left to be told then."""

    def longest_told(self) -> tuple[int, int]:
        """Return start and length of the longest range; (0, 0) if the Space was not told all."""

    def found_at(self, start: int, length: int) -> str:
        """Say what lies in a range that is not free."""


class Asked:
    """A `Space`, as long as it is sound; then a copy.

    Parameters
    ----------
    prototype : Prototype
        Where it comes from.
    """

    __slots__ = ("_is_stale", "_prototype", "_space")

    def __init__(self, prototype: Prototype) -> None:
        self._prototype, self._space, self._is_stale = prototype, prototype.made(), False

    @property
    def name(self) -> str:
        """Name of its class."""
        return type(self._space).__name__

    def make_anew(self) -> None:
        """Make a new one with the next request: nobody knows what this one was told."""
        self._is_stale = True

    def allocate(
        self, free: FreeRanges, length: int, align: int, take: Callable[[int], bool]
    ) -> int | None:
        """Take a range from where it says; None if it has no room for one.

        Parameters
        ----------
        take : callable
            Takes a range that begins at a number, if all of it is free; tells whether it was.

        Raises
        ------
        StrategyError
            Its answer cannot be. Nothing was taken.
        """
        try:
            self._tell(free)
            start = self._space.allocate(length, align)
            if start is None:
                self._require_no_room(free, length, align)
            else:
                self._require_number(free, start, length, align)
                if not take(start):
                    where = f"free space at {free.noun} {start}"
                    self._refuse(length, align, where, free.found_at(start, length))
        except BaseException:
            self._is_stale = True
            raise
        return start

    def call(self, length: int, align: int) -> str:
        """Show a request."""
        return f"{self.name}.allocate({length}, {align})"

    # ------------------------------------------------------------ telling it

    def _tell(self, free: FreeRanges) -> None:
        """Tell it what has become free or was taken since it was asked the last time."""
        changes = free.changes()
        if self._is_stale or changes is None:
            self._feed(free)
            return
        for is_free, start, length in changes:
            if is_free:
                self._space.deallocate(start, length)
            elif not self._taken(start, length):
                self._feed(free)
                return

    def _taken(self, start: int, length: int) -> bool:
        take = getattr(self._space, "take", None)
        return take is not None and bool(take(start, length))

    def _feed(self, free: FreeRanges) -> None:
        """Put an empty Space in the place of this one, and tell it all that is free. O(n log n)."""
        self._space = self._prototype.made()
        for start, length in free.tell_all():
            self._space.deallocate(start, length)
        self._is_stale = False

    # ------------------------------------------------------------ checking what it says

    def _require_number(self, free: FreeRanges, start: object, length: int, align: int) -> None:
        if type(start) is not int:
            self._refuse(length, align, f"a {free.noun}, an int, or None", repr(start))
        if start % align:
            self._refuse(length, align, f"a multiple of {align}", str(start))

    def _require_no_room(self, free: FreeRanges, length: int, align: int) -> None:
        start, have = free.longest_told()
        if have >= SPACE_MARGIN * max(length, align):
            found = f"None, with {have} free {free.noun}s at {free.noun} {start}"
            self._refuse(length, align, f"the first of free {free.noun}s", found)

    def _refuse(self, length: int, align: int, expected: str, found: str) -> NoReturn:
        raise StrategyError(f"{self.call(length, align)}: {expected} expected, {found} found")

    def check(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Verify that it is sound, and has just these ranges for free; raises AssertionError.

        Parameters
        ----------
        ranges : iterable
            What is free, by start, of which no two touch; all of that it was told.
        """
        if self._is_stale:
            return
        if isinstance(self._space, Iterable):
            found, expected = merged(self._space), list(ranges)
            assert found == expected, f"{self.name}: {expected} expected free, {found}"
        verify = getattr(self._space, "check", None)
        if verify is not None:
            verify()
