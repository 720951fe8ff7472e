"""Salvage: every block of a wrecked heap file that can still be read, copied into a new heap.

    wreck   superblocks?  log?  tables?   | run | large |???| run |       offsets of old
                                             |      |          |
    OUT     root "salvage:map" -> count, 0, (old, new) pairs by old       new offsets

Blocks get new offsets: the old ones may lie in units that cannot be had. Roots are put right;
offsets that the program keeps inside of blocks are its own affair, and the map is there for them.
Without a segment table the segments are looked for behind the header, where entries and bits agree.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from pmemheap.errors import UsageError
from pmemheap.file.naming import new_file, place_of, require_place
from pmemheap.format import layout
from pmemheap.format.layout import ArenaSlot, Durability, SegmentKind, SegmentSlot
from pmemheap.heap.arguments import AnyPath, DurabilityName, path_argument
from pmemheap.heap.heap import Heap
from pmemheap.offline import (
    Examination,
    Extent,
    FindingKind,
    Overlay,
    Places,
    UnitWalk,
    examine,
    open_image,
)
from pmemheap.offline.extents import Block
from pmemheap.offline.findings import Findings
from pmemheap.offline.guessing import best_capacity
from pmemheap.offline.image import Image
from pmemheap.offline.places import Part, arena_of
from pmemheap.offline.replaying import replay
from pmemheap.offline.segments import unit_gaps
from pmemheap.offline.strategies import strategy_of
from pmemheap.progress import Progress, Steps, told
from pmemheap.refusals import refusals
from pmemheap.units import UNIT, align_up

__all__ = ["MAP_ROOT", "SalvageReport", "read_map", "salvage", "translate"]

MAP_ROOT = "salvage:map"
_PAIR_BYTES = 16
_COPIED_AT_ONCE = 1 << 20
_ROOTS_BESIDE_MAP = layout.ROOT_SLOTS - 1


@dataclass
class SalvageReport:
    """The result of a salvage.

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
    lost_writes : list of str
        What committed records of the log say of units that could not be found.
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
    lost_writes: list[str] = field(default_factory=list)
    findings: int = 0
    map_root: str = ""


def salvage(
    path: AnyPath,
    out: AnyPath,
    *,
    durability: DurabilityName | None = None,
    progress: Progress | None = None,
) -> SalvageReport:
    """Copy what can be read of a heap file into a new heap; the file stays as it is.

    The new heap gets its name when it is whole and durable: what is ended in the middle has none.

    Parameters
    ----------
    path : path
        The wreck.
    out : path
        Of the new heap; nothing may be there yet.
    durability : {"power", "process"}, optional
        Of the new heap; that of the old one if left out, as far as it is known.
    progress : Progress, optional
        Is told of the units twice: of those that were examined, and of those that were copied. If
        it raises, nothing is at `out`.

    Returns
    -------
    SalvageReport
        What was copied, and what is lost.

    Raises
    ------
    UsageError
        The file cannot be read, or something is at `out`.
    OutOfSpaceError
        No room; nothing is at `out`.
    """
    target = path_argument(out)
    name = str(target)
    with refusals(f"heap file {name!r}: creation", name):
        require_place("heap file", target, replace_file=False)
    with told(progress) as tell, open_image(path) as disk:
        found = examine(disk, progress=tell)
        places = _places_of(found)
        view = Overlay(found.image)
        lost = replay(view, found.log.pending, places, found.slots.sound_arenas)
        if durability is None and found.superblock is not None:
            on_memory = found.superblock.durability == Durability.PROCESS
            durability = "process" if on_memory else None
        with (
            refusals(f"heap file {name!r}: creation", name),
            new_file("heap file", place_of(target)) as temporary,
            Heap.create(temporary, durability=durability, decay=None) as heap,
        ):
            report = _Copy(found, view, places, heap, tell).run()
            report.lost_writes = [str(each) for each in lost]
    return report


# ---------------------------------------------------------------- where the blocks are


def _places_of(found: Examination) -> Places:
    """Return where the units lie: by the tables, or by what looks like tables of units."""
    slots = found.slots.segments.values() if found.is_mapped else _guessed(found)
    segments = dict(enumerate(slot for slot in slots if slot.kind == SegmentKind.DATA))
    arenas = {
        index: replace(arena, strategy=_strategy(found, index, segments.values()))
        for index, arena in _islands(segments.values()).items()
    }
    return Places(segments, arenas)


def _strategy(found: Examination, index: int, segments: Iterable[SegmentSlot]) -> bytes:
    """Return the strategy of an arena: what its slot says, or else its entries."""
    slot = found.slots.arenas.get(index)
    if slot is not None:
        return slot.strategy
    return strategy_of(found.view, [each for each in segments if each.arena == index])


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


