"""Random requests to the store's server and to a real Redis; their replies have to be the same.

    python tests/kvstore_redis_load.py --requests 50000 --protocol 3 --seed 1

`make redis` runs it; redis-server 7.0 has to be installed. Three connections each take turns, so
that MULTI and WATCH meet changes of others. What differs on purpose is not sent, or not compared:
encodings that depend on how a value came about, digits that long double loses, the order of KEYS.
"""

from __future__ import annotations

import argparse
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis_world import read_reply

from pmemheap.kvstore.resp import encode_request
from pmemheap.kvstore.server import Server
from pmemheap.kvstore.store import KVStore

CONNECTIONS = 3
KEYS = ["a", "b", "c", "dd", "n1", "n2", "f"]
VALUES = ["", "x", "10", "-5", "3.5", "1e3", "hello world", "9223372036854775807", " 1", "01", "+3"]
NUMBERS = ["0", "1", "-1", "2", "5", "-3", "10", "100", str(1 << 40), str(-(1 << 63)), "x", "1.5"]
TIMES = ["100", "1000", "100000", "50", "0", "-1", "x"]
MOMENTS = ["4000000000", "4000000001", "1", "5000000000"]
FLOATS = ["1", "-2.5", "1e3", "x", "", ".5", "5.", "3.0", "0.25"]
CONDITIONS = ["", "NX", "XX", "GT", "LT", "nx gt", "GT LT", "XX GT", "FOO"]
RELEASE = (
    'if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) '
    "else return 0 end"
)
WORDS: dict[str, list[str]] = {
    "KEY": KEYS, "VALUE": VALUES, "NUMBER": NUMBERS, "TIME": TIMES, "AT": MOMENTS,
    "FLOAT": FLOATS, "IF": CONDITIONS, "OFFSET": ["0", "1", "5", "30", "-1"], "LUA": [RELEASE],
    "LCS": ["", "LEN", "IDX", "IDX WITHMATCHLEN", "IDX MINMATCHLEN 2", "LEN IDX", "FOO"],
    "COPY": ["", "REPLACE", "DB 0", "DB x", "FOO"], "GLOB": ["*", "n?", "[ab]*", "zz*"],
    "SET": ["", "NX", "XX", "GET", "KEEPTTL", "EX 100", "PX 100000", "EXAT 4000000000", "NX GET",
            "XX EX 50", "EX 0", "EX x", "EX 1 PX 1", "KEEPTTL EX 5", "NX XX", "FOO", "EXAT 1"],
    "GETEX": ["", "PERSIST", "EX 100", "PX 100000", "EXAT 4000000000", "EX", "PERSIST EX 5", "NX",
              "EX 0"],
}  # fmt: skip
REQUESTS = (
    """
GET KEY|SET KEY VALUE|SET KEY VALUE SET|SETNX KEY VALUE|SETEX KEY TIME VALUE|GETSET KEY VALUE
PSETEX KEY 100000 VALUE|GETDEL KEY|GETEX KEY GETEX|MGET KEY KEY|MSET KEY VALUE KEY VALUE
MSETNX KEY VALUE KEY VALUE|MSET KEY VALUE KEY|MSETNX KEY VALUE KEY|APPEND KEY VALUE|STRLEN KEY
GETRANGE KEY NUMBER NUMBER|SUBSTR KEY NUMBER NUMBER|SETRANGE KEY OFFSET VALUE|INCR KEY|DECR KEY
INCRBY KEY NUMBER|DECRBY KEY NUMBER|INCRBYFLOAT fl FLOAT|DEL KEY KEY|UNLINK KEY|EXISTS KEY KEY
TOUCH KEY KEY|TYPE KEY|KEYS GLOB|EXPIRE KEY TIME IF|PEXPIRE KEY 100000 IF|EXPIREAT KEY AT IF
PEXPIREAT KEY 4000000000123|TTL KEY|EXPIRETIME KEY|PERSIST KEY|RENAME KEY KEY|RENAMENX KEY KEY
COPY KEY KEY COPY|MOVE KEY 0|MOVE KEY 99|OBJECT FREQ KEY|OBJECT FOO KEY|OBJECT|LCS KEY KEY LCS
MULTI|EXEC|EXEC|DISCARD|WATCH KEY|WATCH KEY KEY|UNWATCH|PING|ECHO VALUE|SELECT 0|SELECT x
NOPE KEY|GET|CLIENT GETNAME|CLIENT SETNAME n1|CLIENT FOO|CLIENT NO-EVICT on|CLIENT NO-EVICT x
COMMAND GETKEYS MSET a 1 b 2|COMMAND GETKEYS EVAL x 2 k1 k2 z|COMMAND GETKEYS SETNX KEY|SAVE
COMMAND GETKEYSANDFLAGS COPY a b|COMMAND GETKEYSANDFLAGS SET a b SET
AUTH x|AUTH default x|AUTH joe x|WAIT 0 0|ROLE|SCRIPT EXISTS aa|EVALSHA aa 0|EVAL LUA 1 KEY VALUE
HELLO x|ACL WHOAMI|MODULE LIST|CLIENT KILL TYPE x|CLIENT KILL TYPE pubsub
CLIENT KILL ID 999999|CLIENT KILL ID 0|CLIENT UNBLOCK 999999|CLIENT UNBLOCK x|SWAPDB x 0|AUTH a b c
SCRIPT FLUSH x|FLUSHALL a b|EXPIRE KEY -9223372036854775808|CLIENT GETREDIR|DBSIZE|SWAPDB 0 0
FLUSHALL FOO
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


def request(rng: random.Random) -> list[str]:
    """Return one that has words in place of what stands in capitals for them."""
    name, *parts = rng.choice(REQUESTS).split(" ")
    found = [name if rng.random() < 0.8 else name.lower()]
    for part in parts:
        if part not in WORDS:
            found.append(part)
            continue
        word = rng.choice(WORDS[part])
        found += word.split() if part in {"IF", "LCS", "COPY", "SET", "GETEX"} else [word]
    return found


class Connection:
    """A connection to either server."""

    def __init__(self, made: socket.socket) -> None:
        made.settimeout(20)
        self._socket = made
        self._stream = made.makefile("rb")

    def __call__(self, words: list[str]) -> Any:
        self._socket.sendall(encode_request(*(word.encode() for word in words)))
        return read_reply(self._stream)


def alike(one: Any, other: Any) -> bool:
    """Tell whether two replies say the same: names in any order, seconds that may have passed."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        in_order = all(map(alike, one, other))
        return in_order or sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, int) and isinstance(other, int) and one > 20:
        return abs(one - other) <= 1
    return bool(one == other)


