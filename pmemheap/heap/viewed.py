"""Viewed: which blocks have live views, in words for the errors that they cause.

3 views of the block at 0x40 (112 bytes), 1 view of the block at 0x1000 (8192 bytes), and views of
4 more blocks, 2 arrays of numpy_allocator()
"""

from __future__ import annotations

from collections.abc import Iterable

from pmemheap.native import HeapDoors
from pmemheap.units import GRANULE, counted

__all__ = ["viewed_blocks"]

_NAMED_MOST = 5


def viewed_blocks(spaces: Iterable[HeapDoors]) -> str:
    """Name the blocks of some arenas that have views, five at most."""
    total, found, arrays = 0, [], 0
    for space in spaces:
        count, blocks, owners = space.viewed()
        total += count
        found += blocks
        arrays += owners
    named = [
        f"{counted(views, 'view')} of {_named(offset, size)}"
        for offset, size, views in found[:_NAMED_MOST]
    ]
    rest = total - len(named)
    if rest > 0:
        named.append(f"and views of {counted(rest, 'more block')}")
    if arrays:
        named.append(f"{counted(arrays, 'array')} of numpy_allocator()")
    return ", ".join(named) or "none any more"


def _named(offset: int, size: int) -> str:
    """Name a block, or all rows, which the core keeps under an offset that no block has."""
    if offset % GRANULE:
        return f"all rows from {offset // GRANULE * GRANULE:#x} on"
    return f"the block at {offset:#x} ({counted(size, 'byte')})"
