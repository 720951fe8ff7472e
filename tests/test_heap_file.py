from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from heap_world import answer, contents, descriptors, fill, python

import pmemheap
from pmemheap import DurabilityName, Heap, native
from pmemheap.errors import CorruptHeapError, OutOfSpaceError, UsageError
from pmemheap.native import FaultKind
from pmemheap.units import UNIT, KiB, MiB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.heap"


def blocks_of(path: Path) -> int:
    return path.stat().st_blocks * 512


# ---------------------------------------------------------------- create, open, dbm flags


@pytest.mark.parametrize("durability", ["power", "process"])
def test_created_heap_is_small_and_whole(path: Path, durability: DurabilityName) -> None:
    with Heap.create(path, durability=durability) as heap:
        assert heap.durability == durability
        assert path.stat().st_size < 1.5 * MiB
        assert blocks_of(path) < 256 * KiB, "header page by page, the log, 64 KiB of data"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_reopened_heap_has_the_same_bytes(path: Path) -> None:
    chance = random.Random(1)
    with Heap.create(path) as heap:
        offsets = [heap.malloc(chance.randint(1, 400_000)) for _ in range(200)]
        for seed, offset in enumerate(offsets):
            fill(heap, offset, seed)
        for offset in offsets[::3]:
            heap.free(offset)
        heap.roots["last"] = offsets[-1]
        identity, before = heap.uuid, contents(heap)
    for readonly in (True, False, True):
        with Heap.open(path, readonly=readonly) as heap:
            assert heap.uuid == identity
            assert heap.roots["last"] == offsets[-1]
            assert contents(heap) == before
            assert heap.check()


def test_readonly_heap_changes_nothing(path: Path) -> None:
    with Heap.create(path) as heap:
        offset = heap.malloc(100)
    before = path.read_bytes()
    with Heap.open(path, readonly=True) as heap:
        assert heap.readonly
        assert heap.view(offset).readonly
        changes: list[Callable[[], object]] = [
            lambda: heap.malloc(1),
            lambda: heap.free(offset),
            lambda: heap.realloc(offset, 5),
            lambda: heap.expand(offset, 5),
            lambda: heap.malloc_many(1, 1),
            lambda: heap.free_many([offset]),
            lambda: heap.roots.__setitem__("a", offset),
            heap.trim,
        ]
        for change in changes:
            with pytest.raises(UsageError, match="read-only"):
                change()
        heap.sync()  # there is nothing to do
    assert path.read_bytes() == before


def test_flags_are_those_of_dbm(path: Path) -> None:
    for flag in ("r", "w"):
        with pytest.raises(UsageError, match="No such file"):
            pmemheap.open(path, flag)
    with pmemheap.open(path, "c") as heap:
        offset = heap.malloc(10)
    with pmemheap.open(path, "c") as heap:
        assert heap.usable_size(offset) == 16
    with pmemheap.open(path, "w") as heap:
        heap.free(offset)
        heap.malloc(3000)
    with pmemheap.open(path) as heap:
        assert heap.readonly
        assert len(contents(heap)) == 1
    with pmemheap.open(path, "n") as heap:
        assert contents(heap) == {}
    with pytest.raises(UsageError, match="flag"):
        pmemheap.open(path, "x")  # type: ignore[arg-type]


def test_existing_file_is_not_replaced_unasked(path: Path) -> None:
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match="one is there"):
        Heap.create(path)
    assert path.read_bytes() == b"precious"
    Heap.create(path, replace=True).close()
    Heap.open(path).close()


def test_heap_in_use_is_not_replaced(path: Path) -> None:
    with Heap.create(path) as heap:
        offset = heap.malloc(10)
        with pytest.raises(UsageError, match=f"process {os.getpid()} has it open"):
            Heap.create(path, replace=True)
    with Heap.open(path) as heap:
        assert heap.usable_size(offset) == 16


