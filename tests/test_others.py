"""Others at work: what another process, or an interrupt, does in the middle of a call."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from file_looks import medium_of

from pmemheap import CorruptHeapError, DurabilityError, Heap, PmemHeapError, native
from pmemheap.containers import SortedMap
from pmemheap.file import locks, openfile
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.headerfile import Header
from pmemheap.layout import BITS_WIDTH, ENTRY_WIDTH, HEADER_BYTES
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.units import GRANULE, PAGE, UNIT, MiB

SECONDS = 0.3


# ---------------------------------------------------------------- bytes under a change


def change(made: SortedMap, kind: str, rng: random.Random) -> None:
    key = b"k%06d" % rng.randrange(4000)
    if kind == "put":
        made[key] = b"1" * rng.randrange(40)
    elif kind == "remove":
        made.discard(key)
        made[key] = b"1"
    else:
        made[key] = b"1" * rng.choice((500, 3000, 20_000))


def use_while_written(path: Path, image: bytes, kind: str, fill: str, seed: int) -> None:
    """Change a map while a process writes over all of the data, and back, again and again."""
    rng = random.Random(seed)
    fd = os.open(path, os.O_RDWR)
    os.ftruncate(fd, len(image))
    os.pwrite(fd, image, 0)
    start, stop = HEADER_BYTES, min(len(image), HEADER_BYTES + MiB)
    wrong = bytes(stop - start) if fill == "zeros" else rng.randbytes(stop - start)
    end = time.monotonic() + SECONDS
    if os.fork() == 0:
        while time.monotonic() < end:
            os.pwrite(fd, wrong, start)
            os.pwrite(fd, image[start:stop], start)
        os._exit(0)
    while time.monotonic() < end:
        with suppress(PmemHeapError):
            heap = Heap.open(path, decay=None)
            made = SortedMap(heap, "map")
            while time.monotonic() < end:
                with suppress(CorruptHeapError):
                    change(made, kind, rng)


@pytest.mark.slow
@pytest.mark.parametrize("fill", ["zeros", "noise"])
@pytest.mark.parametrize("kind", ["put", "remove", "long"])
def test_a_map_that_others_write_over_is_changed_or_refused(
    tmp_path: Path, kind: str, fill: str
) -> None:
    """What is looked at is what is used: a change never stores outside of its own memory."""
    path = tmp_path / "heap"
    with Heap.create(path, durability="process", decay=None) as heap:
        made = SortedMap(heap, "map")
        made.put_many((b"k%06d" % number, b"v" * 20) for number in range(0, 4000, 2))
    image = path.read_bytes()
    for seed in range(4):
        child = os.fork()
        if child == 0:
            try:
                use_while_written(path, image, kind, fill, seed)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.checked
@pytest.mark.parametrize("deferred", [False, True])
def test_blocks_that_somebody_else_makes_live_wrap_no_count(tmp_path: Path, deferred: bool) -> None:
    """More blocks are freed than were counted: the core asserts nothing of bits in a file."""
    with Heap.create(tmp_path / "heap", durability="process", decay=None) as heap:
        kept, block, phantom = heap.malloc(100), heap.malloc(100), heap.malloc(100)
        heap.free(phantom)
        medium = medium_of(heap)
        piece = medium.pieces()[0]
        assert piece.slot is not None
        words = piece.slot.bits_off + (block // UNIT - piece.first_unit) * BITS_WIDTH

        def set_bits(*offsets: int) -> None:
            for offset in offsets:
                at = words + offset % UNIT // GRANULE // 8
                (byte,) = os.pread(medium.fd, 1, at)
                os.pwrite(medium.fd, bytes([byte | 1 << offset % UNIT // GRANULE % 8]), at)

        view = heap.view(block)
        for _ in range(3):
            set_bits(phantom, block)
            heap.free(phantom, deferred)
            heap.free(block, deferred=True)
        set_bits(block)
        heap.free(kept, deferred)
        set_bits(kept)
        heap.free(kept, deferred)
        del view
        assert heap.stats().blocks >= 0
        assert isinstance(heap.check().findings, tuple)
        heap.free(heap.malloc(100))


@pytest.mark.parametrize("held", [False, True])
def test_units_that_were_read_get_no_second_owner(tmp_path: Path, held: bool) -> None:
    """The file says later that there is a run in the middle of a block, or of free space."""
    path = tmp_path / "heap"
    with Heap.create(path, durability="process", decay=None) as heap:
        block, run = heap.malloc(40 * UNIT), heap.malloc(100)
        if not held:
            heap.free(block)
    with Heap.open(path, decay=None) as heap:
        if held:
            assert heap.usable_size(block) == 40 * UNIT
        else:
            assert heap.malloc(UNIT) == block
        medium = medium_of(heap)
        piece = medium.pieces()[0]
        assert piece.slot is not None
        entries = piece.slot.entries_off - piece.first_unit * ENTRY_WIDTH
        of_run = os.pread(medium.fd, ENTRY_WIDTH, entries + run // UNIT * ENTRY_WIDTH)
        assert any(of_run)
        unit = block // UNIT + 20
        os.pwrite(medium.fd, of_run, entries + unit * ENTRY_WIDTH)
        for offset in (unit * UNIT, unit * UNIT + 112):
            with pytest.raises(PmemHeapError):
                heap.free(offset)
        os.pwrite(medium.fd, bytes(ENTRY_WIDTH), entries + unit * ENTRY_WIDTH)
        if held:
            heap.free(block)
        else:
            assert heap.malloc(39 * UNIT) == block + UNIT
        assert not heap.check().findings


def test_a_header_that_is_written_over_in_a_checkpoint_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new superblock would hide it: it is stored over the copy that is looked at."""
    heap = Heap.create(tmp_path / "heap", durability="power")
    heap.roots["root"] = heap.malloc(100)
    write = Header.write

    def write_over(header: Header, **changes: object) -> bool:
        with open(tmp_path / "heap", "r+b") as file:
            file.write(bytes(HEADER_BYTES))
        return write(header, **changes)

    monkeypatch.setattr(Header, "write", write_over)
    with pytest.raises(DurabilityError, match="written over"):
        heap.sync()
    with pytest.raises(DurabilityError, match="written over"):
        heap.malloc(100)
    heap.close()


