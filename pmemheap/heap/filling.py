"""Filling: the many bytes of a new block go into its file by a call, not through the map.

A store through the map costs a fault for each page that is new, or was synced since the last one;
a call fills pages that the kernel has taken, and writes back, as few large ones. Pages of a process
heap that had large blocks before are mapped, and were not synced: there a store is the fastest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmemheap import native
from pmemheap.heap.space import space_of
from pmemheap.native.constants import Format
from pmemheap.refusals import refusals
from pmemheap.units import UNIT

if TYPE_CHECKING:
    from pmemheap.heap.shared import Shared
    from pmemheap.heap.transaction import Transaction

__all__ = ["fill"]

_CALL_LEAST = Format.INLINE_MOST


def fill(tx: Transaction, offset: int, data: memoryview) -> None:
    """Store the first bytes of a block that the innermost level of a transaction has reserved.

    Raises
    ------
    OutOfSpaceError, DurabilityError
        The file system refused; the file is not what it was.
    """
    default = space_of(tx.heap)
    file = default.shared.file
    if file is None or data.nbytes < _CALL_LEAST:
        tx.write(offset, data)
        return
    space = default.arena_of(offset) or default
    first, before = divmod(offset ^ space.origin, UNIT)
    nunits = -(-(before + data.nbytes) // UNIT)
    parts = default.serve(space.region.parts, first, nunits)  # alone: segments may come meanwhile
    (start, length), *others = [file.data_range(*part) for part in parts]
    places = [(start + before, length - before), *others]
    if not (file.is_power or _are_new(default.shared, places)):
        tx.write(offset, data)
        return
    file.require_ours("write")
    with refusals(f"{space.name}: write"), data.cast("B") as rest:
        at = 0
        for place, nbytes in places:
            native.pwrite(file.fd, rest[at : at + nbytes], place)
            at += nbytes


def _are_new(shared: Shared, places: list[tuple[int, int]]) -> bool:
    """Tell whether a block lies behind all that were filled, and note it."""
    first, stop = places[0][0], max(map(sum, places))
    is_new = first >= shared.filled_to
    shared.filled_to = max(shared.filled_to, stop)
    return is_new
