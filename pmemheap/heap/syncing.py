"""Syncing: everything that was changed becomes durable, and a heap at rest is marked as closed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pmemheap import native
from pmemheap.errors import DurabilityError
from pmemheap.file.filemedium import FileMedium
from pmemheap.heap.space import Space

__all__ = ["sync", "without_snapshots"]


def sync(space: Space) -> None:
    """Wait until everything is durable; nothing to do in memory, and for a reader."""
    shared = space.shared
    space.core.upkeep_if_due()
    space.require(write=not shared.readonly)
    file = shared.writable
    if file is not None:
        without_snapshots(space, lambda: space.look(_sync_locked, space, file))


def _sync_locked(space: Space, file: FileMedium) -> None:
    shared = space.shared
    try:
        if shared.becomes_clean(file):
            shared.mark_closed(file, file.identity)
        else:
            file.sync()
    except DurabilityError:
        shared.poison_if_sync_failed()
        raise


class _Writer(native.TxCore):
    """The one that may change committed bytes, for as long as its work runs."""

    __slots__ = ()

    def run(self, work: Callable[[], None], syncers: set[int]) -> None:
        """Run work, noted as a thread that syncs."""
        thread = threading.get_ident()
        try:
            syncers.add(thread)
            self._wait_writer()
            work()
        finally:
            try:
                syncers.discard(thread)
            finally:
                self._finish()


def without_snapshots(space: Space, work: Callable[[], None]) -> None:
    """Run something while no other thread has an open snapshot.

    It would keep the records before it [R20]. A replay of these brings back what they say of
    blocks to which something was stored since.
    """
    shared, redo = space.shared, space.shared.redo
    if redo is None or not shared.is_power or redo.is_writer():
        work()
    elif shared.lock.is_mine or threading.get_ident() in redo.syncers:
        work()  # with the lock of the heap, or in a finalizer in here, it could wait for ever
    else:
        _Writer(None, redo, False).run(work, redo.syncers)
