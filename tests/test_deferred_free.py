"""A free in spite of views is a free: at once for every call, for good after a crash.

Only the space waits, in this process, for the last view; in a power heap also for its record.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from heap_world import answer, named, python

from pmemheap import Block, Heap, UsageError
from pmemheap.testing import copy_as_crashed
from pmemheap.units import UNIT, KiB, MiB

KINDS = ["anonymous", "shared", "process", "power"]
SIZES = [100, 3000, UNIT, 40 * KiB, 5 * MiB]


def make(kind: str, path: Path) -> Heap:
    if kind == "anonymous":
        return Heap.anonymous(decay=None)
    if kind == "shared":
        return Heap.shared(decay=None)
    return Heap.create(path, durability=named(kind), decay=None)


@pytest.fixture(params=KINDS)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    with make(request.param, tmp_path / "data.heap") as made:
        yield made
        assert made.check(), made.check().findings


def bare(heap: Heap, offset: int) -> None:
    heap.free(offset, deferred=True)


def by_handle(heap: Heap, offset: int) -> None:
    heap.block(offset).free(deferred=True)


def in_transaction(heap: Heap, offset: int) -> None:
    with heap.transaction() as tx:
        tx.free(offset, deferred=True)


def by_handle_in_transaction(heap: Heap, offset: int) -> None:
    with heap.transaction() as tx, heap.transaction():
        tx.free(heap.block(offset), True)


WAYS: dict[str, Callable[[Heap, int], None]] = {
    "bare": bare,
    "by handle": by_handle,
    "in a transaction": in_transaction,
    "by handle in a transaction": by_handle_in_transaction,
}


def spaces(heap: Heap, where: str) -> Heap:
    """Return the heap, or an arena of it, which has the same calls."""
    return heap if where == "heap" else heap.arena("other")  # type: ignore[return-value]


# ---------------------------------------------------------------- at the call


@pytest.mark.parametrize("where", ["heap", "arena"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_the_block_is_gone_at_the_call(heap: Heap, size: int, way: str, where: str) -> None:
    space = spaces(heap, where)
    kept, offset = space.malloc(size), space.malloc(size)
    usable, view = heap.usable_size(offset), heap.view(offset)
    view[:] = b"v" * usable
    before = heap.stats()
    WAYS[way](heap, offset)
    after = heap.stats()
    assert [at for at, _ in heap.blocks()] == [kept]
    assert (after.blocks, after.quarantined) == (before.blocks - 1, usable)
    assert after.allocated == before.allocated - usable
    assert heap.check(), heap.check().findings
    for call in (
        lambda: heap.free(offset),
        lambda: heap.free(offset, deferred=True),
        lambda: space.free_many([kept, offset]),
        lambda: heap.usable_size(offset),
        lambda: heap.view(offset),
        lambda: heap.realloc(offset, 10),
        lambda: heap.expand(offset, 10),
        lambda: heap.block(offset),
    ):
        with pytest.raises(UsageError, match="freed; it is kept until"):
            call()
    assert bytes(view) == b"v" * usable
    view.release()


@pytest.mark.parametrize("size", SIZES)
def test_nobody_else_gets_the_space_before_the_last_view_goes(heap: Heap, size: int) -> None:
    offset = heap.malloc(size)
    usable, view = heap.usable_size(offset), heap.view(offset)
    part = view[usable // 2 :]
    heap.free(offset, deferred=True)
    view.release()
    part[:] = b"p" * len(part)
    taken = [heap.malloc(size) for _ in range(20)]
    assert all(at + usable <= offset or offset + usable <= at for at in taken)
    for at in taken:
        heap.view(at)[:] = b"t" * heap.usable_size(at)
    heap.trim()
    assert bytes(part) == b"p" * len(part)
    part.release()
    heap.sync()
    assert heap.stats().quarantined == 0
    heap.free_many(taken)
    heap.sync()
    heap.trim()
    assert heap.stats().free == heap._space.region.nunits * UNIT


def test_a_handle_is_stale_when_its_block_was_freed_in_spite_of_a_view(heap: Heap) -> None:
    block = heap.alloc(100)
    with block.view:
        block.free(deferred=True)
        assert not block.is_live
        with pytest.raises(UsageError):
            block.free(deferred=True)


def test_a_power_heap_waits_for_the_record_and_for_the_view(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "data.heap") as heap:
        for record_first in (False, True):
            offset = heap.malloc(100)
            view = heap.view(offset)
            heap.free(offset, deferred=True)
            for step in (heap.sync, view.release)[:: 1 if record_first else -1]:
                assert heap.stats().quarantined == heap.usable_size(heap.malloc(100))
                step()
            assert heap.stats().quarantined == 0


# ---------------------------------------------------------------- in a transaction


def test_views_refuse_a_free_in_a_transaction_that_is_not_deferred(heap: Heap) -> None:
    offset = heap.malloc(100)
    with heap.view(offset), heap.transaction() as tx:
        with pytest.raises(BufferError, match="1 live view"):
            tx.free(offset)
        with pytest.raises(BufferError, match="1 live view"):
            tx.free(offset, deferred=False)
        tx.free(offset, deferred=True)
        with pytest.raises(UsageError, match="has not freed"):
            tx.free(offset, deferred=True)
    assert not list(heap.blocks())


def test_an_abort_keeps_a_block_that_was_to_be_freed_in_spite_of_views(heap: Heap) -> None:
    offset = heap.malloc(100)
    with heap.view(offset) as view:
        tx = heap.transaction()
        tx.free(offset, deferred=True)
        tx.abort()
        with heap.transaction() as tx:
            inner = heap.transaction()
            inner.free(offset, deferred=True)
            inner.abort()
        view[:3] = b"abc"
    assert bytes(heap.view(offset, 3)) == b"abc"
    heap.free(offset)


def test_a_view_that_is_taken_before_the_commit_keeps_its_bytes(heap: Heap) -> None:
    offset = heap.malloc(100)
    heap.view(offset)[:] = b"v" * 112
    tx = heap.transaction()
    tx.free(offset)
    view = heap.view(offset)
    tx.commit()
    heap.sync()
    taken = [heap.malloc(100) for _ in range(50)]
    for at in taken:
        heap.view(at)[:] = b"t" * 112
    assert bytes(view) == b"v" * 112
    view.release()


# ---------------------------------------------------------------- for good


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("view_lives", [False, True])
@pytest.mark.parametrize("kind", ["process", "power"])
def test_a_killed_process_leaves_the_block_freed(
    tmp_path: Path, kind: str, view_lives: bool, way: str
) -> None:
    heap = make(kind, tmp_path / "data.heap")
    offsets = [heap.malloc(size) for size in (*SIZES, 100)]
    views = [heap.view(offset) for offset in offsets[:-1]]
    for offset in offsets[:-1]:
        WAYS[way](heap, offset)
    if not view_lives:
        views.clear()
    copy_as_crashed(heap.name, tmp_path / "killed.heap")
    with Heap.open(tmp_path / "killed.heap") as killed:
        assert [at for at, _ in killed.blocks()] == offsets[-1:]
        assert killed.check(), killed.check().findings
    views.clear()
    heap.close()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["exit", "kill", "drop"])
@pytest.mark.parametrize("kind", ["process", "power"])
def test_the_end_of_a_program_leaves_the_block_freed(tmp_path: Path, kind: str, end: str) -> None:
    path = tmp_path / "data.heap"
    program = python(
        "import os, signal, sys, pmemheap\n"
        "path, kind, end = sys.argv[1:]\n"
        "heap = pmemheap.Heap.create(path, durability=kind)\n"
        "offset = heap.malloc(5 << 20); view = heap.view(offset); view[:3] = b'abc'\n"
        "heap.free(offset, deferred=True)\n"
        "if end == 'drop': del heap; view[:3] = b'def'\n"
        "if end == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n",
        path, kind, end,
    )  # fmt: skip
    if end == "kill":
        program.communicate(timeout=60)
        assert program.returncode == -signal.SIGKILL
    else:
        answer(program)
    with Heap.open(path) as heap:
        assert not list(heap.blocks())
        assert heap.check(), heap.check().findings
        assert heap.stats().free == heap._space.region.nunits * UNIT


def test_a_block_that_waits_for_a_view_does_not_come_back_by_a_growth_or_a_trim(
    heap: Heap, tmp_path: Path
) -> None:
    offset = heap.malloc(5 * MiB)
    view = heap.view(offset)
    view[:] = b"v" * len(view)
    heap.free(offset, deferred=True)
    other = heap.malloc(20 * MiB)
    heap.trim()
    heap.free(other)
    heap.trim()
    assert bytes(view[-9:]) == b"v" * 9
    view.release()
    heap.trim()
    assert heap.stats().free == heap._space.region.nunits * UNIT


def test_a_forked_child_that_lets_a_view_go_changes_nothing(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "data.heap", durability="process")
    offset = heap.malloc(100)
    view = heap.view(offset)
    heap.free(offset, deferred=True)
    child = os.fork()
    if not child:
        view.release()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert heap.stats().quarantined
    view.release()
    assert not heap.stats().quarantined
    heap.close()


def test_a_handle_of_a_deferred_block_drops_in_peace(heap: Heap) -> None:
    blocks: list[Block] = [heap.alloc(100) for _ in range(10)]
    views = [block.view for block in blocks]
    for block in blocks:
        block.free(deferred=True)
    blocks.clear()
    views.clear()
    heap.sync()
    assert heap.stats().quarantined == 0
