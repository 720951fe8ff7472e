"""Examination: everything that can be told of a heap file without opening it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pmemheap import native
from pmemheap.errors import CorruptHeapError, HeapBusyError, HeapFileError
from pmemheap.file import locks
from pmemheap.format import layout
from pmemheap.format.header import read_tables as read_strictly
from pmemheap.format.layout import SegmentKind, SegmentSlot
from pmemheap.format.records import Record
from pmemheap.format.superblock import Superblock
from pmemheap.heap.arguments import AnyPath
from pmemheap.native import Lock
from pmemheap.offline.backups import Backup, backup_of, unfinished
from pmemheap.offline.entries import block_at
from pmemheap.offline.extents import Extent
from pmemheap.offline.findings import Finding, FindingKind, Findings, Severity
from pmemheap.offline.guessing import is_likely, looks_used, places_of_one
from pmemheap.offline.image import Disk, Image, Overlay, disk_of
from pmemheap.offline.places import Places
from pmemheap.offline.replaying import Unplaced, arenas_written, replay, replay_header
from pmemheap.offline.superblocks import Log, read_log, read_superblocks
from pmemheap.offline.tables import Slots, check_roots, read_tables
from pmemheap.offline.units import UnitWalk
from pmemheap.progress import Progress, Steps
from pmemheap.refusals import refusal, refusals

__all__ = ["Examination", "examine", "open_image"]


@dataclass
class Examination:
    """What was found.

    Attributes
    ----------
    image : Image
        The file; as it was before a repair that was ended in the middle.
    copies : tuple of Superblock or None
        Both superblocks; `current` is the index of the one that counts, None without one.
    view : Overlay
        The file with the log applied, and with the slots that could be derived.
    replayed : Overlay
        The file with the log applied, nothing else. The derived slots say where its writes go.
    unplaced : list of Unplaced
        What the log says of units that no segment holds; it is in neither of the two.
    blocks, block_bytes, runs, large, used_units : int
        Live blocks and what they take.
    """

    image: Image
    copies: tuple[Superblock | None, Superblock | None]
    current: int | None
    log: Log
    slots: Slots
    places: Places
    replayed: Overlay
    view: Overlay
    unplaced: list[Unplaced]
    findings: Findings
    blocks: int = 0
    block_bytes: int = 0
    runs: int = 0
    large: int = 0
    used_units: int = 0

    @property
    def size(self) -> int:
        """Length of the file."""
        return self.image.size

    @property
    def is_mapped(self) -> bool:
        """Whether it is known what every part of the file is."""
        has_data = any(slot.kind == SegmentKind.DATA for slot in self.slots.segments.values())
        return self.superblock is not None and has_data and not self.slots.unexplained

    @property
    def superblock(self) -> Superblock | None:
        """The superblock that counts."""
        return None if self.current is None else self.copies[self.current]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged."""
        return self.findings.damage == 0

    @property
    def is_copy(self) -> bool:
        """Whether it is a copy of a heap in use: if it is sound, it opens read-only alone."""
        return any(finding.kind == FindingKind.COPY for finding in self.findings)

    @property
    def is_heap(self) -> bool:
        """Whether the file can be told to be a heap."""
        return not self.findings.has(FindingKind.NO_HEAP)

    def extents(self) -> Iterator[Extent]:
        """Yield the sound extents once more; O(1) memory."""
        yield from UnitWalk(self.view, self.places, Findings(), self.size).extents()


@contextmanager
def open_image(path: AnyPath, *, write: bool = False) -> Iterator[Disk]:
    """Open a file to look at it, as a reader of the heap, or as its writer to mend it.

    Raises
    ------
    HeapNotFoundError, HeapPermissionError, HeapBusyError
        No such file; no permission; a process has the heap open.
    HeapFileError
        No regular file, or what else the system refuses.
    """
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    name = os.fsdecode(path)
    try:
        fd = os.open(name, flags)
    except OSError as error:
        raise refusal(f"heap file {name!r}", error, name) from error
    try:
        if not Path(name).is_file():
            raise HeapFileError(
                f"heap file {name!r}: a regular file expected, found something else",
                errno.EINVAL,
                name,
            )
        with refusals(f"heap file {name!r}: lock", name):
            _lock(fd, name, write=write)
        yield Disk(fd, Path(os.path.realpath(name)))
    finally:
        os.close(fd)


