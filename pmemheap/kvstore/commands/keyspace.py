"""Keyspace: the store as commands see it, who watches what, and what was used when.

    command --set, delete, expire_at, ...--> Keyspace ---> KVStore
                                                |
                                                +--> versions of the keys that some session watches

A watched key is *changed* when a command gave it a value or a deadline, were it the same as before,
removed it, or when its deadline has passed; and when somebody else who has the store open in this
process has made another value of it. For the former keys have versions while they are watched, for
the latter `seen` has a digest of the value.

Deadlines are nanoseconds since 1970, those of Redis milliseconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice

from pmemheap.kvstore.commands.session import Session
from pmemheap.kvstore.store import KVStore

__all__ = ["MS", "SECOND", "Keyspace"]

MS, SECOND = 1_000_000, 1_000_000_000
_VERSIONS_MOST = 10_000
_USES_MOST = 1 << 16
_PROBED_BYTES, _PROBED_KEYS = 8, 16


class Keyspace:
    """A store with what commands need beside it.

    Parameters
    ----------
    store : KVStore
        Open.
    """

    def __init__(self, store: KVStore) -> None:
        self.store = store
        self.uses: dict[bytes, float] = {}
        self._versions: dict[bytes, int] = {}

    # ------------------------------------------------------------ reading

    def now(self) -> int:
        """Return the time of the store's clock, in nanoseconds since 1970."""
        return self.store.clock()

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None."""
        value: bytes | None = self.store.get(key)
        return value

    def length(self, key: bytes) -> int:
        """Return the number of bytes of a value, 0 if there is none."""
        try:
            with self.store.view(key) as view:
                return view.nbytes
        except KeyError:
            return 0

    def deadline(self, key: bytes) -> int | None:
        """Return the deadline of a key, or None; KeyError if there is no such key."""
        return self.store.deadline(key)

    def keys_from(self, start: bytes | None, stop: bytes | None) -> Iterator[bytes]:
        """Yield keys of a range, in order."""
        return iter(self.store.keys(start, stop))

    def random_key(self) -> bytes | None:
        """Return a key near a random place: where keys are dense each has less chance."""
        first, last = next(iter(self.store), None), next(reversed(self.store), None)
        if first is None or last is None:
            return None
        place = _between(first, last)
        around = (self.store.keys(place), self.store.keys(None, place, reverse=True))
        found = [key for keys in around for key in islice(keys, _PROBED_KEYS)]
        return random.choice(found or [first])

    # ------------------------------------------------------------ changing

    def set(self, key: bytes, value: bytes, deadline: int | None = None) -> None:
        """Give a key a value, until a deadline; one that has passed removes the key."""
        if deadline is None:
            self.store.set(key, value)
        elif deadline <= self.now():
            self.store.delete(key)
        else:
            self.store.set_until(key, value, deadline)
        if self._versions:
            self._count(key)

    def patch(self, key: bytes, offset: int, data: bytes) -> None:
        """Change bytes inside of a value."""
        self.store.patch(key, offset, data)
        if self._versions:
            self._count(key)

    def delete(self, key: bytes) -> bool:
        """Remove a key; tell whether it was there."""
        was_there = self.store.delete(key)
        if was_there and self._versions:
            self._count(key)
        return was_there

    def expire_at(self, key: bytes, deadline: int) -> bool:
        """Let a key expire, now if the deadline has passed; tell whether it is there."""
        if deadline <= self.now():
            return self.delete(key)
        found = self.store.expire_at(key, deadline)
        if found and self._versions:
            self._count(key)
        return found

    def persist(self, key: bytes) -> bool:
        """Let a key not expire; tell whether it would have."""
        found = self.store.persist(key)
        if found and self._versions:
            self._count(key)
        return found

    def clear(self) -> None:
        """Remove everything."""
        for key in self._versions:
            if key in self.store:
                self._count(key)
        self.store.clear()

    def _count(self, key: bytes) -> None:
        if key in self._versions:
            self._versions[key] += 1

    # ------------------------------------------------------------ watching

    def seen(self, key: bytes) -> tuple[int, bytes | None, int | None]:
        """Return what changes when a key does; its changes are counted from now on."""
        return self._versions.setdefault(key, 0), *self._digest(key)

    def _digest(self, key: bytes) -> tuple[bytes | None, int | None]:
        try:
            deadline = self.store.deadline(key)
            with self.store.view(key) as view:
                return blake2b(view, digest_size=16).digest(), deadline
        except KeyError:
            return None, None

    def is_unchanged(self, watched: dict[bytes, object]) -> bool:
        """Tell whether all keys are as `seen` had them."""
        return all(self.seen(key) == before for key, before in watched.items())

    def saved(self) -> dict[bytes, int]:
        """Return what `restore` wants, before changes that may be taken back."""
        return dict(self._versions)

    def restore(self, versions: dict[bytes, int]) -> None:
        """Count as before changes that were taken back."""
        self._versions = versions

    def forget_unwatched(self, sessions: Iterable[Session]) -> None:
        """Count the changes of fewer keys, if there are many and nobody watches them any more."""
        if len(self._versions) > _VERSIONS_MOST:
            watched = {key for session in sessions for key in session.watched}
            self._versions = {key: self._versions[key] for key in watched & self._versions.keys()}

    # ------------------------------------------------------------ uses

    def note_uses(self, keys: Iterable[bytes]) -> None:
        """Note that a command names keys, for those that were asked for."""
        now = time.monotonic()
        for key in keys:
            if key in self.uses:
                self.uses[key] = now

    def idle_seconds(self, key: bytes) -> int:
        """Return the seconds for which no command named a key, since it was asked for first.

        It is noted from then on alone: to note each use of each key would cost every command more
        than the answer is worth.
        """
        if len(self.uses) >= _USES_MOST:
            self.uses.clear()
        now = time.monotonic()
        return int(now - self.uses.setdefault(key, now))


def _between(first: bytes, last: bytes) -> bytes:
    """Return a random key between two."""
    common = next(
        (at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other),
        len(first),
    )
    low, high = (
        int.from_bytes(key[common : common + _PROBED_BYTES].ljust(_PROBED_BYTES, b"\0"), "big")
        for key in (first, last)
    )
    return first[:common] + random.randint(low, high).to_bytes(_PROBED_BYTES, "big")
