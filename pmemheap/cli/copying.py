"""Copying: the command that makes a whole copy of a heap file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmemheap.cli.bars import bar
from pmemheap.cli.files import AsJson, ExistingHeap
from pmemheap.cli.show import output, printable, write_json
from pmemheap.heap.heap import Heap
from pmemheap.units import format_bytes

__all__ = ["snapshot"]


def snapshot(
    path: ExistingHeap,
    out: Annotated[Path, typer.Argument(metavar="NEW", help="The copy.")],
    new_identity: Annotated[
        bool, typer.Option("--new-identity", help="Give the copy a uuid of its own.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of a file that is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a heap file, durably and whole or not at all; holes stay holes."""
    with Heap.open(path, readonly=True) as heap, bar("copying") as progress:
        heap.snapshot(out, new_identity=new_identity, replace=replace, progress=progress)
    with Heap.open(out, readonly=True) as copy:
        uuid, blocks = str(copy.uuid), copy.stats().blocks
    made = out.stat()
    if as_json:
        facts = {"uuid": uuid, "blocks": blocks, "file_bytes": made.st_size}
        write_json(
            {"path": str(path), "new": str(out), **facts, "disk_bytes": made.st_blocks * 512}
        )
        return
    sizes = f"{format_bytes(made.st_size)}, on disk {format_bytes(made.st_blocks * 512)}"
    output().print(
        printable(f"{out}: {blocks:,} blocks of {path}; the file has {sizes}"), soft_wrap=True
    )
