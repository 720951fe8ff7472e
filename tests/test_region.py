from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from itertools import pairwise

import pytest
from heap_world import added, reserved

from pmemheap import native
from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.layout import SEGMENT_UNITS
from pmemheap.pmem2 import space
from pmemheap.space.anonymous import AnonymousMedium
from pmemheap.space.medium import Piece
from pmemheap.space.region import Region
from pmemheap.units import UNIT, GiB, MiB


@pytest.fixture
def region() -> Iterator[Region]:
    """Return a region of four segments: 1, 2, 3 and 4 MiB."""
    region = Region(AnonymousMedium(), GiB)
    for count in range(1, 5):
        region.grow(count * SEGMENT_UNITS, 1)
    yield region
    region.close()


def byte(region: Region, unit: int, table: str = "data") -> ctypes.c_ubyte:
    return ctypes.c_ubyte.from_address(region.tables[table].address(unit))


def borders(region: Region) -> list[tuple[int, int]]:
    return [(piece.first_unit, piece.stop) for piece in region.pieces]


def mark_all(region: Region) -> None:
    for unit in range(region.first_unit, region.end_unit):
        for table in region.tables:
            byte(region, unit, table).value = unit % 251 + 1


def assert_marked(region: Region, first: int, stop: int) -> None:
    for unit in range(first, stop):
        for table in region.tables:
            assert byte(region, unit, table).value == unit % 251 + 1, (table, unit)


def test_segments_follow_each_other(region: Region) -> None:
    assert borders(region) == [(0, 256), (256, 768), (768, 1536), (1536, 2560)]
    assert region.nunits == 2560
    assert all(left.stop == right.first_unit for left, right in pairwise(region.pieces))
    mark_all(region)
    assert_marked(region, 0, 2560)
    region.check()


def test_growth_moves_nothing(region: Region) -> None:
    mark_all(region)
    bases = {table: region.base(table) for table in region.tables}
    for _ in range(20):
        region.grow(5 * SEGMENT_UNITS, 1)
    assert {table: region.base(table) for table in region.tables} == bases
    assert_marked(region, 0, 2560)


def test_data_is_aligned_to_a_gib(region: Region) -> None:
    """So that aligned offsets are aligned addresses."""
    assert region.base("data") % GiB == 0


def test_sizes_are_rounded_up_to_segments() -> None:
    region = Region(AnonymousMedium(), GiB)
    assert region.grow(1, 1).nunits == SEGMENT_UNITS
    assert region.grow(1, SEGMENT_UNITS + 1).nunits == 2 * SEGMENT_UNITS
    region.close()


def test_refused_wish_is_halved_down_to_what_is_needed() -> None:
    region = Region(AnonymousMedium(limit=10 * MiB), GiB)
    region.grow(1, 1)
    assert region.grow(64 * SEGMENT_UNITS, 3 * SEGMENT_UNITS).nunits == 8 * SEGMENT_UNITS
    before = borders(region)
    with pytest.raises(OutOfSpaceError, match="limit 10485760 bytes"):
        region.grow(64 * SEGMENT_UNITS, 3 * SEGMENT_UNITS)
    assert borders(region) == before
    region.check()
    region.close()


def test_limit_below_one_segment_is_refused() -> None:
    with pytest.raises(UsageError, match="limit"):
        AnonymousMedium(limit=1 * MiB)


# ---------------------------------------------------------------- cutting


@pytest.mark.parametrize(
    ("first", "end", "left"),
    [
        (0, 1536, [(0, 256), (256, 768), (768, 1536)]),
        (0, 256, [(0, 256)]),
        (256, 2560, [(256, 768), (768, 1536), (1536, 2560)]),
        (1536, 2560, [(1536, 2560)]),
        (256, 1536, [(256, 768), (768, 1536)]),
        (0, 2560, [(0, 256), (256, 768), (768, 1536), (1536, 2560)]),
    ],
)
def test_cut_keeps_what_lies_between(
    region: Region, first: int, end: int, left: list[tuple[int, int]]
) -> None:
    mark_all(region)
    base = region.base("data")
    region.cut(first, end)
    assert borders(region) == left
    assert (region.first_unit, region.end_unit) == (first, end)
    assert region.base("data") == base, "a unit keeps its address"
    assert_marked(region, first, end)
    assert region.tables["data"].reservation.size == (end - first) * UNIT
    region.check()
    region.grow(SEGMENT_UNITS, 1)
    assert region.end_unit == end + SEGMENT_UNITS
    assert byte(region, end).value == 0, "what is mapped anew reads zero"
    region.check()


