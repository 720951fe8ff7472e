"""Damaged heap files, and everything a user might do with one.

A case is a name and an image of a file. `exercise` opens it and uses it: what happens must be an
exception of ours, or intact data. It runs in a process of its own, so that a crash shows, with the
name of the case that was being tried.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pmemheap import Heap, layout
from pmemheap.errors import CorruptHeapError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.format.superblock import Superblock
from pmemheap.layout import ArenaSlot, RootSlot, SegmentKind, SegmentSlot
from pmemheap.units import KiB

SIZES = [16, 48, 100, 1000, 3000, 4096, 9000, 20 * KiB, 300 * KiB]
FIRST_SEGMENT = layout.HEADER_BYTES + layout.LOG_BYTES
ENTRIES = FIRST_SEGMENT
BITS = ENTRIES + 256 * 16
DATA = BITS + 256 * 32
Case = tuple[str, bytes]
Blocks = dict[int, bytes]


def original(path: Path) -> tuple[bytes, Blocks]:
    """Make a small heap file with blocks of all kinds; return its bytes and those of its blocks."""
    blocks: Blocks = {}
    with Heap.create(path, durability="process", decay=None) as heap:
        offsets = [heap.malloc(size) for size in SIZES for _ in range(3)]
        for seed, offset in enumerate(offsets):
            view = heap.view(offset)
            view[:] = bytes([seed + 1]) * len(view)
            blocks[offset] = bytes(view)
            del view
        for offset in offsets[1::3]:
            heap.free(offset)
            del blocks[offset]
        for number, offset in enumerate(blocks):
            heap.roots[f"root {number}"] = offset
    return path.read_bytes(), blocks


# ---------------------------------------------------------------- cases


def flips(image: bytes, stride: int) -> Iterator[Case]:
    """Yield the file with one byte changed, for every `stride`-th byte of the metadata."""
    used = BITS + 32 * 140
    areas = {
        "superblock A": (0, 512),
        "superblock B": (0x1000, 0x1000 + 512),
        "shared page": (0x2000, 0x2000 + 64),
        "segment table": (layout.SEGMENT_TABLE, layout.SEGMENT_TABLE + 3 * 64),
        "arena table": (layout.ARENA_TABLE, layout.ARENA_TABLE + 2 * 64),
        "root table": (layout.ROOT_TABLE, layout.ROOT_TABLE + 20 * 64),
        "entries": (ENTRIES, BITS),
        "bits": (BITS, used),
    }
    sparse = {
        "empty segment slots": (layout.SEGMENT_TABLE + 192, layout.ARENA_TABLE, 61),
        "empty arena slots": (layout.ARENA_TABLE + 128, layout.ROOT_TABLE, 61),
        "empty root slots": (layout.ROOT_TABLE + 1280, layout.HEADER_BYTES, 61),
        "log": (layout.HEADER_BYTES, FIRST_SEGMENT, 997),
        "bits of free units": (used, DATA, 61),
    }
    rows = [(name, start, stop, 1) for name, (start, stop) in areas.items()]
    rows += [(name, *row) for name, row in sparse.items()]
    for name, start, stop, step in rows:
        for place in range(start, stop, step * stride):
            mask = random.Random(place).choice((1, 2, 16, 64, 128, 255))
            yield f"{name}: {place:#x} ^ {mask:#x}", changed(image, place, mask)


def changed(image: bytes, place: int, mask: int) -> bytes:
    return image[:place] + bytes([image[place] ^ mask]) + image[place + 1 :]


def truncations(image: bytes, stride: int) -> Iterator[Case]:
    for length in range(0, len(image), 4096 * stride):
        yield f"truncated to {length:#x}", image[:length]
        yield f"truncated inside of a page, to {length + 1:#x}", image[: length + 1]


def garbage(image: bytes, stride: int) -> Iterator[Case]:
    """Yield files that never were a heap, and heaps with a part overwritten at random."""
    yield "empty", b""
    yield "zeros", bytes(len(image))
    yield "text", b"not a heap\n" * 200_000
    yield "noise", random.Random(0).randbytes(len(image))
    yield "longer", image + b"x" * 8192
    for seed in range(0, 400, stride):
        chance = random.Random(seed)
        damaged = bytearray(image)
        for _ in range(chance.randint(2, 40)):
            damaged[chance.randrange(ENTRIES, BITS + 32 * 140)] = chance.randrange(256)
        yield f"tables overwritten, seed {seed}", bytes(damaged)


NUMBERS = [0, 1, 2, 255, 256, 257, 512, 0x28000, 0x48000, 2**31, 2**32, 2**43 - 256, 2**43, 2**63,
           2**64 - 1, 2**64 - 4096]  # fmt: skip


def sealed(image: bytes, stride: int) -> Iterator[Case]:
    """Yield headers whose checksums hold and whose numbers are impossible."""
    cases: list[tuple[str, int, bytes]] = []
    at = layout.SEGMENT_TABLE
    for index, place in enumerate((at, at + 64)):
        slot = SegmentSlot.unpack(image[place : place + 64], place)
        assert slot is not None
        for name in ("file_off", "capacity", "first_unit", "nunits"):
            cases += [
                (f"slot {index}: {name} {n:#x}", place, with_number(slot, name, n).pack())
                for n in NUMBERS
            ]
        cases += [
            (f"slot {index}: {kind.name}", place, replace(slot, kind=kind).pack())
            for kind in SegmentKind
        ]
        cases.append((f"slot {index}: arena 7", place, replace(slot, arena=7).pack()))
        cases.append((f"slot {index} twice", at + 128, slot.pack()))
    arena = ArenaSlot.unpack(image[layout.ARENA_TABLE :][:64], 0)
    assert arena is not None
    for name in ("first_unit", "end_unit"):
        cases += [
            (f"arena: {name} {n:#x}", layout.ARENA_TABLE, with_number(arena, name, n).pack())
            for n in NUMBERS
        ]
    cases += [(f"root {n:#x}", layout.ROOT_TABLE, RootSlot("root 0", n).pack()) for n in NUMBERS]
    cases += superblocks(image)
    entry = struct.Struct("<BBHIQ")
    cases += [
        (f"entry {kind} {index} {n:#x}", ENTRIES + unit * 16,
         entry.pack(kind, index, 0, n & 0xFFFFFFFF, n * 4096 & (2**64 - 1)))
        for kind in (0, 1, 2, 3, 255) for index in (0, 1, 60, 255) for n in NUMBERS
        for unit in (0, 1, 200, 255)
    ]  # fmt: skip
    for name, place, data in cases[::stride]:
        yield name, image[:place] + data + image[place + len(data) :]


Record = TypeVar("Record", SegmentSlot, ArenaSlot, Superblock)


def with_number(record: Record, name: str, number: int) -> Record:
    changes: dict[str, Any] = {name: number}
    return replace(record, **changes)


def superblocks(image: bytes) -> Iterator[tuple[str, int, bytes]]:
    for copy in layout.SUPERBLOCKS:
        block = Superblock.unpack(image[copy : copy + 512], copy)
        for name in ("generation", "file_end", "log_off", "log_size", "tail_lsn", "epoch"):
            for n in NUMBERS:
                yield (
                    f"superblock {copy:#x}: {name} {n:#x}",
                    copy,
                    with_number(block, name, n).pack(),
                )


KINDS: dict[str, Callable[[bytes, int], Iterator[Case]]] = {
    "flips": flips,
    "truncations": truncations,
    "garbage": garbage,
    "sealed": sealed,
}


# ---------------------------------------------------------------- use


def exercise(path: Path, blocks: Blocks) -> bool:
    """Do everything with a heap that may be damaged; return whether it could be opened."""
    for readonly in (True, False):
        try:
            heap = Heap.open(path, readonly=readonly, decay=None)
        except (CorruptHeapError, UsageError, OutOfSpaceError) as error:
            return len(str(error)) < 20  # never: a message names place, expected and found
        with heap:
            look(heap, blocks)
            if not readonly:
                change(heap, survivors(heap, blocks))
    with suppress(CorruptHeapError, UsageError, OutOfSpaceError), Heap.open(path) as heap:
        look(heap, {})
    return True


def look(heap: Heap, blocks: Blocks) -> None:
    survivors(heap, blocks)
    str(heap.check())
    with suppress(PmemHeapError):
        list(heap.blocks())
    with suppress(PmemHeapError):
        heap.stats()
    for offset in heap.roots.values():
        with suppress(UsageError):
            bytes(heap.view(offset))
    for offset in range(0, 2 << 20, 2000):
        with suppress(UsageError):
            heap.usable_size(offset)


def survivors(heap: Heap, blocks: Blocks) -> Blocks:
    """Return the blocks that are still there; what can be read of them is what was written."""
    found = {}
    for offset, data in blocks.items():
        with suppress(UsageError):
            seen = bytes(heap.view(offset))
            length = min(len(seen), len(data))
            assert seen[:length] == data[:length], f"block at {offset:#x} has other bytes"
            found[offset] = seen
    return found


def change(heap: Heap, blocks: Blocks) -> None:
    """Allocate over the whole heap: no new block may lie on one that is still there."""
    made = []
    for size in SIZES * 4:
        with suppress(PmemHeapError):
            made.append(heap.malloc(size))
            heap.view(made[-1])[:] = b"\xee" * heap.usable_size(made[-1])
    for offset, data in blocks.items():
        with suppress(UsageError):
            assert bytes(heap.view(offset)) == data, f"block at {offset:#x} was overwritten"
    for offset in made[::2]:
        with suppress(PmemHeapError):
            heap.realloc(offset, 50_000)
    for offset in [*made, *blocks]:
        with suppress(PmemHeapError):
            heap.free(offset)
    with suppress(PmemHeapError):
        heap.free_many(heap.malloc_many(64, 500))
    with suppress(PmemHeapError):
        heap.trim()
    with suppress(PmemHeapError):
        heap.malloc(100_000)
    str(heap.check())


def main(kind: str, stride: int, directory: str) -> tuple[int, int]:
    """Try the cases of a kind; return how many there were and how many could be opened."""
    image, blocks = original(Path(directory) / "original")
    path = Path(directory) / "damaged"
    count = opened = 0
    for name, damaged in KINDS[kind](image, stride):
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()  # before the attempt: it may be the last
        path.unlink(missing_ok=True)
        path.write_bytes(damaged)
        count += 1
        opened += exercise(path, blocks)
    return count, opened
