"""The key-value store: what it keeps, by example. `test_kvstore_model.py` lets it crash."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from kvstore_world import Clock

import pmemheap
from pmemheap import UsageError, kvstore
from pmemheap.kvstore import KVStore, deadlines


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.kv"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[KVStore]:
    with KVStore(path, "process", clock=clock) as opened:
        yield opened
        opened.check()


# ---------------------------------------------------------------- a mapping


def test_a_store_is_a_mapping_in_key_order(store: KVStore) -> None:
    store.update({b"pear": b"3", b"apple": b"2"})
    store.put_many([(b"plum", b"5"), (b"fig", memoryview(b"1"))])
    assert list(store) == [b"apple", b"fig", b"pear", b"plum"]
    assert list(reversed(store)) == [b"plum", b"pear", b"fig", b"apple"]
    assert store == {b"apple": b"2", b"fig": b"1", b"pear": b"3", b"plum": b"5"}
    assert len(store) == 4
    assert b"fig" in store
    assert b"kiwi" not in store
    assert store.get(b"kiwi") is None
    assert store.get(b"kiwi", b"-") == b"-"
    with pytest.raises(KeyError, match="kiwi"):
        store[b"kiwi"]
    with pytest.raises(KeyError, match="kiwi"):
        del store[b"kiwi"]


def test_ranges_have_a_start_a_stop_and_a_direction(store: KVStore) -> None:
    store.update({b"%03d" % i: b"v%d" % i for i in range(500)})
    assert list(store.keys(b"100", b"103")) == [b"100", b"101", b"102"]
    assert list(store.keys(b"100", b"103", reverse=True)) == [b"102", b"101", b"100"]
    assert list(store.values(b"498")) == [b"v498", b"v499"]
    assert list(store.items(stop=b"001")) == [(b"000", b"v0")]
    assert store.scan(b"2505", 2) == [(b"251", b"v251"), (b"252", b"v252")]


def test_taking_out_returns_what_was_there(store: KVStore) -> None:
    store.update({b"a": b"1", b"b": b"2", b"c": b"3"})
    assert store.pop(b"b") == b"2"
    assert store.pop(b"b", None) is None
    with pytest.raises(KeyError, match="b"):
        store.pop(b"b")
    assert store.popitem() == (b"a", b"1")
    assert store.setdefault(b"c", b"9") == b"3"
    assert store.setdefault(b"d", bytearray(b"9")) == b"9"
    assert store.delete(b"c")
    assert not store.delete(b"c")
    store.clear()
    assert not store
    with pytest.raises(KeyError, match="empty"):
        store.popitem()


def test_what_does_not_fit_changes_nothing(store: KVStore) -> None:
    with pytest.raises(ValueError, match="1024"):
        store[b"k" * 1025] = b""
    with pytest.raises(TypeError):
        store["text"] = b""  # type: ignore[index]
    with pytest.raises(TypeError, match="bytes expected"):
        store.update(text=b"")
    with pytest.raises(TypeError, match="pickled"):
        store.__reduce__()
    assert not store


# ---------------------------------------------------------------- transactions, views


def test_transactions_and_savepoints(store: KVStore) -> None:
    store[b"a"] = b"1"

    def change_and_fail() -> None:
        with store.transaction(durable=True):
            store[b"a"] = b"2"
            store.set(b"c", b"", ttl=9)
            raise LookupError

    with pytest.raises(LookupError):
        change_and_fail()
    assert dict(store) == {b"a": b"1"}
    with store.transaction():
        store[b"b"] = b"2"
        with pytest.raises(LookupError):
            change_and_fail()
        assert dict(store) == {b"a": b"1", b"b": b"2"}
    assert dict(store) == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize("length", [20, 5000])
def test_views_outlive_growth_and_removal(store: KVStore, length: int) -> None:
    store[b"a"] = b"a" * length
    view = store.view(b"a")
    assert view.readonly
    store.patch(b"a", 1, b"bc")
    assert bytes(view[:4]) == b"abca"
    store[b"large"] = bytes(20_000_000)
    del store[b"a"]
    store.update({b"a%d" % i: b"z" * length for i in range(1000)})
    assert bytes(view) == b"abc" + b"a" * (length - 3)
    with pytest.raises(BufferError, match="live views"):
        store.close()
    assert store.stats().live_views == 1
    view.release()
    with pytest.raises(UsageError, match="inside"):
        store.patch(b"a1", length - 1, b"two")
    with pytest.raises(KeyError):
        store.patch(b"a", 0, b"")


def test_what_is_read_in_a_change_stays_true(store: KVStore) -> None:
    store[b"n"] = b"0"

    def count() -> None:
        for i in range(100):
            with store.transaction():
                store[b"n"] = b"%d" % (int(store.pop(b"n")) + 1)
            store.set(b"t", b"", ttl=5) if i % 2 else store.delete(b"t")

    run_together(count, count, count)
    assert store[b"n"] == b"300"


def test_a_change_that_depends_on_a_value_waits_for_other_changes(store: KVStore) -> None:
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(store.setdefault(b"n", b"2")))
    with store.transaction():
        store[b"n"] = b"1"
        thread.start()
        thread.join(0.05)
        assert not found
    thread.join()
    assert found == [b"1"]


class Overtaken:
    """A map in which a change is overtaken by somebody's first deadline."""

    def __init__(self, store: KVStore) -> None:
        self._upstream: Any = store.__dict__["_map"]
        self._store = store
        store.__dict__["_map"] = self

    def _meanwhile(self) -> None:
        self._store.__dict__["_map"] = self._upstream
        self._store.set(b"a", b"for a while", ttl=5)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._meanwhile()
        self._upstream[key] = value

    def discard(self, key: bytes) -> bool:
        self._meanwhile()
        return bool(self._upstream.discard(key))


