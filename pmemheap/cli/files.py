"""Files: the commands on a sound heap file: create, info, trim."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pmemheap.cli.bars import bar
from pmemheap.cli.completing import heap_files
from pmemheap.cli.header import Header, Segment, read_header
from pmemheap.cli.looking import looked_at
from pmemheap.cli.show import facts, output, print_whole, printable, table, write_json
from pmemheap.heap.arguments import DurabilityName
from pmemheap.heap.heap import Heap
from pmemheap.heap.insight import HeapStats
from pmemheap.pictures.model import ALL_PIECES, ArenaMap, longest_free, read_arenas
from pmemheap.units import UNIT, format_bytes, parse_bytes

__all__ = ["AsJson", "Durability", "ExistingHeap", "create", "info", "trim"]

_SEGMENTS_SHOWN = 12

AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]
ExistingHeap = Annotated[
    Path, typer.Argument(metavar="PATH", help="A heap file.", autocompletion=heap_files)
]


class Durability(StrEnum):
    """Names of the durabilities on the command line."""

    POWER = "power"
    PROCESS = "process"

    @property
    def named(self) -> DurabilityName:
        """The name, as `Heap.create` takes it."""
        return "power" if self is Durability.POWER else "process"


# ---------------------------------------------------------------- create


def create(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where; nothing may be there yet.")],
    durability: Annotated[
        Durability | None,
        typer.Option(
            help="What must survive: a power failure, or only the process. The most that the file "
            "system can keep if left out."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            parser=parse_bytes,
            metavar="SIZE",
            help="Greatest length of the file, as 64M or 2GiB; it is kept in the file.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a heap file; it starts at 1.3 MiB and grows when it is used."""
    named = durability.named if durability else None
    with Heap.create(path, durability=named, limit=limit) as heap:
        made = {
            "path": str(path),
            "uuid": str(heap.uuid),
            "durability": heap.durability,
            "limit": limit,
            "file_bytes": os.fstat(heap.fileno()).st_size,
        }
    if as_json:
        write_json(made)
    else:
        size = format_bytes(path.stat().st_size)
        output().print(
            f"{printable(str(path))}: a new heap of {size}, durability {made['durability']}"
            + (f", limit {format_bytes(limit)}" if limit is not None else ""),
            soft_wrap=True,
        )


# ---------------------------------------------------------------- info


def info(path: ExistingHeap, as_json: AsJson = False) -> None:
    """Tell what a heap file is and what is in it, also beside its writer."""
    with looked_at(path) as heap:
        header, stats, roots = read_header(heap), heap.stats(), dict(heap.roots)
        maps = read_arenas(heap, ALL_PIECES)
    arenas = [_arena_facts(each) for each in maps]
    if as_json:
        document = {"header": header, "roots": roots, "stats": stats, "arenas": arenas}
        write_json({"path": str(path), **document})
        return
    console = output()
    shown = [
        facts(str(path), _header_facts(header, stats, maps, roots)),
        *([_arena_table(arenas)] if len(arenas) > 1 else []),
        _class_table(stats),
        _segment_table(header.segments, maps),
    ]
    for number, each in enumerate(shown):
        if number:
            console.print()
        print_whole(console, each)


def _arena_facts(units: ArenaMap) -> dict[str, Any]:
    """Return what an arena has, in bytes."""
    return {
        "arena": units.arena,
        "name": units.name,
        "first_unit": units.first_unit,
        "end_unit": units.end_unit,
        "blocks": units.total("live"),
        "allocated": units.total("allocated"),
        "active": (units.nunits - units.free_units) * UNIT,
        "free": units.free_units * UNIT,
        "largest_free": units.longest_free * UNIT,
    }


def _arena_table(arenas: list[dict[str, Any]]) -> Table:
    made = table("arenas", "name", "units from", "units", "blocks", "data", "free", "longest free")
    for each in arenas:
        made.add_row(
            printable(each["name"]) if each["arena"] else "(default)",
            f"{each['first_unit']:,}", f"{each['end_unit'] - each['first_unit']:,}",
            f"{each['blocks']:,}", format_bytes(each["allocated"]), format_bytes(each["free"]),
            format_bytes(each["largest_free"]),
        )  # fmt: skip
    return made


