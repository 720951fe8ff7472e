"""Recommending: which strategies a trace asks for, tried in shadow and then measured.

    groups ──► plans ──► all in shadow ──► the three that hold least, and the default
                                              │ touched memory by the kernel; the clock, in turns
                                              ▼
                                           the best of them, or: keep the default

The score is memory first, then time. Of the plans whose peak of touched memory is within 5 %, or
64 KiB, of the least, the quickest is the best. It is recommended if it gains 5 % over the default:
in memory; or in time, where memory is not what it costs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from pmemheap.heap.heap import Heap
from pmemheap.heap.shadowed import touched_bytes
from pmemheap.layers.shadow import Sample
from pmemheap.traces.candidates import Plan, plans_for
from pmemheap.traces.groups import Group, groups_of
from pmemheap.traces.program import Program, Run, program_of
from pmemheap.traces.shadow import shadow_program
from pmemheap.traces.trace import Trace
from pmemheap.units import KiB

__all__ = [
    "GAIN", "Measured", "Recommendation", "Shadowed", "best_of", "recommend", "touched_peak",
]  # fmt: skip

GAIN = 0.05
_SAME_BYTES = 64 * KiB
_MEASURED_MOST = 3
_FILLING = 0xA5

Watch = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Shadowed:
    """A plan in shadow.

    Attributes
    ----------
    plan : Plan
        Which.
    samples : list of Sample
        What it holds, over the operations of the trace.
    """

    plan: Plan
    samples: list[Sample]

    @property
    def peak_bytes(self) -> int:
        """The most that it holds."""
        return max((each.held for each in self.samples), default=0)


@dataclass(frozen=True)
class Measured:
    """A plan that was run.

    Attributes
    ----------
    plan : Plan
        Which.
    peak_bytes : int
        Greatest memory, every block written, as the kernel counts it, tables included.
    ns : float
        Nanoseconds of the processor an operation of the trace, net of the loop: the median of
        passes on a heap that has grown.
    """

    plan: Plan
    peak_bytes: int
    ns: float


@dataclass(frozen=True)
class Recommendation:
    """What `recommend` found.

    Attributes
    ----------
    trace : Trace
        For which.
    groups : list of Group
        Its blocks.
    shadowed : list of Shadowed
        All plans; the default first.
    measured : list of Measured
        Those that were run; the default first.
    best : Measured
        The best of them: the default, unless another one gains at least `GAIN`.
    """

    trace: Trace
    groups: list[Group]
    shadowed: list[Shadowed]
    measured: list[Measured]
    best: Measured

    @property
    def default(self) -> Measured:
        """The default, measured."""
        return self.measured[0]

    @property
    def keeps_default(self) -> bool:
        """Whether nothing gains enough."""
        return not self.best.plan.parts


def recommend(trace: Trace, passes: int = 5, watch: Watch = lambda *_: None) -> Recommendation:
    """Find the strategies that suit a trace.

    Parameters
    ----------
    trace : Trace
        With sites its blocks are told apart by the lines that made them.
    passes : int
        Timed passes of each plan that is measured, at least 1, beside one that grows the heap.
    watch : callable, optional
        Called as ``watch(what, done, total)`` before each step.

    Returns
    -------
    Recommendation

    Raises
    ------
    OutOfSpaceError
        No memory for what the trace holds.
    """
    watch("grouping", 0, 1)
    groups = groups_of(trace)
    programs = [program_of(trace, plan, groups) for plan in plans_for(groups)]
    to_measure = min(len(programs), _MEASURED_MOST + 1)
    total = len(programs) + to_measure + passes + 1
    shadowed = []
    for done, program in enumerate(programs):
        watch(f"in shadow: {program.plan.name}", done, total)
        shadowed.append(Shadowed(program.plan, shadow_program(program)))
    kept = _least(programs, shadowed)
    peaks = []
    for done, program in enumerate(kept, len(programs)):
        watch(f"memory: {program.plan.name}", done, total)
        peaks.append(touched_peak(program))
    times = _times(kept, passes, lambda done: watch("time", total - passes - 1 + done, total))
    rows = zip(kept, peaks, times, strict=True)
    measured = [Measured(program.plan, peak, ns) for program, peak, ns in rows]
    return Recommendation(trace, groups, shadowed, measured, best_of(measured))


def best_of(measured: Sequence[Measured]) -> Measured:
    """Return the best by the score, or the first one, the default, if nothing gains enough.

    Parameters
    ----------
    measured : sequence of Measured
        The default first.
    """
    default = measured[0]
    least = min(each.peak_bytes for each in measured)
    quickest = min((each for each in measured if _is_near(each, least)), key=lambda each: each.ns)
    if _is_near(default, least) and quickest.ns > (1 - GAIN) * default.ns:
        return default
    return quickest


def _is_near(one: Measured, least: int) -> bool:
    return one.peak_bytes <= max(least / (1 - GAIN), least + _SAME_BYTES)


def _least(programs: Sequence[Program], shadowed: Sequence[Shadowed]) -> list[Program]:
    """Return the default and those that hold least."""
    rest = sorted(range(1, len(programs)), key=lambda each: shadowed[each].peak_bytes)
    return [programs[each] for each in (0, *rest[:_MEASURED_MOST])]


def touched_peak(program: Program) -> int:
    """Run a program with every block written; return the greatest memory, tables included."""
    with Heap.anonymous() as heap:

        def touch(offset: int, size: int) -> None:
            ctypes.memset(heap.address(offset), _FILLING, size)

        samples = Run(program, heap).sampled(lambda: touched_bytes(heap), touch)
    return max((each.held for each in samples), default=0)


def _times(programs: Sequence[Program], passes: int, watch: Callable[[int], object]) -> list[float]:
    """Run programs in turns, each on a heap of its own; return nanoseconds an operation."""
    with ExitStack() as heaps:
        runs = [Run(each, heaps.enter_context(Heap.anonymous())) for each in programs]
        passes_of: list[list[float]] = [[] for _ in runs]
        loops_of: list[list[float]] = [[] for _ in runs]
        for number in range(passes + 1):
            watch(number)
            for run, seconds, loops in zip(runs, passes_of, loops_of, strict=True):
                loops.append(run.empty_pass())
                seconds.append(run.timed())
    return [
        (median(seconds[1:]) - min(loops)) / max(program.operations, 1) * 1e9
        for program, seconds, loops in zip(programs, passes_of, loops_of, strict=True)
    ]
