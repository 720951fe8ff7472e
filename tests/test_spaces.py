"""Spaces: strategies of the package and faulty ones, in a heap and by their contract."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pmemheap
from pmemheap import (
    BestFit,
    Buddy,
    FirstFit,
    Heap,
    NextFit,
    OutOfSpaceError,
    StrategyError,
    UsageError,
)
from pmemheap.native.constants import POOL_MOST
from pmemheap.protocols import Space
from pmemheap.space.extents import ExtentMap
from pmemheap.testing import SpaceContract
from pmemheap.units import UNIT, MiB

STRATEGIES = (FirstFit, NextFit, BestFit, Buddy)
LARGE = (POOL_MOST + 1) * UNIT


class TestFirstFit(SpaceContract):
    def space(self) -> Any:
        return FirstFit()


class TestNextFit(SpaceContract):
    def space(self) -> Any:
        return NextFit()


class TestBestFit(SpaceContract):
    def space(self) -> Any:
        return BestFit()


class TestBuddy(SpaceContract):
    def space(self) -> Any:
        return Buddy()


class TestExtentMap(SpaceContract):
    def space(self) -> Any:
        return ExtentMap()


# ---------------------------------------------------------------- what each strategy chooses


def holes(kind: Callable[[], Any], *ranges: tuple[int, int]) -> Any:
    space = kind()
    for start, length in ranges:
        space.deallocate(start, length)
    return space


def test_first_fit_takes_the_lowest() -> None:
    space = holes(FirstFit, (50, 100), (0, 8), (20, 8))
    assert [space.allocate(6, 1), space.allocate(6, 1), space.allocate(9, 1)] == [0, 20, 50]


def test_next_fit_goes_on_where_it_was_and_comes_round() -> None:
    space = holes(NextFit, (0, 8), (20, 8), (40, 8))
    assert [space.allocate(5, 1) for _ in range(3)] == [0, 20, 40]
    assert [space.allocate(3, 1) for _ in range(3)] == [45, 5, 25]
    assert space.allocate(1, 1) is None


def test_best_fit_takes_the_tightest_and_the_lowest_of_these() -> None:
    space = holes(BestFit, (0, 100), (200, 9), (300, 8), (400, 8))
    assert [space.allocate(8, 1), space.allocate(8, 1), space.allocate(8, 1)] == [300, 400, 200]
    assert space.longest() == 100


def test_buddies_join_again() -> None:
    space = holes(Buddy, (0, 64))
    starts = [space.allocate(8, 1) for _ in range(8)]
    assert starts == [0, 8, 16, 24, 32, 40, 48, 56]
    for start in starts[::2] + starts[1::2]:
        space.deallocate(start, 8)
    assert list(space) == [(0, 64)]


def test_a_buddy_gives_back_at_once_what_it_does_not_need() -> None:
    space = holes(Buddy, (0, 16))
    assert space.allocate(5, 1) == 0
    assert list(space) == [(5, 1), (6, 2), (8, 8)]


def test_strategies_are_short() -> None:
    folder = Path(pmemheap.__file__).parent / "space" / "strategies"
    lines = {path.name: path.read_text().count("\n") for path in folder.glob("*.py")}
    assert {name for name, count in lines.items() if count > 80} == set()
    assert len(lines) == 6


# ---------------------------------------------------------------- in a heap


@pytest.fixture(params=[*STRATEGIES, ExtentMap])
def extents(request: pytest.FixtureRequest) -> Any:
    return request.param()


def churn(heap: Heap, steps: int, seed: int) -> dict[int, bytes]:
    """Allocate and free at random, with bytes that are looked at before they go."""
    chance, live = random.Random(seed), dict[int, bytes]()
    for _ in range(steps):
        if live and chance.random() < 0.45:
            offset = chance.choice(list(live))
            assert bytes(heap.view(offset, 8)) == live.pop(offset)
            heap.free(offset)
        else:
            offset = heap.malloc(chance.choice([40, 3000, 50_000, LARGE, 3 * LARGE]))
            live[offset] = chance.randbytes(8)
            heap.view(offset, 8)[:] = live[offset]
    return live


def test_a_heap_serves_from_it(extents: Any) -> None:
    with Heap.anonymous(extents=extents) as heap:
        live = churn(heap, 800, 1)
        assert heap.check()
        for offset in live:
            heap.free(offset)
        mapped = heap.stats().mapped
        heap.trim()
        assert heap.stats().mapped < mapped
        assert heap.check()
        churn(heap, 100, 2)
        assert heap.check()


def test_a_file_heap_is_opened_with_it(extents: Any, tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", extents=copy.deepcopy(extents)) as heap:
        live = churn(heap, 300, 3)
    with Heap.open(tmp_path / "heap", extents=extents) as heap:
        assert {offset: bytes(heap.view(offset, 8)) for offset in live} == live
        churn(heap, 300, 4)
        assert heap.check()
    with Heap.open(tmp_path / "heap", readonly=True, extents=FirstFit()) as heap:
        assert heap.check()


def test_blocks_lie_where_the_space_says() -> None:
    with Heap.anonymous(extents=FirstFit()) as heap:
        first, second, third = (heap.malloc(LARGE) for _ in range(3))
        assert first < second < third
        for offset in (first, third):
            heap.free(offset)
        assert heap.malloc(LARGE // 2 + LARGE // 4 + 7 * UNIT) == first
    with Heap.anonymous(extents=NextFit()) as heap:
        first, second = heap.malloc(LARGE), heap.malloc(LARGE)
        heap.free(first)
        assert heap.malloc(LARGE - UNIT + 1) == first, "C has just this length back, and keeps it"
        assert heap.malloc(LARGE + 1) > second


def test_arenas_have_a_copy_and_scratch_regions_have_not() -> None:
    space = FirstFit()
    with Heap.anonymous(extents=space) as heap:
        arena = heap.arena("other")
        arena.malloc(LARGE)
        heap.malloc(LARGE)
        before = list(space)
        offset = arena.malloc(LARGE)
        heap.scratch().malloc(LARGE)
        assert list(space) == before
        arena.free(offset)
        assert heap.check()


def test_a_heap_grows_until_a_buddy_has_an_aligned_block() -> None:
    with Heap.anonymous(extents=Buddy()) as heap:
        for nunits in (300, 1100, 5000):
            heap.malloc(nunits * UNIT)
        heap.malloc(3 * MiB, 1 * MiB)
        assert heap.check()


def test_a_full_heap_gathers_what_the_pool_has_and_says_who_had_no_room() -> None:
    with Heap.anonymous(extents=BestFit(), limit=9 * MiB) as heap:
        blocks: list[int] = []
        with pytest.raises(OutOfSpaceError, match=r"limit.*BestFit.allocate\(1, 1\): None found"):
            blocks.extend(iter(lambda: heap.malloc(UNIT), None))
        for offset in blocks:
            heap.free(offset)
        heap.free(heap.malloc(7 * MiB))
        with pytest.raises(OutOfSpaceError, match=r"BestFit.allocate\(2560, 1\): None found"):
            heap.malloc(10 * MiB)
        assert heap.check()


def test_a_block_grows_in_place_over_what_the_space_has_free() -> None:
    with Heap.anonymous(extents=FirstFit()) as heap:
        offset = heap.malloc(LARGE)
        assert heap.expand(offset, 4 * LARGE)
        assert heap.realloc(offset, 8 * LARGE) == offset
        heap.malloc(LARGE)
        assert heap.check()


class Bare:
    """No more than the protocol has."""

    def __init__(self) -> None:
        self.inner = FirstFit()

    def allocate(self, length: int, align: int) -> int | None:
        return self.inner.allocate(length, align)

    def deallocate(self, start: int, length: int) -> None:
        self.inner.deallocate(start, length)


class TestBare(SpaceContract):
    def space(self) -> Any:
        return Bare()


def test_what_cannot_take_is_made_anew() -> None:
    with Heap.anonymous(extents=Bare()) as heap:
        offset = heap.malloc(LARGE)
        assert heap.expand(offset, 3 * LARGE)
        other = heap.malloc(40 * MiB)
        heap.free(other)
        heap.trim()
        heap.malloc(LARGE)
        assert heap.check()


# ---------------------------------------------------------------- what is no Space


class Uncopied(FirstFit):
    def __deepcopy__(self, _: object) -> Uncopied:
        raise TypeError("not to be copied")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "allocate and deallocate expected"),
        (FirstFit, "an object with"),
        (holes(BestFit, (5, 6)), r"no free range in a new Space expected, found \(5, 6\)"),
        (Uncopied(), "copy.deepcopy copies expected.*not to be copied"),
    ],
)
def test_what_is_no_new_space_is_refused(given: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Heap.anonymous(extents=given)
    with pytest.raises(UsageError, match=message):
        Heap.create(tmp_path / "heap", extents=given)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- ten faulty Spaces


class Faulty(FirstFit):
    """A first fit that does something else as long as `armed`; copies are armed as well."""

    armed: dict[str, Any]

    def __init__(self, armed: dict[str, Any]) -> None:
        super().__init__()
        self.armed = armed

    def __deepcopy__(self, _: object) -> Faulty:
        return type(self)(self.armed)

    def allocate(self, length: int, align: int) -> int | None:
        found = super().allocate(length, align)
        return self.answer(found, length) if self.armed["on"] else found

    def answer(self, found: int | None, length: int) -> Any:
        return found


class Overlapping(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return self.armed["block"]


class Outside(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return 1 << 40


class Negative(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return -length


class Raising(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        raise KeyError("a mistake of its own")


class Reentering(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return self.armed["heap"].malloc(LARGE)


class Closing(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        self.armed["heap"].close()


class LyingAboutNone(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return None


class Twice(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return self.armed.setdefault("last", found)


class Unaligned(Faulty):
    def allocate(self, length: int, align: int) -> int | None:
        found = super().allocate(length, align)
        return found + 1 if self.armed["on"] and found is not None else found


class OfWrongType(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return "here"


class Truth(Faulty):
    def answer(self, found: int | None, length: int) -> Any:
        return True


class LosingSpace(Faulty):
    def deallocate(self, start: int, length: int) -> None:
        if not self.armed["on"]:
            super().deallocate(start, length)


class RaisingInDeallocate(Faulty):
    def deallocate(self, start: int, length: int) -> None:
        if self.armed["on"]:
            raise KeyError("a mistake of its own")
        super().deallocate(start, length)


FAULTS: list[tuple[type[Faulty], type[Exception], str]] = [
    (Overlapping, StrategyError, "free space at unit .* expected, a block of 262144 bytes at 0x"),
    (Outside, StrategyError, "free space at unit 1099511627776 expected, a heap of the units 0 to"),
    (Negative, StrategyError, "free space at unit -64 expected, a heap of the units 0 to"),
    (Raising, KeyError, "a mistake of its own"),
    (Reentering, UsageError, "a Space"),
    (Closing, UsageError, "a Space"),
    (LyingAboutNone, StrategyError, "the first of free units expected, None, with .* free units"),
    (Twice, StrategyError, "free space at unit .* expected, a block of 262144 bytes"),
    (OfWrongType, StrategyError, "a unit, an int, or None expected, 'here' found"),
    (Truth, StrategyError, "a unit, an int, or None expected, True found"),
]  # fmt: skip


def state(heap: Heap) -> tuple[dict[int, int], int]:
    stats = heap.stats()
    return dict(heap.blocks()), stats.free + stats.quarantined


@pytest.mark.parametrize(("kind", "error", "message"), FAULTS)
@pytest.mark.parametrize("where", ["anonymous", "power"])
def test_a_faulty_space_leaves_the_heap_as_it_was(
    kind: type[Faulty], error: type[Exception], message: str, where: str, tmp_path: Path
) -> None:
    armed: dict[str, Any] = {"on": False}
    with (
        Heap.anonymous(extents=kind(armed))
        if where == "anonymous"
        else Heap.create(tmp_path / "heap", durability="power", extents=kind(armed))
    ) as heap:
        held = heap.malloc(64 * UNIT)
        heap.malloc(8 * MiB)
        heap.free(heap.malloc(8 * MiB))
        heap.view(held, 4)[:] = b"kept"
        before = state(heap)
        armed.update(on=True, heap=heap, block=held // UNIT)
        if kind is Twice:
            heap.malloc(LARGE)
            before = state(heap)
        with pytest.raises(error, match=message):
            heap.malloc(LARGE)
        armed["on"] = False
        assert state(heap) == before
        assert heap.check()
        churn(heap, 200, 5)
        assert bytes(heap.view(held, 4)) == b"kept"
        assert heap.check()


def test_an_unaligned_answer_is_refused() -> None:
    armed = {"on": False}
    with Heap.anonymous(extents=Unaligned(armed)) as heap:
        heap.free(heap.malloc(8 * MiB))
        armed["on"] = True
        with pytest.raises(
            StrategyError, match=r"Unaligned.allocate\(64, 16\): a multiple of 16 expected, 1 found"
        ):
            heap.malloc(LARGE, 16 * UNIT)
        armed["on"] = False
        assert heap.malloc(LARGE, 16 * UNIT) % (16 * UNIT) == 0
        assert heap.check()


def test_space_that_is_lost_is_found_by_check_and_comes_back() -> None:
    armed = {"on": False}
    with Heap.anonymous(extents=LosingSpace(armed)) as heap:
        blocks = [heap.malloc(8 * MiB) for _ in range(3)]
        armed["on"] = True
        heap.free(blocks[1])
        heap.malloc(LARGE)
        report = heap.check()
        assert not report
        assert "LosingSpace" in str(report)
        with pytest.raises(StrategyError, match=r"LosingSpace.*None, with 2048 free units"):
            list(iter(lambda: heap.malloc(2 * MiB), None))
        armed["on"] = False
        heap.malloc(2 * MiB)
        assert heap.check()


def test_an_exception_of_deallocate_comes_with_the_next_request() -> None:
    armed = {"on": False}
    with Heap.anonymous(extents=RaisingInDeallocate(armed)) as heap:
        block = heap.malloc(8 * MiB)
        armed["on"] = True
        heap.free(block)
        for _ in range(2):
            with pytest.raises(KeyError, match="a mistake"):
                heap.malloc(LARGE)
        heap.trim()
        armed["on"] = False
        heap.malloc(LARGE)
        assert heap.check()


def test_a_space_may_free() -> None:
    armed: dict[str, Any] = {"on": False}

    class Freeing(Faulty):
        def answer(self, found: int | None, length: int) -> Any:
            armed["on"] = False
            armed["heap"].free(armed["block"])
            return found

    with Heap.anonymous(extents=Freeing(armed)) as heap:
        armed.update(heap=heap, block=heap.malloc(LARGE), on=True)
        other = heap.malloc(2 * LARGE)
        assert [offset for offset, _ in heap.blocks()] == [other]
        assert heap.check()


def test_a_strategy_error_is_a_usage_error() -> None:
    assert issubclass(StrategyError, UsageError)
    assert isinstance(FirstFit(), Space)


# ---------------------------------------------------------------- what the contract finds


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Outside, "test_it_has_what_it_was_given"),
        (Twice, "test_it_has_what_it_was_given"),
        (Unaligned, "test_answers_are_aligned"),
        (LyingAboutNone, "test_answers_are_aligned"),
        (OfWrongType, "test_answers_are_aligned"),
        (LosingSpace, "test_answers_are_aligned"),
        (Overlapping, "test_it_agrees_with_the_model"),
    ],
)
def test_the_contract_finds_faults(kind: type[Faulty], test: str) -> None:
    class Contract(SpaceContract):
        def space(self) -> Any:
            return kind({"on": True, "block": 0})

    with pytest.raises(AssertionError):
        getattr(Contract(), test)()
