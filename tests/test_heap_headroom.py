"""Headroom of heaps: how much they take, asked or not, and what a limit leaves to the program."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import pmemheap
from pmemheap import Heap, OutOfSpaceError, UsageError
from pmemheap.containers import Vector
from pmemheap.kvstore import KVStore
from pmemheap.units import GiB, MiB, TiB


@contextmanager
def attached(**options: Any) -> Iterator[Heap]:
    with Heap.shared() as shared, Heap.attach(shared.fileno(), **options) as heap:
        yield heap


@contextmanager
def reopened(path: Path, **options: Any) -> Iterator[Heap]:
    Heap.create(path).close()
    with Heap.open(path, **options) as heap:
        yield heap


@contextmanager
def stored(path: Path, **options: Any) -> Iterator[Heap]:
    with closing(KVStore(path, **options)) as store:
        yield store._heap


DOORS: dict[str, Callable[..., Any]] = {
    "anonymous": lambda path, **options: Heap.anonymous(**options),
    "shared": lambda path, **options: Heap.shared(**options),
    "attach": lambda path, **options: attached(**options),
    "create": Heap.create,
    "open": reopened,
    "pmemheap.open": lambda path, **options: pmemheap.open(path, "c", **options),
    "KVStore": stored,
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_has_the_option(door: str, tmp_path: Path) -> None:
    for options, expected in (({}, TiB), ({"headroom": 8 * MiB}, 8 * MiB), ({"headroom": 0}, 0)):
        with DOORS[door](tmp_path / f"{expected}.heap", **options) as heap:
            assert heap.stats().headroom == expected
    with pytest.raises(UsageError, match="headroom"):
        DOORS[door](tmp_path / "wrong.heap", headroom=-1).__enter__()


def headroom_of(heap: Heap, arena: Any) -> int:
    assert arena._space in heap._space.shared.spaces()
    headroom: int = arena._space.region.headroom
    return headroom


def test_an_arena_has_the_headroom_of_its_heap_or_its_own(tmp_path: Path) -> None:
    with Heap.anonymous() as heap:
        assert headroom_of(heap, heap.arena("usual")) == 256 * GiB
        assert headroom_of(heap, heap.arena("more", headroom=TiB)) == TiB
        assert headroom_of(heap, heap.arena("more", headroom=MiB)) == TiB  # it is open
        with pytest.raises(UsageError, match="headroom"):
            heap.arena("wrong", headroom=-1)
        assert heap.arenas() == ["more", "usual"]
    path = tmp_path / "file.heap"
    with Heap.create(path, headroom=MiB) as heap:
        assert headroom_of(heap, heap.arena("as the heap")) == MiB
        assert len(Vector(heap, "vector", "u1", headroom=64 * MiB)) == 0
        assert headroom_of(heap, heap.arena("vector")) == 64 * MiB
    with Heap.open(path) as heap:
        assert len(Vector(heap, "vector", headroom=8 * MiB)) == 0
        assert headroom_of(heap, heap.arena("vector")) == 8 * MiB


# ---------------------------------------------------------------- under a limit

START = """
    import mmap, os, resource, sys
    import pmemheap
    from pmemheap import Heap
    from pmemheap.containers import Vector
    from pmemheap.units import GiB, MiB
    from pmemheap.kvstore import KVStore
    from pmemheap.kvstore.sharded import ShardedStore
    def used():
        return int(open("/proc/self/statm").read().split()[0]) * 4096
    limit = used() + 2 * GiB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    def at_most_a_quarter(door, real=8 * MiB):
        before = used()
        made = door()
        taken = used() - before
        assert 64 * MiB < taken <= (limit - before) // 4 + real, (door, taken >> 20)
        return made
    path = sys.argv[1]
"""


def run_limited(text: str, path: Path) -> None:
    program = textwrap.dedent(START) + textwrap.dedent(text)
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.slow
def test_a_limit_leaves_three_quarters_to_the_program(tmp_path: Path) -> None:
    run_limited(
        """
        for door in (
            Heap.anonymous,
            Heap.shared,
            lambda: Heap.create(path + "a"),
            lambda: Heap.create(path + "b", durability="power"),
            lambda: pmemheap.open(path + "c", "c"),
            lambda: KVStore(path + "d"),
        ):
            made = at_most_a_quarter(door)
            rest = [mmap.mmap(-1, GiB // 4) for _ in range(5)]
            made.close()
            del rest
        """,
        tmp_path / "heap",
    )


@pytest.mark.unsanitized
@pytest.mark.slow
def test_a_heap_with_all_its_arenas_takes_no_more(tmp_path: Path) -> None:
    run_limited(
        """
        def door():
            heap = Heap.create(path)
            for number in range(20):
                Vector(heap, f"vector {number}", "u1").extend([1] * 1000)
                heap.arena(f"arena {number}")
            return heap
        heap = at_most_a_quarter(door, real=40 * 3 * MiB)
        heap.close()
        def reopen():
            heap = Heap.open(path)
            heap.stats()
            heap.malloc(10)
            return heap
        at_most_a_quarter(reopen, real=40 * 3 * MiB).close()
        """,
        tmp_path / "heap",
    )


@pytest.mark.slow
def test_under_a_limit_what_is_asked_for_is_had_if_there_is_as_much(tmp_path: Path) -> None:
    run_limited(
        """
        for door in (Heap.anonymous, Heap.shared, lambda **some: Heap.create(path, **some)):
            heap = door(headroom=GiB)
            assert heap.stats().headroom == GiB, heap.stats().headroom
            heap.malloc(900 * MiB) if door is Heap.anonymous else None
            heap.close()
            if os.path.exists(path):
                os.unlink(path)
        at_most_a_quarter(lambda: Heap.anonymous(headroom=4 * GiB)).close()
        at_most_a_quarter(lambda: Heap.anonymous(headroom=1 << 40)).close()
        """,
        tmp_path / "heap",
    )


@pytest.mark.unsanitized
@pytest.mark.slow
def test_without_proc_under_a_limit_half_of_it_counts_as_used(tmp_path: Path) -> None:
    run_limited(
        """
        from pmemheap.pmem2 import space
        space._used = lambda: None
        affordable = limit // 2 // 4 // 2
        assert space.affordable_headroom() == affordable
        with Heap.anonymous() as heap:
            assert min(affordable, 1 << 40) // 2 < heap.stats().headroom <= affordable
        """,
        tmp_path / "heap",
    )


def test_stats_without_a_descriptor_are_no_raw_error() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Heap.anonymous() as heap:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            with pytest.raises(OutOfSpaceError, match="resident memory of a heap"):
                heap.stats()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert heap.stats().resident >= 0


def test_give_back_needs_no_descriptor() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Heap.anonymous() as heap:
        offsets = [heap.malloc(MiB) for _ in range(4)]
        for offset in offsets:
            heap.view(offset)[:] = b"x" * MiB
            heap.free(offset)
        mapped = heap.stats().mapped
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            assert heap.trim() == 0  # nobody could count it
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert heap.stats().mapped < mapped
