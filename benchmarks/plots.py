"""Plots: a run as one drawing, a panel a section, a row a case, a dot for each other contender.

    python benchmarks/plots.py benchmarks/results      draws anew what compare.md there has

    geometric mean           o   x  |
    gcc-c                  o     x  |
    perl-words                  o   | x
                    1/4     1/2     1       2       4

A dot is what pmemheap takes, in time or memory, divided by what the other takes: left of the line
at 1 pmemheap takes less. The axis is logarithmic and has 1 in its middle: twice as much is as far
from it as half as much. A triangle at the edge stands for a dot farther out.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commits
import kv_bench
import matplotlib as mpl
from figures import mark
from gallery import LOOK, MUTED
from kv_stores import FAMILIES, GROUPS
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from results import MORE_IS_BETTER, Results, Row, geometric_mean
from sections import BATCH, FRESH, MICRO, OURS, PAIR, PAIR_SPINNING, UTILISATION, WARM

mpl.use("agg")

MEAN = "geometric mean"
FARTHEST = 32.0
COLOURS = {
    "glibc": "#d0506b", "jemalloc": "#a565c9", "mimalloc": "#2f9e5f", "libpmemobj": "#8a7a2a",
    "multiprocessing.heap": "#3a9fa8", "bytearray": "#787878",
    "LMDB": "#2f7fd6", "RocksDB": "#2f9e5f", "LevelDB": "#a565c9", "SQLite": "#d9731a",
    "diskcache": "#d0506b", "GNU": "#3a9fa8",
}  # fmt: skip
"""By the first word of a contender; its kinds differ by their markers."""
FAMILY_OF = {
    name: family
    for group in GROUPS.values()
    for name, family in zip(group, FAMILIES, strict=False)  # Not all can promise both.
}
MARKERS = "osD^P"
WIDTH, ROW, HEAD, FOOT, LINE = 7.2, 0.2, 0.62, 0.65, 0.2  # inches
LEFT, RIGHT, COLUMNS = 0.29, 0.97, 3


@dataclass(frozen=True)
class Panel:
    """One section in a drawing: its cases, or all that it has, beside the geometric mean."""

    section: str
    title: str
    cases: tuple[str, ...] = ()

    def cases_of(self, results: Results) -> list[str]:
        return list(self.cases or results.cases(self.section))


PANELS = (
    Panel(MICRO, "64 B from Python: a call pair, or a block", (PAIR, PAIR_SPINNING, BATCH)),
    Panel(FRESH, "time of traces, first pass"),
    Panel(WARM, "time of traces, later passes"),
    Panel(UTILISATION, "greatest memory of traces"),
    Panel(commits.DURABLE, "time of durable commits"),
    Panel(commits.LAZY, "time of commits that wait for nothing"),
    Panel(kv_bench.TIMES, "process: time of an operation, each a commit"),
    Panel(kv_bench.DURABLE, "power: time of a commit, or an opening"),
    Panel(kv_bench.DISK, "bytes on the disk"),
    Panel(kv_bench.MEMORY, "memory after the mixes"),
)


# ------------------------------------------------------------------------------------------ ratios


def ratios(results: Results, section: str, cases: list[str]) -> dict[str, dict[str, float]]:
    """Return what pmemheap takes by what each other takes, of each case that both have, and mean.

    Commits are compared by their medians, as in their table: a sync is no noise of the machine.
    """
    contenders = results.contenders(section)
    ours = [name for name in contenders if name.startswith(OURS)]
    found = {}
    for other in contenders:
        pairs = {
            case: _ratio(results.find(section, case, ours[0]), results.find(section, case, other))
            for case in (cases if ours and other not in ours else [])
        }
        known = {case: ratio for case, ratio in pairs.items() if ratio}
        if known:
            name = FAMILY_OF.get(other, other) if section in kv_bench.SECTIONS else other
            found[name] = {MEAN: geometric_mean(known.values())} | known
    return found


def _ratio(ours: Row | None, other: Row | None) -> float:
    """Return the ratio, 0 where one of the two is missing or took nothing."""
    if ours is None or other is None:
        return 0.0
    is_commit = ours.section in {commits.DURABLE, commits.LAZY}
    mine, theirs = (ours.median, other.median) if is_commit else (ours.best, other.best)
    if ours.unit in MORE_IS_BETTER:
        mine, theirs = theirs, mine
    return mine / theirs if mine > 0 and theirs > 0 else 0.0


# ----------------------------------------------------------------------------------------- drawing


def plot(results: Results, path: Path) -> None:
    """Write a drawing of what was measured; nothing where there is nobody to compare with."""
    drawn = [
        (panel, found)
        for panel in PANELS
        if panel.section in results.sections()
        if (found := ratios(results, panel.section, panel.cases_of(results)))
    ]
    if not drawn:
        return
    rows = [_rows(panel.cases_of(results), found) for panel, found in drawn]
    looks = _looks(name for _, found in drawn for name in found)
    top = LINE * -(-len(looks) // COLUMNS)
    height = top + sum(HEAD + ROW * len(each) for each in rows) + FOOT
    with mpl.rc_context(LOOK):
        drawing, reached = plt.figure(figsize=(WIDTH, height)), height - top
        for (panel, found), shown in zip(drawn, rows, strict=True):
            reached -= HEAD + ROW * len(shown)
            place = LEFT, reached / height, RIGHT - LEFT, ROW * len(shown) / height
            _draw(drawing.add_axes(place), panel, shown, found, looks)
        drawing.axes[-1].set_xlabel("pmemheap / other: left of 1 pmemheap takes less")
        handles = [Line2D([], [], linestyle="", label=name, **look) for name, look in looks.items()]
        drawing.legend(
            handles=handles, loc="upper center", ncols=COLUMNS, fontsize=8, frameon=False
        )
        drawing.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(drawing)


def _rows(cases: list[str], found: dict[str, dict[str, float]]) -> list[str]:
    """Return the rows of a panel: the mean on top, and the cases in which somebody is compared."""
    return [MEAN, *(case for case in cases if any(case in each for each in found.values()))]


def _looks(names: Iterator[str]) -> dict[str, dict[str, Any]]:
    """Return how the dots of each contender look."""
    looks: dict[str, dict[str, Any]] = {}
    kinds: dict[str, int] = {}
    for name in dict.fromkeys(names):
        family = re.split(r"[ ,]", name)[0]
        number = kinds[family] = kinds.get(family, -1) + 1
        looks[name] = {
            "marker": MARKERS[number % len(MARKERS)], "color": COLOURS.get(family, MUTED),
            "markersize": 6, "alpha": 0.85, "markeredgewidth": 0,
        }  # fmt: skip
    return looks


def _draw(
    axis: Any, panel: Panel, rows: list[str], found: dict[str, dict[str, float]],
    looks: dict[str, dict[str, Any]],
) -> None:  # fmt: skip
    every = [ratio for of_cases in found.values() for ratio in of_cases.values()]
    edge = min(max(2.0, *(max(ratio, 1 / ratio) for ratio in every)) * 1.15, FARTHEST)
    for name, of_cases in found.items():
        at = {number: of_cases[row] for number, row in enumerate(rows) if row in of_cases}
        _dots(axis, {0: at.pop(0)}, edge, looks[name] | {"markersize": 8.5, "alpha": 1.0})
        _dots(axis, at, edge, looks[name])
    axis.axvline(1, color=MUTED, linewidth=1.2)
    axis.axhline(0.5, color=MUTED, linewidth=0.6)
    axis.set_xscale("log", base=2)
    axis.set_xlim(1 / edge, edge)
    step = 2 if edge <= 8 else 4
    powers = range(-int(math.log(edge, step)), int(math.log(edge, step)) + 1)
    axis.xaxis.set_major_locator(FixedLocator([float(step) ** power for power in powers]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: mark(value, "ratio")))
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.get_yticklabels()[0].set_fontweight("bold")
    axis.set_ylim(len(rows) - 0.5, -0.6)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_title(panel.title, loc="left", fontsize=10)


def _dots(axis: Any, ratios: dict[int, float], edge: float, look: dict[str, Any]) -> None:
    """Draw a dot in each row, or a triangle at the edge that it would be beyond."""
    for marker, least, most in (("<", 0.0, 1 / edge), (look["marker"], 1 / edge, edge),
                                (">", edge, math.inf)):  # fmt: skip
        rows = [row for row, ratio in ratios.items() if least <= ratio < most]
        places = [min(max(ratios[row], 1 / edge), edge) for row in rows]
        shown = look | {"marker": marker}
        if rows:
            axis.plot(places, rows, linestyle="", clip_on=False, **shown)


# ---------------------------------------------------------------------------------- drawn once more


def results_of(table: str) -> Results:
    """Return what the tables of a `compare.md` hold: the best of each row, and the median."""
    results = Results()
    contenders: list[str] = []
    section = unit = ""
    for line in table.partition("## Budgets")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if line.startswith("## "):
            section, contenders = line[3:], []
        elif cells and not contenders:
            unit = cells[0].rpartition("[")[2].rstrip("]")
            contenders = [name for name in cells[1:] if " / " not in name]
        elif cells and cells[0].partition(",")[0] not in {"---", "geomean"}:
            for name, cell in zip(contenders, cells[1:], strict=False):  # Ratios come behind.
                if cell != "-":
                    results.add([Row(section, cells[0], name, unit, _values(cell))])
    return results


def _values(cell: str) -> tuple[float, ...]:
    """Return values of which the best and the median are those of a cell, as ``1,234 (1,300)``."""
    best, *median = (float(each) for each in re.findall(r"[\d.]+", cell.replace(",", "")))
    return (best, *median, *median)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", type=Path, nargs="+", help="with a compare.md each")
    for directory in parser.parse_args().directories:
        tables = (directory / "compare.md").read_text(encoding="utf-8")
        plot(results_of(tables), directory / "compare.svg")


if __name__ == "__main__":
    main()
