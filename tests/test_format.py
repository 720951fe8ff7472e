"""Formats: what Python packs and unpacks lies where the C core's header has it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import pytest

from pmemheap.containers import mapcensus, vectorstore
from pmemheap.format import records, superblock
from pmemheap.layout import ArenaSlot, RootSlot, SegmentSlot
from pmemheap.native.constants import Format, place, width
from pmemheap.offline import backups, extents
from pmemheap.traces import frames
from pmemheap.units import GRANULE, UNIT


def places(form: struct.Struct, start: int = 0) -> Iterator[int]:
    """Yield where each value of a format lies."""
    at = start
    for count, letter in re.findall(r"(\d*)([a-zA-Z])", form.format):
        if letter == "x":
            at += int(count or 1)
            continue
        for _ in range(1 if letter == "s" or not count else int(count)):
            yield at
            at += struct.calcsize(f"<{count if letter == 's' else ''}{letter}")


@pytest.mark.parametrize(
    ("name", "form", "first", "fields"),
    [
        (
            "ph_superblock", superblock._SUPERBLOCK, "magic",
            "magic version crc generation uuid durability state features_incompat "
            "features_compat file_end log_off log_size limit",
        ),
        ("ph_superblock", superblock._IDENTITY, "birth", "birth inode device"),
        (
            "ph_superblock", superblock._LOG_POSITION, "tail_lsn",
            "tail_lsn epoch chain_seed zero_2 boot_id",
        ),
        ("ph_superblock", superblock._BACKUP, "backup_length", "backup_length backup"),
        (
            "ph_segment_slot", SegmentSlot._FORMAT, "kind",
            "kind arena file_off capacity first_unit nunits",
        ),
        (
            "ph_arena_slot", ArenaSlot._FORMAT, "state",
            "state strategy first_unit end_unit name_length name",
        ),
        ("ph_root_slot", RootSlot._FORMAT, "off", "off copy crc name_length name"),
        ("ph_entry", extents._ENTRY, "kind", "kind class_index flags nunits nbytes"),
        (
            "ph_record", records._HEADER, "magic",
            "magic crc lsn epoch durable_lsn file_end zero total_len prev_crc txid nops kind pad",
        ),
        ("ph_op", records._OPERATION, "type", "type flags zero len off"),
        ("ph_node", mapcensus._NODE, "magic", "magic level zero count top waste prefix none"),
        ("ph_vector_counts", vectorstore.COUNTS, "magic", "magic block length high"),
        ("ph_vector_header", vectorstore.HEADER, "magic", "magic changes dtype"),
        ("ph_backup_header", backups._HEADER, "magic", "magic crc size uuid before after count"),
        (
            "ph_frame", frames.HEADER, "magic",
            "magic number length events first_site sites time events_crc crc",
        ),
        ("ph_backup_range", backups._RANGE, "offset", "offset length crc"),
    ],
)  # fmt: skip
def test_each_field_lies_where_c_has_it(
    name: str, form: struct.Struct, first: str, fields: str
) -> None:
    found = list(places(form, place(name, first)))
    assert found == [place(name, field) for field in fields.split()]
    assert place(name, first) + form.size <= width(name)


def test_units_and_granules_are_those_of_c() -> None:
    assert (UNIT, GRANULE) == (Format.UNIT, Format.GRANULE)
