"""Program: the calls of a trace under a plan, and runs of them.

    trace     a 0 | a 1 | f 0 | f 1          both blocks of a group that gets a scratch region
    program   open, a 0 | a 1 | -   | drop

What a step needs is worked out before, so that the timed loop makes calls and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pmemheap.heap.heap import Heap
from pmemheap.layers.shadow import Sample
from pmemheap.traces.candidates import Plan, Strategy
from pmemheap.traces.groups import Group
from pmemheap.traces.timing import collector_paused
from pmemheap.traces.trace import ALLOCATE, FREE, RESIZE, Trace

__all__ = ["Program", "Run", "program_of"]

OPEN, DROP = 3, 4
_EVEN_SAMPLES = 100
_PEAK_SAMPLES = 8

Step = tuple[int, int, int, int]  # kind, slot of its allocator, block, size
Part = tuple[Group, Strategy]


class Program(NamedTuple):
    """The steps of a trace under a plan.

    Attributes
    ----------
    plan : Plan
        What it was made for.
    steps : tuple of Step
        Slot 0 is the heap, slot n the n-th part.
    parts : tuple of (Group, Strategy)
        Those of the plan.
    stops : dict of int to (int, int)
        Steps after which to look at memory: operations of the trace so far, and live bytes.
    blocks, operations : int
        Those of the trace.
    left : tuple of (int, int)
        Slot and ID of blocks to free in the end.
    """

    plan: Plan
    steps: tuple[Step, ...]
    parts: tuple[Part, ...]
    stops: dict[int, tuple[int, int]]
    blocks: int
    operations: int
    left: tuple[tuple[int, int], ...]


def program_of(trace: Trace, plan: Plan, groups: Sequence[Group]) -> Program:
    """Return the steps of a trace under a plan. O(operations)."""
    parts = tuple((each, plan.parts[each.name]) for each in groups if each.name in plan.parts)
    slots = _slots(trace, parts)
    by_batch = [False, *(strategy.by_batch for _, strategy in parts)]
    ends = _Batches(parts)
    steps: list[Step] = []
    stops: dict[int, tuple[int, int]] = {}
    wanted = _wanted(trace)
    for number, (kind, block, size) in enumerate(trace.operations):
        slot = slots[block]
        if by_batch[slot]:
            steps += ends.steps(kind, slot, block, size)
        else:
            steps.append((kind, slot, block, size))
        if number in wanted and steps:
            stops.setdefault(len(steps) - 1, (number + 1, wanted[number]))
    left = tuple((slots[each], each) for each in trace.live_at_end if not by_batch[slots[each]])
    return Program(plan, tuple(steps), parts, stops, trace.blocks, len(trace.operations), left)


def _slots(trace: Trace, parts: Sequence[Part]) -> list[int]:
    slots = [0] * trace.blocks
    for slot, (group, _) in enumerate(parts, 1):
        for block in group.blocks:
            slots[block] = slot
    return slots


class _Batches:
    """How many blocks of each batch are to be freed before it goes."""

    def __init__(self, parts: Sequence[Part]) -> None:
        batches = [
            batch for group, strategy in parts if strategy.by_batch for batch in group.batches
        ]
        self._first = {batch[0] for batch in batches}
        self._batch = {block: number for number, batch in enumerate(batches) for block in batch}
        self._left = [len(batch) for batch in batches]

    def steps(self, kind: int, slot: int, block: int, size: int) -> Iterator[Step]:
        """Yield what an operation becomes; frees of a batch but the last become nothing."""
        if kind != FREE:
            if kind == ALLOCATE and block in self._first:
                yield OPEN, slot, 0, 0
            yield kind, slot, block, size
            return
        self._left[self._batch[block]] -= 1
        if not self._left[self._batch[block]]:
            yield DROP, slot, 0, 0


def _wanted(trace: Trace) -> dict[int, int]:
    """Return the operations after which to look at memory, with the bytes that live then."""
    step = max(1, len(trace.operations) // _EVEN_SAMPLES)
    last = len(trace.operations) - 1
    sizes = [0] * trace.blocks
    wanted, live, peaks = {}, 0, 0
    for number, (_, block, size) in enumerate(trace.operations):
        live += size - sizes[block]
        sizes[block] = size
        at_peak = live == trace.peak_live_bytes and peaks < _PEAK_SAMPLES
        peaks += at_peak
        if at_peak or number % step == step - 1 or number == last:
            wanted[number] = live
    return wanted


class Run:
    """A heap on which a program is run, as often as wanted.

    Parameters
    ----------
    program : Program
        What to run.
    heap : Heap
        An empty one, which stays the caller's.
    """

    program: Program
    heap: Heap

    def __init__(self, program: Program, heap: Heap) -> None:
        self.program, self.heap = program, heap
        self._open: list[Any] = [heap]
        for group, strategy in program.parts:
            self._open.append(None if strategy.by_batch else strategy.opened(heap, group))
        self._handles: list[Any] = [None] * program.blocks

    # ------------------------------------------------------------ the clock

    def timed(self) -> float:
        """Return the processor seconds of one pass, the loop included: subtract `empty_pass`."""
        with collector_paused():
            began = time.thread_time()
            self._pass()
            seconds = time.thread_time() - began
        self._end()
        return seconds

    def _pass(self) -> None:
        handles, open_, opened = self._handles, self._open, self._opened
        mallocs = [each and each.malloc for each in open_]
        frees = [each and each.free for each in open_]
        reallocs: list[Any] = [getattr(each, "realloc", None) for each in open_]
        for kind, slot, block, size in self.program.steps:
            if kind == ALLOCATE:
                handles[block] = mallocs[slot](size)
            elif kind == FREE:
                frees[slot](handles[block])
            elif kind == RESIZE:
                handles[block] = reallocs[slot](handles[block], size)
            elif kind == OPEN:
                open_[slot] = made = opened(slot)
                mallocs[slot], reallocs[slot] = made.malloc, getattr(made, "realloc", None)
            else:
                open_[slot].drop()

    def empty_pass(self) -> float:
        """Return the processor seconds of the loop without its calls."""
        handles, open_ = [None] * self.program.blocks, self._open
        began = time.thread_time()
        for kind, slot, block, _ in self.program.steps:
            if kind == ALLOCATE:
                open_[slot]
                handles[block] = None
            elif kind == FREE:
                open_[slot]
                handles[block]
            elif kind == RESIZE:
                open_[slot]
                handles[block] = handles[block]
        return time.thread_time() - began

    # ------------------------------------------------------------ memory

    def sampled(
        self, held: Callable[[], int], touch: Callable[[int, int], object] | None = None
    ) -> list[Sample]:
        """Make one pass without a clock, and look at memory in between.

        Parameters
        ----------
        held : callable
            Returns the bytes to note.
        touch : callable, optional
            Called as ``touch(offset, size)`` for each block that is made, and each that is resized.

        Returns
        -------
        list of Sample
            Their events are operations of the trace.
        """
        samples = []
        for number, step in enumerate(self.program.steps):
            self._make(step, touch)
            if number in self.program.stops:
                samples.append(Sample(*self.program.stops[number], held()))
        self._end()
        return samples

    def _make(self, step: Step, touch: Callable[[int, int], object] | None) -> None:
        kind, slot, block, size = step
        if kind == OPEN:
            self._open[slot] = self._opened(slot)
        elif kind == DROP:
            self._open[slot].drop()
        elif kind == FREE:
            self._open[slot].free(self._handles[block])
        else:
            at = self._open[slot]
            old = self._handles[block]
            self._handles[block] = at.malloc(size) if kind == ALLOCATE else at.realloc(old, size)
            if touch is not None:
                touch(self._handles[block], size)

    # ------------------------------------------------------------ the parts

    def _opened(self, slot: int) -> Any:
        group, strategy = self.program.parts[slot - 1]
        return strategy.opened(self.heap, group)

    def _end(self) -> None:
        """Free what the program leaves."""
        for slot, block in self.program.left:
            self._open[slot].free(self._handles[block])
        for slot, (_, strategy) in enumerate(self.program.parts, 1):
            if strategy.by_batch and self._open[slot] is not None:
                self._open[slot].drop()
