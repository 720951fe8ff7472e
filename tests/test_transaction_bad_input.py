"""Transactions on bad days: a clear exception, and the state is the last committed one."""

from __future__ import annotations

import errno
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from heap_world import contents

from pmemheap import DurabilityName, Heap, native
from pmemheap.errors import DurabilityError, OutOfSpaceError, UsageError
from pmemheap.heap.transaction import Transaction
from pmemheap.native import FaultKind
from pmemheap.testing import copy_as_crashed
from pmemheap.units import MiB

KINDS = ["anonymous", "shared", "process", "power"]


@pytest.fixture(params=KINDS)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    makers: dict[str, Callable[[], Heap]] = {
        "anonymous": Heap.anonymous,
        "shared": Heap.shared,
        "process": lambda: Heap.create(tmp_path / "data.heap", durability="process"),
        "power": lambda: Heap.create(tmp_path / "data.heap", durability="power"),
    }
    heap = makers[request.param]()
    yield heap
    assert heap.check(), heap.check().findings
    heap.close()


@pytest.fixture
def power(tmp_path: Path) -> Heap:
    """A power heap with a block of 100 bytes of the letter o, under the name "block"."""
    heap = Heap.create(tmp_path / "data.heap", durability="power", decay=None)
    with heap.transaction() as tx:
        block = tx.alloc(100)
        block.view[:] = b"o" * 100
        tx.roots["block"] = block.offset
    return heap


