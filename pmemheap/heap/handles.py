"""Handles: blocks as objects and as numpy arrays.

A `Block` knows the life of its block, not only its place: the C core numbers the lives of blocks
that have handles, and a handle whose number has gone raises, even if the offset is in use again. A
handle does not own the block: dropping it frees nothing.

A pickle has the number of the life, too, and counts as a handle for as long as the block lives. So
where the number can be looked up, in the heap object that it was made in, a pickle leads to that
life of the block or to an error. Numbers are not kept in the file: in another process that has the
heap open, or when it was opened again, a pickle leads to what lies at the offset now, if that is a
block of the same size.
"""

from __future__ import annotations

import math
import operator
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pmemheap.errors import UsageError
from pmemheap.heap import arraymemory
from pmemheap.heap.extras import dtype_argument, numpy
from pmemheap.heap.living import open_heaps
from pmemheap.heap.space import space_of
from pmemheap.native import BlockBytes, Handle
from pmemheap.native.constants import State
from pmemheap.refusals import end_with

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pmemheap.heap.blockspace import BlockSpace
__all__ = [
    "Block",
    "allocate",
    "block_at",
    "give_up",
    "ndarray_at",
    "new_array",
    "new_block",
    "offset_of",
    "shape_argument",
    "shaped",
]


class Block(Handle):
    """A handle to a live block; made by `Heap.alloc` and `Heap.block`.

    A context manager that frees the block, and a buffer of its `size` bytes, as its `view` is:
    ``numpy.frombuffer(block)`` lies in the heap. It can be pickled, and finds its heap again among
    the open ones of the process: as the same life of the block where the heap was not closed since,
    elsewhere as what lies there now, if that has the same size; an error otherwise.

    Examples
    --------
    >>> import pmemheap
    >>> heap = pmemheap.Heap.anonymous()
    >>> block = heap.alloc(100)
    >>> block.view[:3] = b"abc"
    >>> block.size, bytes(block.view[:3])
    (100, b'abc')
    >>> block.free()
    >>> block.offset
    Traceback (most recent call last):
        ...
    pmemheap.errors.UsageError: block handle: a live block expected, it was freed or moved
    >>> heap.close()
    """

    __slots__ = ("__weakref__", "_heap", "_offset", "_size")

    def __init__(self, heap: BlockSpace, offset: int, size: int) -> None:
        self._heap, self._offset, self._size = heap, offset, int.__index__(operator.index(size))
        core = space_of(heap).core
        super().__init__(core, offset)
        if not self._life:
            space_of(heap).require()  # an unattached heap knows of no block
            super().__init__(core, offset)
        if not self._life:
            raise UsageError(
                f"block handle: a live block expected at offset {offset:#x}, none found"
            )

    @property
    def heap(self) -> BlockSpace:
        """The heap it lies in."""
        return self._heap

    @property
    def is_live(self) -> bool:
        """Whether the block is still allocated and its heap open."""
        return self._is_valid

    @property
    def offset(self) -> int:
        """Offset of the block.

        Raises
        ------
        UsageError
            The block was freed, or moved by `realloc`; the heap was closed or forked.
        """
        space_of(self._heap).require()
        if not self._is_valid:
            raise UsageError("block handle: a live block expected, it was freed or moved")
        return self._offset

    @property
    def size(self) -> int:
        """Bytes asked for; UsageError as `offset`."""
        return self._size if self.offset >= 0 else 0

    @property
    def view(self) -> memoryview:
        """A memoryview of the `size` bytes; UsageError as `offset`."""
        return self._heap.view(self.offset, self._size)

    def free(self, deferred: bool = False) -> None:
        """Free the block; parameters and exceptions as `Heap.free`.

        In an open transaction of this thread it is part of that: freed when it commits.
        """
        give_up(self._heap, self.offset, deferred)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, value: BaseException | None, traceback: object) -> None:
        """Free the block, if it still lives.

        When an exception leaves the block of code, and views are alive, which its traceback may
        keep, the block is freed when the last of them goes.
        """
        if self.is_live:
            end_with(value, partial(self.free, deferred=value is not None))

    def __eq__(self, other: object) -> bool:
        """Tell whether both are handles to the same life of the same block."""
        if not isinstance(other, Block):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        """Hash by heap, offset and life."""
        return hash(self._key())

    def _key(self) -> tuple[int, int, int]:
        return id(self._heap), self._offset, self._life

    def __reduce__(self) -> tuple[object, tuple[bytes, bytes, int, int, int, int]]:
        """Pickle as heap, offset, sizes and life, which is numbered from now on until its end."""
        offset, shared = self.offset, space_of(self._heap).shared
        self._keep()  # so the number is good for the pickle
        usable = space_of(self._heap).core.usable_size(offset)
        return _restore, (
            shared.identity, shared.instance, offset, self._size, usable, self._life
        )  # fmt: skip

    def __copy__(self) -> Block:
        """Return another handle to the same life of the block."""
        return Block(self._heap, self.offset, self._size)

    def __deepcopy__(self, _: object) -> Block:
        """Return another handle: the block belongs to the heap, not to the handle."""
        return Block(self._heap, self.offset, self._size)

    def __repr__(self) -> str:
        """Show offset and size, or that it is stale."""
        if not self.is_live:
            return "<Block, stale>"
        return f"<Block at {self._offset:#x}, {self._size} bytes>"


