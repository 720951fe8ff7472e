"""Source: what stands behind a map, anonymous memory or a file, and how it gets into place.

A source knows its size and alignment, decides which part of it a map will show (`extent`), and
puts that part over a reserved range (`place`). It knows nothing of reservations.

    source        size             alignment        granularity of a map
    anonymous     what is asked    page             byte: nothing is ever to be written back
    file          of the file      page             page; cache line with MAP_SYNC; private: byte
    device dax    of the device    of the device    cache line; private: byte
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path

from pmemheap import native
from pmemheap.pmem2 import codes
from pmemheap.pmem2.codes import refused
from pmemheap.pmem2.numbers import require_aligned
from pmemheap.units import PAGE, align_up

__all__ = ["AnonymousSource", "FileSource", "Granularity", "Options", "Source"]

Pieces = Sequence[tuple[int, int]]

_LARGEST_FILE_OFFSET = (1 << 63) - 1
_LARGEST_FD = (1 << 31) - 1


class Granularity(IntEnum):
    """What becomes durable together; a smaller number is finer."""

    BYTE = 0
    CACHE_LINE = 1
    PAGE = 2


@dataclass(frozen=True)
class Options:
    """How a source is to be mapped.

    `granularity` is the coarsest that will do, None if the caller has not said.
    """

    shared: bool = True
    readonly: bool = False
    granularity: Granularity | None = Granularity.PAGE


class Source:
    """What can be mapped: `size` bytes, in pieces that start at multiples of `alignment`."""

    def __init__(self, name: str, size: int, alignment: int = PAGE) -> None:
        self.name = name
        self.size = size
        self.alignment = alignment

    def extent(self, offset: int, length: int) -> int:
        """Return how many bytes a map of `length` at `offset` of the source shows.

        Parameters
        ----------
        offset, length : int
            Length 0 stands for all from `offset` on, which may end inside a page.

        Raises
        ------
        Pmem2Error
            OFFSET_UNALIGNED, SOURCE_EMPTY, LENGTH_UNALIGNED, MAP_RANGE, looked for in this order.
        """
        name = self.name
        unaligned = codes.PMEM2_E_OFFSET_UNALIGNED, codes.PMEM2_E_LENGTH_UNALIGNED
        require_aligned(f"{name}: offset", offset, unaligned[0], self.alignment)
        if self.size == 0:
            raise refused(codes.PMEM2_E_SOURCE_EMPTY, f"{name}: something to map expected, 0 bytes")
        require_aligned(f"{name}: length", length, unaligned[1], self.alignment)
        if length < 0 or offset + length > self.size:
            raise refused(
                codes.PMEM2_E_MAP_RANGE,
                f"{name}: a range inside {self.size:#x} bytes expected, "
                f"[{offset:#x}, {offset + length:#x}) found",
            )
        return length or self.size - offset

    def place(self, address: int, pieces: Pieces, options: Options) -> Granularity:
        """Map pieces, one behind the other, over the reserved pages at `address`; all or none.

        Parameters
        ----------
        pieces : sequence of (int, int)
            Offset and length of each, as `extent` allows; the last one may end inside a page.

        Returns
        -------
        Granularity
            What the map offers.

        Raises
        ------
        Pmem2Error
            The range is reserved and empty as before.
        """
        length = align_up(sum(length for _, length in pieces), PAGE)
        with self._refusals(address, length):
            got = self._map(address, pieces, options)
        if options.granularity is not None and got > options.granularity:
            with self._refusals(address, length):
                native.unmap(address, length)
            raise refused(
                codes.PMEM2_E_GRANULARITY_NOT_SUPPORTED,
                f"{self.name}: {options.granularity.name} or finer expected, {got.name} found",
            )
        return got

    def _map(self, address: int, pieces: Pieces, options: Options) -> Granularity:
        raise NotImplementedError

    @contextmanager
    def _refusals(self, address: int, length: int) -> Iterator[None]:
        numbers = {
            errno.EACCES: codes.PMEM2_E_NO_ACCESS,
            errno.EOPNOTSUPP: codes.PMEM2_E_NOSUPP,
            errno.EEXIST: codes.PMEM2_E_MAPPING_EXISTS,
        }
        try:
            yield
        except OSError as error:
            number = error.errno or errno.EIO
            raise refused(
                numbers.get(number, -number),
                f"{self.name}: a map at [{address:#x}, {address + length:#x}) expected, "
                f"{os.strerror(number)} found",
            ) from error


class AnonymousSource(Source):
    """Memory that reads zero and has no file."""

    def __init__(self, size: int) -> None:
        super().__init__("anonymous memory", size)

    def _map(self, address: int, pieces: Pieces, options: Options) -> Granularity:
        length = sum(length for _, length in pieces)
        native.map_anonymous(address, length, shared=options.shared, readonly=options.readonly)
        return Granularity.BYTE


class FileSource(Source):
    """An open file or device dax. The descriptor is looked at now and used by `place`, not kept.

    Raises
    ------
    Pmem2Error
        INVALID_FILE_HANDLE: not open, or for writing only. INVALID_FILE_TYPE: not a regular file
        or device dax.
    """

    def __init__(self, fd: int) -> None:
        status = self._status(fd)
        self._fd = fd
        self._device = stat.S_ISCHR(status.mode)
        if self._device:
            size, alignment = _measure_device(status)
        else:
            size, alignment = status.size, PAGE
        super().__init__(f"file descriptor {fd}", size, alignment)

    @staticmethod
    def _status(fd: int) -> native.FileStatus:
        invalid = codes.PMEM2_E_INVALID_FILE_HANDLE
        if not 0 <= fd <= _LARGEST_FD:
            raise refused(invalid, f"file descriptor: an open file expected, {fd} found")
        try:
            flags, status = native.file_flags(fd), native.fstat(fd)
        except OSError as error:
            number = error.errno or errno.EIO
            code = invalid if number == errno.EBADF else -number
            raise refused(
                code, f"file descriptor {fd}: an open file expected, {os.strerror(number)} found"
            ) from error
        if flags & os.O_ACCMODE == os.O_WRONLY:
            raise refused(invalid, f"file descriptor {fd}: a readable file expected, O_WRONLY")
        if not (stat.S_ISREG(status.mode) or _is_device_dax(status)):
            raise refused(
                codes.PMEM2_E_INVALID_FILE_TYPE,
                f"file descriptor {fd}: a regular file or device dax expected, "
                f"{stat.filemode(status.mode)} found",
            )
        return status

    def check_offset(self, offset: int) -> None:
        """Raise OFFSET_OUT_OF_RANGE for an offset that no file has."""
        if not 0 <= offset <= _LARGEST_FILE_OFFSET:
            raise refused(
                codes.PMEM2_E_OFFSET_OUT_OF_RANGE,
                f"{self.name}: an offset from 0 to 2^63 - 1 expected, {offset:#x} found",
            )

    def _map(self, address: int, pieces: Pieces, options: Options) -> Granularity:
        whole_pages = [(offset, align_up(length, PAGE)) for offset, length in pieces]
        map_row = partial(
            native.map_row, self._fd, address, whole_pages,
            shared=options.shared, readonly=options.readonly,
        )  # fmt: skip
        if options.shared and (self._device or native.is_dax(self._fd)):
            try:
                map_row(sync=True)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
            else:
                return Granularity.CACHE_LINE
        map_row(sync=False)
        return Granularity.PAGE if options.shared else Granularity.BYTE


# ---------------------------------------------------------------- device dax, as sysfs shows it


def _sysfs(status: native.FileStatus) -> Path:
    major, minor = status.special_device
    return Path(f"/sys/dev/char/{major}:{minor}")


def _is_device_dax(status: native.FileStatus) -> bool:
    if not stat.S_ISCHR(status.mode):
        return False
    return (_sysfs(status) / "subsystem").resolve().name == "dax"


def _measure_device(status: native.FileStatus) -> tuple[int, int]:
    """Return size and alignment of a device dax, in bytes."""
    device = _sysfs(status)
    try:
        size = int((device / "size").read_text())
        alignment = int((device / "device" / "align").read_text())
    except (OSError, ValueError) as error:
        raise refused(
            codes.PMEM2_E_NOSUPP, f"{device}: size and alignment of a device dax expected"
        ) from error
    return size, alignment
