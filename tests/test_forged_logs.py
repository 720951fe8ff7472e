"""Logs with right checksums and absurd contents: a refusal or a sound heap, never a crash."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from wreck import LogWriter, Wreck, look, wreck

from pmemheap import CorruptHeapError, Heap, PmemHeapError, layout, native
from pmemheap.format.records import Operation
from pmemheap.layout import Durability, Table

FORGERIES = 40
EDGES = (
    0,
    1,
    7,
    8,
    64,
    4096,
    0x28000,
    (1 << 55) - 8,
    1 << 55,
    255 << 55,
    (1 << 63) + 8,
    (1 << 64) - 8,
)
HEADER = struct.Struct("<IIQQQQQIIIHBB")
OPERATION = struct.Struct("<BBHIQ")


def number(rng: random.Random, bits: int) -> int:
    value = rng.choice((rng.choice(EDGES), rng.randrange(1 << 24), rng.randrange(1 << bits)))
    return value % (1 << bits)


def operations(rng: random.Random) -> tuple[bytes, int]:
    """Return operations of any kind, mostly inside of their record."""
    image, count = b"", rng.randrange(5)
    for _ in range(count):
        length = rng.choice((0, 1, 7, 8, 8, 16, 64, 200, 4000))
        said = length if rng.random() < 0.9 else number(rng, 32)
        head = rng.choice((1, 1, 1, 2, 3, 4, 6, 0, 9)), rng.choice((0, 1, 2, 3, 4, 5, 255))
        image += OPERATION.pack(*head, rng.randrange(2), said, number(rng, 64))
        image += rng.randbytes(-(-length // 8) * 8)
    return image, count


def record(rng: random.Random, writer: LogWriter) -> bytes:
    """Return a record that continues the chain, whatever it says."""
    body, count = operations(rng)
    if rng.random() < 0.2:
        body, count = b"", rng.randrange(1 << 16)
    total = -(-(64 + len(body)) // 64) * 64
    fields = [
        0x4C484D50, 0, writer.head, writer.block.epoch,
        number(rng, 64) if rng.random() < 0.1 else 0,
        rng.choice((writer.block.file_end, number(rng, 64))), number(rng, 64), total, writer.crc,
        rng.randrange(4), count, rng.choice((1, 1, 2, 3, 3, 0, 77)), rng.randrange(256),
    ]  # fmt: skip
    image = bytearray(HEADER.pack(*fields) + body.ljust(total - 64, b"\0"))
    crc = native.crc32c(bytes(image[8:]), writer.crc)
    struct.pack_into("<I", image, 4, crc)
    writer.crc = crc
    writer.head += total
    return bytes(image)


def forge(rng: random.Random, victim: Wreck, durability: Durability) -> None:
    writer = LogWriter(victim, durability)
    start = writer.head
    ring = b"".join(record(rng, writer) for _ in range(rng.randrange(1, 6)))
    if rng.random() < 0.3:
        writer.applied(start + rng.choice((64, 8, 1, 100)), rng.choice((0, start, 5)))
    writer.write((writer.block.log_off + start % writer.block.log_size, ring))


def look_at(path: Path) -> None:
    """Open it, check it, use it: everything may be refused."""
    try:
        with Heap.open(path, decay=None) as heap:
            heap.check()
            for offset, _ in list(heap.blocks())[:20]:
                bytes(heap.view(offset))
            heap.free(heap.malloc(5000))
    except PmemHeapError:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["PROCESS", "POWER"])
def test_forged_records_never_crash(tmp_path: Path, durability: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
    code += "import test_forged_logs as it; "
    code += f"it.many({str(tmp_path)!r}, {durability!r})"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout


def many(directory: str, durability: str) -> None:
    victim = wreck(Path(directory))
    for seed in range(FORGERIES):
        sys.stdout.write(f"{seed}\n")
        sys.stdout.flush()
        forge(random.Random(f"{durability}/{seed}"), victim, Durability[durability])
        look_at(victim.path)


WRITTEN = b"first of all"
IMPOSSIBLE = {
    "an unknown type": (64, 1, 5),
    "type 0": (64, 1, 0),
    "a flag of a write": (65, 1, 2),
    "zeros that are none": (66, 2, 1),
    "a write beyond the end of all": (72, 8, (1 << 64) - 4),
    "a table that is none": (89, 1, 5),
    "an offset inside of a word": (96, 8, 4),
    "no words": (92, 4, 0),
    "a length of a range with more behind it": (116, 4, 16),
    "a range beyond the end of all": (120, 8, (1 << 64) - 8),
    "a zero of the header": (40, 8, 1),
    "the last byte of the header": (63, 1, 1),
    "kind 0": (62, 1, 0),
}


@pytest.mark.parametrize("forged", IMPOSSIBLE)
def test_both_readers_refuse_a_record_that_cannot_be(tmp_path: Path, forged: str) -> None:
    """It ends the chain for recovery in C, and for what looks at files in Python."""
    victim = wreck(tmp_path)
    writer = LogWriter(victim, Durability.POWER)
    block = max(victim.blocks)
    first = writer.append(Operation.write(block, WRITTEN))
    crc, start = writer.crc, writer.head
    writer.append(
        Operation.write(block, b"not this"),
        Operation.meta(Table.ROOTS, 8 * 64 * 1000, bytes(8)),
        Operation.free(block, 16),
    )
    at, image = writer.edits.pop()
    assert at == writer.block.log_off + start % writer.block.log_size
    changed = bytearray(image)
    offset, width, value = IMPOSSIBLE[forged]
    changed[offset : offset + width] = value.to_bytes(width, "little")
    struct.pack_into("<I", changed, 4, native.crc32c(bytes(changed[8:]), crc))
    writer.write((at, bytes(changed)))
    assert [record.lsn for record in look(victim.path).log.scan.records] == [first.lsn]
    with Heap.open(victim.path) as heap:
        assert bytes(heap.view(block, len(WRITTEN))) == WRITTEN


@pytest.mark.parametrize("tail", [65, 1 << 62, (1 << 64) - 64])
def test_a_tail_that_no_log_has_is_refused(tmp_path: Path, tail: int) -> None:
    victim = wreck(tmp_path)
    image = victim.superblock.successor(tail_lsn=tail).pack()
    victim.change(*((at, image) for at in layout.SUPERBLOCKS))
    with pytest.raises(CorruptHeapError, match="tail of the log"):
        Heap.open(victim.path)
    assert "log" in [finding.thing for finding in look(victim.path).findings]


def test_a_record_that_was_applied_may_end_anywhere(tmp_path: Path) -> None:
    """An LSN inside of a record: nothing is read from there."""
    victim = wreck(tmp_path)
    writer = LogWriter(victim, Durability.PROCESS)
    start = writer.head
    writer.append()
    writer.append()
    writer.applied(start + 8)
    writer.write()
    look_at(victim.path)
