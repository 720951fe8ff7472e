"""Shadow: what the same calls would hold in another allocator, whose blocks nobody touches.

    program ──► malloc ──► upstream: its block
                  └──────► the other one: its twin, never written

An allocator that keeps its books beside the data takes no memory for blocks that nobody writes: a
shadow costs its tables, and address space.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, final

from pmemheap.errors import PmemHeapError
from pmemheap.layers.passing import Passing

if TYPE_CHECKING:
    from pmemheap.protocols import Allocator

__all__ = ["Sample", "Shadow"]

_SAMPLES_MOST = 256

Twin = tuple[int, int]  # offset in the other allocator, bytes asked for


class Sample(NamedTuple):
    """What an allocator holds at a moment.

    Attributes
    ----------
    event : int
        How many calls had been made.
    live : int
        Bytes that live blocks were asked for with.
    held : int
        Bytes of the units that hold them.
    """

    event: int
    live: int
    held: int

    @property
    def fragmentation(self) -> float:
        """The share of what is held that nobody has asked for."""
        return 1 - self.live / self.held if self.held else 0.0


@final
class Shadow(Passing):
    """A layer that makes the calls of its upstream in another allocator as well; by `Heap.shadow`.

    Parameters
    ----------
    other : Allocator
        Where the twins are made. Nobody writes to them; but a resize that moves one copies it.
    held : callable
        Returns the bytes that it holds.
    upstream : Allocator, optional
        What it stands over; if left out, `Heap.install` sets it.

    Attributes
    ----------
    live : int
        Bytes of the twins that live. Blocks of before have none.
    events : int
        Calls so far.
    samples : list of Sample
        Evenly spread, 256 at most, and one of the end.
    error : PmemHeapError or None
        Why nothing is followed any more: no address space for the twins, say. The program goes on.
    """

    live: int
    events: int

    def __init__(
        self, other: Allocator, held: Callable[[], int], upstream: Allocator | None = None
    ) -> None:
        super().__init__(upstream)
        self._other: Any = other
        self._held = held
        self._twins: dict[int, Twin] = {}
        self._stride, self._follows = 1, True
        self.live = self.events = 0
        self.samples: list[Sample] = []
        self.error: PmemHeapError | None = None

    @property
    def peak(self) -> Sample | None:
        """The sample at which most was held; None before the first."""
        return max(self.samples, key=lambda each: (each.held, each.live), default=None)

    def sample(self) -> Sample:
        """Return what the other one holds now."""
        return Sample(self.events, self.live, self._held())

    def close(self) -> None:
        """Take a last sample, and follow nothing any more."""
        if not self._follows:
            return
        try:
            self.samples.append(self.sample())
        except PmemHeapError as error:  # in a child of a fork, say
            self.error = error
        self._stop()

    # ------------------------------------------------------------ the calls

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block and its twin; return the offset of the block."""
        offset = super().malloc(size, align)
        self._follow(self._make, offset, size, align)
        return offset

    def free(self, offset: int, deferred: bool = False) -> None:
        """Free a block and its twin."""
        self._freeing([offset], lambda: Passing.free(self, offset, deferred))

    def over_malloc_many(self, size: int, count: int) -> Any:
        """Allocate many blocks and their twins; return the offsets of the blocks."""
        offsets = self.below.malloc_many(size, count)
        for offset in offsets:
            self._follow(self._make, int(offset), size, 16)
        return offsets

    def over_free_many(self, offsets: Iterable[int]) -> None:
        """Free many blocks and their twins."""
        each = list(offsets)
        self._freeing(each, lambda: self.below.free_many(each))

    def over_realloc(self, offset: int, size: int) -> int:
        """Give a block and its twin another size; return where the block is then."""
        twins = self._taken([offset])
        try:
            to: int = self.below.realloc(offset, size)
        except BaseException:
            self._twins.update(twins)
            raise
        for twin in twins.values():
            self._follow(self._resize, to, twin, size)
        return to

    def over_expand(self, offset: int, size: int) -> bool:
        """Tell whether a block grew where it is; its twin grows as it can."""
        done: bool = self.below.expand(offset, size)
        for twin in self._taken([offset]).values() if done else ():
            self._follow(self._resize, offset, twin, size)
        return done

    # ------------------------------------------------------------ the twins

    def _make(self, offset: int, size: int, align: int) -> None:
        for twin in self._taken([offset]).values():  # whose block was freed unseen
            self._end(twin)
        self._twins[offset] = self._other.malloc(size, align), size
        self.live += size

    def _resize(self, offset: int, twin: Twin, size: int) -> None:
        self._twins[offset] = self._other.realloc(twin[0], size), size
        self.live += size - twin[1]

    def _end(self, twin: Twin) -> None:
        self._other.free(twin[0])
        self.live -= twin[1]

    def _freeing(self, offsets: list[int], call: Callable[[], Any]) -> None:
        """Make a call that frees; take the twins before it, as others may have the offsets then."""
        twins = self._taken(offsets)
        try:
            call()
        except BaseException:
            self._twins.update(twins)
            raise
        for twin in twins.values():
            self._follow(self._end, twin)

    def _taken(self, offsets: Iterable[int]) -> dict[int, Twin]:
        """Take the twins of blocks out, of those that have any."""
        taken = {}
        for offset in offsets:
            twin = self._twins.pop(offset, None) if isinstance(offset, Hashable) else None
            if twin is not None:  # of an offset that stands there twice, the first time
                taken[offset] = twin
        return taken

    def _follow(self, act: Callable[..., None], *arguments: Any) -> None:
        """Make one call in the other allocator, unless one was refused before."""
        if not self._follows:
            return
        try:
            act(*arguments)
            self._called()
        except PmemHeapError as error:
            self.error = error
            self._stop()

    def _stop(self) -> None:
        self._follows = False
        self._twins.clear()

    def _called(self) -> None:
        self.events += 1
        if self.events % self._stride == 0:
            self.samples.append(self.sample())
            if len(self.samples) > _SAMPLES_MOST:
                self._stride *= 2
                self.samples = [each for each in self.samples if each.event % self._stride == 0]
