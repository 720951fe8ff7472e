"""Driver: open every state of a recording with the real code, check it, and count what was seen.

    CrashStates ──► a worker takes those with keys of its own ──► Image ──► open_and_check
                        │ a share of them
                        └──► recover, recorded ──► CrashStates of that ──► Image ──► open_and_check

The oracle is the caller's: it opens the file and raises if what it finds is none of the states that
`Crash` allows. A worker that dies is a failure like one that raises.
"""

from __future__ import annotations

import mmap
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypedDict

from pmemheap.errors import UsageError
from pmemheap.testing.cells import SECTOR
from pmemheap.testing.image import Image
from pmemheap.testing.recorder import Crash, Kind, Recorder, Recording
from pmemheap.testing.report import Failure, Report, describe
from pmemheap.testing.states import CrashStates, State

__all__ = ["CheckOptions", "check_states"]

Check = Callable[[Image, Crash], object]
Recover = Callable[[Image], object]

_PROGRESS = struct.Struct("<QQ?")  # events before the crash, key, whether the recovery was crashed
_CHANCES = 1 << 20


class CheckOptions(TypedDict, total=False):
    """What `check_states` takes by name."""

    kinds: tuple[Kind, ...]
    cell: int
    budget: int
    seed: int
    workers: int
    recover: Recover | None
    recovery_share: float
    recovery_budget: int
    directory: str | None
    stop_after: int


def check_states(  # noqa: PLR0913 -- what to check, and independent choices with defaults
    recording: Recording,
    open_and_check: Check,
    *,
    kinds: tuple[Kind, ...] = (Kind.KILL, Kind.POWER),
    cell: int = SECTOR,
    budget: int = 4096,
    seed: int = 0,
    workers: int = 1,
    recover: Recover | None = None,
    recovery_share: float = 0.05,
    recovery_budget: int = 64,
    directory: str | None = None,
    stop_after: int = 10,
) -> Report:
    """Let a program crash at every event of a recording, and check what it leaves.

    Parameters
    ----------
    recording : Recording
        Of a `Recorder`.
    open_and_check : callable
        Given an `Image` (its `path` is the crashed file) and the `Crash`: it opens the file, and
        raises if what is in there cannot be. It may change the file, and closes what it opened.
    kinds : tuple of Kind
        Signals, power failures.
    cell : int
        Bytes that power failure does not tear: `SECTOR`, or `LINE` for persistent memory.
    budget : int
        Power failures per event: all of them if they are no more, else a sample.
    seed : int
        Of the samples.
    workers : int
        Processes; 1 is this one.
    recover : callable, optional
        Given an `Image`: opens it as after a crash and closes it. For a share of the states this
        is recorded, and crashed at each of its events.
    recovery_share : float
        0 to 1.
    recovery_budget : int
        The budget for each recovery.
    directory : str, optional
        Where the crashed files lie; without it they are memfds.
    stop_after : int
        Failures to stop at, per worker.

    Returns
    -------
    Report
        Counters and the first failures; ``report.require()`` raises if there are any.
    """
    if workers < 1:
        raise UsageError(f"workers: at least 1 expected, {workers} found")
    task = _Task(
        recording, open_and_check, kinds, cell, budget, seed, workers,
        recover, recovery_share, recovery_budget, directory, stop_after,
    )  # fmt: skip
    progress = mmap.mmap(-1, workers * _PROGRESS.size)
    if workers == 1:
        return _Worker(task, 0, progress).run()
    return _run_all(task, progress)


@dataclass(frozen=True)
class _Task:
    recording: Recording
    check: Check
    kinds: tuple[Kind, ...]
    cell: int
    budget: int
    seed: int
    workers: int
    recover: Recover | None
    recovery_share: float
    recovery_budget: int
    directory: str | None
    stop_after: int

    def states(self, keep: Callable[[int], bool] | None = None) -> CrashStates:
        return CrashStates(
            self.recording, kinds=self.kinds, cell=self.cell, budget=self.budget,
            seed=self.seed, keep=keep,
        )  # fmt: skip


# ---------------------------------------------------------------- one worker


