"""Kinds: what the roots of containers lead to begins with eight bytes that say of which kind it is.

A name that is taken by another kind is a mistake of the caller, and nothing is damaged.
"""

from __future__ import annotations

__all__ = ["MAP_MAGIC", "VECTOR_MAGIC", "found_kind"]

MAP_MAGIC = b"PHPSMP\x01\0"
VECTOR_MAGIC = b"PHCOUNTS"

_KINDS = {MAP_MAGIC: "a SortedMap", VECTOR_MAGIC: "a Vector"}


def found_kind(magic: bytes) -> str:
    """Describe what begins with some bytes, for a message."""
    return _KINDS.get(magic, f"a block that begins with {magic!r}")
