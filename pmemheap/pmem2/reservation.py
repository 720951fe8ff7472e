"""Reservation: a range of addresses that is kept, with maps placed in it.

        address                                  address + size
          |                                        |
          +------+--------+---------+------+-------+- - - - - - -+
          |      |  map   |         | map  |       |  headroom   |
          +------+--------+---------+------+-------+- - - - - - -+
    offset 0     ^                         ^
                 whole pages               what is not mapped cannot be touched (PROT_NONE)

Codes, and the order of the checks that raise them, are libpmem2's. Offsets count from the current
`address`: a shrink at the head moves that up, and every offset down by as much; no map ever moves.

Invariants, checked by `VMReservation.check`:
  1. maps lie inside ``[0, size)``, in whole pages, and never overlap;
  2. the address range owns ``[address, address + size + headroom)`` and nothing else;
  3. a map that is listed is open, and knows this reservation.

Who owns what: the address range owns the addresses and gives them back when the last reference to
it has gone: the reservation's, its maps', and that of each memoryview and array on their memory. So
nothing that is collected late, or in an odd order, can take memory away from under a live view.

A reservation may be used from any thread, signal handler and finalizer. There is no lock here: each
check is made together with the change that relies on it, in one call of the C core (py/places.c).
So nothing can come in between, nothing is held when the process forks, and an interrupt comes
before a call or after it. This module has the words: it turns codes into exceptions.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

from pmemheap.errors import UsageError
from pmemheap.native import AddressRange, Exporter, Places
from pmemheap.native import constants as codes
from pmemheap.native.constants import CLOSED
from pmemheap.pmem2.codes import refused
from pmemheap.pmem2.numbers import ADDRESS_LIMIT, require_aligned, whole
from pmemheap.pmem2.reserving import failed, no_room, reserve, usual_alignment
from pmemheap.pmem2.space import UNLIMITED, with_what_is_left
from pmemheap.units import PAGE, is_aligned

if TYPE_CHECKING:
    from pmemheap.pmem2.mapping import Map

__all__ = ["VMReservation", "address_range_of", "place", "remove", "remove_row", "reserve_row"]

_NUMBERS = ("headroom", "address", "size", "skew", "alignment")
_FAR = 1 << 62
"""Beyond every offset and length that a reservation can have, and small enough for the C core."""


class VMReservation:
    """Address space with nothing behind it, for maps to be placed in and to grow.

    Parameters
    ----------
    size : int
        Bytes, a multiple of a page, at least one.
    address : int, optional
        Where it is to begin, a multiple of a page; None or 0 for anywhere.
    headroom : int
        Bytes to keep free behind it for `extend`, beyond what `size` shows, a multiple of a page. A
        wish: half is asked for where it cannot be had, and so on down to none. It is given up where
        another reservation needs these very addresses, or the process runs out of them.
    alignment, skew : int
        ``(address - skew) % alignment == 0``; `alignment` is a power of two and at least a page,
        `skew` a multiple of a page. By default a reservation anywhere is aligned to 2 MiB, and from
        2 GiB up to 1 GiB.

    Raises
    ------
    Pmem2Error
        ADDRESS_UNALIGNED (`address` or `skew`), LENGTH_UNALIGNED (`size` or `headroom`),
        LENGTH_OUT_OF_RANGE (0, negative or past 2^64), MAPPING_EXISTS (the range at `address` is
        occupied), -ENOMEM (no room), looked for in this order.
    UsageError
        `alignment` is not a power of two from a page to 2^63.

    Examples
    --------
    >>> with VMReservation(1 << 20, headroom=1 << 30) as reservation:
    ...     reservation.extend(1 << 20)
    ...     reservation.size, reservation.headroom
    (2097152, 1072693248)
    """

    __slots__ = ("__weakref__", "_keeps_tail", "_places")

    def __init__(
        self,
        size: SupportsIndex,
        address: SupportsIndex | None = None,
        *,
        headroom: SupportsIndex = 0,
        alignment: SupportsIndex | None = None,
        skew: SupportsIndex = 0,
    ) -> None:
        wanted = PAGE if alignment is None else alignment
        numbers = [headroom, 0 if address is None else address, size, skew, wanted]
        if set(map(type, numbers)) != {int}:
            numbers = list(map(whole, _NUMBERS, numbers))
        room, start, length, shift, wanted = map(int, numbers)
        self._keeps_tail = room > 0
        if alignment is None and not start:
            wanted = usual_alignment(length)
        self._places = Places(reserve(start, length, room, wanted, shift))

    # ------------------------------------------------------------ what it is

    @property
    def address(self) -> int:
        """First address; a shrink at the head moves it up."""
        return (self._open() if self._places.closed else self._places.address_range).start

    @property
    def size(self) -> int:
        """Bytes, without the headroom."""
        return (self._open() if self._places.closed else self._places.address_range).size

    @property
    def headroom(self) -> int:
        """Bytes that are kept free behind the reservation at this moment."""
        return self._open().headroom

    @property
    def closed(self) -> bool:
        """Whether `close` has been called and has succeeded."""
        return self._places.closed

    def __repr__(self) -> str:
        """Show address, size and headroom."""
        if self.closed:
            return "<VMReservation, closed>"
        line = self._places.address_range
        return f"<VMReservation at {line.start:#x}, {line.size:#x} bytes + {line.headroom:#x}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: there is one owner of a range."""
        raise TypeError("VMReservation: cannot be copied or pickled")

    # ------------------------------------------------------------ its size

    def extend(self, size: SupportsIndex) -> None:
        """Add `size` bytes at the end: headroom first, then addresses that are free behind it.

        Parameters
        ----------
        size : int
            A multiple of a page; 0 does nothing.

        Raises
        ------
        Pmem2Error
            LENGTH_UNALIGNED; LENGTH_OUT_OF_RANGE: negative, or past 2^64 together with the present
            size; MAPPING_EXISTS: the addresses behind are occupied; -ENOMEM. Nothing has changed.
        """
        length = size if type(size) is int else whole("size", size)
        line = self._open() if self._places.closed else self._places.address_range
        if length % PAGE:
            require_aligned("extend: size", length, codes.PMEM2_E_LENGTH_UNALIGNED)
        if length == 0:
            return
        if length < 0 or line.size + length >= ADDRESS_LIMIT:
            raise refused(
                codes.PMEM2_E_LENGTH_OUT_OF_RANGE,
                f"extend of {self!r}: 1 to 2^64 bytes in all expected, {length:#x} more found",
            )
        start, stop = line.end, line.stop + length
        code = -errno.ENOMEM
        if stop < ADDRESS_LIMIT:
            code = self._places.extend(length, UNLIMITED)
        if code < 0:
            self._extend_again(code, length, start, stop)

    def _extend_again(self, code: int, length: int, start: int, stop: int) -> None:
        """Try what is left of a limited address space, after a refusal."""
        if stop < ADDRESS_LIMIT:
            code = with_what_is_left(code, lambda left: self._places.extend(length, left))
        if code < 0:
            self._require_open(code)
            raise no_room(f"extend of {self!r}", start, stop, -code)

    def shrink(self, offset: SupportsIndex, size: SupportsIndex) -> None:
        """Give ``[offset, offset + size)`` back, at the head or the tail, to the page.

        A reservation that was made with headroom keeps its tail as headroom, to grow into again.
        After a shrink at the head every offset is smaller by `size`.

        Raises
        ------
        Pmem2Error
            OFFSET_UNALIGNED, LENGTH_UNALIGNED, OFFSET_OUT_OF_RANGE, LENGTH_OUT_OF_RANGE, NOSUPP (in
            the middle, or all of it), VM_RESERVATION_NOT_EMPTY (a map lies there), -errno, looked
            for in this order. Nothing has changed.
        """
        start, length = whole("offset", offset), whole("size", size)
        self._open()
        require_aligned("shrink: offset", start, codes.PMEM2_E_OFFSET_UNALIGNED)
        require_aligned("shrink: size", length, codes.PMEM2_E_LENGTH_UNALIGNED)
        code = self._places.shrink(_number(start), _number(length), self._keeps_tail)
        if code < 0:
            self._refuse_shrink(code, start, length)

    def _refuse_shrink(self, code: int, start: int, length: int) -> NoReturn:
        self._require_open(code)
        expected = {
            codes.PMEM2_E_OFFSET_OUT_OF_RANGE: "an offset inside",
            codes.PMEM2_E_LENGTH_OUT_OF_RANGE: "a range inside",
            codes.PMEM2_E_NOSUPP: "a part of it, at one end,",
            codes.PMEM2_E_VM_RESERVATION_NOT_EMPTY: "no map in the range",
        }
        if code not in expected:
            raise failed(f"shrink of {self!r}", -code)
        found = f"[{start:#x}, {start + length:#x}){self._meeting(start, length)} found"
        raise refused(code, f"shrink of {self!r}: {expected[code]} expected, {found}")

    # ------------------------------------------------------------ searches

    def find(self, offset: SupportsIndex, length: SupportsIndex) -> Map:
        """Return the lowest map with a byte in ``[offset, offset + length)``.

        Parameters
        ----------
        offset, length : int
            Any numbers. Length 0 asks for the map that contains `offset`. Only the bytes a map
            shows count, not the rest of its last page.

        Raises
        ------
        Pmem2Error
            MAPPING_NOT_FOUND.
        """
        begin, count = whole("offset", offset), whole("length", length)
        self._open()
        return self._found(self._search(begin, count), f"in [{begin:#x}, {begin + count:#x})")

    def first(self) -> Map:
        """Return the lowest map; MAPPING_NOT_FOUND if there is none."""
        self._open()
        return self._found(self._places.nth(0), "at all")

    def last(self) -> Map:
        """Return the highest map; MAPPING_NOT_FOUND if there is none."""
        self._open()
        return self._found(self._places.nth(-1), "at all")

    def next(self, map: Map) -> Map:  # noqa: A002 -- the word of the contract
        """Return the nearest map above `map`, which must be a live one of this reservation.

        Raises
        ------
        Pmem2Error
            MAPPING_NOT_FOUND: there is none above, or `map` is not here.
        """
        return self._beside(map, +1, "above")

    def prev(self, map: Map) -> Map:  # noqa: A002 -- the word of the contract
        """Return the nearest map below `map`, which must be a live one of this reservation.

        Raises
        ------
        Pmem2Error
            MAPPING_NOT_FOUND: there is none below, or `map` is not here.
        """
        return self._beside(map, -1, "below")

    def maps(self) -> list[Map]:
        """Return all maps of this moment, lowest first."""
        self._open()
        return self._places.all()

    def _search(self, begin: int, count: int) -> Map | None:
        """Return the lowest map in a range of offsets; whole numbers of any size."""
        if count < 0:
            return None
        start = max(-_FAR, min(begin, _FAR))
        stop = max(-_FAR, min(begin + (count or 1), _FAR))
        found: Map | None = self._places.find(start, stop - start)
        return found

    def _beside(self, of: Map, step: int, which: str) -> Map:
        self._open()
        found = self._places.beside(getattr(of, "_exporter", None), step)
        if found is NotImplemented:
            found, which = None, "like"
        return self._found(found, f"{which} {of!r}")

    def _found(self, found: Map | None, which: str) -> Map:
        if found is None:
            raise refused(
                codes.PMEM2_E_MAPPING_NOT_FOUND, f"{self!r}: a map {which} expected, none"
            )
        return found

    def _meeting(self, start: int, length: int) -> str:
        """Name the map that meets a range, for a message."""
        found = self._search(start, length)
        return "" if found is None else f" with {found!r}"

    # ------------------------------------------------------------ its end

    def close(self) -> None:
        """Give the whole range back, headroom and all; a second call does nothing.

        Raises
        ------
        Pmem2Error
            VM_RESERVATION_NOT_EMPTY: there are maps. -errno. The reservation is as it was.
        BufferError
            Views of its memory live that were made without a map. The reservation is as it was.
        """
        code = self._places.release()
        if code > 0:
            raise BufferError(f"{self!r}: no live views expected, {code} found")
        if code == codes.PMEM2_E_VM_RESERVATION_NOT_EMPTY:
            raise refused(code, f"close of {self!r}: no maps expected, {len(self.maps())} found")
        if code < 0:
            raise failed(f"close of {self!r}", -code)

    def __enter__(self) -> VMReservation:
        """Return itself; the block's end closes it and its maps."""
        self._open()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Close the maps that are left, then the reservation.

        A view that lives is a BufferError, unless the block ends with an error of its own: that one
        is not hidden, and the range goes back when the views have gone.
        """
        try:
            if not self.closed:
                for each in self.maps():
                    each.close()
                self.close()
        except BufferError:
            if error is None:
                raise

    def check(self) -> None:
        """Verify what this module's description lists, while nobody changes it; for tests."""
        line = self._open()
        assert line.start < line.stop <= line.end
        assert all(is_aligned(border, PAGE) for border in (line.start, line.stop, line.end))
        previous = line.start
        for each in self._places.all():
            assert each.address >= previous
            assert each.reservation is self
            assert not each.closed
            previous = each.address + each.length
            previous += -previous % PAGE
        assert previous <= line.stop

    def _open(self) -> AddressRange:
        if self._places.closed:
            raise UsageError("reservation: an open one expected, a closed one found")
        return self._places.address_range

    def _require_open(self, code: int) -> None:
        """Raise if another thread closed it meanwhile, as `code` tells."""
        if code == CLOSED:
            self._open()


