"""Recovery: a heap file as its medium has it, brought to its committed state before it is read.

    scan the log -> header tables -> map the homes -> replay -> sync -> superblock with a new epoch

Everything here is called under the lock of the file. What has to be done, and in which order, says
`docs/crash-consistency.md`; the rules are cited by their tags.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator

from pmemheap import native
from pmemheap.errors import CorruptHeapError, DurabilityError
from pmemheap.file import blocks, identity, locks, pagecache
from pmemheap.file.filemedium import LOG_LEAST, LOG_MOST, FileMedium
from pmemheap.file.holes import Holes
from pmemheap.format import layout
from pmemheap.format.layout import HeapState, Table
from pmemheap.format.records import RECORD_HEADER, epoch_of
from pmemheap.native.constants import TOUCHED_DATA, Format, Refusal
from pmemheap.native.rules import Rule, omitted
from pmemheap.pmem2 import VMReservation
from pmemheap.pmem2.source import Options
from pmemheap.space.region import Region
from pmemheap.units import UNIT

__all__ = ["Recovery", "needs_no_recovery", "recover", "replay_private"]

_TABLE_NAMES = {int(Table.ENTRIES): "entries", int(Table.BITS): "bits"}
_HEADER_TABLES = {int(Table.ROOTS), int(Table.SEGMENTS), int(Table.ARENAS)}
_RECORD_ALIGN = Format.LOG_ALIGN


class Recovery:
    """What a scan of the log found: the input of the replay.

    Attributes
    ----------
    start, end : int
        LSNs between which records are to be replayed.
    commits_from, undo_from : int
        As `LogCore.replay` has them.
    """

    end: int
    chain: int
    records: int
    file_end: int
    commits_from: int
    undo_from: int

    def __init__(self, medium: FileMedium) -> None:
        superblock = medium.header.superblock
        _check_log_place(medium)
        self.core: native.LogCore = native.LogCore()
        self._reservation = VMReservation(superblock.log_size, alignment=UNIT)
        medium.require_length(superblock.log_off + superblock.log_size)
        (self._map,) = medium.maps.place(
            self._reservation, 0, [(superblock.log_off, superblock.log_size)],
            Options(readonly=True),
        )  # fmt: skip
        self.start: int = superblock.tail_lsn
        self.end, self.chain, self.records, _, self.file_end, _, damage = self.core.scan(
            self._map.address, superblock.log_size, self.start, superblock.chain_seed,
            superblock.epoch,
        )  # fmt: skip
        if damage and not omitted(Rule.DAMAGE):
            raise CorruptHeapError(
                f"log of {medium.name!r}: an unbroken chain of records expected, found damage at "
                f"LSN {self.end} before the record at LSN {damage}: committed work is lost; "
                "`pmemheap repair` shows what"
            )
        self.commits_from, self.undo_from = self.start, 0
        if not medium.is_power:
            self._heed_shared_page(medium)
        self.core.header_tables(self.start, self.end, self.commits_from, medium.header.image)

    def _heed_shared_page(self, medium: FileMedium) -> None:
        """In a process heap only the last record can be half home [R22], [R23]."""
        applied, undo = struct.unpack_from("<QQ", medium.header.image, layout.SHARED_PAGE)
        if applied > self.end:
            raise CorruptHeapError(
                f"log of {medium.name!r}: records up to LSN {applied} expected, "
                f"found none behind LSN {self.end}"
            )
        self.commits_from = max(self.start, applied)
        self.undo_from = undo or (1 << 64) - 1

    @property
    def is_needed(self) -> bool:
        """Whether there is anything between the tail and the end."""
        return self.records > 0

    def relies_on(self, medium: FileMedium) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the file that the accepted records lie in, or speak of."""
        superblock, page = medium.header.superblock, UNIT
        first, stop = self.start // page * page, self.end + RECORD_HEADER
        for lsn in range(first, min(stop, first + superblock.log_size), page):
            yield superblock.log_off + lsn % superblock.log_size, page
        medium.header.read_tables()
        for table, offset, length in self.core.ranges(self.start, self.end):
            arena, start = divmod(offset, 1 << layout.ARENA_BITS)
            name = _TABLE_NAMES.get(table, "data")
            yield from medium.places(arena, name, start, length)

    def replay(self, header: int) -> None:
        """Store what the log says to the homes that `core` knows."""
        failed = self.core.replay(self.start, self.end, self.commits_from, self.undo_from, header)
        if failed == Refusal.LOG_GONE:
            raise DurabilityError(
                errno.ESTALE, "recovery: the log that was scanned expected, found another one"
            )
        if failed < 0:
            raise MemoryError("recovery: no memory for the ranges that the log names")

    def close(self) -> None:
        """Unmap the log."""
        self._map.close()
        self._reservation.close()