@pytest.mark.parametrize("change", ["set", "__setitem__"])
def test_a_value_that_overtakes_a_deadline_stays(store: KVStore, change: str) -> None:
    Overtaken(store)
    getattr(store, change)(b"a", b"for good")
    assert (store[b"a"], store.ttl(b"a")) == (b"for good", None)


def test_a_removal_that_overtakes_a_deadline_takes_it_along(store: KVStore, clock: Clock) -> None:
    Overtaken(store)
    assert store.delete(b"a")
    clock.advance(5)
    assert len(store) == 0
    store.check()


def run_together(*calls: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # handed to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---------------------------------------------------------------- expiry


def test_expired_keys_are_absent_everywhere(store: KVStore, clock: Clock) -> None:
    store.update({b"a": b"1", b"c": b"3"})
    store.set(b"b", b"2", ttl=10)
    store.put_many([(b"d", b"4")], ttl=20)
    assert store.ttl(b"b") == 10
    assert store.ttl(b"a") is None
    assert len(store) == 4
    clock.advance(10)
    assert b"b" not in store
    assert store.get(b"b", b"-") == b"-"
    assert len(store) == 3
    assert dict(store) == {b"a": b"1", b"c": b"3", b"d": b"4"}
    assert list(store.values(reverse=True)) == [b"4", b"3", b"1"]
    assert store.scan(count=2) == [(b"a", b"1"), (b"c", b"3")]
    for call in (store.__getitem__, store.view, store.ttl, store.__delitem__, store.pop):
        with pytest.raises(KeyError):
            call(b"b")
    with pytest.raises(KeyError):
        store.patch(b"b", 0, b"")
    assert not store.expire(b"b", 5)
    assert not store.persist(b"b")
    assert store.setdefault(b"b", b"new") == b"new"
    assert store.ttl(b"b") is None
    clock.advance(10)
    assert list(store) == [b"a", b"b", b"c"]


def test_deadlines_are_moved_and_taken_away(store: KVStore, clock: Clock) -> None:
    store[b"a"] = b""
    assert store.expire(b"a", 5)
    assert store.expire(b"a", 50)
    clock.advance(5)
    assert store.ttl(b"a") == 45
    assert store.persist(b"a")
    assert not store.persist(b"a")
    store.set(b"a", b"", ttl=1)
    store[b"a"] = b"for good"
    clock.advance(1000)
    assert store[b"a"] == b"for good"
    for wrong in (0, -1, float("nan"), float("inf"), 1e12):
        with pytest.raises(UsageError, match="ttl"):
            store.set(b"a", b"", ttl=wrong)
    assert store.ttl(b"a") is None


def test_purge_gives_the_space_of_expired_keys_back(store: KVStore, clock: Clock) -> None:
    store.put_many(((b"%d" % i, b"x" * 100) for i in range(1000)), ttl=5)
    store[b"kept"] = b""
    assert store.purge() == 0
    clock.advance(5)
    assert (store.stats().entries, len(store)) == (1001, 1)
    assert store.purge() == 1000
    assert (store.stats().entries, store.stats().expiring) == (1, 0)


def test_deadlines_survive_closing(path: Path, clock: Clock) -> None:
    with KVStore(path, "process", clock=clock) as store:
        store.set(b"a", b"1", ttl=10)
        store[b"b"] = b"2"
    with KVStore(path, flag="r", clock=clock) as store:
        assert len(store) == 2
        clock.advance(10)
        assert dict(store) == {b"b": b"2"}
        with pytest.raises(UsageError, match="read-only"):
            store.purge()


def test_without_deadlines_reads_are_those_of_the_map(store: KVStore) -> None:
    store[b"a"] = b"1"
    assert store.get.__name__ == "get"
    assert "get" in vars(store), "the map's own"
    store.set(b"b", b"2", ttl=5)
    assert "get" not in vars(store)


# ---------------------------------------------------------------- files


def test_flags(path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.kv"):
        KVStore(path, flag="w")
    KVStore(path, "process").close()
    with KVStore(path) as store:
        assert (store.durability, store.path) == ("process", str(path))
        store[b"a"] = b"1"
        with pytest.raises(UsageError, match=r"a\.kv"):
            KVStore(path)
    with KVStore(path, flag="r") as store, KVStore(path, flag="r") as another:
        assert store == another
        with pytest.raises(UsageError, match="read-only"):
            store[b"b"] = b"2"
    with KVStore(path, "process", flag="n") as store:
        assert not store
    assert store.closed
    assert "closed" in repr(store)
    with pytest.raises(UsageError, match="closed"):
        store.get(b"a")
    store.close()
    with pytest.raises(UsageError, match="flag"):
        KVStore(path, flag="x")  # type: ignore[arg-type]


def test_a_heap_without_a_store_is_not_read_as_one(path: Path) -> None:
    pmemheap.Heap.create(path, durability="process").close()
    with pytest.raises(UsageError, match=r"a root .* expected, found none"):
        KVStore(path, flag="r")
    pmemheap.open(path, "w").close()  # it was let go


def test_a_limit_is_kept(path: Path) -> None:
    with KVStore(path, "process", limit=4 << 20) as store:
        store[b"a"] = b"1"
        with pytest.raises(pmemheap.OutOfSpaceError):
            store[b"a"] = bytes(8 << 20)
        assert store[b"a"] == b"1"
        store.check()


def test_a_snapshot_is_a_store(store: KVStore, tmp_path: Path) -> None:
    store.update({b"%d" % i: b"x" * i for i in range(300)})
    store.snapshot(tmp_path / "copy.kv")
    expected = dict(store)
    store.clear()
    with pytest.raises(UsageError, match=r"copy\.kv"):
        store.snapshot(tmp_path / "copy.kv")
    with KVStore(tmp_path / "copy.kv") as copy:
        assert dict(copy) == expected
        copy.check()


def test_compact_squeezes_leaves_and_gives_segments_back(store: KVStore, path: Path) -> None:
    store[b"a"] = bytes(9_000_000)
    store.update({b"%06d" % i: b"x" * 200 for i in range(20_000)})
    store[b"large"] = bytes(3_000_000)
    before = path.stat().st_blocks
    del store[b"a"]
    for i in range(20_000):
        if i % 5:
            store.delete(b"%06d" % i)
    expected, wasteful = dict(store), store.stats()
    assert store.compact() > 0
    assert dict(store) == expected
    assert store.stats().fill > max(0.85, wasteful.fill)
    assert path.stat().st_blocks < before / 2
    store.check()
    store.compact()


def test_stats_are_frozen(store: KVStore) -> None:
    store[b"key"] = b"value"
    store.set(b"old", b"x" * 2000, ttl=1)
    found = store.stats()
    assert (found.entries, found.expiring, found.key_bytes, found.value_bytes) == (2, 1, 6, 2005)
    assert found.durability == "process"
    with pytest.raises(FrozenInstanceError):
        found.entries = 3  # type: ignore[misc]


@pytest.mark.slow
def test_a_store_left_open_at_exit_is_closed(path: Path) -> None:
    program = (
        "import sys\n"
        "from pmemheap.kvstore import KVStore\n"
        "store = KVStore(sys.argv[1], durability=None)\n"
        "store[b'a'] = b'1'\n"
        "store.itself = store\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    with KVStore(path, flag="r") as store:
        assert dict(store) == {b"a": b"1"}


def test_a_dropped_store_lets_its_file_go(path: Path) -> None:
    store = KVStore(path, "process")
    store[b"a"] = b"1"
    del store
    KVStore(path).close()


def test_a_power_store_is_there_after_sync(path: Path) -> None:
    with KVStore(path, durable=False) as store:
        store[b"a"] = b"1"
        store.sync()
        assert store.durability in repr(store)
    with KVStore(path) as store:
        assert dict(store) == {b"a": b"1"}


def test_a_deadline_of_another_length_is_found(path: Path) -> None:
    with pmemheap.open(path, "c", durability="process") as heap:
        table = pmemheap.containers.SortedMap(heap, "kvstore.deadlines")
        table[b"a"] = b"soon"
    with (
        KVStore(path) as store,
        pytest.raises(pmemheap.CorruptHeapError, match="8 bytes expected, 4 found"),
    ):
        store.check()


def test_a_deadline_without_an_entry_is_found(path: Path) -> None:
    with pmemheap.open(path, "c", durability="process") as heap:
        table = pmemheap.containers.SortedMap(heap, "kvstore.deadlines")
        deadlines.Deadlines(table, lambda: 0).assign(b"a", 1)
    with (
        KVStore(path) as store,
        pytest.raises(pmemheap.CorruptHeapError, match="an entry expected"),
    ):
        store.check()


# ---------------------------------------------------------------- wrappers


def test_a_shelf_keeps_objects(path: Path) -> None:
    with KVStore.shelf(path, durability="process") as shelf:
        shelf["ä"] = {"n": [1, 2.5, None]}
        shelf.update({"b": (1,)}, c="text")
        shelf.set("t", object, ttl=1000)
        with shelf.transaction():
            shelf["d"] = shelf.pop("b")
            shelf["b"] = shelf.pop("d")
    with KVStore.shelf(path) as shelf:
        assert shelf["ä"] == {"n": [1, 2.5, None]}
        assert list(shelf) == ["b", "c", "t", "ä"]
        assert list(shelf.items("b", "d", reverse=True)) == [("c", "text"), ("b", (1,))]
        assert list(shelf.values(stop="c")) == [(1,)]
        assert "ä" in shelf
        assert shelf.pop("c") == "text"
        assert shelf.get("c") is None
        with pytest.raises(KeyError):
            del shelf["c"]
        assert len(shelf) == 3
        shelf.clear()
        shelf.sync()
        assert not shelf


def test_a_text_store_keeps_text(path: Path) -> None:
    with KVStore.text(path, durability="process") as texts:
        texts["grüße"] = "naïve €"
        assert dict(texts) == {"grüße": "naïve €"}
        assert texts.store["grüße".encode()] == "naïve €".encode()


def test_open_takes_text_as_dbm_does(path: Path, clock: Clock) -> None:
    with kvstore.open(path, "n", 0o600, durability="process", clock=clock) as db:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        db["a"] = "ä"
        db[b"b"] = b"\xff"
        db.update({"c": "3"}, d="4")
        assert db["a"] == db[b"a"] == "ä".encode()
        assert list(db.keys("b", "d")) == [b"b", b"c"]
        assert list(db.values("c")) == [b"3", b"4"]
        assert list(db.items("d")) == [(b"d", b"4")]
        assert db.scan("d") == [(b"d", b"4")]
        assert db.__contains__("a")
        assert not db.__contains__("x")
        assert db.get("x", "as it is") == "as it is"
        assert db.setdefault("e", "5") == b"5"
        assert db.pop("e") == b"5"
        assert db.pop("e", None) is None
        db.patch("c", 0, "x")
        with db.view("c") as view:
            assert bytes(view) == b"x"
        assert db.expire("c", 5)
        assert db.ttl("c") == 5
        assert db.persist("c")
        assert db.delete("c")
        with pytest.raises(KeyError):
            del db["c"]
        db.check()
    with kvstore.open(path, "r") as db:
        assert dict(db) == {b"a": "ä".encode(), b"b": b"\xff", b"d": b"4"}
