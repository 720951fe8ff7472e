"""What comes in between: signal handlers, finalizers, forks; and what the kernel takes long for."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from address_space import free_range, mapped_bytes, permissions

from pmemheap import native, pmem2
from pmemheap.errors import Pmem2Error, UsageError
from pmemheap.native import Call, FaultKind
from pmemheap.native.constants import CLOSED
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.pmem2.reservation import address_range_of
from pmemheap.units import PAGE, MiB

PAGES = 32


@contextmanager
def alarm(handler: Callable[[], object], seconds: float = 50e-6) -> Iterator[list[int]]:
    """Call `handler` again and again, as a signal handler; yields how often it has been called."""
    calls, is_over = [0], False

    def handle(*_: object) -> None:
        if is_over:  # a signal that came before the timer was stopped, seen after it was
            return
        calls[0] += 1
        handler()
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield calls
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Turns:
    """Maps, closes, grows and shrinks at random; knows which maps it has made and not closed."""

    def __init__(self, reservation: VMReservation, seed: int) -> None:
        self.reservation, self.random = reservation, random.Random(seed)
        self.open: list[Map] = []
        self.unexpected: list[BaseException] = []

    def turn(self) -> None:
        try:
            self.random.choice([self.place, self.place, self.close, self.search, self.resize])()
        except Pmem2Error:
            pass
        except Exception as error:
            self.unexpected.append(error)

    def place(self) -> None:
        offset = self.random.randrange(PAGES) * PAGE
        self.open.append(Map.anonymous(self.reservation, offset, PAGE))

    def close(self) -> None:
        if self.open:
            self.open.pop(self.random.randrange(len(self.open))).close()

    def search(self) -> None:
        for each in self.reservation.maps():
            with suppress(Pmem2Error):  # gone since, or the last
                self.reservation.next(each)

    def resize(self) -> None:
        self.reservation.extend(PAGE)
        self.reservation.shrink(self.reservation.size - PAGE, PAGE)


def check_together(reservation: VMReservation, *turns: Turns) -> None:
    """Every map that was made and not closed is listed, and nothing else is mapped."""
    assert [each.unexpected for each in turns] == [[] for _ in turns]
    expected = sorted((made for each in turns for made in each.open), key=lambda m: m.address)
    assert reservation.maps() == expected
    reservation.check()
    picture = permissions(reservation.address, reservation.address + PAGES * PAGE)
    shown = {(made.address - reservation.address) // PAGE for made in expected}
    assert picture == "".join("w" if page in shown else "-" for page in range(PAGES))


@pytest.mark.slow
def test_a_signal_handler_that_maps_and_closes_loses_no_map() -> None:
    with VMReservation(PAGES * PAGE, headroom=PAGES * PAGE) as reservation:
        main, handler = Turns(reservation, 1), Turns(reservation, 2)
        with alarm(handler.turn) as calls:
            while calls[0] < 1000:
                main.turn()
        check_together(reservation, main, handler)


@pytest.mark.slow
def test_an_interrupt_comes_before_a_call_or_after_it() -> None:
    class InterruptionError(Exception):
        pass

    def interrupt() -> None:
        raise InterruptionError

    with VMReservation(PAGES * PAGE) as reservation:
        for turn in range(300):
            with suppress(InterruptionError), alarm(interrupt, (1 + turn % 50) * 1e-6):
                with suppress(Pmem2Error):
                    Map.anonymous(reservation, turn % PAGES * PAGE, PAGE)
                for each in reservation.maps()[: turn % 3]:
                    each.close()
            signal.setitimer(signal.ITIMER_REAL, 0)
            reservation.check()
            start = reservation.address
            listed = {(made.address - start) // PAGE for made in reservation.maps()}
            picture = permissions(start, start + PAGES * PAGE)
            assert {page for page, letter in enumerate(picture) if letter == "w"} == listed


@pytest.mark.slow
def test_finalizers_that_map_and_close_lose_no_map() -> None:
    """From Python 3.12 on the collector runs between two steps; before, at any allocation."""

    class Litter:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            late.turn()

    threshold = gc.get_threshold()
    with VMReservation(PAGES * PAGE, headroom=PAGES * PAGE) as reservation:
        main, late = Turns(reservation, 3), Turns(reservation, 4)
        gc.set_threshold(3, 1, 1)
        try:
            for _ in range(2000):
                Litter()
                main.turn()
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
        check_together(reservation, main, late)
    assert gc.isenabled()


@pytest.mark.slow
def test_the_collector_of_others_is_left_alone() -> None:
    stop, seen = threading.Event(), set()

    def look() -> None:
        while not stop.is_set():
            seen.add(gc.isenabled())

    thread = threading.Thread(target=look)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(500):
            VMReservation(PAGE, headroom=PAGE).close()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert seen == {True}


# ---------------------------------------------------------------- forks


def in_child(work: Callable[[], object]) -> int:
    """Return how a forked child ends that does `work` within 20 seconds; 0 if all is well."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_a_child_can_use_every_reservation_whatever_threads_were_doing() -> None:
    stop = threading.Event()

    def busy(turns: Turns) -> None:
        while not stop.is_set():
            turns.turn()

    def work() -> None:
        for each in reservations:
            for made in each.maps():
                made.close()
            with Map.anonymous(each, 0, PAGE) as made, made.view as view:
                view[0] = 1
                assert each.find(0, 1) is made
            each.check()
            each.close()
        with VMReservation(PAGE, headroom=PAGE):
            pass

    reservations = [VMReservation(PAGES * PAGE, headroom=PAGES * PAGE) for _ in range(3)]
    threads = [
        threading.Thread(target=busy, args=[Turns(each, seed)])
        for seed, each in enumerate(reservations)
    ]
    for thread in threads:
        thread.start()
    try:
        assert [in_child(work) for _ in range(20)] == [0] * 20
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def touched(size: int) -> VMReservation:
    reservation = VMReservation(size)
    with Map.anonymous(reservation, 0, size, sharing="private").view as view:
        for at in range(0, size, PAGE):
            view[at] = 1
    return reservation


