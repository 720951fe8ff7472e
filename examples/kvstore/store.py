"""KVStore: an ordered mapping of bytes to bytes in one heap file.

    root "kvstore"            --> SortedMap, key -> value      read in place, a B+tree
    root "kvstore.deadlines"  --> SortedMap, key -> deadline   only keys that expire: `deadlines`

What the store adds to the map is that two maps change together, and that a value which was read may
decide what is written. Both rest on one fact about transactions: from its first change to committed
bytes until its end a transaction is the only one that changes any; others wait. `_exclusive` makes
a change of no bytes, and whatever is read after it stays true until the commit.

Reads take no lock. While no key expires they are those of the map itself: `_FAST` names are bound
to the instance, so `store.get` *is* the map's method in C. The first deadline takes these names
away again, and then the methods of the class are found, which look at deadlines. `_expiring` is set
before the first deadline is stored, and never cleared while the store is open. So a change that
found it false looks again afterwards: it may have been overtaken (`set`, `delete`).

Invariants, checked by `KVStore.check`: both maps are sound; every key with a deadline has an entry.

After a crash the maps are as the last commit left them: nothing is rebuilt, no file is replayed by
this module.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

import pmemheap
from kvstore.closing import Closing
from kvstore.deadlines import Deadlines
from kvstore.shelf import Shelf, TextStore
from pmemheap import CorruptHeapError, PmemHeapError
from pmemheap.containers import SortedMap

if TYPE_CHECKING:
    from pmemheap.transaction import Transaction

__all__ = ["KVStore", "StoreStats"]

T = TypeVar("T")

_ENTRIES, _DEADLINES = "kvstore", "kvstore.deadlines"
_FAST = ("get", "view", "keys", "values", "items", "scan", "patch")
_BATCH = 256
_ABSENT: Any = object()


@dataclass(frozen=True)
class StoreStats:
    """What a store consists of, in bytes unless the name says otherwise.

    Attributes
    ----------
    durability : str
        ``"power"`` or ``"process"``.
    entries, expiring, height : int
        Keys, also those that have expired and are still there; keys with a deadline; nodes from the
        root of the tree to a leaf.
    key_bytes, value_bytes : int
        Of all keys and values.
    waste_bytes : int
        In leaves: what was removed or replaced; used again, or squeezed out by `compact`.
    fill : float
        The part of the leaves that is keys and values.
    allocated, quarantined, free : int
        In live blocks; in blocks that wait until their end is durable or their last view goes; in
        free pages of the file.
    file_bytes, file_blocks : int
        Length of the file, and what the disk has of it.
    live_views : int
        Views that keep space, and `close` waiting.
    """

    durability: str
    entries: int
    expiring: int
    height: int
    key_bytes: int
    value_bytes: int
    waste_bytes: int
    fill: float
    allocated: int
    quarantined: int
    free: int
    file_bytes: int
    file_blocks: int
    live_views: int


class KVStore(Closing, MutableMapping[bytes, bytes]):
    """An ordered store of keys and values in a heap file.

    Parameters
    ----------
    path : path
        Of the file.
    durability : {"power", "process"} or None
        Of a file that is made: whether a commit survives a power failure, or the end of the process
        only. None: the most that the file system can keep. A file that is there keeps its own.
    flag : {"c", "r", "w", "n"}
        Open, and create if it is missing; open to read; open to write; create anew.
    durable : bool, optional
        Of transactions that do not say it themselves; see `pmemheap.Heap.transaction`.
    limit : int, optional
        Bytes that the file may have.
    clock : callable
        Nanoseconds since 1970, for deadlines.

    Raises
    ------
    UsageError
        No such file, or another process or store has it open; it is named.
    CorruptHeapError
        The file is not a sound heap.

    Examples
    --------
    >>> import tempfile
    >>> home = tempfile.TemporaryDirectory()
    >>> store = KVStore(home.name + "/a.kv", durability="process")
    >>> store[b"pear"], store[b"apple"] = b"3", b"2"
    >>> with store.transaction():
    ...     store[b"plum"] = store.pop(b"pear")
    >>> list(store.items(b"b"))
    [(b'plum', b'3')]
    >>> store.set(b"session", b"...", ttl=3600)
    >>> store.ttl(b"session") > 3500, store.ttl(b"plum")
    (True, None)
    >>> store.close(); home.cleanup()

    Notes
    -----
    Keys have at most 1024 bytes. Any thread may use a store; one transaction changes it at a time,
    others wait for its end. ``store.get`` and its like change when the first key gets a deadline:
    who keeps such a method in a variable takes it anew, or opens a store that has deadlines.
    """

    def __init__(  # noqa: PLR0913 -- options of a file, all by name
        self,
        path: str | os.PathLike[str],
        durability: str | None = "power",
        flag: str = "c",
        *,
        durable: bool | None = None,
        limit: int | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._heap = pmemheap.open(path, flag, durability=durability, limit=limit)
        try:
            self._durable = durable
            self._map, table = self._open_maps(readonly=flag == "r")
            self._anchor = self._heap.roots[_ENTRIES]
            self._deadlines = Deadlines(table, clock)
            self._expiring = len(self._deadlines) > 0
            if not self._expiring:
                self._bind_fast()
        except BaseException:
            self._heap.close()
            raise
        self._end = weakref.finalize(self, _end_quietly, self._heap)

    def _open_maps(self, *, readonly: bool) -> tuple[SortedMap, SortedMap]:
        if not readonly and _DEADLINES not in self._heap.roots:
            with self.transaction():  # a new file gets both or none
                return self._map_of(_ENTRIES), self._map_of(_DEADLINES)
        return self._map_of(_ENTRIES), self._map_of(_DEADLINES)

    def _map_of(self, root: str) -> SortedMap:
        return SortedMap(self._heap, root, durable=self._durable)

    def _bind_fast(self) -> None:
        """Let the map itself answer what needs no look at deadlines."""
        self.__dict__.update({name: getattr(self._map, name) for name in _FAST})

    def _start_expiring(self) -> None:
        """Look at deadlines from now on; called before the first one is stored."""
        self._expiring = True
        for name in _FAST:
            self.__dict__.pop(name, None)

    @classmethod
    def shelf(cls, path: str | os.PathLike[str], **options: Any) -> Shelf:
        """Open a store of pickled values under str keys; options as `KVStore`."""
        return Shelf(cls(path, **options))

    @classmethod
    def text(cls, path: str | os.PathLike[str], **options: Any) -> TextStore:
        """Open a store of str values under str keys; options as `KVStore`."""
        return TextStore(cls(path, **options))

    @property
    def path(self) -> str:
        """Path of the file."""
        return self._heap.name

    @property
    def durability(self) -> str:
        """``"power"`` or ``"process"``."""
        return self._heap.durability

    @property
    def closed(self) -> bool:
        """Whether it cannot be used any more."""
        return self._heap.closed

    def __repr__(self) -> str:
        """Show the file and its promise."""
        state = "closed" if self.closed else self.durability
        return f"<{type(self).__name__}: {self.path!r}, {state}>"

    # ------------------------------------------------------------ transactions

    def transaction(self, durable: bool | None = None) -> Transaction:
        """Begin a transaction of this thread: a context manager; it aborts on an error.

        Inside of an open one it is a savepoint: an error takes back what was done in it alone.

        Parameters
        ----------
        durable : bool, optional
            Whether the commit waits until a power failure cannot take it back; if left out, as the
            store was opened, else it does in a power store.

        Raises
        ------
        UsageError
            The store is closed or read-only.
        """
        return self._heap.transaction(durable=self._durable if durable is None else durable)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Begin a transaction in which what is read stays true until the commit."""
        with self.transaction() as tx:
            tx.write(self._anchor, b"")  # waits until no other transaction changes anything
            yield

    # ------------------------------------------------------------ reading

    def __getitem__(self, key: bytes) -> bytes:
        """Return a copy of the value of a key; KeyError if there is none. O(log n)."""
        if self._expiring and self._deadlines.is_over(key):
            raise KeyError(key)
        return self._map[key]

    @overload
    def get(self, key: bytes, /) -> bytes | None: ...
    @overload
    def get(self, key: bytes, /, default: bytes | T) -> bytes | T: ...
    def get(self, key: bytes, /, default: Any = None) -> Any:
        """Return a copy of the value of a key, or `default`."""
        if self._expiring and self._deadlines.is_over(key):
            return default
        return self._map.get(key, default)

    def view(self, key: bytes) -> memoryview:
        """Return a read-only view of a value, in place: no byte is copied.

        It has these bytes until it is released, whatever happens to the store meanwhile: when the
        value is removed or replaced its space is kept, and `close` waits. `patch` shows through it.

        Raises
        ------
        KeyError
            There is no such key.
        """
        if self._expiring and self._deadlines.is_over(key):
            raise KeyError(key)
        return self._map.view(key)

    def __contains__(self, key: object) -> bool:
        """Tell whether there is such a key."""
        if key not in self._map:
            return False
        return not (self._expiring and isinstance(key, bytes) and self._deadlines.is_over(key))

    def __len__(self) -> int:
        """Return the number of keys. O(1), and O(keys with a deadline) if there are any."""
        count = len(self._map)
        if self._expiring:
            count -= sum(1 for _ in self._deadlines.over())
        return count

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys in order."""
        return self.keys()

    def __reversed__(self) -> Iterator[bytes]:
        """Yield the keys from the last one on."""
        return self.keys(reverse=True)

    def keys(  # type: ignore[override]
        self, start: bytes | None = None, stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[bytes]:
        """Yield the keys from `start` up to, but not including, `stop`, or from there backwards.

        The store may be changed meanwhile: what is added or removed behind the key that was yielded
        last is seen or not seen accordingly.
        """
        keys = self._map.keys(start, stop, reverse=reverse)
        if not self._expiring:
            return keys
        return (key for key in keys if not self._deadlines.is_over(key))

    def values(  # type: ignore[override]
        self, start: bytes | None = None, stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[bytes]:
        """Yield the values, as `keys` does."""
        return (value for _, value in KVStore.items(self, start, stop, reverse=reverse))

    def items(  # type: ignore[override]
        self, start: bytes | None = None, stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values, as `keys` does."""
        items = self._map.items(start, stop, reverse=reverse)
        if not self._expiring:
            return items
        return (item for item in items if not self._deadlines.is_over(item[0]))

    def scan(self, start: bytes | None = None, count: int = 25) -> list[tuple[bytes, bytes]]:
        """Return the first `count` entries from `start` on, at once."""
        return list(islice(KVStore.items(self, start), count))

    # ------------------------------------------------------------ changing

    def set(self, key: bytes, value: Any, ttl: float | None = None) -> None:
        """Give a key a value: any contiguous buffer. A deadline that it had is gone.

        Parameters
        ----------
        ttl : float, optional
            Seconds after which the key is absent again.

        Raises
        ------
        ValueError
            The key is longer than 1024 bytes; `ttl` is out of range. Nothing has changed.
        OutOfSpaceError
            There is no room, in the file or in the log. Nothing has changed.
        """
        if ttl is None and not self._expiring:
            self._map[key] = value
            if not self._expiring:
                return  # else another thread began to use deadlines meanwhile
        deadline = self._deadline(ttl)
        with self.transaction():
            self._map[key] = value
            self._deadlines.assign(key, deadline)

    def __setitem__(self, key: bytes, value: Any) -> None:
        """Give a key a value, as `set` does."""
        if not self._expiring:
            self._map[key] = value
            if not self._expiring:
                return
        self.set(key, value)

    def _deadline(self, ttl: float | None) -> int | None:
        if ttl is None:
            return None
        deadline = self._deadlines.after(ttl)
        self._start_expiring()
        return deadline

    def delete(self, key: bytes) -> bool:
        """Remove a key if it is there; tell whether it was."""
        if not self._expiring:
            found = self._map.discard(key)
            if self._expiring:  # another thread may have stored it with a deadline before
                self._drop_orphan(key)
            return found
        with self._exclusive():
            was_over = self._deadlines.is_over(key)
            self._deadlines.drop(key)
            return self._map.discard(key) and not was_over

    def _drop_orphan(self, key: bytes) -> None:
        with self._exclusive():
            if key not in self._map:
                self._deadlines.drop(key)

    def __delitem__(self, key: bytes) -> None:
        """Remove a key; KeyError if it is not there. Its space is free when no view of it lives."""
        if not self.delete(key):
            raise KeyError(key)

    def patch(self, key: bytes, offset: int, data: Any) -> None:
        """Change bytes inside of a value in place, at a cost that does not depend on its length.

        Raises
        ------
        KeyError
            There is no such key.
        UsageError
            The range does not lie inside of the value. Nothing has changed.
        """
        if self._expiring and self._deadlines.is_over(key):
            raise KeyError(key)
        self._map.patch(key, offset, data)

    def setdefault(self, key: bytes, default: Any = b"") -> bytes:
        """Return the value of a key, which is `default` from now on if there was none."""
        with self._exclusive():
            found = self.get(key)
            if found is None:
                self.set(key, default)
                found = bytes(default)
            return found

    @overload
    def pop(self, key: bytes, /) -> bytes: ...
    @overload
    def pop(self, key: bytes, /, default: bytes | T) -> bytes | T: ...
    def pop(self, key: bytes, /, default: Any = _ABSENT) -> Any:
        """Remove a key and return its value, or `default`; KeyError if that is left out."""
        with self._exclusive():
            value = self.get(key, default)
            self.delete(key)
        if value is _ABSENT:
            raise KeyError(key)
        return value

    def popitem(self) -> tuple[bytes, bytes]:
        """Remove the first key and return it with its value; KeyError if there is none."""
        with self._exclusive():
            for key, value in islice(KVStore.items(self), 1):
                self.delete(key)
                return key, value
        raise KeyError("popitem: a store with keys expected, it is empty")

    def put_many(
        self, pairs: Iterable[tuple[bytes, Any]], *, batch: int = _BATCH, ttl: float | None = None
    ) -> None:
        """Give many keys values, in transactions of `batch` each; all in the one that is open."""
        rest = iter(pairs)
        while some := list(islice(rest, batch)):
            deadline = self._deadline(ttl)
            with self.transaction():
                for key, value in some:
                    self._map[key] = value
                    if self._expiring:  # from here on nobody else can store a deadline
                        self._deadlines.assign(key, deadline)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Take over all of a mapping or of pairs, as `put_many`."""
        if more:
            raise TypeError(f"{self!r}: keys of bytes expected, found {sorted(more)}")
        self.put_many(other.items() if isinstance(other, Mapping) else other)

    def clear(self) -> None:
        """Remove everything, in transactions of 256 keys."""
        while keys := list(islice(self._map.keys(), _BATCH)):
            with self.transaction():
                for key in keys:
                    self._map.discard(key)
                    self._deadlines.drop(key)

    # ------------------------------------------------------------ expiry

    def expire(self, key: bytes, ttl: float) -> bool:
        """Let a key expire in `ttl` seconds; tell whether there is such a key."""
        deadline = self._deadline(ttl)
        with self._exclusive():
            found = key in self
            if found:
                self._deadlines.assign(key, deadline)
            return found

    def persist(self, key: bytes) -> bool:
        """Let a key not expire; tell whether it would have."""
        with self._exclusive():
            return key in self and self._deadlines.drop(key)

    def ttl(self, key: bytes) -> float | None:
        """Return the seconds that a key has left, or None if it does not expire.

        Raises
        ------
        KeyError
            There is no such key.
        """
        if key not in self:
            raise KeyError(key)
        return self._deadlines.left(key)

    def purge(self) -> int:
        """Remove all keys that have expired, in transactions of 256; return how many.

        Otherwise an expired key keeps its space until a change meets it: reads never write.
        """
        over, removed = self._deadlines.over(), 0
        while some := list(islice(over, _BATCH)):
            with self._exclusive():
                removed += sum([self._remove_over(key) for key in some])
        return removed

    def _remove_over(self, key: bytes) -> bool:
        if not self._deadlines.is_over(key):  # it was given another life meanwhile
            return False
        self._deadlines.drop(key)
        return self._map.discard(key)

    # ------------------------------------------------------------ the whole

    def sync(self) -> None:
        """Wait until everything that was committed is on the medium."""
        self._heap.sync()

    def snapshot(self, path: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Copy the store, as it is now, to a new file; see `pmemheap.Heap.snapshot`.

        Raises
        ------
        UsageError
            A transaction is open; a file is there, and `replace` is false. There is no copy.
        """
        self._heap.snapshot(path, replace=replace)

    def compact(self) -> int:
        """Give back what the store does not need; return the bytes that went to the system.

        Expired keys are removed, entries are moved together where that saves leaves, and
        `pmemheap.Heap.trim` gives free segments and pages back. Values longer than 1 KiB stay where
        they are, and so does whatever is viewed: a file that is as short as can be is made by
        dumping and loading, not by this.
        """
        self.purge()
        self._map.compact()
        self._deadlines.compact()
        self._heap.sync()  # until then freed blocks are kept
        return self._heap.trim()

    def stats(self) -> StoreStats:
        """Count what the store consists of. O(keys)."""
        tree, heap = self._map.statistics(), self._heap.stats()
        return StoreStats(
            durability=self.durability, entries=tree.entries, expiring=len(self._deadlines),
            height=tree.height, key_bytes=tree.key_bytes, value_bytes=tree.value_bytes,
            waste_bytes=tree.waste_bytes, fill=tree.fill, allocated=heap.allocated,
            quarantined=heap.quarantined, free=heap.free, file_bytes=heap.file_bytes,
            file_blocks=heap.file_blocks, live_views=heap.live_views,
        )  # fmt: skip

    def check(self) -> None:
        """Verify maps, deadlines and heap. O(keys).

        Raises
        ------
        CorruptHeapError
            Something does not hold; it is named.
        """
        self._map.check()
        self._deadlines.check()
        for key in self._deadlines:
            if key not in self._map:
                raise CorruptHeapError(f"{self!r}: deadline of {key!r}: an entry expected, none")
        report = self._heap.check()
        if not report:
            raise CorruptHeapError(f"{self!r}: a sound heap expected: {report}")

    def close(self) -> None:
        """Sync and close; twice is allowed. What is dropped, or open at exit, is closed as well.

        Raises
        ------
        BufferError
            Views are alive, or a transaction is open; the store stays open.
        """
        self._heap.close()
        self._end.detach()

    def __reduce__(self) -> NoReturn:
        """Refuse: a store is a file that is open."""
        raise TypeError(f"{self!r}: cannot be pickled; open the file again")


def _end_quietly(heap: pmemheap.Heap) -> None:
    """Close what nobody closed; what has views or a transaction is left to the heap itself."""
    with suppress(BufferError, PmemHeapError):
        heap.close()
