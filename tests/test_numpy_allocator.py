"""Arrays that numpy makes in a heap: where they lie, when they go, and what of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heap_world import named
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pmemheap import DurabilityName, Heap, UsageError
from pmemheap.heap import arraymemory, units
from pmemheap.heap.slow import Slow
from pmemheap.layers import Count
from pmemheap.testing import Image, Recorder, check_states
from pmemheap.testing.recorder import Crash, Kind
from pmemheap.units import MiB

Array = np.ndarray[Any, Any]

SIZES = [0, 1, 2, 33, 100, 1000, 10_000, 100_000]  # numbers of 8 bytes: all kinds of blocks


@pytest.fixture(params=["anonymous", "shared", "process", "power", "arena", "arena of a file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A heap, or an arena of one."""
    if request.param in {"anonymous", "arena"}:
        heap = Heap.anonymous()
    elif request.param == "shared":
        heap = Heap.shared()
    else:
        durability = named("process" if request.param == "process" else "power")
        heap = Heap.create(tmp_path / "heap", durability=durability)
    with heap:
        yield heap.arena("arrays") if request.param.startswith("arena") else heap


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def lies_in(face: Any, array: Any) -> bool:
    region = face._space.region
    unit = (address(array) - region.base("data")) // 4096
    return bool(region.first_unit <= unit < region.end_unit)


def offset_in(heap: Any, array: Array) -> int:
    """Return where an array lies that was not kept, which no call tells."""
    return int(address(array) - heap._space.region.base("data")) | int(heap._space.origin)


# ---------------------------------------------------------------- where they lie


@pytest.mark.parametrize("size", SIZES)
def test_arrays_and_temporaries_lie_in_the_heap(place: Any, size: int) -> None:
    with place.numpy_allocator():
        array = np.arange(size) * 2.0 + 1
    outside = np.arange(size)
    assert lies_in(place, array)
    assert not lies_in(place, outside)
    assert array.tolist() == [2.0 * i + 1 for i in range(size)]
    stats = place.stats()
    assert stats.reserved >= array.nbytes
    assert (stats.allocated, stats.live_views) == (0, 1)
    assert place.check()
    del array
    assert (place.stats().reserved, place.stats().live_views) == (0, 0)
    assert place.check()


@pytest.mark.parametrize("size", SIZES)
def test_zeros_are_zeros_where_something_lay(place: Any, size: int) -> None:
    for _ in range(3):
        with place.numpy_allocator():
            full = np.full(size, -1)
            del full
            assert not np.zeros(size, int).any()


def test_an_array_outlives_block_and_name_of_the_heap() -> None:
    heap = Heap.anonymous()
    with heap.numpy_allocator():
        array = np.arange(1000)
    gone = weakref.ref(heap)
    del heap
    gc.collect()
    assert gone() is not None
    assert array.sum() == 499_500
    del array
    gc.collect()
    assert gone() is None


STRINGS = getattr(np.dtypes, "StringDType", lambda: object)  # since numpy 2


@pytest.mark.parametrize("dtype", [object, STRINGS()], ids=["objects", "strings"])
def test_objects_may_lie_there_and_not_be_kept(dtype: Any, memory: Heap) -> None:
    with memory.numpy_allocator():
        array = np.array(["short", "long" * 20], dtype)
    assert lies_in(memory, array)
    assert array.tolist() == ["short", "long" * 20]
    with pytest.raises(UsageError, match="without Python objects expected"):
        memory.keep(array)
    del array


def test_the_heap_stays_open_as_long_as_an_array_lives(place: Any) -> None:
    end = place.drop if hasattr(place, "drop") else place.close
    with place.numpy_allocator():
        array = np.ones(1000)
    with pytest.raises(BufferError, match=r"1 found: 1 array of numpy_allocator\(\)$"):
        end()
    assert array.sum() == 1000
    del array
    end()


