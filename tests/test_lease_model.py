"""Frees of a writer that lets readers in, against a model: what a snapshot shows stays as it is."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stamped import has_stamp, picked, stamp_at

from pmemheap import Heap, Snapshot
from pmemheap.file import locks
from pmemheap.heap.arguments import DurabilityName
from pmemheap.heap.space import space_of
from pmemheap.units import UNIT

SIZES = st.sampled_from([16, 64, 64, 64, 1000, UNIT, 3 * UNIT])
PICK = st.integers(0, 1 << 20)
PICKS = st.lists(PICK, min_size=1, max_size=30)
PAUSE = 11 * locks.LEASE


class LeaseMachine(RuleBasedStateMachine):
    """Rules are calls of a writer, at times beside snapshots; it shares no code with the heap."""

    durability: DurabilityName = "process"

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.heap = Heap.create(self.directory / "heap", durability=self.durability, readers=True)
        self.live: dict[int, int] = {}
        self.snapshots: list[tuple[Snapshot, dict[int, int]]] = []

    def address(self, offset: int) -> int:
        return space_of(self.heap).address_of(offset)

    def is_stamped(self, start: int) -> bool:
        return has_stamp(self.address(start), start)

    def shown(self) -> dict[int, int]:
        """Return what was live when a snapshot began, and has been freed since."""
        return {
            start: stop
            for _, then in self.snapshots
            for start, stop in then.items()
            if start not in self.live
        }

    def came(self, offset: int) -> None:
        stop = offset + self.heap.usable_size(offset)
        taken = [*self.live.items(), *self.shown().items()]
        assert not [hex(low) for low, high in taken if low < stop and offset < high]
        self.live[offset] = stop
        stamp_at(self.address(offset), offset)

    # ------------------------------------------------------------ calls

    @rule(size=SIZES, count=st.integers(1, 100))
    def malloc(self, size: int, count: int) -> None:
        for _ in range(count):
            self.came(self.heap.malloc(size))

    @rule(size=SIZES, count=st.integers(1, 100))
    def malloc_many(self, size: int, count: int) -> None:
        for offset in self.heap.malloc_many(size, count):
            self.came(offset)

    @rule(picks=PICKS)
    def free(self, picks: list[int]) -> None:
        for offset in picked(self.live, picks):
            self.heap.free(offset)
            del self.live[offset]

    @rule(size=SIZES, count=st.integers(1, 100))
    def pairs(self, size: int, count: int) -> None:
        for _ in range(count):
            offset = self.heap.malloc(size)
            self.came(offset)
            self.heap.free(offset)
            del self.live[offset]

    @rule(picks=PICKS)
    def free_many(self, picks: list[int]) -> None:
        offsets = picked(self.live, picks)
        self.heap.free_many(offsets)
        for offset in offsets:
            del self.live[offset]

    @rule(picks=PICKS)
    def free_in_a_transaction(self, picks: list[int]) -> None:
        offsets = picked(self.live, picks)
        with self.heap.transaction() as tx:
            for offset in offsets:
                tx.free(offset)
        for offset in offsets:
            del self.live[offset]

    @rule()
    def trim(self) -> None:
        self.heap.trim()

    # ------------------------------------------------------------ snapshots

    @precondition(lambda self: len(self.snapshots) < 2)
    @rule()
    def begin(self) -> None:
        self.snapshots.append((self.heap.read(), dict(self.live)))

    @precondition(lambda self: self.snapshots)
    @rule(pick=PICK, waits=st.booleans())
    def end(self, pick: int, waits: bool) -> None:
        snap, _ = self.snapshots.pop(pick % len(self.snapshots))
        snap.close()
        if waits:  # until the writer looks again, and may find that nobody reads
            time.sleep(PAUSE)

    # ------------------------------------------------------------ always

    @invariant()
    def all_bytes_stay(self) -> None:
        assert all(map(self.is_stamped, [*self.live, *self.shown()]))

    @invariant()
    def it_is_sound(self) -> None:
        report = self.heap.check()
        assert report, report
        assert self.heap.stats().blocks == len(self.live)

    def teardown(self) -> None:
        for snap, _ in self.snapshots:
            snap.close()
        self.heap.free_many(list(self.live))
        self.heap.sync()
        self.heap.trim()
        stats = self.heap.stats()
        assert stats.allocated == stats.quarantined == stats.active == 0
        self.heap.close()
        shutil.rmtree(self.directory)


class PowerMachine(LeaseMachine):
    durability = "power"


TestProcess = pytest.mark.slow(LeaseMachine.TestCase)
TestProcess.settings = settings(max_examples=20, stateful_step_count=40)
TestPower = pytest.mark.slow(PowerMachine.TestCase)
TestPower.settings = settings(max_examples=12, stateful_step_count=40)
