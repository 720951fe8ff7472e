"""pmemheap: heaps that grow in place, in memory or in a file, on virtual-memory reservations."""

import importlib.util
import platform
import sys

__version__ = "0.1.0"

if not sys.platform.startswith("linux") or platform.machine() not in {"x86_64", "aarch64"}:
    raise ImportError(
        "pmemheap: Linux on x86-64 or aarch64 expected, "
        f"{sys.platform} on {platform.machine()} found"
    )
if not all(importlib.util.find_spec(f"{__name__}._core.{door}") for door in ("_sys", "_hot")):
    raise ImportError("pmemheap: the C core is not built; in the source tree run: pip install -e .")

from pmemheap.errors import (
    CorruptHeapError,
    DamagedBlockError,
    DurabilityError,
    HeapBusyError,
    HeapExistsError,
    HeapFileError,
    HeapNotFoundError,
    HeapPermissionError,
    OutOfSpaceError,
    Pmem2Error,
    PmemHeapError,
    StrategyError,
    UsageError,
)
from pmemheap.heap.handles import Block
from pmemheap.heap.heap import Heap
from pmemheap.heap.insight import CheckReport, Explanation, HeapStats
from pmemheap.heap.keptregions import KeptRegion
from pmemheap.heap.opening import open_heap as open  # noqa: A004 -- pmemheap.open, as dbm.open
from pmemheap.heap.regions import Region
from pmemheap.heap.strategies import General, Placed, Ring, Rows
from pmemheap.layers import Count, Fail, Fill, Guard, Record, Track
from pmemheap.space.budget import Budget
from pmemheap.space.strategies import BestFit, Buddy, FirstFit, NextFit

__all__ = [
    "BestFit",
    "Block",
    "Buddy",
    "Budget",
    "CheckReport",
    "CorruptHeapError",
    "Count",
    "DamagedBlockError",
    "DurabilityError",
    "Explanation",
    "Fail",
    "Fill",
    "FirstFit",
    "General",
    "Guard",
    "Heap",
    "HeapBusyError",
    "HeapExistsError",
    "HeapFileError",
    "HeapNotFoundError",
    "HeapPermissionError",
    "HeapStats",
    "KeptRegion",
    "NextFit",
    "OutOfSpaceError",
    "Placed",
    "Pmem2Error",
    "PmemHeapError",
    "Record",
    "Region",
    "Ring",
    "Rows",
    "StrategyError",
    "Track",
    "UsageError",
    "__version__",
    "open",
]
