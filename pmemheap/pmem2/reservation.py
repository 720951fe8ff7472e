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
  2. the lifeline owns ``[address, address + size + headroom)`` and nothing else;
  3. a map that is listed is open, and knows this reservation.

Who owns what: the lifeline owns the addresses and gives them back when the last reference to it has
gone: the reservation's, its maps', and that of each memoryview and array on their memory. So
nothing that is collected late, or in an odd order, can take memory away from under a live view.

Every call locks the reservation; a reservation may be used from any thread.
"""

from __future__ import annotations

import errno
import os
import threading
from bisect import bisect_left, bisect_right
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, SupportsIndex

from pmemheap.errors import Pmem2Error, UsageError
from pmemheap.native import Lifeline
from pmemheap.pmem2 import codes
from pmemheap.pmem2.codes import refused
from pmemheap.pmem2.numbers import ADDRESS_LIMIT, require_aligned, whole
from pmemheap.pmem2.space import occupant, space
from pmemheap.units import PAGE, is_aligned, is_power_of_two

if TYPE_CHECKING:
    from pmemheap.pmem2.mapping import Map

__all__ = ["VMReservation"]

_KEY = attrgetter("key")


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
        ``(address - skew) % alignment == 0``; `alignment` is a power of two and at least a page.

    Raises
    ------
    Pmem2Error
        ADDRESS_UNALIGNED, LENGTH_UNALIGNED, LENGTH_OUT_OF_RANGE (0, negative or past 2^64),
        MAPPING_EXISTS (the range at `address` is occupied), -ENOMEM (no room), looked for in this
        order.
    UsageError
        `alignment` is not a power of two, or finer than a page.

    Examples
    --------
    >>> with VMReservation(1 << 20, headroom=1 << 30) as reservation:
    ...     reservation.extend(1 << 20)
    ...     reservation.size, reservation.headroom
    (2097152, 1072693248)
    """

    def __init__(
        self,
        size: SupportsIndex,
        address: SupportsIndex | None = None,
        *,
        headroom: SupportsIndex = 0,
        alignment: SupportsIndex = PAGE,
        skew: SupportsIndex = 0,
    ) -> None:
        self._lock = threading.RLock()
        self._maps: list[Map] = []  # by address; changed in one instruction, which nothing tears
        self._closed = False
        room = whole("headroom", headroom)
        self._keeps_tail = room > 0
        self._lifeline = _reserve(
            0 if address is None else whole("address", address),
            whole("size", size),
            room,
            whole("alignment", alignment),
            whole("skew", skew),
        )

    # ------------------------------------------------------------ what it is

    @property
    def address(self) -> int:
        """First address; a shrink at the head moves it up."""
        return self._open().start

    @property
    def size(self) -> int:
        """Bytes, without the headroom."""
        return self._open().size

    @property
    def headroom(self) -> int:
        """Bytes that are kept free behind the reservation at this moment."""
        return self._open().headroom

    @property
    def lifeline(self) -> Lifeline:
        """The owner of the address range: whoever holds it keeps the range, and all maps in it."""
        return self._open()

    @property
    def closed(self) -> bool:
        """Whether `close` has been called and has succeeded."""
        return self._closed

    def __repr__(self) -> str:
        """Show address, size and headroom."""
        if self._closed:
            return "<VMReservation, closed>"
        line = self._lifeline
        return f"<VMReservation at {line.start:#x}, {line.size:#x} bytes + {line.headroom:#x}>"

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
        length = whole("size", size)
        with self._lock:
            line = self._open()
            require_aligned("extend: size", length, codes.PMEM2_E_LENGTH_UNALIGNED)
            if length == 0:
                return
            if length < 0 or line.size + length >= ADDRESS_LIMIT:
                raise refused(
                    codes.PMEM2_E_LENGTH_OUT_OF_RANGE,
                    f"extend of {self!r}: 1 to 2^64 bytes in all expected, {length:#x} more found",
                )
            try:
                space.extend(line, length)
            except OSError as error:
                raise _no_room(f"extend of {self!r}", line.end, line.stop + length, error) from None

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
        with self._lock:
            line = self._open()
            self._check_shrink(line, start, length)
            self._require_vacant(line.start + start, length)
            try:
                if start == 0:
                    space.cut_head(line, length)
                else:
                    space.cut_tail(line, length, keep=self._keeps_tail)
            except OSError as error:
                raise _failed(f"shrink of {self!r}", error) from error

    def _check_shrink(self, line: Lifeline, offset: int, length: int) -> None:
        require_aligned("shrink: offset", offset, codes.PMEM2_E_OFFSET_UNALIGNED)
        require_aligned("shrink: size", length, codes.PMEM2_E_LENGTH_UNALIGNED)
        where = f"shrink of {self!r}"
        found = f"[{offset:#x}, {offset + length:#x}) found"
        if not 0 <= offset < line.size:
            raise refused(
                codes.PMEM2_E_OFFSET_OUT_OF_RANGE, f"{where}: an offset inside expected, {found}"
            )
        if length <= 0 or offset + length > line.size:
            raise refused(
                codes.PMEM2_E_LENGTH_OUT_OF_RANGE, f"{where}: a range inside expected, {found}"
            )
        if (offset == 0) == (offset + length == line.size):
            raise refused(
                codes.PMEM2_E_NOSUPP, f"{where}: a part of it, at one end, expected, {found}"
            )

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
        with self._lock:
            start = self._open().start + begin
            found = self._first_meeting(start, start + (count or 1)) if count >= 0 else None
            if found is None:
                raise self._not_found(f"in [{begin:#x}, {begin + count:#x})")
            return found

    def first(self) -> Map:
        """Return the lowest map; MAPPING_NOT_FOUND if there is none."""
        return self._nth(0, "at all")

    def last(self) -> Map:
        """Return the highest map; MAPPING_NOT_FOUND if there is none."""
        return self._nth(-1, "at all")

    def next(self, map: Map) -> Map:  # noqa: A002 -- the word of the contract
        """Return the nearest map above `map`, which must be a live one of this reservation.

        Raises
        ------
        Pmem2Error
            MAPPING_NOT_FOUND: there is none above, or `map` is not here.
        """
        return self._neighbour(map, +1)

    def prev(self, map: Map) -> Map:  # noqa: A002 -- the word of the contract
        """Return the nearest map below `map`, which must be a live one of this reservation.

        Raises
        ------
        Pmem2Error
            MAPPING_NOT_FOUND: there is none below, or `map` is not here.
        """
        return self._neighbour(map, -1)

    def maps(self) -> list[Map]:
        """Return all maps of this moment, lowest first."""
        with self._lock:
            self._open()
            return self._maps.copy()

    def _first_meeting(self, start: int, stop: int, unit: int = 1) -> Map | None:
        """Return the lowest map that meets a range of addresses, each rounded up to `unit`."""
        index = max(bisect_right(self._maps, start, key=_KEY) - 1, 0)
        for candidate in self._maps[index : index + 2]:
            if candidate.meets(start, stop, unit):
                return candidate
        return None

    def _nth(self, index: int, which: str) -> Map:
        with self._lock:
            self._open()
            if not -len(self._maps) <= index < len(self._maps):
                raise self._not_found(which)
            return self._maps[index]

    def _neighbour(self, of: Map, step: int) -> Map:
        with self._lock:
            self._open()
            index = self._index(getattr(of, "key", 0))
            if not any(each is of for each in self._maps[index : index + 1]):
                raise self._not_found(f"like {of!r}")
            index += step
            if index < 0:
                raise self._not_found(f"below {of!r}")
            return self._nth(index, f"above {of!r}")

    def _index(self, address: int) -> int:
        """Return the place in the list of the first map from an address on."""
        return bisect_left(self._maps, address, key=_KEY)

    def _not_found(self, which: str) -> Pmem2Error:
        return refused(codes.PMEM2_E_MAPPING_NOT_FOUND, f"{self!r}: a map {which} expected, none")

    # ------------------------------------------------------------ for Map

    @property
    def lock(self) -> threading.RLock:
        """Held by `Map` from the check of a range to the entry in the list."""
        return self._lock

    def vacancy(self, offset: int, length: int, alignment: int) -> int:
        """Return the address of `offset`, where a map of `length` whole pages can be placed.

        Parameters
        ----------
        offset : int
            From the current `address`.
        length : int
            A multiple of a page, 0 for a map that will show nothing.
        alignment : int
            What the source demands of the address.

        Raises
        ------
        Pmem2Error
            OFFSET_UNALIGNED, LENGTH_OUT_OF_RANGE, ADDRESS_UNALIGNED, MAPPING_EXISTS, in this order.
        """
        line = self._open()
        require_aligned("map: offset in the reservation", offset, codes.PMEM2_E_OFFSET_UNALIGNED)
        if offset < 0 or offset + length > line.size:
            raise refused(
                codes.PMEM2_E_LENGTH_OUT_OF_RANGE,
                f"map in {self!r}: a range inside expected, "
                f"[{offset:#x}, {offset + length:#x}) found",
            )
        address = line.start + offset
        require_aligned("map: address", address, codes.PMEM2_E_ADDRESS_UNALIGNED, alignment)
        other = self._first_meeting(address, address + (length or 1), PAGE)
        if other is not None:
            raise refused(
                codes.PMEM2_E_MAPPING_EXISTS,
                f"map in {self!r} at [{offset:#x}, {offset + length:#x}): "
                f"free pages expected, {other!r} found",
            )
        return address

    def enter(self, *maps: Map) -> None:
        """List maps that have been placed next to each other, in order.

        The caller holds the lock since `vacancy`.
        """
        index = self._index(maps[0].key)
        self._maps[index:index] = maps

    def leave(self, start: int, stop: int) -> None:
        """Strike off what begins in a range of addresses; the caller holds the lock."""
        first, last = self._index(start), self._index(stop)
        del self._maps[first:last]

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
        with self._lock:
            if self._closed:
                return
            self._require_vacant(self._lifeline.start, self._lifeline.size)
            try:
                space.release(self._lifeline)
            except OSError as error:
                raise _failed(f"close of {self!r}", error) from error
            self._closed = True

    def __enter__(self) -> VMReservation:
        """Return itself; the block's end closes it and its maps."""
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the maps that are left, then the reservation.

        A view that lives is a BufferError, unless the block ends with an error of its own: that one
        is not hidden, and the range goes back when the views have gone.
        """
        try:
            if not self._closed:
                for each in self.maps():
                    each.close()
                self.close()
        except BufferError:
            if error is None:
                raise

    def check(self) -> None:
        """Verify the invariants that this module's description lists; for tests."""
        with self._lock:
            line = self._open()
            assert line.start < line.stop <= line.end
            assert all(is_aligned(border, PAGE) for border in (line.start, line.stop, line.end))
            previous = line.start
            for each in self._maps:
                assert each.key == each.address >= previous
                assert each.reservation is self
                assert not each.closed
                previous = each.stop
            assert previous <= line.stop

    def _open(self) -> Lifeline:
        if self._closed:
            raise UsageError("reservation: an open one expected, a closed one found")
        return self._lifeline

    def _require_vacant(self, start: int, length: int) -> None:
        other = self._first_meeting(start, start + length, PAGE)
        if other is not None:
            raise refused(
                codes.PMEM2_E_VM_RESERVATION_NOT_EMPTY,
                f"{self!r}: no map expected in "
                f"[{start - self.address:#x}, {start - self.address + length:#x}), {other!r} found",
            )


