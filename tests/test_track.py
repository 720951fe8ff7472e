"""Track: which lines have made the blocks that live, now and in an earlier run."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pmemheap import Heap, OutOfSpaceError, UsageError, native
from pmemheap.cli import main
from pmemheap.containers import SortedMap
from pmemheap.errors import HeapFileError, HeapNotFoundError
from pmemheap.heap.space import space_of
from pmemheap.layers import Count, Fail, Fill, Passing, Track
from pmemheap.layers.sites import read_sites
from pmemheap.native import FaultKind


def here() -> str:
    """Return the line of the caller as a site."""
    frame = sys._getframe(1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    return tmp_path / "heap.sites"


# ---------------------------------------------------------------- what it knows


def test_blocks_are_told_by_the_line_that_made_them(heap: Heap) -> None:
    with heap.install(Track()) as track:
        large, line = heap.malloc(5000), here()
        many, other = heap.malloc_many(100, 20), here()
        heap.free(many[0])
        assert track.live() == {large: line} | dict.fromkeys(many[1:], other)
        assert track.report() == [(line, 1, 5000), (other, 19, 1900)]
        heap.free_many([large, *many[1:10]])
        assert track.report() == [(other, 10, 1000)]
    heap.free(many[10])
    assert track.report() == [(other, 10, 1000)], "what it was at the end"


def test_a_block_of_another_size_was_made_by_who_changed_it(heap: Heap) -> None:
    with heap.install(Track()) as track:
        offset, made = heap.malloc(70_000), here()
        if heap.expand(offset, 90_000):
            assert track.report() == [(made, 1, 90_000)]
        offset, moved = heap.realloc(offset, 100), here()
        assert track.live() == {offset: moved}
        assert track.report() == [(moved, 1, 100)]


def test_callers_inside_of_the_package_are_passed_over(heap: Heap) -> None:
    with heap.install(Track()) as track, heap.install(Fill(free=1)), heap.install(Passing()):
        block, line = heap.alloc(100), here()
        assert track.live() == {block.offset: line}
        dumped, other = heap.dump({"a": 1}), here()
        assert track.live()[dumped] == other
        to, third = heap.realloc(block.offset, 5000), here()
        assert track.live() == {to: third, dumped: other}


def test_what_it_never_saw_is_unknown(heap: Heap) -> None:
    before = [heap.malloc(100) for _ in range(4)]
    with heap.install(Track()) as track:
        heap.free(before[0])
        heap.expand(before[1], 100)
        moved, line = heap.realloc(before[1], 5000), here()
        assert track.live() == {moved: line}
        heap.free_many([before[2], moved])
        assert track.live() == {}
    heap.free(before[3])


def test_a_free_that_is_refused_forgets_nothing(heap: Heap) -> None:
    with heap.install(Track()) as track:
        offset, other = heap.malloc(100), heap.malloc(100)
        known = track.live()
        with heap.view(offset):
            for call, arguments in (
                (heap.free, (offset,)),
                (heap.free_many, ([other, offset],)),
                (heap.free_many, ([other, other],)),
                (heap.realloc, (offset, 100_000)),
                (heap.free, (float(offset),)),
            ):
                with pytest.raises((BufferError, UsageError, TypeError)):
                    call(*arguments)
                assert track.live() == known
                assert all(type(each) is int for each in track.live())
            heap.free(offset, deferred=True)
            assert track.live().keys() == {other}


def test_a_free_that_fails_below_forgets_nothing(memory: Heap) -> None:
    class Full(Passing):
        def over_realloc(self, offset: int, size: int) -> int:
            raise OutOfSpaceError("full")

    with memory.install(Full()), memory.install(Track()) as track:
        offset = memory.malloc(100)
        known = track.live()
        with pytest.raises(OutOfSpaceError):
            memory.realloc(offset, 5000)
        assert track.live() == known


def test_what_transactions_containers_and_arenas_do_is_known(heap: Heap) -> None:
    arena = heap.arena("side")
    with heap.install(Track()) as track:
        kept, gone = heap.malloc(100), heap.malloc(100)
        beside = heap.realloc(arena.malloc(100), 5000)
        with heap.transaction() as tx:
            tx.free(gone)
            made = tx.malloc(5000)
        assert track.live().keys() == {kept, beside, made}
        SortedMap(heap, "map")[b"key"] = b"value"
        assert track.live().keys() == set(dict(heap.blocks())) | {beside}
        assert all(site.startswith(__file__) for site in track.live().values())
        arena.drop()
        assert track.live().keys() == set(dict(heap.blocks()))
        known = track.live()
        heap.close()
        assert track.live() == known


def test_what_goes_with_a_region_is_known(memory: Heap) -> None:
    memory.free_many([memory.malloc(60_000) for _ in range(12)])  # so that the pool has room
    with memory.install(Track()) as track:
        region = native.RegionCore(memory)
        kept = [region.malloc(size) for size in (32, 4000, 20_000)]
        mark = region._mark()
        for size in (32, 4000, 20_000) * 5:
            region.malloc(size)
        assert len(track.live()) == 18
        region._rewind(*mark)
        assert track.live().keys() == set(kept)
        region._drop()
        assert track.live() == {}


def test_what_was_aborted_or_refused_is_unknown(heap: Heap) -> None:
    class AbortError(Exception):
        pass

    with heap.install(Track()) as track:
        with suppress(AbortError), heap.transaction() as tx:
            tx.malloc(100)
            raise AbortError
        with pytest.raises(OutOfSpaceError):
            heap.malloc(1 << 54)
        assert track.live() == {}


def test_a_core_that_was_not_begun_knows_nothing(memory: Heap) -> None:
    """As of an object that `__new__` has made."""
    core = native.TrackCore()
    space_of(memory).core.set_layers((), (core,))
    offset = memory.malloc(100)
    memory.free(memory.realloc(offset, 5000))
    assert (core.forgotten, core._blocks()) == (3, b"")


def test_the_layer_of_an_arena_knows_that_arena(memory: Heap) -> None:
    arena = memory.arena("mine")
    with arena.install(Track()) as own, memory.install(Track()) as track:
        outside = memory.malloc(100)
        mine, line = arena.malloc(100), here()
        assert own.live() == {mine: line}
        assert track.live().keys() == {outside, mine}
    memory.free(outside)
    memory.free(mine)
    assert own.report() == [(line, 1, 100)], "what it was at the end"


def test_a_layer_of_the_user_is_no_caller(memory: Heap) -> None:
    class Doubled(Passing):
        def malloc(self, size: int, align: int = 16) -> int:
            return self.twice(size)

        def twice(self, size: int) -> int:
            return super().malloc(2 * size)

    with memory.install(Doubled()), memory.install(Track()) as track, memory.install(Doubled()):
        offset, line = memory.malloc(100), here()
        assert track.live() == {offset: line}
        assert track.report() == [(line, 1, 400)]


def test_layers_that_come_and_go_in_any_order_know_their_own_time(memory: Heap) -> None:
    first, second = Track(), Track()
    memory.install(first)
    one = memory.malloc(100)
    memory.install(second)
    two = memory.malloc(100)
    memory.uninstall(first)
    three = memory.malloc(100)
    memory.free(one)
    assert first.live().keys() == {one, two}
    assert second.live().keys() == {two, three}
    memory.uninstall(second)


def test_it_begins_anew_on_another_heap(memory: Heap) -> None:
    track = Track()
    assert track.live() == {}
    with memory.install(track):
        memory.malloc(100)
    assert len(track.live()) == 1
    with Heap.anonymous() as other, other.install(track):
        assert track.live() == {}
        offset = other.malloc(100)
        assert track.live().keys() == {offset}
    del other
    gc.collect()
    assert track.live().keys() == {offset}


def test_it_stands_over_any_allocator(memory: Heap) -> None:
    class Toy:
        def malloc(self, size: int, align: int = 16) -> int:
            return size * 16

        def free(self, offset: int) -> None:
            pass

        def usable_size(self, offset: int) -> int:
            return 64

    track = Track(Toy())
    assert not hasattr(track, "realloc")
    first, line = track.malloc(3), here()
    track.free(track.malloc(4))
    assert track.live() == {first: line}
    wrapped = Track(Passing(memory))
    offset = wrapped.malloc(10)
    wrapped.malloc(10)
    memory.free(offset)
    assert len(wrapped.live()) == 1, "the heap below was asked"


def test_reports_are_ordered_by_bytes(memory: Heap) -> None:
    with memory.install(Track()) as track:
        for size in (100, 3000, 20):
            memory.malloc(size)
        for _ in range(50):
            memory.malloc(10)
    assert [row.bytes for row in track.report()] == [3120, 500]
    assert [row.blocks for row in track.report()] == [3, 50]


def test_a_place_that_is_taken_again_at_once_is_the_new_ones(memory: Heap) -> None:
    """As by another thread, before the call that freed it has returned."""
    taken: list[int] = []

    class Taking(Passing):
        def take(self) -> None:
            taken.append(memory.malloc(100))

        def free(self, offset: int, deferred: bool = False) -> None:
            super().free(offset, deferred)
            self.take()

        def over_free_many(self, offsets: Any) -> None:
            self.below.free_many(offsets)
            self.take()

        def over_realloc(self, offset: int, size: int) -> int:
            to: int = self.below.realloc(offset, size)
            self.take()
            return to

    with memory.install(Taking()), memory.install(Track()) as track:
        for free in (
            memory.free,
            lambda o: memory.free_many([o]),
            lambda o: memory.realloc(o, 999),
        ):
            offset = memory.malloc(100)
            free(offset)
            assert taken[-1] == offset
            assert offset in track.live()


def test_threads_are_tracked_exactly(heap: Heap) -> None:
    """A place is another thread's as soon as it is freed: nobody forgets what is not his."""
    left: list[int] = []

    def work(seed: int) -> None:
        chance, live = random.Random(seed), []
        for _ in range(3000):
            live.append(heap.malloc(100))
            if len(live) > 3:
                heap.free(live.pop(chance.randrange(len(live))))
        left.extend(live)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with heap.install(Track()) as track, ThreadPoolExecutor(3) as pool:
            list(pool.map(work, range(3)))
            assert track.live().keys() == set(left)
    finally:
        sys.setswitchinterval(interval)


