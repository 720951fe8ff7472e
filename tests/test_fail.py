"""Fail: allocations that are refused, and programs that meet them one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmemheap import Count, Heap, OutOfSpaceError, UsageError
from pmemheap.layers import Fail, Passing
from pmemheap.testing import each_malloc_failing


def fails(call: Callable[..., object], *arguments: object) -> bool:
    try:
        call(*arguments)
    except OutOfSpaceError:
        return True
    return False


def test_the_nth_allocation_fails_and_nothing_has_changed(heap: Heap) -> None:
    first = heap.malloc(100)
    with heap.install(Count()) as count, heap.install(Fail(nth=3)) as fail:
        assert not fails(heap.malloc, 100)
        heap.free(first)
        assert not fails(heap.malloc_many, 100, 5)
        before = dict(heap.blocks()), count.total
        with pytest.raises(OutOfSpaceError) as caught:
            heap.malloc(70_000, align=4096)
        assert str(caught.value) == (
            "Fail: allocation 3, malloc(70000): room expected, found none, for nth=3 was asked for"
        )
        assert (dict(heap.blocks()), count.total) == before
        assert not fails(heap.malloc, 70_000)
        assert (fail.calls, fail.failed, fail.last) == (4, 1, "malloc(70000)")
    assert heap.check()


def test_what_does_not_grow_is_no_allocation(heap: Heap) -> None:
    offset = heap.malloc(5000)
    usable = heap.usable_size(offset)
    with heap.install(Fail(share=1.0)) as fail:
        assert heap.realloc(offset, usable) == offset
        assert heap.expand(offset, usable)
        offset = heap.realloc(offset, 100)
        assert list(heap.malloc_many(100, 0)) == []
        assert fail.calls == 0
        assert fails(heap.realloc, offset, 5000)
        assert fail.last == f"realloc({offset}, 5000)"
        assert heap.expand(offset, 5000) is False
        assert fail.last == f"expand({offset}, 5000)"
        assert fails(heap.malloc_many, 100, 1)
        assert (fail.calls, fail.failed) == (3, 3)
        heap.free(offset)


def test_what_is_wrong_with_a_call_is_told(heap: Heap) -> None:
    with heap.install(Fail()):
        for call in (heap.realloc, heap.expand):
            with pytest.raises(UsageError, match=f"{call.__name__}: offset of a live block"):
                call(4096, 5000)
        with pytest.raises(UsageError):
            heap.malloc(0)


def test_a_share_of_them_fails_the_same_each_time(heap: Heap) -> None:
    fail, other = Fail(share=0.2, seed=5), Fail(share=0.2, seed=6)
    seen = []
    for layer in (fail, fail, other):
        with heap.install(layer):
            seen.append([fails(heap.malloc, 10) for _ in range(1000)])
            assert (layer.calls, layer.failed) == (1000, sum(seen[-1]))
    assert seen[0] == seen[1] != seen[2]
    assert 150 < sum(seen[0]) < 250
    with heap.install(Fail()):
        assert not any(fails(heap.malloc, 10) for _ in range(100))


def test_it_counts_from_when_it_was_put_on(memory: Heap) -> None:
    fail = Fail(nth=2)
    for _ in range(2):
        with memory.install(fail):
            assert (fail.calls, fail.failed, fail.last) == (0, 0, "")
            assert [fails(memory.malloc, 10) for _ in range(3)] == [False, True, False]
        memory.malloc(10)
        assert (fail.calls, fail.failed) == (3, 1)


def test_the_exception_may_be_another(memory: Heap) -> None:
    with memory.install(Fail(nth=1, error=MemoryError)):
        with pytest.raises(MemoryError, match="allocation 1") as caught:
            memory.malloc(10)
        assert not isinstance(caught.value, OutOfSpaceError)


def test_it_stands_over_any_allocator() -> None:
    class Toy:
        def malloc(self, size: int, align: int = 16) -> int:
            return 0

        def free(self, offset: int) -> None:
            pass

        def usable_size(self, offset: int) -> int:
            return 64

    fail = Fail(Toy(), nth=2)
    assert not hasattr(fail, "realloc")
    assert [fails(fail.malloc, 10) for _ in range(3)] == [False, True, False]


@pytest.mark.parametrize("bad", [0, -1, 1.0, "1"])
def test_what_is_no_number_is_refused(bad: Any) -> None:
    with pytest.raises(UsageError, match="Fail: nth: a number from 1 on"):
        Fail(nth=bad)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), None, "1"])
def test_what_is_no_share_is_refused(bad: Any) -> None:
    with pytest.raises(UsageError, match="Fail: share: a number from 0 to 1"):
        Fail(share=bad)


# ---------------------------------------------------------------- programs


def chain(heap: Any) -> list[int]:
    """Make three blocks, or none."""
    offsets: list[int] = []
    try:
        offsets.extend(map(heap.malloc, (64, 5000, 64)))
        offsets[0] = heap.realloc(offsets[0], 3000)
    except OutOfSpaceError:
        heap.free_many(offsets)
        raise
    return offsets


def test_each_allocation_of_a_program_fails_once() -> None:
    calls, left = [], []
    for outcome in each_malloc_failing(chain):
        assert outcome.heap.check()
        assert outcome.heap.layers == ()
        assert isinstance(outcome.error, OutOfSpaceError) == outcome.failed
        assert (outcome.result is None) == outcome.failed
        calls.append(outcome.call.split("(")[0])
        left.append(len(list(outcome.heap.blocks())))
    assert calls == ["malloc", "malloc", "malloc", "realloc", ""]
    assert left == [0, 0, 0, 0, 3]


def test_a_program_may_go_on_after_a_failure() -> None:
    def program(heap: Any) -> int:
        return sum(not fails(heap.malloc, 10) for _ in range(3))

    outcomes = [(o.number, o.failed, o.result, o.error) for o in each_malloc_failing(program)]
    assert outcomes == [
        (1, True, 2, None),
        (2, True, 2, None),
        (3, True, 2, None),
        (4, False, 3, None),
    ]


def test_another_exception_of_the_program_comes_out() -> None:
    def program(heap: Any) -> None:
        made = []
        try:
            made.append(heap.malloc(10))
            made.append(heap.malloc(20))
        finally:
            heap.free(made[1])  # a mistake: it was never made

    with pytest.raises(IndexError) as caught:
        list(each_malloc_failing(program))
    assert caught.value.__notes__ == ["after allocation 1, malloc(10), had failed"]


def test_what_a_program_raises_without_a_failure_comes_out() -> None:
    def program(heap: Any) -> None:
        raise OutOfSpaceError("of its own")

    with pytest.raises(OutOfSpaceError, match="of its own") as caught:
        list(each_malloc_failing(program))
    assert not hasattr(caught.value, "__notes__")


class StoreFullError(Exception):
    pass


def test_a_program_may_raise_its_own_error() -> None:
    def program(heap: Any) -> None:
        try:
            heap.malloc(10)
        except MemoryError as error:
            raise StoreFullError from error

    found = [type(o.error) for o in each_malloc_failing(program, raises=StoreFullError)]
    assert found == [StoreFullError, type(None)]
    with pytest.raises(StoreFullError):
        list(each_malloc_failing(program))
    assert len(list(each_malloc_failing(program, raises=StoreFullError, error=MemoryError))) == 2


def test_views_of_a_program_that_failed_keep_no_heap() -> None:
    def program(heap: Any) -> Any:
        array = heap.ndarray_at(heap.malloc(800), 100, float)
        heap.malloc(10)
        return array

    closed = []
    for outcome in each_malloc_failing(program):
        assert outcome.failed or isinstance(outcome.result, np.ndarray)
        closed.append(outcome.heap)
    assert all(heap.closed for heap in closed)


def test_heaps_in_files_arenas_and_other_allocators_may_fail(tmp_path: Path) -> None:
    def in_file() -> Heap:
        return Heap.create(tmp_path / "heap", durability="process", replace=True)

    def over() -> Any:
        return Passing(Heap.anonymous())

    for make in (in_file, over, lambda: Heap.anonymous().arena("mine")):
        outcomes = [(o.number, o.failed) for o in each_malloc_failing(chain, make)]
        assert outcomes == [(1, True), (2, True), (3, True), (4, True), (5, False)]
    with Heap.open(tmp_path / "heap") as heap:
        assert len(list(heap.blocks())) == 3
        assert heap.check()


def test_a_program_may_close_its_heap() -> None:
    def program(heap: Any) -> None:
        heap.malloc(10)
        heap.close()

    assert [o.failed for o in each_malloc_failing(program)] == [True, False]
