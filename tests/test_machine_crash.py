"""A machine that goes down while a heap file is in use: today that is detected, not repaired."""

from __future__ import annotations

from pathlib import Path

import pytest

import pmemheap
from pmemheap import heapfile, layout, native, redo


def state_in(path: Path) -> layout.HeapState:
    image = path.read_bytes()[: layout.SUPERBLOCKS[1] + layout.SUPERBLOCK_BYTES]
    first, second = (image[at : at + layout.SUPERBLOCK_BYTES] for at in layout.SUPERBLOCKS)
    return layout.newest_superblock((first, second))[0].state


@pytest.mark.parametrize("durability", ["process", "power"])
def test_in_use_is_on_the_medium_before_open_returns(
    tmp_path: Path, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.heap"
    pmemheap.Heap.create(path, durability=durability).close()
    synced: list[layout.HeapState] = []
    real = native.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.append(state_in(path))

    monkeypatch.setattr(native, "fsync", fsync)
    with pmemheap.Heap.open(path):
        assert synced[-1:] == [layout.HeapState.IN_USE]
    assert synced[-1] == layout.HeapState.CLEAN


@pytest.fixture
def rebooted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file that is opened be one of before the last boot."""
    for module in (heapfile, redo):
        monkeypatch.setattr(module, "boot_id", lambda: bytes(16))


def test_a_process_heap_in_use_under_another_boot_is_refused(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path, copy = tmp_path / "a.heap", tmp_path / "copy.heap"
    with pmemheap.Heap.create(path, durability="process") as heap:
        heap.sync()
        heap.malloc(10)
        copy.write_bytes(path.read_bytes())
    request.getfixturevalue("rebooted")
    with pytest.raises(pmemheap.CorruptHeapError, match="machine went down"):
        pmemheap.Heap.open(copy)
    with pmemheap.Heap.open(path) as heap:
        assert heap.check()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_was_synced_last_is_there_after_another_boot(
    tmp_path: Path, durability: str, request: pytest.FixtureRequest
) -> None:
    path, copy = tmp_path / "a.heap", tmp_path / "copy.heap"
    with pmemheap.Heap.create(path, durability=durability) as heap:
        offset = heap.malloc(10)
        heap.view(offset)[:5] = b"hello"
        heap.sync()
        copy.write_bytes(path.read_bytes())
    request.getfixturevalue("rebooted")
    with pmemheap.Heap.open(copy) as heap:
        assert heap.check()
        assert bytes(heap.view(offset)[:5]) == b"hello"
