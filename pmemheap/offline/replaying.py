"""Replaying: the redo log, applied in memory.

    superblock  tail ---> | record | record | record | S         the chain of `records.scan`
    replay_header   tables of segments, arenas and roots         then damaged slots are derived
    replay          backwards: what later records free or fill   [R13]
                    forwards: words and bytes, into an overlay; what has no place is returned

Between the two passes a reader of damaged tables finds out where the units lie. What a sound arena
slot has given up is left out, as recovery leaves it out; all other writes need a place.

A ``process`` heap replays nothing below `applied_lsn` [R22], and rolls back only what
`open_undo_lsn` names [R23].
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pmemheap.errors import CorruptHeapError
from pmemheap.format import layout
from pmemheap.format.layout import ArenaSlot, ArenaState, RootSlot, SegmentSlot, Table
from pmemheap.format.records import Operation, OperationType, Record, RecordKind
from pmemheap.offline.image import Image, Overlay
from pmemheap.offline.places import Part, Places, arena_of

__all__ = ["Unplaced", "arenas_written", "read_slots", "replay", "replay_header", "to_replay"]

_TABLES = {
    Table.SEGMENTS: (layout.SEGMENT_TABLE, layout.SEGMENT_SLOTS * layout.SLOT_BYTES),
    Table.ARENAS: (layout.ARENA_TABLE, layout.ARENA_SLOTS * layout.SLOT_BYTES),
    Table.ROOTS: (layout.ROOT_TABLE, layout.ROOT_SLOTS * layout.SLOT_BYTES),
}
_PARTS = {Table.ENTRIES: Part.ENTRIES, Table.BITS: Part.BITS}
_TABLE_OF: dict[type, Table] = {
    SegmentSlot: Table.SEGMENTS, ArenaSlot: Table.ARENAS, RootSlot: Table.ROOTS,
}  # fmt: skip


def to_replay(
    records: Sequence[Record], *, process: bool, applied_lsn: int, open_undo_lsn: int
) -> list[Record]:
    """Return the accepted records whose operations recovery stores."""
    committed = {record.txid: record.lsn for record in records if record.kind == RecordKind.COMMIT}
    chosen = []
    for record in records:
        if record.kind != RecordKind.UNDO:
            if not process or record.lsn >= applied_lsn:
                chosen.append(record)
        elif committed.get(record.txid, -1) < record.lsn and (
            not process or 0 < open_undo_lsn <= record.lsn
        ):
            chosen.append(record)
    return chosen


@dataclass(frozen=True)
class Unplaced:
    """A part of a committed write whose units no segment holds."""

    record: Record
    part: Part
    arena: int
    first_unit: int
    stop_unit: int

    def __str__(self) -> str:
        """Say what it was for, and who wrote it."""
        return (
            f"{self.part.name.lower()} of units {self.first_unit} to {self.stop_unit} of arena "
            f"{self.arena}, by the record with LSN {self.record.lsn}"
        )


def replay_header(view: Overlay, records: Sequence[Record]) -> None:
    """Apply what records say of segments, arenas and roots to `view`, in order."""
    for record in records:
        for operation in record.ops:
            table = _header_table(operation)
            if table is not None and operation.off + operation.nbytes <= table[1]:
                view.put(table[0] + operation.off, operation.payload)


def _header_table(operation: Operation) -> tuple[int, int] | None:
    if operation.type != OperationType.META or operation.flags in _PARTS:
        return None
    return _TABLES[Table(operation.flags)]


def arenas_written(records: Iterable[Record]) -> set[int]:
    """Return the arenas to whose units records write."""
    return {
        arena_of(operation.off)[0]
        for record in records
        for operation in record.ops
        if _header_table(operation) is None and operation.type != OperationType.FREE
    }


def replay(
    view: Overlay, records: Sequence[Record], places: Places, sound: Mapping[int, ArenaSlot]
) -> list[Unplaced]:
    """Apply what records say of units to `view`, in order.

    Parameters
    ----------
    places : Places
        Where the units lie in the end.
    sound : mapping of int to ArenaSlot
        The arena slots that can be believed: what they have given up need not be placed.

    Returns
    -------
    list of Unplaced
        What has no place. It is not in `view`.
    """
    store = _Store(view, places, sound)
    for record in records:
        for operation in record.ops:
            if operation.type == OperationType.META and operation.flags in _PARTS:
                part = _PARTS[Table(operation.flags)]
                store.put(record, part, operation.off, operation.payload)
    for record, offset, data in _unrevoked(records):
        store.put(record, Part.DATA, offset, data)
    return store.unplaced


class _Store:
    """Where words and bytes of records go."""

    def __init__(self, view: Overlay, places: Places, sound: Mapping[int, ArenaSlot]) -> None:
        self._view = view
        self._places = places
        self._sound = sound
        self.unplaced: list[Unplaced] = []

    def put(self, record: Record, part: Part, offset: int, data: bytes) -> None:
        """Store what lies in segments; note what does not, and should."""
        index, byte = arena_of(offset)
        at = 0
        for place, length in self._spans(index, part, byte, byte + len(data)):
            if place is not None:
                self._view.put(place, data[at : at + length])
            else:
                self._miss(record, part, index, byte + at, byte + at + length)
            at += length

    def _spans(
        self, index: int, part: Part, start: int, stop: int
    ) -> Iterator[tuple[int | None, int]]:
        arena = self._places.arena(index)
        if arena is None:
            yield None, stop - start
        else:
            yield from arena.spans(part, start, stop)

    def _miss(self, record: Record, part: Part, index: int, start: int, stop: int) -> None:
        width: int = part.value
        first, last = start // width, -(-stop // width)
        arena = self._sound.get(index)
        if arena is not None:
            if arena.state != ArenaState.LIVE:
                return
            first, last = max(first, arena.first_unit), min(last, arena.end_unit)
        if first < last:
            self.unplaced.append(Unplaced(record, part, index, first, last))


def _unrevoked(records: Sequence[Record]) -> list[tuple[Record, int, bytes]]:
    """Return the writes, in order, without the parts that a later record frees or fills [R13]."""
    revoked = _Ranges()
    kept: list[tuple[Record, int, bytes]] = []
    for record in reversed(records):
        writes = [
            (record, start, operation.payload[start - operation.off : stop - operation.off])
            for operation in record.ops
            if operation.type in {OperationType.WRITE, OperationType.OLD}
            for start, stop in revoked.without(*operation.range)
        ]
        kept += reversed(writes)
        for operation in record.ops:
            if operation.type in {OperationType.FRESH, OperationType.FREE}:
                revoked.add(*operation.range)
    return kept[::-1]


class _Ranges:
    """A set of numbers as disjoint ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        left = bisect_left(self._stops, start)
        right = bisect_right(self._starts, stop)
        if left < right:
            start = min(start, self._starts[left])
            stop = max(stop, self._stops[right - 1])
        self._starts[left:right] = [start]
        self._stops[left:right] = [stop]

    def without(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of a range that are not in the set."""
        parts = []
        index = bisect_right(self._stops, start)
        while start < stop:
            if index == len(self._starts) or self._starts[index] >= stop:
                parts.append((start, stop))
                break
            if start < self._starts[index]:
                parts.append((start, self._starts[index]))
            start = self._stops[index]
            index += 1
        return parts


Slot = TypeVar("Slot", SegmentSlot, ArenaSlot, RootSlot)


def read_slots(image: Image, kind: type[Slot]) -> dict[int, Slot]:
    """Return the slots of a table whose checksums hold, by their number."""
    start, length = _TABLES[_TABLE_OF[kind]]
    data = image.read(start, length).ljust(length, b"\0")
    found: dict[int, Slot] = {}
    for index in range(length // layout.SLOT_BYTES):
        at = index * layout.SLOT_BYTES
        try:
            slot = kind.unpack(data[at : at + layout.SLOT_BYTES], start + at)
        except CorruptHeapError:
            continue
        if slot is not None:
            found[index] = slot
    return found
