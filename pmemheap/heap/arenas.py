"""Arenas: named parts of a heap, each with memory of its own, that are dropped as a whole.

    heap offset    0x0080_0000_0000_0040 = 1 << 55 | 0x40       arena 1, byte 0x40
    heap           file, lock, roots, decay                     shared by its arenas
    arena          region, supply, C core                       its own

A heap and its open arenas keep each other: who has an arena, a view or a handle of one of its
blocks, has an open heap. So a heap with named arenas that nobody closes is closed when the garbage
collector finds it, not at once.

The slot of an arena that was dropped is used again; its units count on from where they ended, so
that an offset never has a second meaning [R24].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self, TypeVar

from pmemheap.errors import OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.recovery import replay_private
from pmemheap.heap.blockspace import BlockSpace
from pmemheap.heap.engine import Engine
from pmemheap.heap.insight import CheckReport, Explanation, HeapStats
from pmemheap.heap.roots import Roots
from pmemheap.heap.viewed import viewed_blocks
from pmemheap.layout import (
    ARENA_BITS,
    ARENA_NAME_BYTES,
    ARENA_SLOTS,
    ARENA_UNITS_MOST,
    ArenaSlot,
    ArenaState,
)
from pmemheap.native.constants import State
from pmemheap.native.rules import Rule, omitted
from pmemheap.space.region import Region
from pmemheap.units import GRANULE, GiB, counted

__all__ = ["Arena", "arena_name_argument", "index_of", "live_names", "vacancy"]

T = TypeVar("T")

_HEADROOM_MOST = 256 * GiB
"""Address space behind a named arena: what 256 of them have together is there to be had."""


class Arena(BlockSpace):
    """A named arena of a heap; made by ``heap.arena(name)``.

    It has the calls of a heap that deal with blocks. Its blocks have offsets of the heap, which
    takes them in its own calls as well.

    Examples
    --------
    >>> import pmemheap
    >>> heap = pmemheap.Heap.anonymous()
    >>> arena = heap.arena("requests")
    >>> offset = arena.malloc(100)
    >>> heap.usable_size(offset)
    112
    >>> arena.drop()                        # frees all of its blocks
    >>> heap.close()
    """

    __slots__ = ("_arena_name", "_heap", "_index")

    _arena_name: str
    _heap: Engine | None
    _index: int

    def __init__(self) -> None:
        """Refuse: an arena is part of a heap."""
        raise TypeError("Arena: made by heap.arena(name)")

    @classmethod
    def in_heap(
        cls,
        heap: Engine,
        index: int,
        slot: ArenaSlot | None = None,
        headroom: int | None = None,
    ) -> Self:
        """Open the arena in a slot; under the lock of the heap.

        Parameters
        ----------
        slot : ArenaSlot, optional
            Make a new arena of this name and first unit.
        headroom : int, optional
            Bytes of address space to keep free for it; None: as for the heap, if that is not more
            than is there for 256 of them.

        Raises
        ------
        OutOfSpaceError
            No address space for it, or no space for the first MiB of a new one.
        """
        medium = heap._medium
        first = 0 if slot is None else slot.first_unit
        wish = heap._region.headroom_wish
        if headroom is None and wish is not None:
            headroom = min(wish, _HEADROOM_MOST)
        region = Region(
            medium, headroom, usual=_HEADROOM_MOST, arena=index, first_unit=first,
            beside=[space._region for space in heap._spaces()],
        )  # fmt: skip
        try:
            if slot is None:
                assert isinstance(medium, FileMedium), "anonymous arenas are never reopened"
                region.adopt(medium.pieces(index))
                if isinstance(medium, FileMedium):
                    replay_private(medium, region, index)
            else:
                medium.expect_arena(index, slot)
                region.grow(1, 1)
            return cls._over(heap, index, region, fresh=slot is not None)
        except BaseException as error:
            heap._leave_log(index)
            pieces = region.pieces
            region.close()
            was_refused = isinstance(error, PmemHeapError)  # after an interrupt who knows
            if was_refused and slot is not None and pieces:  # it was made already
                with suppress(PmemHeapError):
                    medium.drop_arena(pieces)
                    medium.release(pieces)
            raise

    @classmethod
    def _over(cls, heap: Engine, index: int, region: Region, *, fresh: bool) -> Self:
        self = cls.__new__(cls)
        self._arena_name, self._index = heap._medium.arenas[index].name, index
        self._heap = heap
        self._assemble(
            heap._medium, region, heap._root_store, heap._identity,
            f"arena {self._arena_name!r} of {heap._name}", heap._decay_seconds,
            fresh=fresh, arena=index, heap=heap,
        )  # fmt: skip
        self._lock = heap._lock
        self._set_state(heap._state())
        return self

    @property
    def name(self) -> str:
        """Name of the arena."""
        return self._arena_name

    def _spaces(self) -> tuple[Engine, ...]:
        return (self,) if self._heap is None else self._heap._spaces()

    def _space_at(self, offset: int) -> Engine | None:
        return self if self._heap is None else self._heap._space_at(offset)

    @property
    def roots(self) -> Roots:
        """The roots of its heap."""
        self._require_open()
        assert self._heap is not None, "an open arena has a heap"
        return self._heap.roots

    def stats(self) -> HeapStats:
        """Return how large and how full the arena is, as `Heap.stats` does for all of them."""
        if self._is_beside:
            now = self._look_anew(BlockSpace.stats)
            return replace(now, live_views=self._live_views(), headroom=self._region.headroom)
        return BlockSpace.stats(self)

    def check(self) -> CheckReport:
        """Verify every structure against every other, as `Heap.check` does for all arenas."""
        return self._look_anew(BlockSpace.check) if self._is_beside else BlockSpace.check(self)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ``(offset, usable size)`` of its live blocks, as `Heap.blocks` does for all."""
        if self._is_beside:
            yield from self._look_anew(lambda now: list(BlockSpace.blocks(now)))
        else:
            yield from BlockSpace.blocks(self)

    def explain(self, size: int, align: int = GRANULE, refusal: str = "") -> Explanation:
        """Tell whether `size` bytes could be allocated now, what refuses, and what would help."""
        if self._is_beside:
            return self._look_anew(lambda now: BlockSpace.explain(now, size, align, refusal))
        return BlockSpace.explain(self, size, align, refusal)

    def _look_anew(self, ask: Callable[[BlockSpace], T]) -> T:
        self._require()
        heap: Any = self._heap
        try:
            answer: T = heap._look_anew(lambda now: ask(now.arena(self._arena_name, create=False)))
        except KeyError:
            raise UsageError(f"{self._name}: expected, found dropped by the writer") from None
        return answer

    def drop(self) -> None:
        """Free all blocks and give their space back, in O(1) calls; the arena is closed then.

        Raises
        ------
        BufferError
            Views of its blocks, or transactions that use it, are alive. Nothing has changed.
        UsageError
            The heap is closed, read-only or forked, or the arena was dropped already; or a root
            leads into it.
        DurabilityError
            It is unknown whether the arena is gone; the heap is read-only from now on.
        """
        self._require(write=True)
        self._alone(self._drop_locked)

    def _drop_locked(self) -> None:
        self._require(write=True)
        if self._medium.in_doubt:
            self._rebuild()
        try:
            self._drop_unused()
        except (PmemHeapError, BufferError):
            if self._is_part():
                self._set_state(State.OPEN)
                self._poison_if_sync_failed()
            raise
        except BaseException:  # the next call calls `recall`
            self._medium.in_doubt = True
            raise

    def _drop_unused(self) -> None:
        self._require_no_roots()
        pieces = self._region.pieces
        while not self._shut_unused():  # in one step: a refusal has never been closed in between
            self._require_unused()
        self._medium.drop_arena(pieces)
        self._end()
        with suppress(PmemHeapError):  # the next give-back tries again
            self._medium.release(pieces)

    def _is_part(self) -> bool:
        """Tell whether the heap still has it."""
        return self._medium.arenas[self._index].state == ArenaState.LIVE

    def _end(self) -> None:
        self._leave_log(self._index)
        self.close_with_heap()

    def close_with_heap(self) -> None:
        """Give everything back, and let the heap go."""
        self._shut([])
        self._region.close()
        self.release_heap()

    def release_heap(self) -> None:
        """Keep the heap open no longer; it closes the arena with it."""
        self._heap = None

    def recall(self, state: State) -> None:
        """After an interrupt in the middle of its end: come to that end, or be open again."""
        if not self.closed or not self._region.pieces:
            return
        if self._is_part():
            self._set_state(state)
        else:
            self._end()

    def _recall_arenas(self) -> None:
        if self._heap is not None:
            self._heap._recall_arenas()

    def _require_no_roots(self) -> None:
        for root in self._root_slots:
            if root.off >> ARENA_BITS == self._index:
                raise UsageError(
                    f"{self._name}: no root that leads into it expected at drop, found "
                    f"{root.name!r}; remove the root first"
                )

    def _require_unused(self) -> None:
        counters = self._counters()
        if counters["live_views"]:
            raise BufferError(
                f"{self._name}: no live views expected at drop, {counters['live_views']} found: "
                f"{viewed_blocks([self])}"
            )
        used = counters["reserved_blocks"] + counters["pins"]
        if used:
            raise BufferError(
                f"{self._name}: no open transactions expected at drop, found some that use "
                f"{counted(used, 'block')}"
            )

    def __repr__(self) -> str:
        """Show its name, its state and its size."""
        state = State(self._state()).name.lower()
        return f"<Arena {self._arena_name!r}, {state}, {self._region.mapped_bytes} bytes mapped>"


