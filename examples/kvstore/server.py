"""server: a store behind a socket, for clients of Redis.

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
closed before takes the reply along.

Keys that have expired are removed every `PURGE_SECONDS`; they are absent before that.

Clients speak RESP2 or RESP3. There is no password and no encryption: it listens on the loopback
address unless told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

from kvstore.commands import LAST_WORDS, Call, Commands, Facts, Limits, Session
from kvstore.resp import MAX_REQUEST, ReplyError, RequestParser, encode
from kvstore.store import KVStore
from pmemheap import PmemHeapError

__all__ = ["Server", "serve"]

MAX_CLIENTS = 10_000
TURN_REQUESTS = 1024
TURN_BYTES = 16 << 20
CLOSING_SECONDS = 2.0
PURGE_SECONDS = 60.0
LINGER_SECONDS = 2.0
"""How long a client may send nothing more before its broken connection is closed."""
LINGER_TURNS = 30
"""How often it may send more until then."""
FILES_KEPT = 32
"""Descriptors that are not for clients: the store, its log, the loop."""


class _Connection(asyncio.Protocol):
    """One client: its parser, its waiting requests, and whether it reads its replies."""

    def __init__(self, hub: _Hub, number: int) -> None:
        self.session = Session(number)
        self.waiting: deque[list[bytes]] = deque()
        self.is_clogged = False
        self._has_ended = False
        self._is_lingering = False
        self._has_sent = False
        self._hub = hub
        self._parser = RequestParser(hub.commands.limits.request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.session.address = _address(transport.get_extra_info("peername"))
        self.session.own_address = _address(transport.get_extra_info("sockname"))
        self.session.hang_up = self.close
        if not self._hub.enter(self):
            self._say_last(encode(ReplyError("ERR max number of clients reached")))

    def connection_lost(self, error: Exception | None) -> None:
        self.waiting.clear()
        self._hub.leave(self)

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            self._has_sent = True
            return
        self.waiting += self._parser.feed(data)
        if self.waiting:
            self.session.used = self._hub.now()
            self._hub.wake()
        else:
            self._end_if_broken()

    def eof_received(self) -> bool:
        self._has_ended = True
        return bool(self.waiting)

    def pause_writing(self) -> None:
        self.is_clogged = True
        self.heed_load()

    def resume_writing(self) -> None:
        self.is_clogged = False
        self.heed_load()
        if self.waiting:
            self._hub.wake()

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

    def _end_if_broken(self) -> None:
        if self._parser.error is not None:
            message = f"ERR Protocol error: {self._parser.error}"
            self._say_last(encode(ReplyError(message), self.session.protocol))

    def _say_last(self, reply: bytes) -> None:
        """Send a reply that is the last one, and close when the client has stopped sending."""
        if self._is_lingering or self._transport.is_closing():
            return
        self._is_lingering = True
        self.waiting.clear()
        self._transport.write(reply)
        if self._has_ended:
            self.close()
            return
        self._transport.write_eof()
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


class _Hub:
    """All connections, and the turns that serve them."""

    def __init__(self, store: KVStore, limits: Limits) -> None:
        self.commands = Commands(store, limits, Facts())
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self._store = store
        self._connections: set[_Connection] = set()
        self._is_awake = False

    # ------------------------------------------------------------ who is there

    def accept(self) -> _Connection:
        """Make what serves a new connection."""
        facts = self.commands.facts
        facts.connections_accepted += 1
        return _Connection(self, facts.connections_accepted)

    def enter(self, connection: _Connection) -> bool:
        """Serve a connection from now on; false if there are too many."""
        if len(self._connections) >= self.commands.limits.clients:
            self.commands.facts.connections_refused += 1
            return False
        self._connections.add(connection)
        self.commands.sessions[connection.session.number] = connection.session
        return True

    def leave(self, connection: _Connection) -> None:
        """Serve a connection no longer, if it was."""
        self._connections.discard(connection)
        self.commands.sessions.pop(connection.session.number, None)

    # ------------------------------------------------------------ turns

    def wake(self) -> None:
        """Run a turn after what the loop has at hand now."""
        if not self._is_awake:
            self._is_awake = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Run what waits, and send the replies."""
        self._is_awake = False
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
            own = [replies.popleft() for _ in range(served)]
            if own:
                connection.answer(own)
            connection.heed_load()
        if self._ready():
            self.wake()

    def _ready(self) -> list[_Connection]:
        return [one for one in self._connections if one.waiting and not one.is_clogged]

    def _take(self) -> list[tuple[_Connection, list[list[bytes]]]]:
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


