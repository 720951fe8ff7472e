"""Naming: a file is made under a temporary name, and gets its own when it is whole and durable.

temporary name  --file synced-->  its own name  --directory synced-->  there for good
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pmemheap import native
from pmemheap.errors import HeapExistsError, HeapFileError, HeapNotFoundError

__all__ = ["give_name", "new_file", "require_place", "temporary_name"]

_CHARACTERS_KEPT = 40


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that no file has."""
    return path.parent / f".{path.name[:_CHARACTERS_KEPT]}.{secrets.token_hex(8)}"


def require_place(what: str, path: Path, *, replace_file: bool) -> None:
    """Check that a file of this name can be made, or replaced.

    Raises
    ------
    HeapNotFoundError, HeapExistsError
        `what`: there is no directory for it; something of that name is there.
    HeapFileError
        It is to be replaced, and is no regular file.
    """
    thing, name = f"{what} {str(path)!r}", str(path)
    if not path.parent.exists():
        where = f"directory {str(path.parent)!r}"
        raise HeapNotFoundError(f"{thing}: {where} expected, not there", filename=name)
    if path.exists() and not replace_file:
        raise HeapExistsError(f"{thing}: no such file expected, one is there", filename=name)
    if path.is_dir():
        raise HeapFileError(f"{thing}: a file expected, found a directory", errno.EISDIR, name)
    if path.exists() and not path.is_file():
        found = "a device, pipe or socket"
        raise HeapFileError(f"{thing}: a regular file expected, found {found}", errno.EINVAL, name)


def give_name(what: str, temporary: Path, path: Path, *, replace_file: bool) -> None:
    """Give a file its name, durably. If that raises, `path` has no file that it had not before.

    Raises
    ------
    HeapExistsError
        `what`: there is a file of that name, and it is not to be replaced.
    OSError
        The directory could not be changed, or synced: a file that was replaced may be gone then.
    """
    if replace_file:
        os.rename(temporary, path)
        _sync_directory(path.parent)
        return
    _link(what, temporary, path)
    try:
        os.unlink(temporary)
        _sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def _link(what: str, temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise HeapExistsError(
            f"{what} {str(path)!r}: no such file expected, one is there", filename=str(path)
        ) from None


@contextmanager
def new_file(what: str, path: Path) -> Iterator[Path]:
    """Let a file be made, and synced, under a temporary name, which the block is handed.

    It gets its own name when the block ends, durably. If the block raises nothing is left.

    Raises
    ------
    HeapExistsError
        `what`: there is a file of that name.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        give_name(what, temporary, path, replace_file=False)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        native.fsync(fd)
    finally:
        os.close(fd)
