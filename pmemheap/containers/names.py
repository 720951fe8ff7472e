"""Names: how a container is found. The roots that a thread sees, and what they lead to.

What the root of a container leads to begins with eight bytes that say of which kind it is. A name
that is taken by another kind is a mistake of the caller, and nothing is damaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pmemheap.format.layout import ARENA_BITS
from pmemheap.heap.heap import Heap
from pmemheap.heap.space import space_of

__all__ = ["MAP_MAGIC", "VECTOR_MAGIC", "found_kind", "stamp_elsewhere", "visible_roots"]

MAP_MAGIC = b"PHPSMP\x01\0"
VECTOR_MAGIC = b"PHCOUNTS"

_KINDS = {MAP_MAGIC: "a SortedMap", VECTOR_MAGIC: "a Vector"}


def found_kind(magic: bytes) -> str:
    """Describe what begins with some bytes, for a message."""
    return _KINDS.get(magic, f"a block that begins with {magic!r}")


def stamp_elsewhere(heap: Heap, place: int) -> tuple[bytes, bool] | None:
    """Return with what a block of a named arena begins, which is no map; None in the first one."""
    return (bytes(heap.view(place, 8)), False) if place >> ARENA_BITS else None


def visible_roots(heap: Heap) -> Mapping[str, int]:
    """Return the roots as an open transaction of this thread will leave them."""
    transaction: Any = space_of(heap).shared.log.current()
    roots: Mapping[str, int] = heap.roots if transaction is None else transaction.roots
    return roots
