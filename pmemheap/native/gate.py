"""The gate of a heap file: what a writer says to those who want to read beside it."""

from __future__ import annotations

from enum import IntEnum

from pmemheap._core._sys import lib

__all__ = ["ReaderGate"]


class ReaderGate(IntEnum):
    """Whether others may read a heap beside its writer."""

    NONE = lib.PH_READERS_NONE
    MAY = lib.PH_READERS_MAY
    STAY = lib.PH_READERS_STAY
    LATE = lib.PH_READERS_LATE
    WAIT = lib.PH_READERS_WAIT
    SHUT = lib.PH_READERS_SHUT