def _check_log_place(medium: FileMedium) -> None:
    superblock = medium.header.superblock
    size, offset = superblock.log_size, superblock.log_off
    sound = LOG_LEAST <= size <= LOG_MOST and size % UNIT == 0 and offset % UNIT == 0
    if superblock.tail_lsn % _RECORD_ALIGN or superblock.tail_lsn >> 62:
        raise CorruptHeapError(
            f"superblock of {medium.name!r}: a tail of the log that is a multiple of "
            f"{_RECORD_ALIGN} below 2**62 expected, found {superblock.tail_lsn:#x}"
        )
    if not sound or not layout.HEADER_BYTES <= offset <= native.fstat(medium.fd).size - size:
        raise CorruptHeapError(
            f"superblock of {medium.name!r}: a log of whole pages inside the file expected, "
            f"found {size} bytes at file offset {offset:#x}"
        )


def recover(medium: FileMedium, headroom: int | None = None) -> None:
    """Bring a file to its committed state, before its tables are read.

    Read-only nothing is written: the header image is brought up to date, and `replay_private` does
    the rest when the tables are mapped. Else what the replay has stored to stays mapped, as the
    medium's `region`.

    Parameters
    ----------
    headroom : int, optional
        As `Region` has it.

    Raises
    ------
    CorruptHeapError
        The log contradicts what was acknowledged.
    OutOfSpaceError
        No room for what has to be stored; nothing has changed.
    DurabilityError
        The medium could not be read or written.
    """
    if needs_no_recovery(medium):
        return  # what nobody has synced yet, as in a copy, is before the first change
    is_left = medium.is_power and not _drop_cache(medium)
    medium.header.read(medium.fd)
    if not medium.is_power and _is_left_alone(medium):
        return
    if is_left:
        _require_same(medium, [(0, layout.HEADER_BYTES)])
    recovery = Recovery(medium)
    try:
        if is_left:
            _require_same(medium, recovery.relies_on(medium))
        if recovery.is_needed and medium.readonly:
            medium.private, medium.recovery = True, recovery
        elif recovery.is_needed:
            _replay_home(medium, recovery, headroom)
    finally:
        if medium.recovery is not recovery:
            recovery.close()


def needs_no_recovery(medium: FileMedium) -> bool:
    """Tell whether a file whose header was read was closed, and nothing came after that."""
    return medium.header.was_closed and _ends_at_tail(medium)


def _is_left_alone(medium: FileMedium) -> bool:
    """Tell whether nothing of a process heap is to be replayed."""
    superblock = medium.header.superblock
    if superblock.state == HeapState.IN_USE and superblock.boot_id != identity.boot_id():
        return True  # reading the tables refuses it
    return medium.readonly and locks.has_writer(medium.lock_fd)  # shared memory: what is home now


def _ends_at_tail(medium: FileMedium) -> bool:
    """Tell whether nothing says that somebody has gone on behind the tail of the log.

    `close` syncs everything before it writes CLEAN. So the cache equals the medium, even if the
    page that says CLEAN never reached it, and a closed heap is opened without [R10].
    """
    _check_log_place(medium)
    superblock = medium.header.superblock
    if not medium.is_power:
        applied, _ = struct.unpack_from("<QQ", medium.header.image, layout.SHARED_PAGE)
        if applied > superblock.tail_lsn:
            return False
    place = superblock.log_off + superblock.tail_lsn % superblock.log_size
    epoch = epoch_of(native.pread(medium.fd, RECORD_HEADER, place))
    return epoch >> 32 <= superblock.epoch >> 32


