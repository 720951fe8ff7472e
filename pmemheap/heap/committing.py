"""Committing: what a heap does for its log and its transactions. The base of `Engine`.

    bare call (C) --> record --> log half full --> _log_upkeep --> checkpoint
    transaction --> _reserve ... --> _commit --> record --> sync (power, durable) --> applied

A heap in anonymous memory has a log without bytes: its transactions work the same way, and nothing
is written. All of it that changes more than the core runs under the lock of the heap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from pmemheap import layout, native
from pmemheap.errors import HeapFileError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.redo import INLINE_MOST, RedoLog, slot_operations
from pmemheap.heap import rooted
from pmemheap.heap.gate import Gate
from pmemheap.heap.roots import MemoryRoots, RootStore
from pmemheap.native import LogCore
from pmemheap.native.constants import Refusal
from pmemheap.native.rules import Rule, omitted
from pmemheap.units import GRANULE, UNIT, counted

if TYPE_CHECKING:
    from pmemheap.heap.transaction import Transaction
    from pmemheap.layout import RootSlot
    from pmemheap.space.anonymous import AnonymousMedium
    from pmemheap.space.region import Region
    from pmemheap.space.supply import Supply

__all__ = ["Committing"]

_RANGES_SYNCED_ONE_BY_ONE = 8
_QUARANTINE_SHARE = 8
_QUARANTINE_LEAST = 1 << 20


class Committing(native.HeapCore):
    """The part of a heap that knows the log."""

    __slots__ = ("_gate", "_is_power", "_log")

    _gate: Gate
    _is_power: bool
    _log: LogCore
    _lock: threading.RLock
    _medium: AnonymousMedium | FileMedium
    _region: Region
    _supply: Supply
    _root_store: RootStore
    _origin: int
    _owner: int
    _name: str

    _serve: Callable[..., Any]
    _raise_code: Callable[[int], None]
    _no_block: Callable[[int, str], UsageError]
    _poison_if_sync_failed: Callable[[], None]
    _own_view: Callable[[int, int], memoryview]
    _require_kept: Callable[[], None]

    # ------------------------------------------------------------ the log

    def _begin_log(self, heap: Committing | None, *, unattached: bool) -> None:
        """Join the log of the heap; with None, begin it, or later if the heap is unattached."""
        file = self._writable_file()
        if heap is not None:
            self._log, self._gate = heap._log, heap._gate
        else:
            self._log = LogCore() if file is None or unattached else RedoLog(file)
            self._gate.lead_to(self._log)
        self._is_power = file is not None and file.is_power
        self._enter_homes()
        if file is not None:
            self._set_durability(file.header.superblock.durability)

    def _writable_file(self) -> FileMedium | None:
        medium = self._medium
        return medium if isinstance(medium, FileMedium) and not medium.readonly else None

    def _enter_homes(self) -> None:
        """Tell the log where what it says of this arena goes."""
        file = self._writable_file()
        base, region = self._region.base, self._region
        homes = ("data", "home_bits", "home_entries")
        if file is None or not file.shadowed:
            homes = ("data", "bits", "entries")
        data, bits, entries = (0, 0, 0) if file is None else map(base, homes)
        self._log._set_home(
            self._origin >> layout.ARENA_BITS, data, bits, entries,
            region.first_unit, region.end_unit, self,
        )  # fmt: skip

    def _leave_log(self, arena: int) -> None:
        """Let nothing come home to an arena any more: it has been dropped."""
        self._log._set_home(arena, 0, 0, 0, 0, 0, None)

    def _end_log(self) -> None:
        """Bring everything home before the heap closes."""
        log = self._redo()
        if log is not None and not self._medium_is_closed():
            log.append(b"", 0, self._medium_file_end())
            log.checkpoint()

    def _medium_sync_failed(self) -> bool:
        return isinstance(self._medium, FileMedium) and self._medium.sync_failed

    def _medium_is_closed(self) -> bool:
        """Tell whether there is nothing to bring home: no change, or none that can be kept."""
        medium = self._medium
        return isinstance(medium, FileMedium) and (medium.is_clean or medium.sync_failed)

    def _redo(self) -> RedoLog | None:
        """Return the log of a heap that has one in its file."""
        return self._log if isinstance(self._log, RedoLog) else None

    def _log_upkeep(self) -> None:
        """Make room in the log; C asks for it when a bare call has found none, or half of it used.

        What a finalizer has changed in the middle of another change waits for the next record.
        """
        log = self._redo()
        if log is None:
            return
        if self._owner == threading.get_ident():
            if not log.is_busy:
                self._log_upkeep_locked(log)
        elif not self._is_changing():
            with suppress(MemoryError):  # the next change repairs what is left half done
                self._serve_if_open(self._log_upkeep_locked, log)

    def _serve_if_open(self, work: Callable[..., None], *args: object) -> None:
        """Run a change that nobody has asked for, unless another thread has closed the heap."""
        try:
            self._serve(work, *args)
        except UsageError:
            if not self.closed:
                raise

    @property
    def closed(self) -> bool:
        """Whether the heap was closed."""
        raise NotImplementedError

    def _log_upkeep_locked(self, log: RedoLog) -> None:
        """Checkpoint, and append what is noted; both can wait while an open undo holds the tail.

        What has called for it, a commit as a rule, is done: it must not be reported as refused.
        """
        try:
            with suppress(OutOfSpaceError, HeapFileError):
                log.checkpoint_if_due()
                log.append(b"", 0, self._medium_file_end())
        except PmemHeapError:
            raise
        except BaseException:  # a finalizer, which has called for it, may put the interrupt out
            self._medium.in_doubt = True
            raise

    def _is_changing(self) -> bool:
        """Tell whether this thread is in the middle of a change of a heap."""
        return False

    def _medium_file_end(self) -> int:
        assert isinstance(self._medium, FileMedium)
        return self._medium.file_end

    def _make_log_room(self, code: int, nbytes: int) -> None:
        """Do what lets a record be appended that was refused with `code`, or raise."""
        log = self._redo()
        if log is None:
            raise MemoryError(f"{self._name}: no memory for a transaction")
        try:
            if self._owner == threading.get_ident():  # a commit of roots holds the lock already
                log.make_room(code, nbytes)
            else:
                self._serve(log.make_room, code, nbytes)
        finally:
            self._poison_if_sync_failed()

    def _release_quarantine(self) -> None:
        """Before a heap grows: let go what was freed and only waits for a sync [R6]."""
        log = self._redo()
        if log is None or not self._is_power:
            return
        held = self._quarantined()
        if held > max(_QUARANTINE_LEAST, self._region.nunits * UNIT // _QUARANTINE_SHARE):
            log.sync_log()

    def _emptied_quarantine(self) -> bool:
        """Let go all that only waits for a sync, in need; tell whether that was anything."""
        log, held = self._redo(), self._quarantined()
        if log is None or not self._is_power or not held:
            return False
        log.sync_log()
        self._append_pending()
        return self._quarantined() < held

    def _units(self, nunits: int, align: int, *, roomy: bool) -> int:
        """Take units for a large block, in need also those that only wait for a sync."""
        try:
            return self._supply.allocate(nunits, align, roomy=roomy)
        except OutOfSpaceError:
            if not self._emptied_quarantine():
                raise
        return self._supply.allocate(nunits, align, roomy=roomy)

    # ------------------------------------------------------------ for transactions

    def _reserve_for(self, transaction: native.TxCore, size: int, align: int) -> int:
        """Reserve a block for a transaction; C could not do it alone."""
        offset: int = self._serve(self._reserve_locked, transaction, size, align)
        return offset

    def _try_reserve(self, size: int, align: int) -> None:
        """Reserve a block and let it go; OutOfSpaceError as of an allocation."""
        self._emptied_quarantine()  # which would wait for the transaction that is open below
        transaction = native.TxCore(None, self._log, False)
        try:
            self._reserve_locked(transaction, size, align)
        finally:
            transaction._finish()

    def _reserve_locked(
        self, transaction: native.TxCore, size: int, align: int, *, roomy: bool = False
    ) -> int:
        arena = self._origin >> layout.ARENA_BITS
        while True:
            offset = transaction._try_malloc(arena, size, align)
            if offset >= 0:
                return offset
            if offset == Refusal.TX_ENDED:
                self._refuse_in_transaction(offset, "malloc", 0, size)
            if offset == Refusal.LARGE:
                return self._reserve_extent(transaction, size, align, roomy=roomy)
            self._raise_code(offset)
            self._refill(size, align)

    def _refill(self, size: int, align: int = GRANULE) -> None:
        raise NotImplementedError

    def _reserve_extent(
        self, transaction: native.TxCore, size: int, align: int, *, roomy: bool
    ) -> int:
        nunits = -(-size // UNIT)
        self._release_quarantine()
        start = self._units(nunits, max(align // UNIT, 1), roomy=roomy)
        offset = self._reserve_large(start, nunits, size)
        refused = transaction._own(offset)
        if refused < 0:
            self._refuse_in_transaction(refused, "malloc", offset, size)
        return offset

    def _commit(self, transaction: Transaction) -> None:
        """Commit, as soon as nobody wants the heap as it is."""
        while self._commit_unless_gated(transaction) == Refusal.LOG_GATED:
            self._await_gate()
        log = self._redo()
        if log is not None and log.is_crowded():
            self._log_upkeep()
        if transaction.durable and log is not None and not self._is_power:
            self.sync()

    def _commit_unless_gated(self, transaction: Transaction) -> int:
        """Commit: under the lock of the heap if roots change, since their slots are chosen here."""
        if not transaction._pending_roots:
            return self._append_commit(transaction, b"", 0, transaction.durable)
        end: int = self._serve(self._commit_roots, transaction)
        if end >= 0 and transaction.durable and self._is_power:
            self._wait(end or self._log._positions()[3])
        return end

    def _await_gate(self) -> None:
        """Wait until another thread has seen the heap as it is; `Heap` does."""
        raise NotImplementedError

    def sync(self) -> None:
        """Wait until everything is durable; `Heap` does."""
        raise NotImplementedError

    def _without_snapshots(self, work: Callable[[], None]) -> None:
        """Run something while no other thread has an open snapshot.

        It would keep the records before it [R20].

        A replay of these brings back what they say of blocks to which something was stored since.
        """
        log, thread = self._redo(), threading.get_ident()
        current = self._log._current()
        is_writer = current is not None and current._state()[2]
        # A thread that has the lock of the heap, or a finalizer in here, could wait for ever.
        if log is None or not self._is_power or is_writer or thread in {self._owner, *log.syncers}:
            work()
            return
        writer = native.TxCore(None, self._log, False)
        try:
            log.syncers.add(thread)
            writer._wait_writer()
            work()
        finally:
            try:
                log.syncers.discard(thread)
            finally:
                writer._finish()

    def _commit_roots(self, transaction: Transaction) -> int:
        puts, drops = transaction._root_changes()
        return rooted.change(
            self, puts, drops, lambda: self._commit_slots(transaction, puts, drops), transaction
        )

    def _commit_slots(
        self, transaction: Transaction, puts: dict[str, RootSlot], drops: set[str]
    ) -> int:
        store = self._root_store
        if isinstance(store, MemoryRoots):
            with store.changed_by(transaction, puts, drops):
                return self._append_commit(transaction, b"", 0, False)
        assert isinstance(self._medium, FileMedium)
        slots = self._medium.root_changes(puts, drops)
        end = self._append_commit(transaction, *slot_operations(slots), False)
        if end >= 0:
            self._medium.header.slots.adopt(slots)
        return end

    def _append_commit(
        self, transaction: Transaction, operations: bytes, count: int, durable: bool
    ) -> int:
        """Append the record, and wait for it where that is asked for.

        Returns
        -------
        int
            Its end, or `Refusal.LOG_GATED` with nothing changed.
        """
        while True:
            self._prepare_fresh(transaction)
            end = transaction._commit(operations, count, durable)
            if end >= 0 or end == Refusal.LOG_GATED:
                return end
            if end == Refusal.TX_ENDED:
                self._refuse_in_transaction(end, "commit", 0, 0)
            if end == Refusal.ROOTED:
                raise self._frees_rooted(transaction)
            if not transaction.is_open:
                self._raise_died()
            if self._fits_record(transaction):
                self._make_log_room(end, transaction._log_bytes() + len(operations))

    @staticmethod
    def _frees_rooted(transaction: Transaction) -> UsageError:
        """Return what says that a transaction frees what roots name, as it would leave them."""
        offset = transaction._rooted_frees()[0]
        names = [name for name, named in transaction.roots.items() if named == offset]
        return rooted.refused("transaction: commit", offset, names)

    def _prepare_fresh(self, transaction: native.TxCore) -> None:
        """Make much new data durable before the record that speaks of it: DATA FIRST.

        What a finalizer or a signal handler adds meanwhile travels in the record, or is synced by
        the next try if that is too much for it.
        """
        if self._fits_record(transaction):
            return
        changes = transaction._fresh_changes()
        ranges = transaction._fresh()
        assert isinstance(self._medium, FileMedium)
        if not omitted(Rule.DATA_FIRST):
            self._sync_ranges(self._medium, ranges)
        transaction._set_fresh_durable(changes)

    def _fits_record(self, transaction: native.TxCore) -> bool:
        """Tell whether a record can carry the new data that is not durable."""
        log = self._redo()
        if log is None or not self._is_power or transaction._fresh_is_durable():
            return True
        return transaction._fresh_bytes() <= min(INLINE_MOST, log.size // 4)

    def _sync_ranges(self, medium: FileMedium, ranges: list[tuple[int, int]]) -> None:
        try:
            if len(ranges) > _RANGES_SYNCED_ONE_BY_ONE:
                medium.sync_beside("commit")
                return
            for offset, nbytes in ranges:
                medium.sync_memory(self._address_of(offset), nbytes, "commit")
        finally:
            self._poison_if_sync_failed()

    def _address_of(self, offset: int) -> int:
        space: Any = self._arena_of(offset) or self
        address: int = space._region.base("data") + (offset ^ space._origin)
        return address

    def _arena_of(self, offset: int) -> Any:
        raise NotImplementedError

    def _space_at(self, offset: int) -> Any:
        """Return the arena of an offset, opened if need be; None if there is none."""
        raise NotImplementedError

    @property
    def _root_slots(self) -> Iterable[RootSlot]:
        return self._root_store.roots.values()

    def _wait(self, lsn: int) -> None:
        log = self._redo()
        assert log is not None
        try:
            log.wait(lsn)
        finally:
            self._poison_if_sync_failed()

    def _raise_died(self) -> NoReturn:
        """Raise what a failed sync of the log is raised as."""
        log = self._redo()
        assert log is not None
        error = log.died("commit")
        self._poison_if_sync_failed()
        raise error

    def _refuse_in_transaction(self, code: int, what: str, offset: int, nbytes: int) -> NoReturn:
        """Raise what a transaction's call was refused for."""
        where = f"transaction: {what}"
        if code == Refusal.TX_OUTSIDE:
            raise UsageError(
                f"{where}: {nbytes} bytes from offset {offset:#x} inside of one block expected, "
                "found the end of the block before them"
            )
        if code == Refusal.TX_TWICE:
            raise UsageError(
                f"{where}: a block that this transaction has not freed expected at offset "
                f"{offset:#x}, found one that it has"
            )
        if code == Refusal.TX_ENDED:
            raise UsageError(f"{where}: an open transaction expected, it has ended meanwhile")
        if code in {Refusal.PINNED, Refusal.IN_TRANSACTION}:
            raise self._in_use(code, where, offset)
        if code == Refusal.BAD_OFFSET:
            raise self._no_block(offset, where)
        raise MemoryError(f"{where}: no memory for it")

    def _in_use(self, code: int, where: str, offset: int) -> BufferError:
        space: Any = self._arena_of(offset) or self
        holder = "another transaction"
        if code == Refusal.PINNED:
            holder = counted(space._views_of(offset), "live view")
        size = counted(max(space._held_size(offset), 0), "byte")
        return BufferError(
            f"{where}: block at offset {offset:#x} ({size}) expected to be unused, held by {holder}"
        )

    # ------------------------------------------------------------ moving a block

    def _move_logged(self, offset: int, size: int) -> int:
        """Let a block move in a file heap, in one record: reserve, copy, free, commit."""
        transaction = native.TxCore(None, self._log, False)
        try:
            to = self._reserve_locked(transaction, size, GRANULE, roomy=True)
            count = min(self.usable_size(offset), size)
            with self._own_view(offset, count) as old, self._own_view(to, count) as new:
                new[:] = old
            self._require_kept()
            self._retire_moved(transaction, offset, size)
        finally:
            transaction._finish()
        return to

    def _retire_moved(self, transaction: native.TxCore, offset: int, size: int) -> None:
        refused = transaction._try_free(offset)
        if refused < 0:
            self._refuse_in_transaction(refused, "realloc", offset, size)
        log = self._redo()
        self._prepare_fresh(transaction)
        while (end := transaction._commit(b"", 0, False)) < 0:
            if end == Refusal.ROOTED:  # since it was looked at
                raise rooted.refused("realloc", offset, rooted.names_of(self, offset))
            if log is None:
                raise OutOfSpaceError(f"{self._name}: no memory for a transaction")
            log.make_room(end, size)
