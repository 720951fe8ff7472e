"""Following: the header of a heap file as a reader beside a living writer sees it.

    layout          segments and arenas of one moment, and its number
    FollowedRoots   the roots of now

The tables of the header change meanwhile. Each has a number in the shared page that is odd while
slots are being stored: what was read between two looks at the same even number is of one moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pmemheap import native
from pmemheap.errors import CorruptHeapError, HeapBusyError, UsageError
from pmemheap.file import locks
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.headerfile import stored_word
from pmemheap.format import layout
from pmemheap.format.header import Tables, read_superblock, read_tables
from pmemheap.format.layout import RootSlot
from pmemheap.format.superblock import Superblock

__all__ = [
    "PATIENCE",
    "Captured",
    "FollowedRoots",
    "captured",
    "follow_layout",
    "named_slots",
    "wait_for_commit",
]

PATIENCE = 2.0
"""Seconds for which a reader waits for a writer that is in the middle of a commit."""
_PAUSE = 0.001
_NO_SEQUENCE = 1  # odd: that of no moment
_ROOT_BYTES = layout.ROOT_SLOTS * layout.SLOT_BYTES


def follow_layout(medium: FileMedium) -> int:
    """Take superblock, segments and arenas of a file that its writer changes meanwhile.

    Returns
    -------
    int
        Their number: that of the medium as soon as they are mapped.

    Raises
    ------
    CorruptHeapError
        They contradict each other, though there is no writer.
    HeapBusyError
        They do each time, and there is a writer; or he was killed while he changed them.
    """
    try:
        number, block, tables = locks.look_beside_writer(
            medium.lock_fd,
            f"heap file {medium.name!r}",
            lambda: _look(medium),
            lambda seen: seen[0] % 2 == 0,
        )
    except CorruptHeapError as error:
        if stored_word(medium.fd, "layout_seq") % 2 == 0:
            raise
        raise _half_done(medium, is_written=False) from error
    header = medium.header
    header.superblock, header.slots, header.image = block, tables, bytearray()
    return number


def _look(medium: FileMedium) -> tuple[int, Superblock, Tables]:
    """Return the number of the layout, odd if it changed meanwhile; superblock and tables."""
    image = bytearray(layout.HEADER_BYTES)
    native.pread_into(medium.fd, image, 0)
    number = _number(medium, image)
    roots = slice(layout.ROOT_TABLE, layout.ROOT_TABLE + _ROOT_BYTES)
    image[roots] = bytes(_ROOT_BYTES)  # those are of another moment
    block, _ = read_superblock(image)
    tables = read_tables(image, block, medium.name)
    return number, block, tables


def _number(medium: FileMedium, image: bytearray) -> int:
    before = int.from_bytes(image[layout.SHARED_WORDS["layout_seq"]], "little")
    return before if stored_word(medium.fd, "layout_seq") == before else _NO_SEQUENCE


def named_slots(slots: bytes) -> Iterator[tuple[int, RootSlot]]:
    """Yield index and slot of the roots in the slots of a table.

    Raises
    ------
    CorruptHeapError
        A slot is damaged.
    """
    width = layout.SLOT_BYTES
    for index in range(len(slots) // width):
        root = RootSlot.unpack(
            slots[index * width : (index + 1) * width], layout.ROOT_TABLE + index * width
        )
        if root is not None:
            yield index, root


class FollowedRoots:
    """The roots of a heap that a writer in another process changes: each look sees those of now."""

    def __init__(self, medium: FileMedium) -> None:
        self._medium = medium

    @property
    def roots(self) -> dict[int, RootSlot]:
        """Those of this moment, by the numbers of their slots."""
        while (found := captured(self._medium)) is None:
            wait_for_commit(self._medium)
        return dict(named_slots(found.slots))

    def change_roots(self, puts: dict[str, RootSlot], drops: set[str]) -> None:
        """Refuse."""
        raise UsageError(f"heap file {self._medium.name!r}: a writer expected, found a reader")


class Captured(NamedTuple):
    """The roots as of a commit."""

    commit: int
    """Its number, twice."""
    slots: bytes
    """What it left of the table of roots."""
    era: int
    """That of pins, a little later."""
    layout: int
    """Number of the segments and arenas, a little later: it is at least that of the commit."""


def captured(medium: FileMedium) -> Captured | None:
    """Return the roots as of the last commit; None if one is half done.

    Raises
    ------
    CorruptHeapError
        More slots of roots are said to be in use than there are.
    """
    header = medium.header
    if not header.address:
        header.map(medium.maps.place, readonly=medium.readonly)
    found = native.capture(header.address)
    if not found and (used := header.word("roots_used")) > layout.ROOT_SLOTS:
        raise CorruptHeapError(
            f"heap file {medium.name!r}: roots: at most {layout.ROOT_SLOTS} slots in use expected, "
            f"{used} found"
        )
    return Captured(*found) if found else None


def wait_for_commit(medium: FileMedium, let_go: Callable[[], object] = bool) -> None:
    """Wait while a commit is half done, or a new writer is taking over.

    Parameters
    ----------
    let_go : callable
        Called before it waits: a new writer uses nothing that what the caller has pinned may show.

    Raises
    ------
    HeapBusyError
        The writer was stopped, or killed, in the middle of it.
    """
    header, until = medium.header, time.monotonic() + PATIENCE
    while header.word("commit_seq") % 2 or header.word("layout_seq") % 2:
        is_written = locks.has_writer(medium.lock_fd)
        if not is_written or time.monotonic() > until:
            raise _half_done(medium, is_written=is_written)
        let_go()
        native.tape_wait()
        time.sleep(_PAUSE)


def _half_done(medium: FileMedium, *, is_written: bool) -> HeapBusyError:
    end = "stays in the middle of one" if is_written else "has ended in the middle of one"
    return HeapBusyError(
        f"heap file {medium.name!r}: a whole commit expected, the writer {end}",
        filename=medium.name,
    )
