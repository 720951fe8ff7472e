"""Copies of heap files by what knows nothing of heaps: taken of a heap in use, they are refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from wreck import look

import pmemheap
from pmemheap import CorruptHeapError, DurabilityName, Heap
from pmemheap.cli import main
from pmemheap.file import identity
from pmemheap.format.header import read_superblock
from pmemheap.layout import FileIdentity, HeapState
from pmemheap.repair import repair
from pmemheap.salvage import salvage
from pmemheap.testing import copy_as_crashed

DURABILITIES = ["process", "power"]
REFUSED = r"a copy of it, .*`heap\.snapshot\(\)` copies a heap that is open"


def in_use(path: Path, durability: DurabilityName = "process") -> Heap:
    """Return a heap that has changed since it was opened."""
    heap = Heap.create(path, durability=durability, decay=None)
    heap.roots["kept"] = heap.malloc(100)
    return heap


def left_in_use(path: Path, durability: DurabilityName) -> None:
    """Make a heap whose process ends without a close."""
    child = os.fork()
    if child == 0:
        heap = in_use(path, durability)
        os.kill(os.getpid(), signal.SIGKILL)
        heap.close()
    os.waitpid(child, 0)


def preserving(source: Path, to: Path) -> None:
    shutil.copy2(source, to)


def by_command(source: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", source, to], check=True)


def over_another_heap(source: Path, to: Path) -> None:
    in_use(to).close()
    shutil.copyfile(source, to)


def to_memory(source: Path, to: Path) -> None:
    fd = os.memfd_create("copy")
    os.write(fd, source.read_bytes())
    to.symlink_to(f"/proc/self/fd/{fd}")


def then_moved(source: Path, to: Path) -> None:
    shutil.copyfile(source, to.with_name("first"))
    to.with_name("first").rename(to)


WAYS = [shutil.copyfile, preserving, by_command, over_another_heap, to_memory, then_moved]
OPENINGS: list[Callable[[Path], object]] = [
    Heap.open,
    lambda path: Heap.open(path, readonly=True),
    lambda path: pmemheap.open(path, "r"),
    lambda path: pmemheap.open(path, "c"),
    lambda path: Heap.attach(os.open(path, os.O_RDONLY)),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("durability", DURABILITIES)
def test_copy_of_heap_in_use_is_refused(
    durability: DurabilityName, way: Callable[[Path, Path], object], tmp_path: Path
) -> None:
    path, copy = tmp_path / "heap", tmp_path / "copy"
    with in_use(path, durability) as heap:
        way(path, copy)
        image = copy.read_bytes()
        for opening in OPENINGS:
            with pytest.raises(CorruptHeapError, match=REFUSED):
                opening(copy)
        assert copy.read_bytes() == image
        heap.roots["later"] = heap.malloc(100)
    with pytest.raises(CorruptHeapError, match=REFUSED):
        Heap.open(copy)
    with Heap.open(path) as heap:
        assert set(heap.roots) == {"kept", "later"}


@pytest.mark.parametrize("durability", DURABILITIES)
def test_copy_of_heap_whose_process_was_killed_is_refused(
    durability: DurabilityName, tmp_path: Path
) -> None:
    """Nobody can tell whether it was made before the kill. What was killed itself opens."""
    path, copy = tmp_path / "heap", tmp_path / "copy"
    left_in_use(path, durability)
    shutil.copyfile(path, copy)
    with pytest.raises(CorruptHeapError, match=REFUSED):
        Heap.open(copy)
    with Heap.open(path) as heap:
        assert set(heap.roots) == {"kept"}


def test_what_a_killed_process_left_of_a_power_heap_may_be_read_in_a_copy(tmp_path: Path) -> None:
    """Of a disk that failed, or on a medium that cannot be written to; it is not silent."""
    path, copy, out = (tmp_path / name for name in ("heap", "copy", "out"))
    left_in_use(path, "power")
    shutil.copyfile(path, copy)
    image = copy.read_bytes()
    with pytest.warns(UserWarning, match=REFUSED):
        heap = Heap.open(copy, readonly=True)
    with heap:
        assert set(heap.roots) == {"kept"}
        assert heap.check()
        heap.snapshot(out)
    assert copy.read_bytes() == image
    found = look(copy)
    assert found.is_sound
    assert [finding.kind for finding in found.findings.kept] == ["copy of a heap in use"]
    with Heap.open(out) as heap:
        assert set(heap.roots) == {"kept"}
    assert repair(copy)[0].succeeds
    with Heap.open(copy) as heap:
        assert set(heap.roots) == {"kept"}


def test_what_a_killed_process_left_of_a_process_heap_is_not_read_in_a_copy(
    tmp_path: Path,
) -> None:
    path, copy = tmp_path / "heap", tmp_path / "copy"
    left_in_use(path, "process")
    shutil.copyfile(path, copy)
    with pytest.raises(CorruptHeapError, match=REFUSED):
        Heap.open(copy, readonly=True)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_copy_of_reopened_heap_is_refused_from_its_first_change(
    durability: DurabilityName, tmp_path: Path
) -> None:
    path, copy = tmp_path / "heap", tmp_path / "copy"
    in_use(path, durability).close()
    with Heap.open(path, decay=None) as heap:
        assert set(heap.roots) == {"kept"}
        shutil.copyfile(path, copy)
        Heap.open(copy).close()
        heap.roots["later"] = heap.malloc(100)
        shutil.copyfile(path, copy)
        with pytest.raises(CorruptHeapError, match=REFUSED):
            Heap.open(copy)


def test_copy_of_heap_that_is_as_good_as_closed_is_refused_while_it_is_open(tmp_path: Path) -> None:
    """Else one that begins before the next change and ends after it would open."""
    path, copy = tmp_path / "heap", tmp_path / "copy"
    with in_use(path) as heap:
        heap.sync()
        with path.open("rb") as file:
            assert read_superblock(file.read(4096 * 3))[0].state == HeapState.CLEAN
        shutil.copyfile(path, copy)
        with pytest.raises(CorruptHeapError, match=REFUSED):
            Heap.open(copy)
        shutil.copyfile(path, copy)
    assert [finding.kind for finding in look(copy).findings.kept] == ["copy of a heap in use"]
    assert repair(copy)[0].succeeds
    Heap.open(copy).close()
    shutil.copyfile(path, copy)
    Heap.open(copy).close()


@pytest.mark.parametrize("durability", DURABILITIES)
def test_heap_that_was_killed_behind_a_sync_is_closed_by_the_next_close(
    durability: DurabilityName, tmp_path: Path
) -> None:
    path, copy = tmp_path / "heap", tmp_path / "copy"
    child = os.fork()
    if child == 0:
        heap = in_use(path, durability)
        heap.sync()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with Heap.open(path, decay=None) as heap:
        assert set(heap.roots) == {"kept"}
    shutil.copyfile(path, copy)
    with Heap.open(copy) as heap:
        assert set(heap.roots) == {"kept"}


def test_copy_of_heap_that_the_end_of_the_program_has_closed_opens(tmp_path: Path) -> None:
    script = (
        "import sys; from pmemheap import Heap\n"
        "heap = Heap.create(sys.argv[1], durability='process')\n"
        "heap.roots['kept'] = heap.malloc(100)\n"
        "if sys.argv[2] == 'synced': heap.sync()\n"
    )
    for how in ("synced", "changed"):
        subprocess.run([sys.executable, "-c", script, tmp_path / how, how], check=True)
        shutil.copyfile(tmp_path / how, tmp_path / "copy")
        with Heap.open(tmp_path / "copy") as heap:
            assert set(heap.roots) == {"kept"}


@pytest.mark.parametrize("durability", DURABILITIES)
def test_moved_file_is_the_same_file(durability: DurabilityName, tmp_path: Path) -> None:
    """Under whatever name, also a second one."""
    path, moved, linked = tmp_path / "heap", tmp_path / "moved", tmp_path / "linked"
    left_in_use(path, durability)
    path.rename(moved)
    linked.hardlink_to(moved)
    for name in (moved, linked):
        with Heap.open(name, readonly=True) as heap:
            assert set(heap.roots) == {"kept"}
    with Heap.open(linked) as heap:
        heap.roots["later"] = heap.malloc(100)
        linked.unlink()
        moved.rename(path)
    with Heap.open(path) as heap:
        assert set(heap.roots) == {"kept", "later"}


@pytest.mark.parametrize("durability", DURABILITIES)
def test_copy_of_closed_heap_opens(durability: DurabilityName, tmp_path: Path) -> None:
    path, copy = tmp_path / "heap", tmp_path / "copy"
    in_use(path, durability).close()
    shutil.copyfile(path, copy)
    with Heap.open(copy, decay=None) as heap:
        heap.roots["later"] = heap.malloc(100)
        shutil.copyfile(copy, path)
        with pytest.raises(CorruptHeapError, match=REFUSED):
            Heap.open(path)
    shutil.copyfile(copy, path)  # restored over what was there
    with Heap.open(path) as heap:
        assert set(heap.roots) == {"kept", "later"}


@pytest.mark.parametrize("durability", DURABILITIES)
def test_file_made_in_place_of_another_is_itself(
    durability: DurabilityName, tmp_path: Path
) -> None:
    path, copy = tmp_path / "heap", tmp_path / "copy"
    with in_use(path, durability) as heap:
        shutil.copyfile(path, copy)
        heap.snapshot(copy, replace=True)
        with Heap.open(copy) as copied:
            assert set(copied.roots) == {"kept"}
        shutil.copyfile(path, copy)
    child = os.fork()
    if child == 0:
        made = Heap.create(copy, durability=durability, replace=True)
        made.roots["new"] = made.malloc(100)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with Heap.open(copy) as heap:
        assert set(heap.roots) == {"new"}


@pytest.mark.parametrize("durability", DURABILITIES)
def test_copy_is_taken_as_it_is_by_repair_and_salvage(
    durability: DurabilityName, tmp_path: Path
) -> None:
    """Somebody who knows that nobody changed the heap meanwhile can have it."""
    path, copy, saved = tmp_path / "heap", tmp_path / "copy", tmp_path / "saved"
    with in_use(path, durability):
        shutil.copyfile(path, copy)
    assert [finding.kind for finding in look(copy).findings.kept] == ["copy of a heap in use"]
    salvage(copy, saved)
    plan, backup = repair(copy)
    assert plan.succeeds
    assert backup is not None
    assert not look(copy).findings.kept
    shutil.copyfile(copy, tmp_path / "copy of it")
    for mended in (copy, saved, tmp_path / "copy of it"):
        with Heap.open(mended) as heap:
            assert "kept" in heap.roots
            assert heap.check()


def test_command_line_says_how_a_copy_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, copy = tmp_path / "heap", tmp_path / "copy"
    left_in_use(path, "power")
    for source, opens in ((path, "yes"), (copy, "read-only")):
        if source == copy:
            shutil.copyfile(path, copy)
        assert main(["check", "--json", str(source)]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["sound"], facts["opens"]) == (True, opens)
        told = " ".join(facts["meaning"])
        assert ("`pmemheap repair --apply` takes it" in told) == (source == copy)
        assert ("opening it replays" in told) == (source == path)
    assert main(["info", str(copy)]) == 0
    told = capsys.readouterr().err
    assert told.startswith("pmemheap: warning: heap file")
    assert told.count("\n") == 1
    assert main(["trim", str(copy)]) != 0
    assert "`pmemheap repair --apply` takes the copy" in capsys.readouterr().err
    assert main(["repair", "--apply", str(copy)]) == 0
    capsys.readouterr()
    assert main(["check", "--json", str(copy)]) == 0
    assert json.loads(capsys.readouterr().out)["opens"] == "yes"
    with in_use(tmp_path / "open"):
        shutil.copyfile(tmp_path / "open", copy)
        assert main(["check", "--json", str(copy)]) != 0
        assert json.loads(capsys.readouterr().out)["opens"] == "unknown"


@pytest.mark.slow
def test_command_line_names_what_copies_an_open_heap(tmp_path: Path) -> None:
    path, copy = tmp_path / "heap", tmp_path / "copy"
    with in_use(path):
        shutil.copyfile(path, copy)
    for command in ("check", "info"):
        words = [sys.executable, "-m", "pmemheap", command, str(copy)]
        end = subprocess.run(words, capture_output=True, text=True, check=False)
        assert end.returncode, command
        assert "heap.snapshot()" in " ".join((end.stdout + end.stderr).split()), command


def test_copy_opens_as_crashed_for_tests(tmp_path: Path) -> None:
    with in_use(tmp_path / "heap"):
        copy_as_crashed(tmp_path / "heap", tmp_path / "copy")
        with Heap.open(tmp_path / "copy") as heap:
            assert set(heap.roots) == {"kept"}


@pytest.mark.parametrize(
    ("other", "same_boot", "may_be"),
    [
        (FileIdentity(5, 6, 7), True, True),
        (FileIdentity(5, 6, 8), True, True),  # mounted again
        (FileIdentity(5, 6, 8), False, True),
        (FileIdentity(4, 6, 7), False, False),
        (FileIdentity(5, 9, 7), True, False),  # copied within a tick of the clock
        (FileIdentity(5, 9, 7), False, False),
        (FileIdentity(0, 6, 7), True, True),
        (FileIdentity(0, 9, 7), True, False),
        (FileIdentity(0, 6, 8), True, False),
        (FileIdentity(0, 9, 7), False, True),  # a file system that may number its files anew
        (FileIdentity(), True, True),
    ],
)
def test_what_is_known_of_a_file_tells_it_from_others(
    other: FileIdentity, same_boot: bool, may_be: bool
) -> None:
    assert FileIdentity(5, 6, 7).may_be(other, same_boot=same_boot) == may_be
    assert other.may_be(FileIdentity(5, 6, 7), same_boot=same_boot) == may_be


def test_copy_of_power_heap_is_told_after_another_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy = tmp_path / "heap", tmp_path / "copy"
    left_in_use(path, "power")
    shutil.copyfile(path, copy)
    monkeypatch.setattr(identity, "boot_id", lambda: b"another boot id!")
    with path.open("rb") as file:
        if not identity.file_identity(file.fileno()).birth:
            pytest.skip("a file system that does not keep when a file was made")
    with pytest.raises(CorruptHeapError, match=REFUSED):
        Heap.open(copy)
    Heap.open(path).close()


@pytest.mark.parametrize("durability", DURABILITIES)
def test_inode_and_device_tell_where_no_times_are_kept(
    durability: DurabilityName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        identity, "identity_of", lambda status: FileIdentity(0, status.inode, status.device)
    )
    with in_use(tmp_path / "heap", durability):
        shutil.copyfile(tmp_path / "heap", tmp_path / "copy")
    with pytest.raises(CorruptHeapError, match=REFUSED):
        Heap.open(tmp_path / "copy")
