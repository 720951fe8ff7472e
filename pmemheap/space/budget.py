"""Budget: how much memory some heaps may have together. What users have of a `Ledger`."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

from pmemheap.dataclass import dataclass
from pmemheap.errors import UsageError
from pmemheap.space.ledger import Ledger
from pmemheap.units import format_bytes

__all__ = ["Budget", "BudgetReport", "Share", "ledger_of"]


class Share(NamedTuple):
    """What one arena holds: name of the heap, of the arena, bytes. The default arena is ``""``."""

    heap: str
    arena: str
    nbytes: int


@dataclass(frozen=True)
class BudgetReport:
    """What the heaps of a `Budget` hold.

    Attributes
    ----------
    limit, held : int
        Bytes that they may have, and have.
    shares : tuple of Share
        By heap and arena, in the order in which the heaps came.
    """

    limit: int
    held: int
    shares: tuple[Share, ...]

    def __str__(self) -> str:
        """Say it in lines."""
        lines = [f"{format_bytes(self.held)} of {format_bytes(self.limit)} held"]
        for share in self.shares:
            arena = f", arena {share.arena!r}" if share.arena else ""
            lines.append(f"  {format_bytes(share.nbytes)} by {share.heap}{arena}")
        return "\n".join(lines)


class Budget:
    """A limit on what some heaps have together: the units of all of their arenas.

    It is asked when a heap grows, and never else. A growth beyond it lets first the heaps give back
    what is free at their ends, and then calls `evict`, again and again as long as that returns True
    and there is no room. What was asked for is tried after each of these steps: a block that was
    freed may do. Otherwise it is an OutOfSpaceError, and nothing has changed.

    Parameters
    ----------
    limit : int
        Bytes of units. Tables beside them, a sixty-fourth of that, are not counted.
    evict : callable, optional
        Gets the bytes that are missing for a growth, a MiB or more; frees some, and returns whether
        it did. It runs in the thread that allocates, in several threads at a time if they do, and
        without a lock of a heap. It may free in any heap. What it allocates must not make one grow:
        that is an OutOfSpaceError. What it raises reaches who allocates.

    Raises
    ------
    UsageError
        The limit is no number of bytes, or `evict` cannot be called.

    Examples
    --------
    >>> import pmemheap
    >>> budget = pmemheap.Budget(8 << 20)
    >>> with pmemheap.Heap.anonymous(budget=budget) as heap:
    ...     blocks = [heap.malloc(100_000) for _ in range(60)]
    ...     def evict(nbytes):
    ...         if blocks:
    ...             heap.free(blocks.pop(0))
    ...         return bool(blocks)
    ...     budget.evict = evict
    ...     blocks.extend(heap.malloc(100_000) for _ in range(1000))
    ...     print(budget.held <= budget.limit, len(blocks))
    True 81
    """

    __slots__ = ("__weakref__", "_ledger")

    def __init__(self, limit: int, evict: Callable[[int], object] | None = None) -> None:
        self._ledger = Ledger(_limit_argument(limit), _evict_argument(evict))

    @property
    def limit(self) -> int:
        """Bytes that the heaps may have. Less than they have lets none grow, and nothing else."""
        return self._ledger.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._ledger.limit = _limit_argument(limit)

    @property
    def evict(self) -> Callable[[int], object] | None:
        """What is asked to free; it may be set at any time."""
        return self._ledger.evict

    @evict.setter
    def evict(self, evict: Callable[[int], object] | None) -> None:
        self._ledger.evict = _evict_argument(evict)

    @property
    def held(self) -> int:
        """Bytes that the heaps have. O(arenas)."""
        return self._ledger.held()

    def report(self) -> BudgetReport:
        """Return who has what. O(arenas)."""
        shares = tuple(
            Share(member.name, arena, nbytes)
            for member in self._ledger.members()
            for arena, nbytes in member.parts()
        )
        return BudgetReport(self.limit, sum(share.nbytes for share in shares), shares)

    def __repr__(self) -> str:
        """Show how much of it is held."""
        return f"<Budget: {format_bytes(self.held)} of {format_bytes(self.limit)} held>"


def _limit_argument(limit: Any) -> int:
    if type(limit) is not int or limit < 0:
        raise UsageError(f"Budget: limit: a number of bytes expected, {limit!r} found")
    return limit


def _evict_argument(
    evict: Callable[[int], object] | None,
) -> Callable[[int], object] | None:
    if evict is not None and not callable(evict):
        raise UsageError(f"Budget: evict: something to call expected, {evict!r} found")
    return evict


ledger_of: Callable[[Budget], Ledger] = attrgetter("_ledger")
"""What the package knows of a budget."""
