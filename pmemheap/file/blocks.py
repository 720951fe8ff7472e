"""Blocks: what a file system has allocated for a range of a file, and what does where it cannot.

    allocate    blocks that read zero, and a longer file     or zeros, written
    clear       a hole                                       or zeros, written

A store to a map of what has blocks cannot fail for want of space.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pmemheap import native
from pmemheap.errors import OutOfSpaceError
from pmemheap.native import Allocate, NativeError
from pmemheap.units import UNIT, format_bytes

__all__ = ["allocate", "as_out_of_space", "changed", "clear", "write_zeros"]

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


def allocate(fd: int, offset: int, length: int) -> None:
    """Give a range behind the end, or a hole, blocks that read zero; the file reaches its end."""
    if not changed(fd, offset, length, Allocate.EXTEND):
        write_zeros(fd, offset, length)


def clear(fd: int, offset: int, length: int) -> None:
    """Let a range read zero; it may have no blocks then."""
    if not changed(fd, offset, length, Allocate.PUNCH_HOLE):
        write_zeros(fd, offset, length)


def write_zeros(fd: int, offset: int, length: int) -> None:
    """Write zeros to a range of a file, where the system cannot allocate or clear it."""
    chunk = bytes(_ZEROS)
    for at in range(offset, offset + length, _ZEROS):
        native.pwrite(fd, chunk[: offset + length - at], at)


@contextmanager
def as_out_of_space(name: str, wanted: int) -> Iterator[None]:
    """Raise OutOfSpaceError if the heap file `name` cannot get the bytes that are wanted."""
    try:
        yield
    except NativeError as error:
        raise OutOfSpaceError(
            f"heap file {name!r} cannot grow by {format_bytes(wanted)}: {error}"
        ) from error
