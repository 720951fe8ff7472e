"""Vector shown: a vector as of a commit, which a snapshot shows.

Its counts are those of the commit. The elements are where they are: what is assigned to them later
is seen, and so is what is appended where elements had been taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pmemheap.containers.names import VECTOR_MAGIC, found_kind
from pmemheap.containers.vectorstore import COUNTS, ELEMENTS_AT, Counts, VectorStore, stored_dtype
from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.heap.insight import CheckReport
from pmemheap.heap.snapshots import Snapshot

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ShownStore", "shown_store"]


@dataclass(frozen=True, slots=True, eq=False)
class ShownStore(VectorStore):
    """Where a vector lies that is only read, and how long it was."""

    snapshot: Snapshot
    fixed: Counts

    def require_live(self) -> NoReturn:
        """Refuse a change."""
        raise UsageError(
            f"vector {self.name!r}: one of a heap expected for a change, found one of "
            f"{self.snapshot!r}"
        )

    def counts(self, roots: Mapping[str, int]) -> Counts:
        """Return the counts as of the commit."""
        return self.fixed

    def capacity(self) -> int:
        """Return the number of elements: there are to be no more."""
        return self.fixed.length

    def elements(self) -> np.ndarray[Any, Any]:
        """Return the elements, read-only."""
        nbytes = ELEMENTS_AT + self.fixed.length * self.dtype.itemsize
        return self._over(self.fixed.length, self.snapshot.view(self.block, nbytes))

    def copied(self, key: int | slice) -> Any:
        """Return an element, or a copy of a slice."""
        found = self.elements()[key]
        return found.copy() if isinstance(key, slice) else found

    def checked(self) -> CheckReport:
        """Find nothing: what it shows was looked at when it was made."""
        return CheckReport((), 0, 1, 0)


def shown_store(snapshot: Snapshot, name: str) -> ShownStore:
    """Return the vector that a snapshot shows under a name.

    Raises
    ------
    UsageError
        It has no such root, or that leads to something else.
    CorruptHeapError
        What the root leads to is not a sound vector.
    """
    place = snapshot.place(name)
    if place is None:
        raise UsageError(f"vector {name!r}: a root of {snapshot!r} expected, found none")
    magic, block, length, high = COUNTS.unpack(snapshot.view(place, COUNTS.size))
    if magic != VECTOR_MAGIC:
        raise UsageError(
            f"vector {name!r}: a root of that name that leads to a Vector expected, it leads to "
            f"{found_kind(magic)}"
        )
    try:
        dtype = stored_dtype(bytes(snapshot.view(block, ELEMENTS_AT)))
        snapshot.view(block, ELEMENTS_AT + length * dtype.itemsize)
    except (UsageError, CorruptHeapError) as error:
        raise CorruptHeapError(
            f"vector {name!r}: block {block:#x} of {length} elements: {error}"
        ) from error
    arena = snapshot.heap.arena(name, create=False)
    counts = Counts(place, length, high)
    return ShownStore(snapshot.heap, name, arena, block, dtype, snapshot, counts)
