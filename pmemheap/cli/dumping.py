"""Dumping: the tables of a heap file as they stand there, the log applied where it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from pmemheap import layout
from pmemheap.cli.checking import AnyFile
from pmemheap.cli.files import AsJson
from pmemheap.cli.show import output, table, write_json
from pmemheap.layout import ArenaState, SegmentKind, Table
from pmemheap.offline import Examination, Extent, examine, open_image
from pmemheap.records import Operation, OperationType, Record
from pmemheap.slabs import CLASSES
from pmemheap.units import format_bytes

__all__ = ["dump"]

_ROWS_MOST = 200

Wanted = Annotated[bool, typer.Option()]
Row = dict[str, Any]


def dump(  # noqa: PLR0913, PLR0917 -- one switch a table
    path: AnyFile,
    superblocks: Wanted = False,
    log: Wanted = False,
    segments: Wanted = False,
    arenas: Wanted = False,
    roots: Wanted = False,
    units: Wanted = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a table at most.")] = _ROWS_MOST,
    as_json: AsJson = False,
) -> None:
    """Print the tables of a heap file, as they are; all but the units if none is named."""
    extents: list[Extent] = []

    def keep(extent: Extent) -> None:
        if units and len(extents) <= rows:
            extents.append(extent)

    with open_image(path) as disk:
        found = examine(disk, keep)
    makers: dict[str, tuple[bool, Callable[[], list[Row]]]] = {
        "superblocks": (superblocks, lambda: _superblocks(found)),
        "log": (log, lambda: [_record(each) for each in found.log.scan.records]),
        "segments": (segments, lambda: _segments(found)),
        "arenas": (arenas, lambda: _arenas(found)),
        "roots": (roots, lambda: _roots(found)),
        "units": (units, lambda: [_extent(each) for each in extents]),
    }
    named = any(wanted for wanted, _ in makers.values())
    tables = {
        name: make()
        for name, (wanted, make) in makers.items()
        if wanted or (not named and name != "units")
    }
    if as_json:
        write_json({"path": str(path), "damage": found.findings.damage, **tables})
        return
    for name, lines in tables.items():
        _print(name, lines, rows)
    if not found.is_sound:
        output().print(f"{found.findings.damage} findings: `pmemheap check` names them")


def _print(name: str, lines: list[Row], rows: int) -> None:
    columns = list(lines[0]) if lines else ["none"]
    made = table(name, *columns, left=len(columns))
    for line in lines[:rows]:
        made.add_row(*(_text(value) for value in line.values()))
    if len(lines) > rows:
        made.caption = f"and {len(lines) - rows} more; --rows shows more"
    output().print(made)
    output().print()


def _text(value: Any) -> str:
    return "" if value is None else str(value)


# ---------------------------------------------------------------- rows


def _superblocks(found: Examination) -> list[Row]:
    lines = []
    for index, block in enumerate(found.copies):
        line: Row = {"copy": "AB"[index], "at": f"{layout.SUPERBLOCKS[index]:#x}"}
        if block is None:
            lines.append(line | {"generation": "not sound"} | dict.fromkeys(_SUPERBLOCK_COLUMNS))
            continue
        values = (
            block.durability.name.lower(), block.state.name.lower().replace("_", " "),
            f"{block.file_end:#x}", f"{block.log_off:#x}", f"{block.log_size:#x}", block.tail_lsn,
            f"{block.epoch:#x}", f"{block.chain_seed:#010x}", block.uuid.hex(),
        )  # fmt: skip
        counts = " *" if index == found.current else ""
        line["generation"] = f"{block.generation}{counts}"
        lines.append(line | dict(zip(_SUPERBLOCK_COLUMNS, values, strict=True)))
    return lines


_SUPERBLOCK_COLUMNS = (
    "durability", "state", "file end", "log at", "log bytes", "tail", "epoch", "seed", "uuid",
)  # fmt: skip


def _record(record: Record) -> Row:
    return {
        "lsn": record.lsn,
        "bytes": record.total_len,
        "kind": record.kind.name.lower(),
        "txid": record.txid,
        "durable": record.durable_lsn,
        "file end": f"{record.file_end:#x}",
        "operations": ", ".join(_operation(each) for each in record.ops) or None,
    }


def _operation(operation: Operation) -> str:
    name = operation.type.name
    if operation.type == OperationType.META:
        name = f"META {Table(operation.flags).name.lower()}"
    return f"{name} {operation.off:#x}+{operation.nbytes}"


def _segments(found: Examination) -> list[Row]:
    lines = []
    for index, slot in sorted(found.slots.segments.items(), key=lambda each: each[1].file_off):
        is_data = slot.kind == SegmentKind.DATA
        lines.append(
            {
                "slot": index,
                "kind": slot.kind.name.lower(),
                "at": f"{slot.file_off:#x}",
                "bytes": format_bytes(slot.file_bytes),
                "arena": slot.arena if is_data else None,
                "units from": slot.first_unit if is_data else None,
                "units": slot.nunits if is_data else None,
                "capacity": slot.capacity,
            }
        )
    return lines


def _arenas(found: Examination) -> list[Row]:
    return [
        {
            "slot": index,
            "name": arena.name or ("(default)" if index == 0 else ""),
            "state": ArenaState(arena.state).name.lower(),
            "first unit": arena.first_unit,
            "end unit": arena.end_unit,
        }
        for index, arena in sorted(found.slots.arenas.items())
    ]


def _roots(found: Examination) -> list[Row]:
    return [
        {"slot": index, "name": root.name, "offset": f"{root.off:#x}"}
        for index, root in sorted(found.slots.roots.items())
    ]


def _extent(extent: Extent) -> Row:
    return {
        "arena": extent.arena,
        "unit": extent.unit,
        "offset": f"{extent.offset:#x}",
        "units": extent.nunits,
        "kind": "run" if extent.is_run else "large",
        "block bytes": CLASSES[extent.class_index].size if extent.is_run else extent.nbytes,
        "blocks": extent.block_count,
    }
