"""Explain: what `explain` foretells is what `malloc` does, and `malloc` refuses only what it must.

Heaps of all kinds are brought near their limits at random: classes, sizes, alignments, arenas, what
was freed and waits for a sync, heaps that were opened again. Each seed is a run of its own.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from heap_world import named

from pmemheap import Heap, OutOfSpaceError
from pmemheap.heap.blockspace import BlockSpace
from pmemheap.units import GiB, KiB, MiB, TiB

KINDS = ["anonymous", "shared", "process", "power"]
LIMITS = [3 * MiB, 4 * MiB, 8 * MiB, 40 * MiB]
SEEDS = range(int(os.environ.get("EXPLAIN_SEEDS", "4")))


class Run:
    """A heap, its arenas, and the blocks that live in them."""

    def __init__(self, kind: str, path: Path, seed: int) -> None:
        self.rng = random.Random(f"{kind} {seed}")
        self.path, self.kind = path, kind
        self.limit = self.rng.choice(LIMITS)
        heap: Heap
        match kind:
            case "anonymous":
                heap = Heap.anonymous(limit=self.limit)
            case "shared":
                heap = Heap.shared(limit=self.limit)
            case _:
                heap = Heap.create(path, durability=named(kind), limit=self.limit)
        self.live: dict[BlockSpace, list[int]] = {heap: []}
        if self.limit > 4 * MiB and self.rng.random() < 0.5:
            self.live[heap.arena("other")] = []

    @property
    def heap(self) -> Heap:
        found = next(iter(self.live))
        assert isinstance(found, Heap)
        return found

    def step(self) -> None:
        space = self.rng.choice(list(self.live))
        offsets, chance = self.live[space], self.rng.random()
        if chance < 0.3:
            for offset in self.rng.sample(offsets, len(offsets) // 2):
                space.free(offset)
                offsets.remove(offset)
        elif chance < 0.5:
            self.fill(space, self.rng.choice([1, 10, 300, 3000]))
        elif chance < 0.55:
            self.heap.trim()
        elif chance < 0.6:
            self.open_again()

    def fill(self, space: BlockSpace, count: int) -> None:
        with suppress(OutOfSpaceError):
            self.live[space] += space.malloc_many(int(2 ** self.rng.uniform(4, 14)), count)

    def open_again(self) -> None:
        if self.path.exists() and len(self.live) == 1:
            [offsets] = self.live.values()
            self.heap.close()
            self.live = {Heap.open(self.path): offsets}

    def ask(self) -> tuple[Any, bool]:
        """Ask and try: a request of any size; return what was told, and what became of it."""
        space = self.rng.choice(list(self.live))
        size = int(2 ** self.rng.uniform(0, self.rng.choice([10, 16, 23, 23, 23, 44])))
        align = self.rng.choice([16] * 6 + [64, 256, 4 * KiB, 64 * KiB])
        told = space.explain(size, align)
        try:
            offset = space.malloc(size, align)
        except OutOfSpaceError as refused:
            return told, refused.explanation.possible  # type: ignore[attr-defined]
        if self.rng.random() < 0.7:
            space.free(offset)
        else:
            self.live[space].append(offset)
        return told, True


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_explain_foretells_is_what_malloc_does(kind: str, seed: int, tmp_path: Path) -> None:
    run = Run(kind, tmp_path / "a.heap", seed)
    for _ in range(60):
        run.step()
        told, served = run.ask()
        assert told.possible == served, told
    assert run.heap.check()
    run.heap.close()


@pytest.mark.parametrize("kind", KINDS)
def test_asking_changes_nothing(kind: str, tmp_path: Path) -> None:
    run = Run(kind, tmp_path / "a.heap", 1)
    run.fill(run.heap, 300)
    run.heap.stats()
    before = run.heap.stats()
    for size in (1, 100, 5000, MiB, 3 * MiB, GiB, 1 << 50):
        run.heap.explain(size)
    after = run.heap.stats()
    for name in ("blocks", "allocated", "reserved", "quarantined", "mapped", "headroom", "growths"):
        assert getattr(after, name) == getattr(before, name)
    run.heap.close()


def filled_up(heap: Heap, size: int) -> list[int]:
    """Allocate blocks until one is refused; return those before it."""
    offsets = []
    with suppress(OutOfSpaceError):
        while True:
            offsets.append(heap.malloc(size))
    return offsets


def test_a_reader_is_told_what_a_writer_would_be(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "a.heap", durability="process", limit=4 * MiB) as heap:
        heap.malloc(100)
    with Heap.open(tmp_path / "a.heap", readonly=True) as reader:
        assert reader.explain(MiB).possible
        assert not reader.explain(GiB).possible


def test_what_whole_units_serve_needs_no_room_for_a_run() -> None:
    """Two units in one piece were refused: the class behind them has runs of more."""
    with Heap.anonymous(limit=3 * MiB) as heap:
        fillers = filled_up(heap, 8 * KiB)
        heap.free(fillers[len(fillers) // 2])
        heap.trim()
        assert heap.malloc(8 * KiB - 300) >= 0


def test_what_only_waits_for_a_sync_is_used_before_a_refusal(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "a.heap", durability="power", limit=3 * MiB) as heap:
        fillers = filled_up(heap, 40 * KiB)
        heap.sync()
        heap.free(fillers[3])
        assert heap.stats().quarantined
        assert heap.explain(40 * KiB).possible
        assert heap.malloc(40 * KiB) >= 0


def test_what_is_free_in_one_piece_serves_an_aligned_request() -> None:
    """The units that a growth had added were not merged with those in front of them."""
    with Heap.anonymous(limit=12 * MiB) as heap:
        first = heap.malloc(6 * MiB + 4 * KiB)
        heap.free(first)
        heap.malloc(4 * KiB)
        assert heap.explain(9 * MiB, 64 * KiB).possible
        assert heap.malloc(9 * MiB, 64 * KiB) % (64 * KiB) == 0


def test_a_shared_heap_asks_for_memory_before_it_fills_it() -> None:
    with Heap.shared() as heap:
        assert not heap.explain(TiB).possible
        with pytest.raises(OutOfSpaceError, match="memory expected to be free"):
            heap.malloc(TiB)
        assert heap.malloc(MiB) >= 0
