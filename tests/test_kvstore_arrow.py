"""The key-value store as tables of Apache Arrow. Collected where pyarrow is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pmemheap import UsageError
from pmemheap.kvstore import KVStore
from pmemheap.kvstore.arrow import batches, from_arrow, schema, to_arrow

NS = 1_000_000_000
NOW = 1_700_000_000 * NS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KVStore]:
    with KVStore(tmp_path / "a.kv", "process", clock=lambda: NOW) as store:
        store.put_many([(b"%03d" % number, b"x" * number) for number in range(300)])
        store.set(b"1", b"\xff", ttl=5, tag="t")
        yield store
        store.check()


def facts(store: KVStore) -> list[Any]:
    return [(*item, store.ttl(item[0]), store.tag(item[0])) for item in store.items()]


def test_a_table_has_all_of_a_store(store: KVStore, tmp_path: Path) -> None:
    table = store.to_arrow()
    assert (table.schema, table.num_rows) == (schema(), 301)
    assert table.column("key").to_pylist() == [*store]
    assert table.column("value").to_pylist() == [*store.values()]
    parquet.write_table(table, tmp_path / "a.parquet")
    with KVStore(tmp_path / "b.kv", "process", clock=lambda: NOW) as other:
        assert other.from_arrow(parquet.read_table(tmp_path / "a.parquet"), batch=100) == 301
        assert facts(other) == facts(store)
        other.check()


def test_ranges_come_in_batches(store: KVStore) -> None:
    found = list(batches(store, b"000", b"100", rows=40))
    assert [batch.num_rows for batch in found] == [40, 40, 21]
    assert to_arrow(store, b"1", b"100").to_pylist() == [
        {"key": b"1", "value": b"\xff", "tag": b"t",
         "deadline": pa.scalar(NOW + 5 * NS, schema().field("deadline").type).as_py()},
    ]  # fmt: skip
    assert to_arrow(store, b"zzz").num_rows == 0
    store.clear()
    assert from_arrow(store, iter(found)) == 101
    with pytest.raises(UsageError, match="at least 1 expected, 0 found"):
        next(batches(store, rows=0))


def test_what_has_expired_or_goes_meanwhile_is_left_out(store: KVStore) -> None:
    store.set_until(b"2", b"", NOW)
    assert to_arrow(store, b"2", b"200").num_rows == 0
    found = batches(store, b"290", rows=1)
    assert next(found).num_rows == 1
    store.clear()
    assert list(found) == []


def test_columns_of_text_and_other_times_are_taken(store: KVStore) -> None:
    table = pa.table(
        {
            "key": ["a", "ä"],
            "value": pa.array([b"12", b"34"], pa.binary(2)),
            "deadline": pa.array([NOW // NS + 9, None], pa.timestamp("s", tz="UTC")),
            "tag": pa.nulls(2),
            "other": [1, 2],
        }
    )
    assert from_arrow(store.sub("texts"), table) == 2
    texts = store.sub("texts")
    assert dict(texts) == {b"a": b"12", "ä".encode(): b"34"}
    assert (texts.ttl(b"a"), texts.ttl("ä".encode())) == (9, None)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"key": [b"a"]}, "one column 'value' expected"),
        ({"key": [1], "value": [b"a"]}, "column 'key': bytes expected: int64 found"),
        ({"key": [b"a"], "value": [None]}, "key and value expected, found b'a', None"),
        ({"key": [b"a"], "value": [b"a"], "deadline": [b"x"]}, "column 'deadline': time expected"),
        ({"key": [b"a"], "value": [b"a"], "tag": [5.0]}, "column 'tag': bytes expected: double"),
    ],
)
def test_other_tables_are_refused(store: KVStore, columns: dict[str, Any], says: str) -> None:
    before = facts(store)
    with pytest.raises(UsageError, match=says):
        from_arrow(store, pa.table(columns))
    assert facts(store) == before
