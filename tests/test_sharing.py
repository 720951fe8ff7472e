"""Heaps, snapshots and arrays that are sent to other processes: in place, as of that moment."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

from pmemheap import Heap, SharedArray, Snapshot, SnapshotGoneError, UsageError
from pmemheap.containers import SortedMap

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(params=["process", "power", "shared"])
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """A heap that lets readers in."""
    if request.param == "shared":
        made = Heap.shared(readers=True)
    else:
        made = Heap.create(tmp_path / "heap", durability=request.param, readers=True)
    with made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Heap]:
    with Heap.create(tmp_path / "heap", durability="process", readers=True) as made:
        yield made


def sent(what: Any) -> Any:
    return pickle.loads(pickle.dumps(what))


def churn(heap: Heap) -> None:
    """Use what is free again, and give it back."""
    for number in range(20):
        blocks = [heap.malloc(size) for size in (100, 5000, 300_000)]
        for block in blocks:
            heap.view(block)[:] = bytes([number]) * heap.usable_size(block)
        heap.free_many(blocks)
    heap.trim()


# ---------------------------------------------------------------- what can be shared


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "all": lambda table: table,
    "a part": lambda table: table[10:20, 1:3],
    "a column": lambda table: table[:, 2],
    "with steps": lambda table: table[5::7, ::2],
    "backwards": lambda table: table[::-3, ::-1],
    "turned": lambda table: table.T[1:, 3:9],
    "repeated": lambda table: np.broadcast_to(table[3], (4, 4)),
    "one": lambda table: table[3:4, 1],
    "nothing": lambda table: table[3:3],
    "a number": lambda table: table[3, 1, ...],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_the_same_bytes(heap: Heap, name: str) -> None:
    table = heap.ndarray((100, 4), "f4")
    table[:] = np.arange(400).reshape(100, 4)
    part = ARRAYS[name](table)
    with heap.share(part) as shared, sent(shared) as again:
        found = again.array
        assert (found.shape, found.dtype, found.strides) == (part.shape, part.dtype, part.strides)
        assert np.array_equal(found, part)
        assert not found.flags.writeable
        assert found.size == 0 or np.shares_memory(found, part)
        assert np.array_equal(np.asarray(again), part)
        assert np.asarray(again, "f8").dtype == "f8"
        table[:] += 1
        assert np.array_equal(found, part), "bytes that change in place are seen"
        del found


@pytest.mark.parametrize("dtype", ["M8[us]", "S7", [("a", "u2"), ("b", "f8", (2,))]])
def test_dtypes_are_kept(file: Heap, dtype: Any) -> None:
    table = file.ndarray(10, dtype)
    with file.share(table) as shared, sent(shared) as again:
        assert again.array.dtype == table.dtype


def test_a_block_and_a_view_are_bytes(heap: Heap) -> None:
    block = heap.alloc(100)
    block.view[:] = bytes(range(100))
    for what, expected in ((block, bytes(range(100))), (block.view[10:20], bytes(range(10, 20)))):
        with heap.share(what) as shared, sent(shared) as again:
            assert bytes(again.view) == expected
            assert again.view.readonly
            assert again.array.tobytes() == expected
            assert again.nbytes == len(expected)


def test_an_arena_is_of_its_heap(heap: Heap) -> None:
    arena = heap.arena("arena")
    table = arena.ndarray(1000, "u1")
    table[:] = 7
    with heap.share(table) as shared, sent(shared) as again:
        assert np.array_equal(again.array, table)


@pytest.mark.parametrize("what", [np.zeros(3), b"bytes", memoryview(b"bytes"), 5, None])
def test_what_lies_elsewhere_is_refused(heap: Heap, what: Any) -> None:
    with pytest.raises(UsageError, match=r"share: .* expected"):
        heap.share(what)


def test_a_heap_that_nobody_else_reads_is_refused(tmp_path: Path) -> None:
    with Heap.anonymous() as private, Heap.create(tmp_path / "heap") as alone:
        for each in (private, alone):
            block = each.alloc(100)
            with pytest.raises(UsageError, match="readers=True, or readonly, expected"):
                each.share(block)
            block.free()
        with pytest.raises(UsageError, match="in a file or in shared memory expected"):
            pickle.dumps(private)


def test_one_that_was_closed_shows_nothing(heap: Heap) -> None:
    shared = heap.share(heap.alloc(100))
    shared.close()
    shared.close()
    assert shared.closed
    assert "closed" in repr(shared)
    for use in (lambda: shared.view, lambda: shared.array, lambda: pickle.dumps(shared)):
        with pytest.raises(UsageError, match="an open one expected, closed found"):
            use()


def test_a_heap_does_not_close_under_what_is_shared(heap: Heap) -> None:
    shared = heap.share(heap.alloc(100))
    with pytest.raises(BufferError, match="this process has one"):
        heap.close()
    shared.close()


# ---------------------------------------------------------------- how long it is kept


def test_nothing_of_it_is_used_again(heap: Heap) -> None:
    table = heap.ndarray(300_000, "u1")
    table[:] = 77
    shared = heap.share(table)
    heap.free(heap.offset_of(table), deferred=True)
    del table
    gc.collect()
    churn(heap)
    assert np.all(shared.array == 77)
    again = sent(shared)
    shared.close()
    churn(heap)
    assert np.all(again.array == 77)
    again.close()


def test_one_that_was_let_go_is_gone(heap: Heap) -> None:
    shared = heap.share(heap.alloc(100))
    pickled = pickle.dumps(shared)
    shared.close()
    churn(heap)
    late: SharedArray = pickle.loads(pickled)
    with pytest.raises(SnapshotGoneError, match="it was let go there"):
        _ = late.array
    late.close()


def test_one_of_an_older_snapshot_is_kept_as_long(heap: Heap) -> None:
    with heap.transaction() as tx:
        block = tx.alloc(5000)
        block.view[:] = b"a" * 5000
        tx.roots["old"] = block.offset
    old = heap.read()
    array = old.ndarray_at(old.roots["old"], 5000, "u1")
    with heap.transaction() as tx:
        tx.free(tx.roots.pop("old"))
    churn(heap)
    shared = heap.share(array)
    old.close()
    del array
    churn(heap)
    with sent(shared) as again:
        assert bytes(again.view) == b"a" * 5000
    shared.close()


@pytest.mark.parametrize("ends", ["is killed", "closes"])
def test_one_whose_writer_has_let_it_go_and_ended_is_gone(tmp_path: Path, ends: str) -> None:
    """Who opens the heap when nobody writes asks for the floor as well."""
    path, letter = tmp_path / "heap", tmp_path / "letter"
    writer = os.fork()
    if writer == 0:
        heap = Heap.create(path, durability="process", readers=True)
        block = heap.alloc(5000)
        block.view[:] = b"a" * 5000
        with heap.share(block) as shared:
            letter.write_bytes(pickle.dumps(shared))
        heap.free(block.offset)
        del block
        churn(heap)
        if ends == "closes":
            heap.close()
        os._exit(0)
    assert os.waitpid(writer, 0)[1] == 0
    with Heap.open(path, readonly=True):
        late: SharedArray = pickle.loads(letter.read_bytes())
        with pytest.raises(SnapshotGoneError, match="it was let go there"):
            _ = late.view
        late.close()


def test_another_writer_is_another_session(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, readers=True) as heap:
        heap.roots["block"] = heap.malloc(100)
        with heap.share(heap.block(heap.roots["block"])) as shared, heap.read() as snap:
            pickles = pickle.dumps(shared), pickle.dumps(snap)
    with Heap.open(path, readonly=True):
        closed: SharedArray = pickle.loads(pickles[0])
        with pytest.raises(SnapshotGoneError, match="it was let go there"):
            _ = closed.view
        closed.close()
    with Heap.open(path) as heap:
        heap.free(heap.roots.pop("block"))
    late: SharedArray = pickle.loads(pickles[0])
    with pytest.raises(SnapshotGoneError, match="another one has opened it"):
        _ = late.view
    with pytest.raises(SnapshotGoneError, match="another one has opened it"):
        pickle.loads(pickles[1])


# ---------------------------------------------------------------- other processes


def own_memory() -> int:
    """Return the private memory of this process, in KiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


