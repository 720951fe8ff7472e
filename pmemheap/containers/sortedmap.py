"""SortedMap: an ordered map of bytes to bytes that lives in a heap.

    root "name" --> header --> node --> node --> leaf     a B+tree; nodes of 4 KiB
                                                  |       key, value, key, value ...
                                                  +-----> a long value, in a block of its own

`MapCore` is the C half: it descends, compares, edits. This half decides when a transaction
begins, where space comes from, and what an error says. A map is opened by reading its root: nothing
is made again. Every change is one of a transaction: of the one that the thread has open, or of one
of its own. Other threads see the committed map.

Values are read in place. An entry never moves within a node in which somebody views a value, and a
node that is made anew is freed when its last view goes: so a view of a value keeps its bytes,
whatever happens to the map.

What must hold is said, and verified, in `mapcensus`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NoReturn, TypeVar

from pmemheap import native
from pmemheap.containers.mapcensus import MapCensus, MapStatistics
from pmemheap.containers.names import MAP_MAGIC, found_kind, stamp_elsewhere, visible_roots
from pmemheap.containers.ordered import ITEMS, OrderedMapping, pairs_of
from pmemheap.containers.shown import entries_html
from pmemheap.errors import CorruptHeapError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.heap.heap import Heap
from pmemheap.heap.readers import pins_of
from pmemheap.heap.snapshots import Snapshot
from pmemheap.heap.space import space_of
from pmemheap.native.constants import UNPLACED, Format, Refusal
from pmemheap.units import GRANULE

__all__ = ["KEY_BYTES_MOST", "MapStatistics", "SortedMap"]

T = TypeVar("T")

KEY_BYTES_MOST = Format.KEY_MOST
"""Bytes of the longest key."""

_NODE_BYTES = Format.NODE
_ENTRY_BYTES_MOST = Format.MAP_ENTRY_MOST
_NODES_AT_ONCE = 8
_CLEARED_AT_ONCE = 256
_PACKED_AT_ONCE = 16  # times up to 8 leaves

_NO_MEMORY = {Refusal.NOMEM, Refusal.LOG_NOMEM}


class SortedMap(native.MapCore, OrderedMapping[bytes, bytes]):
    """The map under a root of a heap; made, empty, if there is none.

    Parameters
    ----------
    heap : Heap
        Open. A read-only one is enough for a map that exists.
    name : str
        Of the root.
    durable : bool, optional
        Of the transactions that changes outside of one begin; see `Heap.transaction`.

    Raises
    ------
    UsageError
        The heap is closed; it is read-only and has no such root; the root leads to something else
        than a map.
    CorruptHeapError
        The map is damaged.

    Examples
    --------
    >>> import pmemheap
    >>> from pmemheap.containers import SortedMap
    >>> heap = pmemheap.Heap.anonymous()
    >>> prices = SortedMap(heap, "prices")
    >>> prices[b"pear"] = b"3"
    >>> prices.update({b"apple": b"2", b"plum": b"5"})
    >>> list(prices.items(b"b"))
    [(b'pear', b'3'), (b'plum', b'5')]
    >>> with heap.transaction():
    ...     del prices[b"pear"]
    ...     prices[b"quince"] = b"7"
    >>> list(prices), len(prices)
    ([b'apple', b'plum', b'quince'], 3)
    >>> heap.close()

    Notes
    -----
    Point operations are O(log n): for a hundred thousand keys of 24 bytes three nodes. Keys have at
    most 1024 bytes, a longer one is a UsageError; values are contiguous buffers of any length. A
    change outside of a transaction is one commit. It raises OutOfSpaceError, with nothing changed,
    if the heap cannot grow or the transaction has no room in the log. Use from several threads is
    safe; one of them changes at a time.
    """

    _default = b""

    def __init__(self, heap: Heap | Snapshot, name: str, *, durable: bool | None = None) -> None:
        self._name = name
        self._durable = durable
        if isinstance(heap, Snapshot):
            self._show(heap)
        elif space_of(heap).shared.follows:
            self._be_last(heap)
            return
        else:
            self._be_of(heap)
        self._require_map()
        self._header()

    def _show(self, snapshot: Snapshot) -> None:
        """Be the map as of a commit, to be read."""
        heap = self._heap = snapshot.heap
        place = snapshot.place(self._name)
        if place is None:
            raise UsageError(f"map: a root {self._name!r} of {snapshot!r} expected, found none")
        self._place, self._pin = place, snapshot.pin
        self._attach(heap, place, False, False)

    def _be_last(self, heap: Heap) -> None:
        """Be the map as of the last commit, whichever that is, beside a writer."""
        self._heap = heap
        self._place = self._as_read()._place
        self._follow(pins_of(space_of(heap)), self._name.encode())
        self._attach(heap, self._place, False, False)

    def _as_read(self) -> SortedMap:
        """Return the map as of a new snapshot; for what is more than one lookup."""
        found = SortedMap(self._heap.read(), self._name)
        found._skip = self._skip  # private: of the C half
        return found

    def _be_of(self, heap: Heap) -> None:
        self._heap, name, durable = heap, self._name, self._durable
        place = visible_roots(heap).get(name)
        if place is None and heap.readonly:
            raise UsageError(f"map: a root {name!r} of {heap!r} expected, found none")
        beside = space_of(heap).shared.is_beside
        if place is None:
            self._attach(heap, 0, False, beside)
            place = self._create()
        self._place = place
        self._attach(heap, place, not durable or heap.durability != "process", beside)

    def _create(self) -> int:
        """Make the map, unless another thread was faster; return where its header lies."""
        strategy = space_of(self._heap).strategy
        strategy.require_fit(f"map {self._name!r}: a node", _NODE_BYTES, GRANULE)
        with self._heap.transaction(durable=self._durable) as tx:
            tx._become_writer()  # private: no call of users
            header = tx.roots.get(self._name)
            if header is None:
                header = tx.roots[self._name] = self._retried(tx, self._make)
        return int(header)

    def _require_map(self) -> None:
        stamp = self._stamp() or stamp_elsewhere(self._heap, self._place)
        if stamp is not None and stamp[0] != MAP_MAGIC:
            space_of(self._heap).shared.require_ours("map")
            raise UsageError(
                f"map {self._name!r}: a root of that name that leads to a SortedMap expected, it "
                f"leads to {found_kind(stamp[0])}"
            )

    @property
    def heap(self) -> Heap:
        """The heap in which it lies."""
        return self._heap

    @property
    def name(self) -> str:
        """The root that leads to it."""
        return self._name

    def __repr__(self) -> str:
        """Show the root."""
        return f"<SortedMap {self._name!r} of {self._heap!r}>"

    def _repr_html_(self) -> str:
        """Show the first entries in a notebook."""
        return entries_html(f"SortedMap {self._name!r} of {self._heap.name}", self)

    def __missing__(self, key: bytes) -> NoReturn:
        """Raise what says that there is no such key."""
        raise KeyError(key)

    # ------------------------------------------------------------ changing

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Yield in a transaction in which what is read stays true until the commit.

        So what was read may decide what is written: no other transaction changes anything
        meanwhile. Inside of an open transaction it is a savepoint.
        """
        with self._heap.transaction(durable=self._durable) as tx:
            self._exclude_others(tx)
            yield

    def _put_slow(self, key: bytes, value: Any) -> None:
        """Give a key a value, when C could not do it alone."""
        self._require_key(key)
        with self._heap.transaction(durable=self._durable) as tx:
            code = self._put(key, value, UNPLACED)
            if code in {Refusal.MAP_BUSY, Refusal.REFILL, Refusal.LARGE}:
                self._put_in(tx, key, value)
            elif code < 0:
                self._refuse(code)

    def _put_in(self, tx: Any, key: bytes, value: Any) -> None:
        with memoryview(value) as data:  # held, so that it has one length
            placed = UNPLACED
            if memoryview(key).nbytes + data.nbytes > _ENTRY_BYTES_MOST:
                placed = tx.malloc(data.nbytes)
                tx.write(placed, data)
            self._retried(tx, self._put, key, data, placed)

    def _require_key(self, key: bytes) -> None:
        length = memoryview(key).nbytes
        if length > KEY_BYTES_MOST:
            raise UsageError(
                f"map {self._name!r}: a key of at most {KEY_BYTES_MOST} bytes expected, "
                f"found one of {length}"
            )

    def _remove_slow(self, key: bytes) -> bool:
        """Remove a key, when C could not do it alone; tell whether it was there."""
        with self._heap.transaction(durable=self._durable) as tx:
            return self._retried(tx, self._remove, key) > 0

    def patch(self, key: bytes, start: int, data: Any) -> None:
        """Change bytes of a value in place, at a cost that does not depend on its length.

        Where other processes may read, the value is copied, once in each transaction.

        Parameters
        ----------
        start : int
            Where in the value.
        data : buffer
            It has to end inside of the value.

        Raises
        ------
        KeyError
            There is no such key.
        UsageError
            The range does not lie inside of the value. Nothing has changed.
        """
        with self._heap.transaction(durable=self._durable) as tx:
            found = self._patch(key, start, data)
            if found < 0:
                found = self._retried(tx, self._patch_once, tx, key, start, data)
        if not found:
            raise KeyError(key)

    def _patch_once(self, tx: Any, key: bytes, start: int, data: Any) -> int:
        code: int = self._patch(key, start, data)
        if code in {Refusal.REFILL, Refusal.LARGE}:  # the value, or its node, is to be copied
            value = bytearray(self[key])
            with memoryview(data) as new:
                value[start : start + new.nbytes] = new.cast("B")
            self._put_in(tx, key, value)
            return 1
        if code == Refusal.MAP_OUTSIDE:
            raise UsageError(
                f"map {self._name!r}: {memoryview(data).nbytes} bytes from {start} inside "
                f"of the value of {key!r} expected, which has {len(self[key])} bytes"
            )
        return code

    def put_many(self, pairs: Iterable[tuple[bytes, Any]], *, batch: int = 256) -> None:
        """Give many keys values, in transactions of `batch` each; all in the one that is open."""
        rest = iter(pairs)
        while some := list(islice(rest, batch)):
            with self._heap.transaction(durable=self._durable):
                for key, value in some:
                    self[key] = value

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Take over all of a mapping, of anything with `keys`, or of pairs; as `put_many`."""
        if more:
            raise TypeError(f"map {self._name!r}: keys of bytes expected, found {sorted(more)}")
        self.put_many(pairs_of(other))

    def clear(self) -> None:
        """Remove everything, in transactions of 256 keys."""
        while self._clear_some():
            pass

    def _clear_some(self) -> int:
        """Remove the first keys in one transaction; return how many there were."""
        keys = list(islice(self, _CLEARED_AT_ONCE))
        with self._heap.transaction(durable=self._durable):
            removed = [self.discard(key) for key in keys]
            if keys and not any(removed) and next(iter(self), None) == keys[0]:
                raise self._contradiction()  # nobody else can have put it back meanwhile
        return len(keys)

    def compact(self) -> None:
        """Move entries together where that saves leaves, in short transactions. O(n).

        Afterwards leaves are nearly full, as they are when keys came in order. Values in blocks of
        their own stay where they are; a leaf that somebody views keeps its space until then.
        """
        key: bytes | None = b""
        while key is not None:
            with self._heap.transaction(durable=self._durable) as tx:
                for _ in range(_PACKED_AT_ONCE):
                    key = None if key is None else self._pack_from(key, tx)

    def _pack_from(self, key: bytes, tx: Any) -> bytes | None:
        found = self._retried(tx, self._pack, key)
        assert not isinstance(found, int)
        return found

    def drop(self) -> None:
        """Remove everything, and the map and its root as well.

        Whoever calls a dropped map gets a UsageError.
        """
        while not self._dropped_empty():
            self.clear()

    def _dropped_empty(self) -> bool:
        """Remove the map if it has no entries, which others may add; tell whether it is gone."""
        with self._heap.transaction(durable=self._durable) as tx:
            self._exclude_others(tx)
            if len(self):
                if next(iter(self), None) is None:
                    raise self._contradiction()
                return False
            tx.write(self._place, bytes(8))
            tx.free(self._place)
            del tx.roots[self._name]
        return True

    # ------------------------------------------------------------ scanning

    def _scanned(
        self, low: bytes | None, high: bytes | None, back: bool, what: int
    ) -> Iterator[Any]:
        return self._iterate(low, high, back, what, False)

    def _counted(self, low: bytes | None, high: bytes | None) -> int:
        return self._count(low, high)

    def scan(self, start: bytes | None = None, count: int = 25) -> list[tuple[bytes, bytes]]:
        """Return the first `count` entries from `start` on, at once."""
        if count < 0:
            raise UsageError(f"map {self._name!r}: scan: a count from 0 on expected, {count} found")
        return self._iterate(start, None, False, ITEMS, False).take(count)

    # ------------------------------------------------------------ when C cannot go on

    def _retried(self, tx: Any, change: Callable[..., T], *arguments: Any) -> T:
        """Repeat a change that C refuses, after what lets it succeed; or raise.

        It gets on: who has excluded others is not busy again, and each time that nodes are missing
        the heap brings one more into reach of C, until it refuses.
        """
        nodes = _NODES_AT_ONCE
        while isinstance(code := change(*arguments), int) and code < 0:
            if code == Refusal.MAP_BUSY:
                self._exclude_others(tx)
            elif code == Refusal.REFILL:
                for offset in [tx.malloc(_NODE_BYTES) for _ in range(nodes)]:
                    tx.free(offset)
                nodes += 1
            else:
                self._refuse(code)
        return code

    def _exclude_others(self, tx: Any) -> None:
        """Wait until no other transaction changes anything; none does from then on."""
        try:
            tx.write(self._place, b"")
        except UsageError:
            len(self)  # says so if the map was dropped
            raise

    def _refuse(self, code: int) -> NoReturn:
        """Raise what C has found."""
        self._heap.roots.get(self._name)  # raises what is to be raised of a closed heap
        if code == Refusal.MAP_CORRUPT:
            raise self._contradiction()
        if code == Refusal.MAP_NO_TRANSACTION:
            raise UsageError(f"map {self._name!r}: a heap that can be changed expected")
        if code == Refusal.IN_TRANSACTION:
            raise BufferError(
                f"map {self._name!r}: node at offset {self._bad():#x}: no other transaction that "
                "is about to free it expected, found one"
            )
        if code == Refusal.LOG_LARGE:
            raise OutOfSpaceError(f"map {self._name!r}: bytes that a record can hold expected")
        if code == Refusal.PLACE:
            raise UsageError(
                f"map {self._name!r}: a heap without a Space for its blocks expected, found "
                f"{self._heap.strategy}"
            )
        space_of(self._heap).raise_code(code)  # tables of the heap that contradict themselves
        assert code in _NO_MEMORY, f"map: code {code}"
        raise MemoryError(f"map {self._name!r}: no memory for a change; nothing has changed")

    def _contradiction(self) -> PmemHeapError:
        """Return what to raise for a header or node that is none."""
        space_of(self._heap).shared.require_ours("map")
        offset = self._bad()
        if offset == self._place and self._is_dropped():
            return self._dropped()
        return self._damage(offset, "a header or a node in order", "none")

    def _damage(self, offset: int, expected: str, found: str) -> PmemHeapError:
        """Return what to raise for nodes that contradict each other.

        A reader that is attached may have seen half of a change, or not all of the heap.
        """
        where = f"map {self._name!r}: node at offset {offset:#x}"
        if space_of(self._heap).shared.is_beside:
            return UsageError(
                f"{where}: {expected} expected, {found} found: another process may have changed it "
                "since the heap was attached; read again, or attach again"
            )
        return CorruptHeapError(f"{where}: {expected} expected, {found} found")

    def _dropped(self) -> UsageError:
        return UsageError(
            f"map {self._name!r}: a root that leads to its header at offset {self._place:#x} "
            "expected, found none: the map was dropped, or its transaction was taken back"
        )

    def _is_dropped(self) -> bool:
        """Tell whether no root leads to the header any more, or to one of another map."""
        stamp = self._stamp()
        is_another = stamp is not None and stamp[0] == MAP_MAGIC and not stamp[1]
        return is_another or self._place not in visible_roots(self._heap).values()

    def _is_committed(self) -> bool:
        """Tell whether a root that is committed leads to the map, or only one of a transaction.

        C asks after a transaction in which the map was opened.

        Raises
        ------
        UsageError
            None does, as this thread sees it.
        """
        if self._place in self._heap.roots.values():
            return True
        if self._place not in visible_roots(self._heap).values():
            raise self._dropped()
        return False

    # ------------------------------------------------------------ the whole

    def check(self) -> None:
        """Verify everything that must hold. O(n).

        Raises
        ------
        CorruptHeapError
            Something does not; place, expected, found.
        """
        with self._heap.paused():
            self._census().require_sound(self._place)

    def statistics(self) -> MapStatistics:
        """Count what the map consists of; return the counts. O(n)."""
        with self._heap.paused():
            return self._census().statistics()

    def _census(self) -> MapCensus:
        if self._pins is not None:
            return self._as_read()._census()
        usable_size = self._heap.usable_size if self._pin is None else None
        return MapCensus(self._header(), self._node, usable_size, self._damage)
