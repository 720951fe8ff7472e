"""Figures: how every table and every axis writes a number."""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["figure", "mark"]

_SCALES = {
    "": ((1e6, " M"), (1e3, " k"), (1, "")),
    "ns": ((1e9, " s"), (1e6, " ms"), (1e3, " us"), (1, " ns")),
    "bytes": ((1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB"), (1, " B")),
}


def figure(value: float) -> str:
    """Write a number with three digits that count, as people read it.

    Examples
    --------
    >>> figure(0.3303), figure(7.5), figure(37_886.2), figure(float("nan"))
    ('0.330', '7.50', '37,886', '-')
    """
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def mark(value: float, unit: str = "") -> str:
    """Write the number at a mark of an axis, in the unit that makes it short.

    Parameters
    ----------
    unit : str
        Of the value: ``""`` for a count, ``"ns"``, ``"bytes"``, or ``"ratio"``.

    Examples
    --------
    >>> mark(100), mark(1e5), mark(2500, "ns"), mark(1 << 34, "bytes"), mark(1 / 16, "ratio")
    ('100', '100 k', '2.5 us', '16 GiB', '1/16')
    """
    if unit == "ratio":
        return str(Fraction(value).limit_denominator(1000))
    scales = _SCALES[unit]
    factor, name = next((each for each in scales if value >= each[0]), scales[-1])
    return f"{value / factor:g}{name}"
