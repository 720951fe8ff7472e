"""Faulty Spaces for blocks, and calls that fail at each point: named, and the heap as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from test_spaces import (
    Closing,
    Faulty,
    LosingSpace,
    LyingAboutNone,
    OfWrongType,
    Raising,
    RaisingInDeallocate,
    Truth,
    Unaligned,
)

from pmemheap import (
    BestFit,
    Buddy,
    FirstFit,
    Heap,
    OutOfSpaceError,
    Placed,
    PmemHeapError,
    StrategyError,
    UsageError,
)
from pmemheap.heap.arena import Arena
from pmemheap.native.seam import faults
from pmemheap.testing import each_malloc_failing
from pmemheap.units import MiB

# ---------------------------------------------------------------- faulty Spaces


class Overlapping(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return self.armed["step"] + 1


class Straddling(Faulty):
    """It begins in a gap that is too short."""

    def answer(self, found: int | None, length: int) -> Any:
        return self.armed["step"] - 1


class Reserved(Overlapping):
    """The block that it names belongs to an open transaction."""


class Long(Faulty):
    """Over the end of a chunk."""

    def answer(self, found: int | None, length: int) -> Any:
        return 127 - length + 1


class NoChunk(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return 200 * 128


class Outside(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return 1 << 62


class Wrapping(Faulty):
    """Twice as many granules are step 2 of 64 bits."""

    def answer(self, found: int | None, length: int) -> Any:
        return (1 << 63) + 2


class Negative(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return -length


class Reentering(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return self.armed["arena"].malloc(64)


class Transacting(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        with self.armed["heap"].transaction() as tx:
            tx.malloc(64, arena=self.armed["arena"])


class Trimming(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return self.armed["arena"].trim()


FAULTS: list[tuple[type[Faulty], type[Exception], str]] = [
    (Overlapping, StrategyError,
     r"Overlapping.allocate\(5, 1\): free space at step 5 expected, a block of 160 bytes at 0x"),
    (Straddling, StrategyError, "free space at step 3 expected, a block of 160 bytes at 0x"),
    (Reserved, StrategyError,
     "step .* expected, a block that is reserved or viewed, or the end of the chunk at unit 0"),
    (Long, StrategyError, "step 123 expected, a block that is reserved or viewed, or the end"),
    (NoChunk, StrategyError, "free space at step 25600 expected, units that are no chunk"),
    (Outside, StrategyError, "expected, an arena of the steps 0 to 32767 found"),
    (Wrapping, StrategyError, "expected, an arena of the steps 0 to 32767 found"),
    (Negative, StrategyError, "free space at step -5 expected, an arena of the steps 0 to"),
    (Raising, KeyError, "a mistake of its own"),
    (Reentering, UsageError, "a Space"),
    (Transacting, UsageError, "a Space"),
    (Trimming, UsageError, "a Space"),
    (Closing, UsageError, "a Space"),
    (LyingAboutNone, StrategyError, "the first of free steps expected, None, with .* free steps"),
    (OfWrongType, StrategyError, "a step, an int, or None expected, 'here' found"),
    (Truth, StrategyError, "a step, an int, or None expected, True found"),
]  # fmt: skip


@contextmanager
def arena_with(kind: Callable[..., Any], *arguments: Any) -> Iterator[tuple[Heap, Arena]]:
    with Heap.anonymous(limit=32 * MiB, decay=None) as heap:
        yield heap, heap.arena("mine", strategy=Placed(kind(*arguments)))


def step_of(offset: int) -> int:
    return offset % (1 << 55) // 32


def state(arena: Arena) -> tuple[dict[int, int], int]:
    return dict(arena.blocks()), arena.stats().active


def work(heap: Heap, arena: Arena) -> None:
    """Use an arena whose Space is sound again."""
    offsets = [arena.malloc(size) for size in (10, 3000, 500, 16_000, 40) * 5]
    with heap.transaction() as tx:
        tx.malloc(100, arena=arena)
        tx.free(offsets.pop())
    arena.free_many(offsets)
    assert arena.check(), str(arena.check())


@pytest.mark.parametrize(("kind", "error", "message"), FAULTS)
def test_a_faulty_space_leaves_the_heap_as_it_was(
    kind: type[Faulty], error: type[Exception], message: str
) -> None:
    armed: dict[str, Any] = {"on": False}
    with arena_with(kind, armed) as (heap, arena), heap.transaction() as tx:
        small, gap, held = (arena.malloc(size) for size in (64, 64, 160))
        arena.free(gap)
        arena.free(arena.malloc(300))
        arena.view(held, 4)[:] = b"kept"
        reserved = tx.malloc(160, arena=arena)
        chosen = reserved if kind is Reserved else held
        armed.update(heap=heap, arena=arena, step=step_of(chosen))
        before = state(arena)
        for call in (
            lambda: arena.malloc(160),
            lambda: tx.malloc(160, arena=arena),
            lambda: arena.realloc(small, 160),
            lambda: arena.malloc_many(160, 3),
        ):
            armed["on"] = True
            with pytest.raises(error, match=message):
                call()
            armed["on"] = False
            assert arena.check()
            assert state(arena) == before
        work(heap, arena)
        assert bytes(arena.view(held, 4)) == b"kept"
        assert reserved not in dict(arena.blocks())


def test_an_unaligned_answer_is_refused() -> None:
    armed = {"on": True}
    with arena_with(Unaligned, armed) as (heap, arena):
        with pytest.raises(
            StrategyError, match=r"Unaligned.allocate\(4, 2\): a multiple of 2 expected, 1 found"
        ):
            arena.malloc(100, 64)
        armed["on"] = False
        work(heap, arena)


def test_space_that_is_lost_is_found_by_check_and_comes_back() -> None:
    armed = {"on": False}
    with arena_with(LosingSpace, armed) as (heap, arena):
        offsets = [arena.malloc(3000) for _ in range(20)]
        armed["on"] = True
        arena.free_many(offsets[5:8])
        arena.malloc(32)
        report = arena.check()
        assert not report
        assert "LosingSpace" in str(report)
        with pytest.raises(StrategyError, match=r"LosingSpace.*None, with \d+ free steps"):
            list(iter(lambda: arena.malloc(2000), None))
        armed["on"] = False
        arena.free_many(offsets[:5])
        work(heap, arena)


def test_an_exception_of_deallocate_comes_with_the_next_request() -> None:
    armed = {"on": False}
    with arena_with(RaisingInDeallocate, armed) as (heap, arena):
        block = arena.malloc(100)
        armed["on"] = True
        arena.free(block)
        for _ in range(2):
            with pytest.raises(KeyError, match="a mistake"):
                arena.malloc(100)
        arena.trim()
        armed["on"] = False
        work(heap, arena)


def test_a_space_may_free_and_look() -> None:
    armed: dict[str, Any] = {"on": False}

    class Freeing(Faulty):
        def answer(self, found: int | None, length: int) -> Any:
            arena, block = armed["arena"], armed["block"]
            armed["on"] = False
            assert arena.usable_size(block) == 128
            arena.free(block)
            return found

    with arena_with(Freeing, armed) as (heap, arena):
        armed.update(arena=arena, block=arena.malloc(100), on=True)
        other = arena.malloc(500)
        assert [offset for offset, _ in arena.blocks()] == [other]
        work(heap, arena)


def test_none_is_no_fault_where_the_space_cannot_know_what_is_free() -> None:
    armed: dict[str, Any] = {"on": False}

    class FreeingForNone(Faulty):
        def allocate(self, length: int, align: int) -> int | None:
            if armed["on"] and armed["blocks"]:
                armed["arena"].free(armed["blocks"].pop())
                return None
            return super().allocate(length, align)

    with arena_with(FreeingForNone, armed) as (heap, arena):
        blocks = [arena.malloc(2000) for _ in range(3)]
        armed.update(arena=arena, blocks=blocks, on=True)
        offset = arena.malloc(100)
        assert [each for each, _ in arena.blocks()] == [offset]
        work(heap, arena)


def test_what_is_freed_while_it_is_made_anew_is_told_once() -> None:
    armed: dict[str, Any] = {"on": False}

    class FreeingWhenCopied(Raising):
        def __deepcopy__(self, _: object) -> FreeingWhenCopied:
            if "block" in armed:
                armed["arena"].free(armed.pop("block"))
            return FreeingWhenCopied(armed)

    with arena_with(FreeingWhenCopied, armed) as (heap, arena):
        block, _ = arena.malloc(100), arena.malloc(100)
        armed["on"] = True
        with pytest.raises(KeyError):
            arena.malloc(32)
        armed.update(on=False, arena=arena, block=block)
        for size in (32, 32, 64):
            arena.malloc(size)
            assert arena.check(), str(arena.check())
        work(heap, arena)


def test_a_block_that_is_viewed_while_it_is_to_move_stays() -> None:
    armed: dict[str, Any] = {"on": False}

    class Viewing(Faulty):
        def answer(self, found: int | None, length: int) -> Any:
            armed["view"] = armed["arena"].view(armed["block"])
            return found

    with arena_with(Viewing, armed) as (heap, arena):
        block = arena.malloc(100)
        armed.update(arena=arena, block=block, on=True)
        with pytest.raises(BufferError):
            arena.realloc(block, 1000)
        assert [offset for offset, _ in arena.blocks()] == [block]
        armed.clear()
        armed["on"] = False
        work(heap, arena)


@pytest.mark.parametrize("where", ["before", "behind"])
def test_an_interrupt_leaves_the_arena_sound(where: str) -> None:
    armed: dict[str, Any] = {"on": False}

    class Interrupting(FirstFit):
        def __deepcopy__(self, _: object) -> Interrupting:
            return Interrupting()

        def allocate(self, length: int, align: int) -> int | None:
            if armed["on"] and where == "before":
                raise KeyboardInterrupt
            start = super().allocate(length, align)
            if armed["on"]:
                raise KeyboardInterrupt
            return start

    with arena_with(Interrupting) as (heap, arena):
        kept = arena.malloc(100)
        armed["on"] = True
        with pytest.raises(KeyboardInterrupt):
            arena.malloc(100)
        armed["on"] = False
        assert [offset for offset, _ in arena.blocks()] == [kept]
        work(heap, arena)


# ---------------------------------------------------------------- each point


def program(heap: Any, arena: Any) -> None:
    """Make all kinds of changes: of chunks, of blocks, of units, by bare calls and transactions."""
    live = [arena.malloc(size, align) for size in (20, 3000, 16_000) for align in (16, 4096)]
    live[2] = arena.realloc(live[2], 5000)
    live[3] = arena.realloc(live[3], 40_000)
    live += arena.malloc_many(64, 3)
    with heap.transaction() as tx:
        tx.malloc(500, arena=arena)
        tx.free(tx.malloc(200, arena=arena))
        tx.free(live.pop())
    arena.free_many(live)
    arena.trim()
    arena.malloc(100)


class Failing(Faulty):
    """It raises at the n-th call of it, of whichever method."""

    def __deepcopy__(self, _: object) -> Failing:
        return Failing(self.armed)

    def _count(self) -> None:
        self.armed["calls"] += 1
        if self.armed["calls"] == self.armed["nth"]:
            raise KeyError("the n-th call")

    def allocate(self, length: int, align: int) -> int | None:
        self._count()
        return super().allocate(length, align)

    def deallocate(self, start: int, length: int) -> None:
        self._count()
        super().deallocate(start, length)

    def take(self, start: int, length: int) -> bool:
        self._count()  # those of its own as well
        return super().take(start, length)


def test_each_call_of_the_space_may_fail() -> None:
    for nth in itertools.count(1):
        armed: dict[str, Any] = {"on": False, "calls": 0, "nth": nth}
        with arena_with(Failing, armed) as (heap, arena):
            try:
                program(heap, arena)
            except KeyError:
                assert arena.check()
                blocks = dict(arena.blocks())
                work(heap, arena)
                assert set(blocks) <= {offset for offset, _ in arena.blocks()}
            else:
                break
    assert nth > 40


@pytest.mark.parametrize("kind", [FirstFit, Buddy])
def test_each_system_call_may_be_refused(kind: Any) -> None:
    for nth in itertools.count(1):
        with arena_with(kind) as (heap, arena):
            refused = None
            with faults(nth, 12) as fault:
                try:
                    arena.free_many(arena.malloc_many(16_000, 300))
                    program(heap, arena)
                except PmemHeapError as error:
                    refused = error
            assert arena.check()
            work(heap, arena)
            if not fault.hit:
                assert refused is None
                break
    assert nth > 8


def test_each_allocation_may_fail() -> None:
    def run(heap: Any) -> None:
        arena = heap.arena("mine", strategy=Placed(BestFit()))
        live = [heap.malloc(size) for size in (20, 3000, 16_000, 100_000)]
        live[0] = heap.realloc(live[0], 5000)
        program(heap, arena)
        heap.free_many(live)

    def made() -> Heap:
        return Heap.anonymous(strategy=Placed(FirstFit()))

    outcomes = [bool(outcome.heap.check()) for outcome in each_malloc_failing(run, made)]
    assert len(outcomes) == 6
    assert all(outcomes)


def test_growth_may_be_refused_for_each_size() -> None:
    with Heap.anonymous(limit=4 * MiB, decay=None) as heap:
        arena = heap.arena("mine", strategy=Placed(Buddy()))
        live: list[int] = []
        for size in (16_000, 500, 70_000, 20):
            more = partial(arena.malloc, size)
            with pytest.raises(OutOfSpaceError):
                live.extend(iter(more, None))
            assert arena.check()
        assert sorted(live) == [offset for offset, _ in arena.blocks()]
        arena.free_many(live)
        work(heap, arena)
