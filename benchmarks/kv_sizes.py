"""Key-value stores of a thousand to ten million records: ours and LMDB, at each size.

    python benchmarks/kv_sizes.py measure benchmarks/results/sizes/process.json
    python benchmarks/kv_sizes.py draw benchmarks/results/sizes/process.json process.svg

Each store lives in a process of its own, and gets records of 24 + 100 bytes in no order, a hundred
a commit. At each size the stores take turns: the next records, gets, scans, and an opening after a
change. The median of the turns counts; of the puts on the way to a size there is one turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from compare import machine
from contenders import Contender
from figures import mark
from gallery import LOOK
from kv_bench import BATCH, BLOCK_BYTES, KEY_BYTES, SCANNED, VALUE_BYTES, VALUES, key_of
from kv_stores import GROUPS, LMDB_NAMES, OURS, Kv
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from peers import PeerUnavailableError
from scaling import FACTS
from stores import settle

mpl.use("agg")

Data = dict[str, Any]

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
MOST = {"process": SIZES[-1], "power": SIZES[-2]}
"""By durability: a put of LMDB with a map and syncs takes half a millisecond at a million."""
TURNS, CALLS, QUICK_CALLS = 5, 4_000, 40
SLOW_SHARE = 20
"""A turn has so many times fewer scans than gets."""
LAST_SHARE = 10
"""Of the records on the way to a size the last tenth is timed."""
PUT, GET, SCAN = "put, 100 a commit", "get", f"scan of {SCANNED}"
REOPEN, DISK = "open and get", "bytes on the disk, each of data"
PANELS = (PUT, GET, SCAN, REOPEN, DISK)


# -------------------------------------------------------------------------------------- one process


class Grown:
    """A store that grows, and what is asked of it."""

    def __init__(self, group: str, name: str, calls: int, home: Path) -> None:
        self._make, self._home, self._calls = GROUPS[group][name], home, calls
        self._rng = random.Random(1)
        self._values = cycle([self._rng.randbytes(VALUE_BYTES) for _ in range(VALUES)])
        self._count = 0
        self.store: Kv = self._make(home)

    def answer(self, asked: tuple[Any, ...]) -> float:
        """Return what one of the methods below does: its name, and what it takes."""
        what, *words = asked
        answer: float = getattr(self, what)(*words)
        return answer

    def close(self) -> None:
        self.store.close()

    def grow(self, count: int) -> float:
        """Have so many records; the microseconds of a put among the last of them."""
        timed = count - max((count - self._count) // LAST_SHARE, BATCH)
        self._put_up_to(timed)
        began = time.perf_counter()
        self._put_up_to(count)
        return (time.perf_counter() - began) / (count - timed) * 1e6

    def _put_up_to(self, count: int) -> None:
        apply = self.store.apply
        assert apply is not None
        for start in range(self._count, count, BATCH):
            keys = map(key_of, range(start, min(start + BATCH, count)))
            apply(list(zip(keys, self._values, strict=False)))
        self._count = max(count, self._count)

    def get(self) -> float:
        return self._each(self.store.get, self._calls)

    def scan(self) -> float:
        scan = self.store.scan
        assert scan is not None
        return self._each(lambda key: scan(key, SCANNED), self._calls // SLOW_SHARE)

    def _each(self, call: Callable[[bytes], Any], count: int) -> float:
        keys = [key_of(self._rng.randrange(self._count)) for _ in range(count)]
        began = time.perf_counter()
        for key in keys:
            call(key)
        return (time.perf_counter() - began) / count * 1e6

    def reopen(self) -> float:
        """Change it, close it, and time the way to the first value."""
        changed, asked = (key_of(self._rng.randrange(self._count)) for _ in range(2))
        self.store.put(changed, next(self._values))
        self.store.close()
        began = time.perf_counter()
        self.store = self._make(self._home)
        found = self.store.get(asked)
        took = time.perf_counter() - began
        assert found is not None
        return took * 1e6

    def disk(self) -> float:
        settle(self._home)
        files = [path.stat() for path in self._home.rglob("*") if path.is_file()]
        held = sum(each.st_blocks for each in files) * BLOCK_BYTES
        return held / self._count / (KEY_BYTES + VALUE_BYTES)


# ---------------------------------------------------------------------------------------- measuring


def measure(group: str, sizes: tuple[int, ...], calls: int, tell: Callable[[str], object]) -> Data:
    """Return what each store takes at each size: microseconds, or bytes; by panel and store."""
    panels: Data = {panel: {} for panel in PANELS}
    with contextlib.ExitStack() as opened:
        stores = dict(open_stores(group, calls, opened, tell))
        for size in sizes:
            for panel, name, values in at_size(stores, size, tell):
                panels[panel].setdefault(name, {})[str(size)] = round(statistics.median(values), 3)
    return {"group": group, "machine": {name: machine()[name] for name in FACTS}, "panels": panels}


def open_stores(
    group: str, calls: int, opened: contextlib.ExitStack, tell: Callable[[str], object]
) -> Iterator[tuple[str, Contender]]:
    """Yield ours and those of LMDB that can be had here."""
    for name in GROUPS[group]:
        if name != OURS and not name.startswith(LMDB_NAMES):
            continue
        try:
            contender = Contender(Grown, group, name, calls)
        except PeerUnavailableError as refused:
            tell(f"{name}: {refused}")
        else:
            yield name, opened.enter_context(contextlib.closing(contender))


def at_size(
    stores: dict[str, Contender], size: int, tell: Callable[[str], object]
) -> Iterator[tuple[str, str, list[float]]]:
    """Let all grow to a size, then take turns; yield what each turn of a store took."""
    for name, store in stores.items():
        tell(f"{size:,} records: {name}")
        yield PUT, name, [store.turn(("grow", size))]
        yield DISK, name, [store.turn(("disk",))]
    for panel, what in {GET: "get", SCAN: "scan", REOPEN: "reopen"}.items():
        taken: dict[str, list[float]] = {name: [] for name in stores}
        for turn in range(TURNS):
            for name in list(stores)[:: -1 if turn % 2 else 1]:
                taken[name].append(stores[name].turn((what,)))
        for name, values in taken.items():
            yield panel, name, values


# ------------------------------------------------------------------------------------------ drawing

COLOURS = {OURS: "#2f7fd6", LMDB_NAMES: "#d9731a"}
WIDTH, PANEL = 5.2, 2.0  # inches


def draw(data: Data, path: Path) -> None:
    """Draw a panel for each measure over the number of records, both logarithmic."""
    with mpl.rc_context(LOOK):
        figure, axes = plt.subplots(len(PANELS), figsize=(WIDTH, PANEL * len(PANELS)))
        figure.subplots_adjust(left=0.14, right=0.97, top=0.94, bottom=0.05, hspace=0.75)
        for axis, name in zip(axes, PANELS, strict=True):
            _panel(axis, name, data["panels"][name])
        axes[0].legend(
            fontsize=7, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.15)
        )
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _panel(axis: Any, name: str, lines: dict[str, dict[str, float]]) -> None:
    scale, unit = (1, "") if name == DISK else (1000, "ns")
    for store, points in lines.items():
        look = {"color": COLOURS[OURS if store == OURS else LMDB_NAMES], "markersize": 4}
        style = "--" if store.endswith("writemap") else "-"
        values = [value * scale for value in points.values()]
        axis.plot(list(map(int, points)), values, style, marker="o", label=store, **look)
    axis.set_title(name, fontsize=8, loc="left")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(sorted({int(size) for points in lines.values() for size in points}))
    axis.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    for along, of in ((axis.xaxis, ""), (axis.yaxis, unit)):
        along.set_major_formatter(FuncFormatter(lambda value, _, of=of: mark(value, of)))
        along.set_minor_locator(NullLocator())
    axis.grid(alpha=0.25, linewidth=0.6)


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["measure", "draw"])
    parser.add_argument("data", type=Path, help="where the figures are")
    parser.add_argument("picture", type=Path, nargs="?", help="where the drawing goes")
    parser.add_argument("--durability", choices=list(GROUPS), default="process")
    parser.add_argument("--most", type=int, help="records of the largest store")
    options = parser.parse_args()
    if options.what == "draw":
        draw(json.loads(options.data.read_text(encoding="utf-8")), options.picture)
        return
    most = options.most or MOST[options.durability]
    sizes = tuple(size for size in SIZES if size <= most)
    calls = CALLS if most >= SIZES[1] else QUICK_CALLS
    data = measure(options.durability, sizes, calls, lambda text: sys.stderr.write(f"{text}\n"))
    options.data.parent.mkdir(parents=True, exist_ok=True)
    options.data.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
