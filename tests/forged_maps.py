"""Forges each field of a SortedMap in the file, one at a time, and uses what that gives.

    python tests/forged_maps.py HEAP DURABILITY READONLY FIRST STEP

makes every STEP-th forgery from FIRST on, in a copy beside HEAP, and prints a line for each: its
number and name, and what went wrong, if anything did. An exception of ours is right, and so is an
answer. A crash, an endless loop, another exception, and a change of something else are wrong.
"""

from __future__ import annotations

import faulthandler
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from forged import (
    MAP_HEADER,
    MAP_HEADER_FIELDS,
    NODE,
    NODE_BYTES,
    NODE_FIELDS,
    NODE_MAGIC,
    NOWHERE,
    PLACE,
    SLOT,
    Entry,
    HeapFile,
    Node,
    Tree,
    apart,
    child,
    copied,
    map_header,
    node_image,
    tree_of,
)
from heap_world import named

from pmemheap import DurabilityName, Heap, PmemHeapError
from pmemheap.containers import SortedMap
from pmemheap.units import MiB

Call = Callable[[], Any]
Edit = tuple[int, bytes]
Forgery = tuple[str, list[Edit]]

KEYS = 700
SECONDS_MOST = 60
SOME = [b"%05d" % number for number in (0, 1, 50, 51, 333, 350, 698, 699, 700)]
SOME += [b"", b"zz", b"b" * 1300, b"%05d" % 10 * 100, b"same", b"05"]
_CLEAN = (PmemHeapError, KeyError, BufferError)
_ENTRY_AT = {"key length": 0, "value length": 2}


def make(path: Path, durability: DurabilityName) -> None:
    """Make the heap that is forged: a map of two levels, with all kinds of entries, and others."""
    with Heap.create(path, durability=durability, decay=None) as heap:
        made = SortedMap(heap, "map")
        made.put_many((b"%05d" % number, bytes([number % 251]) * 150) for number in range(KEYS))
        made.put_many((b"%05d" % number, b"long" * 700) for number in range(0, KEYS, 50))
        made.put_many((b"%05d" % number * 100, b"long key") for number in range(10, KEYS, 170))
        SortedMap(heap, "other").put_many((b"%d" % number, b"other" * 9) for number in range(30))
        heap.roots["block"] = block = heap.malloc(2000)
        heap.view(block, 2000)[:] = b"block" * 400
        heap.roots["freed later"] = heap.malloc(2 * MiB)


# ---------------------------------------------------------------- forgeries


def numbers(value: int, bits: int) -> list[int]:
    """Return what a field of so many bits may be instead of a value."""
    most = (1 << bits) - 1
    some = {0, 1, value - 1, value + 1, value ^ 1, value ^ (1 << (bits - 1)), most, most - 1}
    some |= {most >> 1, 16, 1024, 1025, 2047, 4080, 4092, 4096, 4097}
    return sorted(number for number in some if 0 <= number <= most and number != value)


def fields_of(node: Node) -> Iterator[Forgery]:
    at = 0
    for name, size in zip(NODE_FIELDS, (4, 1, 1, 2, 2, 2, 2, 2), strict=True):
        for number in numbers(node.fields[name], 8 * size):
            yield f"{name} {number}", [(node.offset + at, number.to_bytes(size, "little"))]
        at += size


