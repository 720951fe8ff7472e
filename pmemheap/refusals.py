"""Refusals: what the system refuses, as exceptions of ours; and what follows a failure.

    ENOMEM, ENOSPC, EMFILE ...   OutOfSpaceError        EIO   DurabilityError
    ENOENT   HeapNotFoundError      EEXIST   HeapExistsError      EACCES   HeapPermissionError
    any other                    HeapFileError, which is a UsageError and an OSError

Never CorruptHeapError: a refusal says nothing about what is in a file.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pmemheap.errors import (
    DurabilityError,
    HeapBusyError,
    HeapExistsError,
    HeapFileError,
    HeapNotFoundError,
    HeapPermissionError,
    OutOfSpaceError,
    Pmem2Error,
    PmemHeapError,
)

__all__ = ["end_with", "map_refusal", "refusal", "refusals"]

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
_KINDS: dict[int | None, type[HeapFileError]] = {
    errno.ENOENT: HeapNotFoundError,
    errno.EEXIST: HeapExistsError,
    errno.EACCES: HeapPermissionError,
    errno.EPERM: HeapPermissionError,
    errno.ETXTBSY: HeapBusyError,
}
_LAST_ERRNO = 4095


def refusal(what: str, error: OSError, filename: str | None = None) -> PmemHeapError:
    """Return the exception of ours for a system call that was refused.

    Parameters
    ----------
    filename : str, optional
        The file, as the caller named it; that of the system call if left out.
    """
    if error.errno in _NO_ROOM:
        return OutOfSpaceError(f"{what}: {error}")
    if error.errno == errno.EIO:
        return DurabilityError(error.errno, f"{what}: {error}")
    kind = _KINDS.get(error.errno, HeapFileError)
    text = error.strerror or str(error)
    return kind(f"{what}: {text}", error.errno, filename or _name_in(error))


def _name_in(error: OSError) -> str | None:
    return None if error.filename is None else str(error.filename)


@contextmanager
def refusals(what: str, filename: str | None = None) -> Iterator[None]:
    """Raise an exception of ours for whatever the system refuses; parameters as `refusal`."""
    try:
        yield
    except Pmem2Error as error:
        raise map_refusal(what, error, filename) from error
    except PmemHeapError:
        raise
    except OSError as error:
        raise refusal(what, error, filename) from error


def map_refusal(what: str, error: Pmem2Error, filename: str | None = None) -> PmemHeapError:
    """Return the exception for a map that was refused: there is no room, unless errno says more.

    Parameters as `refusal`.
    """
    if error.code < -_LAST_ERRNO or -error.code in _NO_ROOM:
        return OutOfSpaceError(f"{what}: {error}")
    return refusal(what, OSError(-error.code, str(error)), filename)


def end_with(error: BaseException | None, close: Callable[[], object]) -> None:
    """Close something at the end of a ``with`` block, or after a failure.

    Parameters
    ----------
    error : BaseException or None
        What leaves the block. An exception of `close` does not take its place: it becomes a note.
    """
    if error is None:
        close()
        return
    try:
        close()
    except Exception as refused:
        error.add_note(f"and when it was closed: {type(refused).__name__}: {refused}")
