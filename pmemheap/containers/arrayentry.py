"""Array entry: what the catalogue keeps of an array, in a few bytes.

    key    the name, in UTF-8
    value  | head | axes | lengths | granule | high | dtype | attributes: JSON, to the end |
             1      0-1    a number  number    0-1    0-n
                           an axis

    head   bits 0-4  the dtype: a number of `_COMMON`, or 30, or 31
           bit  5    there is a high
           bit  6    there are attributes
           bit  7    there is a number of axes; else it has one

Numbers are those of LEB128: 7 bits a byte, lowest first. The block of the array begins at 16 times
the granule. A dtype of 30 has its name in the entry, a byte of length before it; one of 31 has
fields, and the entry has the 8 bytes of its digest: the description lies under `DESCRIBED` and the
digest, once for all arrays that have it. So an array of ten numbers takes 5 bytes and its name.

The keys of the catalogue itself begin with a byte of 0, as no name does. They come first, so that
names that come in their order fill the leaves of the map: that is what leaves at its end do.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pmemheap.containers.arraytypes import numpy
from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.units import GRANULE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "DESCRIBED", "FIRST", "MARK", "OWN", "Entry", "decoded", "described", "description",
    "description_key", "dtype_and_axes", "encoded", "key_of_description", "rows_bytes",
]  # fmt: skip

OWN = b"\0"
"""With what the keys of the catalogue itself begin."""
FIRST = b"\1"
"""No key of an array is less."""
MARK = OWN
"""The key that says that a map is a catalogue of arrays, and of which version."""
DESCRIBED = OWN + b"d"
"""In front of the digest of a description, in its key."""

_COMMON = (
    "|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", "<c8",
    "<c16", ">i2", ">u2", ">i4", ">u4", ">i8", ">u8", ">f2", ">f4", ">f8", ">c8", ">c16",
)  # fmt: skip
_NUMBER_OF = {name: number for number, name in enumerate(_COMMON)}
_NAMED, _WITH_FIELDS = 30, 31
_HAS_HIGH, _HAS_ATTRIBUTES, _HAS_AXES = 1 << 5, 1 << 6, 1 << 7
_DTYPE_BITS = 31
_DIGEST_BYTES = 8
_NUMBER_BYTES_MOST = 9
_AXES_MOST = 64
_BYTES_MOST = 1 << 56
_NAME = re.compile(r"[<>|][biufcmMSUV]\d{1,9}(\[\d{0,9}[A-Za-z]{1,2}\])?")
_dtypes: dict[str, Any] = {}


class Entry(NamedTuple):
    """What there is to know of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    """Of its block."""
    high: int = 0
    """Rows from here on were never committed, if that is more than the length; else 0."""
    attributes: bytes = b""

    @property
    def length(self) -> int:
        """Rows: what the first axis has; 1 without axes."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        itemsize = int(self.dtype.itemsize)
        return itemsize if len(self.shape) < 2 else math.prod(self.shape[1:]) * itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


def rows_bytes(entry: Entry, rows: int) -> int:
    """Return the bytes that a block needs for some rows of an array: at least one."""
    return max(rows * entry.row_bytes, 1)


# ---------------------------------------------------------------- types


def dtype_and_axes(dtype: npt.DTypeLike) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return a dtype that an array can have in a heap, and the axes that it brings with it.

    Raises
    ------
    UsageError
        numpy knows none like it; it has Python objects, no bytes, or fields that overlap.
    """
    try:
        whole: np.dtype[Any] = numpy().dtype(dtype)
    except (TypeError, ValueError, OverflowError, SyntaxError) as error:
        raise UsageError(f"array: a dtype of numpy expected, {dtype!r} found") from error
    kind = whole.base
    if kind.hasobject or (kind.names is None and not _NAME.fullmatch(kind.str)):
        raise UsageError(
            f"array: a dtype without Python objects expected, {kind} found: numbers, times, "
            "strings of fixed length, and structures of them can be kept"
        )
    if not kind.itemsize:
        raise UsageError(f"array: a dtype of at least one byte expected, {kind} found")
    if kind.names is None:
        return _plain(kind.str), whole.shape
    found = described(description(kind))
    if found != kind:
        raise UsageError(f"array: fields that lie one behind the other expected, {kind} found")
    return found, whole.shape


def _plain(name: str) -> np.dtype[Any]:
    """Return the dtype of a name, the same object each time."""
    dtype: np.dtype[Any] | None = _dtypes.get(name)
    if dtype is None:
        dtype = _dtypes[name] = numpy().dtype(name)
    return dtype


def description(dtype: np.dtype[Any]) -> bytes:
    """Return what describes a dtype with fields: the list that numpy makes of it, as JSON."""
    try:
        listed = numpy().lib.format.dtype_to_descr(dtype)
        return json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    except ValueError as error:
        raise UsageError(
            f"array: fields that do not overlap, with names in Unicode, expected, {dtype} found"
        ) from error


def described(text: bytes) -> np.dtype[Any]:
    """Return the dtype of a description; ValueError or TypeError if it is none."""
    dtype: np.dtype[Any] = numpy().lib.format.descr_to_dtype(_with_tuples(json.loads(text)))
    if dtype.hasobject or not dtype.itemsize or dtype.names is None:
        raise ValueError(f"a dtype with fields and without objects expected, {dtype} found")
    return dtype


