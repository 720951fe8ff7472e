"""Redo log: what is committed, and how it comes home. The Python half of `LogCore`.

    append (C) --> sync --> apply (C) --> checkpoint: homes synced, superblock, tail moves on

    checkpoint log half full, give-back, close: what is before the tail is needed no more
    move       to a larger log when checkpoints crowd or a record needs it; to a small one to cut

Everything here is called under the lock of the heap, except for `wait`. What the homes are, and who
may not store to them yet, says `docs/crash-consistency.md`; the rules are cited by their tags.
"""

from __future__ import annotations

import errno
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from pmemheap import native
from pmemheap.errors import DurabilityError, OutOfSpaceError, PmemHeapError
from pmemheap.file.filemedium import LOG_MOST, FileMedium
from pmemheap.file.headerfile import next_epoch
from pmemheap.file.logblocks import LogBlocks
from pmemheap.file.shownspace import is_spare_below
from pmemheap.format import layout
from pmemheap.format.layout import ArenaSlot, ArenaState, SlotImage, Table
from pmemheap.native.constants import Format, OperationType, Refusal
from pmemheap.native.rules import Rule, omitted
from pmemheap.pmem2 import Map
from pmemheap.units import UNIT

__all__ = ["INLINE_MOST", "ROOM_WANTED", "CopyWantsRoomError", "RedoLog", "slot_operations"]

INLINE_MOST = Format.INLINE_MOST
"""Fresh bytes that a record carries; more are synced before it."""

_OPERATION = struct.Struct("<BBHIQ")
_RECORD_ALIGN = Format.LOG_ALIGN
_FREE_BYTES = _OPERATION.size + 8
_CROWDED_SECONDS = 1.0
_OLD_SECONDS = 30.0
_LOG_GROWTH = 4
_PROCESS_LOG_MOST = 1 << 20  # a checkpoint syncs nothing there, it only costs its 0.1 ms
_READY_LEAST = 1 << 20
_LOG_SHARE = 32  # of a closed heap at most
_LOG_FREE = 2 << 20  # in a power heap, whatever else is in the file
_SOON_SECONDS = 10.0


ROOM_WANTED = frozenset(
    {Refusal.LOG_FULL, Refusal.LOG_LARGE, Refusal.LOG_DEAD, Refusal.LOG_NOMEM, Refusal.LOG_GONE}
)
"""Refusals that `RedoLog.make_room` answers."""


def slot_operations(slots: Iterable[SlotImage]) -> tuple[bytes, int]:
    """Encode images of header slots as the operations of a record; with their number."""
    encoded = [
        _OPERATION.pack(OperationType.META, table, 0, len(image), index * layout.SLOT_BYTES) + image
        for table, index, image in slots
    ]
    return b"".join(encoded), len(encoded)


def _told(transaction: native.TxCore, snapshots: list[tuple[int, int]]) -> str:
    """Describe the snapshots of an open transaction, and what helps."""
    offset, nbytes = snapshots[0]
    thread = transaction._state()[1]  # private: no call of users
    others = f", and {len(snapshots) - 1} more" if len(snapshots) > 1 else ""
    where = f"one of {nbytes} bytes at offset {offset:#x}{others}, of the transaction that "
    if thread == threading.get_ident():
        return f"{where}this thread has open: write new data into blocks of their own"
    names = [repr(one.name) for one in threading.enumerate() if one.ident == thread]
    return f"{where}thread {next(iter(names), thread)} has open: end it first"


def _dropped_ranges(slots: Iterable[SlotImage]) -> bytes:
    """Encode that all blocks of the arenas that are dropped by these changes are free [R24]."""
    ranges = b""
    for table, index, image in slots:
        slot = ArenaSlot.unpack(image, 0) if table == Table.ARENAS else None
        if slot is not None and slot.state == ArenaState.DROPPED:
            ranges += _OPERATION.pack(OperationType.FREE, 0, 0, 8, index << layout.ARENA_BITS)
            ranges += struct.pack("<Q", slot.end_unit * UNIT)
    return ranges


class CopyWantsRoomError(Exception):
    """A copy of what a root names, for readers, has no place: the pool is to be refilled."""


