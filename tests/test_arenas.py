from __future__ import annotations

import errno
import gc
import os
import pickle
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from heap_world import contents, descriptors, fill, mapped_files
from test_heap_faults import MEDIA, Surroundings, attempt, every_call, make

from pmemheap import DurabilityName, Heap, native
from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.file import locks
from pmemheap.file.filemedium import FileMedium
from pmemheap.heap import totals
from pmemheap.heap.arena import Arena
from pmemheap.heap.place import place_of
from pmemheap.layout import ARENA_BITS, ArenaSlot, ArenaState, RootSlot
from pmemheap.native import Call, FaultKind, NativeError, residency
from pmemheap.units import UNIT, KiB, MiB


@pytest.fixture(params=MEDIA)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    made = make(request.param, tmp_path / "heap")
    with made:
        yield made
        report = made.check()
        assert report, report


def arena_of(offset: int) -> int:
    return offset >> ARENA_BITS


# ---------------------------------------------------------------- making and using


@pytest.mark.parametrize("kernel_counts", [False, True])
def test_statistics_of_all_arenas_list_the_mappings_once(
    heap: Heap, monkeypatch: pytest.MonkeyPatch, *, kernel_counts: bool
) -> None:
    for name in ("first", "second", "third"):
        heap.arena(name).malloc(1000)
    if not kernel_counts:
        monkeypatch.setattr(residency, "_PAGEMAP", "/nowhere")
    with mock.patch.object(native, "list_mappings", wraps=native.list_mappings) as listing:
        assert heap.stats().blocks == 3
    assert listing.call_count == (0 if kernel_counts else 1)


def test_an_arena_has_offsets_of_its_own(heap: Heap) -> None:
    first, second = heap.arena("first"), heap.arena("second")
    sizes = [16, 100, 3000, 40 * KiB, 2 * MiB]
    places = [[space.malloc(size) for size in sizes] for space in (heap, first, second)]
    assert [{arena_of(offset) for offset in each} for each in places] == [{0}, {1}, {2}]
    for seed, offset in enumerate(offset for each in places for offset in each):
        fill(heap, offset, seed)
    expected = contents(heap)
    assert len(expected) == 15
    for space, offsets in zip((heap, first, second), places, strict=True):
        for offset in offsets:
            assert bytes(space.view(offset)) == expected[offset]
            assert offset % 16 == 0
            assert 0 <= offset < 1 << 63


def test_the_same_name_is_the_same_arena(heap: Heap) -> None:
    arena = heap.arena("ä" * 15)
    assert heap.arena("ä" * 15) is arena
    assert heap.arena("ä" * 15, create=False) is arena
    assert arena.name == "ä" * 15
    assert heap.arenas() == ["ä" * 15]
    with pytest.raises(KeyError, match="other"):
        heap.arena("other", create=False)
    assert heap.arenas() == ["ä" * 15]


def test_all_calls_of_an_arena_work(heap: Heap) -> None:
    arena = heap.arena("a")
    offset = arena.malloc(100, align=4096)
    assert arena.usable_size(offset) >= 100
    assert offset % 4096 == 0
    fill(heap, offset, 5)
    before = bytes(arena.view(offset, 100))
    moved = arena.realloc(offset, 3 * MiB)
    assert bytes(arena.view(moved, 100)) == before
    assert arena.expand(moved, 3 * MiB + 5) in {True, False}
    many = arena.malloc_many(64, 300)
    assert {arena_of(each) for each in many} == {arena_of(moved)}
    assert len(set(many)) == 300
    arena.free_many(many)
    with arena.alloc(50) as block:
        assert arena.block(block.offset) == block == heap.block(block.offset)
    array = arena.ndarray((10, 10), "u2")
    assert arena.offset_of(array) == heap.offset_of(array) == arena.offset_of(array[2:])
    assert heap.address(moved) == arena.address(moved)
    assert arena.explain(100).possible
    assert [size for _, size in arena.blocks()] == [
        arena.usable_size(each) for each, _ in arena.blocks()
    ]
    assert arena.check()
    assert arena.stats().blocks == 2
    del array
    for each, _ in list(arena.blocks()):
        arena.free(each)
    arena.trim()
    assert arena.stats().blocks == 0


