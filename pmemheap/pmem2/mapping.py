"""Mapping: one map, a piece of a source placed in a reservation.

        address = stop - length                              page_stop
          |  length bytes of content                |  rest of  |
          |                                         |  last page|
          +-----------------------------------------+-----------+

A map takes whole pages, which nothing else can use, and shows `length` bytes, which searches see.
It belongs to its reservation: one that is dropped without `close` stays there and is found again.
Its address never changes; its `offset` does when the reservation's head is given back.

`view` is a memoryview on an exporter, which holds the reservation's address range: the memory
stays for as long as any view, slice or array on it lives, whatever becomes of the map object.
`close` looks at the exporter's count of them, unmaps and strikes the map off in one call of the C
core; so does making one. A map is open and listed, or it is neither.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Literal, NoReturn, Self, SupportsIndex, TypeAlias

from pmemheap import native
from pmemheap.errors import DurabilityError, UsageError
from pmemheap.native import Exporter
from pmemheap.native import constants as codes
from pmemheap.pmem2.codes import refused
from pmemheap.pmem2.numbers import whole
from pmemheap.pmem2.reservation import VMReservation, place, remove, remove_row
from pmemheap.pmem2.source import AnonymousSource, FileSource, Granularity, Options, Pieces, Source
from pmemheap.units import PAGE, align_down

__all__ = ["Access", "Map", "Sharing", "place_row"]

Sharing: TypeAlias = Literal["shared", "private"]
"""Whether stores are seen by others, or are copies: see `Map.anonymous` and `Map.file`."""
Access: TypeAlias = Literal["rw", "r"]
"""Whether a map may be stored to: see `Map.file`."""


class Map:
    """A piece of memory or of a file in a reservation; made by `Map.anonymous` and `Map.file`.

    Examples
    --------
    >>> with VMReservation(1 << 20) as reservation:
    ...     memory = Map.anonymous(reservation, 0, 4096)
    ...     memory.view[:5] = b"hello"
    ...     bytes(reservation.find(0, 1).view[:5])
    b'hello'
    """

    __slots__ = ("__weakref__", "_exporter", "_granularity", "_reservation")

    _reservation: VMReservation
    _exporter: Exporter
    _granularity: Granularity

    def __init__(self) -> None:
        """Refuse: a map has a source, and each kind has its own maker."""
        raise TypeError("Map: made by Map.anonymous or Map.file")

    @classmethod
    def _unplaced(
        cls, reservation: VMReservation, exporter: Exporter, granularity: Granularity
    ) -> Self:
        """Return a map that is closed until `place` has given its exporter the memory."""
        self = cls.__new__(cls)
        self._reservation, self._exporter, self._granularity = reservation, exporter, granularity
        return self

    @classmethod
    def anonymous(
        cls,
        reservation: VMReservation,
        offset: SupportsIndex,
        length: SupportsIndex,
        *,
        sharing: Sharing = "shared",
    ) -> Map:
        """Place memory that reads zero at `offset` of a reservation; return its map.

        Parameters
        ----------
        offset, length : int
            Multiples of a page; at least one page.
        sharing : {"shared", "private"}
            Whether a forked child shares it, or has a copy of its own.

        Raises
        ------
        Pmem2Error
            SOURCE_EMPTY (0 bytes), LENGTH_UNALIGNED, MAP_RANGE (negative), OFFSET_UNALIGNED,
            LENGTH_OUT_OF_RANGE (not inside the reservation), MAPPING_EXISTS (a map lies there),
            -errno, looked for in this order. The range is as it was.
        """
        start, count = whole("offset", offset), whole("length", length)
        options = Options(shared=_is_shared(sharing))
        return _place(cls, reservation, start, AnonymousSource(count), 0, count, options)

    @classmethod
    def file(  # noqa: PLR0913 -- what of which file, where, and how
        cls,
        fd: SupportsIndex,
        reservation: VMReservation,
        offset: SupportsIndex,
        length: SupportsIndex,
        file_offset: SupportsIndex = 0,
        *,
        sharing: Sharing = "shared",
        access: Access = "rw",
        granularity: Granularity | None = Granularity.PAGE,
    ) -> Map:
        """Place a piece of a file at `offset` of a reservation; return its map.

        Parameters
        ----------
        fd : int
            An open, readable file; it may be closed afterwards.
        offset, length, file_offset : int
            Multiples of a page. Length 0: to the end of the file, which may be inside a page.
        sharing : {"shared", "private"}
            Whether stores reach the file, or make copies of pages.
        access : {"rw", "r"}
            ``"r"``: no stores; the view is read-only, and so may `fd` be.
        granularity : Granularity
            The coarsest that will do.

        Notes
        -----
        Of a hugetlb file or a device dax, numbers and the address are multiples of its own
        alignment, which `Source.file` tells.

        Raises
        ------
        UsageError
            `sharing`, `access` or `granularity` is none of those; looked for first.
        Pmem2Error
            INVALID_FILE_HANDLE, INVALID_FILE_TYPE, OFFSET_OUT_OF_RANGE (`file_offset` past 2^63 -
            1), GRANULARITY_NOT_SET, OFFSET_UNALIGNED (`file_offset`), SOURCE_EMPTY,
            LENGTH_UNALIGNED, MAP_RANGE (past the file's end), OFFSET_UNALIGNED,
            LENGTH_OUT_OF_RANGE, ADDRESS_UNALIGNED, MAPPING_EXISTS, NO_ACCESS, -errno,
            GRANULARITY_NOT_SUPPORTED, looked for in this order. The range is as it was.
        """
        numbers = whole("offset", offset), whole("length", length)
        begin = whole("file_offset", file_offset)
        options = Options(_is_shared(sharing), _is_readonly(access), _coarsest(granularity))
        source = FileSource(whole("fd", fd))
        source.check_offset(begin)
        if options.granularity is None:
            raise refused(codes.PMEM2_E_GRANULARITY_NOT_SET, "map: a granularity expected, none")
        return _place(cls, reservation, numbers[0], source, begin, numbers[1], options)

    # ------------------------------------------------------------ what it is

    @property
    def reservation(self) -> VMReservation:
        """The reservation it lies in."""
        return self._reservation

    @property
    def address(self) -> int:
        """First address, for as long as the map is open."""
        return self._open().address

    @property
    def offset(self) -> int:
        """Offset of the first byte from the reservation's current address."""
        return self.address - self._reservation.address

    @property
    def length(self) -> int:
        """Bytes of content; the end may lie inside a page."""
        return self._open().length

    @property
    def granularity(self) -> Granularity:
        """The unit of `persist`: bytes that become durable together."""
        self._open()
        return self._granularity

    @property
    def closed(self) -> bool:
        """Whether `close` has been called and has succeeded."""
        return self._exporter.closed

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: there is one map of a place."""
        raise TypeError("Map: cannot be copied or pickled")

    def __repr__(self) -> str:
        """Show address and length."""
        state = ", closed" if self.closed else ""
        return f"<Map at {self._exporter.address:#x}, {self._exporter.length:#x} bytes{state}>"

    # ------------------------------------------------------------ its memory

    @property
    def view(self) -> memoryview:
        """A new memoryview of the content, ``(length,)`` of uint8; read-only with access ``"r"``.

        While it or anything made of it lives, `close` refuses.
        """
        try:
            return memoryview(self._open())
        except ValueError:  # closed since, or a fork found another thread at it
            raise UsageError(f"{self!r}: an open map expected, a closed one found") from None

    def flush(self, offset: SupportsIndex = 0, length: SupportsIndex | None = None) -> None:
        """Start the write-back of ``[offset, offset + length)``, by default to the end.

        With page granularity there is no half way: it is written back when this returns.

        Raises
        ------
        Pmem2Error
            OFFSET_OUT_OF_RANGE, LENGTH_OUT_OF_RANGE: not inside the map.
        DurabilityError
            The kernel could not write.
        """
        start, count = self._range(offset, length)
        with self.view:  # no lock: a sync may take long, and `close` refuses meanwhile
            if count == 0:
                return
            if self._granularity is Granularity.PAGE:
                self._sync(start, count)
            elif self._granularity is Granularity.CACHE_LINE:
                native.flush(self.address + start, count)

    def drain(self) -> None:
        """Wait until what has been flushed is durable."""
        self._open()
        native.fence()

    def persist(self, offset: SupportsIndex = 0, length: SupportsIndex | None = None) -> None:
        """Flush and drain: ``[offset, offset + length)`` is durable when it returns."""
        self.flush(offset, length)
        self.drain()

    def _range(self, offset: SupportsIndex, length: SupportsIndex | None) -> tuple[int, int]:
        start = whole("offset", offset)
        count = self.length - start if length is None else whole("length", length)
        if not 0 <= start <= self.length:
            code = codes.PMEM2_E_OFFSET_OUT_OF_RANGE
        elif not 0 <= count <= self.length - start:
            code = codes.PMEM2_E_LENGTH_OUT_OF_RANGE
        else:
            return start, count
        found = f"[{start:#x}, {start + count:#x}) found"
        raise refused(code, f"flush of {self!r}: a range inside expected, {found}")

    def _sync(self, start: int, count: int) -> None:
        address = self.address + start
        first = align_down(address, PAGE)
        try:
            native.msync(first, address + count - first)
        except OSError as error:
            number = error.errno or errno.EIO
            raise DurabilityError(
                number, f"flush of {self!r}: success expected, {os.strerror(number)} found"
            ) from error

    # ------------------------------------------------------------ its end

    def close(self) -> None:
        """Empty the range, which stays reserved, to be mapped again; a second call does nothing.

        Raises
        ------
        BufferError
            Views, slices or arrays on its memory live. Nothing has changed.
        Pmem2Error
            -errno. Nothing has changed.
        """
        code = remove(self._reservation, self._exporter)
        if code > 0:
            raise BufferError(
                f"{self!r}: no live views expected, {code} found; "
                "release the memoryviews and arrays on it first"
            )
        if code < 0:
            raise refused(code, f"close of {self!r}: success expected, {os.strerror(-code)} found")

    def __enter__(self) -> Map:
        """Return itself; the block's end closes it."""
        self._open()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Close; live views are a BufferError, unless the block ends with an error of its own."""
        try:
            self.close()
        except BufferError:
            if error is None:
                raise

    def _open(self) -> Exporter:
        if self._exporter.closed:
            raise UsageError(f"{self!r}: an open map expected, a closed one found")
        return self._exporter


def _place(  # noqa: PLR0913, PLR0917
    kind: type[Map],
    reservation: VMReservation,
    offset: int,
    source: Source,
    source_offset: int,
    length: int,
    options: Options,
) -> Map:
    """Place one map; a length of 0 as `Source.extent` has it."""
    content = source.extent(source_offset, length)
    pieces = [(source_offset, content)]
    (made,) = place_row(reservation, offset, source, pieces, [content], options, kind)
    return made


def place_row(  # noqa: PLR0913, PLR0917 -- what, where, and how it is divided
    reservation: VMReservation,
    offset: int,
    source: Source,
    pieces: Pieces,
    lengths: Iterable[int],
    options: Options,
    kind: type[Map] = Map,
) -> list[Map]:
    """Map `pieces` of a source, and make a map of each of `lengths`, which make up as much.

    All but the last of the lengths are whole pages.
    """
    if not isinstance(reservation, VMReservation):
        raise TypeError(f"reservation: a VMReservation expected, {reservation!r} found")
    offer = source.offer(pieces, options)
    exporters, maps, total = [], [], 0
    for length in lengths:
        shown = min(length, sys.maxsize)  # more than that is refused below
        exporter = Exporter(0, shown, options.readonly, None)
        exporters.append(exporter)
        maps.append(kind._unplaced(reservation, exporter, offer.granularity))
        total += length
    total += -total % PAGE
    places: list[int] = []
    for begin, length in pieces if offer.fd >= 0 else ():
        places += begin, length + -length % PAGE
    code = place(
        reservation, offset, total, source.alignment, offer.flags, offer.fd, places, maps, exporters
    )
    if code == 0:
        source.accepted.add(offer.asked)
        return maps
    if code == codes.PMEM2_E_GRANULARITY_NOT_SUPPORTED:
        assert options.granularity is not None
        wanted, got = options.granularity.name, offer.granularity.name
        raise refused(code, f"{source.name}: {wanted} or finer expected, {got} found")
    raise source.refusal(-code, f"a map of {total:#x} bytes in {reservation!r}")


def close_row(maps: Sequence[Map]) -> bool:
    """Close maps that lie next to each other in one reservation, lowest first, in one step.

    Returns
    -------
    bool
        Whether that has been done. If not, nothing has changed: a view lives on one of them, there
        is a gap, one is closed, or the system refused.
    """
    first, last = maps[0], maps[-1]
    return remove_row(first._reservation, first._exporter, last._exporter) == len(maps)


def _is_shared(sharing: Sharing) -> bool:
    if sharing not in ("shared", "private"):
        raise UsageError(f"sharing: 'shared' or 'private' expected, {sharing!r} found")
    return sharing == "shared"


def _is_readonly(access: Access) -> bool:
    if access not in ("rw", "r"):
        raise UsageError(f"access: 'rw' or 'r' expected, {access!r} found")
    return access == "r"


def _coarsest(granularity: Granularity | None) -> Granularity | None:
    """Return a granularity by its value; None, not said, is refused when its turn comes."""
    if granularity is None:
        return None
    if isinstance(granularity, int) and not isinstance(granularity, bool):
        with suppress(ValueError):
            return Granularity(granularity)
    raise UsageError(f"granularity: one of Granularity expected, {granularity!r} found")
