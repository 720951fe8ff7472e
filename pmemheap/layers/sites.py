"""Sites: which line made which block, in a file beside a heap, for a later look at it.

    "pmhsite2" | SITE 1 "a.py:12" | MADE 0x1000, 100 bytes, 1 | FREED 0x1000 | ...

    record      0         4      5       8
                | CRC-32C | kind | bytes | what it says |        the sum is over all behind it

When the file is opened to go on, this module writes anew what is left of it; the C core adds the
rest (block/track_file.c). Each record is one write to the end of the file, so a process that is
killed loses none. What a damaged record said is lost; those behind it are read. An error of the
system ends the writing, and nothing else.
"""

from __future__ import annotations

import os
import stat
import struct
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from pmemheap.errors import UsageError
from pmemheap.native import crc32c
from pmemheap.native.constants import TrackFormat
from pmemheap.refusals import refusals

__all__ = ["Made", "Site", "SiteFile", "read_sites"]

_MAGIC = b"pmhsite2"
_SITE, _MADE, _FREED = TrackFormat.SITE, TrackFormat.MADE, TrackFormat.FREED
_SUM, _HEAD = struct.Struct("<I"), struct.Struct("<BxH")
_NUMBER, _BLOCK, _OFFSET = struct.Struct("<I"), struct.Struct("<QQI"), struct.Struct("<Q")
_LEAST = {_SITE: _NUMBER.size, _MADE: _BLOCK.size, _FREED: _OFFSET.size}
_TO_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


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
    """A file of sites that is to be written.

    Parameters
    ----------
    path : path
        Made if there is none.

    Attributes
    ----------
    found : dict
        What it said when it was opened, as of `read_sites`.
    error : OSError or None
        Why it could not be written anew.

    Raises
    ------
    HeapFileError, UsageError
        As `read_sites`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: str = os.path.realpath(path)
        self.found: dict[int, Made] = _parsed(_read(self.path, os.O_RDWR | os.O_CREAT), path)
        self.error: OSError | None = None

    def begin(self, numbers: dict[Site, int]) -> tuple[int, int] | None:
        """Put a new file in the place of the old one, with what was found.

        Parameters
        ----------
        numbers : dict
            Of the sites.

        Returns
        -------
        tuple of int, or None
            A descriptor, to write behind so many bytes; it is closed when the SiteFile goes.
            None: the old file is as it was, and `error` says why.
        """
        data = _MAGIC + b"".join(_site_record(number, site) for site, number in numbers.items())
        data += b"".join(
            _record(_MADE, _BLOCK.pack(offset, size, numbers[site]))
            for offset, (site, size) in self.found.items()
        )
        new = f"{self.path}.new"
        try:
            return self._replaced(new, data), len(data)
        except OSError as error:
            self.error = error
            with suppress(OSError):
                os.unlink(new)
            return None

    def _replaced(self, new: str, data: bytes) -> int:
        fd = os.open(new, _TO_WRITE, 0o666)
        weakref.finalize(self, os.close, fd).atexit = False  # calls may write until the end
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.replace(new, self.path)
        return fd


# ---------------------------------------------------------------- records


def _record(kind: int, payload: bytes) -> bytes:
    told = _HEAD.pack(kind, len(payload)) + payload
    return _SUM.pack(crc32c(told)) + told


def _site_record(number: int, site: Site) -> bytes:
    text = str(site).encode("utf-8", "surrogateescape")[-TrackFormat.SITE_MOST :]
    return _record(_SITE, _NUMBER.pack(number) + text)


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
            and crc32c(told) == _SUM.unpack_from(data, at)[0]
        )
        if is_sound:
            yield kind, bytes(whole[start : start + length])
        at = start + length if is_sound else at + 1


def _fits(kind: int, length: int) -> bool:
    least = _LEAST.get(kind)
    if least is None:
        return False
    return length == least or (kind == _SITE and least < length <= least + TrackFormat.SITE_MOST)
