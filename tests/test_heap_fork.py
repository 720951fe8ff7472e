"""A forked child: its parent's heap is not its own, not for calls, stores or locks."""

from __future__ import annotations

import errno
import faulthandler
import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from heap_world import answer, contents, descriptors, fill, python

from pmemheap import DurabilityName, Heap, native
from pmemheap.containers import SortedMap, Vector, vectorchange
from pmemheap.errors import PmemHeapError, UsageError
from pmemheap.format.superblock import newest_superblock
from pmemheap.layout import HeapState
from pmemheap.native import FaultKind
from pmemheap.units import KiB, MiB

pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")


def exit_code_of_child(work: Callable[[], object], seconds: int = 30) -> int:
    """Do something in a forked child; its exit code, 1 if it raises, -SIGALRM if it hangs."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        try:
            work()
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def in_child(work: Callable[[], object]) -> None:
    """Do something in a forked child; fail if it raises or dies there."""
    assert exit_code_of_child(work) == 0


def make(medium: str, directory: Path) -> Heap:
    if medium == "anonymous":
        return Heap.anonymous()
    return Heap.shared() if medium == "shared" else Heap.create(directory / "heap")


MEDIA = ["anonymous", "shared", "file"]


@pytest.mark.parametrize("medium", MEDIA)
def test_child_may_not_call(medium: str, tmp_path: Path) -> None:
    heap = make(medium, tmp_path)
    offset = heap.malloc(100)
    block = heap.alloc(10)
    calls: list[Callable[[], object]] = [
        lambda: heap.malloc(10),
        lambda: heap.malloc_many(10, 10),
        lambda: heap.free(offset),
        lambda: heap.free_many([offset]),
        lambda: heap.realloc(offset, 1000),
        lambda: heap.expand(offset, 1000),
        lambda: heap.usable_size(offset),
        lambda: heap.view(offset),
        lambda: heap.ndarray_at(offset, 10, "u1"),
        lambda: heap.ndarray(10),
        lambda: heap.block(offset),
        lambda: heap.alloc(10),
        lambda: block.view,
        lambda: block.offset,
        heap.trim,
        heap.stats,
        lambda: heap.explain(10),
        heap.check,
        lambda: list(heap.blocks()),
        heap.sync,
        heap.fileno,
        lambda: heap.roots.__setitem__("a", offset),
        lambda: heap.roots["a"],
        lambda: list(heap.roots),
    ]

    def refuse_all() -> None:
        for call in calls:
            with pytest.raises(UsageError, match="parent"):
                call()
        assert "forked" in repr(heap)
        heap.close()
        assert heap.closed

    in_child(refuse_all)
    block.free()
    heap.free(offset)
    assert heap.check()
    heap.close()


@pytest.mark.parametrize("medium", MEDIA)
def test_stores_of_the_child_stay_its_own(medium: str, tmp_path: Path) -> None:
    heap = make(medium, tmp_path)
    offsets = [heap.malloc(size) for size in (100, 40 * KiB, 2 * MiB)]
    for seed, offset in enumerate(offsets):
        fill(heap, offset, seed)
    before = contents(heap)
    views = [heap.view(offset) for offset in offsets]

    def store() -> None:
        for view, offset in zip(views, offsets, strict=True):
            assert bytes(view) == before[offset]
            view[:] = b"x" * len(view)
            assert bytes(view) == b"x" * len(view)

    in_child(store)
    assert contents(heap) == before
    views.clear()
    heap.close()
    if medium == "file":
        with Heap.open(tmp_path / "heap") as reopened:
            assert contents(reopened) == before


@pytest.mark.parametrize("medium", MEDIA)
def test_child_that_ends_leaves_the_parent_alone(medium: str, tmp_path: Path) -> None:
    heap = make(medium, tmp_path)
    offset = heap.malloc(1000)
    fill(heap, offset, 5)

    def drop() -> None:
        nonlocal heap
        view = heap.view  # keeps the heap
        del view
        heap = Heap.anonymous()

    in_child(drop)
    in_child(heap.__del__)
    assert heap.view(offset)[0] == 5
    heap.malloc(5 * MiB)
    assert heap.check()
    heap.close()


def test_child_opens_a_handle_of_its_own_after_the_parent_closed(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap")
    offset = heap.malloc(10)
    heap.roots["a"] = offset
    ready, release = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(release[1])
            with pytest.raises(UsageError, match=f"process {os.getppid()} has it open"):
                Heap.open(tmp_path / "heap")
            os.write(ready[1], b"!")
            os.read(release[0], 1)
            with Heap.open(tmp_path / "heap") as own:
                own.view(own.roots["a"])[:3] = b"own"
            code = 0
        finally:
            os._exit(code)
    os.close(ready[1])
    assert os.read(ready[0], 1) == b"!"
    heap.close()
    os.write(release[1], b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for fd in (ready[0], *release):
        os.close(fd)
    with Heap.open(tmp_path / "heap", readonly=True) as heap:
        assert bytes(heap.view(offset, 3)) == b"own"


PARENT_THAT_FORKS = """
import os, sys, time
from pmemheap import Heap
heap = Heap.{make}(sys.argv[1])
offset = heap.malloc(100) if not heap.readonly else next(heap.blocks())[0]
view = heap.view(offset)
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)  # with a live view, and all that it has inherited
    os._exit(0)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["create", "open(readonly=True)"])
