"""Log blocks: how far the log of a process heap has blocks of the file system.

    ring     |######## blocks ########|............ none yet ............|
             ^ tail        ^ limit    ^ reached

Most such heaps log little: growth, roots, now and then a transaction. So a new one has blocks for
the beginning of its log. A record that would pass the limit is refused by the core, and then as
much again of the ring gets them. When the disk is full, what lies between limit and `reached` is
left for records that must not be refused: those by which space is given back, and the last one.

A power heap has written its whole log with zeros before it begins, and is none of this.
"""

from __future__ import annotations

from pmemheap.errors import OutOfSpaceError
from pmemheap.file import blocks
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.openfile import LOG_FIRST
from pmemheap.units import UNIT, align_down

__all__ = ["LogBlocks"]

_KEPT = LOG_FIRST // 2


class LogBlocks:
    """The blocks of the log that the superblock of a process heap names.

    Parameters
    ----------
    medium : FileMedium
        Whose `holes` say where there may be none.
    lsn : int
        Where the next record begins.

    Attributes
    ----------
    limit : int
        LSN that no record may pass; 0 if all of the ring has blocks.
    """

    def __init__(self, medium: FileMedium, lsn: int) -> None:
        self._medium = medium
        superblock = medium.header.superblock
        self._start, self._size = superblock.log_off, superblock.log_size
        self._reached = self._first_hole(lsn)
        self.limit: int = 0
        self.keep()

    def keep(self) -> bool:
        """Keep what lies before the end of the blocks, once more; tell if the limit is another."""
        before = self.limit
        self.limit = 0 if self._reached is None else max(self._reached - _KEPT, 1)
        return self.limit != before

    def _first_hole(self, lsn: int) -> int | None:
        """Return the LSN, from one on, of the first byte that may have no block."""
        at = self._start + lsn % self._size
        holes = self._medium.holes.within(self._start, self._start + self._size)
        behind = [max(low, at) for low, high in holes if high > at]
        before = [low + self._size for low, _ in holes]
        return lsn + (behind + before)[0] - at if holes else None

    def extend(self, *, needed: bool) -> None:
        """Get blocks for some more of the ring.

        Parameters
        ----------
        needed : bool
            The record must not be refused: take what was kept for it, or get a page.

        Raises
        ------
        OutOfSpaceError
            The disk is full; what has blocks is as before.
        """
        if self._reached is None:
            self.limit = 0
            return
        try:
            self._extend_by(self._reached, LOG_FIRST)
        except OutOfSpaceError:
            if not needed:
                raise
            if self.limit == self._reached:
                self._extend_by(self._reached, UNIT)
            self.limit = self._reached or 0
        else:
            self.keep()

    def _extend_by(self, reached: int, nbytes: int) -> None:
        """Get blocks for what follows `reached`, from its page on, as far as the ring goes."""
        page = align_down(self._start + reached % self._size, UNIT)
        self._back(page, min(page + nbytes, self._start + self._size))
        self._reached = self._first_hole(reached)

    def _back(self, start: int, stop: int) -> None:
        medium = self._medium
        blocks.back(medium.fd, medium.name, start, stop, medium.holes)
