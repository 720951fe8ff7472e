"""Layers: allocators over an allocator, which are put on a heap and taken off while it is in use.

with heap.install(Count()) as count:            ...or over any allocator: Count(upstream)
work(heap)
print(count.blocks, count.peak)

    Count      how many blocks and bytes, at most, in all
    Fail       allocations that are refused, to see what a program does then
    Fill       what is in a block when it is made, and when it is freed
    Guard      a sample of the blocks, between fences: who leaves one is caught
    Record     a trace of all that becomes of blocks, in a file
    Shadow     what the same calls would hold in another allocator; by Heap.shadow
    Track      which lines of a program have made the blocks that live
    Passing    nothing: to derive from
"""

from __future__ import annotations

from pmemheap.layers.count import Count
from pmemheap.layers.fail import Fail
from pmemheap.layers.fill import Fill
from pmemheap.layers.guard import Guard, GuardStats
from pmemheap.layers.passing import Passing
from pmemheap.layers.record import Record
from pmemheap.layers.shadow import Sample, Shadow
from pmemheap.layers.track import SiteBlocks, Track

__all__ = [
    "Count", "Fail", "Fill", "Guard", "GuardStats", "Passing", "Record", "Sample", "Shadow",
    "SiteBlocks", "Track",
]  # fmt: skip
