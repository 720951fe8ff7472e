"""Array change: arrays are made, changed or dropped; each as a whole or not at all.

A change is one transaction, or a part of the one that its thread has open. It begins by excluding
others: what it reads of the catalogue stays as it is until the commit.

How bytes of rows come into a block:

- a block that this change has made: they are stored at once; nobody else has it
- a change by itself: they are collected, and stored when it commits
- a part of the caller's transaction, which is to see what it did: they are stored at once as well.
  Rows below `high` may be committed, or seen by views, and are snapshotted before

Rows that were taken away stay as they are while views of the array live, which may show them: to
grow over them is a BufferError. `high` says up to where there may be such rows; it goes with the
first growth that finds no view.

More than `_PART_BYTES` are appended in records of their own, behind the length, where nobody looks;
the last one has the length. `Life.changes` says whether somebody was there in between.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from pmemheap.containers import arrayentry
from pmemheap.containers.arrayentry import Entry, rows_bytes
from pmemheap.containers.arraylives import Life
from pmemheap.containers.arraypick import Picked
from pmemheap.containers.arraystore import LARGE_BYTES, ArrayStore, is_empty
from pmemheap.containers.arraytypes import raw_bytes
from pmemheap.containers.glances import kept_views
from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.heap.arena import Arena
from pmemheap.heap.place import place_of
from pmemheap.heap.transaction import Savepoint, Transaction
from pmemheap.native.constants import UnitState
from pmemheap.refusals import end_with
from pmemheap.units import UNIT, KiB, MiB

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Appending", "Change", "Changing"]

_PART_BYTES = 4 * MiB
_SMALL_BYTES = 64 * KiB
_APART_BYTES_LEAST = 64 * KiB


class Change:
    """One change of arrays, as part of a transaction.

    Attributes
    ----------
    joins : bool
        Whether the transaction was open before: then this is a savepoint of it.
    """

    def __init__(self, store: ArrayStore, tx: Transaction) -> None:
        self._store, self._tx = store, tx
        self.joins: bool = isinstance(tx, Savepoint)
        self.made: list[Arena] = []
        try:
            tx.write(store.place, b"")  # others wait from here on
        except UsageError:
            len(store.catalogue)  # says so if it was dropped
            raise

    # ------------------------------------------------------------ entries

    def value(self, key: bytes) -> bytes | None:
        """Return the value of an entry, which nobody else can change until the transaction ends."""
        found: bytes | None = self._store.catalogue.get(key)
        return found

    def put(self, key: bytes, entry: Entry) -> bytes:
        """Give a name an entry; return its value."""
        value = self._store.catalogue[key] = arrayentry.encoded(entry)
        return value

    def remove(self, key: bytes) -> None:
        """Take a name away."""
        del self._store.catalogue[key]

    # ------------------------------------------------------------ blocks

    def make(self, entry: Entry, in_place: bool) -> tuple[Entry, np.ndarray[Any, Any]]:
        """Reserve a block for the rows of an entry; return the entry with it, and the rows.

        They may be stored to at once: nobody else has them.
        """
        if entry.dtype.names is not None:
            self._store.describe_once(entry.dtype)
        made = entry._replace(offset=self._reserved(rows_bytes(entry, entry.length), in_place))
        try:
            return made, self._store.own(made)
        except ValueError as error:  # more axes, or longer ones, than numpy has
            raise UsageError(
                f"array: a shape that numpy can have expected, {entry.shape} found: {error}"
            ) from error

    def fill(self, entry: Entry, rows: np.ndarray[Any, Any], data: np.ndarray[Any, Any]) -> None:
        """Give rows that `make` has returned their elements."""
        if data.dtype == entry.dtype and data.flags.c_contiguous:
            self._tx.write(entry.offset, raw_bytes(data.reshape(-1)))
        else:
            rows[...] = data

    def _reserved(self, nbytes: int, in_place: bool) -> int:
        if in_place or nbytes >= LARGE_BYTES:
            arena, is_new = self._store.empty_arena()
            if arena is not None:
                if is_new:
                    self.made.append(arena)
                return self._tx.malloc(max(nbytes, _APART_BYTES_LEAST), UNIT, arena)
            return self._tx.malloc(nbytes, UNIT)
        return self._tx.malloc(nbytes)

    def free(self, name: str, entry: Entry, deferred: bool) -> None:
        """Free the block of an array; BufferError if views live and it is not to wait for them."""
        if not deferred:
            self._require_unseen(name, entry, "where its block is freed,")
            with suppress(BufferError):  # another thread copies rows: it goes with that
                self._tx.free(entry.offset)
                return
        self._tx.free(entry.offset, True)

    def make_room(self, name: str, entry: Entry, rows: int, life: Life) -> Entry:
        """Make room for rows; return the entry, with another block if the array had to move."""
        if rows <= self._store.capacity(entry) or self._expand(entry, rows):
            return entry
        self._require_unseen(name, entry, "that the array can move, in order to grow,")
        wanted = rows_bytes(entry, rows)
        room = wanted + (wanted // 2 if wanted < _SMALL_BYTES else wanted // 8)
        is_apart = self._store.space_at(entry.offset).origin != 0
        moved = entry._replace(offset=self._reserved(room, is_apart), high=0)
        if entry.nbytes:
            space = self._store.space_at(entry.offset)
            with space.own_view(entry.offset, entry.nbytes) as old:
                self._tx.write(moved.offset, old)  # which stores it at once
        self.free(name, entry, False)
        life.move_to(self._store.heap, moved.offset)
        return moved

    def _expand(self, entry: Entry, rows: int) -> bool:
        """Let the block grow in place; tell whether it has room for some rows then."""
        heap, offset = self._store.heap, entry.offset
        usable, wanted = heap.usable_size(offset), rows_bytes(entry, rows)
        state = place_of(self._store.space_at(offset).core, offset).state
        if usable < UNIT or state == UnitState.RESERVED:  # of a run, or of this transaction
            return False
        with suppress(OutOfSpaceError):  # room for later is a wish
            if heap.expand(offset, max(wanted, usable + min(max(usable // 8, MiB), usable))):
                return True
        try:
            return heap.expand(offset, wanted)
        except OutOfSpaceError:
            if self._store.space_at(offset).origin:
                raise
            return False

    def _require_unseen(self, name: str, entry: Entry, why: str) -> None:
        """Raise BufferError if views of an array live."""
        views = kept_views(self._store.space_at(entry.offset), entry.offset)
        if views:
            raise BufferError(
                f"array {name!r}: no live views or arrays expected {why} {views} found"
            )

    # ------------------------------------------------------------ rows

    def put_rows(
        self, entry: Entry, start: int, rows: np.ndarray[Any, Any], *, is_new: bool = False
    ) -> None:
        """Give rows from `start` on their bytes; the block has room for them.

        Parameters
        ----------
        is_new : bool
            Whether this change has made the block.
        """
        raw = raw_bytes(rows.reshape(-1))
        begin, offset = start * entry.row_bytes, entry.offset
        if not len(raw):
            return
        if self.joins and not is_new:
            committed = max(entry.high, entry.length) * entry.row_bytes
            below = min(len(raw), committed - begin)
            if below > 0:
                self._tx.snapshot(offset + begin, below)
            with self._store.space_at(offset).own_view(offset, begin + len(raw)) as view:
                view[begin:] = raw
        self._tx.write(offset + begin, raw)

    def make_end(self, name: str, entry: Entry, count: int, life: Life) -> Entry:
        """Make room behind the last row; return the entry, with another block if it had to move."""
        life.changes += 1
        moved = self.make_room(name, entry, entry.length + count, life)
        if moved.offset == entry.offset and max(entry.high, life.shown) > entry.length:
            self._require_unseen(name, entry, "where rows were that they may show,")
            life.shown = 0
            if not self.joins:
                return moved._replace(high=0)
        return moved

    def set_length(self, key: bytes, entry: Entry, length: int) -> None:
        """Give an array its length."""
        high = max(entry.high, entry.length)
        shape = (length, *entry.shape[1:])
        self.put(key, entry._replace(shape=shape, high=high if high > length else 0))

    def change_rows(self, entry: Entry, picked: Picked, value: Any) -> None:
        """Assign to the rows that an index picks, as numpy does it."""
        changed = picked.copied(self._store.own(entry))
        changed[picked.key] = value
        for start, rows in picked.runs(changed):
            self.put_rows(entry, start, rows)


# ---------------------------------------------------------------- as a whole


class Changing:
    """A context manager that runs a change: it commits at the end, and an exception takes it back.

    Nothing that could be refused is done behind the commit: what raises has not happened.
    """

    __slots__ = ("_change", "_store", "_tx")

    def __init__(self, store: ArrayStore) -> None:
        store.require_changeable()
        self._store, self._tx = store, store.heap.transaction()

    def __enter__(self) -> Change:
        """Return the change."""
        try:
            self._change = Change(self._store, self._tx)
        except BaseException:
            self._tx.abort()
            raise
        return self._change

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit, or take it back, and the arenas that it has made."""
        try:
            self._tx.__exit__(kind, value, traceback)
        except BaseException as error:
            self._drop_made(error)
            raise
        if value is not None:
            self._drop_made(value)

    def _drop_made(self, error: BaseException) -> None:
        if not self._change.joins:
            for arena in self._change.made:
                end_with(error, partial(self._drop_empty, arena))

    def _drop_empty(self, arena: Arena) -> None:
        """Drop an arena, unless another change has used it since; none does meanwhile."""
        with self._store.heap.transaction() as tx:
            tx.write(self._store.place, b"")
            if is_empty(arena):
                arena.drop()


