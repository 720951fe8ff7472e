"""Spaces: what every `Space` keeps, as tests that a class of yours inherits.

    class TestMine(SpaceContract):
        def space(self):
            return Mine()

The model is a set of free units. A test runner that collects classes by their names runs them all;
what a `Space` can do beyond the protocol is tested where it has it.
"""

from __future__ import annotations

import random
from typing import Any

from pmemheap.protocols import SPACE_MARGIN, Space

__all__ = ["SpaceContract", "SpaceModel"]


class SpaceModel:
    """A `Space`, and beside it the set of the units that are free. Each call compares them."""

    def __init__(self, space: Any) -> None:
        self.space = space
        self.free: set[int] = set()
        self.taken: list[tuple[int, int]] = []

    def bring(self, start: int, length: int) -> None:
        """Bring new units."""
        self.space.deallocate(start, length)
        self.free.update(range(start, start + length))

    def longest(self) -> int:
        """Return how many free units lie next to each other, at most."""
        most = run = 0
        for unit in sorted(self.free):
            run = run + 1 if unit - 1 in self.free else 1
            most = max(most, run)
        return most

    def allocate(self, length: int, align: int = 1) -> int | None:
        """Take units; what is answered is free and aligned, and None only without much room."""
        start: int | None = self.space.allocate(length, align)
        if start is None:
            longest, most = self.longest(), SPACE_MARGIN * max(length, align)
            assert longest < most, f"allocate({length}, {align}): None, with {longest} units free"
            return None
        assert type(start) is int, f"allocate({length}, {align}): an int expected, found {start!r}"
        assert start % align == 0, f"allocate({length}, {align}): aligned expected, found {start}"
        self._claim(start, length, f"allocate({length}, {align})")
        return start

    def take(self, start: int, length: int) -> bool:
        """Take just these units, if it does; only free ones."""
        is_taken = self.space.take(start, length)
        is_free = self.free.issuperset(range(start, start + length))
        assert not is_taken or is_free, f"take({start}, {length}): in use, and taken again"
        if is_taken:
            self._claim(start, length, f"take({start}, {length})")
        return bool(is_taken)

    def _claim(self, start: int, length: int, call: str) -> None:
        units = set(range(start, start + length))
        assert units <= self.free, f"{call}: {min(units - self.free)} of {start} is not free"
        self.free -= units
        self.taken.append((start, length))

    def deallocate(self, index: int, cut: int | None = None) -> None:
        """Give one of what is taken back, or the part in front of a cut."""
        start, length = self.taken.pop(index)
        if cut is not None and 0 < cut < length:
            self.taken.append((start + cut, length - cut))
            length = cut
        self.bring(start, length)

    def require_same(self) -> None:
        """Fail if the Space says otherwise: of what is free, of itself, of what is longest."""
        if hasattr(self.space, "check"):
            self.space.check()
        if hasattr(self.space, "__iter__"):
            ranges = list(self.space)
            assert ranges == sorted(ranges), "ranges by their start expected"
            found = [unit for start, length in ranges for unit in range(start, start + length)]
            assert found == sorted(self.free), "its free units are others"
        if hasattr(self.space, "longest"):
            self._require_longest()

    def _require_longest(self) -> None:
        length = self.space.longest()
        assert 0 <= length <= self.longest()
        if length:
            start = self.allocate(length)
            assert start is not None, f"longest() is {length}, and allocate({length}, 1) None"
            self.deallocate(len(self.taken) - 1)


class SpaceContract:
    """What a `pmemheap.protocols.Space` promises. Derive from it, and say what is to be tested.

    Attributes
    ----------
    units : int
        Units that the Space is given.
    lengths : tuple of int
        What it is asked for.
    aligns : tuple of int
        Powers of two.
    steps : int
        Calls of each random test.
    """

    units: int = 4096
    lengths: tuple[int, ...] = (1, 2, 3, 5, 8, 17, 64, 100)
    aligns: tuple[int, ...] = (1, 2, 16, 64)
    steps: int = 600

    def space(self) -> Any:
        """Return a new Space, for one test. It has nothing that is free."""
        raise NotImplementedError(f"{type(self).__name__}: a method space() expected")

    def _filled(self) -> SpaceModel:
        model = SpaceModel(self.space())
        model.bring(0, self.units)
        return model

    # ------------------------------------------------------------ the protocol

    def test_it_is_a_space(self) -> None:
        """It has the calls of the protocol."""
        assert isinstance(self.space(), Space)

    def test_a_new_one_has_nothing(self) -> None:
        """There is no room before any was brought."""
        model = SpaceModel(self.space())
        assert model.allocate(1) is None
        model.require_same()

    def test_it_has_what_it_was_given(self) -> None:
        """Single units until none is left, each once; new space serves as well."""
        model = SpaceModel(self.space())
        model.bring(7, 30)
        while model.allocate(1) is not None:
            pass
        assert not model.free
        model.bring(100, 8)
        assert model.allocate(1) is not None

    def test_answers_are_aligned(self) -> None:
        """To each power of two, and free."""
        for align in self.aligns:
            model = self._filled()
            for length in self.lengths:
                model.allocate(length, align)
            model.require_same()
            assert model.taken

    def test_all_comes_back_whole(self) -> None:
        """However it was taken, parted and given back, a quarter of it is there in one piece."""
        model, chance = self._filled(), random.Random(1)
        while model.allocate(chance.choice(self.lengths)) is not None:
            pass
        while model.taken:
            model.deallocate(chance.randrange(len(model.taken)), chance.randrange(1, 9))
        assert model.allocate(self.units // SPACE_MARGIN) is not None

    def test_it_agrees_with_the_model(self) -> None:
        """Random calls: what is free is free, and nothing is lost."""
        for seed in range(3):
            model, chance = self._filled(), random.Random(seed)
            for step in range(self.steps):
                if chance.random() < 0.55 or not model.taken:
                    model.allocate(chance.choice(self.lengths), chance.choice(self.aligns))
                else:
                    model.deallocate(chance.randrange(len(model.taken)), chance.randrange(1, 99))
                if step % 50 == 0:
                    model.require_same()
            model.require_same()

    # ------------------------------------------------------------ by presence

    def test_it_takes_what_is_asked_for(self) -> None:
        """`take` has the start of what is free, and nothing that is in use."""
        model = self._filled()
        if not hasattr(model.space, "take"):
            return
        assert model.take(0, 10)
        assert not model.take(0, 10)
        assert not model.take(5, 10)
        assert not model.take(self.units - 5, 10)
        chance = random.Random(2)
        for _ in range(self.steps // 4):
            model.take(chance.randrange(self.units), chance.choice(self.lengths))
            if model.taken and chance.random() < 0.5:
                model.deallocate(chance.randrange(len(model.taken)))
        model.require_same()
