"""Names of files: taken as `open` takes them, and no new file over one that somebody has open."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from heap_world import python
from typer.testing import CliRunner

import pmemheap
from pmemheap import DurabilityName, Heap
from pmemheap.errors import HeapBusyError, HeapExistsError, HeapFileError, HeapNotFoundError
from pmemheap.file import locks, openfile, snapshotting
from pmemheap.kvstore.cli import app
from pmemheap.kvstore.store import KVStore
from pmemheap.layout import Durability
from pmemheap.repair import repair, undo
from pmemheap.salvage import salvage

Name = Any


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(name: Name, root: str = "mine") -> None:
    """Make a heap, and close it."""
    with Heap.create(name, durability="process") as heap:
        heap.roots[root] = heap.malloc(100)


def roots(name: Name) -> set[str]:
    with Heap.open(name) as heap:
        return set(heap.roots)


# ---------------------------------------------------------------- who has it open


def written_here() -> Heap:
    return Heap.open("heap")


def changed_here() -> Heap:
    heap = Heap.open("heap")
    heap.roots["mine"] = heap.malloc(100)
    return heap


def read_here() -> Heap:
    return Heap.open("heap", readonly=True)


@contextmanager
def attached_to_a_file() -> Iterator[None]:
    fd = os.open("heap", os.O_RDONLY)
    with Heap.attach(fd):
        os.close(fd)
        yield


@contextmanager
def elsewhere(readonly: bool) -> Iterator[None]:
    child = python(
        f"""
import sys
from pmemheap import Heap
heap = Heap.open("heap", readonly={readonly})
print("open", flush=True)
sys.stdin.read()
"""
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "open"
    yield
    child.communicate(timeout=60)


USERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "writer": written_here,
    "writer with changes": changed_here,
    "reader": read_here,
    "attached reader": attached_to_a_file,
    "writer in another process": lambda: elsewhere(False),
    "reader in another process": lambda: elsewhere(True),
}


def onto(name: Name, how: str) -> None:
    """Put a new file, or other bytes, over an old one."""
    if how == "create":
        Heap.create(name, replace=True)
    elif how == "flag n":
        pmemheap.open(name, "n")
    elif how == "store, flag n":
        KVStore(name, "process", flag="n")
    elif how == "repair":
        repair(name)
    elif how == "undo":
        undo(name, "undo")
    else:
        with Heap.create("source", durability="process", replace=True) as source:
            source.roots["other"] = source.malloc(100)
            source.snapshot(name, replace=True)


WAYS = ["create", "flag n", "store, flag n", "repair", "undo", "snapshot"]


def an_undo_file() -> None:
    """Leave the backup of a repair of a heap of its own."""
    made("damaged")
    with open("damaged", "r+b") as file:
        file.seek(4096)
        file.write(bytes(64))
    _, backup = repair("damaged")
    assert backup is not None
    backup.rename("undo")
    os.unlink("damaged")


@pytest.mark.parametrize("user", USERS)
def test_nothing_takes_the_place_of_a_heap_that_is_open(user: str, directory: Path) -> None:
    made("heap")
    an_undo_file()
    names = sorted(os.listdir())
    with USERS[user]():
        inode = os.stat("heap").st_ino
        for way in WAYS:
            with pytest.raises(HeapBusyError, match="open") as raised:
                onto("heap", way)
            assert raised.value.filename == "heap"
            assert raised.value.errno == errno.EAGAIN
        assert os.stat("heap").st_ino == inode
    assert sorted({*os.listdir()} - {"source"}) == names
    assert roots("heap") == {"mine"}
    onto("heap", "snapshot")
    assert roots("heap") == {"other"}


@pytest.mark.parametrize("durability", ["process", "power"])
def test_heap_is_not_copied_onto_itself(durability: DurabilityName) -> None:
    with Heap.create("heap", durability=durability) as heap:
        heap.roots["mine"] = heap.malloc(100)
        os.link("heap", "second")
        for name in ("heap", "second"):
            with pytest.raises(HeapBusyError, match=f"process {os.getpid()} has it open"):
                heap.snapshot(name, replace=True)
        heap.roots["later"] = heap.malloc(100)
    assert roots("heap") == {"mine", "later"}


class Named:
    """An `os.PathLike` of bytes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __fspath__(self) -> bytes:
        return self.name.encode()


