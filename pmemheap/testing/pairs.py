"""Pairs: a writer and a reader of one heap, which overtake each other wherever they can.

    writer   ■■■■■■■■│              │■■■■■■■■■■│   one round: one `write`, one `read`
    reader           │■■■■■■■■■■■■■■│          │   and one schedule, here with two changes of hand

A scheduler lets one of two processes run at a time, for so many steps: stores to the file, looks at
what the other one stores, locks and other system calls. What happens is the same each time.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pmemheap import native
from pmemheap.heap.heap import Heap
from pmemheap.testing.parts import BUSY, Begin, reader_part, writer_part
from pmemheap.testing.recorder import Crash, Kind
from pmemheap.testing.turns import END, Party

__all__ = ["PairsReport", "Schedule", "pairs", "step"]

_CHANGES_MOST = 6
"""Of hand, in a random schedule."""

Name = Literal["writer", "reader"]
step: Callable[[], None] = native.tape_step


@dataclass(frozen=True)
class Schedule:
    """Who runs first, and how many steps until the other one does; then both to their ends."""

    first: Name
    lengths: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return it in words."""
        names = ("writer", "reader") if self.first == "writer" else ("reader", "writer")
        turns = [
            f"{name} {length}"
            for name, length in zip(itertools.cycle(names), self.lengths, strict=False)
        ]
        rest = names[len(self.lengths) % 2], names[1 - len(self.lengths) % 2]
        return ", ".join([*turns, f"{rest[0]} to its end", rest[1]])


@dataclass
class PairsReport:
    """What was run, and met.

    Attributes
    ----------
    rounds : int
        Schedules, each with one write and one read.
    kills : int
        Rounds in which one of the two was killed.
    writer_steps, reader_steps : int
        The most of a round in which it was stopped.
    waits : int
        How often the reader could not go on before the writer had.
    busy : int
        Reads that were refused, as the writer had been killed in the middle of a commit.
    """

    rounds: int = 0
    kills: int = 0
    writer_steps: int = 0
    reader_steps: int = 0
    waits: int = 0
    busy: int = 0


def pairs(  # noqa: PLR0913 -- what to run, and independent choices with defaults
    path: str | os.PathLike[str],
    write: Callable[[Heap, int], object],
    read: Callable[[Any], object],
    check: Callable[[Any, Crash], object],
    *,
    setup: Callable[[Heap], object] = bool,
    begin: Begin = "read",
    changes: int = 2,
    schedules: int = 1000,
    kills: int = 1,
    seed: int = 0,
    durability: Literal["process", "power"] = "process",
) -> PairsReport:
    """Run a writer and a reader by turns, and check all that the reader sees.

    Parameters
    ----------
    path : path
        Where the heap is made; there is no file yet.
    write : callable
        Given the heap and a number, 1, 2, ...: one transaction, after which all is as that number
        says, whatever there was before. A writer that is killed in it leaves number or number - 1.
    read : callable
        Given a `Snapshot`, or what `begin` says: what it shows, as an object that can be pickled
        and compared. Where it calls `step` the writer may overtake it.
    check : callable
        Given what was read, and a `Crash` of the numbers that may be seen, ``least <= k <= most``:
        it raises if that is not so.
    setup : callable
        Given the new heap: makes number 0.
    begin : {"read", "refresh", "open", "last"}
        The reader's part: a new snapshot, going on with one, opening the heap for a new one, or the
        heap itself, of which each lookup in a map shows the last commit: `read` is given that.
    changes : int
        All schedules with up to so many changes of hand are run.
    schedules : int
        So many random ones are run besides.
    kills : int
        Kill the writer before each of its steps, or before each so-many-th, then the reader before
        each of its: what is left is opened and checked. 0: kill nobody.
    seed : int
    durability : {"process", "power"}

    Returns
    -------
    PairsReport

    Raises
    ------
    AssertionError
        What was read cannot be, a snapshot has changed, or one of the two failed. The schedule is
        said.

    Notes
    -----
    Both run in forks of this process: they see what it has. Snapshots of the last rounds are kept
    and read again. O(steps ** (changes - 1)) rounds of 0.3 to 1 ms; a kill takes 20 to 50.
    """
    at = Path(path)
    with Heap.create(at, durability=durability, readers=True) as heap:
        setup(heap)
    with _on_one_processor(), _Pairs(at, write, read, check, begin) as both:
        both.search(changes)
        both.sample(schedules, random.Random(seed))
        if kills:
            both.kill_writers(kills, random.Random(seed))
            both.kill_readers(kills, random.Random(seed))
    with Heap.open(at) as heap:
        heap.check()
    return both.report


