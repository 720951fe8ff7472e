"""A call resolves an offset to its block once, and passes the block on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pmemheap import DurabilityName, Heap, native
from pmemheap.containers import SortedMap
from pmemheap.heap.transaction import Transaction
from pmemheap.units import KiB

pytestmark = pytest.mark.checked

SIZES = [100, 300 * KiB]
KEPT: list[memoryview] = []  # a view resolves its block again when it goes


def resolved(act: Callable[[], object]) -> int:
    """Return how many offsets were resolved."""
    before = native.resolutions()
    act()
    return native.resolutions() - before


BARE: dict[str, Callable[[Heap, int], object]] = {
    "free": lambda heap, block: heap.free(block),
    "free deferred": lambda heap, block: heap.free(block, deferred=True),
    "usable_size": lambda heap, block: heap.usable_size(block),
    "expand": lambda heap, block: heap.expand(block, heap.usable_size(block)),
    "realloc": lambda heap, block: heap.realloc(block, heap.usable_size(block)),
    "view": lambda heap, block: KEPT.append(heap.view(block, 8)),
}
IN_TRANSACTIONS: dict[str, Callable[[Transaction, int], object]] = {
    "write": lambda tx, block: tx.write(block, b"bytes"),
    "write inside": lambda tx, block: tx.write(block + 16, b"bytes"),
    "snapshot": lambda tx, block: tx.snapshot(block, 8),
    "free": lambda tx, block: tx.free(block),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("name", BARE)
def test_a_bare_call(name: str, durability: DurabilityName, size: int, tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        block = heap.malloc(size)
        calls = 2 if name in ("expand", "realloc") else 1  # the test asks for the size
        assert resolved(lambda: BARE[name](heap, block)) == calls
        KEPT.clear()


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("name", IN_TRANSACTIONS)
def test_a_call_in_a_transaction(
    name: str, durability: DurabilityName, size: int, is_new: bool, tmp_path: Path
) -> None:
    with Heap.create(tmp_path / "heap", durability=durability, decay=None) as heap:
        block = heap.malloc(size)
        with heap.transaction() as tx:
            block = tx.malloc(size) if is_new else block
            assert resolved(lambda: IN_TRANSACTIONS[name](tx, block)) == 1


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("is_new", [False, True])
def test_keys_that_come_in_order(durability: DurabilityName, is_new: bool, tmp_path: Path) -> None:
    """Only the leaf is resolved: a key that is searched for resolves the header as well."""

    def put(numbers: Iterable[int]) -> None:
        for number in numbers:
            made[b"%03d" % number] = b"value"

    with Heap.create(tmp_path / "heap", durability=durability) as heap:
        made = SortedMap(heap, "map")
        if not is_new:
            put(range(300, 310))
        with heap.transaction():
            put(range(310, 320))
            assert resolved(lambda: put(range(320, 340))) == 20
            assert resolved(lambda: put(range(299, 279, -1))) > 20
