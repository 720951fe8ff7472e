"""Worlds for pairs: what a writer does beside a reader, and what the reader must find of it.

A write leaves what its number says, whatever writes before it were killed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from pmemheap import Heap, Snapshot, SnapshotGoneError
from pmemheap.containers import SortedMap, Vector
from pmemheap.file import locks
from pmemheap.testing import Crash, PairsReport, pairs, step
from pmemheap.testing.parts import Begin
from pmemheap.units import KiB, MiB

KEYS = 40
WINDOW = 30
SIZE = 5000


class World(NamedTuple):
    """`state(n)` is what a read must find after write n."""

    write: Callable[[Heap, int], object]
    read: Callable[[Any], Any]
    state: Callable[[int], Any]

    def setup(self, heap: Heap) -> None:
        """Make a new heap what it is before write 1."""
        self.write(heap, 0)

    def check(self, value: Any, crash: Crash) -> None:
        """Raise if a read has found the state of no write that it may see."""
        allowed = range(crash.least, crash.most + 1)
        found = str(value)[:200]
        assert any(value == self.state(k) for k in allowed), f"write {allowed}: {found} found"


def _pattern(number: int, size: int) -> bytes:
    return (b"%08d" % number * (size // 8 + 1))[:size]


# ---------------------------------------------------------------- maps


def _put(heap: Heap, number: int) -> None:
    """Store values of many lengths under few keys, and which came last."""
    entries = SortedMap(heap, "map")
    with heap.transaction():
        for n in range(int(entries.get(b"last", b"-1")) + 1, number + 1):
            entries[b"%02d" % (n % KEYS)] = _pattern(n, 20 + n % 80)
        entries[b"last"] = b"%d" % number


@lru_cache(maxsize=64)
def _put_state(number: int) -> dict[bytes, bytes]:
    last = range(max(0, number - KEYS + 1), number + 1)
    found = {b"%02d" % (n % KEYS): _pattern(n, 20 + n % 80) for n in last}
    return {**found, b"last": b"%d" % number}


def _slide(heap: Heap, number: int) -> None:
    """Keep the last keys only: leaves are split and joined."""
    entries = SortedMap(heap, "map")
    with heap.transaction():
        for n in range(int(next(reversed(entries), b"-1")) + 1, number + 1):
            entries[b"%08d" % n] = _pattern(n, 200)
        for key in [*entries.keys(stop=b"%08d" % max(0, number - WINDOW + 1))]:
            del entries[key]


@lru_cache(maxsize=64)
def _slide_state(number: int) -> dict[bytes, bytes]:
    last = range(max(0, number - WINDOW + 1), number + 1)
    return {b"%08d" % n: _pattern(n, 200) for n in last}


def _items(snap: Snapshot) -> dict[bytes, bytes]:
    found = {}
    for key, value in SortedMap(snap, "map").items():
        found[bytes(key)] = bytes(value)
        if len(found) % 16 == 1:
            step()
    return found


def _put_long(heap: Heap, number: int) -> None:
    """Store a value that has a block of its own."""
    SortedMap(heap, "map")[b"long"] = _pattern(number, _long_size(number))
    _use_again(heap)


def _long_size(number: int) -> int:
    return SIZE + number % 3 * 4096


def _long(snap: Snapshot) -> bytes:
    view = SortedMap(snap, "map").view(b"long")
    first = bytes(view[:4096])
    step()
    return first + bytes(view[4096:])


@lru_cache(maxsize=1)
def _last_map(heap: Heap) -> SortedMap:
    return SortedMap(heap, "map")


def _last_long(heap: Heap) -> bytes:
    """Look a value up in the map as of the last commit."""
    return _last_map(heap)[b"long"]


def _change_both(heap: Heap, number: int) -> None:
    """Change two maps and a block that a root names, at once."""
    one, two = SortedMap(heap, "one"), SortedMap(heap, "two")
    with heap.transaction():
        one[b"key"] = two[b"key"] = _pattern(number, 100)
        _replace(heap, number, 64)


def _both(snap: Snapshot) -> tuple[bytes, ...]:
    one = bytes(SortedMap(snap, "one")[b"key"])
    step()
    block = bytes(snap.view(snap.roots["block"], 64))
    step()
    return one, block, bytes(SortedMap(snap, "two")[b"key"])


def _both_state(number: int) -> tuple[bytes, ...]:
    return _pattern(number, 100), _pattern(number, 64), _pattern(number, 100)


# ---------------------------------------------------------------- blocks


def _replace(heap: Heap, number: int, size: int) -> None:
    with heap.transaction() as tx:
        block = tx.alloc(size)
        block.view[:] = _pattern(number, size)
        old = tx.roots.pop("block", None)
        tx.roots["block"] = block.offset
        if old is not None:
            tx.free(old)


def _use_again(heap: Heap) -> None:
    """Let all go that nobody may see any more, and store to what is free."""
    heap.trim()
    blocks = [heap.alloc(size) for size in (64, KiB, SIZE, SIZE, 12 * KiB)]
    for block in blocks:
        block.view[:] = b"?" * block.size
    for block in blocks:
        heap.free(block.offset)


def _replace_block(heap: Heap, number: int) -> None:
    _replace(heap, number, SIZE)
    _use_again(heap)


def _replace_alone(heap: Heap, number: int) -> None:
    """Set a root outside of a transaction: that is one by itself."""
    block = heap.alloc(SIZE)
    block.view[:] = _pattern(number, SIZE)
    old = heap.roots.get("block")
    heap.roots["block"] = block.offset
    if old is not None:
        heap.free(old)
    _use_again(heap)


def _replace_moved(heap: Heap, number: int) -> None:
    """Have the block in an arena of its own, and drop the one before."""
    name = f"arena {number}"
    with heap.transaction() as tx:
        block = heap.arena(name).alloc(SIZE)
        block.view[:] = _pattern(number, SIZE)
        tx.roots["block"] = block.offset
    for other in heap.arenas():
        if other not in {name, "default"}:
            heap.arena(other).drop()
    _use_again(heap)


def _block(snap: Snapshot) -> bytes:
    view = snap.view(snap.roots["block"], SIZE)
    first = bytes(view[:100])
    step()
    return first + bytes(view[100:])


def _block_state(number: int) -> bytes:
    return _pattern(number, SIZE)


def _large_size(number: int) -> int:
    return (1 + number % 3) * MiB


def _replace_large(heap: Heap, number: int) -> None:
    """Grow and shrink: other units are mapped each time."""
    _replace(heap, number, _large_size(number))
    heap.trim()


def _ends(snap: Snapshot) -> tuple[bytes, bytes]:
    place = snap.roots["block"]
    first = bytes(snap.view(place, 8))
    step()
    return first, bytes(snap.view(place + _large_size(int(first)) - 8, 8))


def _ends_state(number: int) -> tuple[bytes, bytes]:
    return b"%08d" % number, b"%08d" % number


# ---------------------------------------------------------------- vectors


def _append(heap: Heap, number: int) -> None:
    vector = Vector[int](heap, "vector", "i8")
    vector.extend(range(len(vector), number + 1))


def _elements(snap: Snapshot) -> tuple[int, int]:
    vector = Vector[int](snap, "vector")
    length = len(vector)
    step()
    return length, int(vector.array.sum())


def _elements_state(number: int) -> tuple[int, int]:
    return number + 1, number * (number + 1) // 2


# ---------------------------------------------------------------- arrays that are sent


def sent_world(directory: Path) -> World:
    """Send a block, and let it go: who adopts it sees what was sent, or that it is gone."""
    letter = directory / "sent"

    def send(heap: Heap, number: int) -> None:
        _replace(heap, number, SIZE)
        _use_again(heap)  # what was sent last may be adopted still
        with heap.share(heap.view(heap.roots["block"], SIZE)) as shared:
            written = letter.with_name("written")
            written.write_bytes(pickle.dumps((number, shared)))
            written.replace(letter)
            step()

    def adopt(_: Snapshot) -> str:
        number, shared = pickle.loads(letter.read_bytes())
        with closing(shared):
            try:
                found = bytes(shared.view)
            except SnapshotGoneError:
                return "as it was sent, or gone"
        return "as it was sent, or gone" if found == _pattern(number, SIZE) else f"{found[:8]!r}"

    return World(send, adopt, lambda _: "as it was sent, or gone")


WORLDS = {
    "put": World(_put, _items, _put_state),
    "slide": World(_slide, _items, _slide_state),
    "long": World(_put_long, _long, lambda n: _pattern(n, _long_size(n))),
    "both": World(_change_both, _both, _both_state),
    "block": World(_replace_block, _block, _block_state),
    "alone": World(_replace_alone, _block, _block_state),
    "moved": World(_replace_moved, _block, _block_state),
    "large": World(_replace_large, _ends, _ends_state),
    "append": World(_append, _elements, _elements_state),
}
LAST = World(_put_long, _last_long, lambda n: _pattern(n, _long_size(n)))
"""For a reader of the heap itself, without a snapshot."""


def world_named(name: str, directory: Path) -> World:
    """Return one of WORLDS, or LAST, or one that sends arrays by way of a directory."""
    return sent_world(directory) if name == "sent" else {**WORLDS, "last": LAST}[name]


def run(home: Path, name: str, begin: Begin = "read", **options: Any) -> PairsReport:
    """Let a writer and a reader of a world take turns, in a directory of their own.

    A lease has no length: the writer looks before each change, and goes back to edits in place as
    soon as nobody reads.
    """
    world = world_named(name, home)
    with mock.patch.object(locks, "LEASE", 0.0):
        return pairs(
            home / "heap", world.write, world.read, world.check,
            setup=world.setup, begin=begin, **options,
        )  # fmt: skip
