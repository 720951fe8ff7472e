"""Heap: blocks in memory that grows without moving. The face of the package.

    malloc(n) ---> C core: size class, run, bit ------------------------------> offset
                     | no run, or large                                   |
                     v                                                    |
               _malloc_slow ---> supply: extents, virgin units, growth ---+

`Heap` derives from the C type `HeapCore`, whose methods answer most calls alone and keep the GIL.
What they cannot answer arrives here in a method named ``_..._slow``: a request for units, a large
block, a bad argument. Every slow call that changes the volatile structures runs in `_serve`, under
one lock; if it is torn out by an interrupt, the next one rebuilds them first.

A call that raises has changed nothing.
"""

from __future__ import annotations

import atexit
import math
import operator
import os
import threading
import time
import uuid
import warnings
import weakref
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from pmemheap import handles, insight, native
from pmemheap.errors import (
    CorruptHeapError,
    DurabilityError,
    OutOfSpaceError,
    PmemHeapError,
    UsageError,
)
from pmemheap.handles import Block
from pmemheap.heapfile import FileMedium
from pmemheap.insight import CheckReport, Explanation, HeapStats
from pmemheap.layout import Durability, RootSlot
from pmemheap.region import DEFAULT_HEADROOM, AnonymousMedium, Region
from pmemheap.roots import MemoryRoots, Roots, RootStore
from pmemheap.slabs import CLASSES, packed_classes
from pmemheap.supply import POOL_MOST, Supply
from pmemheap.units import GRANULE, UNIT, GiB, is_power_of_two

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["ALIGN_MOST", "DECAY_SECONDS", "SIZE_MOST", "Heap", "open_heap"]

ALIGN_MOST = GiB
SIZE_MOST = 1 << 55
DECAY_SECONDS = 10.0
DECAY_SHARE = 1 / 8
_DECAY_LEAST_UNITS = 256
_DECAY_UNITS_SHARE = 16
_CLASS_SIZES = [one.size for one in CLASSES]

P = ParamSpec("P")
T = TypeVar("T")


class _State(IntEnum):
    """What the public calls may do; C knows the same numbers."""

    OPEN = 0
    READONLY = 1
    FORKED = 2
    CLOSED = 3


_OPEN = int(_State.OPEN)

class _Code(IntEnum):
    """Failures of the C core."""

    REFILL = -1
    LARGE = -2
    BAD_OFFSET = -3
    PINNED = -4
    NOMEM = -5
    MOVE = -6
    UPSTREAM = -7
    CORRUPT = -8


_LARGE = int(_Code.LARGE)


