"""Row: maps placed next to each other in one go, as a heap that is opened needs them.

Each is a map like any other. What is the same for all, the look at the file, the search for room,
the entry in the list, is done once: a map costs a few microseconds then instead of thirty.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from pmemheap import native
from pmemheap.errors import Pmem2Error
from pmemheap.native import Window
from pmemheap.pmem2.mapping import Map
from pmemheap.pmem2.reservation import VMReservation
from pmemheap.pmem2.source import AnonymousSource, FileSource, Options, Pieces, Source

__all__ = ["anonymous_row", "file_row"]


def anonymous_row(reservation: VMReservation, offset: int, lengths: Sequence[int]) -> list[Map]:
    """Place private memory that reads zero, as one map for each length.

    Raises
    ------
    Pmem2Error
        As `Map.anonymous`. The range is as it was.
    """
    source, options = AnonymousSource(sum(lengths)), Options(shared=False)
    return _place(reservation, offset, source, [(0, sum(lengths))], lengths, options)


def file_row(
    fd: int,
    reservation: VMReservation,
    offset: int,
    pieces: Pieces,
    options: Options,
) -> list[Map]:
    """Place pieces of a file, ``(file offset, length)``, one behind the other.

    Raises
    ------
    Pmem2Error
        As `Map.file`. The range is as it was.
    """
    lengths = [length for _, length in pieces]
    return _place(reservation, offset, FileSource(fd), pieces, lengths, options)


def _place(  # noqa: PLR0913, PLR0917 -- what, where, and how it is divided
    reservation: VMReservation,
    offset: int,
    source: Source,
    pieces: Pieces,
    lengths: Sequence[int],
    options: Options,
) -> list[Map]:
    """Map `pieces` of a source, and make a map of each of `lengths`, which make up as much."""
    total = sum(lengths)
    _check(source, pieces)
    with reservation.lock:
        address = reservation.vacancy(offset, total, source.alignment)
        keep = reservation.lifeline
        windows: list[Window] = []
        try:
            granularity = source.place(address, pieces, options)
            for at, length in zip(accumulate(lengths, initial=address), lengths, strict=False):
                windows.append(Window(at, length, options.readonly, keep))
            maps = [Map(reservation, window, granularity) for window in windows]
            reservation.enter(*maps)
        except Pmem2Error:
            raise
        except BaseException:  # no memory, an interrupt: the range is to be empty again
            reservation.leave(address, address + total)
            for window in windows:  # the traceback keeps them, and they would keep the addresses
                window.close()
            native.unmap(address, total)
            raise
        return maps


def _check(source: Source, pieces: Pieces) -> None:
    """Raise what the first piece deserves that is no part of the source."""
    unit, size = source.alignment, source.size
    for begin, length in pieces:
        if (begin | length) % unit or not 0 < length <= size - begin or begin < 0:
            source.extent(begin, length)
