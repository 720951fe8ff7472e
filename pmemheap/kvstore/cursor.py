"""Cursor: a place between or at the keys of a mapping, from which one steps to and fro.

    first  seek(b"b")  next        key     b"a"   b"b"   b"c"
      |        |        |                    ^
      v        v        v          prev <-- at --> next

A cursor holds a key and no place in a file: it stays valid whatever is added or removed, by whom
ever. A step is one look for the next key, O(log n); a range (`items`) is the faster way to go
through many. Ranges of a prefix end at `end_of` it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from pmemheap.containers import OrderedMapping

__all__ = ["Cursor", "end_of"]

K = TypeVar("K")
V = TypeVar("V")


def end_of(prefix: bytes) -> bytes | None:
    """Return the first key behind those that begin with a prefix; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


class Cursor(Generic[K, V]):
    """A place in a mapping.

    Parameters
    ----------
    mapping : OrderedMapping
        Whose keys it goes through. What it hands out is what the mapping has at that moment.

    Notes
    -----
    ``cursor.key`` is where it stands; None before the first step, and when the last one led
    nowhere.

    Examples
    --------
    >>> import pmemheap
    >>> from pmemheap.containers import SortedMap
    >>> heap = pmemheap.Heap.anonymous()
    >>> fruit = SortedMap(heap, "fruit")
    >>> fruit.update({b"apple": b"2", b"pear": b"3", b"plum": b"5"})
    >>> cursor = Cursor(fruit)
    >>> cursor.seek(b"b"), cursor.item()
    (True, (b'pear', b'3'))
    >>> cursor.next(), cursor.key, cursor.next(), cursor.key
    (True, b'plum', False, None)
    >>> cursor.last(), cursor.prev(), cursor.key
    (True, True, b'pear')
    >>> heap.close()
    """

    def __init__(self, mapping: OrderedMapping[K, V]) -> None:
        self._mapping = mapping
        self.key: K | None = None

    def first(self) -> bool:
        """Go to the first key; tell whether there is one."""
        return self._step(None, None, back=False)

    def last(self) -> bool:
        """Go to the last key; tell whether there is one."""
        return self._step(None, None, back=True)

    def seek(self, key: K) -> bool:
        """Go to a key, or to the next one if it is not there; tell whether there is one."""
        return self._step(key, None, back=False)

    def next(self) -> bool:
        """Go to the next key, from nowhere to the first one; tell whether there is one."""
        return self._step(self.key, None, back=False, beyond=self.key)

    def prev(self) -> bool:
        """Go to the key before, from nowhere to the last one; tell whether there is one."""
        return self._step(None, self.key, back=True)

    def item(self) -> tuple[K, V]:
        """Return key and value of the place.

        Raises
        ------
        KeyError
            It stands at no key, or the key has been removed.
        """
        if self.key is None:
            raise KeyError("cursor: a place at a key expected, found none")
        return self.key, self._mapping[self.key]

    def _step(self, low: K | None, high: K | None, *, back: bool, beyond: K | None = None) -> bool:
        found = OrderedMapping.keys(self._mapping, low, high, reverse=back)  # lists are for `dbm`
        self.key = next((key for key in found if beyond is None or key != beyond), None)
        return self.key is not None
