"""Checksums: CRC32C, by the processor where it can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmemheap._core._sys import ffi, lib
from pmemheap.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["HAS_CRC32C", "all_sealed", "crc32c", "crc32c_but", "crc32c_hardware", "crc32c_table"]

HAS_CRC32C = bool(lib.ph_crc32c_has_hardware())
"""Whether this machine has an instruction for CRC-32C."""


def crc32c(data: Buffer, seed: int = 0) -> int:
    """Return the CRC-32C of `data`, going on from `seed`, the CRC of what came before.

    Examples
    --------
    >>> hex(crc32c(b"123456789")), crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")
    ('0xe3069283', True)
    """
    with ffi.from_buffer(data) as raw:
        return int(lib.ph_crc32c(seed, raw, len(raw)))


def crc32c_but(data: bytes, at: int) -> int:
    """Return the CRC-32C of `data`, of which the four bytes from `at` on count as zero."""
    if not 0 <= at <= len(data) - 4:
        raise UsageError(f"crc32c: four bytes inside of {len(data)} expected, {at} found")
    return int(lib.ph_crc32c_but(data, len(data), at))


def all_sealed(slots: bytes, width: int, at: int) -> bool:
    """Tell whether slots of `width` bytes are zero, or have at `at` the `crc32c_but` of theirs."""
    if width < 1 or len(slots) % width or not 0 <= at <= width - 4:
        raise UsageError(f"seals: whole slots of {width} bytes expected, {len(slots)} found")
    return bool(lib.ph_all_sealed(slots, len(slots) // width, width, at))


def crc32c_table(data: Buffer, seed: int = 0) -> int:
    """Return the same as `crc32c`, computed by table; for tests."""
    with ffi.from_buffer(data) as raw:
        return int(lib.ph_crc32c_table(seed, raw, len(raw)))


def crc32c_hardware(data: Buffer, seed: int = 0) -> int:
    """Return the same as `crc32c`, computed by instruction; for tests.

    Raises
    ------
    UsageError
        This machine has none: `HAS_CRC32C` tells.
    """
    if not HAS_CRC32C:
        raise UsageError("crc32c_hardware: an instruction for CRC-32C expected, none found")
    with ffi.from_buffer(data) as raw:
        return int(lib.ph_crc32c_hardware(seed, raw, len(raw)))
