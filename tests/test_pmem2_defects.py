"""The defects D1 to D21 of the reference, each by what shows it there: none is here."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from address_space import Stranger, free_range, mapped_bytes, permissions

from pmemheap import native, pmem2
from pmemheap.errors import Pmem2Error, UsageError
from pmemheap.native import Call
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.units import PAGE, GiB, KiB, MiB

TOP = 1 << 64
ENOMEM = -12


def code_of(call: Callable[[], object]) -> int:
    try:
        call()
    except Pmem2Error as error:
        return error.code
    return 0


def test_d01_size_zero_is_refused() -> None:
    assert code_of(lambda: VMReservation(0)) == pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE


@pytest.mark.parametrize("below", [PAGE, 2 * MiB, GiB - PAGE, GiB])
def test_d02_a_size_near_the_top_does_not_wrap(below: int) -> None:
    assert code_of(lambda: VMReservation(TOP - below)) == ENOMEM
    assert code_of(lambda: VMReservation(TOP - below, free_range(PAGE))) == ENOMEM


def test_d03_extend_cannot_shrink() -> None:
    with VMReservation(4 * MiB) as reservation:
        made = Map.anonymous(reservation, 4 * MiB - PAGE, PAGE)
        for below in (PAGE, 8 * KiB, 4 * MiB):
            refusal = code_of(lambda: reservation.extend(TOP - below))  # noqa: B023
            assert refusal == pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE
        assert (reservation.size, reservation.maps()) == (4 * MiB, [made])


def test_d04_offset_and_length_do_not_wrap_in_map() -> None:
    where = free_range(MiB)
    stranger = Stranger(where)
    with VMReservation(4 * PAGE, where + PAGE) as reservation:
        for offset, length in ((TOP - PAGE, PAGE), (TOP - PAGE, 2 * PAGE), (2 * PAGE, TOP - PAGE)):
            refusal = code_of(lambda: Map.anonymous(reservation, offset, length))  # noqa: B023
            assert refusal == pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE
    assert stranger.is_intact()
    stranger.leave()


@pytest.mark.parametrize("size", [4 * KiB, 6 * MiB, 2 * GiB])
def test_d05_close_gives_all_back(size: int) -> None:
    where = free_range(4 * GiB)
    for _ in range(64):
        reservation = VMReservation(size, where, headroom=GiB)
        reservation.shrink(0, PAGE) if size > PAGE else None
        reservation.close()
        assert mapped_bytes(where, where + 4 * GiB) == 0


def test_d06_small_shrinks_give_pages_back() -> None:
    where = free_range(MiB)
    with VMReservation(8 * PAGE, where) as reservation:
        reservation.shrink(7 * PAGE, PAGE)
        reservation.shrink(0, PAGE)
        assert permissions(where, where + 8 * PAGE) == ".------."


def test_d07_a_tail_shrink_gives_the_tail_back_and_it_can_return() -> None:
    with VMReservation(4 * GiB) as reservation:
        start = reservation.address
        reservation.shrink(2 * GiB, 2 * GiB)
        assert mapped_bytes(start, start + 4 * GiB) == 2 * GiB
        reservation.extend(2 * GiB)
        assert (reservation.address, reservation.size) == (start, 4 * GiB)


def test_d08_offset_and_size_do_not_wrap_in_shrink() -> None:
    with VMReservation(4 * PAGE) as reservation:
        for offset in (PAGE, 2 * PAGE):
            refusal = code_of(lambda: reservation.shrink(offset, TOP - offset))  # noqa: B023
            assert refusal == pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE


def test_d09_a_head_shrink_does_not_stop_growth() -> None:
    where = free_range(GiB)
    with VMReservation(4 * MiB, where) as reservation:
        reservation.shrink(0, 2 * MiB)
        for _ in range(3):
            reservation.extend(4 * KiB)
        reservation.extend(4 * MiB)
        assert reservation.size == 6 * MiB + 12 * KiB


def test_d10_a_head_shrink_leaves_strangers_alone() -> None:
    where = free_range(GiB) + MiB
    stranger = Stranger(where)
    with VMReservation(4 * MiB, where + PAGE) as reservation:
        for _ in range(3):
            reservation.shrink(0, PAGE)
            assert stranger.is_intact()
    stranger.leave()


def test_d11_new_needs_no_more_than_its_range() -> None:
    where = free_range(GiB)
    neighbours = [Stranger(where), Stranger(where + 2 * PAGE)]
    with VMReservation(PAGE, where + PAGE, headroom=MiB) as reservation:
        assert (reservation.size, reservation.headroom) == (PAGE, 0)
    for each in neighbours:
        assert each.is_intact()
        each.leave()


def test_d12_extend_needs_no_more_than_its_range() -> None:
    where = free_range(GiB)
    stranger = Stranger(where + 2 * PAGE)
    with VMReservation(PAGE, where) as reservation:
        reservation.extend(PAGE)
        assert reservation.size == 2 * PAGE
    assert stranger.is_intact()
    stranger.leave()


@pytest.mark.parametrize("call", [Call.MMAP, Call.MREMAP])
def test_d13_a_map_that_fails_leaves_no_hole(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    with VMReservation(4 * PAGE) as reservation, path.open("r+b") as file:
        start = reservation.address
        nth = {Call.MMAP: 1, Call.MREMAP: 2}[call] + 3  # behind the looks at the file
        with native.faults(nth, errno.ENODEV) as fault:
            refusal = code_of(lambda: Map.file(file.fileno(), reservation, PAGE, 0))
        assert fault.hit is call
        assert refusal == -errno.ENODEV
        assert permissions(start, start + 4 * PAGE) == "----"
        Map.file(file.fileno(), reservation, PAGE, 0)


def test_d13_a_file_without_mmap_leaves_no_hole() -> None:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.exists():
        path = Path("/sys/devices/system/cpu/online")
    with VMReservation(4 * PAGE) as reservation, path.open("rb") as file:
        start = reservation.address
        refusal = code_of(lambda: Map.file(file.fileno(), reservation, PAGE, PAGE, access="r"))
        assert refusal == -errno.ENODEV
        assert permissions(start, start + 4 * PAGE) == "----"


def race(rounds: int, prepare: Callable[[], list[Callable[[], int]]]) -> list[list[int]]:
    """Run what `prepare` makes at the same time, and return the codes of each round."""
    results = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(rounds):
            barrier = threading.Barrier(2)

            def start(call: Callable[[], int], barrier: threading.Barrier = barrier) -> int:
                barrier.wait()
                return call()

            results.append(list(pool.map(start, prepare())))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("end", ["tail", "head"])
def test_d14_a_shrink_and_a_map_cannot_both_have_a_range(end: str) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reservations = []

    def prepare() -> list[Callable[[], int]]:
        reservation = VMReservation(4 * PAGE)
        reservations.append(reservation)
        offset = 2 * PAGE if end == "tail" else 0
        return [
            lambda: code_of(lambda: reservation.shrink(offset, 2 * PAGE)),
            lambda: code_of(lambda: Map.anonymous(reservation, offset, 2 * PAGE)),
        ]

    try:
        results = race(500, prepare)
    finally:
        sys.setswitchinterval(interval)
    for (shrunk, mapped), reservation in zip(results, reservations, strict=True):
        if shrunk == 0:
            # After a shrink at the head, offset 0 is a new place, where the map may well be.
            expected = pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE if end == "tail" else 0
            assert mapped == expected
            assert reservation.size == 2 * PAGE
        else:
            assert (shrunk, mapped) == (pmem2.PMEM2_E_VM_RESERVATION_NOT_EMPTY, 0)
        reservation.check()
        with reservation:
            pass


@pytest.mark.slow
def test_d15_searches_beside_changes_find_what_is_there() -> None:
    with VMReservation(64 * PAGE) as reservation:
        fixed = [Map.anonymous(reservation, page * PAGE, PAGE) for page in (0, 63)]
        ends = time.monotonic() + 0.3

        def change() -> int:
            rounds = 0
            while time.monotonic() < ends:
                with Map.anonymous(reservation, (1 + rounds % 60) * PAGE, PAGE):
                    rounds += 1
            return rounds

        def search() -> int:
            rounds = 0
            while time.monotonic() < ends:
                assert reservation.first() is fixed[0]
                assert reservation.last() is fixed[1]
                assert reservation.find(0, 1) is fixed[0]
                assert reservation.prev(fixed[1]) is not fixed[1]
                rounds += 1
            return rounds

        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(work) for work in (change, search, search)]
            assert all(run.result() for run in runs)


@pytest.mark.slow
def test_d16_a_close_and_a_map_cannot_both_succeed() -> None:
    reservations = []

    def prepare() -> list[Callable[[], int]]:
        reservation = VMReservation(4 * PAGE)
        reservations.append(reservation)

        def place() -> int:
            try:
                return code_of(lambda: Map.anonymous(reservation, 0, PAGE))
            except UsageError:
                return 1

        return [lambda: code_of(reservation.close), place]

    for (closed, mapped), reservation in zip(race(200, prepare), reservations, strict=True):
        refused = (pmem2.PMEM2_E_VM_RESERVATION_NOT_EMPTY, 0)
        assert (closed, mapped) in {(0, 1), refused}
        with reservation if mapped == 0 else nullcontext():
            pass


def test_d17_what_is_mapped_is_never_overwritten_nor_reported_raw() -> None:
    with VMReservation(4 * PAGE) as reservation:
        made = Map.anonymous(reservation, PAGE, PAGE)
        made.view[0] = 7
        for offset, length in ((0, 2 * PAGE), (PAGE, PAGE), (PAGE, 2 * PAGE), (0, 4 * PAGE)):
            refusal = code_of(lambda: Map.anonymous(reservation, offset, length))  # noqa: B023
            assert refusal == pmem2.PMEM2_E_MAPPING_EXISTS
        assert code_of(lambda: VMReservation(PAGE, made.address)) == pmem2.PMEM2_E_MAPPING_EXISTS
        assert made.view[0] == 7


def test_d18_headroom_keeps_room_for_growth() -> None:
    reservations = [VMReservation(8 * MiB, headroom=16 * MiB) for _ in range(50)]
    for reservation in reservations:
        reservation.extend(16 * MiB)
        assert (reservation.size, reservation.headroom) == (24 * MiB, 0)
        reservation.close()


def test_d19_an_error_in_the_middle_leaves_nothing_locked() -> None:
    with VMReservation(4 * PAGE) as reservation:
        with native.faults(1, errno.ENOMEM):
            assert code_of(lambda: Map.anonymous(reservation, 0, PAGE)) == ENOMEM
        start = reservation.address
        assert permissions(start, start + 4 * PAGE) == "----"
        with ThreadPoolExecutor(1) as pool:
            pool.submit(Map.anonymous, reservation, 0, PAGE).result(timeout=5)


def test_d20_out_of_memory_is_enomem() -> None:
    with native.faults(1, errno.ENOMEM):
        assert code_of(lambda: VMReservation(PAGE)) == ENOMEM


def test_d21_a_search_does_not_wrap() -> None:
    with VMReservation(8 * PAGE) as reservation:
        high = Map.anonymous(reservation, 4 * PAGE, PAGE)
        assert reservation.find(0, TOP - 1) is high
        low = Map.anonymous(reservation, 0, PAGE)
        assert reservation.find(0, TOP - 1) is low
        assert code_of(lambda: reservation.find(TOP - PAGE, 2 * PAGE)) == (
            pmem2.PMEM2_E_MAPPING_NOT_FOUND
        )
