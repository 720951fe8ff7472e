"""Transaction roots: the roots of a heap as an open transaction will leave them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pmemheap.heap.roots import RootNames, Roots, require_root

__all__ = ["PendingRoots", "TransactionRoots"]

PendingRoots = dict[str, int | None]
"""Offsets by name; None for what is dropped."""


class TransactionRoots(RootNames):
    """The roots of a heap as a transaction will leave them."""

    def __init__(
        self,
        roots: Roots,
        pending: Callable[..., PendingRoots],
        require_nameable: Callable[[str, int], None],
    ) -> None:
        self._roots, self._pending, self._require_nameable = roots, pending, require_nameable

    def now(self) -> dict[str, int]:
        """Return names and offsets as they are now."""
        roots = self._roots.now()
        for name, offset in self._pending(write=False).items():
            if offset is None:
                roots.pop(name, None)
            else:
                roots[name] = offset
        return roots

    def __getitem__(self, name: str) -> int:
        """Return the offset under a name; KeyError if there is none, or it is no str."""
        pending = self._pending(write=False)
        if not isinstance(name, str) or name not in pending:
            return self._roots[name]
        offset = pending[name]
        if offset is None:
            raise KeyError(name)
        return offset

    def __setitem__(self, name: str, offset: int) -> None:
        """Keep an offset under a name when the transaction commits; exceptions as `Roots`.

        What the transaction has reserved is live here, what it has freed is not.
        """
        self.update({name: offset})

    def update(self, other: Any = (), /, **more: int) -> None:
        """Set roots from a mapping or from pairs: all of them or none; exceptions as of one."""
        wanted: dict[str, int] = {}
        wanted.update(other, **more)
        places = {name: require_root(name, offset) for name, offset in wanted.items()}
        pending = self._pending(write=True)
        for name, place in places.items():
            self._require_nameable(name, place)
        pending.update(places)

    def __delitem__(self, name: str) -> None:
        """Remove a root when the transaction commits."""
        if name not in self:
            raise KeyError(name)
        self._pending(write=True)[name] = None
