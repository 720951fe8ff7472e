"""Parts: what a heap has of named arenas."""

from __future__ import annotations

from typing import overload

from pmemheap.heap.arena import Arena
from pmemheap.heap.arenas import arena_name_argument, index_of, live_names
from pmemheap.heap.arguments import headroom_argument
from pmemheap.heap.keptregions import HasRegions
from pmemheap.heap.ring import RingArena
from pmemheap.heap.rows import RowsArena
from pmemheap.heap.strategies import Ring, Rows, Strategy, strategy_argument

__all__ = ["HasArenas"]


class HasArenas(HasRegions):
    """The base of `Heap`: blocks, regions beside them, and named arenas."""

    __slots__ = ()

    @overload
    def arena(
        self, name: str, create: bool = True, *, headroom: int | None = None, strategy: Ring
    ) -> RingArena: ...

    @overload
    def arena(
        self, name: str, create: bool = True, *, headroom: int | None = None, strategy: Rows
    ) -> RowsArena: ...

    @overload
    def arena(
        self,
        name: str,
        create: bool = True,
        *,
        headroom: int | None = None,
        strategy: Strategy | None = None,
    ) -> Arena: ...

    def arena(
        self,
        name: str,
        create: bool = True,
        *,
        headroom: int | None = None,
        strategy: Strategy | None = None,
    ) -> Arena:
        """Return a named arena of the heap, a new one if there is none of that name.

        Parameters
        ----------
        name : str
            1 to 31 bytes of UTF-8.
        create : bool
            Make it if need be.
        headroom : int, optional
            Bytes of address space to keep free for its growth, if it is not open yet. By default
            that of the heap, at most 256 GiB.
        strategy : Strategy, optional
            Where its blocks come from: `General`, `Ring`, `Rows` or `Placed`, the last one in
            private memory alone. One that is there has a strategy already: by default any will do.

        Raises
        ------
        KeyError
            There is none, and `create` is false.
        UsageError
            The name does not fit; one is to be made in a heap that is read-only; it has another
            strategy.
        OutOfSpaceError
            There are 255 already, or no space for the first MiB of one more.
        """
        arena_name_argument(name)
        headroom = headroom_argument(headroom)
        space, shared = self._space, self._space.shared
        wish = strategy_argument(strategy, in_file=shared.file is not None)
        space.require()
        if index_of(shared.medium.arenas, name) is None:
            if not create:
                raise KeyError(name)
            space.require(write=True)
        return space.look(shared.arenas.named, name, headroom, wish)

    def arenas(self) -> list[str]:
        """Return the names of the arenas, sorted."""
        space = self._space
        space.core.upkeep_if_due()
        space.require()
        return sorted(live_names(space.shared.medium.arenas))
