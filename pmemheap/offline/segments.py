"""Segments that no sound slot describes, told from the gaps that they left.

    file     | header | log | DATA 0..256 | ??? | DATA 512..1024 |     a gap between sound slots
    units    0            256             512                1024      a gap between their units

Segments lie end to end in the file, and their units follow each other: a slot that is lost can be
told from its neighbours, if a gap in the file fits one gap in the units, and no other. What stands
in a damaged slot is believed where it agrees with the gaps. SPARE is the last thing that a piece of
the file is taken for: only when no units are missing anywhere, no arena slot is in doubt, and it
does not read like blocks. A piece that nothing explains stays as it is, and is reported.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from pmemheap.format import layout
from pmemheap.format.layout import SegmentKind, SegmentSlot, Table, slot_offset, spare_slot
from pmemheap.format.superblock import Superblock
from pmemheap.offline.findings import Edit, Finding, FindingKind, Findings, Severity
from pmemheap.offline.slots import BadSlot, Slots, is_possible, segments_inside
from pmemheap.units import UNIT

__all__ = ["Derivation", "Judge", "UnitGap", "doubtful_arenas", "note_strays", "unit_gaps"]


class Judge(Protocol):
    """A reading of the bytes of a file."""

    def reads_like(self, slot: SegmentSlot) -> bool:
        """Tell whether entries and bits of a segment agree with each other."""
        ...

    def looks_used(self, start: int, stop: int) -> bool:
        """Tell whether a piece of the file reads like a segment with blocks."""
        ...


_SEGMENT_FIELDS = struct.Struct("<BxH4xQQQQ")
_ARENA_RANGE = struct.Struct("<8xQQ")

Doubts = dict[int, tuple[int, int] | None]
"""Arenas of which no sound slot tells the range; the range that a damaged one claims, or None."""


@dataclass(frozen=True)
class UnitGap:
    """Live units that no segment holds; `open_start`: their first segment may begin lower."""

    arena: int
    start: int
    stop: int
    open_start: bool


class Derivation:
    """Finds segments that no sound slot describes, from the gaps they left."""

    def __init__(  # noqa: PLR0913, PLR0917 -- what is known
        self, size: int, superblock: Superblock | None, file_end: int | None, slots: Slots,
        bad: list[BadSlot], doubts: Doubts, findings: Findings, judge: Judge,
    ) -> None:  # fmt: skip
        self._judge = judge
        self._superblock = superblock
        self._slots = slots
        self._unused = list(bad)
        self._doubts = doubts
        self._findings = findings
        self._gaps = unit_gaps(slots)
        self._end = max(slots.file_end, min(file_end if file_end is not None else size, size))

    def run(self) -> None:
        """Describe every gap in the file, and say so."""
        pieces = [
            piece for start, stop in list(self._file_gaps()) for piece in self._walk(start, stop)
        ]
        pieces = self._matched(pieces)
        may_be_spare = not self._gaps and not self._doubts
        for start, stop in pieces:
            if may_be_spare and not self._judge.looks_used(start, stop):
                self._take(spare_slot(start, stop - start), "no units are missing")
            else:
                self._slots.unexplained.append((start, stop))
                self._report_piece(start, stop)
        for each in self._unused:
            self._drop(each, is_needless=may_be_spare)
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

    def _walk(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Take what stands in a gap of the file beyond doubt; yield the pieces that are left."""
        reached = start
        while reached < stop:
            found = self._known_at(reached, stop)
            if found is None:
                ahead = self._next_known(reached, stop)
                yield reached, ahead
                reached = ahead
                continue
            self._take(*found)
            reached = found[0].file_stop

    def _known_at(self, start: int, stop: int) -> tuple[SegmentSlot, str] | None:
        """Return the segment that begins at `start` of a gap, if that is known, and how."""
        log = self._log_at(start, stop)
        if log is not None:
            return log, "the superblock names it"
        for slot in self._believed():
            fits = slot.kind == SegmentKind.DATA and slot.file_off == start
            if fits and slot.file_stop <= stop and self._judge.reads_like(slot) and self._fit(slot):
                return slot, "its neighbours agree with what stands there"
        return None

    def _next_known(self, start: int, stop: int) -> int:
        """Return where a piece that nothing explains ends: before the log, or a damaged slot's."""
        starts = {slot.file_off for slot in self._believed()}
        if self._superblock is not None:
            starts.add(self._superblock.log_off)
        return min((each for each in starts if start < each < stop), default=stop)

    def _believed(self) -> Iterator[SegmentSlot]:
        for each in self._unused:
            slot = _believed(each.image)
            if slot is not None:
                yield slot

    def _log_at(self, start: int, stop: int) -> SegmentSlot | None:
        block = self._superblock
        if block is None or block.log_off != start or start + block.log_size > stop:
            return None
        if block.log_size < UNIT or block.log_size % UNIT:
            return None
        return SegmentSlot(SegmentKind.LOG, start, block.log_size // UNIT)

    def _fit(self, slot: SegmentSlot) -> bool:
        """Tell whether units are missing that a segment could hold; take them."""
        if slot.arena in self._doubts:
            return self._fits_in_doubt(slot)
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

    def _fits_in_doubt(self, slot: SegmentSlot) -> bool:
        """Tell whether a segment of an arena in doubt goes on from others, or fills its range."""
        first, stop = slot.first_unit, slot.first_unit + slot.nunits
        others = [
            (each.first_unit, each.first_unit + each.nunits)
            for each in self._slots.segments.values()
            if each.kind == SegmentKind.DATA and each.arena == slot.arena
        ]
        if any(first < their_stop and their_first < stop for their_first, their_stop in others):
            return False
        claimed = self._doubts[slot.arena]
        fills = claimed is not None and (first <= claimed[0] < stop and stop == claimed[1])
        return fills or any(stop == each[0] or first == each[1] for each in others)

    # ------------------------------------------------------------ pieces and gaps

    def _matched(self, pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Take the pieces that fit one gap in the units, as no other does; return the others."""
        while True:
            pair = self._pair(pieces)
            if pair is None:
                return pieces
            (start, stop), gap = pair
            pieces.remove((start, stop))
            self._gaps.remove(gap)
            slot = _segment_in(start, stop, gap)
            assert slot is not None
            self._take(slot, "one gap in the units fits")

    def _pair(self, pieces: list[tuple[int, int]]) -> tuple[tuple[int, int], UnitGap] | None:
        """Return a piece and a gap that fit each other, and nothing else."""
        fitting = {
            piece: [gap for gap in self._gaps if self._can_be(_segment_in(*piece, gap))]
            for piece in pieces
        }
        for piece, gaps in fitting.items():
            if len(gaps) == 1 and sum(gaps[0] in others for others in fitting.values()) == 1:
                return piece, gaps[0]
        return None

    def _can_be(self, slot: SegmentSlot | None) -> bool:
        return slot is not None and self._judge.reads_like(slot)

    def _take(self, slot: SegmentSlot, told: str) -> None:
        unused = self._unused
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

    def _drop(self, each: BadSlot, *, is_needless: bool) -> None:
        """Clear a damaged slot if every byte of the file and every unit has an owner without it."""
        place = slot_offset(Table.SEGMENTS, each.index)
        if is_needless:
            self._slots.free.append(each.index)
        self._findings.add(
            Finding(
                FindingKind.SEGMENT, f"segment slot {each.index}", place,
                "an empty slot, as the others lie end to end without it"
                if is_needless
                else "a sound slot",
                each.reason,
                "no block is affected"
                if is_needless
                else "where its segment lies, or whether there was one, cannot be told",
                *(("the slot is cleared", "", (Edit(place, bytes(layout.SLOT_BYTES)),))
                  if is_needless else ()),
            )
        )  # fmt: skip

    def _report_piece(self, start: int, stop: int) -> None:
        self._findings.add(
            Finding(
                FindingKind.SEGMENT, "segment table", layout.SEGMENT_TABLE,
                f"a segment for {stop - start} bytes at file offset {start:#x}", "none",
                "what lies there cannot be told: units are missing, or an arena's range is not "
                "known, or it reads like blocks; `salvage` looks for them",
            )
        )  # fmt: skip

    def _report_hole(self, gap: UnitGap) -> None:
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


def doubtful_arenas(slots: Slots, bad: list[BadSlot], named: Collection[int]) -> Doubts:
    """Return the arenas without a sound slot, with the range that a damaged one claims.

    Parameters
    ----------
    named : collection of int
        Arenas that the log writes to.
    """
    found: Doubts = dict.fromkeys({*slots.arenas_without_slot, *named} - slots.sound_arenas.keys())
    for each in bad:
        first, end = _ARENA_RANGE.unpack_from(each.image)
        found[each.index] = (first, end) if first < end else None
    return found


def _segment_in(start: int, stop: int, gap: UnitGap) -> SegmentSlot | None:
    """Return the segment that a piece of the file would be, if it has the units of a gap."""
    capacity, rest = divmod(stop - start, layout.UNIT_BYTES_IN_FILE)
    if rest or not capacity or capacity % layout.SEGMENT_UNITS:
        return None
    first = gap.stop - capacity
    fits = 0 <= first <= gap.start if gap.open_start else first == gap.start
    return (
        SegmentSlot(SegmentKind.DATA, start, capacity, gap.arena, first, capacity) if fits else None
    )


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


def unit_gaps(slots: Slots) -> list[UnitGap]:
    """Return the live units that no segment of the tables holds."""
    gaps = []
    for index, arena in slots.live.items():
        inside = sorted(
            segments_inside(slots.segments.values(), index, arena), key=lambda s: s.first_unit
        )
        reached, is_first = arena.first_unit, True
        for slot in inside:
            if slot.first_unit > reached:
                gaps.append(UnitGap(index, reached, slot.first_unit, is_first))
            reached, is_first = max(reached, slot.first_unit + slot.nunits), False
        if reached < arena.end_unit:
            gaps.append(UnitGap(index, reached, arena.end_unit, is_first))
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
