"""A machine that goes down while a heap file is in use: today that is detected, not repaired."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pmemheap
from pmemheap import Block, DurabilityName, Heap, layout, native
from pmemheap.containers import SortedMap
from pmemheap.file import identity
from pmemheap.format.superblock import newest_superblock
from pmemheap.native.constants import State
from pmemheap.testing import copy_as_crashed
from pmemheap.units import UNIT


def state_in(path: Path) -> layout.HeapState:
    image = path.read_bytes()[: layout.SUPERBLOCKS[1] + layout.SUPERBLOCK_BYTES]
    first, second = (image[at : at + layout.SUPERBLOCK_BYTES] for at in layout.SUPERBLOCKS)
    return newest_superblock((first, second))[0].state


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

    for name in ("fsync", "fdatasync", "msync"):
        monkeypatch.setattr(native, name, noting(getattr(native, name)))
    return states


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("change", ["malloc", "roots", "view", "transaction", "arena"])
def test_in_use_is_on_the_medium_before_the_first_change(
    tmp_path: Path, synced: list[layout.HeapState], durability: DurabilityName, change: str
) -> None:
    path = tmp_path / "a.heap"
    with pmemheap.Heap.create(path, durability=durability) as heap:
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


FIRST_CALLS: dict[str, Callable[[Heap, int], Any]] = {
    "malloc": lambda heap, block: heap.malloc(100),
    "malloc_many": lambda heap, block: heap.malloc_many(100, 500),
    "alloc": lambda heap, block: heap.alloc(100),
    "free": lambda heap, block: heap.free(block),
    "free_many": lambda heap, block: heap.free_many([block]),
    "realloc": lambda heap, block: heap.realloc(block, 5000),
    "expand": lambda heap, block: heap.expand(block, 100),
    "usable_size": lambda heap, block: heap.usable_size(block),
    "view": lambda heap, block: heap.view(block),
    "ndarray": lambda heap, block: heap.ndarray((4, 4), "f8"),
    "ndarray_at": lambda heap, block: heap.ndarray_at(block, 10, "u1"),
    "block": lambda heap, block: heap.block(block),
    "address": lambda heap, block: heap.address(block),
    "handle": lambda heap, block: Block(heap, block, 100).view,
    "arena": lambda heap, block: heap.arena("old").malloc(10),
    "arena of another": lambda heap, block: heap.arena("new").malloc(10),
    "arenas": lambda heap, block: heap.arenas(),
    "blocks": lambda heap, block: list(heap.blocks()),
    "check": lambda heap, block: heap.check(),
    "stats": lambda heap, block: heap.stats(),
    "explain": lambda heap, block: heap.explain(1 << 20),
    "trim": lambda heap, block: heap.trim(),
    "sync": lambda heap, block: heap.sync(),
    "transaction": lambda heap, block: heap.transaction().abort(),
    "roots": lambda heap, block: heap.roots.update(second=block),
    "map": lambda heap, block: SortedMap(heap, "map").items(),
    "view of a map": lambda heap, block: SortedMap(heap, "map").view(b"key"),
    "put into a map": lambda heap, block: SortedMap(heap, "map").update({b"a": b"b"}),
    "check of a map": lambda heap, block: SortedMap(heap, "map").check(),
    "repr": lambda heap, block: repr(heap),
    "close": lambda heap, block: heap.close(),
}


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("call", FIRST_CALLS)
def test_any_call_can_be_the_first_of_a_heap_that_was_closed(
    tmp_path: Path, durability: DurabilityName, call: str
) -> None:
    path = tmp_path / "a.heap"
    with Heap.create(path, durability=durability) as heap:
        block, other = heap.malloc(100), heap.malloc(100)
        heap.roots["first"] = other
        heap.arena("old").malloc(100)
        SortedMap(heap, "map")[b"key"] = b"value"
    heap = Heap.open(path)
    assert state_in(path) == layout.HeapState.CLEAN
    assert SortedMap(heap, "map")[b"key"] == b"value"  # which needs no tables
    assert heap._space.core.state == State.UNATTACHED
    FIRST_CALLS[call](heap, block)
    heap.close()
    with Heap.open(path) as heap:
        assert heap.check()


def test_a_child_of_a_heap_that_sleeps_leaves_its_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.heap"
    with Heap.create(path) as heap:
        heap.roots["first"] = heap.malloc(100)
    heap = Heap.open(path)
    child = os.fork()
    if child == 0:
        try:
            heap.malloc(10)
        except pmemheap.UsageError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    heap.malloc(10)
    assert heap.check()
    heap.close()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_heap_whose_roots_were_read_is_closed_as_it_was(
    tmp_path: Path, synced: list[layout.HeapState], durability: DurabilityName
) -> None:
    path = tmp_path / "a.heap"
    with pmemheap.Heap.create(path, durability=durability) as heap:
        heap.roots["first"] = heap.malloc(100)
    image = path.read_bytes()
    with pmemheap.Heap.open(path) as heap:
        synced.clear()  # to open a power heap takes a sync
        assert "first" in heap.roots
    assert synced == []
    assert path.read_bytes() == image


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_heap_that_was_only_read_is_closed_as_it_was(
    tmp_path: Path, durability: DurabilityName
) -> None:
    """Reading it finds an empty run, which is given back when it is open, and not before."""
    path = tmp_path / "a.heap"
    with Heap.create(path, durability=durability, decay=None) as heap:
        heap.free(heap.malloc(16))
        kept = heap.malloc(100)
    image = path.read_bytes()
    for _ in range(2):
        with Heap.open(path, decay=None) as heap:
            assert heap.check()
            assert [block[0] for block in heap.blocks()] == [kept]
            assert heap.explain(1 << 20)
        assert path.read_bytes() == image
    with Heap.open(path, decay=None) as heap:
        assert heap.check()
        heap.free(kept)
        heap.malloc_many(16, 1000)
        assert heap.check()


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
    monkeypatch.setattr(identity, "boot_id", lambda: bytes(16))


def test_a_process_heap_in_use_under_another_boot_is_refused(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path, copy = tmp_path / "a.heap", tmp_path / "copy.heap"
    with pmemheap.Heap.create(path, durability="process") as heap:
        heap.sync()
        heap.malloc(10)
        copy_as_crashed(path, copy)
    request.getfixturevalue("rebooted")
    with pytest.raises(pmemheap.CorruptHeapError, match="machine went down"):
        pmemheap.Heap.open(copy)
    with pmemheap.Heap.open(path) as heap:
        assert heap.check()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_was_synced_last_is_there_after_another_boot(
    tmp_path: Path, durability: DurabilityName, request: pytest.FixtureRequest
) -> None:
    path, copy = tmp_path / "a.heap", tmp_path / "copy.heap"
    with pmemheap.Heap.create(path, durability=durability) as heap:
        offset = heap.malloc(10)
        heap.view(offset)[:5] = b"hello"
        heap.sync()
        copy_as_crashed(path, copy)
    request.getfixturevalue("rebooted")
    with pmemheap.Heap.open(copy) as heap:
        assert heap.check()
        assert bytes(heap.view(offset)[:5]) == b"hello"
