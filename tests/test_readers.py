"""Readers in other processes, beside the writer: what they see, what stays, ends of either side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reader_world import DURABILITIES, Reader

import pmemheap
from pmemheap import Heap, HeapBusyError, UsageError
from pmemheap.containers import SortedMap, Vector
from pmemheap.file import pins
from pmemheap.heap.readers import recycle
from pmemheap.heap.space import space_of

KEYS = [b"key %d" % i for i in range(500)]


@pytest.fixture(params=DURABILITIES)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """A writer that lets readers in."""
    with Heap.create(tmp_path / "a.heap", durability=request.param, readers=True) as made:
        yield made


def path_of(heap: Heap) -> Path:
    return Path(heap.name)


def fill(table: SortedMap, value: bytes) -> None:
    """Give all keys a value, in one commit."""
    with table.heap.transaction():
        for key in KEYS:
            table[key] = value


def oldest(heap: Heap) -> tuple[int, int] | None:
    file = space_of(heap).shared.file
    assert file is not None
    return pins.oldest(file.lock_fd, 1 << 38)


# ---------------------------------------------------------------- what a snapshot shows


def test_a_snapshot_shows_one_commit(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    fill(table, b"first")
    with Reader(path_of(heap)) as reader:
        assert reader("{*SortedMap(snap, 'table').values()}") == {b"first"}
        for value in b"second", b"third and longer", b"", b"x" * 600:
            fill(table, value)
        assert reader("{*SortedMap(snap, 'table').values()}, len(SortedMap(snap, 'table'))") == (
            {b"first"},
            500,
        )
        assert reader("snap.refresh(), {*SortedMap(snap, 'table').values()}") == (
            True,
            {b"x" * 600},
        )
        assert reader("snap.refresh()") is False


def test_each_commit_is_a_snapshot_in_the_writers_process_too(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    kept = []
    for n in range(30):
        table[b"n"] = table[b"key %d" % n] = b"%d" % n
        kept.append((n, heap.read()))
    for n, snap in kept:
        shown = SortedMap(snap, "table")
        assert (shown[b"n"], len(shown)) == (b"%d" % n, n + 2)
        assert dict(shown.items()) == {
            b"n": b"%d" % n,
            **{b"key %d" % i: b"%d" % i for i in range(n + 1)},
        }
    assert [snap.commit for _, snap in kept] == sorted({snap.commit for _, snap in kept})


def test_roots_of_several_names_are_of_one_commit(heap: Heap) -> None:
    with Reader(path_of(heap)) as reader:
        for n in range(200):
            with heap.transaction() as tx:
                for name in "left", "right":
                    block = tx.alloc(8)
                    block.view[:] = n.to_bytes(8, "little")
                    if name in heap.roots:
                        tx.free(heap.roots[name])
                    tx.roots[name] = block.offset
                    del block
            reader("snap.refresh()")
            left, right = (
                reader(f"int.from_bytes(snap.view(snap.place({name!r}), 8), 'little')")
                for name in ("left", "right")
            )
            assert left == right == n


def test_roots_that_change_by_themselves_are_shown(heap: Heap) -> None:
    """They went past what a commit tells readers, and past what it knows of the slots itself."""
    tables = [SortedMap(heap, name) for name in ("first", "second")]
    for number, table in enumerate(tables):
        table[b"k"] = b"%d" % number
    first, second = heap.roots["first"], heap.roots["second"]
    with Reader(path_of(heap)) as reader:
        heap.roots["block"] = heap.malloc(5000)
        heap.sync()
        assert reader("snap.refresh(), 'block' in snap.roots") == (True, True)
        heap.roots.update(first=second, second=first)
        heap.sync()
        assert reader("snap.refresh(), SortedMap(snap, 'first')[b'k']") == (True, b"1")
        tables[0][b"k"] = b"changed"  # its header is what the other root names now
        assert heap.roots["first"] == second
        heap.sync()
        assert reader("snap.refresh(), SortedMap(snap, 'second')[b'k']") == (True, b"changed")
        for number in range(60):  # each has a copy: more than one run of them
            heap.roots[f"more{number}"] = heap.malloc(64)
        assert heap.roots.pop("block") > 0
        heap.sync()
        assert reader("snap.refresh(), len(snap.roots), 'block' in snap.roots") == (True, 62, False)
    assert heap.check()


def test_what_is_removed_stays_in_older_snapshots(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    fill(table, b"v" * 100)
    with Reader(path_of(heap)) as reader:
        table.clear()
        table.drop()
        filled = [heap.malloc(4096) for _ in range(300)]
        for offset in filled:
            heap.view(offset)[:] = b"\xff" * 4096
        assert reader("[len(SortedMap(snap, 'table')), {*SortedMap(snap, 'table').values()}]") == [
            500,
            {b"v" * 100},
        ]
        assert reader("snap.refresh(), dict(snap.roots)") == (True, {})


def test_values_apart_and_patches_are_of_their_commit(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    table[b"long"] = b"a" * 10_000
    with Reader(path_of(heap)) as reader:
        reader("(view := SortedMap(snap, 'table').view(b'long')) and None")
        table.patch(b"long", 5000, b"b" * 100)
        table[b"long"] = b"c" * 10_000
        assert reader(
            "bytes(view) == b'a' * 10_000, SortedMap(snap, 'table')[b'long'] == b'a' * 10_000"
        ) == (True, True)
        assert reader("snap.refresh(), SortedMap(snap, 'table')[b'long'] == b'c' * 10_000") == (
            True,
            True,
        )
        assert reader("bytes(view) == b'a' * 10_000") is True


def test_a_vector_is_as_long_as_it_was(heap: Heap) -> None:
    vector = Vector(heap, "vector", "i8")
    vector.extend(range(1000))
    with Reader(path_of(heap)) as reader:
        reader("(first := Vector(snap, 'vector').array) is None")
        address = reader("first.ctypes.data")
        for n in range(1, 20):
            vector.extend(range(1000 * n, 1000 * n + 1000 * n))
        assert reader("len(first), len(Vector(snap, 'vector')), first.ctypes.data") == (
            1000,
            1000,
            address,
        )
        assert reader("snap.refresh(), len(Vector(snap, 'vector'))") == (True, len(vector))
        assert reader("Vector(snap, 'vector')[:].tolist()") == vector[:].tolist()
        assert reader("first.tolist()") == list(range(1000))
        assert "read-only" in reader("Vector(snap, 'vector').append(1)")
    with heap.read() as snap:
        shown = Vector(snap, "vector")
        for change in lambda: shown.append(1), shown.pop, lambda: shown.truncate(0), shown.drop:
            with pytest.raises(UsageError):
                change()


# ---------------------------------------------------------------- growth, give-back


def test_growth_is_followed_and_arrays_stay(heap: Heap) -> None:
    def put(n: int, count: int) -> None:
        with heap.transaction() as tx:
            block = tx.alloc(8 * count)
            np.frombuffer(block.view, "i8")[:] = np.arange(count) + n
            if "array" in heap.roots:
                tx.free(heap.roots["array"])
            tx.roots["array"] = block.offset
            del block

    count = 100_000
    put(0, count)
    with Reader(path_of(heap)) as reader:
        reader("(first := snap.ndarray_at(snap.roots['array'], 100_000, 'i8')) is None")
        address = reader("first.ctypes.data")
        for n in range(1, 21):
            put(n, count * n)
            assert reader("snap.refresh()") is True
            total = reader(f"int(snap.ndarray_at(snap.roots['array'], {count * n}, 'i8').sum())")
            assert total == (np.arange(count * n) + n).sum()
        heap.trim()
        assert reader("first.ctypes.data, bool((first == np.arange(100_000)).all())") == (
            address,
            True,
        )


def test_what_nobody_shows_any_more_is_used_again(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    with Reader(path_of(heap)) as reader:
        for n in range(60):
            fill(table, b"%d" % n * 50)
            reader("snap.refresh()")
    assert heap.stats().mapped < 16 << 20
    fill(table, b"end")
    heap.trim()
    before = heap.stats()
    assert before.quarantined == 0
    assert heap.check()


def test_a_stopped_reader_keeps_what_it_shows_and_has_a_name(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    fill(table, b"before")
    with Reader(path_of(heap)) as reader:
        assert reader("snap.commit") > 0
        os.kill(reader.pid, signal.SIGSTOP)
        for n in range(20):
            fill(table, b"%d" % n * 50)
        found = oldest(heap)
        assert found is not None
        assert found[1] == reader.pid
        os.kill(reader.pid, signal.SIGCONT)
        assert reader("{*SortedMap(snap, 'table').values()}") == {b"before"}


# ---------------------------------------------------------------- who may come


def test_nobody_reads_beside_a_writer_that_edits_in_place(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "a.heap") as heap:
        with Reader(path_of(heap)) as reader:
            assert "no writer expected" in reader("refused")
        with pytest.raises(UsageError, match="readers=True"):
            heap.read()


def test_a_writer_does_not_open_beside_readers(tmp_path: Path) -> None:
    Heap.create(tmp_path / "a.heap", readers=True).close()
    with Reader(tmp_path / "a.heap") as reader:
        assert reader("snap.commit") == 0
        with pytest.raises(HeapBusyError, match="no reader expected"):
            Heap.open(tmp_path / "a.heap", readers=True)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, UsageError), (float("nan"), UsageError), ("1", TypeError), (None, TypeError)],
)
def test_a_timeout_is_seconds(tmp_path: Path, timeout: Any, error: type[Exception]) -> None:
    path = tmp_path / "a.heap"
    Heap.create(path).close()
    with pytest.raises(error, match="timeout: seconds"):
        Heap.open(path, readonly=True, timeout=timeout)


def test_a_heap_with_snapshots_is_not_closed(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    fill(table, b"value")
    snap = heap.read()
    view = SortedMap(snap, "table").view(KEYS[0])
    with pytest.raises(BufferError, match="no snapshot"):
        heap.close()
    snap.close()
    with pytest.raises(BufferError, match="no snapshot"):
        heap.close()
    assert bytes(view) == b"value"
    del view


def test_readers_are_named_with_what_they_hold(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    fill(table, b"first")
    assert heap.readers() == []
    with Reader(path_of(heap)) as reader:
        assert reader("len(SortedMap(snap, 'table'))") == len(KEYS)
        fill(table, b"second, which is longer")
        heap.sync()
        recycle(space_of(heap).shared)
        mine = heap.read()
        theirs, own = heap.readers()
        assert (theirs.pid, own.pid) == (reader.pid % 2**22, os.getpid())
        assert theirs.era < own.era
        assert theirs.held_bytes >= 3 * 4096  # the leaves of the first commit
        assert own.held_bytes == 0
        kept = reader("[other := heap.read()] and None")
        assert kept is None
        assert [each.pid for each in heap.readers()].count(reader.pid % 2**22) == 2
        mine.close()
    assert recycle(space_of(heap).shared) >= theirs.held_bytes
    assert heap.readers() == []


def test_a_snapshot_changes_nothing(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    table[b"a"] = b"1"
    shown = SortedMap(heap.read(), "table")
    changes: list[Callable[[], object]] = [
        lambda: shown.__setitem__(b"a", b"2"),
        lambda: shown.__delitem__(b"a"),
        shown.clear,
        shown.drop,
        shown.compact,
        lambda: shown.put_many([(b"b", b"2")]),
    ]
    for change in changes:
        with pytest.raises(UsageError):
            change()
    assert dict(shown.items()) == dict(table.items()) == {b"a": b"1"}
    assert heap.check()


def test_an_arena_that_is_shown_elsewhere_is_dropped_and_kept(heap: Heap) -> None:
    size = 3 << 20
    arena = heap.arena("part")
    heap.roots["block"] = offset = arena.malloc(size)
    arena.view(offset)[:] = b"a" * arena.usable_size(offset)
    heap.sync()
    with Reader(path_of(heap)) as reader:
        assert reader(f"(block := snap.view(snap.roots['block'], {size})) is None") is False
        del heap.roots["block"]
        arena.drop()
        heap.trim()
        used = [heap.malloc(size) for _ in range(3)]
        for each in used:
            heap.view(each)[:] = b"b" * heap.usable_size(each)
        again = heap.arena("part")
        heap.view(again.malloc(size))[:] = b"c" * size
        again.drop()
        heap.sync()
        assert reader("set(block[:])") == {ord("a")}
        assert reader("snap.refresh(), 'block' in snap.roots") == (True, False)
        assert reader("set(block[:])") == {ord("a")}
        before = path_of(heap).stat()
        reader("block.release()")
        heap.arena("third").malloc(size)  # lies where the others did
        assert path_of(heap).stat().st_size == before.st_size
    assert heap.check()


def test_an_arena_that_is_shown_here_is_not_dropped(heap: Heap) -> None:
    arena = heap.arena("part")
    with heap.read(), pytest.raises(BufferError, match="this process has one"):
        arena.drop()
    arena.drop()


def test_a_closed_snapshot_says_so(heap: Heap) -> None:
    snap = heap.read()
    snap.close()
    snap.close()
    for call in snap.refresh, lambda: snap.roots, lambda: snap.view(0, 1):
        with pytest.raises(UsageError, match="it was closed"):
            call()


def test_a_view_lies_within_the_heap(heap: Heap) -> None:
    snap = heap.read()
    for offset, length in (-1, 1), (0, 1 << 40), (1 << 50, 1), (5 << 55, 10):
        with pytest.raises(UsageError):
            snap.view(offset, length)
    assert snap.view(0, 0).nbytes == 0
    with pytest.raises(TypeError):
        snap.view(0, 10)[0] = 1


# ---------------------------------------------------------------- ends


def test_a_killed_reader_leaves_nothing(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    fill(table, b"value")
    with Reader(path_of(heap)) as reader:
        assert reader("snap.commit") > 0
        assert oldest(heap) is not None
        reader.kill()
        assert oldest(heap) is None


_WRITER = """
import sys
import pmemheap
from pmemheap.containers import SortedMap
heap = pmemheap.open(sys.argv[1], "w", readers=True)
table = SortedMap(heap, "table")
n = int(table.get(b"n", b"0"))
while True:
    n += 1
    with heap.transaction():
        table[b"n"] = b"%d" % n
        for i in range(n % 7):
            table[b"key %d" % ((n * 31 + i) % 300)] = b"%d" % n * (n % 90)
    print(n, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("durability", DURABILITIES)
def test_snapshots_outlive_a_killed_writer(
    tmp_path: Path, durability: pmemheap.DurabilityName
) -> None:
    path = tmp_path / "a.heap"
    with Heap.create(path, durability=durability) as heap:
        SortedMap(heap, "table")
    said = 0
    for turn in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert int(writer.stdout.readline()) > said
        with Reader(path) as reader:
            seen = reader("dict(SortedMap(snap, 'table').items())")
            for _ in range(20 + 30 * turn):
                said = int(writer.stdout.readline())
            writer.kill()
            said = max([said, *map(int, writer.stdout.read().split())])
            writer.wait()
            writer.stdout.close()
            assert reader("dict(SortedMap(snap, 'table').items())") == seen
            reader("snap.refresh()")
            assert reader("int(SortedMap(snap, 'table')[b'n'])") >= said - (durability == "power")
            with pytest.raises(HeapBusyError):
                Heap.open(path)
        with pmemheap.open(path, "w") as heap:
            assert heap.check()
            assert int(SortedMap(heap, "table")[b"n"]) >= said
            assert not [root for root in space_of(heap).shared.root_slots if root.copy]


def test_shared_memory_is_read_by_its_descriptor() -> None:
    with Heap.shared(readers=True) as heap, Heap.attach(heap.fileno()) as reader:
        table = SortedMap(heap, "table")
        fill(table, b"first")
        with reader.read() as snap:
            for value in b"second", b"x" * 4000:
                fill(table, value)
                heap.trim()
            assert {*SortedMap(snap, "table").values()} == {b"first"}
            assert snap.refresh()
            assert {*SortedMap(snap, "table").values()} == {b"x" * 4000}
        assert reader.stats().blocks == heap.stats().blocks
        del snap


def test_a_descriptor_of_a_heap_that_is_edited_in_place_gives_no_snapshot() -> None:
    with (
        Heap.shared() as heap,
        Heap.attach(heap.fileno()) as reader,
        pytest.raises(UsageError, match="this one edits in place"),
    ):
        reader.read()


def test_a_refresh_keeps_its_pin_within_an_era(heap: Heap) -> None:
    table = SortedMap(heap, "table")
    with Heap.open(path_of(heap), readonly=True) as reader, reader.read() as snap:
        table[b"a"] = b"0"  # the writer finds the reader, which is the end of an era
        assert snap.refresh()
        pin = snap.pin
        assert not snap.refresh()
        table[b"a"] = b"1"
        assert snap.refresh()
        assert snap.pin is pin
        assert dict(SortedMap(snap, "table").items()) == {b"a": b"1"}
        space = space_of(heap)
        space.serve(recycle, space.shared)
        assert not snap.refresh()
        table[b"a"] = b"2"
        assert snap.refresh()
        assert snap.pin.era > pin.era
        assert dict(SortedMap(snap, "table").items()) == {b"a": b"2"}
        del pin


def test_a_pin_whose_file_went_before_leaves_others_alone(
    heap: Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of a program; numbers of descriptors are used again, by heaps with equal pins."""
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    reader = Heap.open(path_of(heap), readonly=True)
    snap = reader.read()
    file = space_of(reader).shared.file
    assert file is not None
    file.let_go()
    with Heap.open(path_of(heap), readonly=True) as second:
        kept = second.read()
        del snap
        assert oldest(heap) is not None
        del kept
        assert oldest(heap) is None
    assert not said
