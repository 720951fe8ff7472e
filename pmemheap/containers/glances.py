"""Glances: the views that containers have for a moment, while they copy rows, told from others.

Rows that views show are not to be changed into others under them. But what a container looks
through, in any thread, is its own affair: it is counted here, and taken off.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

from pmemheap.heap.place import place_of
from pmemheap.heap.space import Space

__all__ = ["Glance", "kept_views"]

_LOOKS = 5
_MOMENT_SECONDS = 0.001

_lock = threading.RLock()
_counts: dict[tuple[int, int], int] = {}


def _begin_anew() -> None:
    """In a forked child: the threads that looked are not there."""
    global _lock  # noqa: PLW0603 -- a lock cannot be made anew in place
    _lock = threading.RLock()
    _counts.clear()


os.register_at_fork(after_in_child=_begin_anew)


class Glance:
    """A context manager that gives a view of a block of its own, for as long as its block of code.

    Raises
    ------
    UsageError
        No live block begins there, or it is shorter.
    """

    __slots__ = ("_key", "_view")

    def __init__(self, space: Space, offset: int, length: int) -> None:
        self._key = id(space.core), offset
        with _lock:
            self._view = space.own_view(offset, length)
            _counts[self._key] = _counts.get(self._key, 0) + 1

    def __enter__(self) -> memoryview:
        """Return the view."""
        return self._view

    def __exit__(self, *_: object) -> None:
        """Release it."""
        key = self._key
        with _lock:
            with suppress(BufferError):  # the frames of an exception may have arrays of it
                self._view.release()
            if count := _counts.pop(key) - 1:
                _counts[key] = count


def kept_views(space: Space, offset: int) -> int:
    """Return the number of views of a block that somebody keeps.

    Others of the package, such as a look at a header, go by themselves in a moment.
    """
    key = id(space.core), offset
    for _ in range(_LOOKS):
        with _lock:
            views = place_of(space.core, offset).views - _counts.get(key, 0)
        if views <= 0:
            return 0
        time.sleep(_MOMENT_SECONDS)
    return views
