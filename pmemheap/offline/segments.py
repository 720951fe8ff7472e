"""Segments that no sound slot describes, told from the gaps that they left.

    file     | header | log | DATA 0..256 | ??? | DATA 512..1024 |     a gap between sound slots
    units    0            256             512                1024      a gap between their units

Segments lie end to end in the file, and their units follow each other: a slot that is lost can be
told from its neighbours, if a gap in the file fits one gap in the units.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pmemheap import layout
from pmemheap.layout import (
    SegmentKind,
    SegmentSlot,
    Superblock,
    Table,
    slot_offset,
    spare_slot,
)
from pmemheap.offline.findings import Edit, Finding, FindingKind, Findings, Severity
from pmemheap.offline.image import Image
from pmemheap.offline.slots import BadSlot, Slots, is_possible, segments_inside
from pmemheap.units import UNIT

__all__ = ["Derivation", "note_strays"]

_SEGMENT_FIELDS = struct.Struct("<BxH4xQQQQ")


@dataclass(frozen=True)
class _UnitGap:
    """Live units that no sound segment holds; `open_start`: it may begin lower."""

    arena: int
    start: int
    stop: int
    open_start: bool


class Derivation:
    """Finds segments that no sound slot describes, from the gaps they left."""

    def __init__(  # noqa: PLR0913, PLR0917 -- what is known
        self, image: Image, superblock: Superblock | None, file_end: int | None, slots: Slots,
        bad: list[BadSlot], bad_arenas: list[BadSlot], findings: Findings,
    ) -> None:  # fmt: skip
        self._image = image
        self._superblock = superblock
        self._slots = slots
        self._bad = bad
        self._unsure_arenas = {each.index for each in bad_arenas}
        self._findings = findings
        self._gaps = _unit_gaps(slots)
        end = slots.file_end
        if bad or self._gaps:
            end = max(end, min(file_end if file_end is not None else image.size, image.size))
        self._end = end

    def run(self) -> None:
        """Describe every gap in the file, and say so."""
        unused = list(self._bad)
        for start, stop in list(self._file_gaps()):
            reached = start
            while reached < stop:
                slot, told = self._next(reached, stop)
                self._take(slot, told, unused)
                reached = slot.file_stop
        for each in unused:
            self._drop(each)
        for gap in self._gaps:
            self._report_hole(gap)

    def _file_gaps(self) -> Iterator[tuple[int, int]]:
        reached = layout.HEADER_BYTES
        ordered = sorted(self._slots.segments.values(), key=lambda slot: slot.file_off)
        for slot in ordered:
            if slot.file_off > reached:
                yield reached, slot.file_off
            reached = slot.file_stop
        if self._end > reached and (self._end - reached) % UNIT == 0:
            yield reached, self._end

    def _next(self, start: int, stop: int) -> tuple[SegmentSlot, str]:
        """Return the segment that begins at `start` of a gap, and how that is known."""
        log = self._log_at(start, stop)
        if log is not None:
            return log, "the superblock names it"
        for each in self._bad:
            slot = _believed(each.image)
            if slot is None or slot.file_off != start or slot.file_stop > stop:
                continue
            if slot.kind != SegmentKind.DATA or self._fit(slot):
                return slot, "its neighbours agree with what stands there"
        slot = self._by_units(start, stop)
        if slot is not None:
            return slot, "one gap in the units fits"
        return spare_slot(start, stop - start), "no units are missing that fit"

    def _log_at(self, start: int, stop: int) -> SegmentSlot | None:
        block = self._superblock
        if block is None or block.log_off != start or start + block.log_size > stop:
            return None
        if block.log_size < UNIT or block.log_size % UNIT:
            return None
        return SegmentSlot(SegmentKind.LOG, start, block.log_size // UNIT)

    def _fit(self, slot: SegmentSlot) -> bool:
        """Tell whether units are missing that a segment could hold; take them."""
        if slot.arena in self._unsure_arenas:
            return True
        for gap in self._gaps:
            starts = (
                slot.first_unit <= gap.start if gap.open_start else slot.first_unit == gap.start
            )
            stop = slot.first_unit + slot.nunits
            if gap.arena == slot.arena and starts and gap.start < stop <= gap.stop:
                self._gaps.remove(gap)
                if stop < gap.stop:
                    self._gaps.append(replace(gap, start=stop, open_start=False))
                return True
        return False

    def _by_units(self, start: int, stop: int) -> SegmentSlot | None:
        capacity, rest = divmod(stop - start, layout.UNIT_BYTES_IN_FILE)
        if rest or not capacity or capacity % layout.SEGMENT_UNITS:
            return None
        exact = [
            gap for gap in self._gaps if not gap.open_start and gap.stop - gap.start == capacity
        ]
        fitting = exact or [gap for gap in self._gaps if gap.stop - gap.start <= capacity]
        if len(fitting) != 1:
            return None
        gap = fitting[0]
        self._gaps.remove(gap)
        first = max(gap.stop - capacity, 0) if gap.open_start else gap.start
        nunits = gap.stop - first
        if nunits % layout.SEGMENT_UNITS:
            return None
        return SegmentSlot(SegmentKind.DATA, start, capacity, gap.arena, first, nunits)

    def _take(self, slot: SegmentSlot, told: str, unused: list[BadSlot]) -> None:
        same = (each for each in unused if (raw := _believed(each.image)) is not None
                and raw.file_off == slot.file_off)  # fmt: skip
        old = next(same, unused[0] if unused else None)
        if old is not None:
            unused.remove(old)
            index = old.index
        elif self._slots.free:
            index = self._slots.free.pop(0)
        else:
            return
        self._slots.segments[index] = slot
        place = slot_offset(Table.SEGMENTS, index)
        self._findings.add(
            Finding(
                FindingKind.SEGMENT, f"segment slot {index}", place,
                f"the segment at file offset {slot.file_off:#x}",
                old.reason if old is not None else "none",
                _meaning_of(slot, told), f"the slot is written: {_words(slot)}", "",
                (Edit(place, slot.pack()),),
            )
        )  # fmt: skip

    def _drop(self, each: BadSlot) -> None:
        place = slot_offset(Table.SEGMENTS, each.index)
        self._slots.free.append(each.index)
        self._findings.add(
            Finding(
                FindingKind.SEGMENT, f"segment slot {each.index}", place,
                "an empty slot, as the others lie end to end without it", each.reason,
                "no block is affected", "the slot is cleared", "",
                (Edit(place, bytes(layout.SLOT_BYTES)),),
            )
        )  # fmt: skip

    def _report_hole(self, gap: _UnitGap) -> None:
        self._findings.add(
            Finding(
                FindingKind.SEGMENT, "segment table", layout.SEGMENT_TABLE,
                f"a segment for units {gap.start} to {gap.stop} of arena {gap.arena}", "none",
                f"the blocks in units {gap.start} to {gap.stop} cannot be found; `salvage` gets "
                "the others",
            )
        )  # fmt: skip


def _believed(image: bytes) -> SegmentSlot | None:
    """Read a slot whose checksum does not hold; None if it cannot be what it says."""
    kind, arena, file_off, capacity, first_unit, nunits = _SEGMENT_FIELDS.unpack_from(image)
    if kind not in {SegmentKind.DATA, SegmentKind.LOG, SegmentKind.SPARE}:
        return None
    slot = SegmentSlot(SegmentKind(kind), file_off, capacity, arena, first_unit, nunits)
    return slot if is_possible(slot) else None


def _words(slot: SegmentSlot) -> str:
    if slot.kind != SegmentKind.DATA:
        return f"{slot.kind.name} of {slot.file_bytes} bytes"
    stop = slot.first_unit + slot.nunits
    return f"DATA with units {slot.first_unit} to {stop} of arena {slot.arena}"


def _meaning_of(slot: SegmentSlot, told: str) -> str:
    what = {
        SegmentKind.DATA: f"units {slot.first_unit} to {slot.first_unit + slot.nunits} of arena "
        f"{slot.arena} lie there; their blocks are unaffected",
        SegmentKind.LOG: "the redo log lies there",
        SegmentKind.SPARE: "nothing in use lies there",
    }[slot.kind]
    return f"{told}: {what}"


def _unit_gaps(slots: Slots) -> list[_UnitGap]:
    gaps = []
    for index, arena in slots.live.items():
        inside = sorted(
            segments_inside(slots.segments.values(), index, arena), key=lambda s: s.first_unit
        )
        reached, is_first = arena.first_unit, True
        for slot in inside:
            if slot.first_unit > reached:
                gaps.append(_UnitGap(index, reached, slot.first_unit, is_first))
            reached, is_first = max(reached, slot.first_unit + slot.nunits), False
        if reached < arena.end_unit:
            gaps.append(_UnitGap(index, reached, arena.end_unit, is_first))
    return gaps


def note_strays(slots: Slots, superblock: Superblock | None, findings: Findings) -> None:
    """Note segments that opening turns into SPARE ones."""
    for index, slot in slots.segments.items():
        if slot.kind == SegmentKind.DATA:
            arena = slots.live.get(slot.arena)
            if arena is not None and list(segments_inside([slot], slot.arena, arena)):
                continue
            what = "outside of its arena's range"
        elif slot.kind == SegmentKind.LOG and superblock is not None:
            if (slot.file_off, slot.file_bytes) == (superblock.log_off, superblock.log_size):
                continue
            what = "a log that the superblock does not name"
        else:
            continue
        place = slot_offset(Table.SEGMENTS, index)
        findings.add(
            Finding(
                FindingKind.SEGMENT, f"segment slot {index}", place, "a segment in use",
                f"{_words(slot)}, {what}",
                "a process was ended while it grew or gave back; no block is affected",
                "the slot turns SPARE", "",
                (Edit(place, spare_slot(slot.file_off, slot.file_bytes).pack()),),
                severity=Severity.NOTE,
            )
        )  # fmt: skip
