"""InHeap and StoreFile: a store in a heap, and the heap file that a store has for itself.

    InHeap      transactions, sync, and what the heap says of itself
    StoreFile   the file besides: opened, copied, closed

What lies in the heap is the matter of what derives from them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

import pmemheap
from pmemheap.kvstore.closing import Closing
from pmemheap.refusals import end_with

if TYPE_CHECKING:
    from pmemheap.heap.transaction import Transaction

__all__ = ["AnyPath", "InHeap", "StoreFile"]

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""What `open` takes as a name of a file."""


class InHeap:
    """A store in a heap."""

    _heap: pmemheap.Heap
    _durable: bool | None

    @property
    def path(self) -> str:
        """Path of the file."""
        return self._heap.name

    @property
    def durability(self) -> str:
        """``"power"`` or ``"process"``."""
        return self._heap.durability

    @property
    def closed(self) -> bool:
        """Whether it cannot be used any more."""
        return self._heap.closed

    @property
    def readonly(self) -> bool:
        """Whether it was opened to read."""
        return self._heap.readonly

    def transaction(self, durable: bool | None = None) -> Transaction:
        """Return a transaction of this thread: a context manager; it aborts on an error.

        Inside of an open one it is a savepoint: an error takes back what was done in it alone.

        Parameters
        ----------
        durable : bool, optional
            Whether the commit waits until a power failure cannot take it back; if left out, as the
            store was opened, else it does in a power store.

        Raises
        ------
        UsageError
            The store is closed or read-only.
        """
        return self._heap.transaction(durable=self._durable if durable is None else durable)

    def sync(self) -> None:
        """Wait until everything that was committed is on the medium."""
        self._heap.sync()

    def __reduce__(self) -> NoReturn:
        """Refuse: a store is a file that is open."""
        raise TypeError(f"{self!r}: cannot be pickled; open the file again")


class StoreFile(InHeap, Closing):
    """The file of a store.

    Parameters
    ----------
    path, flag, durability, durable, limit, headroom, readers
        As of `pmemheap.kvstore.KVStore`.
    """

    def __init__(  # noqa: PLR0913 -- options of a file, all by name
        self,
        path: AnyPath,
        flag: pmemheap.OpenFlag,
        *,
        durability: pmemheap.DurabilityName | None,
        durable: bool | None,
        limit: int | None,
        headroom: int | None,
        readers: bool,
    ) -> None:
        self._is_new = flag in {"c", "n"} and not os.path.lexists(path)
        self._heap = pmemheap.open(
            os.fsdecode(path), flag, durability=durability, limit=limit, headroom=headroom,
            readers=readers,
        )  # fmt: skip
        self._durable = durable

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close the file if what is in it cannot be opened; one that was made for it goes."""
        try:
            yield
        except BaseException as error:
            is_void = self._is_new and self._is_empty()
            end_with(error, self.close)
            if is_void:
                end_with(error, lambda: os.unlink(self.path))
            raise

    def _is_empty(self) -> bool:
        """Tell whether there is nothing in it; another thread may have made it meanwhile."""
        with suppress(pmemheap.PmemHeapError):
            return not self._heap.roots and next(self._heap.blocks(), None) is None
        return False

    def snapshot(self, path: AnyPath, *, replace: bool = False) -> None:
        """Copy the store, as it is now, to a new file; see `pmemheap.Heap.snapshot`.

        Raises
        ------
        UsageError
            A transaction is open; a file is there, and `replace` is false. There is no copy.
        """
        self._heap.snapshot(os.fsdecode(path), replace=replace)

    def close(self) -> None:
        """Sync and close; twice is allowed. What is dropped, or open at exit, is closed as well.

        Raises
        ------
        BufferError
            Views are alive, or a transaction is open; the store stays open.
        """
        self._heap.close()
