"""Replaying: the command that runs allocation traces on a heap and says what they cost.

Two heaps a trace. On the first the calls run against the clock, net of the loop that makes them:
the first pass is *fresh*, growth included, the quickest later one *warm*. On the second every
block is written and memory is sampled; that pass has no clock.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from pmemheap.cli.files import AsJson
from pmemheap.cli.show import output, print_whole, progress_output, table, write_json
from pmemheap.heap.heap import Heap
from pmemheap.pictures.model import read_arena
from pmemheap.traces import Trace, load, measure, touch_replay
from pmemheap.units import format_bytes

__all__ = ["Memory", "Replayed", "replay"]

_STEPS = 3
_FILLING = 0xA5


@dataclass(frozen=True)
class Memory:
    """The space that a heap took for one trace.

    Attributes
    ----------
    peak_bytes : int
        Greatest memory of the heap as the kernel counts it, tables included.
    utilisation : float
        Greatest sum of what the trace had asked for, as a share of that.
    external_fragmentation, internal_waste : float
        At that greatest memory: 0 when all free units are in one range, towards 1 when they are
        scattered; and the share of the allocated bytes that nobody had asked for.
    growths, shrinks : int
        Segments that the heap added, and gave back in the end.
    returned_bytes : int
        What `trim` gave back when all blocks were freed.
    """

    peak_bytes: int
    utilisation: float
    external_fragmentation: float
    internal_waste: float
    growths: int
    shrinks: int
    returned_bytes: int


@dataclass(frozen=True)
class Replayed:
    """The cost of one trace: nanoseconds an operation; `warm_ns` is NaN after a single pass."""

    name: str
    operations: int
    peak_live_bytes: int
    fresh_ns: float
    warm_ns: float
    memory: Memory


def replay(
    traces: Annotated[
        list[Path], typer.Argument(metavar="TRACE...", help="Trace files, plain or gzip.")
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Use a heap in a file made there, and removed in the end."
        ),
    ] = None,
    passes: Annotated[int, typer.Option(min=1, help="Timed passes over each trace.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Run allocation traces on a heap: time, memory, growth and give-back."""
    console = progress_output()
    # No thread that redraws: it would take the interpreter's lock while a pass is timed.
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        console=console, transient=True, auto_refresh=False, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        done = list(_replay_all(traces, file, passes, progress))
    if as_json:
        write_json({"passes": passes, "heap": str(file or "anonymous"), "traces": done})
    else:
        print_whole(output(), _table(done, passes))


def _replay_all(
    paths: list[Path], file: Path | None, passes: int, progress: Progress
) -> Iterator[Replayed]:
    task = progress.add_task("", total=_STEPS * len(paths))

    def step(what: str, path: Path) -> None:
        progress.update(task, description=f"{path.name}: {what}", refresh=True)

    for path in paths:
        step("reading", path)
        trace = load(path)
        progress.advance(task)
        step("timing", path)
        with _heap(file) as heap:
            timing = measure(trace, heap, passes)
        progress.advance(task)
        step("measuring memory", path)
        with _heap(file) as heap:
            memory = _measure_memory(trace, heap)
        progress.advance(task)
        yield Replayed(
            trace.name,
            len(trace.operations),
            trace.peak_live_bytes,
            timing.fresh_ns,
            timing.warm_ns,
            memory,
        )


@contextmanager
def _heap(file: Path | None) -> Iterator[Heap]:
    """Open a new heap, in a file that is removed once it is closed, or in memory."""
    if file is None:
        with Heap.anonymous() as heap:
            yield heap
        return
    heap = Heap.create(file, durability="process")
    try:
        with heap:
            yield heap
    finally:
        file.unlink()


def _measure_memory(trace: Trace, heap: Heap) -> Memory:
    at_first = at_peak = heap.stats()
    fragmentation = 0.0

    def sample() -> int:
        nonlocal at_peak, fragmentation
        now = heap.stats()
        if now.resident > at_peak.resident:
            at_peak, fragmentation = now, read_arena(heap).fragmentation
        return now.resident

    def touch(offset: int, size: int) -> None:
        ctypes.memset(heap.address(offset), _FILLING, size)

    touched = touch_replay(trace, heap, touch, sample)
    returned = heap.trim()
    at_end = heap.stats()
    return Memory(
        peak_bytes=touched.peak_bytes,
        utilisation=touched.utilisation(trace),
        external_fragmentation=fragmentation,
        internal_waste=at_peak.internal_waste / max(at_peak.allocated, 1),
        growths=at_end.growths - at_first.growths,
        shrinks=at_end.shrinks,
        returned_bytes=returned,
    )


def _table(done: list[Replayed], passes: int) -> Table:
    made = table(
        "",
        "trace",
        "fresh\nns/op",
        "warm\nns/op",
        "peak\nmemory",
        "\nused",
        "scat-\ntered",
        "\nwaste",
        "grown\n/cut",
        "given\nback",
    )
    for each in done:
        memory = each.memory
        made.add_row(
            each.name,
            _figure(each.fresh_ns),
            _figure(each.warm_ns),
            format_bytes(memory.peak_bytes),
            f"{memory.utilisation:.2f}",
            f"{memory.external_fragmentation:.2f}",
            f"{memory.internal_waste:.0%}",
            f"{memory.growths}/{memory.shrinks}",
            format_bytes(memory.returned_bytes),
        )
    if len(done) > 1:
        fresh, warm = ([getattr(each, key) for each in done] for key in ("fresh_ns", "warm_ns"))
        used = [each.memory.utilisation for each in done]
        made.add_section()
        means = _figure(_mean(fresh)), _figure(_mean(warm)), "", f"{_mean(used):.2f}"
        made.add_row("geometric mean", *means)
    made.caption = (
        f"ns/op: net of the loop; first pass, best of {passes - 1} later ones. used: peak live "
        "payload / peak memory, tables included. scattered: external fragmentation; waste: inside "
        "blocks; both at that peak. grown, cut: segments. given back: by trim in the end."
    )
    return made


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _mean(values: list[float]) -> float:
    """Return the geometric mean; NaN if a value is not above 0, as noise on a tiny trace can be."""
    if any(not value > 0 for value in values):
        return math.nan
    return math.exp(math.fsum(map(math.log, values)) / len(values))
