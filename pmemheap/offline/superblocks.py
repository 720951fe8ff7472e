"""Superblocks and log: what of a file counts, and what recovery would replay."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pmemheap.errors import CorruptHeapError
from pmemheap.file.headerfile import next_epoch
from pmemheap.file.identity import boot_id, is_left_copy
from pmemheap.format import layout
from pmemheap.format.layout import Durability, FileIdentity, HeapState, SegmentKind, SegmentSlot
from pmemheap.format.records import FIRST_LSN, RECORD_ALIGN, LogScan, Record, newest_chain, scan
from pmemheap.format.superblock import Superblock
from pmemheap.offline.findings import Edit, Finding, FindingKind, Findings, Severity
from pmemheap.offline.image import Image
from pmemheap.offline.replaying import read_slots, to_replay
from pmemheap.units import GiB

__all__ = [
    "Log",
    "SharedWords",
    "applied_edit",
    "read_log",
    "read_superblocks",
    "recovered",
    "stored_as_next",
]

_LOG_MOST = GiB
_LSN_MOST = 1 << 62
_SHARED = struct.Struct("<QQ")
_UNKNOWN = struct.Struct("<8sI")


@dataclass(frozen=True)
class SharedWords:
    """The words of the shared page for the recovery of a ``process`` heap."""

    applied_lsn: int
    open_undo_lsn: int


@dataclass(frozen=True)
class Log:
    """The log area, as far as it could be read.

    Attributes
    ----------
    scan : LogScan
        The accepted records.
    pending : list of Record
        Those whose operations recovery stores.
    """

    scan: LogScan
    pending: Sequence[Record]
    shared: SharedWords


# ---------------------------------------------------------------- superblocks


def read_superblocks(
    image: Image, findings: Findings
) -> tuple[tuple[Superblock | None, Superblock | None], int | None]:
    """Return both copies, and which of them counts."""
    copies: list[Superblock | None] = []
    problems: list[CorruptHeapError | None] = []
    images = [image.read(at, layout.SUPERBLOCK_BYTES) for at in layout.SUPERBLOCKS]
    for data, at in zip(images, layout.SUPERBLOCKS, strict=True):
        try:
            copies.append(Superblock.unpack_any(data, at))
            problems.append(None)
        except CorruptHeapError as error:
            copies.append(None)
            problems.append(error)
    first, second = copies
    generations = [copy.generation if copy is not None else -1 for copy in copies]
    if first is None and second is None:
        _report_none(images, problems, findings)
        return (None, None), None
    current = generations.index(max(generations))
    newest = copies[current]
    assert newest is not None
    if newest.unknown_features:
        _report_features(newest, current, findings)
        return (first, second), None
    other = 1 - current
    if copies[other] is None and (any(images[other]) or newest.generation > 1):
        _report_copy(newest, other, problems[other], findings)
    same_boot = newest.boot_id == boot_id()
    in_use = newest.state == HeapState.IN_USE
    if in_use and newest.durability == Durability.PROCESS and not same_boot:
        _report_not_closed(newest, current, findings)
    elif not newest.file.may_be(image.identity, same_boot=same_boot):
        writer = int.from_bytes(image.read(layout.SHARED_WRITER_PID, 4), "little")
        left = is_left_copy(newest, writer)
        _report_copied(newest, current, Severity.NOTE if left else Severity.DAMAGE, findings)
    return (first, second), current


def _report_none(
    images: list[bytes], problems: list[CorruptHeapError | None], findings: Findings
) -> None:
    seen = [_UNKNOWN.unpack_from(data) for data in images if len(data) >= _UNKNOWN.size]
    versions = [version for magic, version in seen if magic == layout.MAGIC]
    other = [version for version in versions if version != layout.VERSION]
    told = str(problems[0])
    if versions and len(other) == len(versions):
        findings.add(
            Finding(
                FindingKind.OTHER_VERSION, "superblock", layout.SUPERBLOCKS[0],
                f"format {layout.VERSION}", f"format {other[0]}",
                "another version of pmemheap has written the file, or a machine of the other byte "
                "order; nothing says that it is damaged. Use that version.",
            )
        )  # fmt: skip
        return
    is_heap = bool(versions)
    findings.add(
        Finding(
            FindingKind.SUPERBLOCK if is_heap else FindingKind.NO_HEAP,
            "superblock" if is_heap else "file", layout.SUPERBLOCKS[0],
            "a sound copy", f"none: {told}",
            "where the log begins is unknown, so nothing can be mended in place; `salvage` copies "
            "the blocks into a new heap"
            if is_heap
            else "this is no heap file, or one whose beginning is gone; `salvage` looks for blocks",
        )
    )  # fmt: skip


def _report_features(newest: Superblock, current: int, findings: Findings) -> None:
    findings.add(
        Finding(
            FindingKind.OTHER_VERSION, "superblock", layout.SUPERBLOCKS[current],
            "no incompatible features", f"{newest.features_incompat:#x}",
            "another version of pmemheap has written the file, and this one cannot read it; "
            "nothing says that it is damaged. Use that version.",
        )
    )  # fmt: skip


def _report_copy(
    newest: Superblock, other: int, problem: CorruptHeapError | None, findings: Findings
) -> None:
    at = layout.SUPERBLOCKS[other]
    findings.add(
        Finding(
            FindingKind.SUPERBLOCK, f"superblock copy {'AB'[other]}", at,
            "a sound copy", f"none: {problem}",
            f"the other copy, of generation {newest.generation}, is sound and is used. If this one "
            "was the newer, the log tells; blocks are not affected. A power failure during a "
            "checkpoint leaves this, too",
            "the copy is written anew, as the generation after the other's", "",
            (Edit(at, newest.successor().pack()),),
        )
    )  # fmt: skip


def _report_not_closed(newest: Superblock, current: int, findings: Findings) -> None:
    closed = newest.successor(state=HeapState.CLEAN, file=FileIdentity())
    findings.add(
        Finding(
            FindingKind.NOT_CLOSED, "superblock", layout.SUPERBLOCKS[current],
            "a closed heap, or this run of the machine",
            "a 'process' heap that was in use when the machine went down",
            "what was written since the last sync may have reached the file in part, in any order: "
            "blocks may hold old bytes, recent ones may be missing, freed ones may be back",
            "the file is taken as it is", "what had not reached the file",
            (Edit(layout.SUPERBLOCKS[1 - current], closed.pack()),),
        )
    )  # fmt: skip


def _report_copied(
    newest: Superblock, current: int, severity: Severity, findings: Findings
) -> None:
    taken = newest.successor(file=FileIdentity())
    findings.add(
        Finding(
            FindingKind.COPY, "superblock", layout.SUPERBLOCKS[current],
            "the file in which the heap was in use", "a copy of that file",
            "if the heap was changed while the file was copied, parts of the copy are older than "
            "others, and blocks may hold what no commit has left there. If nobody changed it then, "
            "the copy is as good as the file itself. `heap.snapshot()` copies a heap that is open",
            "the copy is taken as it is", "what its parts do not agree about",
            (Edit(layout.SUPERBLOCKS[1 - current], taken.pack()),), severity=severity,
        )
    )  # fmt: skip


def stored_as_next(
    superblock: Superblock, current: int, **changes: object
) -> tuple[Edit, Superblock]:
    """Return the edit that stores the next generation into the copy that is not current [R9]."""
    successor = superblock.successor(**changes)
    return Edit(layout.SUPERBLOCKS[1 - current], successor.pack()), successor


# ---------------------------------------------------------------- log


def read_log(image: Image, superblock: Superblock | None, findings: Findings) -> Log:
    """Read the log area, and say what in it is damaged.

    Without a superblock the newest chain of records that can be found counts.
    """
    words = image.read(layout.SHARED_PAGE, _SHARED.size).ljust(_SHARED.size, b"\0")
    shared = SharedWords(*_SHARED.unpack(words))
    if superblock is None:
        return _wild_log(image, shared)
    size = superblock.log_size
    if size > _LOG_MOST or superblock.log_off + size > image.size:
        findings.add(
            Finding(
                FindingKind.LOG, "log", superblock.log_off,
                f"{size} bytes inside of the file", f"a file of {image.size} bytes",
                "what was committed since the last checkpoint is lost with it",
            )
        )  # fmt: skip
    data = image.read(superblock.log_off, min(size, _LOG_MOST))
    if superblock.tail_lsn % RECORD_ALIGN or superblock.tail_lsn >= _LSN_MOST:
        findings.add(
            Finding(
                FindingKind.LOG, "log", superblock.log_off,
                f"a tail that is a multiple of {RECORD_ALIGN} below {_LSN_MOST:#x}",
                f"{superblock.tail_lsn:#x}",
                "where the log begins is unknown: the heap cannot be opened, and what was "
                "committed since the last checkpoint is lost",
            )
        )  # fmt: skip
    found = scan(data, size, superblock.tail_lsn, superblock.chain_seed, superblock.epoch)
    if found.lost:
        _report_lost(superblock, found, data, findings)
    process = superblock.durability == Durability.PROCESS
    if process:
        shared = _checked(shared, superblock, found, findings)
    pending = to_replay(
        found.records, process=process, applied_lsn=shared.applied_lsn,
        open_undo_lsn=shared.open_undo_lsn,
    )  # fmt: skip
    return Log(found, pending, shared)


def _wild_log(image: Image, shared: SharedWords) -> Log:
    slots = read_slots(image, SegmentSlot).values()
    areas = [(slot.file_off, slot.file_bytes) for slot in slots if slot.kind == SegmentKind.LOG]
    best: tuple[Record, ...] = ()
    for start, size in areas or [(layout.HEADER_BYTES, layout.LOG_BYTES)]:
        chain = newest_chain(image.read(start, min(size, _LOG_MOST)), size)
        if chain and (not best or chain[-1].epoch > best[-1].epoch):
            best = chain
    end, seed = (best[-1].end, best[-1].crc) if best else (FIRST_LSN, 0)
    pending = to_replay(
        best, process=shared.applied_lsn > 0, applied_lsn=shared.applied_lsn,
        open_undo_lsn=shared.open_undo_lsn,
    )  # fmt: skip
    return Log(LogScan(best, end, seed, ()), pending, shared)


def _report_lost(superblock: Superblock, found: LogScan, data: bytes, findings: Findings) -> None:
    """Report damage of acknowledged work: a newer tail mends it, or else a shorter log."""
    newer = newest_chain(data, superblock.log_size)
    copies_differ = findings.has(FindingKind.SUPERBLOCK)
    if copies_differ and newer and newer[0].lsn >= superblock.tail_lsn:
        _report_old_tail(superblock, newer, findings)
        return
    wiped = tuple(
        Edit(superblock.log_off + record.lsn % superblock.log_size, bytes(64))
        for record in found.lost
    )
    told = ", ".join(
        sorted({f"{operation.off:#x}" for record in found.lost for operation in record.ops})[:8]
    )
    findings.add(
        Finding(
            FindingKind.LOG, "log", superblock.log_off + found.end_lsn % superblock.log_size,
            f"a record with LSN {found.end_lsn}",
            f"a gap, and {len(found.lost)} sound records behind it",
            f"commits that had been acknowledged are damaged: those from LSN {found.end_lsn} to "
            f"{max(record.end for record in found.lost)}. Those before are whole",
            "the log ends before the gap", f"the commits behind it, which speak of {told}", wiped,
        )
    )  # fmt: skip


def _report_old_tail(superblock: Superblock, newer: Sequence[Record], findings: Findings) -> None:
    first = newer[0]
    wanted = replace(
        superblock, generation=superblock.generation + 2, tail_lsn=first.lsn,
        chain_seed=first.prev_crc, epoch=first.epoch,
        file_end=LogScan(tuple(newer), 0, 0, ()).file_end or superblock.file_end,
    )  # fmt: skip
    copy = next(finding for finding in findings if finding.kind == FindingKind.SUPERBLOCK)
    assert copy.place is not None
    findings.add(
        Finding(
            FindingKind.SUPERBLOCK, "superblock", copy.place, f"a tail at LSN {first.lsn}",
            f"{superblock.tail_lsn}, of an older generation",
            "the newest superblock is lost, the log goes on behind the older one; nothing "
            "committed is lost",
            "the superblock is written anew, with the tail that the log tells", "",
            (Edit(copy.place, wanted.pack()),),
        )
    )  # fmt: skip


def _checked(
    shared: SharedWords, superblock: Superblock, found: LogScan, findings: Findings
) -> SharedWords:
    """Check that what is applied ends with a record."""
    ends = {superblock.tail_lsn, *(record.end for record in found.records)}
    if shared.applied_lsn <= superblock.tail_lsn or shared.applied_lsn in ends:
        return shared
    right = SharedWords(found.end_lsn, 0)
    findings.add(
        Finding(
            FindingKind.APPLIED, "applied position", layout.SHARED_PAGE,
            f"the end of a record up to LSN {found.end_lsn}", str(shared.applied_lsn),
            "if the process was ended inside of its last commit, that one may be half done",
            "all records count as applied", "",
            (Edit(layout.SHARED_PAGE, _SHARED.pack(found.end_lsn, 0)),),
        )
    )  # fmt: skip
    return right


def recovered(superblock: Superblock, log: Log) -> dict[str, object]:
    """Return the fields of the superblock behind a replay of the log [R14, R15]."""
    return {
        "tail_lsn": log.scan.end_lsn,
        "chain_seed": log.scan.seed,
        "epoch": next_epoch(superblock, opened=True),
        "file_end": log.scan.file_end or superblock.file_end,
        "state": HeapState.CLEAN,
    }


def applied_edit(log: Log) -> Edit:
    """Return the edit that says in the shared page that all of the log is applied."""
    return Edit(layout.SHARED_PAGE, _SHARED.pack(log.scan.end_lsn, 0))