@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "device"])
def test_path_that_is_no_file_is_refused_and_kept(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    else:
        path = Path("/dev/null")
    before = stat.S_IFMT(path.stat().st_mode)
    actions: list[Callable[[], Heap]] = [
        lambda: Heap.open(path),
        lambda: Heap.open(path, readonly=True),
        lambda: Heap.create(path),
        lambda: Heap.create(path, replace=True),
    ]
    for action in actions:
        with pytest.raises(UsageError):
            action()
    assert stat.S_IFMT(path.stat().st_mode) == before


@pytest.mark.parametrize(
    "name", ["absent/heap", "x" * 300, "file/heap", "loop", "nul\0", ""], ids=lambda name: name[:9]
)
def test_path_where_nothing_can_be_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir()), descriptors()
    for action in (Heap.create, Heap.open):
        with pytest.raises(UsageError):
            action(f"{tmp_path}/{name}")
    assert (sorted(tmp_path.iterdir()), descriptors()) == before


def test_long_name_is_as_good_as_any(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    Heap.create(path).close()
    Heap.open(path).close()


NOBODY = 65534


def test_missing_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "heap"
    Heap.create(path).close()
    path.chmod(0)
    tmp_path.chmod(0o555)
    monkeypatch.chdir(tmp_path)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:  # who may do anything
                os.seteuid(NOBODY)
            actions: list[Callable[[], Heap]] = [
                lambda: Heap.open("heap"),
                lambda: Heap.open("heap", readonly=True),
                lambda: Heap.create("new"),
            ]
            for action in actions:
                with pytest.raises(UsageError, match="Permission denied"):
                    action()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    tmp_path.chmod(0o755)
    assert status == 0


# ---------------------------------------------------------------- one writer, or readers

HOLDER = """
import sys
from pmemheap import Heap
heap = Heap.open(sys.argv[1], readonly=sys.argv[2] == "reader")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Return a function that has another process open the heap."""
    processes = []

    def hold(how: str) -> subprocess.Popen[str]:
        process = python(HOLDER, path, how)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        processes.append(process)
        return process

    Heap.create(path).close()
    yield hold
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_second_writer_is_refused_naming_the_holder(
    path: Path, held: Callable[[str], subprocess.Popen[str]]
) -> None:
    holder = held("writer")
    for readonly in (False, True):
        with pytest.raises(UsageError, match=f"process {holder.pid} has it open"):
            Heap.open(path, readonly=readonly)
    with pytest.raises(UsageError, match=f"process {holder.pid} has it open"):
        Heap.create(path, replace=True)
    holder.kill()
    holder.wait()
    Heap.open(path).close()


@pytest.mark.slow
def test_readers_keep_writers_out_not_readers(
    path: Path, held: Callable[[str], subprocess.Popen[str]]
) -> None:
    first, second = held("reader"), held("reader")
    with Heap.open(path, readonly=True) as heap:
        assert heap.check()
    for reader in (first, second):
        with pytest.raises(UsageError, match="one or more have it open"):
            Heap.open(path)
        reader.kill()
        reader.wait()
    Heap.open(path).close()


def test_second_writer_of_the_same_process_is_refused(path: Path) -> None:
    with Heap.create(path), pytest.raises(UsageError, match=f"process {os.getpid()}"):
        Heap.open(path)
    with Heap.open(path, readonly=True), pytest.raises(UsageError, match="one or more"):
        Heap.open(path)
    Heap.open(path).close()


# ---------------------------------------------------------------- growth and give-back


def test_growth_is_geometric_and_blocks_come_as_they_are_needed(path: Path) -> None:
    with Heap.create(path, durability="process", decay=None) as heap:
        sizes, first, live = [path.stat().st_size], blocks_of(path), 0
        while sizes[-1] < 64 * MiB:
            live += heap.usable_size(heap.malloc(100 * KiB))
            assert live <= blocks_of(path) <= first + live * 9 // 8 + 256 * KiB
            if path.stat().st_size != sizes[-1]:
                sizes.append(path.stat().st_size)
        assert heap.stats().growths == len(sizes) - 1
    steps = [after - before for before, after in pairwise(sizes)]
    assert steps == sorted(steps), "each step at least as long as the one before"
    assert steps[0] < 1.1 * MiB
    assert all(
        step <= max(size / 5, min(size / 2, 16 * MiB)) + 1.1 * MiB
        for step, size in zip(steps, sizes, strict=False)
    )
    assert len(steps) < 12


def test_freed_segment_of_the_file_is_the_first_choice_for_growth(path: Path) -> None:
    with Heap.create(path, durability="process", decay=None) as heap:
        front = [heap.malloc(1 * MiB) for _ in range(16)]
        last = heap.malloc(1 * MiB)
        size = path.stat().st_size
        for offset in front:
            heap.free(offset)
        heap.trim()
        assert path.stat().st_size == size, "what is in use lies at the end of the file"
        assert blocks_of(path) < size // 2
        again = [heap.malloc(1 * MiB) for _ in range(12)]
        for seed, offset in enumerate([*again, last]):
            fill(heap, offset, seed)
        assert max(again) > last, "the head went back, and logical offsets are not used again"
        assert path.stat().st_size <= size
        assert heap.check()
        before = contents(heap)
    with Heap.open(path) as heap:
        assert contents(heap) == before
        assert heap.check()


def test_trim_shortens_and_punches(path: Path) -> None:
    with Heap.create(path, durability="process", decay=None) as heap:
        offsets = [heap.malloc(200 * KiB) for _ in range(200)]
        full = path.stat()
        for seed, offset in enumerate(offsets):
            fill(heap, offset, seed)
        for offset in offsets[:50] + offsets[100:110] + offsets[120:]:
            heap.free(offset)
        before = contents(heap)
        returned = heap.trim()
        assert returned > 15 * MiB
        assert path.stat().st_size < full.st_size - 5 * MiB
        assert blocks_of(path) < full.st_blocks * 512 - 20 * MiB
        assert contents(heap) == before
        for offset in before:
            heap.free(offset)
        heap.trim()
        assert path.stat().st_size < 2 * MiB
        assert blocks_of(path) < 2 * MiB
        assert heap.trim() == 0
        assert heap.check()
        fill(heap, heap.malloc(3 * MiB), 1)
    with Heap.open(path) as heap:
        assert heap.check()


def test_punched_units_get_blocks_before_they_are_used(path: Path) -> None:
    with Heap.create(path, durability="process", decay=None) as heap:
        offsets = [heap.malloc(400 * KiB) for _ in range(30)]
        for offset in offsets[1:-1:2]:
            heap.free(offset)
        heap.trim()
        assert blocks_of(path) < path.stat().st_size - 4 * MiB
        live = heap.stats().allocated
    with Heap.open(path, decay=None) as heap:
        before = blocks_of(path)
        while heap.stats().growths == 0:
            live += sum(map(heap.usable_size, heap.malloc_many(4096, 50)))
        assert live <= blocks_of(path)
        assert blocks_of(path) > before + 4 * MiB


def test_surplus_of_a_growth_that_was_cut_off_goes_at_open(path: Path) -> None:
    Heap.create(path).close()
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"x" * 5_000_000)
    with Heap.open(path, readonly=True) as heap:
        assert heap.check()
    with Heap.open(path) as heap:
        assert path.stat().st_size == size
        fill(heap, heap.malloc(5 * MiB), 3)
        assert heap.check()


