"""Vector: a typed array of one dimension that appends without moving.

    root "prices" --> counts: magic, block, length, high       a small block of the heap
                                       |
                                       v                       the only block of arena "prices"
                      +-------+---------+-------+----------+---------+- - - -
                      | magic | changes | dtype | elements | to come |  growth
                      +-------+---------+-------+----------+---------+- - - -
                      0       8         16      64: v.array, whose address never changes

A vector has an arena of its own, and that has one block. Behind an arena lies address space that
nobody else gets, so `expand` can always let the block grow where it stands: an array that was taken
earlier keeps its address, and one that is taken now is longer. `numpy.memmap` cannot do that.

Two ways to change it, both as a whole or not at all:

- alone: new elements and new counts are written by one transaction, in one record. More than
  `_PART_BYTES` go ahead in records of their own, into space behind the length, where nobody looks;
  the last record has the length.
- inside of a transaction of the caller: the counts go into a new block, to which the root of the
  transaction leads. So the thread sees what it did, no other one does, and an abort, or that of a
  savepoint, takes it back; a new block needs no old bytes in the log. At `high` and behind it no
  element is anybody's: there they are stored at once, and written, so that the commit has them.
  Elements below `high` may be committed and are snapshotted before.

Invariants, checked by `Vector.check`:
  1. length <= high <= elements for which the block has room;
  2. no element at `high` or behind it is committed;
  3. the arena has no other block: that is what keeps the space behind it free.

Every change begins with a snapshot, if only of no bytes: it waits until no other transaction
changes committed bytes. So what was read after it stays as it is until the commit. `changes` counts
them, also those that are aborted: who appends in parts sees whether somebody was there in between.
Only this process compares it; what a crash makes of it does not matter.
"""

from __future__ import annotations

import operator
import os
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pmemheap.containers.names import VECTOR_MAGIC, found_kind, visible_roots
from pmemheap.errors import CorruptHeapError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.heap.arenas import Arena, arena_name_argument
from pmemheap.heap.arguments import whole_number
from pmemheap.heap.heap import Heap
from pmemheap.heap.insight import CheckReport
from pmemheap.heap.transaction import Savepoint, Transaction
from pmemheap.native.constants import place
from pmemheap.refusals import end_with
from pmemheap.units import UNIT, KiB, MiB

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Vector", "VectorStatistics"]

_COUNTS = struct.Struct("<8sQQQ")  # magic, offset of the block, length, high
_LENGTHS = struct.Struct("<QQ")
_LENGTHS_AT = _COUNTS.size - _LENGTHS.size
_MAGIC = b"PHVECTOR"
_HEADER = struct.Struct("<8sQ32s16x")  # magic, changes, dtype
_CHANGES = struct.Struct("<Q")
_CHANGES_AT = place("ph_vector_header", "changes")
_DTYPE_BYTES = 32
_DTYPE = re.compile(rb"[<>|][biufcmMSU]\d{1,9}(\[\d{0,9}[A-Za-z]{1,2}\])?")
_ELEMENTS_AT = _HEADER.size
_BLOCK_LEAST = 64 * KiB
_PART_BYTES = 4 * MiB
_COUNT_MOST = 1 << 52

_making = threading.Lock()


def _renew_locks() -> None:
    """In a forked child: the thread that had it is not there to release it."""
    global _making  # noqa: PLW0603 -- a lock cannot be made anew in place
    _making = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


class _Counts(NamedTuple):
    """A change: the bytes, and the offset at which they lie."""

    place: int
    length: int
    high: int


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


