"""The key-value store as a cache and as a database: cursors, counters, tags, sub-stores, dbm."""

from __future__ import annotations

import dbm
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kvstore_world import NS, Clock

from pmemheap import CorruptHeapError, UsageError, kvstore
from pmemheap.containers import SortedMap
from pmemheap.kvstore import KVStore
from pmemheap.kvstore.substore import SubStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.kv"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[KVStore]:
    with KVStore(path, "process", clock=clock) as store:
        yield store
        store.check()


# ---------------------------------------------------------------- prefixes, cursors


def test_a_prefix_is_a_range(store: KVStore, clock: Clock) -> None:
    store.update(dict.fromkeys((b"a", b"b", b"ba", b"b\xff", b"b\xff\xff", b"c", b"\xff"), b"x"))
    assert [key for key, _ in store.prefix(b"b")] == [b"b", b"ba", b"b\xff", b"b\xff\xff"]
    assert [key for key, _ in store.prefix(b"b\xff", reverse=True)] == [b"b\xff\xff", b"b\xff"]
    assert [key for key, _ in store.prefix(b"\xff")] == [b"\xff"]
    assert len(store.prefix(b"")) == 7
    store.expire(b"ba", 1)
    clock.now += NS
    assert [key for key, _ in store.prefix(b"b")] == [b"b", b"b\xff", b"b\xff\xff"]


def test_a_cursor_goes_to_and_fro(store: KVStore) -> None:
    cursor = store.cursor()
    assert not cursor.first()
    assert not cursor.last()
    assert not cursor.next()
    store.update({b"": b"0", b"b": b"1", b"d": b"2", b"k" * 1024: b"3"})
    assert cursor.next()
    assert cursor.item() == (b"", b"0")
    assert not cursor.prev()
    assert cursor.prev()
    assert cursor.key == b"k" * 1024
    assert not cursor.next()
    assert cursor.seek(b"c")
    assert cursor.item() == (b"d", b"2")
    assert cursor.seek(b"d")
    assert cursor.key == b"d"
    assert cursor.prev()
    assert cursor.key == b"b"
    assert not cursor.seek(b"z")
    with pytest.raises(KeyError, match="a place at a key expected"):
        cursor.item()


def test_a_cursor_stays_where_its_key_was(store: KVStore, clock: Clock) -> None:
    store.update({b"a": b"1", b"b": b"2", b"c": b"3", b"d": b"4"})
    cursor = store.cursor()
    cursor.seek(b"b")
    del store[b"b"]
    with pytest.raises(KeyError):
        cursor.item()
    store.expire(b"c", 1)
    clock.now += NS
    assert cursor.next()
    assert cursor.key == b"d"
    cursor.key = b"b"
    assert cursor.prev()
    assert cursor.key == b"a"


# ---------------------------------------------------------------- counters


def test_numbers_count(store: KVStore, clock: Clock) -> None:
    assert (store.incr(b"n"), store.incr(b"n", 5), store.decr(b"n", 10)) == (1, 6, -4)
    assert (store[b"n"], store.incr(b"m", default=10)) == (b"-4", 11)
    with pytest.raises(KeyError):
        store.incr(b"none", default=None)
    store.set(b"visits", b"7", ttl=10, tag="page")
    store.incr(b"visits")
    assert (store.ttl(b"visits"), store.tag(b"visits")) == (10, b"page")
    clock.now += 10 * NS
    assert store.incr(b"visits") == 1
    assert (store.ttl(b"visits"), store.tag(b"visits")) == (None, None)


@pytest.mark.parametrize("value", [b"", b"x", b"1.5", b" 1", b"+1", b"01", b"1" * 30])
def test_what_is_no_number_is_not_counted(store: KVStore, value: bytes) -> None:
    store[b"n"] = value
    with pytest.raises(UsageError, match="a whole number in digits expected, found b'"):
        store.incr(b"n")
    assert store[b"n"] == value


def test_a_number_has_64_bits(store: KVStore) -> None:
    assert store.incr(b"n", (1 << 63) - 1) == (1 << 63) - 1
    with pytest.raises(UsageError, match="a number of 64 bits expected, 9223372036854775808"):
        store.incr(b"n")
    assert store.decr(b"m", 1 << 63) == -(1 << 63)


