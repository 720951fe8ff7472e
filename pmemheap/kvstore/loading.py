"""Loading: CSV and JSON lines into a store, and a store out as JSON lines.

    CSV          id,name,age              key: one column; value: the others, as a JSON object
                 7,Ada,36                 b"7" -> b'{"name": "Ada", "age": "36"}'
    JSON lines   {"id": 7, "name": "Ada"} the same with `key_field="id"`: b"7" -> b'{"name": "Ada"}'
    a dump       {"key": "7", "value": "..."}                without `key_field`
                 {"key64": "/w==", "value64": "...", "ttl": 3.5}

A dump has a text where the bytes are UTF-8, else base64 under a name that ends in 64, and the
seconds that a key had left. What `dump_lines` writes `json_entries` reads: the same entries.

`load` stores entries in transactions: a crash in the middle leaves all of some, in order. A row
that cannot be read, or that the store refuses, is named by file and line.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, NamedTuple

from pmemheap import UsageError
from pmemheap.kvstore.store import KVStore

__all__ = ["Entry", "csv_entries", "dump_lines", "json_entries", "load", "text_lines"]

_BYTES_AT_ONCE = 1 << 20
_KEY_SHOWN = 40


class Entry(NamedTuple):
    """A key, its value, the seconds that it has left if it expires, and where it comes from."""

    key: bytes
    value: bytes
    ttl: float | None = None
    place: str = ""


def load(store: KVStore, entries: Iterable[Entry], *, batch: int = 1000) -> int:
    """Store entries in transactions of at most `batch`, or about a MiB; return how many.

    Raises
    ------
    Exception
        The store refuses an entry, or the source does not yield one. What the transactions before
        have stored stays. Notes of the error say where the entry comes from, and how many there
        are.
    """
    stored = under_way = 0
    try:
        for some in _batches(entries, batch):
            with store.transaction() as transaction:
                under_way = len(some)
                for one in some:
                    _store_one(store, one)
            stored, under_way = stored + under_way, 0
    except BaseException as error:
        if under_way and transaction.is_committed:  # an interrupt that waited for the commit
            stored += under_way
        error.add_note(f"entries stored before: {stored}")
        raise
    return stored


def _store_one(store: KVStore, one: Entry) -> None:
    try:
        store.set(one.key, one.value, one.ttl)
    except Exception as error:
        if one.place:
            error.add_note(f"{one.place}: key {_shortened(one.key)!r}")
        raise


def _shortened(key: bytes) -> bytes:
    return key if len(key) <= _KEY_SHOWN else key[:_KEY_SHOWN] + b"..."


def _batches(entries: Iterable[Entry], most: int) -> Iterator[list[Entry]]:
    some: list[Entry] = []
    nbytes = 0
    for entry in entries:
        some.append(entry)
        nbytes += len(entry.key) + len(entry.value)
        if len(some) >= most or nbytes >= _BYTES_AT_ONCE:
            yield some
            some, nbytes = [], 0
    if some:
        yield some


# ---------------------------------------------------------------- in


def csv_entries(
    lines: Iterable[str], key_column: str | None = None, *, source: str = "csv"
) -> Iterator[Entry]:
    """Yield an entry for each row of a CSV file with a header.

    Parameters
    ----------
    lines : iterable of str
        With their ends: of `text_lines`, or of a file that was opened with ``newline=""``.
    key_column : str, optional
        The first one if left out.
    source : str
        Name of the file, for errors.

    Raises
    ------
    UsageError
        There is no such column, or two columns have one name; a row has more or fewer fields than
        the header, or is no CSV or no UTF-8. File and line are named.
    """
    rows = _numbered(csv.reader(lines, strict=True), source)
    place, header = next(rows, (f"{source}, line 1", []))
    column = key_column if key_column is not None else next(iter(header), "")
    if header.count(column) != 1:
        raise UsageError(f"{place}: one column {column!r} expected, found {header}")
    if len(set(header)) != len(header):
        raise UsageError(f"{place}: columns of different names expected, found {header}")
    for place, row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise UsageError(f"{place}: {len(header)} fields expected, {len(row)} found")
        fields = dict(zip(header, row, strict=True))
        yield Entry(fields.pop(column).encode(), _json(fields), place=place)


def _numbered(rows: Any, source: str) -> Iterator[tuple[str, list[str]]]:
    """Yield rows of a `csv.reader`, each with the place of its first line."""
    while True:
        place = f"{source}, line {rows.line_num + 1}"
        try:
            row = next(rows, None)
        except (csv.Error, ValueError) as error:
            raise UsageError(f"{place}: a row of CSV in UTF-8 expected: {error}") from error
        if row is None:
            return
        yield place, row


def json_entries(
    lines: Iterable[str], key_field: str | None = None, *, source: str = "json lines"
) -> Iterator[Entry]:
    """Yield an entry for each line that is not blank.

    Parameters
    ----------
    lines : iterable of str
        A JSON object each.
    key_field : str, optional
        The field that has the key, a text or a number; the others are the value. If left out the
        lines are those of a dump.
    source : str
        Name of the file, for errors.

    Raises
    ------
    UsageError
        A line is something else; file and line are named.
    """
    for place, line in _lines(lines, source):
        if line.strip():
            try:
                found = _object(line)
                entry = _dumped(found) if key_field is None else _keyed(found, key_field)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{place}: {error}") from error
            yield entry._replace(place=place)


def _lines(lines: Iterable[str], source: str) -> Iterator[tuple[str, str]]:
    """Yield lines, each with its place."""
    rest = iter(lines)
    for number in count(1):
        place = f"{source}, line {number}"
        try:
            line = next(rest, None)
        except ValueError as error:
            raise UsageError(f"{place}: UTF-8 expected: {error}") from error
        if line is None:
            return
        yield place, line


def text_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a file in UTF-8, with or without a mark of it at the beginning.

    They are decoded one by one, so that one that is something else can be named.
    """
    for number, line in enumerate(lines):
        yield line.decode("utf-8" if number else "utf-8-sig")


