"""Users: who has a heap file open. One writer, or readers; locks of the kernel say so.

The locks belong to the open file description: they go with its last descriptor or map, however the
process ends. A reader beside a living writer, as in shared memory, has one as well.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

from pmemheap import native
from pmemheap.errors import CorruptHeapError, DurabilityError, HeapBusyError
from pmemheap.file.headerfile import stored_word
from pmemheap.format import layout
from pmemheap.native import Lock, NativeError
from pmemheap.native.gate import ReaderGate
from pmemheap.native.rules import Rule, omitted

__all__ = [
    "LEASE",
    "become_follower",
    "become_reader",
    "become_writer",
    "has_followers",
    "has_readers",
    "has_writer",
    "holder",
    "is_running",
    "leave",
    "lets_readers_in",
    "look_beside_writer",
    "require_no_readers",
    "require_no_user",
    "require_no_writer",
    "require_sole_user",
    "require_writer",
]

T = TypeVar("T")

LEASE: float = 0.01
"""Seconds for which a writer edits in place after it has seen that nobody reads; 0: it looks before
each change, and no reader waits for that."""
_TICK = 0.004
"""Seconds between two steps of the clock that it looks at; 0.01 in some kernels."""
_BESIDE = {ReaderGate.MAY, ReaderGate.LATE, ReaderGate.WAIT, ReaderGate.SHUT}
_LOOKS_MOST = 100
_PAUSE = 0.002
_MOMENT = 0.1
_PROCESSES_END = 1 << 31


def become_writer(fd: int) -> bool:
    """Take the writer's lock; False if somebody has it."""
    return native.lock_byte(fd, layout.LOCK_WRITER, Lock.WRITE)


def become_reader(fd: int) -> None:
    """Take one of the readers' locks: to be done before the look for a writer."""
    native.lock_byte(fd, layout.LOCK_READER, Lock.READ)


def become_follower(fd: int) -> None:
    """Take a lock of those that read beside a writer, for the reader's lock that this one has."""
    native.lock_byte(fd, layout.LOCK_FOLLOWER, Lock.READ)
    native.lock_byte(fd, layout.LOCK_READER, Lock.NONE)


def follow(fd: int, name: str, timeout: float) -> bool:
    """Become a reader of the heap file `name`: one that follows if its writer lets readers in.

    Parameters
    ----------
    timeout : float
        Seconds for which a writer that does not is given time: it may be opening the heap, and who
        has a reader's lock keeps it from that.

    Returns
    -------
    bool
        Whether it follows.

    Raises
    ------
    HeapBusyError
        The writer edits in place all the time: a transaction stays open.
    """
    until = time.monotonic() + timeout
    while True:
        become_reader(fd)
        is_written = has_writer(fd)
        if is_written and lets_readers_in(fd):
            become_follower(fd)
            if _may_begin(fd, name, until):
                return True
            native.lock_byte(fd, layout.LOCK_FOLLOWER, Lock.NONE)
            continue
        if not is_written or time.monotonic() >= until:
            return False
        native.lock_byte(fd, layout.LOCK_READER, Lock.NONE)
        time.sleep(_PAUSE)


def _may_begin(fd: int, name: str, until: float) -> bool:
    """Wait until the writer copies what a follower may read; False if it has gone meanwhile.

    It finds the lock of the follower when its lease ends [Q9].
    """
    if stored_word(fd, "gate") in {ReaderGate.MAY, ReaderGate.LATE} or omitted(Rule.Q9):
        return True
    if LEASE:
        _wait_for_leases()
    while (gate := stored_word(fd, "gate")) == ReaderGate.SHUT and has_writer(fd):
        if time.monotonic() > until:
            raise HeapBusyError(
                f"heap file {name!r}: a transaction that ends expected, process {holder(fd)} has "
                "one open that edits in place what a reader would see",
                filename=name,
            )
        native.tape_wait()
        time.sleep(_PAUSE)
    return gate in _BESIDE - {ReaderGate.SHUT} and has_writer(fd)


def _wait_for_leases() -> None:
    """Wait for two leases of the writer's clock, which may stand still while both of us run."""
    end = native.late_clock() + 2 * LEASE
    while (left := end - native.late_clock()) > 0:
        time.sleep(max(left, _TICK / 4))
    time.sleep(_TICK)  # what a writer stored before it looked at the clock is there for all


def has_writer(fd: int) -> bool:
    """Tell whether somebody else has the heap open for writing."""
    return native.probe_lock(fd, layout.LOCK_WRITER, Lock.READ) != Lock.NONE


def has_readers(fd: int) -> bool:
    """Tell whether somebody else reads, beside a writer or not."""
    return native.find_lock(fd, layout.LOCK_READER, 2) is not None  # and the byte of followers


def has_followers(fd: int) -> bool:
    """Tell whether somebody else reads who has come beside a writer, and goes on with the next."""
    return _is_locked(fd, layout.LOCK_FOLLOWER)


def _is_locked(fd: int, place: int) -> bool:
    return native.probe_lock(fd, place, Lock.WRITE) != Lock.NONE


