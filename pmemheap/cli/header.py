"""Header: the facts in front of a heap file, for `info` and `check`, as they stand in the file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pmemheap.file import locks
from pmemheap.format import layout
from pmemheap.format.layout import HeapState, SegmentKind, SegmentSlot
from pmemheap.format.superblock import newest_superblock
from pmemheap.heap.heap import Heap

__all__ = ["Header", "Segment", "read_header"]


@dataclass(frozen=True)
class Segment:
    """One segment: `kind` is data, log or spare; offsets and lengths in bytes of the file.

    `arena`, `first_unit` and `nunits` are those of a data segment.
    """

    index: int
    kind: str
    file_offset: int
    file_bytes: int
    first_unit: int
    nunits: int
    arena: int


@dataclass(frozen=True)
class Header:
    """The header of a heap file, for people.

    Attributes
    ----------
    uuid, durability : str
        Identity and promise of the heap.
    closed : bool
        Whether its last writer closed it.
    writer : int or None
        The process that has it open to write.
    commit : int or None
        The commit that is there, of a heap beside a writer with readers.
    version, generation : int
        Of the format, and of the superblock: it counts every store of one.
    opened : int
        How often it was opened for writing.
    file_end, log_bytes : int
        Bytes of the file that belong to the heap, and to its log.
    limit : int or None
        Bytes that the file may grow to.
    segments : tuple of Segment
        In the order of the file.
    """

    uuid: str
    durability: str
    closed: bool
    writer: int | None
    commit: int | None
    version: int
    generation: int
    opened: int
    file_end: int
    log_bytes: int
    limit: int | None
    segments: tuple[Segment, ...]


def read_header(heap: Heap) -> Header:
    """Read the header of an open heap file anew.

    Raises
    ------
    CorruptHeapError
        It is damaged.
    """
    fd = heap.fileno()
    image = os.pread(fd, layout.HEADER_BYTES, 0)
    first, second = (image[at : at + layout.SUPERBLOCK_BYTES] for at in layout.SUPERBLOCKS)
    block, _ = newest_superblock((first, second))
    return Header(
        uuid=str(heap.uuid),
        durability=heap.durability,
        closed=block.state == HeapState.CLEAN,
        writer=locks.holder(fd) if locks.has_writer(fd) else None,
        commit=_commit(heap) if heap.follows else None,
        version=layout.VERSION,
        generation=block.generation,
        opened=(block.epoch >> 32) - 1,
        file_end=block.file_end,
        log_bytes=block.log_size,
        limit=block.limit or None,
        segments=_segments(image),
    )


def _commit(heap: Heap) -> int:
    with heap.read() as snapshot:
        return snapshot.commit


def _segments(image: bytes) -> tuple[Segment, ...]:
    found = []
    for index in range(layout.SEGMENT_SLOTS):
        at = layout.SEGMENT_TABLE + index * layout.SLOT_BYTES
        slot = SegmentSlot.unpack(image[at : at + layout.SLOT_BYTES], at)
        if slot is not None:
            found.append(_segment(index, slot))
    return tuple(sorted(found, key=lambda segment: segment.file_offset))


def _segment(index: int, slot: SegmentSlot) -> Segment:
    is_data = slot.kind == SegmentKind.DATA
    return Segment(
        index, slot.kind.name.lower(), slot.file_off, slot.file_bytes, slot.first_unit,
        slot.nunits if is_data else 0, slot.arena if is_data else 0,
    )  # fmt: skip
