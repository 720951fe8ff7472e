"""States: every file that a crash at some event of a recording could leave, or a fair sample.

    signal          all stores so far; a longer one that comes next also by half ("torn")
    power failure   each cell any value of its history, the size of the file likewise

        cells  A a|b|c   B a|b        exhaustive: the product, here 6, while it is within the budget
                                      else: all old, all new, each single one old or new, each
                                      prefix and suffix of the stores, torn pages, random mixes

A `State` is small: what differs from what the process saw. States that were met before are dropped,
unless something else may be found in them by now (`Crash.least` and `most`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, pairwise
from typing import TYPE_CHECKING, TypeVar

from pmemheap.native import TapeKind
from pmemheap.testing.cells import SECTOR, Replay, Unsynced
from pmemheap.testing.recorder import Crash, Kind, Recording

if TYPE_CHECKING:
    from collections.abc import Callable

    Changes = tuple[dict[int, bytes], int]
    Candidate = tuple[int, Callable[[], Changes]]

__all__ = ["CrashStates", "State", "StateCounts"]

_T = TypeVar("_T")

_PAGE = 4096
_OLDEST = -(1 << 62)  # before every event
_WORD = 8
_OUTDATED = {TapeKind.SYNC_RANGE, TapeKind.SYNC_FILE, TapeKind.FLUSH, TapeKind.FENCE}


@dataclass(frozen=True)
class State:
    """A file that a crash could leave.

    Attributes
    ----------
    crash : Crash
        When, how, and what may be found.
    changes : dict of int to bytes
        Cells that differ from what the process saw.
    size : int
        Bytes of the file.
    key : int
        Equal for equal files, of one recording.
    torn : bool
        The next event is a store, and half of it happened.
    """

    crash: Crash
    changes: dict[int, bytes]
    size: int
    key: int
    torn: bool = False

    @property
    def kind(self) -> str:
        """Name of the kind in counts."""
        return "torn" if self.torn else str(self.crash.kind)


@dataclass
class StateCounts:
    """Counts of an enumeration: cut points, states by kind, and files met again."""

    cut_points: int = 0
    exhaustive: int = 0
    sampled: int = 0
    duplicates: int = 0
    states: Counter[str] = field(default_factory=Counter)


class CrashStates:
    """Iterate over the distinct states that crashes of a recording could leave.

    Parameters
    ----------
    recording : Recording
        What happened.
    kinds : iterable of Kind
        Which crashes.
    cell : int
        Bytes that power failure does not tear: `SECTOR` or `LINE`.
    budget : int
        Candidates per event for power failures: up to it the product of all histories, then a
        sample of this many.
    seed : int
        Of the samples.
    unsynced : Unsynced, optional
        What the medium may have instead of the base.
    keep : callable, optional
        Given a key; states for which it is false are counted but not made.

    Attributes
    ----------
    replay : Replay
        Stands where the state that was yielded last was left: materialise it before going on.
    counts : StateCounts
    """

    def __init__(  # noqa: PLR0913 -- the recording, and six independent choices
        self,
        recording: Recording,
        *,
        kinds: tuple[Kind, ...] = (Kind.KILL, Kind.POWER),
        cell: int = SECTOR,
        budget: int = 4096,
        seed: int = 0,
        unsynced: Unsynced | None = None,
        keep: Callable[[int], bool] | None = None,
    ) -> None:
        self.recording = recording
        self.replay: Replay = Replay(recording, cell, unsynced)
        self.counts: StateCounts = StateCounts()
        self._kinds = kinds
        self._budget = budget
        self._seed = seed
        self._keep = keep
        self._seen: set[tuple[int, int, int]] = set()

    def __iter__(self) -> Iterator[State]:
        """Yield the states in the order of the recording."""
        yield from self._cut()
        for event in self.recording.events[self.replay.done :]:
            before = self._expected()
            if Kind.KILL in self._kinds:
                yield from self._torn()
            self.replay.advance()
            if event.kind not in _OUTDATED or before != self._expected():
                yield from self._cut()

    @property
    def distinct(self) -> int:
        """How many different files there were."""
        return len({key for key, _, _ in self._seen})

    def _expected(self) -> list[tuple[int, int]]:
        crashes = (self.recording.crash(self.replay.done, kind) for kind in self._kinds)
        return [(crash.least, crash.most) for crash in crashes]

    def _cut(self) -> Iterator[State]:
        self.counts.cut_points += 1
        for kind in self._kinds:
            crash = self.recording.crash(self.replay.done, kind)
            candidates = self._kills() if kind == Kind.KILL else self._power_failures()
            yield from self._fresh(crash, candidates, torn=False)

    def _fresh(
        self, crash: Crash, candidates: Iterator[Candidate], *, torn: bool
    ) -> Iterator[State]:
        """Make those candidates that were not met before."""
        for key, changes in candidates:
            identity = key, crash.least, crash.most
            if identity in self._seen:
                self.counts.duplicates += 1
                continue
            self._seen.add(identity)
            if self._keep is None or self._keep(key):
                state = State(crash, *changes(), key, torn)
                self.counts.states[state.kind] += 1
                yield state

    # ------------------------------------------------------------ signals

    def _kills(self) -> Iterator[Candidate]:
        yield self._candidate({}, self.replay.size)

    def _torn(self) -> Iterator[State]:
        event = self.recording.events[self.replay.done]
        if event.data and event.length > _WORD:
            crash = self.recording.crash(self.replay.done, Kind.KILL)
            half = event.offset + event.length // 16 * 8
            size = max(self.replay.size, half)
            candidate = self._candidate(self.replay.torn(event), size)
            yield from self._fresh(crash, iter([candidate]), torn=True)

    def _candidate(self, changes: dict[int, bytes], size: int) -> Candidate:
        return self.replay.key_of(changes, size), lambda: (changes, size)

    # ------------------------------------------------------------ power failures

    def _power_failures(self) -> Iterator[Candidate]:
        mix = _Mix(self.replay)
        if mix.product <= self._budget:
            self.counts.exhaustive += 1
            return mix.all()
        self.counts.sampled += 1
        chance = random.Random(f"{self._seed} {self.replay.done}")
        return mix.sample(self._budget, chance)


class _Mix:
    """The ways in which histories combine at one cut point."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.cells = list(replay.history)
        self.choices = [_distinct(replay.history[cell]) for cell in self.cells]
        self.sizes = list(dict.fromkeys(size for _, size in replay.sizes))
        self.product = len(self.sizes)
        for each in self.choices:
            self.product *= len(each)

    # A choice is an index into `choices` for each cell, and one into `sizes`.

    def all(self) -> Iterator[Candidate]:
        """Yield the product, keys first: what was met before costs next to nothing."""
        keys = [self.replay.key]
        for cell, contents in zip(self.cells, self.choices, strict=True):
            turns = self._turns(cell, contents)
            keys = [key ^ turn for key in keys for turn in turns]
        now = self.replay.size_weight(self.replay.size)
        turns = [now ^ self.replay.size_weight(size) for size in self.sizes]
        keys = [key ^ turn for key in keys for turn in turns]
        return ((key, partial(self._of_number, number)) for number, key in enumerate(keys))

    def _turns(self, cell: int, contents: list[bytes]) -> list[int]:
        """Return what turns the key of `now` into that with each content of a cell."""
        now = self.replay.weight(cell, self.replay.content(cell))
        return [now ^ self.replay.weight(cell, content) for content in contents]

    def _of_number(self, number: int) -> Changes:
        number, index = divmod(number, len(self.sizes))
        size = self.sizes[index]
        changes = {}
        for cell, contents in zip(reversed(self.cells), reversed(self.choices), strict=True):
            number, index = divmod(number, len(contents))
            if contents[index] != self.replay.content(cell):
                changes[cell] = contents[index]
        return changes, size

    # ------------------------------------------------------------ samples

    def sample(self, budget: int, chance: random.Random) -> Iterator[Candidate]:
        """Yield all old and all new, then the other families as far as the budget goes."""
        yield self._keyed(*self._oldest())
        yield self._keyed({}, self.replay.size)
        regular = list(chain(self._singles(), self._prefixes(), self._suffixes()))
        left = max(0, budget - 2)
        if len(regular) > left:
            regular = chance.sample(regular, left)
        yield from regular
        left -= len(regular)
        for number in range(left):
            changes = self._torn_pages(chance) if number % 4 == 0 else self._random(chance)
            yield self._keyed(*changes)

    def _keyed(self, changes: dict[int, bytes], size: int) -> Candidate:
        return self.replay.key_of(changes, size), lambda: (changes, size)

    def _oldest(self) -> Changes:
        return self._at(_OLDEST)

    def _at(self, event: int) -> Changes:
        """Return the file as it was after an event, counted from 0."""
        changes = {}
        for cell, values in self.replay.history.items():
            content = _value_at(values, event)
            if content != values[-1][1]:
                changes[cell] = content
        return changes, _value_at(self.replay.sizes, event)

    def _moments(self) -> list[int]:
        """Return the events whose changes may be missing, in order."""
        histories = self.replay.history.values()
        events = {event for values in histories for event, _ in values[1:]}
        return sorted(events | {event for event, _ in self.replay.sizes[1:]})

    def _prefixes(self) -> Iterator[Candidate]:
        """Yield the changes up to each event, and nothing behind it."""
        replay = self.replay
        key = replay.key_of(*self._oldest())
        turns: dict[int, int] = dict.fromkeys(self._moments(), 0)
        for cell, values in replay.history.items():
            for (_, old), (event, new) in pairwise(values):
                turns[event] ^= replay.weight(cell, old) ^ replay.weight(cell, new)
        for (_, before), (event, after) in pairwise(replay.sizes):
            turns[event] ^= replay.size_weight(before) ^ replay.size_weight(after)
        for event, turn in turns.items():
            key ^= turn
            yield key, partial(self._at, event)

    def _suffixes(self) -> Iterator[Candidate]:
        """Yield the cells that were stored to last, and all others old."""
        oldest, old_size = self._oldest()
        order = sorted(oldest, key=lambda cell: self.replay.history[cell][-1][0])
        key = self.replay.key_of(oldest, old_size)
        for index in range(len(order) - 1, 0, -1):
            cell = order[index]
            key ^= self.replay.weight(cell, oldest[cell])
            key ^= self.replay.weight(cell, self.replay.content(cell))
            yield key, partial(self._oldest_of, order[:index])

    def _oldest_of(self, cells: list[int]) -> Changes:
        history = self.replay.history
        return {cell: history[cell][0][1] for cell in cells}, self.replay.sizes[0][1]

    def _singles(self) -> Iterator[Candidate]:
        """Yield one cell old and all others new, and one cell new and all others old."""
        oldest, old_size = self._oldest()
        old_key = self.replay.key_of(oldest, old_size)
        size = self.replay.size
        for cell, contents in zip(self.cells, self.choices, strict=True):
            now = self.replay.content(cell)
            first = self.replay.history[cell][0][1]
            for content in contents:
                turn = self.replay.weight(cell, content)
                if content != now:
                    yield self._keyed({cell: content}, size)
                if content != first:
                    key = old_key ^ self.replay.weight(cell, first) ^ turn
                    yield key, partial(self._old_but, cell, content)
        for each in self.sizes:
            yield self._keyed({}, each)
            yield self._keyed(oldest, each)

    def _old_but(self, cell: int, content: bytes) -> Changes:
        changes, size = self._oldest()
        if content == self.replay.content(cell):
            changes.pop(cell, None)
        else:
            changes[cell] = content
        return changes, size

    def _random(self, chance: random.Random) -> Changes:
        """Return one of all combinations, with a bias to few or many new cells."""
        share = chance.random()
        changes = {}
        for cell, contents in zip(self.cells, self.choices, strict=True):
            now = self.replay.content(cell)
            content = now if chance.random() < share else chance.choice(contents)
            if content != now:
                changes[cell] = content
        return changes, chance.choice(self.sizes)

    def _torn_pages(self, chance: random.Random) -> Changes:
        """Return the file after some event with one or two pages that are torn at their cells."""
        moment = chance.choice([_OLDEST, *self._moments()])
        changes, size = self._at(moment)
        per_page = _PAGE // self.replay.cell
        pages = sorted({cell // per_page for cell in self.cells})
        torn = set(chance.sample(pages, min(len(pages), chance.randint(1, 2))))
        for cell, contents in zip(self.cells, self.choices, strict=True):
            if cell // per_page in torn:
                changes[cell] = chance.choice(contents)
        now = self.replay.content
        return {cell: each for cell, each in changes.items() if each != now(cell)}, size


def _distinct(values: list[tuple[int, bytes]]) -> list[bytes]:
    return list(dict.fromkeys(content for _, content in values))


def _value_at(values: list[tuple[int, _T]], event: int) -> _T:
    """Return the value of after an event."""
    found = values[0][1]
    for index, value in values:
        if index > event:
            break
        found = value
    return found
