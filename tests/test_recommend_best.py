"""What is recommended, beside the best of all plans, whether they suit the blocks or not."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from test_recommend import Load, fifo, one_size, recorded

from pmemheap import traces
from pmemheap.traces.groups import groups_of
from pmemheap.traces.recommending import GAIN, recommend

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SAME = 64 << 10  # bytes, which recommend takes for the same


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("recommended")


@pytest.mark.slow
@pytest.mark.parametrize("load", [fifo, one_size])
def test_what_is_recommended_holds_little_more_than_the_best(
    tmp_path: Path, load: Load, search: Any
) -> None:
    trace = traces.load(recorded(tmp_path, load))
    chosen, (plan, least) = recommend(trace, passes=1).best, search.best_plan(trace)
    assert chosen.peak_bytes <= max(least / (1 - GAIN), least + SAME), plan.name


def test_all_plans_are_each_strategy_for_each_one_and_two_groups(search: Any) -> None:
    lines = [f"a {n} {8 + n % 2} s=p:{1 + n % 2}" for n in range(200)]
    groups = groups_of(traces.parse(["# two 200 1700", *lines], "two"))
    assert len(list(search.all_plans(groups))) == 1 + 2 * 3 + 3 * 3