def test_no_call_by_offset_has_the_block_of_an_array(heap: Heap) -> None:
    with heap.numpy_allocator():
        array = np.ones(1000)
    offset = offset_in(heap, array)
    not_live = pytest.raises(UsageError, match="to an array that was not kept")
    with not_live:
        heap.free(offset)
    with pytest.raises(UsageError):
        heap.realloc(offset, 10)
    with not_live:
        heap.roots["array"] = offset
    with heap.transaction() as tx:
        with not_live:
            tx.free(offset)
        with not_live:
            tx.write(offset, b"x")
        with not_live:
            tx.roots["array"] = offset
    with pytest.raises(UsageError, match="an array that was kept expected"):
        heap.offset_of(array)
    assert list(heap.blocks()) == []
    assert array.sum() == 1000
    assert heap.check()
    del array


def test_a_view_of_such_a_block_holds_it_when_the_array_goes(heap: Heap) -> None:
    with heap.numpy_allocator():
        array = np.full(1000, 7, np.uint8)
        view = heap.view(offset_in(heap, array), 1000)
        del array
        other = np.ones(1000, np.uint8)
    assert bytes(view) == bytes([7]) * 1000
    del view, other
    assert heap.stats().quarantined == 0
    assert heap.check()


# ---------------------------------------------------------------- when it counts


def test_blocks_nest_and_end_with_an_exception(memory: Heap) -> None:
    with Heap.anonymous() as other:
        with memory.numpy_allocator():
            first = np.ones(10)
            with contextlib.suppress(KeyError), other.numpy_allocator():
                second = np.ones(10)
                raise KeyError
            third = np.ones(10)
        assert lies_in(memory, first)
        assert lies_in(other, second)
        assert lies_in(memory, third)
        assert not lies_in(memory, np.ones(10))
        del first, second, third


def test_other_threads_are_not_concerned(memory: Heap) -> None:
    made: list[Array] = []
    with memory.numpy_allocator():
        thread = threading.Thread(target=lambda: made.append(np.ones(100)))
        thread.start()
        thread.join()
    assert not lies_in(memory, made[0])


def test_other_tasks_are_not_concerned(memory: Heap) -> None:
    async def inside(entered: asyncio.Event, may_end: asyncio.Event) -> bool:
        with memory.numpy_allocator():
            entered.set()
            await may_end.wait()
            return lies_in(memory, np.ones(100))

    async def outside() -> tuple[bool, bool]:
        entered, may_end = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(inside(entered, may_end))
        await entered.wait()
        here = lies_in(memory, np.ones(100))
        may_end.set()
        return here, await task

    assert asyncio.run(outside()) == (False, True)


@pytest.mark.parametrize("what", ["closed", "readonly"])
def test_a_heap_that_takes_no_changes_is_refused(what: str, tmp_path: Path) -> None:
    Heap.create(tmp_path / "heap").close()
    with Heap.open(tmp_path / "heap", readonly=True) as heap:
        if what == "closed":
            heap.close()
        with pytest.raises(UsageError, match="expected, it"), heap.numpy_allocator():
            raise AssertionError
        with pytest.raises(UsageError, match="expected, it"):
            heap.keep(np.ones(3))


def test_without_numpy_it_says_so(memory: Heap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arraymemory, "_NUMPY", ("numpy_that_is_not_there",))
    with pytest.raises(ImportError, match="arrays need numpy"), memory.numpy_allocator():
        raise AssertionError


# ---------------------------------------------------------------- keeping


@pytest.mark.parametrize("size", SIZES)
def test_what_is_kept_stays_where_it_is(place: Any, size: int) -> None:
    with place.numpy_allocator():
        array = np.arange(size)
    before = address(array)
    offset = place.keep(array)
    assert address(array) == before == place.address(offset)
    assert place.offset_of(array) == place.offset_of(array[:1]) == offset
    assert dict(place.blocks()) == {offset: place.usable_size(offset)}
    with pytest.raises(UsageError, match="not kept before expected"):
        place.keep(array)
    with pytest.raises(BufferError, match="1 found"):
        place.free(offset)
    del array
    assert place.ndarray_at(offset, size, int).tolist() == list(range(size))
    place.free(offset)
    assert list(place.blocks()) == []
    assert place.check()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_file_has_what_was_kept_and_nothing_else(
    durability: DurabilityName, tmp_path: Path
) -> None:
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        arena = heap.arena("arrays")
        with arena.numpy_allocator():
            arrays = [np.full(1000, i) for i in range(10)]
        heap.roots["five"] = heap.keep(arrays[5])
        del arrays
    with Heap.open(tmp_path / "heap") as heap:
        assert len(list(heap.blocks())) == 1
        assert (heap.ndarray_at(heap.roots["five"], 1000, int) == 5).all()
        assert heap.check()


