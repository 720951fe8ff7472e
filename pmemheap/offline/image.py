"""Image: the bytes of a file in pieces, under layers of changes that exist only in memory.

    Overlay   what a repair would change
    Overlay   what the redo log would change
    Disk      the file, which is only read

Files may be far larger than memory and mostly holes: nothing reads more than it is asked for, and
`data_pieces` jumps over holes.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pmemheap.file.identity import file_identity
from pmemheap.format.layout import FileIdentity
from pmemheap.offline.findings import Edit
from pmemheap.units import PAGE, KiB, align_down, align_up

__all__ = ["Disk", "Image", "Overlay", "data_pieces", "disk_of"]

_PIECE = 256 * KiB


class Image(Protocol):
    """Bytes by offset."""

    @property
    def size(self) -> int:
        """Length of the file."""
        ...

    @property
    def identity(self) -> FileIdentity:
        """Which file it is."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes, fewer only at the end."""
        ...

    def next_data(self, offset: int) -> int:
        """Return the first offset from this one on that may not be in a hole; `size` at the end."""
        ...


class Disk:
    """A file; what the medium cannot read comes as zeros, and is kept in `unreadable`.

    Parameters
    ----------
    fd : int
        A descriptor of it.
    path : Path, optional
        Where it really lies: what a repair leaves is beside it.
    """

    def __init__(self, fd: int, path: Path | None = None) -> None:
        self.fd = fd
        self.path = path
        self.unreadable: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        """Length of the file."""
        return os.fstat(self.fd).st_size

    @property
    def identity(self) -> FileIdentity:
        """Which file it is."""
        return file_identity(self.fd)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes, fewer only at the end of the file."""
        length = max(min(length, self.size - offset), 0)
        pieces: list[bytes] = []
        while length > 0:
            piece = self._read_once(offset, length)
            if not piece:
                break
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_once(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self.fd, length, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        page = min(align_down(offset, PAGE) + PAGE - offset, length)
        try:
            return os.pread(self.fd, page, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        self.unreadable.append((offset, page))
        return bytes(page)

    def next_data(self, offset: int) -> int:
        """Return the first offset from this one on that is not in a hole; `size` at the end."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return max(self.size, offset)
            if error.errno != errno.EINVAL:
                raise
        return offset


class Overlay:
    """Changes over another image; that one stays as it is."""

    def __init__(self, upstream: Image) -> None:
        self.upstream = upstream
        self._size: int | None = None
        self._pages: dict[int, list[tuple[int, bytes]]] = {}
        self._order: list[int] | None = []

    @property
    def size(self) -> int:
        """Length of the file, as changed."""
        return self.upstream.size if self._size is None else self._size

    @property
    def identity(self) -> FileIdentity:
        """Which file it lies over."""
        return self.upstream.identity

    @property
    def new_size(self) -> int | None:
        """The length it was changed to, if it was."""
        return self._size

    def __bool__(self) -> bool:
        """Tell whether anything is changed."""
        return bool(self._pages) or self._size is not None

    def resize(self, size: int) -> None:
        """Change the length."""
        self._size = size

    def put(self, offset: int, data: bytes) -> None:
        """Change bytes."""
        at = 0
        while at < len(data):
            page, inside = divmod(offset + at, PAGE)
            length = min(PAGE - inside, len(data) - at)
            if page not in self._pages:
                self._pages[page] = []
                self._order = None
            self._pages[page].append((inside, data[at : at + length]))
            at += length

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes as changed, fewer only at the end."""
        length = max(min(length, self.size - offset), 0)
        found = self.upstream.read(offset, length)
        if not self._pages and len(found) == length:
            return found
        changed = bytearray(found.ljust(length, b"\0"))
        for page in self._pages_in(offset, offset + length):
            for inside, data in self._pages[page]:
                at = page * PAGE + inside - offset
                start, stop = max(at, 0), min(at + len(data), length)
                if start < stop:
                    changed[start:stop] = data[start - at : stop - at]
        return bytes(changed)

    def next_data(self, offset: int) -> int:
        """Return the first offset from this one on that may not be in a hole."""
        below = self.upstream.next_data(offset) if offset < self.upstream.size else self.size
        order = self._sorted()
        index = bisect_left(order, offset // PAGE)
        if index < len(order):
            below = min(below, max(order[index] * PAGE, offset))
        return min(below, max(self.size, offset))

    def edits(self) -> Iterator[Edit]:
        """Yield the changes; later ones of the same bytes come later."""
        for page in self._sorted():
            for inside, data in self._pages[page]:
                yield Edit(page * PAGE + inside, data)

    def _sorted(self) -> list[int]:
        if self._order is None:
            self._order = sorted(self._pages)
        return self._order

    def _pages_in(self, start: int, stop: int) -> list[int]:
        order = self._sorted()
        return order[
            bisect_left(order, start // PAGE) : bisect_left(order, align_up(stop, PAGE) // PAGE)
        ]


def disk_of(image: Image) -> Disk | None:
    """Return the file under all layers."""
    while isinstance(image, Overlay):
        image = image.upstream
    return image if isinstance(image, Disk) else None


def data_pieces(image: Image, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yield ``(offset, bytes)`` of the pieces of a range that are not all zeros."""
    offset = start
    while offset < stop:
        offset = max(align_down(image.next_data(offset), PAGE), offset)
        if offset >= stop:
            return
        piece = image.read(offset, min(_PIECE, stop - offset))
        if not piece:
            return
        if piece.count(0) != len(piece):
            yield offset, piece
        offset += len(piece)
