"""Mapping: one map, a piece of a source placed in a reservation.

        address = stop - length                              page_stop
          |  length bytes of content                |  rest of  |
          |                                         |  last page|
          +-----------------------------------------+-----------+

A map takes whole pages, which nothing else can use, and shows `length` bytes, which searches see.
It belongs to its reservation: one that is dropped without `close` stays there and is found again.
Its address never changes; its `offset` does when the reservation's head is given back.

`view` is a memoryview on a window, and the window holds the reservation's lifeline: the memory
stays for as long as any view, slice or array on it lives, whatever becomes of the map object.
`close` looks at the window's count of them first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from itertools import accumulate
from types import TracebackType
from typing import Literal, SupportsIndex

from pmemheap import native
from pmemheap.errors import DurabilityError, Pmem2Error, UsageError
from pmemheap.native import Window
from pmemheap.pmem2 import codes
from pmemheap.pmem2.codes import refused
from pmemheap.pmem2.numbers import whole
from pmemheap.pmem2.reservation import VMReservation
from pmemheap.pmem2.source import AnonymousSource, FileSource, Granularity, Options, Pieces, Source
from pmemheap.units import PAGE, align_down, align_up

__all__ = ["Map", "place_row"]

Sharing = Literal["shared", "private"]
Access = Literal["rw", "r"]


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

    def __init__(
        self, reservation: VMReservation, window: Window, granularity: Granularity
    ) -> None:
        self._reservation = reservation
        self._window: Window | None = window
        self._address = window.address
        self._length = window.length
        self._granularity = granularity

    @classmethod
    def anonymous(
        cls,
        reservation: VMReservation,
        offset: SupportsIndex,
        length: SupportsIndex,
        *,
        sharing: Sharing = "shared",
    ) -> Map:
        """Place memory that reads zero at `offset` of a reservation.

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
        return _place(reservation, start, AnonymousSource(count), 0, count, options)

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
        """Place a piece of a file at `offset` of a reservation.

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

        Raises
        ------
        Pmem2Error
            INVALID_FILE_HANDLE, INVALID_FILE_TYPE, OFFSET_OUT_OF_RANGE (`file_offset` past 2^63 -
            1), GRANULARITY_NOT_SET, OFFSET_UNALIGNED (`file_offset`), SOURCE_EMPTY,
            LENGTH_UNALIGNED, MAP_RANGE (past the file's end), OFFSET_UNALIGNED,
            LENGTH_OUT_OF_RANGE, ADDRESS_UNALIGNED, MAPPING_EXISTS, NO_ACCESS, -errno,
            GRANULARITY_NOT_SUPPORTED, looked for in this order. The range is as it was.
        """
        numbers = whole("offset", offset), whole("length", length)
        begin = whole("file_offset", file_offset)
        options = Options(_is_shared(sharing), _is_readonly(access), granularity)
        source = FileSource(whole("fd", fd))
        source.check_offset(begin)
        if granularity is None:
            raise refused(codes.PMEM2_E_GRANULARITY_NOT_SET, "map: a granularity expected, none")
        return _place(reservation, numbers[0], source, begin, numbers[1], options)

    # ------------------------------------------------------------ what it is

    @property
    def reservation(self) -> VMReservation:
        """The reservation it lies in."""
        return self._reservation

    @property
    def address(self) -> int:
        """First address, for as long as the map is open."""
        self._open()
        return self._address

    @property
    def offset(self) -> int:
        """Offset of the first byte from the reservation's current address."""
        with self._reservation.lock:
            return self.address - self._reservation.address

    @property
    def length(self) -> int:
        """Bytes of content; the end may lie inside a page."""
        self._open()
        return self._length

    @property
    def granularity(self) -> Granularity:
        """What becomes durable together: the unit of `persist`."""
        self._open()
        return self._granularity

    @property
    def closed(self) -> bool:
        """Whether `close` has been called and has succeeded."""
        return self._window is None

    @property
    def key(self) -> int:
        """First address, open or closed: what reservations sort by."""
        return self._address

    @property
    def stop(self) -> int:
        """Address behind the last page."""
        return self._address + align_up(self._length, PAGE)

    def meets(self, start: int, stop: int, unit: int = 1) -> bool:
        """Tell whether the content, rounded up to `unit`, has a byte in a range of addresses."""
        return self._address < stop and start < self._address + align_up(self._length, unit)

    def __repr__(self) -> str:
        """Show address and length."""
        state = ", closed" if self.closed else ""
        return f"<Map at {self._address:#x}, {self._length:#x} bytes{state}>"

    # ------------------------------------------------------------ its memory

    @property
    def view(self) -> memoryview:
        """A new memoryview of the content, ``(length,)`` of uint8; read-only with access ``"r"``.

        While it or anything made of it lives, `close` refuses.
        """
        with self._reservation.lock:
            try:
                return memoryview(self._open())
            except ValueError:
                raise UsageError(f"{self!r}: an open map expected, one half closed found") from None

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
                native.flush(self._address + start, count)

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
        first = align_down(self._address + start, PAGE)
        try:
            native.msync(first, self._address + start + count - first)
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

        Notes
        -----
        An interrupt may leave it half done: without views, and still listed. Then call it again.
        """
        with self._reservation.lock:
            window = self._window
            if window is None:
                return
            self._revoke(window)
            try:
                native.unmap(self._address, self.stop - self._address)
            except OSError as error:
                self._window = Window(
                    self._address, self._length, window.readonly, self._reservation.lifeline
                )
                number = error.errno or errno.EIO
                raise refused(
                    -number, f"close of {self!r}: success expected, {os.strerror(number)} found"
                ) from error
            self._reservation.leave(self._address, self._address + 1)
            self._window = None

    def _revoke(self, window: Window) -> None:
        """Close the window, so that nobody can ask it for another view."""
        try:
            window.close()
        except BufferError:
            raise BufferError(
                f"{self!r}: no live views expected, {window.exports} found; "
                "release the memoryviews and arrays on it first"
            ) from None

    def __enter__(self) -> Map:
        """Return itself; the block's end closes it."""
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; live views are a BufferError, unless the block ends with an error of its own."""
        try:
            self.close()
        except BufferError:
            if error is None:
                raise

    def _open(self) -> Window:
        if self._window is None:
            raise UsageError(f"{self!r}: an open map expected, a closed one found")
        return self._window


def _place(  # noqa: PLR0913, PLR0917
    reservation: VMReservation,
    offset: int,
    source: Source,
    source_offset: int,
    length: int,
    options: Options,
) -> Map:
    """Place one map; a length of 0 as `Source.extent` has it."""
    if not isinstance(reservation, VMReservation):
        raise TypeError(f"reservation: a VMReservation expected, {reservation!r} found")
    content = source.extent(source_offset, length)
    pieces = [(source_offset, content)]
    (made,) = place_row(reservation, offset, source, pieces, [content], options)
    return made


def place_row(  # noqa: PLR0913, PLR0917 -- what, where, and how it is divided
    reservation: VMReservation,
    offset: int,
    source: Source,
    pieces: Pieces,
    lengths: Sequence[int],
    options: Options,
) -> list[Map]:
    """Map `pieces` of a source, and make a map of each of `lengths`, which make up as much.

    All but the last of the lengths are whole pages.
    """
    total = align_up(sum(lengths), PAGE)
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


def _is_shared(sharing: Sharing) -> bool:
    if sharing not in {"shared", "private"}:
        raise UsageError(f"sharing: 'shared' or 'private' expected, {sharing!r} found")
    return sharing == "shared"


def _is_readonly(access: Access) -> bool:
    if access not in {"rw", "r"}:
        raise UsageError(f"access: 'rw' or 'r' expected, {access!r} found")
    return access == "r"
