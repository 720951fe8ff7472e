r"""resp: the wire format of Redis, RESP2 and RESP3, without a socket.

    bytes as they arrive ---> RequestParser.feed ---> [[b"SET", b"k", b"v"], [b"GET", b"k"]]
    None, 5, b"v", "OK", [..] ---> encode ---> b"$-1\r\n", b":5\r\n", b"$1\r\nv\r\n", ...

Requests are the same in both. Of the types that only RESP3 has a map is an array of keys and values
in RESP2, a set an array, a verbatim text a string, and nothing a string or an array that is none.

A request is an array of strings, or one line of words that a person has typed (*inline*). The
parser holds what has arrived of one request and where it stands in it, so that no byte is looked
at twice however the stream is cut up. A stream that is no RESP cannot be picked up again: the
parser keeps the error, and gives what came before it.

What a parser holds is bounded: by the bytes of one request, by the number of its arguments, and by
the length of a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "MAX_REQUEST",
    "NO_ARRAY",
    "ProtocolError",
    "Reply",
    "ReplyError",
    "RequestParser",
    "Verbatim",
    "encode",
    "encode_request",
    "parse_integer",
    "split_inline",
]

MAX_REQUEST = 64 << 20
MAX_ARGUMENTS = 1 << 20
MAX_LINE = 64 << 10

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_HEX = re.compile(rb"x([0-9a-fA-F]{2})")


class ProtocolError(Exception):
    """What arrived is no request, or a larger one than is allowed; the text is for the client."""


class ReplyError(Exception):
    """An error as a reply: its text begins with a word in capitals, ``ERR`` or a special one."""


class Verbatim(str):
    """A text of several lines, for people."""

    __slots__ = ()


class _NoArray:
    """An array that is none: what EXEC replies when it has run nothing."""


NO_ARRAY = _NoArray()

Reply = (
    None | int | bytes | str | ReplyError | _NoArray
    | Sequence["Reply"] | Mapping[bytes, "Reply"] | frozenset[Any]
)  # fmt: skip
"""What `encode` takes: a missing string, a number, a string, a status or `Verbatim`, an error, a
missing array, an array, a map, a set."""


def encode(reply: Reply, protocol: int = 2) -> bytes:
    r"""Return a reply as it goes over the wire.

    Examples
    --------
    >>> encode([b"a", 1, None, "OK"])
    b'*4\r\n$1\r\na\r\n:1\r\n$-1\r\n+OK\r\n'
    >>> encode({b"a": None}), encode({b"a": None}, protocol=3)
    (b'*2\r\n$1\r\na\r\n$-1\r\n', b'%1\r\n$1\r\na\r\n_\r\n')
    """
    if reply is None:
        return b"$-1\r\n" if protocol == 2 else b"_\r\n"
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, str):
        return _text(reply, protocol)
    if isinstance(reply, ReplyError):
        return b"-%b\r\n" % _line(str(reply))
    return _collection(reply, protocol)


def _text(reply: str, protocol: int) -> bytes:
    if not isinstance(reply, Verbatim):
        return b"+%b\r\n" % _line(reply)
    text = reply.encode(errors="replace")
    return encode(text) if protocol == 2 else b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text)


def _collection(
    reply: Sequence[Reply] | Mapping[bytes, Reply] | frozenset[Any] | _NoArray, protocol: int
) -> bytes:
    """Return what has other replies in it."""
    if isinstance(reply, _NoArray):
        return b"*-1\r\n" if protocol == 2 else b"_\r\n"
    count, mark = len(reply), b"*"
    if isinstance(reply, Mapping):
        parts = [encode(part, protocol) for pair in reply.items() for part in pair]
        count, mark = (2 * count, b"*") if protocol == 2 else (count, b"%")
    else:
        parts = [encode(part, protocol) for part in reply]
        if isinstance(reply, frozenset):
            parts.sort()  # alike in every process
            mark = b"~" if protocol == 3 else b"*"
    return b"%b%d\r\n%b" % (mark, count, b"".join(parts))


def encode_request(*arguments: bytes) -> bytes:
    """Return a request as a client sends it."""
    return encode(arguments)


def parse_integer(text: bytes) -> int | None:
    """Return a number of 64 bits in the one spelling that Redis accepts, or None."""
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


def split_inline(line: bytes) -> list[bytes]:
    r"""Split a typed line into words; ``"..."`` knows escapes, ``'...'`` only ``\'``.

    Raises
    ------
    ProtocolError
        A quote does not end, or something follows it without a space.

    Examples
    --------
    >>> split_inline(rb'''set "a b\x21" 'it\'s' plain''')
    [b'set', b'a b!', b"it's", b'plain']
    """
    words: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at : at + 1].isspace():
            at += 1
        if at == len(line):
            return words
        word, at = _word(line, at)
        words.append(word)


def _word(line: bytes, at: int) -> tuple[bytes, int]:
    """Return the word that begins at `at`, and where it ends."""
    word = bytearray()
    while at < len(line) and not (byte := line[at : at + 1]).isspace():
        if byte in {b'"', b"'"}:
            text, at = _quoted(line, at)
            word += text
            if at < len(line) and not line[at : at + 1].isspace():
                raise ProtocolError("unbalanced quotes in request")
        else:
            word += byte
            at += 1
    return bytes(word), at


def _quoted(line: bytes, at: int) -> tuple[bytes, int]:
    """Return what stands between quotes, and the place after the closing one."""
    quote = line[at : at + 1]
    text = bytearray()
    at += 1
    while at < len(line):
        byte = line[at : at + 1]
        at += 1
        if byte == quote:
            return bytes(text), at
        if byte == b"\\" and quote == b'"' and at < len(line):
            byte, at = _escaped(line, at)
        elif byte == b"\\" and quote == b"'" and line[at : at + 1] == b"'":
            byte, at = b"'", at + 1
        text += byte
    raise ProtocolError("unbalanced quotes in request")


def _escaped(line: bytes, at: int) -> tuple[bytes, int]:
    """Return what a backslash before `at` makes of what follows, and where that ends."""
    if pair := _HEX.match(line, at):
        return bytes.fromhex(pair[1].decode()), pair.end()
    byte = line[at : at + 1]
    return _ESCAPES.get(byte, byte), at + 1


def _line(text: str) -> bytes:
    """Return a text that fits into one line."""
    return text.encode(errors="replace").replace(b"\r", b" ").replace(b"\n", b" ")


class RequestParser:
    r"""Turn a stream of bytes into requests.

    Parameters
    ----------
    max_request : int
        Bytes of one request, as sent.
    max_arguments : int
        Strings of one request, the command's name among them.
    max_line : int
        Bytes of an inline request.

    Attributes
    ----------
    error : ProtocolError or None
        Why nothing more comes of this stream.

    Examples
    --------
    >>> parser = RequestParser()
    >>> parser.feed(b"*2\r\n$3\r\nGET\r\n$1")
    []
    >>> parser.feed(b"\r\nk\r\nPING\r\n")
    [[b'GET', b'k'], [b'PING']]
    """

    def __init__(
        self,
        max_request: int = MAX_REQUEST,
        max_arguments: int = MAX_ARGUMENTS,
        max_line: int = MAX_LINE,
    ) -> None:
        self.error: ProtocolError | None = None
        self._max_request = max_request
        self._max_arguments = max_arguments
        self._max_line = min(max_line, max_request)
        self._buffer = bytearray()
        self._at = 0  # how far the buffer is understood
        self._seen = 0  # how far it has been searched for the end of a line
        self._begin_request()

    def feed(self, data: bytes | bytearray | memoryview) -> list[list[bytes]]:
        """Take bytes; return the requests that they complete, none of them empty.

        Never raises: look at `error` afterwards. What came before the error is returned.
        """
        requests: list[list[bytes]] = []
        if self.error is None:
            self._buffer += data
            try:
                while self._step(requests):
                    pass
            except ProtocolError as error:
                self.error = error
                self._at = len(self._buffer)
                self._begin_request()
            del self._buffer[: self._at]
            self._seen = max(self._seen - self._at, 0)
            self._at = 0
        return requests

    @property
    def held(self) -> int:
        """Bytes that are held of a request that is not complete."""
        announced = self._length + 2 if self._length >= 0 else 0
        return len(self._buffer) + self._size - announced

    def _begin_request(self) -> None:
        self._arguments: list[bytes] = []
        self._missing = 0  # arguments that are still to come
        self._length = -1  # of the one that comes next, once it is known
        self._size = 0  # bytes of the request up to here, the announced argument included

    def _step(self, requests: list[list[bytes]]) -> bool:
        """Understand one more line or string; False: not enough is there."""
        if self._length >= 0:
            return self._take_string(requests)
        if self._missing:
            return self._take_length()
        return self._take_first(requests)

    def _take_first(self, requests: list[list[bytes]]) -> bool:
        """Take the line that a request begins with."""
        is_array = self._buffer.startswith(b"*", self._at)
        line = self._take_line("mbulk count string" if is_array else "inline request")
        if line is None:
            return False
        if is_array:
            count = parse_integer(line[1:])
            if count is None or count > self._max_arguments:
                raise ProtocolError("invalid multibulk length")
            self._missing = max(count, 0)
        elif words := split_inline(line):
            if len(words) > self._max_arguments:
                raise ProtocolError("too many words in inline request")
            requests.append(words)
        if not self._missing:
            self._size = 0
        return True

    def _take_length(self) -> bool:
        """Take the line that announces a string."""
        line = self._take_line("bulk count string")
        if line is None:
            return False
        if line[:1] != b"$":
            raise ProtocolError(f"expected '$', got {line[:1].decode('latin-1')!r}")
        length = parse_integer(line[1:])
        if length is None or length < 0:
            raise ProtocolError("invalid bulk length")
        self._length = length
        self._grow(length + 2)
        return True

    def _take_string(self, requests: list[list[bytes]]) -> bool:
        """Take the string that was announced, and with the last one the request."""
        end = self._at + self._length
        if len(self._buffer) < end + 2:
            return False
        if self._buffer[end : end + 2] != b"\r\n":
            raise ProtocolError("expected CRLF after a bulk string")
        with memoryview(self._buffer) as view:
            self._arguments.append(bytes(view[self._at : end]))
        self._at = self._seen = end + 2
        self._length = -1
        self._missing -= 1
        if not self._missing:
            requests.append(self._arguments)
            self._begin_request()
        return True

    def _take_line(self, what: str) -> bytes | None:
        """Take a line without its end, or None if the end is not there yet."""
        end = self._buffer.find(b"\n", max(self._seen, self._at))
        self._seen = end if end >= 0 else len(self._buffer)
        if self._seen - self._at > self._max_line:
            raise ProtocolError(f"too big {what}")
        if end < 0:
            return None
        line = bytes(self._buffer[self._at : end])
        self._grow(end + 1 - self._at)
        self._at = self._seen = end + 1
        return line[:-1] if line.endswith(b"\r") else line

    def _grow(self, count: int) -> None:
        """Count bytes of the request; refuse it before they are held, if they are too many."""
        self._size += count
        if self._size > self._max_request:
            raise ProtocolError(f"too big request, more than {self._max_request} bytes")