def test_a_key_is_added_once(store: KVStore, clock: Clock) -> None:
    assert store.add(b"a", b"1", ttl=5, tag="t")
    assert not store.add(b"a", b"2")
    assert (store[b"a"], store.ttl(b"a"), store.tag(b"a")) == (b"1", 5, b"t")
    clock.now += 5 * NS
    added = []
    threads = [
        threading.Thread(target=lambda: added.append(store.add(b"a", b"3"))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sorted(added), store.ttl(b"a")) == ([False] * 4 + [True], None)


def test_threads_count_together(store: KVStore) -> None:
    def work() -> None:
        for _ in range(100):
            store.incr(b"n")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store[b"n"] == b"400"


def test_hits_are_counted_where_that_is_asked_for(path: Path, clock: Clock) -> None:
    with KVStore(path, "process", clock=clock, count_hits=True) as store:
        store.set(b"a", b"1", ttl=5)
        found = store.get(b"a"), store[b"a"], store.get(b"b"), store.view(b"a")
        found[-1].release()
        with pytest.raises(KeyError):
            store.view(b"b")
        with pytest.raises(KeyError):
            store[b"b"]
        clock.now += 5 * NS
        assert store.get(b"a", b"gone") == b"gone"
        assert b"a" not in store
        assert (store.stats().hits, store.stats().misses) == (3, 4)
        store.reset_hits()
        assert (store.stats().hits, store.stats().misses) == (0, 0)
    with KVStore(path) as store:
        assert (store.stats().hits, store.stats().misses) == (None, None)


# ---------------------------------------------------------------- tags


def test_the_keys_of_a_tag_go_together(store: KVStore, clock: Clock) -> None:
    store.put_many([(b"%d" % number, b"x") for number in range(600)], tag="many")
    store.set(b"a", b"1", tag=b"one")
    store.set(b"b", b"2", ttl=1, tag="one")
    store.set(b"c", b"3", tag="on")
    store.set(b"5", b"y")  # has no tag any more
    assert (store.tag(b"a"), store.tag(b"5"), store.stats().tagged) == (b"one", None, 602)
    assert (list(store.tagged("one")), store.tags()) == ([b"a", b"b"], [b"on", b"one", b"many"])
    clock.now += NS
    assert list(store.tagged("one")) == [b"a"]
    assert (store.evict_tag("many"), store.evict_tag("many"), store.evict_tag("one")) == (599, 0, 2)
    assert dict(store) == {b"5": b"y", b"c": b"3"}
    with pytest.raises(KeyError):
        store.tag(b"a")


def test_a_tag_goes_with_its_key(store: KVStore, clock: Clock) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        store.set(key, b"1", ttl=5, tag="t")
    store.delete(b"a")
    store.pop(b"b")
    store[b"c"] = b"2"
    clock.now += 5 * NS
    assert store.purge() == 1
    assert store.tags() == []
    store.set(b"e", b"1", tag=b"")
    assert store.evict_tag("") == 1
    store.set(b"e", b"1", tag="t")
    store.clear()
    assert store.tags() == []


def test_a_tag_outlives_the_store(path: Path) -> None:
    with KVStore(path, "process") as store:
        store.set(b"a", b"1", tag="t")
    with KVStore(path) as store:
        store[b"a"] = b"2"
        assert store.tags() == []
        store.set(b"a", b"3", tag="t")
    with KVStore(path, flag="r") as store:
        assert list(store.tagged("t")) == [b"a"]


def test_a_tag_that_cannot_be_is_refused(store: KVStore) -> None:
    with pytest.raises(TypeError, match="tag: str or bytes expected, found 5"):
        store.set(b"a", b"1", tag=5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at most 1022 bytes expected, 1023 found"):
        store.set(b"a", b"1", tag=b"t" * 1023)
    with pytest.raises(UsageError, match="at most 1022 bytes together expected, 1023 found"):
        store.set(b"k" * 1000, b"1", tag=b"t" * 23)
    assert dict(store) == {}
    store.set(b"k" * 1000, b"1", tag=b"t" * 22)
    assert store.evict_tag(b"t" * 22) == 1


def test_check_finds_a_tag_without_a_key(path: Path) -> None:
    store = KVStore(path, "process")
    store.set(b"a", b"1", tag="t")
    SortedMap(store._heap, "kvstore")[b"b"] = b"2"
    store.check()
    SortedMap(store._heap, "kvstore.tagged").clear()
    with pytest.raises(CorruptHeapError, match="tag of b'a'"):
        store.check()
    SortedMap(store._heap, "kvstore.tags").clear()
    store.check()
    SortedMap(store._heap, "kvstore.tagged")[b"\0\1ta"] = b""
    with pytest.raises(CorruptHeapError, match="0 keys that have one expected, 1 found"):
        store.check()
    store.close()


def test_shelves_have_tags(path: Path) -> None:
    with KVStore.shelf(path, durability="process") as shelf:
        shelf.set("a", [1, 2], tag="t")
        shelf["b"] = None
        assert (shelf.store.evict_tag("t"), dict(shelf)) == (1, {"b": None})


# ---------------------------------------------------------------- sub-stores


def test_sub_stores_have_keys_of_their_own(store: KVStore, clock: Clock, path: Path) -> None:
    one, other = store.sub("one"), store.sub("ä" * 12)
    store[b"a"], one[b"a"], other[b"a"] = b"0", b"1", b"2"
    one.set(b"b", b"3", ttl=5, tag="t")
    assert store.sub("one") is one
    assert (store.subs(), one.name, store.name) == (["one", "ä" * 12], "one", "")
    assert (dict(store), dict(one), dict(other)) == (
        {b"a": b"0"}, {b"a": b"1", b"b": b"3"}, {b"a": b"2"},
    )  # fmt: skip
    assert (store.tags(), one.tags()) == ([], [b"t"])
    assert (store.stats().tagged, one.stats().tagged) == (0, 1)
    clock.now += 5 * NS
    store.compact()
    assert one.stats().entries == 1
    assert repr(one) == f"<SubStore 'one' of {str(path)!r}, process>"


def test_sub_stores_are_in_the_file(path: Path) -> None:
    with KVStore(path, "process") as store:
        one = store.sub("one")
        one[b"a"] = b"1"
    assert (one.closed, repr(one)) == (True, f"<SubStore 'one' of {str(path)!r}, closed>")
    with KVStore(path, flag="r") as found:
        assert dict(found.sub("one")) == {b"a": b"1"}
        with pytest.raises(UsageError, match="kvstore/two"):
            found.sub("two")
    with KVStore(path) as found:
        assert found.sub("one")[b"a"] == b"1"


def test_a_transaction_spans_sub_stores(store: KVStore) -> None:
    one, other = store.sub("one"), store.sub("other")
    with store.transaction():
        one[b"a"] = other[b"a"] = b"1"
        store.incr(b"n")
    with pytest.raises(KeyError), one.transaction():
        other.incr(b"n"), one.pop(b"a"), store.pop(b"none")
    assert (dict(one), dict(other), dict(store)) == ({b"a": b"1"}, {b"a": b"1"}, {b"n": b"1"})


def test_a_sub_store_is_dropped(store: KVStore) -> None:
    one = store.sub("one", limit=100_000, evict="lru")
    roots = len(store._heap.roots)
    one.update({b"%d" % number: bytes(100) for number in range(600)})
    one.set(b"a", b"1", ttl=5, tag="t")
    assert store.drop_sub("one")
    assert (store.drop_sub("one"), store.subs(), len(store._heap.roots)) == (False, [], roots - 6)
    with pytest.raises(UsageError, match="dropped"):
        one[b"a"] = b"1"
    assert store.sub("one") is not one
    assert dict(store.sub("one")) == {}


def sub_that_is_given_up(store: KVStore) -> SubStore:
    with suppress(LookupError), store.transaction():
        one = store.sub("one")
        one[b"a"] = b"1"
        raise LookupError
    return one


def test_a_sub_store_of_a_transaction_that_is_taken_back_is_gone(store: KVStore) -> None:
    one = sub_that_is_given_up(store)
    with pytest.raises(UsageError, match="taken back"):
        one[b"a"] = b"2"
    assert store.subs() == []
    assert dict(store.sub("one")) == {}


@pytest.mark.parametrize("name", ["", "n" * 26, "ä" * 13, None, b"one"])
def test_a_name_that_cannot_be_is_refused(store: KVStore, name: Any) -> None:
    with pytest.raises(UsageError, match="a name of 1 to 25 bytes of UTF-8 expected"):
        store.sub(name)
    with pytest.raises(UsageError, match="evict expected as well"):
        store.sub("one", limit=5)


# ---------------------------------------------------------------- dbm


def test_the_face_of_dbm(path: Path) -> None:
    with pytest.raises(dbm.error):
        kvstore.open(path)  # "r": there is no file
    with kvstore.open(path, "c", durability="process") as db:
        assert db.firstkey() is None
        db["b"], db[b"ab"], db["a"] = "1", "x", "y"
        assert db.keys() == [b"a", b"ab", b"b"]
        key, found = db.firstkey(), []
        while key is not None:
            found.append(key)
            key = db.nextkey(key)
        assert found == db.keys()
        assert db.nextkey("aa") == b"ab"
        assert db.prefix("a") == [(b"a", b"y"), (b"ab", b"x")]
        assert (db.incr("b"), db.decr("b", 5), db["b"]) == (2, -3, b"-3")
        db.set("t", "1", tag="tag")
        assert (db.add("u", "2", tag="tag"), db.add("u", "3")) == (True, False)
        assert (db.tag("t"), db.evict_tag("tag")) == (b"tag", 2)
        cursor = db.cursor()
        assert (cursor.seek(b"aa"), cursor.item(), cursor.next()) == (True, (b"ab", b"x"), True)
        db.reorganize()
        with pytest.raises(dbm.error, match="a whole number"):
            db.incr("a")
    with kvstore.open(path) as db, pytest.raises(dbm.error):
        db["a"] = "1"


# ---------------------------------------------------------------- extras


def test_a_table_says_which_extra_it_needs(store: KVStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pmemheap\[arrow\]'"):
        store.to_arrow()
