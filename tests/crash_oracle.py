"""What must be found in a heap after a crash, and the search through all crashes of a program.

    recording --> CrashStates --> memfd --> Heap.attach --> one of the states k that are allowed?
                                    |  5 %
                                    +--> recovery and one more transaction, recorded --> CrashStates

Everything is opened by the real code. What a process heap holds after a power failure is not asked:
it is refused, which a test of its own shows.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from crash_world import (
    SEGMENT,
    Known,
    Program,
    World,
    attach,
    mark,
    record,
    reproducible,
    rows_in,
    spare_bytes,
)

from pmemheap import Heap, UsageError
from pmemheap.file import recovery
from pmemheap.heap.ring import RingArena
from pmemheap.layout import ARENA_BITS
from pmemheap.testing import SECTOR, Crash, CrashStates, Image, Kind, Recorder, Recording, State
from pmemheap.testing.report import describe
from pmemheap.units import UNIT

AFTER, AFTER_BYTES = "after", 200
AFTER_SIZES = AFTER_BYTES, SEGMENT  # the larger one grows the heap
_SHARES = 1 << 20

COUNTERS = (
    "programs", "states", "checkpoints", "wrapped records", "checkpoints held by an undo",
    "quarantine waits", "revoked writes", "undos rolled back", "recoveries of 0 records",
    "recoveries of 1 record", "recoveries of 2 records", "recoveries of 3 or more records",
    "crashes inside recovery", "crashes after recovery", "reuse after free", "log moves",
    "arena drops", "growths", "cuts", "growths into SPARE", "growths after a recovery",
    "rows cut", "chunks gone", "regions dropped",
)  # fmt: skip


class WrongHeapError(AssertionError):
    """What was found is none of the states that it may be."""


@dataclass
class Findings:
    """What a search has seen, and the first states that were wrong."""

    seen: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        self.seen.update(other.seen)
        self.failures += other.failures

    def missing(self) -> list[str]:
        """Return what was never exercised."""
        return [name for name in COUNTERS if not self.seen[name]]

    def __str__(self) -> str:
        return "\n".join(f"{name:>32} {self.seen[name]:>12,}" for name in COUNTERS)


# ---------------------------------------------------------------- looking at a heap


def check_image(
    fd: int, states: list[Known], least: int, most: int, *, needs_after: bool = False
) -> int:
    """Open a crashed file; return the number of commits that it holds, or raise."""
    heap = attach(fd)
    try:
        number = identify(heap, states, least, most)
        if needs_after and AFTER not in heap.roots:
            raise WrongHeapError("a durable commit after the recovery expected, found none")
        report = heap.check()
        if not report:
            raise WrongHeapError(f"state {number}: check() found {report.findings}")
    finally:
        with suppress(BufferError):
            heap.close()
    return number


def check_again(fd: int, known: Known) -> None:
    """A second look finds the same, and everything that is free can be had."""
    with attach(fd) as heap:
        identify(heap, [known], 0, 0)
        for ring in rings(heap):
            put_and_take(ring)
        identify(heap, [known], 0, 0)
        empty(heap, known)
        heap.sync()
        heap.trim()
        stats, room = heap.stats(), heap._space.region.nunits * UNIT
        row = heap._space.strategy.block_bytes
        if stats.blocks or stats.quarantined or stats.reserved or stats.free != room:
            raise WrongHeapError(f"all of {room} bytes free in an emptied heap expected, {stats}")
        heap.malloc_many(row or room, rows_in(heap) if row else 1)
        if heap._space.region.nunits * UNIT != room:
            raise WrongHeapError(f"an empty heap of {room} bytes has grown for {room}")


def rings(heap: Heap) -> list[RingArena]:
    """Return the rings of a heap."""
    arenas = map(heap.arena, heap.arenas())
    return [arena for arena in arenas if isinstance(arena, RingArena)]


def put_and_take(ring: RingArena) -> None:
    """Let a queue that was opened go on; nothing of it is left."""
    before = dict(ring.blocks())
    oldest = min(before, default=None)
    if ring.first() != oldest:
        raise WrongHeapError(f"{oldest} as the first one expected, {ring.first()}")
    offset = ring.malloc(UNIT // 2)
    if before and offset < max(before) + before[max(before)]:
        raise WrongHeapError(f"a place behind {max(before):#x} expected, found {offset:#x}")
    with ring.view(offset) as view:
        view[:] = b"!" * len(view)
    ring.free(offset)


def reserve_and_abort(heap: Heap, ring: RingArena) -> None:
    """Write over what is free at the end of a ring."""
    tx = heap.transaction()
    for size, align in ((AFTER_BYTES, 512), (UNIT, 16)):
        offset = tx.malloc(size, align, arena=ring)
        with heap.view(offset) as view:
            view[:] = b"!" * len(view)
    tx.abort()


def freed(heap: Heap, offset: int) -> bool:
    """Free a block, unless it stands for a region."""
    try:
        heap.free(offset)
    except UsageError:
        return False
    return True


def empty(heap: Heap, known: Known) -> None:
    """Free all that is known to be there."""
    after = heap.roots.get(AFTER)
    heap.roots.clear()
    mine = [offset for offset in known.blocks if offset >> ARENA_BITS == 0]
    regions = [offset for offset in mine if not freed(heap, offset)]
    for offset in regions:
        heap.region(at=offset).drop()
    for name in heap.arenas():
        heap.arena(name).drop()
    if after is not None:
        heap.free(after)


def identify(heap: Heap, states: list[Known], least: int, most: int) -> int:
    """Return which of the states `least` to `most` a heap holds."""
    found = Found(heap)
    for number in range(most, least - 1, -1):
        known = states[number]
        if found.sizes_are(known) and not found.changed(known):
            return number
    lines = [f"commits {least} to {most} expected, found a heap that is none of them"]
    lines += [f"  against {each}: {found.against(states[each])}" for each in range(least, most + 1)]
    raise WrongHeapError("\n".join(lines))


class Found:
    """What is in a heap, apart from the block of a transaction that came after a recovery."""

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self.blocks = dict(heap.blocks())
        self.roots = dict(heap.roots)
        self.arenas = set(heap.arenas())
        after = self.roots.pop(AFTER, None)
        if after is not None:
            if self.blocks.pop(after, None) is None:
                raise WrongHeapError("a live block of a commit after the recovery expected, none")
            if heap.view(after, AFTER_BYTES) != mark(1, AFTER_BYTES):
                raise WrongHeapError("the block of a commit after the recovery is not whole")

    def sizes_are(self, known: Known) -> bool:
        return (
            self.roots == known.roots
            and self.arenas == known.arenas
            and self.blocks == {offset: size for offset, (size, _) in known.blocks.items()}
        )

    def changed(self, known: Known) -> list[str]:
        """Return the blocks that do not hold what they should."""
        return [
            f"{offset:#x}"
            for offset, (_, content) in known.blocks.items()
            if content and self.heap.view(offset, len(content)) != content
        ]

    def against(self, known: Known) -> str:
        """Say what the difference is."""
        sizes = {offset: size for offset, (size, _) in known.blocks.items()}
        missing = sorted(f"{off:#x}:{size}" for off, size in sizes.items() - self.blocks.items())
        besides = sorted(f"{off:#x}:{size}" for off, size in self.blocks.items() - sizes.items())
        changed = [] if missing else self.changed(known)
        return (
            f"missing {missing}, besides {besides}, changed {changed}, "
            f"roots {self.roots} for {known.roots}, arenas {self.arenas} for {known.arenas}"
        )


# ---------------------------------------------------------------- the search


@dataclass
class Search:
    """Crashes of programs, all or a sample, and what was wrong with them.

    Attributes
    ----------
    budget, nested_budget : int
        Power failures per event: all, or a sample of this many; for those in a recovery.
    share : float
        Of the states whose recovery is crashed as well, and of those that are looked at twice.
        Which ones, the seed and their number decide: the keys of states change with the machine.
    most_failures, most_states : int
        When to stop.
    met : set of int, optional
        Files that were looked at in searches before: programs that begin alike leave the same ones.
    """

    budget: int = 256
    nested_budget: int = 16
    share: float = 0.05
    seed: int = 0
    cell: int = SECTOR
    most_failures: int = 1
    most_states: int = 1 << 60
    met: set[int] = field(default_factory=set)
    findings: Findings = field(default_factory=Findings)

    def run(self, program: Program) -> None:
        """Crash one program everywhere."""
        with reproducible():
            try:
                recording, world = record(program)
            except Exception:
                self.findings.failures.append(f"{program}\n{traceback.format_exc()}")
                return
            self.findings.seen.update(world.seen)
            self.findings.seen["programs"] += 1
            self.crash(recording, world, str(program), (program.durability, program.shape))

    def crash(
        self, recording: Recording, world: World, name: str, base: tuple[str, ...] = ()
    ) -> None:
        """Crash a recording of a heap that was made from some base, and look at what is left."""
        knowns = [hash(known) for known in world.states]
        states = CrashStates(
            recording, kinds=_kinds(world), cell=self.cell, budget=self.budget, seed=self.seed
        )
        with counted(self.findings.seen), Image(states.replay) as image:
            for state in states:
                if self._is_met(base, state, knowns):
                    continue
                try:
                    self._look(image, state, states, world)
                except Exception:
                    place = f"{name}\n{describe(states.replay, state)}"
                    self.findings.failures.append(f"{place}\n{traceback.format_exc()}")
                    image.renew()
                if self.is_over:
                    return

    @property
    def is_over(self) -> bool:
        """Whether enough failures or states were seen."""
        findings = self.findings
        return (
            len(findings.failures) >= self.most_failures
            or findings.seen["states"] >= self.most_states
        )

    def _is_met(self, base: tuple[str, ...], state: State, knowns: list[int]) -> bool:
        """Tell whether the same file was looked at, with the same demands; note it."""
        crash = state.crash
        wanted = tuple(knowns[crash.least : crash.most + 1])
        identity = hash((base, state.key, crash.kind, wanted))
        if identity in self.met:
            self.findings.seen["states met before"] += 1
            return True
        self.met.add(identity)
        return False

    def _look(self, image: Image, state: State, states: CrashStates, world: World) -> None:
        self.findings.seen["states"] += 1
        image.load(state)
        crash = state.crash
        number = check_image(image.fd, world.states, crash.least, crash.most)
        chance = hash((self.seed, len(self.met)))
        if chance % _SHARES < self.share * _SHARES:
            check_again(image.fd, world.states[number])
            image.load(state)
            size = AFTER_SIZES[chance // _SHARES % len(AFTER_SIZES)]
            self._crash_recovery(image, state, states, world, number, size)

    def _crash_recovery(
        self, image: Image, state: State, states: CrashStates, world: World, number: int, size: int
    ) -> None:
        """Crash the recovery of a state that holds commit `number`, and a transaction after it."""
        with Recorder(image.fd) as recorder:
            self.findings.seen.update(use_again(image.fd, size))
        crash, durable = state.crash, number
        unsynced = None
        if crash.kind == Kind.KILL:
            durable = states.recording.crash(crash.event, Kind.POWER).least
            unsynced = states.replay.unsynced(state.changes, state.size)
        nested = CrashStates(
            recorder.recording, kinds=_kinds(world), cell=self.cell, budget=self.nested_budget,
            seed=self.seed, unsynced=unsynced,
        )  # fmt: skip
        with Image(nested.replay) as second:
            for each in nested:
                second.load(each)
                least = durable if each.crash.kind == Kind.POWER else number
                try:
                    self._look_nested(second, each.crash, world, least, number)
                except Exception as error:
                    error.add_note(f"in the recovery: {describe(nested.replay, each)}")
                    raise

    def _look_nested(self, image: Image, crash: Crash, world: World, least: int, most: int) -> None:
        acknowledged = crash.least == 1
        self.findings.seen["states"] += 1
        self.findings.seen[
            "crashes after recovery" if crash.most else "crashes inside recovery"
        ] += 1
        least = most if acknowledged else least
        check_image(image.fd, world.states, least, most, needs_after=acknowledged)


def _kinds(world: World) -> tuple[Kind, ...]:
    return (Kind.KILL, Kind.POWER) if world.power else (Kind.KILL,)


def use_again(fd: int, size: int) -> Counter[str]:
    """Recover a heap, and commit one more transaction; return what that has exercised."""
    heap, seen = attach(fd), Counter[str]()
    try:
        end, spare = heap._space.core.bounds[1], spare_bytes(heap)
        for ring in rings(heap):
            reserve_and_abort(heap, ring)
        tx = heap.transaction()
        offset = tx.malloc(min(size, heap._space.strategy.block_bytes or size))
        tx.write(offset, mark(1, AFTER_BYTES))
        tx.roots[AFTER] = offset
        seen["growths after a recovery"] += heap._space.core.bounds[1] > end
        seen["growths into SPARE"] += spare_bytes(heap) < spare
        Recorder.begin(1)
        tx.commit()
        Recorder.returned(1)
        Recorder.durable(1)
    finally:
        heap.close()
    return seen


@contextmanager
def counted(seen: Counter[str]) -> Iterator[None]:
    """Count what recoveries find in the log, and what they do with it."""
    initialize, replay = recovery.Recovery.__init__, recovery.Recovery.replay

    def counting(self: Any, medium: Any) -> None:
        initialize(self, medium)
        seen[f"recoveries of {_RECORDS[min(self.records, 3)]}"] += 1

    def replaying(self: Any, header: int) -> None:
        replay(self, header)
        undone, revoked = self.core.replayed()
        seen["undos rolled back"] += undone
        seen["revoked writes"] += revoked

    with mock.patch.multiple(recovery.Recovery, __init__=counting, replay=replaying):
        yield


_RECORDS = ["0 records", "1 record", "2 records", "3 or more records"]
