"""Record against models: any events come back; any calls end in the blocks that live.

And whatever becomes of the bytes of a trace: nothing wrong is read without an error.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pmemheap import DurabilityName, Heap, OutOfSpaceError, Record, UsageError, native, traces
from pmemheap.native.constants import Event as Kind
from pmemheap.native.constants import Format, TraceFormat
from pmemheap.traces import ALLOCATE, FREE, Event, Trace, frames
from pmemheap.units import KiB, MiB

# ---------------------------------------------------------------- the encoding

KINDS = st.sampled_from([Kind.MADE, Kind.FREED, Kind.RESIZED, Kind.MOVED, Kind.DROPPED])
WORDS = st.one_of(
    st.integers(0, 300),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 1 << 40).map(lambda n: n * 16),
)
SMALL = st.one_of(st.integers(0, 3), st.integers(0, (1 << 32) - 1))
RAW = st.tuples(KINDS, SMALL, SMALL, st.integers(0, 255), WORDS, WORDS, WORDS, WORDS)


def written(path: Path, raws: list[tuple[int, ...]]) -> None:
    """Write events; nobody is told of by a heap."""
    with Record(path, sites=False) as record:
        for raw in raws:
            record._put(*raw)


def as_read(raw: tuple[int, ...]) -> Event:
    """Return the event that is to be read."""
    kind, _, thread, arena, time, offset, to, size = raw
    place = arena << Format.ARENA_BITS
    return Event(
        Kind(kind),
        0 if kind == Kind.DROPPED else offset ^ place,
        to ^ place if kind == Kind.MOVED else 0,
        size if kind in {Kind.MADE, Kind.RESIZED, Kind.MOVED} else 0,
        time,
        None,
        thread,
        arena,
    )


@given(st.lists(RAW, max_size=60))
def test_events_come_back_as_they_went_in(raws: list[tuple[int, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        written(path, raws)
        assert list(traces.read_events(path)) == [as_read(raw) for raw in raws]


@pytest.mark.slow
@settings(max_examples=3)
@given(st.lists(RAW, min_size=10, max_size=100))
def test_they_do_over_the_ends_of_frames(raws: list[tuple[int, ...]]) -> None:
    many = raws * (100_000 // len(raws))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        written(path, many)
        assert list(traces.read_events(path)) == [as_read(raw) for raw in many]
        found = list(frames.frames(path.read_bytes(), path))
        assert max(len(frame.data) for frame in found) <= TraceFormat.FRAME_MOST


# ---------------------------------------------------------------- the calls

SIZES = st.one_of(st.integers(1, 300), st.integers(300, 20 * KiB), st.integers(20 * KiB, 400 * KiB))
PICK = st.integers(0, 1 << 30)
LIMIT = 24 * MiB


class RecordMachine(RuleBasedStateMachine):
    """Random calls on a heap; the trace, read again and again, says which blocks live."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "trace"
        self.heap = self.new_heap()
        self.before = [self.heap.malloc(100) for _ in range(3)]
        self.record = self.heap.install(Record(self.path)).layer
        self.live: dict[int, int] = {}
        self.arena: Any = None

    def new_heap(self) -> Heap:
        return Heap.anonymous(limit=LIMIT, decay=0)

    def pick(self, number: int) -> int | None:
        offsets = list(self.live)
        return offsets[number % len(offsets)] if offsets else None

    @rule(size=SIZES, align=st.sampled_from([16, 16, 64, 4096, 1 << 16]), in_arena=st.booleans())
    def malloc(self, size: int, align: int, in_arena: bool) -> None:
        where = self.arena if in_arena and self.arena is not None else self.heap
        with suppress(OutOfSpaceError):
            self.live[where.malloc(size, align)] = size

    @rule(number=PICK)
    def free(self, number: int) -> None:
        offset = self.pick(number)
        if offset is not None:
            self.owner(offset).free(offset)
            del self.live[offset]

    def owner(self, offset: int) -> Any:
        return self.arena if offset >> Format.ARENA_BITS else self.heap

    @rule(number=PICK)
    def free_deferred(self, number: int) -> None:
        offset = self.pick(number)
        if offset is not None:
            with self.owner(offset).view(offset):
                self.owner(offset).free(offset, deferred=True)
                del self.live[offset]

    @rule(number=PICK, size=SIZES)
    def realloc(self, number: int, size: int) -> None:
        offset = self.pick(number)
        if offset is None:
            return
        try:
            to = self.owner(offset).realloc(offset, size)
        except OutOfSpaceError:
            return
        del self.live[offset]
        self.live[to] = size

    @rule(number=PICK, size=SIZES)
    def expand(self, number: int, size: int) -> None:
        offset = self.pick(number)
        if offset is not None and self.owner(offset).expand(offset, size):
            self.live[offset] = max(size, self.live[offset])

    @rule(size=st.integers(1, 5 * KiB), count=st.integers(1, 80))
    def malloc_many(self, size: int, count: int) -> None:
        with suppress(OutOfSpaceError):
            self.live.update(dict.fromkeys(self.heap.malloc_many(size, count), size))

    @rule()
    def free_many(self) -> None:
        each = [offset for offset in self.live if not offset >> Format.ARENA_BITS][::2]
        self.heap.free_many(each)
        for offset in each:
            del self.live[offset]

    @rule(size=SIZES, number=PICK, aborted=st.booleans())
    def transaction(self, size: int, number: int, aborted: bool) -> None:
        offset = self.pick(number)
        try:
            with self.heap.transaction() as tx:
                made = tx.malloc(size)
                if offset is not None:
                    tx.free(offset)
                if aborted:
                    raise KeyError
        except (OutOfSpaceError, KeyError):
            return
        self.live[made] = size
        if offset is not None:
            del self.live[offset]

    @rule()
    def free_one_of_before(self) -> None:
        if self.before:
            self.heap.free(self.before.pop())

    @rule()
    def refused(self) -> None:
        with pytest.raises(UsageError):
            self.heap.free(8)

    @rule()
    def arena_comes_or_goes(self) -> None:
        if self.arena is None:
            self.arena = self.heap.arena("other")
            return
        self.arena.drop()
        self.arena = None
        self.live = {at: size for at, size in self.live.items() if not at >> Format.ARENA_BITS}

    @rule()
    def off_and_on(self) -> None:
        self.heap.uninstall(self.record)
        self.heap.install(self.record)

    @invariant()
    def the_trace_says_what_lives(self) -> None:
        self.record.flush()
        assert self.record.error is None
        trace = traces.load(self.path)
        assert played(trace) == len(self.live)
        live = {at for at, _ in self.heap.blocks()} - set(self.before)
        assert offsets_of(self.path) == set(self.live) == live

    def teardown(self) -> None:
        self.heap.close()
        self.record.close()
        self.folder.cleanup()


