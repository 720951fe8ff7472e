"""Model: what is where in a heap. Every unit of every arena belongs to one piece.

    arena     | run | run |   free    | large block |  never used      |
    pieces    |  1  |  2  |     3     |      4      |        5         |    end to end
    by cells  |     1     |     2     |      3      |        4         |    what begins in a cell

A piece is a run, a chunk, a block of whole units, or a range of free units that were freed alike.
Where an arena has more pieces than a picture can hold, those that begin in one cell of 2, 4, 8 ...
units are one piece, which adds up what they have; around a place that is looked at they are not.
The C core makes the pieces: nothing here walks over units.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from pmemheap.errors import UsageError
from pmemheap.format.layout import ARENA_BITS
from pmemheap.heap.arena import Arena
from pmemheap.heap.beside import asked
from pmemheap.heap.heap import Heap
from pmemheap.heap.space import Space, space_of
from pmemheap.heap.totals import spaces_of
from pmemheap.pictures.backing import gaps_of, without_backing
from pmemheap.pictures.pieces import PIECE, Kind, Piece
from pmemheap.pictures.places import Places, places_of
from pmemheap.units import UNIT

__all__ = [
    "ALL_PIECES",
    "PIECES_MOST",
    "SCRATCH",
    "ArenaMap",
    "longest_free",
    "read_arena",
    "read_arenas",
]

PIECES_MOST = 40_000
"""Pieces of all arenas in one picture, unless asked otherwise."""

ALL_PIECES = 1 << 40
"""As many as there are."""

SCRATCH = "scratch regions"
"""The name of the arena of scratch regions, which has none of its own."""

_LEAST = 64
_OPENED_SHARE = 4


@dataclass(frozen=True)
class ArenaMap:
    """An arena: its pieces lie end to end from `first_unit` up to `end_unit`.

    Attributes
    ----------
    first_unit, end_unit : int
        Its units.
    pieces : tuple of Piece
        By unit.
    arena : int
        Its number: offsets in it begin at ``arena << ARENA_BITS``.
    name, strategy : str
        Empty for the default arena, `SCRATCH` for that of scratch regions; how it serves blocks.
    cell : int
        Units of a cell; 0 if every piece is one thing.
    places : dict
        Where live blocks lie, as far as they were asked for, as of `places_of`.
    """

    first_unit: int
    end_unit: int
    pieces: tuple[Piece, ...]
    arena: int = 0
    name: str = ""
    strategy: str = "General()"
    cell: int = 0
    places: Places = field(default_factory=dict)

    @property
    def origin(self) -> int:
        """The offset at which unit 0 of the arena would lie."""
        return self.arena << ARENA_BITS

    @property
    def nunits(self) -> int:
        """How many units it has."""
        return self.end_unit - self.first_unit

    def units_of(self, kind: Kind) -> int:
        """Return how many units are of a kind."""
        index = list(Kind).index(kind)
        return sum(piece.units[index] for piece in self.pieces)

    def total(self, name: str) -> int:
        """Return the sum of a field of its pieces: of units, blocks or bytes."""
        return sum(map(attrgetter(name), self.pieces))

    @property
    def free_units(self) -> int:
        """Units that belong to nobody, never used ones included."""
        return self.units_of(Kind.FREE) + self.units_of(Kind.UNUSED)

    @property
    def longest_free(self) -> int:
        """Units of the longest range without an owner; a cell counts if all of it is free."""
        return max((length for _, length in self.free_ranges()), default=0)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield start and units of the ranges without an owner, each as long as it can be."""
        start = length = 0
        for piece in self.pieces:
            if piece.free + piece.unused < piece.nunits:
                if length:
                    yield start, length
                length = 0
            else:
                start = start if length else piece.start
                length += piece.nunits
        if length:
            yield start, length

    @property
    def fragmentation(self) -> float:
        """0 when all free units are in one range, towards 1 when they are scattered."""
        return 1 - self.longest_free / self.free_units if self.free_units else 0.0


def longest_free(maps: Iterable[ArenaMap]) -> int:
    """Return the units of the longest range without an owner in any arena."""
    return max(each.longest_free for each in maps)


# ---------------------------------------------------------------- reading


