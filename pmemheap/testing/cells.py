"""Cells: a file as pieces that power failure cannot tear, and all that each may hold.

        events     store a   store b   sync   store c          c came after the last sync
        cell 7     A ──────► B ──────► (B) ──► C               on the medium: B or C
        size       one more cell

A cell is a sector of 512 bytes, or a line of 64. `Replay` moves through the events of a recording:
`now` is what the process and the kernel see, `history` what the medium may have instead, any mix
of it, since it may write back any cell at any time. A sync that covers a cell ends its history.

Every content of a cell has a weight, a random-looking number, 0 for that of the base; the sum
without carry of the weights is the key of an image, so that a state's costs a few operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

from pmemheap.native import Allocate, TapeEvent, TapeKind
from pmemheap.testing.recorder import Recording

__all__ = ["LINE", "SECTOR", "Replay", "Unsynced"]

_T = TypeVar("_T")

SECTOR = 512
LINE = 64

_SIZE = -1  # the cell that holds the size of the file
_STORES = {TapeKind.STORE, TapeKind.FOUND, TapeKind.WRITE}


@dataclass(frozen=True)
class Unsynced:
    """Older bytes that the medium may have instead of a file's, oldest first."""

    cells: dict[int, list[bytes]]
    sizes: list[int]


class Replay:
    """The file of a recording after some of its events.

    Attributes
    ----------
    now : dict of int to bytes
        Cells that were stored to, as the process sees them.
    history : dict of int to list of tuple of int and bytes
        Cells that the medium may have otherwise: (event, content), the oldest possible first, and
        the last is `now`. Negative events are before the recording.
    size, sizes
        The same for the size of the file.
    done : int
        Events so far.
    key : int
        Of the image that the process sees; see `key_of`.
    """

    def __init__(self, recording: Recording, cell: int, unsynced: Unsynced | None = None) -> None:
        self.recording = recording
        self.cell = cell
        self.done: int = 0
        self.size: int = len(recording.base)
        self.sizes: list[tuple[int, int]] = [(-1, self.size)]
        self.now: dict[int, bytes] = {}
        self.history: dict[int, list[tuple[int, bytes]]] = {}
        self.key: int = 0
        self._zeros = bytes(cell)
        self._weights: dict[tuple[int, bytes], int] = {}
        self._size_weights: dict[int, int] = {self.size: 0}
        self._flushed: list[TapeEvent] = []
        if unsynced is not None:
            self._begin_with(unsynced)

    def _begin_with(self, unsynced: Unsynced) -> None:
        for cell, older in unsynced.cells.items():
            self.history[cell] = _before([*older, self.content(cell)])
        self.sizes = _before([*unsynced.sizes, self.size])

    # ------------------------------------------------------------ reading

    def base(self, cell: int) -> bytes:
        """Return the content of a cell when the recording began; zeros behind the file's end."""
        start = cell * self.cell
        return self.recording.base[start : start + self.cell].ljust(self.cell, b"\0")

    def content(self, cell: int) -> bytes:
        """Return what the process sees of a cell."""
        found = self.now.get(cell)
        return self.base(cell) if found is None else found

    def weight(self, cell: int, content: bytes) -> int:
        """Return the number that stands for this content of this cell in keys."""
        place = cell, content
        found = self._weights.get(place)
        if found is None:
            found = 0 if content == self.base(cell) else _digest(cell, content)
            self._weights[place] = found
        return found

    def size_weight(self, size: int) -> int:
        """Return the number that stands for this size of the file in keys."""
        found = self._size_weights.get(size)
        if found is None:
            found = self._size_weights[size] = _digest(_SIZE, size.to_bytes(8, "little"))
        return found

    def key_of(self, changes: dict[int, bytes], size: int) -> int:
        """Return the key of the image that differs from `now` in some cells and the size."""
        key = self.key ^ self.size_weight(self.size) ^ self.size_weight(size)
        for cell, content in changes.items():
            key ^= self.weight(cell, self.content(cell)) ^ self.weight(cell, content)
        return key

    def image(self, changes: dict[int, bytes], size: int) -> bytes:
        """Return the file that differs from `now` in some cells and the size."""
        content = bytearray(self.recording.base.ljust(size, b"\0"))
        for cell, piece in {**self.now, **changes}.items():
            start = cell * self.cell
            content[start : start + self.cell] = piece
        return bytes(content[:size].ljust(size, b"\0"))

    def unsynced(self, changes: dict[int, bytes], size: int) -> Unsynced:
        """Return what the medium may have instead of the file that `image` would return."""
        cells = {
            cell: [content for _, content in values[:-1]] for cell, values in self.history.items()
        }
        for cell in changes:
            cells.setdefault(cell, []).append(self.content(cell))
        sizes = [each for _, each in self.sizes]
        return Unsynced(cells, sizes[:-1] if size == self.size else sizes)

    # ------------------------------------------------------------ moving

    def advance(self) -> TapeEvent:
        """Let one more event happen, and return it."""
        event = self.recording.events[self.done]
        if event.kind in _STORES:
            self._store(event.offset, event.data)
            if event.offset + event.length > self.size:
                self._resize(event.offset + event.length)
        elif event.kind == TapeKind.TRUNCATE:
            self._resize(event.length)
        elif event.kind == TapeKind.ALLOCATE:
            self._allocate(event)
        else:
            self._sync(event)
        self.done += 1
        return event

    def torn(self, event: TapeEvent) -> dict[int, bytes]:
        """Return the cells after the first half of a store that comes next, cut at 8 bytes."""
        half = event.length // 16 * 8
        return dict(self._changes(event.offset, event.data[:half]))

    def _changes(self, offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at < len(data):
            cell, inside = divmod(offset + at, self.cell)
            part = data[at : at + self.cell - inside]
            old = self.content(cell)
            yield cell, old[:inside] + part + old[inside + len(part) :]
            at += len(part)

    def _store(self, offset: int, data: bytes) -> None:
        for cell, content in self._changes(offset, data):
            self._set(cell, content)

    def _set(self, cell: int, content: bytes) -> None:
        old = self.content(cell)
        if content == old:
            return
        self.history.setdefault(cell, [(-1, old)]).append((self.done, content))
        self.key ^= self.weight(cell, old) ^ self.weight(cell, content)
        self.now[cell] = content

    def _resize(self, size: int) -> None:
        if size == self.size:
            return
        if size < self.size:
            self._zero(size, self.size)
        self.key ^= self.size_weight(self.size) ^ self.size_weight(size)
        self.sizes.append((self.done, size))
        self.size = size

    def _zero(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        for cell in range(start // self.cell, -(-stop // self.cell)):
            old = self.content(cell)
            if old == self._zeros:
                continue
            first = max(start - cell * self.cell, 0)
            last = min(stop - cell * self.cell, self.cell)
            self._set(cell, old[:first] + bytes(last - first) + old[last:])

    def _allocate(self, event: TapeEvent) -> None:
        stop = event.offset + event.length
        if event.detail in {Allocate.PUNCH_HOLE, Allocate.ZERO_RANGE}:
            self._zero(event.offset, min(stop, self.size))
        elif event.detail == Allocate.EXTEND and stop > self.size:
            self._resize(stop)

    # ------------------------------------------------------------ syncs

    def _sync(self, event: TapeEvent) -> None:
        if event.kind == TapeKind.SYNC_FILE:
            self._append_pending(list(self.history), event.begin)
            self._settle_size(event.begin, None)
        elif event.kind == TapeKind.SYNC_RANGE:
            self._append_pending(self._cells_of(event), event.begin)
            self._settle_size(event.begin, event.offset + event.length)
        elif event.kind == TapeKind.FLUSH:
            self._flushed.append(event)
        elif event.kind == TapeKind.FENCE:
            flushed, self._flushed = self._flushed, []
            for each in flushed if self.cell == LINE else []:
                self._append_pending(self._cells_of(each), each.begin)

    def _cells_of(self, event: TapeEvent) -> list[int]:
        """Return the cells with a history that a range covers."""
        first, stop = event.offset // self.cell, -(-(event.offset + event.length) // self.cell)
        return [cell for cell in self.history if first <= cell < stop]

    def _append_pending(self, cells: list[int], begin: int) -> None:
        """Forget what cells held before their last value of before event `begin`."""
        for cell in cells:
            values = self.history[cell]
            values = values[_last_before(values, begin) :]
            if len(values) == 1:
                del self.history[cell]
            else:
                self.history[cell] = values

    def _settle_size(self, begin: int, needed: int | None) -> None:
        """Forget sizes of before a sync; of one of a range, those that are too small for it."""
        last = _last_before(self.sizes, begin)
        if needed is not None:
            needed = min(needed, self.sizes[last][1])
            kept = [each for each in self.sizes[:last] if each[1] >= needed]
        else:
            kept = []
        self.sizes = kept + self.sizes[last:]


def _last_before(values: list[tuple[int, bytes]] | list[tuple[int, int]], begin: int) -> int:
    """Return the index of the last value of before event `begin`; there is always one."""
    index = len(values) - 1
    while index > 0 and values[index][0] >= begin:
        index -= 1
    return index


def _before(values: list[_T]) -> list[tuple[int, _T]]:
    """Date values, oldest first, before the first event."""
    return [(index - len(values), value) for index, value in enumerate(values)]


def _digest(cell: int, content: bytes) -> int:
    place = cell.to_bytes(8, "little", signed=True)
    return int.from_bytes(blake2b(content, digest_size=8, key=place).digest(), "little")
