"""Residency: what the kernel counts for mappings, as /proc lists them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest

__all__ = ["Residency", "free_memory", "list_mappings", "residencies"]


_SMAPS = "/proc/self/smaps"
_MAPPING = re.compile(rb"^([0-9a-f]+)-[0-9a-f]+ ", re.MULTILINE)
_MEMORY = re.compile(rb"^(Rss|Pss|Swap): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Residency:
    """Memory behind a range, in bytes.

    `resident` counts pages that are in memory, `proportional` a shared page by its part (Pss),
    `swapped` those that have been moved out.
    """

    resident: int
    proportional: int
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
    ranges: dict[str, tuple[int, int]], listed: bytes | None = None
) -> dict[str, Residency]:
    """Return what the kernel counts for the mappings that begin inside each of some ranges.

    Parameters
    ----------
    ranges : dict of str to (int, int)
        Name to ``[start, stop)``; ranges do not overlap.
    listed : bytes, optional
        What `list_mappings` has returned, if it is asked for several of them.

    Returns
    -------
    dict of str to Residency
        O(mappings of the process). All zero where there is no /proc.

    Raises
    ------
    OSError
        They cannot be listed.
    """
    listed = list_mappings() if listed is None else listed
    found = {name: Counter[bytes]() for name in ranges}
    headers = [*_MAPPING.finditer(listed)]
    for header, following in zip_longest(headers, headers[1:]):
        first = int(header[1], 16)
        name = next((n for n, (start, stop) in ranges.items() if start <= first < stop), None)
        if name is not None:
            stop = len(listed) if following is None else following.start()
            for field, kilobytes in _MEMORY.findall(listed, header.end(), stop):
                found[name][field] += int(kilobytes) * 1024
    return {name: Residency(of[b"Rss"], of[b"Pss"], of[b"Swap"]) for name, of in found.items()}


def free_memory() -> list[int]:
    """Return the bytes of memory, swapped or not, that the system still has; [] without /proc."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            sizes = dict(line.split(":", 1) for line in lines)
        return [sum(int(sizes[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree"))]
    except (OSError, ValueError, KeyError):
        return []
