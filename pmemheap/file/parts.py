"""Parts: where the tables of a segment lie in its file."""

from __future__ import annotations

from collections.abc import Callable

from pmemheap.format import layout
from pmemheap.space.medium import Piece
from pmemheap.units import MiB

__all__ = ["PARTS", "READ_AHEAD_BELOW", "Part"]

READ_AHEAD_BELOW = 128 * MiB
"""A segment of a power heap whose data begins farther behind is faulted in page by page when it is
new, as all other tables are.

With read-ahead the first store to a fresh table makes ext4 fill a folio of up to 2 MiB, which takes
2 ms (Linux 6.18), and one to data brings in what a call is to write next, in small folios that are
zeroed first. A power heap stores to its data, unless a value is very long, and gains by it as long
as the file is short. In a long one few stores between two checkpoints meet in one folio, and ext4
writes all of a folio of which a page was stored to: with read-ahead a put in no order into four
million records took 1.7 times as long, and wrote twice the bytes.
"""

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
