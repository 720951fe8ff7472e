"""Reading: the half of a store that changes nothing.

    root "kvstore"            --> SortedMap, key -> value      read in place, a B+tree
    root "kvstore.deadlines"  --> SortedMap, key -> deadline   only keys that expire: `deadlines`
    roots "kvstore.tags", "kvstore.tagged"                     only keys with a tag: `tags`
    roots "kvstore.ranks", "kvstore.order"                     only of a store that evicts

Reads take no lock. While no read has to look at more than the entries they are those of the map
itself: `_FAST` names are bound to the instance, so `store.get` *is* the map's method in C.
`_look_closely` takes these names away again, and then the methods of the class are found, which
look at deadlines and note uses. It is called by the first deadline, and when a store is opened that
has a deadline, counts hits, or evicts by uses.

`_source` is what the maps are read of: the heap itself, or, where another process may change it, a
snapshot of it. Maps of a snapshot hold what they show back, so they go when a store is closed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, NoReturn, TypeVar, overload

from pmemheap import Heap, HeapBusyError, Snapshot, UsageError
from pmemheap.containers import OrderedMapping, SortedMap
from pmemheap.containers.ordered import ItemsRange
from pmemheap.kvstore import arrow
from pmemheap.kvstore.counters import Hits
from pmemheap.kvstore.cursor import Cursor, end_of
from pmemheap.kvstore.deadlines import Deadlines
from pmemheap.kvstore.entries import Entries
from pmemheap.kvstore.eviction import Eviction
from pmemheap.kvstore.storefile import InHeap
from pmemheap.kvstore.tags import Tags, tag_bytes

__all__ = ["Reading", "go_on", "refreshed", "root_of", "subs_of"]

T = TypeVar("T")
R = TypeVar("R", bound="Reading")
_FAST = ("get", "view", "scan", "patch")
_MAPS = ("_map", "_deadlines", "_tags")


def root_of(kind: str, name: str) -> str:
    """Return the root of one of the maps of a name."""
    return "kvstore" + (f".{kind}" if kind else "") + (f"/{name}" if name else "")


_NAMED = root_of("", "") + "/"


def subs_of(roots: Iterable[str]) -> list[str]:
    """Return the names of the sub-stores that have these roots, sorted."""
    return sorted(root.removeprefix(_NAMED) for root in roots if root.startswith(_NAMED))


def go_on(store: Reading, subs: dict[str, R], roots: Iterable[str]) -> None:
    """Have a store and its open sub-stores show what their snapshot shows now, with these roots.

    A sub-store that has been dropped is closed.
    """
    for name in set(subs).difference(subs_of(roots)):
        subs.pop(name)._leave_maps()  # private: no call of users
    shown: list[Reading] = [store, *subs.values()]
    for each in shown:
        each._reopen()  # private: no call of users


def refreshed(source: Snapshot, readings: Iterable[Reading]) -> bool:
    """Let a snapshot go on, and tell whether there is a newer commit; for a new writer all goes."""
    if source.is_wanted:
        _leave_all(readings)
    try:
        return source.refresh()
    except HeapBusyError:
        if not source.is_between:  # the writer was killed in a commit: what is shown stays
            raise
        _leave_all(readings)  # it was not wanted a moment before
        return source.refresh()


def _leave_all(readings: Iterable[Reading]) -> None:
    for each in readings:
        each._leave_maps()  # private: no call of users


class _Gone:
    """What a closed store has instead of its maps: each use is a UsageError.

    With a `__getattr__` of the store itself Python would look up all of its attributes slowly.
    """

    def __init__(self, store: object, clock: Callable[[], int] | None) -> None:
        self._store = store
        self.clock = clock
        """Of the deadlines: the store may go on, with maps of a later commit."""

    def _refuse(self, *_: object) -> NoReturn:
        raise UsageError(f"{self._store!r}: an open store expected, it was closed")

    __getattr__ = __getitem__ = __setitem__ = __delitem__ = _refuse
    __contains__ = __len__ = __iter__ = __reversed__ = _refuse


class Reading(InHeap, OrderedMapping[bytes, bytes]):
    """What can be asked of a store."""

    _default = b""

    _source: Heap | Snapshot
    _name: str
    _map: Entries
    _deadlines: Deadlines
    _tags: Tags
    _eviction: Eviction | None = None
    _hits: Hits | None = None
    _expiring: bool
    """Whether a key may have a deadline; never false again while the store is open."""
    _looks: bool
    """Whether a read does more than to read."""

    def _enter_maps(self, clock: Callable[[], int]) -> None:
        self._map = Entries(self._source, root_of("", self._name), durable=self._durable)
        self._deadlines = Deadlines(self._opened("deadlines"), clock)
        self._tags = Tags(self._opened("tags"), self._opened("tagged"))

    def _opened(self, kind: str) -> SortedMap:
        return SortedMap(self._source, root_of(kind, self._name), durable=self._durable)

    def _begin_reading(self) -> None:
        """Answer from the maps that have been entered."""
        self._expiring = len(self._deadlines) > 0
        notes = self._eviction is not None and self._eviction.notes_uses
        self._looks = self._expiring or self._hits is not None or notes
        if self._expiring:
            self._map.hide(self._deadlines.is_over)
        if not self._looks:
            self._bind_fast()

    @abstractmethod
    def _reopen(self) -> None:
        """Show what the snapshot shows now."""

    def _leave_maps(self) -> None:
        """Hold nothing back any more: what is asked from now on is a UsageError."""
        self._look_closely()
        gone = _Gone(self, getattr(getattr(self, "_deadlines", None), "clock", None))
        for name in _MAPS:
            setattr(self, name, gone)
        self._eviction = None

    def _bind_fast(self) -> None:
        """Let the map itself answer what needs no look at anything else."""
        for name in _FAST:  # not by __dict__, nor vars(): once it was made, attributes are slower
            setattr(self, name, getattr(self._map, name))

    def _look_closely(self) -> None:
        self._looks = True
        for name in _FAST:
            with suppress(AttributeError):
                delattr(self, name)

    # ------------------------------------------------------------ one key

    def __getitem__(self, key: bytes) -> bytes:
        """Return a copy of the value of a key; KeyError if there is none. O(log n)."""
        if self._looks:
            found = self._found(key)
            if found is None:
                raise KeyError(key)
            return found
        return self._map[key]

    @overload
    def get(self, key: bytes, /) -> bytes | None: ...
    @overload
    def get(self, key: bytes, /, default: bytes | T) -> bytes | T: ...
    def get(self, key: bytes, /, default: Any = None) -> Any:
        """Return a copy of the value of a key, or `default`."""
        found = self._found(key)
        return default if found is None else found

    def _found(self, key: bytes) -> bytes | None:
        """Return a value, and note that it was asked for."""
        is_over = self._expiring and self._deadlines.is_over(key)
        found = None if is_over else self._map.get(key)
        self._note(key, is_hit=found is not None)
        return found

    def _note(self, key: bytes, *, is_hit: bool) -> None:
        if self._hits is not None:
            self._hits.count(is_hit=is_hit)
        if is_hit and self._eviction is not None and self._eviction.notes_uses:
            self._eviction.note(key)

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
        is_hit = key in self
        self._note(key, is_hit=is_hit)
        if not is_hit:
            raise KeyError(key)
        return self._map.view(key)

    def __contains__(self, key: object) -> bool:
        """Tell whether there is such a key."""
        if key not in self._map:
            return False
        return not (self._expiring and self._deadlines.is_over(key))

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

    def tag(self, key: bytes) -> bytes | None:
        """Return the tag of a key, or None; KeyError as `ttl`."""
        if key not in self:
            raise KeyError(key)
        return self._tags.of(key)

    # ------------------------------------------------------------ many keys

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
        return list(islice(OrderedMapping.items(self, start), count))

    def prefix(self, prefix: bytes, *, reverse: bool = False) -> ItemsRange[bytes, bytes]:
        """Return a view of the keys that begin with some bytes, with their values; as `items`.

        Examples
        --------
        >>> import tempfile
        >>> from pmemheap.kvstore import KVStore
        >>> home = tempfile.TemporaryDirectory()
        >>> with KVStore(home.name + "/a.kv", "process") as store:
        ...     store.update({b"user:1": b"Ada", b"user:2": b"Bob", b"visits": b"7"})
        ...     list(store.prefix(b"user:"))
        [(b'user:1', b'Ada'), (b'user:2', b'Bob')]
        >>> home.cleanup()
        """
        return OrderedMapping.items(self, prefix, end_of(prefix), reverse=reverse)

    def cursor(self) -> Cursor[bytes, bytes]:
        """Return a place among the keys, from which one steps to and fro; see `Cursor`."""
        return Cursor(self)

    def tagged(self, tag: str | bytes) -> Iterator[bytes]:
        """Yield the keys that have a tag, in order."""
        return (key for key in self._tags.keys(tag_bytes(tag)) if key in self)

    def tags(self) -> list[bytes]:
        """Return the tags that some key has, in the order of their lengths and bytes."""
        return list(self._tags.names())

    def to_arrow(self, start: bytes | None = None, stop: bytes | None = None) -> Any:
        """Return the entries of a range as a `pyarrow.Table`; see `pmemheap.kvstore.arrow`."""
        return arrow.to_arrow(self, start, stop)

    @property
    def expiring(self) -> int:
        """How many keys have a deadline, those that have expired and are still there among them."""
        return len(self._deadlines)

    @property
    def clock(self) -> Callable[[], int]:
        """What tells the time, in nanoseconds since 1970."""
        return self._deadlines.clock
