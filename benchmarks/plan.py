"""Plan: what a comparison measures and how long; and what every section of it needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from results import Row

Log = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure and how long.

    Attributes
    ----------
    rounds : int
        Turns that each contender gets.
    seconds : float
        Least duration of one timed loop; short loops measure the clock.
    passes : int
        Over a trace in one heap, at least: the first is fresh, the rest is warm.
    operations : int
        Least number of operations in all passes of a turn; short traces get more passes.
    traces : tuple of Path
        Trace files.
    holes : tuple of int
        Free extents in the heaps of the extents section.
    open_blocks : int
        Blocks in the heap that is opened.
    contenders : tuple of str
        Names in `peers.PEERS`.
    quick : bool
        Few, short turns and small files: to see that it runs.
    """

    rounds: int
    seconds: float
    passes: int
    operations: int
    traces: tuple[Path, ...]
    holes: tuple[int, ...]
    open_blocks: int
    contenders: tuple[str, ...]
    quick: bool


Values = dict[tuple[str, str], list[float]]


def rows(section: str, unit: str, values: Values) -> list[Row]:
    return [
        Row(section, case, contender, unit, tuple(taken))
        for (case, contender), taken in values.items()
    ]


def calibrated(loop: Callable[[int], float], seconds: float) -> float:
    """Return the seconds of one iteration of `loop`, run for `seconds` at least."""
    loops = 1
    while (took := loop(loops)) < seconds:
        loops = max(loops + 1, min(loops * 10, math.ceil(1.2 * loops * seconds / max(took, 1e-7))))
    return took / loops
