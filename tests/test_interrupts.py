"""Ctrl-C at every place of every call that changes a heap: nothing is lost, it works on.

Each place once, in the call that gets there first; ``make interrupts`` tries it in all of them.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from heap_world import named
from interrupts import Place, interrupted, places

from pmemheap import Heap, UsageError
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.testing import copy_as_crashed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
ALL = bool(os.environ.get("PMEMHEAP_INTERRUPTS_ALL"))
LARGE = 700_000
MEDIA = ("anonymous", "process", "power")

_tried: set[Place] = set()


def grow(heap: Heap) -> None:
    heap.malloc(3 << 20)


def fill_runs(heap: Heap) -> None:
    heap.malloc_many(1000, 3000)


def free_and_trim(heap: Heap) -> None:
    heap.free(heap.roots.pop("large"))
    heap.trim()


def drop_arena(heap: Heap) -> None:
    heap.arena("old").drop()


def make_arena(heap: Heap) -> None:
    heap.arena("new").malloc(100)


def commit(heap: Heap) -> None:
    with heap.transaction() as transaction:
        block = transaction.malloc(200)
        transaction.write(block, b"x" * 200)
        large = transaction.malloc(LARGE)
        transaction.free(transaction.roots["large"])
        transaction.roots["large"] = large
        transaction.roots["new"] = block


def snapshot(heap: Heap) -> None:
    with heap.transaction() as transaction:
        transaction.snapshot(heap.roots["small"], 16)


def commit_and_trim(heap: Heap) -> None:
    commit(heap)
    free_and_trim(heap)


def savepoint(heap: Heap) -> None:
    with heap.transaction() as transaction:
        block = transaction.malloc(100)
        with heap.transaction() as inner:
            inner.roots["inner"] = inner.malloc(2 << 20)
            inner.write(block, b"y" * 10)
        taken_back = heap.transaction()
        taken_back.malloc(3000)
        taken_back.abort()
        transaction.realloc(block, LARGE)


def sync(heap: Heap) -> None:
    heap.sync()


def realloc(heap: Heap) -> None:
    heap.realloc(heap.malloc(10_000), 2 << 20)


def move_log(heap: Heap) -> None:
    """A snapshot that the log has no room for."""
    with heap.transaction() as transaction:
        transaction.snapshot(heap.roots["large"], LARGE)


def expand(heap: Heap) -> None:
    heap.expand(heap.malloc(300_000), 3 << 20)


def age(heap: Heap) -> None:
    """What was free for a whole interval goes back."""
    heap.free(heap.malloc(5 << 20))
    for _ in range(2):
        heap._space.serve(heap._space.giveback.decay, 0.0)


def copy(heap: Heap) -> None:
    if heap.durability != "none":
        heap.snapshot(f"{heap.name}.snapshot", replace=True)


CHANGES = (
    grow, fill_runs, free_and_trim, drop_arena, make_arena, commit, savepoint, snapshot, sync,
    realloc, move_log, expand, age, copy,
)  # fmt: skip


@pytest.fixture(params=MEDIA)
def medium(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def directory(medium: str, tmp_path: Path) -> Iterator[Path]:
    """Memory for what need not survive a power failure: it is faster."""
    if medium == "power" or not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def fill(heap: Heap) -> Heap:
    heap.roots["small"] = heap.malloc(100)
    heap.roots["large"] = heap.malloc(LARGE)
    heap.view(heap.roots["small"], 100)[:] = b"s" * 100
    heap.arena("old").malloc(LARGE)
    return heap


class Copies:
    """Heaps that are all the same, one for each interrupt."""

    def __init__(self, medium: str, directory: Path) -> None:
        self.medium = medium
        self.original, self.path = directory / "original", directory / "copy"
        if medium != "anonymous":
            fill(Heap.create(self.original, durability=named(medium))).close()

    def make(self) -> Heap:
        if self.medium == "anonymous":
            return fill(Heap.anonymous(decay=None))
        self.path.unlink(missing_ok=True)
        copy_as_crashed(self.original, self.path)
        return Heap.open(self.path, decay=None)


def use(heap: Heap) -> None:
    """Grow, write to what is new, shrink: what was torn out shows here at the latest."""
    assert heap.check(), heap.check().findings
    assert bytes(heap.view(heap.roots["small"], 100)) == b"s" * 100
    blocks = [heap.malloc(size) for size in (64, 5000, 300_000, 2 << 20)]
    for block in blocks:
        heap.view(block)[:] = b"\1" * heap.usable_size(block)
    heap.arena("other").malloc(LARGE)
    for block in blocks:
        heap.free(block)
    heap.trim()
    assert heap.check(), heap.check().findings
    for space in heap._space.shared.spaces():
        space.region.check()


def use_when_killed(path: Path) -> None:
    """What is in the file is a heap, whatever the process has not come to."""
    killed = path.with_suffix(".killed")
    copy_as_crashed(path, killed)
    with Heap.open(killed, decay=None) as heap:
        assert heap.check(), heap.check().findings
        assert bytes(heap.view(heap.roots["small"], 100)) == b"s" * 100


def chosen(call: Callable[[], Any]) -> Iterator[tuple[Place, int]]:
    """Choose places of a call, of each the first times that it gets there and the last.

    By default every sixth place that no call before has got to, which its name decides.
    """
    for place, count in places(call).items():
        if ALL:
            yield from ((place, nth) for nth in sorted({1, min(2, count), count}))
        elif place not in _tried and crc32(f"{place}, {place.instruction}".encode()) % 6 == 0:
            yield place, 1
        _tried.add(place)


@contextmanager
def told(place: Place, nth: int) -> Iterator[None]:
    """Say of what goes wrong where it was interrupted."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"interrupted at {place}, time {nth}")
        raise
    finally:
        assert gc.isenabled(), f"no garbage collection since {place}, time {nth}"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_an_interrupt_anywhere_leaves_the_heap_as_good_as_it_was(
    change: Callable[[Heap], None], medium: str, directory: Path
) -> None:
    copies = Copies(medium, directory)
    with copies.make() as heap:
        some = list(chosen(lambda: change(heap)))
    for place, nth in some:
        with told(place, nth):
            heap = copies.make()
            interrupted(place, nth, lambda heap=heap: change(heap))  # type: ignore[misc]
            if medium != "anonymous":
                use_when_killed(copies.path)
            use(heap)
            heap.close()
            if medium != "anonymous":
                with Heap.open(copies.path, decay=None) as again:
                    use(again)


