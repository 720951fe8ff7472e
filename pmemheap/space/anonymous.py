"""Anonymous memory: what stands behind the region of a heap that has no file."""

from __future__ import annotations

from collections.abc import Collection

from pmemheap import native
from pmemheap.dataclass import replace
from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.format.layout import BITS_WIDTH, DATA_WIDTH, SEGMENT_UNITS, ArenaSlot
from pmemheap.native import Advice
from pmemheap.pmem2 import Map, VMReservation
from pmemheap.pmem2.row import anonymous_row
from pmemheap.refusals import refusal
from pmemheap.space.medium import Piece
from pmemheap.space.tables import UNITS_WIDTH, WIDTHS
from pmemheap.units import MiB, format_bytes

__all__ = ["AnonymousMedium"]

_DOUBLED_MOST = 64 * MiB // DATA_WIDTH
_ANONYMOUS_WIDTH = DATA_WIDTH + BITS_WIDTH + UNITS_WIDTH


class AnonymousMedium:
    """Private memory of this process: space is real when it is touched.

    Parameters
    ----------
    limit : int, optional
        Bytes that may be mapped, tables included.
    """

    tables: tuple[str, ...] = ("data", "bits")
    is_shown = None
    maybe_holes = False
    may_fault_ahead = True
    in_doubt = False

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.arenas: dict[int, ArenaSlot] = {0: ArenaSlot(0, 0)}
        self._expected: dict[int, ArenaSlot] = {}
        self._units = 0
        least = SEGMENT_UNITS * _ANONYMOUS_WIDTH
        if limit is not None and limit < least:
            raise UsageError(f"limit: at least {least} bytes expected, {limit} found")

    def step(self, nunits: int) -> int:
        """Double what is small, since memory costs nothing before it is touched; then an eighth."""
        return max(SEGMENT_UNITS, min(nunits, _DOUBLED_MOST), nunits // 8)

    def allocate(self, first_unit: int, nunits: int, arena: int = 0, at_least: int = 0) -> Piece:
        """Return a piece, if the limit allows."""
        if not self.could_allocate(first_unit, nunits, arena):
            needed = (self._units + nunits) * _ANONYMOUS_WIDTH
            raise OutOfSpaceError(
                f"anonymous heap cannot grow by {format_bytes(nunits * DATA_WIDTH)}: limit "
                f"{self.limit} bytes expected to hold, {needed} would be needed"
            )
        piece = Piece(first_unit, nunits, arena=arena)
        self._units += nunits
        return piece

    def could_allocate(
        self, first_unit: int, nunits: int, arena: int = 0, at_least: int = 0
    ) -> bool:
        """Tell whether the limit allows it."""
        return self.limit is None or (self._units + nunits) * _ANONYMOUS_WIDTH <= self.limit

    def look_at(self, pieces: list[Piece], tables: Collection[str]) -> None:
        """Do nothing: there is nothing to look at."""

    def map_row(
        self, pieces: list[Piece], table: str, reservation: VMReservation, offset: int
    ) -> list[Map]:
        """Place fresh private memory."""
        return anonymous_row(reservation, offset, [each.nunits * WIDTHS[table] for each in pieces])

    def is_published(self, piece: Piece) -> bool:
        """Tell whether it lies where its arena does."""
        arena = self.arenas.get(piece.arena)
        return arena is not None and arena.first_unit <= piece.first_unit < arena.end_unit

    def keep_only(self, pieces: list[Piece]) -> None:
        """Count the units again."""
        self._units = sum(piece.nunits for piece in pieces)

    def publish(self, piece: Piece, end_unit: int) -> None:
        """Note where the arena ends: nobody else is to know."""
        slot = self._expected.get(piece.arena) or self.arenas[piece.arena]
        self.arenas[piece.arena] = replace(slot, end_unit=end_unit)
        self._expected.pop(piece.arena, None)

    def expect_arena(self, index: int, slot: ArenaSlot) -> None:
        """Keep the slot until a piece is published."""
        self._expected[index] = slot

    def drop_arena(self, pieces: list[Piece]) -> None:
        """Keep nothing of an arena but where it ended."""
        arena = pieces[0].arena
        self.arenas[arena] = self.arenas[arena].dropped()

    def abandon(self, piece: Piece) -> None:
        """Forget a piece."""
        self._units -= piece.nunits

    def withdraw(self, pieces: list[Piece], first_unit: int, end_unit: int) -> None:
        """Note where the arena lies now."""
        arena = pieces[0].arena
        slot = self.arenas[arena]
        self.arenas[arena] = replace(slot, first_unit=first_unit, end_unit=end_unit)

    def release(self, pieces: list[Piece]) -> None:
        """Forget pieces: unmapping gave their memory back."""
        for piece in pieces:
            self.abandon(piece)

    def has_spare_below(self, piece: Piece) -> bool:
        """No: it has no file."""
        return False

    def punch(self, piece: Piece, address: int, start: int, nunits: int) -> None:
        """Tell the kernel to drop the pages."""
        try:
            native.madvise(address, nunits * DATA_WIDTH, Advice.DONTNEED)
        except native.NativeError as error:
            raise refusal("anonymous heap: give-back", error) from error

    def back(self, piece: Piece, start: int, nunits: int) -> None:
        """Do nothing: the kernel finds memory at the first touch, or kills, as ever."""
