"""Tables: what runs beside the data of a region, each in a reservation of its own.

    [bits ........][entries ....][units ........][data |======  headroom  ...........]

With much headroom all of them are reserved in one step, next to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pmemheap import native
from pmemheap.errors import Pmem2Error
from pmemheap.format.layout import BITS_WIDTH, DATA_WIDTH, ENTRY_WIDTH
from pmemheap.pmem2 import VMReservation, space
from pmemheap.pmem2.reservation import address_range_of, reserve_row
from pmemheap.units import GiB, align_up

__all__ = ["UNITS_WIDTH", "WIDTHS", "Reserved", "Table"]

UNITS_WIDTH = 32
"""Bytes of a record in the volatile units table."""

_ALIGNMENT = GiB
_ROW_LEAST = GiB // DATA_WIDTH
"""With less headroom a table may have to grow beyond it: no other one should lie there."""

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
    address_range : AddressRange
        The object that keeps the addresses mapped.
    """

    def __init__(self, name: str, first_unit: int, reservation: VMReservation) -> None:
        self.name = name
        self.width: int = WIDTHS[name]
        self.reservation = reservation
        self.address_range: native.AddressRange = address_range_of(reservation)
        self.base: int = reservation.address - first_unit * self.width

    def address(self, unit: int) -> int:
        """Address of the record, or of the data, of a unit."""
        return self.base + unit * self.width

    def offset(self, unit: int) -> int:
        """Offset in the reservation, as it is now."""
        return self.base + unit * self.width - self.address_range.start

    def fault_in(self, unit: int, count: int) -> None:
        """Let pages of some units be there before they are stored to: a call, not a fault each."""
        with suppress(native.NativeError):  # which is only faster
            advice = native.Advice.POPULATE_WRITE
            native.madvise(self.address(unit), count * self.width, advice)

    def stretch(self, end_unit: int) -> None:
        """Let the reservation reach up to `end_unit`, if it does not yet."""
        missing = self.base + end_unit * self.width - self.address_range.stop
        if missing > 0:
            self.reservation.extend(missing)

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


class Reserved:
    """Address space for the tables of a region: taken for all at once, if they have much headroom.

    Parameters
    ----------
    headroom_units : int
        Units to keep free behind each.
    """

    def __init__(self, headroom_units: int) -> None:
        self._headroom_units = headroom_units
        self._tables: dict[str, Table] = {}

    @property
    def headroom_bytes(self) -> int:
        """Bytes that are kept free behind the tables that nobody has taken yet."""
        return sum(table.reservation.headroom for table in self._tables.values())

    def begin(self, names: Sequence[str], first_unit: int, nunits: int) -> None:
        """Reserve tables for units from the first one on, if it is for all of them at once."""
        if self._headroom_units < _ROW_LEAST:
            return
        others, skew = [each for each in names if each != "data"], first_unit * DATA_WIDTH
        rows = [self._bytes_of(name, nunits) for name in others]
        with suppress(Pmem2Error):  # but perhaps one by one
            row = reserve_row(*self._bytes_of("data", nunits), _ALIGNMENT, skew, rows)
            for name, line in zip((*others, "data"), row, strict=True):
                self._tables[name] = Table(name, first_unit, line)

    def take(self, name: str, first_unit: int, nunits: int) -> Table:
        """Return a table for units from the first one on.

        Raises
        ------
        Pmem2Error
            There is no address space for it.
        """
        return self._tables.pop(name, None) or self._alone(name, first_unit, nunits)

    def _alone(self, name: str, first_unit: int, nunits: int) -> Table:
        size, headroom = self._bytes_of(name, nunits)
        alignment, skew = DATA_WIDTH, 0
        if name == "data":
            alignment, skew = _ALIGNMENT, first_unit * DATA_WIDTH
        line = VMReservation(size, headroom=headroom, alignment=alignment, skew=skew)
        return Table(name, first_unit, line)

    def _bytes_of(self, name: str, nunits: int) -> tuple[int, int]:
        width = WIDTHS[name]
        return nunits * width, align_up(self._headroom_units * width, DATA_WIDTH)

    def clear(self) -> None:
        """Give back what nobody has taken."""
        self._tables.clear()
