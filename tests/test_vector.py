"""Vectors: by example, against a list, and crashed everywhere."""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forged import HeapFile, copied
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pmemheap import CorruptHeapError, DurabilityName, Heap, OutOfSpaceError, UsageError
from pmemheap.containers import SortedMap, Vector
from pmemheap.containers.vector import VectorStatistics
from pmemheap.containers.vectorchange import Change
from pmemheap.containers.vectorstore import VectorStore
from pmemheap.heap.transaction import Transaction
from pmemheap.testing import Crash, Image, Kind, Recording
from pmemheap.testing.plugin import CrashSimulator
from pmemheap.units import KiB, MiB


class GivenUpError(Exception):
    """Raised to abort a transaction."""


# ---------------------------------------------------------------- by example


def test_what_goes_in_comes_out(heap: Heap) -> None:
    v = Vector(heap, "v", "i4")
    assert (len(v), list(v), v.dtype, v.name) == (0, [], np.dtype("i4"), "v")
    v.append(1)
    v.extend([2, 3])
    v.extend(x * x for x in (2, 3))
    v.extend(np.array([16, 25], "f8"))
    v.extend([])
    assert v[:].tolist() == [1, 2, 3, 4, 9, 16, 25]
    assert (v[0], v[-1], v[1:3].tolist(), v[::-3].tolist()) == (1, 25, [2, 3], [25, 4, 1])
    assert v.pop() == 25
    v[0], v[-1] = 10, 160
    v[1:4] = [20, 30, 40]
    v[::-4] = [7, 8]
    assert list(v) == [10, 8, 30, 40, 9, 7]
    v.truncate(2)
    assert np.asarray(v).tolist() == [10, 8]
    assert np.asarray(v, "f8").dtype == np.dtype("f8")
    assert v.check()
    assert heap.check()


def test_an_array_stays_where_it_is_while_the_vector_grows(heap: Heap) -> None:
    v = Vector(heap, "v", "f8")
    others = Vector(heap, "others", "u1")
    v.extend([1.0, 2.0])
    early = v.array
    place = early.ctypes.data
    for _ in range(8):
        v.extend(np.arange(100_000))
        others.extend(np.zeros(300 * KiB))
        heap.malloc(300 * KiB)
        assert v.array.ctypes.data == place
    early[0] = 10.0
    assert (early.tolist(), v[0], len(v)) == ([10.0, 2.0], 10.0, 800_002)
    assert v[-100_000:].tolist() == list(range(100_000))
    assert len(others) == 8 * 300 * KiB


def test_more_than_a_record_holds_is_appended_as_a_whole(heap: Heap) -> None:
    v = Vector(heap, "v", "u8", capacity=100)
    v.append(7)
    many = np.arange(1_500_000, dtype="u8")
    v.extend(many)
    assert len(v) == 1_500_001
    assert (v.array[1:] == many).all()