def holder(fd: int) -> int:
    """Return the process that has opened the heap for writing last."""
    return int.from_bytes(native.pread(fd, 4, layout.SHARED_WRITER_PID), "little")


def is_running(process: int) -> bool:
    """Tell whether there is a process of this number, as far as this one can see."""
    if not 0 < process < _PROCESSES_END:  # read in a file, which may be damaged
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


def lets_readers_in(fd: int) -> bool:
    """Tell whether the writer of a heap file says that others may read beside it.

    To be asked with a reader's lock: see `require_no_readers`.
    """
    return stored_word(fd, "gate") in _BESIDE


def require_writer(fd: int, name: str) -> None:
    """Become the writer of the heap file `name`, which others may be reading.

    Raises
    ------
    HeapBusyError
        Somebody else writes.
    """
    if not (become_writer(fd) or (_collect(fd) and become_writer(fd))):
        raise HeapBusyError(
            f"heap file {name!r}: no other writer expected, process {holder(fd)} has it open",
            filename=name,
        )


def require_no_readers(fd: int, name: str, gate: int, *, followers: bool = False) -> None:
    """Let nobody read beside the writer, which this descriptor is.

    Parameters
    ----------
    gate : int
        The word of the file that lets readers in, as it is: a killed writer may have left it so.
        Readers look at it when they have their lock, so it is shut before these are looked for.
    followers : bool
        Those may stay who came beside a writer before. Others get a moment: a follower has a
        reader's lock for as long as it takes to look for the writer.

    Raises
    ------
    HeapBusyError
        Somebody reads.
    """
    if gate:
        place = layout.SHARED_WORDS["gate"]
        native.pwrite(fd, bytes(place.stop - place.start), place.start)
    if has_readers(fd) and not (followers and _are_followers(fd)):
        _raise_read(name)


def _are_followers(fd: int) -> bool:
    """Tell whether those who read are all followers, a moment later at most."""
    until = time.monotonic() + _MOMENT
    while is_other := _is_locked(fd, layout.LOCK_READER):
        if time.monotonic() > until:
            break
        time.sleep(_PAUSE)
    return not is_other


def _collect(fd: int) -> bool:
    """Close heaps that nobody can reach any more, if it may be one of this process that writes."""
    is_ours = holder(fd) == os.getpid()
    if is_ours:
        gc.collect()
    return is_ours


def require_no_writer(fd: int, name: str) -> None:
    """Raise HeapBusyError if somebody writes to the heap file `name`."""
    if has_writer(fd) and not (_collect(fd) and not has_writer(fd)):
        raise HeapBusyError(
            f"heap file {name!r}: no writer expected, process {holder(fd)} has it open",
            filename=name,
        )


def require_no_user(fd: int, name: str) -> None:
    """Raise HeapBusyError if somebody writes to the heap file `name`, or reads it."""
    require_no_writer(fd, name)
    if has_readers(fd):
        _raise_read(name)


def require_sole_user(fd: int, name: str) -> None:
    """Keep the heap file `name` from being opened, also by readers, until `fd` is closed.

    Raises
    ------
    HeapBusyError
        Somebody else writes or reads.
    """
    require_writer(fd, name)
    require_no_readers(fd, name, stored_word(fd, "gate"))
    for place in (layout.LOCK_READER, layout.LOCK_FOLLOWER):
        if not native.lock_byte(fd, place, Lock.WRITE):
            _raise_read(name)


def _raise_read(name: str) -> NoReturn:
    raise HeapBusyError(
        f"heap file {name!r}: no reader expected, one or more have it open", filename=name
    )


def leave(fd: int) -> None:
    """Let the locks go, whichever there are."""
    for place in (layout.LOCK_WRITER, layout.LOCK_READER, layout.LOCK_FOLLOWER):
        with suppress(NativeError):
            native.lock_byte(fd, place, Lock.NONE)


def look_beside_writer(
    fd: int, name: str, look: Callable[[], T], is_sound: Callable[[T], bool]
) -> T:
    """Look at a heap that another process changes meanwhile, until nothing is wrong with it.

    What seems wrong while there is a writer may be half of a change. It is damage only when there
    is no writer, who could mend it.

    Parameters
    ----------
    look : callable
        Looks at the heap as it is in the file now, each time anew.
    is_sound : callable
        Tells whether nothing is wrong in what `look` returns.

    Raises
    ------
    HeapBusyError
        Something seemed wrong each time, and there is a writer; O(100 looks).
    CorruptHeapError
        As of `look`, when there is no writer.
    """
    seen = ""
    for _ in range(_LOOKS_MOST):
        is_still = not has_writer(fd)
        try:
            found = look()
        except (CorruptHeapError, DurabilityError) as error:
            if is_still:
                raise
            seen = str(error)
        else:
            if is_still or is_sound(found):
                return found
            seen = str(found)
        native.tape_wait()
        time.sleep(_PAUSE)
    raise HeapBusyError(
        f"{name}: a writer that rests for a moment expected, process {holder(fd)} changes the heap "
        f"all the time; the last look found: {seen}",
        filename=name,
    )