def block_at(heap: BlockSpace, offset: int) -> Block:
    """Return a handle to the live block at an offset, in whichever arena."""
    space = space_of(heap).arena_of(offset)
    face = heap if space is None else space.shared.arenas.face(space)
    return Block(face, offset, face.usable_size(offset))


def new_block(heap: BlockSpace, size: int, align: int) -> Block:
    """Allocate a block, as part of the open transaction of this thread, and return a handle."""
    offset = allocate(heap, size, align)
    try:
        return Block(heap, offset, size)
    except BaseException as error:
        end_with(error, partial(give_up, heap, offset, False))
        raise


def allocate(heap: BlockSpace, size: int, align: int) -> int:
    """Allocate a block, as part of the open transaction of this thread if there is one."""
    transaction: Any = space_of(heap).shared.log.current()
    if transaction is None:
        return heap.malloc(size, align)
    offset: int = transaction.malloc(size, align, heap)
    return offset


def give_up(heap: BlockSpace, offset: int, deferred: bool) -> None:
    """Free what `allocate` returned."""
    transaction: Any = space_of(heap).shared.log.current()
    (heap if transaction is None else transaction).free(offset, deferred)


def _restore(  # noqa: PLR0913, PLR0917 -- what a pickle has
    identity: bytes, instance: bytes, offset: int, size: int, usable: int, life: int
) -> Block:
    heap = _opened(identity, instance)
    space = space_of(heap).arena_of(offset) or space_of(heap)
    is_known = space.shared.instance == instance
    if is_known and Handle(space.core, offset)._life != life:  # private: no attribute for users
        raise UsageError(
            f"block handle: the block that was pickled expected at offset {offset:#x}, it was "
            "freed or moved since"
        )
    found = space.core.usable_size(offset)
    if not is_known and found != usable:
        raise UsageError(
            f"block handle: a block of {usable} bytes, as was pickled, expected at offset "
            f"{offset:#x}, one of {found} found"
        )
    return Block(block_at(heap, offset).heap, offset, min(size, found))


def _opened(identity: bytes, instance: bytes) -> BlockSpace:
    """Return the open heap of a uuid: the object in which a pickle was made, if it is there."""
    heaps = [heap for heap in open_heaps if space_of(heap).shared.identity == identity]
    usable = [heap for heap in heaps if space_of(heap).core.state != State.FORKED]
    same = [heap for heap in usable if space_of(heap).shared.instance == instance]
    found = same or usable or heaps
    if not found:
        raise UsageError(
            f"block handle: the heap with uuid {identity.hex()} expected to be open in this process"
        )
    if len(found) > 1:
        names = ", ".join(sorted(space_of(heap).name for heap in found))
        raise UsageError(
            f"block handle: one open heap with uuid {identity.hex()} expected, found copies: "
            f"{names}"
        )
    space_of(found[0]).require()
    return found[0]


# ---------------------------------------------------------------- numpy


_frombuffer: Any = None
_ndarray: Any = None


def _numpy() -> Any:
    np = numpy()
    global _frombuffer, _ndarray
    _frombuffer, _ndarray = np.frombuffer, np.ndarray
    return np


