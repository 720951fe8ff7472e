from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pmemheap.space.extents import ExtentMap

UNITS = 160
"""Few, so that extents meet; alignments up to 32 still matter."""

ALIGNED_TRIES = 32


class ExtentMachine(RuleBasedStateMachine):
    """The model: for each unit whether it is free. No code shared."""

    @initialize(holes=st.lists(st.integers(0, UNITS - 1), max_size=20))
    def begin(self, holes: list[int]) -> None:
        self.extents = ExtentMap()
        self.free = [False] * UNITS
        self.taken: list[tuple[int, int]] = []
        for unit in range(UNITS):
            if unit not in holes:
                self.extents.deallocate(unit, 1)
                self.free[unit] = True

    # ------------------------------------------------------------ the model

    def gaps(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for unit in range(UNITS):
            if not self.free[unit]:
                continue
            if found and sum(found[-1]) == unit:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((unit, 1))
        return found

    def gap_at(self, unit: int) -> int:
        return next((length for start, length in self.gaps() if start == unit), 0)

    def gap_before(self, stop: int) -> int:
        return next((length for start, length in self.gaps() if start + length == stop), 0)

    def claim(self, start: int, length: int) -> None:
        for unit in range(start, start + length):
            assert self.free[unit], f"unit {unit} belongs to somebody"
            self.free[unit] = False
        self.taken.append((start, length))

    # ------------------------------------------------------------ rules

    @rule(length=st.integers(1, 40), shift=st.integers(0, 5), roomy=st.booleans())
    def allocate(self, length: int, shift: int, roomy: bool) -> None:
        align = 1 << shift
        fits = [gap for gap in self.gaps() if -gap[0] % align + length <= gap[1]]
        start = self.extents.allocate(length, align, roomy=roomy)
        if start is None:
            certain = [gap for gap in fits if length + align - 1 <= gap[1]]
            assert not certain
            assert not fits or len(self.gaps()) > ALIGNED_TRIES
            return
        assert start % align == 0
        self.claim(start, length)

    @rule(length=st.integers(1, 40))
    def allocate_settled(self, length: int) -> None:
        """With nothing on the stacks it is best fit, the lowest address on a tie."""
        self.extents.coalesce()
        fits = sorted((have, start) for start, have in self.gaps() if have >= length)
        if fits:
            assert self.extents.allocate(length) == fits[0][1]
            self.claim(fits[0][1], length)

    @rule(index=st.integers(0, 10**6), cut=st.integers(1, 40))
    def deallocate(self, index: int, cut: int) -> None:
        if not self.taken:
            return
        start, length = self.taken.pop(index % len(self.taken))
        part = min(cut, length)
        if part < length:
            self.taken.append((start + part, length - part))
        self.extents.deallocate(start, part)
        for unit in range(start, start + part):
            self.free[unit] = True

    @rule(unit=st.integers(0, UNITS - 1), length=st.integers(1, 20))
    def take(self, unit: int, length: int) -> None:
        expected = self.gap_at(unit) >= length
        assert self.extents.take(unit, length) == expected
        if expected:
            self.claim(unit, length)

    @rule(stop=st.integers(1, UNITS), most=st.integers(1, 20))
    def take_ending(self, stop: int, most: int) -> None:
        expected = min(self.gap_before(stop), most)
        assert self.extents.take_ending(stop, most) == expected
        if expected:
            self.claim(stop - expected, expected)

    @rule(unit=st.integers(0, UNITS), length=st.integers(1, 40))
    def ask(self, unit: int, length: int) -> None:
        gaps = self.gaps()
        assert self.extents.room_at(unit) == self.gap_at(unit)
        assert self.extents.room_before(unit) == self.gap_before(unit)
        fits = sorted((have, start) for start, have in gaps if have >= length)
        assert self.extents.shortest(length) == (fits[0][::-1] if fits else None)
        assert self.extents.longest_merged() == max((have for _, have in gaps), default=0)

    @invariant()
    def free_units_are_counted(self) -> None:
        if hasattr(self, "extents"):
            free = sum(self.free)
            assert self.extents.free_units == self.extents.statistics().free_units == free

    @rule()
    def check(self) -> None:
        self.extents.check()
        assert list(self.extents) == self.gaps()

    def teardown(self) -> None:
        if hasattr(self, "extents"):
            self.check()


TestExtents = pytest.mark.slow(ExtentMachine.TestCase)


class WildernessMachine(RuleBasedStateMachine):
    """The model: the set of free units, and where the never used ones begin."""

    def __init__(self) -> None:
        super().__init__()
        self.extents = ExtentMap(8, 8)
        self.wilderness = self.end = 8
        self.free: set[int] = set()
        self.taken: list[tuple[int, int]] = [(0, 8)]

    def room_at(self, unit: int) -> int:
        """Return how many are free from `unit` on, where an extent or the wilderness begins."""
        if unit - 1 in self.free and unit != self.wilderness:
            return 0
        stop = unit
        while stop in self.free:
            stop += 1
        return stop - unit

    def claim(self, start: int, length: int) -> None:
        units = set(range(start, start + length))
        assert units <= self.free
        self.free -= units
        self.taken.append((start, length))
        self.wilderness = max(self.wilderness, start + length)

    @rule(nunits=st.integers(1, 60))
    def grow(self, nunits: int) -> None:
        self.free.update(range(self.end, self.end + nunits))
        self.end += nunits
        self.extents.grow(self.end)

    @rule(length=st.integers(1, 40), shift=st.integers(0, 4))
    def allocate(self, length: int, shift: int) -> None:
        start = self.extents.allocate(length, 1 << shift)
        if start is None:
            assert shift or max(map(self.room_at, range(self.end))) < length
            assert self.end - self.wilderness < length + (1 << shift) - 1
        else:
            assert start % (1 << shift) == 0
            self.claim(start, length)

    @rule(index=st.integers(0), count=st.integers(1, 3))
    def deallocate_many(self, index: int, count: int) -> None:
        ranges = [self.taken.pop(index % len(self.taken)) for _ in self.taken[:count]]
        self.extents.deallocate_many(ranges)
        for start, length in ranges:
            self.free.update(range(start, start + length))

    @rule(unit=st.integers(0, 100), length=st.integers(1, 40))
    def take(self, unit: int, length: int) -> None:
        assert self.extents.room_at(unit) == self.room_at(unit)
        expected = self.room_at(unit) >= length
        assert self.extents.take(unit, length) == expected
        if expected:
            self.claim(unit, length)

    @rule(count=st.integers(0, 4), most=st.integers(1, 20))
    def take_shortest(self, count: int, most: int) -> None:
        fits = sorted((length, start) for start, length in self.extents if length <= most)
        taken = self.extents.take_shortest(count, most)
        assert taken == [(start, length) for length, start in fits[:count]]
        for start, length in taken:
            self.claim(start, length)

    @rule()
    def end_wilderness(self) -> None:
        self.extents.end_wilderness()
        self.wilderness = self.end

    @rule()
    def check(self) -> None:
        self.extents.check()
        assert (self.extents.wilderness, self.extents.end) == (self.wilderness, self.end)
        free = {unit for start, n in self.extents for unit in range(start, start + n)}
        assert free | set(range(self.wilderness, self.end)) == self.free

    @invariant()
    def free_units_are_counted(self) -> None:
        assert self.extents.free_units == len(self.free)

    def teardown(self) -> None:
        self.check()


TestWilderness = pytest.mark.slow(WildernessMachine.TestCase)
