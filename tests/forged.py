"""Raw access to the file of a closed heap, and images of what containers keep in it.

For tests that put there what no container would write: a field at a time, or whole nodes. Whoever
opens the file afterwards must get an answer or one of our exceptions.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pmemheap import layout
from pmemheap.layout import ARENA_BITS, RootSlot, SegmentKind, SegmentSlot
from pmemheap.units import UNIT

NODE_BYTES = 4096
NODE_MAGIC = 0x444E4850
MAP_MAGIC = 0x0001504D53504850
APART = 0xFFFF
NOWHERE = (1 << 64) - 1

NODE = struct.Struct("<IBBHHHHH")
NODE_FIELDS = ("magic", "level", "zero", "count", "top", "waste", "prefix", "none")
SLOT = struct.Struct("<HH")
ENTRY = struct.Struct("<HH")
MAP_HEADER = struct.Struct("<QQQII")
MAP_HEADER_FIELDS = ("magic", "root", "count", "height", "number")
PLACE = struct.Struct("<QQ")
COUNTS = struct.Struct("<8sQQQ")
VECTOR_HEADER = struct.Struct("<8sQ32s16x")


class HeapFile:
    """The file of a heap that nobody has open, by offsets of the heap.

    What it reads and writes are homes: the log of a closed heap has nothing that is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._segments = [
            slot
            for slot in self._slots(layout.SEGMENT_TABLE, layout.SEGMENT_SLOTS, SegmentSlot)
            if slot.kind == SegmentKind.DATA
        ]
        self.roots: dict[str, int] = {
            slot.name: slot.off
            for slot in self._slots(layout.ROOT_TABLE, layout.ROOT_SLOTS, RootSlot)
        }

    def _slots(self, table: int, count: int, kind: Any) -> list[Any]:
        size = layout.SLOT_BYTES
        image = os.pread(self._fd, count * size, table)
        return [
            kind.unpack(image[at : at + size], 0)
            for at in range(0, len(image), size)
            if any(image[at : at + size])
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def place(self, offset: int) -> int:
        """Return where in the file the byte at an offset of the heap lies."""
        arena, byte = offset >> ARENA_BITS, offset & ((1 << ARENA_BITS) - 1)
        for slot in self._segments:
            inside = byte - slot.first_unit * UNIT
            if slot.arena == arena and 0 <= inside < slot.nunits * UNIT:
                return int(slot.data_off + inside)
        raise KeyError(hex(offset))

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, self.place(offset))

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self._fd, data, self.place(offset))


# ---------------------------------------------------------------- nodes of a map


@dataclass(frozen=True)
class Entry:
    """An entry as it stands in a node; `said` is the length that it claims."""

    key: bytes
    value: bytes
    said: int | None = None

    @property
    def image(self) -> bytes:
        said = len(self.value) if self.said is None else self.said
        return ENTRY.pack(len(self.key), said) + self.key + self.value


def apart(key: bytes, offset: int, length: int) -> Entry:
    """Return the entry of a value in a block of its own."""
    return Entry(key, PLACE.pack(offset, length), APART)


def child(key: bytes, offset: int) -> Entry:
    """Return the entry that leads to a node."""
    return Entry(key, struct.pack("<Q", offset))


def node_image(level: int, entries: Sequence[Entry], **fields: int) -> bytes:
    """Return a node of some entries, in the order that they have; `fields` as they are not."""
    image, slots, top = bytearray(NODE_BYTES), [], NODE_BYTES
    prefix = fields.get("prefix", 0)
    for entry in entries:
        top -= len(entry.image)
        image[top : top + len(entry.image)] = entry.image
        hint = int.from_bytes(entry.key[prefix : prefix + 2].ljust(2, b"\0"), "big")
        slots.append((top, hint))
    values = {"magic": NODE_MAGIC, "level": level, "count": len(entries), "top": top} | fields
    NODE.pack_into(image, 0, *(values.get(name, 0) for name in NODE_FIELDS))
    for number, slot in enumerate(slots):
        SLOT.pack_into(image, NODE.size + SLOT.size * number, *slot)
    return bytes(image)


def map_header(
    root: int, count: int, height: int, *, magic: int = MAP_MAGIC, number: int = 0
) -> bytes:
    """Return the header of a map; `number` tells it from others."""
    return MAP_HEADER.pack(magic, root, count, height, number)


@dataclass(frozen=True)
class Node:
    """A node of a file, taken apart."""

    offset: int
    image: bytes

    @property
    def fields(self) -> dict[str, int]:
        return dict(zip(NODE_FIELDS, NODE.unpack_from(self.image), strict=True))

    @property
    def slots(self) -> list[tuple[int, int]]:
        count = self.fields["count"]
        return [SLOT.unpack_from(self.image, NODE.size + SLOT.size * i) for i in range(count)]

    @property
    def entries(self) -> list[Entry]:
        return [entry_at(self.image, position) for position, _ in self.slots]

    @property
    def children(self) -> list[int]:
        return [struct.unpack("<Q", entry.value)[0] for entry in self.entries]


def entry_at(image: bytes, position: int) -> Entry:
    nkey, said = ENTRY.unpack_from(image, position)
    at = position + ENTRY.size
    length = PLACE.size if said == APART else said
    return Entry(image[at : at + nkey], image[at + nkey : at + nkey + length], said)


@dataclass(frozen=True)
class Tree:
    """A map of a file: its header, and all nodes by level, from the leaves up."""

    header: int
    root: int
    levels: list[list[Node]]


def tree_of(file: HeapFile, name: str) -> Tree:
    """Read the map under a root."""
    header = file.roots[name]
    _, root, _, height, _ = MAP_HEADER.unpack(file.read(header, MAP_HEADER.size))
    levels: list[list[Node]] = [[Node(root, file.read(root, NODE_BYTES))]]
    for _ in range(height - 1):
        below = [offset for node in levels[0] for offset in node.children]
        levels.insert(0, [Node(offset, file.read(offset, NODE_BYTES)) for offset in below])
    return Tree(header, root, levels)


# ---------------------------------------------------------------- vectors


def vector_counts(block: int, length: int, high: int, *, magic: bytes = b"PHCOUNTS") -> bytes:
    """Return the counts of a vector, to which its root leads."""
    return COUNTS.pack(magic, block, length, high)


def vector_header(dtype: bytes, *, magic: bytes = b"PHVECTOR", changes: int = 0) -> bytes:
    """Return the header of the block of a vector."""
    return VECTOR_HEADER.pack(magic, changes, dtype)


def copied(source: Path, to: Path) -> Path:
    """Copy a heap file that nobody has open."""
    to.write_bytes(source.read_bytes())
    return to
