"""Eviction: a limit of bytes, and which key goes when a store is above it. Two more maps.

    map "kvstore.ranks"  key  --> rank (16 bytes), bytes of key and value (8 bytes)
    map "kvstore.order"  rank --> key; the lowest rank goes first
                         b""  --> the policy, the limit, what is held, the last number

    policy   rank: two big-endian numbers, the second of which no two keys share
    "lru"    0, when it was used last
    "lfu"    how often it was used, when it was used last
    "ttl"    its deadline, when it was stored; without a deadline it is never evicted

*When* is a number that each use takes from one counter. The figures have one that is at least that
of every rank, so that those of the next opening come behind.

A change that stores a key evicts others in the same transaction until what is held is within the
limit: a crash leaves all of it or nothing, and no commit is above the limit.

A read never writes. It notes its use in memory, and ranks are brought up to date when it matters:
the key that would go, but was used since its rank was written, gets a new rank, and the one that is
then the lowest is looked at. So the right one goes, as if each use had been written. A change
renews at most 256 ranks like that; if that many were used since, the lowest of the new ranks goes.
`flush` writes all uses that are noted; a crash forgets them.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from pmemheap import CorruptHeapError, OutOfSpaceError, UsageError
from pmemheap.containers import SortedMap

__all__ = ["POLICIES", "Eviction", "EvictionFigures", "require_policy"]

POLICIES = ("lru", "lfu", "ttl")
_RANK = struct.Struct(">QQ")
_ENTRY = struct.Struct(">QQQ")
_FIGURES = struct.Struct(">QQQQQ")
_FIRST_RANK = b"\0"  # behind the key of the figures
_NEVER = (1 << 64) - 1
_RENEWED_MOST = 256
_NOTED_MOST = 1 << 16

Rank = tuple[int, int]


def require_policy(evict: str, limit: int | None) -> int:
    """Return the limit of a store that evicts; UsageError if policy or limit is none."""
    if evict not in POLICIES:
        raise UsageError(f"evict: one of {', '.join(POLICIES)} or 'none' expected, {evict!r} found")
    if limit is None or not 0 < limit < _NEVER:
        raise UsageError(f"limit: bytes above 0 expected with evict={evict!r}, {limit!r} found")
    return limit


@dataclass(frozen=True)
class EvictionFigures:
    """What a store that evicts has written of itself.

    Attributes
    ----------
    policy : str
        ``"lru"``, ``"lfu"`` or ``"ttl"``.
    limit, held : int
        Bytes of keys and values that may be there, and that are there.
    number : int
        The last one of a use.
    evicted : int
        Keys that had to go, from the beginning on.
    """

    policy: str
    limit: int
    held: int
    number: int
    evicted: int

    def packed(self) -> bytes:
        """Return them as they are stored."""
        policy = POLICIES.index(self.policy)
        return _FIGURES.pack(policy, self.limit, self.held, self.number, self.evicted)


class Eviction:
    """The limit of a store. Who changes anything has a transaction open that is exclusive.

    Parameters
    ----------
    ranks : SortedMap
        Key to rank.
    order : SortedMap
        Rank to key, and the figures.
    """

    def __init__(self, ranks: SortedMap, order: SortedMap) -> None:
        self._ranks = ranks
        self._order = order
        self._noted: dict[bytes, Rank] = {}  # how often since the rank was written, and when last
        self._lock = threading.Lock()  # of what is in memory: readers note uses beside a change
        found = self.figures()
        self._number = 0 if found is None else found.number
        self.notes_uses: bool = found is not None and found.policy != "ttl"

    def figures(self) -> EvictionFigures | None:
        """Return what is stored; None before `begin`.

        Raises
        ------
        CorruptHeapError
            It is something else.
        """
        stored = self._order.get(b"")
        if stored is None:
            return None
        if len(stored) != _FIGURES.size or stored[:8] >= len(POLICIES).to_bytes(8, "big"):
            raise CorruptHeapError(
                f"figures of {self._order!r}: figures expected, found {stored!r}"
            )
        policy, *rest = _FIGURES.unpack(stored)
        return EvictionFigures(POLICIES[policy], *rest)

    def clear(self) -> None:
        """Forget all ranks, in short transactions, the figures first."""
        self._order.clear()
        self._ranks.clear()

    def enter(self, policy: str, key: bytes, nbytes: int, deadline: int | None) -> None:
        """Give a key of a store that has no limit yet its first rank."""
        self._number += 1
        major = {"lru": 0, "lfu": 1, "ttl": _NEVER if deadline is None else deadline}[policy]
        self._put(key, (major, self._number), nbytes)

    def begin(self, policy: str, limit: int) -> None:
        """Write that there is a limit from now on; all keys have ranks."""
        found = self.figures()
        if found is None:
            held = sum(_ENTRY.unpack(stored)[2] for stored in self._ranks.values())
            found = EvictionFigures(policy, limit, held, self._number, 0)
        self._order[b""] = replace(found, policy=policy, limit=limit).packed()
        self.notes_uses = policy != "ttl"

    def is_above(self, room: int = 0) -> bool:
        """Tell whether more is held than the limit allows beside so many bytes."""
        figures = self._found()
        return figures.held + room > figures.limit

    def require_room(self, room: int) -> None:
        """Refuse room that is more than the limit; OutOfSpaceError."""
        figures = self._found()
        if room > figures.limit:
            raise OutOfSpaceError(f"room: at most {figures.limit} bytes expected, {room} found")

    def _found(self) -> EvictionFigures:
        found = self.figures()
        if found is None:
            raise CorruptHeapError(f"{self._order!r}: figures of a limit expected, found none")
        return found

    # ------------------------------------------------------------ uses

    def note(self, key: bytes) -> None:
        """Note that a key was used, in memory alone."""
        used = bytes(key)
        with self._lock:
            times, _ = self._noted.pop(used, (0, 0))
            self._number += 1
            self._noted[used] = times + 1, self._number
            if len(self._noted) > _NOTED_MOST:
                del self._noted[next(iter(self._noted))]

    def _taken(self, key: bytes) -> Rank:
        """Return what was noted of a key, and forget it."""
        with self._lock:
            return self._noted.pop(key, (0, 0))

    def _next_number(self, least: int) -> int:
        with self._lock:
            self._number = max(self._number, least) + 1
            return self._number

    def flush(self, most: int) -> bool:
        """Write up to so many uses that are noted; tell whether there may be more."""
        with self._lock:
            keys = list(islice(self._noted, most))
        for key in keys:
            self._renew(key)
        figures = self._found()
        self._order[b""] = replace(figures, number=max(self._number, figures.number)).packed()
        return len(keys) == most

    # ------------------------------------------------------------ changes of the store

    def stored(self, key: bytes, nbytes: int, deadline: int | None) -> None:
        """Enter a key that was given a value; `nbytes` are those of key and value.

        Raises
        ------
        OutOfSpaceError
            It alone is above the limit.
        """
        figures = self._found()
        if nbytes > figures.limit:
            raise OutOfSpaceError(
                f"key {bytes(key)!r}: with its value at most {figures.limit} bytes, the limit of "
                f"the store, expected, {nbytes} found"
            )
        before = self._take_out(key)
        times, _ = self._taken(key)
        number = self._next_number(figures.number)
        major = {
            "lru": 0,
            "lfu": times + 1 + (before[0] if before else 0),
            "ttl": _NEVER if deadline is None else deadline,
        }[figures.policy]
        self._put(key, (major, number), nbytes)
        held = figures.held + nbytes - (before[2] if before else 0)
        self._order[b""] = replace(figures, held=held, number=number).packed()

    def moved(self, key: bytes, deadline: int | None) -> None:
        """Enter another deadline of a key that is there."""
        if not self.notes_uses and (before := self._take_out(key)) is not None:
            self._put(key, (_NEVER if deadline is None else deadline, before[1]), before[2])

    def removed(self, key: bytes, *, evicted: bool = False) -> None:
        """Forget a key that goes."""
        before = self._take_out(key)
        if before is not None:
            self._taken(bytes(key))
            figures = self._found()
            self._order[b""] = replace(
                figures,
                held=figures.held - before[2],
                number=max(self._number, figures.number),  # that of a rank that was renewed, too
                evicted=figures.evicted + evicted,
            ).packed()

    def surplus(self, kept: bytes | None = None, room: int = 0) -> Iterator[bytes]:
        """Yield the keys that have to go, one by one: each is removed before the next is asked for.

        Parameters
        ----------
        kept : bytes, optional
            Is not among them.
        room : int
            Bytes to have free.

        Raises
        ------
        OutOfSpaceError
            What is left above the limit has no deadline, and deadlines decide.
        """
        renewed = _RENEWED_MOST
        while self.is_above(room):
            while (found := self._lowest(kept)) is not None:
                _, key = found
                if not renewed or key not in self._noted:
                    break
                self._renew(key)
                renewed -= 1
            if found is None or (not self.notes_uses and found[0][0] == _NEVER):
                figures = self._found()
                raise OutOfSpaceError(
                    f"{self._order!r}: {figures.held} bytes held, {figures.limit} allowed: a key "
                    "that may be evicted expected, none has a deadline"
                )
            yield found[1]

    def _lowest(self, kept: bytes | None) -> tuple[Rank, bytes] | None:
        """Return the lowest rank, and its key, that is not one key's."""
        for rank, key in self._order.items(_FIRST_RANK):
            if key != kept:
                return self._unpacked(rank), key
        return None

    # ------------------------------------------------------------ the maps

    def _unpacked(self, rank: bytes) -> Rank:
        if len(rank) != _RANK.size:
            raise CorruptHeapError(f"{self._order!r}: a rank expected, found {rank!r}")
        major, minor = _RANK.unpack(rank)
        return major, minor

    def _entry(self, key: bytes) -> tuple[int, int, int] | None:
        stored = self._ranks.get(key)
        if stored is None:
            return None
        if len(stored) != _ENTRY.size:
            raise CorruptHeapError(
                f"rank of {key!r}: {_ENTRY.size} bytes expected, {stored!r} found"
            )
        major, minor, nbytes = _ENTRY.unpack(stored)
        return major, minor, nbytes

    def _put(self, key: bytes, rank: Rank, nbytes: int) -> None:
        self._ranks[key] = _ENTRY.pack(*rank, nbytes)
        self._order[_RANK.pack(*rank)] = key

    def _take_out(self, key: bytes) -> tuple[int, int, int] | None:
        found = self._entry(key)
        if found is not None:
            self._ranks.discard(key)
            self._order.discard(_RANK.pack(*found[:2]))
        return found

    def _renew(self, key: bytes) -> None:
        """Write the rank that a key has by the uses that are noted.

        The caller writes the figures afterwards: their number is at least that of each rank.
        """
        times, last = self._taken(key)
        found = self._take_out(key) if times else None
        if found is not None:
            major = found[0] + times if self._found().policy == "lfu" else found[0]
            self._put(key, (major, last), found[2])

    # ------------------------------------------------------------ the whole

    def compact(self) -> None:
        """Move what there is together, as `pmemheap.containers.SortedMap.compact`."""
        self._ranks.compact()
        self._order.compact()

    def drop_maps(self) -> None:
        """Remove both maps: there is no limit any more."""
        self._order.drop()
        self._ranks.drop()

    def __contains__(self, key: bytes) -> bool:
        """Tell whether a key has a rank."""
        return key in self._ranks

    def check(self, entries: SortedMap) -> None:
        """Verify both maps and the figures; CorruptHeapError if something is not as it should."""
        self._ranks.check()
        self._order.check()
        held = 0
        for key, value in entries.items():
            found = self._entry(key)
            if found is None or found[2] != len(key) + len(value):
                raise CorruptHeapError(
                    f"rank of {key!r}: {len(key) + len(value)} bytes expected, {found} found"
                )
            if self._order.get(_RANK.pack(*found[:2])) != key:
                raise CorruptHeapError(f"order: {key!r} at {found[:2]} expected, another found")
            held += found[2]
        counts = len(entries), len(self._ranks), len(self._order) - 1
        if len(set(counts)) != 1 or held != self._found().held:
            raise CorruptHeapError(
                f"limit: keys, ranks and places of one number expected, {counts} found; "
                f"{held} bytes held expected, {self._found().held} found"
            )
