"""Record by example: what is written, when, and what becomes of it where that cannot be."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pmemheap import Count, Heap, OutOfSpaceError, Record, UsageError, native, traces
from pmemheap.containers import SortedMap
from pmemheap.native import FaultKind
from pmemheap.native.constants import Event as Kind
from pmemheap.traces import ALLOCATE, FREE, RESIZE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace"


def kinds(path: Path) -> list[Kind]:
    return [event.kind for event in traces.read_events(path)]


def live_of(path: Path) -> dict[int, int]:
    """Return the blocks that live at the end of a trace, by offset; no code shared with it."""
    live: dict[int, int] = {}
    for event in traces.read_events(path):
        if event.kind == Kind.MADE:
            live[event.offset] = event.size
        elif event.kind == Kind.FREED:
            live.pop(event.offset, None)
        elif event.kind == Kind.RESIZED:
            live[event.offset] = event.size
        elif event.kind == Kind.MOVED:
            live[event.to] = event.size
        else:
            live = {at: size for at, size in live.items() if at >> 55 != event.arena}
    return live


# ---------------------------------------------------------------- what is written


def test_events_are_what_became_of_blocks(path: Path, heap: Heap) -> None:
    with heap.install(Record(path)) as record:
        first, second = heap.malloc(100), heap.malloc(50)
        heap.free(first)
    assert record.events == 3
    made, other, freed = traces.read_events(path)
    assert made[:4] == (Kind.MADE, first, 0, 100)
    assert other[:4] == (Kind.MADE, second, 0, 50)
    assert freed[:4] == (Kind.FREED, first, 0, 0)
    assert made.time <= other.time <= freed.time < 60_000_000
    assert (made.thread, made.arena) == (0, 0)


def test_a_trace_is_what_a_program_did(path: Path, heap: Heap) -> None:
    before = heap.malloc(10)
    with heap.install(Record(path)):
        first = heap.malloc(100)
        heap.free(before)
        grown = heap.realloc(first, 5000)
        heap.realloc(heap.malloc(8), 12)
        heap.free(grown)
    trace = traces.load(path)
    assert trace.name == "run"
    assert trace.operations == (
        (ALLOCATE, 0, 100),
        (RESIZE, 0, 5000),
        (ALLOCATE, 1, 8),
        (RESIZE, 1, 12),
        (FREE, 0, 0),
    )
    assert (trace.blocks, trace.peak_live_bytes, trace.live_at_end) == (2, 5012, (1,))


def test_sites_are_where_the_program_calls(path: Path, memory: Heap) -> None:
    with memory.install(Record(path)):
        offsets = [memory.malloc(100) for _ in range(3)]
        large = memory.malloc(2 << 20)  # by Python
        memory.free(large)
        ours = SortedMap(memory, "map")
        ours[b"key"] = bytes(2000)
        memory.free_many(offsets)
    line = test_sites_are_where_the_program_calls.__code__.co_firstlineno
    found = {event.site for event in traces.read_events(path)}
    assert found <= {f"{__file__}:{line + each}" for each in range(2, 8)}
    assert {f"{__file__}:{line + 2}", f"{__file__}:{line + 3}", f"{__file__}:{line + 7}"} <= found


def test_sites_can_be_left_out(path: Path, memory: Heap) -> None:
    with memory.install(Record(path, sites=False)):
        memory.malloc(100)
    assert next(traces.read_events(path)).site is None
    assert __file__.encode() not in path.read_bytes()


def test_a_site_of_any_name_is_read_again(path: Path, memory: Heap) -> None:
    names = ["a b.py", "ä\udc80.py", "%41.py", "x" * 3000 + ".py", "=,\t\n"]
    with memory.install(Record(path)):
        for name in names:
            exec(compile("heap.malloc(100)", name, "exec"), {"heap": memory})
    trace = traces.load(path)
    sites = [origin.site for origin in trace.origins]
    assert sites[0] == "a b.py:1"
    assert sites[1] == "ä\\udc80.py:1"
    assert sites[2] == "%41.py:1"
    assert sites[3] is not None
    assert sites[3].endswith("xxx.py:1")
    traces.save(trace, path.with_suffix(".text"))
    assert traces.load(path.with_suffix(".text")).origins == trace.origins


def test_code_that_is_gone_lends_its_place_to_nobody(path: Path, memory: Heap) -> None:
    with memory.install(Record(path)):
        for number in range(100):
            exec(compile("heap.malloc(100)", f"file{number}", "exec"), {"heap": memory})
    found = [event.site for event in traces.read_events(path)]
    assert found == [f"file{number}:1" for number in range(100)]


def test_threads_and_arenas_have_numbers(path: Path, memory: Heap) -> None:
    arena = memory.arena("other")
    with memory.install(Record(path)):
        here = memory.malloc(100)
        thread = threading.Thread(target=lambda: arena.malloc(200))
        thread.start()
        thread.join()
        memory.free(here)
    found = [(event.thread, event.arena) for event in traces.read_events(path)]
    assert found == [(0, 0), (1, 1), (0, 0)]
    assert arena.closed is False
    assert set(live_of(path)) == {at for at, _ in arena.blocks()}


def test_the_layer_of_an_arena_records_that_arena(path: Path, memory: Heap) -> None:
    arena = memory.arena("mine")
    with arena.install(Record(path)):
        memory.malloc(100)
        mine = arena.malloc(100)
    assert [event.offset for event in traces.read_events(path)] == [mine]


def test_a_dropped_arena_ends_its_blocks(path: Path, heap: Heap) -> None:
    with heap.install(Record(path)):
        arena = heap.arena("gone")
        for size in (100, 100_000):
            arena.malloc(size)
        kept = heap.malloc(100)
        arena.drop()
    assert live_of(path) == {kept: 100}
    assert len(traces.load(path).live_at_end) == 1


def test_batches_and_transactions_are_recorded(path: Path, heap: Heap) -> None:
    with heap.install(Record(path)):
        offsets = heap.malloc_many(40, 100).tolist()
        heap.free_many(offsets[::2])
        with heap.transaction() as tx:
            tx.free(offsets[1])
            tx.roots["root"] = tx.malloc(30_000)
        assert live_of_now(path, heap) == {at for at, _ in heap.blocks()}


def test_what_goes_with_a_region_is_recorded(path: Path, memory: Heap) -> None:
    memory.free_many([memory.malloc(60_000) for _ in range(12)])  # so that the pool has room
    with memory.install(Record(path)):
        region = native.RegionCore(memory)
        kept = [region.malloc(size) for size in (32, 4000, 20_000)]
        mark = region._mark()
        for size in (32, 4000, 20_000) * 5:
            assert region.malloc(size) > 0
        memory.free(region.malloc(100))
        assert region._rewind(*mark) == 0
        assert live_of_now(path, memory) == {at for at, _ in memory.blocks()} == set(kept)
        region._drop()
        assert live_of_now(path, memory) == {at for at, _ in memory.blocks()} == set()


def live_of_now(path: Path, heap: Heap) -> set[int]:
    (record,) = heap.layers
    assert isinstance(record, Record)
    record.flush()
    return set(live_of(path))


def test_an_aborted_transaction_leaves_nothing(path: Path, heap: Heap) -> None:
    class AbortError(Exception):
        pass

    with heap.install(Record(path)), suppress(AbortError), heap.transaction() as tx:
        tx.malloc(100)
        raise AbortError
    assert kinds(path) == []


def test_a_refused_call_leaves_nothing(path: Path, memory: Heap) -> None:
    offset = memory.malloc(100)
    with memory.install(Record(path)), memory.view(offset):
        for refused in (
            lambda: memory.free(offset + 16),
            lambda: memory.free(offset),
            lambda: memory.realloc(offset, 5000),
            lambda: memory.malloc(0),
            lambda: memory.malloc(1 << 60),
        ):
            with pytest.raises((UsageError, BufferError, OutOfSpaceError)):
                refused()
    assert kinds(path) == []


# ---------------------------------------------------------------- on and off


def test_it_may_come_and_go(path: Path, memory: Heap) -> None:
    record = Record(path)
    seen = []
    for on in (True, False, True):
        if on:
            with memory.install(record):
                seen.append(memory.malloc(100))
        else:
            memory.free(seen.pop())
    assert memory.layers == ()
    assert set(live_of(path)) == {at for at, _ in memory.blocks()} == set(seen)
    assert traces.load(path).blocks == 2  # at one offset: the first was freed unseen
    assert len(traces.load(path).live_at_end) == 1


def test_two_records_and_a_count_see_the_same(tmp_path: Path, memory: Heap) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    with (
        memory.install(Record(paths[0])),
        memory.install(Count()) as count,
        memory.install(Record(paths[1])),
    ):
        offsets = [memory.malloc(size) for size in range(1, 200)]
        memory.free(offsets[7])
    assert kinds(paths[0]) == kinds(paths[1])
    assert count.blocks == len(live_of(paths[0])) == 198


def test_it_is_on_one_heap_at_a_time(path: Path, memory: Heap) -> None:
    with (
        memory.install(Record(path)) as record,
        Heap.anonymous() as other,
        pytest.raises(UsageError, match="a layer that is on no heap expected"),
    ):
        other.install(record)


def test_a_closed_record_records_nothing(path: Path, memory: Heap) -> None:
    record = Record(path)
    record.close()
    with memory.install(record):
        memory.malloc(100)
    record.close()
    record.flush()
    assert (record.closed, record.events, kinds(path)) == (True, 0, [])


def test_no_file_is_written_over(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        Record(path)
    assert path.read_text() == "mine"


def test_the_heap_that_closes_writes_it(path: Path) -> None:
    heap = Heap.anonymous()
    heap.install(Record(path))
    heap.malloc(100)
    assert kinds(path) == []
    heap.close()
    assert kinds(path) == [Kind.MADE]


def test_the_heap_that_closes_writes_that_of_an_arena(path: Path) -> None:
    heap = Heap.anonymous()
    arena = heap.arena("mine")
    arena.install(Record(path))
    arena.malloc(100)
    heap.close()
    assert kinds(path) == [Kind.MADE]


def test_one_that_is_dropped_writes_it(path: Path) -> None:
    class Bump:
        def malloc(self, size: int, align: int = 16) -> int:
            return 64

        def free(self, offset: int) -> None:
            raise UsageError("no block")

        def usable_size(self, offset: int) -> int:
            raise UsageError("no block")

    record = Record(path, Bump())
    record.malloc(100)
    del record
    assert kinds(path) == [Kind.MADE]


# ---------------------------------------------------------------- over any allocator


def test_it_wraps_an_allocator(path: Path, memory: Heap) -> None:
    with Record(path, memory) as record:
        kept = record.malloc(100)
        record.free(record.malloc(50))
        moved = record.realloc(record.malloc(60), 30_000)
        assert record.expand(moved, 30_001)
        many = record.malloc_many(16, 3)
        record.free_many(many)
        with pytest.raises(UsageError):
            record.free(12)
        with memory.view(kept), pytest.raises(BufferError):
            record.free(kept)
    assert live_of(path) == {kept: 112, moved: 30_001}
    trace = traces.load(path)
    assert [operation for operation in trace.operations if operation[1] in {0, 2}] == [
        (ALLOCATE, 0, 100),
        (ALLOCATE, 2, 60),
        (RESIZE, 2, 30_000),
        (RESIZE, 2, 30_001),
        (RESIZE, 0, 112),
    ]
    assert {origin.site for origin in trace.origins} != {None}


def test_a_wrapped_heap_is_told_of_as_it_is_called(path: Path, memory: Heap) -> None:
    with Record(path, memory) as record:
        for bad in ("no", None, -1, 1 << 64, 1.5):
            with pytest.raises((UsageError, TypeError)):
                record.free(bad)  # type: ignore[arg-type]
    assert kinds(path) == []


# ---------------------------------------------------------------- what goes wrong


def filled(heap: Heap, count: int = 100) -> list[int]:
    return [heap.malloc(100) for _ in range(count)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_ends_the_trace_and_not_the_program(
    path: Path, memory: Heap, number: int
) -> None:
    with memory.install(Record(path)) as record:
        filled(memory)
        record.flush()
        filled(memory)
        with native.faults(1, number, FaultKind.FROM) as fault:
            record.flush()
        assert fault.hit == native.Call.PWRITE
        assert record.error is not None
        assert (record.error.errno, record.error.filename) == (number, str(path))
        filled(memory)
        record.flush()
    assert kinds(path) == [Kind.MADE] * 100
    assert memory.check()


def test_a_disk_that_gets_full_in_a_frame_leaves_a_part_of_it(path: Path, memory: Heap) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with memory.install(Record(path)) as record:
        filled(memory)
        record.flush()
        filled(memory)
        resource.setrlimit(resource.RLIMIT_FSIZE, (record.nbytes + 50, before[1]))
        try:
            record.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert record.error is not None
        assert record.error.errno == errno.EFBIG
    assert path.stat().st_size == record.nbytes + 50
    assert kinds(path) == [Kind.MADE] * 100


def test_short_writes_are_made_whole(path: Path, memory: Heap) -> None:
    with memory.install(Record(path)) as record:
        filled(memory)
        with native.faults(1, kind=FaultKind.SHORT) as fault:
            record.flush()
        assert fault.hit == native.Call.PWRITE
    assert record.error is None
    assert kinds(path) == [Kind.MADE] * 100


def test_a_killed_process_loses_what_was_not_written(path: Path) -> None:
    program = (
        "import os, signal, sys, pmemheap\n"
        "heap = pmemheap.Heap.anonymous()\n"
        "record = heap.install(pmemheap.Record(sys.argv[1])).layer\n"
        "for _ in range(100): heap.malloc(100)\n"
        "record.flush()\n"
        "for _ in range(100): heap.malloc(100)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert kinds(path) == [Kind.MADE] * 100


def test_the_end_of_a_program_writes_it(path: Path) -> None:
    program = (
        "import sys, pmemheap\n"
        "kept = pmemheap.Heap.anonymous()\n"
        "kept.install(pmemheap.Record(sys.argv[1]))\n"
        "kept.malloc(100)\n"
        "sys.kept = kept\n"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)
    assert kinds(path) == [Kind.MADE]


def test_a_forked_child_writes_nothing(path: Path, memory: Heap) -> None:
    record = Record(path, memory)
    record.malloc(100)
    child = os.fork()
    if child == 0:
        try:
            record._add(Kind.FREED, 64, 0, 0)
            record.close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    record.malloc(100)
    record.close()
    assert kinds(path) == [Kind.MADE] * 2


# ---------------------------------------------------------------- frames


@pytest.mark.slow
def test_full_frames_are_written_by_the_next_call(path: Path, memory: Heap) -> None:
    with memory.install(Record(path, sites=False)) as record:
        offset = 0
        while record.events < 1 << 20:
            offset = memory.malloc(16)
            memory.free(offset)
        written = record.nbytes
        assert written >= 1 << 20
        assert path.stat().st_size == written
    assert record.events == len(kinds(path))


@pytest.mark.slow
def test_threads_write_a_trace_together(path: Path, memory: Heap) -> None:
    kept: list[list[int]] = [[], [], [], []]
    together = threading.Barrier(len(kept))

    def work(mine: list[int]) -> None:
        together.wait()
        for number in range(30_000):
            mine.append(memory.malloc(16 + number % 500))
            if number % 3:
                memory.free(mine.pop(number % len(mine)))

    with memory.install(Record(path)) as record:
        threads = [threading.Thread(target=work, args=(each,)) for each in kept]
        for thread in threads:
            thread.start()
        stop = threading.Event()
        flusher = threading.Thread(target=flush_often, args=(record, stop))
        flusher.start()
        for thread in threads:
            thread.join()
        stop.set()
        flusher.join()
    assert record.error is None
    assert set(live_of(path)) == {offset for each in kept for offset in each}
    assert {event.thread for event in traces.read_events(path)} == {0, 1, 2, 3}


def flush_often(record: Record, stop: threading.Event) -> None:
    while not stop.wait(0.001):
        record.flush()


@pytest.mark.slow
def test_it_comes_and_goes_among_threads(tmp_path: Path, memory: Heap) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            memory.free(memory.malloc(100))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(40):
            record = Record(tmp_path / str(number))
            with memory.install(record):
                pass
            record.close()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for number in range(40):
        traces.load(tmp_path / str(number))
    assert list(memory.blocks()) == []


def test_a_move_is_one_operation_whoever_makes_it(tmp_path: Path, heap: Heap) -> None:
    path = tmp_path / "moves"
    sizes = [10, 500, 5000, 100_000, 3_000_000, 40, 70_000, 9]
    with heap.install(Record(path)):
        offset = heap.malloc(sizes[0])
        for size in sizes[1:]:
            offset = heap.realloc(offset, size)
    trace = traces.load(path)
    assert trace.blocks == 1
    assert trace.live_at_end == (0,)
    assert [size for _, _, size in trace.operations] == sizes


def test_events_are_small(path: Path, memory: Heap) -> None:
    with memory.install(Record(path)) as record:
        offsets = [memory.malloc(1 + number * 37 % 900) for number in range(5000)]
        for offset in sorted(offsets, key=lambda offset: offset * 2654435761 % (1 << 32)):
            memory.free(offset)
    assert record.nbytes / record.events < 6


@pytest.mark.parametrize("bad", [("x", None), (), (0,), (0, None, None)], ids=str)
def test_the_door_refuses_what_it_cannot_use(bad: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        native.RecordCore()._begin(*bad)


def test_a_core_that_was_never_begun_records_nothing() -> None:
    core = native.RecordCore()
    core._add(Kind.MADE, 64, 0, 100)
    core._flush()
    core._stop()
    assert (core.events, core.nbytes, core._error) == (0, 0, 0)
