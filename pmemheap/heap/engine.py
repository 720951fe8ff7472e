"""Engine: what the calls of a heap need from Python. The lock, the slow paths, the refusals.

    malloc(n) ---> C core: size class, run, bit ------------------------------> offset
                     | no run, or large                                   |
                     v                                                    |
               _malloc_slow ---> supply: extents, wilderness, growth ---+

`Engine` derives from the C type `HeapCore`, whose methods answer most calls alone and keep the GIL.
What they cannot answer arrives here in a method named ``_..._slow``: a request for units, a large
block, a bad argument. Every slow call that changes the volatile structures runs in `_serve`, under
one lock; if it is torn out by an interrupt, the next one rebuilds them first.

A call that raises has changed nothing.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from pmemheap import native
from pmemheap.errors import (
    CorruptHeapError,
    DurabilityError,
    OutOfSpaceError,
    PmemHeapError,
    UsageError,
)
from pmemheap.file.filemedium import FileMedium
from pmemheap.heap import rooted
from pmemheap.heap.arguments import (
    alignment_argument,
    offset_argument,
    packed_offsets,
    size_argument,
    whole_number,
)
from pmemheap.heap.committing import Committing
from pmemheap.heap.exiting import begin_exit, leave_at_exit
from pmemheap.heap.gate import Gate
from pmemheap.heap.roots import Roots, RootStore
from pmemheap.heap.viewed import is_viewed
from pmemheap.layout import ARENA_BITS, FileIdentity, HeapState
from pmemheap.native.constants import POOL_MOST, Refusal, State, TxState, UnitState
from pmemheap.space.anonymous import AnonymousMedium
from pmemheap.space.region import Region
from pmemheap.space.size_classes import CLASSES, class_of, packed_classes
from pmemheap.space.supply import Supply
from pmemheap.units import GRANULE, UNIT, counted

__all__ = ["Engine", "open_heaps"]

DECAY_SHARE = 1 / 8
_DECAY_LEAST_SECONDS = 0.001

_changing: set[int] = set()
"""The threads that are changing a heap. Finalizers that run in them meanwhile may change none."""

P = ParamSpec("P")
T = TypeVar("T")


_OPEN = int(State.OPEN)
_GIVING_BACK = {State.OPEN, State.CLEAN, State.UNATTACHED}


_WITHHELD: dict[int, str] = {
    UnitState.RESERVED: "the block there belongs to an open transaction",
    UnitState.QUARANTINE: (
        "the block there was freed; it is kept until that is durable and its last view has gone"
    ),
}
_UNITS_WANTED = {Refusal.UPSTREAM, Refusal.LARGE}
_HELD = {Refusal.PINNED, Refusal.IN_TRANSACTION, Refusal.ROOTED}
_IN_PLACE_IF_KNOWN = {Refusal.UPSTREAM, Refusal.MOVE_LOGGED, *_HELD}
"""Why a block does not grow in place, as far as the units behind it are known."""


class Engine(Committing):
    """The Python half of a heap's calls: parts, lock and slow paths. `Heap` is its public face."""

    __slots__ = (
        "__weakref__",
        "_decay_seconds",
        "_identity",
        "_instance",
        "_lock",
        "_medium",
        "_name",
        "_origin",
        "_owner",
        "_region",
        "_root_store",
        "_supply",
    )

    def _assemble(  # noqa: PLR0913, PLR0917 -- the parts of a heap
        self,
        medium: AnonymousMedium | FileMedium,
        region: Region,
        roots: RootStore,
        identity: bytes,
        name: str,
        decay: float | None,
        *,
        fresh: bool,
        arena: int = 0,
        heap: Engine | None = None,
    ) -> None:
        """Put the parts together and open for calls."""
        self._origin = arena << ARENA_BITS
        self._set_origin(self._origin)
        self._medium, self._region, self._root_store = medium, region, roots
        if isinstance(medium, FileMedium):
            self._set_file(medium.number)
        self._identity, self._name = identity, name
        self._instance: bytes = os.urandom(8) if heap is None else heap._instance
        self._lock, self._owner = threading.RLock(), 0
        self._configure(*packed_classes())
        self._attach_tables()
        self._gate = Gate()
        state = self._first_state(heap)
        self._begin_log(heap, unattached=state == State.UNATTACHED)
        core = weakref.proxy(self)  # no cycle: a heap that is dropped is closed at once
        self._supply = Supply(core, region, medium, fresh=fresh)
        if state == State.UNATTACHED:
            self._sleep_in(region.first_unit, region.end_unit)
        elif not self.readonly:
            rooted.mark_all(self)
        self._decay_seconds = decay
        if heap is None:
            self._set_pace()
        self._set_state(state)

    def _attach_tables(self) -> None:
        """Tell C where they are."""
        region = self._region
        data, bits, entries, units = map(region.base, ("data", "bits", "entries", "units"))
        self._attach(data, bits, entries, units, region.address_ranges)

    def _first_state(self, heap: Engine | None) -> State:
        """Return what calls may do at first: those of an arena what those of its heap may."""
        if heap is not None:
            return State(heap._state())
        if self.readonly:
            return State.READONLY
        unattached = isinstance(self._medium, FileMedium) and self._medium.is_unattached
        return State.UNATTACHED if unattached else State.OPEN

    # ------------------------------------------------------------ what it is

    @property
    def closed(self) -> bool:
        """Whether the heap was closed."""
        return self._state() == State.CLOSED

    @property
    def _is_forked(self) -> bool:
        """Whether it is the heap of the process that this one is a fork of."""
        return self._state() == State.FORKED

    @property
    def readonly(self) -> bool:
        """Whether the heap was opened for reading."""
        return isinstance(self._medium, FileMedium) and self._medium.readonly

    @property
    def _is_beside(self) -> bool:
        """Whether another process may change the heap: a reader that was attached beside it."""
        return isinstance(self._medium, FileMedium) and self._medium.beside

    @property
    def roots(self) -> Roots:
        """Names by which the heap is entered again: a mapping of str to offset."""
        raise NotImplementedError

    # ------------------------------------------------------------ arenas

    def _spaces(self) -> tuple[Engine, ...]:
        """Return the open arenas of the heap; `Heap` and `Arena` know them."""
        return (self,)

    def _arena_of(self, offset: int) -> Engine | None:
        """Return the arena in which an offset lies, if it is another one; `Heap` knows them."""
        return None

    def _space_at(self, offset: int) -> Engine | None:
        """Return the arena in which an offset lies, under the lock; `Heap` knows them."""
        return self

    # ------------------------------------------------------------ slow halves of the C calls

    def _malloc_slow(self, size: Any, align: Any = None) -> int:
        nbytes = size_argument(size)
        alignment = GRANULE if align is None else alignment_argument(align)
        if self._state() != _OPEN:
            self._require(write=True)
        try:
            return self._serve(self._malloc_locked, nbytes, alignment)
        except OutOfSpaceError as error:
            raise self._explained(error, nbytes, alignment) from error

    def _malloc_locked(self, size: int, align: int) -> int:
        while True:
            offset = self._try_malloc(size, align)
            if offset >= 0:
                return offset
            if offset == Refusal.LARGE:
                return self._malloc_extent(size, align)
            self._raise_code(offset)
            self._refill(size, align)

    def _refill(self, size: int, align: int = GRANULE) -> None:
        """Bring the pool nearer to what a block of `size` bytes needs."""
        self._release_quarantine()
        try:
            self._supply.refill(_units_for_pool(size, align))
        except OutOfSpaceError:
            if not self._emptied_quarantine():
                raise

    def _malloc_extent(self, size: int, align: int = UNIT, *, roomy: bool = False) -> int:
        nunits = -(-size // UNIT)
        self._release_quarantine()
        start = self._units(nunits, max(align // UNIT, 1), roomy=roomy)
        return self._large_make(start, nunits, size)

    def _malloc_many_slow(self, size: Any, count: Any, wants_one: bool) -> int | memoryview:
        nbytes = size_argument(size)
        blocks = whole_number("malloc_many: count", count, 0, (1 << 60) - 1)
        self._require(write=True)
        if not wants_one and not type(size) is type(count) is int:
            return self.malloc_many(nbytes, blocks)
        if not wants_one:
            raise UsageError(f"malloc_many: an open heap expected, {self._name} changed its state")
        return self._malloc_slow(nbytes)

    def _free_slow(self, offset: Any, deferred: Any = None) -> None:
        place = offset_argument(offset)
        self._require(write=True)
        other = self._arena_of(place)
        if other is not None:
            other.free(place, bool(deferred))
        elif type(offset) is not int:
            self.free(place, bool(deferred))
        elif (refusal := self._try_free(place, bool(deferred))) == 0:  # a moment ago it was not
            self._append_pending()
        elif refusal != Refusal.BAD_OFFSET or (transaction := self._reserver(place)) is None:
            self._refuse_free(place, "free", refusal)
        else:  # as an array of a transaction is
            transaction.free(place, bool(deferred))

    def _reserver(self, offset: int) -> native.TxCore | None:
        """Return the open transaction of this thread, if it has reserved a block."""
        transaction = self._log._current()
        if transaction is None or transaction._may_name(offset) < 0:
            return None
        return transaction

    def _free_many_slow(self, index: int | None, offsets: Any) -> Any:
        if index is None:
            return packed_offsets(offsets)
        self._require(write=True)
        where, refusal = f"free_many, offsets[{index}]", self._free_refusal(offsets)
        if refusal == 0:
            raise UsageError(f"{where}: each block once expected, {offsets:#x} stands there again")
        return self._refuse_free(offsets, where, refusal)

    def _refuse_free(self, offset: int, where: str, refusal: int) -> None:
        self._raise_code(refusal)
        if refusal == Refusal.ROOTED:
            raise rooted.refused(where, offset, rooted.names_of(self, offset))
        if refusal == Refusal.IN_TRANSACTION:
            raise BufferError(
                f"{where}: block at offset {offset:#x}: no open transaction that uses it expected, "
                "found one"
            )
        if refusal == Refusal.PINNED:
            raise BufferError(
                f"{where}: block at offset {offset:#x} ({self._bytes_of(offset)}): no live views "
                f"expected, {self._views_of(offset)} found; free(offset, deferred=True) frees it "
                "all the same"
            )
        raise self._no_block(offset, where)

    def _realloc_slow(self, offset: Any, size: Any) -> int:
        place, nbytes = offset_argument(offset), size_argument(size)
        self._require(write=True)
        other = self._arena_of(place)
        if other is not None:
            return other.realloc(place, nbytes)
        try:
            return self._serve(self._realloc_locked, place, nbytes)
        except OutOfSpaceError as error:
            raise self._explained(error, nbytes, GRANULE) from error

    def _realloc_locked(self, offset: int, size: int) -> int:
        while True:
            to = self._try_realloc(offset, size)
            if to >= 0:
                return to
            if to == Refusal.BAD_OFFSET:
                raise self._no_block(offset, "realloc")
            if to == Refusal.UPSTREAM and self._extend_block(offset, size):
                return offset
            if to in _IN_PLACE_IF_KNOWN and self._supply.read_on():
                continue
            if to in _HELD:
                raise self._pinned(offset, size)
            if to == Refusal.MOVE_LOGGED or (to in _UNITS_WANTED and self._redo()):
                if self._free_refusal(offset) in _HELD:
                    raise self._pinned(offset, size)
                return self._move_or_stay(offset, size)
            if to in _UNITS_WANTED:
                return self._move_to_extent(offset, size)
            self._raise_code(to)
            self._refill(size)

    def _move_or_stay(self, offset: int, size: int) -> int:
        """Move a block of a file heap; what becomes smaller stays where there is no room."""
        try:
            return self._move_logged(offset, size)
        except OutOfSpaceError:
            if size > self.usable_size(offset):
                raise
            return offset

    def _extend_block(self, offset: int, size: int) -> bool:
        """Let a large block grow over what lies behind it outside of the pool."""
        first = (offset ^ self._origin) // UNIT
        end = first + self.usable_size(offset) // UNIT
        start, stop = end + self._room_after(end), first - -size // UNIT
        if stop <= start or not self._supply.extend(start, stop - start):
            return False
        if self._large_extend(offset, start, stop, size):
            return True
        self._supply.extents.deallocate(start, stop - start)
        return False

    def _move_to_extent(self, offset: int, size: int) -> int:
        if self._free_refusal(offset) in _HELD:
            raise self._pinned(offset, size)
        to = self._malloc_extent(size, roomy=True)
        refusal = self._move_into(offset, to, size)
        if refusal == 0:
            return to
        self.free(to)  # another thread freed or viewed the block while the heap grew
        raise (
            self._pinned(offset, size) if refusal in _HELD else self._no_block(offset, "realloc")
        )

    def _pinned(self, offset: int, size: int) -> BufferError | UsageError:
        refusal = self._free_refusal(offset)
        if refusal == Refusal.ROOTED:
            return rooted.refused("realloc", offset, rooted.names_of(self, offset))
        if refusal == Refusal.IN_TRANSACTION:
            return BufferError(
                f"realloc: block at offset {offset:#x}: no open transaction that uses it expected "
                f"where it must move to hold {size} bytes, found one"
            )
        return BufferError(
            f"realloc: block at offset {offset:#x} ({self._bytes_of(offset)}): no live views "
            f"expected where it must move to hold {size} bytes, {self._views_of(offset)} found"
        )

    def _bytes_of(self, offset: int) -> str:
        """Say how large a block is that lives or is withheld."""
        return counted(max(self._held_size(offset), 0), "byte")

    def _expand_slow(self, offset: Any, size: Any) -> bool:
        place, nbytes = offset_argument(offset), size_argument(size)
        self._require(write=True)
        other = self._arena_of(place)
        if other is not None:
            return other.expand(place, nbytes)
        return self._serve(self._expand_locked, place, nbytes)

    def _expand_locked(self, offset: int, size: int) -> bool:
        """Expand a block; what was not read since the heap was opened is read before a no."""
        while (done := self._try_expand(offset, size)) == Refusal.UPSTREAM:
            if self._extend_block(offset, size):
                return True
            if not self._supply.read_on():
                return False
        if done == Refusal.BAD_OFFSET:
            raise self._no_block(offset, "expand")
        self._raise_code(done)
        return done == 0

    def _usable_size_slow(self, offset: Any, _second: Any = None) -> int:
        place = offset_argument(offset)
        self._require()
        other = self._arena_of(place)
        if other is not None:
            return other.usable_size(place)
        if type(offset) is not int:
            return self.usable_size(place)
        raise self._no_block(place, "usable_size")

    def _view_slow(self, offset: Any, length: Any = None) -> memoryview:
        place = offset_argument(offset)
        self._require()
        other = self._arena_of(place)
        if other is not None:
            return other.view(place, length)
        try:
            count = usable = self.usable_size(place)
        except UsageError:
            self._require()  # somebody may have closed it meanwhile
            raise self._no_block(place, "view") from None
        if length is not None:
            count = whole_number(
                f"view: length of the block at offset {place:#x}", length, 0, usable
            )
        if self._state() == State.CLEAN:  # what is stored through a view changes the heap
            self._mark_in_use()
        return self.view(place, count)

    def _own_view(self, offset: int, length: int | None = None) -> memoryview:
        """Return a view for the use of the package alone, which is not handed out.

        If the file is cut while it is looked through, it shows zeros: `_require_kept` is to be
        called before anything is concluded from what was seen. Through any other view that would be
        the end of the process.
        """
        view = self.view(offset, length)
        owner: Any = view.obj
        owner._become_own()
        return view

    def _require_kept(self) -> None:
        """Raise if what is mapped is not what the heap has stored."""
        if self._state() == State.LOST:
            self._require()

    # ------------------------------------------------------------ upkeep

    def _set_pace(self) -> None:
        """Tell the clock of the heap, which its arenas share, how often upkeep is due."""
        seconds = self._decay_seconds
        nanoseconds = math.inf if seconds is None else max(seconds, _DECAY_LEAST_SECONDS) * 1e9
        self._log._set_pace(int(min(nanoseconds, (1 << 64) - 1)))

    def _upkeep(self, is_due: bool, is_idle: bool) -> bool:
        """Merge what was freed, and give back what is old if that is due: calls come here.

        Returns
        -------
        bool
            False: a change is under way; later.
        """
        if threading.get_ident() in _changing or any(space._owner for space in self._spaces()):
            return False
        try:
            self._look(self._upkeep_locked, is_due, is_idle)
        except (PmemHeapError, MemoryError) as error:
            if self._state() in _GIVING_BACK:  # else another thread closed it
                self._stop_decay(error)
        return True

    def _upkeep_locked(self, is_due: bool, is_idle: bool) -> None:
        if not is_due:
            self._supply.merge_freed()
            return
        if self._decay_seconds is not None:
            self._give_back(is_idle)

    def _give_back(self, is_idle: bool) -> None:
        """Give back what is old: of a heap at rest pages alone, so that its file stays closed.

        In a power heap that is no matter, and its log may be what is large.
        """
        log = self._redo()
        if is_idle and self._is_power and log is not None and self._is_much(log.size):
            self._mark_in_use_locked()
        is_open = self._state() == State.OPEN
        held = sum(space._quarantined() for space in self._spaces())
        if log is not None and is_open and self._is_much(held):
            log.sync_log()  # nobody else may do so
        for space in self._spaces():
            space._supply.decay(DECAY_SHARE, is_idle=is_idle, can_change=is_open)
        if log is not None and is_open and is_idle and self._is_much(log.size):
            log.shrink()

    def _is_much(self, nbytes: int) -> bool:
        units = sum(space._region.nunits for space in self._spaces())
        return nbytes > DECAY_SHARE * UNIT * units

    def _stop_decay(self, error: Exception) -> None:
        for space in self._spaces():
            space._decay_seconds = None
        self._set_pace()
        warnings.warn(f"{self._name}: give-back stopped: {error}", RuntimeWarning, 3)

    # ------------------------------------------------------------ the lock

    def _serve(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a change of the volatile structures, alone; repair them first if one was torn out."""
        self._upkeep_if_due()
        return self._alone(lambda: self._unbroken(True, work, *args, **kwargs))

    def _look(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what looks at the volatile structures, in the same way, also in a heap at rest."""
        self._upkeep_if_due()
        return self._alone(lambda: self._unbroken(False, work, *args, **kwargs))

    def _alone(self, work: Callable[[], T]) -> T:
        """Run something under the lock of the heap.

        A thread that changes a heap may be interrupted anywhere by finalizers. If those could wait
        for the lock of another heap, whose owner waits for something that this thread holds, both
        would wait for ever: so they are refused.
        """
        self._require_no_change()
        thread = threading.get_ident()
        try:  # the note is made inside of it, so that no interrupt can leave it behind
            _changing.add(thread)
            with self._lock:
                self._owner = thread
                try:
                    return work()
                finally:
                    self._owner = 0
        finally:
            _changing.discard(thread)

    def _require_no_change(self) -> None:
        """Refuse what may have to wait, in a thread that is in the middle of a change."""
        if self._state() == State.FORKED:  # a thread that is not here may have the lock
            self._require()
        if self._is_changing():
            raise UsageError(
                f"{self._name}: called from a finalizer or signal handler while a heap is being "
                "changed by the same thread; only free and view may be"
            )

    def _as_owner(self, work: Callable[[], None]) -> None:
        """Run something under the lock of the heap, which this thread may have already."""
        if self._owner == threading.get_ident():
            work()
        else:
            self._alone(work)

    def _unbroken(self, write: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._state() != _OPEN:  # another thread may have had the lock since it was
            leave_at_exit()
            self._require(write=write)
        if self._medium.in_doubt:
            self._rebuild()
        try:
            result = work(*args, **kwargs)
            self._append_pending()
            self._require_kept()
        except (PmemHeapError, BufferError) as error:
            self._poison_if_sync_failed()
            if not isinstance(error, DurabilityError):
                self._require_kept()
            raise
        except BaseException:
            self._medium.in_doubt = True
            raise
        return result

    def _is_changing(self) -> bool:
        """Tell whether this thread is in the middle of a change of a heap."""
        return threading.get_ident() in _changing

    def _rebuild(self) -> None:
        """Make what an interrupt left in doubt anew: header, log, segments, extents."""
        log = self._redo()
        if log is not None and not self._medium_sync_failed():
            try:
                log.mend()
            finally:
                self._poison_if_sync_failed()
        self._recall_arenas()
        spaces = self._spaces()
        for space in spaces:
            space._region.mend()
        self._medium.keep_only([piece for space in spaces for piece in space._region.pieces])
        for space in spaces:
            space._supply.rebuild()
            rooted.mark_all(space)
        self._medium.in_doubt = False

    def _recall_arenas(self) -> None:
        """Find out which arenas an interrupt has made or dropped; `Heap` and `Arena` know them."""

    # ------------------------------------------------------------ refusing

    def _become_attached(self) -> None:
        """Map the tables, before the first call that needs more than roots and maps."""
        self._as_owner(self._become_attached_locked)

    def _become_attached_locked(self) -> None:
        region = self._region
        if self._state() == State.UNATTACHED:
            region.complete()
            self._attach_tables()
            self._begin_log(None, unattached=False)
            self._set_pace()
            self._set_bounds(region.first_unit, region.end_unit, region.first_unit)
            rooted.mark_all(self)
            self._set_state(State.CLEAN)

    def _require_open(self) -> None:
        """Raise if it is not open; its tables need not be attached."""
        if self._state() != State.UNATTACHED:
            self._require()

    def _mark_in_use(self) -> None:
        """Say in the file that it is in use, before the first change after a durable point."""
        if self._owner != threading.get_ident():
            leave_at_exit()
        self._as_owner(self._mark_in_use_locked)

    def _mark_in_use_locked(self) -> None:
        self._become_attached_locked()
        if self._state() != State.CLEAN:
            return
        assert isinstance(self._medium, FileMedium)
        try:
            self._medium.begin_use()
        except DurabilityError:
            self._set_states(State.READONLY)
            self._poison_if_sync_failed()
            raise
        self._set_states(State.OPEN)

    def _set_states(self, state: State) -> None:
        """Let all open arenas be in a state."""
        for space in self._spaces():
            space._set_state(state)

    def _becomes_clean(self, medium: FileMedium) -> bool:
        """Begin a sync that says that nothing goes on; not if views, unnoticed, are stored to."""
        at_work = any(tx._state()[0] == TxState.OPEN for tx in self._log._open_transactions())
        is_open = self._state() == State.OPEN and not is_viewed(self._spaces())
        if medium.on_memory or self._is_power or at_work or not is_open:
            return False
        self._set_states(State.CLEAN)  # who takes a view from here on waits for the lock
        if is_viewed(self._spaces()):  # another thread was faster
            self._set_states(State.OPEN)
        return self._state() == State.CLEAN

    def _mark_closed(self, medium: FileMedium, file: FileIdentity) -> None:
        """Sync, and say in the file that it is as good as closed, until the next change.

        As long as it names its `file` there, a copy is not: the change may come meanwhile,
        waits for the lock, and then marks the heap as in use again.
        """
        self._set_states(State.CLEAN)
        try:
            medium.sync()
            medium.write_superblock(sync=True, state=HeapState.CLEAN, file=file)
        except PmemHeapError:  # after an interrupt the next change says that the heap is in use
            self._set_states(State.OPEN)
            raise

    def _require(self, *, write: bool = False) -> None:
        """Raise what the state of the heap asks for."""
        if self._state() == State.UNATTACHED:
            self._become_attached()
        state = State(self._state())
        if state == State.CLEAN and write:
            self._mark_in_use()
            return
        if state <= State.CLEAN or (state == State.READONLY and not write):
            return
        if state == State.LOST or (state == State.READONLY and not self.readonly):  # [R7]
            assert isinstance(self._medium, FileMedium)
            raise self._medium.failure()
        wanted = "a writable" if state == State.READONLY else "an open"
        found = {
            State.READONLY: "it was opened read-only",
            State.FORKED: "it belongs to the parent process; open it anew in this one",
            State.CLOSED: "it is closed",
        }[state]
        raise UsageError(f"{self._name}: {wanted} heap expected, {found}")

    def _require_ours(self, during: str) -> None:
        """Raise if somebody else has changed the file, before anything found is called wrong."""
        if isinstance(self._medium, FileMedium) and not self._medium.readonly:
            try:
                self._medium.require_ours(during)
            finally:
                self._poison_if_sync_failed()

    def _raise_code(self, code: int) -> None:
        if code == Refusal.CORRUPT:
            self._require_ours("malloc")
            raise CorruptHeapError(
                f"{self._name}: a run with the blocks it counts expected, found none"
            )
        if code == Refusal.NOMEM:
            raise MemoryError(f"{self._name}: no memory for the table of views")

    def _no_block(self, offset: int, where: str) -> UsageError:
        """Describe what lies at an offset at which no live block begins."""
        self._require_ours(where)
        first, end = (self._origin | unit * UNIT for unit in self._bounds()[:2])
        expected = f"{where}: offset of a live block expected, {offset:#x} found: "
        if not first <= offset < end:
            what = "arena" if self._origin else "heap"
            return UsageError(expected + f"outside of the {what}, which is [{first:#x}, {end:#x})")
        if offset % GRANULE:
            return UsageError(expected + f"not a multiple of {GRANULE}")
        return UsageError(expected + self._describe_place(offset))

    def _describe_place(self, offset: int) -> str:
        """Say what lies at an offset inside the heap at which no live block begins."""
        state, unit, _, index = self._place_of(offset)
        start = self._origin | unit * UNIT
        if state in _WITHHELD:
            return _WITHHELD[state]
        if state in {UnitState.RUN, UnitState.RUN_BODY}:
            size = CLASSES[index].size
            inside = (offset - start) % size
            if inside:
                return (
                    f"{inside} bytes inside of the block at {offset - inside:#x}, of {size} bytes"
                )
            return f"the block of {size} bytes there is free already"
        if state == UnitState.LARGE and start != offset:
            return f"{offset - start} bytes inside of the large block at {start:#x}"
        return "no block lies there: freed already, inside of a large block, or never allocated"

    def _explained(self, error: OutOfSpaceError, size: int, align: int) -> OutOfSpaceError:
        """Return what to raise for a refused request; `Heap` adds an explanation."""
        return error

    def _poison_if_sync_failed(self) -> None:
        """After a sync that failed nothing may be written any more: the next one would not tell.

        Nor may what is mapped be read of a file that somebody else has cut or written over.
        """
        medium = self._medium
        if not isinstance(medium, FileMedium) or not (medium.sync_failed or medium.watch.is_lost):
            return
        for space in self._spaces():
            if medium.watch.is_lost and space._state() < State.LOST:
                space._set_state(State.LOST)
            elif space._state() == State.OPEN:
                space._set_state(State.READONLY)

    # ------------------------------------------------------------ end

    def _rest(self) -> None:
        """Let the file be as if the heap was closed; `Heap` does."""

    def _let_go(self) -> None:
        """Close as far as views that are still alive allow: they keep the memory, not the file."""
        if self._state() == State.FORKED:
            return
        has_views = is_viewed(self._spaces())
        if self._state() != State.CLOSED:
            self._log._abort_all()
            with suppress(DurabilityError):
                self._end_log()
            for space in self._spaces():
                space._set_state(State.CLOSED)
        if isinstance(self._medium, FileMedium):
            self._log._detach()
            self._medium.has_views = has_views
            with suppress(DurabilityError):
                self._medium.close()


def _units_for_pool(size: int, align: int) -> int:
    """Units that the pool must have in one piece to serve a size: of a run, or of a block."""
    found = class_of(size, align)
    return min(-(-size // UNIT), POOL_MOST) if found is None else found.run_units


# ---------------------------------------------------------------- processes


class _Living:
    """The heaps of this process that are not closed; threads may change it while it is walked."""

    def __init__(self) -> None:
        self._heaps: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()

    def add(self, heap: Engine) -> None:
        """Enter a heap."""
        self._heaps[id(heap)] = heap

    def discard(self, heap: Engine) -> None:
        """Strike a heap off, if it is there."""
        self._heaps.pop(id(heap), None)

    def __contains__(self, heap: Engine) -> bool:
        """Tell whether a heap is there."""
        return id(heap) in self._heaps

    def __iter__(self) -> Iterator[Engine]:
        """Yield the heaps of this moment: their references are copied in one step."""
        for reference in self._heaps.valuerefs():
            heap = reference()
            if heap is not None:
                yield heap


open_heaps = _Living()
"""The heaps of this process that are not closed."""


def _at_exit() -> None:
    """Close what nobody has closed: each heap by itself, whatever becomes of the others."""
    begin_exit()
    failure: BaseException | None = None
    for heap in open_heaps:
        try:
            heap._rest()
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure


os.register_at_fork(after_in_child=_changing.clear)  # the rest: os/file_table.c
atexit.register(_at_exit)