def other_names(directory: Path) -> list[Name]:
    """Return names that lead to the heap, from a directory below."""
    os.mkdir("below")
    os.symlink("heap", "link")
    os.symlink(directory / "link", "below/chain")
    os.symlink(".", "again")
    os.link("heap", "below/hard")
    os.chdir("below")
    return [
        "../heap", "..//./heap", b"../heap", Path("../heap"), Named("../heap"), "chain", "hard",
        "../link", "../again/heap", str(directory / "heap"), os.fsencode(directory / "again/link"),
        "/proc/self/cwd/../heap",
    ]  # fmt: skip


def test_every_name_of_a_heap_that_is_open_is_seen_through(directory: Path) -> None:
    made("heap")
    with Heap.open("heap"), Heap.create("source", durability="process") as source:
        for name in other_names(directory):
            with pytest.raises(HeapBusyError):
                Heap.create(name, replace=True)
            with pytest.raises(HeapBusyError):
                source.snapshot(name, replace=True)
            with pytest.raises(HeapBusyError):
                Heap.open(name)
    assert os.readlink("../link") == "heap"
    assert roots("chain") == {"mine"}


def test_heap_is_opened_by_whatever_open_takes(directory: Path) -> None:
    made("heap")
    for name in other_names(directory):
        assert roots(name) == {"mine"}
        with pmemheap.open(name, "c") as heap:
            assert not heap.readonly


@pytest.mark.parametrize("name", ["heap/", "heap/.", "none/", "below/", "./", "/"])
def test_name_of_a_directory_is_no_name_of_a_file(name: str) -> None:
    made("heap")
    os.mkdir("below")
    before = sorted(os.listdir())
    with Heap.open("heap") as heap:
        calls: list[Callable[[Name], object]] = [
            Heap.create, Heap.open, lambda name: Heap.create(name, replace=True),
            lambda name: pmemheap.open(name, "c"), lambda name: pmemheap.open(name, "n"),
            heap.snapshot, lambda name: heap.snapshot(name, replace=True),
            lambda name: salvage("heap", name), repair, lambda name: undo("heap", name),
            lambda name: KVStore(name, "process"),
        ]  # fmt: skip
        for call in calls:
            for each in (name, name.encode()):
                with pytest.raises(HeapFileError) as raised:
                    call(each)
                assert raised.value.errno in {errno.ENOTDIR, errno.EISDIR, errno.ENOENT}
    assert sorted(os.listdir()) == before


def test_empty_name_is_not_found() -> None:
    for call in (Heap.open, Heap.create, pmemheap.open):
        with pytest.raises(HeapNotFoundError):
            call("")


def test_what_is_no_name_is_a_type_error() -> None:
    for call in (Heap.open, Heap.create, pmemheap.open):
        for name in (3, None, 1.5):
            with pytest.raises(TypeError):
                call(name)  # type: ignore[arg-type]


# ---------------------------------------------------------------- symbolic links


def test_link_to_a_file_stays_and_the_file_is_replaced() -> None:
    made("target")
    os.symlink("target", "link")
    for way in ("create", "flag n", "snapshot", "store, flag n"):
        onto("link", way)
        assert os.readlink("link") == "target"
        assert roots("link") == roots("target") != {"mine"}


def test_file_is_made_where_a_link_leads() -> None:
    os.mkdir("below")
    os.symlink("below/target", "link")
    for way in ("create", "flag n", "snapshot", "store, flag n", "flag c", "store, flag c"):
        if way == "flag c":
            pmemheap.open("link", "c", durability="process").close()
        elif way == "store, flag c":
            KVStore("link", "process").close()
        else:
            onto("link", way)
        assert os.readlink("link") == "below/target"
        Heap.open("below/target").close()
        os.unlink("below/target")
        assert os.listdir("below") == []


