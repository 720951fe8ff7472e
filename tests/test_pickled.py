"""Objects in blocks: what comes back is what went in, and lies where it was stored."""

from __future__ import annotations

import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pmemheap import CorruptHeapError, Heap, UsageError

VALUES: list[Any] = [
    None,
    {"a": [1, 2.5, "text", b"bytes", (None, True)]},
    np.arange(1000),
    np.arange(12).reshape(3, 4).T,
    np.arange(100)[::3],
    np.zeros((0, 3)),
    np.array([("a", 1)], dtype=[("name", "U4"), ("count", "i8")]),
    np.array(["2026-11-28"], dtype="M8[D]"),
    [np.ones(5, "f4"), {"deep": np.full((2, 2), 7)}],
    np.array([{"an": "object"}], dtype=object),
    list(range(10_000)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_comes_back_is_what_went_in(value: Any, heap: Heap) -> None:
    offset = heap.dump(value)
    loaded = heap.load(offset)
    assert type(loaded) is type(value)
    np.testing.assert_equal(loaded, value)
    del loaded
    heap.free(offset)
    assert heap.check()


@given(
    values=st.lists(
        arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(max_dims=3, max_side=6))
        | st.binary()
        | st.dictionaries(st.text(), st.integers()),
        max_size=6,
    )
)
def test_any_of_them_together(values: list[Any]) -> None:
    with Heap.anonymous() as heap:
        offset = heap.dump(values)
        loaded = heap.load(offset)
        for one, other in zip(loaded, values, strict=True):
            np.testing.assert_equal(one, other)
        del loaded
        one = None
        heap.free(offset)


def test_arrays_lie_in_the_heap(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path) as heap:
        heap.roots["model"] = heap.dump({"weights": np.zeros(1000), "names": ["a"]})
        weights = heap.load(heap.roots["model"])["weights"]
        assert heap.offset_of(weights) == heap.roots["model"]
        assert weights.flags.aligned
        assert weights.ctypes.data % 64 == 0
        weights[3] = 7.0
        with pytest.raises(BufferError, match="no live views"):
            heap.close()
        del weights
        heap.sync()
    with Heap.open(path, readonly=True) as heap:
        weights = heap.load(heap.roots["model"])["weights"]
        assert weights[3] == 7.0
        assert not weights.flags.writeable
        del weights


def test_what_was_read_only_comes_back_read_only(memory: Heap) -> None:
    fixed = np.arange(10)
    fixed.flags.writeable = False
    buffer = pickle.PickleBuffer(b"bytes beside the pickle")
    loaded = memory.load(memory.dump([fixed, buffer, np.arange(10)]))
    assert [each.flags.writeable for each in loaded[::2]] == [False, True]
    assert bytes(loaded[1]) == b"bytes beside the pickle"
    del loaded


def test_a_block_is_not_freed_under_an_array_of_it(heap: Heap) -> None:
    offset = heap.dump([np.arange(10.0)])
    loaded = heap.load(offset)
    with pytest.raises(BufferError):
        heap.free(offset)
    heap.free(offset, deferred=True)
    assert loaded[0].sum() == 45
    del loaded


def test_a_transaction_has_it_or_not(heap: Heap) -> None:
    blocks = heap.stats().blocks
    with heap.transaction() as tx:
        tx.roots["first"] = tx.dump(np.arange(10))
        tx.roots["second"] = heap.dump("part of it as well")
    assert heap.load(heap.roots["second"]) == "part of it as well"
    assert heap.load(heap.roots["first"]).tolist() == list(range(10))
    with heap.transaction() as tx:
        tx.dump(np.arange(1000))
        heap.dump(np.arange(1000))
        tx.abort()
    assert heap.stats().blocks == blocks + 2
    assert heap.check()


def test_an_arena_has_its_own(heap: Heap) -> None:
    arena = heap.arena("models")
    offset = arena.dump([1, 2, 3])
    assert dict(arena.blocks()).keys() == {offset}
    assert heap.load(offset) == [1, 2, 3]
    with heap.transaction() as tx:
        other = tx.dump([4], arena=arena)
    assert arena.load(other) == [4]


def test_what_can_not_be_pickled_leaves_nothing(heap: Heap) -> None:
    blocks = heap.stats().blocks
    for bad in (lambda: None, [np.arange(5), lambda: None]):
        with pytest.raises(Exception, match="pickle"):  # which, depends on the version of Python
            heap.dump(bad)
    with pytest.raises(pickle.PicklingError, match="non-contiguous"):
        heap.dump(pickle.PickleBuffer(memoryview(bytes(10))[::2]))
    assert heap.stats().blocks == blocks


def test_a_block_that_was_not_dumped_is_no_object(heap: Heap) -> None:
    offset = heap.malloc(100)
    heap.view(offset)[:4] = b"text"
    with pytest.raises(UsageError, match=r"what dump\(\) stored expected.*text"):
        heap.load(offset)
    small = heap.malloc(1)
    with pytest.raises(UsageError, match="what dump"):
        heap.load(small)
    heap.free(offset)
    with pytest.raises(UsageError, match="a live block"):
        heap.load(offset)


def test_forged_numbers_lead_nowhere(memory: Heap) -> None:
    """Every number of header and rows: an error of ours, or of pickle, and never a read outside."""
    chance = random.Random(3)
    offset = memory.dump([np.arange(100), np.arange(50)])
    view = memory.view(offset)
    sound = bytes(view)
    numbers = (0, 1, 2, 7, 1000, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
    outcomes: set[type[Exception] | None] = set()
    for place in range(8, 24 + 32, 8):
        for number in (*numbers, *(chance.getrandbits(64) for _ in range(20))):
            view[:] = sound
            struct.pack_into("<Q", view, place, number)
            try:
                memory.load(offset)
            except Exception as error:
                outcomes.add(type(error))
            else:
                outcomes.add(None)
    assert outcomes > {None, CorruptHeapError}, "the rest are errors of pickle and numpy"
    assert not outcomes & {MemoryError, SystemError, OverflowError}
    view[:] = sound
    assert memory.load(offset)[1].tolist() == list(range(50))
    view.release()
