"""A small key-value store: how one is built on pmemheap. README.md goes with it.

    fruit.heap
      root "values"    --> SortedMap: key -> value
      root "deadlines" --> SortedMap: key -> 8 bytes, nanoseconds since 1970; keys that expire
      root "due"       --> SortedMap: the same 8 bytes + key -> nothing; what is due, in order

Invariant: a key that has a deadline stands in all three maps. Every change is one transaction, so
a crash leaves the maps before it or after it, and `check` never finds them apart.

Run it by ``python examples/kvstore/small_store.py fruit.heap``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from itertools import islice, takewhile

import pmemheap
from pmemheap.containers import SortedMap

NS = 1_000_000_000
BATCH = 100


class SmallStore(MutableMapping[bytes, bytes]):
    """A mapping of bytes to bytes in a file, in key order, whose keys may expire."""

    def __init__(
        self,
        path: str,
        durability: pmemheap.DurabilityName | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        # The heap: one file, which is made if it is not there. What has been committed is in it
        # after a crash; nothing has to be repaired or loaded here.
        self.heap = pmemheap.open(path, "c", durability=durability)
        self.clock = clock
        # The roots: names by which the maps are found again. Inside of a transaction a new file
        # gets all three or none.
        with self.heap.transaction():
            self.values_of = SortedMap(self.heap, "values")
            self.deadlines = SortedMap(self.heap, "deadlines")
            self.due = SortedMap(self.heap, "due")

    # ------------------------------------------------------------ reading

    def __getitem__(self, key: bytes) -> bytes:
        """Return a value. Reading takes no lock and changes nothing, so it never waits."""
        if self._is_over(key):
            raise KeyError(key)
        return self.values_of[key]

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys in order."""
        return self.between(None, None)

    def between(self, start: bytes | None, stop: bytes | None) -> Iterator[bytes]:
        """Yield the keys from `start` up to, without, `stop`: a range of a sorted map."""
        return (key for key in self.values_of.keys(start, stop) if not self._is_over(key))

    def __len__(self) -> int:
        """Return the number of keys that have not expired."""
        return len(self.values_of) - sum(1 for _ in self._over())

    def _is_over(self, key: bytes) -> bool:
        deadline = self.deadlines.get(key)
        return deadline is not None and int.from_bytes(deadline, "big") <= self.clock()

    # ------------------------------------------------------------ changing

    def __setitem__(self, key: bytes, value: bytes) -> None:
        """Give a key a value."""
        self.set(key, value)

    def set(self, key: bytes, value: bytes, seconds: float | None = None) -> None:
        """Give a key a value, for some seconds or for good."""
        # The transaction: all of the block is committed when it is left, or nothing of it if it
        # raises. In a "power" heap leaving it takes one sync, however many maps have changed.
        with self.heap.transaction():
            self.values_of[key] = value
            self._forget_deadline(key)
            if seconds is not None:
                moment = (self.clock() + int(seconds * NS)).to_bytes(8, "big")
                self.deadlines[key] = moment
                self.due[moment + key] = b""  # big-endian: the order of bytes is that of time

    def __delitem__(self, key: bytes) -> None:
        """Remove a key."""
        # `exclusive` is a transaction in which what is read stays true until the commit: no other
        # thread can store the key between the look and the removal.
        with self.values_of.exclusive():
            was_over = self._is_over(key)
            self._forget_deadline(key)
            found = self.values_of.discard(key)
        if was_over or not found:
            raise KeyError(key)

    def _forget_deadline(self, key: bytes) -> None:
        moment = self.deadlines.pop(key, None)
        if moment is not None:
            del self.due[moment + key]

    # ------------------------------------------------------------ upkeep

    def _over(self) -> Iterator[bytes]:
        """Yield what is due, `moment + key`, earliest first: it stops at the first that is not."""
        now = self.clock()
        return takewhile(lambda entry: int.from_bytes(entry[:8], "big") <= now, self.due)

    def purge(self) -> int:
        """Remove the keys that have expired; return how many."""
        removed = 0
        # In batches: a transaction has to fit into the log, and others wait while it is open.
        while entries := list(islice(self._over(), BATCH)):
            with self.values_of.exclusive():
                for entry in entries:
                    if self.due.discard(entry):  # another thread may have been faster
                        self.deadlines.discard(entry[8:])
                        removed += self.values_of.discard(entry[8:])
        return removed

    def compact(self) -> int:
        """Give back the space that is not needed; return how many bytes."""
        self.purge()
        for each in (self.values_of, self.deadlines, self.due):
            each.compact()  # moves entries together
        self.heap.sync()  # blocks that a lazy commit has freed can be used from then on
        return self.heap.trim()  # gives free pages back to the file system

    def check(self) -> None:
        """Raise if something is wrong that no crash may bring about."""
        for each in (self.values_of, self.deadlines, self.due):
            each.check()
        expected = {moment + key for key, moment in self.deadlines.items()}
        if expected != set(self.due) or not self.deadlines.keys() <= self.values_of.keys():
            raise pmemheap.CorruptHeapError(f"{self.heap.name}: maps in step expected, found apart")

    def close(self) -> None:
        """Sync and close the file."""
        self.heap.close()


def main(path: str) -> None:
    """Fill a store, use it, and open it again."""
    store = SmallStore(path)
    with store.heap.transaction():  # all thousand or none, and one sync
        for number in range(1000):
            store[b"fruit:%03d" % number] = b"%d pieces" % number
    print(len(store), "keys,", len(list(store.between(b"fruit:100", b"fruit:200"))), "of a hundred")
    store.set(b"session", b"token", seconds=0.01)
    time.sleep(0.02)
    print("session" if b"session" in store else "no session", "after its deadline")
    with store.heap.transaction():
        for key in list(store)[:900]:
            del store[key]
    print(store.compact(), "bytes given back")
    store.close()
    store = SmallStore(path)
    store.check()
    print(len(store), "keys after it was opened again")
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
