"""Named arrays beside h5py, zarr and numpy.memmap: small ones, and a few large ones.

    python benchmarks/bench_named_arrays.py table              all of it, some minutes
    python benchmarks/bench_named_arrays.py --fast             ours alone, with pyperf

The contenders take turns in each row, and the least of the rounds counts: what else the machine
does meets all of them. All keep what the end of the process leaves; "power" waits for a sync where
it changes something, which the others do not.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyperf
from array_stores import Pmemheap, Store, disk_bytes, remove, stores

SMALL = np.arange(10.0)
LARGE = np.ones((8192, 128))
LARGE_COUNT = 10
ROUNDS = 5
SAMPLE = 100
OWN = 2
"""Contenders that are ours come first."""

Load = Callable[[Store, list[str]], Iterator[None]]
"""Prepares, and yields before what counts and after it."""


# ---------------------------------------------------------------- loads


def open_by_name(store: Store, names: list[str]) -> Iterator[None]:
    yield
    for name in names:
        store.open(name)
    yield


def open_and_read(store: Store, names: list[str]) -> Iterator[None]:
    yield
    for name in names:
        store.everything(store.reading(store.open(name)))[-1]
    yield


def read_row(store: Store, names: list[str]) -> Iterator[None]:
    opened = [store.reading(store.open(name)) for name in names]
    yield
    for each in opened:
        each[5]
    yield


def read_all(store: Store, names: list[str]) -> Iterator[None]:
    opened = [store.reading(store.open(name)) for name in names]
    yield
    for each in opened:
        store.everything(each).sum()
    yield


def append_row(store: Store, names: list[str]) -> Iterator[None]:
    opened = [store.open(name) for name in names]
    row = store.everything(store.reading(opened[0]))[0].copy()
    yield
    for name, each in zip(names, opened, strict=True):
        store.append(name, each, row)
    yield


def drop(store: Store, names: list[str]) -> Iterator[None]:
    yield
    for name in names:
        store.drop(name)
    yield


def seconds(load: Load, store: Store, names: list[str]) -> float:
    """Return the seconds of what counts, for one of the names."""
    steps = load(store, names)
    next(steps)
    start = time.perf_counter()
    next(steps)
    return (time.perf_counter() - start) / len(names)


# ---------------------------------------------------------------- a table


class Table:
    """Rows of figures, a column for each contender; ours first."""

    def __init__(self, contenders: list[Store]) -> None:
        self.contenders = contenders
        self.rows: list[tuple[str, list[float], str]] = []

    def add(self, title: str, values: list[float], form: str = "{:,.1f}") -> None:
        self.rows.append((title, values, form))

    def lines(self) -> Iterator[str]:
        titles = [store.title for store in self.contenders]
        yield f"| | {' | '.join(titles)} | best other / ours |"
        yield f"|---|{'--:|' * (len(titles) + 1)}"
        for title, values, form in self.rows:
            ratio = min(values[OWN:], default=0.0) / values[0]
            cells = " | ".join(form.format(value) for value in values)
            yield f"| {title} | {cells} | {ratio:.2f}{' lost' if ratio < 1 else ''} |"


def in_turns(load: Load, names: dict[Store, list[str]], rounds: int) -> list[float]:
    """Return the least of each contender, in microseconds."""
    found: dict[Store, float] = {}
    for turn in range(rounds):
        for store, all_names in names.items():
            picked = random.Random(turn).sample(all_names, min(SAMPLE, len(all_names)))
            taken = 1e6 * seconds(load, store, picked)
            found[store] = min(found.get(store, taken), taken)
    return [found[store] for store in names]


def made(store: Store, names: list[str], rows: np.ndarray[Any, Any]) -> float:
    """Make arrays; return the microseconds of one."""
    start = time.perf_counter()
    store.create(names, rows)
    return 1e6 * (time.perf_counter() - start) / len(names)


def reopened(store: Store, name: str) -> float:
    """Close and open a store, and read an array; return the milliseconds of what comes after."""
    store.close()
    start = time.perf_counter()
    store.start()
    store.everything(store.reading(store.open(name)))[-1]
    return 1e3 * (time.perf_counter() - start)


def measure(contenders: list[Store], count: int, rounds: int) -> Table:
    """Measure all loads, small arrays first."""
    table = Table(contenders)
    small = {
        store: [f"a{number:05}" for number in range(min(count, store.small_most))]
        for store in contenders
    }
    table.add("small: create", [made(store, names, SMALL) for store, names in small.items()])
    table.add("small: open the store, read one (ms)", [reopened(s, n[7]) for s, n in small.items()])
    each = SMALL.nbytes
    blocks = [disk_bytes(store) / len(names) / each for store, names in small.items()]
    table.add("small: bytes on disk / payload", blocks, "{:.2f}")
    loads = (open_by_name, open_and_read, read_row, read_all, append_row)
    for load in loads:
        table.add(f"small: {load.__name__.replace('_', ' ')}", in_turns(load, small, rounds))
    gone = {store: names[:SAMPLE] for store, names in small.items()}
    table.add("small: drop", in_turns(drop, gone, 1))
    large = {store: [f"l{number}" for number in range(LARGE_COUNT)] for store in contenders}
    took = [made(store, names, LARGE) / 1000 for store, names in large.items()]
    table.add("large: create (ms)", took)
    for load in loads:
        table.add(f"large: {load.__name__.replace('_', ' ')}", in_turns(load, large, rounds))
    table.add("large: drop", in_turns(drop, large, 1))
    return table


def print_table(count: int, rounds: int) -> None:
    """Print the table of all contenders that are there."""
    with tempfile.TemporaryDirectory(dir=".") as home:
        contenders, missing = stores(Path(home))
        for line in measure(contenders, count, rounds).lines():
            print(line)  # noqa: T201 -- it is what is asked for
        for store in contenders:
            if store.small_most < count:
                print(f"{store.title}: {store.small_most:,} small arrays, of {count:,}")  # noqa: T201
            remove(store)
        for title in missing:
            print(f"not installed: {title}")  # noqa: T201


# ---------------------------------------------------------------- pyperf


def looped(loops: int, load: Load) -> float:
    """Return the seconds of so many calls on ten arrays."""
    with tempfile.TemporaryDirectory() as home:
        store = Pmemheap(Path(home))
        store.create([f"a{number}" for number in range(10)], SMALL)
        taken = sum(
            seconds(load, store, [f"a{number}" for number in range(10)]) for _ in range(loops)
        )
        store.close()
    return taken


def main() -> None:
    """Measure ours with pyperf."""
    runner = pyperf.Runner(metadata={"layer": "named_arrays"})
    for load in (open_and_read, append_row):
        runner.bench_time_func(f"named_arrays/{load.__name__}/process", looped, load)


if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        print_table(int(sys.argv[2]) if sys.argv[2:] else 100_000, ROUNDS)
    else:
        main()
