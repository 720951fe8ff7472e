"""Exiting: threads that go on while the interpreter ends.

    exit functions, last registered first   ...| ours: all is synced, files are closed | early ones
    other threads, which are daemons           | read on; end where they would change a heap

When the exit function of this package runs, threads that are no daemons have ended. What a daemon
changes from then on would leave the file in use, and an error would be printed, of a thread that
nobody waits for. So it ends there: by SystemExit, which lets go of all that it holds and which
`threading` does not print.
"""

from __future__ import annotations

import threading

__all__ = ["begin_exit", "is_exiting", "leave_at_exit"]

_exiting: set[int] = set()
"""The thread that runs the exit functions, once it does."""


def begin_exit() -> None:
    """Note that this thread runs the exit functions."""
    _exiting.add(threading.get_ident())


def is_exiting() -> bool:
    """Tell whether the exit function of this package has run, or does."""
    return bool(_exiting)


def leave_at_exit() -> None:
    """End this thread if the interpreter ends and another thread sees to it."""
    if _exiting and threading.get_ident() not in _exiting:
        raise SystemExit("pmemheap: the interpreter ends")
