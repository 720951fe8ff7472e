"""What a file heap keeps when it is closed: most of its blocks are in use, or it gets smaller."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from reader_world import DURABILITIES

import pmemheap
from pmemheap import DurabilityName, Heap, PmemHeapError
from pmemheap.containers import SortedMap
from pmemheap.kvstore import KVStore
from pmemheap.native.seam import Call, faults
from pmemheap.units import MiB

COUNT = 40_000


def blocks_of(path: Path) -> int:
    return path.stat().st_blocks * 512


def fill(store: KVStore) -> None:
    with store.transaction():
        for number in range(COUNT):
            store.set(b"key %08d" % number, b"v" * 100)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_store_in_which_all_was_deleted_is_small(
    tmp_path: Path, durability: DurabilityName
) -> None:
    path = tmp_path / "a.kv"
    with KVStore(path, durability) as store:
        fill(store)
        store.clear()
    assert blocks_of(path) < MiB
    with KVStore(path) as store:
        assert len(store) == 0
        fill(store)
    assert blocks_of(path) > COUNT * 100
    with KVStore(path) as store:
        assert len(store) == COUNT
        store.check()


def test_one_in_which_most_is_used_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.heap"
    with Heap.create(path, durability="process") as heap:
        kept = [heap.malloc(MiB) for _ in range(8)]
        freed = [heap.malloc(MiB) for _ in range(4)]
        for offset in freed:
            heap.free(offset)
        before = blocks_of(path)
    assert blocks_of(path) >= before - MiB
    with pmemheap.open(path, "w") as heap:
        for offset in kept:
            heap.free(offset)
    assert blocks_of(path) < MiB


def test_without_decay_nothing_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "a.heap"
    with Heap.create(path, durability="process", decay=None) as heap:
        for offset in [heap.malloc(MiB) for _ in range(8)]:
            heap.free(offset)
    assert blocks_of(path) > 8 * MiB


def test_other_arenas_count(tmp_path: Path) -> None:
    path = tmp_path / "a.heap"
    with Heap.create(path, durability="process") as heap:
        arena = heap.arena("other")
        for offset in [arena.malloc(MiB) for _ in range(8)]:
            arena.free(offset)
        table = SortedMap(heap, "table")
        table[b"k"] = b"v"
    assert blocks_of(path) < 2 * MiB
    with pmemheap.open(path) as heap:
        assert SortedMap(heap, "table")[b"k"] == b"v"
        assert heap.check()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EOPNOTSUPP, errno.EIO])
def test_what_is_refused_leaves_it_sound(tmp_path: Path, number: int) -> None:
    """Each system call of the close, one after the other."""
    refused = 0
    for nth in range(1, 100):
        path = tmp_path / f"{nth}.heap"
        heap = Heap.create(path, durability="process")
        heap.roots["kept"] = heap.malloc(100)
        for offset in [heap.malloc(MiB) for _ in range(4)]:
            heap.free(offset)
        with faults(nth, number) as fault:
            try:
                heap.close()
            except PmemHeapError:
                refused += 1
        if fault.hit == Call.NONE:
            break
        heap.close()
        with pmemheap.open(path, "w") as again:
            assert again.check()
            assert list(again.roots) == ["kept"]
    assert nth > 8
    assert refused < nth
