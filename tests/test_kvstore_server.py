"""The server: real clients, one commit for what has arrived, bounds, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from kvstore import commands, server
from kvstore.commands import Commands, Session
from kvstore.resp import encode_request
from kvstore.server import Server
from kvstore.store import KVStore

import pmemheap

EXAMPLES = Path(__file__).parent.parent / "examples"
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
def client(port: int) -> Iterator[Any]:
    with closing(client_of(port)) as client:
        yield client


def client_of(port: int) -> Any:
    return redis.Redis(port=port, protocol=2, socket_timeout=20)


def talk(port: int, sent: bytes) -> bytes:
    """Send bytes, end the stream, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[Direct]:
    with KVStore(tmp_path / "direct.kv", durability="process") as store:
        yield Direct(store)


class Direct:
    """Commands without a socket; lines as a person would type them."""

    def __init__(self, store: KVStore) -> None:
        self.store = store
        self.commands = Commands(store)
        self.session = Session(7)

    def __call__(self, line: str) -> str:
        request = [word.encode() for word in line.split(" ")]
        (reply,) = self.commands.run([(self.session, request)])
        return reply.decode()


# ---------------------------------------------------------------- commands by a real client


def test_strings(client: Any) -> None:
    assert client.ping() is True
    assert client.set("a", b"\x00\r\n\xff")
    assert client.get("a") == b"\x00\r\n\xff"
    assert client.get("none") is None
    assert client.append("a", "!") == 5
    assert client.strlen("a") == 5
    assert client.getset("a", "2") == b"\x00\r\n\xff!"
    assert client.setnx("a", "3") is False
    assert client.setnx("b", "3") is True
    assert client.mget("a", "b", "c") == [b"2", b"3", None]
    assert client.mset({"a": 1, "c": 4})
    assert client.getdel("c") == b"4"
    assert client.exists("a", "a", "c") == 2
    assert client.type("a") == b"string"
    assert client.type("c") == b"none"
    assert client.delete("a", "b", "c") == 2
    assert client.dbsize() == 0
    assert client.echo("x") == b"x"


def test_conditions_of_set(client: Any) -> None:
    assert client.set("k", "1", xx=True) is None
    assert client.set("k", "1", nx=True)
    assert client.set("k", "2", nx=True) is None
    assert client.set("k", "2", xx=True, get=True) == b"1"
    assert client.set("k", "3", ex=100)
    assert client.set("k", "4", keepttl=True)
    assert 98 < client.ttl("k") <= 100
    assert client.set("k", "5")
    assert client.ttl("k") == -1


def test_numbers(client: Any) -> None:
    assert [client.incr("n"), client.incr("n", 5), client.decr("n"), client.decr("n", 7)] == [
        1,
        6,
        5,
        -2,
    ]
    client.set("n", 2**63 - 1, ex=50)
    with pytest.raises(redis.ResponseError, match="increment or decrement would overflow"):
        client.incr("n")
    assert client.decr("n") == 2**63 - 2
    assert client.ttl("n") == 50, "a change in place keeps the time"
    client.set("n", "1.5")
    with pytest.raises(redis.ResponseError, match="value is not an integer or out of range"):
        client.incr("n")


def test_expiry(client: Any) -> None:
    assert client.expire("k", 10) is False
    client.set("k", "v")
    assert (client.ttl("k"), client.pttl("k"), client.ttl("none")) == (-1, -1, -2)
    assert client.expire("k", 10) is True
    assert 9_000 < client.pttl("k") <= 10_000
    assert client.persist("k") is True
    assert client.persist("k") is False
    assert client.pexpire("k", 20) is True
    time.sleep(0.03)
    assert client.get("k") is None
    assert client.dbsize() == 0
    client.execute_command("SETEX", "k", 10, "v")
    assert client.expire("k", -1) is True
    assert client.exists("k") == 0


