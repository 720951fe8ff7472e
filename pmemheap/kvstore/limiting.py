"""Limiting: how a store gets a limit, another one, or none, when it is opened.

    evict=            the file has none          it has the same policy    it has another
    None              no limit                   as it is                  as it is
    "lru", ...        all keys get ranks         the new number of bytes   all keys get other ranks
    "none"            no limit                   both maps are removed     both maps are removed

Ranks are made in short transactions, and the figures, without which there is no limit, in the last
one: after a crash in the middle there is none, and the next opening begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from pmemheap import UsageError
from pmemheap.containers import SortedMap
from pmemheap.kvstore.deadlines import Deadlines
from pmemheap.kvstore.eviction import Eviction, require_policy

__all__ = ["opened_limit"]

_BATCH = 256


def opened_limit(  # noqa: PLR0913, PLR0917 -- the maps of a store, and what was asked for
    entries: SortedMap,
    deadlines: Deadlines,
    opened: Callable[[str], SortedMap],
    has_limit: bool,
    limit: int | None,
    evict: str | None,
) -> Eviction | None:
    """Return the eviction of a store, or None if there is no limit.

    Parameters
    ----------
    entries, deadlines
        Of the store, which nobody else uses yet.
    opened : callable
        Opens, or makes, the map of a kind: "ranks" or "order".
    has_limit : bool
        Whether these maps are there.
    limit, evict
        As of `pmemheap.kvstore.KVStore`.

    Raises
    ------
    UsageError
        There is no such policy, or no limit; the store was opened to read.
    """
    if evict is not None and entries.heap.readonly:
        raise UsageError(f"evict: a store that is opened to write expected, {evict!r} found")
    wanted = None if evict in {None, "none"} else require_policy(str(evict), limit)
    if wanted is None and not has_limit:
        return None
    eviction = Eviction(opened("ranks"), opened("order"))
    figures = eviction.figures()
    if wanted is not None:
        if figures is None or figures.policy != evict:
            eviction.clear()
            _rank_all(entries, deadlines, eviction, str(evict))
        if figures is None or (figures.policy, figures.limit) != (evict, wanted):
            with entries.exclusive():
                eviction.begin(str(evict), wanted)
        return eviction
    if evict is None and figures is not None:
        return eviction
    if not entries.heap.readonly:
        eviction.clear()
        eviction.drop_maps()
    return None


def _rank_all(entries: SortedMap, deadlines: Deadlines, eviction: Eviction, policy: str) -> None:
    """Give every key a rank, in the order of the keys."""
    rest = iter(entries.items())
    while some := list(islice(rest, _BATCH)):
        with entries.exclusive():
            for key, value in some:
                deadline = deadlines.of(key) if policy == "ttl" else None
                eviction.enter(policy, key, len(key) + len(value), deadline)
