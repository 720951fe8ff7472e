"""What machines that look for bytes written over share: stamps in blocks, and blocks by chance."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable


def stamp_at(address: int, start: int) -> None:
    """Store where a block begins, in eight bytes at an address."""
    ctypes.memmove(address, start.to_bytes(8, "little"), 8)


def has_stamp(address: int, start: int) -> bool:
    """Tell whether these bytes are still there."""
    return ctypes.string_at(address, 8) == start.to_bytes(8, "little")


def picked(live: Iterable[int], picks: list[int]) -> list[int]:
    """Return some of the live blocks, each once."""
    offsets = sorted(live)
    return list(dict.fromkeys(offsets[pick % len(offsets)] for pick in picks)) if offsets else []
