"""Roots: the names by which a heap is entered again. A mapping of str to offset.

In a file heap each root is one slot of the root table; in an anonymous heap a dictionary does. A root
may name any offset of the heap; `check` reports one at which no live block begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Protocol

from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.layout import ROOT_NAME_BYTES, ROOT_SLOTS, RootSlot

__all__ = ["MemoryRoots", "RootStore", "Roots"]


class RootStore(Protocol):
    """Where roots are kept."""

    roots: dict[int, RootSlot]

    def put_root(self, root: RootSlot) -> None:
        """Keep a root under its name; OutOfSpaceError when the table is full."""

    def drop_root(self, name: str) -> None:
        """Remove a root; KeyError if there is none of that name."""


class MemoryRoots:
    """The roots of an anonymous heap."""

    def __init__(self) -> None:
        self.roots: dict[int, RootSlot] = {}
        self._by_name: dict[str, int] = {}

    def put_root(self, root: RootSlot) -> None:
        """Keep a root under its name."""
        index = self._by_name.get(root.name)
        if index is None:
            if len(self._by_name) == ROOT_SLOTS:
                raise OutOfSpaceError(f"roots: at most {ROOT_SLOTS} expected, all in use")
            index = next(i for i in range(ROOT_SLOTS) if i not in self.roots)
            self._by_name[root.name] = index
        self.roots[index] = root

    def drop_root(self, name: str) -> None:
        """Remove a root."""
        del self.roots[self._by_name.pop(name)]


class Roots(MutableMapping[str, int]):
    """The roots of a heap: name to offset.

    Parameters
    ----------
    store : RootStore
        Where they are kept.
    require : callable
        Raises what is to be raised when the heap may not be read, or with True not be changed.
    """

    def __init__(self, store: RootStore, require: Callable[[bool], None]) -> None:
        self._store = store
        self._require = require

    def __getitem__(self, name: str) -> int:
        """Return the offset under a name. O(roots)."""
        self._require(False)
        for root in self._store.roots.values():
            if root.name == name:
                return root.off
        raise KeyError(name)

    def __setitem__(self, name: str, offset: int) -> None:
        """Keep an offset under a name of at most 43 bytes of UTF-8.

        Raises
        ------
        UsageError
            The name is empty or too long, or the offset is not one.
        OutOfSpaceError
            There are 1024 roots already.
        """
        self._require(True)
        encoded = name.encode()
        if not 0 < len(encoded) <= ROOT_NAME_BYTES:
            raise UsageError(
                f"root {name!r}: a name of 1 to {ROOT_NAME_BYTES} bytes expected, {len(encoded)} found"
            )
        if not isinstance(offset, int) or not 0 <= offset < 1 << 63:
            raise UsageError(f"root {name!r}: an offset of the heap expected, {offset!r} found")
        self._store.put_root(RootSlot(name, offset))

    def __delitem__(self, name: str) -> None:
        """Remove a root; the block it names stays."""
        self._require(True)
        self._store.drop_root(name)

    def __iter__(self) -> Iterator[str]:
        """Yield the names, in the order of their slots."""
        self._require(False)
        return iter([root.name for _, root in sorted(self._store.roots.items())])

    def __len__(self) -> int:
        """Return the number of roots."""
        self._require(False)
        return len(self._store.roots)

    def __repr__(self) -> str:
        """Show them as a dictionary."""
        return f"Roots({dict(self)!r})"
