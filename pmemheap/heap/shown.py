"""Shown: what a notebook shows of a heap, of its statistics, of explanations and reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pmemheap.errors import PmemHeapError
from pmemheap.notebook import bar, listed, table
from pmemheap.units import counted, format_bytes

if TYPE_CHECKING:
    from pmemheap.heap.insight import CheckReport, Explanation, HeapStats

__all__ = ["explanation_html", "report_html", "space_html", "stats_html", "stats_rows"]

_FINDINGS_SHOWN = 20


def stats_rows(stats: HeapStats) -> dict[str, str]:
    """Return the figures of a heap as a whole, in words."""
    waste = stats.internal_waste / stats.allocated if stats.allocated else 0.0
    blocks = "1 block" if stats.blocks == 1 else f"{stats.blocks:,} blocks"
    rows = {
        "live": f"{format_bytes(stats.allocated)} in {blocks}",
        "in use": f"{format_bytes(stats.active)}, with the free blocks of runs",
        "free": f"{format_bytes(stats.free)}, longest piece {format_bytes(stats.largest_free)}",
        "external fragmentation": f"{stats.external_fragmentation:.1%}",
        "waste inside blocks": f"{format_bytes(stats.internal_waste)}, {waste:.1%} of what lives",
        "in memory": f"{format_bytes(stats.touched)}, of which tables "
        f"{format_bytes(stats.metadata_resident)}",
        "mapped": f"{format_bytes(stats.mapped)}, tables included",
        "segments": f"{stats.growths:,} added and {stats.shrinks:,} given back since it was opened",
        "live views": f"{stats.live_views:,}",
    }
    if stats.file_bytes:
        rows["file"] = (
            f"{format_bytes(stats.file_bytes)}, of which {format_bytes(stats.file_blocks)} on disk"
        )
    return rows


def stats_html(stats: HeapStats, title: str = "statistics of a heap") -> str:
    """Return the figures, and how much lives, is room in runs, and is free."""
    room = stats.active - stats.allocated
    return table(
        title, stats_rows(stats),
        under=bar({"live": stats.allocated, "in use besides": room, "free": stats.free}),
    )  # fmt: skip


def space_html(title: str, state: str, stats: Callable[[], HeapStats]) -> str:
    """Return what a heap or arena is: its figures, or why there are none."""
    if state in {"closed", "forked"}:
        return table(title, {"state": state})
    try:
        return stats_html(stats(), f"{title}, {state}")
    except PmemHeapError as error:
        return table(title, {"state": state, "figures": f"none: {error}"})


def explanation_html(found: Explanation) -> str:
    """Return whether a request would be served, and what would help."""
    verdict = "would be served" if found.possible else "would be refused"
    rows = {
        "asked for": f"{format_bytes(found.size)}, {format_bytes(found.rounded)} with rounding",
        "verdict": f"{verdict}; {'fits into' if found.fits else 'does not fit into'} free space",
        "free": f"{format_bytes(found.free)}, longest piece {format_bytes(found.largest_free)}",
        "address space kept free": format_bytes(found.headroom),
    }
    for name, room in {
        "left to the limit": found.room_to_limit,
        "left in the budget": found.room_in_budget,
        "free on disk": found.disk_free,
    }.items():
        if room is not None:
            rows[name] = format_bytes(room)
    if found.refusal:
        rows["refused"] = found.refusal
    if found.advice:
        rows["advice"] = "; ".join(found.advice)
    return table("explanation", rows)


def report_html(found: CheckReport) -> str:
    """Return whether a heap is sound, and the first findings."""
    if found:
        return table("check", {"sound": str(found).removeprefix("sound: ")})
    shown = found.findings[:_FINDINGS_SHOWN]
    title = f"check: {counted(found.total, 'finding')}, {len(shown)} of them here"
    return listed(title, ["finding"], [[each] for each in shown])
