"""Timeline: what a heap holds while the calls of a trace are repeated: growth and giving back.

    trace ──► a new heap in memory ──► stats, at moments evenly apart ──► freed, trimmed, once more

Blocks are written to, so that memory counts. What is given back by itself, with time, is not seen:
the calls take less time than they did in the program.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from pmemheap.heap.heap import Heap
from pmemheap.heap.shadowed import let_be_untouched
from pmemheap.traces import ALLOCATE, FREE, Trace

__all__ = ["Moment", "timeline_of"]

_MOMENTS = 200
_FILLING = 0xA5


class Moment(NamedTuple):
    """A heap after some operations of a trace; bytes unless the name says otherwise.

    Attributes
    ----------
    operations : int
        Of the trace, made so far.
    live : int
        What the live blocks were asked for with.
    allocated, touched, mapped : int
        As of `HeapStats`.
    growths, shrinks : int
        Segments added and given back so far.
    """

    operations: int
    live: int
    allocated: int
    touched: int
    mapped: int
    growths: int
    shrinks: int


def timeline_of(trace: Trace, moments: int = _MOMENTS) -> list[Moment]:
    """Replay a trace on a heap in memory, and look at it now and then; the last look after a trim.

    Parameters
    ----------
    trace : Trace
        What to repeat.
    moments : int
        How many looks, about.
    """
    found = []
    with Heap.anonymous(decay=None) as heap:
        let_be_untouched(heap)
        run = _Run(trace, heap)
        step = max(len(trace.operations) // moments, 1)
        for number, (kind, block, size) in enumerate(trace.operations, 1):
            run.make(kind, block, size)
            if number % step == 0 or number == len(trace.operations):
                found.append(_moment(heap, number, run.live))
        for block in trace.live_at_end:
            run.make(FREE, block, 0)
        heap.trim()
        found.append(_moment(heap, len(trace.operations), run.live))
    return found


class _Run:
    """The blocks of a trace on a heap."""

    def __init__(self, trace: Trace, heap: Heap) -> None:
        self._heap = heap
        self._offsets = [0] * trace.blocks
        self._sizes = [0] * trace.blocks
        self.live = 0

    def make(self, kind: int, block: int, size: int) -> None:
        """Make one operation, and write to the block."""
        heap, offsets = self._heap, self._offsets
        if kind == FREE:
            heap.free(offsets[block])
        else:
            is_new = kind == ALLOCATE
            offsets[block] = heap.malloc(size) if is_new else heap.realloc(offsets[block], size)
            ctypes.memset(heap.address(offsets[block]), _FILLING, size)
        self.live += size - self._sizes[block]
        self._sizes[block] = size


def _moment(heap: Heap, operations: int, live: int) -> Moment:
    stats = heap.stats()
    return Moment(
        operations, live, stats.allocated, stats.touched, stats.mapped, stats.growths, stats.shrinks
    )