SHORT_OF_MEMORY = """
import resource, pmemheap
heap = pmemheap.Heap.anonymous(headroom=1 << 30)
track = heap.install(pmemheap.Track()).layer
heap.free_many([heap.malloc(16) for _ in range(3)])
kept = heap.malloc_many(16, 1 << 18)            # half of the slots of the table
mapped = int(open("/proc/self/statm").read().split()[0]) * 4096
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (mapped, before[1]))
unknown = heap.malloc(16)
assert track.forgotten == 1
heap.free(unknown)
heap.free(kept[0])
known = heap.malloc(16)                         # there is a slot again
resource.setrlimit(resource.RLIMIT_AS, before)
more = heap.malloc(16)
assert track.live().keys() == {known, more, *kept[1:]}
assert track.forgotten == 1
heap.check()
"""


@pytest.mark.unsanitized
def test_a_block_is_forgotten_where_there_is_no_memory_for_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the file


def test_a_file_tells_a_later_run_who_made_what(tmp_path: Path, sites: Path) -> None:
    path = tmp_path / "heap"
    with Heap.create(path, durability="process") as heap, heap.install(Track(sites=sites)) as track:
        kept, line = heap.malloc(100), here()
        heap.free(heap.malloc(200))
        grown, other = heap.realloc(heap.malloc(300), 5000), here()
        assert track.error is None
        known = track.live()
    assert read_sites(sites).keys() == {kept, grown}
    with Heap.open(path) as heap, heap.install(Track(sites=sites)) as track:
        assert track.live() == known == {kept: line, grown: other}
        assert track.report() == [(other, 1, 5000), (line, 1, 100)]
        heap.free(grown)
        again, third = heap.malloc(5000), here()
        heap.install(Fail()).__exit__()
    with Heap.open(path) as heap:
        heap.free(kept)  # where nobody looked
    with Heap.open(path) as heap, heap.install(Track(sites=sites)) as track:
        assert track.live() == {again: third}


