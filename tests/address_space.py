"""What tests ask of the address space of this process, without going through pmemheap."""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from itertools import takewhile
from typing import NamedTuple

from pmemheap.units import PAGE


class Range(NamedTuple):
    start: int
    stop: int
    permissions: str
    name: str


def address_map(start: int = 0, stop: int = 1 << 64) -> list[Range]:
    """Return what of /proc/self/maps touches a range: in order there, and maybe thousands."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        lines = file.readlines()
    first = bisect_right(lines, start, key=lambda line: _borders(line)[1])
    return [
        _range(line) for line in takewhile(lambda line: _borders(line)[0] < stop, lines[first:])
    ]


def _borders(line: str) -> tuple[int, int]:
    start, stop = line.split(maxsplit=1)[0].split("-")
    return int(start, 16), int(stop, 16)


def _range(line: str) -> Range:
    return Range(*_borders(line), line.split(maxsplit=2)[1], line[73:].strip())


def mapped_bytes(start: int, stop: int) -> int:
    """Return how many bytes of a range have anything mapped, reserved or not."""
    return sum(
        max(0, min(stop, each.stop) - max(start, each.start)) for each in address_map(start, stop)
    )


def permissions(start: int, stop: int) -> str:
    """Describe a range page by page: ``-`` reserved, ``w`` writable, ``r`` readable, ``.`` hole."""
    text = ["."] * ((stop - start) // PAGE)
    for each in address_map(start, stop):
        letter = {"---": "-", "r--": "r", "rw-": "w"}.get(each.permissions[:3], "?")
        first, last = max(start, each.start), min(stop, each.stop)
        for page in range((first - start) // PAGE, (last - start) // PAGE):
            text[page] = letter
    return "".join(text)


def free_range(length: int) -> int:
    """Return the start of a range that is free now, far from where the kernel puts new maps."""
    start = 0x2000_0000_0000
    while mapped_bytes(start, start + length):
        start += 1 << 36
    return start


class Stranger:
    """Somebody else's page at an address of our choice, with a byte to recognise it by."""

    def __init__(self, address: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [
            ctypes.c_void_p,
            *[ctypes.c_size_t] * 2,
            *[ctypes.c_int] * 2,
            ctypes.c_long,
        ]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        fixed_noreplace = 0x100000
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed_noreplace
        got = libc.mmap(address, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        assert got == address
        self.address = address
        self._munmap = libc.munmap
        self._byte = ctypes.c_ubyte.from_address(address)
        self._byte.value = 77

    def is_intact(self) -> bool:
        return mapped_bytes(self.address, self.address + PAGE) == PAGE and self._byte.value == 77

    def leave(self) -> None:
        self._munmap(self.address, PAGE)
