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
import threading
from collections.abc import Hashable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from distributed.spill import SpillBuffer

from pmemheap import DurabilityError, OutOfSpaceError
from pmemheap.kvstore.shelf import Wrapped
from pmemheap.kvstore.store import KVStore

__all__ = ["AnyKeySpillStore", "HeapSpillBuffer", "SpillStore"]


class SpillStore(Wrapped[bytes]):
    """A store as a mapping of texts to bytes.

    A value may be any buffer, or a list or tuple of buffers, which are kept one behind the other. A
    file that cannot grow is an OSError, ENOSPC, and nothing has changed.

    Parameters
    ----------
    store : KVStore
        Open; `close` closes it.
    """

    _default = b""

    def dumps(self, value: Any) -> Any:
        """Return what is to be stored for a value."""
        return b"".join(value) if isinstance(value, list | tuple) else value

    def loads(self, data: bytes) -> bytes:
        """Return bytes as they are."""
        return data

    def set(
        self, key: str, value: Any, ttl: float | None = None, tag: str | bytes | None = None
    ) -> None:
        """Keep a value, for `ttl` seconds and with a tag if these are given."""
        with _full_disk():
            super().set(key, value, ttl, tag)

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep a value."""
        self.set(key, value)

    def put_many(self, pairs: Iterable[tuple[str, Any]], *, batch: int = 256) -> None:
        """Keep many values, in transactions of `batch` each."""
        with _full_disk():
            super().put_many(pairs, batch=batch)


@contextmanager
def _full_disk() -> Iterator[None]:
    """Let a lack of space be what Dask expects it to be."""
    try:
        yield
    except OutOfSpaceError as error:
        raise OSError(errno.ENOSPC, str(error)) from error


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

    Threads may share it: a lock keeps names and file in step.

    Parameters
    ----------
    upstream : SpillStore
        Of a `process` heap in a file: what is mapped is the file itself.
    """

    def __init__(self, upstream: SpillStore) -> None:
        self._upstream = upstream
        self._names: dict[Hashable, str] = {}
        self._numbers = count()
        self._lock = threading.RLock()

    def __getitem__(self, key: Hashable) -> bytearray:
        """Return a copy of the bytes that can be changed: arrays are made on top of it."""
        with self._lock, self._view(self._names[key]) as view:
            found = bytearray(view)
            _let_go(view)
        return found

    def __setitem__(self, key: Hashable, value: Any) -> None:
        """Keep bytes; see `SpillStore`."""
        with self._lock:
            name = self._names.get(key) or str(next(self._numbers))
            self._upstream[name] = value
            self._names[key] = name
            with self._view(name) as view:
                _let_go(view)

    def __delitem__(self, key: Hashable) -> None:
        """Forget a key; KeyError if it is not there."""
        with self._lock:
            del self._upstream[self._names[key]]
            del self._names[key]

    def setdefault(self, key: Hashable, default: Any = b"") -> bytes | bytearray:
        """Return the value of a key, which is `default` from now on if there was none."""
        with self._lock:
            if key not in self._names:
                self[key] = default
            return self[key]

    def pop(self, key: Hashable, *default: Any) -> Any:
        """Forget a key and return its value, or `default`."""
        with self._lock:
            return super().pop(key, *default)

    def popitem(self) -> tuple[Hashable, bytes | bytearray]:
        """Forget the oldest key and return it with its value; KeyError if there is none."""
        with self._lock:
            return super().popitem()

    def _view(self, name: str) -> memoryview:
        return self._upstream.store.view(name.encode())

    def __contains__(self, key: object) -> bool:
        """Tell whether a key is there."""
        return key in self._names

    def __iter__(self) -> Iterator[Hashable]:
        """Yield the keys, oldest first; what is added or removed meanwhile is seen or not."""
        return iter(list(self._names))

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
    headroom : int, optional
        Bytes of address space to keep free for the file; see `pmemheap.kvstore.KVStore`.

    Examples
    --------
    ``Worker(scheduler, data=(HeapSpillBuffer, {"target": 1 << 30}))``, or the same of a
    `LocalCluster`.
    """

    def __init__(
        self,
        worker_local_directory: str,
        target: int,
        max_spill: int | Literal[False] = False,
        *,
        headroom: int | None = None,
    ) -> None:
        directory = Path(worker_local_directory, "storage")
        super().__init__(str(directory), target, max_spill)
        self.path: Path = directory.absolute() / "spill.heap"
        self.store: KVStore = KVStore(str(self.path), "process", flag="n", headroom=headroom)
        below = AnyKeySpillStore(SpillStore(self.store))
        self._slow_uncached.d = cast("MutableMapping[Any, bytes]", below)

    def close(self) -> None:
        """Close the store, and remove its file; a worker may have removed its directory before."""
        with suppress(DurabilityError):
            super().close()
        self.path.unlink(missing_ok=True)
