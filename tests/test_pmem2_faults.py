"""Each system call of each operation refused in turn: an error is raised, nothing has changed."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from address_space import free_range, permissions

from pmemheap import native, pmem2
from pmemheap.errors import DurabilityError, Pmem2Error
from pmemheap.native import Call
from pmemheap.pmem2 import Granularity, Map, VMReservation
from pmemheap.pmem2.row import file_row
from pmemheap.pmem2.source import FileSource, Options
from pmemheap.units import PAGE, MiB

PAGES = 32
NUMBERS = [errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EIO]
MOST_CALLS = 20


@dataclass
class World:
    """Two reservations and three maps in an arena of their own, and how all of it looks."""

    base: int
    fd: int
    low: VMReservation
    high: VMReservation

    def picture(self) -> tuple[object, ...]:
        return (
            permissions(self.base, self.base + PAGES * PAGE),
            [(each.address, each.size, each.headroom) for each in (self.low, self.high)],
            [(each.address, each.length, each.view[0]) for each in self.low.maps()],
        )

    def check(self) -> None:
        self.low.check()
        self.high.check()


@pytest.fixture
def world() -> Iterator[World]:
    base = free_range(PAGES * PAGE)
    fd = os.memfd_create("faults")
    os.ftruncate(fd, 4 * PAGE)
    low = VMReservation(8 * PAGE, base, headroom=4 * PAGE)
    high = VMReservation(8 * PAGE, base + 16 * PAGE)
    made = World(base, fd, low, high)
    Map.anonymous(low, PAGE, PAGE).view[0] = 7
    Map.anonymous(low, 4 * PAGE, PAGE, sharing="private").view[0] = 8
    Map.file(fd, low, 2 * PAGE, 2 * PAGE).view[0] = 9
    yield made
    with low, high:
        pass
    assert permissions(base, base + PAGES * PAGE) == "." * PAGES
    os.close(fd)


PIECES = [(0, PAGE), (2 * PAGE, 2 * PAGE)]


def row_in_place(world: World) -> list[Map]:
    """Map pieces of a file whose file system has granted such a map before."""
    source = FileSource(world.fd)
    source.accepted.add(native.map_flags(shared=True))
    return file_row(source, world.high, PAGE, PIECES, Options())


OPERATIONS: dict[str, Callable[[World], object]] = {
    "new": lambda w: VMReservation(2 * PAGE, w.base + 26 * PAGE),
    "new anywhere, aligned": lambda w: VMReservation(PAGE, alignment=MiB),
    "new with headroom": lambda w: VMReservation(PAGE, w.base + 26 * PAGE, headroom=2 * PAGE),
    "new into headroom": lambda w: VMReservation(PAGE, w.base + 10 * PAGE),
    "extend": lambda w: w.high.extend(2 * PAGE),
    "extend over headroom": lambda w: w.low.extend(6 * PAGE),
    "shrink head": lambda w: w.high.shrink(0, 2 * PAGE),
    "shrink tail": lambda w: w.high.shrink(6 * PAGE, 2 * PAGE),
    "anonymous": lambda w: Map.anonymous(w.high, 0, 2 * PAGE),
    "anonymous private": lambda w: Map.anonymous(w.high, 0, 2 * PAGE, sharing="private"),
    "file": lambda w: Map.file(w.fd, w.high, 0, 0),
    "file too coarse": lambda w: Map.file(w.fd, w.high, 0, 0, granularity=Granularity.BYTE),
    "file row": lambda w: file_row(FileSource(w.fd), w.high, PAGE, PIECES, Options()),
    "file row in place": row_in_place,
    "file row by page": lambda w: file_row(
        FileSource(w.fd), w.high, PAGE, PIECES, Options(by_page=True)
    ),
    "unmap": lambda w: w.low.first().close(),
    "unmap file": lambda w: w.low.find(2 * PAGE, 0).close(),
    "persist": lambda w: w.low.find(2 * PAGE, 0).persist(),
}

# Where headroom cannot be had, what is too much is not taken back, or advice is refused, the call
# goes on; ENOMEM is answered by others' headroom, or by a way that needs less address space.
GOES_ON = {"new with headroom", "new anywhere, aligned", "new into headroom", "file row by page"}
# The other code that a refusal may lead to: headroom in the way of an owner that was not asked.
ALSO = {"new into headroom": pmem2.PMEM2_E_MAPPING_EXISTS}


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_refused_call_changes_nothing(world: World, name: str, number: int) -> None:
    without_fault = OPERATIONS_THAT_FAIL.get(name, 0)
    before = world.picture()
    refusals = 0
    for nth in range(1, MOST_CALLS):
        with native.faults(nth, number) as fault:
            outcome, kept = attempt(OPERATIONS[name], world)
        gc.collect()
        world.check()
        if fault.hit is Call.NONE or outcome == without_fault:
            break
        assert outcome in {-number, ALSO.get(name)}
        assert world.picture() == before, (nth, fault)
        refusals += 1
    else:
        pytest.fail(f"{name}: fewer than {MOST_CALLS} system calls expected")
    if fault.hit is Call.NONE:
        assert outcome == without_fault
    else:
        assert name in GOES_ON or number == errno.ENOMEM
    assert refusals or name in GOES_ON or number == errno.ENOMEM
    del kept


OPERATIONS_THAT_FAIL = {"file too coarse": pmem2.PMEM2_E_GRANULARITY_NOT_SUPPORTED}


def attempt(operation: Callable[[World], object], world: World) -> tuple[int, object]:
    """Return the code, 0 for success, and what is to be kept until the fault is disarmed."""
    try:
        return 0, operation(world)
    except Pmem2Error as error:
        return error.code, None
    except DurabilityError as error:
        return -(error.errno or 0), None


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_a_refused_close_leaves_the_reservation(number: int) -> None:
    base = free_range(PAGES * PAGE)
    reservation = VMReservation(4 * PAGE, base, headroom=2 * PAGE)
    with native.faults(1, number) as fault, pytest.raises(Pmem2Error) as raised:
        reservation.close()
    assert (fault.hit, raised.value.code) == (Call.MUNMAP, -number)
    assert not reservation.closed
    Map.anonymous(reservation, 0, PAGE).close()
    reservation.close()
    assert permissions(base, base + 6 * PAGE) == "......"


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupted_call_is_made_again(world: World, name: str) -> None:
    with native.faults(1, errno.EINTR) as fault:
        outcome, kept = attempt(OPERATIONS[name], world)
    assert fault.hit is not Call.NONE
    assert outcome == OPERATIONS_THAT_FAIL.get(name, 0)
    world.check()
    del kept


def test_a_map_falls_back_to_its_own_range_when_there_is_no_other(world: World) -> None:
    """Address space for a second copy may be short: then the range itself is mapped over."""
    calls = native.system_calls()
    Map.file(world.fd, world.high, 0, 0).close()
    usual = native.system_calls() - calls
    made = None
    for nth in range(1, usual):
        with native.faults(nth, errno.ENOMEM) as fault:
            try:
                made = Map.file(world.fd, world.high, 0, 0)
            except Pmem2Error:
                continue
        assert fault.hit is Call.MMAP
        break
    assert made is not None
    made.view[0] = 3
    assert os.pread(world.fd, 1, 0) == b"\3"
