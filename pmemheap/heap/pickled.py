"""Pickled: Python objects in a block, the bytes of their arrays beside the pickle (PEP 574).

    0          24                                           multiples of 64
    +----------+---------------------+--------+------------+----------+---- - -
    | header   | a row for each      | pickle | (padding)  | buffer 0 | ...
    |          | buffer: start, size |        |            |          |
    +----------+---------------------+--------+------------+----------+---- - -

What is loaded has its buffers in the block: nothing is copied, and the block cannot be freed as
long as one of them lives.
"""

from __future__ import annotations

from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Any

from pmemheap.errors import CorruptHeapError, UsageError
from pmemheap.heap.handles import allocate, give_up
from pmemheap.refusals import end_with
from pmemheap.units import align_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmemheap.heap.blockspace import BlockSpace

__all__ = ["dump", "load"]

_MAGIC = b"PHPICKLE"
_HEADER = Struct("<8sQQ")  # magic, number of buffers, bytes of the pickle
_ROW = Struct("<QQ")  # start, and twice the size, plus one if it is read-only
_ALIGN = 64
_PROTOCOL = 5


def dump(heap: BlockSpace, value: object) -> int:
    """Store an object in a new block; return its offset. Joins a transaction as `alloc` does."""
    import pickle  # noqa: PLC0415 -- slow to import

    buffers: list[memoryview] = []
    data = pickle.dumps(
        value, _PROTOCOL, buffer_callback=lambda buffer: buffers.append(buffer.raw())
    )
    begin = _HEADER.size + _ROW.size * len(buffers)
    rows, total = [], begin + len(data)
    for buffer in buffers:
        start = align_up(total, _ALIGN)
        rows.append((start, 2 * len(buffer) + buffer.readonly))
        total = start + len(buffer)
    offset = allocate(heap, total, _ALIGN)
    try:
        with heap.view(offset, total) as view:
            _HEADER.pack_into(view, 0, _MAGIC, len(buffers), len(data))
            for i, row in enumerate(rows):
                _ROW.pack_into(view, _HEADER.size + _ROW.size * i, *row)
            view[begin : begin + len(data)] = data
            for (start, _), buffer in zip(rows, buffers, strict=True):
                view[start : start + len(buffer)] = buffer
    except BaseException as error:
        end_with(error, partial(give_up, heap, offset, False))
        raise
    return offset


def load(heap: BlockSpace, offset: int) -> Any:
    """Return the object in a block, with its buffers where they are."""
    view = heap.view(offset)
    if len(view) < _HEADER.size or view[: len(_MAGIC)] != _MAGIC:
        raise UsageError(
            f"load: what dump() stored expected in the block at offset {offset:#x}, found "
            f"{bytes(view[: len(_MAGIC)])!r}"
        )
    _, count, length = _HEADER.unpack_from(view)
    begin = _HEADER.size + _ROW.size * count
    if begin + length > len(view):
        raise CorruptHeapError(
            f"load: {count} buffers and a pickle of {length} bytes expected in the block at offset "
            f"{offset:#x}, found {len(view)} bytes"
        )
    data, table = view[begin : begin + length], view[_HEADER.size : begin]
    import pickle  # noqa: PLC0415 -- slow to import

    return pickle.loads(data, buffers=list(_buffers(view, table, offset)))


def _buffers(view: memoryview, table: memoryview, offset: int) -> Iterator[memoryview]:
    for start, twice in _ROW.iter_unpack(table):
        size = twice // 2
        if start + size > len(view):
            raise CorruptHeapError(
                f"load: a buffer of {size} bytes at byte {start} expected in the block at offset "
                f"{offset:#x}, found {len(view)} bytes"
            )
        buffer = view[start : start + size]
        yield buffer.toreadonly() if twice % 2 else buffer
