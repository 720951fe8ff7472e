"""Heap files of which the power was taken: their commits are in the log, and nowhere else.

synced heap    --40 commits-->   header and log of after, all else of before
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from wreck import Wreck, of_any_file

from pmemheap import Heap, layout
from pmemheap.layout import SegmentKind, SegmentSlot
from pmemheap.units import MiB

COMMITS = 40
SHAPES = ("one segment", "segments", "arena", "trimmed")
FILLED = {"one segment": 0, "segments": 3, "arena": 0, "trimmed": 1}


def unplayed(directory: Path, shape: str, commits: int = COMMITS) -> Wreck:
    """Return a heap with a root `k` for each of its commits, whose blocks the log alone has."""
    path = directory / "heap"
    with suppress(FileNotFoundError):
        path.unlink()
    heap = Heap.create(path, durability="power", decay=None)
    large = [heap.malloc(MiB) for _ in range(FILLED[shape])]
    heap.roots["first"] = heap.malloc(100)
    space = heap.arena("other") if shape == "arena" else None
    (space or heap).malloc(100)
    if shape == "trimmed":
        heap.free(large[0])
        heap.malloc(MiB)
        heap.trim()
    heap.sync()
    before, blocks = path.read_bytes(), {}
    for number in range(commits):
        with heap.transaction() as tx:
            block = tx.alloc(1000, arena=space)
            block.view[:] = bytes([number + 1]) * 1000
            tx.roots[f"root {number}"] = block.offset
            blocks[block.offset] = bytes([number + 1]) * 1000
    after = path.read_bytes()
    log = log_of(after)
    image = bytearray(before.ljust(len(after), b"\0"))
    for place in (slice(0, layout.SHARED_PAGE), slice(log.file_off, log.file_stop)):
        image[place] = after[place]
    heap.close()
    return Wreck(path, of_any_file(bytes(image)), blocks)


def log_of(image: bytes) -> SegmentSlot:
    return next(slot for slot in slots_of(image).values() if slot.kind == SegmentKind.LOG)


def slots_of(image: bytes) -> dict[int, SegmentSlot]:
    found = {}
    for index in range(layout.SEGMENT_SLOTS):
        at = layout.SEGMENT_TABLE + 64 * index
        slot = SegmentSlot.unpack(image[at : at + 64], at)
        if slot is not None:
            found[index] = slot
    return found
