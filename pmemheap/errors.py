"""Errors: every exception that pmemheap raises on purpose.

    PmemHeapError
      +-- UsageError        (ValueError)     the caller's mistake; nothing has changed
      +-- OutOfSpaceError   (MemoryError)    expected; nothing has changed
      +-- CorruptHeapError                   the file is wrong
      +-- DurabilityError   (OSError)        a flush or sync failed
      +-- Pmem2Error                         a call of `pmemheap.pmem2`, with its number

A message gives thing, place, expected and found. This module imports nothing.
"""

from __future__ import annotations

__all__ = [
    "CorruptHeapError",
    "DurabilityError",
    "OutOfSpaceError",
    "Pmem2Error",
    "PmemHeapError",
    "UsageError",
]


class PmemHeapError(Exception):
    """Base of all exceptions that pmemheap raises on purpose."""


class UsageError(PmemHeapError, ValueError):
    """The caller's mistake, such as a double free or a closed heap; nothing has changed."""


class OutOfSpaceError(PmemHeapError, MemoryError):
    """There is no room: disk, address space or a chosen limit; nothing has changed."""


class CorruptHeapError(PmemHeapError):
    """The file is not a heap, or not a sound one."""


class DurabilityError(PmemHeapError, OSError):
    """A flush or a sync failed: what was to be durable may not be."""


class Pmem2Error(PmemHeapError):
    """A reservation or mapping call was refused; nothing has changed.

    Parameters
    ----------
    code : int
        The negative number libpmem2 gives for this refusal, or a negated errno.
    name : str
        The number's name: ``"PMEM2_E_MAPPING_EXISTS"``, ``"ENOMEM"``.
    message : str
        Thing, place, expected and found.

    Examples
    --------
    >>> print(Pmem2Error(-12, "ENOMEM", "reservation of 2^62 bytes: no such range"))
    reservation of 2^62 bytes: no such range (ENOMEM, -12)
    """

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(code, name, message)
        self.code = code
        self.name = name
        self.message = message

    def __str__(self) -> str:
        """Return the message, then name and number."""
        return f"{self.message} ({self.name}, {self.code})"
