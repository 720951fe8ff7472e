"""Sites: which line made which block, in a file beside a heap, for a later look at it.

    "pmhsite1" | SITE 0 "a.py:12" | MADE 0x1000, 100 bytes, 0 | FREED 0x1000 | ...

    record      0        4      5       8
                | CRC-32 | kind | bytes | what it says |        the sum is over all behind it

Each record is one write to the end of the file, so a process that is killed loses none. What a
damaged record said is lost; those behind it are read. When the file is opened to go on, what is
left of it is written anew. An error of the system ends the writing, and nothing else.
"""

from __future__ import annotations

import os
import stat
import struct
import weakref
import zlib
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from pmemheap.errors import UsageError
from pmemheap.refusals import refusals

__all__ = ["Made", "Site", "SiteFile", "read_sites"]

_MAGIC = b"pmhsite1"
_SITE, _MADE, _FREED = 1, 2, 3
_SUM, _HEAD = struct.Struct("<I"), struct.Struct("<BxH")
_NUMBER, _BLOCK, _OFFSET = struct.Struct("<I"), struct.Struct("<QQI"), struct.Struct("<Q")
_LEAST = {_SITE: _NUMBER.size, _MADE: _BLOCK.size, _FREED: _OFFSET.size}
_TEXT_MOST = 8192
_TO_APPEND = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC


class Site(NamedTuple):
    """A line of a program."""

    file: str
    line: int

    def __str__(self) -> str:
        """Show it as ``file:line``."""
        return f"{self.file}:{self.line}"


Made = tuple[Site, int]
"""How a block was made: where, and the bytes that were asked for; a tuple, as it is made often."""


def read_sites(path: str | os.PathLike[str]) -> dict[int, Made]:
    """Return what a file says of the blocks that were alive when it ended, by offset.

    Raises
    ------
    HeapFileError
        The file cannot be read.
    UsageError
        It is no file of sites.
    """
    return _parsed(_read(os.fspath(path), os.O_RDONLY), path)


class SiteFile:
    """A file of sites that is written.

    Parameters
    ----------
    path : path
        Made if there is none.

    Attributes
    ----------
    found : dict
        What it said when it was opened, as of `read_sites`.
    error : OSError or None
        What ended the writing.

    Raises
    ------
    HeapFileError, UsageError
        As `read_sites`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.realpath(path)
        self.found = _parsed(_read(self._path, os.O_RDWR | os.O_CREAT), path)
        self.error: OSError | None = None
        self._fd: int | None = None
        self._numbers: dict[Site, int] = {}
        self._next = count()

    def begin(self) -> dict[int, Made]:
        """Put a new file in the place of the old one, with what was found; hand that over.

        A file that cannot be written is not: `error` says why.
        """
        new = f"{self._path}.new"
        told = b"".join(self._told(offset, made) for offset, made in self.found.items())
        try:
            self._fd = os.open(new, _TO_APPEND, 0o666)
            weakref.finalize(self, os.close, self._fd)
            self._write(_MAGIC + told)
            if self.error is None:
                os.replace(new, self._path)
        except OSError as error:
            self.error = error
        found, self.found = self.found, {}
        return found

    def note_made(self, offset: int, made: Made) -> None:
        """Say that a block was made."""
        self._write(self._told(offset, made))

    def note_freed(self, offset: int) -> None:
        """Say that a block goes."""
        self._write(_record(_FREED, _OFFSET.pack(offset)))

    def _told(self, offset: int, made: Made) -> bytes:
        """Return the record of a block, behind that of its site if it is new."""
        site, size = made
        before, number = b"", self._numbers.get(site)
        if number is None:
            number = self._numbers[site] = next(self._next)
            text = str(site).encode("utf-8", "surrogateescape")[-_TEXT_MOST:]
            before = _record(_SITE, _NUMBER.pack(number) + text)
        return before + _record(_MADE, _BLOCK.pack(offset, size, number))

    def _write(self, data: bytes) -> None:
        if self._fd is None or self.error is not None:
            return
        try:
            written = os.write(self._fd, data)
            while written < len(data):  # the disk is full: the next write says so
                written += os.write(self._fd, data[written:])
        except OSError as error:
            self.error = error


# ---------------------------------------------------------------- records


def _record(kind: int, payload: bytes) -> bytes:
    told = _HEAD.pack(kind, len(payload)) + payload
    return _SUM.pack(zlib.crc32(told)) + told


def _read(path: str, flags: int) -> bytes:
    with refusals(f"file of sites {path!r}", path):
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _no_sites(path, "no regular file")
            return file.read()


def _no_sites(path: str | os.PathLike[str], found: str) -> UsageError:
    return UsageError(f"file of sites {os.fspath(path)!r}: one of `Track` expected, found {found}")


def _parsed(data: bytes, path: str | os.PathLike[str]) -> dict[int, Made]:
    """Play the records; a block whose site is lost is not known."""
    if not data.startswith(_MAGIC[: len(data)]):
        raise _no_sites(path, repr(data[: len(_MAGIC)]))
    records = list(_records(data))
    sites = {  # first: a thread may write of a block before another one has written of its site
        _NUMBER.unpack_from(payload)[0]: _site(payload[_NUMBER.size :])
        for kind, payload in records
        if kind == _SITE
    }
    live: dict[int, Made] = {}
    for kind, payload in records:
        if kind == _FREED:
            live.pop(_OFFSET.unpack(payload)[0], None)
        elif kind == _MADE:
            offset, size, number = _BLOCK.unpack(payload)
            live.pop(offset, None)
            if number in sites:
                live[offset] = sites[number], size
    return live


def _site(text: bytes) -> Site:
    file, _, line = text.decode("utf-8", "surrogateescape").rpartition(":")
    return Site(file, int(line) if line.isascii() and line.isdigit() else 0)


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the records that are sound; behind damage the next one begins at some byte."""
    at, whole = len(_MAGIC), memoryview(data)
    while at + _SUM.size + _HEAD.size <= len(data):
        kind, length = _HEAD.unpack_from(data, at + _SUM.size)
        start = at + _SUM.size + _HEAD.size
        told = whole[at + _SUM.size : start + length]
        is_sound = (
            _fits(kind, length)
            and start + length <= len(data)
            and zlib.crc32(told) == _SUM.unpack_from(data, at)[0]
        )
        if is_sound:
            yield kind, bytes(whole[start : start + length])
        at = start + length if is_sound else at + 1


def _fits(kind: int, length: int) -> bool:
    least = _LEAST.get(kind)
    if least is None:
        return False
    return length == least or (kind == _SITE and least < length <= least + _TEXT_MOST)
