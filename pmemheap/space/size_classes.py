"""Slabs: the size classes of small blocks, and the length of their runs. Policy; C does the rest.

    size   16 32 ... 128 | 144 160 ... 256 | 288 ... 512 | 576 ... | ... 15360
    step   16            | 16              | 32          | 64      | an eighth of the power of two

A small block is rounded up to the size of its class, by at most an eighth above 128 bytes. Blocks
of one class lie in *runs* of 1 to 32 units. A run is as short as its waste at the end allows: short
runs keep a small heap small and come back whole when a program turns to other sizes. Multiples of a
unit have no class: whole units serve them without rounding.

The table is part of the file format: a run's entry names its class by number.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from functools import cache

from pmemheap.dataclass import dataclass
from pmemheap.native import class_starts
from pmemheap.units import GRANULE, UNIT

__all__ = ["CLASSES", "SizeClass", "class_of", "packed_classes"]

_STEPS_PER_DOUBLING = 8
_LARGEST = 15 * 1024
_FINE = 128
_RUN_UNITS_MOST = 32
_HALF_UNIT = UNIT // 2
_WASTE_ACCEPTED = 1 / 16


@dataclass(frozen=True)
class SizeClass:
    """One size class.

    Attributes
    ----------
    size : int
        Bytes of a block.
    run_units : int
        Units of a run.
    run_blocks : int
        Blocks of a run.
    """

    size: int
    run_units: int

    @property
    def run_blocks(self) -> int:
        """Blocks that fit a run."""
        return self.run_units * UNIT // self.size

    @property
    def run_waste(self) -> float:
        """Share of a run behind its last block."""
        return 1 - self.run_blocks * self.size / (self.run_units * UNIT)


def _sizes() -> list[int]:
    sizes, size = [], GRANULE
    while size <= _LARGEST:
        if size % UNIT:
            sizes.append(size)
        power = 1 << size.bit_length() - 1
        size += GRANULE if size < _FINE else power // _STEPS_PER_DOUBLING
    return sizes


def _size_class(size: int) -> SizeClass:
    """Choose the shortest run with little waste; large blocks come in twos at least."""
    fewest = 1 if size <= _HALF_UNIT else 2
    candidates = [
        candidate
        for units in range(1, _RUN_UNITS_MOST + 1)
        if (candidate := SizeClass(size, units)).run_blocks >= fewest
    ]
    frugal = (run for run in candidates if run.run_waste <= _WASTE_ACCEPTED)
    return next(frugal, None) or min(candidates, key=lambda run: run.run_waste)


CLASSES: tuple[SizeClass, ...] = tuple(_size_class(size) for size in _sizes())
"""All size classes, smallest first; a run wastes at most a sixteenth behind its last block."""

_CLASS_SIZES = [one.size for one in CLASSES]


def class_of(size: int, align: int = GRANULE) -> SizeClass | None:
    """Return the class that serves a request; None if whole units do. As the C core has it."""
    if align > _HALF_UNIT:
        return None
    index = bisect_left(_CLASS_SIZES, size)
    whole = -(-size // UNIT) * UNIT
    if index == len(CLASSES) or (size > _HALF_UNIT and whole <= CLASSES[index].size):
        return None
    return next((one for one in CLASSES[index:] if one.size % align == 0), None)


@cache
def packed_classes() -> tuple[bytes, bytes, bytes]:
    """Return block sizes as uint32, run lengths as uint16, and where blocks begin: for the C core.

    The last are a bit a granule, set where a block of a run begins. All heaps share them.
    """
    sizes = array("I", (one.size for one in CLASSES)).tobytes()
    units = array("H", (one.run_units for one in CLASSES)).tobytes()
    return sizes, units, class_starts(sizes, units)
