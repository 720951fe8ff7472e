"""Mapping: the command that draws what is where in a heap file, in a terminal or as a page.

    map FILE                  a drawing              --json   the pieces
    map FILE --watch          the same, drawn anew each second until Ctrl-C, also beside a writer
    map FILE --html PAGE      a page to zoom in      --trace, --sites, --at say what else is in it

A heap that somebody writes to is read by ``--watch`` alone: that looks at the file as it is at this
moment, and again when half of a change was met.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pmemheap.cli.files import AsJson, ExistingHeap
from pmemheap.cli.looking import looked_at
from pmemheap.cli.show import in_a_pipe, output, printable, write_json
from pmemheap.cli.unitmap import draw, legend, units_per_mark
from pmemheap.errors import UsageError
from pmemheap.heap.heap import Heap
from pmemheap.layers.sites import read_sites
from pmemheap.layers.track import SiteBlocks
from pmemheap.pictures import report
from pmemheap.pictures.model import ALL_PIECES, PIECES_MOST, ArenaMap, read_arenas
from pmemheap.pictures.pieces import Kind
from pmemheap.traces import load
from pmemheap.units import UNIT, format_bytes

__all__ = ["draw_map"]

_ROWS = 16
_WATCH_SECONDS = 1.0


def draw_map(  # noqa: PLR0913, PLR0917 -- options of the command
    path: ExistingHeap,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the drawing at most.")] = _ROWS,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Draw it each second, also while a process writes to it."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="PAGE", help="Write a page for a browser there, to zoom in."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="OFFSET", help="Leave nothing out of the page around this offset."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="TRACE", help="Show what a heap holds while a trace is repeated."),
    ] = None,
    sites: Annotated[
        Path | None,
        typer.Option(metavar="SITES", help="Show which lines made what lives, from this file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw what is where in a heap file: runs of small blocks, large blocks, free space."""
    if watch:
        _watch(path, rows, as_json)
    elif html is not None:
        _write_page(path, html, _Wanted(at, trace, sites))
        _print_page(path, html, as_json)
    elif at or trace or sites:
        name = "at" if at else "trace" if trace else "sites"
        raise UsageError(f"map --{name}: --html PAGE expected with it, found none")
    else:
        _draw(path, rows, as_json)


def _draw(path: Path, rows: int, as_json: bool) -> None:
    with Heap.open(path, readonly=True) as heap:
        maps = read_arenas(heap, ALL_PIECES if as_json else PIECES_MOST)
    if as_json:
        _write_facts(path, maps)
    else:
        console = output()
        console.print(_drawing(console, maps, rows), end="", soft_wrap=True)


def _drawing(console: Console, maps: list[ArenaMap], rows: int) -> Text:
    per_mark = units_per_mark(maps, console.width, rows)
    drawn = draw(maps, console.width, rows)
    return drawn.append(legend(maps, console.width, per_mark)).append("\n")


def _write_facts(path: Path, maps: list[ArenaMap]) -> None:
    write_json(
        {
            "path": str(path),
            "unit_bytes": UNIT,
            "units": {kind.value: sum(each.units_of(kind) for each in maps) for kind in Kind},
            "arenas": [_facts(each) for each in maps],
        }
    )


def _facts(units: ArenaMap) -> dict[str, Any]:
    return {
        "arena": units.arena,
        "name": units.name,
        "strategy": units.strategy,
        "regions": units.total("regions"),
        "first_unit": units.first_unit,
        "end_unit": units.end_unit,
        "units": {kind.value: units.units_of(kind) for kind in Kind},
        "pieces": [(each.start, each.nunits, each.kind.value) for each in units.pieces],
    }


# ---------------------------------------------------------------- a page


class _Wanted(NamedTuple):
    """What a page is to say besides."""

    at: str | None
    trace: Path | None
    sites: Path | None


def _write_page(path: Path, html: Path, wanted: _Wanted) -> None:
    offset = None if wanted.at is None else _offset(wanted.at)
    calls = None if wanted.trace is None else load(wanted.trace)
    with Heap.open(path, readonly=True) as heap:
        made = None if wanted.sites is None else _blocks_by_site(heap, wanted.sites)
        report(heap, html, at=offset, trace=calls, sites=made)


def _print_page(path: Path, html: Path, as_json: bool) -> None:
    nbytes = html.stat().st_size
    if as_json:
        write_json({"path": str(path), "page": str(html), "page_bytes": nbytes})
    else:
        said = f"{printable(str(html))}: a page of {format_bytes(nbytes)}"
        output().print(said, soft_wrap=True)


def _offset(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"map --at: an offset as 0x1000 expected, found {text!r}") from None


def _blocks_by_site(heap: Heap, path: Path) -> list[SiteBlocks]:
    """Return what lives by the lines that a file of `Track` names, the most bytes first."""
    made = read_sites(path)
    blocks: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for offset, size in heap.blocks():
        site = str(made[offset][0]) if offset in made else "(unknown)"
        blocks[site] += 1
        nbytes[site] += size
    return [SiteBlocks(site, blocks[site], held) for site, held in nbytes.most_common()]


# ---------------------------------------------------------------- watching


def _watch(path: Path, rows: int, as_json: bool) -> None:
    if as_json or in_a_pipe():
        raise UsageError("map --watch: a terminal expected, to draw in again and again, found none")
    console = output()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_watched(console, path, rows), refresh=True)
            time.sleep(_WATCH_SECONDS)


def _watched(console: Console, path: Path, rows: int) -> Group:
    with looked_at(path) as heap:
        maps, stats = read_arenas(heap), heap.stats()
    told = (
        f"{format_bytes(stats.allocated)} in {stats.blocks:,} blocks, "
        f"{format_bytes(stats.free)} free; {time.strftime('%H:%M:%S')}, Ctrl-C ends it"
    )
    return Group(_drawing(console, maps, rows), Text(printable(str(path))), Text(told))
