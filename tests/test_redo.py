"""The log in the file: read by a decoder of its own, which knows what was done."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path

import pytest
from file_looks import medium_of
from heap_world import redo_of

from pmemheap import Heap, native
from pmemheap.format.records import OperationType, Record, RecordKind, scan
from pmemheap.layout import Table
from pmemheap.testing import copy_as_crashed
from pmemheap.units import KiB, MiB

KINDS = ["process", "power"]


def log_of(heap: Heap) -> bytes:
    """Return the bytes of the log, as the file has them."""
    superblock = medium_of(heap).header.superblock
    with Path(heap.name).open("rb") as file:
        file.seek(superblock.log_off)
        return file.read(superblock.log_size)


def records(heap: Heap) -> tuple[Record, ...]:
    """Return the records from the tail on."""
    one = medium_of(heap).header.superblock
    found = scan(log_of(heap), one.log_size, one.tail_lsn, one.chain_seed, one.epoch)
    return tuple(found.records)


@pytest.fixture(params=KINDS)
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Heap:
    return Heap.create(tmp_path / "data.heap", durability=request.param, decay=None)


def test_a_record_says_what_the_transaction_did(heap: Heap) -> None:
    with heap:
        old, gone = heap.malloc(100), heap.malloc(5000)
        heap.sync()
        heap._space.serve(redo_of(heap).checkpoint)
        with heap.transaction() as tx:
            tx.write(old + 3, b"hello")
            tx.free(gone)
            tx.roots["old"] = old
        (record,) = records(heap)
        assert record.kind == RecordKind.COMMIT
        written = [each for each in record.ops if each.type == OperationType.WRITE]
        freed = [each for each in record.ops if each.type == OperationType.FREE]
        tables = {each.flags for each in record.ops if each.type == OperationType.META}
        assert [(each.off, bytes(each.payload)) for each in written] == [(old + 3, b"hello")]
        assert [each.off for each in freed] == [gone]
        assert Table.ROOTS in tables


def test_an_open_snapshot_holds_the_tail(heap: Heap) -> None:
    with heap:
        block = heap.malloc(100)
        heap._space.serve(redo_of(heap).checkpoint)
        tx = heap.transaction()
        tx.snapshot(block, 10)
        undo = heap._space.shared.log.positions()[4]
        for _ in range(10):
            heap.malloc(MiB)
        heap._space.serve(redo_of(heap).checkpoint)
        assert heap._space.shared.log.positions()[0] <= undo
        assert records(heap)[0].kind == RecordKind.UNDO
        tx.abort()
        heap._space.serve(redo_of(heap).checkpoint)
        assert records(heap) == ()


def test_the_log_goes_round(heap: Heap) -> None:
    with heap:
        block = heap.malloc(1000)
        size = redo_of(heap).size
        for turn in range(3 * size // 1000):
            with heap.transaction(durable=False) as tx:
                tx.write(block, turn.to_bytes(4, "little") * 250)
        assert heap._space.shared.log.positions()[3] > size
        assert redo_of(heap).checkpoints
        last = records(heap)[-1]
        assert last.lsn + last.total_len == heap._space.shared.log.positions()[3]
        expected = bytes(heap.view(block))
        copy_as_crashed(heap.name, f"{heap.name}.killed")
        with Heap.open(f"{heap.name}.killed") as killed:
            assert bytes(killed.view(block)) == expected


def test_a_log_grows_with_what_is_in_the_file(heap: Heap) -> None:
    """Beside little data it stays short, however much is changed; beside more it gets longer."""
    with heap:
        power = heap.durability == "power"
        for nbytes, most in ((64 * KiB, 2 * MiB), (30 * MiB, 16 * MiB)):
            heap.malloc(nbytes)
            for _ in range(100_000):
                heap.free(heap.malloc(100))
            assert redo_of(heap).size <= (most if power else MiB)
        assert not power or redo_of(heap).size > 4 * MiB
        assert heap.check()


def test_trim_makes_a_large_log_small_again(heap: Heap) -> None:
    with heap:
        block = heap.malloc(2 * MiB)
        with heap.transaction() as tx:
            tx.write(block, b"x" * (2 * MiB))
        large = redo_of(heap).size
        heap.free(block)
        heap.trim()
        assert redo_of(heap).size < large
        assert heap.check()


@pytest.mark.parametrize("seed", range(20))
def test_both_scans_agree_on_damage(heap: Heap, seed: int) -> None:
    chance = random.Random(seed)
    with heap:
        blocks = [heap.malloc(100) for _ in range(5)]
        for turn in range(20):
            with heap.transaction(durable=False) as tx:
                tx.write(blocks[turn % 5], bytes([turn]) * chance.randrange(1, 100))
                tx.malloc(16)
        one, log = medium_of(heap).header.superblock, bytearray(log_of(heap))
        live = heap._space.shared.log.positions()[3] - one.tail_lsn
        assert live < 64 * KiB
        for _ in range(50):
            damaged = bytearray(log)
            at = (one.tail_lsn + chance.randrange(live)) % one.log_size
            damaged[at] ^= 1 << chance.randrange(8)
            buffer = ctypes.create_string_buffer(bytes(damaged))
            end, _, count, *_ = native.LogCore().scan(
                ctypes.addressof(buffer), one.log_size, one.tail_lsn, one.chain_seed, one.epoch
            )
            found = scan(bytes(damaged), one.log_size, one.tail_lsn, one.chain_seed, one.epoch)
            assert (end, count) == (found.end_lsn, len(found.records))
