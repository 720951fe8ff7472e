"""Work: a transaction as the package makes it. Blocks reserved, new data synced, a block moved.

    reserve ──► store ──► new data durable, if it is much ──► record ──► applied

`Work` without a heap is seen by no user. `Transaction`, which users have, derives from it.
"""

from __future__ import annotations

from functools import partial

from pmemheap import native
from pmemheap.errors import OutOfSpaceError
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.redo import INLINE_MOST
from pmemheap.heap import refusing, units, upkeep
from pmemheap.heap.refusing import raise_died, refuse_in_transaction
from pmemheap.heap.space import Space
from pmemheap.native.constants import Format, Refusal, TxState
from pmemheap.native.rules import Rule, omitted
from pmemheap.units import GRANULE, UNIT, MiB, merged

__all__ = ["Work", "move", "try_reserve"]

_RANGES_SYNCED_ONE_BY_ONE = 8
_SCATTERED_MOST = 2 * MiB
"""Of more ranges: to write them twice takes less than to sync all that is dirty in the file."""


class Work(native.TxCore):
    """An open transaction; all calls that take a space run under the lock of the heap."""

    __slots__ = ()

    def _reserve(self, space: Space, size: int, align: int, *, roomy: bool = False) -> int:
        """Reserve a block; C could not do it alone."""
        while True:
            offset = self._try_malloc(space.index, size, align)
            if offset >= 0:
                return offset
            if offset == Refusal.TX_ENDED:
                refuse_in_transaction(space, offset, "malloc", 0, size)
            if offset == Refusal.LARGE:
                if space.strategy.has_rows:
                    space.strategy.require_fit("malloc", size, align)
                return self._reserve_extent(space, size, align, roomy=roomy)
            if offset == Refusal.PLACE:
                offset = units.malloc_placed(space, size, align, reserved=True)
                return self._owned(space, offset, size)
            space.raise_code(offset)
            units.refill(space, size, align)

    def _reserve_extent(self, space: Space, size: int, align: int, *, roomy: bool) -> int:
        nunits = -(-size // UNIT)
        start = units.take(space, nunits, align, roomy=roomy)
        return self._owned(space, space.core.large_make(start, nunits, size, True), size)

    def _owned(self, space: Space, offset: int, size: int) -> int:
        refused = self._own(offset)
        if refused < 0:
            refuse_in_transaction(space, refused, "malloc", offset, size)
        return offset

    def _append(self, space: Space, operations: bytes, count: int, durable: bool) -> int:
        """Append the record, and wait for it where that is asked for.

        Returns
        -------
        int
            Its end; or, with nothing changed, `Refusal.LOG_GATED`, or `Refusal.ROOTED` if it frees
            what roots name.
        """
        while True:
            self._prepare_fresh(space)
            end = self._commit(operations, count, durable)
            if end >= 0 or end in {Refusal.LOG_GATED, Refusal.ROOTED}:
                return end
            if end == Refusal.TX_ENDED:
                refuse_in_transaction(space, end, "commit", 0, 0)
            if self._state()[0] != TxState.OPEN:
                raise_died(space)
            if end == Refusal.REFILL:
                space.shared.default.as_owner(
                    partial(units.refill, space.shared.default, Format.ROOT_COPY)
                )
            elif self._synced_least(space) is None:
                upkeep.make_log_room(space, end, self._log_bytes() + len(operations))

    def _prepare_fresh(self, space: Space) -> None:
        """Make much new data durable before the record that speaks of it: DATA FIRST.

        What a finalizer or a signal handler adds meanwhile travels in the record, or is synced by
        the next try if that is too much for it.
        """
        least = self._synced_least(space)
        if least is None:
            return
        changes = self._fresh_changes()
        ranges = merged([one for one in self._fresh() if one[1] >= least])
        file = space.shared.file
        assert file is not None
        if not omitted(Rule.DATA_FIRST):
            _sync_ranges(space, file, ranges)
        self._set_fresh_durable(changes, least)

    def _synced_least(self, space: Space) -> int | None:
        """Return the bytes of the shortest new block to be synced; None: of none.

        Those that are long always are: in a record they would be written twice, and a log would
        grow for them. The others travel in it, unless they are too much for it.
        """
        redo = space.shared.redo
        if redo is None or not space.shared.is_power or self._fresh_is_durable():
            return None
        if self._fits_record(self._short_bytes(), redo.size // 4):
            return Format.LONG_LEAST if self._long_bytes() else None
        return 0

    def _fits_record(self, nbytes: int, most: int) -> bool:
        """Tell whether a record can carry so many bytes of new blocks, none of them long."""
        if nbytes <= min(INLINE_MOST, most):
            return True
        if nbytes > min(_SCATTERED_MOST, most):
            return False
        short = [one for one in self._fresh() if one[1] < Format.LONG_LEAST]
        return len(merged(short)) > _RANGES_SYNCED_ONE_BY_ONE


def _sync_ranges(space: Space, file: FileMedium, ranges: list[tuple[int, int]]) -> None:
    try:
        if len(ranges) > _RANGES_SYNCED_ONE_BY_ONE:
            file.sync_beside("commit")
            return
        for offset, nbytes in ranges:
            of = space.arena_of(offset) or space
            file.sync_memory(of.address_of(offset), nbytes, "commit")
    finally:
        space.shared.poison_if_sync_failed()


# ---------------------------------------------------------------- without a user


class _Move(Work):
    """A block of a file heap moves, in one record: reserve, copy, free, commit."""

    __slots__ = ()

    def run(self, space: Space, offset: int, size: int) -> int:
        """Return the new offset of the block."""
        try:
            to = self._reserve(space, size, GRANULE, roomy=True)
            count = min(space.core.usable_size(offset), size)
            with space.own_view(offset, count) as old, space.own_view(to, count) as new:
                new[:] = old
            space.require_kept()
            self._retire(space, offset, size)
        finally:
            self._finish()
        return to

    def _retire(self, space: Space, offset: int, size: int) -> None:
        refused = self._try_free(offset, False)
        if refused < 0:
            refuse_in_transaction(space, refused, "realloc", offset, size)
        redo = space.shared.redo
        self._prepare_fresh(space)
        while (end := self._commit(b"", 0, False)) < 0:
            if end == Refusal.ROOTED:  # since it was looked at
                raise refusing.rooted("realloc", offset, refusing.names_of(space, offset))
            if redo is None:
                raise OutOfSpaceError(f"{space.name}: no memory for a transaction")
            redo.make_room(end, size)


def move(space: Space, offset: int, size: int) -> int:
    """Let a block of a file heap move; return its new offset."""
    to = _Move(None, space.shared.log, False).run(space, offset, size)
    space.core.tell_moved(offset, to, size)
    return to


class _Trial(Work):
    """A block is reserved, which nobody sees, and let go again."""

    __slots__ = ()

    def run(self, space: Space, size: int, align: int) -> None:
        """OutOfSpaceError as of an allocation."""
        try:
            self._reserve(space, size, align)
        finally:
            self._finish()


def try_reserve(space: Space, size: int, align: int) -> None:
    """Reserve a block and let it go; OutOfSpaceError as of an allocation."""
    units.emptied_quarantine(space)  # which would wait for the transaction that is open below
    _Trial(None, space.shared.log, False).run(space, size, align)
