"""Heap: blocks in memory that grows without moving. The face of the package.

    Heap         making, arenas, durability and end
    BlockSpace   handles and arrays, space and insight
    Engine       the lock, the slow paths of malloc, free, realloc, view
    HeapCore     the same calls in C, and all that keeps the GIL

A call that raises has changed nothing.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from pmemheap.errors import DurabilityError, PmemHeapError, UsageError
from pmemheap.file import openfile
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.locks import look_beside_writer
from pmemheap.file.naming import opened_again
from pmemheap.file.recovery import recover, replay_private
from pmemheap.file.snapshotting import copy_heap_file
from pmemheap.heap import gate, insight, rooted
from pmemheap.heap.arenas import Arena, arena_name_argument, index_of, live_names, vacancy
from pmemheap.heap.arguments import (
    ALIGN_MOST,
    SIZE_MOST,
    AnyPath,
    decay_argument,
    durability_argument,
    headroom_argument,
    limit_argument,
    path_argument,
)
from pmemheap.heap.blockspace import BlockSpace
from pmemheap.heap.engine import Engine, open_heaps
from pmemheap.heap.exiting import is_exiting
from pmemheap.heap.gate import Shut, begun_in, owners_of
from pmemheap.heap.insight import CheckReport, Explanation, HeapStats
from pmemheap.heap.roots import Change, MemoryRoots, Roots, RootStore
from pmemheap.heap.totals import joined, lost_roots, misplaced_segments, total
from pmemheap.heap.transaction import Savepoint, Transaction
from pmemheap.heap.viewed import viewed_blocks
from pmemheap.layout import ARENA_BITS, ArenaState, FileIdentity, RootSlot
from pmemheap.native.constants import State
from pmemheap.refusals import end_with, refusals
from pmemheap.space.anonymous import AnonymousMedium
from pmemheap.space.region import Region
from pmemheap.units import GRANULE

__all__ = ["ALIGN_MOST", "DECAY_SECONDS", "SIZE_MOST", "Heap", "open_heap"]

T = TypeVar("T")

DECAY_SECONDS = 10.0
_EXIT_SECONDS = 0.5


class Heap(BlockSpace):
    """A heap of blocks, addressed by offset, that grows in place.

    Made by `Heap.anonymous`, `Heap.shared`, `Heap.create`, `Heap.open` and `Heap.attach`; a context
    manager that closes.

    Examples
    --------
    >>> heap = Heap.anonymous()
    >>> offset = heap.malloc(100)
    >>> view = heap.view(offset, 5)
    >>> view[:] = b"hello"
    >>> big = heap.malloc(1 << 30)          # the heap grows; the view stays where it is
    >>> bytes(view)
    b'hello'
    >>> del view
    >>> heap.free(offset)
    >>> heap.close()
    """

    __slots__ = ("_arenas",)

    _arenas: dict[int, Arena]

    # ------------------------------------------------------------ making

    def __init__(self, *_: object, **__: object) -> None:
        """Refuse: a heap needs memory, and each kind has its own maker."""
        raise TypeError(
            "Heap: Heap.open(path) for a file that is there, Heap.create(path) for a new one, "
            'pmemheap.open(path, "c") for either, Heap.anonymous(), Heap.shared() or '
            "Heap.attach(fd) expected, found Heap(...)"
        )

    @classmethod
    def anonymous(
        cls,
        *,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
    ) -> Self:
        """Make a heap in private memory of this process.

        Parameters
        ----------
        limit : int, optional
            Bytes of memory that the heap may map, tables included.
        headroom : int, optional
            Bytes of address space to keep free for growth. A wish; costs no memory. By default 1
            TiB; under a limit on address space (``ulimit -v``) all arenas of a heap together take
            at most a quarter of what the process may still have.
        decay : float or None
            Seconds after which free space goes back to the system by itself; None: only on `trim`.

        Raises
        ------
        UsageError
            An option is out of range.
        OutOfSpaceError
            No address space for the first MiB.
        """
        decay = decay_argument(decay)
        medium = AnonymousMedium(limit_argument(limit))
        region = Region(medium, headroom_argument(headroom))
        region.grow(1, 1)
        return cls._over(medium, region, uuid.uuid4().bytes, "anonymous heap", decay, fresh=True)

    @classmethod
    def shared(
        cls,
        *,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
    ) -> Self:
        """Make a heap in shared memory (a memfd) that other processes can attach to.

        It lives until the last process that has it open, or holds its `fileno`, lets it go.
        Parameters and exceptions as `anonymous`.
        """
        headroom, decay = headroom_argument(headroom), decay_argument(decay)
        medium = openfile.create_memory("pmemheap", limit=limit_argument(limit))
        return cls._over_file(medium, headroom, decay, fresh=True)

    @classmethod
    def create(  # noqa: PLR0913 -- options of a file, all by name
        cls,
        path: AnyPath,
        *,
        durability: str | None = None,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
        replace: bool = False,
    ) -> Self:
        """Make a heap in a new file, of 1.3 MiB to begin with.

        Parameters
        ----------
        path : path
            Where; its directory exists.
        durability : {"power", "process"}, optional
            Whether what is synced or closed must survive a power failure, or only the end of the
            process. If left out: ``"power"``, and ``"process"`` on a memory file system, which
            cannot keep more; `Heap.durability` tells.
        limit : int, optional
            Bytes that the file may have. It is kept in the file.
        replace : bool
            Put the new heap in the place of a file that is there.

        Raises
        ------
        HeapExistsError, HeapNotFoundError, HeapPermissionError
            The file exists; its directory does not; no permission for it. Each is also the
            exception of Python of that name, with errno and filename.
        HeapBusyError
            Somebody has the heap open that is to be replaced.
        UsageError
            An option is out of range, or the file system cannot keep the promise.
        OutOfSpaceError
            The disk is full.
        """
        headroom, decay = headroom_argument(headroom), decay_argument(decay)
        medium = openfile.create(
            path_argument(path), durability_argument(durability),
            limit=limit_argument(limit), replace_file=replace,
        )  # fmt: skip
        self = cls._over_file(medium, headroom, decay, fresh=True)
        try:
            medium.link_name(replace_file=replace)
        except BaseException as error:
            end_with(error, self.close)
            raise
        return self

    @classmethod
    def open(
        cls,
        path: AnyPath,
        *,
        readonly: bool = False,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
    ) -> Self:
        """Open the heap in a file; the time does not depend on its size.

        Parameters
        ----------
        path : path
            Of a heap file.
        readonly : bool
            Change nothing, hand out read-only views; any number of readers may do so at a time.
        limit : int, optional
            Bytes that the file may have while it is open this time, in place of the limit that it
            was created with.

        Raises
        ------
        HeapNotFoundError, HeapPermissionError
            No such file; no permission. They are also FileNotFoundError and PermissionError.
        HeapBusyError
            Another process has it open, or another heap of this one; it is named. Also a
            BlockingIOError.
        HeapFileError
            What else the system refuses, such as a directory.
        CorruptHeapError
            The file is not a sound heap; place, expected and found are named.
        """
        headroom, decay = headroom_argument(headroom), decay_argument(decay)
        medium = openfile.open_path(
            path_argument(path), readonly=readonly, limit=limit_argument(limit), recover=recover
        )
        return cls._over_file(medium, headroom, decay, fresh=False)

    @classmethod
    def attach(
        cls,
        fd: int,
        *,
        readonly: bool = True,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
    ) -> Self:
        """Open the shared heap behind a descriptor, which stays the caller's.

        Parameters
        ----------
        fd : int
            `fileno` of the heap, inherited from or sent by another process.
        readonly : bool
            Read what the heap holds now, also beside its writer: what the writer frees or changes
            later is not kept from changing, and its growth is not followed, but `stats`, `check`,
            `blocks` and `explain` look at the heap anew. False: become the writer, which only one
            process can be.

        Raises
        ------
        HeapFileError
            Not an open descriptor of a heap.
        HeapBusyError, HeapPermissionError
            Another process is the writer, or gives a reader no moment for a look; the descriptor
            can only be read.
        CorruptHeapError
            What the descriptor leads to is not a sound heap.
        """
        headroom, decay = headroom_argument(headroom), decay_argument(decay)

        limit = limit_argument(limit)
        if not readonly:
            return cls._attached(fd, os.O_RDWR, limit, headroom, decay)
        own = opened_again(fd, os.O_RDONLY)
        try:
            return look_beside_writer(
                own, f"descriptor {fd}",
                lambda: cls._attached(fd, os.O_RDONLY, limit, headroom, decay), lambda _: True,
            )  # fmt: skip
        finally:
            os.close(own)

    @classmethod
    def _attached(
        cls, fd: int, flags: int, limit: int | None, headroom: int | None, decay: float | None
    ) -> Self:
        medium = openfile.adopt(
            opened_again(fd, flags), f"descriptor {fd}", readonly=flags == os.O_RDONLY,
            limit=limit, beside=True, recover=recover,
        )  # fmt: skip
        return cls._over_file(medium, headroom, decay, fresh=False)

    @classmethod
    def _over_file(
        cls, medium: FileMedium, headroom: int | None, decay: float | None, *, fresh: bool
    ) -> Self:
        try:
            medium.shadowed = medium.is_power and not medium.readonly
            region = Region(medium, headroom)
            try:
                region.adopt(medium.pieces(), only=("data",) if medium.is_unattached else ())
                replay_private(medium, region, 0)
                identity, name = medium.header.superblock.uuid, f"heap {medium.name!r}"
                return cls._over(medium, region, identity, name, decay, fresh=fresh)
            except BaseException:
                region.close()
                raise
        except BaseException as error:
            end_with(error, medium.close)
            raise

    @classmethod
    def _over(  # noqa: PLR0913 -- the parts of a heap
        cls,
        medium: AnonymousMedium | FileMedium,
        region: Region,
        identity: bytes,
        name: str,
        decay: float | None,
        *,
        fresh: bool,
    ) -> Self:
        self = cls.__new__(cls)
        self._arenas = {}
        store = medium if isinstance(medium, FileMedium) else MemoryRoots()
        self._assemble(medium, region, store, identity, name, decay, fresh=fresh)
        open_heaps.add(self)
        return self

    # ------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """Path of the file, or what kind of memory it is."""
        return self._medium.name if isinstance(self._medium, FileMedium) else self._name

    @property
    def uuid(self) -> uuid.UUID:
        """Identity of the heap, kept in its file."""
        return uuid.UUID(bytes=self._identity)

    @property
    def durability(self) -> str:
        """``"power"``, ``"process"``, or ``"none"`` in anonymous memory."""
        if isinstance(self._medium, FileMedium):
            return self._medium.header.superblock.durability.name.lower()
        return "none"

    @property
    def roots(self) -> Roots:
        """Names by which the heap is entered again: a mapping of str to offset, which keeps it."""
        return Roots(self._root_store, _Guard(self))

    def fileno(self) -> int:
        """Descriptor of the file or the shared memory.

        Raises
        ------
        UsageError
            The heap has none, or is closed.
        """
        self._require()
        if not isinstance(self._medium, FileMedium):
            raise UsageError(f"{self._name}: a heap in a file or shared memory expected for fileno")
        return self._medium.fd

    def __repr__(self) -> str:
        """Show what it is, its state and its size."""
        state = State(self._state()).name.lower()
        mapped = self._region.mapped_bytes
        return f"<{type(self).__name__}: {self._name}, {state}, {mapped} bytes mapped>"

    # ------------------------------------------------------------ arenas

    def arena(self, name: str, create: bool = True, *, headroom: int | None = None) -> Arena:
        """Return a named arena of the heap, a new one if there is none of that name.

        Parameters
        ----------
        name : str
            1 to 31 bytes of UTF-8.
        create : bool
            Make it if need be.
        headroom : int, optional
            Bytes of address space to keep free for its growth, if it is not open yet. By default
            that of the heap, at most 256 GiB.

        Raises
        ------
        KeyError
            There is none, and `create` is false.
        UsageError
            The name does not fit; one is to be made in a heap that is read-only.
        OutOfSpaceError
            There are 255 already, or no space for the first MiB of one more.
        """
        arena_name_argument(name)
        headroom = headroom_argument(headroom)
        self._require()
        if index_of(self._medium.arenas, name) is None:
            if not create:
                raise KeyError(name)
            self._require(write=True)
        return self._look(self._arena_named, name, headroom)

    def _arena_named(self, name: str, headroom: int | None) -> Arena:
        index = index_of(self._medium.arenas, name)
        if index is not None:
            return self._arena_at(index, headroom)
        self._require(write=True)
        index, slot = vacancy(self._medium.arenas, name)
        arena = self._arenas[index] = Arena.in_heap(self, index, slot, headroom)
        return arena

    def _arena_at(self, index: int, headroom: int | None = None) -> Arena:
        """Return the live arena in a slot, opened."""
        arena = self._arenas.get(index)
        if arena is None or arena.closed:
            arena = self._arenas[index] = Arena.in_heap(self, index, headroom=headroom)
        return arena

    def arenas(self) -> list[str]:
        """Return the names of the arenas, sorted."""
        self._upkeep_if_due()
        self._require()
        return sorted(live_names(self._medium.arenas))

    def _spaces(self) -> tuple[Engine, ...]:
        return (self, *(arena for arena in list(self._arenas.values()) if not arena.closed))

    def _all_spaces(self) -> list[BlockSpace]:
        """Return the default arena and all others, opened."""
        self._require()
        return self._look(self._open_all)

    def _open_all(self) -> list[BlockSpace]:
        named = live_names(self._medium.arenas).values()
        return [self, *(self._arena_at(index) for index in named)]

    def _recall_arenas(self) -> None:
        for arena in self._arenas.values():
            arena.recall(State(self._state()))
        medium = self._medium
        if isinstance(medium, AnonymousMedium):  # what was made and nobody has is not opened again
            for index in live_names(medium.arenas).values():
                if index not in self._arenas or self._arenas[index].closed:
                    medium.arenas[index] = medium.arenas[index].dropped()

    def _arena_of(self, offset: int) -> Engine | None:
        index = offset >> ARENA_BITS
        if index == 0 or self._state() > State.READONLY:
            return None
        arena = self._arenas.get(index)
        if arena is not None and not arena.closed:
            return arena
        return self._look(self._live_arena_at, index) if self._is_live(index) else None

    def _space_at(self, offset: int) -> Engine | None:
        index = offset >> ARENA_BITS
        return self if index == 0 else self._live_arena_at(index)

    def _is_live(self, index: int) -> bool:
        slot = self._medium.arenas.get(index)
        return slot is not None and slot.state == ArenaState.LIVE

    def _live_arena_at(self, index: int) -> Arena | None:
        """Return an arena, unless it was dropped while we waited for the lock."""
        return self._arena_at(index) if self._is_live(index) else None

    def trim(self) -> int:
        """Give free space of all arenas back, as `Arena.trim` does for one."""
        self._require(write=True)
        return sum(self._each(self._all_spaces(), BlockSpace.trim))

    def stats(self) -> HeapStats:
        """Return how large and how full the heap is, all arenas together.

        O(mappings), and O(units) the first time. A reader that was attached beside a writer looks
        at the heap as it is now; HeapBusyError if the writer gives it no moment for that.
        """
        if self._is_beside:
            now = self._look_anew(Heap._stats_of_all)
            views = sum(each._live_views() for each in self._spaces())
            return replace(now, live_views=views, headroom=self._region.headroom)
        return self._stats_of_all()

    def _stats_of_all(self) -> HeapStats:
        spaces = self._all_spaces()
        self._each(spaces, lambda space: space._look(space._supply.read_all))  # which maps tables
        listed = insight.list_mappings()
        return total(self._each(spaces, lambda space: space._stats_as_listed(listed)))

    def check(self) -> CheckReport:
        """Verify every structure against every other, while no thread changes them. O(units).

        Returns
        -------
        CheckReport
            True if nothing was found; its `findings` are sentences.

        Raises
        ------
        HeapBusyError
            The heap was attached beside a writer, which gives it no moment for a look.
        """
        return self._look_anew(Heap._check_all) if self._is_beside else self._check_all()

    def _check_all(self) -> CheckReport:
        with self.paused():
            reports = self._each(self._all_spaces(), BlockSpace.check)
            return joined(reports, self._look(self._check_arenas))

    def _check_arenas(self) -> list[str]:
        medium = self._medium
        places = misplaced_segments(medium) if isinstance(medium, FileMedium) else []
        return places + lost_roots(self.roots, medium.arenas)

    def _each(self, spaces: list[BlockSpace], ask: Callable[[BlockSpace], T]) -> list[T]:
        """Ask arenas one by one, without those that are dropped meanwhile."""
        answers = []
        for space in spaces:
            try:
                answers.append(ask(space))
            except UsageError:
                if space is self or not space.closed or self.closed:
                    raise
        return answers

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ``(offset, usable size)`` of the live blocks of all arenas, by offset.

        Blocks that come or go while it runs may or may not be in it. O(1) memory.
        """
        if self._is_beside:
            yield from self._look_anew(lambda now: list(now._blocks_of_all()))
        else:
            yield from self._blocks_of_all()

    def explain(self, size: int, align: int = GRANULE, refusal: str = "") -> Explanation:
        """Tell whether `size` bytes could be allocated now, what refuses, and what would help."""
        if self._is_beside:
            return self._look_anew(lambda now: BlockSpace.explain(now, size, align, refusal))
        return BlockSpace.explain(self, size, align, refusal)

    def _look_anew(self, ask: Callable[[Heap], T]) -> T:
        """Ask the heap as it is in the file now: this one has it as it was when it was attached."""
        self._require()

        def look() -> T:
            with Heap.attach(self.fileno(), headroom=0) as now:
                return ask(now)

        return look_beside_writer(self.fileno(), self._name, look, _is_sound)

    def _blocks_of_all(self) -> Iterator[tuple[int, int]]:
        for space in sorted(self._all_spaces(), key=lambda each: each._origin):
            try:
                yield from BlockSpace.blocks(space)
            except UsageError:
                if space is self or not space.closed or self.closed:
                    raise

    # ------------------------------------------------------------ durability, end

    def transaction(self, *, durable: bool | None = None) -> Transaction:
        """Begin a transaction: changes that become visible together, or not at all.

        Parameters
        ----------
        durable : bool, optional
            Whether its commit waits until it would survive a power failure; if left out, it does in
            a power heap. False: it survives the end of the process at once, and a power failure
            together with the next commit that waits, or `sync`. True in a process heap: the commit
            ends with a `sync`.

        Returns
        -------
        Transaction
            A context manager. Inside of an open transaction of this thread it is a savepoint of
            that one, with the same calls.

        Raises
        ------
        UsageError
            The heap is closed, read-only or forked.
        """
        if not self._is_ready():
            self._require(write=True)
        durable = durable if durable is None else bool(durable)  # first: it may begin another one
        while (outer := self._log._outer()) is not None:
            if outer is not False:
                return cast("Transaction", Savepoint(cast("Transaction", outer)))
            self._await_gate()
            self._require(write=True)
        transaction = Transaction(self, self._log, self._is_power if durable is None else durable)
        if durable and not self._is_power:
            transaction._pending_roots = {}  # its commit is not for C
        return transaction

    def sync(self) -> None:
        """Wait until everything stored so far is on the medium.

        In anonymous memory, and in a heap that was opened to read, there is nothing to do.

        In a power heap it waits until no other thread has a transaction that changes committed
        bytes. In such a transaction of its own thread it is no durable point for what was stored
        outside of transactions: what its snapshots keep in the log may be replayed over that.

        Raises
        ------
        DurabilityError
            The system could not write it back. The heap is read-only from now on.
        """
        self._upkeep_if_due()
        self._require(write=not self.readonly)
        if isinstance(self._medium, FileMedium) and not self.readonly:
            medium = self._medium
            self._without_snapshots(lambda: self._look(self._sync_locked, medium))

    def _sync_locked(self, medium: FileMedium) -> None:
        try:
            if self._becomes_clean(medium):
                self._mark_closed(medium, medium.identity)
            else:
                medium.sync()
        except DurabilityError:
            self._poison_if_sync_failed()
            raise

    def snapshot(self, path: AnyPath, *, new_identity: bool = False, replace: bool = False) -> None:
        """Copy the heap, as it is now, into a new file, which opens as a closed heap.

        It waits until the transactions that other threads have open end, for 5 seconds at most;
        others begin when the copy is made. What is stored through views without a transaction may
        or may not be in the copy. Holes of the file stay holes; where the file system can, blocks
        are shared until they are changed.

        Parameters
        ----------
        path : path
            Of the copy.
        new_identity : bool
            Give it a uuid of its own; it keeps that of this heap otherwise, as a copy by ``cp``.
        replace : bool
            Put it in the place of a file that is there.

        Raises
        ------
        HeapExistsError, HeapNotFoundError, HeapPermissionError
            A file is there; its directory is not; no permission. There is no copy.
        HeapBusyError
            Somebody has the heap open that is to be replaced, as this process has its own.
        UsageError
            The heap is not in a file, or is read beside its writer; a transaction is open still;
            or other threads changed a ``process`` heap all the time. There is no copy.
        OutOfSpaceError, DurabilityError
            No room for it; a sync failed.
        """
        place = path_argument(path)
        self._require(write=not self.readonly)
        medium = self._medium
        if not isinstance(medium, FileMedium) or medium.beside:
            raise UsageError(f"{self._name}: a heap in a file, or its writer, expected")
        options = {"new_identity": new_identity, "replace_file": replace}
        with refusals(f"snapshot {str(place)!r}", str(place)):
            if self.readonly:
                fd = self._look(lambda: os.dup(medium.fd))  # others may close the heap meanwhile
                try:
                    _copy_as_read(fd, medium, place, options)
                finally:
                    os.close(fd)
                return
            with self._transactions_ended():
                self._look(self._snapshot_locked, medium, place, options)

    def _await_gate(self) -> None:
        self._require_no_change()
        self._gate.wait()

    @contextmanager
    def _transactions_ended(self, seconds: float | None = None) -> Iterator[None]:
        """Let the transactions of other threads end, and none begin while the block runs."""
        seconds = gate.PATIENCE if seconds is None else seconds
        self._require_no_change()
        if self._log._current() is not None:  # of this thread: the caller refuses
            yield
            return
        with self._gate.shut(Shut.BEGIN):
            self._gate.let_transactions_end(seconds)
            yield

    def _snapshot_locked(self, medium: FileMedium, path: Path, options: dict[str, Any]) -> None:
        if transactions := begun_in(self._log):
            raise UsageError(
                f"{self._name}: no open transaction expected at a snapshot, {len(transactions)} "
                f"found, of {owners_of(transactions)}"
            )
        log = self._redo()
        assert log is not None, "a heap in a file that may be changed has a log"
        log.append(b"", 0, medium.file_end)
        with log.frozen():
            if not medium.is_power:  # bare calls pass no log: they ask for use, and wait
                self._set_states(State.CLEAN)
            log.checkpoint()
            copy_heap_file(
                medium.fd, path, medium.header.superblock, medium.segments.values(),
                medium.file_end, require_ours=medium.require_ours, **options,
            )  # fmt: skip

    def close(self) -> None:
        """Sync, mark the file as closed, unmap. Closing twice is allowed.

        It waits until the transactions that other threads have open end, for 5 seconds at most;
        none begins meanwhile.

        Raises
        ------
        BufferError
            Views or arrays of the heap are alive, or a transaction is open still; it stays open.
        DurabilityError
            The last sync failed; the heap is closed.
        """
        if self._state() == State.FORKED:
            self._set_state(State.CLOSED)
            open_heaps.discard(self)
        if self._state() == State.CLOSED and self not in open_heaps:
            return
        if self._state() != State.CLOSED:
            self._require_unviewed()
        with self._transactions_ended():  # an interrupt may have left it half closed
            self._alone(self._close_locked)

    def _close_locked(self) -> None:
        if self._state() != State.CLOSED:
            self._require_unused()
            try:
                self._end_calls()
            except (PmemHeapError, BufferError):
                raise
            except BaseException:
                self._medium.in_doubt = True
                raise
        self._close_parts()

    def _end_calls(self) -> None:
        try:
            if self._medium.in_doubt:
                self._rebuild()
            self._end_log()
        except PmemHeapError:
            self._shut_all()
            self._close_parts()
            raise
        self._shut_all()

    def _require_unused(self) -> None:
        self._require_unviewed()
        if transactions := begun_in(self._log):
            raise BufferError(
                f"{self._name}: no open transaction expected at close, {len(transactions)} found, "
                f"of {owners_of(transactions)}"
            )

    def _require_unviewed(self) -> None:
        views = sum(space._live_views() for space in self._spaces())
        if views:
            raise self._viewed_at_close(views)

    def _shut_all(self) -> None:
        """Let no call go on, unless there are views after all."""
        if views := self._shut([*self._spaces()[1:]]):
            raise self._viewed_at_close(views)

    def _viewed_at_close(self, views: int) -> BufferError:
        return BufferError(
            f"{self._name}: no live views expected at close, {views} found: "
            f"{viewed_blocks(self._spaces())}"
        )

    def _close_parts(self) -> None:
        """Give everything back; what an interrupt has left out is done by the next call."""
        for arena in self._arenas.values():
            arena.close_with_heap()
        self._log._detach()
        self._region.close()
        try:
            if isinstance(self._medium, FileMedium):
                self._medium.close()
        finally:  # after an interrupt its file may be open still: then the next call goes on
            if getattr(self._medium, "fd", -1) < 0:
                open_heaps.discard(self)

    def _rest(self) -> None:
        """Let the file be as if the heap was closed, at the end of the interpreter.

        Exit functions that come later, and other threads, can read it. A change says that it is in
        use again, and then it is closed when the last reference goes.
        """
        if self._state() <= State.CLEAN and isinstance(self._medium, FileMedium):
            with self._transactions_ended(_EXIT_SECONDS):
                self._alone(lambda: self._rest_locked(cast("FileMedium", self._medium)))

    def _rest_locked(self, medium: FileMedium) -> None:
        if self._state() > State.CLEAN or medium.is_clean:
            return
        self._log._abort_all()
        with suppress(DurabilityError):  # the call that met it first has raised it
            if medium.in_doubt:
                self._rebuild()
            self._end_log()
            if not medium.sync_failed:
                self._mark_closed(medium, FileIdentity())

    def _mark_in_use_locked(self) -> None:
        BlockSpace._mark_in_use_locked(self)
        if is_exiting():  # no collector comes any more that finds a circle
            for arena in self._arenas.values():
                arena.release_heap()

    def __del__(self) -> None:
        """Close a heap that is dropped; memory stays for as long as views of it live."""
        if hasattr(self, "_log"):
            self._let_go()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, value: BaseException | None, traceback: object) -> None:
        """Close; an exception that leaves the block is not replaced: see `close`."""
        end_with(value, self.close)


