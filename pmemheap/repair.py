"""Repair: a plan that makes a damaged heap file sound again, and the way back.

    examine --> the findings of the lowest phase --> their edits, in memory --> examine --> ...
    apply   backup --> superblock "under repair" --> edits --> superblocks, each step synced
    undo    superblock "under repair" --> old bytes --> superblocks as they were

A plan is made without changing the file: the edits lie in a layer over it, and the file is examined
again through that layer until nothing is left to mend. What the plan would make of the file is
therefore known before a byte of it changes. The redo log is replayed before any table is touched: a
record that is replayed later would undo the repair.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pmemheap import native
from pmemheap.errors import HeapExistsError, UsageError
from pmemheap.file import pagecache
from pmemheap.format.layout import (
    BACKUP_NAME_BYTES,
    SHARED_PAGE,
    SUPERBLOCKS,
    UNDER_REPAIR,
    FileIdentity,
)
from pmemheap.format.superblock import Superblock
from pmemheap.heap.arguments import AnyPath, path_argument
from pmemheap.offline import Disk, Edit, Examination, Finding, Overlay, examine, open_image
from pmemheap.offline.backups import Backup, backup_of, newest_copy, unfinished
from pmemheap.offline.findings import FindingKind, Phase
from pmemheap.offline.superblocks import applied_edit, recovered, stored_as_next
from pmemheap.progress import Progress, told
from pmemheap.refusals import refusals

__all__ = ["Plan", "Step", "apply", "plan", "repair", "undo"]

_ROUNDS_MOST = 64
_NOTES_MENDED = frozenset({FindingKind.FILE_LONG, FindingKind.ENTRY, FindingKind.COPY})
_COPIED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Step:
    """One thing that a repair does, and what is gone after it."""

    title: str
    loses: str = ""


@dataclass
class Plan:
    """The changes that a repair would make.

    Attributes
    ----------
    steps : list of Step
        In order; empty if there is nothing to do.
    remaining : list of Finding
        Damage that no repair in place can mend.
    before, after : Examination
        The file as it is, and as it would be.
    changes : Overlay
        The bytes.
    """

    before: Examination
    after: Examination
    changes: Overlay
    steps: list[Step] = field(default_factory=list)
    remaining: list[Finding] = field(default_factory=list)

    @property
    def succeeds(self) -> bool:
        """Whether the file is sound afterwards."""
        return not self.remaining


def plan(disk: Disk, *, progress: Progress | None = None) -> Plan:
    """Return what mends a file; change nothing.

    What no repair makes sound is not touched at all: `salvage` reads the more out of a file, the
    less of it was changed.

    Parameters
    ----------
    disk : Disk
        The file.
    progress : Progress, optional
        Is told of the units, in each examination anew.
    """
    changes = Overlay(disk)
    before = found = examine(changes, progress=progress)
    steps: list[Step] = []
    for _ in range(_ROUNDS_MOST):
        chosen = _lowest(found)
        if not chosen or found.superblock is None:
            break
        if chosen[0].phase <= Phase.LOG or not found.log.pending:
            steps += _mend(chosen, changes)
        elif found.unplaced:
            break
        else:
            steps += _bring_home(found, changes)
        found = examine(changes, progress=progress)
    remaining = [finding for finding in found.findings if finding.is_damage]
    if remaining:
        return Plan(before, before, Overlay(disk), [], remaining)
    return Plan(before, found, changes, steps, [])


def _lowest(found: Examination) -> list[Finding]:
    """Return the findings to be mended next, without what every opening mends by itself."""
    mendable = [
        finding
        for finding in found.findings
        if finding.can_be_mended and (finding.is_damage or finding.kind in _NOTES_MENDED)
    ]
    if not mendable:
        return []
    lowest = min(finding.phase for finding in mendable)
    return [finding for finding in mendable if finding.phase == lowest]


def _mend(findings: list[Finding], changes: Overlay) -> list[Step]:
    for finding in findings:
        for edit in finding.edits:
            changes.put(edit.offset, edit.data)
        if finding.new_size is not None:
            changes.resize(finding.new_size)
    return [Step(f"{finding.thing}: {finding.mend}", finding.loses) for finding in findings]


def _bring_home(found: Examination, changes: Overlay) -> list[Step]:
    """Store what the log says, where derived slots say, and close the heap behind it [R14, R15]."""
    assert found.superblock is not None
    assert found.current is not None
    for edit in list(found.replayed.edits()):
        changes.put(edit.offset, edit.data)
    derived = [
        finding
        for finding in found.findings
        if finding.phase == Phase.TABLES and finding.is_damage and finding.can_be_mended
    ]
    steps = _mend(derived, changes)
    edit, _ = stored_as_next(
        found.superblock, found.current, **recovered(found.superblock, found.log)
    )
    changes.put(edit.offset, edit.data)
    applied = applied_edit(found.log)
    changes.put(applied.offset, applied.data)
    count = len(found.log.pending)
    title = f"log: {count} record{'' if count == 1 else 's'} replayed, as opening would"
    return [*steps, Step(title)]


# ---------------------------------------------------------------- doing it


def repair(path: AnyPath, *, progress: Progress | None = None) -> tuple[Plan, Path | None]:
    """Mend a file, or leave it as it is.

    A repair that is ended in the middle leaves a file that says so, and cannot be opened: another
    `repair` takes it back and begins anew, `undo` takes it back.

    Parameters
    ----------
    path : path
        The file.
    progress : Progress, optional
        Is told of the units, in each examination anew; not of what is written. If it raises,
        nothing has changed.

    Returns
    -------
    tuple of Plan and Path or None
        What was done, and the file that `undo` needs to take it back; None if nothing was.

    Raises
    ------
    HeapFileError
        The file cannot be opened for writing, or a process has the heap open; its subclasses tell.
    OutOfSpaceError
        No room for the backup; nothing has changed.
    DurabilityError
        The medium failed. The file may be under repair.
    """
    with (
        told(progress) as tell,
        open_image(path, write=True) as disk,
        _refusals(path, "repair"),
    ):
        _require_medium(disk)
        made = plan(disk, progress=tell)
        if not made.steps:
            return made, None
        mark = unfinished(disk)
        if mark is None:
            return made, apply(disk, made)
        backup = backup_of(disk, mark)
        assert backup is not None, "without one there is damage that remains"
        _put_back(disk, backup)
        anew = plan(disk)
        return made, apply(disk, anew) if anew.steps else None


def _require_medium(disk: Disk) -> None:
    """Decide by what the medium has: what is not mended is not written, either [R10]."""
    native.fsync(disk.fd)
    if native.filesystem_type(disk.fd) != native.TMPFS and not pagecache.drop(disk.fd):
        pagecache.require_same(disk.fd, str(disk.path), [(0, disk.size)])


def _refusals(path: AnyPath, during: str) -> AbstractContextManager[None]:
    name = os.fsdecode(path)
    return refusals(f"heap file {name!r}: {during}", name)


def apply(disk: Disk, made: Plan) -> Path:
    """Store the changes of a plan that succeeds, after a backup; return the path of that.

    Everything else is durable before the superblock that says that the file is sound.
    """
    before, after, place = made.before.superblock, made.after.superblock, made.before.current
    assert disk.path is not None
    assert before is not None
    assert after is not None
    assert place is not None
    path = _backup_path(disk.path)
    mark = before.successor(
        features_incompat=before.features_incompat | UNDER_REPAIR, backup=path.name
    )
    generation = max(after.generation, mark.generation + 1)
    final = replace(after, generation=generation, file=FileIdentity())
    last = final.successor()
    edits = [edit for edit in made.changes.edits() if not _is_superblock(edit)]
    ranges = [(edit.offset, len(edit.data)) for edit in edits]
    ranges += _cut_ranges(disk, made.changes.new_size)
    Backup.of(disk, before, final.generation, ranges).write(path)
    _store_superblock(disk, 1 - place, mark)
    _store(disk, made.changes.new_size, edits)
    _store_superblock(disk, place, final)
    _store_superblock(disk, 1 - place, last)
    return path


def _is_superblock(edit: Edit) -> bool:
    return edit.offset < SHARED_PAGE


def _store(disk: Disk, new_size: int | None, edits: Iterable[Edit]) -> None:
    """Change length and bytes, durably; nothing of it may count yet."""
    if new_size is not None:
        native.ftruncate(disk.fd, new_size)
    for edit in edits:
        native.pwrite(disk.fd, edit.data, edit.offset)
    native.fsync(disk.fd)


def _store_superblock(disk: Disk, copy: int, superblock: Superblock) -> None:
    native.pwrite(disk.fd, superblock.pack(), SUPERBLOCKS[copy])
    native.fsync(disk.fd)


def _backup_path(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(100):
        ending = f".repair-{stamp}{f'-{number}' if number else ''}.undo"
        name = os.fsencode(path.name)[: BACKUP_NAME_BYTES - len(ending)]
        backup = path.with_name(os.fsdecode(name) + ending)
        if not backup.exists():
            return backup
    raise HeapExistsError(
        f"backup {str(backup)!r}: a new name expected, all are taken", filename=str(backup)
    )


def _cut_ranges(disk: Disk, new_size: int | None) -> Iterator[tuple[int, int]]:
    """Yield what a file loses when it is cut."""
    offset = disk.size if new_size is None else new_size
    while (offset := disk.next_data(offset)) < disk.size:
        length = min(_COPIED_AT_ONCE, disk.size - offset)
        yield offset, length
        offset += length


# ---------------------------------------------------------------- taking it back


def undo(path: AnyPath, backup: AnyPath) -> int:
    """Take a repair back, byte for byte, whether it was ended in the middle or not.

    Returns
    -------
    int
        Ranges that were put back.

    Raises
    ------
    CorruptHeapError
        The backup is damaged or no backup; nothing has changed.
    UsageError
        It is the backup of another file, or the heap was written to since; nothing has changed.
    HeapFileError
        As `repair`.
    DurabilityError
        The medium failed. The file may be under repair.
    """
    name = os.fsdecode(backup)
    with refusals(f"backup {name!r}", name):
        kept = Backup.read(path_argument(name))
    with open_image(path, write=True) as disk, _refusals(path, "undo"):
        _require_medium(disk)
        newest = newest_copy(disk)
        if newest is not None and kept.is_for(newest):
            if not newest.is_under_repair:
                _mark_undo(disk, newest, kept, os.path.basename(name))
            _put_back(disk, kept)
        elif not kept.is_undone(disk):
            found = "no heap" if newest is None else f"generation {newest.generation} of another"
            if newest is not None and newest.uuid == kept.uuid:
                found = f"generation {newest.generation}: it was written to since"
            raise UsageError(
                f"heap file {os.fsdecode(path)!r}: the heap as its repair has left it, in "
                f"generation {kept.after}, expected for the backup {name!r}, {found} found"
            )
    return len(kept.ranges)


def _mark_undo(disk: Disk, newest: Superblock, kept: Backup, name: str) -> None:
    features = newest.features_incompat | UNDER_REPAIR
    mark = replace(newest, generation=kept.after + 2, features_incompat=features, backup=name)
    _store_superblock(disk, kept.mark_place, mark)


def _put_back(disk: Disk, kept: Backup) -> None:
    """Store what a file was. The mark is the last to go: what takes its place never counts."""
    superblocks, place = kept.ranges[: len(SUPERBLOCKS)], kept.mark_place
    _store(disk, kept.size, kept.ranges[len(SUPERBLOCKS) :])
    _store(disk, None, [superblocks[1 - place]])
    _store(disk, None, [superblocks[place]])
