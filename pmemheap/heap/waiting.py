"""Waiting: a block of code has the heap as it is, once what others have begun has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pmemheap.heap import gate
from pmemheap.heap.gate import Shut
from pmemheap.heap.space import Space

__all__ = ["await_gate", "paused", "transactions_ended"]


@contextmanager
def transactions_ended(space: Space, seconds: float | None = None) -> Iterator[None]:
    """Run a block when the transactions of other threads have ended; none begins meanwhile."""
    shared = space.shared
    space.require_no_change()
    if shared.log.current() is not None:  # of this thread: the caller refuses
        yield
        return
    with shared.gate.shut(Shut.BEGIN):
        shared.gate.let_transactions_end(gate.PATIENCE if seconds is None else seconds)
        yield


@contextmanager
def paused(space: Space) -> Iterator[None]:
    """Run a block when the commits that are under way have ended; none begins meanwhile."""
    shut = space.shared.gate
    space.require_no_change()
    space.require_open()
    with shut.shut(Shut.COMMIT):
        shut.let_commits_end()
        space.require_open()
        yield


def await_gate(space: Space) -> None:
    """Wait until another thread has seen the heap as it is."""
    space.require_no_change()
    space.shared.gate.wait()
