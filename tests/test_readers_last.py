"""Maps beside a writer that are read without a snapshot: as of the last commit."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reader_world import DURABILITIES, Reader

import pmemheap
from pmemheap import Heap
from pmemheap.containers import SortedMap
from pmemheap.heap.readers import recycle
from pmemheap.heap.space import space_of
from pmemheap.units import MiB

COUNT = 3000


def key_of(number: int) -> bytes:
    return b"key %06d" % number


@pytest.fixture(params=DURABILITIES)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """A writer that lets readers in, with a map."""
    with Heap.create(tmp_path / "a.heap", durability=request.param, readers=True) as made:
        SortedMap(made, "table").update((key_of(n), b"%d" % n) for n in range(COUNT))
        yield made


@pytest.fixture
def reader(heap: Heap) -> Iterator[Reader]:
    """A reader that has the same map as `last`, and no snapshot."""
    with Reader(Path(heap.name)) as made:
        assert made("snap.close(), (last := SortedMap(heap, 'table')).name") == (None, "table")
        yield made


def test_each_lookup_shows_the_last_commit(heap: Heap, reader: Reader) -> None:
    table = SortedMap(heap, "table")
    for n in range(50):
        table[key_of(7)] = b"value %d" % n
        heap.sync()
        assert reader(f"last[{key_of(7)!r}]") == b"value %d" % n
    with heap.transaction():
        table[b"new"] = b"x" * 6000
        del table[key_of(8)]
    heap.sync()
    assert reader(f"last.get(b'new') == b'x' * 6000, {key_of(8)!r} in last, b'new' in last") == (
        True,
        False,
        True,
    )
    assert reader(f"last.get({key_of(8)!r}, 5), last[{key_of(8)!r}]") == f"KeyError: {key_of(8)!r}"


def test_what_is_more_than_a_lookup_is_of_one_commit(heap: Heap, reader: Reader) -> None:
    table = SortedMap(heap, "table")
    reader("(begun := iter(last.items())) and next(begun)")
    reader(f"(view := last.view({key_of(2)!r})) and None")
    with heap.transaction():
        for n in range(COUNT):
            table[key_of(n)] = b"changed"
    heap.sync()
    assert reader("{*last.values()}, len(last)") == ({b"changed"}, COUNT)
    assert reader("[value for _, value in begun] == [b'%d' % n for n in range(1, 3000)]")
    assert reader("bytes(view)") == b"2"
    assert reader("last.scan(b'key 000005', 2)") == [
        (key_of(5), b"changed"),
        (key_of(6), b"changed"),
    ]
    assert reader("[*last.keys(stop=b'key 000002')], len(last.keys(stop=b'key 000100'))") == (
        [key_of(0), key_of(1)],
        100,
    )
    assert reader("last.check(), last.statistics().entries, next(reversed(last))") == (
        None,
        COUNT,
        key_of(COUNT - 1),
    )


def test_a_lookup_holds_nothing_back(heap: Heap, reader: Reader) -> None:
    table = SortedMap(heap, "table")
    for n in range(300):
        table[key_of(n)] = b"y" * 300
        heap.sync()
        assert reader(f"last[{key_of(n)!r}]") == b"y" * 300
        assert heap.readers() == []
    heap.trim()
    assert heap.stats().quarantined == 0


def test_what_is_used_again_is_not_shown(heap: Heap) -> None:
    """The era ends after each commit; that it ends in the middle of a lookup is left to pairs."""
    table = SortedMap(heap, "table")
    space = space_of(heap)
    with pmemheap.open(heap.name) as other:
        last = SortedMap(other, "table")
        for n in range(20):
            table[key_of(n)] = b"z" * (n * 400)
            heap.sync()
            space.serve(recycle, space.shared)
            assert last[key_of(n)] == b"z" * (n * 400)
            assert last[key_of(n)] == b"z" * (n * 400)


def test_growth_is_followed(heap: Heap, reader: Reader) -> None:
    table = SortedMap(heap, "table")
    kept = []
    for n in range(20):
        kept.append(heap.alloc(2 * MiB))
        table[b"long"] = bytes([n]) * MiB
        heap.sync()
        assert reader(f"last[b'long'] == bytes([{n}]) * {MiB}")
    for block in kept:
        heap.free(block.offset)
    del table[b"long"]
    heap.trim()
    assert reader(f"last.get(b'long'), last[{key_of(3)!r}]") == (None, b"3")


def test_a_map_that_is_dropped_and_made_again(heap: Heap, reader: Reader) -> None:
    table = SortedMap(heap, "table")
    table.drop()
    heap.sync()
    assert "UsageError: map: a root 'table' of <Snapshot" in reader(f"last[{key_of(3)!r}]")
    assert "found none" in reader("len(last)")
    again = SortedMap(heap, "table")
    again[b"k"] = b"v"
    heap.sync()
    assert reader(f"last[b'k'], last.get({key_of(3)!r}), len(last)") == (b"v", None, 1)


def test_it_changes_nothing(heap: Heap, reader: Reader) -> None:
    for change in (
        "last.__setitem__(b'k', b'v')",
        f"last.__delitem__({key_of(3)!r})",
        f"last.pop({key_of(3)!r})",
        "last.update({b'a': b'b'})",
        "last.clear()",
        "last.drop()",
        "last.compact()",
    ):
        found = reader(change)
        assert found.startswith("UsageError: heap "), (change, found)
        assert "a writable heap expected, it was opened read-only" in found
    assert reader("SortedMap(heap, 'none')").startswith("UsageError: map: a root 'none' of")


def test_keys_of_other_types(heap: Heap, reader: Reader) -> None:
    assert reader(f"last[bytearray({key_of(3)!r})], last[memoryview({key_of(4)!r})]") == (
        b"3",
        b"4",
    )
    assert reader("last.get(3), 3 in last, last.get(b'k' * 5000)") == (None, False, None)


def test_the_end_of_the_writer_and_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.heap"
    with Heap.create(path, durability="process", readers=True) as heap:
        SortedMap(heap, "table")[b"k"] = b"first"
        with Reader(path) as reader:
            reader("snap.close(), (last := SortedMap(heap, 'table')).name")
            heap.close()
            assert reader("last[b'k'], dict(last)") == (b"first", {b"k": b"first"})
            with pmemheap.open(path, "w", readers=True) as again:
                assert reader("last[b'k']") == b"first"
                SortedMap(again, "table")[b"k"] = b"second"
                assert reader("last[b'k']") == b"second"
            assert reader("heap.close(), last[b'k']").startswith("UsageError: heap ")


def test_nobody_waits_for_a_commit_that_is_half_done(heap: Heap, reader: Reader) -> None:
    """As after the end of a writer in the middle of one, or while it is stopped there."""
    reader("setattr(pmemheap.file.following, 'PATIENCE', 0.01)")
    reader("(snap := heap.read()) is None, last.get(b'k')")
    file = space_of(heap).shared.file
    assert file is not None
    header, sequence = file.header, file.header.word("commit_seq")
    header.store_word("commit_seq", sequence | 1)
    assert reader(f"last[{key_of(3)!r}], snap.refresh(), snap.is_wanted") == (b"3", False, True)
    assert reader("heap.read()").startswith("HeapBusyError: heap file")
    assert reader("SortedMap(snap, 'table')[b'key 000004'], len(SortedMap(snap, 'table'))") == (
        b"4",
        COUNT,
    )
    header.store_word("layout_seq", header.word("layout_seq") | 1)  # a new writer takes over
    assert reader(f"last[{key_of(3)!r}]").startswith("HeapBusyError: heap file")
    header.store_word("layout_seq", header.word("layout_seq") - 1)
    header.store_word("commit_seq", sequence)
    assert reader(f"last[{key_of(3)!r}], snap.refresh()") == (b"3", False)


def test_a_lookup_is_no_call_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "a.heap"
    with Heap.create(path, durability="process", readers=True) as heap:
        SortedMap(heap, "table")[b"k"] = b"v"
        with pmemheap.open(path) as other:
            last = SortedMap(other, "table")
            locks = Path(f"/proc/{os.getpid()}/fdinfo")
            before = sorted(_locks(locks))
            assert last[b"k"] == b"v"
            assert sorted(_locks(locks)) == before
            alone = min(_seconds(lambda: last[b"k"]) for _ in range(20))
            snapshot = min(_seconds(lambda: other.read().close()) for _ in range(20))
            assert alone < snapshot


def _locks(directory: Path) -> list[str]:
    found = []
    for info in directory.iterdir():
        try:
            text = info.read_text()
        except OSError:
            continue
        found += [line for line in text.splitlines() if line.startswith("lock:")]
    return found


def _seconds(call: object) -> float:
    assert callable(call)
    start = time.perf_counter()
    for _ in range(100):
        call()
    return time.perf_counter() - start
