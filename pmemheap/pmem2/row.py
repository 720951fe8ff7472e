"""Row: maps placed next to each other in one go, as a heap that is opened needs them.

Each is a map like any other. What is the same for all, the look at the file, the search for room,
the entry in the list, is done once: a map costs a few microseconds then instead of thirty.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from pmemheap.pmem2.mapping import Map, place_row
from pmemheap.pmem2.reservation import VMReservation
from pmemheap.pmem2.source import AnonymousSource, FileSource, Options, Pieces

__all__ = ["anonymous_row", "file_row"]

_LENGTH = itemgetter(1)
_MEMORY, _PRIVATE = AnonymousSource(0), Options(shared=False)


def anonymous_row(reservation: VMReservation, offset: int, lengths: Sequence[int]) -> list[Map]:
    """Place private memory that reads zero, as one map for each length, which is whole pages.

    Raises
    ------
    Pmem2Error
        As `Map.anonymous`. The range is as it was.
    """
    return place_row(reservation, offset, _MEMORY, (), lengths, _PRIVATE)


def file_row(
    source: FileSource, reservation: VMReservation, offset: int, pieces: Pieces, options: Options
) -> list[Map]:
    """Place pieces of a file, ``(file offset, length)``, one behind the other.

    The size of `source` is that of the file now: the caller has looked.

    Raises
    ------
    Pmem2Error
        As `Map.file`. The range is as it was.
    """
    unit, size = source.alignment, source.size
    for begin, length in pieces:
        if (begin | length) % unit or not 0 < length <= size - begin or begin < 0:
            source.extent(begin, length)  # says what is no part of the source
    return place_row(reservation, offset, source, pieces, map(_LENGTH, pieces), options)
