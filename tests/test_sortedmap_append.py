"""Keys that come in order within a transaction: each goes behind the last one, without a search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from map_reach import begin_copying

from pmemheap import CorruptHeapError, DurabilityName, Heap
from pmemheap.containers import SortedMap
from pmemheap.testing import copy_as_crashed


def pairs_from(first: int, count: int, size: int = 40) -> dict[bytes, bytes]:
    return {b"key %06d" % n: b"%d" % n * (size // 4) for n in range(first, first + count)}


def put(made: SortedMap, pairs: dict[bytes, bytes]) -> None:
    for key, value in pairs.items():
        made[key] = value


def root_node(heap: Heap) -> int:
    return int.from_bytes(heap.view(heap.roots["map"])[8:16], "little")


@pytest.fixture(params=["process", "power", "beside readers"])
def heap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Heap]:
    durability: DurabilityName = "power" if request.param == "power" else "process"
    with Heap.create(tmp_path / "heap", durability=durability) as made:
        if request.param == "beside readers":
            begin_copying(made)
        SortedMap(made, "map")
        yield made


def require(heap: Heap, entries: dict[bytes, bytes], tmp_path: Path) -> None:
    """Compare what the heap has, and what is found where its process was killed, with entries."""
    made = SortedMap(heap, "map")
    made.check()
    assert list(made.items()) == sorted(entries.items())
    assert len(made) == len(entries)
    heap.check()
    copy_as_crashed(tmp_path / "heap", tmp_path / "killed")
    with Heap.open(tmp_path / "killed") as killed:
        left = SortedMap(killed, "map")
        left.check()
        assert dict(left) == entries


@pytest.mark.parametrize("before", [0, 1, 30, 2000])
@pytest.mark.parametrize("size", [4, 40, 800, 3000])
def test_keys_in_order(heap: Heap, tmp_path: Path, before: int, size: int) -> None:
    made = SortedMap(heap, "map")
    entries = pairs_from(0, before)
    made.update(entries)
    for first in (before, before + 300):
        more = pairs_from(first, 300, size)
        with heap.transaction():
            put(made, more)
            entries |= more
            assert len(made) == len(entries)
            assert made[b"key %06d" % (first + 299)] == more[b"key %06d" % (first + 299)]
    require(heap, entries, tmp_path)


def test_a_savepoint_between(heap: Heap, tmp_path: Path) -> None:
    """What was stored at once is collected below it; what comes behind it can be taken back."""
    made = SortedMap(heap, "map")
    entries = pairs_from(0, 100)
    with heap.transaction():
        put(made, entries)
        for kept in (False, True, False, True):
            first = len(entries)
            inner = heap.transaction()
            put(made, pairs_from(first, 7))
            if kept:
                inner.commit()
                entries |= pairs_from(first, 7)
            else:
                inner.abort()
            more = pairs_from(first + 10, 2)
            put(made, more)
            entries |= more
            assert dict(made) == entries
    require(heap, entries, tmp_path)


def test_all_is_taken_back(heap: Heap, tmp_path: Path) -> None:
    made = SortedMap(heap, "map")
    entries = pairs_from(0, 50)
    made.update(entries)
    for _ in range(3):
        transaction = heap.transaction()
        put(made, pairs_from(50, 200))
        transaction.abort()
        require(heap, entries, tmp_path)
    put(made, pairs_from(50, 1))
    require(heap, entries | pairs_from(50, 1), tmp_path)


def test_objects_of_one_map_take_turns(heap: Heap, tmp_path: Path) -> None:
    """One splits the leaf behind which the other one has put last."""
    one, other = SortedMap(heap, "map"), SortedMap(heap, "map")
    entries = pairs_from(0, 400)
    with heap.transaction():
        for at, (key, value) in enumerate(entries.items()):
            (one if at % 50 < 3 else other)[key] = value
    require(heap, entries, tmp_path)


def test_maps_take_turns(heap: Heap, tmp_path: Path) -> None:
    made, second = SortedMap(heap, "map"), SortedMap(heap, "second")
    entries = pairs_from(0, 300)
    with heap.transaction():
        for key, value in entries.items():
            made[key] = value
            second[key[::-1]] = value
    assert dict(second) == {key[::-1]: value for key, value in entries.items()}
    require(heap, entries, tmp_path)


def test_something_else_happens_between(heap: Heap, tmp_path: Path) -> None:
    """Removals, changes and keys before the end, after which the end is where it was or not."""
    made = SortedMap(heap, "map")
    entries = pairs_from(0, 100)
    made.update(entries)
    with heap.transaction():
        for first in range(100, 400, 3):
            more = pairs_from(first, 3)
            put(made, more)
            entries |= more
            match first % 4:
                case 0:
                    last = max(entries)
                    del made[last], entries[last]
                case 1:
                    made[max(entries)] = entries[max(entries)] = b"other"
                case 2:
                    made[b"a key %d" % first] = entries[b"a key %d" % first] = b"before"
                case _:
                    made.patch(max(entries), 0, b"XY")
                    entries[max(entries)] = b"XY" + entries[max(entries)][2:]
    require(heap, entries, tmp_path)


def test_the_keys_have_less_and_less_in_common(heap: Heap, tmp_path: Path) -> None:
    """Hints of all slots change, as keys have another prefix in common."""
    made = SortedMap(heap, "map")
    keys = [b"a" * (20 - n) + b"b" * n for n in range(1, 21)] + [b"c", b"c\0", b"\xff"]
    entries = {key: key[::-1] for key in keys}
    with heap.transaction():
        put(made, entries)
        assert all(made[key] == value for key, value in entries.items())
    require(heap, entries, tmp_path)


@pytest.mark.parametrize("heap", ["process", "power"], indirect=True)
def test_nodes_that_the_program_changes_itself(heap: Heap, tmp_path: Path) -> None:
    """A write to the last leaf that is none of the map's is seen by the next key."""
    made = SortedMap(heap, "map")
    entries = pairs_from(0, 3)
    made.update(entries)
    root = root_node(heap)
    with heap.transaction() as tx:
        put(made, pairs_from(3, 1))
        at = bytes(heap.view(root, 4096)).find(b"key 000000") + 10
        tx.write(root + at, b"Z")
        put(made, pairs_from(4, 1))
        assert made[b"key 000000"][:1] == b"Z"
    entries |= pairs_from(3, 2)
    entries[b"key 000000"] = b"Z" + entries[b"key 000000"][1:]
    require(heap, entries, tmp_path)