def _header_facts(
    header: Header, stats: HeapStats, maps: list[ArenaMap], roots: dict[str, int]
) -> dict[str, str]:
    size = format_bytes
    spare = sum(each.file_bytes for each in header.segments if each.kind == "spare")
    longest = longest_free(maps) * UNIT
    scattered = 1 - longest / stats.free if stats.free else 0.0
    named = (f"{name} -> {offset:#x}" for name, offset in roots.items())
    return {
        "identity": f"{header.uuid}, format {header.version}",
        "durability": f"{header.durability}: {_promise(header)}",
        "state": _state(header),
        "file": f"{size(stats.file_bytes)}, on disk {size(stats.file_blocks)}"
        + (f"; {size(spare)} wait for the next growth" if spare else "")
        + (f"; limit {size(header.limit)}" if header.limit else ""),
        "data": f"{size(stats.allocated)} in {stats.blocks:,} blocks"
        f"; with the free blocks of runs {size(stats.active)}",
        "free": f"{size(stats.free)}, longest piece {size(longest)}"
        f"; external fragmentation {scattered:.0%}",
        "tables": f"{size(stats.metadata)}, of which in memory now {size(stats.metadata_resident)}",
        "roots": ", ".join(named) or "none",
    }


def _promise(header: Header) -> str:
    if header.durability == "power":
        return "a closed heap survives a power failure"
    return "every call that returned survives the end of its process"


def _state(header: Header) -> str:
    times = f"opened for writing {header.opened} time{'' if header.opened == 1 else 's'}"
    if header.closed:
        return f"closed; {times}"
    if header.writer is not None:
        commit = "" if header.commit is None else f", commit {header.commit} is there"
        return f"open: process {header.writer} writes{commit}; {times}"
    return f"not closed: its last writer was ended from outside; {times}"


def _class_table(stats: HeapStats) -> Table:
    made = table("blocks by size", "size", "blocks", "bytes", "runs", "full", left=0)
    in_use = [each for each in stats.classes if each.runs]
    for each in in_use:
        made.add_row(
            f"{each.size:,}", f"{each.blocks:,}", format_bytes(each.size * each.blocks),
            f"{each.runs:,}", f"{each.fullness:.0%}",
        )  # fmt: skip
    small = sum(each.blocks for each in in_use)
    small_bytes = sum(each.size * each.blocks for each in in_use)
    if stats.blocks > small:
        large = format_bytes(stats.allocated - small_bytes)
        made.add_row("whole units", f"{stats.blocks - small:,}", large, "", "")
    return made


def _segment_table(segments: tuple[Segment, ...], maps: list[ArenaMap]) -> Table:
    columns = "slot", "kind", "arena", "in file at", "bytes", "units from", "units"
    made = table("segments", *columns, left=0)
    names = {each.arena: printable(each.name) for each in maps}
    names[0] = "(default)" if len(maps) > 1 else ""
    for each in segments[:_SEGMENTS_SHOWN]:
        is_data = each.kind == "data"
        made.add_row(
            str(each.index), each.kind, names.get(each.arena, str(each.arena)) if is_data else "",
            f"{each.file_offset:#x}", format_bytes(each.file_bytes),
            f"{each.first_unit:,}" if is_data else "", f"{each.nunits:,}" if is_data else "",
        )  # fmt: skip
    hidden = len(segments) - _SEGMENTS_SHOWN
    if hidden > 0:
        made.caption = f"and {hidden} more; --json has them all"
    return made


# ---------------------------------------------------------------- trim


def trim(path: ExistingHeap, as_json: AsJson = False) -> None:
    """Give the free space of a heap file back to the file system."""
    with Heap.open(path) as heap, bar("giving back") as progress:
        before = os.fstat(heap.fileno())
        returned = heap.trim(progress=progress)
        after = os.fstat(heap.fileno())
    if as_json:
        write_json(
            {
                "path": str(path),
                "returned_bytes": returned,
                "file_bytes": [before.st_size, after.st_size],
                "disk_bytes": [before.st_blocks * 512, after.st_blocks * 512],
            }
        )
        return
    output().print(
        f"{printable(str(path))}: {format_bytes(returned)} given back; the file has "
        f"{format_bytes(after.st_size)} (before {format_bytes(before.st_size)}), on disk "
        f"{format_bytes(after.st_blocks * 512)} (before {format_bytes(before.st_blocks * 512)})",
        soft_wrap=True,
    )
