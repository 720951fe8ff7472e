"""Header in its file: the superblock that counts, the tables, and the map to store to both.

    read      image of the area --> newest superblock; its tables, after a recovery has changed it
    store     slots and log words in their places; a superblock over the copy that is not current

It maps the area when it is told to: a heap that is only read, or not changed yet, has no map of it.
It knows neither when a store is to be synced nor whether the file can be trusted.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from pmemheap import native
from pmemheap.errors import CorruptHeapError, Pmem2Error
from pmemheap.file import blocks
from pmemheap.file.holes import Holes
from pmemheap.format import layout
from pmemheap.format.header import Tables, other_superblock, read_superblock, read_tables
from pmemheap.format.layout import HeapState, SlotImage, Table, slot_offset
from pmemheap.format.superblock import Superblock
from pmemheap.native.rules import Rule, omitted
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.pmem2.source import Options, Pieces
from pmemheap.refusals import refusals
from pmemheap.units import UNIT

__all__ = [
    "SEQUENCES",
    "TABLE_PAGES",
    "Header",
    "Journal",
    "next_epoch",
    "stored_word",
]

TABLE_PAGES = range(layout.LOCK_WRITER, layout.HEADER_BYTES, UNIT)
"""Offsets of the pages of the header that may read zero: of locks, and of tables of slots."""

SEQUENCES = ("commit_seq", "layout_seq")
"""Words of the shared page that are odd while slots are being stored."""

Place = Callable[[VMReservation, int, Pieces, Options], list[Map]]


def stored_word(fd: int, name: str) -> int:
    """Return a word of the shared page as a file has it, of which nothing is mapped."""
    place = layout.SHARED_WORDS[name]
    return int.from_bytes(native.pread(fd, place.stop - place.start, place.start), "little")


class Journal(Protocol):
    """How changes of the header become part of the heap."""

    def change(self, slots: list[SlotImage], file_end: int, durable: bool) -> None:
        """Make slots part of the heap, all or none, and `file_end` the length that it needs.

        If it raises they are no part of it, or the heap is dead.
        """

    def sync(self) -> None:
        """Wait until every change so far is durable and in its place."""


class Header:
    """The header of the open heap file `name`.

    Attributes
    ----------
    superblock : Superblock
        The newest one; set by `read`.
    current : tuple of int and bytes
        Which copy that is, and its bytes; replaced whole, since other threads look at it.
    slots : Tables
        What the header says of segments, arenas and roots.
    image : bytearray
        The area as it is read at open: a recovery puts what the log says into it. Empty once the
        tables are taken from it.
    zero_pages : set of int
        Offsets of the pages that read zero then: they may have no blocks.
    """

    superblock: Superblock
    _map: Map | None = None
    _reservation: VMReservation | None = None

    def __init__(self, name: str) -> None:
        self._name = name
        self.current: tuple[int, bytes] = (0, b"")
        self.slots: Tables = Tables()
        self.image: bytearray = bytearray()
        self.zero_pages: set[int] = set()

    # ------------------------------------------------------------ reading

    def read(self, fd: int) -> None:
        """Read the area anew, and choose the superblock."""
        self.image = bytearray(layout.HEADER_BYTES)
        del self.image[native.pread_into(fd, self.image, 0) :]
        self.superblock, copy = read_superblock(self.image)
        self.current = (copy, _superblock_bytes(self.image, copy))

    def read_tables(self) -> None:
        """Take the tables from the image, once; CorruptHeapError as of `format.header`."""
        if self.image:
            self.slots = read_tables(self.image, self.superblock, self._name)
            self.zero_pages = set(TABLE_PAGES).difference(self.slots.pages())
            self.image = bytearray()

    def reread(self) -> None:
        """Read superblock and tables again from the map, where all that was synced is home."""
        assert self._map is not None
        image = bytes(self._map.view)
        stored, copy = read_superblock(image)
        self.current = (copy, _superblock_bytes(image, copy))
        if stored.generation > self.superblock.generation:
            self.superblock = stored
        self.slots = read_tables(image, self.superblock, self._name)

    @property
    def was_closed(self) -> bool:
        """Whether what `read` has read was closed, beyond doubt.

        The copy before the newest one is whole: no newer one can have been lost with its place.
        """
        if self.superblock.state != HeapState.CLEAN:
            return False
        try:
            before = other_superblock(self.image, self.current[0])
        except CorruptHeapError:
            return False
        return before.generation == self.superblock.generation - 1

    def stored(self, fd: int, copy: int) -> bytes:
        """Return a copy of the superblock as the file has it: from the map, if there is one."""
        mapped = self._map  # another thread may unmap it
        if mapped is None:
            return native.pread(fd, layout.SUPERBLOCK_BYTES, layout.SUPERBLOCKS[copy])
        return _superblock_bytes(mapped.view, copy)

    # ------------------------------------------------------------ blocks

    def holes(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the pages that read zero as ranges, with one behind them that may be a hole."""
        behind = {page + UNIT for page in self.zero_pages}
        starts, stops = sorted(self.zero_pages - behind), sorted(behind - self.zero_pages)
        found = list(zip(starts, stops, strict=True))
        if found and found[-1][1] == start:
            start = found.pop()[0]
        return [*found, (start, stop)] if start < stop else found

    def back(self, slots: list[SlotImage], fd: int, holes: Holes) -> None:
        """Get blocks for the pages of slots: a store must not fail that a record speaks of."""
        for table, index, _ in slots if self.zero_pages else ():
            page = slot_offset(table, index) // UNIT * UNIT
            if page in self.zero_pages:
                blocks.back(fd, self._name, page, page + UNIT, holes)
                self.zero_pages.remove(page)

    # ------------------------------------------------------------ storing

    def map(self, place: Place, *, readonly: bool = False) -> None:
        """Map the area to store to it, if it is not mapped yet; the file was looked at."""
        if self._map is None:
            with refusals(f"heap file {self._name!r}: header"):
                self._reservation = VMReservation(layout.HEADER_BYTES, alignment=UNIT)
                pieces = [(0, layout.HEADER_BYTES)]
                (self._map,) = place(self._reservation, 0, pieces, Options(readonly=readonly))

    def unmap(self) -> None:
        """Unmap the area, if it is mapped."""
        mapped, reservation = self._map, self._reservation
        self._map = self._reservation = None
        with suppress(Pmem2Error, BufferError):  # refused: it goes with the last reference
            if mapped is not None:
                mapped.close()
            if reservation is not None:
                reservation.close()

    @property
    def address(self) -> int:
        """Address of the mapped area; 0 if it is not mapped."""
        return 0 if self._map is None else self._map.address

    def write(self, **changes: object) -> bool:
        """Write a new superblock over the copy that is not current; copies alternate [R9].

        Parameters
        ----------
        **changes
            Fields of `Superblock` that differ from the current one.

        Returns
        -------
        bool
            False, with nothing written, if somebody else has written over the current copy: nobody
            would see that any more.
        """
        assert self._map is not None
        copy, expected = self.current
        with self._map.view as view:
            if _superblock_bytes(view, copy) != expected:
                return False
        successor = self.superblock.successor(**changes)
        copy = copy if omitted(Rule.R9) else 1 - copy
        image = successor.pack()
        self._store(layout.SUPERBLOCKS[copy], image)
        self.current, self.superblock = (copy, image), successor
        return True

    def store_slot(self, table: Table, index: int, image: bytes) -> None:
        """Store a slot in its place."""
        self._store(slot_offset(table, index), image)

    def store_log_words(self, applied_lsn: int) -> None:
        """Say that all before an LSN is home, and nothing is to be undone [R22], [R23]."""
        self._store(layout.SHARED_PAGE, struct.pack("<Q", applied_lsn))
        self._store(layout.SHARED_PAGE + 8, bytes(8))

    # ------------------------------------------------------------ the shared page

    def word(self, name: str) -> int:
        """Return a word of the shared page, which another process may be storing to."""
        assert self._map is not None
        with self._map.view as view:
            return int.from_bytes(view[layout.SHARED_WORDS[name]], "little")

    def store_word(self, name: str, value: int) -> None:
        """Store a word of the shared page, whole."""
        place = layout.SHARED_WORDS[name]
        self._store(place.start, value.to_bytes(place.stop - place.start, "little"))

    def settle(self) -> None:
        """Say what readers go by that come before a writer: all roots, and no half of a commit.

        A writer without readers has not said how many slots of roots are in use; one before it may
        have been killed in the middle of a commit.
        """
        assert self._map is not None
        with self._map.view as view:
            table = bytes(view[layout.ROOT_TABLE :][: layout.ROOT_SLOTS * layout.SLOT_BYTES])
        said = {"roots_used": -(-len(table.rstrip(b"\0")) // layout.SLOT_BYTES)}
        for name in SEQUENCES:
            said[name] = self.word(name) + self.word(name) % 2
        for name, value in said.items():
            if self.word(name) != value:
                self.store_word(name, value)

    def _store(self, offset: int, data: bytes) -> None:
        """Store to the area: the one way by which Python changes persistent bytes."""
        assert self._map is not None
        native.store(self._map.address + offset, data)


def _superblock_bytes(image: bytes | bytearray | memoryview, copy: int) -> bytes:
    at = layout.SUPERBLOCKS[copy]
    return bytes(image[at : at + layout.SUPERBLOCK_BYTES])


def next_epoch(superblock: Superblock, *, opened: bool = False) -> int:
    """Return an epoch that no record in any log has [R15]."""
    if omitted(Rule.R15):
        return superblock.epoch
    counter = (superblock.epoch >> 32) + opened
    return counter << 32 | int.from_bytes(os.urandom(4))
