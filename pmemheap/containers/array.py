"""Array: one array of a heap, found by its name each time that it is used.

    Array "a" -- entry of the catalogue -- block

It keeps no view, so that it keeps nobody from anything: a look at the entry, which is a look at a
few bytes, says at each call where the array lies now, and whether it is still the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from pmemheap.containers.arraychange import Appending, Change, Changing
from pmemheap.containers.arrayentry import Entry
from pmemheap.containers.arraylives import Life
from pmemheap.containers.arraypick import pick
from pmemheap.containers.arraystore import ArrayStore
from pmemheap.containers.arraytypes import numpy
from pmemheap.errors import UsageError
from pmemheap.heap.arguments import whole_number
from pmemheap.heap.space import space_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Array", "Attributes", "packed_attributes"]

_LENGTH_MOST = 1 << 52
_ATTRIBUTE_BYTES_MOST = 1 << 16


class Array:
    """An array of n dimensions in a heap; made by `Arrays`.

    It is what h5py and zarr call a dataset: `dtype`, `shape` and `attrs` are kept beside the rows,
    an index reads a copy and assigns in a transaction, and `view` is the memory itself, as an array
    of numpy. Once it is dropped, replaced or renamed, or its heap is closed, all of it is a
    UsageError.

    Examples
    --------
    >>> import pmemheap
    >>> from pmemheap.containers import Arrays
    >>> heap = pmemheap.Heap.anonymous()
    >>> points = Arrays(heap).create("points", (2, 3), "f4", fill=1)
    >>> points[0] = 5
    >>> points.append([7, 8, 9])
    >>> points.shape, points[:, 0].tolist()
    ((3, 3), [5.0, 1.0, 7.0])
    >>> points[points.view()[:, 0] > 4] = 0
    >>> float(points.view().sum())
    3.0
    >>> points.attrs["unit"] = "mm"
    >>> heap.close()
    """

    __slots__ = ("__weakref__", "_key", "_life", "_name", "_seen", "_store")

    def __init__(self, store: ArrayStore, name: str, key: bytes, value: bytes) -> None:
        self._store, self._name, self._key = store, name, key
        self._seen = value, store.entry(name, value)
        self._life: Life = store.life_of(self._seen[1])

    # ------------------------------------------------------------ what it is

    def _now(self) -> Entry:
        """Return the entry as this thread sees it; UsageError if it is that of another array."""
        return self._seen_now()[1]

    def _seen_now(self) -> tuple[bytes, Entry]:
        """Return it with its value.

        Another thread may move the array between the look at the value and that at the block.
        """
        value = self._store.catalogue.get(self._key)
        while (entry := self._entry_of(value)) is None:
            before, value = value, self._store.catalogue.get(self._key)
            if value == before:
                raise self._gone()
        assert value is not None, "it has an entry"
        return value, entry

    def _entry_of(self, value: bytes | None) -> Entry | None:
        """Return the entry of a value; None if it is none of this array, as far as it is known."""
        if value is None:
            return None
        seen, entry = self._seen
        if value != seen:
            entry = self._store.entry(self._name, value)
            self._seen = value, entry
        return entry if self._life.has(entry.offset) else None

    def _gone(self) -> UsageError:
        space_of(self._store.heap).require()
        return UsageError(
            f"array {self._name!r}: one that is there expected, it was dropped, replaced or renamed"
        )

    def _found(self, change: Change) -> Entry:
        entry = self._entry_of(change.value(self._key))
        if entry is None:
            raise self._gone()
        return entry

    @property
    def name(self) -> str:
        """The name under which it was found."""
        return self._name

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self._now().dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self._now().shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._now().shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        entry = self._now()
        return entry.nbytes // entry.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._now().nbytes

    @property
    def capacity(self) -> int:
        """Rows for which there is room where it lies."""
        return self._store.capacity(self._with_axis("capacity"))

    @property
    def attrs(self) -> Attributes:
        """Its attributes, a mapping of which each change is a transaction."""
        self._now()
        return Attributes(self)

    def __len__(self) -> int:
        """Return the number of rows."""
        entry = self._now()
        if not entry.shape:
            raise TypeError(f"array {self._name!r}: an axis expected for len(), it has none")
        return entry.length

    def __repr__(self) -> str:
        """Show name, shape and type, if it is still there."""
        try:
            entry = self._now()
        except UsageError:
            return f"<Array {self._name!r}, gone>"
        return f"<Array {self._name!r}, shape {entry.shape}, {entry.dtype}>"

    # ------------------------------------------------------------ reading

    def view(self) -> np.ndarray[Any, Any]:
        """Return the rows themselves, as an array of numpy; nothing is copied.

        It stays where it is, and as long as it is, whatever becomes of the array. As long as it
        lives the heap cannot be closed, nor the array dropped or replaced unless that is deferred.
        Stores through it are seen at once, and are part of no transaction.
        """
        catalogue, key = self._store.catalogue, self._key
        while True:
            value, entry = self._seen_now()
            try:
                array = self._store.shown(entry)
            except (UsageError, ValueError, OverflowError) as error:  # of the heap, or of numpy
                self._require_moved(value, entry, error)
                continue
            if catalogue.get(key) == value:  # so the block was that of the array
                self._life.shown = max(self._life.shown, entry.length)
                return array

    def _require_moved(self, value: bytes, entry: Entry, error: Exception) -> None:
        """Raise what is damaged, unless the entry has changed since."""
        if self._store.catalogue.get(self._key) == value:
            what = f"a block of {entry.nbytes} bytes for {entry.shape} expected: {error}"
            raise self._store.damage(self._name, what) from error

    def __getitem__(self, key: Any) -> Any:
        """Return elements as numpy does it, as a copy: ``a.view()[key]`` is without one."""
        while True:
            value, entry = self._seen_now()
            try:
                glance = self._store.glance(entry)
            except (UsageError, ValueError, OverflowError) as error:
                self._require_moved(value, entry, error)
                continue
            with glance as view:
                if self._store.catalogue.get(self._key) == value:
                    return self._copied(entry, view, key)

    def _copied(self, entry: Entry, view: memoryview, key: Any) -> Any:
        """Return elements that a view shows, as a copy."""
        try:
            rows = numpy().ndarray(entry.shape, entry.dtype, view)
        except ValueError as error:
            raise self._store.damage(self._name, f"a shape for numpy expected: {error}") from error
        found = rows[key]
        if isinstance(found, (numpy().ndarray, numpy().void)):
            found = found.copy()
        space_of(self._store.heap).require_kept()
        return found

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows that there are now."""
        return iter(self[:])

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray[Any, Any]:
        """Return `view` for numpy, which may ask for another type or a copy."""
        array = self.view()
        if dtype is not None and dtype != array.dtype:
            if copy is False:
                raise ValueError(f"array {self._name!r}: a copy is needed for {dtype}")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        """Return `view` for libraries that take DLPack; parameters as that of numpy."""
        return self.view().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the device of DLPack that is the memory of this process."""
        return self.view().__dlpack_device__()

    # ------------------------------------------------------------ changing

    def __setitem__(self, key: Any, value: Any) -> None:
        """Assign as numpy does it, in a transaction: slices, masks, numbers of rows, fields.

        What is logged are the rows that the first part of the index picks. All of that has to fit
        into a record, which is 32 MiB at most.

        Raises
        ------
        IndexError, ValueError, TypeError
            As numpy. Nothing has changed.
        OutOfSpaceError, DurabilityError
            As those of a transaction.
        """
        with Changing(self._store) as change:
            entry = self._found(change)
            change.change_rows(entry, pick(entry.shape, key), value)

    def append(self, row: Any) -> None:
        """Add a row at the end.

        Parameters
        ----------
        row : array_like
            Of the shape of a row; converted as numpy does it.

        Raises
        ------
        UsageError
            It has another shape; the array has no axes, or is gone; the heap is read-only.
        BufferError
            Views live, and the array would have to move in order to grow, or to grow over rows that
            were taken away, which the views may show. Nothing has changed.
        OutOfSpaceError, DurabilityError
            As those of a transaction.
        """
        self._append(numpy().asarray(row, self._now().dtype)[None], "a row")

    def extend(self, rows: Iterable[Any] | np.ndarray[Any, Any]) -> None:
        """Add rows at the end: all of them or none. Exceptions as `append`.

        Parameters
        ----------
        rows : array_like or iterable
            Each of the shape of a row. Inside of a transaction no more than its record can hold,
            which is 32 MiB at most, unless the array moves.
        """
        if isinstance(rows, Iterator):
            rows = list(rows)
        self._append(numpy().asarray(rows, self._now().dtype), "rows")

    def _append(self, rows: np.ndarray[Any, Any], what: str) -> None:
        row = self._with_axis("rows").shape[1:]
        if rows.shape == (0,):  # as an empty list is
            return
        if not rows.ndim:
            raise UsageError(f"array {self._name!r}: rows expected, {rows} found")
        if rows.shape[1:] != row:
            raise UsageError(
                f"array {self._name!r}: {what} of shape {row} expected, {rows.shape[1:]} found"
            )
        if len(rows):
            self._appending(rows).run()

    def resize(self, length: int) -> None:
        """Make it longer, by rows of zeros, or shorter, in place; exceptions as `append`.

        Rows that are taken away stay as room for later, and views that show them keep them.
        """
        wanted = whole_number(f"array {self._name!r}: length", length, 0, _LENGTH_MOST)
        while not self._resized(wanted):
            pass

    def _resized(self, wanted: int) -> bool:
        """Give it a length; False if somebody else has changed that meanwhile."""
        with Changing(self._store) as change:
            entry = self._with_axis("length", self._found(change))
            if wanted <= entry.length:
                self._life.changes += 1
                change.set_length(self._key, entry, wanted)
                return True
        zeros = numpy().zeros((wanted - entry.length, *entry.shape[1:]), entry.dtype)
        return self._appending(zeros, entry.length).run()

    def _appending(self, rows: np.ndarray[Any, Any], length: int | None = None) -> Appending:
        return Appending(self._store, self._key, self._name, self._life, self._found, rows, length)

    def _with_axis(self, what: str, entry: Entry | None = None) -> Entry:
        entry = entry or self._now()
        if not entry.shape:
            raise UsageError(f"array {self._name!r}: an axis expected for {what}, it has none")
        return entry

    # ------------------------------------------------------------ attributes

    def _attributes(self) -> dict[str, Any]:
        return self._unpacked(self._now())

    def _unpacked(self, entry: Entry) -> dict[str, Any]:
        if not entry.attributes:
            return {}
        try:
            found = json.loads(entry.attributes)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._store.damage(
                self._name, f"attributes in JSON expected, {entry.attributes!r} found"
            )
        return found

    def _change_attributes(self, change_them: Callable[[dict[str, Any]], object]) -> None:
        with Changing(self._store) as change:
            entry = self._found(change)
            attributes = self._unpacked(entry)
            change_them(attributes)
            packed = packed_attributes(self._name, attributes)
            change.put(self._key, entry._replace(attributes=packed))


class Attributes(MutableMapping[str, Any]):
    """The attributes of an array: names, and values that JSON has; 64 KiB at most."""

    __slots__ = ("_array",)

    def __init__(self, array: Array) -> None:
        self._array = array

    def __getitem__(self, name: str) -> Any:
        """Return the value of an attribute."""
        return self._array._attributes()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        """Give an attribute a value, in a transaction; UsageError if JSON has none like it."""
        self.update({name: value})

    def __delitem__(self, name: str) -> None:
        """Remove an attribute, in a transaction."""
        self._array._change_attributes(lambda attributes: attributes.pop(name))

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Give attributes values as `dict.update` does, all in one transaction."""
        new = dict(other, **more)
        self._array._change_attributes(lambda attributes: attributes.update(new))

    def clear(self) -> None:
        """Remove all attributes, in a transaction."""
        self._array._change_attributes(dict.clear)

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._array._attributes())

    def __len__(self) -> int:
        """Count them."""
        return len(self._array._attributes())

    def __repr__(self) -> str:
        """Show them as a dict."""
        return repr(self._array._attributes())


def packed_attributes(name: str, attributes: dict[str, Any]) -> bytes:
    """Return attributes in JSON; none are no bytes.

    Raises
    ------
    UsageError
        JSON has no such names or values, or they are too long.
    """
    if not attributes:
        return b""
    odd = [each for each in attributes if not isinstance(each, str)]
    if odd:
        raise UsageError(f"array {name!r}: attributes with names expected, {odd[0]!r} found")
    try:
        text = json.dumps(attributes, separators=(",", ":"), ensure_ascii=False, default=_scalar)
        packed = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"array {name!r}: attributes for JSON expected: {error}") from error
    if len(packed) > _ATTRIBUTE_BYTES_MOST:
        raise UsageError(
            f"array {name!r}: attributes of at most {_ATTRIBUTE_BYTES_MOST} bytes expected, "
            f"{len(packed)} found"
        )
    return packed


def _scalar(value: Any) -> Any:
    """Return the Python value of a scalar of numpy, for JSON."""
    if isinstance(value, numpy().generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r} found")