@dataclass
class _Worker:
    task: _Task
    rank: int
    progress: mmap.mmap
    report: Report = field(default_factory=Report)

    def run(self) -> Report:
        """Check all states that are this worker's."""
        states = self.task.states(self._is_mine)
        with Image(states.replay, self.task.directory) as image:
            for state in states:
                self._check(image, state, states)
                if self._is_chosen(state):
                    self._crash_recovery(image, state, states)
                if len(self.report.failures) >= self.task.stop_after:
                    break
        self.report.count(states, whole=self.rank == 0)
        return self.report

    def _is_mine(self, key: int) -> bool:
        return key % self.task.workers == self.rank

    def _is_chosen(self, state: State) -> bool:
        """Choose by bits of the key, so that the choice does not depend on the order."""
        chance = (state.key >> 32) % _CHANCES
        return self.task.recover is not None and chance < self.task.recovery_share * _CHANCES

    def _check(self, image: Image, state: State, states: CrashStates) -> None:
        image.load(state)
        self._note_progress(state, in_recovery=False)
        error = _error_of(self.task.check, image, state.crash)
        if error is not None:
            self._fail(state, describe(states.replay, state), error, image)

    def _note_progress(self, state: State, *, in_recovery: bool) -> None:
        _PROGRESS.pack_into(
            self.progress, self.rank * _PROGRESS.size, state.crash.event, state.key, in_recovery
        )

    def _fail(self, state: State, description: str, error: str, image: Image) -> None:
        self.report.failures.append(Failure(state.crash, state.key, description, error))
        image.renew()

    def _crash_recovery(self, image: Image, state: State, states: CrashStates) -> None:
        """Record how a state is recovered, and check what crashes of that leave."""
        assert self.task.recover is not None
        image.load(state)
        self._note_progress(state, in_recovery=True)
        place = describe(states.replay, state)
        with Recorder(image.fd) as recorder:
            error = _error_of(self.task.recover, image)
        self.report.recoveries += 1
        if error is not None:
            self._fail(state, place, error, image)
            return
        nested = CrashStates(
            recorder.recording,
            kinds=self.task.kinds,
            cell=self.task.cell,
            budget=self.task.recovery_budget,
            seed=self.task.seed,
            unsynced=states.replay.unsynced(state.changes, state.size)
            if state.crash.kind == Kind.KILL
            else None,
        )
        with Image(nested.replay, self.task.directory) as second:
            for each in _after_something(nested):
                crash = self._crash_of(state.crash, each.crash)
                second.load(each)
                self.report.nested[each.kind] += 1
                error = _error_of(self.task.check, second, crash)
                if error is not None:
                    where = f"{place}\n  then, in the recovery: {describe(nested.replay, each)}"
                    self._fail(replace(each, crash=crash), where, error, second)
                    return

    def _crash_of(self, first: Crash, second: Crash) -> Crash:
        """Return what may be found after two crashes: what survives a power failure, if one was."""
        kind = second.kind if first.kind == Kind.KILL else Kind.POWER
        return self.task.recording.crash(first.event, kind)


def _after_something(states: CrashStates) -> Iterator[State]:
    return (state for state in states if state.crash.event > 0)


def _error_of(function: Callable[..., object], *arguments: object) -> str | None:
    """Return the traceback of a call that raised."""
    try:
        function(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException:  # pytest's own failures are none of Exception
        return traceback.format_exc()
    return None


# ---------------------------------------------------------------- several workers


def _run_all(task: _Task, progress: mmap.mmap) -> Report:
    context = get_context("fork")
    running = []
    for rank in range(task.workers):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_one, args=(task, rank, progress, sender))
        with warnings.catch_warnings():  # of threads that a library may have
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        sender.close()
        running.append((rank, process, receiver))
    whole = Report()
    for rank, process, receiver in running:
        try:
            part = receiver.recv()
        except EOFError:
            part = None
        process.join()
        whole.add(part or _died(task, progress, rank, process.exitcode))
    return whole


def _run_one(task: _Task, rank: int, progress: mmap.mmap, sender: Connection) -> None:
    sender.send(_Worker(task, rank, progress).run())


def _died(task: _Task, progress: mmap.mmap, rank: int, code: int | None) -> Report:
    """Return what there is to say about a worker that sent nothing."""
    event, key, in_recovery = _PROGRESS.unpack_from(progress, rank * _PROGRESS.size)
    states = task.states()
    what = "while it recovered" if in_recovery else "while it checked"
    error = f"worker {rank} died with exit code {code} {what} this state"
    for state in states:
        if state.crash.event == event and state.key == key:
            failure = Failure(state.crash, key, describe(states.replay, state), error)
            return Report(failures=[failure])
    return Report(failures=[Failure(Crash(event, Kind.KILL, 0, 0), key, "before a state", error)])
