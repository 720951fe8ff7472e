"""Resizing: a block grows in place over units behind it, or moves."""

from __future__ import annotations

from typing import Any

from pmemheap.errors import OutOfSpaceError
from pmemheap.heap import units
from pmemheap.heap.place import place_of
from pmemheap.heap.refusing import HELD, damaged_block, in_region, no_block, pinned
from pmemheap.heap.space import Space
from pmemheap.heap.work import move
from pmemheap.native.constants import Refusal
from pmemheap.space.ledger import OverBudgetError
from pmemheap.units import GRANULE, UNIT

__all__ = ["expand", "realloc"]

_UNITS_WANTED = {Refusal.UPSTREAM, Refusal.LARGE}
_IN_PLACE_IF_KNOWN = {Refusal.UPSTREAM, Refusal.MOVE_LOGGED, *HELD}
"""Why a block does not grow in place, as far as the units behind it are known."""


def realloc(space: Space, offset: int, size: int, refusal: int) -> Any:
    """Give a block another size; return its offset, or NotImplemented: the core can now."""
    _require_block(space, refusal, offset, size)
    if refusal == Refusal.UPSTREAM and _extend_in_budget(space, offset, size):
        return offset
    if refusal in _IN_PLACE_IF_KNOWN and space.supply.read_on():
        return NotImplemented
    is_held = place_of(space.core, offset).refusal in HELD
    if refusal in HELD and not is_held:  # any more
        return NotImplemented
    if is_held:
        raise pinned(space, offset, size)
    if refusal == Refusal.MOVE_LOGGED or (refusal in _UNITS_WANTED and space.shared.redo):
        return _move_or_stay(space, offset, size)
    if refusal in _UNITS_WANTED or refusal == Refusal.PLACE:
        return _move_to_made(space, offset, size, refusal)
    space.raise_code(refusal)
    units.refill(space, size)
    return NotImplemented


def _require_block(space: Space, refusal: int, offset: int, size: int) -> None:
    if Refusal.BAD_OFFSET in {refusal, place_of(space.core, offset).refusal}:
        raise no_block(space, offset, "realloc")
    if space.strategy.has_rows:
        space.strategy.require_fit("realloc", size, GRANULE)
    if refusal == Refusal.DAMAGED:
        raise damaged_block(space, offset, "realloc")
    if refusal == Refusal.IN_REGION:
        raise in_region(space, offset, size)


def expand(space: Space, offset: int, size: int, refusal: int) -> bool:
    """Expand a block; what was not read since the heap was opened is read before a no."""
    if refusal == Refusal.UPSTREAM:
        if _extend(space, offset, size):
            return True
        return NotImplemented if space.supply.read_on() else False
    if refusal == Refusal.BAD_OFFSET:
        raise no_block(space, offset, "expand")
    space.raise_code(refusal)
    return False


def _extend(space: Space, offset: int, size: int) -> bool:
    """Let a large block grow over what lies behind it outside of the pool."""
    place = place_of(space.core, offset)
    start, stop = place.unit + place.units + place.room, place.unit - -size // UNIT
    if stop <= start or not space.supply.extend(start, stop - start):
        return False
    if space.core.large_extend(offset, start, stop, size):
        return True
    space.supply.deallocate(start, stop - start)
    return False


def _extend_in_budget(space: Space, offset: int, size: int) -> bool:
    """Do the same with what there is: a block that can move needs no growth, perhaps."""
    try:
        return _extend(space, offset, size)
    except OverBudgetError:
        return False


def _move_or_stay(space: Space, offset: int, size: int) -> int:
    """Move a block of a file heap; what becomes smaller stays where there is no room."""
    try:
        return move(space, offset, size)
    except OutOfSpaceError:
        if size > space.core.usable_size(offset):
            raise
        return offset


def _move_to_made(space: Space, offset: int, size: int, refusal: int) -> int:
    """Move a block to one that C cannot make."""
    if refusal == Refusal.PLACE:
        to = units.malloc_placed(space, size, GRANULE)
    else:
        to = units.malloc_extent(space, size, roomy=True)
    refusal = space.core.move_into(offset, to, size)
    if refusal == 0:
        return to
    space.core.free(to)  # another thread freed or viewed the block while the heap grew
    raise (pinned(space, offset, size) if refusal in HELD else no_block(space, offset, "realloc"))
