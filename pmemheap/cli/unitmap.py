"""Unit map: a drawing of what the units of a heap are.

    0x000000 ▓▓▓▓▓▓▓██████████░░░▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
    0x540000 ▓▓▓▓▓░░░░░░░░░▓▓▓███████████·············

    arena 'queue', Ring(), from 0x80000000000000
    0x000000 ███████████████████████████████░░░░░░░░░

Each mark stands for the same number of units and shows what most of them are; kinds differ in shape
as well as in colour. Rows begin with the offset of their first byte in its arena.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from pmemheap.cli.show import printable
from pmemheap.pictures.model import SCRATCH, ArenaMap
from pmemheap.pictures.pieces import Kind, Piece
from pmemheap.units import UNIT, counted, format_bytes

__all__ = ["draw", "legend", "units_per_mark"]

_LEAST_WIDTH = 8
_KINDS = tuple(Kind)
_MARKS = {
    Kind.RUN: ("▓", "cyan"),
    Kind.PACKED: ("▒", "magenta"),
    Kind.LARGE: ("█", "blue"),
    Kind.WITHHELD: ("▚", "yellow"),
    Kind.FREE: ("░", "green"),
    Kind.UNUSED: ("·", "bright_black"),
}


def units_per_mark(maps: Sequence[ArenaMap], width: int, rows: int) -> int:
    """Return how many units a mark has to stand for, so that all fit `rows` rows of `width`.

    Each arena has rows of its own, one at least.
    """
    columns = _columns(maps, width)
    per_mark = max(-(-sum(each.nunits for each in maps) // (columns * rows)), 1)
    while sum(-(-each.nunits // (per_mark * columns)) for each in maps) > max(rows, len(maps)):
        per_mark += max(per_mark // 64, 1)
    return per_mark


def draw(maps: Sequence[ArenaMap], width: int, rows: int) -> Text:
    """Draw the maps of all arenas in at most `rows` rows of `width` columns, and what they are."""
    per_mark = units_per_mark(maps, width, rows)
    text = Text(no_wrap=True, end="")
    for each in maps:
        if title := _title(each):
            text.append(f"{chr(10) if each.arena else ''}{title}\n", style="bold")
        _draw_one(text, each, per_mark, _columns(maps, width), _digits(maps))
    return text


def _title(shown: ArenaMap) -> str:
    """Say what an arena is; nothing of a default one that is as most are."""
    regions = shown.total("regions")
    told = [counted(regions, "kept region")] if regions else []
    if shown.arena:
        name = SCRATCH if shown.name == SCRATCH else f"arena {printable(shown.name)!r}"
        return ", ".join([name, shown.strategy, f"from {shown.origin:#x}", *told])
    if shown.strategy != ArenaMap.strategy or told:
        return ", ".join(["default arena", shown.strategy, *told])
    return ""


def _draw_one(text: Text, shown: ArenaMap, per_mark: int, columns: int, digits: int) -> None:
    kinds = _kinds(shown, per_mark)
    for at in range(0, len(kinds), columns):
        text.append(_label(shown.first_unit + at * per_mark, digits), style="dim")
        for kind in kinds[at : at + columns]:
            text.append(*_MARKS[kind])
        text.append("\n")


def legend(maps: Sequence[ArenaMap], width: int, per_mark: int) -> Text:
    """Say what the marks mean, and how many bytes there are of each kind; at most `width` wide."""
    entries = [
        Text.assemble(_MARKS[kind], f" {kind.value} {format_bytes(units * UNIT)}")
        for kind in Kind
        if (units := sum(each.units_of(kind) for each in maps))
    ]
    entries.append(Text(f"one mark: {format_bytes(per_mark * UNIT)}", style="dim"))
    text, column = Text(), 0
    for entry in entries:
        gap = "" if not column else "   " if column + 3 + len(entry) <= width else "\n"
        column = len(entry) + (column + 3 if gap == "   " else 0)
        text.append(gap).append(entry)
    return text


def _digits(maps: Sequence[ArenaMap]) -> int:
    return len(f"{max(each.end_unit for each in maps) * UNIT:x}")


def _label(unit: int, digits: int) -> str:
    return f"{unit * UNIT:#0{digits + 2}x} "


def _columns(maps: Sequence[ArenaMap], width: int) -> int:
    return max(width - len(_label(0, _digits(maps))), _LEAST_WIDTH)


def _kinds(shown: ArenaMap, per_mark: int) -> list[Kind]:
    """Return what most of the units of each mark are."""
    counts = [[0.0] * len(_KINDS) for _ in range(-(-shown.nunits // per_mark))]
    for piece in shown.pieces:
        start = piece.start - shown.first_unit
        stop = start + piece.nunits
        for mark in range(start // per_mark, -(-stop // per_mark)):
            inside = min(stop, (mark + 1) * per_mark) - max(start, mark * per_mark)
            _add(counts[mark], piece, inside)
    return [_KINDS[count.index(max(count))] for count in counts]


def _add(count: list[float], piece: Piece, inside: int) -> None:
    """Count the units of a piece that lie in a mark: of each kind its share of the piece."""
    for kind, units in enumerate(piece.units):
        if units:
            count[kind] += units * inside / piece.nunits