def _number(value: int) -> int:
    """Return a number for the C core: one that is out of range stays so."""
    return value if 0 <= value < _FAR else _FAR


# ---------------------------------------------------------------- for this package


def reserve_row(
    size: int, headroom: int, alignment: int, skew: int, before: Iterable[tuple[int, int]]
) -> list[VMReservation]:
    """Reserve several ranges next to each other in one step; the last one is aligned.

    Parameters
    ----------
    size, headroom, alignment, skew : int
        Of the last one, as `VMReservation` has them.
    before : iterable of tuple of int and int
        Size and headroom, whole pages, of each of those before; this headroom is no wish.

    Raises
    ------
    Pmem2Error
        As of `VMReservation`; none is reserved.
    """
    rows = list(before)
    length = sum(map(sum, rows))
    for shown, room in rows:
        if (shown | room) % PAGE:
            require_aligned("reservation: size", shown | room, codes.PMEM2_E_LENGTH_UNALIGNED)
    line = reserve(0, length + size, headroom, alignment, skew - length)
    made = [_over(line.split(shown, shown + room), room) for shown, room in rows]
    return [*made, _over(line, headroom)]


def _over(line: AddressRange, headroom: int) -> VMReservation:
    made = VMReservation.__new__(VMReservation)
    made._keeps_tail, made._places = headroom > 0, Places(line)
    return made


