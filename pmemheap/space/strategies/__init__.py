"""Strategies: where in free space a range should lie. Four of the classics, made to be read.

    FirstFit    the lowest range that is long enough
    NextFit     the same, but from where the last search ended
    BestFit     the tightest one
    Buddy       blocks whose length and alignment are one power of two

Each is a `pmemheap.protocols.Space`, and one can be used for a heap: `docs/spaces.md`. The first
three are `Ranges` with a choice of their own.
"""

from pmemheap.space.strategies.best_fit import BestFit
from pmemheap.space.strategies.buddy import Buddy
from pmemheap.space.strategies.first_fit import FirstFit
from pmemheap.space.strategies.next_fit import NextFit
from pmemheap.space.strategies.ranges import Ranges

__all__ = ["BestFit", "Buddy", "FirstFit", "NextFit", "Ranges"]
