"""Eight readers and a writer of one heap file, all of them processes; any of them is killed.

parent   fork ─► a writer: random transactions, arrays that grow, frees, trims; it tells each commit
         fork ─► eight readers: snapshots, refreshed or new, checked whole; old ones again later
         a while, SIGKILL (sometimes SIGSTOP before it, sometimes a request to end) ─► another one
         the writer has ended ─► the readers go on: a new writer beside them; or they end: compare

Each commit leaves facts that all its bytes must agree with: see `readers_facts.py`.

python tests/readers_load.py --rounds 300 --where /dev/shm --durability process
python tests/readers_load.py --seconds 600 --where memfd --durability process --seed 7
python tests/readers_load.py --rounds 300 --readers 2 --visits      # nobody reads for a while
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from readers_facts import Board, be_child, prepare, run_reader, run_writer, whole

import pmemheap
from pmemheap import DurabilityName, Heap, HeapBusyError
from pmemheap.file import pins
from pmemheap.heap.space import space_of

READERS = 8
LONGEST = 0.15
PATIENCE = 60.0
MEMFD = "memfd"
SOON = (
    "commits", "lookups", "checks of the newest", "checks of an older one", "refreshes with news",
    "views looked at later", "readers killed", "writers killed", "aborts", "arrays made",
)  # fmt: skip
LATER = (
    "writers ended", "writers beside readers", "readers ended", "stopped for a while", "trims",
    "compactions",
    "arrays dropped", "maps cleared", "arenas dropped", "checks by the writer",
    "checks after the writer", "recycled beside readers", "kept over a writers end",
)  # fmt: skip
VISITS = ("commits in place", "visits")
_MANY = 300


class FoundError(Exception):
    """Something is wrong."""


# ---------------------------------------------------------------- processes


class Process:
    """A child of this process, and the board on which it tells how far it is."""

    def __init__(self, work: Callable[[Board], None]) -> None:
        self.board = Board()
        self.pid = os.fork()
        if self.pid == 0:
            be_child(self.board, work)

    @property
    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait_for(self, what: Callable[[Board], bool], meaning: str) -> None:
        """Wait until its board says something.

        Raises
        ------
        FoundError
            It says what is wrong, or nothing at all for a minute.
        """
        began = time.monotonic()
        while not what(self.board):
            if self.board.text or self.has_ended:
                break
            if time.monotonic() - began > PATIENCE:
                raise FoundError(f"process {self.pid}: {meaning} expected within {PATIENCE} s")
            time.sleep(0.0005)
        self.require_well()

    def require_well(self) -> None:
        if self.board.text:
            raise FoundError(f"process {self.pid}:\n{self.board.text}")

    def end(self, *, kill: bool) -> None:
        """Kill it, or let it end by itself."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        else:
            self.board["stop"] = 1
            os.kill(self.pid, signal.SIGCONT)
            began = time.monotonic()
            while not self.has_ended:
                if time.monotonic() - began > PATIENCE:
                    raise FoundError(f"process {self.pid}: its end expected within {PATIENCE} s")
                time.sleep(0.0005)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.require_well()
        if status not in {0, -signal.SIGKILL}:
            raise FoundError(f"process {self.pid}: exit code {status}")


# ---------------------------------------------------------------- rounds


