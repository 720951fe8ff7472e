"""A new writer beside readers that were there before it: after a close, a kill, or none at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from reader_world import DURABILITIES, Reader

import pmemheap
from pmemheap import Heap, HeapBusyError, layout
from pmemheap.containers import SortedMap
from pmemheap.file import locks, takingover
from pmemheap.file.headerfile import Header
from pmemheap.heap.space import space_of
from pmemheap.kvstore import KVStore
from pmemheap.native.gate import ReaderGate
from pmemheap.testing import copy_as_crashed
from pmemheap.units import UNIT

VALUE = "SortedMap(snap, 'table')[b'k']"
ON = "news(snap), " + VALUE
KILLED = """
import os, signal, sys
import pmemheap
from pmemheap.containers import SortedMap
heap = pmemheap.open(sys.argv[1], "w", readers=True)
table = SortedMap(heap, "table")
for number in range(50):
    table[b"k"] = b"%d" % number
    table[b"%d" % number] = bytes(900)
print(flush=True)
sys.stdin.readline()
with heap.transaction() as tx:
    table[b"k"] = b"never"
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=DURABILITIES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store of one map, which was closed."""
    path = tmp_path / "a.heap"
    with Heap.create(path, durability=request.param) as heap:
        SortedMap(heap, "table")[b"k"] = b"before"
    return path


@contextmanager
def written(path: Path) -> Iterator[SortedMap]:
    """Open it to be changed, beside readers."""
    with pmemheap.open(path, "w", readers=True) as heap:
        yield SortedMap(heap, "table")
        assert heap.check()


@contextmanager
def beside(call: Callable[[], Heap]) -> Iterator[Future[Heap]]:
    """Do a call in another thread, since it waits for readers."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


def opened(path: Path) -> Heap:
    return pmemheap.open(path, "w", readers=True)


def header_of(heap: Heap) -> Header:
    file = space_of(heap).shared.writable
    assert file is not None
    return file.header


def test_a_reader_goes_on_to_the_next_writer(path: Path) -> None:
    with written(path) as table:
        reader = Reader(path)
        assert reader(VALUE) == b"before"
        table[b"k"] = b"first"
        assert reader(ON) == (True, b"first")
    with reader, beside(lambda: opened(path)) as made:
        assert reader(ON) == (True, b"first")
        with made.result() as heap:
            table = SortedMap(heap, "table")
            table[b"k"] = b"second"
            assert reader(ON) == (True, b"second")
            heap.malloc(8 << 20)  # its layout is followed too
            table[b"k"] = b"third"
            assert reader(ON)[1] == b"third"


def test_a_reader_without_snapshots_keeps_nobody_waiting(path: Path) -> None:
    with written(path):
        reader = Reader(path)
        assert reader(VALUE) == b"before"
    with reader:
        reader("snap.close()")
        with mock.patch.object(takingover, "PATIENCE", 0.0), written(path) as table:
            table[b"k"] = b"after"
            assert reader("[snap := heap.read()] and " + VALUE) == b"after"
            reader("snap.close()")


SHOWN = "sorted(SortedMap(snap, 'table').items())"
ENDS = """
import os, signal, sys
import pmemheap
from pmemheap.containers import SortedMap
heap = pmemheap.open(sys.argv[1], "w", readers=True)
heap.roots["block"] = heap.malloc(200_000)
table = SortedMap(heap, "table")
for number in range(300):
    table[b"%03d" % number] = b"a" * (30 * number % 1000)
print(flush=True)
sys.stdin.readline()
for number in range(300):
    table[b"%03d" % number] = b"b" * number
for number in range(10, 200):
    del table[b"%03d" % number]
with heap.transaction() as tx:
    tx.free(heap.roots["block"])
    tx.roots["block"] = tx.malloc(10)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
heap.close()
"""


@contextmanager
def shown_from_before(path: Path, end: str) -> Iterator[tuple[Reader, list[tuple[bytes, bytes]]]]:
    """A reader with a snapshot of what its writer has freed since, and what that shows."""
    writer = subprocess.Popen(
        [sys.executable, "-c", ENDS, str(path), end],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout is not None
    writer.stdout.readline()
    with Reader(path) as reader:
        shown = reader(SHOWN)
        assert None is reader(
            "[block := snap.view(snap.roots['block'], 200_000), "
            "item := SortedMap(snap, 'table').view(b'031')] and None"
        )
        writer.communicate("\n")
        assert writer.returncode in {0, -signal.SIGKILL}
        yield reader, shown


def churn(table: SortedMap) -> None:
    """Use whatever a heap thinks is free: small blocks, nodes, large ones."""
    heap = table.heap
    blocks = [heap.malloc(size) for size in range(16, 3000, 16) for _ in range(20)]
    blocks += [heap.malloc(100_000) for _ in range(20)]
    for offset in blocks:
        heap.view(offset)[:] = b"c" * heap.usable_size(offset)
    for number in range(600):
        table[b"more%03d" % number] = b"d" * (number % 700)
    for offset in blocks:
        heap.free(offset)
    heap.trim()
    assert heap.check()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["closed", "killed"])
