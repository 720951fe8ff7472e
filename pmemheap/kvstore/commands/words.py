"""words: what arguments of commands say: numbers, moments, options.

Moments are nanoseconds since 1970, as the store has deadlines. What is no such argument is refused
by the words that Redis has for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Context, Decimal, InvalidOperation

from pmemheap.kvstore.commands.keyspace import MS, SECOND
from pmemheap.kvstore.resp import ReplyError, parse_integer

__all__ = [
    "SYNTAX",
    "TIMES",
    "ExpireOptions",
    "SetOptions",
    "add_floats",
    "moment",
    "number",
    "scan_options",
]

SYNTAX = "ERR syntax error"
TIMES = {b"EX": (SECOND, False), b"PX": (MS, False), b"EXAT": (SECOND, True), b"PXAT": (MS, True)}
"""Words that say until when: nanoseconds of their unit, and whether they count from 1970."""

_INTEGER_EXPECTED = "ERR value is not an integer or out of range"
_MOMENTS_END = 1 << 64
_TIMES_BEGIN = -(1 << 63) * MS
"""What 64 bits of milliseconds cannot say is refused, as by Redis."""
_FLOAT = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_FLOAT_BYTES_MOST = 400
_FLOAT_DIGITS, _FLOAT_EXPONENT_MOST = 17, 308
_EXACT = Context(prec=2000, Emax=100_000, Emin=-100_000)


def number(text: bytes) -> int:
    """Return an integer of 64 bits."""
    found = parse_integer(text)
    if found is None:
        raise ReplyError(_INTEGER_EXPECTED)
    return found


def moment(text: bytes, unit: int, now: int, command: str, *, least: int | None = None) -> int:
    """Return when so many units after `now` are over.

    Parameters
    ----------
    unit : int
        Nanoseconds.
    now : int
        0 for what counts from 1970.
    command : str
        The one that is refused if there is no such moment.
    least : int, optional
        Units that are too few are refused, too.
    """
    units = number(text)
    found = now + units * unit
    too_early = units * unit < _TIMES_BEGIN or (least is not None and units < least)
    if found >= _MOMENTS_END or too_early:
        raise ReplyError(f"ERR invalid expire time in '{command}' command")
    return max(found, 0)


def add_floats(value: bytes, more: bytes) -> bytes:
    """Return the sum of two numbers as text, to 17 digits behind the point."""
    total = _EXACT.add(_float(value), _float(more))
    if total and total.adjusted() > _FLOAT_EXPONENT_MOST:
        raise ReplyError("ERR increment would produce NaN or Infinity")
    text = f"{_EXACT.quantize(total, Decimal(1).scaleb(-_FLOAT_DIGITS)):f}"
    text = text.rstrip("0").rstrip(".")
    return b"0" if text == "-0" else text.encode()


def _float(text: bytes) -> Decimal:
    if len(text) <= _FLOAT_BYTES_MOST and _FLOAT.fullmatch(text):
        try:
            return Decimal(text.decode())
        except InvalidOperation:
            pass
    raise ReplyError("ERR value is not a valid float")


class SetOptions:
    """What follows key and value in SET, or the key in GETEX.

    Parameters
    ----------
    words : sequence of bytes
        The options.
    flags : set of bytes
        Words that this command has besides those of `TIMES`.

    Attributes
    ----------
    keeps, persists, gets : bool
        KEEPTTL, PERSIST, GET.
    condition : bytes
        NX, XX, or nothing.
    """

    keeps: bool
    persists: bool
    gets: bool

    def __init__(self, words: Sequence[bytes], flags: frozenset[bytes]) -> None:
        self.condition: bytes = b""
        self.keeps = self.persists = self.gets = False
        self._time: tuple[bytes, bytes] | None = None
        rest = iter(words)
        for word in map(bytes.upper, rest):
            if word in TIMES and not self._has_time and (text := next(rest, None)) is not None:
                self._time = word, text
            elif word not in flags or not self._takes(word):
                raise ReplyError(SYNTAX)

    def deadline(self, now: int, command: str) -> int | None:
        """Return the moment that one of `TIMES` says, which `command` refuses if there is none."""
        if self._time is None:
            return None
        word, text = self._time
        unit, counts_from_1970 = TIMES[word]
        return moment(text, unit, 0 if counts_from_1970 else now, command, least=1)

    @property
    def looks(self) -> bool:
        """Whether it matters what was there before."""
        return self.keeps or self.gets or bool(self.condition)

    @property
    def _has_time(self) -> bool:
        return self.keeps or self.persists or self._time is not None

    def _takes(self, word: bytes) -> bool:
        """Take a flag; tell whether it agrees with those before."""
        if word in {b"NX", b"XX"}:
            agrees = self.condition in {b"", word}
            self.condition = word
        elif word == b"GET":
            agrees, self.gets = True, True
        elif word == b"KEEPTTL":
            agrees, self.keeps = not self._has_time, True
        else:
            agrees, self.persists = not self._has_time, True
        return agrees


class ExpireOptions:
    """What follows the time in EXPIRE: NX, XX, GT, LT."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._flags = {word.upper() for word in words}
        for word in words:
            if word.upper() not in {b"NX", b"XX", b"GT", b"LT"}:
                raise ReplyError(f"ERR Unsupported option {word[:128].decode(errors='replace')}")
        if b"NX" in self._flags and len(self._flags) > 1:
            raise ReplyError("ERR NX and XX, GT or LT options at the same time are not compatible")
        if {b"GT", b"LT"} <= self._flags:
            raise ReplyError("ERR GT and LT options at the same time are not compatible")

    def allow(self, old: int | None, new: int) -> bool:
        """Tell whether a deadline may take the place of another, or of none; by milliseconds."""
        checks = {
            b"NX": old is None,
            b"XX": old is not None,
            b"GT": old is not None and new // MS > old // MS,  # none is later than any
            b"LT": old is None or new // MS < old // MS,
        }
        return all(checks[flag] for flag in self._flags)


def scan_options(words: Sequence[bytes]) -> tuple[bytes, int, bool]:
    """Return pattern, count, and whether strings are asked for, of SCAN."""
    pattern, count, strings = b"*", 10, True
    if len(words) % 2:
        raise ReplyError(SYNTAX)
    for word, value in _pairs(words):
        match word.upper():
            case b"MATCH":
                pattern = value
            case b"COUNT":
                count = number(value)
            case b"TYPE":
                strings = value.lower() == b"string"
            case _:
                raise ReplyError(SYNTAX)
    if count < 1:
        raise ReplyError(SYNTAX)
    return pattern, count, strings


def _pairs(words: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(words[::2], words[1::2], strict=True)
