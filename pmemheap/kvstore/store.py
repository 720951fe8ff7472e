"""KVStore: an ordered mapping of bytes to bytes in one heap file, and the sub-stores of the file.

    StoreFile   the file: transactions, sync, snapshot, close
    SubStore    keys and values under a name: `reading` and `substore` say how
        |
    KVStore     a file with a sub-store that has no name; `sub` makes those that have one

All sub-stores of a file are in one heap: one transaction changes several, one sync commits it, and
`check` and `compact` go through all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypedDict, Unpack

import pmemheap
from pmemheap import CorruptHeapError, DurabilityName, OpenFlag, UsageError
from pmemheap.kvstore.eviction import require_policy
from pmemheap.kvstore.reading import go_on, refreshed, root_of, subs_of
from pmemheap.kvstore.shelf import Shelf, TextStore
from pmemheap.kvstore.shown import StoreSnapshot
from pmemheap.kvstore.storefile import AnyPath, StoreFile
from pmemheap.kvstore.substore import SubStore

__all__ = ["KVStore", "StoreOptions"]

_NAME_BYTES_MOST = 25


class StoreOptions(TypedDict, total=False):
    """Options by name of what opens a store; `KVStore` has what they mean."""

    durable: bool | None
    limit: int | None
    evict: str | None
    count_hits: bool
    headroom: int | None
    readers: bool
    clock: Callable[[], int]


class KVStore(StoreFile, SubStore):
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
        Without `evict` the bytes that the file may have: what needs more is refused. With `evict`
        the bytes of keys and values that may be there: what needs more removes others.
    evict : {"lru", "lfu", "ttl", "none"}, optional
        Which keys go when the limit is reached: those whose last use is longest ago; those with the
        fewest uses; those that expire first. The file remembers limit and policy; "none" ends them.
    count_hits : bool
        Whether `stats` tells how many reads found their key. Each read costs more.
    headroom : int, optional
        Bytes of address space to keep free for growth; see `pmemheap.Heap.create`.
    readers : bool
        Let other processes open the file to read while this one changes it, and let `read` begin
        snapshots. While somebody reads, each change of a map copies the nodes that it changes.
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
    others wait for its end. A store that is read beside its writer shows one commit, until
    `refresh`. ``store.get`` and its like change when the first key gets a deadline:
    who keeps such a method in a variable takes it anew, or opens a store that has deadlines.
    """

    def __init__(  # noqa: PLR0913 -- options of a file, all by name
        self,
        path: AnyPath,
        durability: DurabilityName | None = "power",
        flag: OpenFlag = "c",
        *,
        durable: bool | None = None,
        limit: int | None = None,
        evict: str | None = None,
        count_hits: bool = False,
        headroom: int | None = None,
        readers: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if evict not in {None, "none"}:
            require_policy(str(evict), limit)  # before there is a file
        of_file = limit if evict in {None, "none"} else None
        StoreFile.__init__(
            self, path, flag, durability=durability, durable=durable, limit=of_file,
            headroom=headroom, readers=readers,
        )  # fmt: skip
        self._subs: dict[str, SubStore] = {}
        self._source, self._clock = self._heap, clock
        self._lock = threading.Lock()
        with self.closed_on_error():
            source = self._heap.read() if self._heap.follows else self._heap
            SubStore.__init__(
                self, source, "", durable=durable, clock=clock, limit=limit, evict=evict,
                count_hits=count_hits,
            )  # fmt: skip
            if not self.readonly:
                self.evict()

    @classmethod
    def shelf(
        cls,
        path: AnyPath,
        durability: DurabilityName | None = "power",
        flag: OpenFlag = "c",
        **options: Unpack[StoreOptions],
    ) -> Shelf:
        """Return a store of pickled values under str keys, open; arguments as `KVStore`."""
        return Shelf(cls(path, durability, flag, **options))

    @classmethod
    def text(
        cls,
        path: AnyPath,
        durability: DurabilityName | None = "power",
        flag: OpenFlag = "c",
        **options: Unpack[StoreOptions],
    ) -> TextStore:
        """Return a store of str values under str keys, open; arguments as `KVStore`."""
        return TextStore(cls(path, durability, flag, **options))

    # ------------------------------------------------------------ commits

    def read(self) -> StoreSnapshot:
        """Begin a snapshot: the store and its sub-stores as of the last commit.

        Returns
        -------
        StoreSnapshot
            A context manager. Its keys and values are bytes.

        Raises
        ------
        UsageError
            The store was opened to be changed, without ``readers=True``, or is closed.

        Notes
        -----
        Keys that have expired by the clock are left out, as always. Of an `open` that takes texts
        it has the bytes.
        """
        return StoreSnapshot(self._heap.read(), self.clock)

    def refresh(self) -> bool:
        """Go on to the last commit of the writer; tell whether there is a newer one.

        Any other store shows the last one by itself. Views and snapshots that were taken
        before keep what they show. A thread that reads meanwhile may see both commits: what has to
        be of one, it reads from a `read` of its own.
        """
        if isinstance(self._source, pmemheap.Heap):
            return False
        if not refreshed(self._source, [self, *self._subs.values()]):
            return False
        with self._lock:
            go_on(self, self._subs, self._source.roots)
        return True

    # ------------------------------------------------------------ sub-stores

    def sub(
        self,
        name: str,
        *,
        limit: int | None = None,
        evict: str | None = None,
        count_hits: bool = False,
    ) -> SubStore:
        """Return the store of a name in this file; made, empty, if there is none.

        It has keys of its own, and is open as long as this one is. A transaction of one is one of
        all. Each name has one object: options count when it is asked for first.

        Parameters
        ----------
        name : str
            1 to 25 bytes of UTF-8.
        limit, evict, count_hits
            Of it alone; as of `KVStore`. A limit needs a policy here.

        Raises
        ------
        UsageError
            The name is too long, or none; there is no such store and this one was opened to read.

        Examples
        --------
        >>> import tempfile
        >>> home = tempfile.TemporaryDirectory()
        >>> store = KVStore(home.name + "/a.kv", "process")
        >>> users, visits = store.sub("users"), store.sub("visits")
        >>> with store.transaction():  # both or neither
        ...     users[b"1"] = b"Ada"
        ...     visits.incr(b"1")
        1
        >>> store.subs(), len(store)
        (['users', 'visits'], 0)
        >>> store.close(); home.cleanup()
        """
        if limit is not None and evict is None:
            raise UsageError(f"limit of sub-store {name!r}: evict expected as well, none found")
        with self._lock:
            found = self._subs.get(name)
            if found is None or root_of("", name) not in self._source.roots:
                found = self._subs[name] = self._opened_sub(name, limit, evict, count_hits)
        return found

    def _opened_sub(
        self, name: str, limit: int | None, evict: str | None, count_hits: bool
    ) -> SubStore:
        nbytes = len(name.encode()) if isinstance(name, str) else 0
        if not 0 < nbytes <= _NAME_BYTES_MOST:
            raise UsageError(
                f"sub-store: a name of 1 to {_NAME_BYTES_MOST} bytes of UTF-8 expected, "
                f"{name!r} found"
            )
        found = SubStore(
            self._source, name, durable=self._durable, clock=self.clock, limit=limit, evict=evict,
            count_hits=count_hits,
        )  # fmt: skip
        if not found.readonly:
            found.evict()
        return found

    def subs(self) -> list[str]:
        """Return the names of the sub-stores, sorted."""
        return subs_of(self._source.roots)

    def drop_sub(self, name: str) -> bool:
        """Remove a sub-store with all its keys; tell whether there was one.

        The keys go in transactions of 256, what is left in one. Who uses it afterwards gets a
        UsageError.
        """
        if name not in self.subs():
            return False
        self.sub(name)._drop_maps()  # private: no call of users
        with self._lock:
            self._subs.pop(name, None)
        return True

    def _all(self) -> list[SubStore]:
        return [self, *map(self.sub, self.subs())]

    # ------------------------------------------------------------ the whole

    def compact(self) -> int:
        """Give back what the store does not need; return the bytes that went to the system.

        Expired keys are removed, entries are moved together where that saves leaves, and
        `pmemheap.Heap.trim` gives free segments and pages back; all sub-stores are. Values longer
        than 1 KiB stay where they are, and so does whatever is viewed: a file that is as short as
        can be is made by dumping and loading, not by this.
        """
        for each in self._all():
            each._compact_maps()  # private: no call of users
        self._heap.sync()  # until then freed blocks are kept
        return self._heap.trim()

    def check(self) -> None:
        """Verify maps, sub-stores and heap, while no thread commits. O(keys).

        Raises
        ------
        CorruptHeapError
            Something does not hold; it is named.
        """
        subs = self._all()
        with self._heap.paused():
            for each in subs:
                each._check_maps()  # private: no call of users
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
        for each in [self, *self._subs.values()]:
            each._write_uses()  # private: no call of users
        if isinstance(self._source, pmemheap.Heap) or self.closed:
            super().close()
        else:
            self._close_reading(self._source)

    def _close_reading(self, source: pmemheap.Snapshot) -> None:
        """Close a store that holds a snapshot, which goes first; after a refusal it has one."""
        open_ones = [self, *self._subs.values()]
        for each in open_ones:
            each._leave_maps()  # private: no call of users
        source.close()
        try:
            super().close()
        except BufferError:
            self._source = self._heap.read()
            for each in open_ones:
                each._source = self._source
                each._open_maps(self._clock, None, None)  # private: no call of users
            raise
