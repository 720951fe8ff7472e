"""Naming: a file is made under a temporary name, and gets its own when it is whole and durable.

temporary name  --file synced-->  its own name  --directory synced-->  there for good
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pmemheap import native
from pmemheap.errors import UsageError

__all__ = ["give_name", "sync_directory", "temporary_name"]

_CHARACTERS_KEPT = 40


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that no file has."""
    return path.parent / f".{path.name[:_CHARACTERS_KEPT]}.{secrets.token_hex(8)}"


def give_name(what: str, temporary: Path, path: Path, *, replace_file: bool) -> None:
    """Give a file its name, which `sync_directory` makes durable.

    Raises
    ------
    UsageError
        `what`: there is a file of that name, and it is not to be replaced.
    """
    if replace_file:
        os.rename(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise UsageError(f"{what} {str(path)!r}: no such file expected, one is there") from None
    os.unlink(temporary)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        native.fsync(fd)
    finally:
        os.close(fd)
