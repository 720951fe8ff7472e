"""Feature store: vectors by key in a heap file, searched as one array, without a copy.

    map "features"     key -> index of a row
    arena "vectors"    rows of 128 floats, one behind the other: `table.rows` is all of them

A vector and its key are committed together. A search is one product of the matrix with a vector:
rows that are free are in it as well, and a mask leaves them out. Needs numpy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import numpy as np

import pmemheap
from pmemheap.containers import SortedMap

Vector = np.ndarray[Any, Any]

DIMENSIONS = 128


class FeatureStore(MutableMapping[bytes, Vector]):
    """A mapping of keys to vectors, which finds the nearest ones."""

    def __init__(self, path: str) -> None:
        self.heap = pmemheap.open(path, "c", durability="process")
        self.table = self.heap.arena("vectors", strategy=pmemheap.Rows(("f4", DIMENSIONS)))
        self.keys_by_name = SortedMap(self.heap, "features")

    def __getitem__(self, key: bytes) -> Vector:
        """Return the row itself: what is stored into it is stored in the file."""
        return self.table.row(int.from_bytes(self.keys_by_name[key], "little"))

    def __setitem__(self, key: bytes, values: Vector) -> None:
        """Put a vector under a key, in a row of its own or in the one that it has."""
        self.update_many([(key, values)])

    def update_many(self, items: Iterable[tuple[bytes, Vector]]) -> None:
        """Put many vectors, in one commit: all of them are there after a crash, or none."""
        with self.heap.transaction() as tx:
            for key, values in items:
                data = np.asarray(values, "f4").reshape(DIMENSIONS)
                old = self.keys_by_name.get(key)
                if old is None:
                    offset = tx.malloc(data.nbytes, arena=self.table)
                    number = (offset - self.table.offset(0)) // data.nbytes
                    self.keys_by_name[key] = number.to_bytes(8, "little")
                else:
                    offset = self.table.offset(int.from_bytes(old, "little"))
                tx.write(offset, data.tobytes())

    def __delitem__(self, key: bytes) -> None:
        """Forget a vector; the next one has its row."""
        index = int.from_bytes(self.keys_by_name[key], "little")
        with self.heap.transaction() as tx:
            del self.keys_by_name[key]
            tx.free(self.table.offset(index))

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys, in order."""
        return iter(self.keys_by_name)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.keys_by_name)

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """Return (index, product) of the vectors whose product with one is greatest."""
        products = self.table.rows @ np.asarray(vector, "f4")
        products[~self.table.live] = -np.inf
        best = np.argsort(products)[::-1][: min(count, len(self))]
        return [(int(index), float(products[index])) for index in best]

    def close(self) -> None:
        """Close the heap: BufferError if somebody still looks at a row."""
        self.heap.close()


def main(path: str) -> None:
    """Store a few thousand vectors, find one of them again, and say where it is."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5000, DIMENSIONS)).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = FeatureStore(path)
    store.update_many((b"item %05d" % n, vector) for n, vector in enumerate(vectors))
    ((index, product),) = store.nearest(store[b"item 01234"], 1)
    print(
        f"{len(store)} vectors; the nearest to item 01234 is in row {index}, product {product:.3f}"
    )
    store.close()


if __name__ == "__main__":
    main(sys.argv[1])
