"""Python code in the middle of a call: finalizers and signal handlers do what they may.

Up to Python 3.11 the garbage collector runs when an object is made, also by C; later versions run
it between two steps of Python code. A test that needs it inside of C holds without that as well.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pmemheap import DurabilityName, Heap, UsageError
from pmemheap.containers import SortedMap
from pmemheap.file import snapshotting
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.redo import RedoLog
from pmemheap.format import records
from pmemheap.format.records import OperationType
from pmemheap.heap.upkeep import make_log_ready


class Finalized:
    """Garbage in a circle, which calls something when the collector finds it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.me = self
        self.call = call

    def __del__(self) -> None:
        self.call()


@contextmanager
def garbage(call: Callable[[], object], after: int = 1) -> Iterator[None]:
    """Let the collector find garbage when so many objects were made, while the block runs."""
    before = gc.get_threshold()
    gc.collect()
    gc.disable()
    Finalized(call)
    gc.set_threshold(after, 1, 1)
    gc.enable()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.collect()


@contextmanager
def signal_at(event: str, function: str, handler: Callable[[], object]) -> Iterator[list[int]]:
    """Let a signal come when a function of that name is called, or returns, for the first time."""
    came: list[int] = []

    def profile(frame: Any, found: str, argument: object) -> None:
        of_c = getattr(argument, "__name__", "") if found == "c_call" else None
        if found == event and function in {of_c, frame.f_code.co_name} and not came:
            came.append(1)
            sys.setprofile(None)
            signal.raise_signal(signal.SIGUSR1)

    old = signal.signal(signal.SIGUSR1, lambda *_: handler())
    sys.setprofile(profile)
    try:
        yield came
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGUSR1, old)


