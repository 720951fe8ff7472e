"""Places: where the units of each arena lie in the file.

    arena 0, units   first_unit |  segment 1  |  segment 4  |  segment 2  | end_unit
    file             header | log | segment 1 | segment 2 | spare | segment 4 |

Offsets of a heap carry their arena in the bits from `ARENA_BITS` on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from pmemheap.format import layout
from pmemheap.format.layout import ArenaSlot, SegmentKind, SegmentSlot
from pmemheap.native.constants import StrategyCode
from pmemheap.offline.image import Image

__all__ = ["ArenaPlaces", "Part", "Places", "arena_of", "heap_offset"]

_OFFSET_MASK = (1 << layout.ARENA_BITS) - 1


class Part(Enum):
    """One of the three parts of a segment, with the bytes that a unit takes in it."""

    ENTRIES = layout.ENTRY_WIDTH
    BITS = layout.BITS_WIDTH
    DATA = layout.DATA_WIDTH


def arena_of(offset: int) -> tuple[int, int]:
    """Return the arena of a heap offset, and the byte inside of it."""
    return offset >> layout.ARENA_BITS, offset & _OFFSET_MASK


def heap_offset(arena: int, byte: int) -> int:
    """Return the heap offset of a byte of an arena."""
    return arena << layout.ARENA_BITS | byte


def _start_of(slot: SegmentSlot, part: Part) -> int:
    if part is Part.ENTRIES:
        return slot.entries_off
    return slot.bits_off if part is Part.BITS else slot.data_off


@dataclass(frozen=True)
class ArenaPlaces:
    """The live units of an arena, and the segments that hold them, by unit; its strategy."""

    index: int
    first_unit: int
    end_unit: int
    segments: tuple[SegmentSlot, ...]
    row_bytes: int = 0
    is_ring: bool = False

    def segment_of(self, unit: int) -> SegmentSlot | None:
        """Return the segment that holds a live unit."""
        if not self.first_unit <= unit < self.end_unit:
            return None
        at = bisect_right(self.segments, unit, key=lambda slot: slot.first_unit) - 1
        if at < 0 or unit >= self.segments[at].first_unit + self.segments[at].nunits:
            return None
        return self.segments[at]

    def spans(self, part: Part, start: int, stop: int) -> Iterator[tuple[int | None, int]]:
        """Yield ``(file offset, length)`` for bytes ``[start, stop)`` of a table or the data.

        `start` and `stop` count from unit 0. The offset is None for what lies in no segment.
        """
        width: int = part.value
        reached = start
        for slot in self.segments:
            first = max(reached, slot.first_unit * width, self.first_unit * width)
            last = min(stop, (slot.first_unit + slot.nunits) * width, self.end_unit * width)
            if first >= last:
                continue
            if first > reached:
                yield None, first - reached
            yield _start_of(slot, part) + first - slot.first_unit * width, last - first
            reached = last
        if reached < stop:
            yield None, stop - reached

    def ranges(self, part: Part, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the same without what lies in no segment."""
        for place, length in self.spans(part, start, stop):
            if place is not None:
                yield place, length

    def read(self, image: Image, part: Part, start: int, stop: int) -> tuple[bytes, int]:
        """Return bytes of a table or the data, and how many of them the file has.

        The others are zeros.
        """
        pieces, have = [], 0
        for place, length in self.spans(part, start, stop):
            piece = b"" if place is None else image.read(place, length)
            have += len(piece)
            pieces.append(piece.ljust(length, b"\0"))
        return b"".join(pieces), have

    def place(self, part: Part, unit: int) -> int | None:
        """Return the file offset of a unit's part."""
        slot = self.segment_of(unit)
        if slot is None:
            return None
        return _start_of(slot, part) + (unit - slot.first_unit) * int(part.value)


def _disjoint(segments: list[SegmentSlot]) -> Iterator[SegmentSlot]:
    """Yield segments by unit, without those that claim units of one before."""
    reached = 0
    for slot in sorted(segments, key=lambda each: (each.first_unit, each.file_off)):
        if slot.first_unit >= reached:
            yield slot
            reached = slot.first_unit + slot.nunits


class Places:
    """The arenas of a heap."""

    def __init__(
        self, segments: Mapping[int, SegmentSlot], arenas: Mapping[int, ArenaSlot]
    ) -> None:
        self.arenas: dict[int, ArenaPlaces] = {}
        for index, arena in arenas.items():
            inside = [
                slot
                for slot in segments.values()
                if slot.kind == SegmentKind.DATA
                and slot.arena == index
                and slot.first_unit < arena.end_unit
                and slot.first_unit + slot.nunits > arena.first_unit
            ]
            self.arenas[index] = ArenaPlaces(
                index, arena.first_unit, arena.end_unit, tuple(_disjoint(inside)), arena.row_bytes,
                arena.strategy[0] == StrategyCode.RING,
            )  # fmt: skip

    def arena(self, index: int) -> ArenaPlaces | None:
        """Return an arena by its number."""
        return self.arenas.get(index)

    def data(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield ``(file offset, length)`` of the live bytes of a range of heap offsets."""
        index, byte = arena_of(offset)
        arena = self.arenas.get(index)
        if arena is not None:
            yield from arena.ranges(Part.DATA, byte, byte + length)
