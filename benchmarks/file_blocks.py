"""How well the file of a heap uses its blocks: peak live payload / peak blocks and memory.

    python benchmarks/file_blocks.py TRACE... [--durability power]

What counts is what the file system has allocated for the file, the header and the log included,
and the memory of the one table that is not in it. Nothing is given back meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from array import array
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from pmemheap import Heap
from pmemheap.traces import Trace, load
from pmemheap.traces.trace import ALLOCATE, FREE

LOOKS = 400


def peak_bytes(trace: Trace, durability: Any, folder: Path) -> int:
    """Replay a trace; return the greatest sum of the blocks of the file and the tables' memory."""
    peak, every = 0, max(1, len(trace.operations) // LOOKS)
    handles = array("Q", bytes(8 * trace.blocks))
    with Heap.create(folder / "heap", durability=durability, decay=None) as heap:
        descriptor = heap.fileno()
        for number, (kind, block, size) in enumerate(trace.operations):
            if kind == ALLOCATE:
                handles[block] = heap.malloc(size)
            elif kind == FREE:
                heap.free(handles[block])
            else:
                handles[block] = heap.realloc(handles[block], size)
            if number % every == 0:
                peak = max(peak, os.fstat(descriptor).st_blocks * 512)
        peak = max(peak, os.fstat(descriptor).st_blocks * 512)
        beside = heap._space.region.residency()["units"]  # private: no figure of its own
        return peak + beside.resident


def main() -> None:
    """Print a row for each trace, and their geometric mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="+", type=Path)
    parser.add_argument("--durability", choices=["process", "power"], default="process")
    wanted = parser.parse_args()
    shares = []
    for path in wanted.traces:
        trace = load(path)
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            peak = peak_bytes(trace, wanted.durability, Path(folder))
        shares.append(trace.peak_live_bytes / peak)
        sys.stdout.write(
            f"{trace.name:24} {trace.peak_live_bytes:>12} {peak:>12} {shares[-1]:6.3f}\n"
        )
    sys.stdout.write(f"geometric mean {geometric_mean(shares):.3f}, worst {min(shares):.3f}\n")


if __name__ == "__main__":
    main()
