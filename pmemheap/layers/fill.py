"""Fill: what is in a block when it is made, and what is left in it when it is freed.

    malloc ──► a new block ──► filled ──► the caller
    free ──► would it be refused? ──► poisoned ──► freed
                  │ yes                              │ refused all the same
                  ▼                                  ▼
               refused, untouched               what was in it is put back

A block that moves is a new one, a copy, and a free of the old one: only so is there a moment in
which the old place is still nobody else's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, final

from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.layers.passing import Passing, heap_under
from pmemheap.protocols import Allocator
from pmemheap.refusals import end_with

__all__ = ["Fill"]

_PATTERN_BYTES = 1 << 16


@final
class Fill(Passing):
    r"""Bytes that are written into a block when it is made, and when it is freed.

    Over a heap or arena, or over any allocator that has `view`. What counts is what a block can
    hold: a block that grows is filled from there on where it could hold nothing before.

    Parameters
    ----------
    upstream : Allocator, optional
        What it stands over; if left out, `Heap.install` sets it.
    malloc : int, optional
        The byte that fills new blocks and the new part of those that grow; None: none does.
    free : int, optional
        The byte that fills blocks when they are freed, and the place that a block leaves.

    Raises
    ------
    UsageError
        A byte is not from 0 to 255; the upstream has no `view`.

    Notes
    -----
    A free that is refused leaves the block as it was. A heap is asked first; the bytes are kept
    until it is done, and put back if somebody refuses all the same, or another allocator. Not
    poisoned are blocks with live views, whose bytes stay until the last one goes
    (``deferred=True``), blocks of other arenas that are freed through the heap, and what
    transactions and containers free. With `free`, a block that moves is a malloc, a copy and a free
    for the layers below, and for a process that is killed between them. A file heap whose process
    is killed before a free is stored has the block again, with the poison in it.

    Examples
    --------
    >>> import pmemheap
    >>> with pmemheap.Heap.anonymous() as heap, heap.install(Fill(malloc=0xAA)):
    ...     offset = heap.malloc(4)
    ...     bytes(heap.view(offset, 4))
    b'\xaa\xaa\xaa\xaa'
    """

    def __init__(
        self, upstream: Allocator | None = None, *, malloc: int | None = 0, free: int | None = None
    ) -> None:
        if upstream is not None and not hasattr(upstream, "view"):
            raise UsageError(f"Fill: an allocator with view expected, found {upstream!r}")
        super().__init__(upstream)
        self._made, self._freed = _pattern("malloc", malloc), _pattern("free", free)

    # ------------------------------------------------------------ made

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block and fill it; return its offset."""
        offset: int = self.below.malloc(size, align)
        self._fill_new((offset,))
        return offset

    def over_malloc_many(self, size: int, count: int) -> Any:
        """Allocate many blocks and fill them; return their offsets."""
        offsets = self.below.malloc_many(size, count)
        self._fill_new(offsets)
        return offsets

    def _fill_new(self, offsets: Iterable[int]) -> None:
        """Fill blocks that nobody knows yet; if that cannot be, they are freed."""
        if self._made is None:
            return
        try:
            for offset in offsets:
                self._fill_from(offset, 0)
        except BaseException as error:
            for offset in offsets:
                end_with(error, lambda made=offset: self.below.free(made))  # type: ignore[misc]
            raise

    def _fill_from(self, offset: int, start: int) -> None:
        """Fill what a block can hold from a byte on."""
        if self._made is not None:
            with self.below.view(offset) as view:
                _write(view, self._made, start)

    # ------------------------------------------------------------ freed

    def free(self, offset: int, deferred: bool = False) -> None:
        """Poison a block and free it."""
        if self._freed is None or not self._would_go(offset, deferred):
            super().free(offset, deferred)
        else:
            self._free_poisoned([offset], lambda: Passing.free(self, offset, deferred))

    def over_free_many(self, offsets: Iterable[int]) -> None:
        """Poison many blocks and free them: all or none."""
        each = list(offsets)
        if self._freed is None or not all(self._would_go(offset) for offset in each):
            self.below.free_many(each)
        else:
            self._free_poisoned(each, lambda: self.below.free_many(each))

    def _would_go(self, offset: int, deferred: bool = False) -> bool:
        """Tell whether a free of a block would leave it to nobody, as far as can be known."""
        heap = heap_under(self)
        if heap is not None:
            return heap._free_refusal(offset) == 0  # private: a question that users have not
        return not deferred and self._capacity(offset) is not None

    def _free_poisoned(self, offsets: list[int], free: Callable[[], None]) -> None:
        """Poison blocks and free them; those that live on have what they had."""
        kept: dict[int, bytes] = {}
        try:
            for offset in offsets:
                if offset not in kept:
                    with self.below.view(offset) as view:
                        kept[offset] = bytes(view)
                        _write(view, self._poison, 0)
            free()
        except BaseException as error:
            end_with(error, lambda: self._put_back(kept))
            raise

    @property
    def _poison(self) -> bytes:
        assert self._freed is not None
        return self._freed

    def _put_back(self, kept: dict[int, bytes]) -> None:
        """Give blocks what they had, those that are there still and hold nothing but poison."""
        for offset, held in kept.items():
            if self._capacity(offset) == len(held):
                with self.below.view(offset) as view:
                    if view == self._poison[:1] * len(held):
                        view[:] = held

    # ------------------------------------------------------------ of another size

    def over_expand(self, offset: int, size: int) -> bool:
        """Let a block grow where it is, and fill what is new; tell whether it has."""
        before = self._capacity(offset)
        done: bool = self.below.expand(offset, size)
        if done:
            self._fill_from(offset, before or 0)
        return done

    def over_realloc(self, offset: int, size: int) -> int:
        """Give a block another size, fill and poison what changes; return where it is then."""
        before = self._capacity(offset)
        if before is not None and self._freed is not None and self._would_go(offset):
            return self._resized(offset, size, before)
        to: int = self.below.realloc(offset, size)
        self._fill_from(to, (before or 0) if to == offset else min(before or 0, size))
        return to

    def _resized(self, offset: int, size: int, before: int) -> int:
        """Do so where the old place is to be poisoned: by a new block, if it does not fit."""
        if size > before and hasattr(self.below, "expand") and self.over_expand(offset, size):
            return offset
        try:
            to: int = self.below.malloc(size)
        except OutOfSpaceError:
            if size > before:
                raise
            return offset
        if size <= before <= self.usable_size(to):  # nothing would be gained
            self.below.free(to)
            return offset
        try:
            self._copy(offset, to, min(before, size))
            self._fill_from(to, min(before, size))
            self._free_poisoned([offset], lambda: self.below.free(offset))
        except BaseException as error:
            end_with(error, lambda: self.below.free(to))
            raise
        return to

    def _copy(self, offset: int, to: int, length: int) -> None:
        with self.below.view(offset, length) as old, self.below.view(to, length) as new:
            new[:] = old

    def _capacity(self, offset: int) -> int | None:
        """Return what a block can hold; None: the call that follows says what is wrong with it."""
        try:
            return self.usable_size(offset)
        except Exception:
            return None


def _pattern(name: str, byte: int | None) -> bytes | None:
    if byte is None:
        return None
    try:
        return bytes([operator.index(byte)]) * _PATTERN_BYTES
    except (TypeError, ValueError):
        raise UsageError(
            f"Fill: {name}: a byte from 0 to 255 or None expected, {byte!r} found"
        ) from None


def _write(view: memoryview, pattern: bytes, start: int) -> None:
    """Fill a view from a byte on."""
    end = len(view)
    if end - start > len(pattern):
        whole = start + (end - start) // len(pattern) * len(pattern)
        for at in range(start, whole, len(pattern)):
            view[at : at + len(pattern)] = pattern
        start = whole
    if end > start:
        view[start:] = pattern[: end - start]
