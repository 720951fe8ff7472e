"""Passing: a layer that does nothing, from which others derive."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from operator import index
from typing import Any

from pmemheap import native
from pmemheap.errors import UsageError
from pmemheap.protocols import CAPABILITIES, Allocator

__all__ = ["PACKAGE", "Passing", "Told", "heap_under", "numbers_below"]

PACKAGE: str = os.path.dirname(os.path.dirname(__file__)) + os.sep
"""What the files of this package begin with: no line of theirs is the site of a block."""


def heap_under(layer: Passing) -> native.Upstream | native.HeapCore | None:
    """Return what leads to the heap below a layer and those that it wraps; None if none is."""
    heap: Any = layer.upstream
    while heap is not None and not isinstance(heap, native.Upstream | native.HeapCore):
        heap = getattr(heap, "upstream", None)
    return heap


def numbers_below(stop: int, each: Iterable[Any]) -> list[int]:
    """Return those of what a user gives for offsets that are integers from 0 on, of any type."""
    numbers = []
    for one in each:
        with suppress(TypeError):  # of the call itself, which says what is wrong
            numbers.append(index(one))
    return [number for number in numbers if 0 <= number < stop]


class Passing:
    """A layer whose calls go to its upstream as they are.

    A layer of your own derives from it, and has the calls in which it does something. What its
    upstream can do beyond `malloc`, `free` and `usable_size`, it can do as well: by a method of its
    own, named ``over_realloc`` for `realloc`, where it has one.

    Parameters
    ----------
    upstream : Allocator, optional
        What it stands over; if left out, `Heap.install` sets it.

    Examples
    --------
    >>> import pmemheap
    >>> class Doubled(Passing):
    ...     def malloc(self, size, align=16):
    ...         return self.below.malloc(2 * size, align)
    >>> with pmemheap.Heap.anonymous() as heap, heap.install(Doubled()):
    ...     heap.usable_size(heap.malloc(100))
    208
    """

    def __init__(self, upstream: Allocator | None = None) -> None:
        self.upstream = upstream

    @property
    def below(self) -> Any:
        """Its upstream, of whatever kind.

        Raises
        ------
        UsageError
            It stands over nothing.
        """
        if self.upstream is None:
            raise UsageError(
                f"{type(self).__name__}: a layer over an allocator expected, found one that was "
                "not installed"
            )
        return self.upstream

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block; return its offset."""
        return int(self.below.malloc(size, align))

    def free(self, offset: int, deferred: bool = False) -> None:
        """Free a block."""
        self.below.free(offset, True) if deferred else self.below.free(offset)

    def usable_size(self, offset: int) -> int:
        """Return the bytes that a block can hold."""
        return int(self.below.usable_size(offset))

    def __getattr__(self, name: str) -> Any:
        """Return what the upstream can do beyond that, or what the layer does over it."""
        if name in CAPABILITIES:
            upstream = self.__dict__.get("upstream")
            over = self._method_over(name, upstream)
            if over is not None:
                return over.__get__(self)
            if upstream is not None:
                return getattr(upstream, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _method_over(self, name: str, upstream: Any) -> Any:
        """Return the method of the layer that stands over a call of its upstream, if any does."""
        over = getattr(type(self), f"over_{name}", None)
        return over if upstream is None or hasattr(upstream, name) else None


class Told(Passing):
    """A layer that the core tells what becomes of blocks when it is on a heap.

    Only over another allocator it has to see to the calls itself.
    """

    @property
    def _is_told(self) -> bool:
        return isinstance(self.upstream, native.Upstream)

    def _method_over(self, name: str, upstream: Any) -> Any:
        is_told = upstream is None or isinstance(upstream, native.Upstream)
        return None if is_told else super()._method_over(name, upstream)