def test_units_are_read_lazily_whatever_is_freed_meanwhile(path: Path) -> None:
    """Blocks freed, reallocated and made before a heap that was opened has been read."""
    chance = random.Random(3)
    sizes = [16, 100, 1000, 5000, 60_000, 300_000]
    with Heap.create(path, durability="process", decay=None) as heap:
        live = [heap.malloc(chance.choice(sizes)) for _ in range(1200)]
        chance.shuffle(live)
        for offset in live[:400]:
            heap.free(offset)
        del live[:400]
        for seed, offset in enumerate(live):
            fill(heap, offset, seed)
        expected = contents(heap)
    for turn in range(6):
        with Heap.open(path, decay=None) as heap:
            for _ in range(150):
                offset = chance.choice(list(expected))
                data = expected.pop(offset)
                what = chance.random()
                if what < 0.4:
                    heap.free(offset)
                elif what < 0.7:
                    size = chance.choice(sizes)
                    to = heap.realloc(offset, size)
                    kept = min(len(data), size)
                    assert bytes(heap.view(to, kept)) == data[:kept]
                    assert to not in expected
                    fill(heap, to, chance.randrange(1 << 30))
                    expected[to] = bytes(heap.view(to))
                else:
                    expected[offset] = data
                    to = heap.malloc(chance.choice(sizes))
                    assert to not in expected
                    fill(heap, to, chance.randrange(1 << 30))
                    expected[to] = bytes(heap.view(to))
                if turn % 2 and chance.random() < 0.01:
                    heap.trim()
            assert contents(heap) == expected
            assert heap.check(), str(heap.check())


