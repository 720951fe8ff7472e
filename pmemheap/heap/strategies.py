"""Strategies: where the blocks of an arena come from. The slot of the arena says which it is.

    slot    byte 1         bytes 4 to 7
            0 general
            1 ring
            2 rows         16-byte granules of a row
            3 placed       in memory alone: no file has it

How it is done is the C core's business: `block/slab.c`, `block/ring.c`, `block/rows.c`,
`block/placed.c`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pmemheap.dataclass import dataclass, field
from pmemheap.errors import UsageError
from pmemheap.format.layout import ArenaSlot, packed_strategy, row_units
from pmemheap.heap.extras import dtype_argument
from pmemheap.native.constants import RING_WHOLE, ROW_MOST, STEP, StrategyCode
from pmemheap.space.asked import Prototype
from pmemheap.space.placement import chunk_units, is_placed
from pmemheap.units import GRANULE, UNIT, align_up

if TYPE_CHECKING:
    import numpy as np

    from pmemheap.protocols import Space

__all__ = [
    "General",
    "Placed",
    "Ring",
    "Rows",
    "Strategy",
    "agreed",
    "strategy_argument",
    "strategy_of",
]

_CHUNK_MOST = 64


@dataclass(frozen=True)
class Strategy:
    """The base of all: a number, what a slot keeps, and what may be asked for."""

    code: ClassVar[StrategyCode] = StrategyCode.GENERAL
    is_at_end: ClassVar[bool] = False
    """Whether all blocks come from the end of the arena."""
    has_rows: ClassVar[bool] = False
    """Whether all blocks are of one size."""
    has_classes: ClassVar[bool] = False
    """Whether small blocks are rounded up to size classes."""
    in_files: ClassVar[bool] = True
    """Whether a file can have it."""

    @property
    def block_bytes(self) -> int:
        """Bytes of each block; 0 where they differ."""
        return 0

    @property
    def granules(self) -> int:
        """Granules of a row, 0 where there are none."""
        return self.block_bytes // GRANULE

    def packed(self) -> bytes:
        """Return what the slot of an arena says of it: its bytes 1 to 7."""
        return packed_strategy(self.code, self.block_bytes)

    def units_wanted(self, size: int, align: int) -> int:
        """Return the units that have to be free in one piece for a block."""
        return max(-(-size // UNIT) + align // UNIT, _CHUNK_MOST) + 1

    def rounded(self, size: int) -> int:
        """Return the bytes that a block takes, of a strategy without size classes."""
        return align_up(size, UNIT)

    def require_fit(self, where: str, size: int, align: int) -> None:
        """Raise UsageError for a block that there never can be."""


@dataclass(frozen=True)
class General(Strategy):
    """Blocks of any size, freed in any order: size classes, and whole units by best fit."""

    has_classes: ClassVar[bool] = True


@dataclass(frozen=True)
class Ring(Strategy):
    """Blocks that are freed about in the order in which they came: queues, logs, spills.

    Each one lies behind all that came before it: offsets ascend in order of arrival, `Arena.blocks`
    is the queue, and `first` its oldest block. What is freed is given back at the head of
    the arena; a place is not used again.

    It is worth it as long as lifetimes are much alike. A block that stays holds back what came
    behind it and has gone: `stats` says which, and how much, and `Arena.trim` gives the
    memory of that back.

    Examples
    --------
    >>> import pmemheap
    >>> heap = pmemheap.Heap.anonymous()
    >>> queue = heap.arena("queue", strategy=pmemheap.Ring())
    >>> for size in (300, 20, 5000):
    ...     _ = queue.malloc(size)
    >>> while (offset := queue.first()) is not None:
    ...     print(queue.usable_size(offset))
    ...     queue.free(offset)
    304
    32
    5008
    >>> heap.close()
    """

    code: ClassVar[StrategyCode] = StrategyCode.RING
    is_at_end: ClassVar[bool] = True

    def rounded(self, size: int) -> int:
        """Return the bytes that a block takes: 32, or steps of 16; above 64 KiB whole units."""
        is_piece = size <= RING_WHOLE
        return max(align_up(size, GRANULE), 2 * GRANULE) if is_piece else super().rounded(size)


@dataclass(frozen=True)
class Rows(Strategy):
    """Blocks that are all of one size, and one array: features, vectors, records.

    Parameters
    ----------
    row : int or dtype
        Bytes of a row, a multiple of 16 up to 64 KiB; or what numpy makes a dtype of so many bytes
        of: ``("f4", 128)`` is 128 floats, a list of fields is a record.

    Notes
    -----
    Rows lie one behind the other without a gap, whatever comes and goes: `RowsArena.rows` is all of
    them as one numpy array, which grows in place. The lowest free row is the next one.

    Examples
    --------
    >>> import pmemheap
    >>> heap = pmemheap.Heap.anonymous()
    >>> table = heap.arena("vectors", strategy=pmemheap.Rows(("f4", 128)))
    >>> offsets = [table.malloc(512) for _ in range(1000)]
    >>> table.rows[:1000] = 1
    >>> table.row(table.index(offsets[7]))[3] = 2
    >>> float(table.rows[table.live].sum())
    128001.0
    >>> heap.close()
    """

    row: Any = field(compare=False)
    nbytes: int = field(init=False, repr=False)
    code: ClassVar[StrategyCode] = StrategyCode.ROWS
    is_at_end: ClassVar[bool] = True
    has_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Look at the size."""
        nbytes: int = self.row if type(self.row) is int else self.dtype.itemsize
        if nbytes % GRANULE or not 0 < nbytes <= ROW_MOST:
            nearest = min(max(-(-nbytes // GRANULE) * GRANULE, GRANULE), ROW_MOST)
            raise UsageError(
                f"Rows({self.row!r}): a multiple of {GRANULE} bytes, at most {ROW_MOST}, expected "
                f"for a row, found {nbytes}: {nearest} is next"
            )
        object.__setattr__(self, "nbytes", nbytes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of a row, for numpy; bytes if only their number is known."""
        return dtype_argument(("u1", (self.row,)) if type(self.row) is int else self.row)

    @property
    def block_bytes(self) -> int:
        """Bytes of a row."""
        return self.nbytes

    def rounded(self, size: int) -> int:
        """Return the bytes of a row."""
        return self.nbytes

    def units_wanted(self, size: int, align: int) -> int:
        """Return the units of a run, and of what is left out in front of the first one."""
        return 2 * row_units(self.nbytes)

    def require_fit(self, where: str, size: int, align: int) -> None:
        """Raise UsageError for what is no row."""
        if size > self.nbytes or self.nbytes % align:
            raise UsageError(
                f"{where}: at most {self.nbytes} bytes, aligned to "
                f"{self.nbytes & -self.nbytes}, expected in a row, found {size} aligned to {align}"
            )


@dataclass(frozen=True)
class Placed(Strategy):
    """Blocks that lie where a `Space` of yours says: own policies, and to see how one does.

    It is asked for blocks of up to 16 KiB, in steps of 32 bytes; longer ones get whole units. In
    heaps in private memory alone.

    Parameters
    ----------
    space : Space
        A new one, such as ``pmemheap.BestFit()``. The first arena that is made of this strategy has
        it, others have copies.

    Notes
    -----
    What is in use the heap keeps, so that a Space cannot damage it. Each answer is looked at: one
    that is not free, not aligned, outside of the arena or no number is a `StrategyError`, which
    says what was found there. Nothing has changed then, and a copy of the Space as it was when it
    was new is told what is free. It may raise, and it may free blocks; it cannot allocate.

    Examples
    --------
    >>> import pmemheap
    >>> heap = pmemheap.Heap.anonymous()
    >>> arena = heap.arena("mine", strategy=pmemheap.Placed(pmemheap.FirstFit()))
    >>> first, second, third = (arena.malloc(100) for _ in range(3))
    >>> arena.free(first)
    >>> arena.free(third)
    >>> arena.malloc(60) == first
    True
    >>> heap.close()
    """

    space: Space
    prototype: Prototype = field(init=False, repr=False, compare=False)
    code: ClassVar[StrategyCode] = StrategyCode.PLACED
    in_files: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Look at the Space."""
        object.__setattr__(self, "prototype", Prototype(self.space, "Placed"))

    def rounded(self, size: int) -> int:
        """Return the bytes that a block takes: steps of 32; above 16 KiB whole units."""
        return align_up(size, STEP) if is_placed(size, 1) else super().rounded(size)

    def units_wanted(self, size: int, align: int) -> int:
        """Return the units of a chunk in which there is room for a block, or those of its own."""
        return chunk_units(size, align) if is_placed(size, align) else -(-size // UNIT)


_KINDS: tuple[type[Strategy], ...] = (General, Ring, Rows, Placed)
_IN_SLOTS = {kind.code: kind for kind in _KINDS if kind.in_files}


def strategy_argument(value: object, *, in_file: bool = False) -> Strategy | None:
    """Check a strategy that a user gives, if it is given; of a heap in a file one that that keeps.

    Raises
    ------
    UsageError
        It is none, or a file cannot have it.
    """
    if value is None:
        return None
    if isinstance(value, Strategy) and type(value) in _KINDS and (value.in_files or not in_file):
        return value
    expected = "General(), Ring(), Rows(...) or Placed(...) expected"
    if in_file:
        expected = "General(), Ring() or Rows(...) expected in a file or in shared memory"
    raise UsageError(f"strategy: {expected}, found {value!r}")


def agreed(what: str, have: Strategy, wish: Strategy | None) -> Strategy:
    """Return how to show what has a strategy: rows as what they are asked for with, if with any.

    Raises
    ------
    UsageError
        Another one is asked for.
    """
    if wish in {None, have}:
        return wish or have
    raise UsageError(f"{what}: its strategy {have} expected, found {wish}")


def strategy_of(slot: ArenaSlot) -> Strategy:
    """Return the strategy that a slot of the arena table speaks of."""
    kind = _IN_SLOTS[StrategyCode(slot.strategy[0])]
    return kind(slot.row_bytes) if kind is Rows else kind()