def _lock(fd: int, name: str, *, write: bool) -> None:
    if write:
        free = locks.become_writer(fd)
        for place in (layout.LOCK_READER, layout.LOCK_FOLLOWER):
            free = free and native.lock_byte(fd, place, Lock.WRITE)
    else:
        locks.become_reader(fd)
        free = not locks.has_writer(fd)
    if not free:
        raise HeapBusyError(
            f"heap file {name!r}: no other user expected, process {locks.holder(fd)} has it open",
            filename=name,
        )


def examine(
    image: Image,
    on_extent: Callable[[Extent], None] | None = None,
    *,
    progress: Progress | None = None,
) -> Examination:
    """Check everything against everything. O(units) time, O(1) memory; nothing is changed.

    Parameters
    ----------
    image : Image
        A file, or a file under changes.
    on_extent : callable, optional
        Is given each sound extent.
    progress : Progress, optional
        Is told of the units.
    """
    findings = Findings()
    image = _before_repair(image, findings)
    copies, current = read_superblocks(image, findings)
    superblock = None if current is None else copies[current]
    log = read_log(image, superblock, findings)
    replayed = Overlay(image)
    replay_header(replayed, log.pending)
    before = len(findings.kept)
    file_end = log.scan.file_end or (superblock.file_end if superblock is not None else None)
    named, judge = arenas_written(log.pending), _ByContents(replayed, log.pending)
    slots = read_tables(replayed, superblock, file_end, named, findings, judge)
    places = Places(slots.segments, slots.live)
    unplaced = replay(replayed, log.pending, places, slots.sound_arenas)
    view = Overlay(replayed)
    for finding in findings.kept[before:]:
        for edit in finding.edits:
            view.put(edit.offset, edit.data)
    made = Examination(
        image, copies, current, log, slots, places, replayed, view, unplaced, findings
    )
    _check_placed(made)
    _check_size(made)
    _walk(made, on_extent, progress)
    _check_roots(made)
    _check_unreadable(image, findings)
    if made.is_sound and superblock is not None:
        _cross_check(made, superblock)
    return made


def _before_repair(image: Image, findings: Findings) -> Image:
    """Return what a file under repair was before, as far as the backup of the repair is there."""
    mark = unfinished(image)
    if mark is None:
        return image
    backup = backup_of(image, mark)
    findings.add(_under_repair(mark, backup))
    if backup is None:
        return image
    before = Overlay(image)
    before.resize(backup.size)
    for edit in backup.ranges:
        before.put(edit.offset, edit.data)
    return before


def _under_repair(mark: Superblock, backup: Backup | None) -> Finding:
    expected, found = "a heap that is not under repair", "a repair that was ended in the middle"
    if backup is None:
        return Finding(
            FindingKind.UNDER_REPAIR, "superblock", layout.SUPERBLOCKS[0], expected, found,
            f"parts of the file are as they were, others as they were to be; its backup "
            f"{mark.backup!r} has the former, and does not lie beside it, or is damaged. With it "
            "`pmemheap repair --undo` takes the repair back",
        )  # fmt: skip
    return Finding(
        FindingKind.UNDER_REPAIR, "superblock", layout.SUPERBLOCKS[0], expected, found,
        f"nothing is lost: its backup {mark.backup!r} has all that it had changed, and what is "
        "said here is true of the file as it was before",
        "what the repair had changed is put back", "", backup.ranges, new_size=backup.size,
    )  # fmt: skip


