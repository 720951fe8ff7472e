"""Scans of a map that changes meanwhile: what is given is there when its turn comes."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pmemheap import Heap
from pmemheap.containers import SortedMap
from pmemheap.errors import UsageError

N = 600


class GivenUpError(Exception):
    """Raised to abort a transaction."""


def key_of(number: int) -> bytes:
    return b"%06d" % number


@pytest.fixture(params=["anonymous", "process"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SortedMap]:
    """A map of `N` keys in some twenty leaves."""
    if request.param == "anonymous":
        space = Heap.anonymous()
    else:
        space = Heap.create(tmp_path / "heap", durability=request.param)
    with space as heap:
        found = SortedMap(heap, "map")
        found.put_many((key_of(number), b"old" * 20) for number in range(N))
        yield found


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def reverse(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def next_to(key: bytes, reverse: bool) -> bytes:
    return key_of(int(key) + (-1 if reverse else 1))


# ---------------------------------------------------------------- changes of the loop itself


def test_what_was_removed_is_not_given(made: SortedMap, reverse: bool) -> None:
    seen = []
    for key in made.keys(reverse=reverse):
        assert key in made
        seen.append(key)
        made.discard(next_to(key, reverse))
    assert len(seen) == N // 2
    assert set(seen) == set(made)
    made.check()


def test_what_was_replaced_is_given_as_it_is(made: SortedMap, reverse: bool) -> None:
    for key, value in made.items(reverse=reverse):
        assert made[key] == value
        if int(key) % 2 == 0:
            made[next_to(key, reverse)] = b"new" * (20 if int(key) % 4 else 900)
    for value in made.values(reverse=reverse):
        assert value.startswith((b"old", b"new"))
        made.put_many((key, b"newer") for key in list(made)[:: 50 if reverse else -50])


def test_what_is_added_further_on_is_given(made: SortedMap, reverse: bool) -> None:
    seen = []
    for key in made.keys(reverse=reverse):
        seen.append(key)
        if len(key) == 6 and int(key) % 10 == 0:
            made[key_of(int(key) + (-5 if reverse else 5)) + b"+"] = b"added"
    added = [key for key in seen if len(key) == 7]
    missed = 1 if reverse else 0  # that behind the last key of all
    assert len(added) == len([key for key in made if len(key) == 7]) - missed
    assert seen == sorted(seen, reverse=reverse)


def test_a_loop_that_adds_something_behind_each_key_ends(made: SortedMap) -> None:
    seen = 0
    for key in made:
        seen += 1
        made[key + b"x"] = b""
    assert seen == N
    assert len(made) == 2 * N


def test_everything_goes_in_the_middle(made: SortedMap, reverse: bool) -> None:
    scan = iter(made.items(reverse=reverse))
    next(scan)
    made.clear()
    assert list(scan) == []
    made[b"again"] = b""
    assert list(scan) == []


def test_values_grow_under_a_scan(made: SortedMap, reverse: bool) -> None:
    """Nodes split, and values move to blocks of their own."""
    seen = []
    for key, value in made.items(reverse=reverse):
        seen.append(key)
        made[key] = value * (40 if int(key) % 3 else 10)
    assert seen == sorted(map(key_of, range(N)), reverse=reverse)
    made.check()


@pytest.mark.parametrize("seed", range(4))
def test_what_stays_is_given_once_and_in_order(made: SortedMap, reverse: bool, seed: int) -> None:
    chance = random.Random(seed)
    stable = {key_of(number) for number in range(0, N, 3)}
    seen = []
    for key in made.keys(b"000010", b"000590", reverse=reverse):
        assert key in made
        seen.append(key)
        for _ in range(3):
            other = key_of(chance.randrange(N))
            if other in stable or chance.random() < 0.4:
                made[other] = bytes(chance.randrange(1500))
            else:
                made.discard(other)
    assert seen == sorted(set(seen), reverse=reverse)
    expected = {key for key in stable if b"000010" <= key < b"000590"}
    assert stable & set(seen) == expected
    made.check()


# ---------------------------------------------------------------- transactions, threads


def test_a_transaction_begins_and_is_aborted_in_the_middle(made: SortedMap) -> None:
    scan = iter(made.keys())
    assert next(scan) == key_of(0)
    with suppress(GivenUpError), made.heap.transaction():
        del made[key_of(1)]
        made[key_of(2) + b"t"] = b""
        assert [next(scan), next(scan)] == [key_of(2), key_of(2) + b"t"]
        with suppress(GivenUpError), made.heap.transaction():
            made.clear()
            raise GivenUpError
        assert next(scan) == key_of(3)
        del made[key_of(4)]
        raise GivenUpError
    assert list(scan) == [key_of(number) for number in range(4, N)]


def test_a_scan_goes_on_after_the_commit(made: SortedMap) -> None:
    with made.heap.transaction():
        scan = iter(made.keys())
        made[b"0"] = b""
        assert next(scan) == b"0"
        made.put_many((key_of(number), bytes(900)) for number in range(0, N, 2))
        assert next(scan) == key_of(0)
    assert list(scan) == [key_of(number) for number in range(1, N)]


def test_what_another_object_and_another_thread_change_is_seen(made: SortedMap) -> None:
    other = SortedMap(made.heap, "map")
    scan = iter(made.items())
    next(scan)
    del other[key_of(1)]
    assert next(scan)[0] == key_of(2)

    def change() -> None:
        other[key_of(3)] = b"new"
        del other[key_of(4)]

    thread = threading.Thread(target=change)
    thread.start()
    thread.join()
    assert next(scan) == (key_of(3), b"new")
    assert next(scan)[0] == key_of(5)


def test_an_uncommitted_change_of_another_thread_is_not_seen(heap: Heap) -> None:
    made = SortedMap(heap, "map")
    made.put_many((key_of(number), b"old") for number in range(N))
    scan, ready, seen = iter(made.items()), threading.Event(), threading.Event()
    next(scan)

    def change() -> None:
        with suppress(GivenUpError), made.heap.transaction():
            made.clear()
            ready.set()
            seen.wait()
            raise GivenUpError

    thread = threading.Thread(target=change)
    thread.start()
    ready.wait()
    assert len(list(scan)) == N - 1
    seen.set()
    thread.join()


@pytest.mark.slow
def test_scans_beside_a_thread_that_changes_everything(made: SortedMap) -> None:
    """Each entry that stays is given, and each value is one that its key had."""
    stop = threading.Event()
    failures: list[object] = []
    stable = [key_of(number) for number in range(0, N, 5)]

    def change() -> None:
        chance = random.Random(1)
        while not stop.is_set():
            key = key_of(chance.randrange(N))
            if int(key) % 5 == 0 or chance.random() < 0.5:
                made[key] = key * chance.choice((1, 3, 400))
            else:
                made.discard(key)

    def look(reverse: bool) -> None:
        for _ in range(25):
            found = list(made.items(reverse=reverse))
            keys = [key for key, _ in found]
            if keys != sorted(set(keys), reverse=reverse) or not set(stable) <= set(keys):
                failures.append(keys)
            failures.extend(
                key for key, value in found if value.strip(key) and value != b"old" * 20
            )

    writer = threading.Thread(target=change)
    readers = [threading.Thread(target=look, args=(reverse,)) for reverse in (False, True)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    writer.join()
    assert failures == []
    made.check()


# ---------------------------------------------------------------- ends, bounds, errors


def scans_of(made: SortedMap) -> list[Iterator[Any]]:
    views = [made.keys(), made.values(), made.keys(b"0", b"1", reverse=True), made.items(b"000010")]
    return [iter(made), reversed(made), *map(iter, views), *map(reversed, views)]


def test_a_scan_of_a_heap_that_was_closed_meanwhile(tmp_path: Path) -> None:
    with Heap.create(tmp_path / "heap") as heap:
        made = SortedMap(heap, "map")
        made.update({key_of(number): b"" for number in range(99)})
        scans = scans_of(made)
        for scan in scans[::2]:
            next(scan)
    for scan in scans:
        for _ in range(2):
            with pytest.raises(UsageError, match="closed"):
                next(scan)


def test_a_scan_of_a_map_that_was_dropped_meanwhile(made: SortedMap) -> None:
    scan = iter(made.keys())
    next(scan)
    made.drop()
    with pytest.raises(UsageError, match="dropped"):
        next(scan)


def test_a_scan_that_has_ended_stays_at_its_end(made: SortedMap) -> None:
    scan = iter(made.keys(key_of(N - 2)))
    assert list(scan) == [key_of(N - 2), key_of(N - 1)]
    made[key_of(N)] = b""
    assert list(scan) == []
    empty = iter(made.keys(b"7"))
    assert list(empty) == []
    made[b"8"] = b""
    assert list(empty) == []


def test_scan_gives_the_first_entries_at_once(made: SortedMap) -> None:
    assert made.scan(key_of(5), 3) == [(key_of(n), b"old" * 20) for n in (5, 6, 7)]
    assert made.scan(None, 0) == []
    assert len(made.scan(count=10 * N)) == N
    with pytest.raises(UsageError, match="count from 0 on expected, -1 found"):
        made.scan(None, -1)


ROW = 256
"""Entries that `scan` reads in one step."""


@pytest.mark.parametrize("count", [ROW - 1, ROW, ROW + 1, 2 * ROW, N - 1, N])
def test_scan_goes_from_row_to_row(made: SortedMap, count: int) -> None:
    expected = dict(made.items())
    for number in (ROW - 1, ROW, 2 * ROW - 1, 2 * ROW):
        expected[key_of(number)] = made[key_of(number)] = b"long" * 700
    assert dict(made.scan(count=count)) == dict(list(expected.items())[:count])
    with suppress(GivenUpError), made.heap.transaction():
        for number in range(0, N, 3):
            del made[key_of(number)]
        left = [entry for entry in expected.items() if int(entry[0]) % 3]
        assert made.scan(count=count) == left[:count]
        raise GivenUpError
    assert made.scan(count=count) == list(expected.items())[:count]


@pytest.mark.parametrize("first", [0, 1, ROW - 1, ROW, ROW + 1, 2 * ROW])
def test_scan_meets_the_first_long_value_of_a_heap_just_opened(tmp_path: Path, first: int) -> None:
    entries = [(key_of(n), b"short" if n < first else b"long" * 700) for n in range(N)]
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        SortedMap(heap, "map").put_many(entries)
    with Heap.open(tmp_path / "heap") as heap:
        assert SortedMap(heap, "map").scan(count=N) == entries


@pytest.mark.parametrize("bound", ["text", 5, [b"1"]])
def test_a_bound_that_is_no_bytes_is_refused_at_once(made: SortedMap, bound: Any) -> None:
    with pytest.raises(TypeError, match="start: bytes expected"):
        iter(made.keys(bound))
    with pytest.raises(TypeError, match="stop: bytes expected"):
        iter(made.items(b"", bound))


def test_bounds_are_copied(made: SortedMap) -> None:
    low, high = bytearray(key_of(5)), bytearray(key_of(7))
    scan = iter(made.keys(low, memoryview(high)))  # type: ignore[arg-type]
    low[:], high[:] = b"9" * 6, b"0" * 6
    assert list(scan) == [key_of(5), key_of(6)]


def test_a_scan_keeps_its_map_and_both_go(memory: Heap) -> None:
    made = SortedMap(memory, "map")
    made[b"a"] = b"1"
    scan = iter(made.items())
    gone = weakref.ref(made)
    del made
    assert next(scan) == (b"a", b"1")
    del scan
    gc.collect()
    assert gone() is None


def test_a_map_in_a_circle_goes(memory: Heap) -> None:
    made = SortedMap(memory, "map")
    made[b"a"] = b"1"
    made._skip = made.__contains__
    made.scan_of_itself = iter(made)  # type: ignore[attr-defined]
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


def test_a_reader_scans_long_values_of_a_heap_that_was_just_opened(tmp_path: Path) -> None:
    """Opening maps the data alone; that a long value has a block is asked of the tables."""
    with Heap.create(tmp_path / "heap", durability="process") as heap:
        made = SortedMap(heap, "map")
        made.update({key_of(number): bytes([number]) * 3000 for number in range(50)})
    for readonly in (False, True):
        with Heap.open(tmp_path / "heap", readonly=readonly) as heap:
            made = SortedMap(heap, "map")
            assert list(made) == [key_of(number) for number in range(50)]
            assert [len(value) for value in made.values()] == [3000] * 50
        with Heap.open(tmp_path / "heap", readonly=readonly) as heap:
            assert SortedMap(heap, "map")[key_of(7)] == bytes([7]) * 3000
