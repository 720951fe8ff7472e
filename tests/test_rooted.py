"""A root names a live block, and the block stays for as long as the root does."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from heap_world import named

from pmemheap import Heap, OutOfSpaceError, UsageError, native
from pmemheap.errors import PmemHeapError
from pmemheap.layout import ROOT_SLOTS, RootSlot
from pmemheap.testing import copy_as_crashed
from pmemheap.units import UNIT, KiB, MiB

KINDS = ["anonymous", "shared", "process", "power"]
REOPENED = [f"{kind}, {how}" for kind in ("process", "power") for how in ("reopened", "killed")]
SIZES = [100, 3000, UNIT, 40 * KiB, 2 * MiB]


def make(kind: str, path: Path) -> Heap:
    if kind == "anonymous":
        return Heap.anonymous(decay=None)
    if kind == "shared":
        return Heap.shared(decay=None)
    return Heap.create(path, durability=named(kind), decay=None)


def opened_anew(heap: Heap, how: str, path: Path) -> Heap:
    """Return the heap as another process finds it, after a close or a kill."""
    killed = path.with_name("killed")
    if how == "killed":
        copy_as_crashed(heap.name, killed)
    name = heap.name
    heap.close()
    return Heap.open(killed if how == "killed" else name, decay=None)


@pytest.fixture(params=[*KINDS, *REOPENED])
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """Yield a heap with a root "mine"; the second half was opened, and nothing is read yet."""
    kind, _, how = request.param.partition(", ")
    made = make(kind, tmp_path / "data.heap")
    made.roots["mine"] = made.malloc(64)
    if how:
        made = opened_anew(made, how, tmp_path / "data.heap")
    with made:
        yield made
        assert made.check(), made.check().findings


@pytest.fixture
def mine(heap: Heap) -> int:
    return heap.roots["mine"]


def state(heap: Heap) -> tuple[Any, ...]:
    return list(heap.blocks()), dict(heap.roots), heap.arenas()


# ---------------------------------------------------------------- what a root can name


def inside(heap: Heap) -> int:
    return heap.malloc(100) + 16


def inside_large(heap: Heap) -> int:
    return heap.malloc(3 * MiB) + UNIT


def freed(heap: Heap) -> int:
    offset = heap.malloc(100)
    heap.free(offset)
    return offset


NOWHERE: dict[str, Callable[[Heap], int]] = {
    "odd": lambda _: 77777,
    "beyond": lambda heap: heap._space.region.end_unit * UNIT,
    "far": lambda _: (1 << 63) - 16,
    "no arena": lambda _: 3 << 55,
    "inside": inside,
    "inside of a large one": inside_large,
    "freed": freed,
    "never used": lambda heap: heap.malloc(UNIT) + 40 * UNIT,
}

SETTERS: dict[str, Callable[[Heap, int], object]] = {
    "set": lambda heap, offset: heap.roots.__setitem__("new", offset),
    "replace": lambda heap, offset: heap.roots.__setitem__("mine", offset),
    "update": lambda heap, offset: heap.roots.update({"a": heap.roots["mine"], "new": offset}),
    "setdefault": lambda heap, offset: heap.roots.setdefault("new", offset),
}


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize("place", NOWHERE)
def test_a_root_names_nothing_but_a_live_block(heap: Heap, place: str, setter: str) -> None:
    offset = NOWHERE[place](heap)
    before = state(heap)
    with pytest.raises(UsageError, match=r"root '(new|mine)': offset of a live block expected"):
        SETTERS[setter](heap, offset)
    assert state(heap) == before
    heap.free(heap.malloc(64))


@pytest.mark.parametrize("place", NOWHERE)
def test_a_root_of_a_transaction_names_nothing_but_a_live_block(heap: Heap, place: str) -> None:
    offset = NOWHERE[place](heap)
    before = state(heap)
    with heap.transaction() as tx:
        with pytest.raises(UsageError, match="root 'new': offset of a live block expected"):
            tx.roots["new"] = offset
        with pytest.raises(UsageError, match="root 'new': offset of a live block expected"):
            tx.roots.update({"a": heap.roots["mine"], "new": offset})
        assert dict(tx.roots) == dict(heap.roots)
    assert state(heap) == before


def test_a_block_that_waits_for_its_view_cannot_be_named(heap: Heap) -> None:
    offset = heap.malloc(100)
    with heap.view(offset):
        heap.free(offset, deferred=True)
        with pytest.raises(UsageError, match="freed; it is kept until"):
            heap.roots["new"] = offset


def test_what_a_transaction_has_reserved_is_live_for_it_alone(heap: Heap) -> None:
    with heap.transaction() as tx:
        offset = tx.malloc(100)
        with pytest.raises(UsageError, match="belongs to an open transaction"):
            heap.roots["bare"] = offset
        seen = in_thread(lambda: open_and_name(heap, offset))
        assert isinstance(seen, UsageError)
        tx.roots["new"] = offset
    assert dict(heap.roots) == {"mine": heap.roots["mine"], "new": offset}
    with pytest.raises(UsageError, match="'new'"):
        heap.free(offset)


def open_and_name(heap: Heap, offset: int) -> None:
    with heap.transaction() as tx:
        tx.roots["theirs"] = offset


def in_thread(work: Callable[[], object]) -> object:
    """Run something in another thread; return what it returns, or the exception."""
    seen: list[object] = []

    def run() -> None:
        try:
            seen.append(work())
        except Exception as error:
            seen.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return seen[0]


def test_what_a_transaction_has_freed_is_not_live_for_it(heap: Heap) -> None:
    block = heap.malloc(100)
    with heap.transaction() as tx:
        tx.free(block)
        reserved = tx.malloc(100)
        tx.free(reserved)
        for offset in (block, reserved):
            with pytest.raises(UsageError, match="root 'new'"):
                tx.roots["new"] = offset
    assert "new" not in heap.roots


def test_a_root_names_a_block_of_an_arena(heap: Heap) -> None:
    offset = heap.arena("other").malloc(100)
    heap.roots["there"] = offset
    for call in (heap.free, heap.arena("other").free):
        with pytest.raises(UsageError, match="'there'"):
            call(offset)
    with pytest.raises(UsageError, match="'there'"):
        heap.arena("other").drop()
    assert heap.usable_size(offset)
    del heap.roots["there"]
    heap.arena("other").drop()


# ---------------------------------------------------------------- what keeps the block


def grow(heap: Heap, offset: int) -> None:
    heap.realloc(offset, 200 * KiB)


def free_many(heap: Heap, offset: int) -> None:
    heap.free_many([heap.malloc(64), offset])


def leave_handle(heap: Heap, offset: int) -> None:
    with heap.block(offset):
        pass


def free_in_transaction(heap: Heap, offset: int) -> None:
    with heap.transaction() as tx:
        tx.free(offset)


def free_after_moving_another_root(heap: Heap, offset: int) -> None:
    with heap.transaction() as tx:
        tx.roots["another"] = tx.malloc(100)
        tx.free(offset)


def move_in_transaction(heap: Heap, offset: int) -> None:
    with heap.transaction() as tx:
        tx.realloc(offset, 5000)


def free_then_name_in_transaction(heap: Heap, offset: int) -> None:
    with heap.transaction() as tx:
        tx.roots["again"] = offset
        tx.free(offset)
        del tx.roots["mine"]


WAYS: dict[str, Callable[[Heap, int], object]] = {
    "free": lambda heap, offset: heap.free(offset),
    "deferred": lambda heap, offset: heap.free(offset, deferred=True),
    "free_many": free_many,
    "handle": lambda heap, offset: heap.block(offset).free(),
    "handle left": leave_handle,
    "realloc": grow,
    "transaction": free_in_transaction,
    "transaction with another root": free_after_moving_another_root,
    "transaction realloc": move_in_transaction,
    "transaction with a new root": free_then_name_in_transaction,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_block_of_a_root_is_not_freed_without_it(heap: Heap, mine: int, way: str) -> None:
    heap.malloc(100)
    heap.view(mine, 3)[:] = b"abc"
    before = state(heap)
    with pytest.raises(UsageError, match=r"that names it expected, found 'mine'|^root 'again'"):
        WAYS[way](heap, mine)
    after = state(heap)
    assert after[1:] == before[1:]
    assert {at for at, _ in before[0]} <= {at for at, _ in after[0]}
    assert bytes(heap.view(mine, 3)) == b"abc"
    del heap.roots["mine"]
    heap.free(mine)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("deferred", [False, True])
def test_a_view_changes_nothing_in_that(heap: Heap, size: int, deferred: bool) -> None:
    offset = heap.roots["large"] = heap.malloc(size)
    with heap.view(offset), pytest.raises(UsageError, match="'large'"):
        heap.free(offset, deferred)
    del heap.roots["large"]
    with heap.view(offset):
        heap.free(offset, deferred=True)


@pytest.mark.parametrize("size", SIZES)
def test_a_block_of_a_root_is_resized_where_it_is(heap: Heap, size: int) -> None:
    offset = heap.roots["large"] = heap.malloc(size)
    usable = heap.usable_size(offset)
    assert heap.realloc(offset, usable) == offset
    assert heap.realloc(offset, 1) == offset
    assert heap.expand(offset, 1)
    with pytest.raises(UsageError, match="'large'"):
        heap.free(offset)


def test_a_block_stays_until_its_last_root_goes(heap: Heap, mine: int) -> None:
    heap.roots.update({f"more {number}": mine for number in range(20)})
    for name in list(heap.roots):
        with pytest.raises(UsageError, match="no root that names it"):
            heap.free(mine)
        del heap.roots[name]
    heap.free(mine)


def test_the_message_names_all_roots(heap: Heap, mine: int) -> None:
    heap.roots["other"] = mine
    with pytest.raises(UsageError, match="found 'mine', 'other'; remove the root first"):
        heap.free(mine)


def test_a_root_that_is_replaced_lets_its_block_go(heap: Heap, mine: int) -> None:
    heap.roots["mine"] = new = heap.malloc(64)
    heap.free(mine)
    with pytest.raises(UsageError, match="'mine'"):
        heap.free(new)
    heap.roots["mine"] = new
    with pytest.raises(UsageError, match="'mine'"):
        heap.free(new)


def test_blocks_beside_the_block_of_a_root_are_freed_as_ever(heap: Heap) -> None:
    batch = list(heap.malloc_many(64, 500))
    heap.free_many(batch[::2])
    for offset in batch[1::2]:
        heap.free(offset)
    assert len(list(heap.blocks())) == 1


# ---------------------------------------------------------------- together, in a transaction


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("frees_first", [False, True])
@pytest.mark.parametrize("drops", [False, True])
def test_a_block_is_freed_together_with_its_root(
    heap: Heap, mine: int, *, drops: bool, frees_first: bool, durable: bool
) -> None:
    with heap.transaction(durable=durable) as tx:
        if frees_first:
            tx.free(mine)
        if drops:
            del tx.roots["mine"]
        else:
            tx.roots["mine"] = tx.malloc(64)
        if not frees_first:
            tx.free(mine)
    heap.sync()
    assert mine not in dict(heap.blocks())
    if not drops:
        with pytest.raises(UsageError, match="'mine'"):
            heap.free(heap.roots["mine"])


def test_a_block_moves_together_with_its_root(heap: Heap, mine: int) -> None:
    heap.view(mine, 3)[:] = b"abc"
    with heap.transaction() as tx:
        tx.roots["mine"] = tx.realloc(mine, 5000)
    assert bytes(heap.view(heap.roots["mine"], 3)) == b"abc"
    assert mine not in dict(heap.blocks())


def test_roots_change_places(heap: Heap, mine: int) -> None:
    other = heap.roots["other"] = heap.malloc(64)
    with heap.transaction() as tx:
        tx.roots.update({"mine": other, "other": mine})
    for offset in (mine, other):
        with pytest.raises(UsageError):
            heap.free(offset)


def test_one_root_of_two_is_not_enough(heap: Heap, mine: int) -> None:
    heap.roots["other"] = mine
    before = state(heap)
    tx = heap.transaction()
    tx.free(mine)
    del tx.roots["mine"]
    with pytest.raises(UsageError, match="found 'other'"):
        tx.commit()
    assert state(heap) == before
    with heap.transaction() as tx:
        tx.free(mine)
        del tx.roots["mine"]
        del tx.roots["other"]
    assert not list(heap.blocks())


def test_a_savepoint_that_is_taken_back_leaves_root_and_block(heap: Heap, mine: int) -> None:
    with heap.transaction() as tx:
        inner = heap.transaction()
        inner.free(mine)
        inner.roots["mine"] = inner.malloc(64)
        inner.abort()
        tx.malloc(10)
    assert heap.roots["mine"] == mine
    with pytest.raises(UsageError, match="'mine'"):
        heap.free(mine)


def test_an_abort_leaves_root_and_block(heap: Heap, mine: int) -> None:
    before = state(heap)
    tx = heap.transaction()
    tx.free(mine)
    tx.roots["mine"] = new = tx.malloc(64)
    tx.abort()
    assert state(heap) == before
    with pytest.raises(UsageError, match="'mine'"):
        heap.free(mine)
    with pytest.raises(UsageError, match="live block"):
        heap.free(new)


# ---------------------------------------------------------------- the moment of the commit


def test_a_block_that_others_free_before_the_commit_is_not_named(heap: Heap) -> None:
    offset = heap.malloc(100)
    before = dict(heap.roots)
    tx = heap.transaction()
    tx.malloc(100)
    tx.roots["new"] = offset
    assert in_thread(lambda: heap.free(offset)) is None
    with pytest.raises(UsageError, match="root 'new': offset of a live block expected"):
        tx.commit()
    assert not tx.is_open
    assert dict(heap.roots) == before
    assert len(list(heap.blocks())) == 1


def test_a_block_that_others_name_before_the_commit_is_not_freed(heap: Heap) -> None:
    offset = heap.malloc(100)
    tx = heap.transaction()
    tx.free(offset)
    assert in_thread(lambda: heap.roots.__setitem__("theirs", offset)) is None
    with pytest.raises(UsageError, match="found 'theirs'"):
        tx.commit()
    assert heap.roots["theirs"] == offset
    assert heap.usable_size(offset)


@pytest.mark.parametrize("frees_first", [False, True])
def test_of_two_transactions_the_one_that_commits_first_wins(
    heap: Heap, *, frees_first: bool
) -> None:
    offset = heap.malloc(100)
    mine = heap.transaction()
    mine.free(offset)
    named, go = threading.Event(), threading.Event()

    def name_it() -> None:
        with heap.transaction() as tx:
            tx.roots["theirs"] = offset
            named.set()
            assert go.wait(30)

    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(name_it)
        assert named.wait(30)
        if frees_first:
            mine.commit()
        go.set()
        if frees_first:
            assert isinstance(theirs.exception(30), UsageError)
            return
        assert theirs.result(30) is None
    with pytest.raises(UsageError, match="found 'theirs'"):
        mine.commit()
    assert heap.roots["theirs"] == offset


def test_roots_may_change_while_somebody_goes_through_them(heap: Heap, mine: int) -> None:
    """As a call does that another thread interrupts, while it names the roots of a block."""
    slots = iter(heap._space.shared.root_slots)
    first = next(slots)
    heap.roots["another"] = mine
    assert [root.name for root in (first, *slots)] == ["mine"]


@pytest.mark.slow
def test_threads_that_name_and_free_leave_no_root_that_names_nothing(heap: Heap) -> None:
    stop = threading.Event()
    kept = [heap.malloc(64) for _ in range(8)]

    def churn(seed: int) -> None:
        name, count = f"root {seed}", 0
        while not stop.is_set() and count < 400:
            count += 1
            offset = kept[(seed + count) % len(kept)]
            try:
                if count % 3:
                    with heap.transaction(durable=False) as tx:
                        new = kept[(seed + count) % len(kept)] = tx.malloc(64)
                        tx.roots[name] = new
                        if count % 2:
                            tx.free(offset)
                else:
                    heap.roots[name] = offset
                    heap.free(offset)
            except (UsageError, BufferError):
                pass

    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    live = dict(heap.blocks())
    assert all(offset in live for offset in heap.roots.values())
    for offset in set(heap.roots.values()):
        with pytest.raises(UsageError, match="no root that names it"):
            heap.free(offset)
    heap.roots.clear()
    for offset in live:
        heap.free(offset)


# ---------------------------------------------------------------- all or nothing


def test_an_update_sets_all_roots_or_none(heap: Heap, mine: int) -> None:
    before = dict(heap.roots)
    for bad in ({"x" * 50: mine}, {"b": 77777}, {"b": "text"}, {1: mine}):
        with pytest.raises((UsageError, TypeError)):
            heap.roots.update({"a": mine, **bad})
        with heap.transaction() as tx:
            with pytest.raises((UsageError, TypeError)):
                tx.roots.update({"a": mine, **bad})
            assert dict(tx.roots) == before
        assert dict(heap.roots) == before
    heap.roots.update([("a", mine)], b=mine)
    heap.roots.update()
    assert dict(heap.roots) == {"mine": mine, "a": mine, "b": mine}
    heap.roots.clear()
    assert not heap.roots
    heap.free(mine)


def test_a_table_that_is_full_takes_none_of_an_update(heap: Heap, mine: int) -> None:
    heap.roots.update({f"{number}": mine for number in range(ROOT_SLOTS - 2)})
    before, other = dict(heap.roots), heap.malloc(64)
    with pytest.raises(OutOfSpaceError):
        heap.roots.update({"one": other, "two": other})
    assert dict(heap.roots) == before
    heap.free(other)
    heap.roots.clear()
    assert not heap.roots


@pytest.mark.parametrize("kind", ["process", "power"])
def test_a_refused_change_of_roots_leaves_the_blocks_as_free_as_they_were(
    tmp_path: Path, kind: str
) -> None:
    """The record of the change finds no room, and the log cannot move."""
    with make(kind, tmp_path / "heap") as heap:
        old = heap.roots["old"] = heap.malloc(64)
        new = heap.malloc(64)
        for number in range(1, 40):
            with native.faults(number, errno.ENOSPC) as fault:
                try:
                    heap.roots["old"] = new
                except PmemHeapError:
                    pass
                else:
                    heap.roots["old"] = old
            if fault.hit == native.Call.NONE:
                break
            if heap._space.core.state:
                break  # a sync was refused: it is read-only
            assert heap.roots["old"] == old
            heap.free(new)
            new = heap.malloc(64)
            with pytest.raises(UsageError, match="'old'"):
                heap.free(old)


# ---------------------------------------------------------------- what files may hold


@pytest.mark.parametrize("kind", ["process", "power"])
def test_a_file_with_a_root_that_names_nothing_opens(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "heap"
    with make(kind, path) as heap:
        inside = heap.malloc(100) + 16
        slots = {"lost": 77777, "inside": inside, "far": 5 << 55}
        heap._space.serve(
            heap.roots.store.change_roots,
            {name: RootSlot(name, offset) for name, offset in slots.items()},
            set(),
        )
    with Heap.open(path) as heap:
        assert dict(heap.roots) == slots
        findings = heap.check().findings
        assert {name for name in slots if any(repr(name) in each for each in findings)} == {*slots}
        heap.roots["lost"] = heap.malloc(100)
        heap.free(inside - 16)
        heap.roots.update({"inside": heap.malloc(100), "far": heap.malloc(100)})
        assert heap.check()


def test_a_reader_reads_roots_and_sets_none(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with make("process", path) as heap:
        mine = heap.roots["mine"] = heap.malloc(64)
    with Heap.open(path, readonly=True) as heap:
        assert heap.roots["mine"] == mine
        with pytest.raises(UsageError, match="read-only"):
            heap.roots["mine"] = mine


def test_a_thousand_roots_are_marked_when_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with make("power", path) as heap:
        offsets = heap.malloc_many(64, ROOT_SLOTS)
        heap.roots.update({f"{number}": offset for number, offset in enumerate(offsets)})
    with Heap.open(path) as heap:
        assert heap._space.core.usage()[0]["blocks_with_refs"] == 0
        with pytest.raises(UsageError, match="'1023'"):
            heap.free(offsets[-1])
        assert heap._space.core.usage()[0]["blocks_with_refs"] == ROOT_SLOTS
        heap.roots.clear()
        assert heap._space.core.usage()[0]["blocks_with_refs"] == 0
        heap.free_many(offsets)
