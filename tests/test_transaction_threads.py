"""Transactions of several threads: shared syncs, one writer at a time, no lost update."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pmemheap import Heap

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
        before = heap._log._counters()[2]

        def work(number: int) -> None:
            for _ in range(TURNS):
                with heap.transaction() as tx:
                    tx.malloc(16 + 16 * number)

        together(work)
        syncs = heap._log._counters()[2] - before
        assert len(dict(heap.blocks())) == THREADS * TURNS
        assert 0 < syncs < THREADS * TURNS
        assert heap.check()


@pytest.mark.parametrize("way", ["write", "snapshot"])
@pytest.mark.parametrize("kind", ["anonymous", "process", "power"])
def test_no_update_is_lost(tmp_path: Path, kind: str, way: str) -> None:
    path = tmp_path / "data.heap"
    heap = Heap.anonymous() if kind == "anonymous" else Heap.create(path, durability=kind)
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
