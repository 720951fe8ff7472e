"""Every system call of a script refused in turn, and what is left of the heap then.

script ── n-th call refused ──► an exception that is documented, or none
            │ the heap lives: nothing has changed, it goes on, it closes
            │ a sync failed: the heap is dead; the power fails, the medium has any mix of what
            ▼                was stored since the last sync that covered it
          open, oracle

python tests/fault_load.py                   all of it, with counts
"""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found]
import argparse
import ctypes
import errno
import gc
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FunctionType

from kill_load import table
from kill_oracle import Entry, Found, Ledger, Model, Player
from kill_script import SMALL_LOG, Actor, play, prepared, reopened
from wreck import of_any_file

from pmemheap import Heap, native
from pmemheap.errors import DurabilityError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.native import Call, FaultKind
from pmemheap.testing import Recorder
from pmemheap.testing.cells import SECTOR, Replay
from pmemheap.units import KiB, MiB

ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EAGAIN, errno.ENOMEM)
KINDS = [
    *((FaultKind.ERROR, number) for number in ERRORS),
    (FaultKind.SHORT, 0),
    (FaultKind.FROM, errno.EIO),
    (FaultKind.FROM, errno.ENOSPC),
]
CALLS_MOST = 20_000
_SYNCS = {Call.FSYNC, Call.FDATASYNC, Call.MSYNC}


@dataclass
class Refusals:
    """Runs of the script with a fault each; `counts` says what became of them.

    Parameters
    ----------
    path : Path
        Where the file is to be when the script runs; a power heap may lie in memory, where syncs
        cost nothing: the failures of power are made here.
    home : Path
        A directory of a file system that keeps files.
    """

    path: Path
    home: Path
    durability: str
    counts: Counter[str] = field(default_factory=Counter)
    states: int = 6

    def __post_init__(self) -> None:
        first = self.home / "prepared"
        self.model = prepared(first, self.durability, SMALL_LOG)
        self.image = first.read_bytes()
        first.unlink()
        self.inner_code = list(inner_code())

    def run(self, nth: int, kind: FaultKind, number: int) -> bool:
        """Refuse the n-th call; False when the script made fewer calls."""
        run = self._play(nth, kind, number)
        try:
            self._count(run)
            run.require_documented()
            if run.is_dead() and self.durability == "power":
                run.drop()
                self._fail_power(nth, kind, number)
            else:
                self._go_on(run)
        except AssertionError as error:
            where = f"call {nth}, {kind.name} {errno.errorcode.get(number, number)}, {run.hit.name}"
            raise AssertionError(f"{where}, {run.error!r}: {error}") from error
        finally:
            run.drop()
        return run.hit != Call.NONE

    def _play(self, nth: int, kind: FaultKind, number: int) -> _Run:
        self.path.write_bytes(self.image)
        run = _Run(self, self.model.copy())
        with native.faults(nth, number, kind) as fault:
            run.play()
        run.hit = fault.hit
        return run

    def run_short_of_memory(self, nth: int) -> bool:
        """Refuse the n-th request for memory that Python makes; False when there were fewer."""
        self.path.unlink(missing_ok=True)  # who could not even close has a lock on it
        self.path.write_bytes(self.image)
        run = _Run(self, self.model.copy())
        _pay_in_advance(self.inner_code)
        try:
            refused = run.play_short_of_memory(nth)
            self.counts["runs"] += 1
            self.counts[f"raised: {type(run.error).__name__ if run.error else 'nothing'}"] += 1
            run.require_sound()
            run.drop()
            self._look(run.ledgers(power=False), "reopened")
        except AssertionError as error:
            raise AssertionError(f"request for memory {nth}: {error}") from error
        finally:
            run.drop()
        return refused

    def _count(self, run: _Run) -> None:
        self.counts["runs"] += 1
        if run.hit != Call.NONE:
            self.counts[f"refused: {run.hit.name}"] += 1
            self.counts[f"raised: {type(run.error).__name__ if run.error else 'nothing'}"] += 1

    def _go_on(self, run: _Run) -> None:
        """Check that nothing has changed; close the heap, or leave a dead one; open the file."""
        heap = run.heap
        if heap is not None and not heap.closed and not run.is_dead():
            self.counts["went on"] += 1
            run.require_unchanged()
            heap.close()
        run.drop()
        self.path.write_bytes(fresh(self.path))
        self.counts["opened again"] += 1
        self._look(run.ledgers(power=False), "reopened")

    def _fail_power(self, nth: int, kind: FaultKind, number: int) -> None:
        """Do it once more, recorded, and let the power fail when the heap is dead."""
        for shift in (0, -1, 1, -2, 2):  # a call more or less depends on time
            with Recorder(self.path) as recorder:
                run = self._play(nth + shift, kind, number)
            run.was_dead = run.is_dead()
            if run.was_dead:
                break
            run.drop()
        else:
            self.counts["dead only once"] += 1
            return
        run.drop()
        for index, image in enumerate(power_failures(recorder, self.states)):
            self.path.write_bytes(image)
            self.counts["states after a failure of power"] += 1
            self._look(run.ledgers(power=True), f"state {index} after the failure of power")

    def _look(self, ledgers: list[Ledger], what: str) -> None:
        """Open the file and find it in one of the states that may be."""
        with reopened(self.path) as heap:
            found = Found.of(heap)
            assert heap.check(), f"{what}: {heap.check()}"
        troubles = []
        for ledger in ledgers:
            try:
                ledger.settle(found, loose_too=self.durability == "process")
            except AssertionError as error:
                troubles.append(str(error))
            else:
                break
        else:
            raise AssertionError(f"{what}: {len(ledgers)} states may be: " + "\n".join(troubles))
        with reopened(self.path) as heap:
            assert Found.of(heap) == found, what


