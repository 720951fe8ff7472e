"""Named arrays, by example."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmemheap import CorruptHeapError, Heap, OutOfSpaceError, UsageError
from pmemheap.containers import Array, Arrays, SortedMap, Vector
from pmemheap.containers.arrayentry import key_of_description
from pmemheap.containers.arraystore import LARGE_BYTES
from pmemheap.units import KiB, MiB

FIELDS = np.dtype([("a", "<i4"), ("b", [("x", "<f8", (2,)), ("y", "S3")]), ("t", "<M8[ms]")])

OVERLAPPING = np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})


def leb128(number: int) -> bytes:
    parts = [number >> shift & 127 | 128 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*parts[:-1], parts[-1] & 127])


class GivenUpError(Exception):
    """Raised to abort a transaction."""


# ---------------------------------------------------------------- a mapping


def test_what_goes_in_comes_out(heap: Heap) -> None:
    arrays = Arrays(heap)
    arrays["b"] = [[1, 2], [3, 4]]
    arrays["a"] = np.float32(7)
    arrays["c"] = np.array(["one", "three"])
    assert (list(arrays), len(arrays), "a" in arrays, "d" in arrays) == (
        ["a", "b", "c"],
        3,
        True,
        False,
    )
    b = arrays["b"]
    assert (b.name, b.dtype, b.shape, b.ndim, b.size, b.nbytes) == (
        "b",
        np.dtype("i8"),
        (2, 2),
        2,
        4,
        32,
    )
    assert (b[:].tolist(), b[1, 0], b[-1].tolist(), len(b)) == ([[1, 2], [3, 4]], 3, [3, 4], 2)
    assert (arrays["a"][()], arrays["a"].shape, arrays["a"].view().ndim) == (7, (), 0)
    assert arrays["c"][:].tolist() == ["one", "three"]
    assert [name for name, _ in arrays.items("b")] == ["b", "c"]
    assert [array.name for array in arrays.values(reverse=True)] == ["c", "b", "a"]
    assert arrays.get("d") is None
    assert arrays.get(7) is None  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        arrays["d"]
    assert arrays.check()
    assert heap.check()


@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "u2", ">i4", "f2", "f8", "g", "c16", "S5", "U3", "M8[ns]", "m8[25us]", "V6", FIELDS,
     np.dtype([("a", "i1"), ("b", "f8")], align=True), [(("title", "name"), "f4")]],
)  # fmt: skip
def test_dtypes_are_kept(tmp_path: Path, dtype: Any) -> None:
    array = np.zeros((3, 2), dtype)
    array.view("u1")[...] = np.arange(array.nbytes).reshape(3, -1) % 2
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        Arrays(heap)["a"] = array
    with Heap.open(tmp_path / "heap", readonly=True) as heap:
        found = Arrays(heap)["a"]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found[:].tobytes() == array.tobytes()
        assert not found.view().flags.writeable


def test_fields_are_described_once(memory: Heap) -> None:
    arrays = Arrays(memory)
    arrays.update({f"a{number}": np.zeros(number, FIELDS) for number in range(20)})
    small, described = len(arrays), len(SortedMap(memory, "arrays")) - 20
    assert (small, described) == (20, 2)
    arrays.clear()
    arrays.compact()
    assert (len(arrays), len(SortedMap(memory, "arrays"))) == (0, 1)
    assert arrays.check()


def test_create_and_its_defaults(memory: Heap) -> None:
    arrays = Arrays(memory)
    memory.view(filth := memory.malloc(96))[:] = b"\xff" * 96
    memory.free(filth)
    assert arrays.create("zeros", 12)[:].tolist() == [0.0] * 12
    assert arrays.create("sevens", (2, 2), "u1", fill=7)[:].tolist() == [[7, 7], [7, 7]]
    assert (
        arrays.create("data", data=range(3), dtype="f4", attrs={"unit": "m"}).attrs["unit"] == "m"
    )
    assert arrays.create("empty", (0, 5)).shape == (0, 5)
    assert arrays.create("names", 2, "S3")[:].tolist() == [b"", b""]
    assert arrays.create("rows", 4, ("f4", 3)).shape == (4, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: a.create("x", 3, object), "without Python objects expected"),
        (lambda a: a.create("x", 3, [("a", "O")]), "without Python objects expected"),
        (lambda a: a.create("x", data=["a", None]), "without Python objects expected"),
        (lambda a: a.create("x", 3, np.dtypes.StringDType()), "without Python objects expected"),
        (lambda a: a.create("x", 3, "S0"), "at least one byte expected"),
        (lambda a: a.create("x", 3, "no such"), "a dtype of numpy expected"),
        (lambda a: a.create("x"), "a shape or data expected, found neither"),
        (lambda a: a.create("x", 3, data=[1]), "a shape or data expected, found both"),
        (lambda a: a.create("x", data=[1], fill=0), "data or fill expected"),
        (lambda a: a.create("x", (1,) * 99), "a shape that numpy can have expected"),
        (lambda a: a.create("x", (2, -1)), "whole numbers, 0 or more"),
        (lambda a: a.create("x", 2, attrs={"a": object()}), "attributes for JSON expected"),
        (lambda a: a.create("x", 2, attrs={1: 2}), "attributes with names expected"),
        (lambda a: a.create("x", 2, attrs={"a": "b" * 70_000}), "at most 65536 bytes"),
        (lambda a: a.create("taken", 2), "a name without an array expected"),
        (lambda a: a.rename("other", "taken"), "a name without an array expected"),
        (lambda a: a.create("", 2), "1 to 1000 bytes expected, found one of 0"),
        (lambda a: a.create("n" * 1001, 2), "found one of 1001"),
        (lambda a: a.create("\ud800", 2), "a name in Unicode expected"),
        (lambda a: a.create("\0x", 2), "does not begin with a NUL"),
        (lambda a: a.create("x", 2, OVERLAPPING), "fields that do not overlap"),
        (lambda a: a["taken"].append([1, 2]), r"a row of shape \(\) expected, \(2,\) found"),
        (lambda a: a["taken"].extend([[1]]), r"rows of shape \(\) expected, \(1,\) found"),
        (lambda a: a["taken"].extend(3), "3 found"),
        (lambda a: a["taken"].resize(-1), "expected, -1 found"),
        (lambda a: a["point"].append(1), "an axis expected for rows, it has none"),
        (lambda a: a["point"].resize(1), "an axis expected for length, it has none"),
        (lambda a: Arrays(a.heap, "n" * 28), "1 to 27 bytes expected"),
    ],
)  # fmt: skip
def test_refusals_change_nothing(
    memory: Heap, make: Callable[[Arrays], object], message: str
) -> None:
    arrays = Arrays(memory)
    arrays.update({"taken": [1, 2], "other": [3], "point": 4})
    before = memory.stats().allocated
    with pytest.raises(UsageError, match=message):
        make(arrays)
    assert (list(arrays), arrays["taken"][:].tolist()) == (["other", "point", "taken"], [1, 2])
    assert memory.stats().allocated == before
    assert arrays.check()


def test_a_name_that_is_no_str(memory: Heap) -> None:
    arrays = Arrays(memory)
    with pytest.raises(TypeError, match="a name that is a str expected"):
        arrays[b"bytes"] = [1]  # type: ignore[index]
    assert 7 not in arrays  # type: ignore[comparison-overlap]
    with pytest.raises(TypeError, match="an axis expected for len"):
        len(arrays.create("point", ()))


def test_a_root_that_leads_elsewhere(memory: Heap) -> None:
    SortedMap(memory, "map")[b"key"] = b"value"
    SortedMap(memory, "empty")
    Vector(memory, "vector", "f8")
    for name in ("map", "empty"):
        with pytest.raises(UsageError, match="leads to Arrays expected, it leads to a SortedMap"):
            Arrays(memory, name)
    with pytest.raises(UsageError, match="it leads to a Vector"):
        Arrays(memory, "vector")


# ---------------------------------------------------------------- changing


def test_rows_are_added_and_taken_away(heap: Heap) -> None:
    a = Arrays(heap).create("a", (0, 2), "i4")
    a.append([1, 2])
    a.extend([[3, 4], [5, 6]])
    a.extend([])
    a.extend(np.array([[7, 8]]))
    a.extend(iter([[9, 10]]))
    assert a[:].tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    a.resize(2)
    a.resize(3)
    assert (a[:].tolist(), a.shape) == ([[1, 2], [3, 4], [0, 0]], (3, 2))
    assert a.capacity >= 5


CHANGES: list[Callable[[Any], None]] = [
    lambda a: a.__setitem__(3, 1),
    lambda a: a.__setitem__(-1, [1, 2, 3]),
    lambda a: a.__setitem__(slice(2, 5), 9),
    lambda a: a.__setitem__(slice(None, None, -3), [[1], [2], [3], [4]]),
    lambda a: a.__setitem__(slice(5, 2), 9),
    lambda a: a.__setitem__((slice(None), 1), range(10)),
    lambda a: a.__setitem__((slice(8, 1, -2), [0, 2]), [[1, 2], [3, 4], [5, 6], [7, 8]]),
    lambda a: a.__setitem__((..., 0), 5),
    lambda a: a.__setitem__(..., 6),
    lambda a: a.__setitem__((), 6),
    lambda a: a.__setitem__(True, 6),
    lambda a: a.__setitem__((None, 2), 6),
    lambda a: a.__setitem__([1, -1, 4], [[1], [2], [3]]),
    lambda a: a.__setitem__([[1, 2], [3, 1]], np.arange(12).reshape(2, 2, 3)),
    lambda a: a.__setitem__([], 3),
    lambda a: a.__setitem__((np.array([7, 2], "u1"), [0, 1]), [5, 6]),
    lambda a: a.__setitem__(np.arange(10) % 3 == 0, 4),
    lambda a: a.__setitem__((np.arange(10) == 4, [0]), 4),
    lambda a: a.__setitem__(np.arange(30).reshape(10, 3) % 7 == 0, 8),
    lambda a: a.__setitem__(np.zeros(10, bool), 8),
    lambda a: a.__setitem__(np.int8(3), 8),
]


@pytest.mark.parametrize("is_part", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_assignment_is_that_of_numpy(
    memory: Heap, change: Callable[[Any], None], is_part: bool
) -> None:
    model = np.arange(30).reshape(10, 3)
    a = Arrays(memory).create("a", data=model)
    if is_part:
        with suppress(GivenUpError), memory.transaction():
            change(a)
            raise GivenUpError
        assert (a[:] == model).all()
        with memory.transaction():
            change(a)
    else:
        change(a)
    change(model)
    assert (a[:] == model).all()


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        (10, 1, IndexError),
        ([0, 10], 1, IndexError),
        (np.zeros(9, bool), 1, IndexError),
        ((0, 3), 1, IndexError),
        ("x", 1, IndexError),
        (1.5, 1, IndexError),
        (slice(3), [1, 2], ValueError),
        (0, "x", ValueError),
        (slice("a", None), 1, TypeError),
    ],
)
def test_what_numpy_refuses_changes_nothing(
    memory: Heap, key: Any, value: Any, error: type[Exception]
) -> None:
    a = Arrays(memory).create("a", data=np.arange(30).reshape(10, 3))
    with pytest.raises(error):
        a[key] = value
    assert (a[:] == np.arange(30).reshape(10, 3)).all()


def test_fields_and_points_are_assigned(memory: Heap) -> None:
    arrays = Arrays(memory)
    rows = arrays.create("rows", 3, FIELDS)
    rows["a"] = [1, 2, 3]
    rows[1:]["a"] = 9  # of a copy
    rows.append((4, ([1, 2], b"abc"), "2024-02-29"))
    row = rows[3]
    rows[3] = rows[0]
    assert (rows["a"].tolist(), row["b"]["y"]) == ([1, 2, 3, 1], b"abc")
    point = arrays.create("point", (), "f8")
    point[()] = 3
    point[...] = point[...] + 1
    assert point[()] == 4


def test_more_than_a_record_holds_is_added_as_a_whole(memory: Heap) -> None:
    a = Arrays(memory).create("a", LARGE_BYTES, "u1")
    view = a.view()
    many = np.arange(9 * MiB, dtype="u1")
    a.extend(many)
    assert (a.view()[: len(view)] == 0).all()
    assert (a.view()[len(view) :] == many).all()
    assert a.view().ctypes.data == view.ctypes.data
    a.resize(12 * MiB)
    assert not a.view()[len(view) + len(many) :].any()


def test_attributes(heap: Heap) -> None:
    a = Arrays(heap).create("a", 3)
    a.attrs["unit"] = "mm"
    a.attrs.update({"scale": np.float32(0.5), "axes": ["x", {"y": None}]})
    assert dict(a.attrs) == {"unit": "mm", "scale": 0.5, "axes": ["x", {"y": None}]}
    del a.attrs["unit"]
    with pytest.raises(KeyError):
        del a.attrs["unit"]
    with suppress(GivenUpError), heap.transaction():
        a.attrs.clear()
        assert len(a.attrs) == 0
        raise GivenUpError
    a.append(1)
    assert repr(a.attrs) == "{'scale': 0.5, 'axes': ['x', {'y': None}]}"
    a.attrs["long"] = "x" * 5000
    assert Arrays(heap)["a"].attrs["long"] == "x" * 5000
    Arrays(heap).replace("a", [1])
    assert list(Arrays(heap)["a"].attrs) == ["scale", "axes", "long"]
    Arrays(heap)["a"].attrs.clear()
    assert not Arrays(heap)["a"].attrs


# ---------------------------------------------------------------- views and growth


@pytest.mark.slow
def test_a_large_array_grows_under_its_views(heap: Heap) -> None:
    arrays = Arrays(heap)
    a = arrays.create("a", (LARGE_BYTES // 8,), "f8", fill=1)
    small = arrays.create("b", 2, "i4", in_place=True)
    view, few = a.view(), small.view()
    for _ in range(4):
        a.extend(np.ones(100_000))
        small.extend(range(100_000))
        heap.malloc(300_000)
    assert (a.view().ctypes.data, small.view().ctypes.data) == (view.ctypes.data, few.ctypes.data)
    view[0] = 5
    assert (a[0], a.view().sum(), len(small)) == (5, len(a) + 4, 400_002)
    assert arrays.check()


def test_a_small_array_does_not_move_under_its_views(heap: Heap) -> None:
    a = Arrays(heap).create("a", 2, "i8")
    other = Arrays(heap)["a"]
    view = a.view()
    with pytest.raises(BufferError, match="that the array can move, in order to grow, 1 found"):
        a.extend(range(1000))
    assert (len(a), view.tolist()) == (2, [0, 0])
    del view
    a.extend(range(1000))
    other.append(7)
    assert (len(a), a[-1], other[1:3].tolist()) == (1003, 7, [0, 0])


def test_views_are_not_surprised_by_rows_that_come_again(heap: Heap) -> None:
    a = Arrays(heap).create("a", data=np.arange(10), in_place=True)
    view = a.view()
    a.resize(4)
    assert view.tolist() == list(range(10))
    with pytest.raises(BufferError, match="where rows were that they may show, 1 found"):
        a.append(77)
    with heap.transaction(), pytest.raises(BufferError, match="where rows were"):
        a.append(77)
    assert (view.tolist(), len(a)) == (list(range(10)), 4)
    del view
    view = a.view()
    with pytest.raises(BufferError):  # which rows it shows is not known
        a.append(77)
    del view
    a.append(77)
    view = a.view()
    a.append(78)
    assert (a[:].tolist(), view.tolist()) == ([0, 1, 2, 3, 77, 78], [0, 1, 2, 3, 77])


def test_views_are_not_surprised_by_rows_that_were_taken_back(heap: Heap) -> None:
    a = Arrays(heap).create("a", data=np.arange(3), in_place=True)
    with suppress(GivenUpError), heap.transaction():
        a.append(3)
        view = a.view()
        raise GivenUpError
    with pytest.raises(BufferError, match="where rows were"):
        a.append(4)
    assert (view.tolist(), a[:].tolist()) == ([0, 1, 2, 3], [0, 1, 2])


def test_views_pin_and_copies_do_not() -> None:
    heap = Heap.anonymous()
    arrays = Arrays(heap)
    a = arrays.create("a", data=range(5))
    copy, view = a[1:3], a.view()
    copy[:] = 0
    for refused in (lambda: arrays.drop("a"), lambda: arrays.replace("a", [1]), heap.close,
                    lambda: arrays.__setitem__("a", 3)):  # fmt: skip
        with pytest.raises(BufferError):
            refused()
    assert (a[:].tolist(), view.tolist()) == (list(range(5)), list(range(5)))
    del view
    heap.close()
    with pytest.raises(UsageError, match="it is closed"):
        a[:]
    assert (repr(a), repr(arrays)) == ("<Array 'a', gone>", "<Arrays 'arrays', closed>")


@pytest.mark.parametrize("rows", [10, LARGE_BYTES])
def test_a_deferred_drop_frees_when_the_last_view_goes(heap: Heap, rows: int) -> None:
    arrays = Arrays(heap)
    a = arrays.create("a", rows, "u1", fill=3)
    view = a.view()
    arrays.drop("a", deferred=True)
    assert (len(arrays), view[5], heap.stats().quarantined > 0) == (0, 3, True)
    assert arrays.create("a", rows, "u1", fill=4).view().ctypes.data != view.ctypes.data
    assert view[5] == 3
    del view
    heap.sync()
    assert heap.stats().quarantined == 0
    arrays.replace("a", [1, 2], deferred=True)
    assert arrays["a"][:].tolist() == [1, 2]
    assert arrays.check()


def test_an_empty_arena_is_used_again(heap: Heap) -> None:
    arrays = Arrays(heap)
    for _ in range(3):
        arrays["a"] = np.ones(LARGE_BYTES, "u1")
    assert heap.arenas() == ["arrays.0", "arrays.1"]  # the old and the new one of each replacement
    arrays["b"] = np.ones(LARGE_BYTES, "u1")
    assert heap.arenas() == ["arrays.0", "arrays.1"]
    with suppress(GivenUpError), heap.transaction():
        arrays["c"] = np.ones(LARGE_BYTES, "u1")
        assert heap.arenas() == ["arrays.0", "arrays.1", "arrays.2"]
        raise GivenUpError
    arrays["c"] = np.ones(LARGE_BYTES, "u1")
    assert heap.arenas() == ["arrays.0", "arrays.1", "arrays.2"]
    assert arrays.statistics().arenas == 3
    assert arrays.check()


def test_arrays_without_arenas_left_lie_among_the_others(
    memory: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmemheap.containers.arraystore.ARENAS_MOST", 1)
    arrays = Arrays(memory)
    for name in "abc":
        arrays[name] = np.full(LARGE_BYTES, ord(name), "u1")
    arrays["b"].extend(np.ones(LARGE_BYTES, "u1"))
    assert (memory.arenas(), len(arrays["b"])) == (["arrays.0"], 2 * LARGE_BYTES)
    assert [int(arrays[name][LARGE_BYTES - 1]) for name in "abc"] == [97, 98, 99]
    assert arrays.check()


@pytest.mark.slow
def test_no_room_leaves_everything_as_it_was() -> None:
    with Heap.anonymous(limit=16 * MiB) as heap:
        arrays = Arrays(heap)
        arrays["a"] = np.ones(2 * MiB, "u1")
        for change in (
            lambda: arrays.create("b", 64 * MiB, "u1"),
            lambda: arrays["a"].resize(64 * MiB),
            lambda: arrays.__setitem__("a", np.ones(64 * MiB, "u1")),
        ):
            with pytest.raises(OutOfSpaceError):
                change()
        assert (list(arrays), arrays["a"].shape, heap.arenas()) == (["a"], (2 * MiB,), ["arrays.0"])
        assert arrays.check()


# ---------------------------------------------------------------- life


@pytest.mark.parametrize(
    "end",
    [
        lambda a: a.drop("a"),
        lambda a: a.__delitem__("a"),
        lambda a: a.replace("a", [1]),
        lambda a: a.rename("a", "b"),
        lambda a: a.pop("a"),
        lambda a: a.clear(),
    ],
)
def test_an_array_that_is_gone_says_so(heap: Heap, end: Callable[[Arrays], object]) -> None:
    arrays = Arrays(heap)
    a = arrays.create("a", data=range(10))
    with suppress(GivenUpError), heap.transaction():
        end(arrays)
        with pytest.raises(UsageError, match="dropped, replaced or renamed"):
            a.append(1)
        raise GivenUpError
    a.append(10)
    end(arrays)
    with suppress(UsageError):
        arrays.create("a", data=range(11))
    use: list[Callable[[], object]] = [
        lambda: a[0], a.view, lambda: a.shape, lambda: a.append(1), lambda: a.attrs,
        lambda: a.__setitem__(0, 1), lambda: a.resize(0), lambda: len(a), lambda: np.asarray(a),
    ]  # fmt: skip
    for call in use:
        with pytest.raises(UsageError, match="array 'a': one that is there expected"):
            call()
    assert arrays.check()


def test_renaming_keeps_views_and_abort_keeps_the_name(heap: Heap) -> None:
    arrays = Arrays(heap)
    arrays.create("a", data=range(3), attrs={"x": 1})
    view = arrays["a"].view()
    arrays.rename("a", "b")
    assert arrays["b"].view().ctypes.data == view.ctypes.data
    with suppress(GivenUpError), heap.transaction():
        arrays.rename("b", "c")
        arrays["d"] = [1]
        assert list(arrays) == ["c", "d"]
        raise GivenUpError
    assert (list(arrays), arrays["b"].attrs["x"]) == (["b"], 1)
    for call in (lambda: arrays.rename("a", "c"), lambda: arrays.drop("a"), lambda: arrays.pop("a"),
                 lambda: arrays.replace("a", [1])):  # fmt: skip
        with pytest.raises(KeyError):
            call()
    assert arrays.pop("a", None) is None


def test_a_move_that_is_taken_back(heap: Heap) -> None:
    arrays = Arrays(heap)
    a, other = arrays.create("a", data=range(3)), arrays["a"]
    with suppress(GivenUpError), heap.transaction():
        a.extend(range(1000))
        other[0] = 7
        assert (len(other), a[0]) == (1003, 7)
        raise GivenUpError
    assert (a[:].tolist(), other[:].tolist()) == ([0, 1, 2], [0, 1, 2])
    other.extend(range(1000))
    assert len(a) == 1003


def test_popping(memory: Heap) -> None:
    arrays = Arrays(memory)
    arrays.update(b=[1, 2], a=[3])
    name, copy = arrays.popitem()
    assert (name, copy.tolist(), arrays.pop("b").tolist()) == ("a", [3], [1, 2])
    with pytest.raises(KeyError, match="arrays expected, there are none"):
        arrays.popitem()
    assert arrays.setdefault("c", [1]).shape == (1,)


# ---------------------------------------------------------------- transactions, threads


def test_a_transaction_sees_what_it_did_and_an_abort_takes_it_back(heap: Heap) -> None:
    arrays = Arrays(heap)
    a = arrays.create("a", data=[1, 2, 3])
    arrays["gone"] = [1]
    with suppress(GivenUpError), heap.transaction():
        a.resize(1)
        a.extend([20, 30, 40, 50])
        a[0] = 10
        arrays["new"] = a[:]
        arrays["new"].append(5)
        arrays.drop("gone")
        with suppress(GivenUpError), heap.transaction():
            a.resize(0)
            a.append(9)
            arrays.replace("new", [0])
            raise GivenUpError
        assert (a[:].tolist(), list(arrays)) == ([10, 20, 30, 40, 50], ["a", "new"])
        assert arrays["new"][:].tolist() == [10, 20, 30, 40, 50, 5]
        raise GivenUpError
    assert (a[:].tolist(), list(arrays)) == ([1, 2, 3], ["a", "gone"])
    assert (len(list(heap.blocks())), bool(arrays.check()), bool(heap.check())) == (4, True, True)


def test_another_thread_sees_what_is_committed(heap: Heap) -> None:
    arrays = Arrays(heap)
    a = arrays.create("a", data=[1], in_place=True)
    seen: list[object] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append((a[:].tolist(), list(arrays))))
        thread.start()
        thread.join()

    with heap.transaction():
        a.extend([2, 3])
        arrays["b"] = [1]
        look()
    look()
    assert seen == [([1], ["a"]), ([1, 2, 3], ["a", "b"])]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_threads_work_side_by_side(memory: Heap) -> None:
    arrays = Arrays(memory)
    arrays.create("all", 0, "i8")

    def work(number: int) -> None:
        mine = Arrays(memory)
        for i in range(40):
            mine["all"].append(number)
            with memory.transaction():
                mine[f"{number}"] = np.full(i, number)
                mine["all"].append(number)
            assert set(mine[f"{number}"][:].tolist()) <= {number}
            assert len(mine["all"][:]) > i
            neighbour = (number + 1) % 4
            with suppress(UsageError, KeyError):  # replaced meanwhile, or not there yet
                assert set(mine[f"{neighbour}"][:].tolist()) <= {neighbour}

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(arrays["all"][:].tolist()) == sorted(list(range(4)) * 80)
    assert arrays.check()


def test_an_array_that_is_extended_in_parts_beside_another_thread(
    memory: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody stored and took back between two parts does not stay among them."""
    a = Arrays(memory).create("a", LARGE_BYTES // 8, "u8")
    found: list[None] = []
    find = Array._found

    def disturb() -> None:
        with suppress(GivenUpError), memory.transaction():
            a.extend([999] * 10)
            raise GivenUpError

    def find_third_beside(self: Array, change: Any) -> Any:
        found.append(None)
        return find(self, change)

    monkeypatch.setattr(Array, "_found", find_third_beside)
    start = type(memory).transaction

    def begin(self: Heap, **options: Any) -> Any:
        if len(found) == 1 and threading.current_thread() is threading.main_thread():
            found.append(None)
            thread = threading.Thread(target=disturb)
            thread.start()
            thread.join()
        return start(self, **options)

    monkeypatch.setattr(type(memory), "transaction", begin)
    a.extend(np.arange(MiB, dtype="u8"))
    assert (a.view()[LARGE_BYTES // 8 :] == np.arange(MiB)).all()
    assert len(found) == 6  # part 1, the other thread, part 2 in vain, and both parts again


# ---------------------------------------------------------------- damage, insight


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "ends too early"),
        (b"\x0b", "ends too early"),
        (b"\x0b\x03" + b"\xff" * 9 + b"\x01", "a number of 63 bits expected"),
        (b"\x0b\x03\x01", "a block of 24 bytes|a block expected"),
        (b"\x1d\x03\x01", "the name of a dtype expected, '' of 29 found"),
        (b"\x1e\x03\x01\x03|O8", "the name of a dtype expected, '|O8'"),
        (b"\x1e\x03\x01\x05<i008", "the name of a dtype expected"),
        (b"\x1e\x03\x01\x07<i8[ns]", "the name of a dtype expected"),
        (b"\x1f\x03\x01" + bytes(8), "the description of a dtype under 0000000000000000 expected"),
        (b"\x0b\x03\x01rest", "no bytes behind an entry expected"),
        (b"\x4b\x03\x01", "no bytes behind an entry expected"),
    ],
)
def test_damage_is_named(memory: Heap, value: bytes, message: str) -> None:
    arrays = Arrays(memory)
    SortedMap(memory, "arrays")[b"a"] = value
    with pytest.raises(CorruptHeapError, match=f"arrays 'arrays': array 'a': .*({message})"):
        arrays["a"]
    assert not arrays.check()


