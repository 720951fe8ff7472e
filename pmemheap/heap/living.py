"""Living: the heaps of this process that nobody has closed, and what becomes of them at its end."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pmemheap.heap.ending import rest
from pmemheap.heap.exiting import begin_exit
from pmemheap.heap.space import space_of

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap

__all__ = ["open_heaps"]


class _Living:
    """Heaps that are not closed; threads may change it while it is walked."""

    def __init__(self) -> None:
        self._heaps: weakref.WeakValueDictionary[int, Heap] = weakref.WeakValueDictionary()

    def add(self, heap: Heap) -> None:
        """Enter a heap."""
        self._heaps[id(heap)] = heap

    def discard(self, heap: Heap) -> None:
        """Strike a heap off, if it is there."""
        self._heaps.pop(id(heap), None)

    def __contains__(self, heap: Heap) -> bool:
        """Tell whether a heap is there."""
        return id(heap) in self._heaps

    def __iter__(self) -> Iterator[Heap]:
        """Yield the heaps of this moment: their references are copied in one step."""
        for reference in self._heaps.valuerefs():
            heap = reference()
            if heap is not None:
                yield heap


open_heaps: _Living = _Living()
"""The heaps of this process that are not closed."""


def _at_exit() -> None:
    """Close what nobody has closed: each heap by itself, whatever becomes of the others."""
    begin_exit()
    failure: BaseException | None = None
    for heap in open_heaps:
        try:
            rest(space_of(heap))
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure


atexit.register(_at_exit)
