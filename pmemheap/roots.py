"""Roots: the names by which a heap is entered again. A mapping of str to offset.

In a file heap each root is one slot of the root table; in an anonymous heap a dictionary does. A
root names a live block, by its first byte, and keeps it from being freed: `rooted` sees to that.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, MutableMapping
from typing import Any, Protocol

from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.layout import ROOT_NAME_BYTES, ROOT_SLOTS, RootSlot

__all__ = ["Guard", "MemoryRoots", "RootStore", "Roots", "require_root"]


class RootStore(Protocol):
    """Where roots are kept."""

    @property
    def roots(self) -> dict[int, RootSlot]:
        """The slots in use, by index."""

    def change_roots(self, puts: dict[str, RootSlot], drops: set[str]) -> None:
        """Keep some roots and remove others: all of it or nothing.

        Raises
        ------
        KeyError
            There is no root of a name in `drops`.
        OutOfSpaceError
            The table is full.
        """


class Guard(Protocol):
    """What the roots ask of their heap."""

    def require(self, *, write: bool) -> None:
        """Raise what is to be raised when the heap may not be read, or not be changed."""

    def change(self, store: RootStore, puts: dict[str, RootSlot], drops: set[str]) -> None:
        """Call ``store.change_roots`` while nothing else changes the heap.

        UsageError if no live block begins where a root is to lead.
        """


class MemoryRoots:
    """The roots of an anonymous heap; changed in one instruction, which no interrupt can tear."""

    def __init__(self) -> None:
        self.roots: dict[int, RootSlot] = {}

    def change_roots(self, puts: dict[str, RootSlot], drops: set[str]) -> None:
        """Keep some roots and remove others."""
        self.roots = self.changed(puts, drops)

    def changed(self, puts: dict[str, RootSlot], drops: set[str]) -> dict[int, RootSlot]:
        """Return what `roots` will be with some put and some dropped; OutOfSpaceError if full."""
        for name in drops - {root.name for root in self.roots.values()}:
            raise KeyError(name)
        after = {index: root for index, root in self.roots.items() if root.name not in drops}
        places = {root.name: index for index, root in after.items()}
        free = (index for index in range(ROOT_SLOTS) if index not in after)
        for name, root in puts.items():
            index = places[name] if name in places else next(free, ROOT_SLOTS)
            if index == ROOT_SLOTS:
                raise OutOfSpaceError(f"roots: at most {ROOT_SLOTS} expected, one more wanted")
            after[index] = root
        return after


class Roots(MutableMapping[str, int]):
    """The roots of a heap: name to offset.

    Parameters
    ----------
    store : RootStore
        Where they are kept.
    guard : Guard
        The heap, as far as they know it. Only changes lock it: `check` reads from inside the lock.
    """

    def __init__(self, store: RootStore, guard: Guard) -> None:
        self._store = store
        self._guard = guard

    @property
    def store(self) -> RootStore:
        """Where they are kept."""
        return self._store

    def _slots(self) -> list[tuple[int, RootSlot]]:
        """Copy them in one step, in which no other thread can change them."""
        self._guard.require(write=False)
        return list(self._store.roots.items())

    def __getitem__(self, name: str) -> int:
        """Return the offset under a name. O(roots)."""
        for _, root in self._slots():
            if root.name == name:
                return root.off
        raise KeyError(name)

    def __setitem__(self, name: str, offset: int) -> None:
        """Keep the offset of a live block under a name of at most 43 bytes of UTF-8.

        As long as the root is there the block cannot be freed.

        Raises
        ------
        UsageError
            The name is empty, too long or no UTF-8, or no live block begins at the offset.
        OutOfSpaceError
            There are 1024 roots already.
        """
        self._change({name: offset}, set())

    def __delitem__(self, name: str) -> None:
        """Remove a root; the block it names stays."""
        self._guard.require(write=True)
        if name not in self:
            raise KeyError(name)
        self._change({}, {name})

    def update(self, other: Any = (), /, **more: int) -> None:
        """Set roots from a mapping or from pairs: all of them or none; exceptions as of one."""
        wanted: dict[str, int] = {}
        wanted.update(other, **more)
        if wanted:
            self._change(wanted, set())

    def clear(self) -> None:
        """Remove all roots, in one change."""
        self._guard.require(write=True)
        if names := set(self):
            self._change({}, names)

    def _change(self, offsets: dict[str, int], drops: set[str]) -> None:
        puts = {name: RootSlot(name, require_root(name, off)) for name, off in offsets.items()}
        self._guard.require(write=True)
        self._guard.change(self._store, puts, drops)

    def __iter__(self) -> Iterator[str]:
        """Yield the names, in the order of their slots."""
        return iter([root.name for _, root in sorted(self._slots(), key=operator.itemgetter(0))])

    def __len__(self) -> int:
        """Return the number of roots."""
        return len(self._slots())

    def __repr__(self) -> str:
        """Show them as a dictionary."""
        return f"Roots({dict(self)!r})"


def require_root(name: str, offset: int) -> int:
    """Return an offset that can be kept as a root, under a name that can be one.

    Raises
    ------
    TypeError
        The name is no str, or the offset no whole number.
    UsageError
        The name is empty, too long or no UTF-8, or the offset is not one.
    """
    _require_name(name)
    try:
        place = int.__index__(operator.index(offset))
    except TypeError as error:
        raise TypeError(f"root {name!r}: a whole number expected, {offset!r} found") from error
    if not 0 <= place < 1 << 63:
        raise UsageError(f"root {name!r}: an offset of the heap expected, {place} found")
    return place


def _require_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"root {name!r}: a name expected, found {type(name).__name__}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise UsageError(
            f"root {name!r}: a name in UTF-8 expected, {error.reason} found"
        ) from error
    if not 0 < length <= ROOT_NAME_BYTES:
        raise UsageError(
            f"root {name!r}: a name of 1 to {ROOT_NAME_BYTES} bytes expected, {length} found"
        )
