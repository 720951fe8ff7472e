from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from address_space import address_map, free_range, mapped_bytes

from pmemheap import native, pmem2
from pmemheap.errors import Pmem2Error, UsageError
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.pmem2.reservation import address_range_of
from pmemheap.units import PAGE, GiB, MiB, TiB

ENOMEM = -12


def code_of(call: Callable[[], object]) -> int:
    with pytest.raises(Pmem2Error) as raised:
        call()
    return raised.value.code


# ---------------------------------------------------------------- new


def test_a_reservation_is_reserved_and_not_accessible() -> None:
    with VMReservation(16 * PAGE) as reservation:
        (found,) = [each for each in address_map() if each.start <= reservation.address < each.stop]
        assert found.permissions == "---p"
        assert reservation.size == 16 * PAGE
        assert mapped_bytes(reservation.address, reservation.address + 16 * PAGE) == 16 * PAGE


def test_an_address_is_taken_exactly() -> None:
    where = free_range(4 * PAGE) + PAGE
    with VMReservation(2 * PAGE, where) as reservation:
        assert (reservation.address, reservation.size) == (where, 2 * PAGE)
        assert mapped_bytes(where - PAGE, where + 3 * PAGE) == 2 * PAGE


def test_address_zero_is_anywhere() -> None:
    with VMReservation(PAGE, 0) as reservation:
        assert reservation.address > 0


