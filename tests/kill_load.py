"""Rounds of random-time SIGKILL on one heap file, which lives on through all of them.

parent   fork ─► child: open (recovery), threads that change the heap, each telling a journal;
                 it commits to another heap, too, and leaves children and grandchildren
         fork ─► a second process, with a heap of its own
         0-50 ms, SIGKILL ─► 0-2 more children that only open ─► open, settle, check, close

python tests/kill_load.py --rounds 1000 --where /dev/shm --durability process
python tests/kill_load.py --every 1 --where . --durability power     the script, at every change
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from kill_bystanders import Bystander, opened
from kill_oracle import NOTHING, Entry, Found, Journal, Ledger, Model, Player
from kill_script import Actor, Kills, emptied, log_of, made, reopened

from pmemheap import Heap
from pmemheap.file import recovery
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.recovery import Recovery
from pmemheap.layout import LOG_BYTES
from pmemheap.testing import copy_as_crashed
from pmemheap.units import KiB, MiB

THREADS_MOST = 4
LONGEST = 0.05
NEEDED_SOON = (
    "changes acknowledged", "in flight, there", "in flight, not there", "durable commits",
    "lazy commits", "recovered 3 and more records", "rounds of several threads",
    "commits beside", "commits of a second process",
)  # fmt: skip
NEEDED = (
    *NEEDED_SOON, "killed while it was opened", "killed while it was recovered",
    "recovered no record", "recovered 1 record", "recovered 2 records", "growths", "trims",
    "log moves", "checkpoints", "forked children left alive",
)  # fmt: skip
_MANY = 500
_BLOCKS_MOST = 40
_SIZES = (16, 40, 100, 256, 1000, 3000, 5000, 20 * KiB, 100 * KiB)


@dataclass
class Rounds:
    """Kills, one after the other; `counts` says what was met."""

    path: Path
    durability: str
    seed: int
    keep: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        made(self.path, self.durability).close()
        self.size = emptied(self.path)
        self.models = [Model() for _ in range(THREADS_MOST)]
        self.journal = Journal()
        self.bystanders = [
            Bystander(self.path.with_name(f"{self.path.name} {name}"), self.durability)
            for name in ("beside", "elsewhere")
        ]

    def run(self, rounds: int, most: int = 0) -> None:
        """Do some rounds, more while something was never met, and see that no space was lost."""
        for number in range(max(rounds, most)):
            if number >= rounds and not self._missing:
                break
            self._round(number)
        self.journal.close()
        size = emptied(self.path)
        assert size == self.size, f"{self.size} bytes expected when all is free, {size} found"

    def describe(self) -> str:
        return table(self.counts)

    def require(self) -> None:
        """Fail if something was never met."""
        assert not self._missing, f"never met: {self._missing}"

    @property
    def _missing(self) -> list[str]:
        needed = NEEDED if self.counts["rounds"] >= _MANY else NEEDED_SOON
        return [name for name in needed if not self.counts[name]]

    # ------------------------------------------------------------ one round

    def _round(self, number: int) -> None:
        self.journal.clear()
        threads = self.rng.randint(2, THREADS_MOST)
        self.counts["rounds"] += 1
        self.counts["rounds of several threads"] += threads > 1
        seed = self.rng.randrange(1 << 60)
        from_opening = self.rng.random() < 0.8
        with killed_at_the_end(self.bystanders[1].run_alone):
            kill_after(
                lambda: self._work(threads, seed), self.rng.uniform(0, LONGEST), self.journal
                if from_opening else None,
            )  # fmt: skip
        ledger = Ledger(self.models)
        ledger.read(self.journal)
        self._count(ledger)
        for _ in range(self.rng.choice([0, 0, 1, 2])):
            self._kill_recovery()
        self._settle(ledger, number)

    def _kill_recovery(self) -> None:
        """Let somebody else begin to open the file."""
        progress = Journal(1 << 16)

        def work() -> None:
            progress.write(Entry(0, note="begun"))
            heap = self._opened()
            progress.write(Entry(0, note="opened"))
            time.sleep(1)
            heap.close()

        kill_after(work, self.rng.uniform(0, 0.006))
        notes = [entry.note for entry in progress]
        self.counts["killed while it was recovered"] += notes == ["begun"]
        progress.close()

    def _settle(self, ledger: Ledger, number: int) -> None:
        if self.keep is not None:
            copy_as_crashed(self.path, self.keep)
        try:
            with counting_recoveries(self._count_records), self._opened() as heap:
                found = Found.of(heap)
                for change, happened in ledger.settle(
                    found, loose_too=self.durability == "process"
                ):
                    if change != NOTHING:
                        word = "in flight, there" if happened else "in flight, not there"
                        self.counts[word] += 1
                assert heap.check(), str(heap.check())
            if number % 8 == 0:
                with reopened(self.path) as heap:
                    assert Found.of(heap) == found
            commits = [bystander.settle() for bystander in self.bystanders]
        except AssertionError as error:
            raise AssertionError(f"round {number}, seed {self.seed}: {error}") from error
        self.models = ledger.models
        self.counts["commits beside"], self.counts["commits of a second process"] = commits

    def _opened(self) -> Heap:
        return opened(self.path)

    # ------------------------------------------------------------ counting

    def _count(self, ledger: Ledger) -> None:
        self.counts["changes acknowledged"] += ledger.returned
        self.counts["changes in flight"] += len(ledger.in_flight)
        for note in ledger.notes:
            assert not isinstance(note, Failed), note.trace
            if isinstance(note, dict):
                self.counts.update(note)
            else:
                self.counts[note] += 1
        self.counts["killed while it was opened"] += "heaps opened" not in ledger.notes

    def _count_records(self, records: int) -> None:
        """Count a recovery by the records that were in the log, behind its tail."""
        word = {0: "no record", 1: "1 record", 2: "2 records"}.get(records, "3 and more records")
        self.counts[f"recovered {word}"] += 1

    # ------------------------------------------------------------ in the child

    def _work(self, threads: int, seed: int) -> None:
        heap = self._opened()
        beside = opened(self.bystanders[0].path)
        self.journal.write(Entry(0, note="heaps opened"))
        sys.setswitchinterval(0.0002)
        workers = [
            Worker(heap, beside, self.models[thread], self.journal, thread, seed + thread)
            for thread in range(threads)
        ]
        for run in (*(worker.run for worker in workers[1:]), self._run_beside(beside)):
            threading.Thread(target=run, daemon=True).start()
        workers[0].run()

    def _run_beside(self, beside: Heap) -> Callable[[], None]:
        def run() -> None:
            try:
                self.bystanders[0].run(beside)
            except BaseException:
                self.journal.write(Entry(0, note=Failed(traceback.format_exc())))
                os._exit(0)

        return run


@contextmanager
def killed_at_the_end(work: Callable[[], object]) -> Iterator[None]:
    """Let another child work while the block runs, and kill it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_child(work)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGKILL, f"second process: exit code {status}"


