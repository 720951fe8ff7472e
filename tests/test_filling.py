"""Large new blocks, which go into the file by a call: what they hold, crashes, refusals."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

import pmemheap
from pmemheap import DurabilityError, Heap, OutOfSpaceError, PmemHeapError, native
from pmemheap.containers import Arrays, SortedMap
from pmemheap.heap import filling
from pmemheap.testing import Crash, Image, Kind
from pmemheap.testing.plugin import CrashSimulator
from pmemheap.units import KiB, MiB


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each call that filled a part of a block; blocks of 16 KiB are large here."""
    lengths: list[int] = []

    def pwrite(fd: int, data: bytes | memoryview, offset: int) -> None:
        if isinstance(data, memoryview):  # other calls write bytes
            lengths.append(data.nbytes)
        native_pwrite(fd, data, offset)

    native_pwrite = native.pwrite
    monkeypatch.setattr(filling, "_CALL_LEAST", 16 * KiB)
    monkeypatch.setattr(native, "pwrite", pwrite)
    return lengths


def noise(nbytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(nbytes)


def test_values_are_what_was_put(heap: Heap, calls: list[int]) -> None:
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
        assert not calls
    else:
        assert sum(calls) >= (3 * 4 if heap.durability == "power" else 4) * MiB


def test_a_block_over_the_border_of_two_segments(tmp_path: Path, calls: list[int]) -> None:
    path = tmp_path / "heap"
    with Heap.create(path) as heap:
        table = SortedMap(heap, "table")
        for number in range(40):
            table[b"%d" % number] = noise(300 * KiB, number)
        assert len(calls) > 40, "some in two parts"
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


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_crash_leaves_all_of_it_or_nothing(
    durability: pmemheap.DurabilityName, tmp_path: Path, crash_simulator: CrashSimulator
) -> None:
    path = tmp_path / "heap"
    values = [noise(40 * KiB, seed) for seed in range(5)]
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


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, OutOfSpaceError), (errno.EIO, PmemHeapError)]
)
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_refused_call_changes_nothing(
    durability: pmemheap.DurabilityName,
    number: int,
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(fd: int, data: bytes | memoryview, offset: int) -> None:
        if isinstance(data, memoryview):
            raise native.NativeError(number, "pwrite")
        native_pwrite(fd, data, offset)

    native_pwrite = native.pwrite
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        table = SortedMap(heap, "table")
        table[b"key"] = old = noise(20 * KiB)
        blocks = dict(heap.blocks())
        monkeypatch.setattr(native, "pwrite", refuse)
        with pytest.raises(error):
            table[b"key"] = noise(MiB, 1)
        assert table[b"key"] == old
        assert dict(heap.blocks()) == blocks
        monkeypatch.setattr(native, "pwrite", native_pwrite)
        table[b"key"] = noise(MiB, 1)
        assert table[b"key"] == noise(MiB, 1)


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
