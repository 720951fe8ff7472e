"""Blocks of a file come as they are needed, and what may have none is known."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pmemheap import Heap, native
from pmemheap.errors import OutOfSpaceError
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.holes import Holes, blocks_known
from pmemheap.format import layout
from pmemheap.native import Allocate, NativeError
from pmemheap.units import UNIT, KiB, MiB

RANGES = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted).filter(lambda r: r[0] < r[1])


def medium_of(heap: Heap) -> FileMedium:
    medium = heap._space.shared.medium
    assert isinstance(medium, FileMedium)
    return medium


@contextmanager
def full_disk() -> Iterator[None]:
    def refuse(fd: int, offset: int, length: int, mode: Allocate = Allocate.EXTEND) -> None:
        if mode != Allocate.PUNCH_HOLE:
            raise NativeError(errno.ENOSPC, "fallocate")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "fallocate", refuse)
        yield


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