def test_what_cannot_be_kept_is_named(memory: Heap) -> None:
    with Heap.anonymous() as other:
        with other.numpy_allocator():
            elsewhere = np.ones(10)
        with memory.numpy_allocator():
            array = np.ones(10)
        for wrong, message in {
            "a list": ([1.0], "keep: an array expected, list found"),
            "a view": (array[2:], "with bytes of its own expected"),
            "numpy's own": (np.ones(10), "whose bytes lie elsewhere"),
            "of another heap": (elsewhere, "whose bytes lie elsewhere"),
            "over a block": (memory.ndarray(10), "with bytes of its own expected"),
        }.values():
            with pytest.raises(UsageError, match=message):
                memory.keep(wrong)
        del wrong, elsewhere
        memory.keep(array)
        del array
        other.close()
        with pytest.raises(UsageError, match="of this heap expected, found ndarray"):
            other.offset_of(np.ones(10))


class Liar(np.ndarray[Any, Any]):
    """An array that says that the bytes of a block are its own."""

    flags = np.ones(1).flags
    dtype = np.dtype(float)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"data": (self.pretended, False)}

    pretended = 0


def test_what_an_array_says_of_itself_does_not_count(heap: Heap) -> None:
    with heap.transaction() as tx:
        block = tx.alloc(100)
        view = np.frombuffer(block.view, np.uint8).view(Liar)
        own = np.ones(10).view(Liar).copy()
        Liar.pretended = address(np.asarray(heap.ndarray_at(block.offset, 1)))
        for liar in (view, own):
            with pytest.raises(UsageError, match=r"bytes of its own|lie elsewhere"):
                heap.keep(liar)
        with pytest.raises(UsageError, match="of this heap expected"):
            heap.offset_of(own)
        del view, liar
    assert dict(heap.blocks()) == {block.offset: 112}


def test_a_memoryview_over_nothing_of_python_is_foreign(memory: Heap) -> None:
    make: Any = ctypes.pythonapi.PyMemoryView_FromMemory
    make.restype = ctypes.py_object
    kept = ctypes.create_string_buffer(16)
    view = make(ctypes.c_void_p(ctypes.addressof(kept)), ctypes.c_ssize_t(16), ctypes.c_int(0x100))
    assert view.obj is None
    with pytest.raises(UsageError, match="of this heap expected, found memoryview"):
        memory.offset_of(view)


def test_what_is_kept_may_be_freed_while_the_array_lives(heap: Heap) -> None:
    with heap.numpy_allocator():
        array = np.full(1000, 3)
    offset = heap.keep(array)
    heap.free(offset, deferred=True)
    with heap.numpy_allocator():
        other = np.ones(1000)
    assert (array == 3).all()
    assert heap.stats().quarantined >= array.nbytes
    array.resize(2000)
    assert (array[:1000] == 3).all()
    del array, other
    heap.sync()
    assert (heap.stats().reserved, heap.stats().allocated) == (0, 0)
    assert heap.check()


def test_keep_belongs_to_no_transaction(heap: Heap) -> None:
    with heap.numpy_allocator():
        array = np.ones(1000)
    with contextlib.suppress(KeyError), heap.transaction() as tx:
        tx.roots["array"] = offset = heap.keep(array)
        raise KeyError
    assert dict(heap.roots) == {}
    assert dict(heap.blocks()) == {offset: 8192}
    with heap.transaction() as tx:
        tx.roots["array"] = offset
        del array
        temporary = heap.ndarray_at(offset, 1000) + 1
    assert temporary[0] == 2
    assert heap.check()


def test_a_layer_counts_what_is_kept_when_it_is(memory: Heap) -> None:
    with memory.install(Count()) as count, memory.numpy_allocator():
        array = np.ones(1000) + 1
        assert count.blocks == 0
        offset = memory.keep(array)
        assert (count.blocks, count.bytes) == (1, 8192)
        del array
        memory.free(offset)
        assert count.blocks == 0


