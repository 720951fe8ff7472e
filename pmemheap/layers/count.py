"""Count: how many blocks and bytes, at most, in all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, final

from pmemheap import native
from pmemheap.layers.passing import Passing
from pmemheap.protocols import Allocator

__all__ = ["Count"]


@final
class Count(native.CountCore, Passing):
    """Counters of the blocks of a heap or arena, or of any allocator that it wraps.

    On a heap it counts all that becomes of blocks, of all arenas, whether by calls, transactions
    or containers; the C core does that, and no call goes through the layer. Several may count one
    heap, each from when it was put on it; what it has counted stays when it is taken off.

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
        Passing.__init__(self, upstream)

    @property
    def _is_told(self) -> bool:
        """Whether the core counts for it."""
        return isinstance(self.upstream, native.Upstream)

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block."""
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

    def __getattr__(self, name: str) -> Any:
        """Return what the upstream can do beyond that, counted."""
        call, counted = super().__getattr__(name), _COUNTED.get(name)
        return call if counted is None or self._is_told else partial(counted, self, call)


def _realloc(count: Count, call: Callable[..., int], offset: int, size: int) -> int:
    before = count.usable_size(offset)
    to = call(offset, size)
    after = count.usable_size(to)
    if to == offset:
        count._add_resized(before, after)  # private: of the class, in this module
    else:
        count._add_made(size, after)  # private: as above
        count._add_freed(before)  # private: as above
        count._add_moved()  # private: as above
    return to


def _expand(count: Count, call: Callable[..., bool], offset: int, size: int) -> bool:
    before = count.usable_size(offset)
    done = call(offset, size)
    if done:
        count._add_resized(before, count.usable_size(offset))  # private: as above
    return done


def _malloc_many(count: Count, call: Callable[..., memoryview], size: int, blocks: int) -> Any:
    offsets = call(size, blocks)
    for offset in offsets:
        count._add_made(size, count.usable_size(offset))  # private: as above
    return offsets


def _free_many(count: Count, call: Callable[..., None], offsets: Iterable[int]) -> None:
    each = list(offsets)
    capacities = [count.usable_size(offset) for offset in each]
    call(each)
    for capacity in capacities:
        count._add_freed(capacity)  # private: as above


_COUNTED: dict[str, Callable[..., Any]] = {
    "realloc": _realloc,
    "expand": _expand,
    "malloc_many": _malloc_many,
    "free_many": _free_many,
}
