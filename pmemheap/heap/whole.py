"""Whole: what is asked of a heap with all its arenas."""

from __future__ import annotations

from collections.abc import Iterator

from pmemheap.heap import totals
from pmemheap.heap.insight import CheckReport, HeapStats
from pmemheap.heap.shadowed import HasShadow
from pmemheap.progress import Progress, told

__all__ = ["HasTotals"]


class HasTotals(HasShadow):
    """The base of `Heap` that answers for all its arenas."""

    __slots__ = ()

    def trim(self, *, progress: Progress | None = None) -> int:
        """Give free space of all arenas back, as `Arena.trim` of one; return how many bytes.

        Parameters
        ----------
        progress : Progress, optional
            Is told of the free units, in each arena anew. If it raises, what was given back until
            then is given back, and the heap is what it was.
        """
        self._space.require(write=True)
        with told(progress) as tell:
            return totals.trim(self._space.shared, tell)

    def stats(self) -> HeapStats:
        """Return how large and how full the heap is, all arenas together.

        O(pages that have memory), and O(units) the first time. A reader that was attached beside a
        writer looks at the heap as it is now; HeapBusyError if the writer gives it no moment for
        that.
        """
        return totals.stats(self._space)

    def check(self) -> CheckReport:
        """Verify every structure against every other, while no thread changes them. O(units).

        Returns
        -------
        CheckReport
            True if nothing was found; its `findings` are sentences.

        Raises
        ------
        HeapBusyError
            The heap was attached beside a writer, which gives it no moment for a look.
        """
        return totals.check(self._space)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ``(offset, usable size)`` of the live blocks of all arenas, by offset.

        Blocks that come or go while it runs may or may not be in it. O(1) memory.
        """
        yield from totals.blocks(self._space)
