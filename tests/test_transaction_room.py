"""Transactions that are larger than the log they meet: it makes room for them, or grows."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pmemheap import DurabilityName, Heap, OutOfSpaceError
from pmemheap.file import openfile
from pmemheap.heap.making import over_file
from pmemheap.layout import Durability


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_commit_of_many_roots_finds_a_larger_log(
    tmp_path: Path, durability: DurabilityName
) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability=durability) as heap:
        log = heap._space.shared.redo
        assert log is not None
        before = log.size
        with heap.transaction() as tx:
            tx.roots.update({str(number): tx.malloc(100) for number in range(1000)})
        assert log.size > before
        assert heap.check()
    with Heap.open(path) as heap:
        assert len(heap.roots) == 1000


def test_room_is_made_for_what_was_refused_not_for_what_was_guessed(tmp_path: Path) -> None:
    """The UNDO of few bytes, and the commit that it keeps room for, are longer than the bytes."""
    path = tmp_path / "heap"
    medium = openfile.create(path, Durability.POWER, limit=None, replace_file=False, log_bytes=4096)
    heap = over_file(Heap, medium, 1 << 30, None, fresh=True)
    medium.link_name(replace_file=False)
    with heap:
        block, log = heap.malloc(64), heap._space.shared.redo
        assert log is not None
        for _ in range(100):
            tail, _, _, head, _, _ = log.positions()
            if log.size - (head - tail) < 128 + 128:
                break
            log._change(struct.pack("<BBHIQ8x", 1, 2, 0, 8, 0xFFF8), 1, medium.file_end)
        with heap.transaction() as tx:
            tx.snapshot(block, 4)
        assert heap.check()


@contextmanager
def held_by_a_snapshot(heap: Heap, offset: int) -> Iterator[None]:
    """Let another thread have a snapshot open, of 50 bytes at an offset and of 10 further on."""
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        with heap.transaction() as tx:
            tx.snapshot(offset, 50)
            tx.snapshot(offset + 70, 10)
            begun.set()
            done.wait()
            tx.abort()

    thread = threading.Thread(target=hold, name="holder")
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_snapshot_that_keeps_the_log_is_named(tmp_path: Path, durability: DurabilityName) -> None:
    def commit() -> None:
        with heap.transaction() as tx:
            tx.free(tx.malloc(60_000))
            tx.malloc(1000)

    def until_refused(call: Callable[[], object]) -> None:
        while True:
            call()

    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        held = heap.roots["held"] = heap.malloc(100)
        told = f"of 50 bytes at offset {held:#x}, and 1 more, of the transaction that thread"
        calls: list[Callable[[], object]] = [
            commit, lambda: heap.malloc(2 << 20), lambda: heap.roots.update(a=held),
            lambda: heap.arena(f"a{len(heap.arenas())}"),
        ]  # fmt: skip
        with held_by_a_snapshot(heap, held):
            for call in calls:
                with pytest.raises(OutOfSpaceError) as refused:
                    until_refused(call)
                assert f"{told} 'holder' has open: end it first" in str(refused.value)
                assert "could have" not in str(refused.value), "a larger log is of no use"
        for call in calls:
            call()
        assert heap.check()


def test_an_own_snapshot_keeps_the_log_as_it_is(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        block = heap.malloc(1 << 20)
        tx = heap.transaction()
        tx.snapshot(block, 50)
        tx.write(block + 64, bytes(1 << 19))
        with pytest.raises(OutOfSpaceError, match="of the transaction that this thread has open"):
            tx.commit()
        with heap.transaction() as tx:
            tx.write(block + 64, bytes(1 << 19))


@pytest.mark.slow
def test_more_single_frees_than_a_record_has_operations_go_in_several(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="power", decay=None) as heap:
        large, log = heap.malloc(12 << 20), heap._space.shared.redo
        assert log is not None
        with heap.transaction() as tx:
            tx.write(large, bytes(12 << 20))
        assert log.size // 96 > 1 << 16, "as many would fit by their bytes"
        offsets = list(heap.malloc_many(16, 200_000))
        heap.free_many(offsets[::2])
        heap.free_many([*offsets[1::2], large])
        assert heap.check()
    with Heap.open(path) as heap:
        assert not list(heap.blocks())
        assert heap.check()
