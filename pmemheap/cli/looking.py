"""Looking: a heap file is read, as it is or beside its writer.

    closed   ──► opened, as a reader          in use ──► attached, beside its writer

A reader that stays would keep every writer out, so each look begins anew, with everything read
again. While it lasts the heap has a reader: a program that opens it for writing at that moment is
refused, as beside any reader, unless it lets readers in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pmemheap.errors import CorruptHeapError, HeapBusyError
from pmemheap.heap.heap import Heap

__all__ = ["looked_at"]


@contextmanager
def looked_at(path: Path) -> Iterator[Heap]:
    """Open a heap file to look at it once."""
    try:
        heap = Heap.open(path, readonly=True, headroom=0, decay=None)
    except HeapBusyError:
        heap = _attached(path)
    with heap:
        yield heap


def _attached(path: Path) -> Heap:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Heap.attach(fd, headroom=0, decay=None)
    except HeapBusyError as error:
        raise HeapBusyError(f"heap file {str(path)!r}: {error}", filename=str(path)) from error
    except CorruptHeapError as error:
        raise CorruptHeapError(f"heap file {str(path)!r}: {error}") from error
    finally:
        os.close(fd)
