"""Copies of a heap file that is open: they open as closed heaps, and the heap goes on."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wreck import contents, look, opened, segments

from pmemheap import DurabilityName, Heap, native
from pmemheap.errors import HeapBusyError, HeapExistsError, UsageError
from pmemheap.file.snapshotting import CopyMethod, copy_heap_file
from pmemheap.format.superblock import Superblock
from pmemheap.layout import HeapState, SegmentKind
from pmemheap.native import NativeError
from pmemheap.units import MiB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process", decay=None) as heap:
        for number in range(40):
            offset = heap.malloc(30_000)
            heap.view(offset)[:] = bytes([number]) * heap.usable_size(offset)
            heap.roots[f"root {number}"] = offset
        for name in list(heap.roots)[::3]:
            heap.free(heap.roots.pop(name))
        heap.trim()
    return path


def copy(source: Path, path: Path, **options: Any) -> CopyMethod:
    image = source.read_bytes()
    fd = os.open(source, os.O_RDWR)
    try:
        return copy_heap_file(
            fd, path, newest(image), segments(image).values(), len(image),
            require_ours=lambda _: None, **options,
        )  # fmt: skip
    finally:
        os.close(fd)


def newest(image: bytes) -> Superblock:
    copies = [Superblock.unpack(image[at : at + 512], at) for at in (0, 4096)]
    return max(copies, key=lambda block: block.generation)


def refuse(number: int) -> Callable[..., int]:
    def call(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


def test_a_copy_is_the_same_heap_and_closed(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    copy(source, path)
    found = look(path)
    assert not found.findings.kept
    assert found.superblock is not None
    assert found.superblock.state == HeapState.CLEAN
    with opened(source) as old, opened(path) as new:
        assert contents(new) == contents(old)
        assert dict(new.roots) == dict(old.roots)
        assert new.uuid == old.uuid
    assert sorted(os.listdir(tmp_path)) == ["copy", "heap"]


def test_a_copy_can_have_an_identity_of_its_own(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "copy", new_identity=True)
    with opened(source) as old, opened(tmp_path / "copy") as new:
        assert new.uuid != old.uuid


def test_changes_of_the_copy_do_not_reach_the_heap(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "copy")
    before = source.read_bytes()
    with opened(tmp_path / "copy") as heap:
        for offset in list(heap.roots.values()):
            heap.view(offset)[:] = b"\xff" * heap.usable_size(offset)
        heap.malloc(1 << 20)
    assert source.read_bytes() == before


@pytest.mark.parametrize("without", ["clone", "ranges", "bytes"])
def test_every_way_of_copying_gives_the_same(
    without: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "copy"
    if without in {"ranges", "bytes"}:
        monkeypatch.setattr(fcntl, "ioctl", refuse(errno.EOPNOTSUPP))
    if without == "bytes":
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.EXDEV), raising=False)
    method = copy(source, path)
    assert without in {"clone", method}
    assert path.read_bytes()[8192:] == source.read_bytes()[8192:]
    with opened(path):
        pass


def test_a_clone_gets_blocks_of_its_own_for_what_is_stored_in_place(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a clone is not possible one is simulated: the file has all bytes already."""

    def clone(target: int, _: int, origin: int) -> int:
        os.pwrite(target, os.pread(origin, 1 << 30, 0), 0)
        return 0

    written: list[tuple[int, int]] = []
    pwrite = native.pwrite

    def note(fd: int, data: bytes, offset: int) -> None:
        written.append((offset, offset + len(data)))
        pwrite(fd, data, offset)

    monkeypatch.setattr(fcntl, "ioctl", clone)
    monkeypatch.setattr(native, "pwrite", note)
    assert copy(source, tmp_path / "copy") == CopyMethod.CLONE
    data = next(s for s in segments(source.read_bytes()).values() if s.kind == SegmentKind.DATA)
    for place in (0x4000, 0x28000, data.entries_off, data.bits_off):
        assert any(start <= place < stop for start, stop in written)
    assert not any(start <= data.data_off < stop for start, stop in written)
    with opened(tmp_path / "copy"):
        pass


