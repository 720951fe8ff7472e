"""Packing: the model as a short document of numbers, for the script of the page.

    pieces    | full run of 112 | full run of 112 | free 98 | full run of 112 | ...
    rows      [[1, 0, 36, 36, 112], [98, 4]]             what pieces are, each different one once
    order     [0, 2, 1, 1, 0, 1]                         row, how many in a row

A row without the zeros at its end: units, kind, live, room, size, allocated, asked, bare, age,
further pieces, regions. A piece of several kinds has their number in the place of its kind, and
units by kind behind the rest. What follows from the other numbers is 0: `allocated` of a piece of
one size or of a large block; `asked` where it is `allocated`. The age counts from 1; 0 is none.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from pmemheap.pictures.model import ArenaMap
from pmemheap.pictures.pieces import AGELESS, Kind, Piece
from pmemheap.units import GRANULE, UNIT

__all__ = ["packed_arena"]

_KINDS = tuple(Kind)
_MIXED = len(_KINDS)


def packed_arena(arena: ArenaMap) -> dict[str, Any]:
    """Return an arena as what JSON can hold; offsets of 63 bits as text."""
    rows: dict[tuple[int, ...], int] = {}
    numbers = [rows.setdefault(_row(piece), len(rows)) for piece in arena.pieces]
    index = {piece.start: number for number, piece in enumerate(arena.pieces)}
    return {
        "arena": arena.arena,
        "name": arena.name,
        "strategy": arena.strategy,
        "origin": f"{arena.origin:#x}",
        "first": arena.first_unit,
        "cell": arena.cell,
        "rows": list(rows),
        "order": _runs(numbers),
        "places": {
            index[start]: _packed_places(arena.pieces[index[start]], blocks)
            for start, blocks in arena.places.items()
        },
    }


def _row(piece: Piece) -> tuple[int, ...]:
    is_mixed = max(piece.units) < piece.nunits
    row = [
        piece.nunits, _MIXED if is_mixed else _KINDS.index(piece.kind), piece.live, piece.room,
        piece.size, 0 if piece.allocated == _allocated(piece) else piece.allocated,
        0 if piece.asked == piece.allocated else piece.asked, piece.bare,
        0 if piece.young == AGELESS else piece.young + 1, piece.pieces - 1, piece.regions,
        *(piece.units if is_mixed else ()),
    ]  # fmt: skip
    while row[-1] == 0:
        row.pop()
    return tuple(row)


def _allocated(piece: Piece) -> int:
    """Return the bytes that follow from the other numbers."""
    if piece.large == piece.nunits:
        return piece.nunits * UNIT
    return piece.size * piece.live


def _runs(numbers: Iterable[int]) -> list[int]:
    """Return each number, and how many of it stand in a row."""
    return [each for number, same in groupby(numbers) for each in (number, len(list(same)))]


def _packed_places(piece: Piece, blocks: Iterable[tuple[int, int]]) -> str | list[int]:
    """Return a bit for each block that a run has room for; of chunks granules: gap, block, ..."""
    if not piece.size:
        return _gaps(blocks)
    bits = sum(1 << at // piece.size for at, _ in blocks)
    return b64encode(bits.to_bytes(-(-piece.room // 8), "little")).decode()


def _gaps(blocks: Iterable[tuple[int, int]]) -> list[int]:
    numbers, reached = [], 0
    for at, size in blocks:
        numbers += [(at - reached) // GRANULE, size // GRANULE]
        reached = at + size
    return numbers
