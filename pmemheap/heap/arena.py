"""Arena: one named part of a heap, with memory of its own, which is dropped as a whole.

    heap ◄──► arena: region, supply, C core      each keeps the other as long as it is open

`heap.arenas` has those of a heap.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

from pmemheap.errors import PmemHeapError, UsageError
from pmemheap.format.layout import ARENA_BITS, ArenaState
from pmemheap.heap.blockspace import BlockSpace, new_face
from pmemheap.heap.readers import recycle, require_none
from pmemheap.heap.roots import Roots
from pmemheap.heap.shared import Shared
from pmemheap.heap.space import Space, space_of
from pmemheap.heap.strategies import Strategy
from pmemheap.heap.viewed import viewed_blocks
from pmemheap.native.constants import State
from pmemheap.space.region import Region
from pmemheap.units import counted

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap

__all__ = ["Arena", "forget_home"]


class Arena(BlockSpace):
    """A named arena of a heap; made by ``heap.arena(name)``.

    It has the calls of a heap that deal with blocks. Its blocks have offsets of the heap, which
    takes them in its own calls as well. It keeps its heap open.

    It may be entered by `with`, as heaps and regions are. The end of the block drops nothing and
    closes nothing: what has a name is for others to find, in this program or the next. `drop` ends
    an arena; ``stack.callback(arena.drop)`` of an ``ExitStack`` does so at the end of a block.

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

    __slots__ = ("_arena_name", "_heap")

    _arena_name: str
    _heap: Heap | None

    def __init__(self) -> None:
        """Refuse: an arena is part of a heap."""
        raise TypeError("Arena: made by heap.arena(name)")

    @classmethod
    def in_heap(
        cls, heap: Heap, index: int, region: Region, strategy: Strategy, *, fresh: bool
    ) -> Self:
        """Return the arena over a region; it keeps the heap."""
        shared = space_of(heap).shared
        name = shared.medium.arenas[index].name
        title = f"arena {name!r} of {shared.name}"
        self = new_face(cls, shared, region, title, index, fresh=fresh, strategy=strategy)
        self._arena_name, self._heap = name, heap
        return self

    @property
    def name(self) -> str:
        """Name of the arena."""
        return self._arena_name

    @property
    def roots(self) -> Roots:
        """The roots of its heap."""
        self._space.require_open()
        assert self._heap is not None, "an open arena has a heap"
        return self._heap.roots

    def __enter__(self) -> Self:
        """Return itself; UsageError if it was dropped, or its heap closed."""
        self._space.require_open()
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the arena, and all that is in it, stays in its heap."""

    def drop(self) -> None:
        """Free all blocks and give their space back, in O(1) calls; the arena is closed then.

        Snapshots in other processes keep what they show: the space is given back when they go.

        Raises
        ------
        BufferError
            Views of its blocks, transactions that use it, or snapshots in this process are alive.
            Nothing has changed.
        UsageError
            The heap is closed, read-only or forked, or the arena was dropped already; or a root
            leads into it.
        DurabilityError
            It is unknown whether the arena is gone; the heap is read-only from now on.
        """
        self._space.require(write=True)
        self._space.alone(self._drop_locked)

    def _drop_locked(self) -> None:
        space, shared = self._space, self._space.shared
        space.require(write=True)
        if shared.medium.in_doubt:
            shared.rebuild()
        try:
            self._drop_unused()
        except (PmemHeapError, BufferError):
            if self.is_part:
                space.core.state = State.OPEN
                shared.poison_if_sync_failed()
            raise
        except BaseException:  # the next call calls `recall`
            shared.medium.in_doubt = True
            raise

    def _drop_unused(self) -> None:
        space, medium = self._space, self._space.shared.medium
        _require_no_roots(space)
        require_none(space.shared, f"{space.name}: drop")
        pieces = space.region.pieces
        while not space.core.shut_unused():  # in one step: a refusal has never been closed before
            _require_unused(space)
        medium.drop_arena(pieces)
        self.end()
        with suppress(PmemHeapError):  # the next give-back tries again
            recycle(space.shared)  # another era begins, whose snapshots do not show it
            medium.release(pieces)

    @property
    def is_part(self) -> bool:
        """Whether the heap still has it."""
        return self._space.shared.medium.arenas[self._space.index].state == ArenaState.LIVE

    def end(self) -> None:
        """Close it: it was dropped."""
        forget_home(self._space.shared, self._space.index)
        self._space.core.tell_all_freed()
        self.close_with_heap()

    def close_with_heap(self) -> None:
        """Give everything back, and let the heap go."""
        self._space.core.become(State.CLOSED, [])
        self._space.region.close()
        self.release_heap()

    def release_heap(self) -> None:
        """Keep the heap open no longer; it closes the arena with it."""
        self._heap = None

    def recall(self, state: State) -> None:
        """After an interrupt in the middle of its end: come to that end, or be open again."""
        if not self.closed or not self._space.region.pieces:
            return
        if self.is_part:
            self._space.core.state = state
        else:
            self.end()

    def __repr__(self) -> str:
        """Show its name, its state and its size."""
        state, mapped = State(self._space.core.state), self._space.region.mapped_bytes
        return f"<Arena {self._arena_name!r}, {state.name.lower()}, {mapped} bytes mapped>"


def _require_no_roots(space: Space) -> None:
    for root in space.shared.root_slots:
        if root.off >> ARENA_BITS == space.index:
            raise UsageError(
                f"{space.name}: no root that leads into it expected at drop, found "
                f"{root.name!r}; remove the root first"
            )


def _require_unused(space: Space) -> None:
    counters = space.core.usage()[0]
    if counters["live_views"]:
        raise BufferError(
            f"{space.name}: no live views expected at drop, {counters['live_views']} found: "
            f"{viewed_blocks([space.core])}"
        )
    used = counters["reserved_blocks"] + counters["pins"]
    if used:
        raise BufferError(
            f"{space.name}: no open transactions expected at drop, found some that use "
            f"{counted(used, 'block')}"
        )


def forget_home(shared: Shared, index: int) -> None:
    """Let the log store nothing any more in an arena that has been dropped."""
    shared.log.set_home(index, 0, 0, 0, 0, 0, None)
