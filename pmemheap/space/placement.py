"""Placement: a `Space` of the user says where the blocks of an arena lie, in steps of 32 bytes.

    malloc ──► Asked: the Space ──► core: is it free there? ──► a piece
                │ None                     │ no
                ▼                          ▼
               another chunk              StrategyError

Which steps are free the core knows, from the bits of its chunks: `block/placed.c`. It notes what is
freed for the Space. Nothing here outlives a request but the Space, so that after an interrupt it is
enough to make that anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from pmemheap.errors import OutOfSpaceError
from pmemheap.format.layout import ARENA_BITS, DATA_WIDTH
from pmemheap.native import HeapDoors
from pmemheap.native.constants import CHUNK_UNITS_MOST, PLACED_MOST, STEP, Refusal, UnitState
from pmemheap.protocols import SPACE_MARGIN
from pmemheap.space.asked import Asked, Change, Prototype
from pmemheap.space.ledger import OverBudgetError
from pmemheap.space.supply import Supply

__all__ = ["Placement", "chunk_units", "is_placed"]

_UNIT_STEPS = DATA_WIDTH // STEP


def is_placed(size: int, align: int) -> bool:
    """Tell whether a Space is asked for a block, which has units of its own else."""
    return size <= PLACED_MOST and align <= DATA_WIDTH


def _steps_of(size: int, align: int) -> tuple[int, int]:
    """Return what a Space is asked for, for a block: length and alignment."""
    return -(-size // STEP), max(align // STEP, 1)


def chunk_units(size: int, align: int) -> int:
    """Return the units of a chunk in which every Space has to find room for a block.

    Its last step is where the core notes how far it is filled.
    """
    return -(-(SPACE_MARGIN * max(_steps_of(size, align)) + 1) // _UNIT_STEPS)


class Placement:
    """Where the blocks of one arena lie, up to 16 KiB; longer ones have units of their own.

    Parameters
    ----------
    core : HeapDoors
        The C half of the arena.
    supply : Supply
        Its units.
    prototype : Prototype
        Where the Space comes from.
    """

    noun = "step"

    def __init__(self, core: HeapDoors, supply: Supply, prototype: Prototype) -> None:
        self._core, self._supply = core, supply
        self._asked = Asked(prototype)
        self._next_units = 1

    def malloc(self, size: int, align: int, *, reserved: bool) -> int:
        """Make a block of where the Space says, or reserve it; return its offset.

        Raises
        ------
        OutOfSpaceError, StrategyError
            The Space has no room and the arena cannot grow; the Space is wrong. In both cases, and
            with what the Space raises, there is no new block.
        """
        made: list[int] = []

        def put(start: int) -> bool:
            offset = self._put(start, steps, size, reserved)
            if offset >= 0:
                made.append(offset)
            return offset >= 0

        steps, alignment = _steps_of(size, align)
        while self._asked.allocate(self, steps, alignment, put) is None:
            self._grow(size, align)
        return made[0]

    def _put(self, start: int, steps: int, size: int, reserved: bool) -> int:
        first, end, _, _ = self._core.bounds
        if not first * _UNIT_STEPS <= start < end * _UNIT_STEPS:
            return Refusal.BAD_OFFSET
        offset = self._core.place(start, steps, size, reserved)
        if offset == Refusal.NOMEM:
            raise MemoryError("no memory for the table of reserved blocks")
        return offset

    # ------------------------------------------------------------ chunks

    def _grow(self, size: int, align: int) -> None:
        """Bring another chunk; they double in size, but it need not have more than it must."""
        least = chunk_units(size, align)
        wish = max(self._next_units, least)
        try:
            self._add_up_to(wish, least)
        except OverBudgetError:  # others are asked first
            raise
        except OutOfSpaceError as error:
            raise OutOfSpaceError(f"{error}; {self._refusal(size, align)}") from error
        self._next_units = min(2 * wish, CHUNK_UNITS_MOST)

    def _add_up_to(self, wish: int, least: int) -> None:
        try:
            self._add_chunk(wish)
        except OutOfSpaceError as error:
            if wish == least or isinstance(error, OverBudgetError):
                raise
            self._add_chunk(least)

    def _add_chunk(self, nunits: int) -> None:
        while self._core.add_chunk(nunits) == Refusal.REFILL:
            self._supply.refill(nunits)

    def _refusal(self, size: int, align: int) -> str:
        """Say that the Space has no room, and how much is free."""
        lengths = [length for _, length in self._core.placed_free(False)[0]]
        return (
            f"{self._asked.call(*_steps_of(size, align))}: None found, with {sum(lengths)} steps "
            f"free, the longest range of {max(lengths, default=0)}"
        )

    # ------------------------------------------------------------ what is free

    def changes(self) -> list[Change] | None:
        """Take what the Space was not told yet; None: some of it was lost."""
        return self._core.placed_changes()

    def tell_all(self) -> Iterable[tuple[int, int]]:
        """Return what is free; nothing is left to be told then."""
        return self._core.placed_free(True)[0]

    def longest_told(self) -> tuple[int, int]:
        """Return the longest range; (0, 0) if something became free that the Space cannot know."""
        ranges, has_more = self._core.placed_free(False)
        return (0, 0) if has_more else max(ranges, key=lambda one: one[1], default=(0, 0))

    def has_room(self, size: int, align: int) -> bool:
        """Tell whether a block would fit into a free range, whatever the Space says. O(units)."""
        steps, alignment = _steps_of(size, align)
        return is_placed(size, align) and any(
            -start % alignment + steps <= length
            for start, length in self._core.placed_free(False)[0]
        )

    def found_at(self, start: int, length: int) -> str:
        """Say what lies in steps of which not all are free. O(units)."""
        first, end, _, _ = self._core.bounds
        if not first * _UNIT_STEPS <= start < end * _UNIT_STEPS:
            return f"an arena of the steps {first * _UNIT_STEPS} to {end * _UNIT_STEPS - 1}"
        for offset, size in self._blocks(first):
            step = offset % (1 << ARENA_BITS) // STEP
            if step < start + length and start < step - -size // STEP:
                return f"a block of {size} bytes at {offset:#x}"
        for unit, nunits, state in self._supply.pieces():
            if state == UnitState.PACKED and unit <= start // _UNIT_STEPS < unit + nunits:
                return f"a block that is reserved or viewed, or the end of the chunk at unit {unit}"
        return "units that are no chunk of the arena"

    def _blocks(self, first_unit: int) -> Iterable[tuple[int, int]]:
        cursor, found = self._core.blocks(first_unit * 2 * _UNIT_STEPS)
        while found:
            yield from found
            cursor, found = self._core.blocks(cursor)

    # ------------------------------------------------------------ insight

    def rebuild(self) -> None:
        """Make the Space anew, after an interrupt: nobody knows what it was told."""
        self._asked.make_anew()

    def check(self) -> None:
        """Verify that the Space has the same steps for free; raises AssertionError."""
        ranges, has_more = self._core.placed_free(False)
        if not has_more:
            self._asked.check(ranges)
