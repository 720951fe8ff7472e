"""Looking at heap files without opening them: what is found, and that nothing is changed."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from damage_load import BITS, DATA, ENTRIES, KINDS
from heap_world import python
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wreck import LogWriter, Wreck, entry_place, grown, look, segments, with_other_boot, wreck

from pmemheap import Heap, layout
from pmemheap.errors import UsageError
from pmemheap.format.records import Operation, RecordKind, encode
from pmemheap.format.superblock import Superblock
from pmemheap.layout import (
    ArenaSlot,
    Durability,
    HeapState,
    RootSlot,
    SegmentKind,
    SegmentSlot,
    Table,
)
from pmemheap.offline import Examination, FindingKind, Severity, examine, open_image
from pmemheap.offline.image import Overlay, data_pieces
from pmemheap.offline.places import Part, arena_of

ALL = bool(os.environ.get("PMEMHEAP_DAMAGE_ALL"))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Wreck:
    return wreck(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Wreck:
    return grown(tmp_path_factory.mktemp("large"))


def kinds(found: Examination) -> list[FindingKind]:
    return [finding.kind for finding in found.findings]


def live(found: Examination) -> list[int]:
    return [block.offset for extent in found.extents() for block in extent.blocks()]


# ------------------------------------------------------------------------------------------ sound


@pytest.mark.parametrize("which", ["sample", "large"])
def test_a_sound_heap_has_no_findings(which: str, request: pytest.FixtureRequest) -> None:
    made: Wreck = request.getfixturevalue(which)
    made.write()
    found = look(made.path)
    assert found.is_sound
    assert not found.findings.kept
    assert live(found) == sorted(made.blocks)
    assert found.blocks == len(made.blocks)
    assert len(found.slots.roots) == len(made.blocks)


def test_looking_changes_nothing(sample: Wreck) -> None:
    damaged = sample.flip(ENTRIES)
    before = sample.path.stat()
    look(sample.path)
    assert sample.path.read_bytes() == damaged
    assert sample.path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_heap_that_is_open_is_refused(tmp_path: Path) -> None:
    with (
        Heap.create(tmp_path / "heap"),
        pytest.raises(UsageError, match=str(os.getpid())),
        open_image(tmp_path / "heap"),
    ):
        pass


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", Path("/dev/null")):
        with pytest.raises(UsageError), open_image(path):
            pass


def test_a_killed_growth_is_a_note(sample: Wreck) -> None:
    sample.write(sample.image + bytes(1 << 20))
    found = look(sample.path)
    assert found.is_sound
    assert kinds(found) == [FindingKind.FILE_LONG]


def test_a_heap_of_a_tebibyte_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "large"
    units = 1 << 28
    with Heap.create(path, durability="process") as heap:
        heap.roots["a"] = heap.malloc(100)
    image = path.read_bytes()
    slot = SegmentSlot(SegmentKind.DATA, 0x48000, units, nunits=units)
    data = segments(image)[1]
    with path.open("r+b") as file:
        try:
            file.truncate(slot.file_stop)
        except OSError:
            pytest.skip("a file system without files of a tebibyte")
        file.seek(layout.SEGMENT_TABLE + 64)
        file.write(slot.pack())
        file.seek(layout.ARENA_TABLE)
        file.write(ArenaSlot(0, units).pack())
        file.seek(slot.file_off)
        file.write(image[data.file_off : data.file_off + 16 * 256] + bytes(32 * 256 + 4096))
        file.seek(slot.bits_off)
        file.write(image[data.bits_off : data.bits_off + 32 * 256])
    found = look(path)
    assert found.blocks == 1
    assert found.is_sound, [str(each) for each in found.findings]


# ------------------------------------------------------------------------------------------ damage


def excused(sample: Wreck, place: int) -> bool:
    """Tell whether a flip gives another state that could be: nothing tells it from a real one."""
    if BITS <= place < DATA:  # a block was allocated, or freed
        return True
    if ENTRIES <= place < BITS and sample.image[place & ~15] == 1 and place & 15 >= 4:
        return True  # the length of a large block, into free units behind it or inside of its own
    return layout.SHARED_PAGE <= place < layout.SHARED_PAGE + 64


@pytest.mark.slow
def test_every_flipped_byte_of_the_metadata_is_found(sample: Wreck) -> None:
    """The log is empty here, and its bytes have no meaning."""
    sample.write()
    tables = layout.SEGMENT_TABLE, layout.ARENA_TABLE, layout.ROOT_TABLE
    places = [
        *range(512), *range(4096, 4608), *range(tables[0], tables[0] + 192),
        *range(tables[1], tables[1] + 128), *range(tables[2], tables[2] + 20 * 64),
        *range(tables[0], layout.HEADER_BYTES, 997), *range(ENTRIES, BITS), *range(BITS, DATA, 37),
    ]  # fmt: skip
    with sample.path.open("r+b", buffering=0) as file:
        for place in places[:: 1 if ALL else 7]:
            os.pwrite(file.fileno(), bytes([sample.image[place] ^ 1 << place % 8]), place)
            found = look(sample.path)
            os.pwrite(file.fileno(), sample.image[place : place + 1], place)
            assert found.findings.kept or excused(sample, place), hex(place)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["truncations", "garbage", "sealed"])
def test_any_file_gives_findings_and_no_exception(kind: str, sample: Wreck) -> None:
    for _, damaged in KINDS[kind](sample.image, 13):
        sample.write(damaged)
        look(sample.path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_changes_of_the_header_give_findings(data: st.DataObject, sample: Wreck) -> None:
    edits = data.draw(
        st.lists(
            st.tuples(st.integers(0, BITS), st.binary(min_size=1, max_size=80)),
            min_size=1,
            max_size=5,
        )
    )
    sample.change(*edits)
    found = look(sample.path)
    for finding in found.findings:
        assert finding.meaning
        assert str(finding)


def test_other_versions_are_named_and_not_called_damaged(sample: Wreck) -> None:
    for version, told in ((2, "format 2"), (1 << 24, "format 16777216")):
        sample.change(*((at + 8, struct.pack("<I", version)) for at in layout.SUPERBLOCKS))
        found = look(sample.path)
        finding = found.findings.kept[0]
        assert finding.kind == FindingKind.OTHER_VERSION
        assert told in finding.found
        assert not finding.can_be_mended


def test_garbage_is_no_heap(tmp_path: Path) -> None:
    for image in (b"", b"text" * 1000, bytes(1 << 20)):
        path = tmp_path / "file"
        path.write_bytes(image)
        found = look(path)
        assert not found.is_heap
        assert not found.is_sound


def test_one_bad_superblock_says_which_and_that_the_other_is_used(sample: Wreck) -> None:
    sample.flip(layout.SUPERBLOCKS[1] + 70)
    finding = look(sample.path).findings.kept[0]
    assert finding.thing == "superblock copy B"
    assert finding.place == layout.SUPERBLOCKS[1]
    assert "is used" in finding.meaning
    assert finding.can_be_mended


def test_a_new_heap_has_one_superblock_and_that_is_sound(sample: Wreck) -> None:
    block = replace(sample.superblock, generation=1)
    sample.change((0, block.pack()), (layout.SUPERBLOCKS[1], bytes(512)))
    assert not look(sample.path).findings.kept


def test_the_machine_went_down_while_a_process_heap_was_in_use(sample: Wreck) -> None:
    sample.write(with_other_boot(sample.image, sample.superblock))
    found = look(sample.path)
    assert kinds(found) == [FindingKind.NOT_CLOSED]
    assert "since the last sync" in found.findings.kept[0].meaning


def test_a_bad_root_slot_says_what_it_seems_to_be(sample: Wreck) -> None:
    sample.flip(layout.ROOT_TABLE + 21 + 5, 0x01)
    found = look(sample.path)
    assert kinds(found) == [FindingKind.ROOT]
    assert "root 1" in found.findings.kept[0].loses


def test_a_root_to_nowhere_names_the_root(sample: Wreck) -> None:
    for target in (1, 17, 1 << 20, 1 << 54, 1 << 62):
        sample.change((layout.ROOT_TABLE, RootSlot("lost", target).pack()))
        found = look(sample.path)
        assert [each.thing for each in found.findings] == ["root 'lost'"]


def test_stray_bits_say_that_no_block_is_affected(sample: Wreck) -> None:
    sample.change((BITS + 32 * 200 + 7, b"\x10"))
    finding = look(sample.path).findings.kept[0]
    assert finding.kind == FindingKind.BITS
    assert finding.place == BITS + 32 * 200
    assert "none is affected" in finding.meaning


def test_half_an_entry_is_a_note(sample: Wreck) -> None:
    """A process that is killed between two stores of an entry leaves its second word."""
    sample.change((entry_place(200) + 8, struct.pack("<Q", 5000)))
    finding = look(sample.path).findings.kept[0]
    assert (finding.kind, finding.severity) == (FindingKind.ENTRY, Severity.NOTE)


def test_a_wild_length_costs_one_block_at_most(sample: Wreck) -> None:
    """A large block that claims all units behind it: its bytes say what it needs."""
    unit = next(each.unit for each in look_at(sample).extents() if not each.is_run)
    sample.change((entry_place(unit) + 4, struct.pack("<I", 256 - unit)))
    found = look(sample.path)
    assert not found.is_sound
    assert live(found) == sorted(sample.blocks)


def look_at(made: Wreck) -> Examination:
    made.write()
    return look(made.path)


def test_cut_blocks_are_named(sample: Wreck) -> None:
    last = max(sample.blocks)
    sample.write(sample.image[: DATA + last + 5000])
    found = look(sample.path)
    cut = [each for each in found.findings if each.kind == FindingKind.CUT_BLOCK]
    assert [f"{last:#x}" in each.loses for each in cut] == [True]
    assert live(found) == sorted(set(sample.blocks) - {last})


# ------------------------------------------------------------------------------------------ tables


def test_every_segment_slot_can_be_derived_from_the_others(large: Wreck) -> None:
    found = segments(large.image)
    assert len(found) > 3
    for index in found:
        for image in (bytes(64), b"\xff" * 64, None):
            at = layout.SEGMENT_TABLE + 64 * index
            if image is None:
                large.flip(at + 40)
            else:
                large.change((at, image))
            seen = look(large.path)
            assert kinds(seen) == [FindingKind.SEGMENT]
            assert seen.findings.kept[0].can_be_mended
            assert live(seen) == sorted(large.blocks)
            assert replace(seen.slots.segments[index]) == found[index]


def test_the_arena_can_be_derived_from_its_segments(large: Wreck) -> None:
    for image in (bytes(64), b"\xff" * 64):
        large.change((layout.ARENA_TABLE, image))
        seen = look(large.path)
        assert kinds(seen) == [FindingKind.ARENA]
        assert live(seen) == sorted(large.blocks)


def test_a_slot_of_nothing_is_cleared(sample: Wreck) -> None:
    sample.change((layout.SEGMENT_TABLE + 64 * 9, b"\x07" * 64))
    finding = look(sample.path).findings.kept[0]
    assert "no block is affected" in finding.meaning
    assert finding.edits[0].data == bytes(64)


def test_segments_outside_of_the_arena_are_a_note(sample: Wreck) -> None:
    stray = SegmentSlot(SegmentKind.DATA, len(sample.image), 256, 0, 1 << 20, 256)
    image = bytearray(sample.image + bytes(stray.file_bytes))
    image[layout.SEGMENT_TABLE + 640 : layout.SEGMENT_TABLE + 704] = stray.pack()
    sample.write(image)
    found = look(sample.path)
    assert found.is_sound
    assert kinds(found) == [FindingKind.SEGMENT]


# ------------------------------------------------------------------------------------------ log


def test_pending_records_of_a_power_heap_are_applied_in_memory(sample: Wreck) -> None:
    block = min(sample.blocks)
    writer = LogWriter(sample, Durability.POWER)
    entry = struct.pack("<BBHIQ", 1, 0, 0, 2, 8000)
    writer.append(
        Operation.meta(Table.ENTRIES, 16 * 120, entry),
        Operation.write(4096 * 120, b"new"),
        Operation.meta(Table.ROOTS, 64 * 30, RootSlot("new", 4096 * 120).pack()),
        Operation.write(block, b"changed"),
    )
    damaged = writer.write()
    found = look(sample.path)
    assert found.is_sound
    assert live(found) == sorted({*sample.blocks, 4096 * 120})
    assert found.slots.roots[30].off == 4096 * 120
    assert found.view.read(DATA + 4096 * 120, 3) == b"new"
    assert found.view.read(DATA + block, 7) == b"changed"
    assert sample.path.read_bytes() == damaged


def test_writes_to_what_is_freed_later_are_revoked(sample: Wreck) -> None:
    """[R13] Only the part that the later record names."""
    block = max(sample.blocks)
    writer = LogWriter(sample, Durability.POWER)
    writer.append(Operation.write(block, b"A" * 64))
    writer.append(Operation.fresh(block + 16, 16))
    writer.append(Operation.write(block + 48, b"B"))
    writer.write()
    found = look(sample.path)
    old = sample.blocks[block]
    assert (
        found.view.read(DATA + block, 64) == b"A" * 16 + old[16:32] + b"A" * 16 + b"B" + b"A" * 15
    )


def test_an_undo_without_commit_is_rolled_back(sample: Wreck) -> None:
    """[R21] At its own place: a later commit stands."""
    block = max(sample.blocks)
    writer = LogWriter(sample, Durability.POWER)
    writer.append(Operation.old(block, b"old1"), kind=RecordKind.UNDO, txid=1)
    writer.append(Operation.old(block + 8, b"old2"), kind=RecordKind.UNDO, txid=2)
    writer.append(Operation.write(block + 8, b"new2"), txid=2)
    writer.append(Operation.write(block + 2, b"!"), txid=3)
    writer.write()
    found = look(sample.path)
    assert found.view.read(DATA + block, 4) == b"ol!1"
    assert found.view.read(DATA + block + 8, 4) == b"new2"


def test_a_process_heap_replays_nothing_below_what_is_applied(sample: Wreck) -> None:
    """[R22] Bare calls have stored to the homes since."""
    block = max(sample.blocks)
    writer = LogWriter(sample, Durability.PROCESS)
    first = writer.append(Operation.write(block, b"1111"))
    writer.append(Operation.write(block + 4, b"2222"), txid=2)
    writer.applied(first.end)
    writer.write()
    found = look(sample.path)
    assert [record.txid for record in found.log.pending] == [2]
    assert found.view.read(DATA + block, 8) == sample.blocks[block][:4] + b"2222"


def test_a_process_heap_rolls_back_the_open_undo_only(sample: Wreck) -> None:
    """[R23] An undo of a transaction that was aborted long ago would undo later commits."""
    block = max(sample.blocks)
    writer = LogWriter(sample, Durability.PROCESS)
    writer.append(Operation.old(block, b"1111"), kind=RecordKind.UNDO, txid=1)
    second = writer.append(Operation.old(block + 4, b"2222"), kind=RecordKind.UNDO, txid=2)
    writer.applied(second.end, open_undo=second.lsn)
    writer.write()
    found = look(sample.path)
    assert found.view.read(DATA + block, 8) == sample.blocks[block][:4] + b"2222"


def test_an_applied_position_inside_of_a_record_is_damage(sample: Wreck) -> None:
    writer = LogWriter(sample, Durability.PROCESS)
    record = writer.append(Operation.write(max(sample.blocks), b"1111"))
    writer.applied(record.lsn + 8)
    writer.write()
    assert kinds(look(sample.path)) == [FindingKind.APPLIED]


def test_damage_before_acknowledged_commits_names_what_is_lost(sample: Wreck) -> None:
    block = max(sample.blocks)
    writer = LogWriter(sample, Durability.POWER)
    first = writer.append(Operation.write(block, b"1111"))
    second = writer.append(Operation.write(block + 16, b"2222"))
    writer.append(Operation.write(block + 32, b"3333"), durable=second.end)
    place = writer.block.log_off + second.lsn % writer.block.log_size
    writer.write((place + 70, b"\xff"))
    found = look(sample.path)
    finding = found.findings.kept[0]
    assert finding.kind == FindingKind.LOG
    assert f"LSN {first.end}" in finding.meaning
    assert f"{block + 32:#x}" in finding.loses
    assert found.view.read(DATA + block, 4) == b"1111"


def test_an_unclosed_power_heap_is_sound(sample: Wreck) -> None:
    block = sample.superblock.successor(state=HeapState.IN_USE, durability=Durability.POWER,
                                        boot_id=b"another boot id!")  # fmt: skip
    sample.change((0, block.pack()), (4096, block.pack()))
    assert look(sample.path).is_sound


def test_forged_logs_do_not_read_beyond_the_file(sample: Wreck) -> None:
    for changes in ({"log_size": 1 << 62}, {"log_off": 1 << 62}, {"log_size": 0},
                    {"tail_lsn": 2**64 - 1}, {"log_size": 65}):  # fmt: skip
        block: Superblock = replace(sample.superblock, **changes)  # type: ignore[arg-type]
        sample.change((0, block.pack()), (4096, block.pack()))
        look(sample.path)


CRASH = """
import os, random, sys
from pmemheap import Heap
chance = random.Random(int(sys.argv[3]))
heap = Heap.create(sys.argv[1], durability=sys.argv[2], decay=None)
arena = heap.arena("second")
blocks = []
for round in range(60):
    with heap.transaction(durable=chance.random() < 0.5) as tx:
        for _ in range(chance.randint(1, 4)):
            offset = tx.malloc(chance.choice((16, 100, 3000, 20_000, 300_000)))
            tx.write(offset, bytes([round + 1]) * 16)
            blocks.append(offset)
        tx.roots[f"root {round % 9}"] = offset
        if len(blocks) > 50:
            tx.free(blocks.pop(0))
        if round % 4 == 0 and blocks:
            tx.write(blocks[0] + 4, b"over")
    arena.malloc(50)
