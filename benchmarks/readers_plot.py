"""The plot of readers beside a writer: reads and puts a second over the processes that read.

python benchmarks/readers_plot.py TABLE.md PLOT.svg       TABLE.md is what bench_readers.py prints
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
from figures import mark
from gallery import LOOK
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

mpl.use("agg")

ROW = re.compile(
    r"^\| (?P<processes>\d+) process(es)? and a writer: (?P<what>\w+) a second "
    r"\| (?P<ours>[\d,.]+) \| (?P<lmdb>[\d,.]*) \|",
    re.MULTILINE,
)
COLOURS = {"pmemheap": "#2f5fc4", "LMDB": "#d9731a"}
Curves = dict[str, dict[str, dict[int, float]]]


def curves_of(table: str) -> Curves:
    """Return, by what was counted and by store, the numbers over the processes that read."""
    found: Curves = defaultdict(lambda: defaultdict(dict))
    for row in ROW.finditer(table):
        for store, name in (("pmemheap", "ours"), ("LMDB", "lmdb")):
            if row[name]:
                found[row["what"]][store][int(row["processes"])] = float(row[name].replace(",", ""))
    return found


def draw(curves: Curves, path: Path) -> None:
    """Draw a panel for reads and one for puts."""
    with mpl.rc_context(LOOK):
        figure, axes = plt.subplots(1, len(curves), figsize=(7.2, 2.8), squeeze=False)
        for axis, (what, stores) in zip(axes[0], curves.items(), strict=True):
            for store, points in stores.items():
                axis.plot(
                    *zip(*points.items(), strict=True), "o-", label=store, color=COLOURS[store]
                )
            axis.set_xlabel("processes that read")
            axis.set_title(f"{what} a second, all together", fontsize=9)
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted({each for points in stores.values() for each in points}))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: mark(value)))
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.25, linewidth=0.6)
        axes[0][0].legend(fontsize=8, frameon=False)
        figure.tight_layout()
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)


if __name__ == "__main__":
    draw(curves_of(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
