"""Frames: the file that a `pmemheap.Record` writes, as frames, and these as events.

    file     frame | frame | ...                each with its checksums; nothing behind the last one
    frame    header | event | event | ...       can be read without the others, but for the names

The header has a checksum of its own, so that it is known where a frame ends, and a file that ends
before that was cut: by a process that was killed, or by a disk that was full. That is the end of
the trace. Everything else that is wrong is damage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pmemheap.errors import UsageError
from pmemheap.native import constants, crc32c
from pmemheap.native.constants import Event as Kind
from pmemheap.native.constants import Format, TraceFormat
from pmemheap.traces.trace import expect
from pmemheap.units import GRANULE

__all__ = ["HEADER", "MAGIC", "Event", "Frame", "decode", "frames"]

HEADER = struct.Struct("<6IQ2I")
MAGIC = TraceFormat.MAGIC.to_bytes(4, "little")

_CHECKSUM_AT = HEADER.size - 4
_WORD = (1 << 64) - 1
_MORE = 0x80
_BITS = 64
_TURN = GRANULE.bit_length() - 1
_TIME, _SITE = TraceFormat.HAS_TIME, TraceFormat.HAS_SITE
_PLACE, _SIZE = TraceFormat.HAS_PLACE, TraceFormat.HAS_SIZE
_MADE, _FREED, _MOVED, _DROPPED, _NAME = (
    Kind.MADE, Kind.FREED, Kind.MOVED, Kind.DROPPED, Kind.SITE,
)  # fmt: skip
_KINDS = {
    kind | flags: kind
    for kind in Kind
    for flags in range(0, (_TIME | _SITE | _PLACE | _SIZE) + 1, TraceFormat.KIND_MASK + 1)
}
"""Of each first byte that an event can have, its kind."""


class Event(NamedTuple):
    """What became of a block.

    Attributes
    ----------
    kind : pmemheap.native.constants.Event
        MADE, FREED, RESIZED (where it is), MOVED (the block made last at `to` is the one freed last
        at `offset`), DROPPED (the arena, with all its blocks).
    offset, to : int
        Of the block, as `malloc` has returned it; 0 where the kind has none.
    size : int
        What was asked for; 0 where the kind has none.
    time : int
        Microseconds since the trace began.
    site : str or None
        ``file:line`` of the call; None: not recorded, or named in a frame that is damaged.
    thread, arena : int
        Numbers; the threads are counted as they came.
    """

    kind: constants.Event
    offset: int
    to: int
    size: int
    time: int
    site: str | None
    thread: int
    arena: int


class Frame(NamedTuple):
    """A sound frame: where it is, what its header says, its bytes of events."""

    place: str
    number: int
    events: int
    first_site: int
    sites: int
    time: int
    data: memoryview


# ---------------------------------------------------------------- frames


def frames(data: bytes, source: str | Path, *, partial: bool = False) -> Iterator[Frame]:
    """Yield the frames of a file.

    Parameters
    ----------
    data : bytes
        The file.
    source : str or Path
        Its name, for messages.
    partial : bool
        Pass over what is damaged.

    Raises
    ------
    UsageError
        A frame is damaged: says which, where, what was expected and what was found.
    """
    at, expected, sites = 0, 0, 0
    while at < len(data):
        place = f"{source}, frame {expected} at byte {at:#x}"
        try:
            frame = _frame_at(data, at, place)
            if frame is None:
                return
            if not partial:
                _require_next(frame, expected, sites)
        except _DamageError as damage:
            if not partial:
                raise UsageError(*damage.args) from None
            at = damage.next_at
            continue
        yield frame
        at += HEADER.size + len(frame.data)
        expected, sites = frame.number + 1, frame.first_site + frame.sites


class _DamageError(Exception):
    def __init__(self, message: str, next_at: int = 0) -> None:
        super().__init__(message)
        self.next_at = next_at


def _require_next(frame: Frame, number: int, sites: int) -> None:
    expect(frame.number == number, frame.place, f"number {number}", frame.number)
    expect(frame.first_site == sites, frame.place, f"{sites} sites before it", frame.first_site)


def _frame_at(data: bytes, at: int, place: str) -> Frame | None:
    """Return the frame there; None: it was cut, or its header was."""
    start = data[at : at + HEADER.size]
    if not start.startswith(MAGIC[: len(start)]):
        _raise_damage(data, at, place, f"{MAGIC!r}", start[: len(MAGIC)])
    if len(start) < HEADER.size:
        return None
    _, number, length, events, first, sites, time, events_crc, crc = HEADER.unpack(start)
    if crc32c(start[:_CHECKSUM_AT]) != crc:
        found = f"{crc32c(start[:_CHECKSUM_AT]):#x}"
        _raise_damage(data, at, place, f"a header of checksum {crc:#x}", found)
    if length > TraceFormat.FRAME_MOST:
        _raise_damage(data, at, place, f"at most {TraceFormat.FRAME_MOST} bytes", length)
    payload = memoryview(data)[at + HEADER.size :][:length]
    if len(payload) < length:
        return None
    if crc32c(payload) != events_crc:
        raise _DamageError(
            f"{place}: events of checksum {events_crc:#x} expected, {crc32c(payload):#x} found",
            at + HEADER.size + length,
        )
    return Frame(place, number, events, first, sites, time, payload)


def _raise_damage(data: bytes, at: int, place: str, expected: str, found: object) -> None:
    """Raise; what follows the damage begins at the next header that is sound."""
    following = at
    while (following := data.find(MAGIC, following + 1)) >= 0:
        header = data[following : following + HEADER.size]
        if len(header) < HEADER.size or crc32c(header[:_CHECKSUM_AT]) == HEADER.unpack(header)[-1]:
            break
    raise _DamageError(
        f"{place}: {expected} expected, {found!r} found", len(data) if following < 0 else following
    )


# ---------------------------------------------------------------- events


def decode(frame: Frame, names: dict[int, str]) -> Iterator[Event]:
    """Yield the events of a frame.

    Parameters
    ----------
    frame : Frame
        A sound one.
    names : dict
        Of call sites by number; those that the frame names are added.

    Raises
    ------
    UsageError
        Its bytes are no events, in spite of their checksum.
    """
    count, read = 0, _Reader(frame, names)
    try:
        for event in read.events():
            count += 1
            yield event
    except (IndexError, ValueError) as error:
        raise UsageError(
            f"{frame.place}: whole events expected, found {error} behind {count} of them"
        ) from error
    expect(count == frame.events, frame.place, f"{frame.events} events", count)
    named = read.next_site - frame.first_site
    expect(named == frame.sites, frame.place, f"{frame.sites} names of sites", named)


class _Reader:
    """The bytes of a frame, read from front to back, and what the next event is a difference to."""

    def __init__(self, frame: Frame, names: dict[int, str]) -> None:
        self.data, self.at = frame.data, 0
        self.names, self.next_site = names, frame.first_site
        self.time, self.site, self.thread, self.arena = frame.time, 0, 0, 0
        self.made = self.gone = self.size = 0

    def events(self) -> Iterator[Event]:
        """Yield all of them."""
        while self.at < len(self.data):
            head = self.byte()
            kind = _KINDS.get(head)
            if kind is None:
                raise ValueError(f"the first byte {head:#x}")
            if kind is _NAME:
                self.names[self.next_site] = self.text()
                self.next_site += 1
            else:
                yield self.event(kind, head)

    def event(self, kind: Kind, head: int) -> Event:
        """Read what stands behind the first byte of an event."""
        if head & (_TIME | _SITE | _PLACE):
            self.changes(head)
        offset = to = 0
        if kind is _MADE:
            offset = self.made = self.moved_by(self.made)
        elif kind is not _DROPPED:
            offset = self.gone = self.moved_by(self.gone)
        if kind is _MOVED:
            to = self.made = self.moved_by(self.made)
        if head & _SIZE:
            self.size = self.varint()
        offset, to = _turned_back(offset), _turned_back(to) if to else 0
        if self.arena and kind is not _DROPPED:
            offset ^= self.arena << Format.ARENA_BITS
            to ^= self.arena << Format.ARENA_BITS if kind is _MOVED else 0
        size = 0 if kind is _FREED or kind is _DROPPED else self.size
        site = self.names.get(self.site - 1)
        return Event(kind, offset, to, size, self.time, site, self.thread, self.arena)

    def changes(self, head: int) -> None:
        """Read the numbers that stand there only where they have changed."""
        if head & _TIME:
            self.time = (self.time + self.varint()) & _WORD
        if head & _SITE:
            self.site = self.varint()
        if head & _PLACE:
            self.thread, self.arena = self.varint(), self.varint()

    # ------------------------------------------------------------ pieces

    def byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return byte

    def varint(self) -> int:
        data, at = self.data, self.at
        byte = data[at]
        at += 1
        if byte < _MORE:
            self.at = at
            return byte
        value, shift = byte - _MORE, 7
        while (byte := data[at]) >= _MORE and shift < _BITS:
            value |= (byte - _MORE) << shift
            shift += 7
            at += 1
        self.at = at + 1
        value |= byte << shift
        if value > _WORD:
            raise ValueError("a number of more than 64 bits")
        return value

    def moved_by(self, before: int) -> int:
        """Read a difference, and add it."""
        value = self.varint()
        return (before + (value >> 1 if not value & 1 else -(value >> 1) - 1)) & _WORD

    def text(self) -> str:
        length = self.varint()
        found = bytes(self.data[self.at : self.at + length])
        if len(found) < length or length > TraceFormat.SITE_MOST:
            raise ValueError("a name that does not end")
        self.at += length
        return found.decode()


def _turned_back(offset: int) -> int:
    """Return the offset in an arena of one that was turned right."""
    return (offset << _TURN | offset >> (64 - _TURN)) & _WORD
