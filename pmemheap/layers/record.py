"""Record: a trace of what becomes of blocks, in a file."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from pmemheap import native
from pmemheap.errors import PmemHeapError
from pmemheap.layers.passing import PACKAGE, Passing, Told, numbers_below
from pmemheap.native.constants import Event
from pmemheap.protocols import Allocator

__all__ = ["Record"]

_MOST = 1 << 64
_open: weakref.WeakSet[Record] = weakref.WeakSet()


@final
class Record(native.RecordCore, Told):
    """What becomes of the blocks of a heap or arena, or of any allocator that it wraps, in a file.

    On a heap it records what `pmemheap.layers.Count` counts: all that becomes of blocks, of all
    arenas and scratch regions, whether by calls, transactions or containers. The C core does that,
    and no call goes through the layer. `pmemheap.traces.load` reads the file, and so do the
    commands that take a trace.

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
        self.path: Path = Path(path)
        self._fd = -1
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._begin(self._fd, PACKAGE if sites else None)
        _open.add(self)

    # ------------------------------------------------------------ the file

    @property
    def error(self) -> OSError | None:
        """Why nothing is recorded any more, such as a full disk. The program goes on."""
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

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block; return its offset."""
        offset = super().malloc(size, align)
        if not self._is_told:
            self._add(Event.MADE, offset, 0, size)
        return offset

    def free(self, offset: int, deferred: bool = False) -> None:
        """Free a block."""
        if self._is_told:
            super().free(offset, deferred)
        else:
            self._freeing([offset], lambda: Passing.free(self, offset, deferred))

    def over_malloc_many(self, size: int, count: int) -> Any:
        """Allocate many blocks; return their offsets."""
        offsets = self.below.malloc_many(size, count)
        for offset in offsets:
            self._add(Event.MADE, offset, 0, size)
        return offsets

    def over_free_many(self, offsets: Iterable[int]) -> None:
        """Free many blocks."""
        each = list(offsets)
        self._freeing(each, lambda: self.below.free_many(each))

    def over_realloc(self, offset: int, size: int) -> int:
        """Give a block another size; return where it is then."""
        to: int = self._freeing([offset], lambda: self.below.realloc(offset, size))
        self._add_moved(offset, to, size)
        return to

    def over_expand(self, offset: int, size: int) -> bool:
        """Let a block grow where it is; tell whether it has."""
        done: bool = self.below.expand(offset, size)
        if done:
            self._add(Event.RESIZED, offset, 0, size)
        return done

    def _freeing(self, each: Iterable[object], call: Callable[[], Any]) -> Any:
        """Make a call that frees, recorded before: behind it another thread may have the offsets.

        What can be no offset the upstream looks at. What it refuses is recorded as made again, and
        as the same block as before.
        """
        offsets = numbers_below(_MOST, each)
        for offset in offsets:
            self._add(Event.FREED, offset, 0, 0)
        try:
            return call()
        except BaseException:
            for offset in offsets:
                with suppress(PmemHeapError):  # it was none before
                    self._add_moved(offset, offset, self.usable_size(offset))
            raise

    def _add_moved(self, offset: int, to: int, size: int) -> None:
        self._add(Event.MADE, to, 0, size)
        self._add(Event.MOVED, offset, to, size)


@atexit.register
def _close_all() -> None:
    for record in list(_open):
        record.flush()
