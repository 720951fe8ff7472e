"""Errors: that they travel, what they tell of files and views, and that they replace no others."""

from __future__ import annotations

import concurrent.futures
import copy
import errno
import gc
import importlib
import multiprocessing
import os
import pickle
import pkgutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pmemheap
from pmemheap import (
    DurabilityError,
    Heap,
    HeapBusyError,
    HeapExistsError,
    HeapFileError,
    HeapNotFoundError,
    HeapPermissionError,
    OutOfSpaceError,
    Pmem2Error,
    PmemHeapError,
    UsageError,
    kvstore,
    native,
)
from pmemheap.containers import SortedMap, Vector
from pmemheap.errors import Portable
from pmemheap.heap.insight import ExplainedOutOfSpaceError
from pmemheap.kvstore import KVStore
from pmemheap.native import NativeError
from pmemheap.offline import open_image
from pmemheap.refusals import end_with, refusal, refusals
from pmemheap.repair import repair, undo
from pmemheap.salvage import salvage

# ---------------------------------------------------------------- pickle and copy


def modules(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__") and "._core" not in found.name:
            with suppress(ImportError):  # of what is an extra here
                yield importlib.import_module(found.name)


def exceptions() -> dict[str, type[Exception]]:
    """All that the package defines."""
    return {
        thing.__name__: thing
        for module in modules(pmemheap)
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Exception)
        and thing.__module__ == module.__name__
    }


class OwnError(HeapBusyError):
    """Of a program, with a constructor of its own."""

    def __init__(self, key: bytes, *, tries: int) -> None:
        super().__init__(f"busy: {key!r}", filename="a.heap")
        self.key, self.tries = key, tries


def explained() -> Exception:
    with Heap.anonymous(limit=4 << 20) as heap:
        try:
            heap.malloc(1 << 30)
        except OutOfSpaceError as error:
            return error
    raise AssertionError("refused")


SAMPLES: dict[str, Callable[[], Exception]] = {
    "a native one": lambda: NativeError(errno.ENOSPC, "fallocate"),
    "an explained one": explained,
    "of pmem2": lambda: Pmem2Error(-12, "ENOMEM", "no room"),
    "with an errno": lambda: DurabilityError(errno.EIO, "sync"),
    "of a file": lambda: HeapPermissionError("no", errno.EPERM, "a.heap"),
    "of a program": lambda: OwnError(b"k", tries=3),
    **{name: lambda kind=kind: kind("text") for name, kind in exceptions().items()  # type: ignore[misc]
       if kind not in {NativeError, ExplainedOutOfSpaceError}},
}  # fmt: skip
WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {protocol}": lambda error, p=protocol: pickle.loads(pickle.dumps(error, p))  # type: ignore[misc]
       for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}  # fmt: skip


