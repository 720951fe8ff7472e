"""DbmStore and `open_store`: a store for programs that were written for `dbm`.

As there, keys and values may be str or bytes, str is stored as UTF-8, and bytes come back; `keys`,
`values` and `items` are lists; what is refused is a `pmemheap.kvstore.error`, which `dbm.error`
catches. It is the error of pmemheap as well: `UsageError` for a store that is closed or was opened
to read.

Unlike there, keys are in order, and there is all the rest that a `KVStore` has.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import wraps
from inspect import isfunction
from itertools import chain
from typing import Any, TypeVar

from pmemheap import (
    CorruptHeapError,
    DurabilityName,
    OpenFlag,
    OutOfSpaceError,
    PmemHeapError,
    UsageError,
)
from pmemheap.containers.ordered import KEYS, pairs_of
from pmemheap.kvstore.store import KVStore
from pmemheap.kvstore.storefile import AnyPath
from pmemheap.kvstore.texts import known_key

__all__ = ["DbmError", "DbmStore", "open_store"]

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])
Text = str | bytes
_ALL = 0o777
_SPECIAL = frozenset(
    ["__init__", "__getitem__", "__contains__", "__len__", "__setitem__", "__delitem__", "__eq__"]
)


class DbmError(PmemHeapError, OSError):
    """What the dbm face refuses: `pmemheap.kvstore.error`."""


class DbmUsageError(DbmError, UsageError):
    """The caller's mistake, such as a closed store."""


class DbmSpaceError(DbmError, OutOfSpaceError):
    """There is no room; ENOSPC."""


class DbmCorruptError(DbmError, CorruptHeapError):
    """The file is no store, or not a sound one."""


_OWN = [
    (UsageError, DbmUsageError, errno.EINVAL),
    (OutOfSpaceError, DbmSpaceError, errno.ENOSPC),
    (CorruptHeapError, DbmCorruptError, errno.EIO),
]


def _as_dbm(error: PmemHeapError) -> OSError:
    """Return an error of pmemheap as one of an operating system."""
    own, number = next(
        ((own, number) for kind, own, number in _OWN if isinstance(error, kind)), (DbmError, None)
    )
    found = own(str(error))
    found.errno = number
    return found


def _translated(method: F) -> F:
    """Let a method raise what `dbm.error` catches."""

    @wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return method(*args, **options)
        except PmemHeapError as error:
            if isinstance(error, OSError):
                raise
            raise _as_dbm(error) from error

    return call  # type: ignore[return-value]


def _face_translated(cls: type[C]) -> type[C]:
    """Let all public methods of a class do so, those that it inherits as well."""
    for name in dir(cls):
        method = getattr(cls, name)
        if (not name.startswith("_") or name in _SPECIAL) and isfunction(method):
            setattr(cls, name, _translated(method))
    return cls


