"""Rooted: a root names a live block, and that block stays for as long as the root does.

    roots[name] = offset   the block gets a mark in the core, then the table changes
    free, realloc, ...     the core finds the mark: refused, and the message has the name
    commit                 likewise; what is freed together with its root loses its mark first
    open                   what the roots of the file name is marked together with the tables

A mark is one bit beside what the core knows of the views and handles of a block, so that a free
which meets none of them pays nothing. Marks are volatile: the roots are the truth, and `mark_all`
makes the marks anew. An older file may have a root at which no live block begins; it has no mark,
and `check` reports it.

All of it runs under the lock of the heap, so that no root changes meanwhile. What other threads
free is judged by the core, in one step with the commit: what counts is the moment of the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from pmemheap.errors import UsageError
from pmemheap.layout import ARENA_BITS, RootSlot
from pmemheap.native import TxCore
from pmemheap.native.constants import Refusal

__all__ = ["change", "mark_all", "names_of", "not_live", "refused"]

T = TypeVar("T")


class Space(Protocol):
    """The methods of a heap, and of each of its arenas, that this module calls."""

    _origin: int

    @property
    def _root_slots(self) -> Iterable[RootSlot]: ...
    def _space_at(self, offset: int) -> Any: ...
    def _set_rooted(self, offset: int, rooted: bool, /) -> int: ...
    def _free_refusal(self, offset: int, /) -> int: ...
    def _forget_roots(self) -> None: ...
    def _no_block(self, offset: int, where: str) -> UsageError: ...


def mark_all(space: Space) -> None:
    """Mark the blocks of one arena that roots name, and no others. O(roots)."""
    space._forget_roots()
    for root in space._root_slots:
        if root.off >> ARENA_BITS == space._origin >> ARENA_BITS:
            space._set_rooted(root.off, True)


def names_of(space: Space, offset: int) -> list[str]:
    """Return the roots that name a block."""
    return [root.name for root in space._root_slots if root.off == offset]


def refused(where: str, offset: int, names: Iterable[str]) -> UsageError:
    """Return what says that a block does not go without its roots."""
    found = ", ".join(map(repr, names))
    return UsageError(
        f"{where}: block at offset {offset:#x}: no root that names it expected, found {found}; "
        "remove the root first, or both in one transaction"
    )


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
    before = {root.name: root.off for root in space._root_slots}
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
        named = {root.off for root in space._root_slots}
        for offset in touched:
            _set(space, offset, offset in named)


def _mark(space: Space, root: RootSlot, transaction: TxCore | None) -> None:
    """Mark what a root is to name, before it is looked at: from then on nobody frees it."""
    at = space._space_at(root.off)
    refusal = Refusal.BAD_OFFSET if at is None else at._set_rooted(root.off, True)
    if refusal == Refusal.NOMEM:
        raise MemoryError(f"root {root.name!r}: no memory for the table of refs")
    if refusal == 0 and transaction is not None:
        refusal = transaction._may_name(root.off)
    elif refusal == 0:
        refusal = at._free_refusal(root.off)  # of what is reserved, not live, as of nothing
    if refusal in {Refusal.BAD_OFFSET, Refusal.TX_TWICE}:
        raise not_live(at or space, root.name, root.off, refusal)


def not_live(space: Space, name: str, offset: int, refusal: int) -> UsageError:
    """Return what says that a root can not lead to an offset, of this arena if of any."""
    where = f"root {name!r}"
    if refusal == Refusal.BAD_OFFSET:
        return space._no_block(offset, where)
    return UsageError(
        f"{where}: a block that the transaction has not freed expected at offset {offset:#x}, "
        "found one that it has"
    )


def _give_up(space: Space, transaction: TxCore, kept: set[int]) -> None:
    """Take the marks of what the transaction frees with its roots; it keeps others from it."""
    for offset in transaction._rooted_frees():
        if offset not in kept:
            _set(space, offset, False)


def _set(space: Space, offset: int, rooted: bool) -> int:
    at = space._space_at(offset)
    return Refusal.BAD_OFFSET if at is None else at._set_rooted(offset, rooted)
