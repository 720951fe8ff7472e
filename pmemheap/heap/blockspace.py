"""Block space: all that can be done with the blocks of one arena. What heap and arena have alike.

    Heap, Arena ──► BlockSpace      handles and arrays, space and insight
                        └──► HeapCore (C)   malloc, free, realloc, view
                                 └──► Slow      where C cannot answer alone

Its `_space` is what the package knows of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pmemheap import native
from pmemheap.errors import UsageError
from pmemheap.heap import arraymemory, beside, handles, insight, pickled, units, waiting
from pmemheap.heap.arguments import alignment_argument, offset_argument, size_argument
from pmemheap.heap.handles import Block
from pmemheap.heap.insight import CheckReport, Explanation, HeapStats
from pmemheap.heap.layered import Installation
from pmemheap.heap.shared import Shared
from pmemheap.heap.shown import space_html
from pmemheap.heap.slow import Slow
from pmemheap.heap.space import Space
from pmemheap.heap.strategies import Strategy
from pmemheap.native.constants import State
from pmemheap.space.region import Region
from pmemheap.units import GRANULE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pmemheap.protocols import Layer

__all__ = ["BlockSpace", "new_face"]


S = TypeVar("S", bound="BlockSpace")
L = TypeVar("L", bound="Layer")


class BlockSpace(native.HeapCore):
    """The blocks of one arena of a heap.

    Its `_space` is what the package knows of it. C asks `_slow`.
    """

    __slots__ = ("__weakref__", "_slow", "_space")

    _slow: Slow
    _space: Space

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._space.closed

    @property
    def readonly(self) -> bool:
        """Whether the heap was opened for reading."""
        return self._space.shared.readonly

    @property
    def strategy(self) -> Strategy:
        """Where its blocks come from."""
        return self._space.strategy

    def address(self, offset: int) -> int:
        """Return the address of the live block at `offset`, for other libraries of this process.

        Keep a view of the block for as long as the address is used: nothing else pins it.
        """
        space = self._space.arena_of(offset_argument(offset)) or self._space
        space.core.usable_size(offset)
        return space.address_of(offset)

    # ------------------------------------------------------------ handles and arrays

    def alloc(self, size: int, align: int = GRANULE) -> Block:
        """Allocate a block and return a handle to it, which knows when the block is gone.

        Parameters and exceptions as `malloc`. In an open transaction of this thread it is part of
        that, as `Block.free` and `ndarray` are: gone if it aborts. The calls that take offsets are
        not: ``tx.malloc`` and ``tx.free`` are.
        """
        return handles.new_block(self, size, align)

    def block(self, offset: int) -> Block:
        """Return a handle to the live block at `offset`."""
        return handles.block_at(self, offset_argument(offset))

    def ndarray(
        self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = float, align: int = 64
    ) -> np.ndarray[Any, Any]:
        """Allocate a block and return it as a numpy array of zeros.

        The array is a view: the block is freed by ``heap.free(heap.offset_of(array))`` once no
        array of it lives, or before that with ``deferred=True``. In an open transaction of this
        thread it is part of that, as of `alloc`.
        """
        return handles.new_array(self, shape, dtype, align)

    if TYPE_CHECKING:

        def ndarray_at(  # noqa: D102 -- below
            self, offset: int, shape: int | tuple[int, ...], dtype: npt.DTypeLike = float
        ) -> np.ndarray[Any, Any]: ...
    else:
        # Not called from a method here: that costs as much as a view.
        ndarray_at = handles.ndarray_at

    def dump(self, value: object) -> int:
        """Pickle an object into a new block, with the bytes of its arrays beside the pickle.

        Returns
        -------
        int
            Offset of the block, for `load`. In an open transaction of this thread it is part of
            that, as of `alloc`.

        Raises
        ------
        Exception
            What `pickle.dumps` raises for what it cannot pickle; as `malloc`. Nothing has changed.

        Notes
        -----
        Protocol 5 with buffers out of band (PEP 574): contiguous numpy arrays, `bytearray` and
        `bytes` in a `pickle.PickleBuffer`, what pandas and Arrow make of theirs.

        Examples
        --------
        >>> import numpy as np
        >>> import pmemheap
        >>> with pmemheap.Heap.anonymous() as heap:
        ...     heap.roots["model"] = heap.dump({"name": "a", "weights": np.ones(1000)})
        ...     model = heap.load(heap.roots["model"])
        ...     model["weights"][0] = 5           # in the heap: nothing was copied
        ...     value = heap.load(heap.roots["model"])["weights"][0]
        ...     del model                         # a heap with live views does not close
        >>> float(value)
        5.0
        """
        return pickled.dump(self, value)

    def load(self, offset: int) -> Any:
        """Return the object that `dump` stored in the block at `offset`.

        Its arrays lie in the block: what is stored to them is stored in the heap, and the block
        cannot be freed as long as one lives. **Loading runs code that the pickle names**: load
        nothing from a file that somebody else may have written.

        Raises
        ------
        UsageError
            No live block begins there, or `dump` has not made it.
        CorruptHeapError
            It has buffers beyond the end of the block.
        """
        return pickled.load(self, offset)

    @contextmanager
    def numpy_allocator(self) -> Iterator[None]:
        """Let the arrays that numpy makes while the block runs lie in the heap (NEP 49).

        Results and temporaries as well. Such an array is one like any other, and outlives the
        block; as long as it lives, the heap cannot be closed. Its block is reserved: no call frees
        it, and it is gone with the array, or with the process, unless it is kept. What counts is
        the context (PEP 567): other threads, and other tasks, are not concerned.

        Raises
        ------
        UsageError
            The heap is closed, read-only or forked.
        ImportError
            There is no numpy, or one before 1.22.

        Notes
        -----
        Where the heap has no room numpy raises MemoryError; if that leaves the block, it has a note
        of what the heap has to say.

        Examples
        --------
        >>> import numpy as np
        >>> import pmemheap
        >>> with pmemheap.Heap.anonymous() as heap:
        ...     with heap.numpy_allocator():
        ...         array = np.arange(3) + 1
        ...     heap.roots["numbers"] = heap.keep(array)
        ...     del array
        ...     heap.ndarray_at(heap.roots["numbers"], 3, int).tolist()
        [1, 2, 3]
        """
        with arraymemory.allocator(self):
            yield

    def keep(self, array: object) -> int:
        """Let the block of an array that was made in `numpy_allocator` stay when the array goes.

        The block becomes a live one where it is, and the array a view of it. Shape and dtype are
        the caller's to remember; the bytes lie as the strides of the array say.

        Parameters
        ----------
        array : numpy.ndarray
            Of this heap or one of its arenas; with bytes of its own, without Python objects.

        Returns
        -------
        int
            Offset of the block, as of `malloc`: the call belongs to no transaction. In a power heap
            the bytes are durable before the block is there, and that it is, as of `malloc`.

        Raises
        ------
        UsageError
            No such array; it was kept before; the heap is closed, read-only or forked.
        DurabilityError
            The bytes could not be written back. The heap is read-only from now on.
        """
        return arraymemory.keep(self, array)

    def offset_of(self, buffer: object) -> int:
        """Return the offset of the block that a view or array of this heap belongs to.

        Raises
        ------
        UsageError
            It is not a buffer of this heap, or an array of `numpy_allocator` that was not kept.
        """
        return handles.offset_of(self, buffer)

    # ------------------------------------------------------------ layers

    def install(self, layer: L) -> Installation[L]:
        """Put a layer on the heap or arena: its calls go through it from now on.

        It may come and go while threads are at work and blocks live; blocks of before, during and
        after are freed alike. Calls of other arenas go through layers of their own, and what
        transactions, containers and regions do through none; but a `pmemheap.layers.Count`, `Track`
        or `Record` on a heap is told of it all.

        Parameters
        ----------
        layer : Layer
            With `malloc`, `free` and `usable_size`, which call its `upstream`; of the other calls
            those that it has are its own, the rest passes by.

        Returns
        -------
        Installation
            A context manager: the layer in the block, taken off at its end.

        Raises
        ------
        UsageError
            It is no layer, stands over another allocator, or is on a heap already; the heap is
            closed or forked.

        Examples
        --------
        >>> import pmemheap
        >>> heap = pmemheap.Heap.anonymous()
        >>> with heap.install(pmemheap.layers.Count()) as count:
        ...     _ = heap.malloc(100)
        >>> count.blocks, heap.layers
        (1, ())
        >>> heap.close()
        """
        space = self._space
        space.require()
        space.alone(lambda: space.layers.put_on(layer))
        return Installation(self, space.layers, layer)

    def uninstall(self, layer: Layer) -> None:
        """Take a layer off, wherever it stands among others.

        Raises
        ------
        UsageError
            It is not on this heap or arena.
        """
        if not self._space.layers.take_off(layer):
            raise UsageError(
                f"{self._space.name}: a layer that is on it expected for uninstall, found {layer!r}"
            )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that are on it, top first; on top is the last one that was installed."""
        return self._space.layers.all()

    # ------------------------------------------------------------ space and insight

    def trim(self) -> int:
        """Give free space back: segments at both ends, pages (and file blocks) in between.

        Returns
        -------
        int
            Bytes that the system counts less: memory, or blocks of the file. 0 where it does not
            say: memory without /proc, or without a descriptor to read it. O(units of the heap).
        """
        self._space.require(write=True)
        return self._space.serve(units.trim, self._space)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let nobody commit while the block runs: what is read in it is of one moment.

        It begins when the commits that are under way have ended. Other threads go on until they
        want to commit; then they wait. Changes of this thread in an open transaction are seen.
        Bare calls, such as `malloc`, go on, and so does what is stored through views.

        Raises
        ------
        UsageError
            The heap is closed or forked.

        Examples
        --------
        >>> import pmemheap
        >>> heap = pmemheap.Heap.anonymous()
        >>> heap.roots["first"] = heap.roots["second"] = heap.malloc(10)
        >>> with heap.paused():
        ...     heap.roots["first"] == heap.roots["second"]
        True
        >>> heap.close()
        """
        with waiting.paused(self._space):
            yield

    def stats(self) -> HeapStats:
        """Return how large and how full the arena is, as `Heap.stats` does for all of them."""
        space = self._space
        return beside.stats(space, lambda now: now.look(insight.stats, now), [space])

    def explain(self, size: int, align: int = GRANULE, refusal: str = "") -> Explanation:
        """Tell whether `size` bytes could be allocated now, what refuses, and what would help."""
        nbytes, alignment = size_argument(size), alignment_argument(align)
        return beside.asked(
            self._space, lambda now: now.look(insight.explain, now, nbytes, alignment, refusal)
        )

    def check(self) -> CheckReport:
        """Verify its structures; return what `Heap.check` does for all arenas."""
        return beside.asked(self._space, _checked)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ``(offset, usable size)`` of its live blocks, as `Heap.blocks` does for all."""
        yield from beside.listed(self._space, units.blocks)

    def __repr__(self) -> str:
        """Show its name, its state and its size."""
        state = State(self._space.core.state).name.lower()
        mapped = self._space.region.mapped_bytes
        return f"<{type(self).__name__}: {self._space.name}, {state}, {mapped} bytes mapped>"

    def _repr_html_(self) -> str:
        """Show it in a notebook, with its statistics: O(units) of a heap that was just opened."""
        state = State(self._space.core.state).name.lower()
        return space_html(f"{type(self).__name__}: {self._space.name}", state, self.stats)


def _checked(space: Space) -> CheckReport:
    with waiting.paused(space):
        return space.look(insight.check, space)


def new_face(  # noqa: PLR0913 -- the parts of an arena
    kind: type[S], shared: Shared, region: Region, name: str, arena: int, *, fresh: bool,
    number: int | None = None, strategy: Strategy | None = None,
) -> S:  # fmt: skip
    """Return what users have of an arena, as an object of `kind`.

    Offsets begin with its number, which is that of its slot in the heap if none is given.
    """
    face = kind.__new__(kind)
    face._space = Space(
        face, shared, region, name, arena=arena, fresh=fresh, number=number, strategy=strategy
    )
    face._slow = Slow(face._space)
    return face
