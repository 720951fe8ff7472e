"""Replaying: the redo log, applied in memory.

    superblock  tail ---> | record | record | record | S         the chain of `records.scan`
    pass 1      tables of segments and arenas                    where every unit lies in the end
    pass 2      backwards: what later records free or fill       [R13]
    pass 3      forwards: words and bytes, into an overlay

A ``process`` heap replays nothing below `applied_lsn` [R22], and rolls back only what
`open_undo_lsn` names [R23].
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import TypeVar

from pmemheap import layout
from pmemheap.errors import CorruptHeapError
from pmemheap.layout import ArenaSlot, ArenaState, RootSlot, SegmentSlot, Table
from pmemheap.offline.image import Image, Overlay
from pmemheap.offline.places import Part, Places, arena_of
from pmemheap.records import Operation, OperationType, Record, RecordKind

__all__ = ["live_places", "read_slots", "replay", "to_replay"]

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
        if record.kind == RecordKind.COMMIT:
            if not process or record.lsn >= applied_lsn:
                chosen.append(record)
        elif committed.get(record.txid, -1) < record.lsn and (
            not process or 0 < open_undo_lsn <= record.lsn
        ):
            chosen.append(record)
    return chosen


def replay(view: Overlay, records: Sequence[Record]) -> None:
    """Apply records to `view`, in order."""
    for operation in _operations(records, OperationType.META):
        if operation.flags in {Table.SEGMENTS, Table.ARENAS, Table.ROOTS}:
            start, length = _TABLES[Table(operation.flags)]
            if operation.off + operation.nbytes <= length:
                view.put(start + operation.off, operation.payload)
    if not records:
        return
    places = live_places(view)
    for operation in _operations(records, OperationType.META):
        if operation.flags in {Table.ENTRIES, Table.BITS}:
            _store_words(view, places, operation)
    for offset, data in _unrevoked(records):
        at = 0
        for place, length in places.data(offset, len(data)):
            view.put(place, data[at : at + length])
            at += length


def _operations(records: Iterable[Record], kind: OperationType) -> Iterable[Operation]:
    return (operation for record in records for operation in record.ops if operation.type == kind)


def _store_words(view: Overlay, places: Places, operation: Operation) -> None:
    index, byte = arena_of(operation.off)
    arena = places.arena(index)
    if arena is None:
        return
    part = _PARTS[Table(operation.flags)]
    first = max(byte, arena.first_unit * int(part.value))  # what lies below is not live
    at = first - byte
    for place, length in arena.ranges(part, byte, byte + operation.nbytes):
        view.put(place, operation.payload[at : at + length])
        at += length


def _unrevoked(records: Sequence[Record]) -> list[tuple[int, bytes]]:
    """Return the writes, in order, without the parts that a later record frees or fills [R13]."""
    revoked = _Ranges()
    kept: list[tuple[int, bytes]] = []
    for record in reversed(records):
        writes = [
            (start, operation.payload[start - operation.off : stop - operation.off])
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


def live_places(image: Image) -> Places:
    """Return where the units of the live arenas lie, as far as slots are sound."""
    arenas = {
        index: arena
        for index, arena in read_slots(image, ArenaSlot).items()
        if arena.state == ArenaState.LIVE
    }
    return Places(read_slots(image, SegmentSlot), arenas)
