"""Numbers: what a caller may pass as a size, an offset or an address.

Whole Python numbers, of any size: nothing wraps, and each check compares what was meant. A negative
number is out of range like one that is too large, and gets the same code. A bool or anything that
is not an integer is a TypeError, before any other check.
"""

from __future__ import annotations

import operator
from typing import SupportsIndex

from pmemheap.pmem2.codes import refused
from pmemheap.units import PAGE, is_aligned

__all__ = ["ADDRESS_LIMIT", "require_aligned", "whole"]

ADDRESS_LIMIT = 1 << 64
"""One more than the largest number that libpmem2 can be told."""


def whole(name: str, value: SupportsIndex) -> int:
    """Return `value` as an int.

    Raises
    ------
    TypeError
        `value` is a bool, or no integer at all.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name}: a whole number expected, {value} found")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: a whole number expected, {value!r} found") from None


def require_aligned(what: str, value: int, code: int, alignment: int = PAGE) -> None:
    """Raise `code` unless `value` is a multiple of `alignment`."""
    if not is_aligned(value, alignment):
        raise refused(code, f"{what}: a multiple of {alignment:#x} expected, {value:#x} found")
