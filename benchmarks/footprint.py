"""What the package itself costs: memory of code, tables and objects, while no payload is written.

A child process reports before it has imported anything of pmemheap, then fills a heap and writes to
none of its blocks. All that it has grown by is ours.
"""

from __future__ import annotations

import subprocess
import sys
from array import array
from dataclasses import dataclass
from typing import Any

READY, GO = b"r", b"g"


@dataclass(frozen=True)
class Footprint:
    """Memory of a process that filled a heap, beyond what it had before.

    Attributes
    ----------
    grown_bytes : int
        Pss, code of the package included.
    heap_bytes : int
        What the blocks take up, rounded to their size classes.
    """

    grown_bytes: int
    heap_bytes: int

    @property
    def fixed_bytes(self) -> float:
        """What is left when 2 % of the heap are allowed for."""
        return self.grown_bytes - 0.02 * self.heap_bytes


def measure_footprint(blocks: int) -> Footprint:
    """Fill a heap with `blocks` blocks of `workloads.mixed_sizes` in a child process."""
    from pmemheap.traces import MemoryMeter  # noqa: PLC0415 - the child must not import it yet

    command = [sys.executable, __file__, str(blocks)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.read(len(READY))
        meter = MemoryMeter(child.pid)
        child.stdin.write(GO)
        child.stdin.flush()
        heap_bytes = int(child.stdout.readline())
        grown = meter.growth_bytes()
        child.stdin.write(GO)
    return Footprint(grown, heap_bytes)


def _child(blocks: int) -> None:
    offsets = array("Q", bytes(8 * blocks))
    _report(READY)
    import pmemheap  # noqa: PLC0415 - what importing it costs is part of the figure

    heap = pmemheap.Heap.anonymous()
    _fill(heap, offsets)
    _report(b"%d\n" % heap.stats().active)


def _fill(heap: Any, offsets: array[int]) -> None:
    malloc = heap.malloc
    state = 1
    for number in range(len(offsets)):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        offsets[number] = malloc(_size(state >> 33))


def _size(chance: int) -> int:
    """Return a size as `workloads.mixed_sizes` has them, with nothing kept in memory."""
    share, place = chance % 100, chance // 100
    if share < 90:
        return 16 + place % 241
    return 257 + place % 3840 if share < 99 else 4097 + place % 61440


def _report(message: bytes) -> None:
    sys.stdout.buffer.write(message)
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read(1)


if __name__ == "__main__":
    _child(int(sys.argv[1]))