@contextmanager
def counting_recoveries(count: Callable[[int], None]) -> Iterator[None]:
    """Tell of each recovery how many records it found."""

    class Counted(Recovery):
        def __init__(self, medium: FileMedium) -> None:
            super().__init__(medium)
            count(self.records)

    recovery.Recovery = Counted  # type: ignore[misc]
    try:
        yield
    finally:
        recovery.Recovery = Recovery  # type: ignore[misc]


def table(counts: Counter[str]) -> str:
    return "\n".join(f"{counts[name]:8} {name}" for name in sorted(counts))


def kill_after(work: Callable[[], object], seconds: float, opening: Journal | None = None) -> None:
    """Let a child work for a while, and kill it; the time may begin when it has told something."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_child(work)
    while opening is not None and opening.is_empty() and not _has_ended(child):
        time.sleep(0.0005)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, -signal.SIGKILL}, f"child: exit code {status}"


def _has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _be_child(work: Callable[[], object]) -> None:
    """Be the child: work until the end comes."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


@dataclass(frozen=True)
class Failed:
    """What a child has to say that did not wait for its end."""

    trace: str


class Worker:
    """One thread of the child: changes of all kinds, as the dice fall."""

    def __init__(
        self, heap: Heap, beside: Heap, model: Model, journal: Journal, thread: int, seed: int
    ) -> None:
        self.rng, self.beside = random.Random(seed), beside
        self.player = Player(heap, model, journal.write, thread)
        self.actor = Actor(self.player, seed=seed << 32 | thread << 24)
        self.thread, self.name = thread, f"thread {thread}"
        self.seen = self._counters()

    def run(self) -> None:
        try:
            while True:
                self.step()
        except BaseException:
            self.player.note(Failed(traceback.format_exc()))
            os._exit(0)

    def step(self) -> None:
        kinds, weights = zip(*KINDS, strict=True)
        if len(self.player.model.blocks) > _BLOCKS_MOST:
            self.shrink()
        else:
            self.rng.choices(kinds, weights)[0](self)
        if self.thread == 0:
            self._tell_counters()

    def _counters(self) -> dict[str, int]:
        heap = self.player.heap
        log = log_of(heap)
        return {
            "checkpoints": log.checkpoints,
            "log moves": log.moves,
            "growths": heap._space.region.end_unit // 256,
        }

    def _tell_counters(self) -> None:
        now = self._counters()
        news = {name: now[name] - self.seen[name] for name in now if now[name] > self.seen[name]}
        self.seen = now
        if news:
            self.player.note(news)

    # ------------------------------------------------------------ steps

    def size(self) -> int:
        return self.rng.randint(8, self.rng.choice(_SIZES))  # fewer bytes cannot be told apart

    def some(self, most: int, least: int = 1) -> list[int]:
        """Return blocks of this thread that bytes can be stored to."""
        blocks = sorted(self.player.model.blocks)
        return self.rng.sample(blocks, min(len(blocks), self.rng.randint(least, most)))

    def places(self, blocks: list[int]) -> list[tuple[int, int, int]]:
        """Return a range inside of each block."""
        ranges = []
        for offset in blocks:
            size = len(self.player.model.blocks[offset])
            start = self.rng.randrange(size)
            ranges.append((offset, start, min(size - start, self.rng.randint(1, 2000))))
        return ranges

    def bare_malloc(self) -> None:
        self.actor.malloc(self.size())

    def bare_free(self) -> None:
        for offset in self.some(1):
            self._forget_root(offset)
            self.actor.free(offset)

    def bare_realloc(self) -> None:
        for offset in self.some(1):
            self._forget_root(offset)
            self.actor.realloc(offset, self.size())

    def many(self) -> None:
        blocks = self.actor.malloc_many(self.rng.randint(8, 200), self.rng.randint(1, 12))
        self.actor.free_many(blocks[:: self.rng.randint(1, 3)])

    def transaction(self) -> None:
        rng = self.rng
        durable = rng.random() < 0.7
        chosen = self.some(6, 0)
        part = rng.randint(0, len(chosen))
        frees, changed = chosen[:part], chosen[part:]
        for offset in frees:
            self._forget_root(offset)
        half = rng.randint(0, len(changed))
        allocs = [self.size() for _ in range(rng.randint(0, 3))]
        roots = (
            [(f"{self.name} root {rng.randint(0, 3)}", -1)] if allocs and rng.random() < 0.3 else []
        )
        abort = rng.random() < 0.15
        self.actor.transact(
            durable=durable, allocs=allocs, frees=frees, roots=roots, abort=abort,
            writes=self.places(changed[:half]), snapshots=self.places(changed[half:]),
        )  # fmt: skip
        word = "aborts" if abort else "durable commits" if durable else "lazy commits"
        self.player.note(word)

    def grow(self) -> None:
        size = self.rng.randint(300 * KiB, 2 * MiB)
        if self.rng.random() < 0.5:
            (offset,) = self.actor.transact(allocs=[size])
        else:
            offset = self.actor.malloc(size)
        if self.rng.random() < 0.7:
            self.actor.free(offset)

    def shrink(self) -> None:
        for offset in self.some(_BLOCKS_MOST, _BLOCKS_MOST // 2):
            self._forget_root(offset)
            self.actor.free(offset)
        self.trim()

    def trim(self) -> None:
        self.actor.trim()
        self.player.note("trims")

    def sync(self) -> None:
        self.actor.sync()

    def move_log(self) -> None:
        self.actor.move_log(LOG_BYTES * self.rng.choice([2, 4]))

    def arena(self) -> None:
        name = f"arena {self.thread}"
        if name not in self.player.model.arenas:
            self.actor.make_arena(name)
        self.actor.malloc(self.size(), name)
        if self.rng.random() < 0.3:
            heap = self.player.heap
            origin = heap.arena(name)._space.origin
            for offset in list(self.player.model.blocks):
                if offset >> 55 == origin >> 55:
                    self._forget_root(offset)
            self.actor.drop_arena(name)

    def fork(self) -> None:
        """Leave a child and a grandchild that outlive this process, and store to what they inherit.

        While it forks, another heap may be opened or go.
        """
        blocks = self.some(1)
        if not blocks:
            return
        size = len(self.player.model.blocks[blocks[0]])
        beside = self.beside.roots["first"]
        with self.player.heap.view(blocks[0], size) as view, self.beside.view(beside, 8) as other:
            dropped = Heap.shared() if self.rng.random() < 0.5 else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
                if child == 0:
                    try:
                        del dropped
                        os.fork()
                        view[:], other[:] = b"\xee" * size, b"\xee" * 8
                        time.sleep(0.15)
                    finally:
                        os._exit(0)
        self.player.note("forked children left alive")

    def _forget_root(self, offset: int) -> None:
        for name in [name for name, at in self.player.model.roots.items() if at == offset]:
            self.actor.root(name, None)


KINDS: list[tuple[Callable[[Worker], None], float]] = [
    (Worker.bare_malloc, 20), (Worker.bare_free, 8), (Worker.bare_realloc, 6), (Worker.many, 4),
    (Worker.transaction, 50), (Worker.grow, 3), (Worker.trim, 2), (Worker.sync, 2),
    (Worker.move_log, 0.5), (Worker.arena, 1.5), (Worker.fork, 2),
]  # fmt: skip


# ---------------------------------------------------------------- by hand


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--every", type=int, help="the script instead, killed at each n-th change")
    parser.add_argument("--log-bytes", type=int, default=LOG_BYTES)
    parser.add_argument("--where", default=".")
    parser.add_argument("--durability", choices=["process", "power"], default="power")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a copy of what was last found after a kill")
    options = parser.parse_args()
    began = time.monotonic()
    with TemporaryDirectory(dir=options.where, prefix="kill-") as directory:
        path = Path(directory) / "heap"
        if options.every:
            kills = Kills(path, options.durability, options.log_bytes)
            step = 1
            while kills.at(step):
                step += options.every
            print(table(kills.counts))  # noqa: T201
        else:
            rounds = Rounds(path, options.durability, options.seed, options.keep)
            try:
                rounds.run(options.rounds)
            finally:
                print(rounds.describe())  # noqa: T201
            rounds.require()
    print(f"{time.monotonic() - began:8.1f} seconds")  # noqa: T201


if __name__ == "__main__":
    main()
