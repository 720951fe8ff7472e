"""Transactions that are larger than the log they meet: it makes room for them, or grows."""

from __future__ import annotations

from pathlib import Path

import pytest

import pmemheap


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_commit_of_many_roots_finds_a_larger_log(tmp_path: Path, durability: str) -> None:
    path = tmp_path / "heap"
    with pmemheap.Heap.create(path, durability=durability) as heap:
        log = heap._redo()
        assert log is not None
        before = log.size
        with heap.transaction() as tx:
            tx.roots.update({str(number): tx.malloc(100) for number in range(1000)})
        assert log.size > before
        assert heap.check()
    with pmemheap.Heap.open(path) as heap:
        assert len(heap.roots) == 1000
