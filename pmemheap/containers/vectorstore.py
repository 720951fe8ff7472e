"""Vector store: how a vector lies in its heap.

    root "prices" --> counts: magic, block, length, high       a small block of the heap
                                       |
                                       v                       the only block of arena "prices"
                      +-------+---------+-------+----------+---------+- - - -
                      | magic | changes | dtype | elements | to come |  growth
                      +-------+---------+-------+----------+---------+- - - -
                      0       8         16      64: the elements, whose address never changes

A vector has an arena of its own, and that has one block. Behind an arena lies address space that
nobody else gets, so `expand` can always let the block grow where it stands.

Invariants, checked by `VectorStore.checked`:
  1. length <= high <= elements for which the block has room;
  2. no element at `high` or behind it is committed, or was since an array could show it;
  3. the arena has no other block: that is what keeps the space behind it free.

What is found damaged is looked at again while no other thread changes the heap: a change that was
committed between two reads looks like damage.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pmemheap.containers.arraytypes import named_dtype, numpy
from pmemheap.containers.glances import Glance
from pmemheap.containers.names import VECTOR_MAGIC, found_kind, visible_roots
from pmemheap.errors import CorruptHeapError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.heap.arena import Arena
from pmemheap.heap.heap import Heap
from pmemheap.heap.insight import CheckReport
from pmemheap.heap.space import space_of
from pmemheap.units import UNIT, MiB

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "BLOCK_MAGIC",
    "COUNTS",
    "ELEMENTS_AT",
    "HEADER",
    "Counts",
    "VectorStore",
    "find_store",
    "shown",
    "stored_dtype",
]

COUNTS = struct.Struct("<8sQQQ")  # magic, offset of the block, length, high
BLOCK_MAGIC = b"PHVECTOR"
HEADER = struct.Struct("<8sQ32s16x")  # magic, changes, dtype
ELEMENTS_AT = HEADER.size

shown: weakref.WeakKeyDictionary[Arena, int] = weakref.WeakKeyDictionary()
"""How long the longest array was that a vector has shown; what it showed may be taken back."""


class Counts(NamedTuple):
    """How many elements there are, and the offset of the block that says so."""

    place: int
    length: int
    high: int


@dataclass(frozen=True, slots=True, eq=False)
class VectorStore:
    """Where a vector lies, and the type of its elements."""

    heap: Heap
    name: str
    arena: Arena
    block: int
    dtype: np.dtype[Any]

    def require_live(self) -> None:
        """Refuse a change of what is only shown, as of a commit."""

    def counts(self, roots: Mapping[str, int]) -> Counts:
        """Return the counts to which a root leads.

        Raises
        ------
        UsageError
            The vector was dropped.
        CorruptHeapError
            They are none of this vector.
        """
        place, counts = _look(roots, self.name, self.heap)
        if not self._are_mine(counts):
            with self.heap.paused():  # what others commit meanwhile may be why
                place, counts = _look(roots, self.name, self.heap)
                if not self._are_mine(counts):
                    raise self._contradiction(place, counts)
        return Counts(place, *COUNTS.unpack(counts)[2:])

    def _are_mine(self, counts: bytes) -> bool:
        """Tell whether counts are sound, and those of the block of this vector."""
        if len(counts) < COUNTS.size or self.arena.closed:
            return False
        magic, block, length, high = COUNTS.unpack(counts)
        is_mine: bool = magic == VECTOR_MAGIC and block == self.block
        return is_mine and length <= high <= self.capacity()

    def _contradiction(self, place: int, counts: bytes) -> PmemHeapError:
        space_of(self.heap).shared.require_ours("vector")
        if self.arena.closed:
            return UsageError(f"vector {self.name!r}: one that is there expected, it was dropped")
        where = f"counts at offset {place:#x}"
        default = _finding(self.name, where, f"block {self.block:#x}", "another")
        return CorruptHeapError(next(_findings(self.name, self.arena, place, counts), default))

    def capacity(self) -> int:
        """Return the number of elements for which the block has room."""
        return (self.arena.usable_size(self.block) - ELEMENTS_AT) // self.dtype.itemsize

    def elements(self) -> np.ndarray[Any, Any]:
        """Return the elements, through a view of users."""
        length = self.counts(visible_roots(self.heap)).length
        view = self.arena.view(self.block, ELEMENTS_AT + length * self.dtype.itemsize)
        shown[self.arena] = max(length, shown.get(self.arena, 0))
        return self._over(length, view)

    def _over(self, length: int, view: memoryview) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = numpy().ndarray((length,), self.dtype, view, ELEMENTS_AT)
        return array

    def copied(self, key: int | slice) -> Any:
        """Return an element, or a copy of a slice."""
        length = self.counts(visible_roots(self.heap)).length
        nbytes = ELEMENTS_AT + length * self.dtype.itemsize
        with Glance(space_of(self.arena), self.block, nbytes) as view:
            found = self._over(length, view)[key]
            if isinstance(key, slice):
                found = found.copy()
        space_of(self.heap).require_kept()
        return found

    def reserve(self, count: int) -> None:
        """Let the block grow in place until it has room for `count` elements."""
        usable = self.arena.usable_size(self.block)
        wanted = ELEMENTS_AT + count * self.dtype.itemsize
        if wanted <= usable:
            return
        with suppress(OutOfSpaceError):  # room for later is a wish
            roomy = max(wanted, usable + min(max(usable // 8, MiB), usable))
            if self.arena.expand(self.block, roomy):
                return
        if not self.arena.expand(self.block, wanted):
            raise OutOfSpaceError(
                f"vector {self.name!r}: block at offset {self.block:#x}: room for {wanted} "
                f"bytes in place expected, {usable} found"
            )

    def checked(self) -> CheckReport:
        """Verify counts, header and arena. The caller has paused the heap."""
        place, counts = _look(visible_roots(self.heap), self.name, self.heap)
        usable = self.arena.usable_size(self.block)
        blocks = [offset for offset, _ in self.arena.blocks()]
        found = list(_findings(self.name, self.arena, place, counts))
        found += [
            _finding(self.name, "its arena", "no other block", f"one at {offset:#x}")
            for offset in blocks
            if offset != self.block
        ]
        return CheckReport(tuple(found[:64]), len(found), len(blocks), usable // UNIT)


def find_store(heap: Heap, name: str, headroom: int | None) -> VectorStore:
    """Return the vector to which the root of a name leads.

    Raises
    ------
    UsageError
        There is no such root, or it leads to something else.
    CorruptHeapError
        It leads to no sound vector.
    """
    found = _store_or_reason(heap, name, headroom)
    if not isinstance(found, VectorStore):  # what others commit meanwhile may be why
        with heap.paused():
            found = _store_or_reason(heap, name, headroom)
            if not isinstance(found, VectorStore):
                space_of(heap).shared.require_ours("vector")
                raise found
    return found


def _store_or_reason(heap: Heap, name: str, headroom: int | None) -> VectorStore | PmemHeapError:
    """Return the vector of a name, or why there is none."""
    place, counts = _look(heap.roots, name, heap)
    if not counts:
        where = f"root at offset {place:#x}"
        return CorruptHeapError(_finding(name, where, "a block", "none"))
    try:
        arena = heap.arena(name, create=False, headroom=headroom)
    except KeyError:
        arena = None
    if not counts.startswith(VECTOR_MAGIC) and not _has_block(arena):
        return UsageError(
            f"vector {name!r}: a root of that name that leads to a Vector expected, "
            f"it leads to {found_kind(counts[:8])}"
        )
    if arena is None:
        return CorruptHeapError(f"vector {name!r}: an arena of that name expected, none found")
    for finding in _findings(name, arena, place, counts):
        return CorruptHeapError(finding)
    block = COUNTS.unpack(counts)[1]
    dtype = stored_dtype(_bytes_at(arena, block, ELEMENTS_AT))
    return VectorStore(heap, name, arena, block, dtype)


def _has_block(arena: Arena | None) -> bool:
    """Tell whether an arena begins with the block of a vector: then its counts are damaged."""
    if arena is None:
        return False
    first = next(arena.blocks(), None)
    return first is not None and _bytes_at(arena, first[0], 8) == BLOCK_MAGIC


def _findings(name: str, arena: Arena, place: int, counts: bytes) -> Iterator[str]:
    """Yield what is wrong with the counts at an offset and with the header they lead to."""
    where = f"counts at offset {place:#x}"
    if len(counts) < COUNTS.size or not counts.startswith(VECTOR_MAGIC):
        yield _finding(name, where, f"magic {VECTOR_MAGIC!r}", repr(counts[:8]))
        return
    _, block, length, high = COUNTS.unpack(counts)
    header = _bytes_at(arena, block, ELEMENTS_AT)
    if len(header) < ELEMENTS_AT:
        yield _finding(name, where, f"a block of arena {name!r}", f"{block:#x}")
        return
    try:
        dtype = stored_dtype(header)
    except CorruptHeapError as error:
        yield f"vector {name!r}: header at offset {block:#x}: {error}"
        return
    room = (arena.usable_size(block) - ELEMENTS_AT) // dtype.itemsize
    if not length <= high <= room:
        found = f"length {length} and high {high}"
        yield _finding(name, where, f"length <= high <= {room}", found)


def _finding(name: str, where: str, expected: str, found: str) -> str:
    return f"vector {name!r}: {where}: {expected} expected, {found} found"


def stored_dtype(header: bytes) -> np.dtype[Any]:
    """Return the dtype that a header names; CorruptHeapError, without the place, if it is none."""
    magic, _, stored = HEADER.unpack(header)
    if magic != BLOCK_MAGIC:
        raise CorruptHeapError(f"magic {BLOCK_MAGIC!r} expected, {magic!r} found")
    return named_dtype(stored)


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
        counts = _bytes_at(heap, place, COUNTS.size)
        if roots.get(name) == place:
            return place, counts


def _bytes_at(space: Heap | Arena, offset: int, length: int) -> bytes:
    """Return the first bytes of a block, fewer if it is shorter, none if there is no block."""
    try:
        with space_of(space).own_view(offset) as view:
            found = bytes(view[:length])
    except UsageError:
        return b""
    space_of(space).require_kept()
    return found
