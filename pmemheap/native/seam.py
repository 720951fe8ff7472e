"""The seam of system calls, for tests: calls that are refused, and rules that are left out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from pmemheap._core import _hot
from pmemheap._core._sys import lib
from pmemheap.dataclass import dataclass
from pmemheap.errors import UsageError
from pmemheap.native.failures import check

__all__ = [
    "IS_CHECKED",
    "Call",
    "Fault",
    "FaultKind",
    "faults",
    "omit_rules",
    "resolutions",
    "system_calls",
]


class FaultKind(IntEnum):
    """How an armed system call fails: once, by a short transfer, or from then on."""

    ERROR = lib.PH_FAULT_ERROR
    SHORT = lib.PH_FAULT_SHORT
    FROM = lib.PH_FAULT_FROM


class Call(IntEnum):
    """A system call, as the seam names it."""

    NONE = lib.PH_CALL_NONE
    MMAP = lib.PH_CALL_MMAP
    MUNMAP = lib.PH_CALL_MUNMAP
    MREMAP = lib.PH_CALL_MREMAP
    MPROTECT = lib.PH_CALL_MPROTECT
    MADVISE = lib.PH_CALL_MADVISE
    MSYNC = lib.PH_CALL_MSYNC
    FALLOCATE = lib.PH_CALL_FALLOCATE
    FTRUNCATE = lib.PH_CALL_FTRUNCATE
    FSTAT = lib.PH_CALL_FSTAT
    STATX = lib.PH_CALL_STATX
    FSTATFS = lib.PH_CALL_FSTATFS
    PREAD = lib.PH_CALL_PREAD
    PWRITE = lib.PH_CALL_PWRITE
    FSYNC = lib.PH_CALL_FSYNC
    FDATASYNC = lib.PH_CALL_FDATASYNC
    FCNTL = lib.PH_CALL_FCNTL
    MEMFD = lib.PH_CALL_MEMFD
    CACHESTAT = lib.PH_CALL_CACHESTAT
    MINCORE = lib.PH_CALL_MINCORE
    PAGEMAP = lib.PH_CALL_PAGEMAP


@dataclass()
class Fault:
    """The outcome of an armed fault: `hit` is the call that was refused or cut short, if any."""

    hit: Call = Call.NONE


@contextmanager
def faults(nth: int, number: int = 0, kind: FaultKind = FaultKind.ERROR) -> Iterator[Fault]:
    """Let the `nth` system call of the block fail with errno `number`; for tests.

    Parameters
    ----------
    nth : int
        1 is the next call, in whichever thread.
    number : int
        Positive; not looked at for `FaultKind.SHORT`.
    kind : FaultKind
        ``SHORT`` waits for the first transfer that is the `nth` call or a later one.

    Yields
    ------
    Fault
        Its `hit` is set when the block ends.

    Notes
    -----
    The collector waits until the block ends: what it frees makes system calls of its own, and one
    of these would be refused instead.
    """
    fault = Fault()
    collects = gc.isenabled()
    gc.disable()
    try:
        check(lib.ph_fault_arm(nth, number, kind), "faults")
        yield fault
    finally:
        fault.hit = Call(lib.ph_fault_disarm())
        if collects:
            gc.enable()


IS_CHECKED = hasattr(_hot, "omit")
"""Whether the core asserts, and can leave rules out: it was built with PMEMHEAP_CHECKED=1."""


def omit_rules(rules: int) -> None:
    """Leave the rules of the log out whose bits are set; see `rules.omitting`.

    Raises
    ------
    UsageError
        The core is not checked.
    """
    if not IS_CHECKED:
        raise UsageError("rules: a core that was built with PMEMHEAP_CHECKED=1 expected")
    _hot.omit(rules)


def resolutions() -> int:
    """Return how often a checked core has resolved an offset to its block."""
    return _hot.resolutions()


def system_calls() -> int:
    """Return the number of system calls made or refused so far, by all threads."""
    return int(lib.ph_faults_state().calls)
