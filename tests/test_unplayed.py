"""Damaged slots in a heap whose commits are in its log alone: mending brings home what it holds.

The slots say where the writes of the log go, so that they have to be derived before it is replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from unplayed import COMMITS, SHAPES, slots_of, unplayed
from wreck import Blocks, Wreck, look, opened

from pmemheap import layout
from pmemheap.cli import main
from pmemheap.cli.exits import ExitCode
from pmemheap.layout import SegmentKind
from pmemheap.offline import FindingKind
from pmemheap.repair import repair
from pmemheap.salvage import salvage

EMPTY = bytes(layout.SLOT_BYTES)


@pytest.fixture(scope="module", params=SHAPES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Wreck:
    return unplayed(tmp_path_factory.mktemp("unplayed"), request.param)


@pytest.fixture(scope="module")
def in_arena(tmp_path_factory: pytest.TempPathFactory) -> Wreck:
    return unplayed(tmp_path_factory.mktemp("arena"), "arena")


def kept(path: Path, blocks: Blocks, *, moved: bool = False) -> int:
    """Return how many commits a sound heap has: root, block and bytes."""
    with opened(path) as heap:
        return sum(
            (moved or heap.roots.get(f"root {number}") == offset)
            and bytes(heap.view(heap.roots[f"root {number}"], len(data))) == data
            for number, (offset, data) in enumerate(blocks.items())
            if f"root {number}" in heap.roots
        )


def slot_places(image: bytes) -> Iterator[int]:
    yield from (layout.SEGMENT_TABLE + 64 * index for index in slots_of(image))
    arenas = range(layout.ARENA_TABLE, layout.ARENA_TABLE + 2 * 64, 64)
    yield from (at for at in arenas if image[at : at + 64] != EMPTY)


def damages(image: bytes, place: int) -> Iterator[bytes]:
    """Yield what may stand in the place of a slot: garbage, nothing, another number."""
    slot = image[place : place + 64]
    yield b"\xaa" * 64
    yield EMPTY
    yield slot[:17] + bytes([slot[17] ^ 3]) + slot[18:]


def test_the_commits_are_in_the_log_alone(made: Wreck) -> None:
    made.write()
    found = look(made.path)
    assert found.is_sound
    assert len(found.log.pending) >= COMMITS
    assert kept(made.path, made.blocks) == COMMITS


@pytest.mark.slow
def test_every_commit_survives_the_loss_of_a_slot(made: Wreck, tmp_path: Path) -> None:
    for place in slot_places(made.image):
        for number, damaged in enumerate(damages(made.image, place)):
            made.change((place, damaged))
            out = tmp_path / f"{place} {number}"
            assert not salvage(made.path, out).lost_writes
            assert kept(out, made.blocks, moved=True) == COMMITS, (hex(place), damaged)
            done, _ = repair(made.path)
            assert done.succeeds, (hex(place), damaged, *map(str, done.remaining))
            assert not [step for step in done.steps if step.loses]
            assert kept(made.path, made.blocks) == COMMITS, (hex(place), damaged)


def without_its_segment(made: Wreck, rubbish: bytes) -> bytes:
    """Damage an arena and its only segment beyond all doubt."""
    index = next(i for i, slot in slots_of(made.image).items() if slot.arena == 1)
    return made.change(
        (layout.ARENA_TABLE + 64, rubbish), (layout.SEGMENT_TABLE + 64 * index, rubbish)
    )


RUBBISH = (b"\xaa" * 64, EMPTY)


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_what_has_no_place_is_reported_and_stays_in_the_log(
    in_arena: Wreck, rubbish: bytes
) -> None:
    damaged = without_its_segment(in_arena, rubbish)
    done, backup = repair(in_arena.path)
    assert (done.steps, backup) == ([], None)
    assert any(each.kind == FindingKind.LOG and "arena 1" in str(each) for each in done.remaining)
    assert in_arena.path.read_bytes() == damaged
    assert main(["repair", str(in_arena.path), "--apply"]) == ExitCode.FINDINGS
    assert in_arena.path.read_bytes() == damaged


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_salvage_finds_a_segment_by_what_the_log_writes_to_it(
    in_arena: Wreck, rubbish: bytes, tmp_path: Path
) -> None:
    without_its_segment(in_arena, rubbish)
    out = tmp_path / "out"
    assert not salvage(in_arena.path, out).lost_writes
    assert kept(out, in_arena.blocks, moved=True) == COMMITS


def test_salvage_tells_what_of_the_log_has_no_place(
    in_arena: Wreck, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The segment itself is cut off."""
    slots = slots_of(in_arena.image)
    index = next(i for i, slot in slots.items() if slot.arena == 1)
    in_arena.change((layout.ARENA_TABLE + 64, EMPTY), (layout.SEGMENT_TABLE + 64 * index, EMPTY))
    with in_arena.path.open("r+b") as file:
        file.truncate(slots[index].file_off)
    assert not repair(in_arena.path)[0].succeeds
    out = tmp_path / "out"
    assert main(["salvage", str(in_arena.path), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "lost: root 0" in printed
    assert "of arena 1, by the record with LSN" in printed
    with opened(out) as heap:
        assert "first" in heap.roots


def test_a_lost_slot_is_spare_only_if_no_units_are_missing(in_arena: Wreck) -> None:
    """It was taken for SPARE: then `salvage` did not look there any more."""
    without_its_segment(in_arena, RUBBISH[0])
    found = look(in_arena.path)
    assert not any(slot.kind == SegmentKind.SPARE for slot in found.slots.segments.values())
    assert found.slots.unexplained
    assert not found.findings.has(FindingKind.FILE_LONG)


def test_two_pieces_that_fit_one_gap_are_not_told_by_their_order(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """The lower one was taken, which may be the SPARE one."""
    made = unplayed(tmp_path_factory.mktemp("pieces"), "trimmed")
    slots = slots_of(made.image)
    spare = next(i for i, each in slots.items() if each.kind == SegmentKind.SPARE)
    alike = [
        i
        for i, each in slots.items()
        if each.kind == SegmentKind.DATA and each.file_bytes == slots[spare].file_bytes
    ]
    assert alike
    for index in alike:
        made.change(*((layout.SEGMENT_TABLE + 64 * i, b"\xaa" * 64) for i in (spare, index)))
        done, _ = repair(made.path)
        if done.succeeds:
            assert kept(made.path, made.blocks) == COMMITS
        out = tmp_path / str(index)
        salvage(made.path, out)
        assert kept(out, made.blocks, moved=True) == COMMITS
