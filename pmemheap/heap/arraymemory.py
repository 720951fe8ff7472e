"""Array memory: arrays that numpy makes in a heap (NEP 49), and what becomes of their blocks.

    with numpy_allocator() ──► numpy ──► C: a reserved block, pinned ── keep ──► a live block
                                            │ the array goes                       │ the array goes
                                            ▼                                      ▼
                                          free                                   stays

A reserved block is in no table of the file, so a process that is killed leaves nothing of it. Numpy
asks C; C comes to `Slow.reserve` for units that it does not have. The handler that numpy uses is
one of a context (PEP 567): of a thread, or of a task.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pmemheap import native
from pmemheap.errors import UsageError
from pmemheap.heap.place import place_of
from pmemheap.heap.space import Space, space_of
from pmemheap.native.constants import UnitState
from pmemheap.units import UNIT

if TYPE_CHECKING:
    from pmemheap.heap.blockspace import BlockSpace

__all__ = ["allocator", "keep", "kept_offset", "located"]

_NUMPY = "numpy._core._multiarray_umath", "numpy.core._multiarray_umath"  # of 2, and of 1


# ---------------------------------------------------------------- making


@contextmanager
def allocator(face: BlockSpace) -> Iterator[None]:
    """Let the arrays that numpy makes in the block lie in a heap."""
    space_of(face).require(write=True)
    functions, memory = _numpy_functions(), native.numpy_memory(face)
    before = native.set_numpy_memory(functions, memory)
    try:
        yield
    except BaseException as error:
        _tell(native.numpy_refusal(memory), error)
        raise
    else:
        _tell(native.numpy_refusal(memory), None)
    finally:
        native.set_numpy_memory(functions, before)


def _tell(refusal: str | type[BaseException] | None, error: BaseException | None) -> None:
    """Tell of the last refusal, of which numpy knows nothing; raise what was an interrupt."""
    if isinstance(refusal, type):
        raise refusal from error
    if refusal is not None and isinstance(error, MemoryError):
        error.add_note(refusal)


def _numpy_functions() -> object:
    """Return numpy's table of functions for C."""
    for name in _NUMPY:
        with suppress(ImportError):
            return importlib.import_module(name)._ARRAY_API  # private: the only door to it
    raise ImportError("arrays need numpy: pip install 'pmemheap[numpy]'")


# ---------------------------------------------------------------- keeping


def keep(face: BlockSpace, array: object) -> int:
    """Make the block of an array live; return its offset."""
    space_of(face).require(write=True)
    found = _block_of(face, _owner_of_bytes(array))
    if found is None:
        raise UsageError(
            "keep: an array made in numpy_allocator() of this heap expected, found one whose bytes "
            "lie elsewhere"
        )
    space, offset = found
    if place_of(space.core, offset).state != UnitState.RESERVED:
        raise _kept_before(offset)
    _make_durable(space, offset, place_of(space.core, offset).size)
    if space.core.keep_array(offset) < 0:
        space.require(write=True)
        if place_of(space.core, offset).state != UnitState.RESERVED:
            raise _kept_before(offset)
        raise MemoryError(f"keep: no memory to note the block at offset {offset:#x}")
    return offset


def kept_offset(face: BlockSpace, array: object) -> int | None:
    """Return the offset of the block of an array that was kept; None if it is none of the heap."""
    found = _block_of(face, array)
    if found is None:
        return None
    space, offset = found
    place = place_of(space.core, offset)
    if place.state == UnitState.RESERVED:
        raise UsageError(
            "offset_of: an array that was kept expected, found one of numpy_allocator(); "
            "keep(array) gives it an offset"
        )
    return offset if place.size else None


def _owner_of_bytes(array: Any) -> Any:
    """Check that something is an array, over bytes of its own, without Python objects."""
    arrays: Any = getattr(sys.modules.get("numpy"), "ndarray", ())
    if not isinstance(array, arrays):
        raise UsageError(f"keep: an array expected, {type(array).__name__} found")
    dtype = _fact(array, "dtype")
    if dtype.hasobject:
        raise UsageError(f"keep: an array without Python objects expected, {dtype} found")
    if not _fact(array, "flags").owndata:
        raise UsageError(
            "keep: an array with bytes of its own expected, found a view of another one's; keep "
            "that, or a copy made in numpy_allocator()"
        )
    return array


def _fact(array: Any, name: str) -> Any:
    """Return an attribute as numpy has it, whatever a subclass says."""
    return getattr(sys.modules["numpy"].ndarray, name).__get__(array)


def _block_of(face: BlockSpace, array: Any) -> tuple[Space, int] | None:
    """Return arena and offset of the first byte of an array, if it lies in the heap."""
    return located(face, _fact(array, "__array_interface__")["data"][0])


def located(face: BlockSpace, address: int) -> tuple[Space, int] | None:
    """Return arena and offset of a byte of this process, if it lies in the heap."""
    for space in space_of(face).shared.spaces():
        if space.closed:
            continue
        byte = address - space.region.base("data")
        if space.region.first_unit <= byte // UNIT < space.region.end_unit:
            return space, space.origin | byte
    return None


def _kept_before(offset: int) -> UsageError:
    return UsageError(
        "keep: an array that was not kept before expected, found that of the block at offset "
        f"{offset:#x}"
    )


def _make_durable(space: Space, offset: int, nbytes: int) -> None:
    """Bytes first: in a power heap no block is there after a crash whose bytes are not."""
    file = space.shared.file
    if file is None or not space.shared.is_power:
        return
    try:
        file.sync_memory(space.address_of(offset), nbytes, "keep")
    finally:
        space.shared.poison_if_sync_failed()
