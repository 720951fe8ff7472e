"""Looking: a heap file is read, as it is or beside its writer.

    closed   ──► opened, as a reader          in use ──► attached, beside its writer

A reader that stays would keep every writer out, so each look begins anew, with everything read
again. While it lasts the heap has a reader: a program that opens it for writing at that moment is
refused, as beside any reader, unless it lets readers in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pmemheap.errors import CorruptHeapError, HeapBusyError
from pmemheap.heap.heap import Heap

__all__ = ["looked_at"]


@contextmanager
def looked_at(path: Path) -> Iterator[Heap]:
    """Open a heap file to look at it once."""
    heap = _opened(path)
    if heap is not None:
        with heap:
            yield heap
    else:
        with _named(path), _attached(path) as attached:
            yield attached


def _opened(path: Path) -> Heap | None:
    """Open a heap file; None if somebody writes to it who lets no readers in."""
    with suppress(HeapBusyError):
        return Heap.open(path, readonly=True, headroom=0, decay=None)
    return None


def _attached(path: Path) -> Heap:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Heap.attach(fd, headroom=0, decay=None)
    finally:
        os.close(fd)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file it is: an attached heap knows its descriptor."""
    try:
        yield
    except HeapBusyError as error:
        raise HeapBusyError(f"heap file {str(path)!r}: {error}", filename=str(path)) from error
    except CorruptHeapError as error:
        raise CorruptHeapError(f"heap file {str(path)!r}: {error}") from error
