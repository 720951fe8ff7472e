"""Source: what stands behind a map, anonymous memory or a file.

A source knows its size and alignment, decides which part of it a map will show (`extent`), and how
the kernel is to be asked for it (`offer`). It knows nothing of reservations.

    source        size             alignment        granularity of a map
    anonymous     what is asked    page             byte: nothing is ever to be written back
    file          of the file      page             page; cache line with MAP_SYNC; private: byte
    hugetlb file  of the file      its page         page; private: byte
    device dax    of the device    of the device    cache line; private: byte

The kernel rounds a map up to the alignment of its source. So what is not a multiple of it is
refused before anything is mapped: it would take the place of its neighbours.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import SupportsIndex

from pmemheap import native
from pmemheap.dataclass import dataclass
from pmemheap.errors import Pmem2Error
from pmemheap.native import constants as codes
from pmemheap.pmem2.codes import refused
from pmemheap.pmem2.numbers import require_aligned, whole
from pmemheap.units import PAGE

__all__ = ["AnonymousSource", "FileSource", "Granularity", "Options", "Pieces", "Source"]

Pieces = Sequence[tuple[int, int]]

_LARGEST_FILE_OFFSET = (1 << 63) - 1
_LARGEST_FD = (1 << 31) - 1


class Granularity(IntEnum):
    """The unit of durability; a smaller number is finer."""

    BYTE = 0
    CACHE_LINE = 1
    PAGE = 2


@dataclass(frozen=True)
class Options:
    """How a source is to be mapped.

    `granularity` is the coarsest that will do, None if the caller has not said. `own` is for one
    piece of a file: a sync of the map reports failures that other maps were told already. `by_page`
    is for what was never stored to: see `native.map_flags`.
    """

    shared: bool = True
    readonly: bool = False
    granularity: Granularity | None = Granularity.PAGE
    own: bool = False
    by_page: bool = False


@dataclass(frozen=True)
class Offer:
    """How the kernel is to be asked: the granularity that it gives, the flags, the descriptor.

    `asked` are the flags that a file system may refuse.
    """

    granularity: Granularity
    flags: int
    fd: int = -1
    asked: int = 0


class Source:
    """Memory or a file to be mapped; made by `Source.anonymous` and `Source.file`.

    Attributes
    ----------
    size : int
        Bytes, as `pmem2_source_size` has them; of a file, when the source was made.
    alignment : int
        What offsets and lengths of maps, and their addresses, are multiples of, in bytes, as
        `pmem2_source_alignment` has it: a page, the page of a hugetlb file, or of a device dax.

    Examples
    --------
    >>> Source.anonymous(1 << 20).alignment
    4096
    """

    def __init__(self, name: str, size: int, alignment: int = PAGE) -> None:
        self.name = name
        self.size = size
        self.alignment = alignment
        self.accepted: set[int] = set()  # what was asked for, and granted

    @staticmethod
    def anonymous(size: SupportsIndex) -> Source:
        """Return memory of `size` bytes that reads zero."""
        return AnonymousSource(whole("size", size))

    @staticmethod
    def file(fd: SupportsIndex) -> Source:
        """Return what an open file or device dax has to be mapped.

        Raises
        ------
        Pmem2Error
            INVALID_FILE_HANDLE: not open, or for writing only. INVALID_FILE_TYPE: not a regular
            file or device dax. NOSUPP, -errno: the system does not tell what it is.
        """
        return FileSource(whole("fd", fd))

    def __repr__(self) -> str:
        """Show what it is, and its numbers."""
        return f"<Source, {self.name}: {self.size:#x} bytes by {self.alignment:#x}>"

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
        shown = length or self.size - offset
        if self.alignment > PAGE:
            require_aligned(f"{name}: bytes behind the offset", shown, unaligned[1], self.alignment)
        return shown

    def offer(self, pieces: Pieces, options: Options) -> Offer:
        """Return how to ask the kernel for pieces of the source."""
        raise NotImplementedError

    def refusal(self, number: int, what: str) -> Pmem2Error:
        """Return the exception for an errno, positive, with which the kernel refused a map."""
        numbers = {
            errno.EACCES: codes.PMEM2_E_NO_ACCESS,
            errno.EOPNOTSUPP: codes.PMEM2_E_NOSUPP,
            errno.EEXIST: codes.PMEM2_E_MAPPING_EXISTS,
        }
        return refused(
            numbers.get(number, -number),
            f"{self.name}: {what} expected, {os.strerror(number)} found",
        )


class AnonymousSource(Source):
    """Memory that reads zero and has no file."""

    def __init__(self, size: int) -> None:
        super().__init__("anonymous memory", size)

    def offer(self, pieces: Pieces, options: Options) -> Offer:
        """Nothing of it is ever written back."""
        return _memory_offer(options.shared, options.readonly)


@cache
def _memory_offer(shared: bool, readonly: bool) -> Offer:
    return Offer(Granularity.BYTE, native.map_flags(shared=shared, readonly=readonly))


class FileSource(Source):
    """An open file or device dax. The descriptor is used to map, not kept."""

    def __init__(self, fd: int) -> None:
        name = f"file descriptor {fd}"
        status = self._status(fd)
        self._fd = fd
        self._device = stat.S_ISCHR(status.mode)
        self._is_dax: bool | None = None  # not asked yet
        if self._device:
            size, alignment = _measure_device(status)
        else:
            size, alignment = status.size, self._page_of_file(status, name)
        super().__init__(name, size, alignment)
        self.links: int = status.links

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

    def _page_of_file(self, status: native.FileStatus, name: str) -> int:
        """Return the size of the pages that the file consists of, in bytes."""
        if status.block_size <= PAGE:
            return PAGE
        try:
            is_huge = native.filesystem_type(self._fd) == native.HUGETLBFS
        except OSError as error:
            number = error.errno or errno.EIO
            raise refused(
                -number, f"{name}: the type of its file system expected, {os.strerror(number)}"
            ) from error
        return status.block_size if is_huge else PAGE

    def check_offset(self, offset: int) -> None:
        """Raise OFFSET_OUT_OF_RANGE for an offset that no file has."""
        if not 0 <= offset <= _LARGEST_FILE_OFFSET:
            raise refused(
                codes.PMEM2_E_OFFSET_OUT_OF_RANGE,
                f"{self.name}: an offset from 0 to 2^63 - 1 expected, {offset:#x} found",
            )

    def offer(self, pieces: Pieces, options: Options) -> Offer:
        """Find out what the kernel grants; only a shared map of persistent memory is fine."""
        sync = options.shared and self._is_dax is not False and self._is_sync(pieces)
        got = Granularity.CACHE_LINE if sync else Granularity.PAGE
        got = got if options.shared else Granularity.BYTE
        flags = native.map_flags(
            shared=options.shared,
            readonly=options.readonly,
            sync=sync,
            large=self.alignment > PAGE,
            strict=options.granularity is not None and got > options.granularity,
            own=options.own,
        )
        is_known = flags in self.accepted or (self.accepted and not options.shared)
        hints = native.MAP_ACCEPTED if is_known else 0  # what can be shared, can be private
        hints |= native.MAP_BY_PAGE if options.by_page else 0
        return Offer(got, flags | hints, self._fd, flags)

    def _is_sync(self, pieces: Pieces) -> bool:
        try:
            if self._is_dax is None:
                self._is_dax = self._device or native.is_dax(self._fd)
        except OSError as error:
            raise self.refusal(error.errno or errno.EIO, "a file to be looked at") from error
        return self._is_dax and native.can_map_in_sync(self._fd, *pieces[0])


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
        number = error.errno if isinstance(error, OSError) else None
        has_no_descriptor = number in {errno.EMFILE, errno.ENFILE}
        raise refused(
            -number if number and has_no_descriptor else codes.PMEM2_E_NOSUPP,
            f"{device}: size and alignment of a device dax expected, {error} found",
        ) from error
    return size, alignment
