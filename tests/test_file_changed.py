"""A file that somebody else cuts, writes over or removes while it is open: an exception, and soon.

Never the end of the process, a hang, or a close that says that all is well. Each case runs in a
child: what should be an exception may be a signal.
"""

from __future__ import annotations

import errno
import faulthandler
import mmap
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from heap_world import named, redo_of

from pmemheap import DurabilityName, Heap, native
from pmemheap.containers import SortedMap, Vector
from pmemheap.errors import CorruptHeapError, DurabilityError, PmemHeapError, UsageError
from pmemheap.file.redo import RedoLog
from pmemheap.units import MiB

pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")

ENTRIES = 1500
SECONDS = 30


def in_child(work: Callable[[], str]) -> str:
    """Do something in a child and return what it says; the name of the signal that ended it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        try:
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if code == 0 else signal.Signals(-code).name


@dataclass
class Loaded:
    """A heap with something of everything in it."""

    heap: Heap
    path: str
    block: int
    in_arena: int

    @classmethod
    def make(cls, kind: str, path: str) -> Loaded:
        durability, _, how = kind.partition(" ")
        if durability == "memory":
            heap = Heap.shared(decay=None)
            path = f"/proc/self/fd/{heap.fileno()}"
        else:
            heap = Heap.create(path, durability=named(durability), decay=None)
        table = SortedMap(heap, "table")
        table.put_many((b"%05d" % number, b"v" * 60) for number in range(ENTRIES))
        table[b"large"] = b"x" * 100_000
        Vector(heap, "vector", "i8").extend(range(30_000))
        block, in_arena = heap.malloc(300_000), heap.arena("arena").malloc(200)
        if how:
            heap.close()
            heap = Heap.open(path, decay=None, readonly=how == "reader")
        return cls(heap, path, block, in_arena)

    def get(self) -> object:
        table = SortedMap(self.heap, "table")
        assert table.get(b"01000") == b"v" * 60
        return table[b"large"]

    def scan(self) -> object:
        return list(SortedMap(self.heap, "table").items())

    def put(self) -> None:
        SortedMap(self.heap, "table")[b"new"] = b"1"

    def commit(self) -> None:
        with self.heap.transaction() as tx:
            tx.roots["new"] = tx.malloc(10)

    def change_in_place(self) -> None:
        with self.heap.transaction() as tx:
            tx.snapshot(self.block, 100)
            tx.write(self.block + 200_000, b"later")

    def read_vector(self) -> object:
        return Vector(self.heap, "vector")[20_000]

    def append(self) -> None:
        Vector(self.heap, "vector").append(5)

    def call(self, name: str) -> object:
        heap = self.heap
        calls: dict[str, Callable[[], object]] = {
            "malloc": lambda: heap.malloc(100),
            "malloc_many": lambda: heap.malloc_many(100, 3000),
            "realloc": lambda: heap.realloc(self.block, 10_000),
            "free": lambda: heap.free(self.in_arena),
            "grow": lambda: heap.malloc(20 * MiB),
            "arena": lambda: heap.arena("new").malloc(10),
            "drop": lambda: heap.arena("arena").drop(),
            "root": lambda: heap.roots.__setitem__("new", self.block),
            "check": heap.check,
            "trim": heap.trim,
            "sync": heap.sync,
            "snapshot": lambda: heap.snapshot(f"{self.path}.copy"),
        }
        return calls[name]() if name in calls else getattr(self, name)()


READS = ("get", "scan", "read_vector", "check")
CALLS = (
    *READS, "put", "commit", "change_in_place", "append", "malloc", "malloc_many", "realloc",
    "free", "grow", "arena", "drop", "root", "trim", "sync", "snapshot", "close",
)  # fmt: skip


def cut(path: str) -> None:
    os.truncate(path, 0)


def cut_inside(path: str) -> None:
    os.truncate(path, 400_000)


def cut_and_grown(path: str) -> None:
    size = os.stat(path).st_size
    os.truncate(path, 0)
    os.truncate(path, size)


def cut_in_half_and_grown(path: str) -> None:
    size = os.stat(path).st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


def zeroed(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(bytes(os.stat(path).st_size))


def another_heap(path: str) -> None:
    with Heap.create(f"{path}.other") as heap:
        heap.malloc(5 * MiB)
    with open(f"{path}.other", "rb") as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target)


CHANGES = [cut, cut_inside, cut_and_grown, cut_in_half_and_grown, zeroed]


def consequences(kind: str, path: str, change: Callable[[str], None], name: str) -> str:
    """Return how a call and the close end, after the file was changed."""
    loaded = Loaded.make(kind, path)
    change(loaded.path)
    said = []
    steps: list[Callable[[], object]] = [partial(loaded.call, name), loaded.heap.close]
    for step in steps[name == "close" :]:
        try:
            step()
            said.append("well")
        except (DurabilityError, CorruptHeapError) as error:
            said.append(type(error).__name__)
    return " ".join(said)


KINDS = ["process", "power", "process reopened", "power reopened", "memory"]


def cases(kind: str) -> Iterator[tuple[Callable[[str], None], str]]:
    """Yield each call with one of the changes, another one in each kind; with all if asked for."""
    changes = CHANGES if kind == "memory" else [*CHANGES, another_heap]
    everything = os.environ.get("PMEMHEAP_FILE_CHANGES_ALL")
    for number, name in enumerate(CALLS):
        chosen = (number + KINDS.index(kind)) % len(changes)
        for change in changes if everything else [changes[chosen]]:
            yield change, name


def mistakes(kind: str, path: Path, todo: Iterable[tuple[Callable[[str], None], str]]) -> list[str]:
    """Return the cases in which somebody is not told that the file is lost."""
    found = []
    for number, (change, name) in enumerate(todo):
        said = in_child(partial(consequences, kind, str(path / str(number)), change, name))
        if "Error" not in said or ":" in said:
            found.append(f"{change.__name__}, {name}: {said}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_file_that_others_change_is_told_of(kind: str, tmp_path: Path) -> None:
    assert mistakes(kind, tmp_path, cases(kind)) == []


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["process", "power"])
def test_reader_of_a_file_that_is_cut_gets_no_wrong_answer(
    durability: DurabilityName, tmp_path: Path
) -> None:
    """It has stored nothing: what is written over the file is checked like any file."""
    todo = [(change, name) for change in (cut, cut_inside) for name in ("get", "scan", "check")]
    assert mistakes(f"{durability} reader", tmp_path, todo) == []


def test_growth_does_not_make_a_file_long_again(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    heap = Heap.create(path)
    heap.malloc(100)
    cut_inside(str(path))
    with pytest.raises(DurabilityError, match="cut to 400000 bytes") as caught:
        heap.malloc(20 * MiB)
    assert caught.value.errno == errno.ESTALE
    assert path.stat().st_size == 400_000
    for call in (lambda: heap.malloc(1), heap.sync, lambda: heap.roots.get("a"), heap.check):
        with pytest.raises(DurabilityError, match="cut to 400000 bytes"):
            call()
    heap.close()
    assert path.stat().st_size == 400_000


@pytest.mark.parametrize("durability", ["process", "power"])
def test_every_walk_over_the_log_ends(durability: DurabilityName, tmp_path: Path) -> None:
    """Records that wait in the log are written over: they are not taken for records."""

    def work(junk: bytes) -> str:
        heap = Heap.create(tmp_path / "heap", durability=durability)
        blocks = [heap.malloc(100) for _ in range(50)]
        with heap.transaction(durable=False) as tx:
            tx.roots["a"] = tx.malloc(1000)
        log = heap._space.shared.medium.log_slot()  # type: ignore[union-attr]
        fd = os.open(tmp_path / "heap", os.O_RDWR)
        os.pwrite(fd, junk * (log.file_bytes // len(junk)), log.file_off)
        os.close(fd)
        said = []
        steps: list[Callable[[], object]] = [partial(heap.free, blocks[0]), heap.sync, heap.close]
        for step in steps:
            try:
                step()
                said.append("well")
            except DurabilityError:
                said.append("told")
        return " ".join(said)

    for junk in (bytes(64), b"\xff" * 64, b"PMHL" + bytes(60)):
        said = in_child(partial(work, junk))
        (tmp_path / "heap").unlink()
        assert said == ("well told well" if durability == "power" else "well well well")


def test_commit_whose_bytes_went_nowhere_is_no_commit(tmp_path: Path) -> None:
    """The file is cut behind the log: the commit itself meets the fault."""

    def work() -> str:
        heap = Heap.create(tmp_path / "heap", durability="process")
        block = heap.malloc(300_000)
        os.truncate(tmp_path / "heap", 400_000)
        try:
            with heap.transaction() as tx:
                tx.write(block + 290_000, b"lost")
        except DurabilityError as error:
            return str(error)
        return "committed"

    assert "cut to 400000 bytes" in in_child(work)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_value_that_is_cut_is_not_answered_with_zeros(
    durability: DurabilityName, tmp_path: Path
) -> None:
    """All that leads to it is there: only its own bytes have gone."""
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        SortedMap(heap, "table").update({b"small": b"1", b"large": b"x" * 3 * MiB})
    for read in ("get", "__getitem__", "values"):
        shutil.copyfile(tmp_path / "heap", tmp_path / "cut")
        heap = Heap.open(tmp_path / "cut", readonly=read == "get")
        table = SortedMap(heap, "table")
        os.truncate(tmp_path / "cut", 2 * MiB)
        assert table.get(b"small") == b"1"
        with pytest.raises(DurabilityError, match="cut to 2097152 bytes"):
            list(table.values()) if read == "values" else getattr(table, read)(b"large")
        with pytest.raises(DurabilityError, match="cut to 2097152 bytes"):
            table.get(b"small")
        with suppress(DurabilityError):
            heap.close()


@pytest.mark.unsanitized
def test_view_of_bytes_that_are_gone_is_the_end_of_the_process(tmp_path: Path) -> None:
    """By its nature: nobody can tell the reader of a view that it shows something else now."""

    def work() -> str:
        faulthandler.disable()
        heap = Heap.create(tmp_path / "heap")
        view = heap.view(heap.malloc(300_000))
        cut(str(tmp_path / "heap"))
        return str(view[200_000])

    assert in_child(work) == "SIGBUS"


@pytest.mark.unsanitized
def test_fault_outside_of_heaps_is_left_to_others(tmp_path: Path) -> None:
    """A map of somebody else's, and the handler that was there before: it writes its report."""
    report = tmp_path / "report"

    def work() -> str:
        with open(report, "w") as file, open(tmp_path / "other", "w+b") as other:
            other.truncate(2 * MiB)
            theirs = mmap.mmap(other.fileno(), 2 * MiB)
            heap = Heap.create(tmp_path / "heap")
            heap.malloc(10)
            faulthandler.enable(file)
            other.truncate(0)
            return str(theirs[MiB])

    assert in_child(work) == "SIGBUS"
    assert "Bus error" in report.read_text()