class _Run:
    """One run of the script, to its end or to its first exception."""

    def __init__(self, refusals: Refusals, model: Model) -> None:
        self.path, self.durability = refusals.path, refusals.durability
        self.first = model.copy()
        self.model = model
        self.player: Player | None = None
        self.entries: list[Entry] = []
        self.error: BaseException | None = None
        self.hit = Call.NONE
        self.is_vague = False
        self.was_dead = False

    @property
    def heap(self) -> Heap | None:
        return None if self.player is None else self.player.heap

    def play(self) -> None:
        try:
            self.player = Player(reopened(self.path), self.model, self.entries.append)
            play(Actor(self.player))
            self.player.heap.close()
        except (PmemHeapError, MemoryError) as error:
            self.error = error.with_traceback(None)
            self.error.__context__ = self.error.__cause__ = None

    def play_short_of_memory(self, nth: int) -> bool:
        """Play with the n-th request for memory refused, wherever in Python it comes."""
        ignored: list[object] = []
        hook, sys.unraisablehook = sys.unraisablehook, ignored.append
        _testcapi.set_nomemory(nth, nth + 1)
        try:
            self.play()
        except (
            TypeError,
            RuntimeError,
            SystemError,
        ) as error:  # of Python itself
            self.error = error.with_traceback(None)
        finally:
            _testcapi.remove_mem_hooks()
            sys.unraisablehook = hook
        self.is_vague = True
        return self.error is not None or bool(ignored)

    def require_sound(self) -> None:
        """Check the heap after a MemoryError: the change in flight has happened, or it has not."""
        heap = self.heap
        if heap is None or heap.closed:
            return
        self.ledgers(power=False)[0].settle(Found.of(heap))
        assert heap.check(), str(heap.check())
        heap.free(heap.malloc(1 * MiB))

    def drop(self) -> None:
        """Let go of the heap, whatever it is."""
        if self.heap is not None:
            with suppress(PmemHeapError):
                self.heap.close()
        self.player = None
        gc.collect()

    def is_dead(self) -> bool:
        """Tell whether a sync has failed; what could not be opened has written nothing new."""
        if not isinstance(self.error, DurabilityError):
            return False
        return self.was_dead or getattr(
            self.heap and self.heap._space.shared.medium, "sync_failed", False
        )

    def require_documented(self) -> None:
        error = self.error
        if self.hit == Call.NONE:
            assert error is None, "nothing was refused"
        if error is None:
            return
        opening = self.heap is None or self.heap.closed
        allowed: tuple[type[BaseException], ...] = (OutOfSpaceError, DurabilityError)
        if opening:
            allowed = (*allowed, UsageError)
        assert isinstance(error, allowed), "not documented"
        if self.hit in _SYNCS and not opening:
            assert self.is_dead(), "a dead heap expected"
        if self.is_dead():
            self.was_dead = True
            self._require_dead()

    def _require_dead(self) -> None:
        heap = self.heap
        assert heap is not None
        for change in (lambda: heap.malloc(16), heap.sync, heap.transaction, heap.trim):
            try:
                change()
            except (UsageError, DurabilityError):
                continue
            raise AssertionError("a heap that refuses all changes expected")

    def require_unchanged(self) -> None:
        """Check that the call that raised has changed nothing, and that the heap goes on."""
        heap = self.heap
        assert heap is not None
        Ledger([self.model.copy()]).settle(Found.of(heap))
        assert heap.check(), str(heap.check())
        with heap.transaction() as tx:
            offset = tx.malloc(5000)
            tx.write(offset, b"goes on")
        offsets = [offset, *(heap.malloc(size) for size in (16, 100 * KiB, 1 * MiB))]
        for offset in offsets:
            heap.free(offset)
        assert heap.check(), str(heap.check())
        Ledger([self.model.copy()]).settle(Found.of(heap))

    def ledgers(self, *, power: bool) -> list[Ledger]:
        """Return what the file may hold, the newest first: by records that are not durable."""
        model = self.first.copy()
        changes = [entry.change for entry in self.entries if entry.change is not None]
        came = [entry.came for entry in self.entries if entry.came is not None]
        least = max(
            (i + 1 for i in range(len(came)) if changes[i].durable), default=0
        ) if power else len(came)  # fmt: skip
        ledgers = []
        for done in range(len(came) + 1):
            if done >= least:
                unknown = done < len(came) or self.is_dead() or self.is_vague
                in_flight = {0: changes[done]} if unknown and done < len(changes) else {}
                ledgers.append(Ledger([model.copy()], in_flight))
            if done < len(came):
                model.apply(changes[done], came[done])
        return ledgers[::-1]


