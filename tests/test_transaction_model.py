"""Transactions against a model: dicts of what is committed, and of what each open level leaves.

Reopening is by closing, or by a copy of the file as it is now, open transactions and all: what a
process that is killed leaves behind.
"""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from heap_world import contents
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pmemheap import DurabilityName, Heap
from pmemheap.heap.place import place_of
from pmemheap.heap.transaction import Transaction
from pmemheap.testing import copy_as_crashed
from pmemheap.units import UNIT, KiB

SIZES = st.sampled_from([16, 24, 100, 1000, 4000, UNIT, 3 * UNIT, 40 * KiB, 300 * KiB])
PICK = st.integers(0, 1 << 20)
NAMES = st.sampled_from("abc")
BYTES = st.binary(min_size=1, max_size=40)


@dataclass
class Level:
    """What the heap would hold if the transaction committed now."""

    blocks: dict[int, bytearray] = field(default_factory=dict)
    roots: dict[str, int] = field(default_factory=dict)


class TransactionMachine(RuleBasedStateMachine):
    """Rules are calls; no code is shared with the heap."""

    durability: DurabilityName = "process"

    def __init__(self) -> None:
        super().__init__()
        base = "/dev/shm" if self.durability == "process" and os.path.isdir("/dev/shm") else None
        self.directory = Path(tempfile.mkdtemp(dir=base))
        self.paths = (self.directory / f"{number}.heap" for number in itertools.count())
        self.heap = Heap.create(next(self.paths), durability=self.durability, decay=None)
        self.committed = Level()
        self.points: list[Transaction] = []
        self.before: list[Level] = []
        self.now = self.committed

    # ------------------------------------------------------------ transactions

    @rule(durable=st.booleans())
    def begin(self, durable: bool) -> None:
        if len(self.points) < 4:
            self.points.append(self.heap.transaction(durable=durable))
            self.before.append(copy.deepcopy(self.now))
            if len(self.points) == 1:
                self.now = copy.deepcopy(self.committed)

    @precondition(lambda self: self.points)
    @rule()
    def commit(self) -> None:
        self.points.pop().commit()
        self.before.pop()
        if not self.points:
            self.committed = self.now

    @precondition(lambda self: self.points)
    @rule()
    def abort(self) -> None:
        self.points.pop().abort()
        self.now = self.before.pop()
        if not self.points:
            self.now = self.committed

    # ------------------------------------------------------------ changes

    def picked(self, pick: int) -> int | None:
        """Return a block that there is now."""
        offsets = sorted(self.now.blocks)
        return offsets[pick % len(offsets)] if offsets else None

    @rule(size=SIZES, content=BYTES)
    def malloc(self, size: int, content: bytes) -> None:
        one = self.points[-1] if self.points else self.heap
        offset = one.malloc(size)
        assert offset not in self.now.blocks
        usable = place_of(self.heap._space.core, offset)[4]
        image = bytearray((content * (usable // len(content) + 1))[:usable])
        self.heap.view(offset, usable)[:] = image
        self.now.blocks[offset] = image

    @rule(pick=PICK)
    def free(self, pick: int) -> None:
        offset = self.picked(pick)
        if offset is not None:
            face = self.points[-1] if self.points else self.heap
            self.forget_roots(face, offset)
            face.free(offset)
            del self.now.blocks[offset]

    def forget_roots(self, face: Any, offset: int) -> None:
        for name in [name for name, to in self.now.roots.items() if to == offset]:
            del face.roots[name]
            del self.now.roots[name]

    @precondition(lambda self: self.points)
    @rule(pick=PICK, at=PICK, content=BYTES)
    def write(self, pick: int, at: int, content: bytes) -> None:
        offset = self.picked(pick)
        if offset is not None:
            image = self.now.blocks[offset]
            at %= len(image)
            content = content[: len(image) - at]
            self.points[-1].write(offset + at, content)
            image[at : at + len(content)] = content

    @precondition(lambda self: not self.points)
    @rule(pick=PICK, at=PICK, content=BYTES, ends=st.booleans())
    def change_in_place(self, pick: int, at: int, content: bytes, ends: bool) -> None:
        offset = self.picked(pick)
        if offset is None:
            return
        image = self.now.blocks[offset]
        at %= len(image)
        content = content[: len(image) - at]
        tx = self.heap.transaction(durable=False)
        tx.snapshot(offset + at, len(content))
        self.heap.view(offset)[at : at + len(content)] = content
        if ends:
            tx.commit()
            image[at : at + len(content)] = content
        else:
            tx.abort()

    @precondition(lambda self: self.points)
    @rule(name=NAMES, pick=PICK)
    def set_root(self, name: str, pick: int) -> None:
        offset = self.picked(pick)
        if offset is not None:
            self.points[-1].roots[name] = offset
            self.now.roots[name] = offset

    @precondition(lambda self: self.points)
    @rule(name=NAMES)
    def drop_root(self, name: str) -> None:
        if name in self.now.roots:
            del self.points[-1].roots[name]
            del self.now.roots[name]

    # ------------------------------------------------------------ the end of a process

    @precondition(lambda self: not self.points)
    @rule()
    def close(self) -> None:
        path = self.heap.name
        self.heap.close()
        self.heap = Heap.open(path, decay=None)
        self.compare()

    @rule()
    def kill(self) -> None:
        """Go on with a copy of the file; the transactions that are open are lost."""
        path = next(self.paths)
        copy_as_crashed(self.heap.name, path)
        for point in reversed(self.points):
            point.abort()
        self.points, self.before = [], []
        self.heap.close()
        self.heap = Heap.open(path, decay=None)
        self.now = self.committed
        self.compare()

    @precondition(lambda self: not self.points)
    @rule()
    def trim(self) -> None:
        self.heap.trim()

    @invariant()
    def tables_are_sound(self) -> None:
        report = self.heap.check()
        assert [each for each in report.findings if "root" not in each] == []

    @invariant()
    def all_that_is_committed_is_there(self) -> None:
        if not self.points:
            self.compare()

    def compare(self) -> None:
        assert contents(self.heap) == self.committed.blocks
        assert dict(self.heap.roots) == self.committed.roots

    def teardown(self) -> None:
        for point in reversed(self.points):
            point.abort()
        self.heap.close()
        shutil.rmtree(self.directory)


class PowerMachine(TransactionMachine):
    durability = "power"


SETTINGS = settings(stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])

TestProcess = pytest.mark.slow(TransactionMachine.TestCase)
TestProcess.settings = SETTINGS
TestPower = pytest.mark.slow(PowerMachine.TestCase)
TestPower.settings = SETTINGS