@pytest.mark.slow
def test_scan_gives_every_key_that_stays(client: Any) -> None:
    keys = {b"key:%03d" % i for i in range(300)}
    client.mset(dict.fromkeys(keys, b"v"))
    client.set("other", "v")
    seen: list[bytes] = []
    for key in client.scan_iter(match="key:*", count=7):
        seen.append(key)
        client.delete(key)
        if not key.endswith(b"+"):
            client.set(key + b"+", b"new")
    assert keys <= set(seen)
    assert len(seen) == len(set(seen))
    assert client.keys("k*:29?") == []
    assert client.keys("oth[a-e]r") == [b"other"]
    assert client.flushdb()
    assert client.scan() == (0, [])


def test_what_clients_ask_first(client: Any) -> None:
    assert client.select(0)
    assert client.config_get("save") == {"save": ""}
    assert client.config_get("app*") == {"appendonly": "yes"}
    assert client.client_setname("me")
    assert client.client_getname() == "me"
    assert client.client_id() > 0
    client.set("a", 1)
    found = client.info()
    assert found["db0"]["keys"] == 1
    assert found["connected_clients"] == 1
    assert client.info("store")["entries"] == 1
    assert client.command_count() >= 40


def test_a_client_of_resp3_is_refused(port: int) -> None:
    with (
        closing(redis.Redis(port=port, protocol=3)) as client,
        pytest.raises(redis.ResponseError, match="NOPROTO"),
    ):
        client.ping()


# ---------------------------------------------------------------- errors, as Redis words them


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("get", "-ERR wrong number of arguments for 'get' command"),
        ("GET a b", "-ERR wrong number of arguments for 'get' command"),
        ("mset a 1 b", "-ERR wrong number of arguments for 'mset' command"),
        ("config get", "-ERR wrong number of arguments for 'config|get' command"),
        ("nope a b", "-ERR unknown command 'nope', with args beginning with: 'a' 'b' "),
        ("client nope", "-ERR unknown subcommand 'nope'. Try CLIENT HELP."),
        ("config set a b", "-ERR unknown subcommand 'set'. Try CONFIG HELP."),
        ("set a b nx xx", "-ERR syntax error"),
        ("set a b ex", "-ERR syntax error"),
        ("set a b ex 1 px 1", "-ERR syntax error"),
        ("set a b ex 1 keepttl", "-ERR syntax error"),
        ("set a b keepttl px 1", "-ERR syntax error"),
        ("set a b ex x", "-ERR value is not an integer or out of range"),
        ("set a b ex 0", "-ERR invalid expire time in 'set' command"),
        ("set a b px 9223372036854775807", "-ERR invalid expire time in 'set' command"),
        ("setex a 0 b", "-ERR invalid expire time in 'setex' command"),
        ("expire a 9223372036854775807", "-ERR invalid expire time in 'expire' command"),
        ("decrby a -9223372036854775808", "-ERR decrement would overflow"),
        ("incrby a 01", "-ERR value is not an integer or out of range"),
        ("select 1", "-ERR DB index is out of range"),
        ("scan 99", "-ERR invalid cursor"),
        ("scan -1", "-ERR invalid cursor"),
        ("scan x", "-ERR invalid cursor"),
        ("scan 0 count 0", "-ERR syntax error"),
        ("scan 0 match", "-ERR syntax error"),
        ("flushall now", "-ERR syntax error"),
        ("hello 3", "-NOPROTO unsupported protocol version"),
        ("hello x", "-ERR Protocol version is not an integer or out of range"),
    ],
)
def test_errors(direct: Direct, line: str, reply: str) -> None:
    assert direct(line) == reply + "\r\n"
    assert len(direct.store) == 0


def test_hello_and_other_small_talk(direct: Direct) -> None:
    assert direct("hello 2 setname me").startswith("*14\r\n$6\r\nserver\r\n")
    assert direct("client getname") == "$2\r\nme\r\n"
    assert direct("client setinfo lib-name x") == "+OK\r\n"
    assert direct("command") == "*0\r\n"
    assert direct("ping there") == "$5\r\nthere\r\n"
    assert direct("post / http/1.1").startswith("-ERR")
    assert direct.session.quitting


