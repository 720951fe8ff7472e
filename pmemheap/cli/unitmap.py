"""Unit map: what each unit of a heap is, and a drawing of it.

    0x000000 ▓▓▓▓▓▓▓██████████░░░▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
    0x540000 ▓▓▓▓▓░░░░░░░░░▓▓▓███████████·············

    arena 'queue', from 0x80000000000000
    0x000000 ███████████████████████████████░░░░░░░░░

Each mark stands for the same number of units and shows what most of them are; kinds differ in shape
as well as in colour. Rows begin with the offset of their first byte in its arena.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from rich.text import Text

from pmemheap.cli.show import printable
from pmemheap.format.layout import ARENA_BITS
from pmemheap.heap.arena import Arena
from pmemheap.heap.blockspace import BlockSpace
from pmemheap.heap.heap import Heap
from pmemheap.heap.space import Space, space_of
from pmemheap.heap.totals import spaces_of
from pmemheap.native.constants import UnitState
from pmemheap.units import UNIT, format_bytes

__all__ = [
    "Kind",
    "Piece",
    "UnitMap",
    "draw",
    "legend",
    "longest_free",
    "read_map",
    "read_maps",
    "units_per_mark",
]

_LEAST_WIDTH = 8


class Kind(Enum):
    """Kinds of units."""

    RUN = "runs of small blocks"
    PACKED = "chunks of rings and regions"
    LARGE = "large blocks"
    FREE = "free"
    UNUSED = "never used"


_FREE_KINDS = frozenset({Kind.FREE, Kind.UNUSED})
_MARKS = {
    Kind.RUN: ("▓", "cyan"),
    Kind.PACKED: ("▒", "magenta"),
    Kind.LARGE: ("█", "blue"),
    Kind.FREE: ("░", "green"),
    Kind.UNUSED: ("·", "bright_black"),
}


@dataclass(frozen=True)
class Piece:
    """Units of one kind, from `start` on."""

    start: int
    nunits: int
    kind: Kind


@dataclass(frozen=True)
class UnitMap:
    """All units of an arena: `pieces` lie end to end from `first_unit` up to `end_unit`."""

    first_unit: int
    end_unit: int
    pieces: tuple[Piece, ...]
    arena: int = 0
    name: str = ""

    @property
    def nunits(self) -> int:
        """How many units it has."""
        return self.end_unit - self.first_unit

    def units_of(self, kind: Kind) -> int:
        """Return how many units are of a kind."""
        return sum(piece.nunits for piece in self.pieces if piece.kind == kind)

    @property
    def free_units(self) -> int:
        """Units that belong to nobody, never used ones included."""
        return self.units_of(Kind.FREE) + self.units_of(Kind.UNUSED)

    @property
    def longest_free(self) -> int:
        """Units of the longest range without an owner: it may be several pieces."""
        longest = length = 0
        for piece in self.pieces:
            length = length + piece.nunits if piece.kind in _FREE_KINDS else 0
            longest = max(longest, length)
        return longest

    @property
    def fragmentation(self) -> float:
        """0 when all free units are in one range, towards 1 when they are scattered."""
        return 1 - self.longest_free / self.free_units if self.free_units else 0.0


def longest_free(maps: Sequence[UnitMap]) -> int:
    """Return the units of the longest range without an owner in any arena."""
    return max(each.longest_free for each in maps)


def read_maps(heap: Heap) -> list[tuple[BlockSpace, UnitMap]]:
    """Return the arenas of an open heap, each with what its units are now. O(units)."""
    opened = spaces_of(space_of(heap).shared)
    faces: list[BlockSpace] = [heap, *(each.shared.arenas.face(each) for each in opened[1:])]
    return [(face, read_map(face)) for face in faces]


def read_map(space: BlockSpace) -> UnitMap:
    """Return what the units of one arena of an open heap are now. O(units).

    It looks behind the heap's public face, under the heap's lock: a drawing of the insides is no
    use of the heap, and nothing else needs this call.
    """
    name, inside = space.name if isinstance(space, Arena) else "", space_of(space)
    return inside.look(_read, inside, name)


def _read(space: Space, name: str) -> UnitMap:
    supply, region = space.supply, space.region
    supply.read_all()
    wilderness = supply.extents.wilderness
    known = [Piece(start, nunits, _kind_of(state)) for start, nunits, state in supply.pieces()]
    if wilderness < region.end_unit:
        known.append(Piece(wilderness, region.end_unit - wilderness, Kind.UNUSED))
    pieces = tuple(_with_gaps(known, region.first_unit, region.end_unit))
    return UnitMap(region.first_unit, region.end_unit, pieces, space.index, name)


def _kind_of(state: int) -> Kind:
    kinds: dict[int, Kind] = {
        UnitState.RUN: Kind.RUN,
        UnitState.PACKED: Kind.PACKED,
        UnitState.LARGE: Kind.LARGE,
        UnitState.OTHER: Kind.UNUSED,
    }
    return kinds.get(state, Kind.FREE)


def _with_gaps(known: list[Piece], first: int, end: int) -> Iterator[Piece]:
    """Yield the pieces, and what lies between them: the free extents."""
    reached = first
    for piece in sorted(known, key=lambda each: each.start):
        if piece.start > reached:
            yield Piece(reached, piece.start - reached, Kind.FREE)
        yield piece
        reached = piece.start + piece.nunits
    if reached < end:
        yield Piece(reached, end - reached, Kind.FREE)


# ---------------------------------------------------------------- drawing


def units_per_mark(maps: Sequence[UnitMap], width: int, rows: int) -> int:
    """Return how many units a mark has to stand for, so that all fit `rows` rows of `width`.

    Each arena has rows of its own, one at least.
    """
    columns = _columns(maps, width)
    per_mark = max(-(-sum(each.nunits for each in maps) // (columns * rows)), 1)
    while sum(-(-each.nunits // (per_mark * columns)) for each in maps) > max(rows, len(maps)):
        per_mark += max(per_mark // 64, 1)
    return per_mark


def draw(maps: Sequence[UnitMap], width: int, rows: int) -> Text:
    """Draw the maps of all arenas in at most `rows` rows of `width` columns, and their names."""
    per_mark = units_per_mark(maps, width, rows)
    text = Text(no_wrap=True, end="")
    for each in maps:
        if each.arena:
            where = f"arena {printable(each.name)!r}, from {each.arena << ARENA_BITS:#x}"
            text.append(f"\n{where}\n", style="bold")
        _draw_one(text, each, per_mark, _columns(maps, width), _digits(maps))
    return text


def _draw_one(text: Text, shown: UnitMap, per_mark: int, columns: int, digits: int) -> None:
    kinds = _kinds(shown, per_mark)
    for at in range(0, len(kinds), columns):
        text.append(_label(shown.first_unit + at * per_mark, digits), style="dim")
        for kind in kinds[at : at + columns]:
            text.append(*_MARKS[kind])
        text.append("\n")


def legend(maps: Sequence[UnitMap], width: int, per_mark: int) -> Text:
    """Say what the marks mean, and how many bytes there are of each kind; at most `width` wide."""
    entries = [
        Text.assemble(_MARKS[kind], f" {kind.value} {format_bytes(units * UNIT)}")
        for kind in Kind
        if (units := sum(each.units_of(kind) for each in maps))
    ]
    entries.append(Text(f"one mark: {format_bytes(per_mark * UNIT)}", style="dim"))
    text, column = Text(), 0
    for entry in entries:
        gap = "" if not column else "   " if column + 3 + len(entry) <= width else "\n"
        column = len(entry) + (column + 3 if gap == "   " else 0)
        text.append(gap).append(entry)
    return text


def _digits(maps: Sequence[UnitMap]) -> int:
    return len(f"{max(each.end_unit for each in maps) * UNIT:x}")


def _label(unit: int, digits: int) -> str:
    return f"{unit * UNIT:#0{digits + 2}x} "


def _columns(maps: Sequence[UnitMap], width: int) -> int:
    return max(width - len(_label(0, _digits(maps))), _LEAST_WIDTH)


def _kinds(unit_map: UnitMap, per_mark: int) -> list[Kind]:
    """Return what most of the units of each mark are."""
    counts: list[dict[Kind, int]] = [{} for _ in range(-(-unit_map.nunits // per_mark))]
    for piece in unit_map.pieces:
        start = piece.start - unit_map.first_unit
        stop = start + piece.nunits
        for mark in range(start // per_mark, -(-stop // per_mark)):
            inside = min(stop, (mark + 1) * per_mark) - max(start, mark * per_mark)
            counts[mark][piece.kind] = counts[mark].get(piece.kind, 0) + inside
    return [max(count, key=count.__getitem__) for count in counts]
