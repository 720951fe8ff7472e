"""Fail: allocations that are refused as if there were no room.

malloc ──► number 1, 2, 3, ... ──► the n-th, or one of a share? ──► OutOfSpaceError
                                          │ no
                                          ▼
                                       upstream
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from typing import Any, final

from pmemheap.errors import OutOfSpaceError, UsageError
from pmemheap.layers.passing import Passing
from pmemheap.protocols import Allocator

__all__ = ["Fail"]


@final
class Fail(Passing):
    """Allocations that fail, so that a program can be tested for what it does then.

    An allocation is a call of `malloc` or `malloc_many`, or one of `realloc` or `expand` for more
    than the block can hold; on a heap no call of a region. They are numbered from 1, from when the
    layer was put on a heap. One that fails raises and has changed nothing; an `expand` answers
    False, as in a full heap.

    Parameters
    ----------
    upstream : Allocator, optional
        What it stands over; if left out, `Heap.install` sets it.
    nth : int, optional
        Number of the allocation that fails.
    share : float
        0 to 1: how many of the others fail, chosen at random.
    seed : int
        Of the choice: the same calls fail each time that the layer is put on a heap.
    error : callable
        Makes the exception from a message.

    Raises
    ------
    UsageError
        `nth` is no number from 1 on, `share` not between 0 and 1.

    See Also
    --------
    pmemheap.testing.each_malloc_failing : runs a program with each of its allocations failing.

    Examples
    --------
    >>> import pmemheap
    >>> with pmemheap.Heap.anonymous() as heap, heap.install(Fail(nth=2)) as fail:
    ...     offset = heap.malloc(100)
    ...     try:
    ...         heap.malloc(200)
    ...     except pmemheap.OutOfSpaceError as error:
    ...         print(error)
    ...     offset = heap.malloc(300)
    Fail: allocation 2, malloc(200): room expected, found none, for nth=2 was asked for
    >>> fail.calls, fail.failed, fail.last
    (3, 1, 'malloc(200)')
    """

    def __init__(
        self,
        upstream: Allocator | None = None,
        *,
        nth: int | None = None,
        share: float = 0.0,
        seed: int = 0,
        error: Callable[[str], BaseException] = OutOfSpaceError,
    ) -> None:
        super().__init__(upstream)
        self._nth, self._share = _number_argument(nth), _share_argument(share)
        self._seed, self._error = seed, error
        self._lock = threading.RLock()  # a finalizer may allocate in the middle
        self._begin()

    def _begin(self) -> None:
        from random import Random  # noqa: PLC0415 -- slow to import

        self._over, self._chance = self.upstream, Random(self._seed)
        self._calls = self._failed = 0
        self._last = ""

    # ------------------------------------------------------------ what it has seen

    @property
    def calls(self) -> int:
        """Allocations since it was put on a heap."""
        return self._told()._calls

    @property
    def failed(self) -> int:
        """Of these, those that failed."""
        return self._told()._failed

    @property
    def last(self) -> str:
        """The one that failed last, such as ``"malloc(100)"``; empty if none has."""
        return self._told()._last

    def _told(self) -> Fail:
        """Begin anew if it stands over something else than before."""
        with self._lock:
            if self._over is not self.upstream:
                self._begin()
        return self

    # ------------------------------------------------------------ calls

    def malloc(self, size: int, align: int = 16) -> int:
        """Allocate a block, or fail; return its offset."""
        self._pass("malloc", size)
        return super().malloc(size, align)

    def over_malloc_many(self, size: int, count: int) -> Any:
        """Allocate many blocks, or fail; return their offsets."""
        if count:
            self._pass("malloc_many", size, count)
        return self.below.malloc_many(size, count)

    def over_realloc(self, offset: int, size: int) -> int:
        """Give a block another size, or fail if it grows; return where it is then."""
        if self._grows(offset, size):
            self._pass("realloc", offset, size)
        return int(self.below.realloc(offset, size))

    def over_expand(self, offset: int, size: int) -> bool:
        """Let a block grow where it is, or not; tell whether it has."""
        if self._grows(offset, size) and self._fails("expand", offset, size):
            return False
        return bool(self.below.expand(offset, size))

    def _grows(self, offset: int, size: int) -> bool:
        """Tell whether a block would grow; what is wrong with the call the upstream says."""
        try:
            return size > self.usable_size(offset)
        except Exception:
            return False

    def _pass(self, *call: object) -> None:
        """Let an allocation pass, or raise."""
        message = self._fails(*call)
        if message:
            raise self._error(message)

    def _fails(self, name: object, *arguments: object) -> str:
        """Count an allocation; return why it fails, nothing if it does not."""
        with self._lock:
            self._told()._calls += 1
            is_chosen = self._share > 0 and self._chance.random() < self._share
            if self._calls != self._nth and not is_chosen:
                return ""
            self._failed += 1
            self._last = f"{name}({', '.join(map(repr, arguments))})"
            why = f"nth={self._nth}" if self._calls == self._nth else f"share={self._share}"
            return (
                f"Fail: allocation {self._calls}, {self._last}: room expected, found none, for "
                f"{why} was asked for"
            )


def _number_argument(nth: Any) -> int | None:
    if nth is None:
        return None
    try:
        number = operator.index(nth)
    except TypeError:
        number = 0
    if number < 1:
        raise UsageError(f"Fail: nth: a number from 1 on or None expected, {nth!r} found")
    return number


def _share_argument(share: Any) -> float:
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise UsageError(f"Fail: share: a number from 0 to 1 expected, {share!r} found")
    return float(share)
