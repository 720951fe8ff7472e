"""Crash a heap in millions of ways: programs of one, two and three operations, all their crashes.

    python tests/crash_load.py --states 2000000 --seconds 7200 --workers 2

Containers first, then programs. Prints what was exercised, and fails for a wrong heap and for a
counter that stayed 0: a search that never met a wrapped record has shown nothing about them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

from crash_containers import SCENARIOS, crash
from crash_oracle import Findings, Search
from crash_world import Program, alphabet

FAILURES_SHOWN = 5
DURABILITIES = ("power", "process")
ROWS_SHARE = 0.2
"""Of the programs of three operations: on a heap that has rows itself."""


def programs(seed: int) -> Iterator[Program]:
    """Yield every program of one operation, then those of two in some order, then some of three.

    Of each length those on a heap that has rows itself are last.
    """
    chance = random.Random(seed)
    for count, has_rows in product((1, 2), (False, True)):
        some = [
            Program(durability, operations, has_rows)
            for durability in DURABILITIES
            for operations in product(alphabet(has_rows=has_rows), repeat=count)
        ]
        chance.shuffle(some)
        yield from some
    while True:
        has_rows = chance.random() < ROWS_SHARE
        operations = chance.choices(alphabet(has_rows=has_rows), k=3)
        yield Program(chance.choice(DURABILITIES), tuple(operations), has_rows)


def search(
    states: int,
    seconds: float,
    workers: int,
    *,
    seed: int = 0,
    budget: int = 64,
    share: float = 0.02,
) -> Findings:
    """Crash programs until enough states were looked at, or the time is up.

    `budget` and `share` are those of `Search`.
    """
    context = multiprocessing.get_context("fork")
    end = time.monotonic() + seconds
    running = []
    for rank in range(workers):
        receiver, sender = context.Pipe(duplex=False)
        part = rank, workers, -(-states // workers), end
        each = Search(budget=budget, share=share, seed=seed)
        child = context.Process(target=work, args=(part, each, sender))
        child.start()
        sender.close()
        running.append((child, receiver))
    findings = Findings()
    for child, receiver in running:
        try:
            findings.add(receiver.recv())
        except EOFError:
            findings.failures.append(f"a worker died with exit code {child.exitcode}")
        child.join()
    return findings


def work(part: tuple[int, int, int, float], like: Search, sender: Connection) -> None:
    """Do every n-th program by searches of one kind."""
    rank, workers, states, end = part
    findings = Findings()
    for number, program in enumerate(programs(like.seed)):
        if number % workers != rank:
            continue
        each = replace(like, findings=Findings())
        each.run(program)
        findings.add(each.findings)
        enough = findings.seen["states"] >= states or time.monotonic() > end
        if enough or len(findings.failures) >= FAILURES_SHOWN:
            break
    sender.send(findings)


def containers(budget: int, workers: int, seed: int) -> tuple[list[str], int]:
    """Crash all containers; return what to print, and how many states were wrong."""
    lines, wrong = [], 0
    for durability, name in product(DURABILITIES, SCENARIOS):
        with tempfile.TemporaryDirectory() as directory:
            report = crash(
                name, Path(directory) / "heap", durability,
                budget=budget, workers=workers, seed=seed,
            )  # fmt: skip
        wrong += len(report.failures)
        lines += [f"{name}, {durability}: {report}", *map(str, report.failures[:FAILURES_SHOWN])]
    return lines, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--states", type=int, default=2_000_000)
    parser.add_argument("--seconds", type=float, default=4 * 3600.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=64, help="power failures per event")
    options = parser.parse_args()
    began = time.monotonic()
    lines, wrong = containers(options.budget, options.workers, options.seed)
    findings = search(
        options.states, options.seconds, options.workers, seed=options.seed, budget=options.budget
    )
    elapsed = time.monotonic() - began
    rate, failures = findings.seen["states"] / elapsed, len(findings.failures)
    lines += [str(findings), f"{rate:.0f} states a second, {failures} failures"]
    lines += findings.failures[:FAILURES_SHOWN]
    missing = findings.missing()
    if missing:
        lines.append(f"never exercised: {', '.join(missing)}")
    sys.stdout.write("\n".join(lines) + "\n")
    return bool(findings.failures or missing or wrong)


if __name__ == "__main__":
    sys.exit(main())
