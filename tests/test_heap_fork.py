"""A forked child: its parent's heap is not its own, not for calls, stores or locks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from heap_world import answer, contents, fill, python

from pmemheap import Heap
from pmemheap.errors import UsageError
from pmemheap.units import KiB, MiB

pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")


def in_child(work: Callable[[], object]) -> None:
    """Do something in a forked child; fail if it raises or dies there."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


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
