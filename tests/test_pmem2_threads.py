"""Threads that share a reservation, and threads with reservations side by side."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from address_space import free_range, permissions

from pmemheap import pmem2
from pmemheap.errors import Pmem2Error
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.units import PAGE

THREADS = 8
ROUNDS = 150

EXPECTED = {
    pmem2.PMEM2_E_MAPPING_EXISTS,
    pmem2.PMEM2_E_MAPPING_NOT_FOUND,
    pmem2.PMEM2_E_VM_RESERVATION_NOT_EMPTY,
    pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE,
    pmem2.PMEM2_E_OFFSET_OUT_OF_RANGE,
    pmem2.PMEM2_E_NOSUPP,
}


@pytest.fixture(autouse=True)
def _often_switched() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def together(work: Callable[[int], object]) -> list[object]:
    barrier = threading.Barrier(THREADS)

    def start(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(start, range(THREADS)))


def attempt(call: Callable[[], object]) -> int:
    try:
        call()
    except Pmem2Error as error:
        if error.code not in EXPECTED:
            raise
        return error.code
    return 0


@pytest.mark.slow
def test_maps_come_and_go_in_their_own_places() -> None:
    with VMReservation(THREADS * PAGE) as reservation:

        def work(number: int) -> None:
            for turn in range(ROUNDS):
                with Map.anonymous(reservation, number * PAGE, PAGE) as made, made.view as view:
                    assert view[0] == 0
                    view[0] = 1 + turn % 255
                    assert reservation.find(number * PAGE, 1) is made
                    assert view[0] == 1 + turn % 255

        together(work)
        assert reservation.maps() == []
        reservation.check()


@pytest.mark.slow
def test_one_place_goes_to_one_thread() -> None:
    with VMReservation(ROUNDS * PAGE) as reservation:

        def work(number: int) -> int:
            return sum(
                attempt(lambda: Map.anonymous(reservation, turn * PAGE, PAGE)) == 0  # noqa: B023
                for turn in range(ROUNDS)
            )

        assert sum(int(str(won)) for won in together(work)) == ROUNDS
        assert len(reservation.maps()) == ROUNDS


@pytest.mark.slow
def test_everything_at_once_stays_sound() -> None:
    with VMReservation(16 * PAGE, headroom=1024 * PAGE) as reservation:

        def work(number: int) -> int:
            choose = random.Random(number)

            def close() -> None:
                # Of two threads that find the same map, the second closes a closed one.
                choose.choice(reservation.maps() or [reservation.first()]).close()

            def grow() -> None:
                reservation.extend(PAGE)

            def shrink() -> None:
                offset = choose.choice([0, reservation.size - PAGE])
                reservation.shrink(offset, PAGE)

            def place() -> None:
                Map.anonymous(reservation, choose.randrange(16) * PAGE, PAGE)

            def look() -> None:
                reservation.find(choose.randrange(16) * PAGE, PAGE)

            actions = [close, grow, shrink, place, place, look]
            return sum(attempt(choose.choice(actions)) == 0 for _ in range(ROUNDS))

        assert all(together(work))
        reservation.check()


@pytest.mark.slow
def test_neighbours_take_headroom_from_each_other() -> None:
    stride = 64 * PAGE
    base = free_range(4 * THREADS * stride)

    def work(number: int) -> int:
        start, grown = base + number * stride, 0
        for _ in range(ROUNDS // 4):
            with VMReservation(PAGE, start, headroom=4 * stride) as reservation:
                assert reservation.address == start
                while grown < 63 and attempt(lambda: reservation.extend(PAGE)) == 0:
                    grown += 1
                reservation.check()
                assert reservation.size == (1 + grown) * PAGE
            grown = 0
        return 1

    together(work)
    assert set(permissions(base, base + THREADS * stride)) == {"."}


@pytest.mark.slow
def test_a_fork_beside_busy_threads_can_reserve() -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            VMReservation(PAGE, headroom=PAGE).close()

    busy = [threading.Thread(target=work) for _ in range(2)]
    for thread in busy:
        thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                VMReservation(PAGE).close()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    finally:
        stop.set()
        for thread in busy:
            thread.join()
