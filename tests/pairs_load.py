"""Writers and readers by turns, at length: `make pairs COUNT=1000000`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from pairs_worlds import WORLDS, run

from pmemheap.testing import PairsReport
from pmemheap.testing.parts import Begin

BEGINS: tuple[Begin, ...] = ("read", "refresh", "open")
RARE = {"open": 0.2, "moved": 0.2, "large": 0.2}
"""Shares of those whose rounds take milliseconds."""
CHANGES = 3


def run_in(directory: str, name: str, begin: Begin, count: int, seed: int) -> PairsReport:
    with tempfile.TemporaryDirectory(dir=directory) as home:
        return run(Path(home), name, begin, changes=CHANGES, schedules=count, seed=seed)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="random schedules, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", help="a world")
    parser.add_argument("--where", default="/dev/shm")
    options = parser.parse_args()
    named = [*product([*WORLDS, "sent"], BEGINS), ("last", "last")]
    shares = {
        (name, begin): RARE.get(name, 1) * RARE.get(begin, 1)
        for name, begin in named
        if not options.only or name in options.only
    }
    each = options.count / sum(shares.values())
    rounds = kills = 0
    start = time.monotonic()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        running = {
            pool.submit(run_in, options.where, *which, int(each * share) + 1, options.seed): which
            for which, share in shares.items()
        }
        for done in as_completed(running):
            report = done.result()
            rounds += report.rounds
            kills += report.kills
            say(f"{running[done]} {report} {time.monotonic() - start:.0f} s")
    say(f"{rounds} rounds, {kills} kills, 0 wrong")


if __name__ == "__main__":
    main()
