"""The server: one commit for what has arrived, bounds, bad clients, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import subprocess
import sys
import time
import weakref
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis_world import (
    Counting,
    client_of,
    port,
    store,
    talk,
)

from pmemheap.kvstore import connections
from pmemheap.kvstore.commands import Commands, Session
from pmemheap.kvstore.resp import encode_request
from pmemheap.kvstore.server import Server
from pmemheap.kvstore.store import KVStore

__all__ = ["port", "store"]


@pytest.fixture
def client(port: int) -> Any:
    with closing(client_of(port)) as client:
        yield client


# ---------------------------------------------------------------- batches


def run(store: Any, *lines: bytes, most_bytes: int | None = None) -> list[bytes]:
    session = Session(1)
    return Commands(store).run([(session, line.split()) for line in lines], most_bytes)


def test_a_batch_with_writes_is_one_transaction(store: KVStore) -> None:
    counting = Counting(store)
    assert run(counting, b"set a 1", b"incr a", b"get a", b"incr x y") == [
        b"+OK\r\n", b":2\r\n", b"$1\r\n2\r\n",
        b"-ERR wrong number of arguments for 'incr' command\r\n",
    ]  # fmt: skip
    assert counting.begun == 1
    assert run(counting, b"get a", b"set a 1", b"get a")[0] == b"$1\r\n2\r\n"
    assert counting.begun == 1, "one write needs none"


def test_an_error_of_one_command_leaves_the_others(store: KVStore) -> None:
    long = b"k" * 2000
    replies = run(
        store, b"set a x", b"incr a", b"set %b 1" % long, b"mset b 1 %b 1" % long, b"set c 3"
    )
    assert [reply[:4] for reply in replies] == [b"+OK\r", b"-ERR", b"-ERR", b"-ERR", b"+OK\r"]
    assert list(store.items()) == [(b"a", b"x"), (b"c", b"3")]


def test_a_batch_that_does_not_fit_is_run_in_parts(tmp_path: Path) -> None:
    value = b"v" * 200_000
    with KVStore(tmp_path / "small.kv", durability="process", limit=4 << 20) as store:
        replies = run(store, *(b"set k%d %b" % (i, value) for i in range(40)))
        done = [reply == b"+OK\r\n" for reply in replies]
        assert 5 < sum(done) < 40
        assert all(reply.startswith(b"-OOM ") for reply in replies if reply != b"+OK\r\n")
        assert [b"k%d" % i in store for i in range(40)] == done
        store.check()


def test_a_batch_ends_at_its_bound_of_replies(store: KVStore) -> None:
    store[b"a"] = b"x" * 100
    assert len(run(store, *[b"get a"] * 10, most_bytes=250)) == 3
    assert len(run(store, *[b"append a y", b"get a"] * 10, most_bytes=250)) == 6
    assert store[b"a"] == b"x" * 100 + b"yyy"


def test_a_closed_store_is_an_error_for_each(tmp_path: Path) -> None:
    store = KVStore(tmp_path / "a.kv", durability="process")
    store.close()
    replies = run(store, b"set a 1", b"set b 2", b"get a", b"ping")
    assert [reply[:4] for reply in replies] == [b"-ERR", b"-ERR", b"-ERR", b"+PON"]


def test_pipelines_side_by_side_do_not_mix(port: int, store: KVStore) -> None:
    clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(20)]
    for number, connection in enumerate(clients):
        connection.sendall(
            b"".join(encode_request(b"INCR", b"n%d" % number) for _ in range(number * 10 + 1))
        )
    for number, connection in enumerate(clients):
        expected = b"".join(b":%d\r\n" % i for i in range(1, number * 10 + 2))
        with connection, connection.makefile("rb") as replies:
            assert replies.read(len(expected)) == expected
    assert store[b"n19"] == b"191"


# ---------------------------------------------------------------- streams, limits, ends


def test_a_client_that_ends_its_stream_gets_all_replies(port: int) -> None:
    count = 3 * connections.TURN_REQUESTS
    assert talk(port, b"INCR n\r\n" * count).splitlines()[-1] == b":%d" % count
    assert talk(port, b"") == b""


def test_quit_is_the_last_that_is_answered(port: int, store: KVStore) -> None:
    assert talk(port, b"SET a 1\r\nQUIT\r\nSET a 2\r\n") == b"+OK\r\n+OK\r\n"
    assert store[b"a"] == b"1"


def test_a_broken_stream_is_answered_and_ended(port: int, store: KVStore) -> None:
    replies = talk(port, b"SET a 1\r\n*1\r\n!\r\nSET a 2\r\n")
    assert replies == b"+OK\r\n-ERR Protocol error: expected '$', got '!'\r\n"
    assert store[b"a"] == b"1"


def test_a_web_request_is_ended(port: int, store: KVStore) -> None:
    assert talk(port, b"POST / HTTP/1.1\r\nHost: a\r\n\r\nSET a 1\r\n").startswith(b"-ERR Possible")
    assert b"a" not in store


# ---------------------------------------------------------------- what is refused, and said


def spoken(port: int, sent: bytes) -> bytes:
    """Send all of it, as a client does that reads its reply only then; return what comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


