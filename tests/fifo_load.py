"""A FIFO load: blocks are allocated at the tail and freed at the head of a window, for ever.

    python tests/fifo_load.py anonymous 100 --json fifo.json
    python tests/fifo_load.py plot docs/fifo.svg *.json

Every page is written and looked at again before its block goes. The window is all that lives; what
the heap takes in address space, memory and disk blocks must not depend on what has passed through.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from pmemheap import Heap
from pmemheap.units import UNIT, GiB, KiB, MiB

WINDOW = 64 * MiB
SIZES = [4 * KiB, 20 * KiB, 100 * KiB, 300 * KiB, 1 * MiB]
KEPT = 1 * MiB
SAMPLES = 64


@dataclass(frozen=True)
class Sample:
    """What the heap takes when `passed` bytes have gone through it; all in bytes."""

    passed: int
    reserved: int
    resident: int
    file_blocks: int
    first_offset: int


@dataclass(frozen=True)
class Load:
    """A load: what kind of heap, how many bytes, how often trimmed (0: never).

    Before a trim the queue is drained to its newest blocks: then whole segments are free in front
    of them, the head goes back, and the heap slides on through its address space.
    """

    medium: str
    total: int
    trim_every: int = 4 * WINDOW
    window: int = WINDOW
    seed: int = 1


def make(load: Load, directory: str) -> Heap:
    if load.medium == "anonymous":
        return Heap.anonymous(decay=None)
    if load.medium == "shared":
        return Heap.shared(decay=None)
    return Heap.create(Path(directory) / "fifo.heap", durability="process", decay=None)


class Fifo:
    """The queue itself: `push` writes a block, `pop` checks and frees the oldest."""

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self.blocks: deque[tuple[int, int, int]] = deque()
        self.live = self.passed = 0

    def push(self, size: int) -> None:
        offset, mark = self.heap.malloc(size), self.passed & 0xFF
        view = self.heap.view(offset, size)
        pages = view[::UNIT]
        pages[:] = bytes([mark]) * len(pages)
        self.blocks.append((offset, size, mark))
        self.live += size
        self.passed += size

    def pop(self) -> None:
        offset, size, mark = self.blocks.popleft()
        pages = bytes(self.heap.view(offset, size)[::UNIT])
        assert pages == bytes([mark]) * len(pages), f"block at {offset:#x} has other bytes"
        self.heap.free(offset)
        self.live -= size

    def sample(self) -> Sample:
        stats, region = self.heap.stats(), self.heap._space.region
        reserved = sum(table.reservation.size for table in region.tables.values())
        blocks, first = stats.file_blocks, region.first_unit * UNIT
        return Sample(self.passed, reserved, stats.touched, blocks, first)


def run(load: Load) -> list[Sample]:
    """Pass `total` bytes through, and return samples at equal distances."""
    chance = random.Random(load.seed)
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("PMEMHEAP_FIFO_DIR")) as directory,
        make(load, directory) as heap,
    ):
        fifo, samples = Fifo(heap), []
        sample_at, trim_at = 0, load.trim_every
        while fifo.passed < load.total:
            fifo.push(chance.choice(SIZES))
            while fifo.live > load.window:
                fifo.pop()
            if load.trim_every and fifo.passed >= trim_at:
                while fifo.live > KEPT:
                    fifo.pop()
                heap.trim()
                trim_at += load.trim_every
            if fifo.passed >= sample_at:
                samples.append(fifo.sample())
                sample_at += load.total // SAMPLES
        samples.append(fifo.sample())
        assert heap.check(), str(heap.check())
    return samples


def steady(samples: list[Sample], load: Load) -> list[Sample]:
    """Return the samples behind the warm-up: eight windows, in which two trims fall."""
    return [each for each in samples if each.passed > 8 * load.window]


def plot(picture: str, files: list[str]) -> None:
    """Draw what was recorded: three curves a load over the bytes passed."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 -- an extra: only who draws needs it

    figure, axes = plt.subplots(1, len(files), figsize=(5 * len(files), 3.6), sharey=True)
    for axis, name in zip([axes] if len(files) == 1 else axes, files, strict=True):
        record = json.loads(Path(name).read_text(encoding="utf-8"))
        load, samples = record["load"], record["samples"]
        passed = [each["passed"] / GiB for each in samples]
        for key, label in (
            ("reserved", "reservation"),
            ("resident", "resident"),
            ("file_blocks", "disk blocks"),
        ):
            values = [each[key] / MiB for each in samples]
            if any(values):
                axis.plot(passed, values, label=label)
        axis.axhline(load["window"] / MiB, linestyle=":", color="grey", label="window")
        axis.set_title(f"{load['medium']}, {'trimmed' if load['trim_every'] else 'never trimmed'}")
        axis.set_xlabel("GiB passed through")
        axis.set_ylim(0)
    figure.axes[0].set_ylabel("MiB")
    lines = {str(line.get_label()): line for axis in figure.axes for line in axis.get_lines()}
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    figure.legend(list(lines.values()), list(lines), loc="upper center", ncols=len(lines))
    figure.savefig(picture, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("medium", choices=["anonymous", "shared", "file", "plot"])
    parser.add_argument("what", help="GiB to pass through; the picture to draw")
    parser.add_argument("files", nargs="*", help="records to draw")
    parser.add_argument("--json", help="where to record the samples")
    parser.add_argument("--never-trim", action="store_true")
    options = parser.parse_args()
    if options.medium == "plot":
        plot(options.what, options.files)
        return
    total = int(float(options.what) * GiB)
    load = Load(options.medium, total, 0) if options.never_trim else Load(options.medium, total)
    samples = run(load)
    if options.json:
        record = {"load": asdict(load), "samples": [asdict(each) for each in samples]}
        Path(options.json).write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