def _object(line: str) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError(f"an object expected, {type(found).__name__} found")
    return found


def _keyed(found: dict[str, Any], name: str) -> Entry:
    key = found.pop(name, None)
    if isinstance(key, bool) or not isinstance(key, str | int | float):
        raise ValueError(f"a text or a number as {name!r} expected, {key!r} found")
    return Entry(str(key).encode(), _json(found))


def _dumped(found: dict[str, Any]) -> Entry:
    ttl = found.get("ttl")
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float)):
        raise ValueError(f"seconds as 'ttl' expected, {ttl!r} found")
    return Entry(_field(found, "key"), _field(found, "value"), ttl)


def _field(found: dict[str, Any], name: str) -> bytes:
    text, coded = found.get(name), found.get(f"{name}64")
    if isinstance(text, str) and coded is None:
        return text.encode()
    if isinstance(coded, str) and text is None:
        try:
            return base64.b64decode(coded, validate=True)
        except binascii.Error as error:
            raise ValueError(f"base64 as '{name}64' expected: {error}") from error
    raise ValueError(f"a text as {name!r} or '{name}64' expected, found {sorted(found)}")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


# ---------------------------------------------------------------- out


def dump_lines(
    store: KVStore, start: bytes | None = None, stop: bytes | None = None
) -> Iterator[str]:
    """Yield a line of JSON for each entry of a range, without its end of line."""
    for key, value in store.items(start, stop):
        try:
            ttl = store.ttl(key)
        except KeyError:  # it has expired, or was removed, since it was yielded
            continue
        if ttl == 0:  # it expires now, and could not be loaded
            continue
        line = {**_coded("key", key), **_coded("value", value)}
        if ttl is not None:
            line["ttl"] = ttl
        yield json.dumps(line, ensure_ascii=False)


def _coded(name: str, data: bytes) -> dict[str, Any]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}64": base64.b64encode(data).decode("ascii")}