def _reserve(address: int, size: int, headroom: int, alignment: int, skew: int) -> Lifeline:
    """Check the numbers of a new reservation in the contract's order, and take the range."""
    if not is_power_of_two(alignment) or alignment < PAGE:
        raise UsageError(f"alignment: a power of two from {PAGE} up expected, {alignment} found")
    if address:
        unaligned = codes.PMEM2_E_ADDRESS_UNALIGNED
        require_aligned("reservation: address", address, unaligned)
        require_aligned("reservation: address - skew", address - skew, unaligned, alignment)
    for what, value in (("size", size), ("headroom", headroom)):
        require_aligned(f"reservation: {what}", value, codes.PMEM2_E_LENGTH_UNALIGNED)
    if not 0 < size < ADDRESS_LIMIT or headroom < 0:
        raise refused(
            codes.PMEM2_E_LENGTH_OUT_OF_RANGE,
            f"reservation: a size of 1 to 2^64 - 1 expected, {size:#x} + {headroom:#x} found",
        )
    if not 0 <= address < ADDRESS_LIMIT:
        raise refused(-errno.ENOMEM, f"reservation: a user address expected, {address:#x} found")
    try:
        if address:
            return space.reserve(address, size, headroom)
        return space.reserve_anywhere(size, headroom, alignment, skew % alignment)
    except OSError as error:
        raise _no_room("reservation", address, address + size, error) from None


def _no_room(what: str, start: int, stop: int, error: OSError) -> Pmem2Error:
    """Return the exception for a range that could not be had."""
    if error.errno != errno.EEXIST:
        return _failed(f"{what}: [{start:#x}, {stop:#x})", error)
    return refused(
        codes.PMEM2_E_MAPPING_EXISTS,
        f"{what}: [{start:#x}, {stop:#x}) free expected, {occupant(start, stop)} found; "
        "headroom, asked for when the reservation is made, keeps such a range free",
    )


def _failed(what: str, error: OSError) -> Pmem2Error:
    number = error.errno or errno.EIO
    return refused(-number, f"{what}: success expected, {os.strerror(number)} found")
