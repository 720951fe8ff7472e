"""spill: values that do not fit into memory go to a heap file; the slow half of a `zict.Buffer`.

    zict.Buffer({}, SpillStore(store), n)      str -> bytes: kept, and found again after a restart

    HeapSpillBuffer                            what a Dask worker keeps its results in
      fast  {key: object}                      up to `target` bytes
      slow  Slow (of Dask: pickles, counts)
              d: AnyKeySpillStore              key -> bytes, in one heap file instead of a file each

What a worker spills is of no use after it has ended: its heap is a `process` one, which never waits
for the disk, and a file that an earlier worker left is removed. A full disk is an OSError, as Dask
expects it: the value stays in memory.

Pages of a file that a process has touched count as its resident memory, by which Dask decides
whether a worker has to pause, until the kernel wants them back. So the pages of a value are let go
as soon as it is stored or read: they stay in the page cache, and come back when they are touched.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Hashable, Iterator, MutableMapping
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from distributed.spill import SpillBuffer

from kvstore.store import KVStore

__all__ = ["AnyKeySpillStore", "HeapSpillBuffer", "SpillStore"]


class SpillStore(MutableMapping[str, bytes]):
    """A store as a mapping of texts to bytes.

    Parameters
    ----------
    store : KVStore
        Open; `close` closes it.
    """

    def __init__(self, store: KVStore) -> None:
        self.store = store

    def __getitem__(self, key: str) -> bytes:
        """Return a copy of the bytes."""
        try:
            return self.store[key.encode()]
        except KeyError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep the bytes of a buffer, or of a list of them, one behind the other.

        Raises
        ------
        OSError
            ENOSPC: the file cannot grow. Nothing has changed.
        """
        try:
            self.store[key.encode()] = b"".join(value) if isinstance(value, list) else value
        except MemoryError as error:
            raise OSError(errno.ENOSPC, str(error)) from error

    def __delitem__(self, key: str) -> None:
        """Forget a key; KeyError if it is not there."""
        try:
            del self.store[key.encode()]
        except KeyError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        """Tell whether a key is there, without reading its value."""
        return isinstance(key, str) and key.encode() in self.store

    def __iter__(self) -> Iterator[str]:
        """Yield the keys, in the order of their bytes."""
        return (key.decode() for key in self.store)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self.store)

    def close(self) -> None:
        """Close the store."""
        self.store.close()


_libc = ctypes.CDLL(None, use_errno=True)


def _let_go(view: memoryview) -> None:
    """Unmap the whole pages of a value, for now: nothing is lost of a shared map of a file."""
    if view.nbytes >= mmap.PAGESIZE:
        address = np.frombuffer(view, "u1").ctypes.data
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = address + view.nbytes - start
        length -= length % mmap.PAGESIZE
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


class AnyKeySpillStore(MutableMapping[Hashable, bytes | bytearray]):
    """The same for keys of any kind, which are kept in memory; the file knows them by numbers.

    Parameters
    ----------
    upstream : SpillStore
        Of a `process` heap in a file: what is mapped is the file itself.
    """

    def __init__(self, upstream: SpillStore) -> None:
        self._upstream = upstream
        self._names: dict[Hashable, str] = {}
        self._numbers = count()

    def __getitem__(self, key: Hashable) -> bytearray:
        """Return a copy of the bytes that can be changed: arrays are made on top of it."""
        with self._upstream.store.view(self._names[key].encode()) as view:
            found = bytearray(view)
            _let_go(view)
        return found

    def __setitem__(self, key: Hashable, value: Any) -> None:
        """Keep bytes; see `SpillStore.__setitem__`."""
        name = self._names.get(key) or str(next(self._numbers))
        self._upstream[name] = value
        self._names[key] = name
        with self._upstream.store.view(name.encode()) as view:
            _let_go(view)

    def __delitem__(self, key: Hashable) -> None:
        """Forget a key; KeyError if it is not there."""
        del self._upstream[self._names[key]]
        del self._names[key]

    def __contains__(self, key: object) -> bool:
        """Tell whether a key is there."""
        return key in self._names

    def __iter__(self) -> Iterator[Hashable]:
        """Yield the keys, oldest first."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._names)

    def close(self) -> None:
        """Close the store."""
        self._upstream.close()


class HeapSpillBuffer(SpillBuffer):
    """Dask's spill buffer with a heap file below it.

    Parameters
    ----------
    worker_local_directory : str
        Where the file goes, ``storage/spill.heap``; a worker fills this in itself.
    target : int
        Bytes of values in memory from which on the oldest are spilled.
    max_spill : int or False
        Bytes that are spilled at most.

    Examples
    --------
    ``Worker(scheduler, data=(HeapSpillBuffer, {"target": 1 << 30}))``, or the same of a
    `LocalCluster`.
    """

    def __init__(
        self, worker_local_directory: str, target: int, max_spill: int | Literal[False] = False
    ) -> None:
        directory = Path(worker_local_directory, "storage")
        super().__init__(str(directory), target, max_spill)
        self.path = directory / "spill.heap"
        self.path.unlink(missing_ok=True)
        self.store = KVStore(str(self.path), durability="process")
        below = AnyKeySpillStore(SpillStore(self.store))
        self._slow_uncached.d = cast("MutableMapping[Any, bytes]", below)

    def close(self) -> None:
        """Close the store, and remove its file."""
        super().close()
        self.path.unlink(missing_ok=True)
