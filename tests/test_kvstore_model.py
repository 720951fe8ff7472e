"""The key-value store against a dict, with expiry, savepoints, views, crashes and reopening.

A crash is a copy of the file that is made while the store is open: what a process that is killed
leaves, because all that was stored to the map of the file is in the kernel's memory. What a power
failure may leave of a short program is tried state by state.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pmemheap import DurabilityName, UsageError
from pmemheap.kvstore import KVStore
from pmemheap.testing import Crash, Image, Kind, Recorder, check_states, copy_as_crashed

NS = 1_000_000_000
NEVER = 1 << 62
KEYS = st.sampled_from([b"", b"a", b"aa", b"ab", b"b", b"b\0", b"\xff", b"k" * 1024])
VALUES = st.builds(
    lambda text, times: (text * times)[:6000],
    st.binary(min_size=1, max_size=4),
    st.sampled_from([0, 1, 40, 900, 1500]),
)
SECONDS = st.integers(1, 20)
TAGS = st.sampled_from([None, "t", "tag"])
OTHER = st.sampled_from([None, *KEYS.elements])  # type: ignore[attr-defined]

Model = dict[bytes, tuple[bytes, int, str | None]]  # value, deadline, tag


class StoreMachine(RuleBasedStateMachine):
    durability: DurabilityName = "process"

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.now = 1_700_000_000 * NS
        self.committed: Model = {}
        self.levels: list[Model] = []  # as the open transaction, and its savepoints, found it
        self.model: Model = {}
        self.open_ones: list[Any] = []
        self.views: list[tuple[memoryview, bytes]] = []
        self.files = 0

    @initialize()
    def begin(self) -> None:
        self.store = self.opened(self.path())

    def path(self) -> Path:
        self.files += 1
        return Path(self.home.name) / f"{self.files}.kv"

    def opened(self, path: Path) -> KVStore:
        return KVStore(path, self.durability, clock=lambda: self.now)

    def teardown(self) -> None:
        with ExitStack() as stack:
            stack.callback(self.home.cleanup)
            if hasattr(self, "store"):
                self.end_all()
                self.store.check()
                self.store.close()

    def end_all(self) -> None:
        while self.open_ones:
            self.end(fails=True)
        while self.views:
            self.release()

    # ------------------------------------------------------------ the model

    def live(self, model: Model | None = None) -> dict[bytes, bytes]:
        found = self.model if model is None else model
        return {key: value for key, (value, end, _) in sorted(found.items()) if end > self.now}

    def changed(self) -> None:
        if not self.open_ones:
            self.committed = dict(self.model)

    # ------------------------------------------------------------ changes

    @rule(key=KEYS, value=VALUES)
    def set_plain(self, key: bytes, value: bytes) -> None:
        self.store[key] = value
        self.model[key] = (value, NEVER, None)
        self.changed()

    @rule(key=KEYS, value=VALUES, ttl=SECONDS)
    def set_for_a_while(self, key: bytes, value: bytes, ttl: int) -> None:
        self.store.set(key, value, ttl)
        self.model[key] = (value, self.now + ttl * NS, None)
        self.changed()

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES), max_size=6), ttl=st.none() | SECONDS, tag=TAGS)
    def put_many(self, pairs: list[tuple[bytes, bytes]], ttl: int | None, tag: str | None) -> None:
        if tag is not None:
            pairs = [(key, value) for key, value in pairs if len(key) < 1000]
        self.store.put_many(pairs, batch=4, ttl=ttl, tag=tag)
        end = NEVER if ttl is None else self.now + ttl * NS
        self.model.update({key: (value, end, tag) for key, value in pairs})
        self.changed()

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        assert self.store.delete(key) == (key in self.live())
        self.model.pop(key, None)
        self.changed()

    @rule(key=KEYS)
    def pop(self, key: bytes) -> None:
        assert self.store.pop(key, None) == self.live().get(key)
        if key in self.live():  # else it has changed nothing: `purge` finds what has expired
            del self.model[key]
        self.changed()

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key: bytes, value: bytes) -> None:
        expected = self.live().get(key, value)
        assert self.store.setdefault(key, value) == expected
        if key not in self.live():
            self.model[key] = (value, NEVER, None)
        self.changed()

    @rule(key=KEYS, data=st.binary(max_size=5), share=st.floats(0, 1))
    def patch(self, key: bytes, data: bytes, share: float) -> None:
        found = self.live().get(key)
        if found is None or len(found) < len(data):
            return
        if self.open_ones and self.views:
            return  # what a view shows of a patch that is not committed is nobody's promise
        start = int(share * (len(found) - len(data)))
        self.store.patch(key, start, data)
        patched = found[:start] + data + found[start + len(data) :]
        self.model[key] = (patched, *self.model[key][1:])
        while self.views:
            self.release(checked=False)
        self.changed()

    @rule(key=KEYS, ttl=SECONDS)
    def expire(self, key: bytes, ttl: int) -> None:
        found = self.live().get(key)
        assert self.store.expire(key, ttl) == (found is not None)
        if found is not None:
            self.model[key] = (found, self.now + ttl * NS, self.model[key][2])
        self.changed()

    @rule(key=KEYS)
    def persist(self, key: bytes) -> None:
        found = self.live().get(key)
        expires = found is not None and self.model[key][1] != NEVER
        assert self.store.persist(key) == expires
        if found is not None:
            self.model[key] = (found, NEVER, self.model[key][2])
        self.changed()

    @rule(tag=TAGS)
    def evict_tag(self, tag: str | None) -> None:
        keys = [key for key, (_, _, found) in self.model.items() if found == (tag or "none")]
        assert self.store.evict_tag(tag or "none") == len(keys)
        for key in keys:
            del self.model[key]
        self.changed()

    @rule(key=KEYS, delta=st.integers(-2, 2))
    def incr(self, key: bytes, delta: int) -> None:
        found = self.live().get(key)
        if found is not None and not re.fullmatch(rb"-?[1-9]\d{0,8}|0", found):
            with pytest.raises(UsageError):
                self.store.incr(key, delta)
            return
        total = int(found or 0) + delta
        assert self.store.incr(key, delta) == total
        kept = (NEVER, None) if found is None else self.model[key][1:]
        self.model[key] = (b"%d" % total, *kept)
        self.changed()

    @rule(seconds=SECONDS)
    def wait(self, seconds: int) -> None:
        self.now += seconds * NS

    @rule()
    def purge(self) -> None:
        over = [key for key in self.model if key not in self.live()]
        assert self.store.purge() == len(over)
        for key in over:
            del self.model[key]
        self.changed()

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()
        self.changed()

    # ------------------------------------------------------------ transactions, views

    @precondition(lambda self: len(self.open_ones) < 3)
    @rule(durable=st.sampled_from([None, False, True]))
    def begin_transaction(self, durable: bool | None) -> None:
        transaction = self.store.transaction(durable)
        transaction.__enter__()
        self.open_ones.append(transaction)
        self.levels.append(dict(self.model))

    @precondition(lambda self: self.open_ones)
    @rule(fails=st.booleans())
    def end(self, fails: bool) -> None:
        transaction, before = self.open_ones.pop(), self.levels.pop()
        if fails:
            error = LookupError()
            transaction.__exit__(LookupError, error, None)
            self.model = before
        else:
            transaction.__exit__(None, None, None)
        self.changed()

    @precondition(lambda self: len(self.views) < 3 and not self.open_ones)
    @rule(key=KEYS)
    def view(self, key: bytes) -> None:
        if key in self.live():
            self.views.append((self.store.view(key), self.live()[key]))

    @precondition(lambda self: self.views)
    @rule()
    def release(self, checked: bool = True) -> None:
        view, expected = self.views.pop()
        assert not checked or bytes(view) == expected
        view.release()

    # ------------------------------------------------------------ reading

    @invariant()
    def has_what_the_model_has(self) -> None:
        if not hasattr(self, "store"):
            return
        expected = self.live()
        assert dict(self.store.items()) == expected
        assert list(self.store) == list(expected)
        assert len(self.store) == len(expected)
        for view, content in self.views:
            assert bytes(view) == content

    @rule(start=OTHER, stop=OTHER, reverse=st.booleans())
    def scan(self, start: bytes | None, stop: bytes | None, reverse: bool) -> None:
        expected = [
            item
            for item in self.live().items()
            if (start is None or item[0] >= start) and (stop is None or item[0] < stop)
        ]
        found = self.store.items(start, stop, reverse=reverse)
        assert list(found) == (expected[::-1] if reverse else expected)

    @rule(key=KEYS, steps=st.lists(st.sampled_from(["next", "prev"]), max_size=5))
    def go(self, key: bytes, steps: list[str]) -> None:
        keys, cursor = list(self.live()), self.store.cursor()
        cursor.seek(key)
        at = next((at for at, each in enumerate(keys) if each >= key), None)
        for step in steps:
            assert cursor.key == (None if at is None else keys[at])
            getattr(cursor, step)()
            if at is None:
                at = 0 if step == "next" else len(keys) - 1
            else:
                at += 1 if step == "next" else -1
            at = at if 0 <= at < len(keys) else None
        assert [*self.store.prefix(key)] == [
            item for item in self.live().items() if item[0].startswith(key)
        ]

    @rule(key=KEYS)
    def look(self, key: bytes) -> None:
        expected = self.live().get(key)
        assert self.store.get(key) == expected
        assert (key in self.store) == (expected is not None)
        if expected is not None:
            end = self.model[key][1]
            assert self.store.ttl(key) == (None if end == NEVER else (end - self.now) / NS)
            tag = self.model[key][2]
            assert self.store.tag(key) == (None if tag is None else tag.encode())

    # ------------------------------------------------------------ ends

    @rule()
    def crash(self) -> None:
        copy = self.path()
        copy_as_crashed(self.store.path, copy)
        with self.opened(copy) as found:
            assert dict(found.items()) == self.live(self.committed)
            found.check()
        copy.unlink()

    @rule()
    def crash_and_go_on(self) -> None:
        copy = self.path()
        copy_as_crashed(self.store.path, copy)
        self.end_all()
        self.store.close()
        self.store = self.opened(copy)
        self.model = dict(self.committed)

    @rule()
    def close_and_reopen(self) -> None:
        self.end_all()
        self.store.close()
        self.store = self.opened(Path(self.store.path))

    @precondition(lambda self: not self.open_ones)
    @rule()
    def snapshot(self) -> None:
        copy = self.path()
        self.store.snapshot(copy)
        with self.opened(copy) as found:
            assert dict(found.items()) == self.live()
        copy.unlink()

    @precondition(lambda self: not self.open_ones)
    @rule()
    def compact(self) -> None:
        self.store.compact()
        self.model = {key: self.model[key] for key in self.live()}
        self.changed()


class PowerStoreMachine(StoreMachine):
    durability = "power"


TestProcessStore = StoreMachine.TestCase
TestProcessStore.settings = settings(
    max_examples=max(10, settings().max_examples // 2), stateful_step_count=25, deadline=None
)
TestPowerStore = PowerStoreMachine.TestCase
TestPowerStore.settings = settings(
    max_examples=max(5, settings().max_examples // 4), stateful_step_count=25, deadline=None
)


# ---------------------------------------------------------------- every state of a short program

STEPS: list[Callable[[KVStore], object]] = [
    lambda store: store.set(b"a", b"1", ttl=100),
    lambda store: store.put_many([(b"b", b"2" * 2000), (b"c", b"3")]),
    lambda store: store.patch(b"b", 5, b"!"),
    lambda store: store.set(b"a", b"4"),
    lambda store: store.expire(b"c", 100),
    lambda store: store.set(b"d", b"5", ttl=100, tag="t"),
    lambda store: store.incr(b"d"),
    lambda store: store.pop(b"c"),
    lambda store: store.evict_tag("t"),
    lambda store: store.clear(),
]
KINDS = {"process": (Kind.KILL,), "power": (Kind.KILL, Kind.POWER)}
Facts = dict[bytes, tuple[bytes, float | None, bytes | None]]


def clock() -> int:
    return 1_700_000_000 * NS


def facts(store: KVStore) -> Facts:
    return {key: (value, store.ttl(key), store.tag(key)) for key, value in store.items()}


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_crash_leaves_a_store_between_two_steps(
    tmp_path: Path, durability: DurabilityName
) -> None:
    path = tmp_path / "a.kv"
    KVStore(path, durability).close()
    expected: list[Facts] = [{}]
    with Recorder(path) as recorder, KVStore(path, clock=clock) as store:
        for number, step in enumerate(STEPS, 1):
            recorder.begin(number)
            step(store)
            (recorder.durable if durability == "power" else recorder.returned)(number)
            expected.append(facts(store))

    def open_and_check(image: Image, crash: Crash) -> None:
        with KVStore(image.path, flag="w", clock=clock) as found:
            found.check()
            assert facts(found) in expected[crash.least : crash.most + 1]

    report = check_states(
        recorder.recording, open_and_check, kinds=KINDS[durability], budget=8, seed=1
    )
    report.require(distinct=50)
