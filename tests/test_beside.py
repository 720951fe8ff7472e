"""Beside: a reader that was attached to shared memory, while its writer goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pmemheap import CorruptHeapError, Heap, HeapBusyError, UsageError
from pmemheap.file import locks
from pmemheap.units import MiB

AT_WORK = """
import random, sys, time
from pmemheap import Heap
heap, rng, live = Heap.attach(int(sys.argv[1]), readonly=False), random.Random(1), []
print("at work", flush=True)
end = time.monotonic() + 1
while time.monotonic() < end:
    live += [heap.malloc(int(2 ** rng.uniform(4, 19))) for _ in range(20)]
    rng.shuffle(live)
    while len(live) > rng.choice([10, 200]):
        heap.free(live.pop())
    if rng.random() < 0.05:
        heap.trim()
    if rng.random() < 0.1:
        heap.roots["a"] = live[0]
        del heap.roots["a"]
heap.close()
"""


@pytest.fixture
def writer() -> Iterator[Heap]:
    with Heap.shared() as heap:
        yield heap


def look_everywhere(reader: Heap) -> None:
    assert reader.check(), reader.check()
    assert reader.stats().blocks == len(list(reader.blocks()))
    assert reader.explain(100).size == 100


def test_a_reader_whose_writer_grew_looks_at_the_heap_as_it_is(writer: Heap) -> None:
    with Heap.attach(writer.fileno()) as reader:
        look_everywhere(reader)
        large = writer.malloc(20 * MiB)
        small = writer.malloc(100)
        look_everywhere(reader)
        assert dict(reader.blocks()) == {large: 20 * MiB, small: 112}
        assert reader.stats().allocated == writer.stats().allocated
        writer.free(large)
        writer.trim()
        look_everywhere(reader)
        assert reader.stats().blocks == 1


def test_an_arena_of_a_reader_is_looked_at_as_it_is(writer: Heap) -> None:
    arena = writer.arena("a")
    arena.malloc(100)
    with Heap.attach(writer.fileno()) as reader:
        beside = reader.arena("a")
        first = dict(beside.blocks())
        large = arena.malloc(20 * MiB)
        writer.malloc(100)
        assert beside.check()
        assert dict(beside.blocks()) == {**first, large: 20 * MiB}
        assert beside.stats().allocated == arena.stats().allocated
        assert beside.explain(100).size == 100
        with beside.view(next(iter(first))):
            assert beside.stats().live_views == 1
        arena.drop()
        with pytest.raises(UsageError, match=r"'a' of heap .* dropped by the writer"):
            beside.check()


def test_a_reader_counts_its_own_views(writer: Heap) -> None:
    offset = writer.malloc(100)
    with Heap.attach(writer.fileno()) as reader, reader.view(offset):
        assert reader.stats().live_views == 1


@pytest.mark.slow
def test_nothing_is_called_damaged_beside_a_process_that_changes_it(writer: Heap) -> None:
    descriptor = os.dup(writer.fileno())
    writer.close()
    command = [sys.executable, "-c", AT_WORK, str(descriptor)]
    with subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        reader = Heap.attach(descriptor)
        while process.poll() is None:
            for look in (reader.check, reader.stats, lambda: list(reader.blocks())):
                try:
                    found = look()
                except HeapBusyError:  # it says so: nothing is known
                    continue
                assert found is not None
                assert found or look != reader.check, found
    assert process.returncode == 0
    look_everywhere(reader)
    reader.close()
    os.close(descriptor)


def failing_look() -> str:
    raise CorruptHeapError("half of a change")


def test_a_writer_that_never_rests_is_named(writer: Heap) -> None:
    descriptor = os.open(f"/proc/self/fd/{writer.fileno()}", os.O_RDONLY)
    with pytest.raises(HeapBusyError, match=rf"process {os.getpid()} .*half of a change"):
        locks.look_beside_writer(descriptor, "heap", failing_look, bool)
    os.close(descriptor)


def test_damage_is_damage_when_there_is_no_writer() -> None:
    heap = Heap.shared()
    heap.malloc(100)
    descriptor = os.dup(heap.fileno())
    medium = heap._space.shared.file
    assert medium is not None
    slot = next(slot for slot in medium.segments.values() if slot.kind.name == "DATA")
    heap.close()
    os.pwrite(descriptor, b"\x07" * 64, slot.entries_off)
    reader = Heap.attach(descriptor)
    assert not reader.check()
    with pytest.raises(CorruptHeapError):
        reader.stats()
    reader.close()
    os.close(descriptor)
