"""Places: where a heap is, so that another process finds it; what pickles of heaps have.

heap ── heap_place ──► HeapPlace ── pickle ──► heap_at ──► the heap that is open there already,
                                                           or is opened to be read, and kept
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pmemheap.errors import SnapshotGoneError, UsageError
from pmemheap.heap.living import open_heaps
from pmemheap.heap.making import showing
from pmemheap.heap.space import Space, space_of
from pmemheap.heap.strategies import General
from pmemheap.native.constants import State
from pmemheap.refusals import refusals

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap

__all__ = ["HeapPlace", "heap_at", "heap_place", "session_of"]

_DESCRIPTORS = "/proc/{}/fd/{}"


class HeapPlace(NamedTuple):
    """Where a heap is, for other processes of this machine."""

    path: str
    """Of its file; of one that has no name, by a descriptor of the process that has it open."""
    has_name: bool
    kind: type[Heap]
    identity: bytes


class _Opened:
    """Heaps that were opened for pickles: each once in a process, until its end."""

    def __init__(self) -> None:
        self.begin()
        os.register_at_fork(after_in_child=self.begin)

    def begin(self) -> None:
        """Begin anew, as a forked child does, which may not use what its parent has open."""
        self.lock = threading.RLock()
        self.heaps: dict[bytes, Heap] = {}


_opened = _Opened()


def session_of(space: Space) -> int:
    """Return a number that each writer raises when it opens the file."""
    file = space.shared.file
    assert file is not None
    return file.header.superblock.epoch >> 32


def heap_place(heap: Heap) -> HeapPlace:
    """Return where a heap is.

    Raises
    ------
    UsageError
        It is in private memory.
    """
    space = space_of(heap)
    file = space.shared.file
    if file is None:
        raise UsageError(
            f"{space.name}: a heap in a file or in shared memory expected for other processes"
        )
    status, kind = os.fstat(file.fd), showing(type(heap), General())
    for path in os.readlink(_DESCRIPTORS.format("self", file.fd)), os.path.abspath(file.name):
        if _leads_to(path, status):
            return HeapPlace(path, True, kind, space.shared.identity)
    path = _DESCRIPTORS.format(os.getpid(), file.fd)
    return HeapPlace(path, False, kind, space.shared.identity)


def _leads_to(path: str, status: os.stat_result) -> bool:
    """Tell whether a path leads to a file that is known already."""
    try:
        return os.path.samestat(os.stat(path), status)
    except OSError:
        return False


def heap_at(place: HeapPlace) -> Heap:
    """Return the heap of a place: one that is open here and shows snapshots, or a reader.

    Raises
    ------
    HeapNotFoundError, HeapBusyError, CorruptHeapError
        As `Heap.open`.
    SnapshotGoneError
        Another heap is there now.
    """
    with _opened.lock:
        for heap in _usable(place.identity):
            file = space_of(heap).shared.file
            assert file is not None
            if _leads_to(place.path, os.fstat(file.fd)):
                return heap
        heap = _opened_at(place)
        found = space_of(heap).shared.identity
        if found != place.identity:
            heap.close()
            raise SnapshotGoneError(
                f"{heap.name}: the heap with uuid {place.identity.hex()} expected, as was sent, "
                f"{found.hex()} found"
            )
        _opened.heaps[place.identity] = heap
        return heap


def _opened_at(place: HeapPlace) -> Heap:
    if place.has_name:
        return place.kind.open(place.path, readonly=True, readers=True)
    with refusals(f"heap of another process: {place.path!r}", place.path):
        fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return place.kind.attach(fd)
    finally:
        os.close(fd)


def _usable(identity: bytes) -> Iterator[Heap]:
    """Yield the open heaps of a uuid that show snapshots."""
    for heap in open_heaps:
        space = space_of(heap)
        shared = space.shared
        is_usable = space.core.state <= State.READONLY and shared.identity == identity
        if is_usable and shared.file is not None and (shared.pins is not None or shared.readonly):
            yield heap