def test_all_exceptions_are_among_the_samples() -> None:
    assert {"UsageError", "Pmem2Error", "NativeError", "ReplyError"} <= exceptions().keys()
    assert exceptions().keys() <= {type(make()).__name__ for make in SAMPLES.values()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_an_exception_survives_with_all_that_it_has(sample: str, way: str) -> None:
    error: Any = SAMPLES[sample]()
    error.add_note("a note")
    notes = [*error.__notes__]
    error.mine = [1, 2]
    again = WAYS[way](error)
    assert type(again) is type(error)
    assert (str(again), again.args, again.mine, again.__notes__) == (
        str(error), error.args, [1, 2], notes,
    )  # fmt: skip
    assert vars(again).keys() == vars(error).keys()
    for name in ("errno", "strerror", "filename", "code", "name", "call", "explanation", "key"):
        assert getattr(again, name, None) == getattr(error, name, None)
    again.add_note("of the copy")
    assert error.__notes__ == notes or not issubclass(type(error), Portable)


def refused_in_a_worker() -> None:
    heap = Heap.anonymous(limit=4 << 20)
    heap.malloc(1 << 30)


@pytest.mark.slow
def test_what_a_worker_raises_comes_out_of_its_pool() -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        error = pool.submit(refused_in_a_worker).exception(timeout=60)
    assert isinstance(error, ExplainedOutOfSpaceError)
    assert error.explanation.size == 1 << 30


# ---------------------------------------------------------------- missing, there, busy, forbidden

OPENERS: dict[str, Callable[[Path], object]] = {
    "Heap.open": Heap.open,
    "Heap.open to read": lambda path: Heap.open(path, readonly=True),
    "pmemheap.open": lambda path: pmemheap.open(path, "w"),
    "open_image": lambda path: open_image(path).__enter__(),
    "repair": repair,
    "salvage": lambda path: salvage(path, path.with_suffix(".out")),
    "KVStore": lambda path: KVStore(path, flag="w"),
    "kvstore.open": lambda path: kvstore.open(path, "r"),
}
MAKERS: dict[str, Callable[[Path], object]] = {
    "Heap.create": Heap.create,
    "snapshot": lambda path: snapshot_to(path),  # noqa: PLW0108 -- which comes later
    "salvage": lambda path: salvage(made(path.with_name("wreck")), path),
}


def made(path: Path) -> Path:
    Heap.create(path, durability="process").close()
    return path


def snapshot_to(path: Path) -> None:
    source = path.parent / "source" if path.parent.exists() else path.parent.parent / "source"
    with Heap.create(source, durability="process") as heap:
        heap.snapshot(path)


def is_told(error: HeapFileError, path: Path, number: int) -> None:
    assert isinstance(error, UsageError)
    assert (error.errno, error.strerror) == (number, os.strerror(number))
    assert error.filename == str(path)
    assert str(path) in str(error)
    assert "Errno" not in str(error)


@pytest.mark.parametrize("call", OPENERS)
def test_a_file_that_is_missing_is_a_file_not_found(tmp_path: Path, call: str) -> None:
    path = tmp_path / "none"
    with pytest.raises(FileNotFoundError) as raised:
        OPENERS[call](path)
    assert isinstance(raised.value, HeapNotFoundError)
    is_told(raised.value, path, errno.ENOENT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["Heap.create", "snapshot"])
def test_a_directory_that_is_missing_is_not_found_either(tmp_path: Path, call: str) -> None:
    path = tmp_path / "none" / "heap"
    with pytest.raises(FileNotFoundError) as raised:
        MAKERS[call](path)
    assert isinstance(raised.value, HeapNotFoundError)
    is_told(raised.value, path, errno.ENOENT)


@pytest.mark.parametrize("call", MAKERS)
def test_a_file_that_is_there_already_exists(tmp_path: Path, call: str) -> None:
    path = tmp_path / "heap"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError) as raised:
        MAKERS[call](path)
    assert isinstance(raised.value, HeapExistsError)
    is_told(raised.value, path, errno.EEXIST)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("call", OPENERS)
def test_a_heap_that_somebody_has_open_is_busy(tmp_path: Path, call: str) -> None:
    path = tmp_path / "heap"
    with (
        Heap.create(path, durability="process"),
        pytest.raises(BlockingIOError, match=rf"process {os.getpid()} has it open") as raised,
    ):
        OPENERS[call](path)
    assert isinstance(raised.value, HeapBusyError)
    is_told(raised.value, path, errno.EAGAIN)


def test_a_heap_that_is_read_is_busy_for_writers(tmp_path: Path) -> None:
    path = made(tmp_path / "heap")
    with Heap.open(path, readonly=True), pytest.raises(BlockingIOError, match="no reader expected"):
        Heap.open(path)


def test_a_shared_heap_has_one_writer() -> None:
    with Heap.shared() as heap, pytest.raises(BlockingIOError) as raised:
        Heap.attach(heap.fileno(), readonly=False)
    assert isinstance(raised.value, HeapBusyError)


def test_a_descriptor_of_nothing_is_a_bad_one() -> None:
    with pytest.raises(HeapFileError, match="an open descriptor") as raised:
        Heap.attach(9999)
    assert raised.value.errno == errno.EBADF


NOBODY = 65534


