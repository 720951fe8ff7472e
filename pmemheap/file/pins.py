"""Pins: which snapshots are in use, so that nothing that they show is used again.

    Pin      an era of the heap; as long as it lives, what is freed in that era or later waits
    Pins     those of one process, by era: a lock of the kernel for each, which goes with it
    oldest   the least era that somebody has pinned: what was freed before it is free
    pinned   all that others have pinned

A lock is on a byte that no file has, ``PINS + (era << 22 | process)``: it says who holds what back,
a killed reader leaves nothing behind, and a descriptor that may only read will do.
"""

from __future__ import annotations

from pmemheap import native
from pmemheap.format.layout import PIN_ERA_SHIFT, PINS
from pmemheap.native import Pin, Pins

__all__ = ["Pin", "Pins", "oldest", "pinned"]


def oldest(fd: int, era: int) -> tuple[int, int] | None:
    """Return the least era before another one that other processes have pinned, and who has.

    Parameters
    ----------
    fd : int
        The writer's descriptor for locks.

    Returns
    -------
    tuple of int and int, optional
        Era and process; None: nobody has. O(pins): the kernel keeps them in a list.
    """
    found, end = None, era << PIN_ERA_SHIFT
    while end and (byte := native.find_lock(fd, PINS, end)) is not None:
        found = end = byte - PINS
    return None if found is None else divmod(found, 1 << PIN_ERA_SHIFT)


def pinned(fd: int, era: int) -> list[tuple[int, int]]:
    """Return era and process of the pins of other processes below an era, in order; as `oldest`."""
    found: list[tuple[int, int]] = []
    ranges = [(0, era << PIN_ERA_SHIFT)]
    while ranges:
        start, stop = ranges.pop()
        byte = native.find_lock(fd, PINS + start, stop - start) if start < stop else None
        if byte is not None:  # any of those that lie there
            place = byte - PINS
            found.append(divmod(place, 1 << PIN_ERA_SHIFT))
            ranges += [(start, place), (place + 1, stop)]
    return sorted(found)
