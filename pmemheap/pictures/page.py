"""Page: one file of HTML that shows a heap, to be opened in any browser, without a network.

    model ──► packing ──► JSON ─┐
    figures, timeline ──► tables ├──► page.html (jinja2) ──► PATH
    page.css, page.js ──────────┘

The tables are there without the script; the script draws the map and the timeline. How much of a
large heap is in the file is limited: `PAGE_BYTES_MOST`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pmemheap.heap.arguments import offset_argument
from pmemheap.heap.heap import Heap
from pmemheap.heap.shown import stats_rows
from pmemheap.layers.track import SiteBlocks
from pmemheap.pictures import figures
from pmemheap.pictures.model import ArenaMap, read_arenas
from pmemheap.pictures.packing import packed_arena
from pmemheap.pictures.pieces import Kind
from pmemheap.pictures.timeline import Moment, timeline_of
from pmemheap.refusals import refusals
from pmemheap.traces import Trace
from pmemheap.units import UNIT, format_bytes

__all__ = ["PAGE_BYTES_MOST", "page", "report"]

PAGE_BYTES_MOST = 5_000_000
"""No page is longer."""

_PIECES_MOST = 100_000
_BLOCKS_MOST = 1_000_000
_TIMELINE_ROWS = 40
_SITES_MOST = 100


def report(
    heap: Heap,
    path: str | os.PathLike[str],
    *,
    at: int | None = None,
    trace: Trace | None = None,
    sites: Sequence[SiteBlocks] | None = None,
) -> None:
    """Write a page that shows what is where in a heap, as it is now.

    Parameters
    ----------
    heap : Heap
        An open one.
    path : path
        Of the page; a file that is there is replaced.
    at : int, optional
        An offset around which no detail is left out; the start of the heap if left out. In a heap
        of more pieces than a page can hold those of other places are shown by cells.
    trace : Trace, optional
        Adds what a heap holds while these calls are repeated.
    sites : sequence of SiteBlocks, optional
        Which lines made what lives; if left out, those of the `Track` that is on the heap.

    Raises
    ------
    ImportError
        There is no jinja2; the message says how to get it.
    UsageError
        The heap is closed; `at` is no offset.
    HeapFileError
        The page cannot be written.

    Examples
    --------
    >>> import pmemheap, pmemheap.pictures, pathlib, tempfile
    >>> with pmemheap.Heap.anonymous() as heap, tempfile.TemporaryDirectory() as folder:
    ...     offsets = heap.malloc_many(100, 1000)
    ...     pmemheap.pictures.report(heap, f"{folder}/heap.html")
    ...     "100" in pathlib.Path(folder, "heap.html").read_text()
    True
    """
    text = page(heap, at=at, trace=trace, sites=sites)
    with refusals(f"page {os.fspath(path)!r}", os.fspath(path)):
        Path(path).write_text(text, encoding="utf-8")


def page(
    heap: Heap,
    *,
    at: int | None = None,
    trace: Trace | None = None,
    sites: Sequence[SiteBlocks] | None = None,
) -> str:
    """Return the text of the page that `report` writes."""
    template = _template()
    at = None if at is None else offset_argument(at)
    moments = [] if trace is None else timeline_of(trace)
    made = figures.sites_of(heap) if sites is None else sites
    pieces, blocks = _PIECES_MOST, _BLOCKS_MOST
    while True:
        maps, stats = read_arenas(heap, pieces, at, blocks), heap.stats()
        text = template.render(
            name=heap.name, kind=_kind(heap), when=time.strftime("%Y-%m-%d %H:%M:%S"),
            totals=stats_rows(stats), classes=figures.class_bars(stats),
            large=figures.large_bars(maps), free=figures.free_bars(maps), arenas=_arena_rows(maps),
            sites=made[:_SITES_MOST], trace=trace,
            moments=_thinned(moments), cells=any(each.cell for each in maps),
            data=_json(_document(maps, moments, at)), format_bytes=format_bytes,
            style=_asset("page.css"), script=_asset("page.js"),
        )  # fmt: skip
        page_bytes: bytes = text.encode("utf-8", "backslashreplace")  # a path need not be text
        if len(page_bytes) <= PAGE_BYTES_MOST:
            return page_bytes.decode()
        pieces, blocks = pieces // 2, blocks // 2


def _template() -> Any:
    try:
        import jinja2  # noqa: PLC0415 -- an extra: only who wants a page needs it
    except ImportError as error:
        raise ImportError("pages need jinja2: pip install 'pmemheap[html]'") from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_asset("page.html"))


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _kind(heap: Heap) -> str:
    durability = "in memory" if heap.durability == "none" else f"durability {heap.durability}"
    return f"{durability}, identity {heap.uuid}"


def _document(maps: list[ArenaMap], moments: list[Moment], at: int | None) -> dict[str, Any]:
    return {
        "unit": UNIT,
        "kinds": [kind.value for kind in Kind],
        "arenas": [packed_arena(each) for each in maps],
        "at": None if at is None else f"{at:#x}",
        "moments": moments,
    }


def _json(document: dict[str, Any]) -> str:
    """Return JSON that may stand in a script element."""
    text = json.dumps(document, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _arena_rows(maps: list[ArenaMap]) -> list[tuple[str, ...]]:
    return [
        (
            each.name or "default arena", each.strategy, f"{each.origin:#x}",
            format_bytes(each.nunits * UNIT), f"{each.total('live'):,}",
            format_bytes(each.total("allocated")), format_bytes(each.free_units * UNIT),
            format_bytes(each.total("bare") * UNIT), f"{each.total('regions'):,}",
        )
        for each in maps
    ]  # fmt: skip


def _thinned(moments: list[Moment]) -> list[Moment]:
    """Return as many moments as a table may have rows, with the last one."""
    step = max(-(-len(moments) // _TIMELINE_ROWS), 1)
    return moments[:-1:step] + moments[-1:]
