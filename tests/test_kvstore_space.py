"""The disk space of the key-value store, after all that it held has been replaced twice."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from heap_world import named

from pmemheap import DurabilityName
from pmemheap.kvstore import KVStore
from pmemheap.units import KiB, MiB

MIXED = (16, 16 * KiB, 10_000_000)
SMALL = (100, 100, 3_000_000)
"""Bytes of the shortest and of the longest value, and of all that is live."""

TOGETHER = 20


class Churned:
    """A store, and a dict that says what is in it."""

    def __init__(self, path: Path, durability: DurabilityName, sizes: tuple[int, int, int]) -> None:
        self.path = path
        self.shortest, self.longest, self.least = sizes
        self.store = KVStore(path, durability, durable=False)  # the space is the same, it is faster
        self.rng = random.Random(1)
        self.model: dict[bytes, bytes] = {}

    def live(self) -> int:
        return sum(len(key) + len(value) for key, value in self.model.items())

    def blocks(self) -> int:
        return self.path.stat().st_blocks * 512

    def load(self) -> None:
        nbytes = 0
        while nbytes < self.least:
            pairs = [self._new() for _ in range(TOGETHER)]
            self.store.put_many(pairs)
            nbytes += sum(len(key) + len(value) for key, value in pairs)

    def _new(self) -> tuple[bytes, bytes]:
        size = round(math.exp(self.rng.uniform(math.log(self.shortest), math.log(self.longest))))
        key, value = b"%024d" % self.rng.randrange(10**15), self.rng.randbytes(size)
        self.model[key] = value
        return key, value

    def replace(self, times: int) -> None:
        """Remove any record and enter a new one, so many times as there are records and more."""
        keys = list(self.model)
        for _ in range(times * len(keys) // TOGETHER):
            with self.store.transaction():
                for _ in range(TOGETHER):
                    number = self.rng.randrange(len(keys))
                    self.delete(keys[number])
                    keys[number], value = self._new()
                    self.store[keys[number]] = value

    def delete(self, key: bytes) -> None:
        assert self.store.delete(key)
        del self.model[key]

    def delete_all(self) -> None:
        keys = list(self.model)
        self.rng.shuffle(keys)
        for start in range(0, len(keys), TOGETHER):
            with self.store.transaction():
                for key in keys[start : start + TOGETHER]:
                    self.delete(key)


@pytest.fixture(params=["process", "power"])
def durability(request: pytest.FixtureRequest) -> DurabilityName:
    return named(request.param)


@pytest.fixture(params=[MIXED, SMALL], ids=["16 B to 16 KiB", "100 B"])
def churned(
    request: pytest.FixtureRequest, durability: DurabilityName, tmp_path: Path
) -> Iterator[Churned]:
    """A store in which everything was replaced."""
    it = Churned(tmp_path / "a.kv", durability, request.param)
    with it.store:
        it.load()
        it.replace(2)
        yield it
        it.store.check()


@pytest.mark.slow
@pytest.mark.parametrize("churned", [MIXED], indirect=True, ids=["16 B to 16 KiB"])
def test_what_a_heap_gives_back_leaves_little_more_than_the_data(churned: Churned) -> None:
    heap = churned.store._heap
    heap.sync()
    heap.trim()
    assert churned.blocks() <= 1.3 * churned.live()
    assert dict(churned.store) == churned.model


@pytest.mark.slow
def test_a_compact_store_takes_little_more_than_its_data(churned: Churned) -> None:
    churned.store.compact()
    assert churned.blocks() <= 1.3 * churned.live()
    assert dict(churned.store) == churned.model


@pytest.mark.slow
def test_an_emptied_store_takes_little(churned: Churned) -> None:
    churned.delete_all()
    churned.store.compact()
    assert not churned.store
    assert churned.blocks() < 2 * MiB
    assert churned.path.stat().st_size < 2 * MiB
