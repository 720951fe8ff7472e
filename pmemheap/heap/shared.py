"""Shared: what the arenas of a heap have together. File, lock, log, gate, roots, states.

    Heap ──► Space ──┐
                     ├──► Shared ──► medium, lock, log, gate, roots
    Arena ─► Space ──┘        └────► arenas: those that are open

The heap itself is known to nobody here: one that nobody else has is closed at once.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pmemheap.errors import PmemHeapError
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.redo import RedoLog
from pmemheap.format.layout import ARENA_BITS, FileIdentity, HeapState
from pmemheap.heap.gate import Gate
from pmemheap.heap.lock import Lock
from pmemheap.native import LogCore
from pmemheap.native.constants import State
from pmemheap.units import UNIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmemheap.file.pins import Pins
    from pmemheap.format.layout import RootSlot
    from pmemheap.heap.arenas import Arenas
    from pmemheap.heap.budgeted import HeapMember
    from pmemheap.heap.heap import Heap
    from pmemheap.heap.holding import Ages
    from pmemheap.heap.keptregions import KeptRegion
    from pmemheap.heap.regions import ScratchArena
    from pmemheap.heap.roots import RootStore
    from pmemheap.heap.space import Space
    from pmemheap.space.anonymous import AnonymousMedium
    from pmemheap.space.asked import Prototype
    from pmemheap.space.region import Region

__all__ = ["Shared"]

_DECAY_LEAST_SECONDS = 0.001


class Shared:
    """What the arenas of one heap share.

    Attributes
    ----------
    file, writable : FileMedium or None
        The medium, if it is a file; if that may be changed.
    redo : RedoLog or None
        The log, if it has one in its file.
    default : Space
        The arena that has no name, as long as there is a heap.
    extents : Prototype or None
        Where the arenas get their `pmemheap.protocols.Space` from, if the user has chosen one.
    member : HeapMember or None
        What it is in a budget, if it is in one.
    attach_again : callable
        Opens the heap behind a descriptor once more, to look at it as it is now.
    kept_regions : WeakValueDictionary
        The regions that somebody has, by what they are called by: each is there once.
    pins : Pins or None
        The snapshots of this process, if there may be any.
    ages : Ages or None
        When eras began, and a limit for old snapshots, if there may be any.
    instance : bytes
        Tells this opening of the heap from others of the same file.
    """

    __slots__ = (
        "__weakref__", "ages", "arenas", "attach_again", "decay", "default", "extents", "file",
        "gate", "identity", "instance", "is_power", "kept_regions", "lock", "log",
        "medium", "member", "name", "pins", "readonly", "redo", "roots", "scratch", "writable",
    )  # fmt: skip

    arenas: Arenas
    log: LogCore
    default: Space
    attach_again: Callable[[int], Heap]
    decay: float | None
    gate: Gate
    identity: bytes
    lock: Lock
    medium: AnonymousMedium | FileMedium
    name: str
    roots: RootStore

    def __init__(
        self,
        medium: AnonymousMedium | FileMedium,
        roots: RootStore,
        identity: bytes,
        name: str,
        decay: float | None,
    ) -> None:
        self.medium, self.roots = medium, roots
        self.identity, self.name, self.decay = identity, name, decay
        self.instance: bytes = os.urandom(8)
        self.file: FileMedium | None = medium if isinstance(medium, FileMedium) else None
        self.readonly: bool = self.file is not None and self.file.readonly
        self.writable: FileMedium | None = None if self.readonly else self.file
        self.is_power: bool = self.writable is not None and self.writable.is_power
        self.lock, self.gate = Lock(name), Gate()
        self.redo: RedoLog | None = None
        self.pins: Pins | None = None
        self.ages: Ages | None = None
        self.scratch: ScratchArena | None = None
        self.kept_regions: WeakValueDictionary[int, KeptRegion] = WeakValueDictionary()
        self.extents: Prototype | None = None
        self.member: HeapMember | None = None

    def begin_log(self, *, unattached: bool) -> None:
        """Begin the log; that in the file only once the heap is attached."""
        self.redo = None if self.writable is None or unattached else RedoLog(self.writable)
        self.log = self.redo or LogCore()
        self.gate.lead_to(self.log)

    def set_pace(self) -> None:
        """Tell the clock of the heap, which its arenas share, how often upkeep is due."""
        least = math.inf if self.decay is None else max(self.decay, _DECAY_LEAST_SECONDS) * 1e9
        self.log.set_pace(int(min(least, (1 << 64) - 1)))

    @property
    def is_beside(self) -> bool:
        """Whether another process may change the heap: a reader that was attached beside it."""
        return self.file is not None and self.file.beside

    @property
    def follows(self) -> bool:
        """Whether it is a reader in another process, beside a writer that copies."""
        return self.file is not None and self.file.follows

    @property
    def root_slots(self) -> list[RootSlot]:
        """The roots of one moment: other threads change them while they are gone through."""
        return list(self.roots.roots.values())

    # ------------------------------------------------------------ arenas

    def enter(self, default: Space, arenas: Arenas, attach_again: Callable[[int], Heap]) -> None:
        """Learn of the default arena, and of where the others are."""
        self.default, self.arenas, self.attach_again = default, arenas, attach_again

    def leave(self) -> None:
        """Forget the default arena: the heap was dropped, and both go at once."""
        if hasattr(self, "default"):
            del self.default

    def space_at(self, offset: int) -> Space | None:
        """Return the arena of an offset, opened if need be, under the lock; None if none lives."""
        index = offset >> ARENA_BITS
        return self.default if index == 0 else self.arenas.live_at(index)

    def spaces(self) -> tuple[Space, ...]:
        """Return the open arenas, the default one first."""
        default = getattr(self, "default", None)
        if default is None:
            return ()
        return (default, *self.arenas.spaces()) if self.arenas.open else (default,)

    def regions(self) -> list[Region]:
        """Return the memory of the open arenas."""
        return [space.region for space in self.spaces()]

    @property
    def data_bytes(self) -> int:
        """Bytes of the units of all open arenas."""
        return sum(space.region.nunits for space in self.spaces()) * UNIT

    def spaces_and_scratch(self) -> list[Space]:
        """Return the open arenas, that of scratch regions as the last."""
        spaces = list(self.spaces())
        scratch = self.arenas.scratch if spaces else None
        return spaces if scratch is None else [*spaces, scratch]

    # ------------------------------------------------------------ states

    def set_states(self, state: State) -> None:
        """Let all open arenas be in a state."""
        for space in self.spaces():
            space.core.state = state

    def poison_if_sync_failed(self) -> None:
        """After a sync that failed nothing may be written any more: the next one would not tell.

        Nor may what is mapped be read of a file that somebody else has cut or written over.
        """
        file = self.file
        if file is None or not (file.sync_failed or file.watch.is_lost):
            return
        for space in self.spaces():
            state = space.core.state
            if file.watch.is_lost and state < State.LOST:
                space.core.state = State.LOST
            elif state == State.OPEN:
                space.core.state = State.READONLY

    def require_ours(self, during: str) -> None:
        """Raise if somebody else has changed the file, before anything found is called wrong."""
        if self.writable is not None:
            try:
                self.writable.require_ours(during)
            finally:
                self.poison_if_sync_failed()

    def becomes_clean(self, file: FileMedium) -> bool:
        """Begin a sync that says that nothing goes on, if so; who changes it waits for the lock."""
        if file.on_memory or self.is_power:
            return False
        default, *others = (space.core for space in self.spaces())
        return default.become(State.CLEAN, others) == 0

    def is_viewed(self) -> bool:
        """Tell whether blocks of any arena have views."""
        return any(space.core.live_views for space in self.spaces())

    def mark_closed(self, file: FileMedium, identity: FileIdentity) -> None:
        """Sync, and say in the file that it is as good as closed, until the next change.

        As long as it names itself there, a copy is not: the change may come meanwhile, waits for
        the lock, and then marks the heap as in use again.
        """
        self.set_states(State.CLEAN)
        try:
            file.sync()
            file.write_superblock(sync=True, state=HeapState.CLEAN, file=identity)
        except PmemHeapError:  # after an interrupt the next change says that the heap is in use
            self.set_states(State.OPEN)
            raise

    def end_log(self) -> None:
        """Store all that the log says in its place, before the heap closes."""
        file = self.file
        if self.redo is not None and file is not None and not (file.is_clean or file.sync_failed):
            self.redo.append(b"", 0, file.file_end, needed=True)
            self.redo.end(self.data_bytes)

    def end_watch(self) -> None:
        """Have the layers that watch write what they have, before the memory goes."""
        for space in self.spaces()[:1]:  # none, once both are gone
            space.core.end_watch()
            self.arenas.end_watch()
        if self.scratch is not None:
            self.scratch.end_watch()

    # ------------------------------------------------------------ after an interrupt

    def rebuild(self) -> None:
        """Make what an interrupt left in doubt anew: header, log, segments, extents."""
        if self.file is not None:
            self.file.doubt_blocks()
        if self.redo is not None and self.file is not None and not self.file.sync_failed:
            try:
                self.redo.mend()
            finally:
                self.poison_if_sync_failed()
        self.arenas.recall()
        spaces = self.spaces()
        for space in spaces:
            space.region.mend()
        self.medium.keep_only([piece for space in spaces for piece in space.region.pieces])
        for space in spaces:
            space.rebuild()
        self.medium.in_doubt = False
