"""Array report: what must hold of the arrays of a catalogue, and what they occupy.

Invariants, checked by `checked`:
  1. each entry can be read, and the description of its dtype is there;
  2. its block is live, has room for its rows, and for `high` of them;
  3. no two arrays have the same block;
  4. in the arenas for arrays there are no other blocks.

Of a snapshot, which reads no tables, a block is what is mapped, and 4 is not looked at.

The callers have paused the heap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pmemheap.containers.arrayentry import Entry, rows_bytes
from pmemheap.containers.arraysshown import ShownArrays
from pmemheap.containers.arraystore import ArrayStore
from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.heap.insight import CheckReport
from pmemheap.heap.place import place_of
from pmemheap.heap.space import space_of
from pmemheap.native.constants import Refusal
from pmemheap.units import UNIT

__all__ = ["ArraysStatistics", "checked", "counted"]

_FINDINGS_MOST = 64
_NODE_BYTES = UNIT


@dataclass(frozen=True)
class ArraysStatistics:
    """How many arrays there are, and what they occupy.

    Attributes
    ----------
    arrays : int
        Number of arrays.
    nbytes : int
        Bytes of all their elements.
    name_bytes : int
        Bytes of their names.
    block_bytes : int
        Bytes of their blocks, with the room in them.
    catalogue_bytes : int
        Bytes of the catalogue: names, entries, attributes, descriptions of dtypes, room.
    arenas : int
        Arenas that are there for single arrays.
    """

    arrays: int
    nbytes: int
    name_bytes: int
    block_bytes: int
    catalogue_bytes: int
    arenas: int


class _Owner(NamedTuple):
    """The array that has a block."""

    name: str
    block_bytes: int


def counted(store: ArrayStore) -> ArraysStatistics:
    """Count what there is."""
    arrays = nbytes = name_bytes = block_bytes = 0
    for key, entry in _entries(store):
        arrays += 1
        nbytes += entry.nbytes
        name_bytes += len(key)
        block_bytes += store.usable_bytes(entry)
    tree = store.catalogue.statistics()
    catalogue_bytes = tree.nodes * _NODE_BYTES + tree.apart_bytes
    arenas = len(store.arenas())
    return ArraysStatistics(arrays, nbytes, name_bytes, block_bytes, catalogue_bytes, arenas)


def _entries(store: ArrayStore) -> Iterator[tuple[bytes, Entry]]:
    for key, value in store.entries():
        yield key, store.entry(key.decode("utf-8", "backslashreplace"), value)


def checked(store: ArrayStore) -> CheckReport:
    """Verify what must hold."""
    owners: dict[int, _Owner] = {}
    try:
        store.catalogue.check()
        findings = list(_array_findings(store, owners))
    except CorruptHeapError as error:
        return CheckReport((str(error),), 1, 0, 0)
    if not isinstance(store, ShownArrays):
        findings += _arena_findings(store, owners)
    units = sum(-(-owner.block_bytes // UNIT) for owner in owners.values())
    return CheckReport(tuple(findings[:_FINDINGS_MOST]), len(findings), len(owners), units)


def _array_findings(store: ArrayStore, owners: dict[int, _Owner]) -> Iterator[str]:
    """Yield what is wrong with each array; note whose each block is."""
    for key, value in store.entries():
        name = key.decode("utf-8", "backslashreplace")
        try:
            entry = store.entry(name, value)
            usable = store.usable_bytes(entry)
        except (CorruptHeapError, UsageError) as error:
            yield f"array {name!r}: an entry that leads to a block expected: {error}"
            continue
        wanted = rows_bytes(entry, max(entry.high, entry.length))
        if usable < wanted:
            yield (
                f"array {name!r}: block at offset {entry.offset:#x}: {wanted} bytes expected, "
                f"{usable} found"
            )
        owner = _Owner(name, usable)
        if (other := owners.setdefault(entry.offset, owner)) is not owner:
            yield (
                f"array {name!r}: a block of its own expected, found that of array {other.name!r} "
                f"at offset {entry.offset:#x}"
            )


def _arena_findings(store: ArrayStore, owners: dict[int, _Owner]) -> Iterator[str]:
    for arena in store.arenas():
        for offset, _ in arena.blocks():
            refusal = place_of(space_of(arena).core, offset).refusal
            if offset not in owners and refusal != Refusal.IN_TRANSACTION:  # which frees it
                yield (
                    f"arena {arena.name!r}: no blocks but those of arrays expected, found one at "
                    f"offset {offset:#x}"
                )
