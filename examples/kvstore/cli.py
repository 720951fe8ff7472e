"""Cli: the commands of `python -m kvstore`, and the one place where an error ends them.

    get, put, delete, scan      one store, keys and values as text
    load, dump                  CSV and JSON lines; see `kvstore.loading`
    stats, serve                what it consists of; a server in front of it

Keys and values of the command line are the bytes that the shell passed. Exit codes: 0 done, 1 no
such key, 2 wrong call, 3 corrupt file, 4 no space, 5 not written to the medium.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kvstore.loading import Entry, csv_entries, dump_lines, json_entries
from kvstore.loading import load as load_entries
from kvstore.store import KVStore
from pmemheap import CorruptHeapError, DurabilityError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.units import counted

__all__ = ["app", "run"]

app = typer.Typer(
    name="kvstore",
    help="An ordered store of keys and values in one heap file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_USAGE = 2
_EXIT_CODES: list[tuple[type[Exception], int]] = [
    (KeyError, 1),
    (CorruptHeapError, 3),
    (OutOfSpaceError, 4),
    (DurabilityError, 5),
]


class Durability(StrEnum):
    """What the promise of a store is called on the command line."""

    POWER = "power"
    PROCESS = "process"


class Format(StrEnum):
    """What a file to load is."""

    CSV = "csv"
    JSONL = "jsonl"


Store = Annotated[Path, typer.Argument(metavar="STORE", help="The file of the store.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Bytes, as the shell passes them.")]
Promise = Annotated[Durability, typer.Option(help="Of a store that is made by this command.")]
Ttl = Annotated[float | None, typer.Option(metavar="SECONDS", help="Let the key expire.")]
Start = Annotated[str | None, typer.Option(metavar="KEY", help="The first key.")]
Stop = Annotated[str | None, typer.Option(metavar="KEY", help="The first key that is too far.")]


@app.command()
def get(path: Store, key: Key) -> None:
    """Print the value of a key, and an end of line."""
    with KVStore(path, flag="r") as store:
        _print_bytes(store[os.fsencode(key)])


@app.command()
def put(
    path: Store,
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="'-': from standard input.")],
    ttl: Ttl = None,
    durability: Promise = Durability.POWER,
) -> None:
    """Give a key a value; the store is made if there is none."""
    data = sys.stdin.buffer.read() if value == "-" else os.fsencode(value)
    with KVStore(path, durability.value) as store:
        store.set(os.fsencode(key), data, ttl)


@app.command()
def delete(
    path: Store, keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="At least one.")]
) -> None:
    """Remove keys: all of them, or none if one is not there."""
    with KVStore(path, flag="w") as store, store.transaction():
        for key in keys:
            del store[os.fsencode(key)]


@app.command()
def scan(  # noqa: PLR0913, PLR0917 -- options, all by name
    path: Store,
    start: Start = None,
    stop: Stop = None,
    count: Annotated[int | None, typer.Option(min=0, help="The most to print.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="From the last key on.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys", help="Keys without values.")] = False,
) -> None:
    """Print keys and values in order, a tab between them."""
    with KVStore(path, flag="r") as store:
        found = store.items(_key(start), _key(stop), reverse=reverse)
        for key, value in islice(found, count):
            _print_bytes(key if keys_only else key + b"\t" + value)


@app.command()
def load(  # noqa: PLR0913, PLR0917 -- options, all by name
    path: Store,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSON lines, UTF-8.")],
    form: Annotated[
        Format | None, typer.Option("--format", help="By the name of the file if left out.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column or field with the key; the others are the value, as JSON. CSV: the first "
            "column if left out. JSON lines: as `dump` writes them if left out.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Keys in a transaction.")] = 1000,
    durability: Promise = Durability.POWER,
) -> None:
    """Store what a file has; the store is made if there is none."""
    form = form or _form_of(source)
    with (
        _progress() as progress,
        progress.open(source, "rt", encoding="utf-8", newline="", description=source.name) as lines,
        KVStore(path, durability.value) as store,
    ):
        count = load_entries(store, _entries(lines, form, key), batch=batch)
    typer.echo(f"{path}: {counted(count, 'entry')} from {source}")


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, disable=not console.is_terminal)


def _form_of(source: Path) -> Format:
    suffix = source.suffix.lower()
    if suffix == ".csv":
        return Format.CSV
    if suffix in {".jsonl", ".ndjson", ".json"}:
        return Format.JSONL
    raise UsageError(f"{source}: a name in .csv or .jsonl, or --format, expected; {suffix!r} found")


def _entries(lines: IO[str], form: Format, key: str | None) -> Iterator[Entry]:
    return csv_entries(lines, key) if form is Format.CSV else json_entries(lines, key)


@app.command()
def dump(
    path: Store,
    target: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Standard output if left out.")
    ] = None,
    start: Start = None,
    stop: Stop = None,
) -> None:
    """Write keys and values as JSON lines: UTF-8 as text, other bytes as base64."""
    with KVStore(path, flag="r") as store:
        opened = nullcontext(sys.stdout) if target is None else target.open("w", encoding="utf-8")
        with opened as out:
            out.writelines(f"{line}\n" for line in dump_lines(store, _key(start), _key(stop)))


@app.command()
def stats(
    path: Store, as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """Tell what a store consists of."""
    with KVStore(path, flag="r") as store:
        found = asdict(store.stats())
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("", str(path), box=None)
    for name, value in found.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


@app.command()
def serve(
    path: Store,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any.")] = 6379,
    durability: Promise = Durability.POWER,
) -> None:
    """Serve a store to other programs until interrupted; it is made if there is none."""
    server = importlib.import_module("kvstore.server")  # only this command needs it
    with KVStore(path, durability.value) as store:
        server.serve(store, host, port)


def _key(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _print_bytes(data: bytes) -> None:
    sys.stdout.buffer.write(data + b"\n")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        app(args=arguments, prog_name="kvstore")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except (KeyError, PmemHeapError, OSError, ValueError, MemoryError) as error:
        sys.stderr.write(f"kvstore: {_line_of(error)}\n")
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), _USAGE)
    return 0


def _line_of(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"key {error.args[0]!r}: no such key"
    is_ours = isinstance(error, PmemHeapError)  # whose text has the file, and more
    if isinstance(error, OSError) and not is_ours and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
