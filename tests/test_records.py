"""Records of the redo log: what is written is read back, and nothing else is ever accepted."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.format.records import (
    FIRST_LSN,
    RECORD_ALIGN,
    Operation,
    OperationType,
    Record,
    RecordKind,
    decode,
    encode,
    newest_chain,
    scan,
    survivors,
)
from pmemheap.layout import Table

EPOCH = 3 << 32 | 77
LOG = 4096
OFFSETS = st.integers(0, 2**63 - 2**20)


def metas() -> st.SearchStrategy[Operation]:
    words = st.integers(1, 6).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n))
    places = st.integers(0, 2**55 // 8).map(lambda n: 8 * n)
    return st.builds(Operation.meta, st.sampled_from(Table), places, words)


OPERATIONS = st.one_of(
    metas(),
    st.builds(Operation.write, OFFSETS, st.binary(max_size=100)),
    st.builds(Operation.old, OFFSETS, st.binary(max_size=100)),
    st.builds(Operation.fresh, OFFSETS, st.integers(0, 2**40)),
    st.builds(Operation.free, OFFSETS, st.integers(0, 2**40)),
)
RECORDS = st.builds(
    Record,
    kind=st.sampled_from([RecordKind.COMMIT, RecordKind.UNDO]),
    lsn=st.integers(1, 2**50).map(lambda n: 64 * n),
    epoch=st.integers(0, 2**64 - 1),
    durable_lsn=st.integers(0, 2**64 - 1),
    file_end=st.integers(0, 2**64 - 1),
    txid=st.integers(0, 2**32 - 1),
    ops=st.lists(OPERATIONS, max_size=5).map(tuple),
)


class Log:
    """A log area that is appended to as the core does it."""

    def __init__(self, size: int = LOG, start: int = FIRST_LSN) -> None:
        self.area = bytearray(size)
        self.size = size
        self.tail = self.head = start
        self.seed = self.crc = 0

    def append(
        self, *ops: Operation, epoch: int = EPOCH, durable: int = 0, txid: int = 1
    ) -> Record:
        record = Record(
            RecordKind.COMMIT, self.head, epoch, durable, 2**20, txid, ops, prev_crc=self.crc
        )
        image = encode(record, self.crc)
        for at, byte in enumerate(image):
            self.area[(self.head + at) % self.size] = byte
        self.head += len(image)
        self.crc = decode(image).crc
        return record

    def fill(self, count: int, length: int = 100) -> list[Record]:
        return [self.append(Operation.write(16 * i, bytes([i]) * length)) for i in range(count)]

    def checkpoint(self) -> None:
        self.tail, self.seed = self.head, self.crc


def scanned(log: Log, epoch: int = EPOCH) -> list[Record]:
    return list(scan(bytes(log.area), log.size, log.tail, log.seed, epoch).records)


# ------------------------------------------------------------------------------------ one record


@given(RECORDS, st.integers(0, 2**32 - 1))
def test_what_is_encoded_is_decoded(record: Record, prev_crc: int) -> None:
    image = encode(record, prev_crc)
    assert len(image) == record.total_len
    assert len(image) % RECORD_ALIGN == 0
    assert decode(image + b"behind") == replace(record, prev_crc=prev_crc)
    assert decode(image).end == record.lsn + len(image)


@given(
    st.integers(0, 255), st.integers(0, 2**48), st.integers(0, 2**64 - 1), st.integers(0, 1024),
    st.integers(0, 63),
)  # fmt: skip
def test_a_word_is_decoded_as_what_it_does(
    arena: int, word: int, image: int, granules: int, bit: int
) -> None:
    meta = Operation.meta(Table.BITS, arena << 55 | 8 * word, image.to_bytes(8, "little"))
    freed = Operation.free(arena << 55 | (64 * word + bit) * 16, granules * 16)
    ops = (meta, freed) if granules else (meta,)
    record = Record(RecordKind.WORD, 128, 5, 64, 0, 0, ops)
    encoded = encode(record, 7)
    assert len(encoded) == 64
    assert decode(encoded) == replace(record, prev_crc=7)


def test_the_bytes_are_those_of_the_format() -> None:
    record = Record(RecordKind.UNDO, 128, 5, 64, 0x48000, 9, (Operation.free(4096, 100),))
    image = encode(record, 7)
    assert struct.unpack_from("<IIQQQQQIIIHBB", image) == (
        0x4C484D50, decode(image).crc, 128, 5, 64, 0x48000, 0, 128, 7, 9, 1, 2, 0,
    )  # fmt: skip
    assert image[64:88] == struct.pack("<BBHIQQ", 4, 0, 0, 8, 4096, 100)
    assert image[88:] == bytes(40)


@given(RECORDS, st.data())
def test_every_flipped_bit_is_caught(record: Record, data: st.DataObject) -> None:
    image = bytearray(encode(record, 1))
    bit = data.draw(st.integers(0, 8 * len(image) - 1))
    image[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptHeapError):
        decode(bytes(image))


@given(st.binary(max_size=300))
def test_random_bytes_are_never_a_record(image: bytes) -> None:
    with pytest.raises(CorruptHeapError):
        decode(image)


@given(st.binary(min_size=60, max_size=300), st.integers(0, 2**32 - 1))
def test_random_bytes_behind_the_magic_are_never_a_record(rest: bytes, total: int) -> None:
    image = bytearray(struct.pack("<I", 0x4C484D50) + rest)
    struct.pack_into("<I", image, 48, total)
    with pytest.raises(CorruptHeapError):
        decode(bytes(image))


@pytest.mark.parametrize(
    "operation",
    [
        Operation.meta(Table.BITS, 4, bytes(8)),
        Operation.meta(Table.BITS, 8, b"1234567"),
        Operation.meta(Table.BITS, 8, b""),
        Operation(OperationType.META, 8, bytes(8), flags=5),
        Operation(OperationType.WRITE, 8, bytes(8), flags=2),
        Operation(OperationType.FREE, 8, bytes(16)),
        Operation(OperationType.FRESH, 8, struct.pack("<QQ", 1, 1)),
        Operation.free(2**64 - 16, 17),
    ],
)
def test_an_impossible_operation_is_refused(operation: Operation) -> None:
    with pytest.raises(UsageError, match="record at LSN 64"):
        encode(Record(RecordKind.COMMIT, 64, 1, 0, 0, 1, (operation,)), 0)


def test_an_impossible_field_is_refused() -> None:
    with pytest.raises(UsageError):
        encode(Record(RecordKind.COMMIT, 65, 1, 0, 0, 1), 0)
    with pytest.raises(UsageError):
        encode(Record(RecordKind.COMMIT, 64, -1, 0, 0, 1), 0)


# ------------------------------------------------------------------------------------ scanning


def test_scan_finds_all_records_up_to_the_end() -> None:
    log = Log()
    written = log.fill(6)
    found = scan(bytes(log.area), log.size, log.tail, 0, EPOCH)
    assert list(found.records) == written
    assert (found.end_lsn, found.seed, found.lost) == (log.head, log.crc, ())


def test_records_wrap_byte_by_byte() -> None:
    log = Log(size=1024, start=64)
    for _ in range(40):
        log.checkpoint()
        written = log.fill(3, length=130)
        assert scanned(log) == written
    assert log.head > 20 * 1024


def test_a_record_of_the_last_lap_is_not_accepted() -> None:
    """[R11] After a lap an old record lies where the next one is expected."""
    log = Log(size=1024)
    log.fill(4, length=150)
    assert log.head == 64 + 4 * 256
    log.checkpoint()
    assert scanned(log) == []


def test_a_record_of_another_epoch_is_not_accepted() -> None:
    """[R15] What recovery has dropped never becomes the continuation."""
    log = Log()
    kept = log.fill(2)
    log.append(Operation.free(0, 16), epoch=EPOCH - 1)
    assert scanned(log) == kept


def test_nothing_behind_a_gap_is_accepted() -> None:
    log = Log()
    written = log.fill(5)
    log.area[written[2].lsn % LOG + 70] ^= 1
    found = scan(bytes(log.area), log.size, log.tail, 0, EPOCH)
    assert list(found.records) == written[:2]
    assert found.end_lsn == written[2].lsn


def test_a_torn_payload_is_caught() -> None:
    """[R12] The checksum covers the operations, too."""
    log = Log()
    log.append(Operation.write(0, b"x" * 1000))
    for start in range(0, 1000, 512):
        torn = bytearray(log.area)
        torn[64 + 64 + start : 64 + 64 + start + 64] = bytes(64)
        assert not scan(bytes(torn), LOG, 64, 0, EPOCH).records


def test_damage_before_acknowledged_work_is_proved_by_later_records() -> None:
    log = Log()
    first = log.append(Operation.free(0, 16))
    second = log.append(Operation.free(16, 16), durable=log.head)
    log.area[first.lsn % LOG + 20] ^= 4
    assert scan(bytes(log.area), LOG, 64, 0, EPOCH).lost == (second,)


def test_a_torn_newest_record_proves_nothing() -> None:
    log = Log()
    log.append(Operation.free(0, 16))
    newest = log.append(Operation.free(16, 16), durable=log.head)
    log.area[newest.lsn % LOG + 20] ^= 4
    assert scan(bytes(log.area), LOG, 64, 0, EPOCH).lost == ()


def test_a_record_of_a_later_opening_proves_a_stale_superblock() -> None:
    log = Log()
    later = log.append(Operation.free(0, 16), epoch=EPOCH + (1 << 32))
    assert scan(bytes(log.area), LOG, 64, 0, EPOCH).lost == (later,)


def test_the_newest_chain_is_found_without_a_superblock() -> None:
    log = Log(size=2048)
    log.fill(8, length=150)
    log.checkpoint()
    rest = log.fill(5, length=150)
    chain = newest_chain(bytes(log.area), log.size)
    assert list(chain)[-5:] == rest
    assert len(chain) == 8
    assert newest_chain(bytes(LOG), LOG) == ()


@given(st.binary(max_size=600), st.integers(0, 700), st.integers(0, 2**64 - 1))
def test_scan_of_anything_is_empty_and_ends(area: bytes, size: int, tail: int) -> None:
    found = scan(area, size, tail, 0, EPOCH)
    assert (found.records, found.end_lsn) == ((), tail)
    assert not list(survivors(area, size))


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_overwritten_logs_give_a_prefix(seed: int, count: int) -> None:
    chance = random.Random(seed)
    log = Log(size=2048)
    written = log.fill(count, length=chance.randrange(1, 200))
    for _ in range(chance.randint(1, 4)):
        log.area[chance.randrange(len(log.area))] = chance.randrange(256)
    found = scanned(log)
    assert found == written[: len(found)]


def test_forged_sizes_are_bounded() -> None:
    log = Log()
    log.fill(1)
    for size in (0, 1, 63, 64, 2**40, 2**63):
        scan(bytes(log.area), size, 64, 0, EPOCH)
    assert len(scan(bytes(log.area), 2**63, 64, 0, EPOCH).records) == 1