@pytest.mark.parametrize(
    ("size", "address", "code"),
    [
        (PAGE + 1, 1, pmem2.PMEM2_E_ADDRESS_UNALIGNED),
        (PAGE + 1, PAGE, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        (-1, None, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        (0, PAGE, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (-PAGE, None, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (1 << 64, None, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        ((1 << 64) - PAGE, None, ENOMEM),
        (1 << 47, None, ENOMEM),
        (PAGE, 1 << 63, ENOMEM),
        (PAGE, 1 << 64, ENOMEM),
        (PAGE, -PAGE, ENOMEM),
    ],
)
def test_new_refuses(size: int, address: int | None, code: int) -> None:
    assert code_of(lambda: VMReservation(size, address)) == code


@pytest.mark.parametrize("size", [True, 4096.0, "4096", None])
def test_a_size_is_a_whole_number(size: object) -> None:
    with pytest.raises(TypeError, match="size: a whole number expected"):
        VMReservation(size)  # type: ignore[arg-type]


def test_an_occupied_address_is_refused_and_the_occupant_named() -> None:
    with VMReservation(4 * PAGE) as reservation:
        address = reservation.address
        with pytest.raises(Pmem2Error, match=rf"anonymous memory at \[{address:#x}") as raised:
            VMReservation(PAGE, address + PAGE)
        assert raised.value.code == pmem2.PMEM2_E_MAPPING_EXISTS
        assert raised.value.name == "PMEM2_E_MAPPING_EXISTS"


@pytest.mark.parametrize("skew", [0, 5 * PAGE, GiB + PAGE, -PAGE])
def test_alignment_counts_from_the_skew(skew: int) -> None:
    with VMReservation(PAGE, headroom=MiB, alignment=GiB, skew=skew) as reservation:
        assert (reservation.address - skew) % GiB == 0
        assert (reservation.size, reservation.headroom) == (PAGE, MiB)
        start, stop = address_range_of(reservation).start, address_range_of(reservation).end
        assert stop - start == PAGE + MiB
        assert mapped_bytes(start - 16 * PAGE, start) <= 16 * PAGE


def test_alignment_leaves_nothing_behind() -> None:
    before = sum(each.stop - each.start for each in address_map())
    reservation = VMReservation(PAGE, alignment=GiB)
    assert sum(each.stop - each.start for each in address_map()) - before < 16 * MiB
    reservation.close()


@pytest.mark.parametrize("alignment", [0, -PAGE, 16, 3 * PAGE])
def test_an_alignment_is_a_power_of_two_pages(alignment: int) -> None:
    with pytest.raises(UsageError, match="power of two"):
        VMReservation(PAGE, alignment=alignment)


def test_an_address_against_the_alignment_is_refused() -> None:
    where = free_range(GiB) + PAGE
    refusal = code_of(lambda: VMReservation(PAGE, where, alignment=GiB))
    assert refusal == pmem2.PMEM2_E_ADDRESS_UNALIGNED
    VMReservation(PAGE, where, alignment=GiB, skew=PAGE).close()


@pytest.mark.parametrize(
    ("size", "alignment"),
    [(PAGE, 2 * MiB), (2 * GiB - PAGE, 2 * MiB), (2 * GiB, GiB), (2 * GiB + PAGE, GiB)],
)
def test_anywhere_is_aligned_as_libpmem2_has_it(size: int, alignment: int) -> None:
    for headroom in (0, GiB):
        with VMReservation(size, headroom=headroom) as reservation:
            assert reservation.address % alignment == 0
            assert (reservation.size, reservation.headroom) == (size, headroom)
    where = free_range(4 * GiB) + PAGE
    with VMReservation(size, where) as reservation:
        assert reservation.address == where


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"skew": 1}, pmem2.PMEM2_E_ADDRESS_UNALIGNED),
        ({"skew": -1, "alignment": 2 * MiB}, pmem2.PMEM2_E_ADDRESS_UNALIGNED),
        ({"skew": (1 << 70) + 1}, pmem2.PMEM2_E_ADDRESS_UNALIGNED),
        ({"headroom": 1}, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        ({"headroom": -1}, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        ({"headroom": -PAGE}, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        ({"alignment": 1 << 48}, ENOMEM),
        ({"alignment": 1 << 63}, ENOMEM),
        ({"alignment": 1 << 48, "skew": (1 << 47) - PAGE}, ENOMEM),
    ],
)
def test_options_are_checked_and_never_ignored(options: dict[str, int], code: int) -> None:
    calls = native.system_calls()
    assert code_of(lambda: VMReservation(PAGE, **options)) == code
    assert code == ENOMEM or native.system_calls() == calls


@pytest.mark.parametrize("name", ["headroom", "alignment", "skew"])
@pytest.mark.parametrize("value", [True, 4096.0, "4096"])
def test_options_are_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name}: a whole number expected"):
        VMReservation(PAGE, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("headroom", [1 << 63, (1 << 64) - PAGE, 1 << 100])
def test_headroom_without_bounds_is_a_wish_like_any_other(headroom: int) -> None:
    with VMReservation(PAGE, headroom=headroom) as reservation:
        assert reservation.headroom > GiB
    where = free_range(GiB)
    with VMReservation(PAGE, where, headroom=headroom) as reservation:
        assert reservation.headroom > GiB
    assert code_of(lambda: VMReservation(1 << 63, alignment=GiB, headroom=headroom)) == ENOMEM


@pytest.fixture
def no_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    held = []
    with suppress(OSError):
        while True:
            held.append(os.dup(0))
    yield
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("no_descriptors")
def test_refusals_need_no_descriptor() -> None:
    where = 0x2100_0000_0000
    with VMReservation(4 * PAGE, where) as low, VMReservation(PAGE, where + 4 * PAGE):
        for refused in (lambda: VMReservation(PAGE, where), lambda: low.extend(PAGE)):
            with pytest.raises(Pmem2Error, match="another mapping found") as raised:
                refused()
            assert raised.value.code == pmem2.PMEM2_E_MAPPING_EXISTS
        assert code_of(lambda: VMReservation(1 << 50)) == ENOMEM
        assert code_of(lambda: Map.anonymous(low, 0, 8 * PAGE)) == (
            pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE
        )


# ---------------------------------------------------------------- extend


def test_extend_adds_at_the_end_and_moves_nothing() -> None:
    where = free_range(MiB)
    with VMReservation(4 * PAGE, where) as reservation:
        Map.anonymous(reservation, 0, PAGE).view[0] = 7
        reservation.extend(4 * PAGE)
        assert (reservation.address, reservation.size) == (where, 8 * PAGE)
        assert reservation.first().view[0] == 7
        Map.anonymous(reservation, 3 * PAGE, 5 * PAGE)


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (1, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        (-1, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        (-PAGE, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        ((1 << 64) - 4 * PAGE, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (1 << 70, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        ((1 << 64) - 5 * PAGE, ENOMEM),
        (1 << 63, ENOMEM),
        (1 << 47, ENOMEM),
    ],
)
def test_extend_refuses_and_changes_nothing(size: int, code: int) -> None:
    with VMReservation(4 * PAGE, headroom=MiB) as reservation:
        assert code_of(lambda: reservation.extend(size)) == code
        assert (reservation.size, reservation.headroom) == (4 * PAGE, MiB)
        reservation.check()


def test_extend_by_nothing_does_nothing() -> None:
    with VMReservation(PAGE) as reservation:
        reservation.extend(0)
        assert reservation.size == PAGE


def test_extend_meets_a_neighbour() -> None:
    where = free_range(MiB)
    with VMReservation(PAGE, where) as low, VMReservation(PAGE, where + 3 * PAGE):
        low.extend(PAGE)
        with pytest.raises(Pmem2Error, match="headroom") as raised:
            low.extend(2 * PAGE)
        assert raised.value.code == pmem2.PMEM2_E_MAPPING_EXISTS
        low.extend(PAGE)
        assert low.size == 3 * PAGE


# ---------------------------------------------------------------- headroom


def test_headroom_is_used_first_and_never_shown_in_the_size() -> None:
    with VMReservation(PAGE, headroom=4 * PAGE) as reservation:
        assert (reservation.size, reservation.headroom) == (PAGE, 4 * PAGE)
        reservation.extend(3 * PAGE)
        assert (reservation.size, reservation.headroom) == (4 * PAGE, PAGE)


def test_extend_goes_on_behind_the_headroom() -> None:
    where = free_range(MiB)
    with VMReservation(PAGE, where, headroom=2 * PAGE) as reservation:
        reservation.extend(5 * PAGE)
        assert (reservation.size, reservation.headroom) == (6 * PAGE, 0)


def test_headroom_gives_way_to_a_reservation_at_an_address() -> None:
    where = free_range(GiB)
    with VMReservation(PAGE, where, headroom=16 * PAGE) as low:
        with VMReservation(PAGE, where + 5 * PAGE):
            assert (low.size, low.headroom) == (PAGE, 4 * PAGE)
            low.extend(4 * PAGE)
            assert code_of(lambda: low.extend(PAGE)) == pmem2.PMEM2_E_MAPPING_EXISTS
        low.extend(PAGE)


def test_headroom_of_a_neighbour_in_the_way_is_left_alone() -> None:
    where = free_range(GiB)
    with (
        VMReservation(PAGE, where, headroom=8 * PAGE) as low,
        VMReservation(PAGE, where + 8 * PAGE, headroom=8 * PAGE) as high,
    ):
        assert low.headroom == 7 * PAGE
        low.extend(7 * PAGE)
        assert code_of(lambda: low.extend(2 * PAGE)) == pmem2.PMEM2_E_MAPPING_EXISTS
        assert high.headroom == 8 * PAGE


def test_headroom_comes_back_to_its_owner_where_giving_it_up_was_no_use() -> None:
    where = free_range(GiB)
    with (
        VMReservation(PAGE, where, headroom=4 * PAGE) as low,
        VMReservation(PAGE, where + 8 * PAGE),
    ):
        refusal = code_of(lambda: VMReservation(8 * PAGE, where + 2 * PAGE))
        assert refusal == pmem2.PMEM2_E_MAPPING_EXISTS
        assert low.headroom == 4 * PAGE


def test_headroom_is_halved_until_it_fits() -> None:
    where = free_range(GiB)
    with VMReservation(PAGE, where + 8 * PAGE):
        with VMReservation(PAGE, where, headroom=16 * PAGE) as low:
            assert low.headroom == 4 * PAGE
        with VMReservation(8 * PAGE, where, headroom=16 * PAGE) as low:
            assert low.headroom == 0


def test_headroom_is_less_than_what_address_space_has() -> None:
    with VMReservation(PAGE, headroom=1 << 47) as reservation:
        assert 1 << 40 <= reservation.headroom < 1 << 47
    with VMReservation(PAGE, headroom=1 << 64) as reservation:
        assert reservation.headroom > 0


def test_headroom_is_a_whole_number_of_pages() -> None:
    unaligned = code_of(lambda: VMReservation(PAGE, headroom=1))
    negative = code_of(lambda: VMReservation(PAGE, headroom=-PAGE))
    assert unaligned == pmem2.PMEM2_E_LENGTH_UNALIGNED
    assert negative == pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE


def test_headroom_ends_with_the_reservation() -> None:
    reservation = VMReservation(PAGE, headroom=TiB)
    start, stop = address_range_of(reservation).start, address_range_of(reservation).end
    reservation.close()
    assert mapped_bytes(start, stop) < GiB


UNDER_A_LIMIT = """
import resource
from pmemheap.pmem2 import VMReservation
from pmemheap.units import GiB, MiB
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + GiB, used + GiB))
low = VMReservation(MiB, headroom=1 << 40)
assert 256 * MiB <= low.headroom < GiB, low
before = low.headroom
high = VMReservation(GiB - 128 * MiB)  # only if the headroom is given up
assert 0 < low.headroom < before - 256 * MiB, low  # as much as was missing, and no more
high.close()
low.extend(GiB // 2)
"""


def test_headroom_shrinks_and_gives_way_under_a_limit_on_address_space() -> None:
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    subprocess.run([sys.executable, "-c", UNDER_A_LIMIT], check=True)


# ---------------------------------------------------------------- shrink


def test_shrink_at_the_tail_gives_pages_back() -> None:
    where = free_range(MiB)
    with VMReservation(8 * PAGE, where) as reservation:
        reservation.shrink(5 * PAGE, 3 * PAGE)
        assert (reservation.address, reservation.size) == (where, 5 * PAGE)
        assert mapped_bytes(where, where + 8 * PAGE) == 5 * PAGE
        reservation.extend(3 * PAGE)


def test_shrink_at_the_tail_of_one_with_headroom_becomes_headroom() -> None:
    with VMReservation(8 * PAGE, headroom=PAGE) as reservation:
        reservation.extend(PAGE)
        reservation.shrink(4 * PAGE, 5 * PAGE)
        assert (reservation.size, reservation.headroom) == (4 * PAGE, 5 * PAGE)
        reservation.extend(5 * PAGE)


def test_shrink_at_the_head_moves_address_and_offsets() -> None:
    where = free_range(MiB)
    with VMReservation(8 * PAGE, where) as reservation:
        kept = Map.anonymous(reservation, 4 * PAGE, PAGE)
        address = kept.address
        reservation.shrink(0, 3 * PAGE)
        assert (reservation.address, reservation.size) == (where + 3 * PAGE, 5 * PAGE)
        assert (kept.address, kept.offset) == (address, PAGE)
        assert reservation.find(PAGE, 0) is kept
        assert mapped_bytes(where, where + 3 * PAGE) == 0


@pytest.mark.parametrize(
    ("offset", "size", "code"),
    [
        (1, 1, pmem2.PMEM2_E_OFFSET_UNALIGNED),
        (8 * PAGE, 1, pmem2.PMEM2_E_LENGTH_UNALIGNED),
        (8 * PAGE, 0, pmem2.PMEM2_E_OFFSET_OUT_OF_RANGE),
        (-PAGE, 2 * PAGE, pmem2.PMEM2_E_OFFSET_OUT_OF_RANGE),
        (7 * PAGE, 0, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (7 * PAGE, 2 * PAGE, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (7 * PAGE, -PAGE, pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE),
        (PAGE, PAGE, pmem2.PMEM2_E_NOSUPP),
        (0, 8 * PAGE, pmem2.PMEM2_E_NOSUPP),
        (0, 2 * PAGE, pmem2.PMEM2_E_VM_RESERVATION_NOT_EMPTY),
        (6 * PAGE, 2 * PAGE, pmem2.PMEM2_E_VM_RESERVATION_NOT_EMPTY),
    ],
)
def test_shrink_refuses_and_changes_nothing(offset: int, size: int, code: int) -> None:
    with VMReservation(8 * PAGE) as reservation:
        Map.anonymous(reservation, PAGE, PAGE)
        Map.anonymous(reservation, 6 * PAGE, PAGE)
        address = reservation.address
        assert code_of(lambda: reservation.shrink(offset, size)) == code
        assert (reservation.address, reservation.size) == (address, 8 * PAGE)
        reservation.check()


def test_shrinks_repeat_down_to_a_page() -> None:
    with VMReservation(8 * PAGE) as reservation:
        for _ in range(3):
            reservation.shrink(0, PAGE)
            reservation.shrink(reservation.size - PAGE, PAGE)
        reservation.shrink(0, PAGE)
        assert reservation.size == PAGE
        assert code_of(lambda: reservation.shrink(0, PAGE)) == pmem2.PMEM2_E_NOSUPP


# ---------------------------------------------------------------- searches


def test_searches_walk_the_maps_in_order() -> None:
    with VMReservation(16 * PAGE) as reservation:
        high, low, middle = (
            Map.anonymous(reservation, page * PAGE, 2 * PAGE) for page in (12, 1, 6)
        )
        assert reservation.maps() == [low, middle, high]
        assert (reservation.first(), reservation.last()) == (low, high)
        assert (reservation.next(low), reservation.prev(high)) == (middle, middle)
        assert code_of(lambda: reservation.next(high)) == pmem2.PMEM2_E_MAPPING_NOT_FOUND
        assert code_of(lambda: reservation.prev(low)) == pmem2.PMEM2_E_MAPPING_NOT_FOUND


def test_searches_in_an_empty_reservation_find_nothing() -> None:
    with VMReservation(PAGE) as reservation:
        for search in (reservation.first, reservation.last, lambda: reservation.find(0, PAGE)):
            assert code_of(search) == pmem2.PMEM2_E_MAPPING_NOT_FOUND
        assert reservation.maps() == []


@pytest.mark.parametrize(
    ("offset", "length", "found"),
    [
        (0, PAGE, None),
        (0, PAGE + 1, "low"),
        (PAGE, 0, "low"),
        (2 * PAGE - 1, 0, "low"),
        (2 * PAGE, 0, None),
        (2 * PAGE - 1, 1 << 80, "low"),
        (2 * PAGE, 2 * PAGE, None),
        (3 * PAGE, 2 * PAGE, "high"),
        (-PAGE, 2 * PAGE + 1, "low"),
        (-PAGE, 0, None),
        (0, -1, None),
        (1 << 70, 0, None),
    ],
)
def test_find_gives_the_lowest_that_meets(offset: int, length: int, found: str | None) -> None:
    with VMReservation(8 * PAGE) as reservation:
        maps = {
            "low": Map.anonymous(reservation, PAGE, PAGE),
            "high": Map.anonymous(reservation, 4 * PAGE, PAGE),
        }
        if found is None:
            refusal = code_of(lambda: reservation.find(offset, length))
            assert refusal == pmem2.PMEM2_E_MAPPING_NOT_FOUND
        else:
            assert reservation.find(offset, length) is maps[found]


def test_a_map_from_elsewhere_is_not_found() -> None:
    with VMReservation(8 * PAGE) as here, VMReservation(8 * PAGE) as there:
        foreign = Map.anonymous(there, 0, PAGE)
        Map.anonymous(here, 0, PAGE)
        closed = Map.anonymous(here, PAGE, PAGE)
        closed.close()
        Map.anonymous(here, PAGE, PAGE)  # at the same address
        for wrong in (foreign, closed, None):
            for search in (here.next, here.prev):
                refusal = code_of(lambda: search(wrong))  # type: ignore[arg-type] # noqa: B023
                assert refusal == pmem2.PMEM2_E_MAPPING_NOT_FOUND


# ---------------------------------------------------------------- the end


def test_close_is_refused_while_there_are_maps() -> None:
    reservation = VMReservation(4 * PAGE)
    made = Map.anonymous(reservation, 0, PAGE)
    assert code_of(reservation.close) == pmem2.PMEM2_E_VM_RESERVATION_NOT_EMPTY
    made.close()
    start = reservation.address
    reservation.close()
    reservation.close()
    assert mapped_bytes(start, start + 4 * PAGE) == 0
    assert reservation.closed
    assert repr(reservation) == "<VMReservation, closed>"


@pytest.mark.parametrize(
    "use",
    [
        lambda closed: closed.address,
        lambda closed: closed.size,
        lambda closed: closed.headroom,
        address_range_of,
        lambda closed: closed.extend(PAGE),
        lambda closed: closed.shrink(0, PAGE),
        lambda closed: closed.find(0, 0),
        lambda closed: closed.first(),
        lambda closed: closed.maps(),
        lambda closed: closed.__enter__(),
        lambda closed: Map.anonymous(closed, 0, PAGE),
    ],
)
def test_a_closed_reservation_is_refused(use: Callable[[VMReservation], object]) -> None:
    reservation = VMReservation(PAGE)
    reservation.close()
    with pytest.raises(UsageError, match="closed"):
        use(reservation)


def test_the_block_closes_the_maps_that_are_left() -> None:
    with VMReservation(4 * PAGE) as reservation:
        made = Map.anonymous(reservation, 0, PAGE)
    assert made.closed
    assert reservation.closed


def test_the_block_does_not_hide_its_own_error_behind_a_live_view() -> None:
    reservation = VMReservation(4 * PAGE)
    view = Map.anonymous(reservation, 0, PAGE).view
    with pytest.raises(KeyError), reservation:
        raise KeyError
    assert not reservation.closed
    with pytest.raises(BufferError), reservation:
        pass
    view.release()
    with reservation:
        pass
    assert reservation.closed


def test_a_dropped_reservation_gives_its_addresses_back() -> None:
    reservation = VMReservation(4 * PAGE, headroom=MiB)
    Map.anonymous(reservation, 0, PAGE)
    start, stop = address_range_of(reservation).start, address_range_of(reservation).end
    address_range = weakref.ref(address_range_of(reservation))
    del reservation
    gc.collect()
    assert address_range() is None
    assert mapped_bytes(start, stop) == 0


def test_a_view_outlives_the_reservation_it_lies_in() -> None:
    reservation = VMReservation(4 * PAGE)
    view = Map.anonymous(reservation, 0, PAGE).view
    part = view[100:200]
    start = reservation.address
    del reservation, view
    gc.collect()
    part[:3] = b"abc"
    assert bytes(part[:3]) == b"abc"
    del part
    gc.collect()
    assert mapped_bytes(start, start + 4 * PAGE) == 0


def test_whoever_holds_the_address_range_keeps_the_range() -> None:
    reservation = VMReservation(4 * PAGE)
    Map.anonymous(reservation, 0, PAGE)
    address_range = address_range_of(reservation)
    del reservation
    gc.collect()
    assert mapped_bytes(address_range.start, address_range.stop) == 4 * PAGE


def test_codes_have_their_names() -> None:
    names = [name for name in pmem2.__all__ if name.startswith("PMEM2_E_")]
    assert len({getattr(pmem2, name) for name in names}) == len(names) == 17
