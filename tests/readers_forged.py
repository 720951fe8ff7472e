"""A reader beside a writer whose header somebody else damages: each look is right, or an exception.

    writer   idle, after a few commits
    reader   a snapshot, and new ones; it is asked for all that can be read
    forger   one word or one slot of the header at a time, put back afterwards

What a program can do to the file of a running heap is no promise of anybody, but that a reader does
not end of it by a signal, and does not take damage for data, is one.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from reader_world import Reader

from pmemheap import Heap, layout
from pmemheap.containers import SortedMap

VALUES = {b"%d" % number: b"value %d" % number * 20 for number in range(300)}
_WORDS = (0, 1, 2, 3, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
_SHOWN = (
    "now.roots['block'], bytes(now.view(now.roots['block'], 100)),"
    " dict(SortedMap(now, 'table').items())"
)
_OLD = "bytes(old), old_map[b'7'], len(old_map)"


def prepare(path: Path) -> Heap:
    """Return a writer with a few arenas, roots and segments."""
    heap = Heap.create(path, durability="process", readers=True)
    SortedMap(heap, "table").update(VALUES)
    with heap.transaction() as tx:
        block = tx.alloc(100)
        block.view[:] = b"b" * 100
        tx.roots["block"] = block.offset
    heap.arena("arena").malloc(3 << 20)
    heap.malloc(3 << 20)
    return heap


def places(image: bytes) -> list[tuple[int, int]]:
    """Return where words and used slots lie, and how long they are."""
    words = [(place.start, place.stop - place.start) for place in layout.SHARED_WORDS.values()]
    slots = [
        (table + index * layout.SLOT_BYTES, layout.SLOT_BYTES)
        for table, count in (
            (layout.SEGMENT_TABLE, layout.SEGMENT_SLOTS),
            (layout.ARENA_TABLE, layout.ARENA_SLOTS),
            (layout.ROOT_TABLE, layout.ROOT_SLOTS),
        )
        for index in range(count)
        if index < 2 or any(image[table + index * layout.SLOT_BYTES :][: layout.SLOT_BYTES])
    ]
    blocks = [(at, layout.SUPERBLOCK_BYTES) for at in layout.SUPERBLOCKS]
    return words * 3 + slots + blocks


def forged(rng: random.Random, old: bytes) -> bytes:
    """Return other bytes for a word or a slot."""
    made = bytearray(old)
    if len(old) <= 8:
        value = rng.choice([*_WORDS, int.from_bytes(old, "little") + rng.choice((-2, -1, 1, 2))])
        return (value % (1 << 8 * len(old))).to_bytes(len(old), "little")
    match rng.randrange(4):
        case 0:
            made[rng.randrange(len(old))] ^= 1 << rng.randrange(8)
        case 1:
            at = rng.randrange(len(old) // 8) * 8
            made[at : at + 8] = rng.choice(_WORDS).to_bytes(8, "little")
        case 2:
            made[:] = bytes(len(old))
        case _:
            made[:] = rng.randbytes(len(old))
    return bytes(made)


def run(path: Path, rounds: int, seed: int) -> Counter[str]:
    """Damage, look, put back; return how often a look was right, refused, or wrong."""
    rng, seen = random.Random(seed), Counter[str]()
    with prepare(path) as heap, Reader(path) as reader:
        reader("setattr(pmemheap.file.following, 'PATIENCE', 0.01)")
        reader("(old := snap.view(snap.roots['block'], 100)) is None")
        reader("(old_map := SortedMap(snap, 'table')) is None")
        reader("(last := SortedMap(heap, 'table')) is None")
        shown = (heap.roots["block"], b"b" * 100, VALUES)
        looks: dict[str, object] = {
            _OLD: (b"b" * 100, VALUES[b"7"], len(VALUES)),
            f"(now := heap.read()) and ({_SHOWN}), now.close()": (shown, None),
            "last[b'7'], b'8' in last, last.get(b'9')": (VALUES[b"7"], True, VALUES[b"9"]),
            f"(other := pmemheap.open({str(path)!r})) and (now := other.read()) and ({_SHOWN}),"
            " now.close(), other.close()": (shown, None, None),
        }
        assert {look: reader(look) for look in looks} == looks
        fd = os.open(path, os.O_RDWR)
        some = places(path.read_bytes()[: layout.HEADER_BYTES])
        for number in range(rounds):
            at, length = rng.choice(some)
            old = os.pread(fd, length, at)
            os.pwrite(fd, forged(rng, old), at)
            for look, expected in looks.items():
                found = outcome(reader(look), expected)
                seen[
                    f"{found}, seed {seed}, round {number}, byte {at:#x}"[: _SHORT.get(found)]
                ] += 1
            os.pwrite(fd, old, at)
        os.close(fd)
    return seen


_SHORT = {"right": 5, "refused": 7}
_REFUSALS = {"CorruptHeapError", "HeapBusyError", "UsageError", "KeyError", "OutOfSpaceError"}


def outcome(found: object, expected: object) -> str:
    """Return whether a look was right, or an exception of ours; or else what it was."""
    if found == expected:
        return "right"
    if isinstance(found, str) and found.split(":")[0] in _REFUSALS:
        return "refused"
    return f"wrong: {found!r:.200}"


def main() -> int:
    """Run it, and say what was seen; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        seen = run(Path(home) / "heap", options.rounds, options.seed)
    for what, count in seen.most_common():
        print(f"{count:7} {what}")  # noqa: T201
    return any(what.startswith("wrong") for what in seen)


if __name__ == "__main__":
    sys.exit(main())
