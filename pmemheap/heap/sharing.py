"""Sharing: bytes of a heap that other processes read in place, without a copy.

    share(array) ──► SharedArray ── pickle: place, era, offset, shape ──► SharedArray ──► array
                        │ pin                                                │ pin of the same era
                        └── until it is closed, nothing of it is used again ─┘

What is sent is a hundred bytes, whatever the array has. Who unpickles it pins the era in which it
was shared; the sender has to keep its own pin until then.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pmemheap import native
from pmemheap.errors import PmemHeapError, SnapshotGoneError, UsageError
from pmemheap.file.pins import Pin
from pmemheap.heap import readers
from pmemheap.heap.arraymemory import located
from pmemheap.heap.extras import numpy
from pmemheap.heap.handles import Block
from pmemheap.heap.places import HeapPlace, heap_at, heap_place, session_of
from pmemheap.heap.space import Space, space_of
from pmemheap.units import UNIT

if TYPE_CHECKING:
    import numpy as np

    from pmemheap.heap.heap import Heap

__all__ = ["SharedArray", "adopted", "exported", "share"]


class Era(NamedTuple):
    """Of what moment something is that is sent: all that is to be kept since."""

    session: int
    """Of the writer."""
    era: int
    layout: int
    """Number of the segments and arenas."""


class Extent(NamedTuple):
    """Which bytes of a heap they are, and how an array lies in them."""

    offset: int
    nbytes: int
    dtype: Any = None
    """None: bytes, without numpy."""
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    first: int = 0
    """Byte of the first element: not 0 in an array that goes backwards."""


def exported(heap: Heap, offset: int, nbytes: int, pin: Pin, what: str) -> native.Exporter:
    """Return the bytes of a range, which keep a pin; UsageError: it is not mapped."""
    default = space_of(heap)
    space = default.arena_of(offset) or default
    first, end = space.region.first_unit * UNIT, space.region.end_unit * UNIT
    local = offset ^ space.origin
    if not first <= local <= local + nbytes <= end:
        raise UsageError(
            f"{what} of {space.name}: a range within bytes {first} to {end} of the arena expected, "
            f"found {nbytes} bytes at {local}"
        )
    return native.Exporter(space.address_of(offset), nbytes, True, pin)


def adopted(heap: Heap, era: Era) -> Pin:
    """Return a pin of what another process has sent, with all mapped that belongs to it.

    Raises
    ------
    SnapshotGoneError
        It was let go there, or another writer has opened the heap since.
    """
    space = space_of(heap)
    _require_session(space, era)
    pin = readers.adopt(heap, era.era, era.layout)
    _require_session(space, era)  # now nobody uses it again who has not begun to
    return pin


def _require_session(space: Space, era: Era) -> None:
    if session_of(space) != era.session:
        raise SnapshotGoneError(
            f"{space.name}: the writer expected whose bytes were sent, another one has opened it"
        )


def pinned(heap: Heap) -> tuple[Pin, Era]:
    """Return a pin of the oldest moment that this process has pinned, or of now, and when."""
    space = space_of(heap)
    space.require()
    pins, file = readers.pins_of(space), space.shared.file
    assert file is not None
    if space.shared.redo is not None:
        space.serve(space.shared.redo.sync_log)  # others have to find the segments
    while True:
        eras = pins.eras
        if not eras:
            pin, _, _ = readers.begin(heap, bool)
        else:
            try:
                pin = readers.adopt(heap, eras[0], file.layout if file.follows else 0)
            except SnapshotGoneError:
                continue  # another thread has let it go
        return pin, era_of(heap, pin)


def era_of(heap: Heap, pin: Pin) -> Era:
    """Return the moment of a pin, as it is sent."""
    space = space_of(heap)
    file = space.shared.file
    assert file is not None
    if space.shared.writable is not None:
        layout = file.header.word("layout_seq") & ~1
    else:
        layout = file.layout if file.follows else 0
    return Era(session_of(space), pin.era, layout)


# ---------------------------------------------------------------- arrays


class SharedArray:
    """Bytes of a heap on their way to other processes, which read them in place.

    Made by `Heap.share`. A pickle of it takes a hundred bytes, and leads to the same bytes in any
    process of the machine, which opens the heap's file to read, once: with `multiprocessing`,
    `concurrent.futures`, Dask or joblib, however the processes were started. Nothing of it is
    used again until it is closed here and in each process that has unpickled it, and the arrays
    of it are gone. Keep it open here until the others have it.

    Examples
    --------
    >>> import multiprocessing, os, pickle, tempfile
    >>> import pmemheap
    >>> directory = tempfile.TemporaryDirectory()
    >>> heap = pmemheap.open(os.path.join(directory.name, "data.heap"), "c", readers=True)
    >>> table = heap.ndarray((1000, 4), "f4")
    >>> table[:] = 1
    >>> with heap.share(table) as shared:
    ...     again = pickle.loads(pickle.dumps(shared))     # in another process: an argument
    ...     print(again.array.sum(), again.array.flags.writeable, again.nbytes)
    ...     again.close()
    4000.0 False 16000
    >>> del table; heap.close(); directory.cleanup()
    """

    def __init__(
        self, heap: Heap, era: Era, extent: Extent, shown: native.Exporter | PmemHeapError
    ) -> None:
        self._heap = heap
        self._era = era
        self._extent = extent
        self._shown: native.Exporter | PmemHeapError | None = shown
        self._process = os.getpid()
        self._place = heap_place(heap)

    @property
    def nbytes(self) -> int:
        """How many bytes there are from the first to the last one."""
        return self._extent.nbytes

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._shown is None

    @property
    def view(self) -> memoryview:
        """A read-only view of the bytes.

        Raises
        ------
        UsageError
            It was closed.
        SnapshotGoneError
            The sender had let it go before it was met here.
        """
        return memoryview(self._bytes())

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """A read-only array over the bytes, of the shape that was shared; raises as `view`.

        Of a block it has one dimension of bytes.
        """
        extent, made = self._extent, numpy().ndarray
        if extent.dtype is None:
            found: np.ndarray[Any, Any] = made(extent.nbytes, "u1", self.view)
        else:
            found = made(extent.shape, extent.dtype, self.view, extent.first, extent.strides)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Return `array`, or a copy of it: ``numpy.asarray(shared)``."""
        made = self.array
        if dtype is not None and made.dtype != dtype:
            return made.astype(dtype)
        return made.copy() if copy else made

    def _bytes(self) -> native.Exporter:
        if self._shown is None:
            raise UsageError(
                f"shared array of {self._heap.name}: an open one expected, closed found"
            )
        if self._process != os.getpid():
            self._meet_again()
        if isinstance(self._shown, PmemHeapError):
            raise self._shown
        return self._shown

    def _meet_again(self) -> None:
        """Open the heap in this process, a forked child, and pin what it is of."""
        self._heap = heap_at(self._place)
        self._shown = _adopted_bytes(self._heap, self._era, self._extent)
        self._process = os.getpid()

    def close(self) -> None:
        """Let it go; arrays and views of it stay as they are. Closing twice is allowed."""
        self._shown = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __reduce__(self) -> tuple[object, tuple[HeapPlace, Era, Extent]]:
        """Pickle where the bytes lie and since when."""
        self._bytes()
        return _met, (self._place, self._era, self._extent)

    def __repr__(self) -> str:
        """Show what it is of."""
        state = "closed" if self.closed else f"{self.nbytes} bytes at {self._extent.offset:#x}"
        return f"<SharedArray of {self._heap.name}, {state}>"


