"""Traces: the allocation calls of real programs, and what it costs to repeat them.

    # mutt 32783 652723            name, number of operations, greatest sum of live bytes
    a 0 16                         allocate 16 bytes; IDs count up from 0 in order of allocation
    a 1 364
    r 1 512                        resize block 1; it keeps its ID
    f 0                            free block 0; its ID never comes back

A trace is such a text, plain or gzip, or the file of a `pmemheap.Record`. A line may go on with
columns: `t=` microseconds since the trace began, `s=` file and line of the call (quoted as in a
URL), `T=` and `A=` the numbers of thread and arena. `load` checks all of it before anything is run:
an operation that is no use of an allocator, or a header that the operations do not bear out, is an
error with file and line. What is live after the last operation stays live: the caller of `replay`
frees it.

Three passes over a trace, never mixed:

    replay        malloc, realloc and free, and nothing else, against the clock
    empty_replay  the same loop without the calls: what `replay` is charged for the interpreter
    touch_replay  no clock: fills every block, and asks again and again how much memory that took

And what a trace says about its blocks: `groups_of` finds those that are made alike, `shadow` tells
what they would hold, `recommend` tries strategies.

Invariants of a `Trace`, which `load` establishes:
  1. block IDs are dense, and operations name only live ones;
  2. every size is at least 1;
  3. `peak_live_bytes` is the greatest sum of sizes live at once.

Memory is what the kernel counts: `MemoryMeter` adds up the proportional set size (Pss) of the
mappings of a process, so that metadata counts as well and reserved address space does not.
"""

from __future__ import annotations

from pmemheap.traces.frames import Event
from pmemheap.traces.groups import Group, groups_of
from pmemheap.traces.loading import load, read_events
from pmemheap.traces.recommending import Recommendation, recommend
from pmemheap.traces.shadow import shadow
from pmemheap.traces.timing import Allocator, Timing, empty_replay, measure, replay
from pmemheap.traces.touching import MemoryMeter, Touched, TouchReplay, touch_replay
from pmemheap.traces.trace import ALLOCATE, FREE, RESIZE, Operation, Origin, Trace, parse, save

__all__ = [
    "ALLOCATE",
    "FREE",
    "RESIZE",
    "Allocator",
    "Event",
    "Group",
    "MemoryMeter",
    "Operation",
    "Origin",
    "Recommendation",
    "Timing",
    "TouchReplay",
    "Touched",
    "Trace",
    "empty_replay",
    "groups_of",
    "load",
    "measure",
    "parse",
    "read_events",
    "recommend",
    "replay",
    "save",
    "shadow",
    "touch_replay",
]
