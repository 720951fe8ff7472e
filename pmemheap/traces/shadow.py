"""Shadow: a trace under a plan, in a heap whose blocks nobody writes.

Units, fragmentation and what is given back are those of a real run, since the heap never looks into
blocks; the memory is that of the tables. Only a resize that moves a block copies it. No clock: the
first store to a page is part of what a block costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from pmemheap.heap.heap import Heap
from pmemheap.heap.shadowed import held_bytes, let_be_untouched
from pmemheap.layers.shadow import Sample
from pmemheap.traces.candidates import Plan
from pmemheap.traces.groups import Group, groups_of
from pmemheap.traces.program import Program, Run, program_of
from pmemheap.traces.trace import Trace

__all__ = ["shadow", "shadow_program"]


def shadow(
    trace: Trace, plan: Plan | None = None, groups: Sequence[Group] | None = None
) -> list[Sample]:
    """Tell what a trace would hold, at about a hundred moments and where most of it lives.

    Parameters
    ----------
    trace : Trace
        What to replay.
    plan : Plan, optional
        Under which strategies; the default if left out.
    groups : sequence of Group, optional
        Those of the trace, if they are known.

    Returns
    -------
    list of Sample
        Their events count the operations of the trace.

    Raises
    ------
    OutOfSpaceError
        No address space for what the trace holds.

    Examples
    --------
    >>> from pmemheap.traces import parse
    >>> trace = parse(["# two 2 60000", "a 0 20000", "a 1 40000"], "two")
    >>> [(each.event, each.live, each.held) for each in shadow(trace)]
    [(1, 20000, 20480), (2, 60000, 61440)]
    """
    found = groups_of(trace) if groups is None else groups
    return shadow_program(program_of(trace, plan or Plan(), found))


def shadow_program(program: Program) -> list[Sample]:
    """Tell what a program would hold."""
    with Heap.anonymous(decay=None) as heap:
        let_be_untouched(heap)
        return Run(program, heap).sampled(lambda: held_bytes(heap))
