"""Totals: a heap is asked about all of its arenas. Statistics added up, reports joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import groupby, pairwise
from typing import TypeVar

from pmemheap import native
from pmemheap.dataclass import replace
from pmemheap.errors import UsageError
from pmemheap.file.filemedium import FileMedium
from pmemheap.format.layout import ARENA_BITS, ArenaState, SegmentKind
from pmemheap.heap import beside, insight, units, waiting
from pmemheap.heap.insight import CheckReport, ClassStats, HeapStats
from pmemheap.heap.shared import Shared
from pmemheap.heap.space import Space, space_of
from pmemheap.progress import Progress

__all__ = ["blocks", "by_arena", "check", "spaces_of", "stats", "trim"]

_ADDED = (
    "allocated", "reserved", "quarantined", "active", "resident", "touched", "mapped", "metadata",
    "metadata_resident", "blocks", "free", "internal_waste", "growths", "shrinks", "live_views",
)  # fmt: skip
_FINDINGS_MOST = 64


T = TypeVar("T")


def spaces_of(shared: Shared) -> list[Space]:
    """Return all arenas that live, opened; the default one first."""
    shared.default.require()
    return shared.default.look(lambda: [shared.default, *shared.arenas.open_all()])


def _each(spaces: list[Space], ask: Callable[[Space], T]) -> list[T]:
    """Ask arenas one by one, without those that are dropped meanwhile."""
    answers = []
    for space in spaces:
        try:
            answers.append(ask(space))
        except UsageError:
            if not _was_dropped(space):
                raise
    return answers


def _was_dropped(space: Space) -> bool:
    return space.origin != 0 and space.closed and not space.shared.default.closed


def trim(shared: Shared, progress: Progress | None = None) -> int:
    """Give free space of all arenas back; return the bytes that the system counts less."""
    scratch = [] if shared.scratch is None else [space_of(shared.scratch)]
    spaces = [*spaces_of(shared), *scratch]
    return sum(_each(spaces, lambda space: space.serve(units.trim, space, progress)))


def blocks(space: Space) -> Iterable[tuple[int, int]]:
    """Return ``(offset, usable size)`` of the live blocks of all arenas, by offset."""
    return beside.listed(space, lambda now: _blocks(now.shared))


def _blocks(shared: Shared) -> Iterator[tuple[int, int]]:
    for space in sorted(spaces_of(shared), key=lambda each: each.origin):
        try:
            yield from units.blocks(space)
        except UsageError:
            if not _was_dropped(space):
                raise


# ---------------------------------------------------------------- statistics


def stats(space: Space) -> HeapStats:
    """Return how large and how full the heap is, all arenas together."""
    return beside.stats(space, lambda now: _stats(now.shared), space.shared.spaces())


def by_arena(space: Space) -> dict[str, HeapStats]:
    """Return how large and how full each arena is, by its name; the default one first."""
    found = beside.asked(space, lambda now: _by_arena(now.shared))
    if not space.shared.is_beside:
        return found
    own = {_name(each): each for each in space.shared.spaces()}  # the views of this process
    views = {name: own[name].core.live_views if name in own else 0 for name in found}
    return {name: replace(row, live_views=views[name]) for name, row in found.items()}


def _name(space: Space) -> str:
    return space.shared.medium.arenas[space.index].name


def _stats(shared: Shared) -> HeapStats:
    return _total(list(_by_arena(shared).values()))


def _by_arena(shared: Shared) -> dict[str, HeapStats]:
    spaces = spaces_of(shared)
    _each(spaces, lambda space: space.look(space.supply.read_all))  # which maps tables
    listing = cache(native.list_mappings)

    def ask(space: Space) -> tuple[str, HeapStats]:
        space.require()
        return space.look(lambda: (_name(space), insight.stats(space, listing)))

    return dict(_each(spaces, ask))


def _total(rows: list[HeapStats]) -> HeapStats:
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


# ---------------------------------------------------------------- checking


def check(space: Space) -> CheckReport:
    """Verify every structure of all arenas, while nobody commits."""
    return beside.asked(space, _checked)


def _checked(default: Space) -> CheckReport:
    with waiting.paused(default):
        return _check(default.shared)


def _check(shared: Shared) -> CheckReport:
    def ask(space: Space) -> CheckReport:
        space.require()
        return space.look(insight.check, space)

    reports = _each(spaces_of(shared), ask)
    return _joined(reports, shared.default.look(_between, shared))


def _between(shared: Shared) -> list[str]:
    places = [] if shared.file is None else _misplaced_segments(shared.file)
    return places + _lost_roots(shared)


def _joined(reports: Iterable[CheckReport], further: list[str]) -> CheckReport:
    """Return one report of what was found in each arena and between them."""
    rows = list(reports)
    findings = [finding for row in rows for finding in row.findings] + further
    return CheckReport(
        tuple(findings[:_FINDINGS_MOST]),
        sum(row.total for row in rows) + len(further),
        sum(row.blocks for row in rows),
        sum(row.units for row in rows),
    )


def _misplaced_segments(medium: FileMedium) -> list[str]:
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


def _lost_roots(shared: Shared) -> list[str]:
    """Find roots that lead to no arena of the heap."""
    arenas = shared.medium.arenas
    return [
        f"root {root.name!r}: a live block expected at {root.off:#x}, found no arena"
        for root in shared.root_slots
        if (slot := arenas.get(root.off >> ARENA_BITS)) is None or slot.state != ArenaState.LIVE
    ]
