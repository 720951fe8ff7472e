"""Units: the entries and bits of all arenas, read as a stream.

    entries   |R . .|L . . . .|. . .|R|        R run, L large block, . nothing begins here
    bits      |1 0 1|. . . . .|. . .|1|        only inside of runs, only where blocks begin
    extents    run    large     free  run

Entries that claim the same unit form a cluster. What is kept of one is the greatest number of
extents that do not touch: a single wild length costs one block, not all that it covers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pmemheap.native.constants import Kind
from pmemheap.offline.entries import HALF_ENTRY, mended, problem_of
from pmemheap.offline.extents import (
    BIT_BYTES,
    Block,
    Extent,
    TableReader,
    entries_of,
    extent_of,
    nonzero_at,
    pack_entry,
    scattered,
    unit_at,
    with_bits,
)
from pmemheap.offline.findings import Edit, Finding, FindingKind, Findings, Severity
from pmemheap.offline.image import Image, data_pieces
from pmemheap.offline.places import ArenaPlaces, Part, Places, arena_of, heap_offset
from pmemheap.units import GRANULE, UNIT, align_up

__all__ = ["UnitWalk"]


class UnitWalk:
    """One pass over all units of a heap.

    Parameters
    ----------
    image : Image
        The file, with the log applied.
    places : Places
        Where the arenas lie.
    findings : Findings
        What is wrong goes there.
    file_size : int
        Bytes that the file really has: blocks beyond are cut.

    Attributes
    ----------
    blocks, block_bytes, runs, large, used_units : int
        Live blocks that were found so far, and what they take.
    passed_units : int
        How far it has come.
    """

    def __init__(self, image: Image, places: Places, findings: Findings, file_size: int) -> None:
        self._image = image
        self._places = places
        self._findings = findings
        self._file_size = file_size
        self.blocks: int = 0
        self.block_bytes: int = 0
        self.runs: int = 0
        self.large: int = 0
        self.used_units: int = 0
        self.passed_units: int = 0

    @property
    def units(self) -> int:
        """How many units there are, live or not."""
        return sum(each.end_unit - each.first_unit for each in self._places.arenas.values())

    def extents(self) -> Iterator[Extent]:
        """Yield the extents that are sound and own their units, by arena and unit. O(1) memory."""
        before = 0
        for _, arena in sorted(self._places.arenas.items()):
            reader = TableReader(self._image, arena)
            reached = arena.first_unit
            for extent in self._disjoint(arena, reader):
                self._check_gap(arena, reached, extent.unit)
                sound = self._check_inside(arena, extent)
                reached = extent.stop
                self.passed_units = before + reached - arena.first_unit
                if sound is not None:
                    self._count(sound)
                    yield sound
            self._check_gap(arena, reached, arena.end_unit)
            before += arena.end_unit - arena.first_unit

    def _count(self, extent: Extent) -> None:
        self.used_units += extent.nunits
        self.blocks += extent.block_count
        self.block_bytes += extent.live_bytes
        self.runs += extent.has_bits
        self.large += not extent.has_bits

    # ------------------------------------------------------------ entries

    def _disjoint(self, arena: ArenaPlaces, reader: TableReader) -> Iterator[Extent]:
        """Yield extents that do not touch each other."""
        cluster: list[Extent] = []
        stop = 0
        for extent in self._sound(arena, reader):
            if cluster and extent.unit >= stop:
                yield from self._resolved(cluster)
                cluster = []
            cluster.append(extent)
            stop = max(stop, extent.stop) if len(cluster) > 1 else extent.stop
        yield from self._resolved(cluster)

    def _sound(self, arena: ArenaPlaces, reader: TableReader) -> Iterator[Extent]:
        """Yield the extents whose entries can be what they say."""
        for unit, place, entry in entries_of(self._image, arena):
            extent = extent_of(entry, arena.index, unit, place)
            problem = problem_of(extent, arena)
            if problem is None:
                yield with_bits(extent, arena, self._image, reader)
                continue
            right = mended(extent, arena, reader)
            self._report_entry(extent, problem, right)
            if right is not None:
                yield with_bits(right, arena, self._image, reader)

    def _report_entry(self, extent: Extent, problem: tuple[str, str], right: Extent | None) -> None:
        offset = heap_offset(extent.arena, extent.unit * UNIT)
        severity = Severity.DAMAGE
        if right is not None:
            meaning = f"the rest tells what it was: {right.describe()}; its bytes are unaffected"
            mend, loses, entry = "the entry is put right", "", pack_entry(right)
        elif extent.kind == Kind.FREE:
            if problem[1] == HALF_ENTRY:  # what a process leaves between two stores
                severity = Severity.NOTE
            meaning = "no block begins here, and none is affected"
            mend, loses, entry = "the entry is cleared", "", bytes(16)
        else:
            meaning = (
                f"if a block or run began at {offset:#x}, its record is lost; its bytes still lie "
                "in the file, but their length is unknown"
            )
            mend, loses, entry = "the entry is cleared", f"what began at {offset:#x}", bytes(16)
        self._findings.add(
            Finding(
                FindingKind.ENTRY, f"entry of unit {extent.unit} in arena {extent.arena}",
                extent.place, *problem, meaning, mend, loses, (Edit(extent.place, entry),),
                severity=severity,
            )
        )  # fmt: skip

    def _resolved(self, cluster: list[Extent]) -> Iterator[Extent]:
        """Keep as many extents of a cluster as can be, by their ends."""
        if len(cluster) < 2:
            yield from cluster
            return
        cluster = [self._shortened(extent, cluster) for extent in cluster]
        kept: list[Extent] = []
        for extent in sorted(cluster, key=lambda each: (each.stop, -each.unit)):
            if extent.is_empty:
                self._report_dropped(extent, cluster)
            elif kept and extent.unit < kept[-1].stop:
                self._report_dropped(extent, kept)
            else:
                kept.append(extent)
        yield from kept

    def _shortened(self, extent: Extent, cluster: list[Extent]) -> Extent:
        """Cut a large block to what its bytes need, where that ends a quarrel."""
        needed = max(align_up(extent.nbytes, UNIT) // UNIT, 1)
        if extent.has_bits or needed >= extent.nunits:
            return extent
        inside = [each for each in cluster if extent.unit < each.unit < extent.unit + needed]
        if inside:
            return extent
        shorter = replace(extent, nunits=needed)
        self._findings.add(
            Finding(
                FindingKind.OVERLAP, f"entry of unit {extent.unit} in arena {extent.arena}",
                extent.place, f"{needed} units for {extent.nbytes} bytes",
                f"{extent.nunits} units, some of which belong to others",
                f"{extent.describe()}: its bytes are unaffected",
                "the number of units is put right", "",
                (Edit(extent.place, pack_entry(shorter)),),
            )
        )  # fmt: skip
        return shorter

    def _report_dropped(self, extent: Extent, others: list[Extent]) -> None:
        other = next(
            (
                each
                for each in others
                if each != extent and each.unit < extent.stop and extent.unit < each.stop
            ),
            None,
        )
        owner = other.describe() if other is not None else "nobody else"
        is_empty = extent.is_empty
        self._findings.add(
            Finding(
                FindingKind.OVERLAP, f"entry of unit {extent.unit} in arena {extent.arena}",
                extent.place, f"units {extent.unit} to {extent.stop} of its own",
                f"some that belong to {owner}",
                "no block is affected"
                if is_empty
                else f"{extent.describe()}: at most one of the two owners is real, and what was "
                "written through one has changed the other",
                "the entry is cleared, the other one stays",
                "" if is_empty else extent.describe(),
                (Edit(extent.place, bytes(16)),),
            )
        )  # fmt: skip

    # ------------------------------------------------------------ bits and data

    def _check_inside(self, arena: ArenaPlaces, extent: Extent) -> Extent | None:
        """Check bits against block starts, and data against the end of the file."""
        if not extent.has_bits:
            self._check_gap(arena, extent.unit, extent.stop)
            return self._without_cut(arena, extent)
        sound = extent.sound_bits
        if sound != extent.bits:
            self._report_bits(arena, extent.unit, extent.nunits, extent.bits ^ sound, sound)
        return self._without_cut(arena, replace(extent, bits=sound))

    def _report_bits(
        self, arena: ArenaPlaces, unit: int, nunits: int, wrong: int, right: int
    ) -> None:
        image = right.to_bytes(nunits * BIT_BYTES, "little")
        lowest = (wrong & -wrong).bit_length() - 1
        offset = heap_offset(arena.index, unit * UNIT + lowest * GRANULE)
        self._findings.add(
            Finding(
                FindingKind.BITS, f"allocation bits of unit {unit} in arena {arena.index}",
                arena.place(Part.BITS, unit), "bits only where blocks of a run begin",
                f"{wrong.bit_count()} elsewhere, the first for {offset:#x}",
                "no block begins there, and none is affected; a block nearby may have lost its bit",
                "the bits are cleared", "", scattered(arena, Part.BITS, unit, image),
            )
        )  # fmt: skip

    def _check_gap(self, arena: ArenaPlaces, start: int, stop: int) -> None:
        """Check that no bits are set in units without a run."""
        if start >= stop:
            return
        for place, length in arena.ranges(Part.BITS, start * BIT_BYTES, stop * BIT_BYTES):
            unit_of_range = unit_at(arena, place)
            for offset, piece in data_pieces(self._image, place, place + length):
                for at in nonzero_at(piece, BIT_BYTES, offset - place):
                    word = piece[max(at, 0) : at + BIT_BYTES]
                    unit = unit_of_range + (offset + at - place) // BIT_BYTES
                    self._report_bits(arena, unit, 1, int.from_bytes(word, "little"), 0)

    def _without_cut(self, arena: ArenaPlaces, extent: Extent) -> Extent | None:
        """Leave out blocks whose bytes the file does not have."""
        if not self._is_cut(arena, extent):
            return extent
        if not extent.has_bits:
            self._report_cut(extent, extent, (Edit(extent.place, bytes(16)),))
            return None
        lost = [block for block in extent.blocks() if self._is_cut_block(arena, block)]
        if not lost:
            return extent
        kept, cut = extent.without(lost), extent.without(set(extent.blocks()) - set(lost))
        image = kept.bits.to_bytes(extent.nunits * BIT_BYTES, "little")
        self._report_cut(extent, cut, scattered(arena, Part.BITS, extent.unit, image))
        return kept

    def _is_cut_block(self, arena: ArenaPlaces, block: Block) -> bool:
        byte = arena_of(block.offset)[1]
        return any(
            place + length > self._file_size
            for place, length in arena.ranges(Part.DATA, byte, byte + block.nbytes)
        )

    def _is_cut(self, arena: ArenaPlaces, extent: Extent) -> bool:
        length = extent.nunits * UNIT if extent.has_bits else extent.nbytes
        start = extent.unit * UNIT
        return any(
            place + size > self._file_size
            for place, size in arena.ranges(Part.DATA, start, start + length)
        )

    def _report_cut(self, extent: Extent, cut: Extent, edits: tuple[Edit, ...]) -> None:
        self._findings.add(
            Finding(
                FindingKind.CUT_BLOCK, f"data of unit {extent.unit} in arena {extent.arena}",
                extent.place, "data inside of the file", f"a file of {self._file_size} bytes",
                f"{cut.describe()}: bytes are lost with the end of the file",
                "the blocks are freed", cut.describe(), edits,
            )
        )  # fmt: skip