class RedoLog(native.LogCore):
    """The log of an open heap file, which may be stored to; the journal of its header.

    Parameters
    ----------
    medium : FileMedium
        Recovered.
    """

    def __init__(self, medium: FileMedium) -> None:
        self._medium = medium  # a cycle, which ends with the journal when the file is closed
        self._checkpointed_at = time.monotonic()
        self._depth = 0
        self._is_moving = False
        self.checkpoints: int = 0
        self.moves: int = 0
        self.syncers: set[int] = set()  # threads that keep others from changing committed bytes
        medium.header.map(medium.maps.place)
        superblock = medium.header.superblock
        log = medium.map_log()
        self._begin(
            log.address, log.length, superblock.log_off, medium.is_power, medium.header.address,
            superblock.tail_lsn, superblock.tail_lsn, superblock.epoch, superblock.chain_seed, 0,
            medium.file_end,
        )  # fmt: skip
        self._blocks: LogBlocks | None = None
        if not medium.is_power:
            self._blocks = LogBlocks(medium, superblock.tail_lsn)
            self._set_limit(self._blocks.limit)
            medium.header.store_log_words(superblock.tail_lsn)
        self._watch(medium.fd, medium.maps.is_named)
        medium.journal = self
        medium.mark_strays_spare()

    # ------------------------------------------------------------ a journal of the header

    def change(self, slots: list[SlotImage], file_end: int, durable: bool) -> None:
        """Append slots of the header as one record.

        Raises
        ------
        OutOfSpaceError
            The record does not fit into the largest log.
        DurabilityError
            A sync failed, now or before.
        """
        operations, count = slot_operations(slots)
        dropped = b"" if omitted(Rule.R24) else _dropped_ranges(slots)
        count += len(dropped) // _FREE_BYTES
        self.append(operations + dropped, count, file_end, needed=durable)
        if durable and not omitted(Rule.R17):
            self.sync_log()

    def append(self, operations: bytes, count: int, file_end: int, *, needed: bool = False) -> int:
        """Append encoded operations, and what bare calls have changed; return the LSN behind it.

        One that is `needed` is not refused as long as a full disk has a page of the log left.
        """
        self._medium.require_ours("change")
        self._depth += 1
        try:
            self._medium.begin_use()
            while (end := self._change(operations, count, file_end)) < 0:
                if end == Refusal.REFILL:
                    raise CopyWantsRoomError
                self.make_room(end, 2 * len(operations), needed=needed)
        finally:
            self._depth -= 1
        if needed and self._blocks is not None and self._blocks.keep():
            self._set_limit(self._blocks.limit)
        if self._is_dead():  # the file was changed while the record was brought home
            raise self.died("change")
        return end

    @property
    def is_busy(self) -> bool:
        """Whether a thread is in the middle of it: what finalizers change then waits."""
        return self._depth > 0

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let no record be appended while the block runs; what finalizers change waits."""
        self._depth += 1
        try:
            self.freeze(True)
            yield
        finally:
            self.freeze(False)
            self._depth -= 1

    def sync(self) -> None:
        """Wait until everything so far is durable, and what was stored to blocks as well.

        A checkpoint: what a record before it says of a block must not be stored over that again.
        """
        self.checkpoint()
        if not self._medium.is_power:
            self._medium.sync_all("sync")

    def sync_log(self) -> None:
        """Wait until everything appended so far is durable, and bring it home; power heaps."""
        if self._medium.is_power:
            self.wait(self.positions()[3])

    def wait(self, lsn: int) -> None:
        """Wait until the log is durable up to `lsn`: threads that wait together share a sync."""
        if self._sync(lsn) < 0:
            raise self.died("commit")

    def died(self, during: str) -> DurabilityError:
        """Note that nothing may be written any more [R7]; return what to raise."""
        self._die()
        medium = self._medium
        if medium.watch.is_lost or self._is_gone():
            return self._gone()
        medium.sync_failed = not omitted(Rule.R7)
        return DurabilityError(
            errno.EIO,
            f"heap file {medium.name!r}: {during}: a sync of the log has failed; whether "
            "the last commits are durable is unknown, and nothing is written any more: reopen it",
        )

    def _gone(self) -> DurabilityError:
        """Note that the file was taken away; return the exception to raise. The maps stay."""
        self._die()
        try:
            self._medium.require_ours("change")
        except DurabilityError as error:
            return error
        return self._medium.failure()

    def make_room(self, code: int, nbytes: int, *, needed: bool = False) -> None:
        """Do what lets an append succeed that was refused with `code`, or raise."""
        if code == Refusal.LOG_FULL and self._room(nbytes) == 0:
            return  # another thread has made it, or the log has stopped moving
        if code == Refusal.LOG_FULL and self._blocks is not None and self._blocks.limit:
            self._blocks.extend(needed=needed)
            self._set_limit(self._blocks.limit)
            return
        if code == Refusal.LOG_FULL:
            before = self.positions()[0]
            self.checkpoint()
            if self.positions()[0] == before:
                self._require_larger(nbytes)
        elif code == Refusal.LOG_LARGE:
            self._require_larger(nbytes)
        elif code == Refusal.LOG_DEAD:
            raise self.died("change")
        elif code == Refusal.LOG_GONE:
            raise self._gone()
        elif code == Refusal.LOG_MANY:
            raise OutOfSpaceError(
                f"heap file {self._medium.name!r}: a transaction with at most 65535 blocks and "
                "ranges that are no neighbours expected, found one with more"
            )
        else:
            raise MemoryError(f"heap file {self._medium.name!r}: no memory for a log record")

    def _require_larger(self, nbytes: int) -> None:
        """Move to a log in which a record of `nbytes` is no more than a quarter."""
        size = self._medium.header.superblock.log_size
        wanted = size * _LOG_GROWTH
        while wanted < 4 * nbytes:
            wanted *= 2
        wanted = min(wanted, LOG_MOST)
        if self.positions()[4] and 2 * nbytes <= LOG_MOST:
            raise self._kept_by_snapshot(nbytes)
        if wanted <= size or 2 * nbytes > wanted:
            raise OutOfSpaceError(
                f"heap file {self._medium.name!r}: a transaction of at most half of the log, "
                f"which has {size} bytes and could have {LOG_MOST}, expected, "
                f"one of {nbytes} bytes found; write new data into blocks of their own"
            )
        self.move(wanted)

    def _kept_by_snapshot(self, nbytes: int) -> OutOfSpaceError:
        """Return what refuses a record while a snapshot keeps those before it [R20]."""
        open_ones = self.open_transactions()
        holding = [(one, one._snapshots()) for one in open_ones]  # private: no call of users
        kept = next((_told(*each) for each in holding if each[1]), "one that has just ended")
        return OutOfSpaceError(
            f"heap file {self._medium.name!r}: log of {self.size} bytes: room for a record of "
            f"{nbytes} bytes, in half of the log at most, and no open snapshot that keeps the "
            f"others expected, found {kept}"
        )

    # ------------------------------------------------------------ checkpoint

    @property
    def size(self) -> int:
        """Bytes of the log."""
        return self._medium.header.superblock.log_size

    def is_crowded(self) -> bool:
        """Tell whether a checkpoint is due."""
        tail, _, _, head, _, _ = self.positions()
        return head - tail > self.size // 2

    def checkpoint_if_due(self) -> None:
        """Checkpoint a log that is half full, or old; make it larger if that comes too often."""
        tail, _, _, head, _, _ = self.positions()
        size = self._medium.header.superblock.log_size
        age = time.monotonic() - self._checkpointed_at
        if head - tail <= size // 2 and (age < _OLD_SECONDS or head == tail):
            return
        self.checkpoint()
        if age < _CROWDED_SECONDS and size >= layout.LOG_BYTES and not self.positions()[4]:
            self._grow()

    def _grow(self) -> None:
        """Move to a larger log; that of a power heap is half as long as all else in the file.

        A longer one saves little: what checkpoints do not write now, the next ones do, and close.
        """
        data_bytes = self._medium.file_end - self.size
        most = min(LOG_MOST, max(_LOG_FREE, data_bytes // 2))
        wanted = self.size * _LOG_GROWTH
        while wanted > (most if self._medium.is_power else _PROCESS_LOG_MOST):
            wanted //= 2
        if wanted > self.size:
            self._try_move(wanted)

    def _try_move(self, size: int) -> None:
        """Move to a larger log if there is room: nobody asked for it, and the old one serves."""
        try:
            self.move(size)
        except (OutOfSpaceError, DurabilityError):
            if self._medium.sync_failed:
                raise

    def checkpoint(self) -> None:
        """Let the homes catch up with the log, and free the log before its tail.

        Raises
        ------
        DurabilityError
            A sync failed.
        """
        self._depth += 1
        try:
            self._checkpoint()
        finally:
            self._depth -= 1

    def _checkpoint(self) -> None:
        medium = self._medium
        medium.require_ours("checkpoint")
        target = self.positions()[3]
        self.sync_log()
        undo = self.positions()[4]
        if undo and not omitted(Rule.R20):
            target = min(target, undo)  # [R20]
        chain = self._chain_at(target)
        if medium.is_power and not omitted(Rule.R8):
            medium.sync_all("checkpoint")  # [R8]
        medium.write_superblock(sync=medium.is_power, tail_lsn=target, chain_seed=chain)
        filled = target - self.positions()[0]
        self._set_tail(target)
        if medium.is_power and time.monotonic() - self._checkpointed_at < _SOON_SECONDS:
            self._populate_ahead(filled)
        self._checkpointed_at = time.monotonic()
        self.checkpoints += 1

    def _populate_ahead(self, nbytes: int) -> None:
        """Let as many bytes as were filled since the last checkpoint be filled without faults.

        A sync write-protects the pages of the log: without this every 64th bare call pays a fault
        of 2 us, and calls cost half as much again.
        """
        if nbytes < _READY_LEAST:
            return
        first = self.positions()[3] % self.size // UNIT * UNIT
        nbytes = min(nbytes, self.size // 2) // UNIT * UNIT
        with suppress(native.NativeError):  # an older kernel
            for start, stop in (
                (first, min(first + nbytes, self.size)),
                (0, first + nbytes - self.size),
            ):
                if stop > start:
                    address = self._medium.logs.address + start
                    native.madvise(address, stop - start, native.Advice.POPULATE_WRITE)

    # ------------------------------------------------------------ moving

    def move(self, size: int) -> bool:
        """Go on in another log, of `size` bytes [R28].

        Returns
        -------
        bool
            False: the log is where it was, since a snapshot that was made meanwhile keeps it.

        Raises
        ------
        OutOfSpaceError
            No room for it; the log is where it was.
        DurabilityError
            A sync failed.
        """
        if self._is_moving:  # the record that names a log cannot wait for a larger one
            raise OutOfSpaceError(
                f"heap file {self._medium.name!r}: room in a log of {self.size} bytes for the "
                "record that names the next one expected, found none"
            )
        self._depth += 1
        try:
            self._is_moving = True
            return self._move_all(size)
        finally:
            self._is_moving = False
            self._depth -= 1

    def _move_all(self, size: int) -> bool:
        medium = self._medium
        index, slot = medium.allocate_log(size)
        try:
            medium.change(medium.log_slots(index, slot), durable=True)
        except PmemHeapError:  # an interrupt may come after the record: then the file stays long
            if index not in medium.segments:
                medium.give_up(index, slot)
            raise
        moved = False
        try:
            self.freeze(True)
            moved = not self.positions()[4]  # from here on no snapshot can begin [R20]
            if moved:
                self._move_to(slot.file_off, size, medium.logs.map_next(slot))
        except PmemHeapError:
            self.freeze(False)
            raise
        self.freeze(False)  # after an interrupt it stays: `mend` finds out which log to go on in
        medium.drop_logs()
        self.moves += moved
        return moved

    def mend(self) -> None:
        """After an interrupt: believe the header, and go on in the log that it names."""
        self._depth += 1
        try:
            self._mend_log()
        finally:
            self._depth -= 1
        self._medium.mark_strays_spare()

    def _mend_log(self) -> None:
        medium = self._medium
        self.sync_log()
        medium.header.reread()
        if medium.is_power:
            medium.sync_all("superblock")
        log = medium.logs.named_next()
        if log is not None:
            self._move_to(medium.header.superblock.log_off, log.length, log)
        if self._blocks is not None:
            self._set_limit(self._blocks.limit)
        self.freeze(False)

    def _move_to(self, offset: int, size: int, log: Map) -> None:
        """Checkpoint all there is, name the new log in both superblocks, and switch."""
        medium = self._medium
        self.sync_log()
        head = self.positions()[3]
        if medium.is_power:
            medium.sync_all("log")
        epoch = next_epoch(medium.header.superblock)
        careful = not omitted(Rule.R28)
        medium.write_superblock(
            both=careful, sync=medium.is_power and careful, log_off=offset, log_size=size,
            epoch=epoch, tail_lsn=head, chain_seed=self._chain_at(head),
        )  # fmt: skip
        self._move(log.address, size, offset, epoch)
        self._blocks = None
        medium.logs.take_next()

    def end(self, data_bytes: int) -> None:
        """Let the homes catch up before the heap closes; a log that is large beside them goes.

        So does one that lies behind space of which there is no other use.
        """
        with suppress(OutOfSpaceError):  # a full disk has no room for the small one
            if self._keeps_file_long():
                self._give_back()
            elif self.size > data_bytes // _LOG_SHARE:
                self.shrink()
        self.checkpoint()

    def _keeps_file_long(self) -> bool:
        """Tell whether the log ends the file, and would fit into a SPARE segment before it."""
        medium, block = self._medium, self._medium.header.superblock
        is_last = block.log_off + block.log_size == medium.file_end
        return is_last and is_spare_below(medium, block.log_off, layout.LOG_BYTES)

    def shrink(self) -> None:
        """Move to a small log when this one is large and nothing keeps it; cut the file."""
        if self._medium.header.superblock.log_size > layout.LOG_BYTES:
            self._give_back()

    def _give_back(self) -> None:
        if not self.positions()[4]:
            self.move(layout.LOG_BYTES)
            self._medium.release([])
