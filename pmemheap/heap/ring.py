"""Ring: an arena, or a heap, whose blocks lie in the order in which they came.

    units    dead dead live live live | never used        the head goes back, the end grows

The units come from the end of the arena alone. Before it is extended the head is given back, so
that a queue that runs for ever holds little more than what is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmemheap.dataclass import dataclass
from pmemheap.heap import units
from pmemheap.heap.arena import Arena
from pmemheap.heap.blockspace import BlockSpace
from pmemheap.heap.insight import HeapStats
from pmemheap.heap.strategies import Ring

__all__ = ["HasOrder", "RingArena", "RingStats"]


@dataclass(frozen=True)
class RingStats(HeapStats):
    """What `HeapStats` says, and what holds memory back.

    Attributes
    ----------
    held_by : int or None
        Offset of the oldest live block; None if there is none.
    held_back : int
        Bytes behind that one, up to the newest block, in which nothing lives: as long as it stays
        they are of no use. `Arena.trim` gives their memory back all the same.
    """

    held_by: int | None
    held_back: int


class HasOrder(BlockSpace):
    """What there is besides where blocks lie in the order in which they came: see `Ring`."""

    __slots__ = ()

    if TYPE_CHECKING:

        def first(self) -> int | None: ...  # noqa: D102 -- below
    else:
        first = BlockSpace._oldest  # private: the same method, which only a ring shows

    def stats(self) -> RingStats:
        """Return how large and how full it is, and what holds memory back."""
        whole, oldest = super().stats(), self.first()
        core, origin = self._space.core, self._space.origin
        spread = 0 if oldest is None else core.usage()[0]["ring_end"] - (oldest ^ origin)
        held_back = max(spread - units.live_bytes(self._space), 0)
        return RingStats(**vars(whole), held_by=oldest, held_back=held_back)

    def __repr__(self) -> str:
        """Show its strategy as well."""
        return f"{super().__repr__()[:-1]}, {Ring()}>"


class RingArena(HasOrder, Arena):
    """An arena that is a ring; made by ``heap.arena(name, strategy=Ring())``."""

    __slots__ = ()
