"""Dumping: the tables of a heap file as they stand there, the log applied where it says so.

A row is data: numbers are numbers, also in a table, where offsets are hexadecimal ones; columns
have the names of the JSON, and what is not there is a ``-``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pmemheap.cli.beside import HeaderTables, tables_beside
from pmemheap.cli.checking import AnyFile
from pmemheap.cli.files import AsJson
from pmemheap.cli.show import in_a_pipe, output, print_whole, printable, table, write_json
from pmemheap.errors import HeapBusyError
from pmemheap.format import layout
from pmemheap.format.header import Tables
from pmemheap.format.layout import ArenaState, SegmentKind, Table
from pmemheap.format.records import Operation, OperationType, Record
from pmemheap.format.superblock import Superblock
from pmemheap.native.constants import Kind, StrategyCode
from pmemheap.offline import Examination, Extent, examine, open_image
from pmemheap.offline.slots import Slots

__all__ = ["dump"]

_ROWS_ON_A_TERMINAL = 200

Wanted = Annotated[bool, typer.Option()]
Row = dict[str, Any]


class _Offset(int):
    """A number that people read as a hexadecimal one."""

    def __str__(self) -> str:
        return f"{int(self):#x}"


def dump(  # noqa: PLR0913, PLR0917 -- one switch a table
    path: AnyFile,
    superblocks: Wanted = False,
    log: Wanted = False,
    segments: Wanted = False,
    arenas: Wanted = False,
    roots: Wanted = False,
    units: Wanted = False,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Rows of a table at most; {_ROWS_ON_A_TERMINAL} on a terminal if left out, and "
            "all of them in a pipe or as JSON.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the tables of a heap file, as they are; all but the units if none is named.

    Beside a writer that lets readers in there are those of the header, its log and units change.
    """
    shown = rows or (sys.maxsize if as_json or in_a_pipe() else _ROWS_ON_A_TERMINAL)
    extents: list[Extent] = []

    def keep(extent: Extent) -> None:
        if units and len(extents) <= shown:  # one more than is shown: the others are counted
            extents.append(extent)

    found: Examination | HeaderTables
    try:
        with open_image(path) as disk:
            found = examine(disk, keep)
    except HeapBusyError as busy:
        if log or units:
            raise
        found = tables_beside(path, busy)
    makers: dict[str, tuple[bool, Callable[[], list[Row]]]] = {
        "superblocks": (superblocks, lambda: _superblocks(found)),
        "log": (log, lambda: _records(found)),
        "segments": (segments, lambda: _segments(found.slots)),
        "arenas": (arenas, lambda: _arenas(found.slots)),
        "roots": (roots, lambda: _roots(found.slots)),
        "units": (units, lambda: [_extent(each) for each in extents]),
    }
    if isinstance(found, HeaderTables):
        del makers["log"]
    named = any(wanted for wanted, _ in makers.values())
    tables = {
        name: make()
        for name, (wanted, make) in makers.items()
        if wanted or (not named and name != "units")
    }
    if as_json:
        whole = all(len(lines) <= shown for lines in tables.values())
        facts = {"path": str(path), "damage": _damage(found), "whole": whole}
        write_json(facts | {name: lines[:shown] for name, lines in tables.items()})
        return
    for row in tables.get("arenas", ()):
        row["name"] = row["name"] or ("(default)" if row["slot"] == 0 else "")
    for name, lines in tables.items():
        _print(name, lines, shown)
    if _damage(found):
        output().print(f"{_damage(found)} findings: `pmemheap check` names them")


def _damage(found: Examination | HeaderTables) -> int:
    return found.findings.damage if isinstance(found, Examination) else 0


def _print(name: str, lines: list[Row], rows: int) -> None:
    columns = list(lines[0]) if lines else ["none"]
    made = table(name, *columns, left=len(columns))
    for line in lines[:rows]:
        made.add_row(*(_text(value) for value in line.values()))
    if len(lines) > rows:
        made.caption = "there are more; --rows shows them"
    print_whole(output(), made)
    output().print()


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(map(_operation_text, value))
    return "-" if value is None or value == "" else printable(str(value))


