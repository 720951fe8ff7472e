"""Mending is ended in the middle, by signals and power failures at each of its writes.

What is left is the damaged file, the mended one, or one that says that it is under repair: then the
repair can be taken back, byte for byte, and done again.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from damages import DAMAGES
from wreck import Blocks, Wreck, contents, look, opened

from pmemheap import Heap, native
from pmemheap.cli import main
from pmemheap.cli.exits import ExitCode
from pmemheap.errors import CorruptHeapError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.file import naming
from pmemheap.file.naming import give_name
from pmemheap.offline import Disk, FindingKind
from pmemheap.offline.backups import unfinished
from pmemheap.repair import repair, undo
from pmemheap.salvage import salvage
from pmemheap.testing import (
    SECTOR,
    CrashStates,
    Image,
    Recorder,
    Recording,
    State,
    copy_as_crashed,
    kill_at,
)
from pmemheap.testing.cells import Replay
from pmemheap.testing.report import describe

EACH = 5
"""One of so many states is repaired again; all are taken back."""

Content = tuple[dict[str, int], Blocks]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory: each state is synced many times."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="mending-", dir=where))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def made(place: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Wreck:
    return damaged_by(request.param, tmp_path, place)


def damaged_by(name: str, source: Path, place: Path) -> Wreck:
    made = DAMAGES[name](source)
    made.path = Path(shutil.move(made.path, place / "heap"))
    return made


all_damages = pytest.mark.parametrize("made", DAMAGES, indirect=True)


def content(path: Path) -> Content:
    """Open a sound heap, in a copy: the file stays as it is."""
    copy = path.with_name("copy")
    copy_as_crashed(path, copy)
    with opened(copy) as heap:
        return dict(heap.roots), contents(heap)


def is_under_repair(path: Path) -> bool:
    with path.open("rb") as file:
        return unfinished(Disk(file.fileno())) is not None


def recorded(path: Path, program: Callable[[], object]) -> Recording:
    with Recorder(path) as recorder:
        program()
    return recorder.recording


def each_state(
    recording: Recording, directory: Path
) -> Iterator[tuple[int, Image, State, CrashStates]]:
    states = CrashStates(recording, budget=5)
    with Image(states.replay, str(directory)) as image:
        for number, state in enumerate(states):
            image.load(state)
            yield number, image, state, states


@pytest.mark.slow
@all_damages
def test_a_repair_that_is_ended_leaves_what_can_be_repaired(made: Wreck, place: Path) -> None:
    damaged = made.path.read_bytes()
    done = []
    recording = recorded(made.path, lambda: done.append(repair(made.path)))
    ((plan, backup),) = done
    assert plan.succeeds
    assert backup is not None
    wanted = content(made.path)
    marked = 0
    for number, image, state, states in each_state(recording, backup.parent):
        path = Path(image.path)
        try:
            if is_under_repair(path):
                marked += 1
                with pytest.raises(CorruptHeapError, match="under repair"):
                    Heap.open(path)
                assert look(path).findings.has(FindingKind.UNDER_REPAIR)
                if number % EACH:
                    undo(path, backup)
                    assert path.read_bytes() == damaged
            again, other = repair(path)
            assert again.succeeds
            assert content(path) == wanted
            if other is not None:
                other.unlink()
        except Exception as error:
            error.add_note(describe(states.replay, state))
            raise
    assert marked
    assert not is_under_repair(made.path)


@pytest.mark.slow
@all_damages
def test_an_undo_that_is_ended_can_be_done_again(made: Wreck) -> None:
    damaged = made.path.read_bytes()
    _, backup = repair(made.path)
    assert backup is not None
    wanted, repaired = content(made.path), made.path.read_bytes()
    recording = recorded(made.path, lambda: undo(made.path, backup))
    assert made.path.read_bytes() == damaged
    marked = 0
    for number, image, state, states in each_state(recording, backup.parent):
        path = Path(image.path)
        try:
            if is_under_repair(path):
                marked += 1
                if number % EACH:
                    undo(path, backup)
                    assert path.read_bytes() == damaged
            again, other = repair(path)
            assert again.succeeds
            assert content(path) == wanted
            if other is not None:
                other.unlink()
        except Exception as error:
            error.add_note(describe(states.replay, state))
            raise
    assert marked
    assert repaired != damaged


@pytest.mark.slow
@pytest.mark.parametrize("made", ["log-not-applied-and-a-root"], indirect=True)
def test_a_repair_that_is_killed_for_real(made: Wreck, place: Path) -> None:
    damaged, path = made.path.read_bytes(), place / "heap"
    path.write_bytes(damaged)
    repair(path)
    wanted = content(path)
    for step in range(1, 100):
        for left in place.glob("heap*"):
            left.unlink()
        path.write_bytes(damaged)
        if not kill_at(step, path, lambda: repair(path)):
            break
        backups = [*place.glob("heap.repair-*.undo")]
        assert len(backups) == (step > 1)  # the first step is a sync
        if step % 2 and backups:
            undo(path, backups[0])
            assert path.read_bytes() == damaged
        assert repair(path)[0].succeeds
        assert content(path) == wanted
    assert 8 < step < 99


# ------------------------------------------------------------------------------------ what refuses


@pytest.fixture
def broken(place: Path, tmp_path: Path) -> Wreck:
    return damaged_by("root-slot", tmp_path, place)


def left_under_repair(made: Wreck) -> Path:
    """Let a repair be ended after its mark; return its backup."""
    assert kill_at(3, made.path, lambda: repair(made.path))
    assert is_under_repair(made.path)
    (backup,) = made.path.parent.glob("*.undo")
    return backup


def test_every_tool_says_that_a_file_is_under_repair(
    broken: Wreck, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = left_under_repair(broken)
    path = str(broken.path)
    for arguments in (["info", path], ["check", path], ["repair", path], ["dump", path]):
        main(arguments)
        printed = "".join(capsys.readouterr())
        assert backup.name in printed or arguments[0] in {"repair", "dump"}, arguments
    assert main(["repair", path, "--apply"]) == 0
    printed = capsys.readouterr().out
    assert "put back" in printed
    assert "lost: root 'root 0'" in printed
    assert main(["check", path]) == 0


def test_salvage_reads_what_was_before_a_repair(broken: Wreck, place: Path) -> None:
    left_under_repair(broken)
    out = place / "out"
    main(["salvage", str(broken.path), str(out)])
    with opened(out) as heap:
        assert len(heap.roots) == len(broken.blocks)  # one is lost, the map is one


def test_without_its_backup_a_file_under_repair_stays_as_it_is(broken: Wreck) -> None:
    backup = left_under_repair(broken)
    before, elsewhere = broken.path.read_bytes(), backup.with_name("elsewhere")
    backup.rename(elsewhere)
    done, other = repair(broken.path)
    assert (done.steps, other) == ([], None)
    assert backup.name in str(done.remaining[0].meaning)
    assert broken.path.read_bytes() == before
    assert main(["repair", str(broken.path), "--undo", str(elsewhere)]) == 0
    assert repair(broken.path)[0].succeeds


def test_a_repair_is_found_through_a_symbolic_link(broken: Wreck, place: Path) -> None:
    link = place / "link"
    link.symlink_to(broken.path)
    assert kill_at(3, broken.path, lambda: repair(link))
    done, backup = repair(link)
    assert done.succeeds
    assert backup is not None
    assert backup.parent == broken.path.parent


def test_what_was_written_since_a_repair_is_not_undone(broken: Wreck) -> None:
    _, backup = repair(broken.path)
    assert backup is not None
    with Heap.open(broken.path) as heap:
        heap.roots["later"] = heap.malloc(100)
    after = broken.path.read_bytes()
    with pytest.raises(UsageError, match="written to since"):
        undo(broken.path, backup)
    assert main(["repair", str(broken.path), "--undo", str(backup)]) == ExitCode.USAGE
    assert broken.path.read_bytes() == after


def test_the_backup_of_another_heap_is_refused(broken: Wreck, place: Path) -> None:
    _, backup = repair(broken.path)
    assert backup is not None
    other = place / "other"
    with Heap.create(other, durability="process") as heap:
        heap.malloc(100)
    before = other.read_bytes()
    with pytest.raises(UsageError, match="of another"):
        undo(other, backup)
    assert other.read_bytes() == before


def test_an_undo_that_was_done_is_done(broken: Wreck) -> None:
    damaged = broken.path.read_bytes()
    _, backup = repair(broken.path)
    assert backup is not None
    assert undo(broken.path, backup) == undo(broken.path, backup)
    assert broken.path.read_bytes() == damaged


def test_a_long_name_leaves_room_for_its_backup(broken: Wreck) -> None:
    path = broken.path.rename(broken.path.with_name("n" * 250))
    _, backup = repair(path)
    assert backup is not None
    assert len(backup.name) <= 255


@pytest.mark.slow
@pytest.mark.parametrize("number", [28, 5])  # ENOSPC, EIO
def test_a_refused_call_leaves_what_can_be_repaired(
    broken: Wreck, place: Path, number: int
) -> None:
    damaged = broken.path.read_bytes()
    repair(broken.path)
    wanted = content(broken.path)
    for nth in range(1, 200):
        for left in broken.path.parent.glob("*.undo"):
            left.unlink()
        broken.path.write_bytes(damaged)
        try:
            with native.faults(nth, number) as fault:
                repair(broken.path)
        except (OutOfSpaceError, OSError) as error:
            assert str(broken.path) in str(error) or "backup" in str(error)  # noqa: PT017
        if fault.hit == native.Call.NONE:
            break
        assert not list(broken.path.parent.glob(".*")), "what was temporary is gone"
        assert repair(broken.path)[0].succeeds
        assert content(broken.path) == wanted
    assert nth > 10


# ------------------------------------------------------------------------------------ salvage


@pytest.mark.slow
@pytest.mark.parametrize("made", ["segment-slot-and-a-log", "another-boot"], indirect=True)
def test_a_salvage_that_is_killed_leaves_no_heap(made: Wreck, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for killed_at in ("made", "copied", "named", None):
        assert not out.exists()
        child = os.fork()
        if child == 0:
            try:
                salvage_to_the_death(made.path, out, killed_at)
            finally:
                os._exit(0)
        assert (os.waitpid(child, 0)[1] != 0) == (killed_at is not None)
        if killed_at in {"made", "copied"}:
            assert all(left.name.startswith(".out.") for left in tmp_path.glob("*out*"))
        else:
            assert set(content(out)[0]) > {"root 1"}
            out.unlink()


def salvage_to_the_death(path: Path, out: Path, killed_at: str | None) -> None:
    """Salvage, and be killed at some place."""

    def dying_at(place: str) -> None:
        if killed_at == place:
            os.kill(os.getpid(), signal.SIGKILL)

    def naming_at_last(*arguments: Any, **options: Any) -> None:
        dying_at("copied")
        give_name(*arguments, **options)
        dying_at("named")

    begun: list[int] = []

    def progress(done: int, total: int) -> None:
        if done == 0:
            begun.append(total)
        elif len(begun) == 2 and done < total:  # it copies
            dying_at("made")

    with mock.patch.object(naming, "give_name", naming_at_last):
        salvage(path, out, progress=progress)


@all_damages
def test_a_salvaged_heap_is_durable_before_it_has_its_name(
    made: Wreck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorders, unsynced = [], []
    create = Heap.create

    def recording(path: Path, **options: Any) -> Heap:
        heap = create(path, **options)
        recorders.append(Recorder(path))
        recorders[0].__enter__()
        return heap

    def name(what: str, temporary: Path, path: Path, *, replace_file: bool) -> None:
        recorders[0].__exit__(None, None, None)
        replay = Replay(recorders[0].recording, SECTOR)
        for _ in replay.recording.events:
            replay.advance()
        unsynced.append((len(replay.recording.events), replay.history, len(replay.sizes)))
        give_name(what, temporary, path, replace_file=replace_file)

    monkeypatch.setattr(Heap, "create", recording)
    monkeypatch.setattr(naming, "give_name", name)
    salvage(made.path, tmp_path / "out", durability="power")
    ((events, history, sizes),) = unsynced
    assert events > 10
    assert (history, sizes) == ({}, 1)


def test_a_salvage_that_fails_leaves_nothing_beside_its_name(broken: Wreck, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    out.parent.mkdir()
    for number in range(20, 400, 35):
        with native.faults(number, errno.ENOSPC) as fault, suppress(PmemHeapError):
            salvage(broken.path, out)
        if fault.hit == native.Call.NONE:
            break
        if out.exists():  # a refusal that it could do without
            assert content(out)[0]
            out.unlink()
        assert [left for left in os.listdir(out.parent) if left != "copy"] == []
