"""Recorder: what a program does to one file, in order, so that a crash can be put anywhere.

    with Recorder(path) as recorder:        the file's bytes now are the base; they count as durable
        recorder.begin(1)  ─┐
        ... stores, syncs   ├─► events      STORE, FOUND, WRITE, TRUNCATE, ALLOCATE, SYNC_*, NOTE
        recorder.returned(1)┘
    recorder.recording                      base + events: all that `CrashStates` needs

Stores of pmemheap and of `pmemheap.native.store` are told. Stores through views, arrays and other
maps are found when the next event comes: then their order among themselves is that of their
addresses. Syncs are seen when they go through pmemheap (`Map.persist`, `native.msync`,
`native.fdatasync`, `heap.sync`); those of `os` and `mmap` are not.

Notes say how far the program had come: they bound what may be found after a crash.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple, Self

from pmemheap import native
from pmemheap.errors import UsageError
from pmemheap.native import TapeEvent, TapeKind
from pmemheap.refusals import end_with

__all__ = ["Crash", "Kind", "Note", "Recorder", "Recording"]


class Note(IntEnum):
    """Notes of the program on its transactions; numbers count from 1 up."""

    BEGIN = 1
    RETURNED = 2
    DURABLE = 3


class Kind(StrEnum):
    """How the program ended: by a signal, or with the machine."""

    KILL = "kill"
    POWER = "power"


class Crash(NamedTuple):
    """A crash, and what may be found after it: transactions 1 to k, ``least <= k <= most``.

    `event` counts the events that came before it.
    """

    event: int
    kind: Kind
    least: int
    most: int


@dataclass(frozen=True, repr=False)
class Recording:
    """The bytes of a file, and what happened to it then.

    Attributes
    ----------
    base : bytes
        The file when the recording began; taken for durable.
    events : tuple of TapeEvent
        In order.
    """

    base: bytes
    events: tuple[TapeEvent, ...]
    _bounds: list[tuple[int, int, int]] = field(init=False, compare=False)

    def __repr__(self) -> str:
        """Return the lengths: the bytes are many."""
        return f"Recording({len(self.base)} bytes, {len(self.events)} events)"

    def __post_init__(self) -> None:
        """Count how far the program had come before each event."""
        reached = (0, 0, 0)
        bounds = [reached]
        for event in self.events:
            if event.kind == TapeKind.NOTE:
                reached = _reached(reached, event)
            bounds.append(reached)
        object.__setattr__(self, "_bounds", bounds)

    def crash(self, event: int, kind: Kind) -> Crash:
        """Return what may be found after a crash that let `event` events happen.

        `most` is the last transaction that had begun. `least` is the last that had to survive:
        after a signal any that had returned, after a power failure one that was called durable.
        """
        durable, returned, begun = self._bounds[event]
        least = durable if kind == Kind.POWER else max(durable, returned)
        return Crash(event, kind, least, begun)

    @property
    def counts(self) -> Counter[str]:
        """How many events there are of each kind."""
        return Counter(event.kind.name for event in self.events)


def _reached(reached: tuple[int, int, int], note: TapeEvent) -> tuple[int, int, int]:
    durable, returned, begun = reached
    if note.detail == Note.BEGIN:
        begun = max(begun, note.length)
    elif note.detail == Note.RETURNED:
        returned = max(returned, note.length)
    elif note.detail == Note.DURABLE:
        durable = max(durable, note.length)
    return durable, returned, begun


class Recorder:
    """A context manager that records what its process does to a file; one at a time.

    Parameters
    ----------
    file : path or int
        A regular file or a descriptor of one. It may be open and mapped already.

    Examples
    --------
    >>> import os
    >>> from pmemheap import native
    >>> fd = native.memfd_create("doc")
    >>> with Recorder(fd) as recorder:
    ...     native.pwrite(fd, b"abc", 0)
    ...     native.fdatasync(fd)
    >>> [event.kind.name for event in recorder.recording.events]
    ['WRITE', 'SYNC_FILE']
    >>> os.close(fd)
    """

    def __init__(self, file: str | os.PathLike[str] | int) -> None:
        self._file = file
        self._recording: Recording | None = None
        self._base = b""

    def __enter__(self) -> Self:
        """Begin; UsageError if a recorder is at work already."""
        fd = os.dup(self._file) if isinstance(self._file, int) else os.open(self._file, os.O_RDONLY)
        try:
            native.tape_start(fd)
            _tell_maps(fd)
            self._base = native.pread(fd, native.fstat(fd).size, 0)
        finally:
            os.close(fd)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the recording."""
        end_with(error, self._end)

    def _end(self) -> None:
        events = native.tape_end()
        self._recording = Recording(self._base, tuple(_without_maps(events)))

    @property
    def recording(self) -> Recording:
        """The recording; UsageError before the end."""
        if self._recording is None:
            raise UsageError("recorder: one that has ended expected, it has not")
        return self._recording

    @staticmethod
    def begin(number: int) -> None:
        """Note that a transaction begins to change the file."""
        native.tape_note(Note.BEGIN, number)

    @staticmethod
    def returned(number: int) -> None:
        """Note that a transaction returned: no end of the process may lose it."""
        native.tape_note(Note.RETURNED, number)

    @staticmethod
    def durable(number: int) -> None:
        """Note that all transactions up to this one are durable: nothing may lose them."""
        native.tape_note(Note.DURABLE, number)


def _tell_maps(fd: int) -> None:
    """Tell the tape of the shared maps of a file that this process has."""
    status = native.fstat(fd)
    identity = f"{os.major(status.device):02x}:{os.minor(status.device):02x}", str(status.inode)
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            span, access, offset, device, inode = line.split(maxsplit=5)[:5]
            if access[3] == "s" and (device, inode) == identity:
                start, stop = (int(number, 16) for number in span.split("-"))
                native.tape_map(start, stop - start, int(offset, 16))


_TELLS_NOTHING = {TapeKind.MAP, TapeKind.UNMAP}


def _without_maps(events: list[TapeEvent]) -> list[TapeEvent]:
    """Drop what changes no file, and count anew what a sync covers."""
    places = [0]
    for event in events:
        places.append(places[-1] + (event.kind not in _TELLS_NOTHING))
    return [
        event._replace(begin=places[event.begin])
        for event in events
        if event.kind not in _TELLS_NOTHING
    ]
