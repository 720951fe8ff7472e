"""Several SortedMap objects over one root, in and out of transactions: there is one map."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from pmemheap import Heap
from pmemheap.containers import SortedMap, Vector
from pmemheap.errors import CorruptHeapError, UsageError


class GivenUpError(Exception):
    """Raised to abort a transaction."""


def in_thread(work: Callable[[], Any]) -> Any:
    """Return what another thread returns, or raise what it raises."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def calls_of(made: SortedMap) -> list[Callable[[], Any]]:
    """Return a call of each kind."""
    return [
        lambda: made[b"a"], lambda: made.get(b"a"), lambda: b"a" in made, lambda: len(made),
        lambda: list(made), lambda: made.view(b"a"), lambda: made.__setitem__(b"a", b"1"),
        lambda: made.__setitem__(b"a", bytes(5000)), lambda: made.discard(b"a"),
        lambda: made.patch(b"a", 0, b""), made.clear, made.compact, made.check, made.statistics,
        made.drop,
    ]  # fmt: skip


# ---------------------------------------------------------------- one truth


@pytest.mark.parametrize("seed", range(8))
def test_objects_that_take_turns_in_a_transaction(heap: Heap, seed: int) -> None:
    chance = random.Random(seed)
    maps = [SortedMap(heap, "map") for _ in range(3)]
    model: dict[bytes, bytes] = {}
    with heap.transaction():
        maps.append(SortedMap(heap, "map"))
        for _ in range(chance.choice((30, 300, 900))):
            made, key = chance.choice(maps), b"%03d" % chance.randrange(400)
            if chance.random() < 0.7:
                made[key] = model[key] = b"v" * chance.choice((5, 5, 200, 2000))
            else:
                assert made.discard(key) == (model.pop(key, None) is not None)
            other = chance.choice(maps)
            assert (other.get(key), len(other)) == (model.get(key), len(model))
        assert [dict(made) for made in maps] == [model] * 4
        maps[0].check()
    for made in maps:
        made.check()
        assert list(made.items()) == sorted(model.items())
    assert heap.check()


def test_a_rollback_is_seen_by_all(heap: Heap) -> None:
    one, other = SortedMap(heap, "map"), SortedMap(heap, "map")
    one.put_many((b"%03d" % number, bytes(50)) for number in range(100))
    with heap.transaction():
        one[b"kept"] = b"1"
        with suppress(GivenUpError), heap.transaction():
            other.put_many((b"%03d" % number, bytes(300)) for number in range(50, 150))
            assert len(one) == 151
            del one[b"kept"]
            raise GivenUpError
        assert len(one) == len(other) == 101
        other[b"also"] = one[b"kept"]
    assert len(one) == 102
    one.check()


def test_a_transaction_that_has_only_looked_sees_what_others_commit(heap: Heap) -> None:
    """What it had seen of the map must not be what its own change starts from."""
    made, other = SortedMap(heap, "map"), SortedMap(heap, "map")
    made[b"old"] = b"1"
    with heap.transaction():
        assert (len(made), made[b"old"]) == (1, b"1")
        in_thread(lambda: other.put_many((b"%04d" % number, bytes(99)) for number in range(500)))
        assert len(made) == 501
        made[b"mine"] = b"2"
    made.check()
    assert len(made) == 502


def test_bytes_that_the_program_writes_to_a_header_count(heap: Heap) -> None:
    """The images of nodes are a cache: a change that does not come from a map is seen as well."""
    made = SortedMap(heap, "map")
    made.put_many((b"%03d" % number, bytes(60)) for number in range(200))
    node = made._header()[0]
    with suppress(GivenUpError), heap.transaction() as tx:
        made[b"001"] = b"first"
        tx.write(node, b"\0\0\0\0")
        with pytest.raises(CorruptHeapError):
            made[b"001"]
        raise GivenUpError
    made.check()
    with heap.transaction() as tx:
        tx.write(heap.roots["map"] + 16, (300).to_bytes(8, "little"))
        assert len(made) == 300
        tx.write(heap.roots["map"] + 16, (200).to_bytes(8, "little"))
        made[b"one more"] = b""
        assert len(made) == 201
    made.check()


# ---------------------------------------------------------------- maps that are not there


def test_a_map_of_an_aborted_transaction_is_refused(heap: Heap) -> None:
    with suppress(GivenUpError), heap.transaction():
        made = SortedMap(heap, "map")
        made[b"a"] = b"1"
        raise GivenUpError
    other = heap.malloc(32)
    kept = bytes(heap.view(other))
    for call in calls_of(made):
        with pytest.raises(UsageError, match="dropped, or its transaction was taken back"):
            call()
    assert bytes(heap.view(other)) == kept
    assert heap.check()


