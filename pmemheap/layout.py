"""Layout: the format of a heap file, for tools that read one: places, slots, superblocks.

The package itself imports them from `pmemheap.format`, where they are.
"""

from __future__ import annotations

from pmemheap.format.layout import *  # noqa: F403 -- all that it names
from pmemheap.format.superblock import COUNTS_END, Superblock, newest_superblock

__all__ = ["COUNTS_END", "Superblock", "newest_superblock"]
