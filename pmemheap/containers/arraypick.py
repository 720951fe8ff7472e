"""Array pick: which rows an index reaches, so that only these are copied, changed and logged.

    array[key] = value   -->   changed = rows that key may reach, copied
                               changed[key as of these rows] = value
                               runs of them go back to where they were

What the first part of an index says of rows is understood. Of anything else all rows are taken, and
numpy says what it means.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pmemheap.containers.arraytypes import numpy

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Picked", "pick"]


class Picked(NamedTuple):
    """Rows of an array, and an index of these alone.

    Attributes
    ----------
    rows : range or array
        Ascending, each once.
    key : Any
        The index, as one of the rows that were picked.
    """

    rows: range | np.ndarray[Any, Any]
    key: Any

    def copied(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return a copy of the rows; of all there is if the array has no axes."""
        if not array.ndim:
            return array.copy()
        if isinstance(self.rows, range):
            return array[self.rows.start : self.rows.stop : self.rows.step].copy()
        found: np.ndarray[Any, Any] = array[self.rows]
        return found

    def runs(self, changed: np.ndarray[Any, Any]) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """Yield the copied rows as they lie one behind the other, with the first of each run."""
        if isinstance(self.rows, range) and self.rows.step == 1:
            if self.rows:
                yield self.rows.start, changed
            return
        np = numpy()
        rows = np.asarray(self.rows)
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        start = 0
        for end in ends:
            if end > start:
                yield int(rows[start]), changed[start:end]
            start = end


def pick(shape: tuple[int, ...], key: Any) -> Picked:
    """Return the rows of an array of some shape that an index may reach."""
    if not shape:
        return Picked(range(1), key)
    first, *rest = key if isinstance(key, tuple) and key else (key,)
    found = _picked_first(shape, first)
    if found is None:
        return Picked(range(shape[0]), key)
    rows, mine = found
    return Picked(rows, (mine, *rest))


def _picked_first(
    shape: tuple[int, ...], first: Any
) -> tuple[range | np.ndarray[Any, Any], Any] | None:
    """Return rows and index for the first part of an index; None if all rows have to be taken."""
    np = numpy()
    if first is None or first is Ellipsis or isinstance(first, (bool, np.bool_, str)):
        return None
    if isinstance(first, slice):
        rows = range(shape[0])[first] or range(0)
        if rows.step < 0:
            return rows[::-1], slice(None, None, -1)
        return rows, slice(None)
    if isinstance(first, (list, np.ndarray)) and np.ndim(first):
        return _picked_many(shape, np.asarray(first))
    try:
        row = range(shape[0])[operator.index(first)]
    except (TypeError, IndexError):
        return None
    return range(row, row + 1), 0


def _picked_many(
    shape: tuple[int, ...], many: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], Any] | None:
    """Return rows and index for a mask or for numbers of rows; None if they are neither."""
    np = numpy()
    if many.dtype == bool:
        if many.shape != shape[: many.ndim]:
            return None
        rows = np.flatnonzero(many.any(axis=tuple(range(1, many.ndim))))
        return rows, np.arange(len(rows)) if many.ndim == 1 else many[rows]
    if not many.size:
        return np.empty(0, "i8"), many.astype("i8")
    length = shape[0]
    if many.dtype.kind not in "iu" or many.max() >= length or many.min() < -length:
        return None
    numbers = many.astype("i8")
    numbers = np.where(numbers < 0, numbers + length, numbers)
    rows = np.unique(numbers)
    return rows, np.searchsorted(rows, numbers)