def test_an_interrupted_heap_can_be_closed_at_once(medium: str, directory: Path) -> None:
    copies = Copies(medium, directory)
    with copies.make() as heap:
        some = list(chosen(lambda: commit_and_trim(heap)))
    for place, nth in some:
        with told(place, nth):
            heap = copies.make()
            interrupted(place, nth, lambda heap=heap: commit_and_trim(heap))  # type: ignore[misc]
            heap.close()
            if medium != "anonymous":
                with Heap.open(copies.path, decay=None) as again:
                    use(again)


@pytest.mark.parametrize("medium", ["process", "power"])
def test_an_interrupted_open_or_close_can_be_done_again(directory: Path, medium: str) -> None:
    copies = Copies(medium, directory)

    def opened() -> None:
        with Heap.open(copies.path, decay=None) as heap:
            heap.free(heap.malloc(100))

    copies.make().close()
    for place, nth in chosen(opened):
        with told(place, nth):
            interrupted(place, nth, opened)
            opened()
    with Heap.open(copies.path) as heap:
        use(heap)


@pytest.mark.parametrize("medium", ["process", "power"])
def test_an_interrupted_creation_can_be_done_again(directory: Path, medium: str) -> None:
    path = directory / "heap"

    def created() -> None:
        Heap.create(path, durability=named(medium), replace=True).close()

    for place, nth in chosen(created):
        with told(place, nth):
            path.unlink(missing_ok=True)
            interrupted(place, nth, created)
            created()
            with Heap.open(path) as heap:
                assert heap.check()


def test_an_interrupted_map_leaves_its_place_free() -> None:
    def map_and_unmap(reservation: VMReservation) -> None:
        part = Map.anonymous(reservation, 0, 1 << 20)
        part.view[0] = 1
        part.close()

    reservation = VMReservation(4 << 20)
    for place, nth in chosen(lambda: map_and_unmap(reservation)):
        with told(place, nth):
            interrupted(place, nth, lambda: map_and_unmap(reservation))
            for part in reservation.maps():
                part.close()
            reservation.check()
            map_and_unmap(reservation)
    reservation.close()


def test_a_map_that_is_half_closed_has_no_view_and_can_be_closed() -> None:
    """Asked for a view, it said ValueError."""
    with VMReservation(1 << 20) as reservation:
        for place in places(Map.anonymous(reservation, 0, 4096).close):
            part = Map.anonymous(reservation, 0, 4096)
            interrupted(place, 1, part.close)
            with suppress(UsageError):
                part.view[0] = 1
            part.close()
            assert part.closed
            assert reservation.maps() == []


def test_an_interrupted_open_lets_the_file_go(tmp_path: Path) -> None:
    """Nobody could open it any more: it was locked by a descriptor that nobody knew."""
    path = tmp_path / "heap"
    Heap.create(path).close()
    place = next(each for each in places(lambda: opened_and_closed(path)) if is_lost_at(each))
    assert interrupted(place, 1, lambda: opened_and_closed(path))
    opened_and_closed(path)


def opened_and_closed(path: Path) -> None:
    Heap.open(path).close()


def is_lost_at(place: Place) -> bool:
    """Tell whether the medium has been opened there and the heap does not have it yet."""
    return place.code.co_name == "over_file"


def test_an_interrupted_reservation_can_be_made_extended_and_shrunk() -> None:
    def breathe() -> None:
        with VMReservation(1 << 20, headroom=1 << 30, alignment=1 << 20) as reservation:
            reservation.extend(1 << 20)
            reservation.shrink(0, 1 << 20)
            reservation.extend(1 << 20)
            reservation.shrink(1 << 20, 1 << 20)

    for place, nth in chosen(breathe):
        with told(place, nth):
            interrupted(place, nth, breathe)
            breathe()
