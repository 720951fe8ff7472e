"""Transactions of several threads: shared syncs, one writer at a time, no lost update."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from heap_world import named

from pmemheap import Heap
from pmemheap.errors import UsageError
from pmemheap.heap.syncing import without_snapshots
from pmemheap.testing import copy_as_crashed

THREADS = 6
TURNS = 40


def together(work: Callable[[int], None]) -> None:
    """Run `work` in several threads; let their exceptions out."""
    start, failed = threading.Barrier(THREADS), []

    def run(number: int) -> None:
        try:
            start.wait(20)
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed, failed
    assert not any(thread.is_alive() for thread in threads)


def test_commits_of_several_threads_share_syncs(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "data.heap", durability="power") as heap:
        before = heap._space.shared.log.counters()[2]

        def work(number: int) -> None:
            for _ in range(TURNS):
                with heap.transaction() as tx:
                    tx.malloc(16 + 16 * number)

        together(work)
        syncs = heap._space.shared.log.counters()[2] - before
        assert len(dict(heap.blocks())) == THREADS * TURNS
        assert 0 < syncs < THREADS * TURNS
        assert heap.check()


@pytest.mark.parametrize("size", [64, 5000, 300_000])
@pytest.mark.parametrize("deferred", [False, True])
def test_what_a_transaction_has_reserved_no_other_one_frees(
    heap: Heap, size: int, *, deferred: bool
) -> None:
    """The block was taken for a live one, and its own transaction found it gone."""
    with heap.transaction() as tx:
        offset = tx.malloc(size)
        seen: list[BaseException] = []

        def free_it() -> None:
            with heap.transaction() as other:
                try:
                    other.free(offset, deferred)
                except UsageError as error:
                    seen.append(error)

        thread = threading.Thread(target=free_it)
        thread.start()
        thread.join(20)
        assert "belongs to an open transaction" in str(seen)
    assert [at for at, _ in heap.blocks()] == [offset]
    assert heap.check()


@pytest.mark.parametrize("way", ["write", "snapshot"])
@pytest.mark.parametrize("kind", ["anonymous", "process", "power"])
def test_no_update_is_lost(tmp_path: Path, kind: str, way: str) -> None:
    path = tmp_path / "data.heap"
    heap = Heap.anonymous() if kind == "anonymous" else Heap.create(path, durability=named(kind))
    with heap:
        counter, lock = heap.malloc(16), heap.malloc(16)
        heap.view(counter)[:] = bytes(16)

        def work(_: int) -> None:
            for _ in range(TURNS):
                with heap.transaction(durable=False) as tx:
                    tx.write(lock, b"mine")  # the writer from here on
                    value = int.from_bytes(heap.view(counter, 8), "little") + 1
                    if way == "write":
                        tx.write(counter, value.to_bytes(8, "little"))
                    else:
                        tx.snapshot(counter, 8)
                        heap.view(counter, 8)[:] = value.to_bytes(8, "little")

        together(work)
        assert int.from_bytes(heap.view(counter, 8), "little") == THREADS * TURNS
        assert heap.check()


def test_a_writer_that_waits_goes_on_after_an_abort() -> None:
    with Heap.anonymous() as heap:
        block = heap.malloc(16)
        tx = heap.transaction()
        tx.write(block, b"first")
        done = threading.Event()

        def write() -> None:
            with heap.transaction() as other:
                other.write(block, b"other")
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        assert not done.wait(0.2)
        tx.abort()
        thread.join(20)
        assert done.is_set()
        assert bytes(heap.view(block, 5)) == b"other"


def test_a_sync_waits_for_snapshots_of_others(tmp_path: Path) -> None:
    """Else a replay would bring back what the log says of a block that was stored to since."""
    with Heap.create(tmp_path / "heap", durability="power") as heap:
        old = heap.malloc(5000)
        heap.sync()
        begun, may_end, is_synced = threading.Event(), threading.Event(), threading.Event()

        def hold() -> None:
            with heap.transaction() as tx:
                tx.snapshot(old, 100)
                begun.set()
                may_end.wait()

        def sync() -> None:
            heap.sync()
            is_synced.set()

        threads = [threading.Thread(target=hold), threading.Thread(target=sync)]
        threads[0].start()
        begun.wait()
        block = heap.realloc(heap.malloc(96), 636)
        heap.view(block, 636)[:] = b"z" * 636
        threads[1].start()
        assert not is_synced.wait(0.2)
        may_end.set()
        for thread in threads:
            thread.join()
        copy_as_crashed(tmp_path / "heap", tmp_path / "killed")
        with Heap.open(tmp_path / "killed") as killed:
            assert bytes(killed.view(block, 636)) == b"z" * 636


def test_a_sync_in_a_transaction_with_a_snapshot_does_not_wait_for_itself(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="power") as heap:
        block = heap.malloc(100)
        with heap.transaction() as tx:
            tx.snapshot(block, 10)
            heap.sync()
            heap.view(block)[:10] = b"0123456789"
        with heap.transaction() as tx:
            tx.malloc(10)
            heap.sync()
        assert bytes(heap.view(block, 10)) == b"0123456789"


def test_a_finalizer_in_the_middle_of_a_sync_is_refused(tmp_path: Path) -> None:
    """It would wait for its own thread."""
    with Heap.create(tmp_path / "heap", durability="power") as heap:
        block = heap.malloc(100)

        def finalize() -> None:
            with heap.transaction() as tx, pytest.raises(UsageError, match="the middle of a sync"):
                tx.write(block, b"x")
            heap.sync()

        without_snapshots(heap._space, finalize)
        with heap.transaction() as tx:
            tx.write(block, b"y")
