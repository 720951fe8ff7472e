"""Who wants the heap for itself waits for what others have begun, and sees one committed state."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from heap_world import named

from pmemheap import CorruptHeapError, DurabilityName, Heap, PmemHeapError, UsageError
from pmemheap.containers import SortedMap
from pmemheap.heap import gate
from pmemheap.heap.gate import Gate, Shut
from pmemheap.kvstore import KVStore

KINDS = ["anonymous", "shared", "process", "power"]
FILES = ["process", "power"]


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def heap_of(kind: str, tmp_path: Path) -> Heap:
    if kind == "anonymous":
        return Heap.anonymous()
    return (
        Heap.shared()
        if kind == "shared"
        else Heap.create(tmp_path / "heap", durability=named(kind))
    )


class Busy:
    """Threads that do something again and again until the block ends; it raises what they raise.

    The block begins when each of them has done it once.
    """

    def __init__(self, *works: Callable[[], object]) -> None:
        self._stop, self._failures = threading.Event(), list[BaseException]()
        self._idle = set(range(len(works)))
        self._threads = [
            threading.Thread(target=self._run, args=each, daemon=True) for each in enumerate(works)
        ]

    def _run(self, number: int, work: Callable[[], object]) -> None:
        try:
            while not self._stop.is_set():
                work()
                self._idle.discard(number)
        except BaseException as error:
            self._failures.append(error)

    def __enter__(self) -> Busy:
        for thread in self._threads:
            thread.start()
        while self._idle and not self._failures:
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a thread hangs"
        if self._failures:
            raise self._failures[0]


def put(found: SortedMap, name: bytes) -> Callable[[], None]:
    count = iter(range(1 << 60))

    def work() -> None:
        number = next(count)
        found[b"%b%d" % (name, number % 400)] = bytes(number % 2500)

    return work


def commit_two(heap: Heap, name: str) -> Callable[[], None]:
    """Give two roots the same new block."""

    def work() -> None:
        with heap.transaction() as tx:
            offset = tx.malloc(100)
            tx.roots[f"{name} 1"] = offset
            tx.roots[f"{name} 2"] = offset

    return work


def ignoring(kinds: Any, work: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        with contextlib.suppress(kinds):
            work()

    return call


# ---------------------------------------------------------------- snapshot, close


@pytest.mark.parametrize("kind", FILES)
def test_a_snapshot_waits_for_commits_of_other_threads(kind: str, tmp_path: Path) -> None:
    with heap_of(kind, tmp_path) as heap:
        found = SortedMap(heap, "map")
        works = [put(found, b"a"), put(found, b"b"), commit_two(heap, "c")]
        with Busy(*works):
            for number in range(5):
                heap.snapshot(tmp_path / f"copy {number}")
    for number in range(5):
        with Heap.open(tmp_path / f"copy {number}") as copied:
            SortedMap(copied, "map").check()
            assert copied.roots["c 1"] == copied.roots["c 2"]
            assert copied.check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_close_is_served_beside_threads_that_commit(kind: str, tmp_path: Path) -> None:
    heap = heap_of(kind, tmp_path)
    found = SortedMap(heap, "map")
    works = [put(found, b"a"), put(found, b"b"), commit_two(heap, "c"), put(found, b"d")]
    with Busy(*(ignoring(UsageError, work) for work in works)):
        began = time.monotonic()
        heap.close()
        assert time.monotonic() - began < 4
        assert heap.closed
    if kind in FILES:
        with Heap.open(tmp_path / "heap") as heap:
            SortedMap(heap, "map").check()
            assert heap.check()


def put_until_closed(found: SortedMap, done: list[int]) -> Callable[[], None]:
    refused = threading.Event()

    def work() -> None:
        if refused.is_set():
            return
        try:
            found[b"%d" % len(done)] = b"v"
        except UsageError as error:
            if "it is closed" not in str(error):
                raise
            refused.set()
        else:
            done.append(len(done))

    return work


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_a_commit_beside_close_is_done_or_refused_as_closed(kind: str, tmp_path: Path) -> None:
    """It was called a failed sync, or a refusal of what was committed."""
    for number in range(15):
        path = tmp_path / f"{number}"
        heap = Heap.create(path, durability=named(kind))
        done: list[int] = []
        with Busy(put_until_closed(SortedMap(heap, "map"), done)):
            time.sleep(0.002 * number)
            heap.close()
        with Heap.open(path) as heap:
            assert sorted(map(int, SortedMap(heap, "map"))) == done


def in_another_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True, name="the other one")
    thread.start()
    return thread


@pytest.mark.parametrize("call", ["close", "snapshot"])
def test_an_open_transaction_of_another_thread_is_waited_for(call: str, tmp_path: Path) -> None:
    heap = heap_of("process", tmp_path)
    begun, order = threading.Event(), list[str]()

    def work() -> None:
        with heap.transaction() as tx:
            begun.set()
            time.sleep(0.2)
            tx.roots["a"] = tx.malloc(10)
            with heap.transaction() as savepoint:
                savepoint.malloc(10)
            order.append("commit")

    thread = in_another_thread(work)
    begun.wait()
    if call == "close":
        heap.close()
    else:
        heap.snapshot(tmp_path / "copy")
    order.append(call)
    thread.join()
    assert order == ["commit", call]
    heap.close()
    with Heap.open(tmp_path / ("heap" if call == "close" else "copy")) as heap:
        assert list(heap.roots) == ["a"]


@pytest.mark.parametrize("call", ["close", "snapshot"])
def test_nobody_waits_for_ever_and_the_thread_is_named(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "PATIENCE", 0.2)
    heap = heap_of("power", tmp_path)
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        with heap.transaction():
            begun.set()
            end.wait()

    thread = in_another_thread(work)
    begun.wait()
    calls: dict[str, tuple[Any, Callable[[], None]]] = {
        "close": (BufferError, heap.close),
        "snapshot": (UsageError, lambda: heap.snapshot(tmp_path / "copy")),
    }
    kind, refused = calls[call]
    with pytest.raises(kind, match=r"no open transaction.*1 found, of thread 'the other one'"):
        refused()
    heap.roots["a"] = heap.malloc(10)  # the heap goes on
    with heap.transaction() as tx:
        tx.roots["b"] = heap.roots["a"]
    end.set()
    thread.join()
    refused()
    heap.close()


def test_a_transaction_of_a_thread_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    heap = heap_of("process", tmp_path)
    kept: list[Any] = []
    in_another_thread(lambda: kept.append(heap.transaction())).join()
    began = time.monotonic()
    with pytest.raises(BufferError, match="no open transaction"):
        heap.close()
    assert time.monotonic() - began < gate.PATIENCE / 2
    kept.clear()
    heap.close()


@pytest.mark.parametrize("call", ["close", "snapshot"])
def test_a_transaction_of_the_same_thread_is_refused_at_once(call: str, tmp_path: Path) -> None:
    heap = heap_of("process", tmp_path)
    with heap.transaction() as tx:
        began = time.monotonic()
        with pytest.raises((BufferError, UsageError), match="no open transaction expected"):
            heap.close() if call == "close" else heap.snapshot(tmp_path / "copy")
        assert time.monotonic() - began < gate.PATIENCE / 2
        tx.malloc(10)
    heap.close()


# ---------------------------------------------------------------- check, statistics, pauses


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_looked_at_beside_writers_is_sound(kind: str, tmp_path: Path) -> None:
    heap = heap_of(kind, tmp_path)
    found = SortedMap(heap, "map")
    kept: list[int] = []

    def bare() -> None:
        kept.extend(heap.malloc_many(200, 50))
        kept.append(heap.malloc(300_000))
        for _ in range(40):
            heap.free(kept.pop())

    with Busy(put(found, b"a"), put(found, b"b"), commit_two(heap, "c"), bare):
        until = time.monotonic() + 1
        looks = 0
        while time.monotonic() < until:
            found.check()
            assert found.statistics().entries <= 800
            report = heap.check()
            assert report, str(report)
            stats = heap.stats()
            assert stats.allocated <= stats.active <= stats.resident
            looks += 1
    assert looks > 3
    heap.close()


@pytest.mark.slow
@pytest.mark.parametrize("durability", FILES)
def test_a_store_is_checked_beside_all_that_changes_it(
    durability: DurabilityName, tmp_path: Path
) -> None:
    with KVStore(tmp_path / "a.kv", durability) as store:
        count = iter(range(1 << 60))

        def change() -> None:
            number = next(count)
            key = b"%d" % (number % 200)
            store.set(key, bytes(number % 2000), ttl=0.001 if number % 3 == 0 else None)
            store.delete(b"%d" % (number * 7 % 200))
            if number % 50 == 0:
                store.purge()
            if number % 400 == 0:
                store.compact()

        with Busy(change, change):
            until = time.monotonic() + 1
            while time.monotonic() < until:
                store.check()
                store.stats()
        store.check()


def test_a_check_beside_close_is_whole_or_refused_as_closed(tmp_path: Path) -> None:
    """It called what it could not see any more damaged."""
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        found = SortedMap(heap, "map")
        found.update((b"%d" % number, bytes(1500)) for number in range(300))
    for number in range(10):
        heap = Heap.open(path)
        found = SortedMap(heap, "map")

        def look(found: SortedMap = found, heap: Heap = heap) -> None:
            found.check()
            assert heap.check()

        with Busy(ignoring(UsageError, look)):
            time.sleep(0.001 * number)
            heap.close()


def test_damage_is_damage_also_beside_writers(tmp_path: Path) -> None:
    with heap_of("process", tmp_path) as heap:
        found = SortedMap(heap, "map")
        found.update((b"%d" % number, b"v") for number in range(1000))
        other = SortedMap(heap, "other")
        root = found._header()[0]
        heap.view(root)[16:2000] = bytes(1984)
        with Busy(put(other, b"a")), pytest.raises(CorruptHeapError, match="'map'"):
            found.check()


@pytest.mark.parametrize("kind", KINDS)
def test_while_it_is_paused_nothing_is_committed(kind: str, tmp_path: Path) -> None:
    with heap_of(kind, tmp_path) as heap:
        found = SortedMap(heap, "map")
        with Busy(put(found, b"a"), commit_two(heap, "c"), lambda: heap.free(heap.malloc(64))):
            for _ in range(5):
                with heap.paused():
                    before = list(found.items()), dict(heap.roots)
                    time.sleep(0.01)
                    with heap.paused():
                        assert (list(found.items()), dict(heap.roots)) == before
                time.sleep(0.002)


def test_in_a_pause_the_thread_itself_commits_nothing(tmp_path: Path) -> None:
    with heap_of("process", tmp_path) as heap:
        found = SortedMap(heap, "map")
        changes: list[Callable[[], object]] = [
            lambda: found.__setitem__(b"k", b"v"),
            lambda: heap.transaction().commit(),
        ]
        with heap.paused():
            for change in changes:
                with pytest.raises(UsageError, match="none expected to begin or commit"):
                    change()
        found[b"k"] = b"v"
        assert list(found) == [b"k"]


def test_a_transaction_sees_itself_in_a_pause(tmp_path: Path) -> None:
    with heap_of("power", tmp_path) as heap:
        found = SortedMap(heap, "map")
        with heap.transaction():
            found[b"k"] = b"v"
            with heap.paused():
                assert found[b"k"] == b"v"
            found.check()
            assert heap.check()


def test_a_reader_can_be_paused_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    Heap.create(path, durability="process").close()
    before = path.read_bytes()
    for readonly in (True, False):
        with Heap.open(path, readonly=readonly) as heap:
            with heap.paused():
                assert not heap.roots
            assert heap.check()
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="an open heap"), heap.paused():
        pass


# ---------------------------------------------------------------- the gate


def test_the_gate_is_open_again_after_an_exception(tmp_path: Path) -> None:
    with heap_of("process", tmp_path) as heap:
        with pytest.raises(KeyError), heap.paused():
            raise KeyError
        with heap.transaction() as tx:
            tx.malloc(10)


def test_a_gate_that_an_interrupt_left_shut_is_opened_by_who_waits() -> None:
    with Heap.anonymous() as heap:
        for what in (Shut.BEGIN, Shut.COMMIT):
            heap._space.shared.log.gate(what)
            with heap.transaction() as tx:
                tx.malloc(10)


def test_one_thread_at_a_time_shuts_the_gate() -> None:
    made, order = Gate(), list[int]()

    def work(number: int) -> None:
        with made.shut(Shut.COMMIT):
            assert made.is_mine
            order.append(number)
            time.sleep(0.01)
            order.append(number)

    threads = [in_another_thread(lambda number=number: work(number)) for number in range(5)]  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2]
    assert not made.is_mine


def test_a_walk_over_blocks_says_that_the_heap_was_closed(tmp_path: Path) -> None:
    heap = heap_of("process", tmp_path)
    heap.malloc_many(64, 5000)
    walk = heap.blocks()
    next(walk)
    heap.close()
    with pytest.raises(PmemHeapError, match="it is closed"):
        list(walk)
