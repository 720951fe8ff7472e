"""Mending: the commands for a damaged heap file: repair in place, and salvage into a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmemheap import repair as repairing
from pmemheap import salvage as salvaging
from pmemheap.cli.bars import bar
from pmemheap.cli.checking import (
    AnyFile,
    finding_facts,
    print_findings,
    print_verdict,
    require_heap,
)
from pmemheap.cli.exits import ExitCode
from pmemheap.cli.files import AsJson, Durability
from pmemheap.cli.show import output, printable, write_json
from pmemheap.errors import UsageError
from pmemheap.offline import open_image
from pmemheap.repair import Plan
from pmemheap.salvage import SalvageReport
from pmemheap.units import format_bytes

__all__ = ["repair", "salvage"]

_STEPS_SHOWN = 100


def repair(
    path: AnyFile,
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it; without this the file is not changed.")
    ] = False,
    undo: Annotated[
        Path | None,
        typer.Option(metavar="BACKUP", help="Take a repair back, with the file that it left."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what would mend a damaged heap file and what is lost by that; --apply does it."""
    if undo is not None:
        if apply:
            raise UsageError("repair: one of --apply and --undo expected, both found")
        _undo(path, undo, as_json=as_json)
        return
    backup = None
    with bar("examining") as progress:
        if apply:
            with open_image(path) as disk:
                require_heap(path, repairing.plan(disk, progress=progress).before)
            plan, backup = repairing.repair(path, progress=progress)
        else:
            with open_image(path) as disk:
                plan = repairing.plan(disk, progress=progress)
    if as_json:
        write_json(_plan_facts(path, plan, backup, applied=apply))
        require_heap(path, plan.before)
    else:
        require_heap(path, plan.before)
        _print_plan(path, plan, backup, applied=apply)
    if plan.remaining or (plan.steps and not apply and not plan.before.is_sound):
        raise typer.Exit(ExitCode.FINDINGS)


def _undo(path: Path, backup: Path, *, as_json: bool) -> None:
    ranges = repairing.undo(path, backup)
    if as_json:
        write_json({"path": str(path), "restored_ranges": ranges})
    else:
        output().print(
            printable(f"{path}: as it was before the repair, {ranges} ranges put back"),
            soft_wrap=True,
        )


def _plan_facts(path: Path, plan: Plan, backup: Path | None, *, applied: bool) -> dict[str, object]:
    return {
        "path": str(path),
        "applied": applied and bool(plan.steps),
        "backup": None if backup is None else str(backup),
        "steps": [{"does": step.title, "loses": step.loses or None} for step in plan.steps],
        "remaining": [finding_facts(finding) for finding in plan.remaining],
        "sound_before": plan.before.is_sound,
        "sound_after": plan.succeeds,
        "blocks_before": plan.before.blocks,
        "blocks_after": plan.after.blocks,
    }


def _print_plan(path: Path, plan: Plan, backup: Path | None, *, applied: bool) -> None:
    console = output()
    if not plan.steps and plan.succeeds:
        print_verdict("sound", "bold green", f"{path}: nothing to repair")
        return
    for number, step in enumerate(plan.steps[:_STEPS_SHOWN], 1):
        console.print(printable(f"{number:4}. {step.title}"), soft_wrap=True)
        if step.loses:
            console.print(printable(f"      lost: {step.loses}"), soft_wrap=True)
    if len(plan.steps) > _STEPS_SHOWN:
        console.print(f"      and {len(plan.steps) - _STEPS_SHOWN} more; --json has them all")
    if plan.remaining:
        console.print("No repair in place for:", style="bold red")
        print_findings(plan.remaining)
        console.print(
            printable(
                f"The file stays as it is; `pmemheap salvage {path} NEW` copies what can be read."
            ),
            soft_wrap=True,
        )
    else:
        console.print(
            f"{'Now' if applied else 'Then'} the heap is sound, with {plan.after.blocks:,} blocks."
        )
    if backup is not None:
        console.print(
            printable(f"To take it back: pmemheap repair {path} --undo {backup}"), soft_wrap=True
        )
    elif plan.steps and not applied:
        console.print("Nothing has been changed; --apply does it, and keeps what it changes.")


def salvage(
    path: AnyFile,
    out: Annotated[Path, typer.Argument(metavar="NEW", help="The new heap; nothing may be there.")],
    durability: Annotated[
        Durability | None, typer.Option(help="Of the new heap; as the old one if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy every block and root of a wrecked heap file that can be read into a new heap."""
    chosen = durability.named if durability else None
    with bar("salvaging") as progress:
        report = salvaging.salvage(path, out, durability=chosen, progress=progress)
    if as_json:
        write_json({"path": str(path), "new": str(out), "report": report})
    else:
        _print_report(path, out, report)


def _print_report(path: Path, out: Path, report: SalvageReport) -> None:
    console = output()
    console.print(
        printable(
            f"{out}: {report.blocks:,} blocks of {format_bytes(report.block_bytes)} and "
            f"{report.roots:,} roots of {path}"
        ),
        soft_wrap=True,
    )
    if report.cut_blocks:
        console.print(f"  {report.cut_blocks:,} blocks are there in part, the rest of them zeros")
    lost = report.lost_roots + report.lost_writes
    for each in lost[:_STEPS_SHOWN]:
        console.print(printable(f"  lost: {each}"), soft_wrap=True)
    if len(lost) > _STEPS_SHOWN:
        console.print(f"  lost: {len(lost) - _STEPS_SHOWN} more; --json has them all")
    if report.map_root:
        console.print(
            f"Blocks have new offsets: root {report.map_root!r} leads to the map, "
            "pmemheap.salvage.translate reads it",
            soft_wrap=True,
        )
