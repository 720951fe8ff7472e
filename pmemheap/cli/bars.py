"""Bars: how far a command is, on standard error, where a terminal shows it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from pmemheap.cli.show import progress_output
from pmemheap.progress import Progress

__all__ = ["bar"]


@contextmanager
def bar(words: str) -> Iterator[Progress | None]:
    """Show a bar while the block runs; return what moves it, None where nobody would see it."""
    console = progress_output()
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with Bars(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(words, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
