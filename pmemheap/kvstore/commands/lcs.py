"""lcs: the longest bytes in order that two values have in common.

By a table with a row for each byte of one value and a column for each of the other, so both may be
a thousand bytes long, and no more: commands wait for each other.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pmemheap.kvstore.commands.words import SYNTAX, number
from pmemheap.kvstore.resp import Reply, ReplyError

__all__ = ["longest_common"]

_CELLS_MOST = 1 << 20


class _Match(NamedTuple):
    """Where a piece begins in both values, and how long it is."""

    first: int
    second: int
    length: int


def longest_common(first: bytes, second: bytes, words: Sequence[bytes]) -> Reply:
    """Return what LCS replies, whose options are `words`."""
    flags, least = _options(words)
    if (len(first) + 1) * (len(second) + 1) > _CELLS_MOST:
        raise ReplyError("ERR Insufficient memory, failed allocating transient memory for LCS")
    lengths = _lengths(first, second)
    if b"LEN" in flags:
        return lengths[-1][-1]
    matches = list(_matches(first, second, lengths))
    if b"IDX" not in flags:
        return b"".join(first[at : at + length] for at, _, length in reversed(matches))
    found: list[Reply] = [
        [*_places(one), *([one.length] if b"WITHMATCHLEN" in flags else [])]
        for one in matches
        if one.length >= least
    ]
    return {b"matches": found, b"len": lengths[-1][-1]}


def _options(words: Sequence[bytes]) -> tuple[set[bytes], int]:
    flags, least = set(), 0
    rest = iter(words)
    for word in map(bytes.upper, rest):
        if word == b"MINMATCHLEN" and (text := next(rest, None)) is not None:
            least = number(text)
        elif word in {b"LEN", b"IDX", b"WITHMATCHLEN"}:
            flags.add(word)
        else:
            raise ReplyError(SYNTAX)
    if {b"LEN", b"IDX"} <= flags:
        raise ReplyError("ERR If you want both the length and indexes, please just use IDX.")
    return flags, least


def _lengths(first: bytes, second: bytes) -> list[array[int]]:
    """Return, for each pair of beginnings, how much they have in common."""
    above = array("I", bytes(4 * (len(second) + 1)))
    rows = [above]
    for one in first:
        row = array("I", [0])
        last = 0
        for at, other in enumerate(second):
            last = above[at] + 1 if one == other else max(last, above[at + 1])
            row.append(last)
        rows.append(row)
        above = row
    return rows


def _matches(first: bytes, second: bytes, lengths: list[array[int]]) -> Iterator[_Match]:
    """Yield the pieces from the last one on."""
    i, j, length = len(first), len(second), 0
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j, length = i - 1, j - 1, length + 1
            continue
        if length:
            yield _Match(i, j, length)
            length = 0
        if lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    if length:
        yield _Match(i, j, length)


def _places(one: _Match) -> list[Reply]:
    return [[at, at + one.length - 1] for at in (one.first, one.second)]