def test_it_is_found_again(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap") as heap:
        Vector(heap, "words", "U5").extend(["one", "two", "threefold"])
        Vector(heap, "days", "M8[D]").append("2024-02-29")
    with Heap.open(tmp_path / "heap") as heap:
        words = Vector(heap, "words", "U5")
        words.append("four")
        assert list(words) == ["one", "two", "three", "four"]
    with Heap.open(tmp_path / "heap", readonly=True) as heap:
        assert Vector(heap, "days")[0] == np.datetime64("2024-02-29")
        assert not Vector(heap, "words").array.flags.writeable
        with pytest.raises(UsageError, match="read-only"):
            Vector(heap, "words").append("no")


def test_a_slice_is_a_copy_and_pins_nothing() -> None:
    heap = Heap.anonymous()
    v = Vector(heap, "v", "i8")
    v.extend(range(5))
    copy, element = v[1:3], v[4]
    copy[:] = 0
    assert list(v) == list(range(5))
    heap.close()
    assert element == 4
    assert repr(v) == "<Vector 'v', <i8, closed>"


def test_an_array_keeps_the_heap_open(memory: Heap) -> None:
    v = Vector(memory, "v", "i8")
    v.append(1)
    array = v.array
    with pytest.raises(BufferError):
        memory.close()
    with pytest.raises(BufferError):
        v.drop()
    assert (list(v), array.tolist()) == ([1], [1])
    v.append(2)


def test_an_array_is_not_surprised_by_elements_that_come_again(heap: Heap) -> None:
    v: Vector[int] = Vector(heap, "v", "i8")
    v.extend(range(6))
    array = v.array
    v.truncate(4)
    v.pop()
    with pytest.raises(BufferError, match="elements were that they may show, 1 found"):
        v.append(77)
    with pytest.raises(BufferError):
        v.extend([77, 78])
    with heap.transaction(), pytest.raises(BufferError):
        v.append(77)
    assert (array.tolist(), v[:].tolist()) == (list(range(6)), [0, 1, 2])
    del array
    v.append(77)
    array = v.array
    v.append(78)
    with heap.transaction():
        v.append(79)
    assert (array.tolist(), v[:].tolist()) == ([0, 1, 2, 77], [0, 1, 2, 77, 78, 79])
    assert v.check()


def test_capacity_is_there_at_once(memory: Heap) -> None:
    v = Vector(memory, "v", "i8", capacity=1_000_000)
    statistics = v.statistics()
    assert statistics.capacity >= 1_000_000
    assert statistics == VectorStatistics(0, statistics.capacity, 8, 0, statistics.block_bytes)
    v.extend(range(1000))
    assert v.statistics().block_bytes == statistics.block_bytes
    more = Vector(memory, "v", capacity=2_000_000).statistics()
    assert (more.capacity >= 2_000_000, more.length, more.used_bytes) == (True, 1000, 8000)


def test_drop_leaves_nothing(heap: Heap) -> None:
    v = Vector(heap, "v", "i8")
    v.extend(range(100))
    v.drop()
    assert (heap.arenas(), dict(heap.roots), list(heap.blocks())) == ([], {}, [])
    with pytest.raises(UsageError):
        v.append(1)
    with pytest.raises(UsageError):
        v.drop()
    assert list(Vector(heap, "v", "f4")) == []
    assert heap.check()


# ---------------------------------------------------------------- transactions


def test_a_transaction_sees_what_it_did_and_an_abort_takes_it_back(heap: Heap) -> None:
    v = Vector(heap, "v", "i8")
    v.extend([1, 2, 3])
    with suppress(GivenUpError), heap.transaction():
        assert v.pop() == 3
        v.append(30)
        v.extend([40, 50])
        v[0] = 10
        assert list(v) == [10, 2, 30, 40, 50]
        raise GivenUpError
    assert list(v) == [1, 2, 3]
    assert v.check()


def test_a_savepoint_takes_back_its_part(heap: Heap) -> None:
    v = Vector(heap, "v", "i8")
    v.extend([1, 2, 3])
    with heap.transaction():
        v.append(4)
        with suppress(GivenUpError), heap.transaction():
            v.truncate(1)
            v.extend([20, 30, 40, 50, 60])
            raise GivenUpError
        assert list(v) == [1, 2, 3, 4]
        v.append(5)
    assert list(v) == [1, 2, 3, 4, 5]


def test_two_vectors_change_together(heap: Heap) -> None:
    names, ages = Vector(heap, "names", "S8"), Vector(heap, "ages", "u1")
    with suppress(OverflowError), heap.transaction():
        names.append(b"Methusalem")
        ages.append(969)
    with heap.transaction():
        names.append(b"Enoch")
        ages.append(36)
    assert (list(names), list(ages)) == ([b"Enoch"], [36])


def test_growth_inside_of_a_transaction(heap: Heap) -> None:
    v = Vector(heap, "v", "i8")
    v.append(-1)
    early = v.array
    with suppress(GivenUpError), heap.transaction():
        v.extend(np.arange(200_000))
        assert v[-1] == 199_999
        raise GivenUpError
    with heap.transaction():
        v.extend(np.arange(200_000))
    assert (len(v), v[0], v[-1]) == (200_001, -1, 199_999)
    assert early.ctypes.data == v.array.ctypes.data


def test_a_commit_that_is_too_large_for_the_log_changes_nothing() -> None:
    with Heap.shared() as heap:
        v = Vector(heap, "v", "i8")
        v.extend([1, 2])
        tx = heap.transaction()
        v.extend(np.arange(7000))
        v[:] = 0
        with pytest.raises(OutOfSpaceError, match="half of the log"):
            tx.commit()
        assert list(v) == [1, 2]
        v.extend(np.arange(7000))
        assert (len(v), v[-1], bool(v.check()), bool(heap.check())) == (7002, 6999, True, True)


def test_another_thread_sees_the_length_when_it_is_committed(heap: Heap) -> None:
    v = Vector(heap, "v", "i8")
    v.append(1)
    seen: list[list[int]] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(list(v)))
        thread.start()
        thread.join()

    with heap.transaction():
        v.extend([2, 3])
        look()
    look()
    assert seen == [[1], [1, 2, 3]]


