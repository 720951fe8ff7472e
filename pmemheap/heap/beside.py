"""Beside: what a reader that was attached beside a writer is asked, it looks up anew.

    asked ──► this process may change the heap, or nobody ──► the arena as it is here
          └──► another process may ──► attached once more ──► the same arena, as it is in the file

Views and headroom are those of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from pmemheap.dataclass import replace
from pmemheap.errors import UsageError
from pmemheap.file.locks import look_beside_writer
from pmemheap.heap.insight import CheckReport, HeapStats
from pmemheap.heap.space import Space, space_of

__all__ = ["asked", "listed", "stats"]

T = TypeVar("T")


def asked(space: Space, ask: Callable[[Space], T]) -> T:
    """Ask an arena; of a heap that another process may change, as it is now.

    Raises
    ------
    UsageError
        The heap is closed; or the writer has dropped the arena.
    HeapBusyError
        The writer gives it no moment for a look.
    """
    space.require()
    shared, file = space.shared, space.shared.file
    if file is None or not shared.is_beside:
        return ask(space)

    def look() -> T:
        with shared.attach_again(file.fd) as now:
            return ask(_same_arena(space, space_of(now)))

    return look_beside_writer(file.fd, space.name, look, _is_sound)


def listed(space: Space, ask: Callable[[Space], Iterable[T]]) -> Iterable[T]:
    """Ask an arena for a row of things, in the same way; else they come one by one."""
    return asked(space, lambda now: list(ask(now))) if space.shared.is_beside else ask(space)


def stats(space: Space, ask: Callable[[Space], HeapStats], own: Iterable[Space]) -> HeapStats:
    """Ask an arena for statistics, in the same way; views and headroom are those of this process.

    Parameters
    ----------
    own : iterable of Space
        The arenas whose views count.
    """
    found = asked(space, ask)
    if not space.shared.is_beside:
        return found
    views = sum(each.core.live_views for each in own)
    return replace(found, live_views=views, headroom=space.region.headroom)


def _same_arena(space: Space, now: Space) -> Space:
    """Return the arena of the same name, where the default one is `now`."""
    if space.index == 0:
        return now
    name = space.shared.medium.arenas[space.index].name
    found = now.look(now.shared.arenas.find, name)
    if found is None:
        raise UsageError(f"{space.name}: expected, found dropped by the writer")
    return found


def _is_sound(found: object) -> bool:
    return not isinstance(found, CheckReport) or bool(found)
