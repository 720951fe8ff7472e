"""KVStore: an ordered mapping of bytes to bytes in one heap file.

    root "kvstore"            --> SortedMap, key -> value      read in place, a B+tree
    root "kvstore.deadlines"  --> SortedMap, key -> deadline   only keys that expire: `deadlines`

What the store adds to the map is that two maps change together, and that a value which was read may
decide what is written. Both rest on one fact about transactions: from its first change to committed
bytes until its end a transaction is the only one that changes any; others wait. `exclusive` makes
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

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, TypeVar, overload

from pmemheap import CorruptHeapError, DurabilityName, OpenFlag
from pmemheap.containers import OrderedMapping, SortedMap
from pmemheap.containers.ordered import pairs_of
from pmemheap.kvstore.deadlines import Deadlines
from pmemheap.kvstore.entries import Entries
from pmemheap.kvstore.figures import StoreStats
from pmemheap.kvstore.shelf import Shelf, TextStore
from pmemheap.kvstore.storefile import AnyPath, StoreFile

__all__ = ["KVStore"]

T = TypeVar("T")
_ENTRIES, _DEADLINES = "kvstore", "kvstore.deadlines"
_FAST = ("get", "view", "scan", "patch")
_BATCH = 256


class KVStore(StoreFile, OrderedMapping[bytes, bytes]):
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
    headroom : int, optional
        Bytes of address space to keep free for growth; see `pmemheap.Heap.create`.
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

    _default = b""

    def __init__(  # noqa: PLR0913 -- options of a file, all by name
        self,
        path: AnyPath,
        durability: DurabilityName | None = "power",
        flag: OpenFlag = "c",
        *,
        durable: bool | None = None,
        limit: int | None = None,
        headroom: int | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(
            path, flag, durability=durability, durable=durable, limit=limit, headroom=headroom
        )
        with self.closed_on_error():
            self._map, table = self._open_maps(readonly=flag == "r")
            self._deadlines = Deadlines(table, clock)
            self._expiring = len(self._deadlines) > 0
            if self._expiring:
                self._map.hide(self._deadlines.is_over)
            else:
                self._bind_fast()

    def _open_maps(self, *, readonly: bool) -> tuple[Entries, SortedMap]:
        if not readonly and _DEADLINES not in self._heap.roots:
            with self.transaction():  # a new file gets both or none
                return self._maps()
        return self._maps()

    def _maps(self) -> tuple[Entries, SortedMap]:
        durable = self._durable
        return (
            Entries(self._heap, _ENTRIES, durable=durable),
            SortedMap(self._heap, _DEADLINES, durable=durable),
        )

    def _bind_fast(self) -> None:
        """Let the map itself answer what needs no look at deadlines."""
        for name in _FAST:  # not by __dict__: when an object has made it, all attributes are slower
            setattr(self, name, getattr(self._map, name))

    def _start_expiring(self, deadline: int) -> None:
        """Look at deadlines from now on; called before one is stored, which has to be one."""
        self._deadlines.require(deadline)
        self._expiring = True
        self._map.hide(self._deadlines.is_over)
        for name in _FAST:
            if name in vars(self):
                delattr(self, name)

    @classmethod
    def shelf(cls, path: AnyPath, **options: Any) -> Shelf:
        """Open a store of pickled values under str keys; options as `KVStore`."""
        return Shelf(cls(path, **options))

    @classmethod
    def text(cls, path: AnyPath, **options: Any) -> TextStore:
        """Open a store of str values under str keys; options as `KVStore`."""
        return TextStore(cls(path, **options))

    def exclusive(self) -> AbstractContextManager[None]:
        """Begin a transaction in which what is read stays true until the commit.

        So what was read may decide what is written: no other transaction changes anything
        meanwhile.
        """
        return self._map.exclusive()

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

    def entry(self, key: bytes) -> tuple[bytes | None, int | None]:
        """Return value and deadline of a key, in nanoseconds since 1970; None for what is none."""
        if not self._expiring:
            return self._map.get(key), None
        deadline = self._deadlines.of(key)  # before the value: else it could be there for ever
        if deadline is not None and deadline <= self._deadlines.clock():
            return None, None
        value = self._map.get(key)
        return value, None if value is None else deadline

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
        return not (self._expiring and self._deadlines.is_over(key))

    def __len__(self) -> int:
        """Return the number of keys. O(1), and O(keys with a deadline) if there are any."""
        return self._counted(None, None)

    def _scanned(
        self, low: bytes | None, high: bytes | None, back: bool, what: int
    ) -> Iterator[Any]:
        return self._map.visible(low, high, back, what)

    def _counted(self, low: bytes | None, high: bytes | None) -> int:
        count = len(self._map.keys(low, high))
        if self._expiring:
            count -= sum(1 for _ in self._deadlines.over(low, high))
        return max(count, 0)  # another thread may have stored some between the two looks

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
        self.set_until(key, value, None if ttl is None else self._deadlines.after(ttl))

    def set_until(self, key: bytes, value: Any, deadline: int | None) -> None:
        """Give a key a value until a moment, or for good; else as `set`.

        Parameters
        ----------
        deadline : int or None
            Nanoseconds since 1970, as the clock of the store counts them. One that has passed makes
            the key absent at once.
        """
        if deadline is not None:
            self._start_expiring(deadline)
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

    def delete(self, key: bytes) -> bool:
        """Remove a key if it is there; tell whether it was."""
        if not self._expiring:
            found = self._map.discard(key)
            if self._expiring:  # another thread may have stored it with a deadline before
                self._drop_orphan(key)
            return found
        with self.exclusive():
            was_over = self._deadlines.is_over(key)
            self._deadlines.drop(key)
            return self._map.discard(key) and not was_over

    def _drop_orphan(self, key: bytes) -> None:
        with self.exclusive():
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

    def put_many(
        self, pairs: Iterable[tuple[bytes, Any]], *, batch: int = _BATCH, ttl: float | None = None
    ) -> None:
        """Give many keys values, in transactions of `batch` each; all in the one that is open."""
        rest = iter(pairs)
        while some := list(islice(rest, batch)):
            deadline = None if ttl is None else self._deadlines.after(ttl)
            if deadline is not None:
                self._start_expiring(deadline)
            with self.transaction():
                for key, value in some:
                    self._map[key] = value
                    if self._expiring:  # from here on nobody else can store a deadline
                        self._deadlines.assign(key, deadline)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Take over all of a mapping, of anything with `keys`, or of pairs; as `put_many`."""
        if more:
            raise TypeError(f"{self!r}: keys of bytes expected, found {sorted(more)}")
        self.put_many(pairs_of(other))

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
        return self.expire_at(key, self._deadlines.after(ttl))

    def expire_at(self, key: bytes, deadline: int) -> bool:
        """Let a key expire at a moment, as `set_until`; tell whether there is such a key."""
        self._start_expiring(deadline)
        with self.exclusive():
            found = key in self
            if found:
                self._deadlines.assign(key, deadline)
            return found

    def persist(self, key: bytes) -> bool:
        """Let a key not expire; tell whether it would have."""
        with self.exclusive():
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

    def deadline(self, key: bytes) -> int | None:
        """Return when a key expires, in nanoseconds since 1970, or None; KeyError as `ttl`."""
        if key not in self:
            raise KeyError(key)
        return self._deadlines.of(key)

    @property
    def expiring(self) -> int:
        """How many keys have a deadline, those that have expired and are still there among them."""
        return len(self._deadlines)

    @property
    def clock(self) -> Callable[[], int]:
        """What tells the time: nanoseconds since 1970."""
        return self._deadlines.clock

    def purge(self, most: int | None = None) -> int:
        """Remove keys that have expired, in transactions of 256; return how many.

        Otherwise an expired key keeps its space until a change meets it: reads never write.

        Parameters
        ----------
        most : int, optional
            Remove no more than so many.
        """
        over, removed = islice(self._deadlines.over(), most), 0
        while some := list(islice(over, _BATCH)):
            with self.exclusive():
                removed += sum([self._remove_over(key) for key in some])
        return removed

    def _remove_over(self, key: bytes) -> bool:
        if not self._deadlines.is_over(key):  # it was given another life meanwhile
            return False
        self._deadlines.drop(key)
        return self._map.discard(key)

    # ------------------------------------------------------------ the whole

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
        with self._heap.paused():
            return StoreStats.of(
                self.durability, self._map.statistics(), len(self._deadlines), self._heap.stats()
            )

    def check(self) -> None:
        """Verify maps, deadlines and heap, while no thread commits. O(keys).

        Raises
        ------
        CorruptHeapError
            Something does not hold; it is named.
        """
        with self._heap.paused():
            self._check()

    def _check(self) -> None:
        self._map.check()
        self._deadlines.check()
        for key in self._deadlines:
            if key not in self._map:
                raise CorruptHeapError(f"{self!r}: deadline of {key!r}: an entry expected, none")
        report = self._heap.check()
        if not report:
            raise CorruptHeapError(f"{self!r}: a sound heap expected: {report}")