def summed(shared: SharedArray) -> tuple[float, int, int]:
    before = own_memory()
    found = float(shared.array.sum())
    return found, own_memory() - before, os.getpid()


@pytest.mark.parametrize("method", METHODS)
def test_workers_read_an_array_without_a_copy(heap: Heap, method: str) -> None:
    """64 MiB, four workers: what the kernel counts for each is a hundredth of that."""
    table = heap.ndarray((1 << 20, 8), "f8")
    table[:] = 1
    context = multiprocessing.get_context(method)
    with heap.share(table) as shared, context.Pool(4) as workers:
        found = workers.map(summed, [shared] * 8, chunksize=1)
    assert {total for total, _, _ in found} == {float(table.size)}
    assert max(grown for _, grown, _ in found) < 8 << 10
    assert os.getpid() not in {pid for _, _, pid in found}


def test_executors_take_them(file: Heap) -> None:
    table = file.ndarray(1000, "f8")
    table[:] = 2
    context = multiprocessing.get_context("spawn")
    with (
        file.share(table) as shared,
        concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor,
    ):
        assert {each[0] for each in executor.map(summed, [shared] * 4)} == {2000.0}


CLUSTER = """
import sys
from distributed import LocalCluster

settings = {"threads_per_worker": 1, "dashboard_address": "localhost:0", "memory_limit": 0}
with LocalCluster(n_workers=2, local_directory=sys.argv[1], **settings) as cluster:
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


@contextmanager
def dask_cluster(directory: Path) -> Iterator[str]:
    """The address of a cluster with a process for its scheduler, which unpickles what passes."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER, os.fspath(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parent)},
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()
    assert process.returncode == 0


