from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pmemheap
from pmemheap import Heap, OutOfSpaceError, UsageError
from pmemheap.layout import RootSlot
from pmemheap.units import UNIT, GiB, KiB, MiB

Maker = Callable[..., Heap]

SIZES = [
    1,
    16,
    17,
    100,
    2048,
    2049,
    4096,
    4097,
    15 * KiB,
    20_000,
    63 * UNIT,
    63 * UNIT + 1,
    3 * MiB,
]


@pytest.fixture(params=["anonymous", "shared", "process file"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """One face, three media."""

    def made(**options: Any) -> Heap:
        if request.param == "anonymous":
            return Heap.anonymous(**options)
        if request.param == "shared":
            return Heap.shared(**options)
        return Heap.create(tmp_path / "a.heap", durability="process", **options)

    return made


@pytest.fixture
def heap(make: Maker) -> Iterator[Heap]:
    with make() as made:
        yield made
        assert made.check(), made.check()


def filled(heap: Heap, size: int, seed: int = 1) -> tuple[int, bytes]:
    offset, content = heap.malloc(size), random.Random(seed).randbytes(size)
    heap.view(offset, size)[:] = content
    return offset, content


def fill(heap: Heap, size: int) -> list[int]:
    """Allocate until the limit is met."""
    blocks: list[int] = []
    with contextlib.suppress(OutOfSpaceError):
        while len(blocks) < 1_000_000:
            blocks.append(heap.malloc(size))
    return blocks


# ---------------------------------------------------------------- malloc, free


@pytest.mark.parametrize("size", SIZES)
def test_a_block_holds_what_was_asked_for(heap: Heap, size: int) -> None:
    offset, content = filled(heap, size)
    assert offset % 16 == 0
    assert heap.usable_size(offset) >= size
    assert heap.view(offset, size) == content
    assert list(heap.blocks()) == [(offset, heap.usable_size(offset))]
    heap.free(offset)
    assert list(heap.blocks()) == []


def test_blocks_never_overlap(heap: Heap) -> None:
    source = random.Random(5)
    live = {}
    for number in range(1500):
        size = int(2 ** source.uniform(0, 16))
        live[heap.malloc(size)] = number
        if source.random() < 0.4:
            offset = source.choice(list(live))
            heap.free(offset)
            del live[offset]
    ranges = sorted((offset, heap.usable_size(offset)) for offset in live)
    assert ranges == list(heap.blocks())
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(ranges))


def test_freed_space_is_used_again(heap: Heap) -> None:
    for size in (64, 5000, 300_000):
        first = heap.malloc(size)
        heap.free(first)
        mapped = heap.stats().mapped
        for _ in range(100):
            heap.free(heap.malloc(size))
        assert heap.stats().mapped == mapped


@pytest.mark.parametrize("size", [1, 5000, 300_000])
@pytest.mark.parametrize("align", [16, 64, 4096, 1 << 16, 1 << 21])
def test_alignment_holds_for_offset_and_address(heap: Heap, size: int, align: int) -> None:
    heap.malloc(48)
    offsets = [heap.malloc(size, align) for _ in range(3)]
    assert all(offset % align == heap.address(offset) % align == 0 for offset in offsets)
    for offset in offsets:
        heap.free(offset)


def test_alignment_to_a_gibibyte() -> None:
    with Heap.anonymous() as heap:
        heap.malloc(100)
        offset = heap.malloc(10, align=GiB)
        assert offset % GiB == heap.address(offset) % GiB == 0
        assert heap.check()


@pytest.mark.parametrize("count", [0, 1, 5000])
@pytest.mark.parametrize("size", [1, 64, 2100, 5000])
def test_batches_are_all_distinct_and_go_at_once(heap: Heap, size: int, count: int) -> None:
    offsets = heap.malloc_many(size, count)
    assert (offsets.format, offsets.shape, offsets.readonly) == ("Q", (count,), False)
    assert sorted(offsets) == [offset for offset, _ in heap.blocks()]
    assert len(set(offsets)) == count
    assert all(heap.usable_size(offset) >= size for offset in offsets[:10])
    heap.free_many(offsets)
    assert heap.stats().blocks == 0


@pytest.mark.parametrize("kind", [list, tuple, iter, memoryview, "numpy"])
def test_a_batch_to_free_may_be_any_iterable(heap: Heap, kind: Any) -> None:
    np = pytest.importorskip("numpy")
    offsets = heap.malloc_many(64, 100)
    heap.free_many(np.asarray(offsets) if kind == "numpy" else kind(offsets))
    assert heap.stats().blocks == 0


class Number:
    """A number that does something when it is asked for its value."""

    def __init__(self, value: int, act: Callable[[], object]) -> None:
        self.value, self.act = value, act

    def __index__(self) -> int:
        self.act()
        return self.value


@pytest.mark.parametrize("bad", [-1, 1 << 64, "x", 1.0, None, b""])
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_an_item_of_a_batch_that_is_no_offset_is_named(heap: Heap, kind: Any, bad: Any) -> None:
    offsets = list(heap.malloc_many(64, 3))
    with pytest.raises((UsageError, TypeError), match=r"offset: .* expected.* found"):
        heap.free_many(kind([*offsets, bad]))
    assert heap.stats().blocks == 3


def test_items_of_a_batch_may_be_numbers_of_any_kind(heap: Heap) -> None:
    np = pytest.importorskip("numpy")
    first, second, third = heap.malloc_many(64, 3)
    heap.free_many([first, np.uint64(second), Number(third, lambda: None)])
    assert heap.stats().blocks == 0
    assert heap.malloc_many(64, 1)[0] == 0
    heap.free_many([False])
    heap.free_many([])


def test_a_batch_is_what_it_was_when_the_call_began(heap: Heap) -> None:
    """An item that changes the list, frees another item or closes the heap harms nothing."""
    first, second, third = heap.malloc_many(64, 3)
    batch: list[Any] = [first, second]
    batch.append(Number(third, batch.clear))
    heap.free_many(batch)
    assert heap.stats().blocks == 0
    first, second = heap.malloc_many(64, 2)
    with pytest.raises(UsageError, match=r"offsets\[0\]"):
        heap.free_many([first, Number(second, lambda: heap.free(first))])
    assert heap.stats().blocks == 1
    with Heap.anonymous() as other, pytest.raises(UsageError, match="closed"):
        other.free_many([Number(other.malloc(100), other.close)])


@pytest.mark.parametrize("bad", ["twice", "foreign", "viewed"])
def test_a_batch_with_one_bad_offset_frees_nothing(heap: Heap, bad: str) -> None:
    offsets = list(heap.malloc_many(64, 10))
    view = heap.view(offsets[7]) if bad == "viewed" else None
    batch = {"twice": [*offsets, offsets[3]], "foreign": [*offsets, 1 << 40], "viewed": offsets}[
        bad
    ]
    with pytest.raises((UsageError, BufferError), match=rf"offsets\[{7 if view else 10}\]"):
        heap.free_many(batch)
    assert heap.stats().blocks == 10


def test_numpy_integers_are_numbers(heap: Heap) -> None:
    np = pytest.importorskip("numpy")
    offset = np.uint64(heap.malloc(np.int64(100)))
    assert heap.usable_size(offset) >= 100
    assert len(heap.view(offset)) >= 100
    assert len(heap.view(offset, 5)) == len(heap.view(offset, np.int8(5))) == 5
    heap.roots["a"] = offset
    assert heap.roots["a"] == offset
    del heap.roots["a"]
    heap.free(heap.realloc(offset, np.int64(200)))
    assert len(heap.malloc_many(np.int64(16), np.int64(7))) == 7


# ---------------------------------------------------------------- realloc, expand


@pytest.mark.parametrize("old", SIZES)
@pytest.mark.parametrize("new", [1, 100, 4096, 20_000, 70 * UNIT, 2 * MiB])
def test_realloc_keeps_the_content(heap: Heap, old: int, new: int) -> None:
    offset, content = filled(heap, old)
    moved = heap.realloc(offset, new)
    assert heap.usable_size(moved) >= new
    assert heap.view(moved, min(old, new)) == content[:new]
    assert heap.stats().blocks == 1


def test_realloc_grows_a_large_block_in_place_upwards(heap: Heap) -> None:
    offset, content = filled(heap, 10 * UNIT)
    behind = heap.malloc(10 * UNIT)
    assert behind == offset + 10 * UNIT
    heap.free(behind)
    assert heap.realloc(offset, 20 * UNIT) == offset
    assert heap.view(offset, len(content)) == content


def test_realloc_grows_a_large_block_downwards_over_the_hole_before_it(heap: Heap) -> None:
    before = heap.malloc(10 * UNIT)
    offset, content = filled(heap, 10 * UNIT)
    heap.malloc(UNIT)
    heap.free(before)
    moved = heap.realloc(offset, 18 * UNIT)
    if heap.durability == "none":
        assert before <= moved < offset
    else:  # a process that is killed while bytes move over themselves would leave them torn
        assert moved > offset
    assert heap.view(moved, len(content)) == content


@pytest.mark.parametrize("size", [100 * UNIT, 5 * MiB])
def test_realloc_grows_the_last_extent_with_the_heap(heap: Heap, size: int) -> None:
    offset, content = filled(heap, size)
    view = heap.view(offset, 100)
    assert heap.realloc(offset, 4 * size) == offset
    assert view == content[:100]
    assert heap.view(offset, size) == content


def test_realloc_in_place_with_a_view_and_a_move_is_refused(heap: Heap) -> None:
    offset, content = filled(heap, 10 * UNIT)
    behind = heap.malloc(UNIT)
    with heap.view(offset, 10) as view:
        for size in (11 * UNIT, 3 * MiB):
            with pytest.raises(BufferError, match="no live views expected where it must move"):
                heap.realloc(offset, size)
        assert heap.realloc(offset, 10) == offset, "a shrink stays where the view is"
        assert view == content[:10]
    heap.free(behind)


def test_a_shrink_never_fails() -> None:
    with Heap.anonymous(limit=2 * MiB) as heap:
        blocks = [offset for size in (100_000, 5000, 3000, 200) for offset in fill(heap, size)]
        for offset in blocks:
            for size in (2500, 1500, 20, 1):
                if size <= heap.usable_size(offset):
                    offset = heap.realloc(offset, size)  # noqa: PLW2901 -- the block goes on there
        assert heap.check()


def test_expand_never_moves_and_never_shrinks(heap: Heap) -> None:
    small, large = heap.malloc(100), heap.malloc(70 * UNIT)
    assert heap.expand(small, heap.usable_size(small))
    assert not heap.expand(small, heap.usable_size(small) + 1)
    assert heap.expand(large, 1)
    assert heap.usable_size(large) == 70 * UNIT
    with heap.view(large):
        assert heap.expand(large, 5 * MiB)
    assert heap.usable_size(large) >= 5 * MiB
    heap.malloc(70 * UNIT)
    assert not heap.expand(large, 6 * MiB)


# ---------------------------------------------------------------- growth, limits


def test_growth_keeps_views_where_they_are(heap: Heap) -> None:
    offset, content = filled(heap, 1000)
    view, address, growths = heap.view(offset, 1000), heap.address(offset), heap.stats().growths
    for size in (MiB, 10 * MiB, 60 * MiB):
        heap.malloc(size)
        assert view == content
        assert heap.address(offset) == address
    assert heap.stats().growths >= growths + 3


def test_a_heap_starts_small(make: Maker) -> None:
    with make() as heap:
        assert heap.stats().mapped < 1.5 * MiB


def test_limit_refuses_with_an_explanation_and_changes_nothing(make: Maker) -> None:
    with make(limit=8 * MiB) as heap:
        offset, content = filled(heap, 3 * MiB)
        before = heap.stats()
        with pytest.raises(OutOfSpaceError, match=r"limit 8.*larger limit= would help") as refused:
            heap.malloc(6 * MiB)
        explanation = refused.value.explanation  # type: ignore[attr-defined]
        assert (explanation.size, explanation.possible, explanation.limit) == (
            6 * MiB,
            False,
            8 * MiB,
        )
        with pytest.raises(OutOfSpaceError):
            heap.realloc(offset, 9 * MiB)
        with pytest.raises(OutOfSpaceError):
            heap.malloc_many(1000, 100_000)
        after = heap.stats()
        assert (after.blocks, after.allocated) == (before.blocks, before.allocated)
        assert after.mapped <= 8 * MiB
        assert heap.view(offset, 3 * MiB) == content
        assert heap.check()


def test_a_full_heap_serves_again_what_was_freed(make: Maker) -> None:
    with make(limit=4 * MiB) as heap:
        heap.free_many(fill(heap, 3000))
        assert heap.malloc(MiB) >= 0
        assert heap.check()


@pytest.mark.parametrize("size", [100, 5000, MiB, 20 * MiB, GiB])
def test_explain_foretells_whether_growth_is_needed(heap: Heap, size: int) -> None:
    told = heap.explain(size)
    growths = heap.stats().growths
    if size < GiB:
        heap.malloc(size)
        assert (heap.stats().growths == growths) == told.fits
    assert told.size == size <= told.rounded
    assert str(size) in str(told)


# ---------------------------------------------------------------- space and insight


def assert_nested(heap: Heap) -> None:
    stats = heap.stats()
    assert stats.allocated <= stats.active <= stats.mapped
    assert stats.touched <= stats.mapped
    assert stats.active <= stats.resident <= stats.mapped
    assert stats.largest_free <= stats.free
    assert stats.active + stats.free + stats.metadata == stats.mapped
    assert 0 <= stats.external_fragmentation <= 1
    assert stats.allocated == sum(size for _, size in heap.blocks())


def test_stats_are_nested_whatever_happens(heap: Heap) -> None:
    source, live = random.Random(2), []
    for _ in range(12):
        live += [heap.malloc(int(2 ** source.uniform(0, 19))) for _ in range(30)]
        source.shuffle(live)
        for _ in range(20):
            heap.free(live.pop())
        assert_nested(heap)
        assert heap.stats().blocks == len(live)
    heap.free_many(live)
    heap.trim()
    assert_nested(heap)
    assert heap.stats().blocks == heap.stats().allocated == 0


def test_stats_count_per_class_and_the_waste_in_blocks(heap: Heap) -> None:
    heap.malloc_many(100, 50)
    heap.malloc(3 * UNIT - 1)
    stats = heap.stats()
    (small,) = stats.classes
    assert (small.size, small.blocks, small.mallocs, small.mean_request) == (112, 50, 50, 100)
    assert 0 < small.fullness <= 1
    assert stats.internal_waste == 50 * 12 + 1
    assert stats.blocks == 51


def touch(heap: Heap, offset: int, size: int) -> None:
    heap.view(offset, size)[::4096] = b"\1" * len(range(0, size, 4096))


def test_trim_returns_memory(make: Maker) -> None:
    with make(decay=None) as heap:
        kept, content = filled(heap, 100_000)
        middle, tail = heap.malloc(20 * MiB), heap.malloc(20 * MiB)
        between, other = filled(heap, 100_000, 2)
        touch(heap, middle, 20 * MiB)
        touch(heap, tail, 20 * MiB)
        heap.free(middle)
        heap.free(tail)
        before = heap.stats()
        assert before.touched > 40 * MiB
        returned = heap.trim()
        after = heap.stats()
        assert returned >= 39 * MiB
        assert after.touched < before.touched - 39 * MiB
        assert heap.view(kept, 100_000) == content
        assert heap.view(between, 100_000) == other
        assert heap.check()


def test_trim_shrinks_an_empty_heap_at_both_ends(make: Maker) -> None:
    with make(decay=None) as heap:
        first = heap.malloc(10 * MiB)
        last = heap.malloc(10 * MiB)
        heap.free(first)
        heap.trim()
        assert heap.stats().shrinks >= 1
        heap.view(last)[-1] = 7
        heap.free(last)
        heap.trim()
        assert heap.stats().mapped <= 12 * MiB
        assert heap.trim() == 0
        heap.free(heap.malloc(30 * MiB))
        assert heap.check()


def test_decay_returns_by_itself_what_is_free_for_long(make: Maker) -> None:
    with make(decay=0.02) as heap:
        busy = heap.malloc(70 * UNIT)
        heap.malloc(UNIT)
        offset = heap.malloc(40 * MiB)
        touch(heap, offset, 40 * MiB)
        heap.free(offset)
        assert heap.stats().touched > 40 * MiB
        ends_at = time.monotonic() + 10
        while heap.stats().touched > 10 * MiB:
            heap.free(busy)  # in a hole of its own, so that the large extent rests
            busy = heap.malloc(70 * UNIT)
            assert time.monotonic() < ends_at, "never given back"
        assert heap.check()


def test_without_decay_nothing_goes_by_itself() -> None:
    with Heap.anonymous(decay=None) as heap:
        offset = heap.malloc(10 * MiB)
        touch(heap, offset, 10 * MiB)
        heap.free(offset)
        for _ in range(2000):
            heap.free(heap.malloc(70 * UNIT))
        assert heap.stats().touched > 10 * MiB


def test_blocks_may_be_walked_while_they_come_and_go(heap: Heap) -> None:
    offsets = list(heap.malloc_many(500, 3000))
    seen = 0
    for offset, size in heap.blocks():
        assert size == heap.usable_size(offset)
        seen += size == 512
        if size == 512 and seen % 3 == 0:
            heap.free(offset)
            if seen < 100:
                heap.malloc(500_000)
    assert seen == len(offsets)


# ---------------------------------------------------------------- roots, and what a heap is


def test_roots_are_a_mapping(heap: Heap) -> None:
    offsets = [heap.malloc(10) for _ in range(3)]
    heap.roots["a"], heap.roots["é" * 21] = offsets[:2]
    heap.roots["a"] = offsets[2]
    assert dict(heap.roots) == {"a": offsets[2], "é" * 21: offsets[1]}
    assert (len(heap.roots), "a" in heap.roots, "b" in heap.roots) == (2, True, False)
    assert heap.roots.pop("a") == offsets[2]
    with pytest.raises(KeyError):
        heap.roots["a"]
    with pytest.raises(KeyError):
        del heap.roots["a"]
    heap.roots.clear()
    assert not heap.roots


@pytest.mark.slow
def test_roots_are_1024_at_most(heap: Heap) -> None:
    offset = heap.malloc(10)
    for number in range(1024):
        heap.roots[str(number)] = offset
    with pytest.raises(OutOfSpaceError, match="1024"):
        heap.roots["one more"] = offset
    heap.roots["7"] = offset
    del heap.roots["500"]
    heap.roots["one more"] = offset
    heap.roots.clear()


def test_check_reports_a_root_that_leads_nowhere() -> None:
    with Heap.anonymous() as heap:
        heap.roots.store.change_roots({"lost": RootSlot("lost", 4096)}, set())
        report = heap.check()
        assert not report
        assert report.findings == ("root 'lost': a live block expected at 0x1000, none found",)


def test_a_heap_says_what_it_is(make: Maker) -> None:
    heap = make()
    assert not heap.closed
    assert not heap.readonly
    assert heap.durability in {"none", "process"}
    assert "open" in repr(heap)
    identity = heap.uuid
    heap.close()
    heap.close()
    assert heap.closed
    assert "closed" in repr(heap)
    assert heap.uuid == identity


def test_pmemheap_open_follows_dbm_flags(tmp_path: Path) -> None:
    path = tmp_path / "a.heap"
    with pytest.raises(UsageError):
        pmemheap.open(path)
    with pmemheap.open(path, "c", durability="process") as heap:
        heap.roots["a"] = heap.malloc(10)
    with pmemheap.open(path, "c") as heap:
        assert len(heap.roots) == 1
    with pmemheap.open(path, "w") as heap:
        heap.free(heap.roots.pop("a"))
    with pmemheap.open(path) as heap:
        assert heap.readonly
        assert not heap.roots
    with pmemheap.open(path, "n", durability="process") as heap:
        assert heap.stats().blocks == 0
