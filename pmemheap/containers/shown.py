"""Shown: what a notebook shows of a map."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from pmemheap.errors import PmemHeapError
from pmemheap.notebook import listed, table

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["entries_html"]

_SHOWN, _BYTES_SHOWN = 10, 40


def entries_html(title: str, mapping: Mapping[Any, Any]) -> str:
    """Return how many entries a map has, and the first ones, cut where they are long."""
    try:
        count = len(mapping)
        rows = [(_cut(key), _cut(value)) for key, value in islice(mapping.items(), _SHOWN)]
    except (PmemHeapError, ValueError) as error:
        return table(title, {"entries": f"none: {error}"})
    more = f", the first {_SHOWN} here" if count > _SHOWN else ""
    return listed(f"{title}: {count:,} entries{more}", ["key", "value"], rows)


def _cut(shown: bytes) -> str:
    rest = len(shown) - _BYTES_SHOWN
    return repr(shown) if rest <= 0 else f"{shown[:_BYTES_SHOWN]!r} and {rest:,} bytes more"
