"""Replays that fill every block, and ask how much memory that took."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmemheap.traces.timing import Allocator, Handle
from pmemheap.traces.trace import ALLOCATE, FREE, Trace

__all__ = ["MemoryMeter", "TouchReplay", "Touched", "touch_replay"]

_EVEN_SAMPLES = 200
_PEAK_SAMPLES = 16  # A trace can stand at its peak thousands of times; a sample takes milliseconds.


@dataclass(frozen=True)
class Touched:
    """The result of `touch_replay`.

    Attributes
    ----------
    peak_bytes : int
        The greatest sample.
    sample_count : int
        Samples taken, those at the peak of live bytes included.
    """

    peak_bytes: int
    sample_count: int

    def utilisation(self, trace: Trace) -> float:
        """Return the peak of live payload as a share of the peak of touched memory."""
        return trace.peak_live_bytes / self.peak_bytes if self.peak_bytes else math.nan


def touch_replay(
    trace: Trace,
    allocator: Allocator[Handle],
    touch: Callable[[Handle, int], object],
    sample: Callable[[], int],
) -> Touched:
    """Replay a trace and use what it allocates, as `TouchReplay`; return what it touched."""
    return TouchReplay(trace).run(allocator, touch, sample)


class TouchReplay:
    """A pass over a trace that uses what it allocates, and samples the memory that takes.

    Not timed. Memory that was never written is no memory, and an allocator would look better for
    every block that its caller leaves alone. Samples are spread evenly over the operations; more
    are taken the first times that the live bytes stand at their peak, and after the last operation.

    To make one takes memory, to run it hardly any: who samples the whole process makes it before
    the zero of the measurement.

    Parameters
    ----------
    trace : Trace
        What to replay.
    handles : mutable sequence, optional
        Room for ``trace.blocks`` handles; an ``array`` of integers keeps them without an object
        each. A list unless given.
    """

    def __init__(self, trace: Trace, handles: MutableSequence[Any] | None = None) -> None:
        self._trace = trace
        self._handles: MutableSequence[Any] = [None] * trace.blocks if handles is None else handles
        self._stops = _sampling_points(trace)

    def run(
        self,
        allocator: Allocator[Handle],
        touch: Callable[[Handle, int], object],
        sample: Callable[[], int],
    ) -> Touched:
        """Make the pass; at the end the remaining blocks are freed.

        Parameters
        ----------
        allocator : Allocator
            As for `replay`.
        touch : callable
            Called as ``touch(handle, size)`` after every allocation and resize; writes every byte,
            or at least one byte of every page that the block reaches into.
        sample : callable
            Returns the touched bytes of now: `MemoryMeter.growth_bytes`, or what the heap says.

        Returns
        -------
        Touched
        """
        handles, stops = self._handles, self._stops
        peak_bytes = 0
        for number, (kind, block, size) in enumerate(self._trace.operations):
            if kind == FREE:
                allocator.free(handles[block])
            else:
                if kind == ALLOCATE:
                    handles[block] = allocator.malloc(size)
                else:
                    handles[block] = allocator.realloc(handles[block], size)
                touch(handles[block], size)
            if number in stops:
                peak_bytes = max(peak_bytes, sample())
        for block in self._trace.live_at_end:
            allocator.free(handles[block])
        return Touched(peak_bytes, len(stops))


def _sampling_points(trace: Trace) -> frozenset[int]:
    """Return the operations after which to sample."""
    last = len(trace.operations) - 1
    step = max(1, len(trace.operations) // _EVEN_SAMPLES)
    points = set(range(step - 1, last + 1, step)) | ({last} if last >= 0 else set())
    points.update(_peak_moments(trace))
    return frozenset(points)


def _peak_moments(trace: Trace) -> list[int]:
    sizes = [0] * trace.blocks
    live = 0
    moments: list[int] = []
    for number, (_, block, size) in enumerate(trace.operations):
        live += size - sizes[block]
        sizes[block] = size
        if live == trace.peak_live_bytes and len(moments) < _PEAK_SAMPLES:
            moments.append(number)
    return moments


class MemoryMeter:
    """How much more memory a process uses than when the meter was made, by the kernel's books.

    Adds up the Pss of all mappings, so it sees data, metadata and the interpreter's own objects,
    wherever they lie. Left out are stacks and the kernel's pages, and files that were mapped before
    (code and constants of libraries come in when first used, which is no allocation).

    Parameters
    ----------
    process : int or str
        A process ID, or ``"self"``. Measured from outside, a process is not charged for measuring.

    References
    ----------
    Linux, Documentation/filesystems/proc.rst, section 3.1: ``smaps``.
    """

    _LINE = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$|^Pss: +(\d+) kB$", re.M)

    def __init__(self, process: int | str = "self") -> None:
        self._smaps = Path("/proc") / str(process) / "smaps"
        self._ignored = {name for name, _ in self._mappings() if name.startswith(b"/")}
        self._before_bytes = self._sum_bytes()

    def growth_bytes(self) -> int:
        """Return the bytes used now beyond those of the beginning; can be negative."""
        return self._sum_bytes() - self._before_bytes

    def _sum_bytes(self) -> int:
        return sum(pss for name, pss in self._mappings() if self._counts(name))

    def _counts(self, name: bytes) -> bool:
        return name not in self._ignored and not name.startswith((b"[stack", b"[v"))

    def _mappings(self) -> Iterator[tuple[bytes, int]]:
        """Yield name and Pss in bytes of each mapping; anonymous ones have an empty name."""
        name = b""
        for match in self._LINE.finditer(self._smaps.read_bytes()):
            if match[2] is None:
                name = match[1]
            else:
                yield name, int(match[2]) * 1024
