"""Journeys have budgets: Python calls, crossings into C and system calls, which only fall."""

from __future__ import annotations

from pathlib import Path

import pytest
from journeys import JOURNEYS, Count, counted

from pmemheap import Heap

BUDGETS = {
    "growth": Count(python=288, crossings=39, system=14),
    "opening after a crash": Count(python=601, crossings=71, system=43),
    "first put": Count(python=261, crossings=34, system=18),
    "trim of nine segments": Count(python=581, crossings=66, system=34),
    "durable commit": Count(python=11, crossings=7, system=5),
}


@pytest.mark.parametrize("name", JOURNEYS)
def test_a_journey_keeps_its_budget(name: str, tmp_path: Path) -> None:
    count = JOURNEYS[name](tmp_path / "heap")
    assert not count.exceeds(BUDGETS[name]), f"{BUDGETS[name]} at most expected, found {count}"


def test_the_counter_sees_all_three() -> None:
    with Heap.anonymous() as heap:
        heap.malloc(100)
        assert counted(lambda: heap.malloc(100)) == Count(0, 1, 0)
        count = counted(lambda: heap.malloc(64 << 20))
    assert min(count.python, count.crossings, count.system) > 0
