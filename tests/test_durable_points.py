"""An empty durable transaction is a durable point like any other: of what was committed before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pmemheap import Heap
from pmemheap.format.header import read_superblock
from pmemheap.layout import HeapState


def positions(heap: Heap) -> tuple[int, int]:
    """Return up to where the log is durable, and where it ends."""
    _, _, durable, end, _, _ = heap._space.shared.log.positions()
    return durable, end


def syncs(heap: Heap) -> int:
    return heap._space.shared.log.counters()[2]


def lazy_commit(heap: Heap) -> None:
    with heap.transaction(durable=False) as tx:
        tx.roots["lazy"] = tx.malloc(100)


def bare_calls(heap: Heap) -> None:
    heap.free(heap.malloc(100))


def nothing(heap: Heap) -> None:
    with heap.transaction():
        pass


def a_root_that_was_none(heap: Heap) -> None:
    with heap.transaction() as tx:
        tx.roots["none"] = heap.roots["old"]
        del tx.roots["none"]


def an_aborted_savepoint(heap: Heap) -> None:
    with heap.transaction() as tx:
        inner = heap.transaction()
        inner.malloc(100)
        inner.abort()
        assert tx.is_open


@pytest.mark.parametrize("before", [lazy_commit, bare_calls])
@pytest.mark.parametrize("empty", [nothing, a_root_that_was_none, an_aborted_savepoint])
def test_in_a_power_heap_it_waits_for_what_came_before(
    tmp_path: Path, before: Any, empty: Any
) -> None:
    with Heap.create(tmp_path / "data.heap") as heap:
        heap.roots["old"] = heap.malloc(100)
        before(heap)
        durable, end = positions(heap)
        assert durable < end
        count = syncs(heap)
        empty(heap)
        assert positions(heap) == (end, end)
        assert syncs(heap) == count + 1


def test_in_a_power_heap_it_syncs_nothing_where_nothing_waits(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "data.heap") as heap:
        heap.roots["old"] = heap.malloc(100)
        nothing(heap)
        count = syncs(heap)
        nothing(heap)
        assert syncs(heap) == count


def test_a_lazy_one_waits_for_nothing(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "data.heap") as heap:
        lazy_commit(heap)
        before = positions(heap)
        with heap.transaction(durable=False):
            pass
        assert positions(heap) == before


def test_in_a_process_heap_the_file_says_that_it_is_as_good_as_closed(tmp_path: Path) -> None:
    path = tmp_path / "data.heap"
    with Heap.create(path, durability="process") as heap:
        heap.roots["old"] = heap.malloc(100)
        assert read_superblock(path.read_bytes())[0].state == HeapState.IN_USE
        with heap.transaction(durable=True):
            pass
        assert read_superblock(path.read_bytes())[0].state == HeapState.CLEAN
        heap.malloc(100)
        assert read_superblock(path.read_bytes())[0].state == HeapState.IN_USE
