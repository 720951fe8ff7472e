"""Pins: which snapshots are in use, so that nothing that they show is used again.

    Pin      an era of the heap; as long as it lives, what is freed in that era or later waits
    Pins     those of one process, by era: a lock of the kernel for each, which goes with it
    oldest   the least era that somebody has pinned: what was freed before it is free

A lock is on a byte that no file has, ``PINS + (era << 22 | process)``: it says who holds what back,
a killed reader leaves nothing behind, and a descriptor that may only read will do.
"""

from __future__ import annotations

import os
import threading
from collections import Counter

from pmemheap import native
from pmemheap.file.heapfile import HeapFile
from pmemheap.format.layout import PIN_ERA_SHIFT, PINS
from pmemheap.native import Lock

__all__ = ["Pin", "Pins", "oldest"]

_PROCESS = (1 << PIN_ERA_SHIFT) - 1


class Pin:
    """An era that a snapshot, or a view of one, needs. The last reference to it lets the era go.

    Parameters
    ----------
    keep : object
        What has to live as long.
    """

    __slots__ = ("_pins", "era", "keep")

    era: int
    keep: object

    def __init__(self, pins: Pins, era: int, keep: object) -> None:
        self._pins, self.era, self.keep = pins, era, keep
        pins._take(era)

    def __del__(self) -> None:
        """Let the era go."""
        self._pins._let_go(self.era)


class Pins:
    """The pins of this process.

    Parameters
    ----------
    file : HeapFile, optional
        Of a reader, for locks. None: the writer itself reads, and counts in memory.
    """

    def __init__(self, file: HeapFile | None) -> None:
        self._file = file
        self._counts: Counter[int] = Counter()
        self._lock = threading.RLock()

    @property
    def eras(self) -> list[int]:
        """The eras that are pinned here, in order."""
        with self._lock:
            return sorted(self._counts)

    def _take(self, era: int) -> None:
        with self._lock:
            self._counts[era] += 1
            if self._file is not None and self._counts[era] == 1:
                native.lock_byte(self._file.lock_fd, _byte_of(era), Lock.READ)

    def _let_go(self, era: int) -> None:
        with self._lock:
            self._counts[era] -= 1
            if self._counts[era] <= 0:
                del self._counts[era]
                if self._file is not None and _has_locks(self._file):
                    native.lock_byte(self._file.lock_fd, _byte_of(era), Lock.NONE)


def _has_locks(file: HeapFile) -> bool:
    """Tell whether the locks are still there: a heap that was closed, or forked, has none here."""
    return file.fd >= 0 and file.is_own


def _byte_of(era: int) -> int:
    return PINS + (era << PIN_ERA_SHIFT | os.getpid() & _PROCESS)


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
