"""Cli: the commands of `kvstore`, and the one place where an error ends them.

    get, put, delete, scan               one store, keys and values as text
    load, dump, snapshot                 CSV and JSON lines, see `pmemheap.kvstore.loading`; a copy
    stats, check, purge, compact         what it consists of, whether it is sound; its space
    serve                                a server in front of it

Keys and values of the command line are the bytes that the shell passed. Exit codes: 0 done, 1 no
such key, 2 wrong call, 3 corrupt file, 4 no space, 5 not written to the medium.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pmemheap import (
    CorruptHeapError,
    DurabilityError,
    DurabilityName,
    OutOfSpaceError,
    PmemHeapError,
    UsageError,
)
from pmemheap.kvstore.cursor import end_of
from pmemheap.kvstore.loading import csv_entries, dump_lines, json_entries, text_lines
from pmemheap.kvstore.loading import load as load_entries
from pmemheap.kvstore.store import KVStore
from pmemheap.units import counted

__all__ = ["app", "run"]

app: typer.Typer = typer.Typer(
    name="kvstore",
    help="An ordered store of keys and values in one heap file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_STORE_BEGINS = b"PMEMHEAP"
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

    @property
    def named(self) -> DurabilityName:
        """The name, as a store takes it."""
        return "power" if self is Durability.POWER else "process"


class Policy(StrEnum):
    """What goes when a limit is reached."""

    LRU = "lru"
    LFU = "lfu"
    TTL = "ttl"
    NONE = "none"


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
Prefix = Annotated[str | None, typer.Option(metavar="TEXT", help="What the keys begin with.")]


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
    with KVStore(path, durability.named) as store:
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
    prefix: Prefix = None,
    count: Annotated[int | None, typer.Option(min=0, help="The most to print.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="From the last key on.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys", help="Keys without values.")] = False,
) -> None:
    """Print keys and values in order, a tab between them."""
    with KVStore(path, flag="r") as store:
        low, high = _range(start, stop, prefix)
        if keys_only:
            lines = iter(store.keys(low, high, reverse=reverse))
        else:
            items = store.items(low, high, reverse=reverse)
            lines = (key + b"\t" + value for key, value in items)
        for line in islice(lines, count):
            _print_bytes(line)


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
        progress.open(source, "rb", description=source.name) as lines,
        KVStore(path, durability.named) as store,
    ):
        read = csv_entries if form is Format.CSV else json_entries
        with _interrupt_told(path):
            entries = read(text_lines(lines), key, source=str(source))
            count = load_entries(store, entries, batch=batch)
    typer.echo(f"{path}: {counted(count, 'entry')} from {source}")


@contextmanager
def _interrupt_told(path: Path) -> Iterator[None]:
    """Say what is left of a call that is interrupted."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        notes = "; ".join(getattr(interrupt, "__notes__", []))
        sys.stderr.write(f"kvstore: {path}: interrupted ({notes})\n")
        raise


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


@app.command()
def dump(
    path: Store,
    target: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Standard output if left out.")
    ] = None,
    start: Start = None,
    stop: Stop = None,
    prefix: Prefix = None,
) -> None:
    """Write keys and values as JSON lines: UTF-8 as text, other bytes as base64."""
    if target is not None:
        _require_no_store(target)
    with KVStore(path, flag="r") as store:
        opened = nullcontext(sys.stdout) if target is None else target.open("w", encoding="utf-8")
        with opened as out:
            lines = dump_lines(store, *_range(start, stop, prefix))
            out.writelines(f"{line}\n" for line in lines)


def _require_no_store(target: Path) -> None:
    """Refuse a store, which somebody may have open, as the file that a text is written over."""
    if target.is_file():
        with target.open("rb") as file:
            if file.read(len(_STORE_BEGINS)) == _STORE_BEGINS:
                raise UsageError(f"{target}: a new file or a text expected, found a store")


@app.command()
def snapshot(
    path: Store,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The copy.")],
    replace: Annotated[bool, typer.Option("--replace", help="In place of one there.")] = False,
) -> None:
    """Copy a store as it is, with its expiring keys."""
    with KVStore(path, flag="w") as store:
        store.snapshot(target, replace=replace)


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
def check(path: Store) -> None:
    """Verify a store: exit code 0 if it is sound, 3 if not."""
    with KVStore(path, flag="r") as store:
        store.check()
        typer.echo(f"{path}: sound, {len(store)} keys")


@app.command()
def purge(path: Store) -> None:
    """Remove the keys that have expired."""
    with KVStore(path, flag="w") as store:
        typer.echo(f"{path}: {store.purge()} expired keys removed")


@app.command()
def compact(path: Store) -> None:
    """Remove expired keys, and give back the space that a store does not need."""
    with KVStore(path, flag="w") as store:
        before = store.stats().file_blocks
        store.compact()
        after = store.stats().file_blocks
    typer.echo(f"{path}: {before} bytes of the disk before, {after} now")


@app.command()
def serve(  # noqa: PLR0913, PLR0917 -- options, all by name
    path: Store,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any.")] = 6379,
    max_request: Annotated[
        int | None, typer.Option(min=1, metavar="BYTES", help="Of one request; 64 MiB if left out.")
    ] = None,
    max_clients: Annotated[
        int | None, typer.Option(min=1, help="Connections at a time; 10000 if left out.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="BYTES", help="Of keys and values, with --evict.")
    ] = None,
    evict: Annotated[
        Policy | None,
        typer.Option(help="What goes at the limit; the store remembers both. none: no limit."),
    ] = None,
    durability: Promise = Durability.POWER,
) -> None:
    """Serve a store to Redis clients until interrupted; it is made if there is none.

    Where it listens is printed when clients can connect.
    """
    server = importlib.import_module("pmemheap.kvstore.server")  # only this command needs it
    given = {"max_request": max_request, "max_clients": max_clients}
    limits = {name: value for name, value in given.items() if value is not None}
    policy = None if evict is None else evict.value
    with KVStore(path, durability.named, limit=limit, evict=policy) as store:
        server.serve(store, host, port, ready=partial(_print_address, path, host), **limits)


def _print_address(path: Path, host: str, port: int) -> None:
    sys.stdout.write(f"{path}: listening at {host}:{port}\n")
    sys.stdout.flush()


def _range(
    start: str | None, stop: str | None, prefix: str | None
) -> tuple[bytes | None, bytes | None]:
    """Return the bounds of the keys that lie between two and begin with a text."""
    low, high = (None if text is None else os.fsencode(text) for text in (start, stop))
    if prefix is None:
        return low, high
    first = os.fsencode(prefix)
    ends = [end for end in (high, end_of(first)) if end is not None]
    return max(low or b"", first), min(ends, default=None)


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
    """Return one line for an error, with its notes: where it was met, what is left of it."""
    notes = "; ".join(getattr(error, "__notes__", []))
    return _words_of(error) + (f" ({' '.join(notes.split())})" if notes else "")


def _words_of(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"key {error.args[0]!r}: no such key"
    is_ours = isinstance(error, PmemHeapError)  # whose text has the file, and more
    if isinstance(error, OSError) and not is_ours and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
