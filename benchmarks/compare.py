"""Measure pmemheap and its peers side by side in one run, and hold the result to the budgets.

    python benchmarks/compare.py --traces DIRECTORY --out benchmarks/results
    python benchmarks/compare.py --only micro,extents --quick

Ratios within a run are what counts; figures of different runs are figures of different machines.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import report
from budgets import verdicts
from peers import PEERS, unavailable
from plan import Plan
from results import Results
from rich.console import Console
from sections import NEED_PEERS, SECTIONS, available, refusal
from workloads import HOLES


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default=",".join(SECTIONS), help="sections, comma between: %(default)s"
    )
    parser.add_argument("--peers", help=f"contenders, comma between: {','.join(PEERS)}")
    parser.add_argument("--traces", type=Path, help="directory of *.trace and *.trace.gz files")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--open-blocks", type=int, default=10_000_000, help="blocks in the heap")
    parser.add_argument("--out", type=Path, help="directory for compare.md, .json and .svg")
    parser.add_argument("--quick", action="store_true", help="few, short rounds and small heaps")
    return parser.parse_args(words)


def plan_of(chosen: argparse.Namespace, refused: dict[str, str]) -> Plan:
    names = tuple(chosen.peers.split(",")) if chosen.peers else None
    found = sorted(chosen.traces.glob("*.trace*")) if chosen.traces else []
    quick = chosen.quick
    return Plan(
        rounds=1 if quick else chosen.rounds,
        seconds=0.005 if quick else 0.05,
        passes=2 if quick else 3,
        operations=0 if quick else 200_000,
        traces=tuple(found),
        holes=HOLES[:2] if quick else HOLES,
        open_blocks=min(chosen.open_blocks, 10_000) if quick else chosen.open_blocks,
        contenders=available(names, refused),
        quick=quick,
    )


def machine() -> dict[str, Any]:
    """Say what the figures were measured on, and when."""
    return {
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(Path(word).name for word in sys.argv),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _commit() -> str:
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main(words: list[str] | None = None) -> None:
    chosen = arguments(words)
    console, progress = Console(), Console(stderr=True, style="dim")
    described = machine()
    sections = chosen.only.split(",")
    refused = {} if NEED_PEERS.isdisjoint(sections) else unavailable()
    plan = plan_of(chosen, refused)
    results = Results(skipped=dict(refused))
    for section in sections:
        reason = refusal(section, plan)
        if reason is None:
            SECTIONS[section](plan, results, progress.print)
        else:
            results.skipped[section] = reason
    judged = verdicts(results, sections)
    report.show(console, results)
    report.show_verdicts(console, judged)
    if chosen.out is not None:
        report.write(chosen.out, results, judged, described)


if __name__ == "__main__":
    main()
