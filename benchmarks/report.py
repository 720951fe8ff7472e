"""Report: a run's results as tables on the terminal, as Markdown, JSON and a plot."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import commits
import kv
import kv_bench
from budgets import SYNTHETIC, Verdict
from figures import figure
from kv_stores import LMDB_NAMES
from results import Results, Row, geometric_mean
from rich.console import Console
from rich.table import Table
from sections import GLIBC, OURS, UTILISATION

WORDS = {True: "met", False: "MISSED", None: "not measured"}
COLOURS = {True: "green", False: "bold red", None: "yellow"}
GEOMEANS = ("geomean, real", "geomean, all")
BEST_PEER, BEST_LMDB = f"{OURS} / best peer, by medians", f"{OURS} / best LMDB"
COMMITS = frozenset({commits.DURABLE, commits.LAZY})


# ------------------------------------------------------------------------------------------- cells


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if len(row.values) == 1:
        return figure(row.best)
    if row.section in kv_bench.SECTIONS:
        return f"{figure(row.median)} ({figure(row.mean)})"
    return f"{figure(row.best)} ({figure(row.median)})"


def header(results: Results, section: str) -> list[str]:
    units = {row.unit for row in results.rows if row.section == section}
    contenders = results.contenders(section)
    ratio = [f"{OURS} / {GLIBC}"] if {OURS, GLIBC} <= set(contenders) else []
    if section in COMMITS:
        ratio = [f"{contenders[0]} / {other}" for other in _others(contenders)]
    if section in kv_bench.SECTIONS:
        ratio = [BEST_PEER, BEST_LMDB]
    return [f"{section} [{', '.join(sorted(units))}]", *contenders, *ratio]


def body(results: Results, section: str) -> list[list[str]]:
    """Return the cells of a section: best (median) of each case, ratios, and geometric means."""
    contenders = results.contenders(section)
    lines = []
    for case in results.cases(section):
        cells = [_cell(results.find(section, case, contender)) for contender in contenders]
        lines.append([case, *cells, *_ratio(results, section, [case])])
    if section.startswith("traces") or section == UTILISATION:
        lines += _mean_lines(results, section)
    return lines


def _ratio(results: Results, section: str, cases: Iterable[str]) -> list[str]:
    if section in COMMITS:
        return [ratio for case in cases for ratio in _ratios_to_first(results, section, case)]
    if section in kv_bench.SECTIONS:
        return [figure(each) for case in cases for each in _kv_ratios(results, section, case)]
    if not {OURS, GLIBC} <= set(results.contenders(section)):
        return []
    ours, theirs = results.bests(section, OURS), results.bests(section, GLIBC)
    ratios = [ours[case] / theirs[case] for case in cases if case in ours and case in theirs]
    return [figure(geometric_mean(ratios))]


def _kv_ratios(results: Results, section: str, case: str) -> Iterator[float]:
    lmdbs = [name for name in results.contenders(section) if name.startswith(LMDB_NAMES)]
    yield kv.ratio_to_best_peer(results, section, case)
    yield kv.ratio_to_best_peer(results, section, case, lmdbs)


def _ratios_to_first(results: Results, section: str, case: str) -> Iterator[str]:
    """Yield what the first contender has of each other's rate, by medians."""
    contenders = results.contenders(section)
    ours = results.median(section, case, contenders[0])
    for other in _others(contenders):
        yield figure(ours / results.median(section, case, other))


def _others(contenders: list[str]) -> list[str]:
    return [name for name in contenders if not name.startswith(OURS)]


def _mean_lines(results: Results, section: str) -> list[list[str]]:
    cases = results.cases(section)
    chosen = {GEOMEANS[0]: [case for case in cases if case not in SYNTHETIC], GEOMEANS[1]: cases}
    lines = []
    for label, names in chosen.items():
        means = []
        for contender in results.contenders(section):
            bests = results.bests(section, contender)
            means.append(figure(geometric_mean(bests[name] for name in names if name in bests)))
        lines.append([label, *means, *_ratio(results, section, names)])
    return lines


def verdict_cells(verdict: Verdict) -> list[str]:
    sign = ">=" if verdict.at_least else "<="
    return [
        verdict.what,
        figure(verdict.measured),
        f"{sign} {figure(verdict.bar)} {verdict.unit}",
        WORDS[verdict.met],
    ]


# ---------------------------------------------------------------------------------------- terminal


def show(console: Console, results: Results) -> None:
    """Print a table a section, and what was left out."""
    for section in results.sections():
        table = Table(*header(results, section))
        for line in body(results, section):
            table.add_row(*line)
        console.print(table)
    for what, reason in results.skipped.items():
        console.print(f"[yellow]left out[/]: {what}: {reason}")


def show_verdicts(console: Console, verdicts: list[Verdict]) -> None:
    """Print a table of the budgets, if there are any."""
    if not verdicts:
        return
    table = Table("budget", "measured", "bar", "")
    for verdict in verdicts:
        *cells, word = verdict_cells(verdict)
        table.add_row(*cells, f"[{COLOURS[verdict.met]}]{word}[/]")
    console.print(table)


# ------------------------------------------------------------------------------------------- files


def write(
    directory: Path, results: Results, verdicts: list[Verdict], machine: dict[str, Any]
) -> None:
    """Write `compare.json`, `compare.md` and, where there is something to see, `compare.svg`."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine,
        "rows": [dataclasses.asdict(row) for row in results.rows],
        "skipped": results.skipped,
        "budgets": [dataclasses.asdict(verdict) | {"met": verdict.met} for verdict in verdicts],
    }
    text = json.dumps(_without_nan(document), indent=1)
    (directory / "compare.json").write_text(text + "\n", encoding="utf-8")
    (directory / "compare.md").write_text(_markdown(results, verdicts, machine), encoding="utf-8")
    from plots import plot  # noqa: PLC0415 -- a second of matplotlib in each contender's process

    plot(results, directory / "compare.svg")


def _without_nan(value: Any) -> Any:
    """Turn NaN, which is no JSON, into null."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _markdown(results: Results, verdicts: list[Verdict], machine: dict[str, Any]) -> str:
    shown = "Least (median) of the rounds of one run; of key-value stores the median (mean)."
    parts = ["# Comparison", "", shown, ""]
    parts += [f"- {key}: {value}" for key, value in machine.items()]
    for section in results.sections():
        parts += ["", f"## {section}", ""]
        parts += _markdown_table(header(results, section), body(results, section))
    if verdicts:
        parts += ["", "## Budgets", ""]
        parts += _markdown_table(
            ["budget", "measured", "bar", ""], [verdict_cells(verdict) for verdict in verdicts]
        )
    if results.skipped:
        parts += ["", "## Left out", ""]
        parts += [f"- {what}: {reason}" for what, reason in results.skipped.items()]
    return "\n".join(parts) + "\n"


def _markdown_table(head: list[str], lines: list[list[str]]) -> list[str]:
    aligned = ["---", *["--:" for _ in head[1:]]]
    return ["| " + " | ".join(cells) + " |" for cells in [head, aligned, *lines]]