class Heap(native.HeapCore):
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

    __slots__ = (
        "__weakref__",
        "_decay_seconds",
        "_decayed_at",
        "_identity",
        "_lock",
        "_medium",
        "_name",
        "_owner",
        "_region",
        "_roots",
        "_supply",
        "_unsettled",
    )

    # ------------------------------------------------------------ making

    def __init__(self) -> None:
        """Refuse: a heap needs memory, and each kind has its own maker."""
        raise TypeError(
            "Heap: made by Heap.anonymous, Heap.shared, Heap.create, Heap.open or Heap.attach"
        )

    @classmethod
    def anonymous(
        cls,
        *,
        limit: int | None = None,
        headroom: int = DEFAULT_HEADROOM,
        decay: float | None = DECAY_SECONDS,
    ) -> Self:
        """Make a heap in private memory of this process.

        Parameters
        ----------
        limit : int, optional
            Bytes of memory that the heap may map, tables included.
        headroom : int
            Bytes of address space to keep free for growth. A wish; costs no memory.
        decay : float or None
            Seconds after which free space goes back to the system by itself; None: only on `trim`.

        Raises
        ------
        UsageError
            An option is out of range.
        OutOfSpaceError
            No address space for the first MiB.
        """
        decay = _decay(decay)
        medium = AnonymousMedium(_limit(limit))
        region = Region(medium, _headroom(headroom))
        region.grow(1, 1)
        return cls._over(medium, region, uuid.uuid4().bytes, "anonymous heap", decay, fresh=True)

    @classmethod
    def shared(
        cls,
        *,
        limit: int | None = None,
        headroom: int = DEFAULT_HEADROOM,
        decay: float | None = DECAY_SECONDS,
    ) -> Self:
        """Make a heap in shared memory (a memfd) that other processes can attach to.

        It lives until the last process that has it open, or holds its `fileno`, lets it go.
        Parameters and exceptions as `anonymous`.
        """
        headroom, decay = _headroom(headroom), _decay(decay)
        medium = FileMedium.create_memory("pmemheap", limit=_limit(limit))
        return cls._over_file(medium, headroom, decay, fresh=True)

    @classmethod
    def create(  # noqa: PLR0913 -- options of a file, all by name
        cls,
        path: str | os.PathLike[str],
        *,
        durability: str | None = None,
        limit: int | None = None,
        headroom: int = DEFAULT_HEADROOM,
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
            Bytes that the file may have.
        replace : bool
            Put the new heap in the place of a file that is there.

        Raises
        ------
        UsageError
            The file exists, an option is out of range, or the file system cannot keep the promise.
        OutOfSpaceError
            The disk is full.
        """
        headroom, decay = _headroom(headroom), _decay(decay)
        medium = FileMedium.create(
            _path(path), _durability(durability), limit=_limit(limit), replace_file=replace
        )
        self = cls._over_file(medium, headroom, decay, fresh=True)
        try:
            medium.appear(replace_file=replace)
        except BaseException:
            self.close()
            raise
        return self

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        readonly: bool = False,
        limit: int | None = None,
        headroom: int = DEFAULT_HEADROOM,
        decay: float | None = DECAY_SECONDS,
    ) -> Self:
        """Open the heap in a file; the time does not depend on its size.

        Parameters
        ----------
        path : path
            Of a heap file.
        readonly : bool
            Change nothing, hand out read-only views; any number of readers may do so at a time.

        Raises
        ------
        UsageError
            No such file, no permission, or another process has it open; it is named.
        CorruptHeapError
            The file is not a sound heap; place, expected and found are named.
        """
        headroom, decay = _headroom(headroom), _decay(decay)
        medium = FileMedium.open(_path(path), readonly=readonly, limit=_limit(limit))
        return cls._over_file(medium, headroom, decay, fresh=False)

    @classmethod
    def attach(
        cls,
        fd: int,
        *,
        readonly: bool = True,
        limit: int | None = None,
        headroom: int = DEFAULT_HEADROOM,
        decay: float | None = DECAY_SECONDS,
    ) -> Self:
        """Open the shared heap behind a descriptor, which stays the caller's.

        Parameters
        ----------
        fd : int
            `fileno` of the heap, inherited from or sent by another process.
        readonly : bool
            Read what the heap holds now, also beside its writer: what the writer frees or changes
            later is not kept from changing, and its growth is not followed. False: become the
            writer, which only one process can be.

        Raises
        ------
        UsageError
            Not an open descriptor of a heap; another process is the writer.
        CorruptHeapError
            What the descriptor leads to is not a sound heap.
        """
        headroom, decay = _headroom(headroom), _decay(decay)
        flags = os.O_RDONLY if readonly else os.O_RDWR
        try:
            own = os.open(f"/proc/self/fd/{fd:d}", flags | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, TypeError, ValueError) as error:
            raise UsageError(f"attach: an open descriptor expected, found {fd!r}: {error}") from error
        medium = FileMedium.adopt(
            own, f"descriptor {fd}", readonly=readonly, limit=_limit(limit), beside=True
        )
        return cls._over_file(medium, headroom, decay, fresh=False)

    @classmethod
    def _over_file(
        cls, medium: FileMedium, headroom: int, decay: float | None, *, fresh: bool
    ) -> Self:
        try:
            region = Region(medium, headroom)
            try:
                region.adopt(medium.pieces())
                identity, name = medium.superblock.uuid, f"heap {medium.name!r}"
                return cls._over(medium, region, identity, name, decay, fresh=fresh)
            except BaseException:
                region.close()
                raise
        except BaseException:
            medium.close()
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
        self._medium, self._region, self._identity, self._name = medium, region, identity, name
        self._lock, self._owner, self._unsettled = threading.RLock(), 0, False
        self._configure(*packed_classes())
        bases = (region.base(table) for table in ("data", "bits", "entries", "units"))
        self._attach(*bases, region.lifelines)
        self._supply = Supply(self, region, medium, fresh=fresh)
        store = medium if isinstance(medium, FileMedium) else MemoryRoots()
        self._roots = Roots(store, _Guard(self))
        self._decay_seconds = decay
        self._decayed_at = time.monotonic()
        self._arm_decay()
        readonly = isinstance(medium, FileMedium) and medium.readonly
        self._set_state(_State.READONLY if readonly else _State.OPEN)
        handles.living.add(self)
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
            return self._medium.superblock.durability.name.lower()
        return "none"

    @property
    def closed(self) -> bool:
        """Whether the heap was closed."""
        return self._state() == _State.CLOSED

    @property
    def readonly(self) -> bool:
        """Whether the heap was opened for reading."""
        return isinstance(self._medium, FileMedium) and self._medium.readonly

    @property
    def roots(self) -> Roots:
        """Names by which the heap is entered again: a mapping of str to offset."""
        return self._roots

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
        state = _State(self._state()).name.lower()
        return f"<{type(self).__name__}: {self._name}, {state}, {self._region.mapped_bytes} bytes mapped>"

    def address(self, offset: int) -> int:
        """Return the address of the live block at `offset`, for other libraries of this process.

        Keep a view of the block for as long as the address is used: nothing else pins it.
        """
        self.usable_size(offset)
        return self._region.base("data") + offset

    # ------------------------------------------------------------ slow halves of the C calls

    def _malloc_slow(self, size: Any, align: Any = None) -> int:
        nbytes = _size(size)
        alignment = GRANULE if align is None else _alignment(align)
        if self._state() != _OPEN:
            self._require(write=True)
        try:
            return self._serve(self._malloc_locked, nbytes, alignment)
        except OutOfSpaceError as error:
            raise self._enriched(error, nbytes, alignment) from error

    def _malloc_locked(self, size: int, align: int) -> int:
        while True:
            offset = self._try_malloc(size, align)
            if offset >= 0:
                return offset
            if offset == _LARGE:
                return self._malloc_extent(size, align)
            self._raise_code(offset)
            self._supply.refill(_units_for_pool(size))

    def _malloc_extent(self, size: int, align: int = UNIT, *, roomy: bool = False) -> int:
        nunits = -(-size // UNIT)
        start = self._supply.allocate(nunits, max(align // UNIT, 1), roomy=roomy)
        return self._large_make(start, nunits, size)

    def _malloc_many_slow(self, size: Any, count: Any, wants_one: bool) -> int | memoryview:
        nbytes = _size(size)
        blocks = _whole("malloc_many: count", count, 0, (1 << 60) - 1)
        self._require(write=True)
        if not wants_one and not type(size) is type(count) is int:
            return self.malloc_many(nbytes, blocks)
        if not wants_one:
            raise UsageError(f"malloc_many: an open heap expected, {self._name} changed its state")
        return self._malloc_slow(nbytes)

    def _free_slow(self, offset: Any, deferred: Any = None) -> None:
        place = _offset(offset)
        self._require(write=True)
        if type(offset) is not int:
            self.free(place, bool(deferred))
        else:
            self._refuse_free(place, "free")

    def _free_many_slow(self, index: int | None, offsets: Any) -> Any:
        if index is None:
            return _packed(offsets)
        self._require(write=True)
        where = f"free_many, offsets[{index}]"
        if self._free_refusal(offsets) == 0:
            raise UsageError(f"{where}: each block once expected, {offsets:#x} stands there again")
        return self._refuse_free(offsets, where)

    def _refuse_free(self, offset: int, where: str) -> None:
        if self._free_refusal(offset) == _Code.PINNED:
            raise BufferError(
                f"{where}: block at offset {offset:#x}: no live views expected, "
                f"{self._views_of(offset)} found; free(offset, deferred=True) waits for them"
            )
        raise self._no_block(offset, where)

    def _realloc_slow(self, offset: Any, size: Any) -> int:
        place, nbytes = _offset(offset), _size(size)
        self._require(write=True)
        try:
            return self._serve(self._realloc_locked, place, nbytes)
        except OutOfSpaceError as error:
            raise self._enriched(error, nbytes, GRANULE) from error

    def _realloc_locked(self, offset: int, size: int) -> int:
        while True:
            to = self._try_realloc(offset, size)
            if to >= 0:
                return to
            if to == _Code.PINNED:
                raise self._pinned(offset, size)
            if to == _Code.BAD_OFFSET:
                raise self._no_block(offset, "realloc")
            if to == _Code.UPSTREAM and self._extend_block(offset, size):
                return offset
            if to in {_Code.UPSTREAM, _Code.LARGE}:
                return self._move_to_extent(offset, size)
            self._raise_code(to)
            self._supply.refill(_units_for_pool(size, moving=True))

    def _extend_block(self, offset: int, size: int) -> bool:
        """Let a large block grow over what lies behind it outside of the pool."""
        end = (offset + self.usable_size(offset)) // UNIT
        start, stop = end + self._room_after(end), offset // UNIT - -size // UNIT
        if stop <= start or not self._supply.extend(start, stop - start):
            return False
        if self._large_extend(offset, start, stop, size):
            return True
        self._supply.extents.deallocate(start, stop - start)
        return False

    def _move_to_extent(self, offset: int, size: int) -> int:
        if self._views_of(offset):
            raise self._pinned(offset, size)
        to = self._malloc_extent(size, roomy=True)
        refusal = self._move_into(offset, to, size)
        if refusal == 0:
            return to
        self.free(to)  # another thread freed or viewed the block while the heap grew
        raise self._pinned(offset, size) if refusal == _Code.PINNED else self._no_block(offset, "realloc")

    def _pinned(self, offset: int, size: int) -> BufferError:
        return BufferError(
            f"realloc: block at offset {offset:#x}: no live views expected where it must move "
            f"to hold {size} bytes, {self._views_of(offset)} found"
        )

    def _expand_slow(self, offset: Any, size: Any) -> bool:
        place, nbytes = _offset(offset), _size(size)
        self._require(write=True)
        return self._serve(self._expand_locked, place, nbytes)

    def _expand_locked(self, offset: int, size: int) -> bool:
        done = self._try_expand(offset, size)
        if done == _Code.BAD_OFFSET:
            raise self._no_block(offset, "expand")
        if done == _Code.UPSTREAM:
            return self._extend_block(offset, size)
        return done == 0

    def _usable_size_slow(self, offset: Any, _second: Any = None) -> int:
        place = _offset(offset)
        self._require()
        if type(offset) is not int:
            return self.usable_size(place)
        raise self._no_block(place, "usable_size")

    def _view_slow(self, offset: Any, length: Any = None) -> memoryview:
        place = _offset(offset)
        self._require()
        count = usable = self.usable_size(place)
        if length is not None:
            count = _whole(f"view: length of the block at offset {place:#x}", length, 0, usable)
        if type(offset) is not int or type(length) not in {int, type(None)}:
            return self.view(place, count)
        raise self._no_block(place, "view")

    def _decay_due(self) -> None:
        """Look whether space has been free for long; called by `free` now and then."""
        elapsed = time.monotonic() - self._decayed_at
        due = self._decay_seconds is not None and elapsed >= self._decay_seconds
        if due and not self._owner:
            self._decayed_at = time.monotonic()
            try:
                self._serve(self._supply.decay, DECAY_SHARE)
            except PmemHeapError as error:
                if self._state() != _OPEN:
                    return  # another thread closed it
                self._decay_seconds = None
                warnings.warn(f"{self._name}: give-back stopped: {error}", RuntimeWarning, 2)
        self._arm_decay()

    def _arm_decay(self) -> None:
        if self._decay_seconds is None:
            self._set_decay((1 << 64) - 1)
        else:
            units = self._region.nunits // _DECAY_UNITS_SHARE
            self._set_decay(max(units, _DECAY_LEAST_UNITS))

    # ------------------------------------------------------------ the lock

    def _serve(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a change of the volatile structures, alone; repair them first if one was torn out."""
        with self._lock:
            if self._owner:  # the lock let us in, so it is this thread's
                raise UsageError(
                    f"{self._name}: called from a finalizer or signal handler while the heap is "
                    "being changed by the same thread; only free and view may be"
                )
            self._owner = threading.get_ident()
            try:
                if self._state() != _OPEN:
                    self._require()
                if self._unsettled:
                    self._supply.rebuild()
                self._unsettled = True
                try:
                    result = work(*args, **kwargs)
                except (PmemHeapError, BufferError):
                    self._unsettled = False
                    self._heed_failed_sync()
                    raise
                self._unsettled = False
                return result
            finally:
                self._owner = 0

    # ------------------------------------------------------------ refusing

    def _require(self, *, write: bool = False) -> None:
        """Raise what the state of the heap asks for."""
        state = _State(self._state())
        if state == _State.OPEN or (state == _State.READONLY and not write):
            return
        wanted = "writable" if state == _State.READONLY else "open"
        found = {
            _State.READONLY: (
                "it was opened read-only" if self.readonly else "a sync has failed; reopen it"
            ),
            _State.FORKED: "it belongs to the parent process; open it anew in this one",
            _State.CLOSED: "it is closed",
        }[state]
        raise UsageError(f"{self._name}: a {wanted} heap expected, {found}")

    def _raise_code(self, code: int) -> None:
        if code == _Code.CORRUPT:
            raise CorruptHeapError(f"{self._name}: a run with the blocks it counts expected, found none")
        if code == _Code.NOMEM:
            raise MemoryError(f"{self._name}: no memory for the table of views")

    def _no_block(self, offset: int, where: str) -> UsageError:
        """Describe what lies at an offset at which no live block begins."""
        first, end = (unit * UNIT for unit in self._bounds()[:2])
        expected = f"{where}: offset of a live block expected, {offset:#x} found: "
        if not first <= offset < end:
            return UsageError(expected + f"outside of the heap, which is [{first:#x}, {end:#x})")
        if offset % GRANULE:
            return UsageError(expected + f"not a multiple of {GRANULE}")
        return UsageError(expected + insight.describe_place(self, offset))

    def _enriched(self, error: OutOfSpaceError, size: int, align: int) -> OutOfSpaceError:
        if isinstance(error, insight.ExplainedOutOfSpaceError):
            return error
        return insight.ExplainedOutOfSpaceError(str(error), self.explain(size, align, str(error)))

    # ------------------------------------------------------------ handles and arrays

    def alloc(self, size: int, align: int = GRANULE) -> Block:
        """Allocate a block and return a handle to it, which knows when the block is gone.

        Parameters and exceptions as `malloc`.
        """
        offset = self.malloc(size, align)
        try:
            return Block(self, offset, size)
        except BaseException:
            self.free(offset)
            raise

    def block(self, offset: int) -> Block:
        """Return a handle to the live block at `offset`."""
        return Block(self, offset, self.usable_size(offset))

    def ndarray(
        self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = float, align: int = 64
    ) -> np.ndarray[Any, Any]:
        """Allocate a block and return it as a numpy array of zeros.

        The array is a view: the block is freed by ``heap.free(heap.offset_of(array))`` once no
        array of it lives, or before that with ``deferred=True``.
        """
        return handles.new_array(self, shape, dtype, align)

    def ndarray_at(
        self, offset: int, shape: int | tuple[int, ...], dtype: npt.DTypeLike = float
    ) -> np.ndarray[Any, Any]:
        """Return the block at `offset` as a numpy array; UsageError if it is too small."""
        return handles.array_at(self, offset, shape, dtype)

    def offset_of(self, buffer: object) -> int:
        """Return the offset of the block that a view or array of this heap belongs to.

        Raises
        ------
        UsageError
            It is not a buffer of this heap.
        """
        return handles.offset_of(self, buffer)

    # ------------------------------------------------------------ space and insight

    def trim(self) -> int:
        """Give free space back: segments at both ends, pages (and file blocks) in between.

        Returns
        -------
        int
            Bytes that the system counts less: memory, or blocks of the file. O(units of the heap).
        """
        self._require(write=True)
        return self._serve(self._trim_locked)

    def _trim_locked(self) -> int:
        before = self._footprint()
        self._supply.trim()
        return max(0, before - self._footprint())

    def _footprint(self) -> int:
        if isinstance(self._medium, FileMedium):
            return self._medium.allocated()[1]
        return sum(each.resident for each in self._region.residency().values())

    def stats(self) -> HeapStats:
        """Return how large and how full the heap is. O(mappings), and O(units) the first time."""
        self._require()
        return self._serve(insight.stats, self)

    def explain(self, size: int, align: int = GRANULE, refusal: str = "") -> Explanation:
        """Tell whether `size` bytes could be allocated now, what refuses, and what would help."""
        nbytes, alignment = _size(size), _alignment(align)
        self._require()
        return self._serve(insight.explain, self, nbytes, alignment, refusal)

    def check(self) -> CheckReport:
        """Verify every structure against every other. O(units).

        Returns
        -------
        CheckReport
            True if nothing was found; its `findings` are sentences.
        """
        self._require()
        return self._serve(insight.check, self)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ``(offset, usable size)`` of the live blocks, by offset.

        Blocks that come or go while it runs may or may not be in it. O(1) memory.
        """
        self._require()
        self._serve(self._supply.read_all)
        cursor = self._bounds()[0] * (UNIT // GRANULE)
        while True:
            self._require()
            cursor, found = self._blocks(cursor)
            if not found:
                return
            yield from found

    # ------------------------------------------------------------ durability, end

    def sync(self) -> None:
        """Wait until everything stored so far is on the medium; nothing in anonymous memory.

        Raises
        ------
        DurabilityError
            The system could not write it back. The heap is read-only from now on.
        """
        self._require(write=True)
        if isinstance(self._medium, FileMedium):
            self._serve(self._sync_locked, self._medium)

    def _sync_locked(self, medium: FileMedium) -> None:
        try:
            medium.sync()
        except DurabilityError:
            self._heed_failed_sync()
            raise

    def _heed_failed_sync(self) -> None:
        """After a sync that failed nothing may be written any more: the next one would not tell."""
        failed = isinstance(self._medium, FileMedium) and self._medium.sync_failed
        if failed and self._state() == _State.OPEN:
            self._set_state(_State.READONLY)

    def close(self) -> None:
        """Sync, mark the file as closed, unmap. Closing twice is allowed.

        Raises
        ------
        BufferError
            Views or arrays of the heap are alive; it stays open.
        DurabilityError
            The last sync failed; the heap is closed.
        """
        state = self._state()
        if state == _State.CLOSED:
            return
        if state == _State.FORKED:
            self._set_state(_State.CLOSED)
            return
        with self._lock:
            if self._owner:
                raise UsageError(f"{self._name}: closed from inside of one of its own calls")
            if self._state() == _State.CLOSED:
                return
            views = self._shut()
            if views:
                raise BufferError(
                    f"{self._name}: no live views expected at close, {views} found"
                )
            handles.living.discard(self)
            self._region.close()
            if isinstance(self._medium, FileMedium):
                self._medium.close()

    def _let_go(self) -> None:
        """Close as far as views that are still alive allow: they keep the memory, not the file."""
        if self._state() > _State.READONLY:
            return
        self._set_state(_State.CLOSED)
        if isinstance(self._medium, FileMedium):
            self._medium.close()

    def _after_fork_in_child(self) -> None:
        """Forbid the child to use the parent's heap, and keep its stores out of it."""
        if self._state() == _State.CLOSED:
            return
        self._set_state(_State.FORKED)
        self._lock, self._owner = threading.RLock(), 0
        if isinstance(self._medium, FileMedium):
            try:
                self._medium.detach_in_child()
                self._region.privatize()
            finally:
                self._medium.abandon_in_child()

    def __del__(self) -> None:
        """A heap that is dropped is closed; memory stays for as long as views of it live."""
        if hasattr(self, "_medium"):
            self._let_go()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


class _Guard:
    """Lets the roots ask the heap for permission without keeping it alive in a cycle."""

    __slots__ = ("_heap",)

    def __init__(self, heap: Heap) -> None:
        self._heap = weakref.ref(heap)

    def _open(self) -> Heap:
        heap = self._heap()
        if heap is None:
            raise UsageError("roots: an open heap expected, it is gone")
        return heap

    def require(self, *, write: bool) -> None:
        self._open()._require(write=write)

    def put(self, store: RootStore, root: RootSlot) -> None:
        self._open()._serve(store.put_root, root)

    def drop(self, store: RootStore, name: str) -> None:
        self._open()._serve(store.drop_root, name)


# ---------------------------------------------------------------- arguments


def _whole(what: str, value: object, least: int, most: int) -> int:
    try:
        number = int.__index__(operator.index(value))  # type: ignore[arg-type]
    except TypeError as error:
        raise TypeError(f"{what}: a whole number expected, found {value!r}") from error
    if not least <= number <= most:
        raise UsageError(f"{what}: {least} to {most} expected, {number} found")
    return number


def _size(value: object) -> int:
    if type(value) is int and 0 < value <= SIZE_MOST:
        return value
    return _whole("size", value, 1, SIZE_MOST)


def _offset(value: object) -> int:
    return _whole("offset", value, 0, (1 << 63) - 1)


def _alignment(value: object) -> int:
    number = _whole("align", value, 1, ALIGN_MOST)
    if not is_power_of_two(number):
        raise UsageError(f"align: a power of two up to {ALIGN_MOST} expected, {number} found")
    return number


def _limit(value: object) -> int | None:
    return None if value is None else _whole("limit", value, 0, (1 << 63) - 1)


def _headroom(value: object) -> int:
    return _whole("headroom", value, 0, 1 << 46)


def _decay(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)):
        raise TypeError(f"decay: seconds or None expected, found {value!r}")
    if math.isnan(value):
        raise UsageError("decay: seconds, 0 or more, or None expected, nan found")
    return max(0.0, float(value))