def test_link_is_something_of_that_name_for_what_replaces_nothing() -> None:
    """As for `open` with "x"."""
    made("wreck")
    os.symlink("target", "link")
    with Heap.create("source", durability="process") as source:
        calls: list[Callable[[str], object]] = [
            Heap.create, source.snapshot, lambda name: salvage("wreck", name),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(HeapExistsError):
                call("link")
    assert not os.path.exists("target")


def test_link_without_end_and_missing_directories_are_told() -> None:
    os.symlink("loop", "loop")
    os.symlink("none/target", "astray")
    with Heap.create("source", durability="process") as source:
        for call in (
            lambda name: Heap.create(name, replace=True),
            lambda name: source.snapshot(name, replace=True),
            Heap.open,
        ):
            with pytest.raises(HeapFileError) as raised:
                call("loop")
            assert raised.value.errno == errno.ELOOP
            for name in ("astray", "none/../heap"):
                with pytest.raises(HeapNotFoundError):
                    call(name)
    assert sorted(os.listdir()) == ["astray", "loop", "source"]


# ---------------------------------------------------------------- meanwhile


def test_new_file_appears_where_its_name_led_when_it_was_begun(directory: Path) -> None:
    medium = openfile.create(Path("heap"), Durability.PROCESS, limit=None, replace_file=False)
    os.mkdir("below")
    os.chdir("below")
    medium.link_name(replace_file=False)
    medium.close()
    assert os.listdir() == []
    Heap.open(directory / "heap").close()


@pytest.mark.parametrize("there", [False, True])
def test_heap_that_is_opened_while_another_is_copied_is_not_replaced(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack, Heap.create("source", durability="process") as source:
        if there:
            made("heap")
        copy = snapshotting._copy_quietly

        def and_open(*arguments: Any) -> Any:
            stack.enter_context(pmemheap.open("heap", "c", durability="process"))
            return copy(*arguments)

        monkeypatch.setattr(snapshotting, "_copy_quietly", and_open)
        with pytest.raises(HeapBusyError):
            source.snapshot("heap", replace=True)
        assert sorted(os.listdir()) == ["heap", "source"]


def test_heap_is_not_opened_while_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    made("heap")
    rename, told = os.rename, []

    def and_open(*names: Any) -> None:
        for readonly in (False, True):
            with pytest.raises(HeapBusyError) as raised:
                Heap.open("heap", readonly=readonly)
            told.append(raised.value)
        rename(*names)

    monkeypatch.setattr(os, "rename", and_open)
    Heap.create("heap", replace=True, durability="process").close()
    assert len(told) == 2
    assert roots("heap") == set()


def test_file_that_took_the_place_meanwhile_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is on a file; its name may lead to another one by then."""
    made("heap")
    made("other", "other")
    with Heap.open("other"):
        sole, calls = locks.require_sole_user, list[str]()

        def and_swap(fd: int, name: str) -> None:
            sole(fd, name)
            if not calls:
                os.replace("other", "heap")
            calls.append(name)

        monkeypatch.setattr(locks, "require_sole_user", and_swap)
        with pytest.raises(HeapBusyError):
            Heap.create("heap", replace=True)
    assert roots("heap") == {"other"}


def test_heap_of_a_killed_process_is_replaced() -> None:
    made("heap")
    child = os.fork()
    if child == 0:
        heap = changed_here()
        os.kill(os.getpid(), signal.SIGKILL)
        heap.close()
    os.waitpid(child, 0)
    onto("heap", "snapshot")
    assert roots("heap") == {"other"}


def test_text_is_not_written_over_a_store() -> None:
    with KVStore("store", "process") as store:
        store[b"key"] = b"value"
    with KVStore("other", "process") as other:
        for target in ("store", "other"):
            assert CliRunner().invoke(app, ["dump", "store", target]).exit_code
        other[b"key"] = b"value"
    for _ in range(2):
        assert CliRunner().invoke(app, ["dump", "store", "text"]).exit_code == 0
    assert Path("text").read_text().count("\n") == 1
    for name in ("store", "other"):
        with KVStore(name, flag="r") as found:
            assert dict(found) == {b"key": b"value"}