def test_a_map_of_an_aborted_savepoint_is_refused(heap: Heap) -> None:
    with heap.transaction():
        with suppress(GivenUpError), heap.transaction():
            made = SortedMap(heap, "map")
            made[b"a"] = b"1"
            raise GivenUpError
        other = SortedMap(heap, "other")
        other[b"a"] = b"2"
        for call in calls_of(made):
            with pytest.raises(UsageError, match="taken back"):
                call()
    assert dict(other) == {b"a": b"2"}
    with pytest.raises(UsageError, match="taken back"):
        made.get(b"a")


def test_a_map_of_an_open_transaction_is_nobody_elses(heap: Heap) -> None:
    with heap.transaction():
        made = SortedMap(heap, "map")
        made[b"a"] = b"1"
        with pytest.raises(UsageError, match="dropped, or its transaction"):
            in_thread(lambda: made.get(b"a"))
        assert made[b"a"] == b"1"
    assert in_thread(lambda: made.get(b"a")) == b"1"


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_dropped_map_is_refused(heap: Heap, anew: bool, at_once: bool) -> None:
    """Also when a map of that name is made anew, whose header may take the place of the old one."""
    old, again = SortedMap(heap, "map"), SortedMap(heap, "map")
    old[b"a"] = b"1"
    with heap.transaction() if at_once else nullcontext():
        again.drop()
        if anew:
            SortedMap(heap, "map")[b"b"] = b"2"
        for made in (old, again):
            for call in calls_of(made):
                with pytest.raises(UsageError, match="dropped"):
                    call()
    if anew:
        assert dict(SortedMap(heap, "map")) == {b"b": b"2"}
    heap.sync()
    for number in range(5):
        SortedMap(heap, f"other {number}")[b"c"] = b"3"
    with pytest.raises(UsageError, match="dropped"):
        old.get(b"c")
    assert heap.check()


def test_a_drop_that_is_taken_back(heap: Heap) -> None:
    made = SortedMap(heap, "map")
    made.put_many((b"%03d" % number, b"x") for number in range(300))
    with suppress(GivenUpError), heap.transaction():
        made.drop()
        raise GivenUpError
    assert len(made) == 300
    made[b"more"] = b"1"
    made.check()


def test_a_map_is_found_under_another_root(heap: Heap) -> None:
    with heap.transaction() as tx:
        made = SortedMap(heap, "map")
        tx.roots["moved"] = tx.roots["map"]
        del tx.roots["map"]
    made[b"a"] = b"1"
    assert SortedMap(heap, "moved")[b"a"] == b"1"


def test_drop_waits_for_who_adds_something(heap: Heap) -> None:
    """What is added between the removal of the entries and that of the map is not left behind."""
    made = SortedMap(heap, "map")
    before = heap.stats().allocated
    transaction = heap.transaction()
    made[b"late"] = bytes(3000)
    dropper = threading.Thread(target=made.drop)
    dropper.start()
    transaction.commit()
    dropper.join()
    heap.sync()
    assert "map" not in heap.roots
    assert heap.stats().allocated < before


# ---------------------------------------------------------------- names


def test_a_name_that_is_taken_by_something_else(heap: Heap) -> None:
    SortedMap(heap, "a map")
    Vector(heap, "a vector", "f8")
    heap.roots["a block"] = block = heap.malloc(16)
    heap.view(block)[:] = b"0123456789abcdef"
    with pytest.raises(UsageError, match="SortedMap expected, it leads to a Vector"):
        SortedMap(heap, "a vector")
    with pytest.raises(UsageError, match="SortedMap expected, it leads to a block that begins"):
        SortedMap(heap, "a block")
    assert heap.arenas() == ["a vector"]
    assert heap.check()


# ---------------------------------------------------------------- readers beside a writer


def test_a_reader_that_is_attached_calls_nothing_damaged() -> None:
    """The writer grows and changes the map: the reader has neither all of it nor one state."""
    with Heap.shared() as writer:
        made = SortedMap(writer, "map")
        made.put_many((b"%04d" % number, b"v" * 50) for number in range(200))
        with Heap.attach(writer.fileno()) as reader:
            seen = SortedMap(reader, "map")
            assert dict(seen) == dict(made)
            scan = iter(seen)
            next(scan)
            del made[b"0001"]
            assert next(scan) == b"0002"
            made.put_many((b"%04d" % number, b"w" * 3000) for number in range(2000))
            calls: list[Callable[[], Any]] = [
                lambda: list(seen), lambda: list(scan), lambda: seen[b"1999"], seen.check,
                lambda: seen.view(b"1999"), seen.statistics, lambda: b"1999" in seen,
            ]  # fmt: skip
            for call in calls:
                with pytest.raises(UsageError, match="attach again"):
                    call()
        with Heap.attach(writer.fileno()) as reader:
            assert len(list(SortedMap(reader, "map").values())) == 2000