def test_lock_goes_with_the_parent_not_with_the_child(how: str, tmp_path: Path) -> None:
    path = tmp_path / "heap"
    code = PARENT_THAT_FORKS.format(make="create")
    if how != "create":
        with Heap.create(path) as heap:
            heap.malloc(10)
        code = code.replace("Heap.create(sys.argv[1])", "Heap.open(sys.argv[1], readonly=True)")
    parent = python(code, path)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        with pytest.raises(UsageError, match=r"(has|have) it open"):
            Heap.open(path)
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # the child is there still
        with Heap.open(path) as heap:
            assert heap.check()
    finally:
        os.kill(child, signal.SIGKILL)
        parent.communicate()


def test_child_of_a_child_is_refused_too(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap")

    def fork_again() -> None:
        in_child(refused)

    def refused() -> None:
        with pytest.raises(UsageError, match="parent"):
            heap.malloc(10)

    in_child(fork_again)
    heap.close()


@pytest.mark.slow
def test_spawned_process_shares_nothing(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap"):
        code = "import os; print(sorted(os.listdir('/proc/self/fd')))"
        assert answer(python(code)).count("'") == 8, "standard streams and the directory itself"


# ---------------------------------------------------------------- each heap by itself

PARENT, CHILD = b"parent", b"CHILD!"


class Family:
    """Heaps of all kinds, and what a child must not do to them."""

    def __init__(self, directory: Path, count: int = 3) -> None:
        self.heaps = [Heap.anonymous(), Heap.shared()]
        for number in range(count):
            durability: DurabilityName = "power" if number % 2 else "process"
            self.heaps.append(Heap.create(directory / f"heap{number}", durability=durability))
        self.views = [heap.view(heap.malloc(100)) for heap in self.heaps]
        for heap in self.heaps:
            arena = heap.arena("named")
            self.views.append(arena.view(arena.malloc(5 * KiB)))
        for view in self.views:
            view[:6] = PARENT

    def refuse(self) -> None:
        """Be in a child: all heaps refuse, and what is stored stays here."""
        for heap in self.heaps:
            with pytest.raises(UsageError, match="parent"):
                heap.malloc(10)
            with pytest.raises(UsageError, match="parent"), heap.transaction():
                pass
        for view in self.views:
            assert bytes(view[:6]) == PARENT
            view[:6] = CHILD
        assert shared_maps() == []

    def check(self) -> None:
        for view in self.views:
            assert bytes(view[:6]) == PARENT
        for heap in self.heaps:
            assert heap.check()

    def close(self) -> None:
        self.check()
        self.views.clear()
        for heap in self.heaps:
            heap.close()


def shared_maps() -> list[str]:
    """Return the maps of this process that reach a heap's file."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        lines = [line.strip() for line in maps if line.split()[1][3] == "s"]
    return [line for line in lines if "heap" in line.rpartition("/")[2] or "memfd" in line]


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    made = Family(tmp_path)
    yield made
    made.close()


def test_heaps_of_a_child_are_kept_from_its_own_children(family: Family, tmp_path: Path) -> None:
    def open_and_fork() -> None:
        family.refuse()
        own = Family(tmp_path / "child")
        in_child(own.refuse)
        for heap in own.heaps:
            with heap.transaction() as tx:
                tx.roots["mine"] = tx.malloc(100)
        own.close()

    (tmp_path / "child").mkdir()
    in_child(open_and_fork)
    with Heap.open(tmp_path / "child" / "heap1") as heap:
        assert "mine" in heap.roots


@contextmanager
def limited_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_fork_needs_no_descriptor(family: Family) -> None:
    """At the limit nothing can be opened; the child looks at its maps when it may again."""

    def refuse() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        family.refuse()

    with limited_descriptors():
        in_child(refuse)


def test_fork_needs_no_rights(tmp_path: Path) -> None:
    """A server opens its files, and becomes somebody who may not open them any more."""

    def serve() -> None:
        family = Family(tmp_path)
        for path in tmp_path.iterdir():
            path.chmod(0)
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        in_child(family.refuse)
        family.check()

    in_child(serve)


@pytest.mark.unsanitized
def test_what_cannot_be_made_private_cannot_be_reached(family: Family) -> None:
    """Rather a child that dies than one that stores to the parent's file."""
    codes = []
    for view in family.views:
        with native.faults(1, errno.ENOMEM, FaultKind.FROM):
            child = os.fork()
            if child == 0:
                faulthandler.disable()
                view[:6] = CHILD
                os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    private = [
        heap._space.shared.medium.__class__.__name__ == "AnonymousMedium" for heap in family.heaps
    ] * 2
    assert codes == [0 if own else -signal.SIGSEGV for own in private]


@pytest.mark.slow
def test_fork_while_another_thread_changes_heaps(family: Family, tmp_path: Path) -> None:
    """Heaps that are made, grown, trimmed, dropped and closed at the moment of the fork."""
    over = threading.Event()

    def drop() -> None:
        while not over.is_set():
            one = Heap.shared()
            one.malloc(2 * MiB)
            del one

    def grow(number: int) -> None:
        heap = family.heaps[number]
        while not over.is_set():
            offset = heap.malloc(3 * MiB)
            arena = heap.arena("passing")
            arena.malloc(MiB)
            arena.drop()
            heap.free(offset)
            heap.trim()

    def remake() -> None:
        path = tmp_path / "passing"
        while not over.is_set():
            with Heap.create(path, durability="process", replace=True) as heap:
                heap.roots["a"] = heap.malloc(10)

    threads = [threading.Thread(target=drop), threading.Thread(target=remake)]
    threads += [threading.Thread(target=grow, args=(number,)) for number in (1, 2, 3)]
    switching = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + float(os.environ.get("PMEMHEAP_FORK_SECONDS", "2"))
        while time.monotonic() < end:
            in_child(family.refuse)
    finally:
        sys.setswitchinterval(switching)
        over.set()
        for thread in threads:
            thread.join()


def test_fork_in_the_middle_of_a_drop(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finalizer of one heap is at work: the others are kept from the child all the same."""
    close = os.close
    forked: list[int] = []

    def fork_and_close(fd: int) -> None:
        if not forked:
            forked.append(fd)
            in_child(family.refuse)
        close(fd)

    dropped = Heap.shared()
    monkeypatch.setattr(os, "close", fork_and_close)
    del dropped
    assert forked


def test_child_has_no_part_in_a_heap_that_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler forks, and the child goes on in the middle: no file gets or loses a name."""
    fsync = native.fsync
    codes: list[int] = []

    def fork_and_sync(fd: int) -> None:
        if not codes:
            codes.append(-1)
            child = os.fork()
            if child == 0:
                sync(fd)
                return
            codes[0] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        fsync(fd)

    def sync(fd: int) -> None:
        with suppress(OSError):
            fsync(fd)

    monkeypatch.setattr(native, "fsync", fork_and_sync)
    parent = os.getpid()
    try:
        heap = Heap.create(tmp_path / "heap")
    except BaseException as error:
        if os.getpid() != parent:
            os._exit(7 if isinstance(error, PmemHeapError) else 8)
        raise
    if os.getpid() != parent:
        os._exit(9)
    assert codes == [7]
    heap.malloc(10)
    heap.close()
    Heap.open(tmp_path / "heap").close()


def test_child_waits_for_no_lock_of_another_thread(family: Family) -> None:
    """Threads that hold the lock of a heap, or sync its log, are not there in the child."""
    held, over = threading.Barrier(len(family.heaps) + 1), threading.Event()

    def hold(heap: Heap) -> None:
        def wait() -> None:
            held.wait()
            over.wait()

        heap._space.alone(wait)

    threads = [threading.Thread(target=hold, args=(heap,)) for heap in family.heaps]
    for thread in threads:
        thread.start()
    held.wait()

    def refuse() -> None:
        for heap in family.heaps:
            calls: list[Callable[[], object]] = [
                heap.trim,
                heap.stats,
                heap.check,
                heap.sync,
                partial(heap.arena, "new"),
                partial(heap.roots.get, "a"),
                partial(heap._space.serve, list),
                heap._space.shared.arenas.open[1].drop,
            ]
            for call in calls:
                with pytest.raises(UsageError, match="parent"):
                    call()
            heap.close()

    try:
        assert exit_code_of_child(refuse, seconds=10) == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_child_makes_heaps_of_its_own_whatever_other_threads_were_doing() -> None:
    """The locks of the process that a thread held are not held in the child."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with vectorchange._making:
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def make_vector() -> None:
        with Heap.anonymous() as heap:
            numbers = Vector(heap, "numbers", "i8")
            numbers.extend(range(1000))
            assert len(numbers) == 1000

    try:
        assert exit_code_of_child(make_vector, seconds=10) == 0
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("medium", MEDIA)
def test_fork_in_a_transaction(medium: str, tmp_path: Path) -> None:
    """The child may end it in any way, or drop it: that is nothing to the parent."""
    heap = make(medium, tmp_path)
    kept = heap.malloc(100)
    fill(heap, kept, 3)
    table = SortedMap(heap, "table")
    table[b"before"] = b"1"
    with heap.transaction() as tx:
        tx.snapshot(kept, 100)
        heap.view(kept)[:5] = b"tried"
        tx.write(kept + 50, b"later")
        table[b"inside"] = b"2"
        with heap.transaction() as point:
            point.malloc(10)

            def end_all() -> None:
                for end in (point.abort, tx.commit, tx.abort, tx._finish):
                    with suppress(UsageError):
                        end()
                with pytest.raises(UsageError, match="parent"):
                    table.get(b"before")

            in_child(end_all)
        tx.roots["kept"] = kept
    assert bytes(heap.view(kept, 5)) == b"tried"
    assert bytes(heap.view(kept + 0, 55))[50:] == b"later"
    assert dict(table.items()) == {b"before": b"1", b"inside": b"2"}
    assert heap.check()
    heap.close()


def test_dropped_heap_whose_view_lives_is_private_in_the_child(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap", durability="process")
    views = [heap.view(heap.malloc(100))]
    arena = heap.arena("named")
    views.append(arena.view(arena.malloc(100)))
    del arena
    for view in views:
        view[:6] = PARENT
    before = descriptors()
    del heap  # the file is closed, the memory stays

    def store() -> None:
        for view in views:
            assert bytes(view[:6]) == PARENT
            view[:6] = CHILD

    in_child(store)
    assert [bytes(view[:6]) for view in views] == [PARENT] * 2
    views.clear()
    del view
    gc.collect()
    assert len(descriptors()) == len(before) - 2


def test_reader_in_a_child_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path) as heap:
        offset = heap.malloc(100)
    reader = Heap.open(path, readonly=True)
    view = reader.view(offset)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(view[0])
    view.release()
    reader.close()
    with Heap.open(path) as heap:  # the child has its maps and its view still
        assert heap.check()
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(read)


ENDS = """
import gc, os, sys
from pmemheap import Heap
home = sys.argv[1]
heaps = [Heap.shared(), Heap.create(home + "/a"), Heap.create(home + "/b", durability="process")]
kept = [heap.view(heap.malloc(100)) for heap in heaps]
transactions = [heap.transaction() for heap in heaps]
for tx in transactions:
    tx.roots["late"] = tx.malloc(10)
child = os.fork()
if child == 0:
    sys.exit(0)  # with all finalizers and functions of atexit, views and transactions alive
assert os.waitpid(child, 0)[1] == 0
for heap, view in zip(heaps, kept):
    view[:5] = b"still"
    heap.roots["after"] = heap.malloc(10)
    assert heap.check()
print("well")
os._exit(0)  # as if it was killed
"""


@pytest.mark.slow
def test_child_that_ends_like_a_program_closes_nothing(tmp_path: Path) -> None:
    assert answer(python(ENDS, tmp_path)) == "well"
    for name in "ab":
        with Heap.open(tmp_path / name) as heap:
            assert "after" in heap.roots
            assert "late" not in heap.roots


def _use_inherited(heap: Heap, results: multiprocessing.SimpleQueue[str]) -> None:
    try:
        heap.malloc(10)
    except UsageError:
        results.put("refused")
    heap.close()


@pytest.mark.slow
def test_worker_of_multiprocessing_is_a_child_like_any_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with Heap.create(tmp_path / "heap") as heap:
        results = context.SimpleQueue()
        worker = context.Process(target=_use_inherited, args=(heap, results))
        worker.start()
        assert results.get() == "refused"
        worker.join()
        assert worker.exitcode == 0
        heap.malloc(10)
        assert heap.check()


@pytest.mark.slow
def test_programs_that_are_started_take_nothing_along(family: Family) -> None:
    """By vfork the child has the parent's memory, by fork a copy; neither changes anything."""
    ways: list[dict[str, Any]] = [
        {}, {"preexec_fn": lambda: None}, {"close_fds": False}, {"start_new_session": True},
    ]  # fmt: skip
    for options in ways:
        subprocess.run(["true"], check=True, **options)
        family.check()
    os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)
    family.check()
    for heap in family.heaps:
        heap.free(heap.malloc(2 * MiB))


@pytest.mark.slow
def test_one_heap_that_cannot_be_closed_at_exit_does_not_keep_the_others_open(
    tmp_path: Path,
) -> None:
    code = """
import atexit, os, sys
atexit.register(lambda: os._exit(0))  # the last of them: no finalizer comes after that
from pmemheap import Heap
from pmemheap.heap import living
heaps = [Heap.create(f"{sys.argv[1]}/{n}") for n in range(3)]
for each in heaps: each.malloc(10)
rest = living.rest
def fail(space):
    if space is heaps[1]._space: raise RuntimeError("on purpose")
    rest(space)
living.rest = fail
"""
    python(code, tmp_path).communicate()
    states = [
        newest_superblock((image[:512], image[0x1000:0x1200]))[0].state
        for image in ((tmp_path / str(number)).read_bytes() for number in range(3))
    ]
    assert states == [HeapState.CLEAN, HeapState.IN_USE, HeapState.CLEAN]
