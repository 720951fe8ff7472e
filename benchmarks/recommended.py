"""How near `pmemheap recommend` comes to the best of all plans, by the peak of touched memory.

    python benchmarks/recommended.py TRACE...

All plans: each strategy that can hold the blocks of a group, whether it suits them or not, for each
one and for each two of the groups. All are tried in shadow; those that hold least are measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

from pmemheap.errors import PmemHeapError
from pmemheap.native.constants import ROW_MOST
from pmemheap.traces import Trace, load
from pmemheap.traces.candidates import STRATEGIES, Plan, Strategy
from pmemheap.traces.groups import Group, groups_of
from pmemheap.traces.program import program_of
from pmemheap.traces.recommending import recommend, touched_peak
from pmemheap.traces.shadow import shadow_program

MEASURED = 3
PARTS = 2


def can_hold(strategy: Strategy, group: Group) -> bool:
    """Tell whether the blocks of a group can lie there at all: rows are for one size."""
    return strategy.name != "rows" or (group.size_share == 1 and group.size <= ROW_MOST)


def all_plans(groups: Sequence[Group]) -> Iterator[Plan]:
    """Yield the default and all plans of up to two parts."""
    named = [group for group in groups if group.name != "rest"]
    for count in range(PARTS + 1):
        for chosen in combinations(named, count):
            options = [[each for each in STRATEGIES if can_hold(each, group)] for group in chosen]
            for strategies in product(*options):
                yield Plan({g.name: s for g, s in zip(chosen, strategies, strict=True)})


def held(trace: Trace, plan: Plan, groups: Sequence[Group]) -> float:
    """Return the most that a plan holds in shadow; infinity if it cannot hold the blocks."""
    try:
        samples = shadow_program(program_of(trace, plan, groups))
    except PmemHeapError:
        return float("inf")
    return max((each.held for each in samples), default=0)


def best_plan(trace: Trace) -> tuple[Plan, int]:
    """Return the plan with the least peak of touched memory, of those that hold least."""
    groups = groups_of(trace)
    plans = sorted(all_plans(groups), key=lambda plan: held(trace, plan, groups))
    peaks = [touched_peak(program_of(trace, plan, groups)) for plan in plans[:MEASURED]]
    return plans[peaks.index(min(peaks))], min(peaks)


def main() -> None:
    """Print a row for each trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="+", type=Path)
    sys.stdout.write(f"{'trace':<22}{'KiB':>9}{'best':>9}{'ratio':>7}  recommended; the best\n")
    for path in parser.parse_args().traces:
        trace = load(path)
        ours, (plan, least) = recommend(trace, passes=1).best, best_plan(trace)
        ratio = ours.peak_bytes / max(least, 1)
        numbers = f"{ours.peak_bytes >> 10:>9,}{least >> 10:>9,}{ratio:>7.3f}"
        sys.stdout.write(f"{trace.name:<22}{numbers}  {ours.plan.name}; {plan.name}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
