"""A reader's arrays stay where they are, with their bytes, whatever the writer does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from reader_world import DURABILITIES, Reader

import pmemheap
from pmemheap import Heap
from pmemheap.containers import SortedMap

GROWTHS = 60
_WRITER = """
import sys
import pmemheap
from pmemheap.containers import SortedMap

heap = pmemheap.open(sys.argv[1], "w", readers=True)
print("open", flush=True)
sys.stdin.readline()  # until readers have what they look at
table = SortedMap(heap, "table")
del heap.roots["part"]
heap.arena("shown").drop()
arenas = [heap, *(heap.arena(f"arena {n}") for n in range(19))]
before = sum(each.stats().growths for each in arenas)
for number in range(400):
    with heap.transaction() as tx:  # what readers show is replaced, and freed
        for name in "first", "last", "large":
            block = tx.alloc(1 << 20 if name == "large" else 5000)
            block.view[:] = bytes([number % 251]) * block.size
            tx.free(tx.roots[name])
            tx.roots[name] = block.offset
            del block
        table[b"key %d" % number] = b"%d" % number * 300
    arenas[number % 20].malloc(1 << 20)
    grown = sum(each.stats().growths for each in arenas) - before
    if grown >= int(sys.argv[2]):
        break
for offset, size in list(heap.blocks()):
    if size == 1 << 20 and offset not in heap.roots.values():
        heap.free(offset)
heap.trim()  # head and tail
table.compact()
heap.trim()
print(grown, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("durability", DURABILITIES)
def test_they_stay(tmp_path: Path, durability: pmemheap.DurabilityName) -> None:
    """60 growths, a trim of head and tail, a compact, a drop, and the writer's SIGKILL."""
    path = tmp_path / "a.heap"
    with Heap.create(path, durability=durability) as heap:
        SortedMap(heap, "table").update({b"%d" % n: b"value %d" % n for n in range(500)})
        for name in "first", "last", "large", "part":
            arena = heap.arena("shown") if name == "part" else heap
            heap.roots[name] = offset = arena.malloc(1 << 20 if name in {"large", "part"} else 5000)
            heap.view(offset)[:] = name[:1].encode() * heap.usable_size(offset)
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(GROWTHS)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdin is not None
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    with Reader(path) as reader:
        names = {"first": 5000, "last": 5000, "large": 1 << 20, "part": 1 << 20}
        for name, size in names.items():
            shown = f"snap.ndarray_at(snap.roots[{name!r}], {size}, 'u1')"
            reader(f"({name} := {shown}) is None")
        reader("(value := SortedMap(snap, 'table').view(b'7')) is None")
        addresses = reader(f"[each.ctypes.data for each in ({', '.join(names)})]")

        def require_as_it_was() -> None:
            found = reader(
                f"[({{*map(int, each)}}, each.ctypes.data) for each in ({', '.join(names)})]"
            )
            assert found == [
                ({ord(name[0])}, at) for name, at in zip(names, addresses, strict=True)
            ]
            assert reader("bytes(value)") == b"value 7"
            assert reader("SortedMap(snap, 'table')[b'7'], len(SortedMap(snap, 'table'))") == (
                b"value 7",
                500,
            )

        print(file=writer.stdin, flush=True)
        assert int(writer.stdout.readline()) >= GROWTHS
        require_as_it_was()
        writer.kill()
        writer.wait()
        require_as_it_was()
        reader("snap.refresh()")
        assert reader("len(SortedMap(snap, 'table'))") > 500
        reader("snap.close()")
        found = reader(f"[each.ctypes.data for each in ({', '.join(names)})]")
        assert found == addresses
    for stream in writer.stdin, writer.stdout:
        stream.close()
    with Heap.open(path) as heap:
        assert heap.check()