def slots_of(node: Node) -> Iterator[Forgery]:
    for number in sorted({0, 1, len(node.slots) // 2, len(node.slots) - 1}):
        position, hint = node.slots[number]
        at = node.offset + NODE.size + SLOT.size * number
        for other in [*numbers(position, 16), node.slots[number - 1][0], position + 5]:
            yield f"slot {number} at {other}", [(at, other.to_bytes(2, "little"))]
        for other in numbers(hint, 16):
            yield f"slot {number} hint {other}", [(at + 2, other.to_bytes(2, "little"))]


def entries_of(node: Node) -> Iterator[Forgery]:
    for number in sorted({0, 1, len(node.slots) // 2, len(node.slots) - 1}):
        position, entry = node.slots[number][0], node.entries[number]
        for name, value in (("key length", len(entry.key)), ("value length", entry.said or 0)):
            at = node.offset + position + _ENTRY_AT[name]
            for other in numbers(value, 16):
                yield f"entry {number} {name} {other}", [(at, other.to_bytes(2, "little"))]
        for at in sorted({0, len(entry.key) - 1} if entry.key else ()):
            for mask in (1, 0x10, 0x80, 0xFF):
                place = node.offset + position + 4 + at
                yield f"entry {number} key {at} ^ {mask}", [(place, bytes([entry.key[at] ^ mask]))]


def places(file: HeapFile, tree: Tree, own: int) -> dict[str, int]:
    """Return where an offset may lead instead."""
    first, last = tree.levels[0][0], tree.levels[0][-1]
    return {
        "itself": own, "the root": tree.root, "the header": tree.header, "nowhere": NOWHERE,
        "the first leaf": first.offset, "the last leaf": last.offset, "zero": 0,
        "the middle of a node": first.offset + 16, "no granule": first.offset + 1,
        "far away": 1 << 40, "another arena": 1 << 55, "no arena": 1 << 63,
        "a block": file.roots["block"], "behind": file.roots["freed later"] + 2 * MiB,
        "a long value": PLACE.unpack(next(
            entry.value for node in tree.levels[0] for entry in node.entries
            if entry.said == 0xFFFF
        ))[0],
    }  # fmt: skip


def children_of(file: HeapFile, tree: Tree, node: Node) -> Iterator[Forgery]:
    for number in sorted({0, 1, len(node.slots) // 2, len(node.slots) - 1}):
        position, entry = node.slots[number][0], node.entries[number]
        at = node.offset + position + 4 + len(entry.key)
        for name, other in places(file, tree, node.offset).items():
            yield f"child {number} is {name}", [(at, other.to_bytes(8, "little"))]


def long_values_of(file: HeapFile, tree: Tree) -> Iterator[Forgery]:
    node = next(node for node in tree.levels[0] if any(e.said == 0xFFFF for e in node.entries))
    number = next(i for i, entry in enumerate(node.entries) if entry.said == 0xFFFF)
    entry, at = node.entries[number], node.offset + node.slots[number][0] + 4
    at += len(entry.key)
    offset, length = PLACE.unpack(entry.value)
    for name, other in places(file, tree, node.offset).items():
        yield f"long value at {name}", [(at, PLACE.pack(other, length))]
    for other in [*numbers(length, 64), 40 * MiB, 1 << 62]:
        yield f"long value of {other}", [(at, PLACE.pack(offset, other))]
        yield f"long value of {other} in a block", [(at, PLACE.pack(file.roots["block"], other))]


def header_of(file: HeapFile, tree: Tree) -> Iterator[Forgery]:
    values = MAP_HEADER.unpack(file.read(tree.header, MAP_HEADER.size))
    at = 0
    for name, value, size in zip(MAP_HEADER_FIELDS, values, (8, 8, 8, 4, 4), strict=True):
        for other in numbers(value, 8 * size):
            yield f"header {name} {other}", [(tree.header + at, other.to_bytes(size, "little"))]
        at += size
    for name, other in places(file, tree, tree.header).items():
        yield f"root is {name}", [(tree.header + 8, other.to_bytes(8, "little"))]


def whole_nodes(tree: Tree) -> Iterator[Forgery]:
    """Nodes with a right header, and what no map has in them."""
    leaf, root = tree.levels[0][3].offset, tree.root
    leaves = [node.offset for node in tree.levels[0]]
    small = [Entry(b"%02d" % number, b"v" * 20) for number in range(50)]
    strange = {
        "no entries": [], "one empty key": [Entry(b"", b"")], "most": [Entry(b"", b"")] * 510,
        "equal keys": [Entry(b"same", b"v")] * 100, "descending keys": small[::-1],
        "keys of all bytes": [Entry(bytes([byte]) * 9, b"v") for byte in range(256)][:200],
        "keys that are too long": [Entry(b"b" * 1300, b"2"), Entry(b"b" * 1301, b"3")],
        "one long key": [Entry(b"b" * 4000, b"2")], "one long value": [Entry(b"b", b"2" * 4000)],
        "long values of nothing": [apart(b"%02d" % number, leaf, 1 << 63) for number in range(9)],
        "prefixes": [Entry(b"p" * number, b"") for number in range(60)],
    }  # fmt: skip
    for name, entries in strange.items():
        yield f"leaf: {name}", [(leaf, node_image(0, entries))]
        yield (
            f"leaf: {name}, without room",
            [(leaf, node_image(0, entries, top=16 + 4 * len(entries)))],
        )
        yield (
            f"only leaf: {name}",
            [
                (leaf, node_image(0, entries)),
                (tree.header, map_header(leaf, max(len(entries), 1), 1)),
            ],
        )
    overlapping = bytearray(node_image(0, [Entry(b"k" * 9, b"v" * 9)], count=510, top=2056))
    for number in range(510):
        SLOT.pack_into(overlapping, NODE.size + SLOT.size * number, 4096 - 22, 0x6B6B)
    yield "leaf: 510 times one entry", [(leaf, bytes(overlapping))]
    yield "only leaf: 510 times one entry", [
        (leaf, bytes(overlapping)), (tree.header, map_header(leaf, 510, 1))
    ]  # fmt: skip
    keys = [b"%05d" % (2 * number) for number in range(100)]
    above = {
        "one child": [child(b"", leaf)], "no child": [],
        "the same child always": [child(key, leaf) for key in keys],
        "itself": [child(key, root) for key in keys],
        "children backwards": [child(b"%05d" % at, leaves[-at]) for at in range(1, len(leaves))],
        "long keys": [child(b"", leaf), child(b"\xfd" * 600, leaf), child(b"\xfe" * 2200, leaf)],
        "short values": [Entry(key, b"1234") for key in keys],
        "keys all equal": [child(b"00100", at) for at in leaves],
    }  # fmt: skip
    for name, entries in above.items():
        yield f"root: {name}", [(root, node_image(1, entries))]
        yield (
            f"root: {name}, without room",
            [(root, node_image(1, entries, top=16 + 4 * len(entries)))],
        )
    chain = [(at, node_image(level, [child(b"", leaves[level - 1])]))
             for level, at in enumerate(leaves[:24]) if level]  # fmt: skip
    for height in (2, 5, 24):
        yield f"a chain of {height}", [
            *chain[: height - 1], (tree.header, map_header(leaves[height - 1], KEYS, height))
        ]  # fmt: skip
    wide = [(at, node_image(level, [child(b"%03d" % i, leaves[level - 1]) for i in range(150)]))
            for level, at in enumerate(leaves[:24]) if level]  # fmt: skip
    yield "150 to the 23rd ways to one leaf", [
        *wide, (tree.header, map_header(leaves[23], KEYS, 24))
    ]  # fmt: skip
    empty = (leaves[0], node_image(0, []))
    yield "as many to an empty leaf", [
        *wide, empty, (tree.header, map_header(leaves[23], KEYS, 24))
    ]  # fmt: skip


def random_edits(tree: Tree, count: int) -> Iterator[Forgery]:
    chance = random.Random(5)
    nodes = [node for level in tree.levels for node in level]
    for number in range(count):
        edits = []
        for _ in range(chance.choice((1, 1, 3, 40))):
            at = chance.choice(nodes).offset + chance.choice(
                (chance.randrange(64), chance.randrange(NODE_BYTES))
            )
            edits.append((at, chance.randbytes(chance.choice((1, 2, 8)))))
        yield f"random bytes {number}", edits


def forgeries(file: HeapFile) -> list[Forgery]:
    """Return all of them, in an order that has some of each kind early."""
    tree = tree_of(file, "map")
    assert len(tree.levels) == 2
    assert len(tree.levels[0]) > 24
    assert tree.levels[0][0].fields["magic"] == NODE_MAGIC
    root, leaves = tree.levels[1][0], tree.levels[0]
    found = [*header_of(file, tree), *whole_nodes(tree), *long_values_of(file, tree)]
    found += [*children_of(file, tree, root), *random_edits(tree, 200)]
    for name, node in {"root": root, "leaf": leaves[2], "last leaf": leaves[-1]}.items():
        for forge in (fields_of, slots_of, entries_of):
            found += [(f"{name}: {what}", edits) for what, edits in forge(node)]
    random.Random(1).shuffle(found)
    return found


# ---------------------------------------------------------------- use


def bounded(scan: Iterator[Any]) -> int:
    count = sum(1 for _ in islice(scan, 20 * KEYS))
    if count == 20 * KEYS:
        raise AssertionError("a scan does not end")
    return count


def view_past_a_trim(heap: Heap, made: SortedMap, key: bytes) -> None:
    with made.view(key) as view:
        before = bytes(view)
        if not heap.readonly and "freed later" in heap.roots:
            with heap.transaction() as tx:
                tx.free(tx.roots.pop("freed later"))
            heap.trim()
        assert bytes(view) == before, "a view has changed"


def together(heap: Heap, some: Iterable[Call], *, keep: bool) -> None:
    """Do some in one transaction, which goes on after each that is refused."""
    with heap.transaction():
        for call in some:
            with suppress(*_CLEAN):
                call()
        if not keep:
            raise KeyError


def changes(made: SortedMap, key: bytes) -> Iterator[Call]:
    yield partial(made.patch, key, 1, b"patched")
    yield lambda: made.patch(key, len(made[key]), b"")
    yield partial(made.__setitem__, key[:1024], b"x" * 60)
    yield partial(made.__setitem__, key[:1000] + b"1", b"y" * 900)
    yield partial(made.__setitem__, key[:1000], b"z" * 5000)
    yield partial(made.discard, key)


def looks(heap: Heap, made: SortedMap) -> Iterator[Call]:
    yield partial(len, made)
    for what in (made.keys, made.values, made.items):
        for view in (what(), what(b"00100", b"00400")):
            yield lambda view=view: bounded(iter(view))  # type: ignore[misc]
            yield lambda view=view: bounded(reversed(view))  # type: ignore[misc]
    yield lambda: len(made.keys(b"00100", b"00400"))
    yield made.check
    yield made.statistics
    for key in SOME:
        yield partial(made.get, key)
        yield partial(made.__contains__, key)
        yield partial(view_past_a_trim, heap, made, key)


def calls(heap: Heap, made: SortedMap) -> Iterator[Call]:
    """Yield calls of everything."""
    few = range(0, KEYS, 9)
    adding = [partial(made.__setitem__, b"%05d+" % number, b"n" * 300) for number in few]
    removing = [partial(made.discard, b"%05d" % number) for number in range(0, KEYS, 3)]
    yield from looks(heap, made)
    for keep in (False, True):
        both: list[Call] = [*adding[::5], *removing[::5], *looks(heap, made)]
        yield partial(together, heap, both, keep=keep)
    for key in SOME:
        yield from changes(made, key)
    for number in range(5):
        yield partial(together, heap, adding[number::5], keep=True)
    yield made.compact
    yield from removing[::20]
    yield partial(together, heap, removing, keep=True)
    yield from looks(heap, made)
    yield made.clear
    yield made.drop


def others_of(heap: Heap) -> tuple[bytes, dict[bytes, bytes]]:
    return bytes(heap.view(heap.roots["block"], 2000)), dict(SortedMap(heap, "other"))


def use(path: Path, *, readonly: bool, shares: bool) -> str | None:
    """Return what goes wrong in the use of a forged heap.

    `shares`: the map leads to the block of others, and may free it.
    """
    with Heap.open(path, readonly=readonly, decay=None) as heap:
        before = others_of(heap)
        made = None
        with suppress(*_CLEAN):
            made = SortedMap(heap, "map")
        for number, call in enumerate(calls(heap, made) if made is not None else ()):
            try:
                call()
            except _CLEAN:
                continue
            except BaseException as error:
                return f"call {number}: {type(error).__name__}: {error}"
        same = shares or others_of(heap) == before
        return None if same else "something else has changed"


def tell(number: int, name: str, what: str | None) -> None:
    print(json.dumps([number, name, what]), flush=True)  # noqa: T201 -- the parent reads it


def main(heap: str, durability: str, readonly: str, first: str, step: str) -> None:
    base, forged = Path(heap), Path(f"{heap}.{first}.{readonly}")
    if not base.exists():
        make(base, named(durability))
    with HeapFile(base) as file:
        found = forgeries(file)
    for number, (name, edits) in enumerate(found[int(first) :: int(step)]):
        faulthandler.dump_traceback_later(SECONDS_MOST, exit=True)
        copied(base, forged)
        with HeapFile(forged) as file:
            for offset, data in edits:
                file.write(offset, data)
        tell(number, name, "begun")
        wrong = use(forged, readonly=readonly == "readonly", shares="a block" in name)
        tell(number, name, wrong)
    tell(len(found), "all", None)


if __name__ == "__main__":
    faulthandler.enable()
    main(*sys.argv[1:])
