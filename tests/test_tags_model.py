"""Tags against a model: which bytes live, which wait for readers, and since when."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stamped import has_stamp, picked, stamp_at
from test_tags import FOREVER, log_of, made

from pmemheap import Heap, Ring, Rows
from pmemheap.heap.insight import stats
from pmemheap.heap.space import space_of
from pmemheap.heap.units import live_bytes
from pmemheap.testing import copy_as_crashed
from pmemheap.units import UNIT, KiB

SIZES = st.sampled_from([16, 24, 100, 1000, 4000, UNIT, 3 * UNIT, 40 * KiB, 300 * KiB])
PICK = st.integers(0, 1 << 20)
PICKS = st.lists(PICK, min_size=1, max_size=6)
PLACES = st.sampled_from(["heap", "heap", "rows", "ring"])
ROW, CHUNK_MOST = 48, 32 * UNIT
ERAS = 1000
"""Between two eras of the model: the log ends one of its own when much was freed in it."""


class Waiting(NamedTuple):
    """Bytes that were freed: since when, and until which view ends."""

    era: int
    start: int
    stop: int
    view: memoryview | None


class TagMachine(RuleBasedStateMachine):
    """Rules are calls; no code is shared with the heap."""

    durability = "process"

    def __init__(self) -> None:
        super().__init__()
        base = "/dev/shm" if self.durability == "process" and os.path.isdir("/dev/shm") else None
        self.directory = Path(tempfile.mkdtemp(dir=base))
        self.heap: Heap = made(self.durability, self.directory / "heap")
        self.log = log_of(self.heap)
        self.era = 1
        self.live: dict[int, int] = {}
        self.waiting: list[Waiting] = []
        self.viewed: list[Waiting] = []
        ring, rows = (
            self.heap.arena(name, strategy=way)
            for name, way in (("ring", Ring()), ("rows", Rows(ROW)))
        )
        self.places: dict[str, Any] = {"heap": self.heap, "ring": ring, "rows": rows}

    # ------------------------------------------------------------ bytes

    def place_of(self, offset: int) -> Any:
        spaces = {space_of(place).index: place for place in self.places.values()}
        return spaces[offset >> 55]

    def address(self, offset: int) -> int:
        return space_of(self.place_of(offset)).address_of(offset)

    def quarantined(self) -> int:
        usages = [space_of(place).core.usage()[0] for place in self.places.values()]
        return sum(usage["quarantined_bytes"] for usage in usages)

    def stamp(self, start: int, stop: int) -> None:
        """Store at both ends of a range where it begins."""
        for at in (start, stop - 8):
            stamp_at(self.address(at), start)

    def require_stamped(self, start: int) -> None:
        assert has_stamp(self.address(start), start), hex(start)

    def came(self, offset: int) -> None:
        """Check a block that was handed out: no byte of it is of a live one, or waits."""
        stop = offset + self.heap.usable_size(offset)
        taken = [*self.live.items(), *((one.start, one.stop) for one in self.waiting + self.viewed)]
        assert not [hex(low) for low, high in taken if low < stop and offset < high]
        self.live[offset] = stop
        self.stamp(offset, stop)

    def went(self, offset: int, view: memoryview | None = None) -> None:
        self.waiting.append(Waiting(self.era, offset, self.live.pop(offset), view))

    # ------------------------------------------------------------ calls

    @rule(size=SIZES, place=PLACES)
    def malloc(self, size: int, place: str) -> None:
        self.came(self.places[place].malloc(min(size, ROW) if place == "rows" else size))

    @rule(size=SIZES, count=st.integers(1, 40))
    def malloc_many(self, size: int, count: int) -> None:
        for offset in self.heap.malloc_many(size, count):
            self.came(offset)

    @rule(picks=PICKS)
    def free(self, picks: list[int]) -> None:
        for offset in picked(self.live, picks):
            self.heap.free(offset)
            self.went(offset)

    @rule(picks=st.lists(PICK, min_size=10, max_size=30))
    def free_many(self, picks: list[int]) -> None:
        for place in self.places.values():
            offsets = [each for each in picked(self.live, picks) if self.place_of(each) is place]
            place.free_many(offsets)
            for offset in offsets:
                self.went(offset)

    @rule(picks=PICKS)
    def free_viewed(self, picks: list[int]) -> None:
        for offset in picked(self.live, picks):
            view = self.heap.view(offset)
            self.heap.free(offset, deferred=True)
            self.went(offset, view)

    @rule(pick=PICK, size=SIZES)
    def realloc(self, pick: int, size: int) -> None:
        for offset in picked(self.live, [pick]):
            place = self.place_of(offset)
            to = place.realloc(offset, min(size, ROW) if place is self.places["rows"] else size)
            stop = self.live[offset]
            if to != offset:
                self.went(offset)
                self.came(to)
                continue
            end = offset + self.heap.usable_size(offset)
            if end < stop:
                self.waiting.append(Waiting(self.era, end, stop, None))
            del self.live[offset]
            if end < stop:
                self.stamp(end, stop)
            self.came(offset)

    @rule(
        sizes=st.lists(SIZES, max_size=4),
        picks=PICKS,
        again=st.booleans(),
        commits=st.booleans(),
        durable=st.booleans(),
    )
    def transact(
        self, sizes: list[int], picks: list[int], again: bool, commits: bool, durable: bool
    ) -> None:
        tx = self.heap.transaction(durable=durable)
        fresh, gone = [tx.malloc(size) for size in sizes], picked(self.live, picks)
        for offset in gone:
            tx.free(offset)
        if again and fresh:
            tx.free(fresh.pop())
        if not commits:
            tx.abort()
            return
        tx.commit()
        for offset in fresh:
            self.came(offset)
        for offset in gone:
            self.went(offset)

    # ------------------------------------------------------------ what waits

    @rule()
    def end_era(self) -> None:
        self.heap.sync()  # what waits for its record has the tag of this era now
        self.era += ERAS
        self.log._set_era(self.era)

    @rule(age=st.integers(0, 3))
    def recycle(self, age: int) -> None:
        bound = max(self.era - ERAS * age, 0)
        goes = [one for one in self.waiting if one.era < bound]
        self.waiting = [one for one in self.waiting if one.era >= bound]
        self.viewed += [one for one in goes if one.view is not None]
        assert self.log._recycle(bound) == sum(one.stop - one.start for one in goes)

    def with_views(self) -> list[Waiting]:
        return [one for one in self.waiting + self.viewed if one.view is not None]

    @precondition(lambda self: self.with_views())
    @rule(pick=PICK)
    def end_view(self, pick: int) -> None:
        held = self.with_views()
        one = held[pick % len(held)]
        assert one.view is not None
        one.view.release()
        self.waiting = [each._replace(view=None) if each is one else each for each in self.waiting]
        self.viewed = [each for each in self.viewed if each is not one]

    @rule()
    def have_no_readers(self) -> None:
        self.heap.sync()
        self.log._set_copies(0, 0)
        self.viewed += [one for one in self.waiting if one.view is not None]
        self.waiting = []
        assert self.quarantined() == sum(one.stop - one.start for one in self.viewed)
        self.log._set_copies(1, self.era)

    @rule(place=PLACES)
    def trim(self, place: str) -> None:
        self.places[place].trim()

    @rule()
    def look_at_a_killed_one(self) -> None:
        self.heap.sync()
        copy = self.directory / "killed"
        copy_as_crashed(self.heap.name, copy)
        with Heap.open(copy) as killed:
            for name in ("ring", "rows"):
                killed.arena(name)
            assert dict(killed.blocks()) == {
                start: stop - start for start, stop in self.live.items()
            }
            assert killed.stats().quarantined == 0
            assert killed.check()
        copy.unlink()

    # ------------------------------------------------------------ always

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting, viewed = (
            sum(one.stop - one.start for one in some) for some in (self.waiting, self.viewed)
        )
        live = sum(stop - start for start, stop in self.live.items())
        assert self.quarantined() == waiting + viewed
        assert sum(live_bytes(space_of(place)) for place in self.places.values()) == live
        assert self.log._tagged()[0] <= waiting

    @invariant()
    def all_bytes_stay(self) -> None:
        for start in self.live:
            self.require_stamped(start)
        for one in self.waiting + self.viewed:
            self.require_stamped(one.start)

    @invariant()
    def it_is_sound(self) -> None:
        report = self.heap.check()
        assert report, report

    def teardown(self) -> None:
        """Free all: it is as free as in a heap that never had readers."""
        for offset in self.live:
            self.heap.free(offset)
        for one in self.waiting + self.viewed:
            if one.view is not None:
                one.view.release()
        self.heap.sync()
        self.log._recycle(FOREVER)
        assert self.log._tagged() == (0, 0, 0)
        for name, place in self.places.items():
            place.trim()
            space = space_of(place)
            left = stats(space)
            assert left.quarantined == left.allocated == left.reserved == 0
            assert left.free == space.region.nunits * UNIT - left.active
            assert left.active <= (
                CHUNK_MOST if name == "ring" else 0
            )  # the chunk in service stays
        assert self.heap.check()
        self.heap.close()
        shutil.rmtree(self.directory)


class PowerMachine(TagMachine):
    durability = "power"


TestProcess = pytest.mark.slow(TagMachine.TestCase)
TestProcess.settings = settings(max_examples=12, stateful_step_count=40)
TestPower = pytest.mark.slow(PowerMachine.TestCase)
TestPower.settings = settings(max_examples=12, stateful_step_count=40)