class Vector:
    """A typed one-dimensional array in a heap, found by the name of a root.

    Opens the vector under the name, or makes one if a dtype is given and there is none. Calls
    inside of an open transaction of the same thread are part of it; outside, each is one by itself.

    Parameters
    ----------
    heap : Heap
        Where it lives.
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

    __slots__ = ("_arena", "_block", "_dtype", "_headroom", "_heap", "_name")

    def __init__(
        self,
        heap: Heap,
        name: str,
        dtype: npt.DTypeLike | None = None,
        *,
        capacity: int = 0,
        headroom: int | None = None,
    ) -> None:
        self._heap, self._name = heap, arena_name_argument(name)
        self._headroom = headroom
        room = whole_number("vector: capacity", capacity, 0, _COUNT_MOST)
        wanted = None if dtype is None else _plain_dtype(dtype)
        with _making:
            if name not in heap.roots:
                self._make(wanted, room)
        self._open(wanted)
        if room > self._capacity():
            self._reserve(room)

    # ------------------------------------------------------------ making, opening

    def _make(self, dtype: np.dtype[Any] | None, capacity: int) -> None:
        if dtype is None:
            raise UsageError(
                f"vector {self._name!r}: a root of that name, or a dtype to make one, expected, "
                "found neither"
            )
        self._require_alone("made")
        is_new = self._name not in self._heap.arenas()
        arena = self._heap.arena(self._name, headroom=self._headroom)
        try:
            self._make_in(arena, dtype, capacity)
        except BaseException as error:
            if is_new and next(arena.blocks(), None) is None:
                end_with(error, arena.drop)
            raise

    def _make_in(self, arena: Arena, dtype: np.dtype[Any], capacity: int) -> None:
        if (other := next(arena.blocks(), None)) is not None:
            raise UsageError(
                f"vector {self._name!r}: an arena of that name without blocks expected, "
                f"found one at {other[0]:#x}"
            )
        size = max(_BLOCK_LEAST, _ELEMENTS_AT + capacity * dtype.itemsize)
        with self._heap.transaction() as tx:
            block, counts = tx.malloc(size, UNIT, arena), tx.malloc(_COUNTS.size)
            with arena._own_view(block, _ELEMENTS_AT) as view:
                _HEADER.pack_into(view, 0, _MAGIC, 0, dtype.str.encode())
            with self._heap._own_view(counts, _COUNTS.size) as view:
                _COUNTS.pack_into(view, 0, VECTOR_MAGIC, block, 0, 0)
            tx.roots[self._name] = counts

    def _require_alone(self, what: str) -> None:
        tx = self._heap.transaction()
        tx.abort()  # a commit would wait until what came before it is durable
        if isinstance(tx, Savepoint):
            raise UsageError(
                f"vector {self._name!r}: no open transaction expected where it is {what}, found one"
            )

    def _open(self, wanted: np.dtype[Any] | None) -> None:
        place, counts = _look(self._heap.roots, self._name, self._heap)
        if self._opens(place, counts):  # else what others commit meanwhile may be why
            with self._heap.paused():
                place, counts = _look(self._heap.roots, self._name, self._heap)
                for error in self._opens(place, counts):
                    self._heap._require_ours("vector")
                    raise error
        if wanted is not None and wanted != self._dtype:
            raise UsageError(
                f"vector {self._name!r}: dtype {self._dtype.str!r} expected, {wanted.str!r} found"
            )

    def _opens(self, place: int, counts: bytes) -> list[PmemHeapError]:
        """Take what some counts lead to for the vector; return why not, if it is none."""
        if not counts:
            return [
                CorruptHeapError(self._finding(f"root at offset {place:#x}", "a block", "none"))
            ]
        if not counts.startswith(VECTOR_MAGIC) and not self._has_block():
            return [
                UsageError(
                    f"vector {self._name!r}: a root of that name that leads to a Vector expected, "
                    f"it leads to {found_kind(counts[:8])}"
                )
            ]
        try:
            self._arena = self._heap.arena(self._name, create=False, headroom=self._headroom)
        except KeyError:
            missing = f"vector {self._name!r}: an arena of that name expected, none found"
            return [CorruptHeapError(missing)]
        found = [CorruptHeapError(finding) for finding in self._findings(place, counts)]
        if not found:
            self._block = _COUNTS.unpack(counts)[1]
            self._dtype = _stored_dtype(_bytes_at(self._arena, self._block, _ELEMENTS_AT))
        return list(found)

    def _has_block(self) -> bool:
        """Tell whether there is the arena of a vector of this name: then its counts are damaged."""
        with suppress(KeyError):
            arena = self._heap.arena(self._name, create=False, headroom=self._headroom)
            blocks = [offset for offset, _ in islice(arena.blocks(), 1)]
            return any(_bytes_at(arena, block, 8) == _MAGIC for block in blocks)
        return False

    def _findings(self, place: int, counts: bytes) -> Iterator[str]:
        """Yield what is wrong with the counts at an offset and with the header they lead to."""
        where = f"counts at offset {place:#x}"
        if len(counts) < _COUNTS.size or not counts.startswith(VECTOR_MAGIC):
            yield self._finding(where, f"magic {VECTOR_MAGIC!r}", repr(counts[:8]))
            return
        _, block, length, high = _COUNTS.unpack(counts)
        header = _bytes_at(self._arena, block, _ELEMENTS_AT)
        if len(header) < _ELEMENTS_AT:
            yield self._finding(where, f"a block of arena {self._name!r}", f"{block:#x}")
            return
        try:
            dtype = _stored_dtype(header)
        except CorruptHeapError as error:
            yield f"vector {self._name!r}: header at offset {block:#x}: {error}"
            return
        room = (self._arena.usable_size(block) - _ELEMENTS_AT) // dtype.itemsize
        if not length <= high <= room:
            found = f"length {length} and high {high}"
            yield self._finding(where, f"length <= high <= {room}", found)

    def _finding(self, where: str, expected: str, found: str) -> str:
        return f"vector {self._name!r}: {where}: {expected} expected, {found} found"

    # ------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """Name of its root and of its arena."""
        return self._name

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self._dtype

    def __len__(self) -> int:
        """Return the number of elements."""
        return self._counts().length

    def __repr__(self) -> str:
        """Show name, type and length, if its heap is open."""
        if self._arena.closed:
            return f"<Vector {self._name!r}, {self._dtype.str}, closed>"
        return f"<Vector {self._name!r}, {self._dtype.str}, {len(self)} elements>"

    def _counts(self) -> _Counts:
        """Return the counts, as the open transaction of this thread will leave them."""
        return self._counts_by(visible_roots(self._heap))

    def _counts_by(self, roots: Mapping[str, int]) -> _Counts:
        """Return the counts to which a root leads.

        Raises
        ------
        UsageError
            The vector was dropped.
        CorruptHeapError
            They are none of this vector.
        """
        place, counts = _look(roots, self._name, self._heap)
        if self._are_mine(counts):
            return _Counts(place, *_COUNTS.unpack(counts)[2:])
        with self._heap.paused():  # what others commit meanwhile may be why
            place, counts = _look(roots, self._name, self._heap)
            if not self._are_mine(counts):
                raise self._contradiction(place, counts)
        return _Counts(place, *_COUNTS.unpack(counts)[2:])

    def _are_mine(self, counts: bytes) -> bool:
        """Tell whether counts are sound, and those of the block of this vector."""
        if len(counts) < _COUNTS.size or self._arena.closed:
            return False
        magic, block, length, high = _COUNTS.unpack(counts)
        is_mine: bool = magic == VECTOR_MAGIC and block == self._block
        return is_mine and length <= high <= self._capacity()

    def _contradiction(self, place: int, counts: bytes) -> PmemHeapError:
        self._heap._require_ours("vector")
        if self._arena.closed:
            return UsageError(f"vector {self._name!r}: one that is there expected, it was dropped")
        default = self._finding(
            f"counts at offset {place:#x}", f"block {self._block:#x}", "another"
        )
        return CorruptHeapError(next(self._findings(place, counts), default))

    def _capacity(self) -> int:
        return (self._arena.usable_size(self._block) - _ELEMENTS_AT) // self._dtype.itemsize

    # ------------------------------------------------------------ reading

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The elements themselves, as a numpy array of the present length.

        It stays valid, at its address, while the vector grows; it does not become longer. As long
        as it lives the heap cannot be closed, nor the vector dropped. Stores through it are those
        of a view: seen at once, and not part of any transaction.
        """
        return self._array_by(self._arena.view)

    def _array_by(self, look: Callable[[int, int], memoryview]) -> np.ndarray[Any, Any]:
        """Return the elements through one or the other kind of view."""
        length = self._counts().length
        view = look(self._block, _ELEMENTS_AT + length * self._dtype.itemsize)
        array: np.ndarray[Any, Any] = _numpy().ndarray((length,), self._dtype, view, _ELEMENTS_AT)
        return array

    def _copied(self, key: int | slice) -> Any:
        """Return an element, or a copy of a slice."""
        found = self._array_by(self._arena._own_view)[key]
        if isinstance(key, slice):
            found = found.copy()
        self._heap._require_kept()
        return found

    def __getitem__(self, key: int | slice) -> Any:
        """Return an element, or a copy of a slice as an array.

        A copy, for it neither changes later nor keeps the heap from being closed; ``v.array[a:b]``
        is the slice without a copy.

        Raises
        ------
        IndexError
            There is no such element.
        """
        return self._copied(key if isinstance(key, slice) else operator.index(key))

    def __iter__(self) -> Iterator[Any]:
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

    def append(self, value: Any) -> None:
        """Add an element at the end.

        Parameters
        ----------
        value : scalar
            Converted as numpy does it, with the exceptions of numpy.

        Raises
        ------
        UsageError
            It is no scalar; the heap is read-only or closed.
        OutOfSpaceError, DurabilityError
            As those of a transaction.
        """
        self._append(self._one(value))

    def extend(self, values: Iterable[Any] | np.ndarray[Any, Any]) -> None:
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
        OutOfSpaceError, DurabilityError
            As those of a transaction.
        """
        listed = hasattr(values, "__array__") or isinstance(values, (Sequence, memoryview))
        array = _numpy().asarray(values if listed else list(values), self._dtype)
        if array.ndim != 1:
            raise UsageError(
                f"vector {self._name!r}: values of one dimension expected, {array.ndim} found"
            )
        if len(array):
            self._append(array)

    def pop(self) -> Any:
        """Take the last element away and return it; IndexError if there is none."""
        with self._heap.transaction() as tx:
            change = _Change(self, tx)
            length = change.counts.length
            if not length:
                raise IndexError(f"vector {self._name!r}: pop: an element expected, none found")
            value = self._copied(length - 1)
            change.end(length - 1)
        return value

    def truncate(self, length: int) -> None:
        """Take elements away at the end, until `length` are left; their space stays as room.

        Raises
        ------
        UsageError
            There are fewer already.
        """
        with self._heap.transaction() as tx:
            change = _Change(self, tx)
            most = change.counts.length
            change.end(whole_number(f"vector {self._name!r}: truncate: length", length, 0, most))

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
            change = _Change(self, tx)
            everything = range(change.counts.length)
            if isinstance(key, slice):
                self._set_slice(change, everything[key], value)
            else:
                change.put(everything[operator.index(key)], _raw(self._one(value)))
                change.end(change.counts.length)

    def _set_slice(self, change: _Change, picked: range, value: Any) -> None:
        """Change a copy of all from the first to the last that is picked, and put it back."""
        low = min(picked, default=0)
        changed = self._copied(slice(low, max(picked, default=-1) + 1))
        changed[_numpy().arange(picked.start, picked.stop, picked.step) - low] = value
        if len(changed):
            change.put(low, _raw(changed))
            change.end(change.counts.length)

    def _one(self, value: Any) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = _numpy().asarray(value, self._dtype)
        if array.ndim:
            raise UsageError(
                f"vector {self._name!r}: one element expected, an array of shape {array.shape} "
                "found"
            )
        return array.reshape(1)

    # ------------------------------------------------------------ growing

    def _append(self, values: np.ndarray[Any, Any]) -> None:
        raw = _raw(values)
        with self._heap.transaction() as tx:
            change = _Change(self, tx)
            if change.joins or len(raw) <= _PART_BYTES:
                length = change.counts.length
                self._reserve(length + len(values))
                change.put(length, raw)
                change.end(length + len(values))
                return
        while not self._append_in_parts(raw):
            pass

    def _append_in_parts(self, raw: memoryview) -> bool:
        """Append more than a record should hold; False if somebody else changed the vector."""
        itemsize, seen = self._dtype.itemsize, 0
        step = max(_PART_BYTES // itemsize, 1) * itemsize
        for start in range(0, len(raw), step):
            with self._heap.transaction() as tx:
                change = _Change(self, tx)
                if start and change.number != seen + 1:
                    return False
                length, seen = change.counts.length, change.number
                self._reserve(length + len(raw) // itemsize)
                change.put(length + start // itemsize, raw[start : start + step])
                if start + step >= len(raw):
                    change.end(length + len(raw) // itemsize)
        return True

    def _reserve(self, count: int) -> None:
        """Let the block grow in place until it has room for `count` elements."""
        usable = self._arena.usable_size(self._block)
        wanted = _ELEMENTS_AT + count * self._dtype.itemsize
        if wanted <= usable:
            return
        with suppress(OutOfSpaceError):  # room for later is a wish
            roomy = max(wanted, usable + min(max(usable // 8, MiB), usable))
            if self._arena.expand(self._block, roomy):
                return
        if not self._arena.expand(self._block, wanted):
            raise OutOfSpaceError(
                f"vector {self._name!r}: block at offset {self._block:#x}: room for {wanted} "
                f"bytes in place expected, {usable} found"
            )

    # ------------------------------------------------------------ insight, end

    def check(self) -> CheckReport:
        """Verify counts, header and arena.

        Returns
        -------
        CheckReport
            True if nothing was found; its `findings` are sentences.
        """
        with self._heap.paused():
            return self._checked()

    def _checked(self) -> CheckReport:
        place, counts = _look(visible_roots(self._heap), self._name, self._heap)
        usable = self._arena.usable_size(self._block)
        blocks = [offset for offset, _ in self._arena.blocks()]
        found = list(self._findings(place, counts))
        found += [
            self._finding("its arena", "no other block", f"one at {offset:#x}")
            for offset in blocks
            if offset != self._block
        ]
        return CheckReport(tuple(found[:64]), len(found), len(blocks), usable // UNIT)

    def statistics(self) -> VectorStatistics:
        """Return how long it is, and what it occupies."""
        length, itemsize = len(self), self._dtype.itemsize
        usable = self._arena.usable_size(self._block)
        return VectorStatistics(length, self._capacity(), itemsize, length * itemsize, usable)

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
        self._require_alone("dropped")
        with self._heap.transaction() as tx:
            counts = _Change(self, tx).counts
            tx.free(self._block)
            tx.free(counts.place, deferred=True)  # others may be reading them
            del tx.roots[self._name]
        with suppress(BufferError):
            self._arena.drop()


class _Change:
    """One change of a vector, as part of a transaction.

    Attributes
    ----------
    joins : bool
        Whether the transaction was open before: then this is a savepoint of it.
    counts : _Counts
        Those of the vector, which nobody else can change until the transaction ends.
    number : int
        Of this change; they are numbered in the order in which they have the vector.
    """

    def __init__(self, vector: Vector, tx: Transaction) -> None:
        self._vector, self._tx = vector, tx
        self._heap, self._arena, self._block = vector._heap, vector._arena, vector._block
        self.joins = isinstance(tx, Savepoint)
        try:
            tx.snapshot(self._block, 0)
        except UsageError:
            vector._counts_by(tx.roots)  # says so if the vector was dropped
            raise
        self.counts = vector._counts_by(tx.roots)
        with self._arena._own_view(self._block, _ELEMENTS_AT) as view:
            self.number = (_CHANGES.unpack_from(view, _CHANGES_AT)[0] + 1) % (1 << 64)
            _CHANGES.pack_into(view, _CHANGES_AT, self.number)

    def put(self, index: int, raw: memoryview) -> None:
        """Give elements from `index` on their bytes; the block has room for them."""
        itemsize = self._vector.dtype.itemsize
        start = _ELEMENTS_AT + index * itemsize
        if self.joins:
            committed = min(len(raw), (self.counts.high - index) * itemsize)
            if committed > 0:
                self._tx.snapshot(self._block + start, committed)
            with self._arena._own_view(self._block, start + len(raw)) as view:
                view[start:] = raw
        self._tx.write(self._block + start, raw)

    def end(self, length: int) -> None:
        """Set the length."""
        place = self.counts.place
        if not self.joins:
            self._tx.write(place + _LENGTHS_AT, _LENGTHS.pack(length, length))
            return
        if self._heap.roots[self._vector.name] == place:
            place = self._tx.malloc(_COUNTS.size)
            self._tx.roots[self._vector.name] = place
            self._tx.free(self.counts.place, deferred=True)  # others may be reading them
        else:
            self._tx.snapshot(place, _COUNTS.size)  # of a block of this transaction: no sync
        high = max(length, self.counts.high)
        with self._heap._own_view(place, _COUNTS.size) as view:
            _COUNTS.pack_into(view, 0, VECTOR_MAGIC, self._block, length, high)


def _look(roots: Mapping[str, int], name: str, heap: Heap) -> tuple[int, bytes]:
    """Return to where a root leads, and the counts there; the same after as before the look.

    Raises
    ------
    UsageError
        There is no such root.
    """
    while True:
        place = roots.get(name)
        if place is None:
            raise UsageError(f"vector {name!r}: a root expected, none found: dropped")
        counts = _bytes_at(heap, place, _COUNTS.size)
        if roots.get(name) == place:
            return place, counts


def _bytes_at(space: Heap | Arena, offset: int, length: int) -> bytes:
    """Return the first bytes of a block, fewer if it is shorter, none if there is no block."""
    try:
        with space._own_view(offset) as view:
            found = bytes(view[:length])
    except UsageError:
        return b""
    space._require_kept()
    return found


# ---------------------------------------------------------------- numpy


def _numpy() -> Any:
    try:
        import numpy as np  # noqa: PLC0415 -- an extra: only who asks for arrays needs it
    except ImportError as error:
        raise ImportError("vectors need numpy: pip install 'pmemheap[numpy]'") from error
    return np


def _raw(values: np.ndarray[Any, Any]) -> memoryview:
    """Return the bytes of an array of one dimension."""
    return memoryview(_numpy().ascontiguousarray(values).view("u1"))


def _plain_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return a dtype that a header can hold."""
    try:
        kind: np.dtype[Any] = _numpy().dtype(dtype)
    except (TypeError, ValueError, OverflowError, SyntaxError) as error:
        raise UsageError(f"vector: a dtype of numpy expected, {dtype!r} found") from error
    if kind.kind in "OV" or kind.hasobject or not kind.itemsize or len(kind.str) > _DTYPE_BYTES:
        raise UsageError(
            f"vector: a dtype without objects, fields or subarrays, and not empty, expected, "
            f"{kind} found"
        )
    return kind


def _stored_dtype(header: bytes) -> np.dtype[Any]:
    """Return the dtype that a header names; CorruptHeapError, without the place, if it is none."""
    magic, _, stored = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise CorruptHeapError(f"magic {_MAGIC!r} expected, {magic!r} found")
    text = stored.rstrip(b"\0")
    if _DTYPE.fullmatch(text):  # numpy takes much more for a dtype than it ever names one
        with suppress(UsageError):
            dtype = _plain_dtype(text.decode("ascii"))
            if dtype.str.encode() == text:
                return dtype
    raise CorruptHeapError(f"the name of a dtype expected, {text!r} found")
