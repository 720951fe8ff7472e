"""Watch: whether others have cut the file of a heap, written it over or removed it.

    expected   superblock, length, blocks, whether it may have no name     by what the heap has done
    found      `fstat`, and the bytes where the superblock is              two system calls a look

A look that differs is believed when a second one says the same.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from pmemheap import native
from pmemheap.errors import DurabilityError, PmemHeapError
from pmemheap.native import NativeError

__all__ = ["Expected", "Watch"]

Expected = tuple[tuple[int, bytes], int, int, bool]
"""Which superblock is current, its bytes; the length; bytes that have blocks; if it may go."""

_UNKNOWN_SIZE = 1 << 64
"""Longer than any file."""
_EXT4, _XFS = 0xEF53, 0x58465342
_KEEP_BLOCKS = {native.TMPFS, _EXT4, _XFS}
"""File systems on which only holes have no blocks: others may compress."""
_COUNT_BLOCKS = {native.TMPFS, _EXT4}
"""Those that free nothing by themselves of what they count; xfs does, behind the end of a file."""
_SYNC_LENGTH = {native.TMPFS, _EXT4, _XFS}
"""Those on which a sync of a range makes durable all that the file is, but for its other data."""


class Watch:
    """Looks after the file of this process that has a number; see `native.register_file`.

    Attributes
    ----------
    counts_blocks : bool
        Whether the file has at any time the blocks that were counted, but for those given back.
    syncs_length : bool
        Whether a sync of a range makes the length and the blocks of the file durable.
    taken : str
        What somebody else has done to the file, as far as it was noticed.
    size_seen : tuple of int and int
        The length at the last look, and the thread that looked.
    asked_by : int
        The thread that has just looked, and need not look again the next time.
    """

    def __init__(self, number: int, file_system: int, *, is_named: bool) -> None:
        self._number = number
        self._keeps_blocks = file_system in _KEEP_BLOCKS
        self.counts_blocks: bool = file_system in _COUNT_BLOCKS
        self.syncs_length: bool = file_system in _SYNC_LENGTH
        self._is_named = is_named
        self.taken: str = ""
        self.size_seen: tuple[int, int] = (_UNKNOWN_SIZE, 0)
        self.asked_by = 0

    def look(
        self, fd: int, expectation: Callable[[], Expected], stored: Callable[[int, int], bytes]
    ) -> str:
        """Return what has become of the file, if it is not what it was, as far as the system tells.

        The caller need not have the heap's lock. While another thread changes what is expected, a
        look is not believed; nor is the first of two that differ. `stored` reads a superblock.
        """
        before = None
        while not self.taken:
            expected = expectation()
            found = self._difference(fd, stored, *expected)
            if not found:
                break
            if (found, expected) == before:
                self.taken = found
            before = (found, expected) if expectation() == expected else None
        return self.taken

    def _difference(  # noqa: PLR0913, PLR0917 -- all that is expected
        self, fd: int, read: Callable[[int, int], bytes], current: tuple[int, bytes], end: int,
        blocks_least: int, maybe_nameless: bool,
    ) -> str:  # fmt: skip
        copy, superblock = current
        self.size_seen = (_UNKNOWN_SIZE, 0)
        try:
            status = native.fstat(fd)
            self.size_seen = (status.size, threading.get_ident())
            if status.size < end:
                return f"cut to {status.size} bytes"
            if self._keeps_blocks and status.allocated < blocks_least:
                return "cut, and grown again"
            if read(fd, copy) != superblock or native.file_is_lost(self._number):
                return "written over"
        except (NativeError, ValueError, PmemHeapError):  # another thread has closed it
            return ""
        if self._is_named and not maybe_nameless and status.links == 0:
            return "removed"
        return ""

    @property
    def is_lost(self) -> bool:
        """Whether what is mapped may not be what the heap has stored."""
        return self.taken not in {"", "removed"} or native.file_is_lost(self._number)

    def failure(self, where: str, end: int) -> DurabilityError:
        """Return what to raise of a file that cannot be trusted to keep anything."""
        if not self.taken:
            return DurabilityError(
                errno.EIO, f"{where} a heap whose syncs succeed expected, one failed; reopen it"
            )
        return DurabilityError(
            errno.ESTALE,
            f"{where} {end} bytes that only this heap changes expected, found the file "
            f"{self.taken}; nothing is written any more",
        )