def test_what_is_shown_from_before_stays(path: Path, end: str) -> None:
    """The next writer, and the one after it, use nothing of it until it is let go."""
    with shown_from_before(path, end) as (reader, shown):
        for _ in range(2):
            with written(path) as table:
                assert {key for key, _ in shown} - set(table)
                churn(table)
                assert reader(SHOWN) == shown
                assert reader("set(block[:])") == {0}
                assert reader("bytes(item)") == b"a" * 930
                table.compact()
                churn(table)
                table.heap.trim()
                assert reader(SHOWN) == shown
        with written(path) as table:
            before = path.stat().st_blocks
            reader("[snap.refresh(), block.release(), item.release()] and None")
            churn(table)  # what was free before is used from now on, and given back
            assert path.stat().st_blocks < before / 2
            growths = table.heap.stats().growths
            for _ in range(3):
                churn(table)
            assert table.heap.stats().growths <= growths + 1
            assert reader("snap.refresh(), len(SortedMap(snap, 'table'))")[1] == len(table)


def test_who_fails_before_it_lets_readers_in_leaves_what_is_shown(path: Path) -> None:
    """The writer after it has to know that snapshots have copies of what roots name."""
    with shown_from_before(path, "killed") as (reader, shown):
        with (
            mock.patch("pmemheap.heap.readers.admit", side_effect=MemoryError),
            pytest.raises(MemoryError),
        ):
            opened(path)
        with written(path) as table:
            churn(table)
            assert reader(SHOWN) == shown


@pytest.mark.parametrize("kept", ["view", "snapshot"])
def test_who_keeps_a_snapshot_keeps_nobody_out(path: Path, kept: str) -> None:
    with written(path) as table:
        reader = Reader(path)
        assert reader(VALUE) == b"before"
        table[b"k"] = b"freed"
    with reader:
        if kept == "view":
            reader("[view := SortedMap(snap, 'table').view(b'k'), snap.close()] and None")
        with written(path) as table:
            table[b"k"] = b"after"
            assert [each.pid for each in table.heap.readers()] == [reader.pid]
            assert reader("bytes(view)" if kept == "view" else VALUE) == b"before"
            assert reader("[snap := heap.read()] and " + VALUE) == b"after"


def test_a_snapshot_of_a_file_that_had_no_readers_keeps_the_writer_out(path: Path) -> None:
    """It shows what roots name itself, which a writer changes in place."""
    with Reader(path, follows=True) as reader:
        assert reader(VALUE) == b"before"
        named = f"no snapshot in other processes expected .* process {reader.pid} has kept one"
        with (
            mock.patch.object(takingover, "PATIENCE", 0.05),
            pytest.raises(HeapBusyError, match=named),
        ):
            opened(path)
        # The file is as it was: the reader goes on, and so does another one.
        assert reader("[snap := heap.read()] and " + VALUE) == b"before"
        with Reader(path, follows=True) as other:
            assert other(VALUE) == b"before"
            assert other("snap.refresh()") is False
        reader("snap.close()")
        with written(path) as table:
            table[b"k"] = b"after"


def test_a_writer_that_lets_no_readers_in_is_refused(path: Path) -> None:
    with written(path):
        reader = Reader(path)
        assert reader("snap.close()") is None
    with reader:
        with pytest.raises(HeapBusyError, match="no reader expected"):
            pmemheap.open(path, "w")
        with pytest.raises(HeapBusyError, match="no reader expected"):
            Heap.create(path, replace=True)


@pytest.mark.slow
def test_a_killed_writer_is_followed_by_the_next_one(path: Path) -> None:
    """What it has committed is there, of the transaction that it died in is nothing."""
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert writer.stdout is not None
        assert writer.stdin is not None
        writer.stdout.readline()
        with Reader(path) as reader:
            assert reader(VALUE) == b"49"
            writer.communicate("\n")
            assert writer.returncode == -signal.SIGKILL
            assert reader(VALUE) == b"49"
            with pytest.raises(HeapBusyError, match="a writer expected that recovers it"):
                pmemheap.open(path, "r", readers=True)
            with beside(lambda: opened(path)) as made:
                assert reader(ON)[1] == b"49"
                with made.result() as heap:
                    table = SortedMap(heap, "table")
                    assert heap.check()
                    assert len(table) == 51
                    table[b"k"] = b"after"
                    assert reader(ON)[1] == b"after"


def test_a_writer_without_readers_ends_what_a_killed_one_has_left(path: Path) -> None:
    with opened(path) as heap:
        header = header_of(heap)
        for name in "commit_seq", "layout_seq":
            header.store_word(name, header.word(name) + 1)  # as a kill leaves them
        copy_as_crashed(path, path.with_suffix(".killed"))
        for name in "commit_seq", "layout_seq":
            header.store_word(name, header.word(name) + 1)
    with pmemheap.open(path.with_suffix(".killed"), "w") as heap:
        heap.roots["more"] = heap.malloc(8)
    with Reader(path.with_suffix(".killed"), follows=True) as reader:
        assert reader(VALUE) == b"before"
        assert reader("sorted(snap.roots)") == ["more", "table"]


