"""Refusals: what the system refuses, as exceptions of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pmemheap.errors import (
    DurabilityError,
    OutOfSpaceError,
    Pmem2Error,
    PmemHeapError,
    UsageError,
)

__all__ = ["refusal", "refusals"]

_NO_ROOM = frozenset(
    {
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EAGAIN,
        errno.EMFILE,
        errno.ENFILE,
    }
)


def refusal(what: str, error: OSError) -> PmemHeapError:
    """Return the exception of ours for a system call that was refused."""
    if error.errno in _NO_ROOM:
        return OutOfSpaceError(f"{what}: {error}")
    if error.errno == errno.EIO:
        return DurabilityError(error.errno, f"{what}: {error}")
    return UsageError(f"{what}: {error}")


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Raise an exception of ours for whatever the system refuses."""
    try:
        yield
    except Pmem2Error as error:
        raise OutOfSpaceError(f"{what}: {error}") from error
    except PmemHeapError:
        raise
    except OSError as error:
        raise refusal(what, error) from error
