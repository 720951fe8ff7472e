"""Session: what is remembered of a connection, and what MULTI has collected in it.

    MULTI  -->  Queue: requests, whether one was refused
    WATCH  -->  keys, each with what `Keyspace.seen` said of it

A session may be put back as it was: the batch in which it was changed may have failed as a whole,
and is run again in parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

__all__ = ["Queue", "Session", "Silence"]


class Silence(IntEnum):
    """Which replies a client does not want."""

    NONE = 0
    OFF = 1
    """All."""
    SKIPS = 2
    """The one of the command that asked for it, and the next."""
    SKIPS_NEXT = 3

    def after(self) -> Silence:
        """Return what is wanted after a reply that was left out."""
        return Silence.OFF if self is Silence.OFF else _AFTER_SKIP[self]


_AFTER_SKIP = {
    Silence.NONE: Silence.NONE, Silence.SKIPS: Silence.SKIPS_NEXT, Silence.SKIPS_NEXT: Silence.NONE
}  # fmt: skip


@dataclass
class Queue:
    """What is to be run by EXEC.

    Attributes
    ----------
    requests : list
        In order, each as the client sent it.
    nbytes : int
        Of all of them.
    is_broken : bool
        One was refused: EXEC will be, too.
    """

    requests: list[list[bytes]] = field(default_factory=list)
    nbytes: int = 0
    is_broken: bool = False


def _nothing() -> None:
    """Do nothing: there is no connection to end."""


def _no_sizes() -> tuple[int, int]:
    """Return what a connection holds that is none."""
    return 0, 0


@dataclass(eq=False)
class Session:
    """What is remembered of a connection.

    Attributes
    ----------
    number : int
        Of the connection.
    name, library, library_version : bytes
        As the client says.
    protocol : {2, 3}
        In which RESP replies are written.
    quitting : bool
        The connection ends after the reply that is given now.
    silence : Silence
        Which replies are left out.
    queue : Queue or None
        Since MULTI.
    watched : dict
        Keys that WATCH named, and what was seen of them.
    address, own_address : str
        Of the client, and of the server as the client sees it.
    began, used : float
        Moments of the monotonic clock: of the connection, and of the latest batch with it.
    hang_up : callable
        Ends the connection.
    sizes : callable
        Returns the bytes of a request that is not complete, and of replies that are not read.
    """

    number: int
    name: bytes = b""
    library: bytes = b""
    library_version: bytes = b""
    protocol: int = 2
    quitting: bool = False
    silence: Silence = Silence.NONE
    queue: Queue | None = None
    watched: dict[bytes, object] = field(default_factory=dict)
    address: str = ""
    own_address: str = ""
    began: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)
    hang_up: Callable[[], None] = _nothing
    sizes: Callable[[], tuple[int, int]] = _no_sizes

    def end(self) -> None:
        """Let go of what is kept for a client that has gone."""
        self.queue = None
        self.watched = {}
        self.hang_up = _nothing
        self.sizes = _no_sizes

    def saved(self) -> dict[str, Any]:
        """Return what `restore` wants."""
        state = dict(vars(self))
        if self.watched:
            state["watched"] = dict(self.watched)
        if self.queue is not None:
            queue = self.queue
            state["of_queue"] = (len(queue.requests), queue.nbytes, queue.is_broken)
        return state

    def restore(self, saved: dict[str, Any]) -> None:
        """Be as it was when `saved` returned this. Once: the session takes it for its own."""
        of_queue = saved.pop("of_queue", None)
        vars(self).update(saved)
        if self.queue is not None and of_queue is not None:
            count, self.queue.nbytes, self.queue.is_broken = of_queue
            del self.queue.requests[count:]