@pytest.mark.unsanitized
@pytest.mark.slow
def test_a_fork_in_the_middle_of_an_end_leaves_the_child_nothing() -> None:
    """The memory of a range that ends while its process forks goes in the child as well."""
    for delay in (0, 1e-4, 1e-3, 2e-3, 4e-3):
        holder = [touched(32 * MiB)]
        start, line = holder[0].address, weakref.ref(address_range_of(holder[0]))
        thread = threading.Thread(target=drop(holder.pop()))
        thread.start()
        time.sleep(delay)

        def work(start: int = start, line: Callable[[], object] = line) -> None:
            VMReservation(PAGE).close()
            assert line() is not None or mapped_bytes(start, start + 32 * MiB) < 32 * MiB

        code = in_child(work)
        thread.join()
        assert code == 0


@pytest.mark.slow
def test_a_map_half_closed_at_a_fork_can_be_closed_in_the_child() -> None:
    reservation = touched(64 * MiB)
    (made,) = reservation.maps()
    codes = []

    def work() -> None:
        with suppress(UsageError):
            made.view.release()
        made.close()
        assert reservation.maps() == []
        reservation.close()

    for _ in range(3):
        thread = threading.Thread(target=made.close)
        thread.start()
        codes.append(in_child(work))
        thread.join()
        made = Map.anonymous(reservation, 0, 64 * MiB, sharing="private")
        made.view[:] = b"x" * (64 * MiB)
    assert codes == [0] * 3


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("then", ["reserve", "close", "drop", "map"])
def test_a_range_that_could_not_be_given_back_is_later(then: str) -> None:
    where = free_range(64 * PAGE)
    other = VMReservation(4 * PAGE)
    dropped = VMReservation(8 * PAGE, where, headroom=8 * PAGE)
    Map.anonymous(dropped, 0, PAGE).view[0] = 1
    with native.faults(1, errno.ENOMEM, FaultKind.FROM) as fault:
        del dropped
        gc.collect()
    assert fault.hit is not Call.NONE
    assert mapped_bytes(where, where + 16 * PAGE) == 16 * PAGE
    match then:
        case "reserve":
            VMReservation(16 * PAGE, where).close()  # these very addresses
        case "close":
            other.close()
        case "drop":
            del other
        case "map":
            Map.anonymous(other, 0, PAGE)
    assert mapped_bytes(where, where + 16 * PAGE) == 0