tx = heap.transaction()
tx.snapshot(blocks[0], 16)
heap.view(blocks[0])[:16] = b"never committed!"
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_seen_offline_is_what_opening_recovers(
    durability: str, seed: int, tmp_path: Path
) -> None:
    """The records, the replay and the walk in Python against those in C."""
    path = tmp_path / "heap"
    done = python(CRASH, path, durability, seed)
    done.communicate()
    assert done.returncode == -9
    found = look(path)
    assert found.is_sound, [str(each) for each in found.findings]
    assert found.log.pending or durability == "process"
    log = found.superblock
    assert log is not None
    area = path.read_bytes()[log.log_off : log.log_off + log.log_size]
    for record in found.log.scan.records:
        image = encode(record, record.prev_crc)
        at = record.lsn % log.log_size
        assert (area[at:] + area[:at])[: len(image)] == image
    seen = {}
    for extent in found.extents():
        index, start = arena_of(extent.offset)
        data, _ = found.places.arenas[index].read(
            found.view, Part.DATA, start, start + extent.nunits * 4096
        )
        for block in extent.blocks():
            at = block.offset - extent.offset
            seen[block.offset] = data[at : at + 16]
    roots = {root.name: root.off for root in found.slots.roots.values()}
    del found
    with Heap.open(path, decay=None) as heap:
        assert heap.check()
        assert roots == dict(heap.roots)
        assert seen == {offset: bytes(heap.view(offset, 16)) for offset, _ in heap.blocks()}
    assert not look(path).findings.kept


