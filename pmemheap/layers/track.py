"""Track: which lines of a program have made the blocks that live.

    malloc ──► upstream ──► offset ──► offset: the line that called, and how much it asked for
    free ──► forgotten ──► upstream ──► refused: known again

A block is forgotten before it is freed, for another thread may have its place as soon as it is.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from sys import _getframe as frame_at
from typing import Any, NamedTuple, final

from pmemheap import native
from pmemheap.errors import UsageError
from pmemheap.layers.passing import Passing, heap_under
from pmemheap.layers.sites import Made, Site, SiteFile
from pmemheap.native.constants import Refusal
from pmemheap.protocols import Allocator

__all__ = ["SiteBlocks", "Track"]

_OURS = str(Path(__file__).parents[1]) + os.sep


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


@final
class Track(Passing):
    """Live blocks by the line that made them: the innermost caller outside of this package.

    It knows the blocks that were made through it since it was put on; others are freed as ever. A
    block that `realloc` gave another size was made there.

    Parameters
    ----------
    upstream : Allocator, optional
        What it stands over; if left out, `Heap.install` sets it.
    sites : path, optional
        A file that says the same, for ``pmemheap leaks`` and for later runs: a block that an
        earlier one has left is known as well. It belongs to one heap.

    Raises
    ------
    HeapFileError
        There cannot be such a file.
    UsageError
        The file is there, and is another one.

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

    def __init__(
        self,
        upstream: Allocator | None = None,
        *,
        sites: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(upstream)
        self._file = None if sites is None else SiteFile(sites)
        self._live: dict[int, Made] = {}
        self._sites: dict[tuple[str, int], Site] = {}
        self._over: Any = None
        self._lock = threading.RLock()  # a finalizer may free in the middle
        self._is_beginning = False

    def _begin(self) -> dict[int, Made]:
        """Begin anew over what it stands over now."""
        with self._lock:
            if self._over is not self.upstream and not self._is_beginning:
                self._is_beginning = True
                try:
                    self._live = self._first_live()
                    self._over = self.upstream
                finally:
                    self._is_beginning = False
        return self._live

    def _first_live(self) -> dict[int, Made]:
        """Return what is known when it is put on: nothing, or what the file of the heap says."""
        if self._file is None:
            return {}
        return self._file.begin() if self._over is None else self._live

    # ------------------------------------------------------------ what it knows

    @property
    def error(self) -> OSError | None:
        """What ended the writing of the file, say a full disk; the program goes on."""
        return None if self._file is None else self._file.error

    def live(self) -> dict[int, str]:
        """Return the site of each block that lives, by offset.

        While the layer is on a heap, blocks are left out that went without it, in a transaction
        for example. Afterwards it is what it was when the layer was taken off.
        """
        return {offset: str(site) for offset, (site, _) in self._known()}

    def report(self) -> list[SiteBlocks]:
        """Return what lives by site, the most bytes first."""
        sums: defaultdict[Site, list[int]] = defaultdict(lambda: [0, 0])
        for _, (site, size) in self._known():
            row = sums[site]
            row[0] += 1
            row[1] += size
        rows = [SiteBlocks(str(site), *row) for site, row in sums.items()]
        return sorted(rows, key=lambda row: (-row.bytes, -row.blocks, row.site))

    def _known(self) -> list[tuple[int, Made]]:
        live = self._begin().copy()
        return [(offset, made) for offset, made in live.items() if self._may_live(offset)]

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

    # ------------------------------------------------------------ calls

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block, and remember who did."""
        offset: int = self.below.malloc(size, align)
        self._note(offset, (self._caller(), size))
        return offset

    def free(self, offset: int, deferred: bool = False) -> None:
        """Free a block and forget it."""
        self._freeing([offset], lambda: Passing.free(self, offset, deferred))

    def over_malloc_many(self, size: int, count: int) -> Any:
        """Allocate many blocks, and remember who did."""
        offsets = self.below.malloc_many(size, count)
        made = (self._caller(), size)
        for offset in offsets:
            self._note(offset, made)
        return offsets

    def over_free_many(self, offsets: Iterable[int]) -> None:
        """Free many blocks and forget them."""
        each = list(offsets)
        self._freeing(each, lambda: self.below.free_many(each))

    def over_realloc(self, offset: int, size: int) -> int:
        """Give a block another size, and remember who did."""
        to = int(self._freeing([offset], lambda: self.below.realloc(offset, size)))
        self._note(to, (self._caller(), size))
        return to

    def _freeing(self, offsets: list[int], call: Callable[[], Any]) -> Any:
        """Make a call that frees blocks, which are forgotten; known again if it is refused."""
        made = [(offset, self._forget(offset)) for offset in offsets]
        try:
            return call()
        except BaseException:
            for one in made:
                self._remember(*one)
            raise

    def over_expand(self, offset: int, size: int) -> bool:
        """Let a block grow where it is."""
        done = bool(self.below.expand(offset, size))
        made = self._begin().get(offset)
        if done and made is not None and size > made[1]:
            self._note(offset, (made[0], size))
        return done

    # ------------------------------------------------------------ notes

    def _caller(self) -> Site:
        """Return the line outside of this package from which a call came."""
        frame = frame_at(2)
        while frame.f_code.co_filename.startswith(_OURS) and frame.f_back is not None:
            frame = frame.f_back
        place = frame.f_code.co_filename, frame.f_lineno
        site = self._sites.get(place)
        return self._sites.setdefault(place, Site(*place)) if site is None else site

    def _note(self, offset: int, made: Made) -> None:
        live = self._live if self._over is self.upstream else self._begin()
        live[offset] = made
        if self._file is not None:
            self._file.note_made(offset, made)

    def _forget(self, offset: int) -> Made | None:
        live = self._live if self._over is self.upstream else self._begin()
        made = live.pop(offset, None)
        if made is not None and self._file is not None:
            self._file.note_freed(offset)
        return made

    def _remember(self, offset: int, made: Made | None) -> None:
        """Know a block again that was not freed after all; its place may be another one's."""
        if made is None:
            return
        place = int(offset)  # what a dictionary takes for the same number may be no offset
        if self._may_live(place) and place not in self._live:
            self._note(place, made)


def _is_gone(heap: native.Upstream | native.HeapCore, offset: int) -> bool:
    """Tell whether an open heap has no block at an offset; of a closed one nothing is known."""
    try:
        code = heap._free_refusal(offset)  # private: a question that users have not
    except UsageError:
        return False
    return code == Refusal.BAD_OFFSET