def compare(pairs: list[tuple[Connection, Connection]], count: int, rng: random.Random) -> int:
    different = 0
    for number in range(count):
        theirs, ours = rng.choice(pairs)
        words = request(rng)
        expected, found = theirs(words), ours(words)
        if not alike(expected, found):
            different += 1
            print(f"{number}: {words}\n  redis: {expected}\n  ours:  {found}")  # noqa: T201
    return different


def compare_told(theirs: Connection, ours: Connection) -> int:
    """Compare what COMMAND tells of each command that both have; return how many differ."""
    expected = {found[0]: told(found) for found in theirs(["COMMAND"])}
    different = 0
    for found in map(told, ours(["COMMAND"])):
        if found != expected.get(found[0]):
            different += 1
            print(f"COMMAND\n  redis: {expected.get(found[0])}\n  ours:  {found}")  # noqa: T201
    return different


def told(found: list[Any]) -> list[Any]:
    """Return what COMMAND tells of one, without hints, notes, and subcommands that may be more."""
    name, arity, flags, first, last, step, groups, _, specs, _ = found
    parts = [
        spec if isinstance(spec, dict) else dict(zip(spec[::2], spec[1::2], strict=True))
        for spec in specs
    ]
    kept = [(sorted(part[b"flags"]), part[b"begin_search"], part[b"find_keys"]) for part in parts]
    return [name, arity, sorted(flags), first, last, step, sorted(groups), kept]


def redis_server(home: str) -> tuple[subprocess.Popen[bytes], Callable[[], socket.socket]]:
    """Start a Redis with nothing in it; return it, and what connects to it."""
    path = f"{home}/redis.sock"
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", home],
        stdout=subprocess.DEVNULL,
    )
    while not Path(path).exists():
        time.sleep(0.05)

    def connect() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(path)
        return made

    return process, connect


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--protocol", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as home,
        KVStore(f"{home}/a.kv", "process") as store,
        Server(store) as server,
    ):
        process, connect = redis_server(home)
        try:
            pairs = [
                (Connection(connect()),
                 Connection(socket.create_connection(("127.0.0.1", server.port))))
                for _ in range(CONNECTIONS)
            ]  # fmt: skip
            for pair in pairs:
                for one in pair:
                    one(["HELLO", str(options.protocol)])
            different = compare_told(*pairs[0])
            different += compare(pairs, options.requests, random.Random(options.seed))
        finally:
            process.terminate()
            process.wait()
        store.check()
    print(f"{options.requests} requests, {different} different replies")  # noqa: T201
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
