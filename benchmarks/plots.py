"""Plots: a run as one drawing, a panel a section: bars of allocators, points of stores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kv
import kv_bench
import matplotlib as mpl
from kv_stores import FAMILIES, GROUPS
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from peers import PEERS
from results import Results
from sections import BATCH, MICRO, PAIR, PAIR_SPINNING, UTILISATION, WARM

mpl.use("agg")
mpl.rcParams["svg.hashsalt"] = "pmemheap"  # The same run makes the same file.

COLOUR_OF = {name: f"C{number}" for number, name in enumerate(PEERS)}
FAMILY_OF = {
    name: family
    for group in GROUPS.values()
    for name, family in zip(group, FAMILIES, strict=False)  # Not all can promise both.
} | {kv.FILE: kv.FILE}
MARKERS = dict(zip([*FAMILIES, kv.FILE], "DosP^vXp|", strict=True))
POINT_COLOURS = dict(zip(MARKERS, ["black", *(f"C{number}" for number in range(8))], strict=True))


@dataclass(frozen=True)
class Panel:
    """One section in a drawing.

    Attributes
    ----------
    draw : callable
        Draws some cases of a section into axes.
    cases : tuple of str
        Which; all of the section where there are none.
    inches : float
        Height of a case.
    """

    section: str
    title: str
    draw: Callable[[Any, Results, str, list[str]], None]
    cases: tuple[str, ...] = ()
    scale: str = "log"
    inches: float = 0.4

    def cases_of(self, results: Results) -> list[str]:
        return list(self.cases or results.cases(self.section))


def plot(results: Results, path: Path) -> None:
    """Write a drawing of what was measured; nothing where there is nothing to see."""
    drawn = [panel for panel in PANELS if panel.section in results.sections()]
    if not drawn:
        return
    heights = [max(1.0, panel.inches * len(panel.cases_of(results))) + 0.5 for panel in drawn]
    drawing, axes = plt.subplots(
        len(drawn),
        figsize=(9, sum(heights) + 1),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, panel in zip(axes[:, 0], drawn, strict=True):
        panel.draw(axis, results, panel.section, panel.cases_of(results))
        axis.set_title(panel.title, loc="left", fontsize=10)
        axis.set_xscale(panel.scale)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    handles = _handles(results)
    drawing.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def _handles(results: Results) -> list[Any]:
    bars = {row.contender for row in results.rows if row.section not in kv_bench.SECTIONS}
    points = {FAMILY_OF[row.contender] for row in results.rows if row.section in kv_bench.SECTIONS}
    return [
        *(Patch(color=colour, label=name) for name, colour in COLOUR_OF.items() if name in bars),
        *(
            Line2D([], [], linestyle="", label=family, **_look(family))
            for family in MARKERS
            if family in points
        ),
    ]


def _bars(axis: Any, results: Results, section: str, cases: list[str]) -> None:
    contenders = results.contenders(section)
    thickness = 0.85 / len(contenders)
    for number, contender in enumerate(contenders):
        bests = results.bests(section, contender)
        places = [index + number * thickness for index in range(len(cases))]
        values = [bests.get(case, math.nan) for case in cases]
        axis.barh(places, values, thickness, color=COLOUR_OF[contender])
    _label(axis, [index + 0.4 for index in range(len(cases))], cases)
    axis.margins(y=0.01)


def _points(axis: Any, results: Results, section: str, cases: list[str]) -> None:
    """Draw a line for each case and a point for each store: bars would be two hundred."""
    for contender in reversed(results.contenders(section)):  # Ours is the first: on top.
        bests = results.bests(section, contender)
        values = [bests.get(case, 0) or math.nan for case in cases]
        axis.plot(values, range(len(cases)), linestyle="", **_look(FAMILY_OF[contender]))
    _label(axis, list(range(len(cases))), cases)
    axis.grid(axis="y", alpha=0.3)
    axis.set_ylim(len(cases) - 0.4, -0.6)


def _look(family: str) -> dict[str, Any]:
    return {"marker": MARKERS[family], "color": POINT_COLOURS[family], "markersize": 7}


def _label(axis: Any, places: list[float], cases: list[str]) -> None:
    axis.set_yticks(places, cases, fontsize=8)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)


PANELS = (
    Panel(
        MICRO,
        "64 B from Python: ns a call pair, or a block",
        _bars,
        cases=(PAIR, PAIR_SPINNING, BATCH),
        inches=0.8,
    ),
    Panel(WARM, "traces, warm: ns an operation, net of the loop", _bars),
    Panel(UTILISATION, "traces: peak live payload / peak touched memory", _bars, scale="linear"),
    Panel(kv_bench.TIMES, "process: us an operation, each a commit", _points, inches=0.28),
    Panel(kv_bench.DURABLE, "power: us a commit, or an opening", _points, inches=0.28),
    Panel(kv_bench.DISK, "bytes on the disk for each byte stored", _points, inches=0.28),
    Panel(kv_bench.MEMORY, "MiB of memory after the mixes", _points, inches=0.28),
)