def _adopted_bytes(heap: Heap, era: Era, extent: Extent) -> native.Exporter:
    return exported(heap, extent.offset, extent.nbytes, adopted(heap, era), "shared array")


def _met(place: HeapPlace, era: Era, extent: Extent) -> SharedArray:
    """Return what was sent. One that has gone says so when it is used: a pool would end of it."""
    heap = heap_at(place)
    shown: native.Exporter | PmemHeapError
    try:
        shown = _adopted_bytes(heap, era, extent)
    except PmemHeapError as error:
        shown = error.with_traceback(None)  # its frames have a pin
        shown.__context__ = None
    return SharedArray(heap, era, extent, shown)


def share(heap: Heap, what: object) -> SharedArray:
    """Return bytes of a heap for other processes; see `Heap.share`."""
    pin, era = pinned(heap)
    extent = _extent_of(heap, what)
    shown = exported(heap, extent.offset, extent.nbytes, pin, "share")
    return SharedArray(heap, era, extent, shown)


def _extent_of(heap: Heap, what: object) -> Extent:
    if isinstance(what, Block):
        return Extent(what.offset, what.size)
    np = numpy()
    if isinstance(what, np.ndarray):
        return _extent_of_array(heap, what)
    if isinstance(what, memoryview):
        return _extent_of_array(heap, np.asarray(what))._replace(dtype=None, shape=(), strides=())
    raise UsageError(
        f"share: a Block, a view or an array of the heap expected, {type(what).__name__} found"
    )


def _extent_of_array(heap: Heap, array: Any) -> Extent:
    first = array.__array_interface__["data"][0]
    low = high = first
    for side, stride in zip(array.shape, array.strides, strict=True):
        reach = (side - 1) * stride if array.size else 0
        low, high = low + min(reach, 0), high + max(reach, 0)
    nbytes = high - low + array.itemsize if array.size else 0
    found = located(heap, low)
    if found is None:
        raise UsageError(f"share: an array of {heap.name} expected, found one that lies elsewhere")
    return Extent(found[1], nbytes, array.dtype, array.shape, array.strides, first - low)
