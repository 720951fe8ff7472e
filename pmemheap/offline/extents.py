"""Extents: runs, chunks and large blocks as their entries say, one at a time.

entry    | kind | class | flags | nunits | nbytes |     16 bytes, at the first unit of an extent
bits     32 bytes a unit, one bit a granule: set where a live block of a run begins; in a chunk
         as chunks.py says
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from pmemheap.format import layout
from pmemheap.native.constants import CHUNK_RING, ROW_MOST, Kind
from pmemheap.offline.chunks import CHUNK_UNITS_MOST, live_pieces, sound_bits
from pmemheap.offline.findings import Edit
from pmemheap.offline.image import Image, data_pieces
from pmemheap.offline.places import ArenaPlaces, Part, Places, arena_of, heap_offset
from pmemheap.space.size_classes import CLASSES, SizeClass
from pmemheap.units import GRANULE, UNIT, align_up

__all__ = [
    "BIT_BYTES",
    "HALF_ENTRY",
    "Block",
    "Extent",
    "TableReader",
    "block_at",
    "entries_of",
    "entry_fields",
    "mended",
    "nonzero_at",
    "pack_entry",
    "problem_of",
    "scattered",
    "unit_at",
]

_ENTRY = struct.Struct("<BBHIQ")
_NONZERO = re.compile(rb"[^\0]")
_GRANULES = UNIT // GRANULE
BIT_BYTES = layout.BITS_WIDTH
_NAMED = 4
HALF_ENTRY = "a length without a kind"


def _starts(size_class: SizeClass) -> int:
    step = size_class.size // GRANULE
    return sum(1 << index * step for index in range(size_class.run_blocks))


_STARTS = [_starts(each) for each in CLASSES]
_ROW_UNITS_MOST = ROW_MOST // GRANULE - 1
"""The longest run of rows: of an odd number of granules."""


@lru_cache(maxsize=4)
def _row_starts(size: int) -> int:
    step = size // GRANULE
    return sum(1 << index * step for index in range(_GRANULES // math.gcd(step, _GRANULES)))


@dataclass(frozen=True)
class Block:
    """A live block: its heap offset, and the bytes that belong to it."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class Extent:
    """A run, a chunk or a large block, as its entry says.

    Attributes
    ----------
    unit, nunits : int
        Where it lies.
    place : int
        File offset of its entry.
    nbytes : int
        Bytes asked for, of a large block; bytes of a row, of a run of rows.
    bits : int
        Granules at which live blocks begin, of a run; all bits of a chunk; 0 in a large block.
    """

    arena: int
    unit: int
    kind: int
    class_index: int
    nunits: int
    nbytes: int
    place: int
    bits: int = 0

    @property
    def stop(self) -> int:
        """Unit behind it."""
        return self.unit + self.nunits

    @property
    def is_run(self) -> bool:
        """Whether it holds many blocks of one size: of a class, or rows."""
        return self.kind in {Kind.RUN, Kind.ROWS}

    @property
    def is_chunk(self) -> bool:
        """Whether it holds many blocks of any size."""
        return self.kind == Kind.PACKED

    @property
    def has_bits(self) -> bool:
        """Whether bits say which blocks it holds."""
        return self.is_run or self.is_chunk

    @property
    def sound_bits(self) -> int:
        """Its bits, without those that can not be there."""
        return sound_bits(self.bits) if self.is_chunk else self.bits & self.starts

    @property
    def block_bytes(self) -> int:
        """Bytes of each block of a run."""
        return self.nbytes if self.kind == Kind.ROWS else CLASSES[self.class_index].size

    @property
    def starts(self) -> int:
        """Granules at which blocks of a run may begin."""
        return _row_starts(self.nbytes) if self.kind == Kind.ROWS else _STARTS[self.class_index]

    @property
    def offset(self) -> int:
        """Heap offset of its first byte."""
        return heap_offset(self.arena, self.unit * UNIT)

    @property
    def block_count(self) -> int:
        """Live blocks in it."""
        if self.is_chunk:
            return sum(1 for _ in live_pieces(self.bits))
        return self.bits.bit_count() if self.is_run else 1

    def blocks(self) -> Iterator[Block]:
        """Yield its live blocks, by offset."""
        if self.is_chunk:
            for first, granules in live_pieces(self.bits):
                yield Block(self.offset + first * GRANULE, granules * GRANULE)
            return
        if not self.is_run:
            yield Block(self.offset, self.nbytes)
            return
        size, bits = self.block_bytes, self.bits
        while bits:
            lowest = bits & -bits
            yield Block(self.offset + (lowest.bit_length() - 1) * GRANULE, size)
            bits ^= lowest

    @property
    def live_bytes(self) -> int:
        """Bytes of its live blocks."""
        if self.is_run:
            return self.block_count * self.block_bytes
        return sum(block.nbytes for block in self.blocks())

    @property
    def is_empty(self) -> bool:
        """Whether it is free space: no block of it lives."""
        return self.has_bits and not self.block_count

    def without(self, gone: Collection[Block]) -> Extent:
        """Return it without some of its blocks: their bits are clear, or their flags set."""
        bits = 0
        for block in gone:
            bits |= 1 << (block.offset - self.offset) // GRANULE
        return replace(self, bits=self.bits | bits << 1 if self.is_chunk else self.bits & ~bits)

    def describe(self) -> str:
        """Say which blocks these are."""
        if not self.has_bits:
            return f"block at {self.offset:#x} of {self.nbytes} bytes"
        names = [
            f"{block.offset:#x}" for block, _ in zip(self.blocks(), range(_NAMED), strict=False)
        ]
        more = ", ..." if self.block_count > _NAMED else ""
        word = "block" if self.block_count == 1 else "blocks"
        if self.is_chunk:
            listed = f"{self.block_count} {word} at {', '.join(names)}{more}"
            return listed if names else f"chunk at {self.offset:#x}, empty"
        size = self.block_bytes
        if not names:
            return f"run at {self.offset:#x} for blocks of {size} bytes, empty"
        return f"{self.block_count} {word} of {size} bytes at {', '.join(names)}{more}"