def test_a_reader_may_come_before_the_writer(path: Path) -> None:
    with Reader(path, follows=True) as reader:
        assert reader(VALUE) == b"before"
        assert reader("heap.follows") is True
        with beside(lambda: opened(path)) as made:
            assert reader(ON)[1] == b"before"
            with made.result() as heap:
                SortedMap(heap, "table")[b"k"] = b"after"
                assert reader(ON)[1] == b"after"


def test_a_reader_waits_for_a_writer_that_is_opening(path: Path) -> None:
    """Who is opening a heap has the writer's lock for a while before it lets readers in."""
    with written(path) as table:
        header = header_of(table.heap)
        header.store_word("gate", ReaderGate.NONE)
        with pytest.raises(HeapBusyError, match="no writer expected"):
            Heap.open(path, readonly=True, timeout=0)
        with beside(lambda: Heap.open(path, readonly=True, timeout=20)) as made:
            time.sleep(0.05)
            assert not made.done()
            assert not locks.has_readers(table.heap.fileno())
            header.store_word("gate", ReaderGate.MAY)
            with made.result() as reader, reader.read() as snap:
                assert SortedMap(snap, "table")[b"k"] == b"before"


def test_a_writer_of_shared_memory_is_followed_by_the_next_one() -> None:
    """Its descriptor outlives it: a parent that started it has one, and so have its readers."""
    with Heap.shared(readers=True) as heap:
        fd = os.dup(heap.fileno())
        SortedMap(heap, "table")[b"k"] = b"before"
    with Heap.attach(fd, readonly=False, readers=True) as heap:
        reader = Heap.attach(fd)
        with reader.read() as snap:
            SortedMap(heap, "table")[b"k"] = b"after"
            heap.close()
            with Heap.attach(fd, readonly=False, readers=True) as again:
                assert SortedMap(again, "table")[b"k"] == b"after"
                assert SortedMap(snap, "table")[b"k"] == b"before"
                SortedMap(again, "table")[b"k"] = b"last"
                assert snap.refresh()
                assert SortedMap(snap, "table")[b"k"] == b"last"
                assert again.check()
        reader.close()
    os.close(fd)


def test_takeovers_beside_a_snapshot_grow_the_file_by_what_they_need(path: Path) -> None:
    """It is not a share of the file each time, of which the next writer could use nothing."""
    with written(path) as table:
        kept = Heap.open(path, readonly=True)
        snap = kept.read()
        table[b"k"] = b"after"
    sizes = []
    for _ in range(40):
        with written(path) as table:
            table[b"k"] = b"again"
        sizes.append(path.stat().st_size)
    steps = {after - before for before, after in pairwise(sizes)}
    assert max(steps) <= 2 * layout.SEGMENT_UNITS * UNIT
    assert SortedMap(snap, "table")[b"k"] == b"before"
    with written(path) as table:
        assert table.heap.stats().quarantined > 30 * layout.SEGMENT_UNITS * UNIT
        snap.close()
        table.heap.trim()
        assert table.heap.stats().quarantined == 0
    kept.close()


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_store_goes_on_to_the_next_writer(
    tmp_path: Path, durability: pmemheap.DurabilityName
) -> None:
    path = tmp_path / "a.kv"
    with KVStore(path, durability, readers=True) as store:
        store.sub("names")[b"k"] = store[b"k"] = b"1"
        reader = Reader(path, store=True)
        assert reader("[sub := store.sub('names'), commit := store.read()] and sub[b'k']") == b"1"
    with reader, ThreadPoolExecutor(1) as pool:
        made = pool.submit(lambda: KVStore(path, durability, readers=True))
        assert reader("commit.close()") is None
        assert reader("news(store), store[b'k'], sub[b'k']") == (True, b"1", b"1")
        with made.result() as store:
            store.sub("names")[b"k"] = b"2"
            assert reader("store.refresh(), sub[b'k'], store[b'k']") == (True, b"2", b"1")


def test_an_interrupt_while_it_waits_leaves_the_file_as_it_was(path: Path) -> None:
    with written(path):
        reader = Reader(path)
        assert reader(VALUE) == b"before"
    with reader:
        with (
            mock.patch("pmemheap.file.takingover.time.sleep", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            opened(path)
        assert reader("snap.refresh()") is False
        assert reader("[snap := heap.read()] and " + VALUE) == b"before"


def test_what_an_opening_leaves_odd_is_made_even(path: Path) -> None:
    """A writer was killed in the middle of a commit, or while it took over."""
    with written(path) as table:
        header = header_of(table.heap)
        place = {name: header.word(name) for name in ("commit_seq", "layout_seq")}
    with Reader(path, follows=True) as reader:
        reader("snap.close()")
        with opened(path) as heap:
            header = header_of(heap)
            for name, before in place.items():
                assert header.word(name) > before
                assert header.word(name) % 2 == 0
