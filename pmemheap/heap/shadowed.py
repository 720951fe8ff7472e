"""Shadowed: what a heap holds, and what its load would hold under another strategy.

heap.shadow(strategy) ──► Shadow, a layer ──► another heap in memory, of which no block is
                                              touched, and which gives nothing back by itself
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, cast

from pmemheap import native
from pmemheap.heap import insight, making, units
from pmemheap.heap.blockspace import BlockSpace
from pmemheap.heap.snapshots import HasSnapshots
from pmemheap.heap.space import space_of
from pmemheap.heap.strategies import Strategy
from pmemheap.layers.shadow import Shadow
from pmemheap.units import UNIT

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap
    from pmemheap.protocols import Allocator
    from pmemheap.space.anonymous import AnonymousMedium

__all__ = ["HasShadow", "held_bytes", "let_be_untouched", "touched_bytes"]


def let_be_untouched(heap: BlockSpace) -> None:
    """Let no page of a heap in memory be faulted in ahead: nobody is going to store to it."""
    cast("AnonymousMedium", space_of(heap).shared.medium).may_fault_ahead = False


def held_bytes(heap: BlockSpace) -> int:
    """Return the bytes of all units that a heap in memory uses, those of its regions with them."""
    spaces = space_of(heap).shared.spaces_and_scratch()
    return UNIT * sum(units.used(space.core.usage()[0]) for space in spaces)


def touched_bytes(heap: BlockSpace) -> int:
    """Return the memory of a heap and its regions as the kernel counts it, tables included."""
    listing = cache(native.list_mappings)
    return sum(
        sum(insight.memory_of(space, listing).values())
        for space in space_of(heap).shared.spaces_and_scratch()
    )


def _allocator(heap: Heap, strategy: Strategy | Callable[[Heap], Allocator] | None) -> Allocator:
    """Return what a shadow allocates from."""
    if strategy is None:
        return heap
    if isinstance(strategy, Strategy):
        return heap.arena("shadow", strategy=strategy)
    return strategy(heap)


class HasShadow(HasSnapshots):
    """A base of `Heap`: what has shadows."""

    __slots__ = ()

    @contextmanager
    def shadow(
        self, strategy: Strategy | Callable[[Heap], Allocator] | None = None
    ) -> Iterator[Shadow]:
        """Make the calls of this heap in another one as well, to see what that would hold.

        It follows what `install` lets a layer see, as long as the block of `with` lasts; the blocks
        of before have no part in it. No block of the other heap is written, so it takes little
        memory: address space, tables, and 1.5 microseconds a call.

        Parameters
        ----------
        strategy : Strategy or callable, optional
            `Ring` or another one, of an arena; or what returns an allocator, given an empty heap in
            memory. The heap itself if left out.

        Yields
        ------
        Shadow
            With samples of what is held, and of what was asked for; the last one is of the end.

        Raises
        ------
        UsageError
            The heap is closed or forked.
        OutOfSpaceError
            No address space for another heap.

        Examples
        --------
        >>> import pmemheap
        >>> heap = pmemheap.Heap.anonymous()
        >>> with heap.shadow(pmemheap.Heap.scratch) as shadow:
        ...     offsets = [heap.malloc(1040) for _ in range(5000)]
        >>> shadow.peak.live, shadow.peak.held < heap.stats().active
        (5200000, True)
        >>> heap.close()
        """
        with making.over_memory(cast("type[Heap]", type(self)), None, None, None, None) as other:
            let_be_untouched(other)
            made = _allocator(other, strategy)
            with self.install(Shadow(made, lambda: held_bytes(other))) as shadow:
                try:
                    yield shadow
                finally:
                    shadow.close()
