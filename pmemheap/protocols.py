"""Protocols: what an allocator and a layer are, those of users as well.

    Allocator   blocks, by offset       Heap, Arena, every layer
    Layer       an allocator over another one, its upstream

What every one of them can do stands in the protocol. What only some can do is there, or the method
is not: ``hasattr(allocator, "view")`` tells. For an `Allocator` these are `realloc`, `expand`,
`malloc_many`, `free_many`, `view`, `blocks`, `trim`, `stats`, `check` and `explain`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["CAPABILITIES", "Allocator", "Layer"]

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
