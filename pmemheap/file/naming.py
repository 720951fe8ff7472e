"""Naming: a file is made under a temporary name, and gets its own when it is whole and durable.

temporary name  --file synced-->  its own name  --directory synced-->  there for good

Names are taken as `open` takes them: a new file in the place of a symbolic link is made where that
leads. A file that is to be replaced is locked till it has gone: nobody has the heap in it open.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pmemheap import native
from pmemheap.errors import HeapExistsError, HeapFileError, HeapNotFoundError, UsageError
from pmemheap.file import locks
from pmemheap.refusals import refusal

__all__ = ["give_name", "new_file", "opened_again", "place_of", "require_place", "temporary_name"]

_CHARACTERS_KEPT = 40
_ATTEMPTS = 16  # while others make and remove files of the same name


def place_of(path: Path) -> Path:
    """Return where a file of this name is, or would be made: behind links, whatever `chdir` does.

    There may be no other way to its directory than from the one that the process is in.
    """
    place = Path(os.path.realpath(path))
    try:
        os.stat(place.parent)
    except PermissionError:
        return path
    except OSError:  # the search for the directory raises it
        pass
    return place


def opened_again(fd: int, flags: int) -> int:
    """Return a descriptor of its own for what `fd` leads to, for a heap to be attached."""
    what = f"attach: an open descriptor expected, found {fd!r}"
    try:
        return os.open(f"/proc/self/fd/{fd:d}", flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise HeapFileError(what, errno.EBADF) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{what}: {error}") from error
    except OSError as error:
        raise refusal(what, error, f"descriptor {fd}") from error


def temporary_name(place: Path) -> Path:
    """Return a name beside `place` that no file has."""
    return place.parent / f".{place.name[:_CHARACTERS_KEPT]}.{os.urandom(8).hex()}"


def require_place(what: str, path: Path, *, replace_file: bool) -> None:
    """Check that a file of this name can be made, or replaced.

    Raises
    ------
    HeapNotFoundError, HeapExistsError
        `what`: there is no directory for it; something of that name is there.
    HeapBusyError
        It is to be replaced, and somebody has the heap in it open.
    HeapFileError
        It is to be replaced, and is no regular file.
    OSError
        The system does not say.
    """
    thing, name = f"{what} {str(path)!r}", str(path)
    for directory in (path.parent, place_of(path).parent):
        if not directory.exists():
            where = f"directory {str(directory)!r}"
            raise HeapNotFoundError(f"{thing}: {where} expected, not there", filename=name)
    if not replace_file:
        if os.path.lexists(path):
            raise HeapExistsError(f"{thing}: no such file expected, one is there", filename=name)
        return
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise HeapFileError(f"{thing}: a file expected, found a directory", errno.EISDIR, name)
    if not stat.S_ISREG(mode):
        found = "a device, pipe or socket"
        raise HeapFileError(f"{thing}: a regular file expected, found {found}", errno.EINVAL, name)
    with _opened(path) as fd:
        locks.require_no_user(fd, name)


def give_name(what: str, temporary: Path, place: Path, *, replace_file: bool) -> None:
    """Give a file its name, durably. If that raises, `place` has no file that it had not before.

    Raises
    ------
    HeapExistsError
        `what`: there is a file of that name, and it is not to be replaced.
    HeapBusyError
        It is to be replaced, and somebody has the heap in it open.
    OSError
        The directory could not be changed, or synced: a file that was replaced may be gone then.
    """
    is_new = _take_name(what, temporary, place, replace_file=replace_file)
    try:
        if is_new:
            os.unlink(temporary)
        _sync_directory(place.parent)
    except BaseException:
        if is_new:
            with suppress(OSError):
                os.unlink(place)
        raise


def _take_name(what: str, temporary: Path, place: Path, *, replace_file: bool) -> bool:
    """Let a file have its name as well, or in the place of another one; True if none had it."""
    for _ in range(_ATTEMPTS):
        if replace_file and _is_replaced(place, temporary):
            return False
        with suppress(FileExistsError):
            os.link(temporary, place)
            return True
        if not replace_file:
            break
    raise HeapExistsError(
        f"{what} {str(place)!r}: no such file expected, one is there", filename=str(place)
    )


def _is_replaced(place: Path, temporary: Path) -> bool:
    """Put a file in the place of another one, which nobody may open meanwhile; False without one.

    The lock is on a file, not on its name: so look once more whether the name leads to it.
    """
    try:
        with _opened(place) as fd:
            locks.require_sole_user(fd, str(place))
            if not os.path.samestat(os.fstat(fd), os.stat(place)):
                return False
            os.rename(temporary, place)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file as one that is to be written over is opened."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def new_file(what: str, place: Path) -> Iterator[Path]:
    """Let a file be made, and synced, under a temporary name, which the block is handed.

    It gets its own name when the block ends, durably. If the block raises nothing is left.

    Raises
    ------
    HeapExistsError
        `what`: there is a file of that name.
    """
    temporary = temporary_name(place)
    try:
        yield temporary
        give_name(what, temporary, place, replace_file=False)
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
