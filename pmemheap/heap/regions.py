"""Regions: blocks that die together, and the memory in which a heap has them.

    heap.scratch() ──► Region ──► chunks of the scratch arena: private memory, of any heap
                                       first used ──► made; closed with its heap

A region hands blocks out by moving a mark up, and takes them all back by moving it down (Berger et
al. 2002). The arena is none of the file: no byte of it, and no record of the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pmemheap import native
from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.heap import insight, refusing, units
from pmemheap.heap.arenas import Arenas, free_number
from pmemheap.heap.arguments import alignment_argument, offset_argument, size_argument
from pmemheap.heap.blockspace import BlockSpace, new_face
from pmemheap.heap.place import place_of
from pmemheap.heap.roots import MemoryRoots
from pmemheap.heap.shared import Shared
from pmemheap.heap.space import Space, space_of
from pmemheap.native.constants import Refusal
from pmemheap.refusals import end_with
from pmemheap.space import region as regions
from pmemheap.space.anonymous import AnonymousMedium
from pmemheap.units import GRANULE, GiB

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap

__all__ = ["HasScratch", "Mark", "Region", "ScratchArena"]

_HEADROOM_MOST = 256 * GiB


# ---------------------------------------------------------------- the arena


class ScratchArena(BlockSpace):
    """The arena of all scratch regions of a heap, which has no name and no slot."""

    __slots__ = ()

    def end_watch(self) -> None:
        """Have the layers that watch it write what they have; no call comes in any more."""
        self._space.core.end_watch()

    def end(self) -> None:
        """Give its memory back: its heap was closed, and it with that."""
        self._space.shared.log.detach()
        self._space.region.close()
        self.let_go()

    def let_go(self) -> None:
        """Keep itself no longer: it goes with its heap, or with the last view, at once."""
        self._space.shared.leave()


def _scratch_arena(shared: Shared) -> ScratchArena:
    """Return the scratch arena of a heap, made if it is asked for the first time."""
    if shared.scratch is None or shared.scratch.closed:
        shared.scratch = _made(shared)
    return shared.scratch


def _made(shared: Shared) -> ScratchArena:
    number = free_number(shared.medium.arenas)
    medium = AnonymousMedium(shared.medium.limit if shared.file is None else None)
    wish = shared.default.region.headroom_wish
    region = regions.Region(
        medium, None if wish is None else min(wish, _HEADROOM_MOST), usual=_HEADROOM_MOST,
        beside=shared.regions,
    )  # fmt: skip
    region.ledger = shared.default.region.ledger
    try:
        region.grow(1, 1)
        name = f"scratch of {shared.name}"
        own = Shared(medium, MemoryRoots(), shared.identity, name, shared.decay)
        face = new_face(ScratchArena, own, region, name, 0, fresh=True, number=number)
        own.enter(space_of(face), Arenas(None, own), _is_in_no_file)
        shared.default.tell_of_scratch(space_of(face))
    except BaseException:
        region.close()
        raise
    return face


def _is_in_no_file(fd: int) -> Heap:
    raise AssertionError(f"a heap in a file expected behind descriptor {fd}, found scratch memory")


# ---------------------------------------------------------------- a region


class Mark(NamedTuple):
    """A point in the life of a region, to which `Region.rewind` goes back."""

    region: int
    made: int
    chunk: int
    fill: int


class Region(native.RegionCore):
    """Blocks that die together; made by ``heap.scratch()``. A context manager, which drops it.

    Many blocks and their end cost half of what they cost in the heap. Single blocks may
    be freed as well, by the region or the heap; their space is used again when all above them, or
    all of their chunk, is free. Offsets are the heap's: `Heap.view` and `Heap.free` take them. It
    has no roots, and nothing of it outlives the process. Of the layers of the heap those see its
    blocks that count, track and record, and none sees its calls.

    Examples
    --------
    >>> import pmemheap
    >>> heap = pmemheap.Heap.anonymous()
    >>> with heap.scratch() as scratch:
    ...     offsets = [scratch.malloc(100) for _ in range(1000)]
    ...     mark = scratch.mark()
    ...     more = scratch.malloc(50_000)
    ...     scratch.rewind(mark)                # `more` is gone
    ...     bytes(heap.view(offsets[-1], 0))
    b''
    >>> heap.close()                            # and so are the 1000, since the end of `with`
    """

    __slots__ = ("_heap", "_space")

    def __new__(cls, heap: HasScratch, face: BlockSpace) -> Self:
        """Make it in an arena of a heap, which it keeps."""
        return super().__new__(cls, face)

    def __init__(self, heap: HasScratch, face: BlockSpace) -> None:
        self._heap, self._space = heap, space_of(face)

    def _malloc_slow(self, size: Any, align: Any, refusal: int, nunits: int) -> Any:
        """Get what the core lacks for a block, as `Slow.malloc` does; or say what is wrong."""
        nbytes = size_argument(size)
        alignment = GRANULE if align is None else alignment_argument(align)
        self._require()
        if not refusal:
            return self.malloc(nbytes, alignment)
        space = self._space
        try:
            return space.serve(self._serve, space, nbytes, alignment, refusal, nunits)
        except OutOfSpaceError as error:
            raise insight.explained(space, error, nbytes, alignment) from error

    def _serve(self, space: Space, nbytes: int, alignment: int, refusal: int, nunits: int) -> Any:
        if refusal == Refusal.LARGE:
            return self._malloc_large(space, nbytes, alignment)
        space.raise_code(refusal)
        units.refill_units(space, nunits)
        return NotImplemented

    def _malloc_large(self, space: Space, nbytes: int, alignment: int) -> int:
        offset = units.malloc_extent(space, nbytes, alignment)
        if not self._take(offset):
            space.core.free(offset)
            self._require()
        return offset

    def _require(self) -> None:
        if self.dropped:
            raise UsageError(f"{self!r}: a region that was not dropped expected")
        self._space.require(write=True)

    # ------------------------------------------------------------ blocks

    def free(self, offset: int, deferred: bool = False) -> None:
        """Free one block before the others, as `Heap.free` does."""
        self._space.core.free(offset, deferred)

    def usable_size(self, offset: int) -> int:
        """Return the bytes that a block can hold."""
        return self._space.core.usable_size(offset)

    def view(self, offset: int, length: int | None = None) -> memoryview:
        """Return a view of a block, as `Heap.view` does: as long as it lives the region stays."""
        return self._space.core.view(offset, length)

    def realloc(self, offset: int, size: int) -> int:
        """Give a block another size, in place if it fits; else it is copied to the end.

        Returns
        -------
        int
            Its offset, a new one if it was copied.

        Raises
        ------
        UsageError, BufferError, OutOfSpaceError
            As `Heap.realloc`; the block is as it was.
        """
        place, nbytes = offset_argument(offset), size_argument(size)
        self._require()
        space, core = self._space, self._space.core
        have = core.usable_size(place)
        if self._stays(place, nbytes):
            return place
        if place_of(core, place).refusal in refusing.HELD:
            raise refusing.pinned(space, place, nbytes)
        to = self.malloc(nbytes)
        with core.view(to, have) as new, core.view(place, have) as old:
            new[:] = old
        core.free(place)
        core.tell_moved(place, to, nbytes)
        return to

    # ------------------------------------------------------------ going back

    def mark(self) -> Mark:
        """Return where the region is now, to go back to it. O(1)."""
        self._require()
        return Mark(id(self), *self._mark())

    def rewind(self, mark: Mark) -> None:
        """Free all that was allocated since a mark. O(chunks that go).

        Raises
        ------
        UsageError
            It is no mark of this region, or the region was rewound to before it since.
        BufferError
            Blocks that would go have live views. Nothing has changed.
        """
        self._require()
        if not isinstance(mark, Mark) or mark.region != id(self):
            raise UsageError(f"rewind: a mark of {self!r} expected, found {mark!r}")
        refused = self._rewind(mark.made, mark.chunk, mark.fill)
        if refused == Refusal.BAD_OFFSET:
            raise UsageError(
                "rewind: a mark of what is there still expected, found one that the region was "
                "rewound to before"
            )
        self._refuse("rewind", refused)

    def drop(self) -> None:
        """Free all blocks; the region is over. Once more does nothing.

        Raises
        ------
        BufferError
            Blocks have live views. Nothing has changed.
        """
        self._refuse("drop", self._drop())

    def _refuse(self, where: str, refused: int) -> None:
        if refused == 0:
            return
        if refused != Refusal.PINNED:
            self._space.raise_code(refused)
        raise BufferError(
            f"{where}: {self!r}: no live views of blocks that go expected, found some"
        )

    def __enter__(self) -> Self:
        """Return the region."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Drop it; an exception of the block is not replaced by one of ours."""
        end_with(error, self.drop)

    def __repr__(self) -> str:
        """Show where it is, and whether it was dropped."""
        return f"<Region in {self._space.name}{', dropped' if self.dropped else ''}>"


# ---------------------------------------------------------------- what a heap has of them


class HasScratch(BlockSpace):
    """The base of `Heap`: blocks, and regions beside them."""

    __slots__ = ()

    def scratch(self) -> Region:
        """Return a new region: blocks in private memory that die together, at the latest with it.

        Whatever heap this is: nothing of a region comes into its file, and no offset of one can be
        a root. It costs a microsecond, so there may be one for each request. All regions of a heap
        in memory that has a limit may take as much again.

        Raises
        ------
        UsageError
            The heap is closed or forked.
        OutOfSpaceError
            No address space for the first region of the heap.
        """
        space = self._space
        space.require()
        face = space.shared.scratch
        if face is None or face.closed:
            face = space.alone(lambda: _scratch_arena(space.shared))
        return Region(self, face)
