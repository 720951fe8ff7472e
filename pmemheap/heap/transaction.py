"""Transaction: many changes of a heap that become visible together, or not at all.

    with heap.transaction() as tx:
        block = tx.alloc(100)             reserved: its bytes may be stored to at once
        tx.write(offset, b"...")          collected: stored when the transaction commits
        tx.snapshot(offset, 64)           the old bytes are kept: then change them in place
        tx.free(old)                      freed when the transaction commits
        tx.roots["name"] = block.offset   likewise
                                          leaving commits, an exception aborts

`TxCore` is the C half: what C can answer alone never comes here. Nothing persistent happens before
the commit, except that a snapshot writes its old bytes to the log. Inside of an open transaction
of the same thread `heap.transaction()` gives a *savepoint*: the same calls, which can be taken back
together without giving up the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pmemheap.errors import UsageError
from pmemheap.file.redo import ROOM_WANTED, slot_operations
from pmemheap.format.layout import RootSlot
from pmemheap.heap import pickled, rooted, upkeep
from pmemheap.heap.arguments import alignment_argument, offset_argument, size_argument, whole_number
from pmemheap.heap.blockspace import BlockSpace
from pmemheap.heap.exiting import leave_at_exit
from pmemheap.heap.handles import Block, new_array
from pmemheap.heap.refusing import not_live, refuse_in_transaction
from pmemheap.heap.refusing import rooted as refused_as_rooted
from pmemheap.heap.roots import MemoryRoots
from pmemheap.heap.space import Space, space_of
from pmemheap.heap.transactionroots import PendingRoots, TransactionRoots
from pmemheap.heap.waiting import await_gate
from pmemheap.heap.work import Work
from pmemheap.native.constants import Refusal, TxState
from pmemheap.refusals import end_with
from pmemheap.units import GRANULE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pmemheap.heap.heap import Heap

__all__ = ["Savepoint", "Transaction"]

_ENDED: dict[int, str] = {TxState.COMMITTED: "it was committed", TxState.ABORTED: "it was aborted"}


class Transaction(Work):
    """An open transaction; made by `Heap.transaction`. Used by the thread that made it, only.

    A context manager: it commits when the block is left, and aborts when an exception leaves it.

    Examples
    --------
    >>> import pmemheap
    >>> heap = pmemheap.Heap.anonymous()
    >>> with heap.transaction() as tx:
    ...     block = tx.alloc(5)
    ...     block.view[:] = b"hello"
    ...     tx.roots["greeting"] = block.offset
    >>> bytes(heap.view(heap.roots["greeting"], 5))
    b'hello'
    >>> heap.close()
    """

    __slots__ = ("__weakref__",)

    _heap: Heap
    _pending_roots: PendingRoots | None
    _savepoints: list[PendingRoots] | None  # of each, the roots that it would take back to

    # ------------------------------------------------------------ what it is

    @property
    def heap(self) -> Heap:
        """The heap that it changes."""
        return self._heap

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self._state()[0] == TxState.OPEN

    @property
    def is_committed(self) -> bool:
        """Whether it has become part of the heap."""
        return self._state()[0] == TxState.COMMITTED

    @property
    def durable(self) -> bool:
        """Whether its commit waits until it would survive a power failure."""
        return self._durable

    @property
    def roots(self) -> TransactionRoots:
        """The roots of the heap as this transaction will leave them."""
        return TransactionRoots(self._heap.roots, self._pending, self._require_nameable)

    def __repr__(self) -> str:
        """Show the heap and whether it is open."""
        return f"<Transaction of {self._heap!r}, {_ENDED.get(self._state()[0], 'open')}>"

    # ------------------------------------------------------------ blocks

    def alloc(self, size: int, align: int = GRANULE, arena: BlockSpace | None = None) -> Block:
        """Reserve a block and return a handle to it; as `malloc` otherwise."""
        face = self._face_of(arena)
        offset = self.malloc(size, align, face)
        try:
            return Block(face, offset, size)
        except BaseException as error:
            end_with(error, partial(self.free, offset))
            raise

    def ndarray(
        self,
        shape: int | tuple[int, ...],
        dtype: npt.DTypeLike = float,
        align: int = 64,
        arena: BlockSpace | None = None,
    ) -> np.ndarray[Any, Any]:
        """Reserve a block and return it as a numpy array of zeros; parameters as `Heap.ndarray`.

        The array may be stored to at once. It keeps its bytes whatever becomes of the transaction;
        if that aborts, the space is free when the last array goes.
        """
        self._require_usable()
        return new_array(self._face_of(arena), shape, dtype, align)

    def dump(self, value: object, arena: BlockSpace | None = None) -> int:
        """Pickle an object into a block that is reserved, as `Heap.dump`; return its offset."""
        self._require_usable()
        return pickled.dump(self._face_of(arena), value)

    def malloc_many(self, size: int, count: int) -> memoryview:
        """Reserve `count` blocks of `size` bytes: all of them or none.

        Returns
        -------
        memoryview
            Writable, of uint64: the offsets.
        """
        blocks = whole_number("malloc_many: count", count, 0, (1 << 40) - 1)
        offsets = memoryview(bytearray(8 * blocks)).cast("Q")
        done = 0
        try:
            while done < blocks:
                offsets[done] = self.malloc(size)
                done += 1
        except BaseException:
            for offset in offsets[:done]:
                self._try_free(offset, False)
            raise
        return offsets

    def realloc(self, offset: int, size: int) -> int:
        """Give the block at `offset` another size, and return its offset: a new one, if it moves.

        The contents are kept up to the smaller size. Exceptions as `malloc` and `free`.
        """
        place, nbytes = offset_argument(offset), size_argument(size)
        self._require_usable()
        usable = self._heap.usable_size(place)
        if usable // 2 < nbytes <= usable:
            return place
        space = self._space
        of = space.arena_of(place)
        to = self.malloc(nbytes, GRANULE, None if of is None else space.shared.arenas.face(of))
        count = min(usable, nbytes)
        try:
            with space.own_view(place, count) as old, space.own_view(to, count) as new:
                new[:] = old
            space.require_kept()
            refused = self._carry(place, count, to)
            if refused == 0:
                self.free(place)
        except BaseException:
            self._try_free(to, False)
            raise
        if refused < 0:  # a handler has ended the savepoint that had it
            refuse_in_transaction(space, refused, "realloc", to, count)
        return to

    def snapshot(self, offset: int, length: int) -> None:
        """Keep the bytes of a range, so that an abort, or a crash, puts them back.

        Parameters
        ----------
        offset : int
            Anywhere in a live block.
        length : int
            Bytes; the range ends inside of the block. From now until the end of the transaction
            these bytes may be changed in place, through any view or array.

        Raises
        ------
        UsageError
            The range does not lie inside of one live block.
        OutOfSpaceError
            Too long for the log.
        DurabilityError
            In a power heap the old bytes could not be made durable.

        Notes
        -----
        In a power heap this waits for one sync. `write` needs none before the commit.
        """
        place = offset_argument(offset)
        nbytes = whole_number("snapshot: length", length, 0, (1 << 40) - 1)
        self._require_usable()
        self._become_writer()
        self._retried(lambda: self._snapshot(place, nbytes), 2 * nbytes, "snapshot", place, nbytes)

    @property
    def _space(self) -> Space:
        """The default arena of its heap."""
        return space_of(self._heap)

    # ------------------------------------------------------------ slow halves of the C calls

    def _malloc_slow(self, size: Any, align: Any = GRANULE, arena: Any = None) -> int:
        nbytes, alignment = size_argument(size), alignment_argument(align)
        self._require_usable()
        space = space_of(self._face_of(arena))
        if arena is not None:
            space.require(write=True)
        return space.serve(self._reserve, space, nbytes, alignment)

    def _face_of(self, arena: Any) -> BlockSpace:
        face = self._heap if arena is None else arena
        if not isinstance(face, BlockSpace) or space_of(face).shared is not self._space.shared:
            raise UsageError(f"transaction: malloc: an arena of its heap expected, found {arena!r}")
        return face

    def _free_slow(self, block: Any, deferred: Any = False) -> None:
        offset = block.offset if isinstance(block, Block) else block
        place, later = offset_argument(offset), bool(deferred)
        self._require_usable()
        self._retried(lambda: self._try_free(place, later), 0, "free", place, 0)

    def _write_slow(self, offset: Any, data: Any) -> None:
        place = offset_argument(offset)
        self._require_usable()
        self._become_writer()
        nbytes = memoryview(data).nbytes
        self._retried(lambda: self._try_write(place, data), nbytes, "write", place, nbytes)

    def _retried(
        self, call: Callable[[], int], log_bytes: int, what: str, offset: int, nbytes: int
    ) -> None:
        """Call until it succeeds; make room in the log in between; raise what it refuses.

        C knows only the arenas that are open: the first use of one opens it.
        """
        is_open = False
        while (code := call()) < 0:
            if code in ROOM_WANTED:
                upkeep.make_log_room(self._space, code, log_bytes)
            elif code == Refusal.BAD_OFFSET and not is_open and self._space.arena_of(offset):
                is_open = True
            else:
                refuse_in_transaction(self._space, code, what, offset, nbytes)

    # ------------------------------------------------------------ end

    def commit(self) -> None:
        """Make everything visible, and wait until it is durable where that was asked for.

        Raises
        ------
        UsageError
            The transaction has ended, or belongs to another thread.
        OutOfSpaceError
            The log, the disk or the root table has no room; the transaction is aborted.
        DurabilityError
            A sync failed: whether it is committed will be seen when the heap is opened again.
        """
        self._require_usable()
        if self._savepoints:
            raise UsageError("transaction: no open savepoint expected at commit, found one")
        try:
            self._commit_all()
        finally:
            self._finish()

    def abort(self) -> None:
        """Give up everything: the heap is as it was before.

        Raises
        ------
        UsageError
            The transaction has ended, or belongs to another thread.
        """
        self._require_own()
        self._space.require()
        self._finish()

    def _commit_all(self) -> None:
        """Commit, as soon as nobody wants the heap as it is."""
        space, shared = self._space, self._space.shared
        while self._commit_unless_gated(space) == Refusal.LOG_GATED:
            await_gate(space)
        redo = shared.redo
        if redo is not None and redo.is_crowded():
            upkeep.make_log_ready(space)
        if self._durable and redo is not None and not shared.is_power:
            self._heap.sync()

    def _commit_unless_gated(self, space: Space) -> int:
        """Commit: under the lock of the heap if roots change, since their slots are chosen here."""
        if not self._pending_roots:
            return self._append_kept(space, b"", 0, self._durable)
        end = space.serve(self._commit_roots, space)
        if end >= 0 and self._durable and space.shared.is_power:
            self._wait(space, end)
        return end

    def _commit_roots(self, space: Space) -> int:
        puts, drops = self._root_changes()
        return rooted.change(
            space, puts, drops, lambda: self._commit_slots(space, puts, drops), self
        )

    def _commit_slots(self, space: Space, puts: dict[str, RootSlot], drops: set[str]) -> int:
        store = space.shared.roots
        if isinstance(store, MemoryRoots):
            with store.changed_by(self, puts, drops):
                return self._append_kept(space, b"", 0, False)
        file = space.shared.file
        assert file is not None
        slots = file.root_changes(puts, drops)
        end = self._append_kept(space, *slot_operations(slots), False)
        if end >= 0:
            file.header.slots.adopt(slots)
        return end

    def _append_kept(self, space: Space, operations: bytes, count: int, durable: bool) -> int:
        """Append the record, unless it frees what roots name as it would leave them."""
        end = self._append(space, operations, count, durable)
        if end == Refusal.ROOTED:
            offset = self._rooted_frees()[0]
            names = [name for name, named in self.roots.items() if named == offset]
            raise refused_as_rooted("transaction: commit", offset, names)
        return end

    def _wait(self, space: Space, end: int) -> None:
        redo = space.shared.redo
        assert redo is not None
        try:
            redo.wait(end or redo.positions()[3])
        finally:
            space.shared.poison_if_sync_failed()

    def _exit_slow(self, kind: type[BaseException] | None) -> None:
        """End it where C cannot do it alone."""
        if kind is None:
            self.commit()
        else:
            self._finish()

    # ------------------------------------------------------------ refusing

    def _require_usable(self) -> None:
        self._require_own()
        space_of(self._heap).require(write=True)

    def _require_own(self) -> None:
        state, thread, _ = self._state()
        if state != TxState.OPEN:
            leave_at_exit()  # which has aborted it
            raise UsageError(f"transaction: an open one expected, {_ENDED[state]}")
        if thread != threading.get_ident():
            raise UsageError("transaction: the thread that began it expected, found another")

    def _become_writer(self) -> None:
        """Wait until no other transaction changes committed bytes."""
        redo = space_of(self._heap).shared.redo
        if redo is not None and threading.get_ident() in redo.syncers:
            raise UsageError("transaction: no finalizer expected in the middle of a sync, found it")
        self._wait_writer()

    # ------------------------------------------------------------ for the heap

    def _require_nameable(self, name: str, offset: int) -> None:
        """Raise unless a root may lead to an offset, as far as this transaction sees it."""
        space = self._space.arena_of(offset) or self._space  # which opens its arena
        refusal = self._may_name(offset)
        if refusal < 0:
            raise not_live(space, name, offset, refusal)

    def _pending(self, *, write: bool) -> PendingRoots:
        """Return the roots that it will change, made to be changed if need be."""
        if write:
            self._require_usable()
            if self._pending_roots is None:
                self._pending_roots = {}
        return {} if self._pending_roots is None else self._pending_roots

    def _root_changes(self) -> tuple[dict[str, RootSlot], set[str]]:
        roots = self._heap.roots
        pending = (self._pending_roots or {}).items()
        puts = {name: RootSlot(name, off) for name, off in pending if off is not None}
        drops = {name for name, off in pending if off is None and name in roots}
        return puts, drops


class Savepoint:
    """A part of a transaction that can be taken back by itself; used as a transaction is.

    Everything it does is done by the transaction around it.
    """

    def __init__(self, transaction: Transaction) -> None:
        transaction._require_usable()
        if transaction._savepoint() < 0:  # private: no call of users
            raise MemoryError("transaction: no memory for a savepoint")
        self._transaction = transaction
        self._roots_before = dict(transaction._pending_roots or {})
        if transaction._savepoints is None:
            transaction._savepoints = []
        transaction._savepoints.append(self._roots_before)  # not itself: a circle would keep both

    def __getattr__(self, name: str) -> Any:
        """Hand everything else to the transaction."""
        return getattr(self._transaction, name)

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        open_ones = self._transaction._savepoints or ()
        return self._transaction.is_open and any(each is self._roots_before for each in open_ones)

    def commit(self) -> None:
        """Keep what was done since it began, as part of the transaction."""
        open_ones = self._require_last("commit")
        self._transaction._release_savepoint()  # private: no call of users
        open_ones.pop()

    def abort(self) -> None:
        """Take back what was done since it began."""
        self._require_last("abort")
        self._abort_last()

    def _abort_last(self) -> None:
        self._transaction._require_usable()
        open_ones = self._transaction._savepoints or []
        self._transaction._rollback()  # private: no call of users
        self._transaction._pending_roots = open_ones[-1]
        open_ones.pop()

    def _require_last(self, what: str) -> list[PendingRoots]:
        self._transaction._require_usable()
        if not self.is_open:
            raise UsageError(f"savepoint: an open one expected at {what}, found one that has ended")
        open_ones = self._transaction._savepoints or []
        if open_ones[-1] is not self._roots_before:
            raise UsageError(f"savepoint: the innermost one expected at {what}, found another")
        return open_ones

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, value: BaseException | None, traceback: object) -> None:
        """Keep, or take back when an exception leaves the block, with savepoints inside of it."""
        if not self.is_open:
            return
        if kind is None:
            self.commit()
        else:
            end_with(value, self._abort_all)

    def _abort_all(self) -> None:
        while self.is_open:
            self._abort_last()
