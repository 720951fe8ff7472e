"""Kept regions: blocks that die together in the heap itself, in a file for later processes too."""

from __future__ import annotations

import gc
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from file_looks import findings_of, medium_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_ring import consume

from pmemheap import Heap, OutOfSpaceError, UsageError
from pmemheap.format.layout import HAS_PACKED
from pmemheap.heap.keptregions import KeptRegion
from pmemheap.layers import Count
from pmemheap.native.constants import REGION_MOST
from pmemheap.repair import repair
from pmemheap.salvage import salvage
from pmemheap.testing import AllocatorContract
from pmemheap.units import UNIT, MiB

KINDS = ["none", "process", "power"]
FILES = pytest.mark.parametrize("durability", KINDS[1:])


@pytest.fixture(params=KINDS)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    with made(request.param, tmp_path / "heap") as heap:
        yield heap


def made(kind: Any, path: Path, **options: Any) -> Heap:
    if kind == "none":
        return Heap.anonymous(**options)
    return Heap.create(path, durability=kind, **options)


def live_in(heap: Heap) -> list[int]:
    return [offset for offset, _ in heap.blocks()]


class TestKeptRegion(AllocatorContract):
    @pytest.fixture(autouse=True, params=KINDS)
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.path, self.kind = tmp_path / "heap", request.param

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with made(self.kind, self.path) as heap:
            yield heap.region()


# ---------------------------------------------------------------- what it is


def test_blocks_of_a_region_go_with_it(heap: Heap) -> None:
    before = heap.malloc(100)
    region = heap.region()
    offsets = [region.malloc(size % 700 + 1) for size in range(2000)]
    assert heap.usable_size(region.offset) == 32
    assert set(live_in(heap)) == {before, region.offset, *offsets}
    assert heap.check()
    region.drop()
    assert live_in(heap) == [before]
    assert region.dropped
    region.drop()
    assert heap.check()


def test_blocks_may_go_one_by_one(heap: Heap) -> None:
    region, rng = heap.region(), random.Random(2)
    offsets = [region.malloc(rng.choice((20, 300, 5000, 100_000))) for _ in range(300)]
    rng.shuffle(offsets)
    for offset in offsets[:200]:
        heap.free(offset)
    for offset in offsets[200:]:
        region.free(offset)
    assert live_in(heap) == [region.offset]
    assert region.malloc(100) > region.offset
    assert heap.check()


def test_a_region_is_rewound(heap: Heap) -> None:
    region = heap.region()
    kept = [region.malloc(300) for _ in range(100)]
    mark = region.mark()
    for _ in range(5):
        for size in (30, 5000, 60_000):
            region.malloc(size)
        region.rewind(mark)
        assert live_in(heap) == sorted([region.offset, *kept])
    region.rewind(mark)
    assert heap.check()
    region.drop()
    with pytest.raises(UsageError):
        region.rewind(mark)


def test_a_block_has_a_greatest_size(heap: Heap) -> None:
    region = heap.region()
    assert heap.usable_size(region.malloc(REGION_MOST)) >= REGION_MOST
    for size, align in ((REGION_MOST + 1, 16), (REGION_MOST, 4096), (16, 8192)):
        with pytest.raises(UsageError, match=f"at most {REGION_MOST} bytes"):
            region.malloc(size, align)
    assert region.malloc(60_000, 4096) % 4096 == 0
    assert heap.check()


def test_many_regions(heap: Heap) -> None:
    """A hundred thousand of them are tested by hand; each is a unit."""
    count = 3000 if heap.durability != "none" else 20_000
    regions = [heap.region() for _ in range(count)]
    offsets = [region.malloc(50) for region in regions]
    assert len(live_in(heap)) == 2 * count
    for region in regions[::2]:
        region.drop()
    assert set(live_in(heap)) == {region.offset for region in regions[1::2]} | set(offsets[1::2])
    assert heap.check()


# ---------------------------------------------------------------- how it is found


