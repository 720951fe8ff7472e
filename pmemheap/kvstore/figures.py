"""Figures: what a store consists of, counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pmemheap import HeapStats
    from pmemheap.containers.sortedmap import MapStatistics
    from pmemheap.kvstore.counters import Hits
    from pmemheap.kvstore.eviction import EvictionFigures

__all__ = ["StoreStats"]


@dataclass(frozen=True)
class StoreStats:
    """What a store consists of, in bytes unless the name says otherwise.

    Attributes
    ----------
    durability : str
        ``"power"`` or ``"process"``.
    entries, expiring, height : int
        Keys, also those that have expired and are still there; keys with a deadline; nodes from the
        root of the tree to a leaf.
    key_bytes, value_bytes : int
        Of all keys and values.
    waste_bytes : int
        In leaves: what was removed or replaced; used again, or squeezed out by `compact`.
    fill : float
        The part of the leaves that is keys and values.
    allocated, quarantined, free : int
        In live blocks; in blocks that wait until their end is durable or their last view goes; in
        free pages of the file.
    file_bytes, file_blocks : int
        Length of the file, and what the disk has of it.
    live_views : int
        Views that keep space, and `close` waiting.
    tagged : int
        Keys that have a tag.
    hits, misses : int or None
        Reads (`get`, ``[]``, `view`) that have found their key, and others, since the store was
        opened; None if they are not counted.
    evict : str or None
        The policy, if the store has a limit.
    limit, held, evicted : int or None
        Bytes of keys and values that may be there, and that are; keys that had to go.
    """

    durability: str
    entries: int
    expiring: int
    height: int
    key_bytes: int
    value_bytes: int
    waste_bytes: int
    fill: float
    allocated: int
    quarantined: int
    free: int
    file_bytes: int
    file_blocks: int
    live_views: int
    tagged: int
    hits: int | None
    misses: int | None
    evict: str | None
    limit: int | None
    held: int | None
    evicted: int | None

    @classmethod
    def of(  # noqa: PLR0913 -- parts, by name
        cls,
        durability: str,
        tree: MapStatistics,
        heap: HeapStats,
        *,
        expiring: int,
        tagged: int,
        hits: Hits | None,
        eviction: EvictionFigures | None,
    ) -> Self:
        """Return what the parts of a store say of themselves, put together."""
        return cls(
            durability=durability, entries=tree.entries, expiring=expiring, height=tree.height,
            key_bytes=tree.key_bytes, value_bytes=tree.value_bytes,
            waste_bytes=tree.waste_bytes, fill=tree.fill, allocated=heap.allocated,
            quarantined=heap.quarantined, free=heap.free, file_bytes=heap.file_bytes,
            file_blocks=heap.file_blocks, live_views=heap.live_views, tagged=tagged,
            hits=None if hits is None else hits.hits,
            misses=None if hits is None else hits.misses,
            evict=None if eviction is None else eviction.policy,
            limit=None if eviction is None else eviction.limit,
            held=None if eviction is None else eviction.held,
            evicted=None if eviction is None else eviction.evicted,
        )  # fmt: skip
