"""Protocols: what an allocator and a layer are, those of users as well.

    Allocator   blocks, by offset       Heap, Arena, every layer
    Layer       an allocator over another one, its upstream
    Space       ranges of free space              FirstFit, NextFit, BestFit, Buddy

What every one of them can do stands in the protocol. What only some can do is there, or the method
is not: ``hasattr(allocator, "view")`` tells. For an `Allocator` these are `realloc`, `expand`,
`malloc_many`, `free_many`, `view`, `blocks`, `trim`, `stats`, `check` and `explain`. For a `Space`
they are `take`, `longest`, `check` and ``__iter__``.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["CAPABILITIES", "SPACE_MARGIN", "Allocator", "Layer", "Space"]

CAPABILITIES = frozenset(
    {
        "blocks", "check", "expand", "explain", "free_many", "malloc_many", "realloc", "stats",
        "trim", "view",
    }
)  # fmt: skip
"""The calls of an allocator that are there or not."""


@runtime_checkable
class Allocator(Protocol):
    """Something that has blocks: a heap, an arena, a layer over one of them."""

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block; return its offset. UsageError, OutOfSpaceError."""

    def free(self, offset: int) -> None:
        """Free the block at an offset. UsageError, BufferError."""

    def usable_size(self, offset: int) -> int:
        """Return the bytes that the block at an offset can hold. UsageError."""


@runtime_checkable
class Layer(Allocator, Protocol):
    """An allocator over another one, which owns no block itself.

    Blocks that were made before it came, through it, and after it went are freed alike.
    """

    upstream: Allocator | None
    """What it calls; None as long as it stands over nothing. `Heap.install` sets it."""


SPACE_MARGIN = 4
"""A `Space` that has a free range of so many times `length`, and `align`, must not answer None."""


@runtime_checkable
class Space(Protocol):
    """Something that chooses where in free space a range lies. It has none when it is made.

    Numbers count from 0: units of a heap, 4 KiB each, if it was given as `extents`, or steps of 32
    bytes, as `pmemheap.Placed`; what holds for the one holds for the other. Some of these calls may
    be missing:

    ``take(start, length) -> bool``
        Take just this range, where all of it is free; False and no change if not, or if it cannot.
        Needed where a block grows in place, and where `Heap.trim` cuts; without it the heap makes
        the `Space` anew there.
    ``longest() -> int``
        A length that `allocate` is sure to answer now, 0 for none.
    ``__iter__``
        The free ranges, ``(start, length)``, by their start.
    ``check()``
        AssertionError if it is not sound. `Heap.check` calls it, and compares the free ranges.
    """

    def allocate(self, length: int, align: int) -> int | None:
        """Take `length` units from a multiple of `align`, a power of two, on; return the first.

        None: there is no room for them, and nothing has changed. The caller brings more. With
        one free range of `SPACE_MARGIN` times `length`, and times `align`, there always is room.
        """

    def deallocate(self, start: int, length: int) -> None:
        """Give units back, those of one `allocate` or parts and sums of several; or bring new ones.

        The heap does not say which. They overlap nothing that is free.
        """
