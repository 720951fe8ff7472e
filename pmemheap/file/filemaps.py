"""File maps: the one way to map an open heap file, known to a child that is forked meanwhile.

    look    what the file is, once; how long it is, each time
    place   entered in the table of files, then mapped

What is mapped is in the table before the kernel maps it.
"""

from __future__ import annotations

import errno

from pmemheap import native
from pmemheap.native import NativeError
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.pmem2.row import file_row
from pmemheap.pmem2.source import FileSource, Options, Pieces

__all__ = ["FileMaps"]


class FileMaps:
    """Maps the open file that has a number; see `native.register_file`."""

    def __init__(self, fd: int, number: int) -> None:
        self._fd = fd
        self._number = number
        self._source: FileSource | None = None  # once something has been mapped

    def look(self) -> int:
        """Return how long the file is.

        Raises
        ------
        Pmem2Error
            The system does not tell, or not what it is.
        """
        source = self._source
        if source is None:
            source = self._source = FileSource(self._fd)
        else:
            try:
                status = native.fstat(self._fd)
                source.size, source.links = status.size, status.links
            except NativeError as error:
                raise source.refusal(error.errno or errno.EIO, "a file to be looked at") from error
        return source.size

    @property
    def is_named(self) -> bool:
        """Whether the file had a name at the last look."""
        assert self._source is not None, "it was looked at"
        return self._source.links != 0

    def note_size(self, size: int) -> None:
        """Note that the file has become at least so long."""
        if self._source is not None:
            self._source.size = max(self._source.size, size)

    def place(
        self, reservation: VMReservation, offset: int, pieces: Pieces, options: Options
    ) -> list[Map]:
        """Map pieces of the file that are known to be there, one behind the other.

        Raises
        ------
        Pmem2Error
            The system refuses.
        """
        source = self._source = self._source or FileSource(self._fd)
        native.file_will_map(
            self._number, reservation.address + offset, pieces,
            shared=options.shared, readonly=options.readonly,
        )  # fmt: skip
        return file_row(source, reservation, offset, pieces, options)
