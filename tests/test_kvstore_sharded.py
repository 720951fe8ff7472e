"""A store over the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from pmemheap.kvstore.sharded import PAGE_ITEMS, ShardedStore
from pmemheap.kvstore.store import KVStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="localhost:0",
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client


def test_keys_are_spread_and_found(client: Any, tmp_path: Path) -> None:
    store = ShardedStore(client, str(tmp_path), 3, "process")
    expected = {b"key %d" % i: b"%d" % i for i in range(60)}
    for key, value in expected.items():
        store.put(key, value)
    assert len(store) == 60
    assert store.get(b"key 7") == b"7"
    assert store.get(b"none", b"default") == b"default"
    assert store.delete(b"key 7") is True
    assert store.delete(b"key 7") is False
    del expected[b"key 7"]
    assert list(store.items()) == sorted(expected.items())
    store.close()
    parts = []
    for number in range(3):
        with KVStore(tmp_path / f"shard-{number}-of-3.heap", flag="r") as part:
            part.check()
            parts.append(len(part))
    assert sum(parts) == 59
    assert min(parts) > 5

    again = ShardedStore(client, str(tmp_path), 3)
    assert dict(again.items()) == expected
    again.close()
    with pytest.raises(ValueError, match="of-2"):
        ShardedStore(client, str(tmp_path), 2)


def test_items_come_in_pages(client: Any, tmp_path: Path) -> None:
    with KVStore(tmp_path / "shard-0-of-1.heap", "process") as part:
        part.put_many((b"%06d" % i, b"") for i in range(3 * PAGE_ITEMS))
    store = ShardedStore(client, str(tmp_path), 1)
    assert [key for key, _ in store.items()] == [b"%06d" % i for i in range(3 * PAGE_ITEMS)]
    store.close()