def test_threads_append_side_by_side(memory: Heap) -> None:
    Vector(memory, "v", "i8")

    def work(number: int) -> None:
        mine = Vector(memory, "v")
        for i in range(50):
            if i % 3:
                mine.append(number)
            else:
                with memory.transaction():
                    mine.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Vector(memory, "v")) == sorted(list(range(4)) * 50)


def test_readers_are_waited_for_where_elements_come_again(memory: Heap) -> None:
    v = Vector(memory, "v", "i8")
    v.extend(range(1000))
    before, stop = sys.getswitchinterval(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            assert len(v[:]) >= 999

    reader = threading.Thread(target=read)
    sys.setswitchinterval(1e-5)
    reader.start()
    for number in range(200):
        v.pop()
        v.append(number)
    stop.set()
    reader.join()
    sys.setswitchinterval(before)
    assert (len(v), v[-1]) == (1000, 199)


def test_an_aborted_append_beside_one_in_parts(
    memory: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another thread stored and took back between two parts does not stay among them."""
    v = Vector(memory, "v", "u8")
    begun: list[None] = []
    begin = Change.__init__

    def give_up_beside() -> None:
        with suppress(GivenUpError), memory.transaction():
            v.extend([999] * 10)
            raise GivenUpError

    def begin_third_beside(change: Change, store: VectorStore, tx: Transaction) -> None:
        begun.append(None)
        if len(begun) == 3:  # the look whether parts are needed, part 1, and now part 2
            thread = threading.Thread(target=give_up_beside)
            thread.start()
            thread.join()
        begin(change, store, tx)

    monkeypatch.setattr(Change, "__init__", begin_third_beside)
    v.extend(np.arange(MiB, dtype="u8"))
    assert (v.array == np.arange(MiB)).all()
    assert len(begun) == 6  # that of the other thread, and both parts again


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda heap: Vector(heap, "w"), UsageError, "vector 'w': a root of that name, or a dtype"),
        (lambda heap: Vector(heap, "v", "i4"), UsageError, "dtype '<i8' expected, '<i4' found"),
        (lambda heap: Vector(heap, "w" * 32, "i4"), UsageError, "1 to 31 bytes expected, 32"),
        (lambda heap: Vector(heap, "w", object), UsageError, "without objects"),
        (lambda heap: Vector(heap, "w", "i4,f4"), UsageError, "without objects, fields"),
        (lambda heap: Vector(heap, "w", "S0"), UsageError, "not empty"),
        (lambda heap: Vector(heap, "w", "no such"), UsageError, "dtype of numpy expected"),
        (lambda heap: Vector(heap, "w", "i4", capacity=-1), UsageError, "capacity"),
        (lambda heap: Vector(heap, "v").append([1]), UsageError, r"shape \(1,\) found"),
        (lambda heap: Vector(heap, "v").extend([[1]]), UsageError, "one dimension expected, 2"),
        (lambda heap: Vector(heap, "v").extend("12"), UsageError, "one dimension expected, 0"),
        (lambda heap: Vector(heap, "v").append("x"), ValueError, "invalid literal"),
        (lambda heap: Vector(heap, "v").truncate(4), UsageError, "0 to 3 expected, 4 found"),
        (lambda heap: Vector(heap, "v")[3], IndexError, "out of bounds"),
        (lambda heap: Vector(heap, "v").__setitem__(-4, 0), IndexError, "out of range"),
        (lambda heap: Vector(heap, "v").__setitem__(slice(2), [1, 2, 3]), ValueError, "shape"),
    ],
)
def test_refusals_change_nothing(
    memory: Heap, call: Callable[[Heap], object], error: type[Exception], message: str
) -> None:
    v = Vector(memory, "v", "i8")
    v.extend([1, 2, 3])
    with pytest.raises(error, match=message):
        call(memory)
    assert (memory.arenas(), list(v)) == (["v"], [1, 2, 3])


def test_pop_of_an_empty_one(memory: Heap) -> None:
    v = Vector(memory, "v", "i8")
    with pytest.raises(IndexError, match="pop: an element expected, none found"):
        v.pop()


def test_making_and_dropping_stand_alone(memory: Heap) -> None:
    v = Vector(memory, "v", "i8")
    with memory.transaction():
        with pytest.raises(UsageError, match="no open transaction expected where it is made"):
            Vector(memory, "w", "i8")
        with pytest.raises(UsageError, match="no open transaction expected where it is dropped"):
            v.drop()


def test_an_arena_in_use_is_left_alone(memory: Heap) -> None:
    offset = memory.arena("v").malloc(100)
    with pytest.raises(UsageError, match="arena of that name without blocks expected"):
        Vector(memory, "v", "i8")
    memory.free(offset)
    Vector(memory, "v", "i8")


def test_no_room_leaves_it_as_it_was() -> None:
    with Heap.anonymous(limit=8 * MiB) as heap:
        v = Vector(heap, "v", "u1")
        v.extend(bytearray(b"abc"))
        with pytest.raises(OutOfSpaceError):
            v.extend(np.zeros(16 * MiB))
        assert bytes(v[:]) == b"abc"
        v.extend(np.zeros(2 * MiB))
        assert len(v) == 2 * MiB + 3


@pytest.mark.parametrize(
    ("where", "place", "damage", "message"),
    [
        ("header", 0, b"X", "magic b'PHVECTOR' expected, b'XHVECTOR' found"),
        ("header", 16, b"?!", "name of a dtype expected, b'\\?!8' found"),
        ("header", 16, b"|O8\0", "name of a dtype expected"),
        ("counts", 0, b"X", "magic b'PHCOUNTS' expected, b'XHCOUNTS' found"),
        ("counts", 8, b"\x10", "a block of arena 'v' expected, 0x80000000000010 found"),
        ("counts", 16, b"\x09", "length 9 and high 3 found"),
        ("counts", 31, b"\x7f", "length <= high <= 8184 expected"),
    ],
)
def test_damage_is_named(memory: Heap, where: str, place: int, damage: bytes, message: str) -> None:
    v = Vector(memory, "v", "i8")
    v.extend([1, 2, 3])
    offset = memory.roots["v"] if where == "counts" else memory.offset_of(v.array)
    with memory.view(offset) as view:
        view[place : place + len(damage)] = damage
    with pytest.raises(CorruptHeapError, match=f"{where} at offset {offset:#x}: .*{message}"):
        Vector(memory, "v")


def test_a_name_that_is_taken_by_something_else(heap: Heap) -> None:
    SortedMap(heap, "a map")[b"key"] = b"value"
    heap.roots["a block"] = block = heap.malloc(16)
    heap.view(block)[:] = b"0123456789abcdef"
    before = heap.stats().allocated
    for _ in range(2):
        with pytest.raises(UsageError, match="leads to a Vector expected, it leads to a SortedMap"):
            Vector(heap, "a map", "f8")
        with pytest.raises(UsageError, match="a block that begins with b'01234567'"):
            Vector(heap, "a block")
        heap.arena("a block")
    assert SortedMap(heap, "a map")[b"key"] == b"value"
    assert heap.stats().allocated == before
    assert heap.check()


def test_counts_without_their_arena_are_damage(memory: Heap) -> None:
    Vector(memory, "v", "i8")
    memory.roots["w"] = memory.roots["v"]
    with pytest.raises(CorruptHeapError, match="vector 'w': an arena of that name expected, none"):
        Vector(memory, "w")


def test_a_block_beside_it_is_found(memory: Heap) -> None:
    v = Vector(memory, "v", "i8")
    memory.arena("v").malloc(10)
    assert "its arena: no other block expected" in v.check().findings[0]


# ---------------------------------------------------------------- several objects, threads


def test_objects_of_one_vector_see_the_same(heap: Heap) -> None:
    one, other = Vector(heap, "v", "i8"), Vector(heap, "v")
    one.append(1)
    with heap.transaction():
        other.append(2)
        third = Vector(heap, "v")
        one[0] = 10
        with suppress(GivenUpError), heap.transaction():
            third.truncate(1)
            other.extend(range(20_000))
            assert len(one) == 20_001
            raise GivenUpError
        third.append(3)
        assert [list(v) for v in (one, other, third)] == [[10, 2, 3]] * 3
    assert [list(v) for v in (one, other, third)] == [[10, 2, 3]] * 3
    assert heap.check()


def test_a_dropped_vector_is_refused(heap: Heap) -> None:
    """Also when another one was made under its name."""
    old, again = Vector(heap, "v", "i8"), Vector(heap, "v")
    old.append(1)
    again.drop()
    for anew in (False, True):
        if anew:
            Vector(heap, "v", "f4").extend([1, 2])
        for v in (old, again):
            for call in (
                lambda v=v: len(v), lambda v=v: list(v), lambda v=v: v[0], lambda v=v: v.array,
                lambda v=v: v.append(1), lambda v=v: v.pop(), lambda v=v: v.truncate(0),
                lambda v=v: v.extend([1]), lambda v=v: v.__setitem__(0, 1), v.check, v.drop,
            ):  # fmt: skip
                with pytest.raises(UsageError):
                    call()
    assert list(Vector(heap, "v")) == [1, 2]
    assert heap.check()


def test_a_vector_beside_a_thread_that_changes_it(heap: Heap) -> None:
    """A commit frees old counts before its record is durable; the root leads to new ones after."""
    v = Vector(heap, "v", "i8")
    v.extend(range(100))
    end = time.monotonic() + 0.4
    failures: list[object] = []

    def change() -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            with heap.transaction():
                v[0] = number
                v.append(number)
                if number % 3 == 0:
                    v.truncate(50)

    def look() -> None:
        while time.monotonic() < end:
            try:
                mine = Vector(heap, "v")
                if not (len(v) >= 50 and mine[3] == 3 and len(list(mine)) >= 50 and v.check()):
                    failures.append(str(v.check()))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for work in (change, look, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_array_that_is_taken_while_the_vector_is_dropped(
    memory: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its elements; what it holds is free when it goes."""
    v = Vector(memory, "v", "i8")
    v.extend([1, 2, 3])
    held: list[Any] = []
    free = Transaction.free

    def free_and_look(tx: Transaction, *arguments: Any, **more: Any) -> None:
        free(tx, *arguments, **more)
        thread = threading.Thread(target=lambda: held.append(Vector(memory, "v").array))
        thread.start()
        thread.join()

    monkeypatch.setattr(Transaction, "free", free_and_look)
    v.drop()
    monkeypatch.undo()
    assert "v" not in memory.roots
    assert held[0].tolist() == [1, 2, 3]
    held.clear()
    assert list(Vector(memory, "v", "f8")) == []
    assert memory.check()


# ---------------------------------------------------------------- forged files


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("field", ["magic", "block", "length", "high", "dtype", "dtype too long"])
def test_forged_counts_and_headers(tmp_path: Path, field: str, readonly: bool) -> None:
    """Each opens as damaged, or as what it says, and nothing outside of its block is reached."""
    with Heap.create(tmp_path / "heap", durability="process", decay=None) as heap:
        v = Vector(heap, "v", "i8")
        v.extend(range(500))
        other, small = heap.malloc(4096), heap.arena("v").malloc(20)
        block, place = v._store.block, heap.roots["v"]
        usable = v.statistics().block_bytes
    numbers = [0, 1, 499, 501, usable // 8, usable // 8 - 8, usable // 8 - 7, 1 << 32, 1 << 63, -1]
    blocks = [0, 1, block + 16, block - 16, other, small, place, block | 1 << 62, 1 << 63, -1]
    dtypes = [b"", b"O", b"|O8", b"<f8", b"<f4", b"<i8,<i8", b"(2,)i8", b"|S0", b"|S99999999999",
              b"|S999999999", b"|V8", b"a8", b"<M8[D]", b"<M8[1000000000000s]", b"<M8[us/7]",
              b">i8", b"(((((((((((", b"\xff\xfe", b"<i8\0<i8", b"__import__('os')"]  # fmt: skip
    edits: dict[str, list[tuple[int, bytes]]] = {
        "magic": [(place, magic.ljust(8, b"\0")) for magic in (b"", b"PHCOUNTZ", b"PHVECTOR")],
        "block": [(place + 8, struct.pack("<Q", each % (1 << 64))) for each in blocks],
        "length": [(place + 16, struct.pack("<Q", each % (1 << 64))) for each in numbers],
        "high": [(place + 24, struct.pack("<Q", each % (1 << 64))) for each in numbers],
        "dtype": [(block + 16, each.ljust(32, b"\0")) for each in dtypes],
        "dtype too long": [(block + 16, b"<" * 32), (block + 16, b"<i8".rjust(32, b"\0"))],
    }
    for number, (at, data) in enumerate(edits[field]):
        path = copied(tmp_path / "heap", tmp_path / f"forged {number}")
        with HeapFile(path) as file:
            file.write(at, data)
        with Heap.open(path, readonly=readonly, decay=None) as heap:
            use_forged(heap)


def use_forged(heap: Heap) -> None:
    with suppress(CorruptHeapError, UsageError):
        v = Vector(heap, "v")
        calls: list[Callable[[], Any]] = [
            lambda: len(v), lambda: list(v)[:3], lambda: v[-1], lambda: v.array.nbytes, v.check,
            v.statistics, lambda: v.append(v[0]), lambda: v.extend(v[:10]), v.pop,
            lambda: v.truncate(1), lambda: v.__setitem__(0, v[0]), heap.check, v.drop,
        ]  # fmt: skip
        assert len(v) * v.dtype.itemsize <= v.statistics().block_bytes
        for call in calls:
            with suppress(CorruptHeapError, UsageError, IndexError, OutOfSpaceError):
                call()


# ---------------------------------------------------------------- against a list


class VectorMachine(RuleBasedStateMachine):
    """A vector, a list, and copies of the list for open transactions."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = Heap.shared()
        warm = Vector(self.heap, "warm", "u1")
        warm.extend(np.zeros(4 * MiB))  # a log that holds what a transaction snapshots
        warm.drop()
        self.vectors = [Vector(self.heap, "v", "i8"), Vector(self.heap, "v")]
        self.model: list[int] = []
        self.open: list[tuple[Any, list[int]]] = []
        self.held: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []

    @property
    def vector(self) -> Vector:
        """The objects take turns."""
        self.vectors.reverse()
        return self.vectors[0]

    values = st.integers(-(2**63), 2**63 - 1)

    def _grow(self, grow: Callable[[], None], some: list[int]) -> None:
        try:
            grow()
        except BufferError:
            assert self.held
        else:
            self.model.extend(some)

    @rule(value=values)
    def append(self, value: int) -> None:
        self._grow(lambda: self.vector.append(value), [value])

    @rule(some=st.lists(values, max_size=8), times=st.sampled_from([1, 1, 1, 2000]))
    def extend(self, some: list[int], times: int) -> None:
        self._grow(lambda: self.vector.extend(np.array(some * times, "i8")), some * times)

    @precondition(lambda self: self.model)
    @rule()
    def pop(self) -> None:
        assert self.vector.pop() == self.model.pop()

    @rule(share=st.floats(0, 1))
    def truncate(self, share: float) -> None:
        length = int(len(self.model) * share)
        self.vector.truncate(length)
        del self.model[length:]

    @precondition(lambda self: self.model)
    @rule(where=st.integers(0, 2**20), value=values)
    def set_one(self, where: int, value: int) -> None:
        self.vector[where % len(self.model)] = self.model[where % len(self.model)] = value
        self._look_again()

    @rule(picked=st.slices(12), value=values)
    def set_slice(self, picked: slice, value: int) -> None:
        indices = range(len(self.model))[picked]
        self.vector[picked] = np.arange(len(indices)) + value // 2
        for at, index in enumerate(indices):
            self.model[index] = at + value // 2
        self._look_again()

    @precondition(lambda self: len(self.open) < 3)
    @rule()
    def begin(self) -> None:
        self.open.append((self.heap.transaction().__enter__(), list(self.model)))

    @precondition(lambda self: self.open)
    @rule()
    def commit(self) -> None:
        self.open.pop()[0].commit()

    @precondition(lambda self: self.open)
    @rule()
    def abort(self) -> None:
        tx, self.model = self.open.pop()
        tx.abort()
        self._look_again()

    @rule()
    def hold(self) -> None:
        self.held.append((array := self.vector.array, array.copy()))

    def _look_again(self) -> None:
        """What was stored to elements, or taken back, is seen through arrays."""
        self.held = [(array, array.copy()) for array, _ in self.held]

    @rule()
    def let_go(self) -> None:
        self.held.clear()

    @precondition(lambda self: not self.open)
    @rule()
    def open_again(self) -> None:
        self.vectors[0] = Vector(self.heap, "v", capacity=len(self.model))

    @invariant()
    def both_are_the_same(self) -> None:
        assert len(self.vector) == len(self.model)
        assert (self.vector.array == np.array(self.model, "i8")).all()
        assert {array.ctypes.data for array, _ in self.held} <= {self.vector.array.ctypes.data}
        assert all((array == shown).all() for array, shown in self.held)
        assert self.vector.check()

    def teardown(self) -> None:
        for tx, _ in reversed(self.open):
            tx.abort()
        self.held.clear()
        self.heap.close()


TestVectorMachine = VectorMachine.TestCase
TestVectorMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestVectorMachine = pytest.mark.slow(TestVectorMachine)


# ---------------------------------------------------------------- crashes

Step = Callable[[Heap, Vector], None]


def transact(heap: Heap, vector: Vector) -> None:
    with heap.transaction():
        vector.truncate(1)
        vector.extend([b"t" * 700, b"u" * 700])
        vector[0] = b"w"


def add_together(heap: Heap, vector: Vector) -> None:
    with heap.transaction():
        vector.append(b"g" * 800)
        vector.append(b"h" * 800)


def give_up(heap: Heap, vector: Vector) -> None:
    with suppress(GivenUpError), heap.transaction():
        vector.truncate(0)
        vector.extend([b"no"] * 3)
        raise GivenUpError


STEPS: list[tuple[Step, Callable[[list[bytes]], list[bytes]]]] = [
    (lambda heap, v: v.append(b"a" * 700), lambda m: [*m, b"a" * 700]),
    (lambda heap, v: v.extend([b"b", b"c" * 800]), lambda m: [*m, b"b", b"c" * 800]),
    (give_up, lambda m: m),
    (add_together, lambda m: [*m, b"g" * 800, b"h" * 800]),
    (lambda heap, v: v.__setitem__(1, b"d" * 800), lambda m: [m[0], b"d" * 800, *m[2:]]),
    (lambda heap, v: v.truncate(2), lambda m: m[:2]),
    (lambda heap, v: v.append(b"e"), lambda m: [*m, b"e"]),
    (transact, lambda m: [b"w", b"t" * 700, b"u" * 700]),
]


POWER = (Kind.KILL, Kind.POWER)


def recorded(simulator: CrashSimulator, path: Path) -> tuple[Recording, list[list[bytes]]]:
    """Take the steps under a recorder; return what it heard, and the states in between."""
    states = [[b"first"]]
    with simulator.record(path) as recorder, Heap.open(path) as heap:
        vector = Vector(heap, "v")
        done = recorder.durable if heap.durability == "power" else recorder.returned
        for number, (step, model) in enumerate(STEPS, 1):
            states.append(model(states[-1]))
            recorder.begin(number)
            step(heap, vector)
            assert list(vector) == states[-1]
            done(number)
    return recorder.recording, states


@pytest.mark.slow
@pytest.mark.parametrize(("durability", "kinds"), [("process", POWER[:1]), ("power", POWER)])
def test_a_crash_leaves_what_was_done_up_to_some_step(
    crash_simulator: CrashSimulator,
    tmp_path: Path,
    durability: DurabilityName,
    kinds: tuple[Kind, ...],
) -> None:
    path = tmp_path / "data.heap"
    with Heap.create(path, durability=durability) as heap:
        Vector(heap, "v", "S800").append(b"first")
    recording, states = recorded(crash_simulator, path)

    def open_and_check(image: Image, crash: Crash) -> None:
        with Heap.open(image.path) as heap:
            vector = Vector(heap, "v")
            assert list(vector) in states[crash.least : crash.most + 1], (list(vector), crash)
            assert vector.check()
            vector.append(b"after")
            assert vector[-1] == b"after"

    report = crash_simulator.check(recording, open_and_check, kinds=kinds, budget=12)
    report.require(distinct=60)


@pytest.mark.slow
def test_a_crash_while_one_is_made_grown_or_dropped(
    crash_simulator: CrashSimulator, tmp_path: Path
) -> None:
    path = tmp_path / "data.heap"
    Heap.create(path, durability="power").close()
    block = b"x" * 9000
    with crash_simulator.record(path) as recorder, Heap.open(path) as heap:
        recorder.begin(1)
        vector = Vector(heap, "v", "S9000")
        recorder.durable(1)
        recorder.begin(2)
        vector.extend([block] * 8)
        recorder.durable(2)
        recorder.begin(3)
        vector.drop()
        recorder.durable(3)
    states = [None, [], [block] * 8, None]

    def open_and_check(image: Image, crash: Crash) -> None:
        with Heap.open(image.path) as heap:
            found = list(Vector(heap, "v")) if "v" in heap.roots else None
            assert found in states[crash.least : crash.most + 1], (found, crash)
            vector = Vector(heap, "v", "S9000")
            vector.append(b"after")
            assert vector.check()
            assert heap.check()

    crash_simulator.check(recorder.recording, open_and_check, budget=6).require(distinct=50)
