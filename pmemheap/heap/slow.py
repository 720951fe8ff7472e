"""Slow: what the calls of a heap do where C cannot answer alone.

    malloc(n) ──► C core: size class, run, bit ──────────────────────────► offset
                    │ no run, or large                                  │
                    ▼                                                   │
               Slow.malloc ──► supply: extents, wilderness, growth ─────┘

The public calls are methods of the C type, which keep the GIL. For a request for units, a large
block, a bad argument or another arena they call the method of that name here, with the code that
the core refused for, 0 if it was not asked. NotImplemented from here says: ask it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from pmemheap import native
from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.heap import insight, refusing, resizing, units, upkeep
from pmemheap.heap.arguments import (
    alignment_argument,
    offset_argument,
    packed_offsets,
    size_argument,
    whole_number,
)
from pmemheap.heap.place import place_of
from pmemheap.heap.space import Space
from pmemheap.native.constants import Refusal, State
from pmemheap.units import GRANULE

if TYPE_CHECKING:
    from pmemheap.heap.blockspace import BlockSpace

__all__ = ["Slow"]

_OPEN = int(State.OPEN)


class Slow:
    """The slow twins of the calls of one arena, and what else C asks of Python."""

    __slots__ = ("_space",)

    def __init__(self, space: Space) -> None:
        self._space = space

    def _face(self, other: Space) -> BlockSpace:
        """Return another arena as users have it, with its layers."""
        return self._space.shared.arenas.face(other)

    def malloc(self, size: Any, align: Any, refusal: int) -> Any:
        """Allocate a block for which there is no run, or of many units."""
        nbytes = size_argument(size)
        alignment = GRANULE if align is None else alignment_argument(align)
        space = self._space
        if space.core.state != _OPEN:
            space.require(write=True)
        if not refusal:
            return space.core.malloc(nbytes, alignment)
        if space.strategy.has_rows:
            space.strategy.require_fit("malloc", nbytes, alignment)
        try:
            return space.serve(units.malloc, space, nbytes, alignment, refusal)
        except OutOfSpaceError as error:
            raise insight.explained(space, error, nbytes, alignment) from error

    def reserve(self, size: int, _: None, refusal: int) -> Any:
        """Reserve a block of an array, for which the pool has no units."""
        space = self._space
        space.require(write=True)
        if not refusal:
            return NotImplemented
        try:
            return space.serve(units.malloc, space, size, GRANULE, refusal, reserved=True)
        except OutOfSpaceError as error:
            raise insight.explained(space, error, size, GRANULE) from error

    def refill(self, nunits: int) -> None:
        """Bring the pool nearer to a range of units for a guarded block."""
        self._space.serve(units.refill_units, self._space, nunits)

    def malloc_many(self, size: Any, count: Any, wants_one: bool) -> int | memoryview:
        """Say what is wrong with the arguments, or allocate the one block that C could not."""
        nbytes = size_argument(size)
        blocks = whole_number("malloc_many: count", count, 0, (1 << 60) - 1)
        space = self._space
        space.require(write=True)
        if not wants_one and not type(size) is type(count) is int:
            return space.core.malloc_many(nbytes, blocks)
        if not wants_one:
            raise UsageError(f"malloc_many: an open heap expected, {space.name} changed its state")
        return space.core.malloc(nbytes)

    def free(self, offset: Any, deferred: Any, refusal: int) -> None:
        """Free a block of another arena, or say why one cannot be freed."""
        place, space = offset_argument(offset), self._space
        space.require(write=True)
        other = space.arena_of(place)
        if other is not None:
            self._face(other).free(place, bool(deferred))
        elif not refusal or (refusal in refusing.HELD and not place_of(space.core, place).refusal):
            space.core.free(place, bool(deferred))  # it was not asked, or the last view has gone
        elif refusal != Refusal.BAD_OFFSET or (transaction := self._reserver(place)) is None:
            refusing.refuse_free(space, place, "free", refusal)
        else:  # as an array of a transaction is
            transaction.free(place, bool(deferred))

    def _reserver(self, offset: int) -> native.TxCore | None:
        """Return the open transaction of this thread, if it has reserved a block."""
        transaction = self._space.shared.log.current()
        if transaction is None or transaction._may_name(offset) < 0:  # private: no call of users
            return None
        return transaction

    def free_many(self, index: int | None, offsets: Any) -> Any:
        """Pack offsets for C, or say why the one at an index cannot be freed."""
        if index is None:
            return packed_offsets(offsets)
        space = self._space
        space.require(write=True)
        where, refusal = f"free_many, offsets[{index}]", place_of(space.core, offsets).refusal
        if refusal == 0:
            raise UsageError(
                f"{where}: each block once, in use by nobody, expected, {offsets:#x} stands there "
                "again, or was in use until now"
            )
        return refusing.refuse_free(space, offsets, where, refusal)

    def realloc(self, offset: Any, size: Any, refusal: int) -> Any:
        """Give a block another size that does not fit where it is."""
        place, nbytes, space = offset_argument(offset), size_argument(size), self._space
        space.require(write=True)
        other = space.arena_of(place)
        if other is not None:
            return self._face(other).realloc(place, nbytes)
        if not refusal:
            return space.core.realloc(place, nbytes)
        try:
            return space.serve(resizing.realloc, space, place, nbytes, refusal)
        except OutOfSpaceError as error:
            raise insight.explained(space, error, nbytes, GRANULE) from error

    def expand(self, offset: Any, size: Any, refusal: int) -> bool:
        """Let a block grow in place over units that C does not have."""
        place, nbytes, space = offset_argument(offset), size_argument(size), self._space
        space.require(write=True)
        other = space.arena_of(place)
        if other is not None:
            return self._face(other).expand(place, nbytes)
        if not refusal:
            return space.core.expand(place, nbytes)
        return space.serve(resizing.expand, space, place, nbytes, refusal)

    def usable_size(self, offset: Any) -> int:
        """Return the size of a block of another arena, or say why there is none."""
        place, space = offset_argument(offset), self._space
        space.require()
        other = space.arena_of(place)
        if other is not None:
            return self._face(other).usable_size(place)
        if type(offset) is not int:
            return space.core.usable_size(place)
        raise refusing.no_block(space, place, "usable_size")

    def oldest(self) -> NoReturn:
        """Say why the oldest block is not to be had."""
        self._space.require()
        raise UsageError(f"first: an open heap expected, {self._space.name} changed its state")

    def view(self, offset: Any, length: Any = None) -> memoryview:
        """Return a view of a block of another arena, or of a heap at rest; or say why not."""
        place, space = offset_argument(offset), self._space
        space.require()
        other = space.arena_of(place)
        if other is not None:
            return self._face(other).view(place, length)
        try:
            count = usable = space.core.usable_size(place)
        except UsageError:
            space.require()  # somebody may have closed it meanwhile
            raise refusing.no_block(space, place, "view") from None
        if length is not None:
            count = whole_number(
                f"view: length of the block at offset {place:#x}", length, 0, usable
            )
        if space.core.state == State.CLEAN:  # what is stored through a view changes the heap
            space.mark_in_use()
        return space.core.view(place, count)

    # ------------------------------------------------------------ what C asks for by itself

    def become_attached(self) -> None:
        """Map the tables."""
        self._space.become_attached()

    def mark_in_use(self) -> None:
        """Say in the file that the heap is in use."""
        self._space.mark_in_use()

    def log_upkeep(self) -> None:
        """Make room in the log."""
        upkeep.make_log_ready(self._space)

    def upkeep(self, is_due: bool, is_idle: bool) -> bool:
        """Merge what was freed, and give back what is old; False if a change is under way."""
        return upkeep.run(self._space, is_due, is_idle)

    def raise_died(self) -> NoReturn:
        """Raise what a failed sync of the log is raised as."""
        refusing.raise_died(self._space)
