"""Arguments: what callers hand to a heap, checked once and in one way.

A wrong type is a TypeError, a wrong value a UsageError that says what, expected and found. Numbers
may be anything with ``__index__``, such as those of numpy.
"""

from __future__ import annotations

import errno
import math
import operator
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

from pmemheap.errors import HeapFileError, HeapNotFoundError, UsageError
from pmemheap.format.layout import ARENA_BITS, Durability
from pmemheap.units import GiB, is_power_of_two

__all__ = [
    "ALIGN_MOST",
    "SIZE_MOST",
    "AnyPath",
    "DurabilityName",
    "OpenFlag",
    "alignment_argument",
    "decay_argument",
    "durability_argument",
    "headroom_argument",
    "limit_argument",
    "offset_argument",
    "packed_offsets",
    "path_argument",
    "size_argument",
    "timeout_argument",
    "whole_number",
]

AnyPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""Types that `open` takes for a name."""
DurabilityName: TypeAlias = Literal["power", "process"]
"""What is synced survives a power failure, or only the end of the process: see `Heap.create`."""
OpenFlag: TypeAlias = Literal["r", "w", "c", "n"]
"""Read; write; write, and create it if it is missing; create it anew: see `pmemheap.open`."""
ALIGN_MOST: int = GiB
SIZE_MOST = 1 << ARENA_BITS


def whole_number(what: str, value: object, least: int, most: int) -> int:
    """Return an int, or what converts to one, between two bounds.

    Raises
    ------
    TypeError
        It is no whole number; `what` says of what.
    UsageError
        It is out of bounds.
    """
    try:
        number = int.__index__(operator.index(value))  # type: ignore[arg-type]
    except TypeError as error:
        raise TypeError(f"{what}: a whole number expected, found {value!r}") from error
    if not least <= number <= most:
        raise UsageError(f"{what}: {least} to {most} expected, {number} found")
    return number


def size_argument(value: object) -> int:
    """Return the size of a block, in bytes."""
    if type(value) is int and 0 < value <= SIZE_MOST:
        return value
    return whole_number("size", value, 1, SIZE_MOST)


def offset_argument(value: object) -> int:
    """Return an offset of the heap."""
    return whole_number("offset", value, 0, (1 << 63) - 1)


def alignment_argument(value: object) -> int:
    """Return an alignment: a power of two."""
    number = whole_number("align", value, 1, ALIGN_MOST)
    if not is_power_of_two(number):
        raise UsageError(f"align: a power of two up to {ALIGN_MOST} expected, {number} found")
    return number


def limit_argument(value: object) -> int | None:
    """Return a limit in bytes, or None."""
    return None if value is None else whole_number("limit", value, 0, (1 << 63) - 1)


def headroom_argument(value: object) -> int | None:
    """Return bytes of address space, or None: what is usual."""
    return None if value is None else whole_number("headroom", value, 0, 1 << 46)


def decay_argument(value: object) -> float | None:
    """Return seconds, or None."""
    if value is None:
        return None
    if not isinstance(value, (int, float)):
        raise TypeError(f"decay: seconds or None expected, found {value!r}")
    if math.isnan(value):
        raise UsageError("decay: seconds, 0 or more, or None expected, nan found")
    return max(0.0, float(value))


def timeout_argument(value: object) -> float:
    """Return seconds, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"timeout: seconds expected, found {value!r}")
    if not value >= 0:  # nan as well
        raise UsageError(f"timeout: seconds, 0 or more, expected, found {value!r}")
    return float(value)


def path_argument(value: AnyPath) -> Path:
    """Return the path of a file, of a name that `open` takes for one."""
    name = os.fsdecode(value)
    path = value if isinstance(value, Path) else Path(name)
    try:
        sound = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        sound = False
    if not sound:
        raise UsageError(f"path: one that the system can have expected, found {name!r}")
    if not name:
        raise HeapNotFoundError(
            "heap file '': the name of a file expected, found none", filename=""
        )
    if os.path.basename(name) in {"", "."}:
        raise HeapFileError(
            f"heap file {name!r}: the name of a file expected, found that of a directory",
            errno.EISDIR if path.is_dir() else errno.ENOTDIR, name,
        )  # fmt: skip
    return path


def durability_argument(value: object) -> Durability | None:
    """Return a durability by its name, or None."""
    if value is None:
        return None
    try:
        return Durability[str(value).upper()]
    except KeyError:
        raise UsageError(f"durability: 'power' or 'process' expected, {value!r} found") from None


def packed_offsets(offsets: Iterable[object]) -> array[int]:
    """Return offsets as uint64."""
    return array("Q", (offset_argument(offset) for offset in offsets))
