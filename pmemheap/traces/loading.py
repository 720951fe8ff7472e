"""Loading: a trace from a file of either kind."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from pmemheap.errors import UsageError
from pmemheap.traces.frames import MAGIC, Event
from pmemheap.traces.recorded import events_of, trace_of
from pmemheap.traces.trace import Trace, expect, parse

__all__ = ["load", "read_events"]

_GZIP_MAGIC = b"\x1f\x8b"


def load(path: str | Path, *, partial: bool = False) -> Trace:
    r"""Read and check a trace: text, or what a `pmemheap.Record` wrote; gzip or plain.

    What it is, is told by its first bytes.

    Parameters
    ----------
    path : str or Path
        The file.
    partial : bool
        Of a recorded trace, pass over frames that are damaged.

    Returns
    -------
    Trace
        With every invariant of this module's opening checked. Of a recorded trace it has the blocks
        that were made while it was recorded, and the name of the file.

    Raises
    ------
    UsageError
        The file is no such trace: says file, line or frame, what was expected and what was found.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "small.trace"
    >>> _ = path.write_text("# small 2 100\na 0 100 t=5 s=queue.py:41\nf 0\n")
    >>> trace = load(path)
    >>> trace.operations, trace.origins[0].site
    (((0, 0, 100), (2, 0, 0)), 'queue.py:41')
    """
    data = _read(path)
    if _is_recorded(data, partial):
        return trace_of(_name_of(path), events_of(data, path, partial=partial))
    try:
        return parse(io.StringIO(data.decode(), newline=None), str(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: UTF-8 text expected, found {error}") from error


def read_events(path: str | Path, *, partial: bool = False) -> Iterator[Event]:
    """Yield the events of a recorded trace as they are, those of older blocks included.

    Parameters
    ----------
    path : str or Path
        A file that a `pmemheap.Record` wrote.
    partial : bool
        Pass over frames that are damaged.

    Yields
    ------
    Event
        In recorded order.

    Raises
    ------
    UsageError
        As for `load`.
    """
    data = _read(path)
    expected = f"a recorded trace, which begins {MAGIC!r},"
    expect(_is_recorded(data, partial), str(path), expected, data[: len(MAGIC)])
    yield from filter(None, events_of(data, path, partial=partial))


def _is_recorded(data: bytes, partial: bool) -> bool:
    return data.startswith(MAGIC) or (partial and MAGIC in data)


def _read(path: str | Path) -> bytes:
    path = Path(path)
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
    opener: Callable[..., IO[Any]] = gzip.open if compressed else open
    try:
        with opener(path, "rb") as file:
            found: bytes = file.read()
            return found
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path}: whole gzip data expected, found damage: {error}") from error


def _name_of(path: str | Path) -> str:
    """Return the name of a file without its endings and without spaces."""
    return "-".join(Path(path).name.split(".")[0].split()) or "-"
