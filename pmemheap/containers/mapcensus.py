"""Map census: a walk over all nodes of a sorted map, which verifies and counts.

Invariants: keys ascend, within a node and from node to node, and lie between those that lead there;
all leaves are equally deep; every node and every long value is a live block; what a node says of
its bytes adds up; the header has the number of entries.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from pmemheap.errors import PmemHeapError, UsageError
from pmemheap.native.constants import Format

__all__ = ["MapCensus", "MapStatistics"]

_NODE_BYTES = Format.NODE
_NODE = struct.Struct("<IBBHHHHH")
_SLOT = struct.Struct("<HH")
_ENTRY = struct.Struct("<HH")
_PLACE = struct.Struct("<QQ")
_CHILD = struct.Struct("<Q")
_APART = Format.APART
_NO_ROOT = (1 << 64) - 1


@dataclass(frozen=True)
class MapStatistics:
    """The parts of a map.

    Attributes
    ----------
    entries, height : int
        Keys; nodes from the root to a leaf, 0 in an empty map.
    nodes, leaves : int
        Of 4096 bytes each.
    key_bytes, value_bytes : int
        Of all keys and values.
    apart, apart_bytes : int
        Values in blocks of their own, and their bytes.
    waste_bytes : int
        In leaves: what was removed or replaced, until a leaf has no other room.
    """

    entries: int
    height: int
    nodes: int
    leaves: int
    key_bytes: int
    value_bytes: int
    apart: int
    apart_bytes: int
    waste_bytes: int

    @property
    def fill(self) -> float:
        """The part of the bytes of the leaves that is keys and values."""
        inside = self.key_bytes + self.value_bytes - self.apart_bytes
        return inside / (self.leaves * _NODE_BYTES) if self.leaves else 0.0


class MapCensus:
    """A walk over all nodes of a map, of which no other thread changes any meanwhile.

    Parameters
    ----------
    header : tuple of int
        Offset of the root, entries, height.
    node : callable
        Return the bytes of the node at an offset that is of a level; None if there is none.
    usable_size : callable, optional
        Return the bytes of the block at an offset; UsageError if there is none. None: the map is as
        of a commit, of whose blocks some may have been freed since.
    wrong : callable
        Return what to raise for an offset, what is expected there, and what was found.
    """

    def __init__(
        self,
        header: tuple[int, int, int],
        node: Callable[[int, int], bytes | None],
        usable_size: Callable[[int], int] | None,
        wrong: Callable[[int, str, str], PmemHeapError],
    ) -> None:
        root, self._count, self._height = header
        self._node, self._usable_size, self._wrong = node, usable_size, wrong
        self._nodes = self._leaves = self._entries = self._apart = 0
        self._key_bytes = self._value_bytes = self._apart_bytes = self._waste = 0
        self._seen: set[int] = set()
        if root == _NO_ROOT:
            self._height = 0
        else:
            self._walk(root, self._height - 1, None, None)

    def _walk(self, offset: int, level: int, low: bytes | None, high: bytes | None) -> None:
        node = self._node(offset, level)
        if node is None:
            raise self._wrong(offset, f"a node of level {level}", "none")
        if offset in self._seen:
            raise self._wrong(offset, "one way to a node", "two")
        self._seen.add(offset)
        self._require_block(offset, _NODE_BYTES, "a node")
        _, _, _, count, top, waste, prefix, _ = _NODE.unpack_from(node)
        slots = list(_SLOT.iter_unpack(node[_NODE.size : _NODE.size + _SLOT.size * count]))
        entries = [self._entry(node, offset, at) for at, _ in slots]
        live = sum(4 + len(key) + len(value) for key, _, value in entries)
        if live + waste != _NODE_BYTES - top:
            raise self._wrong(offset, f"{_NODE_BYTES - top} bytes of entries", f"{live} + {waste}")
        self._require_hints(
            offset,
            level,
            prefix,
            [(hint, entry[0]) for (_, hint), entry in zip(slots, entries, strict=True)],
        )
        self._require_order(offset, level, [key for key, _, _ in entries], low, high)
        self._nodes += 1
        if level == 0:
            self._count_leaf(offset, entries, waste)
            return
        if not entries:
            raise self._wrong(offset, "a child", "none")
        borders = [low, *(key for key, _, _ in entries[1:]), high]
        for number, (_, _, value) in enumerate(entries):
            if len(value) != _CHILD.size:
                raise self._wrong(offset, "the offset of a node", f"{len(value)} bytes")
            (child,) = _CHILD.unpack(value)
            self._walk(child, level - 1, borders[number], borders[number + 1])

    def _entry(self, node: bytes, offset: int, at: int) -> tuple[bytes, int, bytes]:
        if not _NODE.size <= at <= len(node) - _ENTRY.size:
            raise self._wrong(offset, "an entry inside of the node", f"one at {at}")
        nkey, said = _ENTRY.unpack_from(node, at)
        length = _PLACE.size if said == _APART else said
        stop = at + _ENTRY.size + nkey + length
        if stop > len(node):
            raise self._wrong(offset, "an entry inside of the node", f"{at} to {stop}")
        start = at + _ENTRY.size
        return node[start : start + nkey], said, node[start + nkey : stop]

    def _require_hints(
        self, offset: int, level: int, prefix: int, hinted: list[tuple[int, bytes]]
    ) -> None:
        """Keys begin alike, and hints are their next two bytes; entry 0 above the leaves apart."""
        counting = hinted[1:] if level else hinted
        for hint, key in counting:
            if key[:prefix] != counting[0][1][:prefix]:
                raise self._wrong(offset, f"{prefix} bytes in common with {key!r}", "fewer")
            if hint != int.from_bytes(key[prefix : prefix + 2].ljust(2, b"\0"), "big"):
                raise self._wrong(offset, f"a hint of {key!r}", f"{hint:#x}")

    def _require_order(
        self, offset: int, level: int, keys: list[bytes], low: bytes | None, high: bytes | None
    ) -> None:
        """Keys ascend between those that lead here; above the leaves the first does not count."""
        counting = keys[1:] if level else keys
        bounded = [*([] if low is None else [low]), *counting]
        for left, right in pairwise(bounded):
            if left > right or (left == right and left is not low):
                raise self._wrong(offset, "ascending keys", f"{left!r} before {right!r}")
        if high is not None and counting and counting[-1] >= high:
            raise self._wrong(offset, f"keys below {high!r}", f"{counting[-1]!r}")

    def _count_leaf(self, offset: int, entries: list[tuple[bytes, int, bytes]], waste: int) -> None:
        self._leaves += 1
        self._waste += waste
        self._entries += len(entries)
        for key, said, value in entries:
            length = len(value)
            if said == _APART:
                block, length = _PLACE.unpack(value)
                self._require_block(block, length, f"the value of {key!r} of node {offset:#x}")
                self._apart += 1
                self._apart_bytes += length
            self._key_bytes += len(key)
            self._value_bytes += length

    def _require_block(self, offset: int, nbytes: int, what: str) -> None:
        if self._usable_size is None:
            return
        try:
            usable = self._usable_size(offset)
        except UsageError as error:
            raise self._wrong(offset, f"a live block for {what}", "none") from error
        if usable < nbytes:
            raise self._wrong(offset, f"{nbytes} bytes for {what}", f"{usable}")

    def require_sound(self, header: int) -> None:
        """Raise an error if the header, at an offset, has another number of entries."""
        if self._entries != self._count:
            raise self._wrong(header, f"{self._count} entries", f"{self._entries}")

    def statistics(self) -> MapStatistics:
        """Return what was counted."""
        return MapStatistics(
            entries=self._entries, height=self._height, nodes=self._nodes, leaves=self._leaves,
            key_bytes=self._key_bytes, value_bytes=self._value_bytes, apart=self._apart,
            apart_bytes=self._apart_bytes, waste_bytes=self._waste,
        )  # fmt: skip
