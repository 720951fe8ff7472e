"""Transactions that are larger than the log they meet: it makes room for them, or grows."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import pmemheap
from pmemheap.filemedium import FileMedium
from pmemheap.layout import Durability


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


def test_room_is_made_for_what_was_refused_not_for_what_was_guessed(tmp_path: Path) -> None:
    """The UNDO of few bytes, and the commit that it keeps room for, are longer than the bytes."""
    path = tmp_path / "heap"
    medium = FileMedium.create(
        path, Durability.POWER, limit=None, replace_file=False, log_bytes=4096
    )
    heap = pmemheap.Heap._over_file(medium, 1 << 30, None, fresh=True)
    medium.appear(replace_file=False)
    with heap:
        block, log = heap.malloc(64), heap._redo()
        assert log is not None
        for _ in range(100):
            tail, _, _, head, _, _ = log._positions()
            if log.size - (head - tail) < 128 + 128:
                break
            log._change(struct.pack("<BBHIQ8x", 1, 2, 0, 8, 0xFFF8), 1, medium.file_end)
        with heap.transaction() as tx:
            tx.snapshot(block, 4)
        assert heap.check()