@pytest.mark.parametrize("heap", ["process", "power"], indirect=True)
def test_the_program_writes_to_the_header(heap: Heap, tmp_path: Path) -> None:
    made = SortedMap(heap, "map")
    entries = pairs_from(0, 20)
    with heap.transaction() as tx:
        put(made, entries)
        header = heap.roots["map"]
        tx.write(header + 16, (20).to_bytes(8, "little"))  # the number that it has
        put(made, pairs_from(20, 20))
        assert len(made) == 40
    require(heap, entries | pairs_from(20, 20), tmp_path)


@pytest.mark.parametrize("heap", ["process", "power"], indirect=True)
def test_a_leaf_that_the_program_has_freed(heap: Heap) -> None:
    """It is damage, as it is for any other key."""
    made = SortedMap(heap, "map")
    made.update(pairs_from(0, 2))
    transaction = heap.transaction()
    transaction.write(heap.malloc(16), b"another block")  # from now on images are made again
    put(made, pairs_from(2, 1))
    transaction.free(root_node(heap))
    made.get(b"key 000000")
    with pytest.raises(CorruptHeapError):
        put(made, pairs_from(3, 1))
    transaction.abort()
    assert dict(made) == pairs_from(0, 2)
    made.check()


def test_a_map_that_the_transaction_has_made(heap: Heap, tmp_path: Path) -> None:
    """Its header is stored to at once; under a savepoint it is not."""
    entries = pairs_from(0, 500)
    with heap.transaction():
        made = SortedMap(heap, "new")
        put(made, entries)
        inner = heap.transaction()
        put(made, pairs_from(500, 20))
        assert len(made) == 520
        inner.abort()
        assert len(made) == 500
        with heap.transaction():
            put(made, pairs_from(500, 3))
        put(made, pairs_from(503, 50))
    entries |= pairs_from(500, 53)
    made.check()
    assert dict(made) == entries
    copy_as_crashed(tmp_path / "heap", tmp_path / "killed")
    with Heap.open(tmp_path / "killed") as killed:
        assert dict(SortedMap(killed, "new")) == entries


def test_a_map_that_is_dropped_and_made_again(heap: Heap, tmp_path: Path) -> None:
    made = SortedMap(heap, "other")
    with heap.transaction():
        put(made, pairs_from(0, 50))
        made.drop()
        made = SortedMap(heap, "other")
        put(made, pairs_from(7, 50))
        assert dict(made) == pairs_from(7, 50)
    made.check()
    require(heap, {}, tmp_path)
