"""Library: named texts as records of a heap. `pmemheap demo` fills, changes and reads it back.

    root "index" --> index block    | offset, length | offset, length | 0, 0 | ...   uint64 pairs
                                        |
                     record         | SHA-256 of the text | name bytes | name | text |

A removed record leaves a pair of zeros. The index is a block like others: when it is full it is
reallocated at twice its size, and may move; the root follows it.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pmemheap.errors import CorruptHeapError
from pmemheap.heap.heap import Heap
from pmemheap.heap.transaction import Transaction

__all__ = ["Library", "address_of"]

_HEAD = struct.Struct("<32sH")
_PAIR = struct.Struct("<QQ")
_PAIR_BYTES = _PAIR.size
_FIRST_PAIRS = 64
_ROOT = "index"


def address_of(view: memoryview) -> int:
    """Return where the first byte of a writable view lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


class Library:
    """The records of a heap.

    Parameters
    ----------
    heap : Heap
        Whose records they are; without the root it gets an empty index.
    """

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self._used = 0
        if _ROOT not in heap.roots:
            heap.roots[_ROOT] = heap.malloc(_FIRST_PAIRS * _PAIR_BYTES)
            self._clear(0)
        else:
            self._used = max(self.slots(), default=-1) + 1

    # ------------------------------------------------------------ changing

    def add(self, name: str, text: bytes) -> int:
        """Store a text and return its slot in the index."""
        slot = self._used
        if slot == self._capacity():
            self.widen(2 * slot)
        encoded = name.encode()
        offset = self.heap.malloc(_HEAD.size + len(encoded) + len(text))
        self._write(slot, offset, encoded, text)
        self._used += 1
        return slot

    def widen(self, records: int) -> None:
        """Make the index wide enough for so many records."""
        old = self._capacity()
        if records > old:
            index = self.heap.roots[_ROOT]
            if not self.heap.expand(index, records * _PAIR_BYTES):
                with self.heap.transaction() as tx:
                    tx.roots[_ROOT] = tx.realloc(index, records * _PAIR_BYTES)
            self._clear(old)

    def replace(self, slot: int, text: bytes) -> None:
        """Give a record another text, where it is if it fits there."""
        name = self.name(slot).encode()
        offset, _ = self._pair(slot)
        offset = self.heap.realloc(offset, _HEAD.size + len(name) + len(text))
        self._write(slot, offset, name, text)

    def put(self, tx: Transaction, slot: int, text: bytes) -> None:
        """Give a record another text when a transaction commits."""
        name = self.name(slot).encode()
        old, _ = self._pair(slot)
        length = _HEAD.size + len(name) + len(text)
        offset = tx.malloc(length)
        head = _HEAD.pack(hashlib.sha256(text).digest(), len(name))
        tx.write(offset, head + name + text)
        tx.write(self.heap.roots[_ROOT] + slot * _PAIR_BYTES, _PAIR.pack(offset, length))
        tx.free(old)

    def remove(self, slot: int) -> None:
        """Free a record."""
        offset, _ = self._pair(slot)
        self._set_pair(slot, 0, 0)
        self.heap.free(offset)

    def _write(self, slot: int, offset: int, name: bytes, text: bytes) -> None:
        length = _HEAD.size + len(name) + len(text)
        with self.heap.view(offset, length) as record:
            _HEAD.pack_into(record, 0, hashlib.sha256(text).digest(), len(name))
            record[_HEAD.size : length] = name + text
        self._set_pair(slot, offset, length)

    # ------------------------------------------------------------ reading

    def slots(self) -> list[int]:
        """Return the slots in use."""
        with self._pairs() as pairs:
            return [at // 2 for at in range(1, len(pairs), 2) if pairs[at]]

    def name(self, slot: int) -> str:
        """Return the name of a record."""
        offset, length = self._pair(slot)
        with self.heap.view(offset, length) as record:
            _, name_length = _HEAD.unpack_from(record)
            return bytes(record[_HEAD.size : _HEAD.size + name_length]).decode()

    def text_bytes(self, slot: int) -> int:
        """Return how long the text of a record is."""
        with self.text_view(slot) as text:
            return len(text)

    def text_view(self, slot: int) -> memoryview:
        """Return the text of a record as a view of the heap's own memory."""
        offset, length = self._pair(slot)
        record = self.heap.view(offset, length)
        _, name_length = _HEAD.unpack_from(record)
        return record[_HEAD.size + name_length :]

    def verify(self, slot: int) -> tuple[str, bytes]:
        """Return name and SHA-256 of a record, after a check of every byte against that.

        Raises
        ------
        CorruptHeapError
            The bytes are not those that were stored.
        """
        name = self.name(slot)
        offset, length = self._pair(slot)
        with self.heap.view(offset, length) as record:
            expected, _ = _HEAD.unpack_from(record)
        with self.text_view(slot) as text:
            found = hashlib.sha256(text).digest()
        if found != expected:
            raise CorruptHeapError(
                f"record {name!r} at offset {offset:#x}: SHA-256 {expected.hex()} expected, "
                f"{found.hex()} found"
            )
        return name, found

    # ------------------------------------------------------------ index

    @contextmanager
    def _pairs(self) -> Iterator[memoryview]:
        with self.heap.view(self.heap.roots[_ROOT]) as raw, raw.cast("Q") as pairs:
            yield pairs

    def _pair(self, slot: int) -> tuple[int, int]:
        with self._pairs() as pairs:
            return pairs[2 * slot], pairs[2 * slot + 1]

    def _set_pair(self, slot: int, offset: int, length: int) -> None:
        with self._pairs() as pairs:
            pairs[2 * slot], pairs[2 * slot + 1] = offset, length

    def _capacity(self) -> int:
        return self.heap.usable_size(self.heap.roots[_ROOT]) // _PAIR_BYTES

    def _clear(self, first: int) -> None:
        with self._pairs() as pairs:
            for at in range(2 * first, len(pairs)):
                pairs[at] = 0