@pytest.mark.slow
def test_dask_workers_take_them(file: Heap, tmp_path: Path) -> None:
    table = file.ndarray(1 << 20, "f8")
    table[:] = 1
    with file.share(table) as shared:
        with dask_cluster(tmp_path) as address, Client(address) as client:
            found = client.gather(client.map(summed, [shared] * 4, pure=False))
        assert {total for total, _, _ in found} == {float(table.size)}
        assert max(grown for _, grown, _ in found) < 4 << 10
        until = time.monotonic() + 20
        while len(file.readers()) > 1 and time.monotonic() < until:
            time.sleep(0.05)  # workers end soon after their scheduler
        assert [reader.pid for reader in file.readers()] == [os.getpid()]


INHERITED: list[Any] = []


def use_inherited(_: int) -> tuple[int, float]:
    shared: SharedArray = INHERITED[0]
    array = shared.array
    return os.getpid(), float(array.sum())


def test_a_forked_child_uses_what_it_inherits(heap: Heap) -> None:
    table = heap.ndarray(1000, "f8")
    table[:] = 3
    with heap.share(table) as shared:
        INHERITED[:] = [shared]
        with multiprocessing.get_context("fork").Pool(2) as workers:
            found = workers.map(use_inherited, range(4), chunksize=1)
        INHERITED.clear()
        assert {total for _, total in found} == {3000.0}
        assert os.getpid() not in dict(found)
        churn(heap)
        assert np.all(shared.array == 3), "the end of a child lets nothing go here"


def look(snap: Snapshot) -> tuple[bytes, int]:
    return SortedMap(snap, "stock")[b"apple"], snap.commit


@pytest.mark.parametrize("method", METHODS)
def test_a_snapshot_is_of_its_commit_elsewhere(file: Heap, method: str) -> None:
    stock = SortedMap(file, "stock")
    stock[b"apple"] = b"5"
    with file.read() as snap, multiprocessing.get_context(method).Pool(1) as workers:
        stock[b"apple"] = b"6"
        churn(file)
        assert workers.apply(look, (snap,)) == (b"5", snap.commit)
        snap.refresh()
        assert workers.apply(look, (snap,)) == (b"6", snap.commit)


def read_twice(first: Heap, second: Heap) -> tuple[bool, bytes]:
    with first.read() as snap:
        return first is second, SortedMap(snap, "stock")[b"apple"]


@pytest.mark.parametrize("method", METHODS)
def test_a_heap_is_opened_once(heap: Heap, method: str) -> None:
    SortedMap(heap, "stock")[b"apple"] = b"5"
    with multiprocessing.get_context(method).Pool(1) as workers:
        assert workers.apply(read_twice, (heap, heap)) == (True, b"5")
    if heap.name.endswith("/heap"):
        assert sent(heap) is heap


def test_a_renamed_file_is_found(file: Heap, tmp_path: Path) -> None:
    table = file.ndarray(10, "f8")
    table[:] = 1
    (tmp_path / "heap").rename(tmp_path / "other")
    with file.share(table) as shared, multiprocessing.get_context("spawn").Pool(1) as workers:
        assert workers.apply(summed, (shared,))[0] == 10.0


# ---------------------------------------------------------------- a sender in a hurry


def receive(pipe: Any) -> None:
    """Check what comes: all bytes are those of its number, or it was gone; say so."""
    kept: list[tuple[int, Any]] = []
    while (message := pipe.recv()) is not None:
        number, pickled = message
        shared: SharedArray = pickle.loads(pickled)
        found = "right"
        try:
            kept.append((number, shared.array))
        except SnapshotGoneError:
            found = "gone"
        shared.close()
        if not all(np.all(array == value % 251) for value, array in kept):
            found = "wrong"
        del kept[: -3 if number % 8 < 4 else None]
        pipe.send(found)
    kept.clear()


def test_what_is_sent_is_right_or_gone(file: Heap) -> None:
    """Also if the sender lets go before the receiver has it, and uses the space again."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=receive, args=(theirs,))
    child.start()
    seen: dict[str, list[str]] = {"kept": [], "let go": [], "let go before": []}
    waiting: list[str] = []
    for number in range(150):
        with file.transaction() as tx:
            block = tx.alloc(3000 + number % 7 * 5000)
            block.view[:] = bytes([number % 251]) * block.size
            if "block" in tx.roots:
                tx.free(tx.roots["block"])
            tx.roots["block"] = block.offset
        kind = ("kept", "kept", "let go", "let go before")[number % 4]
        with file.share(file.view(block.offset, block.size)) as shared:
            pickled = pickle.dumps(shared)
            if kind == "kept":
                ours.send((number, pickled))
                waiting.append(kind)
                while waiting:
                    seen[waiting.pop(0)].append(ours.recv())
        if kind != "kept":
            if kind == "let go before":
                file.trim()
            ours.send((number, pickled))
            waiting.append(kind)
            file.trim()
    while waiting:
        seen[waiting.pop(0)].append(ours.recv())
    ours.send(None)
    child.join()
    assert {*seen["kept"]} == {"right"}
    assert {*seen["let go"]} <= {"right", "gone"}
    assert {*seen["let go before"]} == {"right", "gone"}  # right as long as older ones are kept
