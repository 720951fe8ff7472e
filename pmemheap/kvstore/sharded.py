"""sharded: one store over many workers of Dask, each shard an actor with a heap file of its own.

                      +-> actor of shard 0: directory/shard-0-of-3.heap
    hash of the key --+-> actor of shard 1: directory/shard-1-of-3.heap
                      +-> actor of shard 2: directory/shard-2-of-3.heap

The hash is one that is the same in every process, so a key is found again where it was put. The
number of shards is part of the names of the files: a directory that was made with another number is
refused. Each shard is in key order, and `items` merges them, a page of each at a time.

The directory is one that all workers see, or all workers are on one machine. A put that has
returned is as durable as its shard makes it; there is nothing that spans shards.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from distributed import Client

from pmemheap import DurabilityName
from pmemheap.kvstore.store import KVStore

__all__ = ["Shard", "ShardedStore"]

PAGE_ITEMS = 256

Item = tuple[bytes, bytes]


class Shard:
    """One shard, where its file is; lives on a worker.

    Raises
    ------
    ValueError
        The directory holds shards of another number of them.
    """

    def __init__(
        self,
        directory: str,
        number: int,
        shards: int,
        durability: DurabilityName,
        headroom: int | None = None,
    ) -> None:
        ours = f"-of-{shards}.heap"
        for path in Path(directory).glob("shard-*-of-*.heap"):
            if not path.name.endswith(ours):
                raise ValueError(f"{directory}: shards {ours!r} expected, found {path.name}")
        path = Path(directory, f"shard-{number}{ours}")
        self._store = KVStore(path, durability, headroom=headroom)

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None."""
        value: bytes | None = self._store.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Give a key a value."""
        self._store[key] = value

    def delete(self, key: bytes) -> bool:
        """Remove a key; tell whether it was there."""
        return self._store.delete(key)

    def count(self) -> int:
        """Return the number of keys."""
        return len(self._store)

    def page(self, after: bytes | None) -> list[Item]:
        """Return the next items in key order, those behind a key; none: that was all."""
        found = (item for item in self._store.items(after, None) if item[0] != after)
        return list(islice(found, PAGE_ITEMS))

    def close(self) -> None:
        """Close the file."""
        self._store.close()


class ShardedStore:
    """A mapping of bytes to bytes over the workers of a cluster.

    Parameters
    ----------
    client : Client
        Connected; its workers can import this module.
    directory : str
        Exists; the files lie in it.
    shards : int
        How many: always the same for one directory.
    durability : str
        Of each shard.
    headroom : int, optional
        Of each shard; see `pmemheap.kvstore.KVStore`.

    Raises
    ------
    ValueError
        The directory was made with another number of shards.
    """

    def __init__(
        self,
        client: Client,
        directory: str,
        shards: int = 4,
        durability: DurabilityName = "power",
        *,
        headroom: int | None = None,
    ) -> None:
        made = [
            client.submit(
                Shard, directory, number, shards, durability, headroom, actor=True, pure=False
            )
            for number in range(shards)
        ]
        self._shards: list[Any] = [future.result() for future in made]

    def _of(self, key: bytes) -> Any:
        return self._shards[zlib.crc32(key) % len(self._shards)]

    def get(self, key: bytes, default: bytes | None = None) -> bytes | None:
        """Return a value, or the default."""
        value: bytes | None = self._of(key).get(key).result()
        return default if value is None else value

    def put(self, key: bytes, value: bytes) -> None:
        """Give a key a value; return when its shard has committed it."""
        self._of(key).put(key, value).result()

    def delete(self, key: bytes) -> bool:
        """Remove a key; tell whether it was there."""
        return bool(self._of(key).delete(key).result())

    def items(self) -> Iterator[Item]:
        """Yield all items in key order; what changes meanwhile is seen or not."""
        return heapq.merge(*map(_all_of, self._shards))

    def __len__(self) -> int:
        """Return the number of keys."""
        return sum(waiting.result() for waiting in [shard.count() for shard in self._shards])

    def close(self) -> None:
        """Close all shards; they stay on their workers until the client lets go of them."""
        for waiting in [shard.close() for shard in self._shards]:
            waiting.result()


def _all_of(shard: Any) -> Iterator[Item]:
    """Yield the items of a shard, page by page."""
    page = shard.page(None).result()
    while page:
        yield from page
        page = shard.page(page[-1][0]).result()
