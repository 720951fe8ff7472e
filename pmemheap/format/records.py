"""Records: the redo log as bytes, in pure Python.

    record     | header 64 | operation | operation | ... | zeros to a multiple of 64 |
    operation  | type 1, flags 1, 0 2, length 4, offset 8 | payload, padded to 8 |
    log area   ... 3rd lap ---->|head      tail|---- 2nd lap, live ----...     byte i: LSN mod size

An LSN is a position in an endless log, of which the log area shows one lap. A record holds when its
magic, position, epoch, lengths and checksum do; the checksum goes on from that of the record before
it, so that a chain cannot skip one. `scan` follows the chain from a checkpoint and finds what
recovery has to replay.

This is a second, independent reading of the format that the C core writes: tests compare the two,
and what looks at wrecked files uses it. Every length is bounded before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pmemheap.dataclass import dataclass, field
from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.format.layout import ARENA_BITS, Table
from pmemheap.native import crc32c
from pmemheap.native.constants import Format, OperationType, RecordKind, place, width
from pmemheap.units import GRANULE, align_up

__all__ = [
    "FIRST_LSN",
    "RECORD_ALIGN",
    "RECORD_HEADER",
    "WRITE_IS_HOME",
    "LogScan",
    "Operation",
    "OperationType",
    "Record",
    "RecordKind",
    "decode",
    "encode",
    "epoch_of",
    "newest_chain",
    "scan",
    "survivors",
]

MAGIC = Format.LOG_MAGIC
FIRST_LSN = Format.LOG_FIRST
WRITE_IS_HOME = Format.WRITE_IS_HOME
"""Flag of a WRITE whose bytes are home already when it is appended; recovery stores them anyway."""

RECORD_HEADER = width("ph_record")
RECORD_ALIGN = Format.LOG_ALIGN

_HEADER = struct.Struct("<IIQQQQQIIIHBB")
_OPERATION = struct.Struct("<BBHIQ")
_CHECKED_FROM = place("ph_record", "lsn")
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_UINT64 = 1 << 64
_BITS = 64


@dataclass(frozen=True)
class Operation:
    """One operation: `payload` are its bytes, or the length of a range as 8 bytes (FRESH: 16).

    Examples
    --------
    >>> Operation.fresh(4096, 100).range
    (4096, 4196)
    """

    type: OperationType
    off: int
    payload: bytes
    flags: int = 0

    @classmethod
    def meta(cls, table: Table, off: int, words: bytes) -> Operation:
        """Let words of a table become `words`."""
        return cls(OperationType.META, off, words, table)

    @classmethod
    def write(cls, off: int, data: bytes) -> Operation:
        """Let bytes at a heap offset become `data`."""
        return cls(OperationType.WRITE, off, data)

    @classmethod
    def old(cls, off: int, data: bytes) -> Operation:
        """Keep bytes at a heap offset as they were before they are changed in place."""
        return cls(OperationType.OLD, off, data)

    @classmethod
    def fresh(cls, off: int, nbytes: int) -> Operation:
        """Name a range that holds committed data already."""
        return cls(OperationType.FRESH, off, struct.pack("<QQ", nbytes, 0))

    @classmethod
    def free(cls, off: int, nbytes: int) -> Operation:
        """Name a range that is garbage from here on."""
        return cls(OperationType.FREE, off, struct.pack("<Q", nbytes))

    @property
    def nbytes(self) -> int:
        """Bytes of the range that it speaks of."""
        if self.type in {OperationType.FRESH, OperationType.FREE}:
            return struct.unpack_from("<Q", self.payload)[0]  # type: ignore[no-any-return]
        return len(self.payload)

    @property
    def range(self) -> tuple[int, int]:
        """First offset, and the one behind the last."""
        return self.off, self.off + self.nbytes

    @property
    def length_in_log(self) -> int:
        """Bytes of it in a record."""
        return _OPERATION.size + align_up(len(self.payload), 8)

    def refusal(self) -> str | None:
        """Return what is wrong with it, or None."""
        length = len(self.payload)
        if self.type == OperationType.META:
            if length == 0 or length % 8 or self.off % 8 or self.flags not in set(Table):
                return f"META of {length} bytes at {self.off:#x} in table {self.flags}"
        elif self.flags & ~(WRITE_IS_HOME if self.type == OperationType.WRITE else 0):
            return f"{self.type.name} with flags {self.flags:#x}"
        elif self.type == OperationType.FRESH and (length != 16 or any(self.payload[8:])):
            return f"FRESH with a payload of {self.payload.hex()}"
        elif self.type == OperationType.FREE and length != 8:
            return f"FREE with a payload of {length} bytes"
        if self.off + self.nbytes > _UINT64:
            return f"{self.type.name} of {self.nbytes} bytes at {self.off:#x}"
        return None


@dataclass(frozen=True)
class Record:
    """One record; `prev_crc` and `crc` are the checksums of the record before it and its own.

    Attributes
    ----------
    lsn : int
        Where it begins in the endless log.
    durable_lsn : int
        End of what was known to be durable when it was built.
    file_end : int
        Length of file that this and all earlier records need; 0 in a WORD: that of the one before.
    """

    kind: RecordKind
    lsn: int
    epoch: int
    durable_lsn: int
    file_end: int
    txid: int
    ops: tuple[Operation, ...] = ()
    prev_crc: int = 0
    crc: int = field(default=0, compare=False)

    @property
    def total_len(self) -> int:
        """Bytes of it in the log."""
        if self.kind == RecordKind.WORD:
            return RECORD_HEADER
        body = sum(operation.length_in_log for operation in self.ops)
        return align_up(RECORD_HEADER + body, RECORD_ALIGN)

    @property
    def end(self) -> int:
        """LSN behind it."""
        return self.lsn + self.total_len


def encode(record: Record, prev_crc: int) -> bytes:
    """Return the bytes of a record that follows one whose checksum is `prev_crc`.

    Raises
    ------
    UsageError
        A field or an operation cannot be what it says.
    """
    if record.lsn % RECORD_ALIGN or record.lsn < FIRST_LSN:
        raise UsageError(f"record: an LSN of 64 n expected, {record.lsn} found")
    for operation in record.ops:
        refusal = operation.refusal()
        if refusal is not None:
            raise UsageError(f"record at LSN {record.lsn}: {refusal}")
    image = bytearray(record.total_len)
    is_word = record.kind == RecordKind.WORD
    file_end, off, count, bit = _word_fields(record) if is_word else (record.file_end, 0, 0, 0)
    try:
        _HEADER.pack_into(
            image, 0, MAGIC, 0, record.lsn, record.epoch, record.durable_lsn, file_end, off,
            record.total_len, prev_crc, record.txid, count if is_word else len(record.ops),
            record.kind, bit,
        )  # fmt: skip
        at = RECORD_HEADER
        for operation in () if is_word else record.ops:
            _pack_operation(image, at, operation)
            at += operation.length_in_log
    except struct.error as error:
        raise UsageError(f"record at LSN {record.lsn}: {error}") from None
    struct.pack_into("<I", image, 4, crc32c(image[_CHECKED_FROM:], prev_crc))
    return bytes(image)


def _word_fields(record: Record) -> tuple[int, int, int, int]:
    """Return what a WORD has in the places of file end, zero, number of operations and last byte.

    Raises
    ------
    UsageError
        The operations are not one word of the bits table, and perhaps one free of a block in it.
    """
    meta, *rest = record.ops
    free = rest[0] if rest else None
    sound = meta.type == OperationType.META and meta.flags == Table.BITS and len(meta.payload) == 8
    if not sound or len(rest) > 1 or (free is not None and free.type != OperationType.FREE):
        raise UsageError(f"record at LSN {record.lsn}: one word of the bits expected in a WORD")
    image = int.from_bytes(meta.payload, "little")
    if free is None:
        return image, meta.off, 0, 0
    return image, meta.off, free.nbytes // GRANULE, free.off // GRANULE % _BITS


def _word_operations(off: int, image: int, granules: int, bit: int) -> tuple[Operation, ...]:
    """Return what a WORD does, as operations of other records say it."""
    meta = Operation.meta(Table.BITS, off, image.to_bytes(8, "little"))
    if granules == 0:
        return (meta,)
    arena = off >> ARENA_BITS
    granule = (off - (arena << ARENA_BITS)) // 8 * _BITS + bit
    return meta, Operation.free(arena << ARENA_BITS | granule * GRANULE, granules * GRANULE)


def _pack_operation(image: bytearray, at: int, operation: Operation) -> None:
    _OPERATION.pack_into(
        image, at, operation.type, operation.flags, 0, len(operation.payload), operation.off
    )
    at += _OPERATION.size
    image[at : at + len(operation.payload)] = operation.payload


def epoch_of(header: bytes) -> int:
    """Return the epoch that the header of a record names; 0 if it is none."""
    if len(header) < RECORD_HEADER:
        return 0
    magic, _, _, epoch, *_ = _HEADER.unpack_from(header)
    return epoch if magic == MAGIC else 0


def decode(image: bytes) -> Record:
    """Read a record from the beginning of `image`, which may go on behind it.

    Whether it belongs where it lies is not asked: `scan` does.

    Raises
    ------
    CorruptHeapError
        Magic, a length, an operation or the checksum is wrong.
    """
    if len(image) < RECORD_HEADER:
        raise _damaged("header", RECORD_HEADER, len(image))
    (magic, crc, lsn, epoch, durable, file_end, zero, total, prev_crc, txid, nops, kind,
     zero_byte) = _HEADER.unpack_from(image)  # fmt: skip
    if magic != MAGIC:
        raise _damaged("magic", f"{MAGIC:#x}", f"{magic:#x}")
    if total < RECORD_HEADER or total % RECORD_ALIGN or total > len(image):
        raise _damaged("length", f"64 n up to {len(image)}", total)
    found = crc32c(image[_CHECKED_FROM:total], prev_crc)
    if crc != found:
        raise _damaged("crc32c", f"{found:#010x}", f"{crc:#010x}")
    if kind == RecordKind.WORD and zero % 8 == 0 and zero_byte < _BITS and lsn % RECORD_ALIGN == 0:
        ops, file_end = _word_operations(zero, file_end, nops, zero_byte), 0
    elif kind not in set(RecordKind) or zero or zero_byte or lsn % RECORD_ALIGN:
        raise _damaged("kind, LSN and zeros", "1 to 3, 64 n, 0", (kind, lsn, zero, zero_byte))
    else:
        ops = tuple(_operations(image, total, nops))
    made = Record(
        RecordKind(kind), lsn, epoch, durable, file_end, txid, ops, prev_crc=prev_crc, crc=crc
    )
    if made.total_len != total:
        raise _damaged("length", made.total_len, total)
    return made


def _operations(image: bytes, total: int, count: int) -> Iterator[Operation]:
    at = RECORD_HEADER
    for _ in range(count):
        if total - at < _OPERATION.size:
            raise _damaged("operations", f"{count} inside {total} bytes", f"one at {at}")
        kind, flags, zero, length, off = _OPERATION.unpack_from(image, at)
        at += _OPERATION.size
        if kind not in set(OperationType) or zero or align_up(length, 8) > total - at:
            raise _damaged("operation", "a known one inside the record", (kind, zero, length))
        operation = Operation(OperationType(kind), off, bytes(image[at : at + length]), flags)
        refusal = operation.refusal()
        if refusal is not None:
            raise _damaged("operation", "a possible one", refusal)
        yield operation
        at += align_up(length, 8)


def _damaged(what: str, expected: object, found: object) -> CorruptHeapError:
    return CorruptHeapError(f"log record: {what}: {expected} expected, {found} found")


# ---------------------------------------------------------------- the log area


@dataclass(frozen=True)
class LogScan:
    """The content of a log from a checkpoint on.

    Attributes
    ----------
    records : tuple of Record
        The accepted ones, in order.
    end_lsn : int
        LSN behind the last of them, S.
    seed : int
        Checksum of the last of them, from which the next one goes on.
    lost : tuple of Record
        Records behind a gap that prove that acknowledged work is damaged.
    """

    records: tuple[Record, ...]
    end_lsn: int
    seed: int
    lost: tuple[Record, ...]

    @property
    def file_end(self) -> int | None:
        """Length of file that the accepted records need; None if none of them says."""
        return next((each.file_end for each in reversed(self.records) if each.file_end), None)


def scan(log: bytes, log_size: int, tail_lsn: int, chain_seed: int, epoch: int) -> LogScan:
    """Follow the chain of records from the tail.

    Parameters
    ----------
    log : bytes
        The log area; what is missing of `log_size` bytes counts as zeros.
    tail_lsn, chain_seed, epoch : int
        As the superblock has them.
    """
    records: list[Record] = []
    reached, seed = tail_lsn, chain_seed
    while log_size >= RECORD_HEADER and reached - tail_lsn < log_size:
        record = _record_at(log, log_size, reached)
        if record is None or record.prev_crc != seed or record.epoch != epoch:
            break
        if record.end - tail_lsn > log_size:
            break
        records.append(record)
        reached, seed = record.end, record.crc
    lost = tuple(
        record
        for record in survivors(log, log_size)
        if record.durable_lsn > reached or record.epoch >> 32 > epoch >> 32
    )
    return LogScan(tuple(records), reached, seed, lost)


def survivors(log: bytes, log_size: int) -> Iterator[Record]:
    """Yield every record of a log area that holds by itself, by its place, whatever lies around."""
    at = log.find(_MAGIC_BYTES) if log_size >= RECORD_HEADER else -1
    while at >= 0:
        if at % RECORD_ALIGN == 0 and at < log_size:
            lsn = int.from_bytes(log[at + 8 : at + 16], "little")
            if lsn >= FIRST_LSN and lsn % log_size == at:
                record = _record_at(log, log_size, lsn)
                if record is not None:
                    yield record
        at = log.find(_MAGIC_BYTES, at + 1)


def newest_chain(log: bytes, log_size: int) -> tuple[Record, ...]:
    """Return the longest chain of records that ends with the newest one of the newest epoch.

    It is what can be replayed when no superblock says where the tail is.
    """
    found = list(survivors(log, log_size))
    if not found:
        return ()
    epoch = max(record.epoch for record in found)
    by_end = {record.end: record for record in found if record.epoch == epoch}
    newest = by_end[max(by_end)]
    chain = [newest]
    while (before := by_end.get(chain[-1].lsn)) is not None and before.crc == chain[-1].prev_crc:
        if newest.end - before.lsn > log_size:
            break
        chain.append(before)
    return tuple(reversed(chain))


def _record_at(log: bytes, log_size: int, lsn: int) -> Record | None:
    """Return the record with this LSN [R11, R12], or None; its bytes may wrap around."""
    header = _wrapped(log, log_size, lsn, RECORD_HEADER)
    magic, _, own_lsn, _, _, _, _, total, *_ = _HEADER.unpack(header)
    if magic != MAGIC or own_lsn != lsn:
        return None
    if total < RECORD_HEADER or total % RECORD_ALIGN or total > log_size:
        return None
    try:
        return decode(_wrapped(log, log_size, lsn, total))
    except CorruptHeapError:
        return None


def _wrapped(log: bytes, log_size: int, lsn: int, length: int) -> bytes:
    """Return `length` bytes from an LSN on, at most one lap; zeros for what the log lacks."""
    at = lsn % log_size
    first = log[at : min(at + length, log_size)].ljust(min(length, log_size - at), b"\0")
    rest = length - len(first)
    return bytes(first + log[:rest].ljust(rest, b"\0"))
