"""Random pipelines and random bytes from several clients at once, seeded.

Pipelines: each client has keys of its own, so its replies have to be those of a server that it has
for itself. Bytes: streams that were requests before they were cut, repeated and changed; a client
beside them notices nothing, and no key is there that no request has named.

More rounds: KVSTORE_NOISE=100 pytest tests/test_kvstore_noise.py
"""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kvstore_redis_load import KEYS, request
from redis_world import client_of, words_of

from pmemheap import DurabilityName
from pmemheap.kvstore.commands import Commands, Session
from pmemheap.kvstore.resp import encode_request
from pmemheap.kvstore.server import Server
from pmemheap.kvstore.store import KVStore

ROUNDS = int(os.environ.get("KVSTORE_NOISE", "1"))
CLIENTS = 5
MAX_REQUEST = 100_000
OWN = {*KEYS, "fl"}
OF_ALL = {"KEYS", "DBSIZE", "SAVE", "FLUSHALL", "SWAPDB"}
"""What concerns the keys of others, or takes long."""
NUMBER = re.compile(rb"\$2\r\nid\r\n:\d+\r\n")
"""Of a connection, in the reply of HELLO."""


def fixed_clock() -> int:
    return 1_800_000_000 * 10**9


def own_request(rng: random.Random, prefix: str) -> list[bytes]:
    """Return a random request on keys that begin with a prefix."""
    while True:
        words = ["HELLO", rng.choice("23")] if rng.random() < 0.05 else request(rng)
        if words[0].upper() not in OF_ALL:
            return words_of([prefix + word if word in OWN else word for word in words])


def pieces(rng: random.Random, stream: bytes) -> list[bytes]:
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randrange(40)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def send_in_pieces(connection: socket.socket, rng: random.Random, stream: bytes) -> None:
    for piece in pieces(rng, stream):
        connection.sendall(piece)
        if rng.random() < 0.1:
            time.sleep(rng.random() / 100)


def replies_of(port: int, stream: bytes, seed: int) -> bytes:
    """Send a stream in pieces, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        send_in_pieces(connection, random.Random(seed), stream)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_pipelines_of_several_clients_are_as_if_each_were_alone(
    tmp_path: Path, durability: DurabilityName, seed: int
) -> None:
    rng = random.Random(seed)
    plans = [[own_request(rng, f"{one}:") for _ in range(400)] for one in range(CLIENTS)]
    streams = [b"".join(encode_request(*request) for request in plan) for plan in plans]
    with KVStore(tmp_path / "a.kv", durability, clock=fixed_clock) as store:
        with Server(store) as running:
            found = at_once([
                partial(replies_of, running.port, stream, seed + number)
                for number, stream in enumerate(streams)
            ])  # fmt: skip
        store.check()
        kept = dict(store.items())
    expected: dict[bytes, bytes] = {}
    for number, (plan, replies) in enumerate(zip(plans, found, strict=True)):
        with KVStore(tmp_path / f"{number}.kv", "process", clock=fixed_clock) as alone:
            commands, session = Commands(alone), Session(1)
            own = b"".join(commands.run([(session, request)])[0] for request in plan)
            expected |= dict(alone.items())
        assert NUMBER.sub(b"", replies) == NUMBER.sub(b"", own), number
    assert kept == expected


# ---------------------------------------------------------------- bytes

ODD = [
    b"\r\n", b"\n", b"*", b"$", b"*-1\r\n", b"*0\r\n", b"$-1\r\n", b"*1048577\r\n", b"\0", b"'",
    b'"', b"$99999\r\n", b"$100000000\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nq\r\n$50\r\n", b"\xff\xfe",
    b"MULTI\r\n", b"EXEC\r\n", b"QUIT\r\n", b"POST / HTTP/1.1\r\n", b"CLIENT REPLY OFF\r\n",
]  # fmt: skip


def noise(rng: random.Random) -> bytes:
    """Return what was a stream of requests."""
    found = bytearray()
    for _ in range(rng.randrange(1, 60)):
        found += encode_request(*own_request(rng, "noise:"))
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(found))
        match rng.randrange(4):
            case 0:
                found[at] = rng.randrange(256)
            case 1:
                del found[at : at + rng.randrange(1, 30)]
            case 2:
                found[at:at] = found[at : at + rng.randrange(100)]
            case _:
                found[at:at] = rng.choice(ODD)
    return bytes(found)


def make_noise(port: int, seed: int, end: float) -> int:
    """Send noise on one connection after the other, and leave each in another way."""
    rng = random.Random(seed)
    made = 0
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            made += 1
            with suppress(OSError):  # the server has ended its side
                send_in_pieces(connection, rng, noise(rng))
                leave(connection, rng)
    return made


def leave(connection: socket.socket, rng: random.Random) -> None:
    """Leave after all replies, at once, or with a reset."""
    way = rng.randrange(3)
    if way == 0:
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass
    elif way == 1:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_noise_of_others_is_not_noticed(tmp_path: Path, seed: int) -> None:
    with KVStore(tmp_path / "a.kv", "process") as store:
        with (
            Server(store, max_request=MAX_REQUEST) as running,
            closing(client_of(running.port)) as client,
        ):
            end = time.monotonic() + 2
            noises = [partial(make_noise, running.port, 100 * seed + n, end) for n in range(4)]
            counted = at_once([*noises, partial(count_up, client, end)])
            assert min(counted) > 0
            assert int(client.get("mine")) == counted[-1]
            wait_until(lambda: len(client.client_list()) == 1)
            assert {one["multi"] for one in client.client_list()} == {"-1"}
            assert {one["tot-mem"] for one in client.client_list()} <= {"0"}
        store.check()
        assert b"mine" in store


def count_up(client: Any, end: float) -> int:
    count = 0
    while time.monotonic() < end:
        count += 1
        assert client.pipeline().incr("mine").get("mine").execute() == [count, b"%d" % count]
    return count


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
