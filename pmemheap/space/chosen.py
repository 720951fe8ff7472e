"""Chosen: units for an arena of which a `Space` of the user says where they lie.

A request asks the Space, large blocks as well as the pool of the C core; None makes the heap read
on, then grow, and at last gather all that the pool has.
"""

from __future__ import annotations

from pmemheap.errors import OutOfSpaceError
from pmemheap.format.layout import DATA_WIDTH
from pmemheap.native import HeapDoors
from pmemheap.native.constants import POOL_MOST, UnitState
from pmemheap.space.asked import Prototype
from pmemheap.space.checked import CheckedMap
from pmemheap.space.ledger import OverBudgetError
from pmemheap.space.medium import Medium
from pmemheap.space.region import Region
from pmemheap.space.supply import Supply
from pmemheap.units import counted

__all__ = ["ChosenSupply"]

_IN_USE = {UnitState.RUN: "a run", UnitState.PACKED: "a chunk of regions"}


class ChosenSupply(Supply):
    """Units for one arena, as `Supply` has them, from where a Space says.

    Parameters
    ----------
    prototype : Prototype
        Where the Space comes from.
    """

    def __init__(
        self, core: HeapDoors, region: Region, medium: Medium, prototype: Prototype, *, fresh: bool
    ) -> None:
        self._prototype = prototype
        super().__init__(core, region, medium, fresh=fresh)

    def _map(self, wilderness: int, end: int) -> CheckedMap:
        self._checked = CheckedMap(self._prototype, self._found_at, wilderness, end)
        return self._checked

    # ------------------------------------------------------------ serving

    def refill(self, nunits: int) -> None:
        """Give the pool a free range of `nunits` units, or more of them if that is to be had.

        Raises
        ------
        OutOfSpaceError, StrategyError
            Nothing is left and the region cannot grow; the Space is wrong.
        """
        self._take_returned()
        wish = self._wish(nunits)
        start = self._checked.allocate(wish)
        if start is None:
            start, wish = self.allocate(nunits), nunits
        else:
            wish = self._backed_as_far([(start, wish)], nunits)[0][1]
        self._core.deallocate_units([(start, wish)], False)

    def allocate(self, nunits: int, align: int = 1, *, roomy: bool = False) -> int:
        """Take units for a large block; they belong to nobody until the caller describes them.

        Raises
        ------
        OutOfSpaceError, StrategyError
            Nothing is left and the region cannot grow; the Space is wrong.
        """
        self._take_returned()
        while (start := self._checked.allocate(nunits, align)) is None:
            try:
                if not self.read_on(POOL_MOST + 1):
                    self._grow(nunits + align - 1)
            except OverBudgetError:
                raise
            except OutOfSpaceError as error:
                start = self._gathered(nunits, align, error)
                break
        self._backed([(start, nunits)])
        return start

    def _gathered(self, nunits: int, align: int, error: OutOfSpaceError) -> int:
        """Take units of what the pool gives back, where growth was refused."""
        self.take_all_back()
        start = self._checked.allocate(nunits, align)
        if start is None:
            refusal = self._checked.refusal(nunits, align)
            raise OutOfSpaceError(f"{error}; {refusal}") from error
        return start

    # ------------------------------------------------------------ insight

    def _found_at(self, start: int, length: int) -> str:
        """Say what lies in a range that is not free. O(units)."""
        region = self.region
        if start < region.first_unit or start + length > region.end_unit:
            return f"a heap of the units {region.first_unit} to {region.end_unit - 1}"
        for first, nunits, state in self.pieces():
            if first < start + length and start < first + nunits:
                return _described(first, nunits, state)
        return "units that are in use"


def _described(first: int, nunits: int, state: int) -> str:
    where = f"at {first * DATA_WIDTH:#x}"
    if state == UnitState.LARGE:
        return f"a block of {nunits * DATA_WIDTH} bytes {where}"
    kind = _IN_USE.get(UnitState(state), "a range")
    return f"{kind} of {counted(nunits, 'unit')} {where}"
