r"""patterns: what keys a pattern of Redis means, ``h[ae]llo*``, as a regular expression.

A scan of keys in order begins with what all of them begin with, `glob_prefix`, and ends at
`cursor.end_of` that.
"""

from __future__ import annotations

import re

from pmemheap.kvstore.resp import ReplyError

__all__ = ["glob_pattern", "glob_prefix"]

PATTERN_MOST = 4096

_GLOB_PART = re.compile(
    rb"\\(?P<escaped>.)|(?P<star>\*+)|(?P<any>\?)"
    rb"|\[(?P<not>\^?)(?P<set>(?:\\.|[^\]\\])*)\]|(?P<plain>.)",
    re.DOTALL,
)
_SET_PART = re.compile(rb"(?:\\(.)|(.))(?:-(?:\\(.)|(.)))?", re.DOTALL)


def glob_pattern(pattern: bytes) -> re.Pattern[bytes]:
    r"""Return what ``fullmatch``es the keys that a pattern of Redis means.

    What lies between two stars is matched where it occurs first, and not again: a pattern of many
    stars takes no longer than one of one.

    Examples
    --------
    >>> [bool(glob_pattern(rb"h[a-c]ll\*?*").fullmatch(key)) for key in (b"hall*xy", b"hell*x")]
    [True, False]
    """
    if len(pattern) > PATTERN_MOST:
        raise ReplyError(f"ERR pattern is longer than {PATTERN_MOST} bytes")
    pieces: list[list[bytes]] = [[]]
    for part in _GLOB_PART.finditer(pattern):
        if part["star"]:
            pieces.append([])
        else:
            pieces[-1].append(_glob_atom(part))
    first, *rest = (b"".join(piece) for piece in pieces)
    if rest:
        first += b"".join(b"(?>.*?" + piece + b")" for piece in rest[:-1]) + b".*" + rest[-1]
    return re.compile(first, re.DOTALL)


def _glob_atom(part: re.Match[bytes]) -> bytes:
    """Return the regular expression for one byte of a pattern."""
    if part["any"]:
        return b"."
    if part["set"] is None:
        return re.escape(part["escaped"] or part["plain"])
    ranges = [_glob_range(one) for one in _SET_PART.finditer(part["set"])]
    if not ranges:
        return b"." if part["not"] else b"(?!)"
    return b"[" + part["not"] + b"".join(ranges) + b"]"


def _glob_range(one: re.Match[bytes]) -> bytes:
    """Return a range of a set; Redis takes its ends in either order."""
    low = one[1] or one[2]
    high = one[3] or one[4] or low
    return b"\\x%02x-\\x%02x" % (min(low, high)[0], max(low, high)[0])


def glob_prefix(pattern: bytes) -> bytes:
    """Return what every key begins with that a pattern can match."""
    prefix = b""
    for part in _GLOB_PART.finditer(pattern):
        literal = part["escaped"] or part["plain"]
        if literal is None:
            break
        prefix += literal
    return prefix
