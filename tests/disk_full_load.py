"""A heap on file systems of 4 and 8 MiB that are really full: `make disk-full`, as root."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from kill_script import emptied, made
from test_disk_full import SMALL, fill_up

from pmemheap import Heap
from pmemheap.errors import OutOfSpaceError
from pmemheap.units import MiB


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[Path]:
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@contextmanager
def small_tmpfs(directory: Path) -> Iterator[Path]:
    with mounted(directory / "mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs") as mount:
        yield mount


@contextmanager
def small_ext4(directory: Path) -> Iterator[Path]:
    disk = directory / "disk"
    with disk.open("wb") as file:
        file.truncate(2 * SMALL)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(disk)], check=True)
    with mounted(directory / "mount", "-o", "loop", str(disk)) as mount:
        yield mount


@pytest.mark.parametrize(
    ("file_system", "durability"),
    [(small_tmpfs, "process"), (small_ext4, "process"), (small_ext4, "power")],
)
def test_a_file_system_that_is_full(
    file_system: Callable[[Path], AbstractContextManager[Path]], durability: str, tmp_path: Path
) -> None:
    with file_system(tmp_path) as directory:
        path = directory / "heap"
        made(path, durability).close()
        size = path.stat().st_size
        refused, done = fill_up(path, seed=2)
        assert refused > 20
        assert done > 60
        assert shutil.disk_usage(directory).total <= 2 * SMALL
        assert emptied(path) == size


def test_no_room_to_create_a_heap(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path) as directory:
        (directory / "other").write_bytes(bytes(3 * MiB))
        with pytest.raises(OutOfSpaceError):
            Heap.create(directory / "heap")
        assert [each.name for each in directory.iterdir()] == ["other"]
