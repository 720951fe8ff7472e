"""Tables: what runs beside the data of a region, each in a reservation of its own."""

from __future__ import annotations

from pmemheap.format.layout import BITS_WIDTH, DATA_WIDTH, ENTRY_WIDTH
from pmemheap.native import AddressRange
from pmemheap.pmem2 import VMReservation, space
from pmemheap.pmem2.reservation import address_range_of
from pmemheap.units import GiB, align_up

__all__ = ["UNITS_WIDTH", "WIDTHS", "Table"]

UNITS_WIDTH = 32
"""Bytes of a record in the volatile units table."""

_ALIGNMENT = GiB

WIDTHS = {
    "data": DATA_WIDTH,
    "bits": BITS_WIDTH,
    "units": UNITS_WIDTH,
    "entries": ENTRY_WIDTH,
    "home_bits": BITS_WIDTH,
    "home_entries": ENTRY_WIDTH,
}
"""Bytes of a unit in each table."""


class Table:
    """One table beside the data: a reservation filled from its start with one map a segment.

    Attributes
    ----------
    base : int
        The address that unit 0 would have; below the reservation when that begins with another.
    """

    def __init__(self, name: str, first_unit: int, nunits: int, headroom_units: int) -> None:
        self.name = name
        self.width = WIDTHS[name]
        aligned = {"alignment": _ALIGNMENT, "skew": first_unit * self.width}
        self.reservation = VMReservation(
            nunits * self.width,
            headroom=align_up(headroom_units * self.width, DATA_WIDTH),
            **(aligned if name == "data" else {"alignment": DATA_WIDTH}),
        )
        self.base = self.reservation.address - first_unit * self.width

    @property
    def address_range(self) -> AddressRange:
        """The object that keeps the addresses mapped."""
        return address_range_of(self.reservation)

    def address(self, unit: int) -> int:
        """Address of the record, or of the data, of a unit."""
        return self.base + unit * self.width

    def offset(self, unit: int) -> int:
        """Offset in the reservation, as it is now."""
        return self.base + unit * self.width - self.reservation.address

    def stretch(self, end_unit: int) -> None:
        """Let the reservation reach up to `end_unit`, if it does not yet."""
        line = self.reservation
        missing = self.base + end_unit * self.width - line.address - line.size
        if missing > 0:
            line.extend(missing)

    def could_stretch(self, end_unit: int) -> bool:
        """Tell whether the addresses up to `end_unit` are free."""
        line, more = self.reservation, self.offset(end_unit) - self.reservation.size
        beyond = more - line.headroom
        if beyond <= 0:
            return True
        stop = line.address + line.size + more
        return beyond <= space.left() and space.is_free(stop - beyond, stop)

    def narrow(self, first_unit: int, end_unit: int) -> None:
        """Give address space outside of ``[first_unit, end_unit)`` back; no map may lie there."""
        surplus = self.reservation.size - self.offset(end_unit)
        if surplus > 0:
            self.reservation.shrink(self.reservation.size - surplus, surplus)
        head = self.offset(first_unit)
        if head > 0:
            self.reservation.shrink(0, head)
