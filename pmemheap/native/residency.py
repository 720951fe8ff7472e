"""Residency: what the kernel counts for ranges: by the page tables, or as /proc lists mappings."""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import zip_longest

from pmemheap._core._sys import ffi, lib
from pmemheap.dataclass import dataclass
from pmemheap.native.failures import check

__all__ = ["Residency", "free_memory", "list_mappings", "residencies"]


_PAGEMAP = "/proc/self/pagemap"
_SMAPS = "/proc/self/smaps"
_FREE = b"\nMemAvailable:", b"\nSwapFree:"
_NOT_TOLD = (-errno.ENOTTY, -errno.ENOSYS, -errno.EPERM)
_MAPPING = re.compile(rb"^([0-9a-f]+)-[0-9a-f]+ ", re.MULTILINE)
_MEMORY = re.compile(rb"^(Rss|Swap): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Residency:
    """Memory behind a range, in bytes.

    `resident` counts pages that are in memory, those that other processes share with this one as a
    whole; `swapped` those that have been moved out.
    """

    resident: int
    swapped: int


def list_mappings() -> bytes:
    """Return the kernel's list of the mappings of this process; empty where there is no /proc.

    Raises
    ------
    OSError
        It cannot be opened.
    """
    try:
        with open(_SMAPS, "rb") as smaps:
            return smaps.read()
    except FileNotFoundError:
        return b""


def residencies(
    ranges: Mapping[str, tuple[int, int]], listing: Callable[[], bytes] = list_mappings
) -> dict[str, Residency]:
    """Return what the kernel counts for some ranges.

    Parameters
    ----------
    ranges : dict of str to (int, int)
        Name to ``[start, stop)`` of whole pages; ranges do not overlap, and mappings lie in one.
    listing : callable, optional
        `list_mappings`, or what returns the same list to several calls. It is needed where the
        kernel does not count by range (before Linux 6.7).

    Returns
    -------
    dict of str to Residency
        O(pages in the ranges that have memory), with `listing` O(mappings of the process). All
        zero where there is no /proc.

    Raises
    ------
    OSError
        They cannot be counted.
    """
    found = _counted(ranges)
    return _listed(ranges, listing()) if found is None else found


def _counted(ranges: Mapping[str, tuple[int, int]]) -> dict[str, Residency] | None:
    """Count by the page tables; None where the kernel does not."""
    try:
        pagemap = open(_PAGEMAP, "rb", buffering=0)  # noqa: SIM115 - only the opening may be refused
    except (FileNotFoundError, PermissionError):
        return None
    memory, found = ffi.new("struct ph_memory *"), {}
    with closing(pagemap):
        for name, (start, stop) in ranges.items():
            result = lib.ph_count_memory(pagemap.fileno(), start, stop, memory)
            if result in _NOT_TOLD:
                return None
            check(result, "pagemap")
            found[name] = Residency(memory.resident, memory.swapped)
    return found


def _listed(ranges: Mapping[str, tuple[int, int]], listed: bytes) -> dict[str, Residency]:
    """Add up the mappings that begin inside each range."""
    found = {name: Counter[bytes]() for name in ranges}
    headers = [*_MAPPING.finditer(listed)]
    for header, following in zip_longest(headers, headers[1:]):
        first = int(header[1], 16)
        name = next((n for n, (start, stop) in ranges.items() if start <= first < stop), None)
        if name is not None:
            stop = len(listed) if following is None else following.start()
            for field, kilobytes in _MEMORY.findall(listed, header.end(), stop):
                found[name][field] += int(kilobytes) * 1024
    return {name: Residency(of[b"Rss"], of[b"Swap"]) for name, of in found.items()}


def free_memory() -> list[int]:
    """Return the bytes of memory, swapped or not, that the system still has; [] without /proc."""
    try:
        with open("/proc/meminfo", "rb", buffering=0) as file:
            text = file.read()
        return [sum(int(text.split(name, 1)[1].split(None, 1)[0]) << 10 for name in _FREE)]
    except (OSError, ValueError, IndexError):
        return []
