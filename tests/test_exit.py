"""The end of a program is silent, and leaves its files as if it had closed them."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pmemheap import DurabilityError, Heap, native
from pmemheap.file.filemedium import FileMedium
from pmemheap.heap.shared import Shared
from pmemheap.layout import HeapState
from pmemheap.offline import examine, open_image

HEAD = """
import atexit, sys, threading, time
path, durability = sys.argv[1:]

def daemons(*works):
    def run(work):
        while True:
            work()
    for work in works:
        threading.Thread(target=run, args=(work,), daemon=True).start()
    time.sleep(0.1)
"""

SCRIPTS = {
    "daemons read": """
        from pmemheap.kvstore import KVStore
        store = KVStore(path, durability)
        store.put_many((b"%d" % number, bytes(number * 20)) for number in range(200))
        heap = store._heap
        offset = heap.roots["kvstore"]

        def view():
            with store.view(b"150") as view:
                bytes(view)

        daemons(
            lambda: store[b"7"], lambda: list(store.items()), view, lambda: len(store),
            lambda: bytes(heap.view(offset)), lambda: list(heap.blocks()), heap.stats,
            store.check,
        )
    """,
    "daemons write": """
        from pmemheap.kvstore import KVStore
        store = KVStore(path, durability)
        heap = store._heap
        numbers = iter(range(1 << 60))

        def put():
            number = next(numbers)
            store[b"%d" % (number % 300)] = bytes(number % 3000)

        def change():
            with store.transaction():
                put()
                put()

        daemons(
            put, change, lambda: heap.free(heap.malloc(300_000)), lambda: heap.free(heap.malloc(9)),
            store.sync, lambda: store.snapshot(path + ".copy", replace=True),
        )
    """,
    "a daemon is in a transaction": """
        from pmemheap import Heap

        def work():
            heap = Heap.create(path, durability=durability)
            view = heap.view(heap.malloc(100))
            with heap.transaction() as tx:
                tx.malloc(10)
                time.sleep(60)
                tx.malloc(10)

        daemons(work)
    """,
    "early exit functions": """
        made = []

        def late():
            (store,) = made
            store[b"late"] = store[b"early"]
            heap = store._heap
            offset = heap.malloc(100)
            heap.view(offset)[:4] = b"late"
            with heap.transaction() as tx:
                tx.roots["late"] = offset
            heap.free(heap.malloc(300_000))
            store.check()
            store.sync()

        atexit.register(late)
        from pmemheap.kvstore import KVStore
        made.append(KVStore(path, durability))
        made[0][b"early"] = b"value"
    """,
    "an early close": """
        made = []
        atexit.register(lambda: made[0].close())
        from pmemheap.kvstore import KVStore
        made.append(KVStore(path, durability))
        made[0][b"early"] = b"value"
    """,
    "globals": """
        import weakref
        import numpy, pmemheap
        from pmemheap.containers import SortedMap, Vector
        heap = pmemheap.Heap.create(path, durability=durability)
        view, array, block = heap.view(heap.malloc(100)), heap.ndarray(1000), heap.alloc(10)
        arena = heap.arena("arena")
        other = arena.view(arena.malloc(10))
        vector = Vector(heap, "vector", "i8")
        vector.extend(range(1000))
        elements = vector.array
        found = SortedMap(heap, "map")
        found[b"k"] = bytes(3000)
        value = found.view(b"k")

        class Late:
            def __del__(self):
                array[:] = 1
                try:
                    heap.free(heap.malloc(5))
                    block.free()
                except pmemheap.PmemHeapError:
                    pass

        late = Late()
        late.itself = late
        weakref.finalize(late, lambda: found.get(b"k"))
        weakref.finalize(late, lambda: found.update({b"l": b"v"}))
        transaction = heap.transaction()
        transaction.malloc(10)
        transaction.snapshot(block.offset, 5)
    """,
    "left by sys.exit": """
        import pmemheap
        with pmemheap.Heap.create(path, durability=durability) as heap:
            view = heap.view(heap.malloc(10))
            with heap.transaction():
                sys.exit(0)
    """,
    "in a generator": """
        from pmemheap.kvstore import KVStore
        store = KVStore(path, durability)

        def change():
            with store.transaction():
                store[b"x"] = b"1"
                yield

        going = change()
        next(going)
        items = iter(store.items())
    """,
}


def run(script: str, path: Path, durability: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c",
         HEAD + textwrap.dedent(script), str(path), durability],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_program_ends_in_silence_and_its_file_is_closed(
    name: str, durability: str, tmp_path: Path
) -> None:
    path = tmp_path / "heap"
    run(SCRIPTS[name], path, durability)
    with open_image(path) as disk:
        found = examine(disk)
    assert found.is_sound
    assert found.superblock is not None
    assert found.superblock.state == HeapState.CLEAN
    with Heap.open(path) as heap:
        assert heap.check()
        if name == "early exit functions":
            assert bytes(heap.view(heap.roots["late"], 4)) == b"late"


def test_a_change_that_waited_for_a_durable_point_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file said that it was closed, and another thread went on to change it."""
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        other = threading.Thread(target=lambda: heap.malloc(300_000))
        becomes_clean = Shared.becomes_clean

        def asked(self: Shared, medium: FileMedium) -> bool:
            other.start()
            time.sleep(0.2)  # it has seen that the heap is open, and waits for the lock
            return becomes_clean(self, medium)

        monkeypatch.setattr(Shared, "becomes_clean", asked)
        heap.sync()
        other.join()
        assert isinstance(heap._space.shared.medium, FileMedium)
        assert heap._space.shared.medium.header.superblock.state == HeapState.IN_USE


def test_a_view_of_a_heap_whose_sync_failed_is_there(tmp_path: Path) -> None:
    """It was told that the block is free."""
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        heap.roots["a"] = heap.malloc(100)
    with Heap.open(path) as heap:
        offset = heap.roots["a"]
        heap.usable_size(offset)
        with native.faults(1, errno.EIO, native.FaultKind.FROM):
            assert heap.view(offset).readonly
        with pytest.raises(DurabilityError):
            heap.malloc(10)
