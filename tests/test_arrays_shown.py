"""Named arrays of snapshots: as of a commit, in readers beside the writer and in its process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reader_world import DURABILITIES, Reader

from pmemheap import CorruptHeapError, Heap, UsageError
from pmemheap.containers import Arrays, SortedMap

RECORD = [("time", "M8[s]"), ("value", "f8")]


@pytest.fixture(params=DURABILITIES)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """A writer that lets readers in."""
    with Heap.create(tmp_path / "a.heap", durability=request.param, readers=True) as made:
        yield made


@pytest.fixture
def arrays(heap: Heap) -> Arrays:
    """Arrays of each kind."""
    made = Arrays(heap)
    made["small"] = np.arange(10.0)
    made.create("large", data=np.arange(1 << 18), attrs={"unit": "mm"})
    made.create("records", 3, RECORD)
    made.create("empty", (0, 4), "f4")
    made.create("number", (), "i8", fill=7)
    return made


def described(arrays: Arrays) -> dict[str, Any]:
    """Return all that there is to know of some arrays, but for elements of large ones."""
    return {
        name: (array.shape, array.dtype.str, dict(array.attrs), array[...].tobytes()[:100])
        for name, array in arrays.items()
    }


def test_they_are_those_of_the_commit(heap: Heap, arrays: Arrays) -> None:
    before = described(arrays)
    snap = heap.read()
    shown = Arrays(snap)
    kept = shown["small"].view(), shown["large"].view()
    arrays["small"] = np.zeros(3, "u1")  # a block of its own, and the old one is freed
    arrays["large"].extend(np.full(1 << 18, -1))
    arrays["large"].attrs["unit"] = "m"
    arrays.drop("records")
    arrays.rename("number", "count")
    arrays["new"] = np.ones(5000)
    for number in range(50):
        arrays[f"other {number}"] = np.full(10, number)
    assert described(shown) == before
    assert len(shown) == 5
    assert shown["large"].view().tolist() == [*range(1 << 18)]
    assert snap.refresh()
    assert described(shown) == before, "they keep what they show"
    assert described(Arrays(snap)) == described(arrays)
    snap.close()
    assert described(shown) == before
    assert kept[0].tolist() == [*range(10)]
    assert len(kept[1]) == 1 << 18
    assert not kept[0].flags.writeable
    del kept, shown


def test_a_reader_sees_them_grow_with_each_refresh(heap: Heap) -> None:
    log = Arrays(heap).create("log", 0, "i8", in_place=True)
    with Reader(Path(heap.name)) as reader:
        reader("(log := Arrays(snap)['log'], first := log.view()) is None")
        for length in range(100_000, 1_000_000, 100_000):
            log.extend(np.arange(len(log), length))
            assert reader("len(log), snap.refresh()") == (0, True)
            assert reader("(now := Arrays(snap)['log'].view()) is None") is False
            assert reader("len(now), int(now.sum())") == (length, length * (length - 1) // 2)
        assert reader("len(first)") == 0


def test_a_reader_keeps_an_array_that_moves_or_goes(heap: Heap, arrays: Arrays) -> None:
    with Reader(Path(heap.name)) as reader:
        reader("(old := Arrays(snap)['small'], view := old.view()) is None")
        arrays["small"].extend(np.zeros(5000))  # moves
        arrays["small"] = np.ones(10)
        arrays.drop("small")
        for _ in range(300):
            heap.view(heap.malloc(80))[:] = b"\xff" * 80
        assert reader("view.tolist() == old[...].tolist() == [*range(10)]") is True
        assert reader("snap.refresh(), 'small' in Arrays(snap)") == (True, False)
        assert reader("view.tolist() == old[...].tolist() == [*range(10)]") is True


def test_elements_are_seen_as_they_change(heap: Heap, arrays: Arrays) -> None:
    with heap.read() as snap:
        shown = Arrays(snap)["small"]
        arrays["small"][3] = -3
        assert shown[3] == -3
        assert np.asarray(shown)[3] == -3


CHANGES: dict[str, Callable[[Arrays], object]] = {
    "create": lambda arrays: arrays.create("new", 3),
    "replace": lambda arrays: arrays.replace("small", [1]),
    "set": lambda arrays: arrays.__setitem__("small", [1]),
    "update": lambda arrays: arrays.update(small=[1]),
    "rename": lambda arrays: arrays.rename("small", "other"),
    "drop": lambda arrays: arrays.drop("small"),
    "delete": lambda arrays: arrays.__delitem__("small"),
    "pop": lambda arrays: arrays.pop("small"),
    "popitem": lambda arrays: arrays.popitem(),
    "clear": lambda arrays: arrays.clear(),
    "compact": lambda arrays: arrays.compact(),
    "assign": lambda arrays: arrays["small"].__setitem__(0, 1),
    "append": lambda arrays: arrays["small"].append(1),
    "extend": lambda arrays: arrays["small"].extend([1, 2]),
    "shorter": lambda arrays: arrays["small"].resize(1),
    "longer": lambda arrays: arrays["small"].resize(100),
    "attribute": lambda arrays: arrays["small"].attrs.update(unit="mm"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_they_are_not_changed(heap: Heap, arrays: Arrays, change: str) -> None:
    with heap.read() as snap, pytest.raises(UsageError, match=r"for a change, found .* snapshot"):
        CHANGES[change](Arrays(snap))
    assert described(arrays)["small"][0] == (10,)


def test_check_and_statistics(heap: Heap, arrays: Arrays) -> None:
    arrays["records"].resize(1)
    with heap.read() as snap:
        shown = Arrays(snap)
        assert shown.check()
        assert shown.check().blocks == 5
        found, live = shown.statistics(), arrays.statistics()
        assert (found.arrays, found.nbytes, found.arenas) == (5, live.nbytes, live.arenas)
        assert found.nbytes <= found.block_bytes <= live.block_bytes
        assert shown["records"].capacity == 1
        assert repr(shown) == repr(arrays)
        assert shown._repr_html_() == arrays._repr_html_()
    with Reader(Path(heap.name)) as reader:
        assert reader("bool(Arrays(snap).check()), Arrays(snap).statistics().arrays") == (True, 5)


def test_what_is_none_is_refused(heap: Heap, arrays: Arrays) -> None:
    SortedMap(heap, "table")
    with heap.read() as snap:
        with pytest.raises(UsageError, match=r"'nothing'.*expected, found none"):
            Arrays(snap, "nothing")
        with pytest.raises(UsageError, match="leads to Arrays expected, it leads to a SortedMap"):
            Arrays(snap, "table")
        with pytest.raises(KeyError):
            Arrays(snap)["nothing"]
    with pytest.raises(UsageError, match="closed"):
        Arrays(snap)


def test_damage_is_told(heap: Heap, arrays: Arrays) -> None:
    catalogue = SortedMap(heap, "arrays")
    entry = bytearray(catalogue[b"small"])
    entry[-1] |= 0x80
    catalogue[b"small"] = entry + b"\x7f"  # a block that lies far beyond
    with heap.read() as snap:
        with pytest.raises(CorruptHeapError, match="array 'small'"):
            Arrays(snap)["small"].view()
        assert not Arrays(snap).check()
