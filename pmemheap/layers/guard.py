"""Guard: one block in so many lies alone between fences, so that who leaves it is caught."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple, final

from pmemheap import native
from pmemheap.errors import UsageError
from pmemheap.layers.guarded import Guarded, damaged
from pmemheap.layers.passing import PACKAGE, Passing

__all__ = ["Guard", "GuardStats"]

_EVERY_MOST = 1 << 40
_LIMIT_MOST = 1 << 16


class GuardStats(NamedTuple):
    """Guarded blocks of an arena."""

    made: int
    """Ever, by whichever `Guard`."""
    live: int
    kept: int
    """Those that were freed, and whose space is kept from others still."""


@final
class Guard(Passing):
    """A sample of the blocks, each between two fences: an access outside of one ends the process.

    One block in `every`, at random, lies at the end of units of its own, and a page that nobody may
    reach lies on both sides. When it is freed all of it becomes such a page, and stays that for a
    while: the newest `limit` / 4 do. An access to these pages is a SIGSEGV. Before the handler gets
    it that was there, what happened is written to stderr: overrun, underrun or use after free, the
    block, the line that made it and the line that freed it. Bytes next to the block that no page
    keeps hold a canary, which is looked at when the block is freed.

    On a heap in private memory (`Heap.anonymous`), or one of its arenas that has no other strategy.
    No call goes through the layer; the C core does it. It owns no block: those of its time stay
    guarded, and may be freed, when it is taken off. Of several on one heap the top one counts.

    Parameters
    ----------
    every : int
        One block in so many is guarded, on average; 1: each one that can be.
    redzones : bool
        No fences: canaries before and behind the block, 64 bytes at least, which are looked at when
        it is freed. Nothing but exceptions comes of it.
    limit : int
        Guarded blocks at once, with those that were freed and are kept; at most 256 count where
        fences need maps (before Linux 6.13). While all of them live no other block is guarded.

    Raises
    ------
    UsageError
        `every` is no number from 1 on, `limit` none from 1 to 65536.

    Notes
    -----
    Guarded are blocks of `malloc` and of what calls it (`alloc`, `ndarray`), up to 120 KiB, at
    alignments up to a page. Those of `malloc_many` are not, unless the heap has to grow for one;
    those of regions, transactions, containers and ``numpy_allocator`` never are. One takes its size
    in units and two more, of addresses. Its usable size is what was asked for. A block that
    `realloc` makes larger is guarded no longer. GWP-ASan is its model.

    A `free`, `free_many` or `realloc` that would move finds the canary overwritten: then it raises
    `DamagedBlockError`, once; the block is as it was, and the next one goes. Where a block is freed
    with live views, or by a transaction, what is overwritten afterwards is not told.

    Examples
    --------
    >>> import pmemheap
    >>> with pmemheap.Heap.anonymous() as heap, heap.install(Guard(every=1)) as guard:
    ...     offset = heap.malloc(100)
    ...     heap.free(offset)
    ...     try:
    ...         heap.free(offset)
    ...     except pmemheap.UsageError as error:
    ...         print(error)                    # doctest: +ELLIPSIS
    free: ... found: the guarded block of 100 bytes there is free already, made at ..., freed at ...
    """

    def __init__(self, *, every: int = 5000, redzones: bool = False, limit: int = 256) -> None:
        super().__init__()
        self.every: int = _number("every", every, _EVERY_MOST)
        self.limit: int = _number("limit", limit, _LIMIT_MOST)
        self.redzones: bool = bool(redzones)
        self._core: native.HeapDoors | None = None

    def _begin(self, core: native.HeapDoors) -> None:
        """Guard blocks of an arena from now on."""
        core.set_guard(self.every, self.limit, not self.redzones, PACKAGE)
        self._core = core

    def _end(self) -> None:
        """Guard none any more."""
        if self._core is not None:
            self._core.set_guard(0, 0, False, PACKAGE)

    def check(self) -> GuardStats:
        """Look at the canaries of all guarded blocks that live; O(them).

        Returns
        -------
        GuardStats
            How many there are.

        Raises
        ------
        DamagedBlockError
            Bytes beside a block were overwritten; the block is as it was.
        UsageError
            The layer never was on a heap, or that is gone.
        """
        if self._core is None:
            raise UsageError("Guard: a layer that was put on a heap expected for check, found none")
        blocks = [Guarded(*row) for row in self._core.guarded()]
        for block in blocks:
            if block.damage is not None:
                raise damaged("check", block)
        live = sum(block.is_live for block in blocks)
        return GuardStats(self._core.count_guarded(), live, len(blocks) - live)

    def __repr__(self) -> str:
        """Show what it was made with."""
        return f"Guard(every={self.every}, redzones={self.redzones}, limit={self.limit})"


def _number(name: str, given: Any, most: int) -> int:
    try:
        number = operator.index(given)
    except TypeError:
        number = 0
    if not 1 <= number <= most:
        raise UsageError(f"Guard: {name}: a number from 1 to {most} expected, {given!r} found")
    return number
