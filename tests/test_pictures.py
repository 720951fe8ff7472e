"""The model of what is where in a heap: against independent counts, and by example."""

from __future__ import annotations

from pathlib import Path

import pytest

import pmemheap
from pmemheap import Heap
from pmemheap.pictures.backing import without_backing
from pmemheap.pictures.model import SCRATCH, ArenaMap, read_arena, read_arenas
from pmemheap.pictures.pieces import AGELESS, Kind, Piece

UNIT = 4096


def require_whole(maps: list[ArenaMap], heap: Heap) -> None:
    """What the pieces add up to is what the heap itself counts, and each unit is in one."""
    for each in maps:
        reached = each.first_unit
        for piece in each.pieces:
            assert piece.start == reached
            assert sum(piece.units) == piece.nunits > 0
            assert piece.bare <= piece.free
            assert piece.live <= piece.room
            reached = piece.stop
        assert reached == each.end_unit
    kept, stats = [each for each in maps if each.name != SCRATCH], heap.stats()
    live = list(heap.blocks())
    assert sum(each.total("live") for each in kept) == stats.blocks == len(live)
    assert sum(each.total("allocated") for each in kept) == stats.allocated
    assert stats.allocated == sum(size for _, size in live)
    assert sum(each.free_units for each in kept) * UNIT == stats.free
    waste = sum(each.total("allocated") - each.total("asked") for each in kept)
    assert waste <= stats.internal_waste + 1


