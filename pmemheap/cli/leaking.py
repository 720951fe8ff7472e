"""Leaking: the command that names the lines which made the blocks that are left in a heap file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from pmemheap.cli.files import AsJson, ExistingHeap
from pmemheap.cli.show import output, print_whole, printable, table, write_json
from pmemheap.heap.heap import Heap
from pmemheap.layers.sites import read_sites
from pmemheap.units import format_bytes

__all__ = ["leaks"]


def leaks(
    path: ExistingHeap,
    sites: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What `Track(sites=FILE)` has written; PATH.sites if left out."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name the lines of the program that made the blocks which are left in a heap file."""
    with Heap.open(path, readonly=True) as heap:
        made = read_sites(sites or Path(f"{path}.sites"))
        blocks: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for offset, size in heap.blocks():
            site = str(made[offset][0]) if offset in made else ""
            blocks[site] += 1
            held[site] += size
    rows = [(site, blocks[site], nbytes) for site, nbytes in held.most_common()]
    if as_json:
        names = ("site", "blocks", "bytes")
        facts = [dict(zip(names, (row[0] or None, *row[1:]), strict=True)) for row in rows]
        write_json({"path": str(path), "blocks": blocks.total(), "sites": facts})
        return
    shown = table(str(path), "made at", "blocks", "bytes")
    for site, count, nbytes in rows:
        shown.add_row(printable(site) or "(unknown)", f"{count:,}", format_bytes(nbytes))
    print_whole(output(), shown)