def played(trace: Trace) -> int:
    """Play a trace on a model of its rules; return how many blocks live."""
    live: dict[int, int] = {}
    made = bytes_now = peak = 0
    for kind, block, size in trace.operations:
        if kind == ALLOCATE:
            assert block == made
            made += 1
        else:
            bytes_now -= live.pop(block)
        if kind != FREE:
            assert size >= 1
            live[block] = size
            bytes_now += size
        peak = max(peak, bytes_now)
    assert (made, peak) == (trace.blocks, trace.peak_live_bytes)
    assert set(live) == set(trace.live_at_end)
    assert len(trace.origins) == len(trace.operations)
    return len(live)


def offsets_of(path: Path) -> set[int]:
    """Return the offsets of the blocks that live at the end of a trace."""
    live: set[int] = set()
    for event in traces.read_events(path):
        if event.kind == Kind.MADE:
            assert event.offset not in live
            live.add(event.offset)
        elif event.kind == Kind.FREED:
            live.discard(event.offset)
        elif event.kind == Kind.MOVED:
            assert event.to in live
        elif event.kind == Kind.DROPPED:
            live = {at for at in live if at >> Format.ARENA_BITS != event.arena}
    return live


class InFileMachine(RecordMachine):
    durability: DurabilityName = "process"

    def new_heap(self) -> Heap:
        path = Path(self.folder.name) / "heap"
        return Heap.create(path, durability=self.durability, limit=LIMIT, decay=0)


class PowerMachine(InFileMachine):
    durability = "power"


RecordMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
InFileMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=30, deadline=None)
PowerMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=30, deadline=None)
TestRecord = pytest.mark.slow(RecordMachine.TestCase)
TestInFile = pytest.mark.slow(InFileMachine.TestCase)
TestPower = pytest.mark.slow(PowerMachine.TestCase)


