"""Recommending: the command that says which strategies a trace asks for, and the code to use."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from pmemheap.cli.files import AsJson
from pmemheap.cli.show import output, print_whole, printable, progress_output, table, write_json
from pmemheap.errors import UsageError
from pmemheap.traces import Group, Recommendation, load
from pmemheap.traces import recommend as recommended
from pmemheap.traces.candidates import Plan
from pmemheap.traces.recommending import GAIN, Measured, Shadowed
from pmemheap.units import MiB, format_bytes

__all__ = ["recommend"]

_SHOWN_FROM = 0.5


def recommend(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A trace file, plain or gzip.")],
    passes: Annotated[int, typer.Option(min=1, help="Timed passes of each plan.")] = 5,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw what is held over time, as SVG, PNG or PDF."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which strategies suit the blocks of a trace, tried in shadow and measured."""
    if plot is not None:
        _require_matplotlib()
    found = _watched(trace, passes)
    if plot is not None:
        _draw(found, plot)
    if as_json:
        write_json(_facts(found))
        return
    console = output()
    print_whole(console, _group_table(found))
    print_whole(console, _plan_table(found))
    console.print(_verdict(found), markup=False, highlight=False, soft_wrap=True)


def _watched(path: Path, passes: int) -> Recommendation:
    console = progress_output()
    # No thread that redraws: it would take the interpreter's lock while a pass is timed.
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        console=console, transient=True, auto_refresh=False, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("reading", total=None)
        found = load(path)

        def watch(what: str, done: int, total: int) -> None:
            said = printable(what)
            progress.update(task, description=said, completed=done, total=total, refresh=True)

        return recommended(found, passes, watch)


# ---------------------------------------------------------------- in words


def _group_table(found: Recommendation) -> Table:
    shown = table(found.trace.name, "made at", "figures", "code", left=3)
    for group in found.groups:
        code = _code(group, found.best.plan) or "General"
        shown.add_row(printable(_short(group, found.groups)), _figures(group), code)
    return shown


def _code(group: Group, plan: Plan) -> str | None:
    """Return the line that makes the strategy of a group; None if it has none of its own."""
    strategy = plan.parts.get(group.name)
    return strategy.code(group) if strategy else None


def _short(group: Group, groups: Sequence[Group]) -> str:
    """Return the name of a group without directories, unless another one has the same then."""
    last = [each.name.rsplit("/", 1)[-1] for each in groups]
    own = group.name.rsplit("/", 1)[-1]
    return own if last.count(own) == 1 else group.name


def _title(plan: Plan, groups: Sequence[Group]) -> str:
    """Return what a plan does, with short names."""
    chosen = [each for each in groups if each.name in plan.parts]
    said = (f"{plan.parts[each.name].name} for {_short(each, groups)}" for each in chosen)
    return ", ".join(said) or plan.name


def _figures(group: Group) -> str:
    said = [f"{group.byte_share:.0%} of bytes"]
    if group.name == "rest":
        return said[0]
    if group.size_share >= _SHOWN_FROM:
        said.append(f"{group.size_share:.0%} of {group.size:,} B")
    if group.fifo_share >= _SHOWN_FROM:
        said.append(f"{group.fifo_share:.0%} FIFO")
    if group.lifo_share >= _SHOWN_FROM:
        said.append(f"{group.lifo_share:.0%} LIFO")
    if group.together_share >= _SHOWN_FROM and group.batch_blocks > 1:
        said.append(f"dies in groups of {group.batch_blocks:,.0f}")
    return ", ".join(said)


def _plan_table(found: Recommendation) -> Table:
    shown = table(
        "", "tried", "held at most,\nin shadow", "fragmen-\ntation", "peak,\nmeasured", "ns/call"
    )
    measured = {each.plan.name: each for each in found.measured}
    for each in found.shadowed:
        shown.add_row(
            printable(_title(each.plan, found.groups)),
            format_bytes(each.peak_bytes),
            f"{_fragmentation(each):.0%}",
            *_measured(measured.get(each.plan.name)),
        )
    return shown


def _measured(one: Measured | None) -> tuple[str, str]:
    return ("-", "-") if one is None else (format_bytes(one.peak_bytes), f"{one.ns:.0f}")


def _fragmentation(one: Shadowed) -> float:
    """Return the fragmentation where most is held."""
    peak = max(one.samples, key=lambda each: each.held, default=None)
    return peak.fragmentation if peak else 0.0


def _verdict(found: Recommendation) -> str:
    if not found.trace.operations:
        return "keep the default: the trace has no call"
    if len(found.shadowed) == 1:
        return "keep the default: no other strategy suits these blocks"
    if found.keeps_default:
        return f"keep the default: nothing else gains {GAIN:.0%}"
    before, after = found.default, found.best
    return (
        f"peak {format_bytes(before.peak_bytes)} -> {format_bytes(after.peak_bytes)}, "
        f"{before.ns:.0f} -> {after.ns:.0f} ns a call (measured)"
    )


def _facts(found: Recommendation) -> dict[str, Any]:
    return {
        "trace": found.trace.name,
        "operations": len(found.trace.operations),
        "keep_default": found.keeps_default,
        "groups": [
            {**_plain(group), "code": _code(group, found.best.plan)} for group in found.groups
        ],
        "shadow": [
            {"plan": each.plan.name, "peak_bytes": each.peak_bytes, "samples": each.samples}
            for each in found.shadowed
        ],
        "measured": [
            {"plan": each.plan.name, "peak_bytes": each.peak_bytes, "ns": each.ns}
            for each in found.measured
        ],
        "best": found.best.plan.name,
    }  # fmt: skip


def _plain(group: Group) -> dict[str, Any]:
    """Return the figures of a group, with counts for its blocks."""
    names = ("name", "byte_share", "size", "size_share", "fifo_share", "lifo_share")
    return {
        **{name: getattr(group, name) for name in names},
        "together_share": group.together_share,
        "blocks": len(group.blocks),
        "batches": len(group.batches),
        "resizes": group.resizes,
    }


# ---------------------------------------------------------------- as a drawing


def _require_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot: matplotlib expected, none found: pip install matplotlib")


def _draw(found: Recommendation, path: Path) -> None:
    """Draw what each plan holds, and its fragmentation, over the operations."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra, and slow to import

    figure = Figure(figsize=(8, 6), layout="constrained")
    held, fragmentation = figure.subplots(2, 1, sharex=True)
    for label, events, values, shares in _lines(found):
        held.plot(events, values, label=label)
        fragmentation.plot(events, shares, label=label)
    held.set_ylabel("held, MiB")
    fragmentation.set_ylabel("fragmentation")
    fragmentation.set_xlabel("operations")
    held.legend()
    try:
        figure.savefig(path)
    except ValueError as error:
        raise UsageError(
            f"--plot {path}: a name in .svg, .png or .pdf expected: {error}"
        ) from error


def _lines(
    found: Recommendation,
) -> Iterator[tuple[str, list[int], list[float], list[float]]]:
    for each in found.shadowed:
        samples = each.samples
        yield (
            _title(each.plan, found.groups),
            [one.event for one in samples],
            [one.held / MiB for one in samples],
            [one.fragmentation for one in samples],
        )
