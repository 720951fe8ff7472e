"""Layers: allocators over an allocator, which are put on a heap and taken off while it is in use.

with heap.install(Count()) as count:            ...or over any allocator: Count(upstream)
work(heap)
print(count.blocks, count.peak)
"""

from __future__ import annotations

from pmemheap.layers.count import Count
from pmemheap.layers.passing import Passing

__all__ = ["Count", "Passing"]
