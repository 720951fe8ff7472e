"""Watching: the commands that show how large and how full a heap is, also while it is in use.

A look takes some milliseconds and ends with the file closed again; see `looking`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from pmemheap.cli.exits import EXPECTED, line_of
from pmemheap.cli.files import AsJson, ExistingHeap
from pmemheap.cli.looking import looked_at
from pmemheap.cli.show import in_a_pipe, output, print_whole, printable, table, write_json
from pmemheap.errors import UsageError
from pmemheap.heap.insight import HeapStats
from pmemheap.metrics import by_arena, exposition_of
from pmemheap.units import format_bytes

__all__ = ["stats", "top"]

Looks = dict[str, HeapStats]
Rates = dict[str, tuple[str, str]]


def stats(
    path: ExistingHeap,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print metrics in the text format of Prometheus.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell how large and how full each arena of a heap file is, also beside its writer."""
    if prometheus and as_json:
        raise UsageError("stats: one of --prometheus and --json expected, both found")
    arenas = _look(path)
    if prometheus:
        sys.stdout.write(exposition_of({str(path): arenas}))
    elif as_json:
        write_json({"path": str(path), "arenas": arenas})
    else:
        print_whole(output(), _table(path, arenas))


def top(
    path: ExistingHeap,
    every: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
) -> None:
    """Show the same again and again, a line an arena, until it is interrupted; once in a pipe."""
    console = output()
    watched = Watched(path)
    first = watched.shown()  # the first look may be refused
    if once or in_a_pipe() or console.is_dumb_terminal:
        print_whole(console, first)
        return
    with suppress(KeyboardInterrupt), Live(first, console=console, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(watched.shown(), refresh=True)


class Watched:
    """A heap file that is looked at again and again.

    Parameters
    ----------
    path : Path
        The file.
    clock : callable
        Tells the time, in seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._last: Looks = {}
        self._at = 0.0

    def shown(self) -> Table:
        """Look, and return a table; of the look before, with the reason, if this one is refused.

        The first one raises instead.
        """
        try:
            arenas = _look(self._path)
        except EXPECTED as error:
            if not self._last:
                raise
            made = _table(self._path, self._last)
            made.caption = f"since then: {line_of(error)}"
            return made
        now = self._clock()
        rates = _rates(arenas, self._last, now - self._at)
        self._last, self._at = arenas, now
        return _table(self._path, arenas, rates)


def _look(path: Path) -> Looks:
    """Return the statistics of the arenas, as the file or its writer has them now."""
    with looked_at(path) as heap:
        return by_arena(heap)


def _rates(arenas: Looks, before: Looks, seconds: float) -> Rates:
    """Return what has changed a second since the look before, of each arena that was there."""
    return {
        name: (
            f"{(found.blocks - before[name].blocks) / seconds:+,.0f}",
            format_bytes(round((found.allocated - before[name].allocated) / seconds)),
        )
        for name, found in arenas.items()
        if name in before
    }


def _table(path: Path, arenas: Looks, rates: Rates | None = None) -> Table:
    """Return a line an arena."""
    columns = "arena", "blocks", "data", "active", "free", "longest", "scattered", "mapped"
    made = table(str(path), *columns, *(() if rates is None else ("blocks/s", "data/s")))
    for name, found in arenas.items():
        made.add_row(
            printable(name) or "(default)", f"{found.blocks:,}", format_bytes(found.allocated),
            format_bytes(found.active), format_bytes(found.free),
            format_bytes(found.largest_free), f"{found.external_fragmentation:.0%}",
            format_bytes(found.mapped), *(() if rates is None else rates.get(name, ("", ""))),
        )  # fmt: skip
    return made
