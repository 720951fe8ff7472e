"""A medium that refuses writes for a while, for real: what was acknowledged is there afterwards.

    tmpfs, full   | image of an ext4, with holes in the place of some blocks of a heap |
    loop device     a write to a hole has nowhere to go: EIO, or ENOSPC

Needs root, loop devices and mkfs.ext4, so that it is run by hand: ``python failed_writeback.py``.
Other processes that have the heap mapped keep the pages that could not be written in memory.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pmemheap import Heap, layout, native
from pmemheap.errors import DurabilityError
from pmemheap.layout import SegmentSlot
from pmemheap.native import Allocate
from pmemheap.units import PAGE, MiB

COMMITS, SIZE = 40, 1000
IMAGE_BYTES, ROOM_BYTES = 48 * MiB, 8 * MiB
_FIBMAP = 1


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Medium:
    """A mounted file system whose device can be made to refuse writes to some blocks."""

    def __init__(self, directory: Path) -> None:
        self._memory, self.root = directory / "memory", directory / "root"
        for each in (self._memory, self.root):
            each.mkdir()
        run(
            "mount", "-t", "tmpfs", "-o", f"size={IMAGE_BYTES + ROOM_BYTES}", "t", f"{self._memory}"
        )
        self._image, self._filler = self._memory / "image", self._memory / "filler"
        with self._image.open("wb") as file:
            native.fallocate(file.fileno(), 0, IMAGE_BYTES)
        run("mkfs.ext4", "-q", "-F", "-b", str(PAGE), "-E", "nodiscard", "-O", "^has_journal",
            str(self._image))  # fmt: skip
        self._device = run("losetup", "--find", "--show", str(self._image))
        self.mount()

    def mount(self) -> None:
        run("mount", self._device, str(self.root))

    def unmount(self) -> None:
        run("umount", str(self.root))

    def end(self) -> None:
        for command in (
            ("umount", "--lazy", str(self.root)), ("losetup", "-d", self._device),
            ("umount", "--lazy", str(self._memory)),
        ):  # fmt: skip
            with suppress(subprocess.CalledProcessError):
                run(*command)

    def refuse(self, blocks: list[int]) -> None:
        """Let writes to these blocks fail, which hold zeros."""
        with self._image.open("r+b") as file:
            for block in blocks:
                native.fallocate(file.fileno(), block * PAGE, PAGE, Allocate.PUNCH_HOLE)
        with self._filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(PAGE))

    def heal(self) -> None:
        self._filler.unlink()


def blocks_of(path: Path, offset: int, length: int) -> list[int]:
    """Return the blocks of the device that hold a range of a file."""
    with path.open("rb") as file:
        found = [
            fcntl.ioctl(file.fileno(), _FIBMAP, struct.pack("i", page))
            for page in range(offset // PAGE, (offset + length) // PAGE)
        ]
    return [struct.unpack("i", each)[0] for each in found if any(each)]


def parts(path: Path) -> dict[str, tuple[int, int]]:
    """Return ranges of a new heap that are zeros, by what lies there.

    Pages that are written together are refused together: a loop device takes a write of which a
    part was done for a whole one.
    """
    image = path.read_bytes()
    at = layout.SEGMENT_TABLE
    log, data = (SegmentSlot.unpack(image[place : place + 64], place) for place in (at, at + 64))
    assert log is not None
    assert data is not None
    return {
        "tables": (data.entries_off, data.data_off - data.entries_off),
        "roots": (layout.ROOT_TABLE, PAGE),
        "log": (log.file_off, log.file_bytes),
    }


def sync_as_another(heap: Heap) -> None:
    """Sync what is mapped, as a commit of another thread does, which is told of failures."""
    with suppress(native.NativeError):
        native.fsync(heap.fileno())


def commit_and_die(path: Path, medium: Medium, blocks: list[int], early: bool, told: int) -> None:
    """Be the owner: commit, meet the refusal, say how many commits were acknowledged, be killed.

    Another thread syncs first, and is told.
    """
    heap, acknowledged = Heap.open(path), 0
    with suppress(DurabilityError):
        for number in range(COMMITS):
            if early and number == COMMITS // 2:
                medium.refuse(blocks)
            with heap.transaction(durable=not early) as tx:
                block = tx.alloc(SIZE)
                block.view[:] = bytes([number + 1]) * SIZE
                tx.roots[f"root {number}"] = block.offset
            if early:
                sync_as_another(heap)
                heap.transaction().commit()
            acknowledged += 1
        if not early:
            medium.refuse(blocks)
            sync_as_another(heap)
            heap.sync()
    os.write(told, bytes([acknowledged]))
    signal.pause()


@contextmanager
def owner(path: Path, medium: Medium, blocks: list[int], *, early: bool) -> Iterator[int]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            commit_and_die(path, medium, blocks, early, writer)
        finally:
            os._exit(1)
    os.close(writer)
    acknowledged = os.read(reader, 1)
    os.close(reader)
    yield acknowledged[0]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def whole(path: Path) -> int:
    """Return how many commits a heap has, with every byte."""
    with Heap.open(path) as heap:
        assert heap.check(), heap.check()
        return sum(
            bytes(heap.view(heap.roots[f"root {number}"], SIZE)) == bytes([number + 1]) * SIZE
            for number in range(COMMITS)
            if f"root {number}" in heap.roots
        )


def exercise(medium: Medium, part: str, *, mapped: bool) -> str:
    path = medium.root / f"{part} {mapped}"
    with Heap.create(path, durability="power") as heap:  # whose tables were written, and are zeros
        offset = heap.malloc(SIZE)
        heap.sync()
        heap.free(offset)
        heap.trim()
    os.sync()
    start, length = parts(path)[part]
    assert not any(path.read_bytes()[start : start + length]) or part == "log", part
    blocks = blocks_of(path, start, length)
    with owner(path, medium, blocks, early=part == "log") as acknowledged, path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if mapped else None
        if pages is not None:
            sum(pages[at] for at in range(0, len(pages), PAGE))
    medium.heal()
    outcome = "recovered"
    try:
        with suppress(AssertionError):
            whole(path)
    except DurabilityError as error:
        outcome = f"refused: {error}"
    if pages is not None:
        pages.close()
    medium.unmount()
    medium.mount()
    found = 0
    with suppress(AssertionError):
        found = whole(path)
    # What the log cannot take is not acknowledged, even if its homes reach the medium.
    most = min(found, COMMITS // 2 if part == "log" else COMMITS)
    verdict = "held" if acknowledged <= most else "LOST"
    return f"{verdict}: {part}, mapped {mapped}: {found} of {acknowledged} commits; {outcome}"


def main() -> int:
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        for part in ("tables", "roots", "log"):
            for mapped in (False, True):
                place = Path(directory) / f"{part} {mapped}"
                place.mkdir()
                medium = Medium(place)
                try:
                    lines.append(exercise(medium, part, mapped=mapped))
                finally:
                    medium.end()
    sys.stdout.write("\n".join(lines) + "\n")
    return any(line.startswith("LOST") for line in lines)


if __name__ == "__main__":
    sys.exit(main())
