"""Blocks: what a file system has allocated for a range of a file, and what does where it cannot.

    extend      a longer file, whose beginning has blocks    or zeros, written
    back        blocks where there may be none               nothing: there are no holes
    clear       a hole                                       or zeros, written
    sync_new    the range, and the length of the file        or all of it

A store to a map of what has blocks cannot fail for want of space.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from pmemheap import native
from pmemheap.errors import OutOfSpaceError
from pmemheap.file.holes import Holes
from pmemheap.native import Allocate, NativeError
from pmemheap.units import UNIT, format_bytes

if TYPE_CHECKING:
    from pmemheap.file.watch import Watch

__all__ = [
    "FreeMemory",
    "as_out_of_space",
    "back",
    "changed",
    "clear",
    "extend",
    "fill",
    "sync_new",
    "write_zeros",
]

_SEEN_SECONDS, _SEEN_SHARE = 0.05, 8
_ZEROS = UNIT  # written at a time: what is written at once, the page cache may sync at once


def changed(fd: int, offset: int, length: int, mode: Allocate) -> bool:
    """Give a range its blocks, or take them; False if this file system cannot."""
    try:
        native.fallocate(fd, offset, length, mode)
    except NativeError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    return True


def extend(fd: int, start: int, backed: int, stop: int, holes: Holes) -> None:
    """Let a file that ends at `start` reach to `stop`: a hole from `backed` on, zeros before."""
    if not changed(fd, start, backed - start, Allocate.EXTEND):
        write_zeros(fd, start, stop - start)
        backed = stop
    if backed < stop:
        native.ftruncate(fd, stop)
        holes.add(backed, stop)


def back(fd: int, name: str, start: int, stop: int, holes: Holes) -> None:
    """Allocate blocks for what of a range may have none; OutOfSpaceError with some of it."""
    fill(fd, name, holes.within(start, stop), holes)


def fill(fd: int, name: str, found: list[tuple[int, int]], holes: Holes) -> None:
    """Allocate blocks for some holes, or parts of them; OutOfSpaceError with some of them."""
    for start, stop in found:
        try:
            changed(fd, start, stop - start, Allocate.KEEP_SIZE)
        except NativeError as error:
            raise _out_of_space(name, stop - start, error) from error
        holes.remove(start, stop)


def clear(fd: int, offset: int, length: int) -> None:
    """Let a range read zero; it may have no blocks then."""
    if not changed(fd, offset, length, Allocate.PUNCH_HOLE):
        write_zeros(fd, offset, length)


def write_zeros(fd: int, offset: int, length: int) -> None:
    """Write zeros to a range of a file, where the system cannot allocate or clear it."""
    chunk = bytes(_ZEROS)
    for at in range(offset, offset + length, _ZEROS):
        native.pwrite(fd, chunk[: offset + length - at], at)


def sync_new(fd: int, start: int, stop: int, watch: Watch) -> None:
    """Wait until a new range of a file is durable, and until the file reaches so far.

    A sync of all that is dirty takes up to a hundred times as long.
    """
    if watch.syncs_length:
        native.sync_part(fd, start, stop - start)
    else:
        native.fsync(fd)


class FreeMemory:
    """Whether a file in memory may allocate: that fills pages, until the kernel kills somebody.

    To look takes 0.1 ms, a third of what it takes to give a heap space for some hundred nodes: for
    a moment an eighth of what was found may be used without another look.
    """

    def __init__(self, name: str, look: Callable[[], int | None]) -> None:
        self._name = name
        self._look = look
        self._left = 0
        self._until = 0.0

    def require(self, nbytes: int) -> None:
        """Raise OutOfSpaceError if there is less."""
        self._left -= nbytes
        if self._left >= 0 and monotonic() < self._until:
            return
        free = self._look()
        if free is not None and nbytes > free:
            raise OutOfSpaceError(
                f"heap file {self._name!r} cannot grow by {format_bytes(nbytes)}: as much memory "
                f"expected to be free, {format_bytes(free)} found"
            )
        self._left = 0 if free is None else free // _SEEN_SHARE
        self._until = monotonic() + _SEEN_SECONDS


@contextmanager
def as_out_of_space(name: str, wanted: int) -> Iterator[None]:
    """Raise OutOfSpaceError if the heap file `name` cannot get the bytes that are wanted."""
    try:
        yield
    except NativeError as error:
        raise _out_of_space(name, wanted, error) from error


def _out_of_space(name: str, wanted: int, error: NativeError) -> OutOfSpaceError:
    return OutOfSpaceError(f"heap file {name!r} cannot grow by {format_bytes(wanted)}: {error}")
