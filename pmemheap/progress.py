"""Progress: how far a long call has come, told to a function that its caller gives.

    progress(0, total) ... progress(done, total) ... progress(total, total)

What is counted, the call says. A call that goes over a heap several times tells each time from 0
on. In between it tells a hundred times at most, so that the function may take its time. Without a
function nothing is counted: a step costs one comparison.

The function is called in the middle of the call: it may not use the heap. An exception of it stops
the call, which says how it leaves the heap then, and leaves the call as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["Progress", "Steps", "told"]

Progress = Callable[[int, int], object]
"""Is called with how much is done, and with how much there is to do in all."""

_PARTS = 100


class Steps:
    """One time over a heap.

    Parameters
    ----------
    progress : Progress or None
        Who is told; None: nobody.
    total : int
        How much there is to do.

    Examples
    --------
    >>> steps = Steps(lambda done, total: print(done, "of", total), 1000)
    0 of 1000
    >>> for done in range(1, 1001):
    ...     if done < 25:
    ...         steps.reached(done)
    10 of 1000
    20 of 1000
    >>> steps.end()
    1000 of 1000
    """

    __slots__ = ("_next", "_part", "_progress", "_total")

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._part = max(-(-total // _PARTS), 1)
        self._next = sys.maxsize
        if progress is not None:
            progress(0, total)
            self._next = self._part

    def reached(self, done: int) -> None:
        """Tell how much is done, if it is a hundredth more than was told last."""
        if done >= self._next and self._progress is not None and done < self._total:
            self._next = done + self._part
            self._progress(done, self._total)

    def end(self) -> None:
        """Tell that all is done."""
        if self._progress is not None:
            self._progress(self._total, self._total)


class _StoppedError(BaseException):
    """Carries an exception of the caller's function past handlers that are for other ones."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class told:  # noqa: N801 -- used as a function, as those of contextlib are
    """Give what is to be called in the place of a function, whose exceptions then stay its own.

    An OSError of it, say, is no refusal of the system that would have to do with the heap.

    Examples
    --------
    >>> with told(lambda done, total: print(done, total)) as tell:
    ...     tell(1, 2)
    1 2
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def __enter__(self) -> Progress | None:
        """Return it; None in the place of None."""
        return None if self._progress is None else self._tell

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Raise what the function has raised."""
        if isinstance(error, _StoppedError):
            raise error.error from error.error.__cause__

    def _tell(self, done: int, total: int) -> None:
        assert self._progress is not None, "it was not given out"
        try:
            self._progress(done, total)
        except Exception as error:
            raise _StoppedError(error) from None
