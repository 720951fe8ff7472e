"""Ages of free units against a model: one number a unit, that of the interval it was freed in."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pmemheap import Heap
from pmemheap.units import UNIT, KiB

CHUNK = 4096
SIZES = st.sampled_from([100, 3000, UNIT, 2 * UNIT, 40 * UNIT, 63 * UNIT, 64 * UNIT, 300 * UNIT])
LONG = st.sampled_from([CHUNK * UNIT, 3 * CHUNK * UNIT + 5 * UNIT, (CHUNK - 1) * UNIT])


class AgesMachine(RuleBasedStateMachine):
    """The model: what was stamped in which interval, unit by unit; no code shared."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = Heap.anonymous(decay=None)
        self.interval = 0
        self.freed: dict[int, int] = {}
        self.live: list[int] = []

    def teardown(self) -> None:
        self.heap.close()

    def free_units(self) -> dict[int, bool]:
        """All units, and whether they are free."""
        first, end, _, _ = self.heap._space.core.bounds
        used: set[int] = set()
        for start, nunits, state in self.heap._space.supply.pieces():
            if state in {3, 5, 7, 8}:
                used.update(range(start, start + nunits))
        return {unit: unit not in used for unit in range(first, end)}

    def note(self, before: dict[int, bool]) -> None:
        after = self.free_units()
        for unit, is_free in after.items():
            if is_free and not before.get(unit, True):
                self.freed[unit] = self.interval

    @rule(size=SIZES)
    def malloc(self, size: int) -> None:
        before = self.free_units()
        self.live.append(self.heap.malloc(size))
        self.note(before)  # an empty run may have gone

    @rule(size=LONG)
    def malloc_long(self, size: int) -> None:
        if len(self.live) < 20:
            self.malloc(size)

    @rule(number=st.integers(0))
    def free(self, number: int) -> None:
        if self.live:
            before = self.free_units()
            self.heap.free(self.live.pop(number % len(self.live)))
            self.note(before)

    @rule(number=st.integers(0), size=SIZES)
    def realloc(self, number: int, size: int) -> None:
        if self.live:
            before = self.free_units()
            index = number % len(self.live)
            self.live[index] = self.heap.realloc(self.live[index], size)
            self.note(before)

    @rule()
    def next_interval(self) -> None:
        self.heap._space.core.next_interval()
        self.interval += 1

    @rule()
    def merge(self) -> None:
        self.heap._space.serve(self.heap._space.supply.merge_freed)

    @rule()
    def decay(self) -> None:
        """Give back all that is old, and begin an interval."""
        self.heap._space.serve(self.heap._space.giveback.decay, 0.0)
        free = self.free_units()
        self.freed = {
            unit: freed
            for unit, freed in self.freed.items()
            if unit in free and not (free[unit] and freed < self.interval)
        }
        self.interval += 1

    @invariant()
    def the_core_knows_the_age_of_each_free_unit(self) -> None:
        free = self.free_units()
        expected = {u for u, is_free in free.items() if is_free and self.is_old(u)}
        found: set[int] = set()
        start = None
        for unit in [*free, max(free) + 1]:
            if free.get(unit) and start is None:
                start = unit
            elif not free.get(unit) and start is not None:
                for part, length, old in self.heap._space.core.old_parts([(start, unit - start)]):
                    units = range(part, part + length)
                    assert self.is_old(units[0])
                    assert self.is_old(units[-1])
                    assert not any(self.is_young(each) for each in units)
                    assert sum(map(self.is_old, units)) == old
                    found |= {each for each in units if self.is_old(each)}
                young = [each for each in range(start, unit) if self.is_young(each)]
                end = self.heap._space.core.young_end(start, unit - start)
                assert end == (young[-1] + 1 if young else start)
                start = None
        assert found == expected

    def is_old(self, unit: int) -> bool:
        return self.freed.get(unit, self.interval) < self.interval

    def is_young(self, unit: int) -> bool:
        return self.freed.get(unit) == self.interval


TestAges = pytest.mark.slow(AgesMachine.TestCase)
TestAges.settings = settings(
    max_examples=max(10, settings().max_examples // 3),
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_an_age_comes_round_after_255_intervals() -> None:
    """It is young again for one interval, and old again from then on: nothing is kept for ever."""
    with Heap.anonymous(decay=None) as heap:
        offset = heap.malloc(300 * KiB)
        heap.free(offset)
        seen = []
        for _ in range(257):
            seen.append(bool(heap._space.core.old_parts([(offset // UNIT, 75)])))
            heap._space.core.next_interval()
        assert seen == [False, *[True] * 254, False, True]
