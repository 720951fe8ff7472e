"""Views of values beside transactions and threads that replace, remove and patch them.

A view keeps its bytes until it is released, whenever it was taken: before a change, between the
change and its commit, or while the commit waits for its sync. A map that is healthy is never called
damaged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pmemheap import Heap
from pmemheap.containers import SortedMap
from pmemheap.errors import CorruptHeapError

Change = Callable[[SortedMap], None]


def put(*lengths: int) -> Change:
    """Give the key values of other bytes, one after the other; 0: as long as the one before."""

    def change(made: SortedMap) -> None:
        for byte, length in enumerate(lengths, 2):
            made[b"key"] = b"%d" % byte * (length or len(made[b"key"]))

    return change


def there_and_back(made: SortedMap) -> None:
    for byte in b"212":
        made[b"key"] = bytes([byte]) * len(made[b"key"])


CHANGES: dict[str, Change] = {
    "same length": put(0),
    "longer": put(101, 5001),
    "apart": put(9000),
    "twice": put(0, 0),
    "there and back": there_and_back,
    "removed": lambda made: made.__delitem__(b"key"),
    "cleared": SortedMap.clear,
}
"""What happens to a value of ones."""


def filled(heap: Heap, size: int) -> SortedMap:
    made = SortedMap(heap, "map")
    made.put_many((b"%03d" % number, b"n" * 90) for number in range(50))
    made[b"key"] = b"1" * size
    return made


def churn(made: SortedMap) -> None:
    """Use the space of what was freed."""
    for number in range(60):
        made[b"new %d" % number] = b"3" * 100
        made[b"long %d" % number] = b"3" * 3000


def viewed_by_another_thread(made: SortedMap) -> memoryview:
    found: list[memoryview] = []
    thread = threading.Thread(target=lambda: found.append(made.view(b"key")))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("size", [100, 5000])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_view_that_is_taken_between_a_change_and_its_commit(
    heap: Heap, size: int, change: Change
) -> None:
    made = filled(heap, size)
    with heap.transaction():
        change(made)
        view = viewed_by_another_thread(made)
        assert bytes(view) == b"1" * size
    assert bytes(view) == b"1" * size
    churn(made)
    heap.sync()
    churn(made)
    assert bytes(view) == b"1" * size
    view.release()
    made.check()
    assert heap.check()


@pytest.mark.parametrize("size", [100, 5000])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_view_of_the_same_transaction(heap: Heap, size: int, change: Change) -> None:
    made = filled(heap, size)
    with heap.transaction():
        before = made.view(b"key")
        change(made)
        after = made.view(b"key") if b"key" in made else memoryview(b"")
        expected = bytes(after)
        assert bytes(before) == b"1" * size
        made[b"000"] = b"other"
        with suppress(KeyError):
            del made[b"001"]
    churn(made)
    assert (bytes(before), bytes(after)) == (b"1" * size, expected)


@pytest.mark.parametrize("size", [100, 5000])
def test_patch_shows_through_views_when_it_is_committed(heap: Heap, size: int) -> None:
    made = filled(heap, size)
    view = made.view(b"key")
    with heap.transaction():
        made.patch(b"key", 1, b"22")
        assert bytes(view[:4]) == b"1111"
    assert bytes(view[:4]) == b"1221"


def change_until(end: float, made: SortedMap) -> None:
    """Give a key values of one byte each: short ones, long ones, none."""
    number = 0
    while time.monotonic() < end:
        number += 1
        if number % 50 == 0:
            del made[b"key"]
        made[b"key"] = bytes([number % 250]) * (5000 if number % 3 == 0 else 100)


def look_until(end: float, made: SortedMap) -> Iterator[object]:
    """Yield what is wrong with views of this key."""
    while time.monotonic() < end:
        try:
            with made.view(b"key") as view:
                seen = bytes(view)
                time.sleep(0)
                if len(set(seen)) != 1 or bytes(view) != seen:
                    yield seen, bytes(view)
        except KeyError:
            continue
        except CorruptHeapError as error:
            yield error


def test_a_view_that_is_taken_while_a_commit_waits(tmp_path: Path) -> None:
    """A power heap appends its record, waits for the sync, and only then stores the bytes."""
    with Heap.create(tmp_path / "heap", durability="power") as heap:
        made = filled(heap, 100)
        failures: list[object] = []
        end = time.monotonic() + 0.7
        threads = [threading.Thread(target=change_until, args=(end, made))]
        threads += [
            threading.Thread(target=lambda: failures.extend(look_until(end, made)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        made.check()
        assert heap.check()