@pytest.mark.unsanitized
def test_bus_error_that_somebody_sends_is_no_fault(tmp_path: Path) -> None:
    def work() -> str:
        faulthandler.disable()
        heap = Heap.create(tmp_path / "heap")
        heap.malloc(10)
        os.kill(os.getpid(), signal.SIGBUS)
        return "went on"

    assert in_child(work) == "SIGBUS"


# ---------------------------------------------------------------- its name


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_file_without_a_name_is_told_of(
    durability: DurabilityName, how: str, tmp_path: Path
) -> None:
    path = tmp_path / "heap"
    heap = Heap.create(path, durability=durability)
    offset = heap.malloc(100)
    if how == "removed":
        path.unlink()
    else:
        (tmp_path / "other").write_bytes(b"mine")
        (tmp_path / "other").replace(path)
    with pytest.raises(DurabilityError, match="removed"):
        heap.sync()
    assert heap.usable_size(offset) == 112, "what is mapped can be read"
    with pytest.raises(DurabilityError, match="removed"):
        heap.malloc(100)
    heap.close()
    assert not path.exists() or path.read_bytes() == b"mine"


@pytest.mark.parametrize("durability", ["process", "power"])
def test_close_tells_of_a_file_without_a_name(durability: DurabilityName, tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap", durability=durability)
    heap.malloc(100)
    (tmp_path / "heap").unlink()
    with pytest.raises(DurabilityError, match="removed"):
        heap.close()
    assert heap.closed


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_was_not_changed_may_be_removed(durability: DurabilityName, tmp_path: Path) -> None:
    path = tmp_path / "heap"
    Heap.create(path, durability=durability).close()
    heap = Heap.open(path)
    path.unlink()
    heap.close()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_file_may_get_another_name(durability: DurabilityName, tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap", durability=durability)
    os.link(tmp_path / "heap", tmp_path / "second")
    (tmp_path / "heap").rename(tmp_path / "moved")
    heap.roots["a"] = heap.malloc(100)
    heap.sync()
    heap.close()
    (tmp_path / "moved").unlink()
    with Heap.open(tmp_path / "second") as heap:
        assert "a" in heap.roots


def test_memory_and_nameless_files_need_no_name(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap", durability="process")
    fd = os.dup(heap.fileno())
    heap.close()
    (tmp_path / "heap").unlink()
    with Heap.attach(fd, readonly=False) as heap:
        heap.malloc(100)
        heap.sync()
    os.close(fd)
    with Heap.shared() as heap:
        heap.malloc(20 * MiB)
        heap.sync()


def test_snapshot_of_a_file_that_is_cut_is_none(tmp_path: Path) -> None:
    """Cut while it is copied: the copy would have zeros in the place of blocks."""
    heap = Heap.create(tmp_path / "heap")
    heap.malloc(8 * MiB)
    transferred: list[Any] = []

    def cut_and_transfer(*arguments: Any) -> Any:
        if not transferred:
            os.truncate(tmp_path / "heap", 3 * MiB)
        transferred.append(arguments)
        raise OSError(errno.EXDEV, "not here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "copy_file_range", cut_and_transfer)
        with pytest.raises(PmemHeapError):
            heap.snapshot(tmp_path / "copy")
    assert transferred
    assert [each.name for each in tmp_path.iterdir()] == ["heap"]


def test_interrupted_and_lost_heap_can_be_closed(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "heap")
    heap.malloc(10)
    cut(str(tmp_path / "heap"))
    heap._space.shared.medium.in_doubt = True
    with pytest.raises(DurabilityError, match="cut"):
        heap.close()
    with pytest.raises(UsageError, match="closed"):
        heap.malloc(10)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_holes_before_what_a_kill_left_behind_are_no_cut(
    durability: DurabilityName, tmp_path: Path
) -> None:
    """A growth that a kill interrupts leaves bytes behind the end, which goes when it is opened."""
    path = tmp_path / "a.heap"
    with Heap.create(path, durability=durability) as heap:
        large, _ = heap.malloc(4 * MiB), heap.malloc(64)
        heap.free(large)
        heap.trim()
    end = path.stat().st_size
    assert path.stat().st_blocks * 512 < end
    with path.open("ab") as file:
        file.write(b"x" * 8 * MiB)
    with Heap.open(path) as heap:
        block = heap.malloc(100)
        heap.sync()
        heap.free(block)
    assert path.stat().st_size == end


# ---------------------------------------------------------------- what another thread changes


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, call: str, *, after: bool, work: Callable[[], object]
) -> None:
    """Let something happen once, just before or after a system call of the look at the file."""
    real, to_do = getattr(native, call), [work]

    def with_work(*args: Any) -> Any:
        result = real(*args) if after else None
        while to_do:
            to_do.pop()()
        return result if after else real(*args)

    monkeypatch.setattr(native, call, with_work)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_superblock_that_this_heap_writes_is_not_somebody_elses(
    durability: DurabilityName, after: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        heap.malloc(64)
        log = redo_of(heap)

        def twice() -> None:
            log.checkpoint()
            log.checkpoint()

        meanwhile(monkeypatch, "pread", after=after, work=twice)
        with pytest.raises(UsageError, match="live block expected"):
            heap.free(1 << 20)  # looks at the file, without the lock
        heap.malloc(64)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_file_that_this_heap_grows_or_cuts_is_not_cut_by_somebody(
    durability: DurabilityName, after: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        block, blocks = heap.malloc(64), list[int]()

        def grow() -> None:
            blocks.append(heap.malloc(40 * MiB))

        def cut() -> None:
            heap.free(blocks.pop())
            heap.trim()

        for work in (grow, cut):
            with monkeypatch.context() as patch:
                meanwhile(patch, "fstat", after=after, work=work)
                with pytest.raises(UsageError, match="live block expected"):
                    heap.free(1 << 20)
        heap.free(block)


def test_commit_while_the_log_moves_finds_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Heap.create(tmp_path / "heap", durability="power") as heap:
        heap.malloc(64)
        failures: list[BaseException] = []

        def commit() -> None:
            try:
                with heap.transaction() as tx:
                    tx.malloc(64)
            except BaseException as error:
                failures.append(error)

        committing = threading.Thread(target=commit)
        real = RedoLog._move

        def with_commit(log: Any, *args: Any) -> None:
            if committing.ident is None:  # not again when the heap is closed
                committing.start()
                committing.join(0.2)
            real(log, *args)

        monkeypatch.setattr(RedoLog, "_move", with_commit)
        heap._space.alone(lambda: redo_of(heap).move(4 * MiB))
        committing.join(SECONDS)
        assert not committing.is_alive()
        assert failures == []
