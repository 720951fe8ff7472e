"""Opening: a heap file is opened as `dbm` does, by a flag."""

from __future__ import annotations

import os
from typing import Final, TypedDict, get_args

from pmemheap.errors import UsageError
from pmemheap.heap.arguments import AnyPath, DurabilityName, OpenFlag, path_argument
from pmemheap.heap.heap import DECAY_SECONDS, Heap
from pmemheap.heap.strategies import Strategy
from pmemheap.protocols import Space
from pmemheap.space.budget import Budget

__all__ = ["open"]

_FLAGS: Final = get_args(OpenFlag)


class _Options(TypedDict):
    """What a file is created and opened with alike."""

    limit: int | None
    headroom: int | None
    decay: float | None
    extents: Space | None
    budget: Budget | None
    strategy: Strategy | None
    readers: bool


def open(  # noqa: A001, PLR0913 -- as dbm.open; options of a file, all by name
    path: AnyPath,
    flag: OpenFlag = "r",
    *,
    durability: DurabilityName | None = None,
    limit: int | None = None,
    headroom: int | None = None,
    decay: float | None = DECAY_SECONDS,
    extents: Space | None = None,
    budget: Budget | None = None,
    strategy: Strategy | None = None,
    readers: bool = False,
) -> Heap:
    """Open a heap file as `dbm` does.

    Parameters
    ----------
    path : path
        Of the file.
    flag : {"r", "w", "c", "n"}
        Open to read; open to write; the same, and create it if it is missing; create it anew.
    durability : {"power", "process"}, optional
        As `Heap.create`; a file that is there keeps its own.
    limit, headroom, decay, extents, budget, strategy, readers
        As `Heap.open`, and `Heap.create` if it is created.

    Returns
    -------
    Heap
        Open; a context manager that closes it.

    Raises
    ------
    UsageError
        The flag is none of these, or an option is out of range.
    HeapFileError, CorruptHeapError, OutOfSpaceError
        As `Heap.open` and `Heap.create`.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with open(os.path.join(directory, "data.heap"), "c") as heap:
    ...         heap.roots["first"] = heap.malloc(10)
    ...     with open(os.path.join(directory, "data.heap")) as heap:
    ...         heap.usable_size(heap.roots["first"])
    16
    """
    if flag not in _FLAGS:
        raise UsageError(f"flag: 'r', 'w', 'c' or 'n' expected, {flag!r} found")
    options: _Options = {
        "limit": limit, "headroom": headroom, "decay": decay, "extents": extents,
        "budget": budget, "strategy": strategy, "readers": readers,
    }  # fmt: skip
    if flag == "n":
        return Heap.create(path, durability=durability, replace=True, **options)
    if flag == "c":
        path = path_argument(path)
        if not os.path.exists(path):
            place = os.path.realpath(path) if os.path.islink(path) else path
            return Heap.create(place, durability=durability, **options)
    return Heap.open(path, readonly=flag == "r", **options)