# ------------------------------------------------------------------------------------------ image


def test_layers_of_changes_leave_the_file_alone(sample: Wreck) -> None:
    sample.write()
    with open_image(sample.path) as disk:
        layer = Overlay(disk)
        layer.put(4090, b"0123456789")
        layer.put(4094, b"xy")
        over = Overlay(layer)
        over.put(4099, b"Z")
        over.resize(disk.size + 100)
        assert (
            over.read(4089, 12) == sample.image[4089:4090] + b"0123xy678Z" + sample.image[4100:4101]
        )
        assert layer.read(4099, 1) == b"9"
        assert disk.read(4090, 4) == sample.image[4090:4094]
        assert over.read(disk.size - 2, 50) == sample.image[-2:] + bytes(48)
        assert over.read(over.size, 10) == b""
        assert examine(over).findings.kept


def test_pieces_jump_over_holes_and_see_changes_in_them(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(500 << 20)
        file.write(b"data")
    with open_image(path) as disk:
        layer = Overlay(disk)
        layer.put(800 << 20, b"more")
        pieces = list(data_pieces(layer, 0, layer.size))
        assert [offset for offset, _ in pieces] == [500 << 20, 800 << 20]
        assert [piece[:4] for _, piece in pieces] == [b"data", b"more"]


def test_single_calls_of_a_power_heap_count_beside_batches(tmp_path: Path) -> None:
    """Neither has a transaction: a batch that comes later takes nothing back."""
    path = tmp_path / "heap"
    code = (
        "import os, pmemheap\n"
        f"heap = pmemheap.Heap.create({str(path)!r})\n"
        "first, second, third = (heap.malloc(64) for _ in range(3))\n"
        "heap.free(second)\n"
        "heap.roots['third'] = third\n"
        "heap.malloc_many(3000, 20)\n"
        "os._exit(0)\n"
    )
    child = python(code)
    child.communicate(timeout=60)
    assert child.returncode == 0
    found = look(path)
    assert found.is_sound, list(found.findings)
    assert found.blocks == 22
    with Heap.open(path) as heap:
        assert heap.stats().blocks == 22
