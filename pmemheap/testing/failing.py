"""Failing: a program that runs again and again, each time with another allocation that fails.

    run 1      malloc ✗
    run 2      malloc    malloc ✗
    run 3      malloc    malloc    realloc ✗
    run 4      malloc    malloc    realloc    end: nothing failed, it was the last run

Each run has a heap of its own, which the caller looks at before the next one.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from pmemheap.errors import OutOfSpaceError
from pmemheap.heap.heap import Heap
from pmemheap.layers import Fail

__all__ = ["Outcome", "each_malloc_failing"]


@dataclass
class Outcome:
    """What became of a program one of whose allocations failed.

    Attributes
    ----------
    number : int
        Of the allocation that was to fail, from 1.
    call : str
        That allocation, such as ``"malloc(100)"``; empty in the last run, which made fewer.
    heap : Heap
        What the program has worked on. It is closed when the next outcome is asked for.
    result : object
        What the program returned; None if it raised, and when the next outcome is asked for.
    error : Exception or None
        What it raised; without the variables of the calls that it left, which may have views.
    """

    number: int
    call: str
    heap: Any
    result: Any = None
    error: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether an allocation failed in this run, whatever the program made of it."""
        return self.call != ""


def each_malloc_failing(
    program: Callable[[Any], object],
    make: Callable[[], Any] = Heap.anonymous,
    *,
    raises: type[Exception] | tuple[type[Exception], ...] = OutOfSpaceError,
    error: Callable[[str], BaseException] = OutOfSpaceError,
) -> Iterator[Outcome]:
    """Run a program with its first allocation failing, its second one, and so on.

    Parameters
    ----------
    program : callable
        Given a new heap, it does the same each time that it is called.
    make : callable
        Returns the heap for one run, or an arena, or any allocator; in memory if left out. A
        context manager is left after the run. To test files:
        ``lambda: Heap.create(path, replace=True)``.
    raises : exception type or tuple of exception type
        What the program may raise when an allocation fails.
    error : callable
        Makes the exception of an allocation that fails from a message.

    Yields
    ------
    Outcome
        Of each run, the heap still open and without failures: look at it, and go on. The last one
        is the run in which nothing failed.

    Raises
    ------
    Exception
        Whatever else the program raises, with a note of the allocation that had failed.

    Notes
    -----
    What fails is described at `pmemheap.layers.Fail`: calls of the heap that it was given. What it
    does in transactions, containers, regions and other arenas of the heap does not fail.

    Examples
    --------
    A function that leaves a block behind if its second allocation fails:

    >>> import pmemheap
    >>> def store(heap):
    ...     node = heap.malloc(64)
    ...     value = heap.malloc(5000)
    ...     return node, value
    >>> for outcome in each_malloc_failing(store):
    ...     left = len(list(outcome.heap.blocks()))
    ...     print(outcome.number, outcome.call or "nothing", "failed:", left, "blocks")
    1 malloc(64) failed: 0 blocks
    2 malloc(5000) failed: 1 blocks
    3 nothing failed: 2 blocks

    A test of one that does better:

    >>> def store(heap):
    ...     node = heap.malloc(64)
    ...     try:
    ...         value = heap.malloc(5000)
    ...     except pmemheap.OutOfSpaceError:
    ...         heap.free(node)
    ...         raise
    >>> for outcome in each_malloc_failing(store):
    ...     assert not outcome.failed or not list(outcome.heap.blocks())
    ...     assert outcome.heap.check()
    """
    for number in itertools.count(1):
        fail = Fail(nth=number, error=error)
        with _used(make()) as heap:
            outcome = Outcome(number, "", heap)
            try:
                _run(program, fail, outcome, raises)
                yield outcome
            finally:
                outcome.result = None
        if not outcome.failed:
            return


def _used(made: Any) -> AbstractContextManager[Any]:
    return made if hasattr(type(made), "__exit__") else nullcontext(made)


def _run(
    program: Callable[[Any], object],
    fail: Fail,
    outcome: Outcome,
    raises: type[Exception] | tuple[type[Exception], ...],
) -> None:
    """Run a program over a layer that fails, and note what became of it."""
    try:
        with _failing(outcome.heap, fail) as heap:
            outcome.result = program(heap)
    except raises as error:
        if not fail.failed:
            raise
        _forget_variables(error)
        outcome.error = error
    except BaseException as error:
        if fail.failed:
            error.add_note(f"after allocation {outcome.number}, {fail.last}, had failed")
        raise
    outcome.call = fail.last


@contextmanager
def _failing(made: Any, fail: Fail) -> Iterator[Any]:
    """Give a heap with the layer on it, or the layer over another allocator."""
    if not hasattr(made, "install"):
        fail.upstream = made
        yield fail
        return
    made.install(fail)
    try:
        yield made
    finally:
        if fail in made.layers:  # the program may have closed the heap
            made.uninstall(fail)


def _forget_variables(error: BaseException | None) -> None:
    """Drop the variables of the calls that an exception has left: views would keep the heap."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