class Appending(NamedTuple):
    """Rows that are to be added to an array.

    Attributes
    ----------
    find : callable
        Returns the entry as a change sees it, or raises that the array is gone.
    length : int, optional
        Of the array before; if it is another one, nothing is added.
    """

    store: ArrayStore
    key: bytes
    name: str
    life: Life
    find: Callable[[Change], Entry]
    rows: np.ndarray[Any, Any]
    length: int | None = None

    def run(self) -> bool:
        """Add them, all of them or none; tell whether the array had the length that it should."""
        while (added := self._try()) is None:
            pass
        return added

    def _try(self) -> bool | None:
        """Add them; None if somebody else changed the array meanwhile."""
        part = max(_PART_BYTES // max(self.rows.nbytes // len(self.rows), 1), 1)
        start = seen = 0
        while start < len(self.rows):
            with Changing(self.store) as change:
                entry = self.find(change)
                if self.length is not None and entry.length != self.length:
                    return False
                if start and self.life.changes != seen:
                    return None
                start = self._put_part(change, entry, start, part)
                seen = self.life.changes
        return True

    def _put_part(self, change: Change, entry: Entry, start: int, part: int) -> int:
        """Store rows from `start` on, as many as a record should hold; return where they end."""
        count = len(self.rows)
        made = change.make_end(self.name, entry, count, self.life)
        is_new = made.offset != entry.offset
        end = count if change.joins or is_new else min(start + part, count)
        change.put_rows(made, entry.length + start, self.rows[start:end], is_new=is_new)
        change.set_length(self.key, made, entry.length + (count if end == count else 0))
        return end
