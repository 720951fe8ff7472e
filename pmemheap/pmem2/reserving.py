"""Reserving: the numbers of a new reservation are checked, and its range is taken."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

from pmemheap.errors import Pmem2Error, UsageError
from pmemheap.native import AddressRange
from pmemheap.native import constants as codes
from pmemheap.pmem2.codes import refused
from pmemheap.pmem2.numbers import ADDRESS_LIMIT, require_aligned
from pmemheap.pmem2.space import UNLIMITED, occupant, with_what_is_left
from pmemheap.units import PAGE, GiB, MiB, is_power_of_two

__all__ = ["failed", "no_room", "reserve", "usual_alignment"]

_LARGE = 2 * GiB
_USUAL = {PAGE, 2 * MiB, GiB}
_HEADROOM_MOST = 1 << 57
"""Beyond every address that a process can have: more cannot be had, whatever the machine."""


def reserve(address: int, size: int, headroom: int, alignment: int, skew: int) -> AddressRange:
    """Check the numbers of a new reservation in the contract's order, and take the range."""
    if address or alignment not in _USUAL or (size | headroom | skew) % PAGE:
        _check_place(address, alignment, skew)
        for what, value in (("size", size), ("headroom", headroom)):
            require_aligned(f"reservation: {what}", value, codes.PMEM2_E_LENGTH_UNALIGNED)
    if not 0 < size < ADDRESS_LIMIT or headroom < 0:
        raise refused(
            codes.PMEM2_E_LENGTH_OUT_OF_RANGE,
            f"reservation: a size of 1 to 2^64 - 1 expected, {size:#x} + {headroom:#x} found",
        )
    if not 0 <= address < ADDRESS_LIMIT - size:
        raise refused(-errno.ENOMEM, f"reservation: user addresses expected, {address:#x} found")
    room = min(headroom, _HEADROOM_MOST)
    make = partial(AddressRange, address, size, room, alignment, skew % alignment)
    try:
        return make(UNLIMITED)
    except OSError as error:
        return _reserve_again(-(error.errno or errno.EIO), make, address, size)


def _reserve_again(
    code: int, make: Callable[[int], AddressRange], address: int, size: int
) -> AddressRange:
    """Try what is left of a limited address space, after a refusal."""
    made: list[AddressRange] = []

    def attempt(left: int) -> int:
        try:
            made.append(make(left))
        except OSError as error:
            return -(error.errno or errno.EIO)
        return 0

    code = with_what_is_left(code, attempt)
    if code < 0:
        raise no_room("reservation", address, address + size, -code)
    return made.pop()


def usual_alignment(size: int) -> int:
    """Return what libpmem2 aligns a reservation to whose address is left to the kernel."""
    return GiB if size >= _LARGE else 2 * MiB


def _check_place(address: int, alignment: int, skew: int) -> None:
    unaligned = codes.PMEM2_E_ADDRESS_UNALIGNED
    if not is_power_of_two(alignment) or not PAGE <= alignment < ADDRESS_LIMIT:
        raise UsageError(
            f"alignment: a power of two from {PAGE} to 2^63 expected, {alignment} found"
        )
    require_aligned("reservation: skew", skew, unaligned)
    if address:
        require_aligned("reservation: address", address, unaligned)
        require_aligned("reservation: address - skew", address - skew, unaligned, alignment)


def no_room(what: str, start: int, stop: int, number: int) -> Pmem2Error:
    """Return the exception for a range that could not be had."""
    if number != errno.EEXIST:
        return failed(f"{what}: [{start:#x}, {stop:#x})", number)
    return refused(
        codes.PMEM2_E_MAPPING_EXISTS,
        f"{what}: [{start:#x}, {stop:#x}) free expected, {occupant(start, stop)} found; "
        "headroom, asked for when the reservation is made, keeps such a range free",
    )


def failed(what: str, number: int) -> Pmem2Error:
    """Return the exception for what the system refused with an errno."""
    return refused(-number, f"{what}: success expected, {os.strerror(number)} found")
