"""Ledger: what the heaps of one budget hold, and whether one of them may grow.

    Region.grow ──► growth ── room? ──► the medium
                       │ no: OverBudgetError, with which the call ends that wanted it
                       ▼
    no lock is held ──► again: members give back, then evict ──► the call once more

A call that raises has changed nothing, so it can be made again. What others have to do for it, they
do in between, where this thread has no lock of any heap: so none is ever waited for in wrong order.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from pmemheap.errors import OutOfSpaceError
from pmemheap.units import format_bytes

__all__ = ["Ledger", "Member", "OverBudgetError"]

T = TypeVar("T")

_TRIES_MOST = 1000
"""Evictions in a row after which something must have become free, or it is given up."""


class OverBudgetError(OutOfSpaceError):
    """A growth for which a budget has no room, before others were asked to make some.

    Attributes
    ----------
    nbytes : int
        What it wanted.
    """

    def __init__(self, message: str, nbytes: int = 0) -> None:
        super().__init__(message)
        self.nbytes = nbytes


class Member(Protocol):
    """A heap that is in a budget."""

    @property
    def name(self) -> str:
        """Name of the heap."""

    @property
    def is_open(self) -> bool:
        """Whether it holds anything in this process."""

    def parts(self) -> list[tuple[str, int]]:
        """Return the names of its arenas, and the bytes that each has."""

    def gave_back(self) -> bool:
        """Let free space go if there may be some to go; tell whether it was tried."""

    def give_back(self) -> None:
        """Let free space go."""

    def live_bytes(self) -> int:
        """Return the bytes of its live blocks."""


class Ledger:
    """The members of a budget, its limit, and who is growing.

    Attributes
    ----------
    limit : int
        Bytes that the members may hold together.
    evict : callable or None
        Asked to free so many bytes when there is no room.
    """

    limit: int
    evict: Callable[[int], object] | None

    def __init__(self, limit: int, evict: Callable[[int], object] | None) -> None:
        self.limit, self.evict = limit, evict
        self._members: list[Member] = []
        self._begin()

    def _begin(self) -> None:
        """Begin with nobody at work: no thread of a parent process is here."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._growing: dict[int, int] = {}  # bytes, by thread
        self._evicting: set[int] = set()
        self._insisting: set[int] = set()
        self._again: set[int] = set()

    # ------------------------------------------------------------ who is in it

    def members(self) -> list[Member]:
        """Return the heaps that are open."""
        return [member for member in self._members if member.is_open]

    def join(self, member: Member) -> None:
        """Take a heap in; the others that are open stay."""
        self._require_process()
        with self._lock:
            self._members = [*self.members(), member]

    def leave(self, member: Member) -> None:
        """Let a heap go."""
        self._require_process()
        with self._lock:
            self._members = [each for each in self.members() if each is not member]

    def _require_process(self) -> None:
        if os.getpid() != self._process:
            self._begin()

    # ------------------------------------------------------------ what they have

    def held(self) -> int:
        """Return the bytes that all members have. O(arenas)."""
        return sum(nbytes for member in self.members() for _, nbytes in member.parts())

    def room(self) -> int:
        """Return the bytes by which members may grow now, below 0 if they have too much."""
        growing = sum(self._growing.copy().values())  # first: what ends now counts twice, not never
        return self.limit - growing - self.held()

    def refusal(self, nbytes: int) -> str:
        """Say what was wanted, who has what, and what would help."""
        held = [(sum(size for _, size in m.parts()), m.name) for m in self.members()]
        rows = ", ".join(f"{format_bytes(size)} by {name}" for size, name in sorted(held)[::-1])
        if self.evict is None:
            asked = "an evict= that frees"
        else:
            asked = "an evict that frees more than this one, which has no more"
        return (
            f"budget of {format_bytes(self.limit)}: room for a growth by {format_bytes(nbytes)} "
            f"expected, {format_bytes(max(self.room(), 0))} found; held: {rows}; a higher limit, "
            f"or {asked}, would help"
        )

    # ------------------------------------------------------------ growing

    @contextmanager
    def growth(self, nbytes: int) -> Iterator[None]:
        """Let a member grow in the block.

        Raises
        ------
        OutOfSpaceError
            There is no room: an `OverBudgetError` if others can be asked for some. Or this thread
            is in the middle of `evict`.
        """
        thread = threading.get_ident()
        self._admit(thread, nbytes)
        try:
            yield
        finally:
            self._growing.pop(thread, None)

    def _admit(self, thread: int, nbytes: int) -> None:
        self._require_process()
        if thread in self._evicting:
            raise OutOfSpaceError(
                "budget: an evict that frees expected, found one that allocates: a heap would have "
                f"to grow by {format_bytes(nbytes)} for it"
            )
        with self._lock:
            if nbytes <= self.room():
                self._growing[thread] = nbytes
                return
        if thread in self._insisting:
            raise OutOfSpaceError(self.refusal(nbytes))
        raise OverBudgetError(self.refusal(nbytes), nbytes)

    # ------------------------------------------------------------ making room

    def again(self, call: Callable[[], T], nbytes: int) -> T:
        """Make a call again that wanted to grow, each time that others have made room for it.

        The thread has no lock of a heap. What `evict` raises, the caller gets.

        Raises
        ------
        OutOfSpaceError
            They have made none.
        """
        if self.room() < 0:  # what is given back in this state cannot be had again
            with suppress(OutOfSpaceError):
                return self._among(self._insisting, call)
        tries, live = 0, 0
        while self._made_room(nbytes):
            try:
                return self._among(self._again, call)
            except OverBudgetError as over:
                nbytes = over.nbytes
            if tries % _TRIES_MOST == 0:
                before, live = live, sum(member.live_bytes() for member in self.members())
                if tries and live >= before:
                    break
            tries += 1
        for member in self.members():
            member.give_back()
        return self._among(self._insisting, call)

    @property
    def is_again(self) -> bool:
        """Whether this thread makes a call again for which others have freed."""
        return threading.get_ident() in self._again

    def _made_room(self, nbytes: int) -> bool:
        """Let one member give back, or else evict; tell whether it is worth a try now."""
        return (
            any(member.gave_back() for member in self.members())
            or self.room() >= nbytes
            or self._evicts(nbytes - max(self.room(), 0))
        )

    def _evicts(self, nbytes: int) -> bool:
        evict = self.evict
        return evict is not None and self._among(self._evicting, lambda: bool(evict(nbytes)))

    def _among(self, threads: set[int], call: Callable[[], T]) -> T:
        """Make a call with this thread among some threads."""
        thread = threading.get_ident()
        threads.add(thread)
        try:
            return call()
        finally:
            threads.discard(thread)
