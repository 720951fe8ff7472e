"""Roots: the names by which a heap is entered again. A mapping of str to offset.

In a file heap each root is one slot of the root table; in an anonymous heap a dictionary does. A
root names a live block, by its first byte, and keeps it from being freed: `rooted` sees to that.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable, ItemsView, Iterator, MutableMapping, ValuesView
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.format.layout import ROOT_NAME_BYTES, ROOT_SLOTS, RootSlot

__all__ = [
    "Guard",
    "MemoryRoots",
    "OffsetsView",
    "RootNames",
    "RootStore",
    "Roots",
    "RootsView",
    "require_root",
]


T = TypeVar("T")

_ABSENT: Any = object()

Slots = dict[int, RootSlot]


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


Change = Callable[[dict[str, RootSlot], set[str]], None]
"""Puts some roots and drops others, all of it or nothing."""


class Guard(Protocol):
    """The methods of a heap that its roots call."""

    def require(self, *, write: bool) -> None:
        """Raise what is to be raised when the heap may not be read, or not be changed."""

    def alone(self, store: RootStore, work: Callable[[Change], T]) -> T:
        """Run work while nothing else changes the heap.

        It is handed what changes roots, as ``store.change_roots`` does, and raises UsageError if no
        live block begins where one is to lead.
        """


class Committable(Protocol):
    """A transaction, as far as roots know it."""

    @property
    def is_committed(self) -> bool:
        """Whether it is committed; once it is, for good."""
        ...


class MemoryRoots:
    """The roots of an anonymous heap; changed in one instruction, which no interrupt can tear.

    Those of a transaction count from the moment at which it is committed, which is in C: so they
    are here before, and each look at the roots asks whether it has committed.
    """

    def __init__(self) -> None:
        self._state: tuple[Slots, Committable | None, Slots] = ({}, None, {})

    @property
    def roots(self) -> dict[int, RootSlot]:
        """Those that are kept, by the numbers of their slots."""
        kept, transaction, coming = self._state
        return coming if transaction is not None and transaction.is_committed else kept

    def change_roots(self, puts: dict[str, RootSlot], drops: set[str]) -> None:
        """Keep some roots and remove others."""
        self._state = self.changed(puts, drops), None, {}

    @contextmanager
    def changed_by(
        self, transaction: Committable, puts: dict[str, RootSlot], drops: set[str]
    ) -> Iterator[None]:
        """Keep some roots and remove others, if and when the block commits a transaction."""
        self._state = self.roots, transaction, self.changed(puts, drops)
        try:
            yield
        finally:
            self._state = self.roots, None, {}

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


class RootNames(MutableMapping[str, int]):
    """Names and offsets, as they are or as a transaction will leave them; all of one moment."""

    @abstractmethod
    def now(self) -> dict[str, int]:
        """Return names and offsets of this moment."""

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self.now())

    def __len__(self) -> int:
        """Return the number of roots."""
        return len(self.now())

    def values(self) -> OffsetsView:
        """Return a view of the offsets; each iteration is over those of one moment."""
        return OffsetsView(self)

    def items(self) -> RootsView:
        """Return a view of names and offsets, likewise."""
        return RootsView(self)


class Roots(RootNames):
    """The roots of a heap: name to offset.

    Parameters
    ----------
    store : RootStore
        Where they are kept.
    guard : Guard
        The heap, as far as they know it, which they keep open. Only changes lock it: `check` reads
        from inside the lock.

    Examples
    --------
    >>> import pmemheap
    >>> roots = pmemheap.Heap.anonymous().roots     # the roots keep the heap
    >>> len(roots), "first" in roots, 1 in roots, dict(roots.items())
    (0, False, False, {})
    """

    def __init__(self, store: RootStore, guard: Guard) -> None:
        self._store = store
        self._guard = guard

    @property
    def store(self) -> RootStore:
        """Where they are kept."""
        return self._store

    def now(self) -> dict[str, int]:
        """Return names and offsets of this moment, in the order of their slots."""
        self._guard.require(write=False)
        return _now(self._store)

    def __getitem__(self, name: str) -> int:
        """Return the offset under a name; KeyError if there is none, or it is no str. O(roots)."""
        self._guard.require(write=False)
        for root in list(self._store.roots.values()):
            if isinstance(name, str) and root.name == name:
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
        self.update({name: offset})

    def __delitem__(self, name: str) -> None:
        """Remove a root; the block it names stays."""
        self.pop(name)

    def pop(self, name: str, default: Any = _ABSENT) -> Any:
        """Remove a root and return its offset, or `default`; in one step, as all changes."""
        found = self._alone(lambda now, change: _popped(name, now, change))
        if found is not _ABSENT:
            return found
        if default is _ABSENT:
            raise KeyError(name)
        return default

    def popitem(self) -> tuple[str, int]:
        """Remove a root, and return name and offset; KeyError if there is none."""
        found = self._alone(
            lambda now, change: [(name, _popped(name, now, change)) for name in list(now)[:1]]
        )
        if not found:
            raise KeyError("popitem: roots expected, there are none")
        return found[0]

    def setdefault(self, name: str, default: Any = None) -> int:
        """Return the offset under a name, which is `default` from now on if there was none."""

        def found_or_put(now: dict[str, int], change: Change) -> int:
            if name not in now:
                now[name] = require_root(name, default)
                change({name: RootSlot(name, now[name])}, set())
            return now[name]

        if name not in self:
            require_root(name, default)
        return self._alone(found_or_put)

    def update(self, other: Any = (), /, **more: int) -> None:
        """Set roots from a mapping or from pairs: all of them or none; exceptions as of one."""
        wanted: dict[str, int] = {}
        wanted.update(other, **more)
        puts = {name: RootSlot(name, require_root(name, off)) for name, off in wanted.items()}
        if puts:
            self._alone(lambda _, change: change(puts, set()))

    def clear(self) -> None:
        """Remove all roots, in one change."""
        self._alone(lambda now, change: change({}, set(now)) if now else None)

    def _alone(self, work: Callable[[dict[str, int], Change], T]) -> T:
        """Run a change, which is given the roots of this moment and what changes them."""
        self._guard.require(write=True)
        return self._guard.alone(self._store, lambda change: work(_now(self._store), change))

    def __repr__(self) -> str:
        """Show them as a dictionary."""
        return f"Roots({self.now()!r})"


def _now(store: RootStore) -> dict[str, int]:
    """Return names and offsets of this moment."""
    slots = list(store.roots.items())  # in one step, in which no other thread changes them
    return {root.name: root.off for _, root in sorted(slots, key=operator.itemgetter(0))}


def _popped(name: str, now: dict[str, int], change: Change) -> Any:
    if not isinstance(name, str) or name not in now:
        return _ABSENT
    change({}, {name})
    return now[name]


class OffsetsView(ValuesView[int]):
    """The offsets of roots. Other threads may remove what they name while they are iterated."""

    def __init__(self, mapping: Any) -> None:
        super().__init__(mapping)
        self._named: RootNames = mapping

    def __iter__(self) -> Iterator[int]:
        """Yield the offsets of one moment."""
        return iter(self._named.now().values())

    def __contains__(self, offset: object) -> bool:
        """Tell whether a root has this offset."""
        return offset in self._named.now().values()


class RootsView(ItemsView[str, int]):
    """Names and offsets of roots, likewise."""

    def __init__(self, mapping: Any) -> None:
        super().__init__(mapping)
        self._named: RootNames = mapping

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield names and offsets of one moment."""
        return iter(self._named.now().items())


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
        raise TypeError(f"roots: key: str expected, found {name!r}")
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