def test_a_file_goes_on_when_its_layer_is_put_on_again(tmp_path: Path, sites: Path) -> None:
    track = Track(sites=sites)
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        with heap.install(track):
            first = heap.malloc(100)
        with heap.install(track):
            second = heap.malloc(100)
            assert track.live().keys() == {first, second}
    assert read_sites(sites).keys() == {first, second}


def test_a_process_that_is_killed_loses_no_names(tmp_path: Path, sites: Path) -> None:
    path = tmp_path / "heap"
    Heap.create(path, durability="process").close()
    child = os.fork()
    if child == 0:
        heap = Heap.open(path)
        heap.install(Track(sites=sites))
        for _ in range(100):
            heap.free(heap.malloc(100))
            heap.malloc(60)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with Heap.open(path, readonly=True) as heap:
        assert read_sites(sites).keys() == dict(heap.blocks()).keys()


def filled(path: Path) -> tuple[dict[int, Any], int]:
    """Write a file of five blocks, of which one was freed; return what it says, and that one."""
    with Heap.anonymous() as heap:
        track = Track(heap, sites=path)
        offsets = [track.malloc(size) for size in (10, 20, 30)]
        offsets += [track.malloc(size) for size in (40, 50)]
        track.free(offsets[1])
    return read_sites(path), offsets[1]


