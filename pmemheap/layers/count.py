"""Count: how many blocks and bytes, at most, in all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from pmemheap import native
from pmemheap.layers.passing import Told
from pmemheap.protocols import Allocator

__all__ = ["Count"]


@final
class Count(native.CountCore, Told):
    """Counters of the blocks of a heap or arena, or of any allocator that it wraps.

    On a heap it counts all that becomes of blocks, of all arenas and scratch regions, whether by
    calls, transactions or containers; the C core does that, and no call goes through the layer.
    Several may count one heap, each from when it was put on it; what it has counted stays when it
    is taken off.

    Attributes
    ----------
    blocks, bytes : int
        Blocks that live, and what they can hold, less those that lived when the count began: below
        0 if more of these were freed than others made.
    peak : int
        The most that `bytes` ever was.
    total : int
        Bytes of all blocks that were made, and by which blocks grew in place.
    slack : int
        Of these, bytes that nobody asked for; for a block of a transaction of up to 16 KiB it is
        not known what was asked for, and counts as none.
    moved, in_place : int
        Changes of a size for which a block moved, and for which it did not.

    Notes
    -----
    4 ns for a block and its end. The blocks of an arena that is dropped count as freed, as far as
    the heap has looked at them since it was opened. Memkind's and RMM's statistics adaptors are its
    models.

    Examples
    --------
    >>> import pmemheap
    >>> with pmemheap.Heap.anonymous() as heap:
    ...     with heap.install(Count()) as count:
    ...         offsets = [heap.malloc(100) for _ in range(10)]
    ...         heap.free(offsets[0])
    ...     count.blocks, count.bytes, count.peak, count.slack
    (9, 1008, 1120, 120)
    """

    def __init__(self, upstream: Allocator | None = None) -> None:
        Told.__init__(self, upstream)

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block; return its offset."""
        offset = super().malloc(size, align)
        if not self._is_told:
            self._add_made(size, self.usable_size(offset))
        return offset

    def free(self, offset: int, deferred: bool = False) -> None:
        """Free a block."""
        capacity = 0 if self._is_told else self.usable_size(offset)
        super().free(offset, deferred)
        if not self._is_told:
            self._add_freed(capacity)

    def over_realloc(self, offset: int, size: int) -> int:
        """Give a block another size; return where it is then."""
        before = self.usable_size(offset)
        to: int = self.below.realloc(offset, size)
        after = self.usable_size(to)
        if to == offset:
            self._add_resized(before, after)
        else:
            self._add_made(size, after)
            self._add_freed(before)
            self._add_moved()
        return to

    def over_expand(self, offset: int, size: int) -> bool:
        """Let a block grow where it is; tell whether it has."""
        before = self.usable_size(offset)
        done: bool = self.below.expand(offset, size)
        if done:
            self._add_resized(before, self.usable_size(offset))
        return done

    def over_malloc_many(self, size: int, count: int) -> Any:
        """Allocate many blocks; return their offsets."""
        offsets = self.below.malloc_many(size, count)
        for offset in offsets:
            self._add_made(size, self.usable_size(offset))
        return offsets

    def over_free_many(self, offsets: Iterable[int]) -> None:
        """Free many blocks."""
        each = list(offsets)
        capacities = [self.usable_size(offset) for offset in each]
        self.below.free_many(each)
        for capacity in capacities:
            self._add_freed(capacity)
