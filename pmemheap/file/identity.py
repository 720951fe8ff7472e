"""Identity: which file it is, which run of the machine, and whether a heap may be opened in it.

    superblock.file      birth, inode, device        the file in which the heap is in use
    superblock.boot_id   of the run of the machine   under which it was opened last

A heap in use in another file is a copy that was made meanwhile. A process heap in use under another
boot is refused as well: what it wrote since the last sync is unknown.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

from pmemheap import native
from pmemheap.errors import CorruptHeapError
from pmemheap.file import locks
from pmemheap.format.layout import Durability, FileIdentity, HeapState
from pmemheap.format.superblock import Superblock

__all__ = [
    "boot_id",
    "file_identity",
    "identity_of",
    "is_left_copy",
    "require_original",
    "require_same_boot",
]


@functools.cache
def boot_id() -> bytes:
    """Return what tells this run of the machine from every other."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return bytes.fromhex(text.strip().replace("-", ""))


def file_identity(fd: int) -> FileIdentity:
    """Return which file a descriptor leads to."""
    return identity_of(native.fstat(fd))


def identity_of(status: native.FileStatus) -> FileIdentity:
    """Return which file it is that the system tells of."""
    return FileIdentity(status.birth, status.inode, status.device)


def is_left_copy(block: Superblock, writer: int) -> bool:
    """Tell whether a copy of a heap in use is of one that its process has left, so far as is known.

    What a killed process leaves of a power heap is whole, and so is a copy of that, as one of a
    failed disk is. Whether the copy was made before the end of the process it cannot tell.

    Parameters
    ----------
    block : Superblock
        That of the copy.
    writer : int
        The process that had the heap open.
    """
    has_ended = block.boot_id != boot_id() or not locks.is_running(writer)
    return block.durability == Durability.POWER and has_ended


def require_original(
    block: Superblock, own: FileIdentity, fd: int, name: str, *, readonly: bool
) -> None:
    """Raise if the heap was in use when this copy of its file was made; warn if it is readable.

    Parameters
    ----------
    block : Superblock
        That of the file, which is `own`, behind `fd`.

    Raises
    ------
    CorruptHeapError
        It is a copy that may not be opened so.
    """
    if block.file.may_be(own, same_boot=block.boot_id == boot_id()):
        return
    told = (
        f"heap file {name!r}: the file in which its heap was in use expected, found a "
        "copy of it, of which parts may be older than others; `heap.snapshot()` copies a "
        "heap that is open. If nobody changed it while it was copied, "
        "`pmemheap repair --apply` takes the copy as it is"
    )
    if not readonly or not is_left_copy(block, locks.holder(fd)):
        raise CorruptHeapError(told)
    warnings.warn(told, UserWarning, 5)


def require_same_boot(block: Superblock, name: str) -> None:
    """Raise CorruptHeapError if the heap was in use when the machine went down."""
    if block.state == HeapState.IN_USE and block.boot_id != boot_id():
        raise CorruptHeapError(
            f"heap file {name!r}: a closed heap expected, but the machine went down while "
            "it was in use, and what it wrote since the last sync is unknown"
        )
