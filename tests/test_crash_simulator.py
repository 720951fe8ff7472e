"""The crash simulator on toys whose answers are known, and against a naive enumerator."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

import pmemheap
from pmemheap import native
from pmemheap.native import Allocate, TapeEvent, TapeKind
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.testing import (
    LINE,
    SECTOR,
    Crash,
    CrashStates,
    Image,
    Kind,
    Note,
    Recorder,
    Recording,
    check_states,
)
from pmemheap.testing.plugin import CrashSimulator
from pmemheap.testing.strategies import CrashedFile, crashes

PAGE = 4096
POWER = (Kind.POWER,)
KILL = (Kind.KILL,)
_U64 = struct.Struct("<Q")


class Toy:
    """A memory file, mapped; words are stored to and synced by their sector."""

    def __init__(self, pages: int = 1) -> None:
        self.fd = native.memfd_create("toy")
        native.ftruncate(self.fd, pages * PAGE)
        self.reservation = VMReservation(1 << 20)
        self.map = Map.file(self.fd, self.reservation, 0, pages * PAGE)

    def put(self, sector: int, value: int) -> None:
        self.put_bytes(sector * SECTOR, _U64.pack(value))

    def put_bytes(self, offset: int, data: bytes) -> None:
        native.store(self.map.address + offset, data)

    def sync(self, page: int = 0) -> None:
        native.msync(self.map.address + page * PAGE, PAGE)


@contextmanager
def toy(pages: int = 1) -> Iterator[tuple[Toy, Recorder]]:
    """Yield a toy that is being recorded; the recording is there when the block has ended."""
    file = Toy(pages)
    recorder = Recorder(file.fd)
    try:
        with recorder:
            yield file, recorder
    finally:
        file.map.close()
        os.close(file.fd)


def words(image: Image, *sectors: int) -> tuple[int, ...]:
    return tuple(_U64.unpack(os.pread(image.fd, 8, s * SECTOR))[0] for s in sectors)


def seen(recording: Recording, *sectors: int, **options: object) -> set[tuple[int, ...]]:
    """Return all values that some words have in the states of a recording."""
    found = set()

    def look(image: Image, _crash: Crash) -> None:
        found.add(words(image, *sectors))

    check_states(recording, look, **options).require()  # type: ignore[arg-type]
    return found


def images(states: CrashStates) -> list[tuple[Crash, bytes]]:
    return [(s.crash, states.replay.image(s.changes, s.size)) for s in states]


# ---------------------------------------------------------------- what power failure leaves


def test_two_sectors_without_a_sync_come_in_all_four_combinations() -> None:
    with toy() as (file, recorder):
        file.put(0, 1)
        file.put(1, 1)
    assert seen(recorder.recording, 0, 1) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert seen(recorder.recording, 0, 1, kinds=KILL) == {(0, 0), (1, 0), (1, 1)}


def test_a_sync_puts_stores_in_order() -> None:
    with toy() as (file, recorder):
        file.put(0, 1)
        file.sync()
        file.put(1, 1)
    assert seen(recorder.recording, 0, 1) == {(0, 0), (1, 0), (1, 1)}


def test_a_sync_of_another_page_does_not() -> None:
    with toy(2) as (file, recorder):
        file.put(0, 1)
        file.sync(1)
        file.put(8, 1)
    assert (0, 1) in seen(recorder.recording, 0, 8)


def test_a_store_may_reach_the_medium_without_any_sync() -> None:
    with toy() as (file, recorder):
        file.put(0, 1)
        file.put(0, 2)
    assert seen(recorder.recording, 0, kinds=POWER) == {(0,), (1,), (2,)}


def test_stores_to_one_sector_keep_their_order() -> None:
    with toy() as (file, recorder):
        file.put_bytes(0, _U64.pack(1))
        file.put_bytes(8, _U64.pack(1))
    values = set()

    def look(image: Image, _crash: Crash) -> None:
        values.add(struct.unpack("<QQ", os.pread(image.fd, 16, 0)))

    check_states(recorder.recording, look, kinds=POWER).require()
    assert values == {(0, 0), (1, 0), (1, 1)}


def test_lines_are_finer_than_sectors() -> None:
    with toy() as (file, recorder):
        file.put_bytes(0, _U64.pack(1))
        file.put_bytes(LINE, _U64.pack(1))
    recording = recorder.recording
    sectors = CrashStates(recording, kinds=POWER)
    lines = CrashStates(recording, kinds=POWER, cell=LINE)
    assert (len(list(sectors)), len(list(lines))) == (3, 4)


@pytest.mark.skipif(native.BEST_FLUSH == native.FlushKind.NONE, reason="no flush instruction")
def test_a_flush_counts_from_its_fence_on_and_for_lines_only() -> None:
    with toy() as (file, recorder):
        file.put(0, 1)
        native.flush(file.map.address, 8)
        file.put(1, 1)
        native.fence()
        file.put(2, 1)
    recording = recorder.recording
    by_line = seen(recording, 0, 1, 2, cell=LINE)
    assert (0, 1, 0) in by_line  # the fence had not come yet
    assert (0, 0, 1) not in by_line
    assert (1, 0, 1) in by_line  # what was stored after the flush is not covered
    assert (0, 0, 1) in seen(recording, 0, 1, 2)


def test_the_size_of_the_file_is_a_cell() -> None:
    fd = native.memfd_create("toy")
    native.pwrite(fd, b"a" * 512, 0)
    with Recorder(fd) as recorder:
        native.ftruncate(fd, 1024)
        native.pwrite(fd, b"b", 0)
        native.fdatasync(fd)
        native.ftruncate(fd, 512)
    os.close(fd)
    found = {
        (len(image), image[:1]) for _, image in images(CrashStates(recorder.recording, kinds=POWER))
    }
    assert found == {(512, b"a"), (512, b"b"), (1024, b"a"), (1024, b"b")}


def test_a_sync_of_a_range_makes_the_size_durable_that_it_needs() -> None:
    fd = native.memfd_create("toy")
    native.ftruncate(fd, PAGE)
    with Recorder(fd) as recorder, VMReservation(1 << 20) as reservation:
        native.ftruncate(fd, 2 * PAGE)
        part = Map.file(fd, reservation, 0, PAGE, PAGE)
        native.store(part.address, b"x")
        native.msync(part.address, PAGE)
        recorder.durable(1)
        part.close()
    os.close(fd)
    after = [
        len(image)
        for crash, image in images(CrashStates(recorder.recording, kinds=POWER))
        if crash.least == 1
    ]
    assert after == [2 * PAGE]


def test_written_bytes_count_like_stores() -> None:
    with toy() as (file, recorder):
        native.pwrite(file.fd, _U64.pack(1), 0)
        file.put(1, 1)
    assert seen(recorder.recording, 0, 1) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_hole_is_a_change_like_any_other() -> None:
    with toy() as (file, recorder):
        file.put(0, 1)
        file.sync()
        native.fallocate(file.fd, 0, PAGE, Allocate.PUNCH_HOLE)
        file.put(1, 1)
    assert seen(recorder.recording, 0, 1) >= {(1, 0), (0, 0), (1, 1), (0, 1)}


def test_stores_of_a_user_count() -> None:
    with toy() as (file, recorder):
        file.map.view[0] = 1
        file.put(1, 1)
    assert seen(recorder.recording, 0, 1) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_store_during_a_sync_is_not_covered_by_it() -> None:
    first = TapeEvent(TapeKind.STORE, 0, 1, 0, 1, 0, b"a")
    inside = TapeEvent(TapeKind.STORE, 512, 1, 0, 2, 1, b"b")
    sync = TapeEvent(TapeKind.SYNC_FILE, 0, 0, 0, 3, 1, b"")
    note = TapeEvent(TapeKind.NOTE, 0, 1, Note.DURABLE, 3, 3, b"")
    recording = Recording(bytes(1024), (first, inside, sync, note))
    after = {
        (image[:1], image[512:513])
        for crash, image in images(CrashStates(recording, kinds=POWER))
        if crash.least
    }
    assert after == {(b"a", b"\0"), (b"a", b"b")}


# ---------------------------------------------------------------- what a signal leaves


def test_a_long_store_is_torn_by_a_signal() -> None:
    with toy() as (file, recorder):
        file.put_bytes(0, b"x" * 40)
    found = {image[:40] for _, image in images(CrashStates(recorder.recording, kinds=KILL))}
    assert found == {bytes(40), b"x" * 16 + bytes(24), b"x" * 40}


def test_a_word_is_not_torn() -> None:
    with toy() as (file, recorder):
        file.put(0, 2**64 - 1)
    assert seen(recorder.recording, 0, kinds=KILL) == {(0,), (2**64 - 1,)}


# ---------------------------------------------------------------- what may be found


def test_notes_bound_what_may_be_found() -> None:
    with toy() as (file, recorder):
        for k in (1, 2):
            recorder.begin(k)
            file.put(0, k)
            recorder.returned(k)
        file.sync()
        recorder.durable(2)
    recording = recorder.recording
    kills = [recording.crash(e, Kind.KILL)[2:] for e in range(9)]
    powers = [recording.crash(e, Kind.POWER)[2:] for e in range(9)]
    assert kills == [(0, 0), (0, 1), (0, 1), (1, 1), (1, 2), (1, 2), (2, 2), (2, 2), (2, 2)]
    assert powers == [(0, 0), (0, 1), (0, 1), (0, 1), (0, 2), (0, 2), (0, 2), (0, 2), (2, 2)]


def counter_check(image: Image, crash: Crash) -> None:
    (k,) = words(image, 0)
    assert crash.least <= k <= crash.most


def test_a_file_is_checked_again_when_more_must_be_in_it() -> None:
    def run(*, sync: bool) -> Recording:
        with toy() as (file, recorder):
            recorder.begin(1)
            file.put(0, 1)
            if sync:
                file.sync()
            recorder.durable(1)
        return recorder.recording

    check_states(run(sync=True), counter_check).require(distinct=2)
    report = check_states(run(sync=False), counter_check)
    assert [failure.crash.event for failure in report.failures] == [3]


# ---------------------------------------------------------------- a log, right and wrong


LOG, HOME, HEAD = 0, 8, 16  # sectors, each in a page of its own


def write_log(file: Toy, recorder: Recorder, *, order: str) -> None:
    """Change two homes as one: payload to the log, head, homes; `order` names the syncs made."""
    for k in (1, 2):
        recorder.begin(k)
        file.put(LOG, k)
        if "l" in order:
            file.sync(0)
        file.put(HEAD, k)
        if "h" in order:
            file.sync(2)
        recorder.durable(k)
        file.put(HOME, k)
        file.put(HOME + 1, k)
        if "m" in order:
            file.sync(1)


def replay_log(image: Image) -> None:
    head, log, *_ = words(image, HEAD, LOG)
    for sector in (HOME, HOME + 1):
        os.pwrite(image.fd, _U64.pack(max(head, words(image, sector)[0])), sector * SECTOR)
    if head:
        assert log >= head, f"log {log} behind its head {head}"


def check_log(image: Image, crash: Crash) -> None:
    head, log = words(image, HEAD, LOG)
    assert log >= head, f"log of {head} expected, {log} found"
    replay_log(image)
    first, second = words(image, HOME, HOME + 1)
    assert first == second
    assert crash.least <= first <= crash.most


def log_recording(order: str) -> Recording:
    with toy(3) as (file, recorder):
        write_log(file, recorder, order=order)
    return recorder.recording


def test_a_log_in_order_survives() -> None:
    check_states(log_recording("lhm"), check_log).require(distinct=11, checked=15)


@pytest.mark.parametrize("order", ["hm", "lm"])
def test_a_log_that_leaves_a_sync_out_is_found(order: str) -> None:
    report = check_states(log_recording(order), check_log)
    assert report.failures
    with pytest.raises(AssertionError, match="power failure after event"):
        report.require()


def test_a_log_without_syncs_survives_signals() -> None:
    check_states(log_recording(""), check_log, kinds=KILL).require(distinct=9)


def test_a_failure_says_how_it_came_about() -> None:
    report = check_states(log_recording("hm"), check_log)
    text = str(report.failures[0])
    assert "power failure after event 3 of 16 (STORE at 0x2000, 8 bytes)" in text
    assert "cell at 0x0: value 1 of 2, from before the recording" in text
    assert "log of 1 expected, 0 found" in text
    assert "0 <= k <= 1" in text


# ---------------------------------------------------------------- product and samples


def many_sectors(count: int) -> Recording:
    with toy(8) as (file, recorder):
        for sector in range(count):
            file.put(sector, 1)
        file.put(0, 2)
    return recorder.recording


def test_the_product_is_exhausted() -> None:
    states = CrashStates(many_sectors(5), kinds=POWER)
    files = {image for _, image in images(states)}
    assert len(files) == 3 * 2**4 == states.distinct
    assert states.counts.sampled == 0


def test_a_sample_has_the_families() -> None:
    states = CrashStates(many_sectors(20), kinds=POWER, budget=200)
    found = {tuple(image[s * SECTOR] for s in range(20)) for _, image in images(states)}
    last = [2] + 19 * [1]
    old = 20 * [0]
    for sector in range(20):
        value = last[sector]
        assert (*last[:sector], 0, *last[sector + 1 :]) in found
        assert (*old[:sector], value, *old[sector + 1 :]) in found
        assert (*[1] * sector, *[0] * (20 - sector)) in found
        assert (2, *old[1 : sector + 1], *last[sector + 1 :]) in found
    assert {tuple(last), tuple(old)} <= found
    assert states.counts.sampled > 0
    assert states.counts.exhaustive > 0
    assert len(found) == states.distinct > 300


@pytest.mark.parametrize("budget", [0, 1, 2, 16])
def test_a_small_budget_is_kept(budget: int) -> None:
    """All old and all new are there in any case."""
    recording = many_sectors(30)
    states = CrashStates(recording, kinds=POWER, budget=budget)
    after = {image for crash, image in images(states) if crash.event == len(recording.events)}
    assert 1 <= len(after) <= max(2, budget)
    assert states.replay.image({}, states.replay.size) in after


def test_the_seed_decides_the_sample() -> None:
    recording = many_sectors(30)
    keys = [
        {state.key for state in CrashStates(recording, kinds=POWER, budget=100, seed=seed)}
        for seed in (1, 1, 2)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_keys_are_those_of_the_files() -> None:
    recording = many_sectors(14)
    states = CrashStates(recording, budget=100)
    by_key: dict[int, bytes] = {}
    for state in states:
        image = states.replay.image(state.changes, state.size)
        assert by_key.setdefault(state.key, image) == image
        assert states.replay.key_of(state.changes, state.size) == state.key
    assert len(set(by_key.values())) == len(by_key) == states.distinct


# ---------------------------------------------------------------- against a naive enumerator


SMALL = 4 * LINE

changes = st.one_of(
    st.tuples(
        st.just(TapeKind.STORE),
        st.integers(0, SMALL - 20),
        st.sampled_from([b"a", b"b" * 8, b"c" * 20, b"\0" * 9]),
    ),
    st.tuples(st.just(TapeKind.SYNC_RANGE), st.sampled_from([0, LINE, 2 * LINE]), st.just(b"")),
    st.tuples(st.just(TapeKind.SYNC_FILE), st.just(0), st.just(b"")),
    st.tuples(st.just(TapeKind.TRUNCATE), st.integers(1, SMALL + LINE), st.just(b"")),
    st.tuples(st.just(TapeKind.ALLOCATE), st.sampled_from([0, 30, LINE]), st.just(b"")),
)


def numbered(steps: list[tuple[TapeKind, int, bytes]]) -> Recording:
    """Return a recording with a note behind each step, so that nothing is taken for known."""
    events: list[TapeEvent] = []
    size = SMALL
    for number, (kind, value, data) in enumerate(steps):
        offset, length, detail = value, len(data), 0
        if kind == TapeKind.SYNC_RANGE:
            length = LINE
        elif kind == TapeKind.TRUNCATE:
            offset, length, size = 0, value, value
        elif kind == TapeKind.ALLOCATE:
            length, detail = LINE, Allocate.PUNCH_HOLE
        elif kind == TapeKind.STORE:
            length = min(length, size)
            offset = min(value, size - length)
        at = len(events)
        events.append(TapeEvent(kind, offset, length, detail, at, at, data[:length]))
        events.append(TapeEvent(TapeKind.NOTE, 0, number + 1, Note.BEGIN, at, at + 1, b""))
    return Recording(b"x" * SMALL, tuple(events))


def naive(recording: Recording) -> dict[int, set[bytes]]:
    """Return the files after each step: bytes and sizes of all moments since the last syncs."""
    files = [recording.base]
    found = {0: {recording.base}}
    size_from, cell_from = 0, dict.fromkeys(range(SMALL // LINE + 1), 0)
    needed: list[tuple[int, int]] = []  # (moment, least size older moments must have)
    for number, event in enumerate(recording.events[::2]):
        file = files[-1]
        if event.kind == TapeKind.STORE:
            file = file[: event.offset] + event.data + file[event.offset + event.length :]
        elif event.kind == TapeKind.TRUNCATE:
            file = file[: event.length].ljust(event.length, b"\0")
        elif event.kind == TapeKind.ALLOCATE:
            stop = min(event.offset + LINE, len(file))
            hole = bytes(max(stop - event.offset, 0))
            file = file[: event.offset] + hole + file[event.offset + len(hole) :]
        elif event.kind == TapeKind.SYNC_FILE:
            cell_from = dict.fromkeys(cell_from, number)
            size_from = number
        else:
            cell_from[event.offset // LINE] = number
            needed.append((number, min(event.offset + LINE, len(file))))
        files.append(file)
        sizes = {
            len(files[moment])
            for moment in range(size_from, number + 2)
            if all(len(files[moment]) >= least for when, least in needed if when > moment)
        }
        cells = [
            {
                files[moment].ljust(SMALL + LINE, b"\0")[cell * LINE : (cell + 1) * LINE]
                for moment in range(since, number + 2)
            }
            for cell, since in sorted(cell_from.items())
        ]
        found[number + 1] = {b"".join(mix)[:size] for mix in product(*cells) for size in sizes}
    return found


@given(st.lists(changes, max_size=7))
def test_states_are_those_of_a_naive_enumerator(
    steps: list[tuple[TapeKind, int, bytes]],
) -> None:
    recording = numbered(steps)
    states = CrashStates(recording, kinds=POWER, cell=LINE, budget=1 << 40)
    found: dict[int, set[bytes]] = {}
    for crash, image in images(states):
        if crash.event == 2 * crash.most:  # behind the note of the last step
            found.setdefault(crash.most, set()).add(image)
        else:
            found.setdefault(crash.most, set())
    expected = naive(recording)
    assert found == expected
    sampled = CrashStates(recording, kinds=POWER, cell=LINE, budget=12, seed=3)
    for crash, image in images(sampled):
        if crash.event == 2 * crash.most:
            assert image in expected[crash.most]


# ---------------------------------------------------------------- files, workers, recoveries


def test_an_image_is_right_whatever_was_done_to_it(tmp_path: Path) -> None:
    recording = many_sectors(12)
    for directory in (None, str(tmp_path)):
        states = CrashStates(recording, budget=64)
        with Image(states.replay, directory) as image:
            for number, state in enumerate(states):
                image.load(state)
                content = Path(image.path).read_bytes()
                assert content == states.replay.image(state.changes, state.size)
                os.pwrite(image.fd, b"scribble" * 100, number * 37)
                os.ftruncate(image.fd, (0, 100, 1 << 20)[number % 3])
    assert not list(tmp_path.iterdir())


def test_workers_share_the_states() -> None:
    recording = log_recording("lhm")
    one = check_states(recording, check_log)
    two = check_states(recording, check_log, workers=2)
    assert one == two


def test_workers_report_failures() -> None:
    report = check_states(log_recording("hm"), check_log, workers=2, stop_after=1)
    assert 1 <= len(report.failures) <= 2


def test_a_worker_that_dies_is_a_failure() -> None:
    def check(image: Image, _crash: Crash) -> None:
        if words(image, HEAD) == (2,):
            os._exit(7)

    report = check_states(log_recording("lhm"), check, workers=2)
    assert report.failures
    assert "died with exit code 7 while it checked this state" in report.failures[0].error
    assert "after event" in report.failures[0].description


def recoverer(recover: Callable[[Image], None]) -> Callable[[Image, Crash], None]:
    def check(image: Image, crash: Crash) -> None:
        recover(image)
        counter_check(image, crash)

    return check


def intent_recording() -> Recording:
    """Count in sector 0 by way of an intent in sector 8: the recovery carries it out."""
    with toy(2) as (file, recorder):
        for k in (1, 2):
            recorder.begin(k)
            file.put(8, k)
            file.sync(1)
            recorder.durable(k)
            file.put(0, k)
            file.sync(0)
    return recorder.recording


def test_a_sound_recovery_may_crash() -> None:
    def recover(image: Image) -> None:
        native.fdatasync(image.fd)
        (intent,) = words(image, 8)
        for sector in (0, 1):
            native.pwrite(image.fd, _U64.pack(intent), sector * SECTOR)
        native.fdatasync(image.fd)

    report = check_states(
        intent_recording(), recoverer(recover), recover=recover, recovery_share=1.0
    )
    report.require(recoveries=9, nested=9)
    assert report.nested["kill"]
    assert report.nested["power"]


def test_a_recovery_that_drops_the_intent_too_early_is_found() -> None:
    def recover(image: Image) -> None:
        intent, home = words(image, 8, 0)
        if intent > home:
            native.pwrite(image.fd, _U64.pack(0), 8 * SECTOR)
            native.pwrite(image.fd, _U64.pack(intent), 0)

    recording = intent_recording()
    check_states(recording, recoverer(recover)).require()
    report = check_states(
        recording, recoverer(recover), recover=recover, recovery_share=1.0, kinds=KILL
    )
    assert "then, in the recovery: signal after event 1" in report.failures[0].description


def test_power_may_fail_while_a_killed_process_is_recovered() -> None:
    """What the dead process stored is in memory, not on the medium: unless recovery syncs it."""

    def recording() -> Recording:
        with toy(2) as (file, recorder):
            recorder.begin(1)
            file.put(0, 1)
            file.put(1, 1)
            file.sync()
            recorder.durable(1)
        return recorder.recording

    def recover(image: Image, *, sync: bool) -> None:
        first, second = words(image, 0, 1)
        if sync:
            native.fdatasync(image.fd)
        if (first, second) == (1, 1):
            native.pwrite(image.fd, _U64.pack(1), 8 * SECTOR)  # acts on what it has seen

    def check(image: Image, _crash: Crash) -> None:
        first, second, acted = words(image, 0, 1, 8)
        assert not acted or (first, second) == (1, 1)

    def failures(*, sync: bool) -> int:
        report = check_states(
            recording(), check, recover=lambda image: recover(image, sync=sync), recovery_share=1.0
        )
        return len(report.failures)

    assert failures(sync=True) == 0
    assert failures(sync=False) > 0


def test_a_report_names_the_counter_that_is_too_small() -> None:
    report = check_states(log_recording("lhm"), check_log)
    with pytest.raises(AssertionError, match="recoveries: at least 1 expected, 0 found"):
        report.require(recoveries=1)
    assert "distinct files, checked" in str(report)


# ---------------------------------------------------------------- pytest and Hypothesis


def test_the_fixture_checks_and_counts(crash_simulator: CrashSimulator) -> None:
    with toy(3) as (file, recorder):
        write_log(file, recorder, order="lhm")
    crash_simulator.check(recorder.recording, check_log).require(distinct=11)
    with pytest.raises(AssertionError, match="then 2 expected"):
        crash_simulator.check(recorder.recording, lambda *_: pytest.fail("then 2 expected"))


def test_the_plugin_runs_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from pmemheap import native\n"
        "def test_it(crash_simulator, tmp_path):\n"
        "    (tmp_path / 'file').write_bytes(b'a')\n"
        "    with crash_simulator.record(tmp_path / 'file') as recorder:\n"
        "        (tmp_path / 'file').write_bytes(b'b')\n"
        "    crash_simulator.check(recorder.recording, lambda image, crash: None)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pmemheap.testing.plugin", "test_it.py"]
    root = str(Path(pmemheap.__file__).parents[1])
    run = subprocess.run(
        [*command, "--crash-workers=2", f"--basetemp={tmp_path / 'base'}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "crash simulation" in run.stdout
    assert "1 simulations: " in run.stdout


@given(st.data())
def test_drawn_crashes_are_among_those_enumerated(data: st.DataObject) -> None:
    recording = log_recording("m")
    known = {(crash.least, crash.most, image) for crash, image in images(CrashStates(recording))}
    drawn = data.draw(crashes(recording))
    assert (drawn.crash.least, drawn.crash.most, drawn.content) in known
    assert drawn.description.startswith(("signal", "power failure"))


def test_drawn_crashes_shrink_to_a_simple_one() -> None:
    def is_broken(file: CrashedFile) -> bool:
        return file.content[HEAD * SECTOR] == 2 and file.content[LOG * SECTOR] == 0

    found = find(crashes(log_recording("m")), is_broken)
    assert found.crash.kind == Kind.POWER
    assert found.description.count("cell at") == 1
