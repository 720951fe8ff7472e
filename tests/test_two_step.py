"""Blocks between free and live: reserved, published, cancelled; retired, released; pinned."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pmemheap import Heap, UsageError
from pmemheap.heap.place import place_of
from pmemheap.native import TapeKind
from pmemheap.native.constants import POOL_MOST, VOLATILE, Durability, Refusal
from pmemheap.testing import Recorder, copy_as_crashed
from pmemheap.units import UNIT, KiB

pytestmark = pytest.mark.checked

REFILL, LARGE, BAD_OFFSET = Refusal.REFILL, Refusal.LARGE, Refusal.BAD_OFFSET
PINNED, IN_TRANSACTION = Refusal.PINNED, Refusal.IN_TRANSACTION
MOVE_LOGGED = Refusal.MOVE_LOGGED
PROCESS, POWER = Durability.PROCESS, Durability.POWER
SIZES = [16, 100, 2000, 4096, 3 * UNIT, 70 * UNIT]
SMALL = 64


def reserve(heap: Heap, size: int, align: int = 16) -> int:
    """Do what the slow path of malloc does, for a reserved block."""
    while (offset := heap._space.core.reserve(size, align)) < 0:
        if offset == LARGE:
            nunits = -(-size // UNIT)
            return heap._space.core.large_make(
                heap._space.supply.allocate(nunits), nunits, size, True
            )
        assert offset == REFILL
        heap._space.supply.refill(POOL_MOST)
    return offset


def is_live(heap: Heap, offset: int) -> bool:
    return place_of(heap._space.core, offset).refusal != BAD_OFFSET


def in_use(heap: Heap) -> int:
    stats = heap.stats()
    return stats.allocated + stats.reserved + stats.quarantined


@pytest.fixture(params=["anonymous", "shared"])
def heap(request: pytest.FixtureRequest) -> Iterator[Heap]:
    make: Callable[[], Heap] = Heap.anonymous if request.param == "anonymous" else Heap.shared
    with make() as made:
        yield made
        assert made.check(), made.check()


# ---------------------------------------------------------------- the steps, by example


@pytest.mark.parametrize("size", SIZES)
def test_a_reserved_block_is_published_and_freed_as_any_other(heap: Heap, size: int) -> None:
    offset = reserve(heap, size)
    assert heap.stats().reserved == heap.usable_size(offset) >= size
    assert heap.stats().blocks == 0
    assert heap.check(), heap.check()
    assert heap._space.core.publish(offset) == 0
    assert heap.stats().allocated == heap.usable_size(offset)
    assert [at for at, _ in heap.blocks()] == [offset]
    assert heap.check(), heap.check()
    heap.free(offset)
    assert in_use(heap) == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_cancelled_block_is_handed_out_again(heap: Heap, size: int) -> None:
    offset = reserve(heap, size)
    assert heap._space.core.cancel(offset) == 0
    assert in_use(heap) == 0
    assert heap.malloc(size) == offset


@pytest.mark.parametrize("size", SIZES)
def test_a_reserved_block_is_invisible_to_bare_calls(heap: Heap, size: int) -> None:
    offset = reserve(heap, size)
    with pytest.raises(UsageError, match="belongs to an open transaction"):
        heap.free(offset)
    with pytest.raises(UsageError, match="belongs to an open transaction"):
        heap.realloc(offset, 2 * size)
    with pytest.raises(UsageError):
        heap.free_many([offset])
    assert list(heap.blocks()) == []
    assert heap._space.core.cancel(offset) == 0


@pytest.mark.parametrize("size", SIZES)
def test_the_owner_views_its_reserved_block(heap: Heap, size: int) -> None:
    offset = reserve(heap, size)
    view = heap.view(offset, size)
    view[:] = bytes([7]) * size
    assert heap._space.core.publish(offset) == 0
    assert view[0] == view[-1] == 7
    with pytest.raises(BufferError):
        heap.free(offset)
    view.release()
    del view
    heap.free(offset)


@pytest.mark.parametrize("size", SIZES)
def test_a_retired_block_is_withheld_until_its_release(heap: Heap, size: int) -> None:
    offset = heap.malloc(size)
    usable = heap.usable_size(offset)
    assert heap._space.core.retire(offset) == 0
    assert place_of(heap._space.core, offset)[4] == usable
    assert heap.stats().quarantined == usable
    with pytest.raises(UsageError, match="it is kept until that is durable"):
        heap.free(offset)
    with pytest.raises(UsageError):
        heap.view(offset)
    other = heap.malloc(size)
    assert other != offset
    assert heap.check(), heap.check()
    assert heap._space.core.release(offset) == 0
    assert heap._space.core.release(offset) == BAD_OFFSET
    assert place_of(heap._space.core, offset)[4] == 0
    heap.free(other)
    assert heap.malloc(size) in {offset, other}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ends", ["cancel", "release"])
def test_space_that_is_viewed_becomes_free_with_the_last_view(
    heap: Heap, size: int, ends: str
) -> None:
    offset = reserve(heap, size) if ends == "cancel" else heap.malloc(size)
    views = [heap.view(offset, size), heap.view(offset, size)]
    views[0][0] = 5
    if ends == "cancel":
        assert heap._space.core.cancel(offset) == 0
    else:
        assert heap._space.core.retire(offset) == 0
        assert heap._space.core.release(offset) == 0
    assert heap.check(), heap.check()
    assert heap.malloc(size) != offset
    del views[1]
    assert heap.stats().quarantined > 0
    assert views[0][0] == 5
    del views[0]
    assert heap.stats().quarantined == 0
    assert heap.check(), heap.check()
    assert heap.malloc(size) == offset


@pytest.mark.parametrize("size", SIZES)
def test_a_last_view_that_goes_before_the_release_frees_nothing(heap: Heap, size: int) -> None:
    offset = heap.malloc(size)
    view = heap.view(offset)
    assert heap._space.core.retire(offset) == 0
    del view
    assert heap.stats().quarantined > 0
    assert heap.malloc(size) != offset
    assert heap._space.core.release(offset) == 0
    assert heap.stats().quarantined == 0


@pytest.mark.parametrize("ends", ["cancel", "retire"])
def test_handles_of_a_block_that_goes_are_stale(heap: Heap, ends: str) -> None:
    offset = reserve(heap, SMALL)
    serial = heap._space.core.handle_make(offset)
    assert heap._space.core.handle_is_valid(offset, serial)
    if ends == "cancel":
        heap._space.core.cancel(offset)
    else:
        heap._space.core.publish(offset)
        assert heap._space.core.handle_is_valid(offset, serial)
        heap._space.core.retire(offset)
    assert not heap._space.core.handle_is_valid(offset, serial)
    heap._space.core.handle_drop(offset, serial)
    assert heap._space.core.usage()[0]["blocks_with_refs"] == 0
    if ends == "retire":
        heap._space.core.release(offset)


def test_steps_out_of_order_are_refused(heap: Heap) -> None:
    live, reserved = heap.malloc(SMALL), reserve(heap, SMALL)
    assert (
        heap._space.core.publish(live)
        == heap._space.core.cancel(live)
        == heap._space.core.release(live)
        == BAD_OFFSET
    )
    assert heap._space.core.retire(reserved) == heap._space.core.release(reserved) == BAD_OFFSET
    assert heap._space.core.publish(reserved + 1) == heap._space.core.cancel(1 << 50) == BAD_OFFSET


# ---------------------------------------------------------------- runs


def run_blocks(heap: Heap, size: int) -> int:
    return next(row[2] for row in heap._space.core.usage()[1] if row[0] == size)


def test_a_refill_passes_over_withheld_blocks(heap: Heap) -> None:
    count = run_blocks(heap, SMALL)
    offsets = [reserve(heap, SMALL) for _ in range(count // 2)]
    rest = list(heap.malloc_many(SMALL, 2 * count - len(offsets)))
    assert len({*offsets, *rest}) == len(offsets) + len(rest)
    for offset in offsets[::2]:
        heap._space.core.cancel(offset)
    again = list(heap.malloc_many(SMALL, len(offsets[::2])))
    assert sorted(again) == sorted(offsets[::2])
    assert heap.check(), heap.check()


def test_a_run_goes_with_the_release_of_its_last_withheld_block(heap: Heap) -> None:
    count = run_blocks(heap, SMALL)
    offsets = list(heap.malloc_many(SMALL, 2 * count))
    full, last = offsets[:count], offsets[count:]
    units = heap._space.core.usage()[0]["run_units"]
    for offset in full:
        heap._space.core.retire(offset)
    assert heap._space.core.usage()[0]["run_units"] == units
    assert heap.check(), heap.check()
    for offset in full:
        heap._space.core.release(offset)
    assert heap._space.core.usage()[0]["run_units"] < units
    heap.free_many(last)


def test_a_run_with_only_withheld_blocks_is_not_released_when_units_are_short(heap: Heap) -> None:
    offset = reserve(heap, SMALL)
    heap._space.supply.take_all_back()
    assert heap._space.core.usage()[0]["run_units"] > 0
    assert heap._space.core.publish(offset) == 0
    assert heap.check(), heap.check()


def test_a_run_that_is_full_by_withheld_blocks_offers_its_room_again(heap: Heap) -> None:
    count = run_blocks(heap, SMALL)
    first = [reserve(heap, SMALL) for _ in range(count)]
    second = [reserve(heap, SMALL) for _ in range(count)]
    assert not {*first} & {*second}
    heap._space.core.cancel(first[3])
    assert heap.check(), heap.check()
    for offset in second:
        heap._space.core.publish(offset)
    assert heap.malloc(SMALL) == first[3]


# ---------------------------------------------------------------- lookups and pins


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("state", ["live", "reserved"])
def test_the_start_of_a_block_is_found_from_each_of_its_bytes(
    heap: Heap, size: int, state: str
) -> None:
    before, offset, behind = heap.malloc(size), reserve(heap, size), heap.malloc(size)
    if state == "live":
        heap._space.core.publish(offset)
    usable = heap.usable_size(offset)
    inside = {0, 1, 15, usable // 2, usable - 1, size - 1}
    assert {heap._space.core.block_start(offset + at) for at in inside} == {offset}
    assert heap._space.core.block_start(before + usable - 1) == before
    assert heap._space.core.block_start(behind) == behind
    (heap._space.core.retire if state == "live" else heap._space.core.cancel)(offset)
    assert {heap._space.core.block_start(offset + at) for at in inside} == {BAD_OFFSET}


def test_no_block_starts_outside_of_blocks(heap: Heap) -> None:
    heap.malloc(SMALL)
    end = heap._space.core.bounds[1] * UNIT
    for offset in (end - 1, end, 1 << 54, (1 << 63) + 5):
        assert heap._space.core.block_start(offset) == BAD_OFFSET


def test_the_start_of_a_block_is_found_in_a_file_that_was_just_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.heap"
    with Heap.create(path, durability="process") as heap:
        small, large = heap.malloc(SMALL), heap.malloc(100 * UNIT)
        heap.free(heap.malloc(50 * UNIT))
    with Heap.open(path) as heap:
        heap._space.require()  # from here on it does not sleep
        assert heap._space.core.block_start(large + 90 * UNIT + 3) == large
        assert heap._space.core.block_start(small + 5) == small
        assert heap._space.core.block_start(large + 100 * UNIT) == BAD_OFFSET
        assert heap.check(), heap.check()


@pytest.mark.parametrize("size", SIZES)
def test_a_pinned_block_neither_goes_nor_moves(heap: Heap, size: int) -> None:
    offset, neighbour = heap.malloc(size), heap.malloc(size)
    assert heap._space.core.pin(offset) == heap._space.core.pin(offset) == 0
    heap._space.core.unpin(offset)
    assert place_of(heap._space.core, offset).refusal == IN_TRANSACTION
    assert heap._space.core.try_realloc(offset, heap.usable_size(offset)) == offset
    if size <= 4 * UNIT:
        assert heap._space.core.try_realloc(offset, 20 * UNIT) == IN_TRANSACTION
    assert heap.expand(offset, size)
    view = heap.view(offset)
    assert place_of(heap._space.core, offset).refusal == IN_TRANSACTION
    heap._space.core.unpin(offset)
    assert place_of(heap._space.core, offset).refusal == PINNED
    del view
    heap.free(offset)
    heap.free(neighbour)
    assert (
        heap._space.core.usage()[0]["pins"] == heap._space.core.usage()[0]["blocks_with_refs"] == 0
    )


def test_what_is_retired_while_pinned_waits_for_the_pin(heap: Heap) -> None:
    offset = heap.malloc(SMALL)
    heap._space.core.pin(offset)
    heap._space.core.retire(offset)
    heap._space.core.release(offset)
    assert heap.stats().quarantined > 0
    heap._space.core.unpin(offset)
    assert in_use(heap) == 0


def test_nothing_can_pin_what_is_not_there(heap: Heap) -> None:
    offset = heap.malloc(SMALL)
    assert heap._space.core.pin(offset + 16) == BAD_OFFSET
    view = heap.view(offset)
    heap.free(offset, deferred=True)
    assert heap._space.core.pin(offset) == BAD_OFFSET
    del view


# ---------------------------------------------------------------- files and logs


@pytest.mark.parametrize("size", SIZES)
def test_an_opened_file_finds_withheld_blocks_free(tmp_path: Path, size: int) -> None:
    path, killed = tmp_path / "a.heap", tmp_path / "killed.heap"
    heap = Heap.create(path, durability="process")
    kept, gone = heap.malloc(size), heap.malloc(size)
    reserve(heap, size)
    heap._space.core.retire(gone)
    copy_as_crashed(path, killed)
    with Heap.open(killed) as opened:
        assert [at for at, _ in opened.blocks()] == [kept]
        assert in_use(opened) == opened.usable_size(kept)
        assert opened.check(), opened.check()
    heap.close()


@pytest.fixture
def noting() -> Iterator[Heap]:
    """Yield a heap that notes what a power heap would log; no log takes it away."""
    with Heap.anonymous(decay=None) as heap:
        heap._space.core.durability = POWER
        yield heap
        heap._space.core.durability = VOLATILE


@pytest.mark.parametrize("size", SIZES)
def test_a_power_heap_quarantines_what_bare_calls_free(noting: Heap, size: int) -> None:
    heap = noting
    offsets = [heap.malloc(size) for _ in range(5)]
    usable = heap.usable_size(offsets[0])
    for offset in offsets[:4]:
        heap.free(offset)
    freed, _ = heap._space.core.noted()
    assert freed == [(offset, usable) for offset in offsets[:4]]
    assert heap.check(), heap.check()
    assert not {heap.malloc(size) for _ in range(5)} & {*offsets}
    for offset in offsets[:4]:
        assert heap._space.core.release(offset) == 0
    assert heap.check(), heap.check()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view_goes_first", [False, True])
def test_a_deferred_free_in_a_power_heap_is_noted_at_the_call(
    noting: Heap, size: int, view_goes_first: bool
) -> None:
    heap = noting
    offset = heap.malloc(size)
    usable, view = heap.usable_size(offset), heap.view(offset)
    heap._space.core.noted()
    heap.free(offset, deferred=True)
    assert heap._space.core.noted()[0] == [(offset, usable)]
    for step in (view.release, lambda: heap._space.core.release(offset))[
        :: 1 if view_goes_first else -1
    ]:
        assert heap.stats().quarantined == usable
        step()
    assert in_use(heap) == 0
    assert heap._space.core.noted()[0] == []


def test_a_block_that_shrinks_in_a_power_heap_quarantines_its_tail(noting: Heap) -> None:
    heap = noting
    offset = heap.malloc(10 * UNIT)
    assert heap.realloc(offset, 4 * UNIT) == offset
    tail = offset + 4 * UNIT
    assert heap._space.core.noted()[0] == [(tail, 6 * UNIT)]
    assert heap._space.core.try_malloc(6 * UNIT, 16) != tail
    assert heap.check(), heap.check()
    assert heap._space.core.release(tail) == 0


@pytest.mark.parametrize("logged", [PROCESS, POWER])
def test_nothing_moves_by_bare_stores_where_there_is_a_log(heap: Heap, logged: int) -> None:
    small, large = heap.malloc(SMALL), heap.malloc(3 * UNIT)
    heap.malloc(UNIT)
    heap._space.core.durability = logged
    assert heap._space.core.try_realloc(small, 1000) == MOVE_LOGGED
    assert heap._space.core.try_realloc(small, SMALL - 1) == small
    assert heap._space.core.try_realloc(large, 30 * UNIT) == MOVE_LOGGED
    assert heap._space.core.try_realloc(large, 100) == MOVE_LOGGED
    assert heap._space.core.move_into(small, large, SMALL) == MOVE_LOGGED
    assert heap.usable_size(large) == 3 * UNIT


@pytest.mark.parametrize("sizes", [(3, 10), (10, 3), (3, 3)])
def test_an_entry_that_changes_is_sound_after_each_store(sizes: tuple[int, int]) -> None:
    before, after = (units * UNIT - 100 for units in sizes)
    with Heap.shared() as heap:
        offset = heap.malloc(before)
        with Recorder(heap.fileno()) as recorder:
            assert heap.realloc(offset, after - 50) == offset
        stores = [each for each in recorder.recording.events if each.kind == TapeKind.STORE]
        assert len(stores) <= 2
        image = bytearray(recorder.recording.base)
        words = {"units": sizes[0], "bytes": before}
        for store in stores:
            stop = store.offset + 8
            old, new = (
                int.from_bytes(each, "little") for each in (image[store.offset : stop], store.data)
            )
            image[store.offset : stop] = store.data
            words["bytes" if old == words["bytes"] else "units"] = new >> 32 or new
            assert words["bytes"] <= words["units"] * UNIT


# ---------------------------------------------------------------- against a model


class TwoSteps(RuleBasedStateMachine):
    """The model: in which of three sets each block is, and its views. No code shared."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = self.made()
        self.sets: dict[str, dict[int, int]] = {"live": {}, "reserved": {}, "quarantined": {}}
        self.views: list[tuple[int, int, memoryview]] = []
        self.ghosts: dict[int, int] = {}

    def made(self) -> Heap:
        return Heap.anonymous()

    def teardown(self) -> None:
        self.views.clear()
        self.heap.close()

    def pick(self, state: str, number: int) -> int | None:
        offsets = list(self.sets[state])
        return offsets[number % len(offsets)] if offsets else None

    def viewed(self, offset: int) -> bool:
        return any(at == offset for at, _, _ in self.views)

    def taken(self) -> dict[int, int]:
        parts = (*self.sets.values(), self.ghosts)
        return {at: size for part in parts for at, size in part.items()}

    def born(self, state: str, offset: int) -> None:
        usable = place_of(self.heap._space.core, offset)[4]
        for at, size in self.taken().items():
            assert at + size <= offset or offset + usable <= at, "two blocks overlap"
        self.sets[state][offset] = usable

    def freed(self, offset: int, size: int) -> None:
        """Nothing is left of a block that a bare call freed, but what its views show."""
        if self.viewed(offset):
            self.ghosts[offset] = size

    def ends(self, state: str, offset: int) -> None:
        size = self.sets[state].pop(offset)
        if self.viewed(offset):
            self.ghosts[offset] = size

    @rule(size=st.sampled_from([*SIZES, 48, 64, 64, 15 * KiB]), count=st.integers(1, 40))
    def malloc(self, size: int, count: int) -> None:
        for offset in self.heap.malloc_many(size, min(count, 1 + 40 * KiB // size)):
            self.born("live", offset)

    @rule(size=st.sampled_from([*SIZES, 48, 64, 64, 15 * KiB]), count=st.integers(1, 40))
    def reserve(self, size: int, count: int) -> None:
        for _ in range(min(count, 1 + 40 * KiB // size)):
            self.born("reserved", reserve(self.heap, size))

    @rule(number=st.integers(0))
    def publish(self, number: int) -> None:
        if (offset := self.pick("reserved", number)) is not None:
            assert self.heap._space.core.publish(offset) == 0
            self.sets["live"][offset] = self.sets["reserved"].pop(offset)

    @rule(number=st.integers(0), every=st.booleans())
    def cancel(self, number: int, every: bool) -> None:
        chosen = list(self.sets["reserved"]) if every else [self.pick("reserved", number)]
        for offset in chosen:
            if offset is not None:
                assert self.heap._space.core.cancel(offset) == 0
                self.ends("reserved", offset)

    @rule(number=st.integers(0), every=st.booleans())
    def retire(self, number: int, every: bool) -> None:
        chosen = list(self.sets["live"]) if every else [self.pick("live", number)]
        for offset in chosen:
            if offset is not None:
                assert self.heap._space.core.retire(offset) == 0
                self.sets["quarantined"][offset] = self.sets["live"].pop(offset)

    @rule(number=st.integers(0), every=st.booleans())
    def release(self, number: int, every: bool) -> None:
        chosen = list(self.sets["quarantined"]) if every else [self.pick("quarantined", number)]
        for offset in chosen:
            if offset is not None:
                assert self.heap._space.core.release(offset) == 0
                self.ends("quarantined", offset)

    @rule(number=st.integers(0), deferred=st.booleans())
    def free(self, number: int, deferred: bool) -> None:
        offset = self.pick("live", number)
        if offset is None:
            return
        if not self.viewed(offset):
            self.heap.free(offset)
            self.freed(offset, self.sets["live"].pop(offset))
        elif deferred:
            self.heap.free(offset, deferred=True)
            self.freed(offset, self.sets["live"].pop(offset))
        else:
            assert place_of(self.heap._space.core, offset).refusal == PINNED

    @rule(number=st.integers(0), state=st.sampled_from(["live", "reserved"]))
    def view(self, number: int, state: str) -> None:
        if (offset := self.pick(state, number)) is not None:
            mark = number % 251
            view = self.heap.view(offset, 16)
            if self.viewed(offset):
                mark = next(value for at, value, _ in self.views if at == offset)
            view[:] = bytes([mark]) * 16
            self.views.append((offset, mark, view))

    @rule(number=st.integers(0))
    def drop_view(self, number: int) -> None:
        if self.views:
            offset, _, _ = self.views.pop(number % len(self.views))
            if not self.viewed(offset):
                self.ghosts.pop(offset, None)

    @rule()
    def scrape(self) -> None:
        self.heap._space.supply.take_all_back()

    @invariant()
    def the_heap_agrees(self) -> None:
        assert self.heap.check(), self.heap.check()
        live = dict(self.heap.blocks())
        assert live == self.sets["live"]
        counters = self.heap._space.core.usage()[0]
        assert counters["reserved_bytes"] == sum(self.sets["reserved"].values())
        withheld = [*self.sets["quarantined"].values(), *self.ghosts.values()]
        assert counters["quarantined_bytes"] == sum(withheld)
        kinds = ("run", "large", "reserved", "quarantined")
        used = sum(counters[f"{kind}_units"] for kind in kinds)
        assert used + self.heap._space.supply.free_units() == self.heap._space.region.nunits

    @invariant()
    def what_is_viewed_keeps_its_bytes(self) -> None:
        assert all(set(view) == {mark} for _, mark, view in self.views)


class TwoStepsInAFile(TwoSteps):
    """The same where entries are kept; whoever opens them finds what is live, and all else free."""

    def made(self) -> Heap:
        return Heap.shared()

    @rule()
    def killed(self) -> None:
        live = dict(self.heap.blocks())
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            path = Path(folder, "killed.heap")
            copy_as_crashed(f"/proc/self/fd/{self.heap.fileno()}", path)
            with Heap.open(path) as opened:
                assert opened.check(), opened.check()
                assert dict(opened.blocks()) == live
                assert in_use(opened) == sum(live.values())


class TwoStepsInAPowerHeap(TwoSteps):
    """The same where bare frees go to quarantine, and what a log would hear of is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[tuple[int, int]] = []

    def made(self) -> Heap:
        heap = Heap.anonymous()
        heap._space.core.durability = POWER
        return heap

    def freed(self, offset: int, size: int) -> None:
        self.sets["quarantined"][offset] = size
        self.expected.append((offset, size))

    @rule()
    def take_notes(self) -> None:
        freed, _ = self.heap._space.core.noted()
        assert freed == self.expected
        self.expected = []


SETTINGS = settings(stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])

TestTwoSteps = pytest.mark.slow(TwoSteps.TestCase)
TestTwoStepsInAFile = pytest.mark.slow(TwoStepsInAFile.TestCase)
TestTwoStepsInAPowerHeap = pytest.mark.slow(TwoStepsInAPowerHeap.TestCase)
TestTwoSteps.settings = SETTINGS
TestTwoStepsInAFile.settings = SETTINGS
TestTwoStepsInAPowerHeap.settings = SETTINGS
