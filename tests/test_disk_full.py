"""A disk that really is full: every store has its block, every refusal is an exception.

Here by RLIMIT_FSIZE, which works everywhere; on file systems that are full in `disk_full_load.py`.
"""

from __future__ import annotations

import errno
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kill_oracle import Entry, Found, Ledger, Model, Player
from kill_script import SMALL_LOG, Actor, emptied, made, reopened

from pmemheap import native
from pmemheap.errors import OutOfSpaceError
from pmemheap.native import Call, FaultKind
from pmemheap.units import KiB, MiB

pytestmark = pytest.mark.slow

SMALL = 4 * MiB


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def fill_up(path: Path, seed: int) -> tuple[int, int]:
    """Change a heap at random until long after it is full; return refusals and changes.

    What was refused has changed nothing; what was not is there when the file is opened again.
    """
    model, entries = Model(), list[Entry]()
    refused = done = 0
    with reopened(path) as heap:
        actor = Actor(Player(heap, model, entries.append))
        rng = random.Random(seed)
        for _ in range(250):
            try:
                one_change(actor, rng)
                done += 1
            except OutOfSpaceError:
                refused += 1
                entries.pop()
                Ledger([model.copy()]).settle(Found.of(heap))
                for offset in rng.sample(sorted(model.blocks), len(model.blocks) // 4):
                    actor.free(offset)
                if rng.random() < 0.3:
                    actor.trim()
            if rng.random() < 0.05:
                assert heap.check(), str(heap.check())
    with reopened(path) as heap:
        Ledger([model.copy()]).settle(Found.of(heap))
        assert heap.check(), str(heap.check())
    return refused, done


def one_change(actor: Actor, rng: random.Random) -> None:
    blocks = sorted(actor.model.blocks)
    size = rng.choice([50, 3000, 30 * KiB, 200 * KiB, 700 * KiB])
    what = rng.random()
    if what < 0.3:
        actor.malloc(size)
    elif what < 0.4 and blocks:
        actor.realloc(rng.choice(blocks), size)
    elif what < 0.45:
        actor.move_log(rng.choice([128, 256, 512]) * KiB)
    elif what < 0.5:
        actor.sync()
    else:
        writes = [
            (at, 0, min(5000, len(actor.content(at))))
            for at in rng.sample(blocks, len(blocks) and 1)
        ]
        actor.transact(allocs=[size, 100], writes=writes, durable=rng.random() < 0.5)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_file_that_cannot_grow(durability: str, tmp_path: Path) -> None:
    path = tmp_path / "heap"
    made(path, durability).close()
    size = path.stat().st_size
    with file_size_limit(SMALL):
        refused, done = fill_up(path, seed=1)
    assert path.stat().st_size <= SMALL
    assert refused > 20
    assert done > 60
    assert emptied(path) == size


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_disk_that_is_full_from_some_call_on(durability: str, tmp_path: Path) -> None:
    """Every call that gets blocks is refused: what needs none goes on."""
    path = tmp_path / "heap"
    made(path, durability, SMALL_LOG).close()
    with reopened(path) as heap:
        kept = heap.malloc(500 * KiB)
        small = heap.malloc(100)
        with native.faults(1, errno.ENOSPC, FaultKind.FROM) as fault:
            for change in (
                lambda: heap.malloc(2 * MiB),
                lambda: heap.realloc(kept, 2 * MiB),
                lambda: heap.arena("one"),
            ):
                with pytest.raises(OutOfSpaceError):
                    change()
        assert fault.hit != Call.NONE
        assert Found.of(heap).blocks.keys() == {kept, small}
        assert not heap.arenas()
        with heap.transaction() as tx:
            tx.write(small, b"still")
        heap.malloc(2 * MiB)
        assert heap.check(), str(heap.check())