# ---------------------------------------------------------------- damage


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file of four frames: an empty one, and three with events and names of sites."""
    path = tmp_path / "small.trace"
    with Heap.anonymous() as heap, heap.install(Record(path)) as record:
        first = [heap.malloc(size) for size in (10, 200, 3000)]
        record.flush()
        heap.free(first[0])
        first[1] = heap.realloc(first[1], 5000)
        record.flush()
        heap.free(heap.malloc(70_000))
        heap.free(first[1])
    return path


def whole_frames(data: bytes) -> list[int]:
    """Return where each frame ends."""
    ends, at = [], 0
    while at < len(data):
        at += frames.HEADER.size + int.from_bytes(data[at + 8 : at + 12], "little")
        ends.append(at)
    assert ends[-1] == len(data)
    return ends


@pytest.mark.slow
def test_a_cut_file_ends_with_its_last_whole_frame(small: Path) -> None:
    data = small.read_bytes()
    ends = whole_frames(data)
    assert len(ends) == 4
    events = list(traces.read_events(small))
    counts = []
    for end in ends:
        small.write_bytes(data[:end])
        counts.append(len(list(traces.read_events(small))))
    assert counts == [0, 3, 7, 10]
    for cut in range(len(data)):
        small.write_bytes(data[:cut])
        if cut < len(frames.MAGIC):
            with pytest.raises(UsageError):
                traces.load(small)
            continue
        whole = sum(end <= cut for end in ends)
        expected = events[: counts[whole - 1]] if whole else []
        assert list(traces.read_events(small)) == expected
        assert played(traces.load(small)) >= 0


@pytest.mark.parametrize("flip", [0x01, 0x40, 0x80, 0xFF])
def test_a_flipped_byte_is_an_error_that_names_the_frame(small: Path, flip: int) -> None:
    data = small.read_bytes()
    ends = whole_frames(data)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= flip
        small.write_bytes(damaged)
        number = sum(end <= at for end in ends)
        place = rf"frame {number} at byte {[0, *ends][number]:#x}: .* expected, .* found"
        with pytest.raises(UsageError, match=place if at >= len(frames.MAGIC) else "small.trace"):
            traces.load(small)


@pytest.mark.slow
@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_a_partial_reading_has_the_other_frames(small: Path, flip: int) -> None:
    data = small.read_bytes()
    ends = whole_frames(data)
    pieces = [(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    by_frame = [len(list(each)) for each in events_by_frame(small)]
    events = [event._replace(site=None) for event in traces.read_events(small)]
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= flip
        small.write_bytes(damaged)
        lost = next(number for number, (start, end) in enumerate(pieces) if start <= at < end)
        first = sum(by_frame[:lost])
        expected = events[:first] + events[first + by_frame[lost] :]
        found = [e._replace(site=None) for e in traces.read_events(small, partial=True)]
        assert found == expected
        played(traces.load(small, partial=True))


def events_by_frame(path: Path) -> list[list[Event]]:
    names: dict[int, str] = {}
    return [list(frames.decode(frame, names)) for frame in frames.frames(path.read_bytes(), path)]


def test_a_missing_or_doubled_frame_is_an_error(small: Path) -> None:
    data = small.read_bytes()
    ends = whole_frames(data)
    small.write_bytes(data[: ends[0]] + data[ends[1] :])
    with pytest.raises(UsageError, match=r"frame 1 at byte .*: number 1 expected, 2 found"):
        traces.load(small)
    assert played(traces.load(small, partial=True)) >= 0
    small.write_bytes(data + data[: ends[0]])
    with pytest.raises(UsageError, match=r"frame 4 at byte .*: number 4 expected, 0 found"):
        traces.load(small)


def sealed(payload: bytes, events: int, sites: int = 0) -> bytes:
    """Return a frame of any bytes, with checksums that fit."""
    head = frames.HEADER.pack(
        TraceFormat.MAGIC, 0, len(payload), events, 0, sites, 0, native.crc32c(payload), 0
    )
    return head[:-4] + native.crc32c(head[:-4]).to_bytes(4, "little") + payload


@pytest.mark.parametrize(
    ("payload", "events", "message"),
    [
        (b"\x00", 1, "whole events expected"),
        (b"\x40\x02", 1, "whole events expected"),
        (b"\x87\x02", 1, "whole events expected"),
        (b"\x07\x02", 1, "whole events expected"),
        (b"\x80\x02\x02", 1, "whole events expected, found the first byte 0x80"),
        (b"\x01" + b"\xff" * 11 + b"\x01", 1, "a number of more than 64 bits"),
        (b"\x01\x02", 2, "2 events expected, 1 found"),
        (b"\x05\x7fabc", 0, "a name that does not end"),
        (b"\x05\x01a", 0, "0 names of sites expected, 1 found"),
        (b"\x05\x01\xff", 0, "whole events expected"),
    ],
)
def test_bytes_that_are_no_events_are_refused(
    tmp_path: Path, payload: bytes, events: int, message: str
) -> None:
    path = tmp_path / "forged"
    path.write_bytes(sealed(payload, events))
    with pytest.raises(UsageError, match=rf"forged, frame 0 at byte 0x0: .*{message}"):
        traces.load(path)


@given(st.binary(max_size=80), st.integers(0, 5), st.integers(0, 2))
def test_no_bytes_of_a_sound_frame_raise_anything_else(
    payload: bytes, events: int, sites: int
) -> None:
    data = sealed(payload, events, sites)
    for frame in frames.frames(data, "forged"):
        try:
            found = list(frames.decode(frame, {}))
        except UsageError:
            continue
        assert len(found) == events
