"""Readers and space: what a reader that goes on makes a file grow by, and that it ends."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pmemheap import Heap
from pmemheap.containers import SortedMap

RECORDS = 20_000
KEYS = [b"%016d" % number for number in range(RECORDS)]


def churn(path: Path, puts: int, *, readers: bool, every: int = 0) -> int:
    """Change values of a map, one at a time, with a snapshot of its own for each `every` of them.

    Returns
    -------
    int
        Bytes of the file that have blocks, when it is done.
    """
    source = random.Random(1)
    with Heap.create(path, durability="process", decay=None, readers=readers) as heap:
        table = SortedMap(heap, "table")
        table.update((key, b"v" * 100) for key in KEYS)
        snap = heap.read() if every else None
        for number in range(puts):
            table[source.choice(KEYS)] = b"w" * 100
            if snap is not None and number % every == 0:
                snap.refresh()
        if snap is not None:
            snap.close()
        return path.stat().st_blocks * 512


@pytest.mark.slow
def test_a_file_that_may_be_read_ends_to_grow(tmp_path: Path) -> None:
    """What was recycled was used, and a little more was taken each time: it grew for ever."""
    early = churn(tmp_path / "early", 8_000, readers=True)
    late = churn(tmp_path / "late", 40_000, readers=True)
    assert late <= 1.2 * early


@pytest.mark.slow
def test_a_reader_that_goes_on_costs_half_of_a_file_at_most(tmp_path: Path) -> None:
    alone = churn(tmp_path / "alone", 20_000, readers=False)
    beside = churn(tmp_path / "beside", 20_000, readers=True, every=50)
    assert beside <= 1.5 * alone
    longer = churn(tmp_path / "longer", 60_000, readers=True, every=50)
    assert longer <= 1.1 * beside


@pytest.mark.slow
def test_a_power_heap_ends_to_grow(tmp_path: Path) -> None:
    """The same of what only waits for a sync."""
    source = random.Random(1)
    sizes = []
    with Heap.create(tmp_path / "heap", durability="power", decay=None) as heap:
        blocks = heap.malloc_many(4096, 500)
        for number in range(40_000):
            index = source.randrange(len(blocks))
            with heap.transaction(durable=False) as tx:
                tx.free(blocks[index])
                blocks[index] = tx.malloc(4096)
            if number in {8_000, 39_999}:
                stats = heap.stats()
                sizes.append(stats.active + stats.free)
    assert sizes[1] <= 1.2 * sizes[0]
