"""Fields of a heap file, each with its place and what seals it: for the forger.

    sample    image of a small heap file that has all there is: runs, large blocks, two arenas, one
              that was dropped, spare segments, maps of one to three levels, a vector, a log
    field     kind, place, width; of one structure, whose checksum is made again after a change

A kind, such as "segment.capacity", is shared by the fields of the same name of all structures.
"""

from __future__ import annotations

import os
import random
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wreck import of_any_file

from pmemheap import DurabilityName, Heap, layout, native
from pmemheap.containers import SortedMap, Vector
from pmemheap.format.records import RECORD_HEADER, Record, scan
from pmemheap.format.superblock import Superblock, newest_superblock
from pmemheap.layout import ARENA_BITS, Durability, SegmentKind, SegmentSlot, Table
from pmemheap.units import UNIT, KiB

Seal = Callable[[bytearray], None]
Blocks = dict[int, bytes]

_SHARED = ("applied_lsn", "open_undo_lsn", "apply_seq", "layout_seq")
_NODE = struct.Struct("<IBBHHHHH")
_SIZES = [16, 48, 100, 1000, 3000, 4096, 9000, 20 * KiB, 300 * KiB]
_ENTRIES_FORGED = 6  # of each node: its first ones and its last


@dataclass(frozen=True)
class Field:
    """One number of a file, `width` bytes at `place`; `seal` makes the checksum over it again."""

    kind: str
    place: int
    width: int
    seal: Seal | None = None

    def read(self, image: bytes | bytearray) -> int:
        """Return its value."""
        return int.from_bytes(image[self.place : self.place + self.width], "little")

    def write(self, image: bytearray, value: int) -> None:
        """Store a value and seal the structure again."""
        image[self.place : self.place + self.width] = value.to_bytes(self.width, "little")
        if self.seal is not None:
            self.seal(image)


@dataclass
class Sample:
    """A heap file, its fields by kind, and offsets at which something begins."""

    name: str
    image: bytes
    fields: dict[str, list[Field]] = field(default_factory=lambda: defaultdict(list))
    offsets: list[int] = field(default_factory=list)

    def add(self, kind: str, place: int, width: int, seal: Seal | None = None) -> None:
        """Add a field."""
        if 0 <= place <= len(self.image) - width:
            self.fields[kind].append(Field(kind, place, width, seal))


# ---------------------------------------------------------------- samples


def samples(home: Path) -> list[Sample]:
    """Make the files: of each durability, closed and left by a process that was killed."""
    made = []
    for durability in ("process", "power"):
        path = home / durability
        offsets = _fill(path, durability)
        closed = path.read_bytes()
        _kill(path)
        for name, image in (("closed", closed), ("killed", _all_pending(path.read_bytes()))):
            sample = Sample(f"{durability}, {name}", of_any_file(image), offsets=offsets)
            _add_fields(sample)
            made.append(sample)
        path.unlink()
    return made


