from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import pytest
from fuzz_api import fuzz
from heap_world import named

from pmemheap import Heap, UsageError
from pmemheap.heap.transaction import Transaction

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
SECONDS = 12 if IN_CI else 8


@pytest.mark.slow
def test_random_calls_with_hostile_arguments_never_crash_the_interpreter() -> None:
    """Ten minutes by hand: ``make fuzz``."""
    well, report = fuzz(SECONDS, seed="ci")
    assert well, report


def test_a_transaction_that_is_dropped_is_nobody_s_outer_one() -> None:
    """The callbacks of its weak references run while it goes: it was handed out again."""
    with Heap.anonymous() as heap:
        begun: list[Any] = []
        transaction = heap.transaction()
        transaction.malloc(10)
        watch = weakref.ref(transaction, lambda _: begun.append(heap.transaction()))
        del transaction
        assert watch() is None
        assert isinstance(begun[0], Transaction)
        begun.pop().abort()
        assert heap.check()


@pytest.mark.parametrize("medium", ["anonymous", "process", "power"])
def test_a_heap_can_be_closed_while_one_of_its_transactions_is_dropped(
    tmp_path: Path, medium: str
) -> None:
    """It was aborted after its blocks had been unmapped."""
    anonymous = medium == "anonymous"
    heap = (
        Heap.anonymous() if anonymous else Heap.create(tmp_path / "heap", durability=named(medium))
    )
    transaction = heap.transaction()
    for size in (100, 70_000):
        transaction.malloc(size)
    watch = weakref.ref(transaction, lambda _: heap.close())
    del transaction
    assert watch() is None
    assert heap.closed


def test_a_transaction_that_was_never_begun_is_refused() -> None:
    transaction = Transaction.__new__(Transaction)
    for call in (
        transaction.commit,
        transaction.abort,
        lambda: transaction.__exit__(None, None, None),
    ):
        with pytest.raises(UsageError):
            call()


@pytest.mark.parametrize("medium", ["anonymous", "process", "power"])
def test_what_was_collected_for_a_block_goes_when_the_block_is_freed_again(
    tmp_path: Path, medium: str
) -> None:
    """It was stored over the next owner of the same bytes."""
    path = tmp_path / "heap"
    anonymous = medium == "anonymous"
    heap = Heap.anonymous() if anonymous else Heap.create(path, durability=named(medium))
    with heap:
        transaction = heap.transaction()
        block = transaction.malloc(100)
        with heap.transaction() as savepoint:
            savepoint.write(block, b"collected")
            savepoint.snapshot(block, 9)
        transaction.free(block)
        taken = [transaction.malloc(100) for _ in range(2000)]
        for offset in taken:
            transaction.write(offset, b"its owner")
        transaction.commit()
        assert all(bytes(heap.view(offset, 9)) == b"its owner" for offset in taken)
        assert heap.check()


@pytest.mark.unsanitized
def test_a_batch_that_is_too_large_for_memory_leaves_no_trace(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A bytearray that CPython drops half made has exports by chance, and said so."""
    with Heap.anonymous() as heap:
        for _ in range(20):
            junk = [bytes([17]) * (22 + number % 2) for number in range(50)]
            del junk
            with pytest.raises(MemoryError):
                heap.malloc_many(16, 1 << 57)
    assert capfd.readouterr().err == ""
