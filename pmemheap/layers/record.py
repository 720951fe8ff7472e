"""Record: a trace of what becomes of blocks, in a file."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from pmemheap import native
from pmemheap.errors import PmemHeapError
from pmemheap.layers.passing import Passing
from pmemheap.native.constants import Event
from pmemheap.protocols import Allocator

__all__ = ["Record"]

_PACKAGE = str(Path(__file__).parent.parent) + os.sep
_MOST = 1 << 64
_open: weakref.WeakSet[Record] = weakref.WeakSet()


@final
class Record(native.RecordCore, Passing):
    """What becomes of the blocks of a heap or arena, or of any allocator that it wraps, in a file.

    On a heap it records what `pmemheap.layers.Count` counts: all that becomes of blocks, of all
    arenas, whether by calls, transactions or containers. The C core does that, and no call goes
    through the layer. `pmemheap.traces.load` reads the file, and so do the commands that take a
    trace.

    Parameters
    ----------
    path : str or path-like
        Where to write; no file may be there. It is kept as `path`.
    upstream : Allocator, optional
        What it stands over; if left out, `Heap.install` sets it.
    sites : bool
        Whether to record the file and line that each call comes from.

    Attributes
    ----------
    events : int
        Events so far, those included that are not written yet.
    nbytes : int
        Bytes of the file so far.

    Raises
    ------
    OSError
        The file cannot be made: FileExistsError if there is one.

    Notes
    -----
    3 to 4 bytes an event; 46 ns, 58 with call sites, 600 over another allocator than a heap. Events
    are written a MiB at a time, by the next call that comes, and when the layer is taken off, the
    heap is closed, or Python ends. A process that is killed loses what was not written: the last
    frame.

    For a block of a transaction of up to 16 KiB it is not known what was asked for: it has the size
    that it can hold. The blocks of an arena that is dropped end together.

    Examples
    --------
    >>> import pmemheap, tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "run.trace"
    >>> with pmemheap.Heap.anonymous() as heap:
    ...     with heap.install(Record(path)) as record:
    ...         offsets = [heap.malloc(100) for _ in range(10)]
    ...         heap.free(offsets[0])
    ...     record.events
    11
    >>> from pmemheap.traces import load
    >>> trace = load(path)
    >>> trace.blocks, trace.peak_live_bytes, len(trace.live_at_end)
    (10, 1000, 9)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        upstream: Allocator | None = None,
        *,
        sites: bool = True,
    ) -> None:
        Passing.__init__(self, upstream)
        self.path = Path(path)
        self._fd = -1
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._begin(self._fd, _PACKAGE if sites else None)
        _open.add(self)

    # ------------------------------------------------------------ the file

    @property
    def error(self) -> OSError | None:
        """Why nothing is recorded any more: the disk is full, say. The program goes on."""
        code = -self._error
        return OSError(code, os.strerror(code), str(self.path)) if code else None

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd < 0

    def flush(self) -> None:
        """Write what was recorded so far; what went wrong stands in `error`."""
        self._flush()

    def close(self) -> None:
        """Write what was recorded, and record nothing any more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._stop()
            os.close(fd)

    def __enter__(self) -> Self:
        """Return the record."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Close it: nobody has it any more."""
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        """Show the file."""
        return f"Record({str(self.path)!r})"

    # ------------------------------------------------------------ the calls

    @property
    def _is_told(self) -> bool:
        """Whether the core records for it."""
        return isinstance(self.upstream, native.Upstream)

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block."""
        offset = super().malloc(size, align)
        if not self._is_told:
            self._add(Event.MADE, offset, 0, size)
        return offset

    def free(self, offset: int, deferred: bool = False) -> None:
        """Free a block."""
        if self._is_told:
            super().free(offset, deferred)
            return
        gone = _gone(self, [offset])
        try:
            super().free(offset, deferred)
        except BaseException:
            _put_back(self, gone)
            raise

    def __getattr__(self, name: str) -> Any:
        """Return what the upstream can do beyond that, recorded."""
        call, recorded = super().__getattr__(name), _RECORDED.get(name)
        return call if recorded is None or self._is_told else partial(recorded, self, call)


def _gone(record: Record, each: Iterable[object]) -> list[int]:
    """Record frees before they are made: behind them another thread may have the same offsets.

    Returns
    -------
    list of int
        Those that can be offsets; of the rest the upstream says what it thinks.
    """
    offsets = []
    for one in each:
        offset = one if type(one) is int else _as_number(one)
        if 0 <= offset < _MOST:
            offsets.append(offset)
            record._add(Event.FREED, offset, 0, 0)  # private: of the class, in this module
    return offsets


def _as_number(one: Any) -> int:
    """Return an integer of another type; for what is none, one that is no offset."""
    try:
        return index(one)
    except TypeError:
        return _MOST


def _put_back(record: Record, offsets: list[int]) -> None:
    """Record what was refused as made again, and as the same blocks as before."""
    for offset in offsets:
        with suppress(PmemHeapError):  # it was none before
            _add_moved(record, offset, offset, record.usable_size(offset))


def _add_moved(record: Record, offset: int, to: int, size: int) -> None:
    record._add(Event.MADE, to, 0, size)  # private: as above
    record._add(Event.MOVED, offset, to, size)  # private: as above


def _realloc(record: Record, call: Callable[..., int], offset: int, size: int) -> int:
    gone = _gone(record, [offset])
    try:
        to = call(offset, size)
    except BaseException:
        _put_back(record, gone)
        raise
    _add_moved(record, offset, to, size)
    return to


def _expand(record: Record, call: Callable[..., bool], offset: int, size: int) -> bool:
    done = call(offset, size)
    if done:
        record._add(Event.RESIZED, offset, 0, size)  # private: as above
    return done


def _malloc_many(record: Record, call: Callable[..., memoryview], size: int, blocks: int) -> Any:
    offsets = call(size, blocks)
    for offset in offsets:
        record._add(Event.MADE, offset, 0, size)  # private: as above
    return offsets


def _free_many(record: Record, call: Callable[..., None], offsets: Iterable[int]) -> None:
    each = list(offsets)
    gone = _gone(record, each)
    try:
        call(each)
    except BaseException:
        _put_back(record, gone)
        raise


_RECORDED: dict[str, Callable[..., Any]] = {
    "realloc": _realloc,
    "expand": _expand,
    "malloc_many": _malloc_many,
    "free_many": _free_many,
}


@atexit.register
def _close_all() -> None:
    for record in list(_open):
        record.flush()