def test_tracemalloc_sees_the_arrays(memory: Heap) -> None:
    tracemalloc.start()
    try:
        with memory.numpy_allocator():
            before = tracemalloc.get_traced_memory()[0]
            array = np.ones(100_000)
            assert tracemalloc.get_traced_memory()[0] - before >= array.nbytes
            del array
            assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- other sizes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("to", SIZES)
def test_resize_keeps_the_bytes(memory: Heap, size: int, to: int) -> None:
    with memory.numpy_allocator():
        array = np.arange(size)
    array.resize(to, refcheck=False)
    common = min(size, to)
    assert array.tolist() == [*range(common), *[0] * (to - common)]
    assert lies_in(memory, array)
    assert memory.check()
    del array
    assert memory.stats().reserved == 0


def test_a_kept_array_that_outgrows_its_block_leaves_it(heap: Heap) -> None:
    with heap.numpy_allocator():
        array = np.arange(100)
    offset = heap.keep(array)
    array.resize(5000, refcheck=False)
    assert array[:100].tolist() == list(range(100))
    assert heap.ndarray_at(offset, 100, int).tolist() == list(range(100))
    heap.free(offset)
    del array
    heap.sync()
    assert (heap.stats().reserved, heap.stats().allocated) == (0, 0)


def test_where_there_is_no_room_the_error_has_a_note(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", limit=4 * MiB) as heap:
        before = heap.stats().reserved
        with pytest.raises(MemoryError) as caught, heap.numpy_allocator():
            np.ones(MiB)
        assert "limit 4194304" in caught.value.__notes__[0]
        with heap.numpy_allocator():
            array = np.arange(10)
            with pytest.raises(MemoryError):
                array.resize(10 * MiB)
        assert array.tolist() == list(range(10))
        del array
        assert heap.stats().reserved == before
        assert heap.check()


def test_an_interrupt_comes_through(memory: Heap, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Slow, "reserve", interrupted)
        with pytest.raises(KeyboardInterrupt), memory.numpy_allocator():
            np.ones(100_000)
        caught = contextlib.suppress(MemoryError)
        with pytest.raises(KeyboardInterrupt), memory.numpy_allocator(), caught:
            np.ones(100_000)
    with memory.numpy_allocator():
        assert np.ones(100_000).sum() == 100_000
    assert memory.stats().reserved == 0


@pytest.mark.parametrize("call", ["take", "refill"])
def test_an_interrupt_in_the_middle_of_a_change_loses_nothing(
    call: str, heap: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = getattr(units, call)

    def interrupted(*arguments: Any, **options: Any) -> None:
        made(*arguments, **options)
        raise KeyboardInterrupt

    with heap.numpy_allocator():
        arrays = [np.full(size, size) for size in SIZES]
    size = 60_000 if call == "take" else 900
    with monkeypatch.context() as patch:
        patch.setattr(units, call, interrupted)
        with pytest.raises(KeyboardInterrupt), heap.numpy_allocator():
            arrays.extend(np.full(size, 5) for _ in range(1_000_000))
    with heap.numpy_allocator():
        more = [np.full(size, -1) for size in SIZES * 3]
    assert all((array == array[:1]).all() for array in [*arrays, *more])
    assert heap.check()
    del arrays, more
    gc.collect()  # frames of the interrupt have arrays: of Python 3.12 in a circle
    assert heap.stats().reserved == 0
    assert heap.check()


# ---------------------------------------------------------------- at any moment


def test_an_array_may_go_in_another_thread(heap: Heap) -> None:
    with heap.numpy_allocator():
        arrays = [np.full(1000, i) for i in range(100)]
    threads = [threading.Thread(target=arrays.pop) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heap.stats().live_views == 0
    assert heap.check()


def test_threads_make_arrays_beside_each_other(heap: Heap) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        with heap.numpy_allocator():
            for step in range(200):
                array = np.full(1 + 37 * (step % 50), number)
                offset = heap.malloc(100 + step)
                if step % 50 == 0:
                    heap.keep(array)
                if not (array + 0 == number).all():
                    wrong.append(number)
                heap.free(offset)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(list(heap.blocks())) == 16
    assert heap.stats().reserved == 0
    assert heap.check()


def test_arrays_may_go_while_the_heap_changes(heap: Heap) -> None:
    threshold = gc.get_threshold()
    offsets = []
    gc.set_threshold(1)
    try:
        for step in range(300):
            with heap.numpy_allocator():
                circle: list[Any] = [np.ones(10 * step), np.ones(step)]
            circle.append(circle)
            del circle
            offsets.append(heap.malloc(100_000 + step))
            with heap.transaction() as tx:
                tx.alloc(300)
            if step % 3 == 0:
                heap.free(offsets.pop(0))
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert heap.stats().reserved == 0
    assert heap.check()


def run(script: str, *arguments: object, kills: bool = False) -> None:
    """Run a script in a process of its own, which prints nothing."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (-9 if kills else 0, "")


FORK = """
import os, sys
import numpy as np
from pmemheap import Heap
kind, path = sys.argv[1:]
heap = Heap.create(path) if kind == "file" else getattr(Heap, kind)()
with heap.numpy_allocator():
    arrays = [np.full(n, 7) for n in (1, 100, 10_000, 100_000)]
    kept = np.full(1000, 8)
    offset = heap.keep(kept)
    child = os.fork()
    if child == 0:
        assert all(set(array.tolist()) == {7} for array in arrays)
        del arrays, kept
        refused = 0
        for n in (1, 100_000):
            try:
                np.empty(n)
            except MemoryError:
                refused += 1
        os._exit(refused)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
assert all((array == 7).all() for array in arrays)
assert heap.stats().live_views == 5
with heap.numpy_allocator():
    more = [np.full(n, 9) for n in (1, 100, 10_000, 100_000)]
assert all((array == 7).all() for array in arrays) and (kept == 8).all()
assert heap.check()
del arrays, kept, more
heap.free(offset)
heap.close()
"""


@pytest.mark.parametrize("kind", ["anonymous", "shared", "file"])
@pytest.mark.slow
def test_a_child_gives_nothing_back(kind: str, tmp_path: Path) -> None:
    run(FORK, kind, tmp_path / "heap")


EXIT = """
import sys, threading, time
import numpy as np
from pmemheap import Heap
heap = Heap.create(sys.argv[1], durability=sys.argv[2])
allocator = heap.numpy_allocator()
allocator.__enter__()
array = np.ones(1000)
heap.roots["kept"] = heap.keep(np.full(1000, 3))
later = [np.ones(n) for n in (1, 10_000, 1_000_000)]
def make():
    with heap.numpy_allocator():
        while True:
            np.ones(1000) + 1
threading.Thread(target=make, daemon=True).start()
time.sleep(0.05)
"""


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.slow
def test_arrays_may_live_when_python_ends(durability: DurabilityName, tmp_path: Path) -> None:
    run(EXIT, tmp_path / "heap", durability)
    with Heap.open(tmp_path / "heap") as heap:
        assert len(list(heap.blocks())) == 1
        assert (heap.ndarray_at(heap.roots["kept"], 1000, int) == 3).all()
        assert heap.check()


KILL = """
import os, signal, sys
import numpy as np
from pmemheap import Heap
heap = Heap.create(sys.argv[1], durability=sys.argv[2])
with heap.numpy_allocator():
    arrays = [np.full(1 + 40 * n, n) for n in range(200)]
    del arrays[::3]
    for n in (1, 10, 50, 99):
        heap.roots[str(arrays[n][0])] = heap.keep(arrays[n])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.slow
def test_a_kill_leaves_what_was_kept(durability: DurabilityName, tmp_path: Path) -> None:
    run(KILL, tmp_path / "heap", durability, kills=True)
    with Heap.open(tmp_path / "heap") as heap:
        assert len(list(heap.blocks())) == len(heap.roots) == 4
        for name, offset in heap.roots.items():
            number = int(name)
            assert (heap.ndarray_at(offset, 1 + 40 * number, int) == number).all()
        assert heap.stats().reserved == 0
        assert heap.check()


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.slow
def test_no_crash_leaves_a_kept_array_without_its_bytes(
    durability: DurabilityName, tmp_path: Path
) -> None:
    path = tmp_path / "heap"
    Heap.create(path, durability=durability).close()
    with Recorder(path) as recorder, Heap.open(path) as heap:
        for k in (1, 2, 3):
            recorder.begin(k)
            with heap.numpy_allocator():
                array = np.full(700, k)
            heap.roots[str(k)] = heap.keep(array)
            del array
            heap.sync()
            recorder.durable(k)

    def open_and_check(image: Image, crash: Crash) -> None:
        with Heap.open(image.path) as found:
            assert crash.least <= len(found.roots) <= crash.most
            for offset, _ in found.blocks():  # also one that no root names yet
                numbers = found.ndarray_at(offset, 700, int).copy()
                assert numbers[0] in {1, 2, 3}
                assert (numbers == numbers[0]).all()
            assert found.check()

    kinds = (Kind.KILL, Kind.POWER) if durability == "power" else (Kind.KILL,)
    report = check_states(recorder.recording, open_and_check, kinds=kinds, budget=24)
    report.require(distinct=20)


# ---------------------------------------------------------------- against a model


class ArrayMachine(RuleBasedStateMachine):
    """Arrays and blocks of one heap; of each it is known what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = Heap.anonymous()
        self.arrays: list[tuple[Array, Array]] = []
        self.kept: dict[int, Array] = {}
        self.blocks: dict[int, int] = {}
        self.made = 0

    def numbers(self, size: int) -> Array:
        self.made += 1
        return np.arange(self.made, self.made + size)

    @rule(size=st.sampled_from([0, 1, 3, 40, 511, 2000, 40_000]))
    def make(self, size: int) -> None:
        numbers = self.numbers(size)
        with self.heap.numpy_allocator():
            array = numbers.copy()
        self.arrays.append((array, numbers))

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if self.arrays:
            self.arrays.pop(data.draw(st.integers(0, len(self.arrays) - 1)))

    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        if self.arrays:
            array, numbers = self.arrays[data.draw(st.integers(0, len(self.arrays) - 1))]
            try:
                self.kept[self.heap.keep(array)] = numbers
            except UsageError:
                assert self.kept[self.heap.offset_of(array)] is numbers

    @rule(data=st.data(), size=st.sampled_from([0, 5, 100, 3000]))
    def resize(self, data: st.DataObject, size: int) -> None:
        if self.arrays:
            at = data.draw(st.integers(0, len(self.arrays) - 1))
            array, numbers = self.arrays[at]
            own = array.flags.owndata and address(array) not in {
                self.heap.address(offset) for offset in self.kept
            }
            if own:  # a kept one would share its block with what is stored to it
                array.resize(size, refcheck=False)
                zeros = np.zeros(max(size - len(numbers), 0), int)
                self.arrays[at] = array, np.concatenate([numbers[:size], zeros])

    @rule(data=st.data())
    def free_kept(self, data: st.DataObject) -> None:
        if self.kept:
            offset = data.draw(st.sampled_from(sorted(self.kept)))
            lives = any(address(array) == self.heap.address(offset) for array, _ in self.arrays)
            try:
                self.heap.free(offset)
            except BufferError:
                assert lives
            else:
                assert not lives
                del self.kept[offset]

    @rule(size=st.sampled_from([8, 300, 5000, 400_000]))
    def malloc(self, size: int) -> None:
        offset = self.heap.malloc(size)
        self.made += 1
        self.heap.view(offset, 8)[:] = self.made.to_bytes(8, "little")
        self.blocks[offset] = self.made

    @rule()
    def free(self) -> None:
        if self.blocks:
            self.heap.free(self.blocks.popitem()[0])

    @rule()
    def trim(self) -> None:
        self.heap.trim()

    @invariant()
    def all_is_as_it_was_stored(self) -> None:
        for array, numbers in self.arrays:
            assert np.array_equal(array, numbers)
        for offset, numbers in self.kept.items():
            assert np.array_equal(self.heap.ndarray_at(offset, len(numbers), int), numbers)
        for offset, number in self.blocks.items():
            assert int.from_bytes(self.heap.view(offset, 8), "little") == number

    @invariant()
    def the_heap_knows_them(self) -> None:
        assert set(dict(self.heap.blocks())) == {*self.kept, *self.blocks}
        assert self.heap.stats().live_views == len(self.arrays)
        assert self.heap.check()

    def teardown(self) -> None:
        self.arrays.clear()
        assert self.heap.stats().reserved == 0
        self.heap.close()


ArrayMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=30)
TestArrays = pytest.mark.slow(ArrayMachine.TestCase)
