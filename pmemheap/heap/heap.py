"""Heap: blocks in memory that grows without moving. The face of the package.

    Heap          making, arenas, durability and end
    HasTotals     all arenas together
    HasShadow     other strategies beside it
    HasSnapshots  as of a commit
    Described     what it is: name, identity, roots
    HasScratch    regions
    BlockSpace    handles and arrays, layers, space and insight
    HeapCore (C)  malloc, free, realloc, view: all that keeps the GIL

A call that raises has changed nothing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Self, cast

from pmemheap.file import openfile
from pmemheap.file.recovery import recover
from pmemheap.heap import copying, ending, making, syncing, waiting
from pmemheap.heap.arguments import (
    ALIGN_MOST,
    SIZE_MOST,
    AnyPath,
    DurabilityName,
    decay_argument,
    durability_argument,
    headroom_argument,
    limit_argument,
    path_argument,
    timeout_argument,
)
from pmemheap.heap.budgeted import joined
from pmemheap.heap.living import open_heaps
from pmemheap.heap.readers import dismiss, with_readers
from pmemheap.heap.strategies import General, Strategy, strategy_argument
from pmemheap.heap.transaction import Savepoint, Transaction
from pmemheap.heap.whole import HasTotals
from pmemheap.native.constants import State
from pmemheap.progress import Progress, told
from pmemheap.protocols import Space
from pmemheap.refusals import end_with
from pmemheap.space.asked import prototype_of
from pmemheap.space.budget import Budget

__all__ = ["ALIGN_MOST", "DECAY_SECONDS", "SIZE_MOST", "Heap"]

DECAY_SECONDS = 10.0


class Heap(HasTotals):
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

    __slots__ = ()

    # ------------------------------------------------------------ making

    def __init__(self, *_: object, **__: object) -> None:
        """Refuse: a heap needs memory, and each kind has its own maker."""
        raise TypeError(
            "Heap: Heap.open(path) for a file that is there, Heap.create(path) for a new one, "
            'pmemheap.open(path, "c") for either, Heap.anonymous(), Heap.shared() or '
            "Heap.attach(fd) expected, found Heap(...)"
        )

    @classmethod
    def anonymous(  # noqa: PLR0913 -- options, all by name
        cls,
        *,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
        extents: Space | None = None,
        budget: Budget | None = None,
        strategy: Strategy | None = None,
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
        extents : Space, optional
            Says where in free space units are taken, such as ``pmemheap.FirstFit()``, in the arenas
            of the heap too, which get copies. It is not kept in a file. By default best fit.
        budget : Budget, optional
            Limits what this heap and others have together.
        strategy : Strategy, optional
            Where the blocks come from, except for those of named arenas: `General`, `Rows`, `Ring`
            or `Placed`, the last one here alone: no file, and no shared memory, has it. A heap of
            rows, or a ring, has besides what an arena of these has.

        Returns
        -------
        Heap
            Empty; a context manager that closes it.

        Raises
        ------
        UsageError
            An option is out of range.
        OutOfSpaceError
            No address space for the first MiB.
        """
        decay, limit = decay_argument(decay), limit_argument(limit)
        headroom = headroom_argument(headroom)
        chosen, wish = prototype_of(extents), strategy_argument(strategy)
        return joined(making.over_memory(cls, limit, headroom, decay, chosen, wish), budget)

    @classmethod
    def shared(  # noqa: PLR0913 -- options, all by name
        cls,
        *,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
        extents: Space | None = None,
        budget: Budget | None = None,
        strategy: Strategy | None = None,
        readers: bool = False,
    ) -> Self:
        """Return a new heap in shared memory (a memfd) that other processes can attach to.

        It lives until the last process that has it open, or holds its `fileno`, lets it go.
        Parameters and exceptions as `anonymous`, and `readers` as of `open`.
        """
        headroom, decay = headroom_argument(headroom), decay_argument(decay)
        chosen, kept = prototype_of(extents), strategy_argument(strategy, in_file=True) or General()
        limit = limit_argument(limit)
        medium = openfile.create_memory("pmemheap", limit=limit, strategy=kept.packed())
        self = making.over_file(cls, medium, headroom, decay, chosen, kept, fresh=True)
        return with_readers(self if budget is None else joined(self, budget), readers)

    @classmethod
    def create(  # noqa: PLR0913 -- options of a file, all by name
        cls,
        path: AnyPath,
        *,
        durability: DurabilityName | None = None,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
        replace: bool = False,
        extents: Space | None = None,
        budget: Budget | None = None,
        strategy: Strategy | None = None,
        readers: bool = False,
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
        headroom, decay, extents, budget
            As `anonymous`.
        strategy : Strategy, optional
            As `anonymous`. It is kept in the file.
        readers : bool
            As `open`.

        Returns
        -------
        Heap
            Empty, and open to be written.

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
        path = path_argument(path)
        chosen, kept = prototype_of(extents), strategy_argument(strategy, in_file=True) or General()
        medium = openfile.create(
            path, durability_argument(durability), limit=limit_argument(limit),
            replace_file=replace, strategy=kept.packed(),
        )  # fmt: skip
        self = making.over_file(cls, medium, headroom, decay, chosen, kept, fresh=True)
        with_readers(joined(self, budget), readers)
        try:
            medium.link_name(replace_file=replace)
        except BaseException as error:
            end_with(error, self.close)
            raise
        return self

    @classmethod
    def open(  # noqa: PLR0913 -- options of a file, all by name
        cls,
        path: AnyPath,
        *,
        readonly: bool = False,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
        extents: Space | None = None,
        budget: Budget | None = None,
        strategy: Strategy | None = None,
        readers: bool = False,
        timeout: float = 0.1,
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
        headroom, decay, extents, budget
            As `anonymous`.
        strategy : Strategy, optional
            What it must have been created with; if left out, any will do.
        readers : bool
            Let other processes read beside this one, each in a snapshot: see `read`. As long as
            there are any, what they may look at is copied when it changes, which makes changes of
            containers slower. Those that read already go on; it waits up to 5 seconds for
            snapshots that they hold. With `readonly`: let a writer come later, and follow it.
        timeout : float
            Of a reader: seconds for which it waits for a writer that lets no readers in, since it
            is just opening the heap, or for ever; or whose transaction changes a map in place.

        Returns
        -------
        Heap
            What was committed is in it; one that was cut off is recovered first.

        Raises
        ------
        UsageError
            It has another strategy.
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
        chosen, wish = prototype_of(extents), strategy_argument(strategy, in_file=True)
        medium = openfile.open_path(
            path_argument(path), readonly=readonly, limit=limit_argument(limit),
            recover=partial(recover, headroom=headroom), readers=readers,
            timeout=timeout_argument(timeout) if readonly else 0.0,
        )  # fmt: skip
        self = making.over_file(cls, medium, headroom, decay, chosen, wish, fresh=False)
        return with_readers(self if budget is None else joined(self, budget), readers)

    @classmethod
    def attach(  # noqa: PLR0913 -- options of a file, all by name
        cls,
        fd: int,
        *,
        readonly: bool = True,
        limit: int | None = None,
        headroom: int | None = None,
        decay: float | None = DECAY_SECONDS,
        readers: bool = False,
    ) -> Self:
        """Open the shared heap behind a descriptor, which stays the caller's.

        Parameters
        ----------
        fd : int
            `fileno` of the heap, inherited from or sent by another process.
        readonly : bool
            Read what the heap holds now, also beside its writer: what the writer frees or changes
            later is not kept from changing, and its growth is not followed, but `stats`, `check`,
            `blocks` and `explain` look at the heap anew. Beside a writer with ``readers=True``
            snapshots are kept and growth is followed: see `read`. False: become the writer, which
            only one process can be.
        readers : bool
            Of a writer, as of `open`: those that read already go on.

        Returns
        -------
        Heap
            With a descriptor of its own.

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
        if readonly:
            return making.attached_reader(cls, fd, limit_argument(limit), headroom, decay)
        made = making.attached(cls, fd, limit_argument(limit), headroom, decay, readers=readers)
        return with_readers(made, readers)

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
        shared = self._space.shared
        if not self._is_ready():
            self._space.require(write=True)
        log = shared.log
        durable = durable if durable is None else bool(durable)  # first: it may begin another one
        while (outer := log.outer()) is not None:
            if outer is not False:
                return cast("Transaction", Savepoint(cast("Transaction", outer)))
            waiting.await_gate(self._space)
            self._space.require(write=True)
        is_power = shared.is_power
        transaction = Transaction(self, log, is_power if durable is None else durable)
        if durable and not is_power:
            transaction._pending_roots = {}  # private: its commit is not for C
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
        syncing.sync(self._space)

    def snapshot(
        self,
        path: AnyPath,
        *,
        new_identity: bool = False,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> None:
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
        progress : Progress, optional
            Is told of the bytes of the file. If it raises, there is no copy.

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
        with told(progress) as tell:
            options = {"new_identity": new_identity, "replace_file": replace, "progress": tell}
            copying.copy(self._space, path_argument(path), options, _open_and_close)

    def close(self) -> None:
        """Sync, mark the file as closed, unmap. Closing twice is allowed.

        A file gets smaller first if most of its blocks are free, unless `decay` is None.

        It waits until the transactions that other threads have open end, for 5 seconds at most;
        none begins meanwhile.

        Raises
        ------
        BufferError
            Views or arrays of the heap are alive, or a transaction is open still; it stays open.
        DurabilityError
            The last sync failed; the heap is closed.
        """
        core = self._space.core
        if core.state == State.FORKED:
            core.state = State.CLOSED
            open_heaps.discard(self)
        if core.state != State.CLOSED or self in open_heaps:
            ending.close(self._space, self._tidy, lambda: open_heaps.discard(self))

    def _tidy(self) -> None:
        dismiss(self)
        ending.give_back_much(self._space)

    def __del__(self) -> None:
        """Close a heap that is dropped; memory stays for as long as views of it live."""
        if hasattr(self, "_space"):
            ending.let_go(self._space)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, value: BaseException | None, traceback: object) -> None:
        """Close; an exception that leaves the block is not replaced: see `close`."""
        end_with(value, self.close)


def _open_and_close(path: Path) -> None:
    Heap.open(path, decay=None).close()