NUMBERS = st.integers(0, 2**64).map(leb128)
ENTRIES = st.builds(
    lambda head, parts, tail: bytes([head]) + b"".join(parts) + tail,
    st.integers(0, 255),
    st.lists(st.one_of(NUMBERS, st.sampled_from([b"\0", b"\1", b"\xff"])), max_size=6),
    st.one_of(
        st.binary(max_size=12), st.sampled_from([b"\3<f8", b"\2S0", b"[" * 9000, b'{"a":1}'])
    ),
)


def test_a_forged_entry_is_an_exception_of_ours(memory: Heap) -> None:
    arrays, entries = Arrays(memory), SortedMap(memory, "arrays")

    @settings(max_examples=60)
    @given(value=ENTRIES)
    def look_at(value: bytes) -> None:
        entries[b"a"] = value
        looks: list[Callable[[Array], object]] = [
            lambda a: a[...], lambda a: a.view(), lambda a: a.shape, lambda a: [*a.attrs],
        ]  # fmt: skip
        for look in looks:
            with suppress(CorruptHeapError):
                look(arrays["a"])
        arrays.check()
        with suppress(CorruptHeapError):
            repr(arrays)

    look_at()


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"7", b"[7]", b'[["a"]]', b'[["a","O"]]', b'[["a","f8,f8"]]', b'"<f8"', b"{}",
     b'[["a","<f8",[-1]]]', b'[["a","<f8",[1000000000,1000000000]]]', b"[" * 9000, b'[["a","|S0"]]',
     b'[["a",7]]', b'[["a","<f8",7]]', b'[["a","<f8"],["a","<f8"]]', b'[[7,"<f8"]]',
     b'[[["a"],"<f8"]]',
     b'[["a","<f8",["b"]]]', b'[["a","<f8",[99999999999999999999]]]'],
)  # fmt: skip
def test_a_forged_description_is_damage(memory: Heap, text: bytes) -> None:
    arrays, entries = Arrays(memory), SortedMap(memory, "arrays")
    arrays["a"] = np.zeros(3, FIELDS)
    key = key_of_description(text)
    entries[key] = text
    entries[b"a"] = entries[b"a"][:-8] + key[-8:]
    with pytest.raises(CorruptHeapError, match="array 'a': a list of fields expected"):
        arrays["a"]


