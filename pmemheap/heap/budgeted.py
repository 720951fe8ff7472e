"""Budgeted: a heap as a member of a budget. What it holds, and how it gives back for others."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from pmemheap.errors import PmemHeapError, UsageError
from pmemheap.format.layout import DATA_WIDTH, SEGMENT_UNITS
from pmemheap.heap import units
from pmemheap.heap.shared import Shared
from pmemheap.heap.space import Space
from pmemheap.native.constants import State
from pmemheap.refusals import end_with
from pmemheap.space.budget import Budget, ledger_of

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap

__all__ = ["HeapMember", "joined", "set_budget"]

_LESS_LEAST = 8
"""Units that must have become free in an arena since it was asked to give back, at least."""


class HeapMember:
    """A heap in a budget, which does not keep it.

    Giving back goes through all free ranges of an arena. So it is asked for it again only when less
    is in use than since the last time, and enough is free for a segment.
    """

    name: str
    budget: Budget

    def __init__(self, shared: Shared, budget: Budget) -> None:
        self._shared = weakref.ref(shared)
        self.name, self.budget = shared.name, budget
        self._most: dict[int, int] = {}  # by arena: the most units in use since then

    def _spaces(self) -> list[Space]:
        """Return its open arenas, that of scratch regions as the last."""
        shared = self._shared()
        return [] if shared is None else shared.spaces_and_scratch()

    @property
    def is_open(self) -> bool:
        """Whether it is neither closed nor another process's."""
        return any(space.core.state < State.FORKED for space in self._spaces())

    def parts(self) -> list[tuple[str, int]]:
        """Return the names of its arenas, and the bytes of units that each has."""
        shared = self._shared()
        return [
            ("" if shared is None else _arena_name(shared, space), space.region.nunits * DATA_WIDTH)
            for space in self._spaces()
        ]

    def live_bytes(self) -> int:
        """Return the bytes of its live blocks. O(arenas)."""
        return sum(units.live_bytes(space) for space in self._spaces())

    def gave_back(self) -> bool:
        """Let free segments at the ends of an arena go, if worth it; tell whether it was tried."""
        return any(self._is_worth(space) and self._give_back(space) for space in self._spaces())

    def give_back(self) -> None:
        """Let free segments at the ends of all arenas go."""
        for space in self._spaces():
            self._give_back(space)

    def _is_worth(self, space: Space) -> bool:
        most = self._most.get(space.index)
        if most is None:
            return True
        free, nunits = units.free_soon(space), space.region.nunits
        used = nunits - free
        self._most[space.index] = max(used, most)
        less = max(_LESS_LEAST, min(SEGMENT_UNITS, nunits // 64))
        return free >= SEGMENT_UNITS and most - used >= less

    def _give_back(self, space: Space) -> bool:
        with suppress(PmemHeapError):  # it was closed meanwhile, or is read-only
            space.serve(units.cut_ends, space)
        self._most[space.index] = space.region.nunits - units.free_soon(space)
        return True


def _arena_name(shared: Shared, space: Space) -> str:
    if space.shared is not shared:
        return "(scratch)"
    slot = shared.medium.arenas.get(space.index)
    return "" if slot is None else slot.name


def set_budget(space: Space, budget: Any) -> None:
    """Put a heap into a budget, or take it out of the one that it is in.

    Raises
    ------
    UsageError
        It is no budget; the heap is in another one, or closed.
    """
    if budget is not None and not isinstance(budget, Budget):
        raise UsageError(f"{space.name}: budget: a Budget or None expected, {budget!r} found")
    space.require_open()
    space.alone(lambda: _set_locked(space.shared, budget))


def _set_locked(shared: Shared, budget: Budget | None) -> None:
    member = shared.member
    if member is not None and budget is member.budget:
        return
    if member is not None and budget is not None:
        raise UsageError(
            f"{shared.name}: a heap in no other budget expected, found {member.budget!r}; "
            "heap.budget = None takes it out"
        )
    if member is not None:
        ledger_of(member.budget).leave(member)
    shared.member = None if budget is None else HeapMember(shared, budget)
    ledger = None if budget is None else ledger_of(budget)
    if ledger is not None and shared.member is not None:
        ledger.join(shared.member)
    for space in shared.spaces_and_scratch():
        space.region.ledger = ledger


H = TypeVar("H", bound="Heap")


def joined(heap: H, budget: Any) -> H:
    """Return a new heap that is in a budget, if one is given; closed again if it cannot be."""
    try:
        if budget is not None:
            heap.budget = budget
    except BaseException as error:
        end_with(error, heap.close)
        raise
    return heap