def test_last_block_of_a_heap_just_opened_grows_in_place(path: Path) -> None:
    """It may not take for read what lies before it."""
    with Heap.create(path, durability="process", decay=None) as heap:
        small = [heap.malloc(5000) for _ in range(250)]
        last = heap.malloc(1 * MiB)
        growths = heap.stats().growths
        while heap.stats().growths == growths:  # up to the end of the heap, and one unit beyond
            assert heap.expand(last, heap.usable_size(last) + UNIT)
        heap.expand(last, heap.usable_size(last) + heap.stats().largest_free)
        for seed, offset in enumerate(small):
            fill(heap, offset, seed)
        expected = {offset: bytes(heap.view(offset)) for offset in small}
    with Heap.open(path, decay=None) as heap:
        heap.realloc(last, heap.usable_size(last) + 4 * MiB)
        assert {offset: bytes(heap.view(offset)) for offset in small} == expected
        assert heap.check(), str(heap.check())


# ---------------------------------------------------------------- shared memory

ATTACHED = """
import sys
from pmemheap import Heap
with Heap.attach(int(sys.argv[1]), readonly=sys.argv[2] == "reader") as heap:
    offset = heap.roots["message"]
    print(bytes(heap.view(offset, 5)).decode(), flush=True)
    for line in sys.stdin:
        print(bytes(heap.view(offset, 5)).decode(), flush=True)
"""