def entry_fields(entry: bytes) -> tuple[int, int, int, int, int]:
    """Return kind, class, flags, nunits and nbytes of an entry."""
    kind, class_index, flags, nunits, nbytes = _ENTRY.unpack(entry)
    return kind, class_index, flags, nunits, nbytes


def pack_entry(extent: Extent) -> bytes:
    """Return the 16 bytes of an extent's entry."""
    nbytes = 0 if extent.kind == Kind.RUN else extent.nbytes
    flags = CHUNK_RING if extent.is_chunk else 0
    return _ENTRY.pack(extent.kind, extent.class_index, flags, extent.nunits, nbytes)


def problem_of(extent: Extent, arena: ArenaPlaces, flags: int) -> tuple[str, str] | None:
    """Return what was expected of an entry and what was found, or None."""
    if extent.kind == extent.class_index == flags == extent.nunits == 0:
        return "all zeros", HALF_ENTRY
    problem = _problem_of_kind(extent, arena)
    if problem is not None:
        return problem
    room = arena.end_unit - extent.unit
    if not 0 < extent.nunits <= room:
        return f"1 to {room} units", str(extent.nunits)
    if extent.nbytes > extent.nunits * UNIT:
        return f"at most {extent.nunits * UNIT} bytes", str(extent.nbytes)
    if extent.is_chunk:
        return None if flags == CHUNK_RING else (f"flags {CHUNK_RING:#x}", f"{flags:#x}")
    return None if flags == 0 else ("no flags", f"{flags:#x}")


def _problem_of_kind(extent: Extent, arena: ArenaPlaces) -> tuple[str, str] | None:
    if arena.row_bytes:
        return _problem_of_rows(extent, arena.row_bytes)
    if arena.is_ring:
        return _problem_in_ring(extent)
    if extent.kind == Kind.RUN:
        return _problem_of_run(extent)
    if extent.kind != Kind.LARGE:
        return "kind 1 or 2, or all zeros", f"kind {extent.kind}"
    return ("no class in a large block", str(extent.class_index)) if extent.class_index else None


def _problem_of_run(extent: Extent) -> tuple[str, str] | None:
    if extent.class_index >= len(CLASSES):
        return f"a size class below {len(CLASSES)}", str(extent.class_index)
    expected = CLASSES[extent.class_index].run_units
    if extent.nunits != expected:
        return f"{expected} units for class {extent.class_index}", str(extent.nunits)
    return ("no bytes in a run", str(extent.nbytes)) if extent.nbytes else None


def _problem_in_ring(extent: Extent) -> tuple[str, str] | None:
    if extent.kind not in {Kind.LARGE, Kind.PACKED}:
        return "kind 1 or 3 in a ring, or all zeros", f"kind {extent.kind}"
    if extent.class_index:
        return "no class in a ring", str(extent.class_index)
    if extent.kind == Kind.LARGE:
        return None
    if extent.nunits > CHUNK_UNITS_MOST:
        return f"at most {CHUNK_UNITS_MOST} units for a chunk", str(extent.nunits)
    return ("no bytes in a chunk", str(extent.nbytes)) if extent.nbytes else None


