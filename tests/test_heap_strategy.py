"""Strategies of the default arena: heaps that are a ring, or rows, from their first block on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmemheap import Budget, General, Heap, Ring, Rows, UsageError
from pmemheap import open as open_heap
from pmemheap.format.layout import HAS_ROWS
from pmemheap.offline import examine, open_image
from pmemheap.repair import repair
from pmemheap.salvage import salvage
from pmemheap.testing import AllocatorContract
from pmemheap.units import KiB

DURABILITIES: Any = ["process", "power"]


class TestRingHeap(AllocatorContract):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous(strategy=Ring()) as heap:
            yield heap


class TestRowsHeap(AllocatorContract):
    sizes = (1, 15, 16, 17, 100, 500, 512)
    aligns = (16, 64, 512)

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous(strategy=Rows(512)) as heap:
            yield heap


class TestRowsInSharedMemory(AllocatorContract):
    sizes, aligns = TestRowsHeap.sizes, TestRowsHeap.aligns

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.shared(strategy=Rows(512)) as heap:
            yield heap


# ---------------------------------------------------------------- in memory


def test_a_heap_may_be_a_ring() -> None:
    with Heap.anonymous(strategy=Ring()) as heap:
        ring: Any = heap
        assert heap.strategy == Ring()
        offsets = [heap.malloc(100 + n) for n in range(1000)]
        assert offsets == sorted(offsets)
        assert ring.first() == offsets[0]
        before: Any = heap.stats()
        heap.free(offsets[1])
        heap.arena("beside").malloc_many(1000, 100)  # counts in all, and not in what is held back
        stats: Any = heap.stats()
        assert (stats.blocks, stats.held_by) == (1099, offsets[0])
        assert stats.held_back == before.held_back + 112
        assert "Ring()" in repr(heap)
        assert heap.check()


def test_a_heap_may_be_rows() -> None:
    with Heap.anonymous(strategy=Rows(("f4", 4))) as heap:
        table: Any = heap
        offsets = [heap.malloc(16) for _ in range(1000)]
        table.rows[:1000] = np.arange(1000, dtype="f4")[:, None]
        assert table.row(7).tolist() == [7.0] * 4
        assert table.index(offsets[7]) == 7
        heap.free(offsets[7])
        assert table.live[:1000].sum() == 999
        with pytest.raises(UsageError, match="at most 16 bytes"):
            heap.malloc(17)
        assert heap.arena("beside").malloc(5000) >> 55 == 1
        with heap.scratch() as scratch:
            scratch.malloc(1000)
        assert heap.check()


def test_a_heap_without_a_strategy_shows_nothing_of_others() -> None:
    with Heap.anonymous() as heap, Heap.anonymous(strategy=General()) as named:
        for each in (heap, named):
            assert type(each) is Heap
            assert each.strategy == General()
            assert not {"rows", "first"} & set(dir(each))


class OwnHeap(Heap):
    __slots__ = ()


def test_a_class_of_the_user_is_kept() -> None:
    with OwnHeap.anonymous(strategy=Rows(64)) as heap:
        assert isinstance(heap, OwnHeap)
        assert type(heap).__name__ == "RowsOwnHeap"
        with type(heap).anonymous() as plain, type(heap).anonymous(strategy=Ring()) as ring:
            assert type(plain) is OwnHeap
            assert type(ring).__name__ == "RingOwnHeap"
            assert not hasattr(ring, "rows")
        with heap.shadow() as shadow:  # another heap of the same class, of no strategy
            heap.malloc(64)
            assert shadow.sample().live == 64


def test_a_budget_and_layers_stand_over_it() -> None:
    budget = Budget(64 << 20)
    with Heap.anonymous(strategy=Ring(), budget=budget) as heap:
        heap.malloc(10)
        assert budget.held > 0


@pytest.mark.parametrize("strategy", ["ring", Ring, 5, object()])
def test_what_is_no_strategy_is_refused(strategy: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"strategy: General\(\), Ring\(\), Rows.* or Placed"):
        Heap.anonymous(strategy=strategy)
    with pytest.raises(UsageError, match=r"strategy: General\(\), Ring\(\) or Rows"):
        Heap.shared(strategy=strategy)
    with pytest.raises(UsageError, match=r"strategy: General\(\), Ring\(\) or Rows"):
        Heap.create(tmp_path / "heap", strategy=strategy)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- in files


def filled(path: Path, durability: Any, count: int = 500) -> list[int]:
    with Heap.create(path, durability=durability, strategy=Rows(("u8", 2))) as heap:
        offsets = [heap.malloc(16) for _ in range(count)]
        table: Any = heap
        table.rows[:count] = np.arange(2 * count, dtype="u8").reshape(-1, 2)
        heap.free(offsets.pop(3))
        heap.sync()
    return offsets


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_file_keeps_the_strategy(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "heap"
    offsets = filled(path, durability)
    for options in ({}, {"strategy": Rows(16)}, {"readonly": True}):
        with Heap.open(path, **options) as heap:
            table: Any = heap
            assert heap.strategy == Rows(16)
            assert [offset for offset, _ in heap.blocks()] == offsets
            assert bytes(table.row(400)) == np.array([800, 801], "u8").tobytes()
            assert table.live.sum() == len(offsets)
            assert heap.check()
    with open_heap(path, "w", strategy=Rows(("u8", 2))) as heap:
        again: Any = heap
        assert again.rows[400].tolist() == [800, 801]
        assert heap.malloc(16) == offsets[2] + 16  # the lowest free one
    with open_image(path) as image:
        assert [str(finding) for finding in examine(image).findings] == []


@pytest.mark.parametrize("wish", [General(), Ring(), Rows(32)])
def test_another_strategy_is_refused(tmp_path: Path, wish: Any) -> None:
    path = tmp_path / "heap"
    filled(path, "process")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"its strategy Rows\(row=16\) expected, found"):
        Heap.open(path, strategy=wish)
    assert path.read_bytes()[0x2000:] == before[0x2000:]
    with Heap.open(path) as heap:
        assert heap.check()
    with Heap.create(tmp_path / "plain") as heap:
        pass
    with pytest.raises(
        UsageError, match=r"its strategy General\(\) expected, found Rows\(row=64\)"
    ):
        Heap.open(tmp_path / "plain", strategy=Rows(64))


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_heap_may_be_a_queue(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability=durability, strategy=Ring()) as heap:
        queue: Any = heap
        offsets = [queue.malloc(size + 1) for size in range(500)]
        queue.free_many(offsets[:100])
        with pytest.raises(UsageError, match=r"General\(\) expected for regions, found Ring"):
            heap.region()
    with Heap.open(path, strategy=Ring()) as heap:
        again: Any = heap
        assert again.first() == offsets[100]
        assert heap.malloc(10) > offsets[-1]
        assert heap.check()
    with open_image(path) as image:
        assert [str(finding) for finding in examine(image).findings] == []
    with Heap.shared(strategy=Ring()) as heap:
        assert heap.strategy == Ring()


@pytest.mark.parametrize("durability", DURABILITIES)
def test_an_older_program_refuses_it_from_the_start(tmp_path: Path, durability: Any) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, strategy=Rows(64)) as heap:
        file = heap._space.shared.file
        assert file is not None
        assert file.header.superblock.features_incompat == HAS_ROWS


def test_an_attached_reader_sees_the_rows() -> None:
    with Heap.shared(strategy=Rows(64)) as heap:
        offsets = [heap.malloc(64) for _ in range(100)]
        heap.view(offsets[50])[:3] = b"abc"
        with Heap.attach(heap.fileno()) as reader:
            table: Any = reader
            assert table.live.sum() == 100
            assert bytes(table.row(50))[:3] == b"abc"
            heap.malloc(64)
            assert reader.stats().blocks == 101


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_killed_process_leaves_its_rows(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "heap"
    child = os.fork()
    if child == 0:
        heap = Heap.create(path, durability=durability, strategy=Rows(64))
        offsets = [heap.malloc(64) for _ in range(300)]
        heap.free_many(offsets[::3])
        with heap.transaction() as tx:
            kept = tx.malloc(64)
            tx.roots["kept"] = kept
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with Heap.open(path) as heap:
        table: Any = heap
        assert table.live.sum() == heap.stats().blocks == 201
        assert heap.usable_size(heap.roots["kept"]) == 64
        assert heap.check()


def test_it_gives_back_and_grows_again(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process", strategy=Rows(KiB)) as heap:
        table: Any = heap
        for _ in range(2):
            offsets = [heap.malloc(KiB) for _ in range(5000)]
            assert len(table.rows) >= 5000
            heap.free_many(offsets)
            assert heap.trim() > 4000 * KiB
            assert heap.check()


def test_it_is_mended_and_salvaged(tmp_path: Path) -> None:
    path, made = tmp_path / "heap", tmp_path / "made"
    offsets = filled(path, "process")
    with Heap.open(path) as heap:
        file = heap._space.shared.file
        assert file is not None
        entry = next(file.places(0, "entries", 0, 16))[0]
    with path.open("r+b") as opened:
        opened.seek(entry)
        opened.write(b"\x07")
    repair(path)
    with Heap.open(path) as heap:
        assert heap.strategy == Rows(16)
        assert {offset for offset, _ in heap.blocks()} >= set(offsets)
    assert salvage(path, made).blocks == len(offsets)
