"""Blocks of a file come as they are needed, and what may have none is known."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from file_looks import medium_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pmemheap import Heap, native
from pmemheap.errors import OutOfSpaceError
from pmemheap.file import blocks
from pmemheap.file.holes import Holes, blocks_known
from pmemheap.file.logblocks import LogBlocks
from pmemheap.file.openfile import LOG_FIRST
from pmemheap.file.redo import RedoLog
from pmemheap.format import layout
from pmemheap.native import Allocate, NativeError
from pmemheap.units import UNIT, KiB, MiB

RANGES = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted).filter(lambda r: r[0] < r[1])


@contextmanager
def full_disk() -> Iterator[None]:
    def refuse(fd: int, offset: int, length: int, mode: Allocate = Allocate.EXTEND) -> None:
        if mode != Allocate.PUNCH_HOLE:
            raise NativeError(errno.ENOSPC, "fallocate")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "fallocate", refuse)
        yield


def test_what_was_found_free_is_used_a_while_without_another_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, looks = [100.0], []
    monkeypatch.setattr(blocks, "monotonic", lambda: clock[0])

    def look() -> int:
        looks.append(clock[0])
        return 80 * MiB

    memory = blocks.FreeMemory("a.heap", look)
    for _ in range(3):
        memory.require(4 * MiB)  # 10 MiB are an eighth
    assert len(looks) == 1
    memory.require(4 * MiB)
    assert len(looks) == 2
    clock[0] += 1
    memory.require(1)
    assert len(looks) == 3
    with pytest.raises(OutOfSpaceError, match=r"'a\.heap' cannot grow by 81 MiB: .* 80 MiB found"):
        memory.require(81 * MiB)
    memory.require(1)
    assert len(looks) == 5  # what was refused has not been used


def blocks_of(path: Path) -> int:
    return path.stat().st_blocks * 512


class HolesMachine(RuleBasedStateMachine):
    """Ranges, against a set of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.holes = Holes([(3, 9), (20, 40)])
        self.model = {*range(3, 9), *range(20, 40)}

    @rule(which=RANGES)
    def add(self, which: list[int]) -> None:
        self.holes.add(*which)
        self.model.update(range(*which))

    @rule(which=RANGES)
    def remove(self, which: list[int]) -> None:
        self.holes.remove(*which)
        self.model.difference_update(range(*which))

    @rule(end=st.integers(0, 60))
    def cut(self, end: int) -> None:
        self.holes.cut(end)
        self.model = {number for number in self.model if number < end}

    @rule(which=RANGES)
    def look(self, which: list[int]) -> None:
        found = self.holes.within(*which)
        assert [number for each in found for number in range(*each)] == sorted(
            self.model.intersection(range(*which))
        )
        assert all(before[1] < after[0] for before, after in pairwise(found))

    @invariant()
    def counted(self) -> None:
        assert self.holes.nbytes == len(self.model)
        assert self.holes.blocks_least(60) == 60 - len(self.model)


TestHoles = HolesMachine.TestCase


