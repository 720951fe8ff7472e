from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pmemheap import Heap, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.heap.place import place_of
from pmemheap.units import KiB, MiB

THREADS = 4


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    """Let threads change places as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run(*works: Callable[[], object], seconds: float = 30) -> None:
    """Run each in a thread; the first exception of any is raised here."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


def heaps(tmp_path: Path) -> dict[str, Callable[[], Heap]]:
    return {
        "anonymous": lambda: Heap.anonymous(decay=0.001),
        "file": lambda: Heap.create(tmp_path / "a.heap", durability="process", decay=0.001),
    }


class Worker:
    """Allocates, resizes, frees; every block holds the worker's mark at both ends."""

    def __init__(self, heap: Heap, seed: int, steps: int) -> None:
        self.heap, self.random, self.steps = heap, random.Random(seed), steps
        self.mark = bytes([seed + 1]) * 8
        self.live: dict[int, int] = {}
        self.held: list[tuple[memoryview, int]] = []

    def size(self) -> int:
        return int(2 ** self.random.uniform(4, self.random.choice((9, 14, 19.5))))

    def write(self, offset: int, size: int) -> None:
        with self.heap.view(offset, size) as view:
            view[:8] = view[-8:] = self.mark
        self.live[offset] = size

    def verify(self, offset: int, size: int) -> None:
        with self.heap.view(offset, size) as view:
            assert view[:8] == view[-8:] == self.mark

    def __call__(self) -> None:
        for _ in range(self.steps):
            roll = self.random.random()
            if roll < 0.45 or not self.live:
                size = self.size()
                self.write(self.heap.malloc(size), size)
                continue
            offset = self.random.choice(list(self.live))
            size = self.live.pop(offset)
            self.verify(offset, size)
            if roll < 0.75:
                self.heap.free(offset)
            elif roll < 0.95:
                self.resize(offset, size)
            else:
                self.live[offset] = size
                self.batch()

    def resize(self, offset: int, size: int) -> None:
        new = self.size()
        to = self.heap.realloc(offset, new)
        kept = min(new, size)
        with self.heap.view(to, kept) as view:
            assert view[: min(8, kept)] == self.mark[:kept]
        self.write(to, new)

    def batch(self) -> None:
        offsets = self.heap.malloc_many(200, 50)
        assert not set(offsets) & set(self.live)
        self.heap.free_many(offsets)

    def finish(self) -> None:
        for offset, size in self.live.items():
            self.verify(offset, size)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["anonymous", "file"])
def test_threads_allocate_free_resize_and_grow_together(tmp_path: Path, kind: str) -> None:
    with heaps(tmp_path)[kind]() as heap:
        workers = [Worker(heap, seed, 1200) for seed in range(THREADS)]
        run(*workers)
        for worker in workers:
            worker.finish()
        assert heap.check(), heap.check()
        expected = sorted(offset for worker in workers for offset in worker.live)
        assert [offset for offset, _ in heap.blocks()] == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["anonymous", "file"])
def test_trim_and_insight_beside_threads_that_allocate(tmp_path: Path, kind: str) -> None:
    with heaps(tmp_path)[kind]() as heap:
        workers = [Worker(heap, seed, 600) for seed in range(2)]
        done = threading.Event()

        def keep_house() -> None:
            while not done.is_set():
                heap.trim()
                stats = heap.stats()
                assert stats.allocated <= stats.active <= stats.mapped
                assert heap.check(), heap.check()
                for _ in zip(heap.blocks(), range(50), strict=False):
                    pass
                heap.sync()

        def work() -> None:
            try:
                run(*workers)
            finally:
                done.set()

        run(work, keep_house, keep_house, seconds=60)
        for worker in workers:
            worker.finish()
        assert heap.check(), heap.check()


def test_views_of_one_thread_survive_growth_by_others() -> None:
    with Heap.anonymous() as heap:
        arrays = [heap.ndarray(5000, "u1") for _ in range(20)]
        for number, array in enumerate(arrays):
            array[:] = number

        def read() -> None:
            for _ in range(200):
                assert all((array == number).all() for number, array in enumerate(arrays))

        def grow() -> None:
            for _ in range(60):
                heap.malloc(MiB)

        run(read, grow, grow)
        del array
        arrays.clear()