def test_holes_stay_holes(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process", decay=None) as heap:
        held = [heap.malloc(1 << 20) for _ in range(40)]
        heap.roots["last"] = held.pop()
        heap.free_many(held)
        heap.trim()
    status = path.stat()
    if status.st_blocks * 512 > status.st_size // 2:
        pytest.skip("a file system that punches no holes")
    copy(path, tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_blocks * 512 < status.st_size // 2


def test_nothing_is_replaced_unless_asked(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="one is there"):
        copy(source, path)
    assert path.read_bytes() == b"mine"
    copy(source, path, replace_file=True)
    with opened(path):
        pass
    with pytest.raises(UsageError):
        copy(source, tmp_path, replace_file=True)
    with pytest.raises(UsageError, match="directory"):
        copy(source, tmp_path / "absent" / "copy")


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_heap_goes_on_after_its_snapshot(durability: DurabilityName, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        with heap.transaction() as tx:
            first = tx.malloc(5000)
            tx.write(first, b"first")
            tx.roots["first"] = first
        bare = heap.malloc(100)
        heap.view(bare, 4)[:] = b"bare"
        before = contents(heap)
        heap.snapshot(path)
        with heap.transaction() as tx:
            tx.write(first, b"later")
            tx.roots["later"] = tx.malloc(100_000)
        heap.free(bare)
        assert heap.check()
        with opened(path) as copied:
            assert contents(copied) == before
            assert dict(copied.roots) == {"first": first}
            assert copied.uuid == heap.uuid
        heap.snapshot(path, new_identity=True, replace=True)
        with opened(path) as copied:
            assert contents(copied) == contents(heap)
            assert copied.uuid != heap.uuid
        with pytest.raises(UsageError, match="one is there"):
            heap.snapshot(path)
    assert not look(path).findings.kept


def test_a_snapshot_inside_of_a_transaction_is_refused(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap") as heap:
        with heap.transaction() as tx:
            tx.malloc(100)
            with pytest.raises(UsageError, match="no open transaction"):
                heap.snapshot(tmp_path / "copy")
        with Heap.anonymous() as anonymous, pytest.raises(UsageError, match="in a file"):
            anonymous.snapshot(tmp_path / "copy")
    assert sorted(os.listdir(tmp_path)) == ["heap"]


def test_a_heap_that_is_changed_all_the_time_is_not_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file_range = os.copy_file_range

    def change(origin: int, target: int, count: int, *places: int) -> int:
        done = copy_file_range(origin, target, count, *places)
        entries = next(
            s for s in segments(source.read_bytes()).values() if s.kind == SegmentKind.DATA
        )
        byte = os.pread(origin, 1, entries.entries_off + 4000)
        os.pwrite(origin, bytes([byte[0] + 1 & 255]), entries.entries_off + 4000)
        return done

    monkeypatch.setattr(fcntl, "ioctl", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "copy_file_range", change)
    with pytest.raises(UsageError, match="nobody changes"):
        copy(source, tmp_path / "copy")
    assert os.listdir(tmp_path) == ["heap"]


@pytest.mark.parametrize("call", ["fsync", "pwrite", "ftruncate"])
def test_a_copy_that_fails_leaves_nothing(
    call: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise NativeError(errno.ENOSPC, call)

    monkeypatch.setattr(native, call, fail)
    with pytest.raises(OSError, match="No space"):
        copy(source, tmp_path / "copy")
    assert os.listdir(tmp_path) == ["heap"]


# ---------------------------------------------------------------- out of a heap that is read


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("ended", ["closed", "killed"])
def test_a_reader_copies_what_it_reads(
    durability: DurabilityName, ended: str, tmp_path: Path
) -> None:
    path, to = tmp_path / "heap", tmp_path / "copy"
    child = os.fork()
    if child == 0:
        heap = Heap.create(path, durability=durability, decay=None)
        offset = heap.malloc(2 * MiB)
        heap.view(offset)[:] = b"v" * heap.usable_size(offset)
        heap.roots["kept"] = offset
        with heap.transaction() as tx:
            tx.write(offset, b"written")
        if ended == "closed":
            heap.close()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    image = path.read_bytes()
    with Heap.open(path, readonly=True) as heap:
        heap.snapshot(to)
        with pytest.raises(HeapExistsError):
            heap.snapshot(to)
        with pytest.raises(HeapBusyError):
            heap.snapshot(path, replace=True)
        heap.snapshot(to, replace=True, new_identity=True)
        read = contents(heap)
        identity = heap.uuid
    assert path.read_bytes() == image
    assert not look(to).findings.kept
    with Heap.open(to) as copied:
        assert contents(copied) == read
        assert copied.uuid != identity
        assert bytes(copied.view(copied.roots["kept"])[:8]) == b"writtenv"
    assert sorted(tmp_path.iterdir()) == [to, path]


def test_a_reader_beside_a_writer_leaves_copies_to_that(tmp_path: Path) -> None:
    with (
        Heap.create(tmp_path / "heap", durability="process") as heap,
        Heap.attach(os.open(heap.name, os.O_RDONLY)) as reader,
        pytest.raises(UsageError, match="its writer"),
    ):
        reader.snapshot(tmp_path / "copy")
