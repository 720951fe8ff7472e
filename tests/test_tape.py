"""The tape: what changes a file is told, in order; what nobody tells is found."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pmemheap
from pmemheap import native
from pmemheap.errors import UsageError
from pmemheap.native import Advice, Allocate, FaultKind, NativeError, TapeEvent, TapeKind
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.testing import Recorder, kill_at

PAGE = 4096


class Mapped:
    """A memory file of some pages, mapped shared."""

    def __init__(self, pages: int = 4) -> None:
        self.fd = native.memfd_create("tape")
        native.ftruncate(self.fd, pages * PAGE)
        self.reservation = VMReservation(1 << 20)
        self.map = Map.file(self.fd, self.reservation, 0, pages * PAGE)

    def store(self, offset: int, data: bytes) -> None:
        native.store(self.map.address + offset, data)


@pytest.fixture
def mapped() -> Iterator[Mapped]:
    file = Mapped()
    yield file
    os.close(file.fd)


def brief(event: TapeEvent) -> tuple[str, int, int]:
    return event.kind.name, event.offset, event.length


def recorded(recorder: Recorder) -> list[tuple[str, int, int]]:
    return [brief(event) for event in recorder.recording.events]


def test_a_store_is_told_with_its_bytes(mapped: Mapped) -> None:
    with Recorder(mapped.fd) as recorder:
        mapped.store(100, b"hello")
    (event,) = recorder.recording.events
    assert (event.kind, event.offset, event.data) == (TapeKind.STORE, 100, b"hello")
    assert recorder.recording.base == bytes(4 * PAGE)


def test_a_map_made_while_recording_is_known() -> None:
    fd = native.memfd_create("tape")
    native.ftruncate(fd, 2 * PAGE)
    with Recorder(fd) as recorder, VMReservation(1 << 20) as reservation:
        part = Map.file(fd, reservation, 0, PAGE, PAGE)
        native.store(part.address, b"x")
        part.close()
    assert recorded(recorder) == [("STORE", PAGE, 1)]
    os.close(fd)


def test_stores_to_private_maps_and_memory_are_not_told(mapped: Mapped) -> None:
    private = Map.file(mapped.fd, mapped.reservation, 8 * PAGE, PAGE, sharing="private")
    memory = Map.anonymous(mapped.reservation, 16 * PAGE, PAGE)
    with Recorder(mapped.fd) as recorder:
        native.store(private.address, b"x")
        native.store(memory.address, b"x")
        native.msync(memory.address, PAGE)
    assert recorded(recorder) == []


def test_a_store_over_two_maps_is_told_in_two_pieces() -> None:
    fd = native.memfd_create("tape")
    native.ftruncate(fd, 4 * PAGE)
    with Recorder(fd) as recorder, VMReservation(1 << 20) as reservation:
        low = Map.file(fd, reservation, 0, PAGE, 2 * PAGE)
        Map.file(fd, reservation, PAGE, PAGE, 0)
        native.store(low.address + PAGE - 3, b"abcdef")
        native.msync(low.address, 2 * PAGE)
    assert recorded(recorder) == [
        ("STORE", 3 * PAGE - 3, 3),
        ("STORE", 0, 3),
        ("SYNC_RANGE", 2 * PAGE, PAGE),
        ("SYNC_RANGE", 0, PAGE),
    ]
    assert [event.data for event in recorder.recording.events[:2]] == [b"abc", b"def"]
    os.close(fd)


def test_stores_of_a_user_are_found_before_the_next_event(mapped: Mapped) -> None:
    with Recorder(mapped.fd) as recorder:
        mapped.map.view[130] = 1
        mapped.map.view[PAGE + 500 : PAGE + 520] = b"x" * 20
        mapped.store(0, b"y")
        mapped.map.view[0] = 2
    assert recorded(recorder) == [
        ("FOUND", 128, 64),
        ("FOUND", PAGE + 448, 64),
        ("FOUND", PAGE + 512, 64),
        ("STORE", 0, 1),
        ("FOUND", 0, 64),
    ]


def test_stores_through_any_map_are_found(mapped: Mapped) -> None:
    with mmap.mmap(mapped.fd, PAGE) as other, Recorder(mapped.fd) as recorder:
        other[64:66] = b"ab"
    assert recorded(recorder) == [("FOUND", 64, 64)]


def test_system_calls_are_told(mapped: Mapped) -> None:
    fd = mapped.fd
    with Recorder(fd) as recorder:
        native.pwrite(fd, b"abc", 10)
        native.fallocate(fd, 0, 5 * PAGE)
        native.fallocate(fd, PAGE, PAGE, Allocate.PUNCH_HOLE)
        native.msync(mapped.map.address + PAGE, 100)
        native.madvise(mapped.map.address + PAGE, PAGE, Advice.REMOVE)
        native.fdatasync(fd)
        native.fsync(fd)
        native.ftruncate(fd, PAGE)
    assert recorded(recorder) == [
        ("WRITE", 10, 3),
        ("ALLOCATE", 0, 5 * PAGE),
        ("ALLOCATE", PAGE, PAGE),
        ("SYNC_RANGE", PAGE, PAGE),
        ("ALLOCATE", PAGE, PAGE),
        ("SYNC_FILE", 0, 0),
        ("SYNC_FILE", 0, 0),
        ("TRUNCATE", 0, PAGE),
    ]
    modes = [event.detail for event in recorder.recording.events if event.kind == TapeKind.ALLOCATE]
    assert modes == [Allocate.EXTEND, Allocate.PUNCH_HOLE, Allocate.PUNCH_HOLE]


def test_changes_of_the_size_by_others_are_found(mapped: Mapped) -> None:
    with Recorder(mapped.fd) as recorder:
        os.ftruncate(mapped.fd, 5 * PAGE)
        os.pwrite(mapped.fd, b"x", 4 * PAGE)
        mapped.store(0, b"y")
        os.ftruncate(mapped.fd, 3 * PAGE)
    assert recorded(recorder) == [
        ("TRUNCATE", 0, 5 * PAGE),
        ("FOUND", 4 * PAGE, 64),
        ("STORE", 0, 1),
        ("TRUNCATE", 0, 3 * PAGE),
    ]


def test_another_file_is_of_no_interest(mapped: Mapped) -> None:
    other = Mapped()
    with Recorder(mapped.fd) as recorder:
        other.store(0, b"x")
        native.pwrite(other.fd, b"x", 0)
        native.fsync(other.fd)
        native.ftruncate(other.fd, 0)
    assert recorded(recorder) == []
    os.close(other.fd)


def test_a_call_that_fails_is_not_told(mapped: Mapped) -> None:
    with Recorder(mapped.fd) as recorder:
        calls: list[Callable[[], None]] = [
            lambda: native.pwrite(mapped.fd, b"x", 0),
            lambda: native.fsync(mapped.fd),
            lambda: native.msync(mapped.map.address, PAGE),
            lambda: native.ftruncate(mapped.fd, 0),
            lambda: native.fallocate(mapped.fd, 0, PAGE, Allocate.PUNCH_HOLE),
        ]
        for call in calls:
            with native.faults(1, 5), pytest.raises(NativeError):
                call()
        mapped.store(0, b"z")
    assert recorded(recorder) == [("STORE", 0, 1)]


def test_a_short_write_is_told_in_its_pieces(mapped: Mapped) -> None:
    with Recorder(mapped.fd) as recorder, native.faults(1, kind=FaultKind.SHORT):
        native.pwrite(mapped.fd, b"abcdef", 0)
    assert recorded(recorder) == [("WRITE", 0, 3), ("WRITE", 3, 3)]


def test_a_sync_covers_what_came_before_it(mapped: Mapped) -> None:
    with Recorder(mapped.fd) as recorder:
        mapped.store(0, b"a")
        native.msync(mapped.map.address, PAGE)
        mapped.store(0, b"b")
    sync = recorder.recording.events[1]
    assert (sync.kind, sync.begin) == (TapeKind.SYNC_RANGE, 1)


def test_flush_and_fence_are_told(mapped: Mapped) -> None:
    if native.BEST_FLUSH == native.FlushKind.NONE:
        pytest.skip("no instruction that flushes")
    with Recorder(mapped.fd) as recorder:
        native.fence()
        native.flush(mapped.map.address + 70, 60)
        native.fence()
        native.fence()
    assert recorded(recorder) == [("FLUSH", 64, 128), ("FENCE", 0, 0)]


def test_notes_stand_behind_what_came_before_them(mapped: Mapped) -> None:
    with Recorder(mapped.fd) as recorder:
        mapped.map.view[0] = 1
        recorder.returned(3)
    assert [event.kind for event in recorder.recording.events] == [TapeKind.FOUND, TapeKind.NOTE]


def test_there_is_one_tape_at_a_time(mapped: Mapped) -> None:
    with Recorder(mapped.fd), pytest.raises(UsageError, match="no other one expected"):
        Recorder(mapped.fd).__enter__()
    with Recorder(mapped.fd):
        pass
    with pytest.raises(UsageError, match="one that runs expected"):
        native.tape_end()


def test_the_stores_of_the_heap_core_are_told(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with pmemheap.open(path, "n") as heap:
        heap.malloc(100)
        with Recorder(path) as recorder:
            heap.malloc(100)
            heap.sync()
    counts = recorder.recording.counts
    assert counts["STORE"] > 0
    assert counts["SYNC_RANGE"] + counts["SYNC_FILE"] > 0


# ---------------------------------------------------------------- kill_at


def script(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    with VMReservation(1 << 20) as reservation:
        part = Map.file(fd, reservation, 0, PAGE)
        native.store(part.address, b"a")
        native.msync(part.address, PAGE)
        native.store(part.address, b"b")
        native.pwrite(fd, b"c", 1)
        part.close()


def test_a_process_is_killed_before_each_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    left = []
    for step in range(1, 6):
        path.write_bytes(bytes(PAGE))
        killed = kill_at(step, path, lambda: script(path))
        left.append((path.read_bytes()[:2], killed))
    assert left == [
        (b"\0\0", True),
        (b"a\0", True),
        (b"a\0", True),
        (b"b\0", True),
        (b"bc", False),
    ]


def test_steps_are_those_that_kill(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    with Recorder(path) as recorder:
        script(path)
    assert [event.step for event in recorder.recording.events] == [1, 2, 3, 4]


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        kill_at(1, path, lambda: 1 // 0)