def test_a_piece_is_a_run_a_large_block_or_a_free_range() -> None:
    with Heap.anonymous() as heap:
        heap.malloc(100)
        large = heap.malloc(100_000)
        gone = heap.malloc(400_000)
        heap.malloc(400_000)
        heap.free(gone)
        found = read_arena(heap)
        by_start = {piece.start: piece for piece in found.pieces}
        run = found.pieces[0]
        assert (run.kind, run.size, run.live, run.room) == (Kind.RUN, 112, 1, 36)
        block = by_start[large // UNIT]
        assert (block.kind, block.live, block.asked) == (Kind.LARGE, 1, 100_000)
        assert block.allocated == 25 * UNIT
        free = by_start[gone // UNIT]
        assert (free.kind, free.nunits, free.young, free.bare) == (Kind.FREE, 98, 0, 0)
        assert found.pieces[-1].kind == Kind.UNUSED
        require_whole([found], heap)


def test_free_units_are_told_apart_by_when_they_became_free_and_what_is_behind_them() -> None:
    with Heap.anonymous(decay=None) as heap:
        offsets = [heap.malloc(1 << 20) for _ in range(4)]
        heap.malloc(1)
        heap.free(offsets[1])
        heap.trim()
        heap.free(offsets[2])
        by_start = {piece.start: piece for piece in read_arena(heap).pieces}
        given, freed = (by_start[offset // UNIT] for offset in offsets[1:3])
        assert (given.nunits, given.bare, given.young) == (256, 256, AGELESS)
        assert (freed.nunits, freed.bare, freed.young) == (256, 0, 0)


def test_holes_of_a_file_are_units_with_nothing_behind_them(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "a.heap", durability="process") as heap:
        offsets = [heap.malloc(1 << 20) for _ in range(4)]
        for offset in offsets:
            heap.view(offset)[:] = b"x" * (1 << 20)
        heap.malloc(1)
        heap.free(offsets[1])
        before = {piece.start: piece for piece in read_arena(heap).pieces}
        assert before[offsets[1] // UNIT].bare == 0
        heap.trim()
        after = {piece.start: piece for piece in read_arena(heap).pieces}
        found = after[offsets[1] // UNIT]
        assert (found.nunits, found.bare) == (256, 256)


def test_gaps_are_counted_up_to_the_free_units_of_a_piece() -> None:
    pieces = [Piece.whole(0, 4, Kind.FREE), Piece.whole(4, 4, Kind.LARGE)]
    cell = Piece.whole(8, 8, Kind.RUN)._replace(run=5, free=3)
    rest = Piece.whole(16, 4, Kind.FREE)
    told = without_backing([*pieces, cell, rest], [(1, 3), (6, 14), (15, 17), (19, 40)])
    assert [piece.bare for piece in told] == [2, 0, 3, 2]


def test_every_arena_and_its_strategy_and_regions_are_in_it() -> None:
    with Heap.anonymous() as heap:
        rows = heap.arena("rows", strategy=pmemheap.Rows(48))
        queue = heap.arena("queue", strategy=pmemheap.Ring())
        for _ in range(500):
            rows.malloc(48)
            queue.malloc(300)
        for _ in range(2):
            region = heap.region()
            region.malloc(5000)
        with heap.scratch() as scratch:
            scratch.malloc(1000)
            maps = read_arenas(heap)
            told = {each.name: (each.strategy, each.total("regions")) for each in maps}
            assert told == {
                "": ("General()", 2),
                "rows": ("Rows(row=48)", 0),
                "queue": ("Ring()", 0),
                SCRATCH: ("General()", 0),
            }
            assert maps[-1].total("live") == 1
            require_whole(maps, heap)


def test_a_heap_in_cells_adds_up_to_the_same_and_is_whole_around_a_place() -> None:
    with Heap.anonymous() as heap:
        offsets = [heap.malloc(3000 + 700 * (n % 5)) for n in range(9000)]
        for offset in offsets[::3]:
            heap.free(offset)
        exact = read_arena(heap)
        [found] = read_arenas(heap, most=200)
        assert (exact.cell, found.cell > 0) == (0, True)
        assert len(exact.pieces) > 1000
        assert len(found.pieces) < 400
        assert found.units_of(Kind.RUN) == exact.units_of(Kind.RUN)
        require_whole([found], heap)
        [around] = read_arenas(heap, most=200, at=offsets[4000])
        require_whole([around], heap)
        at = offsets[4000] // UNIT
        whole = next(each for each in exact.pieces if each.start <= at < each.stop)
        assert whole in around.pieces
        assert whole not in found.pieces


def test_free_ranges_are_as_long_as_they_can_be() -> None:
    pieces = (
        Piece.whole(0, 10, Kind.FREE),
        Piece.whole(10, 10, Kind.RUN),
        Piece.whole(20, 10, Kind.FREE),
        Piece.whole(30, 20, Kind.UNUSED),
    )
    found = ArenaMap(0, 50, pieces)
    assert list(found.free_ranges()) == [(0, 10), (20, 30)]
    assert (found.free_units, found.longest_free) == (40, 30)
    assert found.fragmentation == pytest.approx(0.25)
    assert ArenaMap(0, 10, (Piece.whole(0, 10, Kind.RUN),)).fragmentation == 0


def offsets_of(arena: ArenaMap) -> dict[int, int]:
    """Return offset and size of the blocks whose places are known."""
    return {
        arena.origin + start * UNIT + at: size
        for start, blocks in arena.places.items()
        for at, size in blocks
    }


def test_places_of_blocks_in_runs_in_part_and_chunks() -> None:
    with Heap.anonymous() as heap:
        many = [heap.malloc(700) for _ in range(300)]
        for offset in many[1::2]:
            heap.free(offset)
        region = heap.region()
        inside = [region.malloc(100 + n) for n in range(50)]
        heap.malloc(100_000)
        [found] = read_arenas(heap, blocks=1 << 20)
        sizes = dict(heap.blocks())
        told = {
            start * UNIT + at: size for start, blocks in found.places.items() for at, size in blocks
        }
        assert told.keys() >= {*inside, *many[2::2]}
        assert told == {offset: sizes[offset] for offset in told}
        [few] = read_arenas(heap, blocks=40, at=many[-2])
        assert many[-2] in offsets_of(few)
        assert len(few.places) < len(found.places)


def test_a_reader_beside_a_writer_sees_the_heap_as_it_is_now() -> None:
    with Heap.shared() as heap, Heap.attach(heap.fileno()) as reader:
        before = sum(each.total("live") for each in read_arenas(reader))
        heap.malloc(100_000)
        assert sum(each.total("live") for each in read_arenas(reader)) == before + 1


def test_a_closed_heap_is_refused_in_words() -> None:
    heap = Heap.anonymous()
    heap.close()
    with pytest.raises(pmemheap.UsageError, match="an open heap expected"):
        read_arenas(heap)


@pytest.mark.slow
def test_sixteen_gibibytes_are_read_by_pieces() -> None:
    with Heap.anonymous() as heap:
        for offset in [heap.malloc(1 << 30) for _ in range(16)][::2]:
            heap.free(offset)
        heap.malloc_many(500, 10_000)
        [found] = read_arenas(heap, most=5000)
        assert found.nunits * UNIT >= 16 << 30
        assert len(found.pieces) < 5000
        require_whole([found], heap)
