"""Chunks: pieces of any length, one behind the other, as the bits of a chunk say.

bits     1 0 0 0 | 1 1 0 | 1 0 | 1 1 | 1 0 0 0 0 | 1 . .
         live      dead    live  dead  live        fill

A bit a granule: the start of a piece; the next one says whether it is dead. The last start is the
fill mark: nothing lies there, nor above it. Start and flag stand in one word of 64 granules, so
that each word can be read for itself [R31].
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["live_pieces", "sound_bits"]

_WORD = 64
_TOP = 1 << _WORD - 1
_WORD_MASK = (1 << _WORD) - 1


def _starts_in(word: int) -> tuple[int, int]:
    """Return the starts in a word, and those of dead pieces among them."""
    starts = dead = 0
    rest = word
    while rest:
        lowest = rest & -rest
        starts |= lowest
        if rest & lowest << 1:
            dead |= lowest
        rest &= ~(lowest | lowest << 1)
    return starts, dead


def _words(bits: int) -> Iterator[tuple[int, int]]:
    """Yield the first granule of each word, and the word."""
    at = 0
    while rest := bits >> at:
        yield at, rest & _WORD_MASK
        at += _WORD


def _starts(bits: int) -> tuple[int, int]:
    starts = dead = 0
    for at, word in _words(bits):
        some, some_dead = _starts_in(word)
        starts |= some << at
        dead |= some_dead << at
    return starts, dead


def live_pieces(bits: int) -> Iterator[tuple[int, int]]:
    """Yield first granule and granules of the live pieces of a chunk."""
    starts, dead = _starts(bits)
    while starts & starts - 1:  # all but the last start, which is the mark
        lowest = starts & -starts
        starts ^= lowest
        if not dead & lowest:
            first = lowest.bit_length() - 1
            yield first, (starts & -starts).bit_length() - 1 - first


def sound_bits(bits: int) -> int:
    """Return bits as they have to be: no start without its flag at the end of a word.

    All granules from the first one to the mark are in a piece: what lies in front of the first
    start becomes a dead one.
    """
    sound = 0
    for at, word in _words(bits):
        starts, _ = _starts_in(word)
        sound |= (word & ~(starts & _TOP)) << at
    is_open = sound and not sound & 1
    return sound | 3 if is_open else sound