def test_check_finds_blocks_that_are_shared_short_or_nobodys(memory: Heap) -> None:
    arrays = Arrays(memory)
    arrays.create("a", 10, in_place=True)
    entries = SortedMap(memory, "arrays")
    entries[b"b"] = entries[b"a"]
    arrays["c"] = [1]
    entries[b"c"] = bytes([entries[b"c"][0], 100]) + entries[b"c"][2:]
    memory.arena("arrays.0").malloc(10)
    found = " ".join(arrays.check().findings)
    for message in (
        "of array 'a' at offset",
        "800 bytes expected, 16 found",
        "no blocks but those",
    ):
        assert message in found
    with pytest.raises(CorruptHeapError, match="a block of 800 bytes for"):
        arrays["c"][:]


def test_statistics(memory: Heap) -> None:
    arrays = Arrays(memory)
    arrays.update({"ab": np.zeros(10), "c": np.zeros(2, "u1")})
    found = arrays.statistics()
    assert (found.arrays, found.nbytes, found.name_bytes, found.block_bytes) == (2, 82, 3, 96)
    assert (found.catalogue_bytes, found.arenas) == (4096, 0)


@pytest.mark.slow
def test_small_arrays_are_small(tmp_path: Path) -> None:
    """Blocks and catalogue, names included, per byte of 10,000 arrays of ten numbers."""
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        arrays = Arrays(heap)
        arrays.update((f"a{number:05}", np.zeros(10)) for number in range(10_000))
        found = arrays.statistics()
        heap.trim()
    assert (found.block_bytes + found.catalogue_bytes) / found.nbytes < 1.25
    on_disk = (tmp_path / "heap").stat().st_blocks * 512
    assert (on_disk - 200 * KiB) / found.nbytes < 1.28  # less what an empty heap has


