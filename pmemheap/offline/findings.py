"""Findings: what is wrong with a file, what that means, and the bytes that would mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum

__all__ = ["FINDINGS_KEPT", "Edit", "Finding", "FindingKind", "Findings", "Phase", "Severity"]

FINDINGS_KEPT = 10_000
"""Findings beyond this many are counted, not kept."""


class Severity(StrEnum):
    """Whether a finding is damage, or something that the next opening puts in order by itself."""

    NOTE = "note"
    DAMAGE = "damage"


class Phase(IntEnum):
    """The order in which findings are mended: each needs what stands before it."""

    UNFINISHED = 0
    SUPERBLOCK = 1
    LOG = 2
    TABLES = 3
    UNITS = 4
    ROOTS = 5
    SIZE = 6


class FindingKind(StrEnum):
    """Kinds of findings."""

    NO_HEAP = "no heap"
    OTHER_VERSION = "other version"
    UNDER_REPAIR = "under repair"
    SUPERBLOCK = "superblock"
    NOT_CLOSED = "not closed"
    COPY = "copy of a heap in use"
    LOG = "log"
    APPLIED = "applied position"
    SEGMENT = "segment"
    ARENA = "arena"
    ROOT = "root"
    ENTRY = "entry"
    OVERLAP = "overlap"
    BITS = "bits"
    CUT_BLOCK = "cut block"
    FILE_SHORT = "file too short"
    FILE_LONG = "file too long"
    UNREADABLE = "unreadable"


_PHASES = {
    FindingKind.UNDER_REPAIR: Phase.UNFINISHED,
    FindingKind.SUPERBLOCK: Phase.SUPERBLOCK,
    FindingKind.NOT_CLOSED: Phase.SUPERBLOCK,
    FindingKind.COPY: Phase.SUPERBLOCK,
    FindingKind.LOG: Phase.LOG,
    FindingKind.APPLIED: Phase.LOG,
    FindingKind.SEGMENT: Phase.TABLES,
    FindingKind.ARENA: Phase.TABLES,
    FindingKind.ROOT: Phase.ROOTS,
    FindingKind.FILE_SHORT: Phase.SIZE,
    FindingKind.FILE_LONG: Phase.SIZE,
}


@dataclass(frozen=True)
class Edit:
    """Bytes to be put at an offset of the file."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    kind : FindingKind
        What sort of thing.
    thing : str
        Which one: ``"segment slot 3"``.
    place : int or None
        Its offset in the file.
    expected, found : str
        What stands against what.
    meaning : str
        What it means for the data in the heap.
    mend : str
        What a repair does about it; empty if nothing can be done in place.
    loses : str
        What is gone after that repair; empty if nothing.
    edits, new_size
        The bytes, or the length of the file, that mend it.
    """

    kind: FindingKind
    thing: str
    place: int | None
    expected: str
    found: str
    meaning: str
    mend: str = ""
    loses: str = ""
    edits: tuple[Edit, ...] = ()
    new_size: int | None = None
    severity: Severity = Severity.DAMAGE

    @property
    def is_damage(self) -> bool:
        """Whether the next opening does not put it in order by itself."""
        return self.severity == Severity.DAMAGE

    @property
    def can_be_mended(self) -> bool:
        """Whether a repair in place exists."""
        return bool(self.edits) or self.new_size is not None

    @property
    def phase(self) -> Phase:
        """When it is mended."""
        return _PHASES.get(self.kind, Phase.UNITS)

    def __str__(self) -> str:
        """Say thing, place, expected and found."""
        place = "" if self.place is None else f" at file offset {self.place:#x}"
        return f"{self.thing}{place}: {self.expected} expected, {self.found} found"


class Findings:
    """Findings as they come in; the first `FINDINGS_KEPT` are kept."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.damage: int = 0
        self.notes: int = 0

    def add(self, finding: Finding) -> None:
        """Take one more."""
        if finding.is_damage:
            self.damage += 1
        else:
            self.notes += 1
        if len(self.kept) < FINDINGS_KEPT:
            self.kept.append(finding)

    def __iter__(self) -> Iterator[Finding]:
        """Yield those that are kept, in the order of their discovery."""
        return iter(self.kept)

    def has(self, kind: FindingKind) -> bool:
        """Tell whether one of a kind is among them."""
        return any(finding.kind == kind for finding in self.kept)
