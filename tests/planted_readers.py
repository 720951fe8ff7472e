"""What gives it away that a rule of readers is left out, each in a heap of its own."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

from pairs_worlds import run

from pmemheap import Heap, SnapshotGoneError, UsageError
from pmemheap.testing.parts import Begin
from pmemheap.units import MiB

SIZE = 5000


def _with_block(path: Path) -> Heap:
    heap = Heap.create(path, durability="process", readers=True)
    with heap.transaction() as tx:
        block = tx.alloc(SIZE)
        block.view[:] = b"a" * SIZE
        tx.roots["block"] = block.offset
    return heap


def _use_again(heap: Heap) -> None:
    """Free the block while somebody reads, so that it gets a tag, and write to what is free."""
    with heap.read(), heap.transaction() as tx:
        tx.free(tx.roots.pop("block"))
    heap.trim()
    for _ in range(20):
        heap.alloc(SIZE).view[:] = b"b" * SIZE


def by_turns(name: str, begin: Begin = "read") -> Callable[[Path], str | None]:
    """Return a search through the schedules of a writer and a reader."""

    def found(directory: Path) -> str | None:
        try:
            run(directory, name, begin, kills=0)
        except AssertionError as error:
            return str(error)
        return None

    return found


def adopted_late(directory: Path) -> str | None:
    """An array that its sender has let go is gone, or as it was."""
    with _with_block(directory / "heap") as heap:
        with heap.share(heap.view(heap.roots["block"], SIZE)) as shared:
            sent = pickle.dumps(shared)
        _use_again(heap)
        late = pickle.loads(sent)
        try:
            found = bytes(late.view)
        except SnapshotGoneError:
            return None
        finally:
            late.close()
    return None if found == b"a" * SIZE else "an array that was let go has bytes of another block"


def taken_over(directory: Path) -> str | None:
    """A writer that takes over uses nothing that a snapshot of before may show."""
    path = directory / "heap"
    writer = _with_block(path)
    snap = Heap.open(path, readonly=True).read()
    view = snap.view(snap.roots["block"], SIZE)
    with writer.transaction() as tx:
        tx.free(tx.roots.pop("block"))
    writer.close()
    with Heap.open(path, readers=True) as heap:
        heap.alloc(SIZE).view[:] = b"b" * SIZE
    found = bytes(view)
    return None if found == b"a" * SIZE else f"a snapshot has {found[:1]!r} of another block"


def outlived(directory: Path) -> str | None:
    """A reader that is killed pins nothing any more, though a child that it has forked goes on."""
    path = directory / "heap"
    with _with_block(path) as heap:
        reader, child = _forked_reader(path)
        before = [each.pid for each in heap.readers()]
        os.kill(reader, signal.SIGKILL)
        os.waitpid(reader, 0)
        after = [each.pid for each in heap.readers()]
        os.kill(child, signal.SIGKILL)
    assert before == [reader]
    return f"process {reader} has ended, and is a reader still" if after else None


def _forked_reader(path: Path) -> tuple[int, int]:
    """Return a process with a snapshot, and a child of it, made afterwards."""
    receiver, sender = os.pipe()
    reader = os.fork()
    if reader == 0:
        heap = Heap.open(path, readonly=True)
        snap = heap.read()
        if os.fork() == 0:
            os.write(sender, os.getpid().to_bytes(4, "little"))
        while snap:
            signal.pause()
    child = int.from_bytes(os.read(receiver, 4), "little")
    os.close(receiver)
    os.close(sender)
    return reader, child


def dropped(directory: Path) -> str | None:
    """What an arena had is not used again as long as a snapshot of before is there."""
    path = directory / "heap"
    with _with_block(path) as heap, Heap.open(path, readonly=True) as reader:
        arena = heap.arena("short")
        with heap.transaction() as tx:
            block = tx.alloc(SIZE, arena=arena)
            block.view[:] = b"c" * SIZE
            tx.roots["short"] = block.offset
            del block
        with reader.read() as snap:
            view = snap.view(snap.roots["short"], SIZE)
            del heap.roots["short"]
            arena.drop()
            heap.alloc(8 * MiB).view[:] = b"b" * (8 * MiB)
            heap.trim()
            found = bytes(view)
            view.release()
    return None if found == b"c" * SIZE else f"a snapshot has {found[:1]!r} of a dropped arena"


def unmapped(directory: Path) -> str | None:
    """What a commit leads to is mapped before its roots are believed."""
    path = directory / "heap"
    with _with_block(path) as heap, Heap.open(path, readonly=True) as reader, reader.read() as snap:
        with heap.transaction() as tx:
            block = tx.alloc(8 * MiB)
            block.view[-4:] = b"last"
            tx.roots["large"] = block.offset
            del block
        snap.refresh()
        try:
            found = bytes(snap.view(snap.roots["large"] + 8 * MiB - 4, 4))
        except UsageError as error:
            return str(error)
    return None if found == b"last" else f"bytes that were stored expected, {found!r} found"
