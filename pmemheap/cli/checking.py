"""Checking: the command that verifies a heap file, and says what its findings mean."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from pmemheap.cli.bars import bar
from pmemheap.cli.beside import Checked, check_beside
from pmemheap.cli.exits import ExitCode
from pmemheap.cli.files import AsJson
from pmemheap.cli.show import output, printable, write_json
from pmemheap.errors import CorruptHeapError, HeapBusyError
from pmemheap.format.layout import Durability, HeapState
from pmemheap.offline import Examination, Finding, FindingKind, examine, open_image
from pmemheap.units import UNIT, counted, format_bytes

__all__ = ["AnyFile", "check", "finding_facts", "print_findings", "print_verdict", "require_heap"]

_SHOWN = 50

AnyFile = Annotated[Path, typer.Argument(metavar="PATH", help="A heap file, sound or not.")]


def check(path: AnyFile, as_json: AsJson = False) -> None:
    """Verify every structure of a heap file against every other; ends with 1 if one is damaged.

    The file is only read: a log that is not applied yet is applied in memory. Beside a writer that
    lets readers in, the blocks of a moment at which it rests are checked.
    """
    try:
        with open_image(path) as disk, bar("checking") as progress:
            found = examine(disk, progress=progress)
    except HeapBusyError as busy:
        _say_beside(path, check_beside(path, busy), as_json=as_json)
        return
    meaning = _meaning(found)
    if as_json:  # also of what is no heap at all: the exit code tells the two apart
        write_json(_facts(path, found, meaning))
        require_heap(path, found)
    else:
        require_heap(path, found)
        _print(path, found, meaning)
    if not found.is_sound:
        raise typer.Exit(ExitCode.FINDINGS)


def _say_beside(path: Path, found: Checked, *, as_json: bool) -> None:
    report = found.report
    if as_json:
        write_json(
            {
                "path": str(path), "sound": bool(report), "writer": found.writer,
                "commit": found.commit, "blocks": report.blocks, "units": report.units,
                "total": report.total, "findings": list(report.findings),
            }
        )  # fmt: skip
    else:
        _print_beside(path, found)
    if not report:
        raise typer.Exit(ExitCode.FINDINGS)


def _print_beside(path: Path, found: Checked) -> None:
    report, console = found.report, output()
    verdict = "sound" if report else counted(report.total, "finding")
    style = "bold green" if report else "bold red"
    held = f"{counted(report.blocks, 'block')} in {counted(report.units, 'unit')}"
    print_verdict(verdict, style, f"{path}: {held}, as of commit {found.commit:,}")
    for finding in report.findings:
        console.print(printable(f"  {finding}"), soft_wrap=True)
    console.print(
        f"Process {found.writer} goes on writing: superblocks and log were not looked at."
    )


def require_heap(path: Path, found: Examination) -> None:
    """Raise CorruptHeapError for what is no heap file, or one of another version."""
    for finding in found.findings:
        if finding.kind in {FindingKind.NO_HEAP, FindingKind.OTHER_VERSION}:
            raise CorruptHeapError(f"{path}: {finding}; {finding.meaning}")


def finding_facts(finding: Finding) -> dict[str, Any]:
    """Return a finding as names and values."""
    return {
        "kind": finding.kind.value,
        "severity": finding.severity.value,
        "thing": finding.thing,
        "file_offset": finding.place,
        "expected": finding.expected,
        "found": finding.found,
        "meaning": finding.meaning,
        "repair": finding.mend if finding.can_be_mended else None,
        "loses": finding.loses or None,
    }


def _facts(path: Path, found: Examination, meaning: list[str]) -> dict[str, Any]:
    return {
        "path": str(path),
        "sound": found.is_sound,
        "opens": _opens(found),
        "meaning": meaning,
        "blocks": found.blocks,
        "block_bytes": found.block_bytes,
        "units": found.used_units,
        "pending_records": len(found.log.pending),
        "total": found.findings.damage,
        "notes": found.findings.notes,
        "findings": [finding_facts(finding) for finding in found.findings],
    }


def _print(path: Path, found: Examination, meaning: list[str]) -> None:
    console = output()
    counted = f"{found.blocks:,} blocks in {found.used_units:,} units of {format_bytes(UNIT)}"
    if found.is_sound:
        print_verdict("sound", "bold green", f"{path}: {counted}")
    else:
        total = found.findings.damage
        word = "finding" if total == 1 else "findings"
        print_verdict(f"{total} {word}", "bold red", f"{path}; {counted} are sound")
    print_findings(found.findings.kept)
    hidden = found.findings.damage + found.findings.notes - _SHOWN
    if hidden > 0:
        console.print(f"  and {hidden} more; --json has them")
    for sentence in meaning:
        console.print(sentence)


def print_verdict(verdict: str, style: str, rest: str) -> None:
    """Print a line that begins with a verdict."""
    output().print(Text.assemble((verdict, style), f"  {printable(rest)}"), soft_wrap=True)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print the first findings, each with what it means and what mends it."""
    console = output()
    ordered = sorted(findings, key=lambda finding: not finding.is_damage)
    for finding in ordered[:_SHOWN]:
        note = "" if finding.is_damage else "note: "
        console.print(printable(f"  {note}{finding}"), soft_wrap=True)
        console.print(printable(f"    {finding.meaning}"), soft_wrap=True, style="dim")
        mend = f"repair: {finding.mend}" if finding.can_be_mended else "no repair in place"
        console.print(printable(f"    {mend}"), soft_wrap=True, style="dim")


def _meaning(found: Examination) -> list[str]:
    """Say what the outcome means for the data in the heap."""
    sentences = [*_unclosed(found)]
    if found.is_sound:
        return [
            *sentences,
            "Every unit has one owner, no blocks overlap, every root leads to a live block.",
            "The bytes inside the blocks are yours: pmemheap keeps no checksum of them.",
        ]
    damaged = [finding for finding in found.findings if finding.is_damage]
    if any(finding.kind in {FindingKind.ENTRY, FindingKind.OVERLAP} for finding in damaged):
        sentences.append(
            "The records of blocks are damaged: blocks near the units above may be lost, or free "
            "space may be taken for blocks."
        )
    if all(finding.can_be_mended for finding in damaged):
        sentences.append("`pmemheap repair` shows how it can be mended, and what is lost by that.")
    else:
        sentences.append("`pmemheap salvage` copies what can be read into a new heap.")
    return sentences


def _opens(found: Examination) -> str:
    """Say how the heap can be opened, as far as it is known; a damaged one may be all the same."""
    if not found.is_sound:
        return "unknown"
    return "read-only" if found.is_copy else "yes"


def _unclosed(found: Examination) -> list[str]:
    block, pending = found.superblock, len(found.log.pending)
    if found.is_copy:
        return [
            "It is a copy of a heap in use: as it is it opens read-only at most; "
            "`pmemheap repair --apply` takes it as it is."
        ]
    if block is None or block.state == HeapState.CLEAN:
        return []
    if block.durability == Durability.POWER and pending:
        word = "record" if pending == 1 else "records"
        return [
            "Its last writer did not close it: opening it replays "
            f"{pending} {word} of the log, and all that was committed is there."
        ]
    return [
        "Its last writer did not close it: all that calls had returned to that writer is there."
    ]
