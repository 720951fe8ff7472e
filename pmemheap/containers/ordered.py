"""OrderedMapping: what mappings in key order have in common, with views that may be a part of one.

    mapping.items(b"b", b"d")  -->  ItemsRange(mapping, start=b"b", stop=b"d")
                                      |  iterated, counted, compared: as the mapping is now
                                      +--> _scanned, _counted of the mapping

A class that derives from it has the methods of a mutable mapping and three more: `_scanned` and
`_counted` over a range, and `exclusive`, inside of which nobody else changes anything. That is what
makes `pop`, `popitem` and `setdefault` one step each, also beside other threads.

A key of a type that the mapping does not take is a key that is not there; to store one is a
TypeError. A view has no copy of anything and no end: it shows what is added later, as that of a
dict does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, Iterator, KeysView, MappingView, MutableMapping, ValuesView
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar

__all__ = ["ItemsRange", "KeysRange", "OrderedMapping", "ValuesRange", "pairs_of"]

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Any = object()


KEYS, VALUES, ITEMS = range(3)
"""The part of each entry that a scan yields."""


class OrderedMapping(MutableMapping[K, V]):
    """A mutable mapping in the order of its keys."""

    _default: ClassVar[Any] = None
    """The default value of `setdefault`."""

    @abstractmethod
    def _scanned(self, low: K | None, high: K | None, back: bool, what: int) -> Iterator[Any]:
        """Yield keys, values or both from `low` up to, without, `high`, or back from there."""

    @abstractmethod
    def _counted(self, low: K | None, high: K | None) -> int:
        """Return how many keys there are from `low` up to, without, `high`."""

    @abstractmethod
    def exclusive(self) -> AbstractContextManager[object]:
        """Return a context in which the values read stay true until its transaction commits."""

    def __iter__(self) -> Iterator[K]:
        """Yield the keys in their order."""
        return self._scanned(None, None, False, KEYS)

    def __reversed__(self) -> Iterator[K]:
        """Yield the keys from the last one on."""
        return self._scanned(None, None, True, KEYS)

    # ------------------------------------------------------------ views

    def keys(
        self, start: K | None = None, stop: K | None = None, *, reverse: bool = False
    ) -> KeysRange[K]:
        """Return a view of the keys from `start` up to, but not including, `stop`.

        Parameters
        ----------
        start, stop : key, optional
            Where the range begins and ends; if left out, with the first and after the last key.
        reverse : bool
            Iterate from the last key of the range on.

        Returns
        -------
        KeysRange
            As the view of a dict: a set that follows the mapping. It can be iterated while the
            mapping is changed: each key is there when it is yielded, and each value is the one that
            it has then. A key that is added between the last yielded one and the next is not seen.
            ``len`` of a part takes O(n / 32) of its n keys.
        """
        return KeysRange(self, start, stop, reverse)

    def values(
        self, start: K | None = None, stop: K | None = None, *, reverse: bool = False
    ) -> ValuesRange[V]:
        """Return a view of the values, as `keys` does."""
        return ValuesRange(self, start, stop, reverse)

    def items(
        self, start: K | None = None, stop: K | None = None, *, reverse: bool = False
    ) -> ItemsRange[K, V]:
        """Return a view of keys and values, as `keys` does."""
        return ItemsRange(self, start, stop, reverse)

    # ------------------------------------------------------------ one step each

    def setdefault(self, key: K, default: Any = _ABSENT) -> V:
        """Return the value of a key, which is `default` from now on if there was none."""
        found: V = self.get(key, _ABSENT)
        if found is not _ABSENT:
            return found
        with self.exclusive():
            found = self.get(key, _ABSENT)  # another thread may have been faster
            if found is _ABSENT:
                self[key] = self._default if default is _ABSENT else default
                found = self[key]
        return found

    def pop(self, key: K, /, default: Any = _ABSENT) -> Any:
        """Remove a key and return its value, or `default`; KeyError if that is left out."""
        found: Any = _ABSENT
        if key in self:
            with self.exclusive():
                found = self.get(key, _ABSENT)
                if found is not _ABSENT:
                    del self[key]
        if found is not _ABSENT:
            return found
        if default is _ABSENT:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Remove the first key and return it with its value; KeyError if there is none."""
        found: tuple[K, V] | None = None
        if next(iter(self), _ABSENT) is not _ABSENT:
            with self.exclusive():
                found = next(self._scanned(None, None, False, ITEMS), None)
                if found is not None:
                    del self[found[0]]
        if found is None:
            raise KeyError("popitem: a mapping with keys expected, it is empty")
        return found


