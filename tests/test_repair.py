"""Repair: the plan says what is lost, the repaired file opens and is sound, undo gives it back."""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from damage_load import BITS, DATA, ENTRIES, KINDS, survivors
from wreck import (
    LogWriter,
    Wreck,
    contents,
    entry_place,
    grown,
    look,
    opened,
    segments,
    with_other_boot,
    wreck,
)

from pmemheap import Heap, layout
from pmemheap.cli import main
from pmemheap.cli.exits import ExitCode
from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.format.records import Operation
from pmemheap.format.superblock import COUNTS_END
from pmemheap.layout import Durability, RootSlot, Table
from pmemheap.offline import open_image
from pmemheap.repair import Plan, plan, repair, undo


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Wreck:
    return wreck(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Wreck:
    return grown(tmp_path_factory.mktemp("large"))


@pytest.fixture(autouse=True)
def no_backups(sample: Wreck, large: Wreck) -> None:
    for made in (sample, large):
        for left in made.path.parent.glob("*.undo"):
            left.unlink()


def planned(path: Path) -> Plan:
    with open_image(path) as disk:
        return plan(disk)


def mended(made: Wreck) -> Plan:
    """Repair a file; all that is left opens and holds what it held."""
    done, _ = repair(made.path)
    assert done.succeeds, [str(each) for each in done.remaining]
    with opened(made.path) as heap:
        survivors(heap, made.blocks)
    assert not look(made.path).findings.damage
    return done


def losses(done: Plan) -> list[str]:
    return [step.loses for step in done.steps if step.loses]


# ------------------------------------------------------------------------------------------- ways


def test_a_sound_heap_needs_nothing(sample: Wreck) -> None:
    sample.write()
    done, backup = repair(sample.path)
    assert (done.steps, backup) == ([], None)
    assert sample.path.read_bytes() == sample.image


def test_a_plan_changes_nothing(sample: Wreck) -> None:
    damaged = sample.change((entry_place(0), b"\x09"), (4096, b"\0\0\0\0"))
    assert planned(sample.path).steps
    assert sample.path.read_bytes() == damaged


def test_undo_gives_every_byte_back(sample: Wreck) -> None:
    damaged = sample.change((entry_place(0), b"\x09"), (layout.SEGMENT_TABLE, b"\x09"))
    done, backup = repair(sample.path)
    assert backup is not None
    assert done.succeeds
    assert undo(sample.path, backup)
    assert sample.path.read_bytes() == damaged


def test_undo_gives_a_cut_or_lengthened_file_back(sample: Wreck) -> None:
    for damaged in (sample.image + b"tail" * 5000, sample.image[:-9000]):
        sample.write(damaged)
        _, backup = repair(sample.path)
        assert backup is not None
        undo(sample.path, backup)
        assert sample.path.read_bytes() == damaged


def test_a_damaged_backup_is_refused_and_nothing_changes(sample: Wreck, tmp_path: Path) -> None:
    sample.change((entry_place(0), b"\x09"))
    _, backup = repair(sample.path)
    assert backup is not None
    image, repaired = backup.read_bytes(), sample.path.read_bytes()
    bad = tmp_path / "bad"
    end_of_superblocks = 64 + 2 * (16 + 512)
    broken_ones = (
        b"", image[:20], image[:end_of_superblocks], image[:-1],
        image[:-1] + bytes([image[-1] ^ 1]), image[:13] + b"\xff" + image[14:],
    )  # fmt: skip
    for broken in broken_ones:
        bad.write_bytes(broken)
        with pytest.raises(CorruptHeapError, match="backup"):
            undo(sample.path, bad)
    with pytest.raises(UsageError):
        undo(sample.path, tmp_path / "absent")
    assert sample.path.read_bytes() == repaired


def test_a_heap_that_is_open_is_not_repaired(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap"), pytest.raises(UsageError, match="has it open"):
        repair(tmp_path / "heap")


# ------------------------------------------------------------------------------------ superblocks


@pytest.mark.parametrize("copy", layout.SUPERBLOCKS)
def test_a_bad_superblock_is_written_anew_from_the_other(sample: Wreck, copy: int) -> None:
    """[R9] Never by a new checksum over bad bytes: the other's fields, as a new generation."""
    sample.flip(copy + 64)

    done = mended(sample)
    assert not losses(done)


@pytest.mark.parametrize("generation", [COUNTS_END - each for each in (0, 1, 2, 3, 4)])
def test_a_generation_at_its_end_is_mended_or_refused(sample: Wreck, generation: int) -> None:
    """Nothing is stored that nobody can read: a change, or a repair, is refused as a whole."""
    forged = replace(sample.superblock, generation=generation).pack()
    image = sample.change((sample.current, forged))
    with suppress(CorruptHeapError), Heap.open(sample.path) as heap:
        heap.roots["new"] = heap.malloc(100)
    with Heap.open(sample.path, readonly=True) as heap:
        assert heap.check()
    sample.write(image)
    try:
        repair(sample.path)
    except CorruptHeapError:
        assert sample.path.read_bytes() == image
    with Heap.open(sample.path, readonly=True) as heap:
        assert heap.check()


def test_both_superblocks_gone_cannot_be_mended(sample: Wreck) -> None:
    damaged = sample.change((0, bytes(512)), (4096, bytes(512)))
    done, backup = repair(sample.path)
    assert not done.succeeds
    assert backup is None
    assert sample.path.read_bytes() == damaged


def test_a_feature_that_is_not_known_is_no_damage(sample: Wreck) -> None:
    """The older copy was opened instead, and the newer one mended away."""
    newer = sample.superblock.successor(features_incompat=1 << 40)
    at = next(each for each in layout.SUPERBLOCKS if each != sample.current)
    image = sample.change((at, newer.pack()))
    with pytest.raises(CorruptHeapError, match="incompatible features"):
        Heap.open(sample.path)
    assert main(["repair", str(sample.path), "--apply"]) == ExitCode.CORRUPT
    done, backup = repair(sample.path)
    assert (done.steps, backup) == ([], None)
    assert sample.path.read_bytes() == image


def test_a_heap_of_another_boot_is_taken_as_it_is(sample: Wreck) -> None:
    sample.write(with_other_boot(sample.image, sample.superblock))
    with pytest.raises(CorruptHeapError):
        Heap.open(sample.path)
    done = mended(sample)
    assert losses(done) == ["what had not reached the file"]


# ------------------------------------------------------------------------------------------- file


def test_a_longer_file_is_cut(sample: Wreck) -> None:
    sample.write(sample.image + b"x" * 10_000)
    mended(sample)
    assert sample.path.stat().st_size == len(sample.image)


def test_a_shorter_file_loses_only_what_lay_behind(large: Wreck) -> None:
    last = max(segments(large.image).values(), key=lambda slot: slot.file_off)
    large.write(large.image[: last.file_off + 5000])
    done = mended(large)
    with opened(large.path) as heap:
        kept = {k: v for k, v in large.blocks.items() if k < last.first_unit * 4096 - 200_000}
        assert kept
        assert kept.items() <= contents(heap).items()
    assert losses(done)


# ----------------------------------------------------------------------------------------- tables


def test_every_segment_slot_is_derived(large: Wreck) -> None:
    for index in segments(large.image):
        large.change((layout.SEGMENT_TABLE + 64 * index, b"\xaa" * 64))
        done = mended(large)
        assert not losses(done)
        with opened(large.path) as heap:
            assert contents(heap) == large.blocks


def test_two_bad_slots_beside_each_other_are_derived(large: Wreck) -> None:
    by_place = sorted(segments(large.image).items(), key=lambda each: each[1].file_off)
    (first, _), (second, _) = by_place[1:3]
    for byte in (33, 62):
        at = [layout.SEGMENT_TABLE + 64 * index + byte for index in (first, second)]
        large.change(*((place, bytes([large.image[place] ^ 1])) for place in at))
        planned_now = planned(large.path)
        if byte == 62:  # only the checksums: what stands there agrees with its neighbours
            assert planned_now.succeeds
            mended(large)


def test_the_arena_is_derived(large: Wreck) -> None:
    large.change((layout.ARENA_TABLE + 16, b"\xff" * 8))
    assert not losses(mended(large))
    with opened(large.path) as heap:
        assert contents(heap) == large.blocks


def test_a_bad_root_is_dropped_and_named(sample: Wreck) -> None:
    sample.flip(layout.ROOT_TABLE + 3)
    done = mended(sample)
    assert ["root 0" in each for each in losses(done)] == [True]
    with opened(sample.path) as heap:
        assert "root 0" not in heap.roots
        assert "root 1" in heap.roots


# ------------------------------------------------------------------------------------------ units


def test_stray_bits_are_cleared(sample: Wreck) -> None:
    sample.change((BITS + 32 * 200, b"\xff" * 32))
    assert not losses(mended(sample))


def test_overlapping_entries_lose_one_that_is_named(sample: Wreck) -> None:
    unit = next(each.unit for each in entries(sample) if each.nunits > 4 and not each.is_run)
    sample.change((entry_place(unit + 1), struct.pack("<BBHIQ", 1, 0, 0, 2, 8192)))
    done = mended(sample)
    assert losses(done)
    assert all("block at 0x" in each for each in losses(done) if "root" not in each)


def entries(made: Wreck) -> list:  # type: ignore[type-arg]
    made.write()
    return list(look(made.path).extents())


def test_a_run_with_a_wrong_length_keeps_its_blocks(sample: Wreck) -> None:
    run = next(each for each in entries(sample) if each.is_run)
    sample.change((entry_place(run.unit) + 4, struct.pack("<I", run.nunits + 1)))
    assert not losses(mended(sample))
    with opened(sample.path) as heap:
        assert contents(heap) == sample.blocks


def test_many_damages_at_once_are_mended_together(sample: Wreck) -> None:
    sample.change(
        (4096 + 30, b"\0\0\0"), (layout.SEGMENT_TABLE + 60, b"\0\0"), (layout.ARENA_TABLE, b"\7"),
        (entry_place(200), b"\1\2\3\4\5\6\7\x08"), (BITS + 32 * 180, b"\1\2\3"),
        (layout.ROOT_TABLE + 64 * 900, b"root"),
    )  # fmt: skip
    mended(sample)
    with opened(sample.path) as heap:
        assert contents(heap) == sample.blocks


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flips", "garbage", "sealed", "truncations"])
def test_what_repair_calls_mended_opens_and_is_sound(kind: str, sample: Wreck) -> None:
    """Nothing is lost without a word, and what is left has its bytes."""
    stride = {"flips": 251, "garbage": 41, "sealed": 67, "truncations": 71}[kind]
    for name, damaged in KINDS[kind](sample.image, stride):
        sample.write(damaged)
        done, backup = repair(sample.path)
        if backup is not None and not done.succeeds:
            undo(sample.path, backup)
            assert sample.path.read_bytes() == damaged, name
        if backup is not None:
            backup.unlink()
        if done.succeeds:
            with opened(sample.path) as heap:
                survivors(heap, sample.blocks)
                lost = sample.blocks.keys() - dict(heap.blocks()).keys()
            is_bit = name.startswith("bits")  # a lost bit looks like a free block
            assert not lost or losses(done) or is_bit, name


# -------------------------------------------------------------------------------------------- log


def test_pending_records_are_replayed_before_tables_are_touched(sample: Wreck) -> None:
    writer = LogWriter(sample, Durability.POWER)
    entry = struct.pack("<BBHIQ", 1, 0, 0, 2, 8000)
    writer.append(
        Operation.meta(Table.ENTRIES, 16 * 120, entry),
        Operation.write(4096 * 120, b"committed"),
        Operation.meta(Table.ROOTS, 64 * 30, RootSlot("new", 4096 * 120).pack()),
    )
    writer.write((layout.ROOT_TABLE + 64 * 900, b"rubbish"))
    done = mended(sample)
    assert "1 record replayed" in done.steps[0].title
    with opened(sample.path) as heap:
        assert bytes(heap.view(heap.roots["new"], 9)) == b"committed"
        assert sample.blocks.items() <= contents(heap).items()


def test_a_log_with_a_gap_keeps_the_commits_before_it(sample: Wreck) -> None:
    block = max(sample.blocks)
    writer = LogWriter(sample, Durability.POWER)
    writer.append(Operation.write(block, b"1111"))
    second = writer.append(Operation.write(block + 16, b"2222"))
    writer.append(Operation.write(block + 32, b"3333"), durable=second.end)
    writer.write((writer.block.log_off + second.lsn + 70, b"\xff"))
    done, _ = repair(sample.path)
    assert done.succeeds
    assert ["commits behind it" in each for each in losses(done)] == [True]
    found = look(sample.path)
    assert found.is_sound
    assert found.view.read(DATA + block, 36) == (b"1111" + sample.blocks[block][4:36])


def test_a_lost_newest_superblock_is_rebuilt_from_the_log(sample: Wreck) -> None:
    """The older copy's tail lies before a lap of the log: the log itself tells the newer one."""
    block = max(sample.blocks)
    writer = LogWriter(sample, Durability.POWER)
    writer.append(Operation.write(block, b"1111"))
    second = writer.append(Operation.write(block + 16, b"2222"), durable=writer.head)
    third = writer.append(Operation.write(block + 32, b"3333"), durable=second.end)
    first_at = writer.block.log_off + writer.records[0].lsn
    writer.write((first_at, bytes(64)), (4096, b"torn"))
    done, _ = repair(sample.path)
    assert done.succeeds
    assert not losses(done)
    found = look(sample.path)
    assert found.superblock is not None
    assert found.superblock.tail_lsn in {second.lsn, third.end}
    assert found.view.read(DATA + block + 16, 4) == b"2222"
    assert found.view.read(DATA + block + 32, 4) == b"3333"


# -------------------------------------------------------------------------------------------- cli


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.usefixtures("wide")
def test_check_names_place_meaning_and_repair(
    sample: Wreck, capsys: pytest.CaptureFixture[str]
) -> None:
    sample.flip(layout.SEGMENT_TABLE + 8)
    assert main(["check", str(sample.path)]) == ExitCode.FINDINGS
    printed = capsys.readouterr().out
    assert printed.startswith("1 finding")
    for words in ("segment slot 0", "0x4000", "repair: ", "pmemheap repair"):
        assert words in printed
    assert main(["check", str(sample.path), "--json"]) == ExitCode.FINDINGS
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][0]["file_offset"] == 0x4000
    assert told["findings"][0]["repair"]


@pytest.mark.usefixtures("wide")
def test_repair_shows_a_plan_applies_it_and_takes_it_back(
    sample: Wreck, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(sample.path)
    damaged = sample.flip(layout.ROOT_TABLE + 3)
    assert main(["repair", path]) == ExitCode.FINDINGS
    printed = capsys.readouterr().out
    assert "   1. root slot 0" in printed
    assert "lost: root 'root 0'" in printed
    assert "--apply" in printed
    assert sample.path.read_bytes() == damaged
    assert main(["repair", path, "--apply"]) == 0
    backup = capsys.readouterr().out.split("--undo ")[1].strip()
    assert main(["check", path]) == 0
    assert main(["repair", path]) == 0
    assert main(["repair", path, "--undo", backup]) == 0
    assert sample.path.read_bytes() == damaged


def test_repair_tells_json(sample: Wreck, capsys: pytest.CaptureFixture[str]) -> None:
    sample.change((0, bytes(512)), (4096 + 64, b"\1\2\3\4"))
    assert main(["repair", str(sample.path), "--json"]) == ExitCode.FINDINGS
    told = json.loads(capsys.readouterr().out)
    assert (told["applied"], told["sound_after"], told["steps"]) == (False, False, [])
    assert "salvage" in told["remaining"][0]["meaning"]
    sample.flip(4096 + 64)
    assert main(["repair", str(sample.path), "--json", "--apply"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sound_after"]
    assert Path(told["backup"]).exists()


def test_garbage_is_not_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(b"no heap" * 100_000)
    for arguments in ([], ["--apply"]):
        assert main(["repair", str(path), *arguments]) == ExitCode.CORRUPT
    assert path.read_bytes() == b"no heap" * 100_000
    assert os.listdir(tmp_path) == ["garbage"]
    assert "no heap" in capsys.readouterr().err


def test_an_arena_slot_without_segments_is_cleared(
    sample: Wreck, capsys: pytest.CaptureFixture[str]
) -> None:
    place = layout.slot_offset(Table.ARENAS, 7)
    sample.change((place, b"no arena at all"))
    assert main(["check", str(sample.path), "--json"]) == ExitCode.FINDINGS
    [finding] = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["thing"], finding["repair"]) == ("arena slot 7", "the slot is cleared")
    assert main(["repair", str(sample.path), "--apply"]) == 0
    assert sample.path.read_bytes()[place : place + layout.SLOT_BYTES] == bytes(layout.SLOT_BYTES)
    with opened(sample.path) as heap:
        assert contents(heap) == sample.blocks


def test_wrong_calls_end_with_2(sample: Wreck, tmp_path: Path) -> None:
    sample.write()
    assert main(["repair", str(tmp_path / "absent")]) == ExitCode.USAGE
    both = ["repair", str(sample.path), "--apply", "--undo", "x"]
    assert main(both) == ExitCode.USAGE
    assert main(["repair", str(sample.path), "--undo", "absent"]) == ExitCode.USAGE
    assert main(["dump", str(sample.path), "--rows", "0"]) == ExitCode.USAGE


@pytest.mark.usefixtures("wide")
def test_dump_prints_every_table(sample: Wreck, capsys: pytest.CaptureFixture[str]) -> None:
    writer = LogWriter(sample, Durability.POWER)
    writer.append(Operation.write(max(sample.blocks), b"1111"), Operation.free(0, 16))
    writer.write()
    assert main(["dump", str(sample.path), "--json", "--units", "--log", "--roots"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "segments" not in told
    assert len(told["roots"]) == len(sample.blocks)
    assert sum(each["blocks"] for each in told["units"]) == len(sample.blocks)
    written = {"type": "WRITE", "table": None, "offset": max(sample.blocks), "bytes": 4}
    assert told["log"][0]["operations"][0] == written
    assert main(["dump", str(sample.path)]) == 0
    printed = capsys.readouterr().out
    for words in ("superblocks", "log", "segments", "arenas", "roots", "(default)", "FREE 0x0+16"):
        assert words in printed


def test_dump_works_on_wrecks(sample: Wreck, capsys: pytest.CaptureFixture[str]) -> None:
    for image in (b"", b"text" * 99_999, sample.image[:100_000], bytes(1 << 20)):
        sample.write(image)
        assert main(["dump", str(sample.path)]) == 0
        assert main(["dump", str(sample.path), "--json", "--units"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_the_generation_goes_up_with_every_repair(sample: Wreck) -> None:
    sample.write(with_other_boot(sample.image, sample.superblock))
    repair(sample.path)
    found = look(sample.path)
    assert found.superblock is not None
    assert found.superblock.generation > sample.superblock.generation
    assert replace(found.superblock, generation=0, boot_id=b"") == replace(
        sample.superblock, generation=0, boot_id=b""
    )


def test_entries_are_where_the_tests_think(sample: Wreck) -> None:
    assert segments(sample.image)[1].entries_off == ENTRIES
