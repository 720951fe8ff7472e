"""Parts: where the tables of a segment lie in its file."""

from __future__ import annotations

from collections.abc import Callable

from pmemheap.format import layout
from pmemheap.space.medium import Piece

__all__ = ["PARTS", "Part"]

Part = tuple[int, int]
"""File offset and length of one table's part of a segment."""


def _data_of(piece: Piece) -> Part:
    assert piece.slot is not None
    return piece.slot.data_off, piece.nunits * layout.DATA_WIDTH


def _bits_of(piece: Piece) -> Part:
    assert piece.slot is not None
    return piece.slot.bits_off, piece.nunits * layout.BITS_WIDTH


def _entries_of(piece: Piece) -> Part:
    assert piece.slot is not None
    return piece.slot.entries_off, piece.nunits * layout.ENTRY_WIDTH


PARTS: dict[str, Callable[[Piece], Part]] = {
    "data": _data_of,
    "bits": _bits_of,
    "home_bits": _bits_of,
    "entries": _entries_of,
    "home_entries": _entries_of,
}
