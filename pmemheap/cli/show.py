"""Show: consoles, tables and JSON, the same for all commands."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["facts", "output", "progress_output", "table", "write_json"]

_WIDTH_IN_A_PIPE = 100


def output() -> Console:
    """Return the console for facts; in a pipe it is wide enough for every table."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_IN_A_PIPE
    return Console(highlight=False, width=wide)


def progress_output() -> Console:
    """Return the console for what is not a fact: standard error."""
    return Console(stderr=True, highlight=False)


def table(title: str, *columns: str, left: int = 1) -> Table:
    """Return an empty table whose first `left` columns are words, and the others numbers."""
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption_justify="left",
    )
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return made


def facts(title: str, rows: Mapping[str, str | Text]) -> Table:
    """Return a table of names and what they are."""
    made = Table(
        title=title, title_justify="left", title_style="bold", box=None, show_header=False,
        padding=(0, 2),
    )  # fmt: skip
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, fact in rows.items():
        made.add_row(name, fact)
    return made


def write_json(value: object) -> None:
    """Write `value` to standard output; dataclasses become objects, NaN becomes null."""
    sys.stdout.write(json.dumps(_plain(value), indent=1) + "\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
