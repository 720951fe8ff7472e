"""Vector and Arrays beside readers: what a commit can reach of them, and what changes of it.

Rows change where the program changes them, and where it appends behind a shorter length. Besides, a
vector changes its counts, of which readers have a copy, and the number of its last change.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from map_reach import Reach, begin_copying

from pmemheap import Heap
from pmemheap.containers import Arrays, Vector
from pmemheap.containers.vectorstore import ELEMENTS_AT
from pmemheap.native.constants import place
from pmemheap.units import MiB

CHANGES_AT = place("ph_vector_header", "changes")
CHANGES_END = CHANGES_AT + 8


def bytes_of(vector: Vector, length: int) -> bytes:
    """Return header and elements, without the number of the last change."""
    store = vector._store
    address = store.arena.address(store.block)
    found = ctypes.string_at(address, ELEMENTS_AT + length * vector.dtype.itemsize)
    return found[:CHANGES_AT] + found[CHANGES_END:]


VECTOR_CHANGES: dict[str, Callable[[Vector], object]] = {
    "append": lambda vector: vector.append(1),
    "grow": lambda vector: vector.extend(range(200_000)),
    "in parts": lambda vector: vector.extend(np.zeros(MiB, "i8")),
    "pop": Vector.pop,
    "truncate": lambda vector: vector.truncate(3),
}


@pytest.mark.parametrize("joins", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("change", VECTOR_CHANGES.values(), ids=VECTOR_CHANGES)
def test_a_vector_keeps_what_a_commit_can_reach(
    memory: Heap, change: Callable[[Vector], object], joins: bool
) -> None:
    vector = Vector(memory, "vector", "i8")
    vector.extend(range(100))
    begin_copying(memory)
    before = bytes_of(vector, 100)
    if joins:
        with memory.transaction():
            change(vector)
    else:
        change(vector)
    assert bytes_of(vector, 100) == before


ARRAY_CHANGES: dict[str, Callable[[Arrays], object]] = {
    "create": lambda arrays: arrays.create("new", (50, 4), "f8", fill=1),
    "append": lambda arrays: arrays["rows"].extend(np.ones((500, 2))),
    "truncate": lambda arrays: arrays["rows"].resize(3),
    "attribute": lambda arrays: arrays["rows"].attrs.update(unit="mm"),
    "replace": lambda arrays: arrays.update(rows=np.ones((7, 2))),
    "remove": lambda arrays: arrays.__delitem__("rows"),
    "rename": lambda arrays: arrays.rename("rows", "others"),
}


@pytest.mark.parametrize("joins", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("change", ARRAY_CHANGES.values(), ids=ARRAY_CHANGES)
def test_arrays_keep_what_a_commit_can_reach(
    memory: Heap, change: Callable[[Arrays], object], joins: bool
) -> None:
    arrays = Arrays(memory, "arrays")
    arrays["rows"] = np.arange(200.0).reshape(100, 2)
    arrays.create("structured", 3, [("a", "i4"), ("b", "f8")])
    begin_copying(memory)
    entries = Reach(arrays._store.catalogue)
    address = arrays["rows"].view().ctypes.data
    if joins:
        with memory.transaction():
            change(arrays)
    else:
        change(arrays)
    assert entries.changed() is None
    assert ctypes.string_at(address, 1600) == np.arange(200.0).tobytes()
