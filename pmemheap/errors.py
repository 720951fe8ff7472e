"""Errors: every exception that pmemheap raises on purpose.

    PmemHeapError
      +-- UsageError        (ValueError)     the caller's mistake; nothing has changed
      |     +-- DamagedBlockError            bytes beside a guarded block were overwritten
      |     +-- SnapshotGoneError            what another process sent was let go meanwhile
      |     +-- HeapFileError (OSError)      a file that the system, or another user of it, refuses
      |           +-- HeapNotFoundError      (FileNotFoundError)
      |           +-- HeapExistsError        (FileExistsError)
      |           +-- HeapBusyError          (BlockingIOError)
      |           +-- HeapPermissionError    (PermissionError)
      +-- OutOfSpaceError   (MemoryError)    expected; nothing has changed
      +-- CorruptHeapError                   the file is wrong
      +-- DurabilityError   (OSError)        a flush or sync failed
      +-- Pmem2Error                         a call of `pmemheap.pmem2`, with its number

A message gives thing, place, expected and found. Every error survives pickle and copy: it is made
again from its class, its arguments and its attributes, without a call of its constructor, so that
a subclass may have whatever constructor it wants. This module imports nothing of ours.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Self, TypeVar

__all__ = [
    "CorruptHeapError",
    "DamagedBlockError",
    "DurabilityError",
    "HeapBusyError",
    "HeapExistsError",
    "HeapFileError",
    "HeapNotFoundError",
    "HeapPermissionError",
    "OutOfSpaceError",
    "Pmem2Error",
    "PmemHeapError",
    "SnapshotGoneError",
    "StrategyError",
    "UsageError",
]

_OF_SYSTEM = ("errno", "strerror", "filename", "filename2")

E = TypeVar("E", bound=BaseException)


class Portable:
    """An exception that survives pickle and copy, with its attributes and notes."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by class, arguments and attributes."""
        state: dict[str, Any] = dict(vars(self))
        if isinstance(self, OSError):  # these are not in the dictionary
            told = {name: getattr(self, name) for name in _OF_SYSTEM}
            state.update({name: value for name, value in told.items() if value is not None})
        if "__notes__" in state:
            state["__notes__"] = list(state["__notes__"])
        return _made_again, (type(self), getattr(self, "args", ())), state


def _made_again(kind: type[E], args: tuple[Any, ...]) -> E:
    """Make an exception without its constructor, which may want other arguments."""
    maker: Any = OSError if issubclass(kind, OSError) else BaseException
    error: E = maker.__new__(kind)
    error.args = args
    return error


class PmemHeapError(Portable, Exception):
    """Base of all exceptions that pmemheap raises on purpose."""


class UsageError(PmemHeapError, ValueError):
    """The caller's mistake, such as a double free or a closed heap; nothing has changed."""


class StrategyError(UsageError):
    """A `pmemheap.protocols.Space` gave an answer that cannot be; nothing has changed."""


class DamagedBlockError(UsageError):
    """Bytes beside a block that a `pmemheap.Guard` watches were overwritten; it is as it was."""


class HeapFileError(UsageError, OSError):
    """A file that the system refuses, or somebody who has it open; nothing has changed.

    A note says so in a traceback, where the names of the subclasses do not.

    Parameters
    ----------
    message : str
        Thing, place, expected and found.
    number : int, optional
        The errno.
    filename : str, optional
        The file, as the caller named it.

    Attributes
    ----------
    errno : int
        Why, as the system has it.
    strerror : str
        The system's words for that.
    filename : str
        The file.

    Examples
    --------
    >>> import pmemheap
    >>> try:
    ...     pmemheap.open("/none/of/these.heap")
    ... except FileNotFoundError as error:
    ...     print(type(error).__name__, error.filename, error.strerror)
    HeapNotFoundError /none/of/these.heap No such file or directory
    """

    number: int | None = None

    def __new__(cls, *_: object, **__: object) -> Self:
        """Make one, as OSError does it, not ValueError."""
        return OSError.__new__(cls)

    def __init__(
        self, message: str = "", number: int | None = None, filename: str | None = None
    ) -> None:
        self.args: tuple[Any, ...] = (message,)
        self.errno: int | None = self.number if number is None else number
        if self.errno is not None:
            self.strerror: str = os.strerror(self.errno)
        self.filename = filename
        self.add_note("UsageError: nothing has changed")

    def __str__(self) -> str:
        """Return the message."""
        return str(self.args[0]) if self.args else ""


class HeapNotFoundError(HeapFileError, FileNotFoundError):
    """There is no such file, or no such directory for one that is to be made."""

    number: int = errno.ENOENT


class HeapExistsError(HeapFileError, FileExistsError):
    """A file is there that was not to be replaced."""

    number: int = errno.EEXIST


class HeapBusyError(HeapFileError, BlockingIOError):
    """Somebody has the file open: the message says who."""

    number: int = errno.EAGAIN


class HeapPermissionError(HeapFileError, PermissionError):
    """The system does not let this user have the file."""

    number: int = errno.EACCES


class SnapshotGoneError(UsageError):
    """What another process sent, a snapshot or an array, was let go there before it came here."""


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
        The negative number libpmem2 gives for this refusal, or a negated errno. A text in its place
        is a message without one.
    name : str
        The number's name: ``"PMEM2_E_MAPPING_EXISTS"``, ``"ENOMEM"``.
    message : str
        Thing, place, expected and found.

    Examples
    --------
    >>> print(Pmem2Error(-12, "ENOMEM", "reservation of 2^62 bytes: no such range"))
    reservation of 2^62 bytes: no such range (ENOMEM, -12)
    """

    code: int
    name: str
    message: str

    def __init__(self, code: int | str, name: str = "", message: str = "") -> None:
        self.code, self.name, self.message = (
            (_UNKNOWN, "PMEM2_E_UNKNOWN", code) if isinstance(code, str) else (code, name, message)
        )
        super().__init__(self.code, self.name, self.message)

    def __str__(self) -> str:
        """Return the message, then name and number."""
        return f"{self.message} ({self.name}, {self.code})"


_UNKNOWN = -100000
"""The text of libpmem2 for an error that it does not know."""