def test_a_region_is_there_once(heap: Heap) -> None:
    region = heap.region()
    assert heap.region(at=region.offset) is region
    offset, where = region.malloc(100), region.offset
    del region
    gc.collect()
    again = heap.region(at=where)
    assert again.offset == where
    more = [again.malloc(1000) for _ in range(100)]
    assert live_in(heap) == sorted([where, offset, *more])
    again.drop()
    assert live_in(heap) == []
    with pytest.raises(UsageError, match="what a region is called by expected"):
        heap.region(at=where)


@pytest.mark.parametrize("at", [16, -1, 1 << 54, 1 << 60])
def test_no_region_is_found_elsewhere(heap: Heap, at: int) -> None:
    region = heap.region()
    block = region.malloc(100)
    for offset in (at, block, heap.malloc(100), heap.malloc(10_000)):
        with pytest.raises(UsageError):
            heap.region(at=offset)
    with pytest.raises(TypeError):
        heap.region(at="document")  # type: ignore[arg-type]
    assert heap.region(at=region.offset) is region


def test_what_stands_for_a_region_goes_with_it_alone(heap: Heap) -> None:
    region = heap.region()
    message = "one that stands for no region expected"
    calls: list[Callable[[], None]] = [
        lambda: heap.free(region.offset),
        lambda: heap.free(region.offset, deferred=True),
        lambda: heap.free_many([region.offset]),
        lambda: region.free(region.offset),
        lambda: heap.transaction().free(region.offset),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=message):
            call()
    with pytest.raises(UsageError):
        heap.realloc(region.offset, 1000)
    assert live_in(heap) == [region.offset]


def test_views_and_roots_hold_it(heap: Heap) -> None:
    region = heap.region()
    offset = [region.malloc(100) for _ in range(500)][400]
    view = heap.view(offset)
    with pytest.raises(BufferError, match="no live views"):
        region.drop()
    view.release()
    heap.roots["document"] = region.offset
    with pytest.raises(UsageError, match="remove the root first"):
        region.drop()
    del heap.roots["document"]
    view = heap.view(region.offset)
    with pytest.raises(BufferError):
        region.drop()
    view.release()
    with heap.transaction() as tx:
        tx.write(offset, b"text")
        with pytest.raises(BufferError):
            region.drop()
    region.drop()
    assert live_in(heap) == []


def test_leaving_with_leaves_it(heap: Heap) -> None:
    with heap.region() as region:
        offset = region.malloc(100)
    assert set(live_in(heap)) == {region.offset, offset}
    assert repr(region).startswith(f"<KeptRegion {region.offset:#x} in ")


def test_transactions_free_in_it(heap: Heap) -> None:
    region = heap.region()
    offsets = [region.malloc(2000) for _ in range(50)]
    with heap.transaction() as tx:
        for offset in offsets:
            tx.free(offset)
        other = tx.malloc(500)
    assert set(live_in(heap)) == {region.offset, other}
    more = [region.malloc(2000) for _ in range(50)]
    assert set(live_in(heap)) == {region.offset, other, *more}
    assert heap.check()


def test_a_count_sees_it(heap: Heap) -> None:
    with heap.install(Count()) as count:
        region = heap.region()
        mark = region.mark()
        for size in range(1, 400):
            region.malloc(size)
        assert count.blocks == 400
        region.rewind(mark)
        assert count.blocks == 1
        region.drop()
        assert (count.blocks, count.bytes) == (0, 0)


def test_a_full_heap_refuses(tmp_path: Path) -> None:
    for kind in KINDS:
        with made(kind, tmp_path / kind, limit=4 * MiB) as heap:
            region = heap.region()
            with pytest.raises(OutOfSpaceError):
                consume(region.malloc(30_000) for _ in range(1000))
            with pytest.raises(OutOfSpaceError):
                consume(heap.region() for _ in range(2000))
            region.drop()
            heap.sync() if kind != "none" else None
            assert heap.region().malloc(30_000)
            assert heap.check()


def test_a_closed_heap_has_no_regions(heap: Heap) -> None:
    region = heap.region()
    child = os.fork()
    if child == 0:
        refused = 0
        for call in (heap.region, region.mark, lambda: region.malloc(10), region.drop):
            try:
                call()
            except UsageError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    heap.close()
    for call in (heap.region, region.mark, lambda: region.malloc(10), region.drop):
        with pytest.raises(UsageError, match="it is closed"):
            call()