@pytest.mark.slow
def test_a_lost_tail_loses_names_only(sites: Path) -> None:
    (whole, freed), data = filled(sites), sites.read_bytes()
    assert len(whole) == 4
    for length in range(len(data)):
        sites.write_bytes(data[:length])
        found = read_sites(sites)
        assert found.keys() - whole.keys() <= {freed}, "that one is no live block of the heap"
        assert all(found[offset] == whole[offset] for offset in found.keys() & whole.keys())


@pytest.mark.slow
def test_damage_loses_what_stood_there(sites: Path) -> None:
    (whole, _), data = filled(sites), sites.read_bytes()
    for at in range(8, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        sites.write_bytes(damaged)
        found = read_sites(sites)
        assert all(found[offset] == whole[offset] for offset in found.keys() & whole.keys())
        assert len(found) >= 2, "a record is lost, or a site with its blocks"


def test_a_file_is_compacted_when_it_is_opened_again(memory: Heap, sites: Path) -> None:
    with memory.install(Track(sites=sites)):
        for _ in range(1000):
            memory.free(memory.malloc(100))
        memory.malloc(100)
    grown = sites.stat().st_size
    assert grown > 40_000
    known = read_sites(sites)
    with memory.install(Track(sites=sites)) as track:
        assert len(track.live()) == 1
    assert sites.stat().st_size < 500
    assert read_sites(sites) == known
    assert list(sites.parent.glob("*.new")) == []


def test_another_file_is_refused(tmp_path: Path, sites: Path) -> None:
    with Heap.create(tmp_path / "heap", durability="process"):
        pass
    held = (tmp_path / "heap").read_bytes()
    with pytest.raises(UsageError, match="one of `Track` expected"):
        Track(sites=tmp_path / "heap")
    assert (tmp_path / "heap").read_bytes() == held
    with pytest.raises(HeapNotFoundError, match="No such file"):
        Track(sites=tmp_path / "none" / "sites")
    with pytest.raises(HeapFileError, match="directory"):
        Track(sites=tmp_path)
    os.mkfifo(sites)
    with pytest.raises(UsageError, match="no regular file"):
        Track(sites=sites)


def test_a_full_disk_ends_the_writing_and_nothing_else(memory: Heap, sites: Path) -> None:
    with memory.install(Track(sites=sites)) as track:
        first = memory.malloc(100)
        with native.faults(1, errno.ENOSPC) as fault:
            second = memory.malloc(100)
        assert fault.hit == native.Call.PWRITE
        memory.free(memory.malloc(100))
        assert track.live().keys() == {first, second}
        assert track.error is not None
        assert (track.error.errno, track.error.filename) == (errno.ENOSPC, str(sites))
    assert read_sites(sites).keys() == {first}


def test_a_disk_that_gets_full_in_a_record_loses_that_one(memory: Heap, sites: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with memory.install(Track(sites=sites)) as track:
        offsets = [memory.malloc(100) for _ in range(2)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (sites.stat().st_size + 5, before[1]))
        try:
            memory.free(offsets[0])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert track.error is not None
        assert track.error.errno == errno.EFBIG
        assert track.live().keys() == {offsets[1]}
    assert read_sites(sites).keys() == set(offsets)


def test_short_writes_are_made_whole(memory: Heap, sites: Path) -> None:
    with memory.install(Track(sites=sites)) as track:
        with native.faults(1, kind=FaultKind.SHORT) as fault:
            offset = memory.malloc(100)
        assert fault.hit == native.Call.PWRITE
    assert track.error is None
    assert read_sites(sites).keys() == {offset}


def test_a_child_writes_nothing_into_the_file_of_its_parent(memory: Heap, sites: Path) -> None:
    with memory.install(Track(sites=sites)):
        offset = memory.malloc(100)
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                memory.malloc(100)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert read_sites(sites).keys() == {offset}


def test_names_that_cannot_be_encoded_are_written_as_good_as_can_be(
    memory: Heap, sites: Path
) -> None:
    with memory.install(Track(sites=sites)) as track:
        space: dict[str, Any] = {"heap": memory}
        exec(compile("offset = heap.malloc(10)", "\ud800.py", "exec"), space)
        assert track.live()[space["offset"]] == "\ud800.py:1"
    assert str(read_sites(sites)[space["offset"]][0]) == r"\ud800.py:1"


def test_a_file_that_cannot_be_written_anew_is_left(
    memory: Heap, sites: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory.install(Track(sites=sites)):
        first = memory.malloc(100)
    held = sites.read_bytes()

    def refused(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with memory.install(Track(sites=sites)) as track:
        second = memory.malloc(100)
        assert track.live().keys() == {first, second}
        assert track.error is not None
    assert sites.read_bytes() == held


def test_names_of_files_may_be_anything(memory: Heap, sites: Path) -> None:
    for name in ("a:b.py", "<string>", "\udcff.py", "x" * 9000):
        code = compile("offset = heap.malloc(10)", name, "exec")
        with memory.install(Track(sites=sites)) as track:
            space: dict[str, Any] = {"heap": memory}
            exec(code, space)
            site = track.live()[space["offset"]]
            assert site == f"{name}:1"
        assert str(read_sites(sites)[space["offset"]][0]) == site[-8192:]


def test_the_first_calls_of_threads_begin_once(memory: Heap, sites: Path) -> None:
    start = threading.Barrier(4)

    def work(_: int) -> int:
        start.wait()
        return memory.malloc(100)

    with memory.install(Track(sites=sites)) as track, ThreadPoolExecutor(4) as pool:
        offsets = set(pool.map(work, range(4)))
        assert track.live().keys() == offsets
    assert read_sites(sites).keys() == offsets


# ---------------------------------------------------------------- pmemheap leaks


@pytest.fixture
def left(tmp_path: Path) -> tuple[Path, str]:
    """A heap file with 30 blocks of one line, and one that nobody tracked."""
    path = tmp_path / "a.heap"
    with Heap.create(path, durability="process") as heap:
        heap.malloc(5000)
        with heap.install(Track(sites=f"{path}.sites")):
            heap.malloc_many(100, 30)
            line = here().rsplit(":", 1)[0]
            heap.free(heap.malloc(100))
    return path, line


def test_leaks_names_the_lines(
    left: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path, file = left
    assert main(["leaks", str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"{file}:" in printed
    assert "(unknown)" in printed
    assert main(["leaks", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["blocks"] == 31
    assert [(row["blocks"], row["bytes"]) for row in found["sites"]] == [(1, 5120), (30, 3360)]
    assert found["sites"][0]["site"] is None
    assert found["sites"][1]["site"].startswith(f"{file}:")


def test_leaks_takes_another_file_and_names_one_that_is_missing(
    left: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = left
    other = Path(f"{path}.sites").rename(tmp_path / "other")
    assert main(["leaks", str(path), "--sites", str(other)]) == 0
    assert main(["leaks", str(path)]) == 2
    assert "a.heap.sites" in capsys.readouterr().err
    assert main(["leaks", str(path), "--sites", str(path)]) == 2
    assert "file of sites" in capsys.readouterr().err


def test_damage_ends_no_leaks(left: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = left
    sites = Path(f"{path}.sites")
    sites.write_bytes(sites.read_bytes()[:50])
    assert main(["leaks", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blocks"] == 31


# ---------------------------------------------------------------- with others


@pytest.mark.parametrize("kinds", [(Track, Fill), (Fill, Track), (Count, Track, Fail)])
def test_it_stands_in_stacks(memory: Heap, kinds: tuple[Callable[[], Any], ...]) -> None:
    layers = [kind() for kind in kinds]
    for layer in layers:
        memory.install(layer)
    track = next(layer for layer in layers if isinstance(layer, Track))
    offset, line = memory.malloc(100), here()
    assert track.live() == {offset: line}
    for layer in layers:
        memory.uninstall(layer)
    memory.free(offset)
    assert not list(memory.blocks())
