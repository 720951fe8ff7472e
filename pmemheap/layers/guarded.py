"""Guarded: what is known of a guarded block, and how it is told."""

from __future__ import annotations

from typing import NamedTuple

from pmemheap.errors import DamagedBlockError
from pmemheap.units import counted

__all__ = ["Guarded", "damaged", "found_at"]


class Guarded(NamedTuple):
    """A guarded block, live, or freed and kept from others for a while."""

    offset: int
    size: int
    """Bytes that were asked for."""
    is_live: bool
    made_by: str
    """``"file:line"``; empty if it is not known."""
    freed_by: str
    damage: int | None
    """A byte beside it that was overwritten, counted from its begin."""

    @property
    def sites(self) -> str:
        """Who made it, and who freed it."""
        made = f"made at {self.made_by or 'a place that is not known'}"
        if self.is_live:
            return made
        return f"{made}, freed at {self.freed_by or 'a place that is not known'}"


def found_at(block: Guarded, offset: int) -> str:
    """Say what a guarded block is to an offset in its units at which no live block begins."""
    of = counted(block.size, "byte")
    if offset == block.offset:
        return f"the guarded block of {of} there is free already, {block.sites}"
    inside = offset - block.offset
    if inside < 0:
        place = f"{counted(-inside, 'byte')} before"
    elif inside < block.size:
        place = f"{counted(inside, 'byte')} inside of"
    else:
        place = f"{counted(inside - block.size + 1, 'byte')} behind the last one of"
    return f"{place} the guarded block at {block.offset:#x}, of {of}, {block.sites}"


def damaged(where: str, block: Guarded) -> DamagedBlockError:
    """Return what says that bytes beside a guarded block were overwritten."""
    assert block.damage is not None
    behind = block.damage - block.size
    place = (
        f"{counted(behind + 1, 'byte')} behind the last one of it"
        if behind >= 0
        else f"{counted(-block.damage, 'byte')} before it"
    )
    return DamagedBlockError(
        f"{where}: guarded block at offset {block.offset:#x} of {counted(block.size, 'byte')}: "
        f"what lies beside it untouched expected, found a store {place}; {block.sites}"
    )
