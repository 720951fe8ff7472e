"""What the tests of the store's server share: clients, raw streams, commands without a socket."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import redis

from pmemheap.kvstore.commands import Commands, Session
from pmemheap.kvstore.resp import encode_request
from pmemheap.kvstore.server import Server
from pmemheap.kvstore.store import KVStore

TOOLS_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


@pytest.fixture(params=["power", "process"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KVStore]:
    with KVStore(tmp_path / "a.kv", durability=request.param) as store:
        yield store


@pytest.fixture
def port(store: KVStore) -> Iterator[int]:
    with Server(store) as running:
        yield running.port


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[Direct]:
    with KVStore(tmp_path / "direct.kv", durability="process") as store:
        yield Direct(store)
        store.check()


def client_of(port: int, **options: Any) -> Any:
    return redis.Redis(port=port, socket_timeout=20, **options)


def talk(port: int, *pieces: bytes) -> bytes:
    """Send bytes, end the stream, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


class Direct:
    """Commands without a socket, as one client or several send them; replies as Python has them.

    A line is split at spaces; an error is a text that begins with ``-``, a status one that begins
    with ``+``, a missing array is `NONE`.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.commands = Commands(store)
        self.session = self.client()

    def client(self) -> Session:
        session = Session(len(self.commands.sessions) + 1)
        self.commands.sessions[session.number] = session
        return session

    def __call__(self, *line: str | bytes, by: Session | None = None) -> Any:
        (reply,) = self.run(line if len(line) > 1 else line[0].split(), by=by)
        return reply

    def run(self, *lines: Any, by: Session | None = None, most: int | None = None) -> list[Any]:
        """Run some lines as one batch."""
        session = by or self.session
        calls = [(session, words_of(line)) for line in lines]
        return [decode(one) if one else "" for one in self.commands.run(calls, most)]

    def raw(self, line: str) -> bytes:
        (reply,) = self.commands.run([(self.session, words_of(line))])
        return reply


class Counting:
    """A store that counts its outermost transactions."""

    def __init__(self, store: KVStore) -> None:
        self._upstream = store
        self.begun = 0

    def transaction(self, durable: bool | None = None) -> Any:
        self.begun += 1
        return self._upstream.transaction(durable)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upstream, name)

    def __contains__(self, key: object) -> bool:
        return key in self._upstream

    def __len__(self) -> int:
        return len(self._upstream)


NONE = ["*-1"]


def words_of(line: Any) -> list[bytes]:
    words = line.split() if isinstance(line, str | bytes) else line
    return [word.encode() if isinstance(word, str) else word for word in words]


def decode(reply: bytes) -> Any:
    """Return a reply of RESP2 or RESP3 as Python has it."""
    stream = io.BytesIO(reply)
    found = read_reply(stream)
    assert not stream.read(), "one reply, and nothing behind it"
    return found


def read_reply(stream: BinaryIO) -> Any:
    line = stream.readline()
    kind, rest = line[:1], line[1:-2]
    assert line[-2:] == b"\r\n", line
    match kind:
        case b"+" | b"-":
            return (kind + rest).decode()
        case b":":
            return int(rest)
        case b"_":
            return None
        case b"$" | b"=" if int(rest) >= 0:
            return stream.read(int(rest) + 2)[:-2]
        case b"*" | b"~" if int(rest) >= 0:
            return [read_reply(stream) for _ in range(int(rest))]
        case b"%":
            return {read_reply(stream): read_reply(stream) for _ in range(int(rest))}
        case b"*":
            return NONE
        case b"$":
            return None
    raise AssertionError(line)


def requests(*lines: str) -> bytes:
    """Return lines as a client sends them."""
    return b"".join(encode_request(*words_of(line)) for line in lines)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install redis-tools")
    return found


def run_tool(name: str, *arguments: object, text: str = "") -> str:
    done = subprocess.run(
        [tool(name), *map(str, arguments)],
        input=text, capture_output=True, text=True, timeout=60, env=TOOLS_ENVIRONMENT, check=True,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout
