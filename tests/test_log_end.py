"""What becomes of a large log when a heap is closed."""

from __future__ import annotations

from pathlib import Path

import pytest
from heap_world import redo_of

from pmemheap import DurabilityName, Heap, OutOfSpaceError
from pmemheap.containers import SortedMap
from pmemheap.file.shownspace import ShownSpace
from pmemheap.format import layout
from pmemheap.format.superblock import newest_superblock
from pmemheap.testing import Crash, Image, Kind
from pmemheap.testing.plugin import CrashSimulator
from pmemheap.units import KiB, MiB

DURABILITIES = ["process", "power"]
CONTENT = {b"%d" % number: b"v" * 300 for number in range(100)}


def log_bytes(path: Path) -> int:
    image = path.read_bytes()
    first, second = (image[at : at + layout.SUPERBLOCK_BYTES] for at in layout.SUPERBLOCKS)
    return newest_superblock((first, second))[0].log_size


def filled(path: Path, durability: DurabilityName) -> Heap:
    """A heap with some records, and a log that has grown."""
    heap = Heap.create(path, durability=durability, decay=None)
    SortedMap(heap, "table").update(CONTENT)
    redo_of(heap).move(512 * KiB)
    SortedMap(heap, "table")[b"last"] = b"one"
    return heap


@pytest.mark.parametrize("durability", DURABILITIES)
def test_one_that_is_large_beside_the_data_goes(durability: DurabilityName, tmp_path: Path) -> None:
    path = tmp_path / "heap"
    heap = filled(path, durability)
    before = path.stat().st_blocks
    heap.close()
    assert path.stat().st_blocks * 512 < before * 512 - 300 * KiB
    assert log_bytes(path) == layout.LOG_BYTES
    with Heap.open(path) as heap:
        assert dict(SortedMap(heap, "table").items()) == CONTENT | {b"last": b"one"}
        assert heap.check()


@pytest.mark.parametrize("durability", DURABILITIES)
def test_one_that_lies_behind_free_space_goes(durability: DurabilityName, tmp_path: Path) -> None:
    """Beside snapshots of before no SPARE segment is used: a log goes to the end of the file."""
    path = tmp_path / "heap"
    heap = Heap.create(path, durability=durability, decay=None)
    empty = path.stat().st_size
    SortedMap(heap, "table").update(CONTENT)
    large, medium = heap.malloc(20 * MiB), redo_of(heap)._medium
    redo_of(heap).move(512 * KiB)
    heap.free(large)
    medium.is_shown, medium.shown = lambda: True, ShownSpace()
    heap.trim()
    assert path.stat().st_size > 20 * MiB
    medium.is_shown = medium.shown = None
    heap.close()
    assert path.stat().st_size < empty + 4 * MiB
    with Heap.open(path) as heap:
        assert dict(SortedMap(heap, "table").items()) == CONTENT
        assert heap.check()


@pytest.mark.parametrize("durability", DURABILITIES)
def test_one_of_a_large_heap_stays(durability: DurabilityName, tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with filled(path, durability) as heap:
        heap.malloc(20 * MiB)
    assert log_bytes(path) == 512 * KiB


@pytest.mark.parametrize("durability", DURABILITIES)
def test_without_room_for_another_it_stays(
    durability: DurabilityName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OutOfSpaceError("log: room expected, none found")

    path = tmp_path / "heap"
    with filled(path, durability) as heap:
        monkeypatch.setattr(type(heap._space.shared.file), "allocate_log", refuse)
    monkeypatch.undo()
    assert log_bytes(path) == 512 * KiB
    with Heap.open(path, decay=None) as heap:
        assert dict(SortedMap(heap, "table").items()) == CONTENT | {b"last": b"one"}


@pytest.mark.slow
@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_crash_in_between_loses_nothing(
    durability: DurabilityName, tmp_path: Path, crash_simulator: CrashSimulator
) -> None:
    path = tmp_path / "heap"
    heap = filled(path, durability)
    with crash_simulator.record(path) as recorder:
        heap.close()

    def check(image: Image, crash: Crash) -> None:
        with Heap.open(image.path, decay=None) as found:
            assert dict(SortedMap(found, "table").items()) == CONTENT | {b"last": b"one"}
            assert found.check()

    kinds = (Kind.KILL,) if durability == "process" else (Kind.KILL, Kind.POWER)
    crash_simulator.check(recorder.recording, check, kinds=kinds, budget=8)