def address_range_of(reservation: VMReservation) -> AddressRange:
    """Return the owner of the addresses: a reference to it keeps the range, and all maps in it."""
    return reservation._open()


def place(  # noqa: PLR0913, PLR0917 -- where, what, how, and what it is to be
    reservation: VMReservation,
    offset: int,
    length: int,
    unit: int,
    flags: int,
    fd: int,
    pieces: list[int],
    maps: list[Map],
    exporters: list[Exporter],
) -> int:
    """Map pieces of a source at an offset, as one map for each exporter; all or none, in one step.

    Parameters
    ----------
    offset, length : int
        From the current `address`; `length` whole pages, 0 for a map that will show nothing.
    unit : int
        What the source demands the address to be a multiple of.
    flags, fd, pieces
        As `native.map_flags` makes them; the file, and where each piece begins in it and how long
        it is, one after the other; -1 and none for anonymous memory.

    Returns
    -------
    int
        0, or the code of what the kernel refused; the range is as it was.

    Raises
    ------
    Pmem2Error
        OFFSET_UNALIGNED, LENGTH_OUT_OF_RANGE, ADDRESS_UNALIGNED, MAPPING_EXISTS, in this order.
    """
    if offset % PAGE:
        reservation._open()
        require_aligned("map: offset in the reservation", offset, codes.PMEM2_E_OFFSET_UNALIGNED)
    if not 0 <= offset < _FAR or not 0 <= length < _FAR:
        offset, length = _number(offset), _number(length)
    code = reservation._places.place(offset, length, unit, flags, fd, pieces, maps, exporters)
    if code != 0:
        _refuse_place(reservation, code, offset, length, unit)
    return code