def read_arenas(
    heap: Heap, most: int = PIECES_MOST, at: int | None = None, blocks: int = 0
) -> list[ArenaMap]:
    """Return what the units of all arenas of an open heap are now, the default one first.

    It looks behind the heap's public face, under the heap's lock: a picture of the insides is no
    use of the heap. O(units) in C, O(pieces) here.

    Parameters
    ----------
    heap : Heap
        An open one; of one that was attached beside a writer, what it is in the file now.
    most : int
        Pieces of all arenas at most, about; more become cells.
    at : int, optional
        An offset: around it no piece becomes part of a cell, and blocks are looked for first.
    blocks : int
        Of so many blocks, about, `ArenaMap.places` says where they lie.

    Returns
    -------
    list of ArenaMap
        That of scratch regions comes last, if there is one.

    Raises
    ------
    UsageError, CorruptHeapError, HeapBusyError
        The heap is closed; an entry is impossible; the writer gives no moment for a look.
    """
    return asked(space_of(heap), lambda space: _read_all(space, most, at, blocks))


def _read_all(space: Space, most: int, at: int | None, blocks: int) -> list[ArenaMap]:
    spaces = spaces_of(space.shared)
    scratch = space.shared.arenas.scratch
    if scratch is not None and not scratch.closed:
        spaces.append(scratch)
    units = max(sum(each.region.nunits for each in spaces), 1)
    maps = []
    for each in spaces:
        share = each.region.nunits / units
        try:
            maps.append(_looked_at(each, round(most * share), at, round(blocks * share)))
        except UsageError:
            if space.closed or not each.closed:  # else another thread has dropped the arena
                raise
    return maps


def read_arena(face: Heap | Arena, most: int = ALL_PIECES) -> ArenaMap:
    """Return what the units of one arena of an open heap are now, as `read_arenas`."""
    return asked(space_of(face), lambda space: _looked_at(space, most, None, 0))


def _looked_at(space: Space, most: int, at: int | None, blocks: int) -> ArenaMap:
    return space.look(_read, space, max(most, _LEAST), at, blocks)


def _read(space: Space, most: int, at: int | None, blocks: int) -> ArenaMap:
    space.supply.read_all()
    file, region = space.shared.file, space.region
    is_here = at is not None and at >> ARENA_BITS == space.index
    unit = (at ^ space.origin) // UNIT if at is not None and is_here else None
    pieces, cell = _pieces(space, most, unit)
    near = region.first_unit if unit is None else unit
    places = places_of(space.core, space.origin, pieces, near, blocks)
    if file is not None:
        pieces = without_backing(pieces, gaps_of(file.fd, region.pieces))
    return ArenaMap(
        region.first_unit, region.end_unit, tuple(pieces), space.index, _name_of(space),
        repr(space.strategy), cell, places,
    )  # fmt: skip


def _name_of(space: Space) -> str:
    if space is not space.shared.default:
        return space.shared.medium.arenas[space.index].name
    return SCRATCH if space.index else ""


def _pieces(space: Space, most: int, unit: int | None) -> tuple[list[Piece], int]:
    """Return all pieces, or cells where there are too many, and the units of a cell."""
    first, end = space.region.first_unit, space.region.end_unit
    border = space.supply.extents.wilderness
    unused = [Piece.whole(border, end - border, Kind.UNUSED)] if border < end else []
    cell = 1 << ((border - first) // most).bit_length()
    pieces = _surveyed(space, first, border, cell)
    if sum(piece.pieces for piece in pieces) <= most:
        return _surveyed(space, first, border) + unused, 0
    if unit is not None and pieces:
        pieces = _opened(space, pieces, unit, most)
    return pieces + unused, cell


def _surveyed(space: Space, start: int, stop: int, cell: int = 0) -> list[Piece]:
    data = space.core.survey(start, stop, cell)
    return [Piece(*each) for each in PIECE.iter_unpack(data)]


def _opened(space: Space, pieces: list[Piece], unit: int, most: int) -> list[Piece]:
    """Put what cells consist of in their place, from the cell of a unit on to both sides."""
    low = high = bisect_right(pieces, unit, key=attrgetter("start")) or 1
    low, room = low - 1, most // _OPENED_SHARE
    while room > 0 and (low > 0 or high < len(pieces)):
        low, high = max(low - 1, 0), min(high + 1, len(pieces))
        room -= pieces[low].pieces + pieces[high - 1].pieces
    inside = _surveyed(space, pieces[low].start, pieces[high - 1].stop)
    return [*pieces[:low], *inside, *pieces[high:]]
