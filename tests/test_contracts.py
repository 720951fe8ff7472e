"""The contract of allocators: all of the package pass it, a faulty one does not."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pmemheap import (
    BestFit,
    Count,
    DurabilityName,
    General,
    Guard,
    Heap,
    Placed,
    Record,
    Ring,
    UsageError,
)
from pmemheap.heap.strategies import Strategy
from pmemheap.layers import Fail, Fill, Passing, Track
from pmemheap.testing import AllocatorContract


@contextmanager
def in_file(durability: DurabilityName) -> Iterator[Heap]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Heap.create(Path(folder) / "heap", durability=durability) as heap,
    ):
        yield heap


class TestAnonymous(AllocatorContract):
    def allocator(self) -> Any:
        return Heap.anonymous()


class TestProcess(AllocatorContract):
    def allocator(self) -> Any:
        return in_file("process")


class TestPower(AllocatorContract):
    def allocator(self) -> Any:
        return in_file("power")


class TestArena(AllocatorContract):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap:
            yield heap.arena("mine")


def poisoned(upstream: Any = None) -> Fill:
    return Fill(upstream, malloc=0xAA, free=0xDD)


def recording(upstream: Any = None) -> Record:
    with tempfile.TemporaryDirectory() as folder:  # the file lives as long as the record
        return Record(Path(folder) / "trace", upstream)


KINDS: tuple[Callable[..., Any], ...] = (Count, Fail, Passing, recording, Track, poisoned)
ALL = bool(os.environ.get("PMEMHEAP_STACKS_ALL"))
THREES = [*itertools.permutations(KINDS, 3)][:: None if ALL else 31]
STACKS = [
    *itertools.product(KINDS, repeat=1),
    *itertools.product(KINDS, repeat=2),
    *THREES,
]


class Stacked(AllocatorContract):
    """Stacks of layers, lowest first: pairs in both orders, of threes four, or all of them."""

    stack: tuple[Callable[..., Any], ...] = ()

    @pytest.fixture(
        autouse=True, params=STACKS, ids=lambda stack: "+".join(kind.__name__ for kind in stack)
    )
    def stacked(self, request: pytest.FixtureRequest) -> None:
        self.stack = request.param


class TestWrapped(Stacked):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap:
            allocator: Any = heap
            for kind in self.stack:
                allocator = kind(allocator)
            yield allocator


class TestInstalled(Stacked):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap, ExitStack() as stack:
            for kind in self.stack:
                stack.enter_context(heap.install(kind()))
            yield heap


STRATEGIES: tuple[Strategy, ...] = (General(), Ring())
PLACES = [*itertools.product(STRATEGIES, ["none", "process", "power"]), (Placed, "none")]


@pytest.mark.slow
class TestInstalledOnStrategies(AllocatorContract):
    """Stacks of three layers on arenas of each strategy that serves any size, and in files.

    Where blocks may be guarded, they are.
    """

    @pytest.fixture(autouse=True, params=PLACES, ids=str)
    def place(self, request: pytest.FixtureRequest) -> None:
        self.strategy, self.kind = request.param
        if self.strategy is Placed:  # of which each arena has a Space of its own
            self.strategy = Placed(BestFit())

    @pytest.fixture(
        autouse=True,
        params=THREES,
        ids=lambda stack: "+".join(kind.__name__ for kind in stack),
    )
    def stacked(self, request: pytest.FixtureRequest) -> None:
        self.stack = request.param

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() if self.kind == "none" else in_file(self.kind) as heap:
            arena = heap.arena("stacked", strategy=self.strategy)
            with ExitStack() as stack:
                if self.kind == "none" and self.strategy == General():
                    stack.enter_context(arena.install(Guard(every=3)))
                for kind in self.stack:
                    stack.enter_context(arena.install(kind()))
                yield arena


# ---------------------------------------------------------------- what it finds


class Sound:
    """A bump allocator over nothing: the least that passes."""

    def __init__(self) -> None:
        self.end, self.sizes = 4096, dict[int, int]()

    def malloc(self, size: int, align: int = 16) -> int:
        if size <= 0 or size > 1 << 40 or align <= 0 or align & (align - 1):
            raise UsageError(f"toy: a size and an alignment expected, {size}, {align} found")
        start = -(-self.end // max(align, 16)) * max(align, 16)
        self.end, self.sizes[start] = start + size, size
        return start

    def free(self, offset: int) -> None:
        self.usable_size(offset)
        del self.sizes[offset]

    def usable_size(self, offset: int) -> int:
        if offset not in self.sizes:
            raise UsageError(f"toy: a live block expected, {offset} found")
        return self.sizes[offset]


class TestSound(AllocatorContract):
    def allocator(self) -> Any:
        return Sound()


class Overlapping(Sound):
    def malloc(self, size: int, align: int = 16) -> int:
        start = super().malloc(size, align)
        self.end = start + max(16, size // 2)
        return start


class Unaligned(Sound):
    def malloc(self, size: int, align: int = 16) -> int:
        return super().malloc(size)


class Forgetful(Sound):
    def free(self, offset: int) -> None:
        self.sizes.pop(offset, None)


class Small(Sound):
    def usable_size(self, offset: int) -> int:
        return super().usable_size(offset) - 1


class Lazy(Sound):
    def malloc(self, size: int, align: int = 16) -> int:
        return super().malloc(max(size, 1), align)


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Overlapping, "test_live_blocks_do_not_overlap"),
        (Unaligned, "test_offsets_are_aligned"),
        (Forgetful, "test_what_is_no_live_block_is_refused"),
        (Small, "test_blocks_hold_what_was_asked_for"),
        (Lazy, "test_sizes_and_alignments_out_of_range_are_refused"),
    ],
)
def test_a_faulty_allocator_is_found(kind: type[Sound], test: str) -> None:
    class Tested(AllocatorContract):
        def allocator(self) -> Any:
            return kind()

    with pytest.raises(AssertionError):
        getattr(Tested(), test)()


def test_a_heap_that_loses_bytes_is_found() -> None:
    class Losing(Passing):
        def view(self, offset: int, length: int | None = None) -> memoryview:
            view: memoryview = self.below.view(offset, length)
            if length is not None and length > 1000:
                view[length // 2] ^= 1
            return view

    class Tested(AllocatorContract):
        @contextmanager
        def allocator(self) -> Iterator[Any]:
            with Heap.anonymous() as heap, heap.install(Losing()):
                yield heap

    with pytest.raises(AssertionError):
        Tested().test_bytes_stay_what_they_are()
