"""Stores beside their writer: what they show, what they refuse, in other processes and in one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reader_world import DURABILITIES, Reader

import pmemheap
from pmemheap import HeapBusyError, UsageError, kvstore
from pmemheap.kvstore import KVStore

KEYS = [b"key %03d" % i for i in range(300)]


@pytest.fixture(params=DURABILITIES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KVStore]:
    """A writer that lets readers in."""
    with KVStore(tmp_path / "a.kv", request.param, readers=True) as made:
        yield made


def fill(store: KVStore, value: bytes) -> None:
    """Give all keys a value, in one commit."""
    with store.transaction():
        for key in KEYS:
            store[key] = value


def reader_of(store: KVStore) -> Reader:
    return Reader(Path(store.path), store=True)


# ---------------------------------------------------------------- another process


def test_a_store_beside_its_writer_shows_one_commit(store: KVStore) -> None:
    fill(store, b"first")
    users = store.sub("users")
    users[b"1"] = b"Ada"
    with reader_of(store) as reader:
        for value in b"second", b"x" * 600:
            fill(store, value)
        users[b"1"] = b"Bob"
        store.sub("later")[b"a"] = b"b"
        assert reader("{*store.values()}, len(store), store.readonly") == ({b"first"}, 300, True)
        assert reader("store[b'key 007'], store.get(b'none'), b'none' in store") == (
            b"first", None, False,
        )  # fmt: skip
        assert reader("bytes(store.view(b'key 007')), store.scan(b'key 299')") == (
            b"first", [(b"key 299", b"first")],
        )  # fmt: skip
        assert reader("[k for k, _ in store.prefix(b'key 00', reverse=True)]") == KEYS[9::-1]
        assert reader("(c := store.cursor()).last(), c.key") == (True, b"key 299")
        assert reader("store.subs(), store.sub('users')[b'1']") == (["users"], b"Ada")
        assert reader("store.refresh(), {*store.values()}, store.get(b'key 000')") == (
            True, {b"x" * 600}, b"x" * 600,
        )  # fmt: skip
        assert reader("store.subs(), store.sub('users')[b'1']") == (["later", "users"], b"Bob")
        assert reader("store.refresh(), store.check(), store.stats().entries") == (False, None, 300)


def test_a_readers_store_changes_nothing(store: KVStore) -> None:
    store[b"a"] = b"1"
    with reader_of(store) as reader:
        for change in (
            "store.set(b'a', b'2')", "store.set(b'a', b'2', ttl=5)", "store.clear()",
            "store.incr(b'n')", "store.transaction().__enter__()", "store.sub('new')",
            "store.delete(b'a')", "store.pop(b'a')", "store.patch(b'a', 0, b'2')",
            "store.put_many([(b'b', b'')])", "store.read().__setitem__(b'a', b'2')",
        ):  # fmt: skip
            assert reader(change).startswith("UsageError"), change
    assert dict(store) == {b"a": b"1"}
    assert store.sub("new") == {}


def test_deadlines_are_those_of_the_commit_by_the_clock(store: KVStore) -> None:
    store[b"stays"] = b"1"
    with reader_of(store) as reader:
        assert reader("store.get(b'stays'), store.expiring") == (b"1", 0)
        store.set(b"over", b"2", tag="t")
        store.set_until(b"over soon", b"3", time.time_ns() + 10_000_000)
        assert reader("store.refresh(), store.tag(b'over'), store.expiring") == (True, b"t", 1)
        time.sleep(0.02)
        assert reader("list(store), len(store), store.get(b'over soon')") == (
            [b"over", b"stays"], 2, None,
        )  # fmt: skip


def test_a_readers_store_lets_go_when_it_is_closed(store: KVStore) -> None:
    fill(store, b"first")
    with reader_of(store) as reader:
        reader("(view := store.view(b'key 000')) and None")
        assert reader("store.close()").startswith("BufferError")
        assert reader("bytes(view), store[b'key 000']") == (b"first", b"first")
        assert reader("view.release(), store.close(), store.closed") == (None, None, True)
        assert reader("store[b'key 000']").startswith("UsageError")
        assert reader("store.close()") is None


def test_a_writer_without_readers_lets_nobody_in(tmp_path: Path) -> None:
    with KVStore(tmp_path / "a.kv") as store:
        with reader_of(store) as reader:
            assert "no writer expected" in reader("refused")
        with pytest.raises(UsageError, match="readers=True"):
            store.read()


# ---------------------------------------------------------------- one process


def test_snapshots_keep_their_commits(store: KVStore) -> None:
    kept = []
    for n in range(20):
        store[b"n"] = store.sub("part")[b"key %d" % n] = b"%d" % n
        kept.append(store.read())
    for n, snap in enumerate(kept):
        assert (snap[b"n"], len(snap.sub("part")), snap.subs()) == (b"%d" % n, n + 1, ["part"])
    assert [snap.commit for snap in kept] == sorted(snap.commit for snap in kept)
    first = kept[0]
    part = first.sub("part")
    assert (first.refresh(), first[b"n"], len(part)) == (True, b"19", 20)
    assert not first.refresh()
    store.drop_sub("part")
    assert first.refresh()
    with pytest.raises(UsageError):
        first.sub("part")
    with pytest.raises(UsageError, match="it was closed"):
        len(part)
    for snap in kept:
        snap.close()


def test_a_snapshot_refuses_changes_and_ends(store: KVStore) -> None:
    store[b"a"] = b"1"
    with store.read() as snap:
        for change in (
            lambda: snap.__setitem__(b"a", b"2"), lambda: snap.__delitem__(b"a"), snap.clear,
            snap.popitem, lambda: snap.pop(b"a"), lambda: snap.setdefault(b"b", b""),
            snap.transaction, lambda: snap.update({b"a": b"2"}),
        ):  # fmt: skip
            with pytest.raises(UsageError, match="opened to write expected"):
                change()
        view = snap.view(b"a")
        store[b"a"] = b"2"
    assert snap.closed
    assert bytes(view) == b"1"
    for look in lambda: snap[b"a"], lambda: snap.get(b"a"), lambda: list(snap), snap.subs:
        with pytest.raises(UsageError, match="it was closed"):
            look()
    with pytest.raises(BufferError):
        store.close()
    del view
    assert store[b"a"] == b"2"


def test_a_store_without_a_writer_is_read_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.kv"
    with KVStore(path, readers=True) as store:
        store[b"a"] = b"1"
        assert store.refresh() is False
    with kvstore.open(path, "r") as store, store.read() as snap:
        view = store.view(b"a")
        assert (store["a"], snap[b"a"], store.refresh(), store.readonly) == (
            b"1",
            b"1",
            False,
            True,
        )
        with pytest.raises(HeapBusyError):
            KVStore(path)
        with pytest.raises(BufferError):
            store.close()
        snap.close()
        with pytest.raises(BufferError):
            store.close()
        assert bytes(view) == store["a"] == b"1"
        view.release()
    with pytest.raises(pmemheap.PmemHeapError):
        store["a"]
