"""Track: which lines of a program have made the blocks that live.

    a block is made, freed, resized (by whomever) ──► the core ──► offset: line, bytes asked for
                                                                     │
    live(), report() ◄───────────────────────────────────────────────┤──► the file
                                                                     └──► tracemalloc, if it runs

Over another allocator than a heap the layer sees to the calls itself. A block is forgotten there
before it is freed, for another thread may have its place as soon as it is.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, final

from pmemheap import native
from pmemheap.errors import UsageError
from pmemheap.layers.passing import PACKAGE, Told, heap_under, numbers_below
from pmemheap.layers.sites import Site, SiteFile
from pmemheap.native.constants import Refusal, TrackFormat
from pmemheap.protocols import Allocator

__all__ = ["SiteBlocks", "Track"]

_TRACKED = struct.Struct("<QQI?xxx")  # struct ph_tracked
_LAST = (1 << 64) - 1


class SiteBlocks(NamedTuple):
    """What lives of the blocks that one line has made.

    Attributes
    ----------
    site : str
        ``"file:line"``.
    blocks : int
        How many.
    bytes : int
        What was asked for, of all of them.
    """

    site: str
    blocks: int
    bytes: int


class _Block(NamedTuple):
    offset: int
    size: int
    site: Site
    is_found: bool


@final
class Track(native.TrackCore, Told):
    """Live blocks by the line that made them: the innermost caller outside of this package.

    On a heap it knows all blocks that were made since it was put on, in all arenas and scratch
    regions, whether by calls, transactions or containers; the C core tells it, and no call goes
    through the layer. Others are freed as ever. A block that `realloc` gave another size was made
    there.

    Parameters
    ----------
    upstream : Allocator, optional
        What it stands over; if left out, `Heap.install` sets it.
    sites : path, optional
        A file that says the same, for ``pmemheap leaks`` and for later runs: a block that an
        earlier one has left is known as well. It belongs to one heap, and says nothing of its
        scratch regions, which no run leaves.

    Attributes
    ----------
    domain : int
        Where the blocks of heaps stand in `tracemalloc`, while that runs.
    forgotten : int
        Blocks that are not known because there was no memory for it.

    Raises
    ------
    HeapFileError
        There cannot be such a file.
    UsageError
        The file is there, and is another one.

    Notes
    -----
    A pair of `malloc` and `free` takes 33 ns more, 0.2 us while tracemalloc runs, 1.7 us with a
    file. 24 bytes a block, in a table that is at most half full.

    A block of a transaction was made where that was committed, and up to 16 KiB it is not known
    what was asked for: it has the size that it can hold.

    Examples
    --------
    >>> import pmemheap
    >>> with pmemheap.Heap.anonymous() as heap, heap.install(Track()) as track:
    ...     offsets = [heap.malloc(100) for _ in range(10)]
    ...     heap.free(offsets.pop())
    >>> [(row.blocks, row.bytes) for row in track.report()]
    [(9, 900)]
    >>> track.live().keys() == set(offsets)
    True
    """

    domain: int = TrackFormat.DOMAIN

    def __init__(
        self,
        upstream: Allocator | None = None,
        *,
        sites: str | os.PathLike[str] | None = None,
    ) -> None:
        self._file = None if sites is None else SiteFile(sites)
        self._names: list[tuple[str, int]] = []
        self._is_writing = False
        self._begin(PACKAGE, self._names)
        Told.__init__(self, upstream)

    @property
    def upstream(self) -> Allocator | None:
        """What it stands over. With another one it begins anew, or its file goes on."""
        return self.__dict__.get("upstream")

    @upstream.setter
    def upstream(self, upstream: Allocator | None) -> None:
        self.__dict__["upstream"] = upstream
        if self._file is None:
            self._clear()
        elif upstream is not None and not self._is_writing:
            self._is_writing = True
            self._go_on(self._file)

    def _go_on(self, file: SiteFile) -> None:
        """Know what the file of the heap says, and write what comes."""
        sites = dict.fromkeys(site for site, _ in file.found.values())
        numbers = {site: number for number, site in enumerate(sites, 1)}
        self._names.extend(numbers)
        for offset, (site, size) in file.found.items():
            self._put_found(offset, size, numbers[site])
        descriptor = file.begin(numbers)
        file.found = {}
        if descriptor is not None:
            self._write_to(*descriptor)

    # ------------------------------------------------------------ what it knows

    @property
    def error(self) -> OSError | None:
        """What ended the writing of the file, say a full disk; the program goes on."""
        if self._file is None or not self._error:
            return None if self._file is None else self._file.error
        return OSError(-self._error, os.strerror(-self._error), self._file.path)

    def live(self) -> dict[int, str]:
        """Return the site of each block that lives, by offset.

        When the layer was taken off, or its heap closed, it is what it was then. Of blocks that
        an earlier run has left, those are left out that do not live any more, as long as the heap
        can be asked. Over another allocator what it is not told is freed stays, unless a heap lies
        below that can be asked.
        """
        return {block.offset: str(block.site) for block in self._known_live()}

    def report(self) -> list[SiteBlocks]:
        """Return what lives by site, the most bytes first."""
        sums: defaultdict[Site, list[int]] = defaultdict(lambda: [0, 0])
        for block in self._known_live():
            row = sums[block.site]
            row[0] += 1
            row[1] += block.size
        rows = [SiteBlocks(str(site), *row) for site, row in sums.items()]
        return sorted(rows, key=lambda row: (-row.bytes, -row.blocks, row.site))

    def _known_live(self) -> list[_Block]:
        data = self._blocks()
        names = [Site(*name) for name in self._names]
        known = [
            _Block(key - 1, size, names[site - 1], is_found)
            for key, size, site, is_found in _TRACKED.iter_unpack(data)
        ]
        return [block for block in known if not self._has_gone(block)]

    def _has_gone(self, block: _Block) -> bool:
        """Tell whether a block is gone and nobody has said so; one that was found is let go."""
        if self._is_told and not block.is_found:
            return False
        has_gone = not self._may_live(block.offset)
        if has_gone and block.is_found:
            self._forget_found(block.offset)
        return has_gone

    def _may_live(self, offset: int) -> bool:
        """Tell whether a block is there still, as far as the heap can be asked."""
        heap = heap_under(self)
        if heap is None or (isinstance(heap, native.Upstream) and not heap.is_installed):
            return True
        try:
            heap.usable_size(offset)
        except UsageError:
            return not _is_gone(heap, offset)
        return True

    # ------------------------------------------------------------ calls, over no heap

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block, and remember who did; return its offset."""
        offset = super().malloc(size, align)
        if not self._is_told:
            self._add_made(offset, size)
        return offset

    def free(self, offset: int, deferred: bool = False) -> None:
        """Free a block and forget it."""
        if self._is_told:
            super().free(offset, deferred)
        else:
            self._freeing([offset], lambda: Told.free(self, offset, deferred))

    def over_malloc_many(self, size: int, count: int) -> Any:
        """Allocate many blocks, and remember who did; return their offsets."""
        offsets = self.below.malloc_many(size, count)
        for offset in offsets:
            self._add_made(offset, size)
        return offsets

    def over_free_many(self, offsets: Iterable[int]) -> None:
        """Free many blocks and forget them."""
        each = list(offsets)
        self._freeing(each, lambda: self.below.free_many(each))

    def over_realloc(self, offset: int, size: int) -> int:
        """Give a block another size, and remember who did; return where it is then."""
        to = int(self._freeing([offset], lambda: self.below.realloc(offset, size)))
        self._add_made(to, size)
        return to

    def over_expand(self, offset: int, size: int) -> bool:
        """Let a block grow where it is; tell whether it has."""
        done = bool(self.below.expand(offset, size))
        if done:
            self._add_expanded(offset, size)
        return done

    def _freeing(self, each: list[int], call: Callable[[], Any]) -> Any:
        """Make a call that frees blocks, which are forgotten; known again if it is refused."""
        offsets = numbers_below(_LAST, each)
        made = [(offset, self._known(offset)) for offset in dict.fromkeys(offsets)]
        for offset in offsets:
            self._add_freed(offset)
        try:
            return call()
        except BaseException:
            for offset, known in made:
                self._remember(offset, known)
            raise

    def _remember(self, offset: int, known: tuple[int, int] | None) -> None:
        """Know a block again that was not freed after all; its place may be another one's."""
        if known is not None and self._may_live(offset) and self._known(offset) is None:
            self._add_again(offset, *known)


def _is_gone(heap: native.Upstream | native.HeapCore, offset: int) -> bool:
    """Tell whether an open heap has no block at an offset; of a closed one nothing is known."""
    try:
        code = heap._free_refusal(offset)  # private: a question that users have not
    except UsageError:
        return False
    return code == Refusal.BAD_OFFSET
