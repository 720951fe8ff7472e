"""Units: the sizes everything is counted in, and the arithmetic on them.

    byte    GRANULE        PAGE = UNIT          MiB                GiB
    |......16|..............4096|...............2^20|...............2^30|

A granule is the unit of allocation and the alignment of every block; a unit is what an extent is
made of and is one page of the machine. Whole numbers only: nothing here rounds through a float
except `format_bytes`, which is for eyes. This module imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "GRANULE",
    "PAGE",
    "UNIT",
    "GiB",
    "KiB",
    "MiB",
    "TiB",
    "align_down",
    "align_up",
    "counted",
    "format_bytes",
    "is_aligned",
    "is_power_of_two",
    "merged",
    "parse_bytes",
]

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

GRANULE = 16
UNIT = 4096
PAGE = UNIT

_SUFFIXES = (("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB))


def align_down(value: int, alignment: int) -> int:
    """Return the largest multiple of `alignment` (at least 1) that is not above `value`.

    Examples
    --------
    >>> align_down(4097, PAGE), align_down(4096, PAGE)
    (4096, 4096)
    """
    return value - value % alignment


def align_up(value: int, alignment: int) -> int:
    """Return the smallest multiple of `alignment` (at least 1) that is not below `value`.

    Examples
    --------
    >>> align_up(4097, PAGE), align_up(4096, PAGE)
    (8192, 4096)
    """
    return value + -value % alignment


def is_aligned(value: int, alignment: int) -> bool:
    """Tell whether `value` is a multiple of `alignment`."""
    return value % alignment == 0


def is_power_of_two(value: int) -> bool:
    """Tell whether `value` is 1, 2, 4, 8 and so on.

    Examples
    --------
    >>> [n for n in range(-4, 10) if is_power_of_two(n)]
    [1, 2, 4, 8]
    """
    return value > 0 and value & (value - 1) == 0


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges (start, length) by start, of which those that touch are one.

    Examples
    --------
    >>> merged([(8, 2), (0, 4), (4, 4)])
    [(0, 10)]
    """
    found: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if found and sum(found[-1]) == start:
            first, before = found.pop()
            found.append((first, before + length))
        else:
            found.append((start, length))
    return found


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural where there is not just one.

    Examples
    --------
    >>> counted(1, "view"), counted(1200, "block"), counted(0, "entry")
    ('1 view', '1200 blocks', '0 entries')
    """
    plural = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def format_bytes(count: int) -> str:
    """Return a byte count for people: exact below 1 KiB or where it is round, else two decimals.

    Examples
    --------
    >>> format_bytes(0), format_bytes(4096), format_bytes(5_000_000), format_bytes(-2048)
    ('0 B', '4 KiB', '4.77 MiB', '-2 KiB')
    """
    for suffix, unit in _SUFFIXES:
        if abs(count) >= unit:
            return f"{count // unit if count % unit == 0 else f'{count / unit:.2f}'} {suffix}"
    return f"{count} B"


def parse_bytes(text: str) -> int:
    """Return a byte count that people write: ``"4096"``, ``"64K"``, ``"1.5 GiB"``; powers of 1024.

    Raises
    ------
    ValueError
        `text` is not a number with an optional unit, or not a whole number of bytes.

    Examples
    --------
    >>> parse_bytes("4096"), parse_bytes("64k"), parse_bytes("1.5 MiB")
    (4096, 65536, 1572864)
    """
    number = text.strip().lower().removesuffix("b").removesuffix("i").rstrip()
    unit = 1
    for suffix, size in _SUFFIXES:
        if number.endswith(suffix[0].lower()):
            number, unit = number[:-1], size
    try:
        count = float(number) * unit if "." in number else int(number) * unit
    except ValueError:
        raise ValueError(f"size: a number with K, M, G or T expected, {text!r} found") from None
    if count != int(count):
        raise ValueError(f"size: a whole number of bytes expected, {text!r} found")
    return int(count)
