"""How full the leaves of a map are: after loads in any order, after churn, after `compact`."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from forged import HeapFile, tree_of

from pmemheap import CorruptHeapError, Heap
from pmemheap.containers import SortedMap

NODE = 4096
VALUE = b"v" * 100

Length = Callable[[random.Random], int]


def loaded(heap: Heap, draw: random.Random, count: int, length: Length) -> dict[bytes, bytes]:
    """Fill a map with keys in no order; return what it has."""
    entries = {draw.randbytes(24): b"v" * length(draw) for _ in range(count)}
    SortedMap(heap, "map").update(entries)
    return entries


def churn(made: SortedMap, entries: dict[bytes, bytes], draw: random.Random, times: int) -> None:
    """Remove an entry and put another one, time after time."""
    keys = list(entries)
    for _ in range(times):
        at = draw.randrange(len(keys))
        value = entries.pop(keys[at])
        del made[keys[at]]
        keys[at] = draw.randbytes(24)
        made[keys[at]] = entries[keys[at]] = value


def nodes_of_live(made: SortedMap) -> float:
    """Return the bytes of all nodes for each byte of keys and values."""
    parts = made.statistics()
    return parts.nodes * NODE / (parts.key_bytes + parts.value_bytes)


def require(made: SortedMap, entries: dict[bytes, bytes]) -> float:
    """Compare a map with what it has to have; return how full its leaves are."""
    made.check()
    assert dict(made) == entries
    return made.statistics().fill


@pytest.mark.slow
@pytest.mark.parametrize(
    "length", [lambda _: 100, lambda draw: draw.randrange(200)], ids=["equal", "of all lengths"]
)
def test_leaves_stay_full(memory: Heap, length: Length) -> None:
    """Records of 24 and some 100 bytes; a B+tree that splits at once has 0.63, 0.51, and 0.47."""
    draw = random.Random(1)
    entries = loaded(memory, draw, 6000, length)
    made = SortedMap(memory, "map")
    assert require(made, entries) > 0.7
    churn(made, entries, draw, 6000)
    assert require(made, entries) > 0.64
    made.compact()
    assert nodes_of_live(made) < 1.15
    churn(made, entries, draw, 6000)
    assert require(made, entries) > 0.64


@pytest.mark.parametrize("step", [1, -1])
def test_keys_in_order_fill_their_leaves(memory: Heap, step: int) -> None:
    made = SortedMap(memory, "map")
    made.update({b"%024d" % number: VALUE for number in range(1000)[::step]})
    made.check()
    assert made.statistics().fill > (0.85 if step == 1 else 0.7)


def test_a_view_keeps_its_bytes_while_leaves_share(memory: Heap) -> None:
    """Of every leaf a value is shown: none of them moves."""
    draw = random.Random(2)
    made = SortedMap(memory, "map")
    entries = {draw.randbytes(8): draw.randbytes(draw.randrange(1, 200)) for _ in range(400)}
    made.update(entries)
    views = {key: made.view(key) for key in list(entries)[::10]}
    more = {draw.randbytes(8): draw.randbytes(draw.randrange(1, 200)) for _ in range(600)}
    made.update(more)
    for key in draw.sample(sorted(more), 400):
        del made[key], more[key]
    assert {key: bytes(view) for key, view in views.items()} == {key: entries[key] for key in views}
    require(made, {**entries, **more})


def full_leaves(made: SortedMap, count: int) -> list[list[int]]:
    """Put even numbers in order until so many leaves are full; return what is in each."""
    leaves: list[list[int]] = []
    for number in range(0, 1 << 16, 2):
        before = made.statistics().leaves
        made[b"%08d" % number] = VALUE
        if made.statistics().leaves > before:
            if len(leaves) == count:
                del made[b"%08d" % number]
                break
            leaves.append([])
        leaves[-1].append(number)
    return leaves


@pytest.mark.parametrize("where", ["before", "behind"])
def test_a_full_leaf_shares_with_one_whose_room_is_waste(heap: Heap, where: str) -> None:
    """A leaf that was split keeps its first half where it lay, all over the node."""
    made = SortedMap(heap, "map")
    leaves = full_leaves(made, 3)
    split = leaves[1]
    made[b"%08d" % (split[len(split) * 3 // 4] + 1)] = VALUE
    parts = made.statistics()
    assert (parts.leaves, parts.waste_bytes > NODE // 4) == (4, True)
    if where == "behind":
        made[b"%08d" % (leaves[0][5] + 1)] = VALUE
    else:
        for more in range(len(split) // 2 + 2):
            made[b"%08d.%02d" % (split[-3], more)] = VALUE[3:]
    after = made.statistics()
    assert after.leaves == 4
    assert after.waste_bytes < NODE // 8
    made.check()
    assert len(made) == after.entries == len(dict(made))


def test_a_transaction_that_is_taken_back_leaves_leaves_as_they_were(heap: Heap) -> None:
    draw = random.Random(3)
    entries = loaded(heap, draw, 400, lambda _: 100)
    made = SortedMap(heap, "map")
    before = made.statistics()
    for _ in range(5):
        transaction = heap.transaction()
        for _ in range(60):
            made[draw.randbytes(24)] = draw.randbytes(draw.randrange(200))
        made.check()
        transaction.abort()
        assert made.statistics() == before
    require(made, entries)


def fields() -> list[tuple[int, bytes]]:
    """Return what is written over the header of a leaf: where, and which bytes."""
    return [
        (at, number.to_bytes(2, "little"))
        for at in (6, 8, 10, 12)  # count, top, waste, prefix
        for number in (0, 1, 15, 100, 4000, 4096, 0xFFFF)
    ] + [(0, b"none"), (4, b"\x01")]


@pytest.mark.slow
def test_a_forged_neighbour_is_damage_or_none(tmp_path: Path) -> None:
    """Leaves around a damaged one fill up: what is told is damage, and nothing else is lost."""
    path = tmp_path / "heap"
    keys = [b"%04d" % number for number in range(0, 600, 2)]
    with Heap.create(path, durability="process", decay=None) as heap:
        SortedMap(heap, "map").update(dict.fromkeys(keys, VALUE))
    whole = path.read_bytes()
    with HeapFile(path) as file:
        leaf = tree_of(file, "map").levels[0][3]
    inside = {entry.key for entry in leaf.entries}
    told = 0
    for at, forged in fields():
        path.write_bytes(whole)
        with HeapFile(path) as file:
            file.write(leaf.offset + at, forged)
        with Heap.open(path) as heap:
            made = SortedMap(heap, "map")
            for number in range(1, 600, 2):
                try:
                    made[b"%04d" % number] = VALUE
                except CorruptHeapError:
                    told += 1
            for key in keys:
                if key not in inside:
                    with suppress(CorruptHeapError):  # where the damaged leaf is asked as well
                        assert made[key] == VALUE
    assert told > len(fields())
