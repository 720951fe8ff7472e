"""Whatever stands in the nodes of a map, each call answers or raises an exception of ours.

`PMEMHEAP_FORGED_ALL=1` makes all forgeries; otherwise each run of the suite makes the same part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from forged import NODE_MAGIC, Entry, HeapFile, apart, map_header, node_image, tree_of

from pmemheap import CorruptHeapError, Heap
from pmemheap.containers import SortedMap

Call = Callable[[], Any]


class GivenUpError(Exception):
    """Raised to abort a transaction."""


SCRIPT = Path(__file__).parent / "forged_maps.py"
EVERY = 1 if os.environ.get("PMEMHEAP_FORGED_ALL") else 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("durability", "mode", "share"),
    [("process", "write", 1), ("power", "write", 4), ("process", "readonly", 2)],
)
def test_a_forged_map_is_an_exception_and_never_a_crash(
    tmp_path: Path, durability: str, mode: str, share: int
) -> None:
    arguments = [tmp_path / "heap", durability, mode, 0, max(EVERY * share, 1)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr)
    assert [line for line in lines if line[2] not in {None, "begun"}] == []
    assert lines[-1][1] == "all"
    assert len(lines) > 50


# ---------------------------------------------------------------- single fields


def filled(path: Path, count: int = 400) -> Path:
    with Heap.create(path, durability="process", decay=None) as heap:
        made = SortedMap(heap, "map")
        made.put_many((b"%04d" % number, b"v" * 100) for number in range(count))
        made[b"0050"] = b"long" * 500
        heap.roots["block"] = block = heap.malloc(2000)
        heap.view(block)[:6] = b"SECRET"
    return path


def forge_leaf(path: Path, *entries: Entry, **fields: int) -> None:
    """Let a map be a single leaf of some entries."""
    with HeapFile(path) as file:
        tree = tree_of(file, "map")
        leaf = tree.levels[0][0].offset
        number = int.from_bytes(file.read(tree.header + 28, 4), "little")
        file.write(leaf, node_image(0, entries, **fields))
        file.write(tree.header, map_header(leaf, len(entries), 1, number=number))


def test_a_key_that_is_too_long_is_no_key(tmp_path: Path) -> None:
    """A split copies one into a place for the longest that there may be."""
    path = filled(tmp_path / "heap")
    forge_leaf(path, Entry(b"b" * 1300, b"2" * 300), Entry(b"b" * 1301, b"3" * 300), top=24)
    with Heap.open(path) as heap:
        made = SortedMap(heap, "map")
        for call in (
            lambda: made.__setitem__(b"c", bytes(900)), lambda: list(made), made.check,
            lambda: made.__setitem__(b"b" * 1024, b""), lambda: made.get(b"b" * 1300),
        ):  # fmt: skip
            with pytest.raises(CorruptHeapError, match=r"map 'map': .*at offset 0x"):
                call()
        assert len(made) == 2


@pytest.mark.parametrize("above", [2, 3, 7])
def test_nothing_is_put_over_an_entry(tmp_path: Path, above: int) -> None:
    """A leaf that says that its room reaches further than to its lowest entry."""
    path = filled(tmp_path / "heap")
    entries = [Entry(b"%c" % letter, b"%c" % letter * 50) for letter in b"abcdefgh"]
    forge_leaf(path, *entries, top=4096 - 55 * above)
    with Heap.open(path) as heap:
        made = SortedMap(heap, "map")
        with pytest.raises(CorruptHeapError, match=r"map 'map': .*at offset 0x"):
            made[b"aa"] = bytes(60)
    with HeapFile(path) as file:
        stored = file.read(tree_of(file, "map").levels[0][0].offset, 4096)
    assert all(entry.value in stored for entry in entries)


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize(
    ("at", "length"),
    [(0, 2049), (0, 40 << 20), (0, 1 << 63), (0, (1 << 64) - 1), (16, 100), (1 << 20, 10)],
)
def test_a_long_value_lies_in_one_block(
    tmp_path: Path, readonly: bool, at: int, length: int
) -> None:
    path = filled(tmp_path / "heap")
    with HeapFile(path) as file:
        block = file.roots["block"]
    forge_leaf(path, Entry(b"a", b"1"), apart(b"k", block + at, length))
    with Heap.open(path, readonly=readonly) as heap:
        made = SortedMap(heap, "map")
        calls: list[Call] = [
            lambda: made[b"k"],
            lambda: made.view(b"k"),
            lambda: list(made.values()),
        ]
        if not readonly:
            calls += [
                lambda: made.patch(b"k", 0, b"x"), lambda: made.__setitem__(b"k", b"1"),
                lambda: made.__delitem__(b"k"),
            ]  # fmt: skip
        for call in calls:
            with pytest.raises(CorruptHeapError):
                call()
        assert (made[b"a"], list(made), b"k" in made) == (b"1", [b"a", b"k"], True)
        assert bytes(heap.view(block, 6)) == b"SECRET"


@pytest.mark.parametrize("count", [0, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_a_number_of_entries_that_cannot_be(tmp_path: Path, count: int) -> None:
    path = filled(tmp_path / "heap")
    with HeapFile(path) as file:
        file.write(file.roots["map"] + 16, count.to_bytes(8, "little"))
    with Heap.open(path) as heap, pytest.raises(CorruptHeapError):
        SortedMap(heap, "map")


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_of_keys_that_do_not_ascend_ends(tmp_path: Path, reverse: bool) -> None:
    """Of each bit in the keys of the root: what is yielded is right, or damage is told."""
    path = filled(tmp_path / "heap", 900)
    with HeapFile(path) as file:
        root = tree_of(file, "map").levels[1][0]
        places = [
            root.offset + position + 4 + at
            for (position, _), entry in zip(root.slots, root.entries, strict=True)
            for at in range(len(entry.key))
        ]
    told = 0
    for place in places[:: 2 if reverse else 3]:
        with HeapFile(path) as file:
            old = file.read(place, 1)
            file.write(place, bytes([old[0] ^ 1 << place % 8]))
        with Heap.open(path, readonly=True) as heap:
            made = SortedMap(heap, "map")
            try:
                assert sum(1 for _ in made.keys(reverse=reverse)) == 900
            except CorruptHeapError:
                told += 1
        with HeapFile(path) as file:
            file.write(place, old)
    assert told > 5


def damage_or(expected: Any, call: Call) -> bool:
    """Tell whether a call has found damage; if not, its answer is `expected`."""
    try:
        answer = call()
    except CorruptHeapError:
        return True
    assert answer == expected
    return False


def searched(made: SortedMap, keys: list[bytes], values: dict[bytes, bytes]) -> int:
    """Search a map in all ways; return how many calls have found damage."""
    told = 0
    for key in keys:
        behind = next((other for other in values if other > key), None)
        pair = [] if behind is None else [(behind, values[behind])]
        told += damage_or(values.get(key), lambda: made.get(key))  # noqa: B023
        told += damage_or(None, lambda: made.get(key + b"x"))  # noqa: B023
        told += damage_or(True, lambda: key in made)  # noqa: B023
        told += damage_or(pair, lambda: made.scan(key + b"x", 1))  # noqa: B023
        told += damage_or(
            sum(other < key for other in values),
            lambda: len(made.keys(None, key)),  # noqa: B023
        )
    return told


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 1])
def test_a_wrong_hint_hides_no_key(tmp_path: Path, level: int) -> None:
    """Prefix and hints lead a search; that a key is not there is confirmed by the keys around."""
    path = filled(tmp_path / "heap")
    with Heap.open(path, readonly=True) as heap:
        values = dict(SortedMap(heap, "map"))
    keys = list(values)[::9]
    with HeapFile(path) as file:
        tree = tree_of(file, "map")
        node = tree.levels[level][1 - level]
        hints = [node.offset + 18 + 4 * slot for slot in range(level, len(node.slots), 6)]
    told = 0
    for place in [node.offset + 12, *hints]:
        for value in (0, 1, 0x2F39, 0x3031, 0x3200, 0x3930, 0xFFFF):
            with HeapFile(path) as file:
                old = file.read(place, 2)
                file.write(place, value.to_bytes(2, "little"))
            with Heap.open(path) as heap:
                made = SortedMap(heap, "map")
                told += searched(made, keys, values)
                with suppress(GivenUpError), heap.transaction():
                    for key in keys:
                        damage_or(None, lambda: made.__setitem__(key, b"new"))  # noqa: B023
                    told += damage_or(list(values), lambda: list(made))  # noqa: B023
                    raise GivenUpError
            with HeapFile(path) as file:
                file.write(place, old)
    assert told > 50


@pytest.mark.slow
def test_a_wrong_separator_hides_no_key(tmp_path: Path) -> None:
    """A single flipped bit above the leaves: each key is found, or what leads to it is damage."""
    path = filled(tmp_path / "heap")
    with Heap.open(path, readonly=True) as heap:
        values = dict(SortedMap(heap, "map"))
    with HeapFile(path) as file:
        node = tree_of(file, "map").levels[1][0]
    pairs = zip(node.slots[1:], node.entries[1:], strict=True)
    separators = [(node.offset + at + 4, len(entry.key)) for (at, _), entry in pairs]
    told = 0
    for start, length in separators:
        for place in range(start, start + length):
            bit = 1 << (place % 8)
            with HeapFile(path) as file:
                file.write(place, bytes([file.read(place, 1)[0] ^ bit]))
            with Heap.open(path) as heap:
                made = SortedMap(heap, "map")
                for key, value in values.items():
                    told += damage_or(value, lambda: made[key])  # noqa: B023
                with suppress(GivenUpError), heap.transaction():
                    for key in list(values)[::5]:
                        damage_or(None, lambda: made.__setitem__(key, b"new"))  # noqa: B023
                    assert len(made) == len(values), "nothing was put a second time"
                    raise GivenUpError
            with HeapFile(path) as file:
                file.write(place, bytes([file.read(place, 1)[0] ^ bit]))
    assert told > 50


def remove_some(made: SortedMap) -> None:
    for number in range(40):
        made.discard(b"%04d" % number)


def test_two_ways_to_a_node_are_damage_and_no_lack_of_memory(tmp_path: Path) -> None:
    """The transaction around it goes on: the call that was refused has changed nothing."""
    path = filled(tmp_path / "heap")
    with HeapFile(path) as file:
        root = tree_of(file, "map").levels[1][0]
        position, entry = root.slots[1][0], root.entries[1]
        place = root.offset + position + 4 + len(entry.key)
        file.write(place, root.children[0].to_bytes(8, "little"))
    with Heap.open(path) as heap:
        made, other = SortedMap(heap, "map"), SortedMap(heap, "other")
        with heap.transaction():
            other[b"before"] = b"1"
            with pytest.raises(CorruptHeapError):
                remove_some(made)
            other[b"after"] = b"2"
        assert dict(other) == {b"before": b"1", b"after": b"2"}
        for call in (made.clear, made.compact, made.check, made.drop):
            with pytest.raises(CorruptHeapError):
                call()


def test_a_node_of_another_level_is_none(tmp_path: Path) -> None:
    path = filled(tmp_path / "heap")
    with HeapFile(path) as file:
        tree = tree_of(file, "map")
        assert tree.levels[0][0].fields["magic"] == NODE_MAGIC
        file.write(tree.levels[0][0].offset + 4, b"\x07")
    with Heap.open(path) as heap:
        made = SortedMap(heap, "map")
        with pytest.raises(CorruptHeapError):
            made.get(b"0000")
        assert made[b"0399"] == b"v" * 100
