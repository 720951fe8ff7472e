"""Medium: where the bytes of a region come from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from pmemheap.dataclass import dataclass, field
from pmemheap.format.layout import ArenaSlot, SegmentSlot
from pmemheap.pmem2 import Map, VMReservation

__all__ = ["Medium", "Piece"]


@dataclass(eq=False)
class Piece:
    """The memory that a medium gives to one segment: `nunits` units from `first_unit` on.

    `slot` and `index` say where it lies in a file, `arena` to which arena of the heap it belongs,
    `stop` is the unit behind it.
    """

    first_unit: int
    nunits: int
    slot: SegmentSlot | None = None
    index: int = -1
    arena: int = 0
    stop: int = field(init=False)

    def __post_init__(self) -> None:
        """Know the end, which is asked for again and again."""
        self.stop = self.first_unit + self.nunits


class Medium(Protocol):
    """Where the bytes of a region come from."""

    @property
    def arenas(self) -> dict[int, ArenaSlot]:
        """The slots of arenas in use, by index."""

    @property
    def is_shown(self) -> Callable[[], bool] | None:
        """Tells whether snapshots of before it was opened may show what is free; None: none do."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables it needs, besides the volatile one."""

    def step(self, nunits: int) -> int:
        """Units by which a region of `nunits` should grow, unless a request needs more."""

    @property
    def maybe_holes(self) -> bool:
        """Whether `back` has anything to do: some units may have no space of their own."""

    @property
    def may_fault_ahead(self) -> bool:
        """Whether pages may be faulted in before they are stored to: no disk gets them."""

    def allocate(self, first_unit: int, nunits: int, arena: int, at_least: int) -> Piece:
        """Get `nunits` units or more; OutOfSpaceError with nothing changed.

        The first `at_least` have real space, the others when `back` is called for them.
        """

    def could_allocate(self, first_unit: int, nunits: int, arena: int, at_least: int) -> bool:
        """Tell whether they are to be had, as far as can be said before."""

    def look_at(self, pieces: list[Piece], tables: Collection[str]) -> None:
        """Look whether tables of pieces can be mapped, before `map_row` of them."""

    def map_row(
        self, pieces: list[Piece], table: str, reservation: VMReservation, offset: int
    ) -> list[Map]:
        """Place one table's parts of some pieces, one behind the other."""

    def publish(self, piece: Piece, end_unit: int) -> None:
        """Make a new piece part of the heap, also for the next opening."""

    def is_published(self, piece: Piece) -> bool:
        """Tell whether a piece is part of the heap, when `publish` or `withdraw` was torn out."""

    def keep_only(self, pieces: list[Piece]) -> None:
        """Let go of all space but that of the pieces, which are published: of the whole heap."""

    def abandon(self, piece: Piece) -> None:
        """Undo `allocate` of a piece that was not published."""

    def expect_arena(self, index: int, slot: ArenaSlot) -> None:
        """Let the next piece published for an arena be its first, and bring its slot with it."""

    def drop_arena(self, pieces: list[Piece]) -> None:
        """Make an arena with all its pieces no part of the heap any more; they are mapped."""

    def withdraw(self, pieces: list[Piece], first_unit: int, end_unit: int) -> None:
        """Make pieces no part of the heap any more; they are still mapped."""

    def release(self, pieces: list[Piece]) -> None:
        """Give the space of withdrawn and unmapped pieces back."""

    def has_spare_below(self, piece: Piece) -> bool:
        """Tell whether a segment could lie lower in the file than this one."""

    def punch(self, piece: Piece, address: int, start: int, nunits: int) -> None:
        """Give the pages of units back; they read zero afterwards."""

    def back(self, piece: Piece, start: int, nunits: int) -> None:
        """Make sure that a store to the units cannot fail for want of space."""
