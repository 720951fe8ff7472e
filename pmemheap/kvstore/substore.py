"""SubStore: keys and values under one name in a heap; a store has one without a name, and others.

What it adds to a map is that several maps change together, and that a value which was read may
decide what is written. Both rest on one fact about transactions: from its first change to committed
bytes until its end a transaction is the only one that changes any; others wait. `exclusive` makes
a change of no bytes, and whatever is read after it stays true until the commit.

`_extra` says that a key may have more than a value: a deadline, a tag, a rank. While it is false a
change is one of the map alone. It is set before the first of these is stored, and never cleared
while the store is open. So a change that found it false looks again afterwards: it may have been
overtaken (`set`, `delete`).

Invariants, checked by `_check_maps`: all maps are sound; every key that stands in one of the maps
beside the entries has an entry; with a limit every entry has a rank, and what is held is the sum.

After a crash the maps are as the last commit left them: nothing is rebuilt, no file is replayed by
this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import Any

from pmemheap import CorruptHeapError, Heap, PmemHeapError, Snapshot
from pmemheap.containers.ordered import pairs_of
from pmemheap.kvstore import arrow
from pmemheap.kvstore.counters import Hits, number_bytes, number_of
from pmemheap.kvstore.figures import StoreStats
from pmemheap.kvstore.limiting import opened_limit
from pmemheap.kvstore.reading import Reading, root_of
from pmemheap.kvstore.tags import tag_bytes

__all__ = ["BATCH", "SubStore"]

BATCH = 256
"""Keys in a transaction of those calls that make several."""


class SubStore(Reading):
    """An ordered mapping of bytes to bytes under a name of a store, made by `KVStore.sub`.

    It has all that the store has but the file: it is open as long as the store is. A transaction
    of one is one of all.

    Parameters
    ----------
    source : Heap or Snapshot
        Open; a snapshot for a store that is read, and never changed.
    name : str
        Its name; empty for the store itself.
    durable : bool or None
        Of transactions that do not say it themselves.
    clock : callable
        Nanoseconds since 1970, for deadlines.
    limit, evict, count_hits
        As of `KVStore`.
    """

    def __init__(  # noqa: PLR0913 -- options, by name
        self,
        source: Heap | Snapshot,
        name: str,
        *,
        durable: bool | None,
        clock: Callable[[], int],
        limit: int | None = None,
        evict: str | None = None,
        count_hits: bool = False,
    ) -> None:
        self._heap = source if isinstance(source, Heap) else source.heap
        self._source, self._durable, self._name = source, durable, name
        self._hits = Hits() if count_hits else None
        self._open_maps(clock, limit, evict)

    def _open_maps(self, clock: Callable[[], int], limit: int | None, evict: str | None) -> None:
        if not self.readonly and root_of("tagged", self._name) not in self._source.roots:
            with self.transaction():  # a new one gets all or none
                self._enter_maps(clock)
        else:
            self._enter_maps(clock)
        has_limit = root_of("order", self._name) in self._source.roots
        self._eviction = opened_limit(
            self._map, self._deadlines, self._opened, has_limit, limit, evict
        )
        self._begin_reading()
        self._extra = self._expiring or len(self._tags) > 0 or self._eviction is not None

    @property
    def name(self) -> str:
        """Its name; that of the store itself is empty."""
        return self._name

    def __repr__(self) -> str:
        """Show name, file and promise."""
        state = "closed" if self.closed else self.durability
        name = f" {self._name!r} of" if self._name else ":"
        return f"<{type(self).__name__}{name} {self.path!r}, {state}>"

    def _reopen(self) -> None:
        """Show what the snapshot shows now."""
        clock = self.clock
        self._look_closely()
        self._open_maps(clock, None, None)

    def _start_expiring(self, deadline: int) -> None:
        """Look at deadlines from now on; called before one is stored, which has to be one."""
        self._deadlines.require(deadline)
        self._expiring = self._extra = True
        self._map.hide(self._deadlines.is_over)
        self._look_closely()

    def exclusive(self) -> AbstractContextManager[None]:
        """Return a transaction in which what is read stays true until the commit.

        So what was read may decide what is written: no other transaction changes anything
        meanwhile.
        """
        return self._map.exclusive()

    # ------------------------------------------------------------ one key

    def set(
        self, key: bytes, value: Any, ttl: float | None = None, tag: str | bytes | None = None
    ) -> None:
        """Give a key a value: any contiguous buffer. A deadline and a tag that it had are gone.

        Parameters
        ----------
        ttl : float, optional
            Seconds after which the key is absent again.
        tag : str or bytes, optional
            The group that it belongs to; see `evict_tag`.

        Raises
        ------
        ValueError
            The key is longer than 1024 bytes, or longer than 1022 with its tag; `ttl` is out of
            range. Nothing has changed.
        OutOfSpaceError
            There is no room, in the file, in the log or below the limit. Nothing has changed.
        """
        if not self._extra and ttl is None and tag is None:
            self._map[key] = value
            if not self._extra:
                return  # else another thread began to use deadlines or tags meanwhile
        self.set_until(key, value, None if ttl is None else self._deadlines.after(ttl), tag)

    def set_until(
        self, key: bytes, value: Any, deadline: int | None, tag: str | bytes | None = None
    ) -> None:
        """Give a key a value until a moment, or for good; else as `set`.

        Parameters
        ----------
        deadline : int or None
            Nanoseconds since 1970, as the clock of the store counts them. One that has passed makes
            the key absent at once.
        """
        named = self._begin_extra(deadline, tag)
        with self.transaction():
            self._map[key] = value  # from here on nobody else changes anything
            self._put_extra(key, value, deadline, named)

    def _begin_extra(self, deadline: int | None, tag: str | bytes | None) -> bytes | None:
        """Do what comes before the first deadline, and the first tag; return the tag's bytes."""
        if deadline is not None:
            self._start_expiring(deadline)
        if tag is None:
            return None
        named = tag_bytes(tag)
        self._extra = True
        return named

    def _put_extra(self, key: bytes, value: Any, deadline: int | None, tag: bytes | None) -> None:
        """Store what a key has beside its value, and make room."""
        self._deadlines.assign(key, deadline)
        self._tags.assign(key, tag)
        if self._eviction is not None:
            kept = bytes(key)
            self._eviction.stored(kept, len(kept) + memoryview(value).nbytes, deadline)
            for other in self._eviction.surplus(kept):
                self._drop(other, evicted=True)

    def __setitem__(self, key: bytes, value: Any) -> None:
        """Give a key a value, as `set` does."""
        if not self._extra:
            self._map[key] = value
            if not self._extra:
                return
        self.set(key, value)

    def add(
        self, key: bytes, value: Any, ttl: float | None = None, tag: str | bytes | None = None
    ) -> bool:
        """Give a key a value, as `set`, if it is not there; tell whether it was not."""
        if key in self:
            return False
        with self.exclusive():
            is_new = key not in self  # another thread may have been faster
            if is_new:
                self.set(key, value, ttl, tag)
        return is_new

    def delete(self, key: bytes) -> bool:
        """Remove a key if it is there; tell whether it was."""
        if not self._extra:
            found = self._map.discard(key)
            if self._extra:  # another thread may have stored it with a deadline or a tag before
                self._drop_orphan(key)
            return found
        with self.exclusive():
            was_over = self._deadlines.is_over(key)
            return self._drop(key) and not was_over

    def _drop(self, key: bytes, *, evicted: bool = False) -> bool:
        """Remove a key and all that it has; tell whether it was there."""
        self._deadlines.drop(key)
        self._tags.drop(key)
        if self._eviction is not None:
            self._eviction.removed(key, evicted=evicted)
        return self._map.discard(key)

    def _drop_orphan(self, key: bytes) -> None:
        with self.exclusive():
            if key not in self._map:
                self._drop(key)

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

    def incr(self, key: bytes, delta: int = 1, default: int | None = 0) -> int:
        """Add to a number, which is stored in decimal digits; return the sum.

        One step, also beside other threads. Deadline and tag of the key stay.

        Parameters
        ----------
        default : int or None
            The number of a key that is not there; None: a KeyError.

        Raises
        ------
        UsageError
            The value is no whole number; the sum does not fit into 64 bits. Nothing has changed.
        """
        with self.exclusive():
            value, deadline = self.entry(key)
            number = default if value is None else number_of(key, value)
            if number is None:
                raise KeyError(key)
            digits = number_bytes(key, number + delta)
            tag = None if value is None else self._tags.of(key)
            self._map[key] = digits
            self._put_extra(key, digits, deadline, tag)
        return int(digits)

    def decr(self, key: bytes, delta: int = 1, default: int | None = 0) -> int:
        """Subtract from a number, as `incr` adds; return the difference."""
        return self.incr(key, -delta, default)

    # ------------------------------------------------------------ many keys

    def put_many(
        self,
        pairs: Iterable[tuple[bytes, Any]],
        *,
        batch: int = BATCH,
        ttl: float | None = None,
        tag: str | bytes | None = None,
    ) -> None:
        """Give many keys values, in transactions of `batch` each; all in the one that is open."""
        rest = iter(pairs)
        while some := list(islice(rest, batch)):
            deadline = None if ttl is None else self._deadlines.after(ttl)
            named = self._begin_extra(deadline, tag)
            with self.transaction():
                for key, value in some:
                    self._map[key] = value
                    if self._extra:  # from here on nobody else can store a deadline
                        self._put_extra(key, value, deadline, named)

    def from_arrow(self, table: Any, *, batch: int = BATCH) -> int:
        """Store the rows of a `pyarrow.Table`; return how many. See `pmemheap.kvstore.arrow`."""
        return arrow.from_arrow(self, table, batch=batch)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Take over all of a mapping, of anything with `keys`, or of pairs; as `put_many`."""
        if more:
            raise TypeError(f"{self!r}: keys of bytes expected, found {sorted(more)}")
        self.put_many(pairs_of(other))

    def clear(self) -> None:
        """Remove everything, in transactions of 256 keys."""
        while keys := list(islice(self._map.keys(), BATCH)):
            with self.transaction():
                for key in keys:
                    self._drop(key)

    def evict_tag(self, tag: str | bytes) -> int:
        """Remove all keys that have a tag, in transactions of 256; return how many.

        Those that have expired and are still there count.
        """
        named, removed = tag_bytes(tag), 0
        while some := list(islice(self._tags.keys(named), BATCH)):
            with self.exclusive():
                removed += sum([self._drop(key) for key in some if self._tags.of(key) == named])
        return removed

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
                if self._eviction is not None:
                    self._eviction.moved(key, deadline)
            return found

    def persist(self, key: bytes) -> bool:
        """Let a key not expire; tell whether it would have."""
        with self.exclusive():
            found = key in self and self._deadlines.drop(key)
            if found and self._eviction is not None:
                self._eviction.moved(key, None)
            return found

    def purge(self, most: int | None = None) -> int:
        """Remove keys that have expired, in transactions of 256; return how many.

        Otherwise an expired key keeps its space until a change meets it: reads never write.

        Parameters
        ----------
        most : int, optional
            Remove no more than so many.
        """
        over, removed = islice(self._deadlines.over(), most), 0
        while some := list(islice(over, BATCH)):
            with self.exclusive():
                removed += sum([self._remove_over(key) for key in some])
        return removed

    def _remove_over(self, key: bytes) -> bool:
        if not self._deadlines.is_over(key):  # it was given another life meanwhile
            return False
        return self._drop(key)

    # ------------------------------------------------------------ the whole

    def evict(self, room: int = 0) -> None:
        """Remove keys as a put does, in transactions of 256, until there is room below the limit.

        Parameters
        ----------
        room : int
            Bytes of the key and value that are to come. A put that drives some ten thousand keys
            out does not fit into one transaction: this makes room for it before.

        Raises
        ------
        OutOfSpaceError
            The limit is lower than that; no other key has a deadline, and deadlines decide. Keys
            may have been removed.
        """
        eviction = self._eviction
        if eviction is None:
            return
        eviction.require_room(room)
        while eviction.is_above(room):
            with self.exclusive():
                for key in islice(eviction.surplus(room=room), BATCH):
                    self._drop(key, evicted=True)

    def _write_uses(self) -> None:
        """Write the uses that were noted in memory alone, before the file is closed."""
        if self._eviction is not None and not self.readonly and not self.closed:
            with suppress(PmemHeapError):  # nothing is lost but the order of keys that may go
                is_more = True
                while is_more:
                    with self.exclusive():
                        is_more = self._eviction.flush(BATCH)

    def reset_hits(self) -> None:
        """Count hits and misses from 0 on."""
        if self._hits is not None:
            self._hits.reset()

    def stats(self) -> StoreStats:
        """Return what the store consists of. O(keys). What is said of the file is of all of it."""
        with self._heap.paused():
            figures = None if self._eviction is None else self._eviction.figures()
            return StoreStats.of(
                self.durability, self._map.statistics(), self._heap.stats(),
                expiring=len(self._deadlines), tagged=len(self._tags),
                hits=self._hits, eviction=figures,
            )  # fmt: skip

    def _compact_maps(self) -> None:
        self.purge()
        self._map.compact()
        self._deadlines.compact()
        self._tags.compact()
        if self._eviction is not None:
            self._eviction.compact()

    def _check_maps(self) -> None:
        self._map.check()
        self._deadlines.check()
        for key in self._deadlines:
            if key not in self._map:
                raise CorruptHeapError(f"{self!r}: deadline of {key!r}: an entry expected, none")
        self._tags.check(self._map)
        if self._eviction is not None:
            self._eviction.check(self._map)

    def _drop_maps(self) -> None:
        """Remove all keys in short transactions, and what is left in one."""
        self.clear()
        with self.exclusive():
            self.clear()  # what others have added meanwhile
            if self._eviction is not None:
                self._eviction.drop_maps()
            self._tags.drop_maps()
            self._deadlines.drop_map()
            self._map.drop()
