"""Journeys have budgets: Python calls, crossings into C and system calls, which only fall."""

from __future__ import annotations

from pathlib import Path

import pytest
from journeys import JOURNEYS, Count, counted

from pmemheap import Heap

BUDGETS = {
    "growth": Count(python=303, crossings=40, system=16),  # a map and a sync of it: not all data
    "opening after a crash": Count(python=642, crossings=73, system=44),
    "first put": Count(python=251, crossings=33, system=17),
    "trim of nine segments": Count(python=603, crossings=63, system=31),
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