def _take_from(waiting: deque[list[bytes]], most: int) -> list[list[bytes]]:
    """Take up to `most` requests, none behind one that ends the connection."""
    taken: list[list[bytes]] = []
    while waiting and len(taken) < most:
        taken.append(waiting.popleft())
        if taken[-1][0].upper() in LAST_WORDS:
            waiting.clear()
    return taken


def _limits(max_request: int, max_clients: int) -> Limits:
    """Return what clients may ask for; there are no more of them than the process has files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY:
        max_clients = max(min(max_clients, files - FILES_KEPT), 1)
    return Limits(request=max_request, transaction=max_request, value=max_request,
                  clients=max_clients)  # fmt: skip


async def _listen(hub: _Hub, host: str, port: int) -> asyncio.Server:
    """Listen at all addresses of a name, at one port."""
    server = await hub.loop.create_server(hub.accept, host, port, backlog=512)
    if not port and len(server.sockets) > 1:  # each has another one
        port = server.sockets[0].getsockname()[1]
        server.close()
        server = await hub.loop.create_server(hub.accept, host, port, backlog=512)
    return server


async def _serve(
    store: KVStore,
    host: str,
    port: int,
    limits: Limits,
    started: Callable[[int, asyncio.Event], None],
) -> None:
    """Serve until the event is set that `started` is handed together with the port."""
    hub = _Hub(store, limits)
    stop = asyncio.Event()
    server = await _listen(hub, host, port)
    purging = hub.loop.create_task(hub.purge())
    try:
        facts = hub.commands.facts
        facts.host, facts.port = host, server.sockets[0].getsockname()[1]
        started(facts.port, stop)
        await stop.wait()
    finally:
        purging.cancel()
        server.close()
        await hub.finish()


def serve(  # noqa: PLR0913 -- options, by name
    store: KVStore,
    host: str = "127.0.0.1",
    port: int = 6380,
    *,
    max_request: int = MAX_REQUEST,
    max_clients: int = MAX_CLIENTS,
    ready: Callable[[int], None] | None = None,
) -> None:
    """Serve a store until SIGINT or SIGTERM; to be called in the main thread.

    Requests that have arrived by then are served. The store is left open.

    Parameters
    ----------
    store : KVStore
        Open; used by this thread only, meanwhile.
    host : str
        Address to listen on. Whoever can reach it can read and change everything.
    port : int
        0: any that is free.
    max_request : int
        Bytes of one request, of all between MULTI and EXEC, and of a value that APPEND or SETRANGE
        makes longer.
    max_clients : int
        Connections at a time; fewer if the process may not have as many files.
    ready : callable, optional
        Called with the port when clients can connect.

    Raises
    ------
    OSError
        The address is in use, or cannot be had.
    """

    def started(port: int, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if ready is not None:
            ready(port)

    asyncio.run(_serve(store, host, port, _limits(max_request, max_clients), started))


class Server:
    """A server in a thread of its own; a context manager that starts and stops it.

    Parameters
    ----------
    store, host, port, max_request, max_clients
        As of `serve`; the port is any free one by default.

    Attributes
    ----------
    port : int
        The one that clients connect to, once it is started.
    """

    def __init__(
        self,
        store: KVStore,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_request: int = MAX_REQUEST,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self.port = port
        self._arguments = (store, host, port, _limits(max_request, max_clients))
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Start; return when clients can connect. OSError if the address cannot be had."""
        self._ready.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run, name="kvstore-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def stop(self) -> None:
        """Serve what has arrived, and end; return when that is done. Nothing if it has ended."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(_serve(*self._arguments, self._started))
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    def _started(self, port: int, stop: asyncio.Event) -> None:
        self.port = port
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._ready.set()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()
