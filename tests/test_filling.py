"""Large new blocks, which go into the file by a call: what they hold, crashes, refusals."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from file_looks import medium_of

import pmemheap
from pmemheap import DurabilityError, Heap, OutOfSpaceError, PmemHeapError, native
from pmemheap.containers import Arrays, SortedMap
from pmemheap.native import Call, FaultKind
from pmemheap.testing import Crash, Image, Kind
from pmemheap.testing.plugin import CrashSimulator
from pmemheap.units import KiB, MiB


def bytes_written() -> int:
    """Return how many bytes this process has handed to the system so far."""
    words = Path("/proc/self/io").read_text(encoding="ascii").split()
    return int(words[words.index("wchar:") + 1])


@pytest.fixture
def by_calls() -> Callable[[], int]:
    """Tell how many bytes went into files by calls since the test began."""
    before = bytes_written()
    return lambda: bytes_written() - before


def noise(nbytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(nbytes)


def test_values_are_what_was_put(heap: Heap, by_calls: Callable[[], int]) -> None:
    """New ones, such as lie in several segments, and those that come where others were."""
    table = SortedMap(heap, "table")
    sizes = [20 * KiB + 1, MiB, 3 * MiB + 7, 100 * KiB]
    for seed in range(3):
        for number, size in enumerate(sizes):
            table[b"%d" % number] = noise(size, seed)
        table[b"small"] = noise(1000, seed)
        for number, size in enumerate(sizes):
            assert table[b"%d" % number] == noise(size, seed)
        assert table[b"small"] == noise(1000, seed)
    assert heap.check()
    if heap.durability == "none":
        assert by_calls() < MiB  # what the runner of tests writes
    else:
        assert by_calls() >= (3 * 4 if heap.durability == "power" else 4) * MiB


@pytest.mark.parametrize("size", [16 * KiB, 60 * KiB + 1, 250 * KiB])
def test_middling_values_go_by_a_call_where_they_are_new(
    size: int, tmp_path: Path, by_calls: Callable[[], int]
) -> None:
    """C alone puts them; those that come where others were are stored."""
    with Heap.create(tmp_path / "heap", durability="process", decay=None) as heap:
        table = SortedMap(heap, "table")
        before = by_calls()
        for number in range(20):
            table[b"%d" % number] = noise(size, number)
        new = by_calls()
        assert new - before >= 18 * size
        table.clear()
        for number in range(15):
            table[b"%d" % number] = noise(size, number + 1)
        assert by_calls() - new < 4 * size
        for number in range(15):
            assert table[b"%d" % number] == noise(size, number + 1)


def test_new_values_are_mapped(tmp_path: Path) -> None:
    """So that the first look takes no faults: 16 pages come with one, if any."""
    with Heap.create(tmp_path / "heap", durability="process", decay=None) as heap:
        table = SortedMap(heap, "table")
        for number in range(8):
            table[b"%d" % number] = noise(MiB, number)
        views = [np.frombuffer(table.view(b"%d" % number), np.uint64) for number in range(8)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        assert all(view.sum() != 0 for view in views)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        assert faults < 24, "54 at least without"
        del views


def test_a_block_over_the_border_of_two_segments(
    tmp_path: Path, by_calls: Callable[[], int]
) -> None:
    path = tmp_path / "heap"
    with Heap.create(path) as heap:
        table = SortedMap(heap, "table")
        for number in range(40):
            table[b"%d" % number] = noise(300 * KiB, number)
        assert by_calls() > 39 * 300 * KiB
        parts = [
            list(medium_of(heap).places(0, "data", offset, nbytes))
            for offset, nbytes in heap.blocks()
        ]
        assert max(map(len, parts)) > 1, "some in two parts"
    with Heap.open(path) as heap:
        table = SortedMap(heap, "table")
        assert all(table[b"%d" % number] == noise(300 * KiB, number) for number in range(40))


def test_buffers_of_any_kind(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    values = np.arange(10_000, dtype="f8").reshape(100, 100)
    table[b"numpy"] = values
    table[b"bytearray"] = bytearray(values.tobytes())
    assert table[b"numpy"] == table[b"bytearray"] == values.tobytes()


def test_arrays_of_any_order(heap: Heap) -> None:
    arrays = Arrays(heap)
    values = np.arange(40_000.0).reshape(200, 200)
    arrays["rows"] = values
    arrays["columns"] = values.T
    arrays["reversed"] = values[::-1]
    arrays.create("narrow", data=values, dtype="f4")
    assert np.array_equal(arrays["rows"].view(), values)
    assert np.array_equal(arrays["columns"].view(), values.T)
    assert np.array_equal(arrays["reversed"].view(), values[::-1])
    assert np.array_equal(arrays["narrow"].view(), values.astype("f4"))


def test_under_a_savepoint(heap: Heap) -> None:
    table = SortedMap(heap, "table")

    def change_and_fail() -> None:
        with heap.transaction():
            table[b"a"] = noise(60 * KiB, 2)
            table[b"b"] = noise(70 * KiB, 3)
            raise KeyError

    with heap.transaction():
        table[b"a"] = noise(50 * KiB, 1)
        with pytest.raises(KeyError):
            change_and_fail()
        assert table[b"a"] == noise(50 * KiB, 1)
    assert dict(table.items()) == {b"a": noise(50 * KiB, 1)}


@pytest.mark.parametrize("by", [-12_345, -4096, 4096, 12_345])
def test_bytes_of_the_same_block(heap: Heap, by: int) -> None:
    """They move within it as they were, also where both ranges overlap."""
    nbytes = 200 * KiB
    old = noise(nbytes)
    start, to = max(-by, 0), max(by, 0)
    length = nbytes - abs(by)
    with heap.transaction() as tx:
        block = tx.malloc(nbytes)
        tx.write(block, old)
        with heap.view(block) as view:
            tx.write(block + to, view[start : start + length])
            assert bytes(view[to : to + length]) == old[start : start + length]
            assert bytes(view[:to]) == old[:to]


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_crash_leaves_all_of_it_or_nothing(
    durability: pmemheap.DurabilityName, tmp_path: Path, crash_simulator: CrashSimulator
) -> None:
    path = tmp_path / "heap"
    size = 70 * KiB if durability == "power" else 40 * KiB
    values = [noise(size, seed) for seed in range(5)]
    with Heap.create(path, durability=durability) as heap:
        SortedMap(heap, "table")[b"key"] = values[0]

    with crash_simulator.record(path) as recorder, Heap.open(path, decay=None) as heap:
        table = SortedMap(heap, "table")
        for number, value in enumerate(values[1:], 1):
            recorder.begin(number)
            table[b"key"] = value
            recorder.returned(number)
            if durability == "power":
                recorder.durable(number)

    def check(image: Image, crash: Crash) -> None:
        with Heap.open(image.path, decay=None) as heap:
            assert heap.check()
            found = SortedMap(heap, "table")[b"key"]
        assert found in values[crash.least : crash.most + 1], "another value, or half of one"

    kinds = (Kind.KILL,) if durability == "process" else (Kind.KILL, Kind.POWER)
    crash_simulator.check(recorder.recording, check, kinds=kinds, budget=8)


@pytest.mark.slow
def test_long_and_short_ones_in_one_transaction(
    tmp_path: Path, crash_simulator: CrashSimulator
) -> None:
    """Long ones are synced before the record, which carries the short ones."""
    path = tmp_path / "heap"
    keys = [b"%d" % number for number in range(20)]
    sizes = [70 * KiB if number % 5 == 0 else 600 for number in range(20)]

    def values(seed: int) -> list[bytes]:
        return [noise(size, 100 * seed + number) for number, size in enumerate(sizes)]

    with Heap.create(path, durability="power") as heap:
        SortedMap(heap, "table").put_many(zip(keys, values(0), strict=True))
    with crash_simulator.record(path) as recorder, Heap.open(path, decay=None) as heap:
        table = SortedMap(heap, "table")
        for seed in (1, 2):
            recorder.begin(seed)
            with heap.transaction():
                for key, value in zip(keys, values(seed), strict=True):
                    del table[key]
                    table[key] = value
            recorder.returned(seed)
            recorder.durable(seed)

    def check(image: Image, crash: Crash) -> None:
        with Heap.open(image.path, decay=None) as heap:
            assert heap.check()
            found = list(map(SortedMap(heap, "table").__getitem__, keys))
        assert found in map(values, range(crash.least, crash.most + 1)), "parts of two"

    recording = recorder.recording
    crash_simulator.check(recording, check, kinds=(Kind.KILL, Kind.POWER), budget=8)


@contextmanager
def no_file_may_be_longer_than(nbytes: int) -> Iterator[None]:
    """Let the system refuse what lies behind, as a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [60 * KiB, MiB])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_refused_call_changes_nothing(
    durability: pmemheap.DurabilityName, size: int, tmp_path: Path
) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        table = SortedMap(heap, "table")
        table[b"key"] = old = noise(20 * KiB)
        for block in [heap.malloc(MiB) for _ in range(3)]:
            heap.free(block)
        blocks = dict(heap.blocks())
        stored = durability == "power" and size < 64 * KiB
        with no_file_may_be_longer_than(64 * KiB):
            if stored:
                table[b"other"] = noise(size, 1)
            else:
                with pytest.raises(OutOfSpaceError, match="write"):
                    table[b"other"] = noise(size, 1)
        if not stored:
            assert b"other" not in table
            assert dict(heap.blocks()) == blocks
        assert table[b"key"] == old
        table[b"key"] = noise(MiB, 1)
        assert table[b"key"] == noise(MiB, 1)
        assert heap.check()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_each_call_of_a_long_value_refused(
    durability: pmemheap.DurabilityName, tmp_path: Path
) -> None:
    """Whatever is refused from some call on: an exception of ours, and the old value."""
    hit = set()
    for nth in range(1, 60):
        with Heap.create(tmp_path / f"{nth}", durability=durability, decay=None) as heap:
            table = SortedMap(heap, "table")
            table[b"key"] = old = noise(20 * KiB)
            with native.faults(nth, errno.EIO, FaultKind.FROM) as fault:
                try:
                    table[b"key"] = noise(MiB, 1)
                except PmemHeapError:
                    found = None
                else:
                    found = noise(MiB, 1)
            hit.add(fault.hit)
            if fault.hit is Call.NONE:
                break
            if fault.hit is Call.PWRITE:
                assert found is None
                assert table[b"key"] == old
        (tmp_path / f"{nth}").unlink()
    assert Call.PWRITE in hit
    assert Call.NONE in hit


def test_a_file_that_was_cut_does_not_become_long_again(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    heap = Heap.create(path)
    table = SortedMap(heap, "table")
    table[b"key"] = b"value"
    os.truncate(path, 300_000)
    with pytest.raises(DurabilityError):
        table[b"key"] = noise(MiB)
    assert path.stat().st_size == 300_000
    with pytest.raises(DurabilityError):
        heap.close()
