"""Strategies: where the blocks of an arena come from. The slot of the arena says which it is.

    slot, byte 1    0 general   1 ring

What a strategy is asked for, and how it is done, is the C core's business: `block/ring.c`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pmemheap.errors import UsageError
from pmemheap.native.constants import StrategyCode

__all__ = ["General", "Ring", "Strategy", "strategy_argument", "unpacked"]

_SLOT_BYTES = 7


@dataclass(frozen=True)
class Strategy:
    """The base of all: a number, and what a slot keeps."""

    code: ClassVar[StrategyCode] = StrategyCode.GENERAL
    is_at_end: ClassVar[bool] = False
    """Whether all blocks come from the end of the arena."""

    def packed(self) -> bytes:
        """Return what the slot of an arena says of it."""
        return bytes([self.code]).ljust(_SLOT_BYTES, b"\0")


@dataclass(frozen=True)
class General(Strategy):
    """Blocks of any size, freed in any order: size classes, and whole units by best fit."""


@dataclass(frozen=True)
class Ring(Strategy):
    """Blocks that are freed about in the order in which they came: queues, logs, spills.

    Each one lies behind all that came before it: offsets ascend in order of arrival, `Arena.blocks`
    is the queue, and `RingArena.first` its oldest block. What is freed is given back at the head of
    the arena, and used again by nobody, unless all above it has gone as well.

    It is worth it as long as lifetimes are much alike. A block that stays holds back what came
    behind it and has gone: `RingArena.stats` says which, and how much, and `Arena.trim` gives the
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


_BY_CODE: dict[int, type[Strategy]] = {kind.code: kind for kind in (General, Ring)}


def strategy_argument(value: object) -> Strategy:
    """Check a strategy that a user gives."""
    if isinstance(value, Strategy) and type(value) in _BY_CODE.values():
        return value
    names = " or ".join(f"{kind.__name__}()" for kind in _BY_CODE.values())
    raise UsageError(f"strategy: {names} expected, found {value!r}")


def unpacked(slot: bytes) -> Strategy:
    """Return the strategy that a slot of the arena table speaks of."""
    return _BY_CODE[slot[0]]()
