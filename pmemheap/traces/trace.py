"""A trace: what it says, and its text, which is read and checked here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from pmemheap.errors import UsageError

__all__ = [
    "ALLOCATE",
    "FREE",
    "RESIZE",
    "Operation",
    "Origin",
    "Trace",
    "expect",
    "parse",
    "save",
]

ALLOCATE, RESIZE, FREE = 0, 1, 2

_KINDS = {"a": (ALLOCATE, 3), "r": (RESIZE, 3), "f": (FREE, 2)}  # kind, words on the line

# `ALLOCATE`, `RESIZE` or `FREE`; the block's ID; its new size, 0 for a free. A plain tuple, since
# the interpreter unpacks those quickest and the loop is noise that every figure carries.
Operation = tuple[int, int, int]


class Origin(NamedTuple):
    """Where an operation of a trace comes from, as far as the trace tells.

    Attributes
    ----------
    time : int or None
        Microseconds since the trace began.
    site : str or None
        ``file:line`` of the call.
    thread, arena : int or None
        Numbers; the threads are counted as they came.
    """

    time: int | None = None
    site: str | None = None
    thread: int | None = None
    arena: int | None = None


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
    origins : tuple of Origin
        One for each operation, or empty: the trace does not tell.
    """

    name: str
    operations: tuple[Operation, ...]
    blocks: int
    peak_live_bytes: int
    live_at_end: tuple[int, ...]
    origins: tuple[Origin, ...] = ()


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
    origins: dict[int, Origin] = {}
    operations = tuple(_operations(numbered, state, source, origins))
    expect(len(operations) == count, f"{source}, line 1", f"{count} operations", len(operations))
    expect(state.peak == peak, f"{source}, line 1", f"peak of {peak} live bytes", state.peak)
    told = tuple(origins.get(n, _UNKNOWN) for n in range(count)) if origins else ()
    return Trace(name, operations, state.allocated, peak, tuple(state.sizes), told)


def save(trace: Trace, path: str | Path) -> None:
    """Write a trace as text, with the columns that it has.

    Parameters
    ----------
    trace : Trace
        What to write.
    path : str or Path
        The file; one that is there is replaced.
    """
    with Path(path).open("w", encoding="utf-8") as out:
        name = "".join(trace.name.split()) or "-"
        out.write(f"# {name} {len(trace.operations)} {trace.peak_live_bytes}\n")
        origins = trace.origins or [_UNKNOWN] * len(trace.operations)
        for (kind, block, size), origin in zip(trace.operations, origins, strict=True):
            words = [_LETTERS[kind], str(block), *([] if kind == FREE else [str(size)])]
            out.write(" ".join([*words, *_columns_of(origin)]) + "\n")


_UNKNOWN = Origin()
_LETTERS = {kind: letter for letter, (kind, _) in _KINDS.items()}
_COLUMNS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "t": ("time", int),
    "s": ("site", unquote),
    "T": ("thread", int),
    "A": ("arena", int),
}
_IN_SITES = "/:<>()[]{},;+@!*'$&~#"
"""Letters of a site that stand there as they are, beside those of any name."""


def _columns_of(origin: Origin) -> Iterator[str]:
    for letter, (field, _) in _COLUMNS.items():
        value = getattr(origin, field)
        if value is not None:
            yield f"{letter}={quote(str(value), safe=_IN_SITES)}"


def _origin(words: list[str], place: str) -> Origin:
    found: dict[str, Any] = {}
    for word in words:
        letter, _, value = word.partition("=")
        field, kind = _COLUMNS.get(letter, ("", int))
        well_formed = field and field not in found and (kind is not int or _are_numbers([value]))
        expect(bool(well_formed), place, "'t=', 's=', 'T=' or 'A=', each once", word)
        found[field] = kind(value)
    return Origin(**found)


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
            expect(block == self.allocated, place, f"ID {self.allocated}", f"ID {block}")
            self.allocated += 1
        else:
            expect(block in self.sizes, place, "the ID of a live block", f"ID {block}")
        self.live += size - self.sizes.pop(block, 0)
        if kind != FREE:
            self.sizes[block] = size
        self.peak = max(self.peak, self.live)


def _operations(
    numbered: Iterator[tuple[int, str]],
    state: _Liveness,
    source: str,
    origins: dict[int, Origin],
) -> Iterator[Operation]:
    for number, line in numbered:
        place = f"{source}, line {number}"
        operation, columns = _operation(line, place)
        state.apply(operation, place)
        if columns:
            origins[number - 2] = _origin(columns, place)
        yield operation


def _header(line: str, source: str) -> tuple[str, int, int]:
    words = line.split()
    well_formed = len(words) == 4 and words[0] == "#" and _are_numbers(words[2:])
    expect(well_formed, f"{source}, line 1", "'# name ops peak_live_bytes'", line.rstrip("\n"))
    return words[1], int(words[2]), int(words[3])


def _operation(line: str, place: str) -> tuple[Operation, list[str]]:
    words = line.split()
    kind, length = _KINDS.get(words[0] if words else "", (-1, 0))
    words, columns = words[:length], words[length:]
    well_formed = len(words) == length > 0 and _are_numbers(words[1:])
    well_formed = well_formed and all("=" in word for word in columns)
    expect(well_formed, place, "'a ID SIZE', 'r ID SIZE' or 'f ID'", line.rstrip("\n"))
    size = 0 if kind == FREE else int(words[2])
    expect(kind == FREE or size >= 1, place, "a size of at least 1", size)
    return (kind, int(words[1]), size), columns


def _are_numbers(words: Iterable[str]) -> bool:
    return all(word.isascii() and word.isdigit() for word in words)


def expect(fact: bool, place: str, expected: str, found: object) -> None:
    """Raise UsageError unless a fact holds."""
    if not fact:
        raise UsageError(f"{place}: {expected} expected, {found!r} found")
