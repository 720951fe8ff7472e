"""A trace: what it says, and how it is read and checked."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pmemheap.errors import UsageError

__all__ = ["ALLOCATE", "FREE", "RESIZE", "Operation", "Trace", "load", "parse"]

ALLOCATE, RESIZE, FREE = 0, 1, 2

_GZIP_MAGIC = b"\x1f\x8b"
_KINDS = {"a": (ALLOCATE, 3), "r": (RESIZE, 3), "f": (FREE, 2)}  # kind, words on the line

# `ALLOCATE`, `RESIZE` or `FREE`; the block's ID; its new size, 0 for a free. A plain tuple, since
# the interpreter unpacks those quickest and the loop is noise that every figure carries.
Operation = tuple[int, int, int]


@dataclass(frozen=True)
class Trace:
    """A checked trace.

    Attributes
    ----------
    name : str
        As the header says.
    operations : tuple of Operation
        In recorded order.
    blocks : int
        Allocations in the trace: IDs run from 0 to ``blocks - 1``.
    peak_live_bytes : int
        Greatest sum of the sizes of live blocks after any operation.
    live_at_end : tuple of int
        IDs that the trace never frees.
    """

    name: str
    operations: tuple[Operation, ...]
    blocks: int
    peak_live_bytes: int
    live_at_end: tuple[int, ...]


def load(path: str | Path) -> Trace:
    """Read and check a trace, gzip or plain by its first two bytes.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    Trace
        With every invariant of this module's opening checked.

    Raises
    ------
    UsageError
        The file is no such trace: says file, line, what was expected and what was found.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
    opener: Callable[..., IO[Any]] = gzip.open if compressed else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            return parse(lines, str(path))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path}: whole gzip data expected, found damage: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: UTF-8 text expected, found {error}") from error


def parse(lines: Iterable[str], source: str) -> Trace:
    """Check the lines of a trace.

    Parameters
    ----------
    lines : iterable of str
        Header first.
    source : str
        Where they come from, for messages.

    Returns
    -------
    Trace

    Raises
    ------
    UsageError
        As for `load`.
    """
    numbered = enumerate(lines, 1)
    name, count, peak = _header(next(numbered, (1, ""))[1], source)
    state = _Liveness()
    operations = tuple(_operations(numbered, state, source))
    _expect(len(operations) == count, f"{source}, line 1", f"{count} operations", len(operations))
    _expect(state.peak == peak, f"{source}, line 1", f"peak of {peak} live bytes", state.peak)
    return Trace(name, operations, state.allocated, peak, tuple(state.sizes))


class _Liveness:
    """Which blocks of a trace live, and the greatest sum of their sizes so far."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.allocated = 0
        self.live = 0
        self.peak = 0

    def apply(self, operation: Operation, place: str) -> None:
        kind, block, size = operation
        if kind == ALLOCATE:
            _expect(block == self.allocated, place, f"ID {self.allocated}", f"ID {block}")
            self.allocated += 1
        else:
            _expect(block in self.sizes, place, "the ID of a live block", f"ID {block}")
        self.live += size - self.sizes.pop(block, 0)
        if kind != FREE:
            self.sizes[block] = size
        self.peak = max(self.peak, self.live)


def _operations(
    numbered: Iterator[tuple[int, str]], state: _Liveness, source: str
) -> Iterator[Operation]:
    for number, line in numbered:
        place = f"{source}, line {number}"
        operation = _operation(line, place)
        state.apply(operation, place)
        yield operation


def _header(line: str, source: str) -> tuple[str, int, int]:
    words = line.split()
    well_formed = len(words) == 4 and words[0] == "#" and _are_numbers(words[2:])
    _expect(well_formed, f"{source}, line 1", "'# name ops peak_live_bytes'", line.rstrip("\n"))
    return words[1], int(words[2]), int(words[3])


def _operation(line: str, place: str) -> Operation:
    words = line.split()
    kind, length = _KINDS.get(words[0] if words else "", (-1, -1))
    well_formed = len(words) == length and _are_numbers(words[1:])
    _expect(well_formed, place, "'a ID SIZE', 'r ID SIZE' or 'f ID'", line.rstrip("\n"))
    size = 0 if kind == FREE else int(words[2])
    _expect(kind == FREE or size >= 1, place, "a size of at least 1", size)
    return kind, int(words[1]), size


def _are_numbers(words: Iterable[str]) -> bool:
    return all(word.isascii() and word.isdigit() for word in words)


def _expect(fact: bool, place: str, expected: str, found: object) -> None:
    if not fact:
        raise UsageError(f"{place}: {expected} expected, {found!r} found")
