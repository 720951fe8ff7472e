"""Beside: heap files that a writer has open who lets readers in, for commands that look closely."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pmemheap.errors import CorruptHeapError, HeapBusyError
from pmemheap.file import locks
from pmemheap.file.following import named_slots
from pmemheap.format import layout
from pmemheap.format.header import Tables
from pmemheap.format.superblock import Superblock, newest_superblock
from pmemheap.heap.heap import Heap
from pmemheap.heap.insight import CheckReport
from pmemheap.heap.snapshots import Snapshot
from pmemheap.heap.space import space_of

__all__ = ["Checked", "HeaderTables", "check_beside", "tables_beside"]


@dataclass(frozen=True)
class Checked:
    """What `Heap.check` has found beside a writer.

    Attributes
    ----------
    report : CheckReport
        Of a moment at which the writer rested.
    writer, commit : int
        Process of the writer; number of the commit that was there before.
    """

    report: CheckReport
    writer: int
    commit: int


@dataclass(frozen=True)
class HeaderTables:
    """The tables of a header: `copies` of the superblock, the `current` one of them, `slots`."""

    copies: tuple[Superblock | None, Superblock | None]
    current: int | None
    slots: Tables


def check_beside(path: Path, busy: HeapBusyError) -> Checked:
    """Check a heap beside its writer; `busy` if there is none, or it lets nobody in."""
    with _snapshot(path, busy) as snap:
        return Checked(snap.heap.check(), locks.holder(snap.heap.fileno()), snap.commit)


def tables_beside(path: Path, busy: HeapBusyError) -> HeaderTables:
    """Return the tables of a heap beside its writer, the roots as of a commit; else `busy`."""
    with _snapshot(path, busy) as snap:
        file = space_of(snap.heap).shared.file
        assert file is not None
        roots = dict(named_slots(snap._slots))  # private: no call of users
        slots = Tables(file.header.slots.segments, file.header.slots.arenas, roots)
        return HeaderTables(*_superblocks(snap.heap.fileno()), slots)


@contextmanager
def _snapshot(path: Path, busy: HeapBusyError) -> Iterator[Snapshot]:
    try:
        heap = Heap.open(path, readonly=True)
    except HeapBusyError:
        raise busy from None
    with heap:
        if not heap.follows:  # the writer has ended meanwhile
            raise busy
        with heap.read() as snap:
            yield snap


def _superblocks(fd: int) -> tuple[tuple[Superblock | None, Superblock | None], int]:
    """Return both copies; the writer stores them one after the other."""
    first, second = (os.pread(fd, layout.SUPERBLOCK_BYTES, at) for at in layout.SUPERBLOCKS)
    _, current = newest_superblock((first, second))
    return (_copy(first, 0), _copy(second, 1)), current


def _copy(image: bytes, index: int) -> Superblock | None:
    try:
        return Superblock.unpack_any(image, layout.SUPERBLOCKS[index])
    except CorruptHeapError:
        return None
