"""Unseen: whether views show the rows of a block, which nobody may change under them then.

A container that reads has a view of its own for a moment, in any thread. So who finds a view looks
again a few times; what is still there then is somebody's who keeps it.
"""

from __future__ import annotations

import time

from pmemheap.heap.place import place_of
from pmemheap.heap.space import Space

__all__ = ["kept_views"]

_LOOKS = 5
_MOMENT_SECONDS = 0.001


def kept_views(space: Space, offset: int) -> int:
    """Return the number of views of a block that do not go by themselves in a moment."""
    for _ in range(_LOOKS):
        views = place_of(space.core, offset).views
        if not views:
            break
        time.sleep(_MOMENT_SECONDS)
    return views