class _ByContents:
    """Judges pieces of a file by what lies there, and by what the log would put there."""

    def __init__(self, image: Image, pending: Sequence[Record]) -> None:
        self._image = image
        self._pending = pending

    def reads_like(self, slot: SegmentSlot) -> bool:
        """Tell whether entries and bits of a segment agree, before the replay or after it."""
        if is_likely(slot, lambda _: self._image):
            return True
        return bool(self._pending) and is_likely(slot, self._replayed_under)

    def _replayed_under(self, slot: SegmentSlot) -> Image:
        view = Overlay(self._image)
        replay(view, self._pending, places_of_one(slot), {})
        return view

    def looks_used(self, start: int, stop: int) -> bool:
        """Tell whether a piece of the file reads like a segment with blocks."""
        return looks_used(self._image, start, stop)


def _check_placed(made: Examination) -> None:
    """Report what of the log cannot be brought home."""
    missing = made.unplaced
    if not missing or made.superblock is None:
        return
    block, first = made.superblock, missing[0]
    records = len({each.record.lsn for each in missing})
    more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
    made.findings.add(
        Finding(
            FindingKind.LOG, "log", block.log_off + first.record.lsn % block.log_size,
            "segments for the units that its records write", f"none for {first}{more}",
            f"what {records} committed records say of these units is lost in place. Nothing is "
            "changed, so that the log keeps it; `salvage` copies the blocks that have a place",
        )
    )  # fmt: skip


def _check_size(made: Examination) -> None:
    findings, size, end = made.findings, made.size, made.slots.file_end
    if made.superblock is None and not made.slots.segments:
        return
    if size < end:
        block = made.superblock
        log_is_cut = block is not None and block.log_off + block.log_size > size
        findings.add(
            Finding(
                FindingKind.FILE_SHORT, "file", size, f"{end} bytes for its segments", str(size),
                "what lay behind is lost; blocks that had bytes there are named, if their records "
                "are left",
                f"the file is made {end} bytes long; what is lost reads as free space",
                "all blocks whose records lay behind its end"
                + (", and the commits that only the log had" if log_is_cut else ""),
                new_size=end,
            )
        )  # fmt: skip
    elif size > end and end:
        findings.add(
            Finding(
                FindingKind.FILE_LONG, "file", end, f"{end} bytes for its segments", str(size),
                "a process was ended while it grew or gave back, or something was appended; no "
                "block lies there",
                f"the file is cut to {end} bytes", "", new_size=end,
                severity=Severity.NOTE,
            )
        )  # fmt: skip


def _walk(
    made: Examination, on_extent: Callable[[Extent], None] | None, progress: Progress | None
) -> None:
    walk = UnitWalk(made.view, made.places, made.findings, made.size)
    steps = Steps(progress, walk.units)
    for extent in walk.extents():
        if on_extent is not None:
            on_extent(extent)
        steps.reached(walk.passed_units)
    steps.end()
    made.blocks, made.block_bytes = walk.blocks, walk.block_bytes
    made.runs, made.large, made.used_units = walk.runs, walk.large, walk.used_units


def _check_roots(made: Examination) -> None:
    dead = {
        index: "none"
        for index, root in made.slots.roots.items()
        if block_at(made.view, made.places, root.off) is None
    }
    check_roots(made.slots.roots, dead, made.findings)


def _check_unreadable(image: Image, findings: Findings) -> None:
    disk = disk_of(image)
    for offset, length in () if disk is None else disk.unreadable:
        findings.add(
            Finding(
                FindingKind.UNREADABLE, "medium", offset, f"{length} bytes", "an input error",
                "what lies there counts as zeros here; copy the file to another medium first",
            )
        )  # fmt: skip


def _cross_check(made: Examination, superblock: Superblock) -> None:
    """Ask what opening the heap would ask: it may know a rule that is not checked here."""
    image = made.view.read(0, layout.HEADER_BYTES)
    try:
        read_strictly(image, superblock, "the file")
    except CorruptHeapError as error:
        made.findings.add(
            Finding(
                FindingKind.SEGMENT, "tables", layout.SEGMENT_TABLE, "a heap that can be opened",
                str(error), "the heap cannot be opened; `salvage` copies its blocks",
            )
        )  # fmt: skip
