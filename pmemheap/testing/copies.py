"""Copies: what a crash would leave of a heap that is open, as a file of its own.

A heap in use knows its file, and a copy of that is refused: what was copied while it changed has
parts of different age. A test that copies while nothing changes knows better, and says so.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

from pmemheap import native
from pmemheap.errors import CorruptHeapError
from pmemheap.file.identity import file_identity
from pmemheap.format.layout import MAGIC, SUPERBLOCK_BYTES, SUPERBLOCKS
from pmemheap.format.superblock import Superblock

__all__ = ["copy_as_crashed", "restamp"]


def copy_as_crashed(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy the file of a heap that is open, so that the copy opens as after a kill at this moment.

    Nothing may change the heap meanwhile, or the copy is what no crash could have left.

    Examples
    --------
    >>> import tempfile, pmemheap
    >>> home = tempfile.TemporaryDirectory()
    >>> heap = pmemheap.Heap.create(home.name + "/a.heap")
    >>> heap.roots["kept"] = heap.malloc(100)
    >>> copy_as_crashed(heap.name, home.name + "/crashed.heap")
    >>> with pmemheap.Heap.open(home.name + "/crashed.heap") as crashed:
    ...     list(crashed.roots)
    ['kept']
    >>> heap.close(); home.cleanup()
    """
    shutil.copyfile(source, target)
    fd = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        restamp(fd)
    finally:
        os.close(fd)


def restamp(fd: int) -> None:
    """Let the file behind a descriptor be the one that its superblocks speak of.

    Superblocks that are not sound stay as they are, and so does a file without any.
    """
    identity = file_identity(fd)
    for at in SUPERBLOCKS:
        image = native.pread(fd, SUPERBLOCK_BYTES, at)
        if not image.startswith(MAGIC):
            continue
        try:
            found = Superblock.unpack_any(image, at)
        except CorruptHeapError:
            continue
        if found.file != identity:
            native.pwrite(fd, replace(found, file=identity).pack(), at)