def pairs_of(other: Any) -> Iterator[tuple[Any, Any]]:
    """Return keys and values of what `dict.update` takes: of anything with `keys`, or pairs."""
    if not hasattr(other, "keys"):
        pairs: Iterator[tuple[Any, Any]] = iter(other)
        return pairs
    return ((key, other[key]) for key in other.keys())  # noqa: SIM118 -- it need not be iterable


class _Range(MappingView):
    """A part of a mapping, or all of it, in one direction.

    It can be asked for its next element as well, which those of a dict cannot: then it is gone
    through once, and `iter` goes on where `next` has come to.
    """

    __slots__ = ("_high", "_low", "_mapping", "_reverse", "_under_way")

    _mapping: OrderedMapping[Any, Any]
    _what: ClassVar[int]

    def __init__(
        self, mapping: OrderedMapping[Any, Any], low: Any, high: Any, reverse: bool
    ) -> None:
        self._mapping = mapping
        self._low = low
        self._high = high
        self._reverse = reverse
        self._under_way: Iterator[Any] | None = None

    def __len__(self) -> int:
        """Count the keys in it."""
        if self._low is None and self._high is None:
            return len(self._mapping)
        return self._mapping._counted(self._low, self._high)

    def __iter__(self) -> Iterator[Any]:
        """Iterate in its direction, from its begin, or from where `next` has come to."""
        return self._begun() if self._under_way is None else self._under_way

    def _begun(self) -> Iterator[Any]:
        return self._mapping._scanned(self._low, self._high, self._reverse, self._what)

    def __next__(self) -> Any:
        """Return the next element; StopIteration behind the last one."""
        if self._under_way is None:
            self._under_way = self._begun()
        return next(self._under_way)

    def __reversed__(self) -> Iterator[Any]:
        """Iterate in the other direction."""
        return self._mapping._scanned(self._low, self._high, not self._reverse, self._what)

    def __repr__(self) -> str:
        """Show whose, and from where to where."""
        parts = [repr(self._mapping)]
        parts += [f"{name}={key!r}" for name, key in self._bounds()]
        parts += ["reverse=True"] * self._reverse
        return f"{type(self).__name__}({', '.join(parts)})"

    def _bounds(self) -> list[tuple[str, Any]]:
        bounds = [("start", self._low), ("stop", self._high)]
        return [(name, key) for name, key in bounds if key is not None]

    def _spans(self, key: Any) -> bool:
        """Tell whether a key of the mapping lies in the range."""
        if self._low is None and self._high is None:
            return True
        if not isinstance(key, str | bytes):
            key = bytes(key)  # not every buffer can be compared
        return (self._low is None or self._low <= key) and (self._high is None or key < self._high)


class KeysRange(_Range, KeysView[K]):
    """The keys of a mapping, or those of a part."""

    __slots__ = ()
    _what = KEYS

    def __contains__(self, key: object) -> bool:
        """Tell whether there is such a key in it."""
        return key in self._mapping and self._spans(key)


class ItemsRange(_Range, ItemsView[K, V]):
    """The pairs of key and value of a mapping, or those of a part."""

    __slots__ = ()
    _what = ITEMS

    def __contains__(self, item: object) -> bool:
        """Tell whether there is such a key in it, with this value."""
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        key, value = item
        found = self._mapping.get(key, _ABSENT)
        return found is not _ABSENT and found == value and self._spans(key)


class ValuesRange(_Range, ValuesView[V]):
    """The values of a mapping, or those of a part."""

    __slots__ = ()
    _what = VALUES

    def __contains__(self, value: object) -> bool:
        """Tell whether some key in it has this value. O(n)."""
        return any(found is value or found == value for found in self._begun())