def _operation_text(operation: Row) -> str:
    name = " ".join(filter(None, (operation["type"], operation["table"])))
    return f"{name} {operation['offset']}+{operation['bytes']}"


# ---------------------------------------------------------------- rows


def _superblocks(found: Examination | HeaderTables) -> list[Row]:
    return [
        _superblock(index, block, counts=index == found.current)
        for index, block in enumerate(found.copies)
    ]


def _superblock(index: int, block: Superblock | None, *, counts: bool) -> Row:
    """Return a copy; one that is not sound has its place alone."""
    row: Row = {
        "copy": "AB"[index],
        "at": _Offset(layout.SUPERBLOCKS[index]),
        "sound": block is not None,
        "counts": counts,
    }
    if block is None:
        return row | dict.fromkeys(_SUPERBLOCK_COLUMNS)
    values = (
        block.generation, block.durability.name.lower(), block.state.name.lower(),
        _Offset(block.file_end), _Offset(block.log_off), _Offset(block.log_size),
        _Offset(block.limit) if block.limit else None, block.tail_lsn, _Offset(block.epoch),
        _Offset(block.chain_seed), block.uuid.hex(),
    )  # fmt: skip
    return row | dict(zip(_SUPERBLOCK_COLUMNS, values, strict=True))


_SUPERBLOCK_COLUMNS = (
    "generation", "durability", "state", "file_end", "log_at", "log_bytes", "limit", "tail",
    "epoch", "seed", "uuid",
)  # fmt: skip


def _records(found: Examination | HeaderTables) -> list[Row]:
    records = found.log.scan.records if isinstance(found, Examination) else ()
    return [_record(each) for each in records]


def _record(record: Record) -> Row:
    return {
        "lsn": record.lsn,
        "bytes": record.total_len,
        "kind": record.kind.name.lower(),
        "txid": record.txid,
        "durable": record.durable_lsn,
        "file_end": _Offset(record.file_end),
        "operations": [_operation(each) for each in record.ops],
    }


def _operation(operation: Operation) -> Row:
    is_meta = operation.type == OperationType.META
    return {
        "type": operation.type.name,
        "table": Table(operation.flags).name.lower() if is_meta else None,
        "offset": _Offset(operation.off),
        "bytes": operation.nbytes,
    }


def _segments(slots: Slots | Tables) -> list[Row]:
    lines = []
    for index, slot in sorted(slots.segments.items(), key=lambda each: each[1].file_off):
        is_data = slot.kind == SegmentKind.DATA
        lines.append(
            {
                "slot": index,
                "kind": slot.kind.name.lower(),
                "at": _Offset(slot.file_off),
                "bytes": slot.file_bytes,
                "arena": slot.arena if is_data else None,
                "first_unit": slot.first_unit if is_data else None,
                "units": slot.nunits if is_data else None,
                "capacity": slot.capacity,
            }
        )
    return lines


def _arenas(slots: Slots | Tables) -> list[Row]:
    return [
        {
            "slot": index,
            "name": arena.name,
            "state": ArenaState(arena.state).name.lower(),
            "first_unit": arena.first_unit,
            "end_unit": arena.end_unit,
            "strategy": StrategyCode(arena.strategy[0]).name.lower(),
            "row_bytes": arena.row_bytes or None,
        }
        for index, arena in sorted(slots.arenas.items())
    ]


def _roots(slots: Slots | Tables) -> list[Row]:
    return [
        {"slot": index, "name": root.name, "offset": _Offset(root.off)}
        for index, root in sorted(slots.roots.items())
    ]


def _block_bytes(extent: Extent) -> int | None:
    """Return the bytes of each block; None of a chunk, whose blocks differ."""
    if extent.is_chunk:
        return None
    return extent.block_bytes if extent.is_run else extent.nbytes


def _extent(extent: Extent) -> Row:
    return {
        "arena": extent.arena,
        "unit": extent.unit,
        "offset": _Offset(extent.offset),
        "units": extent.nunits,
        "kind": Kind(extent.kind).name.lower(),
        "block_bytes": _block_bytes(extent),
        "blocks": extent.block_count,
    }
