"""A machine that goes down while a heap file is in use: today that is detected, not repaired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pmemheap
from pmemheap import heapfile, layout, native, redo
from pmemheap.units import UNIT


def state_in(path: Path) -> layout.HeapState:
    image = path.read_bytes()[: layout.SUPERBLOCKS[1] + layout.SUPERBLOCK_BYTES]
    first, second = (image[at : at + layout.SUPERBLOCK_BYTES] for at in layout.SUPERBLOCKS)
    return layout.newest_superblock((first, second))[0].state


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[layout.HeapState]:
    """The state in the file at each sync of it."""
    states: list[layout.HeapState] = []

    def noting(real: Callable[..., None]) -> Callable[..., None]:
        def sync(*where: int) -> None:
            real(*where)
            path = tmp_path / "a.heap"
            if path.exists():  # a new one has no name yet
                states.append(state_in(path))

        return sync

    for name in ("fsync", "msync"):
        monkeypatch.setattr(native, name, noting(getattr(native, name)))
    return states


def test_in_use_is_on_the_medium_before_open_returns(
    tmp_path: Path, synced: list[layout.HeapState]
) -> None:
    path = tmp_path / "a.heap"
    pmemheap.Heap.create(path, durability="power").close()
    with pmemheap.Heap.open(path):
        assert synced[-1:] == [layout.HeapState.IN_USE]
    assert synced[-1] == layout.HeapState.CLEAN


@pytest.mark.parametrize("change", ["malloc", "roots", "view", "transaction", "arena"])
def test_in_use_is_on_the_medium_before_the_first_change_of_a_process_heap(
    tmp_path: Path, synced: list[layout.HeapState], change: str
) -> None:
    path = tmp_path / "a.heap"
    with pmemheap.Heap.create(path, durability="process") as heap:
        heap.roots["first"] = block = heap.malloc(100)
        heap.arena("old").malloc(100)
    changes = {
        "malloc": lambda heap: heap.malloc(100),
        "roots": lambda heap: heap.roots.pop("first"),
        "view": lambda heap: heap.view(block).release(),
        "transaction": lambda heap: heap.transaction().abort(),
        "arena": lambda heap: heap.arena("old").malloc(100),
    }
    with pmemheap.Heap.open(path) as heap:
        assert heap.roots["first"] == block
        assert heap.check()
        assert state_in(path) == layout.HeapState.CLEAN
        synced.clear()
        changes[change](heap)
        assert synced[:1] == [layout.HeapState.IN_USE]
    assert synced[-1] == layout.HeapState.CLEAN


def test_a_process_heap_that_was_only_read_is_closed_as_it_was(
    tmp_path: Path, synced: list[layout.HeapState]
) -> None:
    path = tmp_path / "a.heap"
    with pmemheap.Heap.create(path, durability="process") as heap:
        heap.roots["first"] = heap.malloc(100)
    image = path.read_bytes()
    synced.clear()
    with pmemheap.Heap.open(path) as heap:
        assert "first" in heap.roots
    assert synced == []
    assert path.read_bytes() == image


def test_a_closed_heap_with_a_lost_superblock_is_looked_at_in_full(tmp_path: Path) -> None:
    """The copy before says that it was closed; the log says that somebody has gone on."""
    path = tmp_path / "a.heap"
    pmemheap.Heap.create(path, durability="power").close()
    before = path.read_bytes()
    with pmemheap.Heap.open(path) as heap:
        heap.malloc(100)
        heap.sync()
        after = bytearray(path.read_bytes())
    at = layout.SUPERBLOCKS[0]
    after[at : at + UNIT] = before[at : at + UNIT]
    at = layout.SUPERBLOCKS[1]
    after[at : at + UNIT] = before[at : at + UNIT]
    path.write_bytes(after)
    with pytest.raises(pmemheap.CorruptHeapError, match="damage"):
        pmemheap.Heap.open(path)


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
