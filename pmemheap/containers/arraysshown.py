"""Arrays shown: the arrays of a catalogue as of a commit, which a snapshot shows.

Names, types, shapes and attributes are those of the commit, and so are the arrays that were there.
Their elements are where they are: what is assigned to them later is seen, and so is what is
appended where rows had been taken away.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NoReturn

from pmemheap.containers.arrayentry import Entry, rows_bytes
from pmemheap.containers.arraylives import Life
from pmemheap.containers.arraystore import ArrayStore, require_catalogue
from pmemheap.containers.sortedmap import SortedMap
from pmemheap.errors import UsageError
from pmemheap.file.pins import Pin
from pmemheap.heap.sharing import exported
from pmemheap.heap.snapshots import Snapshot

__all__ = ["shown_arrays"]


class _FixedLife(Life):
    """The block of an array of a snapshot, which keeps it."""

    __slots__ = ()

    def has(self, offset: int) -> bool:
        """Tell that the array has its block."""
        return True


@dataclass(frozen=True, slots=True, eq=False)
class ShownArrays(ArrayStore):
    """A catalogue that is only read, as of a commit."""

    pin: Pin = field(kw_only=True)
    """Keeps what the commit has."""

    def require_changeable(self) -> NoReturn:
        """Refuse a change."""
        raise UsageError(
            f"arrays {self.name!r}: those of a heap expected for a change, found those of a "
            "snapshot"
        )

    def life_of(self, entry: Entry) -> Life:
        """Return a life that does not end."""
        return _FixedLife()

    def usable_bytes(self, entry: Entry) -> int:
        """Return the bytes of rows that there are, or were; UsageError if they are not mapped."""
        nbytes = rows_bytes(entry, max(entry.high, entry.length))
        exported(self.heap, entry.offset, nbytes, self.pin, "snapshot")
        return nbytes

    def capacity(self, entry: Entry) -> int:
        """Return the number of rows: there are to be no more."""
        return entry.length

    def view(self, entry: Entry) -> memoryview:
        """Return the bytes of the rows, read-only; UsageError if they are not mapped."""
        nbytes = rows_bytes(entry, entry.length)
        return memoryview(exported(self.heap, entry.offset, nbytes, self.pin, "snapshot"))

    def glance(self, entry: Entry) -> AbstractContextManager[memoryview]:
        """Return `view`, which keeps nobody from anything."""
        return nullcontext(self.view(entry))


def shown_arrays(snapshot: Snapshot, name: str) -> ShownArrays:
    """Return the catalogue that a snapshot shows under a name.

    Raises
    ------
    UsageError
        It has no such root, or that leads to something else.
    """
    catalogue = SortedMap(snapshot, name)
    require_catalogue(catalogue)
    return ShownArrays(snapshot.heap, catalogue, snapshot.roots[name], pin=snapshot.pin)
