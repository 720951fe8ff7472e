"""Making: a heap is put together, over memory or over a file that is open."""

from __future__ import annotations

import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from pmemheap.file import openfile
from pmemheap.file.filemedium import FileMedium
from pmemheap.file.following import FollowedRoots
from pmemheap.file.locks import look_beside_writer
from pmemheap.file.naming import opened_again
from pmemheap.file.recovery import recover, replay_private
from pmemheap.format.layout import ArenaSlot
from pmemheap.heap.arenas import Arenas
from pmemheap.heap.blockspace import BlockSpace, new_face
from pmemheap.heap.living import open_heaps
from pmemheap.heap.ring import HasOrder
from pmemheap.heap.roots import MemoryRoots
from pmemheap.heap.rows import HasRows
from pmemheap.heap.shared import Shared
from pmemheap.heap.space import space_of
from pmemheap.heap.strategies import General, Ring, Rows, Strategy, agreed, strategy_of
from pmemheap.refusals import end_with
from pmemheap.space.anonymous import AnonymousMedium
from pmemheap.space.following import FollowingRegion
from pmemheap.space.region import Region

if TYPE_CHECKING:
    from pmemheap.heap.heap import Heap
    from pmemheap.space.asked import Prototype

__all__ = ["attached", "attached_reader", "over_file", "over_memory"]

H = TypeVar("H", bound="Heap")

_EXTRAS: dict[type[Strategy], type[BlockSpace]] = {Ring: HasOrder, Rows: HasRows}


def over_memory(  # noqa: PLR0913, PLR0917 -- options
    kind: type[H], limit: int | None, headroom: int | None, decay: float | None,
    extents: Prototype | None, strategy: Strategy | None = None,
) -> H:  # fmt: skip
    """Return a new heap in private memory."""
    medium = AnonymousMedium(limit)
    region = Region(medium, headroom)
    medium.expect_arena(0, ArenaSlot(0, 0, strategy=(strategy or General()).packed()))
    region.grow(1, 1)
    shared = Shared(medium, MemoryRoots(), os.urandom(16), "anonymous heap", decay)
    shared.extents = extents
    return _put_together(kind, shared, region, strategy, fresh=True)


def over_file(  # noqa: PLR0913, PLR0917 -- a medium, options, and whether it is new
    kind: type[H], medium: FileMedium, headroom: int | None, decay: float | None,
    extents: Prototype | None = None, strategy: Strategy | None = None, *, fresh: bool,
) -> H:  # fmt: skip
    """Return the heap in a file, which belongs to it from now on, if that is its strategy."""
    try:
        medium.shadowed = medium.is_power and not medium.readonly
        kind_of_region = FollowingRegion if medium.follows else Region
        region = medium.region or kind_of_region(medium, headroom)
        medium.region = None
        try:
            _map_tables(medium, region)
            name = f"heap {medium.name!r}"
            roots = FollowedRoots(medium) if medium.follows else medium
            shared = Shared(medium, roots, medium.header.superblock.uuid, name, decay)
            shared.extents = extents
            return _put_together(kind, shared, region, strategy, fresh=fresh)
        except BaseException:
            region.close()
            raise
    except BaseException as error:
        end_with(error, medium.close)
        raise


def _map_tables(medium: FileMedium, region: Region) -> None:
    if region.pieces:  # mapped in part by the recovery
        region.complete()
    else:
        region.adopt(medium.pieces(), only=("data",) if medium.is_unattached else ())
        replay_private(medium, region, 0)


def attached(  # noqa: PLR0913 -- what is opened, and how
    kind: type[H], fd: int, limit: int | None, headroom: int | None, decay: float | None,
    *, readers: bool,
) -> H:  # fmt: skip
    """Return the heap behind a descriptor, which stays the caller's, as its writer."""
    return _attached(kind, fd, os.O_RDWR, limit, headroom, decay, readers=readers)


def attached_reader(  # noqa: PLR0913 -- what is opened, and how
    kind: type[H], fd: int, limit: int | None, headroom: int | None, decay: float | None,
    *, follow: bool = True,
) -> H:  # fmt: skip
    """Return the heap behind a descriptor, which stays the caller's, as a reader.

    Parameters
    ----------
    follow : bool
        Be a reader of snapshots, if the writer lets those in.
    """
    own = opened_again(fd, os.O_RDONLY)
    try:
        return look_beside_writer(
            own, f"descriptor {fd}",
            lambda: _attached(kind, fd, os.O_RDONLY, limit, headroom, decay, follow=follow),
            lambda _: True,
        )  # fmt: skip
    finally:
        os.close(own)


def showing(kind: type[H], strategy: Strategy) -> type[H]:
    """Return the kind of heap that has what a strategy has besides, made of another kind."""
    plain: Any = kind.__bases__[1] if issubclass(kind, tuple(_EXTRAS.values())) else kind
    extra: Any = _EXTRAS.get(type(strategy))
    made: type[H] = plain if extra is None else _class_of(extra, plain, type(strategy).__name__)
    return made


@cache
def _class_of(extra: Any, plain: Any, prefix: str) -> Any:
    body = {"__slots__": (), "__doc__": plain.__doc__, "__module__": plain.__module__}
    return type(prefix + plain.__name__, (extra, plain), body)


def _attached(  # noqa: PLR0913, PLR0917 -- what is opened, and how
    kind: type[H], fd: int, flags: int, limit: int | None, headroom: int | None,
    decay: float | None, *, follow: bool = False, readers: bool = False,
) -> H:  # fmt: skip
    medium = openfile.adopt(
        opened_again(fd, flags), f"descriptor {fd}", readonly=flags == os.O_RDONLY,
        limit=limit, beside=True, follow=follow, readers=readers,
        recover=partial(recover, headroom=headroom),
    )  # fmt: skip
    return over_file(kind, medium, headroom, decay, fresh=False)


def _put_together(
    kind: type[H], shared: Shared, region: Region, strategy: Strategy | None, *, fresh: bool
) -> H:
    if fresh:
        strategy = strategy or General()
    else:
        strategy = agreed(shared.name, strategy_of(shared.medium.arenas[0]), strategy)
    kind = showing(kind, strategy)
    heap = new_face(kind, shared, region, shared.name, 0, fresh=fresh, strategy=strategy)
    again = partial(attached_reader, kind, limit=None, headroom=0, decay=None, follow=False)
    shared.enter(space_of(heap), Arenas(heap, shared), again)
    open_heaps.add(heap)
    return heap
