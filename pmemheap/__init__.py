"""pmemheap: heaps that grow in place, in memory or in a file, on virtual-memory reservations.

Begin with a heap, a block in it, and a view of the block, which stays where it is:

>>> import pmemheap
>>> with pmemheap.Heap.anonymous() as heap:     # in a file: pmemheap.open("data.heap", "c")
...     offset = heap.malloc(100)               # a number: the block is called by it
...     view = heap.view(offset, 5)             # the heap's own bytes, not a copy
...     view[:] = b"hello"
...     large = heap.malloc(1 << 30)            # the heap grows; nothing moves
...     bytes(view)
...     del view
...     heap.free(offset)
b'hello'

What is where; `help` of each says more:

    Heap, open            a heap: anonymous, shared, create, open, attach; malloc, free, view,
                          ndarray, dump, roots, transaction, arena, scratch, install, stats, check
    Block                 a handle of a block, by heap.alloc(size)
    Snapshot, Reader      a heap as of one commit, by heap.read(); who has one, by heap.readers()
    Held                  a limit for what snapshots hold back, by heap.held
    SharedArray           bytes of a heap on their way to other processes, by heap.share(array)
    Transaction           changes that a crash leaves whole or not at all, by heap.transaction()
    Arena, Region         blocks that are dropped together, by heap.arena(name), heap.scratch()
    General, Ring, Rows, Placed              strategies: where the blocks of an arena come from
    FirstFit, NextFit, BestFit, Buddy        where in free space the units of a heap lie
    Count, Fail, Fill, Guard, Record, Track  layers, put on a heap by heap.install(layer)
    Budget                a limit for several heaps together
    PmemHeapError         the base of all errors; pmemheap.errors has their tree

    pmemheap.containers   an ordered map, an array that grows, arrays by name, in a heap
    pmemheap.kvstore      a store of keys and values in a file, as dbm has it
    pmemheap.layers       the layers, and what yours derives from;  pmemheap.protocols
    pmemheap.repair       a damaged file mended;  pmemheap.salvage  what can be read of one
    pmemheap.testing      what a crash can leave of a program, and contracts of allocators
    pmemheap.traces       allocation traces: load, replay, recommend
    pmemheap.pictures     what is where in a heap;  pmemheap.metrics  figures, for Prometheus
    pmemheap.pmem2        libpmem2's reservations
    pmemheap.layout       the format of a heap file;  pmemheap.units  KiB, MiB, align_up
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC_MODULES = (
    "containers", "errors", "kvstore", "layers", "layout", "metrics", "pictures", "pmem2",
    "progress", "protocols", "repair", "salvage", "testing", "traces", "units",
)  # fmt: skip

_NAMES = {
    "errors": """
        CorruptHeapError DamagedBlockError DurabilityError HeapBusyError HeapExistsError
        HeapFileError HeapNotFoundError HeapPermissionError OutOfSpaceError Pmem2Error
        PmemHeapError SnapshotGoneError StrategyError UsageError
    """,
    "heap.arena": "Arena",
    "heap.arguments": "AnyPath DurabilityName OpenFlag",
    "heap.handles": "Block",
    "heap.heap": "Heap",
    "heap.holding": "Held Reader",
    "heap.insight": "CheckReport ClassStats Explanation HeapStats",
    "heap.keptregions": "KeptRegion",
    "heap.layered": "Installation",
    "heap.opening": "open",
    "heap.regions": "Mark Region",
    "heap.ring": "RingArena RingStats",
    "heap.roots": "Roots",
    "heap.rows": "RowsArena",
    "heap.sharing": "SharedArray",
    "heap.snapshots": "Snapshot",
    "heap.strategies": "General Placed Ring Rows Strategy",
    "heap.transaction": "Savepoint Transaction",
    "heap.transactionroots": "TransactionRoots",
    "layers": "Count Fail Fill Guard GuardStats Passing Record Sample Shadow SiteBlocks Track",
    "protocols": "Allocator Layer Space",
    "space.budget": "Budget BudgetReport Share",
    "space.strategies": "BestFit Buddy FirstFit NextFit",
}
"""By module what is public here; a module is imported when one of its names is first used."""

_PLACES = {name: module for module, names in _NAMES.items() for name in names.split()}


_TREE = os.path.dirname(os.path.dirname(__file__))


def _is_tree() -> bool:
    """Return whether this package lies among the sources that it is built of."""
    return os.path.exists(f"{_TREE}/setup.py")


def _refusal(error: Exception) -> ImportError:
    """Return what to do about a C core that is missing or does not fit the modules, in a line."""
    from importlib.util import find_spec  # noqa: PLC0415 -- slow to import

    is_there = all(find_spec(f"pmemheap._core.{door}") for door in ("_hot", "_sys"))
    found = f"another one ({error})" if is_there else "none"
    todo = "pip install --force-reinstall pmemheap"
    if _is_tree():
        todo = f"pip install {_TREE}, or, where pmemheap is installed, start Python elsewhere"
    return ImportError(
        f"pmemheap: a C core of these sources expected in {_TREE}/pmemheap/_core, "
        f"{found} found; run: {todo}"
    )


def _require_same_sources() -> None:
    """Refuse a core that is older than the sources that it lies among, and not built of them."""
    sources = importlib.import_module("pmemheap._core.sources")
    core = importlib.import_module("pmemheap._core._hot")
    sources.require_built_of(sources.c_sources(), str(core.__file__), core.SOURCES)


if not sys.platform.startswith("linux") or os.uname().machine not in {"x86_64", "aarch64"}:
    raise ImportError(
        "pmemheap: Linux on x86-64 or aarch64 expected, "
        f"{sys.platform} on {os.uname().machine} found"
    )
try:
    importlib.import_module("pmemheap.native")
    if _is_tree():
        _require_same_sources()
except (ImportError, AttributeError) as _error:
    if "_core" not in str(_error):
        raise
    raise _refusal(_error) from None

if TYPE_CHECKING:
    from pmemheap import (
        containers as containers,
    )
    from pmemheap import (
        errors as errors,
    )
    from pmemheap import (
        kvstore as kvstore,
    )
    from pmemheap import (
        layers as layers,
    )
    from pmemheap import (
        layout as layout,
    )
    from pmemheap import (
        metrics as metrics,
    )
    from pmemheap import (
        pictures as pictures,
    )
    from pmemheap import (
        pmem2 as pmem2,
    )
    from pmemheap import (
        progress as progress,
    )
    from pmemheap import (
        protocols as protocols,
    )
    from pmemheap import (
        repair as repair,
    )
    from pmemheap import (
        salvage as salvage,
    )
    from pmemheap import (
        testing as testing,
    )
    from pmemheap import (
        traces as traces,
    )
    from pmemheap import (
        units as units,
    )
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
        SnapshotGoneError,
        StrategyError,
        UsageError,
    )
    from pmemheap.heap.arena import Arena
    from pmemheap.heap.arguments import AnyPath, DurabilityName, OpenFlag
    from pmemheap.heap.handles import Block
    from pmemheap.heap.heap import Heap
    from pmemheap.heap.holding import Held, Reader
    from pmemheap.heap.insight import CheckReport, ClassStats, Explanation, HeapStats
    from pmemheap.heap.keptregions import KeptRegion
    from pmemheap.heap.layered import Installation
    from pmemheap.heap.opening import open as open  # noqa: A004 -- as dbm.open
    from pmemheap.heap.regions import Mark, Region
    from pmemheap.heap.ring import RingArena, RingStats
    from pmemheap.heap.roots import Roots
    from pmemheap.heap.rows import RowsArena
    from pmemheap.heap.sharing import SharedArray
    from pmemheap.heap.snapshots import Snapshot
    from pmemheap.heap.strategies import General, Placed, Ring, Rows, Strategy
    from pmemheap.heap.transaction import Savepoint, Transaction
    from pmemheap.heap.transactionroots import TransactionRoots
    from pmemheap.layers import (
        Count,
        Fail,
        Fill,
        Guard,
        GuardStats,
        Passing,
        Record,
        Sample,
        Shadow,
        SiteBlocks,
        Track,
    )
    from pmemheap.protocols import Allocator, Layer, Space
    from pmemheap.space.budget import Budget, BudgetReport, Share
    from pmemheap.space.strategies import BestFit, Buddy, FirstFit, NextFit
else:

    def __getattr__(name: str) -> object:
        """Import a public module of the package, or the module of a name, when it is first used."""
        if name in _PUBLIC_MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    """Return what is meant for users: names, and the public modules."""
    return sorted({*__all__, *_PUBLIC_MODULES})


__all__ = [
    "Allocator",
    "AnyPath",
    "Arena",
    "BestFit",
    "Block",
    "Buddy",
    "Budget",
    "BudgetReport",
    "CheckReport",
    "ClassStats",
    "CorruptHeapError",
    "Count",
    "DamagedBlockError",
    "DurabilityError",
    "DurabilityName",
    "Explanation",
    "Fail",
    "Fill",
    "FirstFit",
    "General",
    "Guard",
    "GuardStats",
    "Heap",
    "HeapBusyError",
    "HeapExistsError",
    "HeapFileError",
    "HeapNotFoundError",
    "HeapPermissionError",
    "HeapStats",
    "Held",
    "Installation",
    "KeptRegion",
    "Layer",
    "Mark",
    "NextFit",
    "OpenFlag",
    "OutOfSpaceError",
    "Passing",
    "Placed",
    "Pmem2Error",
    "PmemHeapError",
    "Reader",
    "Record",
    "Region",
    "Ring",
    "RingArena",
    "RingStats",
    "Roots",
    "Rows",
    "RowsArena",
    "Sample",
    "Savepoint",
    "Shadow",
    "Share",
    "SharedArray",
    "SiteBlocks",
    "Snapshot",
    "SnapshotGoneError",
    "Space",
    "Strategy",
    "StrategyError",
    "Track",
    "Transaction",
    "TransactionRoots",
    "UsageError",
    "__version__",
    "open",
]