def _fill(path: Path, durability: DurabilityName) -> list[int]:
    """Make a heap with everything in it; return the offsets of its blocks."""
    with Heap.create(path, durability=durability, decay=None) as heap:
        offsets = [heap.malloc(size) for size in _SIZES for _ in range(3)]
        for offset in offsets:
            heap.view(offset)[:] = offset.to_bytes(8, "little") * (heap.usable_size(offset) // 8)
        for offset in offsets[1::3]:
            heap.free(offset)
        for number, offset in enumerate(offsets[::3]):
            heap.roots[f"root {number}"] = offset
        heap.arena("kept").malloc_many(64, 100)
        heap.arena("gone").malloc(100)
        low = SortedMap(heap, "low")
        low.update((b"%03d" % i, b"v" * i) for i in range(8))
        wide = SortedMap(heap, "wide")
        wide.update((b"%05d" % i, bytes([i % 251]) * (i % 40)) for i in range(400))
        wide.update((b"apart %d" % i, b"a" * 2000) for i in range(3))
        tall = SortedMap(heap, "tall")
        tall.update((b"%03d" % i + b"k" * 700, b"v") for i in range(40))
        Vector(heap, "vector", "f8").extend(range(1000))
        heap.arena("gone").drop()
        return [offset for offset, _ in heap.blocks()]


def _kill(path: Path) -> None:
    """Let a process change the heap and end in the middle of a transaction."""
    child = os.fork()
    if child == 0:
        try:
            heap = Heap.open(path, decay=None)
            block = heap.malloc(100)
            with heap.transaction() as tx:
                tx.roots["later"] = tx.malloc(3000)
                tx.write(heap.roots["root 0"], b"rewritten")
                tx.free(heap.roots["root 3"])
                del tx.roots["root 3"]
            SortedMap(heap, "wide")[b"00007"] = b"another value"
            heap.free(block)
            heap.malloc_many(64, 3)
            tx = heap.transaction()
            tx.snapshot(heap.roots["root 8"], 64)
            heap.view(heap.roots["root 8"])[:8] = b"torn off"
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _all_pending(image: bytes) -> bytes:
    """Let recovery replay all of the log, whatever was home already."""
    block = _newest(image)
    if block.durability == Durability.POWER:
        return image
    changed = bytearray(image)
    struct.pack_into("<Q", changed, layout.SHARED_PAGE, block.tail_lsn)
    return bytes(changed)


def _newest(image: bytes) -> Superblock:
    first, second = (image[at : at + layout.SUPERBLOCK_BYTES] for at in layout.SUPERBLOCKS)
    return newest_superblock((first, second))[0]


# ---------------------------------------------------------------- structures of the header


def _sealed(start: int, length: int, at: int) -> Seal:
    """Return what stores the checksum of a structure, counted as if it were zero itself."""

    def seal(image: bytearray) -> None:
        struct.pack_into("<I", image, start + at, 0)
        struct.pack_into("<I", image, start + at, native.crc32c(image[start : start + length]))

    return seal


_SUPERBLOCK = {
    "magic": (0, 8), "version": (8, 4), "generation": (16, 8), "uuid": (24, 16),
    "durability": (40, 4), "state": (44, 4), "features_incompat": (48, 8),
    "features_compat": (56, 8), "file_end": (64, 8), "log_off": (72, 8), "log_size": (80, 8),
    "limit": (88, 8), "birth": (96, 8), "inode": (104, 8), "device": (112, 8),
    "tail_lsn": (128, 8), "epoch": (136, 8),
    "chain_seed": (144, 4), "zero": (148, 4), "boot_id": (152, 16), "rest": (500, 4),
}  # fmt: skip
_SLOTS = {
    "segment": (
        Table.SEGMENTS, layout.SEGMENT_SLOTS, SegmentSlot.SEAL_AT,
        {"kind": (0, 1), "pad": (1, 1), "arena": (2, 2), "pad2": (4, 4), "file_off": (8, 8),
         "capacity": (16, 8), "first_unit": (24, 8), "nunits": (32, 8), "rest": (52, 8)},
    ),
    "arena": (
        Table.ARENAS, layout.ARENA_SLOTS, 60,
        {"state": (0, 1), "strategy": (1, 7), "first_unit": (8, 8), "end_unit": (16, 8),
         "name_len": (24, 1), "name": (25, 4), "end_of_name": (52, 4)},
    ),
    "root": (
        Table.ROOTS, layout.ROOT_SLOTS, 16,
        {"off": (0, 8), "copy": (8, 8), "name_len": (20, 1), "name": (21, 4)},
    ),
}  # fmt: skip


def _add_fields(sample: Sample) -> None:
    for place in layout.SUPERBLOCKS:
        seal = _sealed(place, layout.SUPERBLOCK_BYTES, 12)
        for name, (at, width) in _SUPERBLOCK.items():
            sample.add(f"superblock.{name}", place + at, width, seal)
    for number, name in enumerate(_SHARED):
        sample.add(f"shared.{name}", layout.SHARED_PAGE + 8 * number, 8)
    sample.add("shared.writer_pid", layout.SHARED_WRITER_PID, 4)
    for thing, (table, count, seal_at, fields) in _SLOTS.items():
        slots = [layout.slot_offset(table, index) for index in range(count)]
        used = [at for at in slots if any(sample.image[at : at + layout.SLOT_BYTES])]
        for start in [*used, used[-1] + layout.SLOT_BYTES]:  # and one that is empty
            seal = _sealed(start, layout.SLOT_BYTES, seal_at)
            for name, (at, width) in fields.items():
                sample.add(f"{thing}.{name}", start + at, width, seal)
    _add_units(sample)
    _add_log(sample)
    _add_containers(sample)


# ---------------------------------------------------------------- units


def segments(image: bytes) -> Iterator[SegmentSlot]:
    """Yield the data segments of a file."""
    for index in range(layout.SEGMENT_SLOTS):
        at = layout.slot_offset(Table.SEGMENTS, index)
        slot = SegmentSlot.unpack(image[at : at + layout.SLOT_BYTES], at)
        if slot is not None and slot.kind == SegmentKind.DATA:
            yield slot


def place_of(image: bytes, offset: int) -> int:
    """Return where a heap offset lies in the file; -1 for one that lies nowhere."""
    arena, byte = offset >> ARENA_BITS, offset & (1 << ARENA_BITS) - 1
    for slot in segments(image):
        rest = byte - slot.first_unit * UNIT
        if slot.arena == arena and 0 <= rest < slot.nunits * UNIT:
            return slot.data_off + rest
    return -1


_ENTRY = {"kind": (0, 1), "class": (1, 1), "flags": (2, 2), "nunits": (4, 4), "nbytes": (8, 8)}


def _add_units(sample: Sample) -> None:
    """Add the entries in use, one behind each and the last; and the words of bits beside them."""
    for slot in segments(sample.image):
        used = {
            unit
            for unit in range(slot.nunits)
            if any(sample.image[slot.entries_off + 16 * unit : slot.entries_off + 16 * unit + 16])
        }
        for unit in sorted(used | {unit + 1 for unit in used} | {slot.nunits - 1}):
            if unit >= slot.nunits:
                continue
            start = slot.entries_off + layout.ENTRY_WIDTH * unit
            for name, (at, width) in _ENTRY.items():
                sample.add(f"entry.{name}", start + at, width)
            for word in range(4):
                start = slot.bits_off + layout.BITS_WIDTH * unit + 8 * word
                if unit in used or word == 0:
                    sample.add("bits.word", start, 8)


# ---------------------------------------------------------------- the log


class _Ring:
    """The log area of an image, by LSN, with the records that it had at first."""

    def __init__(self, block: Superblock, records: tuple[Record, ...]) -> None:
        self._off, self._size = block.log_off, block.log_size
        self._seed, self._records = block.chain_seed, records

    def place(self, lsn: int) -> int:
        return self._off + lsn % self._size

    def seal(self, image: bytearray, forged: int) -> None:
        """Chain the records again; that at LSN `forged` keeps what it says of the one before."""
        crc = self._seed
        for record in self._records:
            start = self.place(record.lsn)
            if record.lsn != forged:
                struct.pack_into("<I", image, start + 52, crc)
            length = struct.unpack_from("<I", image, start + 48)[0]
            if not RECORD_HEADER <= length <= self._size:
                length = record.total_len
            crc = native.crc32c(bytes(image[start + 8 : start + length]), crc)
            struct.pack_into("<I", image, start + 4, crc)


_RECORD = {
    "magic": (0, 4), "lsn": (8, 8), "epoch": (16, 8), "durable_lsn": (24, 8), "file_end": (32, 8),
    "word_at": (40, 8), "total_len": (48, 4), "prev_crc": (52, 4), "txid": (56, 4),
    "nops": (60, 2), "kind": (62, 1), "zero": (63, 1),
}  # fmt: skip
_OPERATION = {"type": (0, 1), "flags": (1, 1), "zero": (2, 2), "len": (4, 4), "off": (8, 8)}


def _add_log(sample: Sample) -> None:
    block = _newest(sample.image)
    area = sample.image[block.log_off : block.log_off + block.log_size]
    records = scan(area, block.log_size, block.tail_lsn, block.chain_seed, block.epoch).records
    ring = _Ring(block, records)
    for record in records:
        start = ring.place(record.lsn)
        assert ring.place(record.end - 1) > start, "no record of a sample wraps"

        def seal(image: bytearray, lsn: int = record.lsn) -> None:
            ring.seal(image, lsn)

        for name, (at, width) in _RECORD.items():
            sample.add(f"record.{name}", start + at, width, seal)
        at = start + RECORD_HEADER
        for operation in record.ops if record.total_len > RECORD_HEADER else ():
            for name, (inside, width) in _OPERATION.items():
                sample.add(f"operation.{name}", at + inside, width, seal)
            for word in range(16, min(operation.length_in_log, 48), 8):
                sample.add("operation.payload", at + word, 8, seal)
            at += operation.length_in_log


# ---------------------------------------------------------------- containers


def _add_containers(sample: Sample) -> None:
    roots = {
        slot.name: slot.off
        for index in range(layout.ROOT_SLOTS)
        if (slot := _root(sample.image, index)) is not None
    }
    for name in ("low", "wide", "tall"):
        start = place_of(sample.image, roots[name])
        for thing, at, width in [
            ("magic", 0, 8), ("root", 8, 8), ("count", 16, 8), ("height", 24, 4), ("zero", 28, 4),
        ]:  # fmt: skip
            sample.add(f"map.{thing}", start + at, width)
        root, height = struct.unpack_from("<Q8xI", sample.image, start + 8)
        _add_node(sample, root, height - 1)
    counts = place_of(sample.image, roots["vector"])
    for number, thing in enumerate(("magic", "block", "length", "high")):
        sample.add(f"counts.{thing}", counts + 8 * number, 8)
    block = struct.unpack_from("<Q", sample.image, counts + 8)[0]
    start = place_of(sample.image, block)
    for thing, at, width in [
        ("magic", 0, 8), ("changes", 8, 8), ("dtype", 16, 4), ("end_of_dtype", 44, 4),
        ("zero", 48, 8),
    ]:  # fmt: skip
        sample.add(f"vector.{thing}", start + at, width)


def _root(image: bytes, index: int) -> layout.RootSlot | None:
    at = layout.slot_offset(Table.ROOTS, index)
    return layout.RootSlot.unpack(image[at : at + layout.SLOT_BYTES], at)


def _add_node(sample: Sample, offset: int, level: int) -> None:
    """Add a node and, of the nodes below, those of its first and its last entries."""
    start = place_of(sample.image, offset)
    if start < 0:
        return
    sample.offsets.append(offset)
    header = _NODE.unpack_from(sample.image, start)
    assert header[1] == level, "a node of the level of its place"
    for thing, at, width in [
        ("magic", 0, 4), ("level", 4, 1), ("zero", 5, 1), ("count", 6, 2), ("top", 8, 2),
        ("waste", 10, 2), ("prefix", 12, 2), ("none", 14, 2),
    ]:  # fmt: skip
        sample.add(f"node.{thing}", start + at, width)
    count = header[3]
    chosen = {*range(_ENTRIES_FORGED), *range(count - _ENTRIES_FORGED, count)}
    for index in sorted(chosen & set(range(count))):
        _add_map_entry(sample, start, start + 16 + 4 * index, level)


def _add_map_entry(sample: Sample, node: int, slot: int, level: int) -> None:
    at, _ = struct.unpack_from("<HH", sample.image, slot)
    where = "leaf" if level == 0 else "inner"
    sample.add(f"{where}.at", slot, 2)
    sample.add(f"{where}.hint", slot + 2, 2)
    key_bytes, value_bytes = struct.unpack_from("<HH", sample.image, node + at)
    sample.add(f"{where}.key_bytes", node + at, 2)
    sample.add(f"{where}.value_bytes", node + at + 2, 2)
    for byte in range(0, key_bytes, max(key_bytes // 4, 1)):
        sample.add(f"{where}.key", node + at + 4 + byte, 1)
    value = node + at + 4 + key_bytes
    if level:
        sample.add("inner.child", value, 8)
        _add_node(sample, struct.unpack_from("<Q", sample.image, value)[0], level - 1)
    elif value_bytes == 0xFFFF:
        sample.add("apart.block", value, 8)
        sample.add("apart.length", value + 8, 8)


# ---------------------------------------------------------------- values


def forged_value(chance: random.Random, sample: Sample, forged: Field) -> int:
    """Return another value for a field: an extreme, a neighbour's, one that is near, or any."""
    bits = 8 * forged.width
    value, most = forged.read(sample.image), (1 << bits) - 1
    near = [value + step for step in (-2, -1, 1, 2, -16, 16, -UNIT, UNIT, -256, 256)]
    siblings = sample.fields[forged.kind]
    choices: list[Callable[[], int]] = [
        lambda: 0,
        lambda: 1,
        lambda: most,
        lambda: 1 << bits - 1,
        lambda: (1 << bits - 1) - 1,
        lambda: chance.choice(near),
        lambda: value ^ 1 << chance.randrange(bits),
        lambda: chance.choice(siblings).read(sample.image),
        lambda: chance.choice(chance.choice(list(sample.fields.values()))).read(sample.image),
        lambda: chance.choice(sample.offsets),
        lambda: value * chance.choice((2, 3, 256)),
        lambda: chance.randrange(1 << chance.randrange(1, bits + 1)),
    ]
    return chance.choice(choices)() & most
