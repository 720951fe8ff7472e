"""Vector change: a vector is made, changed or dropped; each as a whole or not at all.

Two ways to change it:

- alone: new elements and new counts are written by one transaction, in one record. More than
  `_PART_BYTES` go ahead in records of their own, into space behind the length, where nobody looks;
  the last record has the length.
- inside of a transaction of the caller: the counts go into a new block, to which the root of the
  transaction leads. So the thread sees what it did, no other one does, and an abort, or that of a
  savepoint, takes it back; a new block needs no old bytes in the log. At `high` and behind it no
  element is anybody's: there they are stored at once, and written, so that the commit has them.
  Elements below `high` may be committed and are snapshotted before.

Elements that were taken away lie between length and `high`. Arrays may show them: as long as some
live nothing grows over them (BufferError). Without arrays the next growth takes `high` down.

Every change begins with a snapshot, if only of no bytes: it waits until no other transaction
changes committed bytes. So what was read after it stays as it is until the commit. `changes` counts
them, also those that are aborted: who appends in parts sees whether somebody was there in between.
Only this process compares it; what a crash makes of it does not matter.
"""

from __future__ import annotations

import os
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pmemheap.containers.arraytypes import raw_bytes
from pmemheap.containers.glances import kept_views
from pmemheap.containers.names import VECTOR_MAGIC
from pmemheap.containers.vectorstore import (
    BLOCK_MAGIC,
    COUNTS,
    ELEMENTS_AT,
    HEADER,
    Counts,
    VectorStore,
    shown,
)
from pmemheap.errors import UsageError
from pmemheap.heap.arena import Arena
from pmemheap.heap.heap import Heap
from pmemheap.heap.space import space_of
from pmemheap.heap.transaction import Savepoint, Transaction
from pmemheap.native.constants import place
from pmemheap.refusals import end_with
from pmemheap.units import UNIT, KiB, MiB

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Change", "append", "drop", "make_missing"]

_LENGTHS = struct.Struct("<QQ")
_LENGTHS_AT = COUNTS.size - _LENGTHS.size
_CHANGES = struct.Struct("<Q")
_CHANGES_AT = place("ph_vector_header", "changes")
_BLOCK_LEAST = 64 * KiB
_PART_BYTES = 4 * MiB

_making = threading.Lock()


def _renew_locks() -> None:
    """In a forked child: the thread that had it is not there to release it."""
    global _making  # noqa: PLW0603 -- a lock cannot be made anew in place
    _making = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


# ---------------------------------------------------------------- made, dropped


def make_missing(
    heap: Heap, name: str, dtype: np.dtype[Any] | None, capacity: int, headroom: int | None
) -> None:
    """Make a vector if there is no root of its name; UsageError without a dtype for it."""
    with _making:
        if name not in heap.roots:
            if dtype is None:
                raise UsageError(
                    f"vector {name!r}: a root of that name, or a dtype to make one, expected, "
                    "found neither"
                )
            _make(heap, name, dtype, capacity, headroom)


def _make(heap: Heap, name: str, dtype: np.dtype[Any], capacity: int, headroom: int | None) -> None:
    _require_alone(heap, name, "made")
    is_new = name not in heap.arenas()
    arena = heap.arena(name, headroom=headroom)
    try:
        _make_in(heap, name, arena, dtype, capacity)
    except BaseException as error:
        if is_new and next(arena.blocks(), None) is None:
            end_with(error, arena.drop)
        raise


def _make_in(heap: Heap, name: str, arena: Arena, dtype: np.dtype[Any], capacity: int) -> None:
    if (other := next(arena.blocks(), None)) is not None:
        raise UsageError(
            f"vector {name!r}: an arena of that name without blocks expected, "
            f"found one at {other[0]:#x}"
        )
    size = max(_BLOCK_LEAST, ELEMENTS_AT + capacity * dtype.itemsize)
    with heap.transaction() as tx:
        block, counts = tx.malloc(size, UNIT, arena), tx.malloc(COUNTS.size)
        with space_of(arena).own_view(block, ELEMENTS_AT) as view:
            HEADER.pack_into(view, 0, BLOCK_MAGIC, 0, dtype.str.encode())
        with space_of(heap).own_view(counts, COUNTS.size) as view:
            COUNTS.pack_into(view, 0, VECTOR_MAGIC, block, 0, 0)
        tx.roots[name] = counts


