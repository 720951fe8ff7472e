"""Views and arrays held over sixty growths: none moves, none loses a byte."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pmemheap import Heap
from pmemheap.file.filemedium import FileMedium
from pmemheap.space.anonymous import AnonymousMedium
from pmemheap.space.region import Region
from pmemheap.units import UNIT, GiB, KiB, MiB

PAGE = os.sysconf("SC_PAGE_SIZE")
FILE_BYTES = int(os.environ.get("PMEMHEAP_GROWTH_FILE_BYTES", 256 * MiB))
"""How large the file gets; 1 GiB is the promise, kept by hand."""


@dataclass
class Held:
    """A view and an array of two blocks, what they held at first, and where."""

    view: memoryview
    array: npt.NDArray[np.uint64]
    number: int

    @classmethod
    def made(cls, heap: Heap, number: int) -> Held:
        view = heap.view(heap.malloc(100 + 977 * number))
        view[:] = number.to_bytes(1, "little") * len(view)
        array = heap.ndarray(500 + number, "u8")
        array[:] = np.arange(len(array)) * number
        return cls(view, array, number)

    def addresses(self) -> tuple[int, int]:
        return np.frombuffer(self.view, "u1").ctypes.data, self.array.ctypes.data

    def assert_intact(self) -> None:
        assert bytes(self.view) == self.number.to_bytes(1, "little") * len(self.view)
        assert (self.array == np.arange(len(self.array), dtype="u8") * self.number).all()

    def store_again(self) -> None:
        """Store through the old view and the old array: they are writable still."""
        self.number = (self.number + 7) % 256
        self.view[:] = self.number.to_bytes(1, "little") * len(self.view)
        self.array[:] = np.arange(len(self.array)) * self.number


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let heaps grow by no more than they must: it takes fewer bytes to see them grow often."""
    for medium in (AnonymousMedium, FileMedium):
        monkeypatch.setattr(medium, "step", lambda medium, nunits: 1)


def grow_sixty_times(heap: Heap, total: int, *, touch_all: bool) -> None:
    """Grow to `total` bytes by blocks larger than all free space; look at everything after each."""
    held: list[Held] = []
    places: list[tuple[int, int]] = []
    while (stats := heap.stats()).growths < 60 or stats.mapped < total:
        assert len(held) < 200
        held.append(Held.made(heap, len(held) + 1))
        places.append(held[-1].addresses())
        offset = heap.malloc(max(heap.stats().largest_free + UNIT, total // 60))
        pages = heap.view(offset)[::UNIT] if touch_all else heap.view(offset)[-1:]
        pages[:] = b"\xff" * len(pages)
        del pages
        assert [each.addresses() for each in held] == places
        for each in held:
            each.assert_intact()
        held[len(held) // 2].store_again()
    assert heap.check()


@pytest.mark.slow
@pytest.mark.usefixtures("small_steps")
def test_views_hold_over_growth_to_64_gib_of_addresses() -> None:
    heap = Heap.anonymous(decay=None)
    grow_sixty_times(heap, 64 * GiB, touch_all=False)
    assert heap.stats().touched < 64 * MiB
    heap.close()


@pytest.mark.slow
@pytest.mark.usefixtures("small_steps")
def test_views_hold_over_growth_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    heap = Heap.create(path, durability="process", decay=None)
    grow_sixty_times(heap, FILE_BYTES, touch_all=True)
    kept = {offset: bytes(heap.view(offset, 64)) for offset, _ in heap.blocks()}
    heap.close()
    with Heap.open(path, readonly=True) as heap:
        assert {offset: bytes(heap.view(offset, 64)) for offset, _ in heap.blocks()} == kept


@pytest.mark.slow
def test_views_hold_when_what_lies_around_them_goes_back() -> None:
    """The other way round: segments at both ends go, the block between keeps bytes and address."""
    heap = Heap.shared(decay=None)
    front = [heap.malloc(1 * MiB) for _ in range(40)]
    held = Held.made(heap, 9)
    place = held.addresses()
    back = [heap.malloc(300 * KiB) for _ in range(100)]
    for offset in front + back:
        heap.free(offset)
    mapped = heap.stats().mapped
    assert heap.trim() > 60 * MiB
    assert heap.stats().mapped < mapped // 2
    assert held.addresses() == place
    held.assert_intact()
    held.store_again()
    heap.malloc(64 * MiB)
    assert held.addresses() == place
    held.assert_intact()


def test_what_the_pool_gets_with_never_used_units_has_real_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short extent that lies in front of the new segment was punched before the heap grew."""
    backed: list[tuple[int, int]] = []
    monkeypatch.setattr(Region, "back", lambda _, start, nunits: backed.append((start, nunits)))
    with Heap.create(tmp_path / "heap", durability="process", decay=None) as heap:
        for size in (100, 63 * UNIT):
            heap.malloc(size)
        while heap.stats().free > 10 * UNIT:
            heap.malloc(UNIT)
        heap.trim()
        assert heap.stats().free == 10 * UNIT
        end = heap._space.region.end_unit
        heap.malloc(40 * UNIT)
        assert heap._space.region.end_unit > end
        got = {unit for start, nunits in backed for unit in range(start, start + nunits)}
        assert set(range(end - 10, end + 30)) <= got


def resident_units() -> int:
    """Return the pages of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE // UNIT


def filled(mebibytes: int) -> Heap:
    """Return a heap of blocks of a page, all of them touched."""
    heap = Heap.anonymous()
    for _ in range(mebibytes * MiB // UNIT):
        heap.view(heap.malloc(4000))[0] = 1
    return heap


def test_pages_of_a_large_heap_come_many_at_once() -> None:
    with filled(32) as heap:
        before = resident_units()
        for _ in range(300):
            heap.malloc(4000)
        assert 150 < resident_units() - before <= 2 * heap.stats().mapped // UNIT // 64


def test_pages_of_a_small_heap_come_one_by_one() -> None:
    with filled(2) as heap:
        before = resident_units()
        for _ in range(100):
            heap.malloc(4000)
        assert resident_units() - before < 20
