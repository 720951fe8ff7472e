"""Holding: which processes have snapshots of a heap, and how much of it waits for them."""

from __future__ import annotations

import os

from pmemheap.dataclass import dataclass
from pmemheap.file import pins
from pmemheap.heap.space import Space

__all__ = ["Reader", "readers_of"]


@dataclass(frozen=True)
class Reader:
    """A process that has snapshots of a heap, or views of them, of one age.

    Attributes
    ----------
    pid : int
        The process, as it numbers itself; the low 22 bits.
    era : int
        Of two readers the one with the smaller number has the older snapshots.
    held_bytes : int
        What was freed since they were begun, and is not used again as long as they, or older ones,
        are there.
    """

    pid: int
    era: int
    held_bytes: int


def readers_of(space: Space) -> list[Reader]:
    """Return them, the oldest first; see `pmemheap.Heap.readers`."""
    space.require()
    shared = space.shared
    file = shared.writable
    if file is None or shared.pins is None:
        return []
    found = pins.pinned(file.lock_fd, file.header.word("era") + 1)
    found += [(era, os.getpid()) for era in shared.pins.eras]
    waiting = shared.log._tagged_since  # private: no call of users
    return [Reader(pid, era, waiting(era)) for era, pid in sorted(found)]
