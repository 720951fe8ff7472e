"""Testing: crash a program that keeps its data in a file, at every point, and look at what is left.

`Recorder` records a program at work on a file; `check_states` makes every file that a signal or a
power failure could have left at any event of it, and has each opened and checked. It works for
heaps and for whatever else is written by stores to shared maps. See docs/crash-testing.md.

`AllocatorContract` has the tests of an allocator, which a class of yours inherits, `SpaceContract`
those of what chooses where in free space units lie.
`each_malloc_failing` runs a program with each of its allocations failing, one at a time.
`pairs` runs a writer and a reader in two processes, by turns.
"""

from pmemheap.testing.cells import LINE, SECTOR
from pmemheap.testing.contracts import AllocatorContract
from pmemheap.testing.copies import copy_as_crashed, restamp
from pmemheap.testing.driver import CheckOptions, check_states
from pmemheap.testing.failing import Outcome, each_malloc_failing
from pmemheap.testing.image import Image
from pmemheap.testing.kills import kill_at
from pmemheap.testing.pairs import PairsReport, Schedule, pairs, step
from pmemheap.testing.recorder import Crash, Kind, Note, Recorder, Recording
from pmemheap.testing.report import Failure, Report
from pmemheap.testing.spaces import SpaceContract
from pmemheap.testing.states import CrashStates, State

__all__ = [
    "LINE",
    "SECTOR",
    "AllocatorContract",
    "CheckOptions",
    "Crash",
    "CrashStates",
    "Failure",
    "Image",
    "Kind",
    "Note",
    "Outcome",
    "PairsReport",
    "Recorder",
    "Recording",
    "Report",
    "Schedule",
    "SpaceContract",
    "State",
    "check_states",
    "copy_as_crashed",
    "each_malloc_failing",
    "kill_at",
    "pairs",
    "restamp",
    "step",
]