def run_in_thread(work: Callable[[], object]) -> None:
    """Let another thread do something, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_an_iterator_may_reach_its_end_in_the_middle_of_its_next() -> None:
    with Heap.anonymous() as heap:
        with heap.transaction():
            made = SortedMap(heap, "map")  # the first look after it asks Python whether it is there
            made.update((b"%d" % number, b"") for number in range(5))
        keys = iter(made)
        taken: list[bytes] = []
        with signal_at("call", "_is_committed", lambda: taken.extend(keys)) as came:
            taken.extend(keys)
        assert came
        assert sorted(taken) == [b"%d" % number for number in range(5)]
        assert not list(keys)


def test_a_finalizer_may_allocate_in_a_transaction_that_commits(tmp_path: Path) -> None:
    """More blocks than a record carries: the commit lists them."""
    with Heap.create(tmp_path / "heap", durability="power", decay=None) as heap:
        tx = heap.transaction()
        offsets = [tx.malloc(16) for _ in range(10_000)]

        def allocate() -> None:
            if tx.is_open:
                offsets.extend(tx.malloc(16) for _ in range(20_000))

        with garbage(allocate, after=700):
            tx.commit()
        assert len(offsets) in {10_000, 30_000}
        assert sorted(offset for offset, _ in heap.blocks()) == sorted(offsets)
        assert heap.check()


def test_a_finalizer_may_free_while_give_back_lists_the_pool() -> None:
    with Heap.anonymous(decay=None) as heap:
        blocks = [heap.malloc(4096) for _ in range(12_000)]
        for one in blocks[::2]:
            heap.free(one)
        rest = blocks[1::2]
        heap._space.core.next_interval()
        heap._space.core.next_interval()
        expected = heap._space.core.old_parts(None)
        assert len(expected) > 1000

        def free() -> None:
            while rest:
                heap.free(rest.pop())
            rest_of_it.extend(heap.malloc(4096 * n) for n in (60, 50, 40, 3, 1) for _ in range(20))

        rest_of_it: list[int] = []
        old_parts = heap._space.core.old_parts  # found before: that makes an object as well
        with garbage(free):
            listed = old_parts(None)
        assert listed == expected
        assert rest_of_it
        assert len(set(rest_of_it)) == len(rest_of_it)
        assert heap.check()


@pytest.mark.parametrize("nbytes", [30_000, 150_000])
def test_what_joins_a_commit_late_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    """DATA FIRST: a record says FRESH of no byte that came after the sync of the fresh blocks."""
    with Heap.create(tmp_path / "heap", durability="power", decay=None) as heap:
        synced: list[tuple[int, int]] = []
        sync = FileMedium.sync_memory

        def noted(medium: FileMedium, address: int, length: int, during: str) -> None:
            start = address - heap._space.region.base("data")
            synced.append((start, start + length))
            sync(medium, address, length, during)

        monkeypatch.setattr(FileMedium, "sync_memory", noted)
        late: list[int] = []

        def join() -> None:
            block = heap.alloc(nbytes)
            block.view[:] = b"L" * nbytes
            late.append(block.offset)

        tx = heap.transaction(durable=True)
        early = tx.alloc(200_000)
        early.view[:] = b"E" * 200_000
        with signal_at("return", "_sync_ranges", join):
            tx.commit()
        assert synced
        assert late
        assert any(start <= late[0] and late[0] + nbytes <= stop for start, stop in synced) or any(
            operation.type == OperationType.WRITE and operation.off == late[0]
            for operation in operations_of(heap)
        )


def operations_of(heap: Heap) -> list[Any]:
    assert isinstance(heap._space.shared.medium, FileMedium)
    block = heap._space.shared.medium.header.superblock
    with open(heap.name, "rb") as file:
        file.seek(block.log_off)
        log = file.read(block.log_size)
    return [each for record in records.survivors(log, block.log_size) for each in record.ops]


def test_another_thread_may_change_a_map_in_the_middle_of_a_change() -> None:
    """The first look at a map that was opened in a transaction asks Python: others go on then."""
    with Heap.anonymous() as heap:
        with heap.transaction():
            made = SortedMap(heap, "map")

        def other() -> None:
            thread = threading.Thread(target=made.__setitem__, args=(b"b", b"2"))
            thread.start()
            thread.join()

        with heap.transaction():
            with signal_at("call", "_is_committed", other) as came:
                made[b"a"] = b"1"
            made[b"c"] = b"3"
            assert came
            assert made.get(b"a") == b"1"
        assert list(made) == [b"a", b"b", b"c"]
        made.check()


def test_a_block_of_a_savepoint_that_a_handler_aborts_is_not_stored_to() -> None:
    with Heap.anonymous() as heap:
        old = heap.malloc(64)
        others: list[int] = []
        with heap.transaction() as tx:
            tx.write(old, b"A" * 64)
            point = heap.transaction()

            def abort() -> None:
                point.abort()
                others.append(heap.malloc(200))
                heap.view(others[0])[:] = bytes(heap.usable_size(others[0]))

            with (
                signal_at("c_call", "_carry", abort),
                pytest.raises(UsageError, match="realloc: offset of a live block expected"),
            ):
                point.realloc(old, 200)
        assert not any(heap.view(others[0]))
        assert bytes(heap.view(old)) == b"A" * 64


def test_a_value_has_one_length_while_it_is_put() -> None:
    with Heap.anonymous() as heap:
        made = SortedMap(heap, "map")
        value = bytearray(b"v" * 300_000)
        with (
            signal_at("call", "_retried", lambda: value.extend(b"more")),
            pytest.raises(BufferError),
            heap.transaction(),
        ):
            made[b"key"] = value
        assert not made
        made[b"key"] = value
        assert made[b"key"] == value
        made.check()


def test_a_map_stays_in_the_heap_that_it_was_made_for() -> None:
    """Another thread may be at work in that one."""
    with Heap.anonymous() as heap, Heap.anonymous() as other:
        made = SortedMap(heap, "map")
        made[b"key"] = b"value"
        with pytest.raises(TypeError, match="the heap that it was made for expected"):
            made.__init__(other, "map")  # type: ignore[misc]
        assert "map" not in other.roots or not SortedMap(other, "map")


def test_a_source_may_overlap_what_is_written() -> None:
    with Heap.anonymous() as heap, heap.transaction() as tx:
        offset = tx.malloc(200)
        view = heap.view(offset, 200)
        view[:] = bytes(range(200))
        tx.write(offset + 3, view[:190])
        assert bytes(view) == bytes(range(3)) + bytes(range(190)) + bytes(range(193, 200))
        view.release()


def test_a_root_that_leads_into_an_arena_is_no_damaged_map() -> None:
    with Heap.anonymous() as heap:
        heap.roots["map"] = heap.arena("arena").malloc(64)
        with pytest.raises(UsageError, match="leads to a SortedMap expected"):
            SortedMap(heap, "map")


def test_a_view_that_another_thread_takes_during_a_sync_keeps_the_file_in_use(
    tmp_path: Path,
) -> None:
    """Nobody notices what is stored through it, so the file must not say that it is closed."""
    views: list[memoryview] = []
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        offset = heap.malloc(100)
        with signal_at(
            "c_call",
            "become",
            lambda: run_in_thread(lambda: views.append(heap.view(offset))),
        ):
            heap.sync()
        assert isinstance(heap._space.shared.medium, FileMedium)
        assert len(views) == 1
        assert not heap._space.shared.medium.is_clean
        views.clear()
        heap.sync()
        assert heap._space.shared.medium.is_clean


def test_a_sync_between_two_steps_of_a_beginning_transaction_does_not_matter(
    tmp_path: Path,
) -> None:
    """It says in the file that nothing goes on, which is so until the transaction is there."""
    with Heap.create(tmp_path / "heap", durability="process", decay=None) as heap:
        heap.malloc(100)
        with signal_at("c_call", "outer", lambda: run_in_thread(heap.sync)) as came:
            made = SortedMap(heap, "map")
        assert came
        made[b"key"] = b"value"
        assert isinstance(heap._space.shared.medium, FileMedium)
        assert not heap._space.shared.medium.is_clean


def test_a_transaction_that_is_dropped_with_an_open_savepoint_ends() -> None:
    with Heap.anonymous() as heap:
        tx = heap.transaction()
        inner = heap.transaction()
        inner.malloc(100)
        del tx, inner
        assert heap.stats().blocks == 0
        heap.transaction().commit()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_finalizer_may_free_during_a_snapshot(
    durability: DurabilityName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log takes no record meanwhile: it moved to a larger one, again and again."""
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        freed, kept = heap.malloc(100), heap.malloc(100)
        heap.roots["kept"] = kept
        copy, waiting = snapshotting.copy_heap_file, [freed]

        def free_and_copy(*args: Any, **options: Any) -> None:
            while waiting:
                heap.free(waiting.pop())
            copy(*args, **options)

        monkeypatch.setattr("pmemheap.heap.copying.copy_heap_file", free_and_copy)
        log_bytes, file_bytes = log_of(heap).size, heap.stats().file_bytes
        heap.snapshot(tmp_path / "copy")
        assert not waiting
        assert (log_of(heap).size, heap.stats().file_bytes) == (log_bytes, file_bytes)
        assert heap.check()
        assert [offset for offset, _ in heap.blocks()] == [kept]
    for name in ("heap", "copy"):
        with Heap.open(tmp_path / name) as found:
            assert found.check()
            assert found.usable_size(found.roots["kept"]) == 112


