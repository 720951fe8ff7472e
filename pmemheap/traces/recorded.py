"""Recorded: a trace from the events that a `pmemheap.Record` has written.

    MADE 64          a 0 size          a block is known from when it is made until it is freed
    FREED 64         f 0
    FREED 640                          lived before the record began: left out, as all of its life
    MADE 96, FREED 64, MOVED 64 96     r 0 size

An offset that is made while a block lives there says that this one was freed unseen: the record
was not on the heap then, or the frame is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pmemheap.native.constants import Event as Kind
from pmemheap.traces.frames import Event, decode, frames
from pmemheap.traces.trace import ALLOCATE, FREE, RESIZE, Operation, Origin, Trace

__all__ = ["events_of", "trace_of"]


def events_of(data: bytes, source: str | Path, *, partial: bool = False) -> Iterator[Event | None]:
    """Yield the events of a file; None where frames are missing, in a partial reading."""
    names: dict[int, str] = {}
    expected = 0
    for frame in frames(data, source, partial=partial):
        if frame.number != expected:
            yield None
        expected = frame.number + 1
        yield from decode(frame, names)


def trace_of(name: str, events: Iterable[Event | None]) -> Trace:
    """Return the trace that events make."""
    made = _Making()
    for event in events:
        if event is None:
            made.forget()
        else:
            _STEPS[event.kind](made, event)
    return made.trace(name)


Key = tuple[int, int]  # arena, offset


class _Making:
    """The operations so far, each with its block; None: it was a part of another one."""

    def __init__(self) -> None:
        self.operations: list[tuple[int, int, int, Origin] | None] = []
        self.live: dict[Key, int] = {}
        self.blocks = 0
        self.made_at: dict[Key, int] = {}
        self.freed_at: dict[Key, int] = {}

    def forget(self) -> None:
        """Let no move that comes be of what was made and freed before."""
        self.made_at.clear()
        self.freed_at.clear()

    def add(self, kind: int, block: int, event: Event) -> None:
        size = 0 if kind == FREE else max(event.size, 1)  # 0: of an allocator that allows it
        origin = Origin(event.time, event.site, event.thread, event.arena)
        self.operations.append((kind, block, size, origin))

    # ------------------------------------------------------------ what becomes of blocks

    def make(self, event: Event) -> None:
        key = event.arena, event.offset
        if key in self.live:
            self.free(event)
        self.made_at[key] = len(self.operations)
        self.live[key] = self.blocks
        self.add(ALLOCATE, self.blocks, event)
        self.blocks += 1

    def free(self, event: Event) -> None:
        key = event.arena, event.offset
        block = self.live.pop(key, None)
        self.made_at.pop(key, None)
        if block is not None:
            self.freed_at[key] = len(self.operations)
            self.add(FREE, block, event)

    def resize(self, event: Event) -> None:
        block = self.live.get((event.arena, event.offset))
        if block is not None:
            self.add(RESIZE, block, event)

    def move(self, event: Event) -> None:
        """Make one operation of the two that a move was."""
        to = event.arena, event.to
        made = self.made_at.pop(to, None)
        freed = self.freed_at.pop((event.arena, event.offset), None)
        if made is None or freed is None:
            return
        before = self.operations[freed]
        self.operations[made] = self.operations[freed] = None
        if before is not None:
            self.live[to] = before[1]
            self.add(RESIZE, before[1], event)

    def drop(self, event: Event) -> None:
        for arena, offset in [key for key in self.live if key[0] == event.arena]:
            self.free(event._replace(arena=arena, offset=offset))

    # ------------------------------------------------------------ the end

    def trace(self, name: str) -> Trace:
        """Return it, with the blocks numbered in order of allocation."""
        numbers: dict[int, int] = {}
        sizes: dict[int, int] = {}
        operations: list[Operation] = []
        origins: list[Origin] = []
        live = peak = 0
        for kind, old, size, origin in filter(None, self.operations):
            block = numbers.setdefault(old, len(numbers))
            live += size - sizes.pop(block, 0)
            if kind != FREE:
                sizes[block] = size
            peak = max(peak, live)
            operations.append((kind, block, size))
            origins.append(origin)
        return Trace(name, tuple(operations), len(numbers), peak, tuple(sizes), tuple(origins))


_STEPS: dict[Kind, Callable[[_Making, Event], None]] = {
    Kind.MADE: _Making.make,
    Kind.FREED: _Making.free,
    Kind.RESIZED: _Making.resize,
    Kind.MOVED: _Making.move,
    Kind.DROPPED: _Making.drop,
}
