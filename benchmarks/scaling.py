"""Scaling: what a call costs beside more and more blocks, free extents and bytes of heap.

    python benchmarks/scaling.py measure benchmarks/results/scaling/data.json
    python benchmarks/scaling.py draw benchmarks/results/scaling/data.json scaling.svg

Each round builds every heap anew, and measures every point in a few short turns, of which the least
counts: what else the machine does falls on all of them. A line goes through the least of the
rounds, a lighter one through the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import workloads
from compare import machine
from figures import mark
from gallery import LOOK
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from peers import heap_class, open_peer
from plan import calibrated
from workloads import EXTENT_SIZE, GiB, MiB

mpl.use("agg")

Data = dict[str, Any]
Point = tuple[str, float]
"""The name of a line, and the nanoseconds at one place of it."""

SMALL = 64
LIVE_SIZES = (16, 256)
GROWTH = 64 * MiB
FACTS = ("cpus", "processor", "kernel", "python", "libc")


class Pace(NamedTuple):
    """How long a turn takes at least, and how many there are."""

    seconds: float
    turns: int


# --------------------------------------------------------------------------------------- measuring


def least(loop: Callable[[int], float], pace: Pace) -> float:
    """Return the seconds of one iteration of a loop in the quickest of a few turns."""
    return min(calibrated(loop, pace.seconds) for _ in range(pace.turns))


def beside_blocks(count: int, pace: Pace) -> Iterator[Point]:
    """Yield the cost of small blocks beside so many live ones of varied sizes."""
    for name, line in {
        "pmemheap": "memory", "pmemheap (process file)": "file", "glibc (methods)": "glibc",
    }.items():  # fmt: skip
        rng = random.Random(count)
        with contextlib.closing(open_peer(name)) as peer:
            live = [peer.malloc(rng.randint(*LIVE_SIZES)) for _ in range(count)]

            def pairs(loops: int, peer: Any = peer) -> float:
                return workloads.pair(loops, peer.malloc, peer.free, SMALL)

            def replaced(loops: int, peer: Any = peer, live: list[Any] = live) -> float:
                return replace_at_random(loops, peer, live)

            yield f"{line}: malloc + free of 64 B", least(pairs, pace) * 1e9
            yield f"{line}: a random block replaced", least(replaced, pace) * 1e9
            for block in live:
                peer.free(block)


def replace_at_random(loops: int, peer: Any, live: list[Any]) -> float:
    """Free random blocks, each for a new one of another size, and return the seconds."""
    rng = random.Random(loops)
    slots = rng.choices(range(len(live)), k=loops)
    sizes = [rng.randint(*LIVE_SIZES) for _ in range(loops)]
    malloc, free = peer.malloc, peer.free
    began = time.perf_counter()
    for slot, size in zip(slots, sizes, strict=True):
        free(live[slot])
        live[slot] = malloc(size)
    return time.perf_counter() - began


def beside_holes(count: int, pace: Pace) -> Iterator[Point]:
    """Yield the cost of large blocks beside so many free extents."""
    with workloads.anonymous_heap() as heap:
        workloads.fragment(heap, count)

        def pairs(loops: int) -> float:
            return workloads.pair(loops, heap.malloc, heap.free, EXTENT_SIZE)

        def churn(loops: int) -> float:
            return workloads.churn(loops, heap)

        yield "malloc + free of 256 KiB", least(pairs, pace) * 1e9
        yield "one of 64 of 256-768 KiB replaced", least(churn, pace) * 1e9


def in_heap_of(size: int, pace: Pace) -> Iterator[Point]:
    """Yield the cost of calls in heaps with one block of so many bytes."""
    with workloads.anonymous_heap() as heap:
        heap.malloc(size)

        def pairs(loops: int) -> float:
            return workloads.pair(loops, heap.malloc, heap.free, SMALL)

        yield "malloc + free of 64 B", least(pairs, pace) * 1e9
        yield "growth by 64 MiB", workloads.grow(heap, GROWTH) * 1e9
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "heap"
        workloads.build_store(path, 1000)
        with contextlib.closing(heap_class().open(path)) as heap:
            heap.malloc(size)
            heap.sync()  # What the system still writes back would disturb the opening.
        took = min(workloads.open_store(1, path) for _ in range(pace.turns))
        yield "opening a file, first malloc and read", took * 1e9


Measure = Callable[[int, Pace], Iterator[Point]]
PANELS: dict[str, tuple[str, Measure, tuple[int, ...]]] = {
    "live blocks": ("", beside_blocks, (100, 1_000, 10_000, 100_000, 1_000_000)),
    "free extents": ("", beside_holes, workloads.HOLES),
    "bytes of heap": ("bytes", in_heap_of, (MiB, 16 * MiB, 256 * MiB, 4 * GiB)),
}
"""What the axis counts, in which unit, how it is measured, and where."""
QUICK = {"live blocks": (100, 1_000), "free extents": (10, 100), "bytes of heap": (MiB, 2 * MiB)}


def measure(rounds: int, *, quick: bool, tell: Callable[[str], object]) -> Data:
    """Return the nanoseconds of each round at each point, by panel and line."""
    pace = Pace(0.0005, 1) if quick else Pace(0.003, 10)
    panels: Data = {name: {} for name in PANELS}
    for number in range(rounds):
        for name, (unit, take, places) in PANELS.items():
            for place in QUICK[name] if quick else places:
                tell(f"round {number + 1} of {rounds}: {name}: {mark(place, unit)}")
                for line, took in take(place, pace):
                    at = panels[name].setdefault(line, {}).setdefault(str(place), [])
                    at.append(round(took, 1))
    return {"machine": {name: machine()[name] for name in FACTS}, "panels": panels}


# ----------------------------------------------------------------------------------------- drawing

WIDTH, PANEL = 5.2, 2.6  # inches
COLOURS = {"memory": "#2f7fd6", "file": "#d9731a", "glibc": "#d0506b"}
ORDER = ("#2f7fd6", "#d9731a", "#2f9e5f")


def draw(data: Data, path: Path) -> None:
    """Draw a panel for each axis: nanoseconds over it, both logarithmic."""
    with mpl.rc_context(LOOK):
        figure, axes = plt.subplots(len(PANELS), figsize=(WIDTH, PANEL * len(PANELS)))
        figure.subplots_adjust(left=0.14, right=0.97, top=0.93, bottom=0.06, hspace=0.7)
        for axis, (name, (unit, _, _)) in zip(axes, PANELS.items(), strict=True):
            _panel(axis, name, unit, data["panels"][name])
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _panel(axis: Any, name: str, unit: str, lines: dict[str, dict[str, list[float]]]) -> None:
    for number, (line, rounds) in enumerate(lines.items()):
        places = [int(place) for place in rounds]
        colour = COLOURS.get(line.partition(":")[0], ORDER[number % len(ORDER)])
        look = {"color": colour, "linestyle": "--" if line.endswith("replaced") else "-"}
        medians = [statistics.median(values) for values in rounds.values()]
        axis.plot(places, medians, linewidth=1, alpha=0.4, **look)
        leasts = [min(values) for values in rounds.values()]
        axis.plot(places, leasts, marker="o", markersize=4, label=line, **look)
    axis.set_xscale("log", base=2 if unit else 10)
    axis.set_yscale("log")
    axis.set_xticks(sorted({int(place) for rounds in lines.values() for place in rounds}))
    axis.yaxis.set_major_locator(LogLocator(10, numticks=8))
    for along, of in ((axis.xaxis, unit), (axis.yaxis, "ns")):
        along.set_major_formatter(FuncFormatter(lambda value, _, of=of: mark(value, of)))
        along.set_minor_locator(NullLocator())
    axis.set_xlabel(name)
    axis.set_ylim(bottom=10)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.legend(fontsize=7, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["measure", "draw"])
    parser.add_argument("data", type=Path, help="where the figures are")
    parser.add_argument("picture", type=Path, nargs="?", help="where the drawing goes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small heaps and short turns")
    options = parser.parse_args()
    if options.what == "draw":
        draw(json.loads(options.data.read_text(encoding="utf-8")), options.picture)
        return
    data = measure(
        options.rounds, quick=options.quick, tell=lambda text: sys.stderr.write(f"{text}\n")
    )
    options.data.parent.mkdir(parents=True, exist_ok=True)
    options.data.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
