"""Rooted: a root names a live block, and that block stays for as long as the root does.

    roots[name] = offset   the block gets a mark in the core, then the table changes
    free, realloc, ...     the core finds the mark: refused, and the message has the name
    commit                 likewise; what is freed together with its root loses its mark first
    open                   what the roots of the file name is marked together with the tables

A mark is one bit beside what the core knows of the views and handles of a block, so that a free
which meets none of them pays nothing. Marks are volatile: the roots are the truth, and
`Space.mark_rooted` makes the marks anew. An older file may have a root at which no live
block begins; it has no mark, and `check` reports it.

All of it runs under the lock of the heap, so that no root changes meanwhile. What other threads
free is judged by the core, in one step with the commit: what counts is the moment of the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pmemheap.file.redo import CopyWantsRoomError
from pmemheap.format.layout import RootSlot
from pmemheap.heap import refusing, units
from pmemheap.heap.lock import is_changing
from pmemheap.heap.place import place_of
from pmemheap.heap.space import Space, space_of
from pmemheap.native import TxCore
from pmemheap.native.constants import Format, Refusal

if TYPE_CHECKING:
    from pmemheap.heap.blockspace import BlockSpace
    from pmemheap.heap.roots import Change, RootStore

__all__ = ["RootGuard", "change"]

T = TypeVar("T")


def change(
    space: Space,
    puts: dict[str, RootSlot],
    drops: set[str],
    work: Callable[[], T],
    transaction: TxCore | None = None,
) -> T:
    """Change roots by `work`; what they name is marked before, and what they named no more.

    Parameters
    ----------
    puts, drops : dict of str to RootSlot, set of str
        What `work` changes, all of it or nothing.
    transaction : TxCore, optional
        That the change is part of. It may name what it has reserved, but nothing that it frees.

    Raises
    ------
    UsageError
        No live block begins where a root is to lead. Nothing has changed.
    """
    before = {root.name: root.off for root in space.shared.root_slots}
    after = {name: off for name, off in before.items() if name not in drops}
    after.update((name, root.off) for name, root in puts.items())
    touched = {before[name] for name in before if before[name] != after.get(name)}
    touched.update(root.off for root in puts.values())
    try:
        for root in puts.values():
            _mark(space, root, transaction)
        if transaction is not None:
            _give_up(space, transaction, set(after.values()))
        return work()
    finally:
        named = {root.off for root in space.shared.root_slots}
        for offset in touched:
            _set(space, offset, offset in named)


def _mark(space: Space, root: RootSlot, transaction: TxCore | None) -> None:
    """Mark what a root is to name, before it is looked at: from then on nobody frees it."""
    at = space.shared.space_at(root.off)
    refusal = Refusal.BAD_OFFSET if at is None else at.core.set_rooted([root.off], True, True)
    if refusal == Refusal.NOMEM:
        raise MemoryError(f"root {root.name!r}: no memory for the table of refs")
    if refusal == 0 and transaction is not None:
        refusal = transaction._may_name(root.off)  # private: no call of users
    elif refusal == 0 and at is not None:
        refusal = place_of(
            at.core, root.off
        ).refusal  # of what is reserved, not live, as of nothing
    if refusal in {Refusal.BAD_OFFSET, Refusal.TX_TWICE}:
        raise refusing.not_live(at or space, root.name, root.off, refusal)


def _give_up(space: Space, transaction: TxCore, kept: set[int]) -> None:
    """Take the marks of what the transaction frees with its roots; it keeps others from it."""
    for offset in transaction._rooted_frees():  # private: no call of users
        if offset not in kept:
            _set(space, offset, False)


def _set(space: Space, offset: int, rooted: bool) -> int:
    at = space.shared.space_at(offset)
    return Refusal.BAD_OFFSET if at is None else at.core.set_rooted([offset], rooted, True)


class RootGuard:
    """The methods of a heap that its roots call; it keeps the heap."""

    __slots__ = ("_heap",)

    def __init__(self, heap: BlockSpace) -> None:
        self._heap = heap

    def require(self, *, write: bool) -> None:
        """Raise what is to be raised when the heap may not be read, or not be changed."""
        space = space_of(self._heap)
        space.core.upkeep_if_due()
        if write:
            space.require(write=True)
        else:
            space.require_open()
        if space.shared.medium.in_doubt and not is_changing():
            space.look(lambda: None)

    def alone(self, store: RootStore, work: Callable[[Change], T]) -> T:
        """Run work while nothing else changes the heap."""
        space = space_of(self._heap)

        def change_roots(puts: dict[str, RootSlot], drops: set[str]) -> None:
            default = space.shared.default
            while True:
                try:
                    return change(space, puts, drops, lambda: store.change_roots(puts, drops))
                except CopyWantsRoomError:
                    units.refill(default, Format.ROOT_COPY)

        return space.serve(work, change_roots)
