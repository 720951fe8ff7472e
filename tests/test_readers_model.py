"""The model of readers beside a writer: right with all rules, wrong without any one of them.

`make model` searches further.
"""

from __future__ import annotations

import pytest
from readers_model import ALONE, COPIES, EDITS, LEASES, MIXES, RULES, SENDS, WALKED, Beside
from readers_search import search, walk
from readers_state import Bounds, State

MOST = 20_000
SLOW = {"Q2 era again", "Q2 floor again", "Q3 late", "Q4 again", "Q4 recycled", "Q6 EDIT"} | {
    "Q8 each look",
    "Q9 gate last",
    "Q9 two leases",
    "Q13 opening",
    "Q17 believes",
}
FAR = {"Q6 floor"}
"""Whose counterexample is two seconds away: left to `make model`."""
LARGEST = {"Q8 floor", "Q10 applied last", "Q13"}
SMALL = ["Q8 floor", "Q9 boot", "Q10 applied last", "Q12 checkpoint", "Q13", "Q19 floor"]
"""Rules in whose worlds all states are few."""
MET = {
    "refills", "copies after all", "lowers floor", "raises era", "lowers",
    "opens: replays", "opens: evens", "reader gone", "reader reads era again",
    "reader asks again", "reader looks for a writer",
}  # fmt: skip


class Keeping(Beside):
    """Keeps what it has met, and the last state in which something was in quarantine."""

    def __init__(self, bounds: Bounds, out: frozenset[str] = frozenset()) -> None:
        super().__init__(bounds, out)
        self.met: set[str] = set()
        self.last: State | None = None

    def wrong(self, state: State) -> str:
        self.met |= {state.writer.pc, state.writer.recycler}
        self.met |= {f"reader {reader.pc}" for reader in state.readers}
        if any(state.writer.tags):
            self.last = state
        return super().wrong(state)


RULE_BY_RULE = [
    pytest.param(rule, marks=[pytest.mark.slow] * (rule in SLOW))
    for rule in RULES
    if rule not in FAR
]
WORLD_BY_WORLD = [
    pytest.param(rule, marks=[pytest.mark.slow] * (rule in LARGEST)) for rule in SMALL
]


@pytest.mark.parametrize("rule", RULE_BY_RULE)
def test_a_rule_that_is_left_out_is_missed(rule: str) -> None:
    _, make = RULES[rule]
    found = search(make(frozenset({rule})), MOST)
    assert found.wrong, found


@pytest.mark.parametrize("rule", WORLD_BY_WORLD)
def test_all_rules_together_leave_no_state_wrong(rule: str) -> None:
    _, make = RULES[rule]
    found = search(make(frozenset()), MOST)
    assert found.whole, found
    assert not found.wrong, found


@pytest.mark.parametrize("bounds", [COPIES, SENDS, EDITS, LEASES, MIXES, ALONE])
def test_all_rules_together_leave_no_state_of_few_wrong(bounds: Bounds) -> None:
    found = search(Beside(bounds), MOST)
    assert found.whole, found
    assert not found.wrong, found


def test_a_counterexample_is_as_short_as_any() -> None:
    found = search(Beside(COPIES, frozenset({"Q10 other table"})), MOST)
    assert found.trace == (
        "writer: begins to put (0,)",
        "writer: makes block 2 for root 0",
        "writer: appends the record",
        "writer: begins slot 0 of table 0",
    )
    assert found.wrong == "J3: the table that counts has a torn slot"


@pytest.mark.slow
def test_random_walks_beyond_what_can_be_searched_go_right_and_leave_nothing_held() -> None:
    world = Keeping(WALKED)
    walked = walk(world, seed=0, most_steps=15_000)
    assert not walked.wrong, walked
    assert world.met >= MET, MET - world.met
    assert world.last is not None
    rest = world.drained(world.last)
    assert rest.writer.pc == "idle"
    assert not any(rest.writer.tags)
    assert not rest.writer.loose
    assert not world.wrong(rest)


def test_a_writer_that_does_not_raise_the_era_holds_space_for_nobody() -> None:
    world = Keeping(COPIES, frozenset({"Q4 era"}))
    walk(world, seed=0, most_steps=500)
    assert world.last is not None
    assert any(world.drained(world.last).writer.tags)
