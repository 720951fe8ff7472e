"""One process changes a store, others read it: workers that are started by spawn and by fork.

    writer   KVStore(path, readers=True)   each transaction is one commit
    worker   KVStore(path, flag="r")       opened after the start, read as of a commit

A worker opens the file by itself, and each answer is of one commit.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

import pmemheap
from pmemheap.kvstore import KVStore

STORES: dict[str, KVStore] = {}
ACCOUNTS = [b"account:%d" % n for n in range(50)]


def begin(path: str) -> None:
    """Open the store in a worker: each process has its own, however it was started."""
    STORES["shop"] = KVStore(path, flag="r")


def total(_: int) -> int:
    """Answer a request: the sum over all accounts, as of one commit."""
    with STORES["shop"].read() as now:
        return sum(int(balance) for _, balance in now.prefix(b"account:"))


def serve(path: str, method: str) -> None:
    """Move money about while workers add up; no sum sees half of a transaction."""
    with KVStore(path, "process", "c", readers=True) as shop:
        with shop.transaction():
            shop.update(dict.fromkeys(ACCOUNTS, b"100"))
        with multiprocessing.get_context(method).Pool(2, begin, (path,)) as workers:
            sums = workers.map_async(total, range(60), chunksize=5)
            while not sums.ready():
                for taker, giver in pairwise(ACCOUNTS):
                    with shop.transaction():
                        shop.incr(taker, 5)
                        shop.incr(giver, -5)
            found = set(sums.get())
        assert found == {100 * len(ACCOUNTS)}, found
        print(f"{method}: all sums are {found.pop()}")


def load(path: str, rows: int) -> float:
    """Read a table of a heap in another process, without a copy."""
    with pmemheap.open(path) as heap, heap.read() as commit:
        table = commit.ndarray_at(commit.roots["table"], (rows, 4))
        found = float(table.sum())
        del table
    return found


def train(path: str, rows: int) -> None:
    """Replace a table, transaction by transaction, beside the processes that load it."""
    with pmemheap.open(path, "n", durability="process", readers=True) as heap:
        for turn in range(2):
            with heap.transaction() as change:
                block = change.alloc(rows * 4 * 8)
                np.frombuffer(block.view)[:] = turn
                if "table" in heap.roots:
                    change.free(heap.roots["table"])
                change.roots["table"] = block.offset
                del block
            with multiprocessing.get_context("spawn").Pool(1) as loaders:
                assert loaders.apply(load, (path, rows)) == turn * rows * 4
    print("loaders have read each table in place")


def main() -> None:
    """Run both."""
    with tempfile.TemporaryDirectory() as home:
        for method in "spawn", "fork":
            serve(str(Path(home) / f"{method}.kv"), method)
        train(str(Path(home) / "train.heap"), 10_000)


if __name__ == "__main__":
    main()