def _guessed(found: Examination) -> Iterator[SegmentSlot]:
    """Yield the segments that are known, and between them what looks like some.

    Those lie behind a log of the usual size, each with the capacity that fits best, and their units
    follow each other in the order of the file: so it is in a heap that only ever grew.
    """
    known = {slot.file_off: slot for slot in found.slots.segments.values()}
    numbers = _Numbers(found)
    at = layout.HEADER_BYTES
    if at not in known:
        at += layout.LOG_BYTES
    while at + UNIT <= found.size:
        slot = known.get(at)
        if slot is None:
            stop = min((each for each in known if each > at), default=found.size)
            capacity = best_capacity(found.view, at, stop, numbers.usual)
            slot = numbers.given_to(SegmentSlot(SegmentKind.DATA, at, capacity, 0, 0, capacity))
        numbers.reached(slot)
        yield slot
        at = slot.file_stop


class _Numbers:
    """Units for segments of which no table says which they have.

    Those that are missing; else those that the log writes to; else the next ones.
    """

    def __init__(self, found: Examination) -> None:
        self._gaps = unit_gaps(found.slots)
        self._wanted = Counter(
            (each.arena, each.first_unit // layout.SEGMENT_UNITS * layout.SEGMENT_UNITS)
            for each in found.unplaced
        )
        self._taken = [
            (slot.arena, slot.first_unit, slot.first_unit + slot.nunits)
            for slot in found.slots.segments.values()
            if slot.kind == SegmentKind.DATA
        ]
        self._next = 0

    @property
    def usual(self) -> int:
        """Capacity of a segment by which a heap would grow that has what was seen so far."""
        return max(layout.SEGMENT_UNITS, align_up(self._next // 8, layout.SEGMENT_UNITS))

    def reached(self, slot: SegmentSlot) -> None:
        """Go on behind a segment that comes next in the file."""
        if slot.kind == SegmentKind.DATA and slot.arena == 0:
            self._next = slot.first_unit + slot.nunits

    def given_to(self, slot: SegmentSlot) -> SegmentSlot:
        """Return a segment with units of its own."""
        arena, first = (
            self._missing(slot.nunits) or self._written(slot.nunits) or self._behind(slot.nunits)
        )
        self._taken.append((arena, first, first + slot.nunits))
        return replace(slot, arena=arena, first_unit=first)

    def _missing(self, nunits: int) -> tuple[int, int] | None:
        for index, gap in enumerate(self._gaps):
            first = gap.start
            if gap.open_start:
                first = max(min(gap.start, gap.stop - nunits), 0)
            stop = first + nunits
            if stop <= gap.stop:
                left = [replace(gap, start=stop, open_start=False)] if stop < gap.stop else []
                self._gaps[index : index + 1] = left
                return gap.arena, first
        return None

    def _written(self, nunits: int) -> tuple[int, int] | None:
        free = [place for place in self._wanted if not self._collides(*place, nunits)]
        return max(free, key=lambda place: self._wanted[place], default=None)

    def _behind(self, nunits: int) -> tuple[int, int]:
        if self._collides(0, self._next, nunits):
            self._next = max(stop for arena, _, stop in self._taken if arena == 0)
        return 0, self._next

    def _collides(self, arena: int, first: int, nunits: int) -> bool:
        return any(
            arena == each and first < stop and start < first + nunits
            for each, start, stop in self._taken
        )


# ---------------------------------------------------------------- copying


class _Copy:
    """One copy of all blocks."""

    def __init__(
        self, found: Examination, view: Image, places: Places, heap: Heap,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self._found = found
        self._view = view
        self._places = places
        self._heap = heap
        # The size counts as endless here: a block that is cut is better than none.
        self._walk = UnitWalk(view, places, Findings(), 1 << 63)
        self._steps = Steps(progress, self._walk.units)
        self._pairs = array("Q")
        wrecked = [
            finding.loses
            for finding in found.findings
            if finding.kind == FindingKind.ROOT and finding.thing.startswith("root slot")
        ]
        self._report = SalvageReport(lost_roots=wrecked, findings=found.findings.damage)

    def run(self) -> SalvageReport:
        """Copy blocks, roots and the map."""
        for extent in self._walk.extents():
            self._copy_extent(extent)
            self._steps.reached(self._walk.passed_units)
        self._copy_roots()
        if self._pairs:
            self._store_map()
        self._heap.sync()
        self._steps.end()
        return self._report

    def _copy_extent(self, extent: Extent) -> None:
        if not extent.has_bits:
            self._copy_large(extent)
            return
        blocks = list(extent.blocks())
        if not blocks:
            return
        start = arena_of(extent.offset)[1]
        data, have = self._read(extent.offset, extent.nunits * UNIT)
        for block, new in zip(blocks, self._places_for(extent, blocks), strict=True):
            at, size = arena_of(block.offset)[1] - start, block.nbytes
            self._heap.view(new, size)[:] = data[at : at + size]
            self._note(block.offset, new, size, is_cut=at + size > have)

    def _places_for(self, extent: Extent, blocks: list[Block]) -> Iterable[int]:
        if extent.is_run:
            return self._heap.malloc_many(extent.block_bytes, len(blocks))
        return [self._heap.malloc(block.nbytes) for block in blocks]

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
            self._steps.reached(self._walk.passed_units - (room - at) // UNIT)
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
