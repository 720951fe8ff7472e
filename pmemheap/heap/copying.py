"""Copying: a heap file is copied while it is open, at a moment of which all is in the copy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pmemheap.errors import UsageError
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.snapshotting import copy_heap_file
from pmemheap.heap.gate import named
from pmemheap.heap.space import Space
from pmemheap.heap.waiting import transactions_ended
from pmemheap.native.constants import State
from pmemheap.refusals import refusals

__all__ = ["copy"]


def copy(
    space: Space, path: Path, options: dict[str, Any], recover: Callable[[Path], None]
) -> None:
    """Copy a heap file; `options` are of `copy_heap_file`, exceptions as of `Heap.snapshot`.

    Parameters
    ----------
    recover : callable
        Stores what the log of a file says in its place.
    """
    shared = space.shared
    space.require(write=not shared.readonly)
    file = shared.file
    if file is None or file.beside:
        raise UsageError(f"{space.name}: a heap in a file, or its writer, expected")
    with refusals(f"snapshot {str(path)!r}", str(path)):
        if shared.readonly:
            _copy_of_reader(space, file, path, options, recover)
        else:
            _copy_of_writer(space, file, path, options)


def _copy_of_writer(space: Space, file: FileMedium, path: Path, options: dict[str, Any]) -> None:
    """Copy a heap that may be changed, once the transactions of other threads have ended."""
    with transactions_ended(space):
        space.look(_copy_locked, space, file, path, options)


def _copy_locked(space: Space, file: FileMedium, path: Path, options: dict[str, Any]) -> None:
    shared = space.shared
    if threads := shared.log.begun():
        raise UsageError(
            f"{space.name}: no open transaction expected at a snapshot, {len(threads)} "
            f"found, of {named(threads)}"
        )
    redo = shared.redo
    assert redo is not None, "a heap in a file that may be changed has a log"
    redo.append(b"", 0, file.file_end)
    with redo.frozen():
        if not file.is_power:  # bare calls pass no log: they ask for use, and wait
            shared.set_states(State.CLEAN)
        redo.checkpoint()
        copy_heap_file(
            file.fd, path, file.header.superblock, file.segments.values(), file.file_end,
            require_ours=file.require_ours, **options,
        )  # fmt: skip


def _copy_of_reader(
    space: Space,
    file: FileMedium,
    path: Path,
    options: dict[str, Any],
    recover: Callable[[Path], None],
) -> None:
    """Copy a heap that is only read; what its log says is stored in the copy."""
    fd = space.look(lambda: os.dup(file.fd))  # others may close the heap meanwhile
    try:
        copy_heap_file(
            fd, path, file.header.superblock, file.segments.values(), file.file_end,
            require_ours=file.require_ours, recover=None if file.is_clean else recover,
            **options,
        )  # fmt: skip
    finally:
        os.close(fd)
