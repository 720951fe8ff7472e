"""MULTI, EXEC, WATCH on the key-value store: all or nothing, also when the batch is run again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from redis_world import NONE, Counting, Direct, client_of, direct, port, store, talk

from pmemheap import DurabilityName
from pmemheap.kvstore.commands import Limits, keyspace, transactions
from pmemheap.kvstore.store import KVStore
from pmemheap.testing import copy_as_crashed

__all__ = ["direct", "port", "store"]

ABORTED = "-EXECABORT Transaction discarded because of previous errors."
QUEUED = "+QUEUED"


# ---------------------------------------------------------------- MULTI and EXEC


def test_queued_requests_run_together(direct: Direct) -> None:
    assert direct.run("multi", "set a 1", "incr a", "get a", "exec") == [
        "+OK", QUEUED, QUEUED, QUEUED, ["+OK", 2, b"2"],
    ]  # fmt: skip
    assert direct.run("multi", "exec") == ["+OK", []]
    assert direct("get a") == b"2"


def test_nothing_is_done_before_exec(direct: Direct) -> None:
    direct.run("multi", "set a 1", "flushall", "client setname x")
    assert len(direct.store) == 0
    assert direct("get a", by=direct.client()) is None
    assert direct("discard") == "+OK"
    assert direct.run("get a", "client getname") == [None, None]


@pytest.mark.parametrize(
    "line",
    [
        "get",
        "set a",
        "nope a",
        "client",
        "client nope",
        "client id x",
        "object encoding",
        "config get",
    ],
)
def test_a_request_that_is_refused_breaks_the_queue(direct: Direct, line: str) -> None:
    replies = direct.run("multi", "set a 1", line, "set b 2", "exec", "dbsize")
    assert replies[2].startswith("-ERR")
    assert replies[3:] == [QUEUED, ABORTED, 0]
    assert direct.run("multi", "set a 1", "exec") == ["+OK", QUEUED, ["+OK"]], "it is over"


def test_an_error_of_one_command_leaves_the_others_as_with_redis(direct: Direct) -> None:
    replies = direct.run("multi", "set a x", "incr a", "set b 2", f"set {'k' * 1025} 1", "exec")
    assert replies[-1][:3] == ["+OK", "-ERR value is not an integer or out of range", "+OK"]
    assert replies[-1][3].startswith("-ERR")
    assert dict(direct.store) == {b"a": b"x", b"b": b"2"}


def test_what_does_not_fit_into_multi(direct: Direct) -> None:
    assert direct("exec") == "-ERR EXEC without MULTI"
    assert direct("discard") == "-ERR DISCARD without MULTI"
    assert direct.run("multi", "multi", "watch a", "set a 1", "exec") == [
        "+OK", "-ERR MULTI calls can not be nested", "-ERR WATCH inside MULTI is not allowed",
        QUEUED, ["+OK"],
    ]  # fmt: skip
    assert direct.run("multi", "reset", "get a") == ["+OK", "+RESET", b"1"]


def test_a_queue_has_a_bound(direct: Direct) -> None:
    direct.commands.limits = Limits(transaction=1000)
    replies = direct.run("multi", *[f"append a {'x' * 80}"] * 12, "exec")
    assert replies[-2].startswith("-ERR transaction of more than 1000 bytes")
    assert replies[-1] == ABORTED
    assert len(direct.store) == 0


def test_replies_of_exec_have_a_bound_and_then_nothing_is_done(direct: Direct) -> None:
    direct.commands.limits = Limits(reply=1000)
    direct(f"set a {'x' * 300}")
    replies = direct.run("multi", "set b 1", *["get a"] * 5, "exec")
    assert replies[-1] == "-ERR reply of more than 1000 bytes"
    assert b"b" not in direct.store


def test_many_requests_in_one_transaction(direct: Direct) -> None:
    replies = direct.run("multi", *[f"set key:{n} {n}" for n in range(5000)], "exec")
    assert replies[-1] == ["+OK"] * 5000
    assert len(direct.store) == 5000


# ---------------------------------------------------------------- WATCH


@pytest.mark.parametrize(
    "change",
    ["set a 2", "set a 1", "del a", "incr a", "append a x", "setrange a 0 x", "expire a 100",
     "getex a ex 100", "flushall", "rename a b", "rename z a", "copy z a replace", "mset z 1 a 2",
     "getdel a", "getset a 1", "expire a -1", "setex a 100 1"],
)  # fmt: skip
def test_a_watched_key_that_changes_ends_the_transaction(direct: Direct, change: str) -> None:
    other = direct.client()
    direct("mset a 1 z 9")
    direct("watch a")
    assert not str(direct(change, by=other)).startswith("-")
    assert direct.run("multi", "set done 1", "exec") == ["+OK", QUEUED, NONE]
    assert b"done" not in direct.store
    assert direct.run("multi", "set done 1", "exec")[-1] == ["+OK"], "nothing is watched any more"


@pytest.mark.parametrize(
    "line", ["get a", "set b 2", "del none", "ttl a", "expire none 5", "persist a", "setnx a 5",
             "msetnx a 1 b 2", "keys *", "getex a", "renamenx z a"],
)  # fmt: skip
def test_what_changes_nothing_of_it_does_not(direct: Direct, line: str) -> None:
    direct("mset a 1 z 9")
    direct("watch a")
    direct(line, by=direct.client())
    assert direct.run("multi", "set done 1", "exec")[-1] == ["+OK"]


def test_a_key_that_is_not_there_is_watched_too(direct: Direct) -> None:
    other = direct.client()
    for change in ("set a 1", "set a 1 ex 100"):
        direct("watch a")
        direct(change, by=other)
        direct("del a", by=other)
        assert direct.run("multi", "set done 1", "exec")[-1] == NONE
    direct("watch a")
    assert direct.run("multi", "set done 1", "exec")[-1] == ["+OK"]


def test_own_changes_count(direct: Direct) -> None:
    assert direct.run("watch a", "set a 1", "multi", "set b 1", "exec")[-1] == NONE
    assert direct.run("watch a", "unwatch", "set a 2", "multi", "get a", "exec")[-1] == [b"2"]
    assert direct.run("watch a", "multi", "discard", "set a 3", "multi", "exec")[-1] == []


def test_a_deadline_that_passes_counts(tmp_path: Path) -> None:
    now = 1_700_000_000_000_000_000
    with KVStore(tmp_path / "a.kv", "process", clock=lambda: now) as store:
        direct = Direct(store)
        direct("set a 1 ex 10")
        direct("watch a")
        assert direct.run("multi", "get a", "exec")[-1] == [b"1"]
        direct("watch a")
        now += 10_000_000_000
        assert direct.run("multi", "get a", "exec")[-1] == NONE


def test_changes_of_others_who_have_the_store_count(direct: Direct) -> None:
    direct("set a 1")
    direct("watch a")
    thread = threading.Thread(target=lambda: direct.store.set(b"a", b"2"))
    thread.start()
    thread.join()
    assert direct.run("multi", "get a", "exec")[-1] == NONE


def test_watched_keys_are_bounded_and_forgotten(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_WATCHED_MOST", 10)
    monkeypatch.setattr(keyspace, "_VERSIONS_MOST", 20)
    other = direct.client()
    direct("watch kept", by=other)
    for number in range(10):
        direct(f"watch a{number}")
    assert direct("watch a10").startswith("-ERR more than 10 watched keys")
    for number in range(30):
        direct(f"watch b{number}", by=direct.client())
    for session in list(direct.commands.sessions.values())[2:]:
        direct("unwatch", by=session)
    direct("unwatch")
    direct("set kept 1")
    assert direct.run("multi", "get kept", "exec", by=other)[-1] == NONE


# ---------------------------------------------------------------- batches that are run again


def small(tmp_path: Path) -> KVStore:
    return KVStore(tmp_path / "small.kv", durability="process", limit=4 << 20)


VALUE = b"v" * 200_000


def test_a_transaction_without_room_changes_nothing(tmp_path: Path) -> None:
    with small(tmp_path) as store:
        direct = Direct(store)
        replies = direct.run(
            "multi", "set a 1", *[("set", f"k{n}", VALUE) for n in range(40)], "exec", "dbsize"
        )
        assert replies[1:-2] == [QUEUED] * 41
        assert replies[-2].startswith("-EXECABORT Transaction discarded because of: ")
        assert replies[-1] == 0
        assert direct.run("multi", "set a 1", "exec")[-1] == ["+OK"]
        store.check()


def test_a_batch_that_is_run_again_takes_sessions_as_they_were(tmp_path: Path) -> None:
    with small(tmp_path) as store:
        direct = Direct(store)
        replies = direct.run(
            "watch n", "get n", "multi", "set n 1", "append n 2", "get n", "exec",
            *[("set", f"k{n}", VALUE) for n in range(40)],
            "multi", "append n 3", "exec", "get n",
        )  # fmt: skip
        assert replies[:7] == ["+OK", None, "+OK", QUEUED, QUEUED, QUEUED, ["+OK", 2, b"12"]]
        assert replies[-4:] == ["+OK", QUEUED, [3], b"123"], "each was done once"
        assert 5 < replies.count("+OK") - 3 < 40
        assert sum(str(reply).startswith("-OOM") for reply in replies) > 5


def test_exec_of_several_clients_in_one_batch(direct: Direct) -> None:
    clients = [direct.client() for _ in range(5)]
    calls = [
        (client, line.split())
        for client in clients
        for line in (b"watch n", b"multi", b"incr n", b"exec")
    ]
    replies = direct.commands.run(calls)
    assert replies[3::4] == [b"*1\r\n:%d\r\n" % n for n in range(1, 6)]
    calls = [(client, b"watch n".split()) for client in clients]
    calls += [
        (client, line.split()) for client in clients for line in (b"multi", b"incr n", b"exec")
    ]
    replies = direct.commands.run(calls)
    assert replies[7::3] == [b"*1\r\n:6\r\n"] + [b"*-1\r\n"] * 4


def test_exec_is_one_transaction_of_the_store(direct: Direct) -> None:
    counting = Direct(Counting(direct.store))
    counting("multi")
    for number in range(100):
        counting(f"set key:{number} {number}")
    assert counting.store.begun == 0
    assert counting("exec") == ["+OK"] * 100
    assert counting.store.begun == 1


# ---------------------------------------------------------------- through a socket, and kills


def test_a_connection_that_ends_leaves_nothing_of_its_multi(port: int, store: KVStore) -> None:
    assert talk(port, b"MULTI\r\nSET a 1\r\n") == b"+OK\r\n+QUEUED\r\n"
    assert (
        talk(port, b"WATCH a\r\nMULTI\r\nSET a 1\r\nQUIT\r\n")
        == b"+OK\r\n+OK\r\n+QUEUED\r\n+OK\r\n"
    )
    assert b"a" not in store


def test_counters_by_watch_lose_nothing(port: int) -> None:
    def count(times: int) -> None:
        client = client_of(port)
        for _ in range(times):
            client.transaction(
                lambda pipe: (
                    value := int(pipe.get("n") or 0),
                    pipe.multi(),
                    pipe.set("n", value + 1),
                ),
                "n",
            )
        client.close()

    threads = [threading.Thread(target=count, args=(15,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with client_of(port) as client:
        assert client.get("n") == b"60"


TRANSFER = """
import sys
from pmemheap.kvstore.server import serve
from pmemheap.kvstore.store import KVStore
from pmemheap.testing import copy_as_crashed
with KVStore(sys.argv[1], sys.argv[2]) as store:
    serve(store, port=0, ready=lambda port: print(port, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_kill_leaves_transactions_whole(tmp_path: Path, durability: DurabilityName) -> None:
    """Money goes to and fro between accounts; a kill in the middle leaves the sum as it was."""
    path = tmp_path / "a.kv"
    with KVStore(path, durability) as store:
        store.update({b"account:%d" % n: b"100" for n in range(10)})
    for turn in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", TRANSFER, path, durability],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        with process:
            done = transfer_until_killed(process, int(process.stdout.readline()), turn)
        with KVStore(path) as store:
            assert sum(int(value) for value in store.values(b"account:", b"account;")) == 1000
            assert int(store.get(b"done", b"0")) >= done > 0
            store.check()


def transfer_until_killed(process: subprocess.Popen[str], port: int, turn: int) -> int:
    """Transfer until the connection is gone; return how many transfers were acknowledged."""
    client = client_of(port, retry=None)
    done = [0]

    def work() -> None:
        with suppress(redis.ConnectionError):
            for number in range(100_000):
                pipe = client.pipeline()
                pipe.decrby(f"account:{number % 10}", number % 7)
                pipe.incrby(f"account:{(number * 3 + 1) % 10}", number % 7)
                pipe.incr("done")
                done[0] = pipe.execute()[-1]

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.15 + 0.1 * turn)
    process.send_signal(signal.SIGKILL)
    thread.join()
    client.close()
    return done[0]


def test_a_copy_of_the_file_at_any_moment_has_whole_transactions(tmp_path: Path) -> None:
    """What a killed process leaves is what its file has: a copy shows no half transaction."""
    with KVStore(tmp_path / "a.kv", "process") as store:
        direct = Direct(store)
        for number in range(5):
            direct.run("multi", f"set a {number}", f"set b {number}", "exec")
            copy_as_crashed(tmp_path / "a.kv", tmp_path / "copy.kv")
            with KVStore(tmp_path / "copy.kv") as copy:
                assert copy[b"a"] == copy[b"b"] == b"%d" % number


def test_a_closed_store_is_an_error_of_exec(tmp_path: Path) -> None:
    store = KVStore(tmp_path / "a.kv", "process")
    direct = Direct(store)
    direct.run("multi", "set a 1")
    store.close()
    reply = direct("exec")
    assert reply.startswith("-EXECABORT")
    assert "closed" in reply
    with KVStore(tmp_path / "a.kv") as again:
        assert not again
