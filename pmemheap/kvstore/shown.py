"""StoreSnapshot: a store as of one commit, in the writer's process or beside it.

    store.read() --> StoreSnapshot --> sub(name) --> Shown
                          |                            |
                          +---- one pmemheap.Snapshot--+

All maps of all sub-stores are read through one snapshot of the heap: a value, its deadline and its
tag are of the same commit, and so are the keys of two sub-stores. Whether a key has expired is a
matter of the clock: one that is over is left out as soon as it is, also of an older commit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from pmemheap import Snapshot, UsageError
from pmemheap.kvstore.closing import Closing
from pmemheap.kvstore.reading import Reading, go_on, refreshed, subs_of

if TYPE_CHECKING:
    from pmemheap.heap.transaction import Transaction

__all__ = ["Shown", "StoreSnapshot"]


class Shown(Reading):
    """Keys and values under a name of a store, as of a commit: all that `SubStore` has to read.

    Parameters
    ----------
    source : Snapshot
        Open.
    name : str
        Of the sub-store; empty for the store itself.
    clock : callable
        Nanoseconds since 1970, for deadlines.
    """

    def __init__(self, source: Snapshot, name: str, clock: Callable[[], int]) -> None:
        self._heap, self._source, self._name, self._durable = source.heap, source, name, None
        self._clock = clock
        self._enter_maps(clock)
        self._begin_reading()

    def _reopen(self) -> None:
        self._look_closely()
        self._enter_maps(self._clock)
        self._begin_reading()

    @property
    def closed(self) -> bool:
        """Whether the snapshot was closed."""
        return isinstance(self._source, Snapshot) and self._source.closed

    @property
    def readonly(self) -> bool:
        """True: a commit stays as it is."""
        return True

    def __repr__(self) -> str:
        """Show name and file."""
        name = f" {self._name!r} of" if self._name else " of"
        return f"<{type(self).__name__}{name} {self.path!r}{', closed' if self.closed else ''}>"

    # ------------------------------------------------------------ refused

    def _refuse(self) -> NoReturn:
        raise UsageError(f"{self!r}: a store opened to write expected for a change, found a commit")

    def transaction(self, durable: bool | None = None) -> Transaction:
        """Return nothing: a commit is not changed; this, and each change, is a UsageError."""
        self._refuse()

    def exclusive(self) -> AbstractContextManager[object]:
        """Return nothing, as `transaction`."""
        self._refuse()

    def __setitem__(self, key: bytes, value: Any) -> None:
        """Refuse, as `transaction`."""
        self._refuse()

    def __delitem__(self, key: bytes) -> None:
        """Refuse, as `transaction`."""
        self._refuse()

    def clear(self) -> None:
        """Refuse, as `transaction`."""
        self._refuse()


class StoreSnapshot(Closing, Shown):
    """A store and its sub-stores as of one commit: a mapping of bytes to bytes, to be read.

    Made by `KVStore.read`. Views of it keep their bytes until the last of them goes, also when the
    snapshot was closed or refreshed.

    Examples
    --------
    >>> import tempfile
    >>> from pmemheap.kvstore import KVStore
    >>> home = tempfile.TemporaryDirectory()
    >>> store = KVStore(home.name + "/a.kv", "process", readers=True)
    >>> store[b"pear"] = b"3"
    >>> with store.read() as before:  # in another process: of KVStore(..., flag="r")
    ...     store[b"pear"] = b"4"
    ...     before[b"pear"], before.refresh(), before[b"pear"]
    (b'3', True, b'4')
    >>> store.close(); home.cleanup()
    """

    def __init__(self, source: Snapshot, clock: Callable[[], int]) -> None:
        self._snapshot = source
        self._subs: dict[str, Shown] = {}
        super().__init__(source, "", clock)

    @property
    def commit(self) -> int:
        """Number of the commit; of two snapshots the later one has the greater, or the same."""
        return self._snapshot.commit

    def sub(self, name: str) -> Shown:
        """Return a sub-store as of the commit; `refresh` takes it along.

        Raises
        ------
        UsageError
            The commit has none of that name; the snapshot is closed.
        """
        found = self._subs.get(name)
        if found is None:
            found = self._subs[name] = Shown(self._snapshot, name, self._clock)
        return found

    def subs(self) -> list[str]:
        """Return the names of the sub-stores, sorted."""
        return subs_of(self._snapshot.roots)

    def refresh(self) -> bool:
        """Go on to the commit that is the last one now; tell whether there is a newer one.

        A sub-store that has been dropped meanwhile is closed.
        """
        if not refreshed(self._snapshot, [self, *self._subs.values()]):
            return False
        go_on(self, self._subs, self._snapshot.roots)
        return True

    def close(self) -> None:
        """Let the commit go; twice is allowed. Views keep what they show."""
        for each in [self, *self._subs.values()]:
            each._leave_maps()  # private: no call of users
        self._snapshot.close()
