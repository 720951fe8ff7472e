"""Page cache: what is decided about a file is decided by what its medium has [R10].

    synced -> dropped from the cache -> is anything left?
                no    what is read from now on comes from the medium
                yes   somebody has it mapped: what counts is read past the cache, and compared

A page whose write-back has failed is clean for the kernel, and has what the medium has not. It goes
when the cache is dropped, unless a process has it mapped: a child of a fork that lives on, a reader
of the file. Storing to such a page again, and syncing it, is not enough: an ext4 has been seen to
report success, and to have zeros there after the next mount.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

from pmemheap import native
from pmemheap.errors import DurabilityError
from pmemheap.native import NativeError
from pmemheap.units import PAGE, MiB, align_down, align_up

__all__ = ["drop", "mappers", "require_same"]

_COMPARED_AT_ONCE = 1 * MiB
_NAMED = 5


def drop(fd: int) -> bool:
    """Drop a file that is synced from the cache; return whether all of it went.

    False if some of it is left, or if the system does not tell.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return native.cached(fd, 0) == 0


def require_same(fd: int, name: str, ranges: Iterable[tuple[int, int]]) -> None:
    """Check that what the cache has of some ranges is what the medium has.

    Parameters
    ----------
    fd, name
        Of the heap file, which is synced.
    ranges : iterable of (int, int)
        Offset and length. Only what is in the cache is read.

    Raises
    ------
    DurabilityError
        It is not, or it cannot be told; the message names the processes that have the file mapped.
    """
    left = [each for each in _pieces(ranges) if native.cached(fd, *each) != 0]
    if not left:
        return
    with _Medium(fd, name) as medium:
        for offset, length in left:
            place = medium.difference(offset, length)
            if place is not None:
                raise DurabilityError(
                    errno.EIO,
                    f"heap file {name!r}: the bytes of its medium expected at file offset "
                    f"{place:#x}, others found in memory: they could not be written back, and "
                    f"{_who(fd)}. Nothing was changed; when nobody has it mapped, open it again",
                )


def _pieces(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the pages that hold some ranges in pieces that are compared at once."""
    for offset, length in _pages(ranges):
        for at in range(offset, offset + length, _COMPARED_AT_ONCE):
            yield at, min(_COMPARED_AT_ONCE, offset + length - at)


def _pages(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the pages that hold some ranges, each once, in order."""
    start = stop = 0
    for offset, length in sorted(ranges):
        first, last = align_down(offset, PAGE), align_up(offset + length, PAGE)
        if first > stop:
            if stop > start:
                yield start, stop - start
            start = first
        stop = max(stop, last)
    if stop > start:
        yield start, stop - start


class _Medium:
    """The bytes of a file, read past the cache."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._direct = -1
        self._buffer = mmap.mmap(-1, _COMPARED_AT_ONCE)  # aligned, as such reads want it

    def __enter__(self) -> _Medium:
        try:
            self._direct = _opened_anew(self._fd, self._name)
        except OSError as error:
            raise self._cannot(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._direct)
        self._buffer.close()

    def difference(self, offset: int, length: int) -> int | None:
        """Return the offset of a page of a piece that the medium has otherwise; None without."""
        cached = native.pread(self._fd, length, offset)
        try:
            with memoryview(self._buffer) as whole, whole[:length] as view:
                found = bytes(view[: native.pread_into(self._direct, view, offset)])
        except NativeError as error:
            raise self._cannot(error) from error
        pages = range(0, max(len(found), len(cached)), PAGE)
        return next((offset + at for at in pages if _page(found, at) != _page(cached, at)), None)

    def _cannot(self, error: OSError) -> DurabilityError:
        return DurabilityError(
            errno.EIO,
            f"heap file {self._name!r}: its medium is to be read, past what is in memory, which "
            f"the system refuses ({error.strerror}); {_who(self._fd)}. Nothing was changed; when "
            "nobody has it mapped, open it again",
        )


def _page(data: bytes, at: int) -> bytes:
    return data[at : at + PAGE]


def _opened_anew(fd: int, name: str) -> int:
    """Open a file once more, for reads past the cache."""
    flags = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except FileNotFoundError:  # without /proc
        direct = os.open(name, flags)
    own, other = native.fstat(fd), native.fstat(direct)
    if (own.device, own.inode) != (other.device, other.inode):
        os.close(direct)
        raise FileNotFoundError(errno.ENOENT, "another file has its name")
    return direct


# ---------------------------------------------------------------- who has it mapped


def _who(fd: int) -> str:
    found = mappers(fd)
    # A recovery has mapped the log itself: this process is the one only if there is no other.
    found = [each for each in found if each[0] != os.getpid()] or found
    if not found:
        return "some process has the file mapped"
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    names = ", ".join(f"{process} ({what})" for process, what in found[:_NAMED])
    word = "process" if len(found) == 1 else "processes"
    return f"{word} {names}{more} {'has' if len(found) == 1 else 'have'} the file mapped"


def mappers(fd: int) -> list[tuple[int, str]]:
    """Return number and name of the processes that have a file mapped, as far as /proc tells."""
    status = native.fstat(fd)
    device = f"{os.major(status.device):02x}:{os.minor(status.device):02x}"
    found: list[tuple[int, str]] = []
    with suppress(OSError):
        processes = sorted(int(each) for each in os.listdir("/proc") if each.isdigit())
        mapping = (each for each in processes if _maps(each, device, str(status.inode)))
        found += [(process, _name_of(process)) for process in mapping]
    return found


def _maps(process: int, device: str, inode: str) -> bool:
    with (
        suppress(OSError),
        open(f"/proc/{process}/maps", encoding="utf-8", errors="replace") as maps,
    ):
        return any(line.split(maxsplit=5)[3:5] == [device, inode] for line in maps)
    return False


def _name_of(process: int) -> str:
    if process == os.getpid():
        return "this one"
    with (
        suppress(OSError),
        open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as name,
    ):
        return name.read().strip()
    return "?"
