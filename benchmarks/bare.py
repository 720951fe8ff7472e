"""Bare: malloc and free outside of transactions, by what the heap promises, in one run.

A power heap writes a record for each call. Its checkpoints are left out of the timed loop, by a log
in which all its records find room, and stand beside it as what they cost a call pair.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers import heap_class
from plan import Log, Plan, Values, rows
from results import Results
from stores import power_refusal
from workloads import MiB, pair

BARE = "malloc+free 64 B, outside of transactions"
CALLS, CHECKPOINT = "calls", "checkpoint after them, a pair"
ANONYMOUS, PROCESS, POWER = "anonymous", "process", "power"
LOG_BYTES = 64 * MiB
PAIRS = 50_000  # About 13 MiB of log: far from half of it.
SLICES = 10  # Turns within a round: the machine changes its mind within a second.
FREED_AT_ONCE = 10_000
STOCK = 16 * MiB  # Free blocks, so that none of those that wait for a sync are missed.


def bare(plan: Plan, results: Results, log: Log) -> None:
    """Measure malloc + free in anonymous, process and power heaps, which take turns."""
    values: Values = defaultdict(list)
    pairs = PAIRS // 50 if plan.quick else PAIRS
    with _heaps(results) as heaps:
        for number in range(plan.rounds * SLICES):
            if number % SLICES == 0:
                log(f"bare calls: round {number // SLICES + 1} of {plan.rounds}")
            for name, heap in heaps.items():
                values[CALLS, name].append(pair(pairs, heap.malloc, heap.free, 64) / pairs * 1e9)
                values[CHECKPOINT, name].append(_checkpoint(heap) / pairs * 1e9)
    results.add(rows(BARE, "ns", values))


@contextlib.contextmanager
def _heaps(results: Results) -> Iterator[dict[str, Any]]:
    kind = heap_class()
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as opened:
        heaps = {ANONYMOUS: kind.anonymous()}
        heaps[PROCESS] = kind.create(Path(home) / PROCESS, durability=PROCESS)
        refused = power_refusal()
        if refused is None:
            heaps[POWER] = kind.create(Path(home) / POWER, durability=POWER)
            heaps[POWER]._space.serve(heaps[POWER]._space.shared.log.move, LOG_BYTES)
        else:
            results.skipped[f"{BARE}, {POWER}"] = refused
        for heap in heaps.values():
            opened.callback(heap.close)
            _stock(heap)
        yield heaps


def _stock(heap: Any) -> None:
    offsets = heap.malloc_many(64, STOCK // 64)
    for first in range(0, len(offsets), FREED_AT_ONCE):
        heap.free_many(offsets[first : first + FREED_AT_ONCE])
    heap.sync()


def _checkpoint(heap: Any) -> float:
    """Return the seconds of a checkpoint; 0 where nothing is logged."""
    if heap.durability != POWER:
        return 0.0
    before = heap._space.shared.log.checkpoints
    began = time.perf_counter()
    heap._space.serve(heap._space.shared.log.checkpoint)
    took = time.perf_counter() - began
    assert heap._space.shared.log.checkpoints == before + 1
    return took
