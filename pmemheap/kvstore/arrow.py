"""Arrow: a store as a table of Apache Arrow, and a table into a store; needs the extra ``arrow``.

    key: large_binary   value: large_binary   deadline: timestamp[ns, UTC]   tag: large_binary
    b"pear"             b"3"                  null: it does not expire       null: it has none

With it a store is read and written by whatever reads Arrow or Parquet.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from pmemheap import UsageError

if TYPE_CHECKING:
    from pmemheap.kvstore.reading import Reading
    from pmemheap.kvstore.substore import SubStore

__all__ = ["batches", "from_arrow", "schema", "to_arrow"]

_ROWS = 1 << 16
_BATCH = 256


def _pyarrow() -> Any:
    """Return pyarrow; it is an extra, and the rest of the store does without."""
    try:
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"a table needs pyarrow: pip install 'pmemheap[arrow]' ({error})", name=error.name
        ) from error


def schema() -> Any:
    """Return the columns of a table."""
    pa = _pyarrow()
    return pa.schema(
        [
            pa.field("key", pa.large_binary(), nullable=False),
            pa.field("value", pa.large_binary(), nullable=False),
            pa.field("deadline", pa.timestamp("ns", tz="UTC")),
            pa.field("tag", pa.large_binary()),
        ]
    )


def to_arrow(store: Reading, start: bytes | None = None, stop: bytes | None = None) -> Any:
    """Return the entries of a range as a `pyarrow.Table`, in key order.

    Parameters
    ----------
    store : SubStore
        A store, or one that `KVStore.sub` makes.
    start, stop : bytes, optional
        As of `SubStore.items`.

    Notes
    -----
    The values are copied. Inside of ``with store.exclusive():`` the table is of one moment.
    """
    return _pyarrow().Table.from_batches(list(batches(store, start, stop)), schema())


def batches(
    store: Reading, start: bytes | None = None, stop: bytes | None = None, *, rows: int = _ROWS
) -> Iterator[Any]:
    """Yield the entries of a range as `pyarrow.RecordBatch`, so that no table is in memory."""
    if rows < 1:
        raise UsageError(f"rows: at least 1 expected, {rows} found")
    pa, columns = _pyarrow(), schema()
    found = _entries(store, start, stop)
    while some := list(islice(found, rows)):
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(zip(*some, strict=True), columns, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=columns)


def _entries(
    store: Reading, start: bytes | None, stop: bytes | None
) -> Iterator[tuple[bytes, bytes, int | None, bytes | None]]:
    for key, value in store.items(start, stop):
        try:
            yield key, value, store.deadline(key), store.tag(key)
        except KeyError:  # it has expired, or was removed, since it was yielded
            continue


def from_arrow(store: SubStore, table: Any, *, batch: int = _BATCH) -> int:
    """Store the rows of a table, in transactions; return how many.

    Parameters
    ----------
    store : SubStore
        A store, or one that `KVStore.sub` makes.
    table : pyarrow.Table, pyarrow.RecordBatch, or iterable
        The rows; an iterable, such as a reader, yields batches. It has the columns ``key`` and
        ``value``, binary or text, and may have ``deadline``, a timestamp, and ``tag``, binary or
        text. Others are passed over.
    batch : int
        Rows of a transaction; all in the one that is open.

    Raises
    ------
    UsageError
        A column is missing, or of another type; there is a null where there can be none. The
        transactions before have been committed.
    """
    pa, stored = _pyarrow(), 0
    for each in [table] if isinstance(table, pa.Table | pa.RecordBatch) else table:
        columns = [_column(each, name, kind) for name, kind in _KINDS.items()]
        rows = zip(*columns, strict=True)
        while some := list(islice(rows, batch)):
            with store.transaction():
                for key, value, deadline, tag in some:
                    if key is None or value is None:
                        raise UsageError(f"table: key and value expected, found {key!r}, {value!r}")
                    store.set_until(key, value, deadline, tag)
            stored += len(some)
    return stored


_KINDS = {"key": "bytes", "value": "bytes", "deadline": "time", "tag": "bytes"}


def _column(table: Any, name: str, kind: str) -> Any:
    """Return a column as a list of bytes, or of nanoseconds since 1970."""
    found = table.schema.get_all_field_indices(name)
    if len(found) != 1:
        if not found and name in {"deadline", "tag"}:
            return [None] * table.num_rows
        raise UsageError(f"table: one column {name!r} expected, found {table.schema.names}")
    pa, column = _pyarrow(), table.column(found[0])
    try:
        if kind == "bytes":
            return _bytes_of(column)
        return column.cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64()).to_pylist()
    except pa.ArrowException as error:
        raise UsageError(f"table, column {name!r}: {kind} expected: {error}") from error


def _bytes_of(column: Any) -> Any:
    pa, kind = _pyarrow(), column.type
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary,
             pa.types.is_string, pa.types.is_large_string, pa.types.is_null)  # fmt: skip
    if not any(test(kind) for test in tests):
        raise pa.ArrowTypeError(f"{kind} found")
    return column.cast(pa.large_binary()).to_pylist()
