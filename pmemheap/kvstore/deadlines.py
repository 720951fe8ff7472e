"""Deadlines: when keys expire. A second map beside the entries, and a clock.

    map "kvstore"            key --> value
    map "kvstore.deadlines"  key --> nanoseconds since 1970, 8 bytes, little-endian

Only keys that expire have a deadline, and every key that has one has an entry: both maps are
changed by the same transaction. A key is *over* from its deadline on. The clock is that of the
wall, because a deadline has to mean the same after a restart: when it is set, deadlines move with
it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

from pmemheap import CorruptHeapError, UsageError
from pmemheap.containers import SortedMap

__all__ = ["Deadlines"]

_DEADLINE = struct.Struct("<Q")
_NS = 1_000_000_000
_DEADLINES_END = 1 << 64
_SECONDS_MOST = 100 * 366 * 86400.0


class Deadlines:
    """The deadlines of a store.

    Parameters
    ----------
    table : SortedMap
        Key to deadline. Who changes it has a transaction open that changes the entries as well.
    clock : callable
        Nanoseconds since 1970.
    """

    def __init__(self, table: SortedMap, clock: Callable[[], int]) -> None:
        self._table = table
        self.clock = clock

    def __len__(self) -> int:
        """Return how many keys have a deadline, over or not."""
        return len(self._table)

    def after(self, ttl: float) -> int:
        """Return the deadline that is `ttl` seconds away.

        Raises
        ------
        UsageError
            Not a positive number of at most a hundred years.
        """
        seconds = float(ttl)
        if math.isnan(seconds) or not 0 < seconds <= _SECONDS_MOST:
            raise UsageError(
                f"ttl: seconds above 0 and at most {_SECONDS_MOST:.0f} expected, {ttl!r} found"
            )
        return self.clock() + int(seconds * _NS)

    def require(self, deadline: int) -> None:
        """Refuse what is no deadline; UsageError."""
        if not 0 <= deadline < _DEADLINES_END:
            raise UsageError(
                f"deadline: nanoseconds from 0 up to {_DEADLINES_END} expected, {deadline!r} found"
            )

    def of(self, key: Any) -> int | None:
        """Return the deadline of a key, or None."""
        stored = self._table.get(key)
        return None if stored is None else self._unpacked(key, stored)

    def is_over(self, key: Any) -> bool:
        """Tell whether a key has expired. O(log n)."""
        deadline = self.of(key)
        return deadline is not None and deadline <= self.clock()

    def left(self, key: bytes) -> float | None:
        """Return the seconds that a key has left, or None if it does not expire."""
        deadline = self.of(key)
        return None if deadline is None else max(0.0, (deadline - self.clock()) / _NS)

    def assign(self, key: bytes, deadline: int | None) -> None:
        """Give a key a deadline, or take it away."""
        if deadline is None:
            self._table.discard(key)
        else:
            self._table[key] = _DEADLINE.pack(deadline)

    def drop(self, key: bytes) -> bool:
        """Take the deadline of a key away; tell whether it had one."""
        return self._table.discard(key)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys that have a deadline, in order."""
        return iter(self._table)

    def over(self, start: bytes | None = None, stop: bytes | None = None) -> Iterator[bytes]:
        """Yield the keys of a range that have expired by now. O(keys with a deadline in it)."""
        now = self.clock()
        for key, stored in self._table.items(start, stop):
            if self._unpacked(key, stored) <= now:
                yield key

    def drop_map(self) -> None:
        """Remove the map, which is empty."""
        self._table.drop()

    def compact(self) -> None:
        """Move what there is together, as `pmemheap.containers.SortedMap.compact`."""
        self._table.compact()

    def check(self) -> None:
        """Verify the map of deadlines; CorruptHeapError if it contradicts itself."""
        self._table.check()
        for key, stored in self._table.items():
            self._unpacked(key, stored)

    def _unpacked(self, key: bytes, stored: bytes) -> int:
        if len(stored) != _DEADLINE.size:
            raise CorruptHeapError(
                f"deadline of {key!r}: {_DEADLINE.size} bytes expected, {len(stored)} found"
            )
        return int(_DEADLINE.unpack(stored)[0])
