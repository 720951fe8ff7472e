"""Arrays: names, and arrays of numpy under them, that live in a heap.

    arrays.py         what users see of all: a mapping of names to arrays
    array.py          what they see of one
    arraychange.py    a change within a transaction: rows, blocks and entry together
    arraypick.py      which rows an index reaches
    arraystore.py     catalogue, blocks, arenas: where an array lies, and how it is read
    arraylives.py     whether an array that was looked up is still the one of that name
    arrayentry.py     what is kept of an array, in a few bytes; dtypes
    arraysshown.py    those of a snapshot
    arrayreport.py    check and statistics
    arraytable.py     how arrays are shown

Nothing is made again when a heap is opened: the catalogue is a `SortedMap`, an array is a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pmemheap.containers import arrayreport, arraytable
from pmemheap.containers.array import Array, packed_attributes
from pmemheap.containers.arraychange import Change, Changing
from pmemheap.containers.arrayentry import DESCRIBED, FIRST, Entry, description_key, dtype_and_axes
from pmemheap.containers.arrayreport import ArraysStatistics
from pmemheap.containers.arraysshown import shown_arrays
from pmemheap.containers.arraystore import ArrayStore, find_store, key_of
from pmemheap.containers.arraytypes import numpy
from pmemheap.containers.ordered import ITEMS, KEYS, OrderedMapping, pairs_of
from pmemheap.errors import UsageError
from pmemheap.heap.handles import shape_argument
from pmemheap.heap.heap import Heap
from pmemheap.heap.insight import CheckReport
from pmemheap.heap.snapshots import Snapshot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Arrays"]

_AT_ONCE = 256


class _New(NamedTuple):
    """What an array is to be: rows, or their dtype and shape, and what each element is then."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: np.ndarray[Any, Any] | None
    fill: Any


