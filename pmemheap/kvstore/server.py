"""server: a store behind a socket, for clients of Redis.

One thread, one event loop; `connections` has what goes on in it. Clients speak RESP2 or RESP3.
There is no password and no encryption: it listens on the loopback address unless told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pmemheap.kvstore.commands import Limits
from pmemheap.kvstore.connections import Hub
from pmemheap.kvstore.resp import MAX_REQUEST
from pmemheap.kvstore.store import KVStore

__all__ = ["Server", "serve"]

MAX_CLIENTS = 10_000
FILES_KEPT = 32
"""Descriptors that are not for clients: the store, its log, the loop."""


def _limits(max_request: int, max_clients: int) -> Limits:
    """Return what clients may ask for; there are no more of them than the process has files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY:
        max_clients = max(min(max_clients, files - FILES_KEPT), 1)
    return Limits(request=max_request, transaction=max_request, value=max_request,
                  reply=max(max_request, MAX_REQUEST), clients=max_clients)  # fmt: skip


async def _listen(hub: Hub, host: str, port: int) -> asyncio.Server:
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
    hub = Hub(store, limits)
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
        Address to listen on. Every client that can reach it can read and change everything.
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
        self.port: int = port
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
