"""Report: what a simulation exercised, and failures, described so that they can be repeated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pmemheap.native import TapeEvent, TapeKind
from pmemheap.testing.cells import Replay
from pmemheap.testing.recorder import Crash, Kind
from pmemheap.testing.states import CrashStates, State

__all__ = ["Failure", "Report", "describe"]

_CELLS_SHOWN = 12


@dataclass(frozen=True)
class Failure:
    """A state that was refused: when it arose, what it is, and the error with its traceback."""

    crash: Crash
    key: int
    description: str
    error: str

    def __str__(self) -> str:
        """Return all of it as text."""
        expected = f"transactions 1 to k expected, {self.crash.least} <= k <= {self.crash.most}"
        return f"{self.description}\n  key {self.key:#x}; {expected}\n{self.error}"


@dataclass
class Report:
    """Counters of one or more simulations.

    Attributes
    ----------
    events : Counter
        Of the recordings, by kind.
    cut_points, exhaustive, sampled : int
        Places for a crash; those of them where all power failures were looked at, and where some.
    states : Counter
        Files that were opened and checked, by kind: kill, torn, power.
    distinct : int
        Different files among them. One may be checked again when other things are expected in it.
    duplicates : int
        Files that were met again and dropped.
    recoveries, nested
        Recoveries that were crashed; files checked after that, by kind.
    failures : list of Failure
    """

    events: Counter[str] = field(default_factory=Counter)
    cut_points: int = 0
    exhaustive: int = 0
    sampled: int = 0
    states: Counter[str] = field(default_factory=Counter)
    distinct: int = 0
    duplicates: int = 0
    recoveries: int = 0
    nested: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def count(self, states: CrashStates, *, whole: bool) -> None:
        """Add what an enumeration met; not `whole`: its states only, not what all workers see."""
        self.states += states.counts.states
        if whole:
            self.events += states.recording.counts
            self.cut_points += states.counts.cut_points
            self.exhaustive += states.counts.exhaustive
            self.sampled += states.counts.sampled
            self.duplicates += states.counts.duplicates
            self.distinct += states.distinct

    def add(self, other: Report) -> None:
        """Add the counters and failures of another report."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    @property
    def checked(self) -> int:
        """Files that were opened and checked."""
        return self.states.total() + self.nested.total()

    def require(self, **least: int) -> None:
        """Raise AssertionError for a failure, or a counter that is below what is demanded.

        Parameters
        ----------
        **least : int
            Name of an attribute to its least value: ``distinct=1000``, ``recoveries=1``. A counter
            by kind is demanded as a sum.

        Examples
        --------
        >>> Report(distinct=7).require(distinct=8)
        Traceback (most recent call last):
        AssertionError: distinct: at least 8 expected, 7 found
        """
        if self.failures:
            raise AssertionError(f"{self}\n\n{self.failures[0]}")
        for name, wanted in least.items():
            value = getattr(self, name)
            found = value.total() if isinstance(value, Counter) else value
            if found < wanted:
                raise AssertionError(f"{name}: at least {wanted} expected, {found} found")

    def __str__(self) -> str:
        """Return the counters in three lines."""
        return (
            f"{self.events.total()} events ({_listed(self.events)}), {self.cut_points} cut points "
            f"({self.exhaustive} exhaustive, {self.sampled} sampled)\n"
            f"{self.distinct} distinct files, checked {self.checked} times "
            f"({_listed(self.states)}), {self.duplicates} met again; "
            f"{self.recoveries} recoveries crashed ({_listed(self.nested)})\n"
            f"{len(self.failures)} failures"
        )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


# ---------------------------------------------------------------- words for a state


def describe(replay: Replay, state: State) -> str:
    """Return how a state arises: after which event, and which cells are older than that.

    The replay must stand where the state was met.
    """
    when = f"after event {state.crash.event} of {len(replay.recording.events)}"
    if state.crash.event:
        when += f" ({_event_text(replay.recording.events[state.crash.event - 1])})"
    if state.torn:
        coming = replay.recording.events[state.crash.event]
        return f"signal {when}, half way through {_event_text(coming)}"
    if state.crash.kind == Kind.KILL:
        return f"signal {when}"
    lines = [f"power failure {when}, file of {state.size} bytes ({replay.size} at that time)"]
    cells = sorted(state.changes)
    lines += [f"    {_cell_text(replay, cell, state)}" for cell in cells[:_CELLS_SHOWN]]
    if len(cells) > _CELLS_SHOWN:
        lines.append(f"    and {len(cells) - _CELLS_SHOWN} more old cells")
    kept = len(replay.history) - len(cells)
    lines.append(f"    {kept} unsynced cells reached the medium as they were last")
    return "\n".join(lines)


def _cell_text(replay: Replay, cell: int, state: State) -> str:
    values = replay.history[cell]
    index = next(i for i, (_, each) in enumerate(values) if each == state.changes[cell])
    event = values[index][0]
    origin = "from before the recording"
    if event >= 0:
        origin = f"of event {event + 1} ({_event_text(replay.recording.events[event])})"
    return f"cell at {cell * replay.cell:#x}: value {index + 1} of {len(values)}, {origin}"


def _event_text(event: TapeEvent) -> str:
    if event.kind == TapeKind.NOTE:
        return f"NOTE {event.detail} {event.length}"
    if event.kind == TapeKind.TRUNCATE:
        return f"TRUNCATE to {event.length}"
    if event.kind in {TapeKind.SYNC_FILE, TapeKind.FENCE}:
        return event.kind.name
    return f"{event.kind.name} at {event.offset:#x}, {event.length} bytes"