def test_cursors_are_bounded(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "CURSORS_MOST", 2)
    direct("mset a 1 b 2 c 3")
    for number in (1, 2, 3):
        assert direct("scan 0 count 1") == f"*2\r\n$1\r\n{number}\r\n*1\r\n$1\r\na\r\n"
    assert direct("scan 1") == "-ERR invalid cursor\r\n"
    assert direct("scan 2") == "*2\r\n$1\r\n0\r\n*2\r\n$1\r\nb\r\n$1\r\nc\r\n"


def test_the_longest_key_can_be_the_last_of_a_page(direct: Direct) -> None:
    long = "k" * 1024
    direct(f"mset {long} 1 z 2")
    assert direct("scan 0 count 1").endswith(f"{long}\r\n")
    assert direct("scan 1 count 1").endswith("z\r\n")
    assert "1025" in direct(f"set {long}k 1") or "1024" in direct(f"set {long}k 1")
    assert direct(f"mset a 1 {long}k 1").startswith("-ERR")
    assert direct("exists a") == ":0\r\n", "all of MSET or nothing"


# ---------------------------------------------------------------- batches


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


@pytest.mark.slow
def test_a_pipeline_has_all_its_replies_in_order(client: Any) -> None:
    pipeline = client.pipeline(transaction=False)
    for i in range(5000):
        pipeline.set(b"k%d" % i, b"%d" % i)
        pipeline.get(b"k%d" % i)
    replies = pipeline.execute()
    assert replies[1::2] == [b"%d" % i for i in range(5000)]
    assert all(replies[::2])
    assert client.dbsize() == 5000


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
    count = 3 * server.TURN_REQUESTS
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


def test_a_request_has_a_limit(store: KVStore) -> None:
    with Server(store, max_request=1000) as running, closing(client_of(running.port)) as client:
        assert client.set("a", "x" * 900)
        assert b"too big request" in talk(running.port, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000\r\n")
        assert client.strlen("a") == 900


def test_large_values_both_ways(client: Any) -> None:
    value = os.urandom(1 << 20) * 8
    client.set("large", value)
    assert client.get("large") == value


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
    monkeypatch.setattr(server, "PURGE_SECONDS", 0.02)
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
from kvstore.server import serve
from kvstore.store import KVStore
with KVStore(sys.argv[1]) as store:
    serve(store, port=0, ready=lambda port: print(port, flush=True))
print("closed")
"""


def server_in_a_process(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVE, path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
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


# ---------------------------------------------------------------- the tools of Redis


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


@pytest.mark.slow
def test_redis_cli(port: int) -> None:
    lines = 'set "a key" "a\\nvalue"\nget "a key"\nincr n\nkeys *\nttl n\nnope\n'
    out = run_tool("redis-cli", "-p", port, "--no-raw", text=lines)
    assert out.splitlines() == [
        "OK", '"a\\nvalue"', "(integer) 1", '1) "a key"', '2) "n"', "(integer) -1",
        "(error) ERR unknown command 'nope', with args beginning with: ",
    ]  # fmt: skip
    assert run_tool("redis-cli", "-p", port, "--scan").splitlines() == ["a key", "n"]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 16])
def test_redis_benchmark(port: int, store: KVStore, depth: int) -> None:
    out = run_tool(
        "redis-benchmark", "-p", port, "--csv", "-n", 2000, "-r", 500, "-P", depth,
        "-t", "ping,set,get,incr,mset",
    )  # fmt: skip
    names = [line.split(",")[0].strip('"') for line in out.splitlines()[1:]]
    assert names == ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"]
    assert "rror" not in out
    assert len(store) > 400
    store.check()


def test_the_file_is_a_heap_like_others(store: KVStore, client: Any) -> None:
    client.set("a", 1)
    assert isinstance(store.durability, str)
    with pytest.raises(pmemheap.UsageError):
        KVStore(store.path)