USES: dict[str, Callable[[Transaction, int], object]] = {
    "malloc": lambda tx, block: tx.malloc(10),
    "malloc aligned": lambda tx, block: tx.malloc(10, 64),
    "malloc_many": lambda tx, block: tx.malloc_many(10, 2),
    "alloc": lambda tx, block: tx.alloc(10),
    "free": lambda tx, block: tx.free(block),
    "write": lambda tx, block: tx.write(block, b"x"),
    "snapshot": lambda tx, block: tx.snapshot(block, 1),
    "realloc": lambda tx, block: tx.realloc(block, 1000),
    "set root": lambda tx, block: tx.roots.__setitem__("a", block),
    "commit": lambda tx, block: tx.commit(),
    "abort": lambda tx, block: tx.abort(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("end", ["commit", "abort"])
def test_use_after_the_end(heap: Heap, end: str, use: Callable[[Transaction, int], object]) -> None:
    block = heap.malloc(100)
    tx = heap.transaction()
    getattr(tx, end)()
    with pytest.raises(UsageError, match=f"it was {end.rstrip('t')}t*ed"):
        use(tx, block)


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_use_from_another_thread(heap: Heap, use: Callable[[Transaction, int], object]) -> None:
    block = heap.malloc(100)
    tx = heap.transaction()
    found: list[BaseException] = []

    def try_it() -> None:
        try:
            use(tx, block)
        except UsageError as error:
            found.append(error)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    tx.abort()
    assert "the thread that began it expected" in str(found[0])


@pytest.mark.parametrize(("at", "length"), [(0, 113), (112, 1), (111, 2), (-16, 1), (1 << 40, 1)])
@pytest.mark.parametrize("what", ["write", "snapshot"])
def test_a_range_outside_of_its_block(heap: Heap, what: str, at: int, length: int) -> None:
    block = heap.malloc(112)
    heap.free(heap.malloc(112))
    uses: dict[str, Callable[[Transaction], None]] = {
        "write": lambda tx: tx.write(block + at, bytes(length)),
        "snapshot": lambda tx: tx.snapshot(block + at, length),
    }
    before = contents(heap)
    with heap.transaction() as tx, pytest.raises(UsageError):
        uses[what](tx)
    assert contents(heap) == before


def test_a_savepoint_ends_once_and_before_those_around_it(heap: Heap) -> None:
    tx = heap.transaction()
    outer, inner = heap.transaction(), heap.transaction()
    with pytest.raises(UsageError, match="innermost"):
        outer.commit()
    with pytest.raises(UsageError, match="no open savepoint"):
        tx.commit()
    inner.commit()
    with pytest.raises(UsageError, match="has ended"):
        inner.abort()
    outer.abort()
    tx.commit()


def test_a_dropped_transaction_is_aborted_and_lets_others_write(heap: Heap) -> None:
    block = heap.malloc(100)
    tx = heap.transaction()
    tx.write(block, b"lost")
    gone = weakref.ref(tx)
    del tx
    gc.collect()
    assert gone() is None
    written: list[bool] = []

    def write() -> None:
        with heap.transaction() as other:
            other.write(block, b"kept")
        written.append(True)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(20)
    assert written
    assert bytes(heap.view(block, 4)) == b"kept"


def test_close_with_an_open_transaction(heap: Heap) -> None:
    tx = heap.transaction()
    tx.malloc(100)
    with pytest.raises(BufferError, match="no open transaction"):
        heap.close()
    tx.commit()
    assert len(dict(heap.blocks())) == 1


def test_a_dropped_heap_takes_its_open_transaction_along(tmp_path: Path) -> None:
    heap = Heap.create(tmp_path / "data.heap")
    heap.roots["kept"] = heap.malloc(100)
    heap.transaction().malloc(100)
    del heap
    gc.collect()
    with Heap.open(tmp_path / "data.heap") as again:
        assert len(dict(again.blocks())) == 1
        assert again.check()


def test_a_forked_child_cannot_go_on_with_a_transaction(heap: Heap) -> None:
    block = heap.malloc(100)
    tx = heap.transaction()
    tx.write(block, b"parent")
    child = os.fork()
    if child == 0:
        refused = 0
        for use in (lambda: tx.malloc(10), lambda: tx.write(block, b"child"), tx.commit):
            try:
                use()
            except UsageError:
                refused += 1
        os._exit(0 if refused == 3 else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    tx.commit()
    assert bytes(heap.view(block, 6)) == b"parent"


def test_a_finalizer_that_frees_inside_of_a_transaction(heap: Heap) -> None:
    class Owner:
        def __init__(self) -> None:
            self.block, self.itself = heap.malloc(100), self

        def __del__(self) -> None:
            heap.free(self.block)

    for _ in range(20):
        Owner()
    with heap.transaction() as tx:
        tx.malloc(100)
        gc.collect()
        tx.malloc(100)
    assert len(dict(heap.blocks())) == 2


# ---------------------------------------------------------------- too large, no room


@pytest.mark.parametrize("durability", ["process", "power"])
def test_the_log_moves_to_hold_a_large_transaction(
    tmp_path: Path, durability: DurabilityName
) -> None:
    with Heap.create(tmp_path / "data.heap", durability=durability) as heap:
        block = heap.malloc(8 * MiB)
        with heap.transaction() as tx:
            tx.write(block, b"w" * (8 * MiB))
        log = heap._space.shared.redo
        assert log is not None
        assert log.moves
        assert heap.check()
        copy_as_crashed(heap.name, tmp_path / "killed.heap")
    with Heap.open(tmp_path / "killed.heap") as killed:
        assert killed.view(block) == b"w" * (8 * MiB)
        assert killed.check()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_too_large_for_the_largest_log(tmp_path: Path, durability: DurabilityName) -> None:
    with Heap.create(tmp_path / "data.heap", durability=durability) as heap:
        block = heap.malloc(40 * MiB)
        before = dict(heap.blocks())
        tx = heap.transaction()
        tx.write(block, bytes(40 * MiB))
        with pytest.raises(OutOfSpaceError, match="at most half of the log"):
            tx.commit()
        assert not tx.is_open
        assert dict(heap.blocks()) == before
        with heap.transaction() as tx:
            tx.write(block, b"goes on")
        assert bytes(heap.view(block, 7)) == b"goes on"


@pytest.mark.parametrize("nth", range(1, 4))
def test_a_disk_that_fills_while_the_log_moves(power: Heap, nth: int) -> None:
    block = power.malloc(MiB)
    power.view(block)[:] = b"o" * MiB
    power.sync()
    with native.faults(nth, errno.ENOSPC, FaultKind.FROM) as fault:
        try:
            with power.transaction() as tx:
                tx.write(block, b"n" * MiB)
        except (OutOfSpaceError, DurabilityError) as error:
            refused = error
    assert fault.hit
    path = power.name
    survived = isinstance(refused, OutOfSpaceError)
    if survived:
        assert bytes(power.view(block, 1)) == b"o"
        with power.transaction() as tx:
            tx.write(block, b"again")
    try:
        power.close()
    except DurabilityError:
        assert not survived
    with Heap.open(path) as again:
        assert again.check()
        content = bytes(again.view(block))
        assert content[5:] in {b"o" * (MiB - 5), b"n" * (MiB - 5)}
        assert not survived or content[:5] == b"again"


# ---------------------------------------------------------------- a sync that fails


@pytest.mark.parametrize("kind", ["write", "alloc", "root", "snapshot"])
def test_after_a_failed_sync_nothing_is_written_any_more(power: Heap, kind: str) -> None:
    block = power.roots["block"]
    uses: dict[str, Callable[[Transaction], object]] = {
        "write": lambda tx: tx.write(block, b"new"),
        "alloc": lambda tx: tx.malloc(10),
        "root": lambda tx: tx.roots.__setitem__("new", block),
        "snapshot": lambda tx: tx.snapshot(block, 3),
    }
    tx = power.transaction()

    def fail() -> None:
        uses[kind](tx)
        tx.commit()

    with native.faults(1, errno.EIO, FaultKind.FROM), pytest.raises(DurabilityError):
        fail()
    if tx.is_open:
        tx.abort()
    for change in (
        lambda: power.malloc(10),
        lambda: power.free(block),
        power.transaction,
        power.sync,
        lambda: power.roots.__setitem__("a", block),
    ):
        with pytest.raises(DurabilityError):
            change()
    assert bytes(power.view(block, 1)) == b"o"
    path = power.name
    try:
        power.close()
    except DurabilityError:
        assert power.closed
    with Heap.open(path) as again:
        assert again.check()
        assert bytes(again.view(block, 3)) in {b"ooo", b"new"}
        with again.transaction() as tx:
            tx.write(block, b"works")
        assert bytes(again.view(block, 5)) == b"works"


# ------------------------------------------------------------------- a file that is taken away


@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("how", ["removed", "cut"])
def test_a_file_that_was_taken_away_ends_the_heap(
    tmp_path: Path, durability: DurabilityName, how: str
) -> None:
    path = tmp_path / "data.heap"
    heap = Heap.create(path, durability=durability)
    offset = heap.malloc(100)
    heap.sync()
    if how == "removed":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 4096)

    def commit() -> None:
        with heap.transaction() as tx:
            tx.malloc(100)
        heap.sync()

    with pytest.raises(DurabilityError, match=f"found the file {how}"):
        commit()
    with pytest.raises(DurabilityError):
        heap.malloc(10)
    if how == "removed":
        assert heap.usable_size(offset) >= 100, "what is mapped can be read"
    else:
        with pytest.raises(DurabilityError):
            heap.usable_size(offset)
    heap.close()