def test_a_finalizer_may_free_while_an_interrupted_move_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is frozen then, as in the middle of a snapshot."""
    with Heap.create(tmp_path / "heap", durability="power") as heap:
        freed = [heap.malloc(100)]
        log, medium = log_of(heap), heap._space.shared.medium
        assert isinstance(medium, FileMedium)
        monkeypatch.setattr(medium.logs, "map_next", Interrupting())
        with pytest.raises(KeyboardInterrupt):
            heap._space.serve(log.move, 2 * log.size)
        monkeypatch.undo()
        reread = medium.header.reread

        def free_and_read() -> None:
            while freed:
                heap.free(freed.pop())
            reread()

        monkeypatch.setattr(medium.header, "reread", free_and_read)
        heap.malloc(300_000)
        assert not freed
        assert heap.check()
    with Heap.open(tmp_path / "heap") as heap:
        assert heap.check()
        assert heap.stats().blocks == 1


class Interrupting:
    def __call__(self, *_: object) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_that_a_finalizer_puts_out_leaves_the_log_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python prints what a finalizer raises, and goes on; nobody else hears of it."""
    with Heap.create(tmp_path / "heap", durability="power") as heap:
        monkeypatch.setattr(log_of(heap), "checkpoint_if_due", Interrupting())

        def finalize() -> None:
            with suppress(KeyboardInterrupt):
                make_log_ready(heap._space)

        heap._space.serve(finalize)
        monkeypatch.undo()
        assert heap._space.shared.medium.in_doubt
        assert heap.usable_size(heap.malloc(300_000)) >= 300_000
        assert not heap._space.shared.medium.in_doubt
        assert heap.check()


def log_of(heap: Heap) -> RedoLog:
    log = heap._space.shared.redo
    assert log is not None
    return log


class Interrupt(BaseException):
    """What a signal handler raises."""


def interrupt() -> None:
    raise Interrupt


@pytest.mark.parametrize(
    "name", ["malloc", "free", "free_many", "malloc_many", "realloc", "expand", "view", "map", "tx"]
)
def test_an_interrupt_of_a_call_that_marks_the_heap_as_in_use_is_seen(
    name: str, tmp_path: Path
) -> None:
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        offset = heap.malloc(100)
        table = SortedMap(heap, "map")
        table[b"key"] = b"value"
        calls: dict[str, Callable[[], object]] = {
            "malloc": lambda: heap.malloc(10),
            "free": lambda: heap.free(offset),
            "free_many": lambda: heap.free_many([offset]),
            "malloc_many": lambda: heap.malloc_many(10, 3),
            "realloc": lambda: heap.realloc(offset, 5000),
            "expand": lambda: heap.expand(offset, 110),
            "view": lambda: heap.view(offset),
            "map": lambda: table.update({b"key": b"other"}),
            "tx": lambda: heap.transaction().abort(),
        }
        heap.sync()
        before = heap.stats().blocks
        with signal_at("call", "mark_in_use", interrupt) as came, pytest.raises(Interrupt):
            calls[name]()
        assert came
        assert heap.stats().blocks == before
        assert table[b"key"] == b"value"
        calls[name]()
        assert heap.check()
