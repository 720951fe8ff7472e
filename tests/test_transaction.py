"""Transactions by example: what each call does at once, at commit, at abort and after reopening."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from heap_world import contents, named

from pmemheap import Heap
from pmemheap.errors import UsageError
from pmemheap.heap.transaction import Transaction
from pmemheap.testing import copy_as_crashed
from pmemheap.units import UNIT, KiB, MiB

KINDS = ["anonymous", "shared", "process", "power"]
SIZES = [16, 100, 3000, UNIT, 40 * KiB, 2 * MiB]


def make(kind: str, path: Path) -> Heap:
    if kind == "anonymous":
        return Heap.anonymous(decay=None)
    if kind == "shared":
        return Heap.shared(decay=None)
    return Heap.create(path, durability=named(kind), decay=None)


def state(heap: Heap) -> tuple[dict[int, bytes], dict[str, int]]:
    """Return what is committed: blocks with their bytes, and roots."""
    return contents(heap), dict(heap.roots)


def copy_of(heap: Heap, path: Path) -> Heap:
    """Open what the file of a heap holds now: what a process that is killed leaves behind."""
    copy_as_crashed(heap.name, path)
    return Heap.open(path, decay=None)


@pytest.fixture(params=KINDS)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    """Yield a heap; afterwards it is sound, and a file holds the same when it is opened again."""
    path = tmp_path / "data.heap"
    heap = make(request.param, path)
    yield heap
    assert heap.check(), heap.check().findings
    expected = state(heap)
    if path.exists():
        with copy_of(heap, tmp_path / "killed.heap") as copy:
            assert copy.check(), copy.check().findings
            assert state(copy) == expected
    heap.close()
    if path.exists():
        with Heap.open(path, decay=None) as again:
            assert again.check(), again.check().findings
            assert state(again) == expected


@pytest.fixture
def block(heap: Heap) -> int:
    """A committed block of 100 bytes of the letter o."""
    return filled(heap, 100, b"o")


def filled(heap: Heap, size: int, byte: bytes) -> int:
    with heap.transaction() as tx:
        offset = tx.malloc(size)
        tx.write(offset, byte * heap_size(heap, size))
    return offset


def heap_size(heap: Heap, size: int) -> int:
    """Bytes that a block of `size` has."""
    offset = heap.malloc(size)
    usable = heap.usable_size(offset)
    heap.free(offset)
    return usable


def spoil(tx: Transaction) -> None:
    """Leave a transaction by an exception."""
    del tx
    raise KeyError("on purpose")


ENDS: list[Callable[[Transaction], None]] = [Transaction.abort, spoil]


# ---------------------------------------------------------------- alloc, malloc, malloc_many


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_block_is_allocated_when_the_transaction_commits(
    heap: Heap, size: int, durable: bool
) -> None:
    with heap.transaction(durable=durable) as tx:
        offset = tx.malloc(size)
        assert offset not in dict(heap.blocks())
        with heap.view(offset, size) as view:
            view[:] = bytes([7]) * size
    assert heap.view(offset, size) == bytes([7]) * size
    assert offset in dict(heap.blocks())


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_block_of_a_transaction_that_does_not_commit_was_never_there(
    heap: Heap, size: int, end: Callable[[Transaction], None]
) -> None:
    before = state(heap)
    offset = leave(heap, lambda tx: tx.malloc(size), end)
    assert state(heap) == before
    with pytest.raises(UsageError):
        heap.free(offset)


def leave(
    heap: Heap, work: Callable[[Transaction], int | None], end: Callable[[Transaction], None]
) -> int:
    """Do something in a transaction that ends in a way of its own; return what came of it."""
    result = -1
    try:
        with heap.transaction() as tx:
            result = work(tx) or 0
            end(tx)
    except KeyError:
        pass
    return result


def test_malloc_many_in_a_transaction(heap: Heap) -> None:
    with heap.transaction() as tx:
        offsets = tx.malloc_many(48, 500)
    assert len(set(offsets)) == 500
    assert set(offsets) <= set(dict(heap.blocks()))
    leave(heap, lambda tx: len(tx.malloc_many(48, 500)), Transaction.abort)
    assert len(dict(heap.blocks())) == 500


@pytest.mark.parametrize("align", [16, 64, 4096, 1 << 16])
@pytest.mark.parametrize("size", [16, 100, 5000, 300 * KiB])
def test_alignment_holds(heap: Heap, size: int, align: int) -> None:
    with heap.transaction() as tx:
        offsets = [tx.malloc(size, align), tx.alloc(size, align).offset]
    assert [offset % align for offset in offsets] == [0, 0]


def test_a_handle_of_a_transaction_is_stale_after_its_abort(heap: Heap) -> None:
    tx = heap.transaction()
    aborted = tx.alloc(100)
    aborted.view[:5] = b"hello"
    tx.abort()
    assert not aborted.is_live
    with heap.transaction() as tx:
        kept = tx.alloc(100)
        kept.view[:5] = b"hello"
    assert kept.is_live
    assert bytes(kept.view[:5]) == b"hello"


def test_views_held_across_the_commit_stay_good(heap: Heap) -> None:
    with heap.transaction() as tx:
        block = tx.alloc(100)
        view = block.view
        view[:] = b"x" * 100
    assert view == b"x" * 100
    assert heap.view(block.offset, 100) == b"x" * 100


@pytest.mark.parametrize("size", [100, 5 * MiB])
def test_a_view_held_across_the_abort_keeps_its_memory(heap: Heap, size: int) -> None:
    tx = heap.transaction()
    offset = tx.malloc(size)
    view = heap.view(offset, size)
    view[:3] = b"abc"
    tx.abort()
    others = [heap.malloc(size) for _ in range(20)]
    assert offset not in others
    assert bytes(view[:3]) == b"abc"
    view.release()


def test_what_one_transaction_has_reserved_no_other_call_gets(heap: Heap) -> None:
    with heap.transaction() as tx:
        mine = {tx.malloc(64) for _ in range(200)}
        others = {heap.malloc(64) for _ in range(200)}
        assert not mine & others
    for offset in others:
        heap.free(offset)
    assert set(dict(heap.blocks())) == mine


@pytest.mark.parametrize("durable", [False, True])
def test_much_new_data_is_there_after_the_commit(heap: Heap, durable: bool) -> None:
    content = {}
    with heap.transaction(durable=durable) as tx:
        for byte in range(20):
            offset = tx.malloc(200 * KiB)
            content[offset] = bytes([byte]) * (200 * KiB)
            tx.write(offset, content[offset])
    assert contents(heap) == content


# ---------------------------------------------------------------- free


@pytest.mark.parametrize("size", SIZES)
def test_a_free_happens_when_the_transaction_commits(heap: Heap, size: int) -> None:
    offset = filled(heap, size, b"f")
    with heap.transaction() as tx:
        tx.free(offset)
        assert bytes(heap.view(offset)[:1]) == b"f"
    assert offset not in dict(heap.blocks())


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_free_in_a_transaction_that_does_not_commit_frees_nothing(
    heap: Heap, size: int, end: Callable[[Transaction], None]
) -> None:
    offset = filled(heap, size, b"f")
    before = state(heap)
    leave(heap, lambda tx: tx.free(offset), end)
    assert state(heap) == before
    heap.free(offset)


def test_a_handle_can_be_freed(heap: Heap) -> None:
    handle = heap.alloc(100)
    with heap.transaction() as tx:
        tx.free(handle)
    assert not handle.is_live


def test_a_block_of_the_transaction_can_be_freed_in_it(heap: Heap) -> None:
    with heap.transaction() as tx:
        offsets = [tx.malloc(size) for size in SIZES]
        for offset in offsets:
            tx.free(offset)
            with pytest.raises(UsageError):
                tx.free(offset)
    assert not dict(heap.blocks())


def test_a_block_with_a_view_is_not_freed(heap: Heap, block: int) -> None:
    view = heap.view(block)
    with heap.transaction() as tx, pytest.raises(BufferError):
        tx.free(block)
    assert block in dict(heap.blocks())
    view.release()


def test_a_view_that_is_taken_after_the_free_keeps_its_bytes(heap: Heap, block: int) -> None:
    with heap.transaction() as tx:
        tx.free(block)
        view = heap.view(block)
    others = [heap.malloc(100) for _ in range(100)]
    assert block not in others
    assert view == b"o" * len(view)
    view.release()


@pytest.mark.parametrize("use", ["free", "write", "snapshot"])
def test_what_a_transaction_uses_nobody_else_frees(heap: Heap, block: int, use: str) -> None:
    uses: dict[str, Callable[[Transaction], None]] = {
        "free": lambda tx: tx.free(block),
        "write": lambda tx: tx.write(block, b"new"),
        "snapshot": lambda tx: tx.snapshot(block, 3),
    }
    with heap.transaction() as tx:
        uses[use](tx)
        for refused in (
            lambda: heap.free(block),
            lambda: heap.free_many([block]),
            lambda: heap.realloc(block, 1 * MiB),
        ):
            with pytest.raises(BufferError):
                refused()
    assert heap.check()


# ---------------------------------------------------------------- realloc


@pytest.mark.parametrize("to", SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_realloc_keeps_the_contents(heap: Heap, size: int, to: int) -> None:
    offset = filled(heap, size, b"r")
    with heap.transaction() as tx:
        moved = tx.realloc(offset, to)
    assert list(dict(heap.blocks())) == [moved]
    assert heap.usable_size(moved) >= to
    common = min(size, to)
    assert heap.view(moved, common) == b"r" * common


@pytest.mark.parametrize("end", ENDS)
def test_an_aborted_realloc_leaves_the_block(
    heap: Heap, block: int, end: Callable[[Transaction], None]
) -> None:
    before = state(heap)
    leave(heap, lambda tx: tx.realloc(block, 1 * MiB), end)
    assert state(heap) == before


def test_realloc_of_a_block_of_the_transaction(heap: Heap) -> None:
    with heap.transaction() as tx:
        offset = tx.malloc(100)
        tx.write(offset, b"mine")
        offset = tx.realloc(offset, 10 * KiB)
    assert list(dict(heap.blocks())) == [offset]
    assert bytes(heap.view(offset, 4)) == b"mine"


def test_realloc_takes_what_was_written_along(heap: Heap, block: int) -> None:
    with heap.transaction() as tx:
        tx.write(block, b"new")
        moved = tx.realloc(block, 10 * KiB)
    assert bytes(heap.view(moved, 5)) == b"newoo"


# ---------------------------------------------------------------- write


@pytest.mark.parametrize("size", SIZES)
def test_a_write_is_stored_when_the_transaction_commits(heap: Heap, size: int) -> None:
    offset = filled(heap, size, b"o")
    view = heap.view(offset, size)
    with heap.transaction() as tx:
        tx.write(offset, b"new")
        tx.write(offset + size - 3, b"end")
        assert view == b"o" * size
    assert view == b"new" + b"o" * (size - 6) + b"end"


def test_later_writes_win(heap: Heap, block: int) -> None:
    with heap.transaction() as tx:
        tx.write(block, b"aaaaaaaa")
        tx.write(block + 2, b"bbbb")
        tx.write(block + 3, b"c")
    assert bytes(heap.view(block, 9)) == b"aabcbbaao"


@pytest.mark.parametrize("end", ENDS)
def test_an_aborted_write_stores_nothing(
    heap: Heap, block: int, end: Callable[[Transaction], None]
) -> None:
    before = state(heap)
    leave(heap, lambda tx: tx.write(block, b"new"), end)
    assert state(heap) == before


def test_the_data_of_a_write_is_copied(heap: Heap, block: int) -> None:
    data = bytearray(b"before")
    with heap.transaction() as tx:
        tx.write(block, data)
        data[:] = b"behind"
    assert bytes(heap.view(block, 6)) == b"before"


def test_a_write_and_a_free_of_the_same_block(heap: Heap, block: int) -> None:
    with heap.transaction() as tx:
        tx.write(block, b"new")
        tx.free(block)
        with pytest.raises(UsageError):
            tx.write(block, b"newer")
        with pytest.raises(UsageError):
            tx.snapshot(block, 1)
    assert not dict(heap.blocks())


# ---------------------------------------------------------------- snapshot


@pytest.mark.parametrize("size", SIZES)
def test_after_a_snapshot_bytes_change_in_place(heap: Heap, size: int) -> None:
    offset = filled(heap, size, b"o")
    view = heap.view(offset, size)
    with heap.transaction() as tx:
        tx.snapshot(offset + 1, size - 2)
        view[1:-1] = b"n" * (size - 2)
        assert view == b"o" + b"n" * (size - 2) + b"o"
    assert view == b"o" + b"n" * (size - 2) + b"o"


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", SIZES)
def test_an_abort_puts_the_snapshot_back(
    heap: Heap, size: int, end: Callable[[Transaction], None]
) -> None:
    offset = filled(heap, size, b"o")
    before = state(heap)

    def change(tx: Transaction) -> int:
        tx.snapshot(offset, size)
        heap.view(offset, size)[:] = b"n" * size
        tx.snapshot(offset, size)  # nothing new: the old bytes are kept already
        return 0

    leave(heap, change, end)
    assert state(heap) == before


def test_snapshots_that_overlap(heap: Heap, block: int) -> None:
    view = heap.view(block, 100)
    tx = heap.transaction()
    for start, length in [(10, 20), (25, 30), (0, 100), (50, 1)]:
        tx.snapshot(block + start, length)
        view[start : start + length] = b"n" * length
    tx.abort()
    assert view == b"o" * 100


def test_a_write_over_a_snapshot_wins(heap: Heap, block: int) -> None:
    with heap.transaction() as tx:
        tx.snapshot(block, 6)
        heap.view(block, 6)[:] = b"nnnnnn"
        tx.write(block + 2, b"ww")
    assert bytes(heap.view(block, 7)) == b"nnwwnno"


def test_a_snapshot_and_a_free_of_the_same_block(heap: Heap, block: int) -> None:
    tx = heap.transaction()
    tx.snapshot(block, 5)
    heap.view(block, 5)[:] = b"nnnnn"
    tx.free(block)
    tx.abort()
    assert bytes(heap.view(block, 6)) == b"oooooo"


def test_a_snapshot_of_nothing(heap: Heap, block: int) -> None:
    with heap.transaction() as tx:
        tx.snapshot(block, 0)
        tx.write(block, b"")


@pytest.mark.parametrize("size", [1, 16, 1024, 4096, 5000, 300_000])
def test_nothing_is_written_at_the_end_of_a_block(heap: Heap, size: int) -> None:
    """Whatever lies behind it: another block, free space, the end of the heap."""
    blocks = [heap.malloc(size) for _ in range(3)]
    heap.free(blocks.pop(1))
    with heap.transaction() as tx:
        blocks.append(tx.malloc(size))
        for offset in blocks:
            end = offset + heap.usable_size(offset)
            for inside in (offset, end - 1, end):
                tx.write(inside, b"")
                tx.snapshot(inside, 0)
        with pytest.raises(UsageError):
            tx.write(max(blocks) + heap.usable_size(max(blocks)), b"1")
        with pytest.raises(UsageError):
            tx.write(1 << 50, b"")
    assert heap.check()


@pytest.mark.parametrize("size", [16, 4096, 300_000])
def test_who_has_the_block_behind_does_not_matter_there(heap: Heap, size: int) -> None:
    block, behind = heap.malloc(size), heap.malloc(size)
    end = block + heap.usable_size(block)
    assert end == behind

    def write_nothing() -> None:
        with heap.transaction() as tx:
            tx.write(end, b"")
            tx.snapshot(end, 0)
        done.append(end)

    def beside(change: Callable[[Transaction], object]) -> None:
        with heap.transaction() as tx:
            change(tx)
            thread = threading.Thread(target=write_nothing)
            thread.start()
            thread.join()

    done: list[int] = []
    with heap.transaction() as tx:
        tx.free(behind)
        write_nothing()
        tx.abort()
    beside(lambda tx: tx.free(behind))
    beside(lambda tx: [tx.malloc(size) for _ in range(3)])
    assert len(done) == 3


# ---------------------------------------------------------------- roots


def test_roots_of_a_transaction(heap: Heap, block: int) -> None:
    heap.roots["old"] = block
    with heap.transaction() as tx:
        tx.roots["new"] = block
        del tx.roots["old"]
        assert dict(tx.roots) == {"new": block}
        assert dict(heap.roots) == {"old": block}
        with pytest.raises(KeyError):
            del tx.roots["old"]
    assert dict(heap.roots) == {"new": block}


@pytest.mark.parametrize("end", ENDS)
def test_aborted_roots(heap: Heap, block: int, end: Callable[[Transaction], None]) -> None:
    heap.roots["old"] = block

    def change(tx: Transaction) -> int:
        tx.roots["new"] = block
        del tx.roots["old"]
        return 0

    leave(heap, change, end)
    assert dict(heap.roots) == {"old": block}


def test_a_new_root_leaves_one_that_is_changed(heap: Heap, block: int) -> None:
    """The slot of the changed one is not free."""
    heap.roots["first"] = block
    with heap.transaction() as tx:
        other = tx.malloc(16)
        tx.roots["first"] = other
        tx.roots["second"] = block
    assert dict(heap.roots) == {"first": other, "second": block}
    with heap.transaction() as tx:
        del tx.roots["first"]
        tx.roots["third"] = other
        tx.roots["fourth"] = other
        tx.roots["second"] = other
    assert dict(heap.roots) == {"second": other, "third": other, "fourth": other}


def test_bytes_written_after_a_savepoint_are_newer_than_those_in_it(heap: Heap) -> None:
    with heap.transaction() as tx:
        new = tx.malloc(16)
        tx.write(new, b"first")
        with heap.transaction() as inner:
            inner.write(new, b"older")
            with heap.transaction() as innermost:
                innermost.write(new, b"oldest, and on")
        assert bytes(heap.view(new, 16)) == b"oldest, and on\0\0"
        tx.write(new, b"newer")
    assert bytes(heap.view(new, 16)) == b"newert, and on\0\0"


def test_a_root_and_its_block_come_together(heap: Heap) -> None:
    with heap.transaction() as tx:
        block = tx.alloc(100)
        block.view[:5] = b"hello"
        tx.roots["greeting"] = block.offset
    assert bytes(heap.view(heap.roots["greeting"], 5)) == b"hello"


# ---------------------------------------------------------------- savepoints


@pytest.mark.parametrize("kept", range(4))
def test_savepoints_are_taken_back_from_the_inside(heap: Heap, block: int, kept: int) -> None:
    """Of three levels the outer `kept` are kept, of every kind of change."""
    outer, dead = filled(heap, 64, b"f"), [filled(heap, 64, b"d") for _ in range(4)]
    view, base = heap.view(block, 100), state(heap)[0]
    points, fresh = [heap.transaction()], []
    for level in range(4):
        if level:
            points.append(heap.transaction())
        tx = points[-1]
        mine = tx.malloc(100)
        heap.view(mine, 100)[:] = bytes([level]) * 100
        fresh.append(mine)
        if level:
            tx.write(fresh[level - 1], b"by %d" % level)
        tx.write(outer, b"%d" % level)
        tx.snapshot(block + 10 * level, 10)
        view[10 * level : 10 * level + 10] = b"%d" % level * 10
        tx.free(dead[level])
        tx.roots["level"] = mine
        tx.roots[f"only {level}"] = mine
    for level in range(3, kept, -1):
        points[level].abort()
        assert dict(points[0].roots)["level"] == fresh[level - 1]
    for point in reversed(points[: kept + 1]):
        point.commit()

    assert heap.view(outer, 2) == b"%df" % kept
    assert view[: 10 * kept + 10] == b"".join(b"%d" % level * 10 for level in range(kept + 1))
    assert view[10 * kept + 10 :] == b"o" * (90 - 10 * kept)
    live = dict(heap.blocks())
    assert set(live) == set(base) - set(dead[: kept + 1]) | set(fresh[: kept + 1])
    for level in range(kept):
        assert heap.view(fresh[level], 4) == b"by %d" % (level + 1)
    assert heap.view(fresh[kept], 100) == bytes([kept]) * 100
    assert dict(heap.roots) == {
        "level": fresh[kept],
        **{f"only {level}": fresh[level] for level in range(kept + 1)},
    }


def test_a_savepoint_frees_a_block_of_the_outer_level(heap: Heap) -> None:
    with heap.transaction() as tx:
        mine = tx.malloc(100)
        tx.write(mine, b"mine")
        with suppress(KeyError), heap.transaction() as inner:
            inner.free(mine)
            with pytest.raises(UsageError):
                inner.write(mine, b"gone")
            spoil(inner)
        tx.write(mine + 4, b" again")
    assert bytes(heap.view(mine, 10)) == b"mine again"


def test_a_block_of_the_outer_level_freed_in_a_kept_savepoint(heap: Heap) -> None:
    with heap.transaction() as tx:
        mine = tx.malloc(100)
        with heap.transaction() as inner:
            inner.free(mine)
    assert not dict(heap.blocks())


def test_a_rollback_puts_back_what_the_outer_level_had_changed_in_place(
    heap: Heap, block: int
) -> None:
    view = heap.view(block, 100)
    with heap.transaction() as tx:
        tx.snapshot(block, 20)
        view[:20] = b"1" * 20
        inner = heap.transaction()
        inner.snapshot(block + 10, 20)
        view[10:30] = b"2" * 20
        inner.abort()
        assert view[:30] == b"1" * 20 + b"o" * 10
        inner = heap.transaction()
        inner.snapshot(block + 10, 20)
        view[10:30] = b"3" * 20
        inner.commit()
    assert view[:31] == b"1" * 10 + b"3" * 20 + b"o"


def test_a_rolled_back_snapshot_can_be_made_again(heap: Heap, block: int) -> None:
    view = heap.view(block, 100)
    tx = heap.transaction()
    inner = heap.transaction()
    inner.snapshot(block, 10)
    view[:10] = b"1" * 10
    inner.abort()
    tx.snapshot(block, 20)
    view[:20] = b"2" * 20
    tx.abort()
    assert view == b"o" * 100


def test_a_snapshot_of_a_block_of_the_outer_level_is_taken_back(heap: Heap) -> None:
    with heap.transaction() as tx:
        mine = tx.malloc(100)
        view = heap.view(mine, 100)
        view[:] = b"m" * 100
        inner = heap.transaction()
        inner.snapshot(mine, 50)
        view[:50] = b"n" * 50
        inner.abort()
    assert view == b"m" * 100


def test_the_outer_transaction_aborts_what_savepoints_kept(heap: Heap, block: int) -> None:
    before = state(heap)
    tx = heap.transaction()
    with heap.transaction() as inner:
        inner.roots["kept"] = inner.malloc(100)
        inner.write(block, b"new")
        inner.snapshot(block, 10)
        heap.view(block, 10)[:] = b"n" * 10
    tx.abort()
    assert state(heap) == before


def test_exceptions_pass_through_savepoints(heap: Heap, block: int) -> None:
    before = state(heap)
    with suppress(KeyError), heap.transaction(), heap.transaction(), heap.transaction() as tx:
        tx.write(block, b"new")
        tx.malloc(100)
        spoil(tx)
    assert state(heap) == before
    heap.transaction().commit()


# ---------------------------------------------------------------- arenas


@pytest.mark.parametrize("end", [Transaction.commit, *ENDS])
def test_a_transaction_over_several_arenas(
    heap: Heap, block: int, end: Callable[[Transaction], None]
) -> None:
    arenas = [heap.arena(name) for name in ("one", "two")]
    blocks = [arena.malloc(100) for arena in arenas]
    for each in blocks:
        with heap.transaction() as tx:
            tx.write(each, b"a" * 100)
    views = [heap.view(each, 4) for each in (block, *blocks)]
    before = state(heap)

    def change(tx: Transaction) -> int:
        for each in (block, *blocks):
            tx.write(each, b"new")
            tx.snapshot(each + 3, 1)
        for view in views:
            view[3:] = b"s"
        return 0

    leave(heap, change, end)
    if end is Transaction.commit:
        assert [bytes(view) for view in views] == [b"news"] * 3
    else:
        assert state(heap) == before


@pytest.mark.parametrize("size", SIZES)
def test_blocks_of_an_arena(heap: Heap, size: int) -> None:
    arena = heap.arena("one")
    with heap.transaction() as tx:
        mine = tx.malloc(size, arena=arena)
        handle = tx.alloc(size, arena=arena)
        tx.write(mine, b"mine")
        handle.view[:4] = b"mine"
        tx.roots["mine"] = mine
    assert {mine, handle.offset} == set(dict(arena.blocks()))
    assert bytes(heap.view(mine, 4)) == bytes(heap.view(handle.offset, 4)) == b"mine"
    with heap.transaction() as tx:
        tx.free(mine)
        tx.free(handle)
        del tx.roots["mine"]
        tx.malloc(size, arena=arena)
        tx.abort()
    assert len(dict(arena.blocks())) == 2


# ---------------------------------------------------------------- end


def test_an_empty_transaction_writes_nothing(heap: Heap) -> None:
    before = heap._space.shared.log.positions()
    for _ in range(3):
        with heap.transaction():
            pass
    assert heap._space.shared.log.positions() == before


def test_a_transaction_says_what_it_is(heap: Heap) -> None:
    tx = heap.transaction(durable=False)
    assert tx.is_open
    assert not tx.durable
    assert tx.heap is heap
    assert "open" in repr(tx)
    tx.commit()
    assert not tx.is_open
    assert "it was committed" in repr(tx)


def test_the_space_of_transactions_comes_back(heap: Heap) -> None:
    """Neither commits nor aborts nor savepoints leak."""

    def turn() -> None:
        with heap.transaction() as tx:
            offsets = [tx.malloc(size) for size in SIZES]
            with suppress(KeyError), heap.transaction() as inner:
                inner.free(offsets[0])
                inner.malloc(3 * MiB)
                spoil(inner)
        with heap.transaction() as tx:
            for offset in offsets:
                tx.free(offset)

    for _ in range(4):
        turn()
    mapped = heap.stats().mapped
    for _ in range(10):
        turn()
    assert heap.stats().mapped == mapped


def test_realloc_stays_in_the_arena_of_the_block(heap: Heap) -> None:
    arena = heap.arena("one")
    offset = arena.malloc(100)
    with heap.transaction() as tx:
        tx.write(offset, b"mine")
        moved = tx.realloc(offset, 10 * KiB)
    assert list(dict(arena.blocks())) == [moved]
    assert bytes(heap.view(moved, 4)) == b"mine"


def test_an_arena_of_another_heap_is_refused(heap: Heap) -> None:
    with Heap.anonymous() as other, heap.transaction() as tx:
        with pytest.raises(UsageError, match="an arena of its heap expected"):
            tx.malloc(100, arena=other)
        with pytest.raises(TypeError):
            tx.malloc(100, place=3)  # type: ignore[call-arg]
