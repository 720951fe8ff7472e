"""Rounds of random-time SIGKILL on one file of the key-value store, which lives on through all.

parent   fork ─► child: KVStore(path), commits of 1 or 10 operations, each told to a journal before
                        it is made and when it has returned
         0-80 ms, SIGKILL ─► 0-2 more children that only open ─► open, compare, check, close

What is there must be what was acknowledged, or that and the one commit in flight, as a whole.

python tests/kvstore_kill_load.py --rounds 200 --where /dev/shm --durability process --operations 10
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from kill_load import counting_recoveries, kill_after, table
from kill_oracle import Entry, Journal
from kill_script import emptied, pattern

from pmemheap import DurabilityName
from pmemheap.kvstore import KVStore
from pmemheap.units import KiB, MiB

KEYS = 400
TEN = 10
LONGEST = 0.08
_OPENING = (0.003, 0.008, 0.02)  # it takes 4 to 25 ms: its beginning, and all of it
NEEDED_SOON = (
    "commits acknowledged", "in flight, there", "in flight, not there", "large values written",
    "small values written", "deletes", "patches", "put_many",
)  # fmt: skip
NEEDED = (
    *NEEDED_SOON, "killed while it was opened", "killed while it was recovered",
    "killed while it was made", "killed in trim, compact or purge", "recovered records",
    "values of 1 MiB", "small over large", "large over small", "trims", "compactions", "purges",
    "keys that expired", "rounds with deadlines", "rounds without deadlines", "lazy rounds",
)  # fmt: skip
_MANY = 150
_NS = 1_000_000_000
_LARGE = 1 * KiB
_OPENED, _RETURNED, _UPKEPT = "opened", "returned", "upkept"


# ---------------------------------------------------------------- what is done


@dataclass(frozen=True)
class Step:
    """One operation on one key; `ttl` counts commits."""

    kind: str
    key: int
    length: int = 0
    start: int = 0
    ttl: int | None = None


@dataclass(frozen=True)
class Commit:
    """Operations that happen together; the number is the time as well."""

    number: int
    steps: tuple[Step, ...]
    by_put_many: bool = False

    def content(self, step: Step) -> bytes:
        """Return bytes that say whose they are: by their beginning, and by all that follows."""
        mark = b"%04d in %08d:" % (step.key, self.number)
        return (mark + pattern(self.number * KEYS + step.key, step.length))[: step.length]


def name(key: int) -> bytes:
    """Return a key, as bytes; some are long."""
    return b"%04d" % key + b"." * (key % 7 * 40)


@dataclass
class Clock:
    """Time, a second for each commit."""

    now: int = 0

    def __call__(self) -> int:
        return self.now * _NS


Facts = dict[bytes, tuple[bytes, float | None]]


@dataclass
class Contents:
    """What a store holds: values, and the commits from which on they are absent."""

    values: dict[int, bytes] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Contents:
        return Contents(dict(self.values), dict(self.ends))

    def is_live(self, key: int, now: int) -> bool:
        return key in self.values and self.ends.get(key, now + 1) > now

    def apply(self, commit: Commit) -> None:
        for step in commit.steps:
            if step.kind == "delete":
                del self.values[step.key]
                self.ends.pop(step.key, None)
                continue
            if step.kind == "patch":
                self._patch(step, commit.content(step))
                continue
            if step.kind == "set":
                self.values[step.key] = commit.content(step)
            if step.ttl is None:
                self.ends.pop(step.key, None)
            else:
                self.ends[step.key] = commit.number + step.ttl

    def _patch(self, step: Step, data: bytes) -> None:
        old = self.values[step.key]
        self.values[step.key] = old[: step.start] + data + old[step.start + step.length :]

    def drop_what_is_over(self, now: int) -> int:
        over = [key for key in self.values if not self.is_live(key, now)]
        for key in over:
            del self.values[key], self.ends[key]
        return len(over)

    def facts(self, now: int) -> Facts:
        return {
            name(key): (value, self.ends[key] - now if key in self.ends else None)
            for key, value in self.values.items()
            if self.is_live(key, now)
        }


def facts_of(store: KVStore) -> Facts:
    return {key: (value, store.ttl(key)) for key, value in store.items()}


def difference(expected: Facts, found: Facts) -> str:
    """Say where two contents differ first."""
    for key in sorted(expected.keys() | found.keys()):
        wanted, there = expected.get(key), found.get(key)
        if wanted == there:
            continue
        if wanted is None or there is None or wanted[0] == there[0]:
            return f"{key[:4]!r}: {_brief(wanted)} expected, {_brief(there)} found"
        pairs = enumerate(zip(wanted[0], there[0], strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(wanted[0]), len(there[0])))
        return f"{key[:4]!r}, from {at} on: {_brief(wanted)} expected, {_brief(there)} found"
    return ""


def _brief(fact: tuple[bytes, float | None] | None) -> str:
    return "none" if fact is None else f"{len(fact[0])} bytes {fact[0][:17]!r}, ttl {fact[1]}"


# ---------------------------------------------------------------- in the child


class Writer:
    """Commits of all kinds, as the dice fall, until the end comes."""

    def __init__(
        self, store: KVStore, contents: Contents, clock: Clock, journal: Journal, plan: Plan
    ) -> None:
        self.store, self.contents, self.clock = store, contents, clock
        self.journal, self.plan = journal, plan
        self.rng = random.Random(plan.seed)
        self.views: dict[int, memoryview] = {}

    def run(self) -> None:
        while True:
            self.clock.now += 1
            commit = self.draw()
            for step in commit.steps:
                self.release(step.key)
            ready = [(step, commit.content(step)) for step in commit.steps]
            self.tell(commit)
            began = time.monotonic()
            self.perform(ready, by_put_many=commit.by_put_many)
            if self.rng.random() < 0.2:  # or the end would hardly ever come before the next line
                time.sleep(time.monotonic() - began)
            self.tell(_RETURNED)
            self.contents.apply(commit)
            if self.rng.random() < 0.1:
                self.look(commit.steps[0].key)
            if self.rng.random() < 0.03:
                self.upkeep()

    def tell(self, note: object) -> None:
        self.journal.write(Entry(0, note=note))

    # ------------------------------------------------------------ choosing

    def draw(self) -> Commit:
        keys = self.rng.sample(range(KEYS), self.plan.operations)
        if self.rng.random() < 0.15:
            ttl = self.ttl()
            steps = tuple(Step("set", key, self.length(), ttl=ttl) for key in keys)
            return Commit(self.clock.now, steps, by_put_many=True)
        return Commit(self.clock.now, tuple(self.step(key) for key in keys))

    def step(self, key: int) -> Step:
        if not self.contents.is_live(key, self.clock.now):
            return Step("set", key, self.length(), ttl=self.ttl())
        kinds = ["set", "patch", "expire" if self.plan.expiring else "set", "delete"]
        (kind,) = self.rng.choices(kinds, [4, 2, 1, self.plan.deletes])
        if kind == "set":
            return Step(kind, key, self.length(), ttl=self.ttl())
        if kind == "patch":
            size = len(self.contents.values[key])
            length = self.rng.randint(0, min(size, self.rng.choice([8, 300, 20 * KiB])))
            return Step(kind, key, length, self.rng.randint(0, size - length))
        if kind == "expire":
            return Step(kind, key, ttl=self.rng.choice([None, 3, 300]))
        return Step(kind, key)

    def length(self) -> int:
        dice = self.rng.random()
        if dice < 0.6:
            return self.rng.randint(0, 200)
        if dice < 0.98:
            return round(math.exp(self.rng.uniform(math.log(_LARGE), math.log(100 * KiB))))
        return 1 * MiB

    def ttl(self) -> int | None:
        return self.rng.choice([None, None, 3, 300]) if self.plan.expiring else None

    # ------------------------------------------------------------ doing

    def perform(self, ready: list[tuple[Step, bytes]], *, by_put_many: bool) -> None:
        store = self.store
        if by_put_many:
            pairs = [(name(step.key), content) for step, content in ready]
            store.put_many(pairs, ttl=ready[0][0].ttl)
        elif len(ready) == 1:
            self.do(*ready[0])
        else:
            with store.transaction(self.rng.choice([None, None, False])):
                for step, content in ready:
                    self.do(step, content)

    def do(self, step: Step, content: bytes) -> None:
        store, key = self.store, name(step.key)
        if step.kind == "set":
            store.set(key, content, step.ttl)
        elif step.kind == "patch":
            store.patch(key, step.start, content)
        elif step.kind == "delete":
            if self.rng.random() < 0.5:
                assert store.delete(key)
            else:
                assert store.pop(key) == self.contents.values[step.key]
        elif step.ttl is None:
            store.persist(key)
        else:
            assert store.expire(key, step.ttl)

    def look(self, key: int) -> None:
        """Compare a value, and keep a view of it: space that is in use when the process dies."""
        if self.contents.is_live(key, self.clock.now):
            assert self.store[name(key)] == self.contents.values[key]
            self.views[key] = self.store.view(name(key))
        if len(self.views) > 5:
            self.release(next(iter(self.views)))

    def release(self, key: int) -> None:
        """Let a view go before, or some time after, its value changes."""
        if key in self.views and self.rng.random() < 0.5:
            self.views.pop(key).release()

    def upkeep(self) -> None:
        what, act = self.rng.choice(UPKEEP)
        self.tell(what)
        act(self.store)
        self.tell(_UPKEPT)


UPKEEP: list[tuple[str, Callable[[KVStore], object]]] = [
    ("trims", lambda store: store._heap.trim()), ("compactions", KVStore.compact),
    ("purges", KVStore.purge), ("syncs", KVStore.sync),
]  # fmt: skip


# ---------------------------------------------------------------- the rounds


@dataclass(frozen=True)
class Plan:
    """What a child does in one round."""

    seed: int
    operations: int
    expiring: bool
    deletes: int
    durable: bool | None


@dataclass
class Rounds:
    """Kills, one after the other; `counts` says what was met."""

    path: Path
    durability: DurabilityName
    operations: int
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.clock, self.contents, self.journal = Clock(), Contents(), Journal()
        KVStore(self.path, self.durability).close()
        self.size = emptied(self.path)

    def run(self, rounds: int) -> None:
        """Do some rounds, and see that no space was lost."""
        for number in range(rounds):
            with self._told_of(number):
                self._round(number)
        self.journal.close()
        with self._opened() as store:
            store.clear()
            require_sound(store)
        size = emptied(self.path)
        assert size == self.size, f"{self.size} bytes expected when all is free, {size} found"

    def require(self) -> None:
        """Fail if something was never met."""
        needed = NEEDED if self.counts["rounds"] >= _MANY else NEEDED_SOON
        missing = [each for each in needed if not self.counts[each]]
        if self.operations == TEN and not self.counts["transactions of ten"]:
            missing.append("transactions of ten")
        assert not missing, f"never met: {missing}"

    @contextmanager
    def _told_of(self, number: int) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            what = f"{self.durability}, {self.operations} operations, seed {self.seed}"
            raise AssertionError(f"{what}, round {number}: {error}") from error

    def _opened(self, durable: bool | None = None) -> KVStore:
        return KVStore(self.path, flag="w", durable=durable, clock=self.clock)

    # ------------------------------------------------------------ one round

    def _round(self, number: int) -> None:
        rng = self.rng
        self.journal.clear()
        plan = Plan(
            rng.randrange(1 << 60), self.operations, expiring=rng.random() < 0.4,
            deletes=rng.choice([1, 2, 9]), durable=rng.choice([None, None, False]),
        )  # fmt: skip
        opening = self.journal if rng.random() < 0.8 else None
        longest = LONGEST if opening else rng.choice(_OPENING)
        kill_after(lambda: self._work(plan), rng.uniform(0, longest), opening)
        self._count_plan(plan)
        in_flight = self._read()
        for _ in range(rng.choice([0, 0, 1, 2])):
            self._kill_recovery()
        if number % 8 == 0:
            self._kill_making()
        self._settle(in_flight, again=number % 8 == 0)

    def _work(self, plan: Plan) -> None:
        """Be the child."""
        store = self._opened(plan.durable)
        writer = Writer(store, self.contents, self.clock, self.journal, plan)
        writer.tell(_OPENED)
        writer.run()

    def _read(self) -> Commit | None:
        """Take over what was acknowledged; return what was not."""
        in_flight: Commit | None = None
        notes = [entry.note for entry in self.journal]
        for note in notes:
            if isinstance(note, Commit):
                in_flight, self.clock.now = note, note.number
            elif note == _RETURNED:
                assert in_flight is not None
                self._count_commit(in_flight)
                self.contents.apply(in_flight)
                in_flight = None
            else:
                self.counts[note] += 1
        self.counts["killed while it was opened"] += not notes
        self.counts["killed in trim, compact or purge"] += bool(notes) and notes[-1] in {
            what for what, _ in UPKEEP[:3]
        }
        return in_flight

    def _kill_recovery(self) -> None:
        """Let somebody else begin to open the file."""
        progress = Journal(1 << 16)

        def work() -> None:
            progress.write(Entry(0, note="begun"))
            store = self._opened()
            progress.write(Entry(0, note=_OPENED))
            time.sleep(1)
            store.close()

        kill_after(work, self.rng.uniform(0, self.rng.choice(_OPENING)), progress)
        notes = [entry.note for entry in progress]
        self.counts["killed while it was recovered"] += notes == ["begun"]
        self.counts["killed when it had been recovered"] += notes == ["begun", _OPENED]
        progress.close()

    def _kill_making(self) -> None:
        """Let somebody begin to make a store: it is empty, or there is none."""
        path = self.path.with_name("another")
        opened = Journal(1 << 16)

        def work() -> None:
            KVStore(path, self.durability)
            opened.write(Entry(0, note=_OPENED))
            time.sleep(1)

        kill_after(work, self.rng.uniform(0, self.rng.choice(_OPENING)))
        self.counts["killed while it was made"] += opened.is_empty()
        self.counts["killed when it was half made"] += opened.is_empty() and path.exists()
        opened.close()
        with KVStore(path, self.durability) as store:
            assert not dict(store), f"an empty store expected, {len(store)} keys found"
            require_sound(store)
        path.unlink()

    def _settle(self, in_flight: Commit | None, *, again: bool) -> None:
        with counting_recoveries(self._count_records), self._opened() as store:
            self._decide(in_flight, facts_of(store))
            require_sound(store)
            if self.rng.random() < 0.5:
                self._let_expire(store)
        if again:
            with self._opened() as store:
                trouble = difference(self.contents.facts(self.clock.now), facts_of(store))
                assert not trouble, f"opened once more: {trouble}"

    def _decide(self, in_flight: Commit | None, found: Facts) -> None:
        """Find out whether the commit in flight has happened, and take it over as a whole."""
        before = difference(self.contents.facts(self.clock.now), found)
        if in_flight is None:
            assert not before, f"nothing in flight: {before}"
            return
        later = self.contents.copy()
        later.apply(in_flight)
        after = difference(later.facts(self.clock.now), found)
        words = f"in flight {in_flight}\nif it is not there: {before}\nif it is: {after}"
        assert not before or not after, words
        if before and not after:
            self.counts["in flight, there"] += 1
        elif after:
            self.counts["in flight, not there"] += 1
        else:
            self.counts["in flight, no difference"] += 1
        if not after:
            self.contents = later

    def _let_expire(self, store: KVStore) -> None:
        """Let time go by until no key has a deadline: then the store looks at none any more."""
        self.clock.now += 1000
        over = self.contents.drop_what_is_over(self.clock.now)
        self.counts["keys that expired"] += over
        assert dict(store) == {name(k): value for k, value in self.contents.values.items()}
        store.purge()
        require_sound(store)

    # ------------------------------------------------------------ counting

    def _count_plan(self, plan: Plan) -> None:
        self.counts["rounds"] += 1
        self.counts[f"rounds {'with' if plan.expiring else 'without'} deadlines"] += 1
        self.counts["lazy rounds"] += plan.durable is False

    def _count_commit(self, commit: Commit) -> None:
        self.counts["commits acknowledged"] += 1
        self.counts["put_many"] += commit.by_put_many
        self.counts["transactions of ten"] += len(commit.steps) == TEN
        for step in commit.steps:
            if step.kind == "set":
                self._count_set(step)
            else:
                word = {"delete": "deletes", "patch": "patches", "expire": "deadlines changed"}
                self.counts[word[step.kind]] += 1

    def _count_set(self, step: Step) -> None:
        large, old = step.length >= _LARGE, self.contents.values.get(step.key)
        self.counts[f"{'large' if large else 'small'} values written"] += 1
        self.counts["values of 1 MiB"] += step.length == MiB
        if old is not None and (len(old) >= _LARGE) != large:
            self.counts["large over small" if large else "small over large"] += 1

    def _count_records(self, records: int) -> None:
        self.counts["recovered records" if records else "recovered no record"] += 1


def require_sound(store: KVStore) -> None:
    """Verify a store, and that each block of its heap is one of its maps."""
    store.check()
    maps = [store._map, store._deadlines._table, store._tags._of, store._tags._keys]
    held = [each.statistics() for each in maps]
    used = sum(1 + each.nodes + each.apart for each in held)  # 1: the header
    blocks = sum(1 for _ in store._heap.blocks())
    assert blocks == used, f"{used} blocks expected, {blocks} found"


# ---------------------------------------------------------------- by hand


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--where", default=".")
    parser.add_argument("--durability", choices=["process", "power"], default="power")
    parser.add_argument("--operations", type=int, choices=[1, TEN], default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with TemporaryDirectory(dir=options.where, prefix="kvkill-") as directory:
        path = Path(directory) / "a.kv"
        rounds = Rounds(path, options.durability, options.operations, options.seed)
        try:
            rounds.run(options.rounds)
        finally:
            print(table(rounds.counts))  # noqa: T201
        rounds.require()
    print(f"{time.monotonic() - began:8.1f} seconds")  # noqa: T201


if __name__ == "__main__":
    main()
