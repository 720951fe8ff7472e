r"""running: requests in, replies out, and what the commands of all connections share.

    [(session, [b"SET", b"k", b"v"]), ...] ---> Commands.run ---> [b"+OK\r\n", ...]
                                                     |
                                                     +--> one transaction of the store, if two or
                                                          more of them write: one durable commit

What a command refuses, a value that is no number or a key that is too long, has changed nothing: it
is a reply like others and does not disturb the rest of its batch. A batch that fails as a whole,
because it has no room in the log, say, has changed nothing either: sessions are put back as they
were, and it is run again in halves, down to single commands, whose error is their reply.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pmemheap.kvstore.commands.keys import Cursors
from pmemheap.kvstore.commands.keyspace import Keyspace
from pmemheap.kvstore.commands.registry import (
    Command,
    command_of,
    find,
    unknown_command,
    unknown_subcommand,
    wrong_number,
)
from pmemheap.kvstore.commands.session import Session
from pmemheap.kvstore.commands.transactions import enqueue
from pmemheap.kvstore.resp import MAX_REQUEST, Reply, ReplyError, encode
from pmemheap.kvstore.store import KVStore

__all__ = ["Call", "Commands", "Facts", "Limits"]

Call = tuple[Session, list[bytes]]
_Resolved = tuple[Session, list[bytes], Command | None]


@dataclass(frozen=True)
class Limits:
    """What clients may ask for.

    Attributes
    ----------
    request, transaction, value, reply : int
        Bytes of one request; of all between MULTI and EXEC; of a value that a command makes longer;
        of the strings in one reply.
    clients : int
        Connections at a time.
    """

    request: int = MAX_REQUEST
    transaction: int = MAX_REQUEST
    value: int = MAX_REQUEST
    reply: int = MAX_REQUEST
    clients: int = 10_000


@dataclass
class Facts:
    """What the server adds to INFO and CONFIG."""

    host: str = ""
    port: int = 0
    started: float = field(default_factory=time.monotonic)
    run_id: str = field(default_factory=lambda: secrets.token_hex(20))
    connections_accepted: int = 0
    connections_refused: int = 0
    keys_purged: int = 0


class Commands:
    """The commands over one store. Not thread-safe: one thread runs all of them.

    Parameters
    ----------
    store : KVStore
        Open.
    limits : Limits, optional
        What clients may ask for.
    facts : Facts, optional
        What the server knows.

    Attributes
    ----------
    sessions : dict
        All connections, by their numbers; the server that accepts one enters it.
    is_batch : bool
        What is run now is part of a transaction of more.
    """

    def __init__(
        self, store: KVStore, limits: Limits | None = None, facts: Facts | None = None
    ) -> None:
        self.store = store
        self.keys: Keyspace = Keyspace(store)
        self.limits: Limits = limits or Limits()
        self.facts: Facts = facts or Facts()
        self.sessions: dict[int, Session] = {}
        self.cursors: Cursors = Cursors()
        self.scripts: dict[str, str] = {}
        self.commands_run: int = 0
        self.saved_at: float = time.time()
        self.is_batch: bool = False
        self._uses = self.keys.uses

    # ------------------------------------------------------------ running

    def run(self, calls: Sequence[Call], most_bytes: int | None = None) -> list[bytes]:
        """Run commands in order; return their replies, encoded.

        Parameters
        ----------
        calls : sequence of Call
            At least one.
        most_bytes : int, optional
            No further command is begun when the replies have as many bytes.

        Returns
        -------
        list of bytes
            One for each command that was run: the first ones of `calls`, at least one. It is empty
            where the client wants no reply.
        """
        resolved = [(session, request, command_of(request)) for session, request in calls]
        return self._run(resolved, most_bytes)

    def _run(self, calls: Sequence[_Resolved], most_bytes: int | None) -> list[bytes]:
        if len(calls) < 2 or sum([one is not None and one.writes for _, _, one in calls]) < 2:
            return list(self._replies(calls, most_bytes))
        before = {
            session: session.saved()
            for session, _, one in calls
            if session.queue is not None or session.silence or (one and one.changes_session)
        }
        versions = self.keys.saved()
        try:
            with self.store.transaction():
                self.is_batch = True
                return list(self._replies(calls, most_bytes))
        except Exception:
            for session, saved in before.items():
                session.restore(saved)
            self.keys.restore(versions)
        finally:
            self.is_batch = False
        return self._run_halves(calls, most_bytes)

    def _run_halves(self, calls: Sequence[_Resolved], most_bytes: int | None) -> list[bytes]:
        half = len(calls) // 2
        replies = self._run(calls[:half], most_bytes)
        if len(replies) == half and (most_bytes is None or sum(map(len, replies)) < most_bytes):
            replies += self._run(calls[half:], most_bytes)
        return replies

    def _replies(self, calls: Iterable[_Resolved], most_bytes: int | None) -> Iterator[bytes]:
        produced = 0
        for session, request, one in calls:
            reply = encode(self.reply(session, request, one), session.protocol)
            if session.silence:
                session.silence = session.silence.after()
                reply = b""
            produced += len(reply)
            yield reply
            if most_bytes is not None and produced >= most_bytes:
                return

    def reply(self, session: Session, request: list[bytes], one: Command | None) -> Reply:
        """Run a command, or queue it; return its reply, which may be an error.

        What fails for more than this command is raised while it is part of a batch.
        """
        self.commands_run += 1
        try:
            if session.queue is not None and not (one is not None and one.is_immediate):
                return enqueue(self, session, request, one)
            if one is None:
                raise unknown_command(request)
            if not one.least <= len(request) - 1 <= one.most:
                raise wrong_number(one.shown_name)
            if self._uses and one.keys is not None:
                self.keys.note_uses(one.keys.of(request))
            return one.run(self, session, request[1:])
        except ReplyError as error:
            return error
        except ValueError as error:
            return ReplyError(f"ERR {error}")
        except Exception as error:
            if self.is_batch:
                raise
            return ReplyError(f"{'OOM' if isinstance(error, MemoryError) else 'ERR'} {error}")

    # ------------------------------------------------------------ for MULTI and EXEC

    def refusal(self, request: list[bytes], one: Command | None) -> ReplyError | None:
        """Return why a request cannot be queued, if it cannot."""
        if one is None:
            return unknown_command(request)
        if "no_multi" in one.flags:
            return ReplyError("ERR Command not allowed inside a transaction")
        if not one.subcommands or len(request) < 2:
            return one.refused(len(request) - 1)
        sub = find(request[:2])
        return unknown_subcommand(one, request[1]) if sub is None else sub.refused(len(request) - 2)

    def writes(self, request: list[bytes]) -> bool:
        """Tell whether a request may change the store."""
        one = command_of(request)
        return one is not None and one.writes

    def run_queued(self, session: Session, requests: Iterable[list[bytes]]) -> list[Reply]:
        """Run what was queued; return the replies.

        Raises
        ------
        Exception
            Whatever failed for more than one command; all of it is to be taken back.
        ReplyError
            The replies are larger than `Limits.reply`; as above.
        """
        before, self.is_batch = self.is_batch, True
        try:
            return self.bounded(
                self.reply(session, request, command_of(request)) for request in requests
            )
        finally:
            self.is_batch = before

    def bounded(self, replies: Iterable[Reply]) -> list[Reply]:
        """Return replies in a list, if they are not too large together; ReplyError if they are."""
        found: list[Reply] = []
        left = self.limits.reply
        for reply in replies:
            left -= _size(reply)
            if left < 0:
                raise ReplyError(f"ERR reply of more than {self.limits.reply} bytes")
            found.append(reply)
        return found

    def require_value(self, nbytes: int) -> None:
        """Refuse a value that becomes too long."""
        if nbytes > self.limits.value:
            raise ReplyError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")


def _size(reply: Reply) -> int:
    """Return about how many bytes a reply has."""
    if isinstance(reply, bytes):
        return len(reply) + 8
    if isinstance(reply, list):
        return 8 + sum(map(_size, reply))
    return 8
