"""Clients of Redis as they come: redis-py with its defaults, its pipelines, locks; the tools."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
import redis.asyncio
from redis_world import client_of, port, run_tool, store

import pmemheap
from pmemheap.kvstore.server import Server
from pmemheap.kvstore.store import KVStore

__all__ = ["port", "store"]


@pytest.fixture(params=[None, 2, 3], ids=["default", "resp2", "resp3"])
def client(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Any]:
    options = {} if request.param is None else {"protocol": request.param}
    with (
        KVStore(tmp_path / "a.kv", durability="process") as store,
        Server(store) as running,
        closing(client_of(running.port, **options)) as client,
    ):
        yield client


# ---------------------------------------------------------------- redis-py


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
    assert client.msetnx({"a": 1, "z": 4}) is False
    assert client.getdel("c") == b"4"
    assert client.getex("a", ex=100) == b"1"
    assert client.exists("a", "a", "c") == 2
    assert client.type("a") == b"string"
    assert client.type("c") == b"none"
    assert client.setrange("r", 2, "ab") == 4
    assert client.getrange("r", 1, -1) == b"\0ab"
    assert client.incrbyfloat("f", 1.5) == 1.5
    assert client.lcs("a", "b") == b""
    assert client.rename("r", "r2") is True
    assert client.copy("r2", "r3") is True
    assert client.delete("a", "b", "r2", "r3", "f") == 5
    assert client.dbsize() == 0
    assert client.echo("x") == b"x"
    assert client.randomkey() is None


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
    assert client.set("k", "5", exat=4_000_000_000)
    assert client.expiretime("k") == 4_000_000_000


def test_numbers(client: Any) -> None:
    found = [client.incr("n"), client.incr("n", 5), client.decr("n"), client.decr("n", 7)]
    assert found == [1, 6, 5, -2]
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
    assert client.expire("k", 20, nx=True) is False
    assert client.expire("k", 5, gt=True) is False
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


def test_what_clients_and_monitors_ask(client: Any) -> None:
    assert client.select(0)
    assert client.config_get("save") == {"save": ""}
    assert client.config_get("appendo*") == {"appendonly": "yes"}
    assert client.client_setname("me")
    assert client.client_getname() in {"me", b"me"}
    assert client.client_id() > 0
    client.set("a", 12)
    info = client.info()
    assert info["db0"]["keys"] == 1
    assert info["connected_clients"] == 1
    assert info["role"] == "master"
    assert client.info("store")["entries"] == 1
    assert client.info("server")["redis_version"] == "7.0.0"
    (listed,) = client.client_list()
    assert listed["name"] == "me"
    assert listed["lib-name"].startswith("redis-py")
    assert client.client_info()["id"] == client.client_id()
    assert client.client_no_evict("ON") in {True, "OK", b"OK"}
    assert client.role()[0] in {"master", b"master"}
    seconds, _ = client.time()
    assert abs(seconds - time.time()) < 60
    assert client.memory_usage("a") == 11
    assert client.object("encoding", "a") in {"int", b"int"}
    assert client.object("idletime", "a") == 0
    assert client.object("refcount", "a") == 1
    with pytest.raises(redis.ResponseError, match="LFU"):
        client.object("freq", "a")
    assert client.module_list() == []
    assert client.acl_whoami() in {"default", b"default"}
    assert client.wait(0, 0) == 0
    assert client.save() is True
    assert client.config_resetstat()


def test_command_is_understood(client: Any) -> None:
    told = client.command()
    assert client.command_count() == len(told) == len(client.command_list())
    assert told["get"]["arity"] == 2
    flags = {str(flag).strip("b'") for flag in told["mset"]["flags"]}
    assert flags == {"denyoom", "write"}
    assert told["mset"]["step_count"] == 2
    assert client.execute_command("COMMAND INFO", "get", "nope")
    assert client.execute_command("COMMAND DOCS", "get")
    assert client.command_getkeys("MSET", "a", 1, "b", 2) in [["a", "b"], [b"a", b"b"]]


def test_pipelines_as_they_come_are_transactions(client: Any) -> None:
    with client.pipeline() as pipe:
        assert pipe.set("a", 1).incr("a").get("a").execute() == [True, 2, b"2"]
    with client.pipeline() as pipe:
        pipe.set("t", "text").incr("t").set("t2", "after")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            pipe.execute()
    assert client.get("t2") == b"after", "as with Redis"
    with client.pipeline() as pipe:
        pipe.set("x", 1).execute_command("NOPE").set("y", 2)
        with pytest.raises(redis.exceptions.ResponseError):
            pipe.execute()
    assert client.exists("x", "y") == 0, "one that is refused refuses all"


def test_watch_is_optimistic_locking(client: Any) -> None:
    client.set("n", 1)
    with client.pipeline() as pipe:
        pipe.watch("n")
        value = int(pipe.get("n"))
        client.incr("n")
        pipe.multi()
        pipe.set("n", value + 1)
        with pytest.raises(redis.WatchError):
            pipe.execute()
        pipe.watch("n")
        pipe.multi()
        assert pipe.set("n", 10).get("n").execute() == [True, b"10"]


def test_a_lock_of_redis_py(client: Any) -> None:
    lock = client.lock("lock", timeout=5)
    assert lock.acquire()
    assert lock.locked()
    assert lock.owned()
    other = client.lock("lock", timeout=5, blocking=False)
    assert not other.acquire()
    assert lock.extend(10)
    assert 12 <= client.ttl("lock") <= 15
    assert lock.extend(3, replace_ttl=True)
    assert 2 <= client.ttl("lock") <= 3
    assert lock.reacquire()
    assert 4 <= client.ttl("lock") <= 5
    lock.release()
    assert not lock.locked()
    with pytest.raises(redis.exceptions.LockError):
        lock.release()
    assert other.acquire()
    client.set("lock", "stolen")
    with pytest.raises(redis.exceptions.LockNotOwnedError):
        other.release()


def test_a_lock_keeps_threads_apart(port: int) -> None:
    inside: list[int] = []

    def work() -> None:
        with closing(client_of(port)) as client:
            for _ in range(5):
                with client.lock("lock", timeout=20, sleep=0.002):
                    inside.append(1)
                    assert len(inside) == 1
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_other_scripts_are_refused(client: Any) -> None:
    with pytest.raises(redis.ResponseError, match="no such script"):
        client.eval("return 1", 0)
    with pytest.raises(redis.ResponseError, match="no such script"):
        client.register_script("return 1")()


@pytest.mark.parametrize(
    "options",
    [{}, {"decode_responses": True}, {"client_name": "worker 1", "db": 0}, {"protocol": 2},
     {"health_check_interval": 1, "socket_connect_timeout": 5}, {"username": "default"},
     {"single_connection_client": True}],
    ids=str,
)  # fmt: skip
def test_options_of_clients(port: int, options: dict[str, Any]) -> None:
    with closing(client_of(port, **options)) as client:
        assert client.set("k", "v")
        assert client.get("k") in {b"v", "v"}


def test_an_address_of_the_client_and_asyncio(port: int) -> None:
    with closing(redis.from_url(f"redis://127.0.0.1:{port}/0")) as client:
        assert client.set("k", "v")

    async def work() -> Any:
        client: Any = redis.asyncio.Redis(port=port, socket_timeout=20)
        try:
            async with client.pipeline() as pipe:
                return await pipe.get("k").incr("n").execute()
        finally:
            await client.aclose()

    assert asyncio.run(work()) == [b"v", 1]


def test_another_database_is_refused_by_name(port: int) -> None:
    with (
        closing(client_of(port, db=1)) as client,
        pytest.raises(redis.ResponseError, match="DB index"),
    ):
        client.ping()


def test_large_values_both_ways(client: Any) -> None:
    value = os.urandom(1 << 20) * 8
    client.set("large", value)
    assert client.get("large") == value


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


# ---------------------------------------------------------------- the tools of Redis


@pytest.mark.slow
def test_redis_cli(port: int) -> None:
    lines = 'set "a key" "a\\nvalue"\nget "a key"\nincr n\nkeys *\nttl n\nnope\n'
    out = run_tool("redis-cli", "-p", port, "--no-raw", text=lines)
    assert out.splitlines() == [
        "OK", '"a\\nvalue"', "(integer) 1", '1) "a key"', '2) "n"', "(integer) -1",
        "(error) ERR unknown command 'nope', with args beginning with: ",
    ]  # fmt: skip
    assert run_tool("redis-cli", "-p", port, "--scan").splitlines() == ["a key", "n"]
    lines = "multi\nset a 1\nincr a\nexec\nclient getname\nlcs n n len\n"
    out = run_tool("redis-cli", "-3", "-p", port, "--no-raw", text=lines)
    assert out.splitlines() == [
        "OK", "QUEUED", "QUEUED", "1) OK", "2) (integer) 2", "(nil)", "(integer) 1",
    ]  # fmt: skip
    assert "Sampled 3 keys" in run_tool("redis-cli", "-p", port, "--bigkeys")
    assert "redis_version:7.0.0" in run_tool("redis-cli", "-3", "-p", port, "info", "server")


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


def test_the_file_is_a_heap_like_others(store: KVStore, port: int) -> None:
    with closing(client_of(port)) as client:
        client.set("a", 1)
    assert isinstance(store.durability, str)
    with pytest.raises(pmemheap.UsageError):
        KVStore(store.path)
