from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from damage_load import KINDS, exercise, original
from heap_world import python

from pmemheap import Heap
from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.format.superblock import Superblock

ALL = bool(os.environ.get("PMEMHEAP_DAMAGE_ALL"))
STRIDES = {"flips": 199, "truncations": 29, "garbage": 11, "sealed": 37}
CODE = """
import sys
from damage_load import main
print(*main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
"""


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """Return a directory in memory, where there is one: nothing here depends on the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_gives_an_error_or_intact_data(kind: str, memory_path: Path) -> None:
    child = python(CODE, kind, 1 if ALL else STRIDES[kind], memory_path)
    out, _ = child.communicate()
    lines = out.splitlines()
    assert child.returncode == 0, f"exit code {child.returncode} at case {lines[-1:]}"
    count, opened = map(int, lines[-1].split())
    assert count >= 40
    assert opened < count


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "at least 167936 bytes expected, 0 found"),
        (b"text\n", "at least 167936 bytes expected, 5 found"),
        (bytes(400_000), "magic b'PMEMHEAP' expected"),
    ],
)
@pytest.mark.parametrize("readonly", [False, True])
def test_file_that_is_no_heap_is_refused_untouched(
    data: bytes, message: str, readonly: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(CorruptHeapError, match=message):
        Heap.open(path, readonly=readonly)
    assert path.read_bytes() == data


def test_undamaged_file_is_opened(tmp_path: Path) -> None:
    """What the damaged ones are compared with: the exercise does reach the blocks."""
    _, blocks = original(tmp_path / "heap")
    with Heap.open(tmp_path / "heap") as heap:
        assert heap.check()
        assert {offset: bytes(heap.view(offset)) for offset, _ in heap.blocks()} == blocks
    assert exercise(tmp_path / "heap", blocks)


def test_heap_of_another_boot_that_was_not_closed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    heap = Heap.create(path, durability="process")
    image = bytearray(path.read_bytes())
    heap.close()
    blocks = [Superblock.unpack(bytes(image[at : at + 512]), at) for at in (0, 4096)]
    for at, block in zip((0, 4096), blocks, strict=True):
        image[at : at + 512] = replace(block, boot_id=b"another boot id!").pack()
    path.write_bytes(image)
    with pytest.raises(CorruptHeapError, match="the machine went down"):
        Heap.open(path)


def test_block_that_damage_hides_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        offset = heap.malloc(500_000)
        heap.roots["big"] = offset
    image = bytearray(path.read_bytes())
    entry = image.index(b"\x01\0\0\0\x7b\0\0\0")
    image[entry : entry + 8] = bytes(8)
    path.write_bytes(image)
    with Heap.open(path) as heap:
        report = heap.check()
        assert not report
        assert "root 'big'" in str(report)
        with pytest.raises(UsageError):
            heap.view(offset)
