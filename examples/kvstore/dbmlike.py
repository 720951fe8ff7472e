"""DbmStore and `open_store`: a store for programs that were written for `dbm`.

As there, keys and values may be str or bytes, str is stored as UTF-8, and bytes come back. Unlike
there, keys are in order, and there is all the rest that a `KVStore` has.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kvstore.store import KVStore

__all__ = ["DbmStore", "open_store"]

Text = str | bytes
_ALL = 0o777


class DbmStore(KVStore):
    """A store that takes str wherever `KVStore` takes the bytes of keys and values."""

    def _bind_fast(self) -> None:
        """Do nothing: here every call encodes."""

    def __getitem__(self, key: Text) -> bytes:
        """Return the value of a key, as bytes; KeyError if there is none."""
        return super().__getitem__(_encoded(key))

    def get(self, key: Text, /, default: Any = None) -> Any:
        """Return the value of a key, as bytes, or `default` as it is."""
        return super().get(_encoded(key), default)

    def view(self, key: Text) -> memoryview:
        """Return a view of a value, as `KVStore.view`."""
        return super().view(_encoded(key))

    def __contains__(self, key: object) -> bool:
        """Tell whether there is such a key."""
        return super().__contains__(_encoded(key))

    def keys(
        self, start: Text | None = None, stop: Text | None = None, *, reverse: bool = False
    ) -> Any:
        """Yield the keys of a range, as bytes."""
        return super().keys(_encoded(start), _encoded(stop), reverse=reverse)

    def values(
        self, start: Text | None = None, stop: Text | None = None, *, reverse: bool = False
    ) -> Any:
        """Yield the values of a range, as bytes."""
        return super().values(_encoded(start), _encoded(stop), reverse=reverse)

    def items(
        self, start: Text | None = None, stop: Text | None = None, *, reverse: bool = False
    ) -> Any:
        """Yield keys and values of a range, as bytes."""
        return super().items(_encoded(start), _encoded(stop), reverse=reverse)

    def scan(self, start: Text | None = None, count: int = 25) -> list[tuple[bytes, bytes]]:
        """Return the first `count` entries from `start` on."""
        return super().scan(_encoded(start), count)

    def set(self, key: Text, value: Any, ttl: float | None = None) -> None:
        """Give a key a value, as `KVStore.set`."""
        super().set(_encoded(key), _encoded(value), ttl)

    def __setitem__(self, key: Text, value: Any) -> None:
        """Give a key a value."""
        self.set(key, value)

    def delete(self, key: Text) -> bool:
        """Remove a key if it is there; tell whether it was."""
        return super().delete(_encoded(key))

    def __delitem__(self, key: Text) -> None:
        """Remove a key; KeyError if it is not there."""
        super().__delitem__(_encoded(key))

    def patch(self, key: Text, offset: int, data: Any) -> None:
        """Change bytes inside of a value; `offset` counts bytes."""
        super().patch(_encoded(key), offset, _encoded(data))

    def setdefault(self, key: Text, default: Any = b"") -> bytes:
        """Return the value of a key, which is `default` from now on if there was none."""
        return super().setdefault(_encoded(key), _encoded(default))

    def pop(self, key: Text, /, *default: Any) -> Any:
        """Remove a key and return its value, or `default` as it is."""
        return super().pop(_encoded(key), *default)

    def put_many(
        self, pairs: Iterable[tuple[Text, Any]], *, batch: int = 256, ttl: float | None = None
    ) -> None:
        """Give many keys values, as `KVStore.put_many`."""
        encoded = ((_encoded(key), _encoded(value)) for key, value in pairs)
        super().put_many(encoded, batch=batch, ttl=ttl)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Take over all of a mapping or of pairs, and of named values."""
        super().update(other)
        self.put_many(more.items())

    def expire(self, key: Text, ttl: float) -> bool:
        """Let a key expire, as `KVStore.expire`."""
        return super().expire(_encoded(key), ttl)

    def persist(self, key: Text) -> bool:
        """Let a key not expire, as `KVStore.persist`."""
        return super().persist(_encoded(key))

    def ttl(self, key: Text) -> float | None:
        """Return the seconds that a key has left, as `KVStore.ttl`."""
        return super().ttl(_encoded(key))


def open_store(
    path: str | os.PathLike[str], flag: str = "c", mode: int = 0o666, **options: Any
) -> DbmStore:
    """Open a store as `dbm` does.

    Parameters
    ----------
    path : path
        Of the file; no suffix is added.
    flag : {"c", "r", "w", "n"}
        Open, and create if it is missing; open to read; open to write; create anew.
    mode : int
        Permissions of a file that is created, of which the umask takes some away.
    **options
        As `KVStore`.

    Raises
    ------
    UsageError, CorruptHeapError
        As `KVStore`.
    """
    is_new = flag == "n" or (flag == "c" and not os.path.lexists(path))
    store = DbmStore(path, flag=flag, **options)
    if is_new and mode & 0o666 != 0o666:
        place = Path(path)
        place.chmod(place.stat().st_mode & mode & _ALL)
    return store


def _encoded(text: Any) -> Any:
    return text.encode() if isinstance(text, str) else text
