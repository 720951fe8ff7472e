from __future__ import annotations

from array import array

import pytest

from pmemheap.space.size_classes import CLASSES, SizeClass, packed_classes
from pmemheap.units import GRANULE, UNIT


def test_sizes_ascend_in_granules_without_multiples_of_a_unit() -> None:
    sizes = [one.size for one in CLASSES]
    assert sizes == sorted(set(sizes))
    assert all(size % GRANULE == 0 and size % UNIT for size in sizes)
    assert (sizes[0], sizes[-1]) == (16, 15 * 1024)


def test_the_table_is_the_one_of_the_file_format() -> None:
    """Entries name classes by number: a change of these numbers needs a new format version."""
    assert len(CLASSES) == 60
    assert [(CLASSES[i].size, CLASSES[i].run_units) for i in (0, 7, 8, 16, 30, 59)] == PINNED


PINNED = [(16, 1), (128, 1), (144, 1), (288, 1), (960, 1), (15360, 8)]


@pytest.mark.parametrize("size", [17, 100, 129, 500, 1000, 2049, 5000, 9000, 15000])
def test_rounding_wastes_at_most_an_eighth_and_a_granule(size: int) -> None:
    chosen = next(one.size for one in CLASSES if one.size >= size)
    assert chosen - size < max(GRANULE, size / 8 + 1)


@pytest.mark.parametrize("one", CLASSES, ids=lambda one: str(one.size))
def test_runs_waste_at_most_a_sixteenth(one: SizeClass) -> None:
    assert 1 <= one.run_units <= 32
    assert one.run_blocks >= (1 if one.size <= UNIT // 2 else 2)
    assert one.run_blocks * one.size <= one.run_units * UNIT < (one.run_blocks + 1) * one.size
    assert one.run_waste <= 1 / 16


def test_packed_classes_say_the_same_to_the_core() -> None:
    sizes, units, starts = packed_classes()
    assert list(array("I", sizes)) == [one.size for one in CLASSES]
    assert list(array("H", units)) == [one.run_units for one in CLASSES]
    assert starts == b"".join(map(starts_of, CLASSES))


def starts_of(one: SizeClass) -> bytes:
    bits = sum(1 << block * one.size // GRANULE for block in range(one.run_blocks))
    return bits.to_bytes(one.run_units * UNIT // GRANULE // 8, "little")
