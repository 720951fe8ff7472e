"""Entries: the map of a store, of which some keys may be hidden.

A scan of what can be seen asks for each key whether it is hidden, but only from the moment on at
which somebody may hide one: also a scan that began before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pmemheap.containers import SortedMap

__all__ = ["Entries"]


class Entries(SortedMap):
    """A map whose scans can leave keys out."""

    def hide(self, is_hidden: Callable[[bytes], bool]) -> None:
        """Leave out the keys for which a function is true, from now on."""
        self._skip = is_hidden

    def visible(
        self, low: bytes | None, high: bytes | None, back: bool, what: int
    ) -> Iterator[Any]:
        """Yield what is not hidden from `low` up to, without, `high`, or back from there."""
        return self._iterate(low, high, back, what, True)