def fresh(path: Path) -> bytes:
    """Read a file and remove it: where every call was refused, so was the end of its lock."""
    image = of_any_file(path.read_bytes())
    path.unlink()
    return image


def power_failures(recorder: Recorder, count: int) -> Iterator[bytes]:
    """Yield files that a power failure at the end of a recording could leave."""
    replay = Replay(recorder.recording, SECTOR)
    while replay.done < len(recorder.recording.events):
        replay.advance()
    sizes = [size for _, size in replay.sizes]
    oldest = {cell: values[0][1] for cell, values in replay.history.items()}
    yield replay.image(oldest, sizes[0])
    yield replay.image({}, replay.size)
    chance = random.Random(replay.done)
    for number in range(count - 2):
        share = (number + 1) / (count - 1)
        mix = {
            cell: chance.choice(values)[1]
            for cell, values in replay.history.items()
            if chance.random() < share
        }
        yield replay.image(mix, chance.choice(sizes))


def refuse_all(
    refusals: Refusals, kind: FaultKind, number: int, *, first: int = 1, stride: int = 1
) -> None:
    """Refuse each `stride`-th call, until a run ends without a refusal."""
    for nth in range(first, CALLS_MOST, stride):
        if not refusals.run(nth, kind, number):
            return
    raise AssertionError(f"an end expected after {CALLS_MOST} calls")


# ---------------------------------------------------------------- a fault of CPython 3.12 and 3.13


def inner_code() -> Iterator[CodeType]:
    """Yield the code of all functions, lambdas and generator expressions inside of functions."""
    functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
    seen: set[int] = set()
    found = [function.__code__ for function in functions]
    while found:
        for each in found.pop().co_consts:
            if isinstance(each, CodeType) and id(each) not in seen:
                seen.add(id(each))
                found.append(each)
                yield each


def _pay_in_advance(inner: list[CodeType]) -> None:
    """Leave one reference to each code object to the interpreter.

    When CPython 3.12 or 3.13 has no memory for a function object, MAKE_FUNCTION drops a reference
    to its code that it does not have (python/cpython#122752). The code dies under those that use
    it, and the process by SIGSEGV, anywhere and later. One request is refused in a run, so that one
    reference more keeps what is not ours from being found here.
    """
    keep = ctypes.pythonapi.Py_IncRef
    keep.argtypes, keep.restype = [ctypes.py_object], None
    for each in inner:
        keep(each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--durability", choices=["process", "power"], default="power")
    parser.add_argument("--home", default=".", help="on a file system that keeps files")
    parser.add_argument("--where", default="/dev/shm", help="where the script runs")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--kinds", type=int, nargs="*", default=range(len(KINDS)))
    parser.add_argument("--memory", type=int, default=0, help="requests for memory to refuse")
    options = parser.parse_args()
    with (
        TemporaryDirectory(dir=options.home) as home,
        TemporaryDirectory(dir=options.where) as directory,
    ):
        path, failures = Path(directory) / "heap", 0
        for kind, number in [KINDS[index] for index in options.kinds]:
            failures += _report(options, path, Path(home), kind, number)
        if options.memory:
            failures += _short_of_memory(options, path, Path(home))
    sys.exit(failures > 0)


def _report(
    options: argparse.Namespace, path: Path, home: Path, kind: FaultKind, number: int
) -> int:
    began = time.monotonic()
    refusals = Refusals(path, home, options.durability)
    failures: list[str] = []
    for nth in range(1, CALLS_MOST, options.stride):
        try:
            if not refusals.run(nth, kind, number):
                break
        except (AssertionError, PmemHeapError) as error:
            failures.append(f"call {nth}: {error}"[:2000])
            path.unlink(missing_ok=True)
            if len(failures) == 10:
                break
    seconds = time.monotonic() - began
    word = errno.errorcode.get(number, "")
    print(f"{options.durability} {kind.name} {word}: {seconds:.0f} seconds")  # noqa: T201
    print(table(refusals.counts), *failures, sep="\n", flush=True)  # noqa: T201
    return len(failures)


def _short_of_memory(options: argparse.Namespace, path: Path, home: Path) -> int:
    failures = 0
    refusals = Refusals(path, home, options.durability)
    chance = random.Random(options.memory)
    for _ in range(options.memory):
        nth = round(2 ** chance.uniform(0, 19))
        try:
            refusals.run_short_of_memory(nth)
        except (AssertionError, PmemHeapError) as error:
            failures += 1
            print(f"request for memory {nth}: {error}"[:2000], flush=True)  # noqa: T201
    print(f"{options.durability} memory", table(refusals.counts), sep="\n", flush=True)  # noqa: T201
    return failures


if __name__ == "__main__":
    main()
