"""Tags: groups of keys that are removed together. Two more maps beside the entries.

    map "kvstore.tags"    key --> tag
    map "kvstore.tagged"  length of the tag (2 bytes, big-endian), tag, key --> nothing

A key has one tag or none. The second map is the first one turned around, so the keys of a tag are
one range of it; both are changed by the transaction that changes the entry. A key of the second map
has at most 1024 bytes, as all have: so a key and its tag have at most 1022 together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pmemheap import CorruptHeapError, UsageError
from pmemheap.containers import SortedMap
from pmemheap.kvstore.cursor import end_of

__all__ = ["Tags", "tag_bytes"]

_LENGTH = struct.Struct(">H")
_BYTES_MOST = 1022


def tag_bytes(tag: str | bytes) -> bytes:
    """Return the bytes of a tag; those of a str are UTF-8.

    Raises
    ------
    TypeError
        It is neither str nor bytes.
    UsageError
        It is longer than 1022 bytes.
    """
    if not isinstance(tag, str | bytes):
        raise TypeError(f"tag: str or bytes expected, found {tag!r}")
    found = tag.encode() if isinstance(tag, str) else tag
    if len(found) > _BYTES_MOST:
        raise UsageError(f"tag: at most {_BYTES_MOST} bytes expected, {len(found)} found")
    return found


class Tags:
    """The tags of a store.

    Parameters
    ----------
    of : SortedMap
        Key to tag.
    keys : SortedMap
        Tag and key, to nothing. Who changes tags has a transaction open that changes the entries as
        well.
    """

    def __init__(self, of: SortedMap, keys: SortedMap) -> None:
        self._of = of
        self._keys = keys

    def __len__(self) -> int:
        """Return how many keys have a tag."""
        return len(self._of)

    def of(self, key: bytes) -> bytes | None:
        """Return the tag of a key, or None."""
        found: bytes | None = self._of.get(key)
        return found

    def assign(self, key: bytes, tag: bytes | None) -> None:
        """Give a key a tag, or take it away."""
        self.drop(key)
        if tag is not None:
            together = memoryview(key).nbytes + len(tag)
            if together > _BYTES_MOST:
                raise UsageError(
                    f"key and tag: at most {_BYTES_MOST} bytes together expected, {together} found"
                )
            self._of[key] = tag
            self._keys[_turned(tag, key)] = b""

    def drop(self, key: bytes) -> None:
        """Take the tag of a key away, if it has one."""
        before = self._of.get(key)
        if before is not None:
            self._of.discard(key)
            self._keys.discard(_turned(before, key))

    def keys(self, tag: bytes) -> Iterator[bytes]:
        """Yield the keys of a tag, in order."""
        start = _turned(tag, b"")
        return (entry[len(start) :] for entry in self._keys.keys(start, end_of(start)))

    def names(self) -> Iterator[bytes]:
        """Yield the tags that some key has."""
        entry = next(iter(self._keys), None)
        while entry is not None:
            start = entry[: _LENGTH.size + _LENGTH.unpack_from(entry)[0]]
            yield start[_LENGTH.size :]
            entry = next(iter(self._keys.keys(end_of(start))), None)

    def compact(self) -> None:
        """Move what there is together, as `pmemheap.containers.SortedMap.compact`."""
        self._of.compact()
        self._keys.compact()

    def drop_maps(self) -> None:
        """Remove both maps, which are empty."""
        self._of.drop()
        self._keys.drop()

    def check(self, entries: SortedMap) -> None:
        """Verify both maps; CorruptHeapError if they contradict each other or the entries."""
        self._of.check()
        self._keys.check()
        for key, tag in self._of.items():
            if key not in entries or _turned(tag, key) not in self._keys:
                raise CorruptHeapError(f"tag of {key!r}: an entry and a key of {tag!r} expected")
        if len(self._of) != len(self._keys):
            raise CorruptHeapError(
                f"tags: {len(self._of)} keys that have one expected, {len(self._keys)} found"
            )


def _turned(tag: bytes, key: bytes) -> bytes:
    """Return the key of the second map."""
    return _LENGTH.pack(len(tag)) + tag + bytes(key)
