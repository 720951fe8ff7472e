"""open: from a heap file of many blocks to the first allocation and the first read, cache warm.

    python benchmarks/bench_open.py --blocks 10000000

The files are built once, in a directory for temporary files, by the process that the workers share.
Ten million blocks take about 8 GB of disk.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

import pyperf
from workloads import build_store, open_store

DECADES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


def pass_on(command: list[str], arguments: argparse.Namespace) -> None:
    """Hand our own options to the worker processes."""
    command += ["--blocks", str(arguments.blocks), "--stores", arguments.stores]


def store(stores: str, blocks: int) -> Path:
    path = Path(stores) / f"{blocks}.heap"
    if not path.exists():
        build_store(path, blocks)
    return path


def open_read_allocate(loops: int, stores: str, blocks: int) -> float:
    return open_store(loops, store(stores, blocks))


def main() -> None:
    runner = pyperf.Runner(metadata={"layer": "heap"}, add_cmdline_args=pass_on)
    runner.argparser.add_argument("--blocks", type=int, default=1_000_000, help="largest heap")
    runner.argparser.add_argument("--stores", help=argparse.SUPPRESS)
    arguments = runner.parse_args()
    with contextlib.ExitStack() as owned:
        if arguments.stores is None:
            arguments.stores = owned.enter_context(tempfile.TemporaryDirectory())
        for blocks in (decade for decade in DECADES if decade <= arguments.blocks):
            name = f"open/malloc+read/blocks={blocks}"
            runner.bench_time_func(name, open_read_allocate, arguments.stores, blocks)


if __name__ == "__main__":
    main()
