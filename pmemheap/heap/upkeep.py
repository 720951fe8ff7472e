"""Upkeep: what calls do now and then beside their own work. The log, merging, give-back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress

from pmemheap.errors import HeapFileError, OutOfSpaceError, PmemHeapError, UsageError
from pmemheap.file.redo import RedoLog
from pmemheap.heap.lock import is_changing
from pmemheap.heap.shared import Shared
from pmemheap.heap.space import Space
from pmemheap.native.constants import State

__all__ = ["make_log_ready", "make_log_room", "run"]

DECAY_SHARE = 1 / 8
_GIVING_BACK = {State.OPEN, State.CLEAN, State.UNATTACHED}


# ---------------------------------------------------------------- the log


def make_log_ready(space: Space) -> None:
    """Make room in the log; C asks for it when a bare call has found none, or half of it used.

    What a finalizer has changed in the middle of another change waits for the next record.
    """
    redo = space.shared.redo
    if redo is None:
        return
    if space.shared.lock.is_mine:
        if not redo.is_busy:
            _checkpoint_and_append(redo, space.shared)
    elif not is_changing():
        with suppress(MemoryError):  # the next change repairs what is left half done
            _serve_if_open(space, lambda: _checkpoint_and_append(redo, space.shared))


def _serve_if_open(space: Space, work: Callable[[], None]) -> None:
    """Run a change that nobody has asked for, unless another thread has closed the heap."""
    try:
        space.serve(work)
    except UsageError:
        if not space.closed:
            raise


def _checkpoint_and_append(redo: RedoLog, shared: Shared) -> None:
    """Checkpoint, and append what is noted; both can wait while an open undo holds the tail.

    What has called for it, a commit as a rule, is done: it must not be reported as refused.
    """
    assert shared.file is not None
    try:
        with suppress(OutOfSpaceError, HeapFileError):
            redo.checkpoint_if_due()
            redo.append(b"", 0, shared.file.file_end)
    except PmemHeapError:
        raise
    except BaseException:  # a finalizer, which has called for it, may put the interrupt out
        shared.medium.in_doubt = True
        raise


def make_log_room(space: Space, code: int, nbytes: int) -> None:
    """Do what lets a record be appended that was refused with `code`, or raise."""
    redo = space.shared.redo
    if redo is None:
        raise MemoryError(f"{space.name}: no memory for a transaction")
    try:
        if space.shared.lock.is_mine:  # a commit of roots holds the lock already
            redo.make_room(code, nbytes)
        else:
            space.serve(redo.make_room, code, nbytes)
    finally:
        space.shared.poison_if_sync_failed()


# ---------------------------------------------------------------- merging, give-back


def run(space: Space, is_due: bool, is_idle: bool) -> bool:
    """Merge what was freed, and give back what is old if that is due.

    Returns
    -------
    bool
        False: a change is under way; later.
    """
    if is_changing() or space.shared.lock.owner:
        return False
    try:
        space.look(_run_locked, space, is_due, is_idle)
    except (PmemHeapError, MemoryError) as error:
        if space.core.state in _GIVING_BACK:  # else another thread closed it
            _stop_decay(space, error)
    return True


def _run_locked(space: Space, is_due: bool, is_idle: bool) -> None:
    if not is_due:
        space.supply.merge_freed()
        return
    if space.shared.decay is not None:
        _give_back(space, is_idle)


def _give_back(space: Space, is_idle: bool) -> None:
    """Give back what is old: of a heap at rest pages alone, so that its file stays closed.

    In a power heap that is no matter, and its log may be what is large.
    """
    shared, redo = space.shared, space.shared.redo
    if is_idle and shared.is_power and redo is not None and _is_much(shared, redo.size):
        space.mark_in_use_locked()
    is_open = space.core.state == State.OPEN
    held = sum(each.core.unsynced for each in shared.spaces())
    if redo is not None and is_open and _is_much(shared, held):
        redo.sync_log()  # nobody else may do so
    for each in shared.spaces():
        each.giveback.decay(DECAY_SHARE, is_idle=is_idle, can_change=is_open)
    if redo is not None and is_open and is_idle and _is_much(shared, redo.size):
        redo.shrink()


def _is_much(shared: Shared, nbytes: int) -> bool:
    return nbytes > DECAY_SHARE * shared.data_bytes


def _stop_decay(space: Space, error: Exception) -> None:
    space.shared.decay = None
    space.shared.set_pace()
    warnings.warn(f"{space.name}: give-back stopped: {error}", RuntimeWarning, 3)
