"""Progress: what a long call tells of itself, and what a function that raises leaves behind."""

from __future__ import annotations

import errno
import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_cli import damage_entry

from pmemheap import Heap, UsageError
from pmemheap.offline import examine, open_image
from pmemheap.progress import Progress
from pmemheap.repair import plan, repair
from pmemheap.salvage import salvage

Call = Callable[[Path, Progress | None], object]


def examine_file(path: Path, progress: Progress | None) -> None:
    with open_image(path) as disk:
        examine(disk, progress=progress)


def plan_file(path: Path, progress: Progress | None) -> None:
    with open_image(path) as disk:
        plan(disk, progress=progress)


def repair_file(path: Path, progress: Progress | None) -> None:
    repair(path, progress=progress)


def salvage_file(path: Path, progress: Progress | None) -> None:
    salvage(path, path.with_name("new"), progress=progress)


def snapshot_file(path: Path, progress: Progress | None) -> None:
    with Heap.open(path, readonly=True) as heap:
        heap.snapshot(path.with_name("copy"), progress=progress)


def trim_file(path: Path, progress: Progress | None) -> None:
    with Heap.open(path, decay=None) as heap:
        heap.trim(progress=progress)


UNCHANGED: list[Call] = [examine_file, plan_file, repair_file, salvage_file, snapshot_file]
CALLS: list[Call] = [*UNCHANGED, trim_file]
ON_DAMAGE = {plan_file, repair_file}
PASSES: dict[Call, int] = {salvage_file: 2, plan_file: 2, repair_file: 2, trim_file: 2}
by_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A heap of two arenas with holes, some of its blocks larger than others."""
    made = tmp_path / "there" / "a.heap"
    made.parent.mkdir()
    with Heap.create(made, durability="process", decay=None) as heap:
        for space in (heap, heap.arena("other")):
            offsets = [space.malloc(size) for size in [5000, 70_000] * 120]
            for offset in offsets[::3]:
                space.free(offset)
    return made


def state(path: Path) -> dict[str, bytes]:
    """Return what is in the directory of a file."""
    return {each.name: hashlib.sha256(each.read_bytes()).digest() for each in path.parent.iterdir()}


def blocks(path: Path) -> list[tuple[int, int]]:
    with Heap.open(path, readonly=True) as heap:
        assert heap.check()
        return list(heap.blocks())


def passes(told: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Yield what was told of each time over the heap."""
    starts = [at for at, (done, _) in enumerate(told) if done == 0]
    yield from (told[start:stop] for start, stop in itertools.pairwise([*starts, len(told)]))


@pytest.mark.slow
@by_call
def test_a_long_call_tells_how_far_it_is(call: Call, path: Path) -> None:
    if call in ON_DAMAGE:
        damage_entry(path)
    told: list[tuple[int, int]] = []
    call(path, lambda done, total: told.append((done, total)))
    found = list(passes(told))
    assert len(found) == PASSES.get(call, 1)
    for each in found:
        total = each[0][1]
        assert each[0] == (0, total)
        assert each[-1] == (total, total)
        assert 2 < len(each) <= 102
        assert all(
            left[0] < right[0] and right[1] == total for left, right in itertools.pairwise(each)
        )


@pytest.mark.slow
@by_call
def test_what_the_function_raises_stops_the_call(call: Call, path: Path) -> None:
    """It leaves the call as it is, and the heap as it was, whenever it comes."""
    if call in ON_DAMAGE:
        damage_entry(path)
    before, held = state(path), [] if call in ON_DAMAGE else blocks(path)
    last = PASSES.get(call, 1)
    errors: itertools.cycle[Exception] = itertools.cycle(
        [ValueError("enough"), OSError(errno.EIO, "no terminal"), StopIteration()]
    )
    for place in [(1, 0.0), (1, 0.5), (last, 0.5), (last, 1.0)]:
        error = next(errors)
        with pytest.raises(type(error)) as raised:
            call(path, raising_at(place, error))
        assert raised.value is error
        if call in UNCHANGED:
            assert state(path) == before
        else:
            assert blocks(path) == held


def raising_at(place: tuple[int, float], error: Exception) -> Progress:
    """Return a function that raises in some time over the heap, at some part of it."""
    begun: list[int] = []

    def stop(done: int, total: int) -> None:
        if done == 0:
            begun.append(total)
        if (len(begun), done / total) >= place:
            raise error

    return stop


def test_the_function_may_not_use_the_heap(path: Path) -> None:
    with Heap.open(path, decay=None) as heap:
        with pytest.raises(UsageError, match="while a heap is being changed"):
            heap.trim(progress=lambda *_: heap.malloc(100_000))
        assert heap.check()
        heap.malloc(100_000)
