"""Tables: the slots of segments, arenas and roots, each for itself and against the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import pairwise

from pmemheap.errors import CorruptHeapError
from pmemheap.format import layout
from pmemheap.format.layout import (
    ArenaSlot,
    RootSlot,
    SegmentKind,
    Table,
    slot_offset,
)
from pmemheap.format.superblock import Superblock
from pmemheap.offline.findings import Edit, Finding, FindingKind, Findings
from pmemheap.offline.image import Image
from pmemheap.offline.segments import Derivation, Judge, doubtful_arenas, note_strays
from pmemheap.offline.slots import (
    BadSlot,
    Slots,
    raw_slots,
    read_arenas,
    read_segments,
    segments_inside,
)
from pmemheap.offline.strategies import strategy_of

__all__ = ["Slots", "check_roots", "read_tables"]

_CLEARED = ("the slot is cleared", "")


def read_tables(  # noqa: PLR0913, PLR0917 -- what is known
    image: Image, superblock: Superblock | None, file_end: int | None, named: Collection[int],
    findings: Findings, judge: Judge,
) -> Slots:  # fmt: skip
    """Read and check the three tables.

    Parameters
    ----------
    file_end : int or None
        What superblock and log say that the file needs.
    named : collection of int
        Arenas that the log writes to.
    judge : Judge
        Tells of pieces of the file that no slot describes whether they read like segments.
    """
    slots = Slots()
    whole = file_end is not None and file_end <= image.size
    bad_segments = read_segments(image, slots, image.size if whole else 1 << 62)
    bad_arenas = read_arenas(image, slots)
    doubts = doubtful_arenas(slots, bad_arenas, named)
    Derivation(image.size, superblock, file_end, slots, bad_segments, doubts, findings, judge).run()
    _derive_arenas(image, slots, bad_arenas, findings)
    note_strays(slots, superblock, findings)
    _read_roots(image, slots, findings)
    return slots


# ---------------------------------------------------------------- arenas


def _derive_arenas(image: Image, slots: Slots, bad: list[BadSlot], findings: Findings) -> None:
    """Tell the range of an arena whose slot is lost, or contradicts its segments."""
    lost = {each.index: each for each in bad}
    for index in sorted({*lost, *slots.arenas_without_slot}):
        slots.sound_arenas.pop(index, None)
        _derive_arena(image, slots, index, lost.get(index), findings)
    _check_covered(slots, findings)


def _derive_arena(
    image: Image, slots: Slots, index: int, old: BadSlot | None, findings: Findings
) -> None:
    mine = [s for s in slots.segments.values() if s.kind == SegmentKind.DATA and s.arena == index]
    place = slot_offset(Table.ARENAS, index)
    found = old.reason if old is not None else "none"
    if not mine:
        findings.add(
            Finding(
                FindingKind.ARENA, f"arena slot {index}", place,
                "a sound slot" if index == 0 else "an empty slot, as no segment is of that arena",
                found,
                "no block is affected" if index else "no segment of the default arena is left",
                *(*_CLEARED, (Edit(place, bytes(layout.SLOT_BYTES)),)) if index else (),
            )
        )  # fmt: skip
        return
    name = _name_of(index, old, slots)
    arena = ArenaSlot(
        min(slot.first_unit for slot in mine),
        max(slot.first_unit + slot.nunits for slot in mine),
        name,
        strategy_of(image, mine),
    )
    slots.arenas[index] = arena
    findings.add(
        Finding(
            FindingKind.ARENA, f"arena slot {index}", place,
            f"units {arena.first_unit} to {arena.end_unit}, as its segments say", found,
            "its blocks are unaffected" + (f"; its name seems to be {name!r}" if index else ""),
            "the slot is written from the segments", "", (Edit(place, arena.pack()),),
        )
    )  # fmt: skip


def _name_of(index: int, old: BadSlot | None, slots: Slots) -> str:
    if index == 0:
        return ""
    raw = (
        old.image[25 : 25 + min(old.image[24], layout.ARENA_NAME_BYTES)] if old is not None else b""
    )
    name = raw.decode(errors="ignore")
    taken = {arena.name for arena in slots.arenas.values()}
    return name if name.isprintable() and name not in taken | {""} else f"arena {index}"


def _check_covered(slots: Slots, findings: Findings) -> None:
    """Check what is left after the derivation of segments."""
    for index, arena in slots.live.items():
        inside = sorted(
            segments_inside(slots.segments.values(), index, arena), key=lambda s: s.first_unit
        )
        if not inside or any(
            left.first_unit + left.nunits > right.first_unit for left, right in pairwise(inside)
        ):
            findings.add(
                Finding(
                    FindingKind.ARENA, f"arena slot {index}", slot_offset(Table.ARENAS, index),
                    "segments that follow each other",
                    f"{[(s.first_unit, s.first_unit + s.nunits) for s in inside]}",
                    "two segments claim the same units, or none does; `salvage` copies what has "
                    "one owner",
                )
            )  # fmt: skip
            continue
        end = inside[-1].first_unit + inside[-1].nunits
        if end > arena.end_unit:
            _report_end(slots, index, arena, end, findings)


def _report_end(slots: Slots, index: int, arena: ArenaSlot, end: int, findings: Findings) -> None:
    right = replace(arena, end_unit=end)
    slots.arenas[index] = right
    slots.sound_arenas.pop(index, None)
    place = slot_offset(Table.ARENAS, index)
    findings.add(
        Finding(
            FindingKind.ARENA, f"arena slot {index}", place, f"units up to {end}",
            f"up to {arena.end_unit}", "blocks behind that unit are found again",
            "the slot is written from the segments", "", (Edit(place, right.pack()),),
        )
    )  # fmt: skip


# ---------------------------------------------------------------- roots


def _read_roots(image: Image, slots: Slots, findings: Findings) -> None:
    names: set[str] = set()
    for index, offset, data in raw_slots(image, Table.ROOTS):
        try:
            root = RootSlot.unpack(data, offset)
        except CorruptHeapError as error:
            findings.add(_bad_root(index, offset, data, str(error)))
            continue
        if root is None:
            continue
        if root.name in names:
            findings.add(_bad_root(index, offset, data, f"root {root.name!r} a second time"))
            continue
        names.add(root.name)
        slots.roots[index] = root


def _bad_root(index: int, offset: int, data: bytes, reason: str) -> Finding:
    name = data[21 : 21 + min(data[20], layout.ROOT_NAME_BYTES)].decode(errors="replace")
    target = int.from_bytes(data[:8], "little")
    seems = f"root {name!r} -> {target:#x}" if name else "a root, or nothing"
    return Finding(
        FindingKind.ROOT, f"root slot {index}", offset, "a sound slot, or zeros", reason,
        f"what stands there reads like {seems}, and cannot be trusted; the block is unaffected",
        "the slot is cleared", seems, (Edit(offset, bytes(layout.SLOT_BYTES)),),
    )  # fmt: skip


def check_roots(roots: Mapping[int, RootSlot], dead: Mapping[int, str], findings: Findings) -> None:
    """Report the roots that lead to no live block; `dead` says by slot what is there."""
    for index, what in dead.items():
        root = roots[index]
        place = slot_offset(Table.ROOTS, index)
        findings.add(
            Finding(
                FindingKind.ROOT, f"root {root.name!r}", place,
                f"a live block at {root.off:#x}", what,
                f"root {root.name!r} leads to no live block: what it named was freed, or its "
                "record is lost. Other blocks are not concerned",
                "the root is dropped", f"root {root.name!r} -> {root.off:#x}",
                (Edit(place, bytes(layout.SLOT_BYTES)),),
            )
        )  # fmt: skip