@pytest.mark.slow
def test_attached_reader_sees_what_its_writer_stores() -> None:
    with Heap.shared() as heap:
        offset = heap.malloc(5)
        heap.view(offset)[:5] = b"first"
        heap.roots["message"] = offset
        reader = python(ATTACHED, heap.fileno(), "reader", pass_fds=[heap.fileno()])
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "first\n"
        heap.view(offset)[:5] = b"other"
        heap.malloc(20 * MiB)
        reader.stdin.write("again\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "other\n"
        assert answer(reader) == ""


@pytest.mark.slow
def test_second_writer_of_shared_memory_is_refused() -> None:
    with Heap.shared() as heap:
        child = python(ATTACHED, heap.fileno(), "writer", pass_fds=[heap.fileno()])
        child.communicate()
        assert child.returncode == 1
        with pytest.raises(UsageError, match=f"process {os.getpid()} has it open"):
            Heap.attach(heap.fileno(), readonly=False)


def test_shared_memory_outlives_its_first_heap() -> None:
    heap = Heap.shared()
    fd = os.dup(heap.fileno())
    offset = heap.malloc(1000)
    fill(heap, offset, 4)
    before = contents(heap)
    heap.close()
    try:
        with Heap.attach(fd, readonly=False) as heap:
            assert contents(heap) == before
            heap.malloc(5 * MiB)
        with Heap.attach(fd) as heap:
            assert heap.readonly
            assert len(contents(heap)) == 2
    finally:
        os.close(fd)


def test_reader_survives_what_its_writer_does() -> None:
    """Free, trim and growth beside a reader: it may see other bytes, but it never crashes."""
    with Heap.shared(decay=None) as writer:
        offsets = [writer.malloc(size) for size in (100, 5000, 300 * KiB, 8 * MiB, 8 * MiB)]
        for offset in offsets:
            fill(writer, offset, 1)
        with Heap.attach(writer.fileno()) as reader:
            views = [reader.view(offset) for offset in offsets]
            handles = [reader.block(offset) for offset in offsets]
            for offset in offsets:
                writer.free(offset)
            size = os.fstat(writer.fileno()).st_size
            assert writer.trim() > 10 * MiB
            assert os.fstat(writer.fileno()).st_size == size, "a reader has it mapped"
            assert [len(bytes(view)) for view in views]
            for offset in offsets:
                with pytest.raises(UsageError):
                    writer.usable_size(offset)
            views.clear()
            handles.clear()
            for offset in range(0, 20 * MiB, 9973):
                with pytest.raises(UsageError):
                    reader.usable_size(offset)
            writer.malloc_many(100, 10_000)
            list(reader.blocks())
            str(reader.check())
        writer.free_many([offset for offset, _ in writer.blocks()])
        writer.trim()
        assert os.fstat(writer.fileno()).st_size < 2 * MiB, "no reader any more"


@pytest.mark.parametrize(
    "what", ["pipe", "directory", "empty", "text", "closed", "negative", "no int"]
)
def test_descriptor_of_anything_else_is_refused(what: str, tmp_path: Path) -> None:
    before = descriptors()
    opened: list[int] = []
    if what == "pipe":
        opened += os.pipe()
    elif what == "directory":
        opened.append(os.open(tmp_path, os.O_RDONLY))
    elif what in {"empty", "text"}:
        opened.append(os.memfd_create("other"))
        os.write(opened[0], b"no heap\n" * 100_000 if what == "text" else b"")
    fd = opened[0] if opened else {"closed": 987, "negative": -1}.get(what, "no int")
    try:
        for readonly in (True, False):
            with pytest.raises((UsageError, CorruptHeapError, TypeError)):
                Heap.attach(fd, readonly=readonly)  # type: ignore[arg-type]
    finally:
        for each in opened:
            os.close(each)
    assert descriptors() == before


# ---------------------------------------------------------------- full disks and other limits


def fill_up(heap: Heap, path: Path) -> None:
    """Allocate until it is refused; then the heap is as it was, and serves again after a free."""
    offsets: list[int] = []

    def allocate_for_ever() -> None:
        while True:
            offsets.append(heap.malloc(500 * KiB))
            fill(heap, offsets[-1], len(offsets))

    with pytest.raises(OutOfSpaceError, match="cannot grow") as refused:
        allocate_for_ever()
    assert "free on disk" in str(refused.value)
    assert isinstance(refused.value, MemoryError)
    size, before = path.stat().st_size, contents(heap)
    for _ in range(3):
        with pytest.raises(OutOfSpaceError):
            heap.malloc(50 * MiB)
        with pytest.raises(OutOfSpaceError):
            heap.realloc(offsets[0], 50 * MiB)
        assert not heap.expand(offsets[0], 50 * MiB)
    assert path.stat().st_size == size
    assert contents(heap) == before
    for offset in offsets[::2]:
        heap.free(offset)
    heap.trim()
    offsets = [heap.malloc(400 * KiB) for _ in range(len(offsets) // 2)]
    for seed, offset in enumerate(offsets):
        fill(heap, offset, seed)
    assert heap.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of 8 MiB; root only."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        yield tmp_path / "absent"
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_full_disk_is_an_exception(small_disk: Path, tmp_path: Path) -> None:
    if not small_disk.exists():  # not allowed to mount: the limit stands in for it
        with Heap.create(tmp_path / "heap", limit=8 * MiB, durability="process") as heap:
            fill_up(heap, tmp_path / "heap")
        return
    path = small_disk / "heap"
    with Heap.create(path, durability="process", decay=None) as heap:
        fill_up(heap, path)
        before = contents(heap)
    with Heap.open(path) as heap:
        assert contents(heap) == before
    room = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(max(room - 4 * UNIT, 0)))
    with pytest.raises(OutOfSpaceError, match="No space left"):
        Heap.create(small_disk / "other", durability="process")
    assert sorted(each.name for each in small_disk.iterdir()) == ["ballast", "heap"]


def test_power_durability_is_refused_on_memory(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if native.filesystem_type(os.open(tmp_path, os.O_RDONLY)) != native.TMPFS and shm.is_dir():
        tmp_path = shm
    path = tmp_path / f"pmemheap-test-{os.getpid()}"
    with pytest.raises(UsageError, match="outlives the power"):
        Heap.create(path, durability="power")
    assert not path.exists()
    Heap.create(path, durability="process").close()
    path.unlink()


def test_limit_holds(path: Path) -> None:
    with pytest.raises(UsageError, match="limit"):
        Heap.create(path, limit=1 * MiB)
    assert not path.exists()
    with Heap.create(path, limit=10 * MiB, durability="process") as heap:
        fill_up(heap, path)
        assert path.stat().st_size <= 10 * MiB


LIMITED = """
import resource, sys
from pmemheap import Heap
from pmemheap.errors import OutOfSpaceError
kind, most, path = getattr(resource, sys.argv[1]), int(sys.argv[2]), sys.argv[3]
resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
heap = Heap.create(path, durability="process")
count = 0
try:
    while True:
        heap.malloc(1 << 20)
        count += 1
except OutOfSpaceError as error:
    print(error)
for offset, _ in list(heap.blocks()):
    heap.free(offset)
heap.trim()
heap.malloc(1 << 20)
print(count, bool(heap.check()))
heap.close()
"""


@pytest.mark.unsanitized
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "most", "message"),
    [("RLIMIT_AS", 512 * MiB, "headroom"), ("RLIMIT_FSIZE", 20 * MiB, "File too large")],
)
def test_limits_of_the_process_are_exceptions(
    kind: str, most: int, message: str, path: Path
) -> None:
    assert hasattr(resource, kind)
    first, last = answer(python(LIMITED, kind, most, path)).splitlines()
    assert "cannot grow" in first
    assert message in first
    count, sound = last.split()
    assert 15 <= int(count) < most // MiB
    assert sound == "True"


def test_file_system_without_fallocate_gets_zeros(path: Path) -> None:
    """EOPNOTSUPP for the calls that have a substitute: here the very first one."""
    with native.faults(2, errno.EOPNOTSUPP, FaultKind.ERROR) as fault:
        try:
            heap = Heap.create(path, durability="process")
        except (UsageError, OutOfSpaceError):
            heap = Heap.create(path, durability="process")
    assert fault.hit
    heap.malloc(5 * MiB)
    assert heap.check()
    heap.close()


# ---------------------------------------------------------------- kill

VICTIM = """
import random, sys, time
from pmemheap import Heap
path, seed, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
heap = Heap.create(path, durability=chance.choice(["power", "process"]), decay=None)
live = {}

def made(offset, size):
    # outside of a transaction only where the log has no bytes of the block: a replay restores those
    mark = chance.randrange(256)
    if size > 65536:
        heap.view(offset, size)[:] = bytes([mark]) * size
    else:
        with heap.transaction(durable=False) as tx:
            tx.write(offset, bytes([mark]) * size)
    live[offset] = (size, mark)

def forget(offset):
    del live[offset]
    for name in [name for name, to in heap.roots.items() if to == offset]:
        del heap.roots[name]

for step in range(steps):
    what, size = chance.random(), chance.choice([16, 100, 3000, 50_000, 400_000, 2_000_000])
    if what < 0.5 or not live:
        made(heap.malloc(size), size)
    elif what < 0.8:
        offset = chance.choice(list(live))
        forget(offset)
        heap.free(offset)
    elif what < 0.9:
        offset = chance.choice(list(live))
        forget(offset)
        made(heap.realloc(offset, size), size)
    elif what < 0.94:
        heap.roots[str(chance.randrange(5))] = chance.choice(list(live))
    elif what < 0.96:
        for offset in heap.malloc_many(48, 50):
            made(offset, 48)
    elif what < 0.98:
        heap.trim()
    else:
        heap.sync()
print(repr((live, dict(heap.roots))), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_kill_between_calls_loses_nothing(seed: int, path: Path) -> None:
    victim = python(VICTIM, path, seed, 40 + 60 * seed)
    assert victim.stdout is not None
    live, roots = eval(victim.stdout.readline())
    victim.kill()
    victim.communicate()
    for _ in range(2):
        with Heap.open(path) as heap:
            assert heap.check(), str(heap.check())
            assert {offset for offset, _ in heap.blocks()} == live.keys()
            assert dict(heap.roots) == roots
            for offset, (size, mark) in live.items():
                assert bytes(heap.view(offset, size)) == bytes([mark]) * size
            fill(heap, heap.malloc(3 * MiB), 1)
            heap.free(max(offset for offset, _ in heap.blocks() if offset not in live))


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_limit_is_kept_and_may_be_another_while_it_is_open(
    durability: DurabilityName, tmp_path: Path
) -> None:
    path, copy = tmp_path / "a", tmp_path / "b"
    Heap.create(path, durability=durability, limit=8 * MiB).close()
    for place in (path, copy):
        with Heap.open(place) as heap:
            with pytest.raises(OutOfSpaceError, match="limit 8388608 bytes expected"):
                heap.malloc(8 * MiB)
            assert heap.explain(1).limit == 8 * MiB
            if place == path:
                heap.snapshot(copy)
    with Heap.open(path, limit=64 * MiB) as heap:
        heap.malloc(8 * MiB)
        heap.sync()
    with Heap.open(path) as heap:
        assert heap.explain(1).limit == 8 * MiB
    Heap.create(path, durability=durability, replace=True).close()
    with Heap.open(path) as heap:
        assert heap.explain(1).limit is None
