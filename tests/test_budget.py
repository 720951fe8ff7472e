"""Budget: what heaps may have together, who gives back, and who is asked to free."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from heap_world import named

from pmemheap import Budget, DurabilityName, FirstFit, Heap, OutOfSpaceError, UsageError
from pmemheap.containers import SortedMap, Vector
from pmemheap.errors import HeapExistsError
from pmemheap.heap import units
from pmemheap.heap.space import Space
from pmemheap.native.constants import State
from pmemheap.space.ledger import Ledger
from pmemheap.units import UNIT, MiB

ITEM = 100_000


class Cache:
    """Blocks in the order in which they came; the oldest goes."""

    def __init__(self, heap: Heap) -> None:
        self.heap, self.blocks, self.asked = heap, list[int](), list[int]()

    def fill(self, count: int, size: int = ITEM) -> None:
        for _ in range(count):
            self.blocks.append(self.heap.malloc(size))

    def drop_oldest(self, nbytes: int) -> bool:
        self.asked.append(nbytes)
        if self.blocks:
            self.heap.free(self.blocks.pop(0))
            return True
        return False


@pytest.fixture(params=["anonymous", "shared", "process", "power", "first fit"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, tmp_path: Path) -> Iterator[Callable[..., Heap]]:
    with ExitStack() as stack:

        def made(budget: Budget | None = None) -> Heap:
            options: dict[str, Any] = {"budget": budget, "decay": None}
            if kind == "anonymous":
                heap = Heap.anonymous(**options)
            elif kind == "shared":
                heap = Heap.shared(**options)
            elif kind == "first fit":
                heap = Heap.anonymous(extents=FirstFit(), **options)
            else:
                path = tmp_path / f"heap{len(list(tmp_path.iterdir()))}"
                heap = Heap.create(path, durability=named(kind), **options)
            return stack.enter_context(heap)

        yield made


def test_growth_beyond_it_is_refused_and_says_who_has_what(make: Callable[..., Heap]) -> None:
    budget = Budget(8 * MiB)
    heap, other = make(budget), make(budget)
    other.malloc(2 * MiB)
    blocks = []
    with pytest.raises(OutOfSpaceError) as caught:  # noqa: PT012 -- until it is full
        while True:
            blocks.append(heap.malloc(ITEM))
    assert budget.held <= budget.limit
    message = str(caught.value)
    assert "budget of 8 MiB: room for a growth by 1 MiB expected, 0 B found; held: " in message
    assert f"MiB by {heap._space.shared.name}" in message
    assert "a higher limit, or an evict= that frees, would help" in message
    assert "left in the budget 0 B" in message
    assert len(list(heap.blocks())) == len(blocks) > 40
    assert heap.check()
    explanation = heap.explain(4 * MiB)
    assert not explanation.possible
    assert explanation.room_in_budget == 0
    budget.limit = 32 * MiB
    assert heap.explain(4 * MiB).possible
    heap.malloc(4 * MiB)


def test_the_oldest_go_when_it_is_full(make: Callable[..., Heap]) -> None:
    budget = Budget(8 * MiB)
    heap = make(budget)
    cache = Cache(heap)
    budget.evict = cache.drop_oldest
    cache.fill(400)
    assert budget.held <= budget.limit
    assert len(cache.blocks) > 50
    assert all(0 < nbytes <= MiB for nbytes in cache.asked)
    assert len(list(heap.blocks())) == len(cache.blocks)
    assert heap.check()


def test_an_eviction_serves_another_heap(make: Callable[..., Heap]) -> None:
    budget = Budget(10 * MiB)
    heap, other = make(budget), make(budget)
    cache = Cache(other)
    budget.evict = cache.drop_oldest
    cache.fill(60)
    heap.malloc(7 * MiB)
    assert budget.held <= budget.limit
    assert len(cache.blocks) < 30
    assert heap.check()
    assert other.check()


def test_members_give_back_before_anything_is_evicted(make: Callable[..., Heap]) -> None:
    budget = Budget(10 * MiB)
    heap, other = make(budget), make(budget)
    cache = Cache(heap)
    budget.evict = cache.drop_oldest
    other.free(other.malloc(7 * MiB))
    cache.fill(60)
    assert not cache.asked
    assert budget.held <= budget.limit


def test_no_more_is_given_back_than_is_wanted() -> None:
    budget = Budget(8 * MiB)
    with ExitStack() as stack:
        heaps = [stack.enter_context(Heap.anonymous(budget=budget)) for _ in range(3)]
        for heap in heaps[:2]:
            heap.free(heap.malloc(2 * MiB))
        heaps[2].malloc(5 * MiB)
        assert sorted(heap.stats().shrinks for heap in heaps[:2]) == [0, 1]


def test_giving_back_is_not_tried_at_each_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, calls = Budget(8 * MiB), list[object]()
    cut_ends = units.cut_ends

    def counted(space: Space) -> None:
        calls.append(space)
        cut_ends(space)

    monkeypatch.setattr(units, "cut_ends", counted)
    with Heap.anonymous(budget=budget) as heap:
        cache = Cache(heap)
        budget.evict = cache.drop_oldest
        cache.fill(2000, 2000)
        assert not calls
        cache.fill(6000, 2000)
        assert len(cache.asked) > 1000
        assert len(calls) < 10


def test_only_growth_asks_it() -> None:
    budget = Budget(MiB)
    with Heap.anonymous(budget=budget) as heap:
        cache = Cache(heap)
        budget.evict = cache.drop_oldest
        for _ in range(1000):
            heap.free(heap.malloc(500_000))
        assert not cache.asked


def test_less_than_is_held_lets_nothing_grow_and_that_is_all(make: Callable[..., Heap]) -> None:
    heap = make()
    blocks = [heap.malloc(ITEM) for _ in range(100)]
    heap.budget = Budget(MiB)
    assert heap.budget.held > 9 * MiB
    for offset in blocks[::2]:
        heap.free(offset)
    heap.sync()
    heap.malloc(ITEM)
    with pytest.raises(OutOfSpaceError, match="budget of 1 MiB"):
        heap.malloc(40 * MiB)
    assert heap.check()
    heap.budget = None
    heap.malloc(40 * MiB)


def test_a_heap_that_has_too_much_may_use_what_it_has() -> None:
    with Heap.anonymous(decay=None) as heap:
        in_pool, kept = heap.malloc(50 * UNIT), heap.malloc(UNIT)
        large = heap.malloc(200 * UNIT)
        heap.free(in_pool)
        heap.free(large)
        assert (kept, heap.stats().free) == (50 * UNIT, 511 * UNIT)
        heap.budget = Budget(0)
        assert heap.malloc(455 * UNIT) == kept + UNIT
        assert heap.check()


def test_a_block_grows_in_place_when_others_go(make: Callable[..., Heap]) -> None:
    budget = Budget(12 * MiB)
    heap, other = make(budget), make(budget)
    cache = Cache(other)
    budget.evict = cache.drop_oldest
    offset = heap.malloc(MiB)
    cache.fill(80)
    assert heap.expand(offset, 5 * MiB)
    assert cache.asked
    assert not heap.expand(offset, 20 * MiB)
    with pytest.raises(OutOfSpaceError, match="budget of 12 MiB"):
        heap.realloc(offset, 20 * MiB)
    assert heap.usable_size(offset) == 5 * MiB
    assert heap.check()


def test_a_block_moves_where_there_is_no_budget_to_grow_in_place() -> None:
    with Heap.anonymous(decay=None) as heap:
        hole, _, last = heap.malloc(3 * MiB), heap.malloc(ITEM), heap.malloc(MiB)
        heap.free(hole)
        heap.budget = Budget(0)
        assert heap.realloc(last, 3 * MiB) == hole
        assert heap.check()


def test_a_transaction_has_room_made(make: Callable[..., Heap]) -> None:
    budget = Budget(10 * MiB)
    heap, other = make(budget), make(budget)
    cache = Cache(other)
    budget.evict = cache.drop_oldest
    cache.fill(50)
    with heap.transaction() as tx:
        offsets = [tx.malloc(ITEM) for _ in range(60)]
    assert cache.asked
    assert {offset for offset, _ in heap.blocks()} == set(offsets)
    with heap.transaction() as tx, pytest.raises(OutOfSpaceError, match="budget of 10 MiB"):
        tx.malloc(30 * MiB)
    assert heap.check()


@pytest.mark.parametrize("kind", ["anonymous", "process"], indirect=True)
def test_a_map_of_another_heap_may_lose_keys_while_one_is_put(make: Callable[..., Heap]) -> None:
    budget = Budget(4 * MiB)
    stored, older = SortedMap(make(budget), "new"), SortedMap(make(budget), "old")

    def evict(nbytes: int) -> bool:
        return bool(older) and older.popitem() is not None

    for number in range(1000):
        older[b"%08d" % number] = b"%d" % number * 500
    budget.evict = evict
    for number in range(1300):
        stored[b"%08d" % number] = b"%d" % number * 500
    assert budget.held <= budget.limit
    assert len(older) < 900
    for each in (stored, older):
        keys = list(each)
        assert keys == sorted(keys)
        assert all(each[key] == b"%d" % int(key) * 500 for key in keys)
        assert each.heap.check()


@pytest.mark.parametrize("kind", ["anonymous", "process"], indirect=True)
def test_what_evict_takes_out_of_the_same_map_joins_the_put(make: Callable[..., Heap]) -> None:
    """And is free with its commit alone: so the put is refused, and nothing has changed."""
    budget = Budget(4 * MiB)
    heap = make(budget)
    stored, count = SortedMap(heap, "cache"), 0
    budget.evict = lambda nbytes: bool(stored) and stored.popitem() is not None
    with pytest.raises(OutOfSpaceError, match="budget of 4 MiB"):  # noqa: PT012 -- until full
        while True:
            stored[b"%08d" % count] = b"%d" % count * 1000
            count += 1
    assert len(stored) == count > 500
    assert heap.check()


def test_a_vector_grows_when_others_go(make: Callable[..., Heap]) -> None:
    budget = Budget(12 * MiB)
    heap, other = make(budget), make(budget)
    cache = Cache(other)
    budget.evict = cache.drop_oldest
    cache.fill(80)
    vector = Vector(heap, "numbers", "i8")
    for start in range(0, 500_000, 50_000):
        vector.extend(range(start, start + 50_000))
    assert cache.asked
    assert vector[-1] == 499_999
    assert heap.check()


def test_what_something_else_refuses_is_not_counted() -> None:
    budget, asked = Budget(64 * MiB), list[int]()
    budget.evict = asked.append
    with Heap.anonymous(limit=4 * MiB, budget=budget) as heap:
        for _ in range(3):
            with pytest.raises(OutOfSpaceError, match="limit 4194304 bytes expected to hold"):
                heap.malloc(8 * MiB)
        assert not asked
        assert heap.explain(1).room_in_budget == 64 * MiB - budget.held


# ---------------------------------------------------------------- what evict does wrong


def test_what_evict_raises_reaches_the_caller(make: Callable[..., Heap]) -> None:
    def evict(nbytes: int) -> bool:
        raise KeyError("a mistake of its own")

    budget = Budget(4 * MiB, evict)
    heap = make(budget)
    before = [heap.malloc(MiB)]
    with pytest.raises(KeyError, match="a mistake"):
        heap.malloc(8 * MiB)
    with pytest.raises(KeyError, match="a mistake"):
        heap.arena("new").malloc(8 * MiB)
    assert [offset for offset, _ in heap.blocks()] == before
    assert heap.check()
    budget.evict = None
    with pytest.raises(OutOfSpaceError, match="budget of 4 MiB"):
        heap.malloc(8 * MiB)
    assert heap.check()


def test_evict_may_not_let_a_heap_grow(make: Callable[..., Heap]) -> None:
    budget = Budget(4 * MiB)
    heap, other = make(budget), make(budget)
    messages = []

    def evict(nbytes: int) -> bool:
        try:
            other.malloc(3 * MiB)
        except OutOfSpaceError as error:
            messages.append(str(error))
        heap.trim()
        return False

    budget.evict = evict
    with pytest.raises(OutOfSpaceError, match="an evict that frees more than this one"):
        heap.malloc(5 * MiB)
    assert len(messages) == 1
    assert "an evict that frees expected, found one that allocates" in messages[0]
    assert heap.check()


def test_an_evict_that_frees_nothing_is_not_asked_for_ever() -> None:
    asked: list[int] = []

    def evict(nbytes: int) -> bool:
        asked.append(nbytes)
        return True

    budget = Budget(4 * MiB, evict)
    with Heap.anonymous(budget=budget) as heap:
        with pytest.raises(OutOfSpaceError, match="budget of 4 MiB"):
            heap.malloc(8 * MiB)
        assert 1000 <= len(asked) <= 1100


def test_many_small_evictions_are_waited_for() -> None:
    budget = Budget(6 * MiB)
    with Heap.anonymous(budget=budget) as heap:
        cache = Cache(heap)
        cache.fill(20_000, 200)
        budget.evict = cache.drop_oldest
        heap.malloc(4 * MiB)
        assert len(cache.asked) > 1000
        assert heap.check()


def test_evict_may_drop_the_block_that_was_to_grow(make: Callable[..., Heap]) -> None:
    budget = Budget(6 * MiB)
    heap = make(budget)
    offset, other = heap.malloc(3 * MiB), heap.malloc(2 * MiB)

    def evict(nbytes: int) -> bool:
        heap.free(offset)
        return True

    budget.evict = evict
    with pytest.raises(UsageError, match="realloc: offset of a live block expected"):
        heap.realloc(offset, 5 * MiB)
    assert [each for each, _ in heap.blocks()] == [other]
    assert heap.check()


def test_the_heap_may_leave_in_the_middle() -> None:
    budget = Budget(4 * MiB)
    with Heap.anonymous(budget=budget) as heap:

        def evict(nbytes: int) -> bool:
            heap.budget = None
            return True

        budget.evict = evict
        heap.malloc(8 * MiB)
        assert budget.held == 0


# ---------------------------------------------------------------- who is in it


def test_report_lists_heaps_and_arenas() -> None:
    budget = Budget(1 << 30)
    with Heap.anonymous(budget=budget) as heap, Heap.shared(budget=budget) as other:
        heap.arena("queue").malloc(3 * MiB)
        heap.scratch().malloc(ITEM)
        report = budget.report()
        assert [(share.heap, share.arena) for share in report.shares] == [
            (heap._space.shared.name, ""),
            (heap._space.shared.name, "queue"),
            (heap._space.shared.name, "(scratch)"),
            (other._space.shared.name, ""),
        ]
        assert report.held == budget.held == sum(share.nbytes for share in report.shares)
        assert report.shares[1].nbytes >= 3 * MiB
        assert "of 1 GiB held\n  1 MiB by anonymous heap\n" in str(report)
        assert "by anonymous heap, arena 'queue'" in str(report)
        assert "held>" in repr(budget)
        heap.arena("queue").drop()
        assert len(budget.report().shares) == 3


def test_arenas_and_scratch_regions_ask_it(make: Callable[..., Heap]) -> None:
    budget = Budget(3 * MiB)
    heap = make(budget)
    arena, scratch = heap.arena("other"), heap.scratch()
    scratch.malloc(ITEM)
    assert budget.held == 3 * MiB
    for grow in (arena.malloc, scratch.malloc, heap.malloc):
        with pytest.raises(OutOfSpaceError, match="budget of 3 MiB"):
            grow(2 * MiB)
    with pytest.raises(OutOfSpaceError, match="budget of 3 MiB"):
        heap.arena("third")
    assert heap.arenas() == ["other"]
    with pytest.raises(OutOfSpaceError, match="budget of 3 MiB"):
        Heap.scratch(fresh := make(budget)) and fresh.scratch().malloc(ITEM)
    assert heap.check()


def test_an_arena_has_room_made_for_it(make: Callable[..., Heap]) -> None:
    budget = Budget(4 * MiB)
    heap = make(budget)
    cache = Cache(heap)
    budget.evict = cache.drop_oldest
    cache.fill(38)
    heap.arena("other").malloc(ITEM)
    heap.scratch().malloc(ITEM)
    assert len(cache.asked) > 10
    assert budget.held <= budget.limit


def test_a_closed_or_dropped_heap_leaves(tmp_path: Path) -> None:
    budget = Budget(8 * MiB)
    heap = Heap.create(tmp_path / "heap", budget=budget)
    heap.malloc(6 * MiB)
    heap.close()
    assert budget.held == 0
    assert budget.report().shares == ()
    with pytest.raises(UsageError, match="closed"):
        heap.budget = None
    heap = Heap.open(tmp_path / "heap", budget=budget)
    assert budget.held >= 6 * MiB
    assert heap.budget is budget
    del heap
    gc.collect()
    assert budget.held == 0
    with Heap.anonymous(budget=budget) as heap:
        heap.malloc(6 * MiB)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_an_opened_heap_is_read_when_others_want_what_it_has(
    durability: DurabilityName, tmp_path: Path
) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        kept = heap.malloc(ITEM)
        heap.free(heap.malloc(5 * MiB))
    budget = Budget(9 * MiB)
    with (
        Heap.open(tmp_path / "heap", decay=None, budget=budget) as heap,
        Heap.anonymous(budget=budget) as other,
    ):
        assert heap._space.core.state == State.UNATTACHED
        held = budget.held
        assert held > 6 * MiB
        other.malloc(7 * MiB)
        assert heap.stats().shrinks
        assert [offset for offset, _ in heap.blocks()] == [kept]


def test_a_heap_is_in_one_budget() -> None:
    one, other = Budget(1 << 30), Budget(1 << 30)
    with Heap.anonymous(budget=one) as heap:
        heap.budget = one
        with pytest.raises(UsageError, match="in no other budget expected, found <Budget: 1 MiB"):
            heap.budget = other
        assert heap.budget is one
        heap.budget = None
        heap.budget = other
        assert (one.held, other.held) == (0, MiB)


def test_bad_input(tmp_path: Path) -> None:
    for limit in (-1, 1.5, "1", True, None):
        with pytest.raises(UsageError, match="limit: a number of bytes expected"):
            Budget(limit)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="evict: something to call expected, 5 found"):
        Budget(1, evict=5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a Budget or None expected, 5 found"):
        Heap.create(tmp_path / "heap", budget=5)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    Heap.create(tmp_path / "heap").close()
    budget = Budget(1 << 30)
    with pytest.raises(HeapExistsError):
        Heap.create(tmp_path / "heap", budget=budget)
    gc.collect()
    assert budget.held == 0


def test_a_reader_counts(tmp_path: Path) -> None:
    budget = Budget(1 << 30)
    with Heap.create(tmp_path / "heap") as heap:
        heap.malloc(3 * MiB)
    with Heap.open(tmp_path / "heap", readonly=True, budget=budget):
        assert budget.held >= 3 * MiB
        budget.limit = 2 * MiB
        with Heap.anonymous(budget=budget) as heap, pytest.raises(OutOfSpaceError):
            heap.malloc(2 * MiB)


# ---------------------------------------------------------------- threads, processes


class Fake:
    """A member that does something when it is counted."""

    name, is_open = "fake", True

    def __init__(self, counted: Callable[[], object] = bool) -> None:
        self.nbytes, self.counted = 0, counted

    def parts(self) -> list[tuple[str, int]]:
        self.counted()
        return [("", self.nbytes)]

    def gave_back(self) -> bool:
        return False

    def give_back(self) -> None:
        """Have nothing."""

    def live_bytes(self) -> int:
        return 0


def test_a_growth_that_ends_while_all_are_counted_counts() -> None:
    ledger = Ledger(10, None)
    with ExitStack() as growth:

        def end() -> None:
            one.nbytes = 4
            growth.close()

        one, other = Fake(), Fake()
        ledger.join(one)
        ledger.join(other)
        growth.enter_context(ledger.growth(4))
        other.counted = end
        assert ledger.room() == 6, "4 of `one`, which was counted before it had grown"
    assert ledger.room() == 6


def test_threads_share_it() -> None:
    budget = Budget(24 * MiB)
    errors: list[BaseException] = []
    over = []
    with ExitStack() as stack:
        heaps = [stack.enter_context(Heap.anonymous(budget=budget)) for _ in range(4)]
        caches = [Cache(heap) for heap in heaps]

        def evict(nbytes: int) -> bool:
            chance = random.Random(nbytes)
            order = sorted(caches, key=lambda _: chance.random())
            return any(cache.drop_oldest(nbytes) for cache in order)

        def work(cache: Cache) -> None:
            try:
                for _ in range(200):
                    cache.fill(1)
                    report = budget.report()
                    # Heaps are added up one by one: one may have shrunk, and then another grown.
                    if report.held > budget.limit and budget.report() == report:
                        over.append(report)
            except BaseException as error:
                errors.append(error)

        budget.evict = evict
        threads = [threading.Thread(target=work, args=(cache,)) for cache in caches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        assert not over
        assert all(heap.check() for heap in heaps)
        assert sum(len(cache.asked) for cache in caches) > 100


def test_a_child_process_begins_anew() -> None:
    budget = Budget(4 * MiB)
    with Heap.anonymous(budget=budget) as heap:
        heap.malloc(4 * MiB)
        child = os.fork()
        if child == 0:
            try:
                with Heap.anonymous(budget=budget) as own:
                    own.malloc(3 * MiB)
                    is_right = len(budget.report().shares) == 1 and budget.held <= budget.limit
                os._exit(0 if is_right else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert budget.held == 4 * MiB