def test_an_interrupt_in_the_middle_of_a_change_leaves_holes_that_can_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, step, which in (("_list_add", "add", (32, 40)), ("_list_remove", "remove", (0, 8))):
        holes = Holes([(0, 8), (16, 24)])
        assert holes.within(0, 100) == [(0, 8), (16, 24)]
        change = getattr(holes._sorted, name)

        def interrupted(key: int, change: Any = change) -> None:
            change(key)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(holes._sorted, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                getattr(holes, step)(*which)
        holes.cut(20)
        assert (16, 20) in holes.within(0, 100)
        holes.add(48, 56)
        assert (48, 56) in holes.within(0, 100)


def test_blocks_that_were_there_at_open_are_expected_wherever_they_are() -> None:
    holes = Holes([(0, 10 * MiB)], known=blocks_known(8 * MiB))
    least = holes.blocks_least(10 * MiB)
    assert 8 * MiB - 256 * KiB < least <= 8 * MiB
    holes.punched(MiB)
    holes.cut(7 * MiB, 3 * MiB)
    assert holes.blocks_least(7 * MiB) == least - 4 * MiB


@pytest.mark.parametrize("durability", ["process", "power"])
def test_every_block_has_its_space_before_anybody_has_it(durability: Any, tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        medium = medium_of(heap)
        for round_ in range(2):
            blocks = [heap.malloc(size) for size in (100, 3000, 40_000, 300 * KiB, 5 * MiB) * 3]
            for offset, size in heap.blocks():
                for piece in heap._space.region.pieces:
                    assert piece.slot is not None
                    start = max(offset, piece.first_unit * UNIT)
                    stop = min(offset + size, piece.stop * UNIT)
                    place = piece.slot.data_off - piece.first_unit * UNIT
                    assert start >= stop or not medium.holes.within(place + start, place + stop)
            for offset in blocks[round_::2]:
                heap.free(offset)
            heap.trim()
        assert heap.check()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_full_disk_is_met_before_a_block_is_given_out(durability: Any, tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        kept = heap.malloc(100)
        heap.view(kept)[:3] = b"abc"
        before = heap.stats().allocated
        with full_disk():
            with pytest.raises(OutOfSpaceError, match="No space left"):
                heap.malloc(200 * KiB)
            with pytest.raises(OutOfSpaceError):
                heap.malloc(3 * MiB)
        assert heap.stats().allocated == before
        assert heap.check()
        heap.free(heap.malloc(3 * MiB))
        heap.free(heap.malloc(200 * KiB))
        assert bytes(heap.view(kept)[:3]) == b"abc"


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_full_disk_is_met_before_a_root_is_logged(
    durability: Any, in_transaction: bool, tmp_path: Path
) -> None:
    """Its page of the header has no block before the first root comes into it."""
    path = tmp_path / "heap"
    with Heap.create(path, durability=durability, decay=None) as heap:
        offset = heap.malloc(100)
        assert medium_of(heap).holes.within(layout.ROOT_TABLE, layout.ROOT_TABLE + UNIT)

        def name_it() -> None:
            if not in_transaction:
                heap.roots["a"] = offset
                return
            with heap.transaction() as tx:
                tx.roots["a"] = offset

        with full_disk(), pytest.raises(OutOfSpaceError, match="No space left"):
            name_it()
        assert "a" not in heap.roots
        name_it()
        assert not medium_of(heap).holes.within(layout.ROOT_TABLE, layout.ROOT_TABLE + UNIT)
        for number in range(200):
            heap.roots[f"root {number}"] = offset
    with Heap.open(path) as heap:
        assert heap.roots["a"] == heap.roots["root 199"] == offset
        assert heap.check()


def test_an_opened_heap_gets_blocks_for_what_may_have_none(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process", decay=None) as heap:
        heap.roots["a"] = heap.malloc(100)
    small = blocks_of(path)
    with Heap.open(path, decay=None) as heap:
        block = heap.malloc(600 * KiB)
        assert blocks_of(path) >= small + 500 * KiB
        heap.view(block)[:] = b"x" * heap.usable_size(block)
        heap.roots.update({f"root {number}": block for number in range(300)})
        assert heap.check()
    with Heap.open(path, readonly=True) as heap:
        assert len(heap.roots) == 301


# ---------------------------------------------------------------- the log of a process heap


LOG = layout.HEADER_BYTES, layout.HEADER_BYTES + layout.LOG_BYTES


def commit(heap: Heap, number: int) -> None:
    with heap.transaction() as tx:
        tx.roots["newest"] = tx.malloc(100)
        tx.roots[f"root {number % 5}"] = tx.malloc(100)


def test_a_new_process_heap_has_blocks_for_the_beginning_of_its_log(tmp_path: Path) -> None:
    sizes = {}
    for durability in ("process", "power"):
        path = tmp_path / durability
        with Heap.create(path, durability=durability, decay=None) as heap:
            holes = medium_of(heap).holes.within(*LOG)
            assert holes == ([(LOG[0] + LOG_FIRST, LOG[1])] if durability == "process" else [])
            sizes[durability] = blocks_of(path)
            heap.malloc(100)
    assert sizes["process"] <= 136 * KiB
    assert sizes["power"] == sizes["process"] + layout.LOG_BYTES - LOG_FIRST


def test_a_record_never_meets_a_part_of_the_log_without_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Heap.create(tmp_path / "heap", durability="process", decay=None) as heap:
        log: Any = heap._space.shared.redo
        holes = medium_of(heap).holes
        laps = 0
        monkeypatch.setattr(RedoLog, "_try_move", lambda *_: None)  # to a larger one, if it is busy
        for number in range(1500):
            before = log.positions()[3]
            commit(heap, number)
            head = log.positions()[3]
            laps += head // layout.LOG_BYTES - before // layout.LOG_BYTES
            assert not holes.within(LOG[0], LOG[0] + min(head, layout.LOG_BYTES))
        assert laps >= 2
        assert log.size == layout.LOG_BYTES
        assert heap.check()


def commit_until_refused(heap: Heap) -> int:
    """Commit until the log has no room; return how often that went well."""
    for done in count():
        roots = dict(heap.roots)
        try:
            commit(heap, done)
        except OutOfSpaceError:
            break
    assert roots == dict(heap.roots)
    return done


def test_what_gives_space_back_has_room_in_the_log_of_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process", decay=None) as heap:
        heap.roots["a"] = heap.malloc(100)
        large = heap.malloc(5 * MiB)
        heap.arena("temporary").malloc(3 * MiB)
        for number in range(5):
            commit(heap, number)
        with full_disk():
            assert commit_until_refused(heap) > 10
            before = dict(heap.roots), heap.stats().blocks
            assert commit_until_refused(heap) == 0
            assert before == (dict(heap.roots), heap.stats().blocks)
            heap.arena("temporary").drop()
            heap.free(large)
            heap.trim()
            heap.free(heap.malloc(100))
            assert commit_until_refused(heap) == 0  # what is left is for giving back
            assert path.stat().st_size < 3 * MiB
            assert heap.check()
            heap.close()
    with Heap.open(path, decay=None) as heap:
        assert before[0] == dict(heap.roots)
        assert heap.check()
        with full_disk():  # nothing is known of the blocks that it has
            assert commit_until_refused(heap) == 0
            assert before[0] == dict(heap.roots)
        commit(heap, 0)
        log: Any = heap._space.shared.redo
        at = LOG[0] + log.positions()[3] % layout.LOG_BYTES
        assert not medium_of(heap).holes.within(at, min(at + UNIT, LOG[1]))


def test_a_heap_ends_when_the_log_has_a_page_left_on_a_full_disk(tmp_path: Path) -> None:
    """As one that was opened: the page is asked for anew, and was there."""
    path = tmp_path / "heap"
    Heap.create(path, durability="process").close()
    allocate = native.fallocate

    def refuse_more(fd: int, offset: int, length: int, mode: Allocate = Allocate.EXTEND) -> None:
        if mode != Allocate.PUNCH_HOLE and length > UNIT:
            raise NativeError(errno.ENOSPC, "fallocate")
        allocate(fd, offset, length, mode)

    heap = Heap.open(path, decay=None)
    offset = heap.malloc(50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "fallocate", refuse_more)
        with pytest.raises(OutOfSpaceError):
            heap.roots["a"] = offset
        heap.trim()
        heap.close()
    with Heap.open(path) as heap:
        assert not heap.roots
        assert heap.check()


class FakeMedium:
    """What `LogBlocks` asks of a medium: no file behind it."""

    def __init__(self, pages: int, holes: list[tuple[int, int]], monkeypatch: Any) -> None:
        self.fd, self.name = -1, "fake"
        self.holes = Holes(holes)
        self.left = 10**9
        superblock = SimpleNamespace(log_off=LOG[0], log_size=pages * UNIT)
        self.header = SimpleNamespace(superblock=superblock)
        monkeypatch.setattr(native, "fallocate", self.allocate)

    def allocate(self, _: int, __: int, length: int, ___: Allocate) -> None:
        if length > self.left:
            raise NativeError(errno.ENOSPC, "fallocate")
        self.left -= length


@given(
    pages=st.integers(1, 40),
    backed=st.sets(st.integers(0, 39)),
    lsn=st.integers(1, 10_000).map(lambda n: n * 64),
    left=st.lists(st.integers(0, 45), min_size=1, max_size=8),
)
def test_the_limit_of_a_log_is_where_its_blocks_end(
    pages: int, backed: set[int], lsn: int, left: list[int]
) -> None:
    """Against the pages of a ring, gone through byte by byte from the position of a record."""
    with pytest.MonkeyPatch.context() as patch:
        places = [(LOG[0] + n * UNIT, LOG[0] + (n + 1) * UNIT) for n in range(pages)]
        medium: Any = FakeMedium(pages, [], patch)
        for number in sorted(set(range(pages)) - backed):
            medium.holes.add(*places[number])
        log = LogBlocks(medium, lsn)
        for room in left:
            lacking = {n for n in range(pages) if medium.holes.within(*places[n])}
            run = next(
                (n for n in range(lsn // UNIT, lsn // UNIT + pages) if n % pages in lacking), None
            )
            reached = None if run is None else max(run * UNIT, lsn)
            assert log.limit <= (reached or 0)
            assert bool(log.limit) == bool(lacking)
            medium.left = room * UNIT
            try:
                log.extend(needed=True)
            except OutOfSpaceError:
                assert room < 1
                assert log.limit == reached
