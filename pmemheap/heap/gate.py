"""Gate: how a thread has a heap as it is for a moment, beside others that commit.

    close, snapshot   nobody begins a transaction --> those that are open end --> work --> open
    check             nobody commits --> the commits under way end --> look --> open

A thread that meets a shut gate waits, and goes on when it opens: so a call that wants the heap for
itself waits for what was under way when it came, and for nothing that came later. C looks at a
number in the log, `LogCore.gate`; a thread that has to wait waits for the lock here.

Not more than one thread shuts the gate at a time. A thread that has it shut may shut it again.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from pmemheap.errors import UsageError
from pmemheap.native import LogCore

__all__ = ["PATIENCE", "Gate", "Shut", "named"]

PATIENCE = 5.0
"""Seconds for which a call waits until the transactions of other threads end."""

_PAUSE = 0.0005


class Shut(IntEnum):
    """Steps that a shut gate stops; C knows the same numbers."""

    OPEN = 0
    BEGIN = 1
    COMMIT = 2


class Gate:
    """The gate of one heap."""

    def __init__(self) -> None:
        self._log = LogCore()
        self._lock = threading.Lock()
        self._owner = 0
        self._shut = Shut.OPEN

    def lead_to(self, log: LogCore) -> None:
        """Keep what is shut shut in the log that the heap has from now on."""
        self._log = log
        log.gate(self._shut)

    @property
    def is_mine(self) -> bool:
        """Whether this thread has it shut."""
        return self._owner == threading.get_ident() and self._lock.locked()

    @contextmanager
    def shut(self, what: Shut) -> Iterator[None]:
        """Let nobody begin or commit a transaction while the block runs."""
        if self.is_mine:
            yield
            return
        with self._lock:
            try:  # it is shut inside of it, so that no interrupt can leave it so
                self._set(threading.get_ident(), what)
                yield
            finally:
                self._set(0, Shut.OPEN)

    def _set(self, owner: int, what: Shut) -> None:
        self._owner, self._shut = owner, what
        self._log.gate(what)

    def wait(self) -> None:
        """Wait until it is open.

        Raises
        ------
        UsageError
            This thread has it shut.
        """
        if self.is_mine:
            raise UsageError(
                "transaction: none expected to begin or commit in a thread that closes, copies or "
                "pauses the heap, found one"
            )
        with self._lock:  # an interrupt of the thread that had it may have left it shut
            self._set(0, Shut.OPEN)

    def let_commits_end(self) -> None:
        """Wait until no commit is under way; while the gate is shut."""
        while self._log.is_committing():
            time.sleep(_PAUSE)

    def let_transactions_end(self, seconds: float) -> None:
        """Wait until no transaction of another thread is open, so many seconds at most.

        What this thread has open, or a thread that has ended, nobody waits for.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            running = sys._current_frames().keys() - {threading.get_ident()}
            if running.isdisjoint(self._log.begun()) and not self._log.is_committing():
                return
            time.sleep(_PAUSE)


def named(threads: list[int]) -> str:
    """Name some threads, in words for errors."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return ", ".join(sorted(f"thread {names.get(one, one)!r}" for one in set(threads)))
