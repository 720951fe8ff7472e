"""Give-back by itself: what is free for long goes, whatever goes on beside it, at whatever call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from heap_world import named

from pmemheap import Heap, native
from pmemheap.containers import SortedMap
from pmemheap.heap import units
from pmemheap.units import UNIT, KiB, MiB

DECAY = 0.01
KINDS = ["anonymous", "shared", "process", "power"]
LIVE, FREED = range(4), range(4, 20)
"""Of twenty pieces."""
PIECE = 256 * KiB
LONG = 0.1  # enough for whatever is due


def make(kind: str, path: Path, decay: float | None = DECAY) -> Heap:
    if kind == "anonymous":
        return Heap.anonymous(decay=decay)
    if kind == "shared":
        return Heap.shared(decay=decay)
    return Heap.create(path, durability=named(kind), decay=decay)


@pytest.fixture(params=KINDS)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    with make(request.param, tmp_path / "data.heap") as made:
        yield made
        assert made.check(), made.check().findings


@pytest.fixture(params=KINDS)
def still(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """A heap that gives nothing back before `begin_decay`."""
    with make(request.param, tmp_path / "data.heap", None) as made:
        yield made
        assert made.check(), made.check().findings


def begin_decay(heap: Heap) -> None:
    heap._space.shared.decay = DECAY
    heap._space.shared.set_pace()


def footprint(space: Any) -> int:
    """Bytes of memory or of file blocks but the log, without a call that could give back."""
    log = space._space.shared.redo
    bytes_used = units.footprint(space._space)
    assert bytes_used is not None
    return int(bytes_used) - (0 if log is None else log.size)


def filled(space: Any, size: int = PIECE) -> list[int]:
    """Return blocks that were stored to, as many for each of `LIVE` and `FREED`."""
    blocks = []
    for _ in range(len(LIVE) + len(FREED)):
        many = [space.malloc(size) for _ in range(PIECE // size)]
        for offset in many:
            with space.view(offset, size) as view:
                view[:] = b"x" * size
        blocks.append(many)
    return [offset for many in blocks for offset in many]


def free_most(heap: Heap, blocks: list[int]) -> None:
    """Free four fifths of them, in a power heap for good."""
    for offset in blocks[len(blocks) // 5 :]:
        heap.free(offset)
    if heap.durability == "power":
        heap.sync()


def gone(heap: Heap, before: int) -> bool:
    return footprint(heap) <= before - len(FREED) * PIECE * 5 // 8


# ---------------------------------------------------------------- beside what goes on


BESIDE: dict[str, Callable[[Heap], object]] = {
    "a hot buffer": lambda heap: heap.free(heap.malloc(PIECE)),
    "a hot buffer of another length": lambda heap: heap.free(heap.malloc(PIECE * 2 // 3)),
    "hot units": lambda heap: heap.free(heap.malloc(5 * UNIT)),
    "small blocks": lambda heap: heap.free(heap.malloc(100)),
    "small blocks in batches": lambda heap: heap.free_many(heap.malloc_many(100, 10)),
    "looks": lambda heap: heap.usable_size(0),
    "empty commits": lambda heap: heap.transaction(durable=False).commit(),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_it_happens_beside_whatever_goes_on(heap: Heap, beside: str) -> None:
    blocks = filled(heap)
    before = footprint(heap)
    free_most(heap, blocks)
    ends_at = time.monotonic() + 20
    while not gone(heap, before):
        BESIDE[beside](heap)
        time.sleep(0.001)
        assert time.monotonic() < ends_at, "never given back"
    assert bytes(heap.view(blocks[0])) == b"x" * PIECE


def test_it_happens_beside_a_busy_loop(heap: Heap) -> None:
    blocks = filled(heap)
    before = footprint(heap)
    free_most(heap, blocks)
    ends_at = time.monotonic() + 20
    while not gone(heap, before):
        for _ in range(2000):
            heap.free(heap.malloc(100))
        assert time.monotonic() < ends_at, "never given back"


@pytest.mark.parametrize("size", [UNIT, 3 * UNIT, 128 * KiB])
def test_small_pieces_go_back_as_well(heap: Heap, size: int) -> None:
    blocks = filled(heap, size)
    before = footprint(heap)
    free_most(heap, blocks)
    ends_at = time.monotonic() + 20
    while not gone(heap, before):
        heap.free(heap.malloc(PIECE))
        time.sleep(0.001)
        assert time.monotonic() < ends_at, "never given back"


def test_a_store_of_which_only_the_map_is_used_gives_back(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process", decay=DECAY) as heap:
        store = SortedMap(heap, "store")
        store.update({b"%05d" % number: b"x" * 20_000 for number in range(1000)})
        before = footprint(heap)
        for number in range(1000):
            del store[b"%05d" % number]
        ends_at = time.monotonic() + 20
        while footprint(heap) > before - 12 * MiB:
            store[b"other"] = b"y"
            time.sleep(0.001)
            assert time.monotonic() < ends_at, "never given back"


# ---------------------------------------------------------------- at the next call


CALLS: dict[str, Callable[[Heap, int], object]] = {
    "malloc": lambda heap, _: heap.malloc(100),
    "malloc of much": lambda heap, _: heap.malloc(100 * KiB),
    "malloc_many": lambda heap, _: heap.malloc_many(100, 3),
    "free": lambda heap, block: heap.free(block),
    "free_many": lambda heap, block: heap.free_many([block]),
    "realloc": lambda heap, block: heap.realloc(block, PIECE),
    "expand": lambda heap, block: heap.expand(block, PIECE),
    "usable_size": lambda heap, block: heap.usable_size(block),
    "view": lambda heap, block: heap.view(block).release(),
    "stats": lambda heap, _: heap.stats(),
    "blocks": lambda heap, _: next(heap.blocks()),
    "check": lambda heap, _: heap.check(),
    "explain": lambda heap, _: heap.explain(100),
    "transaction": lambda heap, _: heap.transaction(),
    "map": lambda heap, _: SortedMap(heap, "other"),
    "arenas": lambda heap, _: heap.arenas(),
    "root": lambda heap, block: heap.roots.__setitem__("a", block),
    "root that is read": lambda heap, _: "a" in heap.roots,
    "arena": lambda heap, _: heap.arena("other"),
    "sync": lambda heap, _: heap.sync(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_heap_that_was_left_alone_gives_back_at_the_next_call(still: Heap, call: str) -> None:
    blocks = filled(still)
    before = footprint(still)
    free_most(still, blocks)
    assert not gone(still, before)
    begin_decay(still)
    time.sleep(LONG)
    CALLS[call](still, blocks[0])
    assert gone(still, before)


AFTER_A_LOOP: dict[str, Callable[[Heap, SortedMap], object]] = {
    "malloc": lambda heap, _: heap.malloc(10),
    "free_many": lambda heap, _: heap.free_many([]),
    "usable_size": lambda heap, _: heap.usable_size(heap.roots["map"]),
    "transaction": lambda heap, _: heap.transaction(),
    "get of a map": lambda _, store: store.get(b"key"),
    "put into a map": lambda _, store: store.__setitem__(b"key", b"other"),
    "length of a map": lambda _, store: len(store),
    "scan of a map": lambda _, store: next(iter(store)),
}


@pytest.mark.parametrize("call", AFTER_A_LOOP)
@pytest.mark.parametrize("kind", ["anonymous", "power"])
def test_a_loop_of_frees_lets_the_next_call_look(tmp_path: Path, call: str, kind: str) -> None:
    """In a loop few calls look at the clock, but the one that comes long after it does."""
    with make(kind, tmp_path / "heap", None) as heap:
        store = SortedMap(heap, "map")
        store[b"key"] = b"value"
        blocks = filled(heap, 1000)
        before = footprint(heap)
        for offset in blocks:
            heap.free(offset)
        begin_decay(heap)
        time.sleep(LONG)
        AFTER_A_LOOP[call](heap, store)
        assert gone(heap, before)
        assert heap.check(), heap.check().findings


@pytest.mark.parametrize("how", ["synced", "opened"])
def test_a_file_at_rest_gives_back_and_stays_as_if_closed(tmp_path: Path, how: str) -> None:
    """Only pages go: the header is not touched, so that a power failure finds a closed heap."""
    path = tmp_path / "heap"
    with make("process", path, None) as heap:
        store = SortedMap(heap, "map")
        store[b"key"] = b"value"
        free_most(heap, filled(heap))
        heap.sync()
        before = path.stat().st_blocks * 512
        if how == "synced":
            begin_decay(heap)
            at_rest_gives_back(heap, store, path, before)
    if how == "opened":
        with Heap.open(path, decay=DECAY) as heap:
            at_rest_gives_back(heap, SortedMap(heap, "map"), path, before)
    with Heap.open(path) as heap:
        assert heap.check()
        assert dict(SortedMap(heap, "map")) == {b"key": b"value"}


def at_rest_gives_back(heap: Heap, store: SortedMap, path: Path, before: int) -> None:
    header = path.read_bytes()[:4096]
    time.sleep(LONG)
    assert store.get(b"key") == b"value"
    assert path.stat().st_blocks * 512 < before - len(FREED) * PIECE * 5 // 8
    assert path.read_bytes()[:4096] == header


def test_what_lies_idle_loses_its_tail_and_a_log_that_grew(tmp_path: Path) -> None:
    """Also where never used units lie behind what was freed, and an empty run among it."""
    path = tmp_path / "heap"
    with make("power", path, None) as heap:
        first = path.stat().st_size
        for offset in filled(heap, 3000):
            heap.free(offset)
        grown = path.stat().st_size
        assert grown > 4 * first
        begin_decay(heap)
        time.sleep(LONG)
        heap.malloc(10)
        assert path.stat().st_size < grown // 2
        assert heap.check(), heap.check().findings


@pytest.mark.parametrize("call", ["malloc", "view"])
def test_a_heap_that_was_left_alone_in_an_arena_gives_back_too(still: Heap, call: str) -> None:
    heap = still
    kept = heap.malloc(MiB)
    arena = heap.arena("busy")
    blocks = filled(arena)
    before = footprint(arena)
    for offset in blocks:
        arena.free(offset)
    heap.sync()
    begin_decay(heap)
    time.sleep(LONG)
    CALLS[call](heap, kept)
    assert footprint(arena) < before - len(blocks) * PIECE * 5 // 8


@pytest.mark.parametrize("kind", ["process", "power"])
def test_a_heap_that_was_opened_gives_back_what_it_finds_free(tmp_path: Path, kind: str) -> None:
    """Nobody has asked for space yet: what is free in it is read for this."""
    path = tmp_path / "heap"
    with make(kind, path, None) as heap:
        free_most(heap, filled(heap))
        heap.malloc(100)
    before = path.stat().st_blocks * 512
    with Heap.open(path, decay=DECAY) as heap:
        heap.malloc(100)
        time.sleep(LONG)
        heap.malloc(100)
        assert gone(heap, before)
        assert heap.check(), heap.check().findings


@pytest.mark.parametrize("is_idle", [False, True])
def test_what_was_freed_beyond_the_reading_is_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_idle: bool
) -> None:
    """A heap of many GiB is read over many intervals, and its end may be in use before."""
    monkeypatch.setattr("pmemheap.space.giveback._STEPS_READ_AT_ONCE", 0)
    with make("process", tmp_path / "heap", None) as heap:
        blocks = [heap.malloc(40 * UNIT) for _ in range(200)]
        heap.malloc(100)
    with Heap.open(tmp_path / "heap", decay=None) as heap:
        for offset in blocks[10:150]:
            heap.free(offset)
        for _ in range(3):
            heap._space.serve(partial(heap._space.giveback.decay, 0.0, is_idle=is_idle))
        assert heap.check(), heap.check().findings
        again = [heap.malloc(40 * UNIT) for _ in range(300)]
        assert len({*again, *blocks[:10], *blocks[150:]}) == 360
        assert heap.check(), heap.check().findings


# ---------------------------------------------------------------- what stays


def test_what_was_freed_a_moment_ago_stays(memory: Heap) -> None:
    with Heap.anonymous(decay=60.0) as heap:
        blocks = filled(heap)
        before = footprint(heap)
        free_most(heap, blocks)
        for _ in range(10_000):
            heap.free(heap.malloc(100))
        assert footprint(heap) > before - MiB


def test_each_part_of_a_range_has_an_age_of_its_own() -> None:
    """Two intervals by hand: what was taken and freed again in the second one stays, alone."""
    with Heap.anonymous(decay=None) as heap:
        supply = heap._space.supply
        blocks = [heap.malloc(MiB) for _ in range(16)]
        heap.malloc(UNIT)
        for offset in blocks:
            heap.view(offset)[:] = b"x" * MiB
            heap.free(offset)
        heap._space.serve(supply.merge_freed)
        heap._space.serve(heap._space.giveback.decay, 0.0)
        hot = heap.malloc(MiB)
        assert hot in blocks
        heap.view(hot)[:] = b"hot!" * (MiB // 4)
        heap.free(hot)
        heap._space.serve(supply.merge_freed)
        assert len(list(supply.extents)) <= 2
        heap._space.serve(heap._space.giveback.decay, 0.0)
        assert heap.stats().touched < 2 * MiB
        again = heap.malloc(MiB)
        assert again == hot
        assert bytes(heap.view(again, 4)) == b"hot!"
        heap._space.serve(heap._space.giveback.decay, 0.0)
        assert bytes(heap.view(again, 4)) == b"hot!"


def test_little_of_a_heap_is_not_worth_the_calls() -> None:
    with Heap.anonymous(decay=DECAY) as heap:
        blocks = filled(heap)
        before = footprint(heap)
        heap.free(blocks[3])
        time.sleep(LONG)
        heap.stats()
        assert footprint(heap) > before - PIECE // 2


def test_what_was_given_back_is_not_given_back_again(heap: Heap) -> None:
    free_most(heap, filled(heap))
    for _ in range(3):
        time.sleep(LONG)
        heap.stats()
    for extent in heap._space.supply.extents:
        assert heap._space.core.old_parts([extent]) == []


def test_a_refused_give_back_is_told_once(memory: Heap) -> None:
    with Heap.anonymous(decay=DECAY) as heap:
        free_most(heap, filled(heap))
        time.sleep(LONG)
        with native.faults(1, 12), pytest.warns(RuntimeWarning, match="give-back stopped"):
            heap.malloc(100)
        time.sleep(LONG)
        heap.malloc(100)
        assert heap.check()
