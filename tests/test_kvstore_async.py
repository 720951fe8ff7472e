"""The asyncio face of the key-value store, and results of functions that it keeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pmemheap import UsageError
from pmemheap.heap.transaction import Transaction
from pmemheap.kvstore import AsyncKVStore, KVStore, memoize

NS = 1_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.kv"


def run(path: Path, main: Callable[[AsyncKVStore], Awaitable[Any]], **options: Any) -> Any:
    async def opened() -> Any:
        async with await AsyncKVStore.open(path, "process", **options) as store:
            return await main(store)

    found = asyncio.run(opened())
    with KVStore(path) as store:
        store.check()
    return found


# ---------------------------------------------------------------- asyncio


def test_calls_are_awaited(path: Path) -> None:
    async def main(store: AsyncKVStore) -> None:
        await store.set(b"a", b"1", ttl=5, tag="t")
        await store.put_many([(b"b", b"2"), (b"c", b"3")])
        assert (await store.get(b"a"), await store.get(b"x", 7)) == (b"1", 7)
        assert (await store.contains(b"b"), await store.count()) == (True, 3)
        assert 4 < (await store.ttl(b"a") or 0) <= 5
        assert (await store.incr(b"b"), await store.pop(b"b"), await store.delete(b"b")) == (
            3, b"3", False,
        )  # fmt: skip
        assert await store.expire(b"c", 9)
        assert (await store.evict_tag("t"), await store.purge()) == (1, 0)
        await store.sync()
        assert await store.compact() >= 0
        assert await store.call(lambda store, key: store[key], b"c") == b"3"
        await store.clear()
        assert await store.count() == 0

    run(path, main)


def test_a_range_comes_in_pages(path: Path) -> None:
    async def main(store: AsyncKVStore) -> list[bytes]:
        await store.put_many((b"%04d" % number, b"x") for number in range(1024))
        return [key async for key, _ in store.items(b"0001", b"1023")]

    assert run(path, main) == [b"%04d" % number for number in range(1, 1023)]


def test_commits_are_shared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    async def main(store: AsyncKVStore) -> None:
        transaction, gate = store.store.transaction, threading.Event()

        def counted(durable: bool | None = None) -> Transaction:
            begun.append(1)
            return transaction(durable)

        monkeypatch.setattr(store.store, "transaction", counted)
        first = asyncio.ensure_future(store.call(lambda store: gate.wait(10)))
        await asyncio.sleep(0)
        others = [asyncio.ensure_future(store.set(b"%d" % number, b"x")) for number in range(200)]
        await asyncio.sleep(0)
        while not begun:
            await asyncio.sleep(0.001)
        gate.set()
        await asyncio.gather(first, *others)

    run(path, main)
    groups = len(begun) - 201  # each call has a savepoint
    assert groups in {1, 2}, "all in one commit, or all that came after the first"
    with KVStore(path) as store:
        assert len(store) == 200


def test_a_call_that_fails_is_taken_back_alone(path: Path) -> None:
    def fail(store: KVStore, number: int) -> None:
        store[b"%d" % number] = b"x"
        if number % 2:
            raise LookupError(number)

    async def main(store: AsyncKVStore) -> None:
        calls = [store.call(fail, number) for number in range(20)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in found] == [type(None), LookupError] * 10
        with pytest.raises(KeyError):
            await store.pop(b"1")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await store.call(lambda store: next(iter(())))

    run(path, main)
    with KVStore(path) as store:
        assert sorted(map(int, store)) == [*range(0, 20, 2)]


def test_what_has_no_room_together_is_made_apart(path: Path) -> None:
    async def main(store: AsyncKVStore) -> list[bool]:
        size = 1 << 20
        calls = [store.set(b"%d" % number, bytes(size)) for number in range(12)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        return [each is None for each in found]

    made = run(path, main, limit=8 << 20)
    with KVStore(path) as store:
        assert 3 <= len(store) == sum(made) < 12


def test_a_task_that_is_cancelled_stops_nothing(path: Path) -> None:
    async def main(store: AsyncKVStore) -> None:
        task = asyncio.ensure_future(store.set(b"a", b"1"))
        await asyncio.sleep(0)
        task.cancel()
        await store.set(b"b", b"2")
        assert await store.get(b"b") == b"2"

    run(path, main)


def test_close_comes_after_what_waits(path: Path) -> None:
    async def main() -> AsyncKVStore:
        store = await AsyncKVStore.open(path, "process")
        waiting = [asyncio.ensure_future(store.set(b"%d" % n, b"x")) for n in range(50)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*waiting)
        await store.close()
        with pytest.raises(UsageError, match="an open store expected"):
            await store.get(b"a")
        return store

    assert asyncio.run(main()).store.closed
    with KVStore(path) as store:
        assert len(store) == 50


def test_close_waits_for_views(path: Path) -> None:
    async def main(store: AsyncKVStore) -> None:
        await store.set(b"a", b"1")
        with store.store.view(b"a"), pytest.raises(BufferError):
            await store.close()
        assert await store.get(b"a") == b"1"

    run(path, main)


def test_one_store_serves_several_loops(path: Path) -> None:
    store = AsyncKVStore(KVStore(path, "process"))
    asyncio.run(store.set(b"a", b"1"))
    assert asyncio.run(store.get(b"a")) == b"1"
    asyncio.run(store.close())


def test_a_store_that_was_closed_below_can_be_closed(path: Path) -> None:
    async def main(store: AsyncKVStore) -> None:
        await store.set(b"a", b"1")
        store.store.close()
        with pytest.raises(UsageError, match="an open store expected"):
            await store.get(b"a")

    run(path, main)


# ---------------------------------------------------------------- memoize


@pytest.fixture
def store(path: Path) -> Iterator[KVStore]:
    with KVStore(path, "process") as store:
        yield store
        store.check()


def test_results_are_kept(store: KVStore) -> None:
    calls = []

    @memoize(store, tag="sums")
    def total(*numbers: float, factor: float = 1, **others: float) -> float | None:
        """Add numbers."""
        calls.append(numbers)
        return sum(numbers) * factor or None

    assert (total.__doc__, total.__wrapped__(1)) == ("Add numbers.", 1)
    assert [total(1, 2), total(1, 2), total(1, 2, factor=2), total(2, 1)] == [3, 3, 6, 3]
    assert [total(a=1, b=2), total(b=2, a=1)] == [None, None]
    assert len(calls) == 5
    assert (total.forget(1, 2), total.forget(1, 2), total(1, 2), len(calls)) == (True, False, 3, 6)
    assert total.key(1, 2).startswith(b"test_kvstore_async.test_results_are_kept.<locals>.total:")
    assert (store.evict_tag("sums"), len(store)) == (4, 0)


def test_results_expire(path: Path) -> None:
    now = [1_700_000_000 * NS]
    with KVStore(path, "process", clock=lambda: now[0]) as store:
        numbers = iter(range(10))
        following = memoize(store.sub("cache"), expire=5, name="f")(lambda: next(numbers))
        assert (following(), following()) == (0, 0)
        now[0] += 5 * NS
        assert (following(), next(iter(store.sub("cache")))[:2]) == (1, b"f:")


def test_types_may_count(store: KVStore) -> None:
    kinds = memoize(store, name="k", typed=True)(lambda value: type(value).__name__)
    assert [kinds(1), kinds(True), kinds(1.0)] == ["int", "bool", "float"]
    text = "ab" * 10
    assert kinds.key((text, text)) == kinds.key((text, "ab" * 5 + "ab" * 5))


def test_a_result_without_room_is_returned(path: Path) -> None:
    with KVStore(path, "process", limit=200, evict="lru") as store:
        made = memoize(store, name="m")(bytes)
        assert (made(10), made(1000), len(store)) == (bytes(10), bytes(1000), 1)
