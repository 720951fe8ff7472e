"""A cache under a budget: arrays that are kept as long as nothing else wants their memory.

Run it by ``python examples/budget_cache.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

import pmemheap

Array = npt.NDArray[np.float64]


class Cache:
    """Arrays by name; the one that nobody wanted for longest goes first."""

    def __init__(self, budget: pmemheap.Budget) -> None:
        self.heap = pmemheap.Heap.anonymous(budget=budget)
        self.arrays: OrderedDict[str, Array] = OrderedDict()
        budget.evict = self.drop_oldest

    def get(self, name: str, make: Callable[[], Array]) -> Array:
        """Return an array, made if it is not there."""
        if name not in self.arrays:
            made = make()
            array = self.heap.ndarray(made.shape, made.dtype)
            array[...] = made
            self.arrays[name] = array
        self.arrays.move_to_end(name)
        return self.arrays[name]

    def drop_oldest(self, nbytes: int) -> bool:
        """Free one array; the heap asks again if that is too little.

        It is gone from the cache, and its bytes stay for as long as somebody looks at it.
        """
        if not self.arrays:
            return False
        _, array = self.arrays.popitem(last=False)
        self.heap.free(self.heap.offset_of(array), deferred=True)
        return True


def main() -> None:
    """Fill a cache, and then let another heap need memory."""
    budget = pmemheap.Budget(32 << 20)
    cache = Cache(budget)
    for day in range(40):
        cache.get(f"day {day}", partial(np.full, 125_000, day, "f8"))
    print(f"{len(cache.arrays)} arrays of 40 in {budget.held >> 20} MiB")
    with pmemheap.Heap.anonymous(budget=budget) as results:
        results.malloc(20 << 20)
        print(f"{len(cache.arrays)} arrays beside 20 MiB of results; {budget.report()}")


if __name__ == "__main__":
    main()