@contextmanager
def _on_one_processor() -> Iterator[None]:
    """Run what is started here on one processor: only one process runs at a time.

    A switch to another processor takes several times as long.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[os.getpid() % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class _Pairs:
    """A writer and a reader at one heap; a context manager."""

    def __init__(
        self,
        path: Path,
        write: Callable[[Heap, int], object],
        read: Callable[[Any], object],
        check: Callable[[Any, Crash], object],
        begin: Begin,
    ) -> None:
        self._path, self._write, self._check = path, write, check
        self._reads = reader_part(path, read, begin)
        self._begun = self._returned = 0  # numbers of transactions
        self._least = self._most = 0  # that the reader may see
        self.report = PairsReport()

    def __enter__(self) -> Self:
        """Start both."""
        self._writer, self._reader = self._new_writer(), Party(self._path, self._reads)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End both."""
        for party in (self._reader, self._writer):
            if error is None:
                party.quit()
            else:
                party.kill()

    def _new_writer(self) -> Party:
        return Party(self._path, writer_part(self._path, self._write, self._begun + 1))

    # ------------------------------------------------------------ schedules

    def search(self, changes: int) -> None:
        """Run all schedules with up to so many changes of hand."""
        for first in ("writer", "reader"):
            self._run(Schedule(first))
            if changes > 1:
                self._search(Schedule(first), changes - 1)

    def _search(self, before: Schedule, more: int) -> None:
        """Run those that begin as one does and have up to `more` lengths besides."""
        for length in itertools.count(1):
            schedule = replace(before, lengths=(*before.lengths, length))
            if self._run(schedule):
                return  # one of more steps is the same
            if more > 1:
                self._search(schedule, more - 1)

    def sample(self, count: int, rng: random.Random) -> None:
        """Run random schedules, of few changes of hand and of many."""
        for _ in range(count):
            first: Name = rng.choice(("writer", "reader"))
            changes = rng.randint(1, _CHANGES_MOST)
            self._run(Schedule(first, tuple(self._lengths(first, changes, rng))))

    def _lengths(self, first: Name, changes: int, rng: random.Random) -> Iterator[int]:
        for turn in range(changes):
            is_writer = (first == "writer") == (turn % 2 == 0)
            steps = self.report.writer_steps if is_writer else self.report.reader_steps
            yield 1 + int(rng.expovariate((1 + changes // 2) / (1 + steps)))

    def _run(self, schedule: Schedule) -> bool:
        """Run a round; whether who ran last before both went to their ends came to its own."""
        self._begin()
        with self._naming(schedule):
            ended = self._turns(schedule)
            self._finish()
        self.report.rounds += 1
        return ended

    def _begin(self) -> None:
        self._writer.renew()
        self._reader.renew()

    def _turns(self, schedule: Schedule) -> bool:
        """Make the turns of a schedule but for the last two; whether the last one was cut short."""
        order = self._order(schedule.first)
        for length, party in zip(schedule.lengths, itertools.cycle(order), strict=False):
            if not party.is_done and not party.waits:
                self._go(party, length)
        if len(schedule.lengths) % 2:
            order.reverse()
        last = order[1]
        ended = bool(schedule.lengths) and (last.is_done or last.waits)
        for party in order:
            if not party.is_done and not party.waits:
                self._go(party, END)
        return ended

    def _order(self, first: Name) -> list[Party]:
        both = [self._writer, self._reader]
        return both if first == "writer" else both[::-1]

    def _finish(self) -> None:
        """Let both go to their ends, and look at what the reader has found."""
        while not (self._writer.is_done and self._reader.is_done):
            for party in (self._writer, self._reader):
                if not party.is_done:
                    self._go(party, END)
        self._look()

    def _go(self, party: Party, steps: int) -> None:
        """Let one of them go on, and note what that says of what may be seen."""
        if party is self._writer and not party.has_begun:
            self._begun += 1
        if party is self._reader and not party.has_begun:
            self._least = self._returned
        if not self._reader.is_done:
            self._most = self._begun
        party.go(steps)
        if party is self._writer and party.is_done:
            self._returned = self._begun
        self.report.waits += party.waits
        self._measure()

    def _measure(self) -> None:
        report = self.report
        report.writer_steps = max(report.writer_steps, self._writer.steps)
        report.reader_steps = max(report.reader_steps, self._reader.steps)

    def _look(self) -> None:
        """Check what the reader has found."""
        value, changed = self._reader.found
        if changed:
            raise AssertionError(f"a snapshot that stays as it was expected: {changed}")
        if value == BUSY:
            self.report.busy += 1
            return
        crash = Crash(self.report.rounds, Kind.KILL, self._least, self._most)
        self._check(value, crash)

    @contextmanager
    def _naming(self, what: object) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise AssertionError(f"pairs: round {self.report.rounds}: {what}: {error}") from error

    # ------------------------------------------------------------ kills

    def kill_writers(self, stride: int, rng: random.Random) -> None:
        """Kill the writer before its steps, with the reader somewhere."""
        for at in range(1, self.report.writer_steps + 1, stride):
            self._kill(self._writer, at, rng.randint(0, self.report.reader_steps + 1))

    def kill_readers(self, stride: int, rng: random.Random) -> None:
        """Kill the reader before its steps, with the writer somewhere."""
        for at in range(1, self.report.reader_steps + 1, stride):
            self._kill(self._reader, at, rng.randint(0, self.report.writer_steps + 1))

    def _kill(self, killed: Party, at: int, beside: int) -> None:
        """Kill one of them before its step, if it comes to it."""
        name = "writer" if killed is self._writer else "reader"
        other = self._reader if killed is self._writer else self._writer
        self._begin()
        with self._naming(f"{name} killed before step {at}, the other one before {beside + 1}"):
            if beside:
                self._go(other, beside)
            self._go(killed, at)
            if killed.waits:
                self._go(self._writer, END)
                self._go(killed, at)
            if killed.is_done:
                self._finish()
                return
            killed.kill()
            self.report.kills += 1
            if killed is self._writer:
                self._follow_writer()
            else:
                self._follow_reader()

    def _follow_writer(self) -> None:
        """Let the reader come to its end, and both begin anew with what is left."""
        if self._reader.has_begun and not self._reader.is_done:
            self._reader.go_alone()
        if self._reader.is_done:
            self._look()
        self._writer = self._new_writer()
        self._run(Schedule("reader"))

    def _follow_reader(self) -> None:
        """Let the writer come to its end: nothing is held by who is gone."""
        gone = self._reader.pid
        if not self._writer.is_done:
            self._go(self._writer, END)
        if gone in self._writer.ask():
            raise AssertionError(f"readers: none of process {gone}, which was killed, expected")
        self._reader = Party(self._path, self._reads)
        self._run(Schedule("writer"))
