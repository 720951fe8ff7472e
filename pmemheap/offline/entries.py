"""Entries: whether one can be what it says, and what it was if it cannot.

Arena, class, flags, length, bits and neighbours tell each other.
"""

from __future__ import annotations

from dataclasses import replace

from pmemheap.format import layout
from pmemheap.native.constants import CHUNK_FIRST, CHUNK_RING, CHUNK_UNITS_MOST, ROW_MOST, Kind
from pmemheap.offline.extents import Block, Extent, TableReader, extent_of, with_bits
from pmemheap.offline.image import Image
from pmemheap.offline.places import ArenaPlaces, Part, Places, arena_of, heap_offset
from pmemheap.space.size_classes import CLASSES
from pmemheap.units import GRANULE, UNIT, align_up

__all__ = ["HALF_ENTRY", "block_at", "mended", "problem_of"]

HALF_ENTRY = "a length without a kind"
_GRANULES = UNIT // GRANULE
_ROW_UNITS_MOST = ROW_MOST // GRANULE - 1
"""The longest run of rows: of an odd number of granules."""


def problem_of(extent: Extent, arena: ArenaPlaces) -> tuple[str, str] | None:
    """Return what was expected of an entry and what was found, or None."""
    flags = extent.flags
    if extent.kind == extent.class_index == flags == extent.nunits == 0:
        return "all zeros", HALF_ENTRY
    problem = _problem_of_kind(extent, arena)
    if problem is not None:
        return problem
    room = arena.end_unit - extent.unit
    if not 0 < extent.nunits <= room:
        return f"1 to {room} units", str(extent.nunits)
    if extent.is_chunk:
        return None
    if extent.nbytes > extent.nunits * UNIT:
        return f"at most {extent.nunits * UNIT} bytes", str(extent.nbytes)
    return None if flags == 0 else ("no flags", f"{flags:#x}")


def _problem_of_kind(extent: Extent, arena: ArenaPlaces) -> tuple[str, str] | None:
    if arena.row_bytes:
        return _problem_of_rows(extent, arena.row_bytes)
    if arena.is_ring:
        return _problem_in_ring(extent)
    if extent.kind == Kind.RUN:
        return _problem_of_run(extent)
    if extent.is_chunk:
        return _problem_of_chunk(extent, is_ring=False)
    if extent.kind != Kind.LARGE:
        return "kind 1, 2 or 3, or all zeros", f"kind {extent.kind}"
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
    if extent.is_chunk:
        return _problem_of_chunk(extent, is_ring=True)
    return ("no class in a ring", str(extent.class_index)) if extent.class_index else None


def _problem_of_chunk(extent: Extent, *, is_ring: bool) -> tuple[str, str] | None:
    if extent.class_index:
        return "no class in a chunk", str(extent.class_index)
    if extent.nunits > CHUNK_UNITS_MOST:
        return f"at most {CHUNK_UNITS_MOST} units for a chunk", str(extent.nunits)
    right = _as_chunk(extent, is_ring=is_ring)
    if extent.flags != right.flags:
        return f"flags {right.flags:#x} in a chunk", f"{extent.flags:#x}"
    if extent.nbytes != right.nbytes:
        return f"unit {right.nbytes} as its first chunk", str(extent.nbytes)
    return None


def _as_chunk(extent: Extent, *, is_ring: bool) -> Extent:
    """Return the chunk that an extent is, if it is one: flags and first chunk tell each other."""
    chunk = replace(extent, kind=Kind.PACKED, class_index=0)
    if is_ring:
        return replace(chunk, flags=CHUNK_RING, nbytes=0)
    if extent.flags & CHUNK_FIRST or extent.nbytes == extent.unit:
        return replace(chunk, flags=CHUNK_FIRST, nbytes=extent.unit)
    return replace(chunk, flags=0)


def _problem_of_rows(extent: Extent, row_bytes: int) -> tuple[str, str] | None:
    if extent.kind != Kind.ROWS:
        return "kind 4 in an arena of rows, or all zeros", f"kind {extent.kind}"
    expected = layout.row_units(row_bytes)
    if extent.class_index or extent.unit % expected:
        found = f"class {extent.class_index} at unit {extent.unit}"
        return f"no class, at a multiple of {expected} units", found
    if extent.nbytes != row_bytes:
        return f"rows of {row_bytes} bytes", str(extent.nbytes)
    if extent.nunits != expected:
        return f"{expected} units for rows of {row_bytes} bytes", str(extent.nunits)
    return None


def mended(extent: Extent, arena: ArenaPlaces, reader: TableReader) -> Extent | None:
    """Return what an entry was, if the arena, the rest of it and what is around it tell."""
    room = arena.end_unit - extent.unit
    if arena.row_bytes:
        candidates = _row_candidates(extent, arena.row_bytes, room)
    elif arena.is_ring or extent.is_chunk:
        candidates = _chunk_candidates(extent, room, reader, is_ring=arena.is_ring)
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


def _chunk_candidates(
    extent: Extent, room: int, reader: TableReader, *, is_ring: bool
) -> list[Extent]:
    """Return what an entry of a ring, or of a chunk, must have been: a chunk, if bits say so."""
    most = min(room, CHUNK_UNITS_MOST)
    if extent.kind == Kind.FREE:
        return []
    if not reader.has_bits(extent.unit, 1):
        return _large_candidates(replace(extent, kind=Kind.LARGE), room) if is_ring else []
    chunk = _as_chunk(extent, is_ring=is_ring)
    units = range(extent.unit + 1, extent.unit + most)
    end = next((unit for unit in units if reader.has_entries(unit, unit + 1)), units.stop)
    used = reader.bits(extent.unit, end - extent.unit).bit_length()
    least = -(-used // _GRANULES)
    is_possible = least <= extent.nunits <= end - extent.unit
    return [chunk if is_possible else replace(chunk, nunits=least)]


def _bits_fit(extent: Extent, reader: TableReader) -> bool:
    if not extent.has_bits:
        return not reader.has_bits(extent.unit, extent.nunits)
    bits = reader.bits(extent.unit, extent.nunits)
    return replace(extent, bits=bits).sound_bits == bits


# ---------------------------------------------------------------- one block


def block_at(image: Image, places: Places, offset: int) -> Block | None:
    """Return the live block that begins at a heap offset, without a walk."""
    index, byte = arena_of(offset)
    arena = places.arena(index)
    if arena is None or byte % GRANULE or arena.segment_of(byte // UNIT) is None:
        return None
    unit = byte // UNIT
    for head in range(unit, max(unit - _ROW_UNITS_MOST, arena.first_unit - 1), -1):
        place = arena.place(Part.ENTRIES, head)
        if place is None:
            return None
        entry = image.read(place, layout.ENTRY_WIDTH)
        if len(entry) < layout.ENTRY_WIDTH or not any(entry):
            continue
        extent = extent_of(entry, index, head, place)
        if problem_of(extent, arena) is not None or unit >= extent.stop:
            return None
        return _block_in(extent, byte, arena, image)
    return None


def _block_in(extent: Extent, byte: int, arena: ArenaPlaces, image: Image) -> Block | None:
    inside = byte - extent.unit * UNIT
    offset = heap_offset(extent.arena, byte)
    if not extent.has_bits:
        return Block(offset, extent.nbytes) if inside == 0 else None
    whole = with_bits(extent, arena, image, TableReader(image, arena))
    whole = replace(whole, bits=whole.sound_bits)
    return next((block for block in whole.blocks() if block.offset == offset), None)