def drop(store: VectorStore) -> None:
    """Remove a vector with its root and its arena."""
    _require_alone(store.heap, store.name, "dropped")
    with store.heap.transaction() as tx:
        counts = Change(store, tx).counts
        tx.free(store.block)
        tx.free(counts.place, deferred=True)  # others may be reading them
        del tx.roots[store.name]
    with suppress(BufferError):
        store.arena.drop()


def _require_alone(heap: Heap, name: str, what: str) -> None:
    tx = heap.transaction()
    tx.abort()  # a commit would wait until what came before it is durable
    if isinstance(tx, Savepoint):
        raise UsageError(
            f"vector {name!r}: no open transaction expected where it is {what}, found one"
        )


# ---------------------------------------------------------------- changed


class Change:
    """One change of a vector, as part of a transaction.

    Attributes
    ----------
    joins : bool
        Whether the transaction was open before: then this is a savepoint of it.
    counts : Counts
        Those of the vector, which nobody else can change until the transaction ends.
    number : int
        Of this change; they are numbered in the order in which they have the vector.
    """

    def __init__(self, store: VectorStore, tx: Transaction) -> None:
        store.require_live()
        self._store, self._tx = store, tx
        self.joins: bool = isinstance(tx, Savepoint)
        try:
            tx.snapshot(store.block, 0)
        except UsageError:
            store.counts(tx.roots)  # says so if the vector was dropped
            raise
        self.counts: Counts = store.counts(tx.roots)
        with space_of(store.arena).own_view(store.block, ELEMENTS_AT) as view:
            self.number: int = (_CHANGES.unpack_from(view, _CHANGES_AT)[0] + 1) % (1 << 64)
            _CHANGES.pack_into(view, _CHANGES_AT, self.number)

    def put(self, index: int, raw: memoryview) -> None:
        """Give elements from `index` on their bytes; the block has room for them."""
        block, itemsize = self._store.block, self._store.dtype.itemsize
        start = ELEMENTS_AT + index * itemsize
        if self.joins:
            committed = min(len(raw), (self.counts.high - index) * itemsize)
            if committed > 0:
                self._tx.snapshot(block + start, committed)
            with space_of(self._store.arena).own_view(block, start + len(raw)) as view:
                view[start:] = raw
        self._tx.write(block + start, raw)

    def begin_growth(self) -> None:
        """Raise BufferError if arrays live that may show what lies behind the end."""
        place, length, high = self.counts
        store = self._store
        if max(high, shown.get(store.arena, 0)) <= length:
            return
        views = kept_views(space_of(store.arena), store.block)
        if views:
            raise BufferError(
                f"vector {store.name!r}: no live arrays expected where elements were that they may "
                f"show, {views} found"
            )
        shown.pop(store.arena, None)
        if not self.joins:
            self.counts = Counts(place, length, length)

    def end(self, length: int) -> None:
        """Set the length."""
        place, store = self.counts.place, self._store
        high = max(length, self.counts.high)
        if not self.joins:
            self._tx.write(place + _LENGTHS_AT, _LENGTHS.pack(length, high))
            return
        if store.heap.roots[store.name] == place:
            place = self._tx.malloc(COUNTS.size)
            self._tx.roots[store.name] = place
            self._tx.free(self.counts.place, deferred=True)  # others may be reading them
        else:
            self._tx.snapshot(place, COUNTS.size)  # of a block of this transaction: no sync
        with space_of(store.heap).own_view(place, COUNTS.size) as view:
            COUNTS.pack_into(view, 0, VECTOR_MAGIC, store.block, length, high)


def append(store: VectorStore, values: np.ndarray[Any, Any]) -> None:
    """Add elements at the end: all of them or none."""
    raw = raw_bytes(values)
    with store.heap.transaction() as tx:
        change = Change(store, tx)
        if change.joins or len(raw) <= _PART_BYTES:
            change.begin_growth()
            length = change.counts.length
            store.reserve(length + len(values))
            change.put(length, raw)
            change.end(length + len(values))
            return
    while not _append_in_parts(store, raw):
        pass


def _append_in_parts(store: VectorStore, raw: memoryview) -> bool:
    """Append more than a record should hold; False if somebody else changed the vector."""
    itemsize, seen = store.dtype.itemsize, 0
    step = max(_PART_BYTES // itemsize, 1) * itemsize
    for start in range(0, len(raw), step):
        with store.heap.transaction() as tx:
            change = Change(store, tx)
            if start and change.number != seen + 1:
                return False
            change.begin_growth()
            length, seen = change.counts.length, change.number
            store.reserve(length + len(raw) // itemsize)
            change.put(length + start // itemsize, raw[start : start + step])
            if start + step >= len(raw):
                change.end(length + len(raw) // itemsize)
    return True
