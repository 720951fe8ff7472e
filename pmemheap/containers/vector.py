"""Vector: a typed array of one dimension that appends without moving.

    vector.py          what users see: a sequence of elements, arrays, conversion
    vectorchange.py    a change within a transaction; how a vector is made and dropped
    vectorstore.py     counts, header and elements; how they are found, read, checked
    arraytypes.py      the types of elements

Its elements never move: an array that was taken earlier keeps its address, and one that is taken
now is longer. `numpy.memmap` cannot do that.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, overload

from pmemheap.containers import vectorchange
from pmemheap.containers.arraytypes import numpy, plain_dtype, raw_bytes
from pmemheap.containers.names import visible_roots
from pmemheap.containers.vectorchange import Change
from pmemheap.containers.vectorshown import shown_store
from pmemheap.containers.vectorstore import VectorStore, find_store
from pmemheap.errors import UsageError
from pmemheap.heap.arenas import arena_name_argument
from pmemheap.heap.arguments import whole_number
from pmemheap.heap.heap import Heap
from pmemheap.heap.insight import CheckReport
from pmemheap.heap.snapshots import Snapshot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import TypeVar

    E = TypeVar("E", default=Any)
else:
    from typing import TypeVar

    E = TypeVar("E")

__all__ = ["Vector", "VectorStatistics"]

_COUNT_MOST = 1 << 52


@dataclass(frozen=True)
class VectorStatistics:
    """How long a vector is, and what it occupies.

    Attributes
    ----------
    length, capacity : int
        Elements that there are; that there can be before the block grows.
    itemsize : int
        Bytes of an element.
    used_bytes, block_bytes : int
        Bytes of the elements; of the block, with header and room.
    """

    length: int
    capacity: int
    itemsize: int
    used_bytes: int
    block_bytes: int


class Vector(Generic[E]):
    """A typed one-dimensional array in a heap, found by the name of a root.

    ``Vector[float]`` says to a type checker what the elements are; without it they are `Any`.

    Opens the vector under the name, or makes one if a dtype is given and there is none. Calls
    inside of an open transaction of the same thread are part of it; outside, each is one by itself.

    Parameters
    ----------
    heap : Heap or Snapshot
        Where it lives. Of a snapshot it is to be read, and as long as it was; what is assigned to
        its elements later is seen, and what is appended where elements had been taken away.
    name : str
        1 to 31 bytes of UTF-8: of its root, and of the arena that it has to itself.
    dtype : dtype, optional
        Of the elements: any that numpy can name in a word, so no objects and no fields.
    capacity : int
        Elements for which there is to be room at once. It grows by itself beyond that.
    headroom : int, optional
        Bytes of address space to keep free for its growth; see `pmemheap.Heap.arena`.

    Raises
    ------
    UsageError
        There is one of another dtype; there is none and no dtype is given, a transaction is open,
        or the arena of that name is used for something else; an argument is out of range.
    CorruptHeapError
        What the root leads to is not a sound vector.
    OutOfSpaceError
        No room; or there are 255 arenas, or 1024 roots, already.

    Examples
    --------
    >>> import pmemheap
    >>> heap = pmemheap.Heap.anonymous()
    >>> prices = Vector(heap, "prices", "f8")
    >>> prices.extend([1.5, 2.5])
    >>> early = prices.array
    >>> prices.extend(range(1_000_000))
    >>> late = prices.array
    >>> len(early), len(late), early.ctypes.data == late.ctypes.data
    (2, 1000002, True)
    >>> del early, late
    >>> heap.close()
    """

    __slots__ = ("_heap", "_store")

    def __init__(
        self,
        heap: Heap | Snapshot,
        name: str,
        dtype: npt.DTypeLike | None = None,
        *,
        capacity: int = 0,
        headroom: int | None = None,
    ) -> None:
        name = arena_name_argument(name)
        if isinstance(heap, Snapshot):
            self._heap = heap.heap
            self._store: VectorStore = shown_store(heap, name)
            return
        self._heap = heap
        room = whole_number("vector: capacity", capacity, 0, _COUNT_MOST)
        wanted = None if dtype is None else plain_dtype(dtype)
        vectorchange.make_missing(heap, name, wanted, room, headroom)
        self._store = store = find_store(heap, name, headroom)
        if wanted is not None and wanted != store.dtype:
            raise UsageError(
                f"vector {name!r}: dtype {store.dtype.str!r} expected, {wanted.str!r} found"
            )
        if room > store.capacity():
            store.reserve(room)

    # ------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """Name of its root and of its arena."""
        return self._store.name

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self._store.dtype

    def __len__(self) -> int:
        """Return the number of elements."""
        return self._store.counts(visible_roots(self._heap)).length

    def __repr__(self) -> str:
        """Show name, type and length, if its heap is open."""
        state = "closed" if self._store.arena.closed else f"{len(self)} elements"
        return f"<Vector {self.name!r}, {self.dtype.str}, {state}>"

    # ------------------------------------------------------------ reading

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The elements themselves, as a numpy array of the present length.

        It stays valid, at its address, while the vector grows; it does not become longer, and what
        `truncate` and `pop` take away it shows as it was. As long as it lives the heap cannot be
        closed, nor the vector dropped. Stores through it are those of a view: seen at once, and not
        part of any transaction.
        """
        return self._store.elements()

    @overload
    def __getitem__(self, key: int) -> E: ...

    @overload
    def __getitem__(self, key: slice) -> np.ndarray[Any, Any]: ...

    def __getitem__(self, key: int | slice) -> Any:
        """Return an element, or a copy of a slice as an array.

        A copy, for it neither changes later nor keeps the heap from being closed; ``v.array[a:b]``
        is the slice without a copy.

        Raises
        ------
        IndexError
            There is no such element.
        """
        return self._store.copied(key if isinstance(key, slice) else operator.index(key))

    def __iter__(self) -> Iterator[E]:
        """Yield the elements that there are now."""
        return iter(self[:])

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray[Any, Any]:
        """Return `array` for numpy, which may ask for another type or a copy."""
        array = self.array
        if copy or (dtype is not None and dtype != array.dtype):
            return array.astype(dtype or array.dtype)
        return array

    # ------------------------------------------------------------ changing

    def append(self, value: E) -> None:
        """Add an element at the end.

        Parameters
        ----------
        value : scalar
            Converted as numpy does it, with the exceptions of numpy.

        Raises
        ------
        UsageError
            It is no scalar; the heap is read-only or closed.
        BufferError
            Arrays live that may show elements that were taken away from there. Nothing has changed.
        OutOfSpaceError, DurabilityError
            As those of a transaction.
        """
        vectorchange.append(self._store, self._one(value))

    def extend(self, values: Iterable[E] | np.ndarray[Any, Any]) -> None:
        """Add elements at the end: all of them or none.

        Parameters
        ----------
        values : iterable or array
            Of one dimension; converted as numpy does it. Inside of a transaction no more than its
            record can hold, which is 32 MiB at most.

        Raises
        ------
        UsageError
            They have another number of dimensions; the heap is read-only or closed.
        BufferError
            As `append`.
        OutOfSpaceError, DurabilityError
            As those of a transaction.
        """
        listed = hasattr(values, "__array__") or isinstance(values, (Sequence, memoryview))
        array = numpy().asarray(values if listed else list(values), self._store.dtype)
        if array.ndim != 1:
            raise UsageError(
                f"vector {self.name!r}: values of one dimension expected, {array.ndim} found"
            )
        if len(array):
            vectorchange.append(self._store, array)

    def pop(self) -> E:
        """Take the last element away and return it; IndexError if there is none."""
        with self._heap.transaction() as tx:
            change = Change(self._store, tx)
            length = change.counts.length
            if not length:
                raise IndexError(f"vector {self.name!r}: pop: an element expected, none found")
            value: E = self._store.copied(length - 1)
            change.end(length - 1)
        return value

    def truncate(self, length: int) -> None:
        """Take elements away at the end, until `length` are left; their space stays as room.

        Arrays that show them keep them as they are: as long as arrays live, nothing grows over them
        (BufferError of `append` and `extend`).

        Raises
        ------
        UsageError
            There are fewer already.
        """
        with self._heap.transaction() as tx:
            change = Change(self._store, tx)
            most = change.counts.length
            change.end(
                whole_number(f"vector {self._store.name!r}: truncate: length", length, 0, most)
            )

    def __setitem__(self, key: int | slice, value: Any) -> None:
        """Change an element or a slice, in a transaction; a slice keeps its length.

        Raises
        ------
        IndexError
            There is no such element.
        ValueError
            The value does not fit the slice.
        """
        with self._heap.transaction() as tx:
            change = Change(self._store, tx)
            everything = range(change.counts.length)
            if isinstance(key, slice):
                self._set_slice(change, everything[key], value)
            else:
                change.put(everything[operator.index(key)], raw_bytes(self._one(value)))
                change.end(change.counts.length)

    def _set_slice(self, change: Change, picked: range, value: Any) -> None:
        """Change a copy of all from the first to the last that is picked, and put it back."""
        low = min(picked, default=0)
        changed = self._store.copied(slice(low, max(picked, default=-1) + 1))
        changed[numpy().arange(picked.start, picked.stop, picked.step) - low] = value
        if len(changed):
            change.put(low, raw_bytes(changed))
            change.end(change.counts.length)

    def _one(self, value: Any) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = numpy().asarray(value, self._store.dtype)
        if array.ndim:
            raise UsageError(
                f"vector {self.name!r}: one element expected, an array of shape {array.shape} found"
            )
        return array.reshape(1)

    # ------------------------------------------------------------ insight, end

    def check(self) -> CheckReport:
        """Verify counts, header and arena.

        Returns
        -------
        CheckReport
            True if nothing was found; its `findings` are sentences.
        """
        with self._heap.paused():
            return self._store.checked()

    def statistics(self) -> VectorStatistics:
        """Return how long it is, and what it occupies."""
        store, length = self._store, len(self)
        itemsize, usable = store.dtype.itemsize, store.arena.usable_size(store.block)
        return VectorStatistics(length, store.capacity(), itemsize, length * itemsize, usable)

    def drop(self) -> None:
        """Remove the vector with its root and its arena.

        Raises
        ------
        BufferError
            Arrays of it are alive. Nothing has changed.
        UsageError
            A transaction of this thread is open, the heap is read-only or closed, or the vector was
            dropped already.

        Notes
        -----
        A crash in the middle, or an array that another thread takes in the middle, can leave an
        empty arena behind. A new vector of that name uses it.
        """
        vectorchange.drop(self._store)
