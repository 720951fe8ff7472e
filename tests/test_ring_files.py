"""Rings in files: a queue that outlives its process, with its order."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from file_looks import findings_of, medium_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from test_ring import Model, ring_of

from pmemheap import CorruptHeapError, Heap, OutOfSpaceError, Ring, UsageError
from pmemheap.format.layout import HAS_PACKED, SUPERBLOCKS, Table, slot_offset
from pmemheap.format.superblock import Superblock
from pmemheap.native.constants import RING_WHOLE
from pmemheap.repair import repair
from pmemheap.salvage import salvage
from pmemheap.testing import AllocatorContract
from pmemheap.units import UNIT, MiB

DURABILITIES = pytest.mark.parametrize("durability", ["process", "power"])
SIZES = 20, 300, 20, 5000, 70_000, 9000


class TestRingInProcessFile(AllocatorContract):
    durability: Any = "process"

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with (
            tempfile.TemporaryDirectory() as directory,
            Heap.create(Path(directory) / "heap", durability=self.durability) as heap,
        ):
            yield ring_of(heap)


class TestRingInPowerFile(TestRingInProcessFile):
    durability = "power"


def filled(heap: Heap, count: int = 600, seed: int = 1) -> list[int]:
    """Put blocks into the ring that tell their number."""
    ring, rng = ring_of(heap), random.Random(seed)
    offsets = [ring.malloc(rng.choice(SIZES), rng.choice((16, 16, 512))) for _ in range(count)]
    for number, offset in enumerate(offsets):
        ring.view(offset, 4)[:] = number.to_bytes(4, "little")
    return offsets


def numbers_in(heap: Heap) -> list[int]:
    """Return the numbers of the blocks, in order of arrival."""
    return [int.from_bytes(heap.view(offset, 4), "little") for offset, _ in ring_of(heap).blocks()]


# ---------------------------------------------------------------- it is there again


@DURABILITIES
def test_a_queue_goes_on_where_it_was(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability=durability) as heap:
        offsets = filled(heap)
        ring_of(heap).free_many(offsets[:200] + offsets[300:500:2])
    left = [*range(200, 300), *range(301, 500, 2), *range(500, 600)]
    with Heap.open(path, readonly=True) as heap:
        ring = heap.arena("queue")
        assert ring.strategy == Ring()
        assert ring_of(heap).first() == offsets[200]
        assert numbers_in(heap) == left
        assert heap.check()
    with Heap.open(path) as heap:
        ring = ring_of(heap)
        assert ring.first() == offsets[200]
        more = [ring.malloc(100) for _ in range(50)]
        assert min(more) > offsets[-1]
        assert more == sorted(more)
        for number in left:
            assert ring.first() == offsets[number]
            ring.free(offsets[number])
        assert [offset for offset, _ in ring.blocks()] == more
        assert heap.check()
    assert findings_of(path) == []


@DURABILITIES
def test_the_newest_chunk_serves_again(tmp_path: Path, durability: Any) -> None:
    """Opening often costs no units."""
    path = tmp_path / "heap"
    with Heap.create(path, durability=durability) as heap:
        last = ring_of(heap).malloc(100)
    for _ in range(20):
        with Heap.open(path) as heap:
            before, last = last, ring_of(heap).malloc(100)
            assert last - before in {112, 128}


@DURABILITIES
def test_a_queue_that_runs_keeps_its_file_small(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "heap"
    live: list[int] = []
    for _ in range(4):
        with Heap.open(path) if path.exists() else Heap.create(path, durability=durability) as heap:
            ring = ring_of(heap)
            for _ in range(3000):
                live.append(ring.malloc(10_000))
                if len(live) > 100:
                    heap.free(live.pop(0))
            heap.sync()
            assert heap.stats().file_bytes < 24 * MiB
            assert ring.check()


@DURABILITIES
def test_a_full_disk_leaves_the_queue(tmp_path: Path, durability: Any) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, limit=8 * MiB) as heap:
        ring = ring_of(heap)
        live: list[int] = []
        with pytest.raises(OutOfSpaceError):
            live.extend(ring.malloc(9000) for _ in range(10_000))
        assert [offset for offset, _ in ring.blocks()] == live
        ring_of(heap).free_many(live[: len(live) // 2])
        assert ring.malloc(9000) > live[-1]
        assert heap.check()


@DURABILITIES
def test_an_older_program_refuses_a_ring(tmp_path: Path, durability: Any) -> None:
    """The feature stands in both copies of the superblock before there is a chunk."""
    path = tmp_path / "heap"
    with Heap.create(path, durability=durability) as heap:
        assert not medium_of(heap).header.superblock.features_incompat
        ring_of(heap)
        image = path.read_bytes()
        copies = [Superblock.unpack(image[place : place + 4096], place) for place in SUPERBLOCKS]
        assert [copy.features_incompat for copy in copies] == [HAS_PACKED] * 2


@DURABILITIES
def test_a_killed_process_leaves_what_it_has_put(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "heap"
    child = os.fork()
    if child == 0:
        heap = Heap.create(path, durability=durability)
        offsets = filled(heap, 1000)
        ring_of(heap).free_many(offsets[:500])
        heap.sync()
        tx = heap.transaction()
        for size in SIZES * 20:
            tx.malloc(size, 512, arena=ring_of(heap))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert findings_of(path) == []
    with Heap.open(path) as heap:
        assert numbers_in(heap) == list(range(500, 1000))
        assert heap.check()
        filled(heap, 100)
        assert numbers_in(heap) == [*range(500, 1000), *range(100)]


# ---------------------------------------------------------------- damage


def entries_at(path: Path) -> int:
    with Heap.open(path, readonly=True) as heap:
        slot = medium_of(heap).pieces(1)[0].slot
    assert slot is not None
    return slot.entries_off


def bits_at(path: Path) -> int:
    with Heap.open(path, readonly=True) as heap:
        slot = medium_of(heap).pieces(1)[0].slot
    assert slot is not None
    return slot.bits_off


@pytest.mark.parametrize(
    ("at", "value", "expected"),
    [
        (4, 40, "at most 32 units for a chunk, 40"),
        (2, 1, "flags 0x10 in a chunk, 0x1"),
        (1, 3, "no class in a chunk, 3"),
        (8, 1, "unit 0 as its first chunk, 1"),
        (0, 2, "kind 1 or 3 in a ring, or all zeros, kind 2"),
    ],
)
def test_an_entry_is_mended_from_the_bits(
    tmp_path: Path, at: int, value: int, expected: str
) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        filled(heap)
    image = bytearray(path.read_bytes())
    image[entries_at(path) + at] = value
    path.write_bytes(image)
    assert any(expected in text for text in findings_of(path))
    with Heap.open(path) as heap, pytest.raises(CorruptHeapError, match="unit entries"):
        heap.arena("queue")
    repair(path)
    assert findings_of(path) == []
    with Heap.open(path) as heap:
        assert numbers_in(heap) == list(range(600))


def test_flags_of_a_large_block_are_mended(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        large = next(o for o in filled(heap) if heap.usable_size(o) > RING_WHOLE)
    image = bytearray(path.read_bytes())
    image[entries_at(path) + (large & (1 << 55) - 1) // UNIT * 16 + 2] = 9
    path.write_bytes(image)
    assert findings_of(path) == ["no flags, 0x9"]
    repair(path)
    assert findings_of(path) == []
    with Heap.open(path) as heap:
        assert numbers_in(heap) == list(range(600))


def test_a_start_at_the_end_of_a_word_is_damage(tmp_path: Path) -> None:
    """Its flag would stand in the next word [R31]."""
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        filled(heap, 30)
    image, place = bytearray(path.read_bytes()), bits_at(path)
    assert not image[place + 7] & 0xC0
    image[place + 7] |= 0x80
    path.write_bytes(image)
    assert any("bits only where" in text for text in findings_of(path))
    with Heap.open(path) as heap, pytest.raises(CorruptHeapError):
        heap.arena("queue")
    repair(path)
    with Heap.open(path) as heap:
        assert numbers_in(heap) == list(range(30))
        assert heap.check()


def test_a_slot_is_written_from_the_entries(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        filled(heap)
    image = bytearray(path.read_bytes())
    image[slot_offset(Table.ARENAS, 1) + 1] ^= 1
    path.write_bytes(image)
    with pytest.raises(CorruptHeapError):
        Heap.open(path)
    repair(path)
    with Heap.open(path) as heap:
        assert numbers_in(heap) == list(range(600))
        assert heap.check()


@pytest.mark.parametrize("table", [Table.SEGMENTS, Table.ARENAS])
def test_a_lost_table_is_written_from_what_is_left(tmp_path: Path, table: Table) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        filled(heap)
    image = bytearray(path.read_bytes())
    for index in range(1, 8):
        place = slot_offset(table, index)
        image[place : place + 8] = bytes(each ^ 0x55 for each in image[place : place + 8])
    path.write_bytes(image)
    report = salvage(path, tmp_path / "saved")
    assert report.blocks == 600
    with Heap.open(tmp_path / "saved") as heap:
        found = {int.from_bytes(heap.view(offset, 4), "little") for offset, _ in heap.blocks()}
        assert found >= set(range(600))


def test_a_ring_is_salvaged(tmp_path: Path) -> None:
    path, to = tmp_path / "heap", tmp_path / "saved"
    with Heap.create(path, durability="process") as heap:
        offsets = filled(heap)
        ring_of(heap).free_many(offsets[:100])
        heap.roots["one"] = offsets[199]
    image = bytearray(path.read_bytes())
    for damage in (0, 8192):  # none; the superblocks
        image[:damage] = bytes(damage)
        path.write_bytes(image)
        assert salvage(path, to).blocks == 500
        with Heap.open(to) as heap:
            assert int.from_bytes(heap.view(heap.roots["one"], 4), "little") == 199
        to.unlink()


def test_bits_of_another_process_are_no_crash(tmp_path: Path) -> None:
    """Whatever is written over the tables meanwhile: an exception, or a right answer."""
    path, rng = tmp_path / "heap", random.Random(5)
    with Heap.create(path, durability="process") as heap:
        filled(heap)
    place, sound = bits_at(path), path.read_bytes()
    for _ in range(60):
        path.write_bytes(sound)
        with Heap.open(path) as heap:
            ring = ring_of(heap)
            with path.open("r+b") as file:
                for _ in range(40):
                    file.seek(place + rng.randrange(400))
                    file.write(rng.randbytes(4))
            for offset, _ in list(ring.blocks()):
                try:
                    ring.usable_size(offset)
                    ring.free(offset)
                    ring.malloc(rng.choice(SIZES))
                except (UsageError, CorruptHeapError, OutOfSpaceError):
                    pass
            ring.first()
            ring.check()


# ---------------------------------------------------------------- against a model


class FileModel(Model):
    """The same model in a file that is closed and opened again."""

    @initialize(durability=st.sampled_from(["process", "power"]))
    def choose(self, durability: Any) -> None:
        self.heap.close()
        self.path.unlink(missing_ok=True)
        self.heap = Heap.create(self.path, durability=durability, limit=96 * MiB)
        self.ring = ring_of(self.heap)

    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "heap"
        self.heap = Heap.create(self.path, durability="process", limit=96 * MiB)
        self.ring = ring_of(self.heap)

    @precondition(lambda self: not self.views)
    @rule()
    def reopen(self) -> None:
        self.heap.close()
        assert findings_of(self.path) == []
        self.heap = Heap.open(self.path, limit=96 * MiB)
        self.ring = ring_of(self.heap)

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


TestFileModel = pytest.mark.slow(FileModel.TestCase)
TestFileModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
