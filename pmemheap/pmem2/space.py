"""Space: how much address space the process may still have, and who has a range of it.

    RLIMIT_AS     |#### in use ####|........ left ........|
                                   |quarter|                  what a heap takes at most as headroom

Who owns which range, and which headroom gives way to whom, is decided in the C core
(os/address_space.c), in one step that no other thread, signal handler or finalizer can see the
middle of. Only this is left to Python: under a limit on address space the core is told how much is
left, and has others give up what is missing, if they have as much.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable

from pmemheap.units import PAGE, align_down

__all__ = ["UNLIMITED", "affordable_headroom", "is_free", "left", "occupant", "with_what_is_left"]

UNLIMITED = (1 << 64) - 1
"""The rest where there is no limit."""

_ENOMEM = -errno.ENOMEM
_NOTHING = "nothing any more"
_USER_END = (1 << 47) - PAGE
"""Where addresses end that the kernel gives unasked."""


def _limit() -> int:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit


def _used() -> int | None:
    """Return the bytes of address space in use; None where /proc or a descriptor is missing."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(64).split()[0]) * PAGE
    except (OSError, ValueError, IndexError):
        return None


def left() -> int:
    """Return the bytes that the process may still take; 0 where that cannot be found out."""
    limit = _limit()
    if limit == UNLIMITED:
        return UNLIMITED
    used = _used()
    return 0 if used is None else align_down(max(0, limit - used), PAGE)


def affordable_headroom(held_now: Callable[[], int] = lambda: 0) -> int:
    """Return how much headroom an owner may take, with what it has of it, and leave room.

    All that an owner has is a quarter of what is left to the process, at most. The first call is
    given half of that, and each one that follows a quarter of the rest, so that there is something
    for the next. Where it cannot be found out what is left, half of the limit is taken for it.

    Parameters
    ----------
    held_now : callable
        Returns the bytes of headroom that the owner has; asked under a limit alone.

    Returns
    -------
    int
        Bytes; `UNLIMITED` without a limit on address space.
    """
    limit = _limit()
    if limit == UNLIMITED:
        return UNLIMITED
    used, held = _used(), held_now()
    rest = max(0, limit - (limit // 2 if used is None else used))
    return max(0, (rest + held) // 4 - held) // (4 if held else 2)


def with_what_is_left(code: int, attempt: Callable[[int], int]) -> int:
    """Return the code of the C core that an attempt ended with, made again if that may help.

    The first one was made with `UNLIMITED`: then no headroom gives way to a limit. If it lacked
    address space, and there is a limit, `attempt` is called with what is left.
    """
    if code == _ENOMEM and _limit() != UNLIMITED:
        return attempt(left())
    return code


def is_free(start: int, stop: int) -> bool:
    """Tell whether nothing is mapped in ``[start, stop)``, as far as can be found out."""
    return stop <= _USER_END and occupant(start, stop) == _NOTHING


def occupant(start: int, stop: int) -> str:
    """Name what is mapped first in ``[start, stop)``, for a message: a line of /proc/self/maps.

    Where that cannot be read, it is another mapping.
    """
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                first, last = (int(number, 16) for number in line.partition(" ")[0].split("-"))
                if first < stop and start < last:
                    name = line[73:].strip() or "anonymous memory"
                    return f"{name} at [{first:#x}, {last:#x})"
    except (OSError, ValueError):
        return "another mapping"
    return _NOTHING
