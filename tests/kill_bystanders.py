"""Heaps beside the one that is killed: each has two blocks with one number, which commits count up.

    heap file    first | second      equal after every kill: a commit stores both
    told         shared memory       the number of the last commit that had returned

One is open in the process that is killed, and in the children that it leaves; another one in a
second process, which is killed at a time of its own.
"""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

from kill_script import made, reopened

from pmemheap import Heap
from pmemheap.errors import UsageError

_NUMBER = struct.Struct("<Q")
_NAMES = ("first", "second")
_PAUSE = 0.002  # the others are to get on, too


def opened(path: Path) -> Heap:
    """Open a file; a child of a killed process may still have its lock for a moment."""
    for _ in range(1000):
        try:
            return reopened(path)
        except UsageError as error:
            if "has it open" not in str(error):
                raise
            time.sleep(0.001)
    return reopened(path)


@dataclass
class Bystander:
    """A heap file, and what was told of it."""

    path: Path
    durability: str
    told: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, _NUMBER.size))

    def __post_init__(self) -> None:
        with made(self.path, self.durability) as heap:
            for name in _NAMES:
                heap.roots[name] = heap.malloc(_NUMBER.size)
                heap.view(heap.roots[name], _NUMBER.size)[:] = bytes(_NUMBER.size)

    def run(self, heap: Heap) -> None:
        """Commit until the end comes."""
        places = [heap.roots[name] for name in _NAMES]
        (number,) = _NUMBER.unpack(bytes(self.told))
        while True:
            number += 1
            with heap.transaction() as tx:
                for place in places:
                    tx.write(place, _NUMBER.pack(number))
            self.told[:] = _NUMBER.pack(number)
            time.sleep(_PAUSE)

    def run_alone(self) -> None:
        """Be the second process."""
        self.run(opened(self.path))

    def settle(self) -> int:
        """Check what a kill has left; return how many commits there were."""
        (told,) = _NUMBER.unpack(bytes(self.told))
        with opened(self.path) as heap:
            found = {
                _NUMBER.unpack(heap.view(heap.roots[name], _NUMBER.size))[0] for name in _NAMES
            }
            assert heap.check(), str(heap.check())
        assert found in ({told}, {told + 1}), f"{self.path.name}: {told} told, {found} found"
        (number,) = found
        self.told[:] = _NUMBER.pack(number)
        return int(number)