@pytest.mark.slow
def test_stale_offsets_beside_trim_are_refused_not_followed() -> None:
    """Segments are unmapped while other threads look up offsets in them."""
    with Heap.anonymous(decay=None) as heap:
        ends_at = time.monotonic() + 1

        def grow_and_trim() -> None:
            while time.monotonic() < ends_at:
                heap.free(heap.malloc(20 * MiB))
                heap.trim()

        def look_up() -> None:
            source = random.Random(1)
            while time.monotonic() < ends_at:
                for call in (heap.usable_size, heap.view, heap.free):
                    with contextlib.suppress(PmemHeapError, BufferError):
                        call(source.randrange(MiB, 30 * MiB) // 16 * 16)

        run(grow_and_trim, look_up, look_up)
        assert heap.check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["anonymous", "file"])
def test_close_in_the_middle_of_the_calls_of_others(tmp_path: Path, kind: str) -> None:
    """They are refused from then on; a close that meets a view is refused itself."""
    for round_number in range(25):
        directory = tmp_path / str(round_number)
        directory.mkdir()
        heap = heaps(directory)[kind]()
        run(*(busy(heap, seed) for seed in range(3)), partial(close_soon, heap))
        assert heap.closed


def busy(heap: Heap, seed: int) -> Callable[[], None]:
    def work() -> None:
        source = random.Random(seed)
        while True:
            try:
                use(heap, int(2 ** source.uniform(4, 20)))
            except UsageError as error:
                if "it is closed" in str(error):
                    return
                if "live block" not in str(error):  # a handle that went stale by the close
                    raise

    return work


def use(heap: Heap, size: int) -> None:
    offset = heap.malloc(size)
    heap.view(offset)[:1] = b"x"
    offset = heap.realloc(offset, 300_000)
    list(zip(heap.blocks(), range(3), strict=False))
    heap.stats()
    name = str(threading.get_ident())
    heap.roots[name] = offset
    heap.roots.pop(name)
    heap.block(offset).free()
    heap.trim()
    heap.sync()


def close_soon(heap: Heap) -> None:
    time.sleep(0.004)
    ends_at = time.monotonic() + 20
    while not heap.closed:
        assert time.monotonic() < ends_at
        with contextlib.suppress(BufferError):
            heap.close()


@pytest.mark.slow
def test_a_block_may_be_freed_by_others_while_it_grows() -> None:
    """Whoever loses is refused: nothing leaks and nothing overlaps."""
    with Heap.anonymous(limit=64 * MiB) as heap:
        for _ in range(60):
            offset = heap.malloc(300 * KiB)
            start = threading.Barrier(4)
            outcomes: list[str] = []

            def attempt(call: Callable[[], object], name: str, start: threading.Barrier = start,
                        outcomes: list[str] = outcomes) -> Callable[[], None]:  # fmt: skip
                def work() -> None:
                    start.wait()
                    with contextlib.suppress(UsageError, BufferError, OutOfSpaceError):
                        outcomes.append(f"{name} {call()}")

                return work

            run(
                attempt(partial(heap.realloc, offset, 5 * MiB), "realloc"),
                attempt(partial(heap.expand, offset, 2 * MiB), "expand"),
                attempt(partial(heap.free, offset), "free"),
                attempt(partial(heap.malloc, 100 * KiB), "other"),
            )
            assert heap.check(), (outcomes, heap.check())
            for offset, _ in list(heap.blocks()):
                heap.free(offset)
        assert heap.stats().blocks == 0


def name_fifty(heap: Heap, prefix: int, offset: int) -> None:
    for number in range(50):
        heap.roots[f"{prefix}/{number}"] = offset


def test_roots_named_by_many_threads_are_all_there(tmp_path: Path) -> None:
    for kind in ("anonymous", "file"):
        with heaps(tmp_path)[kind]() as heap:
            offset = heap.malloc(16)

            run(*(partial(name_fifty, heap, prefix, offset) for prefix in range(THREADS)))
            assert len(heap.roots) == len(dict(heap.roots)) == THREADS * 50
            assert heap.check()


@pytest.mark.checked
def test_a_walk_gets_on_when_threads_move_the_borders() -> None:
    """Between two steps of a walk the cursor may have come to lie inside of a run."""
    with Heap.anonymous(decay=None) as heap:
        run = heap.malloc(3000)  # the first block of a run of several units
        assert place_of(heap._space.core, run)[2] > 1
        inside = run // 4096 + 1
        piece = heap._space.core.walk(inside)
        assert piece is None or piece[0] > inside
