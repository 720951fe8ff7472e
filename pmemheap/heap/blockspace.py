"""Block space: all that can be done with the blocks of one arena, beyond the calls in C.

Heap, Arena --> BlockSpace -- handles and arrays, space and insight
|
Engine, HeapCore -- malloc, free, realloc, view
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pmemheap.errors import OutOfSpaceError
from pmemheap.file.filemedium import FileMedium
from pmemheap.heap import handles, insight
from pmemheap.heap.arguments import alignment_argument, offset_argument, size_argument
from pmemheap.heap.engine import Engine
from pmemheap.heap.gate import Shut
from pmemheap.heap.handles import Block
from pmemheap.heap.insight import CheckReport, ExplainedOutOfSpaceError, Explanation, HeapStats
from pmemheap.units import GRANULE, UNIT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["BlockSpace"]


class BlockSpace(Engine):
    """The blocks of one arena of a heap."""

    __slots__ = ()

    def address(self, offset: int) -> int:
        """Return the address of the live block at `offset`, for other libraries of this process.

        Keep a view of the block for as long as the address is used: nothing else pins it.
        """
        space = self._arena_of(offset_argument(offset)) or self
        space.usable_size(offset)
        return space._region.base("data") + (offset ^ space._origin)

    # ------------------------------------------------------------ handles and arrays

    def alloc(self, size: int, align: int = GRANULE) -> Block:
        """Allocate a block and return a handle to it, which knows when the block is gone.

        Parameters and exceptions as `malloc`. In an open transaction of this thread it is part of
        that, as `Block.free` and `ndarray` are: gone if it aborts. The calls that take offsets are
        not: ``tx.malloc`` and ``tx.free`` are.
        """
        return handles.new_block(self, size, align)

    def block(self, offset: int) -> Block:
        """Return a handle to the live block at `offset`."""
        place = offset_argument(offset)
        space = self._arena_of(place) or self
        return Block(space, place, space.usable_size(place))

    def ndarray(
        self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = float, align: int = 64
    ) -> np.ndarray[Any, Any]:
        """Allocate a block and return it as a numpy array of zeros.

        The array is a view: the block is freed by ``heap.free(heap.offset_of(array))`` once no
        array of it lives, or before that with ``deferred=True``. In an open transaction of this
        thread it is part of that, as of `alloc`.
        """
        return handles.new_array(self, shape, dtype, align)

    ndarray_at = handles.ndarray_at  # not called from a method here: that costs as much as a view

    def offset_of(self, buffer: object) -> int:
        """Return the offset of the block that a view or array of this heap belongs to.

        Raises
        ------
        UsageError
            It is not a buffer of this heap.
        """
        return handles.offset_of(self, buffer)

    # ------------------------------------------------------------ space and insight

    def _explained(self, error: OutOfSpaceError, size: int, align: int) -> OutOfSpaceError:
        if isinstance(error, ExplainedOutOfSpaceError):
            return error
        return ExplainedOutOfSpaceError(str(error), self.explain(size, align, str(error)))

    def trim(self) -> int:
        """Give free space back: segments at both ends, pages (and file blocks) in between.

        Returns
        -------
        int
            Bytes that the system counts less: memory, or blocks of the file. 0 where it does not
            say: memory without /proc, or without a descriptor to read it. O(units of the heap).
        """
        self._require(write=True)
        return self._serve(self._trim_locked)

    def _trim_locked(self) -> int:
        before = self._footprint()
        log = self._redo()
        if log is not None:
            log.sync_log()  # what was freed leaves quarantine
        self._supply.trim()
        if log is not None:
            log.shrink()
        after = self._footprint()
        return 0 if before is None or after is None else max(0, before - after)

    def _footprint(self) -> int | None:
        if isinstance(self._medium, FileMedium):
            return self._medium.allocated()[1]
        try:
            return sum(each.resident for each in self._region.residency().values())
        except OSError:  # only the number is missing
            return None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let nobody commit while the block runs: what is read in it is of one moment.

        It begins when the commits that are under way have ended. Other threads go on until they
        want to commit; then they wait. Changes of this thread in an open transaction are seen.
        Bare calls, such as `malloc`, go on, and so does what is stored through views.

        Raises
        ------
        UsageError
            The heap is closed or forked.

        Examples
        --------
        >>> import pmemheap
        >>> heap = pmemheap.Heap.anonymous()
        >>> heap.roots["first"] = heap.roots["second"] = heap.malloc(10)
        >>> with heap.paused():
        ...     heap.roots["first"] == heap.roots["second"]
        True
        >>> heap.close()
        """
        self._require_no_change()
        self._require_open()
        with self._gate.shut(Shut.COMMIT):
            self._gate.let_commits_end()
            self._require_open()
            yield

    def stats(self) -> HeapStats:
        """Return how large and how full the heap is. O(mappings), and O(units) the first time."""
        self._require()
        return self._look(insight.stats, self)

    def _stats_as_listed(self, listed: bytes) -> HeapStats:
        """Do what `stats` does, with the mappings of the process as they were listed."""
        self._require()
        return self._look(insight.stats, self, listed)

    def explain(self, size: int, align: int = GRANULE, refusal: str = "") -> Explanation:
        """Tell whether `size` bytes could be allocated now, what refuses, and what would help."""
        nbytes, alignment = size_argument(size), alignment_argument(align)
        self._require()
        return self._look(insight.explain, self, nbytes, alignment, refusal)

    def check(self) -> CheckReport:
        """Verify every structure against every other, while no thread changes them. O(units).

        Returns
        -------
        CheckReport
            True if nothing was found; its `findings` are sentences.
        """
        self._require()
        with self.paused():
            return self._look(insight.check, self)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ``(offset, usable size)`` of the live blocks, by offset.

        Blocks that come or go while it runs may or may not be in it. O(1) memory.
        """
        self._require()
        self._look(self._supply.read_all)
        cursor = self._bounds()[0] * (UNIT // GRANULE)
        while True:
            self._require()
            cursor, found = self._blocks(cursor)
            if not found:
                self._require()  # a heap that was closed meanwhile has no blocks
                return
            yield from found
