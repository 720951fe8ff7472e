"""Traces by example: what is read, what is refused, and what a replay calls."""

from __future__ import annotations

import gc
import gzip
from array import array
from pathlib import Path

import pytest

from pmemheap import Heap, Record, traces
from pmemheap.errors import UsageError
from pmemheap.traces import ALLOCATE, FREE, RESIZE, MemoryMeter, Origin, TouchReplay, Trace

SMALL = """\
# small 7 300
a 0 100
a 1 50
r 1 200
f 0
a 2 8
f 1
r 2 16
"""


class Recorder:
    """An allocator of consecutive numbers that writes down its calls and knows what is live."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.live: dict[int, int] = {}
        self.next = 1000

    def malloc(self, size: int) -> int:
        self.calls.append(("malloc", size))
        return self._new(size)

    def realloc(self, handle: int, size: int) -> int:
        self.calls.append(("realloc", handle, size))
        del self.live[handle]
        return self._new(size)

    def free(self, handle: int) -> None:
        self.calls.append(("free", handle))
        del self.live[handle]

    def _new(self, size: int) -> int:
        self.next += 1
        self.live[self.next] = size
        return self.next


@pytest.fixture
def small() -> Trace:
    return traces.parse(SMALL.splitlines(), "small")


# ------------------------------------------------------------------------------------ what is read


def test_a_trace_says_what_its_lines_say(small: Trace) -> None:
    assert small.name == "small"
    assert small.blocks == 3
    assert small.peak_live_bytes == 300
    assert small.live_at_end == (2,)
    assert small.operations[:4] == (
        (ALLOCATE, 0, 100),
        (ALLOCATE, 1, 50),
        (RESIZE, 1, 200),
        (FREE, 0, 0),
    )


@pytest.mark.parametrize("name", ["small.trace", "small.trace.gz", "small"])
@pytest.mark.parametrize("compressed", [True, False])
def test_load_tells_gzip_by_its_content(
    tmp_path: Path, small: Trace, name: str, compressed: bool
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(SMALL.encode()) if compressed else SMALL.encode())
    assert traces.load(path) == small
    assert traces.load(str(path)) == small


def test_a_trace_of_no_operations_is_a_trace() -> None:
    empty = traces.parse(["# nothing 0 0"], "nothing")
    assert empty.operations == ()
    assert traces.replay(empty, Recorder()) >= 0


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: '# name ops peak_live_bytes' expected, '' found"),
        ("small 1 8\na 0 8\n", r"line 1: '# name ops peak_live_bytes' expected"),
        ("# small one 8\na 0 8\n", r"line 1: '# name ops peak_live_bytes' expected"),
        ("# small 2 8\na 0 8\n", r"line 1: 2 operations expected, 1 found"),
        ("# small 1 9\na 0 8\n", r"line 1: peak of 9 live bytes expected, 8 found"),
        ("# small 1 8\na 0\n", r"line 2: 'a ID SIZE', .* expected, 'a 0' found"),
        ("# small 1 8\nf 0 8\n", r"line 2: .* expected, 'f 0 8' found"),
        ("# small 1 8\nm 0 8\n", r"line 2: .* expected, 'm 0 8' found"),
        ("# small 1 8\n\n", r"line 2: .* expected, '' found"),
        ("# small 1 8\na 0 -8\n", r"line 2: .* expected, 'a 0 -8' found"),
        ("# small 1 8\na 0 ²\n", r"line 2: .* expected, 'a 0 ²' found"),
        ("# small 1 0\na 0 0\n", r"line 2: a size of at least 1 expected, 0 found"),
        ("# small 1 8\na 1 8\n", r"line 2: ID 0 expected, 'ID 1' found"),
        ("# small 2 8\na 0 8\na 0 8\n", r"line 3: ID 1 expected, 'ID 0' found"),
        ("# small 1 8\nf 0\n", r"line 2: the ID of a live block expected, 'ID 0' found"),
        ("# small 3 8\na 0 8\nf 0\nf 0\n", r"line 4: the ID of a live block expected"),
        ("# small 3 8\na 0 8\nf 0\nr 0 8\n", r"line 4: the ID of a live block expected"),
    ],
)
def test_malformed_text_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.trace"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=rf"bad\.trace, {message}"):
        traces.load(path)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.trace.gz"
    whole = gzip.compress(SMALL.encode())
    path.write_bytes(whole[:-10])
    with pytest.raises(UsageError, match=r"bad\.trace\.gz: whole gzip data expected"):
        traces.load(path)
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(UsageError, match=r"bad\.trace\.gz: whole gzip data expected"):
        traces.load(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.trace"
    path.write_bytes(b"# \xff\xfe 0 0\n")
    with pytest.raises(UsageError, match=r"bad\.trace: UTF-8 text expected"):
        traces.load(path)


# -------------------------------------------------------------------------------- what replay calls


def test_replay_makes_the_recorded_calls_and_frees_the_rest(small: Trace) -> None:
    recorder = Recorder()
    assert traces.replay(small, recorder) > 0
    assert recorder.calls == [
        ("malloc", 100),
        ("malloc", 50),
        ("realloc", 1002, 200),
        ("free", 1001),
        ("malloc", 8),
        ("free", 1003),
        ("realloc", 1004, 16),
        ("free", 1005),
    ]
    assert recorder.live == {}


def test_empty_replay_calls_nothing_and_takes_time(small: Trace) -> None:
    assert traces.empty_replay(small) > 0


def test_measure_times_each_pass(small: Trace) -> None:
    recorder = Recorder()
    timing = traces.measure(small, recorder, passes=3)
    assert len(timing.pass_seconds) == 3
    assert len(recorder.calls) == 3 * 8
    assert timing.operations == 7
    assert timing.fresh_ns == timing.net_ns(timing.pass_seconds[0])
    assert timing.warm_ns == timing.net_ns(min(timing.pass_seconds[1:]))


def test_touch_replay_touches_each_block_and_keeps_the_greatest_sample(small: Trace) -> None:
    recorder = Recorder()
    touched: list[tuple[int, int]] = []
    result = traces.touch_replay(
        small,
        recorder,
        lambda handle, size: touched.append((handle, size)),
        lambda: sum(recorder.live.values()),
    )
    assert [size for _, size in touched] == [100, 50, 200, 8, 16]
    assert result.peak_bytes == small.peak_live_bytes
    assert result.sample_count == 7
    assert result.utilisation(small) == 1.0
    assert recorder.live == {}


def test_touch_replay_samples_where_the_live_bytes_peak() -> None:
    few = [f"a {number} 1" for number in range(7)]
    spike = ["a 7 1000000", "f 7"]
    many = [line for number in range(8, 2506) for line in (f"a {number} 1", f"f {number}")]
    operations = few + spike + many
    lines = [f"# spike {len(operations)} 1000007", *operations]
    recorder = Recorder()
    trace = traces.parse(lines, "spike")
    result = traces.touch_replay(
        trace, recorder, lambda *_: None, lambda: sum(recorder.live.values())
    )
    assert result.peak_bytes == 1000007


def test_touch_replay_can_keep_handles_in_an_array(small: Trace) -> None:
    recorder = Recorder()
    handles = array("Q", bytes(8 * small.blocks))
    TouchReplay(small, handles).run(recorder, lambda *_: None, lambda: 0)
    assert handles[2] == 1005


# ------------------------------------------------------------------------------ what the meter sees


@pytest.mark.unsanitized
def test_the_meter_sees_written_memory_and_its_return() -> None:
    gc.collect()  # heaps that other tests have left would go meanwhile
    meter = MemoryMeter()
    size = 32 << 20
    block = bytearray(b"\1") * size
    assert 0.9 * size < meter.growth_bytes() < 1.1 * size
    del block
    assert meter.growth_bytes() < 0.1 * size


# ------------------------------------------------------------------------------------ its columns

COLUMNS = """\
# queue 3 116
a 0 16 t=5 s=a%20queue.py:41 T=0 A=2
a 1 100
f 0 T=1 t=70
"""


def test_columns_say_where_an_operation_comes_from(tmp_path: Path) -> None:
    trace = traces.parse(COLUMNS.splitlines(), "queue")
    assert trace.origins == (
        Origin(5, "a queue.py:41", 0, 2),
        Origin(),
        Origin(time=70, thread=1),
    )
    traces.save(trace, tmp_path / "saved")
    assert traces.load(tmp_path / "saved") == trace


def test_a_text_without_columns_has_no_origins(tmp_path: Path, small: Trace) -> None:
    assert small.origins == ()
    traces.save(small, tmp_path / "small")
    assert (tmp_path / "small").read_text() == SMALL


@pytest.mark.parametrize("word", ["t=x", "t=-1", "t=", "x=1", "=1", "A=1.5", "t=1 t=2", "s=a s=b"])
def test_columns_that_are_none_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match=r"line 2: 't=', 's=', 'T=' or 'A=', each once expected"):
        traces.parse(["# small 1 8", f"a 0 8 {word}"], "small")


def test_a_recorded_trace_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    with Heap.anonymous() as heap, heap.install(Record(path)):
        heap.free(heap.malloc(100))
    plain = traces.load(path)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert traces.load(path) == plain
    assert traces.replay(plain, Recorder()) > 0


def test_a_text_has_no_events(tmp_path: Path) -> None:
    path = tmp_path / "small.trace"
    path.write_text(SMALL)
    with pytest.raises(UsageError, match=r"a recorded trace, which begins b'PMTR', expected"):
        list(traces.read_events(path))