def shaped(
    shape: int | tuple[int, ...], dtype: npt.DTypeLike
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Check shape and dtype; return them with the bytes they need."""
    kind, sides = dtype_argument(dtype), shape_argument(shape)
    return sides, kind, math.prod(sides) * kind.itemsize


def shape_argument(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the sides of an array; UsageError unless they are whole numbers, 0 or more."""
    try:
        sides = tuple(
            int.__index__(operator.index(side))
            for side in (shape if hasattr(shape, "__iter__") else (shape,))
        )
    except TypeError as error:
        raise UsageError(f"shape: whole numbers, 0 or more, expected, {shape!r} found") from error
    if min(sides, default=0) < 0:
        raise UsageError(f"shape: whole numbers, 0 or more, expected, {shape!r} found")
    return sides


def new_array(
    heap: BlockSpace, shape: int | tuple[int, ...], dtype: npt.DTypeLike, align: int
) -> np.ndarray[Any, Any]:
    """Allocate a block and return it as an array of zeros; joins as `new_block` does."""
    sides, kind, nbytes = shaped(shape, dtype)
    offset = allocate(heap, max(nbytes, 1), align)
    try:
        array = _checked_array_at(heap, offset, sides, kind)
        _numpy().frombuffer(space_of(heap).own_view(offset), "u1", nbytes).fill(0)
    except BaseException as error:
        end_with(error, partial(give_up, heap, offset, True))
        raise
    return array


def ndarray_at(
    heap: BlockSpace, offset: int, shape: int | tuple[int, ...], dtype: npt.DTypeLike = float
) -> np.ndarray[Any, Any]:
    """Return the block at `offset` as a numpy array; UsageError if it is too small.

    Parameters
    ----------
    offset : int
        Of a live block.
    shape : int or tuple of int
        Sides of the array; all of it lies in the block, from its first byte on.
    dtype : dtype
        Anything but Python objects.
    """
    try:  # numpy checks what we would check; what it refuses is looked at again
        side = shape
        if type(shape) is tuple:
            if len(shape) != 1:
                array: np.ndarray[Any, Any] = _ndarray(shape, dtype, heap.view(offset))
                if not array.dtype.hasobject:
                    return array
            (side,) = shape
        if type(side) is int and side > 0:
            line: np.ndarray[Any, Any] = _frombuffer(heap.view(offset), dtype, side)
            return line
    except (TypeError, ValueError, OverflowError):
        pass
    return _checked_array_at(heap, offset, shape, dtype)


def _checked_array_at(
    heap: BlockSpace, offset: int, shape: int | tuple[int, ...], dtype: npt.DTypeLike
) -> np.ndarray[Any, Any]:
    """Return a block as an array, or say what is wrong with what was asked for."""
    sides, kind, nbytes = shaped(shape, dtype)
    view = heap.view(offset)
    if nbytes > len(view):
        raise UsageError(
            f"ndarray_at: block at offset {offset:#x}: {nbytes} bytes for shape {sides} of {kind} "
            f"expected, {len(view)} found"
        )
    try:
        array: np.ndarray[Any, Any] = _numpy().ndarray(sides, kind, view)
    except ValueError as error:  # more dimensions, or longer ones, than numpy has
        raise UsageError(
            f"shape: one that numpy can have expected, {sides} found: {error}"
        ) from error
    return array


def offset_of(heap: BlockSpace, buffer: object) -> int:
    """Return the offset of the block that a view, slice or array belongs to."""
    last: Any = None
    owner: Any = buffer
    arrays = getattr(sys.modules.get("numpy"), "ndarray", ())
    while isinstance(owner, (memoryview, arrays)):
        try:
            last, owner = owner, owner.obj if isinstance(owner, memoryview) else owner.base
        except ValueError as error:
            raise UsageError(
                f"offset_of: a view expected, found a released one: {error}"
            ) from error
    if owner is None and isinstance(last, arrays):
        kept = arraymemory.kept_offset(heap, last)
        if kept is not None:
            return kept
    shared = space_of(heap).shared
    is_bytes = isinstance(owner, BlockBytes)
    if not is_bytes or (
        owner.heap is not shared.scratch and space_of(owner.heap) not in shared.spaces()
    ):
        raise UsageError(
            f"offset_of: a view or array of this heap expected, found {type(buffer).__name__}"
        )
    return int(owner.offset)