def in_a_child_as_nobody(work: Callable[[], None]) -> str:
    """Return what goes wrong when it is done by a user who may do little; empty if nothing does."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            if os.geteuid() == 0:
                os.seteuid(NOBODY)
            work()
        except BaseException as error:
            text = repr(error)
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.parametrize("call", [*OPENERS, "Heap.create"])
def test_what_this_user_may_not_have_is_a_permission_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = Path("heap")  # there is no way to the directory but to be in it
    monkeypatch.chdir(tmp_path)
    if call in OPENERS:
        made(path).chmod(0)
    tmp_path.chmod(0o555)

    def work() -> None:
        with pytest.raises(PermissionError) as raised:
            {**MAKERS, **OPENERS}[call](path)
        assert isinstance(raised.value, HeapPermissionError)
        is_told(raised.value, path, errno.EACCES)

    text = in_a_child_as_nobody(work)
    tmp_path.chmod(0o755)
    assert not text


@pytest.mark.parametrize("kind", ["directory", "socket"])
def test_what_is_no_file_is_refused_with_an_errno(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as made_here:
            made_here.bind(str(path))
    calls: list[Callable[[], object]] = [
        lambda: Heap.open(path),
        lambda: Heap.create(path, replace=True),
    ]
    for call in calls:
        with pytest.raises(HeapFileError) as raised:
            call()
        assert isinstance(raised.value, OSError)
        assert raised.value.errno
        assert raised.value.filename == str(path)


def test_the_backup_of_no_repair_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        undo(made(tmp_path / "heap"), tmp_path / "none")
    assert isinstance(raised.value, HeapNotFoundError)


# ---------------------------------------------------------------- what the system refuses

ROOM = ("ENOMEM", "ENOSPC", "EDQUOT", "EFBIG", "EAGAIN", "EMFILE", "ENFILE")
FORBIDDEN = {
    "ENOENT": HeapNotFoundError, "EEXIST": HeapExistsError, "EACCES": HeapPermissionError,
    "EPERM": HeapPermissionError, "EROFS": HeapFileError, "ELOOP": HeapFileError,
    "ENAMETOOLONG": HeapFileError, "EISDIR": HeapFileError, "ENODEV": HeapFileError,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, OutOfSpaceError) for name in ROOM), ("EIO", DurabilityError), *FORBIDDEN.items()],
)
def test_a_refusal_is_told_by_its_errno_and_never_as_damage(
    name: str, kind: type[PmemHeapError]
) -> None:
    number = getattr(errno, name)
    error = OSError(number, os.strerror(number), "a temporary name")
    assert type(refusal("thing", error, "a.heap")) is kind
    with pytest.raises(kind), refusals("thing", "a.heap"):
        raise error
    with pytest.raises(kind), refusals("thing", "a.heap"):
        raise Pmem2Error(-number, name, "a map was refused")


def test_a_map_that_finds_no_place_is_no_room() -> None:
    with pytest.raises(OutOfSpaceError), refusals("thing"):
        raise Pmem2Error(-100007, "PMEM2_E_MAPPING_EXISTS", "occupied")


@pytest.mark.parametrize("name", ["EACCES", "EMFILE", "ENOMEM", "EIO", "EPERM"])
def test_opening_never_calls_a_refused_call_damage(tmp_path: Path, name: str) -> None:
    """Each system call of opening, refused: what was in the file is not known."""
    path = made(tmp_path / "heap")
    kinds: tuple[type[Exception], ...] = (HeapFileError, OutOfSpaceError, DurabilityError)
    for readonly in (False, True):
        for nth in range(1, 200):
            with native.faults(nth, getattr(errno, name)) as fault, suppress(*kinds):
                Heap.open(path, readonly=readonly).close()
            if fault.hit is native.Call.NONE:
                break
        Heap.open(path).close()


# ---------------------------------------------------------------- an exception of the program


class Mine(Exception):  # noqa: N818 -- not an error of anybody else's
    pass


def body_with_a_view(heap: Any) -> None:
    view = heap.view(heap.malloc(10))
    raise Mine(view)


def leave_a_heap(path: Path) -> None:
    with Heap.create(path, durability="process") as heap:
        body_with_a_view(heap)


def leave_a_failed_heap(path: Path) -> None:
    with ExitStack() as late, Heap.create(path, durability="process") as heap:
        heap.malloc(10)
        late.enter_context(native.faults(1, errno.EIO, native.FaultKind.FROM))
        raise Mine


def leave_a_transaction_open(path: Path) -> None:
    with Heap.create(path, durability="process") as heap:
        raise Mine(heap.transaction())


def leave_a_block(path: Path) -> None:
    with Heap.create(path, durability="process") as heap, heap.alloc(10) as block:
        raise Mine(block.view)


def leave_a_block_in_use(path: Path) -> None:
    heap = Heap.create(path, durability="process")
    with heap.alloc(10) as block:
        tx = heap.transaction()
        tx.write(block.offset, b"x")
        raise Mine(tx)


def leave_a_transaction(path: Path) -> None:
    heap = Heap.create(path, durability="process")
    with heap.transaction() as tx:
        tx.malloc(10)
        heap.close  # noqa: B018
        raise Mine


def leave_savepoints(path: Path) -> None:
    heap = Heap.create(path, durability="process")
    with heap.transaction(), heap.transaction():
        heap.transaction()
        raise Mine


def leave_a_savepoint_of_a_failed_heap(path: Path) -> None:
    heap = Heap.create(path, durability="power")
    with heap.transaction() as tx, heap.transaction():
        tx.malloc(10)
        with native.faults(1, errno.EIO, native.FaultKind.FROM), suppress(DurabilityError):
            heap.sync()
        raise Mine


def leave_a_store(path: Path) -> None:
    with KVStore(path, "process") as store:
        store[b"k"] = b"v" * 5000
        raise Mine(store.view(b"k"))


def leave_a_shelf(path: Path) -> None:
    with KVStore.text(path, durability="process") as store:
        store["k"] = "v"
        raise Mine(store.store.view(b"k"))


def leave_a_map(path: Path) -> None:
    with Heap.create(path, durability="process") as heap:
        found = SortedMap(heap, "m")
        found[b"k"] = b"v" * 5000
        raise Mine(found.view(b"k"))


def leave_an_array(path: Path) -> None:
    with Heap.create(path, durability="process") as heap:
        vector = Vector(heap, "v", "i8")
        vector.extend([1, 2, 3])
        raise Mine(vector.array)


@pytest.mark.parametrize(
    "leave",
    [leave_a_heap, leave_a_failed_heap, leave_a_transaction_open, leave_a_block,
     leave_a_block_in_use, leave_a_transaction, leave_savepoints,
     leave_a_savepoint_of_a_failed_heap, leave_a_store, leave_a_shelf, leave_a_map,
     leave_an_array],
)  # fmt: skip
@pytest.mark.parametrize("kind", [Mine, KeyboardInterrupt])
def test_an_exception_that_leaves_a_with_block_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Path], None], kind: Any
) -> None:
    monkeypatch.setitem(globals(), "Mine", kind)
    gc.collect()  # what a test before has left makes no call that is to fail
    with pytest.raises(kind) as raised:
        leave(tmp_path / "heap")
    assert type(raised.value) is kind


def test_what_the_end_of_the_block_met_is_a_note(tmp_path: Path) -> None:
    with pytest.raises(Mine) as raised:
        leave_a_heap(tmp_path / "heap")
    (note,) = raised.value.__notes__
    assert "BufferError" in note
    assert "no live views expected at close, 1 found" in note


def test_a_block_that_an_exception_leaves_is_freed_with_its_last_view() -> None:
    with Heap.anonymous() as heap:
        try:
            with heap.alloc(10) as block:
                raise Mine(block.view)
        except Mine:
            assert not block.is_live
        assert heap.stats().blocks == 0


def test_without_an_exception_the_end_raises_its_own() -> None:
    def refuse() -> None:
        raise BufferError("viewed")

    with pytest.raises(BufferError, match="viewed"):
        end_with(None, refuse)
    error = Mine()
    end_with(error, refuse)
    assert error.__notes__ == ["and when it was closed: BufferError: viewed"]


# ---------------------------------------------------------------- the blocks that are viewed


def test_close_names_the_blocks_that_are_viewed() -> None:
    heap = Heap.anonymous()
    offsets = [heap.malloc(size) for size in (10, 3000, 1 << 20)]
    views = [heap.view(offset) for offset in (*offsets, offsets[1])]
    with pytest.raises(BufferError) as raised:
        heap.close()
    assert str(raised.value) == (
        "anonymous heap: no live views expected at close, 4 found: "
        f"1 view of the block at {offsets[0]:#x} (16 bytes), "
        f"2 views of the block at {offsets[1]:#x} ({heap.usable_size(offsets[1])} bytes), "
        f"1 view of the block at {offsets[2]:#x} (1048576 bytes)"
    )
    del views
    heap.close()


def test_five_blocks_are_named_at_most_those_of_all_arenas_together() -> None:
    heap = Heap.anonymous()
    arena = heap.arena("a")
    views = [heap.view(heap.malloc(10)) for _ in range(3)]
    views += [arena.view(arena.malloc(10)) for _ in range(10)]
    with pytest.raises(BufferError, match="13 found") as raised:
        heap.close()
    assert str(raised.value).count("of the block at") == 5
    assert str(raised.value).endswith("and views of 8 more blocks")
    with pytest.raises(BufferError, match=r"at drop, 10 found.*and views of 5 more blocks"):
        arena.drop()
    del views[3:]
    arena.drop()
    del views
    heap.close()


def test_a_block_that_is_viewed_says_how_large_it_is_and_how_often() -> None:
    with Heap.anonymous() as heap:
        offset = heap.malloc(100)
        views = [heap.view(offset), heap.view(offset)[5:]]
        wanted = rf"block at offset {offset:#x} \(112 bytes\).*2"
        calls: list[Callable[[], object]] = [
            lambda: heap.free(offset),
            lambda: heap.free_many([offset]),
            lambda: heap.realloc(offset, 1 << 20),
        ]
        with heap.transaction() as tx:
            calls.append(lambda: tx.free(offset))
            for call in calls:
                with pytest.raises(BufferError, match=wanted):
                    call()
        del views


# ---------------------------------------------------------------- words


def test_a_closed_heap_is_told_in_good_english(tmp_path: Path) -> None:
    path = made(tmp_path / "heap")
    with (
        Heap.open(path, readonly=True) as heap,
        pytest.raises(UsageError, match="a writable heap expected"),
    ):
        heap.malloc(1)
    with pytest.raises(UsageError, match="an open heap expected, it is closed"):
        heap.stats()
