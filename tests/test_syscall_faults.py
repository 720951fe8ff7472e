"""Every system call of a script of all changes refused: an exception, and the state before it."""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fault_load import KINDS, Refusals, power_failures
from heap_world import python
from kill_script import SMALL_LOG, log_of, made, reopened

from pmemheap import Heap, native
from pmemheap.errors import DurabilityError
from pmemheap.file.redo import RedoLog
from pmemheap.layout import SlotImage
from pmemheap.native import Call, TapeKind
from pmemheap.testing import Recorder, copy_as_crashed
from pmemheap.units import KiB

pytestmark = pytest.mark.slow

STRIDE = 499


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory where syncs cost nothing."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_refused_calls_lose_nothing(durability: str, memory: Path, tmp_path: Path) -> None:
    """A sample; all of them are `python tests/fault_load.py`."""
    counts: Counter[str] = Counter()
    for index, (kind, number) in enumerate(KINDS):
        refusals = Refusals(memory / "heap", tmp_path, durability)
        first = 1 + index * STRIDE // len(KINDS)
        nth = first
        while refusals.run(nth, kind, number):
            nth += STRIDE
        assert nth > 500
        counts += refusals.counts
    met = ["went on", "opened again", "raised: nothing", "raised: OutOfSpaceError"]
    if durability == "power":
        met += ["states after a failure of power", "raised: DurabilityError"]
    assert not [name for name in met if not counts[name]], counts


@pytest.mark.parametrize("durability", ["process", "power"])
def test_python_short_of_memory_loses_nothing(
    durability: str, memory: Path, tmp_path: Path
) -> None:
    refusals = Refusals(memory / "heap", tmp_path, durability)
    chance = random.Random(3)
    for _ in range(12):
        refusals.run_short_of_memory(round(2 ** chance.uniform(6, 18)))
    assert refusals.counts["raised: MemoryError"], refusals.counts


def test_a_function_that_python_has_no_memory_for_keeps_its_code() -> None:
    """On any CPython: some drop a reference too many, and would die here or in what follows."""
    script = """
import _testcapi
from fault_load import _pay_in_advance, inner_code

def made():
    return lambda: 1

for request in [0, 1, 2] * 50:
    _pay_in_advance(list(inner_code()))
    _testcapi.set_nomemory(request, request + 1)
    try:
        made()
    except MemoryError:
        print("refused")
    finally:
        _testcapi.remove_mem_hooks()
assert made()() == 1
"""
    out, _ = python(script).communicate(timeout=60)
    assert out.split() == ["refused"] * 50


# ---------------------------------------------------------------- found by these tests


@pytest.mark.parametrize("grow", ["log", "data"])
def test_after_a_failed_sync_the_file_is_not_cut(grow: str, memory: Path, tmp_path: Path) -> None:
    """The record that names the new segment may be durable: the file must be as long as it says."""
    first = tmp_path / "heap"
    made(first, "power", SMALL_LOG).close()
    image, path = first.read_bytes(), memory / "heap"
    states = 0
    for nth in range(1, 100):
        path.write_bytes(image)
        heap = reopened(path)
        with Recorder(path) as recorder, native.faults(nth, errno.EIO) as fault:
            try:
                if grow == "log":
                    heap._space.serve(log_of(heap).move, 64 * KiB)
                else:
                    with heap.transaction() as tx:
                        tx.malloc(3 << 20)
            except DurabilityError:
                pass
            except MemoryError:
                pass
        heap.close()
        if fault.hit == Call.NONE:
            break
        if fault.hit not in {Call.FSYNC, Call.FDATASYNC, Call.MSYNC}:
            continue
        for each in power_failures(recorder, 12):
            states += 1
            path.write_bytes(each)
            with reopened(path) as heap:
                assert heap.check(), str(heap.check())
    assert states > 30


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("grow", ["log", "data"])
def test_an_interrupt_around_the_record_of_a_growth(
    grow: str, moment: str, durability: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is never shorter than the record says, and no units are mapped twice."""
    path = tmp_path / "heap"
    made(path, durability).close()
    with reopened(path) as heap:
        change = RedoLog.change

        def torn(self: RedoLog, slots: list[SlotImage], file_end: int, durable: bool) -> None:
            monkeypatch.undo()
            if moment == "after":
                change(self, slots, file_end, durable)
            raise KeyboardInterrupt

        monkeypatch.setattr(RedoLog, "change", torn)
        grows: dict[str, Callable[[], object]] = {
            "log": lambda: heap._space.serve(log_of(heap).move, 512 * KiB),
            "data": lambda: heap.malloc(3 << 20),
        }
        with pytest.raises(KeyboardInterrupt):
            grows[grow]()
        copy = tmp_path / "copy"
        copy_as_crashed(path, copy)
        offsets = [heap.malloc(1 << 20) for _ in range(8)]
        assert len({*offsets}) == 8
        assert heap.check(), str(heap.check())
    for each in (path, copy):
        with reopened(each) as heap:
            assert heap.check(), str(heap.check())


# ---------------------------------------------------------------- what a commit costs


@pytest.fixture
def heap(tmp_path: Path) -> Iterator[Heap]:
    with made(tmp_path / "heap", "power") as made_heap:
        with made_heap.transaction() as tx:
            tx.roots["block"] = tx.malloc(8 * KiB)
        made_heap.sync()
        yield made_heap


def commit(heap: Heap, nbytes: int) -> None:
    """Write so many bytes; allocate and free a block."""
    with heap.transaction() as tx:
        tx.write(heap.roots["block"], bytes(nbytes))
        tx.free(tx.malloc(100))
        tx.malloc(64)


def test_a_durable_commit_makes_one_sync(heap: Heap) -> None:
    """Besides it looks whether the file is there, and writes the record; nothing else is due."""
    commit(heap, 100)  # has a run of small blocks from now on
    with Recorder(heap.fileno()) as recorder:
        before = native.system_calls()
        commit(heap, 100)
        calls = native.system_calls() - before
    syncs = {TapeKind.SYNC_RANGE: 1}
    kinds = Counter(event.kind for event in recorder.recording.events)
    found = {kind: kinds[kind] for kind in (TapeKind.SYNC_RANGE, TapeKind.SYNC_FILE) if kinds[kind]}
    assert found == syncs
    assert calls == 3


def test_a_lazy_commit_without_writes_makes_no_system_call(heap: Heap) -> None:
    commit(heap, 100)
    before = native.system_calls()
    with heap.transaction(durable=False) as tx:
        tx.free(tx.malloc(100))
        tx.alloc(64).view[:] = b"x" * 64
    assert native.system_calls() == before


@pytest.mark.parametrize("nbytes", [16, 100, 1000, 4096])
def test_a_commit_writes_its_payload_and_little_more(heap: Heap, nbytes: int) -> None:
    commit(heap, nbytes)
    log = heap._space.shared.log
    assert isinstance(log, RedoLog)
    before = log.positions()[3]
    commit(heap, nbytes)
    assert 0 < log.positions()[3] - before <= nbytes + 512
