"""Parts: what the writer and the reader of `pairs` do, each in a process of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pmemheap import native
from pmemheap.errors import HeapBusyError
from pmemheap.heap.heap import Heap
from pmemheap.testing.turns import Part, Turns

__all__ = ["BUSY", "Begin", "reader_part", "writer_part"]

Begin = Literal["read", "refresh", "open", "last"]
Read = Callable[[Any], object]

BUSY = "busy"
"""What a reader says that begins beside half of a commit whose writer has been killed."""
_KEEPS = 3
_KEEPS_WHILE = 4
"""So many rounds with snapshots of before, as many without: what is freed is used at once then."""


def writer_part(path: Path, write: Callable[[Heap, int], object], number: int) -> Part:
    """Return the part of a writer whose first transaction has a number."""

    def serve(turns: Turns) -> None:
        numbers = iter(range(number, 1 << 62))
        with Heap.open(path, readers=True) as heap:
            heap.check()
            turns.serve(
                lambda: write(heap, next(numbers)),
                lambda: [reader.pid for reader in heap.readers()],
            )

    return serve


def reader_part(path: Path, read: Read, begin: Begin) -> Part:
    """Return the part of a reader: it says what it has found, and which snapshot has changed."""

    def serve(turns: Turns) -> None:
        with ExitStack() as stack:
            heap = None
            if begin != "open":
                heap = stack.enter_context(Heap.open(path, readonly=True))
            if begin == "last":
                turns.serve(lambda: (_last(heap, read), ""))
                return
            if begin == "refresh" and heap is not None:
                snap = stack.enter_context(heap.read())
                turns.serve(_Refreshed(snap, read).turn)
                return
            reader = _Fresh(path, heap, read)
            stack.callback(reader.let_go, 0)
            turns.serve(reader.turn)

    return serve


def _last(heap: Heap | None, read: Read) -> object:
    try:
        return read(heap)
    except HeapBusyError:
        return BUSY


class _Refreshed:
    """Goes on with one snapshot, and looks at it again before."""

    def __init__(self, snap: Any, read: Read) -> None:
        self._snap, self._read = snap, read
        self._found: object = BUSY

    def turn(self) -> tuple[object, str]:
        changed = ""
        if self._found != BUSY:
            changed = _difference(self._found, self._read(self._snap))
        try:
            self._snap.refresh()
            self._found = self._read(self._snap)
        except HeapBusyError:
            self._found = BUSY  # and the snapshot shows nothing any more
        return self._found, changed


class _Fresh:
    """Begins snapshots, keeps some, and looks at them again."""

    def __init__(self, path: Path, heap: Heap | None, read: Read) -> None:
        self._path, self._heap, self._read = path, heap, read
        self._keeps = 0 if heap is None else _KEEPS  # one that is opened alone keeps writers out
        self._kept: deque[tuple[Any, object, ExitStack]] = deque()
        self._turns = 0

    def turn(self) -> tuple[object, str]:
        try:
            found = self._begin()
        except HeapBusyError:
            found = BUSY
        native.tape_hand_at(0)
        changed = (_difference(before, self._read(snap)) for snap, before, _ in self._kept)
        difference = next(filter(None, changed), "")
        self._turns += 1
        self.let_go(self._keeps if self._turns & _KEEPS_WHILE else 0)
        return found, difference

    def _begin(self) -> object:
        with ExitStack() as stack:
            heap = self._heap or stack.enter_context(Heap.open(self._path, readonly=True))
            snap = stack.enter_context(heap.read())
            found = self._read(snap)
            self._kept.append((snap, found, stack.pop_all()))
        return found

    def let_go(self, keeps: int) -> None:
        while len(self._kept) > keeps:
            self._kept.popleft()[2].close()


def _difference(before: object, now: object) -> str:
    return "" if now == before else f"{before!r} is {now!r} now"
