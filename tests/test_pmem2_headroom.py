"""Headroom that gives way: to whom, by how much, and what a request that fails costs the others."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from address_space import Stranger, free_range, mapped_bytes, permissions

from pmemheap import native, pmem2
from pmemheap.errors import Pmem2Error
from pmemheap.native import Call
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.units import PAGE, GiB

ENOMEM = -errno.ENOMEM


def code_of(call: Callable[[], object]) -> int:
    try:
        call()
    except Pmem2Error as error:
        return error.code
    return 0


def calls_of(refused: Callable[[], object]) -> set[Call]:
    """Return the kinds of system calls that a call makes."""
    seen: set[Call] = set()
    for nth in range(1, 100):
        with native.faults(nth, errno.EINTR) as fault:  # is made again: nothing changes
            refused()
        if fault.hit is Call.NONE:
            return seen
        seen.add(fault.hit)
    raise AssertionError("fewer than 100 system calls expected")


# ---------------------------------------------------------------- what cannot be had


@contextmanager
def crowd(where: int) -> Iterator[list[VMReservation]]:
    """Three reservations with headroom, and somebody else's page behind the last one's."""
    stranger = Stranger(where + 90 * PAGE)
    with (
        VMReservation(16 * PAGE, where, headroom=16 * PAGE) as low,
        VMReservation(4 * PAGE, where + 40 * PAGE, headroom=4 * PAGE) as middle,
        VMReservation(4 * PAGE, where + 60 * PAGE, headroom=20 * PAGE) as high,
    ):
        yield [low, middle, high]
    assert stranger.is_intact()
    stranger.leave()


IMPOSSIBLE: dict[str, Callable[[int, list[VMReservation]], object]] = {
    "over somebody's page": lambda at, _: VMReservation(40 * PAGE, at + 64 * PAGE),
    "over a shown range": lambda at, _: VMReservation(30 * PAGE, at + 17 * PAGE),
    "over its own headroom and another": lambda _, those: those[0].extend(40 * PAGE),
    "over all to somebody's page": lambda _, those: those[2].extend(30 * PAGE),
    "2^50 bytes": lambda at, _: VMReservation(1 << 50),
    "2^50 bytes, aligned": lambda at, _: VMReservation(1 << 50, alignment=GiB),
    "2^63 bytes and headroom": lambda at, _: VMReservation(1 << 63, headroom=(1 << 64) - PAGE),
    "2^50 bytes more": lambda _, those: those[0].extend(1 << 50),
    "2^50 bytes at an address": lambda at, _: VMReservation(1 << 50, at + 20 * PAGE),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_request_costs_nobody_headroom_at_any_moment(name: str) -> None:
    where = free_range(GiB)
    with crowd(where) as reservations:
        before = [(each.size, each.headroom) for each in reservations]
        picture = permissions(where, where + 100 * PAGE)

        def refused() -> int:
            return code_of(lambda: IMPOSSIBLE[name](where, reservations))

        assert refused() in {pmem2.PMEM2_E_MAPPING_EXISTS, ENOMEM}
        assert [(each.size, each.headroom) for each in reservations] == before
        assert permissions(where, where + 100 * PAGE) == picture
        # What is only looked at, and reserved in gaps and let go again, is nobody's headroom.
        assert calls_of(refused) <= {Call.MMAP, Call.MUNMAP}


def test_an_impossible_request_unmaps_nothing_but_what_it_has_reserved_itself() -> None:
    where = free_range(GiB)
    with crowd(where) as (low, _, high):
        for refused in (
            lambda: VMReservation(1 << 50),
            lambda: VMReservation(30 * PAGE, where + 17 * PAGE),
            lambda: low.extend(40 * PAGE),
            lambda: high.extend(1 << 50),
        ):
            assert calls_of(lambda: code_of(refused)) == {Call.MMAP}  # noqa: B023


@pytest.mark.slow
def test_owners_never_see_another_size_than_theirs() -> None:
    where = free_range(GiB)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    stop, seen = threading.Event(), set()

    def ask() -> None:
        while not stop.is_set():
            code_of(lambda: VMReservation(80 * PAGE, where + 24 * PAGE))
            code_of(lambda: VMReservation(4 * PAGE, where + 24 * PAGE).close())

    try:
        with crowd(where) as (low, middle, high):
            thread = threading.Thread(target=ask)
            thread.start()
            for _ in range(5000):
                seen.add((low.size, middle.size, high.size, middle.headroom, high.headroom))
                refusal = code_of(lambda: Map.anonymous(low, 20 * PAGE, PAGE))
                assert refusal == pmem2.PMEM2_E_LENGTH_OUT_OF_RANGE
            stop.set()
            thread.join()
    finally:
        stop.set()
        sys.setswitchinterval(interval)
    assert seen == {(16 * PAGE, 4 * PAGE, 4 * PAGE, 4 * PAGE, 20 * PAGE)}


# ---------------------------------------------------------------- what can be had


def test_a_request_over_several_headrooms_and_gaps_is_met() -> None:
    where = free_range(GiB)
    with (
        VMReservation(PAGE, where, headroom=3 * PAGE) as low,
        VMReservation(PAGE, where + 10 * PAGE, headroom=9 * PAGE) as high,
    ):
        low.extend(6 * PAGE)  # its own headroom, and a gap
        assert (low.size, low.headroom) == (7 * PAGE, 0)
        with VMReservation(PAGE, where + 14 * PAGE, headroom=2 * PAGE) as new:
            assert (high.headroom, new.headroom) == (3 * PAGE, 2 * PAGE)
            assert permissions(where, where + 24 * PAGE) == "-" * 7 + "..." + "-" * 7 + "." * 7
        high.extend(5 * PAGE)  # what its headroom had behind the new one was given back
        assert high.size == 6 * PAGE


def test_a_gap_that_cannot_be_had_leaves_the_headrooms_around_it() -> None:
    where = free_range(GiB)
    with (
        VMReservation(PAGE, where, headroom=3 * PAGE) as low,
        VMReservation(PAGE, where + 20 * PAGE) as high,
    ):
        stranger = Stranger(where + 10 * PAGE)
        for refused in (
            lambda: VMReservation(10 * PAGE, where + 2 * PAGE),
            lambda: low.extend(12 * PAGE),
        ):
            assert code_of(refused) == pmem2.PMEM2_E_MAPPING_EXISTS
            assert (low.size, low.headroom, high.headroom) == (PAGE, 3 * PAGE, 0)
            picture = "-" * 4 + "." * 6 + "w" + "." * 9 + "-"
            assert permissions(where, where + 21 * PAGE) == picture
        assert stranger.is_intact()
        stranger.leave()


def take_from_the_only_headroom() -> None:
    where = free_range(GiB)
    with VMReservation(PAGE, where, headroom=8 * PAGE) as owner:
        with native.faults(1, errno.ENOMEM, native.FaultKind.FROM):
            new = VMReservation(2 * PAGE, alignment=4 * PAGE)
        assert new.address == where + 4 * PAGE
        assert (owner.size, owner.headroom, new.size) == (PAGE, 3 * PAGE, 2 * PAGE)
        assert new.headroom == 3 * PAGE  # what could not be given back at that moment
        new.close()
        owner.extend(8 * PAGE)


def test_any_address_may_be_one_in_a_headroom_when_there_are_no_others() -> None:
    """Refused memory stands for an address space that is full.

    In a process of its own: in this one a heap that waits for the collector may have more headroom.
    """
    call = "import test_pmem2_headroom as here; here.take_from_the_only_headroom()"
    subprocess.run([sys.executable, "-c", call], check=True, cwd=Path(__file__).parent)


# ---------------------------------------------------------------- under a limit


def run_limited(text: str, extra: int = GiB) -> None:
    """Run a program that may have `extra` bytes of address space more than it has at the start."""
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    start = f"""
        import errno, os, resource
        from pmemheap import native, pmem2
        from pmemheap.errors import Pmem2Error
        from pmemheap.native import Call, FaultKind
        from pmemheap.pmem2 import VMReservation, space
        from pmemheap.units import GiB, MiB
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + {extra}, used + {extra}))
        def refused(call):
            try:
                call()
            except Pmem2Error as error:
                return error.code
    """
    program = textwrap.dedent(start) + textwrap.dedent(text)
    path = os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path}
    )


def test_a_limit_takes_what_is_missing_from_the_largest_headroom() -> None:
    run_limited("""
        small = VMReservation(MiB, headroom=64 * MiB)
        large = VMReservation(MiB, headroom=512 * MiB)
        left = space.left()
        big = VMReservation(600 * MiB)
        assert small.headroom == 64 * MiB, small
        assert 0 <= large.headroom - (512 * MiB - (600 * MiB - left)) < MiB, (large, left)
        big.close()
        large.extend(512 * MiB)
    """)


def test_under_a_limit_what_cannot_be_had_costs_nothing() -> None:
    run_limited("""
        owners = [VMReservation(MiB, headroom=300 * MiB) for _ in range(2)]
        def shown():
            return [(each.size, each.headroom) for each in owners]
        before = shown()
        for call in (
            lambda: VMReservation(1 << 50),
            lambda: VMReservation(2 * GiB),
            lambda: VMReservation(GiB + MiB),
            lambda: owners[0].extend(GiB),
            lambda: VMReservation(GiB + MiB, 0x2000_0000_0000),
        ):
            assert refused(call) in {-errno.ENOMEM, pmem2.PMEM2_E_MAPPING_EXISTS}
            for nth in range(1, 60):
                with native.faults(nth, errno.EINTR) as fault:
                    refused(call)
                assert fault.hit in {Call.MMAP, Call.NONE}, fault
            assert shown() == before
    """)


def test_under_a_limit_headroom_comes_back_when_the_call_fails_after_all() -> None:
    run_limited("""
        at, tried = 0x2000_0000_0000, 0
        other = VMReservation(MiB, at)
        for call in (lambda: VMReservation(800 * MiB), lambda: other.extend(800 * MiB)):
            owner = VMReservation(MiB, headroom=700 * MiB)
            for nth in range(1, 40):
                with native.faults(nth, errno.EIO) as fault:
                    code = refused(call)
                if code is None:
                    break
                tried += 1
                assert (owner.size, owner.headroom) == (MiB, 700 * MiB), (nth, owner)
            assert owner.headroom < 700 * MiB
        assert tried > 3
    """)


def test_without_proc_under_a_limit_headroom_alone_must_do() -> None:
    run_limited("""
        owner = VMReservation(MiB, headroom=700 * MiB)
        space._used = lambda: None
        assert space.left() == 0
        assert refused(lambda: VMReservation(800 * MiB)) == -errno.ENOMEM
        assert owner.headroom == 700 * MiB
        big = VMReservation(600 * MiB)
        assert owner.headroom < 700 * MiB
    """)


def test_address_space_of_a_closed_reservation_is_all_given_back() -> None:
    where = free_range(GiB)
    with VMReservation(PAGE, where, headroom=8 * PAGE):
        VMReservation(PAGE, where + 3 * PAGE, headroom=64 * PAGE).close()
        assert mapped_bytes(where, where + GiB) == 3 * PAGE
