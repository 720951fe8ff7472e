"""Array types: the types of elements that a vector can have, and arrays of them as bytes.

A vector stores the name that numpy has for a type, such as ``<f8``. numpy reads much more as a type
than it ever names one: a name is taken only if it is exactly that of the type it leads to.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.heap.extras import numpy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["named_dtype", "numpy", "plain_dtype", "raw_bytes"]

_NAME_BYTES_MOST = 32
_NAME = re.compile(rb"[<>|][biufcmMSU]\d{1,9}(\[\d{0,9}[A-Za-z]{1,2}\])?")


def raw_bytes(values: np.ndarray[Any, Any]) -> memoryview:
    """Return the bytes of an array of one dimension."""
    return memoryview(numpy().ascontiguousarray(values).view("u1"))


def plain_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return a dtype that a header can hold."""
    try:
        kind: np.dtype[Any] = numpy().dtype(dtype)
    except (TypeError, ValueError, OverflowError, SyntaxError) as error:
        raise UsageError(f"vector: a dtype of numpy expected, {dtype!r} found") from error
    is_long = len(kind.str) > _NAME_BYTES_MOST
    if kind.kind in "OV" or kind.hasobject or not kind.itemsize or is_long:
        raise UsageError(
            f"vector: a dtype without objects, fields or subarrays, and not empty, expected, "
            f"{kind} found"
        )
    return kind


def named_dtype(stored: bytes) -> np.dtype[Any]:
    """Return the dtype of a stored name; CorruptHeapError, without the place, if it is none."""
    name = stored.rstrip(b"\0")
    if _NAME.fullmatch(name):
        with suppress(UsageError):
            dtype = plain_dtype(name.decode("ascii"))
            if dtype.str.encode() == name:
                return dtype
    raise CorruptHeapError(f"the name of a dtype expected, {name!r} found")
