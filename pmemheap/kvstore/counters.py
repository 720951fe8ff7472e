"""Counters: numbers as values, and how often a read finds its key.

A number is stored as decimal digits, as Redis does, and lies between those of 64 bits with a sign.
"""

from __future__ import annotations

import re
import threading

from pmemheap import UsageError

__all__ = ["Hits", "number_bytes", "number_of"]

_NUMBER = re.compile(rb"-?(0|[1-9][0-9]*)")
_END = 1 << 63


def number_of(key: bytes, value: bytes) -> int:
    """Return the number that a value is; UsageError if it is none."""
    if _NUMBER.fullmatch(value) and len(value) <= 20:
        return int(value)
    raise UsageError(f"value of {key!r}: a whole number in digits expected, found {value[:40]!r}")


def number_bytes(key: bytes, number: int) -> bytes:
    """Return a number as it is stored; UsageError if it has more than 64 bits."""
    if not -_END <= number < _END:
        raise UsageError(f"value of {key!r}: a number of 64 bits expected, {number} found")
    return b"%d" % number


class Hits:
    """How many reads have found their key, and how many have not; in memory, since the opening."""

    def __init__(self) -> None:
        self.hits: int = 0
        self.misses: int = 0
        self._lock = threading.Lock()

    def count(self, *, is_hit: bool) -> None:
        """Count a read."""
        with self._lock:
            if is_hit:
                self.hits += 1
            else:
                self.misses += 1

    def reset(self) -> None:
        """Count from 0 on."""
        with self._lock:
            self.hits = self.misses = 0
