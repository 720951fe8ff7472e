"""Recovery acts on what the medium has, also where a process keeps the file in memory [R10].

The medium is another file here: what it lacks is what a failed write-back has left in the cache
alone. `failed_writeback.py` does the same on a block device that refuses writes.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pmemheap import Heap, layout, native
from pmemheap.errors import DurabilityError, PmemHeapError
from pmemheap.file import pagecache
from pmemheap.layout import SegmentKind, SegmentSlot
from pmemheap.native import Call
from pmemheap.repair import repair
from pmemheap.testing import copy_as_crashed
from pmemheap.units import PAGE, MiB

COMMITS = 5


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(MiB))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    yield fd
    os.close(fd)


@contextmanager
def mapped(fd: int) -> Iterator[mmap.mmap]:
    """Have all pages of a file in memory, and in use."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as pages:
        touch(pages)
        yield pages


def touch(pages: mmap.mmap) -> None:
    sum(pages[at] for at in range(0, len(pages), PAGE))


@pytest.fixture
def medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What reads past the cache get: a copy that a test makes."""
    path = tmp_path / "medium"
    monkeypatch.setattr(pagecache, "_opened_anew", lambda fd, name: os.open(path, os.O_RDONLY))
    return path


# ------------------------------------------------------------------------------------ the cache


def test_what_nobody_has_mapped_is_dropped(file: int) -> None:
    assert native.cached(file, 0) == MiB // PAGE
    assert pagecache.drop(file)
    assert native.cached(file, 0) == 0
    with mapped(file):
        assert not pagecache.drop(file)


def test_equal_bytes_are_taken_as_they_are(file: int) -> None:
    with mapped(file):
        pagecache.require_same(file, "file", [(0, MiB)])


def test_other_bytes_are_refused_with_place_and_process(file: int, medium: Path) -> None:
    data = native.pread(file, MiB, 0)
    medium.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    with mapped(file):
        pagecache.require_same(file, "file", [(0, 100), (9000, 100)])
        with pytest.raises(DurabilityError, match=f"offset 0x1000, .* {os.getpid()} .this one"):
            pagecache.require_same(file, "file", [(4000, 100), (0, 100)])
    pagecache.drop(file)
    pagecache.require_same(file, "file", [(0, MiB)])  # nothing is left that could be wrong


def test_a_medium_that_cannot_be_read_is_refused(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no direct reads")

    monkeypatch.setattr(pagecache, "_opened_anew", refuse)
    with mapped(file), pytest.raises(DurabilityError, match="which the system refuses"):
        pagecache.require_same(file, "file", [(0, 100)])


def test_without_the_newer_call_a_map_tells_what_is_cached(file: int) -> None:
    """Then the whole file cannot be asked for, and what counts is compared."""

    def refused(nth: int, *where: int) -> int | None:
        with native.faults(nth, errno.ENOSYS) as fault:
            found = native.cached(file, *where)
        assert fault.hit == Call.CACHESTAT
        return found

    assert refused(2, 0) is None
    with mapped(file):
        assert refused(2, 0, MiB) == MiB // PAGE
        assert refused(2, PAGE, 2 * PAGE) == 2


def test_a_file_is_found_by_its_name_without_proc(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "file", os.open

    def without_proc(name: str, flags: int) -> int:
        if name.startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, "no /proc")
        return real(name, flags)

    monkeypatch.setattr(os, "open", without_proc)
    with mapped(file):
        pagecache.require_same(file, str(path), [(0, MiB)])
        path.rename(tmp_path / "moved")
        path.write_bytes(b"another")
        with pytest.raises(DurabilityError, match="another file has its name"):
            pagecache.require_same(file, str(path), [(0, MiB)])


# ------------------------------------------------------------------------------------ recovery


def in_a_child(function: Callable[[], object]) -> int:
    """Start a child; it lives on, with what the function returns, until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            kept = function()
            os.write(writer, b"!")
            signal.pause()
            del kept
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    return child


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def commit(path: Path, fresh: int = 0) -> Heap:
    heap = Heap.open(path)
    for number in range(COMMITS):
        with heap.transaction() as tx:
            block = tx.alloc(1000 + fresh)
            block.view[:1000] = bytes([number + 1]) * 1000
            tx.roots[f"root {number}"] = block.offset
    return heap


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A heap whose owner was killed with commits in its log."""
    path = tmp_path / "heap"
    with Heap.create(path, durability="power") as heap:
        heap.malloc(100)
    end(in_a_child(lambda: commit(path)))
    return path


def parts(path: Path) -> dict[str, int]:
    """Return places in a heap file by what lies there."""
    image = path.read_bytes()
    slots = [
        SegmentSlot.unpack(image[at : at + 64], at)
        for at in range(layout.SEGMENT_TABLE, layout.ARENA_TABLE, 64)
    ]
    log = next(slot for slot in slots if slot is not None and slot.kind == SegmentKind.LOG)
    data = next(slot for slot in slots if slot is not None and slot.kind == SegmentKind.DATA)
    return {
        "superblock": layout.SUPERBLOCKS[0], "roots": layout.ROOT_TABLE, "log": log.file_off,
        "entries": data.entries_off, "bits": data.bits_off, "data": data.data_off + PAGE,
    }  # fmt: skip


def keep_mapped(path: Path) -> int:
    """Start a child that has a heap file mapped, and lives on."""

    def hold() -> mmap.mmap:
        pages = mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ)
        touch(pages)
        return pages

    return in_a_child(hold)


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("part", ["superblock", "roots", "log", "entries", "bits", "data"])
def test_recovery_refuses_what_the_medium_has_not(
    crashed: Path, medium: Path, part: str, readonly: bool
) -> None:
    place = parts(crashed)[part]
    child = keep_mapped(crashed)
    image = crashed.read_bytes()
    medium.write_bytes(image[:place] + bytes(PAGE) + image[place + PAGE :])
    try:
        with pytest.raises(DurabilityError, match=f"{place:#x}, .* process {child} "):
            Heap.open(crashed, readonly=readonly)
        assert crashed.read_bytes() == image
        medium.write_bytes(image)
        with Heap.open(crashed, readonly=readonly) as heap:
            assert len(heap.roots) == COMMITS
    finally:
        end(child)


def test_a_mapped_heap_is_recovered_from_what_both_have(crashed: Path) -> None:
    child = keep_mapped(crashed)
    try:
        with Heap.open(crashed) as heap:
            assert len(heap.roots) == COMMITS
            assert heap.check()
    finally:
        end(child)


def test_new_data_that_was_synced_ahead_of_its_record_is_looked_at(
    tmp_path: Path, medium: Path
) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="power") as heap:
        heap.malloc(100)
    end(in_a_child(lambda: commit(path, fresh=2 * MiB)))
    child = keep_mapped(path)
    try:
        copy_as_crashed(path, medium)
        with medium.open("r+b") as file:
            file.seek(path.stat().st_size - PAGE - 3 * MiB)
            file.write(b"\xff")
        with pytest.raises(DurabilityError, match="others found in memory"):
            Heap.open(path)
    finally:
        end(child)


def test_a_large_heap_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="power") as heap:
        offset = heap.malloc(32 * MiB)
        with heap.view(offset) as view:
            ctypes.memset(heap.address(offset), 1, len(view))
    end(in_a_child(lambda: commit(path)))
    child = keep_mapped(path)
    compared, real = [], native.pread_into

    def counted(fd: int, buffer: memoryview, offset: int) -> int:
        count = real(fd, buffer, offset)
        if native.file_flags(fd) & os.O_DIRECT:
            compared.append(count)
        return count

    monkeypatch.setattr(native, "pread_into", counted)
    try:
        with Heap.open(path) as heap:
            assert len(heap.roots) == COMMITS
    finally:
        end(child)
    assert 0 < sum(compared) < 2 * MiB


@pytest.mark.slow
def test_what_refuses_while_the_medium_is_read_is_an_exception_of_ours(crashed: Path) -> None:
    child, image = keep_mapped(crashed), crashed.read_bytes()
    hits = set()
    try:
        for nth in range(1, 200):
            crashed.write_bytes(image)
            heap = None
            with native.faults(nth, errno.EIO) as fault, suppress(PmemHeapError):
                heap = Heap.open(crashed)
            hits.add(fault.hit)
            if heap is not None:
                heap.close()
            with Heap.open(crashed) as heap:
                assert len(heap.roots) == COMMITS
            if fault.hit == Call.NONE:
                break
    finally:
        end(child)
    assert {Call.CACHESTAT, Call.PREAD, Call.NONE} <= hits


def test_a_checkpoint_hears_of_failures_that_others_were_told(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells them once to each description: that of the maps is synced by all threads."""
    synced: list[int] = []
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(native, name, synced.append)
    with Heap.open(crashed) as heap:
        heap.malloc(100)
        heap.sync()
        heap.malloc(2 * MiB)
        maps = os.readlink(f"/proc/self/fd/{heap.fileno()}")
        assert heap.fileno() not in synced
        assert {os.readlink(f"/proc/self/fd/{fd}") for fd in synced} == {maps}
        assert len(synced) > 3


def test_a_repair_decides_by_what_the_medium_has(crashed: Path, medium: Path) -> None:
    copy_as_crashed(crashed, medium)
    with medium.open("r+b") as file:
        file.seek(parts(crashed)["bits"])
        file.write(bytes(PAGE))
    child, image = keep_mapped(crashed), crashed.read_bytes()
    try:
        with pytest.raises(DurabilityError, match=str(child)):
            repair(crashed)
        assert crashed.read_bytes() == image
        assert not list(crashed.parent.glob("*.undo"))
    finally:
        end(child)