@_face_translated
class DbmStore(KVStore):
    """A store that takes str wherever `KVStore` takes the bytes of keys and values."""

    def _bind_fast(self) -> None:
        """Do nothing: here every call encodes."""

    # ------------------------------------------------------------ reading

    def __getitem__(self, key: Text) -> bytes:
        """Return the value of a key, as bytes; KeyError if there is none."""
        return super().__getitem__(_known(key))

    def get(self, key: Text, /, default: Any = None) -> Any:
        """Return the value of a key, as bytes, or `default` as it is."""
        return super().get(_known(key), default)

    def view(self, key: Text) -> memoryview:
        """Return a view of a value, as `KVStore.view`."""
        return super().view(_known(key))

    def __contains__(self, key: object) -> bool:
        """Tell whether there is such a key."""
        return super().__contains__(_known(key))

    def _scanned(self, low: Text | None, high: Text | None, back: bool, what: int) -> Iterator[Any]:
        found = super()._scanned(_encoded(low), _encoded(high), back, what)
        take = _translated(found.__next__)
        with suppress(StopIteration):
            while True:
                yield take()

    def _counted(self, low: Text | None, high: Text | None) -> int:
        return super()._counted(_encoded(low), _encoded(high))

    def keys(self, *bounds: Any, **options: Any) -> Any:
        """Return the keys, or those of a range, in a list."""
        return list(super().keys(*bounds, **options))

    def values(self, *bounds: Any, **options: Any) -> Any:
        """Return the values, or those of a range, in a list."""
        return list(super().values(*bounds, **options))

    def items(self, *bounds: Any, **options: Any) -> Any:
        """Return pairs of key and value, or those of a range, in a list."""
        return list(super().items(*bounds, **options))

    def scan(self, start: Text | None = None, count: int = 25) -> list[tuple[bytes, bytes]]:
        """Return the first `count` entries from `start` on."""
        return super().scan(_encoded(start), count)

    def prefix(self, prefix: Text, *, reverse: bool = False) -> Any:
        """Return pairs of the keys that begin with a text, in a list."""
        return list(super().prefix(_encoded(prefix), reverse=reverse))

    def firstkey(self) -> bytes | None:
        """Return the first key, or None, as `dbm.gnu` does."""
        return next(iter(self), None)

    def nextkey(self, key: Text) -> bytes | None:
        """Return the key that comes after one, which need not be there, or None."""
        found = self._scanned(key, None, False, KEYS)
        return next((each for each in found if each != _encoded(key)), None)

    def reorganize(self) -> None:
        """Give back what the store does not need, as `compact`; the name is that of `dbm.gnu`."""
        self.compact()

    # ------------------------------------------------------------ changing

    def set(self, key: Text, value: Any, ttl: float | None = None, tag: Text | None = None) -> None:
        """Give a key a value, as `KVStore.set`."""
        super().set(_encoded(key), _encoded(value), ttl, tag)

    def add(self, key: Text, value: Any, ttl: float | None = None, tag: Text | None = None) -> bool:
        """Give a key a value if it is not there; return whether it was not, as `KVStore.add`."""
        return super().add(_encoded(key), value, ttl, tag)

    def set_until(
        self, key: Text, value: Any, deadline: int | None, tag: Text | None = None
    ) -> None:
        """Give a key a value, as `KVStore.set_until`."""
        super().set_until(_encoded(key), _encoded(value), deadline, tag)

    def __setitem__(self, key: Text, value: Any) -> None:
        """Give a key a value."""
        self.set(key, value)

    def delete(self, key: Text) -> bool:
        """Remove a key if it is there; tell whether it was."""
        return super().delete(_known(key))

    def __delitem__(self, key: Text) -> None:
        """Remove a key; KeyError if it is not there."""
        if not self.delete(key):
            raise KeyError(key)

    def setdefault(self, key: Text, default: Any = b"") -> bytes:
        """Return the value of a key, which is `default` from now on if there was none."""
        return super().setdefault(key, default)  # type: ignore[arg-type]

    def pop(self, key: Text, /, *default: Any) -> Any:
        """Remove a key and return its value, or `default` as it is."""
        return super().pop(key, *default)  # type: ignore[arg-type]

    def patch(self, key: Text, offset: int, data: Any) -> None:
        """Change bytes inside of a value; `offset` counts bytes."""
        super().patch(_known(key), offset, _encoded(data))

    def incr(self, key: Text, delta: int = 1, default: int | None = 0) -> int:
        """Add to a number, as `KVStore.incr`; return the sum."""
        return super().incr(_encoded(key), delta, default)

    def decr(self, key: Text, delta: int = 1, default: int | None = 0) -> int:
        """Subtract from a number, as `KVStore.decr`; return the difference."""
        return self.incr(key, -delta, default)

    def put_many(
        self,
        pairs: Iterable[tuple[Text, Any]],
        *,
        batch: int = 256,
        ttl: float | None = None,
        tag: Text | None = None,
    ) -> None:
        """Give many keys values, as `KVStore.put_many`."""
        encoded = ((_encoded(key), _encoded(value)) for key, value in pairs)
        super().put_many(encoded, batch=batch, ttl=ttl, tag=tag)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Take over all of a mapping, of anything with `keys`, or of pairs, and named values."""
        self.put_many(chain(pairs_of(other), more.items()))

    # ------------------------------------------------------------ expiry, and the whole

    def expire(self, key: Text, ttl: float) -> bool:
        """Let a key expire, as `KVStore.expire`; tell whether there is such a key."""
        return super().expire(key, ttl)  # type: ignore[arg-type]

    def expire_at(self, key: Text, deadline: int) -> bool:
        """Let a key expire, as `KVStore.expire_at`; tell whether there is such a key."""
        return super().expire_at(_known(key), deadline)

    def persist(self, key: Text) -> bool:
        """Let a key not expire, as `KVStore.persist`; tell whether it would have."""
        return super().persist(_known(key))

    def ttl(self, key: Text) -> float | None:
        """Return the seconds that a key has left, as `KVStore.ttl`."""
        return super().ttl(_known(key))

    def deadline(self, key: Text) -> int | None:
        """Return when a key expires, as `KVStore.deadline`."""
        return super().deadline(_known(key))

    def tag(self, key: Text) -> bytes | None:
        """Return the tag of a key, as `KVStore.tag`."""
        return super().tag(_known(key))


def open_store(  # noqa: PLR0913 -- options of a file, all but the first ones by name
    path: AnyPath,
    flag: OpenFlag = "r",
    mode: int = 0o666,
    *,
    durability: DurabilityName | None = "power",
    durable: bool | None = None,
    limit: int | None = None,
    evict: str | None = None,
    count_hits: bool = False,
    headroom: int | None = None,
    readers: bool = False,
    clock: Callable[[], int] = time.time_ns,
) -> DbmStore:
    """Open a store as `dbm` does, and return it.

    Parameters
    ----------
    path : path
        Of the file, str or bytes; no suffix is added.
    flag : {"r", "w", "c", "n"}
        Open to read; open to write; the same, and create it if it is missing; create it anew.
    mode : int
        Permissions of a file that is created, of which the umask takes some away.
    durability, durable, limit, evict, count_hits, headroom, readers, clock
        As `KVStore`.

    Raises
    ------
    OSError
        There is no such file, or it is in use; see `DbmError` for what else is one.
    """
    is_new = flag == "n" or (flag == "c" and not os.path.exists(path))
    store = DbmStore(
        path, durability, flag, durable=durable, limit=limit, evict=evict, count_hits=count_hits,
        headroom=headroom, readers=readers, clock=clock,
    )  # fmt: skip
    if is_new and mode & 0o666 != 0o666:
        os.chmod(path, os.stat(path).st_mode & mode & _ALL)
    return store


def _encoded(text: Any) -> Any:
    """Return what is to be stored for a text; whatever is none as it is."""
    return text.encode() if isinstance(text, str) else text


def _known(key: object) -> Any:
    """Return what to look for; None, which no store has, for a text that has no UTF-8."""
    return known_key(key) if isinstance(key, str) else key
