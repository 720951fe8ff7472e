"""Units: a request is served with units of the supply where the pool in C has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pmemheap import native
from pmemheap.errors import OutOfSpaceError
from pmemheap.heap import readers
from pmemheap.heap.holding import require_held
from pmemheap.heap.space import Space
from pmemheap.native.constants import POOL_MOST, Refusal
from pmemheap.progress import Progress
from pmemheap.refusals import refusals
from pmemheap.space.ledger import OverBudgetError
from pmemheap.space.size_classes import class_of
from pmemheap.units import GRANULE, UNIT

__all__ = [
    "blocks",
    "cut_ends",
    "emptied_quarantine",
    "footprint",
    "free_soon",
    "has_free_block",
    "is_read",
    "live_bytes",
    "malloc",
    "malloc_extent",
    "malloc_placed",
    "refill",
    "refill_units",
    "take",
    "trim",
    "used",
]

_QUARANTINE_SHARE = 8
_QUARANTINE_LEAST = 1 << 20


def malloc(space: Space, size: int, align: int, refusal: int, *, reserved: bool = False) -> Any:
    """Allocate a block that C cannot, or get what the pool lacks: then NotImplemented."""
    if refusal == Refusal.LARGE:
        return malloc_extent(space, size, align, reserved=reserved)
    if refusal == Refusal.PLACE:
        return malloc_placed(space, size, align, reserved=reserved)
    space.raise_code(refusal)
    refill(space, size, align)
    return NotImplemented


def malloc_extent(
    space: Space, size: int, align: int = UNIT, *, roomy: bool = False, reserved: bool = False
) -> int:
    """Allocate a block of whole units, or reserve it."""
    nunits = -(-size // UNIT)
    return space.core.large_make(take(space, nunits, align, roomy=roomy), nunits, size, reserved)


def malloc_placed(space: Space, size: int, align: int, *, reserved: bool = False) -> int:
    """Allocate a block of where a `Space` of the user says, or reserve it."""
    assert space.placement is not None, "the core asks for it in such an arena alone"
    return space.placement.malloc(size, align, reserved=reserved)


def take(space: Space, nunits: int, align: int, *, roomy: bool) -> int:
    """Take units for a large block, in need also those that only wait for a sync."""
    _release_quarantine(space)
    alignment = max(align // UNIT, 1)
    try:
        return space.supply.allocate(nunits, alignment, roomy=roomy)
    except OutOfSpaceError:
        if not emptied_quarantine(space):
            raise
    return space.supply.allocate(nunits, alignment, roomy=roomy)


def refill(space: Space, size: int, align: int = GRANULE) -> None:
    """Bring the pool nearer to what a block of `size` bytes needs."""
    if space.strategy.is_at_end:
        _refill_end(space, space.strategy.units_wanted(size, align))
        return
    try:
        refill_units(space, _units_for_pool(size, align))
    except OverBudgetError:
        found = class_of(size, align)
        if found is None or not (_is_again(space) and has_free_block(space, found.size)):
            raise


def _is_again(space: Space) -> bool:
    """Tell whether others have freed, since the core was asked, so that a heap need not grow.

    Then it is worth to ask the core once more, if it has what was missing.
    """
    ledger = space.region.ledger
    return ledger is not None and ledger.is_again


def has_free_block(space: Space, size: int) -> bool:
    """Tell whether a run has a free block of just this size, that of a class. O(classes)."""
    rows = space.core.usage()[1]
    return any(row[0] == size and row[4] + row[7] < row[3] * row[2] for row in rows)


def _refill_end(space: Space, nunits: int) -> None:
    """Bring units to the end of a ring; what is free at its head is given back before."""
    _release_quarantine(space)
    space.supply.take_all_back()
    if not space.strategy.has_rows:
        space.giveback.recede()
    try:
        space.supply.refill_end(nunits)
    except OutOfSpaceError:
        if not emptied_quarantine(space):
            raise


def refill_units(space: Space, nunits: int) -> None:
    """Bring the pool nearer to a range of so many units, 64 at most.

    What was released may do. To add to it each time would let a heap grow for ever.
    """
    if _release_quarantine(space):
        return
    try:
        space.supply.refill(nunits)
    except OverBudgetError:
        longest = space.core.usage()[0]["pool_longest_units"]
        if not (_is_again(space) and longest >= nunits) and not emptied_quarantine(space):
            raise
    except OutOfSpaceError:
        if not emptied_quarantine(space):
            raise


def _units_for_pool(size: int, align: int) -> int:
    """Units that the pool must have in one piece to serve a size: of a run, or of a block."""
    found = class_of(size, align)
    return min(-(-size // UNIT), POOL_MOST) if found is None else found.run_units


def _release_quarantine(space: Space) -> bool:
    """Before a heap grows: let go what was freed and only waits for a sync [R6], or for readers.

    Tell whether that was anything.
    """
    shared, has_released = space.shared, False
    if shared.pins is not None:
        has_released = readers.recycle_if_worth(shared, space.region.nunits * UNIT) > 0
        require_held(space)
    redo = shared.redo
    if redo is None or not shared.is_power:
        return has_released
    held = space.core.unsynced
    if held > max(_QUARANTINE_LEAST, space.region.nunits * UNIT // _QUARANTINE_SHARE):
        redo.sync_log()
        has_released |= space.core.unsynced < held
    return has_released


def emptied_quarantine(space: Space) -> bool:
    """Let go all that waits for a sync, or is kept for a guard; tell whether that was anything."""
    if space.core.let_guarded_go() or readers.recycle(space.shared):
        return True
    redo, held = space.shared.redo, space.core.unsynced
    if redo is None or not space.shared.is_power or not held:
        return False
    redo.sync_log()
    space.core.append_pending()
    return space.core.unsynced < held


def trim(space: Space, progress: Progress | None = None) -> int:
    """Give free space back; return the bytes that the system counts less."""
    before, redo = footprint(space), space.shared.redo
    if space.shared.file is None:  # no block of a file is guarded
        space.core.let_guarded_go()
    if redo is not None:
        redo.sync_log()  # what was freed leaves quarantine
    if space.shared.pins is not None:
        readers.recycle(space.shared)
    space.giveback.trim(progress)
    if space.strategy.has_rows and space.shared.file is None:
        with refusals(f"{space.name}: give-back of rows"):
            native.check(space.core.give_idle_rows_back(), "madvise")
    if redo is not None:
        redo.shrink()
    after = footprint(space)
    return 0 if before is None or after is None else max(0, before - after)


def cut_ends(space: Space) -> None:
    """Let whole segments at both ends go in which all is free."""
    if space.shared.redo is not None:
        space.shared.redo.sync_log()  # what was freed leaves quarantine
    space.giveback.cut_ends()


def free_soon(space: Space) -> int:
    """Return the units that are free, or only wait for a sync. O(1)."""
    return space.supply.free_units() + space.core.unsynced // UNIT


def is_read(space: Space) -> bool:
    """Tell whether all is known that was free when the heap was opened. O(1)."""
    _, known_end, read_to, _ = space.core.bounds
    return read_to == known_end


def used(counters: Mapping[str, int]) -> int:
    """Return the units that are in use, by what the core counts."""
    kinds = "run", "large", "packed", "reserved", "quarantined"
    return sum(counters[f"{kind}_units"] for kind in kinds)


def live_bytes(space: Space) -> int:
    """Return the bytes of live blocks. O(1)."""
    counters, rows = space.core.usage()
    small = sum(row[0] * row[4] for row in rows)
    return small + counters["large_units"] * UNIT + counters["packed_bytes"]


def footprint(space: Space) -> int | None:
    """Return the bytes of memory or of file blocks, None where the system does not say."""
    if space.shared.file is not None:
        return space.shared.file.allocated()[1]
    try:
        return sum(each.resident for each in space.region.residency().values())
    except OSError:  # only the number is missing
        return None


def blocks(space: Space) -> Iterator[tuple[int, int]]:
    """Yield ``(offset, usable size)`` of the live blocks, by offset."""
    space.require()
    space.look(space.supply.read_all)
    cursor = space.core.bounds[0] * (UNIT // GRANULE)
    while True:
        space.require()
        cursor, found = space.core.blocks(cursor)
        if not found:
            space.require()  # a heap that was closed meanwhile has no blocks
            return
        yield from found
