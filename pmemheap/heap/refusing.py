"""Refusing: what is raised for an offset, a block or a transaction that a call cannot take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from pmemheap.errors import UsageError
from pmemheap.heap.place import place_of
from pmemheap.heap.space import Space
from pmemheap.layers.guarded import Guarded, damaged, found_at
from pmemheap.native.constants import Refusal, UnitState
from pmemheap.space.size_classes import CLASSES
from pmemheap.units import GRANULE, UNIT, counted

__all__ = [
    "HELD",
    "damaged_block",
    "in_region",
    "names_of",
    "no_block",
    "not_live",
    "pinned",
    "raise_died",
    "refuse_free",
    "refuse_in_transaction",
    "rooted",
]

HELD = {Refusal.PINNED, Refusal.IN_TRANSACTION, Refusal.ROOTED}
"""Why a live block stays where it is."""

_WITHHELD: dict[int, str] = {
    UnitState.RESERVED: (
        "the block there belongs to an open transaction, or to an array that was not kept"
    ),
    UnitState.QUARANTINE: (
        "the block there was freed; it is kept until that is durable and its last view has gone"
    ),
}


# ---------------------------------------------------------------- no block


def no_block(space: Space, offset: int, where: str) -> UsageError:
    """Describe what lies at an offset at which no live block begins."""
    space.shared.require_ours(where)
    first, end = (space.origin | unit * UNIT for unit in space.core.bounds[:2])
    expected = f"{where}: offset of a live block expected, {offset:#x} found: "
    if not first <= offset < end:
        what = "arena" if space.origin else "heap"
        return UsageError(expected + f"outside of the {what}, which is [{first:#x}, {end:#x})")
    if guarded := space.core.guarded_at(offset):
        return UsageError(expected + found_at(Guarded(*guarded), offset))
    if offset % GRANULE:
        return UsageError(expected + f"not a multiple of {GRANULE}")
    return UsageError(expected + _describe_place(space, offset))


def _describe_place(space: Space, offset: int) -> str:
    """Say what lies at an offset inside the heap at which no live block begins."""
    place = place_of(space.core, offset)
    state, start = place.state, space.origin | place.unit * UNIT
    if state in _WITHHELD:
        return _WITHHELD[state]
    if state in {UnitState.RUN, UnitState.RUN_BODY}:
        size = space.strategy.block_bytes or CLASSES[place.size_class].size
        inside = (offset - start) % size
        if inside:
            return f"{inside} bytes inside of the block at {offset - inside:#x}, of {size} bytes"
        return f"the block of {size} bytes there is free already"
    if state in {UnitState.PACKED, UnitState.PACKED_BODY}:
        return "no block begins there: freed already, inside of one, or not allocated"
    if state == UnitState.LARGE and start != offset:
        return f"{offset - start} bytes inside of the large block at {start:#x}"
    return "no block lies there: freed already, inside of a large block, or never allocated"


# ---------------------------------------------------------------- a block that stays


def names_of(space: Space, offset: int) -> list[str]:
    """Return the roots that name a block."""
    return [root.name for root in space.shared.root_slots if root.off == offset]


def rooted(where: str, offset: int, names: Iterable[str]) -> UsageError:
    """Return what says that a block does not go without its roots."""
    found = ", ".join(map(repr, names))
    return UsageError(
        f"{where}: block at offset {offset:#x}: no root that names it expected, found {found}; "
        "remove the root first, or both in one transaction"
    )


def not_live(space: Space, name: str, offset: int, refusal: int) -> UsageError:
    """Return what says that a root can not lead to an offset, of this arena if of any."""
    where = f"root {name!r}"
    if refusal == Refusal.BAD_OFFSET:
        return no_block(space, offset, where)
    return UsageError(
        f"{where}: a block that the transaction has not freed expected at offset {offset:#x}, "
        "found one that it has"
    )


def refuse_free(space: Space, offset: int, where: str, refusal: int) -> NoReturn:
    """Raise what a free was refused for."""
    space.raise_code(refusal)
    if refusal == Refusal.ROOTED:
        raise rooted(where, offset, names_of(space, offset))
    if refusal == Refusal.IN_TRANSACTION:
        raise BufferError(
            f"{where}: block at offset {offset:#x}: no open transaction that uses it expected, "
            "found one"
        )
    if refusal == Refusal.IN_REGION:
        raise heads_region(where, offset)
    if refusal == Refusal.PINNED:
        size, views = _size_and_views(space, offset)
        raise BufferError(
            f"{where}: block at offset {offset:#x} ({size}): no live views expected, {views} "
            "found; free(offset, deferred=True) frees it all the same"
        )
    if refusal == Refusal.DAMAGED:
        raise damaged_block(space, offset, where)
    raise no_block(space, offset, where)


def damaged_block(space: Space, offset: int, where: str) -> UsageError:
    """Describe what was done beside a guarded block; the next call does not see it."""
    block = space.core.guarded_at(offset)
    if block is None or block[-1] is None:  # another thread was told
        return no_block(space, offset, where)
    space.core.renew_canary(offset)
    return damaged(where, Guarded(*block))


def pinned(space: Space, offset: int, size: int) -> BufferError | UsageError:
    """Describe why a block cannot move to become `size` bytes long."""
    refusal = place_of(space.core, offset).refusal
    if refusal == Refusal.ROOTED:
        return rooted("realloc", offset, names_of(space, offset))
    if refusal == Refusal.IN_TRANSACTION:
        return BufferError(
            f"realloc: block at offset {offset:#x}: no open transaction that uses it expected "
            f"where it must move to hold {size} bytes, found one"
        )
    held, views = _size_and_views(space, offset)
    return BufferError(
        f"realloc: block at offset {offset:#x} ({held}): no live views expected where it must move "
        f"to hold {size} bytes, {views} found"
    )


def heads_region(where: str, offset: int) -> UsageError:
    """Describe why the block that stands for a region cannot be freed."""
    return UsageError(
        f"{where}: block at offset {offset:#x}: one that stands for no region expected, found one "
        "that does; heap.region(at=offset).drop() frees it, with all of the region"
    )


def in_region(space: Space, offset: int, size: int) -> UsageError:
    """Describe why a block of a region cannot become `size` bytes long without it."""
    held = place_of(space.core, offset).size
    return UsageError(
        f"realloc: block at offset {offset:#x} ({counted(held, 'byte')}): a block that may move "
        f"expected to hold {size} bytes, found one of a region; its own realloc moves it"
    )


def _size_and_views(space: Space, offset: int) -> tuple[str, int]:
    """Return the bytes of a block, in words, and how many views of it live."""
    place = place_of(space.core, offset)
    return counted(place.size, "byte"), place.views


# ---------------------------------------------------------------- transactions


def refuse_in_transaction(space: Space, code: int, what: str, offset: int, nbytes: int) -> NoReturn:
    """Raise what a transaction's call was refused for."""
    where = f"transaction: {what}"
    if code == Refusal.TX_OUTSIDE:
        raise UsageError(
            f"{where}: {nbytes} bytes from offset {offset:#x} inside of one block expected, "
            "found the end of the block before them"
        )
    if code == Refusal.TX_TWICE:
        raise UsageError(
            f"{where}: a block that this transaction has not freed expected at offset "
            f"{offset:#x}, found one that it has"
        )
    if code == Refusal.TX_ENDED:
        raise UsageError(f"{where}: an open transaction expected, it has ended meanwhile")
    if code in {Refusal.PINNED, Refusal.IN_TRANSACTION}:
        raise _in_use(space.arena_of(offset) or space, code, where, offset)
    if code == Refusal.BAD_OFFSET:
        raise no_block(space, offset, where)
    if code == Refusal.IN_REGION:
        raise heads_region(where, offset)
    space.raise_code(code)
    raise MemoryError(f"{where}: no memory for it")


def _in_use(space: Space, code: int, where: str, offset: int) -> BufferError:
    size, views = _size_and_views(space, offset)
    holder = counted(views, "live view") if code == Refusal.PINNED else "another transaction"
    return BufferError(
        f"{where}: block at offset {offset:#x} ({size}) expected to be unused, held by {holder}"
    )


def raise_died(space: Space) -> NoReturn:
    """Raise what a failed sync of the log is raised as."""
    redo = space.shared.redo
    assert redo is not None
    error = redo.died("commit")
    space.shared.poison_if_sync_failed()
    raise error