# ---------------------------------------------------------------- in a file


@FILES
def test_a_region_is_there_again(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "heap"
    with made(durability, path) as heap:
        assert not medium_of(heap).header.superblock.features_incompat
        document, gone = heap.region(), heap.region()
        assert medium_of(heap).header.superblock.features_incompat == HAS_PACKED
        offsets = [document.malloc(size + 1) for size in range(1000)]
        gone.malloc(3000)
        gone.drop()
        heap.roots["document"] = document.offset
    assert findings_of(path) == []
    with Heap.open(path, readonly=True) as heap:
        document = heap.region(at=heap.roots["document"])
        assert live_in(heap) == [document.offset, *offsets]
        with pytest.raises(UsageError, match="a writable heap expected"):
            document.malloc(10)
        with pytest.raises(UsageError, match="a writable heap expected"):
            document.drop()
        assert heap.check()
    with Heap.open(path) as heap:
        document = heap.region(at=heap.roots["document"])
        mark = document.mark()
        document.malloc(100_000)
        document.rewind(mark)
        del heap.roots["document"]
        document.drop()
        assert live_in(heap) == []
        assert heap.check()


@FILES
def test_a_killed_process_leaves_its_regions(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "heap"
    child = os.fork()
    if child == 0:
        heap = made(durability, path)
        for number in range(20):
            region = heap.region()
            for size in range(1, 300, 7):
                heap.view(region.malloc(size), 1)[0] = number
            if number % 2:
                region.drop()
            else:
                heap.roots[f"{number}"] = region.offset
        heap.sync()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert findings_of(path) == []
    with Heap.open(path) as heap:
        assert heap.check()
        assert len(live_in(heap)) == 10 * 44
        for name, offset in list(heap.roots.items()):
            region = heap.region(at=offset)
            assert bytes(heap.view(region.malloc(1000), 0)) == b""
            del heap.roots[name]
            region.drop()
        assert live_in(heap) == []
        assert heap.check()


@FILES
def test_room_of_a_region_is_used_again(tmp_path: Path, durability: Any) -> None:
    with made(durability, tmp_path / "heap") as heap:
        for _ in range(60):
            region = heap.region()
            for _ in range(300):
                region.malloc(1000)
            region.drop()
            heap.sync()
        assert heap.stats().file_bytes < 8 * MiB


@FILES
@pytest.mark.parametrize(("at", "value"), [(1, 3), (2, 9), (4, 200), (8, 77)])
def test_an_entry_of_the_first_chunk_is_mended(
    tmp_path: Path, durability: Any, at: int, value: int
) -> None:
    path = tmp_path / "heap"
    with made(durability, path) as heap:
        region = heap.region()
        offsets = [region.malloc(size + 1) for size in range(500)]
        slot = medium_of(heap).pieces(0)[0].slot
        assert slot is not None
        place = slot.entries_off + region.offset // UNIT * 16
    image = bytearray(path.read_bytes())
    image[place + at] = value
    path.write_bytes(image)
    assert findings_of(path)
    repair(path)
    assert findings_of(path) == []
    with Heap.open(path) as heap:
        assert live_in(heap) == [region.offset, *offsets]
        assert heap.region(at=region.offset).malloc(10)
        assert heap.check()


def test_regions_are_salvaged(tmp_path: Path) -> None:
    path, to = tmp_path / "heap", tmp_path / "saved"
    with made("process", path) as heap:
        region, gone = heap.region(), heap.region()
        offsets = [region.malloc(size + 10) for size in range(500)]
        for number, offset in enumerate(offsets):
            heap.view(offset, 2)[:] = number.to_bytes(2, "little")
        gone.malloc(1000)
        gone.drop()
        heap.roots["one"] = offsets[300]
    for damage in (0, 8192):  # none; the superblocks
        path.write_bytes(bytes(damage) + path.read_bytes()[damage:])
        assert salvage(path, to).blocks == 501
        with Heap.open(to) as heap:
            assert int.from_bytes(heap.view(heap.roots["one"], 2), "little") == 300
        to.unlink()


# ---------------------------------------------------------------- against a model


class Model(RuleBasedStateMachine):
    """Regions of one heap beside dictionaries; the heap is closed and opened now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        directory = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.path = Path(directory) / "heap"
        self.regions: dict[int, KeptRegion] = {}
        self.live: dict[int, dict[int, bytes]] = {}
        self.others: set[int] = set()
        self.count = 0

    @initialize(kind=st.sampled_from(KINDS))
    def begin(self, kind: str) -> None:
        self.heap = made(kind, self.path, limit=64 * MiB)

    def stamp(self, where: int, offset: int) -> None:
        self.count += 1
        stamp = self.count.to_bytes(8, "little")
        self.heap.view(offset, 8)[:] = stamp
        self.live[where][offset] = stamp

    def drawn(self, data: st.DataObject) -> KeptRegion:
        return self.regions[data.draw(st.sampled_from(sorted(self.regions)))]

    @rule()
    def region(self) -> None:
        region = self.heap.region()
        self.regions[region.offset], self.live[region.offset] = region, {}

    @precondition(lambda self: self.regions)
    @rule(
        data=st.data(),
        sizes=st.lists(st.sampled_from([8, 16, 33, 500, 4096, 30_000, 120_000]), max_size=30),
        align=st.sampled_from([16, 16, 256, 4096]),
    )
    def malloc(self, data: st.DataObject, sizes: list[int], align: int) -> None:
        region = self.drawn(data)
        for size in sizes:
            self.stamp(region.offset, region.malloc(size, align))

    @precondition(lambda self: self.regions)
    @rule(data=st.data(), count=st.integers(1, 20), in_transaction=st.booleans())
    def free(self, data: st.DataObject, count: int, in_transaction: bool) -> None:
        blocks = self.live[self.drawn(data).offset]
        chosen = data.draw(st.permutations(sorted(blocks)))[:count]
        if in_transaction:
            with self.heap.transaction() as tx:
                for offset in chosen:
                    tx.free(offset)
        for offset in chosen:
            if not in_transaction:
                self.heap.free(offset)
            del blocks[offset]

    @precondition(lambda self: self.regions)
    @rule(data=st.data(), sizes=st.lists(st.sampled_from([20, 900, 9000, 50_000]), max_size=20))
    def rewind(self, data: st.DataObject, sizes: list[int]) -> None:
        region = self.drawn(data)
        mark = region.mark()
        for size in sizes:
            region.malloc(size)
        region.rewind(mark)

    @precondition(lambda self: self.regions)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        region = self.drawn(data)
        del self.regions[region.offset], self.live[region.offset]
        region.drop()

    @rule(size=st.sampled_from([50, 5000, 300_000]))
    def other(self, size: int) -> None:
        self.others.add(self.heap.malloc(size))

    @precondition(lambda self: self.others)
    @rule()
    def free_other(self) -> None:
        self.heap.free(self.others.pop())

    @rule(forgets=st.booleans())
    def reopen(self, forgets: bool) -> None:
        known = list(self.regions)
        if self.heap.durability != "none" and not forgets:
            self.heap.close()
            assert findings_of(self.path) == []
            self.heap = Heap.open(self.path, limit=64 * MiB)
        self.regions.clear()
        gc.collect()
        self.regions = {offset: self.heap.region(at=offset) for offset in known}

    @rule()
    def trim(self) -> None:
        self.heap.trim()

    @invariant()
    def all_is_there(self) -> None:
        if not hasattr(self, "heap"):
            return
        blocks = {offset: stamp for each in self.live.values() for offset, stamp in each.items()}
        assert set(live_in(self.heap)) == {*blocks, *self.regions, *self.others}
        for offset, stamp in blocks.items():
            assert self.heap.view(offset, 8) == stamp
        assert self.heap.check()

    def teardown(self) -> None:
        self.regions.clear()
        if hasattr(self, "heap"):
            self.heap.close()
        self.stack.close()


TestModel = pytest.mark.slow(Model.TestCase)
TestModel.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