# ---------------------------------------------------------------- addresses


def test_addresses_that_change_hands_are_no_heaps_any_more(tmp_path: Path) -> None:
    """A map that was refused is left in the table of files; whoever is there next keeps his own."""
    (tmp_path / "mine").write_bytes(b"M" * PAGE)
    with Heap.create(tmp_path / "heap", headroom=64 * MiB) as heap:
        line = heap._space.region.tables["data"].reservation
        place = line.address + line.size
        native.file_will_map(medium_of(heap).number, place, [(0, PAGE)])
        fd = os.open(tmp_path / "mine", os.O_RDWR)
        with VMReservation(PAGE, place) as own, Map.file(fd, own, 0, PAGE) as mine:
            child = os.fork()
            if child == 0:
                os._exit(bytes(mine.view[:4]) != b"MMMM")
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(fd)


# ---------------------------------------------------------------- interrupts and readers


@pytest.mark.parametrize(
    ("owner", "place"), [(FileMedium, "close"), (FileMedium, "let_go"), (Header, "unmap")]
)
def test_a_close_that_was_interrupted_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, place: str
) -> None:
    heap = Heap.create(tmp_path / "heap", durability="process", decay=None)
    heap.roots["root"] = heap.malloc(100)

    def interrupted(_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, place, interrupted)
    with pytest.raises(KeyboardInterrupt):
        heap.close()
    heap.close()
    assert heap.closed
    with Heap.open(tmp_path / "heap") as again:
        assert again.usable_size(again.roots["root"]) == 112


def test_an_attach_beside_a_writer_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have seen half of a change: that is no damage while there is a writer."""
    adopt = openfile.adopt
    tries: list[int] = []

    def adopt_later(*arguments: Any, **options: Any) -> FileMedium:
        tries.append(1)
        if len(tries) < 3:
            os.close(arguments[0])
            raise (
                CorruptHeapError("half of a change") if len(tries) == 1 else DurabilityError(5, "")
            )
        return adopt(*arguments, **options)

    with Heap.shared() as heap:
        monkeypatch.setattr(openfile, "adopt", adopt_later)
        with Heap.attach(heap.fileno()) as reader:
            assert reader.readonly
        assert len(tries) == 3


def test_the_first_statistics_of_an_opened_heap_are_whole(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        view = heap.view(heap.malloc(4 * MiB))
        view[:] = b"x" * len(view)
        view.release()
    with Heap.open(tmp_path / "heap", decay=None) as heap:
        first, second = heap.stats(), heap.stats()
        assert first.metadata_resident == second.metadata_resident > 0
        assert first.touched == second.touched > 0


@pytest.mark.parametrize("process", [0, 1 << 31, (1 << 32) - 1])
def test_a_number_that_no_process_has(process: int) -> None:
    """It is read in the file, which may be damaged."""
    assert not locks.is_running(process)
