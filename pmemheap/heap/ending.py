"""Ending: how a heap comes to its end. Closed by its owner, dropped, or left when Python ends.

    close   transactions end, none begins ──► no views ──► log ended ──► parts closed
    drop    the same without waiting; views that are alive keep the memory, not the file
    exit    synced, and marked as closed in the file; other threads read on

Each of them is a function over the default arena of the heap.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from pmemheap.errors import DurabilityError, PmemHeapError
from pmemheap.file.filemedium import FileMedium
from pmemheap.format.layout import FileIdentity
from pmemheap.heap import readers, totals, units
from pmemheap.heap.gate import named
from pmemheap.heap.outputs import outputs_that_keep
from pmemheap.heap.shared import Shared
from pmemheap.heap.space import Space
from pmemheap.heap.viewed import viewed_blocks
from pmemheap.heap.waiting import transactions_ended
from pmemheap.native import HeapDoors
from pmemheap.native.constants import State
from pmemheap.units import UNIT, MiB

__all__ = ["close", "give_back_much", "let_go", "rest"]

_EXIT_SECONDS = 0.5
_FREE_LEAST = MiB


# ---------------------------------------------------------------- close


def close(space: Space, before: Callable[[], None], when_closed: Callable[[], None]) -> None:
    """Close a heap; an interrupt may have left it half closed.

    Parameters
    ----------
    before : callable
        Called when nothing speaks against it, while transactions are possible still.
    when_closed : callable
        Called when nothing is open any more.
    """
    if space.core.state != State.CLOSED:
        _require_unviewed(space.shared)
        if not space.shared.log.begun():
            before()
    with transactions_ended(space):
        space.alone(lambda: _close_locked(space, when_closed))


def give_back_much(space: Space) -> None:
    """Give back what is free before a file is closed, where that is most of its blocks.

    What is refused is no reason to stay open; the end says what is wrong with the file.
    """
    shared = space.shared
    file = shared.writable
    if file is None or shared.decay is None or space.core.state != State.OPEN:
        return
    spaces = shared.spaces()
    used = sum(each.region.nunits - units.free_soon(each) for each in spaces) * UNIT
    if not all(map(units.is_read, spaces)):
        used -= file.holes.nbytes  # which count as free only in what was read
    with suppress(PmemHeapError):
        has = file.allocated()[1] - file.header.superblock.log_size
        if has - used > max(_FREE_LEAST, has // 2):
            totals.trim(shared)


def _close_locked(space: Space, when_closed: Callable[[], None]) -> None:
    shared = space.shared
    if space.core.state != State.CLOSED:
        _require_unused(shared)
        try:
            _end_calls(space, when_closed)
        except (PmemHeapError, BufferError):
            raise
        except BaseException:
            shared.medium.in_doubt = True
            raise
    _close_parts(space, when_closed)


def _end_calls(space: Space, when_closed: Callable[[], None]) -> None:
    shared = space.shared
    try:
        if shared.medium.in_doubt:
            shared.rebuild()
        shared.end_log()
    except PmemHeapError:
        _shut_all(shared)
        _close_parts(space, when_closed)
        raise
    _shut_all(shared)


def _require_unused(shared: Shared) -> None:
    _require_unviewed(shared)
    if threads := shared.log.begun():
        raise BufferError(
            f"{shared.name}: no open transaction expected at close, {len(threads)} found, "
            f"of {named(threads)}"
        )


def _cores(shared: Shared) -> list[HeapDoors]:
    """Return those of all open arenas, the default one first; that of scratch regions as well."""
    scratch = shared.arenas.scratch
    return [space.core for space in (*shared.spaces(), scratch) if space is not None]


def _require_unviewed(shared: Shared) -> None:
    """Raise BufferError if blocks have live views, or snapshots are alive."""
    readers.require_none(shared, f"{shared.name}: close")
    views = sum(core.live_views for core in _cores(shared))
    if views:
        raise _viewed_at_close(shared, views)


def _shut_all(shared: Shared) -> None:
    """Let no call in any more, of all arenas in one step; views of another thread are refused."""
    default, *others = _cores(shared)
    if views := default.become(State.CLOSED, others):
        raise _viewed_at_close(shared, views)


def _viewed_at_close(shared: Shared, views: int) -> BufferError:
    found = viewed_blocks(_cores(shared))
    kept = outputs_that_keep(shared.spaces_and_scratch())
    return BufferError(
        f"{shared.name}: no live views expected at close, {views} found: {found}{kept}"
    )


def _close_parts(space: Space, when_closed: Callable[[], None]) -> None:
    shared = space.shared
    shared.end_watch()
    shared.arenas.close()
    if shared.scratch is not None:
        shared.scratch.end()
    shared.log.detach()
    space.region.close()
    try:
        if shared.file is not None:
            shared.file.close()
    finally:  # after an interrupt its file may be open still: then the next call goes on
        if shared.file is None or shared.file.fd < 0:
            when_closed()


# ---------------------------------------------------------------- without an owner


def let_go(space: Space) -> None:
    """Close as far as views that are still alive allow: they keep the memory, not the file."""
    shared = space.shared
    if space.core.state == State.FORKED:
        return
    has_views = shared.is_viewed()
    if space.core.state != State.CLOSED:
        shared.log.abort_all()
        shared.log._stop_edits()  # private: no call of users
        with suppress(DurabilityError):
            shared.end_log()
        shared.set_states(State.CLOSED)
    shared.end_watch()
    if shared.file is not None:
        shared.log.detach()
        shared.file.has_views = has_views
        with suppress(DurabilityError):
            shared.file.close()
    if shared.scratch is not None:
        shared.scratch.let_go()
    shared.leave()


def rest(space: Space) -> None:
    """Let the file be as if the heap was closed, at the end of the interpreter.

    Exit functions that come later, and other threads, can read it. A change says that it is in
    use again, and then it is closed when the last reference goes.
    """
    file = space.shared.file
    if space.core.state <= State.CLEAN and file is not None:
        with transactions_ended(space, _EXIT_SECONDS):
            space.alone(lambda: _rest_locked(space, file))


def _rest_locked(space: Space, file: FileMedium) -> None:
    shared = space.shared
    if space.core.state > State.CLEAN or file.is_clean:
        return
    shared.log.abort_all()
    shared.log._stop_edits()  # private: no call of users
    with suppress(DurabilityError):  # the call that met it first has raised it
        if file.in_doubt:
            shared.rebuild()
        shared.end_log()
        if not file.sync_failed:
            shared.mark_closed(file, FileIdentity())
