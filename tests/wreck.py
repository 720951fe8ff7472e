"""Small heap files to be damaged, and logs of records put into them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from damage_load import ENTRIES, original

from pmemheap import Heap, layout
from pmemheap.errors import CorruptHeapError
from pmemheap.format.records import Operation, Record, RecordKind, decode, encode
from pmemheap.format.superblock import Superblock, newest_superblock
from pmemheap.layout import Durability, FileIdentity, HeapState, SegmentSlot
from pmemheap.offline import Disk, Examination, examine

Blocks = dict[int, bytes]


@dataclass
class Wreck:
    """A file, what it was, and what its blocks held."""

    path: Path
    image: bytes
    blocks: Blocks

    def write(self, image: bytes | bytearray | None = None) -> None:
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(self.image if image is None else image)

    def change(self, *edits: tuple[int, bytes]) -> bytes:
        """Write the file anew with changes; return it."""
        image = bytearray(self.image)
        for offset, data in edits:
            image[offset : offset + len(data)] = data
        self.write(image)
        return bytes(image)

    def flip(self, offset: int, mask: int = 0xFF) -> bytes:
        return self.change((offset, bytes([self.image[offset] ^ mask])))

    @property
    def superblock(self) -> Superblock:
        copies = [self.image[at : at + 512] for at in layout.SUPERBLOCKS]
        return newest_superblock((copies[0], copies[1]))[0]

    @property
    def current(self) -> int:
        copies = [self.image[at : at + 512] for at in layout.SUPERBLOCKS]
        return layout.SUPERBLOCKS[newest_superblock((copies[0], copies[1]))[1]]


def wreck(directory: Path) -> Wreck:
    image, blocks = original(directory / "heap")
    return Wreck(directory / "heap", of_any_file(image), blocks)


def grown(directory: Path) -> Wreck:
    """Return a heap of several segments with blocks in all of them."""
    path, blocks = directory / "heap", {}
    with Heap.create(path, durability="process", decay=None) as heap:
        for number in range(60):
            size = (100, 5000, 40_000, 150_000)[number % 4]
            offset = heap.malloc(size)
            view = heap.view(offset)
            view[:] = bytes([number + 1]) * len(view)
            blocks[offset] = bytes(view)
            del view
            heap.roots[f"root {number}"] = offset
    return Wreck(path, of_any_file(path.read_bytes()), blocks)


def look(path: Path) -> Examination:
    """Examine a file; it stays open for as long as what is returned lives."""
    fd = os.open(path, os.O_RDONLY)
    found = examine(Disk(fd))
    weakref.finalize(found, os.close, fd)
    return found


def segments(image: bytes) -> dict[int, SegmentSlot]:
    found = {}
    for index in range(layout.SEGMENT_SLOTS):
        at = layout.SEGMENT_TABLE + 64 * index
        slot = SegmentSlot.unpack(image[at : at + 64], at)
        if slot is not None:
            found[index] = slot
    return found


def of_any_file(image: bytes) -> bytes:
    """Return a file whose superblocks do not say in which file they are."""
    changed = bytearray(image)
    for at in layout.SUPERBLOCKS:
        with suppress(CorruptHeapError):
            block = Superblock.unpack(image[at : at + layout.SUPERBLOCK_BYTES], at)
            changed[at : at + layout.SUPERBLOCK_BYTES] = replace(block, file=FileIdentity()).pack()
    return bytes(changed)


def entry_place(unit: int) -> int:
    return ENTRIES + 16 * unit


@dataclass
class LogWriter:
    """Appends records to the log of a heap file, as a process that was killed would have."""

    wreck: Wreck
    durability: Durability
    edits: list[tuple[int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        block = self.wreck.superblock
        self.block = block.successor(
            state=HeapState.IN_USE, durability=self.durability, file=FileIdentity()
        )
        self.head, self.crc = block.tail_lsn, block.chain_seed
        self.records: list[Record] = []
        self.edits.append((layout.SUPERBLOCKS[0], self.block.pack()))
        self.edits.append((layout.SUPERBLOCKS[1], self.block.pack()))

    def append(
        self, *ops: Operation, kind: RecordKind = RecordKind.COMMIT, txid: int = 1, durable: int = 0
    ) -> Record:
        record = Record(
            kind, self.head, self.block.epoch, durable, self.block.file_end, txid, ops,
            prev_crc=self.crc,
        )  # fmt: skip
        image = encode(record, self.crc)
        self.edits.append((self.block.log_off + self.head % self.block.log_size, image))
        self.head += len(image)
        self.crc = decode(image).crc
        self.records.append(record)
        return record

    def applied(self, lsn: int, open_undo: int = 0) -> None:
        words = lsn.to_bytes(8, "little") + open_undo.to_bytes(8, "little")
        self.edits.append((layout.SHARED_PAGE, words))

    def write(self, *more: tuple[int, bytes]) -> bytes:
        return self.wreck.change(*self.edits, *more)


@contextmanager
def opened(path: Path) -> Iterator[Heap]:
    with Heap.open(path, decay=None) as heap:
        assert heap.check(), heap.check()
        yield heap


def contents(heap: Heap) -> Blocks:
    return {offset: bytes(heap.view(offset)) for offset, _ in heap.blocks()}


def with_other_boot(image: bytes, block: Superblock) -> bytes:
    changed = bytearray(image)
    other = replace(block, boot_id=b"another boot id!", state=HeapState.IN_USE)
    for at in layout.SUPERBLOCKS:
        changed[at : at + 512] = other.pack()
    return bytes(changed)
