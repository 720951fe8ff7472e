"""Image: a file that takes on one state after another, by storing only what differs.

    replay ──► reference   the bytes of the state, changed cell by cell
                  │ compared page by page; those that differ are stored
                  ▼
               file        a memfd, or a file in a directory

The file may be changed at will: the next `load` starts from what it finds. A heap that was in use
in the recorded file counts as in use in this one.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Self

from pmemheap import native
from pmemheap.testing.cells import Replay
from pmemheap.testing.copies import restamp
from pmemheap.testing.states import State

__all__ = ["Image"]

_PAGE = 4096


class Image:
    """A file for states of one recording.

    Parameters
    ----------
    replay : Replay
        Where `load` finds what a state differs from.
    directory : str, optional
        Make the file there; without it, it is a memfd.

    Attributes
    ----------
    path : str
        The file, for everybody who opens files by name.
    fd : int
        A descriptor of it, which belongs to the image.
    """

    fd: int
    path: str

    def __init__(self, replay: Replay, directory: str | None = None) -> None:
        self._replay = replay
        self._directory = directory
        self._version = -1
        self._cells: dict[int, bytes] = {}
        self._changed: list[int] = []
        self._reference = bytearray(replay.recording.base)
        self._make_file()

    def _make_file(self) -> None:
        if self._directory is None:
            self.fd = native.memfd_create("pmemheap-image")
            self.path = f"/proc/self/fd/{self.fd}"
        else:
            self.fd, self.path = tempfile.mkstemp(prefix="image-", dir=self._directory)
        self._view: mmap.mmap | None = None

    def __enter__(self) -> Self:
        """Return the image."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file, and remove it."""
        if self._view is not None:
            self._view.close()
        if self._directory is not None:
            os.unlink(self.path)
        os.close(self.fd)

    def renew(self) -> None:
        """Go on with another file: somebody may still have the old one open."""
        self.close()
        self._make_file()

    def load(self, state: State) -> None:
        """Make the file what `state` says, whatever it is now.

        The replay must stand where the state was met: at ``state.crash.event``.
        """
        replay = self._replay
        if self._version != replay.done:
            self._catch_up()
        else:
            for cell in self._changed:
                self._put(cell, replay.content(cell))
        for cell, content in state.changes.items():
            self._put(cell, content)
        self._changed = list(state.changes)
        self._append_pending(state.size)

    def _catch_up(self) -> None:
        """Let the reference be what the process saw at this event."""
        replay = self._replay
        for cell in self._changed:
            self._cells.pop(cell, None)
            self._put(cell, replay.content(cell))
        for cell, content in replay.now.items():
            if self._cells.get(cell) is not content:
                self._put(cell, content)
                self._cells[cell] = content
        self._version = replay.done

    def _put(self, cell: int, content: bytes) -> None:
        start = cell * self._replay.cell
        stop = start + len(content)
        if stop > len(self._reference):
            self._reference.extend(bytes(stop - len(self._reference)))
        self._reference[start:stop] = content

    def _append_pending(self, size: int) -> None:
        if os.fstat(self.fd).st_size != size:
            os.ftruncate(self.fd, size)
        if size > len(self._reference):
            self._reference.extend(bytes(size - len(self._reference)))
        if size == 0:
            return
        if self._view is None or len(self._view) < size:
            if self._view is not None:
                self._view.close()
            self._view = mmap.mmap(self.fd, size)
        with (
            memoryview(self._view) as view,
            memoryview(self._reference) as reference,
            view[:size] as target,
            reference[:size] as source,
        ):
            native.copy_differences(target, source)
        restamp(self.fd)
