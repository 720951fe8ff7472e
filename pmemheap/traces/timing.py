"""Replays against the clock."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pmemheap.traces.trace import ALLOCATE, FREE, Trace

__all__ = ["Allocator", "Handle", "Timing", "collector_paused", "empty_replay", "measure", "replay"]

Handle = TypeVar("Handle")


class Allocator(Protocol[Handle]):
    """The target of a replay: a heap, or anything else that hands out handles."""

    def malloc(self, size: int, /) -> Handle:
        """Return the handle of a new block of `size` bytes."""
        ...

    def realloc(self, handle: Handle, size: int, /) -> Handle:
        """Resize a block and return its handle, which may have changed."""
        ...

    def free(self, handle: Handle, /) -> None:
        """Give a block back."""
        ...


@dataclass(frozen=True)
class Timing:
    """The times of the passes over one trace.

    Attributes
    ----------
    operations : int
        Operations in one pass.
    loop_seconds : float
        The quickest pass of the loop without calls.
    pass_seconds : tuple of float
        One entry a pass, the loop included. The first pass met the allocator as it was handed over;
        the later ones found the space of the earlier ones free.
    """

    operations: int
    loop_seconds: float
    pass_seconds: tuple[float, ...]

    def net_ns(self, seconds: float) -> float:
        """Return nanoseconds an operation of a pass that took `seconds`, net of the loop."""
        return (seconds - self.loop_seconds) / max(self.operations, 1) * 1e9

    @property
    def fresh_ns(self) -> float:
        """Nanoseconds an operation of the first pass, net of the loop."""
        return self.net_ns(self.pass_seconds[0])

    @property
    def warm_ns(self) -> float:
        """Nanoseconds an operation of the quickest later pass; NaN after a single pass."""
        return self.net_ns(min(self.pass_seconds[1:], default=math.nan))


def measure(trace: Trace, allocator: Allocator[Any], passes: int = 2) -> Timing:
    """Replay a trace several times on one allocator, and the empty loop as often.

    Parameters
    ----------
    trace : Trace
        What to replay.
    allocator : Allocator
        Handed over as it is: the first pass pays for its growth.
    passes : int
        At least 1; the second and later ones are warm.

    Returns
    -------
    Timing
    """
    loop_seconds = min(empty_replay(trace) for _ in range(max(passes, 3)))
    return Timing(
        len(trace.operations), loop_seconds, tuple(replay(trace, allocator) for _ in range(passes))
    )


def replay(trace: Trace, allocator: Allocator[Handle]) -> float:
    """Time one pass over a trace, then free what it left live (outside the clock).

    Parameters
    ----------
    trace : Trace
        What to replay.
    allocator : Allocator
        Its three bound methods are all that the loop calls. After an error of one of them the
        blocks of the pass stay allocated.

    Returns
    -------
    float
        Seconds, the loop included: subtract `empty_replay`.
    """
    handles: list[Any] = [None] * trace.blocks
    malloc, realloc, free = allocator.malloc, allocator.realloc, allocator.free
    with collector_paused():
        began = time.perf_counter()
        for kind, block, size in trace.operations:
            if kind == ALLOCATE:
                handles[block] = malloc(size)
            elif kind == FREE:
                free(handles[block])
            else:
                handles[block] = realloc(handles[block], size)
        seconds = time.perf_counter() - began
    for block in trace.live_at_end:
        free(handles[block])
    return seconds


def empty_replay(trace: Trace) -> float:
    """Time the loop of `replay` with its loads and stores, without its calls.

    Parameters
    ----------
    trace : Trace
        What not to replay.

    Returns
    -------
    float
        Seconds.
    """
    handles: list[Any] = [None] * trace.blocks
    with collector_paused():
        began = time.perf_counter()
        for kind, block, size in trace.operations:
            if kind == ALLOCATE:
                handles[block] = size
            elif kind == FREE:
                handles[block]
            else:
                handles[block] = handles[block]
        return time.perf_counter() - began


class collector_paused:  # noqa: N801 - a context manager, named as it reads after `with`
    """Keep the cyclic collector out of a timed loop, as `timeit` does."""

    def __enter__(self) -> None:
        """Switch it off."""
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        """Switch it on, if it was."""
        if self._was_enabled:
            gc.enable()
