"""Loading: CSV and JSON lines into a store, and a store out as JSON lines.

    CSV          id,name,age              key: one column; value: the others, as a JSON object
                 7,Ada,36                 b"7" -> b'{"name": "Ada", "age": "36"}'
    JSON lines   {"id": 7, "name": "Ada"} the same with `key_field="id"`: b"7" -> b'{"name": "Ada"}'
    a dump       {"key": "7", "value": "..."}                without `key_field`
                 {"key64": "/w==", "value64": "...", "ttl": 3.5}

A dump has a text where the bytes are UTF-8, else base64 under a name that ends in 64, and the
seconds that a key had left. What `dump_lines` writes `json_entries` reads: the same entries.

`load` stores entries in transactions: a crash in the middle leaves all of some, in order.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kvstore.store import KVStore
from pmemheap import UsageError

__all__ = ["Entry", "csv_entries", "dump_lines", "json_entries", "load"]

_BYTES_AT_ONCE = 1 << 20


class Entry(NamedTuple):
    """A key, its value, and the seconds that it has left, if it expires."""

    key: bytes
    value: bytes
    ttl: float | None = None


def load(store: KVStore, entries: Iterable[Entry], *, batch: int = 1000) -> int:
    """Store entries in transactions of at most `batch`, or about a MiB; return how many."""
    count = 0
    for some in _batches(entries, batch):
        with store.transaction():
            for key, value, ttl in some:
                store.set(key, value, ttl)
        count += len(some)
    return count


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


def csv_entries(lines: Iterable[str], key_column: str | None = None) -> Iterator[Entry]:
    """Yield an entry for each row of a CSV file with a header.

    Parameters
    ----------
    lines : iterable of str
        A file that was opened with ``newline=""``.
    key_column : str, optional
        The first one if left out.

    Raises
    ------
    UsageError
        There is no such column; a row has more or fewer fields than the header. It is named.
    """
    rows = csv.reader(lines)
    header = next(rows, [])
    column = key_column if key_column is not None else next(iter(header), "")
    if header.count(column) != 1:
        raise UsageError(f"csv, line 1: one column {column!r} expected, found {header}")
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise UsageError(
                f"csv, line {rows.line_num}: {len(header)} fields expected, {len(row)} found"
            )
        fields = dict(zip(header, row, strict=True))
        yield Entry(fields.pop(column).encode(), _json(fields))


def json_entries(lines: Iterable[str], key_field: str | None = None) -> Iterator[Entry]:
    """Yield an entry for each line that is not blank.

    Parameters
    ----------
    lines : iterable of str
        A JSON object each.
    key_field : str, optional
        The field that has the key, a text or a number; the others are the value. If left out the
        lines are those of a dump.

    Raises
    ------
    UsageError
        A line is something else; it is named.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found = _object(line)
                yield _dumped(found) if key_field is None else _keyed(found, key_field)
            except ValueError as error:
                raise UsageError(f"json lines, line {number}: {error}") from error


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
        line = {**_coded("key", key), **_coded("value", value)}
        if ttl is not None:
            line["ttl"] = ttl
        yield json.dumps(line, ensure_ascii=False)


def _coded(name: str, data: bytes) -> dict[str, Any]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}64": base64.b64encode(data).decode("ascii")}
