"""Kept regions: blocks that die together, and that outlive the process in a heap in a file.

    r.offset ──► | stands for r | block | block |   chunk ──► | block | block |

The first piece of its first chunk stands for a region: it is there as long as that lives, and as
soon as it is gone so is all of the region [R33]. A root that names it is how a program finds its
region again.
"""

from __future__ import annotations

from typing import Any, Self

from pmemheap.errors import UsageError
from pmemheap.format.layout import HAS_PACKED
from pmemheap.heap import units
from pmemheap.heap.arenas import mark_feature
from pmemheap.heap.arguments import offset_argument
from pmemheap.heap.regions import HasScratch, Region
from pmemheap.heap.space import Space, space_of
from pmemheap.native.constants import REGION_MOST, Refusal

__all__ = ["HasRegions", "KeptRegion"]


class KeptRegion(Region):
    """Blocks that die together, in the heap itself; made by ``heap.region()``.

    As `Region`, but it is there until it is dropped, in a file also for later processes: a root
    that names `offset` is found again, and ``heap.region(at=offset)`` is the region. What it makes
    and frees is as durable as the bare calls of the heap. A process that is killed leaves some of
    what was to go if it was in the middle of `rewind`; all or nothing in the middle of `drop`.

    Examples
    --------
    >>> import pmemheap
    >>> heap = pmemheap.Heap.anonymous()
    >>> document = heap.region()
    >>> heap.roots["document"] = document.offset
    >>> offsets = [document.malloc(100) for _ in range(1000)]
    >>> heap.region(at=heap.roots["document"]) is document
    True
    >>> del heap.roots["document"]
    >>> document.drop()                     # and so are the 1000
    >>> list(heap.blocks())
    []
    >>> heap.close()
    """

    __slots__ = ("__weakref__", "_offset")

    _offset: int

    @property
    def offset(self) -> int:
        """The offset of a block that stands for it, by which it is called."""
        return self._offset

    def begin(self) -> Self:
        """Make it, and return it; for `HasRegions.region`."""
        space = self._space
        mark_feature(space.shared.medium, HAS_PACKED)
        while (answer := self._begin()) < 0:
            units.refill_units(space, -answer)
        self._offset = answer
        space.shared.kept_regions[answer] = self
        return self

    def find(self, offset: int) -> Self:
        """Be the one that is called by an offset, and return it; for `HasRegions.region`."""
        space = self._space
        space.supply.read_all()
        if self._find(offset):
            raise UsageError(
                f"{space.name}: what a region is called by expected, found {offset:#x}"
            )
        self._offset = offset
        space.shared.kept_regions[offset] = self
        return self

    def _serve(self, space: Space, nbytes: int, alignment: int, refusal: int, nunits: int) -> Any:
        if refusal == Refusal.LARGE:
            raise UsageError(
                f"malloc: at most {REGION_MOST} bytes, aligned to at most 4096, with all that an "
                f"alignment takes, expected in a region that is kept, found {nbytes} aligned to "
                f"{alignment}"
            )
        return super()._serve(space, nbytes, alignment, refusal, nunits)

    def _refuse(self, where: str, refused: int) -> None:
        if refused == Refusal.ROOTED:
            raise UsageError(
                f"{where}: {self!r}: no root that names one of its blocks expected, found one; "
                "remove the root first"
            )
        super()._refuse(where, refused)

    def drop(self) -> None:
        """Free all blocks; the region is over. Once more does nothing.

        Raises
        ------
        BufferError
            Blocks have live views, or a transaction uses some. Nothing has changed.
        UsageError
            A root names it, or a block of it; the heap is closed or read-only.
        """
        if not self.dropped:
            self._require()
            super().drop()
            self._space.shared.kept_regions.pop(self._offset, None)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Leave it as it is: it is there until it is dropped."""

    def __repr__(self) -> str:
        """Show where it is, and whether it was dropped."""
        over = ", dropped" if self.dropped else ""
        return f"<KeptRegion {self._offset:#x} in {self._space.name}{over}>"


class HasRegions(HasScratch):
    """The base of `Heap`: blocks, and regions among them and beside them."""

    __slots__ = ()

    def region(self, at: int | None = None) -> KeptRegion:
        """Return a region of the heap: blocks that die together, when it is dropped.

        Parameters
        ----------
        at : int, optional
            `KeptRegion.offset` of one that is there; a new one if left out. For the first time in a
            heap that was opened all of its units are read.

        Raises
        ------
        UsageError
            There is none of that offset; the heap is closed, forked or read-only, or has another
            strategy than `General`.
        OutOfSpaceError
            There is no room for a new one.
        """
        space = self._space
        if not space.strategy.has_classes:
            raise UsageError(
                f"{space.name}: General() expected for regions, found {space.strategy}"
            )
        if at is None:
            space.require(write=True)
            made: KeptRegion = space.serve(KeptRegion(self, self).begin)
            return made
        offset = offset_argument(at)
        space.require()
        found: KeptRegion = space.look(_find, self, offset)
        return found


def _find(heap: HasRegions, offset: int) -> KeptRegion:
    known = space_of(heap).shared.kept_regions.get(offset)
    return KeptRegion(heap, heap).find(offset) if known is None else known
