"""connections: the clients of a server, and the turns in which their requests are run.

    connections ---> RequestParser ---> waiting requests --+
                                                            +--> one turn: Commands.run ---> replies
    connections ---> RequestParser ---> waiting requests --+

One thread, one event loop. What has arrived on all connections when the loop comes round is run in
one *turn*: in a power store that is one durable commit for all of it, be it one client that sends
its requests in a pipeline or a hundred that wait for their replies. Replies are written after that
commit: a client that has its reply has its data on the disk.

Bounds: a turn runs at most `TURN_REQUESTS` requests and begins none after `TURN_BYTES` of replies.
A connection that does not read its replies, or that has requests waiting after a turn, is not read
from until that is over. One that sends a request larger than allowed, or one that is no request, is
told so: its stream cannot be picked up again, so all that follows is thrown away, and the server
ends its side at once. It closes when the client has stopped sending, because a connection that is
closed before takes the reply along. All connections together hold at most `HELD_MOST` bytes of
requests that are not complete or wait for EXEC: one that would add to them is told so and ended.
Of replies that nobody reads they hold at most `UNSENT_MOST`: the longest ones are given up.

Keys that have expired are removed every `PURGE_SECONDS`; they are absent before that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import cast

from pmemheap import PmemHeapError
from pmemheap.kvstore.commands import LAST_WORDS, Call, Commands, Facts, Limits, Session
from pmemheap.kvstore.resp import ReplyError, RequestParser, encode
from pmemheap.kvstore.store import KVStore

__all__ = ["Connection", "Hub"]

TURN_REQUESTS = 1024
TURN_BYTES = 16 << 20
CLOSING_SECONDS = 2.0
PURGE_SECONDS = 60.0
LINGER_SECONDS = 2.0
"""How long a client may send nothing more before its broken connection is closed."""
LINGER_TURNS = 30
"""How often it may send more until then."""
HELD_MOST = 1 << 30
UNSENT_MOST = 512 << 20
_STEP = 20  # bits: what is held is counted again when a connection has sent another MiB


class Connection(asyncio.Protocol):
    """One client: its parser, its waiting requests, and whether it reads its replies.

    Parameters
    ----------
    hub : Hub
        Serves it.
    number : int
        Of the connection.
    """

    def __init__(self, hub: Hub, number: int) -> None:
        self.session: Session = Session(number)
        self.waiting: deque[list[bytes]] = deque()
        self.is_clogged: bool = False
        self._has_ended = False
        self._is_lingering = False
        self._has_sent = False
        self._received = 0
        self._hub = hub
        self._parser = RequestParser(hub.commands.limits.request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve it, or say that there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self.session.address = _address(transport.get_extra_info("peername"))
        self.session.own_address = _address(transport.get_extra_info("sockname"))
        self.session.hang_up = self.close
        self.session.sizes = self._sizes
        if not self._hub.enter(self):
            self._say_last(encode(ReplyError("ERR max number of clients reached")))

    def connection_lost(self, error: Exception | None) -> None:
        """Let go of all that was kept for it."""
        self.waiting.clear()
        self.session.end()
        self._parser = RequestParser()
        self._hub.leave(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and have the requests run that they complete."""
        if self._is_lingering:
            self._has_sent = True
            return
        self.waiting += self._parser.feed(data)
        if self.waiting:
            self.session.used = self._hub.now()
            self._hub.run_soon()
        else:
            self._end_if_broken()
        before, self._received = self._received, self._received + len(data)
        if before >> _STEP != self._received >> _STEP and not self._hub.has_room():
            message = f"ERR unfinished requests of all clients have more than {HELD_MOST} bytes"
            self._say_last(encode(ReplyError(message)))

    @property
    def held(self) -> int:
        """Bytes of requests that are not complete, or wait for EXEC."""
        queue = self.session.queue
        return self._parser.held + (queue.nbytes if queue is not None else 0)

    @property
    def unsent(self) -> int:
        """Bytes of replies that the client has not read."""
        return self._transport.get_write_buffer_size()

    def eof_received(self) -> bool:
        """Stay open, to write, while requests wait."""
        self._has_ended = True
        return bool(self.waiting)

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        self.is_clogged = True
        self.heed_load()
        self._hub.heed_unsent()

    def resume_writing(self) -> None:
        """Note that it reads again."""
        self.is_clogged = False
        self.heed_load()
        if self.waiting:
            self._hub.run_soon()

    def answer(self, replies: list[bytes]) -> None:
        """Send the replies of a turn."""
        if self._transport.is_closing():
            return
        self._transport.write(b"".join(replies))
        if self.session.quitting:
            self._say_last(b"")
        elif not self.waiting:
            self._end_if_broken()
            if self._has_ended:
                self.close()

    def heed_load(self) -> None:
        """Read on if nothing waits here, in either direction."""
        if self._transport.is_closing():
            return
        if (self.waiting or self.is_clogged) and not self._is_lingering:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        """Take nothing more; end when what was written has gone out."""
        self.waiting.clear()
        self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def _sizes(self) -> tuple[int, int]:
        return self._parser.held, self.unsent

    def _end_if_broken(self) -> None:
        if self._parser.error is not None:
            self._say_last(encode(ReplyError(f"ERR Protocol error: {self._parser.error}")))

    def _say_last(self, reply: bytes) -> None:
        """Send a reply that is the last one, and close when the client has stopped sending."""
        if self._is_lingering or self._transport.is_closing():
            return
        self._is_lingering = True
        self.waiting.clear()
        self.session.end()
        self._parser = RequestParser()
        self._transport.write(reply)
        if self._has_ended:
            self.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection
            self.abort()
            return
        self._transport.resume_reading()
        self._linger(LINGER_TURNS)

    def _linger(self, turns: int) -> None:
        """Close if the client has sent nothing since the last turn, or after too many of them."""
        if self._transport.is_closing():
            return
        if not turns or (turns < LINGER_TURNS and not self._has_sent):
            self.close()
            return
        self._has_sent = False
        self._hub.loop.call_later(LINGER_SECONDS, self._linger, turns - 1)


