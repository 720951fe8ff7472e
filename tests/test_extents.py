from __future__ import annotations

import random

import pytest

from pmemheap.space.extents import ExtentMap


def extents_of(*ranges: tuple[int, int]) -> ExtentMap:
    extents = ExtentMap()
    for start, length in ranges:
        extents.deallocate(start, length)
    return extents


def taken_from(extents: ExtentMap, length: int, align: int = 1) -> int:
    start = extents.allocate(length, align)
    assert start is not None
    return start


def test_best_fit_takes_the_tightest_extent() -> None:
    extents = extents_of((0, 50), (100, 8), (200, 10))
    assert extents.allocate(7) == 100
    assert extents.allocate(10) == 200
    assert extents.allocate(10) == 0
    extents.check()
    assert list(extents) == [(10, 40), (107, 1)]


def test_a_tie_goes_to_the_lowest_address() -> None:
    extents = extents_of((300, 8), (100, 8), (200, 8))
    extents.coalesce()
    assert [extents.allocate(7) for _ in range(3)] == [100, 200, 300]


def test_an_extent_of_the_same_length_is_taken_last_in_first_out() -> None:
    extents = extents_of((0, 5), (100, 5))
    assert [extents.allocate(5), extents.allocate(5)] == [100, 0]
    assert extents.statistics().free_units == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_free_merges_both_neighbours(order: tuple[int, ...]) -> None:
    ranges = [(10, 4), (14, 6), (20, 1)]
    extents = extents_of(*(ranges[i] for i in order))
    assert list(extents) == [(10, 11)]
    extents.check()


def test_extents_that_do_not_touch_stay_apart() -> None:
    extents = extents_of((10, 4), (15, 5))
    assert list(extents) == [(10, 4), (15, 5)]
    assert len(extents) == 2
    assert extents.longest_merged() == 5


def test_refused_request_changes_nothing() -> None:
    extents = extents_of((1, 10), (20, 10))
    assert extents.allocate(11) is None
    assert extents.allocate(10, align=64, roomy=True) is None
    assert extents.allocate(11, roomy=True) is None
    assert list(extents) == [(1, 10), (20, 10)]


@pytest.mark.parametrize("align", [1, 2, 8, 64, 1 << 18])
def test_alignment_holds_and_the_rest_stays_free(align: int) -> None:
    extents = extents_of((3, (1 << 19) + 7))
    start = taken_from(extents, 5, align)
    assert start % align == 0
    assert extents.free_units == (1 << 19) + 2
    extents.check()
    extents.deallocate(start, 5)
    assert list(extents) == [(3, (1 << 19) + 7)]


def test_alignment_is_found_among_many_extents_that_are_too_badly_placed() -> None:
    extents = extents_of(*((1 + 100 * i, 20) for i in range(200)), (100_001, 40))
    assert taken_from(extents, 20, 16) % 16 == 0
    extents.check()


def test_roomy_takes_the_start_of_the_longest() -> None:
    extents = extents_of((0, 10), (100, 1000))
    assert extents.allocate(10, roomy=True) == 100
    assert extents.room_at(110) == 990


def test_take_needs_the_start_of_an_extent_that_is_long_enough() -> None:
    extents = extents_of((10, 6), (16, 4))
    assert not extents.take(11, 2)
    assert not extents.take(10, 11)
    assert not extents.take(16, 4), "merged: nothing begins there"
    assert extents.take(10, 7)
    assert list(extents) == [(17, 3)]


def test_take_ending_takes_at_most_so_many_from_the_end() -> None:
    extents = extents_of((10, 10))
    assert extents.take_ending(20, 3) == 3
    assert extents.take_ending(20, 3) == 0
    assert extents.room_before(17) == 7
    assert extents.take_ending(17, 99) == 7
    assert not list(extents)
    extents.check()


def test_shortest_does_not_take() -> None:
    extents = extents_of((0, 10), (20, 5))
    assert extents.shortest(4) == (20, 5)
    assert extents.shortest(6) == (0, 10)
    assert extents.shortest(11) is None
    assert extents.free_units == 15


def test_many_frees_settle_by_themselves() -> None:
    extents = extents_of(*((2 * i, 1) for i in range(5000)))
    assert extents.statistics().recent < 5000
    assert extents.statistics().extents + extents.statistics().recent == len(extents) == 5000
    extents.check()


def test_statistics_count_what_is_free() -> None:
    extents = extents_of((0, 10), (30, 5))
    assert extents.statistics().longest == extents.longest() == 10
    assert extents.statistics().recent == 2
    extents.coalesce()
    assert extents.statistics().extents == 2
    assert extents.statistics().recent == 0


def test_check_finds_what_does_not_fit() -> None:
    extents = extents_of((0, 10))
    extents.free_units += 1
    with pytest.raises(AssertionError):
        extents.check()


def test_all_comes_back_whole_in_any_order() -> None:
    source = random.Random(3)
    extents = extents_of((0, 1000))
    taken = []
    while extents.longest_merged() >= 30:
        length = source.randrange(1, 30)
        taken.append((taken_from(extents, length), length))
    source.shuffle(taken)
    for start, length in taken:
        extents.deallocate(start, length)
    assert list(extents) == [(0, 1000)]
