"""Failures: what a refused system call is, before a layer above says what it meant."""

from __future__ import annotations

import os

from pmemheap._core._sys import lib
from pmemheap.errors import Portable, UsageError

__all__ = ["NativeError", "check"]


_LAST_ERRNO = 4095


class NativeError(Portable, OSError):
    """A system call was refused; `errno` says why and `call` which.

    Parameters
    ----------
    number : int
        The errno, positive.
    call : str
        Name of the function here.
    """

    def __init__(self, number: int, call: str) -> None:
        super().__init__(number, f"{call}: {os.strerror(number)}")
        self.call = call


def check(result: int, call: str) -> int:
    """Return `result` of the C function behind `call`, or raise what a negative one stands for.

    Raises
    ------
    NativeError
        `result` is a negated errno.
    UsageError
        `result` is the core's own code for a mistake of the caller.
    """
    if result >= 0:
        return result
    if result >= -_LAST_ERRNO:
        raise NativeError(-result, call)
    assert result == lib.PH_EUSAGE, f"{call}: code {result}"
    raise UsageError(f"{call}: code {result} of the C core")
