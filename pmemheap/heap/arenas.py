"""Arenas: named parts of a heap, each with memory of its own, that are dropped as a whole.

    heap offset    0x0080_0000_0000_0040 = 1 << 55 | 0x40       arena 1, byte 0x40
    heap           file, lock, roots, decay                     shared by its arenas
    arena          region, supply, C core                       its own
    Arenas         those that are open; opens others            of one heap

A heap and its open arenas keep each other: who has an arena, a view or a handle of one of its
blocks, has an open heap. So a heap with named arenas that nobody closes is closed when the garbage
collector finds it, not at once.

The slot of an arena that was dropped is used again; its units count on from where they ended, so
that an offset never has a second meaning [R24].
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from pmemheap.dataclass import replace
from pmemheap.errors import OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.recovery import replay_private
from pmemheap.format.layout import (
    ARENA_BITS,
    ARENA_NAME_BYTES,
    ARENA_SLOTS,
    ARENA_UNITS_MOST,
    ArenaSlot,
    ArenaState,
)
from pmemheap.heap.arena import Arena, forget_home
from pmemheap.heap.blockspace import BlockSpace
from pmemheap.heap.ring import RingArena
from pmemheap.heap.rows import RowsArena
from pmemheap.heap.shared import Shared
from pmemheap.heap.space import Space, space_of
from pmemheap.heap.strategies import (
    General,
    Placed,
    Ring,
    Rows,
    Strategy,
    agreed,
    strategy_of,
)
from pmemheap.native.constants import State
from pmemheap.native.rules import Rule, omitted
from pmemheap.space.anonymous import AnonymousMedium
from pmemheap.space.following import FollowingRegion
from pmemheap.space.region import Region
from pmemheap.units import GiB

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap

__all__ = ["Arenas", "arena_name_argument", "free_number", "index_of", "live_names", "mark_feature"]

_SHORT: int = (1 << 60) >> ARENA_BITS
_HEADROOM_MOST = 256 * GiB
"""Address space behind a named arena: what 256 of them have together is there to be had."""
_KINDS: dict[type[Strategy], type[Arena]] = {
    General: Arena,
    Ring: RingArena,
    Rows: RowsArena,
    Placed: Arena,
}

# ---------------------------------------------------------------- all of a heap


class Arenas:
    """The named arenas of a heap: those that are open, by index, and how others are opened.

    All methods but `of` run under the lock of the heap.
    """

    __slots__ = ("_heap", "_shared", "open")

    def __init__(self, heap: Heap | None, shared: Shared) -> None:
        self._heap = (lambda: None) if heap is None else weakref.ref(heap)
        self._shared: Shared = weakref.proxy(shared)  # which has these arenas
        self.open: dict[int, Arena] = {}

    def spaces(self) -> list[Space]:
        """Return those that are open."""
        return [space_of(arena) for arena in list(self.open.values()) if not arena.closed]

    @property
    def scratch(self) -> Space | None:
        """The arena of scratch regions, if there is one: it is none of those that are open."""
        face = self._shared.scratch
        return None if face is None else space_of(face)

    def face(self, space: Space) -> BlockSpace:
        """Return what users have of one."""
        scratch = self._shared.scratch
        if scratch is not None and space_of(scratch) is space:
            return scratch
        return self.open[space.index]

    def of(self, offset: int) -> Space | None:
        """Return the arena in which an offset lies; None if that is the default one, or none."""
        index = offset >> ARENA_BITS
        default = self._shared.default
        if index and default.core.state == State.UNATTACHED:
            default.require()
        if index == 0 or default.core.state > State.READONLY:
            return None
        scratch = self.scratch
        if scratch is not None and scratch.index == index:
            return None if scratch.closed else scratch
        arena = self.open.get(index)
        if arena is not None and not arena.closed:
            return space_of(arena)
        return default.look(self.live_at, index) if self._is_live(index) else None

    def _is_live(self, index: int) -> bool:
        slot = self._shared.medium.arenas.get(index)
        return slot is not None and slot.state == ArenaState.LIVE

    def live_at(self, index: int) -> Space | None:
        """Return the arena in a slot, opened if need be; None if none lives there."""
        return space_of(self.at(index)) if self._is_live(index) else None

    def at(self, index: int, headroom: int | None = None) -> Arena:
        """Return the arena in a slot that has one, opened if need be."""
        arena = self.open.get(index)
        if arena is None or arena.closed:
            arena = self.open[index] = self._opened(index, None, headroom)
        return arena

    def named(self, name: str, headroom: int | None, strategy: Strategy | None) -> Arena:
        """Return the arena of a name, made if need be; of a strategy, if one is given."""
        slots = self._shared.medium.arenas
        index = index_of(slots, name)
        if index is not None:
            arena = self.at(index, headroom)
            space = space_of(arena)
            space.strategy = agreed(f"arena {name!r}", space.strategy, strategy)
            return arena
        self._shared.default.require(write=True)
        index, slot = _vacancy(slots, name, 0 if self.scratch is None else self.scratch.index)
        wish = strategy or General()
        slot = replace(slot, strategy=wish.packed())
        mark_feature(self._shared.medium, slot.feature)
        arena = self.open[index] = self._opened(index, slot, headroom, wish)
        return arena

    def find(self, name: str) -> Space | None:
        """Return the arena of a name, opened if need be; None if there is none."""
        index = index_of(self._shared.medium.arenas, name)
        return None if index is None else space_of(self.at(index))

    def open_all(self) -> list[Space]:
        """Return all that live, opened."""
        indices = live_names(self._shared.medium.arenas).values()
        return [space_of(self.at(index)) for index in indices]

    def _opened(
        self,
        index: int,
        slot: ArenaSlot | None,
        headroom: int | None,
        strategy: Strategy | None = None,
    ) -> Arena:
        """Open the arena in a slot.

        Parameters
        ----------
        slot : ArenaSlot, optional
            Make a new arena of this name and first unit.
        headroom : int, optional
            Bytes of address space to keep free for it; None: as for the heap, if that is not more
            than is there for 256 of them.
        strategy : Strategy, optional
            That of a new one.

        Raises
        ------
        OutOfSpaceError
            No address space for it, or no space for the first MiB of a new one.
        """
        heap, medium = self._heap(), self._shared.medium
        assert heap is not None, "an open heap calls it"
        wish = self._shared.default.region.headroom_wish
        if headroom is None and wish is not None:
            headroom = min(wish, _HEADROOM_MOST)
        follows = isinstance(medium, FileMedium) and medium.follows
        region = (FollowingRegion if follows else Region)(
            medium, headroom, usual=_HEADROOM_MOST, arena=index,
            first_unit=0 if slot is None else slot.first_unit,
            beside=self._shared.regions,
        )  # fmt: skip
        region.ledger = self._shared.default.region.ledger
        try:
            if slot is None:
                _map_again(medium, region, index)
            else:
                medium.expect_arena(index, slot)
                region.grow(1, 1)
            have = strategy or strategy_of(medium.arenas[index])
            kind = _KINDS[type(have)]
            return kind.in_heap(heap, index, region, have, fresh=slot is not None)
        except BaseException as error:
            forget_home(self._shared, index)
            pieces = region.pieces
            region.close()
            was_refused = isinstance(error, PmemHeapError)  # else `recall` finds out
            if was_refused and slot is not None and pieces:  # it was made already
                with suppress(PmemHeapError):
                    medium.drop_arena(pieces)
                    medium.release(pieces)
            raise

    def recall(self) -> None:
        """Find out which arenas an interrupt has made or dropped."""
        state = State(self._shared.default.core.state)
        for arena in self.open.values():
            arena.recall(state)
        medium = self._shared.medium
        if isinstance(medium, AnonymousMedium):  # what was made and nobody has is not opened again
            for index in live_names(medium.arenas).values():
                if index not in self.open or self.open[index].closed:
                    medium.arenas[index] = medium.arenas[index].dropped()

    def release_heap(self) -> None:
        """Let none of them keep the heap open."""
        for arena in self.open.values():
            arena.release_heap()

    def end_watch(self) -> None:
        """Have their layers write what they have; no call comes in any more."""
        for arena in self.open.values():
            space_of(arena).core.end_watch()

    def close(self) -> None:
        """Close them with their heap."""
        for arena in self.open.values():
            arena.close_with_heap()


def _map_again(medium: AnonymousMedium | FileMedium, region: Region, index: int) -> None:
    assert isinstance(medium, FileMedium), "anonymous arenas are never reopened"
    region.adopt(medium.pieces(index))
    replay_private(medium, region, index)


def mark_feature(medium: AnonymousMedium | FileMedium, feature: int) -> None:
    """Say in a file what it has, before it has it: a reader that does not know it has to refuse."""
    if isinstance(medium, AnonymousMedium):
        return
    features = medium.header.superblock.features_incompat
    if feature & ~features:
        medium.write_superblock(
            both=True, sync=medium.is_power, features_incompat=features | feature
        )


def live_names(arenas: dict[int, ArenaSlot]) -> dict[str, int]:
    """Return the indices of the named arenas, by name."""
    return {
        slot.name: index
        for index, slot in arenas.copy().items()  # which other threads may change
        if index and slot.state == ArenaState.LIVE
    }


def index_of(arenas: dict[int, ArenaSlot], name: str) -> int | None:
    """Return the slot of a named arena, if there is one."""
    for index, slot in arenas.copy().items():  # as above
        if slot.name == name and index and slot.state == ArenaState.LIVE:
            return index
    return None


def free_number(arenas: dict[int, ArenaSlot]) -> int:
    """Return a number that no arena ever had, for one that has no slot.

    It is the highest of which offsets are below 2^60, if there is one: these are quicker as ints.

    Raises
    ------
    OutOfSpaceError
        All have, or had, one.
    """
    numbers: list[int] = [*range(_SHORT - 1, 0, -1), *range(ARENA_SLOTS - 1, _SHORT - 1, -1)]
    for number in numbers:
        if number not in arenas:
            return number
    raise OutOfSpaceError(
        f"scratch: at most {ARENA_SLOTS - 2} named arenas expected in a heap with scratch regions, "
        "all slots in use"
    )


def _vacancy(arenas: dict[int, ArenaSlot], name: str, taken: int) -> tuple[int, ArenaSlot]:
    """Return a free slot for an arena, and what is to be in it.

    Raises
    ------
    OutOfSpaceError
        All 255 are in use, or have used up most of their offsets.
    """
    for index in range(1, ARENA_SLOTS):
        if index == taken:
            continue
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
