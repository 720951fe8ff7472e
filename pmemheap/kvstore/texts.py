"""Texts: str as keys of a store of bytes.

A key that is not str, or has no UTF-8, cannot have been stored: to look for it finds nothing, as in
other mappings, and to store it is an error that names it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["key_bytes", "known_key"]


def key_bytes(key: Any) -> bytes:
    """Return the bytes of a key that is to be stored.

    Raises
    ------
    TypeError
        It is no str.
    UnicodeEncodeError
        It has half of a surrogate pair.
    """
    if not isinstance(key, str):
        raise TypeError(f"key: str expected, found {key!r}")
    return key.encode()


def known_key(key: object) -> Any:
    """Return the bytes of a key to look for; None, which no store has, if it cannot be stored."""
    try:
        return key.encode() if isinstance(key, str) else None
    except UnicodeEncodeError:
        return None
