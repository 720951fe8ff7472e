"""Exits: how a command ends, as a number and as one line of text."""

from __future__ import annotations

import errno
from enum import IntEnum

from pmemheap.cli.show import printable
from pmemheap.errors import CorruptHeapError, DurabilityError, OutOfSpaceError, PmemHeapError

__all__ = ["EXPECTED", "ExitCode", "code_of", "line_of"]


class ExitCode(IntEnum):
    """Exit codes; the opening of `pmemheap.cli` explains them."""

    DONE = 0
    FINDINGS = 1
    USAGE = 2
    CORRUPT = 3
    NO_SPACE = 4
    DURABILITY = 5
    MISTAKE = 70
    CUT_OFF = 141


EXPECTED: tuple[type[Exception], ...] = (PmemHeapError, MemoryError, OSError)
"""Exceptions that end a command with a line; any other is a mistake of ours, with a traceback."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM})


def code_of(error: Exception) -> ExitCode:
    """Return the exit code for an error.

    Examples
    --------
    >>> code_of(CorruptHeapError("no superblock")).name, code_of(FileNotFoundError()).name
    ('CORRUPT', 'USAGE')
    """
    if isinstance(error, CorruptHeapError):
        return ExitCode.CORRUPT
    if isinstance(error, DurabilityError):
        return ExitCode.DURABILITY
    if isinstance(error, OutOfSpaceError | MemoryError):
        return ExitCode.NO_SPACE
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return ExitCode.NO_SPACE
    return ExitCode.USAGE


def line_of(error: Exception | str) -> str:
    r"""Return one line that says what went wrong.

    Examples
    --------
    >>> line_of(MemoryError("two\nlines"))
    'pmemheap: two lines'
    """
    text = str(error) or type(error).__name__
    is_ours = isinstance(error, PmemHeapError)  # whose text has the file, and more
    if isinstance(error, OSError) and not is_ours and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return "pmemheap: " + printable(" ".join(text.split()))
