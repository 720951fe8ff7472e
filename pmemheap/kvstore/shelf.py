"""Shelf and TextStore: str keys over a store, and values that are not bytes.

    Shelf["a"]  --key.encode()-->  KVStore  --pickle.loads-->  any object
    TextStore   --key.encode()-->  KVStore  --bytes.decode-->  str

Keys are UTF-8, whose order as bytes is the order of the code points: so ranges of str are ranges of
bytes. What a value is, the wrapper knows and the file does not.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from pmemheap.containers import OrderedMapping
from pmemheap.containers.ordered import KEYS, VALUES, pairs_of
from pmemheap.kvstore.closing import Closing
from pmemheap.kvstore.texts import key_bytes, known_key

if TYPE_CHECKING:
    from pmemheap.heap.transaction import Transaction
    from pmemheap.kvstore.store import KVStore

__all__ = ["Shelf", "TextStore", "Wrapped"]

V = TypeVar("V")


class Wrapped(Closing, OrderedMapping[str, V]):
    """A store whose values pass through `dumps` and `loads`.

    Parameters
    ----------
    store : KVStore
        Open; `close` closes it. All that is not here is done on `store` itself.
    """

    def __init__(self, store: KVStore) -> None:
        self.store = store

    def dumps(self, value: V) -> bytes:
        """Return the bytes of a value."""
        raise NotImplementedError

    def loads(self, data: bytes) -> V:
        """Return the value that has these bytes."""
        raise NotImplementedError

    def __getitem__(self, key: str) -> V:
        """Return the value of a key: a new object each time; KeyError if there is none."""
        found = self.store.get(known_key(key))
        if found is None:
            raise KeyError(key)
        return self.loads(found)

    def __setitem__(self, key: str, value: V) -> None:
        """Give a key a value."""
        self.store.set(key_bytes(key), self.dumps(value))

    def set(
        self, key: str, value: V, ttl: float | None = None, tag: str | bytes | None = None
    ) -> None:
        """Give a key a value, for `ttl` seconds and with a tag if these are given."""
        self.store.set(key_bytes(key), self.dumps(value), ttl, tag)

    def __delitem__(self, key: str) -> None:
        """Remove a key; KeyError if it is not there."""
        if not self.store.delete(known_key(key)):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        """Tell whether there is such a key."""
        return known_key(key) in self.store

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self.store)

    def _scanned(self, low: str | None, high: str | None, back: bool, what: int) -> Iterator[Any]:
        start, stop = _bound(low), _bound(high)
        if what == KEYS:
            return (key.decode() for key in self.store.keys(start, stop, reverse=back))
        if what == VALUES:
            return (self.loads(value) for value in self.store.values(start, stop, reverse=back))
        items = self.store.items(start, stop, reverse=back)
        return ((key.decode(), self.loads(value)) for key, value in items)

    def _counted(self, low: str | None, high: str | None) -> int:
        return len(self.store.keys(_bound(low), _bound(high)))

    def put_many(self, pairs: Iterable[tuple[str, V]], *, batch: int = 256) -> None:
        """Give many keys values, in transactions of `batch` each."""
        encoded = ((key_bytes(key), self.dumps(value)) for key, value in pairs)
        self.store.put_many(encoded, batch=batch)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Take over all of a mapping, of anything with `keys`, or of pairs; as `put_many`."""
        self.put_many(chain(pairs_of(other), more.items()))

    def clear(self) -> None:
        """Remove everything."""
        self.store.clear()

    def transaction(self, durable: bool | None = None) -> Transaction:
        """Return a transaction, as that of the store."""
        return self.store.transaction(durable)

    def exclusive(self) -> AbstractContextManager[None]:
        """Return a transaction in which what is read stays true, as that of the store."""
        return self.store.exclusive()

    def sync(self) -> None:
        """Wait until everything that was committed is on the medium."""
        self.store.sync()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def __repr__(self) -> str:
        """Show the store."""
        return f"<{type(self).__name__} of {self.store!r}>"


class Shelf(Wrapped[Any]):
    """Pickled values, as in `shelve`, without its `writeback`: store an object again to change it.

    To unpickle is to run what the file says: open only files that you trust.
    """

    def dumps(self, value: Any) -> bytes:
        """Return the pickle of a value."""
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)

    def loads(self, data: bytes) -> Any:
        """Return the object of a pickle."""
        return pickle.loads(data)


class TextStore(Wrapped[str]):
    """Values of str, stored as UTF-8."""

    _default = ""

    def dumps(self, value: str) -> bytes:
        """Return a text as UTF-8; TypeError if it is none."""
        if not isinstance(value, str):
            raise TypeError(f"{self!r}: value: str expected, found {type(value).__name__}")
        return value.encode()

    def loads(self, data: bytes) -> str:
        """Return UTF-8 as a text; UnicodeDecodeError if it is none."""
        return data.decode()


def _bound(key: str | None) -> bytes | None:
    return None if key is None else key_bytes(key)
