"""Snapshots: a heap as of one commit, read in the writer's process or beside it.

heap.read() ──► Snapshot ──► roots, and what they lead to, as of one commit
                   │
                   └──► Pin ◄── views and arrays: as long as one lives, nothing of it is used again
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from pmemheap import native
from pmemheap.errors import HeapBusyError, UsageError
from pmemheap.file import locks
from pmemheap.file.following import named_slots
from pmemheap.file.pins import Pin
from pmemheap.heap import readers
from pmemheap.heap.arguments import offset_argument, whole_number
from pmemheap.heap.described import Described
from pmemheap.heap.extras import numpy
from pmemheap.heap.handles import Block, shaped
from pmemheap.heap.holding import Held, Reader, readers_of, set_held
from pmemheap.heap.places import HeapPlace, heap_at, heap_place
from pmemheap.heap.sharing import Era, SharedArray, adopted, era_of, exported, share
from pmemheap.heap.space import space_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pmemheap.heap.heap import Heap

__all__ = ["HasSnapshots", "Snapshot"]


@lru_cache(maxsize=16)
def _roots_in(slots: bytes) -> dict[str, tuple[int, int]]:
    """Return name to offset and copy; many snapshots are of one commit."""
    return {root.name: (root.off, root.copy) for _, root in named_slots(slots)}


class SnapshotRoots(Mapping[str, int]):
    """The roots of a snapshot: name to offset."""

    def __init__(self, slots: bytes) -> None:
        self._slots = slots
        self._roots: dict[str, tuple[int, int]] | None = None

    def _read(self) -> dict[str, tuple[int, int]]:
        if self._roots is None:
            self._roots = _roots_in(self._slots)
        return self._roots

    def place(self, name: str) -> int | None:
        """Return where what a root names is to be read, as of the commit; None if there is none."""
        offset, copy = self._read().get(name, (None, 0))
        return copy or offset

    def __getitem__(self, name: str) -> int:
        """Return the offset under a name."""
        return self._read()[name][0]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._read())

    def __len__(self) -> int:
        """Return the number of roots."""
        return len(self._read())

    def __repr__(self) -> str:
        """Show them as a dictionary."""
        return f"SnapshotRoots({dict(self)!r})"


class Snapshot(native.SnapshotCore):
    """The roots of a heap, and all that can be reached from them, as of one commit.

    Made by `Heap.read`. Views and arrays of it keep address and bytes until the last of them goes,
    also when the snapshot was closed, refreshed or dropped, whatever the writer does meanwhile.
    Bytes that a program changes in place, without a transaction or by ``tx.write`` in a block of
    more than 64 bytes, are seen as they change.

    Examples
    --------
    >>> import pmemheap, tempfile, os
    >>> from pmemheap.containers import SortedMap
    >>> directory = tempfile.TemporaryDirectory()
    >>> heap = pmemheap.open(os.path.join(directory.name, "data.heap"), "c", readers=True)
    >>> stock = SortedMap(heap, "stock")
    >>> stock[b"apple"] = b"5"
    >>> with heap.read() as before:                # in another process: of a heap opened readonly
    ...     stock[b"apple"] = b"6"
    ...     seen = SortedMap(before, "stock")[b"apple"]
    ...     seen, before.refresh(), SortedMap(before, "stock")[b"apple"]
    (b'5', True, b'6')
    >>> heap.close(); directory.cleanup()
    """

    _is_between: bool = False

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        shared = space_of(heap).shared
        if shared.pins is None or not self._begin(heap, shared.pins):
            self._go_on()

    def _go_on(self) -> bool:
        """Begin, or go on to the last commit, when C could not do it alone."""
        before = self._sequence
        if self._slots is not None and not self._is_between:
            self._require_pin()
        pin, sequence, slots = readers.begin(self._heap, self._let_go)
        self._begin_as(self._heap, pin, sequence, slots)
        self._is_between = False
        return sequence != before

    def _adopt(self, heap: Heap, pin: Pin, sequence: int, slots: bytes) -> None:
        """Show what another process has sent."""
        self._heap = heap
        self._begin_as(heap, pin, sequence, slots)

    def _let_go(self) -> None:
        self._is_between = self._slots is not None
        super().close()

    @property
    def heap(self) -> Heap:
        """The heap that it is of."""
        return self._heap

    @property
    def commit(self) -> int:
        """Number of the commit; of two snapshots the later one has the greater, or the same."""
        return self._sequence // 2

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._pin is None and not self._is_between

    def close(self) -> None:
        """Let it go; views and arrays of it keep what they show. Closing twice is allowed."""
        self._is_between = False
        super().close()

    @property
    def roots(self) -> SnapshotRoots:
        """The roots as of the commit, a mapping of str to offset."""
        self._require_pin()
        seen: SnapshotRoots | None = self._seen
        if seen is None:
            seen = self._seen = SnapshotRoots(self._slots)
        return seen

    def place(self, name: str) -> int | None:
        """Return where the bytes are that a root names, for containers; None without such a root.

        A block of up to 64 bytes is changed in place, and has a copy for each commit.
        """
        self._require_pin()
        place = self._place(name)
        return self.roots.place(name) if place is None else place

    @property
    def pin(self) -> Pin:
        """What keeps all that it shows, for containers: to be held by what shows bytes of it."""
        return self._require_pin()

    @property
    def is_wanted(self) -> bool:
        """Whether a new writer comes, which could use what it and its views may show.

        `refresh` lets it go, and waits for that writer. It is true for the moment of a commit too.
        """
        file = space_of(self._heap).shared.file
        return self._is_half_done and file is not None and locks.has_writer(file.lock_fd)

    @property
    def is_between(self) -> bool:
        """Whether its commit was let go for a new writer, whose first one `refresh` begins with."""
        return self._is_between

    def view(self, offset: int, length: int) -> memoryview:
        """Return a read-only view of some bytes.

        Parameters
        ----------
        offset, length : int
            Anywhere in the heap: a snapshot reads no tables, so the caller has to know the length.

        Raises
        ------
        UsageError
            The snapshot is closed, or the range is not mapped.
        """
        place, nbytes = (
            offset_argument(offset),
            whole_number("view: length", length, 0, (1 << 55) - 1),
        )
        pin = self._require_pin()
        return memoryview(exported(self._heap, place, nbytes, pin, "snapshot"))

    def ndarray_at(
        self, offset: int, shape: int | tuple[int, ...], dtype: npt.DTypeLike = float
    ) -> np.ndarray[Any, Any]:
        """Return a read-only array over some bytes, without a copy; exceptions as of `view`."""
        sides, kind, nbytes = shaped(shape, dtype)
        array: np.ndarray[Any, Any] = numpy().ndarray(sides, kind, self.view(offset, nbytes))
        return array

    def _require_pin(self) -> Pin:
        pin = self._pin
        if self._is_between:
            raise HeapBusyError(
                f"snapshot of {self._heap.name}: a commit expected, it was let go for a new "
                "writer; refresh it"
            )
        if pin is None:
            raise UsageError(f"snapshot of {self._heap.name}: an open one expected, it was closed")
        return pin

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __reduce__(self) -> tuple[object, tuple[HeapPlace, Era, int, bytes]]:
        """Pickle heap, era, commit and roots: it has to stay open here until the other one is."""
        era = era_of(self._heap, self._require_pin())
        return _met, (heap_place(self._heap), era, self._sequence, self._slots)

    def __repr__(self) -> str:
        """Show heap and commit."""
        return f"<Snapshot of {self._heap!r} as of commit {self.commit}>"


def _met(place: HeapPlace, era: Era, sequence: int, slots: bytes) -> Snapshot:
    """Return the snapshot that another process has sent."""
    heap = heap_at(place)
    made = Snapshot.__new__(Snapshot)
    made._adopt(heap, adopted(heap, era), sequence, slots)
    return made


class HasSnapshots(Described):
    """The base of `Heap` that is read as of a commit."""

    __slots__ = ()

    @property
    def follows(self: Any) -> bool:
        """Whether it was opened beside a writer with readers, and is read by `read`."""
        return space_of(self).shared.follows

    def readers(self: Any) -> list[Reader]:
        """Return which processes have snapshots of this heap, the oldest snapshots first.

        Returns
        -------
        list of Reader
            One for each process and age, this process among them; empty in a heap that lets no
            readers in. O(readers + what was freed since).

        Raises
        ------
        UsageError
            The heap is closed.
        """
        return readers_of(space_of(self))

    @property
    def held(self: Any) -> Held | None:
        """What snapshots may hold back, a limit of this opening with ``readers=True``; or None.

        Raises
        ------
        UsageError
            It is no `Held`; the heap is closed, or lets no readers in.
        """
        ages = space_of(self).shared.ages
        return None if ages is None else ages.held

    @held.setter
    def held(self: Any, held: Held | None) -> None:
        set_held(space_of(self), held)

    def share(self: Any, what: Block | memoryview | np.ndarray[Any, Any]) -> SharedArray:
        """Return bytes of this heap for other processes, which read them without a copy.

        Parameters
        ----------
        what : Block, memoryview or ndarray
            Of this heap, or of a snapshot of it. It can be a part, also one with strides.

        Returns
        -------
        SharedArray
            To be pickled: an argument of `multiprocessing`, of an executor, of a task.

        Raises
        ------
        UsageError
            It lies elsewhere; the heap is closed, in private memory, or open to be changed
            without ``readers=True``.

        Notes
        -----
        The others see bytes that this process changes in place as they change.
        """
        return share(self, what)

    def __reduce__(self: Any) -> tuple[object, tuple[HeapPlace]]:
        """Pickle where it is: another process opens it to read, once, or has it open already."""
        space_of(self).require()
        return heap_at, (heap_place(self),)

    def read(self: Any) -> Snapshot:
        """Begin a snapshot: the roots, and all that they lead to, as of the last commit.

        Returns
        -------
        Snapshot
            A context manager.

        Raises
        ------
        UsageError
            The heap was opened to be changed, without ``readers=True``, or is closed; or this
            thread has a transaction open that has changed a map in place.
        HeapBusyError
            The writer was stopped in the middle of a commit.

        Notes
        -----
        A few microseconds: one lock of the kernel in a reader, none in the writer's process.
        """
        return Snapshot(self)