def _with_tuples(fields: Any) -> Any:
    """Return a list of fields as numpy wants it: of tuples."""
    if isinstance(fields, str):
        if not _NAME.fullmatch(fields):
            raise ValueError(f"the name of a dtype expected, {fields!r} found")
        return fields
    return [
        (tuple(name) if isinstance(name, list) else name, _with_tuples(kind), *map(tuple, shape))
        for name, kind, *shape in fields
    ]


def key_of_description(text: bytes) -> bytes:
    """Return the key under which a description lies: it ends with its digest."""
    return DESCRIBED + hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()


def description_key(dtype: np.dtype[Any]) -> bytes:
    """Return the key under which the description of a dtype with fields lies."""
    return key_of_description(description(dtype))


# ---------------------------------------------------------------- there


def encoded(entry: Entry) -> bytes:
    """Return the value of an entry."""
    dtype, shape, offset, high, attributes = entry
    head, tail = _packed_dtype(dtype)
    parts = bytearray(1)
    if len(shape) != 1:
        head |= _HAS_AXES
        parts.append(len(shape))
    for number in shape:
        _put_number(parts, number)
    _put_number(parts, offset // GRANULE)
    if high > entry.length:
        head |= _HAS_HIGH
        _put_number(parts, high)
    parts += tail
    if attributes:
        head |= _HAS_ATTRIBUTES
        parts += attributes
    parts[0] = head
    return bytes(parts)


def _packed_dtype(dtype: np.dtype[Any]) -> tuple[int, bytes]:
    """Return what an entry has of a dtype: a part of its head, and bytes."""
    if dtype.names is not None:
        return _WITH_FIELDS, description_key(dtype)[len(DESCRIBED) :]
    name = dtype.str
    number = _NUMBER_OF.get(name)
    return (_NAMED, bytes([len(name)]) + name.encode()) if number is None else (number, b"")


def _put_number(parts: bytearray, number: int) -> None:
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)


# ---------------------------------------------------------------- and back


def decoded(value: bytes, describe: Callable[[bytes], np.dtype[Any]]) -> Entry:
    """Return the entry of a value.

    Parameters
    ----------
    describe : callable
        Returns the dtype of a digest.

    Raises
    ------
    CorruptHeapError
        It is none; the message does not say whose.
    """
    try:
        return _entry(value, describe)
    except IndexError:
        raise CorruptHeapError(f"an entry expected, {value!r} ends too early") from None


def _entry(value: bytes, describe: Callable[[bytes], np.dtype[Any]]) -> Entry:
    """Read a value from its begin on; IndexError beyond its end."""
    head, at, axes = value[0], 1, 1
    if head & _HAS_AXES:
        axes, at = value[1], 2
    numbers = []  # sides, offset, and how far it has been shown
    for _ in range(axes + (2 if head & _HAS_HIGH else 1)):
        number, at = value[at], at + 1
        if number > 127:
            number, at = _long_number(value, at, number & 127)
        numbers.append(number)
    high = numbers.pop() if head & _HAS_HIGH else 0
    offset = numbers.pop() * GRANULE
    code = head & _DTYPE_BITS
    if code < len(_COMMON):
        dtype = _plain(_COMMON[code])
    else:
        dtype, at = _other_dtype(value, at, code, describe)
    shape = tuple(numbers)
    if axes > _AXES_MOST or math.prod(shape) * dtype.itemsize > _BYTES_MOST:
        raise CorruptHeapError(f"a shape expected, {shape} of {dtype} found")
    rest = value[at:]
    if bool(rest) != bool(head & _HAS_ATTRIBUTES):
        raise CorruptHeapError(f"no bytes behind an entry expected, {rest!r} found")
    return Entry(dtype, shape, offset, high, rest)


def _long_number(value: bytes, at: int, number: int) -> tuple[int, int]:
    """Return a number whose low seven bits are known, and where what follows it begins."""
    shift = 7
    while (byte := value[at]) & 128:
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if shift >= 7 * _NUMBER_BYTES_MOST:
            raise CorruptHeapError(f"a number of 63 bits expected, {value!r} found")
    return number | byte << shift, at + 1


def _other_dtype(
    value: bytes, at: int, code: int, describe: Callable[[bytes], np.dtype[Any]]
) -> tuple[np.dtype[Any], int]:
    """Return a dtype that has bytes of its own, and where what follows it begins."""
    if code == _WITH_FIELDS:
        return describe(_bytes(value, at, _DIGEST_BYTES)), at + _DIGEST_BYTES
    length = value[at] if code == _NAMED else 0
    name = _bytes(value, at + 1, length).decode("ascii", "replace")
    if not _NAME.fullmatch(name):
        raise CorruptHeapError(f"the name of a dtype expected, {name!r} of {code} found")
    try:
        dtype = _plain(name)
    except (TypeError, ValueError) as error:
        raise CorruptHeapError(f"the name of a dtype expected, {name!r} found") from error
    if dtype.str != name or not dtype.itemsize:
        raise CorruptHeapError(f"the name of a dtype expected, {name!r} found")
    return dtype, at + 1 + length


def _bytes(value: bytes, at: int, count: int) -> bytes:
    found = value[at : at + count]
    if len(found) < count:
        raise IndexError
    return found
