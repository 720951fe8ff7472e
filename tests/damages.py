"""Every damage that `docs/recovery-tools.md` says how to mend, each in a file of its own."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from damage_load import BITS
from unplayed import unplayed
from wreck import LogWriter, Wreck, entry_place, segments, with_other_boot, wreck

from pmemheap import layout
from pmemheap.format.records import Operation
from pmemheap.layout import Durability, RootSlot, Table

Damage = Callable[[Path], Wreck]
DAMAGES: dict[str, Damage] = {}
COMMITS = 4


def damage(function: Damage) -> Damage:
    """Register what makes a damaged file in a directory."""
    DAMAGES[function.__name__.replace("_", "-")] = function
    return function


@damage
def superblock_copy(directory: Path) -> Wreck:
    made = wreck(directory)
    made.flip(made.current + 64)
    return made


@damage
def newest_superblock_and_a_longer_log(directory: Path) -> Wreck:
    made = wreck(directory)
    block = max(made.blocks)
    writer = LogWriter(made, Durability.POWER)
    writer.append(Operation.write(block, b"1111"))
    second = writer.append(Operation.write(block + 16, b"2222"), durable=writer.head)
    writer.append(Operation.write(block + 32, b"3333"), durable=second.end)
    place = writer.block.log_off + writer.records[0].lsn % writer.block.log_size
    writer.write((place, bytes(64)), (4096, b"torn"))
    return made


@damage
def log_before_acknowledged_commits(directory: Path) -> Wreck:
    made = wreck(directory)
    block = max(made.blocks)
    writer = LogWriter(made, Durability.POWER)
    writer.append(Operation.write(block, b"1111"))
    second = writer.append(Operation.write(block + 16, b"2222"))
    writer.append(Operation.write(block + 32, b"3333"), durable=second.end)
    writer.write((writer.block.log_off + second.lsn % writer.block.log_size + 70, b"\xff"))
    return made


@damage
def log_not_applied_and_a_root(directory: Path) -> Wreck:
    made = wreck(directory)
    writer = LogWriter(made, Durability.POWER)
    entry = struct.pack("<BBHIQ", 1, 0, 0, 2, 8000)
    writer.append(
        Operation.meta(Table.ENTRIES, 16 * 200, entry),
        Operation.write(4096 * 200, b"committed"),
        Operation.meta(Table.ROOTS, 64 * 30, RootSlot("new", 4096 * 200).pack()),
    )
    writer.write((layout.ROOT_TABLE + 64 * 900, b"rubbish"))
    return made


@damage
def segment_slot_and_a_log(directory: Path) -> Wreck:
    made = unplayed(directory, "segments", COMMITS)
    index = max(segments(made.image))
    made.change((layout.SEGMENT_TABLE + 64 * index, b"\xaa" * 64))
    return made


@damage
def arena_slot_and_a_log(directory: Path) -> Wreck:
    made = unplayed(directory, "arena", COMMITS)
    made.change((layout.ARENA_TABLE + 64, b"\xaa" * 64))
    return made


@damage
def root_slot(directory: Path) -> Wreck:
    made = wreck(directory)
    made.flip(layout.ROOT_TABLE + 3)
    return made


@damage
def root_to_no_block(directory: Path) -> Wreck:
    made = wreck(directory)
    made.change((layout.ROOT_TABLE, RootSlot("root 0", 4096 * 230).pack()))
    return made


@damage
def entry(directory: Path) -> Wreck:
    made = wreck(directory)
    made.change((entry_place(0), b"\x09"))
    return made


@damage
def entries_that_overlap(directory: Path) -> Wreck:
    made = wreck(directory)
    made.change((entry_place(1), struct.pack("<BBHIQ", 1, 0, 0, 40, 160_000)))
    return made


@damage
def bits_outside_of_runs(directory: Path) -> Wreck:
    made = wreck(directory)
    made.change((BITS + 32 * 200, b"\xff" * 32))
    return made


@damage
def longer_file(directory: Path) -> Wreck:
    made = wreck(directory)
    made.write(made.image + b"x" * 10_000)
    return made


@damage
def shorter_file(directory: Path) -> Wreck:
    made = wreck(directory)
    made.write(made.image[:-300_000])
    return made


@damage
def another_boot(directory: Path) -> Wreck:
    made = wreck(directory)
    made.write(with_other_boot(made.image, made.superblock))
    return made