def test_a_range_is_given_back_where_its_memory_cannot_be_dropped_first() -> None:
    where = free_range(8 * PAGE)
    dropped = VMReservation(8 * PAGE, where)
    with native.faults(1, errno.ENOMEM) as fault:
        del dropped
    assert fault.hit is Call.MMAP
    assert mapped_bytes(where, where + 8 * PAGE) == 0


SIZE = 64 * MiB


def drop(reservation: VMReservation) -> Callable[[], object]:
    """Return what lets the last reference to a reservation go, and to its map."""
    holder = [reservation]

    def let_go() -> None:
        holder.clear()
        gc.collect()

    return let_go


def close(reservation: VMReservation) -> Callable[[], object]:
    return reservation.first().close


def drop_the_last_view(reservation: VMReservation) -> Callable[[], object]:
    return reservation.first().view.release


@pytest.mark.slow
@pytest.mark.parametrize("ending", [drop, close, drop_the_last_view])
def test_other_threads_run_while_the_kernel_is_at_it(
    ending: Callable[[VMReservation], Callable[[], object]],
) -> None:
    """No thread gives the GIL up unasked: what the other one counts, it counts in the middle.

    Once or twice it had asked before. A busy machine may not let it count at the first try.
    """
    counts, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counts[0] += 1
            time.sleep(0)

    def counted() -> int:
        call = ending(touched(SIZE))
        gc.collect()
        sys.setswitchinterval(1000)
        before = counts[0]
        call()
        after = counts[0]
        sys.setswitchinterval(interval)
        return after - before

    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    thread.start()
    try:
        assert any(counted() > 10 for _ in range(20))
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


def test_a_closed_map_that_the_kernel_refused_is_as_it_was() -> None:
    with VMReservation(4 * PAGE) as reservation:
        made = Map.anonymous(reservation, 0, PAGE)
        made.view[0] = 7
        with native.faults(1, errno.ENOMEM), pytest.raises(Pmem2Error) as raised:
            made.close()
        assert raised.value.code == -errno.ENOMEM
        assert (made.closed, made.view[0], reservation.maps()) == (False, 7, [made])


def test_two_ends_of_one_map_are_one() -> None:
    with VMReservation(PAGE) as reservation:
        made = Map.anonymous(reservation, 0, PAGE)
        threads = [threading.Thread(target=made.close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made.closed
        assert reservation.maps() == []


def test_exporters_of_a_collected_reservation_keep_its_address_range() -> None:
    reservation = VMReservation(PAGE)
    line = address_range_of(reservation)
    view = Map.anonymous(reservation, 0, PAGE).view
    del reservation
    gc.collect()
    assert line.exporters == 1
    view[0] = 1
    del view
    gc.collect()
    assert line.exporters == 0


def test_a_closed_reservation_says_so_to_a_thread_that_was_too_late() -> None:
    reservation = VMReservation(PAGE)
    reservation.close()
    with pytest.raises(UsageError, match="closed"):
        reservation.extend(PAGE)
    code = reservation._places.extend(PAGE, 0)
    assert code == CLOSED
    assert code not in vars(pmem2).values()
