"""Array store: where the arrays of a catalogue lie in their heap.

    root "arrays" --> SortedMap    name -> entry            see `arrayentry`
                                      |
              +-----------------------+----------------+
              v                                        v
        a small block of the heap              the only block of arena "arrays.0"
        it moves when the array outgrows it    it grows where it stands

An array of at least `LARGE_BYTES`, or one that is told to grow in place, gets an arena to itself,
as long as there are arenas. One that is empty again is used for the next array.

Who reads takes a view of the block first and looks at the entry again: if it is the same, the block
was that of the array when the view was there, and the view keeps it from being freed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from pmemheap.containers import arrayentry
from pmemheap.containers.arrayentry import DESCRIBED, FIRST, MARK, OWN, Entry, rows_bytes
from pmemheap.containers.arraylives import Life, life_at
from pmemheap.containers.arraytypes import numpy
from pmemheap.containers.glances import Glance
from pmemheap.containers.names import visible_roots
from pmemheap.containers.sortedmap import SortedMap
from pmemheap.errors import CorruptHeapError, OutOfSpaceError, UsageError
from pmemheap.heap.arena import Arena
from pmemheap.heap.heap import Heap
from pmemheap.heap.space import Space, space_of
from pmemheap.units import MiB

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "ARENAS_MOST", "LARGE_BYTES", "ArrayStore", "find_store", "is_empty", "key_of",
    "require_catalogue",
]  # fmt: skip

LARGE_BYTES: int = MiB
"""An array of that size gets an arena: in a file one has 1 MiB at least."""
ARENAS_MOST = 128
"""Of the 255 of a heap."""
_VERSION = b"arrays 1"
_NAME_BYTES_MOST = 1000
_ROOT_BYTES_MOST = 27  # an arena has a dot and three digits more


@dataclass(frozen=True, slots=True, eq=False)
class ArrayStore:
    """A catalogue, and how its arrays are reached."""

    heap: Heap
    catalogue: SortedMap
    place: int
    """Offset of the header of the catalogue."""
    _described: dict[bytes, np.dtype[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The root of the catalogue, and how its arenas begin."""
        return self.catalogue.name

    # ------------------------------------------------------------ entries

    def entry(self, name: str, value: bytes) -> Entry:
        """Return the entry of a value; CorruptHeapError if it is none."""
        try:
            return arrayentry.decoded(value, self._describe)
        except CorruptHeapError as error:
            raise self.damage(name, str(error)) from None

    def damage(self, name: str, what: str) -> CorruptHeapError:
        """Return the error for something that contradicts itself.

        Raises
        ------
        PmemHeapError
            The heap is closed, or a sync has failed: then it is no damage.
        """
        space_of(self.heap).require(write=not self.heap.readonly)
        return CorruptHeapError(f"arrays {self.name!r}: array {name!r}: {what}")

    def _describe(self, digest: bytes) -> np.dtype[Any]:
        """Return the dtype of a digest, which is that of the same description for ever."""
        dtype = self._described.get(digest)
        if dtype is None:
            dtype = self._described[digest] = self._read_description(digest)
        return dtype

    def _read_description(self, digest: bytes) -> np.dtype[Any]:
        text = self.catalogue.get(DESCRIBED + digest)
        if text is None or DESCRIBED + digest != arrayentry.key_of_description(text):
            raise CorruptHeapError(
                f"the description of a dtype under {digest.hex()} expected, {text!r} found"
            )
        try:
            return arrayentry.described(text)
        except (TypeError, ValueError, LookupError, OverflowError, RecursionError) as error:
            raise CorruptHeapError(f"a list of fields expected, {text!r} found") from error

    def describe_once(self, dtype: np.dtype[Any]) -> None:
        """Keep the description of a dtype with fields, in the transaction that is open."""
        text = arrayentry.description(dtype)
        key = arrayentry.key_of_description(text)
        found = self.catalogue.get(key)
        if found is None:
            self.catalogue[key] = text
        elif found != text:
            raise UsageError(
                f"arrays {self.name!r}: a dtype with a digest of its own expected, {dtype} has "
                f"that of {found!r}"
            )

    def entries(self, count: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values of the arrays, in the order of their names."""
        return islice(self.catalogue.items(FIRST), count)

    # ------------------------------------------------------------ changes

    def require_changeable(self) -> None:
        """Raise UsageError if nothing can be changed."""

    def life_of(self, entry: Entry) -> Life:
        """Return what knows whether an array is still the same; UsageError without its block."""
        return life_at(self.heap, entry.offset)

    # ------------------------------------------------------------ bytes

    def space_at(self, offset: int) -> Space:
        """Return the arena in which a block lies."""
        space = space_of(self.heap)
        return space.arena_of(offset) or space

    def capacity(self, entry: Entry) -> int:
        """Return the rows for which the block of an array has room."""
        return self.usable_bytes(entry) // entry.row_bytes if entry.row_bytes else 1 << 52

    def usable_bytes(self, entry: Entry) -> int:
        """Return the bytes of the block of an array; UsageError without it."""
        return self.heap.usable_size(entry.offset)

    def view(self, entry: Entry) -> memoryview:
        """Return the bytes of the rows, a view of users; UsageError without the block."""
        return self.heap.view(entry.offset, rows_bytes(entry, entry.length))

    def shown(self, entry: Entry) -> np.ndarray[Any, Any]:
        """Return the rows, over `view`."""
        array: np.ndarray[Any, Any] = numpy().ndarray(entry.shape, entry.dtype, self.view(entry))
        return array

    def glance(self, entry: Entry) -> AbstractContextManager[memoryview]:
        """Return a view of the rows for a moment, in any thread; UsageError without the block."""
        return Glance(self.space_at(entry.offset), entry.offset, max(entry.nbytes, 1))

    def own(self, entry: Entry) -> np.ndarray[Any, Any]:
        """Return the rows for a change, in which nobody else can be."""
        view = self.space_at(entry.offset).own_view(entry.offset, max(entry.nbytes, 1))
        array: np.ndarray[Any, Any] = numpy().ndarray(entry.shape, entry.dtype, view)
        return array

    # ------------------------------------------------------------ arenas

    def empty_arena(self) -> tuple[Arena | None, bool]:
        """Return an arena for one block, None if there is none left; and whether it is new."""
        names = set(self.heap.arenas())
        for number in range(ARENAS_MOST):
            name = f"{self.name}.{number}"
            if name not in names:
                try:
                    return self.heap.arena(name), True
                except OutOfSpaceError:
                    return None, False
            arena = self.heap.arena(name)
            if is_empty(arena):
                return arena, False
        return None, False

    def arenas(self) -> list[Arena]:
        """Return the arenas that are there for arrays, empty ones as well."""
        possible = {f"{self.name}.{number}" for number in range(ARENAS_MOST)}
        names = (name for name in self.heap.arenas() if name in possible)
        return [self.heap.arena(name, create=False) for name in names]


def is_empty(arena: Arena) -> bool:
    """Tell whether an arena has neither blocks nor what an open transaction may make one."""
    counters = space_of(arena).core.usage()[0]
    used = counters["reserved_blocks"] + counters["pins"] + counters["live_views"]
    return not used and next(arena.blocks(), None) is None


# ---------------------------------------------------------------- found


def find_store(heap: Heap, name: str) -> ArrayStore:
    """Return the catalogue under a root; make it if there is no such root.

    Raises
    ------
    UsageError
        The root leads to something else, or the name is too long for one.
    """
    if not 1 <= len(name.encode()) <= _ROOT_BYTES_MOST:
        raise UsageError(
            f"arrays: a name of 1 to {_ROOT_BYTES_MOST} bytes expected, {name!r} found"
        )
    if visible_roots(heap).get(name) is None and not heap.readonly:
        _make(heap, name)
    catalogue = SortedMap(heap, name)
    require_catalogue(catalogue)
    return ArrayStore(heap, catalogue, _place(visible_roots(heap), name))


def require_catalogue(catalogue: SortedMap) -> None:
    """Raise UsageError if a map is no catalogue of arrays."""
    found = catalogue.get(MARK)
    if found != _VERSION:
        what = "a SortedMap" if found is None else f"one with {found!r}"
        raise UsageError(
            f"arrays {catalogue.name!r}: a root of that name that leads to Arrays expected, it "
            f"leads to {what}"
        )


def _make(heap: Heap, name: str) -> None:
    """Make a catalogue, unless another thread was faster."""
    with heap.transaction():
        catalogue = SortedMap(heap, name)
        with catalogue.exclusive():
            if not catalogue:
                catalogue[MARK] = _VERSION


def _place(roots: Mapping[str, int], name: str) -> int:
    place = roots.get(name)
    if place is None:
        raise UsageError(f"arrays {name!r}: a root of that name expected, it was dropped")
    return place


def key_of(name: str) -> bytes:
    """Return the key of an array.

    Raises
    ------
    TypeError, UsageError
        It is no str; it is empty, too long, begins with a NUL, or has no UTF-8.
    """
    if not isinstance(name, str):
        raise TypeError(f"arrays: a name that is a str expected, {name!r} found")
    try:
        key = name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"arrays: a name in Unicode expected, {name!r} found") from error
    if not 1 <= len(key) <= _NAME_BYTES_MOST:
        raise UsageError(
            f"arrays: a name of 1 to {_NAME_BYTES_MOST} bytes expected, found one of {len(key)}"
        )
    if key.startswith(OWN):
        raise UsageError(f"arrays: a name that does not begin with a NUL expected, {name!r} found")
    return key