def _address(name: object) -> str:
    """Return an address of a socket as Redis writes it."""
    if not isinstance(name, tuple):
        return str(name or "")
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


class Hub:
    """All connections, and the turns that serve them; made inside of the event loop.

    Parameters
    ----------
    store : KVStore
        Open.
    limits : Limits
        What clients may ask for.
    """

    def __init__(self, store: KVStore, limits: Limits) -> None:
        self.commands: Commands = Commands(store, limits, Facts())
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self.loop.time
        self._store = store
        self._connections: set[Connection] = set()
        self._is_due = False

    # ------------------------------------------------------------ who is there

    def accept(self) -> Connection:
        """Make what serves a new connection."""
        facts = self.commands.facts
        facts.connections_accepted += 1
        return Connection(self, facts.connections_accepted)

    def enter(self, connection: Connection) -> bool:
        """Serve a connection from now on; false if there are too many."""
        if len(self._connections) >= self.commands.limits.clients:
            self.commands.facts.connections_refused += 1
            return False
        self._connections.add(connection)
        self.commands.sessions[connection.session.number] = connection.session
        return True

    def leave(self, connection: Connection) -> None:
        """Serve a connection no longer, if it was."""
        self._connections.discard(connection)
        self.commands.sessions.pop(connection.session.number, None)

    def has_room(self) -> bool:
        """Tell whether all connections together hold as much of requests as they may."""
        return sum([one.held for one in self._connections]) <= HELD_MOST

    def heed_unsent(self) -> None:
        """End the connections with the most unread replies, while there are too many bytes."""
        clogged = sorted((one for one in self._connections if one.is_clogged), key=_unsent)
        total = sum(map(_unsent, clogged))
        while total > UNSENT_MOST:
            longest = clogged.pop()
            total -= longest.unsent
            longest.abort()

    # ------------------------------------------------------------ turns

    def run_soon(self) -> None:
        """Run a turn after what the loop has at hand now."""
        if not self._is_due:
            self._is_due = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Run what waits, and send the replies."""
        self._is_due = False
        taken = self._take()
        calls: list[Call] = [
            (connection.session, request) for connection, requests in taken for request in requests
        ]
        try:
            replies = deque(self.commands.run(calls, TURN_BYTES) if calls else ())
        except BaseException:
            for connection, _ in taken:  # no client is to wait for a reply that never comes
                connection.abort()
            raise
        for connection, requests in taken:
            served = min(len(requests), len(replies))
            connection.waiting.extendleft(reversed(requests[served:]))
            self._answer(connection, [replies.popleft() for _ in range(served)])
        if self._ready():
            self.run_soon()

    def _answer(self, connection: Connection, replies: list[bytes]) -> None:
        """Send the replies of one connection; what fails there is no matter of the others."""
        try:
            if replies:
                connection.answer(replies)
            connection.heed_load()
        except Exception as error:
            connection.abort()
            self.loop.call_exception_handler({"message": "a reply failed", "exception": error})

    def _ready(self) -> list[Connection]:
        return [one for one in self._connections if one.waiting and not one.is_clogged]

    def _take(self) -> list[tuple[Connection, list[list[bytes]]]]:
        """Take from each connection a fair part of what a turn may run."""
        ready = self._ready()
        share = max(TURN_REQUESTS // max(len(ready), 1), 1)
        return [(one, _take_from(one.waiting, share)) for one in ready[:TURN_REQUESTS]]

    # ------------------------------------------------------------ beside them

    async def purge(self) -> None:
        """Remove what has expired, again and again."""
        while True:
            await asyncio.sleep(PURGE_SECONDS)
            with contextlib.suppress(PmemHeapError):  # clients hear of it by their own commands
                while removed := self._store.purge(most=TURN_REQUESTS):
                    self.commands.facts.keys_purged += removed
                    await asyncio.sleep(0)  # clients have their turns in between

    async def finish(self) -> None:
        """Serve what waits, send what is written, and end all connections."""
        while self._ready():
            self._turn()
        for connection in list(self._connections):
            connection.close()
        deadline = self.now() + CLOSING_SECONDS
        while self._connections and self.now() < deadline:
            await asyncio.sleep(0.005)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)


def _unsent(connection: Connection) -> int:
    return connection.unsent


def _take_from(waiting: deque[list[bytes]], most: int) -> list[list[bytes]]:
    """Take up to `most` requests, none behind one that ends the connection."""
    taken: list[list[bytes]] = []
    while waiting and len(taken) < most:
        taken.append(waiting.popleft())
        if taken[-1][0].upper() in LAST_WORDS:
            waiting.clear()
    return taken