CALLS_OF_HEAP: dict[str, Callable[[Heap, int], object]] = {
    "usable_size": lambda heap, offset: heap.usable_size(offset),
    "view": lambda heap, offset: bytes(heap.view(offset)),
    "view of a length": lambda heap, offset: bytes(heap.view(offset, 3)),
    "realloc": lambda heap, offset: heap.realloc(offset, 5),
    "expand": lambda heap, offset: heap.expand(offset, 5),
    "block": lambda heap, offset: heap.block(offset).size,
    "address": lambda heap, offset: heap.address(offset),
    "free": lambda heap, offset: heap.free(offset),
    "free deferred": lambda heap, offset: heap.free(offset, deferred=True),
}


@pytest.mark.parametrize("size", [30, 9000, MiB])
@pytest.mark.parametrize("call", CALLS_OF_HEAP)
def test_the_heap_takes_offsets_of_its_arenas(heap: Heap, call: str, size: int) -> None:
    arena = heap.arena("a")
    offset = arena.malloc(size)
    fill(heap, offset, 9)
    CALLS_OF_HEAP[call](heap, offset)
    left = 0 if call.startswith("free") else 1
    assert arena.stats().blocks == left
    assert heap.stats().blocks == left


def test_deferred_free_in_an_arena_waits_for_views(heap: Heap) -> None:
    arena = heap.arena("a")
    offset = arena.malloc(100)
    view = heap.view(offset)
    with pytest.raises(BufferError, match="no live views"):
        heap.free(offset)
    heap.free(offset, deferred=True)
    view[:3] = b"abc"
    with pytest.raises(UsageError, match="a live block expected"):
        arena.usable_size(offset)
    del view
    assert arena.stats().blocks == 0


def test_totals_are_those_of_all_arenas(heap: Heap) -> None:
    spaces = [heap.arena(name) for name in "abc"]
    for count, space in enumerate(spaces, 1):
        space.malloc_many(100, count * 10)
        space.malloc(300 * KiB)
    own = [space.stats() for space in spaces]
    stats = heap.stats()
    assert stats.blocks == sum(each.blocks for each in own) == 63
    assert stats.allocated == sum(each.allocated for each in own)
    assert stats.largest_free >= max(each.largest_free for each in own)
    assert {row.size: row.blocks for row in stats.classes}[112] == 60
    assert heap.check().blocks == 63
    assert [arena_of(offset) for offset, _ in heap.blocks()] == sorted(
        arena_of(offset) for offset, _ in heap.blocks()
    )


def test_arenas_grow_and_shrink_past_each_other(heap: Heap) -> None:
    """The model: which bytes each block holds, whatever arena it lies in."""
    chance = random.Random(4)
    names = ["a", "b", "c"]
    model: dict[int, bytes] = {}
    for step in range(400):
        what = chance.random()
        if what < 0.55 or not model:
            space: Any = chance.choice([heap, *(heap.arena(name) for name in names)])
            offset = space.malloc(chance.choice([20, 700, 9000, 200 * KiB, MiB]))
            assert offset not in model
            fill(heap, offset, step)
            model[offset] = bytes(heap.view(offset))
        elif what < 0.93:
            offset = chance.choice(list(model))
            heap.free(offset)
            del model[offset]
        elif what < 0.97:
            heap.trim()
        else:
            name = chance.choice(names)
            index = arena_of(heap.arena(name).malloc(1))
            heap.arena(name).drop()
            model = {offset: data for offset, data in model.items() if arena_of(offset) != index}
        if step % 50 == 0:
            assert heap.check(), heap.check()
    assert contents(heap) == model


# ---------------------------------------------------------------- reopening


@pytest.mark.parametrize("durability", ["process", "power"])
def test_reopened_heap_finds_its_arenas(tmp_path: Path, durability: DurabilityName) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability=durability) as heap:
        for name in ("one", "two", "three"):
            arena = heap.arena(name)
            heap.roots[name] = arena.malloc(5000)
            fill(heap, heap.roots[name], arena_of(heap.roots[name]))
        del heap.roots["two"]
        heap.arena("two").drop()
        before = contents(heap)
    for readonly in (True, False):
        with Heap.open(path, readonly=readonly) as heap:
            assert heap.arenas() == ["one", "three"]
            assert bytes(heap.view(heap.roots["three"])) == before[heap.roots["three"]]
            assert contents(heap) == before
            assert heap.check()
            with pytest.raises(KeyError):
                heap.arena("two", create=False)
            assert heap.arena("one").readonly == readonly
    with Heap.open(path) as heap:
        again = heap.arena("two")
        assert arena_of(again.malloc(1)) == 2
        assert heap.check()