def _path(value: str | os.PathLike[str]) -> Path:
    path = Path(value)
    try:
        sound = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        sound = False
    if not sound:
        raise UsageError(f"path: one that the system can have expected, found {str(path)!r}")
    return path


def _durability(value: object) -> Durability | None:
    if value is None:
        return None
    try:
        return Durability[str(value).upper()]
    except KeyError:
        raise UsageError(f"durability: 'power' or 'process' expected, {value!r} found") from None


def _packed(offsets: Iterable[object]) -> array[int]:
    return array("Q", (_offset(offset) for offset in offsets))


def _units_for_pool(size: int, *, moving: bool = False) -> int:
    """Units that the pool must have in one piece to serve a size: of a run, or of a block."""
    index = bisect_left(_CLASS_SIZES, size)
    run = CLASSES[index].run_units if index < len(CLASSES) else 0
    whole = -(-size // UNIT)
    return min(max(run, whole), POOL_MOST)


# ---------------------------------------------------------------- processes

def _after_fork_in_child() -> None:
    for heap in list(handles.living):
        heap._after_fork_in_child()


def _at_exit() -> None:
    for heap in list(handles.living):
        heap._let_go()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)


def open_heap(path: str | os.PathLike[str], flag: str = "r", **options: Any) -> Heap:
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
    if flag == "c" and not os.path.lexists(_path(path)):
        return Heap.create(path, **options)
    if flag in {"w", "c", "r"}:
        options.pop("durability", None)
        return Heap.open(path, readonly=flag == "r", **options)
    raise UsageError(f"flag: 'r', 'w', 'c' or 'n' expected, {flag!r} found")
