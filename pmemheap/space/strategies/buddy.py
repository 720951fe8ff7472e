"""Buddy system: blocks whose length and alignment are the same power of two."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedSet

__all__ = ["Buddy"]

_ORDERS = range(48)


class Buddy:
    """Split and join blocks of powers of two. A block and its buddy differ in one bit of the start.

    A request takes a block of the next power of two; what it does not need goes back at once.

    References
    ----------
    Knowlton, "A fast storage allocator", 1965; Knuth, vol. 1, section 2.5, algorithms R and S.

    Examples
    --------
    >>> space = Buddy()
    >>> space.deallocate(0, 16)
    >>> space.allocate(5, 1), list(space)
    (0, [(5, 1), (6, 2), (8, 8)])
    """

    def __init__(self) -> None:
        self._free: list[SortedSet[int]] = [SortedSet() for _ in _ORDERS]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the free blocks, ``(start, length)``, by start."""
        return iter(sorted((start, 1 << order) for order in _ORDERS for start in self._free[order]))

    def allocate(self, length: int, align: int) -> int | None:
        """Take units of the lowest of the smallest blocks that have them; return the first."""
        for order in _ORDERS[(max(length, align) - 1).bit_length() :]:
            if self._free[order]:
                start: int = self._free[order].pop(0)
                self.deallocate(start + length, (1 << order) - length)
                return start
        return None

    def deallocate(self, start: int, length: int) -> None:
        """Give units back as the largest aligned blocks that they are made of. O(log n) each."""
        while length:
            order = length.bit_length() - 1
            if start:
                order = min(order, (start & -start).bit_length() - 1)
            self._join(start, order)
            start, length = start + (1 << order), length - (1 << order)

    def _join(self, start: int, order: int) -> None:
        """Join a block with its buddy for as long as that is free."""
        while (buddy := start ^ 1 << order) in self._free[order]:
            self._free[order].remove(buddy)
            start, order = min(start, buddy), order + 1
        self._free[order].add(start)

    def take(self, start: int, length: int) -> bool:
        """Take just these units; return False, with nothing changed, if not all are free."""
        found, reached = [], start
        while reached < start + length:
            if (block := self._block_of(reached)) is None:
                return False
            found.append(block)
            reached = block[0] + (1 << block[1])
        for first, order in found:
            self._free[order].remove(first)
        self.deallocate(found[0][0], start - found[0][0])
        self.deallocate(start + length, reached - start - length)
        return True

    def _block_of(self, unit: int) -> tuple[int, int] | None:
        """Return start and order of the free block that a unit lies in."""
        blocks = ((unit >> order << order, order) for order in _ORDERS)
        return next((each for each in blocks if each[0] in self._free[each[1]]), None)
