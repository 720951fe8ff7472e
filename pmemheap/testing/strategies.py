"""Strategies for Hypothesis: crashes of a recording, to be drawn one at a time.

They shrink to early crashes by a signal, and to few cells that are not as the process saw them.
Hypothesis is needed to import this, and by nothing else here.
"""

from __future__ import annotations

from hypothesis import strategies as st

from pmemheap.testing.cells import SECTOR, Replay
from pmemheap.testing.recorder import Crash, Kind, Recording
from pmemheap.testing.report import describe
from pmemheap.testing.states import State

__all__ = ["CrashedFile", "crashes"]


class CrashedFile:
    """A crash, all bytes of the file that it left, and how it came about."""

    __slots__ = ("content", "crash", "description")

    def __init__(self, crash: Crash, content: bytes, description: str) -> None:
        self.crash: Crash = crash
        self.content: bytes = content
        self.description: str = description

    def __repr__(self) -> str:
        """Return what happened; the bytes are many."""
        return f"<{self.description}: {self.crash}>"


@st.composite
def crashes(
    draw: st.DrawFn,
    recording: Recording,
    *,
    kinds: tuple[Kind, ...] = (Kind.KILL, Kind.POWER),
    cell: int = SECTOR,
) -> CrashedFile:
    """Draw a crash at any event of a recording, and for power failures the cells that it lost.

    Parameters
    ----------
    recording : Recording
        Of a `Recorder`.
    kinds : tuple of Kind
        Signals, power failures.
    cell : int
        Bytes that power failure does not tear.
    """
    replay = Replay(recording, cell)
    for _ in range(draw(st.integers(0, len(recording.events)), label="events")):
        replay.advance()
    kind = draw(st.sampled_from(kinds), label="kind")
    state = State(recording.crash(replay.done, kind), {}, replay.size, replay.key)
    if kind == Kind.POWER:
        state = draw(_power_failures(replay, state.crash))
    image = replay.image(state.changes, state.size)
    return CrashedFile(state.crash, image, describe(replay, state))


@st.composite
def _power_failures(draw: st.DrawFn, replay: Replay, crash: Crash) -> State:
    """Draw which cells are not as they were stored last, and what they are."""
    changes = {}
    cells = sorted(replay.history)
    for cell in sorted(draw(st.sets(st.sampled_from(cells))) if cells else ()):
        older = list(dict.fromkeys(content for _, content in reversed(replay.history[cell])))[1:]
        changes[cell] = older[draw(st.integers(0, len(older) - 1))]
    size = draw(st.sampled_from([each for _, each in reversed(replay.sizes)]))
    return State(crash, changes, size, replay.key_of(changes, size))
