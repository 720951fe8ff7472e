"""The header of a heap file: its tables, the one door for their changes, logs and shadow maps."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmemheap import layout
from pmemheap.errors import CorruptHeapError, OutOfSpaceError, UsageError
from pmemheap.file import openfile
from pmemheap.file.filemedium import LOG_MOST, FileMedium
from pmemheap.file.heapfile import HeapFile
from pmemheap.format import filespace
from pmemheap.format.header import as_spare, read_superblock, read_tables
from pmemheap.layout import (
    ArenaSlot,
    ArenaState,
    Durability,
    RootSlot,
    SegmentKind,
    SegmentSlot,
    SlotImage,
    Table,
    slot_offset,
    spare_slot,
)
from pmemheap.space.region import Region
from pmemheap.units import UNIT, GiB, KiB, MiB

MIB_SEGMENT = layout.SEGMENT_UNITS * layout.UNIT_BYTES_IN_FILE


def created(path: Path, durability: Durability = Durability.POWER, **options: Any) -> FileMedium:
    medium = openfile.create(path, durability, limit=None, replace_file=False, **options)
    medium.link_name(replace_file=False)
    return medium


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[FileMedium]:
    medium = created(tmp_path / "heap")
    yield medium
    medium.close()


def header_of(medium: HeapFile) -> bytearray:
    return bytearray(Path(medium.name).read_bytes()[: layout.HEADER_BYTES])


def put(image: bytearray, table: Table, index: int, slot: bytes) -> None:
    offset = slot_offset(table, index)
    image[offset : offset + layout.SLOT_BYTES] = slot


# ---------------------------------------------------------------- tables from bytes


def test_tables_are_read_from_an_image(medium: FileMedium) -> None:
    medium.change_roots({"a": RootSlot("a", 16)}, set())
    image = header_of(medium)
    superblock, _ = read_superblock(image)
    for each in (image, bytes(image)):
        tables = read_tables(each, superblock, "it")
        assert tables.segments == medium.segments
        assert tables.arenas == medium.arenas
        assert tables.roots == medium.roots == {0: RootSlot("a", 16)}
        assert tables.strays == {}


@given(st.sets(st.integers(0, layout.ROOT_SLOTS - 1), max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_roots_are_found_wherever_they_stand(medium: FileMedium, indices: set[int]) -> None:
    image = header_of(medium)
    roots = {index: RootSlot(f"root {index}", 16) for index in indices}
    for index, root in roots.items():
        put(image, Table.ROOTS, index, root.pack())
    assert read_tables(image, medium.header.superblock, "it").roots == roots


END = layout.HEADER_BYTES + layout.LOG_BYTES + MIB_SEGMENT
LIVE_TWICE = [ArenaSlot(0, 256, "x"), ArenaSlot(0, 256, "x")]


def data(arena: int, first: int, file_off: int = END, nunits: int = 256) -> bytes:
    return SegmentSlot(SegmentKind.DATA, file_off, 256, arena, first, nunits).pack()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(Table.SEGMENTS, 2, data(0, 512)), (Table.ARENAS, 0, ArenaSlot(0, 768).pack())], "unit"),
        ([(Table.SEGMENTS, 2, data(0, 256, END + UNIT))], "file offset"),
        ([(Table.SEGMENTS, 2, data(0, 256, nunits=100))], "file offset"),
        ([(Table.SEGMENTS, 2, data(256, 0))], "file offset"),
        ([(Table.SEGMENTS, 0, bytes(64))], "file offset"),
        ([(Table.ARENAS, 0, ArenaSlot(0, 256).dropped().pack())], "default arena expected"),
        ([(Table.ARENAS, 1, ArenaSlot(0, 256, "x").pack())], "of arena 1 expected"),
        (
            [
                (Table.ARENAS, 1, ArenaSlot(0, 256, "x").pack()),
                (Table.ARENAS, 2, ArenaSlot(0, 256, "x").pack()),
                (Table.SEGMENTS, 2, data(1, 0)),
                (Table.SEGMENTS, 3, data(2, 0, END + MIB_SEGMENT)),
            ],
            "names expected once each",
        ),
    ],
    ids=range(8),
)
def test_tables_that_contradict_each_other_are_refused(
    medium: FileMedium, changes: list[SlotImage], message: str
) -> None:
    image = header_of(medium)
    for table, index, slot in changes:
        put(image, table, index, slot)
    with pytest.raises(CorruptHeapError, match=message):
        read_tables(image, medium.header.superblock, "it")


def test_log_that_the_superblock_does_not_name_is_spare(medium: FileMedium) -> None:
    """[R28] A crash in the middle of a move to another log leaves two of them."""
    image = header_of(medium)
    log = SegmentSlot(SegmentKind.LOG, END, 64)
    put(image, Table.SEGMENTS, 2, log.pack())
    tables = read_tables(image, medium.header.superblock, "it")
    assert tables.strays == {2: as_spare(log)}
    assert tables.segments[2].file_bytes == 64 * UNIT
    moved = replace(medium.header.superblock, log_off=END, log_size=64 * UNIT)
    tables = read_tables(image, moved, "it")
    assert tables.strays[0].file_bytes == layout.LOG_BYTES
    nowhere = replace(medium.header.superblock, log_off=END + UNIT)
    with pytest.raises(CorruptHeapError, match="a log of 131072 bytes at file offset"):
        read_tables(image, nowhere, "it")


def test_segments_of_no_live_arena_are_spare(medium: FileMedium) -> None:
    """Growth or drop of an arena that a killed process did not end."""
    image = header_of(medium)
    for index, (arena, slot) in enumerate([(1, None), (2, ArenaSlot(0, 256, "x").dropped())]):
        put(image, Table.SEGMENTS, 2 + index, data(arena, 0, END + index * MIB_SEGMENT))
        if slot is not None:
            put(image, Table.ARENAS, arena, slot.pack())
    tables = read_tables(image, medium.header.superblock, "it")
    assert [slot.kind for slot in tables.segments.values()][2:] == [SegmentKind.SPARE] * 2
    assert set(tables.strays) == {2, 3}
    assert tables.arenas[2].state == ArenaState.DROPPED


@pytest.mark.parametrize("pages", [1, 258, 259, 260, 259 * 7, 16384])
def test_spare_slot_has_any_number_of_pages(pages: int) -> None:
    slot = spare_slot(END, pages * UNIT)
    assert slot.file_bytes == pages * UNIT
    assert SegmentSlot.unpack(slot.pack(), 0) == slot
    assert as_spare(slot) == slot


# ---------------------------------------------------------------- file space


def segments_of(*kinds: str) -> dict[int, SegmentSlot]:
    """Return segments of 1 MiB, one behind the other: D for DATA, S for SPARE."""
    found = {}
    for index, kind in enumerate(kinds):
        slot = SegmentSlot(SegmentKind.DATA, END + index * MIB_SEGMENT, 256, 0, 256, 256)
        found[index] = as_spare(slot) if kind == "S" else slot
    return found


def applied(segments: dict[int, SegmentSlot], changes: filespace.SlotChanges) -> str:
    after = {index: slot for index, slot in {**segments, **changes}.items() if slot is not None}
    ordered = sorted(after.values(), key=lambda slot: slot.file_off)
    assert all(a.file_stop == b.file_off for a, b in pairwise(ordered))
    return "".join(f"{slot.kind.name[0]}{slot.file_bytes // MIB_SEGMENT}" for slot in ordered)


@pytest.mark.parametrize(
    ("kinds", "cut", "left"),
    [
        ("DSSSD", True, "D1S3D1"),
        ("DSDSS", True, "D1S1D1"),
        ("DSDSS", False, "D1S1D1S2"),
        ("DSSSS", True, "D1"),
        ("DD", True, "D1D1"),
        ("SDSDS", True, "S1D1S1D1"),
    ],
)
def test_spares_merge_and_leave_the_end(kinds: str, cut: bool, left: str) -> None:
    segments = segments_of(*kinds)
    assert applied(segments, filespace.tidied(segments, cut=cut)) == left


def test_new_segment_leaves_the_rest_spare() -> None:
    segments = segments_of("D", "S", "S", "S", "D")
    segments = {
        index: slot
        for index, slot in {**segments, **filespace.tidied(segments, cut=True)}.items()
        if slot is not None
    }
    index = filespace.fitting_spare(segments, 2 * MIB_SEGMENT)
    assert index is not None
    slot = SegmentSlot(SegmentKind.LOG, segments[index].file_off, 2 * MIB_SEGMENT // UNIT)
    assert applied(segments, filespace.placed(segments, index, slot)) == "D1L2S1D1"
    assert filespace.fitting_spare(segments, 4 * MIB_SEGMENT) is None


# ---------------------------------------------------------------- the one door


class Recorded:
    """A journal that notes what it is told, and stores it."""

    def __init__(self, file: HeapFile) -> None:
        self.file = file
        self.calls: list[tuple[list[tuple[Table, int]], int, bool]] = []

    def change(self, slots: list[SlotImage], file_end: int, durable: bool) -> None:
        self.calls.append(([(table, index) for table, index, _ in slots], file_end, durable))
        for table, index, image in slots:
            self.file.header.store_slot(table, index, image)

    def sync(self) -> None:
        self.calls.append(([], -1, True))


def test_a_structural_change_is_one_call(medium: FileMedium) -> None:
    medium.journal = journal = Recorded(medium)
    region = Region(medium, GiB)
    region.adopt(medium.pieces())
    end = medium.file_end
    region.grow(512, 512)
    assert journal.calls == [
        ([(Table.SEGMENTS, 2), (Table.ARENAS, 0)], end + 2 * MIB_SEGMENT, False)
    ]
    region.grow(256, 256)
    journal.calls.clear()
    region.cut(768, 1024)
    assert journal.calls == [
        ([(Table.ARENAS, 0), (Table.SEGMENTS, 1), (Table.SEGMENTS, 2)], medium.file_end, True)
    ]
    journal.calls.clear()
    region.grow(512, 512)
    slots = [(Table.SEGMENTS, 2), (Table.SEGMENTS, 1), (Table.ARENAS, 0)]
    assert journal.calls == [(slots, medium.file_end, False)], "what is left of a SPARE segment"
    journal.calls.clear()
    medium.change_roots({"a": RootSlot("a", 16)}, set())
    medium.change_roots({}, {"a"})
    medium.sync()
    assert [call[0] for call in journal.calls] == [[(Table.ROOTS, 0)]] * 2 + [[]]
    tables = read_tables(header_of(medium), medium.header.superblock, "it")
    assert (tables.segments, tables.arenas) == (medium.segments, medium.arenas)
    region.close()


class Refusing(Recorded):
    """A journal that has no room."""

    def change(self, slots: list[SlotImage], file_end: int, durable: bool) -> None:
        raise OutOfSpaceError("log full")


def test_a_refused_change_changes_nothing(medium: FileMedium) -> None:
    region = Region(medium, GiB)
    region.adopt(medium.pieces())
    region.grow(256, 256)
    medium.change_roots({"b": RootSlot("b", 0)}, set())  # their page has its block from now on
    medium.change_roots({}, {"b"})
    before = dict(medium.segments), dict(medium.arenas), header_of(medium), medium.allocated()
    medium.journal = Refusing(medium)
    acts: list[Callable[[], object]] = [
        lambda: region.grow(256, 256),
        lambda: region.cut(0, 256),
        lambda: medium.change_roots({"a": RootSlot("a", 0)}, set()),
    ]
    for act in acts:
        with pytest.raises(OutOfSpaceError, match="log full"):
            act()
        assert region.nunits == 512
        region.check()
    assert (medium.segments, medium.arenas, header_of(medium), medium.allocated()) == before
    assert medium.roots == {}
    region.close()


def test_root_changes_are_planned_and_taken_over(medium: FileMedium) -> None:
    for name in ("a", "b", "c"):
        medium.change_roots({name: RootSlot(name, 16)}, set())
    puts = {"b": RootSlot("b", 32), "d": RootSlot("d", 48)}
    slots = medium.root_changes(puts, {"a"})
    assert {root.name for root in medium.roots.values()} == {"a", "b", "c"}
    assert len({index for _, index, _ in slots}) == len(slots)
    medium.header.slots.adopt(slots)
    assert {root.name: root.off for root in medium.roots.values()} == {"b": 32, "c": 16, "d": 48}
    with pytest.raises(KeyError):
        medium.root_changes({}, {"nothing"})
    full = {str(index): RootSlot(str(index), 0) for index in range(layout.ROOT_SLOTS)}
    with pytest.raises(OutOfSpaceError, match="all 1024 in use"):
        medium.root_changes(full, set())


# ---------------------------------------------------------------- superblocks


def test_superblock_copies_alternate(medium: FileMedium) -> None:
    """[R9]"""
    for turn in range(4):
        medium.write_superblock(sync=True, tail_lsn=64 * turn)
        superblock, copy = read_superblock(header_of(medium))
        assert (superblock, superblock.tail_lsn) == (medium.header.superblock, 64 * turn)
        medium.write_superblock(both=True, log_size=layout.LOG_BYTES)
        after = read_superblock(header_of(medium))
        assert after[0].generation == superblock.generation + 2
        assert after[1] == copy


# ---------------------------------------------------------------- logs


@pytest.mark.parametrize("nbytes", [UNIT, 2 * UNIT, 128 * KiB])
def test_heap_with_a_small_log_is_whole(tmp_path: Path, nbytes: int) -> None:
    medium = created(tmp_path / "heap", log_bytes=nbytes)
    assert medium.log_slot().file_bytes == nbytes
    first = medium.pieces()[0].slot
    assert first is not None
    assert first.file_off == layout.HEADER_BYTES + nbytes
    medium.close()
    again = openfile.open_path(tmp_path / "heap", readonly=False, limit=None)
    log = again.map_log()
    assert (log.length, log.address) == (nbytes, again.logs.address)
    again.close()


def test_log_moves(medium: FileMedium) -> None:
    """[R28] made, recorded, named by both superblocks, the old one dropped, its place used."""
    old = medium.map_log()
    old.view[:5] = b"first"
    index, slot = medium.allocate_log(MiB)
    assert index not in medium.segments
    medium.change(medium.log_slots(index, slot), durable=True)
    medium.write_superblock(both=True, sync=True, log_off=slot.file_off, log_size=slot.file_bytes)
    log = medium.map_log()
    assert not any(log.view)
    log.view[:6] = b"second"
    medium.drop_logs()
    assert medium.segments[0] == spare_slot(layout.HEADER_BYTES, layout.LOG_BYTES)
    small, place = medium.allocate_log(64 * KiB)
    assert (small, place.file_off) == (0, layout.HEADER_BYTES)
    assert not any(Path(medium.name).read_bytes()[place.file_off : place.file_stop])
    medium.give_up(small, place)
    assert bytes(log.view[:6]) == b"second"


@pytest.mark.parametrize("nbytes", [0, 100, UNIT + 1, LOG_MOST + UNIT])
def test_log_of_another_size_is_refused(medium: FileMedium, nbytes: int) -> None:
    with pytest.raises(UsageError, match="log: whole pages"):
        medium.allocate_log(nbytes)


# ---------------------------------------------------------------- shadow maps


def word(region: Region, table: str) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(region.tables[table].address(region.first_unit))


def test_shadow_does_not_reach_the_file(medium: FileMedium) -> None:
    """[R5] What the core stores stays with the process; the homes are what the file has."""
    medium.shadowed = True
    region = Region(medium, GiB)
    region.adopt(medium.pieces())
    assert set(region.tables) == {
        "data", "bits", "entries", "home_bits", "home_entries", "units"
    }  # fmt: skip
    region.grow(256, 256)
    slot = medium.pieces()[0].slot
    assert slot is not None
    for name, place in (("bits", slot.bits_off), ("entries", slot.entries_off)):
        word(region, name).value = 7
        assert word(region, f"home_{name}").value == 0
        word(region, f"home_{name}").value = 9
        assert word(region, name).value == 7
        image = Path(medium.name).read_bytes()[place : place + 8]
        assert int.from_bytes(image, "little") == 9
        assert region.base(f"home_{name}") != region.base(name)
    region.check()
    region.close()


def test_private_readonly_medium_can_be_stored_to(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    created(path).close()
    before = path.read_bytes()
    medium = openfile.open_path(path, readonly=True, limit=None)
    medium.private = True
    region = Region(medium, GiB)
    region.adopt(medium.pieces())
    for name in ("data", "bits", "entries"):
        word(region, name).value = 1
    assert path.read_bytes() == before
    region.close()
    medium.close()


def test_recovery_sees_the_header_before_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    created(path).close()

    def recover(file: HeapFile) -> None:
        assert file.header.superblock.durability == Durability.POWER
        assert file.segments == {}
        file.header.read(file.fd)
        put(file.header.image, Table.ROOTS, 3, RootSlot("from the log", 16).pack())

    for readonly in (True, False):
        medium = openfile.open_path(path, readonly=readonly, limit=None, recover=recover)
        assert medium.roots == {3: RootSlot("from the log", 16)}
        medium.close()