def _problem_of_rows(extent: Extent, row_bytes: int) -> tuple[str, str] | None:
    if extent.kind != Kind.ROWS:
        return "kind 4 in an arena of rows, or all zeros", f"kind {extent.kind}"
    expected = layout.row_units(row_bytes)
    if extent.class_index or extent.unit % expected:
        found = f"class {extent.class_index} at unit {extent.unit}"
        return f"no class, at a multiple of {expected} units", found
    if extent.nbytes != row_bytes:
        return f"rows of {row_bytes} bytes", str(extent.nbytes)
    if extent.nunits != layout.row_units(row_bytes):
        return f"{layout.row_units(row_bytes)} units for rows of {row_bytes} bytes", str(
            extent.nunits
        )
    return None


def mended(extent: Extent, arena: ArenaPlaces, reader: TableReader) -> Extent | None:
    """Return what an entry was, if the arena, the rest of it and what is around it tell."""
    room = arena.end_unit - extent.unit
    if arena.row_bytes:
        candidates = _row_candidates(extent, arena.row_bytes, room)
    elif arena.is_ring:
        candidates = _ring_candidates(extent, room, reader)
    elif extent.kind == Kind.LARGE:
        candidates = _large_candidates(extent, room)
    elif extent.kind == Kind.RUN:
        candidates = _run_candidates(extent, room)
    else:
        return None
    fitting = [
        candidate
        for candidate in candidates
        if not reader.has_entries(candidate.unit + 1, candidate.stop)
        and _bits_fit(candidate, reader)
    ]
    return fitting[0] if fitting else None


def _large_candidates(extent: Extent, room: int) -> list[Extent]:
    units = align_up(extent.nbytes, UNIT) // UNIT
    found = []
    if 0 < extent.nunits <= room:
        nbytes = min(extent.nbytes, extent.nunits * UNIT)
        found.append(replace(extent, class_index=0, nbytes=nbytes))
    if 0 < units <= room:
        found.append(replace(extent, class_index=0, nunits=units))
    return found


def _run_candidates(extent: Extent, room: int) -> list[Extent]:
    if extent.class_index < len(CLASSES):
        units = CLASSES[extent.class_index].run_units
        return [replace(extent, nunits=units, nbytes=0)] if units <= room else []
    return []


def _row_candidates(extent: Extent, row_bytes: int, room: int) -> list[Extent]:
    """Return the run of rows that an entry must have been, where one may begin."""
    units = layout.row_units(row_bytes)
    if extent.kind == Kind.FREE or extent.unit % units or units > room:
        return []
    run = replace(extent, kind=Kind.ROWS, class_index=0, nunits=units, nbytes=row_bytes)
    return [run]