LARGE = 2 << 20  # more than the buffers of two sockets


def test_a_request_over_the_limit_is_answered_before_the_connection_ends(store: KVStore) -> None:
    with Server(store, max_request=100_000) as running, closing(client_of(running.port)) as client:
        with pytest.raises(redis.ResponseError, match="too big request, more than 100000 bytes"):
            client.set("a", bytes(LARGE))
        assert client.set("a", "x" * 90_000), "the client goes on"
        assert client.strlen("a") == 90_000
        with pytest.raises(redis.ResponseError, match="too big request"):
            client.mset({f"k{n}": bytes(60_000) for n in range(5)})
        assert client.dbsize() == 1


HIDDEN = b"\r\n*3\r\n$3\r\nSET\r\n$4\r\nevil\r\n$1\r\n1\r\nSET evil 1\r\n"


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$99999999\r\n", b"too big request"),
        (b"*2000000\r\n", b"invalid multibulk length"),
        (b"*-5x\r\n", b"invalid multibulk length"),
        (b"*1\r\n$-1\r\n", b"invalid bulk length"),
        (b"*1\r\n!\r\n", b"expected '$', got '!'"),
        (b"*1\r\n$3\r\nabcdef", b"expected CRLF"),
        (b"x" * 70_000 + b"\r\n", b"too big inline request"),
        (b'SET "evil\r\n', b"unbalanced quotes"),
        (b"*1\r\n$" + b"1" * 70_000, b"too big bulk count string"),
    ],
    ids=lambda part: repr(part[:20]),
)
def test_what_is_in_a_refused_frame_is_never_run(
    port: int, store: KVStore, frame: bytes, says: bytes
) -> None:
    sent = b"SET before 1\r\n" + frame + HIDDEN * (LARGE // len(HIDDEN))
    replies = spoken(port, sent)
    assert replies.startswith(b"+OK\r\n-ERR Protocol error: ")
    assert says in replies
    assert replies.count(b"\r\n") == 2, "one reply each, and no more"
    assert dict(store) == {b"before": b"1"}


def test_the_last_reply_comes_although_more_was_sent(port: int, store: KVStore) -> None:
    assert spoken(port, b"QUIT\r\n" + b"SET a 1\r\n" * (LARGE // 9)) == b"+OK\r\n"
    web = b"POST / HTTP/1.1\r\nHost: a\r\n\r\n" + b"SET a 1\r\n" * (LARGE // 9)
    assert spoken(port, web).startswith(b"-ERR Possible SECURITY ATTACK")
    assert not store


def send_slowly(connection: socket.socket, times: int) -> None:
    for _ in range(times):
        connection.sendall(bytes(1000))
        time.sleep(0.002)


def test_a_client_that_never_stops_is_ended(
    store: KVStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(connections, "LINGER_TURNS", 3)
    with (
        Server(store, max_request=1000) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=20) as endless,
    ):
        endless.sendall(b"*1\r\n$5000\r\n")
        with pytest.raises(OSError, match=r"reset|Broken pipe|aborted"):
            send_slowly(endless, 1000)
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as silent:
            silent.sendall(b"*1\r\n$5000\r\n")
            assert silent.recv(1000).startswith(b"-ERR")
            assert silent.recv(1000) == b""
            time.sleep(0.3)
            with closing(client_of(running.port)) as client:
                assert len(client.client_list()) == 1


def test_clients_over_the_limit_are_told(store: KVStore) -> None:
    with Server(store, max_clients=3) as running:
        clients = [client_of(running.port, retry=None) for _ in range(3)]
        for client in clients:
            assert client.ping()
        assert talk(running.port, b"PING\r\n") == b"-ERR max number of clients reached\r\n"
        assert clients[0].info("stats")["rejected_connections"] == 1
        clients.pop().close()
        deadline = time.monotonic() + 10
        while talk(running.port, b"PING\r\n") != b"+PONG\r\n":
            assert time.monotonic() < deadline
        for client in clients:
            client.close()


def test_unfinished_requests_of_all_have_a_bound(
    port: int, store: KVStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HELD_MOST", 8 << 20)
    half = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9000000\r\n" + bytes(3 << 20)
    queued = b"MULTI\r\n" + encode_request(b"SET", b"b", bytes(1 << 20)) * 3
    made = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(4)]
    for connection, sent in zip(made, (half, queued, half, queued), strict=True):
        connection.sendall(sent)
        with closing(client_of(port)) as client:
            assert client.set("other", bytes(100_000)), "small ones go on"
    ends = [told(connection) for connection in made]
    assert sum(b"unfinished requests of all clients have more than" in end for end in ends) in {
        1,
        2,
    }
    assert set(store) == {b"other"}


def told(connection: socket.socket) -> bytes:
    """Return what a connection is told before it ends, if it does."""
    connection.settimeout(0.5)
    with connection, suppress(TimeoutError):
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return b""


def test_unread_replies_of_all_have_a_bound(
    port: int, store: KVStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNSENT_MOST", 40 << 20)
    store[b"large"] = bytes(20 << 20)
    deaf = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(4)]
    with closing(client_of(port)) as client:
        for connection in deaf:
            connection.sendall(encode_request(b"GET", b"large"))
        deadline = time.monotonic() + 20
        while len(client.client_list()) > 3:
            assert time.monotonic() < deadline
        assert client.ping()
        assert len(client.client_list()) >= 2, "not all are ended"
    for connection in deaf:
        connection.close()


def test_nothing_is_kept_of_a_client_that_has_gone(store: KVStore) -> None:
    with Server(store) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
            connection.sendall(
                b"WATCH a\r\nMULTI\r\n" + encode_request(b"SET", b"a", bytes(99_999))
            )
            assert connection.recv(100).startswith(b"+OK\r\n")
            (one,) = (
                weakref.ref(one)
                for one in gc.get_objects()
                if isinstance(one, Session) and one.queue is not None
            )
        with closing(client_of(running.port)) as client:
            deadline = time.monotonic() + 20
            while len(client.client_list()) > 1:
                assert time.monotonic() < deadline
        kept = one()
        assert kept is None or (kept.queue, kept.watched) == (None, {})


def test_what_a_client_holds_is_listed(port: int) -> None:
    """Fields that redis-py 5 takes for granted are there, too."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as half,
        closing(client_of(port)) as client,
    ):
        half.sendall(b"*2\r\n$3\r\nSET\r\n$100\r\n" + b"x" * 50)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            by_size = sorted(client.client_list(), key=lambda one: int(one["qbuf"]))
            if int(by_size[-1]["qbuf"]) > 0:
                break
        assert int(by_size[-1]["qbuf"]) >= 50
        assert int(by_size[-1]["tot-mem"]) >= 50
        assert {one["omem"] for one in by_size} == {"0"}
        assert {one["qbuf-free"] for one in by_size} == {"0"}


def test_half_requests_of_many_are_kept_apart(port: int, store: KVStore) -> None:
    halves = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(20)]
    whole = encode_request(b"SET", b"cut", b"v" * 1000)
    for number, connection in enumerate(halves):
        connection.sendall(whole[: number * 50])
    assert talk(port, b"PING\r\n") == b"+PONG\r\n"
    assert not store
    for number, connection in enumerate(halves):
        with connection:
            connection.sendall(whole[number * 50 :])
            assert connection.recv(100) == b"+OK\r\n"
    assert store[b"cut"] == b"v" * 1000


def test_a_client_that_resets_its_connection_takes_no_reply_from_others(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def reset(_: Any) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(asyncio.selector_events._SelectorSocketTransport, "write_eof", reset)  # type: ignore[attr-defined]
    for _ in range(5):
        made = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(20)]
        for number, connection in enumerate(made):
            connection.sendall(b"PING\r\n" if number % 2 else b"QUIT\r\n")
        for number, connection in enumerate(made):
            with connection:
                if number % 2:
                    assert connection.recv(100) == b"+PONG\r\n"
                else:
                    assert connection.recv(100) in {b"+OK\r\n", b""}
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_failure_of_one_reply_is_no_matter_of_others(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = connections.Connection.answer

    def fail_sometimes(self: Any, replies: list[bytes]) -> None:
        if replies == [b"$1\r\nx\r\n"]:
            raise LookupError("planted")
        answer(self, replies)

    monkeypatch.setattr(connections.Connection, "answer", fail_sometimes)
    made = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(20)]
    for number, connection in enumerate(made):
        connection.sendall(b"PING\r\n" if number % 2 else b"PING x\r\n")
    for number, connection in enumerate(made):
        with connection:
            if number % 2:
                assert connection.recv(100) == b"+PONG\r\n"
            else:
                with suppress(ConnectionResetError):
                    assert connection.recv(100) == b"", "ended, and not left waiting"
    assert "planted" in caplog.text


def test_a_client_that_is_killed_by_another_is_gone(port: int) -> None:
    with closing(client_of(port)) as client, socket.create_connection(("127.0.0.1", port)) as other:
        other.sendall(b"CLIENT ID\r\n")
        number = int(other.recv(100)[1:-2])
        assert client.client_kill_filter(_id=str(number)) == 1
        other.settimeout(20)
        assert other.recv(100) == b""


@pytest.mark.slow
def test_who_does_not_read_is_not_served_further(port: int, store: KVStore) -> None:
    store[b"large"] = bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as deaf:
        deaf.sendall(encode_request(b"GET", b"large") * 500 + encode_request(b"SET", b"end", b""))
        with closing(client_of(port)) as client:
            for _ in range(20):
                assert client.strlen("large") == 1 << 20
                assert client.exists("end") == 0
        expected = 500 * (len(b"$1048576\r\n\r\n") + (1 << 20)) + len(b"+OK\r\n")
        with deaf.makefile("rb") as replies:
            while expected:
                expected -= len(replies.read(min(expected, 1 << 20)))
    assert b"end" in store


def test_what_has_expired_is_removed(store: KVStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PURGE_SECONDS", 0.02)
    with Server(store) as running, closing(client_of(running.port)) as client:
        client.set("a", 1, px=1)
        deadline = time.monotonic() + 10
        while client.info("store")["entries"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.info("store")["entries"] == 0


def test_stop_ends_connections_and_can_be_repeated(store: KVStore) -> None:
    running = Server(store).start()
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
        running.stop()
        assert connection.recv(100) == b""
    running.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), timeout=20)
    with Server(store, port=running.port) as again, closing(client_of(again.port)) as client:
        assert client.ping()


def test_an_address_in_use_is_an_error_of_start(store: KVStore, port: int) -> None:
    with pytest.raises(OSError, match="address already in use"):
        Server(store, port=port).start()


SERVE = """
import sys
from pmemheap.kvstore.server import serve
from pmemheap.kvstore.store import KVStore
with KVStore(sys.argv[1]) as store:
    serve(store, port=0, ready=lambda port: print(port, flush=True))
print("closed")
"""


def server_in_a_process(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVE, path],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    with server_in_a_process(tmp_path / "a.kv") as process:
        assert process.stdout is not None
        with closing(client_of(int(process.stdout.readline()))) as client:
            client.set("a", 1)
            process.send_signal(number)
            assert process.stdout.read() == "closed\n"
    assert process.returncode == 0
    with KVStore(tmp_path / "a.kv", flag="r") as store:
        assert store[b"a"] == b"1"


@pytest.mark.slow
def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    answered = 0
    with server_in_a_process(tmp_path / "a.kv") as process:
        assert process.stdout is not None
        with closing(client_of(int(process.stdout.readline()))) as client:
            for _ in range(20):
                pipeline = client.pipeline(transaction=False)
                for _ in range(50):
                    pipeline.incr("n")
                answered = pipeline.execute()[-1]
        process.kill()
    with KVStore(tmp_path / "a.kv") as store:
        assert int(store[b"n"]) == answered == 1000
        store.check()
