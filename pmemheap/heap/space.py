"""Space: the Python half of one arena. Its parts, its states, and how changes are made.

    call that C cannot answer alone ──► serve ──► the lock ──► rebuilt, if torn ──► work
                                                                                     │
                                                    record of what bare calls changed ◄

Every call that changes the volatile structures runs in `serve`, under one lock; if it is torn out
by an interrupt, the next one rebuilds them first. A call that raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import ParamSpec, TypeVar

from pmemheap import native
from pmemheap.errors import CorruptHeapError, DurabilityError, PmemHeapError, UsageError
from pmemheap.format.layout import ARENA_BITS
from pmemheap.heap.exiting import is_exiting, leave_at_exit
from pmemheap.heap.holding import tell_due
from pmemheap.heap.layered import Layers
from pmemheap.heap.lock import is_changing
from pmemheap.heap.shared import Shared
from pmemheap.heap.strategies import General, Placed, Strategy
from pmemheap.native.constants import Refusal, State
from pmemheap.refusals import refusal
from pmemheap.space.chosen import ChosenSupply
from pmemheap.space.giveback import GiveBack
from pmemheap.space.ledger import OverBudgetError
from pmemheap.space.placement import Placement
from pmemheap.space.region import Region
from pmemheap.space.size_classes import packed_classes
from pmemheap.space.supply import Supply

__all__ = ["Space", "space_of"]

P = ParamSpec("P")
T = TypeVar("T")

_OPEN, _FORKED, _LOST = int(State.OPEN), int(State.FORKED), int(State.LOST)


_TABLES = "bits", "entries", "units"


class Space:
    """One arena of a heap, for the package.

    Parameters
    ----------
    face : HeapCore
        The heap or arena that users have. It is not kept.
    shared : Shared
        What it has together with the other arenas.
    region : Region
        Its memory.
    name : str
        For messages.
    fresh : bool
        Whether nothing has ever been allocated in it.
    number : int, optional
        What its offsets begin with, if it is the default arena of these, and not number 0.
    strategy : Strategy, optional
        Where its blocks come from; General by default.
    """

    __slots__ = (
        "_layers", "core", "giveback", "index", "name", "origin", "placement", "region", "shared",
        "strategy", "supply",
    )  # fmt: skip

    name: str
    region: Region
    shared: Shared

    def __init__(  # noqa: PLR0913 -- the parts of an arena
        self,
        face: native.HeapCore,
        shared: Shared,
        region: Region,
        name: str,
        *,
        arena: int = 0,
        fresh: bool,
        number: int | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self.shared, self.region, self.name = shared, region, name
        self.index: int = arena if number is None else number
        self.origin: int = self.index << ARENA_BITS
        self.strategy: Strategy = General() if strategy is None else strategy
        file = 0 if shared.file is None else shared.file.number
        self.core: native.HeapDoors = native.HeapDoors(face, *packed_classes(), self.origin, file)
        if self.strategy.code:
            self.core.set_strategy(self.strategy.code, self.strategy.granules)
        state = self._first_state(is_default=arena == 0)
        self.attach_tables(() if state == State.UNATTACHED else _TABLES)
        if arena == 0:
            shared.begin_log(unattached=state == State.UNATTACHED)
        self._join_log()
        self.supply: Supply = self._first_supply(fresh=fresh)
        self.placement: Placement | None = self._first_placement()
        self.giveback: GiveBack = GiveBack(self.core, self.supply)
        self._layers: Layers | None = None
        if state != State.UNATTACHED and not shared.readonly:
            self.mark_rooted()
        if arena == 0:
            shared.set_pace()
        elif shared.default.layers.told:  # a named arena
            self.layers.apply()
        self.core.state = state
        if state != State.UNATTACHED and not fresh:
            self._take_over()

    def _take_over(self) -> None:
        """Read the rows, or the ring, of which the whole counts; all else when space is wanted."""
        if self.strategy.is_at_end:
            self.supply.read_all()
            self.core.gather_ring()

    def _first_supply(self, *, fresh: bool) -> Supply:
        shared, prototype = self.shared, self.shared.extents
        if prototype is None or shared.readonly or self.strategy.is_at_end:
            return Supply(self.core, self.region, shared.medium, fresh=fresh)
        return ChosenSupply(self.core, self.region, shared.medium, prototype, fresh=fresh)

    def _first_placement(self) -> Placement | None:
        if not isinstance(self.strategy, Placed):
            return None
        return Placement(self.core, self.supply, self.strategy.prototype)

    def rebuild(self) -> None:
        """Make the volatile half anew, after an interrupt. O(units)."""
        self.supply.rebuild()
        if self.placement is not None:
            self.placement.rebuild()
        self.mark_rooted()

    def attach_tables(self, tables: tuple[str, ...]) -> None:
        """Tell C where the data and the tables are, those that are mapped."""
        bits, entries, units = map(self.region.base, tables) if tables else (0, 0, 0)
        self.core.attach(self.region.base("data"), bits, entries, units, self.region.address_ranges)

    def _first_state(self, *, is_default: bool) -> State:
        """Return what calls may do at first: those of an arena what those of its heap may."""
        if not is_default:
            return State(self.shared.default.core.state)
        if self.shared.readonly:
            return State.READONLY
        file = self.shared.file
        return State.UNATTACHED if file is not None and file.is_unattached else State.OPEN

    def _join_log(self) -> None:
        """Tell the log where what it says of this arena goes."""
        file, region = self.shared.writable, self.region
        data, bits, entries = (0, 0, 0) if file is None else map(region.base, file.homes)
        self.shared.log.set_home(
            self.index, data, bits, entries, region.first_unit, region.end_unit, self.core
        )
        if file is not None:
            self.core.durability = file.header.superblock.durability

    def mark_rooted(self) -> None:
        """Mark the blocks that roots name, and no others. O(roots)."""
        roots = self.shared.roots.roots.values()
        named = [root.off for root in roots if root.off >> ARENA_BITS == self.index]
        if self.core.set_rooted(named, True, False) == Refusal.NOMEM:
            raise MemoryError(f"{self.name}: no memory for the table of refs")

    def address_of(self, offset: int) -> int:
        """Return where a byte of the arena is mapped."""
        return self.region.base("data") + (offset ^ self.origin)

    def arena_of(self, offset: int) -> Space | None:
        """Return the arena in which an offset lies, if it is another one."""
        return None if self.origin else self.shared.arenas.of(offset)

    @property
    def layers(self) -> Layers:
        """The layers that its calls go through, made when they are first asked for."""
        if self._layers is None:
            self._layers = Layers(self)
        return self._layers

    def tell_of_scratch(self, scratch: Space) -> None:
        """Have those whom C tells of the heap told of a new arena of scratch regions too.

        A heap without layers gets none here: they keep it until the collector finds both.
        """
        if self._layers is not None:
            self._layers.tell_of_scratch(scratch)

    # ------------------------------------------------------------ views

    def own_view(self, offset: int, length: int | None = None) -> memoryview:
        """Return a view for the use of the package alone, which is not handed out.

        If the file is cut while it is looked through, it shows zeros: `require_kept` is to be
        called before anything is concluded from what was seen. Through any other view that would be
        the end of the process.
        """
        view = self.core.view(offset, length)
        native.become_own(view)
        return view

    def require_kept(self) -> None:
        """Raise if what is mapped is not what the heap has stored."""
        if self.core.state == State.LOST:
            self.require()

    # ------------------------------------------------------------ changing

    def serve(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a change of the volatile structures, alone; repair them first if one was torn out."""
        if self.shared.ages is not None and self.shared.ages.due:
            tell_due(self, self.shared.ages)
        self.core.upkeep_if_due()
        if self.core.state == _FORKED:  # as `alone`, but for the call
            self.require()
        try:
            return self.shared.lock.hold(lambda: self._unbroken(True, work, *args, **kwargs))
        except OverBudgetError as over:
            nbytes = over.nbytes
        return self._again(lambda: self._unbroken(True, work, *args, **kwargs), nbytes)

    def look(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what looks at the volatile structures, in the same way, also in a heap at rest."""
        self.core.upkeep_if_due()
        return self.alone(lambda: self._unbroken(False, work, *args, **kwargs))

    def alone(self, work: Callable[[], T]) -> T:
        """Run something under the lock of the heap."""
        if self.core.state == _FORKED:  # a thread that is not here may have the lock
            self.require()
        try:
            return self.shared.lock.hold(work)
        except OverBudgetError as over:
            nbytes = over.nbytes
        return self._again(work, nbytes)

    def _again(self, work: Callable[[], T], nbytes: int) -> T:
        """Run again what wanted to grow beyond its budget; here this thread has no lock."""
        ledger = self.region.ledger
        if ledger is None:  # somebody has taken the heap out of it
            return self.shared.lock.hold(work)
        return ledger.again(lambda: self.shared.lock.hold(work), nbytes)

    def as_owner(self, work: Callable[[], None]) -> None:
        """Run something under the lock of the heap, which this thread may have already."""
        if self.shared.lock.is_mine:
            work()
        else:
            self.alone(work)

    def require_no_change(self) -> None:
        """Refuse what may have to wait, in a thread that is in the middle of a change."""
        if self.core.state == _FORKED:
            self.require()
        if is_changing():
            raise self.shared.lock.in_a_change()

    def _unbroken(self, write: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.core.state != _OPEN:  # another thread may have had the lock since it was
            leave_at_exit()
            self.require(write=write)
        medium = self.shared.medium
        if medium.in_doubt:
            self.shared.rebuild()
        try:
            result = work(*args, **kwargs)
            self.core.append_pending()
            if self.core.state == _LOST:
                self.require()
        except (PmemHeapError, BufferError) as error:
            self.shared.poison_if_sync_failed()
            if not isinstance(error, DurabilityError):
                self.require_kept()
            raise
        except BaseException:
            medium.in_doubt = True
            raise
        return result

    # ------------------------------------------------------------ states

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.core.state == State.CLOSED

    def require(self, *, write: bool = False) -> None:
        """Raise what the state of the heap asks for."""
        code = self.core.state
        if code == _OPEN:
            return
        state = State(code)
        if state == State.UNATTACHED:
            self.become_attached()
            state = State(self.core.state)
        if state == State.CLEAN and write:
            self.mark_in_use()
            return
        if state <= State.CLEAN or (state == State.READONLY and not write):
            return
        readonly = self.shared.readonly
        if state == State.LOST or (state == State.READONLY and not readonly):  # [R7]
            assert self.shared.file is not None
            raise self.shared.file.failure()
        wanted = "a writable" if state == State.READONLY else "an open"
        found = {
            State.READONLY: "it was opened read-only",
            State.FORKED: "it belongs to the parent process; open it anew in this one",
            State.CLOSED: "it is closed",
        }[state]
        raise UsageError(f"{self.name}: {wanted} heap expected, {found}")

    def require_open(self) -> None:
        """Raise if it is not open; its tables need not be attached."""
        if self.core.state != State.UNATTACHED:
            self.require()

    def become_attached(self) -> None:
        """Map the tables, before the first call that needs more than roots and maps."""
        self.as_owner(self._become_attached_locked)

    def _become_attached_locked(self) -> None:
        region = self.region
        if self.core.state == State.UNATTACHED:
            region.complete()
            self.attach_tables(_TABLES)
            self.shared.begin_log(unattached=False)
            self._join_log()
            self.shared.set_pace()
            self.core.set_bounds(region.first_unit, region.end_unit, region.first_unit)
            self.mark_rooted()
            self._take_over()
            self.core.state = State.CLEAN

    def mark_in_use(self) -> None:
        """Say in the file that it is in use, before the first change after a durable point."""
        if not self.shared.lock.is_mine:
            leave_at_exit()
        self.as_owner(self.mark_in_use_locked)

    def mark_in_use_locked(self) -> None:
        """Do the same under the lock."""
        self._become_attached_locked()
        shared = self.shared
        if self.core.state == State.CLEAN:
            assert shared.file is not None
            try:
                shared.file.begin_use()
            except DurabilityError:
                shared.set_states(State.READONLY)
                shared.poison_if_sync_failed()
                raise
            shared.set_states(State.OPEN)
        if is_exiting():  # no collector comes any more that finds a circle
            shared.arenas.release_heap()

    def raise_code(self, code: int) -> None:
        """Raise what the core refused for, if that is damage, lack of memory or the system."""
        if code == Refusal.CORRUPT:
            self.shared.require_ours("malloc")
            raise CorruptHeapError(
                f"{self.name}: a run with the blocks it counts expected, found none"
            )
        if code == Refusal.NOMEM:
            raise MemoryError(f"{self.name}: no memory for the table of views")
        if code < Refusal.TX_SYSTEM:
            refused = native.NativeError(Refusal.TX_SYSTEM - code, "pwrite")
            raise refusal(f"{self.name}: write", refused) from refused


space_of: Callable[[native.HeapCore], Space] = attrgetter("_space")
"""What the package knows of a heap or arena. Users have no door to it, so its name is private."""
