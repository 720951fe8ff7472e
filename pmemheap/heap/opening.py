"""Opening: a heap file is opened as `dbm` does, by a flag."""

from __future__ import annotations

import os
from typing import Any

from pmemheap.errors import UsageError
from pmemheap.heap.arguments import AnyPath, path_argument
from pmemheap.heap.heap import Heap

__all__ = ["open_heap"]


def open_heap(path: AnyPath, flag: str = "r", **options: Any) -> Heap:
    """Open a heap file as `dbm` does.

    Parameters
    ----------
    path : path
        Of the file.
    flag : {"r", "w", "c", "n"}
        Open to read; open to write; the same, and create it if it is missing; create it anew.
    **options
        As `Heap.open`, and `Heap.create` for ``durability``.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with open_heap(os.path.join(directory, "data.heap"), "c") as heap:
    ...         heap.roots["first"] = heap.malloc(10)
    ...     with open_heap(os.path.join(directory, "data.heap")) as heap:
    ...         heap.usable_size(heap.roots["first"])
    16
    """
    if flag == "n":
        return Heap.create(path, replace=True, **options)
    if flag == "c" and not os.path.exists(path_argument(path)):
        return Heap.create(os.path.realpath(path) if os.path.islink(path) else path, **options)
    if flag in {"w", "c", "r"}:
        options.pop("durability", None)
        return Heap.open(path, readonly=flag == "r", **options)
    raise UsageError(f"flag: 'r', 'w', 'c' or 'n' expected, {flag!r} found")