@dataclass
class Rounds:
    """Kills, one after the other; `counts` says what was met."""

    path: Path
    seed: int
    number: int = READERS
    visits: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.acknowledged = 0
        self.readers: list[Process] = []
        with self._opened() as heap:
            heap.trim()
        self.size = self.path.stat().st_size
        with self._opened() as heap:
            prepare(heap)
        self._start_writer()

    def run(self, rounds: int, seconds: float = 1e9, most: int = 0) -> None:
        """Do some rounds, for some time; up to `most` while something was never met."""
        until = time.monotonic() + seconds
        try:
            for number in range(max(rounds, most)):
                if time.monotonic() > until or (number >= rounds and not self.missing(SOON)):
                    break
                self._round()
            self._end_writer(kill=False)
            self._end_readers()
            self._settle()
        except FoundError as error:
            raise FoundError(f"round {self.counts['rounds']}, seed {self.seed}: {error}") from error
        finally:
            for process in (self.writer, *self.readers):
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(process.pid, signal.SIGKILL)
                    os.waitpid(process.pid, 0)

    def describe(self) -> str:
        return "\n".join(f"{self.counts[name]:9} {name}" for name in sorted(self.counts))

    def missing(self, needed: tuple[str, ...]) -> list[str]:
        """Return what was never met."""
        counts = self.counts.copy()
        for process in (self.writer, *self.readers):
            counts.update(process.board.counts())
        return [name for name in needed if not counts[name]]

    def _round(self) -> None:
        self.counts["rounds"] += 1
        self._fill_up()
        time.sleep(self.rng.uniform(0, LONGEST))
        for process in (self.writer, *self.readers):
            process.require_well()
        self._stop_some()
        if self.rng.random() < 0.25:
            self._end_writer(kill=self.rng.random() < 0.8)
            if self.rng.random() < 0.5:
                self._end_readers()
                self._settle()
            else:
                self.counts["writers beside readers"] += 1
                self._go_on(self.readers)  # one that stays stopped keeps the writer out
            self._start_writer()
        else:
            self._end_reader(self.rng.choice(self.readers))
        self._go_on([self.writer, *self.readers])

    @staticmethod
    def _go_on(processes: list[Process]) -> None:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)

    def _fill_up(self, *, waits: bool = True) -> None:
        while len(self.readers) < self.number:
            seed = self.rng.randrange(1 << 60)
            work = partial(run_reader, path=self.path, seed=seed, visits=self.visits)
            self.readers.append(Process(work))
        if (
            waits and self.rng.random() < 0.7
        ):  # else what comes next meets some that are just opening it
            for process in self.readers:
                process.wait_for(lambda board: board["checks of the newest"] > 0, "a check")

    def _stop_some(self) -> None:
        """Stop a process while the others go on; it may be killed as it stands."""
        process = self.rng.choice([self.writer, *self.readers])
        if self.rng.random() < 0.1:
            self.counts["stopped for a while"] += 1
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(self.rng.uniform(0, LONGEST))

    def _end_reader(self, process: Process) -> None:
        kill = self.rng.random() < 0.8
        self.readers.remove(process)
        process.end(kill=kill)
        self.counts["readers killed" if kill else "readers ended"] += 1
        self._count(process)

    # ------------------------------------------------------------ the writer's end

    def _start_writer(self) -> None:
        seed = self.rng.randrange(1 << 60)
        self.writer = Process(lambda board: run_writer(board, self.path, seed))
        first = self.acknowledged
        self.writer.wait_for(lambda board: board["acknowledged"] > first, "a commit")
        found = self.writer.board["found"] - 1
        if found not in {first, first + 1}:
            raise FoundError(f"commit {first} or the next one expected, {found} found")

    def _end_writer(self, *, kill: bool) -> None:
        """End it; the readers go on for a while, and see all that it has told of."""
        self.writer.end(kill=kill)
        self.counts["writers killed" if kill else "writers ended"] += 1
        self.acknowledged = self.writer.board["acknowledged"]
        self._count(self.writer)
        if self.rng.random() < 0.5:
            self._fill_up(
                waits=False
            )  # they come when there is no writer, or wait for one to recover it
        before = self._checks()
        time.sleep(self.rng.uniform(0, LONGEST))
        self.counts["checks after the writer"] += self._checks() - before

    def _end_readers(self) -> None:
        while self.readers:
            self._end_reader(self.readers[-1])

    def _checks(self) -> int:
        return sum(process.board["checks of the newest"] for process in self.readers)

    def _settle(self) -> None:
        """See that nothing was lost, and that nothing of readers is left."""
        with self._opened(readers=True) as heap:
            with heap.read() as snap:
                facts = whole(snap)
            there = facts.number - self.acknowledged
            if there not in {0, 1}:
                raise FoundError(
                    f"commit {self.acknowledged} or the next one expected, {facts.number} found"
                )
            self.counts["in flight, there"] += there
            space = space_of(heap)
            assert space.shared.file is not None
            pinned = pins.oldest(space.shared.file.lock_fd, 1 << 38)
            if pinned is not None:
                raise FoundError(f"no pin expected, era {pinned[0]} of process {pinned[1]} found")
            del snap
            heap.trim()
            if heap.stats().quarantined:
                raise FoundError(f"no quarantine expected, {heap.stats().quarantined} bytes found")
        with self._opened() as heap:
            copies = [root for root in space_of(heap).shared.root_slots if root.copy]
            if copies:
                raise FoundError(f"no copies of roots expected, found {copies}")
            if not (checked := heap.check()):
                raise FoundError(str(checked))
        self.acknowledged = facts.number
        if self.counts["writers killed"] % 8 == 7:
            self._empty()
            self.counts["emptied"] += 1

    def _empty(self) -> None:
        """Free all, also what dead writers have named nowhere; see that no space is lost."""
        with self._opened() as heap:
            heap.roots.clear()
            for name in heap.arenas():
                heap.arena(name).drop()
            for offset, _ in list(heap.blocks()):
                heap.free(offset)
            heap.trim()
        size = self.path.stat().st_size
        if size != self.size:
            raise FoundError(f"{self.size} bytes expected when all is free, {size} found")
        with self._opened() as heap:
            prepare(heap, self.acknowledged)

    def _opened(self, *, readers: bool = False) -> Heap:
        """Open it; a reader that was refused may not have gone yet."""
        began = time.monotonic()
        while True:
            try:
                return pmemheap.open(self.path, "w", readers=readers)
            except HeapBusyError as error:
                if time.monotonic() - began > PATIENCE:
                    raise FoundError(str(error)) from error
                time.sleep(0.001)

    def _count(self, process: Process) -> None:
        self.counts.update(process.board.counts())


@contextmanager
def made(where: str, durability: DurabilityName) -> Iterator[Path]:
    """Make an empty heap in a directory, or in a memfd."""
    if where == MEMFD:
        with Heap.shared() as heap:
            fd = os.dup(heap.fileno())
        try:
            yield Path(f"/proc/{os.getpid()}/fd/{fd}")
        finally:
            os.close(fd)
        return
    with TemporaryDirectory(dir=where, prefix="readers-") as directory:
        path = Path(directory) / "heap"
        Heap.create(path, durability=durability).close()
        yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--where", default=".", help=f"a directory, or {MEMFD}")
    parser.add_argument("--durability", choices=["process", "power"], default="power")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", type=int, default=READERS)
    parser.add_argument("--visits", action="store_true", help="readers that come and go")
    options = parser.parse_args()
    began = time.monotonic()
    with made(options.where, options.durability) as path:
        rounds = Rounds(path, options.seed, options.readers, options.visits)
        try:
            rounds.run(options.rounds, options.seconds)
        finally:
            print(rounds.describe())  # noqa: T201
            print(f"{time.monotonic() - began:9.1f} seconds", flush=True)  # noqa: T201
        soon = (*SOON, *VISITS) if options.visits else SOON
        assert not (never := rounds.missing(soon)), f"never met: {never}"
        if not options.visits and options.rounds >= _MANY <= rounds.counts["rounds"]:
            assert not (never := rounds.missing(LATER)), f"never met: {never}"


if __name__ == "__main__":
    main()
