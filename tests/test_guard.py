"""Guard: who leaves a block, or uses one that was freed, is named; all others notice nothing."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import pmemheap
from pmemheap import Count, DamagedBlockError, Fail, Fill, Guard, Heap, OutOfSpaceError, UsageError
from pmemheap.layers import GuardStats, Track
from pmemheap.native.seam import faults, system_calls
from pmemheap.testing import AllocatorContract

UNIT = 4096


def here() -> str:
    """Return the line of the caller as a site."""
    frame = sys._getframe(1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@contextmanager
def guarded(**options: Any) -> Iterator[tuple[Heap, Guard]]:
    """A heap of which each block is guarded that can be; it is sound in the end."""
    with Heap.anonymous(decay=None) as heap:
        guard = Guard(**{"every": 1, **options})
        heap.install(guard)
        yield heap, guard
        assert heap.check()


def store(heap: Heap, offset: int, byte: int) -> None:
    """Store to a byte near a block, as a library would that has its address."""
    ctypes.memset(heap.address(offset) + byte, 1, 1)


def is_fenced(address: int) -> bool:
    """Tell whether nobody can read a byte, by a system call that would."""
    read, write = os.pipe()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        written = libc.write(write, ctypes.c_void_p(address), ctypes.c_size_t(1))
        assert written == 1 or ctypes.get_errno() == errno.EFAULT
        return bool(written != 1)
    finally:
        os.close(read)
        os.close(write)


# ---------------------------------------------------------------- faults

BEGIN = """
import ctypes, sys, os, pmemheap
heap = pmemheap.Heap.anonymous()
heap.install(pmemheap.Guard(every=1))
offset = heap.malloc(SIZE)
address = heap.address(offset)
"""


def fault(body: str, size: int = 64, before: str = "") -> list[str]:
    """Run a program that has a guarded block; return what it said when it died by SIGSEGV."""
    script = before + BEGIN.replace("SIZE", str(size)) + textwrap.dedent(body)
    program = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert program.returncode == -signal.SIGSEGV, program.stderr
    return program.stderr.splitlines()


MADE = "  made at <string>:5"


@pytest.mark.unsanitized  # the sanitizers tell of faults themselves
def test_an_overrun_by_a_byte_names_the_block() -> None:
    first, *sites = fault("ctypes.memset(address + 64, 1, 1)")
    assert re.fullmatch(
        r"pmemheap: overrun: an access 1 byte behind the last one of the guarded block at offset "
        r"0x[0-9a-f]+fc0, of 64 bytes",
        first,
    )
    assert sites == [MADE]


@pytest.mark.unsanitized  # the sanitizers tell of faults themselves
def test_an_underrun_names_the_block() -> None:
    first, *sites = fault("ctypes.string_at(address - 1, 1)", size=2 * UNIT)
    assert first.startswith("pmemheap: underrun: an access 1 byte before the guarded block at ")
    assert sites == [MADE]


@pytest.mark.unsanitized  # the sanitizers tell of faults themselves
@pytest.mark.parametrize(
    "access", ["ctypes.string_at(address + 3, 1)", "ctypes.memset(address + 3, 1, 1)"]
)
def test_a_use_after_free_names_who_made_and_who_freed(access: str) -> None:
    first, *sites = fault(f"heap.free(offset)\n{access}")
    assert first.startswith("pmemheap: use after free: an access 3 bytes from the begin of the ")
    assert sites == [MADE, "  freed at <string>:7"]


def test_a_block_freed_by_a_transaction_or_its_last_view_is_fenced_as_well() -> None:
    with guarded() as (heap, guard):
        one, other = heap.malloc(100), heap.malloc(100)
        addresses = heap.address(one), heap.address(other)
        with heap.transaction() as tx:
            tx.free(one)
            assert not is_fenced(addresses[0]), "it is not committed yet"
        view = heap.view(other)
        heap.free(other, deferred=True)
        assert [is_fenced(address) for address in addresses] == [True, False]
        view.release()
        assert is_fenced(addresses[1])
        assert guard.check() == GuardStats(made=2, live=0, kept=2)


@pytest.mark.unsanitized  # the sanitizers tell of faults themselves
def test_the_handler_that_was_there_before_has_the_fault_too() -> None:
    enable = "import faulthandler; faulthandler.enable();"
    text = "\n".join(fault("ctypes.memset(address + 64, 1, 1)", before=enable))
    assert text.count("pmemheap: overrun") == 1
    assert "Fatal Python error: Segmentation fault" in text


@pytest.mark.unsanitized  # the sanitizers tell of faults themselves
def test_a_fault_elsewhere_is_none_of_ours() -> None:
    assert fault("heap.free(offset)\nctypes.string_at(8, 1)") == []


@pytest.mark.unsanitized  # the sanitizers tell of faults themselves
def test_a_fault_in_a_forked_child_is_told() -> None:
    body = """
    if os.fork() == 0:
        try:
            heap.free(offset)
        except pmemheap.UsageError:
            ctypes.memset(address + 64, 1, 1)
    os.kill(os.getpid(), -os.waitstatus_to_exitcode(os.wait()[1]))
    """
    first, *sites = fault(body)
    assert first.startswith("pmemheap: overrun")
    assert sites == [MADE]


# ---------------------------------------------------------------- exceptions


def test_a_double_free_names_who_made_and_who_freed() -> None:
    with guarded() as (heap, _):
        offset, made = heap.malloc(100), here()
        heap.free(offset)
        freed = f"{__file__}:{sys._getframe().f_lineno - 1}"
        with pytest.raises(UsageError, match="the guarded block of 100 bytes there is free") as one:
            heap.free(offset)
        assert f"made at {made}, freed at {freed}" in str(one.value)
        with pytest.raises(UsageError, match=r"free_many, offsets\[1\].*free already, made at"):
            heap.free_many([heap.malloc(16), offset])


def test_a_foreign_free_names_the_block_that_it_is_near() -> None:
    with guarded() as (heap, _):
        offset, made = heap.malloc(100), here()
        for bad, where in (
            (offset + 16, "16 bytes inside of"),
            (offset + 1, "1 byte inside of"),
            (offset - 32, "32 bytes before"),
            (offset + 112, "13 bytes behind the last one of"),
        ):
            with pytest.raises(UsageError, match=f"{where} the guarded block at {offset:#x}") as it:
                heap.free(bad)
            assert str(it.value).endswith(f"made at {made}")
        heap.free(offset)


@pytest.mark.parametrize("redzones", [False, True])
@pytest.mark.parametrize("size", [1, 100, 3001, 9999])
def test_a_byte_beside_a_block_is_missed_at_its_free(size: int, redzones: bool) -> None:
    with guarded(redzones=redzones) as (heap, guard):
        offset, made = heap.malloc(size), here()
        for byte, where in ((size, "1 byte behind the last one of it"), (-1, "1 byte before it")):
            store(heap, offset, byte)
            with pytest.raises(DamagedBlockError, match=rf"check: .*{where}; made at {made}"):
                guard.check()
            with pytest.raises(DamagedBlockError, match=f"free: .*of {size} bytes?: .*{where}"):
                heap.free(offset)
            assert heap.usable_size(offset) == size, "it is as it was"
            assert guard.check().live == 1, "it was told"
        store(heap, offset, size)
        heap.view(offset)[:] = bytes(size)  # all that is the user's
        with pytest.raises(DamagedBlockError, match=r"free_many, offsets\[0\]"):
            heap.free_many([offset])
        heap.free(offset)
        assert list(heap.blocks()) == []


def test_damage_is_told_by_a_realloc_and_a_deferred_free() -> None:
    with guarded() as (heap, _):
        offset = heap.malloc(100)
        store(heap, offset, 100)
        assert heap.realloc(offset, 50) == offset, "a shrink never fails"
        with pytest.raises(DamagedBlockError, match="realloc"):
            heap.realloc(offset, 5000)
        store(heap, offset, 100)
        view = heap.view(offset)
        with pytest.raises(DamagedBlockError, match="free"):
            heap.free(offset, deferred=True)
        heap.free(offset, deferred=True)
        del view


# ---------------------------------------------------------------- blocks like any other


class TestFences(AllocatorContract):
    every = 1

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with guarded(every=self.every) as (heap, _):
            yield heap


class TestSample(TestFences):
    every = 3


class TestFewSlots(AllocatorContract):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with guarded(every=2, limit=3) as (heap, _):
            yield heap


class TestRedzones(AllocatorContract):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with guarded(redzones=True) as (heap, _):
            yield heap


class TestArena(AllocatorContract):
    @contextmanager
    def allocator(self) -> Iterator[Any]:
        with Heap.anonymous() as heap:
            arena = heap.arena("mine")
            arena.install(Guard(every=1))
            yield arena


class TestStacked(AllocatorContract):
    """Among other layers, in any order."""

    @pytest.fixture(autouse=True, params=range(4))
    def place(self, request: pytest.FixtureRequest) -> None:
        self.at = request.param

    @contextmanager
    def allocator(self) -> Iterator[Any]:
        layers: list[Any] = [Count(), Fill(malloc=0xAA, free=0xDD), Track()]
        layers.insert(self.at, Guard(every=2))
        with Heap.anonymous() as heap, ExitStack() as stack:
            for layer in layers:
                stack.enter_context(heap.install(layer))
            yield heap


@pytest.mark.parametrize("align", [16, 32, 64, 1024, 4096, 8192])
@pytest.mark.parametrize("redzones", [False, True])
def test_blocks_are_aligned_and_end_at_the_fence(align: int, redzones: bool) -> None:
    with guarded(redzones=redzones) as (heap, guard):
        for size in (1, 16, 17, 1008, 1009, 1040, 4096, 4097, 40_000):
            offset = heap.malloc(size, align)
            assert offset % align == heap.address(offset) % align == 0
            assert heap.usable_size(offset) == size or align > UNIT
            gap = -(offset + size) % UNIT
            least = 16 if size % 1024 == 16 else 0  # no piece begins at the last granule of a word
            assert redzones or align > UNIT or gap < max(align, 32) + least
            assert is_fenced(heap.address(offset) + size + gap) == (not redzones and align <= UNIT)
            heap.view(offset)[:] = bytes(heap.usable_size(offset))
            heap.free(offset)
        assert guard.check().made == (0 if align > UNIT else 9)


def test_one_block_in_so_many_is_guarded() -> None:
    with Heap.anonymous() as heap, heap.install(Guard(every=100)) as guard:
        for size in (100, 20_000):
            before = guard.check().made
            for _ in range(10_000):
                offset = heap.malloc(size)
                heap.usable_size(offset)
                heap.free(offset)
            assert 60 < guard.check().made - before < 150


def test_blocks_that_no_single_call_makes_are_not() -> None:
    with guarded() as (heap, guard):
        heap.free(heap.malloc(1 << 20))
        heap.free_many(heap.malloc_many(100, 50))
        before = guard.check().made
        heap.free_many(heap.malloc_many(100, 50))
        with heap.transaction() as tx:
            tx.malloc(100)
        with heap.scratch() as scratch:
            scratch.malloc(100)
        assert guard.check().made == before <= 1


def test_a_block_that_becomes_larger_moves_out() -> None:
    with guarded() as (heap, guard):
        offset = heap.malloc(100)
        heap.view(offset)[:] = b"x" * 100
        assert not heap.expand(offset, 101)
        moved = heap.realloc(offset, 10_000)
        assert bytes(heap.view(moved, 100)) == b"x" * 100
        assert moved != offset
        assert guard.check() == GuardStats(made=1, live=0, kept=1)
        large = heap.realloc(heap.malloc(100), 1 << 20)
        heap.free_many([moved, large])


def test_arrays_handles_and_roots_lie_in_guarded_blocks() -> None:
    numpy = pytest.importorskip("numpy")
    with guarded() as (heap, guard):
        array = heap.ndarray(10, numpy.float64)
        array[:] = 1
        block = heap.alloc(30)
        heap.roots["block"] = block.offset
        assert guard.check().live == 2
        with pytest.raises(UsageError, match="root"):
            heap.free(block.offset)
        with pytest.raises(BufferError):
            heap.free(heap.offset_of(array))
        del heap.roots["block"]
        block.free()
        offset = heap.offset_of(array)
        del array
        heap.free(offset)
        with heap.transaction() as tx:
            tx.write(heap.malloc(16), b"0123456789abcdef")


# ---------------------------------------------------------------- slots and fences


def test_no_more_than_the_limit_are_guarded_and_a_quarter_of_it_kept() -> None:
    with guarded(limit=8) as (heap, guard):
        offsets = [heap.malloc(100) for _ in range(20)]
        assert guard.check() == GuardStats(made=8, live=8, kept=0)
        for offset in offsets:
            heap.free(offset)
        assert guard.check().kept == 2
        for size in (100, 5000, 100, 9000, 100):
            heap.free(heap.malloc(size))
            assert guard.check().kept == 2


def test_the_oldest_of_those_that_were_freed_is_used_first() -> None:
    with guarded(limit=8) as (heap, _):
        places = []
        for _ in range(6):
            places.append(heap.malloc(100))
            heap.free(places[-1])
        assert places == [*places[:2], *places[:2], *places[:2]]
        assert places[0] != places[1]


@pytest.mark.parametrize("redzones", [False, True])
def test_nothing_is_fenced_that_is_free(redzones: bool) -> None:
    with guarded(redzones=redzones, limit=64) as (heap, guard):
        chance = random.Random(1)
        addresses = set()
        for _ in range(300):
            offset = heap.malloc(chance.choice((10, 100, 5000, 30_000)))
            steps = (0,) if redzones else (-1, 0, 1)
            addresses |= {heap.address(offset) + step * UNIT for step in steps}
            heap.free(offset)
        kept = guard.check().kept
        assert kept > 0
        assert any(map(is_fenced, addresses)) == (not redzones)
        heap.uninstall(guard)
        assert not any(map(is_fenced, addresses))
        assert guard.check().kept == 0


def test_trim_lets_go_of_what_is_kept() -> None:
    with guarded() as (heap, guard):
        offset = heap.malloc(100)
        for _ in range(20):
            heap.free(heap.malloc(100))
        heap.trim()
        assert guard.check() == GuardStats(made=21, live=1, kept=0)
        assert is_fenced(heap.address(offset) // UNIT * UNIT + UNIT)
        heap.free(offset)


def test_a_full_heap_lets_go_of_what_is_kept_and_then_goes_on_unguarded() -> None:
    limit = 8 << 20
    with Heap.anonymous(limit=limit, decay=None) as heap, heap.install(Guard(every=1)) as guard:
        offsets = []
        with suppress(OutOfSpaceError):
            while True:
                offsets.append(heap.malloc(1000))
                heap.free(heap.malloc(1000))
        assert 0 < guard.check().live < len(offsets)
        assert len(offsets) > 1000
        heap.free_many(offsets)
        assert heap.check()


def test_fences_of_maps_where_there_are_no_others() -> None:
    with Heap.anonymous(decay=None) as heap:
        heap.free(heap.malloc(100_000))
        with heap.install(Guard(every=1, limit=1000)) as guard:
            with faults(1, errno.EINVAL):
                first = heap.malloc(100)
            assert guard.check().made == 1
            offsets = [first, *(heap.malloc(100) for _ in range(300))]
            assert guard.check().made == 256
            address = heap.address(offsets[255])
            page = address // UNIT * UNIT
            assert [is_fenced(page + step * UNIT) for step in (-1, 0, 1)] == [True, False, True]
            assert len(Path("/proc/self/maps").read_text().splitlines()) > 256
            heap.free_many(offsets)
            assert is_fenced(address)
            heap.free_many([heap.malloc(100) for _ in range(600)])
            heap.malloc(100)
        assert not is_fenced(address)
        assert heap.check()


def test_a_refusal_of_the_system_costs_the_guard_and_nothing_else() -> None:
    with guarded(limit=4) as (heap, guard):
        heap.free(heap.malloc(100_000))
        before = system_calls()
        heap.free(heap.malloc(100))
        heap.free(heap.malloc(5000))
        calls = system_calls() - before
        for nth in range(1, calls + 3):
            with faults(nth, errno.ENOMEM):
                one = heap.malloc(100)
                heap.free(one)
                two = heap.malloc(5000)
                heap.free(two)
            assert heap.check()
            assert list(heap.blocks()) == []
        for size in (100, 5000) * 4:
            offset = heap.malloc(size)
            heap.view(offset)[:] = bytes(heap.usable_size(offset))
            heap.free(offset)
        heap.uninstall(guard)
        assert guard.check().kept == 0


# ---------------------------------------------------------------- coming and going


@pytest.mark.parametrize("seed", range(3))
def test_guards_come_and_go_among_calls(seed: int) -> None:
    chance = random.Random(seed)
    with Heap.anonymous(decay=None) as heap, heap.install(Count()) as count:
        on: list[Any] = []
        held: dict[int, bytes] = {}
        for _ in range(1500):
            kind = chance.randrange(12)
            if kind == 0:
                layer = chance.choice(
                    [
                        Guard(every=chance.choice((1, 3)), limit=chance.choice((2, 9, 50))),
                        Guard(every=2, redzones=True),
                        Fail(share=0.0),
                        Track(),
                    ]
                )
                heap.install(layer)
                on.append(layer)
            elif kind == 1 and on:
                heap.uninstall(on.pop(chance.randrange(len(on))))
            elif kind == 2 and held:
                offset, data = held.popitem()
                size = chance.choice((10, 200, 6000))
                offset = heap.realloc(offset, size)
                assert bytes(heap.view(offset, min(size, len(data)))) == data[:size]
                heap.view(offset, size)[:] = held[offset] = chance.randbytes(size)
            elif kind < 8 or not held:
                size = chance.choice((1, 40, 100, 3000, 9000))
                offset = heap.malloc(size)
                heap.view(offset, size)[:] = held[offset] = chance.randbytes(size)
            else:
                offset = chance.choice(list(held))
                data = held.pop(offset)
                assert bytes(heap.view(offset, len(data))) == data
                heap.free(offset)
        assert dict(heap.blocks()).keys() == held.keys()
        assert heap.stats().blocks == count.blocks == len(held)
        assert heap.check()
        heap.free_many(list(held))
        for layer in on:
            heap.uninstall(layer)
        assert (count.blocks, count.bytes, heap.stats().allocated) == (0, 0, 0)
        assert heap.check()


def test_guards_come_and_go_among_threads() -> None:
    with Heap.anonymous() as heap, heap.install(Count()) as count:
        failures: list[BaseException] = []
        is_over = threading.Event()

        def work(seed: int) -> None:
            chance = random.Random(seed)
            try:
                while not is_over.is_set():
                    offsets = [heap.malloc(chance.choice((20, 700, 5000))) for _ in range(20)]
                    for offset in offsets:
                        heap.view(offset, 20)[:] = offset.to_bytes(20, "little")
                    for offset in offsets:
                        assert int.from_bytes(heap.view(offset, 20), "little") == offset
                        heap.free(offset)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for step in range(60):
            with heap.install(Guard(every=1 + step % 4, limit=20, redzones=step % 5 == 0)):
                for _ in range(20):
                    heap.free(heap.malloc(100))
        is_over.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert (count.blocks, count.bytes) == (0, 0)
        assert list(heap.blocks()) == []
        assert heap.check()


def test_of_several_guards_the_top_one_counts() -> None:
    with guarded() as (heap, _):
        with heap.install(Guard(every=1, redzones=True)):
            zoned = heap.malloc(100)
        fenced = heap.malloc(100)
        assert is_fenced(heap.address(fenced) // UNIT * UNIT + UNIT)
        assert heap.address(zoned) + 100 < heap.address(zoned) // UNIT * UNIT + UNIT - 32
        heap.free_many([zoned, fenced])


def test_a_block_outlives_the_guard_and_stays_fenced() -> None:
    heap = Heap.anonymous(decay=None)
    with heap.install(Guard(every=1)) as guard:
        offset = heap.malloc(100)
    address = heap.address(offset)
    assert is_fenced(address // UNIT * UNIT + UNIT)
    store(heap, offset, 100)
    with pytest.raises(DamagedBlockError):
        heap.free(offset)
    heap.free(offset)
    assert not is_fenced(address)
    assert guard.check() == GuardStats(made=1, live=0, kept=0)
    assert heap.check()
    heap.close()


def test_a_heap_ends_with_guarded_blocks_in_it() -> None:
    for how in ("close", "drop", "arena"):
        heap = Heap.anonymous()
        guard = Guard(every=1)
        where: Any = heap.arena("mine") if how == "arena" else heap
        where.install(guard)
        live, gone = where.malloc(100), where.malloc(100)
        where.free(gone)
        view = where.view(live) if how == "drop" else None
        if how == "arena":
            where.drop()
        if how == "drop":
            del heap, where
            gc.collect()
            assert view is not None
            view[:] = bytes(100)
            del view
        else:
            heap.close()
            with pytest.raises(UsageError):
                heap.free(live)
        gc.collect()
        with guarded() as (other, second):
            other.free(other.malloc(100))
            assert second.check().made == 1


# ---------------------------------------------------------------- bad input


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for options in ({"every": 0}, {"every": "1"}, {"limit": 0}, {"limit": 1 << 17}):
        with pytest.raises(UsageError, match=r"Guard: (every|limit): a number from 1"):
            Guard(**options)
    with Heap.create(tmp_path / "heap") as file, Heap.shared() as shared, Heap.anonymous() as heap:
        for one in (file, shared):
            with pytest.raises(UsageError, match="Guard: a heap in private memory expected"):
                one.install(Guard())
            assert one.layers == ()
        for strategy in (pmemheap.Ring(), pmemheap.Rows(64)):
            arena = heap.arena(type(strategy).__name__, strategy=strategy)
            with pytest.raises(UsageError, match="Guard: an arena of General expected"):
                arena.install(Guard())
        with pytest.raises(UsageError, match="put on a heap expected"):
            Guard().check()
        guard = Guard()
        heap.install(guard)
        with pytest.raises(UsageError, match="is on no heap expected"):
            heap.install(guard)
