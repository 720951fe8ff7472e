"""Array store: named numpy arrays in a heap file, handed out without a copy.

    root "index" --> block with JSON: name -> [offset, shape, dtype]
                                                  |
                                                  v
                                        block with the bytes of the array

The index is written to a new block, and the root is moved to it, before the old one is freed: a
process that is killed in between leaves the old state or the new one, and at most a block that
nobody names. Needs numpy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

import pmemheap

Array = np.ndarray[Any, Any]


class ArrayStore(MutableMapping[str, Array]):
    """A mapping of names to arrays that live in a heap file.

    Arrays that were handed out stay valid while the store grows, and after they were replaced or
    deleted: their space is free when the last of them is gone.
    """

    def __init__(self, path: str) -> None:
        self.heap = pmemheap.open(path, "c", durability="process")
        self._index: dict[str, tuple[int, list[int], str]] = {}
        if "index" in self.heap.roots:
            with self.heap.view(self.heap.roots["index"]) as view:
                self._index = json.loads(bytes(view).rstrip(b"\0"))

    def __getitem__(self, name: str) -> Array:
        """Return the array itself: what is stored into it is stored in the file."""
        offset, shape, dtype = self._index[name]
        return self.heap.ndarray_at(offset, tuple(shape), dtype)

    def __setitem__(self, name: str, values: Array) -> None:
        """Copy an array into the store; TypeError for a name that its index could not keep."""
        if not isinstance(name, str):
            raise TypeError(f"name: str expected, found {name!r}")
        values = np.asarray(values)
        array = self.heap.ndarray(values.shape, values.dtype)
        array[...] = values
        old = self._index.get(name)
        entry = (self.heap.offset_of(array), list(values.shape), values.dtype.str)
        self._write_index({**self._index, name: entry})
        if old is not None:
            self.heap.free(old[0], deferred=True)

    def __delitem__(self, name: str) -> None:
        """Forget an array; its space is free when nobody looks at it any more."""
        offset = self._index[name][0]
        self._write_index({key: value for key, value in self._index.items() if key != name})
        self.heap.free(offset, deferred=True)

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._index)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._index)

    def close(self) -> None:
        """Give free space back and close; BufferError while arrays are in use."""
        self.heap.trim()
        self.heap.close()

    def _write_index(self, index: dict[str, tuple[int, list[int], str]]) -> None:
        text = json.dumps(index).encode()
        old = self.heap.roots.get("index")
        new = self.heap.malloc(len(text))
        with self.heap.view(new) as view:
            view[:] = text.ljust(len(view), b"\0")
        self.heap.roots["index"] = new
        self._index = index
        if old is not None:
            self.heap.free(old)


def main(path: str) -> None:
    """Store, read in place, replace while reading, and reopen."""
    store = ArrayStore(path)
    store["squares"] = np.arange(1_000) ** 2
    squares = store["squares"]
    store["noise"] = np.random.default_rng(0).standard_normal((1_000, 1_000))
    store["squares"] = np.zeros(3)
    print(f"still there while in use: {squares[-1]}; replaced by {store['squares']}")
    del squares
    store.close()
    store = ArrayStore(path)
    print({name: array.shape for name, array in store.items()}, store.heap.stats().file_bytes)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1])