@pytest.mark.parametrize(
    ("free_from", "stop"),
    [(0, 256), (255, 256), (256, 256), (257, 768), (2000, 2560), (2560, 2560)],
)
def test_droppable_tail_is_whole_segments(region: Region, free_from: int, stop: int) -> None:
    assert region.droppable_tail(free_from) == stop


@pytest.mark.parametrize(
    ("free_to", "first"), [(0, 0), (255, 0), (256, 256), (767, 256), (1536, 1536), (2560, 1536)]
)
def test_droppable_head_is_whole_segments(region: Region, free_to: int, first: int) -> None:
    assert region.droppable_head(free_to) == first


def test_region_slides_at_constant_size(region: Region) -> None:
    for _ in range(300):
        region.grow(2 * SEGMENT_UNITS, 1)
        region.cut(region.pieces[1].first_unit, region.end_unit)
        assert len(region.pieces) == 4
    assert region.first_unit > 500 * SEGMENT_UNITS
    assert region.tables["data"].reservation.size <= 16 * MiB
    region.check()


def test_punched_units_read_zero_across_segments(region: Region) -> None:
    mark_all(region)
    region.punch(250, 600)
    assert [byte(region, unit).value for unit in (250, 256, 768, 849)] == [0] * 4
    for unit in (249, 850):
        assert byte(region, unit).value == unit % 251 + 1


def test_closed_region_leaves_no_address_space() -> None:
    before = reserved()
    region = Region(AnonymousMedium(), GiB)
    region.grow(1, 1)
    region.close()
    region.close()
    assert not added(reserved(), before)


@pytest.mark.parametrize(
    ("now", "rest"),
    [
        ({(2, 5)}, []),
        ({(0, 9)}, []),
        ({(3, 4), (8, 12)}, [(9, 12)]),
        ({(0, 30)}, [(9, 20), (25, 30)]),
        ({(10, 15)}, [(10, 15)]),
        ({(15, 21), (24, 26)}, [(15, 20), (25, 26)]),
    ],
)
def test_ranges_are_compared_by_what_they_cover(
    now: set[tuple[int, int]], rest: list[tuple[int, int]]
) -> None:
    assert added(now, {(0, 9), (20, 25)}) == rest


def lines(region: Region) -> list[tuple[int, int, int]]:
    """Return start, end of what is shown and end of the headroom of each table, by address."""
    ranges = [table.address_range for table in region.tables.values()]
    return sorted((each.start, each.stop, each.end) for each in ranges)


def test_tables_with_much_headroom_are_reserved_in_one_step() -> None:
    region = Region(AnonymousMedium(), GiB)
    before = native.system_calls()
    region.grow(1, 1)
    row, calls = lines(region), native.system_calls() - before
    assert all(left[2] == right[0] for left, right in pairwise(row))
    assert row[-1][0] == region.tables["data"].address(0)
    region.close()

    region = Region(AnonymousMedium(), GiB - UNIT)
    before = native.system_calls()
    region.grow(1, 1)
    assert native.system_calls() - before > calls
    region.close()


