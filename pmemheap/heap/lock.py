"""Lock: one thread at a time changes the volatile structures of a heap and of its arenas.

A thread that changes a heap may be interrupted anywhere by finalizers. If those could wait for the
lock of another heap, whose owner waits for something that this thread holds, both would wait for
ever: so nobody waits for a lock in the middle of a change; `is_changing` tells.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from pmemheap.errors import UsageError

__all__ = ["Lock", "is_changing"]

T = TypeVar("T")

_changing: set[int] = set()
"""The threads that are changing a heap. Finalizers that run in them meanwhile may change none."""


class Lock:
    """The lock of one heap, which has a name."""

    __slots__ = ("_lock", "_name", "owner")

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        self.owner: int = 0

    @property
    def is_mine(self) -> bool:
        """Whether this thread has it."""
        return self.owner == threading.get_ident()

    def hold(self, work: Callable[[], T]) -> T:
        """Run something under it; not in the middle of a change."""
        thread = threading.get_ident()
        if thread in _changing:
            raise self.in_a_change()
        try:  # the note is made inside of it, so that no interrupt can leave it behind
            _changing.add(thread)
            with self._lock:
                self.owner = thread
                try:
                    return work()
                finally:
                    self.owner = 0
        finally:
            _changing.discard(thread)

    def in_a_change(self) -> UsageError:
        """Return what to raise for what may have to wait, in the middle of a change."""
        return UsageError(
            f"{self._name}: called from a finalizer, a signal handler or a Space while a heap is "
            "being changed by the same thread; only free and view may be"
        )


def is_changing() -> bool:
    """Tell whether this thread is in the middle of a change of a heap."""
    return threading.get_ident() in _changing


os.register_at_fork(after_in_child=_changing.clear)  # the rest: os/file_table.c