def _drop_cache(medium: FileMedium) -> bool:
    """[R10] Act on what is on the medium, not on what a crash left in the cache.

    Returns
    -------
    bool
        Whether all that is read from now on comes from the medium.
    """
    if omitted(Rule.R10):
        return True
    medium.sync_all("open")
    return medium.on_memory or pagecache.drop(medium.fd)


def _require_same(medium: FileMedium, ranges: Iterable[tuple[int, int]]) -> None:
    """[R10] What somebody has mapped was not dropped: it has to be what the medium has."""
    pagecache.require_same(medium.fd, medium.name, ranges)


def _replay_home(medium: FileMedium, recovery: Recovery, headroom: int | None) -> None:
    medium.header.read_tables()
    _require_length(medium)
    medium.holes = Holes(medium.header.holes(0, 0))
    _back_ranges(medium, recovery)
    medium.header.map(medium.maps.place)
    medium.shadowed = medium.is_power
    medium.region, others = Region(medium, headroom), []
    try:
        _map_home(medium, recovery, 0, medium.region)
        for arena in medium.arenas:
            if arena and medium.pieces(arena):
                others.append(Region(medium, 0, arena=arena))
                _map_home(medium, recovery, arena, others[-1])
        recovery.replay(medium.header.address)
    finally:
        for region in others:
            region.close()
    if medium.is_power and not omitted(Rule.R14):
        medium.sync_all("recovery")  # [R14]
    medium.say_in_use(tail_lsn=recovery.end, chain_seed=recovery.chain)
    if not medium.is_power:
        medium.header.store_log_words(recovery.end)


def _require_length(medium: FileMedium) -> None:
    size = native.fstat(medium.fd).size
    if size < medium.file_end:
        raise CorruptHeapError(
            f"heap file {medium.name!r}: {medium.file_end} bytes expected, {size} found"
        )


def _map_home(medium: FileMedium, recovery: Recovery, arena: int, region: Region) -> None:
    pieces = medium.pieces(arena)
    if pieces:
        region.adopt(pieces, only=medium.homes)
        _set_home(medium, recovery, arena, region)


def _set_home(medium: FileMedium, recovery: Recovery, arena: int, region: Region) -> None:
    data, bits, entries = map(region.base, medium.homes)
    recovery.core.set_home(arena, data, bits, entries, region.first_unit, region.end_unit, None)


def _back_ranges(medium: FileMedium, recovery: Recovery) -> None:
    """[R29] Give blocks to what replay stores to: it may be a hole."""
    if omitted(Rule.R29):
        return
    units: dict[int, set[int]] = {}
    for table, offset, length in recovery.core.ranges(recovery.start, recovery.end):
        if table in _HEADER_TABLES:
            start = layout.slot_offset(Table(table), 0) + offset
            blocks.back(medium.fd, medium.name, start, start + length, medium.holes)
        if table == TOUCHED_DATA:
            arena, local = divmod(offset, 1 << layout.ARENA_BITS)
            touched = range(local // UNIT, -(-(local + length) // UNIT))
            units.setdefault(arena, set()).update(touched)
    for arena, wanted in units.items():
        behind = {unit + 1 for unit in wanted}
        starts, stops = sorted(wanted - behind), sorted(behind - wanted)
        for piece in medium.pieces(arena):
            for start, stop in zip(starts, stops, strict=True):
                first, last = max(start, piece.first_unit), min(stop, piece.stop)
                if first < last:
                    medium.back(piece, first, last - first, known=False)


def replay_private(medium: FileMedium, region: Region, arena: int) -> None:
    """Bring the tables and data of an arena that are mapped privately up to date."""
    recovery = medium.recovery
    if recovery is not None:
        _set_home(medium, recovery, arena, region)
        recovery.replay(0)
        recovery.core.set_home(arena, 0, 0, 0, 0, 0, None)
