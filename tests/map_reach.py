"""What a commit of a map can reach, and whether its bytes stay, as readers of that commit need it.

    header -> nodes -> long values    each as it lies in the heap, not as a transaction has it

A reader of another process may be at any of them. So while there may be one, no byte of a node or
of a long value changes. The header does: readers have a copy of it.
"""

from __future__ import annotations

import ctypes
import random
import struct
from pathlib import Path

from pmemheap import DurabilityName, Heap
from pmemheap.containers import SortedMap
from pmemheap.containers.mapcensus import MapCensus
from pmemheap.containers.names import MAP_MAGIC
from pmemheap.errors import CorruptHeapError
from pmemheap.heap.space import space_of

__all__ = ["Reach", "begin_copying", "header_of", "recycle", "require_no_others", "search_changes"]

HEADER = struct.Struct("<8xQQII")  # offset of the root, entries, height
NODE = 4096


def begin_copying(heap: Heap) -> None:
    """Let a heap be one beside which others may read."""
    next(
        heap.blocks(), None
    )  # its tables are mapped with the first look at them, and its log is set up
    space_of(heap).shared.log._set_copies(1, 1)


def recycle(heap: Heap) -> None:
    """Let go of all that was freed, as when no reader is left."""
    space_of(heap).shared.log._recycle(1 << 38)  # eras end by themselves


def header_of(made: SortedMap) -> tuple[int, int, int]:
    """Return root, entries and height as the last commit has them."""
    with made.heap.view(made.heap.roots[made.name], HEADER.size) as view:
        root, entries, height, _ = HEADER.unpack(view)
    return root, entries, height


class Reach:
    """The blocks that the last commit of a map can reach, with their bytes.

    Parameters
    ----------
    holds : bool, optional
        Keep views of them, so that none of them is used for anything else. Without, `changed` tells
        the truth until the space of what the next commit frees is given to somebody.
    """

    def __init__(self, made: SortedMap, *, holds: bool = False) -> None:
        heap = made.heap
        self._bytes: dict[int, tuple[int, bytes]] = {}
        self.views: list[memoryview] = []

        def keep(offset: int) -> bytes:
            if offset not in self._bytes:
                view = heap.view(offset)
                self._bytes[offset] = (heap.address(offset), bytes(view))
                if holds:
                    self.views.append(view)
            return self._bytes[offset][1]

        def node(offset: int, level: int) -> bytes:
            return keep(offset)[:NODE]

        def wrong(offset: int, expected: str, found: str) -> CorruptHeapError:
            return CorruptHeapError(f"node at {offset:#x}: {expected} expected, {found} found")

        census = MapCensus(header_of(made), node, lambda offset: len(keep(offset)), wrong)
        census.require_sound(0)
        self.offsets = frozenset(self._bytes)

    def changed(self) -> str | None:
        """Tell of a block that has other bytes now; None if there is none."""
        for offset, (address, known) in self._bytes.items():
            found = ctypes.string_at(address, len(known))
            if found != known:
                places = [at for at in range(len(known)) if found[at] != known[at]]
                return f"block at {offset:#x}: bytes {places[0]} to {places[-1]} have changed"
        return None

    def release(self) -> None:
        """Let the views go."""
        for view in self.views:
            view.release()


def require_no_others(made: SortedMap) -> None:
    """No block of a heap is anything but node or value of the only map, or a header of it."""
    heap, has = made.heap, made.statistics()
    found = [offset for offset, _ in heap.blocks() if heap.view(offset)[:8] != MAP_MAGIC]
    assert len(found) == has.nodes + has.apart, f"{len(found)} blocks, {has}"
    assert heap.check()


def change_at_random(made: SortedMap, chance: random.Random, model: dict[bytes, bytes]) -> None:
    """Put, remove, patch or compact; `model` has what is expected then."""
    key = b"key %04d" % chance.randrange(400)
    what = chance.randrange(20)
    if what == 0:
        made.compact()
    elif what < 7:
        assert made.discard(key) == (model.pop(key, None) is not None)
    elif what < 11 and model.get(key):
        at = chance.randrange(len(model[key]))
        made.patch(key, at, b"!")
        model[key] = model[key][:at] + b"!" + model[key][at + 1 :]
    else:
        size = chance.choice([4, 4, 30, 100, 800, 3000, 9000])
        made[key] = model[key] = bytes([chance.randrange(256)]) * size


def search_changes(
    path: Path, durability: DurabilityName = "process", *, steps: int = 600, seed: int = 0
) -> str | None:
    """Change a map at random, in short and long commits; tell of what changed in place."""
    chance, model = random.Random(seed), dict[bytes, bytes]()
    with Heap.create(path, durability=durability, decay=None) as heap:
        begin_copying(heap)
        made = SortedMap(heap, "map")
        for number in range(steps):
            reach = Reach(made)
            with heap.transaction():
                for _ in range(1 if number % 3 else chance.randrange(1, 30)):
                    change_at_random(made, chance, model)
                    if number % 7 == 0 and (found := reach.changed()):
                        return f"before its commit: {found}"
            if found := reach.changed():
                return found
            if number % 5 == 0:
                recycle(heap)
            if number % 50 == 0:
                made.check()
                assert dict(made) == model
        require_no_others(made)
        made.clear()
        require_no_others(made)
    return None
