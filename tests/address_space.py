"""What tests ask of the address space of this process, without going through pmemheap."""

from __future__ import annotations

import ctypes
import mmap
from typing import NamedTuple

from pmemheap.units import PAGE


class Range(NamedTuple):
    start: int
    stop: int
    permissions: str
    name: str


def address_map() -> list[Range]:
    """Return /proc/self/maps."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            borders, permissions, *_ = line.split()
            start, stop = (int(number, 16) for number in borders.split("-"))
            found.append(Range(start, stop, permissions, line[73:].strip()))
    return found


def mapped_bytes(start: int, stop: int) -> int:
    """Return how many bytes of a range have anything mapped, reserved or not."""
    return sum(max(0, min(stop, each.stop) - max(start, each.start)) for each in address_map())


def permissions(start: int, stop: int) -> str:
    """Describe a range page by page: ``-`` reserved, ``w`` writable, ``r`` readable, ``.`` hole."""
    text = ["."] * ((stop - start) // PAGE)
    for each in address_map():
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
