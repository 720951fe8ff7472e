"""The gallery: measures what `docs/gallery.md` shows, draws its pictures and fills its tables.

    python benchmarks/gallery.py measure docs/gallery/data.json
    python benchmarks/gallery.py draw docs/gallery/data.json docs

Memory is measured by `gallery_loads`, a process for each load and allocator. Times are those of
loads of `strategy_loads`, which take turns; of each the median stands in the table, and a ratio is
the median of the ratios of turns. jemalloc needs room when Python starts; `make gallery` gives it.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import matplotlib as mpl
import strategy_loads as loads
from gallery_loads import LOADS, PLACES
from matplotlib import pyplot as plt
from peers import ROOM_FOR_TLS, PeerUnavailableError, open_peer
from workloads import pair

from pmemheap.traces import MemoryMeter
from pmemheap.units import MiB

mpl.use("agg")

Data = dict[str, Any]
Tell = Callable[[str], object]

DEFAULT, PAYLOAD = "default arena", "payload"
PAIRS, LOOPS = 1000, 60
OURS = {"general": DEFAULT, "region": "region", "ring": "ring", "rows": "rows"}
SETTINGS = {"MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0"}  # jemalloc gives back at once.


def pairs_in(peer: str) -> loads.Load:
    """Return the load of 1000 blocks of 64 bytes, each freed before the next one."""

    def load(loops: int) -> float:
        with open_peer(peer) as opened:
            return pair(loops * PAIRS, opened.malloc, opened.free, 64)

    return load


TIMES: dict[str, dict[str, loads.Load]] = {
    "general: 1000 pairs of malloc and free": {
        DEFAULT: pairs_in("pmemheap"),
        "glibc": pairs_in("glibc (methods)"),
        "jemalloc": pairs_in("jemalloc (methods)"),
    },
    "region: 1000 mixed blocks, then all gone": {
        DEFAULT: loads.mixed_then_gone,
        "region": loads.mixed_then_gone_in_region,
        "obstack": loads.mixed_then_gone_in_obstack,
        "jemalloc": loads.mixed_then_gone_in_jemalloc,
    },
    "ring: 1000 put and taken, written": {
        DEFAULT: loads.written_queue_in_arena,
        "ring": loads.written_queue_in_ring,
        "bytes objects": loads.written_queue_of_bytes,
        "jemalloc": loads.written_queue_in_jemalloc,
    },
    "ring: 1000 put and taken, not written": {
        DEFAULT: loads.queue_in_arena,
        "ring": loads.queue_in_ring,
        "jemalloc": loads.queue_in_jemalloc,
    },
    "rows: sums of 4,000 vectors of 512 bytes": {
        DEFAULT: loads.sums_of_arrays,
        "rows": loads.sums_of_rows,
        "one numpy array": loads.sums_of_array,
        "numpy arrays": loads.sums_of_plain_arrays,
    },
}
"""What is timed, in which allocators; the first word is the strategy."""


# ---------------------------------------------------------------- measuring


def measure(only: str, scale: float, rounds: int, tell: Tell) -> Data:
    """Return what was measured of the loads whose names begin with `only`."""
    memory = {name: held(name, scale, tell) for name in LOADS if name.startswith(only)}
    times = {name: timed(name, rounds, tell) for name in TIMES if name.startswith(only)}
    return {"memory": memory, "times": times}


def held(name: str, scale: float, tell: Tell) -> Data:
    """Return the memory of each allocator over a load, and of the payload in it."""
    load, strategy = LOADS[name](scale), name.partition(":")[0]
    stops, payload = load.stops(), load.payload()
    measured: Data = {
        "at": [round(100 * stop / stops[-1], 2) for stop in stops],
        PAYLOAD: [round(payload[stop] / MiB, 3) for stop in stops],
        "held": {},
    }
    steps = pickle.dumps((load.sizes, load.requested, load.steps))
    for place in PLACES[strategy]:
        tell(f"{name}, {place}")
        values, refusal = _held_in_a_process(strategy, place, steps)
        if refusal:
            tell(f"{name}, {place}: left out: {refusal}")
        else:
            measured["held"][place] = values
    return measured


def _held_in_a_process(strategy: str, place: str, steps: bytes) -> tuple[list[float], str]:
    """Return the MiB of a process at each of its stops, or why there are none."""
    script = Path(__file__).with_name("gallery_loads.py")
    environment = os.environ | SETTINGS | dict([ROOM_FOR_TLS.split("=", 1)])
    command = [sys.executable, str(script), strategy, place]
    values: list[float] = []
    with subprocess.Popen(
        command, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        _send(child.stdin, steps)
        meter = None
        while child.stdout.read(1):
            if meter is None:
                meter = MemoryMeter(child.pid)
            else:
                values.append(round(meter.growth_bytes() / MiB, 3))
            _send(child.stdin, b".")
        refusal = child.stderr.read().decode().strip()
    return values, refusal


def _send(stream: IO[bytes], message: bytes) -> None:
    stream.write(message)
    stream.flush()


def timed(name: str, rounds: int, tell: Tell) -> dict[str, list[float]]:
    """Return the microseconds of each turn of each allocator."""
    tell(name)
    loops = LOOPS if rounds > 1 else 1
    values: dict[str, list[float]] = {}
    for place, load in TIMES[name].items():
        try:
            load(1)
        except PeerUnavailableError as refusal:
            tell(f"{name}, {place}: left out: {refusal}")
        else:
            values[place] = []
    for _ in range(rounds):
        for place, measured in values.items():
            measured.append(round(TIMES[name][place](loops) / loops * 1e6, 2))
    return values


# ---------------------------------------------------------------- tables


def table(strategy: str, data: Data) -> str:
    """Return the table of a strategy, as the page has it."""
    places = list(PLACES[strategy])
    ours = OURS[strategy]
    against = [f"{ours} / {DEFAULT}"] if ours != DEFAULT else []
    head = ["load", PAYLOAD, *places, *against, f"{ours} / best other"]
    rows = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for name in _of(strategy, data["memory"]):
        load = data["memory"][name]
        means = {place: [statistics.fmean(values)] for place, values in load["held"].items()}
        payload = f"{statistics.fmean(load[PAYLOAD]):.1f}"
        rows.append([f"{_title(name)}: MiB, mean", payload, *_figures(means, places, ours)])
    for name in _of(strategy, data["times"]):
        figures = _figures(data["times"][name], places, ours)
        rows.append([f"{_title(name)}: us", "", *figures])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _of(strategy: str, measured: Data) -> Iterator[str]:
    return (name for name in measured if name.partition(":")[0] == strategy)


def _title(name: str) -> str:
    return name.partition(": ")[2]


def _figures(values: dict[str, list[float]], places: list[str], ours: str) -> list[str]:
    """Return the figure of each allocator, and how ours compare."""
    medians = {place: statistics.median(each) for place, each in values.items()}
    others = [place for place in medians if place not in (ours, DEFAULT)]
    compared = [DEFAULT] if ours != DEFAULT else []
    compared.append(min(others, key=medians.__getitem__))
    digits = 1 if max(medians.values()) < 100 else 0
    figures = [f"{medians[place]:,.{digits}f}" if place in medians else "-" for place in places]
    return figures + [_factor(values[ours], values[place]) for place in compared]


def _factor(ours: list[float], other: list[float]) -> str:
    ratio = statistics.median(a / b for a, b in zip(ours, other, strict=True))
    return f"{ratio:.2f} lost" if round(ratio, 2) > 1 else f"**{ratio:.2f}**"


def filled(page: str, data: Data) -> str:
    """Return the page with the tables of what was measured between its marks."""
    for strategy in PLACES:
        marks = rf"(<!-- table: {strategy} -->\n).*?(<!-- end -->)"
        made = table(strategy, data)
        page, count = re.subn(marks, rf"\g<1>{made}\n\g<2>", page, flags=re.S)
        if count != 1:
            raise ValueError(f"page: one table of {strategy} expected, {count} found")
    return page


# ---------------------------------------------------------------- pictures

MUTED = "#787878"  # Read on white and on black alike, as are the colours.
STYLES = {
    DEFAULT: ("#d9731a", "-"),
    **dict.fromkeys(("region", "ring", "rows"), ("#2f7fd6", "-")),
    **dict.fromkeys(("obstack", "bytes objects", "one numpy array"), ("#2f9e5f", "--")),
    **dict.fromkeys(("jemalloc", "numpy arrays"), ("#a565c9", ":")),
    "glibc": ("#d0506b", "-."),
}
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",  # Text stays text.
    "svg.hashsalt": "pmemheap",  # The same data makes the same file.
    "path.simplify": False,
    "font.size": 10, "font.family": "sans-serif",
    "text.color": MUTED, "axes.labelcolor": MUTED, "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
WIDTH, PANEL, TOP, BOTTOM = 4.6, 2.1, 0.75, 0.5  # inches


def draw(strategy: str, data: Data, path: Path) -> None:
    """Draw memory over a strategy's loads, one panel below the other: for a narrow screen."""
    names = list(_of(strategy, data["memory"]))
    height = TOP + PANEL * len(names) + BOTTOM
    with mpl.rc_context(LOOK):
        figure, axes = plt.subplots(len(names), figsize=(WIDTH, height), squeeze=False)
        figure.subplots_adjust(
            left=0.11, right=0.95, hspace=0.32, top=1 - TOP / height, bottom=BOTTOM / height
        )
        for number, name in enumerate(names):
            _panel(axes[number, 0], number, _title(name), data["memory"][name])
        axes[-1, 0].set_xlabel("calls done, %")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=3, frameon=False, fontsize=9,
                      columnspacing=1.2, handlelength=1.6)  # fmt: skip
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _panel(axis: Any, number: int, title: str, load: Data) -> None:
    axis.fill_between(
        load["at"], load[PAYLOAD], color=MUTED, alpha=0.25, linewidth=0, label=PAYLOAD
    )
    for place, values in load["held"].items():
        colour, dashes = STYLES[place]
        width = 2 if place in OURS.values() else 1.4
        (line,) = axis.plot(load["at"], values, dashes, color=colour, linewidth=width, label=place)
        line.set_gid(gid(number, place))
    axis.set_title(f"{title}: MiB", loc="left", fontsize=10)
    axis.set_xlim(0, 100)
    axis.set_ylim(0)


def gid(panel: int, place: str) -> str:
    """Return the identity that a curve has in the file."""
    return f"panel-{panel}-{re.sub('[^a-z]+', '-', place)}"


def draw_all(data: Data, docs: Path) -> None:
    """Draw all pictures of the page and fill its tables."""
    page = docs / "gallery.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), data), encoding="utf-8")
    for strategy in PLACES:
        draw(strategy, data, docs / "gallery" / f"{strategy}.svg")


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["measure", "draw"])
    parser.add_argument("data", type=Path, help="where the figures are")
    parser.add_argument("docs", type=Path, nargs="?", help="where the page is")
    parser.add_argument("--only", default="", help="how the names of the loads begin")
    parser.add_argument("--scale", type=float, default=1.0, help="of the loads of memory")
    parser.add_argument("--rounds", type=int, default=31, help="of the times")
    options = parser.parse_args()
    if options.what == "draw":
        draw_all(json.loads(options.data.read_text(encoding="utf-8")), options.docs)
        return
    tell = lambda text: sys.stderr.write(f"{text}\n")  # noqa: E731
    data = measure(options.only, options.scale, options.rounds, tell)
    options.data.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