def live_names(arenas: dict[int, ArenaSlot]) -> dict[str, int]:
    """Return the indices of the named arenas, by name."""
    return {
        slot.name: index
        for index, slot in arenas.copy().items()  # which other threads may change
        if index and slot.state == ArenaState.LIVE
    }


def index_of(arenas: dict[int, ArenaSlot], name: str) -> int | None:
    """Return the slot of a named arena, if there is one."""
    return live_names(arenas).get(name)


def vacancy(arenas: dict[int, ArenaSlot], name: str) -> tuple[int, ArenaSlot]:
    """Return a free slot for an arena, and what is to be in it.

    Raises
    ------
    OutOfSpaceError
        All 255 are in use, or have used up most of their offsets.
    """
    for index in range(1, ARENA_SLOTS):
        old = arenas.get(index)
        if old is None:
            return index, ArenaSlot(0, 0, name)
        if old.state == ArenaState.DROPPED and old.end_unit < ARENA_UNITS_MOST // 2:
            first = 0 if omitted(Rule.R24) else old.end_unit
            return index, ArenaSlot(first, first, name)
    raise OutOfSpaceError(
        f"arena {name!r}: at most {ARENA_SLOTS - 1} named arenas expected, all in use"
    )


def arena_name_argument(name: object) -> str:
    """Return a name that an arena can have.

    Raises
    ------
    TypeError
        It is no str.
    UsageError
        It is empty, too long or no UTF-8.
    """
    if not isinstance(name, str):
        raise TypeError(f"arena {name!r}: a name expected, found {type(name).__name__}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise UsageError(
            f"arena {name!r}: a name in UTF-8 expected, {error.reason} found"
        ) from error
    if not 0 < length <= ARENA_NAME_BYTES or "\0" in name:
        raise UsageError(
            f"arena {name!r}: a name of 1 to {ARENA_NAME_BYTES} bytes expected, {length} found"
        )
    return name
