"""Rows: an arena, or a heap, whose blocks are all of one size, and one array.

    offset    base, base + size, base + 2 size, ...         index = (offset - base) / size

The table of allocation bits has a bit for each granule; those at which rows begin are the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pmemheap.errors import UsageError
from pmemheap.heap.arena import Arena
from pmemheap.heap.arguments import offset_argument, whole_number
from pmemheap.heap.blockspace import BlockSpace
from pmemheap.heap.extras import numpy
from pmemheap.heap.strategies import Rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["HasRows", "RowsArena"]


class HasRows(BlockSpace):
    """What there is besides where the blocks are the rows of one array: see `Rows`.

    `malloc` of at most a row gives the lowest free one; its bytes are what was there before. All
    other calls are there as well. `trim` gives back the rows at the end in which none is live, and
    in memory the pages of runs of such rows in between; nothing while an array of all `rows` lives.
    """

    __slots__ = ()

    @property
    def _rows(self) -> Rows:
        assert isinstance(self._space.strategy, Rows), "an arena of rows has that strategy"
        return self._space.strategy

    @property
    def rows(self) -> np.ndarray[Any, Any]:
        """All rows, live ones and others, as one array; with all that have come since when asked.

        O(1): nothing is copied. As long as it lives, the arena cannot be dropped, nor the heap be
        closed; rows come and go all the same, and those that were freed stay readable, as in an
        array with a mask: `live`.
        """
        self._space.require()
        view = self._table()  # private: only an arena of rows shows it
        return self._shown(b"" if view is None else view)

    def _shown(self, buffer: bytes | memoryview) -> np.ndarray[Any, Any]:
        """Return the rows of a buffer."""
        kind = self._rows.dtype
        flat: np.ndarray[Any, Any] = numpy().frombuffer(buffer, kind.base)
        return flat.reshape(-1, *kind.shape)

    @property
    def live(self) -> npt.NDArray[np.bool_]:
        """Which of `rows` are live: an array of bool as long, of this moment. O(rows)."""
        self._space.require()
        module = numpy()
        bits = module.frombuffer(self._table_bits(), module.uint8)  # private: as above
        starts: npt.NDArray[Any] = module.unpackbits(bits, bitorder="little")[
            :: self._rows.granules
        ]
        return starts.astype(bool)

    def row(self, index: int) -> np.ndarray[Any, Any]:
        """Return the live row of an index as an array, which pins it as a view does.

        Raises
        ------
        UsageError
            It is not live.
        """
        one: np.ndarray[Any, Any] = self._shown(self.view(self.offset(index)))[0, ...]
        return one

    def index(self, offset: int) -> int:
        """Return the index in `rows` of the live row at an offset.

        Raises
        ------
        UsageError
            No live row begins there.
        """
        place = offset_argument(offset)
        self.usable_size(place)
        first, _ = self._table_range()  # private: as above
        return (place - first) // self._rows.nbytes

    def offset(self, index: int) -> int:
        """Return the offset of the row of an index, live or not.

        Raises
        ------
        UsageError
            There is none of that index.
        """
        self._space.require()
        first, count = self._table_range()  # private: as above
        if not count:
            raise UsageError(f"{self._space.name}: a row expected, found none")
        return first + whole_number("row: index", index, 0, count - 1) * self._rows.nbytes

    def __repr__(self) -> str:
        """Show its strategy as well."""
        return f"{super().__repr__()[:-1]}, {self._rows}>"


class RowsArena(HasRows, Arena):
    """An arena of rows; made by ``heap.arena(name, strategy=Rows(...))``."""

    __slots__ = ()