def test_open_maps_no_named_arena(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        for number in range(20):
            heap.arena(str(number))
    with Heap.open(path) as heap:
        heap.malloc(10)  # from here on it does not sleep
        before = len(mapped_files(str(path)))
        heap.arena("7")
        assert len(mapped_files(str(path))) == before + 3


def test_attached_reader_sees_the_arenas() -> None:
    with Heap.shared() as heap:
        offset = heap.arena("a").malloc(10)
        with Heap.attach(heap.fileno()) as reader:
            assert reader.arenas() == ["a"]
            assert reader.usable_size(offset) == 16
            with pytest.raises(UsageError, match="read-only"):
                reader.arena("a").malloc(1)
            with pytest.raises(UsageError, match="read-only"):
                reader.arena("a").drop()
            with pytest.raises(UsageError, match="read-only"):
                reader.arena("b")
            assert reader.view(offset).readonly


# ---------------------------------------------------------------- dropping


def test_drop_frees_everything_at_once(heap: Heap) -> None:
    arena = heap.arena("a")
    kept = heap.arena("kept").malloc(100)
    offsets = [arena.malloc(size) for size in (10, 5000, 3 * MiB)] + list(arena.malloc_many(64, 99))
    block = arena.block(offsets[0])
    arena.drop()
    assert arena.closed
    assert not block.is_live
    assert heap.arenas() == ["kept"]
    assert [offset for offset, _ in heap.blocks()] == [kept]
    for offset in offsets:
        with pytest.raises(UsageError, match="outside of the heap"):
            heap.free(offset)
    for call in (arena.drop, arena.stats, arena.check, lambda: arena.malloc(1)):
        with pytest.raises(UsageError, match="closed"):
            call()


def test_next_life_of_a_slot_begins_behind_the_last(heap: Heap) -> None:
    seen: set[int] = set()
    for _ in range(5):
        arena = heap.arena("a")
        offsets = set(arena.malloc_many(4096, 600))
        assert arena_of(min(offsets)) == 1
        assert not offsets & seen
        assert min(offsets) > max(seen, default=0)
        seen |= offsets
        arena.drop()
    assert heap.stats().file_bytes < 10 * MiB


def test_drop_waits_for_views(heap: Heap) -> None:
    arena = heap.arena("a")
    offset = arena.malloc(100)
    view = arena.view(offset)
    with pytest.raises(BufferError, match="no live views expected at drop, 1 found"):
        arena.drop()
    with pytest.raises(BufferError, match="no live views expected at close, 1 found"):
        heap.close()
    assert arena.usable_size(offset)
    arena.free(arena.malloc(5))
    view.release()
    arena.drop()


def test_drop_gives_the_file_back(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process", decay=None) as heap:
        size = path.stat().st_size
        arena = heap.arena("a")
        arena.malloc(20 * MiB)
        arena.drop()
        assert path.stat().st_size == size
        heap.arena("b").malloc(3 * MiB)
        heap.malloc(5 * MiB)
        heap.arena("b").drop()
        assert path.stat().st_blocks * 512 < path.stat().st_size - 2 * MiB
        offset = heap.arena("c").malloc(2 * MiB)
        fill(heap, offset, 3)
        assert heap.check()


def test_handles_of_an_arena_pickle(heap: Heap) -> None:
    block = heap.arena("a").alloc(100)
    assert pickle.loads(pickle.dumps(block)) == block
    data = pickle.dumps(block)
    block.heap.drop()  # type: ignore[attr-defined]
    with pytest.raises(UsageError):
        pickle.loads(data)


def test_an_arena_that_was_dropped_is_closed_for_who_still_asks_it() -> None:
    """As a thread does that goes through the arenas of a heap, which another thread changes."""
    with Heap.anonymous() as heap:
        space = heap.arena("one")._space
        heap.arena("one").drop()
        heap.arena("two")  # in the slot of the first, of which nothing is left
        assert space.closed
        assert space.core.live_views == space.core.unsynced == 0
        for ask in (
            lambda: space.look(lambda: None),
            lambda: space.serve(lambda: None),
            lambda: place_of(space.core, 64).refusal,
            lambda: space.core.view(64),
            space.require,
        ):
            with pytest.raises(UsageError):
                ask()
        assert totals._each([space], lambda each: each.require()) == []


@pytest.mark.slow
def test_a_heap_is_asked_while_threads_drop_its_arenas(heap: Heap) -> None:
    asked = 0
    until = time.monotonic() + 0.7

    def drop_and_make(name: str) -> None:
        while time.monotonic() < until:
            heap.arena(name).malloc(100)
            heap.arena(name).drop()

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(drop_and_make, name) for name in ("one", "two")]
        while time.monotonic() < until:
            assert heap.stats().blocks <= 2
            heap.trim()
            asked += 1
        assert [end.result(30) for end in ends] == [None, None]
    assert asked > 0


def test_a_root_into_a_dropped_arena_is_a_finding() -> None:
    with Heap.anonymous() as heap:
        root = heap.arena("a").malloc(10)
        heap.arena("a").drop()
        heap.roots.store.change_roots({"gone": RootSlot("gone", root)}, set())
        report = heap.check()
        assert report.total == 1
        assert "root 'gone'" in report.findings[0]


KEEPERS: dict[str, Callable[[Heap], Any]] = {
    "the arena": lambda heap: heap.arena("a"),
    "a view": lambda heap: heap.arena("a").view(heap.arena("a").malloc(100)),
    "a slice": lambda heap: heap.arena("a").view(heap.arena("a").malloc(100))[1:],
    "a handle": lambda heap: heap.arena("a").alloc(100),
    "an array": lambda heap: heap.arena("a").ndarray(100),
    "the roots": lambda heap: heap.arena("a").roots,
}


@pytest.mark.parametrize("keeper", KEEPERS)
def test_a_heap_is_open_as_long_as_something_of_its_arena_is_held(
    keeper: str, tmp_path: Path
) -> None:
    gc.collect()
    before = descriptors()
    path = tmp_path / "heap"
    kept = KEEPERS[keeper](Heap.create(path, durability="process"))  # nobody holds the heap
    gc.collect()
    with pytest.raises(UsageError, match="has it open"):
        Heap.open(path)
    if keeper == "the arena":
        kept.roots["block"] = kept.malloc(100)
        assert kept.check()
    elif keeper == "a handle":
        assert kept.is_live
    del kept
    with Heap.open(path) as heap:  # which does not wait for the garbage collector
        assert heap.check()
        assert heap.arenas() == ["a"]
    gc.collect()
    assert descriptors() == before


def test_the_end_of_a_block_loses_nothing_of_an_arena(heap: Heap) -> None:
    with heap.arena("a") as arena, heap.arena("a") as again:
        assert arena is again
        offset = arena.malloc(100)
        view = arena.view(offset)
        view[:3] = b"abc"
    assert bytes(arena.view(offset, 3)) == b"abc"
    assert heap.arenas() == ["a"]
    del view
    with ExitStack() as stack:
        stack.callback(stack.enter_context(heap.arena("a")).drop)
    assert heap.arenas() == []
    with pytest.raises(UsageError, match="an open heap expected"):
        arena.__enter__()


def test_an_exception_leaves_the_block_of_an_arena(heap: Heap) -> None:
    with pytest.raises(KeyError, match="mine"), heap.arena("a"):
        raise KeyError("mine")
    assert heap.arenas() == ["a"]


def test_an_entered_arena_keeps_a_heap_that_nobody_holds(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap").arena("a") as arena:
        gc.collect()
        arena.roots["block"] = arena.malloc(10)
    assert arena.check()


def python_calls(work: Callable[[], object]) -> int:
    """Return how many functions of Python something calls."""
    calls = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    gc.disable()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


def test_an_arena_costs_as_much_beside_many_others() -> None:
    with Heap.anonymous(decay=None) as heap:
        calls = [python_calls(partial(heap.arena, f"a{n}")) for n in range(50)]
    assert set(calls[2:]) == {calls[1]}


def test_an_arena_that_has_ended_keeps_nothing(tmp_path: Path) -> None:
    for end in (lambda _, arena: arena.drop(), lambda heap, _: heap.close()):
        heap = Heap.anonymous()
        arena = heap.arena("a")
        end(heap, arena)
        gone = weakref.ref(heap)
        gc.disable()
        try:
            del heap
            assert gone() is None
        finally:
            gc.enable()
        with pytest.raises(UsageError, match="an open heap expected"):
            arena.malloc(1)
        assert arena.name == "a"
        assert arena.closed


def test_view_of_an_arena_outlives_its_heap() -> None:
    heap = Heap.anonymous()
    view = heap.arena("a").view(heap.arena("a").malloc(10_000))
    del heap
    view[:] = b"x" * len(view)
    assert bytes(view) == b"x" * len(view)


def test_forked_child_may_not_use_arenas(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap", durability="process")
    arena = heap.arena("a")
    offset = arena.malloc(100)
    view = arena.view(offset)
    view[:3] = b"abc"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            view[:3] = b"xyz"
            for call in (lambda: arena.malloc(1), arena.drop, lambda: heap.arena("b")):
                with pytest.raises(UsageError, match="parent process"):
                    call()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert bytes(view[:3]) == b"abc"
    del view
    heap.close()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["", "x" * 32, "é" * 16, "\ud800", "a\0b"])
def test_an_arena_name_that_does_not_fit_is_refused(heap: Heap, name: str) -> None:
    with pytest.raises(UsageError, match=r"arena .* expected"):
        heap.arena(name)
    assert heap.arenas() == []


@pytest.mark.parametrize("name", [None, 5, b"a", ["a"]])
def test_an_arena_name_of_another_type_is_refused(heap: Heap, name: Any) -> None:
    with pytest.raises(TypeError, match="a name expected"):
        heap.arena(name)


def test_an_arena_refuses_blocks_of_others(heap: Heap) -> None:
    first, second = heap.arena("first"), heap.arena("second")
    foreign = [heap.malloc(100), second.malloc(100)]
    own = first.malloc(100)
    calls: list[Callable[[int], object]] = [
        first.free,
        first.usable_size,
        first.view,
        first.block,
        lambda offset: first.realloc(offset, 5),
        lambda offset: first.expand(offset, 5),
        lambda offset: first.free_many([own, offset]),
    ]
    for offset in [*foreign, own + 16, own ^ 1 << 62, 3 << ARENA_BITS]:
        for call in calls:
            with pytest.raises(UsageError, match=f"{offset:#x}"):
                call(offset)
    with pytest.raises(UsageError, match="outside of the heap"):
        heap.free_many([foreign[0], own])
    assert len(contents(heap)) == 3


def test_an_arena_has_no_constructor() -> None:
    with pytest.raises(TypeError, match=r"heap\.arena"):
        Arena()


def test_more_than_255_arenas_are_refused(tmp_path: Path) -> None:
    for heap in (Heap.anonymous(headroom=MiB), Heap.create(tmp_path / "a", headroom=MiB)):
        medium = heap._space.shared.medium
        medium.arenas.update({index: ArenaSlot(0, 0, str(index)) for index in range(1, 255)})
        assert arena_of(heap.arena("last").malloc(1)) == 255
        with pytest.raises(OutOfSpaceError, match="at most 255"):
            heap.arena("one more")
        for index in range(1, 255):
            del medium.arenas[index]
        heap.arena("last").drop()
        heap.close()


def test_slot_that_has_used_its_offsets_up_is_left_alone() -> None:
    with Heap.anonymous() as heap:
        end = 1 << 42
        heap._space.shared.medium.arenas[1] = ArenaSlot(end, end, state=ArenaState.DROPPED)
        assert arena_of(heap.arena("a").malloc(1)) == 2


def test_closed_heap_refuses_arenas(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap")
    heap.close()
    for call in (lambda: heap.arena("a"), heap.arenas):
        with pytest.raises(UsageError, match="it is closed"):
            call()


# ---------------------------------------------------------------- every system call failing


def create_arena(heap: Heap) -> None:
    heap.arena("new")


def grow_arena(heap: Heap) -> None:
    heap.arena("old").malloc(3 * MiB)


def drop_arena(heap: Heap) -> None:
    heap.arena("old").drop()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FaultKind.ERROR, FaultKind.FROM], ids=lambda kind: kind.name)
@pytest.mark.parametrize("act", [create_arena, grow_arena, drop_arena])
@pytest.mark.parametrize("medium", MEDIA)
def test_refused_call_changes_nothing(
    medium: str, act: Callable[[Heap], None], kind: FaultKind, tmp_path: Path
) -> None:
    before = Surroundings.now(tmp_path)
    path = tmp_path / "heap"
    for shot in every_call(errno.ENOSPC if medium == "shared" else errno.EIO, kind):
        heap = make(medium, path)
        for space in (heap, heap.arena("old")):
            for size in (24, 3000, 9 * UNIT, 600 * KiB):
                fill(heap, space.malloc(size), size)
        state = contents(heap)
        refused = attempt(shot, act, heap)
        assert heap.check(), heap.check()
        now = contents(heap)
        if refused:
            assert now == state
            assert heap.arenas() == ["old"]
        elif act is drop_arena:
            assert heap.arenas() == []
        assert all(now[offset] == data for offset, data in state.items() if offset in now)
        if not getattr(heap._space.shared.medium, "sync_failed", False):
            heap.arena("after").malloc(2 * MiB)
            heap.arena("after").drop()
            heap.trim()
            assert contents(heap) == now
        assert heap.check(), heap.check()
        heap.close()
        if path.exists():
            with Heap.open(path) as again:
                assert contents(again) == now or shot.hit != Call.NONE
                assert again.check()
            path.unlink()
        del heap
        before.assert_closed()


def test_segments_of_a_file_belong_to_one_arena_each(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        for name in "abc":
            heap.arena(name).malloc(3 * MiB)
        medium = heap._space.shared.medium
        assert isinstance(medium, FileMedium)
        regions = {
            0: heap._space.region,
            **{i: heap.arena(n)._space.region for i, n in enumerate("abc", 1)},
        }
        for index, region in regions.items():
            assert [piece.index for piece in region.pieces] == [
                piece.index for piece in medium.pieces(index)
            ]


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_a_dropped_arena_leaves_behind_the_file_is_cut_before_it_grows(
    tmp_path: Path, durability: DurabilityName
) -> None:
    """Its old tables were taken for those of the new segment."""
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        arena = heap.arena("old")
        arena.malloc_many(5000, 100)
        size = (tmp_path / "heap").stat().st_size
        answers = [False, *[NativeError(errno.EIO, "no")] * 9]
        with mock.patch.object(locks, "has_readers", side_effect=answers):
            arena.drop()
        assert (tmp_path / "heap").stat().st_size == size
        heap.malloc(2 << 20)
        assert heap.check(), heap.check().findings
        heap.malloc_many(64, 10_000)
        assert heap.check(), heap.check().findings


def test_an_arena_that_was_dropped_meanwhile_is_none(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap") as heap:
        arena = heap.arena("old")
        offset = arena.malloc(10)
        index = offset >> ARENA_BITS
        arena.drop()
        assert heap._space.serve(heap._space.shared.arenas.live_at, index) is None
        with pytest.raises(UsageError, match="outside"):
            heap.usable_size(offset)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["close", "drop"])
def test_what_is_refused_an_end_is_open_all_the_time(ending: str) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    heap = Heap.anonymous()
    arena = heap.arena("arena")
    view = arena.view(arena.malloc(100))
    stop, seen = threading.Event(), []

    def use() -> None:
        try:
            while not stop.is_set():
                arena.free(arena.malloc(64))
                heap.free(heap.malloc(64))
        except UsageError as error:
            seen.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    try:
        for _ in range(3000):
            with pytest.raises(BufferError):
                (heap.close if ending == "close" else arena.drop)()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert seen == []
    view.release()
    heap.close()


# ---------------------------------------------------------------- what is left of a heap


@pytest.fixture
def garbage() -> Iterator[list[Any]]:
    """What the collector finds, from here on."""
    while gc.collect():  # what an object of C in a circle holds is found once that circle is gone
        pass
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()


@pytest.mark.parametrize("kind", MEDIA)
def test_a_closed_heap_leaves_nothing_to_the_collector(
    kind: str, tmp_path: Path, garbage: list[Any]
) -> None:
    """Open arenas and their heap keep each other; without one there is no circle."""
    with make(kind, tmp_path / "heap") as heap:
        heap.free(heap.malloc(100))
        with heap.transaction() as tx:
            tx.roots["root"] = tx.malloc(100)
    del heap, tx
    gc.collect()
    ours = [type(each) for each in garbage if type(each).__module__.startswith("pmemheap")]
    assert not ours
