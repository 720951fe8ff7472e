"""Processes that really die by SIGKILL, at any change of a file, at any time: nothing is lost."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from kill_load import Rounds
from kill_script import SMALL_LOG, Kills, emptied, log_of, made, reopened

from pmemheap import Heap
from pmemheap.file.filemedium import FileMedium
from pmemheap.layout import LOG_BYTES
from pmemheap.testing import kill_at
from pmemheap.units import KiB, MiB

pytestmark = pytest.mark.slow

PLACES = ["disk-process", "disk-power", "memory-process"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Where a heap file lies, and what it promises."""
    medium, durability = request.param.split("-")
    if medium == "disk":
        yield tmp_path / "heap", durability
    else:
        with TemporaryDirectory(dir="/dev/shm") as directory:
            yield Path(directory) / "heap", durability


def needed(counts: Counter[str], *names: str) -> None:
    assert not [name for name in names if not counts[name]], counts


@pytest.mark.parametrize(("log_bytes", "stride"), [(LOG_BYTES, 61), (SMALL_LOG, 123)])
def test_killed_before_a_change_of_the_file(
    place: tuple[Path, str], log_bytes: int, stride: int
) -> None:
    """The script dies at every n-th change; all of them are `kill_load.py --every`."""
    kills = Kills(*place, log_bytes)
    step = 1 + stride // 2
    while kills.at(step):
        step += stride
    needed(kills.counts, "kills", "changes that had returned")


def test_killed_at_any_time(place: tuple[Path, str]) -> None:
    rounds = Rounds(*place, seed=1)
    rounds.run(20, most=180)  # a slow machine meets less in as many
    rounds.require()


# ---------------------------------------------------------------- found by these tests


def dying(path: Path, program: Callable[[Heap], object]) -> None:
    """Let a child do something with a heap, and end without closing it."""

    def run() -> None:
        heap = reopened(path)
        program(heap)
        os._exit(0)

    assert not kill_at(1 << 40, path, run)


def test_stores_through_views_are_kept_by_sync(place: tuple[Path, str]) -> None:
    path, durability = place
    made(path, durability).close()

    def program(heap: Heap) -> None:
        with heap.transaction() as tx:
            block = tx.alloc(1000)
            block.view[:] = b"a" * 1000
            tx.roots["block"] = block.offset
        block.view[:] = b"b" * 1000
        heap.sync()

    dying(path, program)
    with reopened(path) as heap:
        assert bytes(heap.view(heap.roots["block"], 1000)) == b"b" * 1000


def test_trim_cuts_the_file_behind_a_large_log(place: tuple[Path, str]) -> None:
    path, durability = place
    made(path, durability).close()
    size = path.stat().st_size
    with reopened(path) as heap:
        offset = heap.malloc(3 * MiB)
        heap._space.serve(log_of(heap).move, 512 * KiB)
        heap.free(offset)
        heap.trim()
    assert path.stat().st_size == size


def test_a_large_block_that_was_half_withdrawn_is_free(tmp_path: Path) -> None:
    """A process heap stores two words: a kill between them leaves the number of bytes behind."""
    path = tmp_path / "heap"
    made(path, "process").close()
    image = path.read_bytes()

    def program() -> None:
        heap = reopened(path)
        heap.free(heap.malloc(50 * KiB))
        os._exit(0)

    found = []
    for step in range(1, 40):
        path.write_bytes(image)
        if not kill_at(step, path, program):
            break
        with reopened(path) as heap:
            assert heap.check(), str(heap.check())
            found += [size for _, size in heap.blocks()]
        assert emptied(path) == len(image)
    assert found == [52 * KiB]


def test_a_transaction_opens_the_arenas_of_its_blocks(place: tuple[Path, str]) -> None:
    path, durability = place
    with made(path, durability) as heap:
        offsets = [heap.arena(name).malloc(100) for name in "abc"]
    for act in ("free", "write", "snapshot"):
        with reopened(path) as heap:
            place_of = offsets.pop()
            with heap.transaction() as tx:
                if act == "free":
                    tx.free(place_of)
                elif act == "write":
                    tx.write(place_of, b"hello")
                else:
                    tx.snapshot(place_of, 5)
                    heap.view(place_of, 5)[:] = b"hello"
            if act == "free":
                assert place_of not in dict(heap.blocks())
            else:
                assert bytes(heap.view(place_of, 5)) == b"hello"


def test_a_log_does_not_move_while_a_snapshot_needs_it(place: tuple[Path, str]) -> None:
    """A snapshot may be made by another thread after somebody has looked for one."""
    path, durability = place
    made(path, durability).close()

    def program(heap: Heap) -> None:
        with heap.transaction() as tx:
            block = tx.alloc(1000)
            block.view[:] = b"a" * 1000
            tx.roots["block"] = block.offset
        log = log_of(heap)
        tx = heap.transaction()
        tx.snapshot(block.offset, 1000)
        block.view[:] = b"b" * 1000
        assert not log.move(512 * KiB)
        log.checkpoint()

    dying(path, program)
    with reopened(path) as heap:
        assert bytes(heap.view(heap.roots["block"], 1000)) == b"a" * 1000


def test_a_block_moves_beside_the_snapshot_of_another_thread(place: tuple[Path, str]) -> None:
    """What the record of the move would say of its bytes needs no larger log."""
    path, durability = place
    with made(path, durability) as heap:
        kept, moving = heap.malloc(100), heap.malloc(100)
        begun, over = threading.Event(), threading.Event()

        def hold() -> None:
            with heap.transaction() as tx:
                tx.snapshot(kept, 100)
                begun.set()
                over.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        begun.wait()
        try:
            assert heap.usable_size(heap.realloc(moving, 63_932)) >= 63_932
        finally:
            over.set()
            thread.join()


def test_a_change_wakes_a_heap_that_another_thread_has_synced(tmp_path: Path) -> None:
    """The sync may come after the change has looked, and before it has the lock."""
    with made(tmp_path / "heap", "process") as heap:

        def change() -> None:
            assert isinstance(heap._space.shared.medium, FileMedium)
            heap._space.shared.mark_closed(
                heap._space.shared.medium, heap._space.shared.medium.identity
            )
            heap._space.require(write=True)

        heap._space.serve(change)
        heap.malloc(10)
        assert heap.check(), str(heap.check())
