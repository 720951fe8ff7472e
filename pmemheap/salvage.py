"""Salvage: every block of a wrecked heap file that can still be read, copied into a new heap.

    wreck   superblocks?  log?  tables?   | run | large |???| run |       offsets of old
                                             |      |          |
    OUT     root "salvage:map" -> count, 0, (old, new) pairs by old       new offsets

Blocks get new offsets: the old ones may lie in units that cannot be had. Roots are put right;
offsets that the program keeps inside of blocks are its own affair, and the map is there for them.
Without a segment table the segments are looked for behind the header, where entries and bits agree.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pmemheap import layout
from pmemheap.errors import UsageError
from pmemheap.heap import Heap
from pmemheap.layout import (
    ArenaSlot,
    Durability,
    SegmentKind,
    SegmentSlot,
    Table,
    slot_offset,
)
from pmemheap.offline import (
    Disk,
    Examination,
    Extent,
    FindingKind,
    Places,
    UnitWalk,
    examine,
    open_image,
)
from pmemheap.offline.findings import Findings
from pmemheap.offline.image import Image
from pmemheap.offline.places import Part, arena_of
from pmemheap.slabs import CLASSES
from pmemheap.units import UNIT, align_up

__all__ = ["MAP_ROOT", "SalvageReport", "read_map", "salvage", "translate"]

MAP_ROOT = "salvage:map"
_PAIR_BYTES = 16
_COPIED_AT_ONCE = 1 << 20
_ROOTS_BESIDE_MAP = layout.ROOT_SLOTS - 1


@dataclass
class SalvageReport:
    """What came out of a wreck.

    Attributes
    ----------
    blocks, block_bytes : int
        Copied whole.
    cut_blocks : int
        Copied with zeros in the place of bytes that the file does not have.
    roots : int
        Put right.
    lost_roots : list of str
        They lead to no block that was copied.
    findings : int
        Damage in the wreck.
    map_root : str
        Name of the root in the new heap that leads to the map; empty without blocks.
    """

    blocks: int = 0
    block_bytes: int = 0
    cut_blocks: int = 0
    roots: int = 0
    lost_roots: list[str] = field(default_factory=list)
    findings: int = 0
    map_root: str = ""


def salvage(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    durability: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> SalvageReport:
    """Copy what can be read of a heap file into a new heap; the file stays as it is.

    Parameters
    ----------
    path : path
        The wreck.
    out : path
        Of the new heap; nothing may be there yet.
    durability : {"power", "process"}, optional
        Of the new heap; that of the old one if left out, as far as it is known.
    on_progress : callable, optional
        Is given the number of blocks copied so far, now and then.

    Raises
    ------
    UsageError
        The file cannot be read, or something is at `out`.
    OutOfSpaceError
        No room; what was made of `out` is removed.
    """
    with open_image(path) as disk:
        found = examine(disk)
        view, places = _places_of(found)
        if durability is None and found.superblock is not None:
            on_memory = found.superblock.durability == Durability.PROCESS
            durability = "process" if on_memory else None
        made = Heap.create(out, durability=durability, decay=None)
        try:
            with made as heap:
                report = _Copy(disk, found, view, places, heap, on_progress).run()
        except BaseException:
            Path(out).unlink(missing_ok=True)
            raise
    return report


# ---------------------------------------------------------------- where the blocks are


def _places_of(found: Examination) -> tuple[Image, Places]:
    """Return where the units lie: by the tables, or by what looks like tables of units."""
    segments = {
        index: slot for index, slot in found.slots.segments.items() if slot.kind == SegmentKind.DATA
    }
    if not segments or found.superblock is None:
        segments = dict(enumerate(_guessed(found.view, _known(found))))
    return found.view, Places(segments, _islands(segments.values()))


def _islands(segments: Iterable[SegmentSlot]) -> dict[int, ArenaSlot]:
    """Return arenas that reach from the first unit to the last: holes between are no matter."""
    arenas: dict[int, ArenaSlot] = {}
    for slot in segments:
        stop = slot.first_unit + slot.nunits
        old = arenas.get(slot.arena, ArenaSlot(slot.first_unit, stop))
        arenas[slot.arena] = replace(
            old, first_unit=min(old.first_unit, slot.first_unit), end_unit=max(old.end_unit, stop)
        )
    return arenas


def _known(found: Examination) -> list[SegmentSlot]:
    """Return the segments that the table or the log names; not what a gap was taken for."""
    derived = {each.place for each in found.findings if each.kind == FindingKind.SEGMENT}
    return [
        slot
        for index, slot in found.slots.segments.items()
        if slot.kind != SegmentKind.SPARE or slot_offset(Table.SEGMENTS, index) not in derived
    ]


def _guessed(image: Image, known: Iterable[SegmentSlot]) -> Iterator[SegmentSlot]:
    """Yield the data segments that are known, and between them what looks like some.

    Those lie behind a log of the usual size, each with the capacity that fits best, and their units
    follow each other in the order of the file: so it is in a heap that only ever grew.
    """
    slots = {slot.file_off: slot for slot in known}
    at, first_unit = layout.HEADER_BYTES, 0
    if at not in slots:
        at += layout.LOG_BYTES
    while at + UNIT <= image.size:
        slot = slots.get(at)
        if slot is None:
            stop = min((each for each in slots if each > at), default=image.size)
            capacity = _best_capacity(image, at, stop, first_unit)
            slot = SegmentSlot(SegmentKind.DATA, at, capacity, 0, first_unit, capacity)
        if slot.kind == SegmentKind.DATA:
            yield slot
            first_unit = slot.first_unit + slot.nunits if slot.arena == 0 else first_unit
        at = slot.file_stop


def _best_capacity(image: Image, at: int, stop: int, units_before: int) -> int:
    """Return the capacity under which entries and bits contradict each other least."""
    least = layout.SEGMENT_UNITS
    room = max((stop - at) // layout.UNIT_BYTES_IN_FILE // least * least, least)
    usual = max(least, -(-units_before // 8 // least) * least)
    tried = {least, min(usual, room), *range(least, min(room, 64 * least) + 1, least), room}
    scored = [(_score(image, at, capacity), -abs(capacity - usual), capacity) for capacity in tried]
    best: int = max(scored)[2]
    return best


def _score(image: Image, at: int, capacity: int) -> int:
    slot = SegmentSlot(SegmentKind.DATA, at, capacity, 0, 0, capacity)
    findings = Findings()
    walk = UnitWalk(image, Places({0: slot}, {0: ArenaSlot(0, capacity)}), findings, image.size)
    score = sum(1 + bool(extent.bits) for extent in walk.extents())
    return score - 2 * findings.damage


# ---------------------------------------------------------------- copying


class _Copy:
    """One copy of all blocks."""

    def __init__(  # noqa: PLR0913, PLR0917 -- from what, to what
        self, disk: Disk, found: Examination, view: Image, places: Places, heap: Heap,
        on_progress: Callable[[int], None] | None,
    ) -> None:  # fmt: skip
        self._disk = disk
        self._found = found
        self._view = view
        self._places = places
        self._heap = heap
        self._on_progress = on_progress
        self._pairs = array("Q")
        wrecked = [
            finding.loses
            for finding in found.findings
            if finding.kind == FindingKind.ROOT and finding.thing.startswith("root slot")
        ]
        self._report = SalvageReport(lost_roots=wrecked, findings=found.findings.damage)

    def run(self) -> SalvageReport:
        """Copy blocks, roots and the map."""
        # The size counts as endless here: a block that is cut is better than none.
        walk = UnitWalk(self._view, self._places, Findings(), 1 << 63)
        for extent in walk.extents():
            self._copy_extent(extent)
            if self._on_progress is not None:
                self._on_progress(self._report.blocks)
        self._copy_roots()
        if self._pairs:
            self._store_map()
        self._heap.sync()
        return self._report

    def _copy_extent(self, extent: Extent) -> None:
        if not extent.is_run:
            self._copy_large(extent)
            return
        blocks = list(extent.blocks())
        if not blocks:
            return
        size = CLASSES[extent.class_index].size
        start = arena_of(extent.offset)[1]
        data, have = self._read(extent.offset, extent.nunits * UNIT)
        for block, new in zip(blocks, self._heap.malloc_many(size, len(blocks)), strict=True):
            at = arena_of(block.offset)[1] - start
            self._heap.view(new, size)[:] = data[at : at + size]
            self._note(block.offset, new, size, is_cut=at + size > have)

    def _copy_large(self, extent: Extent) -> None:
        room = extent.nunits * UNIT  # all of it may be in use: `view` shows it
        is_tight = room == align_up(extent.nbytes, UNIT)
        new = self._heap.malloc(extent.nbytes if is_tight else room, align=UNIT)
        have = 0
        for at in range(0, room, _COPIED_AT_ONCE):
            length = min(_COPIED_AT_ONCE, room - at)
            data, got = self._read(extent.offset + at, length)
            have += got
            if data.count(0) != length:
                self._heap.view(new)[at : at + length] = data
        self._note(extent.offset, new, extent.nbytes, is_cut=have < extent.nbytes)

    def _read(self, offset: int, length: int) -> tuple[bytes, int]:
        """Return bytes, zeros for those the file lacks, and how many it has."""
        index, byte = arena_of(offset)
        arena = self._places.arenas[index]
        return arena.read(self._view, Part.DATA, byte, byte + length)

    def _note(self, old: int, new: int, size: int, *, is_cut: bool) -> None:
        self._pairs.extend((old, new))
        if is_cut:
            self._report.cut_blocks += 1
        else:
            self._report.blocks += 1
            self._report.block_bytes += size

    def _copy_roots(self) -> None:
        lost = self._report.lost_roots
        places = memoryview(self._pairs)
        for root in self._found.slots.roots.values():
            new = _find(places, root.off)
            if new is None or len(self._heap.roots) >= _ROOTS_BESIDE_MAP:
                lost.append(root.name)
            else:
                self._heap.roots[root.name] = new
                self._report.roots += 1
        places.release()

    def _store_map(self) -> None:
        name, number = MAP_ROOT, 2
        while name in self._heap.roots:
            name, number = f"{MAP_ROOT} {number}", number + 1
        data = array("Q", [len(self._pairs) // 2, 0]).tobytes() + self._pairs.tobytes()
        offset = self._heap.malloc(len(data))
        self._heap.view(offset, len(data))[:] = data
        self._heap.roots[name] = offset
        self._report.map_root = name


# ---------------------------------------------------------------- the map


def _find(pairs: memoryview, old: int) -> int | None:
    """Return the new offset beside an old one in sorted pairs."""
    index = bisect_left(range(len(pairs) // 2), old, key=lambda at: int(pairs[2 * at]))
    if index < len(pairs) // 2 and pairs[2 * index] == old:
        return int(pairs[2 * index + 1])
    return None


def read_map(heap: Heap, root: str = MAP_ROOT) -> dict[int, int]:
    """Return the whole map of a heap that was salvaged: old offset to new one.

    Raises
    ------
    UsageError
        The heap has no map.
    """
    pairs = _pairs(heap, root)
    found = {int(pairs[at]): int(pairs[at + 1]) for at in range(0, len(pairs), 2)}
    pairs.release()
    return found


def translate(heap: Heap, old: int, root: str = MAP_ROOT) -> int | None:
    """Return the new offset of a block, None if it was not saved. O(log blocks), no copy.

    Examples
    --------
    >>> with Heap.anonymous() as heap:
    ...     heap.roots[MAP_ROOT] = offset = heap.malloc(48)
    ...     heap.view(offset, 48)[:] = array("Q", [2, 0, 16, 4096, 64, 8192]).tobytes()
    ...     translate(heap, 64), translate(heap, 32)
    (8192, None)
    """
    pairs = _pairs(heap, root)
    found = _find(pairs, old)
    pairs.release()
    return found


def _pairs(heap: Heap, root: str) -> memoryview:
    if root not in heap.roots:
        raise UsageError(f"{heap.name}: a root {root!r} expected, none")
    view = heap.view(heap.roots[root])
    words = view[: len(view) // _PAIR_BYTES * _PAIR_BYTES].cast("Q")
    count = int(words[0])
    if not 0 <= count < len(words) // 2 or words[1]:
        raise UsageError(f"{heap.name}: a map at root {root!r} expected, something else found")
    return words[2 : 2 + 2 * count]
