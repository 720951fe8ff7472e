"""Totals: what the arenas of a heap are together. Statistics added up, reports joined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby, pairwise

from pmemheap.file.filemedium import FileMedium
from pmemheap.heap.insight import CheckReport, ClassStats, HeapStats
from pmemheap.layout import ARENA_BITS, ArenaSlot, ArenaState, SegmentKind

__all__ = ["joined", "lost_roots", "misplaced_segments", "total"]

_ADDED = (
    "allocated", "reserved", "quarantined", "active", "resident", "touched", "mapped", "metadata",
    "metadata_resident", "blocks", "free", "internal_waste", "growths", "shrinks", "live_views",
)  # fmt: skip
_FINDINGS_MOST = 64


def total(rows: list[HeapStats]) -> HeapStats:
    """Return the statistics of a heap from those of its arenas, the default one first.

    Length and blocks of the file, and the headroom, are those of the default arena.
    """
    if len(rows) == 1:
        return rows[0]
    sums = {name: sum(getattr(row, name) for row in rows) for name in _ADDED}
    longest = max(row.largest_free for row in rows)
    return replace(
        rows[0],
        **sums,
        largest_free=longest,
        external_fragmentation=1 - longest / sums["free"] if sums["free"] else 0.0,
        classes=_classes(one for row in rows for one in row.classes),
    )


def _classes(rows: Iterable[ClassStats]) -> tuple[ClassStats, ...]:
    """Add up the rows of each size class."""
    ordered = sorted(rows, key=lambda row: row.size)
    return tuple(_one_class(list(same)) for _, same in groupby(ordered, key=lambda row: row.size))


def _one_class(rows: list[ClassStats]) -> ClassStats:
    runs, mallocs = sum(row.runs for row in rows), sum(row.mallocs for row in rows)
    full = sum(row.fullness * row.runs for row in rows)
    requested = sum(row.mean_request * row.mallocs for row in rows)
    return ClassStats(
        rows[0].size, sum(row.blocks for row in rows), runs, full / runs if runs else 0.0,
        mallocs, requested / mallocs if mallocs else float(rows[0].size),
    )  # fmt: skip


def joined(reports: Iterable[CheckReport], further: list[str]) -> CheckReport:
    """Return one report of what was found in each arena and between them."""
    rows = list(reports)
    findings = [finding for row in rows for finding in row.findings] + further
    return CheckReport(
        tuple(findings[:_FINDINGS_MOST]),
        sum(row.total for row in rows) + len(further),
        sum(row.blocks for row in rows),
        sum(row.units for row in rows),
    )


def misplaced_segments(medium: FileMedium) -> list[str]:
    """Find segments of a file that overlap, or that belong to no arena."""
    findings = []
    slots = sorted(medium.segments.values(), key=lambda slot: slot.file_off)
    for left, right in pairwise(slots):
        if left.file_stop != right.file_off:
            findings.append(
                f"segment table: a segment at file offset {left.file_stop:#x} expected, "
                f"found one at {right.file_off:#x}"
            )
    for slot in slots:
        arena = medium.arenas.get(slot.arena)
        if slot.kind == SegmentKind.DATA and (arena is None or arena.state != ArenaState.LIVE):
            findings.append(
                f"segment at file offset {slot.file_off:#x}: a live arena expected, "
                f"found arena {slot.arena}"
            )
    return findings


def lost_roots(roots: Mapping[str, int], arenas: dict[int, ArenaSlot]) -> list[str]:
    """Find roots that lead to no arena of the heap."""
    return [
        f"root {name!r}: a live block expected at {offset:#x}, found no arena"
        for name, offset in roots.items()
        if (slot := arenas.get(offset >> ARENA_BITS)) is None or slot.state != ArenaState.LIVE
    ]
