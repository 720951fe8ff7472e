"""Shown space: parts of a file that the heap has no use for, and snapshots of others may show.

    drop of an arena   its segments are SPARE at once
    until the last snapshot in another process has gone that was begun before:
                       they are not used again, and keep their blocks

A snapshot that begins later does not lead there. A new writer knows nothing of drops before it: it
takes no SPARE segment as long as anybody has a snapshot of before.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pmemheap.file import locks, pins
from pmemheap.format.filespace import fitting_spare
from pmemheap.format.layout import SegmentKind, SegmentSlot
from pmemheap.native import NativeError
from pmemheap.native.rules import Rule, omitted

if TYPE_CHECKING:
    from pmemheap.file.filemedium import FileMedium
    from pmemheap.space.medium import Piece

__all__ = ["ShownSpace", "after_drop", "is_spare_below"]


def is_spare_below(medium: FileMedium, file_off: int, nbytes: int) -> bool:
    """Tell whether a segment of so many bytes would find a place before a byte of the file."""
    free = medium.segments if medium.shown is None else medium.shown.spares(medium)
    spare = fitting_spare(free, nbytes)
    return spare is not None and medium.segments[spare].file_off < file_off


def after_drop(medium: FileMedium, pieces: list[Piece]) -> ShownSpace | None:
    """Return `medium.shown` when an arena was dropped: with its segments, if there are readers."""
    try:
        if not locks.has_followers(medium.lock_fd):
            return medium.shown
    except NativeError:  # nobody knows
        pass
    shown = medium.shown or ShownSpace()
    shown.add(medium, pieces)
    return shown


class ShownSpace:
    """Which SPARE segments of a file are not to be used yet."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._era = 0

    def add(self, medium: FileMedium, pieces: list[Piece]) -> None:
        """Keep segments for the snapshots of this era and those before."""
        if medium.header.address:
            self._era = medium.header.word("era")
        slots = [piece.slot for piece in pieces if piece.slot is not None]
        self._ranges += [(slot.file_off, slot.file_stop) for slot in slots]

    def spares(self, medium: FileMedium) -> dict[int, SegmentSlot]:
        """Return the SPARE segments that may be used, by index. O(pins) while there are others."""
        if medium.is_shown is not None and medium.is_shown():
            return {}
        with suppress(NativeError):
            if self._ranges and pins.oldest(medium.lock_fd, self._era + 1) is None:
                self._ranges.clear()
        return {
            index: slot
            for index, slot in medium.segments.items()
            if slot.kind == SegmentKind.SPARE and not self._has(slot)
        }

    def _has(self, slot: SegmentSlot) -> bool:
        is_kept = any(
            slot.file_off < stop and start < slot.file_stop for start, stop in self._ranges
        )
        return is_kept and not omitted(Rule.Q15)
