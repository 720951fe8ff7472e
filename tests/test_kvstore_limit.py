"""Stores that evict: by example, against a model of each policy, and crashed at every point."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pmemheap import CorruptHeapError, OutOfSpaceError, UsageError
from pmemheap.containers import SortedMap
from pmemheap.kvstore import KVStore
from pmemheap.kvstore.substore import SubStore
from pmemheap.testing import Crash, Image, Kind, Recorder, check_states, copy_as_crashed

NS = 1_000_000_000
NOW = 1_700_000_000 * NS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.kv"


def opened(path: Path, evict: str | None, limit: int | None = 1000, **options: Any) -> KVStore:
    return KVStore(path, "process", limit=limit, evict=evict, clock=lambda: NOW, **options)


def fill(store: SubStore, keys: bytes = b"abcdefghi") -> None:
    """Give each key a value; key and value have 100 bytes."""
    for key in keys:
        store[bytes([key])] = bytes(99)


def keys_of(store: KVStore) -> bytes:
    return b"".join(store)


@pytest.fixture
def lru(path: Path) -> Iterator[KVStore]:
    with opened(path, "lru") as store:
        fill(store)
        yield store
        store.check()


# ---------------------------------------------------------------- policies


def test_the_key_used_longest_ago_goes(lru: KVStore) -> None:
    assert lru.stats().held == 900
    found = lru.get(b"a"), lru[b"b"], lru.view(b"c")
    found[-1].release()
    assert b"d" in lru  # no use
    fill(lru, b"jk")
    assert keys_of(lru) == b"abcefghijk"[:10]
    lru[b"e"] = b""  # shorter, and used
    fill(lru, b"l")
    assert keys_of(lru) == b"abceghijkl"
    assert (lru.stats().held, lru.stats().evicted) == (901, 2)


def test_a_large_value_drives_many_out(lru: KVStore) -> None:
    lru[b"i"] = bytes(700)
    assert keys_of(lru) == b"ghi"
    with pytest.raises(OutOfSpaceError, match="at most 1000 bytes, the limit of the store"):
        lru[b"x"] = bytes(1000)
    assert keys_of(lru) == b"ghi"
    lru[b"x"] = bytes(999)
    assert keys_of(lru) == b"x"


def test_room_is_made_before(lru: KVStore) -> None:
    lru.evict()
    assert len(lru) == 9
    lru.evict(room=650)
    assert keys_of(lru) == b"ghi"
    lru[b"i"] = bytes(749)
    assert (keys_of(lru), lru.stats().evicted) == (b"ghi", 6)
    with pytest.raises(OutOfSpaceError, match="at most 1000 bytes expected, 1001 found"):
        lru.evict(room=1001)


def test_the_key_used_least_goes(path: Path) -> None:
    with opened(path, "lfu") as store:
        fill(store)
        for key in b"abcdefg":
            store.get(bytes([key]))
        store.get(b"a")
        fill(store, b"jkl")  # each is used once, as h and i are, and later
        assert keys_of(store) == b"abcdefgjkl"
        store[b"j"] = b""  # now twice, as b to g, and later
        fill(store, b"mno")
        assert keys_of(store) == b"abcdefgjno"
        store.check()


def test_the_key_that_expires_first_goes(path: Path) -> None:
    with opened(path, "ttl") as store:
        fill(store)
        for seconds, key in enumerate(b"cba", 1):
            store.expire(bytes([key]), seconds)
        fill(store, b"j")
        fill(store, b"k")
        assert keys_of(store) == b"abdefghijk"
        store.persist(b"b")
        store.expire(b"d", 10)
        fill(store, b"lm")
        assert keys_of(store) == b"befghijklm"
        with pytest.raises(OutOfSpaceError, match="none has a deadline"):
            fill(store, b"n")
        assert keys_of(store) == b"befghijklm"
        store.check()


def test_all_ways_to_store_keep_the_limit(lru: KVStore) -> None:
    lru.put_many([(b"%d" % number, bytes(98)) for number in range(30)], batch=7)
    assert [*lru] == [b"%d" % number for number in range(20, 30)]
    lru.set(b"t", bytes(99), ttl=9, tag="tag")
    lru.setdefault(b"u", bytes(99))
    lru.incr(b"n")
    assert (lru.stats().held, lru.tags()) == (902, [b"tag"])
    fill(lru, b"abcdefghij")
    assert (keys_of(lru), lru.tags(), lru.expiring) == (b"abcdefghij", [], 0)
    assert lru.pop(b"a")
    assert lru.delete(b"b")
    lru.clear()
    assert lru.stats().held == 0


def test_what_is_taken_back_has_evicted_nothing(lru: KVStore) -> None:
    before = dict(lru)
    with suppress(LookupError), lru.transaction():
        fill(lru, b"jklm")
        raise LookupError
    assert (dict(lru), lru.stats().held, lru.stats().evicted) == (before, 900, 0)


def test_many_uses_are_looked_up_a_few_at_a_time(path: Path) -> None:
    with opened(path, "lru", 600 * 100) as store:
        store.put_many((b"%05d" % number, bytes(95)) for number in range(600))
        for number in range(600):
            store.get(b"%05d" % number)
        store[b"x"] = bytes(99)  # 256 of 600 have got new ranks, the lowest of which is another's
        assert len(store) == 600
        for number in range(100):
            store[b"y%04d" % number] = bytes(95)
        assert (b"x" in store, len(store), store.stats().held) == (True, 600, 60_000)
        store.check()


# ---------------------------------------------------------------- limits come, change, and go


def test_the_file_remembers_the_limit_and_the_uses(path: Path) -> None:
    with opened(path, "lru") as store:
        fill(store)
        store.get(b"a")
    with opened(path, None, None) as store:
        fill(store, b"jk")
        assert keys_of(store) == b"acdefghijk"
        assert (store.stats().evict, store.stats().limit) == ("lru", 1000)
    with opened(path, None, None, flag="r") as store:
        assert (store.get(b"a"), store.stats().held) == (bytes(99), 1000)


def test_uses_after_the_opening_come_behind_those_before(path: Path) -> None:
    with opened(path, "lru") as store:
        fill(store)
        for key in b"abc":
            store.get(bytes([key]))
    with opened(path, None, None) as store:
        fill(store, b"jklmno")
        assert keys_of(store) == b"abcijklmno"
        store.check()


AnyBuffer: Any = bytearray  # is a key as well, and has no hash


def test_threads_that_read_and_write_keep_the_ranks(path: Path) -> None:
    with opened(path, "lfu", 5000) as store:

        def work(seed: int) -> None:
            for number in range(100):
                store[b"%d" % ((number * seed) % 97)] = bytes(90)
                for other in range(5):
                    store.get(AnyBuffer(b"%d" % ((number + other) % 97)))
                store.delete(AnyBuffer(b"%d" % (number * seed % 89)))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 5, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.check()


def test_a_lower_limit_counts_at_once(path: Path) -> None:
    with opened(path, "lru", 100_000) as store:
        store.put_many((b"%05d" % number, bytes(95)) for number in range(1000))
    with opened(path, "lru", 10_000) as store:
        assert [*store] == [b"%05d" % number for number in range(900, 1000)]
        store.check()


def test_a_store_gets_a_limit_and_loses_it(path: Path) -> None:
    with opened(path, None, None) as store:
        fill(store, b"abcdefghijkl")
        store.expire(b"k", 5)
    for evict, left in (("lru", b"cdefghijkl"), ("ttl", b"cdefghijkl"), ("lfu", b"cdefghijkl")):
        with opened(path, evict) as store:
            assert (keys_of(store), store.stats().evict) == (left, evict)
            store.check()
    with opened(path, "none", None) as store:
        fill(store, b"abmno")
        assert (len(store), store.stats().evict, len(store._heap.roots)) == (15, None, 4)
        store.check()


def test_a_limit_that_was_given_up_on_the_way_begins_anew(path: Path) -> None:
    with opened(path, None, None) as store:
        fill(store)
        for kind in ("ranks", "order"):  # as a crash leaves them: no figures
            SortedMap(store._heap, f"kvstore.{kind}")[b"x" * 16] = b"y"
    with opened(path, None, None) as store:
        assert (store.stats().evict, len(store._heap.roots)) == (None, 4)
        for kind in ("ranks", "order"):
            SortedMap(store._heap, f"kvstore.{kind}")[b"x" * 16] = b"y"
    with opened(path, "lru") as store:
        fill(store, b"jk")
        assert keys_of(store) == b"bcdefghijk"
        store.check()


def test_limits_that_cannot_be_are_refused(path: Path) -> None:
    with pytest.raises(UsageError, match="one of lru, lfu, ttl or 'none' expected, 'fifo' found"):
        opened(path, "fifo")
    for limit in (None, 0, -5, 1 << 64):
        with pytest.raises(UsageError, match="bytes above 0 expected with evict='lru'"):
            opened(path, "lru", limit)
    assert not path.exists()
    opened(path, "lru").close()
    with pytest.raises(UsageError, match="opened to write expected"):
        opened(path, "lru", flag="r")


def test_sub_stores_have_limits_of_their_own(path: Path) -> None:
    with opened(path, None, None) as store:
        cache = store.sub("cache", limit=1000, evict="lru")
        fill(cache, b"abcdefghijklm")
        fill(store, b"abcdefghijklm")
        assert (len(cache), len(store)) == (10, 13)
        store.check()


@pytest.mark.parametrize(
    ("kind", "key", "value", "says"),
    [
        ("order", b"", b"x", "figures"),
        ("order", b"x", b"a", "one number expected"),
        ("order", bytes(16), b"a", "one number expected"),
        ("ranks", b"a", b"x", "24 bytes expected, b'x' found"),
        ("ranks", b"a", bytes(24), "100 bytes expected"),
        ("ranks", b"a", bytes(23) + b"d", "b'a' at .* expected, another found"),
    ],
)
def test_check_finds_ranks_that_are_none(
    path: Path, kind: str, key: bytes, value: bytes, says: str
) -> None:
    with opened(path, "lru") as store:
        fill(store)
        SortedMap(store._heap, f"kvstore.{kind}")[key] = value
        with pytest.raises(CorruptHeapError, match=says):
            store.check()


# ---------------------------------------------------------------- the model

KEYS = st.sampled_from([b"", b"a", b"b", b"c", b"dd", b"e", b"f" * 40])
SIZES = st.sampled_from([0, 10, 50, 90, 120])
LIMIT = 200


class LimitMachine(RuleBasedStateMachine):
    """Ranks are kept for each key as the policy says it; the lowest goes."""

    policy: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.number = 0
        self.model: dict[bytes, tuple[int, list[int]]] = {}  # bytes of the value, rank
        self.files = 0
        self.now = NOW

    @initialize()
    def begin(self) -> None:
        self.store = self.opened("0.kv", LIMIT, self.policy)

    def opened(self, name: str, limit: int | None = None, evict: str | None = None) -> KVStore:
        path = Path(self.home.name, name)
        return KVStore(path, "process", limit=limit, evict=evict, clock=lambda: self.now)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.check()
            self.store.close()
        self.home.cleanup()

    def used(self, key: bytes, ttl: int | None = None) -> list[int]:
        self.number += 1
        if self.policy == "lru":
            return [0, self.number]
        if self.policy == "lfu":
            before = self.model[key][1][0] if key in self.model else 0
            return [before + 1, self.number]
        return [self.now + ttl * NS if ttl else 1 << 80, self.number]

    @rule(key=KEYS, size=SIZES, ttl=st.none() | st.integers(1, 5))
    def put(self, key: bytes, size: int, ttl: int | None) -> None:
        after = {**self.model, key: (size, self.used(key, ttl))}
        while sum(len(each) + size for each, (size, _) in after.items()) > LIMIT:
            others = {each: rank for each, (_, rank) in after.items() if each != key}
            lowest = min(others, key=others.__getitem__)
            if self.policy == "ttl" and others[lowest][0] == 1 << 80:
                with pytest.raises(OutOfSpaceError):
                    self.store.set(key, bytes(size), ttl)
                return
            del after[lowest]
        self.store.set(key, bytes(size), ttl)
        self.model = after

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        found = self.store.get(key)
        if self.policy == "ttl":  # what has expired stays until it is removed
            return
        assert (found is not None) == (key in self.model and self.store.ttl(key) != 0)
        if found is not None:
            self.model[key] = (len(found), self.used(key))

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @precondition(lambda self: self.policy == "ttl")
    @rule(key=KEYS, ttl=st.integers(1, 5))
    def expire(self, key: bytes, ttl: int) -> None:
        if self.store.expire(key, ttl):
            number = self.model[key][1][1]
            self.model[key] = (self.model[key][0], [self.now + ttl * NS, number])

    @precondition(lambda self: self.policy == "ttl")
    @rule()
    def wait(self) -> None:
        self.now += NS

    @rule(crashes=st.booleans())
    def reopen(self, crashes: bool) -> None:
        """Open it again; a crash forgets the uses that were noted in memory."""
        if crashes and self.policy == "ttl":
            self.files += 1
            copy_as_crashed(self.store.path, Path(self.home.name, f"{self.files}.kv"))
        self.store.close()
        self.store = self.opened(f"{self.files}.kv")
        self.store.check()

    @rule()
    def compact(self) -> None:
        self.store.compact()
        for key in [key for key in self.model if key not in self.store]:
            del self.model[key]

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        if hasattr(self, "store"):
            assert [*self.store._map] == sorted(self.model)
            held = sum(len(key) + size for key, (size, _) in self.model.items())
            eviction = self.store._eviction
            assert eviction is not None
            assert (figures := eviction.figures()) is not None
            assert figures.held == held


def machine(policy: str) -> Any:
    case: Any = type(f"{policy}Machine", (LimitMachine,), {"policy": policy})
    case = case.TestCase
    case.settings = settings(
        max_examples=max(4, settings().max_examples // 10), stateful_step_count=25, deadline=None
    )
    return case


TestLru, TestLfu, TestTtl = machine("lru"), machine("lfu"), machine("ttl")


# ---------------------------------------------------------------- every state of a short program

STEPS: list[Callable[[KVStore], object]] = [
    lambda store: store.set(b"a", bytes(300), tag="t"),
    lambda store: store.put_many([(b"b", bytes(300)), (b"c", bytes(300))]),
    lambda store: store.get(b"a"),
    lambda store: store.set(b"d", bytes(400), tag="t"),
    lambda store: store.sub("other", limit=50, evict="lru").update({b"a": bytes(30), b"b": b"2"}),
    lambda store: store.evict_tag("t"),
    lambda store: store.sub("other").set(b"c", bytes(40)),
]
Facts = tuple[dict[bytes, bytes], dict[str, dict[bytes, bytes]]]
FIRST = {b"a": bytes(30)}  # of the sub-store, which is made in several commits


def facts(store: KVStore) -> Facts:
    return dict(store), {name: dict(store.sub(name)) for name in store.subs()}


@pytest.mark.slow
def test_a_crash_leaves_a_limit_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.kv"
    KVStore(path, "power", limit=1000, evict="lru").close()
    expected: list[Facts] = [({}, {})]
    with Recorder(path) as recorder, KVStore(path) as store:
        for number, step in enumerate(STEPS, 1):
            recorder.begin(number)
            step(store)
            recorder.durable(number)
            expected.append(facts(store))

    between = [(main, {"other": subs}) for main, _ in expected[4:5] for subs in ({}, FIRST)]

    def open_and_check(image: Image, crash: Crash) -> None:
        with KVStore(image.path, flag="w") as found:
            found.check()
            assert facts(found) in [*expected[crash.least : crash.most + 1], *between]

    report = check_states(
        recorder.recording, open_and_check, kinds=(Kind.KILL, Kind.POWER), budget=2, seed=1
    )
    report.require(distinct=50)
