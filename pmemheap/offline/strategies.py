"""Strategies: which one an arena has, told by what lies in its segments.

A run of rows and a chunk of a ring occur in no other arena.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pmemheap.format.layout import ENTRY_WIDTH, SegmentSlot, packed_strategy
from pmemheap.native.constants import CHUNK_RING, ROW_MOST, Kind, StrategyCode
from pmemheap.offline.extents import entry_fields, nonzero_at
from pmemheap.offline.image import Image, data_pieces
from pmemheap.units import GRANULE

__all__ = ["strategy_of"]


def strategy_of(image: Image, mine: Sequence[SegmentSlot]) -> bytes:
    """Tell from the first run of rows, or chunk of a ring, in its segments what an arena is."""
    for entry in _entries(image, mine):
        kind, class_index, flags, _, nbytes = entry_fields(entry)
        if (kind, class_index, flags, nbytes) == (Kind.PACKED, 0, CHUNK_RING, 0):
            return packed_strategy(StrategyCode.RING)
        is_run = (kind, class_index, flags) == (Kind.ROWS, 0, 0)
        if is_run and 0 < nbytes <= ROW_MOST and nbytes % GRANULE == 0:
            return packed_strategy(StrategyCode.ROWS, nbytes)
    return packed_strategy(StrategyCode.GENERAL)


def _entries(image: Image, mine: Sequence[SegmentSlot]) -> Iterator[bytes]:
    for slot in mine:
        for offset, piece in data_pieces(image, slot.entries_off, slot.bits_off):
            for at in nonzero_at(piece, ENTRY_WIDTH, offset - slot.entries_off):
                entry = image.read(offset + at, ENTRY_WIDTH)
                yield entry.ljust(ENTRY_WIDTH, b"\0")
