"""Holding: which processes have snapshots of a heap, how much of it waits for them, and a limit.

recycle ──► Ages: when each era began ──► Reader: process, age, bytes that wait
before a heap grows: more than `Held` says ──► a warning, a call, or OutOfSpaceError
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pmemheap.dataclass import dataclass
from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.file import pins
from pmemheap.heap.lock import is_changing
from pmemheap.units import format_bytes

if TYPE_CHECKING:
    from pmemheap.heap.shared import Shared
    from pmemheap.heap.space import Space

__all__ = ["Ages", "Held", "Reader", "readers_of", "require_held", "set_held", "tell_due"]

_TOLD_SECONDS = 1.0
"""Nobody is told more often than that."""


@dataclass(frozen=True)
class Reader:
    """A process that has snapshots of a heap, or views of them, of one age.

    Attributes
    ----------
    pid : int
        The process, as it numbers itself; the low 22 bits.
    era : int
        Of two readers the one with the smaller number has the older snapshots.
    held_bytes : int
        What was freed since they were begun, and is not used again as long as they, or older ones,
        are there.
    seconds : float
        For how long it has had them, at least.
    commits : int
        How many commits there were since, at least.
    """

    pid: int
    era: int
    held_bytes: int
    seconds: float
    commits: int


@dataclass(frozen=True)
class Held:
    """A limit for what snapshots hold back, and what happens beyond it.

    It is looked at when the heap needs more units: that is when what is held back costs something.

    Parameters
    ----------
    nbytes : int, optional
        That one reader may hold back.
    seconds : float, optional
        For which one may keep a snapshot, or a view of one.
    action : {"warn", "refuse"} or callable
        ``"warn"``: a ResourceWarning that names the readers, once a second at most. ``"refuse"``:
        what needs units is an OutOfSpaceError that names them; nothing has changed. A callable gets
        the list of them, once a second at most, by the next call that needs units, outside of all
        locks; what it raises, that call raises.

    Examples
    --------
    >>> import pmemheap
    >>> with pmemheap.Heap.shared(readers=True) as heap:
    ...     heap.held = pmemheap.Held(1 << 30, seconds=600, action="refuse")
    ...     heap.held.nbytes
    1073741824
    """

    nbytes: int | None = None
    seconds: float | None = None
    action: Literal["warn", "refuse"] | Callable[[list[Reader]], object] = "warn"

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        if self.nbytes is None and self.seconds is None:
            raise UsageError("held: a number of bytes or seconds expected, found neither")
        for name in ("nbytes", "seconds"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and value >= 0):
                raise UsageError(f"held: {name}: a number from 0 on expected, {value!r} found")
        if self.action not in {"warn", "refuse"} and not callable(self.action):
            raise UsageError(
                f"held: action: 'warn', 'refuse' or a callable expected, {self.action!r} found"
            )

    def exceeded(self, reader: Reader) -> bool:
        """Tell whether a reader holds back more than that, or longer."""
        beyond_bytes = self.nbytes is not None and reader.held_bytes > self.nbytes
        return beyond_bytes or (self.seconds is not None and reader.seconds > self.seconds)


class Ages:
    """When the eras of a writer began, and what it does about old ones."""

    def __init__(self) -> None:
        self._begun: dict[int, tuple[float, int]] = {}
        self.held: Held | None = None
        self.due: list[Reader] = []
        """Whom the next call that needs units is to tell of."""
        self._told = -_TOLD_SECONDS

    def begin(self, era: int, commit: int, oldest: int) -> None:
        """Note the begin of an era; forget those that nobody can ask for any more."""
        self._begun[era] = time.monotonic(), commit
        for old in [each for each in self._begun if each < oldest]:
            del self._begun[old]

    def since(self, era: int, commit: int) -> tuple[float, int]:
        """Return seconds and commits since an era had ended; 0 where that is not known."""
        ended = next((begun for later, begun in self._begun.items() if later > era), None)
        return (0.0, 0) if ended is None else (time.monotonic() - ended[0], commit - ended[1])

    def has_age(self, seconds: float | None) -> bool:
        """Tell whether an era that somebody may have pinned ended longer ago than that."""
        if seconds is None or not self._begun:
            return False
        return time.monotonic() - next(iter(self._begun.values()))[0] > seconds

    def is_time(self) -> bool:
        """Tell whether somebody may be told again, and note that."""
        now = time.monotonic()
        if now - self._told < _TOLD_SECONDS:
            return False
        self._told = now
        return True


def readers_of(space: Space) -> list[Reader]:
    """Return them, the oldest first; see `pmemheap.Heap.readers`."""
    space.require()
    return _readers(space.shared)


def _readers(shared: Shared) -> list[Reader]:
    file, ages = shared.writable, shared.ages
    if file is None or shared.pins is None or ages is None:
        return []
    found = pins.pinned(file.lock_fd, file.header.word("era") + 1)
    found += [(era, os.getpid()) for era in shared.pins.eras]
    waiting = shared.log._tagged_since  # private: no call of users
    commit = file.header.word("commit_seq") // 2
    return [Reader(pid, era, waiting(era), *ages.since(era, commit)) for era, pid in sorted(found)]


def set_held(space: Space, held: Held | None) -> None:
    """Set the limit of a heap, or take it away; see `pmemheap.Heap.held`."""
    space.require()
    if held is not None and not isinstance(held, Held):
        raise UsageError(f"held: a Held or None expected, {type(held).__name__} found")
    ages = space.shared.ages
    if ages is not None:
        ages.held = held
    elif held is not None:
        raise UsageError(f"{space.name}: held: a writer with readers=True expected")


def require_held(space: Space) -> None:
    """Before a heap takes units: look whether readers hold back more than they may.

    Raises
    ------
    OutOfSpaceError
        They do, and it is to be refused.
    """
    shared = space.shared
    ages = shared.ages
    if ages is None or ages.held is None:
        return
    held = ages.held
    nbytes, _, _ = shared.log._tagged()  # private: no call of users
    if not (held.nbytes is not None and nbytes > held.nbytes) and not ages.has_age(held.seconds):
        return
    beyond = [each for each in _readers(shared) if held.exceeded(each)]
    if beyond and held.action == "refuse":
        raise OutOfSpaceError(f"{space.name}: {_told(held, beyond)}")
    if beyond and ages.is_time():
        ages.due = beyond


def tell_due(space: Space, ages: Ages) -> None:
    """Warn, or call, of what was found before, if this thread has no lock."""
    if is_changing():
        return
    beyond, ages.due = ages.due, []
    held = ages.held
    if held is None or not beyond:
        return
    if callable(held.action):
        held.action(beyond)
    else:
        text = f"{space.name}: {_told(held, beyond)}"
        warnings.warn(text, ResourceWarning, stacklevel=2)


def _told(held: Held, beyond: list[Reader]) -> str:
    limits = [] if held.nbytes is None else [format_bytes(held.nbytes)]
    limits += [] if held.seconds is None else [f"{held.seconds:g} s"]
    found = ", ".join(
        f"process {each.pid} holds {format_bytes(each.held_bytes)} since {each.seconds:.0f} s"
        for each in beyond
    )
    return f"at most {' and '.join(limits)} held back by a snapshot expected, {found}"
