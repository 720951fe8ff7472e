"""Show: consoles, tables and JSON, the same for all commands.

    command --> Console | write_json --> Outlet --> standard output

A reader of the output may leave at any time, as `head` does: an `Outlet` drops what is printed
after that, and the command ends its work. Names and paths are data: nothing in them is read as
markup, and what cannot be printed is escaped. In a pipe no table is cut and no sentence is wrapped.
Where only ASCII can be shown, an `Outlet` says so, and rich draws its tables with it.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = [
    "facts",
    "in_a_pipe",
    "outlets",
    "output",
    "print_whole",
    "printable",
    "progress_output",
    "table",
    "write_json",
]

_WIDTH_IN_A_PIPE = 100
_WIDTH_MOST = 100_000


# ---------------------------------------------------------------- where output goes


class Outlet:
    """A text stream whose reader may leave: what is written afterwards goes nowhere.

    Other errors, as of a full disk, are raised once: what the stream still holds is dropped.

    Attributes
    ----------
    is_cut : bool
        Whether the reader has left before all was written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_cut: bool = False

    def __getattr__(self, name: str) -> Any:
        """Be the stream in everything else."""
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        """What can be shown; names are written as the stream writes them."""
        return "ascii" if _is_plain() else self._stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        """Write, or drop."""
        self._guarded(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, or drop what the stream still holds."""
        self._guarded(self._stream.flush)

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            with suppress(OSError, ValueError):  # a stream of a test has no descriptor
                _lead_nowhere(self._stream.fileno())
            if not isinstance(error, BrokenPipeError):
                raise
            self.is_cut = True


def _is_plain() -> bool:
    """Tell whether the terminal or the locale has no more than ASCII.

    Where LANG is C, Python sets LC_CTYPE to C.UTF-8 for itself.
    """
    named = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    locale = next((each for each in named if each and each != "C.UTF-8"), "")
    return os.environ.get("TERM") == "dumb" or locale in {"C", "POSIX"}


def _lead_nowhere(descriptor: int) -> None:
    """Let a descriptor swallow what is written to it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
    finally:
        os.close(nowhere)


def _opened(stream: TextIO | None) -> Outlet:
    """Return an outlet for a standard stream; None is one that was closed before we began."""
    if stream is None:
        return Outlet(io.StringIO())
    if isinstance(stream, io.TextIOWrapper):  # an odd name must not end a command
        stream.reconfigure(errors="backslashreplace")
    return Outlet(stream)


@contextmanager
def outlets() -> Iterator[Outlet]:
    """Put outlets in the place of the standard streams; return that of the output."""
    streams = sys.stdout, sys.stderr
    out, err = map(_opened, streams)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = streams


# ---------------------------------------------------------------- text


def in_a_pipe() -> bool:
    """Tell whether no terminal shows the output: then nothing may be left out of it."""
    return not sys.stdout.isatty()


def output() -> Console:
    """Return the console for facts."""
    is_piped = in_a_pipe()
    wide = _WIDTH_IN_A_PIPE if is_piped and "COLUMNS" not in os.environ else None
    return Console(highlight=False, markup=False, emoji=False, width=wide, soft_wrap=is_piped)


def progress_output() -> Console:
    """Return the console for what is not a fact: standard error."""
    return Console(stderr=True, highlight=False)


def print_whole(console: Console, shown: RenderableType) -> None:
    """Print a table: as wide as it is in a pipe, fitted to a terminal."""
    if not in_a_pipe():
        console.print(shown)
        return
    wide = console.width
    console.width = _WIDTH_MOST
    console.width = max(console.measure(shown).maximum, wide)
    console.print(shown)
    console.width = wide


def printable(text: str) -> str:
    r"""Return a text with escapes for what a terminal would act on, or cannot show.

    Examples
    --------
    >>> printable("plain"), printable("bell\a and \x1b[31m")
    ('plain', 'bell\\x07 and \\x1b[31m')
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def table(title: str, *columns: str, left: int = 1) -> Table:
    """Return an empty table whose first `left` columns are words, and the others numbers."""
    made = Table(
        title=printable(title) or None,
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
        title=printable(title), title_justify="left", title_style="bold", box=None,
        show_header=False, padding=(0, 2),
    )  # fmt: skip
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, fact in rows.items():
        made.add_row(name, printable(fact) if isinstance(fact, str) else fact)
    return made


# ---------------------------------------------------------------- JSON


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
