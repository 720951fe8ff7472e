"""Rows: arenas whose blocks are all of one size, and one array."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_looks import findings_of, medium_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pmemheap import CorruptHeapError, DurabilityName, Heap, OutOfSpaceError, Rows, UsageError
from pmemheap.format.layout import HAS_ROWS, SUPERBLOCKS, ArenaSlot, Table, slot_offset
from pmemheap.format.superblock import Superblock
from pmemheap.heap.rows import RowsArena
from pmemheap.repair import repair
from pmemheap.salvage import salvage
from pmemheap.testing import AllocatorContract
from pmemheap.units import KiB, MiB


@pytest.fixture
def heap() -> Iterator[Heap]:
    with Heap.anonymous() as heap:
        yield heap


def rows_of(heap: Heap, row: Any, name: str = "table") -> RowsArena:
    return heap.arena(name, strategy=Rows(row))


class TestRows(AllocatorContract):
    sizes = (1, 15, 16, 17, 100, 500, 512)
    aligns = (16, 64, 512)

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap:
            yield rows_of(heap, 512)


class TestRowsInProcessFile(AllocatorContract):
    sizes, aligns = TestRows.sizes, TestRows.aligns
    durability: DurabilityName = "process"

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "heap"
            with Heap.create(path, durability=self.durability) as heap:
                yield rows_of(heap, 512)


class TestRowsInPowerFile(TestRowsInProcessFile):
    durability = "power"


class TestLongRows(AllocatorContract):
    sizes = (1, 100, 5000, 16_384, 20_000, 33_008)
    aligns = (16,)

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap:
            yield rows_of(heap, 33_008)


# ---------------------------------------------------------------- what it is


@pytest.mark.parametrize("size", [16, 32, 48, 112, 512, 528, 4096, 16_384, 16_400, 65_520, 65_536])
def test_rows_lie_one_behind_the_other(heap: Heap, size: int) -> None:
    table = rows_of(heap, size)
    offsets = [table.malloc(size) for _ in range(700)]
    assert [offset - offsets[0] for offset in offsets] == [size * number for number in range(700)]
    assert [table.index(offset) for offset in offsets] == list(range(700))
    assert [table.offset(index) for index in range(700)] == offsets
    assert table.usable_size(offsets[3]) == size
    assert table.rows.shape[1] == size
    assert table.check()
    assert table.stats().allocated == 700 * size


def test_an_arena_that_is_made_again_has_its_rows_in_order(heap: Heap) -> None:
    """Its units count on from where the one before it ended, which need be no multiple of a row."""
    heap.arena("table").malloc(100)
    heap.arena("table").drop()
    table = rows_of(heap, 528)
    offsets = [table.malloc(528) for _ in range(100)]
    assert [table.index(offset) for offset in offsets] == list(range(100))
    assert (offsets[0] & (1 << 55) - 1) % 528 == 0
    assert table.check()


def test_all_rows_are_one_array(heap: Heap) -> None:
    table = rows_of(heap, ("f4", 128))
    assert table.rows.shape == (0, 128)
    assert table.live.shape == (0,)
    for number in range(1000):
        offset = table.malloc(512)
        table.row(table.index(offset))[:] = number
    assert (table.rows[:1000, 0] == np.arange(1000)).all()
    assert table.live.sum() == 1000
    assert table.live[:1000].all()
    table.free(table.offset(7))
    assert not table.live[7]
    assert table.rows[7, 5] == 7


def test_rows_may_be_records(heap: Heap) -> None:
    kind = np.dtype([("key", "i8"), ("x", "f4"), ("y", "f4")])
    table = rows_of(heap, kind)
    offset = table.malloc(16)
    one = table.row(table.index(offset))
    one["key"], one["x"] = 5, 2.5
    assert table.rows.dtype == kind
    assert table.rows["key"][0] == 5
    assert table.rows[table.live]["x"].tolist() == [2.5]


def test_the_array_grows_in_place(heap: Heap) -> None:
    table = rows_of(heap, 4096)
    table.malloc(4096)
    before = table.rows
    before[0] = 1
    for _ in range(50_000):
        table.malloc(4096)
    after = table.rows
    assert after.ctypes.data == before.ctypes.data
    assert len(after) > 50_000
    before[0] = 2
    assert after[0, 0] == 2


def test_the_lowest_free_row_is_the_next_one(heap: Heap) -> None:
    table = rows_of(heap, 1024)
    offsets = [table.malloc(1024) for _ in range(5000)]
    gone = sorted(random.Random(1).sample(range(5000), 700))
    for index in gone:
        table.free(offsets[index])
    full = len(table.rows) - 5000
    again = [table.malloc(1024) for _ in range(700 + full)]
    assert set(again) >= {offsets[index] for index in gone}
    assert len(table.rows) == 5000 + full


def test_the_array_pins_the_arena_and_no_row(heap: Heap) -> None:
    table = rows_of(heap, 512)
    offset = table.malloc(512)
    rows = table.rows
    rows[0] = 3
    table.free(offset)
    assert rows[0, 0] == 3
    for call in (table.drop, heap.close):
        with pytest.raises(BufferError, match="all rows from"):
            call()
    table.trim()
    assert rows[0, 0] == 3
    one = table.row(table.index(table.malloc(100)))
    del rows
    with pytest.raises(BufferError, match="the block at"):
        table.drop()
    del one
    table.drop()


def test_memory_of_rows_that_are_gone_goes_back(heap: Heap) -> None:
    table = rows_of(heap, 4096)
    offsets = [table.malloc(4096) for _ in range(4000)]
    table.rows[:] = 1
    for offset in offsets[100:3900]:
        table.free(offset)
    before = table.stats().touched
    assert table.trim() > 3000 * 4096
    assert before - table.stats().touched > 3700 * 4096
    assert len(table.rows) >= 4000
    assert (table.rows[table.live] == 1).all()
    for offset in offsets[3900:]:
        table.free(offset)
    table.trim()
    assert len(table.rows) == 100
    assert table.check()
    assert [table.index(table.malloc(10)) for _ in range(3)] == [100, 101, 102]
    for offset in offsets[:100]:
        table.free(offset)
    assert table.check()


def test_an_empty_table_begins_anew(heap: Heap) -> None:
    table = rows_of(heap, 528)
    for _ in range(3):
        offsets = [table.malloc(528) for _ in range(300)]
        assert [table.index(offset) for offset in offsets] == list(range(300))
        for offset in offsets:
            table.free(offset)
        table.trim()
        assert len(table.rows) == 0
        assert table.check()


def test_a_limit_holds() -> None:
    with Heap.anonymous(limit=16 * MiB) as heap:
        table = rows_of(heap, 512)
        with pytest.raises(OutOfSpaceError):
            deque((table.malloc(512) for _ in range(100_000)), maxlen=0)
        assert table.check()
        told = table.explain(512)
        assert (told.rounded, told.possible) == (512, False)
        assert table.explain(512, refusal="").largest_free < 1 * MiB
        with pytest.raises(UsageError, match="at most 512 bytes"):
            table.explain(513)
        table.free(table.offset(5))
        assert table.explain(3).possible
        assert table.index(table.malloc(512)) == 5


def test_transactions_reserve_and_free_rows(heap: Heap) -> None:
    table = rows_of(heap, 128)
    kept = table.malloc(128)
    tx = heap.transaction()
    made = [tx.malloc(100, arena=table) for _ in range(300)]
    tx.free(kept)
    assert table.live.sum() == 1
    tx.abort()
    assert [offset for offset, _ in table.blocks()] == [kept]
    with heap.transaction() as tx:
        made = [tx.malloc(100, arena=table) for _ in range(300)]
        tx.free(kept)
    assert [offset for offset, _ in table.blocks()] == sorted(made)
    assert table.check()


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("row", "found", "nearest"),
    [
        (100, "found 100: 112 is next", 112),
        (0, "found 0: 16 is next", 16),
        (-16, "found -16: 16 is next", 16),
        (64 * KiB + 16, "found 65552: 65536 is next", 65_536),
        (("f4", 3), "found 12: 16 is next", 16),
    ],
)
def test_a_row_is_a_multiple_of_sixteen(row: Any, found: str, nearest: int) -> None:
    with pytest.raises(UsageError, match=found):
        Rows(row)
    assert Rows(nearest).nbytes == nearest


def test_a_row_has_no_python_objects() -> None:
    with pytest.raises(UsageError, match="without Python objects"):
        Rows(("O", 2))


def test_what_is_no_row_is_refused(heap: Heap) -> None:
    table = rows_of(heap, 112)
    offset = table.malloc(112)
    for call in (
        lambda: table.malloc(113),
        lambda: table.malloc(16, 32),
        lambda: table.malloc_many(113, 3),
        lambda: table.realloc(offset, 113),
        lambda: heap.realloc(offset, 5000),
        lambda: heap.transaction().malloc(113, arena=table),
    ):
        with pytest.raises(UsageError, match="at most 112 bytes, aligned to 16, expected in a row"):
            call()
    assert table.realloc(offset, 3) == offset
    assert table.expand(offset, 112)
    assert not table.expand(offset, 113)
    assert table.check()


def test_an_index_is_that_of_a_row(heap: Heap) -> None:
    table = rows_of(heap, 4096)
    with pytest.raises(UsageError, match="a row expected, found none"):
        table.offset(0)
    offset = table.malloc(4096)
    for index in (-1, 1000):
        with pytest.raises(UsageError, match="row: index"):
            table.offset(index)
    with pytest.raises(UsageError):
        table.index(offset + 16)
    table.free(offset)
    for call in (lambda: table.index(offset), lambda: table.row(0)):
        with pytest.raises(UsageError):
            call()


def test_an_arena_keeps_the_size_of_its_rows(heap: Heap) -> None:
    table = rows_of(heap, 512)
    table.malloc(512)
    assert table.rows.shape[1:] == (512,)
    assert rows_of(heap, ("f4", 128)) is table
    assert table.rows.dtype == np.float32
    assert heap.arena("table") is table
    assert repr(table).endswith("Rows(row=('f4', 128))>")
    with pytest.raises(UsageError, match="its strategy"):
        rows_of(heap, 528)


def test_a_closed_table_shows_nothing(heap: Heap) -> None:
    table = rows_of(heap, 512)
    table.malloc(512)
    child = os.fork()
    if child == 0:
        try:
            assert table.rows is None
        except UsageError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    heap.close()
    for name in ("rows", "live"):
        with pytest.raises(UsageError):
            getattr(table, name)
    with pytest.raises(UsageError):
        table.row(0)


def test_threads_fill_and_empty_it_while_it_is_trimmed(heap: Heap) -> None:
    table = rows_of(heap, 512)
    lost: list[object] = []

    def work(seed: int) -> None:
        rng, mine = random.Random(seed), []
        try:
            for _ in range(4000):
                offset = table.malloc(512)
                heap.view(offset)[:8] = offset.to_bytes(8, "little")
                mine.append(offset)
                if len(mine) > 40:
                    gone = mine.pop(rng.randrange(40))
                    assert heap.view(gone, 8) == gone.to_bytes(8, "little")
                    table.free(gone)
        except BaseException as error:
            lost.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        table.trim()
    assert not lost
    assert table.live.sum() == 160
    assert table.check()


# ---------------------------------------------------------------- in a file

DURABILITIES = pytest.mark.parametrize("durability", ["process", "power"])


@DURABILITIES
@pytest.mark.parametrize("size", [16, 512, 528, 65_520])
def test_rows_are_there_again(tmp_path: Path, durability: Any, size: int) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability=durability) as heap:
        table = rows_of(heap, size)
        offsets = [table.malloc(size) for _ in range(600)]
        table.rows[:600, 0] = np.arange(600) % 251
        for offset in offsets[100:300:2]:
            table.free(offset)
        heap.roots["row"] = offsets[7]
    with Heap.open(path, readonly=True) as heap:
        again = heap.arena("table")
        assert isinstance(again, RowsArena)
        assert again.strategy == Rows(size)
        table = again
        assert table.live.sum() == 500
        assert (table.rows[table.live, 0] == np.flatnonzero(table.live) % 251).all()
        assert table.index(heap.roots["row"]) == 7
        assert heap.check()
    with Heap.open(path) as heap:
        table = rows_of(heap, size)
        filled = [table.malloc(size) for _ in range(100)]
        assert sorted(filled) == offsets[100:300:2]
        count = len(table.rows)
        more = [table.malloc(size) for _ in range(count)]
        assert [table.index(offset) for offset in more] == list(range(600, 600 + count))
        assert heap.check()
        with pytest.raises(UsageError, match="its strategy"):
            rows_of(heap, 32)
    assert findings_of(path) == []


@DURABILITIES
def test_rows_at_the_end_go_back_to_the_file(tmp_path: Path, durability: Any) -> None:
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        table = rows_of(heap, 4096)
        offsets = [table.malloc(4096) for _ in range(4000)]
        size = heap.stats().file_bytes
        table.free_many(offsets[10:])
        assert heap.trim() > 10 * MiB
        assert heap.stats().file_bytes < size / 3
        assert len(table.rows) == 10
        assert table.index(table.malloc(4096)) == 10
        assert heap.check()


@DURABILITIES
def test_an_older_program_refuses_rows(tmp_path: Path, durability: Any) -> None:
    """The feature stands in both copies of the superblock before there is an entry of a row."""
    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        heap.arena("other")
        assert not medium_of(heap).header.superblock.features_incompat
        rows_of(heap, 512)
        image = (tmp_path / "heap").read_bytes()
        copies = [Superblock.unpack(image[place : place + 4096], place) for place in SUPERBLOCKS]
        assert [copy.features_incompat for copy in copies] == [HAS_ROWS] * 2
        heap.arena("table").drop()
    with Heap.open(tmp_path / "heap") as heap:
        heap.malloc(10)
        assert medium_of(heap).header.superblock.features_incompat == HAS_ROWS


@DURABILITIES
def test_a_killed_process_leaves_its_rows(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "heap"
    child = os.fork()
    if child == 0:
        heap = Heap.create(path, durability=durability)
        table = rows_of(heap, ("i8", 64))
        for number in range(2000):
            table.row(table.index(table.malloc(512)))[:] = number
        for index in range(0, 2000, 3):
            table.free(table.offset(index))
        heap.sync()
        tx = heap.transaction()
        for _ in range(700):
            tx.malloc(512, arena=table)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with Heap.open(path) as heap:
        table = rows_of(heap, ("i8", 64))
        live = np.flatnonzero(table.live)
        assert live.tolist() == [index for index in range(2000) if index % 3]
        assert (table.rows[table.live, 5] == live).all()
        assert heap.check()


def test_an_entry_that_is_damaged_is_told_and_mended(tmp_path: Path) -> None:
    """What an entry must have been is told by the slot of the arena."""
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        table = rows_of(heap, 528)
        offsets = [table.malloc(528) for _ in range(600)]
        table.rows[:600, 0] = np.arange(600) % 251
        slot = medium_of(heap).pieces(1)[0].slot
        assert slot is not None
        place = slot.entries_off
    sound = path.read_bytes()

    def damaged(at: int, value: int) -> list[str]:
        image = bytearray(sound)
        image[place + at] = value
        path.write_bytes(image)
        found = findings_of(path)
        repair(path)
        assert findings_of(path) == []
        return found

    assert any("33 units for rows of 528 bytes, 7" in text for text in damaged(4, 7))
    with Heap.open(path) as heap:
        table = rows_of(heap, 528)
        assert table.live.sum() == 600
        assert table.index(offsets[599]) == 599
    assert any("rows of 528 bytes, 529" in text for text in damaged(8, 17))
    assert any("kind 4 in an arena of rows" in text for text in damaged(0, 9))
    with Heap.open(path) as heap:
        assert rows_of(heap, 528).live.sum() == 600
    assert any("all zeros" in text for text in damaged(0, 0))
    with Heap.open(path) as heap:  # its first run is lost, the others are not
        table = rows_of(heap, 528)
        assert table.live.sum() == 600 - 256
        assert heap.check()
        table.malloc(528)
        assert heap.check()


def test_a_slot_that_is_damaged_is_written_from_the_entries(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap:
        table = rows_of(heap, 528)
        table.malloc_many(528, 300)
    image = bytearray(path.read_bytes())
    place = slot_offset(Table.ARENAS, 1)
    image[place + 4] ^= 1
    path.write_bytes(image)
    with pytest.raises(CorruptHeapError):
        Heap.open(path)
    repair(path)
    with Heap.open(path) as heap:
        assert rows_of(heap, 528).live.sum() == 300
        assert heap.check()


@pytest.mark.parametrize("strategy", ["01000000010000", "02000000000000", "02000001100000"])
def test_a_strategy_that_no_file_has_is_damage(strategy: str) -> None:
    slot = ArenaSlot(0, 10, "x", bytes.fromhex(strategy))
    with pytest.raises(CorruptHeapError, match="strategy"):
        ArenaSlot.unpack(slot.pack(), 0)


def test_rows_are_salvaged(tmp_path: Path) -> None:
    path, to = tmp_path / "heap", tmp_path / "saved"
    with Heap.create(path, durability="process") as heap:
        table = rows_of(heap, 528)
        heap.roots["one"] = [table.malloc(528) for _ in range(300)][99]
        table.rows[:300, 0] = np.arange(300) % 251
    image = bytearray(path.read_bytes())
    for damage in (0, 8192):  # none; the superblocks
        image[:damage] = bytes(damage)
        path.write_bytes(image)
        report = salvage(path, to)
        assert report.blocks == 300
        with Heap.open(to) as heap:
            assert bytes(heap.view(heap.roots["one"], 1)) == bytes([99])
        to.unlink()


# ---------------------------------------------------------------- against a model


class Model(RuleBasedStateMachine):
    """A table beside a dictionary of rows by index."""

    ROW = 16 * 33

    def __init__(self) -> None:
        super().__init__()
        self.heap = Heap.anonymous(limit=64 * MiB)
        self.table = rows_of(self.heap, self.ROW)
        self.live: dict[int, bytes] = {}
        self.views: list[memoryview] = []
        self.count = 0

    def stamp(self, offset: int) -> None:
        self.count += 1
        stamp = self.count.to_bytes(8, "little")
        self.heap.view(offset, 8)[:] = stamp
        assert self.table.index(offset) not in self.live
        self.live[self.table.index(offset)] = stamp

    @rule(size=st.integers(1, ROW), count=st.integers(1, 400))
    def malloc(self, size: int, count: int) -> None:
        for _ in range(count):
            self.stamp(self.table.malloc(size))

    @rule(count=st.integers(1, 400))
    def malloc_many(self, count: int) -> None:
        for offset in self.table.malloc_many(self.ROW, count):
            self.stamp(offset)

    @precondition(lambda self: self.live)
    @rule(share=st.floats(0, 1), seed=st.integers(0, 99), at_end=st.booleans())
    def free(self, share: float, seed: int, at_end: bool) -> None:
        indices = sorted(self.live)
        count = int(share * len(indices))
        some = indices[-count:] if at_end else random.Random(seed).sample(indices, count)
        self.table.free_many([self.table.offset(index) for index in some])
        for index in some:
            del self.live[index]

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free_under_a_view(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.live)))
        offset = self.table.offset(index)
        self.views.append(self.table.view(offset))
        self.table.free(offset, deferred=True)
        del self.live[index]

    @rule()
    def let_views_go(self) -> None:
        self.views.clear()

    @rule(count=st.integers(0, 50), frees=st.integers(0, 20), commits=st.booleans())
    def transaction(self, count: int, frees: int, commits: bool) -> None:
        gone = sorted(self.live)[:frees]
        tx = self.heap.transaction()
        made = [tx.malloc(self.ROW, arena=self.table) for _ in range(count)]
        for index in gone:
            tx.free(self.table.offset(index))
        if not commits:
            tx.abort()
            return
        tx.commit()
        for index in gone:
            del self.live[index]
        for offset in made:
            self.stamp(offset)

    @rule()
    def trim(self) -> None:
        self.table.trim()

    @invariant()
    def all_is_there(self) -> None:
        assert np.flatnonzero(self.table.live).tolist() == sorted(self.live)
        rows = self.table.rows
        assert len(rows) == len(self.table.live)
        for index, stamp in self.live.items():
            assert rows[index, :8].tobytes() == stamp
        assert self.table.check()

    def teardown(self) -> None:
        self.views.clear()
        self.heap.close()


TestModel = pytest.mark.slow(Model.TestCase)
TestModel.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