def _ring_candidates(extent: Extent, room: int, reader: TableReader) -> list[Extent]:
    """Return what an entry of a ring must have been: a chunk, if bits say so."""
    most = min(room, CHUNK_UNITS_MOST)
    if extent.kind == Kind.FREE:
        return []
    if not reader.has_bits(extent.unit, 1):
        return _large_candidates(replace(extent, kind=Kind.LARGE), room)
    chunk = replace(extent, kind=Kind.PACKED, class_index=0, nbytes=0)
    end = next(
        (n for n in range(1, most) if reader.has_entries(extent.unit + n, extent.unit + n + 1)),
        most,
    )
    used = -(-reader.bits(extent.unit, end).bit_length() // (UNIT // GRANULE))
    is_possible = used <= extent.nunits <= end
    return [chunk if is_possible else replace(chunk, nunits=used)]


def _bits_fit(extent: Extent, reader: TableReader) -> bool:
    if not extent.has_bits:
        return not reader.has_bits(extent.unit, extent.nunits)
    bits = reader.bits(extent.unit, extent.nunits)
    return replace(extent, bits=bits).sound_bits == bits


# ---------------------------------------------------------------- reading


def nonzero_at(piece: bytes, width: int, phase: int) -> Iterator[int]:
    """Yield where the elements that are not all zeros begin; `phase` bytes lie before the piece."""
    found = _NONZERO.search(piece)
    while found is not None:
        at = found.start() - (found.start() + phase) % width
        yield at
        found = _NONZERO.search(piece, at + width)


def entries_of(image: Image, arena: ArenaPlaces) -> Iterator[tuple[int, int, bytes]]:
    """Yield unit, file offset and bytes of the entries that are not zero."""
    width = layout.ENTRY_WIDTH
    first, end = arena.first_unit * width, arena.end_unit * width
    for place, length in arena.ranges(Part.ENTRIES, first, end):
        unit = unit_at(arena, place)
        for offset, piece in data_pieces(image, place, place + length):
            whole = piece.ljust(align_up(len(piece), width), b"\0")
            for at in nonzero_at(whole, width, offset - place):
                yield unit + (offset + at - place) // width, offset + at, whole[at : at + width]


def unit_at(arena: ArenaPlaces, place: int) -> int:
    """Return the unit whose entry or bits lie at a file offset."""
    for slot in arena.segments:
        if slot.entries_off <= place < slot.bits_off:
            return slot.first_unit + (place - slot.entries_off) // layout.ENTRY_WIDTH
        if slot.bits_off <= place < slot.data_off:
            return slot.first_unit + (place - slot.bits_off) // BIT_BYTES
    raise AssertionError(f"a segment with tables at {place:#x}")


def scattered(arena: ArenaPlaces, part: Part, unit: int, image: bytes) -> tuple[Edit, ...]:
    """Return the edits that store the parts of units from `unit` on."""
    start, at, edits = unit * int(part.value), 0, []
    for place, length in arena.spans(part, start, start + len(image)):
        if place is not None:
            edits.append(Edit(place, image[at : at + length]))
        at += length
    return tuple(edits)


class TableReader:
    """Entries and bits of an arena by unit, a window of them at a time."""

    _WINDOW = 2048

    def __init__(self, image: Image, arena: ArenaPlaces) -> None:
        self._image = image
        self._arena = arena
        self._first = 0
        self._bits = b""

    def bits(self, unit: int, nunits: int) -> int:
        """Return the bits of units as one number, lowest granule first."""
        at = (unit - self._first) * BIT_BYTES
        if at < 0 or at + nunits * BIT_BYTES > len(self._bits):
            self._first, at = unit, 0
            stop = unit + max(nunits, self._WINDOW)
            self._bits, _ = self._arena.read(
                self._image, Part.BITS, unit * BIT_BYTES, stop * BIT_BYTES
            )
        return int.from_bytes(self._bits[at : at + nunits * BIT_BYTES], "little")

    def has_bits(self, unit: int, nunits: int) -> bool:
        """Tell whether a bit is set in units."""
        ranges = self._arena.ranges(Part.BITS, unit * BIT_BYTES, (unit + nunits) * BIT_BYTES)
        return any(
            True
            for place, length in ranges
            for _ in data_pieces(self._image, place, place + length)
        )

    def has_entries(self, start: int, stop: int) -> bool:
        """Tell whether an extent begins in ``[start, stop)``."""
        width = layout.ENTRY_WIDTH
        return any(
            True
            for place, length in self._arena.ranges(Part.ENTRIES, start * width, stop * width)
            for _ in data_pieces(self._image, place, place + length)
        )


def block_at(image: Image, places: Places, offset: int) -> Block | None:
    """Return the live block that begins at a heap offset, without a walk."""
    index, byte = arena_of(offset)
    arena = places.arena(index)
    if arena is None or byte % GRANULE or arena.segment_of(byte // UNIT) is None:
        return None
    unit = byte // UNIT
    reader = TableReader(image, arena)
    for head in range(unit, max(unit - _ROW_UNITS_MOST, arena.first_unit - 1), -1):
        place = arena.place(Part.ENTRIES, head)
        if place is None:
            return None
        entry = image.read(place, layout.ENTRY_WIDTH)
        if len(entry) < layout.ENTRY_WIDTH or not any(entry):
            continue
        kind, class_index, flags, nunits, nbytes = _ENTRY.unpack(entry)
        extent = Extent(index, head, kind, class_index, nunits, nbytes, place)
        if problem_of(extent, arena, flags) is not None or unit >= extent.stop:
            return None
        return _block_in(extent, byte, reader)
    return None


def _block_in(extent: Extent, byte: int, reader: TableReader) -> Block | None:
    inside = byte - extent.unit * UNIT
    offset = heap_offset(extent.arena, byte)
    if not extent.has_bits:
        return Block(offset, extent.nbytes) if inside == 0 else None
    whole = replace(extent, bits=reader.bits(extent.unit, extent.nunits))
    whole = replace(whole, bits=whole.sound_bits)
    return next((block for block in whole.blocks() if block.offset == offset), None)