def test_how_arrays_are_shown(memory: Heap) -> None:
    arrays = Arrays(memory)
    assert repr(arrays) == "<Arrays 'arrays': 0 arrays>"
    arrays.update({"<b>&": np.zeros((2, 3), "f4"), "line\nbreak": np.zeros(3000, "u1")})
    assert repr(arrays).splitlines() == [
        "<Arrays 'arrays': 2 arrays>",
        "  <b>&           (2, 3)   float32  24 B",
        "  'line\\nbreak'  (3000,)  uint8    2.93 KiB",
    ]
    table = arrays._repr_html_()
    assert "<td>&lt;b&gt;&amp;</td><td>(2, 3)</td><td>float32</td><td>24 B</td>" in table
    assert "<b>" not in table
    arrays.update({f"n{number:02}": [1] for number in range(60)})
    assert repr(arrays).splitlines()[-1] == "  and 52 more"
    assert arrays._repr_html_().endswith("<p>and 12 more</p>")
    assert repr(arrays["n00"]) == "<Array 'n00', shape (1,), int64>"


def test_readers_beside_and_readonly(tmp_path: Path) -> None:
    with Heap.shared() as heap:
        arrays = Arrays(heap)
        arrays["a"] = [1, 2, 3]
        arrays["large"] = np.ones(LARGE_BYTES, "u1")
        with Heap.attach(heap.fileno()) as reader:
            found = Arrays(reader)
            assert (found["a"][:].tolist(), found["large"].shape) == ([1, 2, 3], (LARGE_BYTES,))
            with pytest.raises(UsageError, match="read-only"):
                found["a"].append(1)
            with pytest.raises(UsageError, match="read-only"):
                found["b"] = [1]
    with Heap.create(tmp_path / "heap") as heap:
        pass
    with Heap.open(tmp_path / "heap", readonly=True) as heap, pytest.raises(UsageError):
        Arrays(heap)
