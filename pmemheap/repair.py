"""Repair: a plan that makes a damaged heap file sound again, and the way back.

    examine --> the findings of the lowest phase --> their edits, in memory --> examine --> ...
    apply:  backup of every range that changes, synced --> edits --> sync

A plan is made without changing the file: the edits lie in a layer over it, and the file is examined
again through that layer until nothing is left to mend. What the plan would make of the file is
therefore known before a byte of it changes. The redo log is replayed before any table is touched: a
record that is replayed later would undo the repair.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pmemheap.errors import CorruptHeapError, HeapExistsError
from pmemheap.naming import sync_directory
from pmemheap.native import crc32c
from pmemheap.offline import Disk, Edit, Examination, Finding, Overlay, examine, open_image
from pmemheap.offline.findings import FindingKind, Phase
from pmemheap.offline.superblocks import applied_edit, recovered, stored_as_next
from pmemheap.refusals import refusal

__all__ = ["Plan", "Step", "apply", "plan", "repair", "undo"]

_ROUNDS_MOST = 64
_NOTES_MENDED = frozenset({FindingKind.FILE_LONG, FindingKind.ENTRY})
_COPIED_AT_ONCE = 1 << 20
_UNDO_MAGIC = b"PMEMUNDO"
_UNDO_HEADER = struct.Struct("<8sQ")
_UNDO_RANGE = struct.Struct("<QII")


@dataclass(frozen=True)
class Step:
    """One thing that a repair does, and what is gone after it."""

    title: str
    loses: str = ""


@dataclass
class Plan:
    """What a repair would do.

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


def plan(disk: Disk) -> Plan:
    """Find out what mends a file; changes nothing.

    What no repair makes sound is not touched at all: `salvage` reads the more out of a file, the
    less of it was changed.
    """
    changes = Overlay(disk)
    before = found = examine(changes)
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
        found = examine(changes)
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


def repair(path: str | os.PathLike[str]) -> tuple[Plan, Path | None]:
    """Mend a file as far as it can be.

    Returns
    -------
    tuple of Plan and Path or None
        What was done, and the file that `undo` needs to take it back; None if nothing was.

    Raises
    ------
    HeapFileError
        The file cannot be opened for writing, or a process has the heap open; its subclasses tell.
    """
    with open_image(path, write=True) as disk:
        made = plan(disk)
        if not made.steps:
            return made, None
        return made, apply(disk, Path(path), made)


def apply(disk: Disk, path: Path, made: Plan) -> Path:
    """Store the changes of a plan, after a backup of all that they change."""
    os.fsync(disk.fd)
    backup = _backup_path(path)
    edits = list(made.changes.edits())
    _write_backup(disk, backup, edits, made.changes.new_size)
    if made.changes.new_size is not None:
        os.ftruncate(disk.fd, made.changes.new_size)
    for edit in edits:
        _write(disk.fd, edit.data, edit.offset)
    os.fsync(disk.fd)
    return backup


def _backup_path(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(100):
        suffix = f"-{number}" if number else ""
        backup = path.with_name(f"{path.name}.repair-{stamp}{suffix}.undo")
        if not backup.exists():
            return backup
    raise HeapExistsError(
        f"backup {str(backup)!r}: a new name expected, all are taken", filename=str(backup)
    )


def _write_backup(disk: Disk, backup: Path, edits: list[Edit], new_size: int | None) -> None:
    """Write the old bytes of all ranges that change; durable before the first of them does."""
    ranges = [(edit.offset, len(edit.data)) for edit in edits]
    if new_size is not None and new_size < disk.size:
        ranges += _cut_ranges(disk, new_size)
    fd = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(_UNDO_HEADER.pack(_UNDO_MAGIC, disk.size))
        for offset, length in ranges:
            data = disk.read(offset, length)
            file.write(_UNDO_RANGE.pack(offset, len(data), crc32c(data)))
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(backup.parent)


def _cut_ranges(disk: Disk, new_size: int) -> Iterator[tuple[int, int]]:
    offset = new_size
    while (offset := disk.next_data(offset)) < disk.size:
        length = min(_COPIED_AT_ONCE, disk.size - offset)
        yield offset, length
        offset += length


def undo(path: str | os.PathLike[str], backup: str | os.PathLike[str]) -> int:
    """Take a repair back, byte for byte; the heap must not have been opened for writing since.

    Returns
    -------
    int
        Ranges that were put back.

    Raises
    ------
    CorruptHeapError
        The backup is damaged or no backup; nothing has changed.
    """
    try:
        data = Path(backup).read_bytes()
    except OSError as error:
        raise refusal(f"backup {os.fspath(backup)!r}", error, os.fsdecode(backup)) from error
    size, ranges = _read_backup(data, os.fspath(backup))
    with open_image(path, write=True) as disk:
        os.ftruncate(disk.fd, size)
        for edit in reversed(ranges):
            _write(disk.fd, edit.data, edit.offset)
        os.fsync(disk.fd)
    return len(ranges)


def _read_backup(data: bytes, name: str) -> tuple[int, list[Edit]]:
    if len(data) < _UNDO_HEADER.size or not data.startswith(_UNDO_MAGIC):
        raise CorruptHeapError(
            f"backup {name!r}: magic {_UNDO_MAGIC!r} expected, {data[:8]!r} found"
        )
    _, size = _UNDO_HEADER.unpack_from(data)
    at, ranges = _UNDO_HEADER.size, []
    while at < len(data):
        offset, length, crc = (
            _UNDO_RANGE.unpack_from(data, at) if len(data) - at >= _UNDO_RANGE.size else (0, 1, 0)
        )
        start = at + _UNDO_RANGE.size
        old = data[start : start + length]
        if len(old) != length or crc32c(old) != crc:
            raise CorruptHeapError(f"backup {name!r}: a whole range at offset {at} expected, none")
        ranges.append(Edit(offset, old))
        at += _UNDO_RANGE.size + length
    return size, ranges


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
