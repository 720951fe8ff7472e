"""Insight: how large and how full a heap is, why it cannot serve a request, whether it is sound.

Five nested numbers, as jemalloc has them: allocated <= active <= resident <= mapped, and for files
what the file system counts. All functions run under the heap's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pmemheap import native
from pmemheap.dataclass import dataclass, field, replace
from pmemheap.errors import OutOfSpaceError, PmemHeapError
from pmemheap.format.layout import ARENA_BITS, DATA_WIDTH, SEGMENT_UNITS
from pmemheap.heap import units
from pmemheap.heap.place import place_of
from pmemheap.heap.shown import explanation_html, report_html, stats_html
from pmemheap.heap.space import Space
from pmemheap.heap.work import try_reserve
from pmemheap.native.constants import Finding, Refusal, State
from pmemheap.refusals import refusals
from pmemheap.space.size_classes import class_of
from pmemheap.units import UNIT, align_up, counted, format_bytes

__all__ = [
    "CheckReport",
    "ClassStats",
    "ExplainedOutOfSpaceError",
    "Explanation",
    "HeapStats",
    "check",
    "explain",
    "explained",
    "stats",
]


# ---------------------------------------------------------------- statistics


@dataclass(frozen=True)
class ClassStats:
    """One size class: bytes of a block, blocks in use, runs, and how full those are (0 to 1)."""

    size: int
    blocks: int
    runs: int
    fullness: float
    mallocs: int
    mean_request: float


@dataclass(frozen=True)
class HeapStats:
    """The size of a heap, in bytes unless the name says otherwise.

    Attributes
    ----------
    allocated : int
        In live blocks, as rounded up to their size class or to whole units.
    reserved, quarantined : int
        In blocks of open transactions, and of arrays of `numpy_allocator`; in blocks that were
        freed but may not be used again until that is durable, or until their last view goes.
        `quarantined` has also all that was free when the writer came, as long as there are
        snapshots of before that may show it.
    active : int
        In runs and large blocks: `allocated`, `reserved`, `quarantined`, and the free blocks of
        runs.
    resident : int
        Of memory that is in use, tables included: `touched`, but all that is active counts, also
        where it was never stored to.
    touched : int
        Of memory as the kernel counts it for this process now, tables included. What other
        processes have mapped too counts whole in each.
    mapped : int
        Of address space with something behind it, tables included.
    metadata, metadata_resident : int
        Of the tables: mapped, and in memory.
    blocks : int
        Number of live blocks.
    free : int
        In free units.
    largest_free : int
        In the longest range of free units, merged as far as it is now.
    internal_waste : int
        Inside live blocks beyond what was asked for. Exact for large blocks; for small ones by the
        mean request of the class since the heap was opened.
    external_fragmentation : float
        0 when all free units are in one range, towards 1 when they are scattered.
    file_bytes, file_blocks : int
        Length of the file, and of its blocks; 0 in anonymous memory.
    headroom : int
        Of address space kept free for growth.
    growths, shrinks : int
        Segments added and given back since the heap was opened.
    live_views : int
        Memoryviews made by `view` that live, with their slices and arrays; arrays of
        `numpy_allocator`.
    classes : tuple of ClassStats
        The size classes that were ever used.
    """

    allocated: int
    reserved: int
    quarantined: int
    active: int
    resident: int
    touched: int
    mapped: int
    metadata: int
    metadata_resident: int
    blocks: int
    free: int
    largest_free: int
    internal_waste: int
    external_fragmentation: float
    file_bytes: int
    file_blocks: int
    headroom: int
    growths: int
    shrinks: int
    live_views: int
    classes: tuple[ClassStats, ...]

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        return stats_html(self)


def memory_of(space: Space, listing: Callable[[], bytes] = native.list_mappings) -> dict[str, int]:
    """Return the memory behind each table of an arena as the kernel counts it.

    Parameters
    ----------
    listing : callable, optional
        As `native.residencies` has it.

    Raises
    ------
    PmemHeapError
        The system refuses.
    """
    with refusals("resident memory of a heap"):
        found = space.region.residency(listing)
    return {name: each.resident for name, each in found.items()}


def stats(space: Space, listing: Callable[[], bytes] = native.list_mappings) -> HeapStats:
    """Collect the statistics of an arena; `listing` as `memory_of` has it."""
    supply, region, file = space.supply, space.region, space.shared.file
    supply.read_all()
    counters, rows = space.core.usage()
    classes, small_bytes, small_waste = _classes(rows)
    memory = memory_of(space, listing)
    touched = sum(memory.values())
    metadata = touched - memory["data"]
    active = UNIT * units.used(counters)
    free, longest = supply.free_units(), max(supply.longest(), counters["pool_longest_units"])
    file_bytes, file_blocks = (0, 0) if file is None else file.allocated()
    large = counters["large_units"] * UNIT
    return HeapStats(
        allocated=small_bytes + large + counters["packed_bytes"],
        reserved=counters["reserved_bytes"],
        quarantined=counters["quarantined_bytes"] + UNIT * _shown_units(space, counters, free),
        active=active,
        resident=max(touched, active + metadata),
        touched=touched,
        mapped=region.mapped_bytes,
        metadata=region.mapped_bytes - region.nunits * DATA_WIDTH,
        metadata_resident=metadata,
        blocks=sum(each.blocks for each in classes)
        + counters["large_blocks"]
        + counters["packed_blocks"],
        free=free * UNIT,
        largest_free=longest * UNIT,
        internal_waste=small_waste + large - counters["large_bytes"],
        external_fragmentation=1 - min(longest, free) / free if free else 0.0,
        file_bytes=file_bytes,
        file_blocks=file_blocks,
        headroom=region.headroom,
        growths=region.growths,
        shrinks=region.shrinks,
        live_views=counters["live_views"],
        classes=classes,
    )


def _shown_units(space: Space, counters: Mapping[str, int], free: int) -> int:
    """Return the units that are neither in use nor free: snapshots of before may show them."""
    supply = space.supply
    if supply.shown is None or not supply.is_shown():
        return 0
    return space.region.nunits - units.used(counters) - free


def _classes(counted: Sequence[tuple[int, ...]]) -> tuple[tuple[ClassStats, ...], int, int]:
    """Return the classes in use, the bytes of their blocks and the estimated waste inside."""
    rows, allocated, waste = [], 0, 0.0
    for size, _, run_blocks, runs, live, mallocs, requested, _ in counted:
        if not (runs or mallocs):
            continue
        mean = requested / mallocs if mallocs else float(size)
        fullness = live / (runs * run_blocks) if runs else 0.0
        rows.append(ClassStats(size, live, runs, fullness, mallocs, mean))
        allocated += size * live
        waste += (size - mean) * live
    return tuple(rows), allocated, round(waste)


# ---------------------------------------------------------------- explaining


@dataclass(frozen=True)
class Explanation:
    """Whether a request could be served, and if not, why and what would help. Bytes.

    Attributes
    ----------
    size, rounded : int
        Asked for; what a block for it would take.
    possible : bool
        Whether it would be served now; of a reader, whether a writer would be.
    fits : bool
        Whether it would be without growth.
    free, largest_free : int
        Free in all, and in the longest piece.
    limit, room_to_limit : int or None
        The limit chosen for the heap, and how much is left of it.
    disk_free : int or None
        Free on the file system.
    headroom : int
        Address space kept free for growth.
    refusal : str
        What refused the request, if one was refused.
    advice : tuple of str
        What would help.
    room_in_budget : int or None
        How much is left of the budget that the heap is in, before others are asked to free.
    """

    size: int
    rounded: int
    possible: bool
    free: int
    largest_free: int
    limit: int | None
    room_to_limit: int | None
    disk_free: int | None
    headroom: int
    fits: bool
    refusal: str = ""
    advice: tuple[str, ...] = field(default=())
    room_in_budget: int | None = None

    def __str__(self) -> str:
        """Say it in a few lines."""
        verdict = "fits into free space" if self.fits else "needs the heap to grow"
        lines = [
            f"{self.size} bytes ({format_bytes(self.rounded)} with rounding): {verdict}; "
            f"free {format_bytes(self.free)}, longest piece {format_bytes(self.largest_free)}"
        ]
        if self.limit is not None:
            lines.append(
                f"limit {format_bytes(self.limit)}, left {format_bytes(self.room_to_limit or 0)}"
            )
        if self.disk_free is not None:
            lines.append(f"free on disk {format_bytes(self.disk_free)}")
        if self.room_in_budget is not None:
            lines.append(f"left in the budget {format_bytes(self.room_in_budget)}")
        lines.append(f"address space kept free {format_bytes(self.headroom)}")
        lines.extend(self.advice)
        return "; ".join(lines)

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        return explanation_html(self)


class ExplainedOutOfSpaceError(OutOfSpaceError):
    """A refused request with its `explanation`."""

    def __init__(self, message: str, explanation: Explanation) -> None:
        super().__init__(f"{message} [{explanation}]")
        self.explanation = explanation


def explain(space: Space, size: int, align: int, refusal: str) -> Explanation:
    """Explain what would become of a request now, or why it has just been refused."""
    supply, file = space.supply, space.shared.file
    supply.read_all()
    space.strategy.require_fit("explain", size, align)
    rounded, nunits = _rounded(space, size, align)
    free, counters = supply.free_units() * UNIT, space.core.usage()[0]
    longest = max(supply.longest(), counters["pool_longest_units"]) * UNIT
    room = longest
    if space.strategy.is_at_end:
        room = (supply.extents.room_at_end() + counters["wilderness_units"]) * UNIT
    needed = nunits + max(align // UNIT - 1, 0)
    fits = _has_place(space, size, align, rounded) or room >= needed * UNIT
    possible = not refusal and (
        fits or supply.could_grow(needed) or _can_be_gathered(space, size, align)
    )
    limit = space.shared.medium.limit
    used = space.region.mapped_bytes if file is None else file.file_end
    left = None if limit is None else max(limit - used, 0)
    disk = None if file is None else file.disk_free()
    found = Explanation(
        size, rounded, possible, free, longest, limit, left, disk,
        space.region.headroom, fits, refusal, room_in_budget=_room_in_budget(space),
    )  # fmt: skip
    return replace(found, advice=_advice(found, nunits * UNIT))


def _has_place(space: Space, size: int, align: int, rounded: int) -> bool:
    """Tell whether a small block fits between others."""
    if space.placement is not None:
        return space.placement.has_room(size, align)
    return units.has_free_block(space, rounded)


def _room_in_budget(space: Space) -> int | None:
    ledger = space.region.ledger
    return None if ledger is None else max(ledger.room(), 0)


def explained(
    space: Space, error: OutOfSpaceError, size: int, align: int
) -> ExplainedOutOfSpaceError:
    """Return what to raise for a request that was refused, with an explanation."""
    if isinstance(error, ExplainedOutOfSpaceError):
        return error
    space.require()
    return ExplainedOutOfSpaceError(str(error), space.look(explain, space, size, align, str(error)))


def _rounded(space: Space, size: int, align: int) -> tuple[int, int]:
    """Return the bytes a block takes, and the units that must be free in one piece for it."""
    if not space.strategy.has_classes:
        return space.strategy.rounded(size), space.strategy.units_wanted(size, align)
    found, whole = class_of(size, align), -(-size // UNIT)
    return (whole * UNIT, whole) if found is None else (found.size, found.run_units)


def _can_be_gathered(space: Space, size: int, align: int) -> bool:
    """Tell whether a heap that cannot grow has the space all the same, scattered or withheld.

    It is tried: a block is reserved, which nobody sees, and let go again.
    """
    counters = space.core.usage()[0]
    most = space.supply.free_units() + counters["run_units"] + counters["quarantined_units"]
    missing = -(-size // UNIT) - most
    if space.core.state != State.OPEN or (missing > 0 and not space.region.could_grow(missing)):
        return False
    try:
        try_reserve(space, size, align)
    except OutOfSpaceError:
        return False
    return True


def _advice(found: Explanation, needed: int) -> tuple[str, ...]:
    """Say what would help a request that needs `needed` bytes in one piece, and growth for them."""
    if found.possible or found.fits:
        return ()
    advice = []
    growth = align_up(needed, SEGMENT_UNITS * UNIT)
    room, disk = found.room_to_limit, found.disk_free
    if found.free >= needed:
        advice.append(
            "free space is scattered: freeing neighbours, or trim() and smaller blocks, would help"
        )
    if room is not None and room < growth:
        advice.append(f"a larger limit= would help: the heap grows by {format_bytes(growth)} here")
    if found.room_in_budget is not None and found.room_in_budget < growth:
        advice.append("a higher limit of the budget, or an evict that frees, would help")
    if disk is not None and disk < growth:
        advice.append("free space on the file system would help")
    if found.headroom < growth:
        advice.append("a larger headroom= when the heap is opened would help")
    return tuple(advice)


# ---------------------------------------------------------------- checking

_FINDINGS: dict[int, tuple[str, str]] = {
    Finding.ENTRY_WORD: ("unit {unit}", "entry word"),
    Finding.ENTRY_BYTES: ("unit {unit}", "entry bytes"),
    Finding.STRAY_BITS: ("unit {unit}", "allocation bits outside of runs"),
    Finding.MISPLACED_BITS: ("unit {unit}", "allocation bits between the blocks of a run"),
    Finding.RUN_LIVE: ("run at unit {unit}", "blocks in use"),
    Finding.RUN_UNITS: ("run at unit {unit}", "units"),
    Finding.RUN_BODY: ("unit {unit}", "record of a run's further unit"),
    Finding.FREE_ENDS: ("free range at unit {unit}", "record at its other end"),
    Finding.UNMERGED: ("free range at unit {unit}", "neighbours merged"),
    Finding.OVERLAP: ("unit {unit}", "a piece inside the heap"),
    Finding.STATE: ("unit {unit}", "record of a first unit"),
    Finding.LINK: ("unit {unit}", "link of a free list"),
    Finding.BIN_MASK: ("bin {unit}", "mask of bins in use"),
    Finding.FREE_COUNT: ("pool", "number of free ranges"),
    Finding.FREE_UNITS: ("pool", "free units"),
    Finding.CLASS_LIVE: ("size class {unit}", "blocks in use"),
    Finding.CLASS_RUNS: ("size class {unit}", "runs"),
    Finding.CLASS_ROOMY: ("size class {unit}", "runs with room"),
    Finding.RETURNED: ("freed extents", "units"),
    Finding.RUN_COUNT: ("heap", "units in runs"),
    Finding.LARGE_UNITS: ("heap", "units in large blocks"),
    Finding.LARGE_BYTES: ("heap", "bytes in large blocks"),
    Finding.LARGE_COUNT: ("heap", "large blocks"),
    Finding.RUN_WITHHELD: ("run at unit {unit}", "withheld blocks"),
    Finding.WITHHELD_BITS: ("unit {unit}", "withheld blocks that are live, or none of the run"),
    Finding.CLASS_WITHHELD: ("size class {unit}", "withheld blocks"),
    Finding.CLASS_MASK: ("size class {unit}", "free blocks of the word in service"),
    Finding.WITHHELD_COUNT: ("heap", "withheld blocks and words with some"),
    Finding.WITHHELD_UNITS: ("heap", "units in withheld large blocks"),
    Finding.WITHHELD_BYTES: ("heap", "bytes in withheld blocks"),
    Finding.CHUNK_BITS: ("chunk at unit {unit}", "bits that no pieces make"),
    Finding.CHUNK_LIVE: ("chunk at unit {unit}", "pieces in use, and granules that are not"),
    Finding.CHUNK_WITHHELD: ("chunk at unit {unit}", "withheld pieces"),
    Finding.CHUNK_BODY: ("unit {unit}", "record of a chunk's further unit"),
    Finding.CHUNK_COUNT: ("heap", "units, pieces and bytes in chunks"),
    Finding.TAGGED: ("unit {unit}", "bytes in quarantine that wait for readers"),
    Finding.TAG_ERA: ("unit {unit}", "an era that is no older than the one before"),
}


@dataclass(frozen=True)
class CheckReport:
    """The findings of `Heap.check`; true if there are none.

    Attributes
    ----------
    findings : tuple of str
        Place, what was expected, what was found; at most 64 of them.
    total : int
        Findings in all.
    blocks, units : int
        What was looked at.
    """

    findings: tuple[str, ...]
    total: int
    blocks: int
    units: int

    def __bool__(self) -> bool:
        """Tell whether the heap is sound."""
        return self.total == 0

    def __str__(self) -> str:
        """Say it in lines."""
        if self:
            return f"sound: {counted(self.blocks, 'block')} in {counted(self.units, 'unit')}"
        return "\n".join((counted(self.total, "finding"), *self.findings))

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        return report_html(self)


def check(space: Space) -> CheckReport:
    """Verify a heap: core against tables, extents against core, roots and segments."""
    findings: list[str] = []
    total = 0
    try:
        space.supply.read_all()
    except PmemHeapError as error:
        return CheckReport((str(error),), 1, 0, space.region.nunits)
    total, raw = space.core.check_core()
    for code, unit, expected, found in raw:
        place, what = _FINDINGS[code]
        findings.append(
            f"{place.format(unit=unit)}: {what}: {expected:#x} expected, {found:#x} found"
        )
    checks = [space.supply.check, space.region.check]
    if space.placement is not None:
        checks.append(space.placement.check)
    for verify in checks:
        try:
            verify()
        except AssertionError as error:
            findings.append(f"{verify.__qualname__}: {error}")
            total += 1
    for name, offset in _named(space):
        if place_of(space.core, offset).refusal == Refusal.BAD_OFFSET:
            findings.append(f"root {name!r}: a live block expected at {offset:#x}, none found")
            total += 1
    counters, rows = space.core.usage()
    blocks = sum(row[4] for row in rows) + counters["large_blocks"] + counters["packed_blocks"]
    return CheckReport(tuple(findings), total, blocks, space.region.nunits)


def _named(space: Space) -> Iterator[tuple[str, int]]:
    """Yield the roots that lead into an arena."""
    for root in space.shared.root_slots:
        if root.off >> ARENA_BITS == space.index:
            yield root.name, root.off