def test_each_table_of_a_row_grows_and_ends_alone() -> None:
    region = Region(AnonymousMedium(), GiB)
    region.grow(1, 1)
    row = lines(region)
    region.grow(GiB // UNIT - SEGMENT_UNITS, 1)
    marks = {name: byte(region, region.end_unit - 1, name) for name in region.tables}
    for mark in marks.values():
        mark.value = 7
    assert [(start, end) for start, _, end in lines(region)] == [(a, c) for a, _, c in row]
    bits = region.tables["bits"]
    for part in bits.reservation.maps():
        part.close()
    bits.reservation.close()
    assert [marks[name].value for name in ("data", "units")] == [7, 7]
    region.close()


def test_without_address_space_for_all_at_once_tables_are_reserved_one_by_one() -> None:
    region = Region(AnonymousMedium(), GiB)
    with native.faults(1, errno.ENOMEM) as fault:
        region.grow(1, 1)
    assert fault.hit
    region.check()
    mark_all(region)
    region.close()


@pytest.mark.parametrize(
    "numbers",
    [(0, UNIT), (UNIT, 0), (UNIT, 4 * UNIT), (100, UNIT), (UNIT, 5000), (1 << 40, 1 << 41)],
)
def test_a_part_of_an_address_range_is_less_than_all(numbers: tuple[int, int]) -> None:
    line = native.AddressRange(0, 4 * UNIT)
    borders = line.start, line.stop, line.end
    with pytest.raises(ValueError, match="fewer than are shown"):
        line.split(*numbers)
    assert (line.start, line.stop, line.end) == borders


def test_a_part_of_an_address_range_goes_alone() -> None:
    line = native.AddressRange(0, 4 * UNIT, UNIT)
    start, end = line.start, line.end
    part = line.split(UNIT, 2 * UNIT)
    assert (part.start, part.stop, part.end) == (start, start + UNIT, start + 2 * UNIT)
    assert (line.start, line.stop, line.end) == (start + 2 * UNIT, start + 4 * UNIT, end)
    del part
    assert space.is_free(start, start + 2 * UNIT)
    assert not space.is_free(start, start + 3 * UNIT)
    del line
    assert space.is_free(start, end)


# ---------------------------------------------------------------- refusals


def test_growth_is_all_or_nothing(region: Region) -> None:
    before = borders(region)
    sizes = {name: table.reservation.size for name, table in region.tables.items()}
    mark_all(region)
    for nth in range(1, 50):
        with native.faults(nth, errno.ENOMEM) as fault:
            try:
                region.grow(SEGMENT_UNITS, 1)
            except OutOfSpaceError:
                assert borders(region) == before
        region.cut(0, 2560)
        assert {name: table.reservation.size for name, table in region.tables.items()} == sizes
        region.check()
        if not fault.hit:
            break
    else:
        pytest.fail("no end of system calls")
    assert_marked(region, 0, 2560)


def test_refused_unmap_is_tried_again(region: Region) -> None:
    """The region ends where it was told to; the address space goes at the next opportunity."""
    mark_all(region)
    with native.faults(1, errno.ENOMEM, native.FaultKind.FROM):
        region.cut(256, 1536)
    assert borders(region) == [(256, 768), (768, 1536)]
    assert region.tables["data"].reservation.size > (1536 - 256) * UNIT
    region.check()
    region.cut(256, 1536)
    assert region.tables["data"].reservation.size == (1536 - 256) * UNIT
    region.grow(SEGMENT_UNITS, 1)
    assert byte(region, 1536).value == 0
    assert_marked(region, 256, 1536)


def test_growth_over_what_could_not_be_unmapped(region: Region) -> None:
    mark_all(region)
    with native.faults(1, errno.ENOMEM, native.FaultKind.FROM):
        region.cut(0, 1536)
    region.grow(SEGMENT_UNITS, 1)
    assert [byte(region, unit).value for unit in range(1536, 1792)] == [0] * 256
    region.check()


class BrokenRelease(AnonymousMedium):
    """A medium that cannot take space back."""

    def release(self, pieces: list[Piece]) -> None:
        super().release(pieces)
        raise OutOfSpaceError("no")


def test_cut_holds_when_space_cannot_be_given_back() -> None:
    region = Region(BrokenRelease(), GiB)
    for _ in range(3):
        region.grow(1, 1)
    mark_all(region)
    with pytest.raises(OutOfSpaceError):
        region.cut(256, 512)
    assert borders(region) == [(256, 512)]
    assert_marked(region, 256, 512)
    region.check()
    region.close()
