"""A writer that lets readers in edits in place as long as nobody reads, and no longer."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from reader_world import DURABILITIES, Reader

import pmemheap
from pmemheap import (
    DurabilityError,
    Heap,
    HeapBusyError,
    SnapshotGoneError,
    Transaction,
    UsageError,
    native,
)
from pmemheap.containers import SortedMap
from pmemheap.file import locks, takingover
from pmemheap.heap import readers
from pmemheap.heap.space import space_of
from pmemheap.native.gate import ReaderGate
from pmemheap.units import GRANULE

VALUE = "SortedMap(snap, 'table')[b'k']"
WRITER = """
import sys
import pmemheap
from pmemheap.containers import SortedMap
heap = pmemheap.open(sys.argv[1], "w", readers=True)
SortedMap(heap, "table")[b"k"] = b"edited"
print("edited", flush=True)
sys.stdin.readline()
"""
PAUSE = 11 * locks.LEASE
"""Seconds after which a writer that has found somebody looks again."""


@pytest.fixture(params=DURABILITIES)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """A writer that lets readers in, of a map with one leaf."""
    with Heap.create(tmp_path / "a.heap", durability=request.param, readers=True) as made:
        SortedMap(made, "table")[b"k"] = b"first"
        yield made


@pytest.fixture
def table(heap: Heap) -> SortedMap:
    """The map, which keeps its heap open."""
    return SortedMap(heap, "table")


def edits(table: SortedMap, value: bytes = b"later") -> bool:
    """Tell whether a change leaves the leaf where it is."""
    before = table._header()[0]
    table[b"k"] = value
    return bool(table._header()[0] == before)


def gate(heap: Heap) -> int:
    file = space_of(heap).shared.writable
    assert file is not None
    return file.header.word("gate")


def path_of(heap: Heap) -> Path:
    return Path(heap.name)


# ---------------------------------------------------------------- nobody reads


def test_leaves_stay_where_they_are_while_nobody_reads(heap: Heap, table: SortedMap) -> None:
    assert edits(table)
    assert gate(heap) == ReaderGate.WAIT
    time.sleep(2 * locks.LEASE)
    assert edits(table)
    with heap.transaction():
        assert edits(table, b"within one")
        assert gate(heap) == ReaderGate.SHUT
    assert gate(heap) == ReaderGate.WAIT
    assert heap.check()


def test_a_transaction_that_ends_otherwise_opens_the_gate(heap: Heap, table: SortedMap) -> None:
    tx = heap.transaction()
    table[b"k"] = b"never"
    tx.abort()
    assert gate(heap) == ReaderGate.WAIT
    with heap.transaction(durable=False):
        table[b"k"] = b"lazy"
    assert gate(heap) == ReaderGate.WAIT
    with heap.transaction(), heap.transaction():
        table[b"k"] = b"nested"
    assert gate(heap) == ReaderGate.WAIT
    with pytest.raises(ValueError, match="key"):
        table[b"x" * 5000] = b"too long"
    assert gate(heap) == ReaderGate.WAIT
    assert table[b"k"] == b"nested"


def test_a_copy_of_a_header_is_as_the_header(heap: Heap, table: SortedMap) -> None:
    """Roots name copies for readers: edits in place leave none behind."""
    for number in range(100):
        table[b"%d" % number] = b"v" * number
        if number % 3 == 0:
            del table[b"%d" % (number // 3)]
    with Reader(path_of(heap)) as reader:
        assert reader("dict(SortedMap(snap, 'table').items())") == dict(table.items())


def test_a_lazy_commit_of_new_blocks_alone_leaves_the_gate_open(heap: Heap) -> None:
    """Nobody waits for a sync that nobody asks for."""
    made = SortedMap(heap, "new")
    with heap.transaction(durable=False):
        made[b"k"] = b"v"
    assert gate(heap) in {ReaderGate.WAIT, ReaderGate.MAY}
    with heap.read() as snap:
        assert SortedMap(snap, "table")[b"k"] == b"first"


def test_a_copy_that_somebody_has_freed_is_made_anew(heap: Heap, table: SortedMap) -> None:
    with heap.read() as snap:
        copy = snap.place("table")
    assert copy is not None
    time.sleep(PAUSE)
    assert edits(table)
    heap.free(copy)
    table[b"k"] = b"after"
    with heap.read() as snap:
        assert SortedMap(snap, "table")[b"k"] == b"after"


# ---------------------------------------------------------------- somebody reads


def test_a_reader_that_comes_sees_what_was_there(heap: Heap, table: SortedMap) -> None:
    assert edits(table, b"before")
    with Reader(path_of(heap)) as reader:
        assert not edits(table, b"after")
        assert gate(heap) in {ReaderGate.MAY, ReaderGate.LATE}
        assert reader(VALUE) == b"before"
        assert reader("snap.refresh(), " + VALUE) == (True, b"after")
        time.sleep(PAUSE)
        assert not edits(table, b"and later")
        assert reader(VALUE) == b"after"


def test_a_reader_waits_by_the_clock_of_the_writer(
    heap: Heap, table: SortedMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    table[b"k"] = b"edited"
    moves_at = time.monotonic() + 0.1
    monkeypatch.setattr(native, "late_clock", lambda: 7.0 + (time.monotonic() > moves_at))
    with Heap.open(path_of(heap), readonly=True) as reader, reader.read() as snap:
        assert time.monotonic() > moves_at
        assert SortedMap(snap, "table")[b"k"] == b"edited"


def test_edits_go_on_when_the_last_reader_has_gone(heap: Heap, table: SortedMap) -> None:
    reader = Reader(path_of(heap))
    with reader:
        assert not edits(table)
    time.sleep(PAUSE)
    assert edits(table)


def test_a_reader_waits_for_a_transaction_that_edits(heap: Heap, table: SortedMap) -> None:
    path = path_of(heap)
    with ThreadPoolExecutor(1) as pool:
        with heap.transaction():
            table[b"k"] = b"half"
            with pytest.raises(HeapBusyError, match="that edits in place"):
                Heap.open(path, readonly=True, timeout=0.1)
            made = pool.submit(Heap.open, path, readonly=True, timeout=20)
            time.sleep(0.1)
            assert not made.done()
        with made.result() as reader, reader.read() as snap:
            assert SortedMap(snap, "table")[b"k"] == b"half"
            assert not edits(table)


def test_what_was_sent_and_let_go_is_gone_after_an_edit(heap: Heap, table: SortedMap) -> None:
    block = heap.alloc(100)
    heap.roots["block"] = block.offset
    with heap.share(block.view) as shared:
        sent = pickle.dumps(shared)
        again = pickle.loads(sent)
        again.close()
    time.sleep(PAUSE)
    assert edits(table)
    late = pickle.loads(sent)
    with pytest.raises(SnapshotGoneError):
        bytes(late.view)
    late.close()


# ---------------------------------------------------------------- this process reads


def test_a_snapshot_of_the_writer_ends_edits(heap: Heap, table: SortedMap) -> None:
    assert edits(table, b"before")
    with heap.read() as snap:
        assert not edits(table, b"after")
        assert SortedMap(snap, "table")[b"k"] == b"before"
        view = SortedMap(snap, "table").view(b"k")
    assert not edits(table, b"later")
    assert bytes(view) == b"before"
    view.release()
    del view
    time.sleep(PAUSE)
    assert edits(table)


def test_a_snapshot_within_a_transaction_that_edits_is_refused(
    heap: Heap, table: SortedMap
) -> None:
    with heap.transaction():
        table[b"k"] = b"half"
        with pytest.raises(UsageError, match="edited in place"):
            heap.read()
        with pytest.raises(UsageError, match="edited in place"):
            pickle.dumps(heap.share(heap.alloc(10).view))
    with heap.read() as snap:
        assert SortedMap(snap, "table")[b"k"] == b"half"


def test_a_snapshot_waits_for_a_transaction_of_another_thread(heap: Heap, table: SortedMap) -> None:
    has_edited, may_end = threading.Event(), threading.Event()

    def change() -> None:
        with heap.transaction():
            table[b"k"] = b"half"
            has_edited.set()
            assert may_end.wait(20)
            table[b"k"] = b"whole"

    with ThreadPoolExecutor(2) as pool:
        changed = pool.submit(change)
        assert has_edited.wait(20)
        begun = pool.submit(heap.read)
        time.sleep(0.05)
        assert not begun.done()
        may_end.set()
        changed.result()
        with begun.result() as snap:
            assert SortedMap(snap, "table")[b"k"] == b"whole"


def test_a_snapshot_comes_to_its_turn_beside_a_thread_that_never_rests(
    heap: Heap, table: SortedMap
) -> None:
    """A power heap lets the interpreter go only while it syncs, and then the gate is shut."""
    must_end = threading.Event()

    def change() -> None:
        while not must_end.is_set():
            table[b"k"] = b"again"

    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(change)
        try:
            for _ in range(3):
                with heap.read() as snap:
                    assert SortedMap(snap, "table")[b"k"] in {b"first", b"again"}
                time.sleep(PAUSE)
        finally:
            must_end.set()
        changed.result()


def test_a_snapshot_after_a_failed_sync_shows_what_is_home(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "a.heap", durability="power", readers=True)
    table = SortedMap(heap, "table")
    table[b"k"] = b"first"
    assert edits(table, b"second")
    with pytest.raises(DurabilityError), native.faults(1, errno.EIO, native.FaultKind.FROM):
        table[b"k"] = b"third"
    with heap.read() as snap:
        assert SortedMap(snap, "table")[b"k"] == b"second"
    with suppress(DurabilityError):
        heap.close()


def test_a_snapshot_does_not_wait_for_ever_for_a_thread_that_has_gone(
    heap: Heap, table: SortedMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PATIENCE", 0.1)
    left: list[Transaction] = []

    def leave() -> None:
        left.append(heap.transaction())
        table[b"k"] = b"half"

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    with pytest.raises(HeapBusyError, match="one of another thread has edited in place"):
        heap.read()
    left.clear()
    with heap.read() as snap:
        assert SortedMap(snap, "table")[b"k"] == b"first"


# ---------------------------------------------------------------- bare frees


@pytest.fixture
def process_heap(tmp_path: Path) -> Iterator[Heap]:
    with Heap.create(tmp_path / "a.heap", durability="process", readers=True) as made:
        yield made


def tagged(heap: Heap) -> int:
    """Bytes that wait for readers."""
    log = space_of(heap).shared.log
    nbytes, _, _ = log._tagged()
    return int(nbytes)


def filled_word(heap: Heap) -> list[int]:
    """Return the blocks of one word of a new run, in the order in which its class offers them."""
    return list(heap.malloc_many(64, 16))


def test_a_block_that_nobody_reads_is_offered_again(process_heap: Heap) -> None:
    """It comes back behind the others of its word: after a look, which finds nobody."""
    blocks = filled_word(process_heap)
    process_heap.free(blocks[3])
    process_heap.free(blocks[5])
    assert process_heap.check()
    assert {process_heap.malloc(64), process_heap.malloc(64)} == {blocks[3], blocks[5]}
    assert tagged(process_heap) == 0


def test_a_block_that_somebody_reads_is_not_offered(process_heap: Heap) -> None:
    blocks = filled_word(process_heap)
    with process_heap.read():
        process_heap.free(blocks[3])
        assert process_heap.check()
        assert blocks[3] not in process_heap.malloc_many(64, 1000)
        assert tagged(process_heap) == 64
        assert process_heap.check()
    process_heap.trim()
    assert blocks[3] in process_heap.malloc_many(64, 1000)


def test_a_block_that_was_freed_before_a_reader_came_waits_for_it(process_heap: Heap) -> None:
    """There was no look between: the writer cannot know which was first."""
    blocks = filled_word(process_heap)
    process_heap.free(blocks[3])
    with Reader(path_of(process_heap)):
        assert blocks[3] not in process_heap.malloc_many(64, 1000)
        assert process_heap.check()
    process_heap.trim()
    assert blocks[3] in process_heap.malloc_many(64, 1000)


@pytest.mark.parametrize("reads", [False, True])
def test_a_run_whose_last_block_was_freed_goes(process_heap: Heap, reads: bool) -> None:
    before = process_heap.stats().mapped
    blocks = filled_word(process_heap)
    with process_heap.read() if reads else nullcontext():
        for block in blocks:
            process_heap.free(block)
        process_heap.trim()
        assert process_heap.check()
        assert process_heap.stats().blocks == 0
    process_heap.trim()
    assert process_heap.stats().mapped == before
    with pytest.raises(UsageError):
        process_heap.free(blocks[0])


def test_a_word_moves_back_though_blocks_of_it_wait(process_heap: Heap) -> None:
    blocks = process_heap.malloc_many(64, 20)
    process_heap.free(blocks[18])
    process_heap.free(blocks[2])
    assert process_heap.check()
    assert list(process_heap.malloc_many(64, 2)) == [blocks[2], blocks[18]]


def test_a_bit_that_others_set_again_is_no_block_to_offer(process_heap: Heap) -> None:
    """The file of a heap is shared: somebody may write to its tables."""
    blocks = filled_word(process_heap)
    process_heap.free(blocks[3])
    slot = space_of(process_heap).region.pieces[0].slot
    assert slot is not None
    word, bit = divmod(blocks[3] // GRANULE, 64)
    with open(process_heap.name, "r+b", buffering=0) as file:
        was = os.pread(file.fileno(), 8, slot.bits_off + word * 8)
        now = int.from_bytes(was, "little") | 1 << bit
        os.pwrite(file.fileno(), now.to_bytes(8, "little"), slot.bits_off + word * 8)
    made = process_heap.malloc_many(64, 1000)
    assert blocks[3] not in made
    assert len({*made}) == 1000


def test_a_batch_is_freed_under_one_lease(process_heap: Heap) -> None:
    blocks = process_heap.malloc_many(64, 1024)
    process_heap.free_many(blocks)
    assert gate(process_heap) == ReaderGate.WAIT
    assert tagged(process_heap) == 0
    assert {*process_heap.malloc_many(64, 1024)} == {*blocks}
    with process_heap.read():
        process_heap.free_many(blocks)
        assert tagged(process_heap) == 64 * 1024
    assert process_heap.check()


# ---------------------------------------------------------------- ends


def test_a_reader_goes_on_when_a_writer_closes_that_has_not_seen_it(
    heap: Heap, table: SortedMap
) -> None:
    path = path_of(heap)
    assert edits(table, b"before")
    with Reader(path) as reader:
        heap.close()
        assert reader(VALUE) == b"before"
        with pmemheap.open(path, "w", readers=True) as again:
            assert not edits(SortedMap(again, "table"), b"after")
            assert reader(VALUE) == b"before"
            assert reader("news(snap), " + VALUE) == (True, b"after")


def test_a_new_writer_comes_when_the_killed_one_had_not_seen_a_reader(
    heap: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of a power heap has older images of what the snapshot shows: it has to go first."""
    monkeypatch.setattr(takingover, "PATIENCE", 0.1)
    path, is_power = path_of(heap), heap.durability == "power"
    heap.close()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout is not None
    assert writer.stdout.readline() == "edited\n"
    with Reader(path) as reader:
        assert reader(VALUE) == b"edited"
        writer.kill()
        writer.communicate()
        if is_power:
            with pytest.raises(HeapBusyError, match="no snapshot in other processes expected"):
                pmemheap.open(path, "w", readers=True)
            reader("snap.close()")
        with pmemheap.open(path, "w", readers=True) as again:
            SortedMap(again, "table")[b"k"] = b"after"
            if not is_power:
                assert reader(VALUE) == b"edited"
            assert SortedMap(again, "table")[b"k"] == b"after"
            assert again.check()


def test_a_checkpoint_ends_what_a_replay_would_bring_back(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "a.heap", durability="power", readers=True) as heap:
        table = SortedMap(heap, "table")
        table[b"k"] = b"first"
        assert edits(table, b"second")
        with heap.read():
            assert gate(heap) == ReaderGate.LATE
            redo = space_of(heap).shared.redo
            assert redo is not None
            space_of(heap).serve(redo.checkpoint)
            assert gate(heap) == ReaderGate.MAY
