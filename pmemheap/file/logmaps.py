"""Log maps: where the log of an open heap file is mapped to be stored to.

    map ──► the log in use          moved: map_next ──► the superblock names it ──► take_next

An interrupt may come between any two of these.
"""

from __future__ import annotations

from contextlib import suppress

from pmemheap.errors import Pmem2Error
from pmemheap.file.filemaps import FileMaps
from pmemheap.file.headerfile import Header
from pmemheap.format.layout import Durability, SegmentSlot
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.pmem2.source import Options
from pmemheap.refusals import refusals
from pmemheap.units import UNIT

__all__ = ["LogMaps"]


class LogMaps:
    """The log of the open heap file `name`: in use, and the one that it is being moved to.

    The caller has looked at the file: what is mapped is there.
    """

    def __init__(self, name: str, header: Header, maps: FileMaps) -> None:
        self._name, self._header, self._maps = name, header, maps
        self._log: Map | None = None
        self._next: Map | None = None
        self._next_off = 0

    @property
    def address(self) -> int:
        """Address of the mapped log; 0 if none is."""
        return 0 if self._log is None else self._log.address

    def map(self, slot: SegmentSlot) -> Map:
        """Map a log in the place of the one before; it stays so until the next one is."""
        log = self.map_next(slot)
        self.take_next()
        return log

    def map_next(self, slot: SegmentSlot) -> Map:
        """Map a log beside the one in use."""
        with refusals(f"heap file {self._name!r}: log"):
            reservation = VMReservation(slot.file_bytes, alignment=UNIT)
            own = self._header.superblock.durability == Durability.POWER
            try:
                (log,) = self._maps.place(
                    reservation, 0, [(slot.file_off, slot.file_bytes)],
                    Options(own=own, by_page=True),
                )  # fmt: skip
            except BaseException:  # the traceback keeps it
                with suppress(Pmem2Error):
                    reservation.close()
                raise
        self._next, self._next_off = log, slot.file_off
        return log

    def take_next(self) -> None:
        """Let the log that was mapped beside the one in use take its place."""
        old, self._log, self._next = self._log, self._next, None
        _unmap(old)

    def named_next(self) -> Map | None:
        """Return the next log if the superblock names it and it has not been taken yet."""
        return self._next if self._next_off == self._header.superblock.log_off else None

    def unmap(self) -> None:
        """Unmap the log, if it is mapped."""
        logs = self._log, self._next
        self._log = self._next = None
        for log in logs:
            _unmap(log)


def _unmap(log: Map | None) -> None:
    if log is not None:
        with suppress(Pmem2Error):  # refused: it goes with the last reference to its address range
            log.close()
            log.reservation.close()
