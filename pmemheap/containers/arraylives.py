"""Array lives: whether an array that was looked up is still the one of that name.

    Array "a" --> Life --> Block at 0x40      was freed, or is
                       --> Block at 0x1000    where the array has moved to

A name may lead to another array since, and an offset to another block. A life knows each block that
the array ever had in this process, by handles that know when their block is gone. All objects of
one array share it, so that one of them lets the others know where the array has moved to, also if
the transaction that moved it is taken back.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from pmemheap.heap.handles import Block

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap

__all__ = ["Life", "life_at"]

_lives: weakref.WeakKeyDictionary[Heap, weakref.WeakValueDictionary[int, Life]] = (
    weakref.WeakKeyDictionary()
)
_lock = threading.RLock()


def _renew_lock() -> None:
    """In a forked child: the thread that had it is not there to release it."""
    global _lock  # noqa: PLW0603 -- a lock cannot be made anew in place
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


class Life:
    """The blocks that an array has or had.

    Attributes
    ----------
    changes : int
        Counts the changes of its rows, those that were taken back as well.
    shown : int
        Rows that the longest view showed. A transaction that was taken back may have had more.
    """

    __slots__ = ("__weakref__", "_blocks", "changes", "shown")

    changes: int
    shown: int

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self.changes = self.shown = 0

    def has(self, offset: int) -> bool:
        """Tell whether the array has, or had, the block that lives at an offset."""
        block = self._blocks.get(offset)
        return block is not None and block.is_live

    def move_to(self, heap: Heap, offset: int) -> None:
        """Know another block of the array, and forget those that are gone."""
        with _lock:
            self._blocks = {at: block for at, block in self._blocks.items() if block.is_live}
            self._blocks[offset] = heap.block(offset)
            _lives.setdefault(heap, weakref.WeakValueDictionary())[offset] = self


def life_at(heap: Heap, offset: int) -> Life:
    """Return the life of the array whose block lives at an offset.

    Raises
    ------
    UsageError
        No block lives there.
    """
    with _lock:
        lives = _lives.get(heap)
        life = None if lives is None else lives.get(offset)
        if life is None or not life.has(offset):
            life = Life()
            life.move_to(heap, offset)
    return life
