"""Ranges of memory: mapped, advised, stored to, written back."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import chain
from typing import TYPE_CHECKING, Any

from pmemheap._core._hot import Exporter
from pmemheap._core._sys import ffi, lib
from pmemheap.errors import UsageError
from pmemheap.native.failures import check

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BEST_FLUSH",
    "MAP_ACCEPTED",
    "MAP_BY_PAGE",
    "Advice",
    "FlushKind",
    "become_own",
    "can_map_in_sync",
    "copy_differences",
    "fence",
    "file_will_map",
    "flush",
    "madvise",
    "map_anonymous",
    "map_file",
    "map_flags",
    "memory",
    "msync",
    "store",
    "unmap",
]


class Advice(IntEnum):
    """Advice to the kernel about a range, by `madvise`."""

    DONTNEED = lib.PH_ADVISE_DONTNEED
    REMOVE = lib.PH_ADVISE_REMOVE
    HUGEPAGE = lib.PH_ADVISE_HUGEPAGE
    NOHUGEPAGE = lib.PH_ADVISE_NOHUGEPAGE
    POPULATE_READ = lib.PH_ADVISE_POPULATE_READ
    POPULATE_WRITE = lib.PH_ADVISE_POPULATE_WRITE
    DONTFORK = lib.PH_ADVISE_DONTFORK
    RANDOM = lib.PH_ADVISE_RANDOM
    FENCE = lib.PH_ADVISE_FENCE
    UNFENCE = lib.PH_ADVISE_UNFENCE


class FlushKind(IntEnum):
    """The instruction that writes a cache line back."""

    NONE = lib.PH_FLUSH_NONE
    CLFLUSH = lib.PH_FLUSH_CLFLUSH
    CLFLUSHOPT = lib.PH_FLUSH_CLFLUSHOPT
    CLWB = lib.PH_FLUSH_CLWB
    DC_CVAC = lib.PH_FLUSH_DC_CVAC
    DC_CVAP = lib.PH_FLUSH_DC_CVAP


def store(address: int, data: Buffer) -> None:
    """Store bytes to mapped memory: the way for all that may be persistent."""
    with ffi.from_buffer(data) as raw:
        lib.ph_put_at(address, raw, len(raw))


def copy_differences(target: Buffer, source: Buffer) -> int:
    """Make `target` equal `source`, storing only to pages that differ; return their number."""
    with ffi.from_buffer(target, require_writable=True) as to, ffi.from_buffer(source) as origin:
        if len(to) != len(origin):
            raise UsageError(f"copy: {len(to)} bytes expected, {len(origin)} found")
        addresses = (int(ffi.cast("uintptr_t", raw)) for raw in (to, origin))
        return check(lib.ph_copy_differences(*addresses, len(to)), "copy_differences")


def memory(address: int, length: int, owner: object, *, readonly: bool = False) -> memoryview:
    """Return the bytes at `address` as a memoryview that keeps `owner` alive.

    Parameters
    ----------
    address, length : int
        A range that is mapped for as long as `owner` lives, and can be written unless `readonly`.
    owner : object
        A `AddressRange`, as a rule.
    readonly : bool
        Refuse stores through the view.

    Returns
    -------
    memoryview
        ``(length,)`` of uint8. Slices and numpy arrays made of it keep `owner` as well.
    """
    return memoryview(Exporter(address, length, readonly, owner))


_SHARED, _READONLY, _SYNC = lib.PH_MAP_SHARED, lib.PH_MAP_READONLY, lib.PH_MAP_SYNC
_LARGE, _STRICT, _OWN = lib.PH_MAP_LARGE, lib.PH_MAP_STRICT, lib.PH_MAP_OWN
MAP_ACCEPTED: int = lib.PH_MAP_ACCEPTED
"""A flag besides: the file system has granted the others for this file before."""
MAP_BY_PAGE: int = lib.PH_MAP_RANDOM
"""A flag besides: the map is faulted in page by page, without read-ahead."""


def become_own(view: memoryview) -> None:
    """Let a view of a block be for the use of the package alone, and not count as a user's.

    Who looks through it asks afterwards whether the heap is lost.
    """
    owner: Any = view.obj
    owner._become_own()  # private: users can reach the owner of a view


def map_flags(  # noqa: PLR0913 -- flags, which do not depend on each other
    *,
    shared: bool,
    readonly: bool = False,
    sync: bool = False,
    large: bool = False,
    strict: bool = False,
    own: bool = False,
) -> int:
    """Return the flags that the C core has for how something is to be mapped.

    Parameters
    ----------
    shared, readonly : bool
        Whether stores reach the file; whether there can be any.
    sync : bool
        Ask for MAP_SYNC: persistent memory only, EOPNOTSUPP elsewhere.
    large : bool
        The pages of the file are larger than a page of memory.
    strict : bool
        For `Places`: only say what stands in the way, and in the end that the granularity does.
    own : bool
        By an open file description of its own, if the system grants one: the kernel tells it
        of each failed write-back, also if another descriptor of the file is synced before.
    """
    return int(
        shared * _SHARED | readonly * _READONLY | sync * _SYNC | large * _LARGE | strict * _STRICT
        | own * _OWN
    )  # fmt: skip


def can_map_in_sync(fd: int, offset: int, length: int) -> bool:
    """Tell whether the kernel grants MAP_SYNC for a piece of a file; nothing stays mapped."""
    flags = map_flags(shared=True, sync=True)
    return bool(lib.ph_try_map(fd, offset, length, flags) >= 0)


def map_anonymous(
    address: int, length: int, *, shared: bool = False, readonly: bool = False
) -> None:
    """Put zeroed memory over ``[address, address + length)`` of an own reservation.

    Raises
    ------
    NativeError
        The kernel refused; the range is reserved and empty.
    """
    flags = map_flags(shared=shared, readonly=readonly)
    check(lib.ph_map_anonymous(address, length, flags), "map_anonymous")


def map_file(  # noqa: PLR0913 -- the four numbers of mmap, and how
    fd: int,
    offset: int,
    address: int,
    length: int,
    *,
    shared: bool = True,
    readonly: bool = False,
    sync: bool = False,
) -> None:
    """Put ``[offset, offset + length)`` of a file over the same length of an own reservation.

    Parameters
    ----------
    fd : int
        An open file; it may be closed afterwards.
    offset, address, length : int
        Multiples of a page.
    shared, readonly : bool
        Whether stores reach the file; whether there can be any.
    sync : bool
        Ask for MAP_SYNC: persistent memory only, EOPNOTSUPP elsewhere.

    Raises
    ------
    NativeError
        The kernel refused; the range is reserved and empty, never a hole.
    """
    flags = map_flags(shared=shared, readonly=readonly, sync=sync)
    check(lib.ph_map_file(fd, offset, address, length, flags), "map_file")


def file_will_map(
    number: int,
    address: int,
    pieces: Sequence[tuple[int, int]],
    *,
    shared: bool = True,
    readonly: bool = False,
) -> None:
    """Enter pieces of a file, ``(offset, length)``, that are about to be mapped at an address.

    They count as mapped until the range is unmapped or given back.

    Raises
    ------
    NativeError
        EBADF: the file was released, or entered by a process of which this is a fork. ENOMEM.
    """
    flags = shared * _SHARED | readonly * _READONLY
    places = list(chain.from_iterable(pieces))
    check(lib.ph_file_will_map(number, address, places, len(pieces), flags), "file_will_map")


def unmap(address: int, length: int) -> None:
    """Make a range of an own reservation empty again, in one step; it stays reserved."""
    check(lib.ph_unmap(address, length), "unmap")


def madvise(address: int, length: int, advice: Advice) -> None:
    """Tell the kernel what will become of a mapped range of whole pages."""
    check(lib.ph_advise(address, length, advice), "madvise")


def msync(address: int, length: int) -> None:
    """Write the dirty pages of a range back, and wait; `address` is a multiple of a page."""
    check(lib.ph_sync_range(address, length), "msync")


BEST_FLUSH = FlushKind(lib.ph_flush_best())
"""The best instruction of this machine."""


def flush(address: int, length: int, kind: FlushKind = BEST_FLUSH) -> None:
    """Start the write-back of the cache lines of a mapped range; `fence` orders it."""
    check(lib.ph_flush(address, length, kind), "flush")


def fence() -> None:
    """Order all flushes before it: on persistent memory they are durable when it returns."""
    lib.ph_fence()