def _is_sound(found: object) -> bool:
    return not isinstance(found, CheckReport) or bool(found)


class _Guard:
    """The methods of a heap that its roots call."""

    __slots__ = ("_heap",)

    def __init__(self, heap: Heap) -> None:
        self._heap = heap

    def require(self, *, write: bool) -> None:
        heap = self._heap
        heap._upkeep_if_due()
        if write:
            heap._require(write=True)
        else:
            heap._require_open()
        if heap._medium.in_doubt and not heap._is_changing():
            heap._look(lambda: None)

    def alone(self, store: RootStore, work: Callable[[Change], T]) -> T:
        heap = self._heap

        def change(puts: dict[str, RootSlot], drops: set[str]) -> None:
            rooted.change(heap, puts, drops, lambda: store.change_roots(puts, drops))

        return heap._serve(work, change)


def _copy_as_read(fd: int, medium: FileMedium, path: Path, options: dict[str, Any]) -> None:
    """Copy a heap that is only read; what its log says is brought home in the copy."""
    copy_heap_file(
        fd, path, medium.header.superblock, medium.segments.values(), medium.file_end,
        require_ours=medium.require_ours, recover=None if medium.is_clean else _open_and_close,
        **options,
    )  # fmt: skip


def _open_and_close(path: Path) -> None:
    Heap.open(path, decay=None).close()


def open_heap(path: AnyPath, flag: str = "r", **options: Any) -> Heap:
    """Open a heap file as `dbm` does.

    Parameters
    ----------
    path : path
        Of the file.
    flag : {"r", "w", "c", "n"}
        Open to read; open to write; the same, and create it if it is missing; create it anew.
    **options
        As `Heap.open`, and `Heap.create` for ``durability``.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with open_heap(os.path.join(directory, "data.heap"), "c") as heap:
    ...         heap.roots["first"] = heap.malloc(10)
    ...     with open_heap(os.path.join(directory, "data.heap")) as heap:
    ...         heap.usable_size(heap.roots["first"])
    16
    """
    if flag == "n":
        return Heap.create(path, replace=True, **options)
    if flag == "c" and not os.path.exists(path_argument(path)):
        return Heap.create(os.path.realpath(path) if os.path.islink(path) else path, **options)
    if flag in {"w", "c", "r"}:
        options.pop("durability", None)
        return Heap.open(path, readonly=flag == "r", **options)
    raise UsageError(f"flag: 'r', 'w', 'c' or 'n' expected, {flag!r} found")