def _refuse_place(
    reservation: VMReservation, code: int, offset: int, length: int, unit: int
) -> None:
    """Raise what is not for the source to say."""
    expected = {
        codes.PMEM2_E_LENGTH_OUT_OF_RANGE: "a range inside",
        codes.PMEM2_E_ADDRESS_UNALIGNED: f"an address that is a multiple of {unit:#x}",
        codes.PMEM2_E_MAPPING_EXISTS: "free pages",
    }
    reservation._require_open(code)
    if code in expected:
        found = f"[{offset:#x}, {offset + length:#x}){reservation._meeting(offset, length)} found"
        raise refused(code, f"map in {reservation!r}: {expected[code]} expected, {found}")


def remove(reservation: VMReservation, exporter: Exporter) -> int:
    """Unmap what an exporter shows, and strike its map off the list, in one step.

    Returns
    -------
    int
        0; or how many views of it live, or a negated errno: then nothing has changed.
    """
    return reservation._places.remove(exporter)


def remove_row(reservation: VMReservation, first: Exporter, last: Exporter) -> int:
    """Do what `remove` does of all maps from one to another, next to each other, in one step.

    Returns
    -------
    int
        How many there were; or a negated errno: then nothing has changed.
    """
    return reservation._places.remove_row(first, last)