class Arrays(OrderedMapping[str, Any]):
    """The arrays under a root of a heap: a mapping of names to `Array`; made if there is none.

    Any number of them, of any dtype without Python objects, with any number of axes. Calls inside
    of an open transaction of the same thread are part of it; outside, each is one by itself.

    Parameters
    ----------
    heap : Heap or Snapshot
        Where they live. A read-only one is enough for arrays that exist. Those of a snapshot are to
        be read: names, shapes, types and attributes as of the commit. What is assigned to elements
        later is seen, and so is what is appended where rows had been taken away.
    name : str
        Of the root: 1 to 27 bytes of UTF-8.

    Raises
    ------
    UsageError
        The heap is closed, or read-only without such a root; the root leads to something else.
    CorruptHeapError
        The catalogue is damaged.

    Examples
    --------
    >>> import numpy as np
    >>> import pmemheap
    >>> from pmemheap.containers import Arrays
    >>> heap = pmemheap.Heap.anonymous()
    >>> arrays = Arrays(heap)
    >>> arrays["weights"] = np.ones((2, 3), "f4")           # create, or replace
    >>> log = arrays.create("log", 0, [("time", "M8[s]"), ("value", "f8")])
    >>> log.append((np.datetime64("2024-02-29"), 1.5))
    >>> with heap.transaction():                            # both or none
    ...     arrays["weights"][0] = 2
    ...     arrays.rename("log", "events")
    >>> list(arrays), arrays["weights"][:].tolist()
    (['events', 'weights'], [[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    >>> arrays
    <Arrays 'arrays': 2 arrays>
      events   (1,)    [('time', '<M8[s]'), ('value', '<f8')]  16 B
      weights  (2, 3)  float32                                 24 B
    >>> heap.close()
    """

    def __init__(self, heap: Heap | Snapshot, name: str = "arrays") -> None:
        self._store: ArrayStore
        if isinstance(heap, Snapshot):
            self._store = shown_arrays(heap, name)
        else:
            self._store = find_store(heap, name)

    __eq__: Callable[[object, object], bool] = object.__eq__
    __hash__ = object.__hash__

    @property
    def heap(self) -> Heap:
        """The heap in which they lie."""
        return self._store.heap

    @property
    def name(self) -> str:
        """The root that leads to them."""
        return self._store.name

    # ------------------------------------------------------------ looking

    def __getitem__(self, name: str) -> Array:
        """Return the array of a name; KeyError if there is none."""
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        array: Array = found
        return array

    def get(self, name: str, default: Any = None) -> Any:
        """Return the array of a name, or `default`."""
        return default if (found := self._opened(name)) is None else found

    def _opened(self, name: str) -> Array | None:
        store = self._store
        key = _key_or_none(name)
        while key is not None and (value := store.catalogue.get(key)) is not None:
            try:
                array = Array(store, name, key, value)
            except UsageError as error:
                if store.catalogue.get(key) == value:
                    raise store.damage(name, f"a block expected: {error}") from error
            else:
                if store.catalogue.get(key) == value:  # so the block was that of the array
                    return array
        return None

    def __contains__(self, name: object) -> bool:
        """Tell whether there is an array of a name."""
        key = _key_or_none(name)
        return key is not None and key in self._store.catalogue

    def __len__(self) -> int:
        """Count the arrays."""
        catalogue = self._store.catalogue
        return len(catalogue) - len(catalogue.keys(None, FIRST))

    def _scanned(self, low: str | None, high: str | None, back: bool, what: int) -> Iterator[Any]:
        for key in self._keys(low, high, back):
            name = key.decode("utf-8", "backslashreplace")
            if what == KEYS:
                yield name
            elif (array := self._opened(name)) is not None:
                yield (name, array) if what == ITEMS else array

    def _keys(self, low: str | None, high: str | None, back: bool) -> Any:
        start, stop = (None if name is None else name.encode() for name in (low, high))
        return self._store.catalogue.keys(max(start or b"", FIRST), stop, reverse=back)

    def _counted(self, low: str | None, high: str | None) -> int:
        return len(self._keys(low, high, False))

    def exclusive(self) -> AbstractContextManager[object]:
        """Return a transaction in which what is read stays true until the commit."""
        self._store.require_changeable()
        return self._store.catalogue.exclusive()

    # ------------------------------------------------------------ making

    def create(  # noqa: PLR0913 -- options, all but the first ones by name
        self,
        name: str,
        shape: int | tuple[int, ...] | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        data: npt.ArrayLike | None = None,
        fill: Any = None,
        attrs: dict[str, Any] | None = None,
        in_place: bool = False,
    ) -> Array:
        """Make an array.

        Parameters
        ----------
        name : str
            1 to 1000 bytes of UTF-8.
        shape : int or tuple of int
            Lengths of the axes; the first one can change later. Left out where there is `data`.
        dtype : dtype, optional
            Of the elements: numbers, times, strings of fixed length, structures of them. That of
            `data`, or ``float``, if left out.
        data : array_like, optional
            Its rows.
        fill : scalar, optional
            What each element is at first; zero bytes if left out.
        attrs : dict, optional
            Its attributes: names, and values that JSON has.
        in_place : bool
            Let it grow where it stands from the first row on, as arrays of a MiB do: it gets an
            arena of its own, of which a heap has 128 for arrays.

        Returns
        -------
        Array
            A handle to it.

        Raises
        ------
        UsageError
            There is one of that name; a dtype with Python objects; arguments out of range.
        OutOfSpaceError, DurabilityError
            As those of a transaction.
        """
        key = key_of(name)
        new = _new(shape, dtype, data, fill)
        packed = packed_attributes(name, attrs or {})
        with Changing(self._store) as change:
            if change.value(key) is not None:
                raise UsageError(
                    f"arrays {self.name!r}: a name without an array expected, {name!r} has one"
                )
            return self._made(change, name, new, packed, in_place)

    def replace(
        self,
        name: str,
        data: npt.ArrayLike,
        dtype: npt.DTypeLike | None = None,
        *,
        deferred: bool = False,
    ) -> Array:
        """Give a name another array, with the attributes of the old one; return it.

        Parameters
        ----------
        name, data, dtype
            As `create`.
        deferred : bool
            Also while views of the old one live: they keep it until the last of them goes.

        Raises
        ------
        KeyError
            There is none of that name.
        BufferError
            Views of the old one live. Nothing has changed.
        """
        key = key_of(name)
        new = _new(None, dtype, data, None)
        with Changing(self._store) as change:
            if (value := change.value(key)) is None:
                raise KeyError(name)
            return self._replaced(change, name, new, value, deferred)

    def _replaced(
        self, change: Change, name: str, new: _New, value: bytes, deferred: bool
    ) -> Array:
        old = self._store.entry(name, value)
        is_apart = self._store.space_at(old.offset).origin != 0
        array = self._made(change, name, new, old.attributes, is_apart)
        change.free(name, old, deferred)
        return array

    def _made(
        self, change: Change, name: str, new: _New, attributes: bytes, in_place: bool
    ) -> Array:
        """Make a block with the rows of a new array, and give a name its entry."""
        made, rows = change.make(Entry(new.dtype, new.shape, 0, 0, attributes), in_place)
        if new.rows is not None:
            change.fill(made, rows, new.rows)
        elif new.fill is None:
            rows.reshape(-1).view("u1").fill(0)
        else:
            rows[...] = new.fill
        key = key_of(name)
        return Array(self._store, name, key, change.put(key, made))

    def __setitem__(self, name: str, data: npt.ArrayLike) -> None:
        """Make an array, or replace the one that there is, if no views of it live."""
        with Changing(self._store) as change:
            self._assign(change, name, data)

    def _assign(self, change: Change, name: str, data: npt.ArrayLike) -> None:
        key = key_of(name)
        new = _new(None, None, data, None)
        if (value := change.value(key)) is None:
            self._made(change, name, new, b"", False)
        else:
            self._replaced(change, name, new, value, False)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Take over arrays of a mapping, or of pairs: 256 a transaction, or all in the open one."""
        rest = iter([*pairs_of(other), *more.items()] if more else pairs_of(other))
        while some := list(islice(rest, _AT_ONCE)):
            with Changing(self._store) as change:
                for name, data in some:
                    self._assign(change, name, data)

    # ------------------------------------------------------------ renaming, dropping

    def rename(self, old: str, new: str) -> None:
        """Give an array another name; its views stay, and handles of the old name are gone.

        Raises
        ------
        KeyError
            There is none of the old name.
        UsageError
            There is one of the new name.
        """
        key, to = key_of(old), key_of(new)
        with Changing(self._store) as change:
            if (value := change.value(key)) is None:
                raise KeyError(old)
            if change.value(to) is not None:
                raise UsageError(
                    f"arrays {self.name!r}: a name without an array expected, {new!r} has one"
                )
            change.remove(key)
            change.put(to, self._store.entry(old, value))

    def drop(self, name: str, *, deferred: bool = False) -> None:
        """Remove an array and free its block.

        Parameters
        ----------
        deferred : bool
            Also while views of it live: the name goes now, the block when the last of them goes.

        Raises
        ------
        KeyError
            There is none of that name.
        BufferError
            Views of it live. Nothing has changed.
        """
        with Changing(self._store) as change:
            self._drop(change, name, deferred)

    def _drop(self, change: Change, name: str, deferred: bool) -> None:
        key = _key_or_none(name)
        if key is None or (value := change.value(key)) is None:
            raise KeyError(name)
        change.remove(key)
        change.free(name, self._store.entry(name, value), deferred)

    def __delitem__(self, name: str) -> None:
        """Remove an array, if no views of it live."""
        self.drop(name)

    def pop(self, name: str, /, *default: Any) -> Any:
        """Remove an array and return a copy of it, or `default`; KeyError if that is left out."""
        with self.exclusive():
            array = self._opened(name)
            if array is None:
                if default:
                    return default[0]
                raise KeyError(name)
            copy = array[...]
            self.drop(name)
        return copy

    def popitem(self) -> tuple[str, np.ndarray[Any, Any]]:
        """Remove the first array and return its name and a copy; KeyError if there is none."""
        with self.exclusive():
            for name in self:
                return name, self.pop(name)
        raise KeyError("popitem: arrays expected, there are none")

    def clear(self) -> None:
        """Remove all arrays, in transactions of 256."""
        while names := list(islice(self, _AT_ONCE)):
            with Changing(self._store) as change:
                for name in names:
                    self._drop(change, name, False)

    # ------------------------------------------------------------ insight

    def compact(self) -> None:
        """Make the catalogue smaller, where names came in no order, and forget unused dtypes."""
        store = self._store
        with Changing(store) as change:
            entries = (store.entry(repr(key), value) for key, value in store.entries())
            used = {description_key(entry.dtype) for entry in entries if entry.dtype.names}
            for key in [*store.catalogue.keys(DESCRIBED, FIRST)]:
                if key not in used:
                    change.remove(key)
        store.catalogue.compact()

    def check(self) -> CheckReport:
        """Verify catalogue, entries, blocks and arenas, while no thread changes them. O(arrays).

        Returns
        -------
        CheckReport
            True if nothing was found; its `findings` are sentences.
        """
        with self.heap.paused():
            return arrayreport.checked(self._store)

    def statistics(self) -> ArraysStatistics:
        """Return how much there is. O(arrays)."""
        with self.heap.paused():
            return arrayreport.counted(self._store)

    def __repr__(self) -> str:
        """Show the first arrays: name, shape, type and bytes."""
        if self.heap.closed:
            return f"<Arrays {self.name!r}, closed>"
        return arraytable.as_text(self._store, len(self))

    def _repr_html_(self) -> str:
        """Show the first arrays as a table, in notebooks."""
        return arraytable.as_html(self._store, len(self))


def _key_or_none(name: object) -> bytes | None:
    """Return the key of a name; None if no array can have it."""
    try:
        return key_of(name)  # type: ignore[arg-type]
    except (TypeError, UsageError):
        return None


def _new(
    shape: int | tuple[int, ...] | None, dtype: npt.DTypeLike | None, data: Any, fill: Any
) -> _New:
    """Return what an array is to be, checked."""
    np = numpy()
    if (shape is None) == (data is None):
        found = "neither" if data is None else "both"
        raise UsageError(f"array: a shape or data expected, found {found}")
    if data is not None:
        if fill is not None:
            raise UsageError("array: data or fill expected, found both")
        rows = np.asarray(data, dtype)
        return _New(dtype_and_axes(rows.dtype)[0], rows.shape, rows, None)
    assert shape is not None
    kind, inner = dtype_and_axes(float if dtype is None else dtype)
    return _New(kind, (*shape_argument(shape), *inner), None, fill)
